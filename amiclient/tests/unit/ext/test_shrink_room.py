# SPDX-License-Identifier: Apache-2.0

"""How much a shrink takes: room on disk, memory, and time."""

import os
import pathlib
import resource
import time
import unittest

import fixtures

from amiclient import errors
from amiclient.ext import shrink
from amiclient import process
from amiclient import scratch
from amiclient.tests import base
from amiclient.tests.oracle import exttree
from amiclient.tests.shapes import shapes
from amiclient.tests.unit.ext import shrinking

_MIB = 1 << 20
_GIB = 1 << 30


class TestRoom(base.TestCase):
    """A disk that is full, or gets full meanwhile."""

    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.image = shrinking.small(
            self.directory, size=64 * _MIB, data=20 * _MIB
        )
        self.before = shrinking.digest(self.image)

    def disk(self, size: int) -> pathlib.Path:
        """Make a disk of so many bytes."""
        where = self.tmp()
        try:
            process.run(
                ['mount', '-t', 'tmpfs', '-o', f'size={size}', 'none', where],
                access=None,
            )
        except errors.ProgramError as error:
            self.skipTest(f'cannot mount: {error}')
        self.addCleanup(process.run, ['umount', where], access=None)
        return where

    def test_known_before_it_starts(self) -> None:
        where = self.disk(16 * _MIB)
        request = shrinking.request(self.image, output=where / 'output')
        for exact in (False, True):
            error = self.assertRaises(
                errors.NoSpaceError, shrink.plan, request, exact=exact
            )
            self.assertIn(f'{where}: no room for the copy', str(error))
            self.assertIn('MiB are needed, 16.0 MiB are free', str(error))
            self.assertIn('--output', str(error))
            self.assertNotIn('\n', str(error))
        self.assertEqual([], os.listdir(where))

    def test_room_is_enough(self) -> None:
        request = shrinking.request(
            self.image, output=self.directory / 'output'
        )
        planned = shrink.plan(request)
        # But for what a filesystem that is shrunk needs above what it holds.
        where = self.disk(planned.room + 2 * _MIB)
        done = shrinking.shrunk(self.image, output=where / 'output')
        self.assertLess(planned.room, 2 * done.size)

    def test_holes_take_no_room(self) -> None:
        # Inode tables that nobody has written to yet.
        image = shrinking.small(
            self.tmp(), size=4 * _GIB, features='extent',
            options=('-b', '4096', '-E', 'lazy_itable_init=1'),
        )  # fmt: skip
        # Without checksums, nothing is known of what was never written to.
        process.run(['tune2fs', '-O', '^metadata_csum', image], access=None)
        process.run(
            ['cp', '--sparse=always', image, f'{image}.sparse'], access=None
        )
        image = image.with_name(f'{image.name}.sparse')
        taken = image.stat().st_blocks * 512
        planned = shrink.plan(shrinking.request(image))
        self.assertGreater(planned.image.superblock.in_use, 64 * _MIB)
        self.assertLess(taken, 16 * _MIB)
        self.assertLessEqual(planned.room, 2 * taken)
        self.assertGreater(planned.room, taken // 2)

    def test_full_while_copying(self) -> None:
        self.fill_up('Copying')

    def test_full_while_shrinking(self) -> None:
        self.fill_up('Resizing')

    def fill_up(self, moment: str) -> None:
        where = self.disk(64 * _MIB)
        request = shrinking.request(self.image, output=where / 'output')
        planned = shrink.plan(request)

        class Watch(shrinking.Watch):
            def begun(self, description: str) -> None:
                if description == moment:
                    status = os.statvfs(where)
                    free = status.f_bavail * status.f_frsize
                    with (where / 'other').open('ab') as file:
                        file.write(bytes(free))

        error = self.assertRaises(
            errors.NoSpaceError, shrink.execute, planned, progress=Watch()
        )
        self.assertIn(f'{where}: no room for the copy', str(error))
        self.assertNotIn('\n', str(error))
        self.assertEqual(['other'], os.listdir(where))
        self.assertEqual(self.before, shrinking.digest(self.image))

    def test_replacing_on_a_full_disk(self) -> None:
        where = self.disk(40 * _MIB)
        image = where / 'root.img'
        process.run(['cp', '--sparse=always', self.image, image], access=None)
        error = self.assertRaises(errors.NoSpaceError, shrinking.shrunk, image)
        self.assertIn(str(where), str(error))
        self.assertEqual(['root.img'], os.listdir(where))
        self.assertEqual(self.before, shrinking.digest(image))
        # In place, there is room.
        done = shrinking.shrunk(image, in_place=True)
        self.assertEqual(done.size, image.stat().st_size)
        self.assertTrue(shrinking.is_sound(image))
        self.assertEqual([], shrinking.differences(self.image, image))

    def test_filled_while_it_is_resized_in_place(self) -> None:
        where = self.disk(64 * _MIB)
        image = where / 'root.img'
        process.run(['cp', '--sparse=always', self.image, image], access=None)

        class Watch(shrinking.Watch):
            def begun(self, description: str) -> None:
                if description == 'Resizing':
                    status = os.statvfs(where)
                    free = status.f_bavail * status.f_frsize
                    with (where / 'other').open('ab') as file:
                        file.write(bytes(free))

        # What it writes to holes of the file had been set aside.
        done = shrinking.shrunk(image, in_place=True, progress=Watch())
        self.assertEqual(['other', 'root.img'], sorted(os.listdir(where)))
        self.assertEqual(done.size, image.stat().st_size)
        self.assertTrue(shrinking.is_sound(image))
        self.assertEqual([], shrinking.differences(self.image, image))

    def test_two_disks(self) -> None:
        # Each is asked for what it is to hold, and no more.
        image = shrinking.shape('needs-recovery', self.directory)
        request = shrinking.request(image, output=self.directory / 'output')
        whole = shrink.plan(request).room
        result, work = self.disk(whole), self.disk(whole)
        done = shrinking.shrunk(
            image, output=result / 'output', work_directory=work
        )
        self.assertEqual([], os.listdir(work))
        self.assertEqual(done.size, (result / 'output').stat().st_size)
        small = self.disk(_MIB)
        for rest in (
            {'output': small / 'output', 'work_directory': work},
            {'output': result / 'other', 'work_directory': small},
        ):
            error = self.assertRaises(
                errors.NoSpaceError, shrink.plan,
                shrinking.request(image, **rest),
            )  # fmt: skip
            self.assertIn(f'{small}: no room for the copy', str(error))

    def test_what_was_left_counts_as_room(self) -> None:
        where = self.disk(48 * _MIB)
        with scratch.File(where, 'output') as left:
            left.path.write_bytes(bytes(40 * _MIB))
            request = shrinking.request(self.image, output=where / 'output')
            self.assertRaises(errors.NoSpaceError, shrink.plan, request)
            # A second name stays, as all does after kill -9.
            os.link(left.path, where / '.output.amiclient-01234567')
        planned = shrink.plan(request)
        log = self.useFixture(fixtures.FakeLogger('amiclient'))
        shrink.execute(planned)
        self.assertEqual(['output'], os.listdir(where))
        self.assertIn('removed 1 temporary file', log.output)

    def test_limit_of_file_sizes(self) -> None:
        output = self.tmp() / 'output'
        child = shrinking.child(self.image, limit=8 * _MIB, output=output)
        stdout, stderr = child.communicate(timeout=60)
        self.assertEqual('', stderr)
        self.assertEqual(self.too_large(output.parent, 8 * _MIB), stdout)
        self.assertEqual([], os.listdir(output.parent))
        self.assertEqual(self.before, shrinking.digest(self.image))

    def too_large(self, directory: pathlib.Path, limit: int) -> str:
        return (
            f'TooLargeError {directory}: files are limited to {limit} bytes '
            'here; raise the limit: ulimit -f unlimited\n'
        )

    def test_limit_of_file_sizes_met_by_a_program(self) -> None:
        # To make the journal anew takes twice the room, which nobody has
        # planned.
        limit = 80 * _MIB
        for rest in (
            {'output': self.tmp() / 'output'},
            {'in_place': True},
        ):
            child = shrinking.child(
                self.image, limit=limit, journal=40 * _MIB, **rest
            )
            stdout, stderr = child.communicate(timeout=60)
            self.assertEqual('', stderr)
            directory = rest.get('output', self.image).parent
            lines = stdout.splitlines(keepends=True)
            self.assertEqual('Planned\n', lines[0])
            self.assertEqual(self.too_large(directory, limit), lines[-1])
            self.assertEqual(self.before, shrinking.digest(self.image))
            self.assertEqual(
                [] if 'output' in rest else ['small.img'],
                sorted(os.listdir(directory)),
            )


class TestMemory(base.TestCase):
    _LIMIT = 100 * _MIB

    def peak(self, image: pathlib.Path, **rest: object) -> int:
        """Tell the bytes that a process takes for a shrink, all in all."""
        output = self.tmp() / 'output'
        child = shrinking.child(image, output=output, **rest)
        stdout, stderr = child.communicate(timeout=600)
        self.assertEqual((0, ''), (child.returncode, stderr), stdout)
        _, _, before, peak = stdout.splitlines()[-1].split()
        self.assertGreater(int(peak), int(before))
        return int(peak)

    def test_ordinary(self) -> None:
        self.assertLess(
            self.peak(shrinking.shape('ext4-4k', self.tmp())), self._LIMIT
        )

    def test_many_groups(self) -> None:
        image = shrinking.small(
            self.tmp(), size=2 * _GIB, options=('-g', '1024', '-N', '131072')
        )
        self.assertLess(self.peak(image), self._LIMIT)

    def test_journal_to_be_replayed(self) -> None:
        self.assertLess(
            self.peak(shrinking.shape('needs-recovery', self.tmp())),
            self._LIMIT,
        )

    @unittest.skipUnless(base.SLOW, 'slow')
    def test_large(self) -> None:
        for name in ('sparse-1t-journal', 'scattered-20g'):
            image = shapes.make(name, self.tmp())
            self.assertLess(self.peak(image), self._LIMIT)
            image.unlink()


class TestManyGroups(base.TestCase):
    """Groups at the end of a huge filesystem that hold nothing."""

    def check(self, **rest: object) -> None:
        directory = self.tmp()
        image = shrinking.small(directory, **rest)
        before = shrinking.digest(image)
        output = directory / 'output'
        planned = shrink.plan(
            shrinking.request(image, output=output), exact=True
        )
        done = shrink.execute(planned)
        self.assertEqual(planned.size, done.size)
        self.assertLessEqual(done.size, done.lower_bound * 1.01)
        self.assertTrue(shrinking.is_sound(output))
        self.assertEqual([], shrinking.differences(image, output))
        self.assertEqual(before, shrinking.digest(image))
        old, new = shrinking.header(image), shrinking.header(output)
        for key in ('Filesystem features', 'Journal inode', 'Inode size',
                    'Total journal size', 'Directory Hash Seed'):  # fmt: skip
            self.assertEqual(old.get(key), new.get(key), key)

    def test_features(self) -> None:
        for features in (
            'has_journal', 'extent,^flex_bg,^resize_inode',
            'has_journal,orphan_file,quota',
            'has_journal,^metadata_csum,uninit_bg',
        ):  # fmt: skip
            self.check(
                size=320 * _MIB, features=features,
                options=('-g', '512', '-N', '32768'),
            )  # fmt: skip

    def test_something_at_the_very_end(self) -> None:
        directory = self.tmp()
        image = shrinking.small(
            directory, size=320 * _MIB, options=('-g', '512', '-N', '32768'),
        )  # fmt: skip
        payload = directory / 'payload'
        payload.write_bytes(self.random.randbytes(3000))
        last = shrinking.free_runs(image)[-1][1] - 100
        for command in (f'setb 50 {last - 50}', f'write {payload} last',
                        f'freeb 50 {last - 50}'):  # fmt: skip
            process.run(['debugfs', '-w', '-R', command, image], access=None)
        process.run(['e2fsck', '-f', '-y', image], ok=(0, 1), access=None)
        output = directory / 'output'
        done = shrinking.shrunk(image, output=output)
        self.assertLessEqual(done.size, done.lower_bound * 1.01)
        self.assertEqual([], shrinking.differences(image, output))
        self.assertEqual(3000, exttree.read_tree(output)[b'/last'].size)


@base.slow
class TestCost(base.TestCase):
    """What a shrink costs grows with the data, not with the disk."""

    def costs(self, size: int) -> tuple[float, float]:
        """Tell the seconds, and those of processor time, that one takes."""
        directory = self.tmp()
        # With the journal that mke2fs chooses: that of 1 TiB has 1 GiB.
        image = shrinking.small(
            directory, size=size, data=300 * _MIB, options=('-b', '4096')
        )
        # The best of some: what else runs can only make it worse.
        found = [self.cost(image) for _ in range(5)]
        return min(wall for wall, _ in found), min(cpu for _, cpu in found)

    def cost(self, image: pathlib.Path) -> tuple[float, float]:
        output = image.with_name('output')
        begin, cpu = time.monotonic(), self.processor_time()
        shrinking.shrunk(image, output=output)
        end = time.monotonic(), self.processor_time()
        output.unlink()
        return end[0] - begin, end[1] - cpu

    def processor_time(self) -> float:
        """Tell what this process and its children have taken."""
        return sum(
            usage.ru_utime + usage.ru_stime
            for usage in map(
                resource.getrusage,
                (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN),
            )
        )

    def test_tib_and_10_gib(self) -> None:
        small, large = self.costs(10 * _GIB), self.costs(1 << 40)
        self.assertLess(large[0], 2 * small[0])
        # Beside the copying, e2fsck looks at each group of the source.
        self.assertLess(large[1], 6 * small[1])
