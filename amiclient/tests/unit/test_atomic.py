# SPDX-License-Identifier: Apache-2.0

"""Output files: all there, or not at all."""

import errno
import os
import pathlib
import time
import unittest
from unittest import mock

import testtools

from amiclient import atomic
from amiclient import errors
from amiclient import locks
from amiclient import process
from amiclient import scratch
from amiclient import sparse
from amiclient.tests import base


class TestOutput(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.target = self.directory / 'target'

    def names(self) -> list[str]:
        return sorted(os.listdir(self.directory))

    def test_kept(self) -> None:
        with atomic.Output(self.target) as output:
            self.assertEqual(self.directory, output.path.parent)
            self.assertEqual(0o100600, output.path.stat().st_mode)
            output.path.write_bytes(b'all of it')
            self.assertFalse(self.target.exists())
            output.keep()
        self.assertEqual(['target'], self.names())
        self.assertEqual(b'all of it', self.target.read_bytes())

    def test_not_kept(self) -> None:
        self.target.write_bytes(b'before')
        with atomic.Output(self.target) as output:
            output.path.write_bytes(b'half of it')
        self.assertEqual(['target'], self.names())
        self.assertEqual(b'before', self.target.read_bytes())

    def test_whatever_happens(self) -> None:
        for kind in (ValueError, KeyboardInterrupt, SystemExit):
            try:
                with atomic.Output(self.target):
                    raise kind
            except kind:
                pass
            self.assertEqual([], self.names())

    def test_removed_by_somebody_else(self) -> None:
        with atomic.Output(self.target) as output:
            output.path.unlink()
        self.assertEqual([], self.names())

    def test_emptied(self) -> None:
        with atomic.Output(self.target) as output:
            output.path.write_bytes(b'in vain')
            output.empty()
            self.assertEqual(b'', output.path.read_bytes())

    def test_umask_that_shuts_us_out(self) -> None:
        target = self.tmp() / 'target'
        for mask, ours in ((0o777, 0o077), (0o277, 0o077), (0o027, 0o027)):
            os.umask(mask)
            with atomic.usable():
                made = self.tmp() / 'made'
                made.mkdir()
                self.assertEqual(0o777 & ~ours, made.stat().st_mode & 0o7777)
                with atomic.Output(made / 'ours') as output:
                    output.keep(durable=False)
                mode = (made / 'ours').stat().st_mode & 0o7777
                self.assertEqual(0o600, mode)
                with atomic.Output(target) as output:
                    output.keep()
            self.assertEqual(mask, os.umask(mask))
            self.assertEqual(0o666 & ~mask, target.stat().st_mode & 0o7777)
            target.unlink()

    def test_mode_by_umask(self) -> None:
        for mask in (0o022, 0o077, 0o002):
            before = os.umask(mask)
            try:
                with atomic.Output(self.target) as output:
                    output.keep()
                self.assertEqual(mask, os.umask(mask))
            finally:
                os.umask(before)
            self.assertEqual(
                0o666 & ~mask, self.target.stat().st_mode & 0o7777
            )
            self.target.unlink()

    def test_mode_of_what_it_replaces(self) -> None:
        self.target.touch()
        self.target.chmod(0o640)
        with atomic.Output(self.target) as output:
            output.keep()
        self.assertEqual(0o100640, self.target.stat().st_mode)

    @unittest.skipUnless(os.geteuid() == 0, 'only root gives files away')
    def test_mode_of_what_others_planted(self) -> None:
        self.target.touch()
        self.target.chmod(0o666)
        os.chown(self.target, 1234, 1234)
        before = os.umask(0o077)
        self.addCleanup(os.umask, before)
        with atomic.Output(self.target) as output:
            output.keep()
        status = self.target.stat()
        self.assertEqual((0o100600, 0), (status.st_mode, status.st_uid))

    def test_symbolic_link_is_replaced(self) -> None:
        other = self.directory / 'other'
        other.write_bytes(b'of somebody else')
        self.target.symlink_to(other)
        with atomic.Output(self.target) as output:
            output.path.write_bytes(b'ours')
            output.keep()
        self.assertFalse(self.target.is_symlink())
        self.assertEqual(b'of somebody else', other.read_bytes())
        self.assertEqual(b'ours', self.target.read_bytes())

    def test_special_files_are_not_replaced(self) -> None:
        fifo, link = self.directory / 'fifo', self.directory / 'link'
        os.mkfifo(fifo)
        link.symlink_to(fifo)
        for target, words in (
            (fifo, 'not a regular file'),
            (link, 'not a regular file'),
            (self.directory, 'is a directory'),
        ):
            error = self.assertRaises(errors.UsageError, atomic.Output, target)
            self.assertIn(f'{target}: {words}', str(error))
        self.assertTrue(fifo.is_fifo() and link.is_symlink())
        self.assertEqual(['fifo', 'link'], self.names())

    def test_stdout_is_not_replaced(self) -> None:
        # Where it leads to a file, the link would be gone for all programs.
        for name in ('-', '/dev/stdout', '/dev/fd/1', '/proc/self/fd/1'):
            target = pathlib.Path(name)
            error = self.assertRaises(
                errors.UsageError, atomic.refuse_special, target
            )
            self.assertIn(f'{name}: not a regular file; name', str(error))

    def test_source_is_not_replaced(self) -> None:
        self.target.write_bytes(b'source')
        link = self.directory / 'link'
        link.symlink_to(self.target)
        atomic.refuse_within(self.target, pathlib.Path('-'), hint='')
        for target in (self.target, link):
            error = self.assertRaises(
                errors.UsageError, atomic.refuse_within, target, self.target,
                hint='choose another',
            )  # fmt: skip
            self.assertIn(
                f'{target}: the same file as the source; choose another',
                str(error),
            )

    def test_directory_that_cannot_be_read(self) -> None:
        # Like a drop box: mode 0300, for who is not root.
        refusal = PermissionError(errno.EACCES, 'no', str(self.directory))
        with atomic.Output(self.target) as output:
            self.patch(atomic, 'sync', mock.Mock(side_effect=[None, refusal]))
            output.keep()
        self.assertEqual(['target'], self.names())

    def test_like_another(self) -> None:
        like = self.directory / 'like'
        like.write_bytes(b'')
        if os.geteuid() == 0:
            os.chown(like, 1234, 4321)
        like.chmod(0o2751)
        names = []
        try:
            os.setxattr(like, 'user.one', b'1')
            names.append('user.one')
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise
        with atomic.Output(self.target) as output:
            output.keep(like)
        old, new = like.stat(), self.target.stat()
        self.assertEqual(
            (old.st_mode, old.st_uid, old.st_gid),
            (new.st_mode, new.st_uid, new.st_gid),
        )
        self.assertEqual(names, os.listxattr(self.target))

    def test_like_another_without_attributes(self) -> None:
        like = self.directory / 'like'
        like.write_bytes(b'')
        error = OSError(errno.EOPNOTSUPP, 'not here')
        with (
            mock.patch.object(os, 'listxattr', side_effect=error),
            atomic.Output(self.target) as output,
        ):
            output.keep(like)
        self.assertTrue(self.target.exists())

    def test_failing_to_be_like_another(self) -> None:
        with atomic.Output(self.target) as output:
            self.assertRaises(
                FileNotFoundError, output.keep, self.directory / 'nosuch'
            )
        self.assertEqual([], self.names())

    def test_synced_before_it_gets_its_name(self) -> None:
        calls = mock.Mock()
        with atomic.Output(self.target) as output:
            with (
                mock.patch.object(os, 'fsync', calls.fsync),
                mock.patch.object(os, 'replace', calls.replace),
            ):
                output.keep()
                output.keep(durable=False)
        self.assertEqual(
            ['fsync', 'replace', 'fsync', 'replace'],
            [name for name, _, _ in calls.mock_calls],
        )

    def test_long_name(self) -> None:
        for name in ('x' * 255, '\U0001f427' * 63, '\udcff' * 255):
            target = self.directory / name
            with atomic.Output(target) as output:
                output.keep()
            self.assertEqual([name], self.names())
            target.unlink()

    def test_no_directory(self) -> None:
        for target, words in (
            (self.directory / 'no' / 'target', 'no such directory'),
            (pathlib.Path(__file__) / 'target', 'not a directory'),
        ):
            error = self.assertRaises(errors.AmiError, atomic.Output, target)
            self.assertIn(f'{target.parent}: {words}', str(error))

    def test_told(self) -> None:
        for number in (errno.EACCES, errno.EPERM, errno.EROFS):
            try:
                with scratch.explained(self.directory):
                    raise OSError(number, os.strerror(number))
            except errors.AmiError as error:
                self.assertIn(
                    f'{self.directory}: {os.strerror(number)}', str(error)
                )
        try:
            with scratch.explained(self.directory):
                raise OSError(errno.EIO, 'broken')
        except OSError as error:
            self.assertEqual(errno.EIO, error.errno)

    def test_room(self) -> None:
        found = os.statvfs(self.directory)
        self.assertLessEqual(
            scratch.room(self.directory), found.f_blocks * found.f_frsize
        )
        self.assertGreater(scratch.room(self.directory), 0)


class TestDirectoryFor(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.place = self.tmp()
        self.directory = self.place / 'results'

    def fail(self, *names: str) -> None:
        with atomic.directory_for(self.directory):
            for name in names:
                (self.directory / name).touch()
            raise ZeroDivisionError

    def test_made(self) -> None:
        with atomic.directory_for(self.directory):
            pass
        with atomic.directory_for(self.directory):
            pass
        self.assertTrue(self.directory.is_dir())

    def test_failed(self) -> None:
        self.assertRaises(ZeroDivisionError, self.fail)
        self.assertEqual([], os.listdir(self.place))
        # There is something to go on with.
        self.assertRaises(ZeroDivisionError, self.fail, 'part')
        self.assertEqual(['part'], os.listdir(self.directory))

    def test_there_before(self) -> None:
        self.directory.mkdir()
        self.assertRaises(ZeroDivisionError, self.fail)
        self.assertTrue(self.directory.is_dir())

    def refused(self) -> str:
        error = self.assertRaises(errors.AmiError, self.fail)
        return str(error)

    def test_no_directory(self) -> None:
        self.directory.touch()
        self.assertIn('is not a directory', self.refused())

    @unittest.skipIf(os.geteuid(), 'only root can make things of others')
    def test_planted(self) -> None:
        """Where all may write, somebody else's is not used: /tmp, say."""
        own = self.tmp()
        for mode, refused in ((0o1777, True), (0o755, False)):
            self.place.chmod(mode)
            self.directory.mkdir()
            os.chown(self.directory, 1234, 1234)
            if refused:
                self.assertIn('belongs to another user', self.refused())
            else:
                self.assertRaises(ZeroDivisionError, self.fail)
            self.directory.rmdir()
            self.directory.symlink_to(own)
            os.lchown(self.directory, 1234, 1234)
            if refused:
                self.assertIn('belongs to another user', self.refused())
            else:
                self.assertRaises(ZeroDivisionError, self.fail)
            self.directory.unlink()


class TestState(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.path = self.tmp() / 'file'
        self.path.write_bytes(b'before')

    def changed(self, change: object) -> bool:
        with self.path.open('rb') as file:
            before = locks.state(self.path)
            self.assertEqual(before, locks.state(file.fileno()))
            self.tick()
            change()
            return locks.state(self.path) != before

    def tick(self) -> None:
        """Wait until what is written now has another time than the file.

        Before Linux 6.13, times are those of the last tick of the clock.
        """
        other = self.path.with_name('tick')
        end = time.monotonic() + 60
        while time.monotonic() < end:
            other.write_bytes(b'x')
            if other.stat().st_ctime_ns > self.path.stat().st_ctime_ns:
                break

    def test_read(self) -> None:
        self.assertFalse(self.changed(self.path.read_bytes))

    def test_written_to(self) -> None:
        self.assertTrue(self.changed(lambda: self.path.write_bytes(b'AFTER!')))

    def test_time_put_back(self) -> None:
        # As rsync --inplace --times does it.
        status = self.path.stat()

        def change() -> None:
            self.path.write_bytes(b'AFTER!')
            os.utime(self.path, ns=(status.st_atime_ns, status.st_mtime_ns))

        self.assertTrue(self.changed(change))
        self.assertEqual(status.st_mtime_ns, self.path.stat().st_mtime_ns)

    def test_replaced(self) -> None:
        other = self.path.with_name('other')
        other.write_bytes(b'before')
        self.assertTrue(self.changed(lambda: os.replace(other, self.path)))

    def test_what_is_no_file(self) -> None:
        null = pathlib.Path('/dev/null')
        before = locks.state(null)
        null.write_bytes(b'x')
        self.assertEqual(before, locks.state(null))
        self.assertNotEqual(before, locks.state(pathlib.Path('/dev/zero')))


class TestReadAt(base.TestCase):
    """Reading that stops in the middle; for bad sectors see failing_disk."""

    def setUp(self) -> None:
        super().setUp()
        self.path = self.tmp() / 'file'
        self.data = self.random.randbytes(100_000)
        self.path.write_bytes(self.data)
        self.file = self.path.open('rb')
        self.addCleanup(self.file.close)

    def read(self, count: int, offset: int) -> bytes:
        return sparse.read_at(self.file.fileno(), count, offset)

    def spoil(self, bad: int) -> None:
        """Have reading stop before a byte, and fail there."""
        real = os.pread

        def pread(descriptor: int, count: int, offset: int) -> bytes:
            if offset <= bad < offset + count:
                if offset == bad - bad % 4096 or offset % 4096:
                    raise OSError(errno.EIO, 'broken')
                count = bad - bad % 4096 - offset
            return real(descriptor, count, offset)

        self.patch(os, 'pread', pread)

    def test_all(self) -> None:
        self.assertEqual(self.data[7:50_007], self.read(50_000, 7))

    def test_end_of_file(self) -> None:
        self.assertEqual(self.data[-10:], self.read(50_000, 99_990))
        self.assertEqual(b'', self.read(50_000, 100_000))

    def test_in_pieces(self) -> None:
        real = os.pread
        self.patch(os, 'pread', lambda fd, n, at: real(fd, min(n, 777), at))
        self.assertEqual(self.data[7:50_007], self.read(50_000, 7))

    def test_bad_page(self) -> None:
        self.spoil(50_000)
        self.assertEqual(self.data[:40_960], self.read(40_960, 0))
        for count, offset in ((100_000, 0), (100_000, 4096), (50_000, 4097)):
            error = self.assertRaises(
                errors.SourceError, self.read, count, offset
            )
            self.assertIn(
                f'{self.path} cannot be read at byte 49152: ', str(error)
            )


class TestFixed(base.TestCase):
    """What chattr(1) keeps from being changed, even by root."""

    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.path = self.directory / 'file'
        self.path.write_text('old')

    def set(self, letter: str, path: pathlib.Path) -> None:
        try:
            process.run(['chattr', f'+{letter}', path], access=None)
        except errors.ProgramError as error:
            self.skipTest(f'no such flags here: {error}')
        self.addCleanup(
            process.run, ['chattr', f'-{letter}', path], access=None
        )

    def refused(self, path: pathlib.Path, letter: str, word: str) -> None:
        self.set(letter, path)
        before = sorted(self.directory.iterdir())
        error = self.assertRaises(errors.UsageError, atomic.Output, self.path)
        self.assertIn(f'{path} is {word}', str(error))
        self.assertIn(f'chattr -{letter} {path}', str(error))
        self.assertEqual(before, sorted(self.directory.iterdir()))
        self.assertEqual('old', self.path.read_text())

    def test_immutable_file(self) -> None:
        self.refused(self.path, 'i', 'immutable')

    def test_file_to_be_added_to(self) -> None:
        self.refused(self.path, 'a', 'append-only')

    def test_immutable_directory(self) -> None:
        self.refused(self.directory, 'i', 'immutable')

    def test_directory_to_be_added_to(self) -> None:
        # A temporary file could be made in it, but not be removed.
        self.refused(self.directory, 'a', 'append-only')

    def test_directory_for(self) -> None:
        self.set('i', self.directory)
        with (
            testtools.ExpectedException(errors.UsageError, '.* is immutable'),
            atomic.directory_for(self.directory),
        ):
            pass

    def test_link_to_it(self) -> None:
        self.set('i', self.path)
        link = self.tmp() / 'link'
        link.symlink_to(self.path)
        with atomic.Output(link) as output:
            output.keep()
        self.assertFalse(link.is_symlink())
