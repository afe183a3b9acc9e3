# SPDX-License-Identifier: Apache-2.0

"""Commands that get a signal at any moment of their run.

Most of what it takes to run ``openstack`` is loading it, so that happens once:
a process that has loaded all makes a copy of itself for each command. That
copy is a process like any other; where the loading itself is to be
interrupted, ``cold`` commands are started from nothing.
"""

from collections.abc import Callable, Iterator
import dataclasses
import math
import os
import pathlib
import random
import re
import signal
import subprocess
import time

import fixtures

import amiclient
from amiclient.tests.cloud import forkserver as openstack_server
from amiclient.tests.functional import base

_ROOT = pathlib.Path(amiclient.__file__).parents[1]

#: Seconds after which what should have ended has not.
_LATE = 60

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: How Python says that it did not come as far as to run anything.
_NO_PYTHON = 'Fatal Python error: init_'

#: A frame of a traceback in our package, and the function.
_FRAME = re.compile(
    r'^ +File ".*/amiclient/(?!tests/).*", line \d+, in (.*)$', re.MULTILINE
)


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended.

    :param signal: what it got; None if it was left alone.
    :param after: seconds from its start to the signal.
    :param seconds: from its start to its end.
    """

    status: int
    stdout: str
    stderr: str
    signal: int | None
    after: float
    seconds: float

    @property
    def traced(self) -> bool:
        """Whether it gave a traceback that is of our making.

        A signal while Python still imports modules is not ours, and there is
        nothing that a module could do about it.
        """
        names = _FRAME.findall(self.stderr)
        if 'Traceback' not in self.stderr:
            return False
        return any(name != '<module>' for name in names)

    def is_fair(self) -> bool:
        """Tell whether the exit status is one for that signal."""
        if self.signal is None:
            return self.status == 0
        # Ours, the system's (before or after it is handled), or none at all:
        # it came after the end.
        if self.status in (128 + self.signal, -self.signal, 0):
            return True
        # Or Python's, which had not even started.
        return self.status == 1 and _NO_PYTHON in self.stderr


class Runner(fixtures.Fixture):
    """Runs ``openstack``, and interrupts it.

    :param directory: where what it says is kept.
    :ivar shortest: the seconds of the shortest run of a command that is
        loaded already and came to its end; what else runs on the machine can
        only make it longer.
    """

    def __init__(self, directory: pathlib.Path) -> None:
        super().__init__()
        self._directory = directory
        self.shortest = math.inf

    def _setUp(self) -> None:
        self._server = openstack_server.shared()

    def warm(
        self,
        *words: object,
        number: int | None = None,
        after: float = 0,
        when: Callable[[], bool] = lambda: True,
    ) -> Ended:
        """Run a command that is loaded already.

        :param number: the signal that it gets, if any.
        :param after: seconds after its start.
        :param when: what is so by then, unless it comes to its end before.
        """
        paths = [self._directory / 'stdout', self._directory / 'stderr']
        with paths[0].open('wb') as stdout, paths[1].open('wb') as stderr:
            begin = time.monotonic()
            child = self._server.start(
                *words, stdout=stdout.fileno(), stderr=stderr.fileno()
            )
        if number is not None:
            time.sleep(max(0.0, after - (time.monotonic() - begin)))
            while not when() and child.poll() is None:
                time.sleep(0.001)
            if child.poll() is None:
                child.send_signal(number)
            else:
                number = None
        status = child.wait(_LATE)
        seconds = child.ended - begin
        if status == 0:
            self.shortest = min(self.shortest, seconds)
        return Ended(
            status,
            *(path.read_text() for path in paths),
            number,
            after,
            seconds,
        )

    def cold(self, *words: object, number: int, after: float) -> Ended:
        """Run a command from nothing, as a user does."""
        begin = time.monotonic()
        child = subprocess.Popen(
            # As from a terminal, whatever this process ignores.
            ['env', '--default-signal=INT', *base.COMMAND, *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, 'PYTHONPATH': str(_ROOT)},
        )
        time.sleep(after)
        child.send_signal(number)
        stdout, stderr = child.communicate(timeout=_LATE)
        seconds = time.monotonic() - begin
        return Ended(child.returncode, stdout, stderr, number, after, seconds)


def points(
    seconds: Callable[[], float],
    count: int,
    chosen: random.Random,
    *signals: int,
) -> Iterator[tuple[int, float]]:
    """Spread signals over a run, with some at the very end.

    :param seconds: tells what the run takes, as far as is known by then.
    :param chosen: chooses the signals.
    :param signals: those to choose from; by default what users send.
    """
    ends = max(1, count // 10)
    shares = [n / (count - ends) for n in range(count - ends)]
    shares += [0.97 + 0.08 * n / ends for n in range(ends)]
    for share in shares:
        yield chosen.choice(signals or _SIGNALS), seconds() * share


def surviving(
    run: Callable[[int, float], Ended],
    moments: Iterator[tuple[int, float]],
    check: Callable[[Ended], str],
) -> dict[str, int]:
    """Interrupt again and again.

    :param run: runs the command, with a signal after so many seconds.
    :param check: checks what is left; it tells in a word what that is.
    :returns: how often it was told what.
    :raises AssertionError: with the moment, if something is wrong.
    """
    counts: dict[str, int] = {}
    for number, after in moments:
        ended = run(number, after)
        try:
            word = check(ended)
        except AssertionError as error:
            raise AssertionError(f'{ended}: {error}') from error
        counts[word] = counts.get(word, 0) + 1
    return counts
