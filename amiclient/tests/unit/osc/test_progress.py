# SPDX-License-Identifier: Apache-2.0


import contextlib
import io
import json
import logging
import pathlib
import re
import subprocess
import sys
import threading

import fixtures

from amiclient import errors
from amiclient.osc import watchers
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
        self.bars = watchers.Bars(self.stream)

    def test_a_task_is_drawn_and_wiped_off(self):
        with self.bars.task('Sending kernel', 1000) as task:
            task.advance(500)
        text = self.stream.getvalue()
        self.assertIn('Sending kernel', text)
        # ECMA-48: EL erases the line.
        self.assertIn('\x1b[2K', text.rpartition('of 1000 bytes')[2])

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
            threading.Thread(target=work, args=(name,))
            for name in ('Sending a', 'Sending b')
        ]
        for thread in threads:
            thread.start()
        ready.wait(60)
        display = self.bars._display
        self.assertEqual(
            {'Sending a', 'Sending b'}, {t.description for t in display.tasks}
        )
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

    def test_each_phase_leaves_a_line(self):
        with self.bars.task('Shrinking') as phase:
            with phase.task('Copying', 2048) as step:
                step.advance(2048)
            phase.tell('2.0 KiB -> 1.0 KiB')
        text = self.stream.getvalue()
        self.assertRegex(text, r'shrunk: 2\.0 KiB -> 1\.0 KiB in \d\.\d s\n')
        self.assertNotIn('copied', text)

    def test_there_are_no_bytes_without_a_total(self):
        with self.bars.task('Booting') as task:
            task.advance(4096)
        self.assertNotRegex(self.stream.getvalue(), 'KiB|bytes|/s')

    def test_what_is_logged_stands_above(self):
        handler = logging.StreamHandler(self.stream)
        logging.getLogger().addHandler(handler)
        self.addCleanup(logging.getLogger().removeHandler, handler)
        with self.bars.task('Sending', 1000):
            self.assertIsNot(self.stream, handler.stream)
            logging.getLogger('amiclient').error('odd')
        self.assertIs(self.stream, handler.stream)
        self.assertIn('odd\n', self.stream.getvalue())


class TestLines(base.TestCase):
    kind = watchers.Lines

    def setUp(self):
        super().setUp()
        self.stream = io.StringIO()
        self.now = 100.0
        self.watcher = self.kind(self.stream, lambda: self.now)

    def lines(self):
        return self.stream.getvalue().splitlines()

    def later(self, seconds):
        self.now += seconds
        self.watcher.tick()

    def test_a_line_for_each_phase_and_for_what_takes_long(self):
        with self.watcher.task('Sending image', 4 << 20) as task:
            self.later(9)
            task.advance(1 << 20)
            self.later(1)
            self.later(9)
            task.restart()
            self.later(1)
            self.later(40.5)
        self.assertEqual(
            [
                'sending image: 1.0 MiB of 4.0 MiB, 25 %, 10.0 s',
                'sending image (attempt 2): 0 bytes of 4.0 MiB, 0 %, 20.0 s',
                'sending image (attempt 2): 0 bytes of 4.0 MiB, 0 %, '
                '1 min 0 s',
                'sent image: 4.0 MiB in 1 min 0 s',
            ],
            self.lines(),
        )

    def test_steps_are_told_with_their_phase(self):
        with self.watcher.task('Shrinking') as phase:
            with phase.task('Copying', 2048) as step:
                step.advance(1024)
                self.later(10)
            phase.tell('2.0 KiB -> 1.0 KiB')
        with self.watcher.task('Verifying'):
            self.now += 0.2
        self.assertEqual(
            [
                'shrinking: Copying: 1.0 KiB of 2.0 KiB, 50 %, 10.0 s',
                'shrunk: 2.0 KiB -> 1.0 KiB in 10.0 s',
                'verified in 0.2 s',
            ],
            self.lines(),
        )

    def test_of_what_fails_the_error_tells(self):
        def work():
            with self.watcher.task('Sending', 10):
                raise ValueError

        self.assertRaises(ValueError, work)
        self.assertEqual([], self.lines())

    def test_nobody_has_to_read_it(self):
        self.stream.close()
        with self.watcher.task('Sending', 10):
            pass

    def test_lines_come_without_help(self):
        self.now = 0.0
        ready = threading.Event()
        self.patch(watchers, '_JSON', 0.001)
        self.watcher._say_progress = lambda *_: ready.set()
        with self.watcher.task('Booting'):
            self.now += 10
            self.assertTrue(ready.wait(60))

    def test_every_phase_can_be_done(self):
        """What is begun somewhere is also said to be done."""
        package = pathlib.Path(watchers.__file__).parents[1]
        text = ''.join(p.read_text() for p in package.rglob('*.py'))
        begun = re.findall(
            r"(?:task\(\s*|description=|payload, )f?'([A-Z][a-z]+ing)\b", text
        )
        self.assertGreater(len({*begun}), 12)
        self.assertEqual(set(), {*begun} - watchers._DONE.keys())


class TestRecords(base.TestCase):
    def test_one_object_a_line(self):
        stream, now = io.StringIO(), 5.0
        watcher = watchers.Records(stream, lambda: now)
        with watcher.task('Shrinking') as phase:
            with phase.task('Copying', 2048) as step:
                step.advance(1024)
                now += 1.5
                watcher.tick()
            phase.tell('2.0 KiB -> 1.0 KiB')
        with (
            contextlib.suppress(ValueError),
            watcher.task('Sending image', 7) as task,
        ):
            task.advance(3)
            raise ValueError
        found = [json.loads(line) for line in stream.getvalue().splitlines()]
        self.assertEqual(
            ['started', 'progress', 'finished', 'started', 'failed'],
            [record['event'] for record in found],
        )
        self.assertEqual(
            {
                'event': 'progress',
                'phase': 'Shrinking',
                'step': 'Copying',
                'bytes': 1024,
                'total': 2048,
                'attempt': 1,
                'seconds': 1.5,
                'result': None,
            },
            found[1],
        )
        self.assertEqual('2.0 KiB -> 1.0 KiB', found[2]['result'])
        self.assertEqual(3, found[4]['bytes'])


class TestChoice(base.TestCase):
    def chosen(self, stream, asked=None, *, quiet=False):
        return type(watchers.choose(stream, asked, quiet=quiet))

    def test_by_the_stream_and_the_options(self):
        self.useFixture(fixtures.EnvironmentVariable('TERM', 'xterm'))
        self.useFixture(fixtures.EnvironmentVariable(watchers.VARIABLE))
        pipe, screen = io.StringIO(), Terminal()
        for expected, *given in (
            (watchers.Lines, pipe),
            (watchers.Bars, screen),
            (watchers.Lines, screen, 'plain'),
            (watchers.Lines, pipe, 'bar'),
            (watchers.Records, screen, 'json'),
            (progress.Quiet, screen, 'none'),
        ):
            self.assertIs(expected, self.chosen(*given), given)
        for stream in (pipe, screen):
            self.assertIs(progress.Quiet, self.chosen(stream, quiet=True))
        # Who asks for something in particular gets it.
        self.assertIs(watchers.Lines, self.chosen(pipe, 'plain', quiet=True))
        self.useFixture(fixtures.EnvironmentVariable('TERM', 'dumb'))
        self.assertIs(watchers.Lines, self.chosen(screen))

    def test_by_the_environment(self):
        for way, expected in (
            ('json', watchers.Records),
            ('none', progress.Quiet),
        ):
            self.useFixture(
                fixtures.EnvironmentVariable(watchers.VARIABLE, way)
            )
            self.assertIs(expected, self.chosen(io.StringIO()))
        self.assertIs(watchers.Lines, self.chosen(io.StringIO(), 'plain'))
        self.useFixture(
            fixtures.EnvironmentVariable(watchers.VARIABLE, 'loud')
        )
        error = self.assertRaises(
            errors.UsageError, self.chosen, io.StringIO()
        )
        self.assertIn('AMICLIENT_PROGRESS', str(error))

    def test_rich_is_loaded_only_for_bars(self):
        code = (
            'import sys, io\n'
            'from amiclient.osc import watchers\n'
            'w = watchers.choose(io.StringIO(), "plain", quiet=False)\n'
            'with w.task("Sending"): pass\n'
            'assert "rich" not in sys.modules\n'
        )
        subprocess.run([sys.executable, '-c', code], check=True)
