# SPDX-License-Identifier: Apache-2.0

"""What a shrink leaves: the journal, and free space."""

import pathlib


from amiclient import errors
from amiclient.ext import shrink
from amiclient import process
from amiclient.tests import base
from amiclient.tests.oracle import exttree
from amiclient.tests.unit.ext import shrinking
from amiclient import units

_MIB = 1 << 20


class TestJournal(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.image = shrinking.small(
            self.directory, size=64 * _MIB, options=('-J', 'size=4')
        )
        self.output = self.directory / 'output'

    def shrink(self, **rest: object) -> shrink.Shrunk:
        planned = shrink.plan(
            shrinking.request(self.image, output=self.output, **rest),
            exact=True,
        )
        done = shrink.execute(planned)
        self.assertEqual(planned.size, done.size)
        self.assertEqual(planned.lower_bound, done.lower_bound)
        self.assertLess(done.size, done.lower_bound * 1.01)
        self.assertTrue(shrinking.is_sound(self.output))
        self.assertEqual([], shrinking.differences(self.image, self.output))
        return done

    def journal(self, path: pathlib.Path | None = None) -> int:
        found = shrinking.header(path or self.output)
        # In KiB, with a k; or in MiB, with an M.
        text = found.get('Total journal size', '0k')
        return units.parse_size(text)

    def test_kept(self) -> None:
        self.shrink()
        self.assertEqual(4 * _MIB, self.journal())

    def test_dropped(self) -> None:
        kept = self.shrink()
        done = self.shrink(journal='none')
        self.assertEqual(0, self.journal())
        self.assertEqual('ext4', done.filesystem)
        self.assertGreater(kept.size - done.size, 4 * _MIB)

    def test_other_size(self) -> None:
        for mib in (1, 20):
            self.shrink(journal=mib * _MIB)
            self.assertEqual(mib * _MIB, self.journal())

    def test_made_where_there_was_none(self) -> None:
        self.image = shrinking.small(
            self.directory, features='extent', size=64 * _MIB
        )
        self.shrink()
        self.assertEqual(0, self.journal())
        self.shrink(journal='none')
        self.assertEqual(0, self.journal())
        self.shrink(journal=4 * _MIB)
        self.assertEqual(4 * _MIB, self.journal())

    def test_in_place(self) -> None:
        for journal, size in ((2 * _MIB, 2 * _MIB), ('none', 0)):
            tree = exttree.read_tree(self.image)
            shrinking.shrunk(self.image, journal=journal, in_place=True)
            self.assertEqual(size, self.journal(self.image))
            self.assertTrue(shrinking.is_sound(self.image))
            self.assertEqual(
                [], exttree.diff_trees(tree, exttree.read_tree(self.image))
            )


class TestHeadroom(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.output = self.directory / 'output'

    def check(self, image: pathlib.Path, text: str, **rest: object) -> None:
        headroom = units.parse_headroom(text)
        planned = shrink.plan(
            shrinking.request(
                image, output=self.output, headroom=headroom, **rest
            ),
            exact=True,
        )
        done = shrink.execute(planned)
        found = shrinking.header(self.output)
        size = int(found['Block size'])
        free = int(found['Free blocks']) * size
        # Percent are of what it takes without.
        least = shrink.plan(
            shrinking.request(image, output=self.output, **rest)
        )
        wanted = headroom.of(least.size)
        self.assertGreaterEqual(free, wanted)
        # No more, unless groups had to stay for the inodes that go with it.
        if free >= wanted + done.size // 50:
            spare = min(
                units.inodes(wanted), wanted * int(found['Inode count'])
                // (int(found['Block count']) * size),
            )  # fmt: skip
            self.assertLess(
                int(found['Free inodes']),
                spare + 2 * int(found['Inodes per group']),
            )
        self.assertEqual(planned.size, done.size)
        self.assertEqual((done.size - free, done.size - free),
                         (planned.in_use, done.in_use))  # fmt: skip
        self.assertEqual(planned.lower_bound, done.lower_bound)
        self.assertLessEqual(done.lower_bound, done.size)
        self.assertLess(done.size, done.lower_bound * 1.01)
        self.assertTrue(shrinking.is_sound(self.output))
        self.assertEqual([], shrinking.differences(image, self.output))

    def test_lower_bound(self) -> None:
        # On its way it has fewer groups, and so less room for descriptors.
        image = shrinking.small(
            self.directory, size=192 * _MIB, data=40 * _MIB
        )
        for text in ('100M', '200M', '200%'):
            self.check(image, text)

    def test_lower_bound_of_other_shapes(self) -> None:
        for features, options in (
            ('extent', ()),
            ('has_journal,meta_bg,^resize_inode', ()),
            ('has_journal,^flex_bg', ('-J', 'size=16')),
            ('has_journal,^extent,^64bit', ()),
            ('has_journal,bigalloc', ('-C', '16384', '-b', '4096')),
            ('has_journal', ('-b', '4096', '-g', '2048', '-J', 'size=8')),
            ('has_journal,sparse_super2', ('-g', '1024', '-N', '4096')),
        ):
            image = shrinking.small(
                self.directory, size=96 * _MIB, features=features,
                options=options,
            )  # fmt: skip
            for text in ('20M', '150%'):
                self.check(image, text)

    def test_size(self) -> None:
        image = shrinking.small(self.directory, size=128 * _MIB)
        for text in ('100K', '1M', '12M', '40M'):
            self.check(image, text)

    def test_percentage(self) -> None:
        image = shrinking.small(self.directory, size=128 * _MIB)
        for text in ('1%', '7.5%', '100%'):
            self.check(image, text)

    def test_without_a_journal(self) -> None:
        image = shrinking.small(self.directory, size=128 * _MIB)
        self.check(image, '12M', journal='none')

    def test_it_is_really_there(self) -> None:
        image = shrinking.small(self.directory, size=64 * _MIB)
        self.check(image, '6M')
        payload = self.directory / 'payload'
        payload.write_bytes(self.random.randbytes(6 * _MIB - 64 * 1024))
        process.run(
            ['debugfs', '-w', '-R', f'write {payload} more', self.output],
            access=None,
        )
        found = exttree.read_tree(self.output)
        self.assertEqual(payload.stat().st_size, found[b'/more'].size)

    def test_more_than_a_filesystem_can_have(self) -> None:
        error = self.assertRaises(
            errors.UsageError,
            self.check,
            shrinking.small(self.directory),
            '99999T',
        )
        self.assertIn('choose a smaller --headroom', str(error))

    def test_more_than_there_is(self) -> None:
        # What is promised is free, even if it takes more than before.
        for features in ('has_journal', 'extent'):
            image = shrinking.small(
                self.directory, features=features, size=24 * _MIB
            )
            self.check(image, '24M')
