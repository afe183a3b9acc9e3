# SPDX-License-Identifier: Apache-2.0

"""Compressed data: what they begin with, or all of them as a stream.

One class decompresses each format: Python's own, or for zstd and lz4 those of
the packages backports.zstd and lz4 where these are there; else a program does,
which is confined. Heads may be of what is cut short; of a stream everything is
read, and damage anywhere is an error.
"""

import bz2
from collections.abc import Callable, Iterator
import contextlib
import importlib
import lzma
import os
import pathlib
import time
from typing import Any, BinaryIO, Protocol
import zlib

from amiclient import confinement
from amiclient import errors
from amiclient import locks
from amiclient import process
from amiclient.source import frames
from amiclient.source import opening
from amiclient.source import probe
from amiclient import units

_MIB = 1 << 20

#: What xz may need; its largest preset needs 65 MiB.
_XZ_MEMORY = 256 * _MIB

#: The longest window of zstd that is taken: that of ``--long=30``. As much is
#: kept in memory.
_WINDOW_LOG = 30
_WINDOW = 1 << _WINDOW_LOG

#: What a program may take: a window, and itself.
MEMORY = _WINDOW + 512 * _MIB

#: How the programs are called, from stdin to stdout.
_QUIETLY = ('--decompress', '--stdout', '--quiet')
COMMANDS = {
    'zstd': ('zstd', *_QUIETLY, f'--memory={_WINDOW // _MIB}MiB'),
    'lz4': ('lz4', *_QUIETLY),
}

#: Bytes that are read at a time, of a head and of a stream.
_HEAD_INPUT = 64 << 10
_INPUT = _MIB

#: Bytes of a piece of a head, at most.
_OUTPUT = _MIB

#: Input beyond the wanted output after which a head is given up: a block of
#: bzip2 is 900 kB, and gives nothing before its end; and the members of a file
#: that are read on end then (gzip, xz and bzip2 concatenate).
_SLACK = 4 * _MIB
_MEMBERS = 100_000

#: How many times its size data can unpack to at most, and a little more: 258
#: bytes of two bits, 273 of less than one, a block of 900 kB whose bytes stand
#: for 51 each in 32 bytes, a block of 128 KiB in 4, 255 in each byte.
RATIOS = {
    'gzip': 1040,
    'xz': 20_000,
    'lzma': 20_000,
    'bzip2': 1_500_000,
    'zstd': 40_000,
    'lz4': 256,
}

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

#: Bytes that a stream remembers, so that it can be read again from there.
_REMEMBERED = 32 * _MIB


class _DamageError(Exception):
    """Data that cannot be decompressed."""


class _FollowedError(Exception):
    """What is compressed has come to its end, but the file has not.

    Its argument is where that goes on.
    """


_DAMAGE = (_DamageError, EOFError, zlib.error, lzma.LZMAError)


class Decoder(Protocol):
    """What decompresses one member, or frame."""

    @property
    def eof(self) -> bool:
        """Whether it has come to its end."""

    @property
    def needs_input(self) -> bool:
        """Whether there is no more output without more input."""

    @property
    def unused_data(self) -> bytes | None:
        """What follows the end."""

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """Decompress more data."""


class _Gzip:
    """zlib's decompressor, with the manners of the others."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def needs_input(self) -> bool:
        return not self._inflate.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._inflate.decompress(
            self._inflate.unconsumed_tail + data, max_length
        )


class _Foreign:
    """A decompressor of a package, whose errors are of its own kind."""

    def __init__(self, decoder: Any, error: type[Exception]) -> None:
        self._decoder = decoder
        self._error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        try:
            return bytes(self._decoder.decompress(data, max_length))
        except self._error as error:
            raise _DamageError(str(error)) from error


def _xz() -> Decoder:
    return lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=_XZ_MEMORY)


def _zstd() -> Decoder | None:
    for name in ('compression.zstd', 'backports.zstd'):
        if module := _module(name):
            most = {module.DecompressionParameter.window_log_max: _WINDOW_LOG}
            decoder = module.ZstdDecompressor(options=most)
            return _Foreign(decoder, module.ZstdError)
    return None


def _lz4() -> Decoder | None:
    if module := _module('lz4.frame'):
        return _Foreign(module.LZ4FrameDecompressor(), RuntimeError)
    return None


def _module(name: str) -> Any:
    # Not at the top: they need not be there, and are rarely needed.
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


_DECODERS: dict[str, Callable[[], Decoder | None]] = {
    'gzip': _Gzip,
    'bzip2': bz2.BZ2Decompressor,
    'xz': _xz,
    'lzma': _xz,
    'zstd': _zstd,
    'lz4': _lz4,
}


def _decoder(
    kind: str, file: BinaryIO, name: str, offset: int = 0
) -> Decoder | None:
    """Choose what decompresses a file; None if only a program can.

    :raises SourceError: if nothing can, or it takes more memory than that is
        given.
    """
    if kind not in _DECODERS:
        raise errors.SourceError(
            f'{kind} compression is not supported',
            subject=name,
            hint='compress it with gzip, xz or zstd instead',
        )
    if kind in COMMANDS and (size := frames.window(file, offset)) > _WINDOW:
        raise _window_error(name, f'{units.format_size(size)} of memory')
    file.seek(frames.skipped(file, offset))
    if file.read(4) == frames.LZ4_LEGACY:
        # It has no end, so that it takes all of the file to tell one.
        return None
    file.seek(offset)
    return _DECODERS[kind]()


def can_stream(kind: str) -> bool:
    """Tell if chunks() gets beyond a few blocks of such data."""
    return kind in ('gzip', 'xz', 'lzma', 'bzip2')


def _window_error(name: str, what: str) -> errors.SourceError:
    return errors.SourceError(
        f'it takes {what} to unpack, and zstd may use no more than '
        f'{units.format_size(_WINDOW)}',
        subject=name,
        hint='unpack it with zstd -d --long=31, and give the result',
    )


class _Members:
    """One member, or frame, after the other, as a reader.

    LZMAFile has no limit of memory, and BZ2File passes over what follows.

    :param file: at their beginning.
    :param patient: whether to read on as long as nothing comes out; else that
        is the end.
    """

    def __init__(
        self,
        file: BinaryIO,
        kind: str,
        decoder: Decoder,
        *,
        patient: bool = True,
    ) -> None:
        self._file = file
        self._kind = kind
        self._decoder = decoder
        self._patient = patient
        self._members = 1
        #: Bytes that were read, and that came out.
        self._read = self._done = 0

    def read(self, count: int, /) -> bytes:
        while self._patient or (
            self._read <= self._done + _SLACK and self._members <= _MEMBERS
        ):
            rest = b''
            if self._decoder.eof:
                rest = self._next(self._decoder.unused_data or b'')
                if not rest:
                    break
            elif self._decoder.needs_input:
                rest = self._more()
                if not rest:
                    raise EOFError('it ends too early')
            try:
                data = self._decoder.decompress(rest, count)
            except OSError as error:
                # That is how bz2 says that data make no sense.
                raise _DamageError(str(error)) from error
            if data:
                self._done += len(data)
                return data
        return b''

    def _more(self) -> bytes:
        data = self._file.read(_INPUT if self._patient else _HEAD_INPUT)
        self._read += len(data)
        return data

    def _next(self, rest: bytes) -> bytes:
        """Find the member that follows, with zeros in between."""
        rest = rest.lstrip(b'\0')
        while len(rest) < probe.MAGIC_SIZE and (more := self._more()):
            rest = rest + more if rest else more.lstrip(b'\0')
            if not self._patient and not rest:
                break
        if not rest:
            return rest
        found = probe.compression(rest)
        if found != self._kind and not (
            frames.is_skippable(rest) and self._kind in COMMANDS
        ):
            raise _FollowedError(self._file.tell() - len(rest))
        decoder = _DECODERS[self._kind]()
        if decoder is None or rest.startswith(frames.LZ4_LEGACY):
            raise _FollowedError(self._file.tell() - len(rest))
        self._decoder = decoder
        self._members += 1
        return rest


def head(file: BinaryIO, limit: int, *, name: str, offset: int = 0) -> bytes:
    """Decompress what compressed data begin with.

    :param file: a seekable file.
    :param limit: bytes to return at most. Fewer may come: at the end of the
        data, and with zstd and lz4 at the end of a block.
    :param name: what to call the file in errors.
    :param offset: where in the file they begin, in bytes.
    :raises SourceError: if they are not compressed in a known way, or are
        damaged from the beginning.
    :raises ProgramError: if the program for it is missing.
    """
    return b''.join(chunks(file, limit, name=name, offset=offset))


def chunks(
    file: BinaryIO,
    limit: int,
    *,
    name: str,
    offset: int = 0,
    ended: Callable[[int], None] = lambda _: None,
) -> Iterator[bytes]:
    """Decompress what compressed data begin with, piece by piece.

    Other parameters and exceptions are those of :func:`head`; no piece is
    longer than 1 MiB, except those that a program makes, which come as one.

    :param ended: is told where something else follows, in bytes from the
        beginning of the file; not if a program decompresses them.
    """
    kind = probe.compression_in(file, offset)
    if kind is None:
        raise errors.SourceError('not compressed', subject=name)
    decoder = _decoder(kind, file, name, offset)
    if decoder is None:
        data = frames.prefix(file, limit, offset)
        yield _by_program(kind, data, name)[:limit]
        return
    reader = _Members(file, kind, decoder, patient=False)
    done = 0
    while done < limit:
        try:
            data = reader.read(min(_OUTPUT, limit - done))
        except _FollowedError as error:
            ended(error.args[0])
            return
        except EOFError:
            return
        except _DAMAGE as error:
            if done:
                return
            raise errors.SourceError(
                f'damaged {kind} data: {error}', subject=name
            ) from error
        if not data:
            return
        done += len(data)
        yield data


def _by_program(kind: str, data: bytes, name: str) -> bytes:
    try:
        process.find(kind)
    except errors.ProgramError as error:
        raise errors.ProgramError(
            f'{kind} is needed to read it',
            subject=name,
            hint=error.hint,
        ) from error
    # It complains about the missing end, after what it could unpack.
    output = process.run(
        COMMANDS[kind],
        access=confinement.Access(),
        ok=range(256),
        input=data,
        memory=MEMORY,
    ).stdout
    if not output:
        raise errors.SourceError(f'damaged {kind} data', subject=name)
    return output


class Readable(Protocol):
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
        reader: Readable,
        name: str,
        raw: BinaryIO,
        kind: str | None = None,
    ) -> None:
        self._reader = reader
        self._raw = raw
        self._again = b''
        self._remembered: list[bytes] | None = None
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
        else:
            data = self._new(count)
        if self._remembered is not None:
            self._remembered.append(data)
            if sum(map(len, self._remembered)) > _REMEMBERED:
                self._remembered = None
        return data

    def _new(self, count: int) -> bytes:
        try:
            data = self._reader.read(count)
        except _FollowedError as error:
            raise self._followed() from error
        except _DAMAGE as error:
            if _NO_MEMORY in str(error):
                raise _window_error(self.name, 'more memory') from error
            raise self._damaged(str(error)) from error
        except process.ProgramFailed as error:
            self._judge(error)
            data = b''
        self._ends = 0 if data else self._ends + 1
        if self._ends > _PATIENCE:
            raise self._damaged('it ends too early')
        if self.kind is not None:
            self._watch(data)
        return data

    def remember(self) -> None:
        """Remember what is read from here on, as long as it is not much."""
        self._remembered = []

    def rewind(self) -> bool:
        """Go back to where remember() was called.

        :returns: false if too much was read since.
        """
        if self._remembered is None:
            return False
        self._again = b''.join(self._remembered) + self._again
        self._remembered = None
        self._ends = 0
        return True

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
                f'{units.format_size(self.packed)} unpack to '
                f'{units.format_size(self._zeros)} of zeros and more: it '
                'seems to be made to do harm',
                subject=self.name,
                hint='if you trust it, unpack it yourself, and give what is '
                'in it',
            )

    def peek(self, count: int) -> bytes:
        """Look at the next bytes, as many as there are up to a number."""
        while len(self._again) < count and (
            more := self._new(count - len(self._again))
        ):
            self._again += more
        return self._again[:count]

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
            raise _window_error(self.name, 'more memory') from error
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
            hint='download or copy it again, or cut off what follows',
        )

    def _damaged(self, why: str) -> errors.SourceError:
        return errors.SourceError(
            f'damaged or cut short: {why}',
            subject=self.name,
            hint='download or copy it again',
        )


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
        before = locks.state(file.fileno())
        kind = probe.compression_in(file)
        with contextlib.ExitStack() as stack:
            yield Stream(_reader(file, kind, name, stack), name, file, kind)
        locks.refuse_changed(path, before, locks.state(file.fileno()))


def _reader(
    file: BinaryIO, kind: str | None, name: str, stack: contextlib.ExitStack
) -> Readable:
    file.seek(0)
    if kind is None:
        return file
    decoder = _decoder(kind, file, name)
    if decoder is not None:
        return _Members(file, kind, decoder)
    # A program does not see what is buffered. Nothing else may be read from
    # the file then: its buffer knows nothing of this.
    os.lseek(file.fileno(), 0, os.SEEK_SET)
    return stack.enter_context(
        process.reading(
            COMMANDS[kind],
            file,
            access=confinement.Access(),
            memory=MEMORY,
        )
    )
