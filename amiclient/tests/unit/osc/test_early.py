# SPDX-License-Identifier: Apache-2.0

"""Signals before a command runs, and after it; and other streams."""

import os
import pathlib
import signal
import subprocess
import sys

from amiclient.tests import base
from amiclient.tests.cloud import forkserver

#: Runs before the shell does, and has something done at a moment.
_PRELUDE = """
import signal, sys
from openstackclient import shell
from cliff import app, commandmanager
from osc_lib import shell as lib_shell

def signalled(*_, **__):
    signal.raise_signal(signal.{number})

def before(owner, name):
    kept = getattr(owner, name)
    def call(*args, **kwargs):
        signalled()
        return kept(*args, **kwargs)
    setattr(owner, name, call)

class Finder:
    def __init__(self, name):
        self.name = name
    def find_spec(self, name, path=None, target=None):
        if name == self.name:
            sys.meta_path.remove(self)
            {raised}
        return None

class Dying:
    def __del__(self):
        signalled()

class Set:
    def __set_name__(self, owner, name):
        signalled()

def lost():
    Dying()

def renamed():
    type('Made', (), {'set': Set()})

{prepare}
"""

_PREPARE = "before(lib_shell.OpenStackShell, 'prepare_to_run_command')"

_IMPORT = 'sys.meta_path.insert(0, Finder({!r}))'


class ShellCase(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.image = self.directory / 'image'
        with self.image.open('wb') as file:
            file.truncate(4 << 20)
        subprocess.run(['mke2fs', '-q', '-t', 'ext4', self.image], check=True)

    def shell(
        self,
        prepare: str,
        *arguments: object,
        number: str = 'SIGINT',
        raised: str = 'signalled()',
    ) -> subprocess.CompletedProcess[str]:
        prelude = self.directory / 'prelude.py'
        text = _PRELUDE.replace('{raised}', raised)
        text = text.replace('{number}', number)
        prelude.write_text(text.replace('{prepare}', prepare))
        command = forkserver.shared(bare=True).start(
            *arguments,
            environment={**os.environ, forkserver.PRELUDE: str(prelude)},
            cwd=self.directory,
        )
        self.addCleanup(command.kill)
        output = command.communicate(timeout=120)
        return subprocess.CompletedProcess([], command.wait(), *output)


class TestBefore(ShellCase):
    """From the moment that the command is looked up."""

    def interrupted(self, prepare: str, **options: str) -> None:
        done = self.shell(prepare, 'ami', 'inspect', self.image, **options)
        found = (done.returncode, done.stdout, done.stderr)
        self.assertEqual((130, '', 'interrupted\n'), found)

    def test_before_the_options_are_read(self) -> None:
        self.interrupted(_PREPARE)

    def test_before_signals_are_handled(self) -> None:
        for raised in ('lost()', 'renamed()'):
            self.interrupted(
                _IMPORT.format('amiclient.osc.output'), raised=raised
            )

    def test_while_the_command_imports(self) -> None:
        self.interrupted(
            _IMPORT.format('amiclient.source.probe'), raised='renamed()'
        )

    def test_other_signals_end_it(self) -> None:
        done = self.shell(
            _PREPARE, 'ami', 'inspect', self.image, number='SIGTERM'
        )
        self.assertEqual(-signal.SIGTERM, done.returncode)
        self.assertEqual('', done.stderr)

    def test_nohup_and_its_like(self) -> None:
        done = self.shell(
            f'signal.signal(signal.SIGINT, signal.SIG_IGN)\n{_PREPARE}',
            *('ami', 'inspect', self.image, '-f', 'value', '-c', 'size'),
        )
        self.assertEqual((0, ''), (done.returncode, done.stderr))
        self.assertTrue(done.stdout)

    def test_at_the_prompt(self) -> None:
        """What ends the command must not end the shell."""
        done = self.shell(
            'def interact(self):\n'
            "    self.run_subcommand(['ami', 'inspect', 'image'])\n"
            'def prepare(self, command):\n'
            '    print(signal.getsignal(signal.SIGINT))\n'
            '    sys.exit()\n'
            'lib_shell.OpenStackShell.interact = interact\n'
            'lib_shell.OpenStackShell.prepare_to_run_command = prepare'
        )
        self.assertEqual('', done.stderr)
        self.assertIn('default_int_handler', done.stdout)


class TestAfter(ShellCase):
    """The work is done, and the result is told."""

    def late(self, prepare: str) -> int:
        done = self.shell(prepare, 'ami', 'inspect', self.image)
        self.assertEqual('', done.stderr)
        self.assertIn('ext4', done.stdout)
        return done.returncode

    def test_while_the_shell_cleans_up(self) -> None:
        hook = "before(lib_shell.OpenStackShell, 'clean_up')"
        self.assertEqual(130, self.late(hook))

    def test_outside_of_the_shell(self) -> None:
        done = (
            'kept = shell.main\n'
            'def main(arguments):\n    kept(arguments)\n    signalled()\n'
            'shell.main = main'
        )
        self.assertEqual(-signal.SIGINT, self.late(done))

    def test_while_python_ends(self) -> None:
        hook = 'import atexit; atexit.register(signalled)'
        self.assertEqual(0, self.late(hook))
        hook = 'import threading; threading._register_atexit(signalled)'
        self.assertEqual(0, self.late(hook))

    def test_what_was_before_is_back(self) -> None:
        hook = (
            'import atexit\n'
            'atexit.register(lambda: print(signal.getsignal(signal.SIGINT) '
            'is signal.default_int_handler))'
        )
        done = self.shell(hook, 'ami', 'inspect', self.image)
        self.assertEqual('True', done.stdout.splitlines()[-1])

    def test_other_errors_are_printed(self) -> None:
        hook = 'import atexit; atexit.register(lambda: 1 / 0)'
        done = self.shell(hook, 'ami', 'inspect', self.image)
        self.assertIn('ZeroDivisionError', done.stderr)


class TestStreams(ShellCase):
    """Standard streams that are closed, or full."""

    def setUp(self) -> None:
        super().setUp()
        self.tree = self.directory / 'tree'
        for name in ('bin', 'etc', 'sbin', 'usr'):
            (self.tree / name).mkdir(parents=True)

    def sh(self, line: str) -> subprocess.CompletedProcess[str]:
        """Run a line of shell; ``$OS`` is ``openstack``."""
        words = f'{sys.executable} -W ignore -m openstackclient.shell'
        return subprocess.run(
            ['sh', '-c', line],
            env=os.environ | {'OS': words, 'PYTHONUNBUFFERED': ''},
            capture_output=True,
            text=True,
            timeout=120,
            cwd=self.directory,
        )

    def expect(self, line: str, status: int, *words: str) -> str:
        done = self.sh(line)
        self.assertEqual(status, done.returncode, done.stderr)
        for word in words:
            self.assertIn(word, done.stderr)
        self.assertLessEqual(len(done.stderr.splitlines()), 1, done.stderr)
        return done.stdout

    def check(self, image: str) -> None:
        path = self.directory / image
        subprocess.run(
            ['e2fsck', '-fn', path], check=True, capture_output=True
        )
        path.unlink()

    def test_each_of_them(self) -> None:
        said = 'stdout is closed: the command did its work, but its result'
        inspect = ('inspect image', None)
        shrink = ('shrink image --output shrunk', 'shrunk')
        build = ('build tree --output built', 'built')
        for closed, status, words, commands in (
            ('<&-', 0, (), (inspect,)),
            ('2>&-', 0, (), (shrink,)),
            ('>&-', 1, (said,), (inspect, build)),
            ('<&- >&- 2>&-', 1, (), (shrink, build)),
        ):
            for command, made in commands:
                line = f'$OS ami {command} {closed}'
                self.expect(line, status, *words)
                if made:
                    self.check(made)

    def test_errors_are_not_in_what_is_made(self) -> None:
        before = self.image.read_bytes()
        line = '$OS --debug ami shrink nowhere --output x <&- >&- 2>&-'
        self.expect(line, 1)
        line = '$OS --debug ami shrink image --output x <&- >&- 2>&-'
        self.expect(line, 1)
        self.check('x')
        self.assertEqual(before, self.image.read_bytes())
        self.assertEqual(
            {'image', 'tree'}, {path.name for path in self.directory.iterdir()}
        )

    def test_no_room_for_the_result(self) -> None:
        if not pathlib.Path('/dev/full').exists():
            self.skipTest('there is no /dev/full here')
        line = '$OS ami inspect image > /dev/full'
        self.expect(line, 1, 'stdout: No space left on device')

    def test_nobody_reads_the_result(self) -> None:
        line = '{ $OS ami inspect image; echo $? >status; } | true'
        self.expect(line, 0)
        status = (self.directory / 'status').read_text()
        self.assertEqual('141\n', status)
