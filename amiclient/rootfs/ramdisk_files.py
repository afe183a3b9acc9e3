#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.


"""What is in an initramfs, read as the kernel unpacks it.

It is a sequence of cpio archives, each plain or compressed, with zeros in
between (Documentation/driver-api/early-userspace/buffer-format.rst in the
kernel's tree). Only names are read, and no more than any initramfs has.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import os
import pathlib
from typing import BinaryIO

from amiclient import confinement
from amiclient import exceptions
from amiclient import process
from amiclient.source import compression
from amiclient.source import opening

_MAGIC = (b'070701', b'070702')
_HEADER = 110
_TRAILER = b'TRAILER!!!'

#: Longest name that the kernel takes (PATH_MAX).
_NAME = 4096

#: Bytes that are read, decompressed, and names that are kept: more than any
#: initramfs has, and an end for zip bombs.
_MOST = 2 << 30
_NAMES = 500_000

_CHUNK = 1 << 18


def names(path: pathlib.Path) -> frozenset[str]:
    """List the files of an initramfs, without a leading slash.

    What is damaged ends the list; it is the business of
    :func:`amiclient.rootfs.ramdisks.identify_ramdisk` to refuse it.

    :raises SourceError: if it cannot be read, or has too many names.
    :raises ProgramError: if the program that decompresses it is missing.
    """
    found: set[str] = set()
    with opening.opened(path, wanted='an initramfs') as file:
        offset: int | None = 0
        while offset is not None:
            file.seek(offset)
            head = file.read(compression.MAGIC_SIZE)
            if head.startswith(_MAGIC):
                file.seek(offset)
                archive = _Archive(_blocks(file.read), offset)
                found |= archive.names(once=True)
                offset = _next(file, archive.position)
                continue
            kind = compression.tell(head)
            if kind is not None and kind != 'lzop':
                with _decompressed(file, kind, offset, str(path)) as pieces:
                    found |= _Archive(pieces, 0).names(once=False)
            # What follows the main archive is nothing that is needed here.
            break
    return frozenset(found)


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
    if compression.can_stream(kind):
        yield compression.chunks(file, _MOST, name=name, offset=offset)
        return
    # A program does not see what is buffered.
    os.lseek(file.fileno(), offset, os.SEEK_SET)
    with process.reading(
        compression.COMMANDS[kind],
        file,
        access=confinement.Access(),
    ) as pipe:
        yield _until_damaged(pipe.read)


def _until_damaged(read: Callable[[int], bytes]) -> Iterator[bytes]:
    try:
        yield from _blocks(read)
    except process.ProgramFailed:
        # It stumbled over what follows the archive.
        return


def _next(file: BinaryIO, offset: int) -> int | None:
    """Find the archive that follows, behind zeros."""
    file.seek(offset)
    while data := file.read(_CHUNK):
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
        self.position = position
        self._start = position

    def names(self, *, once: bool) -> set[str]:
        """List the files in them.

        :param once: whether to end with the first archive.
        """
        found: set[str] = set()
        while True:
            header = self._take(_HEADER)
            if len(header) < _HEADER or not header.startswith(_MAGIC):
                return found
            try:
                size, length = int(header[54:62], 16), int(header[94:102], 16)
            except ValueError:
                return found
            if not 0 < length <= _NAME or size < 0:
                return found
            name = self._take(length).rstrip(b'\0')
            self._align()
            if name == _TRAILER:
                if once:
                    return found
                self._skip_zeros()
                continue
            self._skip(size)
            self._align()
            text = name.decode('utf-8', 'surrogateescape')
            found.add(text.removeprefix('./').lstrip('/'))
            if len(found) > _NAMES or self.position - self._start > _MOST:
                raise exceptions.SourceError(
                    'an initramfs with too many files to be one'
                )

    def _fill(self) -> bool:
        piece = next(self._pieces, b'')
        self._data += piece
        return bool(piece)

    def _take(self, count: int) -> bytes:
        while len(self._data) < count and self._fill():
            pass
        data, self._data = self._data[:count], self._data[count:]
        self.position += len(data)
        return data

    def _skip(self, count: int) -> None:
        while count > len(self._data):
            count -= len(self._data)
            self.position += len(self._data)
            self._data = b''
            if not self._fill():
                return
        self.position += count
        self._data = self._data[count:]

    def _align(self) -> None:
        self._skip(-(self.position - self._start) % 4)

    def _skip_zeros(self) -> None:
        while True:
            rest = self._data.lstrip(b'\0')
            self.position += len(self._data) - len(rest)
            self._data = rest
            if rest or not self._fill():
                break
        self._start = self.position
