# SPDX-License-Identifier: Apache-2.0

"""Damage to single fields of a filesystem, with checksums that still hold.

e2fsprogs refuse most damage because a checksum is wrong. What gets through is
damage by somebody who computed the checksums anew, as is done here. The
layout is that of the kernel's Documentation/filesystems/ext4; none of this
comes from the package that is tested.
"""

from collections.abc import Iterator
import os
import pathlib
import stat
import struct
from typing import Any

from amiclient.tests.oracle import disk
from amiclient.tests.oracle import exttree
from amiclient.tests.oracle import parts

_METADATA_CSUM = 0x400
_CSUM_SEED = 0x2000
_ONES = 0xFFFFFFFF


def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_TABLE = _table()


def crc32c(seed: int, data: bytes) -> int:
    """Go on with a CRC-32C, as ext4 has it: nothing is inverted."""
    table = _TABLE
    for byte in data:
        seed = table[(seed ^ byte) & 0xFF] ^ seed >> 8
    return seed


class Patch:
    """A sound filesystem, in the process of being damaged.

    Where things are was found out while it was sound, so that it does not
    matter what is damaged first. Used as a context manager, which brings the
    checksums in order at the end.

    :param path: the image.
    :param sums: false to leave the checksums as they are.
    """

    def __init__(self, path: pathlib.Path, *, sums: bool = True) -> None:
        self.path = path
        self._sums = sums
        self._owners: dict[int, tuple[str, int]] = {}
        with disk.Filesystem(path) as found:
            self.block_size = found.block_size
            self.block_count = found.block_count
            self.groups = found.group_count
            self._inode_size = found.inode_size
            self._offsets = {
                number: found.inode_offset(number)
                for number in range(1, found.inode_count + 1)
            }
            raw = found.read(1024, 1024)
            self._find_owners(found)
        self.inode_count = len(self._offsets)
        (ro_compat,) = struct.unpack_from('<I', raw, 0x64)
        (incompat,) = struct.unpack_from('<I', raw, 0x60)
        self.has_sums = bool(ro_compat & _METADATA_CSUM)
        self._seed = crc32c(_ONES, raw[0x68:0x78])
        if incompat & _CSUM_SEED:
            (self._seed,) = struct.unpack_from('<I', raw, 0x270)
        self._descriptor = 32
        if incompat & disk.INCOMPAT_64BIT:
            (self._descriptor,) = struct.unpack_from('<H', raw, 0xFE)
        self._table_block = 2 if self.block_size == 1024 else 1
        self._per_group = struct.unpack_from('<I', raw, 0x28)[0]
        self._clusters = struct.unpack_from('<I', raw, 0x24)[0]
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def __enter__(self) -> 'Patch':
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if self._sums and self.has_sums and kind is None:
                self.sum_up()
        finally:
            os.close(self._fd)

    def read(self, offset: int, length: int) -> bytes:
        """Read bytes."""
        return os.pread(self._fd, length, offset)

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes, wherever they are."""
        os.pwrite(self._fd, data, offset)

    def truncate(self, size: int) -> None:
        """Give the file another size, in bytes."""
        os.truncate(self._fd, size)

    def put(self, offset: int, layout: str, *values: Any) -> None:
        """Write fields, little-endian."""
        self.write(offset, struct.pack(f'<{layout}', *values))

    def superblock(self, offset: int, layout: str, *values: Any) -> None:
        """Write fields of the superblock, the first one."""
        self.put(1024 + offset, layout, *values)

    def descriptor_at(self, group: int) -> int:
        """Tell where a group descriptor lies; not with meta_bg."""
        return self._table_block * self.block_size + group * self._descriptor

    def descriptor(
        self, group: int, offset: int, layout: str, *values: Any
    ) -> None:
        """Write fields of a group descriptor."""
        self.put(self.descriptor_at(group) + offset, layout, *values)

    def inode_at(self, number: int) -> int:
        """Tell where an inode lies, in bytes."""
        return self._offsets[number]

    def inode(
        self, number: int, offset: int, layout: str, *values: Any
    ) -> None:
        """Write fields of an inode."""
        self.put(self._offsets[number] + offset, layout, *values)

    def number(self, name: bytes) -> int:
        """Look an inode up, before the damage."""
        return exttree.inode_numbers(self.path)[name]

    def owned(self) -> dict[int, tuple[str, int]]:
        """Tell the blocks with checksums that depend on an inode.

        :returns: by block, ``directory`` or ``extents``, and the inode.
        """
        return self._owners

    def _find_owners(self, found: disk.Filesystem) -> None:
        numbers = set(exttree.inode_numbers(self.path).values())
        for number in numbers:
            inode = found.inode(number)
            if inode.flags & disk.FLAG_INLINE_DATA:
                continue
            kind = stat.S_IFMT(inode.mode)
            if inode.flags & disk.FLAG_EXTENTS:
                for block in _nodes(found, inode.body):
                    self._owners[block] = ('extents', number)
            if kind == stat.S_IFDIR:
                parts.listing(found, inode, b'')
                for run in found.runs(inode):
                    for block in range(run.count):
                        where = run.physical + block
                        self._owners[where] = ('directory', number)

    def sum_up(self) -> None:
        """Compute all checksums anew."""
        for group in range(self.groups):
            self._sum_bitmaps(group)
        for number, offset in self._offsets.items():
            self._sum_inode(number, offset)
        for block, (kind, number) in self._owners.items():
            self._sum_block(block, kind, number)
        raw = self.read(1024, 1020)
        self.put(1024 + 0x3FC, 'I', crc32c(_ONES, raw))

    def _sum_bitmaps(self, group: int) -> None:
        at = self.descriptor_at(group)
        raw = bytearray(self.read(at, self._descriptor))
        if len(raw) < self._descriptor:
            return
        (flags,) = struct.unpack_from('<H', raw, 0x12)
        for unused, where, bits, low, high in (
            (0x2, 0x0, self._clusters, 0x18, 0x38),
            (0x1, 0x4, self._per_group, 0x1A, 0x3A),
        ):
            if flags & unused:
                continue
            (block,) = struct.unpack_from('<I', raw, where)
            data = self.read(block * self.block_size, bits // 8)
            value = crc32c(self._seed, data)
            struct.pack_into('<H', raw, low, value & 0xFFFF)
            if self._descriptor >= 64:
                struct.pack_into('<H', raw, high, value >> 16)
        struct.pack_into('<H', raw, 0x1E, 0)
        value = crc32c(self._seed, struct.pack('<I', group) + raw)
        struct.pack_into('<H', raw, 0x1E, value & 0xFFFF)
        self.write(at, bytes(raw))

    def _own_seed(self, number: int) -> int:
        raw = self.read(self._offsets[number] + 0x64, 4)
        return crc32c(self._seed, struct.pack('<I', number) + raw)

    def _sum_inode(self, number: int, offset: int) -> None:
        raw = bytearray(self.read(offset, self._inode_size))
        if len(raw) < self._inode_size or not any(raw):
            return
        struct.pack_into('<H', raw, 0x7C, 0)
        wide = False
        if self._inode_size > 128:
            wide = struct.unpack_from('<H', raw, 0x80)[0] >= 4
        if wide:
            struct.pack_into('<H', raw, 0x82, 0)
        value = crc32c(self._own_seed(number), raw)
        struct.pack_into('<H', raw, 0x7C, value & 0xFFFF)
        if wide:
            struct.pack_into('<H', raw, 0x82, value >> 16)
        self.write(offset, bytes(raw))

    def _sum_block(self, block: int, kind: str, number: int) -> None:
        at = block * self.block_size
        raw = self.read(at, self.block_size)
        if len(raw) < self.block_size:
            return
        if kind == 'directory':
            # Hashed directories have their checksum elsewhere; those blocks
            # have no fake entry of type 0xDE at their end.
            tail = self.block_size - 12
            if raw[tail : tail + 8] != b'\0\0\0\0\x0c\0\0\xde':
                return
            self.put(
                at + tail + 8, 'I', crc32c(self._own_seed(number), raw[:tail])
            )
            return
        (most,) = struct.unpack_from('<H', raw, 4)
        tail = 12 + 12 * most
        if tail + 4 <= self.block_size:
            self.put(
                at + tail, 'I', crc32c(self._own_seed(number), raw[:tail])
            )


def _nodes(found: disk.Filesystem, node: bytes) -> Iterator[int]:
    _, entries, _, level = struct.unpack_from('<HHHH', node, 0)
    if not level:
        return
    for at in range(12, 12 + 12 * entries, 12):
        _, low, high = struct.unpack_from('<IIH', node, at)
        block = low | high << 32
        yield block
        yield from _nodes(found, found.block(block))
