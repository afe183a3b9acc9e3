# SPDX-License-Identifier: Apache-2.0

"""Answers that have no end, over a real socket, and redirects elsewhere."""

from collections.abc import Callable, Iterator
import gzip
import itertools
import json
import socket
import threading
import time
from typing import Any

import openstack
import requests

from amiclient import errors
from amiclient.glance import client
from amiclient.glance import model
from amiclient.glance import retry
from amiclient.glance import sessions
from amiclient.tests import base
from amiclient.tests.unit.glance import wire

ID = '11111111-2222-4333-8444-555555555555'

#: Every answer has to be there within a second and a half.
QUICK = retry.Patience(attempts=1, stall=0.5, reply=1.0)

#: Far more than that, and far less than what the cloud would take.
LONG = 20.0

_OK = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n'
_CLOSED = _OK + b'Connection: close\r\n\r\n'


def head(length: int, *more: bytes) -> bytes:
    lines = [b'Content-Length: %d' % length, *more, b'', b'']
    return _OK + b'\r\n'.join(lines)


def slowly(*pieces: bytes) -> Iterator[bytes]:
    """Give one piece after the other, each well before a time-out."""
    for piece in pieces:
        time.sleep(0.1)
        yield piece


class BoundedTest(base.TestCase):
    def serve(self, answer: Callable[[bytes], Iterator[bytes]]) -> None:
        """Have a cloud that gives pieces of an answer for as long as it may.

        :param answer: is given the line that a request begins with.
        """
        listener = socket.create_server(('127.0.0.1', 0))
        self.addCleanup(listener.close)
        self.url = f'http://127.0.0.1:{listener.getsockname()[1]}'
        self.over = threading.Event()
        self.addCleanup(self.over.set)
        self.lines: list[bytes] = []

        def talk(peer: socket.socket) -> None:
            with peer:
                request = peer.recv(65536)
                line = request.partition(b'\r\n')[0]
                self.lines.append(line)
                for piece in self._pieces(line, answer):
                    if self.over.is_set():
                        return
                    try:
                        peer.sendall(piece)
                    except OSError:
                        return

        def accept() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(
                    target=talk, args=(peer,), daemon=True
                ).start()

        threading.Thread(target=accept, daemon=True).start()
        proxy = openstack.connect(
            load_yaml_config=False,
            auth_type='none',
            endpoint=self.url,
            region_name='here',
        ).image
        self.addCleanup(proxy.session.session.close)
        self.catalog = client.Catalog(proxy, patience=QUICK)

    def _pieces(
        self, line: bytes, answer: Callable[[bytes], Iterator[bytes]]
    ) -> Iterator[bytes]:
        if line.split()[1] != b'/':
            return answer(line)
        link = {'rel': 'self', 'href': f'{self.url}/v2/'}
        version = {'id': 'v2.17', 'status': 'CURRENT', 'links': [link]}
        body = json.dumps({'versions': [version]}).encode()
        return iter([head(len(body), b'Connection: close') + body])

    def fail(self, work: Callable[..., Any], *args: Any) -> str:
        begin = time.monotonic()
        error = self.assertRaises(errors.CloudError, work, *args)
        self.assertLess(time.monotonic() - begin, LONG)
        return str(error)

    def look(self) -> str:
        return self.fail(self.catalog.get, ID)


class TestSize(BoundedTest):
    def test_json_without_an_end(self) -> None:
        self.serve(
            lambda _: itertools.chain(
                [_CLOSED, b'["'], itertools.repeat(b'x' * 2**16)
            )
        )
        self.assertIn('is larger than 32.0 MiB', self.look())

    def test_a_name_as_long_as_all_memory(self) -> None:
        self.serve(
            lambda _: itertools.chain(
                [head(10**13), b'{"name": "'], itertools.repeat(b'x' * 2**16)
            )
        )
        self.assertIn('is larger than 32.0 MiB', self.look())

    def test_chunks_without_an_end(self) -> None:
        begin = _OK + b'Transfer-Encoding: chunked\r\n\r\n'
        chunk = b'10000\r\n' + b' ' * 2**16 + b'\r\n'
        self.serve(lambda _: itertools.chain([begin], itertools.repeat(chunk)))
        self.assertIn('is larger than 32.0 MiB', self.look())

    def test_packed_a_thousandfold(self) -> None:
        packed = gzip.compress(bytes(sessions.LARGEST + 1))
        begin = head(len(packed), b'Content-Encoding: gzip')
        self.serve(lambda _: iter([begin, packed]))
        self.assertIn('is larger than 32.0 MiB', self.look())

    def test_an_error_without_an_end(self) -> None:
        begin = b'HTTP/1.1 403 No\r\nContent-Length: 10000000000\r\n\r\n'
        self.serve(
            lambda _: itertools.chain(
                [begin, b'Not you. '], itertools.repeat(b'x' * 2**16)
            )
        )
        self.assertIn('failed: Not you. xxx', self.look())


class TestTime(BoundedTest):
    def test_a_body_that_trickles(self) -> None:
        self.serve(
            lambda _: itertools.chain(
                [head(10**6)], slowly(*[b'[' for _ in range(1000)])
            )
        )
        self.assertIn(f'no connection to {self.url}: timed out', self.look())

    def test_headers_that_trickle(self) -> None:
        self.serve(
            lambda _: itertools.chain(
                [_OK], slowly(*[b'A: b\r\n' for _ in range(1000)])
            )
        )
        self.assertIn(f'no connection to {self.url}: timed out', self.look())

    def test_headers_without_an_end(self) -> None:
        self.serve(
            lambda _: itertools.chain([_OK], itertools.repeat(b'A: b\r\n'))
        )
        self.assertIn('the answer is not HTTP', self.look())

    def test_an_error_that_trickles(self) -> None:
        begin = b'HTTP/1.1 403 No\r\nContent-Length: 100000\r\n\r\n'
        self.serve(
            lambda _: itertools.chain(
                [begin], slowly(*[b'x' for _ in range(1000)])
            )
        )
        self.assertIn('timed out', self.look())

    def test_redirects_that_trickle(self) -> None:
        """Each for itself would be quick enough."""

        def answer(line: bytes) -> Iterator[bytes]:
            where = f'Location: {self.url}/v2/{len(self.lines)}'.encode()
            begin = b'HTTP/1.1 302 Found\r\nContent-Length: 0\r\n'
            # Else the next request may come when this connection is closed.
            begin += b'Connection: close\r\n'
            return slowly(begin, where, b'\r\n\r\n')

        self.serve(answer)
        self.assertIn('timed out', self.look())
        self.assertLess(len(self.lines), 8)

    def test_redirects_without_an_end(self) -> None:
        # Else the next request may come when this connection is closed.
        begin = b'HTTP/1.1 302 Found\r\nConnection: close\r\n'
        begin += b'Content-Length: 0\r\nLocation: '
        self.serve(
            lambda _: iter([begin + f'{self.url}/v2/x\r\n\r\n'.encode()])
        )
        self.assertIn('the endpoint redirects to', self.look())


class TestNotHttp(BoundedTest):
    def test_each(self) -> None:
        chunked = _OK + b'Transfer-Encoding: chunked\r\n\r\n'
        for raw, told in (
            (b'Z\r\n\r\n', 'the answer is not HTTP'),
            (chunked + b'Z\r\n', 'the answer is not HTTP'),
            (chunked + b'5\r\nab', 'the connection was closed'),
            (head(100) + b'{', 'the connection was closed'),
            (b'', 'the connection was closed without an answer'),
            (
                head(3, b'Content-Encoding: gzip') + b'abc',
                'the answer is not compressed as its headers say',
            ),
        ):
            self.serve(lambda _, raw=raw: iter([raw]))
            message = self.look()
            self.assertIn(told, message)
            self.assertNotIn("b'", message)
            self.assertNotIn('(', message)


class TestLists(BoundedTest):
    def pages(self, ids: Iterator[str]) -> None:
        """Have a list that gives one image after the other, and goes on."""

        def answer(line: bytes) -> Iterator[bytes]:
            image = {'id': next(ids), 'status': 'active'}
            body = json.dumps({'images': [image], 'next': '/v2/images'})
            begin = head(len(body), b'Connection: close')
            return iter([begin + body.encode()])

        self.serve(answer)

    def test_a_page_that_comes_again(self) -> None:
        self.pages(itertools.repeat(ID))
        message = self.fail(list, self.catalog.images())
        self.assertIn(f'what comes after image {ID} comes again', message)
        self.assertIn('not a list of images', message)

    def test_pages_that_come_in_turn(self) -> None:
        self.pages(itertools.cycle(['a', 'b', 'c']))
        message = self.fail(list, self.catalog.images())
        self.assertIn('what comes after image a comes again', message)

    def test_pages_without_an_end(self) -> None:
        self.pages(str(n) for n in itertools.count())
        self.catalog = client.Catalog(
            self.catalog._proxy,
            patience=retry.Patience(attempts=1, stall=5, reply=0.05),
        )
        message = self.fail(list, self.catalog.images())
        self.assertIn('the list had no end after', message)


ELSEWHERE = 'https://evil.example:9292/v2/images'
STATUSES = (301, 302, 303, 307, 308)


class TestRedirect(wire.CatalogTest):
    def setUp(self) -> None:
        super().setUp()
        self.other = self.wire.register_uri('GET', ELSEWHERE, json={})
        new = model.NewImage('web', 'ami', 'ami', id=wire.ID)
        one = f'/images/{wire.ID}'
        self.work = (
            ('GET', '/images', lambda: list(self.catalog.images())),
            ('GET', one, lambda: self.catalog.get(wire.ID)),
            ('PATCH', one, lambda: self.catalog.update(wire.ID, {'a': 'b'})),
            ('DELETE', one, lambda: self.catalog.delete(wire.ID)),
            ('POST', '/images', lambda: self.catalog.create(new)),
            ('GET', '/schemas/image', self.catalog.schema),
            ('GET', '/info/usage', self.catalog.usage),
        )

    def redirect(
        self, method: str, path: str, status: int, location: str
    ) -> None:
        self.wire.register_uri(
            method,
            f'{wire.CLOUD}/v2{path}',
            status_code=status,
            headers={'Location': location},
        )

    def test_elsewhere(self) -> None:
        for method, path, work in self.work:
            for status in STATUSES:
                self.redirect(method, path, status, ELSEWHERE)
                text = self.fail(work)
                self.assertIn(wire.CLOUD, text)
                self.assertIn('redirects to https://evil.example:9292', text)
                self.assertIn('endpoint in the catalog', text)
        self.assertFalse(self.other.called)

    def test_at_the_same_place(self) -> None:
        there = f'/v2/elsewhere/{wire.ID}'
        for status in STATUSES:
            # With the port, without it, and relative.
            for location in (f'{wire.CLOUD}{there}', there):
                self.redirect('GET', f'/images/{wire.ID}', status, location)
                self.wire.get(f'{wire.CLOUD}{there}', json=wire.image())
                self.assertEqual(wire.ID, self.catalog.get(wire.ID).id)

    def test_links_are_not_followed(self) -> None:
        image = wire.image(
            self=ELSEWHERE,
            file=ELSEWHERE,
            schema=ELSEWHERE,
            direct_url=ELSEWHERE,
            locations=[{'url': ELSEWHERE, 'metadata': {}}],
        )
        self.answer(
            'GET',
            '/images',
            {'images': [image], 'next': ELSEWHERE, 'first': ELSEWHERE},
            {'images': []},
        )
        self.assertEqual(1, len(list(self.catalog.images())))
        self.assertFalse(self.other.called)


class TestKeep(base.TestCase):
    def keep(self, here: str, location: str, status: int = 302) -> str:
        """Tell where a redirect leads that is followed."""
        response = requests.Response()
        response.status_code = status
        response.url = here
        response.headers['Location'] = location
        sessions.keep(response)
        return response.headers['Location']

    def test_kept(self) -> None:
        for location in (
            'https://cloud/v2/x',
            'https://CLOUD:443/v2/x',
            '//cloud/v2/x',
            'x',
            '/v2/x',
        ):
            self.assertEqual(
                'https://cloud/v2/x',
                self.keep('https://cloud/v2/images', location)
                .replace('CLOUD', 'cloud')
                .replace(':443', ''),
            )

    def test_refused(self) -> None:
        here = 'https://cloud:9292/v2/images'
        for location in (
            'http://cloud:9292/v2/images',
            'https://cloud/v2/images',
            'https://cloud:9293/v2/images',
            'https://cloud.example:9292/v2/images',
            '//evil:9292/',
            'https://cloud:9292@evil/',
            # What one reads as a user's name, another reads as the host.
            'https://evil\\@cloud:9292/',
            'https://evil:9292\\.cloud:9292/',
            'ftp://cloud:9292/',
            'https://[cloud:9292/',
            'https://cloud:92929292/',
        ):
            error = self.assertRaises(
                errors.CloudError, self.keep, here, location
            )
            self.assertIn('https://cloud:9292 redirects to', str(error))

    def test_what_is_no_redirect(self) -> None:
        for status in (200, 201, 300, 404):
            self.keep('https://cloud/', 'https://evil/', status)
