# SPDX-License-Identifier: Apache-2.0


import io
import subprocess
import sys
import threading

import fixtures

from amiclient.osc import output
from amiclient import progress
from amiclient.tests import base


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class TestBars(base.TestCase):
    def setUp(self):
        super().setUp()
        for name, value in (('TERM', 'xterm'), ('COLUMNS', '120')):
            self.useFixture(fixtures.EnvironmentVariable(name, value))
        self.stream = Terminal()
        self.bars = output.watcher(self.stream, wanted=True)

    def test_a_task_is_drawn_and_wiped_off(self):
        with self.bars.task('Sending kernel', 1000) as task:
            task.advance(500)
        text = self.stream.getvalue()
        self.assertIn('Sending kernel', text)
        # ECMA-48: EL erases the line.
        self.assertIn('\x1b[2K', text.rpartition('0.0/1.0 kB')[2])

    def test_a_restart_begins_at_nothing(self):
        with self.bars.task('Sending', 1000) as task:
            task.advance(900)
            task.restart()
            task.advance(100)
            display = self.bars._display
            self.assertEqual([100], [t.completed for t in display.tasks])
            self.assertEqual(
                ['Sending (attempt 2)'],
                [t.description for t in display.tasks],
            )

    def test_tasks_of_several_threads_are_drawn_together(self):
        ready = threading.Barrier(3)

        def work(name):
            with self.bars.task(name, 10) as task:
                task.advance(10)
                ready.wait(60)
                ready.wait(60)

        threads = [
            threading.Thread(target=work, args=(name,)) for name in ('a', 'b')
        ]
        for thread in threads:
            thread.start()
        ready.wait(60)
        display = self.bars._display
        self.assertEqual({'a', 'b'}, {t.description for t in display.tasks})
        ready.wait(60)
        for thread in threads:
            thread.join()
        self.assertIsNone(self.bars._display)

    def test_what_comes_after_work_is_drawn_anew(self):
        for name in ('Shrinking', 'Sending'):
            with self.bars.task(name):
                pass
        self.assertIn('Shrinking', self.stream.getvalue())
        self.assertIn('Sending', self.stream.getvalue())

    def test_an_exception_ends_the_display(self):
        def work():
            with self.bars.task('Sending', 10):
                raise ValueError

        self.assertRaises(ValueError, work)
        self.assertIsNone(self.bars._display)


class TestWatcher(base.TestCase):
    def test_nothing_is_written_elsewhere(self):
        for stream, wanted in ((io.StringIO(), True), (Terminal(), False)):
            watcher = output.watcher(stream, wanted=wanted)
            with watcher.task('Sending', 10) as task:
                task.advance(5)
                task.restart()
            self.assertIsInstance(watcher, progress.Quiet)
            self.assertEqual('', stream.getvalue())

    def test_rich_is_loaded_only_for_bars(self):
        code = (
            'import sys, io\n'
            'from amiclient.osc import output\n'
            'w = output.watcher(io.StringIO(), wanted=True)\n'
            'with w.task("x"): pass\n'
            'assert "rich" not in sys.modules\n'
        )
        subprocess.run([sys.executable, '-c', code], check=True)
