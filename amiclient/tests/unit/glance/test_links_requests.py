# SPDX-License-Identifier: Apache-2.0

"""How many requests it takes to find what many AMIs link to."""

from typing import Any

from amiclient.glance import links
from amiclient.tests.unit.glance import wire

#: AMIs, each with a kernel of its own, in a cloud of so many images.
AMIS = 1000
IMAGES = 5000

#: Images in a page of a list.
PAGE = 250


def _id(kind: int, number: int) -> str:
    return f'{kind:08x}-0000-4000-8000-{number:012x}'


class TestRequests(wire.CatalogTest):
    def setUp(self) -> None:
        super().setUp()
        self.images = {
            _id(1, number): wire.image(
                id=_id(1, number),
                kernel_id=_id(2, number),
                tags=['t'] if number % 2 else [],
            )
            for number in range(AMIS)
        }
        for number in range(AMIS):
            self.add(_id(2, number), 'aki')
        for number in range(IMAGES - 2 * AMIS):
            self.add(_id(3, number), 'qcow2')
        self.answer('GET', '/images', json=self.listed)

    def add(self, id: str, disk_format: str, **attributes: Any) -> None:
        self.images[id] = wire.image(
            id=id, kernel_id=None, disk_format=disk_format, **attributes
        )

    def change(self, numbers: range, **attributes: Any) -> None:
        for number in numbers:
            self.images[_id(2, number)].update(attributes)

    def listed(self, request: Any, context: Any) -> dict[str, Any]:
        """Answer as Glance does, as far as that matters here."""
        query = {name: values[0] for name, values in request.qs.items()}
        ids = query.get('id', '').removeprefix('in:')
        formats = query.get('disk_format', '').removeprefix('in:')
        hidden = query.get('os_hidden') == 'true'
        found = [
            image
            for image in self.images.values()
            if image['os_hidden'] is hidden
            and (not ids or image['id'] in ids.split(','))
            and (not formats or image['disk_format'] in formats.split(','))
            and ('tag' not in query or query['tag'] in image['tags'])
            and (
                query.get('visibility') == 'all'
                or image['visibility'] != 'community'
            )
        ]
        if 'marker' in query:
            names = [image['id'] for image in found]
            found = found[names.index(query['marker']) + 1 :]
        limit = int(query['limit'])
        page: dict[str, Any] = {'images': found[:limit]}
        if len(found) > limit:
            page['next'] = '/v2/images?marker='
        return page

    def resolved(self, **filters: Any) -> tuple[int, dict[str, str | None]]:
        """List the AMIs.

        :returns: how many requests it took beyond the pages of the list, and
            the state of each kernel.
        """
        hidden = [i for i in self.images.values() if i['os_hidden']]
        wanted = [
            image
            for image in self.images.values()
            if not filters or 't' in image['tags']
        ]
        pages = -(-(len(wanted) - (0 if filters else len(hidden))) // PAGE)
        found = {
            ami.image.id: ami.kernel_status
            for ami in links.list_amis(self.catalog, filters, resolve=True)
        }
        return len(self.asked()) - pages, found

    def test_kernels_in_the_list(self) -> None:
        requests, found = self.resolved()
        self.assertEqual({'active'}, set(found.values()))
        self.assertEqual(AMIS, len(found))
        self.assertEqual(0, requests)

    def test_some_are_hidden_and_some_are_gone(self) -> None:
        self.change(range(300), os_hidden=True)
        # Of another format than most.
        self.change(range(300, 310), os_hidden=True, disk_format='raw')
        self.change(range(310, 320), disk_format='raw')
        self.change(range(320, 330), visibility='community')
        for number in range(400, 450):
            del self.images[_id(2, number)]
        requests, found = self.resolved()
        missing = [id for id, status in found.items() if status == 'missing']
        self.assertEqual([_id(1, n) for n in range(400, 450)], missing)
        self.assertEqual(AMIS, len(found))
        self.assertEqual(2, requests)

    def test_more_than_fit_in_one_request(self) -> None:
        self.change(range(150), os_hidden=True)
        requests, found = self.resolved()
        self.assertEqual({'active'}, set(found.values()))
        self.assertEqual(1, requests)

    def test_a_filter_that_leaves_kernels_out(self) -> None:
        self.change(range(250), os_hidden=True)
        requests, found = self.resolved(tag='t')
        self.assertEqual(AMIS // 2, len(found))
        self.assertEqual({'active'}, set(found.values()))
        self.assertEqual(2, requests)
