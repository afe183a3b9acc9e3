# SPDX-License-Identifier: Apache-2.0

"""What ``ami inspect`` tells of kernels that lie beside a root filesystem."""

import pathlib
import tarfile

from amiclient.osc import columns
from amiclient.rootfs import extract
from amiclient.rootfs import inspect
from amiclient.source import resolve
from amiclient.tests import base
from amiclient.tests.unit.rootfs import checks
from amiclient.tests.unit.rootfs import images
from amiclient.tests.unit.rootfs import samples

_RELEASE = '6.6.1-virt'


class TestKernelsBeside(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.work = self.tmp()

    def uec(
        self, files: images.Files, kernel: bytes | None = None
    ) -> pathlib.Path:
        """Make a UEC tarball."""
        image = images.image(self.directory, files, name='small.img')
        path = self.directory / 'small.tar.gz'
        beside = {
            'small-vmlinuz': kernel or samples.bzimage(
                release=_RELEASE.encode() + b' x\0'
            ),
            'small-initrd': checks.ramdisk(checks.DRIVERS),
        }  # fmt: skip
        with tarfile.open(path, 'w:gz') as archive:
            archive.add(image, image.name)
            for name, data in beside.items():
                (self.directory / name).write_bytes(data)
                archive.add(self.directory / name, name)
        return path

    def inspect(self, path: pathlib.Path) -> tuple[inspect.Inspected, str]:
        choice = resolve.Choice(work_directory=self.work)
        with resolve.opened(path, choice) as source:
            found = inspect.inspect(source, path)
        row = dict(zip(*columns.one(columns.INSPECTED, found), strict=True))
        self.assertIsInstance(row['kernels'], columns.Kernels)
        return found, row['kernels'].human_readable()

    def test_of_a_blank_tarball(self) -> None:
        """As CirrOS ships it."""
        found, text = self.inspect(self.uec({}))
        self.assertEqual(
            f'{_RELEASE}: small-vmlinuz, small-initrd (of the tarball)', text
        )
        self.assertEqual('tarball', found.kernels[0].source)
        # It has no programs that would tell.
        self.assertEqual('x86_64', found.architecture)

    def test_before_those_inside(self) -> None:
        inside = {'boot/vmlinuz-6.7.0': samples.bzimage(release=b'6.7.0 x\0')}
        found, text = self.inspect(self.uec(inside))
        self.assertEqual(
            ['tarball', 'boot'], [each.source for each in found.kernels]
        )
        self.assertIn('\n6.7.0: /boot/vmlinuz-6.7.0, no ramdisk', text)

    def test_of_a_manifest(self) -> None:
        path = self.uec({'etc/os-release': b'ID=x\n'})
        with resolve.opened(path) as source:
            done = extract.extract(source, path, self.directory / 'out')
        _, text = self.inspect(done.directory)
        self.assertEqual(
            f'{_RELEASE}: small-vmlinuz, small-initrd (of the manifest)', text
        )

    def test_that_is_none(self) -> None:
        """It is for whoever uses it to say so."""
        _, text = self.inspect(self.uec({}, b'nothing' * 1000))
        self.assertIn('small-vmlinuz: small-vmlinuz, small-initrd', text)
