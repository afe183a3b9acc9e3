# SPDX-License-Identifier: Apache-2.0

"""The stages of a shrink: the copy, the finish, and where they are done."""

from collections.abc import Iterable, Mapping
import os
import pathlib
import threading

from amiclient import errors
from amiclient.ext import e2fsprogs
from amiclient.ext import image
from amiclient.ext import layout as layout_
from amiclient.ext import mmp
from amiclient.ext import superblock
from amiclient.ext import times
from amiclient import locks
from amiclient.progress import Progress
from amiclient import scratch
from amiclient import sparse


def copy_in_use(
    source: pathlib.Path,
    target: pathlib.Path,
    leave: Iterable[sparse.Run],
    *,
    origin: image.RootImage | None = None,
    progress: Progress,
    cancel: threading.Event | None,
) -> None:
    """Copy a filesystem's blocks and inodes in use, and nothing else.

    :param target: an empty file.
    :param leave: runs of blocks, ascending, that are to be zeros instead.
    :param origin: what the source has to be still; None if it is our own.
    :raises BusyError: if it was changed, or replaced, since it was looked at.
    """
    found = superblock.read(source)
    with (
        sparse.opened(source, os.O_RDONLY) as reader,
        sparse.opened(target, os.O_RDWR) as writer,
    ):
        if origin is not None:
            origin.refuse_changed(locks.state(reader))
        layout = layout_.Layout(reader, found)
        unused = list(layout.unused_inode_bytes())
        used = sparse.bytes_of(
            sparse.subtract(layout.in_use(), sparse.merge(leave)),
            found.block_size,
        )
        with progress.task('Copying', sparse.count(used)) as task:
            if sparse.clone(reader, writer):
                os.truncate(writer, found.size)
                sparse.clear(writer, sparse.complement(used, found.size))
                sparse.clear(writer, unused)
                return
            os.truncate(writer, found.size)
            sparse.copy_runs(
                reader,
                writer,
                sparse.subtract(used, unused),
                task=task,
                cancel=cancel,
            )


def finish(
    original: pathlib.Path,
    path: pathlib.Path,
    moved: Mapping[int, int],
    tools: e2fsprogs.Toolbox,
) -> None:
    """Put the time stamps back, clear what is free, and verify the whole.

    :param original: the filesystem before, or a copy of its metadata.
    :param moved: the inodes that got another number: old to new.
    :raises DamagedError: if e2fsck has something to object to.
    """
    times.restore(original, path, moved, tools)
    if not superblock.read(path).clean:
        # A size that was too small leaves that behind, and nothing else.
        tools.forgive(path)
    _catch_up(path, tools)
    with sparse.opened(original, os.O_RDONLY) as descriptor:
        before = layout_.Layout(descriptor, superblock.read(original))
        wanted = before.used_inodes() - bool(before.superblock.orphan_inode)
    with sparse.opened(path, os.O_RDWR) as descriptor:
        found = superblock.read(path)
        layout = layout_.Layout(descriptor, found)
        wanted += bool(found.orphan_inode)
        if layout.used_inodes() != wanted:
            raise errors.DamagedError(
                f'the shrunk filesystem has {layout.used_inodes()} inodes in '
                f'use instead of {wanted}',
                hint='please report this as a bug',
            )
        sparse.clear(
            descriptor, sparse.bytes_of(layout.free(), found.block_size)
        )
        sparse.clear(descriptor, layout.unused_inode_bytes())
    protected = before.superblock
    if protected.has_mmp and not found.has_mmp:
        tools.add_mmp(path, protected.mmp_interval)
        mmp.carry_over(original, path)
    if not tools.check(path):
        raise errors.DamagedError(
            f'the shrunk filesystem is not in order: {tools.objections(path)}',
            hint='please report this as a bug',
        )


def _catch_up(path: pathlib.Path, tools: e2fsprogs.Toolbox) -> None:
    """Have e2fsck do what resize2fs leaves undone, if there may be any.

    resize2fs 1.47.0 moves the file of orphans, but does not compute its
    checksums anew, which depend on the block numbers; and quotas are not told
    of extent tree blocks that have come or gone. Preening mends both.
    """
    found = superblock.read(path)
    if (
        found.compat & superblock.COMPAT_ORPHAN_FILE
        or found.ro_compat & superblock.RO_COMPAT_QUOTA
    ):
        tools.settle(path, '-p')


def reserve(path: pathlib.Path, runs: Iterable[sparse.Run]) -> None:
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
