# SPDX-License-Identifier: Apache-2.0

"""What the kernel tells of leases: fcntl(2), ``F_SETLEASE``."""

import fcntl
import os
import pathlib

_LOCKS = pathlib.Path('/proc/locks')


def known(descriptor: int) -> bool:
    """Tell whether a file can be leased, which not every filesystem knows.

    :param descriptor: of a file that nobody has open for writing.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    return True


def wanted() -> bool:
    """Tell whether somebody waits for a lease of ours to end."""
    ours = f' {os.getpid()} '
    return any(
        'BREAKING' in line and ours in line
        for line in _LOCKS.read_text().splitlines()
    )
