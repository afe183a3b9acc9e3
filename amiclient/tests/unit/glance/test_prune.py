# SPDX-License-Identifier: Apache-2.0

"""Versions of an AMI, and old ones that go."""

import datetime
import re
from typing import Any

from amiclient import errors
from amiclient.glance.change import delete
from amiclient.glance.change import prune
from amiclient.glance import client
from amiclient.glance import links
from amiclient.glance import model
from amiclient.glance.upload import marks
from amiclient.glance import versions
from amiclient.tests.cloud import memory
from amiclient.tests.unit.glance import failing

#: The ids are numbers of days: the higher, the newer.
_BEGIN = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)


class VersionsCase(failing.GlanceCase):
    """Five versions of a family; all but the newest share a kernel."""

    def setUp(self) -> None:
        super().setUp()
        # Short ones: they are in what is told.
        self.patch(client, 'UUID', re.compile(r'v\d|.{36}'))
        self.glance.images.clear()
        self.glance.put('vmlinuz', memory.KERNEL, 'aki')
        self.glance.put('vmlinuz', memory.OTHER, 'aki')
        for day in range(1, 6):
            kernel = memory.OTHER if day == 5 else memory.KERNEL
            self.version(day, kernel_id=kernel, ami_version=f'1.{day}')
        self.glance.writes = []

    def version(self, day: int, name: str = 'debian', **more: Any) -> str:
        created = _BEGIN + datetime.timedelta(days=day)
        written = created.strftime('%Y-%m-%dT%H:%M:%SZ')
        facts = {'ami_family': 'stable', 'created_at': written, **more}
        self.glance.put(name, f'v{day}', 'ami', **facts)
        return f'v{day}'

    def left(self) -> list[str]:
        return sorted(self.glance.images)

    def going(self, *args: Any, **options: Any) -> list[str]:
        planned = prune.plan(self.catalog, *args, **options)
        return [step.image.id for step in planned.steps]


class TestVersions(VersionsCase):
    def listed(self, **filters: Any) -> list[str]:
        found = links.list_amis(self.catalog, filters, family='stable')
        return [ami.image.id for ami in found]

    def test_newest_first(self) -> None:
        """By when it was built: a copy may be made at any time."""
        self.glance.change('v2', image_build_date='2026-05-01 10:11:12')
        self.glance.change('v3', image_build_date='2026-05-01')
        self.glance.change('v4', image_build_date='yesterday')
        self.assertEqual(['v2', 'v3', 'v5', 'v4', 'v1'], self.listed())

    def test_of_one_second(self) -> None:
        """Glance tells no less: small ones follow each other faster."""
        day = {'ami_family': 'quick', 'created_at': '2026-03-01T00:00:00Z'}
        numbers = {'v3': '1.2', 'v1': '1.10', 'v2': '1.9', 'v5': '1'}
        for id, number in numbers.items():
            self.glance.change(id, ami_version=number, **day)
        self.glance.change('v4', **day)
        self.glance.images['v4'].pop('ami_version')
        found = links.list_amis(self.catalog, {}, family='quick')
        self.assertEqual(
            ['v1', 'v2', 'v3', 'v5', 'v4'], [ami.image.id for ami in found]
        )

    def test_hidden_ones_too(self) -> None:
        self.glance.change('v2', os_hidden=True)
        self.assertEqual(['v5', 'v4', 'v3', 'v2', 'v1'], self.listed())
        self.assertEqual(['v2'], self.listed(os_hidden=True))

    def test_a_snapshot_is_none(self) -> None:
        """Nova gives it all properties of the image of the server."""
        self.version(6, image_type='snapshot', kernel_id=memory.KERNEL)
        self.version(7, base_image_ref='v5', kernel_id=memory.KERNEL)
        self.assertEqual('v5', self.listed()[0])
        self.assertEqual(['v1'], self.going('stable', keep=4))


class TestPrune(VersionsCase):
    def test_the_oldest_go(self) -> None:
        """The kernel goes with the last AMI that links to it."""
        planned = prune.plan(self.catalog, 'stable', keep=3)
        self.assertEqual(
            ["delete image 'debian' (v2)", "delete image 'debian' (v1)"],
            list(planned.describe()),
        )
        (note,) = planned.notes
        self.assertIn(f"kept the kernel 'vmlinuz' ({memory.KERNEL})", note)
        self.assertEqual([], self.glance.writes)
        delete.execute(
            prune.plan(self.catalog, 'stable', keep=1), self.catalog
        )
        self.assertEqual(sorted((memory.OTHER, 'v5')), self.left())
        self.assertEqual([], self.going('stable', keep=1))

    def test_by_name(self) -> None:
        """The family goes first; what has another name or format stays."""
        self.version(6, 'stable', ami_family='other')
        self.glance.put('debian', 'q', 'qcow2')
        self.glance.put('debian', 'k', 'aki')
        self.assertEqual(['v2', 'v1'], self.going('stable', keep=3))
        self.assertEqual(['v1'], self.going('debian', keep=4))
        error = self.assertRaises(
            errors.NotFoundError, self.going, 'nosuch', keep=3
        )
        self.assertIn("the name 'nosuch'", str(error))

    def test_what_stays(self) -> None:
        """What is protected, in use, incomplete, or another project's."""
        mark = str(marks.UploadRun.this())
        self.version(6, amiclient_upload=mark, kernel_id=memory.KERNEL)
        self.version(7, status='queued')
        self.glance.change('v1', protected=True)
        self.glance.change('v3', owner='p9')
        self.patch(self.catalog, 'project', lambda: memory.OWNER)
        self.glance.servers = [
            {'id': 's', 'name': 'db', 'image': {'id': 'v2', 'links': []}}
        ]
        planned = prune.plan(self.catalog, 'stable', keep=1)
        self.assertEqual(['v4'], [step.image.id for step in planned.steps])
        self.assertEqual((), planned.problems)
        protected, used, kernel = planned.notes
        self.assertIn('(v1): it is protected', protected)
        self.assertIn("(v2): in use by the server 'db' (s)", used)
        self.assertIn('vmlinuz', kernel)

    def test_a_protected_kernel(self) -> None:
        """Its AMI is kept, which is no failure: it will be so tomorrow."""
        self.glance.change(memory.KERNEL, protected=True)
        planned = prune.plan(self.catalog, 'stable', keep=1)
        self.assertEqual((), planned.steps)
        self.assertEqual((), planned.problems)
        self.assertIn('is protected', planned.notes[0])

    def test_older_than(self) -> None:
        now = datetime.datetime.now(datetime.UTC)
        young = (now - datetime.timedelta(days=80)).isoformat()
        self.glance.change('v3', created_at=young)
        self.glance.change(
            'v3', image_build_date='2026-01-01', kernel_id=memory.OTHER
        )
        planned = prune.plan(
            self.catalog,
            'stable',
            keep=1,
            older_than=datetime.timedelta(days=90),
        )
        self.assertIn("'debian' (v3): it is not old enough", planned.notes[0])
        going = [step.image.id for step in planned.steps]
        self.assertNotIn('v3', going)
        if now - _BEGIN > datetime.timedelta(days=100):
            self.assertEqual(['v4', 'v2', 'v1', memory.KERNEL], going)

    def test_nova_is_not_there(self) -> None:
        self.glance.servers = None
        planned = prune.plan(self.catalog, 'stable', keep=3)
        self.assertEqual(2, len(planned.steps))
        self.assertIn('is not known', planned.warnings[-1])
        error = self.assertRaises(
            errors.CloudError, self.going, 'stable', keep=3, unused_only=True
        )
        self.assertIn('leave out --unused-only', str(error))

    def test_each_failure(self) -> None:
        """What could be deleted is gone, and the rest is as it was."""
        answer = memory.Answer(409, {'message': 'it is in use'})

        def run() -> None:
            planned = prune.plan(self.catalog, 'stable', keep=3)
            delete.execute(planned, self.catalog)

        for number in self.each_failure(run, answer):
            with self.assertLogs('amiclient'):
                error = self.assertRaises(errors.CloudError, run)
            self.assertEqual('1 of 2 images was not deleted', str(error))
            kept = ('v2', 'v1')[number]
            self.assertIn(kept, self.left())
            self.assertEqual(6, len(self.left()))


class TestBuilt(VersionsCase):
    def test_formats(self) -> None:
        for written, expected in (
            ('2026-05-01', '2026-05-01T00:00:00+00:00'),
            ('2026-05-01 07:08', '2026-05-01T07:08:00+00:00'),
            ('2026-05-01T07:08:09+02:00', '2026-05-01T07:08:09+02:00'),
            ('soon', '2026-03-02T00:00:00+00:00'),
        ):
            self.glance.change('v1', image_build_date=written)
            record = model.ImageRecord.from_json(self.glance.images['v1'])
            found = versions.built(record)
            assert found is not None
            self.assertEqual(expected, found.isoformat())
