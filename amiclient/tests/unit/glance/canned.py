# SPDX-License-Identifier: Apache-2.0

"""A whole cloud of canned answers: a Keystone and a Glance with one AMI.

It answers what :mod:`requests_mock` gets to see, and remembers what it was
asked, so that a test can have any of its answers be another.
"""

from collections.abc import Callable
from typing import Any
import urllib.parse

import fixtures
import requests
import requests_mock

from amiclient.tests.cloud import memory
from amiclient.tests.unit.rootfs import samples

KEYSTONE = 'http://keystone.example/v3'
PROJECT = 'a' * 32
OTHER = 'b' * 32

_LATER = '2099-01-01T00:00:00.000000Z'

Change = Callable[[memory.Answer], memory.Answer]

_OTHERS = {
    'info/stores': {'stores': [{'id': 'fast'}, {'id': 'slow'}]},
    'info/usage': {'usage': {'image_size_total': {'limit': 9999, 'usage': 1}}},
}


_ATTRIBUTES = {
    'owner': PROJECT,
    'min_disk': 0,
    'virtual_size': None,
    'tags': ['blue'],
    'updated_at': '2026-03-04T05:06:08Z',
    'architecture': 'x86_64',
    'stores': 'fast,slow',
}


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
        self._glance = glance = memory.Glance()
        glance.others |= _OTHERS
        # Lists are read to their end.
        glance.page = 3
        links = {'kernel_id': memory.KERNEL, 'ramdisk_id': memory.RAMDISK}
        for id, name, format, data, more in (
            (memory.AMI, 'web', 'ami', b'\0' * 4096, links),
            (memory.RAMDISK, 'initrd', 'ari', samples.initramfs(), {}),
            (memory.KERNEL, 'vmlinuz', 'aki', samples.bzimage(), {}),
            (memory.OTHER, 'db', 'ami', b'\0' * 4096, {'owner': OTHER}),
        ):
            glance.put(
                name,
                id,
                format,
                data=data,
                shared_with=(OTHER,),
                **{**_ATTRIBUTES, **more},
            )

    def _setUp(self) -> None:
        mocker = requests_mock.Mocker()
        mocker.start()
        self.addCleanup(mocker.stop)
        mocker.add_matcher(self._matcher)

    def _matcher(self, request: Any) -> requests.Response:
        number = len(self.asked)
        parts = urllib.parse.urlsplit(request.url)
        self.asked.append((request.method, parts.path))
        if parts.netloc == 'keystone.example':
            answer = self._keystone(request, parts.path)
        else:
            answer = self._glance.reply(request)
        if self._change is not None and self._number in {number, None}:
            answer = self._change(answer)
        return requests_mock.create_response(
            request,
            status_code=answer.status,
            content=answer.content,
            headers={
                'Content-Type': answer.type,
                'Content-Length': str(len(answer.content)),
                'X-Subject-Token': 'token',
            },
        )

    def _keystone(self, request: Any, path: str) -> memory.Answer:
        if path == '/v3/auth/tokens':
            return memory.Answer(201, {'token': _token()})
        if path.startswith('/v3/projects/'):
            return memory.Answer(
                200, {'project': {'id': OTHER, 'name': 'other'}}
            )
        if path == '/v3/projects':
            project = {'id': OTHER, 'name': 'other'}
            return memory.Answer(
                200, {'projects': [project], 'links': {'next': None}}
            )
        link = {'rel': 'self', 'href': f'{KEYSTONE}/'}
        version = {'id': 'v3.14', 'status': 'stable', 'links': [link]}
        return memory.Answer(200, {'version': version})


def _token() -> dict[str, Any]:
    domain = {'id': 'default', 'name': 'Default'}
    endpoint = {
        'id': 'e',
        'interface': 'public',
        'region': 'here',
        'region_id': 'here',
        'url': memory.URL,
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
