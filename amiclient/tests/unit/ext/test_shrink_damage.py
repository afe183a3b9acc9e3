# SPDX-License-Identifier: Apache-2.0

"""Filesystems that are not at rest: journals to be replayed, and damage."""

import os
import pathlib

import fixtures

from amiclient import errors
from amiclient.ext import shrink
from amiclient import process
from amiclient.tests import base
from amiclient.tests.oracle import exttree
from amiclient.tests.shapes import broken
from amiclient.tests.shapes import shapes
from amiclient.tests.unit.ext import shrinking

_REPAIRABLE = sorted(
    name for name, shape in shapes.SHAPES.items() if 'repairable' in shape.tags
)


class TestRecovery(base.TestCase):
    """Blocks whose allocation is in the journal alone are not lost."""

    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.image = shrinking.shape('needs-recovery', self.directory)
        self.want = shapes.settled_tree(self.image)

    def check(self, path: pathlib.Path) -> None:
        found = exttree.read_tree(path)
        self.assertEqual([], exttree.diff_trees(self.want, found))
        self.assertEqual(2_000_000, found[broken.JOURNALED].size)
        self.assertTrue(shrinking.is_sound(path))
        self.assertNotIn(
            'needs_recovery', shrinking.header(path)['Filesystem features']
        )
        self.assertEqual(
            [], [n for n in os.listdir(self.directory) if n.startswith('.')]
        )

    def test_output(self) -> None:
        before = shrinking.digest(self.image)
        output = self.directory / 'output'
        request = shrinking.request(self.image, output=output)
        planned = shrink.plan(request, exact=True)
        done = shrink.execute(planned)
        self.assertEqual(planned.size, done.size)
        self.check(output)
        self.assertEqual(before, shrinking.digest(self.image))

    def test_replaced(self) -> None:
        shrinking.shrunk(self.image)
        self.check(self.image)

    def test_in_place(self) -> None:
        shrinking.shrunk(self.image, in_place=True)
        self.check(self.image)

    def test_without_a_journal_in_the_end(self) -> None:
        output = self.directory / 'output'
        shrinking.shrunk(self.image, output=output, journal='none')
        self.check(output)

    def test_room_for_the_full_copy_is_counted(self) -> None:
        calm = shrink.plan(
            shrinking.request(shrinking.shape('ext4-4k', self.tmp()))
        )
        planned = shrink.plan(shrinking.request(self.image))
        taken = self.image.stat().st_blocks * 512
        self.assertTrue(planned.recover)
        self.assertFalse(calm.recover)
        self.assertGreater(planned.room, taken * 3 // 2)

    def test_orphans(self) -> None:
        # Deleted, but still open when the power failed.
        image = shrinking.small(self.tmp())
        payload = image.with_name('payload')
        payload.write_bytes(shrinking.SECRET * 1000)
        process.run(
            ['debugfs', '-w', '-R', f'write {payload} orphan', image],
            access=None,
        )
        number = exttree.inode_numbers(image)[b'/orphan']
        for command in (
            'unlink orphan', f'sif <{number}> links_count 0',
            f'sif <{number}> dtime 0', f'ssv last_orphan {number}',
        ):  # fmt: skip
            process.run(['debugfs', '-w', '-R', command, image], access=None)
        output = image.with_name('output')
        want = shapes.settled_tree(image)
        shrinking.shrunk(image, output=output)
        self.assertEqual(
            [], exttree.diff_trees(want, exttree.read_tree(output))
        )
        self.assertFalse(shrinking.holds(output))
        self.assertTrue(shrinking.is_sound(output))


@shrinking.for_each('scratched', 'error-flag')
class TestPreening(base.TestCase):
    """Damage that preening mends is mended, on a copy."""

    def check_mended(self, name: str) -> None:
        directory = self.tmp()
        image = shrinking.shape(name, directory)
        before, want = shrinking.digest(image), shapes.settled_tree(image)
        self.assertFalse(shrinking.is_sound(image) and name == 'scratched')
        output = directory / 'output'
        shrinking.shrunk(image, output=output)
        self.assertTrue(shrinking.is_sound(output))
        self.assertEqual('clean', shrinking.header(output)['Filesystem state'])
        self.assertEqual(before, shrinking.digest(image))
        for rest in ({'in_place': True}, {}):
            shrinking.shrunk(image, **rest)
            self.assertTrue(shrinking.is_sound(image))
            self.assertEqual(
                [], exttree.diff_trees(want, exttree.read_tree(image))
            )


@shrinking.for_each(*_REPAIRABLE)
class TestRepair(base.TestCase):
    """Damage beyond preening is refused, unless repair is asked for."""

    def check_repair(self, name: str) -> None:
        directory = self.tmp()
        image = shrinking.shape(name, directory)
        before = shrinking.digest(image)
        for rest in ({}, {'output': directory / 'output'}, {'in_place': True}):
            error = self.assertRaises(
                errors.DamagedError, shrinking.shrunk, image, **rest
            )
            self.assertIn(str(image), str(error))
            self.assertIn('use --repair', str(error))
            self.assertNotIn('\n', str(error))
            self.assertEqual(before, shrinking.digest(image))
            self.assertEqual([image.name], os.listdir(directory))
        want = shapes.settled_tree(image)
        log = self.useFixture(fixtures.FakeLogger())
        output = directory / 'output'
        request = shrinking.request(image, output=output, repair=True)
        planned = shrink.plan(request, exact=True)
        self.assertEqual(before, shrinking.digest(image))
        done = shrink.execute(planned)
        self.assertEqual(planned.size, done.size)
        self.assertEqual(before, shrinking.digest(image))
        self.assertTrue(shrinking.is_sound(output))
        self.assertEqual(
            [], exttree.diff_trees(want, exttree.read_tree(output))
        )
        self.assertLess(done.size, done.lower_bound * 1.01)
        # Whoever has lost something is told.
        self.assertEqual(
            name == 'lost-directory',
            'look for files in lost+found' in (log.output),
        )


class TestHopeless(base.TestCase):
    def test_no_groups_left(self) -> None:
        # Group descriptors and all their backups.
        image = shrinking.small(self.tmp())
        for number in (2, 8194, 24578 - 8192):
            shrinking.overwrite(image, number * 1024, b'\xa5' * 1024)
        before = shrinking.digest(image)
        for rest in ({}, {'in_place': True}):
            error = self.assertRaises(
                errors.DamagedError, shrinking.shrunk, image, **rest
            )
            self.assertIn('--repair', str(error))
            self.assertNotIn('\n', str(error))
            self.assertEqual(before, shrinking.digest(image))


class TestTwoRuns(base.TestCase):
    """What e2fsck mends in two runs: the first shows what else is wrong."""

    def test_attributes_of_a_file_that_is_lost(self) -> None:
        image = shrinking.small(
            self.tmp(), features='^metadata_csum', data=1 << 20,
            options=('-I', '128'),
        )  # fmt: skip
        process.run(
            ['debugfs', '-w', '-f', '/dev/stdin', image],
            input=b'ea_set /data user.note value\n'
            b'set_inode_field /data block[0] 1\n',
            access=None,
        )
        copy = image.with_name('copy')
        copy.write_bytes(image.read_bytes())
        process.run(['e2fsck', '-f', '-y', copy], ok=(1,), access=None)
        self.assertFalse(shrinking.is_sound(copy))
        self.assertRaises(errors.DamagedError, shrinking.shrunk, image)
        shrinking.shrunk(image, repair=True)
        self.assertTrue(shrinking.is_sound(image))
        self.assertNotIn(b'/data', exttree.read_tree(image))
