# SPDX-License-Identifier: Apache-2.0

"""Inodes of XFS, and where the blocks of their forks are.

Each inode has up to two forks, one with the content of a file, one with its
attributes. A fork is in the inode, or in extents, whose list is in the inode
or in a B+tree. The formats are those of the kernel's
fs/xfs/libxfs/xfs_format.h and xfs_bmap_btree.c.

The checksums of what is read are checked, as the kernel does: data that were
damaged are told, and not passed on.
"""

from collections.abc import Iterator
import dataclasses
import functools
import stat
import struct
from typing import NamedTuple

from amiclient import errors
from amiclient.files import BlockRun
from amiclient.xfs import superblock
from amiclient.xfs.superblock import damaged

#: The formats of forks.
DEVICE, LOCAL, EXTENTS, TREE = range(4)

#: An inode, as all versions have it: magic number, mode, version, format, old
#: count of links; owner, group, links, project; count of extents (64 bits);
#: three times; size, blocks, hint; count of extents (32 and 16 bits), place
#: and format of the attributes' fork; state of DMAPI; flags.
_CORE = struct.Struct('>2sHBBHIII4xQ3QQQIIHBBIHH')
_MAGIC = b'IN'
_OLD_SIZE, _SIZE = 100, 176
_CRC_AT, _FLAGS_2_AT, _NUMBER_AT = 100, 120, 152

#: An inode that is not in use has none of these types.
_TYPES = (
    stat.S_IFREG,
    stat.S_IFDIR,
    stat.S_IFLNK,
    stat.S_IFCHR,
    stat.S_IFBLK,
    stat.S_IFIFO,
    stat.S_IFSOCK,
)

#: Flags, and what chattr(1) makes of them.
_REALTIME = 0x0001
_CHATTR = (
    (0x08, 0x10),
    (0x10, 0x20),
    (0x20, 0x08),
    (0x40, 0x80),
    (0x80, 0x40),
)
_BIG_TIMES = 0x08
_BIG_COUNTS = 0x10

#: Seconds from the first time that there is, in the new form, to 1970.
_EPOCH = 1 << 31
_SECOND = 10**9

#: An extent has 128 bits: whether it was never written to, its block in the
#: file (54 bits), its block on disk (52), and how many there are (21).
_EXTENT = struct.Struct('>QQ')
_OFFSET_BITS, _COUNT_BITS = 54, 21

#: A node of a tree of extents: level and count; pointers to the siblings.
_NODE = struct.Struct('>4sHH')
_NODE_MAGIC, _NODE_MAGIC_CRC = b'BMAP', b'BMA3'
_NODE_SIZE, _NODE_SIZE_CRC = 24, 72
_DEPTH = 9

#: Extents that a fork has at most: more would be a file of many GiB whose
#: blocks are all apart.
_MOST_EXTENTS = 1 << 20

#: Bytes of inodes that are read at a time, and how many times those are kept.
_CHUNK = 32 << 10
_CHUNKS = 64

#: How often all of the filesystem may be read as metadata: in sound ones,
#: nothing is a part of two things.
_OFTEN = 4


class IdentityPlace(NamedTuple):
    """Where a kind of block says what it is: bytes from its beginning.

    :param address: where it is on disk, in sectors of 512 bytes.
    :param owner: the inode.
    """

    crc: int
    address: int
    owner: int


_IN_NODE = IdentityPlace(64, 24, 56)


class Fork(NamedTuple):
    """A fork of an inode.

    :param data: what is in the inode of it.
    :param extents: how many it has.
    """

    format: int
    data: bytes
    extents: int


@dataclasses.dataclass(frozen=True, slots=True)
class XfsInode:
    """An inode.

    :param path: that leads to it from the root, without links.
    :param flags: as chattr(1) has them.
    :param exact_times: when it was read, changed and written, in ns since
        1970.
    """

    number: int
    path: str
    mode: int
    uid: int
    gid: int
    size: int
    flags: int
    exact_times: tuple[int, int, int]
    content: Fork
    attributes: Fork

    @property
    def device(self) -> tuple[int, int]:
        """Major and minor number of a device, as System V has them."""
        number = int.from_bytes(self.content.data[:4])
        return number >> 18 & 0x3FFF, number & 0x3FFFF

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.mode)

    @property
    def is_encrypted(self) -> bool:
        """Never: XFS has no such thing."""
        return False


class XfsBlocks:
    """The blocks of one filesystem.

    :param read: reads bytes of it.
    """

    def __init__(
        self, read: superblock.Read, found: superblock.XfsSuperblock
    ) -> None:
        self.superblock = found
        self.read = read
        self._left = _OFTEN * found.block_count
        self._chunk = functools.lru_cache(_CHUNKS)(self._read_chunk)

    def inode(self, number: int, path: str) -> XfsInode:
        """Read an inode that is in use.

        :raises DamagedError: if there can be none, or it makes no sense.
        """
        found = self.superblock
        block = number >> found.slot_bits
        slot = number - (block << found.slot_bits)
        place = self.address(block, 1)
        if not place:
            raise damaged(f'{path} has the impossible inode {number}')
        offset = place * found.block_size + slot * found.inode_size
        first = offset // _CHUNK * _CHUNK
        data = self._chunk(first)
        raw = data[offset - first : offset - first + found.inode_size]
        return self._parsed(raw, number, path)

    def address(self, number: int, count: int) -> int:
        """Tell where blocks are.

        :param number: of the first one, as it is stored.
        :returns: its number, counted from the beginning; 0 if they cannot be
            where they say.
        """
        found = self.superblock
        group = number >> found.group_bits
        within = number - (group << found.group_bits)
        first = group * found.group_blocks + within
        # Each group begins with what describes it.
        if (
            not 0 < within <= found.group_blocks - count
            or not first <= found.block_count - count
        ):
            return 0
        return first

    def block(self, first: int, count: int = 1) -> bytes:
        """Read blocks of metadata.

        :raises DamagedError: if the disk ends before.
        """
        self._left -= count
        if self._left < 0:
            raise damaged('blocks are parts of several things')
        size = self.superblock.block_size
        data = self.read(first * size, count * size)
        if len(data) < count * size:
            raise damaged('it ends before its files do')
        return data

    def checked(
        self, data: bytes, first: int, place: IdentityPlace, node: XfsInode
    ) -> bytes:
        """Make sure that a block is what it says.

        :param first: the number of the block that it begins with.
        :raises DamagedError: if it is another's, or damaged.
        """
        if self.superblock.has_crc:
            sectors = first * self.superblock.block_size // 512
            if (
                _u64(data, place.address) != sectors
                or _u64(data, place.owner) != node.number
                or not superblock.has_checksum(data, place.crc)
            ):
                raise damaged(f'a block of {node.path} is damaged')
        return data

    def runs(self, node: XfsInode, fork: Fork) -> Iterator[BlockRun]:
        """Find the blocks of a fork, ascending.

        :raises DamagedError: if they make no sense.
        """
        if fork.format == EXTENTS:
            records = self._extents(fork.data, fork.extents, node)
        elif fork.format == TREE:
            records = self._tree(fork, node)
        else:
            raise _senseless(node)
        end = found = 0
        for high, low in records:
            logical = high >> 9 & (1 << _OFFSET_BITS) - 1
            number = (high & 0x1FF) << 43 | low >> _COUNT_BITS
            count = low & (1 << _COUNT_BITS) - 1
            first = self.address(number, count)
            found += 1
            if not (count and first) or logical < end or found > fork.extents:
                raise _senseless(node)
            end = logical + count
            # The highest bit: allocated, but never written to.
            yield BlockRun(logical, count, 0 if high >> 63 else first)
        if found < fork.extents:
            raise _senseless(node)

    def _extents(
        self, data: bytes, count: int, node: XfsInode
    ) -> Iterator[tuple[int, int]]:
        if count * _EXTENT.size > len(data):
            raise _senseless(node)
        yield from _EXTENT.iter_unpack(data[: count * _EXTENT.size])

    def _tree(self, fork: Fork, node: XfsInode) -> Iterator[tuple[int, int]]:
        level, count = struct.unpack_from('>HH', fork.data)
        if not 0 < level <= _DEPTH:
            raise _senseless(node)
        for child in _pointers(fork.data, 4, count, node):
            yield from self._below(child, level - 1, node)

    def _below(
        self, number: int, level: int, node: XfsInode
    ) -> Iterator[tuple[int, int]]:
        first = self.address(number, 1)
        if not first:
            raise _senseless(node)
        data = self.checked(self.block(first), first, _IN_NODE, node)
        magic, size = _NODE_MAGIC, _NODE_SIZE
        if self.superblock.has_crc:
            magic, size = _NODE_MAGIC_CRC, _NODE_SIZE_CRC
        found, its_level, count = _NODE.unpack_from(data)
        if found != magic or its_level != level or not count:
            raise _senseless(node)
        if level:
            for child in _pointers(data, size, count, node):
                yield from self._below(child, level - 1, node)
        else:
            yield from self._extents(data[size:], count, node)

    def _read_chunk(self, offset: int) -> bytes:
        return self.read(offset, _CHUNK)

    def _parsed(self, raw: bytes, number: int, path: str) -> XfsInode:
        found = self.superblock
        if len(raw) < found.inode_size or raw[:2] != _MAGIC:
            raise _impossible(number, path)
        (
            _, mode, version, format, _,
            uid, gid, _, big_extents,
            atime, mtime, ctime, size, _, _,
            extents, few, place, attribute_format, _, _, flags,
        ) = _CORE.unpack_from(raw)  # fmt: skip
        flags_2, core = 0, _OLD_SIZE
        if found.has_crc:
            flags_2, core = _u64(raw, _FLAGS_2_AT), _SIZE
            if (
                version != 3
                or _u64(raw, _NUMBER_AT) != number
                or not superblock.has_checksum(raw, _CRC_AT)
            ):
                raise _impossible(number, path)
        if flags_2 & _BIG_COUNTS:
            extents, few = big_extents, extents
        body = raw[core:]
        place = place * 8 or len(body)
        if (
            (version == 3) != found.has_crc
            or stat.S_IFMT(mode) not in _TYPES
            or place > len(body)
            or size >> 63
            or max(extents, few) > _MOST_EXTENTS
            or (flags & _REALTIME and stat.S_ISREG(mode))
        ):
            raise _impossible(number, path)
        is_big = bool(flags_2 & _BIG_TIMES)
        return XfsInode(
            number,
            path,
            mode,
            uid,
            gid,
            size,
            sum(other for flag, other in _CHATTR if flags & flag),
            (_time(atime, is_big), _time(ctime, is_big), _time(mtime, is_big)),
            Fork(format, body[:place], extents),
            Fork(attribute_format, body[place:], few),
        )


def _pointers(
    data: bytes, start: int, count: int, node: XfsInode
) -> tuple[int, ...]:
    """Read the pointers of a node, which come after room for all keys."""
    most = (len(data) - start) // 16
    if not 0 < count <= most:
        raise _senseless(node)
    return struct.unpack_from(f'>{count}Q', data, start + 8 * most)


def _time(stored: int, is_big: bool) -> int:
    if is_big:
        return stored - _EPOCH * _SECOND
    seconds = stored >> 32
    if seconds >> 31:
        seconds -= 1 << 32
    return seconds * _SECOND + (stored & 0xFFFFFFFF)


def _impossible(number: int, path: str) -> errors.DamagedError:
    return damaged(f'the inode {number} of {path} makes no sense')


def _senseless(node: XfsInode) -> errors.DamagedError:
    return damaged(f'the blocks of {node.path} make no sense')


def _u64(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 8])
