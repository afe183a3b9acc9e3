# SPDX-License-Identifier: Apache-2.0

"""What the Linux kernel takes for an initramfs, told as it does.

An initramfs is a sequence of cpio archives, each plain or compressed, with
zeros between them; plain ones in front of a compressed one hold what is
needed early, such as microcode. The kernel takes the "newc" and "crc" formats
of cpio only. Sources, in its tree: Documentation/driver-api/early-userspace/
buffer-format.rst, Documentation/arch/x86/microcode.rst, init/initramfs.c.
"""

import dataclasses
from typing import BinaryIO

from amiclient import errors
from amiclient.source import detect
from amiclient.source import frames
from amiclient.source import streams

_MAGIC = (b'070701', b'070702')
_OLD = (b'070707', b'\xc7\x71', b'\x71\xc7')
_HEADER = 110
_TRAILER = b'TRAILER!!!\0'

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
        magic = file.read(streams.MAGIC_SIZE)
        if magic.startswith(_OLD):
            raise _old(name)
        # The kernel knows no skippable frames.
        kind = None if frames.is_skippable(magic) else streams.tell(magic)
        if kind and _is_compressed_cpio(file, offset, name):
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


def _old(name: str) -> BrokenError:
    return BrokenError(
        'a cpio archive in an old format, which Linux does not take '
        'for an initramfs',
        subject=name,
        hint='make it with cpio --format=newc',
    )


def _followed(file: BinaryIO, offset: int, name: str) -> BrokenError:
    file.seek(offset)
    phrase = detect.describe(file.read(HEAD))
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
        length, name_length = _lengths(header, name)
        entry = file.read(name_length)
        offset += _aligned(_HEADER + name_length)
        if entry == _TRAILER:
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


def _lengths(header: bytes, name: str) -> tuple[int, int]:
    try:
        if not header.startswith(_MAGIC):
            raise ValueError('no magic number')
        length, name_length = int(header[54:62], 16), int(header[94:102], 16)
    except ValueError as error:
        raise BrokenError('a damaged cpio archive', subject=name) from error
    if not 0 < name_length <= _NAME or length < 0:
        raise BrokenError('a damaged cpio archive', subject=name)
    return length, name_length


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
