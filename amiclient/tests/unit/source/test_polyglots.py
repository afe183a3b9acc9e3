# SPDX-License-Identifier: Apache-2.0

"""Files that are several things at once: which one they are told to be.

The order is a property that others rely on: what QEMU, tar or a decompressor
would take for its own must not be told, and published, as something else.
"""

import itertools
import pathlib
import struct
import subprocess

from amiclient.source import probe
from amiclient.source import uec
from amiclient.tests import base

_SIZE = 256 * 1024

#: In the order in which they are told: what has its magic number at byte 0,
_BEFORE = (
    ('a qcow disk image', 0, b'QFI\xfb\0\0\0\1'),
    ('a qcow2 disk image', 0, b'QFI\xfb'),
    ('a QED disk image', 0, b'QED\0'),
    ('a VMDK disk image', 0, b'KDMV'),
    ('a VMDK disk image', 0, b'COWD'),
    ('a VMDK descriptor', 0, b'# Disk DescriptorFile'),
    ('a VHDX disk image', 0, b'vhdxfile'),
    ('a VHD disk image', 0, b'conectix'),
    ('a VDI disk image', 0x40, b'\x7f\x10\xda\xbe'),
    ('a Parallels disk image', 0, b'WithoutFreeSpace'),
    ('a Parallels disk image', 0, b'WithouFreSpacExt'),
    ('a Bochs disk image', 0, b'Bochs Virtual HD Image'),
    ('a cloop disk image', 0, b'#!/bin/sh\n#V2.0 Format\n'),
    ('an Android sparse image', 0, b'\x3a\xff\x26\xed'),
    ('a LUKS-encrypted volume', 0, b'LUKS\xba\xbe'),
    ('an XFS filesystem', 0, b'XFSB'),
    ('a squashfs filesystem', 0, b'hsqs'),
    ('a cramfs filesystem', 0, b'\x45\x3d\xcd\x28'),
    ('a romfs filesystem', 0, b'-rom1fs-'),
    ('a cpio archive', 0, b'070701'),
    ('a cpio archive', 0, b'070702'),
    ('a cpio archive (old format)', 0, b'070707'),
    ('a zip archive', 0, b'PK\3\4'),
    ('a RAR archive', 0, b'Rar!\x1a\7'),
    ('an lzip-compressed file', 0, b'LZIP'),
    ('a file packed by compress(1)', 0, b'\x1f\x9d'),
    ('an lrzip-compressed file', 0, b'LRZI'),
    ('a 7-Zip archive', 0, b'7z\xbc\xaf\x27\x1c'),
    ('a Debian package', 0, b'!<arch>\ndebian'),
    ('an ar archive', 0, b'!<arch>\n'),
    ('an RPM package', 0, b'\xed\xab\xee\xdb'),
    ('a PDF document', 0, b'%PDF-'),
    ('a U-Boot image', 0, b'\x27\x05\x19\x56'),
    ('a device tree or U-Boot FIT image', 0, b'\xd0\x0d\xfe\xed'),
    ('a gzip-compressed file', 0, b'\x1f\x8b\x08'),
    ('an xz-compressed file', 0, b'\xfd7zXZ\0'),
    ('a zstd-compressed file', 0, b'\x28\xb5\x2f\xfd'),
    ('an lz4-compressed file', 0, b'\x04\x22\x4d\x18'),
    ('an lz4-compressed file', 0, b'\x02\x21\x4c\x18'),
    ('an lzop-compressed file', 0, b'\x89LZO\0\r\n\x1a\n'),
    ('a bzip2-compressed file', 0, b'BZh91AY&SY'),
    ('an lzma-compressed file', 0,
     b'\x5d\0\0\x80\0\xff\xff\xff\xff\xff\xff\xff\xff'),
    ('an ELF program', 0, b'\x7fELF\2\1\1' + bytes(9) + b'\2\0'),
)  # fmt: skip

#: then an ext filesystem, of which this is all that there is here,
_EXT = 'an ext4 filesystem'

#: and what may be left over from before in what has become something else.
_AFTER = (
    ('a btrfs filesystem', 0x10040, b'_BHRfS_M'),
    ('an ISO 9660 image', 0x8001, b'CD001'),
    ('a UDF filesystem', 0x8001, b'BEA01'),
    ('an F2FS filesystem', 0x400, b'\x10\x20\xf5\xf2'),
    ('an EROFS filesystem', 0x400, b'\xe2\xe1\xf5\xe0'),
    ('a JFS filesystem', 0x8000, b'JFS1'),
    ('a ReiserFS filesystem', 0x10034, b'ReIsEr'),
    ('a member of a RAID array', 0x1000, b'\xfc\x4e\x2b\xa9'),
    ('a member of a RAID array', 0, b'\xfc\x4e\x2b\xa9'),
    ('an LVM physical volume', 512, b'LABELONE'),
    ('swap space', 4086, b'SWAPSPACE2'),
    ('an NTFS filesystem', 3, b'NTFS    '),
    ('an exFAT filesystem', 3, b'EXFAT   '),
    ('a FAT filesystem', 54, b'FAT16   '),
    ('a FAT filesystem', 82, b'FAT32   '),
    ('a tar archive', 257, b'ustar'),
    ('a cpio archive (old format)', 0, b'\xc7\x71'),
    ('a Linux kernel (bzImage)', 0x202, b'HdrS'),
    ('a Linux kernel (ARM64 Image)', 0x38, b'ARM\x64'),
    ('a Linux kernel (RISC-V Image)', 0x38, b'RSC\x05'),
    ('a Linux kernel (ARM zImage)', 0x24, b'\x18\x28\x6f\x01'),
    ('a Linux kernel (s390x)', 0x10008, b'S390EP'),
    ('a Linux kernel (EFI zboot)', 4, b'zimg'),
    ('a GPT-partitioned disk', 0x200, b'EFI PART'),
    ('a VHD disk image', _SIZE - 512, b'conectix'),
    ('a DMG disk image', _SIZE - 512, b'koly'),
    ('an MBR-partitioned disk', 446,
     struct.pack('<B3xB3xII', 0x80, 0x83, 128, 128) + bytes(48)
     + b'\x55\xaa'),
    ('an EFI or Windows program', 0, b'MZ'),
)  # fmt: skip

#: What QEMU calls those that are disk images.
_DISKS = {
    'a qcow disk image': 'qcow',
    'a qcow2 disk image': 'qcow2',
    'a QED disk image': 'qed',
    'a VMDK disk image': 'vmdk',
    'a VHDX disk image': 'vhdx',
    'a VHD disk image': 'vpc',
    'a VDI disk image': 'vdi',
    'a GPT-partitioned disk': 'raw',
    'an MBR-partitioned disk': 'raw',
    # What libguestfs reads: QEMU sees bytes only.
    'a LUKS-encrypted volume': 'raw',
    'an XFS filesystem': 'raw',
    'a cramfs filesystem': 'raw',
    'a romfs filesystem': 'raw',
    'a btrfs filesystem': 'raw',
    'a UDF filesystem': 'raw',
    'an F2FS filesystem': 'raw',
    'an EROFS filesystem': 'raw',
    'a JFS filesystem': 'raw',
    'a ReiserFS filesystem': 'raw',
    'a member of a RAID array': 'raw',
    'an LVM physical volume': 'raw',
    'an NTFS filesystem': 'raw',
    'an exFAT filesystem': 'raw',
}


def _overlap(one: tuple[int, bytes], other: tuple[int, bytes]) -> bool:
    first, second = sorted((one, other))
    return first[0] + len(first[1]) > second[0]


class TestPolyglots(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.path = self.tmp() / 'f'

    def made(
        self, *pieces: tuple[int, bytes], ext: bool = False
    ) -> pathlib.Path:
        image = bytearray(_SIZE)
        if ext:
            image[1024:2048] = self.superblock()
        for offset, data in pieces:
            image[offset : offset + len(data)] = data
        self.path.write_bytes(image)
        return self.path

    def disk(self, *pieces: tuple[int, bytes]) -> str | None:
        return probe.look(self.made(*pieces)).found.disk

    def superblock(self) -> bytes:
        path = self.path.with_name('ext4')
        if not path.exists():
            with path.open('wb') as file:
                file.truncate(_SIZE)
            command = ['/usr/sbin/mke2fs', '-q', '-F', '-t', 'ext4', '-O',
                       '^has_journal', str(path)]  # fmt: skip
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        return path.read_bytes()[1024:2048]

    def test_order(self) -> None:
        for one, other in itertools.combinations((*_BEFORE, *_AFTER), 2):
            if not _overlap(one[1:], other[1:]):
                path = self.made(one[1:], other[1:])
                self.assertEqual(one[0], probe.identify(path), (one, other))

    def test_filesystem_in_between(self) -> None:
        for phrase, *piece in _BEFORE:
            path = self.made((piece[0], piece[1]), ext=True)
            self.assertEqual(phrase, probe.identify(path))
        for phrase, offset, data in _AFTER:
            if not 1024 <= offset < 2048:
                found = probe.identify(self.made((offset, data), ext=True))
                self.assertEqual(_EXT, found, phrase)

    def test_disks(self) -> None:
        """A disk image is one whatever follows; and before it, nothing."""
        for phrase, *piece in (*_BEFORE, *_AFTER):
            self.assertEqual(
                _DISKS.get(phrase) if piece[1] != b'COWD' else None,
                # A disk that begins with zeros is none.
                self.disk((2048, b'x'), (piece[0], piece[1])),
                phrase,
            )
        for phrase, *piece in _BEFORE[:4]:
            for _, *other in _AFTER:
                if not _overlap((piece[0], piece[1]), (other[0], other[1])):
                    found = self.disk((piece[0], piece[1]), tuple(other))
                    self.assertEqual(_DISKS[phrase], found)

    def test_archives(self) -> None:
        """What tar(1) would read is an archive, whatever else it is."""
        ustar = 257, b'ustar'
        for phrase, *piece in (*_BEFORE, *_AFTER):
            packed = phrase.endswith('-compressed file') and phrase not in (
                'an lzip-compressed file',
                'an lrzip-compressed file',
            )
            path = self.made((piece[0], piece[1]), ustar)
            # Of what is compressed, the inside counts.
            self.assertEqual(not packed, uec.is_tar(path), phrase)
        self.assertTrue(uec.is_tar(self.made(ustar, ext=True)))
