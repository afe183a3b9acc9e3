# SPDX-License-Identifier: Apache-2.0

"""How ``--image-format qcow2`` compresses, by what the cloud says."""

import http.server
import json
import pathlib
import threading
from typing import Any

from amiclient import process
from amiclient.tests.functional import upload
from amiclient.tests.oracle import exttree


class _Compute(http.server.BaseHTTPRequestHandler):
    """Nova, as far as it tells which versions it speaks."""

    newest = ''

    def do_GET(self) -> None:
        url = f'http://127.0.0.1:{self.server.server_address[1]}/v2.1/'
        version = {
            'id': 'v2.1',
            'status': 'CURRENT',
            'version': self.newest,
            'min_version': '2.1',
            'links': [{'rel': 'self', 'href': url}],
        }
        body = json.dumps({'version': version}).encode()
        self.send_response(200)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class TestCompression(upload.UploadCase):
    def serve(self, newest: str) -> str:
        """Start a compute service; tell its URL."""
        handler = type('Handler', (_Compute,), {'newest': newest})
        server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        self.addCleanup(server.server_close)
        self.addCleanup(thread.join)
        self.addCleanup(server.shutdown)
        return f'http://127.0.0.1:{server.server_address[1]}/v2.1'

    def announce(self, url: str | None) -> None:
        """Have Keystone know of another compute service, or of none."""
        # At the end as well, when it is gone.
        self.addCleanup(self.embedded.tokens.forget)
        identity = self.embedded.connection('admin').identity
        (service,) = identity.services(type='compute')
        for endpoint in list(identity.endpoints(service_id=service.id)):
            self.addCleanup(
                identity.update_endpoint,
                endpoint.id,
                url=endpoint.url,
                is_enabled=True,
            )
            identity.update_endpoint(
                endpoint.id,
                url=url or endpoint.url,
                is_enabled=url is not None,
            )
        self.embedded.tokens.forget()

    def compression(self) -> str:
        """Upload; tell how Glance then has it."""
        told = self.upload('--image-format', 'qcow2')
        came = self.download(told['id'])
        self.assertEqual(told['size'], came.stat().st_size)
        plain = came.with_name('plain')
        process.run(
            ['qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', came, plain],
            access=None,
        )
        self.assertEqual(
            exttree.read_tree(self.root), exttree.read_tree(plain)
        )
        # The same again is there already.
        again = self.upload('--image-format', 'qcow2')
        self.assertIn(told['id'], again['reused'])
        self.assertNothingLeft()
        return _type(came)

    def test_hosts_that_read_zstd(self) -> None:
        self.announce(self.serve('2.100'))
        self.assertEqual('zstd', self.compression())

    def test_hosts_that_may_not(self) -> None:
        self.announce(self.serve('2.96'))
        self.assertEqual('zlib', self.compression())

    def test_no_compute_service(self) -> None:
        self.announce(None)
        self.assertEqual('zlib', self.compression())

    def test_compute_service_that_is_down(self) -> None:
        self.announce('http://127.0.0.1:9/v2.1')
        self.assertEqual('zlib', self.compression())


def _type(path: pathlib.Path) -> str:
    argv = ['qemu-img', 'info', '--output=json', path]
    told = json.loads(process.run(argv, access=None).stdout)
    return told['format-specific']['data']['compression-type']
