# SPDX-License-Identifier: Apache-2.0

"""Where in a new filesystem everything goes.

The size is not known before all files have been seen. So files come first,
one after the other, and what depends on their number (inode tables, bitmaps)
comes last, which flex_bg allows: mke2fs puts it in front only because it
knows the size beforehand. Nothing is left free in between, so that the
filesystem is as small as it can be without having been shrunk.
"""

import bisect
import dataclasses
import itertools

from amiclient import errors
from amiclient.ext.superblock import SPARSE_GROUPS
from amiclient.ext.writer.records import SIZE
from amiclient import sparse

BLOCK = 4096
#: Blocks that a group has, unless the inodes take more groups than the blocks.
PER_GROUP = 32768
DESCRIPTOR = 64
DESCRIPTORS_PER_BLOCK = BLOCK // DESCRIPTOR
INODES_PER_BLOCK = BLOCK // SIZE

#: Inodes that mke2fs makes for as many blocks (mke2fs.conf, inode_ratio
#: 16384); fewer, and a filesystem that has grown would run out of them.
_INODES_PER_GROUP = 8192
_MOST_INODES_PER_GROUP = 8 * BLOCK

#: Reserved inodes, the first other one of which is lost+found.
RESERVED_INODES = 10

#: Group descriptors that there is room for, in blocks: for growing to 512 GiB
#: in place; resize2fs makes more room where that is not enough.
_SMALLEST_TABLE = 64
#: s_reserved_gdt_blocks may be up to a quarter of a block's bytes.
_LARGEST_TABLE = BLOCK // 4

#: Bytes of the largest filesystem whose groups have room.
LARGEST = _LARGEST_TABLE * DESCRIPTORS_PER_BLOCK * PER_GROUP * BLOCK

#: mke2fs and resize2fs have no last group with fewer blocks to spare.
_SPARE = 50

#: Numbers of blocks in a group that are tried.
_TRIALS = 32

_MOST_BLOCKS = 2**32 - 1

#: Blocks below which a filesystem has a journal of how many (mke2fs,
#: ext2fs_default_journal_size() in lib/ext2fs/mkjournal.c).
_JOURNALS = (
    (2048, 0),
    (32768, 1024),
    (256 << 10, 4096),
    (512 << 10, 8192),
    (4096 << 10, 16384),
    (8192 << 10, 32768),
    (16384 << 10, 65536),
    (32768 << 10, 131072),
)
_LARGEST_JOURNAL = 262144


def default_journal(blocks: int) -> int:
    """Return the blocks of the journal that mke2fs would make."""
    for limit, journal in _JOURNALS:
        if blocks < limit:
            return journal
    return _LARGEST_JOURNAL


def table_blocks(size: int) -> int:
    """Return the blocks to set aside for group descriptors.

    :param size: bytes that the filesystem may get, as far as is known.
    """
    needed = 2 * -(-size // (BLOCK * PER_GROUP * DESCRIPTORS_PER_BLOCK))
    return min(max(needed, _SMALLEST_TABLE), _LARGEST_TABLE)


def backups(groups: int) -> list[int]:
    """List the groups with a copy of the superblock, but for the first."""
    return SPARSE_GROUPS[: bisect.bisect_left(SPARSE_GROUPS, groups)]


class Space:
    """What is taken of a filesystem that is only getting its size.

    :param table: blocks that each copy of the group descriptors takes.
    :param per_group: blocks of a group.
    :ivar end: what comes after the last block that is taken.
    :ivar free: runs of blocks before that which are not, as start and count.
    """

    def __init__(self, table: int, per_group: int = PER_GROUP) -> None:
        self.table = table
        self.per_group = per_group
        self.end = 1 + table
        self.free: list[tuple[int, int]] = []

    @property
    def taken(self) -> int:
        """How many blocks are not free."""
        return self.end - sum(count for _, count in self.free)

    def copy(self) -> 'Space':
        other = Space(self.table, self.per_group)
        other.end, other.free = self.end, list(self.free)
        return other

    def take(self, count: int) -> list[tuple[int, int]]:
        """Take some blocks.

        :returns: runs, as start and count.
        """
        runs = []
        while count and self.free:
            start, length = self.free.pop()
            part = min(count, length)
            runs.append((start, part))
            if part < length:
                self.free.append((start + part, length - part))
            count -= part
        while count:
            part = min(count, self._room())
            runs.append((self.end, part))
            self.end += part
            count -= part
        if self.end > _MOST_BLOCKS:
            raise errors.AmiError('the filesystem would be larger than 16 TiB')
        return runs

    def take_one(self) -> int:
        return self.take(1)[0][0]

    def take_together(self, count: int) -> int:
        """Take blocks that follow each other, fewer than a group has.

        :returns: the first one.
        """
        room = self._room()
        if room < count:
            self.free.append((self.end, room))
            self.end += room
            self._room()
        first = self.end
        self.end += count
        return first

    def give_back(self, start: int, count: int) -> None:
        self.free.append((start, count))

    def regroup(self, per_group: int) -> list[sparse.Run]:
        """Have groups with fewer blocks.

        :returns: the blocks that are taken, and that copies of the superblock
            come to lie in, as start and end.
        """
        free = [(start, start + count) for start, count in self.free]
        free = sparse.merge(free + self._copies())
        self.per_group = per_group
        copies = self._copies()
        self.free = [
            (start, end - start)
            for start, end in sparse.subtract(free, copies)
        ]
        taken = sparse.subtract([(0, self.end)], free)
        self.end = max([self.end, *(end for _, end in copies)])
        inside = sparse.subtract(copies, taken)
        return sparse.subtract(copies, inside)

    def _copies(self) -> list[sparse.Run]:
        starts = (group * self.per_group for group in SPARSE_GROUPS)
        within = itertools.takewhile(lambda start: start < self.end, starts)
        return [(start, start + 1 + self.table) for start in within]

    def _room(self) -> int:
        """Count the blocks up to the next copy of the superblock; skip one."""
        group, offset = divmod(self.end, self.per_group)
        if offset == 0 and group in (0, *SPARSE_GROUPS):
            self.end += 1 + self.table
        following = SPARSE_GROUPS[bisect.bisect_right(SPARSE_GROUPS, group)]
        return following * self.per_group - self.end


@dataclasses.dataclass(frozen=True)
class Placement:
    """The size of everything.

    :param inodes: that each group has.
    :param per_group: blocks that each group has, but for the last.
    :param bitmaps: where the two of each group lie, blocks and inodes.
    :param tables: where the inode table of each group begins.
    """

    blocks: int
    inodes: int
    per_group: int
    bitmaps: tuple[tuple[int, int], ...]
    tables: tuple[int, ...]

    @property
    def groups(self) -> int:
        return len(self.tables)

    @property
    def table_blocks(self) -> int:
        """Blocks of an inode table."""
        return self.inodes // INODES_PER_BLOCK


def settle(
    space: Space, inode_count: int, *, headroom: int, size: int | None
) -> Placement:
    """Place what belongs to groups, and find out how many there are.

    :param space: everything else is in there; groups come in addition.
    :param inode_count: inodes that there shall be at least, with the reserved
        ones.
    :param headroom: blocks to leave free.
    :param size: blocks of the whole; as few as possible if None.
    :raises AmiError: if it takes more than ``size``.
    """
    groups = 1
    while True:
        per_group = max(_INODES_PER_GROUP, -(-inode_count // groups))
        per_group = -(-per_group // INODES_PER_BLOCK) * INODES_PER_BLOCK
        trial = space.copy()
        if per_group <= _MOST_INODES_PER_GROUP:
            placed = _placed(trial, groups, per_group)
            needed = _with_room(trial, headroom)
            smallest = (groups - 1) * space.per_group
            if smallest:
                smallest += _least(groups - 1, per_group, space.table)
            blocks = max(needed, smallest)
            if size is not None:
                blocks = max(blocks, _whole(size, per_group, space))
            if -(-blocks // space.per_group) <= groups:
                if size is not None and blocks > size:
                    raise TooSmallError(blocks)
                space.end, space.free = trial.end, trial.free
                return dataclasses.replace(placed, blocks=blocks)
            groups = max(groups + 1, blocks // space.per_group)
        else:
            groups += 1


def blocks_per_group(
    space: Space,
    more: int,
    inode_count: int,
    *,
    headroom: int,
    size: int | None,
) -> int:
    """Return how many blocks a group should have.

    A group has 32768 inodes at most. Where that takes more groups than the
    blocks do, groups have fewer blocks, as mke2fs makes them; else most of
    them would be empty.

    :param more: blocks that are still to be taken, about.
    :param inode_count: as in :func:`settle`, and so are the others.
    """
    groups = -(-inode_count // _MOST_INODES_PER_GROUP)
    inodes = max(_INODES_PER_GROUP, -(-inode_count // groups))
    last = _least(1, inodes, space.table)
    tables = groups * (2 + -(-inodes // INODES_PER_BLOCK))
    copies = len(backups(groups)) * (1 + space.table)
    blocks = max(space.taken + more + headroom + tables + copies, size or 0)
    if groups == 1 or blocks - last > (groups - 1) * PER_GROUP:
        return PER_GROUP
    # What a group has of its own must have room in it when the filesystem
    # grows. How inode tables fit between copies of the superblock is tried.
    fewest = max((blocks - last) // (groups - 1), last)
    best = -_MOST_BLOCKS, PER_GROUP
    for trial in range(_TRIALS + 1):
        per_group = fewest + fewest * trial // _TRIALS
        per_group = min(-(-per_group // 16) * 16, PER_GROUP)
        other = space.copy()
        other.take(more + sparse.count(other.regroup(per_group)))
        try:
            found = settle(other, inode_count, headroom=headroom, size=size)
            blocks = found.blocks
        except TooSmallError as error:
            blocks = error.blocks
        # The more blocks the better: what it grows by has as many inodes.
        best = max(best, (-blocks, per_group))
    return best[1]


class TooSmallError(errors.AmiError):
    """A size that everything does not fit into.

    :param blocks: that it takes.
    """

    def __init__(self, blocks: int) -> None:
        super().__init__(f'{blocks} blocks are needed')
        self.blocks = blocks


def _with_room(space: Space, blocks: int) -> int:
    """Return where a filesystem ends that has so many blocks free."""
    beyond = space.copy()
    spare = blocks - sum(count for _, count in beyond.free)
    beyond.free = []
    beyond.take(max(0, spare))
    return beyond.end


def _placed(space: Space, groups: int, per_group: int) -> Placement:
    count = per_group // INODES_PER_BLOCK
    bitmaps = [(space.take_one(), space.take_one()) for _ in range(groups)]
    tables = [space.take_together(count) for _ in range(groups)]
    return Placement(
        0, per_group, space.per_group, tuple(bitmaps), tuple(tables)
    )


def _least(group: int, per_group: int, table: int) -> int:
    own = 2 + per_group // INODES_PER_BLOCK
    return own + (1 + table if group in (0, *SPARSE_GROUPS) else 0) + _SPARE


def _whole(size: int, per_group: int, space: Space) -> int:
    """Return what mke2fs makes of a size: no last group that is too small."""
    groups, rest = divmod(size, space.per_group)
    if groups and rest < _least(groups, per_group, space.table):
        return size - rest
    return size
