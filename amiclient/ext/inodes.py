# SPDX-License-Identifier: Apache-2.0

"""Inodes: the few fields of them that a shrink must know.

``struct ext2_inode_large`` in e2fsprogs, lib/ext2fs/ext2_fs.h.
"""

from collections.abc import Iterator
import dataclasses
import stat
import struct

from amiclient import errors
from amiclient.ext.layout import Group
from amiclient.ext.layout import Layout

#: Bytes of an inode that every revision of the filesystem has.
_SMALL = 128

#: Inodes that are read at a time.
_BATCH = 4096


@dataclasses.dataclass(frozen=True)
class Times:
    """When an inode was changed, as it lies on disk.

    :param ctime: the low 32 bits of the seconds; so ``mtime``.
    :param ctime_extra: nanoseconds and further bits of the seconds; None
        where the inode has no room for it; so ``mtime_extra``.
    """

    ctime: int
    mtime: int
    ctime_extra: int | None
    mtime_extra: int | None


@dataclasses.dataclass(frozen=True)
class Inode:
    """One inode in use.

    :param size: bytes.
    """

    number: int
    is_directory: bool
    size: int
    times: Times


class Table:
    """The inode tables of a filesystem, for one inode at a time or all.

    :param layout: its block groups.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        found = layout.superblock
        self._size = found.inode_size
        self._per_group = found.inodes_per_group

    def read(self, number: int) -> Inode:
        """Read one inode, in use or not.

        :raises DamagedError: if there can be no such inode, or the file ends
            before.
        """
        data = self.raw(number)
        return _parse(data, 0, number, self._size)

    def raw(self, number: int) -> bytes:
        """Read one inode as it lies on disk.

        :raises DamagedError: as :meth:`read` does.
        """
        group, index = divmod(number - 1, self._per_group)
        data = b''
        if 0 <= group < len(self._layout.groups):
            offset = self._offset(self._layout.groups[group], index)
            data = self._layout.read(offset, self._size)
        if len(data) < self._size:
            raise errors.DamagedError(
                f'there is no inode {number}, which is needed',
                hint='mend a copy with e2fsck',
            )
        return data

    def in_use(self) -> Iterator[Inode]:
        """Read all inodes in use."""
        for group in self._layout.groups:
            base = group.number * self._per_group + 1
            for first, end in self._layout.inode_runs(group):
                for index in range(first, end, _BATCH):
                    stop = min(index + _BATCH, end)
                    data = self._layout.read(
                        self._offset(group, index),
                        (stop - index) * self._size,
                    )
                    for slot in range(len(data) // self._size):
                        yield _parse(
                            data,
                            slot * self._size,
                            base + index + slot,
                            self._size,
                        )

    def _offset(self, group: Group, index: int) -> int:
        block_size = self._layout.superblock.block_size
        return group.inode_table * block_size + index * self._size


def _parse(data: bytes, offset: int, number: int, size: int) -> Inode:
    mode, low = struct.unpack_from('<H2xI', data, offset)
    ctime, mtime = struct.unpack_from('<II', data, offset + 0x0C)
    (high,) = struct.unpack_from('<I', data, offset + 0x6C)
    ctime_extra = mtime_extra = None
    if size > _SMALL:
        (extra,) = struct.unpack_from('<H', data, offset + 0x80)
        if extra >= 12:
            ctime_extra, mtime_extra = struct.unpack_from(
                '<II', data, offset + 0x84
            )
    return Inode(
        number,
        stat.S_ISDIR(mode),
        low | high << 32,
        Times(ctime, mtime, ctime_extra, mtime_extra),
    )
