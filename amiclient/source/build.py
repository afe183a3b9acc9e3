# SPDX-License-Identifier: Apache-2.0

"""A directory or tar archive as an ext4 filesystem, made without root.

``plan()`` looks at what was asked for; ``execute()`` makes the filesystem,
beside its target, has e2fsck check it, and only then gives it its name.
"""

import dataclasses
import logging
import os
import pathlib
import uuid

from amiclient import atomic
from amiclient import errors
from amiclient.ext import e2fsprogs
from amiclient.ext import superblock
from amiclient.ext.writer import groups
from amiclient.ext.writer import placement
from amiclient.ext.writer.writer import Made
from amiclient.ext.writer.writer import Writer
from amiclient import locks
from amiclient.progress import Progress
from amiclient.progress import QUIET
from amiclient import scratch
from amiclient.source import file_tree
from amiclient.source import fstab
from amiclient.source import mtree
from amiclient.source import origins
from amiclient.source import ostree
from amiclient import sparse
from amiclient import units

_LOG = logging.getLogger(__name__)

#: The part of the free disk that is left to others, as one in so many.
_LEFT = 20

_DIRECTORY = 'a directory'

_BLOCKS = f'blocks of {placement.BLOCK} bytes'


@dataclasses.dataclass(frozen=True)
class BuildRequest:
    """What a user wants.

    :param source: a directory, or a tar archive that may be compressed.
    :param output: where the filesystem shall go.
    :param size: bytes that it shall have; as few as possible if None.
    :param label: of the filesystem; None for that by which its fstab has it
        on /, as it takes its UUID from there.
    :param identity: its UUID, likewise.
    :param overrides: a file that says what files are to be like.
    :param owner: user and group that everything is to belong to.
    :param durable: false if it need not survive a power failure.
    :param name: what to call the source; None for its path.
    :param rooted: whether it must look like a root filesystem.
    """

    source: pathlib.Path
    output: pathlib.Path
    size: int | None = None
    label: str | None = None
    identity: uuid.UUID | None = None
    options: units.FilesystemOptions = units.DEFAULTS
    overrides: pathlib.Path | None = None
    owner: tuple[int, int] | None = None
    durable: bool = True
    name: str | None = None
    rooted: bool = False


@dataclasses.dataclass(frozen=True)
class BuildPlan:
    """What will be done.

    :param origin: what it is made of.
    :param limit: bytes that it may take.
    :param limited: why, for an error.
    :param time: when it is made, in seconds since 1970; None for the newest
        time in it.
    """

    request: BuildRequest
    origin: origins.Origin
    limit: int
    limited: str
    time: int | None
    overrides: tuple[mtree.Override, ...]


@dataclasses.dataclass(frozen=True)
class Built:
    """What was made.

    :param size: bytes.
    :param files: of whatever type, directories too.
    """

    output: pathlib.Path
    size: int
    files: int
    filesystem: str
    uuid: str


def room_for(request: BuildRequest) -> pathlib.Path:
    """Tell where there is room for the result, and what it takes."""
    return request.output.absolute().parent


def plan(
    request: BuildRequest, origin: origins.Origin | None = None
) -> BuildPlan:
    """Check what can be checked quickly.

    :param origin: of its files, if that is known already.
    :raises SourceError: if the source or the file of overrides is not there,
        or not what it must be.
    :raises UsageError: if an option makes no sense.
    :raises ProgramError: if e2fsprogs are missing or too old.
    """
    e2fsprogs.require()
    groups.encoded_label(request.label)
    groups.journal_blocks(request.options.journal)
    for name, given in (
        ('--size', request.size),
        ('--journal', request.options.journal),
    ):
        if isinstance(given, int):
            units.require_whole(name, given, placement.BLOCK, _BLOCKS)
    for name, wanted in (
        ('--size', request.size or 0),
        ('--headroom', request.options.headroom.size),
    ):
        if wanted > placement.LARGEST:
            raise errors.UsageError(
                f'{name} of {wanted} bytes is too large',
                hint=f'no filesystem that is built here has more than '
                f'{units.format_size(placement.LARGEST)}',
            )
    origin = origin or origins.found(request.source)
    atomic.refuse_special(request.output)
    atomic.refuse_fixed(request.output, request.output.parent)
    with scratch.explained(request.output.parent):
        room = scratch.room(request.output.parent)
    if isinstance(origin, origins.DirectoryOrigin) and request.rooted:
        _refuse_other(request.source)
    for source in filter(None, (request.source, request.overrides)):
        atomic.refuse_within(
            request.output,
            source,
            # What is only needed for a while was not named by the user.
            hint='choose another directory with --work-directory'
            if request.rooted
            else 'choose another output'
            if source.is_file()
            else 'choose an output outside of it',
        )
    limit, limited = room - room // _LEFT, 'and the disk has no more room'
    if request.size is not None and request.size <= limit:
        limit, limited = request.size, 'the size that was asked for'
    return BuildPlan(
        request,
        origin,
        limit,
        limited,
        e2fsprogs.epoch(),
        tuple(mtree.read(request.overrides) if request.overrides else ()),
    )


def execute(planned: BuildPlan, *, progress: Progress = QUIET) -> Built:
    """Do what was planned.

    :raises SourceError: if the source is damaged, has something in it that a
        filesystem cannot have, or cannot be read.
    :raises NoSpaceError: if it takes more room than there is, or than the
        size that was asked for.
    :raises BusyError: if another process changes the source, or reads or
        changes what the output is going to replace.
    """
    request = planned.request
    with (
        locks.reading(request.source),
        scratch.full_disk(request.output.parent),
        atomic.Output(request.output) as output,
    ):
        with sparse.opened(output.path, os.O_RDWR) as descriptor:
            made = _make(planned, descriptor, progress)
        with progress.task('Verifying'):
            found = superblock.read(output.path)
            e2fsprogs.Toolbox.of(found).verify(
                output.path, 'the new filesystem'
            )
        output.keep(durable=request.durable)
    return Built(
        request.output,
        made.size,
        made.files,
        'ext4',
        str(uuid.UUID(bytes=made.uuid)),
    )


def temporary_image(
    source: pathlib.Path,
    origin: origins.Origin,
    place: pathlib.Path,
    *,
    name: str | None = None,
    headroom: units.Headroom = units.NO_HEADROOM,
    label: str | None = None,
    identity: uuid.UUID | None = None,
    progress: Progress = QUIET,
) -> pathlib.Path:
    """Make a filesystem that is only needed for a while.

    :param source: what has a root filesystem.
    :param origin: of the files in it.
    :param place: where to make it.
    :param name: what to call the source in errors.
    :param headroom: what a shrink will leave in it.
    :param label: of the filesystem.
    :param identity: its UUID.
    :returns: the filesystem.
    """
    request = BuildRequest(
        source,
        place / 'root.img',
        options=units.FilesystemOptions(headroom),
        label=label,
        identity=identity,
        name=name,
        durable=False,
        rooted=True,
    )
    return execute(plan(request, origin), progress=progress).output


def _make(planned: BuildPlan, descriptor: int, progress: Progress) -> Made:
    request, origin = planned.request, planned.origin
    name = request.name or errors.shown(request.source)
    size = origin.size
    expected = max(size, request.size or 0)
    writer = Writer(descriptor, expected)
    tree = file_tree.FileTree(
        name, writer, limit=planned.limit, limited=planned.limited
    )
    with progress.task('Building', size) as task:
        origin.fill(tree, task)
        if not tree.is_rooted:
            ostree.settle(tree)
        if not tree.is_rooted and isinstance(origin, origins.ArchiveOrigin):
            found = None
            if not origin.strip:
                found = tree.take_root(required=request.rooted)
            if found is not None:
                _LOG.warning(
                    '%s: its root filesystem is in %s; all else is left out',
                    name,
                    errors.shown(found, 200),
                )
        if request.rooted and not tree.is_rooted:
            raise _not_a_root(name, tree.disk(), origin.kind)
        tree.settle_lists()
        if request.owner is not None:
            mtree.give_to(*request.owner, tree)
        mtree.apply(planned.overrides, tree)
        if strange := tree.foreign():
            _LOG.warning(
                '%s: %s belongs to user %d, not to root: if it was unpacked '
                'without root, give the archive itself, or --owner',
                name,
                *strange,
            )
        called = fstab.identity(tree.kept(b'etc/fstab'))
        wish = groups.Wish(
            label=called.label if request.label is None else request.label,
            uuid=request.identity.bytes if request.identity else called.uuid,
            size=request.size,
            options=request.options,
            time=planned.time,
        )
        try:
            made = writer.finish(tree.settle(), wish)
        except placement.TooSmallError as error:
            needed = error.blocks * placement.BLOCK
            raise errors.NoSpaceError(
                f'it takes {needed} bytes '
                f'({units.format_size(needed)}), more than the size that '
                'was asked for',
                subject=name,
                hint='choose a larger --size, less --headroom, or another '
                '--journal',
            ) from error
        task.tell(units.format_size(made.size))
    if request.size not in (None, made.size):
        raise errors.UsageError(
            f'--size of {request.size} bytes leaves too few blocks for a last '
            'block group',
            hint=f'give {made.size}, or some MiB more',
        )
    return made


def _refuse_other(source: pathlib.Path) -> None:
    try:
        names = os.listdir(os.fsencode(source))
        if {*file_tree.ROOTS, *ostree.NAMES}.isdisjoint(names):
            disk = file_tree.disk_in(source)
            raise _not_a_root(errors.shown(source), disk, _DIRECTORY)
    except OSError:
        # That will be told by who reads all of it.
        return


def _not_a_root(name: str, disk: str | None, form: str) -> errors.SourceError:
    what = f'{name}: not a root filesystem'
    if disk is None:
        wanted = sorted(map(bytes.decode, file_tree.ROOTS))
        return errors.SourceError(
            f'it has none of {", ".join(wanted)}',
            subject=what,
            hint='give what has them at its top level'
            if form == _DIRECTORY
            else 'if they are in directories of it, say how deep with '
            '--strip-components NUMBER',
        )
    return errors.SourceError(
        f'{what}, but {form} with a disk image in it: {disk}',
        hint='give that' if form == _DIRECTORY else 'unpack it, and give that',
    )
