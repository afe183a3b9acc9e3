# SPDX-License-Identifier: Apache-2.0

"""What an upload that was killed leaves, and what the next one does."""

import json
import os
import signal
import time
import uuid

from amiclient.glance.upload import marks
from amiclient.tests.cloud import forkserver as openstack_server
from amiclient.tests.disks import triple
from amiclient.tests.faults import actions as faults_actions
from amiclient.tests.faults import stuck
from amiclient.tests.functional import upload

#: Seconds after which what should have happened has not.


class TestKilled(upload.UploadCase):
    """kill -9, in a process of its own."""

    def setUp(self) -> None:
        super().setUp()
        # More than the buffers of sockets hold.
        self.root = triple.root(
            self.directory, size=12 * 2**20, data=6 * 2**20
        )
        self.words = ('ami', 'upload', self.root, *self.parts, *self.less)
        self.way = self.useFixture(stuck.Way(self.cloud, self.directory))

    def found(self) -> dict[str, tuple[str, str]]:
        """Tell format and status of all images, by their ids."""
        answer = self.image.get('/images?limit=100').json()
        return {
            image['id']: (image['disk_format'], image['status'])
            for image in answer['images']
        }

    def await_states(self, *wanted: tuple[str, str]) -> None:
        """Wait until some images came to some states."""
        end = time.monotonic() + stuck.LATE
        while not set(wanted) <= set(self.found().values()):
            self.assertLess(time.monotonic(), end, self.found())
            time.sleep(0.02)

    def start(self) -> tuple[openstack_server.Forked, faults_actions.Pause]:
        """Start an upload that comes to where all is created, and no more.

        :returns: its process, and what keeps it from going on.
        """
        pause = self.way.hold(None)
        process = self.start_openstack(*self.words)
        pause.wait()
        states = sorted(self.found().values())
        wanted = [(kind, 'queued') for kind in ('aki', 'ami', 'ari')]
        self.assertEqual(wanted, states)
        return process, pause

    def kill(
        self,
        process: openstack_server.Forked,
        pause: faults_actions.Pause | None = None,
    ) -> dict[str, tuple[str, str]]:
        """Kill an upload; tell what it leaves.

        :param pause: what keeps it from sending.
        """
        process.kill()
        process.communicate()
        if pause is not None:
            pause.cut()
        # Glance needs a moment to see that nobody sends any more.
        self.way.proxy.settle()
        end = time.monotonic() + stuck.LATE
        while 'saving' in str(left := self.found()):
            self.assertLess(time.monotonic(), end, left)
            time.sleep(0.02)
        return left

    def kill_when_created(self) -> dict[str, tuple[str, str]]:
        """Kill an upload that has created all; tell what it leaves."""
        process, _ = self.start()
        return self.kill(process)

    def recover(self, left: dict[str, tuple[str, str]]) -> dict:
        """Upload again; what was left is removed or reused."""
        queued = [i for i, (_, status) in left.items() if status == 'queued']
        active = [i for i, (_, status) in left.items() if status == 'active']
        self.assertTrue(queued)
        for image in left:
            self.assertIn(marks.PROPERTY, self.get(image))
        told = self.openstack_json(*self.words, stderr=None)
        self.assertEqual(sorted(active), sorted(told['reused']))
        ids = {told['id'], told['kernel_id'], told['ramdisk_id']}
        self.assertEqual(ids, set(self.found()))
        for image in ids:
            found = self.get(image)
            self.assertEqual('active', found['status'])
            self.assertNotIn(marks.PROPERTY, found)
        return told

    def assertTold(self, left: dict[str, tuple[str, str]]) -> None:
        """What would be removed is said in one line."""
        words = (*self.words, '--dry-run')
        lines = self.run_openstack(*words).stderr.splitlines()
        told = [line for line in lines if 'that was killed left' in line]
        self.assertEqual(1, len(told), lines)
        for image, (_, status) in left.items():
            self.assertEqual(status == 'queued', image in told[0])
        # And nothing was done about it.
        self.assertEqual(left, self.found())

    def test_when_all_is_created(self) -> None:
        left = self.kill_when_created()
        self.assertTold(left)
        self.recover(left)

    def test_half_sent(self) -> None:
        pause = self.way.hold(0.5, but=(self.kernel, self.ramdisk))
        process = self.start_openstack(*self.words)
        pause.wait()
        self.await_states(('ami', 'saving'))
        left = self.kill(process, pause)
        # Glance takes nothing that is cut short.
        self.assertEqual(
            [('aki', 'active'), ('ami', 'queued'), ('ari', 'active')],
            sorted(left.values()),
        )
        self.recover(left)

    def test_in_between(self) -> None:
        # Kernel and ramdisk are there, and the filesystem is being shrunk.
        with stuck.Endless('resize2fs', self.directory) as resize2fs:
            process = self.start_openstack(*self.words)
            resize2fs.wait(process)
        self.await_states(('ari', 'active'), ('ami', 'queued'))
        left = self.kill(process)
        told = self.recover(left)
        self.assertEqual(2, len(told['reused']))

    def test_a_kernel_alone(self) -> None:
        left = self.kill_when_created()
        self.openstack_json(
            'ami', 'kernel', 'upload', self.kernel, stderr=None
        )
        self.assertNotIn(('ami', 'queued'), self.found().values())
        self.assertNotEqual(left, self.found())

    def test_a_chosen_id(self) -> None:
        # Glance never gives the id of a deleted image again.
        chosen = str(uuid.uuid4())
        self.words = (*self.words, '--id', chosen)
        left = self.kill_when_created()
        self.assertIn(chosen, left)
        finished = self.run_openstack(*self.words, '-f', 'json')
        # Nobody else has its name.
        self.assertNotIn('another image has the name', finished.stderr)
        told = json.loads(finished.stdout)
        self.assertEqual(chosen, told['id'])
        self.assertEqual('active', self.get(chosen)['status'])
        self.assertNotIn(marks.PROPERTY, self.get(chosen))
        self.assertEqual(
            {chosen, told['kernel_id'], told['ramdisk_id']}, set(self.found())
        )

    def test_one_that_lives_is_left_alone(self) -> None:
        process, pause = self.start()
        os.kill(process.pid, signal.SIGSTOP)
        theirs = self.found()
        told = self.openstack_json(*self.words, stderr=None)
        ours = {told['id'], told['kernel_id'], told['ramdisk_id']}
        self.assertFalse(ours & set(theirs))
        self.assertEqual({*ours, *theirs}, set(self.found()))
        pause.end()
        os.kill(process.pid, signal.SIGCONT)
        _, stderr = process.communicate(timeout=stuck.LATE)
        self.assertEqual(0, process.returncode, stderr)
        self.assertEqual({*ours, *theirs}, set(self.found()))
        for image in self.found():
            self.assertEqual('active', self.get(image)['status'])

    def test_what_was_kept_stays(self) -> None:
        self.words = (*self.words, '--keep-failed')
        process, _ = self.start()
        process.terminate()
        process.communicate(timeout=stuck.LATE)
        kept = self.found()
        self.assertEqual(3, len(kept))
        self.openstack_json(*self.words, stderr=None)
        self.assertLessEqual(set(kept), set(self.found()))
