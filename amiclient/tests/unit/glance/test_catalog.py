#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.

"""Look-ups and changes, request by request."""

import datetime
import json
from typing import Any
import urllib.parse

import openstack
import requests
from requests_mock.contrib import fixture

from amiclient import exceptions
from amiclient.glance import catalog
from amiclient.glance import model
from amiclient.tests import base

CLOUD = 'http://cloud.example:9292'
ID = '11111111-2222-4333-8444-555555555555'
OTHER = '66666666-7777-4888-9999-aaaaaaaaaaaa'
SHA512 = 'ab' * 64


def image(**attributes: Any) -> dict[str, Any]:
    """An image as Glance 33 describes it."""
    return {
        'id': ID,
        'name': 'web',
        'status': 'active',
        'visibility': 'shared',
        'protected': False,
        'os_hidden': False,
        'owner': 'p1',
        'disk_format': 'ami',
        'container_format': 'ami',
        'min_disk': 2,
        'min_ram': 512,
        'size': 1234,
        'virtual_size': None,
        'checksum': 'c0ffee',
        'os_hash_algo': 'sha512',
        'os_hash_value': SHA512,
        'tags': ['blue'],
        'created_at': '2026-03-04T05:06:07Z',
        'updated_at': '2026-03-04T05:06:08Z',
        'self': f'/v2/images/{ID}',
        'file': f'/v2/images/{ID}/file',
        'schema': '/v2/schemas/image',
        'stores': 'fast',
        'kernel_id': OTHER,
        'os_type': 'linux',
        **attributes,
    }


class CatalogTest(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.wire = self.useFixture(fixture.Fixture())
        link = {'rel': 'self', 'href': f'{CLOUD}/v2/'}
        version = {'id': 'v2.17', 'status': 'CURRENT', 'links': [link]}
        self.wire.get(f'{CLOUD}/', json={'versions': [version]})
        proxy = openstack.connect(
            auth_type='none', endpoint=CLOUD, region_name='here'
        ).image
        self.catalog = catalog.Catalog(proxy)

    def answer(
        self,
        method: str,
        path: str,
        *answers: dict[str, Any] | None,
        **kwargs: Any,
    ) -> None:
        """Have the cloud give one answer after the other; None is a 404."""
        given = [
            {'json': answer}
            if answer is not None
            else {'status_code': 404, 'json': {'message': 'No image found'}}
            for answer in answers
        ]
        self.wire.register_uri(
            method, f'{CLOUD}/v2{path}', given or None, **kwargs
        )

    def asked(self) -> list[tuple[str, str]]:
        """What the cloud was asked, since it told its versions."""
        requests_ = []
        for request in self.wire.request_history:
            parts = urllib.parse.urlsplit(request.url)
            if parts.path.startswith('/v2/'):
                query = urllib.parse.unquote_plus(parts.query)
                line = parts.path + (f'?{query}' if query else '')
                requests_.append((request.method, line))
        return requests_

    def fail(self, *args: Any, **kwargs: Any) -> str:
        return str(
            self.assertRaises(exceptions.CloudError, *args, **kwargs)
        )


class GetTest(CatalogTest):
    def test_record(self) -> None:
        self.answer('GET', f'/images/{ID}', image())
        record = self.catalog.get(ID)
        self.assertEqual(
            model.ImageRecord(
                id=ID,
                name='web',
                status='active',
                disk_format='ami',
                container_format='ami',
                size=1234,
                min_disk=2,
                min_ram=512,
                visibility='shared',
                protected=False,
                hidden=False,
                owner='p1',
                hash_algo='sha512',
                hash_value=SHA512,
                checksum='c0ffee',
                created_at=datetime.datetime(
                    2026, 3, 4, 5, 6, 7, tzinfo=datetime.timezone.utc
                ),
                updated_at=datetime.datetime(
                    2026, 3, 4, 5, 6, 8, tzinfo=datetime.timezone.utc
                ),
                tags=('blue',),
                properties={'kernel_id': OTHER, 'os_type': 'linux'},
            ),
            record,
        )
        self.assertEqual(OTHER, record.kernel_id)
        self.assertIsNone(record.ramdisk_id)

    def test_missing(self) -> None:
        self.answer('GET', f'/images/{ID}', None)
        error = self.assertRaises(
            exceptions.NotFoundError, self.catalog.get, ID
        )
        self.assertEqual(
            f'getting image {ID} failed: No image found (HTTP 404)',
            str(error),
        )

    def test_not_glance(self) -> None:
        self.answer('GET', f'/images/{ID}', text='<h1>It works!</h1>')
        self.assertEqual(
            f'getting image {ID} failed: the answer is not JSON; check that '
            'the endpoint is that of an image service',
            self.fail(self.catalog.get, ID),
        )
        self.answer('GET', f'/images/{ID}', json=[])
        self.assertIn('not an object', self.fail(self.catalog.get, ID))

    def test_nobody_there(self) -> None:
        for kind, words in (
            (requests.exceptions.ConnectTimeout, 'no connection to'),
            (requests.exceptions.ConnectionError, 'no connection to'),
            (requests.exceptions.SSLError, 'no secure connection to'),
        ):
            self.answer('GET', f'/images/{ID}', exc=kind)
            message = self.fail(self.catalog.get, ID)
            self.assertIn(words, message)
            self.assertNotIn('\n', message)


class FindTest(CatalogTest):
    def test_by_id(self) -> None:
        self.answer('GET', f'/images/{ID}', image())
        self.assertEqual(ID, self.catalog.find(ID.upper()).id)
        self.assertEqual([('GET', f'/v2/images/{ID}')], self.asked())

    def test_by_name(self) -> None:
        self.answer('GET', '/images', {'images': [image()]})
        self.assertEqual(ID, self.catalog.find('web').id)
        self.assertEqual(
            [('GET', '/v2/images?name=web&os_hidden=false&limit=250')],
            self.asked(),
        )

    def test_by_a_name_that_looks_like_an_id(self) -> None:
        self.answer('GET', f'/images/{OTHER}', None)
        self.answer('GET', '/images', {'images': [image(name=OTHER)]})
        self.assertEqual(ID, self.catalog.find(OTHER).id)

    def test_by_a_name_that_glance_would_take_apart(self) -> None:
        for name in ('in:web', 'a:b,"c"', 'web:2026-03-04'):
            self.answer('GET', '/images', {'images': [image(name=name)]})
            self.assertEqual(ID, self.catalog.find(name).id)
            self.assertIn(f'name=eq:{name}&', self.asked()[-1][1])

    def test_commas_need_no_care(self) -> None:
        self.answer('GET', '/images', {'images': [image(name='a,b&c')]})
        self.assertEqual(ID, self.catalog.find('a,b&c').id)
        self.assertIn('name=a,b&c&', self.asked()[-1][1])

    def test_other_case(self) -> None:
        """MySQL finds Web when web is asked for."""
        self.answer(
            'GET',
            '/images',
            {'images': [image(id=OTHER, name='Web'), image()]},
        )
        self.assertEqual(ID, self.catalog.find('web').id)

    def test_hidden(self) -> None:
        self.answer(
            'GET', '/images', {'images': []}, {'images': [image()]}
        )
        self.assertEqual(ID, self.catalog.find('web').id)
        self.assertIn('os_hidden=true', self.asked()[-1][1])

    def test_missing(self) -> None:
        self.answer('GET', '/images', {'images': []})
        error = self.assertRaises(
            exceptions.NotFoundError, self.catalog.find, 'web'
        )
        self.assertEqual(
            "no image has the name or id 'web'; see `openstack image list`",
            str(error),
        )

    def test_no_name(self) -> None:
        """An empty filter would list every image."""
        self.fail(self.catalog.find, '')
        self.assertEqual([], self.asked())

    def test_ambiguous(self) -> None:
        found = [image(), image(id=OTHER, status='queued')]
        self.answer('GET', '/images', {'images': found})
        self.assertEqual(
            f"2 images are named 'web': {ID} (active, created 2026-03-04), "
            f'{OTHER} (queued, created 2026-03-04); give the id of one',
            self.fail(self.catalog.find, 'web'),
        )

    def test_very_ambiguous(self) -> None:
        self.answer('GET', '/images', {'images': [image()] * 9})
        self.assertIn(
            ' and 4 more; give', self.fail(self.catalog.find, 'web')
        )


class ListTest(CatalogTest):
    def test_page_by_page(self) -> None:
        self.answer(
            'GET',
            '/images',
            {'images': [image()], 'next': '/v2/images?marker=...'},
            {'images': [image(id=OTHER)]},
        )
        found = self.catalog.images(
            tag=['a', 'b'], os_hidden=True, kernel_id=ID
        )
        self.assertEqual([ID, OTHER], [record.id for record in found])
        query = f'tag=a&tag=b&os_hidden=true&kernel_id={ID}&limit=250'
        self.assertEqual(
            [
                ('GET', f'/v2/images?{query}'),
                ('GET', f'/v2/images?{query}&marker={ID}'),
            ],
            self.asked(),
        )

    def test_so_many(self) -> None:
        page = {'images': [image()] * 3, 'next': '/v2/images?marker=...'}
        self.answer('GET', '/images', page)
        self.assertEqual(2, len([*self.catalog.images(limit=2, marker=ID)]))
        self.assertEqual(
            [('GET', f'/v2/images?limit=2&marker={ID}')], self.asked()
        )

    def test_many_by_id(self) -> None:
        ids = [f'{n:08x}-0000-4000-8000-000000000000' for n in range(150)]

        def listed(request: Any, context: Any) -> dict[str, Any]:
            # requests-mock lowers the case; all these are.
            some = request.qs['id'][0].removeprefix('in:').split(',')
            hidden = request.qs['os_hidden'] == ['true']
            return {
                'images': [
                    image(id=i)
                    for i in some
                    if i != ids[7] and hidden == (i == ids[3])
                ]
            }

        self.answer('GET', '/images', json=listed)
        found = self.catalog.get_many([*ids, 'no-id'])
        self.assertEqual({*ids} - {ids[7]}, {*found})
        self.assertEqual(ids[3], found[ids[3]].id)
        asked = [query for _method, query in self.asked()]
        self.assertEqual(3, len(asked))
        self.assertIn('visibility=all', asked[0])

    def test_none_by_id(self) -> None:
        self.assertEqual({}, self.catalog.get_many([]))
        self.assertEqual([], self.asked())

    def test_formats(self) -> None:
        self.answer(
            'GET',
            '/schemas/image',
            {
                'properties': {
                    'disk_format': {'enum': [None, 'ami', 'raw']},
                    'container_format': {'enum': [None, 'bare']},
                }
            },
        )
        self.assertEqual((('ami', 'raw'), ('bare',)), self.catalog.formats())


class FindSameTest(CatalogTest):
    def find(self, *images: dict[str, Any], **kwargs: Any) -> str | None:
        self.answer('GET', '/images', {'images': list(images)})
        found = self.catalog.find_same(SHA512, 1234, 'ami', 'ami', **kwargs)
        return found and found.id

    def test_asked_for_by_hash(self) -> None:
        self.assertEqual(ID, self.find(image()))
        self.assertEqual(
            [
                (
                    'GET',
                    f'/v2/images?os_hash_value={SHA512}&status=active'
                    '&visibility=all&sort=created_at:asc&limit=250',
                )
            ],
            self.asked(),
        )

    def test_none(self) -> None:
        self.assertIsNone(self.find())

    def test_not_quite_the_same(self) -> None:
        for name, value in (
            ('size', 1235),
            ('disk_format', 'raw'),
            ('container_format', 'bare'),
            ('status', 'deactivated'),
            ('os_hidden', True),
            ('os_hash_value', 'cd' * 64),
        ):
            self.assertIsNone(self.find(image(**{name: value})), name)

    def test_visibility(self) -> None:
        order = ('private', 'shared', 'community', 'public')
        for wanted in order:
            for there in order:
                found = self.find(
                    image(visibility=there), visibility_at_least=wanted
                )
                enough = order.index(there) >= order.index(wanted)
                self.assertEqual(ID if enough else None, found)
        self.assertIsNone(self.find(image(visibility='private')))

    def test_owner(self) -> None:
        for there in ('private', 'shared'):
            own = image(visibility=there)
            kwargs = {'visibility_at_least': there}
            self.assertEqual(ID, self.find(own, owner='p1', **kwargs))
            self.assertIsNone(self.find(own, owner='p2', **kwargs))
        for there in ('community', 'public'):
            self.assertEqual(
                ID, self.find(image(visibility=there), owner='p2')
            )

    def test_of_several(self) -> None:
        other = image(id=OTHER, owner='p2')
        self.assertEqual(ID, self.find(other, image(), owner='p1'))


class ChangeTest(CatalogTest):
    def body(self) -> Any:
        return json.loads(self.wire.last_request.body)

    def test_create_what_was_asked_for(self) -> None:
        self.answer('POST', '/images', image(status='queued', size=None))
        record = self.catalog.create(
            model.NewImage(
                name='web', disk_format='ami', container_format='ami'
            )
        )
        self.assertEqual('queued', record.status)
        self.assertEqual(
            {
                'name': 'web',
                'disk_format': 'ami',
                'container_format': 'ami',
                'min_disk': 0,
                'min_ram': 0,
                'tags': [],
            },
            self.body(),
        )

    def test_create_with_everything(self) -> None:
        self.answer('POST', '/images', image())
        self.catalog.create(
            model.NewImage(
                name='web',
                disk_format='ami',
                container_format='ami',
                id=ID,
                visibility='public',
                protected=True,
                hidden=False,
                owner='p1',
                min_disk=2,
                min_ram=512,
                tags=('a', 'b'),
                properties={'kernel_id': OTHER, 'os_type': 'linux'},
            )
        )
        self.assertEqual(
            {
                'id': ID,
                'name': 'web',
                'disk_format': 'ami',
                'container_format': 'ami',
                'visibility': 'public',
                'protected': True,
                'os_hidden': False,
                'owner': 'p1',
                'min_disk': 2,
                'min_ram': 512,
                'tags': ['a', 'b'],
                'kernel_id': OTHER,
                'os_type': 'linux',
            },
            self.body(),
        )

    def test_not_allowed_to_create(self) -> None:
        text = 'You are not authorized to complete publicize_image action.'
        self.answer(
            'POST', '/images', status_code=403, json={'message': text}
        )
        error = self.assertRaises(
            exceptions.CloudError,
            self.catalog.create,
            model.NewImage('web', 'ami', 'ami', visibility='public'),
        )
        self.assertEqual(
            'creating image web failed: You are not authorized to complete '
            'publicize_image action (HTTP 403); ask the operator for the '
            'role that permits it',
            str(error),
        )
        # What undoes a transaction tells a refusal from silence by this.
        self.assertEqual(403, error.__cause__.status_code)

    def test_update(self) -> None:
        self.answer('GET', f'/images/{ID}', image(**{'a/b': '1'}))
        self.answer('PATCH', f'/images/{ID}', image(name='db'))
        record = self.catalog.update(
            ID, {'name': 'db', 'a~/b': 'x', 'os_type': None, 'nosuch': None}
        )
        self.assertEqual('db', record.name)
        self.assertEqual(
            'application/openstack-images-v2.1-json-patch',
            self.wire.last_request.headers['Content-Type'],
        )
        self.assertEqual(
            [
                {'op': 'add', 'path': '/name', 'value': 'db'},
                {'op': 'add', 'path': '/a~0~1b', 'value': 'x'},
                {'op': 'remove', 'path': '/os_type'},
            ],
            self.body(),
        )

    def test_update_nothing(self) -> None:
        self.answer('GET', f'/images/{ID}', image())
        self.assertEqual(ID, self.catalog.update(ID, {'nosuch': None}).id)

    def test_delete(self) -> None:
        self.answer('DELETE', f'/images/{ID}', status_code=204)
        self.catalog.delete(ID)
        self.assertEqual([('DELETE', f'/v2/images/{ID}')], self.asked())

    def test_delete_what_is_gone(self) -> None:
        self.answer('DELETE', f'/images/{ID}', None)
        self.assertRaises(
            exceptions.NotFoundError, self.catalog.delete, ID
        )

    def test_delete_what_is_in_use(self) -> None:
        self.answer(
            'DELETE',
            f'/images/{ID}',
            status_code=409,
            headers={'Content-Type': 'text/html'},
            text='<html><head><title>409 Conflict</title></head><body>'
            '<h1>409 Conflict</h1>\nImage is in use:\n backend &lt;rbd&gt;'
            '.<br /><br />\n</body></html>',
        )
        self.assertEqual(
            f'deleting image {ID} failed: Image is in use: backend <rbd> '
            '(HTTP 409)',
            self.fail(self.catalog.delete, ID),
        )
