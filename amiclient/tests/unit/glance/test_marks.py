# SPDX-License-Identifier: Apache-2.0

import datetime
import os
import subprocess
from unittest import mock

from amiclient.glance.upload import marks
from amiclient.tests import base
from amiclient.tests.unit.glance import records


def run(**changes: object) -> marks.UploadRun:
    """Describe this process, but for some."""
    return marks.UploadRun(**{**vars(marks.UploadRun.this()), **changes})


class MarkCase(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        # Not when this was imported: that may be hours ago.
        self.now = datetime.datetime.now(datetime.UTC)
        self.long_ago = self.now - datetime.timedelta(days=300)


class TestRun(MarkCase):
    def assertEnded(
        self, ended: bool, other: marks.UploadRun, **times
    ) -> None:
        created = times.get('created', self.now)
        record = records.record(
            status=times.get('status', 'queued'),
            created_at=created.isoformat(),
            updated_at=times.get('changed', created).isoformat(),
        )
        self.assertEqual(ended, other.ended(record))

    def test_there_and_back(self) -> None:
        this = marks.UploadRun.this()
        self.assertEqual(this, marks.UploadRun.parse(str(this)))
        self.assertEqual(os.getpid(), this.pid)
        # What Glance takes for the value of a property.
        self.assertLessEqual(len(str(this)), 255)

    def test_nothing_private(self) -> None:
        self.addCleanup(marks._host.cache_clear)
        marks._host.cache_clear()
        name = 'the-name-of-a-host'
        with mock.patch('platform.node', autospec=True, return_value=name):
            self.assertNotIn(name, str(marks.UploadRun.this()))

    def test_what_is_no_mark(self) -> None:
        for text in ('', 'x', 'host=1 boot=2 space=3 pid=x born=5', 'pid=1'):
            self.assertIsNone(marks.UploadRun.parse(text))

    def test_this_one_lives(self) -> None:
        self.assertEnded(False, run())
        # However long it takes.
        self.assertEnded(False, run(), created=self.long_ago)

    def test_a_process_that_ended(self) -> None:
        child = subprocess.Popen(['sleep', '60'])
        other = marks.UploadRun.of(child.pid)
        self.assertEnded(False, other)
        child.kill()
        # A zombie until somebody asks for it.
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        self.assertEnded(True, other)
        child.wait()
        self.assertEnded(True, other)

    def test_another_process_with_the_same_number(self) -> None:
        self.assertEnded(True, run(born='1'))

    def test_somebody_elses_process(self) -> None:
        with mock.patch('os.kill', autospec=True, side_effect=PermissionError):
            self.assertEnded(False, run())

    def test_another_boot_proves_nothing(self) -> None:
        """Not even long before this host, or its copy, was booted."""
        other = run(boot='other', pid=2**22 + 1)
        hours = datetime.timedelta(hours=1)
        for status, most in (('queued', 24), ('saving', 24 * 7)):
            for age, ended in ((most - 1, False), (most + 1, True)):
                self.assertEnded(
                    ended, other, created=self.now - age * hours, status=status
                )

    def test_without_a_machine_id(self) -> None:
        self.addCleanup(marks._host.cache_clear)
        for text in ('', 'uninitialized', '0123'):
            marks._host.cache_clear()
            with mock.patch.object(marks, '_read', autospec=True) as read:
                read.return_value = text
                self.assertEqual('', marks._host())
                self.assertEnded(False, run(pid=2**22 + 1))

    def test_where_proc_is_that_of_other_processes(self) -> None:
        dead = run(pid=2**22 + 1)
        with mock.patch('os.readlink', autospec=True, return_value='1'):
            self.assertEnded(False, dead)
            self.assertEqual('', marks.UploadRun.this().space)

    def test_in_another_container(self) -> None:
        self.assertEnded(False, run(space='1', pid=2**22 + 1))

    def test_where_nothing_tells_containers_apart(self) -> None:
        with mock.patch.object(marks, '_space', autospec=True) as space:
            space.return_value = ''
            self.assertEnded(False, run(pid=2**22 + 1))

    def test_on_another_host(self) -> None:
        other = run(host='other', pid=2**22 + 1)
        hours = datetime.timedelta(hours=1)
        self.assertEnded(False, other)
        self.assertEnded(False, other, created=self.now - 23 * hours)
        self.assertEnded(True, other, created=self.now - 25 * hours)
        # One that still does something is alive.
        self.assertEnded(False, other, created=self.long_ago, changed=self.now)

    def test_on_another_host_and_sending(self) -> None:
        """Glance notes when data begins to come, and then no more."""
        day = datetime.timedelta(days=1)
        for other in (run(host='other'), run(space='1')):
            # Once it is active, the root filesystem may still be sent.
            for status in ('saving', 'active'):
                self.assertEnded(
                    False, other, created=self.now - 6 * day, status=status
                )
                self.assertEnded(
                    True, other, created=self.now - 8 * day, status=status
                )

    def test_what_can_be_asked_need_not_be_waited_for(self) -> None:
        for status in ('queued', 'active'):
            self.assertEnded(True, run(born='1'), status=status)

    def test_what_is_saving_is_left_alone_for_a_week(self) -> None:
        day = datetime.timedelta(days=1)
        for age, ended in ((0, False), (6, False), (8, True)):
            self.assertEnded(
                ended,
                run(born='1'),
                created=self.now - age * day,
                status='saving',
            )
        self.assertEnded(False, run(), created=self.long_ago, status='saving')

    def test_nothing_tells_when_it_was_changed(self) -> None:
        record = records.record(status='queued')
        self.assertFalse(run(host='other').ended(record))


class TestRecord(MarkCase):
    def test_states(self) -> None:
        alive = records.record(**{marks.PROPERTY: str(run())})
        left = records.record(**{marks.PROPERTY: str(run(born='1'))})
        strange = records.record(**{marks.PROPERTY: 'of a later version'})
        for record, expected in (
            (records.record(), (False, False, False)),
            (alive, (True, True, False)),
            (left, (True, False, True)),
            # Nobody knows: so it is neither used nor removed.
            (strange, (True, True, False)),
        ):
            self.assertEqual(
                expected,
                (
                    marks.is_marked(record),
                    marks.is_alive(record),
                    marks.is_left(record),
                ),
            )

    def test_still_being_sent_elsewhere(self) -> None:
        yesterday = self.now - datetime.timedelta(hours=28)
        for status, left in (('queued', True), ('saving', False)):
            record = records.record(
                status=status,
                updated_at=yesterday.isoformat(),
                **{marks.PROPERTY: str(run(host='other'))},
            )
            self.assertEqual(left, marks.is_left(record), status)
