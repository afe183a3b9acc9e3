# SPDX-License-Identifier: Apache-2.0

"""Who watches long work: bars on a terminal, lines in a log, or a program.

Work has phases, which leave a line each that says what they achieved, and a
phase may have steps, which leave none.
"""

from collections.abc import Callable, Iterator
import contextlib
import json
import logging
import os
import sys
import threading
import time
import typing

from amiclient import errors
from amiclient.osc import values
from amiclient import progress
from amiclient import units

if typing.TYPE_CHECKING:
    from rich import progress as rich_progress

#: The environment's answer where no option gives one.
VARIABLE = 'AMICLIENT_PROGRESS'

#: Seconds between two lines on the same phase.
_PLAIN = 10.0
_JSON = 1.0

#: What has been done is said in other words than what is being done.
_DONE = {
    'Authenticating': 'authenticated',
    'Booting': 'booted',
    'Building': 'built',
    'Checking': 'checked',
    'Comparing': 'compared',
    'Compressing': 'compressed',
    'Copying': 'copied',
    'Downloading': 'downloaded',
    'Fetching': 'fetched',
    'Hashing': 'hashed',
    'Importing': 'imported',
    'Looking': 'looked',
    'Packing': 'packed',
    'Preparing': 'prepared',
    'Reading': 'read',
    'Repairing': 'repaired',
    'Resizing': 'resized',
    'Sending': 'sent',
    'Shrinking': 'shrunk',
    'Signing': 'signed',
    'Starting': 'started',
    'Testing': 'tested',
    'Unpacking': 'unpacked',
    'Verifying': 'verified',
}


def choose(
    stream: typing.TextIO, asked: str | None, *, quiet: bool
) -> progress.Progress:
    """Choose who watches.

    :param asked: what ``--progress`` says; None leaves it to the environment.
    :param quiet: whether ``auto`` means nobody.
    :raises UsageError: if the environment makes no sense.
    """
    asked = asked or os.environ.get(VARIABLE) or 'auto'
    if asked not in values.WAYS:
        raise errors.UsageError(
            f'{asked!r} shows no progress',
            subject=VARIABLE,
            hint=f'use {", ".join(values.WAYS)}',
        )
    if asked == 'none' or (asked == 'auto' and quiet):
        return progress.QUIET
    if asked == 'json':
        return Records(stream)
    # What cannot move its cursor has no place for bars.
    is_terminal = stream.isatty() and os.environ.get('TERM') != 'dumb'
    if asked == 'plain' or not is_terminal:
        return Lines(stream)
    return Bars(stream)


class _Undertaking:
    """A phase, or a step of one."""

    def __init__(
        self,
        watcher: '_Watcher',
        description: str,
        total: int | None,
        phase: '_Undertaking | None',
    ) -> None:
        self._watcher = watcher
        self.description = description
        self.total = total
        self.phase = phase
        self.done = 0
        self.attempt = 1
        self.result: str | None = None
        self.begin = watcher.clock()
        #: When something was last said of it.
        self.said = self.begin
        #: What a display knows it by.
        self.key: typing.Any = None

    @property
    def seconds(self) -> float:
        return self._watcher.clock() - self.begin

    def advance(self, amount: int) -> None:
        self.done += amount
        self._watcher.moved(self)

    def expect(self, total: int) -> None:
        self.total = total
        self._watcher.moved(self)

    def restart(self) -> None:
        self.done = 0
        self.attempt += 1
        self._watcher.moved(self)

    def tell(self, result: str) -> None:
        self.result = result

    def task(
        self, description: str, total: int | None = None
    ) -> contextlib.AbstractContextManager[progress.Task]:
        return self._watcher.work(description, total, self)

    def __str__(self) -> str:
        """Say what is being done, and how far it is."""
        words = self.description
        if self.attempt > 1:
            words += f' (attempt {self.attempt})'
        if self.total:
            amount = units.format_size(self.done)
            share = f'{100 * self.done // self.total} %'
            words += f': {amount} of {units.format_size(self.total)}, {share}'
        return words

    def finished(self) -> str:
        """Say what was done."""
        verb, *rest = self.description.split(' ')
        words = ' '.join((_DONE.get(verb, verb), *rest))
        result = self.result
        if result is None and self.total:
            result = units.format_size(self.total)
        if result:
            words += f': {result}'
        return f'{words} in {_duration(self.seconds)}'


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f'{seconds:.1f} s'
    return f'{seconds // 60:.0f} min {seconds % 60:.0f} s'


class _Watcher:
    """Knows what is under way, in all threads.

    :param stream: what is written to.
    """

    def __init__(
        self,
        stream: typing.TextIO,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self.clock = clock
        self._lock = threading.Lock()
        self._under_way: list[_Undertaking] = []

    def task(
        self, description: str, total: int | None = None
    ) -> contextlib.AbstractContextManager[progress.Task]:
        """Begin a phase."""
        return self.work(description, total, None)

    @contextlib.contextmanager
    def work(
        self, description: str, total: int | None, phase: _Undertaking | None
    ) -> Iterator[progress.Task]:
        """Begin a phase, or a step of one."""
        work = _Undertaking(self, description, total, phase)
        with self._lock:
            if not self._under_way:
                self._open()
            self._under_way.append(work)
            self._begin(work)
        is_done = False
        try:
            yield work
            is_done = True
        finally:
            with self._lock:
                self._under_way.remove(work)
                self._end(work, is_done=is_done)
                if not self._under_way:
                    self._close()

    def moved(self, work: _Undertaking) -> None:
        """Notice that some work is further than it was."""

    def _open(self) -> None:
        raise NotImplementedError

    def _close(self) -> None:
        raise NotImplementedError

    def _begin(self, work: _Undertaking) -> None:
        pass

    def _end(self, work: _Undertaking, *, is_done: bool) -> None:
        raise NotImplementedError


class Lines(_Watcher):
    """A line for each phase that is done, and for what takes long."""

    _seconds = _PLAIN

    def _open(self) -> None:
        self._closed = threading.Event()
        thread = threading.Thread(
            target=self._run, args=(self._closed,), daemon=True
        )
        # Where there may be no other thread, there are fewer lines.
        with contextlib.suppress(RuntimeError):
            thread.start()

    def _close(self) -> None:
        self._closed.set()

    def _run(self, closed: threading.Event) -> None:
        while not closed.wait(_JSON):
            self.tick()

    def tick(self) -> None:
        """Say how far each phase is of which nothing was said for long."""
        with self._lock:
            now = self.clock()
            phases = {id(work.phase or work): work for work in self._under_way}
            for work in phases.values():
                phase = work.phase or work
                if now - phase.said >= self._seconds:
                    phase.said = now
                    self._say_progress(phase, work)

    def _say_progress(self, phase: _Undertaking, work: _Undertaking) -> None:
        words = str(phase) if work is phase else f'{phase}: {work}'
        self._write(f'{_small(words)}, {_duration(phase.seconds)}')

    def _end(self, work: _Undertaking, *, is_done: bool) -> None:
        if is_done and work.phase is None:
            self._write(work.finished())

    def _write(self, line: str) -> None:
        # Nobody has to read it.
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(f'{errors.safe(line)}\n')
            self._stream.flush()


def _small(words: str) -> str:
    return words[:1].lower() + words[1:]


class Records(Lines):
    """A JSON object for each event, for programs."""

    _seconds = _JSON

    def _begin(self, work: _Undertaking) -> None:
        if work.phase is None:
            self._record('started', work, work)

    def _say_progress(self, phase: _Undertaking, work: _Undertaking) -> None:
        self._record('progress', phase, work)

    def _end(self, work: _Undertaking, *, is_done: bool) -> None:
        if work.phase is None:
            event = 'finished' if is_done else 'failed'
            self._record(event, work, work)

    def _record(
        self, event: str, phase: _Undertaking, work: _Undertaking
    ) -> None:
        found = {
            'event': event,
            'phase': phase.description,
            'step': None if work is phase else work.description,
            'bytes': None if work.total is None else work.done,
            'total': work.total,
            'attempt': work.attempt,
            'seconds': round(phase.seconds, 3),
            'result': phase.result,
        }
        self._write(json.dumps(found))


class Bars(_Watcher):
    """Bars for all that is under way, one below the other.

    They are drawn while there is any work, and wiped off afterwards. Each
    phase leaves its line above them, and so does what is logged meanwhile.

    :param stream: a terminal.
    """

    _display: 'rich_progress.Progress | None' = None

    def moved(self, work: _Undertaking) -> None:
        """Draw it."""
        if self._display is not None:
            self._display.update(
                work.key,
                completed=work.done,
                total=work.total,
                description=_title(work),
            )

    def _open(self) -> None:
        self._display = _display(self._stream)
        self._display.start()
        self._logged = [
            handler
            for handler in logging.getLogger().handlers
            if getattr(handler, 'stream', None) is self._stream
        ]
        self._log_to(sys.stderr)

    def _close(self) -> None:
        self._log_to(self._stream)
        if self._display is not None:
            self._display.stop()
            self._display = None

    def _log_to(self, stream: typing.TextIO) -> None:
        for handler in self._logged:
            if isinstance(handler, logging.StreamHandler):
                handler.setStream(stream)

    def _begin(self, work: _Undertaking) -> None:
        if self._display is not None:
            work.key = self._display.add_task(_title(work), total=work.total)

    def _end(self, work: _Undertaking, *, is_done: bool) -> None:
        if self._display is None:
            return
        self._display.remove_task(work.key)
        if is_done and work.phase is None:
            self._display.console.print(
                errors.safe(work.finished()),
                markup=False,
                highlight=False,
                soft_wrap=True,
            )


def _title(work: _Undertaking) -> str:
    indent = '  ' if work.phase else ''
    attempt = f' (attempt {work.attempt})' if work.attempt > 1 else ''
    return f'{indent}{work.description}{attempt}'


def _display(stream: typing.TextIO) -> 'rich_progress.Progress':
    # Takes 50 ms to load, which every `openstack` command would pay for.
    from rich import console
    from rich import progress as rich_progress
    from rich import text

    class Amount(rich_progress.ProgressColumn):
        """How much is done, how fast, and how long it will take."""

        def render(self, task: rich_progress.Task) -> text.Text:
            if task.total is None:
                return text.Text(_duration(task.elapsed or 0))
            done = units.format_size(int(task.completed))
            words = f'{done} of {units.format_size(int(task.total))}'
            if task.speed:
                words += f', {units.format_size(int(task.speed))}/s'
            if task.time_remaining:
                words += f', {task.time_remaining:.0f} s left'
            return text.Text(words)

    # sys.stderr is what prints above the bars, as long as they are there.
    return rich_progress.Progress(
        rich_progress.TextColumn('{task.description}', markup=False),
        rich_progress.BarColumn(bar_width=20),
        Amount(),
        console=console.Console(file=stream),
        transient=True,
    )
