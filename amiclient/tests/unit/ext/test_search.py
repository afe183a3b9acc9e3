# SPDX-License-Identifier: Apache-2.0

"""The search for the smallest size: its steps, and what they say."""

import dataclasses
import os
import pathlib

from amiclient import errors
from amiclient.ext import e2fsprogs
from amiclient.ext import plan
from amiclient.ext import search
from amiclient.ext import superblock
from amiclient import process
from amiclient.tests import base
from amiclient.tests.oracle import exttree
from amiclient.tests.unit.ext import shrinking

_MIB = 1 << 20
_TOOLS = e2fsprogs.Toolbox(1_700_000_000)
_ALL = search.Goal(headroom=0, drop_journal=False, journal=0)


class TestSearch(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.image = shrinking.small(
            self.directory, size=64 * _MIB, options=('-g', '2048')
        )

    def copy(self, name: str = 'copy') -> pathlib.Path:
        target = self.directory / name
        process.run(['cp', '--sparse=always', self.image, target], access=None)
        return target

    def test_steps_lead_there_again(self) -> None:
        for goal in (
            _ALL,
            search.Goal(headroom=500, drop_journal=True, journal=2),
            search.Goal(headroom=0, drop_journal=True, journal=0),
            dataclasses.replace(_ALL, slack=8),
        ):
            first = search.search(self.copy('first'), goal, _TOOLS)
            second = search.replay(self.copy('second'), first.steps, _TOOLS)
            self.assertEqual(first.moved, second.moved)
            self.assertEqual(first.steps, second.steps)
            self.assertEqual(
                shrinking.digest(first.path), shrinking.digest(second.path)
            )

    def test_where_inodes_went(self) -> None:
        # Through all steps, some of which move an inode again.
        before = exttree.inode_numbers(self.image)
        track = search.search(self.copy(), _ALL, _TOOLS)
        after = exttree.inode_numbers(track.path)
        moved = {
            before[name]: after[name]
            for name in before
            if before[name] != after[name]
        }
        self.assertEqual(moved, track.moved)

    def test_first_pass_moves_what_is_moved(self) -> None:
        track = search.search(self.copy(), _ALL, _TOOLS)
        sizes = [step.blocks for step in track.steps]
        self.assertEqual(sorted(sizes, reverse=True), sizes)
        self.assertEqual(sizes[-1], superblock.read(track.path).block_count)

    def test_no_room_for_a_journal(self) -> None:
        goal = search.Goal(
            headroom=0, drop_journal=True, journal=16, limit=20_000
        )
        error = self.assertRaises(
            search.SpoiledError, search.search, self.copy(), goal, _TOOLS
        )
        self.assertFalse(error.shrunk)

    def test_no_room_for_the_headroom(self) -> None:
        goal = dataclasses.replace(_ALL, headroom=100_000, limit=65_536)
        self.assertRaises(
            errors.NoSpaceError, search.search, self.copy(), goal, _TOOLS
        )

    def test_what_resize2fs_refuses(self) -> None:
        target = self.copy()
        process.run(
            ['debugfs', '-w', '-R', 'feature stable_inodes', target],
            access=None,
        )
        error = self.assertRaises(
            errors.UnsupportedError, search.search, target, _ALL, _TOOLS
        )
        self.assertIn('stable_inodes', str(error))
        self.assertNotIn('\n', str(error))

    def test_killed_is_not_too_small(self) -> None:
        programs = self.tmp()
        fake = programs / 'resize2fs'
        fake.write_text('#!/bin/sh\necho No space left >&2\nkill -9 $$\n')
        fake.chmod(0o755)
        self.useFixture(shrinking.variable(
            'PATH', f'{programs}{os.pathsep}{os.environ["PATH"]}'
        ))  # fmt: skip
        error = self.assertRaises(
            process.ProgramFailed, search.search, self.copy(), _ALL, _TOOLS
        )
        self.assertIn('killed by SIGKILL', str(error))


class TestJournal(base.TestCase):
    def test_in_mib(self) -> None:
        for size, block_size, mib in (
            (64 * _MIB, 4096, 64),
            (4 * _MIB, 4096, 4),
            (4 * _MIB - 4096, 4096, None),
            (1 * _MIB, 1024, 1),
            (1 * _MIB, 4096, None),
            (2 * _MIB, 2048, 2),
            (3 * _MIB // 2, 1024, None),
            (0, 1024, None),
        ):
            self.assertEqual(mib, plan.journal_in_mib(size, block_size), size)
