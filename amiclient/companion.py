# SPDX-License-Identifier: Apache-2.0

"""A program that runs beside this one, for as long as it is needed.

:mod:`amiclient.process` runs programs to their end; this is for one that has
none of its own, such as an emulator. It never outlives the process that
started it, whatever becomes of that.
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import os
import resource
import tempfile
from typing import IO

from amiclient import confinement
from amiclient import process

#: Characters of what it said last that go into errors.
_TAIL = 300

#: Seconds that one takes to end that lets nobody connect any more.
_SOON = 0.1

#: Runs a program, unless the process that wanted it is gone: one that died
#: before prctl(2) was called sends no signal any more.
_IF_WANTED = 'test "$PPID" = "$0" && exec "$@"'


class Companion:
    """A program that runs.

    :param name: what it is called.
    :param words: what it writes to stdout and stderr.
    :param memory: the bytes that it was given.
    """

    def __init__(
        self,
        child: process.Child,
        name: str,
        words: IO[bytes],
        memory: int | None,
    ) -> None:
        self._memory = memory
        self._child = child
        self._name = name
        self._words = words

    @property
    def pid(self) -> int:
        """Its number."""
        return self._child.pid

    def wait(self, seconds: float) -> bool:
        """Wait for its end, and tell whether it has come."""
        return process.waited(self._child, seconds)

    @property
    def status(self) -> int | None:
        """Its exit status; None as long as it runs."""
        return self._child.poll()

    def refuse_limited(self) -> None:
        """Make sure that it did not end at a limit.

        :raises ProgramError: if it did.
        """
        if self.wait(_SOON):
            result = process.Result(
                (self._name,), self._child.returncode, b'', self.tail()
            )
            process.refuse_limited(result, memory=self._memory)
            process.refuse_greedy(result, self._memory)

    def tail(self) -> str:
        """Its last words, as one line."""
        # It writes to the same open file: the position must stay its own.
        size = os.fstat(self._words.fileno()).st_size
        begin = max(0, size - 4 * _TAIL)
        data = os.pread(self._words.fileno(), 4 * _TAIL, begin)
        return ' '.join(data.decode(errors='backslashreplace').split())[
            -_TAIL:
        ]


@contextlib.contextmanager
def started(
    argv: Sequence[str | os.PathLike[str]],
    *,
    access: confinement.Access | None = None,
    inherited: Sequence[int] = (),
    memory: int | None = None,
) -> Iterator[Companion]:
    """Start a program, which is ended with the ``with`` block.

    It is killed with this process, too, even if that is killed itself
    (PR_SET_PDEATHSIG in prctl(2)). So it has to be started by a thread that
    lives as long as it is needed.

    :param argv: its name, without a folder, and its arguments.
    :param access: what it may open; None for whatever the user may.
    :param inherited: descriptors that it has as well, by the same numbers.
    :param memory: the bytes of address space that it may take.
    :raises ProgramError: if it is missing.
    """
    program = process.found(argv)
    if access is not None:
        access = dataclasses.replace(access, runs=program[:1])
    shell = ('/bin/sh', '-c', _IF_WANTED, str(os.getpid()))
    tied = process.found(
        ['setpriv', '--pdeathsig', 'KILL', '--', *shell, *program]
    )
    with tempfile.TemporaryFile() as words:
        where = words.fileno()
        with process.started(
            tied,
            access=access,
            stdout=where,
            stderr=where,
            inherited=inherited,
        ) as child:
            process.lower(child, resource.RLIMIT_AS, memory)
            try:
                yield Companion(child, program[0], words, memory)
            finally:
                process.end(child)
