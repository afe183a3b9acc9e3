# SPDX-License-Identifier: Apache-2.0

"""Shrinking a filesystem to its true minimum, without touching the source.

``plan()`` looks and computes; ``execute()`` acts. What is copied is what is in
use; the copy is shrunk, its time stamps are put back, its free blocks are
cleared, it is verified, and only then it gets its name.
"""

from collections.abc import Callable, Iterable, Iterator
import contextlib
import dataclasses
import functools
import os
import pathlib
import threading
from typing import TypeVar

from amiclient import atomic
from amiclient import errors
from amiclient.ext import busy
from amiclient.ext import e2fsprogs
from amiclient.ext.e2fsprogs import Toolbox
from amiclient.ext.inodes import Times
from amiclient.ext.layout import Layout
from amiclient.ext.plan import aim
from amiclient.ext.plan import prepare
from amiclient.ext.plan import ShrinkPlan
from amiclient.ext.plan import ShrinkRequest
from amiclient.ext.plan import Target
from amiclient.ext.reader import Reader
from amiclient.ext import repair
from amiclient.ext import search
from amiclient.ext.search import Track
from amiclient.ext import superblock
from amiclient import interrupts
from amiclient import locks
from amiclient.progress import Progress
from amiclient.progress import QUIET
from amiclient import scratch
from amiclient import sparse
from amiclient import units

__all__ = (
    'ShrinkPlan',
    'ShrinkRequest',
    'Shrunk',
    'execute',
    'plan',
)

#: How much more room the first pass gets if it failed half way.
_ROOMY = 8


@dataclasses.dataclass(frozen=True)
class Shrunk:
    """What was done. All sizes but ``block_count`` are bytes.

    :param in_use: bytes in use in the result.
    """

    image: pathlib.Path
    output: pathlib.Path
    filesystem: str
    block_size: int
    block_count: int
    size_before: int
    in_use: int
    lower_bound: int

    @property
    def size(self) -> int:
        return self.block_count * self.block_size

    @property
    def saved(self) -> int:
        """Bytes that the result is smaller."""
        return self.size_before - self.size


def plan(
    request: ShrinkRequest,
    *,
    check: bool = False,
    exact: bool = False,
    progress: Progress = QUIET,
) -> ShrinkPlan:
    """Check what can be checked quickly, and say what would be done.

    :param check: have e2fsck check the filesystem now, and try out what needs
        mending, rather than while executing.
    :param exact: try the shrink out on a copy of the metadata, so that the
        size is known to the block.
    :raises AmiError: as :func:`amiclient.ext.plan.prepare` does.
    """
    planned = prepare(request)
    if check and not planned.recover:
        with progress.task('Checking'):
            clean = Toolbox.of(planned.image.superblock).check(
                planned.image.path
            )
        planned = dataclasses.replace(
            planned, checked=clean, recover=not clean
        )
    if exact or (check and planned.recover):
        planned = _redone(_rehearse, planned, progress)
    return planned


def _rehearse(planned: ShrinkPlan, progress: Progress) -> ShrinkPlan:
    tools = Toolbox.of(planned.image.superblock)
    with (
        errors.about(planned.image.path),
        scratch.workshop(planned.directory) as directory,
        scratch.full_disk(planned.directory),
        repair.clean_source(planned, tools, progress) as source,
        progress.task('Testing the shrink'),
    ):
        source.wait()
        target = aim(planned.request, source.layout)
        track = _try_out(target, source.path, directory, tools)
        if target.goal.drop_mmp:
            tools.add_mmp(track.path, 0)
            track.forget()
        return dataclasses.replace(
            planned,
            block_count=track.superblock.block_count,
            in_use=track.superblock.in_use,
            lower_bound=target.bound_at(track.measured),
        )


def execute(
    planned: ShrinkPlan,
    *,
    progress: Progress = QUIET,
    cancel: threading.Event | None = None,
) -> Shrunk:
    """Do what was planned.

    :param cancel: when set, the work is given up; a shrink in place is not.
    :raises BusyError: if the filesystem was changed since the plan was made.
    :raises DamagedError: if the filesystem is damaged and may not, or cannot,
        be repaired.
    :raises UnsupportedError: if resize2fs cannot shrink it.
    :raises CancelledError: if ``cancel`` was set meanwhile.
    """
    busy.refuse_busy(planned.image.path)
    planned.image.refuse_changed()
    for directory in {planned.directory, planned.output.parent}:
        scratch.sweep(directory)
    with (
        errors.about(planned.image.path),
        scratch.full_disk(planned.directory, planned.output.parent),
    ):
        if planned.in_place:
            return _in_place(planned, progress, cancel)
        return _redone(
            functools.partial(_on_copy, cancel=cancel), planned, progress
        )


_T = TypeVar('_T')


def _redone(
    work: Callable[[ShrinkPlan, Progress], _T],
    planned: ShrinkPlan,
    progress: Progress,
) -> _T:
    """Do some work, again with a mended copy if the source needs that."""
    try:
        return work(planned, progress)
    except repair.UncleanError:
        return work(dataclasses.replace(planned, recover=True), progress)


def _on_copy(
    planned: ShrinkPlan,
    progress: Progress,
    cancel: threading.Event | None,
) -> Shrunk:
    request = planned.request
    tools = Toolbox.of(planned.image.superblock, cancel)
    with (
        atomic.Output(planned.output) as output,
        repair.clean_source(planned, tools, progress) as source,
        contextlib.ExitStack() as stack,
    ):
        target = aim(request, source.layout)

        def fresh(phase: Progress) -> pathlib.Path:
            output.empty()
            source.copy_to(output.path, phase)
            return output.path

        def metadata() -> pathlib.Path:
            source.wait()
            directory = stack.enter_context(
                scratch.workshop(planned.directory)
            )
            tools.copy_metadata(source.path, directory / _METADATA)
            return directory / _METADATA

        with progress.task('Shrinking') as phase:
            try:
                track = _search(target, fresh, metadata, tools, phase)
            except errors.CancelledError:
                raise
            except errors.AmiError:
                scratch.refuse_full(planned.directory, planned.output.parent)
                # A source that is not in order, or not what it was, explains
                # any failure.
                source.wait()
                planned.image.refuse_changed()
                raise
            source.wait()
            phase.tell(_achieved(planned, track))
        with progress.task('Verifying'):
            _finish(source.layout, track)
        planned.image.refuse_changed()
        result = _result(planned, target, track)
        like = planned.image.path if request.output is None else None
        output.keep(like, durable=request.durable)
    return result


def _in_place(
    planned: ShrinkPlan,
    progress: Progress,
    cancel: threading.Event | None,
) -> Shrunk:
    path, request = planned.image.path, planned.request
    gentle = tools = Toolbox.of(planned.image.superblock)
    if request.own:
        tools = dataclasses.replace(tools, cancel=cancel)
    else:
        tools = dataclasses.replace(tools, interruptible=False)
    recover = planned.recover or not tools.check(path)
    if recover and not request.options.repair:
        with scratch.workshop(planned.directory) as directory:
            repair.refuse_damaged(path, directory / _METADATA, gentle)
    repair.mend(path, tools, recover=recover, repair=request.options.repair)
    state = locks.state(path)
    with Layout.opened(path) as layout:
        target = aim(request, layout)
    with scratch.workshop(planned.directory) as directory:
        with progress.task('Testing the shrink'):
            recorder = e2fsprogs.Recorder.of(planned.image.superblock)
            trial = _try_out(target, path, directory, recorder)
        if not request.own:
            # Not everybody knows of locks. What was tried out with something
            # else would destroy it.
            busy.refuse_busy(path)
            locks.refuse_changed(path, state)
        if not planned.image.is_device:
            _reserve(path, recorder.written)
        with contextlib.nullcontext() if request.own else _half_done(path):
            with progress.task('Shrinking') as phase:
                with phase.task('Resizing'):
                    track = search.replay(path, trial.steps, tools)
                phase.tell(_achieved(planned, track))
            with (
                progress.task('Verifying'),
                Layout.opened(directory / _METADATA) as before,
            ):
                _finish(before, track)
            result = _result(planned, target, track)
            if not planned.image.is_device:
                os.truncate(path, result.size)
            if request.durable:
                atomic.sync(path)
    return result


def _achieved(planned: ShrinkPlan, track: Track) -> str:
    size = track.superblock.block_count * planned.block_size
    before = planned.size_before
    words = f'{units.format_size(before)} -> {units.format_size(size)}'
    if size <= before:
        return words
    words += f' ({units.format_size(size - before)} larger'
    headroom = planned.request.options.headroom
    return words + (
        f', with {headroom} of headroom)' if any(headroom) else ')'
    )


@contextlib.contextmanager
def _half_done(path: pathlib.Path) -> Iterator[None]:
    try:
        # What is half done can only be finished.
        with interrupts.held():
            yield
    except errors.AmiError as error:
        raise errors.DamagedError(
            f'{path} may be damaged, the resize failed: {error.sentence}',
            hint=f'run: e2fsck -f -y {path}',
        ) from error


#: The name of the copy that has no file's content in it.
_METADATA = 'metadata'


def _try_out(
    target: Target,
    path: pathlib.Path,
    directory: pathlib.Path,
    tools: Toolbox,
) -> Track:
    """Search on a copy of the metadata, where moving data costs little."""
    metadata = directory / _METADATA
    tools.copy_metadata(path, metadata)

    def copy(name: str) -> pathlib.Path:
        sparse.copy(metadata, directory / name)
        return directory / name

    return _search(
        target, lambda _: copy('trial'), lambda: copy('another'), tools, QUIET
    )


def _search(
    target: Target,
    fresh: Callable[[Progress], pathlib.Path],
    metadata: Callable[[], pathlib.Path],
    tools: Toolbox,
    phase: Progress,
) -> Track:
    """Search for the smallest size.

    :param fresh: makes a copy, which the search takes place in.
    :param metadata: makes another that need not have the files' content.
    :param phase: what the copies are steps of.
    """
    track = _descend(target, fresh, tools, phase)
    if target.goal.headroom or not track.may_be_beaten(target.bound):
        return track
    with phase.task('Comparing with resize2fs -M'):
        steps = search.by_hand(metadata(), target.goal, tools)
    if not steps or steps[-1].blocks >= track.superblock.block_count:
        return track
    path = fresh(phase)
    with phase.task('Resizing'):
        return search.replay(path, steps, tools)


def _descend(
    target: Target,
    fresh: Callable[[Progress], pathlib.Path],
    tools: Toolbox,
    phase: Progress,
) -> Track:
    goal = target.goal
    cause: errors.AmiError | None = None
    roomy = dataclasses.replace(goal, slack=_ROOMY * goal.slack, cut=False)
    for attempt in (goal, roomy):
        path = fresh(phase)
        with phase.task('Resizing'):
            try:
                return search.search(path, attempt, tools, target.layout)
            except search.SpoiledError as error:
                if not error.shrunk:
                    cause = error
                    continue
                steps = error.steps
        path = fresh(phase)
        with phase.task('Resizing'):
            return search.replay(path, steps, tools)
    what = 'leave that much free in' if goal.headroom else 'shrink'
    raise errors.UnsupportedError(
        f'resize2fs cannot {what} this filesystem: {cause}',
        hint='nothing was changed',
    ) from cause


def _finish(before: Layout, track: Track) -> None:
    """Put the time stamps back, clear what is free, and verify the whole.

    :param before: the filesystem before, or a copy of its metadata.
    :raises DamagedError: if e2fsck has something to object to.
    """
    path, tools, after = track.path, track.tools, track.layout
    with sparse.opened(path, os.O_RDWR) as descriptor:
        if restore_times(before, after.at(descriptor), track):
            track.forget()
        found = after.superblock
        if not found.clean:
            # A size that was too small leaves that behind, and nothing else.
            tools.forgive(path)
            track.forget()
        if (
            found.compat & superblock.COMPAT_ORPHAN_FILE
            or found.ro_compat & superblock.RO_COMPAT_QUOTA
        ):
            # resize2fs 1.47.0 moves the file of orphans, but does not compute
            # its checksums anew, which depend on the block numbers; and quotas
            # are not told of extent tree blocks that have come or gone.
            # Preening mends both.
            tools.settle(path, '-p')
            track.forget()
        after = track.layout.at(descriptor)
        found, old = after.superblock, before.superblock
        wanted = before.used_inodes() - bool(old.orphan_inode)
        wanted += bool(found.orphan_inode)
        if after.used_inodes() != wanted:
            raise errors.DamagedError(
                f'the shrunk filesystem has {after.used_inodes()} inodes in '
                f'use instead of {wanted}',
                hint='please report this as a bug',
            )
        # A journal that moved along holds what was deleted since.
        for runs in (after.free(), Reader(after).journal()):
            size = found.block_size
            sparse.clear(descriptor, sparse.bytes_of(runs, size))
        sparse.clear(descriptor, after.unused_inode_bytes())
        if old.has_mmp and not found.has_mmp:
            tools.add_mmp(path, old.mmp_interval)
            track.forget()
            busy.carry_over(before, track.layout.at(descriptor))
    tools.verify(path, 'the shrunk filesystem')


def restore_times(before: Layout, after: Layout, track: Track) -> int:
    """Put the time stamps of a filesystem back to what they were.

    When resize2fs gives an inode another number, it sets the ctime of that
    inode, and mtime and ctime of the directories that name it, to the present.
    Nothing of them was changed for whoever uses the filesystem.

    :param before: the filesystem before it was shrunk, or its metadata.
    :param after: the filesystem to mend.
    :param track: where its inodes have gone.
    :returns: how many inodes were mended.
    """
    commands = []
    for inode in before.inodes():
        number = track.moved.get(inode.number)
        if number is None:
            if not inode.is_directory:
                continue
            number = inode.number
        now = after.inode(number).times
        if now != inode.times:
            commands.append(_set_times(number, now, inode.times))
    if commands:
        track.tools.edit(
            track.path, (line for lines in commands for line in lines)
        )
    return len(commands)


def _reserve(path: pathlib.Path, runs: Iterable[sparse.Run]) -> None:
    """Give a file the room on disk that what is written to it will take.

    A file with holes is written to in places that it has no blocks for yet.
    There must be some then: what moves has left its old place.

    :param runs: ranges of bytes that will be written to.
    :raises NoSpaceError: if there is not that much room.
    """
    with sparse.opened(path, os.O_RDWR) as descriptor:
        size = os.fstat(descriptor).st_size
        holes = sparse.subtract(
            sparse.merge(runs), sparse.data_in(descriptor, 0, size)
        )
        scratch.check_room(path.parent, sparse.count(holes))
        with scratch.full_disk(path.parent):
            for first, end in holes:
                os.posix_fallocate(descriptor, first, end - first)


def _set_times(number: int, now: Times, was: Times) -> list[str]:
    # The suffix makes debugfs take a number for the 32 bits as they are.
    fields = ('ctime_lo', 'mtime_lo', 'ctime_extra', 'mtime_extra')
    return [
        f'set_inode_field <{number}> {field} {wanted}'
        for field, current, wanted in zip(fields, now, was, strict=True)
        if wanted is not None and current != wanted
    ]


def _result(planned: ShrinkPlan, target: Target, track: Track) -> Shrunk:
    found = track.superblock
    return Shrunk(
        image=planned.image.path,
        output=planned.output,
        filesystem=found.filesystem,
        block_size=found.block_size,
        block_count=found.block_count,
        size_before=planned.size_before,
        in_use=found.in_use,
        lower_bound=target.bound_at(track.measured),
    )
