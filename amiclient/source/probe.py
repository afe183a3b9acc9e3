# SPDX-License-Identifier: Apache-2.0

"""What a file is, told once by its first and last bytes.

A table of magic numbers and the few formats that take more than that. Where
several could be seen in the same bytes, the order decides: first what has its
magic at byte 0 (an ext filesystem leaves its first 1024 bytes to anybody, so
a qcow2 header there is either a qcow2 image or an attempt to be taken for
one), then ext, then what keeps its magic where the others have data.

Sources: magic(5), libblkid's superblocks, the qcow2, VHD, VHDX and VDI
specifications, the UEFI specification, section 5.3 (GPT), the specifications
of the compression formats.
"""

import codecs
import dataclasses
import errno
import io
import os
import pathlib
import stat
import struct
import tarfile
from typing import Any, BinaryIO, NamedTuple

from amiclient import errors
from amiclient.ext import layout
from amiclient.ext import superblock
from amiclient.ext.superblock import Superblock
from amiclient import locks
from amiclient.source import frames
from amiclient.source import opening
from amiclient.source import partitions

#: How much of the beginning is looked at: btrfs and reiserfs keep their
#: superblocks at 64 KiB, swap on 64 KiB pages its signature right before that.
HEAD = 0x10000 + 4096

#: How much of the end is looked at: the footer of a VHD or DMG.
TAIL = 512

_BUILD = 'make an ext4 filesystem of it with openstack ami build'
_COPY = 'copy its files, and use openstack ami build on the copy'
_UNPACK = 'unpack it, and use openstack ami build on the result'
_CONVERT = 'if you trust it, convert it with qemu-img convert -O raw first'
_PARTITION = 'copy the partition with the root filesystem out of it first'
_DOWNLOAD = 'look at it: a download may have failed'
_KERNEL = 'give a kernel with --kernel'
_RAMDISK = 'give a ramdisk with --ramdisk'
#: Of what libguestfs is asked about: hint, format and the flag of Found.
_FOREIGN = ('use openstack ami upload or extract', 'raw', None, True)
#: Magic numbers of compression formats, those of the kernel's table in
#: lib/decompress.c, but longer ones; and what undoes them.
_PACKED = (
    (b'\x1f\x8b\x08', 'gzip', 'gzip -d'),
    (b'\xfd7zXZ\x00', 'xz', 'xz -d'),
    (frames.ZSTD, 'zstd', 'zstd -d'),
    (frames.LZ4, 'lz4', 'lz4 -d'),
    (frames.LZ4_LEGACY, 'lz4', 'lz4 -d'),
    (b'\x89LZO\x00\r\n\x1a\n', 'lzop', 'lzop -d'),
)
_DECOMPRESS = {
    **{kind: command for _, kind, command in _PACKED},
    'bzip2': 'bzip2 -d',
    'lzma': 'xz -d --format=lzma',
}

#: What bzip2's header is followed by: a first block, or the end of the stream.
_BZIP2_BLOCKS = (b'1AY&SY', b'\x17\x72\x45\x38\x50\x90')

#: How many bytes compression() wants to see.
MAGIC_SIZE = 16

#: A header of a tar archive, and where POSIX and GNU have its magic number.
TAR_BLOCK = 512
_USTAR_AT, _USTAR = 257, b'ustar'


class Found(NamedTuple):
    """What data are.

    :param phrase: for people, with an article.
    :param hint: how to make a root filesystem image of it, if it can be.
    :param disk: the format, as QEMU calls it, if it is a disk.
    :param holds: what it is, if it holds a root filesystem somehow else.
    :param foreign: whether libguestfs may find filesystems in it.
    """

    phrase: str
    hint: str | None = None
    disk: str | None = None
    holds: str | None = None
    foreign: bool = False


EMPTY = Found('an empty file')
DIRECTORY = Found('a directory', _BUILD)
JOURNAL = Found(
    'an external journal device', 'give the filesystem that it belongs to'
)
MBR = Found('an MBR-partitioned disk', _PARTITION, 'raw')
GPT = Found('a GPT-partitioned disk', _PARTITION, 'raw')
VHD = Found('a VHD disk image', _CONVERT, 'vpc')
_TAR = Found('a tar archive', _BUILD)
_DAMAGED = Found('a damaged ext2, ext3 or ext4 filesystem')

#: Offset, magic number, and what :class:`Found` is made of.
_Table = tuple[tuple[Any, ...], ...]

#: What has its magic number at byte 0, or is as certain.
_BEFORE: _Table = (
    (0, b'QFI\xfb\x00\x00\x00\x01', 'a qcow disk image', _CONVERT, 'qcow'),
    (0, b'QFI\xfb', 'a qcow2 disk image', _CONVERT, 'qcow2'),
    (0, b'QED\x00', 'a QED disk image', _CONVERT, 'qed'),
    (0, b'KDMV', 'a VMDK disk image', _CONVERT, 'vmdk'),
    (0, b'COWD', 'a VMDK disk image', _CONVERT),
    (0, b'# Disk DescriptorFile', 'a VMDK descriptor', _CONVERT),
    (0, b'vhdxfile', 'a VHDX disk image', _CONVERT, 'vhdx'),
    (0, b'conectix', *VHD),
    (0x40, b'\x7f\x10\xda\xbe', 'a VDI disk image', _CONVERT, 'vdi'),
    (0, b'WithoutFreeSpace', 'a Parallels disk image', _CONVERT),
    (0, b'WithouFreSpacExt', 'a Parallels disk image', _CONVERT),
    (0, b'Bochs Virtual HD Image', 'a Bochs disk image', _CONVERT),
    (0, b'#!/bin/sh\n#V2.0 Format\n', 'a cloop disk image', _CONVERT),
    (0, b'\x3a\xff\x26\xed', 'an Android sparse image',
     'make a plain one of it with simg2img first'),
    (0, b'LUKS\xba\xbe', 'a LUKS-encrypted volume', *_FOREIGN),
    (0, b'XFSB', 'an XFS filesystem', *_FOREIGN),
    (0, b'hsqs', 'a squashfs filesystem', _UNPACK, None, 'squashfs'),
    (0, b'sqsh', 'a squashfs filesystem', _UNPACK, None, 'squashfs'),
    (0, b'\x45\x3d\xcd\x28', 'a cramfs filesystem', *_FOREIGN),
    (0, b'-rom1fs-', 'a romfs filesystem', *_FOREIGN),
    (0, b'070701', 'a cpio archive', _RAMDISK),
    (0, b'070702', 'a cpio archive', _RAMDISK),
    (0, b'070707', 'a cpio archive (old format)', _UNPACK),
    (0, b'PK\x03\x04', 'a zip archive', _UNPACK, None, 'zip'),
    (0, b'Rar!\x1a\x07', 'a RAR archive', _UNPACK),
    (0, b'LZIP', 'an lzip-compressed file',
     'decompress it with lzip -d first'),
    (0, b'\x1f\x9d', 'a file packed by compress(1)',
     'decompress it with gzip -d first'),
    (0, b'LRZI', 'an lrzip-compressed file',
     'decompress it with lrzip -d first'),
    (0, b'7z\xbc\xaf\x27\x1c', 'a 7-Zip archive', _UNPACK),
    (0, b'!<arch>\ndebian', 'a Debian package'),
    (0, b'!<arch>\n', 'an ar archive'),
    (0, b'\xed\xab\xee\xdb', 'an RPM package'),
    (0, b'%PDF-', 'a PDF document'),
    (0, b'\x27\x05\x19\x56', 'a U-Boot image'),
    (0, b'\xd0\x0d\xfe\xed', 'a device tree or U-Boot FIT image'),
)  # fmt: skip

#: What may be left over from earlier in a file that has become something else.
_AFTER: _Table = (
    (0x10040, b'_BHRfS_M', 'a btrfs filesystem', *_FOREIGN),
    (0x8001, b'CD001', 'an ISO 9660 image', None, None, 'iso'),
    (0x8001, b'BEA01', 'a UDF filesystem', *_FOREIGN),
    (0x400, b'\x10\x20\xf5\xf2', 'an F2FS filesystem', *_FOREIGN),
    (0x400, b'\xe2\xe1\xf5\xe0', 'an EROFS filesystem', *_FOREIGN),
    (0x8000, b'JFS1', 'a JFS filesystem', *_FOREIGN),
    (0x10034, b'ReIsEr', 'a ReiserFS filesystem', *_FOREIGN),
    (0x1000, b'\xfc\x4e\x2b\xa9', 'a member of a RAID array', *_FOREIGN),
    (0, b'\xfc\x4e\x2b\xa9', 'a member of a RAID array', *_FOREIGN),
    *((sector * 512, b'LABELONE', 'an LVM physical volume', *_FOREIGN)
      for sector in range(4)),
    *((size * 1024 - 10, magic, 'swap space')
      for size in (4, 8, 16, 32, 64)
      for magic in (b'SWAPSPACE2', b'SWAP-SPACE')),
    (3, b'NTFS    ', 'an NTFS filesystem', *_FOREIGN),
    (3, b'EXFAT   ', 'an exFAT filesystem', *_FOREIGN),
    (54, b'FAT12   ', 'a FAT filesystem', _COPY),
    (54, b'FAT16   ', 'a FAT filesystem', _COPY),
    (82, b'FAT32   ', 'a FAT filesystem', _COPY),
    (_USTAR_AT, _USTAR, *_TAR),
    (0, b'\xc7\x71', 'a cpio archive (old format)', _UNPACK),
    (0, b'\x71\xc7', 'a cpio archive (old format)', _UNPACK),
    (0x202, b'HdrS', 'a Linux kernel (bzImage)', _KERNEL),
    (0x38, b'ARM\x64', 'a Linux kernel (ARM64 Image)', _KERNEL),
    (0x38, b'RSC\x05', 'a Linux kernel (RISC-V Image)', _KERNEL),
    (0x24, b'\x18\x28\x6f\x01', 'a Linux kernel (ARM zImage)', _KERNEL),
    (0x10008, b'S390EP', 'a Linux kernel (s390x)', _KERNEL),
    (4, b'zimg', 'a Linux kernel (EFI zboot)', _KERNEL),
    (0x200, partitions.GPT_MAGIC, *GPT),
    (0x1000, partitions.GPT_MAGIC, *GPT),
)  # fmt: skip

_ELF_TYPES = {
    1: 'an ELF object file',
    2: 'an ELF program',
    3: 'an ELF program or shared library',
    4: 'a core dump',
}

_WANTED = 'a root filesystem image'
#: How phrases end for what may have a root filesystem in it.
_HOLDING = ('archive', 'array', 'directory', 'disk', '-compressed file',
            'filesystem', 'image', 'volume')  # fmt: skip
_TAKEN = (
    'give a filesystem, disk, archive, directory, container image or live '
    'medium, as the page of sources in the documentation says'
)

#: How much of the data of a file that begins with zeros is looked at before
#: it is said to be nothing but zeros.
_ZEROS = 64 << 20


@dataclasses.dataclass(frozen=True)
class Content:
    """What the beginning of a file, or of a part of a disk, tells.

    :param superblock: of an ext2, ext3 or ext4 filesystem.
    :param damage: what is wrong with that, if it makes no sense.
    """

    found: Found
    superblock: Superblock | None = None
    damage: errors.DamagedError | None = None

    @property
    def phrase(self) -> str:
        """Say what it is, as in ``an XFS filesystem``."""
        return self.found.phrase

    def refused(self, name: str, before: str = '') -> errors.SourceError:
        """Say what it is, what it is not, and what to do about it."""
        wanted = 'image with a root filesystem'
        if self.phrase.endswith(_HOLDING):
            wanted = 'ext2, ext3 or ext4 filesystem'
        return errors.SourceError(
            f'{before}{self.phrase}, not an {wanted}',
            subject=name,
            hint='decompress it first'
            if before and self.found.foreign
            else self.found.hint or _TAKEN,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe(Content):
    """What a file is.

    :param special: what it is, if it is no regular file: ``a directory``.
    :param size: bytes of the file or block device.
    :param state: what :func:`amiclient.locks.state` said.
    :param compression: as :func:`compression` has it.
    :param head: its first bytes.
    """

    path: pathlib.Path
    special: str | None = None
    size: int = 0
    state: locks.State = ()
    compression: str | None = None
    head: bytes = dataclasses.field(default=b'', repr=False)

    @property
    def is_device(self) -> bool:
        """Whether it is a block device, on which nothing is packed."""
        return self.special == opening.BLOCK_DEVICE

    @property
    def is_directory(self) -> bool:
        return self.special == DIRECTORY.phrase

    @property
    def is_tar(self) -> bool:
        """Whether it is a tar archive that is not compressed."""
        return self.special is None and is_tar(self.head)

    @property
    def is_container(self) -> bool:
        """Whether it is more than a filesystem as it is."""
        held = self.found.disk or self.found.holds or self.compression
        return self.is_directory or self.is_tar or held is not None

    @property
    def boot_sector(self) -> int:
        """Bytes at its beginning that must be zeros; 0 if they do no harm.

        Else Nova takes a filesystem for a partitioned disk, and the server
        fails to build.
        """
        found = self.head[510:512] == partitions.SIGNATURE
        found = found or self.head.startswith(partitions.GPT_MAGIC, 512)
        return superblock.OFFSET if found else 0

    def root_image(self) -> layout.RootImage:
        """Take it for a root filesystem, if it is one.

        :raises SourceError: if it is not an ext2, ext3 or ext4 filesystem
            from byte 0 on. The text tells what it is instead, and what to do
            about it.
        :raises DamagedError: if its superblock makes no sense, or it is
            shorter than that says.
        """
        name = errors.shown(self.path)
        if self.special and not (self.is_device or self.is_directory):
            raise errors.SourceError(
                f'{self.special}, not {_WANTED}', subject=name
            )
        if self.damage is not None:
            raise self.damage
        block = self.superblock
        if block is None:
            raise self.refused(name)
        if block.size > self.size:
            raise errors.DamagedError(
                f'cut short: its {block.filesystem} filesystem takes '
                f'{block.size} bytes, and {self.size} are there',
                subject=name,
                hint='get a whole copy of it',
            )
        return layout.RootImage(
            self.path,
            self.size,
            self.is_device,
            block,
            self.state,
            self.boot_sector,
        )


def look(path: pathlib.Path, descriptor: int | None = None) -> Probe:
    """Tell what a file is, by its content.

    :param descriptor: of the file, if it is open already.
    :raises SourceError: if it is not there or cannot be read.
    """
    if descriptor is not None:
        with opening.told(path), open(descriptor, 'rb', closefd=False) as file:
            return _look(path, file)
    special = opening.special(path)
    if special and special != opening.BLOCK_DEVICE:
        found = DIRECTORY if special == DIRECTORY.phrase else Found(special)
        return Probe(found, path=path, special=special)
    with opening.opened(path, wanted=_WANTED, devices=True) as file:
        return _look(path, file)


def _look(path: pathlib.Path, file: BinaryIO) -> Probe:
    is_device = stat.S_ISBLK(os.fstat(file.fileno()).st_mode)
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(HEAD)
    content = Content(EMPTY)
    if head:
        file.seek(max(0, size - TAIL))
        content = classify(
            head, file.read(TAIL), size=size, name=errors.shown(path)
        )
    if content.superblock and _is_partitioned(file, head, size):
        content = Content(MBR)
    if head and not any(head):
        content = Content(Found(_zeros(file, size)))
    packed = None if is_device else compression_in(file)
    return Probe(
        content.found,
        content.superblock,
        content.damage,
        path=path,
        special=opening.BLOCK_DEVICE if is_device else None,
        size=size,
        state=locks.state(file.fileno()),
        compression=packed,
        head=head,
    )


def identify(path: pathlib.Path) -> str:
    """Tell what a file is in a short phrase: ``an XFS filesystem``."""
    return look(path).phrase


def open_root(
    path: pathlib.Path, found: Probe | None = None
) -> layout.RootImage:
    """Take a file for a root filesystem: see :meth:`Probe.root_image`.

    :param found: what it is, if that was asked already.
    """
    return (found or look(path)).root_image()


def classify(
    head: bytes,
    tail: bytes = b'',
    *,
    size: int = 1 << 62,
    name: str = 'data',
) -> Content:
    """Tell what data are.

    :param head: the first HEAD bytes, or all there are.
    :param tail: the last TAIL bytes, if they are known.
    :param size: bytes of the whole.
    :param name: what to call it in errors.
    """
    if found := _before(head):
        return Content(found)
    data = head[superblock.OFFSET : superblock.OFFSET + superblock.SIZE]
    if _is_journal(data):
        return Content(JOURNAL)
    damage: errors.DamagedError | None = None
    try:
        block = superblock.parse(data, name)
    except superblock.NotExtError:
        pass
    except errors.DamagedError as error:
        # Its magic number is two bytes only: it may be something else.
        damage = error
    else:
        return Content(Found(f'an {block.filesystem} filesystem'), block)
    if found := _after(head, tail, size):
        return Content(found)
    if damage:
        return Content(_DAMAGED, None, damage)
    return Content(Found('unrecognised data'))


def examine(head: bytes, size: int, name: str) -> Content:
    """Tell what a part of a disk is, as :func:`classify` does."""
    if not any(head):
        return Content(Found('nothing but zeros at its beginning'))
    return classify(head, size=size, name=name)


def _before(head: bytes) -> Found | None:
    if found := _search(_BEFORE, head):
        return found
    if packed := compression(head[:MAGIC_SIZE]):
        article = 'an' if packed[0] in 'xl' else 'a'
        return Found(
            f'{article} {packed}-compressed file',
            f'decompress it with {_DECOMPRESS[packed]} first',
        )
    if head[:4] == b'\x7fELF' and len(head) >= 18:
        order = '>' if head[5] == 2 else '<'
        kind = struct.unpack_from(f'{order}H', head, 16)[0]
        return Found(_ELF_TYPES.get(kind, 'an ELF file'))
    return None


def _after(head: bytes, tail: bytes, size: int) -> Found | None:
    if found := _search(_AFTER, head):
        return found
    if tail.startswith(b'conectix'):
        return VHD
    if tail.startswith(b'koly'):
        return Found('a DMG disk image', _CONVERT)
    if is_tar(head):
        return _TAR
    if partitions.starts(head, size):
        return MBR
    if head[:2] == b'MZ':
        return Found('an EFI or Windows program')
    return _text(head)


def disk_format(head: bytes) -> str | None:
    """Tell what QEMU calls a disk image; None for all else, as a raw disk."""
    found = _search(_BEFORE, head)
    return found.disk if found and not found.foreign else None


def is_tar(head: bytes) -> bool:
    """Tell whether data begin with the header of a tar archive.

    By its checksum as well, because the oldest archives have no magic number;
    and what has one is an archive, though it may be damaged.
    """
    if head.startswith(_USTAR, _USTAR_AT):
        return True
    if len(head) < TAR_BLOCK or not any(head[:TAR_BLOCK]):
        return False
    try:
        tarfile.TarInfo.frombuf(head[:TAR_BLOCK], 'utf-8', 'surrogateescape')
    except (tarfile.TarError, ValueError):
        return False
    return True


def compression(head: bytes) -> str | None:
    """Tell how data are compressed.

    :param head: their first MAGIC_SIZE bytes, or all there are.
    :returns: ``gzip``, ``xz``, ``lzma``, ``bzip2``, ``zstd``, ``lz4``,
        ``lzop`` or None. What begins with a skippable frame is taken for
        zstd if that is longer than the head; :func:`compression_in` looks
        behind it.
    """
    if frames.is_skippable(head):
        if 12 + int.from_bytes(head[4:8], 'little') > len(head):
            return 'zstd'
        return compression_in(io.BytesIO(head))
    for magic, kind, _ in _PACKED:
        if head.startswith(magic):
            return kind
    if head[:3] == b'BZh' and head[4:10] in _BZIP2_BLOCKS:
        return 'bzip2'
    return 'lzma' if _is_lzma_alone(head) else None


def compression_in(file: BinaryIO, offset: int = 0) -> str | None:
    """Tell how a file is compressed, as :func:`compression` does.

    :param offset: where in the file that begins, in bytes.
    """
    file.seek(offset)
    head = file.read(MAGIC_SIZE)
    if not frames.is_skippable(head):
        return compression(head)
    file.seek(frames.skipped(file, offset))
    return frames.KINDS.get(file.read(4))


def _is_lzma_alone(head: bytes) -> bool:
    """Tell the format without a magic number, as liblzma and file(1) do.

    Source: lzma-file-format.txt of XZ Utils, sections 1.1 and 1.2.
    """
    if len(head) < 13 or head[0] != 0x5D:
        return False
    dictionary, size = struct.unpack_from('<IQ', head, 1)
    if not dictionary or (size >= 2**38 and size != 2**64 - 1):
        return False
    # A power of two, or the sum of two neighbouring ones.
    odd = dictionary >> (dictionary & -dictionary).bit_length() - 1
    return dictionary >= 4096 and odd in (1, 3)


def _search(table: _Table, head: bytes) -> Found | None:
    for offset, magic, *found in table:
        if head.startswith(magic, offset):
            return Found(*found)
    return None


def _text(head: bytes) -> Found | None:
    head = head.removeprefix(codecs.BOM_UTF8)
    text = head.lstrip()[:512].lower()
    # A character may be cut in two where the head ends.
    decoded = head[:4096].decode('utf-8', 'replace').rstrip('\ufffd')
    if not text or not all(
        (c.isprintable() and c != '\ufffd') or c in '\t\n\r\f\x1b'
        for c in decoded
    ):
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


def _is_journal(data: bytes) -> bool:
    """Tell an external journal, whose superblock has little else in it."""
    incompat = int.from_bytes(data[0x60:0x64], 'little')
    device = bool(incompat & superblock.INCOMPAT_JOURNAL_DEV)
    return data[0x38:0x3A] == b'\x53\xef' and device


def _is_partitioned(file: BinaryIO, head: bytes, size: int) -> bool:
    """Tell if what looks like a filesystem has been partitioned since.

    Partitioning a disk leaves the superblock of a filesystem that was on the
    whole of it. On the other hand a filesystem may have an old boot sector.
    So the partitions count if there is a filesystem in one of them.
    """
    for start in partitions.starts(head, size):
        file.seek(start)
        found = classify(file.read(HEAD), size=size - start)
        if found.damage is None and found.phrase.endswith('filesystem'):
            return True
    return False


def _zeros(file: BinaryIO, size: int) -> str:
    position, left = 0, _ZEROS
    while left > 0:
        try:
            position = os.lseek(file.fileno(), position, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            # There are only holes from here to the end.
            return 'nothing but zeros'
        data = os.pread(file.fileno(), 1024 * 1024, position)
        if any(data):
            break
        position += len(data)
        left -= len(data)
        if position >= size:
            return 'nothing but zeros'
    return 'unrecognised data that begin with zeros'
