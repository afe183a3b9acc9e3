# SPDX-License-Identifier: Apache-2.0

"""Copies of filesystems: of the blocks in use only, or of everything.

What is not in use is not copied but left as a hole, and so is every inode
that is not in use: whatever was deleted from the source cannot be in the copy.
"""

from collections.abc import Iterable, Iterator
import contextlib
import ctypes
import errno
import fcntl
import os
import stat
import threading

from amiclient import errors
from amiclient.ext import layout
from amiclient import files
from amiclient import progress

#: Bytes that are read and written at a time.
_CHUNK = 1 << 20

#: Bytes of zeros that are worth a hole.
_GRAIN = 1 << 16

_ZEROS = bytes(_CHUNK)

#: linux/fs.h: _IOW(0x94, 9, int); shares a file's blocks (btrfs, XFS).
_FICLONE = 0x40049409

#: linux/fs.h: _IO(0x12, 127); writes zeros to a range of a block device.
_BLKZEROOUT = 0x127F

#: linux/falloc.h: FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE.
_PUNCH_HOLE = 0x03

_NO_CLONE = (errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY)
_NO_PUNCH = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENODEV, errno.ENOSYS)


def clone(source: int, target: int) -> bool:
    """Make a file share all blocks of another, copied on write.

    :param source: file descriptor, open for reading.
    :param target: file descriptor of an empty file, open for writing.
    :returns: whether the filesystem that holds them can do that.
    """
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in _NO_CLONE:
            return False
        raise
    return True


def copy_runs(
    source: int,
    target: int,
    runs: Iterable[layout.Run],
    *,
    task: progress.Task,
    cancel: threading.Event | None = None,
) -> None:
    """Copy ranges of bytes to the same places of another file.

    Holes of the source are not read; zeros are not written, so the target
    must read as zeros where nothing was written yet.

    :param source: file descriptor, open for reading.
    :param target: file descriptor, open for writing.
    :param runs: ranges of byte offsets, ascending.
    :raises SourceError: where the source cannot be read, naming the offset.
    :raises CancelledError: if ``cancel`` was set meanwhile.
    """
    for first, end in runs:
        position = first
        for start, stop in data_in(source, first, end):
            task.advance(start - position)
            for offset in range(start, stop, _CHUNK):
                if cancel is not None and cancel.is_set():
                    raise errors.CancelledError('the copy was given up')
                data = _read(source, min(_CHUNK, stop - offset), offset)
                _write(target, data, offset)
                task.advance(len(data))
            position = stop
        task.advance(end - position)


def data_in(descriptor: int, first: int, end: int) -> Iterator[layout.Run]:
    """Tell where within a range of bytes there is data, not a hole.

    lseek(2), SEEK_DATA. Where that is not supported (block devices, some
    network filesystems), all of it is data.

    :raises SourceError: if the file ends within the range.
    """
    position = first
    while position < end:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
            stop = os.lseek(descriptor, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                # A hole up to the end of the file, wherever that is.
                size = os.fstat(descriptor).st_size
                if size < end:
                    raise cut_short(size) from error
                return
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            start, stop = position, end
        if start >= end:
            return
        yield start, min(stop, end)
        position = stop


def clear(descriptor: int, runs: Iterable[layout.Run]) -> None:
    """Make ranges of bytes zeros, and holes where that is possible.

    :param descriptor: a file or block device, open for writing.
    :param runs: ranges of byte offsets.
    """
    device = stat.S_ISBLK(os.fstat(descriptor).st_mode)
    for first, end in runs:
        if not (
            _zero_device(descriptor, first, end)
            if device
            else _punch(descriptor, first, end)
        ):
            for offset in range(first, end, _CHUNK):
                _pwrite(descriptor, _ZEROS[: end - offset], offset)


def bytes_of(runs: Iterable[layout.Run], block_size: int) -> list[layout.Run]:
    """Turn runs of blocks into ranges of bytes."""
    return [(first * block_size, end * block_size) for first, end in runs]


@contextlib.contextmanager
def opened(path: os.PathLike[str], flags: int) -> Iterator[int]:
    """Open a file for the time of a ``with`` block; a new one is private."""
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _read(descriptor: int, count: int, offset: int) -> bytes:
    data = files.read_at(descriptor, count, offset)
    if len(data) < count:
        # It was shorter than its filesystem from the start, or was cut while
        # we read.
        raise cut_short(offset + len(data))
    return data


def cut_short(size: int) -> errors.SourceError:
    """Say that a file ends before its filesystem does.

    :param size: bytes that it has.
    """
    return errors.SourceError(
        f'the source ends at byte {size}, within its filesystem',
        hint='it was cut short; get it again from where it came',
    )


def _write(target: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    for start in range(0, len(view), _GRAIN):
        piece = view[start : start + _GRAIN]
        if piece != _ZEROS[: len(piece)]:
            _pwrite(target, piece, offset + start)


def _pwrite(target: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(target, view, offset)
        view, offset = view[written:], offset + written


def _punch(descriptor: int, first: int, end: int) -> bool:
    # Python's os module has no fallocate(2) with a mode.
    libc = ctypes.CDLL(None, use_errno=True)
    offset, length = ctypes.c_int64(first), ctypes.c_int64(end - first)
    if libc.fallocate64(descriptor, _PUNCH_HOLE, offset, length) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NO_PUNCH:
        return False
    raise OSError(number, os.strerror(number))


def _zero_device(descriptor: int, first: int, end: int) -> bool:
    span = first.to_bytes(8, 'little') + (end - first).to_bytes(8, 'little')
    try:
        fcntl.ioctl(descriptor, _BLKZEROOUT, span)
    except OSError as error:
        if error.errno in (*_NO_PUNCH, errno.ENOTTY):
            return False
        raise
    return True
