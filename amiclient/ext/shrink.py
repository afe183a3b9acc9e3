#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.

"""Shrinking a filesystem to its true minimum, without touching the source.

``plan()`` looks and computes; ``execute()`` acts. What is copied is what is in
use; the copy is shrunk, its time stamps are put back, its free blocks are
cleared, it is verified, and only then it gets its name.
"""

from collections.abc import Iterator
import dataclasses
import os
import pathlib
import tempfile
import threading

from amiclient import exceptions, files, units
from amiclient import progress as progress_
from amiclient.ext import busy, copy, geometry, inodes, minimum, stage
from amiclient.ext import groups as groups_
from amiclient.ext import image as image_
from amiclient.ext import superblock as superblock_
from amiclient.ext import tools as tools_

#: What has no number of MiB: the journal stays as large as it is, or goes.
KEEP = 'keep'
NONE = 'none'

#: How much more room the first pass gets if it failed half way.
_ROOMY = 8


@dataclasses.dataclass(frozen=True)
class ShrinkRequest:
    """What a user wants.

    :param image: the filesystem to shrink.
    :param output: where the result shall go; None to replace the file.
    :param headroom: free space to leave in it.
    :param journal: ``keep``, ``none``, or the bytes of a new one.
    :param repair: let e2fsck fix what it would not fix without being asked.
    :param in_place: resize the file itself, as always with a block device.
    :param durable: false if the result need not survive a power failure.
    :param work_directory: for temporary files; beside the output if None.
    """

    image: image_.RootImage
    output: pathlib.Path | None = None
    headroom: units.Headroom = units.NO_HEADROOM
    journal: str | int = KEEP
    repair: bool = False
    in_place: bool = False
    durable: bool = True
    work_directory: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class ShrinkPlan:
    """What will be done. All sizes but ``block_count`` are bytes.

    :param output: the path that the result will have.
    :param in_place: whether the source itself is resized.
    :param recover: whether a journal must be replayed, or deleted files
        cleaned up, before anything else.
    :param goal: what the search shall arrive at.
    :param block_count: blocks that the result will have: exactly, if the
        shrink was tried out, else the lower bound.
    :param in_use: bytes in use before.
    :param room: bytes of disk that the work takes.
    """

    request: ShrinkRequest
    image: image_.RootImage
    output: pathlib.Path
    in_place: bool
    recover: bool
    goal: minimum.Goal
    filesystem: str
    block_size: int
    block_count: int
    size_before: int
    in_use: int
    lower_bound: int
    room: int

    @property
    def size(self) -> int:
        """Bytes that the result will have."""
        return self.block_count * self.block_size


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
    exact: bool = False,
    progress: progress_.Progress = progress_.QUIET,
) -> ShrinkPlan:
    """Check everything that can be checked, and say what would be done.

    :param exact: try the shrink out on a copy of the metadata, so that the
        size is known to the block.
    :raises SourceError: if the filesystem is busy, damaged or of a kind that
        cannot be shrunk.
    :raises NoSpaceError: if there is no room for the copy.
    :raises ProgramError: if e2fsprogs are missing or too old.
    """
    tools_.require()
    image = request.image
    found = image.superblock
    _refuse(request)
    busy.refuse_busy(image.path)
    with (
        stage.blamed(image.path),
        copy.opened(image.path, os.O_RDONLY) as descriptor,
    ):
        layout = groups_.Layout(descriptor, found)
        measured = geometry.measure(layout)
        journal = (
            inodes.Table(layout).read(found.journal_inode).size
            if (found.has_journal)
            else 0
        )
    goal, growth = _goal(request, measured, journal)
    bound = minimum.lower_bound(measured, goal.headroom, growth)
    in_place = request.in_place or (image.is_device and request.output is None)
    planned = ShrinkPlan(
        request=request,
        image=image,
        output=_output(request, in_place),
        in_place=in_place,
        recover=found.needs_recovery or found.orphans,
        goal=goal,
        filesystem=found.filesystem,
        block_size=found.block_size,
        block_count=min(bound, found.block_count) if growth <= 0 else bound,
        size_before=found.size,
        in_use=found.in_use,
        lower_bound=bound * found.block_size,
        room=_room(measured, bound, in_place),
    )
    stage.check_room(_folder(planned), planned.room)
    if exact:
        with progress.task('Trying the shrink out'):
            blocks = _try_out(planned)
        planned = dataclasses.replace(planned, block_count=blocks)
    return planned


def execute(
    planned: ShrinkPlan,
    *,
    progress: progress_.Progress = progress_.QUIET,
    cancel: threading.Event | None = None,
) -> Shrunk:
    """Do what was planned.

    :param cancel: when set, the work is given up; a shrink in place is not.
    :raises DamagedError: if the filesystem is damaged and may not, or cannot,
        be repaired.
    :raises UnsupportedError: if resize2fs cannot shrink it.
    :raises CancelledError: if ``cancel`` was set meanwhile.
    """
    if planned.in_place:
        return _in_place(planned, progress)
    busy.refuse_busy(planned.image.path)
    like = planned.image.path if planned.request.output is None else None
    tools = _tools(planned, cancel)
    with (
        files.Output(planned.output) as output,
        stage.full_disk(planned.output.parent),
    ):
        with stage.clean_source(
            planned.image,
            _folder(planned),
            tools,
            recover=planned.recover,
            repair=planned.request.repair,
            progress=progress,
        ) as source:
            track = _search_on_copy(planned, source, output, tools, progress)
            with progress.task('Verifying'):
                stage.finish(source.path, output.path, track.moved, tools)
        source.refuse_changed()
        result = _result(planned, output.path)
        output.keep(like, durable=planned.request.durable)
    return result


def _search_on_copy(
    planned: ShrinkPlan,
    source: stage.CleanSource,
    output: files.Output,
    tools: tools_.Toolbox,
    progress: progress_.Progress,
) -> minimum.Track:
    for goal in _goals(planned.goal):
        output.empty()
        source.copy_to(output.path, progress, tools.cancel)
        with progress.task('Shrinking'):
            try:
                return minimum.search(output.path, goal, tools)
            except minimum.SpoiledError as error:
                if not error.shrunk:
                    continue
                steps = error.steps
        output.empty()
        source.copy_to(output.path, progress, tools.cancel)
        with progress.task('Shrinking'):
            return minimum.replay(output.path, steps, tools)
    raise exceptions.UnsupportedError(
        f'{planned.image.path}: resize2fs cannot shrink this filesystem',
        hint='nothing was changed',
    )


def _in_place(planned: ShrinkPlan, progress: progress_.Progress) -> Shrunk:
    path = planned.image.path
    tools = dataclasses.replace(_tools(planned), interruptible=False)
    busy.refuse_busy(path)
    stage.mend(
        path, tools, recover=planned.recover, repair=planned.request.repair
    )
    with stage.workshop(_folder(planned)) as folder, stage.full_disk(folder):
        metadata = folder / 'metadata'
        tools.copy_metadata(path, metadata)
        with progress.task('Trying the shrink out'):
            steps = _trial(planned.goal, metadata, folder).steps
        # From here on, what is half done can only be finished.
        with progress.task('Shrinking'):
            track = minimum.replay(path, steps, tools)
        with progress.task('Verifying'):
            stage.finish(metadata, path, track.moved, tools)
    result = _result(planned, path)
    if not planned.image.is_device:
        os.truncate(path, result.size)
    files.sync(path)
    return result


def _try_out(planned: ShrinkPlan) -> int:
    """Find out how many blocks the result will have."""
    tools = _tools(planned)
    with (
        stage.workshop(_folder(planned)) as folder,
        stage.full_disk(folder),
        stage.clean_source(
            planned.image,
            folder,
            tools,
            recover=planned.recover,
            repair=planned.request.repair,
            progress=progress_.QUIET,
        ) as source,
    ):
        metadata = folder / 'metadata'
        tools.copy_metadata(source.path, metadata)
        track = _trial(planned.goal, metadata, folder)
        return superblock_.read(track.path).block_count


def _trial(
    goal: minimum.Goal, metadata: pathlib.Path, folder: pathlib.Path
) -> minimum.Track:
    trial = folder / 'trial'
    tools = tools_.Toolbox(superblock_.read(metadata).written)
    for attempt in _goals(goal):
        stage.copy_sparse(metadata, trial)
        try:
            return minimum.search(trial, attempt, tools)
        except minimum.SpoiledError as error:
            if error.shrunk:
                stage.copy_sparse(metadata, trial)
                return minimum.replay(trial, error.steps, tools)
    raise exceptions.UnsupportedError(
        'resize2fs cannot shrink this filesystem',
        hint='nothing was changed',
    )


def _goals(goal: minimum.Goal) -> Iterator[minimum.Goal]:
    yield goal
    roomy = dataclasses.replace(goal, slack=_ROOMY * goal.slack)
    yield roomy
    # If the journal cannot be made anew, it moves along as it is.
    if goal.keeps_journal:
        yield dataclasses.replace(roomy, drop_journal=False, journal=0)


def _result(planned: ShrinkPlan, path: pathlib.Path) -> Shrunk:
    found = superblock_.read(path)
    before = planned.image.superblock
    if planned.recover or planned.request.repair:
        # Orphans and what was beyond repair went away meanwhile.
        pass
    elif (
        before.inode_count - before.free_inodes
        != found.inode_count - found.free_inodes
    ):
        raise exceptions.UnsupportedError(
            f'{planned.image.path}: the result has another number of files',
            hint='nothing was changed; please report this as a bug',
        )
    return Shrunk(
        image=planned.image.path,
        output=planned.output,
        filesystem=found.filesystem,
        block_size=found.block_size,
        block_count=found.block_count,
        size_before=planned.size_before,
        in_use=found.in_use,
        lower_bound=planned.lower_bound,
    )


def _refuse(request: ShrinkRequest) -> None:
    path, found = request.image.path, request.image.superblock
    if found.journal_device:
        raise exceptions.UnsupportedError(
            f'{path}: its journal is on another device',
            hint='give it one of its own first: tune2fs -O ^has_journal, '
            'then tune2fs -j',
        )
    if request.image.size < found.size:
        raise exceptions.DamagedError(
            f'{path}: cut short: the filesystem takes {found.size} bytes, '
            f'but there are only {request.image.size}',
            hint='get it again from where it came',
        )
    if request.in_place and request.output is not None:
        raise exceptions.UsageError(
            '--in-place and --output exclude each other'
        )
    if not request.in_place and not request.output:
        status = path.stat()
        if status.st_nlink > 1 and not request.image.is_device:
            raise exceptions.UsageError(
                f'{path}: has {status.st_nlink} names (hard links), and only '
                'one would be replaced',
                hint='use --output or --in-place',
            )


def _output(request: ShrinkRequest, in_place: bool) -> pathlib.Path:
    # A symbolic link stays one; what it points to is replaced.
    source = request.image.path.resolve()
    if in_place or request.output is None:
        return source if not request.image.is_device else request.image.path
    target = request.output
    if target.is_dir():
        raise exceptions.UsageError(
            f'{target}: a directory', hint='name a file in it'
        )
    if target.exists():
        if target.samefile(source):
            raise exceptions.UsageError(
                f'{target}: the same file as the source',
                hint='leave out --output to replace it',
            )
        if not target.is_file():
            raise exceptions.UsageError(
                f'{target}: not a regular file',
                hint='name a file, and copy that to the device',
            )
    return target.parent.resolve() / target.name


def _goal(
    request: ShrinkRequest, measured: geometry.Geometry, journal: int
) -> tuple[minimum.Goal, int]:
    """Set the goal, and tell by how many blocks the journal grows."""
    found = measured.superblock
    size = found.block_size
    headroom = -(-request.headroom.of(found.in_use) // size)
    device = request.image.is_device and request.output is None
    limit = request.image.size // size if device else None
    if request.journal == NONE:
        goal = minimum.Goal(headroom, bool(journal), 0, limit)
        return goal, -(journal // size)
    if isinstance(request.journal, int):
        mib = minimum.journal_in_mib(request.journal, size)
        if mib is None:
            raise exceptions.UsageError(
                f'a journal of {request.journal} bytes is impossible here',
                hint='it takes a whole number of MiB and at least 1024 '
                f'blocks of {size} bytes',
            )
        growth = (request.journal - journal) // size
        return minimum.Goal(headroom, bool(journal), mib, limit), growth
    mib = minimum.journal_in_mib(journal, size) if journal else 0
    fast_commit = found.compat & superblock_.COMPAT_FAST_COMMIT
    if not mib or fast_commit:
        return minimum.Goal(headroom, False, 0, limit), 0
    return minimum.Goal(headroom, True, mib, limit, keeps_journal=True), 0


def _room(measured: geometry.Geometry, bound: int, in_place: bool) -> int:
    size = measured.superblock.block_size
    moved = measured.moved(bound) * size
    if in_place:
        # The trial writes the blocks that move, and the metadata.
        return moved + groups_.count(measured.used) * size // 50
    return groups_.count(measured.used) * size + moved


def _folder(planned: ShrinkPlan) -> pathlib.Path:
    if planned.request.work_directory is not None:
        return planned.request.work_directory
    if planned.image.is_device and planned.in_place:
        return pathlib.Path(tempfile.gettempdir())
    return planned.output.parent


def _tools(
    planned: ShrinkPlan, cancel: threading.Event | None = None
) -> tools_.Toolbox:
    return tools_.Toolbox(planned.image.superblock.written, cancel)
