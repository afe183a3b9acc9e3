# SPDX-License-Identifier: Apache-2.0

"""Progress bars on a terminal."""

from collections.abc import Iterator
import contextlib
import threading
import typing

from amiclient import progress

if typing.TYPE_CHECKING:
    from rich import progress as rich_progress


def watcher(stream: typing.TextIO, *, wanted: bool) -> progress.Progress:
    """Choose who watches.

    :param stream: where bars would be drawn, stderr that is.
    :param wanted: false if the user wants none.
    """
    if wanted and stream.isatty():
        return Bars(stream)
    return progress.Quiet()


class _Bar:
    """One piece of work: a bar with its amount, rate and time left."""

    def __init__(
        self,
        display: 'rich_progress.Progress',
        key: 'rich_progress.TaskID',
        description: str,
    ) -> None:
        self._display = display
        self._key = key
        self._description = description
        self._attempt = 1

    def advance(self, amount: int) -> None:
        self._display.advance(self._key, amount)

    def restart(self) -> None:
        self._attempt += 1
        self._display.reset(
            self._key,
            description=f'{self._description} (attempt {self._attempt})',
        )


class Bars:
    """Bars for all that is under way, one below the other.

    They are drawn while there is any work, and wiped off afterwards, so that
    they never stand between what is printed.

    :param stream: a terminal.
    """

    def __init__(self, stream: typing.TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._display: rich_progress.Progress | None = None
        self._under_way = 0

    @contextlib.contextmanager
    def task(
        self, description: str, total: int | None = None
    ) -> Iterator[progress.Task]:
        """Show a bar for a piece of work.

        :param description: what it is.
        :param total: bytes to do; the bar only pulsates if that is None.
        """
        with self._lock:
            if self._display is None:
                self._display = self._open()
            display = self._display
            self._under_way += 1
        key = display.add_task(description, total=total)
        try:
            yield _Bar(display, key, description)
        finally:
            with self._lock:
                self._under_way -= 1
                display.remove_task(key)
                if not self._under_way:
                    self._display = None
                    display.stop()

    def _open(self) -> 'rich_progress.Progress':
        # Takes 50 ms to load, which every `openstack` command would pay for.
        from rich import console
        from rich import progress as rich_progress

        display = rich_progress.Progress(
            rich_progress.TextColumn('{task.description}'),
            rich_progress.BarColumn(),
            rich_progress.DownloadColumn(),
            rich_progress.TransferSpeedColumn(),
            rich_progress.TimeRemainingColumn(),
            console=console.Console(file=self._stream),
            transient=True,
        )
        display.start()
        return display
