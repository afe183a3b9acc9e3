# SPDX-License-Identifier: Apache-2.0

"""What the system lets a process have."""

import errno
import resource

from amiclient import errors

#: What write(2) says when there is no room, for this user or at all.
FULL = (errno.ENOSPC, errno.EDQUOT)

#: What to do about a limit to the size of files, as bash(1) has it.
RAISE = 'raise the limit: ulimit -f unlimited'


def file() -> int | None:
    """Tell the bytes that a file may have (setrlimit(2)); None for any."""
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return None if limit == resource.RLIM_INFINITY else limit


def too_large(where: object) -> errors.TooLargeError:
    """Say why a file cannot become as large as it would have to (EFBIG).

    :param where: what to call the folder that it is in.
    """
    limit = file()
    if limit is None:
        return errors.TooLargeError(
            'the filesystem there cannot hold a file that large',
            subject=where,
            hint='choose a directory on another one',
        )
    return errors.TooLargeError(
        f'files are limited to {limit} bytes here',
        subject=where,
        hint=RAISE,
    )


#: What is said of other limits, and what to do about them.
_SAID = {
    resource.RLIMIT_AS: ('bytes of memory', 'ulimit -v unlimited'),
    resource.RLIMIT_CPU: ('seconds of processor time', 'ulimit -t unlimited'),
}


def lower(pid: int, what: int, most: int | None) -> None:
    """Limit what another process may take, but give it no more than we have.

    :param what: a resource, as setrlimit(2) calls it.
    :param most: of that; None for whatever we have.
    """
    soft, hard = resource.getrlimit(what)
    if most is not None:
        hard = _least(hard, most + 1)
    # At the hard limit to processor time, there is nothing but SIGKILL.
    below = hard if hard == resource.RLIM_INFINITY else max(1, hard - 1)
    resource.prlimit(pid, what, (_least(soft, below), hard))


def is_own(what: int, most: int | None) -> bool:
    """Tell whether our own limit is none above what others are given."""
    own = _least(*resource.getrlimit(what))
    if own == resource.RLIM_INFINITY:
        return False
    return most is None or own <= most


def exhausted(program: str, what: int) -> errors.ProgramError:
    """Say that a program came to an end at our own limit."""
    unit, command = _SAID[what]
    own = _least(*resource.getrlimit(what))
    return errors.ProgramError(
        f'{program} was ended: programs are limited to {own} {unit} here',
        hint=f'raise the limit: {command}',
    )


def _least(*limits: int) -> int:
    unlimited = resource.RLIM_INFINITY
    return min((one for one in limits if one != unlimited), default=unlimited)
