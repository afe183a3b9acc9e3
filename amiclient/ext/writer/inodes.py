# SPDX-License-Identifier: Apache-2.0

"""Inodes as ext4 stores them, and the trees of extents in them.

Source: Documentation/filesystems/ext4 of the kernel (inodes.rst, ifork.rst),
include/linux/kdev_t.h.
"""

from collections.abc import Callable, Sequence
import functools
import struct

from amiclient.ext.writer import checksums
from amiclient.ext.writer import nodes

SIZE = 256

FLAG_INDEX = 0x1000
FLAG_EXTENTS = 0x80000

#: Entries of a node of extents in the inode and in a block.
_IN_INODE = 4
_IN_BLOCK = (4096 - 12 - 4) // 12
_MAGIC = 0xF30A

#: A directory with more subdirectories has a link count of 1 (dir_nlink).
_SUBDIRECTORIES = 64998

#: Bytes of the fields beyond the first 128.
_EXTRA = 32

#: The seconds that an inode can hold: 34 bits, from 1901 on.
_EARLIEST, _LATEST = -(2**31), 2**34 - 2**31 - 1

_NANO = 10**9

#: i_blocks counts these.
_SECTOR = 512


def extent_tree(
    extents: Sequence[nodes.Extent], take: Callable[[], int], seed: int
) -> tuple[bytes, list[tuple[int, bytes]]]:
    """Make an extent tree.

    :param extents: ascending.
    :param take: gives the number of a free block.
    :param seed: of the checksums of this inode.
    :returns: what is in the inode, and what in which blocks.
    """
    blocks: list[tuple[int, bytes]] = []
    keys, level = [], []
    for logical, physical, count in extents:
        for done in range(0, count, nodes.LONGEST):
            first = physical + done
            keys.append(logical + done)
            level.append(
                struct.pack(
                    '<IHHI',
                    logical + done,
                    min(nodes.LONGEST, count - done),
                    first >> 32,
                    first & 0xFFFFFFFF,
                )
            )
    depth = 0
    while len(level) > _IN_INODE:
        upper_keys, upper = [], []
        for start in range(0, len(level), _IN_BLOCK):
            number = take()
            data = _tree_node(
                level[start : start + _IN_BLOCK], depth, _IN_BLOCK
            )
            check = checksums.crc32c(seed, data)
            blocks.append((number, data + struct.pack('<I', check)))
            upper_keys.append(keys[start])
            upper.append(
                struct.pack(
                    '<IIHH',
                    keys[start],
                    number & 0xFFFFFFFF,
                    number >> 32,
                    0,
                )
            )
        keys, level = upper_keys, upper
        depth += 1
    return _tree_node(level, depth, _IN_INODE), blocks


def most_index_blocks(count: int) -> int:
    """Tell the blocks that the tree of so many extents takes at most."""
    return 0 if count <= _IN_INODE else 2 + count // (_IN_BLOCK - 1)


def _tree_node(entries: Sequence[bytes], depth: int, limit: int) -> bytes:
    head = struct.pack('<HHHHI', _MAGIC, len(entries), limit, depth, 0)
    return (head + b''.join(entries)).ljust(12 + 12 * limit, b'\0')


def device(major: int, minor: int) -> bytes:
    """Write the numbers of a device, as old_ or new_encode_dev() do."""
    if major < 256 and minor < 256:
        return struct.pack('<I', major << 8 | minor)
    return struct.pack(
        '<II', 0, minor & 0xFF | major << 8 | (minor & ~0xFF) << 12
    )


def seed(filesystem_seed: int, number: int) -> int:
    """Tell the seed of the checksums of one inode, and of its blocks."""
    # The second number is the generation, which is always 0 here.
    return checksums.crc32c(filesystem_seed, struct.pack('<II', number, 0))


def record(
    node: nodes.Node,
    *,
    size: int,
    blocks: int,
    flags: int,
    time: int,
    xattrs: bytes,
) -> bytes:
    """Write an inode, without its checksum.

    :param size: what it says of its size, in bytes.
    :param blocks: all that belong to it.
    :param time: for a node that has none, in nanoseconds.
    :param xattrs: what follows its fields.
    """
    mtime = time if node.mtime is None else node.mtime
    atime = mtime if node.atime is None else node.atime
    ctime = mtime if node.ctime is None else node.ctime
    sectors = blocks * (4096 // _SECTOR)
    links = node.links
    if node.is_directory:
        children = node.children.values()
        links = 2 + sum(child.is_directory for child in children)
        if links > _SUBDIRECTORIES + 2:
            links = 1
    mtime_s, mtime_e = _stored(mtime)
    atime_s, atime_e = _stored(atime)
    ctime_s, ctime_e = _stored(ctime)
    data = bytearray(SIZE)
    struct.pack_into(
        '<HHIIIIIHHIII',
        data,
        0,
        node.mode,
        node.uid & 0xFFFF,
        size & 0xFFFFFFFF,
        atime_s,
        ctime_s,
        mtime_s,
        0,
        node.gid & 0xFFFF,
        links,
        sectors & 0xFFFFFFFF,
        flags,
        0,
    )
    data[40 : 40 + len(node.body)] = node.body
    struct.pack_into(
        '<IIIIHHHHH',
        data,
        100,
        0,
        node.xattr_block & 0xFFFFFFFF,
        size >> 32,
        0,
        sectors >> 32,
        node.xattr_block >> 32,
        node.uid >> 16,
        node.gid >> 16,
        0,
    )
    struct.pack_into(
        '<HHIIIII',
        data,
        128,
        _EXTRA,
        0,
        ctime_e,
        mtime_e,
        atime_e,
        # When it was made: nobody has told, and the present would make two
        # builds differ.
        mtime_s,
        mtime_e,
    )
    data[128 + _EXTRA : 128 + _EXTRA + len(xattrs)] = xattrs
    return bytes(data)


def seal(data: bytearray, first: int, filesystem_seed: int) -> None:
    """Put their checksums into inodes that follow each other.

    :param first: number of the first of them.
    """
    count = len(data) // SIZE
    numbers = struct.pack(f'<{count}Q', *range(first, first + count))
    sums = checksums.crc32c_columns(
        filesystem_seed,
        [numbers[at::8] for at in range(8)]
        + [bytes(data[at::SIZE]) for at in range(SIZE)],
    )
    for at, column in zip((124, 125, 130, 131), sums, strict=True):
        data[at::SIZE] = column


def _clamped(time: int) -> tuple[int, int]:
    # As the kernel does with what a filesystem cannot hold.
    seconds, nanoseconds = divmod(time, _NANO)
    if not _EARLIEST <= seconds <= _LATEST:
        return min(max(seconds, _EARLIEST), _LATEST), 0
    return seconds, nanoseconds


@functools.lru_cache(maxsize=1024)
def _stored(time: int) -> tuple[int, int]:
    """Tell the two fields that a time is stored in."""
    seconds, nanoseconds = _clamped(time)
    # The low half is signed; what that leaves are the epoch bits.
    low = (seconds & 0xFFFFFFFF ^ 0x80000000) - 0x80000000
    return seconds & 0xFFFFFFFF, nanoseconds << 2 | (seconds - low) >> 32 & 3
