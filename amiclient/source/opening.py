# SPDX-License-Identifier: Apache-2.0

"""The one way in which a file that a user named is opened.

Whatever the user named is looked at before it is opened, so that a FIFO does
not block and a tape does not rewind; it is opened read-only; and whatever
goes wrong is one line that names the file.
"""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import stat
from typing import BinaryIO

from amiclient import errors

#: What is a file as well, where devices are taken.
BLOCK_DEVICE = 'a block device'

_SPECIAL = (
    (stat.S_ISDIR, 'a directory'),
    (stat.S_ISFIFO, 'a FIFO'),
    (stat.S_ISSOCK, 'a socket'),
    (stat.S_ISCHR, 'a character device'),
    (stat.S_ISBLK, BLOCK_DEVICE),
)


def special(path: pathlib.Path, name: str | None = None) -> str | None:
    """Tell what a path is, if it is not a regular file.

    :param name: what to call it in errors, if not by its path.
    :returns: a phrase such as ``a directory``; None for a regular file.
    :raises SourceError: if there is nothing, or nothing that may be looked
        at.
    """
    with told(path, name):
        try:
            mode = os.stat(path).st_mode
        except ValueError as error:
            # A name with a NUL in it.
            name = name or errors.shown(path)
            raise errors.SourceError(str(error), subject=name) from error
    for test, phrase in _SPECIAL:
        if test(mode):
            return phrase
    return None


@contextlib.contextmanager
def opened(
    path: pathlib.Path,
    *,
    wanted: str,
    devices: bool = False,
    name: str | None = None,
) -> Iterator[BinaryIO]:
    """Open a regular file for reading, at its beginning.

    While it is open, every OSError is taken to be a failure to read it.

    :param wanted: what it should be, such as ``a Linux kernel``, for the
        text of errors.
    :param devices: whether a block device will do as well.
    :param name: what to call it in errors, if not by its path.
    :raises SourceError: if there is no such file, or it is of another kind,
        or it cannot be read.
    """
    phrase = special(path, name)
    if phrase and not (devices and phrase == BLOCK_DEVICE):
        raise errors.SourceError(
            f'{phrase}, not {wanted}', subject=name or errors.shown(path)
        )
    with told(path, name):
        # Should it have become a FIFO since: O_NONBLOCK does not wait.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, 'rb') as file:
            mode = os.fstat(fd).st_mode
            if not (stat.S_ISREG(mode) or (devices and stat.S_ISBLK(mode))):
                raise errors.SourceError(
                    'not a file', subject=name or errors.shown(path)
                )
            yield file


@contextlib.contextmanager
def told(path: pathlib.Path, name: str | None = None) -> Iterator[None]:
    """Say why a file cannot be opened or read.

    :param name: what to call it, if not by its path.
    """
    name = name or errors.shown(path)
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        what = 'no such file'
        if path.is_symlink():
            what = 'a link to a file that does not exist'
        raise errors.SourceError(what, subject=name) from error
    except PermissionError as error:
        raise errors.SourceError(
            'permission denied',
            subject=name,
            hint='run this as a user who may read it',
        ) from error
    except OSError as error:
        raise errors.SourceError(
            f'cannot be read: {error.strerror}', subject=name
        ) from error
