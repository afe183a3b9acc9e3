# SPDX-License-Identifier: Apache-2.0

"""Sizes as users write and read them, and the options that are sizes.

The suffixes are those of qemu-img and resize2fs: K, M, G, T are powers of
1024, and so are KiB and so on; kB, MB, GB and TB are decimal.
"""

import dataclasses
import re
from typing import NamedTuple

from amiclient import errors

_BINARY = {'': 1, 'k': 2**10, 'm': 2**20, 'g': 2**30, 't': 2**40}
_DECIMAL = {'kb': 10**3, 'mb': 10**6, 'gb': 10**9, 'tb': 10**12}
# Every ``openstack`` call imports this: nothing is compiled before it is used.
_SIZE = r'(\d+)\s*([A-Za-z]*)'
_PERCENT = r'(\d+(?:\.\d+)?)\s*%'


def parse_size(text: str) -> int:
    """Parse a SIZE.

    :param text: an integer with an optional suffix, such as ``64M``.
    :returns: bytes.
    :raises UsageError: if it is not of that form.
    """
    match = re.fullmatch(_SIZE, text.strip(), re.ASCII)
    if match:
        number, suffix = int(match[1]), match[2].lower()
        if suffix in _DECIMAL:
            return number * _DECIMAL[suffix]
        for ending in ('ib', 'b', ''):
            unit = suffix.removesuffix(ending)
            plain = ending == 'ib' and not unit
            if suffix.endswith(ending) and unit in _BINARY and not plain:
                return number * _BINARY[unit]
    raise errors.UsageError(
        f'{text!r} is not a size',
        hint='write an integer with K, M, G or T, such as 64M',
    )


#: Bytes that mke2fs has an inode for (mke2fs.conf, inode_ratio).
_PER_INODE = 16 << 10


class Headroom(NamedTuple):
    """Free space to leave in a filesystem.

    :param size: bytes.
    :param percent: of what it takes without, instead of bytes.
    """

    size: int = 0
    percent: float = 0.0

    def of(self, in_use: int) -> int:
        """Return the bytes to leave free in what takes so many with none."""
        return self.size + int(in_use * self.percent / 100)

    def __str__(self) -> str:
        return f'{self.percent:g}%' if self.percent else format_size(self.size)


def inodes(headroom: int) -> int:
    """Return the inodes that go with some bytes of free space in mke2fs."""
    return -(-headroom // _PER_INODE)


#: Nothing is left free.
NO_HEADROOM = Headroom()

#: Journals without a size of their own.
KEEP = 'keep'
NONE = 'none'


@dataclasses.dataclass(frozen=True)
class FilesystemOptions:
    """What a user wants of a filesystem that is shrunk or built.

    :param headroom: free space to leave in it.
    :param journal: ``keep`` for the one that it has, or that mke2fs would
        make; ``none``; or the bytes of a new one.
    :param repair: whether e2fsck may repair more than preening does.
    """

    headroom: Headroom = NO_HEADROOM
    journal: str | int = KEEP
    repair: bool = False


#: Of who says nothing.
DEFAULTS = FilesystemOptions()


def parse_headroom(text: str) -> Headroom:
    """Parse a SIZE or a PERCENT.

    :param text: a size, or a number with a percent sign, such as ``5%``.
    :raises UsageError: if it is neither.
    """
    match = re.fullmatch(_PERCENT, text.strip(), re.ASCII)
    if match:
        return Headroom(percent=float(match[1]))
    try:
        return Headroom(size=parse_size(text))
    except errors.UsageError as error:
        raise errors.UsageError(
            f'{text!r} is neither a size nor a percentage',
            hint='write 64M or 5%',
        ) from error


def format_size(size: int) -> str:
    """Write a number of bytes for people, such as ``664.1 MiB``."""
    if size < 1024:
        return f'{size} bytes'
    number = float(size)
    for unit in ('KiB', 'MiB', 'GiB', 'TiB'):
        number /= 1024
        if number < 1024 or unit == 'TiB':
            break
    return f'{number:.1f} {unit}'


def require_whole(option: str, size: int, unit: int, what: str) -> None:
    """Refuse a size that is not made of whole units, both in bytes.

    :param what: what the units are.
    :raises UsageError: if it is not, with the sizes to give instead.
    """
    below = size - size % unit
    if below != size:
        instead = f'{below} or {below + unit}' if below else f'{below + unit}'
        raise errors.UsageError(
            f'{option} of {size} bytes is not a whole number of {what}',
            hint=f'give {instead}',
        )


def gib(size: int) -> int:
    """Return the whole GiB that some bytes take, as ``min_disk`` counts."""
    return -(-size // 2**30)
