# SPDX-License-Identifier: Apache-2.0

"""The data of an image, on its way here.

The loop is our own: openstacksdk's download stores what it gets, which may be
nothing (of an image that is queued) or the text of an error, and in place.
Here a file has its name only once its hash is that which Glance gives for the
image. What a break interrupts goes on where it was, in the same run or in the
next, where the cloud's store can do so (``Range``, RFC 9110, section 14).
"""

from collections.abc import Callable, Generator, Iterator, Sequence
import contextlib
import dataclasses
import hashlib
import http
import os
import pathlib
import queue
import re
import threading
import time
from typing import Any, TYPE_CHECKING

import requests

from amiclient import errors
from amiclient.glance import http_errors
from amiclient.glance import model
from amiclient.glance import retry
from amiclient.glance import sessions
from amiclient.glance.transfer import image_data
from amiclient import jobs
from amiclient.progress import Progress
from amiclient.progress import Task
from amiclient import scratch
from amiclient import sparse
from amiclient import staging

if TYPE_CHECKING:
    from openstack.image.v2 import _proxy

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

#: How often the whole is fetched that turns out to be something else.
_WHOLE = 2


def check(record: model.ImageRecord) -> int:
    """Make sure that an image has data to fetch.

    :returns: how many bytes.
    :raises CloudError: if it is not active. Glance would answer, with
        nothing, if it is queued.
    """
    if record.status != 'active':
        raise errors.CloudError(
            f'image {record.id} is {record.status}, not active: '
            'it cannot be downloaded'
        )
    if record.size is None:
        raise errors.CloudError(
            f'image {record.id}: Glance does not have its size'
        )
    return record.size


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


def ask(
    proxy: '_proxy.Proxy', id: str, patience: retry.Patience, part: str | None
) -> requests.Response:
    """Ask once for the data of an image.

    :param part: which part of it, as ``Range`` has it; None for all.
    """
    headers = {
        'Accept': 'application/json, */*',
        # A hole would come faster, but its hash is not Glance's.
        'Accept-Encoding': 'identity',
    }
    if part:
        headers['Range'] = part
    # It may log in again meanwhile.
    with sessions.within(patience.stall + patience.reply):
        return proxy.get(
            f'/images/{id}/file',
            headers=headers,
            stream=True,
            timeout=(patience.stall, patience.stall),
            raise_exc=False,
            connect_retries=0,
            status_code_retries=0,
            skip_cache=True,
            hooks=sessions.HOOKS,
        )


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
class Fetched:
    """A file that holds an image's data, verified.

    :param size: bytes of it.
    :param downloaded: bytes that came over the network for it, all attempts
        together; 0 if the file was there already.
    :param digest: what was compared; None if the cloud gives no hash, and
        so the size is all there is.
    """

    path: pathlib.Path
    size: int
    downloaded: int
    digest: image_data.Digest | None


def part(record: model.ImageRecord, target: pathlib.Path) -> pathlib.Path:
    """Tell where the data of an image is while it is fetched into a file."""
    return staging.path_of(target, _tag(record))


def _tag(record: model.ImageRecord) -> str:
    digest = image_data.expected(record)
    return f'{record.id}-{digest.value[:16] if digest else record.size}'


def fetch(
    proxy: '_proxy.Proxy',
    record: model.ImageRecord,
    target: pathlib.Path,
    *,
    description: str,
    progress: Progress,
    replace: bool = False,
    cancel: threading.Event | None = None,
    patience: retry.Patience | None = None,
) -> Fetched:
    """Fetch the data of an image into a file, and verify it.

    A file that is there and holds the same is left as it is. What was fetched
    before a failure stays beside the target, as ``.NAME....part``, for the
    next run to go on with; but not if the disk is full or the image gone.

    :param target: the file; its directory must exist.
    :param description: what to call it, such as ``Fetching kernel``.
    :param replace: whether a file that holds something else may go.
    :param cancel: when set, the work is given up.
    :raises AmiError: if the target is there and holds something else, or
        cannot be written.
    :raises NoSpaceError: if there is no room for it.
    :raises TransferError: if what came is not what Glance says it has.
    :raises NotFoundError: if the image is gone.
    :raises CloudError: if it is not active, or the cloud refuses.
    :raises CancelledError: if ``cancel`` was set meanwhile.
    """
    size = check(record)
    digest = image_data.expected(record)
    clock = retry.Clock(cancel=cancel)
    with progress.task(description, size) as task:
        if os.path.lexists(target):
            if image_data.holds(target, record, task=task, clock=clock):
                return Fetched(target, size, 0, digest)
            if not replace:
                raise errors.AmiError(
                    f'{target} exists already, and is not the data of image '
                    f'{record.id}',
                    hint='remove it, or choose another directory',
                )
            task.restart()
        sessions.bound(proxy.session)
        patience = patience or retry.Patience()
        with staging.Partial(target, _tag(record)) as file:
            download = Download(proxy, record, file, task, clock, patience)
            try:
                downloaded = _run(download, file, size)
            except (errors.NotFoundError, errors.NoSpaceError):
                # Nothing to go on with, or room that is needed elsewhere.
                file.discard()
                raise
    return Fetched(target, size, downloaded, digest)


def _run(download: 'Download', part: staging.Partial, size: int) -> int:
    """Try until the file is there; tell how many bytes came."""
    download.take_over(part)
    scratch.check_room(
        part.target.parent,
        size - part.offset,
        part.target.name,
        hint=f'make room, or {staging.ANOTHER}',
    )
    for _ in download.pieces():
        pass
    part.finish()
    return download.downloaded


class Download:
    """One image on its way to one file, or to whoever takes the pieces.

    What was given cannot be taken back. So where the store cannot begin in the
    middle, what was given is fetched again, and dropped; and the hash is that
    of what was given.

    :param part: the file; None if there is none.
    """

    def __init__(
        self,
        proxy: '_proxy.Proxy',
        record: model.ImageRecord,
        part: staging.Partial | None,
        task: Task,
        clock: retry.Clock,
        patience: retry.Patience,
    ) -> None:
        self._proxy = proxy
        self._id = record.id
        self._doing = f'fetching the data of image {record.id}'
        self._size = record.size or 0
        self._digest = image_data.expected(record)
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
                if self._offset < self._size:
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
                    last = _hinted(error, cuts[-attempt:])
                    raise retry.tried(last, attempt, since) from error
                delay = self._patience.delay(attempt, error.again)
                self._patience.tell(error, delay, attempt)
            self._clock.sleep(delay)
            attempt += 1

    def _new_hasher(self) -> 'hashlib._Hash':
        algorithm = self._digest.algorithm if self._digest else 'md5'
        return hashlib.new(algorithm, usedforsecurity=False)

    def _restart(self) -> None:
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
        if self._digest is None or part.offset > self._size:
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
            http_errors.understood(self._doing),
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
        if self._offset < self._size:
            raise self._broken('the connection was closed')

    def _get(self) -> requests.Response:
        offset = self._offset - self._again
        return ask(
            self._proxy,
            self._id,
            self._patience,
            f'bytes={offset}-' if offset else None,
        )

    def _begins(self, response: requests.Response) -> bool:
        """Tell whether what follows is what was asked for.

        :returns: false if the cloud cannot begin where it was asked to.
        """
        offset, status = self._offset - self._again, response.status_code
        if offset and status in NO_RANGES:
            return False
        if status == http.HTTPStatus.PARTIAL_CONTENT:
            found = _CONTENT_RANGE.fullmatch(
                response.headers.get('Content-Range', '')
            )
            total = {str(self._size), '*'}
            if not found or int(found[1]) != offset or found[2] not in total:
                if not offset:
                    raise self._odd('a part that was not asked for')
                return False
        elif status == http.HTTPStatus.OK:
            # From the beginning, whatever was asked for.
            self._restart()
        elif status < 300:
            raise self._odd(f'no data (HTTP {status})')
        else:
            failure = http_errors.from_response(response, self._doing)
            if status == http.HTTPStatus.GONE:
                raise errors.NotFoundError(failure.message, status=status)
            raise failure
        length = response.headers.get('Content-Length')
        wanted = self._size - self._offset + self._again
        if (
            length is not None
            and 'Content-Encoding' not in response.headers
            and length != str(wanted)
        ):
            raise self._odd(f'{length} bytes, not {wanted}')
        return True

    def _take(self, chunk: bytes) -> bytes:
        if self._offset - self._again + len(chunk) > self._size:
            self._restart()
            raise self._odd(f'more than {self._size} bytes')
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

    def _verify(self) -> None:
        if self._digest is None:
            return
        found, value = self._hasher.hexdigest(), self._digest.value
        if found == value:
            return
        self._wrong += not self._old
        self._restart()
        raise errors.TransferError(
            f'the data that was downloaded is not that of image {self._id}: '
            'its '
            f'{self._digest.algorithm} is {found[:16]}..., not '
            f'{value[:16]}...',
            hint='try again; if it fails again, tell the operator',
            again=0.0 if self._part and self._wrong < _WHOLE else None,
        )

    def _odd(self, what: str) -> errors.TransferError:
        return errors.TransferError(
            f'{self._doing} failed: the cloud sent {what}',
            hint='try again; if it fails again, tell the operator',
            again=0.0,
        )

    def _broken(self, why: str) -> errors.TransferError:
        self._cut = self._offset if self._begun else None
        return errors.TransferError(
            f'{self._doing} failed: the connection broke after '
            f'{self._offset} of {self._size} bytes: {why}',
            hint='check the network between this machine and the cloud',
            again=0.0,
        )


def _hinted(
    error: errors.CloudError, cuts: Sequence[int | None]
) -> errors.CloudError:
    """Say so if it is not the network: the store may have less than Glance.

    :param cuts: where the data of each attempt ended too early.
    """
    if len(cuts) < 2 or cuts[0] is None or len(set(cuts)) > 1:
        return error
    return type(error)(
        error.message,
        hint='the data ends there every time, so the store probably does not '
        'have the rest: ask the operator to check it, then try again',
        status=error.status,
    )
