# SPDX-License-Identifier: Apache-2.0

"""A triple that is shared with projects, and no longer."""

import requests

from amiclient import errors
from amiclient.glance.change import share
from amiclient.glance import steps
from amiclient.tests.cloud import memory
from amiclient.tests.unit.glance import failing

LOST = requests.exceptions.ConnectionError('connection reset')
REFUSED = memory.Answer(403, {'message': 'You are not authorized to ...'})

P2 = '2' * 32
P3 = '3' * 32


class SharingCase(failing.GlanceCase):
    def add(self, *projects: str) -> share.SharePlan:
        planned = share.plan_add(self.catalog, 'web', projects)
        steps.execute(planned, self.catalog)
        return planned

    def remove(self, *projects: str) -> share.SharePlan:
        planned = share.plan_remove(self.catalog, 'web', projects)
        steps.execute(planned, self.catalog)
        return planned

    def shared(self) -> list[list[str]]:
        return [
            sorted(self.glance.members[id])
            for id in (memory.KERNEL, memory.RAMDISK, memory.AMI)
        ]


class TestAdd(SharingCase):
    def test_parts_first(self) -> None:
        planned = self.add(P2, P3, P2)
        self.assertEqual([[P2, P3]] * 3, self.shared())
        names = [line.split()[1] for line in self.glance.writes]
        self.assertEqual(
            [
                f'{name}/members'
                for name in ('vmlinuz', 'initrd', 'web')
                for _ in (P2, P3)
            ],
            names,
        )
        self.assertEqual((), planned.warnings)
        self.assertEqual(
            f"kernel 'vmlinuz' ({memory.KERNEL}): share with project {P2}",
            next(planned.describe()),
        )

    def test_what_is_shared_already(self) -> None:
        for members in self.glance.members.values():
            members[P2] = 'accepted'
        self.assertEqual((), self.add(P2).steps)
        self.assertEqual([], self.glance.writes)
        # Somebody else was quicker.
        planned = share.plan_add(self.catalog, 'web', [P3])
        self.glance.members[memory.RAMDISK][P3] = 'pending'
        steps.execute(planned, self.catalog)
        self.assertEqual([[P2, P3]] * 3, self.shared())

    def test_the_owner_needs_nothing(self) -> None:
        planned = share.plan_add(self.catalog, 'web', [memory.OWNER])
        self.assertEqual((), planned.steps)

    def test_private_ones_become_shared(self) -> None:
        self.glance.change(memory.KERNEL, visibility='private')
        self.glance.change(memory.AMI, visibility='private')
        planned = self.add(P2)
        self.assertEqual([[P2]] * 3, self.shared())
        self.assertEqual(2, len(planned.warnings))
        self.assertIn('is private, and becomes shared', planned.warnings[0])
        self.assertEqual([], self.glance.broken)

    def test_open_ones_need_nothing(self) -> None:
        self.glance.change(memory.KERNEL, visibility='public', owner='p9')
        planned = self.add(P2)
        self.assertEqual([[], [P2], [P2]], self.shared())
        self.assertIn('is public: every project', planned.warnings[0])

    def test_another_projects_kernel(self) -> None:
        self.glance.change(memory.KERNEL, owner='p9')
        self.glance.members[memory.KERNEL] = {memory.OWNER: 'accepted'}
        error = self.assertRaises(errors.CloudError, self.add, P2)
        self.assertIn('belongs to the project p9', str(error))
        self.assertEqual([], self.glance.writes)

    def test_a_kernel_that_is_gone(self) -> None:
        del self.glance.images[memory.KERNEL]
        error = self.assertRaises(errors.CloudError, self.add, P2)
        self.assertIn(f'ami set --kernel FILE {memory.AMI}', str(error))
        self.assertEqual([], self.glance.writes)

    def test_what_does_not_look_like_an_id(self) -> None:
        (warning,) = self.add('demo').warnings
        self.assertIn("'demo' is used as the ID", warning)

    def test_a_failure_takes_all_back(self) -> None:
        self.glance.change(memory.KERNEL, visibility='private')
        before = self.glance.state()
        for _ in self.each_failure(lambda: self.add(P2, P3), REFUSED, LOST):
            self.assertRaises(errors.CloudError, self.add, P2, P3)
            self.assertEqual(before, self.glance.state())
            self.assertEqual([], self.glance.broken)

    def test_what_the_other_side_does(self) -> None:
        self.glance.change(memory.RAMDISK, visibility='public')
        self.glance.members[memory.KERNEL] = {P2: 'accepted'}
        planned = self.add(P2)
        shared = share.shared(planned, self.catalog)
        self.assertEqual(
            ['accepted', None, 'pending'], [each.status for each in shared]
        )
        self.assertEqual(
            f'  openstack ami set --accept {memory.AMI}',
            [*share.advice(shared)][-1],
        )

    def test_what_the_other_side_has_rejected(self) -> None:
        self.glance.members[memory.KERNEL] = {P2: 'rejected', P3: 'accepted'}
        self.glance.members[memory.RAMDISK] = {P2: 'accepted'}
        self.glance.members[memory.AMI] = {P2: 'rejected', P3: 'rejected'}
        shared = share.shared(self.add(P2, P3), self.catalog)
        kernel = f"the kernel 'vmlinuz' ({memory.KERNEL})"
        image = f"the image 'web' ({memory.AMI})"
        accept = f'  openstack ami set --accept {memory.AMI}'
        self.assertEqual(
            [
                'for their lists to show it, the projects have to accept it:',
                accept,
                f'the project {P2} has rejected {kernel} and {image}; its '
                'members can still accept it:',
                accept,
                f'the project {P3} has rejected {image}; its members can '
                'still accept it:',
                accept,
            ],
            [*share.advice(shared)],
        )


class TestRemove(SharingCase):
    def setUp(self) -> None:
        super().setUp()
        for members in self.glance.members.values():
            members.update({P2: 'accepted', P3: 'pending'})

    def test_the_ami_first(self) -> None:
        self.remove(P2)
        self.assertEqual([[P3]] * 3, self.shared())
        self.assertEqual(
            [f'{name}/members/{P2}' for name in ('web', 'initrd', 'vmlinuz')],
            [line.split()[1] for line in self.glance.writes],
        )

    def test_who_is_no_member(self) -> None:
        planned = self.remove('4' * 32)
        self.assertEqual((), planned.steps)
        self.assertIn('is not shared with', planned.warnings[0])

    def test_a_kernel_that_another_ami_needs(self) -> None:
        self.glance.put(
            'db', 'db', 'raw', kernel_id=memory.KERNEL, shared_with=(P2,)
        )
        planned = self.remove(P2, P3)
        self.assertEqual([[P2], [], []], self.shared())
        self.assertIn("needed by 'db' (db)", planned.warnings[0])
        self.assertEqual([], self.glance.broken)

    def test_what_everybody_sees(self) -> None:
        self.glance.change(memory.AMI, visibility='community')
        error = self.assertRaises(errors.CloudError, self.remove, P2)
        self.assertIn('--linked --shared', str(error))

    def test_another_projects_kernel_is_not_ours_to_withdraw(self) -> None:
        self.glance.change(memory.KERNEL, owner='p9')
        self.remove(P2)
        self.assertEqual([[P2, P3], [P3], [P3]], self.shared())

    def test_a_failure_takes_all_back(self) -> None:
        before = self.glance.state()
        for _ in self.each_failure(lambda: self.remove(P2), REFUSED, LOST):
            self.assertRaises(errors.CloudError, self.remove, P2)
            self.assertEqual(before, self.glance.state())
            self.assertEqual([], self.glance.broken)
