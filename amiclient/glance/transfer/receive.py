# SPDX-License-Identifier: Apache-2.0

"""Data that comes over a network that may break.

What a break interrupts goes on where it was, in the same run or in the next,
where the other side can do so (``Range``, RFC 9110, section 14).
"""

from collections.abc import Callable, Generator, Iterator, Sequence
import contextlib
import dataclasses
import hashlib
import http
import queue
import re
import threading
import time
from typing import Any, Protocol

import requests

from amiclient import errors
from amiclient.glance import http_errors
from amiclient.glance import retry
from amiclient.glance.transfer import image_data
from amiclient import jobs
from amiclient.progress import Task
from amiclient import sparse
from amiclient import staging

#: What a store says that cannot begin in the middle, or not there.
NO_RANGES = frozenset(
    {
        http.HTTPStatus.BAD_REQUEST,
        http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
        http.HTTPStatus.NOT_IMPLEMENTED,
    }
)

_CONTENT_RANGE = re.compile(r'bytes (\d+)-\d+/(\d+|\*)')

#: Bytes after which an attempt was not in vain: the next ones are counted
#: anew, so that many breaks of a long download do not end it.
_STRIDE = 64 * 2**20

#: How many times longer than the network may stand still the next 64 KiB may
#: take to come.
_PIECES = 10


#: Pieces under way: one comes in, one is being written, one waits.
_AHEAD = 2

#: Bytes that are read at a time. Several are handed over together, unless
#: they come slowly: each handing over costs processor time.
_PIECE = 64 * 1024

#: Seconds between two looks at whether all was given up.
_POLL = 0.1

#: Answers that have data for their body.
_DATA = (http.HTTPStatus.OK, http.HTTPStatus.PARTIAL_CONTENT)

#: Seconds the thread has to notice that it is no longer wanted. One that
#: hangs in the network is left to itself: it ends with the program.
_GRACE = 0.5


def received(
    get: Callable[[], requests.Response], clock: retry.Clock, seconds: float
) -> Generator[Any, None, None]:
    """Make a request; yield its answer, and then the body in pieces.

    One thread makes the request and reads; the other, which called, does with
    the pieces what takes time. A call that hangs in the network therefore
    never keeps a Ctrl-C waiting.

    :param get: makes the request, with ``stream=True``.
    :param clock: is asked for a reason to stop while waiting.
    :param seconds: for each piece, at most: what trickles in never stands
        still, and never ends.
    """
    items: queue.Queue[object] = queue.Queue(_AHEAD)
    stopped = threading.Event()

    def put(item: object) -> bool:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                items.put(item, timeout=_POLL)
                return True
        return False

    def work() -> None:
        try:
            with contextlib.closing(get()) as response:
                put(response)
                if response.status_code in _DATA:
                    _read(response, put)
        finally:
            # Not when it is done: who asks for that may be the one that has
            # to make room first.
            put(None)

    thread, done = jobs.start(work, 'receiver')
    end = time.monotonic() + seconds
    try:
        while True:
            clock.check()
            try:
                item = items.get(timeout=_POLL)
            except queue.Empty:
                if time.monotonic() > end:
                    raise requests.exceptions.ReadTimeout(
                        TimeoutError('timed out')
                    ) from None
                continue
            if item is None:
                return done.result()
            yield item
            end = time.monotonic() + seconds
    finally:
        stopped.set()
        thread.join(_GRACE)


def _read(response: requests.Response, put: Callable[[object], bool]) -> None:
    pieces: list[bytes] = []
    size, begin = 0, time.monotonic()
    try:
        for piece in response.iter_content(_PIECE):
            pieces.append(piece)
            size += len(piece)
            if size >= sparse.CHUNK or time.monotonic() - begin > _POLL:
                if not put(b''.join(pieces)):
                    return
                pieces.clear()
                size, begin = 0, time.monotonic()
    finally:
        # A break does not take with it what came before.
        if pieces:
            put(b''.join(pieces))


@dataclasses.dataclass(frozen=True)
class Sender:
    """Who sends data, and what a user can do where that fails, as clauses.

    :param name: such as ``the cloud``.
    :param wrong: about data that is not what it has to be.
    :param odd: about answers that are not.
    :param network: about connections that break.
    :param short: about data that ends too early every time.
    :param whole: how often the whole is fetched that turns out to be wrong.
    """

    name: str
    wrong: str
    odd: str
    network: str
    short: str
    whole: int


class Supply(Protocol):
    """Where data comes from, and what is known of it.

    :param name: what to call it, such as ``image 8f0c``.
    :param doing: such as ``fetching the data of image 8f0c``.
    :param size: bytes; None if only an answer tells.
    :param digest: None if there is none to compare with.
    """

    name: str
    doing: str
    sender: Sender
    size: int | None
    digest: image_data.Digest | None

    def ask(self, part: str | None) -> requests.Response:
        """Ask once, for all of it or a part, as ``Range`` has it."""

    def refusal(self, response: requests.Response) -> errors.CloudError:
        """Make the error that an answer without data stands for."""

    def understood(self) -> contextlib.AbstractContextManager[None]:
        """Translate what the libraries below raise."""


class Download:
    """Data on its way to one file, or to whoever takes the pieces.

    What was given cannot be taken back. So where the store cannot begin in the
    middle, what was given is fetched again, and dropped; and the hash is that
    of what was given.

    :param part: the file; None if there is none.
    """

    def __init__(
        self,
        supply: Supply,
        part: staging.Partial | None,
        task: Task,
        clock: retry.Clock,
        patience: retry.Patience,
    ) -> None:
        self._supply = supply
        #: Bytes of all of it; None as long as nobody has told.
        self.size = supply.size
        self._digest = supply.digest
        self._part = part
        self._task = task
        self._clock = clock
        self._patience = patience
        self._hasher = self._new_hasher()
        #: Bytes that came, all attempts together.
        self.downloaded = 0
        #: Those that were given, if there is no file, and those that are
        #: going to come once more.
        self._given = self._again = 0
        self._ranges = True
        #: Whether some of it was there before this run, and so may be
        #: anything; and how often the whole turned out to be wrong.
        self._old = False
        self._wrong = 0
        #: Where this attempt's data ended too early; None if none began.
        self._begun = False
        self._cut: int | None = None

    @property
    def _offset(self) -> int:
        return self._given if self._part is None else self._part.offset

    def pieces(self) -> Iterator[bytes]:
        """Try until all is there, and is what it has to be.

        :raises CloudError: as :func:`fetch` does.
        """
        attempt, begin, since = 1, self._offset, time.monotonic()
        cuts: list[int | None] = []
        while True:
            self._begun, self._cut = False, None
            try:
                if not self._is_whole():
                    yield from self._receive()
                self._verify()
                return
            except errors.CloudError as error:
                if error.again is None:
                    raise
                cuts.append(self._cut)
                if self._offset >= begin + _STRIDE:
                    attempt, begin = 1, self._offset
                    since = time.monotonic()
                if attempt >= self._patience.attempts:
                    last = self._hinted(error, cuts[-attempt:])
                    raise retry.tried(last, attempt, since) from error
                delay = self._patience.delay(attempt, error.again)
                self._patience.tell(error, delay, attempt)
            self._clock.sleep(delay)
            attempt += 1

    def _is_whole(self) -> bool:
        if self.size is not None:
            return self._offset >= self.size
        # An earlier run may have ended before it could give it its name.
        return self._old and self._differs() is None

    def _new_hasher(self) -> 'hashlib._Hash':
        algorithm = self._digest.algorithm if self._digest else 'md5'
        return hashlib.new(algorithm, usedforsecurity=False)

    def _restart(self) -> None:
        self.size = self._supply.size
        if self._part is None:
            self._again = self._given
            return
        if self._part.offset:
            self._part.restart()
            self._task.restart()
        self._hasher = self._new_hasher()
        self._old = False

    def take_over(self, part: staging.Partial) -> None:
        """Go on with what an earlier run left."""
        too_much = self.size is not None and part.offset > self.size
        if self._digest is None or too_much:
            # A crash may have left anything, and nothing would tell.
            self._restart()
        for chunk in part.contents():
            self._clock.check()
            self._hasher.update(chunk)
            self._task.advance(len(chunk))
            self._old = True

    def _receive(self) -> Iterator[bytes]:
        """Fetch what is missing, as far as one connection lasts."""
        self._again = 0
        if not self._ranges:
            self._restart()
        seconds = _PIECES * self._patience.stall
        with (
            self._supply.understood(),
            contextlib.closing(
                received(self._get, self._clock, seconds)
            ) as pieces,
        ):
            try:
                if not self._begins(next(pieces)):
                    self._ranges = False
                    yield from self._receive()
                    return
                self._begun = True
                for chunk in pieces:
                    yield self._take(chunk)
            except requests.exceptions.RequestException as error:
                raise self._broken(http_errors.cause(error)) from error
        if self.size is not None and self._offset < self.size:
            raise self._broken('the connection was closed')

    def _get(self) -> requests.Response:
        offset = self._offset - self._again
        return self._supply.ask(f'bytes={offset}-' if offset else None)

    def _begins(self, response: requests.Response) -> bool:
        """Tell whether what follows is what was asked for.

        :returns: false if the other side cannot begin where it was asked to.
        """
        offset, status = self._offset - self._again, response.status_code
        if offset and status in NO_RANGES:
            return False
        if status == http.HTTPStatus.PARTIAL_CONTENT:
            found = _CONTENT_RANGE.fullmatch(
                response.headers.get('Content-Range', '')
            )
            known = '*' if self.size is None else str(self.size)
            if (
                not found
                or int(found[1]) != offset
                or (known != '*' and found[2] not in (known, '*'))
            ):
                if not offset:
                    raise self._odd('a part that was not asked for')
                return False
        elif status == http.HTTPStatus.OK:
            # From the beginning, whatever was asked for.
            self._restart()
        elif status < 300:
            raise self._odd(f'no data (HTTP {status})')
        else:
            raise self._supply.refusal(response)
        length = response.headers.get('Content-Length')
        if length is None or 'Content-Encoding' in response.headers:
            return True
        begin = self._offset - self._again
        if self.size is None and length.isdecimal():
            self.size = begin + int(length)
            self._task.expect(self.size)
        wanted = (self.size or 0) - begin
        if length != str(wanted):
            raise self._odd(f'{length} bytes, not {wanted}')
        return True

    def _take(self, chunk: bytes) -> bytes:
        end = self._offset - self._again + len(chunk)
        if self.size is not None and end > self.size:
            size = self.size
            self._restart()
            raise self._odd(f'more than {size} bytes')
        self.downloaded += len(chunk)
        new = chunk[self._again :]
        self._again -= len(chunk) - len(new)
        self._hasher.update(new)
        if self._part is None:
            self._given += len(new)
        else:
            self._part.write(new)
        self._task.advance(len(new))
        return new

    def _differs(self) -> str | None:
        """Tell how the hash is not what it has to be; None if it is."""
        if self._digest is None:
            return None
        found, value = self._hasher.hexdigest(), self._digest.value
        if found == value:
            return None
        return (
            f'{self._digest.algorithm} is {found[:16]}..., not {value[:16]}...'
        )

    def _verify(self) -> None:
        how = self._differs()
        if how is None:
            return
        self._wrong += not self._old
        self._restart()
        sender = self._supply.sender
        again = self._part and self._wrong < sender.whole
        raise errors.TransferError(
            f'the data that was downloaded is not that of {self._supply.name}'
            f': its {how}',
            hint=sender.wrong,
            again=0.0 if again else None,
        )

    def _odd(self, what: str) -> errors.TransferError:
        sender = self._supply.sender
        return errors.TransferError(
            f'{self._supply.doing} failed: {sender.name} sent {what}',
            hint=sender.odd,
            again=0.0,
        )

    def _broken(self, why: str) -> errors.TransferError:
        self._cut = self._offset if self._begun else None
        of = '' if self.size is None else f' of {self.size}'
        return errors.TransferError(
            f'{self._supply.doing} failed: the connection broke after '
            f'{self._offset}{of} bytes: {why}',
            hint=self._supply.sender.network,
            again=0.0,
        )

    def _hinted(
        self, error: errors.CloudError, cuts: Sequence[int | None]
    ) -> errors.CloudError:
        """Say so if it is not the network: there may be less than is said.

        :param cuts: where the data of each attempt ended too early.
        """
        if len(cuts) < 2 or cuts[0] is None or len(set(cuts)) > 1:
            return error
        return type(error)(
            error.message,
            hint=self._supply.sender.short,
            status=error.status,
        )
