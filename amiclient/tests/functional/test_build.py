# SPDX-License-Identifier: Apache-2.0

"""``openstack ami build``, and uploads of what is no filesystem yet."""

import os

from amiclient.tests.disks import archives
from amiclient.tests.disks import triple
from amiclient.tests.functional import base
from amiclient.tests.oracle import exttree

COLUMNS = ['output', 'size', 'files', 'filesystem', 'uuid']


class TestBuild(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.source = archives.archive(
            self.directory / 'export.tar',
            [
                archives.member('.dockerenv'),
                (
                    archives.member('etc/os-release'),
                    b'ID=debian\nVERSION_ID=12\n',
                ),
                *archives.plain_members(),
            ],
        )

    def test_build(self) -> None:
        output = self.directory / 'root.img'
        built = self.openstack_json(
            'ami', 'build', self.source, '--output', output, '--label', 'it'
        )
        self.assertEqual(COLUMNS, list(built))
        self.assertEqual(output.stat().st_size, built['size'])
        self.assertEqual('ext4', built['filesystem'])
        found = exttree.read_tree(output)
        # Without lost+found and the root directory, and two names are one.
        self.assertEqual(len(found) - 3, built['files'])

    def test_refused(self) -> None:
        output = self.directory / 'root.img'
        data = self.source.read_bytes()
        self.source.write_bytes(data[: len(data) // 2])
        finished = self.run_openstack(
            'ami', 'build', self.source, '--output', output
        )
        self.assertEqual((1, ''), (finished.status, finished.stdout))
        self.assertIn('cut short', finished.stderr)
        self.assertEqual(['export.tar'], os.listdir(self.directory))

    def test_upload(self) -> None:
        kernel = triple.kernel(self.directory)
        for source in (self.source, self.unpacked()):
            done = self.openstack_json(
                'ami',
                'upload',
                source,
                '--name',
                'export',
                '--kernel',
                kernel,
                '--no-ramdisk',
                '--headroom',
                '0',
                stderr=None,
            )
            self.assertEqual('active', done['status'])
            record = self.openstack_json('image', 'show', done['id'])
            self.assertEqual('debian', record['properties'].get('os_distro'))

    def unpacked(self):
        directory = self.directory / 'system'
        (directory / 'etc').mkdir(parents=True)
        (directory / 'etc' / 'os-release').write_text('ID=debian\n')
        return directory
