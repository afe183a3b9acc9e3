# SPDX-License-Identifier: Apache-2.0

"""Several things done side by side, of which one that fails ends all."""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
import contextlib
import ctypes
import resource
import threading
from typing import BinaryIO, TypeVar

from amiclient import errors

_S = TypeVar('_S')
_T = TypeVar('_T')

#: What is done: it is given an event that says when to give up.
Job = Callable[[threading.Event], _T]

#: Bytes that are read of a pipe at a time.
_CHUNK = 1 << 16

#: Seconds that jobs which are to give up have to notice. One that hangs in
#: the network is left to itself then, and ends with the program.
_GRACE = 5.0

#: M_ARENA_MAX of mallopt(3).
_ARENA_MAX = -8

#: Bytes of a thread's stack where address space is scarce. That of C alone:
#: what Python calls in Python takes none of it.
_SMALL_STACK = 2 << 20


def save_address_space() -> None:
    """Have threads reserve less address space, where it has a limit.

    Under ``ulimit -v``, what is reserved counts as if it were used: for each
    thread 64 MiB by malloc of glibc (arenas; mallopt(3)), and a stack of 8
    MiB. A few threads then take all that the limit leaves.
    """
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        return
    threading.stack_size(_SMALL_STACK)
    # A C library that is not glibc may have no such function, nor arenas.
    if mallopt := getattr(ctypes.CDLL(None), 'mallopt', None):
        mallopt(_ARENA_MAX, 1)


def start(
    work: Callable[[], _T], name: str
) -> tuple[threading.Thread, 'futures.Future[_T]']:
    """Do something in a thread that does not keep the program from ending.

    What hangs in the network is left to itself, and ends with the program.

    :returns: the thread; and what it returned or raised, in time.
    """
    done: futures.Future[_T] = futures.Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 (result() raises it)
            done.set_exception(error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread, done


def run(jobs: Mapping[str, Job[_T]]) -> dict[str, _T]:
    """Do several jobs, each in a thread of its own.

    Whatever passes by here meanwhile, a Ctrl-C too, ends them all.

    :returns: what each returned.
    :raises BaseException: whatever the first that failed has raised.
    """
    cancel = threading.Event()
    with contextlib.ExitStack() as stack:
        stack.callback(cancel.set)
        done = {
            name: stack.enter_context(beside(job, cancel))
            for name, job in jobs.items()
        }
        futures.wait(done.values(), return_when=futures.FIRST_EXCEPTION)
        failed = [f.exception() for f in done.values() if f.done()]
        # Those that gave up only followed.
        failed.sort(key=lambda e: isinstance(e, errors.CancelledError))
        for error in filter(None, failed):
            raise error
        return {name: future.result() for name, future in done.items()}


def spread(
    work: Callable[[_S], _T], items: Iterable[_S], *, at_once: int
) -> list[_T]:
    """Do the same with many things, with some of them at a time.

    :returns: what each returned, in the order of the things.
    :raises BaseException: whatever the first that failed has raised.
    """
    todo = collections.deque(enumerate(items))

    def some(cancel: threading.Event) -> dict[int, _T]:
        done: dict[int, _T] = {}
        with contextlib.suppress(IndexError):
            while not cancel.is_set():
                number, item = todo.popleft()
                done[number] = work(item)
        return done

    workers = range(min(at_once, len(todo)))
    found = run({f'worker {number}': some for number in workers})
    done = {k: v for each in found.values() for k, v in each.items()}
    return [done[number] for number in sorted(done)]


@contextlib.contextmanager
def beside(
    job: Job[_T], cancel: threading.Event
) -> Iterator['futures.Future[_T]']:
    """Do a job in a thread, for as long as the block lasts.

    :param cancel: is set when either side fails, and ends the other.
    :returns: its ``result()`` waits, and raises what the job raised.
    """

    def follow(done: 'futures.Future[_T]') -> None:
        if done.exception() is not None:
            cancel.set()

    thread, done = start(lambda: job(cancel), 'job')
    # Others give up once what failed is on record: run() tells it from them.
    done.add_done_callback(follow)
    try:
        yield done
    finally:
        cancel.set()
        thread.join(_GRACE)


class Pump(threading.Thread):
    """Takes all that comes through one pipe, and keeps some of it.

    A program that works on a hostile file may never stop talking: e2fsck
    with ``-n`` begins anew for ever with some.

    :param pipe: its end for reading.
    :param most: bytes that are kept; the rest is taken, and dropped.
    :param drop: whether that is all right.
    """

    def __init__(self, pipe: BinaryIO, most: int, *, drop: bool) -> None:
        super().__init__(daemon=True)
        self._pipe = pipe
        self._left = most
        self._drop = drop
        self._kept: list[bytes] = []
        #: Set when nothing more can come.
        self.done = threading.Event()
        #: Whether more came than is all right.
        self.overflowed = False

    def run(self) -> None:
        try:
            while data := self._pipe.read1(_CHUNK):  # type: ignore[attr-defined]
                if len(data) > self._left and not self._drop:
                    self.overflowed = True
                if self._left:
                    self._kept.append(data[: self._left])
                    self._left -= len(self._kept[-1])
        except (OSError, ValueError):
            # Closed, by who gave the program up.
            pass
        finally:
            self.done.set()

    @property
    def kept(self) -> bytes:
        return b''.join(self._kept)
