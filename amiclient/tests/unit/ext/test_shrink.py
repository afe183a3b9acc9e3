# SPDX-License-Identifier: Apache-2.0

"""What can be asked of a shrink, and what becomes of the file."""

import dataclasses
import errno
import os
import pathlib

import testtools

from amiclient import errors
from amiclient.ext import shrink
from amiclient import process
from amiclient.tests import base
from amiclient.tests.oracle import exttree
from amiclient.tests.unit.ext import shrinking

_MIB = 1 << 20
_PROGRAMS = ('e2fsck', 'tune2fs', 'debugfs', 'e2image', 'resize2fs')


class TestRequests(base.TestCase):
    """What is refused before anything is done."""

    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.image = shrinking.small(self.directory)
        self.before = shrinking.digest(self.image)
        self.names = sorted(os.listdir(self.directory))

    def refused(
        self, kind: type[errors.AmiError], *words: object, **rest: object
    ) -> None:
        request = shrinking.request(self.image, **rest)
        error = self.assertRaises(kind, shrink.plan, request)
        for word in words:
            self.assertIn(str(word), str(error))
        self.assertNotIn('\n', str(error))
        self.assertEqual(self.before, shrinking.digest(self.image))
        self.assertEqual(self.names, sorted(os.listdir(self.directory)))

    def test_output_and_in_place(self) -> None:
        self.refused(
            errors.UsageError, '--in-place', '--output',
            output=self.directory / 'output', in_place=True,
        )  # fmt: skip

    def test_output_is_a_directory(self) -> None:
        directory = self.tmp()
        self.refused(
            errors.UsageError, directory, 'directory', output=directory
        )

    def test_output_is_the_source(self) -> None:
        self.refused(
            errors.UsageError, self.image, 'same file', output=self.image
        )

    def test_output_is_another_name_of_the_source(self) -> None:
        link = self.tmp() / 'link'
        link.symlink_to(self.image)
        hard = self.tmp() / 'hard'
        hard.hardlink_to(self.image)
        for name in (link, hard):
            self.refused(errors.UsageError, name, 'same file', output=name)

    def test_output_is_no_regular_file(self) -> None:
        self.refused(
            errors.UsageError, 'regular', output=pathlib.Path('/dev/null')
        )

    def test_output_in_no_directory(self) -> None:
        missing = self.directory / 'no' / 'such'
        request = shrinking.request(self.image, output=missing)
        error = self.assertRaises(errors.AmiError, self._do, request)
        self.assertIn(f'{missing.parent}: no such directory', str(error))
        self.assertEqual(self.names, sorted(os.listdir(self.directory)))
        inside = self.image / 'output'
        request = shrinking.request(self.image, output=inside)
        error = self.assertRaises(errors.AmiError, self._do, request)
        self.assertIn('not a directory', str(error))

    def test_output_in_a_directory_that_is_read_only(self) -> None:
        directory = self.tmp()
        if os.geteuid() == 0:
            try:
                process.run(
                    ['mount', '-t', 'tmpfs', '-o', 'ro', 't', directory],
                    access=None,
                )
            except errors.ProgramError as error:
                self.skipTest(f'cannot mount: {error}')
            self.addCleanup(process.run, ['umount', directory], access=None)
        else:
            directory.chmod(0o500)
            self.addCleanup(directory.chmod, 0o700)
        request = shrinking.request(self.image, output=directory / 'output')
        error = self.assertRaises(errors.AmiError, self._do, request)
        self.assertIn(str(directory), str(error))
        self.assertNotIn('\n', str(error))
        self.assertEqual([], os.listdir(directory))

    def test_source_with_two_names(self) -> None:
        (self.directory / 'second').hardlink_to(self.image)
        self.names = sorted(os.listdir(self.directory))
        self.refused(errors.UsageError, self.image, 'hard link')
        # Either of these leaves both names with the same file.
        output = self.tmp() / 'output'
        self._do(shrinking.request(self.image, output=output))
        self._do(shrinking.request(self.image, in_place=True))
        self.assertEqual(2, self.image.stat().st_nlink)
        self.assertEqual(output.stat().st_size, self.image.stat().st_size)

    def test_impossible_journal(self) -> None:
        for size in (0, 1000, 512 * 1024, 3 * _MIB // 2):
            self.refused(
                errors.UsageError, 'journal', journal=size,
                output=self.directory / 'output',
            )  # fmt: skip

    def test_cut_short_after_a_look_at_it(self) -> None:
        size = self.image.stat().st_size
        self.image = shrinking.small(self.tmp(), data=size // 2)
        request = shrinking.request(self.image)
        os.truncate(self.image, size // 2)
        error = self.assertRaises(errors.SourceError, self._do, request)
        self.assertNotIn('\n', str(error))
        self.assertEqual(size // 2, self.image.stat().st_size)
        self.assertEqual(['small.img'], sorted(os.listdir(self.image.parent)))

    def _do(self, request: shrink.ShrinkRequest) -> None:
        shrink.execute(shrink.plan(request))


class TestResults(base.TestCase):
    """What becomes of files."""

    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.image = shrinking.small(self.directory)
        self.tree = exttree.read_tree(self.image)

    def check(self, done: shrink.Shrunk) -> None:
        self.assertEqual(done.size, done.output.stat().st_size)
        self.assertTrue(shrinking.is_sound(done.output))
        self.assertEqual(
            [], exttree.diff_trees(self.tree, exttree.read_tree(done.output))
        )
        self.assertEqual(
            [], [n for n in os.listdir(self.directory) if n.startswith('.')]
        )

    def test_replaced(self) -> None:
        self.image.chmod(0o640)
        if os.geteuid() == 0:
            os.chown(self.image, 12345, 23456)
        before = self.image.stat()
        done = shrinking.shrunk(self.image, durable=True)
        self.assertEqual(self.image, done.output)
        self.check(done)
        after = self.image.stat()
        self.assertEqual(
            (before.st_mode, before.st_uid, before.st_gid),
            (after.st_mode, after.st_uid, after.st_gid),
        )
        self.assertNotEqual(before.st_ino, after.st_ino)

    def test_replaced_with_attributes(self) -> None:
        try:
            os.setxattr(self.image, 'user.colour', b'blue\0green')
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise
            self.skipTest('no extended attributes here')
        self.check(shrinking.shrunk(self.image))
        self.assertEqual(
            b'blue\0green', os.getxattr(self.image, 'user.colour')
        )

    def test_replaced_while_it_is_being_read(self) -> None:
        before = shrinking.digest(self.image)
        with self.image.open('rb') as reader:
            shrinking.shrunk(self.image)
            path = pathlib.Path(f'/proc/self/fd/{reader.fileno()}')
            self.assertEqual(before, shrinking.digest(path))

    def test_replaced_through_a_link(self) -> None:
        link = self.tmp() / 'link.img'
        link.symlink_to(self.image)
        done = shrinking.shrunk(link)
        self.assertTrue(link.is_symlink())
        self.assertEqual(str(self.image), os.readlink(link))
        self.assertEqual(self.image, done.output)
        self.check(done)
        self.assertEqual([link.name], os.listdir(link.parent))

    def test_the_same_whichever_way(self) -> None:
        output = self.tmp() / 'output'
        shrinking.shrunk(self.image, output=output)
        shrinking.shrunk(self.image)
        self.assertEqual(
            shrinking.digest(output), shrinking.digest(self.image)
        )

    def test_shrunk_again(self) -> None:
        first = shrinking.shrunk(self.image)
        again = shrinking.shrunk(self.image)
        self.check(again)
        self.assertLessEqual(again.size, first.size)
        self.assertGreaterEqual(again.saved, 0)

    def test_output_replaces_a_file(self) -> None:
        output = self.tmp() / 'output'
        output.write_bytes(b'something else')
        with output.open('rb') as reader:
            done = shrinking.shrunk(self.image, output=output)
            self.assertEqual(b'something else', reader.read())
        self.check(done)
        self.assertEqual([output.name], os.listdir(output.parent))

    def test_output_has_the_mode_that_the_umask_leaves(self) -> None:
        before = os.umask(0o027)
        self.addCleanup(os.umask, before)
        output = self.tmp() / 'output'
        shrinking.shrunk(self.image, output=output, durable=True)
        self.assertEqual(0o100640, output.stat().st_mode)

    def test_nobody_may_read_it_before_it_is_there(self) -> None:
        output = self.tmp() / 'output'
        modes = set()

        class Watch(shrinking.Watch):
            def begun(self, description: str) -> None:
                for path in output.parent.iterdir():
                    modes.add((path.name == output.name, path.stat().st_mode))

        image = shrinking.shape('small-1k', self.tmp())
        shrinking.shrunk(image, output=output, progress=Watch())
        # What is compared with the way by hand is in a directory.
        self.assertEqual({(False, 0o100600), (False, 0o40700)}, modes)

    def test_work_directory(self) -> None:
        output, work = self.tmp() / 'output', self.tmp()
        request = shrinking.request(
            self.image, output=output, work_directory=work
        )
        shrink.plan(request, exact=True)
        self.check(shrink.execute(shrink.plan(request)))
        self.assertEqual([], os.listdir(work))
        self.assertEqual([output.name], os.listdir(output.parent))

    def test_odd_names(self) -> None:
        for name in ('a b?c=d', 'ä\udcff', '-n', "it's"):
            directory = self.tmp()
            image = directory / name
            self.image.rename(image)
            output = directory / f'{name}.out'
            done = shrinking.shrunk(image, output=output)
            self.assertEqual(output, done.output)
            # The test's own programs need names that are even.
            plain = output.rename(directory / 'plain')
            self.check(dataclasses.replace(done, output=plain))
            image.rename(self.image)

    def test_relative_names(self) -> None:
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        os.chdir(self.directory)
        done = shrinking.shrunk(
            pathlib.Path(self.image.name), output=pathlib.Path('output')
        )
        self.check(done)
        self.assertTrue((self.directory / 'output').is_file())

    def test_bytes_behind_the_filesystem(self) -> None:
        with self.image.open('ab') as file:
            file.write(b'more' * 500_000)
        size = self.image.stat().st_size
        done = shrinking.shrunk(self.image, output=self.directory / 'output')
        self.check(done)
        self.assertEqual(size, self.image.stat().st_size)
        self.assertFalse(shrinking.holds(done.output, b'more' * 10))
        # There is no other copy of them.
        error = self.assertRaises(
            errors.UsageError, shrinking.shrunk, self.image
        )
        self.assertIn('the 2000000 bytes after its filesystem', str(error))
        self.assertEqual(size, self.image.stat().st_size)
        self.assertTrue(shrinking.holds(self.image, b'more' * 10))


class TestInPlace(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.image = shrinking.small(self.directory)

    def test_in_place(self) -> None:
        tree = exttree.read_tree(self.image)
        before = self.image.stat()
        request = shrinking.request(self.image, in_place=True)
        planned = shrink.plan(request, exact=True)
        self.assertEqual(before.st_mtime_ns, self.image.stat().st_mtime_ns)
        done = shrink.execute(planned)
        after = self.image.stat()
        self.assertEqual(before.st_ino, after.st_ino)
        self.assertEqual(done.size, after.st_size)
        self.assertEqual(planned.size, done.size)
        self.assertTrue(shrinking.is_sound(self.image))
        self.assertEqual(
            [], exttree.diff_trees(tree, exttree.read_tree(self.image))
        )
        self.assertEqual(['small.img'], sorted(os.listdir(self.directory)))

    def test_as_small_as_on_a_copy(self) -> None:
        output = self.directory / 'output'
        copied = shrinking.shrunk(self.image, output=output)
        done = shrinking.shrunk(self.image, in_place=True)
        self.assertEqual(copied.size, done.size)

    def test_refused_leaves_it_alone(self) -> None:
        image = shrinking.small(
            self.directory, features='has_journal,stable_inodes', name='stable'
        )
        before = shrinking.digest(image)
        error = self.assertRaises(
            errors.UnsupportedError, shrinking.shrunk, image, in_place=True
        )
        self.assertIn('stable_inodes', str(error))
        self.assertEqual(before, shrinking.digest(image))

    def test_damage_leaves_it_alone(self) -> None:
        process.run(
            ['debugfs', '-w', '-R', 'clri /etc', self.image], access=None
        )
        before = shrinking.digest(self.image)
        error = self.assertRaises(
            errors.DamagedError, shrinking.shrunk, self.image,
            in_place=True,
        )  # fmt: skip
        self.assertIn('--repair', str(error))
        self.assertEqual(before, shrinking.digest(self.image))


class TestTools(base.TestCase):
    """e2fsprogs that are missing or too old."""

    def setUp(self) -> None:
        super().setUp()
        self.image = shrinking.small(self.tmp())
        self.programs = self.tmp()

    def refused(self) -> str:
        before = shrinking.digest(self.image)
        error = self.assertRaises(
            errors.ProgramError, shrinking.shrunk, self.image
        )
        self.assertEqual(before, shrinking.digest(self.image))
        self.assertNotIn('\n', str(error))
        return str(error)

    def test_missing(self) -> None:
        where = {program: process.find(program) for program in _PROGRAMS}
        self.patch(process, '_SBIN', ())
        self.useFixture(shrinking.variable('PATH', str(self.programs)))
        for program in _PROGRAMS:
            text = self.refused()
            self.assertIn(f'{program} was not found', text)
            self.assertIn('install the package e2fsprogs', text)
            (self.programs / program).symlink_to(where[program])
        shrinking.shrunk(self.image)

    def test_too_old(self) -> None:
        old = self.programs / 'e2fsck'
        old.write_text('#!/bin/sh\necho e2fsck 1.42.13 >&2\n')
        old.chmod(0o755)
        path = f'{self.programs}{os.pathsep}{os.environ["PATH"]}'
        self.useFixture(shrinking.variable('PATH', path))
        text = self.refused()
        self.assertIn('e2fsprogs 1.42 is too old', text)
        self.assertIn('1.45', text)


class TestShrunk(testtools.TestCase):
    def test_arithmetic(self) -> None:
        done = shrink.Shrunk(
            image=pathlib.Path('a'), output=pathlib.Path('b'),
            filesystem='ext4', block_size=2048, block_count=1000,
            size_before=5_000_000, in_use=1, lower_bound=1,
        )  # fmt: skip
        self.assertEqual(2_048_000, done.size)
        self.assertEqual(2_952_000, done.saved)
