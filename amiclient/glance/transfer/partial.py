# SPDX-License-Identifier: Apache-2.0

"""A file on its way here: what of it is there already.

It lies beside its target, private, under a name that says what it is part of,
so that a second run finds it and goes on. Blocks of zeros become holes. Only
when it is whole does it get its name.
"""

from collections.abc import Iterator
import contextlib
import errno
import fcntl
import os
import pathlib
import stat
import types
from typing import Self

from amiclient import errors
from amiclient import files
from amiclient import limits
from amiclient import scratch
from amiclient import sparse

#: What flock(2) says where a filesystem has no locks.
_LOCKLESS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)

#: How much of a target's name goes into that of its part: NAME_MAX is 255.
_NAME = 120

#: How often a file that vanishes while it is being opened is tried again.
_TRIES = 5


def path_of(target: pathlib.Path, tag: str) -> pathlib.Path:
    """Tell where a file is while it is being fetched.

    :param tag: what its content is; one with another tag is another file.
    """
    return target.with_name(f'{prefix(target)}{tag}.part')


def prefix(target: pathlib.Path) -> str:
    """Tell what the names of all parts of a file begin with."""
    return f'.{os.fsdecode(os.fsencode(target.name)[:_NAME])}.'


def remove(path: pathlib.Path) -> bool:
    """Remove a part that nobody goes on with, unless a process has it.

    :returns: whether it was removed.
    """
    # Over NFS, a lock takes the right to write.
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        if not _is_ours(path.lstat()):
            return False
        fd = os.open(path, flags)
    except OSError:
        # Gone meanwhile, or not for us.
        return False
    try:
        # What a path leads to may be another file by now.
        if not scratch.locked(fd):
            return False
        if not os.path.samestat(os.fstat(fd), path.lstat()):
            return False
        path.unlink()
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


class Partial:
    """A file that is being fetched, and may have been before.

    Used as a context manager, it stays at the end, but for an empty one: see
    :meth:`discard`.

    :param target: the path that it is to have.
    :param tag: what its content is; one with another tag is another file.
    :raises AmiError: if its folder cannot take it, or another process is
        fetching the same.
    """

    def __init__(self, target: pathlib.Path, tag: str) -> None:
        self.target = target
        self.path = path_of(target, tag)
        self._keep = True
        with files.told(target.parent):
            self._fd = self._open()
        #: Bytes that are there. The last ones may be there in part only.
        self.offset = os.fstat(self._fd).st_size // sparse.BLOCK * sparse.BLOCK
        os.ftruncate(self._fd, self.offset)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            if self._keep and self.offset:
                # It may end in a hole.
                os.ftruncate(self._fd, self.offset)
            else:
                self.path.unlink(missing_ok=True)
        os.close(self._fd)

    def _open(self) -> int:
        for _ in range(_TRIES):
            fd = self._open_once()
            if fd is None:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(fd)
                raise errors.AmiError(
                    f'{self.target} is being fetched by another process',
                    hint='wait for it, or end it',
                ) from error
            except OSError as error:
                if error.errno not in _LOCKLESS:
                    os.close(fd)
                    raise
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), os.lstat(self.path)):
                    return fd
            # The one that held the lock has finished or removed it.
            os.close(fd)
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
                # A link, or somebody else's, in a folder that is open to
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
        """Add to it.

        :raises NoSpaceError: if there is no room.
        """
        with _told(self.path, 'written'):
            sparse.write(self._fd, data, self.offset)
        self.offset += len(data)

    def finish(self) -> None:
        """Give it its name, once all of it is there.

        :raises NoSpaceError: if there is no room.
        """
        with _told(self.path, 'written'):
            os.ftruncate(self._fd, self.offset)
            os.fchmod(self._fd, 0o666 & ~files.umask())
            os.fsync(self._fd)
            os.replace(self.path, self.target)
            # A folder may take files, and yet not let itself be read.
            with contextlib.suppress(PermissionError):
                files.sync(self.target.parent)

    def discard(self) -> None:
        """Say that what is there is of no use."""
        self._keep = False


def _is_ours(status: os.stat_result) -> bool:
    return (
        stat.S_ISREG(status.st_mode)
        and status.st_uid == os.geteuid()
        and status.st_nlink == 1
    )


@contextlib.contextmanager
def _told(path: pathlib.Path, done: str) -> Iterator[None]:
    """Say in plain words what the filesystem refuses.

    :param done: what was to be done, such as ``written``.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise limits.too_large(path.parent) from error
        if error.errno in limits.FULL:
            raise errors.NoSpaceError(
                f'{path.parent}: {error.strerror}',
                hint='make room, or choose another directory',
            ) from error
        raise errors.AmiError(
            f'{path} cannot be {done}: {error.strerror}'
        ) from error
