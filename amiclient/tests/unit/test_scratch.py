# SPDX-License-Identifier: Apache-2.0

"""Temporary files: whose they are, and whether they are in use."""

import contextlib
import errno
import fcntl
import os
import pathlib
import signal
import subprocess
import sys
import unittest
from unittest import mock

import fixtures

from amiclient import errors
from amiclient import scratch
from amiclient.tests import base

_ROOT = pathlib.Path(scratch.__file__).parents[1]

#: Makes a file and a directory, and waits to be killed.
_CHILD = """
import pathlib, sys, time
from amiclient import scratch
directory = pathlib.Path(sys.argv[1])
with scratch.File(directory, 'root.img') as file:
    with scratch.PrivateDirectory(directory) as made:
        file.path.write_bytes(bytes(50000))
        (made.path / 'copy').write_bytes(bytes(100000))
        print(file.path.name, made.path.name, flush=True)
        sys.stdin.read()
"""


class _Case(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.log = self.useFixture(fixtures.FakeLogger('amiclient'))

    def names(self) -> list[str]:
        return sorted(os.listdir(self.directory))

    def start(self) -> tuple[subprocess.Popen[str], list[str]]:
        child = subprocess.Popen(
            [sys.executable, '-c', _CHILD, self.directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, 'PYTHONPATH': str(_ROOT)},
        )
        self.addCleanup(child.communicate)
        self.addCleanup(child.kill)
        return child, sorted(child.stdout.readline().split())

    def killed(self) -> list[str]:
        """Leave a file and a directory behind, and tell their names."""
        child, names = self.start()
        child.kill()
        child.wait()
        self.assertEqual(names, self.names())
        return names


class TestAdoption(_Case):
    def adopting(self) -> scratch.File:
        self.other = self.tmp() / 'other'
        self.other.write_bytes(b'other')
        file = scratch.File(self.directory, 'x')
        file.adopt(self.other)
        self.assertFalse(self.other.exists())
        self.assertEqual(b'other', file.path.read_bytes())
        self.assertEqual(1, len(self.names()))
        return file

    def test_renamed(self) -> None:
        with self.adopting() as file:
            file.rename('x')
        self.assertEqual(b'other', (self.directory / 'x').read_bytes())

    def test_removed(self) -> None:
        with self.adopting():
            pass
        self.assertEqual([], self.names())

    def test_locked(self) -> None:
        """Nobody takes it for what was left behind."""
        with self.adopting():
            scratch.sweep(self.directory)
            self.assertEqual(1, len(self.names()))

    def test_others_may_rename_it(self) -> None:
        os.chmod(self.directory, 0o777)
        with self.adopting() as file:
            self.assertIn('/fd/', str(file.path))
            file.rename('x')
        self.assertEqual(b'other', (self.directory / 'x').read_bytes())


class TestFile(_Case):
    def test_private_and_gone(self) -> None:
        with scratch.File(self.directory, 'root.img') as made:
            self.assertEqual(0o100600, made.path.stat().st_mode)
            self.assertTrue(made.path.name.startswith('.root.img.amiclient-'))
            self.assertEqual([made.path.name], self.names())
        self.assertEqual([], self.names())

    def test_interrupted_before_its_block(self) -> None:
        class Interrupted(BaseException):
            pass

        def interrupt(made: object) -> None:
            self.assertEqual(1, len(self.names()))
            raise Interrupted

        for make in (
            lambda: scratch.File(self.directory, 'root.img'),
            lambda: scratch.PrivateDirectory(self.directory),
            lambda: scratch.workshop(self.directory),
        ):
            with (
                mock.patch.object(scratch._Temporary, '__enter__', interrupt),
                contextlib.suppress(Interrupted),
                make(),
            ):
                self.fail('it was not interrupted')
            self.assertEqual([], self.names())

    def test_renamed(self) -> None:
        with scratch.File(self.directory, 'root.img') as made:
            made.path.write_bytes(b'content')
            made.rename('root.img')
        self.assertEqual(['root.img'], self.names())

    def test_name_taken(self) -> None:
        names = ['00000000', '00000000', '00000001']
        self.patch(scratch.secrets, 'token_hex', mock.Mock(side_effect=names))
        with scratch.File(self.directory, 'x') as first:
            first.path.write_bytes(b'first')
            with scratch.File(self.directory, 'x') as second:
                self.assertNotEqual(first.path, second.path)
                self.assertEqual(b'first', first.path.read_bytes())

    def test_planted_link(self) -> None:
        other = self.directory / 'other'
        other.write_bytes(b'of somebody else')
        (self.directory / '.x.amiclient-00000000').symlink_to(other)
        names = ['00000000', '00000001']
        self.patch(scratch.secrets, 'token_hex', mock.Mock(side_effect=names))
        with scratch.File(self.directory, 'x') as made:
            made.path.write_bytes(b'ours')
            self.assertIn('00000001', made.path.name)
        self.assertEqual(b'of somebody else', other.read_bytes())

    def test_ctrl_c_while_it_is_made(self) -> None:
        made = os.open

        def opened(*args: object, **rest: object) -> int:
            descriptor = made(*args, **rest)
            if 'amiclient-' in str(args[0]):
                signal.raise_signal(signal.SIGINT)
            return descriptor

        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.addCleanup(signal.signal, signal.SIGINT, before)
        self.patch(os, 'open', opened)
        for kind in (
            lambda: scratch.File(self.directory, 'x'),
            lambda: scratch.PrivateDirectory(self.directory),
        ):
            self.assertRaises(KeyboardInterrupt, kind)
            self.assertEqual([], self.names())

    def test_no_locks_here(self) -> None:
        error = OSError(errno.EOPNOTSUPP, 'not here')
        with mock.patch.object(fcntl, 'flock', side_effect=error):
            with scratch.File(self.directory, 'x') as made:
                # In use or not: there is no telling.
                scratch.sweep(self.directory)
                self.assertTrue(made.path.exists())
        self.assertEqual([], self.names())


class TestExposed(_Case):
    """Directories in which others may rename what is ours."""

    def setUp(self) -> None:
        super().setUp()
        self.victim = self.tmp() / 'victim'
        self.victim.write_bytes(b'of somebody else')
        self.directory.chmod(0o777)

    def test_told(self) -> None:
        for mode, exposed in (
            (0o700, False), (0o755, False), (0o775, True), (0o777, True),
            (0o1777, False), (0o2775, True), (0o757, True),
        ):  # fmt: skip
            self.directory.chmod(mode)
            self.assertEqual(exposed, scratch.is_exposed(self.directory), mode)

    @unittest.skipUnless(os.geteuid() == 0, 'only root gives files away')
    def test_told_by_owner(self) -> None:
        self.directory.chmod(0o1700)
        os.chown(self.directory, 1234, 1234)
        self.assertTrue(scratch.is_exposed(self.directory))

    def test_file_swapped_for_a_link(self) -> None:
        def swapped() -> None:
            with scratch.File(self.directory, 'root.img') as made:
                (name,) = self.names()
                (self.directory / name).rename(self.directory / 'moved')
                (self.directory / name).symlink_to(self.victim)
                made.path.write_bytes(b'ours')
                self.assertEqual(
                    b'ours', (self.directory / 'moved').read_bytes()
                )
                made.rename('root.img')

        error = self.assertRaises(errors.AmiError, swapped)
        self.assertIn('was replaced by another process', str(error))
        self.assertEqual(b'of somebody else', self.victim.read_bytes())
        # Neither is what is theirs removed.
        self.assertEqual(2, len(self.names()))

    def test_directory_swapped(self) -> None:
        with scratch.PrivateDirectory(self.directory) as made:
            (name,) = self.names()
            (self.directory / name).rename(self.directory / 'moved')
            (self.directory / name).mkdir()
            (self.directory / name / 'copy').symlink_to(self.victim)
            (made.path / 'copy').write_bytes(b'ours')
            self.assertIn('copy', os.listdir(self.directory / 'moved'))
        self.assertEqual(b'of somebody else', self.victim.read_bytes())

    def test_directory_of_ours_that_somebody_renamed(self) -> None:
        secret = self.directory / 'secret'
        secret.mkdir(0o700)
        (secret / 'thesis').write_bytes(b'years of work')
        secret.rename(self.directory / '.amiclient-00000000')
        scratch.sweep(self.directory)
        self.assertEqual(['.amiclient-00000000'], self.names())


class TestSweep(_Case):
    def test_what_was_left(self) -> None:
        self.killed()
        self.assertGreaterEqual(scratch.reclaimable(self.directory), 150000)
        scratch.sweep(self.directory)
        self.assertEqual([], self.names())
        self.assertEqual(1, self.log.output.count('\n'), self.log.output)
        self.assertIn(
            f'{self.directory}: removed 2 temporary files', self.log.output
        )
        self.assertEqual(0, scratch.reclaimable(self.directory))

    def test_nothing_left(self) -> None:
        scratch.sweep(self.directory)
        scratch.sweep(self.directory / 'nosuch')
        self.assertEqual('', self.log.output)

    def test_what_is_in_use(self) -> None:
        _, names = self.start()
        scratch.sweep(self.directory)
        self.assertEqual(0, scratch.reclaimable(self.directory))
        self.assertEqual(names, self.names())
        self.assertEqual('', self.log.output)

    def test_what_is_not_ours(self) -> None:
        keep = [
            'root.img', '.root.img', 'amiclient-00000000', '.amiclient-',
            '.root.img.amiclient-0000000g', '.amiclient-000000000',
        ]  # fmt: skip
        for name in keep:
            (self.directory / name).touch()
        (self.directory / '.a.amiclient-00000000').symlink_to('root.img')
        os.mkfifo(self.directory / '.b.amiclient-00000000')
        before = self.names()
        scratch.sweep(self.directory)
        self.assertEqual(before, self.names())

    @unittest.skipUnless(os.geteuid() == 0, 'only root gives files away')
    def test_what_is_somebody_elses(self) -> None:
        names = self.killed()
        for name in names:
            os.chown(self.directory / name, 1234, 1234)
        scratch.sweep(self.directory)
        self.assertEqual(names, self.names())

    def test_killed_again(self) -> None:
        # While it removed what had been left: the mark was still there.
        _, name = sorted(self.killed(), key=len, reverse=True)
        (self.directory / name / 'copy').unlink()
        self.assertEqual(['amiclient'], os.listdir(self.directory / name))
        scratch.sweep(self.directory)
        self.assertEqual([], self.names())

    def test_what_cannot_be_removed(self) -> None:
        names = self.killed()
        error = PermissionError(errno.EPERM, 'no')
        with mock.patch.object(os, 'unlink', side_effect=error):
            scratch.sweep(self.directory)
        self.assertEqual(names, self.names())
        self.assertNotIn('removed', self.log.output)
