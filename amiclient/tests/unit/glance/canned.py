# SPDX-License-Identifier: Apache-2.0

"""A whole cloud of canned answers: a Keystone and a Glance with one AMI.

It answers what :mod:`requests_mock` gets to see, and remembers what it was
asked, so that a test can have any of its answers be another.
"""

from collections.abc import Callable
import dataclasses
import hashlib
import json
import re
from typing import Any
import urllib.parse

import fixtures
import requests
import requests_mock

from amiclient.tests.unit.rootfs import samples

KEYSTONE = 'http://keystone.example/v3'
GLANCE = 'http://glance.example'
PROJECT = 'a' * 32
OTHER = 'b' * 32
KERNEL = '11111111-1111-4111-8111-111111111111'
RAMDISK = '22222222-2222-4222-8222-222222222222'
AMI = '33333333-3333-4333-8333-333333333333'

_LATER = '2099-01-01T00:00:00.000000Z'


@dataclasses.dataclass
class Answer:
    """One answer."""

    status: int = 200
    body: bytes = b''
    type: str = 'application/json'


Change = Callable[[Answer], Answer]


class Cloud(fixtures.Fixture):
    """The cloud.

    ``asked`` holds the method and the path of each request, in turn.

    :param change: what becomes of the answer to one of the requests.
    :param number: that of the request, from 0; None for each.
    """

    def __init__(
        self, change: Change | None = None, number: int | None = None
    ) -> None:
        self.asked: list[tuple[str, str]] = []
        self._change = change
        self._number = number
        self._data = {
            KERNEL: samples.bzimage(),
            RAMDISK: samples.initramfs(),
            AMI: b'\0' * 4096,
        }
        self._members = {id: [OTHER] for id in self._data}
        self._images = {
            id: _image(id, name, format, self._data[id])
            for id, name, format in (
                (AMI, 'web', 'ami'),
                (RAMDISK, 'initrd', 'ari'),
                (KERNEL, 'vmlinuz', 'aki'),
            )
        }
        self._images[AMI].update(kernel_id=KERNEL, ramdisk_id=RAMDISK)

    def _setUp(self) -> None:
        mocker = requests_mock.Mocker()
        mocker.start()
        self.addCleanup(mocker.stop)
        mocker.add_matcher(self._matcher)

    def _matcher(self, request: Any) -> requests.Response:
        number = len(self.asked)
        parts = urllib.parse.urlsplit(request.url)
        self.asked.append((request.method, parts.path))
        answer = self._answer(request, parts)
        if self._change is not None and self._number in {number, None}:
            answer = self._change(answer)
        return requests_mock.create_response(
            request,
            status_code=answer.status,
            content=answer.body,
            headers={
                'Content-Type': answer.type,
                'Content-Length': str(len(answer.body)),
                'X-Subject-Token': 'token',
            },
        )

    def _answer(self, request: Any, parts: urllib.parse.SplitResult) -> Answer:
        if parts.netloc == 'keystone.example':
            return self._keystone(request, parts.path)
        if parts.path in {'', '/', '/v2', '/v2/'}:
            link = {'rel': 'self', 'href': f'{GLANCE}/v2/'}
            version = {'id': 'v2.17', 'status': 'CURRENT', 'links': [link]}
            return _json({'versions': [version]})
        return self._glance(request, parts)

    def _keystone(self, request: Any, path: str) -> Answer:
        if path == '/v3/auth/tokens':
            return _json({'token': _token()}, 201)
        if path.startswith('/v3/projects/'):
            return _json({'project': {'id': OTHER, 'name': 'other'}})
        if path == '/v3/projects':
            project = {'id': OTHER, 'name': 'other'}
            return _json({'projects': [project], 'links': {'next': None}})
        link = {'rel': 'self', 'href': f'{KEYSTONE}/'}
        version = {'id': 'v3.14', 'status': 'stable', 'links': [link]}
        return _json({'version': version})

    def _glance(self, request: Any, parts: urllib.parse.SplitResult) -> Answer:
        words = parts.path.split('/')[2:]
        if words == ['images']:
            if request.method == 'POST':
                return self._create(json.loads(request.body))
            return self._list(dict(urllib.parse.parse_qsl(parts.query)))
        if words[0] != 'images':
            return _OTHERS.get('/'.join(words), Answer(404))
        if words[1] not in self._images:
            return Answer(404, b'{"message": "No image found"}')
        return self._of_image(request, *words[1:])

    def _of_image(
        self, request: Any, id: str, part: str = '', project: str = ''
    ) -> Answer:
        image, method = self._images[id], request.method
        if part == 'file':
            if method == 'GET':
                return Answer(200, self._data[id], 'application/octet-stream')
            data = b''.join(request.body)
            image.update(_image(id, image['name'], '', data), status='active')
            return Answer(204)
        if part == 'members':
            if method == 'DELETE':
                self._members[id].remove(project)
                return Answer(204)
            if method == 'POST':
                return _json(_member(id, json.loads(request.body)['member']))
            members = [_member(id, each) for each in self._members[id]]
            return _json({'members': members})
        if method == 'DELETE':
            del self._images[id]
            return Answer(204)
        for change in json.loads(request.body) if method == 'PATCH' else ():
            name = change['path'][1:]
            image.pop(name, None)
            if change['op'] != 'remove':
                image[name] = change['value']
        return _json(image)

    def _create(self, body: dict[str, Any]) -> Answer:
        image = _image(body['id'], '', '', b'')
        image.update({**body, 'status': 'queued', 'size': None})
        self._images[body['id']] = image
        self._members[body['id']] = []
        return _json(image, 201)

    def _list(self, query: dict[str, str]) -> Answer:
        found = list(self._images.values())
        for name, value in query.items():
            wanted = set(re.sub('^in:', '', value).split(','))
            if name == 'os_hidden':
                found = found if value == 'false' else []
            if name in _FILTERS:
                found = [i for i in found if i.get(name) in wanted]
        if query.get('marker'):
            found = []
        # Those that are filtered are short.
        more = found and query.keys().isdisjoint(_FILTERS)
        next_ = {'next': f'/v2/images?marker={KERNEL}'} if more else {}
        return _json({'images': found, **next_})


_FILTERS = {'id', 'name', 'disk_format', 'kernel_id', 'ramdisk_id'}


def _json(body: object, status: int = 200) -> Answer:
    return Answer(status, json.dumps(body).encode())


_OTHERS = {
    'info/stores': _json({'stores': [{'id': 'fast'}, {'id': 'slow'}]}),
    'info/usage': _json(
        {'usage': {'image_size_total': {'limit': 9999, 'usage': 1}}}
    ),
    'schemas/image': _json(
        {
            'properties': {
                'disk_format': {'enum': ['ami', 'aki', 'ari', 'raw']},
                'container_format': {'enum': ['ami', 'aki', 'ari', 'bare']},
            },
            'additionalProperties': {'type': 'string'},
        }
    ),
}


def _image(id: str, name: str, format: str, data: bytes) -> dict[str, Any]:
    image = {
        'id': id,
        'name': name,
        'status': 'active',
        'visibility': 'shared',
        'protected': False,
        'os_hidden': False,
        'owner': PROJECT,
        'min_disk': 0,
        'min_ram': 0,
        'size': len(data),
        'virtual_size': None,
        'checksum': hashlib.md5(data).hexdigest(),
        'os_hash_algo': 'sha512',
        'os_hash_value': hashlib.sha512(data).hexdigest(),
        'tags': ['blue'],
        'created_at': '2026-03-04T05:06:07Z',
        'updated_at': '2026-03-04T05:06:08Z',
        'architecture': 'x86_64',
    }
    if format:
        image.update(disk_format=format, container_format=format)
    return image


def _member(image: str, project: str) -> dict[str, Any]:
    return {'image_id': image, 'member_id': project, 'status': 'pending'}


def _token() -> dict[str, Any]:
    domain = {'id': 'default', 'name': 'Default'}
    endpoint = {
        'id': 'e',
        'interface': 'public',
        'region': 'here',
        'region_id': 'here',
        'url': GLANCE,
    }
    identity = {**endpoint, 'id': 'f', 'url': KEYSTONE}
    return {
        'methods': ['password'],
        'user': {'id': 'u', 'name': 'demo', 'domain': domain},
        'project': {'id': PROJECT, 'name': 'demo', 'domain': domain},
        'roles': [{'id': 'r', 'name': 'member'}],
        'issued_at': '2026-01-01T00:00:00.000000Z',
        'expires_at': _LATER,
        'catalog': [
            {
                'id': 'i',
                'type': 'image',
                'name': 'glance',
                'endpoints': [endpoint],
            },
            {
                'id': 'k',
                'type': 'identity',
                'name': 'keystone',
                'endpoints': [identity],
            },
        ],
    }
