# SPDX-License-Identifier: Apache-2.0

"""Programs of e2fsprogs that are killed, hang, or are not there."""

import itertools
import os
import pathlib
import shutil
import threading
import types
from unittest import mock

from amiclient import confinement
from amiclient import errors
from amiclient.ext import e2fsprogs
from amiclient import process
from amiclient.tests import base
from amiclient.tests.unit.ext import shrinking

_MIB = 1 << 20

#: Does what the real one does, but for one of the times that it is called.
_WRAPPER = """#!/bin/sh
call=1
# Two may run at the same time.
until mkdir {directory}/{name}.calls/$call 2>/dev/null; do
    call=$((call + 1))
done
if [ $call -eq {turn} ]; then
    {instead}
fi
exec {real} "$@"
"""

#: Begins, and is killed from outside in the middle.
_KILLED = '{real} "$@" & sleep {seconds}; kill -KILL $! $$'

#: Says so, and hangs.
_HANGS = ': >{directory}/hangs; exec sleep 1000'


class TestPrograms(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.image = shrinking.small(
            self.directory, size=64 * _MIB, data=16 * _MIB
        )
        self.before = shrinking.digest(self.image)
        self.programs = self.tmp()
        self.output = self.tmp() / 'output'

    def wrap(self, name: str, instead: str, turn: int = 1) -> None:
        """Have a program do something else when it is called.

        :param turn: at which call; 0 for never.
        """
        real, directory = f'/usr/sbin/{name}', self.programs
        path = directory / name
        path.write_text(
            _WRAPPER.format(
                directory=directory, name=name, turn=turn, real=real,
                instead=instead.format(
                    real=real, directory=directory, seconds=0.02
                ),
            )
        )  # fmt: skip
        self.calls(name).mkdir()
        # It may not make a mark where others do their work.
        self.patch(confinement, 'confine', lambda *_: [])
        path.chmod(0o755)
        self.useFixture(
            shrinking.variable('PATH', f'{self.programs}:/usr/bin:/bin')
        )

    def calls(self, name: str) -> pathlib.Path:
        return self.programs / f'{name}.calls'

    def unwrap(self, name: str) -> int:
        """Put a program back; tell how often it was called."""
        (self.programs / name).unlink()
        calls = self.calls(name)
        count = len(os.listdir(calls))
        shutil.rmtree(calls)
        return count

    def failed(self, **rest: object) -> str:
        rest.setdefault('output', self.output)
        error = self.assertRaises(
            errors.ProgramError, shrinking.shrunk, self.image, **rest
        )
        self.assertNotIn('\n', str(error))
        self.assertEqual(self.before, shrinking.digest(self.image))
        self.assertEqual([], os.listdir(self.output.parent))
        self.assertEqual(['small.img'], sorted(os.listdir(self.directory)))
        return str(error)

    def test_killed(self) -> None:
        for name, turn in (('e2fsck', 2), ('resize2fs', 1), ('resize2fs', 2)):
            self.wrap(name, _KILLED, turn)
            text = self.failed()
            self.assertIn(f'{name} was killed by SIGKILL', text)
            self.unwrap(name)

    def test_killed_while_replacing(self) -> None:
        self.wrap('resize2fs', _KILLED)
        self.failed(output=None)

    def test_killed_in_place(self) -> None:
        # Of the trial there is a second one.
        self.wrap('resize2fs', 'exec kill -KILL $$', 1)
        self.assertIn('SIGKILL', self.failed(output=None, in_place=True))
        self.unwrap('resize2fs')
        self.wrap('resize2fs', 'exit 1', 0)
        copy = self.directory / 'copy'
        process.run(['cp', self.image, copy], access=None)
        shrinking.shrunk(copy, in_place=True)
        copy.unlink()
        turn = self.unwrap('resize2fs')
        self.wrap('resize2fs', _KILLED, turn)
        error = self.assertRaises(
            errors.DamagedError,
            shrinking.shrunk, self.image, in_place=True,
        )  # fmt: skip
        self.assertIn('may be damaged, the resize failed', str(error))
        self.assertIn(f'run: e2fsck -f -y {self.image}', str(error))
        self.assertNotIn('\n', str(error))

    def test_hangs(self) -> None:
        mark = self.programs / 'hangs'
        hours = itertools.count(1)

        def monotonic() -> float:
            """Have hours pass for who waits for it, and for nobody else."""
            main = threading.current_thread() is threading.main_thread()
            return 10_000.0 * next(hours) if main and mark.exists() else 0.0

        clock = types.SimpleNamespace(monotonic=monotonic)
        for name in ('e2fsck', 'resize2fs'):
            self.wrap(name, _HANGS)
            with mock.patch.object(process, 'time', clock):
                text = self.failed()
            self.assertIn(f'{name} was stopped: it took more than', text)
            self.unwrap(name)
            mark.unlink()

    def test_patience_grows(self) -> None:
        found = shrinking.request(self.image).image.superblock
        limit = e2fsprogs.Toolbox.of(found).limit
        self.assertGreater(limit, 300)
        self.assertLess(limit, 400)

    def test_missing(self) -> None:
        self.patch(process, '_SBIN', ())
        wanted = ['e2fsck', 'tune2fs', 'debugfs', 'e2image', 'resize2fs']
        for missing in wanted:
            directory = self.tmp()
            for name in wanted:
                if name != missing:
                    os.symlink(
                        pathlib.Path('/usr/sbin') / name, directory / name
                    )
            with shrinking.variable('PATH', str(directory)):
                text = self.failed()
            self.assertIn(f'{missing} was not found', text)
            self.assertIn('install the package e2fsprogs', text)
