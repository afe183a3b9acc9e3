# SPDX-License-Identifier: Apache-2.0

import os
import pathlib
import subprocess

from amiclient import errors
from amiclient.rootfs import identify
from amiclient.tests import base
from amiclient.tests.unit.rootfs import samples
from amiclient.tests.unit.source import test_streams


class TestKernels(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()

    def file(self, content: bytes) -> pathlib.Path:
        path = self.directory / 'vmlinuz'
        path.write_bytes(content)
        return path

    def kernel(self, content: bytes) -> tuple[str, str | None, str | None]:
        path = self.file(content)
        found = identify.identify_kernel(path)
        self.assertEqual(path, found.path)
        self.assertEqual(len(content), found.size)
        return found.format, found.architecture, found.release

    def refused(self, content: bytes) -> str:
        return self.refused_path(self.file(content))

    def refused_path(self, path: pathlib.Path) -> str:
        error = self.assertRaises(
            errors.SourceError, identify.identify_kernel, path
        )
        text = str(error)
        self.assertTrue(text.startswith(f'{path}: '), text)
        self.assertNotIn('\n', text)
        return text.removeprefix(f'{path}: ')

    def test_installed_kernels(self) -> None:
        """Whatever is in /boot is what its name says."""
        for path in samples.installed('vmlinuz'):
            found = identify.identify_kernel(path)
            self.assertEqual(path.name.removeprefix('vmlinuz-'), found.release)
            self.assertEqual(os.stat(path).st_size, found.size)
            self.assertIsNotNone(found.architecture)

    def test_bzimage(self) -> None:
        self.assertEqual(
            ('bzImage', 'x86_64', '6.1.0-13-amd64'),
            self.kernel(samples.bzimage()),
        )
        self.assertEqual(
            ('bzImage', 'i686', None),
            self.kernel(samples.bzimage(wide=False, release=b'iPXE 1.21\0')),
        )

    def test_hostile_release(self) -> None:
        """Nothing of it gets out but what a release may hold."""
        kernel = self.kernel(samples.bzimage(release=b'6.1"\n;rm\0'))
        self.assertEqual('6.1', kernel[2])

    def test_bzimage_with_signature(self) -> None:
        """What is appended for Secure Boot does no harm."""
        self.assertEqual(
            'bzImage', self.kernel(samples.bzimage() + bytes(1500))[0]
        )

    def test_bzimage_cut_short(self) -> None:
        image = samples.bzimage()
        self.assertEqual(
            f'a Linux kernel (bzImage) that was cut short: 3000 of '
            f'{len(image) - 16} bytes; get a whole copy of it',
            self.refused(image[:3000]),
        )
        for size in (0x206, 0x210, 0x236):
            self.assertIn('not a Linux kernel', self.refused(image[:size]))

    def test_efi_zboot(self) -> None:
        for machine, architecture in (
            (0xAA64, 'aarch64'), (0x5064, 'riscv64'), (0x6264, 'loongarch64'),
        ):  # fmt: skip
            payload = test_streams.pack('gzip', samples.arm64())
            image = samples.zboot(machine, payload, b'gzip')
            self.assertEqual(
                ('EFI zboot', architecture, samples.RELEASE),
                self.kernel(image),
            )
            self.assertIn('cut short', self.refused(image[:-600]))
        payload = test_streams.pack('zstd', samples.arm64())
        self.assertEqual(
            ('EFI zboot', 'aarch64', None),
            self.kernel(samples.zboot(0xAA64, payload, b'zstd22')),
        )

    def test_what_hosts_can_start(self) -> None:
        packed = test_streams.pack('zstd', samples.arm64())
        path = self.file(samples.zboot(0xAA64, packed, b'zstd22'))
        error = self.assertRaises(
            errors.SourceError, identify.startable_kernel, path
        )
        self.assertIn('(EFI zboot with zstd)', str(error))
        # The command in the hint does it.
        _, _, command = str(error).partition('; unpack it: ')
        subprocess.run(command, shell=True, check=True, cwd=self.directory)
        self.assertEqual(
            samples.arm64(), (self.directory / 'Image').read_bytes()
        )
        found = identify.startable_kernel(self.directory / 'Image')
        self.assertEqual('ARM64 Image', found.format)

    def test_images(self) -> None:
        for name, architecture, content in (
            ('ARM64 Image', 'aarch64', samples.arm64()),
            ('RISC-V Image', 'riscv64', samples.riscv()),
            ('ARM zImage', 'armv7l',
             samples.flat(0x24, b'\x18\x28\x6f\x01')),
            ('s390x image', 's390x', samples.flat(0x10008, b'S390EP')),
            ('vmlinux', 'x86_64', samples.elf(62)),
            ('vmlinux', 'ppc64le', samples.elf(21)),
            ('vmlinux', 'ppc64le', samples.elf(21, kind=3)),
            ('vmlinux', 'ppc64', samples.elf(21, order='>')),
            ('vmlinux', 's390x', samples.elf(22, order='>')),
            ('vmlinux', 'i686', samples.elf(3, wide=False)),
            ('vmlinux', None, samples.elf(9999)),
        ):  # fmt: skip
            self.assertEqual(
                (name, architecture, samples.RELEASE), self.kernel(content)
            )

    def test_compressed_images(self) -> None:
        for kind in test_streams.KINDS:
            packed = test_streams.pack(kind, samples.arm64())
            name, architecture, release = self.kernel(packed)
            kind = kind.partition('-')[0]
            self.assertEqual(f'{kind}-compressed ARM64 Image', name)
            self.assertEqual('aarch64', architecture)
            if kind not in ('zstd', 'lz4'):
                self.assertEqual(samples.RELEASE, release)
        for content in (samples.elf(62), samples.elf(21)):
            packed = test_streams.pack('gzip', content)
            self.assertEqual('gzip-compressed vmlinux', self.kernel(packed)[0])

    def test_banner_across_pieces(self) -> None:
        """It is found wherever it lies."""
        start = len(samples.elf(62, content=b'')) - 100
        for place in range((1 << 20) - 70, (1 << 20) + 3, 9):
            content = bytes(place - start) + samples.BANNER
            self.assertEqual(
                samples.RELEASE,
                self.kernel(samples.elf(62, content=content))[2],
            )

    def test_powerpc_wrapper(self) -> None:
        content = b'\nzImage starting: loaded at 0x%p (sp: 0x%p)\n'
        self.assertEqual(
            ('vmlinux', 'ppc64le', None),
            self.kernel(samples.elf(21, content=content)),
        )

    def test_programs_are_no_kernels(self) -> None:
        for path in ('/bin/ls', '/bin/sh', '/bin/busybox'):
            if os.path.exists(path):
                self.assertIn('an ELF', self.refused_path(pathlib.Path(path)))
        for content in (
            # With an interpreter; static; an object file; a core dump.
            samples.elf(62, segments=[1, 3]),
            samples.elf(62, content=b'Linux version %s (%s)'),
            samples.elf(62, kind=1),
            samples.elf(62, kind=4),
            samples.elf(62)[:60],
        ):
            self.assertIn('not a Linux kernel', self.refused(content))
            packed = test_streams.pack('gzip', content)
            self.assertEqual(
                'a gzip-compressed file, not a Linux kernel',
                self.refused(packed),
            )

    def test_real_shared_library(self) -> None:
        libc = subprocess.run(
            ['ldd', '/bin/ls'], capture_output=True, check=True, text=True
        ).stdout
        path = next(word for word in libc.split() if word.startswith('/'))
        self.assertIn(
            'not a Linux kernel', self.refused_path(pathlib.Path(path))
        )

    def test_unified_kernel_image(self) -> None:
        image = samples.pe(0x8664, b'.text', b'.osrel', b'.linux', b'.initrd')
        self.assertEqual(
            'a unified kernel image, not a Linux kernel; give the kernel and '
            'ramdisk that it was made of',
            self.refused(bytes(image)),
        )
        image = samples.pe(0x8664, b'.text', b'.data')
        self.assertEqual(
            'an EFI or Windows program, not a Linux kernel',
            self.refused(bytes(image)),
        )

    def test_ramdisk_given_as_kernel(self) -> None:
        for content in (
            samples.initramfs(),
            test_streams.pack('gzip', samples.initramfs()),
            test_streams.pack('zstd', samples.initramfs()),
            samples.microcode() + test_streams.pack('xz', samples.initramfs()),
        ):
            self.assertEqual(
                'an initramfs was given as kernel; give it with '
                '--ramdisk, or use `openstack ami ramdisk upload`',
                self.refused(content),
            )

    def test_something_else(self) -> None:
        for content, phrase in (
            (b'', 'an empty file'),
            (b'<html>404 not found</html>', 'an HTML page'),
            (bytes(9999), 'nothing but zeros'),
            (self.random.randbytes(9999), 'unrecognised data'),
            (test_streams.pack('gzip', b'x'), 'a gzip-compressed file'),
            (b'\x1f\x8b\x08' + b'\xff' * 999, 'a gzip-compressed file'),
        ):
            self.assertEqual(
                f'{phrase}, not a Linux kernel', self.refused(content)
            )

    def test_no_file(self) -> None:
        self.assertEqual(
            'a directory, not a Linux kernel',
            self.refused_path(self.directory),
        )
        self.assertEqual(
            'no such file', self.refused_path(self.directory / 'no')
        )
        fifo = self.directory / 'fifo'
        os.mkfifo(fifo)
        self.assertEqual('a FIFO, not a Linux kernel', self.refused_path(fifo))
        self.assertEqual(
            'a character device, not a Linux kernel',
            self.refused_path(pathlib.Path('/dev/zero')),
        )

    def test_headers_full_of_noise(self) -> None:
        """Whatever is in them: an answer or one line, never a traceback."""
        for content in (
            samples.bzimage(), samples.elf(62), samples.arm64(),
            samples.elf(3, wide=False), bytes(samples.pe(0x8664, b'.linux')),
            samples.zboot(0xAA64, b'x' * 99, b'gzip'),
        ):  # fmt: skip
            for _ in range(150):
                noise = bytearray(content[:4096])
                for _ in range(12):
                    place = self.random.randrange(4, 0x268)
                    noise[place] = self.random.randrange(256)
                path = self.file(bytes(noise))
                try:
                    identify.identify_kernel(path)
                except errors.SourceError as error:
                    self.assertNotIn('\n', str(error))
