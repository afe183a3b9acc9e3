# SPDX-License-Identifier: Apache-2.0

"""Several things done side by side, of which one that fails ends all."""

from collections.abc import Callable, Mapping
from concurrent import futures
import threading
from typing import TypeVar

_T = TypeVar('_T')

#: What is done: it is given an event that says when to give up.
Job = Callable[[threading.Event], _T]

#: Seconds that jobs which are to give up have to notice.
_GRACE = 5.0


def run(jobs: Mapping[str, Job[_T]]) -> dict[str, _T]:
    """Do several jobs, each in a thread of its own.

    Whatever passes by here meanwhile, a Ctrl-C too, ends them all. One that
    hangs in the network is left to itself then, and ends with the program.

    :returns: what each returned.
    :raises BaseException: whatever the first that failed has raised.
    """
    cancel = threading.Event()
    done: dict[str, futures.Future[_T]] = {}
    threads = []
    for name, job in jobs.items():
        done[name] = futures.Future()
        threads.append(
            threading.Thread(
                target=_run, args=(job, cancel, done[name]), daemon=True
            )
        )
    try:
        for thread in threads:
            thread.start()
        futures.wait(done.values(), return_when=futures.FIRST_EXCEPTION)
        for future in done.values():
            if future.done() and (error := future.exception()):
                raise error
        return {name: future.result() for name, future in done.items()}
    finally:
        cancel.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join(_GRACE)


def _run(
    job: Job[_T], cancel: threading.Event, done: 'futures.Future[_T]'
) -> None:
    try:
        done.set_result(job(cancel))
    except BaseException as error:  # noqa: BLE001 (whoever waits raises it)
        done.set_exception(error)
