# SPDX-License-Identifier: Apache-2.0

"""What the Linux kernel takes for an initramfs, told as it does.

An initramfs is a sequence of cpio archives, each plain or compressed, with
zeros between them; plain ones in front of a compressed one hold what is
needed early, such as microcode. The kernel takes the "newc" and "crc" formats
of cpio only. Sources, in its tree: Documentation/driver-api/early-userspace/
buffer-format.rst, Documentation/arch/x86/microcode.rst, init/initramfs.c.
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
from amiclient import errors
from amiclient import process
from amiclient.source import frames
from amiclient.source import opening
from amiclient.source import probe
from amiclient.source import streams
from amiclient import units

_MAGIC = (b'070701', b'070702')
_OLD = (b'070707', b'\xc7\x71', b'\x71\xc7')
_HEADER = 110
_TRAILER = b'TRAILER!!!'

#: Longest name that the kernel takes (PATH_MAX).
_NAME = 4096

#: What the early archives hold: microcode for the kernel, ACPI tables, and
#: an empty file by which dracut marks them.
_EARLY = (b'kernel/', b'kernel\0', b'early_cpio\0')

#: How much of the compressed part is looked at.
HEAD = 128 * 1024

#: Entries, archives and zeros that are walked over until it is enough: an
#: initramfs has some thousand entries, and never this much padding.
_ENTRIES = 500_000
_ARCHIVES = 32
_PADDING = 64 * 1024 * 1024


@dataclasses.dataclass(frozen=True)
class RamdiskFormat:
    """What an initramfs looks like from outside.

    :param compression: ``none``, or as compression.tell() has it, of the
        last archive, which is the main one.
    :param early: whether there is an archive with microcode or other early
        files in front of it.
    """

    compression: str
    early: bool


def is_plain(head: bytes) -> bool:
    """Tell whether a file begins with an archive that is not compressed."""
    return head.startswith(_MAGIC)


class BrokenError(errors.SourceError):
    """It is meant to be an initramfs, but the kernel would not take it."""


def recognise(file: BinaryIO, *, name: str) -> RamdiskFormat | None:
    """Tell if a file is an initramfs.

    :param name: what to call the file in errors.
    :returns: None if it is something else.
    :raises BrokenError: if it is one, but cut short or in an old format.
    :raises ProgramError: if the program that decompresses it is missing.
    """
    offset = entries = 0
    early = main = False
    for _ in range(_ARCHIVES):
        file.seek(offset)
        magic = file.read(probe.MAGIC_SIZE)
        if magic.startswith(_OLD):
            raise _old(name)
        # The kernel knows no skippable frames.
        kind = None if frames.is_skippable(magic) else probe.compression(magic)
        if kind and _is_compressed_cpio(file, offset, name):
            if options := _strange(magic):
                raise BrokenError(
                    f'compressed with {kind} in a way that Linux does not '
                    'take for an initramfs',
                    subject=name,
                    hint=f'compress it with {options}',
                )
            return RamdiskFormat(kind, early)
        if not magic.startswith(_MAGIC):
            if not offset:
                return None
            if not main:
                raise _followed(file, offset, name)
            # What follows a whole archive need not be one.
            break
        end, is_early, entries = _walk(file, offset, name, entries)
        early, main = early or is_early, main or not is_early
        offset = _skip_zeros(file, end)
        if offset < 0:
            break
    return RamdiskFormat('none', early)


def _strange(magic: bytes) -> str | None:
    """Tell how it should be compressed, if Linux does not know that way.

    Sources, in its tree: lib/decompress.c has only the old magic number of
    lz4; Documentation/staging/xz.rst, "Notes on compression options".
    """
    if magic.startswith(frames.LZ4):
        return 'lz4 -l'
    # Of checksums, it has none or CRC32.
    if magic.startswith(b'\xfd7zXZ\0') and magic[7] not in (0, 1):
        return 'xz --check=crc32'
    return None


def _old(name: str) -> BrokenError:
    return BrokenError(
        'a cpio archive in an old format, which Linux does not take '
        'for an initramfs',
        subject=name,
        hint='make it with cpio --format=newc',
    )


def _followed(file: BinaryIO, offset: int, name: str) -> BrokenError:
    file.seek(offset)
    phrase = probe.classify(file.read(HEAD)).phrase
    return BrokenError(
        f'early files that are followed by {phrase}, not by an initramfs',
        subject=name,
    )


def _is_compressed_cpio(file: BinaryIO, offset: int, name: str) -> bool:
    data = streams.head(file, HEAD, name=name, offset=offset)
    if data.startswith(_OLD):
        raise _old(name)
    return data.startswith(_MAGIC)


def _walk(
    file: BinaryIO, offset: int, name: str, entries: int
) -> tuple[int, bool, int]:
    """Go through a plain archive, from header to header.

    :param entries: how many there were before.
    :returns: where it ends, whether it holds early files only, and how many
        entries there were by then.
    """
    size = file.seek(0, 2)
    start = offset
    early: bool | None = None
    for number in range(entries, _ENTRIES):
        file.seek(offset)
        header = file.read(_HEADER)
        if len(header) < _HEADER:
            break
        lengths = _lengths(header)
        if lengths is None:
            raise BrokenError('a damaged cpio archive', subject=name)
        length, name_length = lengths
        entry = file.read(name_length)
        offset += _aligned(_HEADER + name_length)
        if entry.rstrip(b'\0') == _TRAILER:
            return offset, bool(early), number
        offset += _aligned(length)
        if offset > _aligned(size):
            break
        if entry not in (b'.\0', b''):
            early = early is not False and entry.startswith(_EARLY)
    else:
        raise BrokenError('a cpio archive with too many entries', subject=name)
    raise BrokenError(
        f'a cpio archive that was cut short (the one that begins at '
        f'byte {start})',
        subject=name,
        hint='get a whole copy of it',
    )


def _lengths(header: bytes) -> tuple[int, int] | None:
    if len(header) < _HEADER or not header.startswith(_MAGIC):
        return None
    try:
        length, name_length = int(header[54:62], 16), int(header[94:102], 16)
    except ValueError:
        return None
    sound = 0 < name_length <= _NAME and length >= 0
    return (length, name_length) if sound else None


def _aligned(offset: int) -> int:
    return (offset + 3) & ~3


def _skip_zeros(file: BinaryIO, offset: int) -> int:
    """Find what follows an archive.

    :returns: where it begins; -1 if nothing follows.
    """
    file.seek(offset)
    for _ in range(_PADDING // HEAD):
        data = file.read(HEAD)
        if not data:
            break
        rest = data.lstrip(b'\0')
        if rest:
            return offset + len(data) - len(rest)
        offset += len(data)
    return -1


#: Bytes that are read, decompressed, names that are kept, and seconds that it
#: takes: more than for any initramfs, and an end for zip bombs.
_MOST = 1 << 30
_NAMES = 500_000
_SECONDS = 10.0

_CHUNK = 1 << 18

#: Bytes of a list of what is built into a kernel.
_BUILT_IN = 1 << 20


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files of an initramfs, without a leading slash.

    :param end: where the list ends if that is not all, such as ``1.0 GiB``.
    :param built_in: what it has of the kernel's lists of what is built in.
    :param whole: whether each archive that was begun has its end.
    """

    names: frozenset[str]
    end: str | None = None
    built_in: frozenset[str] = frozenset()
    whole: bool = True

    @property
    def complete(self) -> bool:
        """Whether all of its files are known."""
        return self.whole and self.end is None


class _EnoughError(Exception):
    """It is more than an initramfs has."""


def files_in(path: pathlib.Path) -> Listing:
    """List the files of an initramfs, up to a bound.

    What is damaged ends the list.

    :raises SourceError: if it cannot be read.
    :raises ProgramError: if the program that decompresses it is missing.
    """
    found: set[str] = set()
    lists: list[bytes] = []
    end, whole = None, True
    try:
        whole = _list(path, found, lists)
    except _EnoughError as error:
        end = str(error)
    text = b' '.join(lists).decode('utf-8', 'replace')
    built_in = frozenset(map(module_name, text.split()))
    return Listing(frozenset(found), end, built_in, whole)


def _list(path: pathlib.Path, found: set[str], lists: list[bytes]) -> bool:
    bound = _ReadLimit(found)
    whole = True
    with opening.opened(path, wanted='an initramfs') as file:
        offset: int | None = 0
        while offset is not None:
            file.seek(offset)
            head = file.read(probe.MAGIC_SIZE)
            if head.startswith(_MAGIC):
                file.seek(offset)
                archive = _CpioReader(
                    bound.kept(_blocks(file.read)), offset, lists
                )
                whole &= archive.list(found, once=True)
                offset = _next_archive(file, archive.position, bound)
                continue
            kind = probe.compression(head)
            if kind is None or kind == 'lzop':
                break
            ends: list[int] = []
            with _decompressed(file, kind, offset, str(path), ends) as pieces:
                kept = bound.kept(pieces)
                whole &= _CpioReader(kept, 0, lists).list(found, once=False)
                # Else it is not known where the next one begins.
                for _ in kept:
                    pass
            offset = _next_archive(file, ends[0], bound) if ends else None
    return whole


class _ReadLimit:
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


def modules_in(found: frozenset[str]) -> frozenset[str]:
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
    file: BinaryIO, kind: str, offset: int, name: str, ends: list[int]
) -> Iterator[Iterator[bytes]]:
    """Decompress an archive.

    :param ends: where to add where it ends, if something follows.
    """
    if streams.can_stream(kind):
        # More than that, so that the end is no end by mistake.
        most = _MOST + _CHUNK
        yield streams.chunks(
            file, most, name=name, offset=offset, ended=ends.append
        )
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
    # It is where this began, if no frame is whole.
    if (end := frames.end(file, offset)) > offset:
        ends.append(end)


def _until_damaged(read: Callable[[int], bytes]) -> Iterator[bytes]:
    try:
        yield from _blocks(read)
    except process.ProgramFailed:
        # It stumbled over what follows the archive.
        return


def _next_archive(
    file: BinaryIO, offset: int, bound: _ReadLimit
) -> int | None:
    file.seek(offset)
    for data in bound.kept(_blocks(file.read)):
        rest = data.lstrip(b'\0')
        if rest:
            return file.tell() - len(rest)
    return None


class _CpioReader:
    """cpio archives in the newc format, read once from begin to end.

    :param pieces: their bytes.
    :param position: of the first one.
    :param lists: where the content of the kernel's lists of what is built in
        is added.
    """

    def __init__(
        self, pieces: Iterator[bytes], position: int, lists: list[bytes]
    ) -> None:
        self._pieces = pieces
        self._lists = lists
        self._data = b''
        #: How much of it is done with.
        self._done = 0
        self.position = position
        self._start = position

    def list(self, found: set[str], *, once: bool) -> bool:
        """List the files in them.

        :param found: where they are added.
        :param once: whether to end with the first archive.
        :returns: whether the last one that was begun has its end.
        """
        whole = True
        while True:
            lengths = _lengths(self._take(_HEADER))
            if lengths is None:
                return whole
            size, length = lengths
            name = self._take(length).rstrip(b'\0')
            self._align()
            whole = name == _TRAILER
            if whole:
                if once:
                    return whole
                self._skip_zeros()
                continue
            text = name.decode('utf-8', 'surrogateescape')
            found.add(text.removeprefix('./').lstrip('/'))
            if text.endswith('/modules.builtin') and size <= _BUILT_IN:
                self._lists.append(self._take(size))
            else:
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
