# SPDX-License-Identifier: Apache-2.0

"""A web server on the loopback interface, with TLS and faults."""

import http.server
import pathlib
import re
import threading
from typing import Any

import fixtures

from amiclient import process
from amiclient.tests.faults import proxy as faults


def certificate(directory: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Make a certificate of this machine, and tell it with its key."""
    pem, key = directory / 'authority.pem', directory / 'server.pem'
    process.run(
        [
            *('openssl', 'req', '-x509', '-nodes', '-days', '2'),
            *('-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1'),
            *('-subj', '/CN=127.0.0.1'),
            *('-addext', 'subjectAltName=IP:127.0.0.1'),
            *('-keyout', key, '-out', pem),
        ],
        access=None,
    )
    with key.open('ab') as file:
        file.write(pem.read_bytes())
    return pem, key


class Site(fixtures.Fixture):
    """The server; ``url`` tells where it is, with a slash at the end.

    :param files: what it has, by name.
    :param secure: whether it speaks TLS, by a certificate that is trusted.
    """

    def __init__(
        self, directory: pathlib.Path, *, secure: bool = True, **files: bytes
    ) -> None:
        self.files = files
        #: Headers that it sends with what file.
        self.headers: dict[str, dict[str, str]] = {}
        #: The method, the path and the headers of each request.
        self.asked: list[tuple[str, Any]] = []
        self._directory = directory
        self._secure = secure

    def _setUp(self) -> None:
        server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), _Handler)
        server.daemon_threads = True
        server.site = self  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        self.addCleanup(server.server_close)
        self.addCleanup(thread.join)
        self.addCleanup(server.shutdown)
        key = None
        if self._secure:
            pem, path = certificate(self._directory)
            key = str(path)
            self.useFixture(
                fixtures.EnvironmentVariable('REQUESTS_CA_BUNDLE', str(pem))
            )
        plain = f'http://127.0.0.1:{server.server_address[1]}'
        #: What happens to requests on their way.
        self.way = self.useFixture(faults.Proxy(plain, key))
        self.url = f'{self.way.url}/'

    def ranges(self, name: str) -> list[str | None]:
        """Tell which parts of a file were asked for."""
        return [h.get('Range') for path, h in self.asked if path == f'/{name}']


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    server: Any

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        site: Site = self.server.site
        site.asked.append((self.path, self.headers))
        name = self.path.partition('?')[0].strip('/')
        headers = {'ETag': '"1"', **site.headers.get(name, {})}
        status, body = 404, b'<h1>Not here</h1>'
        if 'Location' in headers:
            status, body = 302, b''
        elif name in site.files:
            status, body = 200, site.files[name]
            match = re.fullmatch(
                r'bytes=(\d+)-', self.headers.get('Range', '')
            )
            unchanged = headers['ETag'] == self.headers.get(
                'If-Range', headers['ETag']
            )
            if match and unchanged:
                begin, size = int(match[1]), len(body)
                status, body = 206, body[begin:]
                headers['Content-Range'] = f'bytes {begin}-{size - 1}/{size}'
        self.send_response_only(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
