# SPDX-License-Identifier: Apache-2.0

"""How the domain reports on long work, without knowing who watches."""

import contextlib
from typing import Protocol


class Task(Protocol):
    """One piece of work that is under way."""

    def advance(self, amount: int) -> None:
        """Say that this many more bytes are done."""

    def expect(self, total: int) -> None:
        """Say how many bytes there are to do, which was not known before."""

    def restart(self) -> None:
        """Say that the work starts again from nothing."""


class Progress(Protocol):
    """Whoever watches. Tasks may run, and report, in several threads."""

    def task(
        self, description: str, total: int | None = None
    ) -> contextlib.AbstractContextManager[Task]:
        """Begin a piece of work.

        :param description: what it is, such as ``Sending kernel``.
        :param total: bytes to do; None if that is not known.
        """


class _Silent:
    def advance(self, amount: int) -> None:
        pass

    def expect(self, total: int) -> None:
        pass

    def restart(self) -> None:
        pass


class Quiet:
    """Nobody watches."""

    def task(
        self, description: str, total: int | None = None
    ) -> contextlib.AbstractContextManager[Task]:
        return contextlib.nullcontext(_Silent())


#: For whoever is not told who watches.
QUIET = Quiet()
