# SPDX-License-Identifier: Apache-2.0

"""Writing data of which much is zeros: blocks of them become holes."""

from collections.abc import Iterator
import itertools
import os

#: Bytes in one piece, as read and as written.
CHUNK = 1024 * 1024

#: What filesystems allocate, and so the least that makes a hole.
BLOCK = 4096

_ZEROS = bytes(CHUNK)
_ZERO_BLOCK = bytes(BLOCK)


def write(fd: int, data: bytes, offset: int) -> None:
    """Write data to a file, but for whole blocks of zeros.

    There must be a hole, or nothing, where it is written. What ends in zeros
    does not make the file longer: see ftruncate(2).

    :param offset: where in the file, in bytes.
    :raises OSError: if it cannot be written.
    """
    view = memoryview(data)
    for start, end in runs(data, -offset % BLOCK):
        done = start
        while done < end:
            done += os.pwrite(fd, view[done:end], offset + done)


def append(fd: int, data: bytes, size: int) -> None:
    """Write data at the end of a file, but for whole blocks of zeros.

    The file has its length before its data: XFS keeps room beyond the end of
    one that grows by a write, for good if the next one leaves a hole there.

    :param size: of the file so far, in bytes.
    :raises OSError: if it cannot be written.
    """
    os.truncate(fd, size + len(data))
    write(fd, data, size)


def runs(data: bytes, first: int) -> Iterator[tuple[int, int]]:
    """Find what has to be written.

    :param first: where in the data the first block begins.
    :returns: pairs of first byte and the one after the last.
    """
    if data == _ZEROS:
        return
    edges = sorted({0, *range(first, len(data), BLOCK), len(data)})
    begin: int | None = None
    for start, end in itertools.pairwise(edges):
        # The same as a comparison of slices, but nothing is copied.
        if data.startswith(_ZERO_BLOCK[: end - start], start):
            if begin is not None:
                yield begin, start
            begin = None
        elif begin is None:
            begin = start
    if begin is not None:
        yield begin, len(data)
