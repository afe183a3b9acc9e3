# SPDX-License-Identifier: Apache-2.0

"""Which stores there are, copies from one to others, and their undoing."""

import logging
import os
import signal
from typing import Any
from unittest import mock

import fixtures

from amiclient import errors
from amiclient.glance.change import unset
from amiclient.glance.change import update
from amiclient.glance import client
from amiclient.glance import model
from amiclient.glance import retry
from amiclient.glance import steps
from amiclient.glance import stores
from amiclient.glance.upload import preflight
from amiclient.glance.upload import request
from amiclient import interrupts
from amiclient import progress
from amiclient.tests.cloud import memory
from amiclient.tests.unit.glance import failing
from amiclient.tests.unit.rootfs import samples

QUICK = retry.Patience(attempts=1, poll=0.0, longest=0.0)


class StoresCase(failing.GlanceCase):
    """A test with an AMI in one of three stores; a fourth is read-only."""

    def setUp(self) -> None:
        super().setUp()
        self.log = self.useFixture(fixtures.FakeLogger(level=logging.WARNING))
        self.catalog = client.Catalog(self.catalog._proxy, patience=QUICK)
        self.glance.stores = {'a': True, 'b': True, 'c': True, 'web': False}
        for image in self.glance.images.values():
            image['stores'] = 'a'

    def admin(self, *roles: str) -> None:
        """Have the user be an administrator, or another."""
        roles = roles or ('Admin',)
        self.patch(client.Catalog, 'roles', lambda _: roles)

    def stored(self) -> list[str]:
        """Where the kernel, the ramdisk and the AMI are."""
        return [image['stores'] for image in self.glance.images.values()]

    @property
    def ami(self) -> model.ImageRecord:
        return self.catalog.get(memory.AMI)


class TestSet(StoresCase):
    """Copies of all three images of an AMI."""

    def set(self, *names: str, **more: Any) -> update.ChangePlan:
        wanted = update.ChangeRequest(ami=memory.AMI, stores=names, **more)
        planned = update.plan(wanted, self.catalog, progress=progress.QUIET)
        self.execute(planned)
        return planned

    def execute(self, planned: update.ChangePlan) -> None:
        proxy = self.catalog._proxy
        update.execute(planned, self.catalog, proxy, progress=progress.QUIET)

    def test_all_three(self) -> None:
        self.glance.change(memory.KERNEL, stores='a,b')
        planned = self.set('b', 'c', name='www')
        self.assertEqual(['a,b,c'] * 3, self.stored())
        self.assertEqual(
            [
                f"kernel 'vmlinuz' ({memory.KERNEL}): copy to the store 'c'",
                f"ramdisk 'initrd' ({memory.RAMDISK}): copy to the stores "
                "'b', 'c'",
                f"image 'web' ({memory.AMI}): copy to the stores 'b', 'c'",
                f"image 'web' ({memory.AMI}): set name=www",
            ],
            [*planned.describe()],
        )
        # What is so already is no change.
        self.assertEqual((), self.set('b', 'c').steps)
        self.assertEqual((), self.set(all_stores=True).steps)

    def test_a_kernel_that_is_linked_now(self) -> None:
        self.glance.put('new', memory.OTHER, 'aki', stores='b')
        planned = self.set('c', kernel='new', no_ramdisk=True)
        self.assertEqual(['a', 'a', 'a,c', 'b,c'], self.stored())
        self.assertEqual((), planned.warnings)

    def test_interrupted(self) -> None:
        """While Glance copies: that is waited for, and all is taken back."""
        copy_on, left = self.glance._copy_on, [memory.AMI]

        def look(image: dict[str, Any]) -> None:
            if image['id'] in self.glance.copying and image['id'] in left:
                left.remove(image['id'])
                os.kill(os.getpid(), signal.SIGINT)
            copy_on(image)

        self.patch(self.glance, '_copy_on', look)
        with interrupts.raised():
            error = self.assertRaises(
                interrupts.Interrupted, self.set, 'b', 'c'
            )
        self.assertEqual(['all changes were undone'], error.__notes__)
        self.assertEqual(['a'] * 3, self.stored())
        self.assertEqual({}, self.glance.copying)
        self.assertIn('waiting until the cloud has written', self.log.output)

    def test_what_is_not_there_to_be_copied(self) -> None:
        self.glance.change(memory.RAMDISK, status='deactivated')
        error = self.assertRaises(errors.CloudError, self.set, 'b')
        self.assertIn('is deactivated: it cannot be copied', str(error))
        self.assertEqual([], self.glance.writes)

    def test_a_file_that_is_there(self) -> None:
        kernel = self.tmp() / 'vmlinuz'
        kernel.write_bytes(samples.bzimage())
        hashes = memory.hashes(kernel.read_bytes())
        self.glance.put('new', memory.OTHER, 'aki', stores='b', **hashes)
        self.admin('member')
        planned = self.set('b', kernel=str(kernel))
        self.assertEqual(['a', 'a', 'a', 'b'], self.stored())
        self.glance.change(memory.AMI, kernel_id=memory.KERNEL)
        # Copied, where that is allowed; else it is another one.
        self.admin()
        planned = self.set('b', 'c', kernel=str(kernel))
        self.assertEqual(['a', 'a', 'a', 'b,c'], self.stored())
        self.assertEqual((), planned.uploads)
        self.glance.change(memory.OTHER, stores='b')
        self.admin('member')
        planned = self.set('c', kernel=str(kernel))
        self.assertEqual(['a', 'a', 'a', 'b', 'c'], self.stored())
        (line, *_) = planned.describe()
        self.assertIn("shared, store 'c'", line)

    def unset(self, *names: str, linked: bool = False) -> update.ChangePlan:
        wanted = unset.UnsetRequest(ami='web', stores=names, linked=linked)
        planned = unset.plan(wanted, self.catalog)
        self.execute(planned)
        return planned

    def test_unset(self) -> None:
        for image in self.glance.images.values():
            image['stores'] = 'a,b,c'
        self.unset('a')
        self.assertEqual(['a,b,c', 'a,b,c', 'b,c'], self.stored())
        self.unset('a', 'b', linked=True)
        self.assertEqual(['c'] * 3, self.stored())

    def test_unset_what_others_need(self) -> None:
        for image in self.glance.images.values():
            image['stores'] = 'a,b'
        self.glance.put(
            'db', memory.OTHER, 'ami', kernel_id=memory.KERNEL, stores='a'
        )
        self.glance.change(memory.RAMDISK, stores='b')
        planned = self.unset('b', linked=True)
        self.assertEqual(['a,b', 'b', 'a'], self.stored()[:3])
        kernel, ramdisk = planned.notes
        self.assertIn("keeps its copy in the store 'b': needed by", kernel)
        self.assertIn('it has no other', ramdisk)

    def test_unset_is_undone(self) -> None:
        for image in self.glance.images.values():
            image['stores'] = 'a,b,c'
        refused = memory.Answer(403, {'message': 'No delete_image_location'})
        for _ in self.each_failure(
            lambda: self.unset('a', 'b', linked=True), refused
        ):
            error = self.assertRaises(
                errors.CloudError, self.unset, 'a', 'b', linked=True
            )
            self.assertIn('only administrators', str(error))
            there = [{*stored.split(',')} for stored in self.stored()]
            self.assertEqual([{'a', 'b', 'c'}] * 3, there)

    def test_unset_is_refused(self) -> None:
        for names, words in (
            (('b',), "has no copy in the store 'b'"),
            (('a',), "has no copy but in the store 'a'; copy it to"),
        ):
            error = self.assertRaises(errors.CloudError, self.unset, *names)
            self.assertIn(words, str(error))
        self.assertEqual([], self.glance.writes)


class TestChoose(StoresCase):
    def refused(self, *names: str, every: bool = False) -> str:
        error = self.assertRaises(
            errors.CloudError,
            stores.choose,
            self.catalog,
            names,
            every=every,
        )
        return str(error)

    def test_what_is_meant(self) -> None:
        self.glance.stores = {'b': True, **self.glance.stores}
        for names, every, chosen in (
            ((), False, ()),
            (('c', 'a', 'c'), False, ('c', 'a')),
            ((), True, ('b', 'a', 'c')),
        ):
            found = stores.choose(self.catalog, names, every=every)
            self.assertEqual(chosen, found)

    def test_the_default_comes_first(self) -> None:
        known = (
            model.ImageStore('a'),
            model.ImageStore('b', default=True),
        )
        catalog = mock.create_autospec(client.Catalog, instance=True)
        catalog.stores.return_value = known
        self.assertEqual(('b', 'a'), stores.choose(catalog, (), every=True))

    def test_what_cannot_be_written(self) -> None:
        for name, why in (
            ('web', "the store 'web' is read-only"),
            ('x', "this cloud has no store 'x'"),
        ):
            self.assertEqual(
                f'{why}; choose one of: a, b, c', self.refused('a', name)
            )

    def test_no_choice(self) -> None:
        self.glance.stores = {}
        self.assertIn('leave out --store', self.refused('a'))
        self.assertIn('leave out --all-stores', self.refused(every=True))

    def test_who_may_copy(self) -> None:
        for roles, methods, may in (
            (('admin', 'member'), ['copy-image'], True),
            (('member',), ['copy-image'], False),
            (('admin',), ['glance-direct'], False),
            ((), ['copy-image'], False),
        ):
            self.patch(client.Catalog, 'roles', lambda _, r=roles: r)
            self.glance.methods = methods
            self.assertEqual(may, stores.may_copy(self.catalog))
            settings = request.Settings(stores=('b',))
            settled = preflight.settle_stores(self.catalog, settings)
            self.assertEqual(may, settled.may_copy)


class TestCopies(StoresCase):
    def apply(self, *names: str, **more: Any) -> None:
        step = steps.Copies(model.Kind.AMI, self.ami, names, **more)
        steps.execute(steps.Plan(steps=(step,)), self.catalog)

    def test_to_some(self) -> None:
        self.apply('b', 'a', 'c')
        self.assertEqual(
            'a,b,c', self.ami.stores and ','.join(self.ami.stores)
        )
        (write,) = self.glance.writes
        self.assertIn('"stores": ["b", "c"]', write)
        self.assertNotIn(stores.TASK, self.ami.properties)

    def test_what_is_there_is_not_copied(self) -> None:
        self.apply('a')
        self.assertEqual([], self.glance.writes)

    def test_another_is_not_through(self) -> None:
        self.catalog.import_data(memory.AMI, stores.COPY, ('b',))
        self.apply('b', 'c')
        self.assertEqual(('a', 'b', 'c'), self.ami.stores)

    def test_a_store_fails(self) -> None:
        self.glance.broken_stores = {'c'}
        error = self.assertRaises(errors.TransferError, self.apply, 'b', 'c')
        self.assertIn("to the stores 'b', 'c'", str(error))
        self.assertEqual(('a',), self.ami.stores)

    def test_a_store_may_fail(self) -> None:
        self.glance.broken_stores = {'c'}
        self.apply('b', 'c', all_must=False)
        self.assertEqual(('a', 'b'), self.ami.stores)
        self.assertIn("not be copied to the store 'c'", self.log.output)

    def test_one_must_succeed(self) -> None:
        self.glance.broken_stores = {'b', 'c'}
        self.assertRaises(
            errors.TransferError, self.apply, 'b', 'c', all_must=False
        )

    def test_no_end(self) -> None:
        self.glance.change(memory.AMI, **{stores.TASK: 't'}, size=0)
        patience = retry.Patience(poll=0.0, longest=0.0, settle=0.0)
        catalog = client.Catalog(self.catalog._proxy, patience=patience)
        error = self.assertRaises(
            errors.TransferError, stores.through, catalog, memory.AMI
        )
        self.assertIn('--timeout', str(error))

    def test_given_up(self) -> None:
        """Glance may forget to say that it is through with an image."""
        self.glance.change(memory.AMI, **{stores.TASK: 't'}, status='queued')
        patience = retry.Patience(poll=0.0, longest=0.0, settle=0.0)
        catalog = client.Catalog(self.catalog._proxy, patience=patience)
        for id, status in (('t', 'processing'), ('other', 'failure')):
            self.glance.tasks = [{'id': id, 'status': status}]
            self.assertRaises(
                errors.TransferError, stores.through, catalog, memory.AMI
            )
        self.glance.tasks = [{'id': 't', 'status': 'failure'}]
        image = stores.through(catalog, memory.AMI)
        self.assertEqual('queued', image.status)

    def test_undone(self) -> None:
        """Whatever is under way when it fails, copies are deleted again."""
        kernel = self.catalog.get(memory.KERNEL)
        plan = steps.Plan(
            steps=(
                steps.Copies(model.Kind.AKI, kernel, ('b',)),
                steps.Copies(model.Kind.AMI, self.ami, ('b', 'c')),
            )
        )
        refused = memory.Answer(403, {'message': 'You are not authorized'})
        for _ in self.each_failure(
            lambda: steps.execute(plan, self.catalog), refused, LookupError()
        ):
            before = self.stored()
            self.assertRaises(
                (errors.CloudError, LookupError),
                steps.execute,
                plan,
                self.catalog,
            )
            self.assertEqual(before, self.stored())

    def test_deleted_and_undone(self) -> None:
        self.glance.change(memory.AMI, stores='a,b,c')
        self.apply('c', 'b', present=False)
        self.assertEqual(('a',), self.ami.stores)
        self.glance.change(memory.AMI, stores='a,b,c')
        step = steps.Copies(model.Kind.AMI, self.ami, ('b',), present=False)
        step.apply(self.catalog)
        step.undo(self.catalog)
        self.assertEqual({'a', 'b', 'c'}, {*self.ami.stores})

    def test_interrupted(self) -> None:
        """Glance has to be through before a copy can be deleted."""

        def sleep(clock: retry.Clock, seconds: float) -> None:
            raise interrupts.Interrupted(signal.SIGINT)

        self.patch(retry.Clock, 'sleep', sleep)
        self.assertRaises(interrupts.Interrupted, self.apply, 'b', 'c')
        self.assertIn('waiting until the cloud', self.log.output)
        self.assertEqual(('a',), self.ami.stores)
        self.assertNotIn(stores.TASK, self.ami.properties)

    def test_commands_that_undo(self) -> None:
        changes = steps.Changes(self.catalog)
        kernel = self.catalog.get(memory.KERNEL)
        changes._begun += [
            steps.Copies(model.Kind.AKI, kernel, ('b',)),
            steps.Copies(model.Kind.AMI, self.ami, ('b', 'a')),
            steps.Copies(model.Kind.AMI, self.ami, ('a',), present=False),
        ]
        self.assertEqual(
            [
                'openstack image import --method copy-image --store a -- '
                f'{memory.AMI}',
                f'openstack image delete --store b {memory.AMI}',
                f'openstack image delete --store b {memory.KERNEL}',
            ],
            changes.undoing().split(' && '),
        )
