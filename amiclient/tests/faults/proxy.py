# SPDX-License-Identifier: Apache-2.0

"""A reverse proxy that stands in front of a real server and injects faults.

It passes everything through, both ways, until it is told otherwise: a test
adds rules, each of which says which requests it is for, how many of them,
and what is to happen instead. The actions are in
:mod:`amiclient.tests.faults.actions`.
"""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import http.client
import http.server
import os
import re
import select
import socket
import ssl
import struct
import threading
import time
from typing import Any, NamedTuple
import urllib.parse

import fixtures

#: Bytes that are passed on at a time.
_CHUNK = 64 * 1024

#: Bytes that wait in the proxy's sockets, and the most that travel at a time
#: (tcp(7)): together, less than half a MiB is under way to one that stalls.
_BUFFER = 16 * 1024
_SEGMENT = 1460

#: Seconds after which a test that hangs is over at last.
_LATE = 60

#: What is about one connection only (RFC 9110, section 7.6.1).
_HOP = {'connection', 'keep-alive', 'transfer-encoding', 'upgrade'}

#: What keystonemiddleware says.
_EXPIRED = b'{"error": {"code": 401, "message": "Authentication required"}}'


@dataclasses.dataclass
class Answer:
    """What the server said, or what is said in its place."""

    status: int
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    body: bytes = b''


class Seen(NamedTuple):
    """A request that came."""

    method: str
    path: str
    headers: dict[str, str]


class Exchange(http.server.BaseHTTPRequestHandler):
    """One request, and what becomes of it."""

    protocol_version = 'HTTP/1.1'
    server: '_Server'

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: what matters is in ``Proxy.seen``."""

    def _serve(self) -> None:
        proxy = self.server.proxy
        self.length = int(self.headers.get('Content-Length') or 0)
        with proxy.begun(self):
            self._act(proxy)

    def _act(self, proxy: 'Proxy') -> None:
        action = proxy.choose(self)
        try:
            if self.headers.get('X-Auth-Token') in proxy.revoked:
                proxy.note()
                self.read()
                self.say(Answer(401, {'Content-Type': 'text/html'}, _EXPIRED))
                return
            if action is None:
                self.say(self.ask())
            else:
                proxy.note()
                action(self)
        except (ConnectionError, TimeoutError):
            # A client that hangs up is what is tested, more often than not.
            self.close_connection = True

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = do_HEAD = _serve

    # What actions are made of.

    def chunks(self, count: int | None = None) -> Iterator[bytes]:
        """Read the request's body, or what is next of it.

        :param count: bytes, at most; None for all that is left.
        """
        wanted = self.length if count is None else min(count, self.length)
        while wanted:
            chunk = self.rfile.read(min(_CHUNK, wanted))
            if not chunk:
                raise ConnectionAbortedError
            wanted -= len(chunk)
            self.length -= len(chunk)
            self.server.proxy.carried += len(chunk)
            yield chunk

    def read(self, count: int | None = None) -> bytes:
        """Read the request's body, or what is next of it, at once."""
        return b''.join(self.chunks(count))

    def connect(
        self, length: int | None = None, **changes: str | None
    ) -> http.client.HTTPConnection:
        """Send the head of the request to the server.

        :param length: what to claim of the body; None for the truth.
        :param changes: headers to change, or to leave out.
        """
        # A client that knows it for a proxy names the server itself.
        parts = urllib.parse.urlsplit(self.path)
        connection = http.client.HTTPConnection(
            parts.netloc or self.server.proxy.upstream, timeout=_LATE
        )
        path = parts._replace(scheme='', netloc='').geturl()
        connection.putrequest(
            self.command, path, skip_host=True, skip_accept_encoding=True
        )
        headers = {
            k: v for k, v in self.headers.items() if k.lower() not in _HOP
        }
        if 'Content-Length' in headers and length is not None:
            headers['Content-Length'] = str(length)
        for name, value in changes.items():
            headers.pop(name.replace('_', '-'), None)
            if value is not None:
                headers[name.replace('_', '-')] = value
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        return connection

    def hear(self, connection: http.client.HTTPConnection) -> Answer:
        """Take the server's answer."""
        with connection.getresponse() as response:
            headers = {
                k: v
                for k, v in response.getheaders()
                if k.lower() not in {*_HOP, 'content-length'}
            }
            answer = Answer(response.status, headers, response.read())
        connection.close()
        return answer

    def ask(self, **changes: str | None) -> Answer:
        """Pass the whole request on, and take the server's answer."""
        connection = self.connect(**changes)
        self.give(connection)
        return self.hear(connection)

    def give(
        self, connection: http.client.HTTPConnection, count: int | None = None
    ) -> None:
        """Pass the body on, or what is next of it.

        :param count: bytes, at most; None for all that is left.
        """
        try:
            for chunk in self.chunks(count):
                connection.send(chunk)
        except ConnectionError:
            self.part(connection)
            raise

    def part(self, connection: http.client.HTTPConnection) -> None:
        """Tell the server that no more will come; wait until it knows.

        It answers what was broken off once it is through with it.
        """
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.sock.shutdown(socket.SHUT_WR)
            connection.getresponse().close()
        connection.close()

    def say(self, answer: Answer) -> None:
        """Answer the client."""
        self.server.proxy.carried += len(answer.body)
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.status not in {204, 304}:
            self.send_header('Content-Length', str(len(answer.body)))
        if self.length:
            # What was not read would be taken for the next request.
            self.close_connection = True
            self.send_header('Connection', 'close')
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(answer.body)

    def reset(self) -> None:
        """Reset the connection to the client, with what is in it."""
        self.connection.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)
        )
        self.close_connection = True
        # Two more references keep it open otherwise.
        self.rfile.close()
        self.wfile.close()
        self.connection.close()

    def hold(self) -> None:
        """Do nothing until the client hangs up, or the fault is over.

        A client that has more to send than there is room for may not be able
        to say that it hangs up.
        """
        self.close_connection = True
        over = self.server.proxy.over
        while not over.is_set() and not self.is_left():
            pass

    def is_left(self) -> bool:
        """Wait a moment; tell whether the client has hung up."""
        poll = select.poll()
        poll.register(self.connection, select.POLLRDHUP | select.POLLHUP)
        return bool(poll.poll(50))


Action = Callable[[Exchange], None]


@dataclasses.dataclass
class _Rule:
    action: Action
    method: str
    path: re.Pattern[str]
    times: int | None
    length: int | None

    def fits(self, exchange: Exchange) -> bool:
        return (
            self.times != 0
            and self.method in {exchange.command, '*'}
            and self.path.search(exchange.path) is not None
            and self.length in {exchange.length, None}
        )


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    proxy: 'Proxy'

    def server_bind(self) -> None:
        # Those of connections are as small, and so are clients', which grow
        # with the size of a segment: what stalls is to be felt.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT)
        super().server_bind()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients hang up, and that is as it should be."""


class Proxy(fixtures.Fixture):
    """The proxy, listening on the loopback interface.

    ``seen`` holds each request, in turn.

    :param server: the URL of the real one; only where it is matters.
    :param certificate: a PEM file with a key and a certificate, to speak TLS.
    """

    def __init__(self, server: str, certificate: str | None = None) -> None:
        self.upstream = urllib.parse.urlsplit(server).netloc
        self.seen: list[Seen] = []
        #: Bytes of all bodies, both ways.
        self.carried = 0
        #: Tokens that are not to be taken any more.
        self.revoked: set[str] = set()
        #: Set when what was held is to be let go.
        self.over = threading.Event()
        self._certificate = certificate
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()
        self._busy = 0

    def note(self) -> None:
        """Write down that there was a fault, if anybody wants to know."""
        path = os.environ.get('AMICLIENT_TEST_COUNTS')
        if path:
            with open(path, 'a', encoding='utf-8') as file:
                file.write('fault\n')

    def _setUp(self) -> None:
        self._server = _Server(('127.0.0.1', 0), Exchange)
        self._server.proxy = self
        scheme = 'http'
        if self._certificate:
            scheme = 'https'
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._certificate)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True
            )
        host, port = self._server.server_address[:2]
        self.url = f'{scheme}://{host}:{port}'
        thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,)
        )
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(self._server.server_close)
        self.addCleanup(self._server.shutdown)
        self.addCleanup(self.clear)

    def rule(
        self,
        action: Action,
        *,
        method: str = '*',
        path: str = '',
        times: int | None = 1,
        length: int | None = None,
    ) -> None:
        """Say what is to happen to some requests; rules are used in turn.

        :param path: a regular expression that is found in the path.
        :param times: how many requests; None for all.
        :param length: bytes that the body has; None for any.
        """
        found = _Rule(action, method, re.compile(path), times, length)
        self._rules.append(found)

    def clear(self) -> None:
        """Forget the rules, and what was seen."""
        with self._lock:
            self._rules = []
            self.seen = []
            self.revoked = set()
            self.over.set()
            self.over = threading.Event()

    def leave(self) -> None:
        """Listen no more: connections are refused from now on."""
        place = self._server.server_address[:2]
        self._server.socket.close()
        # Nobody else is to listen there.
        keeper = socket.socket()
        self.addCleanup(keeper.close)
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeper.bind(place)

    @contextlib.contextmanager
    def begun(self, exchange: Exchange) -> Iterator[None]:
        """Note a request, and that it is being served."""
        with self._lock:
            self.seen.append(
                Seen(exchange.command, exchange.path, dict(exchange.headers))
            )
            self._busy += 1
        try:
            yield
        finally:
            with self._lock:
                self._busy -= 1

    def settle(self) -> None:
        """Wait until nothing is being served any more."""
        end = time.monotonic() + _LATE
        while self._busy:
            if time.monotonic() > end:
                raise AssertionError(f'still busy with some of {self.seen}')
            time.sleep(0.02)

    def choose(self, exchange: Exchange) -> Action | None:
        """Find what is to happen to a request."""
        with self._lock:
            for rule in self._rules:
                if rule.fits(exchange):
                    if rule.times is not None:
                        rule.times -= 1
                    return rule.action
        return None

    def count(self, method: str, path: str) -> int:
        """Count the requests so far."""
        return sum(
            1
            for seen in self.seen
            if seen.method == method and re.search(path, seen.path)
        )
