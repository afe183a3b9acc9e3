#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.

"""How the domain reports on long work, without knowing who watches."""

import contextlib
from typing import Protocol


class Task(Protocol):
    """One piece of work that is under way."""

    def advance(self, amount: int) -> None:
        """Say that this many more bytes are done."""

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
