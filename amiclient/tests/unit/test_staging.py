# SPDX-License-Identifier: Apache-2.0

"""The directory for what is on its way into an archive, where others write."""

import os
import pathlib
import signal
import stat
import unittest
from unittest import mock

from amiclient import errors
from amiclient import interrupts
from amiclient import scratch
from amiclient import staging
from amiclient.tests import base
from amiclient.tests.unit.glance import descriptors

NAME = '.web.11111111.part'
OPEN_TO_ALL = 0o1777


def _mode(path: pathlib.Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class DirectoryCase(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.parent = self.tmp()
        self.directory = self.parent / NAME
        self.elsewhere = self.tmp()

    def refuse(self, why: str) -> None:
        """It is refused, and left as it is."""
        before = os.lstat(self.directory)
        error = self.assertRaises(
            errors.AmiError, staging.StagingDirectory, self.parent, NAME
        )
        self.assertEqual(
            f'{self.directory}, the directory for the download, {why}; '
            'remove it, or choose another --directory',
            str(error),
        )
        self.assertEqual(before, os.lstat(self.directory))


class TestDirectory(DirectoryCase):
    def test_made_for_us_alone(self) -> None:
        self.addCleanup(os.umask, os.umask(0))
        with staging.StagingDirectory(self.parent, NAME) as directory:
            self.assertEqual(0o700, _mode(self.directory))
            self.assertEqual(self.directory, directory.path)
            (directory.path / 'part').touch()
        # For the next run.
        self.assertEqual(['part'], os.listdir(self.directory))

    def test_gone_on_with(self) -> None:
        self.directory.mkdir()
        self.directory.chmod(0o755)
        (self.directory / 'part').write_bytes(b'half')
        with staging.StagingDirectory(self.parent, NAME) as directory:
            self.assertEqual(b'half', (directory.path / 'part').read_bytes())
            self.assertEqual(0o700, _mode(self.directory))

    def test_removed_when_it_is_empty(self) -> None:
        with staging.StagingDirectory(self.parent, NAME) as directory:
            (directory.path / 'part').touch()
            directory.clear()
        self.assertEqual([], os.listdir(self.parent))

    def test_where_a_descriptor_lists_what_was_there_before(self) -> None:
        """Btrfs tells of what came later only who opens it anew."""
        with staging.StagingDirectory(self.parent, NAME) as directory:
            (directory.path / 'part').touch()
            real, old = os.listdir, directory._descriptor

            def listdir(place: int | pathlib.Path) -> list[str]:
                return [] if place == old else real(place)

            with mock.patch.object(os, 'listdir', listdir):
                directory.clear()
        self.assertEqual([], os.listdir(self.parent))

    def test_no_descriptor_stays_open(self) -> None:
        with staging.StagingDirectory(self.parent, NAME):
            self.assertNotEqual(0, descriptors.below(self.parent))
        self.directory.touch()
        self.refuse('is not a directory')
        self.assertEqual(0, descriptors.below(self.parent))

    def test_no_such_parent(self) -> None:
        error = self.assertRaises(
            errors.AmiError,
            staging.StagingDirectory,
            self.parent / 'nosuch',
            NAME,
        )
        self.assertIn('nosuch: no such directory', str(error))

    def test_vanishes_while_it_is_opened(self) -> None:
        self.directory.mkdir()
        real = os.mkdir

        def mkdir(*args, **kwargs) -> None:
            try:
                real(*args, **kwargs)
            except FileExistsError:
                self.directory.rmdir()
                raise

        with (
            mock.patch.object(os, 'mkdir', mkdir),
            staging.StagingDirectory(self.parent, NAME),
        ):
            self.assertEqual(0o700, _mode(self.directory))


class TestAtOnce(DirectoryCase):
    """One at a time has it, and nothing else says so to the next."""

    def test_the_second_is_refused(self) -> None:
        with staging.StagingDirectory(self.parent, NAME) as directory:
            (directory.path / 'part').touch()
            error = self.assertRaises(
                errors.AmiError, staging.StagingDirectory, self.parent, NAME
            )
            self.assertEqual(
                f'{self.parent}: another process is saving the same there; '
                'wait for it, or end it',
                str(error),
            )
            directory.clear()
            self.assertEqual([staging.LOCK], os.listdir(self.directory))
        self.assertEqual([], os.listdir(self.parent))

    def test_what_a_killed_run_left_locks_nobody_out(self) -> None:
        self.directory.mkdir(0o700)
        (self.directory / staging.LOCK).touch()
        with staging.StagingDirectory(self.parent, NAME):
            pass
        self.assertEqual([], os.listdir(self.parent))

    def test_the_first_ends_while_the_second_comes(self) -> None:
        first = staging.StagingDirectory(self.parent, NAME)
        real = scratch.locked

        def locked(descriptor: int) -> bool | None:
            first.__exit__()
            patch.stop()
            return real(descriptor)

        patch = mock.patch.object(scratch, 'locked', locked)
        patch.start()
        self.addCleanup(mock.patch.stopall)
        with staging.StagingDirectory(self.parent, NAME) as second:
            # Not that of the first, which is gone.
            self.assertTrue(second.path.is_dir())
            self.assertRaises(
                errors.AmiError, staging.StagingDirectory, self.parent, NAME
            )

    def test_where_there_are_no_locks(self) -> None:
        with (
            mock.patch.object(scratch, 'locked', return_value=None),
            staging.StagingDirectory(self.parent, NAME) as directory,
        ):
            directory.clear()
        self.assertEqual([], os.listdir(self.parent))

    def test_interrupted_once_it_is_there(self) -> None:
        real = os.mkdir

        def mkdir(*args, **kwargs) -> None:
            real(*args, **kwargs)
            signal.raise_signal(signal.SIGINT)

        with mock.patch.object(os, 'mkdir', mkdir), interrupts.raised():
            self.assertRaises(
                interrupts.Interrupted,
                staging.StagingDirectory,
                self.parent,
                NAME,
            )
        self.assertEqual([], os.listdir(self.parent))


class TestOthers(DirectoryCase):
    """What others may have put there before."""

    def test_a_link(self) -> None:
        # To a directory that would do.
        self.directory.symlink_to(self.elsewhere)
        self.refuse('is a symbolic link')

    def test_a_dangling_link(self) -> None:
        self.directory.symlink_to(self.elsewhere / 'nosuch')
        self.refuse('is a symbolic link')
        self.assertEqual([], os.listdir(self.elsewhere))

    def test_no_directory(self) -> None:
        os.mkfifo(self.directory)
        self.refuse('is not a directory')

    def test_writable_by_others(self) -> None:
        self.directory.mkdir()
        for mode in (0o720, 0o702, OPEN_TO_ALL):
            self.directory.chmod(mode)
            self.refuse('can be written to by others')

    @unittest.skipUnless(os.geteuid() == 0, 'only root gives files away')
    def test_somebody_elses(self) -> None:
        self.directory.mkdir(0o700)
        try:
            os.chown(self.directory, 1234, 1234)
        except OSError as error:
            self.skipTest(f'this root does not: {error}')
        self.refuse('belongs to another user')

    def test_made_just_now_where_there_are_no_owners(self) -> None:
        with mock.patch.object(os, 'geteuid', return_value=4321):
            error = self.assertRaises(
                errors.AmiError, staging.StagingDirectory, self.parent, NAME
            )
        self.assertIn('belongs to another user', str(error))
        self.assertEqual([], os.listdir(self.parent))


class TestRenamed(DirectoryCase):
    """Where others may rename what is ours, the name is not relied on."""

    def setUp(self) -> None:
        super().setUp()
        self.parent.chmod(0o777)

    def swap(self) -> None:
        """Put another directory in its place, as others can."""
        self.directory.rename(self.elsewhere / 'ours')
        self.directory.mkdir()

    def test_what_is_written_and_read(self) -> None:
        with staging.StagingDirectory(self.parent, NAME) as directory:
            (directory.path / 'part').write_bytes(b'true')
            self.swap()
            (self.directory / 'part').write_bytes(b'false')
            self.assertEqual(b'true', (directory.path / 'part').read_bytes())
            (directory.path / 'other').touch()
        self.assertEqual(['part'], os.listdir(self.directory))
        self.assertEqual(
            ['other', 'part'], sorted(os.listdir(self.elsewhere / 'ours'))
        )

    def test_what_is_removed(self) -> None:
        with staging.StagingDirectory(self.parent, NAME) as directory:
            (directory.path / 'part').touch()
            self.swap()
            (self.directory / 'part').touch()
            directory.clear()
        self.assertEqual(['part'], os.listdir(self.directory))
        self.assertEqual([], os.listdir(self.elsewhere / 'ours'))

    def test_errors_tell_the_name(self) -> None:
        def work() -> None:
            with staging.StagingDirectory(self.parent, NAME) as directory:
                self.assertNotEqual(self.directory, directory.path)
                raise errors.AmiError(f'{directory.path} is full')

        error = self.assertRaises(errors.AmiError, work)
        self.assertEqual(f'{self.directory} is full', str(error))
