# SPDX-License-Identifier: Apache-2.0

import os
import pathlib
import socket
import struct
import subprocess
import tarfile
from unittest import mock

from amiclient import errors
from amiclient.source import build
from amiclient.source import probe
from amiclient.source import resolve
from amiclient.source import uec
from amiclient.tests import base
from amiclient.tests.unit.rootfs import samples
from amiclient.tests.unit.source import test_streams

_MIB = 1024 * 1024


def mkfs(path: pathlib.Path, *options: str, size: int = 8 * _MIB) -> None:
    """Make an ext filesystem; what is in the file already stays."""
    with path.open('ab') as file:
        file.truncate(size)
    subprocess.run(
        ['/usr/sbin/mke2fs', '-q', '-F', *options, str(path)], check=True
    )


def mbr(start: int, sectors: int, kind: int = 0x83) -> bytes:
    """A master boot record with one partition."""
    entry = struct.pack('<B3xB3xII', 0x80, kind, start, sectors)
    return bytes(446) + entry + bytes(48) + b'\x55\xaa'


class TestDetect(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()

    def file(self, content: bytes, name: str = 'f') -> pathlib.Path:
        path = self.directory / name
        path.write_bytes(content)
        return path

    def refused(self, path: pathlib.Path) -> str:
        error = self.assertRaises(errors.SourceError, probe.open_root, path)
        self.assertNotIn('\n', str(error))
        return str(error)

    def put(self, *pieces: tuple[int, bytes], size: int = 256 * 1024) -> str:
        """Tell what is in a file with these bytes at these offsets."""
        image = bytearray(size)
        for offset, data in pieces:
            image[offset : offset + len(data)] = data
        return probe.identify(self.file(bytes(image)))

    def test_ext_filesystems(self) -> None:
        for kind in ('ext2', 'ext3', 'ext4'):
            path = self.directory / kind
            mkfs(path, '-t', kind)
            self.assertEqual(f'an {kind} filesystem', probe.identify(path))
            root = probe.open_root(path)
            self.assertEqual(kind, root.superblock.filesystem)
            self.assertEqual(8 * _MIB, root.size)
            self.assertEqual(path, root.path)
            self.assertFalse(root.is_device)

    def test_what_follows_a_filesystem_does_not_matter(self) -> None:
        path = self.directory / 'f'
        mkfs(path, '-t', 'ext4')
        with path.open('ab') as file:
            file.write(b'x' * 5000)
        self.assertEqual(8 * _MIB + 5000, probe.open_root(path).size)

    def test_old_boot_sector(self) -> None:
        """It does not make a partitioned disk of a filesystem."""
        path = self.directory / 'f'
        mkfs(path, '-t', 'ext4')
        for sector in (
            bytes(510) + b'\x55\xaa',
            self.random.randbytes(510) + b'\x55\xaa',
            mbr(2048, 4096),
            bytes(54) + b'FAT16   ' + bytes(448) + b'\x55\xaa',
        ):
            with path.open('r+b') as file:
                file.write(sector)
            self.assertEqual('an ext4 filesystem', probe.identify(path))
            self.assertEqual(8 * _MIB, probe.open_root(path).size)

    def test_disk_that_was_a_filesystem_once(self) -> None:
        """Its superblock is left, but the partition is what counts."""
        path = self.directory / 'f'
        mkfs(path, '-t', 'ext4')
        part = self.directory / 'part'
        mkfs(part, '-t', 'ext4', size=4 * _MIB)
        with path.open('r+b') as file:
            file.write(mbr(2048, 8192))
            file.seek(2048 * 512)
            file.write(part.read_bytes())
        self.assertEqual('an MBR-partitioned disk', probe.identify(path))
        self.assertIn('partition', self.refused(path))

    def test_cut_short(self) -> None:
        path = self.directory / 'f'
        mkfs(path, '-t', 'ext4')
        os.truncate(path, 5 * _MIB)
        self.assertEqual('an ext4 filesystem', probe.identify(path))
        error = self.assertRaises(errors.DamagedError, probe.open_root, path)
        self.assertIn(f'takes {8 * _MIB} bytes, and {5 * _MIB}', str(error))

    def test_damaged_superblock(self) -> None:
        path = self.directory / 'f'
        mkfs(path, '-t', 'ext4')
        with path.open('r+b') as file:
            file.seek(1024 + 0x18)
            file.write(b'\xff\xff\xff\xff')
        self.assertIn('damaged ext', probe.identify(path))
        self.assertRaises(errors.DamagedError, probe.open_root, path)

    def test_external_journal(self) -> None:
        path = self.directory / 'journal'
        mkfs(path, '-O', 'journal_dev', '-b', '4096')
        self.assertEqual('an external journal device', probe.identify(path))
        self.assertIn('give the filesystem', self.refused(path))

    def test_swap(self) -> None:
        path = self.directory / 'swap'
        path.write_bytes(bytes(_MIB))
        path.chmod(0o600)
        subprocess.run(
            ['/usr/sbin/mkswap', '-q', str(path)],
            check=True, capture_output=True,
        )  # fmt: skip
        self.assertEqual('swap space', probe.identify(path))

    def test_disk_images_of_qemu(self) -> None:
        for kind, phrase in (
            ('qcow2', 'a qcow2 disk image'),
            ('qcow', 'a qcow disk image'),
            ('qed', 'a QED disk image'),
            ('vmdk', 'a VMDK disk image'),
            ('vdi', 'a VDI disk image'),
            ('vhdx', 'a VHDX disk image'),
            ('vpc', 'a VHD disk image'),
            ('parallels', 'a Parallels disk image'),
        ):
            path = self.directory / kind
            subprocess.run(
                ['qemu-img', 'create', '-q', '-f', kind, str(path), '8M'],
                check=True,
            )
            self.assertEqual(phrase, probe.identify(path))
            self.assertEqual(
                f'{path}: {phrase}, not an ext2, ext3 or ext4 filesystem; if '
                'you trust it, convert it with qemu-img convert -O raw first',
                self.refused(path),
            )

    def test_fixed_vhd(self) -> None:
        """Its only mark is a footer."""
        path = self.directory / 'f'
        subprocess.run(
            ['qemu-img', 'create', '-q', '-f', 'vpc',
             '-o', 'subformat=fixed', str(path), '8M'],
            check=True,
        )  # fmt: skip
        with path.open('r+b') as file:
            file.write(mbr(2048, 4096))
        self.assertEqual('a VHD disk image', probe.identify(path))

    def test_qcow2_header_in_front_of_a_filesystem(self) -> None:
        """Whoever made that wants it to be taken for something else."""
        path = self.directory / 'f'
        mkfs(path, '-t', 'ext4')
        with path.open('r+b') as file:
            file.write(b'QFI\xfb\x00\x00\x00\x03')
        self.assertIn('a qcow2 disk image', self.refused(path))

    def test_compressed(self) -> None:
        for kind, phrase in (
            ('gzip', 'a gzip-compressed file'),
            ('xz', 'an xz-compressed file'),
            ('bzip2', 'a bzip2-compressed file'),
            ('zstd', 'a zstd-compressed file'),
            ('lz4', 'an lz4-compressed file'),
            ('lzma', 'an lzma-compressed file'),
        ):
            path = self.file(test_streams.pack(kind, b'hello' * 999))
            self.assertEqual(phrase, probe.identify(path))
            self.assertIn('; decompress it with ', self.refused(path))

    def test_archives(self) -> None:
        self.file(b'content')
        path = self.directory / 'a.tar'
        subprocess.run(
            ['tar', '-cf', str(path), '-C', str(self.directory), 'f'],
            check=True,
        )
        self.assertEqual('a tar archive', probe.identify(path))
        path = self.file(samples.initramfs())
        self.assertEqual('a cpio archive', probe.identify(path))
        self.assertIn('--ramdisk', self.refused(path))

    def test_v7_tar(self) -> None:
        """It has no magic number, but a checksum; all take it for one."""
        info = tarfile.TarInfo('etc')
        info.type = tarfile.DIRTYPE
        header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
        header[257:] = bytes(len(header) - 257)
        header[148:156] = b' ' * 8
        header[148:156] = b'%06o\0 ' % sum(header)
        path = self.file(bytes(header) + bytes(10240))
        self.assertEqual('a tar archive', probe.identify(path))
        self.assertTrue(probe.look(path).is_tar)
        self.assertTrue(uec.is_tar(path))
        with resolve.opened(path) as source:
            self.assertEqual('files', source.format)
        target = self.directory / 'built'
        build.execute(build.plan(build.BuildRequest(path, target)))

    def test_partitioned_disks(self) -> None:
        disk = (0, mbr(2048, 4096))
        self.assertEqual(
            'an MBR-partitioned disk', self.put(disk, size=4 * _MIB)
        )
        disk = (0, mbr(1, 4096, 0xEE))
        gpt = self.put(disk, (512, b'EFI PART'), size=4 * _MIB)
        self.assertEqual('a GPT-partitioned disk', gpt)

    def test_no_partition_table(self) -> None:
        """A boot signature alone does not make one."""
        for record in (mbr(2048, 1)[:510] + bytes(2), bytes(510) + b'\x55\xaa',
                       mbr(1 << 30, 1)):  # fmt: skip
            self.assertNotIn('disk', self.put((0, record), (9, b'\x01')))

    def test_signatures(self) -> None:
        for phrase, *pieces in (
            ('an XFS filesystem', (0, b'XFSB')),
            ('a btrfs filesystem', (0x10040, b'_BHRfS_M')),
            ('a squashfs filesystem', (0, b'hsqs')),
            ('an F2FS filesystem', (1024, b'\x10\x20\xf5\xf2')),
            ('an NTFS filesystem', (3, b'NTFS    '), (510, b'\x55\xaa')),
            ('a FAT filesystem', (82, b'FAT32   '), (510, b'\x55\xaa')),
            ('an ISO 9660 image', (0x8001, b'CD001'), (0, mbr(1, 100))),
            ('a LUKS-encrypted volume', (0, b'LUKS\xba\xbe')),
            ('an LVM physical volume', (512, b'LABELONE')),
            ('an Android sparse image', (0, b'\x3a\xff\x26\xed\1\0\0\0')),
            ('a Bochs disk image', (0, b'Bochs Virtual HD Image')),
            ('a cloop disk image', (0, b'#!/bin/sh\n#V2.0 Format\nmodprobe')),
            ('a zip archive', (0, b'PK\x03\x04')),
            ('an EFI or Windows program', (0, bytes(samples.pe(0x14C)))),
            ('a Linux kernel (bzImage)', (0, samples.bzimage())),
            ('a Linux kernel (ARM64 Image)', (0, samples.arm64())),
            ('an ELF program', (0, samples.elf(62))),
            ('unrecognised data', (5, b'\x05')),
        ):
            self.assertEqual(phrase, self.put(*pieces), pieces)

    def test_real_programs(self) -> None:
        self.assertIn('an ELF', probe.identify(pathlib.Path('/bin/ls')))

    def test_texts(self) -> None:
        for text, phrase in (
            ('<!DOCTYPE html>\n<html>404</html>', 'an HTML page'),
            ('\n <HTML><body>no', 'an HTML page'),
            ('<?xml version="1.0"?><Error/>', 'an XML document'),
            ('{"error": 404}', 'JSON text'),
            ('#!/bin/sh\n', 'a script'),
            ('hello w\u00f6rld\n' * 999, 'a text file'),
            ('\ufeffhello', 'a text file'),
        ):
            path = self.file(text.encode())
            self.assertEqual(phrase, probe.identify(path), text)
            self.assertIn(
                f': {phrase}, not an image with a root filesystem; ',
                self.refused(path),
            )
        self.assertEqual(
            'unrecognised data', probe.identify(self.file(b'a\0b\xff'))
        )

    def test_refusals(self) -> None:
        for data, said in (
            (
                b'%PDF-1.7',
                'a PDF document, not an image with a root filesystem; give a '
                'filesystem, disk, archive, directory, container image or '
                'live medium, as the page of sources in the documentation '
                'says',
            ),
            (b'\x3a\xff\x26\xed', 'sparse image, not an ext2, ext3 or ext4 '),
            (b'Rar!\x1a\x07', 'a RAR archive, not an ext2, ext3 or ext4 '),
            (b'XFSB', 'an XFS filesystem, not an ext2, ext3 or ext4 '),
            (b'070701', 'archive, not an ext2, ext3 or ext4 filesystem; give'),
        ):
            path = self.file(data.ljust(8192, b'\0'))
            self.assertIn(said, self.refused(path))

    def test_nothing_in_it(self) -> None:
        self.assertEqual('an empty file', probe.identify(self.file(b'')))
        self.assertIn(
            ': an empty file, not an image with a root filesystem; give a '
            'filesystem, disk,',
            self.refused(self.file(b'')),
        )
        path = self.file(bytes(200_000))
        self.assertEqual('nothing but zeros', probe.identify(path))
        os.truncate(path, 1 << 40)
        read = []
        real = os.pread

        def pread(descriptor: int, count: int, offset: int) -> bytes:
            read.append(count)
            self.assertLess(sum(read), 64 * _MIB)
            return real(descriptor, count, offset)

        with mock.patch.object(os, 'pread', pread):
            self.assertEqual('nothing but zeros', probe.identify(path))
        self.assertNotEqual([], read)
        with path.open('r+b') as file:
            file.seek(1 << 39)
            file.write(b'x')
        self.assertEqual(
            'unrecognised data that begin with zeros', probe.identify(path)
        )

    def test_missing(self) -> None:
        path = self.directory / 'no'
        self.assertEqual(f'{path}: no such file', self.refused(path))
        link = self.directory / 'link'
        link.symlink_to(path)
        self.assertEqual(
            f'{link}: a link to a file that does not exist', self.refused(link)
        )
        below = self.file(b'x') / 'no'
        self.assertEqual(f'{below}: no such file', self.refused(below))
        self.assertRaises(errors.SourceError, probe.identify, path)

    def test_directory(self) -> None:
        self.assertEqual('a directory', probe.identify(self.directory))
        self.assertIn(
            ': a directory, not an ext2, ext3 or ext4 filesystem; make an '
            'ext4 filesystem of it',
            self.refused(self.directory),
        )

    def test_special_files_do_not_block(self) -> None:
        fifo = self.directory / 'fifo'
        os.mkfifo(fifo)
        self.assertEqual('a FIFO', probe.identify(fifo))
        self.assertEqual(
            f'{fifo}: a FIFO, not a root filesystem image', self.refused(fifo)
        )
        path = self.directory / 'socket'
        directory = os.open(self.directory, os.O_PATH)
        self.addCleanup(os.close, directory)
        with socket.socket(socket.AF_UNIX) as server:
            # The path of a socket must not have more than 107 bytes.
            server.bind(f'/proc/self/fd/{directory}/socket')
            self.assertIn('a socket', self.refused(path))
        zero = pathlib.Path('/dev/zero')
        self.assertEqual('a character device', probe.identify(zero))
        self.assertIn('a character device', self.refused(zero))

    def test_unreadable(self) -> None:
        path = self.file(b'x')
        path.chmod(0)
        if os.access(path, os.R_OK):
            # Root reads everything, unless that right was taken from it.
            self.assertEqual('a text file', probe.identify(path))
        else:
            self.assertIn('permission denied', self.refused(path))

    def test_loop_of_links(self) -> None:
        path = self.directory / 'loop'
        path.symlink_to(path)
        self.assertIn('cannot be read: Too many levels', self.refused(path))

    def test_names_that_would_break_a_line(self) -> None:
        path = self.directory / os.fsdecode(b'a\nb\x1b[31m\xff.img')
        self.assertTrue(
            self.refused(path).endswith(
                'a\\nb\\x1b[31m\\xff.img: no such file'
            )
        )
        nul = pathlib.Path('a\0b')
        self.assertIn('null', self.refused(nul))
