# SPDX-License-Identifier: Apache-2.0

"""Is a filesystem mounted, or written to by somebody else?"""

from collections.abc import Iterator
import errno
import fcntl
import os
import pathlib
import signal
import stat

from amiclient import errors

_MOUNTS = pathlib.Path('/proc/self/mountinfo')
_BLOCK = pathlib.Path('/sys/block')


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
                hint='unmount it, or take it out of LVM, RAID or swap, first',
            ) from error
        raise


def _refuse_writers(path: pathlib.Path, status: os.stat_result) -> None:
    # fcntl(2), leases: a read lease is refused while anybody has the file
    # open for writing. It is given back at once.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Should somebody open it right now, we would be told by SIGIO, which
        # ends a process that does not expect it; SIGURG is ignored.
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
            else 'end that process, or wait for it, first',
        ) from error
    finally:
        os.close(descriptor)


def _mounted() -> Iterator[tuple[int, str]]:
    # proc(5), /proc/pid/mountinfo: the third field is major:minor, the fifth
    # the mount point, with blanks in octal.
    try:
        lines = _MOUNTS.read_text('utf-8', 'surrogateescape').splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        fields = line.split(' ')
        where = fields[4]
        for code, char in (
            ('\\040', ' '),
            ('\\011', '\t'),
            ('\\012', '\n'),
            ('\\134', '\\'),
        ):
            where = where.replace(code, char)
        yield _device(fields[2]), where


def _loops(status: os.stat_result) -> Iterator[tuple[str, int]]:
    # The loop devices, and their partitions, whose backing file this is.
    for folder in sorted(_BLOCK.glob('loop*')):
        try:
            name = (folder / 'loop' / 'backing_file').read_text().rstrip('\n')
            if not os.path.samestat(os.stat(name), status):
                continue
            for device in (folder, *sorted(folder.glob('loop*p*'))):
                number = _device((device / 'dev').read_text().strip())
                yield f'/dev/{device.name}', number
        except OSError:
            # Not attached, or detached meanwhile.
            continue


def _device(text: str) -> int:
    major, minor = text.split(':')
    return os.makedev(int(major), int(minor))
