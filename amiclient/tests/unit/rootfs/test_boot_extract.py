# SPDX-License-Identifier: Apache-2.0


import functools
import gzip
import lzma
import pathlib
import subprocess

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


def zstd(data: bytes) -> bytes:
    argv = ['zstd', '-q', '-c']
    return subprocess.run(
        argv, input=data, check=True, capture_output=True
    ).stdout


class TestTaking(base.TestCase):
    """What is taken out is what hosts can start."""

    def taken(self, files: images.Files):
        """Tell the bytes of kernel and ramdisk, and what is said."""
        source = bundle.Source(root=images.image(self.tmp(), files))
        with boot_extract.completed(
            source,
            boot_extract.BootSelection(),
            name=pathlib.Path('system.img'),
        ) as complete:
            return (
                complete.kernel.read_bytes(),
                complete.ramdisk and complete.ramdisk.read_bytes(),
                ' '.join(complete.notes),
            )

    def entry(self, *ramdisks: bytes):
        lines = ['linux /k', 'version 6.1']
        files: dict[str, images.Content] = {'boot/k': samples.bzimage()}
        for number, ramdisk in enumerate(ramdisks):
            files[f'boot/{number}'] = ramdisk
            lines.append(f'initrd /{number}')
        files['boot/loader/entries/x.conf'] = '\n'.join(lines).encode()
        return self.taken(files)

    def test_ramdisk_of_several_files(self) -> None:
        ucode, plain = samples.microcode(), samples.initramfs()
        # Without the time, which may be another a moment later.
        still = functools.partial(gzip.compress, mtime=0)
        xz = functools.partial(lzma.compress, check=lzma.CHECK_CRC32)
        for pack in (still, xz, zstd):
            main = pack(plain)
            main += bytes(-len(main) % 4) + b'\0'
            _, ramdisk, notes = self.entry(ucode, main, pack(plain))
            self.assertEqual(ucode + main + pack(plain), ramdisk)
            self.assertIn('put together of /boot/0 + /boot/1 + /', notes)
            # Linux wants plain ones at a multiple of 4.
            _, ramdisk, _ = self.entry(ucode, main, plain)
            self.assertEqual(ucode + main + bytes(3) + plain, ramdisk)

    def test_a_part_that_is_missing(self) -> None:
        files: images.Files = {
            'boot/k': samples.bzimage(),
            'boot/i': samples.initramfs(),
            'boot/loader/entries/x.conf': b'linux /k\ninitrd /u /i\n',
        }
        _, ramdisk, notes = self.taken(files)
        self.assertEqual(samples.initramfs(), ramdisk)
        self.assertIn('loads /u for a ramdisk, which is not there', notes)

    def test_the_same_file_twice(self) -> None:
        ramdisk = samples.initramfs()
        files: images.Files = {
            'boot/k': samples.bzimage(),
            'boot/i': ramdisk,
            'boot/loader/entries/x.conf': b'linux /k\ninitrd /i /i $more\n',
        }
        self.assertEqual(ramdisk, self.taken(files)[1])

    def test_kernel_that_is_packed(self) -> None:
        # What is too small is not looked at.
        image = samples.arm64() + self.random.randbytes(4000)
        directory = 'usr/lib/modules/6.1.0-13-arm64/vmlinuz'
        for content in (
            *(
                samples.zboot(machine, pack(image), name)
                for machine in (0xAA64, 0x5064)
                for pack, name in (
                    (gzip.compress, b'gzip'), (zstd, b'zstd22'),
                    (lzma.compress, b'xzkern'),
                )
            ),
            zstd(image),
            lzma.compress(image),
        ):  # fmt: skip
            kernel, _, notes = self.taken({directory: content})
            self.assertEqual(image, kernel)
            self.assertIn('was unpacked', notes)
        # QEMU unpacks that one.
        packed = gzip.compress(image)
        kernel, _, notes = self.taken({directory: packed})
        self.assertEqual(packed, kernel)
        self.assertNotIn('unpacked', notes)

    def test_kernel_that_cannot_be_unpacked(self) -> None:
        for payload, why in (
            (b'what?' * 4000, 'cannot be used'),
            (zstd(samples.arm64())[:-40], 'cannot be used'),
            (zstd(b'text' * 10000), 'cannot be used'),
        ):
            content = samples.zboot(0xAA64, payload, b'zstd22')
            error = self.assertRaises(
                errors.SourceError, self.taken, {'boot/vmlinuz-6.1': content}
            )
            self.assertIn(why, str(error))


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
        self.assertIn('not an image with a root filesystem', str(error))

    def test_no_room(self) -> None:
        self.useFixture(
            fixtures.MockPatch('amiclient.scratch.room', return_value=1000)
        )
        self.assertRaises(errors.NoSpaceError, self.complete, self.source())
        self.assertEqual([], list(self.work.iterdir()))
