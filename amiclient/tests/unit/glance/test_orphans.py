# SPDX-License-Identifier: Apache-2.0

"""The mark of unfinished images, from the first request to the last."""

from unittest import mock

import fixtures

from amiclient import errors
from amiclient.glance import client
from amiclient.glance import model
from amiclient.glance import steps
from amiclient.glance.upload import marks
from amiclient.glance.upload import request
from amiclient.glance.upload import transaction
from amiclient.tests import base
from amiclient.tests.unit.glance import records

LEFT = str(marks.UploadRun(**{**vars(marks.UploadRun.this()), 'born': '1'}))


class MarkCase(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.log = self.useFixture(fixtures.FakeLogger())
        self.catalog = mock.create_autospec(client.Catalog, instance=True)
        self.catalog.create.side_effect = records.created
        self.catalog.within.return_value = self.catalog
        self.catalog.project.return_value = 'project'
        self.catalog.get.return_value = records.kernel()

    def new(self, **changes):
        return model.NewImage('vmlinuz', 'aki', 'aki', **changes)

    def left(self, **changes):
        return records.kernel(
            **{'status': 'queued', marks.PROPERTY: LEFT, **changes}
        )


class TestMark(MarkCase):
    def transaction(self, **options):
        return transaction.Transaction(
            self.catalog, **{'keep': False, **options}
        )

    def test_from_the_first_request_to_the_last(self) -> None:
        with self.transaction() as made:
            record = made.create(self.new(properties={'x': 'y'}))
            made.finish(record, {'protected': True})
            made.commit()
        sent = self.catalog.create.call_args.args[0]
        self.assertEqual(
            {'x': 'y', marks.PROPERTY: str(marks.UploadRun.this())},
            sent.properties,
        )
        self.catalog.update.assert_called_once_with(
            record.id,
            {'protected': True, marks.PROPERTY: None},
            present=record.properties.keys(),
        )

    def test_what_was_not_finished_loses_it_too(self) -> None:
        with self.transaction() as made:
            record = made.create(self.new())
            made.commit()
        self.catalog.update.assert_called_once_with(
            record.id, {marks.PROPERTY: None}, present=mock.ANY
        )

    def test_a_mark_that_stays_is_no_reason_to_fail(self) -> None:
        self.catalog.update.side_effect = errors.CloudError('no')
        with self.transaction() as made:
            record = made.create(self.new())
            self.assertEqual(record, made.finish(record))
            made.commit()
        self.catalog.delete.assert_not_called()
        self.assertIn(
            f'openstack image unset --property {marks.PROPERTY} {record.id}',
            self.log.output,
        )

    def test_a_change_that_is_refused_is_one(self) -> None:
        self.catalog.update.side_effect = errors.CloudError('no')

        def work() -> None:
            with self.transaction() as made:
                made.finish(made.create(self.new()), {'min_disk': 2})

        self.assertRaises(errors.CloudError, work)
        self.catalog.delete.assert_called_once()

    def test_operators_can_reserve_it(self) -> None:
        def refuse(new):
            if marks.PROPERTY in new.properties:
                raise errors.CloudError(
                    f"Attribute '{marks.PROPERTY}' is reserved.", status=403
                )
            return records.created(new)

        self.catalog.create.side_effect = refuse
        with self.transaction() as made:
            record = made.create(self.new())
            made.finish(record)
            made.commit()
        self.assertEqual({}, dict(record.properties))
        self.catalog.update.assert_not_called()
        self.catalog.delete.assert_not_called()

    def test_what_is_kept_has_none(self) -> None:
        def work() -> None:
            with self.transaction(keep=True) as made:
                made.create(self.new())
                raise errors.CloudError('no')

        self.assertRaises(errors.CloudError, work)
        self.catalog.update.assert_called_once_with(
            mock.ANY, {marks.PROPERTY: None}
        )
        self.catalog.delete.assert_not_called()

    def test_adopted(self) -> None:
        left = self.left(name='old', os_type='x')
        with self.transaction() as made:
            made.adopt(
                left,
                self.new(id=left.id, properties={'architecture': 'x86_64'}),
            )
            made.commit()
        changes = self.catalog.update.call_args_list[0].args[1]
        self.assertEqual('vmlinuz', changes['name'])
        self.assertEqual('x86_64', changes['architecture'])
        # What it had of its old run goes.
        self.assertIsNone(changes['os_type'])
        self.assertEqual(str(marks.UploadRun.this()), changes[marks.PROPERTY])
        self.catalog.create.assert_not_called()

    def test_what_was_widened_is_narrowed(self) -> None:
        kernel = records.kernel(visibility='private')

        def work() -> None:
            with self.transaction() as made:
                change = {'visibility': 'public'}
                made.carry_out(steps.Update(model.Kind.AKI, kernel, change))
                raise errors.CloudError('no')

        self.assertRaises(errors.CloudError, work)
        self.assertEqual(
            [
                mock.call(kernel.id, {'visibility': 'public'}),
                mock.call(kernel.id, {'visibility': 'private'}),
            ],
            self.catalog.update.call_args_list,
        )


class TestOrphans(MarkCase):
    def find(self, *images, **settings):
        self.catalog.images.return_value = iter(images)
        return marks.find(self.catalog, request.Settings(**settings))

    def test_found(self) -> None:
        left = self.left()
        alive = self.left(**{marks.PROPERTY: str(marks.UploadRun.this())})
        strange = records.kernel(status='queued')
        self.assertEqual((left,), self.find(strange, left, alive))
        self.catalog.images.assert_called_once_with(
            status='in:queued,saving,uploading,importing',
            os_hidden=False,
            owner='project',
        )

    def test_never_one_with_data(self) -> None:
        # Even if the cloud does not know the filter.
        self.assertEqual((), self.find(self.left(status='active')))

    def test_those_of_the_project_that_is_meant(self) -> None:
        self.find(owner='other', hidden=True)
        self.catalog.images.assert_called_once_with(
            status='in:queued,saving,uploading,importing',
            os_hidden=True,
            owner='other',
        )

    def remove(self, *planned, **now) -> None:
        """Remove what a plan has listed.

        :param now: what has changed of it since then.
        """
        self.catalog.get.side_effect = lambda image_id: self.left(
            id=image_id, **now
        )
        marks.remove(self.catalog, planned)

    def test_removed(self) -> None:
        left = self.left()
        self.remove(left)
        self.catalog.delete.assert_called_once_with(left.id)

    def test_saving_by_now(self) -> None:
        self.remove(self.left(), status='saving')
        self.catalog.delete.assert_not_called()

    def test_adopted_by_another_run_meanwhile(self) -> None:
        self.remove(
            self.left(), **{marks.PROPERTY: str(marks.UploadRun.this())}
        )
        self.catalog.delete.assert_not_called()
        self.assertIn(
            'was changed in the meantime and is kept', self.log.output
        )

    def test_without_a_mark_meanwhile(self) -> None:
        now = records.kernel(status='queued')
        self.catalog.get.side_effect = [now]
        marks.remove(self.catalog, [self.left()])
        self.catalog.delete.assert_not_called()

    def test_complete_meanwhile(self) -> None:
        self.remove(self.left(), status='active')
        self.catalog.delete.assert_not_called()

    def test_removed_by_somebody_else_meanwhile(self) -> None:
        gone = errors.NotFoundError('gone')
        self.catalog.delete.side_effect = gone
        self.remove(self.left())
        self.catalog.get.side_effect = gone
        marks.remove(self.catalog, [self.left()])
        self.catalog.delete.assert_called_once()
        self.assertEqual('', self.log.output)

    def test_one_that_cannot_be_looked_at(self) -> None:
        self.catalog.get.side_effect = [
            errors.CloudError('no answer'),
            self.left(id='other'),
        ]
        marks.remove(self.catalog, [self.left(), self.left(id='other')])
        self.catalog.delete.assert_called_once_with('other')
        self.assertIn('no answer', self.log.output)

    def test_one_that_cannot_be_removed(self) -> None:
        self.catalog.delete.side_effect = [
            errors.CloudError('in use'),
            None,
        ]
        self.remove(self.left(), self.left(id='other'))
        self.assertEqual(2, self.catalog.delete.call_count)
        self.assertIn('in use', self.log.output)

    def test_told_in_one_line(self) -> None:
        self.assertEqual([], list(marks.warnings([])))
        (line,) = marks.warnings([self.left(), self.left(id='other')])
        self.assertIn(f'{self.left().id}, other', line)

    def test_a_mark_is_cleared_from_what_is_complete(self) -> None:
        left = self.left(status='active')
        marks.clear(self.catalog, left)
        self.catalog.update.assert_called_once_with(
            left.id, {marks.PROPERTY: None}, present={marks.PROPERTY}
        )

    def test_not_from_what_is_somebody_elses(self) -> None:
        left = self.left(status='active')
        self.catalog.update.side_effect = errors.CloudError('no')
        self.assertEqual(left, marks.clear(self.catalog, left))
        alive = records.kernel(**{marks.PROPERTY: str(marks.UploadRun.this())})
        self.catalog.update.reset_mock()
        self.assertEqual(alive, marks.clear(self.catalog, alive))
        self.catalog.update.assert_not_called()
