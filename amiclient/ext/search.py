# SPDX-License-Identifier: Apache-2.0

"""The search for the smallest size that a filesystem can be shrunk to.

resize2fs thinks its minimum to be far above what it can do when it is forced.
So it is forced: first to what one pass can reach, then further down in passes
that move the few blocks at the end only. A size that is too small makes it
fail before it has moved anything; whether that is really so is checked each
time, because the search works on a copy that can be made again.

The journal is taken out first and made anew at the end, as large as it was:
old transactions hold what was deleted since, and moving it would write it out
in full although it is empty.
"""

from collections.abc import Iterable, Sequence
import contextlib
import dataclasses
import os
import pathlib

from amiclient import errors
from amiclient.ext import cut
from amiclient.ext import e2fsprogs
from amiclient.ext import evict
from amiclient.ext import geometry
from amiclient.ext.layout import Layout
from amiclient.ext import superblock
from amiclient import process
from amiclient import sparse

#: The words by which resize2fs says that the size is too small.
_TOO_SMALL = ('No space left', 'Could not allocate')

#: The search ends when it is as near to the lower bound as this part of it.
_NEAR = 1000

#: The part of the distance to the lower bound that a pass leaves; the next
#: one each time that it turned out to be too small.
_PARTS = (0.25, 0.5, 0.75, 0.9, 1)

#: The first pass has as much more room as this part of the data: moving data
#: into small holes takes extent tree blocks.
_SLACK = 100


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
    :param keeps_journal: whether the journal may as well move along.
    :param drop_orphans: whether to take out the file of orphans, which
        cannot be without a journal.
    :param orphans: blocks of the one to make at the end; 0 for none.
    :param drop_mmp: whether to take multiple mount protection out, and leave
        room for the block that it will have again.
    :param cut: whether groups at the end may be cut off, as in a copy.
    :param slack: by which factor the first pass has more room than usual.
    """

    headroom: int
    drop_journal: bool
    journal: int
    limit: int | None = None
    keeps_journal: bool = False
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

    :ivar moved: the inodes that have another number now: old to new.
    :ivar by_hand: blocks at which ``resize2fs -M`` would not go on, if that
        was seen, else 0.
    """

    def __init__(self, path: pathlib.Path, tools: e2fsprogs.Toolbox) -> None:
        self.path = path
        self.tools = tools
        self.steps: list[Step] = []
        self.moved: dict[int, int] = {}
        self.by_hand = 0

    def take(self, step: Step) -> None:
        """Do a step.

        :raises ProgramFailed: if that did not work.
        """
        if step.drop_journal:
            self.tools.drop_journal(self.path)
        elif step.journal:
            self.tools.add_journal(self.path, step.journal, step.location)
        elif step.drop_orphans:
            self.tools.drop_orphan_file(self.path)
        elif step.orphans:
            self.tools.add_orphan_file(self.path, step.orphans)
        elif step.drop_mmp:
            self.tools.drop_mmp(self.path)
        elif step.keep:
            if not cut.cut(self.path, step.keep, self.tools):
                raise SpoiledError('cut too much off', self.steps, False)
        elif step.evict:
            if not evict.evict(self.path, self.tools):
                raise SpoiledError('no room for metadata', self.steps, True)
        else:
            self._note(self.tools.resize(self.path, step.blocks))
            self._count()
        self.steps.append(step)

    def note_by_hand(self) -> None:
        """Find out whether ``resize2fs -M`` would go on from here."""
        size = superblock.read(self.path).block_count
        # It may refuse this kind of filesystem.
        with contextlib.suppress(process.ProgramFailed):
            if self.tools.minimum(self.path) >= size:
                self.by_hand = size

    def _count(self) -> None:
        # resize2fs 1.47.0 leaves wrong counts of free blocks if there are
        # clusters; e2fsck counts anew.
        if superblock.read(self.path).cluster_ratio > 1:
            self.tools.preen(self.path)

    def _note(self, moved: dict[int, int]) -> None:
        if moved:
            back = {new: old for old, new in self.moved.items()}
            for old, new in moved.items():
                self.moved[back.get(old, old)] = new


def search(path: pathlib.Path, goal: Goal, tools: e2fsprogs.Toolbox) -> Track:
    """Shrink a copy of a filesystem as far as it goes.

    :param path: the copy, in order by e2fsck's standards.
    :returns: the steps that led there.
    :raises UnsupportedError: if resize2fs cannot shrink such a filesystem.
    :raises SpoiledError: if the copy must be made again.
    """
    track = Track(path, tools)
    found = superblock.read(path)
    before, by_hand = found.block_count, not goal.headroom
    tight = False
    if goal.drop_mmp:
        headroom = goal.headroom + found.cluster_ratio
        goal = dataclasses.replace(goal, headroom=headroom)
    try:
        if goal.drop_mmp:
            track.take(Step(drop_mmp=True))
        if goal.drop_orphans:
            track.take(Step(drop_orphans=True))
        if goal.drop_journal:
            track.take(Step(drop_journal=True))
        keep = cut.groups_to_keep(path) if goal.cut else None
        if keep is not None:
            track.take(Step(keep=keep))
        # With a journal to be made, the headroom comes at the end.
        _descend(track, goal)
        if goal.journal:
            _make_journal(track, goal)
        if goal.orphans:
            _make_orphans(track, goal)
        _make_room(track, goal)
        tight = True
        if by_hand:
            track.note_by_hand()
        _tighten(track, goal)
        _make_good(track, goal)
        if goal.keeps_journal and by_hand:
            _refuse_grown(track, before)
    except process.ProgramFailed as error:
        if error.result.status < 0:
            # Killed, for want of memory perhaps; that says nothing of sizes.
            raise
        raise SpoiledError(str(error), track.steps, tight) from error
    return track


def _refuse_grown(track: Track, before: int) -> None:
    # Without a block to spare, a journal made anew lies so scattered that it
    # takes more than before.
    if superblock.read(track.path).block_count > before:
        raise SpoiledError('it would grow', track.steps, False)


def replay(
    path: pathlib.Path, steps: Iterable[Step], tools: e2fsprogs.Toolbox
) -> Track:
    """Do with a filesystem what led to the goal with a copy of it."""
    track = Track(path, tools)
    for step in steps:
        track.take(step)
    return track


def _descend(track: Track, goal: Goal) -> None:
    # The first pass, which moves nearly all that is ever moved.
    measured = _measure(track.path)
    now = measured.superblock.block_count
    slack = goal.slack * (measured.data // _SLACK + 64)
    headroom = 0 if goal.journal else goal.headroom
    while True:
        size = measured.need(headroom + slack, spare=goal.spare, packed=False)
        if size >= now or _shrink(track, size):
            return
        slack *= 2


def _make_journal(track: Track, goal: Goal) -> None:
    measured = _measure(track.path)
    found = measured.superblock
    blocks = (goal.journal << 20) // found.block_size
    # tune2fs insists on twice the room.
    room = measured.need(2 * blocks + blocks // _SLACK + 64)
    if goal.limit is not None and room > goal.limit:
        raise SpoiledError(
            'no room to make the journal anew', track.steps, False
        )
    if found.block_count < room:
        track.take(Step(blocks=room))
    location = min(found.block_count, room - 1)
    track.take(Step(journal=goal.journal, location=location))


def _make_orphans(track: Track, goal: Goal) -> None:
    # Where all is in use but for single blocks, it takes some more for its
    # extent tree.
    room = goal.orphans + goal.orphans // _SLACK + 64
    measured = _measure(track.path)
    measured = dataclasses.replace(measured, inodes=measured.inodes + 1)
    _grow(track, goal, measured.need(room))
    track.take(Step(orphans=goal.orphans))


def _make_room(track: Track, goal: Goal) -> None:
    # What is promised to be free may be more than ever was.
    measured = _measure(track.path)
    _grow(track, goal, measured.need(goal.headroom, spare=goal.spare))


def _make_good(track: Track, goal: Goal) -> None:
    # Where there are clusters, metadata takes more than it needs, and the
    # free space is that much less.
    while True:
        measured = _measure(track.path)
        found = measured.superblock
        lacking = goal.headroom - found.free_blocks
        if lacking <= 0:
            return
        _grow(track, goal, measured.fit(found.block_count + lacking))


def _grow(track: Track, goal: Goal, size: int) -> None:
    if superblock.read(track.path).block_count < size:
        if goal.limit is not None and size > goal.limit:
            raise errors.NoSpaceError(
                'there is no room for the headroom', hint='leave less free'
            )
        track.take(Step(blocks=size))


def _tighten(track: Track, goal: Goal) -> None:
    # Each pass leaves a part of the distance, as room for the extent tree
    # blocks that it takes to move blocks into small holes: without any, it
    # fails half way.
    parts = list(_PARTS)
    evicted = False
    failed = 0
    while True:
        measured = _measure(track.path)
        high = measured.superblock.block_count
        low = measured.need(goal.headroom, spare=goal.spare)
        if high - low <= max(1, low // _NEAR):
            _finish(track, measured, low)
            return
        size = measured.fit(low + int((high - low) * parts[0]))
        if size >= high:
            # Nothing between: the last group goes as a whole, or stays.
            size = measured.fit_down(high - 1)
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


def _drop_last_group(
    track: Track, measured: geometry.Geometry, low: int
) -> bool:
    """Shrink to where the last group begins, by way of taking it apart."""
    found = measured.superblock
    rest = (found.block_count - found.first_data_block) % (
        found.blocks_per_group
    )
    size = found.block_count - rest
    room = evict.room(measured)
    if not rest or room is None or size < low:
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
        if not any(words in error.result.stderr for words in _TOO_SMALL):
            raise errors.UnsupportedError(
                f'resize2fs cannot shrink this filesystem: {_words(error)}'
            ) from error
        if not track.tools.check(track.path):
            # It failed half way: to be told apart by search().
            raise
        return False
    return True


def _words(error: process.ProgramFailed) -> str:
    lines = [
        line.strip()
        for line in error.result.stderr.splitlines()
        if line.strip()
        and not line.startswith('resize2fs 1.')
        and not line.startswith('Please run')
    ]
    return ' '.join(lines)[:200]


def _measure(path: pathlib.Path) -> geometry.Geometry:
    with sparse.opened(path, os.O_RDONLY) as descriptor:
        layout = Layout(descriptor, superblock.read(path))
        return geometry.measure(layout)


def journal_in_mib(size: int, block_size: int) -> int | None:
    """Tell the MiB of a journal, or None if tune2fs cannot make one like it.

    :param size: bytes.
    """
    least, most = superblock.SMALLEST_JOURNAL, superblock.LARGEST_JOURNAL
    if size % (1 << 20) or not least <= size // block_size <= most:
        return None
    return size >> 20
