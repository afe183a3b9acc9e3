# SPDX-License-Identifier: Apache-2.0

"""Files that one process at a time may change, and many may read.

What a command reads, or is going to replace, it holds by a lock (flock(2))
from its first look to its end: shared while it reads, else for itself alone.
The lock ends with the process, however that ends. Where a filesystem has no
locks, there is none. Programs that do not know of it are looked for by
:mod:`amiclient.ext.busy`.
"""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import stat
import time

from amiclient import errors
from amiclient import scratch

#: What :func:`state` tells of a file.
State = tuple[int, ...]

#: How often a file that is being replaced is tried again.
_TRIES = 5

#: How often, and after how many seconds each, a block device is tried again:
#: udev locks one, too, for as long as it takes to look at it
#: (systemd.io/BLOCK_DEVICE_LOCKING).
_DEVICE_TRIES = 20
_PAUSE = 0.1

#: What this process holds, which is not in its own way.
_HELD: set[tuple[int, int]] = set()


def reading(
    path: pathlib.Path,
) -> contextlib.AbstractContextManager[int | None]:
    """Let nobody change a file, or put another in its place, meanwhile.

    What is no file or block device, or cannot be read, is left alone: whoever
    opens it says what is wrong with it.

    :returns: a descriptor of the file; None if it is not locked here.
    :raises BusyError: if another process is changing it.
    """
    return _held(path, shared=True)


def changing(
    path: pathlib.Path,
) -> contextlib.AbstractContextManager[int | None]:
    """Let nobody read or change a file meanwhile: it is written to, or goes.

    As for :func:`reading`, what cannot be locked is left alone.

    :raises BusyError: if another process is reading or changing it.
    """
    return _held(path, shared=False)


@contextlib.contextmanager
def _held(path: pathlib.Path, *, shared: bool) -> Iterator[int | None]:
    descriptor = _locked(path, shared)
    if descriptor is None:
        yield None
        return
    key = _key(os.fstat(descriptor))
    _HELD.add(key)
    try:
        yield descriptor
    finally:
        _HELD.discard(key)
        os.close(descriptor)


def _locked(path: pathlib.Path, shared: bool) -> int | None:
    for _ in range(_TRIES):
        descriptor = _opened(path)
        if descriptor is None:
            return None
        try:
            _lock(descriptor, path, shared)
            # The process that had it may have put another in its place.
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise errors.BusyError(
        f'{path} keeps being replaced by other processes',
        hint='end them, or wait for their end',
    )


def _opened(path: pathlib.Path) -> int | None:
    try:
        status = path.stat()
        kind = stat.S_IFMT(status.st_mode)
        if kind not in (stat.S_IFREG, stat.S_IFBLK) or _key(status) in _HELD:
            return None
        # Should it have become a FIFO since: O_NONBLOCK does not wait.
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None


def _lock(descriptor: int, path: pathlib.Path, shared: bool) -> None:
    device = stat.S_ISBLK(os.fstat(descriptor).st_mode)
    for _ in range(_DEVICE_TRIES if device else 1):
        if scratch.locked(descriptor, shared=shared) is not False:
            return
        if device:
            time.sleep(_PAUSE)
    read = not shared and scratch.locked(descriptor, shared=True)
    raise errors.BusyError(
        f'{path} is being {"read" if read else "changed"} by another process',
        hint='wait for it, or end it',
    )


def _key(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def state(file: int | pathlib.Path) -> State:
    """Return what is different after a file was changed, or replaced.

    Of a block device, only which one it is: nothing tells of its writers.

    :param file: a path, or a descriptor.
    """
    status = os.stat(file)
    if stat.S_ISREG(status.st_mode):
        return (
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            # Whoever puts the time back that a file was modified (rsync, tar)
            # changes this one.
            status.st_ctime_ns,
        )
    return status.st_dev, status.st_ino, status.st_rdev


def refuse_changed(
    path: pathlib.Path, before: State, now: State | None = None
) -> None:
    """Make sure that a file is the one that was looked at, and as it was.

    :param before: its :func:`state` when it was looked at.
    :param now: that of what was opened; None for that of what has its name.
    :raises BusyError: if it is not.
    """
    if now is None:
        with contextlib.suppress(OSError):
            now = state(path)
    if now == before:
        return
    what = 'was changed'
    if now is None or now[:2] != before[:2]:
        what = 'is not the same file any more: it was replaced or removed'
    raise errors.BusyError(
        f'{path} {what} since it was checked',
        hint='make sure that nothing writes to it, and try again',
    )
