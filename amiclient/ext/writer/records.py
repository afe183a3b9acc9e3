# SPDX-License-Identifier: Apache-2.0

"""Inodes as the writer makes them: fields, extents, extended attributes.

Source: Documentation/filesystems/ext4 of the kernel (inodes.rst, ifork.rst,
attributes.rst), include/linux/kdev_t.h, fs/ext4/xattr.c and fs/ext4/acl.h. The
formats are those of :mod:`amiclient.ext.inodes`.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import struct

from amiclient import errors
from amiclient.ext import inodes
from amiclient.ext.writer import checksums
from amiclient.ext.writer import nodes

SIZE = 256

#: Entries of a node of extents in the inode and in a block.
_IN_INODE = 4
_IN_BLOCK = (4096 - 12 - 4) // 12

#: A directory with more subdirectories has a link count of 1 (dir_nlink).
_SUBDIRECTORIES = 64998

#: Bytes of the fields beyond the first 128.
_EXTRA = 32

#: An inode of SIZE bytes, but for what is zero or comes later: time of
#: deletion, version, generation, obsolete address, checksum, version, project.
_RECORD = struct.Struct('<HHIIII4xHHII4x60s4xII4xHHHH4xH2xIIIII8x96s')

#: The seconds that an inode can hold: 34 bits, from 1901 on.
_EARLIEST, _LATEST = -(2**31), 2**34 - 2**31 - 1

_NANO = 10**9

#: i_blocks counts these.
_SECTOR = 512

_MASK = 0xFFFFFFFF

_ACL_TAGS = (0x01, 0x02, 0x04, 0x08, 0x10, 0x20)

#: Bytes of an inode that are left for attributes: 256, less the fields, and
#: the magic number before them.
_XATTR_ROOM = 256 - 128 - 32 - 4

#: Bytes of a block, and of the header in it.
_BLOCK = 4096
_XATTR_HEADER = 32

#: One attribute: number of the prefix, rest of the name, value, hash.
_Entry = tuple[int, bytes, bytes, int]


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
        for done in range(0, count, inodes.LONGEST):
            first = physical + done
            keys.append(logical + done)
            level.append(
                inodes.EXTENT.pack(
                    logical + done,
                    min(inodes.LONGEST, count - done),
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
                inodes.EXTENT_INDEX.pack(
                    keys[start], number & 0xFFFFFFFF, number >> 32, 0
                )
            )
        keys, level = upper_keys, upper
        depth += 1
    return _tree_node(level, depth, _IN_INODE), blocks


def most_index_blocks(count: int) -> int:
    """Return the blocks that the tree of so many extents takes at most."""
    return 0 if count <= _IN_INODE else 2 + count // (_IN_BLOCK - 1)


def _tree_node(entries: Sequence[bytes], depth: int, limit: int) -> bytes:
    head = inodes.EXTENT_HEADER.pack(
        inodes.EXTENT_MAGIC, len(entries), limit, depth, 0
    )
    return (head + b''.join(entries)).ljust(12 + 12 * limit, b'\0')


def device(major: int, minor: int) -> bytes:
    """Write the numbers of a device, as old_ or new_encode_dev() do."""
    if major < 256 and minor < 256:
        return struct.pack('<I', major << 8 | minor)
    return struct.pack(
        '<II', 0, minor & 0xFF | major << 8 | (minor & ~0xFF) << 12
    )


def seed(filesystem_seed: int, number: int) -> int:
    """Return the seed of the checksums of one inode, and of its blocks."""
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
    return _RECORD.pack(
        node.mode,
        node.uid & 0xFFFF,
        size & _MASK,
        atime_s,
        ctime_s,
        mtime_s,
        node.gid & 0xFFFF,
        links,
        sectors & _MASK,
        flags,
        node.body,
        node.xattr_block & _MASK,
        size >> 32,
        sectors >> 32,
        node.xattr_block >> 32,
        node.uid >> 16,
        node.gid >> 16,
        _EXTRA,
        ctime_e,
        mtime_e,
        atime_e,
        # When it was made: nobody has told, and the present would make two
        # builds differ.
        mtime_s,
        mtime_e,
        xattrs,
    )


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


@functools.lru_cache(maxsize=1024)
def _stored(time: int) -> tuple[int, int]:
    seconds, nanoseconds = divmod(time, _NANO)
    if not _EARLIEST <= seconds <= _LATEST:
        # As the kernel does with what a filesystem cannot hold.
        seconds, nanoseconds = min(max(seconds, _EARLIEST), _LATEST), 0
    # The low half is signed; what that leaves are the epoch bits.
    low = (seconds & 0xFFFFFFFF ^ 0x80000000) - 0x80000000
    return seconds & 0xFFFFFFFF, nanoseconds << 2 | (seconds - low) >> 32 & 3


class XattrError(errors.AmiError):
    """An attribute that ext4 cannot store; the text tells why."""


def is_known_xattr(name: bytes) -> bool:
    """Return whether ext4 can store an attribute of that name."""
    return name in inodes.XATTR_WHOLE or any(
        name.startswith(prefix) and len(name) > len(prefix)
        for prefix, _ in inodes.XATTR_PREFIXES
    )


def pack_xattrs(xattrs: Mapping[bytes, bytes]) -> tuple[bytes, bytes]:
    """Make what is stored in an inode, and in a block beside it.

    As many as fit go into the inode, small ones first.

    :param xattrs: values by full name, as getxattr(2) has them.
    :returns: what follows the fields of the inode, and a block whose checksum
        is still missing; each is empty if there is no need of it.
    :raises XattrError: if they do not fit, or make no sense.
    """
    entries = [_entry(name, value) for name, value in xattrs.items()]
    inside: list[_Entry] = []
    outside: list[_Entry] = []
    room = _XATTR_ROOM - 4
    for entry in sorted(entries, key=lambda e: (_space(e), e)):
        if _space(entry) <= room:
            room -= _space(entry)
            inside.append(entry)
        else:
            outside.append(entry)
    return _in_inode(inside) if inside else b'', (
        _in_block(outside) if outside else b''
    )


def seal_xattrs(
    block: bytes, number: int, references: int, seed: int
) -> bytes:
    """Finish a block of attributes.

    :param number: of the block.
    :param references: how many inodes share it.
    :param seed: of the filesystem's checksums.
    """
    data = bytearray(block)
    struct.pack_into('<I', data, 4, references)
    check = checksums.crc32c(seed, struct.pack('<Q', number))
    struct.pack_into('<I', data, 16, checksums.crc32c(check, bytes(data)))
    return bytes(data)


def _entry(name: bytes, value: bytes) -> _Entry:
    index, rest = inodes.XATTR_WHOLE.get(name, 0), b''
    if not index:
        for prefix, number in inodes.XATTR_PREFIXES:
            if name.startswith(prefix):
                index, rest = number, name[len(prefix) :]
                break
    if index in inodes.ACLS:
        value = _stored_acl(value)
    if not index or len(rest) > 255 or b'\0' in rest:
        raise XattrError('ext4 cannot store an attribute with this name')
    if len(value) > _BLOCK:
        raise XattrError('it is too large for ext4')
    return index, rest, value, _xattr_hash(rest, value)


def _stored_acl(value: bytes) -> bytes:
    # From a version and 8 bytes for each entry to a version and 8 bytes for
    # each entry that names a user or group, 4 for others.
    if len(value) % 8 != 4 or value[:4] != struct.pack(
        '<I', inodes.ACL_VERSION
    ):
        raise XattrError('it is not an access control list')
    data = struct.pack('<I', inodes.ACL_STORED)
    for tag, rights, number in struct.iter_unpack('<HHI', value[4:]):
        if tag not in _ACL_TAGS or rights > 7:
            raise XattrError('it is not an access control list')
        data += struct.pack('<HH', tag, rights)
        if tag in inodes.ACL_NAMED:
            data += struct.pack('<I', number)
    return data


def _space(entry: _Entry) -> int:
    return 16 + _rounded(len(entry[1])) + _rounded(len(entry[2]))


def _rounded(length: int) -> int:
    return -(-length // 4) * 4


def _xattr_hash(name: bytes, value: bytes) -> int:
    """fs/ext4/xattr.c, ext4_xattr_hash_entry()."""
    result = 0
    for byte in name:
        result = (result << 5 ^ result >> 27 ^ byte) & _MASK
    value += bytes(-len(value) % 4)
    for (word,) in struct.iter_unpack('<I', value):
        result = (result << 16 ^ result >> 16 ^ word) & _MASK
    return result


def _in_inode(entries: list[_Entry]) -> bytes:
    # Offsets count from the first entry, which follows the magic number.
    return struct.pack('<I', inodes.XATTR_MAGIC) + _entries(
        entries, _XATTR_ROOM, 0
    )


def _in_block(entries: list[_Entry]) -> bytes:
    if sum(map(_space, entries)) + 4 > _BLOCK - _XATTR_HEADER:
        raise XattrError('together they are too large for ext4')
    total = 0
    ordered = sorted(entries, key=lambda e: (e[0], len(e[1]), e[1]))
    for entry in ordered:
        if not entry[3]:
            # The whole block counts as not hashed, and is never shared.
            total = 0
            break
        total = (total << 16 ^ total >> 16 ^ entry[3]) & _MASK
    header = struct.pack('<IIIII12x', inodes.XATTR_MAGIC, 1, 1, total, 0)
    return header + _entries(ordered, _BLOCK - _XATTR_HEADER, _XATTR_HEADER)


def _entries(entries: list[_Entry], length: int, base: int) -> bytes:
    # Entries from the beginning, and values from the end. Offsets count the
    # base besides.
    data = bytearray(length)
    at, end = 0, length
    for index, name, value, check in sorted(
        entries, key=lambda e: (e[0], len(e[1]), e[1])
    ):
        end -= _rounded(len(value))
        data[end : end + len(value)] = value
        place = base + end if value else 0
        inodes.XATTR.pack_into(
            data, at, len(name), index, place, 0, len(value), check
        )
        data[at + 16 : at + 16 + len(name)] = name
        at += 16 + _rounded(len(name))
    return bytes(data)
