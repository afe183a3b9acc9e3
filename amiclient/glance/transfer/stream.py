# SPDX-License-Identifier: Apache-2.0

"""An answer of the cloud's whose body is long, as it comes in.

One thread makes the request and reads; the other, which called, takes the
pieces one by one and does with them what takes time. A call that hangs in the
network therefore never keeps a Ctrl-C waiting.
"""

from collections.abc import Callable
import http
import queue
import threading
import time
import types
from typing import Self

import requests

from amiclient.glance import retry
from amiclient import sparse

#: Pieces under way: one comes in, one is being written, one waits.
_AHEAD = 2

#: Bytes that are read at a time. Several are handed over together, unless
#: they come slowly: each handing over costs processor time.
_PIECE = 64 * 1024

#: Seconds between two looks at whether all was given up.
_POLL = 0.1

#: Seconds the thread has to notice that it is no longer wanted. One that
#: hangs in the network is left to itself: it ends with the program.
_GRACE = 0.5

_Item = requests.Response | bytes | BaseException | None


class Stream:
    """One request, and its answer.

    As a context manager, it begins when entered and is given up when left.

    :param get: makes the request, with ``stream=True``; it is called in
        another thread.
    :param clock: is asked for a reason to stop while waiting.
    :param seconds: for each piece, at most: what trickles in never stands
        still, and never ends.
    """

    def __init__(
        self,
        get: Callable[[], requests.Response],
        clock: retry.Clock,
        seconds: float,
    ) -> None:
        self._get = get
        self._clock = clock
        self._seconds = seconds
        self._items: queue.Queue[_Item] = queue.Queue(_AHEAD)
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name='receiver', daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join(_GRACE)

    def response(self) -> requests.Response:
        """Wait for the answer's head.

        :raises Exception: whatever making the request raised.
        :raises CancelledError: if the work was given up.
        """
        found = self._take()
        if not isinstance(found, requests.Response):
            raise TypeError(found)
        return found

    def chunk(self) -> bytes | None:
        """Wait for the next piece of the body.

        :returns: None after the last.
        :raises Exception: whatever reading raised.
        :raises CancelledError: if the work was given up.
        """
        found = self._take()
        if isinstance(found, requests.Response):
            raise TypeError(found)
        return found

    def _take(self) -> requests.Response | bytes | None:
        end = time.monotonic() + self._seconds
        while True:
            self._clock.check()
            try:
                found = self._items.get(timeout=_POLL)
            except queue.Empty:
                if time.monotonic() > end:
                    raise requests.exceptions.ReadTimeout(
                        TimeoutError('timed out')
                    ) from None
                continue
            if isinstance(found, BaseException):
                raise found
            return found

    def _run(self) -> None:
        try:
            response = self._get()
            try:
                self._read(response)
            finally:
                response.close()
        except BaseException as error:  # noqa: BLE001 (_take() raises it)
            self._put(error)
        else:
            self._put(None)

    def _read(self, response: requests.Response) -> None:
        if response.status_code not in (
            http.HTTPStatus.OK,
            http.HTTPStatus.PARTIAL_CONTENT,
        ):
            self._put(response)
            return
        self._put(response)
        pieces: list[bytes] = []
        size, begin = 0, time.monotonic()
        try:
            for piece in response.iter_content(_PIECE):
                pieces.append(piece)
                size += len(piece)
                late = time.monotonic() - begin > _POLL
                if size >= sparse.CHUNK or late:
                    if not self._put(b''.join(pieces)):
                        return
                    pieces.clear()
                    size, begin = 0, time.monotonic()
        finally:
            # A break does not take with it what came before.
            if pieces:
                self._put(b''.join(pieces))

    def _put(self, item: _Item) -> bool:
        """Hand over; tell whether there is anybody who wants it."""
        while not self._stopped.is_set():
            try:
                self._items.put(item, timeout=_POLL)
                return True
            except queue.Full:
                continue
        return False
