# SPDX-License-Identifier: Apache-2.0

"""Errors that a user can act on.

Every error that this package raises on purpose is an :class:`AmiError`. Its
text is one line: what is wrong, with which file or id, and, where there is
something to do about it, a hint that says what.

File names, what is in images, and what the cloud says may hold newlines,
escape sequences and characters that turn the direction of writing: they could
hide what is said, or make a terminal do things. What cannot be printed is
written as Python would write it in a string.
"""

from collections.abc import Iterator, Sequence
import contextlib
import errno
import os
import re
import resource

#: Characters of a name that are shown; of a word that are told if it has far
#: more; and of a line. Paths, URLs and commands with many ids have fewer.
_NAME = 1000
_WORD = 120
_LONG_WORD = re.compile(r'\S{5000,}')
_LINE = 20_000

#: Bytes that are no UTF-8 are these code points in Python's file names
#: (PEP 383).
_BYTES = range(0xDC80, 0xDD00)

#: What write(2) says when there is no room, for this user or at all.
FULL = (errno.ENOSPC, errno.EDQUOT)

#: What to do about a limit to the size of files, as bash(1) has it.
RAISE = 'raise the limit: ulimit -f unlimited'


class AmiError(Exception):
    """Anything that keeps a command from doing what was asked.

    It is printed as ``SUBJECT: message; hint``.

    :param message: what is wrong; no final period.
    :param subject: the file, image or command that it is about; None if the
        message names it, or whoever raises it does not know it.
    :param hint: what the user can do next, as a clause; None if nothing.
    """

    def __init__(
        self,
        message: str,
        *,
        subject: object = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.subject = None if subject is None else str(subject)
        self.hint = hint

    @property
    def sentence(self) -> str:
        """What is wrong with what, without the hint."""
        if self.subject is None:
            return self.message
        return f'{self.subject}: {self.message}'

    def __str__(self) -> str:
        # The parts may come from an image or from the cloud.
        hint = f'; {self.hint}' if self.hint else ''
        return told(f'{self.sentence}{hint}')

    def rename(self, private: object, name: object) -> None:
        """Call a file what the user calls it, in place of a private name."""
        self.message = self.message.replace(str(private), str(name))
        if self.subject is not None:
            self.subject = self.subject.replace(str(private), str(name))


class UsageError(AmiError):
    """Options that are malformed or exclude each other."""


class SourceError(AmiError):
    """The source, kernel or ramdisk is missing or not what it must be."""


class BusyError(SourceError):
    """The source is mounted or written to by somebody else."""


class DamagedError(SourceError):
    """The filesystem is damaged beyond what preening mends."""


class UnsupportedError(SourceError):
    """The filesystem has a feature that e2fsprogs cannot shrink."""


class NoSpaceError(AmiError):
    """There is no room for a copy or an output file."""


class TooLargeError(AmiError):
    """A file may not become as large as it would have to, wherever it is."""


class ProgramError(AmiError):
    """Another program is missing, too old, or failed."""


class CloudError(AmiError):
    """The cloud refused, or does not hold what it was asked for.

    :param status: the HTTP status that said so; None if there was no answer.
    :param again: None if the same request would fail again; if it may succeed
        later, the seconds that the cloud asked to wait at least, or 0.
    """

    def __init__(
        self,
        message: str,
        *,
        subject: object = None,
        hint: str | None = None,
        status: int | None = None,
        again: float | None = None,
    ) -> None:
        super().__init__(message, subject=subject, hint=hint)
        self.status = status
        self.again = again


class NotFoundError(CloudError):
    """No such image."""


class TransferError(CloudError):
    """Data did not arrive, or did not arrive as it was sent."""


class CancelledError(AmiError):
    """The work was given up because another part of it failed."""


@contextlib.contextmanager
def about(subject: object) -> Iterator[None]:
    """Name the file in errors of a filesystem that do not know it."""
    try:
        yield
    except (DamagedError, UnsupportedError) as error:
        if error.subject is None:
            error.subject = str(subject)
        raise


@contextlib.contextmanager
def about_cloud(title: str) -> Iterator[None]:
    """Name the cloud, one of several, in errors that do not know it."""
    try:
        yield
    except AmiError as error:
        error.subject = error.subject or title
        raise


@contextlib.contextmanager
def renamed(private: object, name: object) -> Iterator[None]:
    """Have errors call a file what the user calls it."""
    try:
        yield
    except AmiError as error:
        error.rename(private, name)
        raise


def largest_file() -> int | None:
    """Return the bytes that a file may have (setrlimit(2)); None for any."""
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return None if limit == resource.RLIM_INFINITY else limit


def too_large(where: object) -> TooLargeError:
    """Say why a file cannot become as large as it would have to (EFBIG).

    :param where: what to call the directory that it is in.
    """
    limit = largest_file()
    if limit is None:
        return TooLargeError(
            'the filesystem there cannot hold a file that large',
            subject=where,
            hint='choose a directory on another filesystem',
        )
    return TooLargeError(
        f'files are limited to {limit} bytes here', subject=where, hint=RAISE
    )


def safe(text: str) -> str:
    """Write text so that it is one line without control characters.

    That goes for all that Unicode has for control, format (so the marks and
    overrides of direction), private use and nothing, and for separators other
    than the space. What is safe already stays as it is.
    """
    if text.isprintable():
        return text
    return ''.join(c if c.isprintable() else _escaped(c) for c in text)


def shown(
    name: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    most: int = _NAME,
) -> str:
    """Write a file name, or another from elsewhere, as safe() does.

    :param most: characters; what is longer ends in dots.
    """
    written = safe(os.fsdecode(name))
    return written if len(written) <= most else f'{written[: most - 3]}...'


def told(text: str) -> str:
    """Write an error or a warning as safe() does, without its long parts.

    There may be a name in it that has two million letters.
    """
    written = _LONG_WORD.sub(lambda word: f'{word[0][:_WORD]}...', safe(text))
    if len(written) <= _LINE:
        return written
    half = _LINE // 2
    return f'{written[:half]} ... {written[-half:]}'


def some(names: Sequence[str], most: int = 5, *, between: str = ', ') -> str:
    """Name the first few, and count the rest."""
    more = len(names) - most
    words = between.join(names[:most])
    return f'{words} and {more} more' if more > 0 else words


def _escaped(char: str) -> str:
    code = ord(char)
    if code in _BYTES:
        return f'\\x{code & 0xFF:02x}'
    return char.encode('unicode_escape').decode('ascii')
