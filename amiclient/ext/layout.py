# SPDX-License-Identifier: Apache-2.0

"""Block groups: where their metadata lies, and what is in use.

Runs are pairs ``(first, end)``, as in :mod:`amiclient.sparse`.
"""

from collections.abc import Iterable, Iterator
import contextlib
import copy
import dataclasses
import functools
import os
import pathlib
import re
import stat
import struct
import threading
from typing import Self

from amiclient import errors
from amiclient.ext.inodes import Inode
from amiclient.ext import superblock
from amiclient.ext.superblock import Superblock
from amiclient import locks
from amiclient.progress import Progress
from amiclient import sparse

#: A group descriptor, and its half of those that have no 64 bits: both
#: bitmaps and the inode table, free blocks and inodes, directories, flags,
#: exclude bitmap, checksums of both bitmaps, unused inodes, checksum; then the
#: high halves.
DESCRIPTOR = struct.Struct('<IIIHHHHIHHHHIIIHHHHIHHI')
_HALF = struct.Struct('<IIIHHHHIHHHH')
_INODE_UNINIT = 0x0001
_BLOCK_UNINIT = 0x0002
#: Inodes that are read at a time.
_BATCH = 4096

_ONES = re.compile('1+')

#: More runs of blocks than these, which take a GiB, are too many: bitmaps of
#: every other block would make a hundred times the bytes of the file of them.
_RUNS = 1 << 23


@dataclasses.dataclass(frozen=True)
class RootImage:
    """An ext2, ext3 or ext4 filesystem that starts at byte 0 of something.

    :param size: bytes of the file or block device, which may be more than the
        filesystem takes.
    :param state: what :func:`amiclient.locks.state` said when it was read.
    :param boot_sector: bytes at its beginning that must be zeros, for Nova
        would take it for a partitioned disk else.
    """

    path: pathlib.Path
    size: int
    is_device: bool
    superblock: Superblock
    state: locks.State
    boot_sector: int = 0

    def refuse_changed(self, now: locks.State | None = None) -> None:
        """Make sure that it is still the file, or device, that was read.

        :param now: the state of what was opened; None for that of what has
            the name.
        :raises BusyError: if it was changed, or replaced.
        """
        locks.refuse_changed(self.path, self.state, now)


def behind(path: pathlib.Path, found: Superblock) -> int:
    """Return the bytes of a file that lie behind its filesystem.

    Holes are not looked into. What is behind one on a block device are the
    remains of something else.

    :returns: 0 as well if all of them are zeros.
    :raises SourceError: if they cannot be read.
    """
    with sparse.opened(path, os.O_RDONLY) as descriptor:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size <= found.size:
            return 0
        for first, end in sparse.data_in(
            descriptor, found.size, status.st_size
        ):
            for offset in range(first, end, sparse.CHUNK):
                count = min(sparse.CHUNK, end - offset)
                if any(sparse.read_at(descriptor, count, offset)):
                    return status.st_size - found.size
    return 0


@dataclasses.dataclass(frozen=True)
class Group:
    """One group descriptor.

    :param block_bitmap: block number; so are the next two.
    :param free_blocks: by the descriptor's own count.
    :param blocks_initialised: whether the block bitmap holds anything; if
        not, only the group's own metadata is in use.
    :param inodes_initialised: likewise of inode bitmap and inode table.
    """

    number: int
    block_bitmap: int
    inode_bitmap: int
    inode_table: int
    free_blocks: int
    blocks_initialised: bool
    inodes_initialised: bool


class Layout:
    """The block groups of one filesystem, read from an open file.

    :raises DamagedError: if a descriptor points outside the filesystem.
    """

    def __init__(self, descriptor: int, found: Superblock) -> None:
        self.descriptor = descriptor
        self.superblock = found
        self._inode_bitmaps: dict[int, bytes] = {}
        self._reserved: dict[int, bytes] = {}
        self.groups = tuple(self._read_groups())
        self._refuse_shared()

    @classmethod
    @contextlib.contextmanager
    def opened(
        cls, path: pathlib.Path, flags: int = os.O_RDONLY
    ) -> Iterator[Self]:
        """Open a filesystem.

        :raises SourceError: if there is none, or it cannot be read.
        """
        with sparse.opened(path, flags) as descriptor:
            yield cls(descriptor, superblock.load(descriptor, str(path)))

    def read(self, offset: int, count: int) -> bytes:
        """Read bytes of the filesystem, fewer only where the file ends."""
        return sparse.read_at(self.descriptor, count, offset)

    def allocated(self) -> int:
        """Return the bytes that the file takes on its disk; 0 if unknown."""
        return os.fstat(self.descriptor).st_blocks * 512

    def blocks(self, first: int, count: int = 1) -> bytes:
        """Read blocks.

        :raises DamagedError: if the file ends before.
        """
        size = self.superblock.block_size
        data = self.read(first * size, count * size)
        if len(data) < count * size:
            raise errors.DamagedError(
                f'the file ends before block {first + count}',
                hint='it was cut short; download or copy it again',
            )
        return data

    def at(self, descriptor: int) -> Self:
        """Go on with another descriptor of the filesystem.

        What was read is not read again, so nothing may have changed it.
        """
        other = copy.copy(self)
        other.descriptor = descriptor
        return other

    def in_use(self) -> tuple[sparse.Run, ...]:
        """Return the blocks that are in use.

        Metadata of every group is included, whatever the bitmaps say; of
        groups that are not initialised there is nothing else.
        """
        return self._in_use

    @functools.cached_property
    def _in_use(self) -> tuple[sparse.Run, ...]:
        size = self.superblock.block_size
        # A block size above 1 KiB has the superblock within block 0; below,
        # block 0 is before the first group and holds the boot sector.
        runs: list[sparse.Run] = [(0, max(1, 2048 // size))]
        for group in self.groups:
            runs.extend(self._own(group))
            if group.blocks_initialised:
                runs.extend(self._marked(group))
            if len(runs) > _RUNS:
                raise errors.UnsupportedError(
                    f'the blocks in use are in more than {_RUNS} pieces',
                    hint='copy the files into a new filesystem',
                )
        return tuple(sparse.merge(runs))

    def free(self) -> list[sparse.Run]:
        """Return the blocks that are free: all that are not in use."""
        return sparse.complement(self.in_use(), self.superblock.block_count)

    def metadata(self) -> list[sparse.Run]:
        """Return the blocks of all groups' own metadata, in use or not."""
        return sparse.merge(
            run
            for group in self.groups
            for run in self._own(group, whole=True)
        )

    def inode_runs(self, group: Group) -> list[sparse.Run]:
        """Return the inodes in use in a group, as runs of numbers from 0."""
        if not group.inodes_initialised:
            return []
        bits = self.superblock.inodes_per_group
        bitmap = self._inode_bitmaps.get(group.number)
        if bitmap is None:
            bitmap = self.blocks(group.inode_bitmap)[: -(-bits // 8)]
            self._inode_bitmaps[group.number] = bitmap
        return _runs(bitmap, bits)

    def used_inodes(self) -> int:
        """Count the inodes in use, the reserved ones included.

        The superblock has a count of its own, which is right only after the
        filesystem was unmounted: e2fsck mends it without a word.
        """
        return sum(
            sparse.count(self.inode_runs(group)) for group in self.groups
        )

    def unused_inode_bytes(self) -> Iterator[sparse.Run]:
        """Return the runs of bytes in inode tables without an inode in use."""
        block, size = self.superblock.block_size, self.superblock.inode_size
        for group in self.groups:
            start = group.inode_table * block
            length = self.superblock.inode_blocks * block
            position = 0
            for first, end in self.inode_runs(group):
                if first * size > position:
                    yield start + position, start + first * size
                position = end * size
            if position < length:
                yield start + position, start + length

    def inode(self, number: int, path: str = '') -> Inode:
        """Read one inode, in use or not.

        :raises DamagedError: if there can be no such inode, or the file ends
            before.
        """
        found = self.superblock
        group, index = divmod(number - 1, found.inodes_per_group)
        data = self._reserved.get(number, b'')
        if not data and 0 <= group < len(self.groups):
            data = self._inodes(self.groups[group], index, 1)
        if len(data) < found.inode_size:
            raise damaged(f'the inode {number} does not exist, but is needed')
        if number < found.first_inode:
            # Such as that of the journal, which several ask for.
            self._reserved[number] = data
        return Inode(number, data, path)

    def inodes(self) -> Iterator[Inode]:
        found = self.superblock
        size = found.inode_size
        for group in self.groups:
            base = group.number * found.inodes_per_group + 1
            for first, end in self.inode_runs(group):
                for index in range(first, end, _BATCH):
                    data = self._inodes(group, index, min(_BATCH, end - index))
                    for slot in range(len(data) // size):
                        raw = data[slot * size : (slot + 1) * size]
                        yield Inode(base + index + slot, raw)

    def _inodes(self, group: Group, index: int, count: int) -> bytes:
        found = self.superblock
        start = group.inode_table * found.block_size
        return self.read(
            start + index * found.inode_size, count * found.inode_size
        )

    def copy_in_use(
        self,
        target: pathlib.Path,
        leave: Iterable[sparse.Run] = (),
        *,
        progress: Progress,
        cancel: threading.Event | None = None,
    ) -> None:
        """Copy the blocks and inodes in use, and nothing else.

        What is not in use is left as a hole: whatever was deleted from the
        source cannot be in the copy.

        :param target: an empty file.
        :param leave: runs of blocks, ascending, that are to be zeros instead.
        :raises CancelledError: if ``cancel`` was set meanwhile.
        """
        found = self.superblock
        unused = list(self.unused_inode_bytes())
        used = sparse.bytes_of(
            sparse.subtract(self.in_use(), sparse.merge(leave)),
            found.block_size,
        )
        with (
            sparse.opened(target, os.O_RDWR) as writer,
            progress.task('Copying', sparse.count(used)) as task,
        ):
            shared = sparse.clone(self.descriptor, writer)
            os.truncate(writer, found.size)
            if shared:
                sparse.clear(writer, sparse.complement(used, found.size))
                sparse.clear(writer, unused)
                return
            sparse.copy_runs(
                self.descriptor,
                writer,
                sparse.subtract(used, unused),
                task=task,
                cancel=cancel,
            )

    def _refuse_shared(self) -> None:
        for taken in (
            {group.block_bitmap for group in self.groups},
            {group.inode_bitmap for group in self.groups},
            {group.inode_table for group in self.groups},
        ):
            if len(taken) < len(self.groups):
                raise damaged('block groups share their metadata')

    def _own(self, group: Group, whole: bool = False) -> Iterator[sparse.Run]:
        yield from self._backups(group.number)
        if whole or group.blocks_initialised:
            yield group.block_bitmap, group.block_bitmap + 1
        if whole or group.inodes_initialised:
            yield group.inode_bitmap, group.inode_bitmap + 1
            end = group.inode_table + self.superblock.inode_blocks
            yield group.inode_table, end

    def _backups(self, number: int) -> Iterator[sparse.Run]:
        # ext2fs_super_and_bgd_loc2() in e2fsprogs.
        found = self.superblock
        start = self._begin(number)
        backup = found.has_backup(number)
        if backup:
            yield start, start + 1
        per_block = found.block_size // found.desc_size
        meta_bg = bool(found.incompat & superblock.INCOMPAT_META_BG)
        if not meta_bg or number // per_block < found.first_meta_bg:
            if backup:
                yield start + 1, start + 1 + descriptor_blocks(found)
        elif number % per_block in (0, 1, per_block - 1):
            first = start + int(backup)
            yield first, first + 1

    def _marked(self, group: Group) -> list[sparse.Run]:
        found = self.superblock
        ratio = found.cluster_ratio
        start = self.superblock.first_block(group.number)
        count = min(found.blocks_per_group, found.block_count - start)
        bitmap = self.blocks(group.block_bitmap)
        return [
            (
                start + first * ratio,
                min(start + end * ratio, found.block_count),
            )
            for first, end in _runs(bitmap, -(-count // ratio))
        ]

    def _read_groups(self) -> Iterator[Group]:
        found = self.superblock
        per_block = found.block_size // found.desc_size
        count = found.group_count
        for index in range(-(-count // per_block)):
            table = self.blocks(self._descriptor_block(index))
            for slot in range(min(per_block, count - index * per_block)):
                yield self._parse(
                    index * per_block + slot, table, slot * found.desc_size
                )

    def _descriptor_block(self, index: int) -> int:
        found = self.superblock
        meta_bg = bool(found.incompat & superblock.INCOMPAT_META_BG)
        if not meta_bg or index < found.first_meta_bg:
            return superblock.OFFSET // found.block_size + 1 + index
        number = index * (found.block_size // found.desc_size)
        return self._begin(number) + int(found.has_backup(number))

    def _begin(self, number: int) -> int:
        found = self.superblock
        start = found.first_block(number)
        # The superblock is in block first_data_block, but with bigalloc and
        # blocks of 1 KiB, where that is 0 and it is in block 1.
        return start or superblock.OFFSET // found.block_size

    def _parse(self, number: int, table: bytes, offset: int) -> Group:
        found = self.superblock
        wide = found.desc_size >= DESCRIPTOR.size
        fields = (DESCRIPTOR if wide else _HALF).unpack_from(table, offset)
        *places, free, _, _, flags = fields[:7]
        if wide:
            free |= fields[15] << 16
            for index, high in enumerate(fields[12:15]):
                places[index] |= high << 32
        block_bitmap, inode_bitmap, inode_table = places
        last = max(
            block_bitmap, inode_bitmap, inode_table + found.inode_blocks - 1
        )
        if last >= found.block_count or not inode_table:
            raise damaged(f'the descriptor of block group {number} is damaged')
        if not found.group_checksums:
            # Without checksums the flags mean nothing.
            flags = 0
        return Group(
            number,
            block_bitmap,
            inode_bitmap,
            inode_table,
            free,
            not flags & _BLOCK_UNINIT,
            not flags & _INODE_UNINIT,
        )


def damaged(what: str) -> errors.DamagedError:
    """Say what is damaged that e2fsck may repair."""
    return errors.DamagedError(what, hint='repair a copy with e2fsck')


def descriptor_blocks(found: Superblock) -> int:
    """Return the blocks that follow each copy of the superblock.

    That is the group descriptor table and the blocks reserved for it.
    """
    if found.incompat & superblock.INCOMPAT_META_BG:
        return found.first_meta_bg + found.reserved_gdt_blocks
    per_block = found.block_size // found.desc_size
    return -(-found.group_count // per_block) + found.reserved_gdt_blocks


def _runs(bitmap: bytes, bits: int) -> list[sparse.Run]:
    # The string of digits is the quickest way to the runs in pure Python:
    # one millisecond for the 32768 bits of a group.
    number = int.from_bytes(bitmap[: -(-bits // 8)], 'little')
    number &= (1 << bits) - 1
    if not number:
        return []
    if number == (1 << bits) - 1:
        return [(0, bits)]
    digits = format(number, 'b')[::-1]
    return [match.span() for match in _ONES.finditer(digits)]
