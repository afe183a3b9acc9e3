# SPDX-License-Identifier: Apache-2.0

"""The superblock of an ext2, ext3 or ext4 filesystem.

The layout is that of ``struct ext2_super_block`` (e2fsprogs,
lib/ext2fs/ext2_fs.h) and of the kernel's Documentation/filesystems/ext4.
"""

import dataclasses
import os
import pathlib
import struct
import uuid

from amiclient import errors
from amiclient import sparse

#: Where it is: bytes from the beginning of the filesystem, and its size.
OFFSET = 1024
SIZE = 1024

_MAGIC = 0xEF53

#: Blocks that a journal has at least and at most: mke2fs(8), -J size=;
#: figure_journal_size() in e2fsprogs, misc/util.c.
SMALLEST_JOURNAL = 1024
LARGEST_JOURNAL = 10_240_000

#: Blocks that a file of orphans has at most: EXT4_DEFAULT_ORPHAN_FILE_BLOCKS
#: in e2fsprogs, lib/ext2fs/orphan.c; newer kernels take no larger one.
LARGEST_ORPHAN_FILE = 512

#: More block groups than in 128 TiB, of the usual kind, nobody shrinks: their
#: descriptors alone would fill the memory.
_GROUPS = 1 << 20

#: Seconds between two updates of the block for multiple mount protection: the
#: kernel's EXT4_MMP_MAX_UPDATE_INTERVAL. Programs wait for twice as long.
MMP_INTERVAL = 300

COMPAT_HAS_JOURNAL = 0x0004
COMPAT_RESIZE_INODE = 0x0010
COMPAT_SPARSE_SUPER2 = 0x0200
COMPAT_STABLE_INODES = 0x0800
COMPAT_ORPHAN_FILE = 0x1000
INCOMPAT_RECOVER = 0x0004
INCOMPAT_JOURNAL_DEV = 0x0008
INCOMPAT_META_BG = 0x0010
INCOMPAT_64BIT = 0x0080
INCOMPAT_MMP = 0x0100
RO_COMPAT_SPARSE_SUPER = 0x0001
RO_COMPAT_GDT_CSUM = 0x0010
RO_COMPAT_QUOTA = 0x0100
RO_COMPAT_BIGALLOC = 0x0200
RO_COMPAT_METADATA_CSUM = 0x0400
RO_COMPAT_SHARED_BLOCKS = 0x4000
RO_COMPAT_ORPHAN_PRESENT = 0x10000

#: With sparse_super, the groups after the first with a copy of the
#: superblock: 1 and the powers of 3, 5 and 7. There are fewer than 2**32.
SPARSE_GROUPS: list[int] = sorted(
    {base**power for base in (3, 5, 7) for power in range(21)}
)

#: Values of s_state.
STATE_CLEAN = 0x0001
_STATE_ERRORS = 0x0002

#: The names that mke2fs, tune2fs and dumpe2fs use, by bit.
_COMPAT = {
    0x0001: 'dir_prealloc',
    0x0002: 'imagic_inodes',
    0x0004: 'has_journal',
    0x0008: 'ext_attr',
    0x0010: 'resize_inode',
    0x0020: 'dir_index',
    0x0040: 'lazy_bg',
    0x0100: 'snapshot_bitmap',
    0x0200: 'sparse_super2',
    0x0400: 'fast_commit',
    0x0800: 'stable_inodes',
    0x1000: 'orphan_file',
}
_INCOMPAT = {
    0x0001: 'compression',
    0x0002: 'filetype',
    0x0004: 'needs_recovery',
    0x0008: 'journal_dev',
    0x0010: 'meta_bg',
    0x0040: 'extent',
    0x0080: '64bit',
    0x0100: 'mmp',
    0x0200: 'flex_bg',
    0x0400: 'ea_inode',
    0x1000: 'dirdata',
    0x2000: 'metadata_csum_seed',
    0x4000: 'large_dir',
    0x8000: 'inline_data',
    0x10000: 'encrypt',
    0x20000: 'casefold',
}
_RO_COMPAT = {
    0x0001: 'sparse_super',
    0x0002: 'large_file',
    0x0008: 'huge_file',
    0x0010: 'uninit_bg',
    0x0020: 'dir_nlink',
    0x0040: 'extra_isize',
    0x0080: 'has_snapshot',
    0x0100: 'quota',
    0x0200: 'bigalloc',
    0x0400: 'metadata_csum',
    0x0800: 'replica',
    0x1000: 'read-only',
    0x2000: 'project',
    0x4000: 'shared_blocks',
    0x8000: 'verity',
    0x10000: 'orphan_present',
}

#: Features that ext2, and ext3 as well, do not have; any of them makes the
#: filesystem an ext4, as blkid tells them apart.
_EXT3_INCOMPAT = 0x0002 | 0x0004 | 0x0010
_EXT3_RO_COMPAT = 0x0001 | 0x0002 | 0x0004


@dataclasses.dataclass(frozen=True)
class Superblock:
    """What a superblock says.

    :param filesystem: ``ext2``, ``ext3`` or ``ext4``.
    :param block_size: bytes.
    :param block_count: blocks of the filesystem.
    :param free_blocks: blocks that are free, by the superblock's own count.
    :param cluster_ratio: blocks in a cluster; 1 but for bigalloc.
    :param blocks_per_group: blocks in a block group.
    :param inode_size: bytes.
    :param desc_size: bytes of a group descriptor.
    :param reserved_gdt_blocks: blocks kept for the group descriptor table to
        grow into, after each copy of it.
    :param backup_groups: with sparse_super2, the groups with a backup.
    :param clean: whether it was unmounted cleanly, with no error recorded.
    :param orphans: whether deleted inodes still wait for being cleaned up.
    :param mmp_block: where the block for multiple mount protection is; 0 if
        there is none.
    :param mmp_interval: seconds between two updates of it.
    :param orphan_inode: the inode of the file that names those; 0 for none.
    :param written: time of the last write, seconds since the epoch.
    :param mounted: time of the last mount that let anybody write.
    """

    filesystem: str
    block_size: int
    block_count: int
    free_blocks: int
    reserved_blocks: int
    cluster_ratio: int
    first_data_block: int
    blocks_per_group: int
    inode_count: int
    free_inodes: int
    inodes_per_group: int
    inode_size: int
    first_inode: int
    desc_size: int
    reserved_gdt_blocks: int
    first_meta_bg: int
    backup_groups: tuple[int, int]
    log_groups_per_flex: int
    compat: int
    incompat: int
    ro_compat: int
    uuid: str
    label: str
    clean: bool
    orphans: bool
    journal_inode: int
    journal_device: bool
    orphan_inode: int
    mmp_block: int
    mmp_interval: int
    written: int
    mounted: int

    @property
    def size(self) -> int:
        """Bytes that the filesystem takes: blocks times block size."""
        return self.block_count * self.block_size

    @property
    def in_use(self) -> int:
        """Bytes in use, metadata included."""
        # The count is wrong after resize2fs has shrunk a bigalloc filesystem.
        return max(0, self.block_count - self.free_blocks) * self.block_size

    @property
    def used_inodes(self) -> int:
        """The number of inodes in use, the reserved ones included."""
        return self.inode_count - self.free_inodes

    @property
    def group_count(self) -> int:
        blocks = self.block_count - self.first_data_block
        return -(-blocks // self.blocks_per_group)

    @property
    def inode_blocks(self) -> int:
        """Blocks of one group's inode table."""
        return -(-self.inodes_per_group * self.inode_size // self.block_size)

    @property
    def needs_recovery(self) -> bool:
        """Whether the journal holds what is not yet in place."""
        return bool(self.incompat & INCOMPAT_RECOVER)

    @property
    def has_journal(self) -> bool:
        """Whether there is a journal, inside or outside."""
        return bool(self.compat & COMPAT_HAS_JOURNAL)

    @property
    def has_mmp(self) -> bool:
        """Whether a host that mounts it keeps others from doing so."""
        return bool(self.incompat & INCOMPAT_MMP)

    @property
    def group_checksums(self) -> bool:
        """Whether groups may be left uninitialised (and have checksums)."""
        flags = RO_COMPAT_GDT_CSUM | RO_COMPAT_METADATA_CSUM
        return bool(self.ro_compat & flags)

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the features, as dumpe2fs prints them."""
        return tuple(
            name
            for word, names in (
                (self.compat, _COMPAT),
                (self.incompat, _INCOMPAT),
                (self.ro_compat, _RO_COMPAT),
            )
            for bit, name in names.items()
            if word & bit
        )

    def first_block(self, group: int) -> int:
        return self.first_data_block + group * self.blocks_per_group

    def has_backup(self, group: int) -> bool:
        """Whether a group begins with a copy of the superblock.

        The rule is that of ext2fs_bg_has_super() in e2fsprogs.
        """
        if group == 0:
            return True
        if self.compat & COMPAT_SPARSE_SUPER2:
            return group in self.backup_groups
        return (
            not self.ro_compat & RO_COMPAT_SPARSE_SUPER
            or group in SPARSE_GROUPS
        )


class NotExtError(errors.SourceError):
    """There is no ext2, ext3 or ext4 filesystem at byte 0."""


def parse(data: bytes, name: str) -> Superblock:
    """Parse a superblock.

    :param data: its 1024 bytes.
    :param name: what to call the file in an error.
    :raises NotExtError: if it is no superblock at all.
    :raises DamagedError: if its fields contradict each other.
    """
    if len(data) < SIZE or _u16(data, 0x38) != _MAGIC:
        raise NotExtError('not an ext2, ext3 or ext4 filesystem', subject=name)
    compat, incompat, ro_compat = struct.unpack_from('<3I', data, 0x5C)
    dynamic = _u32(data, 0x4C) > 0
    if not dynamic:
        compat = incompat = ro_compat = 0
    wide = bool(incompat & INCOMPAT_64BIT)
    mmp = bool(incompat & INCOMPAT_MMP)
    log_block, log_cluster = _u32(data, 0x18), _u32(data, 0x1C)
    bigalloc = bool(ro_compat & RO_COMPAT_BIGALLOC)
    if (
        log_block > 6
        or log_cluster > 22
        or (bigalloc and log_cluster < log_block)
    ):
        raise _damaged(name)
    ratio = 1 << (log_cluster - log_block) if bigalloc else 1
    high = 1 if wide else 0
    found = Superblock(
        filesystem=_flavour(compat, incompat, ro_compat),
        block_size=1024 << log_block,
        block_count=_u32(data, 0x04) | high * _u32(data, 0x150) << 32,
        reserved_blocks=_u32(data, 0x08) | high * _u32(data, 0x154) << 32,
        free_blocks=_u32(data, 0x0C) | high * _u32(data, 0x158) << 32,
        cluster_ratio=ratio,
        first_data_block=_u32(data, 0x14),
        blocks_per_group=_u32(data, 0x20),
        inode_count=_u32(data, 0x00),
        free_inodes=_u32(data, 0x10),
        inodes_per_group=_u32(data, 0x28),
        inode_size=_u16(data, 0x58) if dynamic else 128,
        first_inode=_u32(data, 0x54) if dynamic else 11,
        desc_size=(_u16(data, 0xFE) or 64) if wide else 32,
        reserved_gdt_blocks=_u16(data, 0xCE),
        first_meta_bg=_u32(data, 0x104),
        backup_groups=struct.unpack_from('<2I', data, 0x24C),
        log_groups_per_flex=data[0x174],
        compat=compat,
        incompat=incompat,
        ro_compat=ro_compat,
        uuid=str(uuid.UUID(bytes=data[0x68:0x78])),
        label=data[0x78:0x88].split(b'\0')[0].decode('utf-8', 'replace'),
        clean=_u16(data, 0x3A) & (STATE_CLEAN | _STATE_ERRORS) == STATE_CLEAN,
        orphans=_u32(data, 0xE8) != 0
        or bool(ro_compat & RO_COMPAT_ORPHAN_PRESENT),
        journal_inode=_u32(data, 0xE0),
        journal_device=_u32(data, 0xE4) != 0,
        orphan_inode=_u32(data, 0x280) if compat & COMPAT_ORPHAN_FILE else 0,
        mmp_block=_u32(data, 0x168) | _u32(data, 0x16C) << 32 if mmp else 0,
        mmp_interval=_u16(data, 0x166) if mmp else 0,
        written=_u32(data, 0x30) | data[0x274] << 32,
        mounted=_u32(data, 0x2C) | data[0x275] << 32,
    )
    _check(found, name)
    return found


def read(path: pathlib.Path) -> Superblock:
    """Read the superblock of a file or block device.

    :raises NotExtError: if there is none.
    :raises DamagedError: if its fields contradict each other.
    :raises SourceError: if the file cannot be read, naming the offset.
    :raises OSError: if the file cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return load(descriptor, str(path))
    finally:
        os.close(descriptor)


def load(descriptor: int, name: str) -> Superblock:
    """Read the superblock of what is open; see :func:`read`."""
    return parse(sparse.read_at(descriptor, SIZE, OFFSET), name)


def _flavour(compat: int, incompat: int, ro_compat: int) -> str:
    if incompat & ~_EXT3_INCOMPAT or ro_compat & ~_EXT3_RO_COMPAT:
        return 'ext4'
    return 'ext3' if compat & COMPAT_HAS_JOURNAL else 'ext2'


def _check(found: Superblock, name: str) -> None:
    # Bounds by which every later computation stays small and defined,
    # whatever a hostile superblock says (e2fsprogs' ext2fs_open2() has the
    # same checks).
    bits = found.block_size * 8
    sane = (
        found.mmp_interval <= MMP_INTERVAL
        and 0 < found.blocks_per_group <= bits * found.cluster_ratio
        and 0 < found.inodes_per_group <= bits
        and found.inode_size in (128, 256, 512, 1024, 2048, 4096, 8192)
        and found.inode_size <= found.block_size
        and found.desc_size in (32, 64, 128, 256, 512, 1024)
        and found.desc_size <= found.block_size
        and found.first_data_block in (0, 1)
        and found.block_count > found.first_data_block
        and found.free_inodes <= found.inode_count
        and found.blocks_per_group % found.cluster_ratio == 0
        and found.group_count <= _GROUPS
        and found.inode_count == found.inodes_per_group * found.group_count
        and found.reserved_gdt_blocks <= found.block_size // 4
    )
    if not sane:
        raise _damaged(name)


def _damaged(name: str) -> errors.DamagedError:
    return errors.DamagedError(
        'the superblock is damaged',
        subject=name,
        hint='repair a copy with e2fsck -b, or look at it with dumpe2fs',
    )


def _u16(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 2], 'little')


def _u32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], 'little')
