# SPDX-License-Identifier: Apache-2.0

"""Temporary files that tell whether somebody still needs them.

Whoever is killed cannot clean up, so the next run does it. Three things
together show what may go: its name, which nothing else has; its owner, who is
the user that looks; and a lock (flock(2)), which the process that made
it holds and which ends with that process, however it ends. systemd-tmpfiles
respects the lock of a directory as well.

Where others may rename what they do not own, a name is no way to come back to
a file: somebody could have put a symbolic link in its place. There the path
is one that leads to the open file itself, below ``/proc`` (proc(5)).
"""

from collections.abc import Callable, Collection, Iterator
import contextlib
import errno
import fcntl
import logging
import os
import pathlib
import re
import secrets
import signal
import stat
import typing

from amiclient import errors
from amiclient import interrupts
from amiclient import process
from amiclient import units

_LOG = logging.getLogger(__name__)

_NAME = re.compile(r'\.(.+\.)?amiclient-[0-9a-f]{8}', re.DOTALL)

#: Bytes of the final name that are repeated, for people who look on. With
#: what is added, a name must not exceed NAME_MAX, 255.
_STEM = 150

_DIRECTORY = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: A directory that names are looked up in; to read it may not be allowed.
PLACE = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC

#: Is in each of our directories. Who may rename a directory of ours, but not
#: look into it, must not get us to take it for a temporary one.
_MARK = 'amiclient'

_DESCRIPTORS = pathlib.Path('/proc/self/fd')

#: What open(2) and rename(2) say when a directory cannot take a file.
_REFUSALS = (errno.EACCES, errno.EPERM, errno.EROFS)

_ELSEWHERE = 'make room there, or write the result elsewhere with --output'

#: Bytes of room that are as good as none.
_HARDLY = 1 << 20

#: file-hierarchy(7): what is large goes to /var/tmp, for /tmp is in memory on
#: many systems.
_LARGE = pathlib.Path('/var/tmp')  # noqa: S108 - this makes files
_SMALL = pathlib.Path('/tmp')  # noqa: S108


class _Temporary:
    """What goes away at the end of a ``with`` block.

    :param path: how to get at it.
    """

    _directory = _descriptor = -1

    def __init__(
        self,
        directory: pathlib.Path,
        stem: str,
        make: Callable[[str, int], int],
    ) -> None:
        start = os.fsdecode(os.fsencode(stem)[:_STEM])
        self._directory = os.open(directory, PLACE)
        try:
            # A signal in the middle would leave something nobody knows of.
            with interrupts.held():
                while self._descriptor < 0:
                    self._name = f'.{start}amiclient-{secrets.token_hex(4)}'
                    self._descriptor = self._made(make)
            self.path = path_to(directory / self._name, self._descriptor)
        except BaseException:
            self.__exit__()
            raise

    def _made(self, make: Callable[[str, int], int]) -> int:
        """Make it, and lock it; tell -1 if another name has to be tried."""
        try:
            descriptor = make(self._name, self._directory)
        except FileExistsError:
            return -1
        # Somebody who cleans up may just have looked, and removed it.
        if locked(descriptor) is not False and is_named(
            self._name, descriptor, self._directory
        ):
            return descriptor
        os.close(descriptor)
        return -1

    def __enter__(self) -> typing.Self:
        return self

    def __exit__(self, *_: object) -> None:
        with interrupts.held():
            if self._descriptor >= 0 and is_named(
                self._name, self._descriptor, self._directory
            ):
                _remove(self._name, self._directory)
            for each in (self._descriptor, self._directory):
                if each >= 0:
                    os.close(each)
            self._descriptor = self._directory = -1

    def __del__(self) -> None:
        # A signal may come before the ``with`` block has begun.
        self.__exit__()


class File(_Temporary):
    """A file that only we may read, until it gets another name.

    :param stem: the name that it will have.
    """

    def __init__(self, directory: pathlib.Path, stem: str) -> None:
        super().__init__(directory, f'{stem}.', _make_file)

    def adopt(self, path: pathlib.Path) -> None:
        """Become another file of ours, which loses its name.

        :param path: on the same filesystem.
        :raises OSError: EXDEV if it is on another one.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            with interrupts.held():
                # Nobody must take it for one that was left behind.
                locked(descriptor)
                os.replace(path, self._name, dst_dir_fd=self._directory)
                os.dup2(descriptor, self._descriptor, inheritable=False)
        finally:
            os.close(descriptor)

    def rename(self, name: str) -> None:
        """Give it the name that it is to have, in the same directory.

        What has that name is replaced; if that is a symbolic link, it is the
        link.

        :raises AmiError: if somebody else put another file in its place.
        """
        if not is_named(self._name, self._descriptor, self._directory):
            raise errors.AmiError(
                f'{self._name} was replaced by another process',
                hint='use a directory that nobody else can write to',
            )
        os.replace(
            self._name,
            name,
            src_dir_fd=self._directory,
            dst_dir_fd=self._directory,
        )
        # It is a temporary one no more, and open to all.
        with contextlib.suppress(OSError):
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)


class PrivateDirectory(_Temporary):
    """A directory that only we may look into."""

    def __init__(self, directory: pathlib.Path) -> None:
        super().__init__(directory, '', _make_directory)


def sweep(directory: pathlib.Path) -> None:
    """Remove what runs that were killed have left in a directory."""
    count = total = 0
    for name, parent, size in _abandoned(directory):
        if _remove(name, parent):
            count += 1
            total += size
    if count:
        _LOG.warning(
            '%s: removed %d temporary %s (%d bytes) of a run that was killed',
            directory,
            count,
            'file' if count == 1 else 'files',
            total,
        )


def reclaimable(directory: pathlib.Path) -> int:
    """Return how many bytes :func:`sweep` would free."""
    return sum(size for _, _, size in _abandoned(directory))


def is_exposed(directory: pathlib.Path) -> bool:
    """Return whether somebody else may rename our files in a directory.

    The owner of it may, and who may write to it, unless it is sticky
    (inode(7)).
    """
    status = directory.stat()
    if status.st_uid not in (0, os.geteuid()):
        return True
    others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return bool(others) and not status.st_mode & stat.S_ISVTX


def path_to(path: pathlib.Path, descriptor: int) -> pathlib.Path:
    """Tell how to get at what is open, and be sure that it is this.

    :param path: by which it was opened.
    """
    if is_exposed(path.parent) and _DESCRIPTORS.exists():
        return pathlib.Path(f'/proc/{os.getpid()}/fd/{descriptor}')
    return path


def is_named(
    name: str | pathlib.Path, descriptor: int, directory: int | None = None
) -> bool:
    """Tell whether a name still leads to what is open."""
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(descriptor))


def remove(path: pathlib.Path) -> None:
    """Remove a file of ours that nobody goes on with, unless it is locked."""
    with contextlib.suppress(OSError):
        parent = os.open(path.parent, PLACE)
        try:
            with _claimed(path.name, parent) as size:
                if size is not None:
                    _remove(path.name, parent)
        finally:
            os.close(parent)


def _abandoned(directory: pathlib.Path) -> Iterator[tuple[str, int, int]]:
    # Name, directory and size of what nobody needs any more, each locked
    # while it is looked at.
    try:
        parent = os.open(directory, os.O_RDONLY | _DIRECTORY & ~os.O_NOFOLLOW)
    except OSError:
        # Whoever needs the directory says what is wrong with it.
        return
    try:
        with os.scandir(parent) as entries:
            names = sorted(e.name for e in entries if _NAME.fullmatch(e.name))
        for name in names:
            with _claimed(name, parent) as size:
                if size is not None:
                    yield name, parent, size
    finally:
        os.close(parent)


@contextlib.contextmanager
def _claimed(name: str, parent: int) -> Iterator[int | None]:
    """Lock what has been left, and tell its size; None if it is not ours."""
    descriptor = -1
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if status.st_uid == os.geteuid():
            if stat.S_ISDIR(status.st_mode):
                flags = os.O_RDONLY | _DIRECTORY
            elif stat.S_ISREG(status.st_mode):
                # Over NFS, a lock takes the right to write.
                flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
            else:
                flags = 0
            if flags:
                descriptor = os.open(name, flags, dir_fd=parent)
    except OSError:
        # Gone meanwhile, or not for us.
        pass
    try:
        if descriptor >= 0 and _is_marked(descriptor) and locked(descriptor):
            yield _size(descriptor)
        else:
            yield None
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _make_file(name: str, directory: int) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, 0o600, dir_fd=directory)


def _make_directory(name: str, directory: int) -> int:
    os.mkdir(name, 0o700, dir_fd=directory)
    descriptor = os.open(name, os.O_RDONLY | _DIRECTORY, dir_fd=directory)
    os.close(_make_file(_MARK, descriptor))
    return descriptor


def _is_marked(descriptor: int) -> bool:
    """Whether a directory is one that was made here; any file may be."""
    if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
        return True
    names = os.listdir(descriptor)
    return not names or _MARK in names


def locked(descriptor: int, *, shared: bool = False) -> bool | None:
    """Lock a file or directory, until it is closed.

    :param shared: whether others may have it locked like that as well.
    :returns: false if somebody else has; None where there are no locks.
    """
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (
            errno.EBADF,
            errno.EINVAL,
            errno.ENOLCK,
            errno.ENOSYS,
            errno.EOPNOTSUPP,
        ):
            return None
        raise
    return True


def _size(descriptor: int) -> int:
    status = os.fstat(descriptor)
    size = status.st_blocks * 512
    if stat.S_ISDIR(status.st_mode):
        with os.scandir(descriptor) as entries:
            for entry in entries:
                size += entry.stat(follow_symlinks=False).st_blocks * 512
    return size


def _remove(name: str, directory: int) -> bool:
    try:
        try:
            os.unlink(name, dir_fd=directory)
        except IsADirectoryError:
            _remove_directory(name, directory)
    except OSError as error:
        # No reason to fail, and the next run finds it again.
        _LOG.debug('%s could not be removed', name, exc_info=error)
        return False
    return True


def _remove_directory(name: str, directory: int) -> None:
    descriptor = os.open(name, os.O_RDONLY | _DIRECTORY, dir_fd=directory)
    try:
        # The mark goes last, should this be cut short as well.
        for inside in sorted(os.listdir(descriptor), key=_MARK.__eq__):
            _remove(inside, descriptor)
    finally:
        os.close(descriptor)
    os.rmdir(name, dir_fd=directory)


def room(directory: pathlib.Path) -> int:
    """Return the bytes that a directory's filesystem has room for."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def check_room(
    directory: pathlib.Path,
    needed: int,
    what: str = 'the copy',
    *,
    shown: pathlib.Path | None = None,
    hint: str = _ELSEWHERE,
) -> None:
    """Make sure that there is room for the work.

    :param needed: bytes.
    :param what: what is made there.
    :param shown: what to call the directory.
    :raises NoSpaceError: if there is not.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        free = room(directory) + reclaimable(directory)
        if free < needed:
            raise errors.NoSpaceError(
                f'no room for {what}: {units.format_size(needed)} are needed, '
                f'{units.format_size(free)} are free',
                subject=shown or directory,
                hint=hint,
            )


def _no_copy(directory: pathlib.Path, *_: OSError) -> errors.NoSpaceError:
    return errors.NoSpaceError(
        'no room for the copy', subject=directory, hint=_ELSEWHERE
    )


@contextlib.contextmanager
def full_disk(
    *directories: pathlib.Path,
    lack: Callable[[pathlib.Path, OSError], errors.NoSpaceError] = _no_copy,
) -> Iterator[None]:
    """Say it in plain words if the disk gets full meanwhile.

    Likewise if a file would become larger than it may.

    :param directories: what is written to; the one with the least room
        is blamed.
    :param lack: makes the error of a full one, of what the system says.
    :raises NoSpaceError: if one of them is full.
    :raises TooLargeError: if a file in one of them may not become larger.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise _too_large(directories) from error
        if error.errno not in errors.FULL:
            raise
        raise lack(min(directories, key=room), error) from error
    except process.ProgramFailed as error:
        if error.result.status == -signal.SIGXFSZ:
            raise _too_large(directories) from error
        raise


def refuse_too_large(directory: pathlib.Path, size: int) -> None:
    """Make sure that a file may have so many bytes (setrlimit(2)).

    :raises TooLargeError: if it may not.
    """
    limit = errors.largest_file()
    if limit is not None and limit < size:
        raise _too_large((directory,))


def refuse_full(*directories: pathlib.Path) -> None:
    """Blame a full disk, if there is one, for the failure of a program.

    Programs that cannot write say so in many ways, some of them misleading.

    :raises NoSpaceError: if there is hardly any room in one of them.
    """
    for directory in directories:
        if room(directory) < _HARDLY:
            raise _no_copy(directory)


@contextlib.contextmanager
def workshop(directory: pathlib.Path) -> Iterator[pathlib.Path]:
    """Provide a private directory for temporary files."""
    with explained(directory):
        made = PrivateDirectory(directory)
    with made:
        yield made.path


def _too_large(
    directories: Collection[pathlib.Path],
) -> errors.TooLargeError:
    # What is in another one is a private one, of which the user knows nothing.
    known = [
        one for one in directories if one.parent not in {*directories} - {one}
    ]
    return errors.too_large(', '.join(map(str, dict.fromkeys(known))))


def candidates(
    chosen: pathlib.Path | None, source: pathlib.Path | None
) -> tuple[pathlib.Path, ...]:
    """Return the directories that a copy may be made in, the best one first.

    What the user chose is the only one. Else it is ``$TMPDIR``, /var/tmp,
    the directory of the source and /tmp, as far as they can be written to.

    :param chosen: what the user chose; None for the usual ones.
    :param source: the file or device that is copied; None if it is not a
        local one.
    :raises UsageError: if the one that was chosen cannot be written to.
    """
    if chosen is not None:
        if not chosen.is_dir():
            raise errors.UsageError(
                f'{chosen} is not a directory',
                hint='create it, or choose another with --work-directory',
            )
        if not _is_writable(chosen):
            raise errors.UsageError(
                f'{chosen} is not writable',
                hint='choose another with --work-directory',
            )
        return (chosen,)
    places = [_LARGE, _SMALL]
    if source is not None and source.is_file():
        # Not beside a device: /dev is in memory.
        places.insert(1, source.resolve().parent)
    wanted = os.environ.get('TMPDIR')
    if wanted:
        places.insert(0, pathlib.Path(wanted).absolute())
    return tuple(filter(_is_writable, dict.fromkeys(places)))


def roomiest(
    chosen: pathlib.Path | None, source: pathlib.Path | None, lack: str
) -> pathlib.Path:
    """Choose the one of :func:`candidates` that has the most room.

    :param lack: what to say if there is none.
    :raises NoSpaceError: if there is none.
    :raises UsageError: if the one that was chosen cannot be written to.
    """
    places = candidates(chosen, source)
    if not places:
        raise errors.NoSpaceError(
            lack, hint='choose one with --work-directory'
        )
    return max(places, key=room)


@contextlib.contextmanager
def directory(
    chosen: pathlib.Path | None, source: pathlib.Path | None, lack: str
) -> Iterator[pathlib.Path]:
    """Provide a private directory where there is most room.

    What runs that were killed have left there is removed first. The
    parameters and errors are those of :func:`roomiest`.
    """
    place = roomiest(chosen, source, lack)
    sweep(place)
    with PrivateDirectory(place) as made, named(made.path, place):
        yield made.path


@contextlib.contextmanager
def named(private: pathlib.Path, place: pathlib.Path) -> Iterator[None]:
    """Say which directory has no room, rather than a private one in it.

    :raises NoSpaceError: with what the user can do about it.
    :raises TooLargeError: likewise.
    """
    try:
        yield
    except (errors.NoSpaceError, errors.TooLargeError) as error:
        names = str(private), str(private.resolve())
        name = next(filter(error.sentence.startswith, names), None)
        if name is not None:
            error.rename(name, place)
            if isinstance(error, errors.NoSpaceError):
                error.hint = (
                    'make room there, or choose another directory with '
                    '--work-directory'
                )
        raise


def _is_writable(place: pathlib.Path) -> bool:
    # This knows of read-only filesystems, too, and of access control lists.
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


@contextlib.contextmanager
def explained(directory: pathlib.Path) -> Iterator[None]:
    """Say it in plain words if a directory cannot take a file.

    :raises AmiError: if it is missing or cannot be written to.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise errors.AmiError(
            'no such directory', subject=directory, hint='create it first'
        ) from error
    except NotADirectoryError as error:
        raise errors.AmiError('not a directory', subject=directory) from error
    except OSError as error:
        if error.errno in _REFUSALS:
            raise errors.AmiError(
                os.strerror(error.errno or 0),
                subject=directory,
                hint='choose a directory that you may write to',
            ) from error
        raise
