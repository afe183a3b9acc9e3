# SPDX-License-Identifier: Apache-2.0

"""Time stamps are put back where they were, to the nanosecond."""

import pathlib

from amiclient.ext import e2fsprogs
from amiclient.ext.layout import Layout
from amiclient.ext.search import Track
from amiclient.ext import shrink
from amiclient import process
from amiclient.tests import base
from amiclient.tests.oracle import exttree
from amiclient.tests.unit.ext import shrinking

_TOOLS = e2fsprogs.Toolbox(1_700_000_000)


@shrinking.for_each('small-1k', 'inode-128')
class TestRestore(base.TestCase):
    def check_restored(self, name: str) -> None:
        directory = self.tmp()
        image = shrinking.shape(name, directory)
        self._date(image)
        target = directory / 'target'
        process.run(['cp', '--sparse=always', image, target], access=None)
        blocks = int(shrinking.header(image)['Block count']) // 2
        moved = _TOOLS.resize(target, blocks)
        self.assertTrue(moved)
        spoiled = shrinking.differences(image, target)
        self.assertTrue(any('ctime' in line for line in spoiled))
        mended = _restore(image, target, moved)
        self.assertGreaterEqual(mended, len(moved) // 2)
        self.assertEqual([], shrinking.differences(image, target))
        self.assertTrue(shrinking.is_sound(target))
        # There is nothing left to do.
        self.assertEqual(0, _restore(image, target, moved))

    def _date(self, image: pathlib.Path) -> None:
        """Give an inode that moves times that are easily got wrong."""
        name = max(
            (number, name)
            for name, number in exttree.inode_numbers(image).items()
        )[1].decode()
        directory = name.rpartition('/')[0]
        for path, seconds in ((name, -5), (directory, 2**31 - 1)):
            for field in ('mtime', 'ctime'):
                low = seconds & 0xFFFFFFFF
                command = f'sif {path} {field}_lo {low}'
                process.run(
                    ['debugfs', '-w', '-R', command, image], access=None
                )
        if int(shrinking.header(image)['Inode size']) > 128:
            for field in ('mtime', 'ctime'):
                # The year 2242, and 999 999 999 nanoseconds.
                command = f'sif {name} {field}_extra {2 | 999_999_999 << 2}'
                process.run(
                    ['debugfs', '-w', '-R', command, image], access=None
                )
        # Epoch bits that it had before make it another century.
        seconds = exttree.read_tree(image)[directory.encode()].mtime // 10**9
        self.assertEqual(2**31 - 1, seconds % 2**32)


class TestNothingToDo(base.TestCase):
    def test_same(self) -> None:
        directory = self.tmp()
        image = shrinking.small(directory)
        before = shrinking.digest(image)
        target = directory / 'target'
        process.run(['cp', '--sparse=always', image, target], access=None)
        self.assertEqual(0, _restore(image, target, {}))
        self.assertEqual(before, shrinking.digest(target))


def _restore(
    image: pathlib.Path, target: pathlib.Path, moved: dict[int, int]
) -> int:
    track = Track(target, _TOOLS)
    track.moved = moved
    with Layout.opened(image) as before, Layout.opened(target) as after:
        return shrink.restore_times(before, after, track)
