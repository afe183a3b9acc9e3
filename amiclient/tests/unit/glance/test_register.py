# SPDX-License-Identifier: Apache-2.0


import contextlib
import dataclasses
import threading
from unittest import mock

import fixtures

from amiclient import errors
from amiclient.ext import layout
from amiclient.ext import shrink
from amiclient.glance import client
from amiclient.glance import model
from amiclient.glance.transfer import upload
from amiclient.glance.upload import marks
from amiclient.glance.upload import register
from amiclient.glance.upload import request
from amiclient import interrupts
from amiclient import progress
from amiclient.tests import base
from amiclient.tests.unit.glance import records

#: Seconds after which what should have happened has not.
LATE = 60

#: How an image is changed for the last time.
DONE = "{'amiclient_upload': None}"
PROTECTED = "{'protected': True, 'amiclient_upload': None}"


class TestCase(base.TestCase):
    """A triple that is registered by stand-ins of Glance and shrink."""

    def setUp(self):
        super().setUp()
        self.log = self.useFixture(fixtures.FakeLogger())
        self.directory = self.tmp()
        self.copy = self.directory / 'copy.img'
        self.events = []
        self.cloud = mock.create_autospec(client.Catalog, instance=True)
        self.cloud.within.return_value = self.cloud
        self.cloud.create.side_effect = self.create
        self.cloud.get.return_value = records.kernel()
        self.cloud.delete.side_effect = lambda i: self.note('delete', i)
        self.cloud.update.side_effect = self.update
        self.made = {}
        for where, name, by in (
            (client, 'Catalog', lambda proxy, **kwargs: self.cloud),
            (upload, 'send', self.send),
            (shrink, 'execute', self.shrink),
        ):
            patch = mock.patch.object(where, name, by)
            patch.start()
            self.addCleanup(patch.stop)

    def note(self, event, image_id):
        record = self.made.get(image_id)
        self.events.append((event, record.name if record else image_id))

    def create(self, new):
        record = records.created(new)
        self.made[record.id] = record
        self.note('create', record.id)
        return record

    def update(self, image_id, changes, *, present=None):
        self.note(str({**changes}), image_id)
        before = self.made[image_id]
        last = {k: v for k, v in changes.items() if v is not None}
        return records.record(id=image_id, name=before.name, **last)

    def send(self, transfer, *args, **options):
        image_id, payload = transfer.image_id, transfer.payload
        self.note('send', image_id)
        record = records.record(
            id=image_id,
            name=self.made[image_id].name,
            size=payload.size,
            min_disk=1,
            **self.made[image_id].properties,
        )
        return model.Sent(record, payload.size, 'f' * 128)

    def shrink(self, planned, *, progress, cancel, size=3 * 2**20):
        self.copy = planned.output
        self.copy.write_bytes(b'shrunk')
        self.events.append(('shrink', 'root'))
        return mock.Mock(spec=shrink.Shrunk, output=self.copy, size=size)

    def plan(self, *, kernel=None, ramdisk=None, **settings):
        def creation(name, kind):
            new = model.NewImage(name, kind.value, kind.value)
            return request.Creation(
                kind, new, model.Payload(self.directory / name, 1000)
            )

        return request.RegisterPlan(
            ami=creation('root', model.Kind.AMI),
            kernel=kernel or creation('vmlinuz', model.Kind.AKI),
            ramdisk=ramdisk or creation('initrd', model.Kind.ARI),
            shrink=shrink.ShrinkPlan(
                request=mock.Mock(spec=shrink.ShrinkRequest),
                image=mock.Mock(spec=layout.RootImage),
                output=self.copy,
                in_place=False,
                recover=False,
                directory=self.directory,
                filesystem='ext4',
                block_size=4096,
                block_count=3 * 256,
                size_before=2**30,
                in_use=2**20,
                lower_bound=2**20,
                room=0,
            ),
            settings=request.Settings(**settings),
        )

    def execute(self, plan):
        return register.execute(plan, None, progress=progress.QUIET)

    def failing(self, kind, plan):
        error = self.assertRaises(kind, self.execute, plan)
        self.assertFalse(self.copy.exists())
        return error

    def deleted(self):
        return [name for event, name in self.events if event == 'delete']


class TestExecute(TestCase):
    def test_the_order(self):
        triple = self.execute(self.plan())
        create = [e for e in self.events if e[0] == 'create']
        self.assertEqual(
            [('create', n) for n in ('vmlinuz', 'initrd', 'root')], create
        )
        self.assertEqual(create, self.events[:3])
        # The AMI's data comes last.
        self.assertEqual(('send', 'root'), self.events[-4])
        # The kernel is the last to lose its mark: others may use it then.
        self.assertEqual(
            [(DONE, n) for n in ('root', 'initrd', 'vmlinuz')],
            self.events[-3:],
        )
        self.assertEqual(2000 + 3 * 2**20, triple.uploaded)
        self.assertEqual((), triple.reused)

    def test_what_is_told_with_v(self):
        there = request.Reuse(model.Kind.AKI, records.kernel())
        planned = self.plan(kernel=there)
        way = dataclasses.replace(planned.ramdisk, way='put')
        self.execute(dataclasses.replace(planned, ramdisk=way))
        title = records.kernel().title
        self.assertIn(
            f'the kernel {title} is in the cloud already: it is reused\n'
            "the ramdisk 'initrd' is created; its data goes by put\n",
            self.log.output,
        )

    def test_the_ami_has_its_links_from_the_start(self):
        triple = self.execute(self.plan())
        kernel, ramdisk, ami = (
            call.args[0] for call in self.cloud.create.call_args_list
        )
        mark = {marks.PROPERTY: str(marks.UploadRun.this())}
        self.assertEqual(
            {'kernel_id': kernel.id, 'ramdisk_id': ramdisk.id, **mark},
            ami.properties,
        )
        self.assertEqual(kernel.id, triple.kernel.id)
        self.assertEqual(mark, ramdisk.properties)

    def test_nothing_is_marked_where_the_cloud_refuses_that(self):
        self.execute(dataclasses.replace(self.plan(), marked=False))
        for call in self.cloud.create.call_args_list:
            self.assertNotIn(marks.PROPERTY, call.args[0].properties)
        self.cloud.update.assert_not_called()

    def test_the_copy_goes(self):
        self.execute(self.plan())
        self.assertIn(('shrink', 'root'), self.events)
        self.assertFalse(self.copy.exists())

    def test_what_is_reused_is_linked_and_not_touched(self):
        plan = self.plan(
            kernel=request.Reuse(model.Kind.AKI, records.kernel()),
            protected=True,
        )
        triple = self.execute(plan)
        self.assertEqual((records.kernel().id,), triple.reused)
        self.assertEqual('vmlinuz', triple.kernel.name)
        self.assertEqual(
            [PROTECTED] * 2,
            [e[0] for e in self.events if 'protected' in e[0]],
        )
        touched = {name for _, name in self.events}
        self.assertEqual({'initrd', 'root'}, touched)

    def test_protection_comes_last(self):
        self.execute(self.plan(protected=True))
        self.assertEqual(
            [(PROTECTED, n) for n in ('root', 'initrd', 'vmlinuz')],
            self.events[-3:],
        )

    def test_a_result_beyond_the_bound_raises_min_disk(self):
        def grown(planned, **options):
            return self.shrink(planned, **options, size=2**30 + 1)

        with mock.patch.object(shrink, 'execute', grown):
            self.execute(self.plan())
        self.assertIn(
            ("{'min_disk': 2, 'amiclient_upload': None}", 'root'), self.events
        )


class TestFailure(TestCase):
    def test_a_create_that_is_refused(self):
        def refuse(new):
            if new.name == 'initrd':
                raise errors.CloudError('quota', status=413)
            return self.create(new)

        self.cloud.create.side_effect = refuse
        self.failing(errors.CloudError, self.plan())
        self.assertEqual(['vmlinuz'], self.deleted())

    def test_the_last_data(self):
        real = self.send

        def fail(transfer, *args, **options):
            if self.made[transfer.image_id].name == 'root':
                raise errors.TransferError('another hash')
            return real(transfer, *args, **options)

        with mock.patch.object(upload, 'send', fail):
            error = self.failing(errors.TransferError, self.plan())
        self.assertEqual(['root', 'initrd', 'vmlinuz'], self.deleted())
        self.assertEqual(['nothing was left behind'], error.__notes__)

    def test_what_is_reused_stays(self):
        plan = self.plan(
            kernel=request.Reuse(model.Kind.AKI, records.kernel())
        )
        with mock.patch.object(
            shrink,
            'execute',
            autospec=True,
            side_effect=errors.DamagedError('x'),
        ):
            self.failing(errors.DamagedError, plan)
        self.assertEqual(['root', 'initrd'], self.deleted())

    def test_a_shrink_that_fails_ends_the_sending(self):
        sending = threading.Event()
        ended = threading.Event()

        def send(transfer, *args, **options):
            sending.set()
            if transfer.cancel.wait(LATE):
                ended.set()
            raise errors.CancelledError('given up')

        def fail(planned, **options):
            sending.wait(LATE)
            raise errors.DamagedError('damaged')

        with (
            mock.patch.object(upload, 'send', send),
            mock.patch.object(shrink, 'execute', fail),
        ):
            self.failing(errors.DamagedError, self.plan())
        self.assertTrue(ended.is_set())
        self.assertEqual(3, len(self.deleted()))

    def test_a_sending_that_fails_ends_the_shrink(self):
        def send(transfer, *args, **options):
            raise errors.TransferError('no route')

        def wait(planned, *, progress, cancel):
            self.copy = planned.output
            self.copy.write_bytes(b'half')
            self.assertTrue(cancel.wait(LATE))
            raise errors.CancelledError('given up')

        with (
            mock.patch.object(upload, 'send', send),
            mock.patch.object(shrink, 'execute', wait),
        ):
            # The reason is told, not that the shrink was given up.
            self.failing(errors.TransferError, self.plan())
        self.assertEqual(3, len(self.deleted()))

    def test_ctrl_c_while_shrinking(self):
        with mock.patch.object(
            shrink,
            'execute',
            autospec=True,
            side_effect=interrupts.Interrupted(2),
        ):
            error = self.failing(interrupts.Interrupted, self.plan())
        self.assertEqual(['nothing was left behind'], error.__notes__)
        self.assertEqual(3, len(self.deleted()))

    def test_protection_that_is_refused(self):
        def refuse(image_id, changes, **options):
            name = self.made[image_id].name
            if changes.get('protected') and name == 'vmlinuz':
                raise errors.CloudError('no', status=403)
            return self.update(image_id, changes)

        self.cloud.update.side_effect = refuse
        self.failing(errors.CloudError, self.plan(protected=True))
        # None that was protected could be deleted.
        for name in ('root', 'initrd'):
            self.assertLess(
                self.events.index(("{'protected': False}", name)),
                self.events.index(('delete', name)),
            )
        self.assertEqual(3, len(self.deleted()))

    def test_keep_failed(self):
        with (
            mock.patch.object(
                shrink,
                'execute',
                autospec=True,
                side_effect=errors.DamagedError('x'),
            ),
            contextlib.suppress(errors.DamagedError),
        ):
            self.execute(self.plan(keep_failed=True))
        self.assertEqual([], self.deleted())
        self.assertIn('openstack image delete', self.log.output)


class TestPart(TestCase):
    def creation(self):
        return request.Creation(
            model.Kind.AKI,
            model.NewImage('vmlinuz', 'aki', 'aki'),
            model.Payload(self.directory / 'vmlinuz', 1000),
        )

    def execute_part(self, step, **settings):
        plan = request.PartPlan(step, request.Settings(**settings))
        return register.execute_part(plan, None, progress=progress.QUIET)

    def test_one_image(self):
        done = self.execute_part(self.creation(), protected=True)
        self.assertEqual(1000, done.uploaded)
        self.assertEqual(
            [
                ('create', 'vmlinuz'),
                ('send', 'vmlinuz'),
                (PROTECTED, 'vmlinuz'),
            ],
            self.events,
        )

    def test_one_that_is_there(self):
        done = self.execute_part(
            request.Reuse(model.Kind.AKI, records.kernel())
        )
        self.assertEqual((records.kernel().id,), done.reused)
        self.assertEqual(0, done.uploaded)
        self.assertEqual([], self.events)

    def test_a_failure(self):
        error = errors.TransferError('no')
        with mock.patch.object(
            upload, 'send', autospec=True, side_effect=error
        ):
            self.assertRaises(
                errors.TransferError, self.execute_part, self.creation()
            )
        self.assertEqual(['vmlinuz'], self.deleted())
