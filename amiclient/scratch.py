# SPDX-License-Identifier: Apache-2.0

"""Temporary files that tell whether somebody still needs them.

Whoever is killed cannot clean up, so the next run does it. What may go is
told by three things together: its name, which nothing else has; its owner,
who is the user that looks; and a lock (flock(2)), which the process that made
it holds and which ends with that process, however it ends. systemd-tmpfiles
respects the lock of a folder as well.

Where others may rename what they do not own, a name is no way to come back to
a file: somebody could have put a symbolic link in its place. There the path
is one that leads to the open file itself, below ``/proc`` (proc(5)).
"""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import errno
import fcntl
import logging
import os
import pathlib
import re
import secrets
import stat
import types
import typing

from amiclient import errors
from amiclient import interrupts

_LOG = logging.getLogger(__name__)

_NAME = re.compile(r'\.(.+\.)?amiclient-[0-9a-f]{8}', re.DOTALL)

#: Bytes of the final name that are repeated, for people who look on. With
#: what is added, a name must not exceed NAME_MAX, 255.
_STEM = 150

_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: Is in each of our folders. Who may rename a folder of ours, but not look
#: into it, must not get us to take it for a temporary one.
_MARK = 'amiclient'

_DESCRIPTORS = pathlib.Path('/proc/self/fd')


class _Temporary:
    """What goes away at the end of a ``with`` block.

    :param path: how to get at it.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        stem: str,
        make: Callable[[str, int], int],
    ) -> None:
        start = os.fsdecode(os.fsencode(stem)[:_STEM])
        self._folder = os.open(
            folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        )
        self._descriptor = -1
        try:
            # A signal in the middle would leave something nobody knows of.
            with interrupts.held():
                while self._descriptor < 0:
                    self._name = f'.{start}amiclient-{secrets.token_hex(4)}'
                    self._descriptor = self._made(make)
        except BaseException:
            self.__exit__()
            raise
        self.path = folder / self._name
        if is_exposed(folder) and _DESCRIPTORS.exists():
            self.path = pathlib.Path(
                f'/proc/{os.getpid()}/fd/{self._descriptor}'
            )

    def _made(self, make: Callable[[str, int], int]) -> int:
        """Make it, and lock it; tell -1 if another name has to be tried."""
        try:
            descriptor = make(self._name, self._folder)
        except FileExistsError:
            return -1
        # Somebody who cleans up may just have looked, and removed it.
        if locked(descriptor) is not False and self._is_ours(descriptor):
            return descriptor
        os.close(descriptor)
        return -1

    def _is_ours(self, descriptor: int) -> bool:
        """Tell whether the name still leads to what was made."""
        try:
            found = os.stat(
                self._name, dir_fd=self._folder, follow_symlinks=False
            )
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(descriptor))

    def __enter__(self) -> typing.Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: types.TracebackType | None = None,
    ) -> None:
        with interrupts.held():
            if self._descriptor >= 0:
                if self._is_ours(self._descriptor):
                    _remove(self._name, self._folder)
                os.close(self._descriptor)
                self._descriptor = -1
            if self._folder >= 0:
                os.close(self._folder)
                self._folder = -1


class File(_Temporary):
    """A file that only we may read, until it gets another name.

    :param folder: the folder that it is in.
    :param stem: the name that it will have.
    """

    def __init__(self, folder: pathlib.Path, stem: str) -> None:
        super().__init__(folder, f'{stem}.', _make_file)

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
                os.replace(path, self._name, dst_dir_fd=self._folder)
                os.dup2(descriptor, self._descriptor, inheritable=False)
        finally:
            os.close(descriptor)

    def rename(self, name: str) -> None:
        """Give it the name that it is to have, in the same folder.

        What has that name is replaced; if that is a symbolic link, it is the
        link.

        :raises AmiError: if somebody else put another file in its place.
        """
        if not self._is_ours(self._descriptor):
            raise errors.AmiError(
                f'{self._name} was replaced by somebody else',
                hint='use a directory that nobody else can write to',
            )
        os.replace(
            self._name,
            name,
            src_dir_fd=self._folder,
            dst_dir_fd=self._folder,
        )
        # It is a temporary one no more, and open to all.
        with contextlib.suppress(OSError):
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)


class Folder(_Temporary):
    """A folder that only we may look into.

    :param folder: the folder that it is in.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__(folder, '', _make_folder)


@dataclasses.dataclass(frozen=True)
class _Left:
    """Something that nobody needs any more, locked while it is looked at."""

    name: str
    folder: int
    size: int


def sweep(folder: pathlib.Path) -> None:
    """Remove what runs that were killed have left in a folder."""
    count = size = 0
    for left in _abandoned(folder):
        if _remove(left.name, left.folder):
            count += 1
            size += left.size
    if count:
        _LOG.warning(
            '%s: removed %d temporary %s (%d bytes) of a run that was killed',
            folder,
            count,
            'file' if count == 1 else 'files',
            size,
        )


def reclaimable(folder: pathlib.Path) -> int:
    """Tell how many bytes :func:`sweep` would free."""
    return sum(left.size for left in _abandoned(folder))


def is_exposed(folder: pathlib.Path) -> bool:
    """Tell whether somebody else may rename our files in a folder.

    The owner of the folder may, and who may write to it, unless it is sticky
    (inode(7)).
    """
    status = folder.stat()
    if status.st_uid not in (0, os.geteuid()):
        return True
    others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return bool(others) and not status.st_mode & stat.S_ISVTX


def _abandoned(folder: pathlib.Path) -> Iterator[_Left]:
    try:
        parent = os.open(folder, os.O_RDONLY | _FOLDER & ~os.O_NOFOLLOW)
    except OSError:
        # Whoever needs the folder says what is wrong with it.
        return
    try:
        with os.scandir(parent) as entries:
            names = sorted(e.name for e in entries if _NAME.fullmatch(e.name))
        for name in names:
            with _claimed(name, parent) as size:
                if size is not None:
                    yield _Left(name, parent, size)
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
                flags = os.O_RDONLY | _FOLDER
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


def _make_file(name: str, folder: int) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, 0o600, dir_fd=folder)


def _make_folder(name: str, folder: int) -> int:
    os.mkdir(name, 0o700, dir_fd=folder)
    descriptor = os.open(name, os.O_RDONLY | _FOLDER, dir_fd=folder)
    os.close(_make_file(_MARK, descriptor))
    return descriptor


def _is_marked(descriptor: int) -> bool:
    """Tell whether a folder is one that was made here; any file may be."""
    if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
        return True
    names = os.listdir(descriptor)
    return not names or _MARK in names


def locked(descriptor: int, *, shared: bool = False) -> bool | None:
    """Lock a file or folder, until it is closed.

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


def _remove(name: str, folder: int) -> bool:
    """Remove a file, or a folder with all that is in it."""
    try:
        try:
            os.unlink(name, dir_fd=folder)
        except IsADirectoryError:
            _remove_folder(name, folder)
    except OSError as error:
        # No reason to fail, and the next run finds it again.
        _LOG.debug('%s could not be removed', name, exc_info=error)
        return False
    return True


def _remove_folder(name: str, folder: int) -> None:
    descriptor = os.open(name, os.O_RDONLY | _FOLDER, dir_fd=folder)
    try:
        # The mark goes last, should this be cut short as well.
        for inside in sorted(os.listdir(descriptor), key=_MARK.__eq__):
            _remove(inside, descriptor)
    finally:
        os.close(descriptor)
    os.rmdir(name, dir_fd=folder)


def room(folder: pathlib.Path) -> int:
    """Tell the bytes that a folder's filesystem has room for."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize
