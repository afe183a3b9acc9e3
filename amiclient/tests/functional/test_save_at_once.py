# SPDX-License-Identifier: Apache-2.0

"""Several that save one AMI as an archive in one directory, at once."""

import os
import pathlib
import signal

from amiclient.tests.cloud import forkserver as openstack_server
from amiclient.tests.faults import stuck
from amiclient.tests.functional import test_save

_NAME = 'web_1.tar.gz'

#: Seconds after which what should have happened has not.


class TestAtOnce(test_save.SaveCase):
    def setUp(self) -> None:
        super().setUp()
        self.target.mkdir()
        self.words = (
            *('ami', 'save', 'web/1', '--layout', 'uec'),
            *('--directory', self.target),
        )

    def stopped(self) -> openstack_server.Forked:
        """Start to save it; it stops while it packs."""
        with stuck.Stopping(
            self.target, f'.{_NAME}.', self.directory
        ) as stopping:
            running = self.start_openstack(*self.words)
            # A stopped process gets no other signal than this.
            self.addCleanup(running.send_signal, signal.SIGCONT)
            stopping.wait(running)
        return running

    def go_on(self, running: openstack_server.Forked) -> str:
        """Let it come to its end."""
        running.send_signal(signal.SIGCONT)
        _, stderr = running.communicate(timeout=stuck.LATE)
        self.assertEqual(0, running.returncode, stderr)
        return stderr

    def assertWhole(self) -> None:
        self.assertEqual([_NAME], os.listdir(self.target))
        # Whoever finds it compares all of it with its manifest.
        self.assertEqual(0, self.openstack_json(*self.words)['downloaded'])

    def test_while_another_packs(self) -> None:
        first = self.stopped()
        self.assertNotIn(_NAME, os.listdir(self.target))
        line = self.refused(*self.words)
        self.assertIn(f'{self.target}: another process is saving', line)
        self.go_on(first)
        self.assertWhole()

    def test_another_image_of_that_name(self) -> None:
        first = self.stopped()
        other = self.register(self.root, 'ami', name='web/1')
        # Its archive is there before that of the first.
        self.openstack('ami', 'save', other, *self.words[3:], stderr=None)
        path = pathlib.Path(self.target, _NAME)
        data = path.read_bytes()
        first.send_signal(signal.SIGCONT)
        _, stderr = first.communicate(timeout=stuck.LATE)
        self.assertEqual(1, first.returncode)
        self.assertIn('exists already, and is something else', stderr)
        self.assertTrue(path.read_bytes() == data, 'it was replaced')

    def test_three(self) -> None:
        running = [self.start_openstack(*self.words) for _ in range(3)]
        ends = []
        for process in running:
            _, stderr = process.communicate(timeout=stuck.LATE)
            ends.append(process.returncode)
            if process.returncode:
                self.assertIn('another process', stderr)
                self.assertEqual(1, stderr.count('\n'), stderr)
        self.assertIn(0, ends)
        self.assertLessEqual({*ends}, {0, 1})
        self.assertWhole()

    def test_after_one_that_was_killed(self) -> None:
        killed = self.stopped()
        killed.kill()
        killed.communicate()
        self.assertEqual(2, len(os.listdir(self.target)))
        # What was packed is removed, and what was fetched is gone on with.
        shown = self.openstack_json(*self.words, stderr=None)
        self.assertEqual(0, shown['downloaded'])
        self.assertWhole()
