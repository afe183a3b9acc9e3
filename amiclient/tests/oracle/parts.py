# SPDX-License-Identifier: Apache-2.0

"""The middle of the tree reader: attributes, inline data, directories."""

from collections.abc import Iterator
import struct

from amiclient.tests.oracle import disk

_MAGIC = b'\x00\x00\x02\xea'

#: What the kernel shows in front of a stored name, by its index.
_PREFIXES = {
    0: b'',
    1: b'user.',
    2: b'system.posix_acl_access',
    3: b'system.posix_acl_default',
    4: b'trusted.',
    6: b'security.',
    7: b'system.',
    8: b'system.richacl',
    9: b'encryption.',
    10: b'gnu.',
}

_INLINE_REST = b'system.data'


def _entries(
    filesystem: disk.Filesystem, area: bytes, first: int, base: int
) -> Iterator[tuple[bytes, bytes]]:
    at = first
    while at + 4 <= len(area) and area[at : at + 4] != bytes(4):
        length, index, offset, inode, size = struct.unpack_from(
            '<BBHII', area, at
        )
        if index not in _PREFIXES:
            raise disk.TreeError(f'an attribute has the name index {index}')
        name = _PREFIXES[index] + area[at + 16 : at + 16 + length]
        if inode:
            value = filesystem.mapped(filesystem.inode(inode), size)
        else:
            value = area[base + offset : base + offset + size]
        if len(value) != size:
            raise disk.TreeError(f'the attribute {name!r} is cut off')
        yield name, value
        at += (16 + length + 3) & ~3


def attributes(
    filesystem: disk.Filesystem, inode: disk.Inode
) -> tuple[dict[bytes, bytes], bytes]:
    """Read the extended attributes of an inode, wherever they are.

    :returns: values by full name (ACLs as stored, which is not what the
        kernel shows), and the inline data beyond the first 60 bytes.
    :raises TreeError: if one is there twice, or makes no sense.
    """
    found: dict[bytes, bytes] = {}
    places = []
    start = inode.end
    if inode.raw[start : start + 4] == _MAGIC:
        places.append((inode.raw, start + 4, start + 4))
    if inode.acl_block:
        block = filesystem.block(inode.acl_block)
        if block[:4] != _MAGIC:
            raise disk.TreeError(
                f'inode {inode.number} has an attribute block without magic'
            )
        places.append((block, 32, 0))
    for area, first, base in places:
        for name, value in _entries(filesystem, area, first, base):
            if name in found:
                raise disk.TreeError(
                    f'inode {inode.number} has {name!r} twice'
                )
            found[name] = value
    return found, found.pop(_INLINE_REST, b'')


def _records(area: bytes) -> Iterator[tuple[bytes, int]]:
    # Checksums at the end of a block and the nodes of a hash tree pose as
    # records without an inode. The length of a name has 16 bits where there
    # are no types, but is never above 255.
    at = 0
    while at + 8 <= len(area):
        inode, length, size = struct.unpack_from('<IHB', area, at)
        if length in (0, 65535) and len(area) == 65536:
            length = 65536
        if length < 8 or at + length > len(area) or size > length - 8:
            raise disk.TreeError('a directory has a record of wrong length')
        if inode:
            yield area[at + 8 : at + 8 + size], inode
        at += length


def listing(
    filesystem: disk.Filesystem, inode: disk.Inode, rest: bytes
) -> dict[bytes, int]:
    """Read a directory, linear, hashed or inline.

    :param rest: its inline data beyond the first 60 bytes.
    :returns: inode numbers by name, without ``.`` and ``..``.
    :raises TreeError: if a name is there twice.
    """
    areas = []
    if inode.flags & disk.FLAG_INLINE_DATA:
        # The first four bytes are the inode number of the parent.
        areas = [inode.body[4:], rest]
    else:
        data = filesystem.mapped(inode, inode.size)
        step = filesystem.block_size
        areas = [data[at : at + step] for at in range(0, len(data), step)]
    names: dict[bytes, int] = {}
    for area in areas:
        for name, number in _records(area):
            if name in names:
                raise disk.TreeError(
                    f'inode {inode.number} lists {name!r} twice'
                )
            names[name] = number
    names.pop(b'.', None)
    names.pop(b'..', None)
    return names
