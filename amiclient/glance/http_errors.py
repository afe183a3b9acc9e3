# SPDX-License-Identifier: Apache-2.0

"""What the cloud's refusals and silences mean, in one line.

Whatever openstacksdk, keystoneauth and requests raise becomes a
:class:`amiclient.errors.CloudError` here, and so does any answer that is
an error: nothing else in this package interprets either. Throughout,
``doing`` is what was tried, such as ``deleting image 8f0c``.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import html
import http.client
import json
import os
import re
import socket
import ssl
from typing import Any, TypeVar
import urllib.parse

from keystoneauth1 import exceptions as keystone_exceptions
from openstack import exceptions as sdk_exceptions
import requests
import urllib3

from amiclient import errors
from amiclient.glance import retry
from amiclient.glance import sessions
from amiclient import units

#: How much of an error's text is passed on.
_LENGTH = 300

#: How much of it is looked at, in bytes.
_READ = 8 * 1024

#: What Glance's HTML says twice, or for browsers only.
_DECORATION = re.compile(
    r'<(head|h1|script|style)\b.*?</\1\s*>', re.DOTALL | re.IGNORECASE
)
_TAG = re.compile(r'<[^<>]*>')

_TIMED_OUT = 'timed out'


@dataclasses.dataclass(frozen=True)
class Advice:
    """What to do where no answer comes, by what keeps it from coming.

    :param tls: there is no TLS.
    :param authority: it has no certificate of an authority that is known.
    :param name: the host is not found.
    :param answer: the answer is too large, or makes no sense.
    :param connection: there is no connection.
    :param time: it takes too long.
    """

    tls: str
    authority: str
    name: str
    answer: str
    connection: str
    time: str


_CLOUD = Advice(
    tls='check that it speaks TLS: the endpoint says https',
    authority='give the certificate authority with --os-cacert',
    name='check the name in the endpoint, and the DNS',
    answer='check that the endpoint is that of a cloud',
    connection='check the endpoint, the network, and that the cloud is up',
    time='check the network, and that the cloud is up; --timeout waits longer',
)

#: What it mostly is: somebody with the role reader.
NO_ROLE = (
    'your role in this project does not permit this; the role member usually '
    'does: ask an administrator for it'
)

_STALE = (
    'the token has expired or was revoked: get another with `openstack token '
    'issue`, or log in with a password'
)

_HINTS = {
    401: 'check the credentials; the token may have expired',
    403: NO_ROLE,
    408: 'check the network; --timeout waits longer',
    410: 'the image was deleted in the meantime',
    411: 'ask the operator which proxy drops Content-Length',
    413: 'delete images that are not needed, or ask for more quota',
    415: (
        'the cloud does not accept this type of data for the format of the '
        'image'
    ),
    429: 'try again later',
}

#: What some words of a refusal mean; the last is the name of a policy.
_FORBIDDEN = {
    'is protected': 'unprotect it first',
    # Of another project than the user's.
    'owned by': 'usually only administrators can do that',
    'publicize_image': (
        'usually only administrators can make images public; --community does '
        'not need that permission'
    ),
    'upload_image': 'the data has to be imported, with --import auto',
}


#: What a service says if it speaks TLS, and was not spoken to like that:
#: nginx, Apache, and what is written in Go.
_TLS = re.compile(r'\b(HTTPS|SSL-enabled)\b.* (port|server)\b')

_TLS_HINT = 'the endpoint speaks TLS: it has to begin with https'

#: What calls a request by a name that is in the logs, too; the second is
#: Nova's own.
_REQUESTS = ('X-Openstack-Request-Id', 'X-Compute-Request-Id')
_REQUEST = re.compile(r'[\w.:-]{1,100}', re.ASCII)

#: What proxies answer where they do not pass on an answer.
_PROXIED = frozenset({403, 407, 502, 503, 504})


#: What can be given to ``--sort``, where Glance says what cannot. Of keys, it
#: says which there are.
_SORT = 'give <key>[:asc|desc], several separated by commas'

#: What Keystone says to a token that is none any more: it is not found.
_REVOKED = re.compile(r'(validate|recognize|find) .*token', re.IGNORECASE)


def explain(response: requests.Response) -> str:
    """Find what an error answer says, in whatever form it says it.

    Glance writes HTML, JSON or plain text, by the ``Accept`` header and by
    what failed (webob.exc); a proxy in front of it writes what it likes.

    :returns: one line; the status' name if the body says nothing.
    """
    text = content = response.content[:_READ].decode('utf-8', 'replace')
    # Told by content: some say `text/html` to all that they write.
    with contextlib.suppress(ValueError, RecursionError):
        text = _message(json.loads(content)) or content
    # After its first sentence, jsonschema repeats the whole schema.
    text = _line(text).partition(' Failed validating ')[0]
    return text or response.reason or 'no reason given'


def _message(body: Any) -> str:
    """Find the message in ``{"message": ...}`` or ``{"error": {...}}``.

    With Nova, any name of a fault may be in the place of ``error``.
    """
    body = body if isinstance(body, dict) else {}
    known = [body.get(key) for key in ('message', 'error', 'title')]
    faults = [value for value in body.values() if isinstance(value, dict)]
    for found in (*known, *faults):
        if isinstance(found, dict):
            found = found.get('message')
        if found and isinstance(found, str):
            return found
    return ''


def request_id(response: requests.Response) -> str:
    """Name the request that an answer is to, for whoever looks at the logs.

    :returns: the end of a message, as other clients of OpenStack write it;
        nothing if no service of OpenStack has answered.
    """
    for header in _REQUESTS:
        id = response.headers.get(header, '')
        if _REQUEST.fullmatch(id):
            return f' (Request-ID: {id})'
    return ''


def _line(text: str) -> str:
    text = _TAG.sub(' ', _DECORATION.sub(' ', text))
    return ' '.join(html.unescape(text).split())[:_LENGTH].rstrip('. :')


def from_response(
    response: requests.Response, doing: str
) -> errors.CloudError:
    """Make the error that an answer stands for."""
    status = response.status_code
    asked = request_id(response)
    message = f'{doing} failed: {explain(response)} (HTTP {status}){asked}'
    if status == 404:
        hint = _STALE if _REVOKED.search(message) else None
        return errors.NotFoundError(message, hint=hint, status=status)
    hint = _HINTS.get(status)
    if status == 403:
        hint = next((h for w, h in _FORBIDDEN.items() if w in message), hint)
    if status == 400 and 'Invalid sort' in message:
        hint = _SORT
    if status == 400 and _TLS.search(message):
        hint = _TLS_HINT
    if status < 400:
        where = response.headers.get('Location', 'somewhere else')
        hint = f'the endpoint redirects to {where}: correct it'
    elif status >= 500:
        hint = 'try again later, or tell the operator'
    if status in _PROXIED and not asked and (proxy := _proxy(response.url)):
        hint = f'that may be the answer of {proxy[0]}: {proxy[1]}'
    again = None
    if status in retry.TRANSIENT:
        again = retry.retry_after(response.headers)
    return errors.CloudError(message, hint=hint, status=status, again=again)


def check(response: requests.Response, doing: str) -> requests.Response:
    """Pass on an answer that is a success.

    :raises NotFoundError: if the answer is 404.
    :raises CloudError: if it is another that is not a success; its cause is
        openstacksdk's exception, with the ``status_code``.
    """
    with translated(doing):
        sdk_exceptions.raise_from_response(response)
    if response.status_code >= 300:
        raise from_response(response, doing)
    return response


@contextlib.contextmanager
def translated(doing: str, advice: Advice = _CLOUD) -> Iterator[None]:
    """Translate whatever the libraries below raise.

    :raises NotFoundError: for a 404. :raises CloudError: for the rest.
    """
    try:
        yield
    except (
        sdk_exceptions.SDKException,
        keystone_exceptions.ClientException,
        requests.exceptions.RequestException,
    ) as error:
        raise from_exception(error, doing, advice) from error


#: What libraries raise over an answer that is not what they expect.
_SENSELESS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


@contextlib.contextmanager
def understood(doing: str, advice: Advice = _CLOUD) -> Iterator[None]:
    """Translate what the libraries raise that take an answer apart, too.

    For answers of Keystone's, above all, which they take as it comes.

    :raises CloudError: for all of it.
    :raises UsageError: if a text has bytes that no cloud can be asked with.
    """
    try:
        with translated(doing, advice):
            yield
    except UnicodeEncodeError as error:
        # What is asked for, no answer to it.
        raise not_utf8(error.object) from error
    except _SENSELESS as error:
        raise senseless(doing) from error


def not_utf8(words: str) -> errors.UsageError:
    """Say that what the user gave cannot be sent."""
    return errors.UsageError(
        f"'{errors.shown(words)}' has bytes that are not UTF-8",
        hint='use another name, or an ID',
    )


def senseless(doing: str) -> errors.CloudError:
    """Say that an answer was not what it had to be."""
    return errors.CloudError(
        f'{doing} failed: the answer of the cloud is not valid',
        hint='check that the endpoint is that of a cloud; --debug shows more',
    )


def from_exception(
    error: Exception, doing: str, advice: Advice = _CLOUD
) -> errors.CloudError:
    """Make our error out of one of the libraries'."""
    response = getattr(error, 'response', None)
    if isinstance(response, requests.Response):
        if isinstance(error, keystone_exceptions.HttpError) and response.url:
            # Our own requests raise none: this one was the session's.
            doing = f'{doing} failed: asking {_place(response.url)}'
        return from_response(response, doing)
    if isinstance(error, requests.exceptions.JSONDecodeError):
        return errors.CloudError(
            f'{doing} failed: the answer is not JSON',
            hint='check that the endpoint is that of an image service',
        )
    if isinstance(error, _UNCONNECTED):
        return _unconnected(error, doing, advice)
    return errors.CloudError(
        f'{doing} failed: {_line(str(error)) or type(error).__name__}'
    )


#: Raised where no answer comes, by whoever makes the request.
_UNCONNECTED = (
    keystone_exceptions.ConnectionError,
    requests.exceptions.RequestException,
)
_NO_TLS = (keystone_exceptions.SSLError, requests.exceptions.SSLError)


def _unconnected(
    error: Exception, doing: str, advice: Advice
) -> errors.CloudError:
    """Say why there was no answer, and what to check."""
    where, why = _endpoint(error), cause(error)
    again: float | None = None
    unresolved = _first(error, socket.gaierror)
    proxy = _proxy(where) if _first(error, _PROXY_FAILED) else None
    # Within TLS, a connection that is cut off is an SSL error as well.
    cut = _first(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError))
    if proxy is not None:
        what, hint = f'no connection to {where} by {proxy[0]}: {why}', proxy[1]
        again = 0.0
    elif isinstance(error, _NO_TLS) and cut is None:
        what = f'no secure connection to {where}: {why}'
        hint = advice.tls
        if _first(error, ssl.SSLCertVerificationError):
            hint = advice.authority
    elif unresolved is not None:
        what = f'the host of {where} was not found: {why}'
        hint = advice.name
        # Whether it is for ever, resolvers often do not know: EAI_AGAIN.
        again = 0.0 if unresolved.errno == socket.EAI_AGAIN else None
    elif _first(error, sessions.AnswerTooLargeError):
        largest = units.format_size(sessions.LARGEST)
        what = f'the answer of {where} is larger than {largest}'
        hint = advice.answer
    else:
        what, again = f'no connection to {where}: {why}', 0.0
        hint = advice.connection
        if why == _TIMED_OUT:
            hint = advice.time
        elif where.startswith('http:') and _first(error, _HUNG_UP):
            hint += '; if it speaks TLS, the endpoint has to begin with https'
    return errors.CloudError(f'{doing} failed: {what}', hint=hint, again=again)


#: What may mean that somebody waits for TLS.
_HUNG_UP = (
    ConnectionResetError,
    http.client.RemoteDisconnected,
    http.client.BadStatusLine,
)

#: What tells of the proxy, and not of the cloud behind it.
_PROXY_FAILED = (
    requests.exceptions.ProxyError,
    requests.exceptions.InvalidProxyURL,
    requests.exceptions.InvalidSchema,
)


def _proxy(url: str | None) -> tuple[str, str] | None:
    """Find the proxy that requests go by.

    :returns: what to call it, and what to do about it; None if there is none.
    """
    try:
        known = requests.utils.get_environ_proxies(url or '')
        found = str(requests.utils.select_proxy(url or '', known) or '')
    except ValueError:
        return None
    if not found:
        return None
    names = [f'{urllib.parse.urlsplit(url or "").scheme}_proxy', 'all_proxy']
    names += [name.upper() for name in names]
    variable = next((n for n in names if os.environ.get(n) == found), names[0])
    where = _place(found if '://' in found else f'http://{found}')
    return (
        f'the proxy {where}',
        f'correct the variable {variable}, or name the host in no_proxy',
    )


_E = TypeVar('_E', bound=BaseException)


def _first(
    error: BaseException, kind: type[_E] | tuple[type[_E], ...]
) -> _E | None:
    return next((e for e in _chain(error) if isinstance(e, kind)), None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Walk from an exception to what brought it about.

    urllib3 keeps the inner one in ``reason`` or among the arguments, requests
    among the arguments, and keystoneauth nowhere but in the context.
    """
    seen: set[int] = set()
    todo: list[object] = [error]
    while todo:
        inner = todo.pop(0)
        if not isinstance(inner, BaseException) or id(inner) in seen:
            continue
        seen.add(id(inner))
        yield inner
        todo += [
            getattr(inner, 'reason', None),
            *inner.args,
            inner.__cause__,
            inner.__context__,
        ]


#: What else may be at the bottom of it. What libraries say of that is about
#: their own objects.
_CAUSES: dict[tuple[type[BaseException], ...], str] = {
    (requests.exceptions.ProxyError,): ('the proxy refused the connection'),
    (
        TimeoutError,
        requests.exceptions.Timeout,
        urllib3.exceptions.ReadTimeoutError,
    ): _TIMED_OUT,
    (
        requests.exceptions.InvalidURL,
        requests.exceptions.InvalidSchema,
        requests.exceptions.MissingSchema,
    ): 'it is not a URL',
    (requests.exceptions.ContentDecodingError,): (
        'the answer is not compressed as its headers say'
    ),
    (
        http.client.RemoteDisconnected,
    ): 'the connection was closed without an answer',
    (urllib3.exceptions.InvalidChunkLength,): (
        'the connection was closed, or the answer is not HTTP'
    ),
    (http.client.IncompleteRead,): 'the connection was closed',
    (http.client.HTTPException, urllib3.exceptions.HTTPError): (
        'the answer is not HTTP'
    ),
}


_TUNNEL = 'Tunnel connection failed: '


def cause(error: BaseException) -> str:
    """Say what the operating system said, or else what came."""
    for inner in _chain(error):
        # requests' exceptions are OSErrors too, but without an errno.
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        # From http.client, with what a proxy has answered.
        if type(inner) is OSError and str(inner).startswith(_TUNNEL):
            return f'it answered {str(inner).removeprefix(_TUNNEL)}'
        if isinstance(inner, requests.exceptions.InvalidSchema) and (
            'SOCKS' in str(inner)
        ):
            return 'for SOCKS, Python needs the package PySocks'
    for kinds, words in _CAUSES.items():
        if _first(error, kinds):
            return words
    return 'unknown cause; --debug shows more'


_ASKED = re.compile(r' for (https?://\S+?):? ')


def _endpoint(error: BaseException) -> str:
    for inner in _chain(error):
        request = getattr(inner, 'request', None)
        if request is not None and request.url:
            return _place(request.url)
    # What was not even begun, keystoneauth tells of only in words.
    found = _ASKED.search(str(error))
    return _place(found[1]) if found else 'the cloud'


def _place(url: str) -> str:
    """Leave out of a URL all but where it leads, passwords above all."""
    parts = urllib.parse.urlsplit(url)
    return f'{parts.scheme}://{parts.netloc.rpartition("@")[2]}'
