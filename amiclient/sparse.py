# SPDX-License-Identifier: Apache-2.0

"""Files with holes: what is written of them, and copied, and what is not.

Blocks of zeros become holes when they are written. Runs are pairs ``(first,
end)`` of numbers of blocks, or of bytes, ``end`` excluded, that are in
ascending order and do not overlap.
"""

from collections.abc import Callable, Iterable, Iterator
import contextlib
import ctypes
import errno
import fcntl
import itertools
import mmap
import os
import pathlib
import stat
import threading

from amiclient import errors
from amiclient.progress import QUIET
from amiclient.progress import Task

#: Bytes in one piece, as read and as written.
CHUNK = 1 << 20

#: What filesystems allocate, and so the least that makes a hole.
BLOCK = 4096

#: Bytes of zeros that are worth a hole in a copy.
_GRAIN = 1 << 16

_ZEROS = bytes(CHUNK)

#: linux/fs.h: _IOW(0x94, 9, int); shares a file's blocks (btrfs, XFS).
_FICLONE = 0x40049409

#: linux/fs.h: _IO(0x12, 127); writes zeros to a range of a block device.
_BLKZEROOUT = 0x127F

#: linux/falloc.h: FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE.
_PUNCH_HOLE = 0x03

_NO_CLONE = (errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY)
_NO_PUNCH = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENODEV, errno.ENOSYS)

Run = tuple[int, int]


def write(fd: int, data: bytes, offset: int, *, grain: int = BLOCK) -> None:
    """Write data to a file, but for whole blocks of zeros.

    There must be a hole, or nothing, where it is written. What ends in zeros
    does not make the file longer: see ftruncate(2).

    :param grain: bytes of zeros that are worth a hole.
    :raises OSError: if it cannot be written.
    """
    view = memoryview(data)
    for start, end in runs(data, -offset % grain, grain):
        write_all(fd, view[start:end], offset + start)


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all data to a file, zeros too."""
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done


def append(fd: int, data: bytes, size: int) -> None:
    """Write data at the end of a file, but for whole blocks of zeros.

    The file has its length before its data: XFS keeps room beyond the end of
    one that grows by a write, for good if the next one leaves a hole there.

    :param size: of the file so far, in bytes.
    :raises OSError: if it cannot be written.
    """
    os.truncate(fd, size + len(data))
    write(fd, data, size)


def runs(data: bytes, first: int, grain: int = BLOCK) -> Iterator[Run]:
    """Find what has to be written.

    :param first: where in the data the first block begins.
    :returns: pairs of first byte and the one after the last.
    """
    if data == _ZEROS:
        return
    edges = sorted({0, *range(first, len(data), grain), len(data)})
    zeros = _ZEROS[:grain]
    begin: int | None = None
    for start, end in itertools.pairwise(edges):
        # The same as a comparison of slices, but nothing is copied.
        if data.startswith(zeros[: end - start], start):
            if begin is not None:
                yield begin, start
            begin = None
        elif begin is None:
            begin = start
    if begin is not None:
        yield begin, len(data)


def merge(runs: Iterable[Run]) -> list[Run]:
    """Sort runs, and join those that overlap or touch."""
    merged: list[Run] = []
    for first, end in sorted(runs):
        if merged and first <= merged[-1][1]:
            if end > merged[-1][1]:
                merged[-1] = (merged[-1][0], end)
        else:
            merged.append((first, end))
    return merged


def complement(runs: Iterable[Run], count: int) -> list[Run]:
    """Find what merged runs leave of ``count`` blocks."""
    left: list[Run] = []
    position = 0
    for first, end in runs:
        if first >= count:
            break
        if first > position:
            left.append((position, first))
        position = max(position, end)
    if position < count:
        left.append((position, count))
    return left


def subtract(runs: Iterable[Run], others: Iterable[Run]) -> list[Run]:
    """Find what is in merged runs, but not in others (merged too)."""
    left: list[Run] = []
    taken = list(others)
    index = 0
    for first, end in runs:
        while index < len(taken) and taken[index][1] <= first:
            index += 1
        position, look = first, index
        while look < len(taken) and taken[look][0] < end:
            if taken[look][0] > position:
                left.append((position, taken[look][0]))
            position = max(position, taken[look][1])
            look += 1
        if position < end:
            left.append((position, end))
    return left


def count(runs: Iterable[Run], below: int | None = None) -> int:
    """Count the blocks in runs, optionally only those below a number."""
    if below is None:
        return sum(end - first for first, end in runs)
    return sum(min(end, below) - first for first, end in runs if first < below)


@contextlib.contextmanager
def opened(path: os.PathLike[str], flags: int) -> Iterator[int]:
    """Open a file for the time of a ``with`` block; a new one is private."""
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def copy(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copy a file with its holes."""
    with (
        opened(source, os.O_RDONLY) as reader,
        opened(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC) as writer,
    ):
        size = os.fstat(reader).st_size
        os.truncate(writer, size)
        if not clone(reader, writer):
            with QUIET.task('') as task:
                copy_runs(reader, writer, [(0, size)], task=task)


def clone(source: int, target: int) -> bool:
    """Make a file share all blocks of another, copied on write.

    :param target: an empty file, open for writing.
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
    runs: Iterable[Run],
    *,
    task: Task,
    cancel: threading.Event | None = None,
) -> None:
    """Copy ranges of bytes to the same places of another file.

    Holes of the source are not read; zeros are not written, so the target
    must read as zeros where nothing was written yet.

    :param runs: ranges of byte offsets, ascending.
    :raises SourceError: where the source cannot be read, naming the offset.
    :raises CancelledError: if ``cancel`` was set meanwhile.
    """
    for first, end in runs:
        position = first
        for start, stop in data_in(source, first, end):
            task.advance(start - position)
            for offset in range(start, stop, CHUNK):
                if cancel is not None and cancel.is_set():
                    raise errors.CancelledError('the copy was cancelled')
                data = _read(source, min(CHUNK, stop - offset), offset)
                write(target, data, offset, grain=_GRAIN)
                task.advance(len(data))
            position = stop
        task.advance(end - position)


def data_in(descriptor: int, first: int, end: int) -> Iterator[Run]:
    """Find where within a range of bytes there is data, not a hole.

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


def clear(descriptor: int, runs: Iterable[Run]) -> None:
    """Make ranges of bytes zeros, and holes where that is possible.

    :param descriptor: a file or block device, open for writing.
    """
    device = stat.S_ISBLK(os.fstat(descriptor).st_mode)
    for first, end in runs:
        if not (
            _zero_device(descriptor, first, end)
            if device
            else _punch(descriptor, first, end)
        ):
            for offset in range(first, end, CHUNK):
                write_all(descriptor, _ZEROS[: end - offset], offset)


def bytes_of(runs: Iterable[Run], block_size: int) -> list[Run]:
    """Turn runs of blocks into ranges of bytes."""
    return [(first * block_size, end * block_size) for first, end in runs]


def pieces(
    read: Callable[[int, int], bytes], size: int, runs: Iterable[Run]
) -> Iterator[tuple[int, bytes]]:
    """Read ranges of bytes, in pieces.

    :param read: reads so many bytes at a place.
    :param size: bytes that there are.
    :raises SourceError: if a range goes beyond them.
    """
    for first, end in runs:
        if end > size:
            raise cut_short(size)
        for place in range(first, end, CHUNK):
            yield place, read(place, min(CHUNK, end - place))


def cut_short(size: int) -> errors.SourceError:
    """Say that a file with so many bytes ends before its filesystem does."""
    return errors.SourceError(
        f'the source ends at byte {size}, within its filesystem',
        hint='it was cut short; download or copy it again',
    )


def _read(descriptor: int, count: int, offset: int) -> bytes:
    data = read_at(descriptor, count, offset)
    if len(data) < count:
        # It was shorter than its filesystem from the start, or was cut while
        # we read.
        raise cut_short(offset + len(data))
    return data


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


def read_at(descriptor: int, count: int, offset: int) -> bytes:
    """Read bytes, fewer only at the end of the file.

    pread(2) may also give fewer because it cannot read the next ones.

    :raises SourceError: if they cannot be read, naming the file and where.
    """
    pieces = []
    while count:
        try:
            piece = os.pread(descriptor, count, offset)
        except OSError as error:
            where = unreadable_at(descriptor, count, offset)
            raise errors.SourceError(
                f'{_path_of(descriptor)} cannot be read at byte {where}: '
                f'{os.strerror(error.errno or 0)}',
                hint='the disk may be failing',
            ) from error
        if not piece:
            break
        pieces.append(piece)
        count, offset = count - len(piece), offset + len(piece)
    return pieces[0] if len(pieces) == 1 else b''.join(pieces)


def unreadable_at(descriptor: int, count: int, offset: int) -> int:
    """Return where the first page is that cannot be read.

    Much is read at a time, and all of it fails then.
    """
    page, place = mmap.PAGESIZE, offset
    while place < offset + count:
        end = min(place - place % page + page, offset + count)
        try:
            os.pread(descriptor, end - place, place)
        except OSError:
            return place
        place = end
    return offset


def _path_of(descriptor: int) -> str:
    try:
        return os.readlink(f'/proc/self/fd/{descriptor}')
    except OSError:
        return 'the source'


def size(path: pathlib.Path) -> int:
    """Return the bytes of a file or block device."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)
