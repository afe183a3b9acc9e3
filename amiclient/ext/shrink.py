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

from amiclient import exceptions
from amiclient.ext import busy
from amiclient.ext import byhand
from amiclient.ext import clean
from amiclient.ext import copy
from amiclient.ext import minimum
from amiclient.ext import shrinkplan
from amiclient.ext import stage
from amiclient.ext import superblock as superblock_
from amiclient.ext import tools as tools_
from amiclient import files
from amiclient import interrupts
from amiclient import progress as progress_
from amiclient import temporary

ShrinkRequest = shrinkplan.ShrinkRequest
ShrinkPlan = shrinkplan.ShrinkPlan

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
    progress: progress_.Progress = progress_.QUIET,
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
    planned = shrinkplan.prepare(request)
    if check and not planned.recover:
        with progress.task('Checking'):
            clean = _tools(planned).check(planned.image.path)
        planned = dataclasses.replace(
            planned, checked=clean, recover=not clean
        )
    if exact or (check and planned.recover):
        planned = _redone(_rehearse, planned, progress)
    return planned


def _rehearse(planned: ShrinkPlan, progress: progress_.Progress) -> ShrinkPlan:
    """Find out how many blocks the result will have."""
    tools = _tools(planned)
    with (
        stage.blamed(planned.image.path),
        stage.workshop(planned.folder) as folder,
        stage.full_disk(planned.folder),
        _clean_source(planned, tools, progress) as source,
        progress.task('Trying the shrink out'),
    ):
        source.wait()
        target = shrinkplan.aim(planned.request, source.path)
        track = _try_out(target, source.path, folder, tools)
        if target.goal.drop_mmp:
            tools.add_mmp(track.path, 0)
        found = superblock_.read(track.path)
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
    progress: progress_.Progress = progress_.QUIET,
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
        temporary.sweep(folder)
    with (
        stage.blamed(planned.image.path),
        stage.full_disk(planned.folder, planned.output.parent),
    ):
        if planned.in_place:
            return _in_place(planned, progress, cancel)
        return _redone(
            functools.partial(_on_copy, cancel=cancel), planned, progress
        )


_T = TypeVar('_T')


def _redone(
    work: Callable[[ShrinkPlan, progress_.Progress], _T],
    planned: ShrinkPlan,
    progress: progress_.Progress,
) -> _T:
    """Do some work, again with a mended copy if the source needs that."""
    try:
        return work(planned, progress)
    except clean.UncleanError:
        return work(dataclasses.replace(planned, recover=True), progress)


def _on_copy(
    planned: ShrinkPlan,
    progress: progress_.Progress,
    cancel: threading.Event | None,
) -> Shrunk:
    request = planned.request
    tools = _tools(planned, cancel)
    with (
        files.Output(planned.output) as output,
        _clean_source(planned, tools, progress) as source,
        contextlib.ExitStack() as stack,
    ):
        target = shrinkplan.aim(request, source.path)

        def fresh() -> pathlib.Path:
            output.empty()
            source.copy_to(output.path, progress)
            return output.path

        def metadata() -> pathlib.Path:
            source.wait()
            folder = stack.enter_context(stage.workshop(planned.folder))
            tools.copy_metadata(source.path, folder / _METADATA)
            return folder / _METADATA

        try:
            track = _search(target, fresh, metadata, tools, progress)
        except exceptions.CancelledError:
            raise
        except exceptions.AmiError:
            stage.refuse_full(planned.folder, planned.output.parent)
            # A source that is not in order, or not what it was, explains any
            # failure.
            source.wait()
            source.origin.refuse_changed()
            raise
        source.wait()
        with progress.task('Verifying'):
            stage.finish(source.path, output.path, track.moved, tools)
        source.origin.refuse_changed()
        result = _result(planned, target, output.path)
        like = planned.image.path if request.output is None else None
        output.keep(like, durable=request.durable)
    return result


def _in_place(
    planned: ShrinkPlan,
    progress: progress_.Progress,
    cancel: threading.Event | None,
) -> Shrunk:
    path = planned.image.path
    repair, own = planned.request.repair, planned.request.own
    tools = _tools(planned, cancel if own else None)
    if not own:
        tools = dataclasses.replace(tools, interruptible=False)
    recover = planned.recover or not tools.check(path)
    if recover and not repair:
        with stage.workshop(planned.folder) as folder:
            clean.refuse_damaged(path, folder / _METADATA, _tools(planned))
    clean.mend(path, tools, recover=recover, repair=repair)
    state = files.state(path)
    target = shrinkplan.aim(planned.request, path)
    with stage.workshop(planned.folder) as folder:
        with progress.task('Trying the shrink out'):
            recorder = tools_.Recorder.of(planned.image.superblock)
            trial = _try_out(target, path, folder, recorder)
        if not own:
            # Not everybody knows of locks. What was tried out with something
            # else would destroy it.
            busy.refuse_busy(path)
            files.refuse_changed(path, state)
        if not planned.image.is_device:
            stage.reserve(path, recorder.written)
        with contextlib.nullcontext() if own else _half_done(path):
            with progress.task('Shrinking'):
                track = minimum.replay(path, trial.steps, tools)
                _forget_transactions(path, tools)
            with progress.task('Verifying'):
                stage.finish(folder / _METADATA, path, track.moved, tools)
            result = _result(planned, target, path)
            if not planned.image.is_device:
                os.truncate(path, result.size)
            if planned.request.durable:
                files.sync(path)
    return result


@contextlib.contextmanager
def _half_done(path: pathlib.Path) -> Iterator[None]:
    """Say what is to be done if a resize in place fails."""
    try:
        # What is half done can only be finished.
        with interrupts.held():
            yield
    except exceptions.AmiError as error:
        raise exceptions.DamagedError(
            f'{path} may be damaged, it was being resized: {error.message}',
            hint=f'run: e2fsck -f -y {path}',
        ) from error


def _forget_transactions(path: pathlib.Path, tools: tools_.Toolbox) -> None:
    # A journal that moved along holds what was deleted since. A copy leaves
    # that out.
    found = superblock_.read(path)
    if not found.has_journal:
        return
    runs = tools.journal_content(path, found.journal_inode)
    with copy.opened(path, os.O_RDWR) as descriptor:
        copy.clear(descriptor, copy.bytes_of(runs, found.block_size))


#: The name of the copy that has no file's content in it.
_METADATA = 'metadata'


def _try_out(
    target: shrinkplan.Target,
    path: pathlib.Path,
    folder: pathlib.Path,
    tools: tools_.Toolbox,
) -> minimum.Track:
    """Search on a copy of the metadata, where moving data costs little."""
    metadata, trial = folder / _METADATA, folder / 'trial'
    tools.copy_metadata(path, metadata)

    def fresh() -> pathlib.Path:
        stage.copy_sparse(metadata, trial)
        return trial

    def another() -> pathlib.Path:
        stage.copy_sparse(metadata, folder / 'another')
        return folder / 'another'

    return _search(target, fresh, another, tools, progress_.QUIET)


def _search(
    target: shrinkplan.Target,
    fresh: Callable[[], pathlib.Path],
    metadata: Callable[[], pathlib.Path],
    tools: tools_.Toolbox,
    progress: progress_.Progress,
) -> minimum.Track:
    """Search for the smallest size.

    :param fresh: makes a copy, which the search takes place in.
    :param metadata: makes another that need not have the files' content.
    """
    track = _descend(target.goal, fresh, tools, progress)
    if target.goal.headroom or not byhand.may_win(track, target.bound):
        return track
    with progress.task('Comparing with resize2fs -M'):
        steps = byhand.shrink(metadata(), target.goal, tools)
    blocks = superblock_.read(track.path).block_count
    if not steps or steps[-1].blocks >= blocks:
        return track
    path = fresh()
    with progress.task('Shrinking'):
        return minimum.replay(path, steps, tools)


def _descend(
    goal: minimum.Goal,
    fresh: Callable[[], pathlib.Path],
    tools: tools_.Toolbox,
    progress: progress_.Progress,
) -> minimum.Track:
    """Search from a fresh copy each time it fails."""
    cause: exceptions.AmiError | None = None
    for attempt in _attempts(goal):
        path = fresh()
        with progress.task('Shrinking'):
            try:
                return minimum.search(path, attempt, tools)
            except minimum.SpoiledError as error:
                if not error.shrunk:
                    cause = error
                    continue
                steps = error.steps
        path = fresh()
        with progress.task('Shrinking'):
            return minimum.replay(path, steps, tools)
    what = 'leave that much free in' if goal.headroom else 'shrink'
    raise exceptions.UnsupportedError(
        f'resize2fs cannot {what} this filesystem: {cause}',
        hint='nothing was changed',
    ) from cause


def _attempts(goal: minimum.Goal) -> Iterator[minimum.Goal]:
    yield goal
    roomy = dataclasses.replace(goal, slack=_ROOMY * goal.slack, cut=False)
    yield roomy
    # If the journal cannot be made anew, it moves along as it is.
    if goal.keeps_journal:
        yield dataclasses.replace(roomy, drop_journal=False, journal=0)


def _clean_source(
    planned: ShrinkPlan, tools: tools_.Toolbox, progress: progress_.Progress
) -> contextlib.AbstractContextManager[clean.CleanSource]:
    return clean.clean_source(
        planned.image,
        planned.folder,
        tools,
        checked=planned.checked,
        recover=planned.recover,
        repair=planned.request.repair,
        progress=progress,
    )


def _result(
    planned: ShrinkPlan, target: shrinkplan.Target, path: pathlib.Path
) -> Shrunk:
    found = superblock_.read(path)
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
) -> tools_.Toolbox:
    return tools_.Toolbox.of(planned.image.superblock, cancel)
