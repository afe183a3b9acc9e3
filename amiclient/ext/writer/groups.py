# SPDX-License-Identifier: Apache-2.0

"""What a new filesystem is to be like, and what describes the whole of it.

That is superblock, group descriptors, bitmaps and the inodes of ext4 itself.

Source: Documentation/filesystems/ext4 of the kernel; for the resize inode
ext2fs_create_resize_inode() in lib/ext2fs/res_gdt.c, for the journal
Documentation/filesystems/ext4/journal.rst.
"""

from collections.abc import Iterable
import dataclasses
import hashlib
import stat
import struct
from typing import cast

from amiclient import errors
from amiclient.ext import layout
from amiclient.ext import superblock
from amiclient.ext.writer import checksums
from amiclient.ext.writer import nodes
from amiclient.ext.writer import placement
from amiclient import units

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

_LABEL = 16
_NANO = 10**9

_POINTERS = placement.BLOCK // 4


@dataclasses.dataclass(frozen=True)
class Wish:
    """What a filesystem is to be like, besides what is in it.

    :param label: None for no label.
    :param uuid: 16 bytes; None for one that is made of the content.
    :param size: bytes of the whole; as few as possible if None.
    :param time: when it is made, in seconds since 1970; None for the newest
        time in it.
    """

    label: str | None = None
    uuid: bytes | None = None
    size: int | None = None
    options: units.FilesystemOptions = units.DEFAULTS
    time: int | None = None


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
        return checksums.crc32c(0xFFFFFFFF, self.uuid)


class Groups:
    """The block groups of a filesystem that has its final size.

    :param space: what is taken.
    :param placed: the size of everything.
    :param inode_count: inodes in use, with the reserved ones.
    :param directories: numbers of the inodes that are directories.
    :param seed: of the checksums.
    """

    def __init__(
        self,
        space: placement.Space,
        placed: placement.Placement,
        inode_count: int,
        directories: Iterable[int],
        seed: int,
    ) -> None:
        self.placed = placed
        self.table = space.table
        self._seed = seed
        self._inode_count = inode_count
        self._used = _used(space, placed)
        self._directories = [0] * placed.groups
        for number in directories:
            self._directories[(number - 1) // placed.inodes] += 1
        self.free_blocks = 0
        self.bitmaps: list[tuple[int, bytes]] = []
        self.descriptors = b''.join(
            self._group(number) for number in range(placed.groups)
        )

    def _group(self, number: int) -> bytes:
        placed = self.placed
        first = number * placed.per_group
        count = min(placed.per_group, placed.blocks - first)
        blocks = _bitmap(
            (max(0, start - first), min(count, end - first))
            for start, end in self._used
            if start < first + count and end > first
        )
        free = count - int.from_bytes(blocks, 'little').bit_count()
        self.free_blocks += free
        blocks = _filled(blocks, count)
        per_group = placed.inodes
        in_use = min(max(0, self._inode_count - number * per_group), per_group)
        inodes = _filled(_bitmap([(0, in_use)] if in_use else []), per_group)
        where = placed.bitmaps[number]
        self.bitmaps += zip(where, (blocks, inodes), strict=True)
        block_check = checksums.crc32c(
            self._seed, blocks[: placed.per_group // 8]
        )
        inode_check = checksums.crc32c(self._seed, inodes[: per_group // 8])
        unused = per_group - in_use
        data = layout.DESCRIPTOR.pack(
            where[0],
            where[1],
            placed.tables[number],
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
            *bytes(8),
            block_check >> 16,
            inode_check >> 16,
            0,
        )
        check = checksums.crc32c(
            checksums.crc32c(self._seed, struct.pack('<I', number)), data
        )
        return data[:30] + struct.pack('<H', check & 0xFFFF) + data[32:]

    def superblock(
        self, identity: Identity, journal: nodes.Node | None, group: int
    ) -> bytes:
        """Make the superblock, or a copy of it for another group.

        :param journal: its inode.
        """
        placed = self.placed
        data = bytearray(1024)
        low, high = identity.time & 0xFFFFFFFF, identity.time >> 32 & 0xFF
        compat = _COMPAT | _COMPAT_RESIZE_INODE
        if journal:
            compat |= _COMPAT_JOURNAL
            sizes = struct.pack(
                '<II', journal.size >> 32, journal.size & 0xFFFFFFFF
            )
            data[0x10C:0x150] = journal.body + sizes
        inode_count = placed.inodes * placed.groups
        for offset, kind, value in (
            (0x00, 'I', inode_count),
            (0x04, 'I', placed.blocks),
            (0x08, 'I', placed.blocks // _ROOT_PART),
            (0x0C, 'I', self.free_blocks),
            (0x10, 'I', inode_count - self._inode_count),
            # Sizes of a block and a cluster: 1024 << 2.
            (0x18, 'I', 2),
            (0x1C, 'I', 2),
            (0x20, 'I', placed.per_group),
            (0x24, 'I', placed.per_group),
            (0x28, 'I', placed.inodes),
            # Written; mounts before a check, without end; magic number.
            (0x30, 'I', low),
            (0x36, 'h', -1),
            (0x38, 'H', 0xEF53),
            # Clean; go on after errors; checked; dynamic revision.
            (0x3A, 'H', 1),
            (0x3C, 'H', 1),
            (0x40, 'I', low),
            (0x4C, 'I', 1),
            (0x54, 'I', placement.RESERVED_INODES + 1),
            (0x58, 'H', 256),
            (0x5A, 'H', group),
            (0x5C, 'I', compat),
            (0x60, 'I', _INCOMPAT),
            (0x64, 'I', _RO_COMPAT),
            (0x68, '16s', identity.uuid),
            (0x78, '16s', identity.label),
            (0xCE, 'H', self.table - self.descriptor_blocks),
            (0xE0, 'I', JOURNAL_INODE if journal else 0),
            (0xEC, '16s', identity.hash_seed),
            (0xFC, 'B', checksums.HALF_MD4),
            # What is kept of the inode of the journal is of this kind.
            (0xFD, 'B', 1 if journal else 0),
            (0xFE, 'H', placement.DESCRIPTOR),
            (0x100, 'I', _MOUNT_OPTIONS),
            (0x108, 'I', low),
            # Bytes of inodes beyond 128 that are needed, and wanted.
            (0x15C, 'H', 32),
            (0x15E, 'H', 32),
            (0x160, 'I', _UNSIGNED_HASH),
            # Groups of a flex group: 1 << 4; checksums are CRC32C.
            (0x174, 'B', 4),
            (0x175, 'B', 1),
            # Written, made and checked, beyond 32 bits.
            (0x274, 'B', high),
            (0x276, 'B', high),
            (0x277, 'B', high),
        ):
            struct.pack_into(f'<{kind}', data, offset, value)
        check = checksums.crc32c(0xFFFFFFFF, bytes(data[:0x3FC]))
        struct.pack_into('<I', data, 0x3FC, check)
        return bytes(data)

    @property
    def descriptor_blocks(self) -> int:
        """Blocks of group descriptors that are in use."""
        return -(-self.placed.groups // placement.DESCRIPTORS_PER_BLOCK)

    def reserved_descriptors(self) -> tuple[dict[int, bytes], bytes, int]:
        """Make what makes up the resize inode.

        :returns: the blocks that are reserved in the first group, which name
            those in the others; the block that names them; and how many
            blocks there are in all, without that one.
        """
        used = self.descriptor_blocks
        backups = placement.backups(self.placed.groups)
        pointers = [0] * _POINTERS
        blocks = {}
        for index in range(used, self.table):
            # The first data block is 0, so the table begins in block 1.
            pointers[index % _POINTERS] = 1 + index
            starts = [group * self.placed.per_group for group in backups]
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


def encoded_label(label: str | None) -> bytes:
    """Turn a label into bytes.

    :raises UsageError: if it is too long.
    """
    data = (label or '').encode('utf-8', 'surrogateescape')
    if len(data) > _LABEL or b'\0' in data:
        raise errors.UsageError(
            f'the label {label!r} has more than {_LABEL} bytes',
            hint='choose a shorter one',
        )
    return data


def journal_blocks(journal: str | int) -> int | None:
    """Return the blocks of a journal.

    :returns: None for as many as mke2fs would choose.
    :raises UsageError: if it is too small, or too large.
    """
    if journal == units.KEEP:
        return None
    if isinstance(journal, str):
        return 0
    blocks = journal // placement.BLOCK
    if blocks < superblock.SMALLEST_JOURNAL:
        raise errors.UsageError(
            f'a journal of {journal} bytes is too small',
            hint='4M is the smallest; or choose none',
        )
    if blocks > superblock.LARGEST_JOURNAL:
        raise errors.UsageError(
            f'a journal of {journal} bytes is too large',
            hint=f'{superblock.LARGEST_JOURNAL * placement.BLOCK} '
            'is the largest',
        )
    return blocks


def add_lost_and_found(tree: nodes.Tree) -> bool:
    """Make the directory that e2fsck wants to be there.

    What is there of that name is a directory already.

    :returns: whether there was none.
    """
    if tree.find(b'lost+found') is not None:
        return False
    tree.put(b'lost+found', nodes.Node(stat.S_IFDIR | 0o700))
    return True


def identified(tree: nodes.Tree, wish: Wish) -> tuple[Identity, int]:
    """Give inodes their numbers, and the filesystem its UUID.

    :returns: the identity, and the last number.
    """
    found = cast(nodes.Node, tree.find(b'lost+found'))
    tree.root.number = tree.root.parent = ROOT_INODE
    found.number = LOST_AND_FOUND_INODE
    digest = hashlib.sha256(encoded_label(wish.label))
    last = found.number
    newest = 0
    for path, node in tree.walk():
        if not node.number:
            last += 1
            node.number = last
        for child in node.children.values():
            if isinstance(child, nodes.Node):
                child.parent = node.number
        newest = max(newest, node.mtime or 0)
        digest.update(_summary(path, node))
    time = newest // _NANO if wish.time is None else wish.time
    # UUID version 8 (RFC 9562): made from the content.
    uuid = bytearray(digest.digest()[:16])
    uuid[6] = uuid[6] & 0x0F | 0x80
    uuid[8] = uuid[8] & 0x3F | 0x80
    identity = Identity(
        wish.uuid or bytes(uuid),
        digest.digest()[16:],
        encoded_label(wish.label),
        min(max(time, 0), 2**34 - 1),
    )
    return identity, last


def _summary(path: bytes, node: nodes.Node) -> bytes:
    """Write all that matters of a file, unmistakably."""
    return repr(
        (
            path,
            node.number,
            node.mode,
            node.uid,
            node.gid,
            node.mtime,
            node.atime,
            node.ctime,
            sorted(node.xattrs.items()),
            node.digest,
            node.target,
            node.device,
        )
        # What has none is summed up as it always was.
        + ((node.flags,) if node.flags else ())
    ).encode('ascii')


def _used(
    space: placement.Space, placed: placement.Placement
) -> list[tuple[int, int]]:
    used = []
    position = 0
    for start, count in sorted(space.free):
        used.append((position, start))
        position = start + count
    used.append((position, space.end))
    for group in placement.backups(placed.groups):
        start = group * placed.per_group
        if start >= space.end:
            used.append((start, start + 1 + space.table))
    return [run for run in used if run[0] < run[1]]


def _bitmap(runs: Iterable[tuple[int, int]]) -> bytes:
    bits = 0
    for start, end in runs:
        bits |= (1 << end) - (1 << start)
    return bits.to_bytes(placement.BLOCK, 'little')


def _filled(bitmap: bytes, count: int) -> bytes:
    bits = int.from_bytes(bitmap, 'little')
    bits |= (1 << 8 * placement.BLOCK) - (1 << count)
    return bits.to_bytes(placement.BLOCK, 'little')
