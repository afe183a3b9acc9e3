# SPDX-License-Identifier: Apache-2.0

"""Multiple mount protection: whether another host has a filesystem mounted.

Whoever has it mounted writes to one block of it, again and again. Whoever
wants to write to it has to look at that block for as long as that may take
(ext2fs_mmp_start() in e2fsprogs, lib/ext2fs/mmp.c; "Multiple Mount Protection"
in the kernel's Documentation/filesystems/ext4).
"""

import logging
import os
import pathlib
import time

from amiclient import errors
from amiclient.ext import superblock
from amiclient import sparse

_LOG = logging.getLogger(__name__)

_MAGIC = 0x004D4D50
_CLEAN = 0xFF4D4D50
_FSCK = 0xE24D4D50

#: Seconds that programs take for the interval if it is less.
_LEAST = 5


def patience(found: superblock.Superblock) -> int:
    """Tell the seconds that a program waits before it writes, at most."""
    return 2 * _wait(found.mmp_interval) if found.has_mmp else 0


def refuse_live(path: pathlib.Path, found: superblock.Superblock) -> None:
    """Make sure that no other host has a filesystem mounted.

    That takes no time if it was unmounted.

    :raises BusyError: if one has, or e2fsck is at work on it.
    """
    if not 0 < found.mmp_block < found.block_count:
        return
    with sparse.opened(path, os.O_RDONLY) as descriptor:
        offset = found.mmp_block * found.block_size
        before = sparse.read_at(descriptor, superblock.SIZE, offset)
        if _number(before, 0) != _MAGIC or _number(before, 4) == _CLEAN:
            # A damaged block is for e2fsck to tell of.
            return
        if _number(before, 4) == _FSCK:
            raise errors.BusyError(
                f'{path} is in use by e2fsck, or that was killed',
                hint='wait for it; or, if there is none, run: '
                f'tune2fs -f -E clear_mmp {path}',
            )
        interval = int.from_bytes(before[0x70:0x72], 'little')
        seconds = _wait(max(interval, found.mmp_interval))
        _LOG.warning(
            '%s was not unmounted; looking for %d seconds whether another '
            'host has it mounted',
            path,
            seconds,
        )
        time.sleep(seconds)
        # What another host has written is not in our cache.
        os.posix_fadvise(
            descriptor, offset, superblock.SIZE, os.POSIX_FADV_DONTNEED
        )
        after = sparse.read_at(descriptor, superblock.SIZE, offset)
    if before != after:
        host = after[0x10:0x50].split(b'\0')[0].decode('latin-1')
        raise errors.BusyError(
            f'{path} is mounted on the host {host}',
            hint='unmount it there',
        )


def carry_over(original: pathlib.Path, path: pathlib.Path) -> None:
    """Give a filesystem the block that it had before.

    A new one names this host and a temporary file.
    """
    old, new = superblock.read(original), superblock.read(path)
    size = old.block_size
    with sparse.opened(original, os.O_RDONLY) as descriptor:
        data = sparse.read_at(descriptor, size, old.mmp_block * size)
    with sparse.opened(path, os.O_RDWR) as descriptor:
        os.pwrite(descriptor, data, new.mmp_block * size)


def _wait(interval: int) -> int:
    interval = min(max(interval, _LEAST), superblock.MMP_INTERVAL)
    return min(2 * interval + 1, interval + 60)


def _number(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], 'little')
