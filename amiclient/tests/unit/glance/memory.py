# SPDX-License-Identifier: Apache-2.0

"""A Glance in memory, which keeps what it is told and can be made to fail.

It knows images, properties and members, as far as changes need them. What a
user of another project could see at any moment can be asked, and whether
there was a moment at which an AMI was visible but its kernel was not.
"""

from collections.abc import Callable, Iterator
import copy
import dataclasses
import json
from typing import Any
import urllib.parse

import requests_mock

from amiclient.glance import client
from amiclient.glance import retry
from amiclient.tests.unit.glance import wire

OWNER = 'p1'
AMI = '11111111-1111-4111-8111-111111111111'
KERNEL = '22222222-2222-4222-8222-222222222222'
RAMDISK = '33333333-3333-4333-8333-333333333333'
OTHER = '44444444-4444-4444-8444-444444444444'

_ORDER = ('visibility', 'member_status', 'limit', 'marker', 'sort', 'tag')


@dataclasses.dataclass(frozen=True)
class Answer:
    status: int
    body: Any = None


class GlanceCase(wire.CatalogTest):
    """A test with an AMI, its kernel and its ramdisk, in memory."""

    def setUp(self) -> None:
        super().setUp()
        self.images: dict[str, dict[str, Any]] = {}
        self.members: dict[str, dict[str, str]] = {}
        self.writes: list[str] = []
        #: Which write fails, counted from 0, and how.
        self.failing: dict[int, Answer | BaseException] = {}
        self.broken: list[str] = []
        self.wire.register_uri(
            requests_mock.ANY, requests_mock.ANY, text=self.serve
        )
        link = {'rel': 'self', 'href': f'{wire.CLOUD}/v2/'}
        version = {'id': 'v2.17', 'status': 'CURRENT', 'links': [link]}
        self.wire.get(f'{wire.CLOUD}/', json={'versions': [version]})
        self.catalog = client.Catalog(
            self.catalog._proxy,
            patience=retry.Patience(attempts=1, backoff=0.01),
        )
        self.put('vmlinuz', KERNEL, 'aki')
        self.put('initrd', RAMDISK, 'ari')
        self.put('web', AMI, 'ami', kernel_id=KERNEL, ramdisk_id=RAMDISK)

    def put(
        self,
        name: str,
        id: str,
        format: str,
        *,
        shared_with: tuple[str, ...] = (),
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
            **attributes,
        }
        self.members[id] = dict.fromkeys(shared_with, 'accepted')

    def change(self, id: str, **attributes: Any) -> None:
        self.images[id].update(attributes)

    def state(self) -> Any:
        """All that a user can see of it; statuses of members are not."""
        members = {
            id: sorted(self.members[id])
            for id, image in self.images.items()
            if image['visibility'] == 'shared'
        }
        return copy.deepcopy(self.images), members

    # What follows is the server.

    def serve(self, request: Any, context: Any) -> str:
        parts = urllib.parse.urlsplit(request.url)
        words = urllib.parse.unquote(parts.path).split('/')[2:]
        query = dict(urllib.parse.parse_qsl(parts.query))
        given = self._answer(request, words, query)
        context.status_code = given.status
        return '' if given.body is None else json.dumps(given.body)

    def _answer(
        self, request: Any, words: list[str], query: dict[str, str]
    ) -> Answer:
        if request.method == 'GET':
            return self._get(words, query)
        number = len(self.writes)
        line = f'{request.method} {self._short(words)}'
        self.writes.append(f'{line} {request.text or ""}'.rstrip())
        failure = self.failing.get(number)
        if isinstance(failure, BaseException):
            # The answer is lost, after all was done.
            self._write(request, words)
            raise failure
        answer = failure or self._write(request, words)
        self._look()
        return answer

    def _short(self, words: list[str]) -> str:
        return '/'.join(
            self.images[word]['name'] if word in self.images else word
            for word in words[1:]
        )

    def _get(self, words: list[str], query: dict[str, str]) -> Answer:
        if len(words) == 1:
            return Answer(200, {'images': [*self._listed(query)]})
        image = self.images.get(words[1])
        if image is None:
            return Answer(404, {'message': 'No image found'})
        if words[2:] != ['members']:
            return Answer(200, image)
        if image['visibility'] != 'shared':
            return Answer(403, {'message': 'Only shared images have members'})
        found = [
            {'member_id': project, 'status': status}
            for project, status in self.members[image['id']].items()
        ]
        return Answer(200, {'members': found})

    def _listed(self, query: dict[str, str]) -> Iterator[dict[str, Any]]:
        hidden = query.pop('os_hidden', 'false') == 'true'
        ids = query.pop('id', 'in:' + ','.join(self.images))
        wanted = {k: v for k, v in query.items() if k not in _ORDER}
        for id, image in self.images.items():
            if (
                image['os_hidden'] == hidden
                and id in ids
                and all(
                    image.get(key) == value for key, value in wanted.items()
                )
            ):
                yield image

    def _write(self, request: Any, words: list[str]) -> Answer:
        image = self.images.get(words[1])
        if image is None:
            return Answer(404, {'message': 'No image found'})
        if words[2:3] == ['members']:
            return self._share(request, image, words[3:])
        if request.method == 'DELETE':
            if image['protected']:
                return Answer(403, {'message': 'Image is protected'})
            del self.images[words[1]]
            return Answer(204)
        for change in request.json():
            name = change['path'][1:].replace('~1', '/').replace('~0', '~')
            if change['op'] == 'remove':
                del image[name]
            else:
                image[name] = change['value']
        return Answer(200, image)

    def _share(
        self, request: Any, image: dict[str, Any], words: list[str]
    ) -> Answer:
        if image['visibility'] != 'shared':
            return Answer(403, {'message': 'Not allowed to create members'})
        there = self.members[image['id']]
        if request.method == 'DELETE':
            if there.pop(words[0], None) is None:
                return Answer(404, {'message': 'not found in member list'})
            return Answer(204)
        project = request.json()['member']
        if project in there:
            return Answer(409, {'message': 'Member is duplicated'})
        there[project] = 'pending'
        return Answer(200, {'member_id': project, 'status': 'pending'})

    # And this is what is looked at after each write.

    def sees(self, project: str, id: str) -> bool:
        image = self.images.get(id)
        if image is None:
            return False
        return (
            image['visibility'] in ('public', 'community')
            or image['owner'] == project
            or (
                image['visibility'] == 'shared' and project in self.members[id]
            )
        )

    def _look(self) -> None:
        for id, image in self.images.items():
            for name in ('kernel_id', 'ramdisk_id'):
                link = image.get(name)
                for project in (OWNER, 'p2', 'p3', 'stranger'):
                    if (
                        link
                        and self.sees(project, id)
                        and not self.sees(project, link)
                    ):
                        self.broken.append(
                            f'{project} sees {image["name"]}, but not its '
                            f'{name}, after {self.writes[-1]}'
                        )

    def each_failure(
        self, run: Callable[[], Any], *failures: Answer | BaseException
    ) -> Iterator[int]:
        """Run something again and again, each time with another failure.

        Each write fails once. What is yielded is how many writes there were
        before it; the state before is back when it is asked for the next.
        """
        images, members = copy.deepcopy((self.images, self.members))
        self.writes = []
        run()
        count = len(self.writes)
        self.assertGreater(count, 0)
        for number in range(count):
            for failure in failures:
                self.images, self.members = copy.deepcopy((images, members))
                self.writes, self.broken = [], []
                self.failing = {number: failure}
                yield number
        self.failing = {}
