# SPDX-License-Identifier: Apache-2.0

"""Whose an AMI is, who lists it, and whether its data can be had."""

import requests
from testtools import matchers

from amiclient import errors
from amiclient.glance.change import update
from amiclient.glance import model
from amiclient.glance import steps
from amiclient import progress
from amiclient.tests.cloud import memory
from amiclient.tests.unit.glance import test_update

LOST = requests.exceptions.ConnectionError('connection reset')


class TestAnswer(test_update.ChangeCase):
    """What the project says that an AMI is shared with."""

    def setUp(self) -> None:
        super().setUp()
        for id in self.glance.images:
            self.glance.members[id] = {'p2': 'pending', 'p3': 'pending'}

    def answer(self, status: str, member: str | None = 'p2') -> list[str]:
        return self.set(membership=status, member=member)

    def statuses(self) -> list[str]:
        return [members['p2'] for members in self.glance.members.values()]

    def test_all_three(self) -> None:
        parts = [f'PUT {n}/members/p2' for n in ('vmlinuz', 'initrd', 'web')]
        for status in ('accepted', 'rejected', 'pending'):
            written = self.answer(status)
            self.assertEqual(parts, [w.partition(' {')[0] for w in written])
            self.assertEqual([status] * 3, self.statuses())
            self.assertEqual([], self.answer(status))
        self.assertEqual(
            f"kernel 'vmlinuz' ({memory.KERNEL}): accepted for project p3",
            next(self.plan(membership='accepted', member='p3').describe()),
        )

    def test_what_needs_no_answer(self) -> None:
        self.glance.change(memory.KERNEL, visibility='public')
        del self.glance.members[memory.RAMDISK]['p2']
        planned = self.plan(membership='accepted', member='p2')
        self.assertEqual(1, len(planned.steps))
        (warning,) = planned.warnings
        self.assertIn(f"ramdisk 'initrd' ({memory.RAMDISK}) is not", warning)
        planned = self.plan(membership='rejected', member='p2')
        self.assertEqual((), planned.warnings)

    def test_refused(self) -> None:
        for member, words in (
            ('p4', 'web.* is not shared with the project p4.* ami add proj'),
            (memory.OWNER, 'belongs to the project p1: there is nothing to'),
            (None, 'no project that could answer; give one with --project'),
        ):
            error = self.assertRaises(
                errors.AmiError, self.answer, 'accepted', member
            )
            self.assertThat(str(error), matchers.MatchesRegex(f'.*{words}'))
        request = update.ChangeRequest(ami='secret', membership='accepted')
        error = self.assertRaises(
            errors.NotFoundError,
            update.plan,
            request,
            self.catalog,
            progress=progress.QUIET,
        )
        self.assertIn('; give its ID', str(error))

    def test_a_failure_takes_all_back(self) -> None:
        for _ in self.each_failure(lambda: self.answer('accepted'), LOST):
            self.assertRaises(errors.CloudError, self.answer, 'accepted')
            self.assertEqual(['pending'] * 3, self.statuses())
        step = steps.Acceptance(
            model.Kind.AMI,
            self.catalog.get(memory.AMI),
            'p2',
            'accepted',
            'rejected',
        )
        self.assertEqual(
            [
                (
                    'openstack',
                    'image',
                    'set',
                    '--reject',
                    '--project',
                    'p2',
                    memory.AMI,
                )
            ],
            step.undoing(),
        )


class TestGiven(test_update.ChangeCase):
    """Owners, and whether data can be had."""

    def owners(self) -> list[str]:
        return [image['owner'] for image in self.glance.images.values()]

    def states(self) -> list[str]:
        return [image['status'] for image in self.glance.images.values()]

    def test_all_three_go_to_another_project(self) -> None:
        written = self.set(owner='p2', linked=True)
        self.assertEqual(
            ['PATCH vmlinuz', 'PATCH initrd', 'PATCH web'], written
        )
        self.assertEqual(['p2'] * 3, self.owners())

    def test_a_kernel_that_stays(self) -> None:
        told = str(self.assertRaises(errors.CloudError, self.plan, owner='p2'))
        self.assertIn('the project p2 could not boot', told)
        self.assertIn('add --linked to give it to that project, too', told)
        self.glance.put('db', memory.OTHER, 'raw', kernel_id=memory.KERNEL)
        request = {'owner': 'p2', 'linked': True}
        told = str(self.assertRaises(errors.CloudError, self.plan, **request))
        self.assertIn(f'image add project {memory.KERNEL} p2', told)
        self.glance.members[memory.KERNEL] = {'p2': 'pending'}
        planned = self.plan(**request)
        self.assertIn(
            "stays in the project p1: needed by 'db'", planned.warnings[0]
        )
        self.assertEqual(2, len(planned.steps))

    def test_activation(self) -> None:
        self.assertEqual([], self.set(activate=True, linked=True))
        actions = [
            f'POST {n}/actions/deactivate'
            for n in ('web', 'vmlinuz', 'initrd')
        ]
        self.assertEqual(actions, self.set(activate=False, linked=True))
        self.assertEqual(['deactivated'] * 3, self.states())
        actions = [
            f'POST {n}/actions/reactivate'
            for n in ('vmlinuz', 'initrd', 'web')
        ]
        self.assertEqual(actions, self.set(activate=True, linked=True))
        self.glance.put('db', memory.OTHER, 'raw', ramdisk_id=memory.RAMDISK)
        planned = self.plan(activate=False, linked=True)
        self.assertEqual(2, len(planned.steps))
        self.assertIn("stays active: needed by 'db'", planned.warnings[0])
        self.glance.change(memory.AMI, status='queued')
        told = str(
            self.assertRaises(errors.CloudError, self.plan, activate=True)
        )
        self.assertIn('it has no data to activate', told)

    def test_a_failure_takes_all_back(self) -> None:
        for id in (memory.KERNEL, memory.AMI):
            self.glance.change(id, status='deactivated')
        request = {'activate': True, 'owner': 'p2', 'linked': True}
        before = self.glance.state()
        for _ in self.each_failure(lambda: self.set(**request), LOST):
            self.assertRaises(errors.CloudError, self.set, **request)
            self.assertEqual(before, self.glance.state())
