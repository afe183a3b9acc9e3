# SPDX-License-Identifier: Apache-2.0

"""Extended attributes as ext4 stores them.

Source: Documentation/filesystems/ext4/attributes.rst, fs/ext4/xattr.c and
fs/ext4/acl.h of the kernel.
"""

from collections.abc import Mapping
import struct

from amiclient import errors
from amiclient.ext.writer import checksums

_MAGIC = 0xEA020000
_MASK = 0xFFFFFFFF

#: Full names, and prefixes of names, and the numbers that stand for them.
_WHOLE = {
    b'system.posix_acl_access': 2,
    b'system.posix_acl_default': 3,
}
_PREFIXES = (
    (b'user.', 1),
    (b'trusted.', 4),
    (b'security.', 6),
    (b'system.', 7),
)
_ACL = (2, 3)

#: include/uapi/linux/posix_acl_xattr.h: the version of what getxattr(2)
#: returns; fs/ext4/acl.h: that of what is on disk.
_ACL_VERSION = 2
_ACL_STORED = 1

#: The entries of an access control list that name a user or group.
_ACL_NAMED = (0x02, 0x08)
_ACL_TAGS = (0x01, 0x02, 0x04, 0x08, 0x10, 0x20)

#: Bytes of an inode that are left for attributes: 256, less the fields, and
#: the magic number before them.
_IN_INODE = 256 - 128 - 32 - 4

#: Bytes of a block, and of the header in it.
_BLOCK = 4096
_HEADER = 32

#: One attribute: number of the prefix, rest of the name, value, hash.
_Entry = tuple[int, bytes, bytes, int]


class XattrError(errors.AmiError):
    """An attribute that ext4 cannot store; the text tells why."""


def known(name: bytes) -> bool:
    """Tell whether ext4 can store an attribute of that name."""
    return name in _WHOLE or any(
        name.startswith(prefix) and len(name) > len(prefix)
        for prefix, _ in _PREFIXES
    )


def packed(xattrs: Mapping[bytes, bytes]) -> tuple[bytes, bytes]:
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
    room = _IN_INODE - 4
    for entry in sorted(entries, key=lambda e: (_space(e), e)):
        if _space(entry) <= room:
            room -= _space(entry)
            inside.append(entry)
        else:
            outside.append(entry)
    return _inode(inside) if inside else b'', (
        _block(outside) if outside else b''
    )


def with_checksum(
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
    index, rest = _WHOLE.get(name, 0), b''
    if not index:
        for prefix, number in _PREFIXES:
            if name.startswith(prefix):
                index, rest = number, name[len(prefix) :]
                break
    if index in _ACL:
        value = _stored_acl(value)
    if not index or len(rest) > 255 or b'\0' in rest:
        raise XattrError('ext4 cannot have an attribute of that name')
    if len(value) > _BLOCK:
        raise XattrError('it is too large for ext4')
    return index, rest, value, _hash(rest, value)


def _stored_acl(value: bytes) -> bytes:
    """Turn an access control list into what is stored.

    :param value: version, and 8 bytes for each entry.
    :returns: version, and 8 bytes for each entry that names a user or group,
        4 for others.
    """
    if len(value) % 8 != 4 or value[:4] != struct.pack('<I', _ACL_VERSION):
        raise XattrError('it is not an access control list')
    data = struct.pack('<I', _ACL_STORED)
    for tag, rights, number in struct.iter_unpack('<HHI', value[4:]):
        if tag not in _ACL_TAGS or rights > 7:
            raise XattrError('it is not an access control list')
        data += struct.pack('<HH', tag, rights)
        if tag in _ACL_NAMED:
            data += struct.pack('<I', number)
    return data


def _space(entry: _Entry) -> int:
    return 16 + _rounded(len(entry[1])) + _rounded(len(entry[2]))


def _rounded(length: int) -> int:
    return -(-length // 4) * 4


def _hash(name: bytes, value: bytes) -> int:
    """fs/ext4/xattr.c, ext4_xattr_hash_entry()."""
    result = 0
    for byte in name:
        result = (result << 5 ^ result >> 27 ^ byte) & _MASK
    value += bytes(-len(value) % 4)
    for (word,) in struct.iter_unpack('<I', value):
        result = (result << 16 ^ result >> 16 ^ word) & _MASK
    return result


def _inode(entries: list[_Entry]) -> bytes:
    # Offsets count from the first entry, which follows the magic number.
    return struct.pack('<I', _MAGIC) + _table(entries, _IN_INODE, 0)


def _block(entries: list[_Entry]) -> bytes:
    if sum(map(_space, entries)) + 4 > _BLOCK - _HEADER:
        raise XattrError('together they are too large for ext4')
    total = 0
    ordered = sorted(entries, key=lambda e: (e[0], len(e[1]), e[1]))
    for entry in ordered:
        if not entry[3]:
            # The whole block counts as not hashed, and is never shared.
            total = 0
            break
        total = (total << 16 ^ total >> 16 ^ entry[3]) & _MASK
    header = struct.pack('<IIIII12x', _MAGIC, 1, 1, total, 0)
    return header + _table(ordered, _BLOCK - _HEADER, _HEADER)


def _table(entries: list[_Entry], length: int, base: int) -> bytes:
    """Write entries from the beginning, and values from the end.

    :param base: what offsets count besides.
    """
    data = bytearray(length)
    at, end = 0, length
    for index, name, value, check in sorted(
        entries, key=lambda e: (e[0], len(e[1]), e[1])
    ):
        end -= _rounded(len(value))
        data[end : end + len(value)] = value
        struct.pack_into(
            '<BBHIII',
            data,
            at,
            len(name),
            index,
            base + end if value else 0,
            0,
            len(value),
            check,
        )
        data[at + 16 : at + 16 + len(name)] = name
        at += 16 + _rounded(len(name))
    return bytes(data)
