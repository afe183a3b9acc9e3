# SPDX-License-Identifier: Apache-2.0

"""What a command costs, with all the programs that it starts.

Times and writes are the kernel's accounts of the process and of all its
children that were waited for (getrusage(2)). Peaks of memory are not, for a
child's account begins with what its parent had when it forked; they are looked
up while the processes run (``VmHWM``, proc(5)), which needs a kernel that
lists children in ``/proc``, as most do.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import os
import pathlib
import statistics
import subprocess
import tempfile
import threading
import time

#: Seconds between two looks at the memory of all processes.
_INTERVAL = 0.02

#: getrusage(2) counts writes in blocks of this many bytes.
_BLOCK = 512

#: What the client's process is called, whoever starts it.
_CLIENT = 'openstack'


class CommandFailed(Exception):
    """A command that was to be measured did not do its work."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one run of a command took.

    :param wall: seconds.
    :param cpu: seconds, of all its processes, in user and kernel mode.
    :param client: bytes of memory, the peak of any ``openstack`` process.
    :param others: the same of any other process, e2fsprogs' for one.
    :param written: bytes that files got, on their way to a disk.
    """

    wall: float
    cpu: float
    client: int
    others: int
    written: int


class _Watch(threading.Thread):
    """Looks at a process and all below it until it is told to stop."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._ended = threading.Event()
        self.client = self.others = 0

    def run(self) -> None:
        while not self._ended.wait(_INTERVAL):
            for pid in _tree(self._pid):
                # It may be gone by now.
                with contextlib.suppress(OSError):
                    self._look(pathlib.Path('/proc') / pid)

    def _look(self, process: pathlib.Path) -> None:
        status = dict(
            line.split(':\t', 1)
            for line in (process / 'status').read_text().splitlines()
        )
        # A zombie has none.
        peak = int(status.get('VmHWM', '0 kB').split()[0]) * 1024
        if status['Name'] == _CLIENT:
            self.client = max(self.client, peak)
        else:
            self.others = max(self.others, peak)

    def stop(self) -> None:
        self._ended.set()
        self.join()


def _tree(pid: int) -> Iterator[str]:
    waiting = [str(pid)]
    while waiting:
        pid_ = waiting.pop()
        yield pid_
        # Threads and processes may end meanwhile.
        with contextlib.suppress(OSError):
            for thread in pathlib.Path(f'/proc/{pid_}/task').iterdir():
                with contextlib.suppress(OSError):
                    children = (thread / 'children').read_text()
                    waiting += children.split()


def run(
    argv: Sequence[str | os.PathLike[str]], *, env: Mapping[str, str]
) -> Cost:
    """Run a command to its end, and tell what it cost.

    :param env: all of its environment.
    :raises CommandFailed: with its last words, if it fails.
    """
    with tempfile.TemporaryFile() as output:
        begin = time.perf_counter()
        process = subprocess.Popen(
            argv,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        watch = _Watch(process.pid)
        watch.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begin
        watch.stop()
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            words = output.read().decode(errors='replace')[-2000:]
            raise CommandFailed(f'{[*map(str, argv)]}: {words}')
    return Cost(
        wall=wall,
        cpu=usage.ru_utime + usage.ru_stime,
        client=watch.client,
        others=watch.others,
        written=usage.ru_oublock * _BLOCK,
    )


class Series:
    """What several rounds gave, by what was measured."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, list[float]]] = {}

    def add(self, subject: str, **values: float) -> None:
        """Add what one round gave."""
        taken = self.values.setdefault(subject, {})
        for name, value in values.items():
            taken.setdefault(name, []).append(value)

    def add_cost(self, subject: str, cost: Cost) -> None:
        """Add a command's cost."""
        self.add(subject, **dataclasses.asdict(cost))

    def of(self, subject: str, name: str) -> list[float]:
        """Tell the values, round by round."""
        return self.values[subject][name]

    def median(self, subject: str, name: str) -> float:
        """Tell the one in the middle."""
        return statistics.median(self.of(subject, name))

    def combined(
        self,
        formula: Callable[..., float],
        *columns: tuple[str, str],
    ) -> list[float]:
        """Compute something from each round's values.

        :param columns: what the formula takes, as subject and name.
        """
        return [*map(formula, *(self.of(*column) for column in columns))]
