# SPDX-License-Identifier: Apache-2.0

"""Errors that a user can act on.

Every error that this package raises on purpose is an :class:`AmiError`. Its
text is one line: what is wrong, with which file or id, and, where there is
something to do about it, a hint that says what.
"""

from collections.abc import Iterator
import contextlib

from amiclient import text


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
        return text.told(f'{self.sentence}{hint}')

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
def renamed(private: object, name: object) -> Iterator[None]:
    """Have errors call a file what the user calls it."""
    try:
        yield
    except AmiError as error:
        error.rename(private, name)
        raise
