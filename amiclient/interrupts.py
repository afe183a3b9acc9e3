# SPDX-License-Identifier: Apache-2.0

"""Ctrl-C, SIGTERM and SIGHUP as one exception, raised once.

Cleaning up is what exceptions are for: whoever makes something takes it back
when one passes by. So the signals that end a program are turned into one. The
first is raised in the main thread; those that follow only say that cleaning
is under way, for a user who presses Ctrl-C twice wants it to end sooner, not
to be left with half of the cleaning.
"""

from collections.abc import Callable, Iterator
import contextlib
import functools
import os
import signal
import sys
import threading
import types

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: Seconds after which a signal that was lost is sent again.
_LATER = 0.02


class _Again:
    """What is called at signals that have no effect any more."""

    call: Callable[[], None] | None = None


def _have_no_effect(signum: int, frame: types.FrameType | None) -> None:
    if _Again.call is not None:
        _Again.call()


class Interrupted(KeyboardInterrupt):
    """The user, or the system, wants the program to end.

    A ``KeyboardInterrupt``, so that nothing takes it for an error.

    :param signum: the signal that said so.
    """

    def __init__(self, signum: int) -> None:
        super().__init__('interrupted')
        self.signum = signum

    @property
    def status(self) -> int:
        """The exit status that a shell gives for this signal."""
        return 128 + self.signum


def _end(signum: int, frame: types.FrameType | None) -> None:
    with contextlib.suppress(OSError):
        os.write(2, b'interrupted\n')
    os._exit(Interrupted(signum).status)


def end_at_once() -> None:
    """Have Ctrl-C end this process, as long as nothing has been made.

    That is, until :func:`raised`. An exception would not do: what imports
    modules may lose it, print it, or make another one of it. From then on,
    a Ctrl-C that comes too late for any ``except`` has no traceback printed.

    It does nothing where Ctrl-C has another meaning than in most programs.
    """
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):
        _without_traceback()
        signal.signal(signal.SIGINT, _end)


@functools.cache
def _without_traceback() -> None:
    """Print none, while the interpreter ends, for Ctrl-C; only once."""
    uncaught, unraisable = sys.excepthook, sys.unraisablehook

    def uncaught_hook(
        kind: type[BaseException],
        error: BaseException,
        trace: types.TracebackType | None,
    ) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            uncaught(kind, error, trace)

    def unraisable_hook(problem: 'sys.UnraisableHookArgs') -> None:
        if not isinstance(problem.exc_value, KeyboardInterrupt):
            unraisable(problem)

    sys.excepthook, sys.unraisablehook = uncaught_hook, unraisable_hook


@contextlib.contextmanager
def _handled(
    handler: Callable[[int, types.FrameType | None], None],
) -> Iterator[None]:
    """Handle the signals; what ``nohup`` has ignored stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        # Python delivers signals to the main thread, and lets only that one
        # say what becomes of them.
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    if before[signal.SIGINT] is _end:
        # The command has begun, and will be over.
        before[signal.SIGINT] = signal.default_int_handler
    ours = [n for n in _SIGNALS if before[n] not in (signal.SIG_IGN, None)]
    try:
        for number in ours:
            signal.signal(number, handler)
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


@contextlib.contextmanager
def raised(again: Callable[[], None] | None = None) -> Iterator[None]:
    """Raise the first signal as :class:`Interrupted`, and ignore the rest.

    :param again: is called at each signal that comes after the first, or
        while signals are ignored.
    """
    raised_before = False

    def handler(signum: int, frame: types.FrameType | None) -> None:
        nonlocal raised_before
        if not raised_before:
            raised_before = True
            raise Interrupted(signum)
        _have_no_effect(signum, frame)

    def lost() -> None:
        nonlocal raised_before
        raised_before = False

    before, _Again.call = _Again.call, again
    try:
        with _handled(handler), _sent_again(lost):
            yield
    finally:
        _Again.call = before


@contextlib.contextmanager
def _sent_again(lost: Callable[[], None]) -> Iterator[None]:
    """Send a signal once more that was raised where nothing can be raised.

    Python prints and drops what passes out of ``__del__`` and of a callback
    of a weak reference, either of which may run at any time.

    :param lost: is called before.
    """
    timers: list[threading.Timer] = []

    def hook(problem: 'sys.UnraisableHookArgs') -> None:
        if not isinstance(problem.exc_value, Interrupted):
            before(problem)
            return
        lost()
        # Here it would be dropped again.
        timer = threading.Timer(
            _LATER,
            signal.pthread_kill,
            (threading.main_thread().ident, problem.exc_value.signum),
        )
        timers.append(timer)
        timer.start()

    before, sys.unraisablehook = sys.unraisablehook, hook
    try:
        yield
    finally:
        sys.unraisablehook = before
        for timer in timers:
            timer.cancel()
            timer.join()


@contextlib.contextmanager
def ignored() -> Iterator[None]:
    """Let no signal get in the way: for undoing, which must be finished."""
    with _handled(_have_no_effect):
        yield


def undo(work: Callable[[], None]) -> None:
    """Undo something to the end, whatever signals come.

    :param work: begun again, it goes on where it was; once it is done, it
        does nothing.
    """
    try:
        with ignored():
            work()
    except Interrupted:
        # It came just before signals were ignored, and is the only one.
        with ignored():
            work()


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Let a signal have its effect only after the block; others have none.

    For what a signal must not cut in two: making something and writing down
    that it was made, or what can only be finished once it has begun.
    """
    arrived: list[int] = []

    def handler(signum: int, frame: types.FrameType | None) -> None:
        if arrived:
            _have_no_effect(signum, frame)
        arrived.append(signum)

    try:
        with _handled(handler):
            yield
    finally:
        for number in arrived[:1]:
            signal.raise_signal(number)
