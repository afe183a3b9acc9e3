# SPDX-License-Identifier: Apache-2.0

"""Programs that run beside this one end with it, however it ends."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import fixtures

from amiclient import errors
from amiclient import process
from amiclient.tests import base

#: Starts a program, tells its number, and waits to be killed.
_PARENT = """
import time
from amiclient import process
with process.background(['sleep', '60'], access=None) as program:
    print(program.pid, flush=True)
    time.sleep(60)
"""

#: Takes until a file is there.
_SLOW_SETPRIV = """#!/bin/sh
until test -e {mark}; do sleep 0.01; done
exec {setpriv} "$@"
"""


def runs(pid: int) -> bool:
    try:
        state = pathlib.Path(f'/proc/{pid}/stat').read_text()
    except (FileNotFoundError, ProcessLookupError):
        # Gone, before it was opened or before it was read.
        return False
    return state.rpartition(')')[2].split()[0] != 'Z'


class TestBackground(base.TestCase):
    def assert_ends(self, pid: int) -> None:
        end = time.monotonic() + 30
        while runs(pid):
            self.assertLess(time.monotonic(), end)
            time.sleep(0.01)

    def test_ends_with_the_block(self) -> None:
        self.patch(process, '_GRACE', 60.0)
        with process.background(['sleep', '60'], access=None) as program:
            self.assertTrue(runs(program.pid))
            self.assertIsNone(program.status)
            self.assertFalse(program.wait(0.01))
        self.assertFalse(runs(program.pid))
        self.assertEqual(-signal.SIGTERM, program.status)

    def test_ends_with_an_error(self) -> None:
        programs = []

        def fail() -> None:
            with process.background(['sleep', '60'], access=None) as program:
                programs.append(program)
                raise KeyboardInterrupt

        self.assertRaises(KeyboardInterrupt, fail)
        self.assertFalse(runs(programs[0].pid))

    def test_ends_by_itself(self) -> None:
        script = 'echo on; echo "no  good" >&2; exit 3'
        with process.background(['sh', '-c', script], access=None) as program:
            self.assertTrue(program.wait(10))
            self.assertEqual(3, program.status)
            self.assertEqual('on no good', program.tail())

    def parent(self) -> tuple['subprocess.Popen[bytes]', int]:
        """Start a process that starts a program; tell the program's number."""
        parent = subprocess.Popen(
            [sys.executable, '-c', _PARENT], stdout=subprocess.PIPE
        )
        self.addCleanup(parent.stdout.close)
        self.addCleanup(parent.wait)
        self.addCleanup(parent.kill)
        return parent, int(parent.stdout.readline())

    def test_killed_with_this_process(self) -> None:
        for number in (signal.SIGKILL, signal.SIGTERM):
            parent, pid = self.parent()
            self.assertTrue(runs(pid))
            os.kill(parent.pid, number)
            self.assert_ends(pid)

    def test_killed_before_it_was_tied(self) -> None:
        directory = self.tmp()
        mark, slow = directory / 'mark', directory / 'setpriv'
        slow.write_text(
            _SLOW_SETPRIV.format(mark=mark, setpriv=process.find('setpriv'))
        )
        slow.chmod(0o755)
        path = os.pathsep.join((str(directory), os.environ['PATH']))
        self.useFixture(fixtures.EnvironmentVariable('PATH', path))
        parent, pid = self.parent()
        self.addCleanup(mark.touch)
        parent.kill()
        parent.wait()
        self.assertTrue(runs(pid))
        mark.touch()
        self.assert_ends(pid)

    def test_inherits_files(self) -> None:
        ours, its = os.pipe()
        self.addCleanup(os.close, ours)
        # Not sh: some know no files beyond 9.
        script = f'import os; os.write({its}, b"hello\\n")'
        argv = [sys.executable, '-c', script]
        with process.background(argv, inherited=[its], access=None) as made:
            os.close(its)
            self.assertTrue(made.wait(10))
        self.assertEqual(b'hello\n', os.read(ours, 100))
        self.assertEqual(b'', os.read(ours, 100))

    def test_missing(self) -> None:
        error = self.assertRaises(
            errors.ProgramError,
            process.background(['amiclient-no-such'], access=None).__enter__,
        )
        self.assertIn('amiclient-no-such was not found', str(error))
