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

"""Compressed data: which compression it is, and what it begins with.

Only heads are read here: as much input as the wanted output needs, and never
more output than was asked for, whatever the data claim to unpack to. What
follows the head may be damaged, cut short or something else altogether.

gzip, bzip2, xz and lzma are the standard library's (FACTS: already loaded by
the openstack command). zstd and lz4 are left to the programs of that name, or
to Python modules where those are installed. Neither can be told where to
stop, so they are given whole blocks that cannot hold more than is wanted:
RFC 8878 and the LZ4 frame format description say how to find their ends.
"""

import bz2
from collections.abc import Iterator
import importlib
import lzma
import struct
from typing import Any, BinaryIO, Protocol
import zlib

from amiclient import confinement
from amiclient import exceptions
from amiclient import process

_KIB = 1024
_MIB = 1024 * _KIB

#: As in the kernel's table in lib/decompress.c, but with longer magics.
_MAGIC = (
    (b'\x1f\x8b\x08', 'gzip'),
    (b'\xfd7zXZ\x00', 'xz'),
    (b'\x28\xb5\x2f\xfd', 'zstd'),
    (b'\x04\x22\x4d\x18', 'lz4'),
    (b'\x02\x21\x4c\x18', 'lz4'),
    (b'\x89LZO\x00\r\n\x1a\n', 'lzop'),
)

#: What bzip2's header is followed by: a first block, or the end of the stream.
_BZIP2_BLOCKS = (b'1AY&SY', b'\x17\x72\x45\x38\x50\x90')

_LZ4_LEGACY = b'\x02\x21\x4c\x18'

#: How many bytes tell() wants to see.
MAGIC_SIZE = 16

#: What xz may need; its largest preset needs 65 MiB.
_XZ_MEMORY = 256 * _MIB

#: What a program may take: zstd keeps 128 MiB at most unless told otherwise.
_MEMORY = 1024 * _MIB

_INPUT = 64 * _KIB
_OUTPUT = _MIB

#: Input beyond the wanted output after which a head is given up: a block of
#: bzip2 is 900 kB, and gives nothing before its end.
_SLACK = 4 * _MIB

#: Members of a file that are read on end (gzip, xz and bzip2 concatenate).
_MEMBERS = 64

_ZSTD_BLOCK = 128 * _KIB
_LZ4_LEGACY_BLOCK = 8 * _MIB
_LZ4_BLOCK = {4: 64 * _KIB, 5: 256 * _KIB, 6: _MIB, 7: 4 * _MIB}


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
        ``lzop`` or None.
    """
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head[:3] == b'BZh' and head[4:10] in _BZIP2_BLOCKS:
        return 'bzip2'
    return 'lzma' if _is_lzma_alone(head) else None


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
    file.seek(offset)
    kind = tell(file.read(MAGIC_SIZE))
    file.seek(offset)
    if kind in ('gzip', 'xz', 'lzma', 'bzip2'):
        yield from _standard(file, kind, limit, name)
    elif kind in ('zstd', 'lz4'):
        if kind == 'zstd':
            data = _zstd_prefix(file, limit)
        else:
            data = _lz4_prefix(file, limit)
        yield _foreign(kind, data, name)[:limit]
    elif kind:
        raise exceptions.SourceError(
            f'{name}: {kind} compression is not known here',
            hint='compress it with gzip, xz or zstd instead',
        )
    else:
        raise exceptions.SourceError(f'{name}: not compressed')


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
            raise exceptions.SourceError(
                f'{name}: damaged {kind} data: {error}'
            ) from error
        done += len(output)
        if output:
            yield output
        elif not data and not codec.eof:
            return


def _zstd_prefix(file: BinaryIO, limit: int) -> bytes:
    """Read as many blocks of a frame as hold little more than ``limit``.

    Source: RFC 8878, sections 3.1.1.1 (frame header) and 3.1.1.2 (blocks).
    """
    # One more than that, because what ends without the last block's mark is
    # not always unpacked to its end.
    blocks = limit // _ZSTD_BLOCK + 2
    data = file.read((blocks + 1) * _ZSTD_BLOCK)
    if len(data) < 5:
        return data
    descriptor = data[4]
    single = bool(descriptor & 0x20)
    end = 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
    end += (int(single), 2, 4, 8)[descriptor >> 6]
    for _ in range(blocks):
        header = int.from_bytes(data[end : end + 3], 'little')
        repeated = (header >> 1) & 3 == 1
        end += 3 + (1 if repeated else header >> 3)
        if header & 1:
            # The last block; a checksum may follow.
            end += 4
            break
    return data[:end]


def _lz4_prefix(file: BinaryIO, limit: int) -> bytes:
    """Read as many blocks as hold up to ``limit`` bytes, but one at least.

    Source: the LZ4 frame format description 1.6.
    """
    magic = file.read(4)
    if magic == _LZ4_LEGACY:
        prefix, block, trailer = magic, _LZ4_LEGACY_BLOCK, 0
    else:
        flags, descriptor = (file.read(2) + b'\0\0')[:2]
        rest = file.read(
            (8 if flags & 0x08 else 0) + (4 if flags & 0x01 else 0) + 1
        )
        prefix = magic + bytes((flags, descriptor)) + rest
        block = _LZ4_BLOCK.get(descriptor >> 4 & 7, 0)
        trailer = 4 if flags & 0x10 else 0
    pieces = [prefix]
    for _ in range(max(1, limit // block) if block else 0):
        size = file.read(4)
        length = int.from_bytes(size, 'little') & 0x7FFFFFFF
        # Data that do not shrink are stored, or grow by 1 in 255.
        if length > block + block // 255 + 16:
            break
        pieces += (size, file.read(length + trailer))
        if not length:
            break
    return b''.join(pieces)


def _foreign(kind: str, data: bytes, name: str) -> bytes:
    output = _by_program(kind, data)
    if output is None:
        output = _by_module(kind, data)
    if output is None:
        raise exceptions.ProgramError(
            f'{name}: {kind} is needed to look into it',
            hint=f'install the package {kind}',
        )
    if not output:
        raise exceptions.SourceError(f'{name}: damaged {kind} data')
    return output


def _by_program(kind: str, data: bytes) -> bytes | None:
    try:
        process.find(kind)
    except exceptions.ProgramError:
        return None
    # It complains about the missing end, after what it could unpack.
    return process.run(
        (kind, '--decompress', '--stdout', '--quiet'),
        access=confinement.Access(),
        ok=range(256),
        input=data,
        memory=_MEMORY,
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
        if not data.startswith(_LZ4_LEGACY):
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
