# SPDX-License-Identifier: Apache-2.0

"""Checksums and hashes that ext4 keeps with its metadata.

Source: the kernel's Documentation/filesystems/ext4 (checksums.rst and
directory.rst), fs/ext4/hash.c.
"""

from collections.abc import Sequence
import functools
import struct

#: Castagnoli's polynomial, bits reversed.
_POLYNOMIAL = 0x82F63B78

_MASK = 0xFFFFFFFF

#: Bytes of zeros that are as quickly done one by one.
_FEW = 32

#: Bytes from which on data are quicker taken apart into rows of so many bytes,
#: which are done all at once.
_MANY = 2048
_ROW = 64

#: fs/ext4/ext4.h: DX_HASH_HALF_MD4; the superblock says that names are bytes
#: without a sign (EXT2_FLAGS_UNSIGNED_HASH).
HALF_MD4 = 1

#: fs/ext4/hash.c: the constants of the second and third round.
_K2 = 0x5A827999
_K3 = 0x6ED9EBA1

#: The words of the message in the order in which four steps each take them.
_ROUND_1 = ((0, 1, 2, 3), (4, 5, 6, 7))
_ROUND_2 = ((1, 3, 5, 7), (0, 2, 4, 6))
_ROUND_3 = ((3, 7, 2, 6), (1, 5, 0, 4))


@functools.cache
def _table() -> tuple[int, ...]:
    # For two bytes at a time, which halves the time: pure Python is not
    # quick, and every inode in use goes through this.
    single = []
    for number in range(256):
        for _ in range(8):
            number = number >> 1 ^ (_POLYNOMIAL if number & 1 else 0)
        single.append(number)
    return tuple(
        single[single[n & 0xFF] & 0xFF ^ n >> 8] ^ single[n & 0xFF] >> 8
        for n in range(1 << 16)
    )


def crc32c(seed: int, data: bytes) -> int:
    """Continue a CRC32C, which is not inverted at its ends.

    :param seed: what it is so far; 0xFFFFFFFF at the beginning.
    :param data: an even number of bytes.
    """
    # Most metadata end in zeros, and those are quickly done, if they are many.
    count = (len(data.rstrip(b'\0')) + 1) // 2 * 2
    if len(data) - count < _FEW:
        count = len(data)
    done = count // _ROW * _ROW if count >= _MANY else 0
    if done:
        columns = [data[at:done:_ROW] for at in range(_ROW)]
        for part in zip(*crc32c_columns(0, columns), strict=True):
            seed = _zeros(seed, _ROW // 2) ^ int.from_bytes(part, 'little')
    table = _table()
    for (word,) in struct.iter_unpack('<H', memoryview(data)[done:count]):
        seed = table[(seed ^ word) & 0xFFFF] ^ seed >> 16
    return _zeros(seed, (len(data) - count) // 2)


def crc32c_columns(seed: int, columns: Sequence[bytes]) -> list[bytes]:
    """Compute many CRC32C at once, of data that have the same length.

    A CRC is linear, so each byte does its part, whatever the others are; and
    few calls compute what a column of bytes does, for all of them.

    :param seed: with which all of them begin.
    :param columns: the first bytes of all, then the second ones, and so on.
    :returns: the four bytes of the results, the lowest one first, in the same
        form.
    """
    count = len(columns[0])
    total = crc32c(seed, bytes(len(columns)))
    sums = [
        int.from_bytes(bytes([byte]) * count, 'little')
        for byte in total.to_bytes(4, 'little')
    ]
    for after, column in enumerate(reversed(columns)):
        if column.strip(b'\0'):
            for place, table in enumerate(_parts(after)):
                sums[place] ^= int.from_bytes(
                    column.translate(table), 'little'
                )
    return [each.to_bytes(count, 'little') for each in sums]


@functools.cache
def _parts(after: int) -> tuple[bytes, ...]:
    """Return what each byte does that has so many others after it.

    :returns: for each byte of the result, the lowest one first.
    """
    values = [0]
    for bit in range(8):
        pair = (1 << bit << (0 if after % 2 else 8)).to_bytes(2, 'little')
        part = _zeros(crc32c(0, pair), after // 2)
        values += [value ^ part for value in values]
    rows = struct.pack('<256I', *values)
    return tuple(rows[place::4] for place in range(4))


def _zeros(seed: int, count: int) -> int:
    """Continue a CRC32C by so many times two bytes of zeros."""
    power = 0
    while count >> power:
        if count >> power & 1:
            first, second, third, fourth = _skipped(power)
            seed = (
                first[seed & 0xFF]
                ^ second[seed >> 8 & 0xFF]
                ^ third[seed >> 16 & 0xFF]
                ^ fourth[seed >> 24]
            )
        power += 1
    return seed


@functools.cache
def _skipped(power: int) -> tuple[tuple[int, ...], ...]:
    """Return what 2**power times two bytes of zeros make of each byte."""
    bits = _doubled(power)
    return tuple(
        tuple(_applied(bits[start : start + 8], value) for value in range(256))
        for start in range(0, 32, 8)
    )


@functools.cache
def _doubled(power: int) -> tuple[int, ...]:
    """Return what 2**power times two bytes of zeros make of each bit."""
    if not power:
        table = _table()
        return tuple(
            table[1 << bit & 0xFFFF] ^ 1 << bit >> 16 for bit in range(32)
        )
    half = _doubled(power - 1)
    return tuple(_applied(half, bit) for bit in half)


def _applied(bits: Sequence[int], value: int) -> int:
    # A CRC is linear: each bit does its part.
    result = 0
    for bit in bits:
        if value & 1:
            result ^= bit
        value >>= 1
    return result


def name_hash(name: bytes, seed: tuple[int, ...]) -> int:
    """Return the hash by which a directory is indexed.

    :param seed: the four words of the superblock's hash seed.
    """
    state = seed
    for start in range(0, len(name), 32):
        state = _half_md4(state, _words(name[start:]))
    value = state[1] & ~1
    # fs/ext4/hash.c: the largest one means the end of the directory.
    return value - 2 if value == 0xFFFFFFFE else value


def _words(name: bytes) -> list[int]:
    length = len(name)
    pad = length | length << 8
    pad = (pad | pad << 16) & _MASK
    part = name[:32]
    whole = len(part) // 4
    words = list(struct.unpack_from(f'>{whole}I', part))
    if whole < 8:
        value = pad
        for byte in part[4 * whole :]:
            value = (value << 8) + byte & _MASK
        words.append(value)
        words += [pad] * (7 - whole)
    return words


def _half_md4(
    state: tuple[int, ...], words: Sequence[int]
) -> tuple[int, int, int, int]:
    # Written out, because each name in a large directory goes through this.
    a, b, c, d = state
    for i, j, k, m in _ROUND_1:
        a = a + (d ^ (b & (c ^ d))) + words[i] & _MASK
        a = (a << 3 | a >> 29) & _MASK
        d = d + (c ^ (a & (b ^ c))) + words[j] & _MASK
        d = (d << 7 | d >> 25) & _MASK
        c = c + (b ^ (d & (a ^ b))) + words[k] & _MASK
        c = (c << 11 | c >> 21) & _MASK
        b = b + (a ^ (c & (d ^ a))) + words[m] & _MASK
        b = (b << 19 | b >> 13) & _MASK
    for i, j, k, m in _ROUND_2:
        a = a + (b & c) + ((b ^ c) & d) + words[i] + _K2 & _MASK
        a = (a << 3 | a >> 29) & _MASK
        d = d + (a & b) + ((a ^ b) & c) + words[j] + _K2 & _MASK
        d = (d << 5 | d >> 27) & _MASK
        c = c + (d & a) + ((d ^ a) & b) + words[k] + _K2 & _MASK
        c = (c << 9 | c >> 23) & _MASK
        b = b + (c & d) + ((c ^ d) & a) + words[m] + _K2 & _MASK
        b = (b << 13 | b >> 19) & _MASK
    for i, j, k, m in _ROUND_3:
        a = a + (b ^ c ^ d) + words[i] + _K3 & _MASK
        a = (a << 3 | a >> 29) & _MASK
        d = d + (a ^ b ^ c) + words[j] + _K3 & _MASK
        d = (d << 9 | d >> 23) & _MASK
        c = c + (d ^ a ^ b) + words[k] + _K3 & _MASK
        c = (c << 11 | c >> 21) & _MASK
        b = b + (c ^ d ^ a) + words[m] + _K3 & _MASK
        b = (b << 15 | b >> 17) & _MASK
    first, second, third, fourth = state
    return (
        first + a & _MASK,
        second + b & _MASK,
        third + c & _MASK,
        fourth + d & _MASK,
    )
