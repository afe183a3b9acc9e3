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


"""Uploads that end too early leave nothing behind."""

import os
import signal
import time

from amiclient.tests.functional import upload
from amiclient.tests import triple

#: Seconds after which what should have happened has not.
LATE = 60


class TestInterrupted(upload.UploadCase):
    """Ctrl-C and worse, in a process of its own."""

    def setUp(self) -> None:
        super().setUp()
        # Enough to be interrupted while it is shrunk, or sent.
        self.root = triple.root(
            self.folder, size=512 * 2**20, data=128 * 2**20
        )
        self.words = ('ami', 'upload', self.root, *self.parts)

    def await_status(self, *statuses: str, kind: str = 'ami') -> dict:
        """Wait for an image to come to one of some states."""
        end = time.monotonic() + LATE
        while time.monotonic() < end:
            answer = self.image.get(f'/images?disk_format={kind}').json()
            for image in answer['images']:
                if image['status'] in statuses:
                    return image
            time.sleep(0.02)
        raise AssertionError(f'no image became {statuses}')

    def interrupt(self, status: str, *signals: int) -> tuple[int, str]:
        """Send signals when the AMI comes to a state.

        :returns: the exit status, and what was written on stderr.
        """
        process_ = self.start_openstack(*self.words)
        self.await_status(status)
        for number in signals:
            os.kill(process_.pid, number)
            time.sleep(0.1)
        stdout, stderr = process_.communicate(timeout=LATE)
        self.assertEqual('', stdout)
        self.assertEqual([], self.images())
        self.assertNothingLeft()
        return process_.returncode, stderr

    def test_ctrl_c_while_shrinking(self) -> None:
        self.assertEqual(
            (130, 'interrupted; nothing was left behind\n'),
            self.interrupt('queued', signal.SIGINT),
        )

    def test_ctrl_c_while_sending(self) -> None:
        self.assertEqual(
            (130, 'interrupted; nothing was left behind\n'),
            self.interrupt('saving', signal.SIGINT),
        )

    def test_sigterm(self) -> None:
        self.assertEqual(
            (143, 'interrupted; nothing was left behind\n'),
            self.interrupt('saving', signal.SIGTERM),
        )

    def test_impatience(self) -> None:
        _, stderr = self.interrupt('queued', signal.SIGINT, signal.SIGINT)
        self.assertIn('interrupted; nothing was left behind\n', stderr)
        self.assertNotIn('Traceback', stderr)

    def test_what_is_reused_stays(self) -> None:
        kernel = self.openstack_json('ami', 'kernel', 'upload', self.kernel)
        process_ = self.start_openstack(*self.words)
        self.await_status('queued')
        os.kill(process_.pid, signal.SIGINT)
        process_.communicate(timeout=LATE)
        self.assertEqual(130, process_.returncode)
        self.assertEqual([kernel['id']], self.images())

    def test_an_image_that_somebody_deletes(self) -> None:
        process_ = self.start_openstack(*self.words)
        image = self.await_status('saving')
        self.image.delete(f'/images/{image["id"]}')
        _, stderr = process_.communicate(timeout=LATE)
        self.assertEqual(1, process_.returncode)
        self.assertIn(image['id'], stderr)
        self.assertEqual(1, stderr.count('\n'), stderr)
        self.assertEqual([], self.images())
        self.assertNothingLeft()

    def test_keep_failed(self) -> None:
        self.words += ('--keep-failed',)
        process_ = self.start_openstack(*self.words)
        self.await_status('queued')
        os.kill(process_.pid, signal.SIGTERM)
        _, stderr = process_.communicate(timeout=LATE)
        self.assertEqual(3, len(self.images()))
        for image in self.images():
            self.assertIn(image, stderr)
        self.assertNothingLeft()
