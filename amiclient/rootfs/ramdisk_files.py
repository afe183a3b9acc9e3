# SPDX-License-Identifier: Apache-2.0

"""What is in an initramfs, read as the kernel unpacks it.

It is a sequence of cpio archives, each plain or compressed, with zeros in
between (Documentation/driver-api/early-userspace/buffer-format.rst in the
kernel's tree). Only names are read, and no more than any initramfs has.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import dataclasses
import os
import pathlib
import time
from typing import BinaryIO

from amiclient import confinement
from amiclient import process
from amiclient.source import opening
from amiclient.source import streams
from amiclient import units

_MAGIC = (b'070701', b'070702')
_HEADER = 110
_TRAILER = b'TRAILER!!!'

#: Longest name that the kernel takes (PATH_MAX).
_NAME = 4096

#: Bytes that are read, decompressed, names that are kept, and seconds that it
#: takes: more than for any initramfs, and an end for zip bombs.
_MOST = 1 << 30
_NAMES = 500_000
_SECONDS = 10.0

_CHUNK = 1 << 18


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files of an initramfs, without a leading slash.

    :param end: where the list ends if that is not all, such as ``1.0 GiB``.
    """

    names: frozenset[str]
    end: str | None = None


class _EnoughError(Exception):
    """It is more than an initramfs has."""


def names(path: pathlib.Path) -> Listing:
    """List the files of an initramfs, up to a bound.

    What is damaged ends the list; it is the business of
    :func:`amiclient.rootfs.ramdisks.identify_ramdisk` to refuse it.

    :raises SourceError: if it cannot be read.
    :raises ProgramError: if the program that decompresses it is missing.
    """
    found: set[str] = set()
    try:
        _list(path, found)
    except _EnoughError as error:
        return Listing(frozenset(found), str(error))
    return Listing(frozenset(found))


def _list(path: pathlib.Path, found: set[str]) -> None:
    bound = _Bound(found)
    with opening.opened(path, wanted='an initramfs') as file:
        offset: int | None = 0
        while offset is not None:
            file.seek(offset)
            head = file.read(streams.MAGIC_SIZE)
            if head.startswith(_MAGIC):
                file.seek(offset)
                archive = _Archive(bound.kept(_blocks(file.read)), offset)
                archive.list(found, once=True)
                offset = _next(file, archive.position, bound)
                continue
            kind = streams.tell(head)
            if kind is not None and kind != 'lzop':
                with _decompressed(file, kind, offset, str(path)) as pieces:
                    archive = _Archive(bound.kept(pieces), 0)
                    archive.list(found, once=False)
            # What follows the main archive is nothing that is needed here.
            break


class _Bound:
    """What is read at most, of all archives together."""

    def __init__(self, found: set[str]) -> None:
        self._found = found
        self._read = 0
        self._until = time.monotonic() + _SECONDS

    def kept(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Pass on what there is, up to the bound.

        :raises _EnoughError: if there is more.
        """
        for piece in pieces:
            self._read += len(piece)
            if self._read > _MOST:
                raise _EnoughError(units.format_size(_MOST))
            if len(self._found) > _NAMES:
                raise _EnoughError(f'{_NAMES} files')
            if time.monotonic() > self._until:
                raise _EnoughError(f'{_SECONDS:.0f} seconds')
            yield piece


def modules(found: frozenset[str]) -> frozenset[str]:
    """Pick the names of kernel modules, as modprobe(8) knows them.

    :param found: paths of files.
    """
    return frozenset(
        module_name(path) for path in found if '.ko' in path.rpartition('/')[2]
    )


def module_name(path: str) -> str:
    """Make the name of a module from that of its file."""
    name = path.rpartition('/')[2]
    return name.partition('.ko')[0].replace('-', '_')


def _blocks(read: Callable[[int], bytes]) -> Iterator[bytes]:
    while data := read(_CHUNK):
        yield data


@contextlib.contextmanager
def _decompressed(
    file: BinaryIO, kind: str, offset: int, name: str
) -> Iterator[Iterator[bytes]]:
    if streams.can_stream(kind):
        # More than that, so that the end is no end by mistake.
        most = _MOST + _CHUNK
        yield streams.chunks(file, most, name=name, offset=offset)
        return
    # A program does not see what is buffered.
    os.lseek(file.fileno(), offset, os.SEEK_SET)
    with process.reading(
        streams.COMMANDS[kind],
        file,
        access=confinement.Access(),
        memory=streams.MEMORY,
    ) as pipe:
        yield _until_damaged(pipe.read)


def _until_damaged(read: Callable[[int], bytes]) -> Iterator[bytes]:
    try:
        yield from _blocks(read)
    except process.ProgramFailed:
        # It stumbled over what follows the archive.
        return


def _next(file: BinaryIO, offset: int, bound: _Bound) -> int | None:
    """Find the archive that follows, behind zeros."""
    file.seek(offset)
    for data in bound.kept(_blocks(file.read)):
        rest = data.lstrip(b'\0')
        if rest:
            return file.tell() - len(rest)
    return None


class _Archive:
    """cpio archives in the newc format, read once from begin to end.

    :param pieces: their bytes.
    :param position: of the first one.
    """

    def __init__(self, pieces: Iterator[bytes], position: int) -> None:
        self._pieces = pieces
        self._data = b''
        #: How much of it is done with.
        self._done = 0
        self.position = position
        self._start = position

    def list(self, found: set[str], *, once: bool) -> None:
        """List the files in them.

        :param found: where they are added.
        :param once: whether to end with the first archive.
        """
        while True:
            header = self._take(_HEADER)
            if len(header) < _HEADER or not header.startswith(_MAGIC):
                return
            try:
                size, length = int(header[54:62], 16), int(header[94:102], 16)
            except ValueError:
                return
            if not 0 < length <= _NAME or size < 0:
                return
            name = self._take(length).rstrip(b'\0')
            self._align()
            if name == _TRAILER:
                if once:
                    return
                self._skip_zeros()
                continue
            text = name.decode('utf-8', 'surrogateescape')
            found.add(text.removeprefix('./').lstrip('/'))
            self._skip(size)
            self._align()

    def _fill(self) -> bool:
        piece = next(self._pieces, b'')
        self._data = self._data[self._done :] + piece
        self._done = 0
        return bool(piece)

    def _take(self, count: int) -> bytes:
        while len(self._data) - self._done < count and self._fill():
            pass
        data = self._data[self._done : self._done + count]
        self._done += len(data)
        self.position += len(data)
        return data

    def _skip(self, count: int) -> None:
        while count > (left := len(self._data) - self._done):
            count -= left
            self.position += left
            self._done = len(self._data)
            if not self._fill():
                return
        self.position += count
        self._done += count

    def _align(self) -> None:
        self._skip(-(self.position - self._start) % 4)

    def _skip_zeros(self) -> None:
        while True:
            rest = self._data[self._done :].lstrip(b'\0')
            self._skip(len(self._data) - self._done - len(rest))
            if rest or not self._fill():
                break
        self._start = self.position
