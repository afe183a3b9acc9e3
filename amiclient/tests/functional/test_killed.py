#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.


"""What an upload that was killed leaves, and what the next one does."""

import json
import os
import signal
import subprocess
import time
import uuid

from amiclient.glance.upload import marks
from amiclient.tests.functional import upload
from amiclient.tests import triple

#: Seconds after which what should have happened has not.
LATE = 60

#: Seconds without a change after which there will be none.
QUIET = 1.0


class TestKilled(upload.UploadCase):
    """kill -9, in a process of its own."""

    def setUp(self) -> None:
        super().setUp()
        # Enough to be killed while it is shrunk, or sent.
        self.root = triple.root(
            self.folder, size=512 * 2**20, data=128 * 2**20
        )
        self.words = ('ami', 'upload', self.root, *self.parts)

    def found(self) -> dict[str, tuple[str, str]]:
        """Tell format and status of all images, by their ids."""
        answer = self.image.get('/images?limit=100').json()
        return {
            image['id']: (image['disk_format'], image['status'])
            for image in answer['images']
        }

    def start(self, *wanted: tuple[str, str]) -> subprocess.Popen:
        """Start an upload; return when some images came to some states."""
        process = self.start_openstack(*self.words)
        end = time.monotonic() + LATE
        while time.monotonic() < end:
            if set(wanted) <= set(self.found().values()):
                return process
            time.sleep(0.01)
        raise AssertionError(f'never were there {wanted}: {self.found()}')

    def kill(self, *wanted: tuple[str, str]) -> dict[str, tuple[str, str]]:
        """Kill an upload at a certain moment; tell what it leaves."""
        process = self.start(*wanted)
        process.kill()
        process.communicate()
        # Glance needs a moment to see that nobody sends any more; and another
        # before that, if it has not even begun with what was sent.
        end = time.monotonic() + LATE
        before, quiet = self.found(), time.monotonic()
        while time.monotonic() - quiet < QUIET:
            self.assertLess(time.monotonic(), end, before)
            time.sleep(0.05)
            after = self.found()
            if after != before or ('saving' in str(after.values())):
                before, quiet = after, time.monotonic()
        return before

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
        told = [line for line in lines if 'was killed has left' in line]
        self.assertEqual(1, len(told), lines)
        for image, (_, status) in left.items():
            self.assertEqual(status == 'queued', image in told[0])
        # And nothing was done about it.
        self.assertEqual(left, self.found())

    def test_when_all_is_created(self) -> None:
        left = self.kill(('ami', 'queued'))
        self.assertTold(left)
        self.recover(left)

    def test_half_sent(self) -> None:
        left = self.kill(('ami', 'saving'))
        # Glance takes nothing that is cut short.
        self.assertEqual(
            [('aki', 'active'), ('ami', 'queued'), ('ari', 'active')],
            sorted(left.values()),
        )
        self.recover(left)

    def test_in_between(self) -> None:
        # Kernel and ramdisk are there, and the filesystem is being shrunk.
        left = self.kill(('ari', 'active'), ('ami', 'queued'))
        told = self.recover(left)
        self.assertEqual(2, len(told['reused']))

    def test_a_kernel_alone(self) -> None:
        left = self.kill(('ami', 'queued'))
        self.openstack_json(
            'ami', 'kernel', 'upload', self.kernel, stderr=None
        )
        self.assertNotIn(('ami', 'queued'), self.found().values())
        self.assertNotEqual(left, self.found())

    def test_a_chosen_id(self) -> None:
        # Glance never gives the id of a deleted image again.
        chosen = str(uuid.uuid4())
        self.words = (*self.words, '--id', chosen)
        left = self.kill(('ami', 'queued'))
        self.assertIn(chosen, left)
        finished = self.run_openstack(*self.words, '-f', 'json')
        # Nobody else has its name.
        self.assertNotIn('is taken already', finished.stderr)
        told = json.loads(finished.stdout)
        self.assertEqual(chosen, told['id'])
        self.assertEqual('active', self.get(chosen)['status'])
        self.assertNotIn(marks.PROPERTY, self.get(chosen))
        self.assertEqual(
            {chosen, told['kernel_id'], told['ramdisk_id']}, set(self.found())
        )

    def test_one_that_lives_is_left_alone(self) -> None:
        process = self.start(('ami', 'queued'))
        os.kill(process.pid, signal.SIGSTOP)
        theirs = self.found()
        told = self.openstack_json(*self.words, stderr=None)
        ours = {told['id'], told['kernel_id'], told['ramdisk_id']}
        self.assertFalse(ours & set(theirs))
        self.assertEqual({*ours, *theirs}, set(self.found()))
        os.kill(process.pid, signal.SIGCONT)
        _, stderr = process.communicate(timeout=LATE)
        self.assertEqual(0, process.returncode, stderr)
        self.assertEqual({*ours, *theirs}, set(self.found()))
        for image in self.found():
            self.assertEqual('active', self.get(image)['status'])

    def test_what_was_kept_stays(self) -> None:
        self.words = (*self.words, '--keep-failed')
        process = self.start(('ami', 'queued'))
        process.terminate()
        process.communicate(timeout=LATE)
        kept = self.found()
        self.assertEqual(3, len(kept))
        self.openstack_json(*self.words, stderr=None)
        self.assertLessEqual(set(kept), set(self.found()))
