# SPDX-License-Identifier: Apache-2.0

"""Errors that a user can act on.

Every error that this package raises on purpose is an :class:`AmiError`. Its
text is one line: what is wrong, with which file or id, and, where there is
something to do about it, a hint that says what.
"""

from amiclient import text


class AmiError(Exception):
    """Anything that keeps a command from doing what was asked.

    :param message: what is wrong, naming the file or id; no final period.
    :param hint: what the user can do next, as a clause; None if nothing.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        # The parts may come from an image or from the cloud.
        words = f'{self.message}; {self.hint}' if self.hint else self.message
        return text.told(words)


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
        hint: str | None = None,
        status: int | None = None,
        again: float | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.again = again


class NotFoundError(CloudError):
    """No such image."""


class TransferError(CloudError):
    """Data did not arrive, or did not arrive as it was sent."""


class CancelledError(AmiError):
    """The work was given up because another part of it failed."""
