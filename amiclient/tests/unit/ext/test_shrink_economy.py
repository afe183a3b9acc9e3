# SPDX-License-Identifier: Apache-2.0

"""How few programs a plain shrink starts, and how little it reads."""

import collections
import functools
import os
from typing import Any
from unittest import mock

from amiclient.ext import e2fsprogs
from amiclient.ext import shrink
from amiclient.ext import superblock
from amiclient import process
from amiclient.tests import base
from amiclient.tests.unit.ext import shrinking

_MIB = 1 << 20

#: Options of programs that only look.
_LOOKS = ('-V', '-n', '-P', '-r')


class TestEconomy(base.TestCase):
    """A filesystem whose last group goes, which takes the most steps."""

    def setUp(self) -> None:
        super().setUp()
        self.programs: list[tuple[str, ...]] = []
        #: What was read of which file since a program wrote to something.
        self.reads: collections.Counter[tuple[str, int, int]] = (
            collections.Counter()
        )
        self.twice: list[tuple[str, int, int]] = []
        self.superblocks = 0

    def run_program(self, run: Any, argv: Any, **rest: Any) -> process.Result:
        self.programs.append(tuple(map(str, argv)))
        done: process.Result = run(argv, **rest)
        if not any(option in argv for option in _LOOKS):
            self.reads.clear()
        return done

    def read(
        self, pread: Any, descriptor: int, count: int, offset: int
    ) -> bytes:
        name = os.readlink(f'/proc/self/fd/{descriptor}')
        place = name, offset, count
        self.superblocks += (offset, count) == (1024, 1024)
        self.reads[place] += 1
        if self.reads[place] > 1:
            self.twice.append(place)
        found: bytes = pread(descriptor, count, offset)
        return found

    def shrink(self, **options: Any) -> shrink.Shrunk:
        directory = self.tmp()
        image = shrinking.small(directory, size=64 * _MIB, data=4 * _MIB)
        found = superblock.read(image)
        self.assertGreater(found.group_count, 1)
        planned = shrink.plan(
            shrinking.request(image, output=directory / 'output', **options)
        )
        with (
            mock.patch.object(
                process, 'run',
                functools.partial(self.run_program, process.run),
            ),
            mock.patch.object(
                os, 'pread', functools.partial(self.read, os.pread)
            ),
        ):  # fmt: skip
            return shrink.execute(planned)

    def test_plain(self) -> None:
        done = self.shrink()
        bound = done.lower_bound // done.block_size
        self.assertLessEqual(done.block_count, bound + 1)
        # One more tells the version when it is planned.
        self.assertLessEqual(len(self.programs), 11, self.programs)
        resizes = [argv for argv in self.programs if argv[0] == 'resize2fs']
        # The copy has that of the source, and one of these only asks.
        self.assertLess(self.superblocks, len(resizes))
        self.assertEqual([], self.twice)

    def test_version_is_one_program(self) -> None:
        with mock.patch.object(
            process, 'run', functools.partial(self.run_program, process.run)
        ):
            e2fsprogs.require()
        self.assertEqual([('e2fsck', '-V')], self.programs)
