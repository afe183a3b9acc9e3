# SPDX-License-Identifier: Apache-2.0

"""The arithmetic of a shrink: how small a filesystem's content can be packed.

What is in use consists of data and of the block groups' own metadata
(superblock copies, group descriptor tables, bitmaps, inode tables). The data
stays the same when the filesystem shrinks; the metadata of the groups that go
away goes too. The lower bound is the smallest number of blocks that holds the
data and the metadata of the groups which that many blocks make.
"""

import bisect
import dataclasses
import math

from amiclient.ext.layout import damaged
from amiclient.ext.layout import Layout
from amiclient.ext import superblock
from amiclient.ext.superblock import Superblock
from amiclient import sparse

#: resize2fs drops a last group that has less room than this for data
#: (adjust_fs_info() in e2fsprogs, resize/resize2fs.c).
_LAST_GROUP_MINIMUM = 50

#: Numbers of groups that are tried; the first or second usually is the one.
_TRIALS = 1000

_NO_ROOM = 'its block groups have no room for data'


@dataclasses.dataclass(frozen=True)
class Geometry:
    """What of a filesystem decides its smallest size.

    :param data: blocks in use that are no group's own metadata.
    :param inodes: inodes in use, the reserved ones included.
    :param metadata: runs of the metadata of each group: (first block, blocks,
        group number).
    """

    superblock: Superblock
    data: int
    inodes: int
    metadata: tuple[tuple[int, int, int], ...]
    used: tuple[sparse.Run, ...]

    def overhead(self, count: int) -> int:
        """Return the blocks that the metadata of the first groups takes."""
        found = self.superblock
        blocks = count * (2 + found.inode_blocks)
        blocks += self._backups(count) * (1 + self._descriptor_blocks(count))
        if found.incompat & superblock.INCOMPAT_META_BG:
            per_block = found.block_size // found.desc_size
            first = found.first_meta_bg * per_block
            for rest in {0, 1, per_block - 1} & set(range(per_block)):
                # Of the groups from the first on, those with that remainder.
                blocks += max(0, (count - first - rest - 1) // per_block + 1)
        return blocks

    def _backups(self, count: int) -> int:
        found = self.superblock
        if found.compat & superblock.COMPAT_SPARSE_SUPER2:
            return sum(place < count for place in self._places(count))
        if not found.ro_compat & superblock.RO_COMPAT_SPARSE_SUPER:
            return count
        # Asked for many numbers of groups, some large.
        return min(count, 1) + bisect.bisect_left(
            superblock.SPARSE_GROUPS, count
        )

    def groups(self, blocks: int) -> int:
        """Return how many block groups a number of blocks makes."""
        found = self.superblock
        return -(-(blocks - found.first_data_block) // found.blocks_per_group)

    def fit(self, blocks: int) -> int:
        """Round a number of blocks up to one that resize2fs leaves alone."""
        found = self.superblock
        ratio = found.cluster_ratio
        blocks = -(-blocks // ratio) * ratio
        rest = self._rest(blocks)
        if not rest or self.groups(blocks) == 1:
            return blocks
        lacking = self._lowest(self.groups(blocks)) - rest
        return blocks + max(0, -(-lacking // ratio) * ratio)

    def fit_down(self, blocks: int) -> int:
        """Round a number of blocks down to one that resize2fs leaves alone."""
        blocks -= blocks % self.superblock.cluster_ratio
        rest = self._rest(blocks)
        count = self.groups(blocks)
        if rest and count > 1 and rest < self._lowest(count):
            blocks -= rest
        return blocks

    def _rest(self, blocks: int) -> int:
        found = self.superblock
        return (blocks - found.first_data_block) % found.blocks_per_group

    def _lowest(self, count: int) -> int:
        own = self.overhead(count) - self.overhead(count - 1)
        lowest = 2 + self.superblock.inode_blocks
        if self._has_backup(count - 1, count):
            lowest += 1 + self._descriptor_blocks(count)
        return max(lowest, own) + _LAST_GROUP_MINIMUM

    def need(
        self, extra: int = 0, *, spare: int = 0, packed: bool = True
    ) -> int:
        """Return the smallest number of blocks that can hold everything.

        :param extra: blocks to have free beyond that.
        :param spare: inodes to have free.
        :param packed: if false, what one pass of resize2fs can reach: it
            cannot move data to where the metadata of a group that goes away
            is still lying (free_gdp_blocks() in resize/resize2fs.c reserves
            those blocks for the duration of the pass).
        :raises DamagedError: if no number of groups would do.
        """
        found = self.superblock
        # What a group has beside its bitmaps and inode table, at most.
        capacity = found.blocks_per_group - found.inode_blocks - 2
        if capacity <= 0:
            raise damaged(_NO_ROOM)
        count = max(
            1,
            -(-(self.inodes + spare) // found.inodes_per_group),
            (self.data + extra) // capacity,
        )
        for _ in range(_TRIALS):
            start = found.first_data_block + (count - 1) * (
                found.blocks_per_group
            )
            end = start + found.blocks_per_group
            blocks = (
                found.first_data_block
                + self.data
                + self.overhead(count)
                + extra
            )
            beyond = self.groups(blocks)
            if not packed:
                blocks += self._left_behind(count, end)
            blocks = max(blocks, start + 1)
            if blocks <= end:
                fitted = self.fit(blocks)
                if fitted <= end:
                    return fitted
            # What these groups cannot hold takes more for its own metadata.
            count = max(count + 1, beyond)
        raise damaged(_NO_ROOM)

    def by_way_of(self, blocks: int) -> 'Geometry':
        """Return what it becomes when it has had another size meanwhile.

        What was set aside for more group descriptors is less then: with fewer
        groups it would have to be more than it can be, and what is cut off
        does not come back.
        """
        found = self.superblock
        if found.incompat & superblock.INCOMPAT_META_BG:
            return self
        count = self.groups(blocks)
        own = -(-count // (found.block_size // found.desc_size))
        other = dataclasses.replace(
            found,
            block_count=blocks,
            reserved_gdt_blocks=self._descriptor_blocks(count) - own,
        )
        return dataclasses.replace(self, superblock=other)

    def moved(self, blocks: int) -> int:
        """Return how many blocks lie behind a new end, and so must move."""
        total = sparse.count(self.used)
        return total - sparse.count(self.used, below=blocks)

    def _left_behind(self, count: int, end: int) -> int:
        return sum(
            min(first + length, end) - first
            for first, length, number in self.metadata
            if number >= count and first < end
        )

    def _has_backup(self, number: int, count: int) -> bool:
        found = self.superblock
        if found.compat & superblock.COMPAT_SPARSE_SUPER2:
            return number in self._places(count)
        return found.has_backup(number)

    def _places(self, count: int) -> set[int]:
        """Return which of so many groups have a backup, with sparse_super2.

        resize2fs makes those that it has done away with, or that never were,
        when there are a second and a third group again (adjust_fs_info() in
        resize/resize2fs.c).
        """
        first, second = self.superblock.backup_groups
        places = {0, first or int(self.superblock.group_count == 1)}
        if count > 2 and (second or self.superblock.group_count <= 2):
            # It moves along with the last group.
            places.add(count - 1)
        return places

    def _descriptor_blocks(self, count: int) -> int:
        # adjust_reserved_gdt_blocks() in e2fsprogs: the region keeps its
        # size as long as the reserve does not exceed what it can be.
        found = self.superblock
        reserved = found.reserved_gdt_blocks
        if found.incompat & superblock.INCOMPAT_META_BG:
            return found.first_meta_bg + reserved
        per_block = found.block_size // found.desc_size
        old = -(-found.group_count // per_block)
        new = math.ceil(count / per_block)
        if found.compat & superblock.COMPAT_RESIZE_INODE:
            reserved = min(reserved + old - new, found.block_size // 4)
        return new + max(0, reserved)


def measure(layout: Layout) -> Geometry:
    """Measure a filesystem.

    :raises DamagedError: if the bitmaps cannot be read.
    """
    found = layout.superblock
    ratio = found.cluster_ratio
    used = layout.in_use()
    metadata = layout.metadata()
    if ratio > 1:
        # What shares a cluster with metadata is no data.
        metadata = sparse.merge(
            (first // ratio * ratio, -(-end // ratio) * ratio)
            for first, end in metadata
        )
    tables = []
    for group in layout.groups:
        tables.append((group.block_bitmap, 1, group.number))
        tables.append((group.inode_bitmap, 1, group.number))
        tables.append((group.inode_table, found.inode_blocks, group.number))
    # Block 0 is the boot block where the first group begins behind it.
    before = sparse.count(used, below=found.first_data_block)
    data = sparse.count(sparse.subtract(used, metadata)) - before
    return Geometry(
        superblock=found,
        data=data,
        inodes=layout.used_inodes(),
        metadata=tuple(tables),
        used=tuple(used),
    )
