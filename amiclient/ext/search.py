# SPDX-License-Identifier: Apache-2.0

"""The search for the smallest size that a filesystem can be shrunk to.

resize2fs thinks its minimum to be far above what it can do when it is forced.
So it is forced: first to what one pass can reach, then further down in passes
that move the few blocks at the end only. A size that is too small makes it
fail before it has moved anything; whether that is really so is checked each
time, because the search works on a copy that can be made again.

It looks at every single block, in use or not, which takes it seconds a TiB: in
copies, groups at the end that hold no file are cut off beforehand, by changing
the superblock's counts; e2fsck then frees what was their metadata.

With flex_bg, bitmaps and inode tables of up to 16 groups lie in the first of
them. When resize2fs drops a group, it can move nothing to where that group's
metadata lay until it is through; so a filesystem whose data would fill just
these blocks cannot lose its last group, unless the metadata was moved into the
group itself, and goes with it.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import os
import pathlib

from amiclient import errors
from amiclient.ext.e2fsprogs import Toolbox
from amiclient.ext import geometry
from amiclient.ext.layout import Layout
from amiclient.ext import superblock
from amiclient import process
from amiclient import sparse

#: How resize2fs says that the size is too small.
_TOO_SMALL = ('No space left', 'Could not allocate')

#: The search ends when it is as near to the lower bound as this part of it;
#: and it tries to end when it has come so many blocks near.
_NEAR = 1000
_FEW = 10

#: The part of the distance to the lower bound that a pass leaves; the next
#: one each time that it turned out to be too small.
_PARTS = (0.25, 0.5, 0.75, 0.9, 1)

#: The first pass has as much more room as this part of the data: moving data
#: into small holes takes extent tree blocks.
_SLACK = 100

#: Groups of a flex group: fewer at the end would be a special case. It pays to
#: cut groups off if 64 GiB of them go, in blocks of 4 KiB.
_FLEX = 16
_WORTHWHILE = 512

#: Features with which groups are not cut off.
_ODD = (
    superblock.COMPAT_SPARSE_SUPER2,
    superblock.INCOMPAT_META_BG,
    superblock.RO_COMPAT_BIGALLOC,
)


class SpoiledError(errors.AmiError):
    """A failed step left the copy damaged; it must be made again.

    :param steps: the steps before that one, which may be replayed.
    :param shrunk: whether they lead to a filesystem that will do.
    """

    def __init__(
        self, message: str, steps: Sequence['Step'], shrunk: bool
    ) -> None:
        super().__init__(message)
        self.steps = tuple(steps)
        self.shrunk = shrunk


@dataclasses.dataclass(frozen=True)
class Goal:
    """What the search is to arrive at.

    :param headroom: blocks that shall be free at the end.
    :param spare: inodes that shall be free at the end, at least.
    :param drop_journal: whether to take out the journal that is there.
    :param journal: MiB of the journal to make at the end; 0 for none.
    :param limit: blocks that there is room for while at it; None for any.
    :param drop_orphans: whether to take out the file of orphans.
    :param orphans: blocks of the one to make at the end; 0 for none.
    :param drop_mmp: whether to take multiple mount protection out, and leave
        room for its block.
    :param cut: whether groups at the end may be cut off, as in a copy.
    :param slack: by which factor the first pass has more room.
    """

    headroom: int
    drop_journal: bool
    journal: int
    limit: int | None = None
    drop_orphans: bool = False
    orphans: int = 0
    drop_mmp: bool = False
    cut: bool = False
    slack: int = 1
    spare: int = 0


@dataclasses.dataclass(frozen=True)
class Step:
    """One change to a filesystem, such that it can be done again elsewhere.

    :param blocks: resize it to this size, unless 0.
    :param drop_journal: take out the journal.
    :param journal: make a journal of so many MiB, unless 0 ...
    :param location: ... looking for room from this block on.
    :param drop_orphans: take out the file of orphans.
    :param orphans: make one of so many blocks, unless 0.
    :param drop_mmp: take out multiple mount protection.
    :param evict: take the last group's metadata into that group.
    :param keep: cut all but the first so many groups off, unless 0.
    """

    blocks: int = 0
    drop_journal: bool = False
    journal: int = 0
    location: int = 0
    drop_orphans: bool = False
    orphans: int = 0
    drop_mmp: bool = False
    evict: bool = False
    keep: int = 0


class Track:
    """The steps that were done, and where they put the inodes.

    :param layout: the block groups before, if they were read already.
    :ivar moved: the inodes that have another number now: old to new.
    :ivar by_hand: blocks at which ``resize2fs -M`` would stop, 0 if unknown.
    """

    def __init__(
        self, path: pathlib.Path, tools: Toolbox, layout: Layout | None = None
    ) -> None:
        self.path = path
        self.tools = tools
        self.steps: list[Step] = []
        self.moved: dict[int, int] = {}
        self.by_hand = 0
        self._ratio = layout.superblock.cluster_ratio if layout else 0
        self._layout = layout
        self._measured: geometry.Geometry | None = None

    @property
    def layout(self) -> Layout:
        """Its block groups now; whoever reads more has to open the file."""
        if self._layout is None:
            with Layout.opened(self.path) as self._layout:
                self._measured = geometry.measure(self._layout)
            self._ratio = self._layout.superblock.cluster_ratio
        return self._layout

    @property
    def measured(self) -> geometry.Geometry:
        layout = self.layout
        self._measured = self._measured or geometry.measure(layout)
        return self._measured

    @property
    def superblock(self) -> superblock.Superblock:
        return self.layout.superblock

    def forget(self) -> None:
        """Read everything again, which somebody has written to."""
        self._layout = self._measured = None

    def take(self, step: Step) -> None:
        """Do a step.

        :raises ProgramFailed: if that did not work.
        """
        try:
            self._do(step)
        finally:
            self.forget()
        self.steps.append(step)

    def _do(self, step: Step) -> None:
        tools, path = self.tools, self.path
        if step.drop_journal:
            tools.drop_journal(path)
        elif step.journal:
            tools.add_journal(path, step.journal, step.location)
        elif step.drop_orphans:
            tools.drop_orphan_file(path)
        elif step.orphans:
            tools.add_orphan_file(path, step.orphans)
        elif step.drop_mmp:
            tools.drop_mmp(path)
        elif step.keep:
            if not _cut(self, step.keep):
                raise SpoiledError('cut too much off', self.steps, False)
        elif step.evict:
            if not _evict(path, tools):
                raise SpoiledError('no room for metadata', self.steps, True)
        else:
            moved = tools.resize(path, step.blocks)
            back = {new: old for old, new in self.moved.items()}
            for old, new in moved.items():
                self.moved[back.get(old, old)] = new
            # resize2fs 1.47.0 leaves wrong counts of free blocks if there are
            # clusters; e2fsck counts anew.
            self._ratio = self._ratio or superblock.read(path).cluster_ratio
            if self._ratio > 1:
                tools.preen(path)

    def note_by_hand(self) -> None:
        """Find out whether ``resize2fs -M`` would go on from here."""
        size = self.superblock.block_count
        try:
            if self.tools.minimum(self.path) >= size:
                self.by_hand = size
        except process.ProgramFailed as error:
            # It may refuse this kind of filesystem.
            if error.result.status < 0:
                raise

    def may_be_beaten(self, bound: int) -> bool:
        """Return whether ``resize2fs -M`` has any chance to end lower.

        What it takes for the minimum depends on how much there is and on the
        size, and is less for a smaller one. If it would not have gone on from
        a size above the result, it does not get there from a larger one. What
        luck there is with extent trees is no more than what the result is
        above the bound; one block is not worth the time, which is long where
        the filesystem is huge.

        :param bound: blocks below which nothing can get.
        """
        blocks = self.superblock.block_count
        return blocks > bound + 1 and self.by_hand <= 2 * blocks - bound


def search(
    path: pathlib.Path,
    goal: Goal,
    tools: Toolbox,
    layout: Layout | None = None,
) -> Track:
    """Shrink a copy of a filesystem as far as it goes.

    :param path: the copy, in order by e2fsck's standards.
    :param layout: of what was copied, if that was read before.
    :raises UnsupportedError: if resize2fs cannot shrink such a filesystem.
    :raises SpoiledError: if the copy must be made again.
    """
    track = Track(path, tools, layout)
    by_hand = not goal.headroom
    tight = False
    try:
        if goal.drop_mmp:
            headroom = goal.headroom + track.superblock.cluster_ratio
            goal = dataclasses.replace(goal, headroom=headroom)
            track.take(Step(drop_mmp=True))
        if goal.drop_orphans:
            track.take(Step(drop_orphans=True))
        if goal.drop_journal:
            track.take(Step(drop_journal=True))
        keep = _groups_to_keep(track.layout) if goal.cut else None
        if keep is not None:
            track.take(Step(keep=keep))
        # With a journal to be made, the headroom comes at the end.
        _descend(track, goal)
        if goal.journal:
            _make_journal(track, goal)
        if goal.orphans:
            _make_orphans(track, goal)
        # What is promised to be free may be more than ever was.
        room = track.measured.need(goal.headroom, spare=goal.spare)
        _grow(track, goal, room)
        tight = True
        if by_hand:
            track.note_by_hand()
        _tighten(track, goal)
        _make_good(track, goal)
    except process.ProgramFailed as error:
        if error.result.status < 0:
            # Killed, for want of memory perhaps; that says nothing of sizes.
            raise
        raise SpoiledError(str(error), track.steps, tight) from error
    return track


def replay(path: pathlib.Path, steps: Iterable[Step], tools: Toolbox) -> Track:
    """Do with a filesystem what led to the goal with a copy of it."""
    track = Track(path, tools)
    for step in steps:
        track.take(step)
    return track


def by_hand(
    path: pathlib.Path, goal: Goal, tools: Toolbox
) -> tuple[Step, ...]:
    """Shrink a copy as it is done by hand: ``resize2fs -M``, again and again.

    That ends above what the search reaches, nearly always. But how many
    extents the blocks end up in, and so how many blocks the extent trees
    take, is luck; where there are few groups, this may have more of it. What
    is called the minimum must never be more than what anybody gets that way.

    :returns: the steps, the last of which tells the size; none if even the
        first of them fails.
    """
    track = Track(path, tools)
    changes = bool(goal.drop_journal or goal.journal)
    steps = (
        Step(drop_mmp=goal.drop_mmp),
        Step(drop_orphans=goal.drop_orphans and changes),
        Step(drop_journal=goal.drop_journal),
        Step(journal=goal.journal),
        Step(orphans=goal.orphans * changes),
    )
    try:
        for step in steps:
            if step != Step():
                track.take(step)
        while True:
            size = tools.minimum(path)
            if size >= superblock.read(path).block_count:
                break
            track.take(Step(blocks=size))
    except process.ProgramFailed as error:
        if error.result.status < 0:
            raise
    found = superblock.read(path)
    if goal.drop_mmp and found.free_blocks < found.cluster_ratio:
        # There would be no room for its block.
        return ()
    return tuple(track.steps) if any(s.blocks for s in track.steps) else ()


def _descend(track: Track, goal: Goal) -> None:
    # The first pass, which moves nearly all that is ever moved.
    measured = track.measured
    now = measured.superblock.block_count
    slack = goal.slack * (measured.data // _SLACK + 64)
    headroom = 0 if goal.journal else goal.headroom
    while True:
        size = measured.need(headroom + slack, spare=goal.spare, packed=False)
        if size >= now or _shrink(track, size):
            return
        slack *= 2


def _make_journal(track: Track, goal: Goal) -> None:
    found = track.superblock
    blocks = (goal.journal << 20) // found.block_size
    # tune2fs insists on twice the room.
    room = track.measured.need(2 * blocks + blocks // _SLACK + 64)
    if goal.limit is not None and room > goal.limit:
        raise SpoiledError('no room for a new journal', track.steps, False)
    if found.block_count < room:
        track.take(Step(blocks=room))
    location = min(found.block_count, room - 1)
    track.take(Step(journal=goal.journal, location=location))


def _make_orphans(track: Track, goal: Goal) -> None:
    # Where all is in use but for single blocks, it takes some more for its
    # extent tree.
    room = goal.orphans + goal.orphans // _SLACK + 64
    _grow(track, goal, track.measured.need(room, spare=1))
    track.take(Step(orphans=goal.orphans))


def _make_good(track: Track, goal: Goal) -> None:
    # Where there are clusters, metadata takes more than it needs, and the
    # free space is that much less.
    while (lacking := goal.headroom - track.superblock.free_blocks) > 0:
        now = track.superblock.block_count
        _grow(track, goal, track.measured.fit(now + lacking))


def _grow(track: Track, goal: Goal, size: int) -> None:
    if track.superblock.block_count < size:
        if goal.limit is not None and size > goal.limit:
            raise errors.NoSpaceError(
                'there is no room for the headroom',
                hint='choose a smaller --headroom',
            )
        track.take(Step(blocks=size))


def _tighten(track: Track, goal: Goal) -> None:
    # Each pass leaves a part of the distance, as room for the extent tree
    # blocks that it takes to move blocks into small holes: without any, it
    # fails half way.
    parts, few = list(_PARTS), _FEW
    evicted = False
    failed = 0
    while True:
        measured = track.measured
        high = measured.superblock.block_count
        low = measured.need(goal.headroom, spare=goal.spare)
        if high - low <= max(few, low // _NEAR):
            near = high - low <= max(1, low // _NEAR)
            _finish(track, measured, low)
            if near or track.superblock.block_count <= low + 1:
                return
            few = 1
            continue
        size = measured.fit(low + int((high - low) * parts[0]))
        if size >= high:
            # Nothing between: the last group goes as a whole, or stays.
            size = measured.fit_down(high - 1)
        last = _without_last_group(measured.superblock)
        least = measured.need(goal.headroom, spare=goal.spare, packed=False)
        if (
            not evicted
            and low <= last < least
            and (size <= last or high - size < (high - last) // 4)
        ):
            # The next step has to drop the last group, whose metadata is in
            # the way.
            evicted = True
            if _drop_last_group(track, measured, low):
                continue
        if low <= size != failed and _shrink(track, size):
            continue
        failed = size
        if len(parts) > 1:
            del parts[0]
            continue
        if evicted or not _drop_last_group(track, measured, low):
            return
        evicted = True
        failed = 0
        parts = list(_PARTS)


def _finish(track: Track, measured: geometry.Geometry, low: int) -> None:
    # To where resize2fs -M, again and again, would end.
    for size in (low + 1, low):
        high = measured.superblock.block_count
        if measured.fit(size) == size < high and not _shrink(track, size):
            return


def _without_last_group(found: superblock.Superblock) -> int:
    return found.first_block(found.group_count - 1)


def _drop_last_group(
    track: Track, measured: geometry.Geometry, low: int
) -> bool:
    found = measured.superblock
    size = _without_last_group(measured.superblock)
    room = _room_to_evict(measured)
    full = found.block_count - size == found.blocks_per_group
    if full or room is None or size < low:
        return False
    track.take(Step(blocks=room))
    track.take(Step(evict=True))
    if _shrink(track, size):
        return True
    track.take(Step(blocks=found.block_count))
    return False


def _shrink(track: Track, blocks: int) -> bool:
    try:
        track.take(Step(blocks=blocks))
    except process.ProgramFailed as error:
        if error.result.status < 0:
            raise
        said = error.result.stderr
        if not any(words in said for words in _TOO_SMALL):
            lines = [
                line.strip()
                for line in said.splitlines()
                if not line.startswith(('resize2fs 1.', 'Please run'))
            ]
            words = ' '.join(filter(None, lines))[:200]
            raise errors.UnsupportedError(
                f'resize2fs cannot shrink this filesystem: {words}'
            ) from error
        if not track.tools.check(track.path):
            # It failed half way, which search() handles.
            raise
        return False
    return True


def _room_to_evict(measured: geometry.Geometry) -> int | None:
    # None where there is no metadata to move, or no room for it.
    found = measured.superblock
    count = found.group_count
    start = _without_last_group(measured.superblock)
    below = any(
        number == count - 1 and first < start
        for first, _, number in measured.metadata
    )
    wanted = found.block_count + found.inode_blocks + 2
    end = start + found.blocks_per_group
    if count > 1 and below and found.cluster_ratio == 1 and wanted <= end:
        return wanted
    return None


def _evict(path: pathlib.Path, tools: Toolbox) -> bool:
    """Move the last group's metadata to free blocks at its end, if it can."""
    with Layout.opened(path, os.O_RDWR) as layout:
        found, group = layout.superblock, layout.groups[-1]
        table = found.inode_blocks
        start = found.block_count - table - 2
        if not any(first <= start for first, end in layout.free()[-1:]):
            return False
        old = (
            (group.inode_table, table),
            (group.inode_bitmap, 1),
            (group.block_bitmap, 1),
        )
        data = b''.join(layout.blocks(*place) for place in old)
        os.pwrite(layout.descriptor, data, start * found.block_size)
        free = {each.number: each.free_blocks for each in layout.groups}
    number = group.number
    changed = {number: free[number] - table - 2}
    for first, count in old:
        home = (first - found.first_data_block) // found.blocks_per_group
        changed[home] = changed.get(home, free[home]) + count
    tools.edit(
        path,
        (
            *(f'freeb {first} {count}' for first, count in old),
            f'setb {start} {table + 2}',
            f'set_bg {number} inode_table {start}',
            f'set_bg {number} inode_bitmap {start + table}',
            f'set_bg {number} block_bitmap {start + table + 1}',
            # debugfs leaves the groups' counts of free blocks as they were.
            *(
                f'set_bg {group} free_blocks_count {count}'
                for group, count in changed.items()
            ),
            *(f'set_bg {group} checksum calc' for group in changed),
        ),
    )
    # A group that was not initialised takes more than that.
    return tools.check(path) or tools.preen(path)


def _groups_to_keep(layout: Layout) -> int | None:
    # Those up to the last that holds anything, if it pays to cut the rest off.
    found = layout.superblock
    words = found.compat, found.incompat, found.ro_compat
    if found.group_count < _WORTHWHILE or any(
        word & odd for word, odd in zip(words, _ODD, strict=True)
    ):
        return None
    data = sparse.subtract(layout.in_use(), layout.metadata())
    last = 0
    if data:
        end = data[-1][1] - 1 - found.first_data_block
        last = max(0, end // found.blocks_per_group)
    rest = layout.groups[last + 1 :]
    last = max((g.number for g in rest if layout.inode_runs(g)), default=last)
    keep = -(-(last + 1) // _FLEX) * _FLEX
    return keep if found.group_count - keep >= _WORTHWHILE else None


def _cut(track: Track, keep: int) -> bool:
    """Cut all groups but the first ones off, and say if nothing is lost."""
    path, tools, before = track.path, track.tools, track.measured
    found = before.superblock
    blocks = found.first_block(keep)
    inodes = keep * found.inodes_per_group
    reserved = found.reserved_blocks * blocks // found.block_count
    used = found.block_count - found.free_blocks
    tools.edit(
        path,
        (
            f'ssv blocks_count {blocks}',
            f'ssv r_blocks_count {reserved}',
            f'ssv free_blocks_count {max(0, blocks - used)}',
            f'ssv inodes_count {inodes}',
            f'ssv free_inodes_count {inodes - found.used_inodes}',
        ),
    )
    os.truncate(path, blocks * found.block_size)
    # Whether that was right is checked at the end, when it is quicker.
    tools.settle(path)
    track.forget()
    after = track.measured
    # e2fsck indexes directories that are not (mke2fs -d makes such), which
    # takes some blocks more.
    more = after.data - before.data
    return (
        after.inodes == before.inodes and 0 <= more <= before.data // 50 + 64
    )
