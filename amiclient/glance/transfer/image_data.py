# SPDX-License-Identifier: Apache-2.0

"""The data of an image: read from a file in chunks, hashed, compared.

Holes are not read: they are found with ``SEEK_DATA`` and ``SEEK_HOLE``
(lseek(2)), and one block of zeros stands for them all. What is read goes into
one buffer that is used again and again, so that memory does not depend on the
size.
"""

from collections.abc import Generator, Iterator
import contextlib
import dataclasses
import errno
import hashlib
import os
import pathlib
import stat
import threading
from typing import Protocol

from amiclient import errors
from amiclient.glance import model
from amiclient.glance import retry
from amiclient import locks
from amiclient.progress import Progress
from amiclient.progress import Task
from amiclient import sparse

#: Bytes in a chunk. With less, threads that share the work hand over more
#: often, which costs up to twice the processor time; more gains nothing.
CHUNK = 1024 * 1024


class Arriving(Protocol):
    """What is sent as it comes, from somewhere else."""

    @property
    def size(self) -> int:
        """How many bytes there are."""

    def pieces(self) -> Iterator[bytes]:
        """Have them come, from the first to the last.

        :raises CloudError: if they do not.
        """


#: What can be sent.
Data = model.Payload | Arriving


@dataclasses.dataclass(frozen=True)
class Digest:
    """The hash of an image's data.

    :param algorithm: a name that hashlib knows.
    :param value: in hex.
    """

    algorithm: str
    value: str


def expected(record: model.ImageRecord) -> Digest | None:
    """Return the hash that Glance has of an image's data.

    :returns: its hash if we can compute it, else its checksum; None if the
        operator has turned off both.
    """
    algorithm, value = record.hash_algo or '', record.hash_value
    # Those of SHAKE have no length of their own.
    known = algorithm in hashlib.algorithms_available and not (
        algorithm.startswith('shake')
    )
    if known and value:
        return Digest(algorithm, value.lower())
    return Digest('md5', record.checksum.lower()) if record.checksum else None


def digest(
    payload: Data,
    description: str,
    progress: Progress,
    *,
    algorithm: str = 'sha512',
    cancel: threading.Event | None = None,
) -> str:
    """Compute the hash of what would be sent.

    :param description: what to call that, such as ``Hashing kernel``.
    :param algorithm: a name that hashlib knows.
    :raises SourceError: if the file cannot be opened, or is too short.
    :raises TransferError: if it cannot be read to the end.
    :raises CancelledError: if ``cancel`` was set meanwhile.
    """
    if algorithm == 'sha512' and (known := known_digest(payload)):
        return known
    with progress.task(description, payload.size) as task:
        return _digest(payload, algorithm, task, retry.Clock(cancel=cancel))


def known_digest(payload: Data) -> str | None:
    """Tell the SHA-512 of what is sent, if it was computed before."""
    return payload.sha512 if isinstance(payload, model.Payload) else None


def holds(
    path: pathlib.Path,
    record: model.ImageRecord,
    *,
    task: Task,
    clock: retry.Clock,
) -> bool:
    """Compare a file with an image's data, by their hash.

    :returns: false also where the cloud gives no hash.
    """
    wanted = expected(record)
    if wanted is None or not path.is_file() or path.is_symlink():
        return False
    payload = model.Payload.of(path)
    return (
        payload.size == record.size
        and _digest(payload, wanted.algorithm, task, clock) == wanted.value
    )


def _digest(
    payload: Data, algorithm: str, task: Task, clock: retry.Clock
) -> str:
    hasher = hashlib.new(algorithm, usedforsecurity=False)
    with contextlib.closing(chunks(payload)) as pieces:
        for chunk in pieces:
            clock.check()
            hasher.update(chunk)
            task.advance(len(chunk))
    return hasher.hexdigest()


def chunks(
    payload: Data, *, buffers: int = 1
) -> Generator[memoryview, None, None]:
    """Read a payload from its first byte to its last.

    :param buffers: how many chunks are to stay valid at a time: each is
        overwritten when that many further ones have been taken.
    :raises SourceError: if the file cannot be opened, or is too short.
    :raises BusyError: if it is not what it was when it was looked at.
    :raises TransferError: if it cannot be read to the end, or was changed
        meanwhile.
    """
    if not isinstance(payload, model.Payload):
        for piece in payload.pieces():
            yield memoryview(piece)
        return
    try:
        fd = os.open(payload.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise errors.SourceError(
            f'{payload.path} cannot be opened: {error.strerror}'
        ) from error
    try:
        before = locks.state(fd)
        payload.refuse_changed(before)
        if _size(fd) < payload.size:
            raise errors.SourceError(
                f'{payload.path} has {_size(fd)} bytes, '
                f'{payload.size} were expected'
            )
        yield from _chunks(fd, payload, buffers)
        if locks.state(fd) != before:
            raise _written(payload, 'changed')
    finally:
        os.close(fd)


def _chunks(
    fd: int, payload: model.Payload, buffers: int
) -> Generator[memoryview, None, None]:
    step = min(CHUNK, payload.size)
    buffer, zeros = memoryview(bytearray(buffers * step)), memoryview(b'')
    turn = offset = 0
    # The next data and the end of it; before it lies a hole.
    data = hole = 0
    while offset < payload.size:
        length = min(step, payload.size - offset)
        if offset >= hole:
            data, hole = _next_data(fd, offset, payload)
        if offset + length <= data:
            zeros = zeros or memoryview(bytes(step))
            chunk = zeros[:length]
        else:
            chunk = buffer[turn * step : turn * step + length]
            turn = (turn + 1) % buffers
            _fill(fd, chunk, offset, payload)
            blank = max(0, min(length, payload.blank - offset))
            chunk[:blank] = bytes(blank)
        yield chunk
        offset += length


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
            where = sparse.unreadable_at(fd, len(chunk) - done, offset + done)
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


# No OSError may reach urllib3, which would take it for the network's.


def _unreadable(
    payload: model.Payload, offset: int, error: OSError
) -> errors.TransferError:
    return errors.TransferError(
        f'{payload.path} cannot be read at byte {offset}: {error.strerror}'
    )


def _truncated(payload: model.Payload, size: int) -> errors.TransferError:
    return _written(payload, f'truncated to {size} bytes')


def _written(payload: model.Payload, what: str) -> errors.TransferError:
    return errors.TransferError(
        f'{payload.path} was {what} while it was read',
        hint='let nothing else write to it',
    )
