# SPDX-License-Identifier: Apache-2.0

"""What an inode and a block of a folder say.

The formats are those of the kernel's Documentation/filesystems/ext4: inodes,
directory entries, and inline data.
"""

from collections.abc import Iterator
import dataclasses
import os
import stat
import struct

EXTENTS = 0x80000
INLINE = 0x10000000
_ENCRYPTED = 0x800
#: Compressed, encrypted, sealed by fs-verity, content within the inode.
_SEALED = 0x4 | _ENCRYPTED | 0x100000
_SPECIAL = _SEALED | INLINE


@dataclasses.dataclass(frozen=True)
class Node:
    """What a path leads to.

    :param path: from the root, without links.
    :param size: bytes.
    :param mtime: seconds since 1970; so ``ctime``.
    """

    path: str
    number: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    ctime: int
    flags: int
    raw: bytes = dataclasses.field(repr=False)

    @property
    def is_inline(self) -> bool:
        """Whether its content is in the inode."""
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
        """Whether its blocks are told by extents."""
        return bool(self.flags & EXTENTS)

    @property
    def body(self) -> bytes:
        """What tells the blocks, or holds a little content."""
        return self.raw[0x28:0x64]

    @property
    def fast_target(self) -> bytes | None:
        """Where a link leads, if that is not in a block."""
        if self.size < 60 and not self.flags & (EXTENTS | INLINE):
            return self.body[: self.size]
        return None

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.mode)


def parse(raw: bytes, number: int, path: str) -> Node:
    """Read an inode.

    :param raw: as it lies on disk, 128 bytes or more.
    """
    mode, uid, low = struct.unpack_from('<HHI', raw)
    ctime, mtime = struct.unpack_from('<II', raw, 0x0C)
    (gid,) = struct.unpack_from('<H', raw, 0x18)
    (flags,) = struct.unpack_from('<I', raw, 0x20)
    (high,) = struct.unpack_from('<I', raw, 0x6C)
    uid_high, gid_high = struct.unpack_from('<HH', raw, 0x78)
    return Node(
        path=path,
        number=number,
        mode=mode,
        uid=uid | uid_high << 16,
        gid=gid | gid_high << 16,
        size=low | high << 32,
        mtime=_seconds(raw, mtime, 0x88),
        ctime=_seconds(raw, ctime, 0x84),
        flags=flags,
        raw=raw,
    )


def _seconds(raw: bytes, low: int, place: int) -> int:
    """Read a time; beyond 2038, its high bits are elsewhere."""
    signed = low - (1 << 32) if low >> 31 else low
    if len(raw) <= 128:
        return signed
    (extra,) = struct.unpack_from('<H', raw, 0x80)
    if 128 + extra < place + 4:
        return signed
    (bits,) = struct.unpack_from('<I', raw, place)
    return signed + ((int(bits) & 3) << 32)


def entries(data: bytes) -> Iterator[tuple[str, int]]:
    """Read the entries of a block of a folder."""
    position = 0
    while position + 8 <= len(data):
        number, length, name_length = struct.unpack_from(
            '<IHB', data, position
        )
        if length in (0, 0xFFFF) and len(data) == 0x10000:
            length = 0x10000
        if length < 8 or position + length > len(data):
            return
        name = data[position + 8 : position + 8 + name_length]
        if number and b'/' not in name and b'\0' not in name:
            text = os.fsdecode(name)
            if text not in ('', '.', '..'):
                yield text, number
        position += length


def inline_rest(raw: bytes) -> bytes:
    """Read the rest of inline data: the attribute ``system.data``."""
    if len(raw) <= 128:
        return b''
    (extra,) = struct.unpack_from('<H', raw, 0x80)
    start = 128 + extra
    if raw[start : start + 4] != b'\0\0\x02\xea':
        return b''
    first = position = start + 4
    while position + 16 <= len(raw) and raw[position : position + 4] != bytes(
        4
    ):
        length, index, offset, _, size = struct.unpack_from(
            '<BBHII', raw, position
        )
        name = raw[position + 16 : position + 16 + length]
        if index == 7 and name == b'data':
            return raw[first + offset : first + offset + size]
        position += 16 + (length + 3 & ~3)
    return b''
