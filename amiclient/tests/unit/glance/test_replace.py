# SPDX-License-Identifier: Apache-2.0

"""What becomes of older images, once a new one is there."""

from typing import Any

from amiclient import errors
from amiclient.glance.change import replace
from amiclient.glance import model
from amiclient.tests.cloud import memory
from amiclient.tests.unit.glance import test_prune


class ReplaceCase(test_prune.VersionsCase):
    """The fifth version is the new one."""

    def replace(self, how: str, **options: Any) -> tuple[str, ...]:
        asked = replace.Replacement(
            how=how, name='debian', **{'family': 'stable', **options}
        )
        # Before the upload, the new one was not there.
        old = [
            image
            for image in replace.find(self.catalog, asked)
            if image.id != 'v5'
        ]
        self.glance.writes = []
        record = model.ImageRecord.from_json(self.glance.images['v5'])
        return replace.execute(self.catalog, asked, old, record)

    def values(self, name: str) -> list[Any]:
        return [self.glance.images[f'v{day}'].get(name) for day in range(1, 6)]


class TestReplace(ReplaceCase):
    def test_hide(self) -> None:
        self.replace('hide')
        self.assertEqual([True] * 4 + [False], self.values('os_hidden'))
        self.replace('hide')
        self.assertEqual([], self.glance.writes)

    def test_keep_some(self) -> None:
        """The new one counts, too."""
        self.replace('hide', keep=3)
        expected = [True, True, False, False, False]
        self.assertEqual(expected, self.values('os_hidden'))
        self.replace('keep')
        self.assertEqual([], self.glance.writes)

    def test_rename(self) -> None:
        """By their dates; with the time if there is such a name."""
        self.glance.change('v3', image_build_date='2026-03-03 10:11:12')
        self.glance.put('debian 20260302', 'x', 'ami', os_hidden=True)
        self.glance.change('v4', name='debian-old')
        self.replace('rename')
        self.assertEqual(
            [
                'debian 20260302 000000',
                'debian 20260303 000000',
                'debian 20260303',
                'debian-old',
                'debian',
            ],
            self.values('name'),
        )

    def test_deactivate(self) -> None:
        self.glance.change('v2', status='deactivated')
        self.replace('deactivate')
        wanted = ['POST debian/actions/deactivate'] * 3
        self.assertEqual(wanted, self.glance.writes)
        self.assertEqual(
            ['deactivated'] * 4 + ['active'], self.values('status')
        )

    def test_delete(self) -> None:
        """But nothing that is protected, or that a server uses."""
        self.glance.change('v1', protected=True)
        self.glance.servers = [
            {'id': 's', 'name': 'db', 'image': {'id': 'v3', 'links': []}}
        ]
        notes = self.replace('delete')
        self.assertEqual(
            sorted((memory.KERNEL, memory.OTHER, 'v1', 'v3', 'v5')),
            self.left(),
        )
        self.assertIn('(v1): it is protected', notes[0])
        self.assertIn("(v3): in use by the server 'db' (s)", notes[1])

    def test_by_name(self) -> None:
        self.glance.change('v1', name='Debian')
        self.glance.change('v2', owner='p9')
        self.patch(self.catalog, 'project', lambda: memory.OWNER)
        self.replace('hide', family=None)
        expected = [False, False, True, True, False]
        self.assertEqual(expected, self.values('os_hidden'))

    def test_the_new_one_was_there(self) -> None:
        """It holds the same bytes as an older one, which is reused."""
        asked = replace.Replacement(how='hide', name='debian', family='stable')
        old = replace.find(self.catalog, asked)
        record = model.ImageRecord.from_json(self.glance.images['v3'])
        replace.execute(self.catalog, asked, old, record)
        expected = [True, True, False, True, True]
        self.assertEqual(expected, self.values('os_hidden'))

    def test_what_came_meanwhile(self) -> None:
        """It is somebody else's work; what is gone is gone."""
        asked = replace.Replacement(how='hide', name='debian', family='stable')
        old = replace.find(self.catalog, asked)
        self.version(9)
        del self.glance.images['v1']
        record = model.ImageRecord.from_json(self.glance.images['v5'])
        replace.execute(self.catalog, asked, old, record)
        self.assertFalse(self.glance.images['v9']['os_hidden'])

    def test_rows(self) -> None:
        for how, action in (
            ('rename', "rename to 'debian 20260305':"),
            ('delete', 'delete'),
        ):
            asked = replace.Replacement(
                how=how, name='debian', family='stable'
            )
            old = replace.find(self.catalog, asked)
            planned = replace.plan(self.catalog, asked, old, new='v5')
            row = replace.rows(asked, planned)[0]
            self.assertEqual((action, 'v4'), (row.action, row.image.id))
            self.assertEqual(1234, row.size)
            leaving = replace.leaving(self.catalog, asked, old)
            self.assertIn('v4', [image.id for image in leaving])
        self.assertEqual([], self.glance.writes)


class TestFailures(ReplaceCase):
    """The new one stays; it is said what was done, and what was not."""

    def test_each(self) -> None:
        answer = memory.Answer(409, {'message': 'no'})
        for how in ('hide', 'rename', 'deactivate', 'delete'):

            def run(how: str = how) -> None:
                self.replace(how)

            for number in self.each_failure(run, answer):
                with self.assertLogs('amiclient') as logs:
                    self.assertRaises(errors.CloudError, run)
                lines = [record.getMessage() for record in logs.records]
                new = "the new image 'debian' (v5) is complete, and stays"
                self.assertIn(new, lines)
                (left,) = [x for x in lines if x.startswith('this was not')]
                if number < 4:
                    self.assertIn(f'(v{4 - number})', left)
                self.assertIn('v5', self.left())

    def test_nobody_answers(self) -> None:
        """At the second of four: the first is done, the others are not."""
        self.glance.failing = {1: memory.Answer(401, {'message': 'who?'})}
        with self.assertLogs('amiclient') as logs:
            self.assertRaises(errors.CloudError, self.replace, 'hide')
        done, left = [record.getMessage() for record in logs.records][-2:]
        self.assertEqual(
            "this was done: image 'debian' (v4): set os_hidden=True", done
        )
        for id in ('v1', 'v2', 'v3'):
            self.assertIn(f'({id})', left)

    def test_before_the_first(self) -> None:
        with self.assertLogs('amiclient') as logs:
            self.patch(replace, 'plan', self._refuse)
            self.assertRaises(errors.CloudError, self.replace, 'hide')
        self.assertEqual(
            'no old image was changed', logs.records[-1].getMessage()
        )

    def _refuse(self, *_: Any, **__: Any) -> None:
        raise errors.CloudError('no')
