# SPDX-License-Identifier: Apache-2.0

"""A Glance of our own that gives data away, as badly as a test wants."""

from collections.abc import Callable
import hashlib
import json
import socket
import struct
from typing import Any

from amiclient.glance import model
from amiclient.tests.unit.glance import stub

Step = Callable[['Handler'], None]


class Handler(stub.Handler):
    server: 'stub.Server'

    def do_GET(self) -> None:
        if not self.path.endswith('/file'):
            super().do_GET()
            return
        shelf = self.server.glance
        shelf.asked.append(self.headers.get('Range'))
        step = shelf.script.pop(0) if shelf.script else give()
        shelf.begun.set()
        step(self)

    def begin(self) -> int:
        """Tell where the client wants to begin."""
        wanted = self.headers.get('Range')
        return int(wanted.removeprefix('bytes=')[:-1]) if wanted else 0

    def head(self, begin: int, length: int | None, **headers: str) -> None:
        size = len(self.server.glance.data)
        self.send_response(206 if begin else 200)
        if begin:
            headers['Content_Range'] = f'bytes {begin}-{size - 1}/{size}'
        self.send_header('Content-Type', 'application/octet-stream')
        for name, value in headers.items():
            self.send_header(name.replace('_', '-'), value)
        if length is not None:
            self.send_header('Content-Length', str(length))
        self.end_headers()


def give(
    *,
    until: float = 1.0,
    end: Callable[[Handler], None] | None = None,
    change: Callable[[bytes], bytes] = bytes,
) -> Step:
    """Give what is asked for.

    :param until: how much of the rest, as a fraction.
    :param end: what happens then.
    :param change: what becomes of the data on the way.
    """

    def step(handler: Handler) -> None:
        begin = handler.begin()
        rest = change(handler.server.glance.data[begin:])
        handler.head(begin, len(rest))
        handler.wfile.write(rest[: int(len(rest) * until)])
        handler.wfile.flush()
        if end:
            end(handler)

    return step


def whole(handler: Handler) -> None:
    """Give all of it, whatever was asked for."""
    data = handler.server.glance.data
    handler.head(0, len(data))
    handler.wfile.write(data)


def chunked(handler: Handler) -> None:
    """Give it in pieces of odd sizes, without saying how much there is."""
    begin = handler.begin()
    rest = handler.server.glance.data[begin:]
    handler.head(begin, None, Transfer_Encoding='chunked')
    for start in range(0, len(rest), 77777):
        piece = rest[start : start + 77777]
        handler.wfile.write(b'%x\r\n%s\r\n' % (len(piece), piece))
    handler.wfile.write(b'0\r\n\r\n')


def say(status: int, text: bytes = b'', **headers: str) -> Step:
    """Answer that."""

    def step(handler: Handler) -> None:
        handler.answer(status, text, **headers)

    return step


def close(handler: Handler) -> None:
    """End the connection in good order, though not all was given."""
    handler.close_connection = True


def reset(handler: Handler) -> None:
    handler.connection.setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)
    )
    handler.hang_up()


def stall(handler: Handler) -> None:
    """Give no more, until the test is over."""
    handler.server.glance.stalled.set()
    handler.server.glance.over.wait(stub.FOR_EVER)
    handler.close_connection = True


class Shelf(stub.Glance):
    """The server; ``script`` is what becomes of the requests for data.

    ``asked`` holds the ranges that were asked for.
    """

    handler = Handler

    def __init__(self, data: bytes, *script: Step, **changes: Any) -> None:
        super().__init__(*script)  # type: ignore[arg-type]
        self.data = data
        self.asked: list[str | None] = []
        self.image.update(
            status='active',
            size=len(data),
            disk_format='ami',
            container_format='ami',
            os_hash_algo='sha512',
            os_hash_value=hashlib.sha512(data).hexdigest(),
            checksum=hashlib.md5(data).hexdigest(),
        )
        self.image.update(changes)

    @property
    def record(self) -> model.ImageRecord:
        return model.ImageRecord.from_json(json.loads(json.dumps(self.image)))
