# SPDX-License-Identifier: Apache-2.0

"""Compressed data: which compression it is, and what it begins with.

Only heads are read here: as much input as the wanted output needs, and never
more output than was asked for, whatever the data claim to unpack to. What
follows the head may be damaged, cut short or something else altogether.

gzip, bzip2, xz and lzma are the standard library's (FACTS: already loaded by
the openstack command). zstd and lz4 are left to the programs of that name, or
to Python modules where those are installed. Neither can be told where to
stop, so they are given whole blocks that cannot hold more than is wanted.
"""

import bz2
from collections.abc import Iterator
import importlib
import io
import lzma
import struct
from typing import Any, BinaryIO, Protocol
import zlib

from amiclient import confinement
from amiclient import errors
from amiclient import process
from amiclient.source import frames
from amiclient import units

_KIB = 1024
_MIB = 1024 * _KIB

#: As in the kernel's table in lib/decompress.c, but with longer magics.
_MAGIC = (
    (b'\x1f\x8b\x08', 'gzip'),
    (b'\xfd7zXZ\x00', 'xz'),
    (frames.ZSTD, 'zstd'),
    (frames.LZ4, 'lz4'),
    (frames.LZ4_LEGACY, 'lz4'),
    (b'\x89LZO\x00\r\n\x1a\n', 'lzop'),
)

#: What bzip2's header is followed by: a first block, or the end of the stream.
_BZIP2_BLOCKS = (b'1AY&SY', b'\x17\x72\x45\x38\x50\x90')

#: How many bytes tell() wants to see.
MAGIC_SIZE = 16

#: What xz may need; its largest preset needs 65 MiB.
_XZ_MEMORY = 256 * _MIB

#: The longest window of zstd that is taken: that of ``--long=30``. As much is
#: kept in memory.
_WINDOW = 1024 * _MIB

#: What a program may take: a window, and itself.
MEMORY = _WINDOW + 512 * _MIB

#: How the programs are called, from stdin to stdout.
COMMANDS = {
    'zstd': (
        'zstd',
        '--decompress',
        '--stdout',
        '--quiet',
        f'--memory={_WINDOW // _MIB}MiB',
    ),
    'lz4': ('lz4', '--decompress', '--stdout', '--quiet'),
}

_INPUT = 64 * _KIB
_OUTPUT = _MIB

#: Input beyond the wanted output after which a head is given up: a block of
#: bzip2 is 900 kB, and gives nothing before its end.
_SLACK = 4 * _MIB

#: Members of a file that are read on end (gzip, xz and bzip2 concatenate).
_MEMBERS = 100_000

_LZ4_LEGACY_BLOCK = 8 * _MIB


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


class _Codec(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gzip:
    """zlib's decompressor, with the manners of the other two."""

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


def tell(head: bytes) -> str | None:
    """Tell how data are compressed.

    :param head: their first MAGIC_SIZE bytes, or all there are.
    :returns: ``gzip``, ``xz``, ``lzma``, ``bzip2``, ``zstd``, ``lz4``,
        ``lzop`` or None. What begins with a skippable frame is taken for
        zstd if that is longer than the head; :func:`kind` looks behind it.
    """
    if frames.is_skippable(head):
        file = io.BytesIO(head)
        size = int.from_bytes(head[4:8], 'little')
        if 8 + size + 4 <= len(head):
            return frames.kind(file)
        return 'zstd'
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head[:3] == b'BZh' and head[4:10] in _BZIP2_BLOCKS:
        return 'bzip2'
    return 'lzma' if _is_lzma_alone(head) else None


def kind(file: BinaryIO, offset: int = 0) -> str | None:
    """Tell how a file is compressed, as tell() does.

    :param offset: where in the file that begins, in bytes.
    """
    file.seek(offset)
    head = file.read(MAGIC_SIZE)
    if frames.is_skippable(head):
        return frames.kind(file, offset)
    return tell(head)


def check_window(file: BinaryIO, name: str, offset: int = 0) -> None:
    """Refuse what zstd cannot unpack with the memory that it is given.

    :param name: what to call the file in errors.
    :raises SourceError: if it takes more.
    """
    size = frames.window(file, offset)
    if size > _WINDOW:
        raise window_error(name, f'{units.format_size(size)} of memory')


def window_error(name: str, what: str) -> errors.SourceError:
    """Say that zstd needs more memory than it is given."""
    return errors.SourceError(
        f'it takes {what} to unpack, and zstd is given no more than '
        f'{units.format_size(_WINDOW)}',
        subject=name,
        hint='unpack it with zstd -d --long=31, and give what comes out',
    )


def _is_lzma_alone(head: bytes) -> bool:
    """Tell the format without a magic number, as liblzma and file(1) do.

    Source: lzma-file-format.txt of XZ Utils, sections 1.1 and 1.2.
    """
    if len(head) < 13 or head[0] != 0x5D:
        return False
    dictionary, size = struct.unpack_from('<IQ', head, 1)
    if not dictionary or (size >= 2**38 and size != 2**64 - 1):
        return False
    # A power of two, or the sum of two neighbouring ones.
    odd = dictionary >> (dictionary & -dictionary).bit_length() - 1
    return dictionary >= 4 * _KIB and odd in (1, 3)


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
    file: BinaryIO, limit: int, *, name: str, offset: int = 0
) -> Iterator[bytes]:
    """Decompress what compressed data begin with, piece by piece.

    Parameters and exceptions are those of :func:`head`; no piece is longer
    than 1 MiB, except those of zstd and lz4, which come as one.
    """
    found = kind(file, offset)
    file.seek(offset)
    if found in ('gzip', 'xz', 'lzma', 'bzip2'):
        yield from _standard(file, found, limit, name)
    elif found in ('zstd', 'lz4'):
        check_window(file, name, offset)
        data = frames.prefix(file, limit, offset)
        yield _foreign(found, data, name)[:limit]
    elif found:
        raise errors.SourceError(
            f'{found} compression is not known here',
            subject=name,
            hint='compress it with gzip, xz or zstd instead',
        )
    else:
        raise errors.SourceError('not compressed', subject=name)


def can_stream(kind: str) -> bool:
    """Tell if chunks() gets beyond a few blocks of such data."""
    return kind in ('gzip', 'xz', 'lzma', 'bzip2')


def _codec(kind: str) -> _Codec:
    if kind == 'gzip':
        return _Gzip()
    if kind == 'bzip2':
        return bz2.BZ2Decompressor()
    return lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=_XZ_MEMORY)


def _standard(
    file: BinaryIO, kind: str, limit: int, name: str
) -> Iterator[bytes]:
    codec, members = _codec(kind), 1
    read = done = 0
    while done < limit and read <= done + _SLACK:
        data = b''
        if codec.eof:
            data = codec.unused_data
            if len(data) < MAGIC_SIZE:
                data += file.read(_INPUT)
            members += 1
            if tell(data) != kind or members > _MEMBERS:
                return
            codec = _codec(kind)
        elif codec.needs_input:
            data = file.read(_INPUT)
            read += len(data)
        try:
            output = codec.decompress(data, min(_OUTPUT, limit - done))
        except (zlib.error, lzma.LZMAError, OSError) as error:
            if done:
                return
            raise errors.SourceError(
                f'damaged {kind} data: {error}', subject=name
            ) from error
        done += len(output)
        if output:
            yield output
        elif not data and not codec.eof:
            return


def _foreign(kind: str, data: bytes, name: str) -> bytes:
    output = _by_program(kind, data)
    if output is None:
        output = _by_module(kind, data)
    if output is None:
        raise errors.ProgramError(
            f'{kind} is needed to look into it',
            subject=name,
            hint=f'install the package {kind}',
        )
    if not output:
        raise errors.SourceError(f'damaged {kind} data', subject=name)
    return output


def _by_program(kind: str, data: bytes) -> bytes | None:
    try:
        process.find(kind)
    except errors.ProgramError:
        return None
    # It complains about the missing end, after what it could unpack.
    return process.run(
        COMMANDS[kind],
        access=confinement.Access(),
        ok=range(256),
        input=data,
        memory=MEMORY,
    ).stdout


def _by_module(kind: str, data: bytes) -> bytes | None:
    for module, unpack in _MODULES[kind]:
        try:
            # Not at the top: they are rarely there, and rarely needed.
            found = importlib.import_module(module)
        except ImportError:
            continue
        return unpack(found, data)
    return None


def _std_zstd(module: Any, data: bytes) -> bytes:
    try:
        return bytes(module.ZstdDecompressor().decompress(data))
    except module.ZstdError:
        return b''


def _zstandard(module: Any, data: bytes) -> bytes:
    try:
        return bytes(
            module.ZstdDecompressor().decompressobj().decompress(data)
        )
    except module.ZstdError:
        return b''


def _lz4_frame(module: Any, data: bytes) -> bytes:
    try:
        if not data.startswith(frames.LZ4_LEGACY):
            codec = module.LZ4FrameDecompressor()
            return bytes(codec.decompress(data))
        block = importlib.import_module('lz4.block')
        length = int.from_bytes(data[4:8], 'little')
        return bytes(
            block.decompress(
                data[8 : 8 + length], uncompressed_size=_LZ4_LEGACY_BLOCK
            )
        )
    except (RuntimeError, ValueError):
        # LZ4BlockError is a RuntimeError, as is what the frame module raises.
        return b''


_MODULES = {
    'zstd': (('compression.zstd', _std_zstd), ('zstandard', _zstandard)),
    'lz4': (('lz4.frame', _lz4_frame),),
}
