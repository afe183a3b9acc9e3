# SPDX-License-Identifier: Apache-2.0

"""Sessions whose answers end, and whose tokens go nowhere else.

What answers in a cloud's place may never stop: headers and bodies that trickle
in, one byte a second, outlast every time-out, for those are about silence; and
JSON without an end, or a small one that unpacks to terabytes, fills the
memory. So the whole of an answer has to be there within the time-out, and it
may have so many bytes. Data of images is none of this: it is asked for with
``stream=True``, and who reads it knows how much there is to be.

keystoneauth follows redirects with all headers of the request, the token
among them; requests would take off ``Authorization`` alone. Whoever gets a
token can do what its user may. So no request follows a redirect to another
origin: scheme, host and port (RFC 6454, section 4).
"""

from collections.abc import Callable, Iterator
from concurrent import futures
import contextlib
import contextvars
import functools
import http
from importlib import metadata
import time
from typing import Any, TypeVar
import urllib.parse

from keystoneauth1 import session as keystone_session
import requests
from requests import adapters
from urllib3 import exceptions as urllib3_exceptions
from urllib3 import util

from amiclient import errors
from amiclient import jobs

#: Bytes of an answer, unpacked. A thousand images, the most that Glance puts
#: into one, have 4 MiB as a rule.
LARGEST = 32 * 2**20

#: The answers whose body may be data, of which there may be any amount.
_DATA = (http.HTTPStatus.OK, http.HTTPStatus.PARTIAL_CONTENT)

#: Bytes of an answer that is no success; what is more is left out.
_ERROR = 64 * 1024

#: Bytes that are unpacked at a time.
_PIECE = 64 * 1024

_T = TypeVar('_T')

#: The time, by time.monotonic(), after which no answer is of use.
_END: contextvars.ContextVar[float | None] = contextvars.ContextVar(
    'end', default=None
)


class AnswerTooLargeError(requests.exceptions.RequestException):
    """An answer has more bytes than any should have."""


class Adapter(adapters.BaseAdapter):
    """Makes requests by another adapter, and sees to it that answers end."""

    def __init__(self, adapter: adapters.BaseAdapter) -> None:
        super().__init__()
        self._adapter = adapter

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> requests.Response:
        """Make a request.

        :param timeout: seconds for the whole of the answer; or two numbers,
            those for the connection and those for what follows.
        :raises AnswerTooLargeError: if the answer is larger.
        :raises requests.exceptions.ReadTimeout: if it is not there in time.
        """
        end = _end(timeout)

        def ask() -> requests.Response:
            return self._adapter.send(request, True, timeout, *args, **kwargs)

        # How long it takes to send data depends on how much there is.
        is_short = isinstance(request.body, bytes | str | None)
        answer = _until(end, request, ask) if is_short else ask()
        # Before urllib3 2, what was cut off would pass for the whole.
        answer.raw.enforce_content_length = True
        if not stream or answer.status_code not in _DATA:
            end = end if is_short else _end(timeout)
            _until(end, request, lambda: _fill(answer, end))
        return answer

    def close(self) -> None:
        """Close what the other has open."""
        self._adapter.close()


def bound(session: keystone_session.Session) -> keystone_session.Session:
    """Have all answers to what a session asks end; it may do so already.

    And say in each request who asks, for whoever reads the logs of a cloud.
    """
    if (agent := _agent()) not in session.additional_user_agent:
        session.additional_user_agent.append(agent)
    wire = session.session
    for prefix, adapter in list(wire.adapters.items()):
        if not isinstance(adapter, Adapter):
            wire.mount(prefix, Adapter(adapter))
    return session


@functools.cache
def _agent() -> tuple[str, str]:
    return 'amiclient', metadata.version('python-amiclient')


def create(*args: Any, **kwargs: Any) -> keystone_session.Session:
    """Make a session whose answers end."""
    return bound(keystone_session.Session(*args, **kwargs))


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Have all answers there after some time, however many there are.

    A session may make several requests where it is asked for one: it follows
    redirects, and logs in again when a token is refused.
    """
    before = _END.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _END.reset(before)


def _end(timeout: Any) -> float | None:
    ends = [_END.get()]
    seconds = timeout if isinstance(timeout, tuple) else (timeout,)
    if None not in seconds:
        ends.append(time.monotonic() + sum(seconds))
    return min((end for end in ends if end is not None), default=None)


def _until(
    end: float | None,
    request: requests.PreparedRequest,
    work: Callable[[], _T],
) -> _T:
    """Wait for something, in another thread, which may hang in the network.

    :param end: the time, by time.monotonic(), to wait until.
    """
    _, done = jobs.start(work, 'asker')
    left = None if end is None else max(0.0, end - time.monotonic())
    # Not by result(): what is done may raise a TimeoutError of its own.
    if not futures.wait([done], left).done:
        raise requests.exceptions.ReadTimeout(
            TimeoutError('timed out'), request=request
        )
    return done.result()


def _fill(response: requests.Response, end: float | None) -> None:
    """Read the body of an answer, as far as it is of use.

    :raises AnswerTooLargeError: if it is larger than any should be.
    """
    limit = LARGEST if response.ok and not response.is_redirect else _ERROR
    pieces: list[bytes] = []
    size = 0
    for piece in response.iter_content(_PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > limit or (end is not None and time.monotonic() > end):
            break
    if size > LARGEST:
        response.close()
        raise AnswerTooLargeError(request=response.request)
    if size > limit:
        # What follows is not read, so nothing else can use the connection.
        response.close()
    # Where requests keeps it.
    response._content = b''.join(pieces)[:limit]
    response._content_consumed = True


_PORTS = {'http': 80, 'https': 443}

_NOWHERE = 'an invalid address'


def keep(response: requests.Response, *_: object, **__: object) -> None:
    """Refuse to be sent to another origin; a hook of requests'."""
    location = response.headers.get('Location')
    if location is None or not 300 < response.status_code < 400:
        return
    try:
        target = urllib.parse.urljoin(response.url, location)
    except ValueError:
        target = ''
    here, there = _origin(response.url), _origin(target)
    if there != here:
        raise errors.CloudError(
            f'{here} redirects to {there}, a different server: the token is '
            'not sent there',
            hint='if that is the right server, correct the endpoint in the '
            'catalog or in clouds.yaml',
            status=response.status_code,
        )
    # It may be relative, which keystoneauth does not expect.
    response.headers['Location'] = target


#: For :meth:`requests.Session.request`.
HOOKS: dict[str, Any] = {'response': keep}


def _origin(url: str) -> str:
    """Tell the origin, as what follows the redirect would see it."""
    try:
        # Whatever else reads URLs may see another host in some.
        found = util.parse_url(url)
    except urllib3_exceptions.LocationParseError:
        return _NOWHERE
    if not found.host:
        return _NOWHERE
    usual = found.port in (None, _PORTS.get(found.scheme or ''))
    port = '' if usual else f':{found.port}'
    return f'{found.scheme}://{found.host}{port}'
