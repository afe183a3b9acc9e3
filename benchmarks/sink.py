# SPDX-License-Identifier: Apache-2.0

"""A server that talks like Glance and only reads what it is sent.

It takes the place of a cloud that is faster than any client, so that what is
measured against it is the client. It keeps records and no data, and computes
no hash: ``os_hash_value`` and ``checksum`` stay null, which an operator's
Glance may have too.

Run it as a program, and it prints its endpoint and serves until it is killed::

    python -m benchmarks.sink
    openstack --os-auth-type none --os-endpoint URL image list

or use :class:`Sink` as a context manager in a process of one's own.
"""

import argparse
import http.server
import json
import pathlib
import re
import ssl
import subprocess
import threading
from typing import Any, Self
import urllib.parse
import uuid

#: Bytes asked of the socket at a time.
_BLOCK = 1 << 20

_CREATED = '2026-01-01T00:00:00Z'
_FORMATS = ['ami', 'ari', 'aki', 'raw', 'qcow2', 'bare']


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    disable_nagle_algorithm = True
    server: '_Server'

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, status: int, body: Any = None) -> None:
        data = b'' if body is None else json.dumps(body).encode()
        self.send_response(status)
        if status != 204:
            self.send_header('Content-Length', str(len(data)))
            self.send_header('Content-Type', 'application/json')
        self.end_headers()
        self.wfile.write(data)

    def _read(self) -> int:
        """Read the body, whichever way it comes; tell its length."""
        buffer = memoryview(bytearray(_BLOCK))
        if self.headers.get('Transfer-Encoding') == 'chunked':
            total = 0
            while size := int(self.rfile.readline().split(b';')[0], 16):
                total += self._drain(size, buffer)
                self.rfile.readline()
            self.rfile.readline()
            return total
        return self._drain(int(self.headers['Content-Length']), buffer)

    def _drain(self, size: int, buffer: memoryview) -> int:
        left = size
        while left:
            count = self.rfile.readinto1(buffer[: min(left, _BLOCK)])
            if not count:
                self.close_connection = True
                break
            left -= count
        return size - left

    def _image(self) -> dict[str, Any] | None:
        match = re.match(r'/v2/images/([^/?]+)', self.path)
        image = self.server.images.get(match[1]) if match else None
        if image is None:
            self._answer(404, {'message': 'No image found'})
        return image

    def do_GET(self) -> None:
        path = urllib.parse.urlsplit(self.path).path.rstrip('/')
        if path in ('', '/v2', '/versions'):
            link = {'rel': 'self', 'href': f'{self.server.endpoint}/v2/'}
            version = {'id': 'v2.17', 'status': 'CURRENT', 'links': [link]}
            self._answer(200, {'versions': [version]})
        elif path == '/v2/images':
            self._answer(200, {'images': list(self.server.images.values())})
        elif path == '/v2/schemas/image':
            enum = {'enum': _FORMATS}
            properties = {'disk_format': enum, 'container_format': enum}
            self._answer(200, {'name': 'image', 'properties': properties})
        elif image := self._image():
            self._answer(200, image)

    def do_POST(self) -> None:
        length = int(self.headers['Content-Length'])
        wanted = json.loads(self.rfile.read(length))
        image = {
            'id': str(uuid.uuid4()),
            'name': None,
            'status': 'queued',
            'visibility': 'shared',
            'protected': False,
            'os_hidden': False,
            'owner': None,
            'disk_format': None,
            'container_format': None,
            'min_disk': 0,
            'min_ram': 0,
            'size': None,
            'checksum': None,
            'os_hash_algo': None,
            'os_hash_value': None,
            'tags': [],
            'created_at': _CREATED,
            'updated_at': _CREATED,
            **wanted,
        }
        self.server.images[image['id']] = image
        self._answer(201, image)

    def do_PATCH(self) -> None:
        length = int(self.headers['Content-Length'])
        changes = json.loads(self.rfile.read(length))
        if image := self._image():
            for change in changes:
                key = change['path'].removeprefix('/')
                if change['op'] == 'remove':
                    image.pop(key, None)
                else:
                    image[key] = change['value']
            self._answer(200, image)

    def do_PUT(self) -> None:
        if image := self._image():
            image.update(size=self._read(), status='active')
            self._answer(204)

    def do_DELETE(self) -> None:
        if image := self._image():
            del self.server.images[image['id']]
            self._answer(204)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, certificate: pathlib.Path | None = None) -> None:
        super().__init__(('127.0.0.1', 0), _Handler)
        scheme = 'http'
        if certificate is not None:
            scheme = 'https'
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.endpoint = f'{scheme}://127.0.0.1:{self.server_address[1]}'
        self.images: dict[str, dict[str, Any]] = {}


class Sink:
    """The server in a thread of this process, while the context lasts."""

    def __enter__(self) -> Self:
        self._server = _Server()
        self.endpoint = self._server.endpoint
        self.images = self._server.images
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def make_certificate(path: pathlib.Path) -> pathlib.Path:
    """Make a key and a certificate that signs itself, in one file."""
    subprocess.run(
        [
            *('openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt'),
            *('ec_paramgen_curve:P-256', '-nodes', '-subj', '/CN=sink'),
            *('-addext', 'subjectAltName=IP:127.0.0.1', '-days', '2'),
            *('-keyout', path, '-out', f'{path}.crt'),
        ],
        check=True,
        capture_output=True,
    )
    with path.open('ab') as file:
        file.write(pathlib.Path(f'{path}.crt').read_bytes())
    return path


def main() -> None:
    """Print the endpoint and serve until killed."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        '--certificate',
        type=pathlib.Path,
        help='speak TLS, with this key and certificate',
    )
    server = _Server(parser.parse_args().certificate)
    print(server.endpoint, flush=True)
    server.serve_forever()


if __name__ == '__main__':
    main()
