# SPDX-License-Identifier: Apache-2.0

"""Whatever a user may name as a source: what it is, and is it one."""

import errno
import os
import pathlib
import stat
from typing import BinaryIO

from amiclient import errors
from amiclient.ext import image
from amiclient.ext import superblock
from amiclient import files
from amiclient.source import opening
from amiclient.source import probe

_WANTED = 'a root filesystem image'
_ONLY = 'only ext2, ext3 and ext4 filesystems are taken'
_DAMAGED = 'a damaged ext2, ext3 or ext4 filesystem'

#: How much of the data of a file that begins with zeros is looked at before
#: it is said to be nothing but zeros.
_ZEROS = 64 * 1024 * 1024

#: What ends the first sector of a disk with partitions, or of a boot loader;
#: and what begins the second of one with a GPT (UEFI specification, 5.3.2).
_SIGNATURES = ((510, b'\x55\xaa'), (512, b'EFI PART'))


def identify(path: pathlib.Path) -> str:
    """Tell what something is, by its content.

    :returns: a short phrase, such as ``an XFS filesystem``.
    :raises SourceError: if it is not there or cannot be read.
    """
    phrase = opening.special(path)
    if phrase and phrase != 'a block device':
        return phrase
    with opening.opened(path, wanted=_WANTED, devices=True) as file:
        try:
            return _examine(file, errors.shown(path))[0].phrase
        except errors.DamagedError:
            return _DAMAGED


def describe(data: bytes) -> str:
    """Tell what data are of which only the beginning is at hand.

    :param data: the more the better, up to 68 KiB.
    :returns: a phrase as those of :func:`identify`.
    """
    try:
        return _classify(data, b'', 1 << 62, 'data')[0].phrase
    except errors.DamagedError:
        return _DAMAGED


def examine(
    head: bytes, size: int, name: str
) -> tuple[str, superblock.Superblock | None]:
    """Tell what a part of a disk is.

    :param head: its first magic.HEAD bytes, or all there are.
    :param size: bytes of the whole.
    :param name: what to call it in errors.
    :returns: a phrase as those of :func:`identify`, and the superblock of an
        ext2, ext3 or ext4 filesystem.
    """
    if not any(head):
        return 'nothing but zeros at its beginning', None
    try:
        found, block = _classify(head, b'', size, name)
    except errors.DamagedError:
        return _DAMAGED, None
    return found.phrase, block


def open_root(path: pathlib.Path) -> image.RootImage:
    """Take a file or block device for a root filesystem, if it is one.

    :raises SourceError: if it is not there, cannot be read, or is not an
        ext2, ext3 or ext4 filesystem from byte 0 on. The text tells what it
        is instead, and what to do about it.
    :raises DamagedError: if its superblock makes no sense, or it is shorter
        than that says.
    """
    name = errors.shown(path)
    if opening.special(path) == probe.DIRECTORY.phrase:
        raise _refused(name, probe.DIRECTORY)
    with opening.opened(path, wanted=_WANTED, devices=True) as file:
        state = files.state(file.fileno())
        is_device = stat.S_ISBLK(os.fstat(file.fileno()).st_mode)
        size = file.seek(0, os.SEEK_END)
        found, block = _examine(file, name)
    if block is None:
        raise _refused(name, found)
    if block.size > size:
        raise errors.DamagedError(
            f'cut short: its {block.filesystem} filesystem takes '
            f'{block.size} bytes, and {size} are there',
            subject=name,
            hint='get a whole copy of it',
        )
    return image.RootImage(path, size, is_device, block, state)


def _refused(name: str, found: probe.Found) -> errors.SourceError:
    return errors.SourceError(
        f'{found.phrase}: {_ONLY}', subject=name, hint=found.hint
    )


def _examine(
    file: BinaryIO, name: str
) -> tuple[probe.Found, superblock.Superblock | None]:
    size = file.seek(0, os.SEEK_END)
    if not size:
        return probe.EMPTY, None
    file.seek(0)
    head = file.read(probe.HEAD)
    file.seek(max(0, size - probe.TAIL))
    tail = file.read(probe.TAIL)
    found, block = _classify(head, tail, size, name)
    if block is not None and _is_partitioned(file, head, size):
        return probe.MBR, None
    if not any(head):
        found = probe.Found(_zeros(file, size))
    return found, block


def _classify(
    head: bytes, tail: bytes, size: int, name: str
) -> tuple[probe.Found, superblock.Superblock | None]:
    if found := probe.before(head):
        return found, None
    data = head[superblock.OFFSET : superblock.OFFSET + superblock.SIZE]
    if _is_journal(data):
        return probe.JOURNAL, None
    damaged: errors.DamagedError | None = None
    try:
        block = superblock.parse(data, name)
    except superblock.NotExtError:
        pass
    except errors.DamagedError as error:
        # Its magic number is two bytes only: it may be something else.
        damaged = error
    else:
        return probe.Found(f'an {block.filesystem} filesystem'), block
    if found := probe.after(head, tail, size):
        return found, None
    if damaged:
        raise damaged
    return probe.Found('unrecognised data'), None


def boot_sector(path: pathlib.Path) -> int:
    """Tell whether Nova would take a filesystem for a partitioned disk.

    Then the server fails to build.

    :returns: the bytes at its beginning, before the superblock, that must be
        zeros for that reason; 0 if they are of no harm.
    """
    with path.open('rb') as file:
        start = file.read(superblock.OFFSET)
    found = any(
        start[offset:].startswith(signature)
        for offset, signature in _SIGNATURES
    )
    return superblock.OFFSET if found else 0


def _is_journal(data: bytes) -> bool:
    """Tell an external journal, whose superblock has little else in it."""
    incompat = int.from_bytes(data[0x60:0x64], 'little')
    return data[0x38:0x3A] == b'\x53\xef' and bool(
        incompat & superblock.INCOMPAT_JOURNAL_DEV
    )


def _is_partitioned(file: BinaryIO, head: bytes, size: int) -> bool:
    """Tell if what looks like a filesystem has been partitioned since.

    Partitioning a disk leaves the superblock of a filesystem that was on the
    whole of it. On the other hand a filesystem may have an old boot sector.
    So the partitions count if there is a filesystem in one of them.
    """
    for start in probe.partitions(head, size):
        file.seek(start)
        data = file.read(probe.HEAD)
        found, block = None, None
        try:
            found, block = _classify(data, b'', size - start, '')
        except errors.DamagedError:
            continue
        if block is not None or found.phrase.endswith('filesystem'):
            return True
    return False


def _zeros(file: BinaryIO, size: int) -> str:
    """Tell whether there is anything but zeros, without reading for ever."""
    position, left = 0, _ZEROS
    while left > 0:
        try:
            position = os.lseek(file.fileno(), position, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            # There are only holes from here to the end.
            return 'nothing but zeros'
        data = os.pread(file.fileno(), 1024 * 1024, position)
        if any(data):
            break
        position += len(data)
        left -= len(data)
        if position >= size:
            return 'nothing but zeros'
    return 'unrecognised data that begin with zeros'
