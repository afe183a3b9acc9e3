# SPDX-License-Identifier: Apache-2.0

"""AMIs that are deleted, and what goes and what stays with them."""

from typing import Any
from unittest import mock

import requests

from amiclient import errors
from amiclient.glance.change import delete as deletion
from amiclient.glance import links
from amiclient.glance import model
from amiclient.tests.cloud import memory
from amiclient.tests.unit.glance import failing
from amiclient.tests.unit.glance import wire

_SERVERS = '/servers/detail'

LOST = requests.exceptions.ConnectionError('connection reset')


class RemovalCase(failing.GlanceCase):
    def delete(self, *names: str, **options: bool) -> deletion.DeletePlan:
        self.glance.writes = []
        planned = deletion.plan(self.catalog, names, **options)
        deletion.execute(planned, self.catalog)
        return planned

    def fails(self, *names: str, **options: Any) -> tuple[str, list[str]]:
        """Delete; tell the error, and what was logged before."""
        with self.assertLogs('amiclient') as logs:
            error = self.assertRaises(
                errors.CloudError, self.delete, *names, **options
            )
        return str(error), [record.getMessage() for record in logs.records]

    def left(self) -> list[str]:
        return sorted(image['name'] for image in self.glance.images.values())


class TestDelete(RemovalCase):
    def test_the_ami_alone(self) -> None:
        self.delete('web')
        self.assertEqual(['DELETE web'], self.glance.writes)

    def test_what_is_still_being_written(self) -> None:
        """Glance would keep what it writes to a store for good."""
        self.glance.change(
            memory.AMI, stores='a', os_glance_import_task='task'
        )
        self.glance.copying[memory.AMI] = ['b'], True, 'a'
        with self.assertLogs('amiclient') as logs:
            self.delete('web')
        self.assertIn('waiting until the cloud has', logs.output[0])
        self.assertEqual({}, self.glance.copying)
        self.assertEqual(['DELETE web'], self.glance.writes)

    def test_goes_through_the_list(self) -> None:
        self.glance.put('db', memory.OTHER, 'raw', kernel_id=memory.KERNEL)
        self.glance.put('safe', 's', 'ami', protected=True)
        self.glance.put('plain', 'q', 'qcow2')
        error, logged = self.fails(
            'nosuch', 'web', 'safe', 'vmlinuz', 'plain', 'db'
        )
        self.assertEqual('4 of 6 images were not deleted', error)
        for words, line in zip(
            (
                'nosuch',
                'openstack image set --unprotected s',
                'ami kernel delete',
                'openstack image delete q',
            ),
            logged,
            strict=True,
        ):
            self.assertIn(words, line)
        self.assertEqual(['DELETE web', 'DELETE db'], self.glance.writes)

    def test_a_dry_run_speaks_of_what_would_be(self) -> None:
        planned = deletion.plan(
            self.catalog, ['web', 'nosuch', 'initrd'], linked=True
        )
        error = self.assertRaises(
            errors.CloudError,
            deletion.refuse,
            planned.problems,
            planned.total,
            dry_run=True,
        )
        self.assertEqual('2 of 3 images would not be deleted', str(error))
        self.assertEqual([], self.glance.writes)

    def test_hidden_ones_have_names_too(self) -> None:
        """Which of the two is meant, nobody knows."""
        self.glance.put('web', memory.OTHER, 'ami', os_hidden=True)
        self.glance.put('web', 'k', 'aki')
        error = self.assertRaises(errors.CloudError, self.delete, 'web')
        self.assertIn("3 images are named 'web'", str(error))
        self.assertIn(f'{memory.OTHER} (AMI, hidden, active', str(error))
        self.assertEqual([], self.glance.writes)

    def test_one_alone_is_one_error(self) -> None:
        error = self.assertRaises(errors.NotFoundError, self.delete, 'nosuch')
        self.assertIn('nosuch', str(error))

    def test_named_twice(self) -> None:
        self.delete('web', 'web', memory.AMI)
        self.assertEqual(['DELETE web'], self.glance.writes)

    def test_in_use_by_the_store(self) -> None:
        in_use = {'message': 'could not be deleted because it is in use'}
        self.glance.failing = {0: memory.Answer(409, in_use)}
        error = self.assertRaises(errors.CloudError, self.delete, 'web')
        self.assertIn('clones of its data in the store', str(error))

    def test_nobody_answers(self) -> None:
        self.glance.put('db', memory.OTHER, 'raw', kernel_id=memory.KERNEL)
        self.glance.failing = {0: LOST}
        error, logged = self.fails('web', 'db')
        self.assertIn('no connection', error)
        self.assertEqual(['deleted 0 of 2 images'], logged)
        self.assertEqual(1, len(self.glance.writes))


class TestLinked(RemovalCase):
    def test_the_ami_first(self) -> None:
        self.delete('web', linked=True)
        self.assertEqual(
            ['DELETE web', 'DELETE vmlinuz', 'DELETE initrd'],
            self.glance.writes,
        )

    def test_what_others_link_to_stays(self) -> None:
        for attributes in (
            {'kernel_id': memory.KERNEL, 'os_hidden': True},
            {'kernel_id': memory.KERNEL, 'visibility': 'community'},
            # Even as something else than a kernel.
            {'ramdisk_id': memory.KERNEL},
        ):
            self.glance.put('snapshot', 's', 'qcow2', **attributes)
            planned = deletion.plan(self.catalog, ['web'], linked=True)
            self.assertEqual(
                ['web', 'initrd'],
                [each.image.name for each in planned.steps],
            )
            (kept,) = planned.notes
            self.assertIn("needed by 'snapshot' (s)", kept)
            del self.glance.images['s']

    def test_all_that_link_to_it_are_deleted(self) -> None:
        self.glance.put('db', memory.OTHER, 'raw', kernel_id=memory.KERNEL)
        self.delete('web', 'db', linked=True)
        self.assertEqual({}, self.glance.images)
        self.assertEqual('DELETE db', self.glance.writes[1])

    def test_a_part_stays_if_an_ami_does(self) -> None:
        self.glance.put('db', memory.OTHER, 'raw', kernel_id=memory.KERNEL)
        self.glance.failing = {
            1: memory.Answer(409, {'message': 'it is in use'})
        }
        error, logged = self.fails('web', 'db', linked=True)
        self.assertEqual('1 of 2 images was not deleted', error)
        self.assertIn("kept the kernel 'vmlinuz'", logged[0])
        self.assertEqual(['db', 'vmlinuz'], self.left())

    def test_a_part_that_cannot_be_deleted(self) -> None:
        """The AMIs that were named are gone, and count apart."""
        part = '1 kernel or ramdisk that they link to was not deleted'
        parts = '2 kernels and ramdisks that they link to were not deleted'
        both = (
            '1 of 3 images, and 2 kernels and ramdisks that they link to, '
            'were not deleted'
        )
        before = self.glance.images.copy()
        for names, fail, expected in (
            (['web'], {1}, part),
            (['web'], {1, 2}, parts),
            (['web', 'db', 'nosuch'], {2, 3}, both),
        ):
            self.glance.images = before.copy()
            self.glance.put('db', memory.OTHER, 'raw', kernel_id=memory.KERNEL)
            if 'db' not in names:
                del self.glance.images[memory.OTHER]
            answer = memory.Answer(409, {'message': 'it is in use'})
            self.glance.failing = dict.fromkeys(fail, answer)
            error, _ = self.fails(*names, linked=True)
            self.assertEqual(expected, error)

    def test_a_protected_part_keeps_its_ami(self) -> None:
        self.glance.change(memory.RAMDISK, protected=True)
        error = self.assertRaises(
            errors.CloudError, self.delete, 'web', linked=True
        )
        self.assertIn(f'--unprotected {memory.RAMDISK}', str(error))
        self.assertEqual([], self.glance.writes)

    def test_another_projects_part_stays(self) -> None:
        self.glance.change(memory.KERNEL, owner='p9', protected=True)
        planned = self.delete('web', linked=True)
        self.assertEqual(['vmlinuz'], self.left())
        self.assertIn('belongs to the project p9', planned.notes[0])

    def test_tells_what_cannot_be_seen(self) -> None:
        self.glance.change(memory.KERNEL, visibility='public')
        self.glance.members[memory.RAMDISK] = {'p2': 'accepted'}
        planned = deletion.plan(self.catalog, ['web'], linked=True)
        self.assertEqual(2, len(planned.warnings))
        self.assertIn('private images of theirs', planned.warnings[0])
        self.assertEqual([], self.glance.writes)

    def test_links_that_lead_nowhere(self) -> None:
        del self.glance.images[memory.KERNEL]
        self.glance.change(memory.AMI, ramdisk_id='')
        self.delete('web', linked=True)
        self.assertEqual(['DELETE web'], self.glance.writes)


class TestServers(RemovalCase):
    def put(self, id: str, image: str | None, **attributes: Any) -> None:
        assert self.glance.servers is not None
        shown = {'id': image, 'links': []} if image else ''
        self.glance.servers.append(
            {'id': id, 'name': f'server-{id}', 'image': shown, **attributes}
        )

    def queries(self) -> list[str]:
        return [
            request.query
            for request in self.wire.request_history
            if request.path == _SERVERS
        ]

    def test_in_use(self) -> None:
        """It stays, and all that it links to; the others go."""
        self.glance.put('db', memory.OTHER, 'raw', kernel_id=memory.KERNEL)
        for number in range(5):
            self.put(f's{number}', memory.AMI)
        error, logged = self.fails('web', 'db', linked=True)
        self.assertEqual('1 of 2 images was not deleted', error)
        self.assertIn(
            "without it, the servers 'server-s0' (s0), 'server-s1' (s1), "
            "'server-s2' (s2) and 2 more cannot be rebuilt or evacuated any "
            'more, their next snapshots do not boot',
            logged[0],
        )
        self.assertIn('--force', logged[0])
        self.assertEqual(['DELETE db'], self.glance.writes)

    def test_force(self) -> None:
        self.put('s', memory.AMI, **{'OS-EXT-SRV-ATTR:kernel_id': 'k'})
        planned = self.delete('web', force=True)
        (warning,) = planned.warnings
        self.assertIn("the server 'server-s' (s) cannot be rebuilt", warning)
        self.assertNotIn('snapshots', warning)
        self.assertEqual(['DELETE web'], self.glance.writes)

    def test_another_kernel_than_the_image_links_to(self) -> None:
        """An AMI may be linked to another kernel while servers run."""
        for image in (None, memory.OTHER):
            self.glance.servers = []
            links = {'OS-EXT-SRV-ATTR:kernel_id': memory.KERNEL}
            self.put('s', image, **links)
            planned = deletion.plan(self.catalog, ['web'], linked=True)
            names = [step.image.name for step in planned.steps]
            self.assertEqual(['web', 'initrd'], names)
            (kept,) = planned.notes
            self.assertIn("kept the kernel 'vmlinuz'", kept)
            self.assertIn("'server-s' (s) would need it again", kept)
        del self.glance.images[memory.AMI]
        planned = deletion.plan_parts(
            self.catalog, model.Kind.AKI, ['vmlinuz']
        )
        self.assertIn("'vmlinuz'", str(planned.problems[0]))
        self.assertEqual((), planned.steps)
        forced = deletion.plan_parts(
            self.catalog, model.Kind.AKI, ['vmlinuz'], force=True
        )
        self.assertIn("'server-s' (s) cannot be", forced.warnings[0])

    def test_boots_from_a_volume(self) -> None:
        """Its owner is not told what its kernel is."""
        self.put('s', None)
        planned = self.delete('web', linked=True)
        (warning,) = planned.warnings
        self.assertIn("'server-s' (s) boots from a volume", warning)
        self.assertEqual({}, self.glance.images)

    def test_pages(self) -> None:
        self.glance.page = 2
        for number in range(5):
            self.put(f's{number}', memory.AMI if number == 4 else 'other')
        (problem,) = deletion.plan(self.catalog, ['web']).problems
        self.assertIn('(s4)', str(problem))
        self.assertEqual(
            ['limit=200', 'limit=200&marker=s1', 'limit=200&marker=s3'],
            self.queries(),
        )

    def test_one_list_for_many(self) -> None:
        names = []
        for number in range(9):
            names.append(f'ami{number}')
            self.glance.put(names[-1], f'a{number}', 'ami')
        self.put('s', 'a7')
        error, _ = self.fails(*names)
        self.assertEqual('1 of 9 images was not deleted', error)
        self.assertEqual(1, len(self.queries()))

    def test_administrators(self) -> None:
        """They are told of all projects' servers, few at a time."""
        roles = mock.Mock(spec=self.catalog.roles, return_value=('Admin',))
        self.patch(self.catalog, 'roles', roles)
        self.glance.change(memory.AMI, visibility='public')
        planned = deletion.plan(self.catalog, ['web'], linked=True)
        self.assertEqual(
            [
                f'all_tenants=1&image={memory.AMI}&limit=200',
                f'all_tenants=1&kernel_id={memory.KERNEL}&limit=200',
                f'all_tenants=1&ramdisk_id={memory.RAMDISK}&limit=200',
            ],
            self.queries(),
        )
        self.assertEqual((), planned.warnings)

    def test_other_projects(self) -> None:
        self.glance.change(memory.AMI, visibility='public')
        (warning,) = deletion.plan(self.catalog, ['web']).warnings
        self.assertIn('servers of theirs use it cannot be seen', warning)

    def test_who_cannot_be_asked(self) -> None:
        """Then it is deleted; it is said what will not work any more."""
        fault = {'forbidden': {'code': 403, 'message': "Policy doesn't allow"}}
        for answer, words in (
            (memory.Answer(403, fault), "Policy doesn't allow (HTTP 403)"),
            (
                memory.Answer(200, {'servers': [{'id': 's', 'image': 3}]}),
                'not',
            ),
            (memory.Answer(200, b'<html>'), 'JSON'),
            (LOST, 'no connection'),
        ):
            given: dict[str, Any] = {'exc': answer}
            if isinstance(answer, memory.Answer):
                given = {
                    'status_code': answer.status,
                    'content': answer.content,
                }
            self.wire.get(f'{wire.CLOUD}{_SERVERS}', **given)
            planned = deletion.plan(self.catalog, ['web'], linked=True)
            (warning,) = planned.warnings
            self.assertIn(words, warning)
            self.assertIn('their next snapshots do not boot', warning)
            self.assertEqual(3, len(planned.steps))

    def test_a_list_without_an_end(self) -> None:
        self.put('s', 'other')
        self.glance.page = 1
        self.patch(memory.Glance, '_list_servers', self._endless)
        (warning,) = deletion.plan(self.catalog, ['web']).warnings
        self.assertIn('it has no end', warning)

    def _endless(self, query: dict[str, str]) -> memory.Answer:
        link = {'rel': 'next', 'href': ''}
        body = {'servers': self.glance.servers, 'servers_links': [link]}
        return memory.Answer(200, body)


class TestParts(RemovalCase):
    def plan(self, *names: str, **options: Any) -> deletion.DeletePlan:
        return deletion.plan_parts(
            self.catalog, model.Kind.AKI, names, **options
        )

    def test_in_use(self) -> None:
        (problem,) = self.plan('vmlinuz').problems
        self.assertIn(f"'web' ({memory.AMI}) would not boot", str(problem))
        self.assertIn('--force', str(problem))

    def test_force(self) -> None:
        planned = self.plan('vmlinuz', force=True)
        self.assertIn('will not boot without', planned.warnings[0])
        deletion.execute(planned, self.catalog)
        self.assertEqual(['initrd', 'web'], self.left())

    def test_force_does_not_unprotect(self) -> None:
        self.glance.change(memory.KERNEL, protected=True)
        (problem,) = self.plan('vmlinuz', force=True).problems
        self.assertIn('--unprotected', str(problem))

    def test_something_else(self) -> None:
        self.glance.put('plain', 'q', 'qcow2')
        for name in ('initrd', 'web', 'plain'):
            (problem,) = self.plan(name).problems
            self.assertIn('is not a kernel', str(problem))

    def test_ambiguous(self) -> None:
        """It takes a deletion more than a show to know what is meant."""
        for format, hidden in (('ami', False), ('aki', True), ('ari', True)):
            self.glance.put('vmlinuz', memory.OTHER, format, os_hidden=hidden)
            found = links.find_part(self.catalog, model.Kind.AKI, 'vmlinuz')
            self.assertEqual(memory.KERNEL, found.image.id)
            (problem,) = self.plan('vmlinuz', force=True).problems
            self.assertIn("2 images are named 'vmlinuz'", str(problem))

    def test_unused(self) -> None:
        self.glance.put('old', memory.OTHER, 'aki')
        deletion.execute(self.plan('old', memory.OTHER), self.catalog)
        self.assertEqual(['DELETE old'], self.glance.writes)


class TestUsers(RemovalCase):
    def test_many_take_as_many_requests_as_few(self) -> None:
        """Each costs four; all images, in pages, cost two."""
        kernels = [f'{n:08d}-0000-4000-8000-000000000000' for n in range(20)]
        for number, id in enumerate(kernels):
            self.glance.put(f'k{number}', id, 'aki')
            self.glance.put(f'a{number}', f'a{number}', 'raw', kernel_id=id)
            self.glance.change(f'a{number}', os_hidden=number % 2 == 0)
        for some in (kernels[:2], kernels):
            before = len(self.asked())
            found = links.used_by(self.catalog, some)
            self.assertEqual(
                {id: [f'a{n}'] for n, id in enumerate(some)},
                {id: [u.name for u in found[id]] for id in some},
            )
            self.assertLessEqual(len(self.asked()) - before, 8)

    def test_of_another_format(self) -> None:
        self.glance.change(memory.KERNEL, disk_format='raw')
        found = links.find_part(self.catalog, model.Kind.AKI, 'vmlinuz')
        self.assertEqual(['web'], [user.name for user in found.users or ()])
        error = self.assertRaises(
            errors.CloudError,
            links.find_part,
            self.catalog,
            model.Kind.ARI,
            'vmlinuz',
        )
        self.assertIn('is not a ramdisk', str(error))

    def test_listed(self) -> None:
        (part,) = links.list_parts(self.catalog, model.Kind.ARI, {})
        self.assertEqual((memory.RAMDISK, None), (part.image.id, part.users))
        (part,) = links.list_parts(self.catalog, model.Kind.AKI, {}, used=True)
        self.assertEqual(['web'], [user.name for user in part.users or ()])
