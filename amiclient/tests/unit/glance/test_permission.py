# SPDX-License-Identifier: Apache-2.0

"""Why a cloud refuses a change."""

from unittest import mock

from amiclient import errors
from amiclient.glance import client
from amiclient.glance import permission
from amiclient.tests import base
from amiclient.tests.unit.glance import records

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
        told = permission.explained(error, image, self.catalog)
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
