# SPDX-License-Identifier: Apache-2.0

"""A Glance in memory, which keeps what it is told.

It knows images, their data, properties and members, as far as this project
uses them. It answers what :mod:`requests_mock` gets to see, or listens on a
socket, where the proxy of :mod:`amiclient.tests.faults` may stand in front.
"""

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import hashlib
import http.server
import json
import threading
from typing import Any
import urllib.parse

import fixtures
import requests_mock

URL = 'http://cloud.example:9292'

#: The project of whoever talks to it.
OWNER = 'p1'

AMI = '11111111-1111-4111-8111-111111111111'
KERNEL = '22222222-2222-4222-8222-222222222222'
RAMDISK = '33333333-3333-4333-8333-333333333333'
OTHER = '44444444-4444-4444-8444-444444444444'

#: What is no filter in the query of a list; the client looks at sizes again.
_ORDER = ('visibility', 'member_status', 'limit', 'marker', 'sort', 'tag',
          'size_min', 'size_max')  # fmt: skip

_SCHEMA = {
    'properties': {
        'disk_format': {
            'type': ['string', 'null'],
            'enum': ['ami', 'aki', 'ari', 'raw'],
        },
        'container_format': {
            'type': ['string', 'null'],
            'enum': ['ami', 'aki', 'ari', 'bare'],
        },
    },
    'additionalProperties': {'type': 'string'},
}


@dataclasses.dataclass(frozen=True)
class Answer:
    """What it says.

    :param body: bytes, or what JSON can be made of; None for nothing.
    """

    status: int = 200
    body: Any = None
    type: str = 'application/json'
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def content(self) -> bytes:
        """The body, in bytes."""
        if self.body is None or isinstance(self.body, bytes):
            return self.body or b''
        return json.dumps(self.body).encode()


_NO_IMAGE = Answer(404, {'message': 'No image found'})


class Glance:
    """The Glance.

    ``images``, their ``members`` with their status, and ``data`` are by the
    ids of images. ``others`` holds what it answers beside that, by paths.

    :param url: where it is.
    """

    def __init__(self, url: str = URL) -> None:
        self.url = url
        self.images: dict[str, dict[str, Any]] = {}
        self.members: dict[str, dict[str, str]] = {}
        self.data: dict[str, bytes] = {}
        self.others: dict[str, Any] = {'schemas/image': _SCHEMA}
        #: What is there of Nova, as it describes them; None for no Nova.
        self.servers: list[dict[str, Any]] | None = []
        #: Whether it gives parts of data.
        self.ranges = True
        #: How many images a list shows, before it leads to the next ones.
        self.page = 1000
        #: What it claims of an image once it has its data, whatever it got.
        self.claims: dict[str, Any] = {}
        #: Its stores, the default first, and whether each can be written;
        #: where there are none, nobody has a choice.
        self.stores: dict[str, bool] = {}
        #: Those that fail when they are written.
        self.broken_stores: set[str] = set()
        #: How it imports.
        self.methods = ['glance-direct', 'web-download', 'copy-image']
        #: Where images are still to be copied to, whether all of it must
        #: succeed, and where they were before: by their ids. Each look finds
        #: one more store done.
        self.copying: dict[str, tuple[list[str], bool, str]] = {}
        #: What it says of the imports of any image.
        self.tasks: list[dict[str, Any]] = []
        #: The states that the next looks at an image find it in.
        self.passing: list[str] = []

    def put(
        self,
        name: str,
        id: str,
        format: str,
        *,
        shared_with: tuple[str, ...] = (),
        data: bytes | None = None,
        **attributes: Any,
    ) -> None:
        """Have an image there."""
        self.images[id] = {
            'id': id,
            'name': name,
            'status': 'active',
            'visibility': 'shared',
            'protected': False,
            'os_hidden': False,
            'owner': OWNER,
            'disk_format': format,
            'container_format': format,
            'min_disk': 1,
            'min_ram': 0,
            'size': 1234,
            'tags': [],
            'created_at': '2026-03-04T05:06:07Z',
            **({} if data is None else hashes(data)),
            **attributes,
        }
        self.members[id] = dict.fromkeys(shared_with, 'accepted')
        if data is not None:
            self.data[id] = data

    def change(self, id: str, **attributes: Any) -> None:
        """Have an image be another."""
        self.images[id].update(attributes)

    def mock(self, wire: requests_mock.Mocker) -> None:
        """Answer what somebody sees of all requests."""

        def content(request: Any, context: Any) -> bytes:
            answer = self.reply(request)
            context.status_code = answer.status
            context.headers['Content-Type'] = answer.type
            context.headers.update(answer.headers)
            return answer.content

        wire.register_uri(
            requests_mock.ANY, requests_mock.ANY, content=content
        )

    def reply(self, request: Any) -> Answer:
        """Do what a request of requests asks for."""
        return self.answer(
            request.method, request.url, request.headers, _body(request)
        )

    def answer(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b'',
    ) -> Answer:
        """Do what is asked for."""
        parts = urllib.parse.urlsplit(url)
        words = urllib.parse.unquote(parts.path).strip('/').split('/')[1:]
        query = dict(urllib.parse.parse_qsl(parts.query))
        if not words:
            link = {'rel': 'self', 'href': f'{self.url}/v2/'}
            version = {'id': 'v2.17', 'status': 'CURRENT', 'links': [link]}
            return Answer(200, {'versions': [version]})
        if method != 'GET':
            return self.write(method, words, body, headers or {})
        # The path of another service need not begin with a version.
        if parts.path.endswith('/servers/detail') and self.servers is not None:
            return self._list_servers(query)
        if words == ['images']:
            return self._list(query)
        if words[0] == 'images':
            return self._get(words, headers or {})
        if '/'.join(words) in self.others:
            return Answer(200, self.others['/'.join(words)])
        if words == ['info', 'import']:
            return Answer(200, {'import-methods': {'value': self.methods}})
        if words == ['info', 'stores'] and self.stores:
            found = [
                {'id': id} | ({} if writable else {'read-only': 'true'})
                for id, writable in self.stores.items()
            ]
            found[0]['default'] = 'true'
            return Answer(200, {'stores': found})
        return Answer(404, {'message': 'no'})

    def _list(self, query: dict[str, str]) -> Answer:
        found = list(self._listed(dict(query)))
        marker = query.get('marker')
        if marker:
            ids = [image['id'] for image in found]
            found = found[ids.index(marker) + 1 :]
        limit = min(int(query.get('limit', self.page)), self.page)
        body: dict[str, Any] = {'images': found[:limit]}
        if len(body['images']) == limit:
            rest = {**query, 'marker': found[limit - 1]['id']}
            body['next'] = f'/v2/images?{urllib.parse.urlencode(rest)}'
        return Answer(200, body)

    def _listed(self, query: dict[str, str]) -> Iterator[dict[str, Any]]:
        hidden = query.pop('os_hidden', 'false') == 'true'
        least = int(query.pop('size_min', 0))
        most = int(query.pop('size_max', 2**63))
        wanted = {
            name: value.removeprefix('in:').split(',')
            for name, value in query.items()
            if name not in _ORDER
        }
        for image in self.images.values():
            if (
                image['os_hidden'] == hidden
                and least <= (image['size'] or 0) <= most
                and all(
                    image.get(name) in values
                    for name, values in wanted.items()
                )
            ):
                yield image

    def _list_servers(self, query: dict[str, str]) -> Answer:
        """Page as Nova does; it filters for administrators only."""
        servers = self.servers or []
        if 'marker' in query:
            ids = [server['id'] for server in servers]
            servers = servers[ids.index(query['marker']) + 1 :]
        limit = min(int(query['limit']), self.page)
        body: dict[str, Any] = {'servers': servers[:limit]}
        if len(servers) >= limit:
            body['servers_links'] = [{'rel': 'next', 'href': self.url}]
        return Answer(200, body)

    def _get(self, words: list[str], headers: Mapping[str, str]) -> Answer:
        image = self.images.get(words[1])
        if image is None:
            return _NO_IMAGE
        if words[2:] == ['file']:
            return self._give(image, headers.get('Range'))
        if words[2:] == ['tasks']:
            return Answer(200, {'tasks': self.tasks})
        if words[2:] != ['members']:
            if self.passing:
                image['status'] = self.passing.pop(0)
            self._copy_on(image)
            return Answer(200, image)
        if image['visibility'] != 'shared':
            return Answer(403, {'message': 'Only shared images have members'})
        found = [
            _member(image, project, status)
            for project, status in self.members[image['id']].items()
        ]
        return Answer(200, {'members': found})

    def _give(self, image: dict[str, Any], wanted: str | None) -> Answer:
        data = self.data.get(image['id'])
        if data is None:
            return Answer(204)
        headers, status, size = {}, 200, len(data)
        if wanted and self.ranges:
            first, _, last = wanted.removeprefix('bytes=').partition('-')
            begin, end = int(first), min(int(last or size), size - 1)
            if begin > end:
                return Answer(416, {'message': 'Invalid range'})
            headers['Content-Range'] = f'bytes {begin}-{end}/{size}'
            status, data = 206, data[begin : end + 1]
        return Answer(status, data, 'application/octet-stream', headers)

    def write(
        self,
        method: str,
        words: list[str],
        body: bytes,
        headers: Mapping[str, str],
    ) -> Answer:
        """Do what changes something.

        :param words: the path, without the version.
        """
        if method == 'POST' and words == ['images']:
            return self._create(json.loads(body))
        if words[0] == 'stores':
            return self._delete_copy(*words[1:])
        image = self.images.get(words[1])
        if image is None:
            return _NO_IMAGE
        if words[2:] == ['import']:
            return self._import(image, json.loads(body))
        if words[2:] == ['file']:
            return self._take(image, body, headers.get('X-Image-Meta-Store'))
        if words[2:3] == ['actions']:
            active = words[3] == 'reactivate'
            image['status'] = 'active' if active else 'deactivated'
            return Answer(204)
        if words[2:3] == ['members']:
            return self._share(method, image, body, words[3:])
        if method == 'DELETE':
            if image['protected']:
                return Answer(403, {'message': 'Image is protected'})
            del self.images[words[1]]
            return Answer(204)
        return self._change(image, json.loads(body))

    def _change(
        self, image: dict[str, Any], changes: list[dict[str, Any]]
    ) -> Answer:
        for change in changes:
            name = change['path'][1:].replace('~1', '/').replace('~0', '~')
            if change['op'] != 'remove':
                image[name] = change['value']
            elif image.pop(name, self) is self:
                return Answer(409, {'message': f'There is no {name}'})
        return Answer(200, image)

    def _take(
        self, image: dict[str, Any], body: bytes, store: str | None
    ) -> Answer:
        if self.stores:
            store = store or next(iter(self.stores))
            if store not in self.stores:
                return Answer(400, {'message': f'{store} is not there'})
            if not self.stores[store] or store in self.broken_stores:
                return Answer(410, {'message': f'{store} is disabled'})
            image['stores'] = store
        self.data[image['id']] = body
        image.update(status='active', **hashes(body))
        image.update(self.claims)
        return Answer(204)

    def _import(self, image: dict[str, Any], wanted: Any) -> Answer:
        there = image['stores'].split(',')
        if 'os_glance_import_task' in image or image['status'] != 'active':
            return Answer(409, {'message': 'prior operation in progress'})
        if {*wanted['stores']} & {*there}:
            return Answer(400, {'message': 'Image is already present'})
        image['os_glance_import_task'] = 'task'
        image['os_glance_importing_to_stores'] = ','.join(wanted['stores'])
        image['os_glance_failed_import'] = ''
        must = wanted['all_stores_must_succeed']
        self.copying[image['id']] = wanted['stores'], must, image['stores']
        return Answer(202)

    def _copy_on(self, image: dict[str, Any]) -> None:
        left, must, before = self.copying.get(image['id'], ([], True, ''))
        if not left:
            if self.copying.pop(image['id'], None):
                del image['os_glance_import_task']
            return
        store = left.pop(0)
        if store not in self.broken_stores:
            image['stores'] += f',{store}'
        else:
            image['os_glance_failed_import'] = store
            if must:
                left.clear()
                image['stores'] = before
        image['os_glance_importing_to_stores'] = ','.join(left)

    def _delete_copy(self, store: str, id: str) -> Answer:
        image = self.images[id]
        there = image['stores'].split(',')
        if store not in there:
            return Answer(404, {'message': 'not stored there'})
        if len(there) == 1:
            return Answer(403, {'message': 'the only store'})
        there.remove(store)
        image['stores'] = ','.join(there)
        return Answer(204)

    def _create(self, wanted: dict[str, Any]) -> Answer:
        id, name, format = (
            wanted.get(key, '') for key in ('id', 'name', 'disk_format')
        )
        self.put(name, id, format, status='queued', size=None)
        self.images[id].update(wanted)
        return Answer(201, self.images[id])

    def _share(
        self, method: str, image: dict[str, Any], body: bytes, words: list[str]
    ) -> Answer:
        if image['visibility'] != 'shared':
            return Answer(403, {'message': 'Not allowed to create members'})
        there = self.members[image['id']]
        if method == 'DELETE':
            if there.pop(words[0], None) is None:
                return Answer(404, {'message': 'not found in member list'})
            return Answer(204)
        if method == 'PUT' and words[0] in there:
            there[words[0]] = status = json.loads(body)['status']
            return Answer(200, _member(image, words[0], status))
        project = json.loads(body)['member']
        if project in there:
            return Answer(409, {'message': 'Member is duplicated'})
        there[project] = 'pending'
        return Answer(200, _member(image, project, 'pending'))


def hashes(data: bytes) -> dict[str, Any]:
    """Tell what Glance says of data."""
    return {
        'size': len(data),
        'checksum': hashlib.md5(data).hexdigest(),
        'os_hash_algo': 'sha512',
        'os_hash_value': hashlib.sha512(data).hexdigest(),
    }


def _member(image: dict[str, Any], project: str, status: str) -> Any:
    return {'image_id': image['id'], 'member_id': project, 'status': status}


def _body(request: Any) -> bytes:
    body: str | bytes | Iterable[bytes] = request.body or b''
    if isinstance(body, str):
        return body.encode()
    return body if isinstance(body, bytes) else b''.join(body)


class Server(fixtures.Fixture):
    """The same on a socket of the loopback interface; ``url`` tells which."""

    def __init__(self, glance: Glance) -> None:
        self._glance = glance

    def _setUp(self) -> None:
        server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), _Handler)
        server.daemon_threads = True
        server.glance = self._glance  # type: ignore[attr-defined]
        self.url = f'http://127.0.0.1:{server.server_address[1]}'
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        self.addCleanup(server.server_close)
        self.addCleanup(thread.join)
        self.addCleanup(server.shutdown)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    server: Any

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _serve(self) -> None:
        length = int(self.headers.get('Content-Length') or 0)
        body = self.rfile.read(length)
        if len(body) < length:
            # As Glance does, take nothing that is cut short.
            self.close_connection = True
            return
        answer = self.server.glance.answer(
            self.command, self.path, self.headers, body
        )
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header('Content-Type', answer.type)
        if answer.status != 204:
            self.send_header('Content-Length', str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _serve
