# SPDX-License-Identifier: Apache-2.0

"""Is a filesystem mounted, or written to by somebody else?

Multiple mount protection shows what another host has mounted: that host writes
to one block of it, again and again. Whoever wants to write
to it has to look at that block for as long as that may take
(ext2fs_mmp_start() in e2fsprogs, lib/ext2fs/mmp.c; "Multiple Mount Protection"
in the kernel's Documentation/filesystems/ext4).
"""

from collections.abc import Iterator
import errno
import fcntl
import logging
import os
import pathlib
import re
import signal
import stat
import time

from amiclient import errors
from amiclient.ext.layout import Layout
from amiclient.ext import superblock
from amiclient import sparse

_LOG = logging.getLogger(__name__)

_MOUNTS = pathlib.Path('/proc/self/mountinfo')
_BLOCK = pathlib.Path('/sys/block')
_OCTAL = re.compile(r'\\(040|011|012|134)')

#: What the block for multiple mount protection begins with, and what its
#: second number says.
_MMP_MAGIC = 0x004D4D50
_MMP_CLEAN = 0xFF4D4D50
_MMP_FSCK = 0xE24D4D50

#: Seconds that programs take for the interval if it is less.
_LEAST = 5


def refuse_busy(path: pathlib.Path) -> None:
    """Make sure that nobody else uses a file or block device.

    :raises BusyError: if it is mounted, directly or through a loop device,
        or open for writing in another process.
    """
    status = path.stat()
    if stat.S_ISBLK(status.st_mode):
        _refuse_mounted(path, f'{path} is', status.st_rdev)
        _refuse_held(path)
        return
    for device, number in _loops(status):
        _refuse_mounted(path, f'{path} is, through {device},', number)
    _refuse_writers(path, status)


def _refuse_mounted(path: pathlib.Path, what: str, device: int) -> None:
    for mounted, where in _mounted():
        if mounted == device:
            raise errors.BusyError(
                f'{what} mounted on {where}', hint=f'run: umount {where}'
            )


def _refuse_held(path: pathlib.Path) -> None:
    # open(2): O_EXCL without O_CREAT fails on a block device that is mounted
    # in whichever namespace, or part of a RAID, of LVM, or swap.
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise errors.BusyError(
                f'{path} is in use by the system',
                hint='unmount it, or remove it from LVM, RAID or swap',
            ) from error
        raise


def _refuse_writers(path: pathlib.Path, status: os.stat_result) -> None:
    # fcntl(2), leases: a read lease is refused while anybody has the file
    # open for writing. It is given back at once.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Should somebody open it right now, we would get SIGIO, which ends a
        # process that does not expect it; SIGURG is ignored.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        if error.errno != errno.EAGAIN:
            # No leases here (network filesystem, file of another user).
            return
        loops = ', '.join(device for device, _ in _loops(status))
        raise errors.BusyError(
            f'{path} is open for writing in another process'
            + (f' (attached to {loops})' if loops else ''),
            hint=f'run: losetup --detach {loops}'
            if loops
            else 'end that process, or wait for its end',
        ) from error
    finally:
        os.close(descriptor)


def _mounted() -> Iterator[tuple[int, str]]:
    # proc(5), /proc/pid/mountinfo: the third field is major:minor, the fifth
    # the mount point, with blanks and backslashes in octal.
    try:
        lines = _MOUNTS.read_text('utf-8', 'surrogateescape').splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        fields = line.split(' ')
        where = _OCTAL.sub(lambda code: chr(int(code[1], 8)), fields[4])
        yield _device(fields[2]), where


def _loops(status: os.stat_result) -> Iterator[tuple[str, int]]:
    # The loop devices, and their partitions, whose backing file this is.
    for directory in sorted(_BLOCK.glob('loop*')):
        try:
            name = (
                (directory / 'loop' / 'backing_file').read_text().rstrip('\n')
            )
            if not os.path.samestat(os.stat(name), status):
                continue
            for device in (directory, *sorted(directory.glob('loop*p*'))):
                number = _device((device / 'dev').read_text().strip())
                yield f'/dev/{device.name}', number
        except OSError:
            # Not attached, or detached meanwhile.
            continue


def _device(text: str) -> int:
    major, minor = text.split(':')
    return os.makedev(int(major), int(minor))


def patience(found: superblock.Superblock) -> int:
    """Return the seconds that a program waits before it writes, at most."""
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
        if (
            _number(before, 0) != _MMP_MAGIC
            or _number(before, 4) == _MMP_CLEAN
        ):
            # A damaged block is for e2fsck to tell of.
            return
        if _number(before, 4) == _MMP_FSCK:
            raise errors.BusyError(
                f'{path} is in use by e2fsck, or an e2fsck was killed',
                hint='wait for e2fsck; if none is running, run: '
                f'tune2fs -f -E clear_mmp {path}',
            )
        interval = int.from_bytes(before[0x70:0x72], 'little')
        seconds = _wait(max(interval, found.mmp_interval))
        _LOG.warning(
            '%s was not unmounted cleanly; waiting %d seconds to see whether '
            'another host has it mounted',
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


def carry_over(old: Layout, new: Layout) -> None:
    """Give a filesystem the block of protection that it had before.

    A new one names this host and a temporary file.
    """
    size = old.superblock.block_size
    data = old.blocks(old.superblock.mmp_block)
    os.pwrite(new.descriptor, data, new.superblock.mmp_block * size)


def _wait(interval: int) -> int:
    interval = min(max(interval, _LEAST), superblock.MMP_INTERVAL)
    return min(2 * interval + 1, interval + 60)


def _number(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], 'little')
