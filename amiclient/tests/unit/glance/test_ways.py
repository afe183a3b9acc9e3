# SPDX-License-Identifier: Apache-2.0

"""Which way data goes, as far as the cloud tells."""

from unittest import mock

from amiclient import errors
from amiclient.glance import client
from amiclient.glance.upload import request
from amiclient.glance.upload import ways
from amiclient.tests import base
from amiclient.tests.unit.glance import records


class TestWays(base.TestCase):
    def settle(self, status=None, *, methods=('glance-direct',), **settings):
        """Ask a cloud that answers so, if there is an image to ask about."""
        self.catalog = mock.create_autospec(client.Catalog, instance=True)
        self.catalog.project.return_value = records.kernel().owner
        images = [] if status is None else [records.kernel()]
        self.catalog.images.return_value = images
        self.catalog.once.side_effect = errors.CloudError('no', status=status)
        self.catalog.import_methods.return_value = methods
        settings = {'dry_run': True, **settings}
        return ways.settle(self.catalog, request.Settings(**settings))

    def refused(self, *args, **options):
        return str(
            self.assertRaises(errors.CloudError, self.settle, *args, **options)
        )

    def test_what_is_found_out(self) -> None:
        self.assertEqual('never', self.settle(409))
        self.assertEqual('always', self.settle(403))
        self.assertEqual('auto', self.settle())
        self.assertEqual('auto', self.settle(413))

    def test_nothing_is_asked_before_it_is_done(self) -> None:
        self.assertEqual('auto', self.settle(403, dry_run=False))
        self.catalog.once.assert_not_called()

    def test_neither(self) -> None:
        text = self.refused(403, methods=('web-download',))
        self.assertIn('upload_image', text)
        self.assertIn('only web-download', text)
        self.assertIn('upload_image', self.refused(403, imported='never'))

    def test_always(self) -> None:
        self.assertEqual('always', self.settle(409, imported='always'))
        self.assertIn(
            'does not offer', self.refused(imported='always', methods=())
        )

    def test_several_stores(self) -> None:
        stores = ('main', 'second')
        self.assertEqual('always', self.settle(409, stores=stores))
        self.assertEqual(
            'never', self.settle(409, stores=stores, may_copy=True)
        )
        self.refused(409, stores=stores, imported='never')
