# SPDX-License-Identifier: Apache-2.0

"""Superblock, group descriptors, bitmaps and the inodes of ext4 itself.

Source: Documentation/filesystems/ext4 of the kernel; for the resize inode
ext2fs_create_resize_inode() in lib/ext2fs/res_gdt.c, for the journal
Documentation/filesystems/ext4/journal.rst.
"""

from collections.abc import Iterable
import dataclasses
import struct

from amiclient.ext.writer import checksums
from amiclient.ext.writer import placement

#: What a host must know to grow it. All of it is older than e2fsprogs 1.43
#: (2016) and Linux 4.0; what is newer (orphan_file, metadata_csum_seed,
#: casefold, ...) would be refused there.
_COMPAT = 0x8 | 0x20  # ext_attr, dir_index
_COMPAT_JOURNAL = 0x4
_COMPAT_RESIZE_INODE = 0x10
_INCOMPAT = 0x2 | 0x40 | 0x80 | 0x200  # filetype, extents, 64bit, flex_bg
#: sparse_super, large_file, huge_file, dir_nlink, extra_isize, metadata_csum
_RO_COMPAT = 0x1 | 0x2 | 0x8 | 0x20 | 0x40 | 0x400

ROOT_INODE = 2
RESIZE_INODE = 7
JOURNAL_INODE = 8
LOST_AND_FOUND_INODE = 11

#: Blocks that only root may use: 1 in so many, as mke2fs has it.
_ROOT_PART = 20

_INODE_ZEROED = 0x4
#: EXT2_FLAGS_UNSIGNED_HASH: names are hashed as bytes without a sign, on
#: whatever machine.
_UNSIGNED_HASH = 0x2
#: user_xattr and acl, as mke2fs has it.
_MOUNT_OPTIONS = 0xC

_POINTERS = placement.BLOCK // 4


@dataclasses.dataclass(frozen=True)
class Identity:
    """What tells a filesystem from others.

    :param label: up to 16 bytes.
    :param time: when it was made, in seconds since 1970.
    """

    uuid: bytes
    hash_seed: bytes
    label: bytes
    time: int

    @property
    def checksum_seed(self) -> int:
        """The seed of the checksums."""
        return checksums.crc32c(0xFFFFFFFF, self.uuid)


@dataclasses.dataclass(frozen=True)
class Journal:
    """Where the journal is.

    :param body: what is in its inode about that.
    :param size: bytes.
    """

    body: bytes
    size: int


class Groups:
    """The block groups of a filesystem that has its final size.

    :param space: what is taken.
    :param geometry: the size of everything.
    :param inode_count: inodes in use, with the reserved ones.
    :param directories: numbers of the inodes that are directories.
    :param seed: of the checksums.
    """

    def __init__(
        self,
        space: placement.Space,
        geometry: placement.Geometry,
        inode_count: int,
        directories: Iterable[int],
        seed: int,
    ) -> None:
        self.geometry = geometry
        self.table = space.table
        self._seed = seed
        self._inode_count = inode_count
        self._used = _used(space, geometry)
        self._directories = [0] * geometry.groups
        for number in directories:
            self._directories[(number - 1) // geometry.inodes] += 1
        self.free_blocks = 0
        self.bitmaps: list[tuple[int, bytes]] = []
        self.descriptors = b''.join(
            self._group(number) for number in range(geometry.groups)
        )

    @property
    def free_inodes(self) -> int:
        """How many inodes are not in use."""
        return self.geometry.inodes * self.geometry.groups - self._inode_count

    def _group(self, number: int) -> bytes:
        geometry = self.geometry
        first = number * geometry.per_group
        count = min(geometry.per_group, geometry.blocks - first)
        blocks = _bitmap(
            (max(0, start - first), min(count, end - first))
            for start, end in self._used
            if start < first + count and end > first
        )
        free = count - int.from_bytes(blocks, 'little').bit_count()
        self.free_blocks += free
        blocks = _filled(blocks, count)
        per_group = geometry.inodes
        in_use = min(max(0, self._inode_count - number * per_group), per_group)
        inodes = _filled(_bitmap([(0, in_use)] if in_use else []), per_group)
        where = geometry.bitmaps[number]
        self.bitmaps += zip(where, (blocks, inodes), strict=True)
        block_check = checksums.crc32c(
            self._seed, blocks[: geometry.per_group // 8]
        )
        inode_check = checksums.crc32c(self._seed, inodes[: per_group // 8])
        unused = per_group - in_use
        data = struct.pack(
            '<IIIHHHHIHHHHIIIHHHHIHHI',
            where[0],
            where[1],
            geometry.tables[number],
            free,
            unused,
            self._directories[number],
            _INODE_ZEROED,
            0,
            block_check & 0xFFFF,
            inode_check & 0xFFFF,
            unused,
            0,
            # The high halves: there are fewer than 2**32 blocks.
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            block_check >> 16,
            inode_check >> 16,
            0,
        )
        check = checksums.crc32c(
            checksums.crc32c(self._seed, struct.pack('<I', number)), data
        )
        return data[:30] + struct.pack('<H', check & 0xFFFF) + data[32:]

    def superblock(
        self, identity: Identity, journal: Journal | None, group: int
    ) -> bytes:
        """Make the superblock, or a copy of it.

        :param group: that it is for.
        """
        geometry = self.geometry
        data = bytearray(1024)
        low, high = identity.time & 0xFFFFFFFF, identity.time >> 32 & 0xFF
        reserved = self.table - self.descriptor_blocks
        compat = _COMPAT | _COMPAT_RESIZE_INODE
        if journal:
            compat |= _COMPAT_JOURNAL
        struct.pack_into(
            '<13IHhHHHHIIIIHHIHHIII16s16s',
            data,
            0,
            geometry.inodes * geometry.groups,
            geometry.blocks,
            min(geometry.blocks // _ROOT_PART, geometry.blocks // 2),
            self.free_blocks,
            self.free_inodes,
            0,
            2,
            2,
            geometry.per_group,
            geometry.per_group,
            geometry.inodes,
            0,
            low,
            0,
            -1,
            0xEF53,
            1,
            1,
            0,
            low,
            0,
            0,
            1,
            0,
            0,
            placement.RESERVED_INODES + 1,
            256,
            group,
            compat,
            _INCOMPAT,
            _RO_COMPAT,
            identity.uuid,
            identity.label,
        )
        struct.pack_into('<H', data, 0xCE, reserved)
        data[0xEC:0xFC] = identity.hash_seed
        struct.pack_into('<BB', data, 0xFC, checksums.HALF_MD4, 0)
        struct.pack_into('<H', data, 0xFE, placement.DESCRIPTOR)
        struct.pack_into('<III', data, 0x100, _MOUNT_OPTIONS, 0, low)
        if journal:
            struct.pack_into('<I', data, 0xE0, JOURNAL_INODE)
            data[0xFD] = 1
            sizes = struct.pack(
                '<II', journal.size >> 32, journal.size & 0xFFFFFFFF
            )
            data[0x10C:0x150] = journal.body + sizes
        struct.pack_into('<HHI', data, 0x15C, 32, 32, _UNSIGNED_HASH)
        struct.pack_into('<BB', data, 0x174, 4, 1)
        # wtime, mtime, mkfs_time and lastcheck beyond 32 bits.
        struct.pack_into('<BBBB', data, 0x274, high, 0, high, high)
        check = checksums.crc32c(0xFFFFFFFF, bytes(data[:0x3FC]))
        struct.pack_into('<I', data, 0x3FC, check)
        return bytes(data)

    @property
    def descriptor_blocks(self) -> int:
        """Blocks of group descriptors that are in use."""
        return -(-self.geometry.groups // placement.DESCRIPTORS_PER_BLOCK)

    def reserved_descriptors(self) -> tuple[dict[int, bytes], bytes, int]:
        """Make what makes up the resize inode.

        :returns: the blocks that are reserved in the first group, which name
            those in the others; the block that names them; and how many
            blocks there are in all, without that one.
        """
        used = self.descriptor_blocks
        backups = placement.backups(self.geometry.groups)
        pointers = [0] * _POINTERS
        blocks = {}
        for index in range(used, self.table):
            # The first data block is 0, so the table begins in block 1.
            pointers[index % _POINTERS] = 1 + index
            starts = [group * self.geometry.per_group for group in backups]
            others = [start + 1 + index for start in starts]
            blocks[1 + index] = struct.pack(f'<{len(others)}I', *others).ljust(
                placement.BLOCK, b'\0'
            )
        count = (self.table - used) * (1 + len(backups))
        return blocks, struct.pack(f'<{_POINTERS}I', *pointers), count


#: What the resize inode says of its size: all that double indirection leads
#: to.
RESIZE_SIZE = (_POINTERS**2 + _POINTERS + 12) * placement.BLOCK


def journal_superblock(blocks: int) -> bytes:
    """Make the first block of an empty journal."""
    data = struct.pack(
        '>IIIIIIII', 0xC03B3998, 4, 0, placement.BLOCK, blocks, 1, 1, 0
    )
    # s_nr_users is 1.
    return (data.ljust(0x40, b'\0') + struct.pack('>I', 1)).ljust(
        placement.BLOCK, b'\0'
    )


def _used(
    space: placement.Space, geometry: placement.Geometry
) -> list[tuple[int, int]]:
    """List what is taken, as start and end."""
    used = []
    position = 0
    for start, count in sorted(space.free):
        used.append((position, start))
        position = start + count
    used.append((position, space.end))
    for group in placement.backups(geometry.groups):
        start = group * geometry.per_group
        if start >= space.end:
            used.append((start, start + 1 + space.table))
    return [run for run in used if run[0] < run[1]]


def _bitmap(runs: Iterable[tuple[int, int]]) -> bytes:
    bits = 0
    for start, end in runs:
        bits |= (1 << end) - (1 << start)
    return bits.to_bytes(placement.BLOCK, 'little')


def _filled(bitmap: bytes, count: int) -> bytes:
    """Set the bits that stand for nothing."""
    bits = int.from_bytes(bitmap, 'little')
    bits |= (1 << 8 * placement.BLOCK) - (1 << count)
    return bits.to_bytes(placement.BLOCK, 'little')
