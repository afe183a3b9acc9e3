# SPDX-License-Identifier: Apache-2.0

"""Inodes, and blocks of directories: how both lie on disk.

The formats are those of the kernel's Documentation/filesystems/ext4 (inodes,
ifork, directory entries, inline data, attributes). The reader and the writer
share them.
"""

from collections.abc import Iterator
import dataclasses
import stat
import struct
from typing import NamedTuple

#: Flags of an inode.
EXTENTS = 0x80000
INDEX = 0x1000
INLINE = 0x10000000
_ENCRYPTED = 0x800
#: Compressed, encrypted, sealed by fs-verity, content within the inode.
_SEALED = 0x4 | _ENCRYPTED | 0x100000
_SPECIAL = _SEALED | INLINE

#: Of a node of extents: magic number, entries, most entries, depth,
#: generation.
EXTENT_HEADER = struct.Struct('<HHHHI')
EXTENT_MAGIC = 0xF30A
#: An extent: block in the file, count, high and low half of the block on disk.
EXTENT = struct.Struct('<IHHI')
#: An entry above: block in the file, low and high half of the block below.
EXTENT_INDEX = struct.Struct('<IIHH')
#: Blocks that one extent has at most (ext4_extents.h, EXT_INIT_MAX_LEN); one
#: that has more was allocated, but never written to.
LONGEST = 32768

#: Before each name in a directory: inode, length of the entry and of the name,
#: type.
DIRECTORY_ENTRY = struct.Struct('<IHBB')

#: Of attributes in an inode or block; before each name: its length, the
#: number of its prefix, where its value is, and the inode of that, size, hash.
XATTR_MAGIC = 0xEA020000
XATTR = struct.Struct('<BBHIII')
XATTR_SYSTEM = 7

#: Full names of attributes, and prefixes of names, and the numbers that stand
#: for them.
XATTR_WHOLE = {
    b'system.posix_acl_access': 2,
    b'system.posix_acl_default': 3,
}
XATTR_PREFIXES = (
    (b'user.', 1),
    (b'trusted.', 4),
    (b'security.', 6),
    (b'system.', XATTR_SYSTEM),
)

#: Of those, the access control lists. include/uapi/linux/posix_acl_xattr.h:
#: the version of what getxattr(2) returns; fs/ext4/acl.h: that of what is on
#: disk, where only the entries with these tags have the number of a user or
#: group.
ACLS = (2, 3)
ACL_VERSION = 2
ACL_STORED = 1
ACL_NAMED = (0x02, 0x08)

#: Bytes of an inode that every revision of the filesystem has.
SMALL = 128


class Times(NamedTuple):
    """When an inode was changed, as it lies on disk.

    ``ctime`` and ``mtime`` are the low 32 bits of the seconds; the others are
    nanoseconds and further bits of the seconds, None where the inode has no
    room for them.
    """

    ctime: int
    mtime: int
    ctime_extra: int | None
    mtime_extra: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class Inode:
    """An inode.

    :param number: of the inode.
    :param raw: as it lies on disk, 128 bytes or more.
    :param path: that leads to it from the root, without links, if known.
    """

    number: int
    raw: bytes = dataclasses.field(repr=False)
    path: str = ''

    @property
    def mode(self) -> int:
        return self._u16(0)

    @property
    def uid(self) -> int:
        return self._u16(0x02) | self._u16(0x78) << 16

    @property
    def gid(self) -> int:
        return self._u16(0x18) | self._u16(0x7A) << 16

    @property
    def size(self) -> int:
        """Bytes."""
        return self._u32(0x04) | self._u32(0x6C) << 32

    @property
    def flags(self) -> int:
        return self._u32(0x20)

    @property
    def body(self) -> bytes:
        """What tells the blocks, or holds a little content."""
        return self.raw[0x28:0x64]

    @property
    def times(self) -> Times:
        """When it was changed, as it lies on disk."""
        extra = (
            self._u32(at) if self._has(at) else None for at in (0x84, 0x88)
        )
        return Times(self._u32(0x0C), self._u32(0x10), *extra)

    @property
    def exact_times(self) -> tuple[int, int, int]:
        """When it was read, changed and written, in ns since 1970."""
        places = ((0x08, 0x8C), (0x0C, 0x84), (0x10, 0x88))
        atime, ctime, mtime = (
            _exact(self._u32(at), self._u32(more) if self._has(more) else 0)
            for at, more in places
        )
        return atime, ctime, mtime

    @property
    def ctime(self) -> int:
        """When it was changed, in seconds since 1970."""
        return _seconds(self.times.ctime, self.times.ctime_extra)

    @property
    def mtime(self) -> int:
        """When its content was changed, in seconds since 1970."""
        return _seconds(self.times.mtime, self.times.mtime_extra)

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
    def is_inline(self) -> bool:
        return bool(self.flags & INLINE)

    @property
    def is_encrypted(self) -> bool:
        """Whether its content, or its names, cannot be read."""
        return bool(self.flags & _ENCRYPTED)

    @property
    def is_special(self) -> bool:
        """Whether its blocks do not simply hold its content."""
        return bool(self.flags & _SPECIAL)

    @property
    def is_sealed(self) -> bool:
        """Whether its content is more than bytes in a place."""
        return bool(self.flags & _SEALED)

    @property
    def has_extents(self) -> bool:
        return bool(self.flags & EXTENTS)

    @property
    def xattr_start(self) -> int:
        """Where attributes in the inode begin; 0 if it has no room."""
        return SMALL + self._u16(0x80) if len(self.raw) > SMALL else 0

    @property
    def xattr_block(self) -> int:
        """The block of attributes that are not in the inode; 0 for none."""
        return self._u32(0x68) | self._u16(0x76) << 32

    @property
    def device(self) -> tuple[int, int]:
        """Major and minor number of a device (include/linux/kdev_t.h)."""
        old, new = struct.unpack_from('<II', self.body)
        if old:
            return old >> 8 & 0xFF, old & 0xFF
        return new >> 8 & 0xFFF, new & 0xFF | new >> 12 & 0xFFF00

    @property
    def fast_target(self) -> bytes | None:
        """Where a link leads, if that is not in a block."""
        if self.size < 60 and not self.flags & (EXTENTS | INLINE):
            return self.body[: self.size]
        return None

    @property
    def inline_rest(self) -> bytes:
        """The rest of inline data: the attribute ``system.data``."""
        raw, start = self.raw, self.xattr_start
        if not start or raw[start : start + 4] != XATTR_MAGIC.to_bytes(
            4, 'little'
        ):
            return b''
        first = position = start + 4
        while position + XATTR.size <= len(raw) and any(
            raw[position : position + 4]
        ):
            length, index, offset, _, size, _ = XATTR.unpack_from(
                raw, position
            )
            position += XATTR.size
            name = raw[position : position + length]
            if index == XATTR_SYSTEM and name == b'data':
                return raw[first + offset : first + offset + size]
            position += length + 3 & ~3
        return b''

    def _has(self, place: int) -> bool:
        # What is beyond the first 128 bytes, the inode may not reach.
        return len(self.raw) > SMALL and SMALL + self._u16(0x80) >= place + 4

    def _u16(self, place: int) -> int:
        return int.from_bytes(self.raw[place : place + 2], 'little')

    def _u32(self, place: int) -> int:
        return int.from_bytes(self.raw[place : place + 4], 'little')


def _seconds(low: int, extra: int | None) -> int:
    # Beyond 2038, the high bits are elsewhere.
    signed = low - (1 << 32) if low >> 31 else low
    return signed + (((extra or 0) & 3) << 32)


def _exact(low: int, extra: int) -> int:
    return _seconds(low, extra) * 10**9 + (extra >> 2)


def names(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Read the entries of a block of a directory: names and inodes.

    What is there may hold anything. The directory itself, and the one that it
    is in, are left out.
    """
    position = 0
    while position + 8 <= len(data):
        number, length, size, _ = DIRECTORY_ENTRY.unpack_from(data, position)
        if length in (0, 0xFFFF) and len(data) == 0x10000:
            length = 0x10000
        if length < 8 or position + length > len(data):
            return
        name = data[position + 8 : position + 8 + size]
        if number and name not in (b'', b'.', b'..'):
            yield name, number
        position += length
