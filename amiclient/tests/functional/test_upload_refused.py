# SPDX-License-Identifier: Apache-2.0

"""Uploads that are refused: in one line, and before any effect."""

import fixtures
import yaml

from amiclient import process
from amiclient.tests.functional import upload


class TestRefused(upload.UploadCase):
    def test_swapped(self) -> None:
        text = self.refused(
            *('ami', 'upload', self.root),
            *('--kernel', self.ramdisk, '--ramdisk', self.kernel),
        )
        self.assertIn('initramfs', text)

    def test_no_filesystem(self) -> None:
        text = self.refused('ami', 'upload', self.kernel, *self.parts)
        self.assertIn('not an image with a root filesystem', text)

    def test_no_kernel_named(self) -> None:
        text = self.refused('ami', 'upload', self.root)
        self.assertIn('--no-kernel', text)
        text = self.refused(
            'ami', 'upload', self.root, '--kernel', self.kernel
        )
        self.assertIn('--no-ramdisk', text)
        text = self.refused(
            *('ami', 'upload', self.root, '--no-kernel'),
            *('--ramdisk', self.ramdisk),
        )
        self.assertIn('without a kernel; leave out --ramdisk', text)

    def test_no_such_image(self) -> None:
        text = self.refused(
            *('ami', 'upload', self.root),
            *('--kernel', 'nosuch', '--no-ramdisk'),
        )
        self.assertIn('neither a file here nor an image', text)

    def test_an_ambiguous_name(self) -> None:
        for _ in range(2):
            self.openstack(
                *('ami', 'kernel', 'upload', self.kernel),
                *('--name', 'linux', '--no-reuse'),
            )
        text = self.refused(
            'ami', 'upload', self.root, '--kernel', 'linux', '--no-ramdisk'
        )
        for image in self.images():
            self.assertIn(image, text)

    def test_what_only_an_operator_may(self) -> None:
        text = self.refused(
            'ami', 'upload', self.root, *self.parts, '--public'
        )
        self.assertIn('403', text)

    def test_no_such_store(self) -> None:
        text = self.refused(
            'ami', 'upload', self.root, *self.parts, '--store', 'nosuch'
        )
        self.assertIn('store', text)

    def test_a_damaged_filesystem(self) -> None:
        process.run(
            [
                *('debugfs', '-w', '-R'),
                *('copy_inode /data /etc/os-release', self.root),
            ],
            access=None,
        )
        text = self.refused('ami', 'upload', self.root, *self.parts)
        self.assertIn('--repair', text)
        self.upload('--repair')

    def test_what_cannot_be_mended(self) -> None:
        process.run(
            ['debugfs', '-w', '-f', '/dev/stdin', self.root],
            input=b'cd /etc\nmknod fstab p\n',
            access=None,
        )
        text = self.refused('ami', 'upload', self.root, *self.parts, '--fix')
        self.assertIn('/etc/fstab cannot be fixed: it is not a reg', text)
        output = self.directory / 'small.img'
        for words in (
            ('shrink', self.root, '--output', output),
            ('extract', self.root, '--directory', output),
        ):
            text = self.refused('ami', *words, '--fix')
            self.assertIn('leave out --fix', text)
            self.assertFalse(output.exists())

    def test_bad_usage(self) -> None:
        finished = self.run_openstack('ami', 'upload', '--headroom', 'much')
        self.assertEqual(2, finished.status)
        self.assertIn("'much'", finished.stderr)

    def test_a_cloud_that_is_not_there(self) -> None:
        auth = ('--os-auth-url', 'http://127.0.0.1:1/v3')
        finished = self.run_openstack(*auth, 'ami', 'list')
        self.assertEqual(1, finished.status)
        self.assertNotIn('Traceback', finished.stderr)

    def test_a_glance_that_is_not_there(self) -> None:
        clouds = yaml.safe_load(self.cloud.clouds_yaml.read_text())
        clouds['clouds']['demo']['image_endpoint_override'] = (
            'http://127.0.0.1:1'
        )
        path = self.directory / 'clouds.yaml'
        path.write_text(yaml.safe_dump(clouds))
        self.useFixture(
            fixtures.EnvironmentVariable('OS_CLIENT_CONFIG_FILE', str(path))
        )
        finished = self.run_openstack('ami', 'list')
        self.assertEqual(1, finished.status)
        self.assertEqual(1, finished.stderr.count('\n'), finished.stderr)
        self.assertIn('127.0.0.1:1', finished.stderr)
