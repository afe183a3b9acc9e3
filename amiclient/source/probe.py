# SPDX-License-Identifier: Apache-2.0

"""What data are, told by what they begin with.

A table of magic numbers and the few formats that take more than that. Where
several could be seen in the same bytes, the order decides: first what has its
magic at byte 0 (an ext filesystem leaves its first 1024 bytes to anybody, so
a qcow2 header there is either a qcow2 image or an attempt to be taken for
one), then ext, then what keeps its magic where the others have data.

Sources: magic(5), libblkid's superblocks, the qcow2, VHD, VHDX and VDI
specifications, the UEFI specification, section 5.3 (GPT).
"""

from collections.abc import Iterator
import dataclasses
import struct

from amiclient.source import streams

#: How much of the beginning before() and after() want to see: btrfs and
#: reiserfs keep their superblocks at 64 KiB, swap on 64 KiB pages its
#: signature right before that.
HEAD = 0x10000 + 4096

#: How much of the end after() wants to see: the footer of a VHD or DMG.
TAIL = 512

_BUILD = 'make an ext4 filesystem of it with openstack ami build'
_COPY_FILES = 'copy its files, and use openstack ami build on the copy'
_UNPACK = 'unpack it, and use openstack ami build on what comes out'
_CONVERT = 'if you trust it, convert it with qemu-img convert -O raw first'
_PARTITION = 'copy the partition with the root filesystem out of it first'
_LVM = 'activate its volume group and give the logical volume'
_DOWNLOAD = 'look into it, a download may have failed'
_KERNEL = 'a kernel goes with --kernel'
_RAMDISK = 'a ramdisk goes with --ramdisk'

_DECOMPRESS = {
    'gzip': 'gzip -d',
    'xz': 'xz -d',
    'lzma': 'xz -d --format=lzma',
    'bzip2': 'bzip2 -d',
    'zstd': 'zstd -d',
    'lz4': 'lz4 -d',
    'lzop': 'lzop -d',
}


@dataclasses.dataclass(frozen=True)
class Found:
    """What data are.

    :param phrase: for people, with an article.
    :param hint: how to make a root filesystem image of it, if it can be.
    """

    phrase: str
    hint: str | None = None


EMPTY = Found('an empty file')
DIRECTORY = Found('a directory', _BUILD)
JOURNAL = Found(
    'an external journal device', 'give the filesystem that it belongs to'
)
MBR = Found('an MBR-partitioned disk', _PARTITION)
GPT = Found('a GPT-partitioned disk', _PARTITION)
VHD = Found('a VHD disk image', _CONVERT)

#: What is a disk, of what is told by content.
DISKS = (MBR.phrase, GPT.phrase)

#: What has its magic number at byte 0, or is as certain.
_BEFORE = (
    (0, b'QFI\xfb\x00\x00\x00\x01', Found('a qcow disk image', _CONVERT)),
    (0, b'QFI\xfb', Found('a qcow2 disk image', _CONVERT)),
    (0, b'QED\x00', Found('a QED disk image', _CONVERT)),
    (0, b'KDMV', Found('a VMDK disk image', _CONVERT)),
    (0, b'COWD', Found('a VMDK disk image', _CONVERT)),
    (0, b'# Disk DescriptorFile', Found('a VMDK descriptor', _CONVERT)),
    (0, b'vhdxfile', Found('a VHDX disk image', _CONVERT)),
    (0, b'conectix', VHD),
    (0x40, b'\x7f\x10\xda\xbe', Found('a VDI disk image', _CONVERT)),
    (0, b'WithoutFreeSpace', Found('a Parallels disk image', _CONVERT)),
    (0, b'WithouFreSpacExt', Found('a Parallels disk image', _CONVERT)),
    (0, b'Bochs Virtual HD Image', Found('a Bochs disk image', _CONVERT)),
    (0, b'#!/bin/sh\n#V2.0 Format\n', Found('a cloop disk image',
                                           _CONVERT)),
    (0, b'\x3a\xff\x26\xed', Found(
        'an Android sparse image',
        'make a plain one of it with simg2img first')),
    (0, b'LUKS\xba\xbe', Found('a LUKS-encrypted volume',
                               'open it with cryptsetup first')),
    (0, b'XFSB', Found('an XFS filesystem', _COPY_FILES)),
    (0, b'hsqs', Found('a squashfs filesystem', _UNPACK)),
    (0, b'sqsh', Found('a squashfs filesystem', _UNPACK)),
    (0, b'\x45\x3d\xcd\x28', Found('a cramfs filesystem', _COPY_FILES)),
    (0, b'-rom1fs-', Found('a romfs filesystem', _COPY_FILES)),
    (0, b'070701', Found('a cpio archive', _RAMDISK)),
    (0, b'070702', Found('a cpio archive', _RAMDISK)),
    (0, b'070707', Found('a cpio archive (old format)', _UNPACK)),
    (0, b'PK\x03\x04', Found('a zip archive', _UNPACK)),
    (0, b'Rar!\x1a\x07', Found('a RAR archive', _UNPACK)),
    (0, b'LZIP', Found('an lzip-compressed file',
                       'decompress it with lzip -d first')),
    (0, b'\x1f\x9d', Found('a file packed by compress(1)',
                           'decompress it with gzip -d first')),
    (0, b'LRZI', Found('an lrzip-compressed file',
                       'decompress it with lrzip -d first')),
    (0, b'7z\xbc\xaf\x27\x1c', Found('a 7-Zip archive', _UNPACK)),
    (0, b'!<arch>\ndebian', Found('a Debian package')),
    (0, b'!<arch>\n', Found('an ar archive')),
    (0, b'\xed\xab\xee\xdb', Found('an RPM package')),
    (0, b'%PDF-', Found('a PDF document')),
    (0, b'\x27\x05\x19\x56', Found('a U-Boot image')),
    (0, b'\xd0\x0d\xfe\xed', Found('a device tree or U-Boot FIT image')),
)  # fmt: skip

#: What may be left over from earlier in a file that has become something else.
_AFTER = (
    (0x10040, b'_BHRfS_M', Found('a btrfs filesystem', _COPY_FILES)),
    (0x8001, b'CD001', Found('an ISO 9660 image')),
    (0x8001, b'BEA01', Found('a UDF filesystem', _COPY_FILES)),
    (0x400, b'\x10\x20\xf5\xf2', Found('an F2FS filesystem', _COPY_FILES)),
    (0x400, b'\xe2\xe1\xf5\xe0', Found('an EROFS filesystem', _COPY_FILES)),
    (0x8000, b'JFS1', Found('a JFS filesystem', _COPY_FILES)),
    (0x10034, b'ReIsEr', Found('a ReiserFS filesystem', _COPY_FILES)),
    (0x1000, b'\xfc\x4e\x2b\xa9', Found('a member of a RAID array')),
    (0, b'\xfc\x4e\x2b\xa9', Found('a member of a RAID array')),
    *((sector * 512, b'LABELONE', Found('an LVM physical volume', _LVM))
      for sector in range(4)),
    *((size * 1024 - 10, magic, Found('swap space'))
      for size in (4, 8, 16, 32, 64)
      for magic in (b'SWAPSPACE2', b'SWAP-SPACE')),
    (3, b'NTFS    ', Found('an NTFS filesystem', _COPY_FILES)),
    (3, b'EXFAT   ', Found('an exFAT filesystem', _COPY_FILES)),
    (54, b'FAT12   ', Found('a FAT filesystem', _COPY_FILES)),
    (54, b'FAT16   ', Found('a FAT filesystem', _COPY_FILES)),
    (82, b'FAT32   ', Found('a FAT filesystem', _COPY_FILES)),
    (257, b'ustar', Found('a tar archive', _BUILD)),
    (0, b'\xc7\x71', Found('a cpio archive (old format)', _UNPACK)),
    (0, b'\x71\xc7', Found('a cpio archive (old format)', _UNPACK)),
    (0x202, b'HdrS', Found('a Linux kernel (bzImage)', _KERNEL)),
    (0x38, b'ARM\x64', Found('a Linux kernel (ARM64 Image)', _KERNEL)),
    (0x38, b'RSC\x05', Found('a Linux kernel (RISC-V Image)', _KERNEL)),
    (0x24, b'\x18\x28\x6f\x01', Found('a Linux kernel (ARM zImage)',
                                      _KERNEL)),
    (0x10008, b'S390EP', Found('a Linux kernel (s390x)', _KERNEL)),
    (4, b'zimg', Found('a Linux kernel (EFI zboot)', _KERNEL)),
    (0x200, b'EFI PART', GPT),
    (0x1000, b'EFI PART', GPT),
)  # fmt: skip

_ELF_TYPES = {
    1: 'an ELF object file',
    2: 'an ELF program',
    3: 'an ELF program or shared library',
    4: 'a core dump',
}


def before(head: bytes) -> Found | None:
    """Tell what comes before an ext superblock is looked for.

    :param head: the first HEAD bytes, or all there are.
    """
    if found := _search(_BEFORE, head):
        return found
    if packed := streams.tell(head[: streams.MAGIC_SIZE]):
        return Found(
            f'{_article(packed)} {packed}-compressed file',
            f'decompress it with {_DECOMPRESS[packed]} first',
        )
    if head[:4] == b'\x7fELF' and len(head) >= 18:
        order = '>' if head[5] == 2 else '<'
        kind = struct.unpack_from(f'{order}H', head, 16)[0]
        return Found(_ELF_TYPES.get(kind, 'an ELF file'))
    return None


def after(head: bytes, tail: bytes, size: int) -> Found | None:
    """Tell what there is where there is no ext superblock.

    :param head: as for before().
    :param tail: the last TAIL bytes, or all there are.
    :param size: bytes of the whole.
    """
    if found := _search(_AFTER, head):
        return found
    if tail.startswith(b'conectix'):
        return VHD
    if tail.startswith(b'koly'):
        return Found('a DMG disk image', _CONVERT)
    if next(partitions(head, size), None) is not None:
        return MBR
    if head[:2] == b'MZ':
        return Found('an EFI or Windows program')
    return _text(head)


def partitions(head: bytes, size: int) -> Iterator[int]:
    """Find what a master boot record, if it is one, has for partitions.

    The code of an old boot sector is no partition table: each of the four
    entries must make sense.

    :param size: bytes of the disk.
    :returns: bytes from the beginning of the disk to each partition's.
    """
    if head[510:512] != b'\x55\xaa':
        return
    entries = [
        struct.unpack_from('<B3xB3xII', head, 446 + 16 * i) for i in range(4)
    ]
    if any(status not in (0, 0x80) for status, _, _, _ in entries):
        return
    used = [entry for entry in entries if entry[1]]
    if all(start and start * 512 < size for _, _, start, _ in used):
        for _, _, start, _ in used:
            yield start * 512


def _search(
    table: tuple[tuple[int, bytes, Found], ...], head: bytes
) -> Found | None:
    for offset, magic, found in table:
        if head.startswith(magic, offset):
            return found
    return None


def _article(word: str) -> str:
    return 'an' if word[0] in 'aeiouxl' else 'a'


def _text(head: bytes) -> Found | None:
    head = head.removeprefix(b'\xef\xbb\xbf')
    text = head.lstrip()[:512].lower()
    # A character may be cut in two where the head ends.
    decoded = head[:4096].decode('utf-8', 'replace').rstrip('\ufffd')
    if not text or not all(
        c.isprintable() or c in '\t\n\r\f\x1b' for c in decoded
    ):
        return None
    if '\ufffd' in decoded:
        return None
    if text.startswith((b'<!doctype html', b'<html')) or b'<html' in text:
        return Found('an HTML page', _DOWNLOAD)
    if text.startswith((b'<?xml', b'<error')):
        return Found('an XML document', _DOWNLOAD)
    if text[:1] in (b'{', b'['):
        return Found('JSON text', _DOWNLOAD)
    if text.startswith(b'#!'):
        return Found('a script')
    return Found('a text file')
