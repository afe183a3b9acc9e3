# SPDX-License-Identifier: Apache-2.0

"""What can be read at any place: a disk, be it a file or a program's.

Whoever takes a filesystem out of a disk does not care how the disk is stored.
"""

from collections.abc import Iterable, Iterator, Sequence
import io
import os
import pathlib
from typing import Any, BinaryIO, Protocol

from amiclient import progress
from amiclient import sparse


class Medium(Protocol):
    """A disk that is read only."""

    @property
    def name(self) -> str:
        """What to call it in errors."""

    @property
    def size(self) -> int:
        """Bytes of the disk."""

    def read(self, offset: int, count: int) -> bytes:
        """Read bytes, fewer only at the end of the disk.

        :raises SourceError: if they cannot be read.
        """

    def stream(
        self, runs: Iterable[sparse.Run]
    ) -> Iterator[tuple[int, bytes]]:
        """Read ranges of bytes, in any order and in pieces.

        :returns: offsets and what is there. What does not come is zeros.
        :raises SourceError: if they cannot be read, or the disk ends before.
        """


def copy_all(
    medium: Medium, target: pathlib.Path, *, task: progress.Task
) -> None:
    """Write all of a disk to a new file, with holes for zeros.

    :raises SourceError: if it cannot be read.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    with sparse.opened(target, flags) as descriptor:
        os.truncate(descriptor, medium.size)
        copy_runs(medium, 0, descriptor, [(0, medium.size)], task=task)


def copy_runs(
    medium: Medium,
    start: int,
    target: int,
    runs: Sequence[sparse.Run],
    *,
    task: progress.Task,
) -> None:
    """Write ranges of what is in a disk to a file, with holes for zeros.

    :param start: bytes from the beginning of the disk to that.
    :param target: a descriptor of the file.
    :param runs: ranges of bytes, from ``start`` and in the file.
    :raises SourceError: if they cannot be read.
    """
    done = 0
    for offset, data in medium.stream(
        (start + first, start + end) for first, end in runs
    ):
        sparse.write(target, data, offset - start)
        task.advance(len(data))
        done += len(data)
    task.advance(sparse.count(runs) - done)


class RawMedium:
    """A disk that lies in a file, or is a block device.

    :param file: open for reading.
    :param name: what to call it in errors.
    :param start: bytes from the beginning of the file to that of the disk.
    :param size: bytes of the disk; None for all up to the end of the file.
    """

    def __init__(
        self,
        file: BinaryIO,
        name: str,
        start: int = 0,
        size: int | None = None,
    ) -> None:
        self.descriptor = file.fileno()
        self.name = name
        self._start = start
        end = os.lseek(self.descriptor, 0, os.SEEK_END) - start
        self.size = end if size is None else min(size, end)

    def read(self, offset: int, count: int) -> bytes:
        """Read bytes, fewer only at the end of the disk."""
        count = max(0, min(count, self.size - offset))
        return sparse.read_at(self.descriptor, count, self._start + offset)

    def stream(
        self, runs: Iterable[sparse.Run]
    ) -> Iterator[tuple[int, bytes]]:
        """Read ranges of bytes, but for the holes of the file."""
        base = self._start
        for first, end in runs:
            if end > self.size:
                raise sparse.cut_short(self.size)
            for start, stop in sparse.data_in(
                self.descriptor, base + first, base + end
            ):
                for place in range(start, stop, sparse.CHUNK):
                    count = min(sparse.CHUNK, stop - place)
                    data = sparse.read_at(self.descriptor, count, place)
                    if len(data) < count:
                        raise sparse.cut_short(place - base + len(data))
                    yield place - base, data


def as_file(medium: Medium) -> BinaryIO:
    """Read a disk as the files that they are in are read."""
    return io.BufferedReader(_MediumFile(medium))


class _MediumFile(io.RawIOBase):
    def __init__(self, medium: Medium) -> None:
        super().__init__()
        self._medium = medium
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_CUR: self._position, os.SEEK_END: self._medium.size}
        self._position = max(0, base.get(whence, 0) + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self._medium.read(self._position, len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
