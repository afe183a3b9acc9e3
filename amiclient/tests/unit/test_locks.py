# SPDX-License-Identifier: Apache-2.0

"""Files that are held, by this process and by others."""

import fcntl
import os
import pathlib
import subprocess
import sys
import threading

from amiclient import atomic
from amiclient import errors
from amiclient import locks
from amiclient import process
from amiclient.tests import base

#: Holds a file until its stdin ends, or says why it cannot.
_HOLDER = """\
import pathlib, sys
from amiclient import errors, locks
try:
    with getattr(locks, sys.argv[1])(pathlib.Path(sys.argv[2])):
        print('held', flush=True)
        sys.stdin.read()
except errors.BusyError as error:
    print(error, flush=True)
"""


class _HoldingTest(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.path = self.directory / 'file'
        self.path.write_text('old')

    def start(
        self, how: str, path: pathlib.Path
    ) -> tuple[subprocess.Popen, str]:
        """Have another process hold a file; tell what it says."""
        child = subprocess.Popen(
            [sys.executable, '-c', _HOLDER, how, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(child.communicate)
        return child, child.stdout.readline().strip()

    def other(self, how: str, path: pathlib.Path | None = None) -> str:
        child, said = self.start(how, path or self.path)
        child.communicate()
        return said


class TestLocks(_HoldingTest):
    def test_of_this_process(self) -> None:
        with locks.reading(self.path):
            self.assertEqual('held', self.other('reading'))
            self.assertEqual(
                f'{self.path} is being read by another process; wait for it, '
                'or end it',
                self.other('changing'),
            )
        with locks.changing(self.path):
            for how in ('reading', 'changing'):
                self.assertIn('is being changed by', self.other(how))
        self.assertEqual('held', self.other('changing'))

    def test_by_another_name(self) -> None:
        link = self.directory / 'link'
        link.symlink_to(self.path)
        hard = self.directory / 'hard'
        hard.hardlink_to(self.path)
        with locks.changing(link):
            for path in (self.path, link, hard):
                self.assertIn('is being changed', self.other('reading', path))

    def test_this_process_is_not_in_its_own_way(self) -> None:
        with locks.changing(self.path):
            with locks.changing(self.path), locks.reading(self.path):
                pass
            self.assertIn('is being changed by', self.other('reading'))

    def test_one_that_was_replaced(self) -> None:
        other = self.directory / 'other'
        other.write_text('new')
        with locks.changing(self.path):
            other.replace(self.path)
            # That is another file now, which nobody holds.
            self.assertEqual('held', self.other('changing'))

    def test_after_one_that_was_killed(self) -> None:
        child, said = self.start('changing', self.path)
        self.assertEqual('held', said)
        self.assertRaises(
            errors.BusyError, locks.changing(self.path).__enter__
        )
        child.kill()
        child.wait()
        with locks.changing(self.path):
            pass

    def device(self) -> pathlib.Path:
        os.truncate(self.path, 1 << 20)
        try:
            found = process.run(
                ['losetup', '--find', '--show', self.path], access=None
            )
        except errors.ProgramError as error:
            self.skipTest(f'no loop device: {error}')
        device = pathlib.Path(found.text.strip())
        self.addCleanup(
            process.run, ['losetup', '--detach', device], access=None
        )
        return device

    def test_block_device(self) -> None:
        device = self.device()
        with locks.changing(device):
            self.assertIn('is being changed by', self.other('reading', device))
        self.assertEqual('held', self.other('changing', device))

    def test_block_device_that_udev_looks_at(self) -> None:
        device = self.device()
        with open(device) as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            timer = threading.Timer(0.5, fcntl.flock, (file, fcntl.LOCK_UN))
            timer.start()
            with locks.changing(device):
                pass
            timer.join()

    def test_what_cannot_be_held(self) -> None:
        fifo = self.directory / 'fifo'
        os.mkfifo(fifo)
        for path in (fifo, self.directory, self.directory / 'nosuch'):
            with locks.changing(path), locks.reading(path):
                self.assertEqual('held', self.other('changing', path))


class TestOutput(_HoldingTest):
    """Outputs that take the place of something."""

    def refused(self, word: str) -> None:
        error = self.assertRaises(errors.BusyError, atomic.Output, self.path)
        self.assertIn(f'{self.path} is being {word} by', str(error))
        self.assertEqual([self.path], list(self.directory.iterdir()))

    def test_what_is_in_use(self) -> None:
        for how, word in (('reading', 'read'), ('changing', 'changed')):
            child, _ = self.start(how, self.path)
            self.refused(word)
            child.communicate()
        with atomic.Output(self.path) as output:
            self.assertIn('is being changed', self.other('reading'))
            output.path.write_text('new')
            output.keep()
            # There is nothing more to come.
            self.assertEqual('held', self.other('changing'))
        self.assertEqual('new', self.path.read_text())

    def test_what_has_come_since(self) -> None:
        self.path.unlink()
        with atomic.Output(self.path) as output:
            self.path.write_text('of another')
            child, _ = self.start('changing', self.path)
            self.assertRaises(errors.BusyError, output.keep)
            child.communicate()
            output.keep()
        self.assertEqual('', self.path.read_text())

    def test_published(self) -> None:
        made = self.directory / 'made'
        made.write_text('new')
        child, _ = self.start('reading', self.path)
        self.assertRaises(errors.BusyError, atomic.Output, self.path)
        child.communicate()
        with atomic.Output(self.path) as output:
            self.assertTrue(output.adopt(made))
            output.keep()
        self.assertEqual('new', self.path.read_text())

    def test_a_link_is_replaced_itself(self) -> None:
        link = self.directory / 'link'
        link.symlink_to(self.path)
        child, _ = self.start('changing', self.path)
        with atomic.Output(link) as output:
            output.keep()
        child.communicate()
        self.assertFalse(link.is_symlink())
        self.assertEqual('old', self.path.read_text())
