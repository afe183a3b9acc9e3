# SPDX-License-Identifier: Apache-2.0

"""Compressed files as a stream of what is in them, from end to end.

:mod:`amiclient.source.streams` looks at heads only; here everything is
read, and damage anywhere is an error.
"""

import bz2
from collections.abc import Iterator
import contextlib
import gzip
import lzma
import os
import pathlib
import time
from typing import BinaryIO, Protocol
import zlib

from amiclient import confinement
from amiclient import errors
from amiclient import files
from amiclient import process
from amiclient.source import frames
from amiclient.source import opening
from amiclient.source import streams
from amiclient import units

#: What xz may need; its largest preset needs 65 MiB.
_XZ_MEMORY = 256 << 20

_INPUT = 1 << 20

_DAMAGE = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)

#: How gzip says that another member would have to follow.
_NOT_GZIP = 'Not a gzipped file'

#: What is in all that zstd and lz4 say of data that they cannot unpack; but
#: not in what they say of data that is none of theirs, except for three bytes
#: of it; and of a window that is too long.
_ERROR = 'rror'
_NO_MAGIC = 'Unrecognized header'
_NO_MEMORY = 'too much memory'

#: How often a reader may ask for more after the end. tarfile asks for ever
#: where an archive ends in the middle of a map of holes.
_PATIENCE = 3

#: Zeros on end that nobody has a filesystem for: so many bytes, so many times
#: what the compressed file has itself, and seconds that they take. gzip makes
#: a thousandth of zeros; the others go as far as a millionth.
_ZEROS = 4 << 30
_ZEROS_FOR_EACH = 1000
_ZEROS_SECONDS = 10.0


class Reader(Protocol):
    """What can be read from the beginning to the end."""

    def read(self, count: int, /) -> bytes:
        """Read up to so many bytes; none at the end."""


class Stream:
    """A file's content, decompressed.

    :param name: what to call it in errors.
    :param raw: the file itself, for how far it has been read.
    :param kind: how it is compressed; None if it is not.
    """

    def __init__(
        self,
        reader: Reader,
        name: str,
        raw: BinaryIO,
        kind: str | None = None,
    ) -> None:
        self._reader = reader
        self._raw = raw
        self._again = b''
        self._ends = 0
        self._zeros = 0
        self._since = 0.0
        self.name = name
        self.kind = kind
        #: Bytes of the file itself.
        self.packed = os.fstat(raw.fileno()).st_size

    def read(self, count: int = _INPUT) -> bytes:
        """Read up to so many bytes; none at the end.

        :raises SourceError: if it is damaged, cut short, does not end in
            spite of being at its end, or is made to unpack for ever.
        """
        if self._again:
            data, self._again = self._again[:count], self._again[count:]
            return data
        try:
            data = self._reader.read(count)
        except _FollowedError as error:
            raise self._followed() from error
        except _DAMAGE as error:
            if str(error).startswith(_NOT_GZIP):
                # It was at its beginning.
                raise self._followed() from error
            raise self._damaged(str(error)) from error
        except process.ProgramFailed as error:
            self._judge(error)
            data = b''
        except OSError as error:
            if error.errno is not None:
                raise
            # That is how bz2 says that data make no sense.
            raise self._damaged(str(error)) from error
        self._ends = 0 if data else self._ends + 1
        if self._ends > _PATIENCE:
            raise self._damaged('it ends too early')
        if self.kind is not None:
            self._watch(data)
        return data

    def _watch(self, data: bytes) -> None:
        """Refuse zeros without end: they cost nothing but time."""
        if data != bytes(len(data)):
            self._zeros = 0
            return
        if not self._zeros:
            self._since = time.monotonic()
        self._zeros += len(data)
        if (
            self._zeros > max(_ZEROS, self.packed * _ZEROS_FOR_EACH)
            and time.monotonic() - self._since > _ZEROS_SECONDS
        ):
            raise errors.SourceError(
                f'{units.format_size(self._zeros)} of zeros on '
                f'end came out of {units.format_size(self.packed)}, and that '
                'is not all: it is taken for one that is meant to do harm',
                subject=self.name,
                hint='if you trust it, unpack it yourself and give what '
                'comes out',
            )

    def peek(self, count: int) -> bytes:
        """Look at the next bytes, as many as there are up to a number."""
        data = b''
        while len(data) < count and (more := self.read(count - len(data))):
            data += more
        self._again = data + self._again
        return data

    def position(self) -> int:
        """Tell how much of the file itself was read, in bytes."""
        # The descriptor's, which a program that reads it has in common.
        return os.lseek(self._raw.fileno(), 0, os.SEEK_CUR)

    def _judge(self, error: process.ProgramFailed) -> None:
        """Tell why a program failed, if it is more than zeros at the end.

        :raises SourceError: if it is.
        """
        words = error.result.tail()
        if _NO_MEMORY in words:
            raise streams.window_error(self.name, 'more memory') from error
        end = frames.end(self._raw)
        damaged = _ERROR in words and _NO_MAGIC not in words
        if damaged or error.result.status < 0 or end >= self.packed:
            raise self._damaged(words) from error
        self._raw.seek(end)
        while data := self._raw.read(_INPUT):
            if data != bytes(len(data)):
                raise self._followed() from error

    def _followed(self) -> errors.SourceError:
        return errors.SourceError(
            f'something that is not {self.kind} follows the '
            f'{self.kind}-compressed data',
            subject=self.name,
            hint='get it again from where it came, or cut off what follows',
        )

    def _damaged(self, why: str) -> errors.SourceError:
        return errors.SourceError(
            f'damaged or cut short: {why}',
            subject=self.name,
            hint='get it again from where it came',
        )


class _FollowedError(Exception):
    """What is compressed has come to its end, but the file has not."""


class _Members:
    """One stream of bzip2, xz or lzma after the other, as a reader.

    LZMAFile has no limit of memory, and BZ2File passes over what follows.
    """

    def __init__(self, file: BinaryIO, kind: str) -> None:
        self._file = file
        self._kind = kind
        self._codec = self._new()

    def _new(self) -> bz2.BZ2Decompressor | lzma.LZMADecompressor:
        if self._kind == 'bzip2':
            return bz2.BZ2Decompressor()
        return lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=_XZ_MEMORY)

    def read(self, count: int, /) -> bytes:
        while True:
            rest = b''
            if self._codec.eof:
                rest = self._next(self._codec.unused_data)
                if not rest:
                    return b''
                self._codec = self._new()
            elif self._codec.needs_input:
                rest = self._file.read(_INPUT)
                if not rest:
                    raise EOFError('it ends too early')
            if data := self._codec.decompress(rest, count):
                return data

    def _next(self, rest: bytes) -> bytes:
        """Find the stream that follows, with zeros in between."""
        rest = rest.lstrip(b'\0')
        while len(rest) < streams.MAGIC_SIZE:
            more = self._file.read(_INPUT)
            if not more:
                break
            rest = rest + more if rest else more.lstrip(b'\0')
        if rest and streams.tell(rest) != self._kind:
            raise _FollowedError
        return rest


@contextlib.contextmanager
def opened(
    path: pathlib.Path, *, wanted: str, name: str | None = None
) -> Iterator[Stream]:
    """Open a file that may be compressed, by whatever.

    :param wanted: what it should be, for the text of errors.
    :param name: what to call it in them, if not by its path.
    :raises SourceError: if it cannot be read, or its compression is not known
        here.
    :raises BusyError: if it was changed meanwhile.
    :raises ProgramError: if the program for it is missing.
    """
    name = name or errors.shown(path)
    with opening.opened(path, wanted=wanted) as file:
        before = files.state(file.fileno())
        kind = streams.kind(file)
        file.seek(0)
        with contextlib.ExitStack() as stack:
            reader: Reader
            if kind is None:
                reader = file
            elif kind == 'gzip':
                reader = stack.enter_context(gzip.GzipFile(fileobj=file))
            elif kind in ('bzip2', 'xz', 'lzma'):
                reader = _Members(file, kind)
            elif kind in ('zstd', 'lz4'):
                streams.check_window(file, name)
                # A program does not see what is buffered. Nothing else may be
                # read from the file then: its buffer knows nothing of this.
                os.lseek(file.fileno(), 0, os.SEEK_SET)
                reader = stack.enter_context(
                    process.reading(
                        streams.COMMANDS[kind],
                        file,
                        access=confinement.Access(),
                        memory=streams.MEMORY,
                    )
                )
            else:
                raise errors.SourceError(
                    f'{kind} compression is not known here',
                    subject=name,
                    hint='compress it with gzip, xz or zstd instead',
                )
            yield Stream(reader, name, file, kind)
        files.refuse_changed(path, before, files.state(file.fileno()))
