# SPDX-License-Identifier: Apache-2.0

"""Where the system gives us less than a program needs, it gets that."""

import io
import os
import pathlib
import resource
import signal
import tarfile

from amiclient import confinement
from amiclient import errors
from amiclient.osc import command
from amiclient import process
from amiclient.source import build
from amiclient.tests import base
from amiclient.tests.unit.ext import shrinking

_MIB = 1 << 20
_UNLIMITED = resource.RLIM_INFINITY
_ACCESS = confinement.Access()

_BUSY = ['sh', '-c', 'while :; do :; done']
# It is limited once it runs.
_GREEDY = [
    'sh', '-c', 'sleep 1; exec dd if=/dev/zero of=/dev/null bs=300M count=1'
]  # fmt: skip


class TestLimits(base.TestCase):
    def give(
        self,
        soft: int,
        hard: int | None = None,
        *,
        of: int = resource.RLIMIT_CPU,
    ) -> None:
        """Have the system give us so much of something."""
        own = (soft, soft if hard is None else hard)
        rest = (_UNLIMITED, _UNLIMITED)
        self.patch(
            resource, 'getrlimit', lambda what: own if what == of else rest
        )

    def lowered(self, most: int | None) -> tuple[int, int]:
        done = []
        self.patch(
            resource, 'prlimit', lambda pid, what, pair: done.append(pair)
        )
        confinement.lower(1, resource.RLIMIT_CPU, most)
        return done[0]

    def test_smaller_of_both(self) -> None:
        for own, most, expected in (
            ((_UNLIMITED, _UNLIMITED), None, (_UNLIMITED, _UNLIMITED)),
            ((_UNLIMITED, _UNLIMITED), 20, (20, 21)),
            ((18, 18), 20, (17, 18)),
            ((18, 18), None, (17, 18)),
            ((18, 100), 20, (18, 21)),
            ((18, _UNLIMITED), 20, (18, 21)),
            ((20, 20), 20, (19, 20)),
            ((30, 30), 20, (20, 21)),
            ((1, 1), 20, (1, 1)),
        ):
            self.give(*own)
            self.assertEqual(expected, self.lowered(most))

    def refusal(self, argv: list[str], **rest: object) -> str:
        error = self.assertRaises(
            errors.ProgramError,
            process.run, argv, access=_ACCESS, ok=range(256), **rest,
        )  # fmt: skip
        self.assertNotIsInstance(error, process.ProgramFailed)
        return str(error)

    def test_processor_time(self) -> None:
        ours = (
            'sh was stopped: programs are limited to 2 seconds of processor '
            'time here; raise the limit: ulimit -t unlimited'
        )
        self.give(2)
        self.assertEqual(ours, self.refusal(_BUSY))
        self.assertEqual(ours, self.refusal(_BUSY, cpu=20))
        self.assertEqual(ours, self.refusal(_BUSY, interruptible=False))
        self.give(20)
        self.assertIn('probably damaged', self.refusal(_BUSY, cpu=1))

    def test_memory(self) -> None:
        ours = (
            f'sh was stopped: programs are limited to {100 * _MIB} bytes of '
            'memory here; raise the limit: ulimit -v unlimited'
        )
        self.give(100 * _MIB, of=resource.RLIMIT_AS)
        self.assertEqual(ours, self.refusal(_GREEDY, memory=200 * _MIB))
        # That it gets as much as we think is proper is no fault of the user.
        self.give(_UNLIMITED)
        result = process.run(
            _GREEDY, access=_ACCESS, ok=(1,), memory=100 * _MIB
        )
        self.assertIn('memory exhausted', result.stderr)

    def test_memory_of_what_is_not_waited_for(self) -> None:
        told = (
            f'was stopped: it took more than {100 * _MIB} bytes of memory; '
            'its input is probably damaged'
        )
        with (
            open('/dev/null', 'rb') as nothing,
            process.reading(
                _GREEDY, nothing, access=_ACCESS, memory=100 * _MIB
            ) as pipe,
        ):
            error = self.assertRaises(errors.ProgramError, pipe.read, 1)
        self.assertIn(told, str(error))
        with process.background(
            _GREEDY, access=_ACCESS, memory=100 * _MIB
        ) as program:
            self.assertTrue(program.wait(60))
            error = self.assertRaises(
                errors.ProgramError, program.refuse_limited
            )
        self.assertIn(told, str(error))

    def test_what_is_read_meanwhile(self) -> None:
        self.give(2)
        with open('/dev/null', 'rb') as nothing:
            with process.reading(_BUSY, nothing, access=_ACCESS) as pipe:
                error = self.assertRaises(errors.ProgramError, pipe.read, 1)
        self.assertIn('ulimit -t unlimited', str(error))

    def test_a_companion(self) -> None:
        self.give(2)
        with process.background(_BUSY, access=_ACCESS) as program:
            program.refuse_limited()
            self.assertTrue(program.wait(60))
            self.assertEqual(-signal.SIGXCPU, program.status)
            error = self.assertRaises(
                errors.ProgramError, program.refuse_limited
            )
        self.assertIn('sh was stopped: programs are limited', str(error))

    def test_a_shrink(self) -> None:
        image = shrinking.small(self.tmp(), size=16 * _MIB, data=_MIB)
        self.give(18)
        real = resource.prlimit
        given = []

        def prlimit(pid: int, what: int, pair: tuple[int, int]) -> None:
            if what == resource.RLIMIT_CPU:
                given.append(pair)
                real(pid, what, pair)

        self.patch(resource, 'prlimit', prlimit)
        shrinking.shrunk(image, output=self.tmp() / 'output')
        self.assertEqual({(17, 18)}, set(given))

    def test_a_file_that_is_built(self) -> None:
        archive = self.tmp() / 'a.tar'
        with tarfile.open(archive, 'w') as tar:
            tar.addfile(tarfile.TarInfo('etc'))
            large = tarfile.TarInfo('large')
            large.size = _MIB
            tar.addfile(large, io.BytesIO(bytes(range(1, 129)) * 8192))
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(archive.parent)
        planned = build.plan(build.BuildRequest(archive, pathlib.Path('o')))
        kind = resource.RLIMIT_FSIZE
        before = resource.getrlimit(kind)
        resource.setrlimit(kind, (_MIB // 2, before[1]))
        try:
            error = self.assertRaises(
                errors.TooLargeError, build.execute, planned
            )
        finally:
            resource.setrlimit(kind, before)
        self.assertIn('.: files are limited to ', str(error))

    def test_python_itself(self) -> None:
        for raised, expected in (
            (MemoryError(), 'there is not enough memory; raise the limit'),
            (RuntimeError("can't start new thread"), 'no thread can be'),
        ):

            def fail(error: Exception = raised) -> None:
                with command.plain_errors():
                    raise error

            error = self.assertRaises(errors.AmiError, fail)
            self.assertIn(expected, str(error))
