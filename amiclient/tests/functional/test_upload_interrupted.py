# SPDX-License-Identifier: Apache-2.0

"""Uploads that end too early leave nothing behind."""

import os
import signal
import time

from amiclient.tests.cloud import forkserver as openstack_server
from amiclient.tests.disks import triple
from amiclient.tests.faults import actions as faults_actions
from amiclient.tests.faults import stuck
from amiclient.tests.functional import upload

#: Seconds after which what should have happened has not.


class TestInterrupted(upload.UploadCase):
    """Ctrl-C and worse, in a process of its own."""

    def setUp(self) -> None:
        super().setUp()
        # More than the buffers of sockets hold.
        self.root = triple.root(
            self.directory, size=12 * 2**20, data=6 * 2**20
        )
        self.words = ('ami', 'upload', self.root, *self.parts, *self.less)
        self.way = self.useFixture(stuck.Way(self.cloud, self.directory))

    def await_status(self, *statuses: str, kind: str = 'ami') -> dict:
        """Wait for an image to come to one of some states."""
        end = time.monotonic() + stuck.LATE
        while time.monotonic() < end:
            answer = self.image.get(f'/images?disk_format={kind}').json()
            for image in answer['images']:
                if image['status'] in statuses:
                    return image
            time.sleep(0.02)
        raise AssertionError(f'no image became {statuses}')

    def shrinking(self) -> openstack_server.Forked:
        """Start an upload that does not come to the end of shrinking."""
        resize2fs = self.useFixture(stuck.Endless('resize2fs', self.directory))
        process_ = self.start_openstack(*self.words)
        resize2fs.wait(process_)
        self.await_status('queued')
        return process_

    def sending(
        self,
    ) -> tuple[openstack_server.Forked, faults_actions.Pause, dict]:
        """Start an upload that comes to the middle of sending the AMI.

        :returns: its process, what keeps it from going on, and the image.
        """
        pause = self.way.hold(0.5, but=(self.kernel, self.ramdisk))
        process_ = self.start_openstack(*self.words)
        pause.wait()
        return process_, pause, self.await_status('saving')

    def interrupted(
        self, process_: openstack_server.Forked
    ) -> tuple[int, str]:
        """Wait for the end of an upload that got a signal.

        :returns: the exit status, and what was written on stderr.
        """
        stdout, stderr = process_.communicate(timeout=stuck.LATE)
        self.assertEqual('', stdout)
        self.assertEqual([], self.images())
        self.assertNothingLeft()
        return process_.returncode, stderr

    def test_ctrl_c_while_shrinking(self) -> None:
        process_ = self.shrinking()
        os.kill(process_.pid, signal.SIGINT)
        self.assertEqual(
            (130, 'interrupted; nothing was left behind\n'),
            self.interrupted(process_),
        )

    def test_ctrl_c_while_sending(self) -> None:
        process_, _, _ = self.sending()
        os.kill(process_.pid, signal.SIGINT)
        self.assertEqual(
            (130, 'interrupted; nothing was left behind\n'),
            self.interrupted(process_),
        )

    def test_sigterm(self) -> None:
        process_, _, _ = self.sending()
        os.kill(process_.pid, signal.SIGTERM)
        self.assertEqual(
            (143, 'interrupted; nothing was left behind\n'),
            self.interrupted(process_),
        )

    def test_impatience(self) -> None:
        process_ = self.shrinking()
        # The second comes while the effects of the first are undone.
        undoing = self.way.hold(None, method='DELETE', path='/v2/images/')
        os.kill(process_.pid, signal.SIGINT)
        undoing.wait()
        os.kill(process_.pid, signal.SIGINT)
        undoing.end()
        _, stderr = self.interrupted(process_)
        self.assertIn('interrupted; nothing was left behind\n', stderr)
        self.assertNotIn('Traceback', stderr)

    def test_what_is_reused_stays(self) -> None:
        kernel = self.openstack_json('ami', 'kernel', 'upload', self.kernel)
        process_ = self.shrinking()
        os.kill(process_.pid, signal.SIGINT)
        process_.communicate(timeout=stuck.LATE)
        self.assertEqual(130, process_.returncode)
        self.assertEqual([kernel['id']], self.images())

    def test_an_image_that_somebody_deletes(self) -> None:
        process_, pause, image = self.sending()
        self.image.delete(f'/images/{image["id"]}')
        pause.end()
        _, stderr = process_.communicate(timeout=stuck.LATE)
        self.assertEqual(1, process_.returncode)
        self.assertIn(image['id'], stderr)
        self.assertEqual(1, stderr.count('\n'), stderr)
        self.assertEqual([], self.images())
        self.assertNothingLeft()

    def test_keep_failed(self) -> None:
        self.words += ('--keep-failed',)
        process_ = self.shrinking()
        os.kill(process_.pid, signal.SIGTERM)
        _, stderr = process_.communicate(timeout=stuck.LATE)
        self.assertEqual(3, len(self.images()))
        for image in self.images():
            self.assertIn(image, stderr)
        self.assertNothingLeft()
