# SPDX-License-Identifier: Apache-2.0

"""Runs of blocks, and which of them block groups say are in use."""

import itertools
import os

from amiclient import errors
from amiclient.ext import layout
from amiclient.ext import superblock
from amiclient import sparse
from amiclient.tests import base
from amiclient.tests.oracle import disk
from amiclient.tests.oracle import exttree
from amiclient.tests.unit.ext import shrinking

#: One of each geometry.
_SHAPES = (
    'tiny', 'empty', 'small-groups', 'many-inodes', 'odd-size', 'ext2-1k',
    'ext3-2k', 'bigalloc', 'bigalloc-1k', 'meta-bg', 'meta-bg-1k',
    'no-flex-bg', 'gdt-csum', 'no-64bit', 'sparse-super2', 'no-sparse-super',
    'no-resize-inode', 'inode-1024',
)  # fmt: skip


class TestRuns(base.TestCase):
    """Checked against sets of numbers, on random runs."""

    def numbers(self, runs: list[sparse.Run]) -> set[int]:
        return {n for first, end in runs for n in range(first, end)}

    def runs(self, count: int = 12) -> list[sparse.Run]:
        found = []
        for _ in range(self.random.randrange(count)):
            first = self.random.randrange(90)
            found.append((first, first + self.random.randint(1, 12)))
        return found

    def check_form(self, runs: list[sparse.Run]) -> None:
        self.assertTrue(all(first < end for first, end in runs), runs)
        for (_, end), (first, _) in itertools.pairwise(runs):
            self.assertLessEqual(end, first)

    def test_merge(self) -> None:
        for _ in range(500):
            runs = self.runs()
            merged = sparse.merge(runs)
            self.check_form(merged)
            self.assertEqual(self.numbers(runs), self.numbers(merged))
            # Those that touch are one.
            ends = {end for _, end in merged}
            self.assertFalse(ends & {first for first, _ in merged})

    def test_subtract(self) -> None:
        for _ in range(500):
            one, two = sparse.merge(self.runs()), sparse.merge(self.runs())
            left = sparse.subtract(one, two)
            self.check_form(left)
            self.assertEqual(
                self.numbers(one) - self.numbers(two), self.numbers(left)
            )

    def test_complement(self) -> None:
        for _ in range(500):
            runs = sparse.merge(self.runs())
            left = sparse.complement(runs, 60)
            self.check_form(left)
            self.assertEqual(
                set(range(60)) - self.numbers(runs), self.numbers(left)
            )

    def test_count(self) -> None:
        for _ in range(200):
            runs = sparse.merge(self.runs())
            numbers = self.numbers(runs)
            self.assertEqual(len(numbers), sparse.count(runs))
            below = self.random.randrange(110)
            self.assertEqual(
                sum(n < below for n in numbers),
                sparse.count(runs, below=below),
            )

    def test_bitmap(self) -> None:
        for bits in (1, 7, 8, 64, 1000):
            for _ in range(50):
                data = self.random.randbytes(128)
                if self.random.random() < 0.2:
                    data = self.random.choice((b'\0', b'\xff')) * 128
                want = {n for n in range(bits) if data[n // 8] >> n % 8 & 1}
                found = layout._runs(data, bits)
                self.check_form(found)
                self.assertEqual(want, self.numbers(found))


@shrinking.for_each(*_SHAPES)
class TestLayout(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()

    def check_free_blocks(self, name: str) -> None:
        image = shrinking.shape(name, self.directory)
        found = superblock.read(image)
        with sparse.opened(image, os.O_RDONLY) as descriptor:
            groups = layout.Layout(descriptor, found)
            free, used = groups.free(), groups.in_use()
            metadata = groups.metadata()
        self.assertEqual(
            found.block_count, sparse.count(free) + sparse.count(used)
        )
        # Metadata that is not initialised does not count as in use: there
        # is nothing in it to copy.
        want = shrinking.free_runs(image)
        self.assertEqual([], sparse.subtract(want, free))
        self.assertEqual(want, sparse.subtract(free, metadata))
        # What else there is, is in no group's hands.
        self.assertEqual([], sparse.subtract(metadata, sparse.complement(
            want, found.block_count)))  # fmt: skip

    def check_inodes(self, name: str) -> None:
        image = shrinking.shape(name, self.directory)
        found = superblock.read(image)
        with sparse.opened(image, os.O_RDONLY) as descriptor:
            groups = layout.Layout(descriptor, found)
            used = {
                group.number * found.inodes_per_group + index + 1
                for group in groups.groups
                for first, end in groups.inode_runs(group)
                for index in range(first, end)
            }
            unused = list(groups.unused_inode_bytes())
        self.assertEqual(found.used_inodes, len(used))
        reachable = set(exttree.inode_numbers(image).values())
        self.assertEqual(set(), reachable - used)
        # Bytes of unused inodes are disjoint from those of used ones.
        with disk.Filesystem(image) as filesystem:
            spans = sparse.merge(
                (offset, offset + found.inode_size)
                for offset in map(filesystem.inode_offset, used)
            )
        self.assertEqual(spans, sparse.subtract(spans, sparse.merge(unused)))
        tables = found.group_count * found.inode_blocks * found.block_size
        # The last block of a table may be longer than its inodes.
        self.assertEqual(
            tables - len(used) * found.inode_size, sparse.count(unused)
        )


class TestDamage(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.image = shrinking.small(self.tmp())
        self.found = superblock.read(self.image)

    def layout(self) -> layout.Layout:
        with sparse.opened(self.image, os.O_RDONLY) as descriptor:
            groups = layout.Layout(descriptor, self.found)
            groups.in_use()
            return groups

    def test_descriptors_that_lead_nowhere(self) -> None:
        for garbage in (b'\xff' * 64, bytes(64)):
            shrinking.overwrite(self.image, 2048 + 64, garbage)
            error = self.assertRaises(errors.DamagedError, self.layout)
            self.assertIn('block group 1', str(error))

    def test_file_that_ends_too_early(self) -> None:
        os.truncate(self.image, 4000)
        self.assertRaises(errors.DamagedError, self.layout)
        os.truncate(self.image, 64 * 1024)
        self.assertRaises(errors.DamagedError, self.layout)
