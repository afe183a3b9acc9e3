# SPDX-License-Identifier: Apache-2.0

"""What is computed of sizes, against what resize2fs does."""

import os
import pathlib

from amiclient import errors
from amiclient.ext import geometry
from amiclient.ext import layout
from amiclient.ext import superblock
from amiclient import process
from amiclient import sparse
from amiclient.tests import base
from amiclient.tests.unit.ext import shrinking

_MIB = 1 << 20

#: Features, and options of mke2fs, of one filesystem of each geometry.
_KINDS = {
    'flex': ('extent', '-g', '1024', '-N', '4096'),
    'no flex': ('^flex_bg', '-g', '1024', '-N', '4096'),
    'meta_bg': ('meta_bg,^resize_inode', '-g', '1024', '-N', '4096'),
    'no reserve': ('^resize_inode', '-g', '1024', '-N', '4096'),
    'sparse_super2': ('sparse_super2,^resize_inode', '-g', '1024', '-N',
                      '4096'),
    'no sparse_super': ('^sparse_super,^resize_inode', '-g', '2048', '-N',
                        '1024'),
    'no 64bit': ('^64bit', '-g', '1024', '-N', '4096'),
    'large': ('extent', '-g', '8192'),
}  # fmt: skip

#: Blocks that are enough for whatever resize2fs has to put aside.
_ROOMY = 1024


def _measure(image: pathlib.Path) -> geometry.Geometry:
    with sparse.opened(image, os.O_RDONLY) as descriptor:
        groups = layout.Layout(descriptor, superblock.read(image))
        return geometry.measure(groups)


@shrinking.for_each(*_KINDS)
class TestGeometry(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()

    def make(self, kind: str) -> geometry.Geometry:
        features, *options = _KINDS[kind]
        self.image = shrinking.small(
            self.directory, features=features, options=options
        )
        return _measure(self.image)

    def resized(self, blocks: int) -> int:
        """Tell the blocks after resizing a copy to a number of blocks."""
        target = self.directory / 'copy'
        process.run(['cp', '--sparse=always', self.image, target], access=None)
        process.run(['resize2fs', '-f', target, str(blocks)], access=None)
        self.assertTrue(shrinking.is_sound(target))
        return superblock.read(target).block_count

    def check_fit(self, kind: str) -> None:
        # resize2fs takes some sizes as they are, and changes others.
        measured = self.make(kind)
        found = measured.superblock
        group = found.blocks_per_group
        start = found.first_data_block + 18432 // group * group
        rests = (1, 30, 60, group // 2, group - 1, 0)
        for blocks in (start + rest for rest in rests):
            up, down = measured.fit(blocks), measured.fit_down(blocks)
            self.assertLessEqual(down, blocks)
            self.assertLessEqual(blocks, up)
            self.assertEqual(up, self.resized(up))
            self.assertEqual(down, self.resized(down))
            if blocks not in (up, down):
                self.assertEqual(down, self.resized(blocks))

    def check_overhead(self, kind: str) -> None:
        # What a filesystem of so many groups has in use without data.
        measured = self.make(kind)
        found = measured.superblock
        for count in (3, 6, 9):
            if found.blocks_per_group > 2048:
                count = (count + 2) // 3
            blocks = found.first_data_block + count * found.blocks_per_group
            size = measured.fit(
                max(blocks, measured.need(_ROOMY, packed=False))
            )
            count = measured.groups(size)
            self.assertEqual(size, self.resized(size))
            after = _measure(self.directory / 'copy')
            used = size - superblock.read(self.directory / 'copy').free_blocks
            self.assertEqual(
                used - found.first_data_block,
                after.data + after.overhead(count),
            )
            self.assertEqual(measured.overhead(count), after.overhead(count))

    def check_lower_bound(self, kind: str) -> None:
        measured = self.make(kind)
        bound = measured.need()
        target = self.directory / 'copy'
        # Nothing that resize2fs can do gets below.
        for blocks in (bound - 1, bound - 20, bound // 2):
            process.run(
                ['cp', '--sparse=always', self.image, target], access=None
            )
            try:
                process.run(
                    ['resize2fs', '-f', target, str(blocks)], access=None
                )
            except errors.ProgramError:
                continue
            self.assertGreaterEqual(superblock.read(target).block_count, bound)
        # And it is not too low: with a little more, it works.
        size = measured.need(_ROOMY, packed=False)
        self.assertLess(size, bound + 3 * _ROOMY)
        self.assertEqual(size, self.resized(size))


class TestNeed(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.image = shrinking.small(self.tmp(), size=64 * _MIB)
        self.measured = _measure(self.image)

    def test_grows_with_what_is_wanted(self) -> None:
        last = 0
        for extra in range(0, 20_000, 97):
            need = self.measured.need(extra)
            self.assertGreaterEqual(need, last)
            self.assertEqual(need, self.measured.fit(need))
            count = self.measured.groups(need)
            room = need - 1 - self.measured.overhead(count)
            self.assertGreaterEqual(room, self.measured.data + extra)
            last = need

    def test_unpacked_is_never_less(self) -> None:
        for extra in range(0, 20_000, 997):
            self.assertGreaterEqual(
                self.measured.need(extra, packed=False),
                self.measured.need(extra),
            )

    def test_inodes_keep_groups(self) -> None:
        image = shrinking.small(
            self.tmp(), size=64 * _MIB, options=('-N', '1024')
        )
        measured = _measure(image)
        least = -(-measured.inodes // measured.superblock.inodes_per_group)
        self.assertGreater(least, 4)
        self.assertEqual(least, measured.groups(measured.need()))

    def test_moved(self) -> None:
        count = self.measured.superblock.block_count
        self.assertEqual(0, self.measured.moved(count))
        self.assertEqual(
            sparse.count(self.measured.used), self.measured.moved(0)
        )
