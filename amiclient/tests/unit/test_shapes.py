# SPDX-License-Identifier: Apache-2.0

"""The shapes are what they say they are."""

import os
import pathlib

from amiclient import process
from amiclient.tests import base
from amiclient.tests.oracle import disk
from amiclient.tests.oracle import exttree
from amiclient.tests.shapes import broken
from amiclient.tests.shapes import shapes


class ShapesTest(base.TestCase):
    def _digest(self, image: pathlib.Path) -> bytes:
        return process.run(['sha256sum', image], access=None).stdout.split()[0]

    def test_the_same_each_time(self) -> None:
        for name in ('small-1k', 'inline-data-1k'):
            one = shapes.make(name, self.tmp())
            two = shapes.make(name, self.tmp())
            self.assertEqual(self._digest(one), self._digest(two), name)

    def test_inodes_and_blocks_are_spread(self) -> None:
        image = shapes.make('ext4-4k', self.tmp())
        numbers = exttree.inode_numbers(image)
        with disk.Filesystem(image) as filesystem:
            last = filesystem.group_count - 1
            self.assertGreaterEqual(last, 3)
            high = [
                filesystem.inode(number)
                for name, number in numbers.items()
                if name.startswith(b'/part3/')
            ]
            self.assertTrue(high)
            for inode in high:
                self.assertEqual(
                    last, (inode.number - 1) // filesystem.inodes_per_group
                )
            start = last * filesystem.blocks_per_group
            runs = [run for i in high for run in filesystem.runs(i)]
            self.assertTrue(any(run.physical >= start for run in runs))

    def test_extent_trees_have_levels(self) -> None:
        image = shapes.make('fragmented', self.tmp())
        number = exttree.inode_numbers(image)[b'/gaps/scattered']
        with disk.Filesystem(image) as filesystem:
            header = filesystem.inode(number).body[:12]
        self.assertGreaterEqual(int.from_bytes(header[6:8], 'little'), 2)

    def test_full_is_full(self) -> None:
        image = shapes.make('full', self.tmp())
        text = process.run(['dumpe2fs', '-h', image], access=None).text
        self.assertRegex(text, r'\nFree blocks: +0\n')

    def test_allocations_only_in_the_journal(self) -> None:
        image = shapes.make('needs-recovery', self.tmp())
        copy = self.tmp() / 'copy'
        # What a copier of used blocks does with such an image.
        process.run(['e2image', '-ra', image, copy], access=None)
        process.run(['e2fsck', '-fy', copy], ok=(0, 1), access=None)
        want = shapes.settled_tree(image)
        got = exttree.read_tree(copy)
        self.assertEqual(2_000_000, want[broken.JOURNALED].size)
        self.assertNotIn(b'/var/middle3', want)
        self.assertEqual(
            1234567890, want[b'/etc/os-release'].mtime // 1_000_000_000
        )
        lost = [name for name in want if want[name].sha256 != got[name].sha256]
        self.assertEqual([broken.JOURNALED], lost)

    def test_planted_secret_is_in_free_blocks(self) -> None:
        image = shapes.make('small-1k', self.tmp())
        before = exttree.read_tree(image)
        secret = b'a secret that must not get out'
        self.assertEqual(0, image.read_bytes().count(secret))
        shapes.plant_secret(image, secret)
        self.assertGreater(image.read_bytes().count(secret), 300 * 100)
        process.run(
            ['e2fsck', '-f', '-y', '-E', 'discard', image],
            ok=(0, 1),
            access=None,
        )
        self.assertEqual(0, image.read_bytes().count(secret))
        after = exttree.read_tree(image)
        self.assertEqual(
            [],
            exttree.diff_trees(
                {k: v for k, v in before.items() if k != b'/'},
                {k: v for k, v in after.items() if k != b'/'},
            ),
        )

    def test_damage(self) -> None:
        for name, shape in shapes.SHAPES.items():
            if 'damaged' not in shape.tags:
                continue
            image = shapes.make(name, self.tmp())
            result = process.run(
                ['e2fsck', '-fp', image], ok=range(256), access=None
            )
            self.assertTrue(result.status & ~3, name)
            os.unlink(image)
