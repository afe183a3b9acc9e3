# SPDX-License-Identifier: Apache-2.0

"""Uploads of the data of an image.

The upload is a loop of our own over openstacksdk's session. keystoneauth
repeats a request after a 401 or a 503 without rewinding its body, which
stores nothing and looks like a success; so here every attempt has a body of
its own, and what Glance stored is compared with what was sent.

In one attempt two threads share the work: one reads and sends, the other,
which called, hashes, reports progress and watches for a reason to stop. A
call that hangs in the network therefore never keeps a Ctrl-C waiting.

What is to be imported is staged in the same way: see
:mod:`amiclient.glance.transfer.imports`.
"""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import enum
import hashlib
import queue
import threading
import time
from typing import TYPE_CHECKING

from keystoneauth1 import exceptions as keystone_exceptions
import requests

from amiclient import errors
from amiclient.glance import client
from amiclient.glance import http_errors
from amiclient.glance import model
from amiclient.glance import retry
from amiclient.glance import sessions
from amiclient.glance.transfer import image_data
from amiclient import jobs
from amiclient.progress import Progress
from amiclient.progress import Task

if TYPE_CHECKING:
    from openstack.image.v2 import _proxy

#: Chunks under way: one is sent, one is hashed, and one is in hand, so that
#: neither waits for the other. More would not stay in the caches.
_BUFFERS = 3

#: Seconds between two looks at the cancel event.
_POLL = 0.1

#: Seconds the sender has to hang up, when it is told to stop.
_GRACE = 2.0

#: The states of an image that is about to leave them.
_PASSING = frozenset({'saving', 'uploading', 'importing'})


class Destination(enum.Enum):
    """Where data is sent to; the value is the end of the path."""

    IMAGE = 'file'
    #: From there, Glance imports it.
    STAGE = 'stage'

    def has_it(self, record: model.ImageRecord) -> bool:
        """Tell whether all of the data is there."""
        if self is Destination.IMAGE:
            return record.status == 'active'
        # It has no size while it is still being written.
        return record.status == 'uploading' and record.size is not None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transfer:
    """The data of one image that is queued, and how it is sent.

    The image stays as it is if this fails; to delete it is up to the caller.
    What comes of it are these errors:

    * SourceError if the file cannot be opened, or is too short,
    * TransferError if the data did not arrive as it was sent,
    * NotFoundError if the image is gone,
    * CloudError if the cloud refuses,
    * CancelledError if ``cancel`` was set meanwhile.

    :param payload: a file, or what comes from somewhere else meanwhile.
    :param description: what to call it, such as ``Sending kernel``.
    :param cancel: when set, the work is given up.
    """

    proxy: '_proxy.Proxy'
    image_id: str
    payload: image_data.Data
    description: str
    progress: Progress
    cancel: threading.Event | None = None
    patience: retry.Patience = dataclasses.field(
        default_factory=retry.Patience
    )

    def catalog(self, *, attempts: int | None = None) -> client.Catalog:
        """Make one that gives up when this does."""
        patience = dataclasses.replace(
            self.patience, attempts=attempts or self.patience.attempts
        )
        clock = retry.Clock(cancel=self.cancel)
        return client.Catalog(self.proxy, patience=patience, clock=clock)

    def put(
        self, destination: Destination, store: str | None = None
    ) -> tuple[model.ImageRecord, 'Outcome']:
        """Send the data, again and again while that may help.

        :returns: the image, which has all of it, as it is then.
        :raises AmiError: as said above.
        """
        sessions.bound(self.proxy.session)
        clock = retry.Clock(cancel=self.cancel)
        # The loop in _settled() is patient enough.
        catalog = self.catalog(attempts=1)
        with self.progress.task(self.description, self.payload.size) as task:
            work = _Upload(
                self.proxy,
                catalog,
                self.image_id,
                self.payload,
                destination,
                store,
                task,
                clock,
                self.patience,
            )
            record, outcome = retry.call(
                work.attempt, patience=self.patience, clock=clock
            )
        return record, outcome

    def digest(self, algorithm: str = 'sha512') -> str:
        """Compute a digest of what was sent."""
        return image_data.digest(
            self.payload,
            self.description.replace('Sending', 'Verifying'),
            self.progress,
            algorithm=algorithm,
            cancel=self.cancel,
        )

    def objection(
        self, record: model.ImageRecord, sha512: str
    ) -> errors.TransferError | None:
        """Compare size and hash of what is stored with what was sent.

        :param sha512: of what was sent.
        :returns: what is wrong; None if it is the same.
        """
        if record.size != self.payload.size:
            return errors.TransferError(
                f'image {record.id} holds {record.size} bytes, '
                f'{self.payload.size} were sent'
            )
        stored = image_data.expected(record)
        if stored is None:
            # The operator turned off both hashes: the size is all there is.
            return None
        algorithm = stored.algorithm
        ours = sha512 if algorithm == 'sha512' else self.digest(algorithm)
        if ours == stored.value:
            return None
        return errors.TransferError(
            f'image {record.id} does not hold what was sent: its '
            f'{algorithm} is {stored.value[:16]}..., not {ours[:16]}...',
            hint='try again; if it fails again, tell the operator',
        )


def send(transfer: Transfer, store: str | None = None) -> model.Sent:
    """Send data, and compare it with what is stored then.

    :param store: the id of a store; the cloud's default if None.
    :raises AmiError: as a :class:`Transfer` says.
    """
    record, outcome = transfer.put(Destination.IMAGE, store)
    sha512 = outcome.sha512 or transfer.digest()
    if problem := transfer.objection(record, sha512):
        raise problem
    return model.Sent(record, outcome.count, sha512)


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

    def __init__(self, payload: image_data.Data) -> None:
        self._payload = payload
        #: Released when the oldest chunk has been hashed.
        self.room = threading.Semaphore(_BUFFERS)
        self._stopped = self._begun = False
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
            image_data.chunks(self._payload, buffers=_BUFFERS)
        ) as chunks:
            while True:
                # The next chunk overwrites the oldest, which the network has
                # had since it asked for another, and the hash when there is
                # room.
                self.room.acquire()
                if self._stopped:
                    raise errors.CancelledError('the transfer was cancelled')
                chunk = next(chunks, None)
                if chunk is None:
                    return
                self.sent.put(chunk)
                yield chunk
                self.count += len(chunk)

    def stop(self) -> None:
        """Have the next chunk raise CancelledError."""
        self._stopped = True
        self.room.release()


def deliver(
    payload: image_data.Data,
    put: Callable[[Body], requests.Response],
    *,
    task: Task,
    clock: retry.Clock,
    patience: float,
) -> Outcome:
    """Make one request with a payload for its body.

    :param put: makes the request; it is called in another thread.
    :param clock: is asked for a reason to stop.
    :param patience: seconds for the whole answer, once all has been sent.
    :raises SourceError: if the file cannot be opened, or is too short.
    :raises TransferError: if it cannot be read to the end.
    :raises CancelledError: if the work was given up.
    :raises Exception: whatever ``put`` raises, but for failed connections.
    """
    body = Body(payload)
    hasher = hashlib.sha512()
    known = image_data.known_digest(payload)
    hashed = 0
    sender, done = jobs.start(lambda: put(body), 'sender')
    done.add_done_callback(lambda _: body.sent.put(None))
    last = time.monotonic()
    try:
        while True:
            clock.check()
            try:
                chunk = body.sent.get(timeout=_POLL)
            except queue.Empty:
                late = time.monotonic() - last > patience
                if late and hashed == payload.size:
                    break
                continue
            if chunk is None:
                break
            last = time.monotonic()
            if known is None:
                hasher.update(chunk)
            hashed += len(chunk)
            body.room.release()
            task.advance(len(chunk))
    finally:
        body.stop()
        sender.join(_GRACE)
    answer: requests.Response | BaseException
    if done.done():
        answer = done.exception() or done.result()
    else:
        answer = keystone_exceptions.ConnectTimeout('timed out')
    if not isinstance(
        answer, requests.Response | keystone_exceptions.ConnectionError
    ):
        raise answer
    return Outcome(
        answer=answer,
        count=body.count,
        sha512=known or hasher.hexdigest() if hashed == payload.size else None,
    )


@dataclasses.dataclass(frozen=True)
class _Upload:
    """One payload on its way to one image."""

    _proxy: '_proxy.Proxy'
    _catalog: client.Catalog
    _id: str
    _payload: image_data.Data
    _destination: Destination
    _store: str | None
    _task: Task
    _clock: retry.Clock
    _patience: retry.Patience

    @property
    def _doing(self) -> str:
        return f'sending the data of image {self._id}'

    def attempt(self, number: int) -> tuple[model.ImageRecord, Outcome]:
        """Make one attempt, the first of which has the number 1.

        :returns: the image, which has the data.
        """
        if number > 1:
            self._task.restart()
        outcome = self._sent()
        answer = outcome.answer
        if not isinstance(answer, requests.Response):
            failure = http_errors.from_exception(answer, self._doing)
            if failure.again is None:
                raise failure
            sent, size = outcome.count, self._payload.size
            failure.message += f' after {sent} of {size} bytes'
        elif answer.status_code in {200, 204}:
            failure = errors.TransferError(
                f'{self._doing} failed: a proxy answered '
                f'{answer.status_code}, but Glance stored no data',
                hint='ask the operator about the proxy in front of Glance',
                again=0.0,
            )
        else:
            failure = self._refused(answer, again=number > 1)
        # An answer may be lost when the data is not, or made up by a proxy.
        record = self._settled(failure)
        if self._destination.has_it(record):
            return record, outcome
        raise failure

    def _sent(self) -> Outcome:
        headers = {
            'Accept': 'application/json',
            'Content-Type': 'application/octet-stream',
            'X-OpenStack-Image-Size': str(self._payload.size),
        }
        if self._store is not None:
            headers['X-Image-Meta-Store'] = self._store

        def put(body: Body) -> requests.Response:
            return self._proxy.put(
                f'/images/{self._id}/{self._destination.value}',
                # requests takes a body of length 0 for one of unknown length.
                data=body if len(body) else b'',
                headers=headers,
                timeout=(self._patience.stall, self._patience.answer),
                raise_exc=False,
                # Each of these would send the body a second time.
                allow_reauth=False,
                connect_retries=0,
                redirect=False,
                hooks=sessions.HOOKS,
                status_code_retries=0,
            )

        with http_errors.understood(self._doing):
            return deliver(
                self._payload,
                put,
                task=self._task,
                clock=self._clock,
                patience=self._patience.stall + self._patience.answer,
            )

    def _refused(
        self, response: requests.Response, *, again: bool
    ) -> errors.CloudError:
        """Say why the cloud refused, if another try may help; else raise."""
        failure = http_errors.from_response(response, self._doing)
        status = response.status_code
        renewed = False
        if status == 401:
            # Have the next request fetch a new token, if there is a way to.
            with contextlib.suppress(keystone_exceptions.MissingAuthPlugin):
                renewed = self._proxy.invalidate()
        if renewed:
            failure.again = 0.0
        elif status == 409:
            # It is, or was, busy with an attempt before, of ours or of a
            # proxy's: nobody else knows the id of this image.
            failure.again = 0.0 if again else None
        elif failure.again is None:
            raise failure
        return failure

    def _settled(self, failure: errors.CloudError) -> model.ImageRecord:
        """Wait for the image to have the data, or to be queued again.

        :param failure: of the attempt before, to tell it if that is not all.
        """
        begin = time.monotonic()
        pause = self._patience.poll
        while True:
            waited = time.monotonic() - begin
            try:
                record = self._catalog.get(self._id)
            except errors.NotFoundError as error:
                raise errors.NotFoundError(
                    f'{failure.message}; then image {self._id} was gone',
                    hint='Glance deletes an image if the token expires '
                    'during its upload',
                ) from error
            except errors.CloudError as error:
                # Whatever keeps the cloud from answering may pass as well.
                if waited > self._patience.away:
                    raise errors.TransferError(
                        f'{failure.message}; then {error.message}',
                        hint=error.hint,
                    ) from error
            else:
                if record.status == 'queued' or self._destination.has_it(
                    record
                ):
                    return record
                if record.status not in _PASSING:
                    raise errors.TransferError(
                        f'{failure.message}; then image {self._id} was '
                        f'{record.status}'
                    )
                if waited > self._patience.settle:
                    raise errors.TransferError(
                        f'{failure.message}; then image {self._id} was still '
                        f'{record.status} after {self._patience.settle:g} s',
                        hint='--timeout waits longer',
                    )
            # Not past the end of what is waited for.
            left = self._patience.away - waited
            self._clock.sleep(min(pause, left) if left > 0 else pause)
            pause = min(pause * 2, self._patience.longest)
