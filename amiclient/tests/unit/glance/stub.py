# SPDX-License-Identifier: Apache-2.0

"""A small Glance on a socket, whose uploads go wrong as they are told to."""

from collections.abc import Callable
import hashlib
import http.server
import json
import socket
import struct
import threading
import time
from typing import Any

import fixtures
from keystoneauth1 import session
from keystoneauth1 import token_endpoint
import openstack

IMAGE = '11111111-2222-4333-8444-555555555555'

#: Seconds for what takes no time: so long is only waited where something is
#: broken, however slow the machine.
AGES = 60.0

#: The same, for what has to outlast everything else.
FOR_EVER = 10 * AGES


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection; the steps that a script names are its methods."""

    protocol_version = 'HTTP/1.1'
    server: 'Server'

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self, status: int, body: bytes = b'', **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace('_', '-'), value)
        if status != 204:
            self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        length = int(self.headers['Content-Length'])
        data = self.rfile.read(length)
        if len(data) < length:
            # As Glance does, take nothing that is cut short.
            raise ConnectionAbortedError
        return data

    def do_GET(self) -> None:
        glance = self.server.glance
        if self.path in ('/', '/v2', '/v2/'):
            link = {'rel': 'self', 'href': f'{glance.endpoint}/v2/'}
            version = {'id': 'v2.17', 'status': 'CURRENT', 'links': [link]}
            found: Any = {'versions': [version]}
        else:
            glance.looks += 1
            if glance.passing:
                glance.image['status'] = glance.passing.pop(0)
            found = glance.image
        if found is None:
            self.answer(404, b'{"message": "No image found"}')
            return
        self.answer(
            200, json.dumps(found).encode(), Content_Type='application/json'
        )

    def do_PUT(self) -> None:
        glance = self.server.glance
        glance.puts.append(dict(self.headers))
        step = glance.script.pop(0) if glance.script else Handler.store
        glance.begun.set()
        step(self)

    def store(self) -> None:
        """Store the data, as Glance does."""
        self.keep()
        self.answer(204)

    def keep(self) -> None:
        glance = self.server.glance
        glance.data = self.body()
        glance.image.update(
            status='active',
            size=len(glance.data),
            os_hash_algo='sha512',
            os_hash_value=hashlib.sha512(glance.data).hexdigest(),
            checksum=hashlib.md5(glance.data).hexdigest(),
        )
        glance.image.update(glance.changes)

    def hang_up(self) -> None:
        """Reset the connection, with what is in it."""
        self.connection.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)
        )
        self.close_connection = True
        # Two more references keep it open otherwise.
        self.rfile.close()
        self.wfile.close()
        self.connection.close()


Step = Callable[[Handler], None]


def reset(handler: Handler) -> None:
    """Break off in the middle."""
    handler.rfile.read(1 << 20)
    handler.hang_up()


def lose(handler: Handler) -> None:
    """Store everything, and never say so."""
    handler.keep()
    handler.hang_up()


def stall(handler: Handler) -> None:
    """Read no more, until the test is over."""
    handler.rfile.read(1000)
    handler.server.glance.stalled.set()
    handler.server.glance.over.wait(FOR_EVER)
    handler.close_connection = True


def silence(handler: Handler) -> None:
    """Read it all, and say nothing until the test is over."""
    handler.body()
    handler.server.glance.stalled.set()
    handler.server.glance.over.wait(FOR_EVER)
    handler.close_connection = True


def leave(handler: Handler) -> None:
    """Break off, and be gone for good."""
    handler.server.socket.close()
    handler.hang_up()


def vanish(handler: Handler) -> None:
    """Delete the image as Glance does if the token expires."""
    handler.body()
    handler.server.glance.image = None
    handler.answer(401, b'the token may have expired')


def say(status: int, text: bytes = b'', **headers: str) -> Step:
    """Read it all and answer that."""

    def step(handler: Handler) -> None:
        handler.body()
        handler.answer(status, text, **headers)

    return step


def interrupt(status: int, text: bytes) -> Step:
    """Answer before anything is read, and close the connection."""

    def step(handler: Handler) -> None:
        handler.close_connection = True
        handler.answer(status, text, Content_Type='text/html')
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_WR)
        # Let the answer get there before the reset does.
        time.sleep(0.05)

    return step


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    glance: 'Glance'

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that hang up are what is tested."""


class Glance(fixtures.Fixture):
    """The server.

    ``script`` holds what happens to the uploads, one after the other; then
    they succeed. ``changes`` is what Glance claims in the end, whatever was
    sent. ``passing`` holds the states that the next looks find it in.
    """

    #: Who answers.
    handler: type[Handler] = Handler

    def __init__(self, *script: Step, **changes: Any) -> None:
        self.script = list(script)
        self.changes = changes
        self.passing: list[str] = []
        self.puts: list[dict[str, str]] = []
        self.looks = 0
        self.data = b''
        self.begun = threading.Event()
        self.stalled = threading.Event()
        self.over = threading.Event()
        self.image: Any = {
            'id': IMAGE,
            'name': 'web',
            'status': 'queued',
            'visibility': 'shared',
            'size': None,
        }

    def _setUp(self) -> None:
        # A server that is gone for good leaves its port to nobody else.
        port = socket.socket()
        self.addCleanup(port.close)
        port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port.bind(('127.0.0.1', 0))
        server = Server(port.getsockname(), self.handler)
        server.glance = self
        self.endpoint = f'http://127.0.0.1:{server.server_address[1]}'
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        self.addCleanup(server.server_close)
        self.addCleanup(thread.join)
        self.addCleanup(server.shutdown)
        self.addCleanup(self.over.set)
        self.proxy = self._closed(
            openstack.connect(
                # The tester's clouds.yaml is none of ours.
                load_yaml_config=False,
                auth_type='none',
                endpoint=self.endpoint,
                region_name='here',
            ).image
        )

    def stalls_once(self, method: str) -> None:
        """Have the client lose patience only once, with what does stall.

        Its time-outs are for the first request, which is the one that the
        script has stall. How long the next ones take is the machine's affair.

        :param method: what the client sends or asks for data with.
        """
        real = getattr(self.proxy, method)
        times: list[object] = []

        def request(*args: Any, timeout: object, **kwargs: Any) -> Any:
            times.append(timeout)
            if len(times) > 1:
                # Or it would be the second one that stalls.
                self.begun.wait(AGES)
                timeout = AGES
            return real(*args, timeout=timeout, **kwargs)

        patch = fixtures.MockPatchObject(self.proxy, method, request)
        self.useFixture(patch)

    def authenticated(self) -> Any:
        """A proxy with a token that can be renewed."""
        auth = Tokens(self.endpoint + '/v2', 'old')
        return self._closed(
            openstack.connection.Connection(
                session=session.Session(auth=auth),
                image_endpoint_override=self.endpoint + '/v2',
            ).image
        )

    def _closed(self, proxy: Any) -> Any:
        """Have what it has open closed with this: nothing else does soon."""
        self.addCleanup(proxy.session.session.close)
        return proxy


class Tokens(token_endpoint.Token):
    """Credentials that get another token when one is refused."""

    def invalidate(self) -> bool:
        self.token = 'new'
        return True
