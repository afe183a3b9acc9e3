# SPDX-License-Identifier: Apache-2.0

"""Extended attributes of inodes, as getxattr(2) has them.

Source: Documentation/filesystems/ext4/attributes.rst of the kernel. They lie
in the inode, in a block beside it, and large values in inodes of their own.
"""

from collections.abc import Callable, Iterator
import struct

from amiclient import errors
from amiclient.ext import inodes
from amiclient.ext.inodes import Inode
from amiclient.ext.layout import Layout

#: Of a block of attributes: bytes before the first.
_HEADER = 32

#: The largest value that the kernel takes: XATTR_SIZE_MAX.
_LARGEST = 1 << 16

#: What holds the content of a small file, and is no attribute of it.
_DATA = b'system.data'


#: Reads what is in an inode, of so many bytes at most.
_Content = Callable[[Inode, int], bytes]


def read(layout: Layout, node: Inode, content: _Content) -> dict[bytes, bytes]:
    """Read all attributes of a file.

    :returns: values by full name.
    :raises DamagedError: if they make no sense.
    """
    found: dict[bytes, bytes] = {}
    magic = inodes.XATTR_MAGIC.to_bytes(4, 'little')
    raw, start = node.raw, node.xattr_start
    if start and raw[start : start + 4] == magic:
        found.update(_entries(layout, content, node, raw[start + 4 :], 0))
    if node.xattr_block:
        if node.xattr_block >= layout.superblock.block_count:
            raise _damaged(node)
        block = layout.blocks(node.xattr_block)
        if block[:4] != magic:
            raise _damaged(node)
        found.update(_entries(layout, content, node, block, _HEADER))
    found.pop(_DATA, None)
    return found


def _entries(
    layout: Layout,
    content: _Content,
    node: Inode,
    data: bytes,
    position: int,
) -> Iterator[tuple[bytes, bytes]]:
    """Read entries.

    :param data: what the places of values count in.
    :param position: of the first entry.
    """
    while any(data[position : position + 4]):
        if position + inodes.XATTR.size > len(data):
            raise _damaged(node)
        length, index, place, inode, size, _ = inodes.XATTR.unpack_from(
            data, position
        )
        position += inodes.XATTR.size
        rest = data[position : position + length]
        position += length + 3 & ~3
        name = _name(index, rest)
        if name is None or len(rest) < length or size > _LARGEST:
            raise _damaged(node)
        if inode:
            holder = layout.inode(inode, f'an attribute of {node.path}')
            value = content(holder, _LARGEST)
        else:
            value = data[place : place + size] if size else b''
        if len(value) != size:
            raise _damaged(node)
        yield name, _acl(value, node) if index in inodes.ACLS else value


def _name(index: int, rest: bytes) -> bytes | None:
    for name, number in inodes.XATTR_WHOLE.items():
        if index == number and not rest:
            return name
    for prefix, number in inodes.XATTR_PREFIXES:
        if index == number and rest:
            return prefix + rest
    return None


def _acl(stored: bytes, node: Inode) -> bytes:
    """Turn what is stored of an access control list into what is returned."""
    value = struct.pack('<I', inodes.ACL_VERSION)
    position = 4
    if stored[:4] != struct.pack('<I', inodes.ACL_STORED):
        raise _damaged(node)
    while position < len(stored):
        if position + 4 > len(stored):
            raise _damaged(node)
        tag, rights = struct.unpack_from('<HH', stored, position)
        position += 4
        number = b'\xff\xff\xff\xff'
        if tag in inodes.ACL_NAMED:
            number = stored[position : position + 4]
            position += 4
        if len(number) < 4:
            raise _damaged(node)
        value += struct.pack('<HH', tag, rights) + number
    return value


def _damaged(node: Inode) -> errors.DamagedError:
    return errors.DamagedError(
        f'the attributes of {node.path} make no sense',
        hint='mend a copy with e2fsck',
    )
