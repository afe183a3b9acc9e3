# SPDX-License-Identifier: Apache-2.0

"""The frames of zstd and lz4: where they begin and end, without unpacking.

Sources: RFC 8878 (zstd), sections 3.1.1 and 3.1.2; the LZ4 frame format
description 1.6. Both have skippable frames, with the same magic numbers, in
which anybody may keep anything: pzstd and seekable formats do.
"""

from collections.abc import Iterator
import dataclasses
from typing import BinaryIO, Literal

_KIB = 1024
_MIB = 1024 * _KIB

ZSTD = b'\x28\xb5\x2f\xfd'
LZ4 = b'\x04\x22\x4d\x18'
LZ4_LEGACY = b'\x02\x21\x4c\x18'
KINDS = {ZSTD: 'zstd', LZ4: 'lz4', LZ4_LEGACY: 'lz4'}

_ZSTD_BLOCK = 128 * _KIB
_LZ4_LEGACY_BLOCK = 8 * _MIB
_LZ4_BLOCK = {4: 64 * _KIB, 5: 256 * _KIB, 6: _MIB, 7: 4 * _MIB}

#: Frames that may come before one with data in it.
_FRAMES = 4096

#: What a head may unpack to at most if it has several frames.
_HEAD = 8 * _MIB


@dataclasses.dataclass(frozen=True)
class _Piece:
    """A header, a block or a trailer of a frame.

    :param end: bytes from the beginning of the file to its end.
    :param most: bytes that it unpacks to at most.
    :param closes: whether the frame ends with it.
    """

    end: int
    most: int = 0
    closes: bool = False


def is_skippable(head: bytes) -> bool:
    return head[1:4] == b'\x2a\x4d\x18' and head[0] >> 4 == 5


def skipped(file: BinaryIO, offset: int) -> int:
    """Tell where what follows skippable frames begins.

    :returns: bytes from the beginning of the file.
    """
    for _ in range(_FRAMES):
        file.seek(offset)
        head = file.read(8)
        if len(head) < 8 or not is_skippable(head):
            break
        offset += 8 + int.from_bytes(head[4:], 'little')
    return offset


def prefix(file: BinaryIO, limit: int, offset: int = 0) -> bytes:
    """Read what unpacks to little more than a number of bytes.

    It ends with a block, and has one at least.

    :param limit: bytes.
    """
    first = end = skipped(file, offset)
    # More than that, because what ends without the mark of a last block is
    # not always unpacked to its end.
    room, most = limit + 2 * _ZSTD_BLOCK, 0
    for piece in _pieces(file, first):
        if most and most + piece.most > room:
            break
        end, most = piece.end, most + piece.most
        if piece.closes:
            # Small frames, or empty ones, may come before the data.
            room = max(room, _HEAD)
    file.seek(first)
    return file.read(end - first)


def end(file: BinaryIO, offset: int = 0) -> int:
    """Tell where the last whole frame ends, in bytes."""
    found = offset
    for piece in _pieces(file, offset):
        if piece.closes:
            found = piece.end
    return found


def window(file: BinaryIO, offset: int = 0) -> int:
    """Tell how much memory the first frame takes, in bytes; 0 if it is lz4."""
    start = skipped(file, offset)
    file.seek(start)
    head = file.read(18)
    if not head.startswith(ZSTD) or len(head) < 6:
        return 0
    if not head[4] & 0x20:
        base = 1 << 10 + (head[5] >> 3)
        return base + base // 8 * (head[5] & 7)
    # A single segment: it is as large as what is in it.
    place = 5 + (0, 1, 2, 4)[head[4] & 3]
    width = (1, 2, 4, 8)[head[4] >> 6]
    return int.from_bytes(head[place : place + width], 'little')


def _pieces(file: BinaryIO, offset: int) -> Iterator[_Piece]:
    """Walk through frames; what is cut short is no piece of one.

    What follows frames of one format is none of them, even if it is a frame of
    the other.
    """
    size = file.seek(0, 2)
    kinds: set[str] = set()
    while True:
        file.seek(offset)
        magic = file.read(4)
        kinds |= {KINDS[magic]} if magic in KINDS else set()
        if len(kinds) > 1:
            return
        if is_skippable(magic):
            found = _skippable(file, offset)
        elif magic == ZSTD:
            found = _zstd(file, offset)
        elif magic == LZ4:
            found = _lz4(file, offset)
        elif magic == LZ4_LEGACY:
            found = _lz4_legacy(file, offset)
        else:
            return
        closed = False
        for piece in found:
            if piece.end > size:
                return
            yield piece
            offset, closed = piece.end, piece.closes
        if not closed:
            return


def _skippable(file: BinaryIO, offset: int) -> Iterator[_Piece]:
    yield _Piece(offset + 8 + _number(file, offset + 4), closes=True)


def _zstd(file: BinaryIO, offset: int) -> Iterator[_Piece]:
    descriptor = _number(file, offset + 4, 1)
    single = bool(descriptor & 0x20)
    offset += 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
    offset += (int(single), 2, 4, 8)[descriptor >> 6]
    yield _Piece(offset)
    last = False
    while not last:
        header = _number(file, offset, 3)
        last, block = bool(header & 1), (header >> 1) & 3
        length = header >> 3
        offset += 3 + (1 if block == 1 else length)
        most = _ZSTD_BLOCK if block == 2 else length
        if last and descriptor & 4:
            offset += 4
        yield _Piece(offset, most, last)


def _lz4(file: BinaryIO, offset: int) -> Iterator[_Piece]:
    flags, descriptor = divmod(_number(file, offset + 4, 2, 'big'), 256)
    offset += 7 + (8 if flags & 0x08 else 0) + (4 if flags & 0x01 else 0)
    yield _Piece(offset)
    most = _LZ4_BLOCK.get(descriptor >> 4 & 7, 0)
    while length := _number(file, offset) & 0x7FFFFFFF:
        # Data that do not shrink are stored, or grow by 1 in 255.
        if length > most + most // 255 + 16:
            return
        offset += 4 + length + (4 if flags & 0x10 else 0)
        yield _Piece(offset, most)
    yield _Piece(offset + 4 + (4 if flags & 0x04 else 0), closes=True)


def _lz4_legacy(file: BinaryIO, offset: int) -> Iterator[_Piece]:
    """Tell the blocks of what the kernel is compressed by: it has no end."""
    offset += 4
    yield _Piece(offset)
    most = _LZ4_LEGACY_BLOCK
    while 0 < (length := _number(file, offset)) <= most + most // 255 + 16:
        offset += 4 + length
        yield _Piece(offset, most, closes=True)


def _number(
    file: BinaryIO,
    offset: int,
    width: int = 4,
    order: Literal['little', 'big'] = 'little',
) -> int:
    file.seek(offset)
    data = file.read(width)
    # What ends within it has its end beyond that of the file, by any number.
    return int.from_bytes(data, order) if len(data) == width else 1
