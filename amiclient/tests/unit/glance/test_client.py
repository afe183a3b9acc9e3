# SPDX-License-Identifier: Apache-2.0

"""Look-ups, request by request."""

import datetime
import re
import time
from typing import Any
from unittest import mock

from keystoneauth1 import exceptions as keystone_exceptions
import requests

from amiclient import errors
from amiclient.glance import model
from amiclient.glance import sessions
from amiclient.tests.unit.glance import wire


class MicroversionTest(wire.CatalogTest):
    def test_no_service(self) -> None:
        self.assertIsNone(self.catalog.newest_microversion('compute'))

    def test_is_not_waited_for_for_ever(self) -> None:
        session = self.catalog._proxy.session
        seen = []

        def look(*_: object, **__: object) -> None:
            end = sessions._END.get() or 0
            seen.append(end - time.monotonic())
            raise keystone_exceptions.ConnectTimeout('too late')

        for given, wanted in ((None, 60.0), (7.0, 7.0)):
            session.timeout = given
            with mock.patch.object(session, 'get_endpoint_data', look):
                found = self.catalog.newest_microversion('compute')
            self.assertIsNone(found)
            self.assertAlmostEqual(wanted, seen.pop(), delta=2)
            self.assertEqual(given, session.timeout)


class GetTest(wire.CatalogTest):
    def test_record(self) -> None:
        self.answer('GET', f'/images/{wire.ID}', wire.image())
        record = self.catalog.get(wire.ID)
        self.assertEqual(
            model.ImageRecord(
                id=wire.ID,
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
                hash_value=wire.SHA512,
                checksum='c0ffee',
                created_at=datetime.datetime(
                    2026, 3, 4, 5, 6, 7, tzinfo=datetime.UTC
                ),
                updated_at=datetime.datetime(
                    2026, 3, 4, 5, 6, 8, tzinfo=datetime.UTC
                ),
                tags=('blue',),
                properties={'kernel_id': wire.OTHER, 'os_type': 'linux'},
                stores=('fast',),
            ),
            record,
        )
        self.assertEqual(wire.OTHER, record.kernel_id)
        self.assertIsNone(record.ramdisk_id)

    def test_missing(self) -> None:
        self.answer('GET', f'/images/{wire.ID}', None)
        error = self.assertRaises(
            errors.NotFoundError, self.catalog.get, wire.ID
        )
        self.assertEqual(
            f'getting image {wire.ID} failed: No image found (HTTP 404)',
            str(error),
        )

    def test_not_glance(self) -> None:
        self.answer('GET', f'/images/{wire.ID}', text='<h1>It works!</h1>')
        self.assertEqual(
            f'getting image {wire.ID} failed: Glance answered with something '
            f'that is not the image {wire.ID}: it is not JSON; check '
            'that the endpoint is that of an image service',
            self.fail(self.catalog.get, wire.ID),
        )
        self.answer('GET', f'/images/{wire.ID}', json=[])
        self.assertIn('not an object', self.fail(self.catalog.get, wire.ID))

    def test_nobody_there(self) -> None:
        for kind, words in (
            (requests.exceptions.ConnectTimeout, 'no connection to'),
            (requests.exceptions.ConnectionError, 'no connection to'),
            (requests.exceptions.SSLError, 'no secure connection to'),
        ):
            self.answer('GET', f'/images/{wire.ID}', exc=kind)
            message = self.fail(self.catalog.get, wire.ID)
            self.assertIn(words, message)
            self.assertNotIn('\n', message)


class FindTest(wire.CatalogTest):
    def test_by_id(self) -> None:
        self.answer('GET', f'/images/{wire.ID}', wire.image())
        self.assertEqual(wire.ID, self.catalog.find(wire.ID.upper()).id)
        self.assertEqual([('GET', f'/v2/images/{wire.ID}')], self.asked())

    def test_by_name(self) -> None:
        self.answer('GET', '/images', {'images': [wire.image()]})
        self.assertEqual(wire.ID, self.catalog.find('web').id)
        self.assertEqual(
            [('GET', '/v2/images?name=web&os_hidden=false&limit=250')],
            self.asked(),
        )

    def test_by_a_name_that_looks_like_an_id(self) -> None:
        self.answer('GET', f'/images/{wire.OTHER}', None)
        self.answer(
            'GET', '/images', {'images': [wire.image(name=wire.OTHER)]}
        )
        self.assertEqual(wire.ID, self.catalog.find(wire.OTHER).id)

    def test_by_a_name_that_glance_would_take_apart(self) -> None:
        for name in ('in:web', 'a:b,"c"', 'web:2026-03-04'):
            self.answer('GET', '/images', {'images': [wire.image(name=name)]})
            self.assertEqual(wire.ID, self.catalog.find(name).id)
            self.assertIn(f'name=eq:{name}&', self.asked()[-1][1])

    def test_commas_need_no_care(self) -> None:
        self.answer('GET', '/images', {'images': [wire.image(name='a,b&c')]})
        self.assertEqual(wire.ID, self.catalog.find('a,b&c').id)
        self.assertIn('name=a,b&c&', self.asked()[-1][1])

    def test_other_case(self) -> None:
        """MySQL finds Web when web is asked for."""
        self.answer(
            'GET',
            '/images',
            {'images': [wire.image(id=wire.OTHER, name='Web'), wire.image()]},
        )
        self.assertEqual(wire.ID, self.catalog.find('web').id)

    def test_hidden(self) -> None:
        self.answer(
            'GET', '/images', {'images': []}, {'images': [wire.image()]}
        )
        self.assertEqual(wire.ID, self.catalog.find('web').id)
        self.assertIn('os_hidden=true', self.asked()[-1][1])

    def test_missing(self) -> None:
        self.answer('GET', '/images', {'images': []})
        error = self.assertRaises(
            errors.NotFoundError, self.catalog.find, 'web'
        )
        self.assertEqual(
            "no image has the name or id 'web'; see `openstack image list`; "
            'images of other projects must be shared with yours',
            str(error),
        )

    def test_no_name(self) -> None:
        """An empty filter would list every image."""
        self.fail(self.catalog.find, '')
        self.assertEqual([], self.asked())

    def test_ambiguous(self) -> None:
        found = [wire.image(), wire.image(id=wire.OTHER, status='queued')]
        self.answer('GET', '/images', {'images': found})
        self.assertEqual(
            f"2 images are named 'web': {wire.ID} (AMI, active, created "
            f'2026-03-04 05:06), {wire.OTHER} (AMI, queued, created '
            '2026-03-04 05:06); give the id of one',
            self.fail(self.catalog.find, 'web'),
        )

    def test_ambiguous_kinds(self) -> None:
        found = [
            wire.image(disk_format=format, kernel_id=link, os_hidden=hidden)
            for format, link, hidden in (
                ('aki', None, False),
                ('ari', None, True),
                ('raw', wire.OTHER, False),
                ('qcow2', None, False),
                (None, None, False),
            )
        ]
        self.answer('GET', '/images', {'images': found})
        told = self.fail(self.catalog.find, 'web')
        self.assertEqual(
            ['kernel', 'ramdisk, hidden', 'AMI', 'qcow2', 'no format'],
            re.findall(r'\((.*?), active', told),
        )

    def test_very_ambiguous(self) -> None:
        self.answer('GET', '/images', {'images': [wire.image()] * 9})
        self.assertIn(' and 4 more; give', self.fail(self.catalog.find, 'web'))


class ListTest(wire.CatalogTest):
    def test_page_by_page(self) -> None:
        self.answer(
            'GET',
            '/images',
            {'images': [wire.image()], 'next': '/v2/images?marker=...'},
            {'images': [wire.image(id=wire.OTHER)]},
        )
        found = self.catalog.images(
            tag=['a', 'b'], os_hidden=True, kernel_id=wire.ID
        )
        self.assertEqual(
            [wire.ID, wire.OTHER], [record.id for record in found]
        )
        query = f'tag=a&tag=b&os_hidden=true&kernel_id={wire.ID}&limit=250'
        self.assertEqual(
            [
                ('GET', f'/v2/images?{query}'),
                ('GET', f'/v2/images?{query}&marker={wire.ID}'),
            ],
            self.asked(),
        )

    def test_so_many(self) -> None:
        page = {'images': [wire.image()] * 3, 'next': '/v2/images?marker=...'}
        self.answer('GET', '/images', page)
        self.assertEqual(
            2, len([*self.catalog.images(limit=2, marker=wire.ID)])
        )
        self.assertEqual(
            [('GET', f'/v2/images?limit=2&marker={wire.ID}')], self.asked()
        )

    def test_many_by_id(self) -> None:
        ids = [f'{n:08x}-0000-4000-8000-000000000000' for n in range(150)]

        def listed(request: Any, context: Any) -> dict[str, Any]:
            # requests-mock lowers the case; all these are.
            some = request.qs['id'][0].removeprefix('in:').split(',')
            hidden = request.qs['os_hidden'] == ['true']
            return {
                'images': [
                    wire.image(id=i)
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

    def test_schema(self) -> None:
        schema = {'properties': {'disk_format': {'enum': [None, 'ami']}}}
        self.answer('GET', '/schemas/image', schema)
        self.assertEqual(schema, self.catalog.schema())

    def test_usage(self) -> None:
        usage = {'image_count_total': {'usage': 2, 'limit': 10}}
        self.answer('GET', '/info/usage', {'usage': usage}, None)
        self.assertEqual(usage, self.catalog.usage())
        # An older Glance has no such thing.
        self.assertEqual({}, self.catalog.usage())
