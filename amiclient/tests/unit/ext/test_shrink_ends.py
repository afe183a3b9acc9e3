# SPDX-License-Identifier: Apache-2.0

"""A shrink that is ended half way leaves the source, and nothing else."""

import contextlib
import os
import signal
import subprocess
import threading
import time

from amiclient import errors
from amiclient.ext import shrink
from amiclient.tests import base
from amiclient.tests.oracle import exttree
from amiclient.tests.unit.ext import shrinking

_MIB = 1 << 20
_MOMENTS = ('Planned', 'Copying', 'Resizing', 'Verifying')
_SECONDS = 180


class _EndsTest(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.image = shrinking.small(
            self.directory, size=48 * _MIB, data=6 * _MIB
        )
        self.names = sorted(os.listdir(self.directory))
        self.before = shrinking.digest(self.image)
        self.status = self.image.stat()

    def untouched(self) -> None:
        self.assertEqual(self.before, shrinking.digest(self.image))
        now = self.image.stat()
        self.assertEqual(self.status.st_ino, now.st_ino)
        self.assertEqual(self.status.st_mtime_ns, now.st_mtime_ns)

    def end(
        self, moment: str, number: int, **rest: object
    ) -> subprocess.Popen[str]:
        """Send a signal at the beginning of a task, and wait for the end.

        The task does not end before it was sent.
        """
        child = shrinking.child(
            self.image, waits=moment == 'Planned', stays=moment, **rest
        )
        self.addCleanup(self._reap, child)
        for line in child.stdout:
            if line.strip() == moment:
                break
        else:
            self.fail(child.stderr.read())
        os.kill(child.pid, number)
        # What a signal does not end goes on.
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write('\n')
            child.stdin.flush()
        child.wait(_SECONDS)
        return child

    def _reap(self, child: subprocess.Popen[str]) -> None:
        child.kill()
        child.communicate()


@shrinking.for_each(*_MOMENTS)
class TestSignals(_EndsTest):
    def check_ctrl_c(self, moment: str) -> None:
        child = self.end(moment, signal.SIGINT)
        self.assertEqual(130, child.returncode, child.stderr.read())
        self.assertEqual(self.names, sorted(os.listdir(self.directory)))
        self.untouched()

    def check_terminate(self, moment: str) -> None:
        output = self.tmp() / 'output'
        child = self.end(moment, signal.SIGTERM, output=output)
        self.assertEqual(143, child.returncode, child.stderr.read())
        self.assertEqual([], os.listdir(output.parent))
        self.untouched()

    def check_kill(self, moment: str) -> None:
        output = self.directory / 'output'
        child = self.end(moment, signal.SIGKILL, output=output)
        self.assertEqual(-signal.SIGKILL, child.returncode)
        self.assertFalse(output.exists())
        self.untouched()

    def check_killed_while_replacing(self, moment: str) -> None:
        self.end(moment, signal.SIGKILL)
        # The old one, whole, under its name.
        self.untouched()


@shrinking.for_each('Testing the shrink', 'Resizing', 'Verifying')
class TestSignalsInPlace(_EndsTest):
    def check_ctrl_c(self, moment: str) -> None:
        tree = exttree.read_tree(self.image)
        child = self.end(moment, signal.SIGINT, in_place=True)
        self.assertEqual(130, child.returncode, child.stderr.read())
        self.assertEqual(self.names, sorted(os.listdir(self.directory)))
        if moment == 'Testing the shrink':
            self.untouched()
        # What had begun was ended: whatever size, it is in order.
        self.assertTrue(shrinking.is_sound(self.image))
        self.assertEqual(
            [],
            exttree.diff_trees(
                tree, exttree.read_tree(self.image), ignore=('mtime', 'ctime')
            ),
        )


class TestJournalToBeReplayed(_EndsTest):
    def setUp(self) -> None:
        super().setUp()
        self.image = shrinking.shape('needs-recovery', self.directory)
        self.names = sorted(os.listdir(self.directory))
        self.before = shrinking.digest(self.image)
        self.status = self.image.stat()

    def test_terminate(self) -> None:
        for moment in ('Copying', 'Repairing'):
            child = self.end(moment, signal.SIGTERM)
            self.assertEqual(143, child.returncode, child.stderr.read())
            self.assertEqual(self.names, sorted(os.listdir(self.directory)))
            self.untouched()


@shrinking.for_each('Copying', 'Resizing', 'Verifying')
class TestCancel(_EndsTest):
    def check_cancel(self, moment: str) -> None:
        event = threading.Event()
        since: list[float] = []

        class Watch(shrinking.Watch):
            def begun(self, description: str) -> None:
                if description == moment:
                    event.set()
                    since.append(time.monotonic())

        output = self.directory / 'output'
        planned = shrink.plan(shrinking.request(self.image, output=output))
        self.assertRaises(
            errors.CancelledError, shrink.execute, planned,
            progress=Watch(), cancel=event,
        )  # fmt: skip
        self.assertLess(time.monotonic() - since[0], 60)
        self.assertEqual(self.names, sorted(os.listdir(self.directory)))
        self.untouched()


class TestCancelInPlace(_EndsTest):
    def test_goes_on(self) -> None:
        # There is no way back from half of it.
        event = threading.Event()

        class Watch(shrinking.Watch):
            def begun(self, description: str) -> None:
                if description == 'Resizing':
                    event.set()

        done = shrinking.shrunk(
            self.image, in_place=True, cancel=event, progress=Watch()
        )
        self.assertTrue(event.is_set())
        self.assertEqual(done.size, self.image.stat().st_size)
        self.assertTrue(shrinking.is_sound(self.image))


class TestChangedMeanwhile(_EndsTest):
    def refused(self, change: object, moment: str, **rest: object) -> None:
        to_come = [moment]

        class Watch(shrinking.Watch):
            def begun(self, description: str) -> None:
                # It may begin more than once.
                if description in to_come:
                    to_come.remove(description)
                    change()

        planned = shrink.plan(shrinking.request(self.image, **rest))
        error = self.assertRaises(
            errors.SourceError, shrink.execute, planned, progress=Watch()
        )
        self.assertIn(str(self.image), str(error))
        self.assertNotIn('\n', str(error))
        self.assertEqual(self.names, sorted(os.listdir(self.directory)))

    def test_written_to(self) -> None:
        for moment in ('Copying', 'Verifying'):
            self.refused(
                lambda: shrinking.overwrite(self.image, 0, b'changed'), moment
            )

    def test_written_to_while_it_is_to_be_resized_in_place(self) -> None:
        size = self.image.stat().st_size
        self.refused(
            lambda: shrinking.overwrite(self.image, 0, b'changed'),
            'Testing the shrink', in_place=True,
        )  # fmt: skip
        self.assertEqual(size, self.image.stat().st_size)
        self.assertTrue(shrinking.is_sound(self.image))

    def test_replaced_while_it_is_to_be_resized_in_place(self) -> None:
        other = shrinking.small(self.tmp())
        before = shrinking.digest(other)
        self.refused(
            lambda: os.replace(other, self.image),
            'Testing the shrink', in_place=True,
        )  # fmt: skip
        self.assertEqual(before, shrinking.digest(self.image))

    def test_replaced_by_another(self) -> None:
        other = shrinking.small(self.tmp())

        def replace() -> None:
            os.replace(other, self.image)

        self.refused(replace, 'Resizing')
        self.assertEqual(24 * _MIB, self.image.stat().st_size)

    def test_cut_short(self) -> None:
        self.refused(lambda: os.truncate(self.image, 30 * _MIB), 'Resizing')
