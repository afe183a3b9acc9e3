# SPDX-License-Identifier: Apache-2.0

"""Nothing that was deleted is published; nothing depends on the day."""

import os
import pathlib
import time
from unittest import mock

import fixtures

from amiclient import errors
from amiclient.ext import search
from amiclient import process
from amiclient.tests import base
from amiclient.tests.oracle import disk
from amiclient.tests.oracle import exttree
from amiclient.tests.shapes import shapes
from amiclient.tests.unit.ext import shrinking
from amiclient import units

_MIB = 1 << 20
_ROOMY = units.Headroom(size=6 * _MIB)
_SPOTS = ('block', 'journal', 'inode', 'boot', 'tail')


@shrinking.for_each(*_SPOTS)
class TestSecrets(base.TestCase):
    """A secret in each spot that a file leaves its data in."""

    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.image = shrinking.small(
            self.directory, features='has_journal,inline_data',
            options=('-I', '1024'),
        )  # fmt: skip

    def plant(self, spot: str) -> None:
        getattr(self, f'_plant_in_{spot}')()
        self.assertTrue(shrinking.holds(self.image))

    def _plant_in_block(self) -> None:
        shapes.plant_secret(self.image, shrinking.SECRET)

    def _plant_in_journal(self) -> None:
        # As the kernel leaves its old transactions.
        size = disk.Filesystem(self.image).block_size
        for number in shrinking.journal_blocks(self.image)[::7]:
            shrinking.overwrite(
                self.image, number * size + 100, shrinking.SECRET
            )

    def _plant_in_inode(self) -> None:
        secret = self.directory / 'secret'
        secret.write_bytes(shrinking.SECRET)
        for command in (f'write {secret} hidden', 'rm hidden'):
            process.run(
                ['debugfs', '-w', '-R', command, self.image], access=None
            )

    def _plant_in_boot(self) -> None:
        # Not deleted, so not ours to remove: kept, see below.
        shrinking.overwrite(self.image, 100, shrinking.SECRET)

    def _plant_in_tail(self) -> None:
        with self.image.open('ab') as file:
            file.write(shrinking.SECRET * 1000)

    def check_output(self, spot: str) -> None:
        self.plant(spot)
        for rest in ({}, {'headroom': _ROOMY}, {'journal': 'none'}):
            output = self.directory / 'output'
            shrinking.shrunk(self.image, output=output, **rest)
            self.assertTrue(shrinking.is_sound(output))
            self.assertEqual(spot == 'boot', shrinking.holds(output))

    def check_replaced(self, spot: str) -> None:
        self._written(spot, in_place=False)

    def check_in_place(self, spot: str) -> None:
        self._written(spot, in_place=True)

    def _written(self, spot: str, *, in_place: bool) -> None:
        self.plant(spot)
        request = {'headroom': _ROOMY, 'in_place': in_place}
        if spot == 'tail':
            # What is no part of the filesystem is not ours to remove.
            before = shrinking.digest(self.image)
            self.assertRaises(
                errors.UsageError,
                shrinking.shrunk,
                self.image,
                **request,
            )
            self.assertEqual(before, shrinking.digest(self.image))
            return
        shrinking.shrunk(self.image, **request)
        self.assertEqual(spot == 'boot', shrinking.holds(self.image))


class TestJournalThatMovesAlong(base.TestCase):
    """The journal stays, but not what it holds."""

    def test_old_transactions(self) -> None:
        directory = self.tmp()
        take = search.Track.take
        for rest in ({'output': directory / 'output'}, {'in_place': True}):
            image = shrinking.shape('no-flex-bg', directory)
            old = shrinking.journal_blocks(image)
            size = disk.Filesystem(image).block_size
            for number in old[::5]:
                shrinking.overwrite(image, number * size, shrinking.SECRET)
            with mock.patch.object(
                search.Track, 'take', autospec=True, side_effect=take
            ) as taken:
                shrinking.shrunk(image, **rest)
            steps = [call.args[1] for call in taken.call_args_list]
            self.assertTrue(steps)
            self.assertFalse(any(step.drop_journal for step in steps))
            output = rest.get('output', image)
            self.assertTrue(shrinking.is_sound(output))
            self.assertFalse(shrinking.holds(output))


class TestFreeBlocks(base.TestCase):
    def test_secret_where_the_result_has_its_free_blocks(self) -> None:
        # All that is free, wherever it is, holds a secret.
        directory = self.tmp()
        image = shrinking.small(directory)
        size = disk.Filesystem(image).block_size
        for first, end in shrinking.free_runs(image):
            for number in range(first, end):
                shrinking.overwrite(image, number * size, shrinking.SECRET)
        self.assertTrue(shrinking.is_sound(image))
        output = directory / 'output'
        shrinking.shrunk(image, output=output, headroom=_ROOMY)
        self.assertFalse(shrinking.holds(output))
        shrinking.shrunk(image, headroom=_ROOMY, in_place=True)
        self.assertFalse(shrinking.holds(image))

    def test_result_takes_no_more_than_it_holds(self) -> None:
        directory = self.tmp()
        image = shrinking.small(directory, size=128 * _MIB)
        output = directory / 'output'
        done = shrinking.shrunk(
            image, output=output, headroom=units.Headroom(size=60 * _MIB)
        )
        used = output.stat().st_blocks * 512
        self.assertLess(used, done.in_use + _MIB)
        self.assertLess(used, done.size - 58 * _MIB)


class TestDeterminism(base.TestCase):
    """The same input makes the same bytes, whenever and wherever."""

    def check(self, image: pathlib.Path, **rest: object) -> None:
        directory = self.tmp()
        first = directory / 'first'
        shrinking.shrunk(image, output=first, **rest)
        # Time stamps count seconds.
        now = int(time.time())
        while int(time.time()) == now:
            time.sleep(0.02)
        elsewhere = self.tmp() / 'a rather different name'
        process.run(['cp', '--sparse=always', image, elsewhere], access=None)
        second = directory / 'second'
        shrinking.shrunk(elsewhere, output=second, **rest)
        self.assertEqual(shrinking.digest(first), shrinking.digest(second))

    def test_at_rest(self) -> None:
        self.check(shrinking.small(self.tmp()))

    def test_moved_inodes(self) -> None:
        self.check(shrinking.shape('small-1k', self.tmp()))

    def test_last_group_taken_apart(self) -> None:
        self.check(shrinking.shape('inline-data-1k', self.tmp()))

    def test_journal_to_be_replayed(self) -> None:
        self.check(shrinking.shape('needs-recovery', self.tmp()))

    def test_something_to_be_mended(self) -> None:
        self.useFixture(fixtures.FakeLogger())
        image = shrinking.small(self.tmp())
        process.run(['debugfs', '-w', '-R', 'clri /etc', image], access=None)
        self.check(image, repair=True)

    def test_other_journal(self) -> None:
        image = shrinking.small(self.tmp())
        self.check(image, journal=2 * _MIB)
        self.check(image, journal='none')

    def test_clusters(self) -> None:
        image = shrinking.small(
            self.tmp(), features='has_journal,bigalloc', size=64 * _MIB
        )
        self.check(image)


class TestTimes(base.TestCase):
    """Time stamps are those of the source, though resize2fs touches them."""

    def test_times_of_inodes_that_move(self) -> None:
        directory = self.tmp()
        image = shrinking.shape('small-1k', directory)
        before = exttree.read_tree(image)
        numbers = exttree.inode_numbers(image)
        # What resize2fs does on its own.
        plain = directory / 'plain'
        process.run(['cp', '--sparse=always', image, plain], access=None)
        process.run(['resize2fs', '-M', plain], access=None)
        moved = {
            name
            for name, number in exttree.inode_numbers(plain).items()
            if number != numbers[name]
        }
        after = exttree.read_tree(plain)
        touched = {
            name
            for name in before
            if (before[name].ctime, before[name].mtime)
            != (after[name].ctime, after[name].mtime)
        }
        self.assertGreater(len(moved), 20)
        self.assertGreater(len(touched), 20)
        # And what is left of it.
        output = directory / 'output'
        shrinking.shrunk(image, output=output)
        found = exttree.read_tree(output)
        renumbered = exttree.inode_numbers(output)
        self.assertTrue(any(renumbered[n] != numbers[n] for n in numbers))
        for name, entry in before.items():
            self.assertEqual(
                (entry.atime, entry.mtime, entry.ctime, entry.crtime),
                (found[name].atime, found[name].mtime, found[name].ctime,
                 found[name].crtime),
                name,
            )  # fmt: skip

    def test_hard_links_stay_together(self) -> None:
        directory = self.tmp()
        image = shrinking.shape('small-1k', directory)
        shrinking.shrunk(image, output=directory / 'output')
        numbers = exttree.inode_numbers(directory / 'output')
        groups = {
            entry.names
            for entry in exttree.read_tree(image).values()
            if len(entry.names) > 1
        }
        self.assertTrue(groups)
        for names in groups:
            self.assertEqual(1, len({numbers[name] for name in names}))

    def test_superblock_says_nothing_of_the_day(self) -> None:
        directory = self.tmp()
        image = shrinking.small(directory)
        shrinking.shrunk(image, output=directory / 'output')
        old = shrinking.header(image)
        new = shrinking.header(directory / 'output')
        for key in ('Filesystem created', 'Last mount time', 'Last checked',
                    'Last write time', 'Mount count'):  # fmt: skip
            self.assertEqual(old[key], new[key], key)

    def test_file_has_no_time_of_its_own_to_keep(self) -> None:
        # The result is a new file: whoever looks for changes sees one.
        image = shrinking.small(self.tmp())
        os.utime(image, (1, 1))
        shrinking.shrunk(image)
        self.assertGreater(image.stat().st_mtime, 1)
