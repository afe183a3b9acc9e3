# SPDX-License-Identifier: Apache-2.0

"""The one way in which a file that a user named is opened.

Whatever the user named is looked at before it is opened, so that a FIFO does
not block and a tape does not rewind; it is opened read-only; and whatever
goes wrong is one line that names the file.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import errno
import os
import pathlib
import stat
import sys
from typing import BinaryIO

from amiclient import errors
from amiclient import scratch
from amiclient.source import block
from amiclient import sparse

#: What is a file as well, where devices are taken.
BLOCK_DEVICE = 'a block device'

#: Bytes of a pipe after which the room on the disk is looked at again.
_STEP = 64 << 20

_SPECIAL = (
    (stat.S_ISDIR, 'a directory'),
    (stat.S_ISFIFO, 'a FIFO'),
    (stat.S_ISSOCK, 'a socket'),
    (stat.S_ISCHR, 'a character device'),
    (stat.S_ISBLK, BLOCK_DEVICE),
)


@dataclasses.dataclass(frozen=True)
class Slice:
    """A file within another one, as it is: in an archive, say; or a file.

    :param start: bytes from the beginning of the other to it.
    :param size: bytes; None for all up to the end.
    """

    path: pathlib.Path
    start: int = 0
    size: int | None = None

    def within(self, file: BinaryIO) -> BinaryIO:
        """Read it by itself, by the file that it is in."""
        whole = not self.start and self.size is None
        if whole:
            return file
        name = errors.shown(self.path)
        return block.as_file(
            block.RawMedium(file, name, self.start, self.size)
        )

    def copy(self, target: pathlib.Path) -> None:
        """Write it to a new file."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with (
            opened(self.path, wanted='a file') as file,
            scratch.full_disk(target.parent),
            sparse.opened(target, flags) as descriptor,
        ):
            source, size = self.within(file), 0
            while data := source.read(sparse.CHUNK):
                sparse.append(descriptor, data, size)
                size += len(data)


#: What stands for standard input.
STDIN = pathlib.Path('-')


def is_pipe(path: pathlib.Path) -> bool:
    """Tell whether a path is standard input, or a FIFO."""
    return path == STDIN or special(path) == 'a FIFO'


def shown(path: pathlib.Path) -> str:
    """Tell what a source is called in errors."""
    return 'standard input' if path == STDIN else errors.shown(path)


@contextlib.contextmanager
def settled(
    path: pathlib.Path, place: pathlib.Path | None
) -> Iterator[pathlib.Path]:
    """Have a file in place of a pipe, with all that comes through it.

    :param place: where to make it; None for where there is most room.
    :returns: that, or the path itself if it is no pipe.
    :raises SourceError: if it cannot be read, or nothing comes.
    :raises NoSpaceError: if there is no room for it.
    """
    if not is_pipe(path):
        yield path
        return
    name = shown(path)
    lack = f'{name}: there is no directory to write it to'
    with scratch.directory(place, None, lack) as directory:
        target = directory / 'piped'
        with errors.renamed(target, name):
            _spool(path, target, name)
            yield target


def _spool(path: pathlib.Path, target: pathlib.Path, name: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with contextlib.ExitStack() as stack:
        if path != STDIN:
            with told(path):
                file: BinaryIO = stack.enter_context(path.open('rb'))
        elif sys.stdin is None or sys.stdin.isatty():
            raise errors.SourceError(
                'a terminal, not a root filesystem',
                subject=name,
                hint='give a file, or write to it: PROGRAM | openstack ami '
                '... -',
            )
        else:
            file = sys.stdin.buffer
        stack.enter_context(scratch.full_disk(target.parent))
        descriptor = stack.enter_context(sparse.opened(target, flags))
        size = looked = 0
        while data := file.read(sparse.CHUNK):
            if size >= looked:
                # It may have no end.
                scratch.check_room(target.parent, _STEP)
                looked += _STEP
            sparse.append(descriptor, data, size)
            size += len(data)
    if not size:
        raise errors.SourceError(
            'nothing came through the pipe',
            subject=name,
            hint='look at what the program before it says',
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
        if error.errno in (errno.EFBIG, *errors.FULL):
            # Of what is written of it; reading has no such errors.
            raise
        raise errors.SourceError(
            f'cannot be read: {error.strerror}', subject=name
        ) from error
