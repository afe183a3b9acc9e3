# SPDX-License-Identifier: Apache-2.0

"""Quotas that Keystone holds and Glance enforces: a cloud of its own."""

from amiclient.tests.cloud import accounts as cloud_accounts
from amiclient.tests.cloud import cloud
from amiclient.tests.disks import triple
from amiclient.tests.functional import base

#: MiB for all images, and images.
LIMITS = (
    ('image_size_total', 8),
    ('image_stage_total', 8),
    ('image_count_total', 4),
    ('image_count_uploading', 2),
)


class TestQuota(base.TestCase):
    options = cloud.Options(limits=LIMITS)

    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.kernel = triple.kernel(self.directory)
        self.ramdisk = triple.ramdisk(self.directory)

    def upload(self, root, *words, **options) -> str:
        return self.openstack(
            *('ami', 'upload', root, '--headroom', '1M'),
            *('--kernel', self.kernel, '--ramdisk', self.ramdisk),
            *words,
            **options,
        )

    def refused(self, root) -> str:
        finished = self.run_openstack(
            *('ami', 'upload', root, '--headroom', '1M'),
            *('--kernel', self.kernel, '--ramdisk', self.ramdisk),
        )
        self.assertEqual(1, finished.status, finished)
        self.assertEqual(1, finished.stderr.count('\n'), finished.stderr)
        return finished.stderr

    def images(self) -> int:
        return len(self.openstack_json('image', 'list'))

    def test_a_cloud_that_is_started_again(self) -> None:
        """As it is if somebody else has taken a port of its services."""
        cloud_accounts.provide(
            self.cloud.auth('admin'), self.cloud.image_urls, {}, dict(LIMITS)
        )

    def test_refused_before_anything_is_created(self) -> None:
        # One cloud for all of it: to start it takes longer than this.
        large = triple.root(
            self.directory, size=32 << 20, data=10 << 20, name='large.img'
        )
        text = self.refused(large)
        self.assertIn('the quota image_size_total is 8 MiB: 0 are', text)
        self.assertIn('ask for more quota', text)
        self.assertEqual(0, self.images())
        small = triple.root(self.directory, name='small.img', data=1 << 20)
        self.upload(small)
        self.assertEqual(3, self.images())
        # Nothing new is needed, so nothing is too much.
        self.upload(small)
        self.assertEqual(3, self.images())
        # The AMI alone is one more; with a kernel of its own it is two.
        self.kernel.write_bytes(self.kernel.read_bytes() + bytes(512))
        text = self.refused(small)
        self.assertIn('the quota image_count_total is 4 images: 3 are', text)
        self.assertEqual(3, self.images())
