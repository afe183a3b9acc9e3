# SPDX-License-Identifier: Apache-2.0

"""Programs are started, waited for, and ended."""

from collections.abc import Callable
import itertools
import os
import pathlib
import resource
import signal
import subprocess
import sys
import threading
import time
import types

from amiclient import distribution
from amiclient import errors
from amiclient import process
from amiclient.tests import base
from amiclient.tests.unit.ext import shrinking


class TestFind(base.TestCase):
    def test_missing(self) -> None:
        error = self.assertRaises(
            errors.ProgramError,
            process.run,
            ['no-such-program-here'],
            access=None,
        )
        self.assertEqual('no-such-program-here was not found', str(error))

    def test_missing_with_a_package_to_install(self) -> None:
        self.useFixture(shrinking.variable('PATH', str(self.tmp())))
        self.patch(process, '_SBIN', ())
        error = self.assertRaises(
            errors.ProgramError, process.find, 'resize2fs'
        )
        self.assertEqual(
            f'resize2fs was not found; {distribution.remedy("resize2fs")}',
            str(error),
        )

    def test_where_ordinary_users_do_not_look(self) -> None:
        self.useFixture(shrinking.variable('PATH', '/usr/bin:/bin'))
        self.assertTrue(process.find('e2fsck').endswith('sbin/e2fsck'))

    def test_users_choice_comes_first(self) -> None:
        directory = self.tmp()
        own = directory / 'e2fsck'
        own.write_text('#!/bin/sh\n')
        own.chmod(0o755)
        self.useFixture(shrinking.variable('PATH', f'{directory}:/usr/bin'))
        self.assertEqual(str(own), process.find('e2fsck'))


class TestRun(base.TestCase):
    def test_limit_of_file_sizes(self) -> None:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_FSIZE, limits)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        target = self.tmp() / 'target'
        error = self.assertRaises(
            process.ProgramFailed,
            process.run,
            ['dd', 'if=/dev/zero', f'of={target}', 'bs=4097', 'count=1'],
            access=None,
        )
        self.assertIn('dd was stopped: files are limited to 4096 ', str(error))
        self.assertIn('; raise the limit: ulimit -f unlimited', str(error))

    def sh(self, script: str, **rest: object) -> process.Result:
        return process.run(['sh', '-c', script], **rest, access=None)

    def test_result(self) -> None:
        result = self.sh('echo out; printf "one\\n two\\n" >&2')
        self.assertEqual((0, b'out\n'), (result.status, result.stdout))
        self.assertEqual('out\n', result.text)
        self.assertEqual('one two', result.tail())

    def test_bytes_that_are_no_text(self) -> None:
        result = self.sh('printf "\\377\\n"; printf "\\376" >&2')
        self.assertEqual(b'\xff\n', result.stdout)
        self.assertEqual('\\xff\n', result.text)
        self.assertEqual('\\xfe', result.stderr)

    def test_status(self) -> None:
        for status in (1, 4, 255):
            error = self.assertRaises(
                process.ProgramFailed, self.sh,
                f'echo why >&2; exit {status}',
            )  # fmt: skip
            self.assertEqual(
                f'sh failed with exit status {status}: why', str(error)
            )
            self.assertEqual(status, error.result.status)

    def test_allowed_status(self) -> None:
        self.assertEqual(3, self.sh('exit 3', ok=(0, 3)).status)
        self.assertRaises(process.ProgramFailed, self.sh, 'true', ok=(3,))

    def test_message_is_one_line_and_not_endless(self) -> None:
        error = self.assertRaises(
            process.ProgramFailed, self.sh,
            'for i in $(seq 1000); do echo line $i >&2; done; exit 1',
        )  # fmt: skip
        self.assertNotIn('\n', str(error))
        self.assertLess(len(str(error)), 400)
        self.assertIn('line 1000', str(error))

    def test_message_from_stdout_if_there_is_no_other(self) -> None:
        error = self.assertRaises(
            process.ProgramFailed, self.sh, 'echo so it is; exit 1'
        )
        self.assertIn('so it is', str(error))

    def test_killed(self) -> None:
        error = self.assertRaises(
            process.ProgramFailed, self.sh, 'kill -SEGV $$', ok=range(256)
        )
        self.assertEqual('sh was killed by SIGSEGV', str(error))
        self.assertEqual(-signal.SIGSEGV, error.result.status)

    def test_environment(self) -> None:
        self.useFixture(shrinking.variable('LC_ALL', 'de_DE.UTF-8'))
        self.useFixture(shrinking.variable('KEPT', 'yes'))
        result = self.sh('echo $LC_ALL $KEPT $MORE', env={'MORE': 'too'})
        self.assertEqual('C yes too\n', result.text)
        self.assertNotIn('MORE', os.environ)

    def test_input(self) -> None:
        self.assertEqual(b'', self.sh('cat').stdout)
        data = self.random.randbytes(3_000_000)
        self.assertEqual(data, self.sh('cat', input=data).stdout)
        event = threading.Event()
        self.assertEqual(
            data, self.sh('sleep 0.3; cat', input=data, cancel=event).stdout
        )

    def test_directory(self) -> None:
        directory = self.tmp()
        result = process.run(['pwd', '-P'], cwd=directory, access=None)
        self.assertEqual(f'{directory.resolve()}\n', result.text)

    def test_paths_and_odd_words(self) -> None:
        words = ['a b', '$HOME', '`id`', '*', '-n', "'", 'ä\udcff']
        result = process.run(
            ['printf', '%s\\n', *words, pathlib.Path('/x')], access=None
        )
        self.assertEqual(
            os.fsencode('\n'.join([*words, '/x', ''])), result.stdout
        )

    def test_of_a_session_of_its_own(self) -> None:
        # So that a Ctrl-C at the terminal does not reach it.
        script = 'import os; print(os.getpid(), os.getsid(0))'
        result = process.run([sys.executable, '-c', script], access=None)
        number, leader = result.text.split()
        self.assertEqual(number, leader)
        self.assertNotEqual(os.getsid(0), int(leader))


class TestEnding(base.TestCase):
    #: Goes on once it may, and a little later.
    _GOES_ON = """
        echo on > "$1"
        until test -e "$1.go"; do sleep 0.05; done
        sleep 0.3
        echo done > "$1"
    """

    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.mark = self.directory / 'mark'
        self.event = threading.Event()

    def run_program(self, script: str, **rest: object) -> process.Result:
        return process.run(
            ['sh', '-c', script, 'sh', self.mark], **rest, access=None
        )

    def has_begun(self) -> bool:
        """Tell whether the program has made its mark."""
        return self.mark.exists() and bool(self.mark.read_text())

    def advance_clock(self) -> None:
        """Have hours pass at each look once the program made its mark."""
        hours = itertools.count(1)

        def monotonic() -> float:
            return 10_000.0 * next(hours) if self.has_begun() else 0.0

        clock = types.SimpleNamespace(monotonic=monotonic)
        self.patch(process, 'time', clock)

    def once_it_runs(self, action: Callable[[], object]) -> None:
        """Do something when the program has made its mark."""

        def watch() -> None:
            end = time.monotonic() + 60
            while time.monotonic() < end and not self.has_begun():
                time.sleep(0.01)
            action()

        thread = threading.Thread(target=watch)
        thread.start()
        self.addCleanup(thread.join)

    def and_go_on(self, action: Callable[[], object]) -> Callable[[], None]:
        """Do something, and then let the program go on."""

        def both() -> None:
            action()
            self.mark.with_name('mark.go').touch()

        return both

    def test_cancelled(self) -> None:
        self.once_it_runs(self.event.set)
        began = time.monotonic()
        self.assertRaises(
            errors.CancelledError, self.run_program,
            'echo $$ > "$1"; exec sleep 60', cancel=self.event,
        )  # fmt: skip
        self.assertLess(time.monotonic() - began, 30)
        self.assert_ended()

    def test_cancelled_before(self) -> None:
        self.event.set()
        self.assertRaises(
            errors.CancelledError, self.run_program,
            'echo $$ > "$1"', cancel=self.event,
        )  # fmt: skip
        self.assertFalse(self.mark.exists())

    def test_cancelled_but_stubborn(self) -> None:
        self.once_it_runs(self.event.set)
        self.patch(process, '_GRACE', 0.2)
        self.assertRaises(
            errors.CancelledError, self.run_program,
            'trap "" TERM; echo $$ > "$1"; while :; do sleep 0.05; done',
            cancel=self.event,
        )  # fmt: skip
        self.assert_ended()

    def test_not_to_be_interrupted(self) -> None:
        self.once_it_runs(self.and_go_on(self.event.set))
        self.run_program(self._GOES_ON, cancel=self.event, interruptible=False)
        self.assertEqual('done\n', self.mark.read_text())

    def test_too_slow(self) -> None:
        self.advance_clock()
        error = self.assertRaises(
            errors.ProgramError, self.run_program,
            'echo $$ > "$1"; sleep 1000; true', limit=2,
        )  # fmt: skip
        self.assertIn('sh was stopped: it took more than', str(error))
        self.assertNotIn('\n', str(error))
        self.assert_ended()

    def test_what_it_started_ends_as_well(self) -> None:
        self.advance_clock()
        self.assertRaises(
            errors.ProgramError, self.run_program,
            'sleep 1000 & echo $! > "$1"; wait', limit=2,
        )  # fmt: skip
        number = int(self.mark.read_text())
        end = time.monotonic() + 60
        while self.runs(number):
            self.assertLess(time.monotonic(), end)
            time.sleep(0.01)

    def runs(self, number: int) -> bool:
        try:
            state = pathlib.Path(f'/proc/{number}/stat').read_text()
        except (FileNotFoundError, ProcessLookupError):
            # Gone, before it was opened or before it was read.
            return False
        return ' Z ' not in state

    def test_what_must_not_be_interrupted_takes_its_time(self) -> None:
        self.run_program(
            'sleep 0.5; echo done > "$1"', limit=0.1, interruptible=False
        )
        self.assertEqual('done\n', self.mark.read_text())

    def ctrl_c_while_it_starts(self) -> list['subprocess.Popen[bytes]']:
        self.with_handler()
        start = subprocess.Popen
        children = []

        def started(*args: object, **rest: object) -> object:
            children.append(start(*args, **rest))
            signal.raise_signal(signal.SIGINT)
            return children[0]

        self.patch(subprocess, 'Popen', started)
        return children

    def test_ctrl_c_while_what_must_not_be_interrupted_starts(self) -> None:
        self.ctrl_c_while_it_starts()
        self.assertRaises(
            KeyboardInterrupt, self.run_program,
            'sleep 0.3; echo done > "$1"', interruptible=False,
        )  # fmt: skip
        self.assertEqual('done\n', self.mark.read_text())

    def test_ctrl_c_while_it_starts(self) -> None:
        # A program that was started, but is not known yet, could not be ended.
        children = self.ctrl_c_while_it_starts()
        self.patch(process, '_GRACE', 60.0)
        self.assertRaises(
            KeyboardInterrupt, self.run_program,
            'echo $$ > "$1"; exec sleep 60',
        )  # fmt: skip
        self.assertEqual(-signal.SIGTERM, children[0].returncode)

    def test_ctrl_c(self) -> None:
        self.once_it_runs(lambda: os.kill(os.getpid(), signal.SIGINT))
        self.with_handler()
        self.assertRaises(
            KeyboardInterrupt, self.run_program,
            'echo $$ > "$1"; exec sleep 60',
        )  # fmt: skip
        self.assert_ended()

    def test_ctrl_c_before_it_is_waited_for(self) -> None:
        pumps = process._pumps

        def interrupted(*args: object) -> None:
            pumps(*args)
            raise KeyboardInterrupt

        self.patch(process, '_pumps', interrupted)
        began = time.monotonic()
        self.assertRaises(KeyboardInterrupt, self.run_program, 'exec sleep 60')
        self.assertLess(time.monotonic() - began, 30)

    def test_ctrl_c_is_held_back(self) -> None:
        self.once_it_runs(
            self.and_go_on(lambda: os.kill(os.getpid(), signal.SIGINT))
        )
        self.with_handler()
        self.assertRaises(
            KeyboardInterrupt, self.run_program, self._GOES_ON,
            interruptible=False,
        )  # fmt: skip
        self.assertEqual('done\n', self.mark.read_text())

    def with_handler(self) -> None:
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.addCleanup(signal.signal, signal.SIGINT, before)

    def assert_ended(self) -> None:
        number = int(self.mark.read_text())
        self.assertRaises(ProcessLookupError, os.kill, number, 0)
