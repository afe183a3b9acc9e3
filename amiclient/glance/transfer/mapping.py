# SPDX-License-Identifier: Apache-2.0

"""A file's data, mapped into memory instead of being copied there.

Mapping has a trap: who touches a page that is beyond the end of the file,
because somebody cut it short meanwhile, is killed by SIGBUS, and could not
even undo what it did. So a file is mapped only under a lease (fcntl(2),
``F_SETLEASE``): whoever opens it for writing, or truncates it, is made to
wait until the lease is given back. That happens once nothing is mapped any
more, a fraction of a second later; from then on the file is read.

Each piece is mapped for itself, with its pages made present at once
(madvise(2), ``MADV_POPULATE_READ``): that costs less than a fault for each of
them, and an error of the device is told instead of being a signal.
"""

import fcntl
import mmap
import os
import signal
from typing import Self

#: Python has a name for it since 3.14; Linux has it since 5.14.
_MADV_POPULATE_READ = 22


class Window:
    """A view of a file that moves towards its end.

    :param fd: the file. It is closed by who opened it.
    :param keep: how many pieces are in use at a time.
    """

    def __init__(self, fd: int, *, keep: int) -> None:
        self._fd = fd
        self._keep = keep
        #: Pieces still to come before the lease is given back; None if
        #: nobody wants it.
        self._left: int | None = None

    @classmethod
    def open(cls, fd: int, *, keep: int) -> Self | None:
        """Take a lease on a file.

        :returns: None where there is none to be had: the file belongs to
            somebody else, is open for writing, is a device, or its filesystem
            knows no leases.
        """
        try:
            # Of the signals that tell that somebody waits, this is one that
            # does nothing unless it is asked for.
            fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except OSError:
            return None
        return cls(fd, keep=keep)

    def view(self, offset: int, length: int) -> memoryview | None:
        """Map a piece.

        It is valid until ``keep`` further ones have been asked for.

        :param offset: bytes, a multiple of the page size.
        :returns: None if it cannot be mapped, and has to be read.
        """
        if self._left is None and self._wanted():
            self._left = self._keep
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                fcntl.fcntl(self._fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            return None
        try:
            # What comes next is read from the disk meanwhile.
            os.posix_fadvise(
                self._fd, offset + length, length, os.POSIX_FADV_WILLNEED
            )
            piece = mmap.mmap(
                self._fd,
                length,
                flags=mmap.MAP_SHARED,
                prot=mmap.PROT_READ,
                offset=offset,
            )
            piece.madvise(_MADV_POPULATE_READ)
        except (OSError, ValueError):
            # Reading finds out what is wrong, and where: the file is too
            # short, or cannot be read, or the kernel is too old for this.
            return None
        return memoryview(piece)

    def _wanted(self) -> bool:
        """Tell whether somebody waits to write to the file."""
        return fcntl.fcntl(self._fd, fcntl.F_GETLEASE) != fcntl.F_RDLCK
