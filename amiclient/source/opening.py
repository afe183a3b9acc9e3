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

_SPECIAL = (
    (stat.S_ISDIR, 'a directory'),
    (stat.S_ISFIFO, 'a FIFO'),
    (stat.S_ISSOCK, 'a socket'),
    (stat.S_ISCHR, 'a character device'),
    (stat.S_ISBLK, 'a block device'),
)


def special(path: pathlib.Path) -> str | None:
    """Tell what a path is, if it is not a regular file.

    :returns: a phrase such as ``a directory``; None for a regular file.
    :raises SourceError: if there is nothing, or nothing that may be looked
        at.
    """
    with _told(path):
        try:
            mode = os.stat(path).st_mode
        except ValueError as error:
            # A name with a NUL in it.
            raise errors.SourceError(
                str(error), subject=errors.shown(path)
            ) from error
    for test, phrase in _SPECIAL:
        if test(mode):
            return phrase
    return None


@contextlib.contextmanager
def opened(
    path: pathlib.Path, *, wanted: str, devices: bool = False
) -> Iterator[BinaryIO]:
    """Open a regular file for reading, at its beginning.

    While it is open, every OSError is taken to be a failure to read it.

    :param wanted: what it should be, such as ``a Linux kernel``, for the
        text of errors.
    :param devices: whether a block device will do as well.
    :raises SourceError: if there is no such file, or it is of another kind,
        or it cannot be read.
    """
    _refuse_special(path, wanted, devices)
    with _told(path):
        # Should it have become a FIFO since: O_NONBLOCK does not wait.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, 'rb') as file:
            mode = os.fstat(fd).st_mode
            if not (stat.S_ISREG(mode) or (devices and stat.S_ISBLK(mode))):
                raise errors.SourceError(
                    'not a file', subject=errors.shown(path)
                )
            yield file


def _refuse_special(path: pathlib.Path, wanted: str, devices: bool) -> None:
    phrase = special(path)
    if phrase and not (devices and phrase == 'a block device'):
        raise errors.SourceError(
            f'{phrase}, not {wanted}', subject=errors.shown(path)
        )


@contextlib.contextmanager
def _told(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        what = 'no such file'
        if path.is_symlink():
            what = 'a link to what is not there'
        raise errors.SourceError(what, subject=errors.shown(path)) from error
    except PermissionError as error:
        raise errors.SourceError(
            'permission denied',
            subject=errors.shown(path),
            hint='run this as a user who may read it',
        ) from error
    except OSError as error:
        raise errors.SourceError(
            f'cannot be read: {error.strerror}', subject=errors.shown(path)
        ) from error
