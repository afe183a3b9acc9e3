# SPDX-License-Identifier: Apache-2.0

import lzma
import os
import pathlib
import subprocess

from amiclient import errors
from amiclient.rootfs import identify
from amiclient.tests import base
from amiclient.tests.unit.rootfs import samples
from amiclient.tests.unit.source import test_probe
from amiclient.tests.unit.source import test_streams


class TestRamdisks(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()

    def file(self, content: bytes) -> pathlib.Path:
        path = self.directory / 'initrd.img'
        path.write_bytes(content)
        return path

    def ramdisk(self, content: bytes) -> tuple[str, bool]:
        path = self.file(content)
        found = identify.identify_ramdisk(path)
        self.assertEqual((path, len(content)), (found.path, found.size))
        return found.compression, found.microcode

    def refused(self, content: bytes) -> str:
        return self.refused_path(self.file(content))

    def refused_path(self, path: pathlib.Path) -> str:
        error = self.assertRaises(
            errors.SourceError, identify.identify_ramdisk, path
        )
        text = str(error)
        self.assertTrue(text.startswith(f'{path}: '), text)
        self.assertNotIn('\n', text)
        return text.removeprefix(f'{path}: ')

    def test_installed_ramdisks(self) -> None:
        for path in samples.installed('initrd.img'):
            found = identify.identify_ramdisk(path)
            self.assertEqual(os.stat(path).st_size, found.size)

    def test_every_compression(self) -> None:
        # More than a block of each, most of it noise.
        content = samples.initramfs(self.random.randbytes(300_000))
        self.assertEqual(('none', False), self.ramdisk(content))
        for kind in test_streams.KINDS:
            packed = test_streams.pack(kind, content)
            if kind in ('lz4', 'lz4-7'):
                # Frames, which Linux does not know.
                self.assertIn('with lz4 -l', self.refused(packed))
                continue
            name = kind.partition('-')[0]
            self.assertEqual((name, False), self.ramdisk(packed))
            for early in (
                samples.microcode(),
                samples.microcode() + bytes(4096),
                samples.microcode() + samples.microcode(),
                samples.microcode() + samples.initramfs(),
            ):
                self.assertEqual((name, True), self.ramdisk(early + packed))

    def test_checks_of_xz(self) -> None:
        for early in (b'', samples.microcode()):
            for check, taken in (
                (lzma.CHECK_NONE, True),
                (lzma.CHECK_CRC32, True),
                (lzma.CHECK_CRC64, False),
                (lzma.CHECK_SHA256, False),
            ):
                packed = early + lzma.compress(
                    samples.initramfs(), check=check
                )
                if taken:
                    self.assertEqual(('xz', bool(early)), self.ramdisk(packed))
                else:
                    self.assertIn('with xz --check', self.refused(packed))

    def test_plain_archives(self) -> None:
        content = samples.initramfs()
        self.assertEqual(
            ('none', True), self.ramdisk(samples.microcode() + content)
        )
        self.assertEqual(('none', True), self.ramdisk(samples.microcode()))
        crc = samples.cpio(['init.sh'], magic=b'070702')
        self.assertEqual(('none', False), self.ramdisk(crc))
        # Padded as cpio does, and followed by something.
        self.assertEqual(('none', False), self.ramdisk(content + bytes(999)))
        garbage = self.random.randbytes(999)
        self.assertEqual(('none', False), self.ramdisk(content + garbage))

    def test_archive_by_cpio(self) -> None:
        """What the real program writes, file contents and all."""
        if not os.path.exists('/usr/bin/cpio'):
            self.assertFalse(os.path.exists('/bin/cpio'))
            return
        for name in ('init', 'a', 'bb', 'ccc'):
            (self.directory / name).write_bytes(
                self.random.randbytes(self.random.randrange(9999))
            )
        names = b'.\ninit\na\nbb\nccc\n'
        for how, taken in (
            ('newc', True), ('crc', True), ('odc', False), ('bin', False),
        ):  # fmt: skip
            content = subprocess.run(
                ['cpio', '--create', '--quiet', f'--format={how}'],
                input=names, cwd=self.directory, capture_output=True,
                check=True,
            ).stdout  # fmt: skip
            for kind in ('none', 'gzip', 'zstd'):
                packed = content
                if kind != 'none':
                    packed = test_streams.pack(kind, content)
                if taken:
                    self.assertEqual((kind, False), self.ramdisk(packed))
                else:
                    self.assertIn(
                        'an old format, which Linux does not take',
                        self.refused(packed),
                    )

    def test_cut_short(self) -> None:
        content = samples.initramfs(self.random.randbytes(20_000))
        for size in (100, 5000, 20_000, len(content) - 8):
            self.assertIn(
                'a cpio archive that was cut short',
                self.refused(content[:size]),
            )
        packed = test_streams.pack('gzip', content)
        # Only the head is looked at.
        self.assertEqual('gzip', self.ramdisk(packed[:-9000])[0])
        self.assertIn('not an initramfs', self.refused(packed[:12]))

    def test_damaged(self) -> None:
        content = bytearray(samples.initramfs())
        content[54:62] = b'zzzzzzzz'
        self.assertEqual(
            'a damaged cpio archive', self.refused(bytes(content))
        )
        content = bytearray(samples.initramfs())
        content[94:102] = b'ffffffff'
        self.assertEqual(
            'a damaged cpio archive', self.refused(bytes(content))
        )
        self.assertIn(
            'damaged gzip data', self.refused(b'\x1f\x8b\x08' + b'\xff' * 99)
        )

    def test_early_files_and_nothing_to_boot(self) -> None:
        for rest, phrase in (
            (self.random.randbytes(5000), 'unrecognised data'),
            (samples.bzimage(), 'a Linux kernel (bzImage)'),
            (test_streams.pack('gzip', b'hi'), 'a gzip-compressed file'),
        ):
            self.assertEqual(
                f'early files that are followed by {phrase}, not by an '
                f'initramfs',
                self.refused(samples.microcode() + rest),
            )

    def test_kernel_given_as_ramdisk(self) -> None:
        for name, content in (
            ('bzImage', samples.bzimage()),
            ('ARM64 Image', samples.arm64()),
            ('vmlinux', samples.elf(21)),
            ('gzip-compressed ARM64 Image',
             test_streams.pack('gzip', samples.arm64())),
        ):  # fmt: skip
            self.assertEqual(
                f'a Linux kernel ({name}) was given as ramdisk; give it '
                'with --kernel, or use `openstack ami kernel upload`',
                self.refused(content),
            )

    def test_something_else(self) -> None:
        path = self.directory / 'initrd.img'
        test_probe.mkfs(path, '-t', 'ext4')
        self.assertEqual(
            'an ext4 filesystem, not an initramfs', self.refused_path(path)
        )
        packed = test_streams.pack('gzip', path.read_bytes())
        self.assertEqual(
            'an ext4 filesystem compressed with gzip, not an initramfs',
            self.refused(packed),
        )
        for content, phrase in (
            (b'', 'an empty file'),
            (b'<html>404 not found</html>', 'an HTML page'),
            (bytes(9999), 'nothing but zeros'),
            (b'07070', 'a text file'),
            (self.random.randbytes(9999), 'unrecognised data'),
            (
                test_streams.pack('xz', b'hi'),
                'a text file compressed with xz',
            ),
        ):
            self.assertEqual(
                f'{phrase}, not an initramfs', self.refused(content)
            )
        self.assertIn('lzop', self.refused(b'\x89LZO\x00\r\n\x1a\n' * 9))

    def test_no_file(self) -> None:
        self.assertEqual(
            'a directory, not an initramfs', self.refused_path(self.directory)
        )
        self.assertEqual(
            'no such file', self.refused_path(self.directory / 'no')
        )
        fifo = self.directory / 'fifo'
        os.mkfifo(fifo)
        self.assertEqual('a FIFO, not an initramfs', self.refused_path(fifo))

    def test_headers_full_of_noise(self) -> None:
        """Whatever is in them: an answer or one line, never a traceback."""
        content = samples.microcode() + samples.initramfs()
        for _ in range(400):
            noise = bytearray(content)
            for _ in range(8):
                place = self.random.randrange(6, len(content))
                noise[place] = self.random.choice(b'0123456789abcdef\0z-')
            path = self.file(bytes(noise))
            try:
                identify.identify_ramdisk(path)
            except errors.SourceError as error:
                self.assertNotIn('\n', str(error))
