# SPDX-License-Identifier: Apache-2.0


import signal
from unittest import mock
import uuid

import fixtures

from amiclient import errors
from amiclient.glance import client
from amiclient.glance import model
from amiclient.glance.upload import transaction
from amiclient import interrupts
from amiclient.tests import base
from amiclient.tests.unit.glance import records


def new(name='vmlinuz', **attributes):
    return model.NewImage(name, 'aki', 'aki', **attributes)


class TestTransaction(base.TestCase):
    def setUp(self):
        super().setUp()
        self.catalog = mock.create_autospec(client.Catalog, instance=True)
        self.catalog.within.return_value = self.catalog
        self.made = {}
        self.catalog.create.side_effect = self.create
        self.catalog.get.side_effect = self.made.get
        self.catalog.within.return_value = self.catalog
        self.log = self.useFixture(fixtures.FakeLogger())
        self.useFixture(fixtures.MockPatchObject(transaction, '_PAUSE', 0.001))

    def create(self, image):
        self.made[image.id] = records.created(image)
        return self.made[image.id]

    def transaction(self, *, keep=False, marked=False):
        return transaction.Transaction(self.catalog, keep=keep, marked=marked)

    def deleted(self):
        return [call.args[0] for call in self.catalog.delete.call_args_list]

    def break_off(self, made, error):
        with made:
            raise error

    def test_what_was_committed_stays(self):
        with self.transaction() as made:
            record = made.create(new())
            made.commit()
        self.assertEqual(record.id, str(uuid.UUID(record.id)))
        self.assertEqual([], self.deleted())

    def test_everything_goes_in_reverse_order(self):
        with self.transaction() as made:
            ids = [made.create(new(n)).id for n in ('a', 'b', 'c')]
            error = self.assertRaises(
                errors.CloudError,
                self.break_off,
                made,
                errors.CloudError('no'),
            )
        self.assertEqual(ids[::-1], self.deleted())
        self.assertEqual(['nothing was left behind'], error.__notes__)
        self.assertEqual('', self.log.output)

    def test_an_image_whose_creation_was_not_answered_goes(self):
        # Glance got the request, but Ctrl-C came before the answer.
        self.catalog.create.side_effect = interrupts.Interrupted(2)
        made = self.transaction()

        def work():
            with made:
                made.create(new())

        self.assertRaises(interrupts.Interrupted, work)
        asked = self.catalog.create.call_args.args[0].id
        self.assertEqual([asked], self.deleted())

    def test_one_that_comes_to_be_late_goes(self):
        self.catalog.create.side_effect = errors.CloudError('timed out')
        self.catalog.delete.side_effect = [
            errors.NotFoundError('not yet'),
            None,
        ]
        made = self.transaction()

        def work():
            with made:
                made.create(new())

        self.assertRaises(errors.CloudError, work)
        self.assertEqual(2, self.catalog.delete.call_count)
        self.assertEqual('', self.log.output)

    def test_one_that_was_refused_is_not_looked_for(self):
        self.catalog.create.side_effect = errors.CloudError(
            'forbidden', status=403
        )
        made = self.transaction()

        def work():
            with made:
                made.create(new())

        self.assertRaises(errors.CloudError, work)
        self.assertEqual([], self.deleted())

    def test_the_image_that_has_a_chosen_id_already_is_not_touched(self):
        self.catalog.create.side_effect = errors.CloudError(
            'duplicate', status=409
        )
        made = self.transaction()

        def work():
            with made:
                made.create(new(id='44444444-4444-4444-8444-444444444444'))

        self.assertRaises(errors.CloudError, work)
        self.assertEqual([], self.deleted())

    def test_a_conflict_over_a_random_id_is_with_ourselves(self):
        # The session sent the request twice: the first one was served.
        self.catalog.create.side_effect = errors.CloudError(
            'duplicate', status=409
        )
        made = self.transaction()

        def work():
            with made:
                made.create(new())

        self.assertRaises(errors.CloudError, work)
        self.assertEqual(1, len(self.deleted()))

    def test_what_cannot_be_removed_is_listed_with_the_command(self):
        def refuse(image_id):
            if image_id == ids[1]:
                raise errors.CloudError('in use', status=409)

        with self.transaction() as made:
            ids = [made.create(new(n)).id for n in ('a', 'b', 'c')]
            self.catalog.delete.side_effect = refuse
            error = self.assertRaises(
                errors.CloudError,
                self.break_off,
                made,
                errors.CloudError('no'),
            )
        self.assertEqual([ids[2], ids[1]], self.deleted()[:2])
        self.assertEqual(ids[0], self.deleted()[-1])
        self.assertIn(f'openstack image delete {ids[1]}\n', self.log.output)
        self.assertIn('in use', self.log.output)
        self.assertFalse(hasattr(error, '__notes__'))

    def test_a_cloud_that_does_not_answer_is_not_waited_for(self):
        self.catalog.delete.side_effect = errors.CloudError('timed out')
        with self.transaction() as made:
            ids = [made.create(new(n)).id for n in ('a', 'b')]
            self.assertRaises(
                errors.CloudError,
                self.break_off,
                made,
                errors.CloudError('no'),
            )
            made.commit()
        self.assertEqual(ids[::-1], self.deleted())
        self.assertIn(f'delete {ids[0]} {ids[1]}', self.log.output)

    def test_a_passing_refusal_is_overcome(self):
        self.catalog.delete.side_effect = [
            errors.CloudError('database is locked', status=500),
            None,
        ]
        with self.transaction() as made:
            made.create(new())
            self.assertRaises(
                errors.CloudError,
                self.break_off,
                made,
                errors.CloudError('no'),
            )
        self.assertEqual('', self.log.output)

    def test_keep_failed_leaves_everything(self):
        with self.transaction(keep=True) as made:
            ids = [made.create(new(n)).id for n in ('a', 'b')]
            self.assertRaises(
                errors.CloudError,
                self.break_off,
                made,
                errors.CloudError('no'),
            )
            made.commit()
        self.assertEqual([], self.deleted())
        self.assertIn(
            f'openstack image delete {ids[0]} {ids[1]}', self.log.output
        )

    def test_a_second_ctrl_c_does_not_stop_the_undoing(self):
        self.catalog.delete.side_effect = lambda _: signal.raise_signal(
            signal.SIGINT
        )
        with interrupts.raised():
            with self.transaction() as made:
                ids = [made.create(new(n)).id for n in ('a', 'b')]
                # Not a signal: the first Ctrl-C comes while undoing.
                self.assertRaises(
                    errors.CloudError,
                    self.break_off,
                    made,
                    errors.CloudError('no'),
                )
        self.assertEqual(ids[::-1], self.deleted())

    def test_images_are_protected_only_when_told_to_be(self):
        with self.transaction() as made:
            image = made.create(new(protected=True))
            self.assertFalse(image.protected)
            made.finish(image, {'protected': True})
            made.commit()
        self.catalog.update.assert_called_once_with(
            image.id, {'protected': True}, present=mock.ANY
        )

    def test_one_that_was_protected_is_unprotected_first(self):
        with self.transaction() as made:
            image = made.create(new())
            made.finish(image, {'protected': True})
            self.assertRaises(
                errors.CloudError,
                self.break_off,
                made,
                errors.CloudError('no'),
            )
        self.assertEqual(
            [
                mock.call.update(image.id, {'protected': False}),
                mock.call.delete(image.id),
            ],
            self.catalog.mock_calls[-2:],
        )
