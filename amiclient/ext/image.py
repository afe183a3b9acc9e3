# SPDX-License-Identifier: Apache-2.0

"""A root filesystem that lies in a file or on a block device."""

import dataclasses
import os
import pathlib
import stat

from amiclient.ext.superblock import Superblock
from amiclient import locks
from amiclient import sparse

#: Bytes that are read at a time.
_CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True)
class RootImage:
    """An ext2, ext3 or ext4 filesystem that starts at byte 0 of something.

    :param path: the file or block device.
    :param size: bytes of the file or device, which may be more than the
        filesystem takes.
    :param is_device: whether it is a block device.
    :param superblock: what its superblock says.
    :param state: what :func:`amiclient.locks.state` said when it was read.
    :param boot_sector: bytes at its beginning that must be zeros, for Nova
        would take it for a partitioned disk else.
    """

    path: pathlib.Path
    size: int
    is_device: bool
    superblock: Superblock
    state: locks.State
    boot_sector: int = 0

    def refuse_changed(self, now: locks.State | None = None) -> None:
        """Make sure that it is still the file, or device, that was read.

        :param now: the state of what was opened; None for that of what has
            the name.
        :raises BusyError: if it was changed, or replaced.
        """
        locks.refuse_changed(self.path, self.state, now)


def behind(path: pathlib.Path, found: Superblock) -> int:
    """Tell the bytes of a file that lie behind its filesystem.

    Holes are not looked into. What is behind one on a block device are the
    remains of something else.

    :returns: 0 as well if all of them are zeros.
    :raises SourceError: if they cannot be read.
    """
    with sparse.opened(path, os.O_RDONLY) as descriptor:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size <= found.size:
            return 0
        for first, end in sparse.data_in(
            descriptor, found.size, status.st_size
        ):
            for offset in range(first, end, _CHUNK):
                count = min(_CHUNK, end - offset)
                if any(sparse.read_at(descriptor, count, offset)):
                    return status.st_size - found.size
    return 0
