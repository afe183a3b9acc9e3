# SPDX-License-Identifier: Apache-2.0

"""Changes of images, request by request, and why a cloud refuses them."""

import json
from typing import Any
from unittest import mock

from amiclient import errors
from amiclient.glance import client
from amiclient.glance import model
from amiclient.glance import steps
from amiclient.tests import base
from amiclient.tests.unit.glance import records
from amiclient.tests.unit.glance import wire


class ChangeTest(wire.CatalogTest):
    def body(self) -> Any:
        return json.loads(self.wire.last_request.body)

    def test_create_what_was_asked_for(self) -> None:
        self.answer('POST', '/images', wire.image(status='queued', size=None))
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
        self.answer('POST', '/images', wire.image())
        self.catalog.create(
            model.NewImage(
                name='web',
                disk_format='ami',
                container_format='ami',
                id=wire.ID,
                visibility='public',
                protected=True,
                hidden=False,
                owner='p1',
                min_disk=2,
                min_ram=512,
                tags=('a', 'b'),
                properties={'kernel_id': wire.OTHER, 'os_type': 'linux'},
            )
        )
        self.assertEqual(
            {
                'id': wire.ID,
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
                'kernel_id': wire.OTHER,
                'os_type': 'linux',
            },
            self.body(),
        )

    def test_not_allowed_to_create(self) -> None:
        text = 'You are not authorized to complete publicize_image action.'
        self.answer('POST', '/images', status_code=403, json={'message': text})
        error = self.assertRaises(
            errors.CloudError,
            self.catalog.create,
            model.NewImage('web', 'ami', 'ami', visibility='public'),
        )
        self.assertEqual(
            'creating image web failed: You are not authorized to complete '
            'publicize_image action (HTTP 403); usually only administrators '
            'can make images public; --community does not need that '
            'permission',
            str(error),
        )
        # What undoes a transaction tells a refusal from silence by this.
        self.assertEqual(403, error.__cause__.status_code)

    def test_update(self) -> None:
        self.answer('GET', f'/images/{wire.ID}', wire.image(**{'a/b': '1'}))
        self.answer('PATCH', f'/images/{wire.ID}', wire.image(name='db'))
        record = self.catalog.update(
            wire.ID,
            {'name': 'db', 'a~/b': 'x', 'os_type': None, 'nosuch': None},
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
        self.answer('GET', f'/images/{wire.ID}', wire.image())
        self.assertEqual(
            wire.ID, self.catalog.update(wire.ID, {'nosuch': None}).id
        )

    def test_delete(self) -> None:
        self.answer('DELETE', f'/images/{wire.ID}', status_code=204)
        self.catalog.delete(wire.ID)
        self.assertEqual([('DELETE', f'/v2/images/{wire.ID}')], self.asked())

    def test_delete_what_is_gone(self) -> None:
        self.answer('DELETE', f'/images/{wire.ID}', None)
        self.assertRaises(errors.NotFoundError, self.catalog.delete, wire.ID)

    def test_delete_what_is_in_use(self) -> None:
        self.answer(
            'DELETE',
            f'/images/{wire.ID}',
            status_code=409,
            headers={'Content-Type': 'text/html'},
            text='<html><head><title>409 Conflict</title></head><body>'
            '<h1>409 Conflict</h1>\nImage is in use:\n backend &lt;rbd&gt;'
            '.<br /><br />\n</body></html>',
        )
        self.assertEqual(
            f'deleting image {wire.ID} failed: Image is in use: backend <rbd> '
            '(HTTP 409)',
            self.fail(self.catalog.delete, wire.ID),
        )


POLICY = 'You are not authorized to complete modify_image action'


class TestExplained(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.catalog = mock.create_autospec(client.Catalog, instance=True)
        self.catalog.project.return_value = 'project'

    def explained(
        self, status: int | None, message: str, **attributes: object
    ) -> errors.CloudError:
        error = errors.CloudError(message, hint='before', status=status)
        image = records.record(**attributes)
        told = steps.explained(self.catalog, error, image)
        self.assertEqual((message, status), (told.message, told.status))
        return told

    def test_hints(self) -> None:
        id = records.record().id
        for status, message, attributes, hint in (
            (403, POLICY, {}, 'the role member'),
            (403, POLICY, {'owner': 'p9'}, 'belongs to the project p9'),
            (403, 'x is protected', {}, f'--unprotected {id}'),
            (409, 'x is in use', {}, 'clones of its data'),
            (409, 'x is queued', {}, 'before'),
            (403, 'complete publicize_image action', {}, 'before'),
            (500, POLICY, {}, 'before'),
            (None, POLICY, {}, 'before'),
        ):
            told = self.explained(status, message, **attributes)
            self.assertIn(hint, told.hint or '')
