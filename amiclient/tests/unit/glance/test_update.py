# SPDX-License-Identifier: Apache-2.0

"""Changes to a triple: their order, and how they are taken back."""

import copy
import itertools
import signal
from typing import Any

import requests

from amiclient import errors
from amiclient.glance.change import unset
from amiclient.glance.change import update
from amiclient.glance import model
from amiclient import interrupts
from amiclient import progress
from amiclient.tests.cloud import memory
from amiclient.tests.unit.glance import failing

REFUSED = memory.Answer(403, {'message': 'You are not authorized to ...'})
LOST = requests.exceptions.ConnectionError('connection reset')


class ChangeCase(failing.GlanceCase):
    def plan(self, **request: Any) -> update.ChangePlan:
        return update.plan(
            update.ChangeRequest(ami='web', **request),
            self.catalog,
            progress=progress.QUIET,
        )

    def execute(self, planned: update.ChangePlan) -> None:
        update.execute(
            planned, self.catalog, self.catalog._proxy, progress=progress.QUIET
        )

    def set(self, **request: Any) -> list[str]:
        self.glance.writes = []
        self.execute(self.plan(**request))
        return [line.partition(' [')[0] for line in self.glance.writes]

    def visibilities(self) -> list[str]:
        return [image['visibility'] for image in self.glance.images.values()]


class TestSet(ChangeCase):
    def test_everything_in_one_request(self) -> None:
        self.glance.change(memory.AMI, tags=['a'], os_type='linux')
        written = self.set(
            name='www',
            min_disk=2,
            min_ram=512,
            protected=True,
            hidden=True,
            tags=('b', 'a'),
            properties={'os_distro': 'debian', 'os_type': 'linux'},
        )
        self.assertEqual(['PATCH web'], written)
        image = self.glance.images[memory.AMI]
        self.assertEqual(
            ('www', 2, 512, True, True, ['a', 'b'], 'debian'),
            tuple(
                image[key]
                for key in (
                    'name',
                    'min_disk',
                    'min_ram',
                    'protected',
                    'os_hidden',
                    'tags',
                    'os_distro',
                )
            ),
        )
        # What is so already is not sent.
        self.assertNotIn('os_type', self.glance.writes[0])

    def test_what_is_so_already_is_no_change(self) -> None:
        self.assertEqual([], self.set(name='web', visibility='shared'))

    def test_a_dry_run_tells_the_steps(self) -> None:
        planned = self.plan(
            name='www', visibility='public', linked=True, no_ramdisk=True
        )
        self.assertEqual(
            [
                f"kernel 'vmlinuz' ({memory.KERNEL}): set visibility=public",
                f"image 'web' ({memory.AMI}): set name=www, "
                'visibility=public and remove ramdisk_id',
            ],
            list(planned.describe()),
        )
        self.assertEqual([], self.glance.writes)

    def test_links_to_what_is_there(self) -> None:
        self.glance.put('vmlinuz-7', memory.OTHER, 'aki')
        planned = self.plan(kernel='vmlinuz-7', no_ramdisk=True)
        self.execute(planned)
        image = self.glance.images[memory.AMI]
        self.assertEqual(memory.OTHER, image['kernel_id'])
        self.assertNotIn('ramdisk_id', image)
        kernel, ramdisk = planned.notes
        self.assertIn(f'ami kernel delete {memory.KERNEL}', kernel)
        self.assertIn(f'ami ramdisk delete {memory.RAMDISK}', ramdisk)

    def test_an_old_kernel_that_others_need(self) -> None:
        self.glance.put('vmlinuz-7', memory.OTHER, 'aki')
        self.glance.put(
            'db', 'db', 'raw', kernel_id=memory.KERNEL, os_hidden=True
        )
        (note,) = self.plan(kernel='vmlinuz-7').notes
        self.assertIn("needed by 'db' (db)", note)
        self.assertNotIn('delete', note)

    def test_the_kernel_that_is_linked_already(self) -> None:
        planned = self.plan(kernel='vmlinuz')
        self.assertEqual((), planned.steps)
        self.assertIn('was linked already', planned.notes[0])

    def test_an_image_that_becomes_an_ami(self) -> None:
        self.glance.put('plain', memory.OTHER, 'raw')
        request = update.ChangeRequest(ami='plain', kernel='vmlinuz')
        self.execute(
            update.plan(request, self.catalog, progress=progress.QUIET)
        )
        self.assertEqual(
            memory.KERNEL, self.glance.images[memory.OTHER]['kernel_id']
        )


class TestRefused(ChangeCase):
    def refused(self, **request: Any) -> str:
        error = self.assertRaises(errors.AmiError, self.plan, **request)
        self.assertEqual([], self.glance.writes)
        return str(error)

    def test_a_kernel_that_fewer_can_see(self) -> None:
        for ami, kernel, members, is_refused in (
            ('public', 'shared', (), True),
            ('community', 'private', (), True),
            ('public', 'community', (), False),
            ('shared', 'private', (), False),
            ('shared', 'private', ('p2',), True),
            ('shared', 'shared', ('p2',), True),
            ('private', 'private', (), False),
        ):
            self.glance.put('k', memory.OTHER, 'aki', visibility=kernel)
            self.glance.change(memory.AMI, visibility=ami)
            self.glance.members[memory.AMI] = dict.fromkeys(members, 'pending')
            if not is_refused:
                self.plan(kernel='k')
                continue
            told = self.refused(kernel='k')
            self.assertIn(f"kernel 'k' ({memory.OTHER}) is {kernel}", told)
            self.assertIn('--linked', told)

    def test_an_ami_that_more_could_see_than_its_kernel(self) -> None:
        told = self.refused(visibility='public')
        self.assertIn('other projects could not boot', told)
        # It was so before: who only wants another name gets it.
        self.glance.change(memory.AMI, visibility='public')
        self.assertEqual(['PATCH web'], self.set(name='www'))

    def test_another_projects_kernel(self) -> None:
        self.glance.put(
            'k', memory.OTHER, 'aki', owner='p9', shared_with=('p1',)
        )
        self.assertEqual(1, len(self.plan(kernel='k').steps))
        for linked in (False, True):
            told = self.refused(
                kernel='k', visibility='community', linked=linked
            )
            self.assertIn('belongs to the project p9', told)
            self.assertIn('--kernel a file', told)

    def test_others(self) -> None:
        gib = 2**30
        self.glance.change(memory.AMI, size=3 * gib, architecture='aarch64')
        self.glance.change(memory.KERNEL, architecture='x86_64')
        self.glance.put('k', memory.OTHER, 'aki', architecture='amd64')
        for request, words in (
            ({'min_disk': 2}, 'needs 3 GiB'),
            ({'properties': {'kernel_id': 'x'}}, '--kernel'),
            ({'properties': {'name': 'x'}}, 'attribute'),
            ({'kernel': 'initrd'}, 'is not a kernel'),
            ({'kernel': 'k'}, '--architecture amd64'),
            ({'kernel': 'nosuch'}, 'neither a file here nor an image'),
            ({'kernel_name': 'x'}, '--kernel a file'),
            ({'stores': ('fast',)}, 'leave out --store'),
            ({'kernel': 'vmlinuz', 'reuse': False}, '--no-reuse: there is'),
        ):
            self.assertIn(words, self.refused(**request))

    def test_no_ami(self) -> None:
        for name, format, words in (
            ('k', 'aki', 'is a kernel'),
            ('plain', 'qcow2', 'has no link to a kernel'),
        ):
            self.glance.put(name, memory.OTHER, format)
            error = self.assertRaises(
                errors.CloudError,
                update.plan,
                update.ChangeRequest(ami=name, name='x'),
                self.catalog,
                progress=progress.QUIET,
            )
            self.assertIn(words, str(error))

    def test_a_ramdisk_without_a_kernel(self) -> None:
        del self.glance.images[memory.AMI]['kernel_id']
        self.assertIn('give --kernel', self.refused(ramdisk='initrd'))

    def test_linked_to_what_is_gone(self) -> None:
        del self.glance.images[memory.KERNEL]
        told = self.refused(visibility='public', linked=True)
        self.assertIn(memory.KERNEL, told)
        self.assertEqual(['PATCH web'], self.set(protected=True))


class TestLinked(ChangeCase):
    def test_widens_parts_first_and_narrows_them_last(self) -> None:
        parts = ['PATCH vmlinuz', 'PATCH initrd']
        self.assertEqual(
            [*parts, 'PATCH web'],
            self.set(visibility='public', linked=True),
        )
        self.assertEqual(['public'] * 3, self.visibilities())
        self.assertEqual(
            ['PATCH web', *parts],
            self.set(visibility='private', linked=True),
        )
        self.assertEqual(['private'] * 3, self.visibilities())

    def test_nobody_ever_sees_an_ami_without_its_kernel(self) -> None:
        before = copy.deepcopy(self.glance.images)
        for old, new in itertools.permutations(model.VISIBILITIES, 2):
            self.glance.images = copy.deepcopy(before)
            for id in self.glance.images:
                self.glance.change(id, visibility=old)
                self.glance.members[id] = {'p2': 'accepted'}
            self.set(visibility=new, linked=True)
            self.assertEqual([new] * 3, self.visibilities())
            self.assertEqual([], self.glance.broken, (old, new))

    def test_nor_if_something_fails(self) -> None:
        for old, new in (('shared', 'public'), ('public', 'private')):
            for id in self.glance.images:
                self.glance.change(id, visibility=old)
            before = self.glance.state()
            request = {'visibility': new, 'linked': True, 'protected': True}
            for number in self.each_failure(
                lambda request=request: self.set(**request), REFUSED, LOST
            ):
                error = self.assertRaises(
                    errors.CloudError, self.set, **request
                )
                self.assertEqual(
                    before, self.glance.state(), (old, new, number)
                )
                self.assertEqual([], self.glance.broken)
                if number or self.glance.failing[0] is LOST:
                    self.assertIn(
                        'all changes were undone',
                        error.__notes__,
                    )

    def test_protection_and_hiding(self) -> None:
        self.assertEqual(
            [
                'PATCH vmlinuz',
                'PATCH initrd',
                'PATCH web',
            ],
            self.set(protected=True, linked=True),
        )
        self.assertEqual(
            [
                'PATCH web',
                'PATCH vmlinuz',
                'PATCH initrd',
            ],
            self.set(protected=False, hidden=True, linked=True),
        )
        for image in self.glance.images.values():
            self.assertEqual(
                (False, True), (image['protected'], image['os_hidden'])
            )

    def test_members_follow(self) -> None:
        self.glance.members[memory.AMI] = {'p2': 'accepted', 'p3': 'pending'}
        self.glance.members[memory.KERNEL] = {'p3': 'accepted'}
        self.glance.change(memory.RAMDISK, visibility='private')
        self.assertEqual(
            [
                'POST vmlinuz/members {"member": "p2"}',
                'PATCH initrd',
                'POST initrd/members {"member": "p2"}',
                'POST initrd/members {"member": "p3"}',
            ],
            self.set(linked=True),
        )

    def test_members_that_were_not_known_before(self) -> None:
        self.glance.change(memory.AMI, visibility='private')
        self.glance.members[memory.AMI] = {'p2': 'accepted'}
        self.set(visibility='shared', linked=True)
        for id in (memory.KERNEL, memory.RAMDISK):
            self.assertEqual({'p2': 'pending'}, self.glance.members[id])

    def test_a_referenced_kernel_is_widened(self) -> None:
        self.glance.put('k', memory.OTHER, 'aki', visibility='private')
        self.set(kernel='k', visibility='public', linked=True)
        self.assertEqual(
            'public', self.glance.images[memory.OTHER]['visibility']
        )
        self.assertEqual(
            'shared', self.glance.images[memory.KERNEL]['visibility']
        )
        self.assertEqual([], self.glance.broken)

    def test_a_kernel_that_others_need_is_not_narrowed(self) -> None:
        for id in self.glance.images:
            self.glance.change(id, visibility='public', protected=True)
        self.glance.put(
            'db',
            memory.OTHER,
            'raw',
            kernel_id=memory.KERNEL,
            visibility='community',
            protected=True,
        )
        planned = self.plan(visibility='private', protected=False, linked=True)
        self.execute(planned)
        kernel = self.glance.images[memory.KERNEL]
        self.assertEqual(
            ('public', True), (kernel['visibility'], kernel['protected'])
        )
        self.assertEqual(
            'private', self.glance.images[memory.RAMDISK]['visibility']
        )
        self.assertIn("stays public: needed by 'db'", planned.warnings[0])
        self.assertIn("stays protected: needed by 'db'", planned.warnings[1])
        self.assertEqual([], self.glance.broken)

    def test_a_kernel_of_another_project_stays(self) -> None:
        self.glance.change(memory.KERNEL, owner='p9', visibility='public')
        self.glance.change(memory.RAMDISK, owner='p9', visibility='public')
        planned = self.plan(visibility='private', protected=True, linked=True)
        self.assertEqual(1, len(planned.steps))
        self.assertEqual((), planned.warnings)
        error = self.assertRaises(errors.CloudError, planned.check)
        kernel, ramdisk = (
            f'the {noun} {name!r} ({id}) of the project p9 stays public and '
            'unprotected'
            for noun, name, id in (
                ('kernel', 'vmlinuz', memory.KERNEL),
                ('ramdisk', 'initrd', memory.RAMDISK),
            )
        )
        self.assertEqual(f'{kernel}, {ramdisk}', error.message)

    def test_a_kernel_of_another_project_that_is_right(self) -> None:
        self.glance.change(
            memory.KERNEL, owner='p9', visibility='public', os_hidden=True
        )
        for request in (
            {'visibility': 'public', 'hidden': True, 'protected': False},
            {'hidden': True},
            {},
        ):
            planned = self.plan(linked=True, **request)
            self.assertEqual((), planned.warnings)
            planned.check()


class TestTakenBack(ChangeCase):
    def test_after_ctrl_c(self) -> None:
        before = self.glance.state()
        request = {'visibility': 'public', 'linked': True}
        interrupt = interrupts.Interrupted(signal.SIGINT)
        for _ in self.each_failure(lambda: self.set(**request), interrupt):
            self.assertRaises(interrupts.Interrupted, self.set, **request)
            self.assertEqual(before, self.glance.state())
            self.assertEqual([], self.glance.broken)

    def test_what_cannot_be_is_listed(self) -> None:
        for id in self.glance.images:
            self.glance.change(id, visibility='public')
        planned = self.plan(visibility='private', linked=True)
        # The second change fails, and the first cannot be made public again.
        self.glance.failing = {1: REFUSED, 2: REFUSED}
        with self.assertLogs('amiclient.glance.steps') as logs:
            self.assertRaises(errors.CloudError, self.execute, planned)
        self.assertIn(
            f'openstack image set --public {memory.AMI}', logs.output[-1]
        )

    def test_every_kind_of_value(self) -> None:
        self.glance.change(memory.AMI, tags=['a'], os_distro='debian')
        self.glance.put('k', memory.OTHER, 'aki')
        before = self.glance.state()
        request = {
            'name': 'www',
            'min_ram': 5,
            'kernel': 'k',
            'no_ramdisk': True,
            'tags': ('b',),
            'properties': {'os_distro': 'fedora', 'os_version': '42'},
        }
        for _ in self.each_failure(lambda: self.set(**request), LOST):
            self.assertRaises(errors.CloudError, self.set, **request)
            self.assertEqual(before, self.glance.state())

    def test_the_commands(self) -> None:
        self.glance.change(memory.AMI, tags=['a'], os_distro='debian gnu')
        planned = self.plan(
            name='www',
            hidden=True,
            no_ramdisk=True,
            tags=('b',),
            properties={'os_distro': 'fedora', 'os_version': '42'},
        )
        (step,) = planned.steps
        self.assertEqual(
            [
                (
                    *('openstack', 'image', 'set', '--name', 'web'),
                    *('--unhidden', '--property', 'os_distro=debian gnu'),
                    *('--property', f'ramdisk_id={memory.RAMDISK}'),
                    memory.AMI,
                ),
                (
                    *('openstack', 'image', 'unset', '--property'),
                    *('os_version', '--tag', 'b', memory.AMI),
                ),
            ],
            [*step.undoing()],
        )


class TestUnset(failing.GlanceCase):
    def setUp(self) -> None:
        super().setUp()
        self.glance.change(memory.AMI, tags=['a', 'b'], os_distro='debian')
        self.glance.change(memory.KERNEL, tags=['a'])

    def unset(self, **request: Any) -> update.ChangePlan:
        planned = unset.plan(
            unset.UnsetRequest(ami='web', **request), self.catalog
        )
        update.execute(
            planned, self.catalog, self.catalog._proxy, progress=progress.QUIET
        )
        return planned

    def refused(self, **request: Any) -> str:
        error = self.assertRaises(errors.AmiError, self.unset, **request)
        self.assertEqual([], self.glance.writes)
        return str(error)

    def test_tags_and_properties(self) -> None:
        self.unset(tags=('a',), properties=('os_distro',))
        image = self.glance.images[memory.AMI]
        self.assertEqual(['b'], image['tags'])
        self.assertNotIn('os_distro', image)
        self.assertEqual(['a'], self.glance.images[memory.KERNEL]['tags'])
        self.assertEqual(1, len(self.glance.writes))

    def test_linked(self) -> None:
        self.unset(tags=('a',), linked=True)
        self.assertEqual([], self.glance.images[memory.KERNEL]['tags'])
        self.assertEqual(2, len(self.glance.writes))

    def test_another_projects_kernel_stays(self) -> None:
        self.glance.change(memory.KERNEL, owner='p9')
        planned = self.unset(tags=('a',), linked=True)
        self.assertEqual(['a'], self.glance.images[memory.KERNEL]['tags'])
        self.assertNotIn('a', self.glance.images[memory.AMI]['tags'])
        error = self.assertRaises(errors.CloudError, planned.check)
        self.assertIn('of the project p9 keeps the tag a', str(error))
        self.glance.change(memory.AMI, tags=['a'])
        self.glance.change(memory.KERNEL, tags=[])
        self.unset(tags=('a',), linked=True).check()

    def test_a_kernel_that_others_need_stays(self) -> None:
        self.glance.put('other', memory.OTHER, 'ami', kernel_id=memory.KERNEL)
        planned = self.unset(tags=('a',), linked=True)
        self.assertEqual(['a'], self.glance.images[memory.KERNEL]['tags'])
        self.assertEqual(1, len(self.glance.writes))
        self.assertIn("keeps the tag a: needed by 'other'", planned.notes[0])
        planned.check()

    def test_links(self) -> None:
        planned = self.unset(kernel=True, ramdisk=True)
        self.assertFalse(
            {'kernel_id', 'ramdisk_id'} & {*self.glance.images[memory.AMI]}
        )
        self.assertIn(f'kernel delete {memory.KERNEL}', planned.notes[0])
        self.assertIn(f'ramdisk delete {memory.RAMDISK}', planned.notes[1])
        self.assertIn(memory.KERNEL, self.glance.images)

    def test_all_or_nothing(self) -> None:
        for request, words in (
            ({'tags': ('a', 'nosuch')}, "no tag 'nosuch'"),
            ({'properties': ('os_distro', 'x')}, "no property 'x'"),
            ({'properties': ('kernel_id',)}, '--kernel'),
            ({'properties': ('name',)}, 'attribute'),
            ({'kernel': True}, '--ramdisk'),
            ({'linked': True}, '--linked: '),
            ({'ramdisk': True, 'linked': True}, '--linked: '),
        ):
            self.assertIn(words, self.refused(**request))
        del self.glance.images[memory.AMI]['ramdisk_id']
        self.assertIn('links to no ramdisk', self.refused(ramdisk=True))
