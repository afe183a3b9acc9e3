# SPDX-License-Identifier: Apache-2.0

"""The body of an upload, sent by one thread and hashed by another."""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import hashlib
import queue
import threading
import time

from keystoneauth1 import exceptions as keystone_exceptions
import requests

from amiclient import errors
from amiclient.glance import model
from amiclient.glance.transfer import payload as payload_
from amiclient import progress

#: Chunks under way: one is sent, one is hashed, and one is in hand, so that
#: neither waits for the other. More would not stay in the caches.
_BUFFERS = 3

#: Seconds between two looks at the cancel event.
_POLL = 0.1

#: Seconds the sender has to hang up, when it is told to stop.
_GRACE = 2.0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one attempt.

    :param answer: the cloud's, or why there was none.
    :param count: bytes that were handed to the network.
    :param sha512: hex digest of the payload; None if not all of it was sent.
    """

    answer: requests.Response | keystone_exceptions.ConnectionError
    count: int
    sha512: str | None


class Body:
    """A request body of known length that is iterated once."""

    def __init__(
        self, payload: model.Payload, *, mapped: bool = False
    ) -> None:
        self._payload = payload
        self._mapped = mapped
        self._room = threading.Semaphore(_BUFFERS)
        self._stopped = threading.Event()
        self._begun = False
        #: Chunks to hash, and None at the end of the request.
        self.sent: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        #: Bytes that were handed to the network.
        self.count = 0

    def __len__(self) -> int:
        return self._payload.size

    def __iter__(self) -> Iterator[memoryview]:
        if self._begun:
            # Nothing below should try; if it does, it must not look well.
            raise errors.TransferError('the data was asked for twice')
        self._begun = True
        with contextlib.closing(
            payload_.chunks(
                self._payload, buffers=_BUFFERS, mapped=self._mapped
            )
        ) as chunks:
            while True:
                # The next chunk overwrites the oldest, which the network has
                # had since it asked for another, and the hash when there is
                # room.
                self._room.acquire()
                if self._stopped.is_set():
                    raise errors.CancelledError('the upload was given up')
                chunk = next(chunks, None)
                if chunk is None:
                    return
                self.sent.put(chunk)
                yield chunk
                self.count += len(chunk)

    def hashed(self) -> None:
        """Say that the oldest chunk may be overwritten."""
        self._room.release()

    def stop(self) -> None:
        """Have the next chunk raise CancelledError."""
        self._stopped.set()
        self._room.release()


class _Sender(threading.Thread):
    """Makes the request.

    It is a daemon, so that a request that hangs after all was given up does
    not keep the program from ending.
    """

    def __init__(
        self, body: Body, put: Callable[[Body], requests.Response]
    ) -> None:
        super().__init__(name='sender', daemon=True)
        self._body = body
        self._put = put
        self.answer: requests.Response | BaseException | None = None

    def run(self) -> None:
        try:
            self.answer = self._put(self._body)
        except BaseException as error:  # noqa: BLE001 - see deliver()
            self.answer = error
        finally:
            self._body.sent.put(None)


def deliver(
    payload: model.Payload,
    put: Callable[[Body], requests.Response],
    *,
    task: progress.Task,
    cancel: threading.Event | None,
    patience: float,
    mapped: bool = False,
) -> Outcome:
    """Make one request with a payload for its body.

    :param put: makes the request; it is called in another thread.
    :param patience: seconds for the whole answer, once all has been sent.
    :param mapped: whether the file may be mapped. Only the kernel may then
        read what is sent, as it does for a plain socket: it minds pages that
        are gone, whereas a library that encrypts them would be killed.
    :raises SourceError: if the file cannot be opened, or is too short.
    :raises TransferError: if it cannot be read to the end.
    :raises CancelledError: if ``cancel`` was set meanwhile.
    :raises Exception: whatever ``put`` raises, but for failed connections.
    """
    body = Body(payload, mapped=mapped)
    sender = _Sender(body, put)
    hasher = hashlib.sha512()
    hashed = 0
    sender.start()
    last = time.monotonic()
    try:
        while True:
            if cancel is not None and cancel.is_set():
                raise errors.CancelledError('the upload was given up')
            try:
                chunk = body.sent.get(timeout=_POLL)
            except queue.Empty:
                late = time.monotonic() - last > patience
                if late and hashed == payload.size:
                    sender.answer = keystone_exceptions.ConnectTimeout(
                        'timed out'
                    )
                    break
                continue
            if chunk is None:
                break
            last = time.monotonic()
            hasher.update(chunk)
            hashed += len(chunk)
            body.hashed()
            task.advance(len(chunk))
    finally:
        body.stop()
        sender.join(_GRACE)
    answer = sender.answer
    if not isinstance(
        answer, requests.Response | keystone_exceptions.ConnectionError
    ):
        raise answer or errors.TransferError('the upload fell silent')
    return Outcome(
        answer=answer,
        count=body.count,
        sha512=hasher.hexdigest() if hashed == payload.size else None,
    )
