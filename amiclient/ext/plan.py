# SPDX-License-Identifier: Apache-2.0

"""What to shrink and how: requests, checks, and plans.

Nothing here writes. Whatever can be found out beforehand is found out here.
"""

import contextlib
import dataclasses
import os
import pathlib
import stat

from amiclient import atomic
from amiclient import errors
from amiclient.ext import busy
from amiclient.ext import e2fsprogs
from amiclient.ext import geometry
from amiclient.ext.geometry import Geometry
from amiclient.ext.layout import behind
from amiclient.ext.layout import Layout
from amiclient.ext.layout import RootImage
from amiclient.ext import search
from amiclient.ext import superblock
from amiclient import scratch
from amiclient import sparse
from amiclient import units


@dataclasses.dataclass(frozen=True)
class ShrinkRequest:
    """What a user wants.

    :param image: the filesystem to shrink.
    :param output: where the result shall go; None to replace the file.
    :param in_place: resize the file itself, as always with a block device.
    :param own: whether the file is a temporary one that may be spoiled: then
        a shrink in place may be given up half way.
    :param durable: false if the result need not survive a power failure.
    :param work_directory: for temporary files; beside the output if None.
    """

    image: RootImage
    output: pathlib.Path | None = None
    options: units.FilesystemOptions = units.DEFAULTS
    in_place: bool = False
    own: bool = False
    durable: bool = True
    work_directory: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class ShrinkPlan:
    """What will be done. All sizes but ``block_count`` are bytes.

    :param output: the path that the result will have.
    :param in_place: whether the source itself is resized.
    :param recover: whether a journal must be replayed, or deleted files
        cleaned up, before anything else.
    :param checked: whether e2fsck was seen to have no objection.
    :param directory: where temporary files go.
    :param block_count: blocks that the result will have: exactly, if the
        shrink was tried out, else the lower bound.
    :param in_use: bytes that will be in use in the result, known as exactly.
    :param room: bytes of disk that the work takes.
    """

    request: ShrinkRequest
    image: RootImage
    output: pathlib.Path
    in_place: bool
    recover: bool
    directory: pathlib.Path
    filesystem: str
    block_size: int
    block_count: int
    size_before: int
    in_use: int
    lower_bound: int
    room: int
    checked: bool = False

    @property
    def size(self) -> int:
        """Bytes that the result will have."""
        return self.block_count * self.block_size


@dataclasses.dataclass(frozen=True)
class Target:
    """Where the shrink of one filesystem shall lead.

    :param goal: what the search is to arrive at.
    :param bound: blocks below which nothing can get.
    :param room: bytes of disk that a copy, and what moves in it, takes.
    :param moved: bytes that move.
    :param layout: where the shrink begins; None if it is too damaged.
    """

    goal: search.Goal
    bound: int
    room: int
    moved: int
    layout: Layout | None = None

    def bound_at(self, reached: Geometry) -> int:
        """Return the bytes below which nothing can get.

        :param reached: where the shrink has led. On the way, extent trees may
            have come to take less than before.
        """
        bound = reached.need(self.goal.headroom, spare=self.goal.spare)
        return min(self.bound, bound) * reached.superblock.block_size


def prepare(request: ShrinkRequest) -> ShrinkPlan:
    """Check everything that can be checked without trying.

    :returns: a plan whose ``block_count`` is the lower bound.
    :raises SourceError: if the filesystem is busy, damaged or of a kind that
        cannot be shrunk.
    :raises NoSpaceError: if there is no room for the copy.
    :raises TooLargeError: if no file may be as large as the copy.
    :raises ProgramError: if e2fsprogs are missing or too old.
    """
    e2fsprogs.require()
    image = request.image
    found = image.superblock
    _refuse(request)
    busy.refuse_busy(image.path)
    if not request.own:
        busy.refuse_live(image.path, found)
    recover = found.needs_recovery or found.orphans
    try:
        with sparse.opened(image.path, os.O_RDONLY) as descriptor:
            target = aim(request, Layout(descriptor, found))
    except errors.DamagedError:
        # How much e2fsck can mend is found out when it is tried.
        recover = True
        target = Target(search.Goal(0, False, 0), found.block_count, 0, 0)
    in_place = _in_place(request)
    # Of the result, where that is going to be, and of all before it.
    room, work = target.room, 0
    if in_place:
        room, work = 0, target.moved
    elif recover:
        work = image.path.stat().st_blocks * 512 or image.size
    output = _output(request, in_place)
    planned = ShrinkPlan(
        request=request,
        image=image,
        output=output,
        in_place=in_place,
        recover=recover,
        directory=_directory(request, output, in_place),
        filesystem=found.filesystem,
        block_size=found.block_size,
        block_count=target.bound,
        size_before=found.size,
        in_use=(target.bound - target.goal.headroom) * found.block_size,
        lower_bound=target.bound * found.block_size,
        room=room + work,
    )
    _refuse_unwritable(planned)
    # A copy, if only of the metadata, begins with the size of the source.
    scratch.refuse_too_large(
        planned.directory if in_place else output.parent,
        max(found.size, target.bound * found.block_size),
    )
    if _same_disk(planned.directory, output.parent):
        scratch.check_room(planned.directory, room + work)
    else:
        scratch.check_room(planned.directory, work)
        scratch.check_room(output.parent, room)
    return planned


def aim(request: ShrinkRequest, layout: Layout) -> Target:
    """Compute where a shrink shall lead.

    :param layout: the filesystem of the request, or a mended copy of it.
    :raises DamagedError: if its block groups cannot be read.
    """
    found = layout.superblock
    measured = geometry.measure(layout)
    journal = orphans = 0
    if found.has_journal and found.journal_inode:
        journal = layout.inode(found.journal_inode).size
    if found.orphan_inode:
        orphans = min(
            layout.inode(found.orphan_inode).size // found.block_size,
            superblock.LARGEST_ORPHAN_FILE,
        )
    goal, growth = _goal(request, measured, journal)
    goal = dataclasses.replace(
        goal,
        drop_orphans=bool(orphans),
        orphans=0 if request.options.journal == units.NONE else orphans,
        # A device may be another host's as well.
        drop_mmp=found.has_mmp
        and not (request.image.is_device and _in_place(request)),
        cut=not _in_place(request),
        # A first boot takes names as well as room. Groups bring inodes along,
        # so there can be no more than there are; and where it has few for its
        # size (mke2fs -T largefile), more would take far more room.
        spare=min(
            found.inode_count - measured.inodes,
            units.inodes(goal.headroom * found.block_size),
            goal.headroom * found.inode_count // found.block_count,
        ),
    )
    growth -= orphans - goal.orphans
    _refuse_endless(found, goal.headroom + growth)
    bound = _bound(measured, goal, growth, journal)
    if bound - goal.headroom - max(growth, 0) <= found.block_count:
        # Else it is not what was asked for that makes it so large.
        _refuse_endless(found, bound)
    used = sparse.count(measured.used) * found.block_size
    # What is in use may be zeros, inode tables above all: holes in a file.
    taken = layout.allocated()
    used = min(used, taken or used)
    moved = min(used, measured.moved(bound) * found.block_size)
    if not goal.drop_journal:
        # A hole until it is moved, and again when all is done.
        # A damaged one may claim any size, which is for e2fsck to say.
        moved += min(journal, found.size)
    return Target(goal, bound, used + moved, moved, layout)


def _bound(
    measured: Geometry, goal: search.Goal, growth: int, journal: int
) -> int:
    # The search may go down further than to where it ends: without a journal,
    # and without headroom.
    size = measured.superblock.block_size
    least = measured.need(-(journal // size) if goal.drop_journal else 0)
    return min(
        way.need(goal.headroom + growth, spare=goal.spare)
        for way in (measured, measured.by_way_of(least))
    )


def _refuse_endless(found: superblock.Superblock, blocks: int) -> None:
    """Make sure that a filesystem can become so large.

    :raises UsageError: if it would get larger than it is, and than its block
        numbers were before they had 64 bits, which is meant for another unit;
        or if a group could not hold the descriptors of so many.
    """
    most = 1 << 32
    if not found.incompat & superblock.INCOMPAT_META_BG:
        # "too many block group descriptors", resize2fs says, and more words.
        room = found.blocks_per_group - found.inode_blocks - 3
        groups = max(0, room) * (found.block_size // found.desc_size)
        most = min(most, groups * found.blocks_per_group)
    most = max(most, found.block_count)
    if blocks > most:
        largest = units.format_size(most * found.block_size)
        raise errors.UsageError(
            'with this headroom and journal, the filesystem would be larger '
            f'than {largest}, its maximum size',
            hint='choose a smaller --headroom or --journal',
        )


def _in_place(request: ShrinkRequest) -> bool:
    return request.in_place or (
        request.image.is_device and request.output is None
    )


def _refuse(request: ShrinkRequest) -> None:
    path, found = request.image.path, request.image.superblock
    if found.journal_device:
        raise errors.UnsupportedError(
            'its journal is on another device',
            subject=path,
            hint='first give it an internal journal: tune2fs -O '
            '^has_journal, then tune2fs -j',
        )
    if found.compat & superblock.COMPAT_STABLE_INODES:
        raise errors.UnsupportedError(
            'resize2fs cannot shrink a filesystem with the feature '
            'stable_inodes',
            subject=path,
            hint='encrypted files need this feature; if there are none, '
            'clear it with debugfs',
        )
    if request.image.size < found.size:
        raise errors.DamagedError(
            f'cut short: the filesystem takes {found.size} bytes, '
            f'but there are only {request.image.size}',
            subject=path,
            hint='download or copy it again',
        )
    if not request.own and not request.output:
        rest = behind(path, found)
        if rest:
            raise errors.UsageError(
                f'the {rest} bytes after its filesystem are not '
                'zeros, and would be lost',
                subject=path,
                hint='use --output; or, if they are not needed, run: truncate '
                f'--size {found.size} {path}',
            )
    if request.in_place and request.output is not None:
        raise errors.UsageError('--in-place and --output exclude each other')
    if not request.in_place and not request.output:
        status = path.stat()
        if status.st_nlink > 1 and not request.image.is_device:
            raise errors.UsageError(
                f'has {status.st_nlink} names (hard links), and only '
                'one would be replaced',
                subject=path,
                hint='use --output or --in-place',
            )


def _output(request: ShrinkRequest, in_place: bool) -> pathlib.Path:
    # A symbolic link stays one; what it points to is replaced.
    source = request.image.path.resolve()
    if in_place or request.output is None:
        return source if not request.image.is_device else request.image.path
    target = request.output
    if target.exists() and target.samefile(source):
        raise errors.UsageError(
            'the same file as the source',
            subject=target,
            hint='leave out --output to replace it',
        )
    atomic.refuse_special(target)
    return target.parent.resolve() / target.name


def _goal(
    request: ShrinkRequest, measured: Geometry, journal: int
) -> tuple[search.Goal, int]:
    """Set the goal, and tell by how many blocks the journal grows."""
    found = measured.superblock
    size = found.block_size
    # Percent are of what is there after a shrink: of a large filesystem, most
    # that is in use are inode tables that go away.
    wanted = request.options.journal
    headroom = request.options.headroom.of(measured.need() * size)
    headroom = -(-headroom // size)
    device = request.image.is_device and request.output is None
    limit = request.image.size // size if device else None
    if wanted == units.NONE:
        goal = search.Goal(headroom, bool(journal), 0, limit)
        return goal, -(journal // size)
    if isinstance(wanted, int):
        mib = journal_in_mib(wanted, size)
        if mib is None:
            raise errors.UsageError(
                f'this filesystem cannot have a journal of {wanted} bytes',
                hint='use a whole number of MiB, and from '
                f'{superblock.SMALLEST_JOURNAL} to '
                f'{superblock.LARGEST_JOURNAL} blocks of {size} bytes',
            )
        growth = (wanted - journal) // size
        return search.Goal(headroom, bool(journal), mib, limit), growth
    return search.Goal(headroom, False, 0, limit), 0


def journal_in_mib(size: int, block_size: int) -> int | None:
    """Find the MiB of a journal; None if tune2fs cannot make one like it.

    :param size: bytes.
    """
    least, most = superblock.SMALLEST_JOURNAL, superblock.LARGEST_JOURNAL
    if size % (1 << 20) or not least <= size // block_size <= most:
        return None
    return size >> 20


def _refuse_unwritable(planned: ShrinkPlan) -> None:
    """Make sure that the result will get its name, as far as that is known."""
    output, directory = planned.output, planned.output.parent
    atomic.refuse_fixed(
        output, planned.directory if planned.in_place else directory
    )
    if planned.in_place:
        if not os.access(output, os.W_OK):
            raise errors.SourceError(
                'not writable',
                subject=output,
                hint='use --output, or run this as a user who may write to it',
            )
        return
    if planned.request.output is None:
        atomic.refuse_foreign(output)
    with scratch.explained(directory):
        status = directory.stat()
        if not os.access(directory, os.W_OK | os.X_OK):
            # In the words that the system has for it.
            scratch.File(directory, output.name).__exit__()
    us = (status.st_uid, 0)
    if status.st_mode & stat.S_ISVTX and os.geteuid() not in us:
        with contextlib.suppress(FileNotFoundError):
            if output.lstat().st_uid != os.geteuid():
                # inode(7), the sticky bit.
                raise errors.UsageError(
                    'belongs to another user, and in this directory '
                    'only the owner may replace a file (sticky bit)',
                    subject=output,
                    hint='choose another name',
                )


def _same_disk(one: pathlib.Path, other: pathlib.Path) -> bool:
    try:
        return one.stat().st_dev == other.stat().st_dev
    except OSError:
        # Whoever makes something there says what is wrong.
        return True


def _directory(
    request: ShrinkRequest, output: pathlib.Path, in_place: bool
) -> pathlib.Path:
    if request.work_directory is not None:
        places = scratch.candidates(request.work_directory, output)
        return places[0]
    if request.image.is_device and in_place:
        # The device's own directory is in memory.
        places = scratch.candidates(None, request.image.path)
        if places:
            return places[0]
    return output.parent
