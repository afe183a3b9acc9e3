# SPDX-License-Identifier: Apache-2.0


import pathlib

import fixtures

from amiclient import errors
from amiclient import locks
from amiclient.rootfs import boot_extract
from amiclient.source import bundle
from amiclient.tests import base
from amiclient.tests.unit.rootfs import images
from amiclient.tests.unit.rootfs import samples

_VERSION = '6.1.0-13-amd64'
_FILES: images.Files = {
    f'boot/vmlinuz-{_VERSION}': samples.bzimage(),
    f'boot/initrd.img-{_VERSION}': samples.initramfs(),
}


class TestCompletion(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.work = self.tmp()

    def source(self, files: images.Files = _FILES, **rest) -> bundle.Source:
        return bundle.Source(root=images.image(self.tmp(), files, **rest))

    def complete(self, source: bundle.Source, **wanted):
        """Tell what is added, by noun: its name; and what is said of it."""
        with boot_extract.completed(
            source,
            boot_extract.BootSelection(**wanted),
            name=pathlib.Path('system.img'),
            work_directory=self.work,
        ) as complete:
            names = [
                path and path.name
                for path in (complete.kernel, complete.ramdisk)
            ]
            for path in (complete.kernel, complete.ramdisk):
                self.assertTrue(path is None or path.is_file())
        self.assertEqual([], list(self.work.iterdir()))
        return (*names, ' '.join(complete.notes))

    def test_both(self) -> None:
        self.assertEqual(
            (f'vmlinuz-{_VERSION}', f'initrd.img-{_VERSION}',
             f'system.img: kernel {_VERSION} was found in it'),
            self.complete(self.source()),
        )  # fmt: skip

    def test_what_was_seen(self) -> None:
        source = self.source()
        with boot_extract.completed(
            source,
            boot_extract.BootSelection(),
            name=pathlib.Path('system.img'),
            work_directory=self.work,
        ) as complete:
            state = locks.state(source.root)
            self.assertEqual({source.root: state}, complete.seen)

    def test_no_ramdisk_is_wanted(self) -> None:
        _, ramdisk, notes = self.complete(self.source(), ramdisk=False)
        self.assertIsNone(ramdisk)
        self.assertNotIn('no ramdisk', notes)

    def test_there_is_no_ramdisk(self) -> None:
        source = self.source({f'boot/vmlinuz-{_VERSION}': samples.bzimage()})
        _, ramdisk, notes = self.complete(source)
        self.assertIsNone(ramdisk)
        self.assertIn('there is no ramdisk', notes)

    def test_no_kernel_is_wanted(self) -> None:
        self.assertEqual(
            (None, None, ''), self.complete(self.source(), kernel=False)
        )

    def test_what_comes_along_is_taken(self) -> None:
        path = self.tmp() / 'mine'
        path.touch()
        source = bundle.Source(root=self.source().root, kernel=path)
        self.assertEqual(('mine', None, ''), self.complete(source))
        # Unless another one is asked for.
        kernel, *_ = self.complete(source, version=_VERSION)
        self.assertEqual(f'vmlinuz-{_VERSION}', kernel)

    def test_none(self) -> None:
        source = self.source({'etc': None})
        error = self.assertRaises(
            errors.SourceError, self.complete, source, hint='do this'
        )
        self.assertEqual(
            'system.img: no kernel was found in it; do this', str(error)
        )
        self.assertEqual(
            (None, None, ''), self.complete(source, required=False)
        )

    def test_not_unmounted(self) -> None:
        source = self.source(edit=('feature needs_recovery',))
        self.assertIn('not unmounted', self.complete(source)[2])

    def test_no_filesystem(self) -> None:
        path = self.tmp() / 'x'
        path.write_bytes(b'text\n' * 1000)
        error = self.assertRaises(
            errors.SourceError, self.complete, bundle.Source(root=path)
        )
        self.assertIn('only ext2, ext3 and ext4', str(error))

    def test_no_room(self) -> None:
        self.useFixture(
            fixtures.MockPatch('amiclient.scratch.room', return_value=1000)
        )
        self.assertRaises(errors.NoSpaceError, self.complete, self.source())
        self.assertEqual([], list(self.work.iterdir()))
