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

"""Checksums and hashes that ext4 keeps with its metadata.

Source: the kernel's Documentation/filesystems/ext4 (checksums.rst and
directory.rst), fs/ext4/hash.c.
"""

from collections.abc import Iterable
import functools
import struct

#: Castagnoli's polynomial, bits reversed.
_POLYNOMIAL = 0x82F63B78

_MASK = 0xFFFFFFFF

#: fs/ext4/ext4.h: DX_HASH_HALF_MD4; the superblock says that names are bytes
#: without a sign (EXT2_FLAGS_UNSIGNED_HASH).
HALF_MD4 = 1

#: fs/ext4/hash.c: the constants of the second and third round.
_K2 = 0x5A827999
_K3 = 0x6ED9EBA1

#: The word of the message and the rotation of each step.
_ROUND_1 = tuple(zip(range(8), (3, 7, 11, 19) * 2, strict=True))
_ROUND_2 = tuple(zip((1, 3, 5, 7, 0, 2, 4, 6), (3, 5, 9, 13) * 2, strict=True))
_ROUND_3 = tuple(
    zip((3, 7, 2, 6, 1, 5, 0, 4), (3, 9, 11, 15) * 2, strict=True)
)


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
    # Most metadata end in zeros, and those are quickly done.
    count = (len(data.rstrip(b'\0')) + 1) // 2 * 2
    table = _table()
    for (word,) in struct.iter_unpack('<H', memoryview(data)[:count]):
        seed = table[(seed ^ word) & 0xFFFF] ^ seed >> 16
    return _zeros(seed, (len(data) - count) // 2)


def _zeros(seed: int, count: int) -> int:
    """Continue a CRC32C by so many times two bytes of zeros."""
    power = 0
    while count >> power:
        if count >> power & 1:
            seed = _applied(_doubled(power), seed)
        power += 1
    return seed


@functools.cache
def _doubled(power: int) -> tuple[int, ...]:
    """Tell what 2**power times two bytes of zeros make of each bit."""
    if not power:
        table = _table()
        return tuple(
            table[1 << bit & 0xFFFF] ^ 1 << bit >> 16 for bit in range(32)
        )
    half = _doubled(power - 1)
    return tuple(_applied(half, bit) for bit in half)


def _applied(bits: tuple[int, ...], value: int) -> int:
    # A CRC is linear: each bit does its part.
    result = 0
    for bit in bits:
        if value & 1:
            result ^= bit
        value >>= 1
    return result


def name_hash(name: bytes, seed: tuple[int, ...]) -> int:
    """Tell the hash by which a directory is indexed.

    :param seed: the four words of the superblock's hash seed.
    """
    state = seed
    for start in range(0, len(name), 32):
        state = _half_md4(state, _words(name[start:]))
    value = state[1] & ~1
    # fs/ext4/hash.c: the largest one means the end of the directory.
    return value - 2 if value == 0xFFFFFFFE else value


def _words(name: bytes) -> list[int]:
    """Make the eight words of a message of the rest of a name."""
    length = len(name)
    pad = length | length << 8
    pad = (pad | pad << 16) & _MASK
    words = []
    for start in range(0, 32, 4):
        value = pad
        for byte in name[start : start + 4]:
            value = (value << 8) + byte & _MASK
        words.append(value)
    return words


def _half_md4(state: Iterable[int], words: list[int]) -> tuple[int, ...]:
    before = tuple(state)
    a, b, c, d = before
    for index, shift in _ROUND_1:
        a = _rotated(a + (d ^ (b & (c ^ d))) + words[index], shift)
        a, b, c, d = d, a, b, c
    for index, shift in _ROUND_2:
        a = _rotated(a + (b & c) + ((b ^ c) & d) + words[index] + _K2, shift)
        a, b, c, d = d, a, b, c
    for index, shift in _ROUND_3:
        a = _rotated(a + (b ^ c ^ d) + words[index] + _K3, shift)
        a, b, c, d = d, a, b, c
    after = zip(before, (a, b, c, d), strict=True)
    return tuple(x + y & _MASK for x, y in after)


def _rotated(value: int, shift: int) -> int:
    value &= _MASK
    return (value << shift | value >> 32 - shift) & _MASK
