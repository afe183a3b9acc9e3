# SPDX-License-Identifier: Apache-2.0

"""The stages of a shrink: the copy, the finish, and where they are done."""

from collections.abc import Collection, Iterable, Iterator, Mapping
import contextlib
import errno
import os
import pathlib
import signal
import threading

from amiclient import atomic
from amiclient import errors
from amiclient.ext import e2fsprogs
from amiclient.ext import image
from amiclient.ext import layout as layout_
from amiclient.ext import mmp
from amiclient.ext import superblock
from amiclient.ext import times
from amiclient import locks
from amiclient import process
from amiclient.progress import Progress
from amiclient import scratch
from amiclient import sparse
from amiclient import units

#: Bytes of room that are as good as none.
_HARDLY = 1 << 20


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


def check_room(folder: pathlib.Path, needed: int) -> None:
    """Make sure that there is room for the work.

    :param needed: bytes.
    :raises NoSpaceError: if there is not.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        free = scratch.room(folder) + scratch.reclaimable(folder)
        if free < needed:
            raise _no_space(
                folder,
                f': {units.format_size(needed)} are needed, '
                f'{units.format_size(free)} are free',
            )


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
        check_room(path.parent, sparse.count(holes))
        with full_disk(path.parent):
            for first, end in holes:
                os.posix_fallocate(descriptor, first, end - first)


@contextlib.contextmanager
def full_disk(*folders: pathlib.Path) -> Iterator[None]:
    """Say it in plain words if the disk gets full meanwhile.

    Likewise if a file would become larger than it may.

    :param folders: what is written to; the one with the least room is blamed.
    :raises NoSpaceError: if one of them is full.
    :raises TooLargeError: if a file in one of them may not become larger.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise _too_large(folders) from error
        if error.errno not in errors.FULL:
            raise
        raise _no_space(min(folders, key=scratch.room), '') from error
    except process.ProgramFailed as error:
        if error.result.status == -signal.SIGXFSZ:
            raise _too_large(folders) from error
        raise


def refuse_too_large(folder: pathlib.Path, size: int) -> None:
    """Make sure that a file may become so large (setrlimit(2)).

    :param size: bytes.
    :raises TooLargeError: if it may not.
    """
    limit = errors.largest_file()
    if limit is not None and limit < size:
        raise _too_large((folder,))


def refuse_full(*folders: pathlib.Path) -> None:
    """Blame a full disk, if there is one, for the failure of a program.

    Programs that cannot write say so in many ways, some of them misleading.

    :raises NoSpaceError: if there is hardly any room in one of some folders.
    """
    for folder in folders:
        if scratch.room(folder) < _HARDLY:
            raise _no_space(folder, '')


@contextlib.contextmanager
def workshop(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Provide a private folder for temporary files."""
    with atomic.explained(folder):
        made = scratch.Folder(folder)
    with made:
        yield made.path


def _too_large(
    folders: Collection[pathlib.Path],
) -> errors.TooLargeError:
    # What is in another one is a private one, of which the user knows nothing.
    known = [one for one in folders if one.parent not in folders]
    where = ', '.join(map(str, dict.fromkeys(known)))
    return errors.too_large(where)


def _no_space(folder: pathlib.Path, figures: str) -> errors.NoSpaceError:
    return errors.NoSpaceError(
        f'no room for the copy{figures}',
        subject=folder,
        hint='make room there, or write the result elsewhere with --output',
    )
