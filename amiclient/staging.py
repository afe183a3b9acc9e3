# SPDX-License-Identifier: Apache-2.0

"""What is on its way here, and may have been before this run.

A file that is being fetched lies beside its target, private, under a name
that says what it is part of, so that a second run finds it and goes on. Blocks
of zeros become holes. Only when it is whole does it get its name.

A directory for what is on its way into an archive lies where the archive will
be, under a name that a second run finds again, too. Others who may write
there can foresee that name. So nothing is put into a directory, or taken from
one, unless it is the user's own, and nobody else can write to it; and where
others could rename it later, the path is one that leads to the open directory
itself, below ``/proc`` (proc(5)), as in :mod:`amiclient.scratch`.

One run at a time has it: what it packs, and then removes, must not be what
another has just found. A lock in the directory says so. It is a file, for over
NFS a lock takes the right to write, which nobody has to a directory; and it
ends with its process, however that ends.
"""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import stat
import types
from typing import Self

from amiclient import atomic
from amiclient import errors
from amiclient import interrupts
from amiclient import scratch
from amiclient import sparse

#: Is in the directory while a run has it.
LOCK = '.lock'

#: As it is, whatever it is: to look at it takes no rights, and blocks never.
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_WRITE = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC

#: How often what vanishes while it is being opened is tried again.
_TRIES = 5

#: Another place to choose, where there is no option for it.
ANOTHER = 'choose another directory'


class StagingDirectory:
    """A directory that only we may look into, and that may have been before.

    Used as a context manager, it stays at the end unless it is empty: see
    :meth:`clear`. Errors that pass by tell its name, not the path.

    :param directory: the directory that it is in.
    :param name: the name that it has there.
    :raises AmiError: if it cannot be made, what has its name is not to be
        trusted, or another process has it.
    """

    def __init__(self, directory: pathlib.Path, name: str) -> None:
        self._name = name
        self._shown = directory / name
        with contextlib.ExitStack() as stack:
            # A signal in the middle would leave something nobody knows of.
            with scratch.explained(directory), interrupts.held():
                self._parent = os.open(directory, scratch.PLACE)
                stack.callback(os.close, self._parent)
                self._descriptor, lock = self._open()
                stack.callback(os.close, self._descriptor)
                stack.callback(os.close, lock)
                stack.callback(self._release)
            #: How to get at it.
            self.path = scratch.path_to(self._shown, self._descriptor)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: types.TracebackType | None = None,
    ) -> None:
        with interrupts.held():
            self._stack.close()
        if isinstance(error, errors.AmiError):
            error.rename(self.path, self._shown)

    def clear(self) -> None:
        """Remove all files in it, so that it goes as well at the end."""
        # Btrfs lists, by a descriptor, what was there when it was opened.
        current = os.open('.', _READ, dir_fd=self._descriptor)
        try:
            for name in {*os.listdir(current)} - {LOCK}:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=current)
        finally:
            os.close(current)

    def _release(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(LOCK, dir_fd=self._descriptor)
        self._remove_empty()

    def _remove_empty(self) -> None:
        # If there is something to go on with, it stays; and so does whatever
        # others may have given its name by now.
        with contextlib.suppress(OSError):
            os.rmdir(self._name, dir_fd=self._parent)

    def _open(self) -> tuple[int, int]:
        """Open it, and make it if it is not there; lock it.

        :returns: descriptors of the directory, and of the lock.
        """
        for _ in range(_TRIES):
            try:
                os.mkdir(self._name, 0o700, dir_fd=self._parent)
                made = True
            except FileExistsError:
                made = False
            try:
                found = os.open(self._name, _LOOK, dir_fd=self._parent)
            except FileNotFoundError:
                # Another run has finished, and removed it.
                continue
            try:
                descriptor = self._judged(found)
            except errors.AmiError:
                if made:
                    # On a filesystem that knows no owners, or no modes.
                    self._remove_empty()
                raise
            finally:
                os.close(found)
            try:
                lock = self._locked(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            if lock is not None:
                return descriptor, lock
            os.close(descriptor)
        raise errors.AmiError(
            f'{self._shown} is changed by others all the time',
            hint='choose another --directory',
        )

    def _judged(self, found: int) -> int:
        """Open what was found for reading, if it is to be trusted.

        :raises AmiError: if it is not.
        """
        objection = distrusted(os.fstat(found))
        if objection is not None:
            raise errors.AmiError(
                f'{self._shown}, the directory for the download, {objection}',
                hint='remove it, or choose another --directory',
            )
        # The same one, whatever has its name by now.
        descriptor = os.open('.', _READ, dir_fd=found)
        # One of a former version may be read by others.
        with contextlib.suppress(PermissionError):
            os.fchmod(descriptor, 0o700)
        return descriptor

    def _locked(self, descriptor: int) -> int | None:
        """Lock it.

        :returns: a descriptor that holds the lock; None if the run that had
            it has finished just now, and removed it.
        :raises AmiError: if another process has it.
        """
        try:
            lock = os.open(LOCK, _WRITE, 0o600, dir_fd=descriptor)
        except FileNotFoundError:
            return None
        taken = f'{self._shown.parent}: another process is saving the same'
        return _held(lock, LOCK, f'{taken} there', directory=descriptor)


def _held(
    fd: int,
    name: str | pathlib.Path,
    taken: str,
    *,
    directory: int | None = None,
) -> int | None:
    """Lock an open file.

    :param name: by which it was opened.
    :param directory: that this is in.
    :param taken: what to say if another process has locked it.
    :returns: it; None, and it is closed, if the one that held the lock has
        finished or removed it just now.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, fd)
        if scratch.locked(fd) is False:
            raise errors.BusyError(taken, hint='wait for it, or end it')
        if not scratch.is_named(name, fd, directory):
            return None
        stack.pop_all()
        return fd


def distrusted(status: os.stat_result) -> str | None:
    """Tell why nothing may be taken from a directory; None if it may."""
    if stat.S_ISLNK(status.st_mode):
        return 'is a symbolic link'
    if not stat.S_ISDIR(status.st_mode):
        return 'is not a directory'
    if status.st_uid != os.geteuid():
        return 'belongs to another user'
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return 'can be written to by others'
    return None


#: How much of a target's name goes into that of its part: NAME_MAX is 255.
_NAME = 120


def path_of(target: pathlib.Path, tag: str) -> pathlib.Path:
    """Tell where a file is while it is being fetched.

    :param tag: what its content is; one with another tag is another file.
    """
    return target.with_name(f'{prefix(target)}{tag}.part')


def prefix(target: pathlib.Path) -> str:
    """Tell what the names of all parts of a file begin with."""
    return f'.{os.fsdecode(os.fsencode(target.name)[:_NAME])}.'


class Partial:
    """A file that is being fetched, and may have been before.

    Used as a context manager, it stays at the end, but for an empty one: see
    :meth:`discard`.

    :param target: the path that it is to have.
    :param tag: what its content is; one with another tag is another file.
    :raises AmiError: if its directory cannot take it.
    :raises BusyError: if another process is fetching the same.
    """

    def __init__(self, target: pathlib.Path, tag: str) -> None:
        self.target = target
        self.path = path_of(target, tag)
        self._keep = True
        with scratch.explained(target.parent):
            self._fd = self._open()
        #: Bytes that are there. The last ones may be there in part only.
        self.offset = os.fstat(self._fd).st_size // sparse.BLOCK * sparse.BLOCK
        os.ftruncate(self._fd, self.offset)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(OSError):
            if self._keep and self.offset:
                # It may end in a hole.
                os.ftruncate(self._fd, self.offset)
            else:
                self.path.unlink(missing_ok=True)
        os.close(self._fd)

    def _open(self) -> int:
        for _ in range(_TRIES):
            opened = self._open_once()
            if opened is None:
                continue
            taken = f'{self.target} is being downloaded by another process'
            fd = _held(opened, self.path, taken)
            if fd is not None:
                return fd
        raise errors.AmiError(
            f'{self.path} is changed by others all the time',
            hint='choose another directory',
        )

    def _open_once(self) -> int | None:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with contextlib.suppress(FileExistsError):
            return os.open(self.path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            found = os.lstat(self.path)
            if _is_ours(found):
                fd = os.open(self.path, flags)
                if os.path.samestat(found, os.fstat(fd)):
                    os.fchmod(fd, 0o600)
                    return fd
                os.close(fd)
            else:
                # A link, or somebody else's, in a directory that is open to
                # all: nothing of ours, and nothing to write to.
                self.path.unlink()
        except FileNotFoundError:
            pass
        return None

    def contents(self) -> Iterator[bytes]:
        """Read what is there."""
        position = 0
        while position < self.offset:
            wanted = min(sparse.CHUNK, self.offset - position)
            with _told(self.path, 'read'):
                chunk = os.pread(self._fd, wanted, position)
            if not chunk:
                raise errors.AmiError(
                    f'{self.path} became shorter while it was read',
                    hint='let nothing else write to it',
                )
            yield chunk
            position += len(chunk)

    def restart(self) -> None:
        """Begin again with nothing."""
        with _told(self.path, 'written'):
            os.ftruncate(self._fd, 0)
        self.offset = 0

    def write(self, data: bytes) -> None:
        """Add to it."""
        with _told(self.path, 'written'):
            sparse.write(self._fd, data, self.offset)
        self.offset += len(data)

    def finish(self) -> None:
        """Give it its name, once all of it is there."""
        with _told(self.path, 'written'):
            os.ftruncate(self._fd, self.offset)
            os.fchmod(self._fd, 0o666 & ~atomic.umask())
            os.fsync(self._fd)
            os.replace(self.path, self.target)
            # A directory may take files, and yet not let itself be read.
            with contextlib.suppress(PermissionError):
                atomic.sync(self.target.parent)

    def discard(self) -> None:
        """Say that what is there is of no use."""
        self._keep = False


def _is_ours(status: os.stat_result) -> bool:
    return (
        stat.S_ISREG(status.st_mode)
        and status.st_uid == os.geteuid()
        and status.st_nlink == 1
    )


def full_told(
    directory: pathlib.Path, hint: str = ANOTHER
) -> contextlib.AbstractContextManager[None]:
    """Say what to do about a full disk.

    :param hint: another place to choose.
    """

    def lack(full: pathlib.Path, error: OSError) -> errors.NoSpaceError:
        return errors.NoSpaceError(
            error.strerror or '', subject=full, hint=f'make room, or {hint}'
        )

    return scratch.full_disk(directory, lack=lack)


@contextlib.contextmanager
def _told(path: pathlib.Path, done: str) -> Iterator[None]:
    """Say in plain words what the filesystem refuses.

    :param done: what was to be done, such as ``written``.
    """
    try:
        with full_told(path.parent):
            yield
    except OSError as error:
        raise errors.AmiError(
            f'{path} cannot be {done}: {error.strerror}'
        ) from error
