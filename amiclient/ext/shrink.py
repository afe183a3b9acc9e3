# SPDX-License-Identifier: Apache-2.0

"""Shrinking a filesystem to its true minimum, without touching the source.

``plan()`` looks and computes; ``execute()`` acts. What is copied is what is in
use; the copy is shrunk, its time stamps are put back, its free blocks are
cleared, it is verified, and only then it gets its name.
"""

from collections.abc import Callable, Iterator
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
from amiclient.ext import byhand
from amiclient.ext import e2fsprogs
from amiclient.ext import finish
from amiclient.ext import plan as plan_
from amiclient.ext import repair as repair_
from amiclient.ext import search
from amiclient.ext import superblock
from amiclient import interrupts
from amiclient import locks
from amiclient.progress import Progress
from amiclient.progress import QUIET
from amiclient import scratch
from amiclient import sparse

ShrinkRequest = plan_.ShrinkRequest
ShrinkPlan = plan_.ShrinkPlan

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
        """Bytes of the result: blocks times block size."""
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
    :raises SourceError: if the filesystem is busy, damaged or of a kind that
        cannot be shrunk.
    :raises NoSpaceError: if there is no room for the copy.
    :raises ProgramError: if e2fsprogs are missing or too old.
    """
    planned = plan_.prepare(request)
    if check and not planned.recover:
        with progress.task('Checking'):
            clean = _tools(planned).check(planned.image.path)
        planned = dataclasses.replace(
            planned, checked=clean, recover=not clean
        )
    if exact or (check and planned.recover):
        planned = _redone(_rehearse, planned, progress)
    return planned


def _rehearse(planned: ShrinkPlan, progress: Progress) -> ShrinkPlan:
    """Find out how many blocks the result will have."""
    tools = _tools(planned)
    with (
        errors.about(planned.image.path),
        scratch.workshop(planned.folder) as folder,
        scratch.full_disk(planned.folder),
        _clean_source(planned, tools, progress) as source,
        progress.task('Trying the shrink out'),
    ):
        source.wait()
        target = plan_.aim(planned.request, source.path)
        track = _try_out(target, source.path, folder, tools)
        if target.goal.drop_mmp:
            tools.add_mmp(track.path, 0)
        found = superblock.read(track.path)
        bound = target.bound_at(track.path)
    return dataclasses.replace(
        planned,
        block_count=found.block_count,
        in_use=found.in_use,
        lower_bound=bound,
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
    for folder in {planned.folder, planned.output.parent}:
        scratch.sweep(folder)
    with (
        errors.about(planned.image.path),
        scratch.full_disk(planned.folder, planned.output.parent),
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
    except repair_.UncleanError:
        return work(dataclasses.replace(planned, recover=True), progress)


def _on_copy(
    planned: ShrinkPlan,
    progress: Progress,
    cancel: threading.Event | None,
) -> Shrunk:
    request = planned.request
    tools = _tools(planned, cancel)
    with (
        atomic.Output(planned.output) as output,
        _clean_source(planned, tools, progress) as source,
        contextlib.ExitStack() as stack,
    ):
        target = plan_.aim(request, source.path)

        def fresh() -> pathlib.Path:
            output.empty()
            source.copy_to(output.path, progress)
            return output.path

        def metadata() -> pathlib.Path:
            source.wait()
            folder = stack.enter_context(scratch.workshop(planned.folder))
            tools.copy_metadata(source.path, folder / _METADATA)
            return folder / _METADATA

        try:
            track = _search(target, fresh, metadata, tools, progress)
        except errors.CancelledError:
            raise
        except errors.AmiError:
            scratch.refuse_full(planned.folder, planned.output.parent)
            # A source that is not in order, or not what it was, explains any
            # failure.
            source.wait()
            source.origin.refuse_changed()
            raise
        source.wait()
        with progress.task('Verifying'):
            finish.finish(source.path, output.path, track.moved, tools)
        source.origin.refuse_changed()
        result = _result(planned, target, output.path)
        like = planned.image.path if request.output is None else None
        output.keep(like, durable=request.durable)
    return result


def _in_place(
    planned: ShrinkPlan,
    progress: Progress,
    cancel: threading.Event | None,
) -> Shrunk:
    path = planned.image.path
    repair, own = planned.request.repair, planned.request.own
    tools = _tools(planned, cancel if own else None)
    if not own:
        tools = dataclasses.replace(tools, interruptible=False)
    recover = planned.recover or not tools.check(path)
    if recover and not repair:
        with scratch.workshop(planned.folder) as folder:
            repair_.refuse_damaged(path, folder / _METADATA, _tools(planned))
    repair_.mend(path, tools, recover=recover, repair=repair)
    state = locks.state(path)
    target = plan_.aim(planned.request, path)
    with scratch.workshop(planned.folder) as folder:
        with progress.task('Trying the shrink out'):
            recorder = e2fsprogs.Recorder.of(planned.image.superblock)
            trial = _try_out(target, path, folder, recorder)
        if not own:
            # Not everybody knows of locks. What was tried out with something
            # else would destroy it.
            busy.refuse_busy(path)
            locks.refuse_changed(path, state)
        if not planned.image.is_device:
            finish.reserve(path, recorder.written)
        with contextlib.nullcontext() if own else _half_done(path):
            with progress.task('Shrinking'):
                track = search.replay(path, trial.steps, tools)
                _forget_transactions(path, tools)
            with progress.task('Verifying'):
                finish.finish(folder / _METADATA, path, track.moved, tools)
            result = _result(planned, target, path)
            if not planned.image.is_device:
                os.truncate(path, result.size)
            if planned.request.durable:
                atomic.sync(path)
    return result


@contextlib.contextmanager
def _half_done(path: pathlib.Path) -> Iterator[None]:
    """Say what is to be done if a resize in place fails."""
    try:
        # What is half done can only be finished.
        with interrupts.held():
            yield
    except errors.AmiError as error:
        raise errors.DamagedError(
            f'{path} may be damaged, it was being resized: {error.sentence}',
            hint=f'run: e2fsck -f -y {path}',
        ) from error


def _forget_transactions(path: pathlib.Path, tools: e2fsprogs.Toolbox) -> None:
    # A journal that moved along holds what was deleted since. A copy leaves
    # that out.
    found = superblock.read(path)
    if not found.has_journal:
        return
    runs = tools.journal_content(path, found.journal_inode)
    with sparse.opened(path, os.O_RDWR) as descriptor:
        sparse.clear(descriptor, sparse.bytes_of(runs, found.block_size))


#: The name of the copy that has no file's content in it.
_METADATA = 'metadata'


def _try_out(
    target: plan_.Target,
    path: pathlib.Path,
    folder: pathlib.Path,
    tools: e2fsprogs.Toolbox,
) -> search.Track:
    """Search on a copy of the metadata, where moving data costs little."""
    metadata, trial = folder / _METADATA, folder / 'trial'
    tools.copy_metadata(path, metadata)

    def fresh() -> pathlib.Path:
        sparse.copy(metadata, trial)
        return trial

    def another() -> pathlib.Path:
        sparse.copy(metadata, folder / 'another')
        return folder / 'another'

    return _search(target, fresh, another, tools, QUIET)


def _search(
    target: plan_.Target,
    fresh: Callable[[], pathlib.Path],
    metadata: Callable[[], pathlib.Path],
    tools: e2fsprogs.Toolbox,
    progress: Progress,
) -> search.Track:
    """Search for the smallest size.

    :param fresh: makes a copy, which the search takes place in.
    :param metadata: makes another that need not have the files' content.
    """
    track = _descend(target.goal, fresh, tools, progress)
    if target.goal.headroom or not byhand.may_win(track, target.bound):
        return track
    with progress.task('Comparing with resize2fs -M'):
        steps = byhand.shrink(metadata(), target.goal, tools)
    blocks = superblock.read(track.path).block_count
    if not steps or steps[-1].blocks >= blocks:
        return track
    path = fresh()
    with progress.task('Shrinking'):
        return search.replay(path, steps, tools)


def _descend(
    goal: search.Goal,
    fresh: Callable[[], pathlib.Path],
    tools: e2fsprogs.Toolbox,
    progress: Progress,
) -> search.Track:
    """Search from a fresh copy each time it fails."""
    cause: errors.AmiError | None = None
    for attempt in _attempts(goal):
        path = fresh()
        with progress.task('Shrinking'):
            try:
                return search.search(path, attempt, tools)
            except search.SpoiledError as error:
                if not error.shrunk:
                    cause = error
                    continue
                steps = error.steps
        path = fresh()
        with progress.task('Shrinking'):
            return search.replay(path, steps, tools)
    what = 'leave that much free in' if goal.headroom else 'shrink'
    raise errors.UnsupportedError(
        f'resize2fs cannot {what} this filesystem: {cause}',
        hint='nothing was changed',
    ) from cause


def _attempts(goal: search.Goal) -> Iterator[search.Goal]:
    yield goal
    roomy = dataclasses.replace(goal, slack=_ROOMY * goal.slack, cut=False)
    yield roomy
    # If the journal cannot be made anew, it moves along as it is.
    if goal.keeps_journal:
        yield dataclasses.replace(roomy, drop_journal=False, journal=0)


def _clean_source(
    planned: ShrinkPlan, tools: e2fsprogs.Toolbox, progress: Progress
) -> contextlib.AbstractContextManager[repair_.CleanSource]:
    return repair_.clean_source(
        planned.image,
        planned.folder,
        tools,
        checked=planned.checked,
        recover=planned.recover,
        repair=planned.request.repair,
        progress=progress,
    )


def _result(
    planned: ShrinkPlan, target: plan_.Target, path: pathlib.Path
) -> Shrunk:
    found = superblock.read(path)
    return Shrunk(
        image=planned.image.path,
        output=planned.output,
        filesystem=found.filesystem,
        block_size=found.block_size,
        block_count=found.block_count,
        size_before=planned.size_before,
        in_use=found.in_use,
        lower_bound=target.bound_at(path),
    )


def _tools(
    planned: ShrinkPlan, cancel: threading.Event | None = None
) -> e2fsprogs.Toolbox:
    return e2fsprogs.Toolbox.of(planned.image.superblock, cancel)
