# SPDX-License-Identifier: Apache-2.0

"""The shrink as it is done by hand: ``resize2fs -M``, again and again.

That ends above what :mod:`amiclient.ext.search` reaches, nearly always. But
how many extents the blocks end up in, and so how many blocks the extent trees
take, is luck; where there are few groups, this may have more of it. What is
told to be the minimum must never be more than what anybody gets that way.
"""

import pathlib

from amiclient.ext import e2fsprogs
from amiclient.ext import search
from amiclient.ext import superblock
from amiclient import process


def may_win(track: search.Track, bound: int) -> bool:
    """Tell whether there is any chance that it ends lower than a search did.

    What resize2fs takes for the minimum depends on how much there is and on
    the size, and is less for a smaller one. If it would not have gone on from
    a size above the result, it does not get there from a larger one. What
    luck there is with extent trees is no more than what the result is above
    the bound.

    To try it takes long where the filesystem is huge.

    :param bound: blocks below which nothing can get.
    """
    blocks = superblock.read(track.path).block_count
    return blocks > bound and track.by_hand <= 2 * blocks - bound


def shrink(
    path: pathlib.Path, goal: search.Goal, tools: e2fsprogs.Toolbox
) -> tuple[search.Step, ...]:
    """Shrink a copy that way.

    :returns: the steps, the last of which tells the size; none if even the
        first of them fails.
    """
    track = search.Track(path, tools)
    try:
        if goal.drop_mmp:
            track.take(search.Step(drop_mmp=True))
        if not goal.keeps_journal:
            _change_journal(track, goal)
        while True:
            size = tools.minimum(path)
            if size >= superblock.read(path).block_count:
                break
            track.take(search.Step(blocks=size))
    except process.ProgramFailed as error:
        if error.result.status < 0:
            raise
    found = superblock.read(path)
    if goal.drop_mmp and found.free_blocks < found.cluster_ratio:
        # There would be no room for its block.
        return ()
    return tuple(track.steps) if any(s.blocks for s in track.steps) else ()


def _change_journal(track: search.Track, goal: search.Goal) -> None:
    changes = goal.drop_journal or goal.journal
    if goal.drop_orphans and changes:
        track.take(search.Step(drop_orphans=True))
    if goal.drop_journal:
        track.take(search.Step(drop_journal=True))
    if goal.journal:
        track.take(search.Step(journal=goal.journal))
    if goal.orphans and changes:
        track.take(search.Step(orphans=goal.orphans))
