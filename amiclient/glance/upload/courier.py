# SPDX-License-Identifier: Apache-2.0

"""Work that is done beside other work."""

from collections.abc import Callable
from concurrent import futures
import threading
import types
import typing
from typing import Generic, TypeVar

#: Seconds that a transfer which was given up has to notice. One that hangs
#: in the network is left to itself: the image is removed all the same.
_PATIENCE = 10.0

_T = TypeVar('_T')


class Courier(Generic[_T]):
    """Does some work in a thread, for as long as the block lasts.

    :param work: what to do.
    :param cancel: is set when either side fails, and ends the other.
    """

    def __init__(
        self, work: Callable[[], _T], cancel: threading.Event
    ) -> None:
        self._work = work
        self._cancel = cancel
        self._done: futures.Future[_T] = futures.Future()
        # A daemon, so that a request that hangs does not keep the program
        # from ending.
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self._done.set_result(self._work())
        except BaseException as error:  # noqa: BLE001 (result() raises it)
            self._cancel.set()
            self._done.set_exception(error)

    def result(self) -> _T:
        """Wait for the work to be done; raise what it raised."""
        return self._done.result()

    def __enter__(self) -> typing.Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self._cancel.set()
        self._thread.join(_PATIENCE)
