# SPDX-License-Identifier: Apache-2.0

"""How the domain reports on long work, without knowing who watches."""

import contextlib
from typing import Protocol


class Progress(Protocol):
    """Whoever watches. Tasks may run, and report, in several threads."""

    def task(
        self, description: str, total: int | None = None
    ) -> 'contextlib.AbstractContextManager[Task]':
        """Begin a piece of work.

        :param description: what it is, such as ``Sending kernel``.
        :param total: bytes to do; None if that is not known.
        """


class Task(Progress, Protocol):
    """One piece of work that is under way; its own tasks are steps of it."""

    def advance(self, amount: int) -> None:
        """Say that this many more bytes are done."""

    def expect(self, total: int) -> None:
        """Say how many bytes there are to do, which was not known before."""

    def restart(self) -> None:
        """Say that the work starts again from nothing."""

    def tell(self, result: str) -> None:
        """Say what the work has achieved, such as ``10.0 GiB -> 557 MiB``."""


class Quiet:
    """Nobody watches."""

    def task(
        self, description: str, total: int | None = None
    ) -> contextlib.AbstractContextManager[Task]:
        return contextlib.nullcontext(_Silent())


class _Silent(Quiet):
    def advance(self, amount: int) -> None:
        pass

    def expect(self, total: int) -> None:
        pass

    def restart(self) -> None:
        pass

    def tell(self, result: str) -> None:
        pass


#: For whoever is not told who watches.
QUIET = Quiet()
