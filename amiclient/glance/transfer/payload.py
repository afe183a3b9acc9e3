# SPDX-License-Identifier: Apache-2.0

"""The bytes of a payload, in chunks.

Holes are not read: they are found with ``SEEK_DATA`` and ``SEEK_HOLE``
(lseek(2)), and one block of zeros stands for them all. What is read goes into
a ring of buffers that is used again and again, so that memory does not depend
on the size; or it is not read at all, but mapped, which saves a copy (see
:mod:`amiclient.glance.transfer.mapping`).
"""

from collections.abc import Generator
import errno
import os
import stat

from amiclient import errors
from amiclient import files
from amiclient.glance import model
from amiclient.glance.transfer import mapping

#: Bytes in a chunk. With less, threads that share the work hand over more
#: often, which costs up to twice the processor time; more gains nothing,
#: unless it is mapped.
CHUNK = 1024 * 1024
MAPPED_CHUNK = 2 * CHUNK


def chunks(
    payload: model.Payload, *, buffers: int = 1, mapped: bool = False
) -> Generator[memoryview, None, None]:
    """Read a payload from its first byte to its last.

    :param buffers: how many chunks are to stay valid at a time: each is
        overwritten when that many further ones have been taken.
    :param mapped: whether the file may be mapped. Then who takes a chunk must
        be done with it soon: within 45 seconds after somebody wants to write
        to the file (``/proc/sys/fs/lease-break-time``).
    :raises SourceError: if the file cannot be opened, or is too short.
    :raises BusyError: if it is not what it was when it was looked at.
    :raises TransferError: if it cannot be read to the end, or was changed
        meanwhile.
    """
    try:
        fd = os.open(payload.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise errors.SourceError(
            f'{payload.path} cannot be opened: {error.strerror}'
        ) from error
    try:
        before = files.state(fd)
        payload.refuse_changed(before)
        if _size(fd) < payload.size:
            raise errors.SourceError(
                f'{payload.path} has {_size(fd)} bytes, '
                f'{payload.size} were expected'
            )
        window = mapping.Window.open(fd, keep=buffers) if mapped else None
        yield from _chunks(fd, payload, buffers, window)
        if files.state(fd) != before:
            raise _changed(payload)
    finally:
        os.close(fd)


def _chunks(
    fd: int,
    payload: model.Payload,
    buffers: int,
    window: mapping.Window | None,
) -> Generator[memoryview, None, None]:
    ring = [memoryview(b'')] * buffers
    zeros = memoryview(b'')
    turn = offset = 0
    # The next data and the end of it; before it lies a hole.
    data = hole = 0
    while offset < payload.size:
        step = CHUNK if window is None else MAPPED_CHUNK
        length = min(step, payload.size - offset)
        if offset >= hole:
            data, hole = _next_data(fd, offset, payload)
        if offset + length <= data:
            if len(zeros) < length:
                zeros = memoryview(bytes(length))
            chunk = zeros[:length]
        elif (found := _mapped(window, payload, offset, length)) is not None:
            chunk = found
        else:
            slot = turn % buffers
            turn += 1
            if len(ring[slot]) < length:
                ring[slot] = memoryview(bytearray(length))
            chunk = ring[slot][:length]
            _fill(fd, chunk, offset, payload)
            if offset < payload.blank:
                blank = min(length, payload.blank - offset)
                chunk[:blank] = bytes(blank)
        yield chunk
        offset += length


def _mapped(
    window: mapping.Window | None,
    payload: model.Payload,
    offset: int,
    length: int,
) -> memoryview | None:
    if window is None or offset < payload.blank:
        return None
    return window.view(offset, length)


def _next_data(
    fd: int, offset: int, payload: model.Payload
) -> tuple[int, int]:
    """Find where data begins, at or after an offset, and where it ends."""
    try:
        data = os.lseek(fd, offset, os.SEEK_DATA)
        return data, os.lseek(fd, data, os.SEEK_HOLE)
    except OSError as error:
        if error.errno == errno.ENXIO:
            # No data from here to the end, wherever the end is by now.
            if _size(fd) < payload.size:
                raise _truncated(payload, _size(fd)) from error
            return payload.size, payload.size
        if error.errno in {errno.EINVAL, errno.EOPNOTSUPP}:
            # Block devices know no holes.
            return offset, payload.size
        raise _unreadable(payload, offset, error) from error


def _fill(
    fd: int, chunk: memoryview, offset: int, payload: model.Payload
) -> None:
    done = 0
    while done < len(chunk):
        try:
            count = os.preadv(fd, [chunk[done:]], offset + done)
        except OSError as error:
            where = files.unreadable_at(fd, len(chunk) - done, offset + done)
            raise _unreadable(payload, where, error) from error
        if not count:
            raise _truncated(payload, offset + done)
        done += count


def _size(fd: int) -> int:
    status = os.fstat(fd)
    if stat.S_ISBLK(status.st_mode):
        # st_size is 0; reading goes by pread(2) and minds no file offset.
        return os.lseek(fd, 0, os.SEEK_END)
    return status.st_size


def _unreadable(
    payload: model.Payload, offset: int, error: OSError
) -> errors.TransferError:
    # No OSError may reach urllib3, which would take it for the network's.
    return errors.TransferError(
        f'{payload.path} cannot be read at byte {offset}: {error.strerror}'
    )


def _changed(payload: model.Payload) -> errors.TransferError:
    return errors.TransferError(
        f'{payload.path} was changed while it was read',
        hint='let nothing else write to it',
    )


def _truncated(payload: model.Payload, size: int) -> errors.TransferError:
    return errors.TransferError(
        f'{payload.path} was truncated to {size} bytes while it was read',
        hint='let nothing else write to it',
    )
