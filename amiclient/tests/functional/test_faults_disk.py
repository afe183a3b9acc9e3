# SPDX-License-Identifier: Apache-2.0

"""Disks that are full, and directories that cannot be written to."""

import contextlib
import gzip
import os
import pathlib
import subprocess
import tempfile
from unittest import mock

import fixtures

from amiclient import scratch
from amiclient.tests.cloud import forkserver as openstack_server
from amiclient.tests.disks import triple
from amiclient.tests.faults import small_disk
from amiclient.tests.functional import base
from amiclient.tests.functional import upload
from amiclient.tests.unit.ext import shrinking

_MIB = 2**20

#: What limits the sizes of files to a number of bytes.
_LIMIT = """\
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))
"""

#: Root, too, then has to have the permission: without CAP_DAC_OVERRIDE and
#: CAP_DAC_READ_SEARCH (linux/capability.h), for it and what it starts.
_OBEYING = """\
import ctypes, os, struct
if os.geteuid() == 0:
    dropped, call = (1, 2), ctypes.CDLL(None, use_errno=True)
    for number in dropped:
        assert call.prctl(24, number, 0, 0, 0) == 0, ctypes.get_errno()
    header = struct.pack('=Ii', 0x20080522, 0)
    sets = ctypes.create_string_buffer(24)
    assert call.capget(header, sets) == 0, ctypes.get_errno()
    words = list(struct.unpack('=6I', sets.raw))
    for index in range(3):
        words[index] &= ~sum(1 << number for number in dropped)
    sets = struct.pack('=6I', *words)
    assert call.capset(header, sets) == 0, ctypes.get_errno()
"""


class _Case(upload.UploadCase):
    def setUp(self) -> None:
        super().setUp()
        self.root = triple.root(
            self.directory, size=64 * _MIB, data=20 * _MIB, name='big.img'
        )
        self.before = shrinking.digest(self.root)
        self.prelude = self.directory / 'prelude.py'
        self.prelude.touch()

    def failed(self, finished: base.Finished) -> str:
        """Check that a command failed in one line, and had no effect."""
        self.assertEqual(1, finished.status, finished)
        self.assertEqual('', finished.stdout)
        self.assertEqual(1, finished.stderr.count('\n'), finished.stderr)
        self.assertNotIn('Traceback', finished.stderr)
        self.assertEqual(self.before, shrinking.digest(self.root))
        self.assertEqual([], self.images())
        self.assertNothingLeft()
        return finished.stderr

    def within(self, prelude: str, *words: object) -> base.Finished:
        """Run ``openstack`` where it may do less than we may."""
        self.prelude.write_text(prelude)
        name = openstack_server.PRELUDE
        with fixtures.EnvironmentVariable(name, str(self.prelude)):
            return self.spawn_openstack(*words)

    def use(self, directory: pathlib.Path) -> None:
        """Make a directory $TMPDIR."""
        self.useFixture(fixtures.EnvironmentVariable('TMPDIR', str(directory)))
        self.useFixture(
            fixtures.MockPatchObject(tempfile, 'tempdir', str(directory))
        )


class TestFull(_Case):
    def disk(self, size: int) -> small_disk.SmallDisk:
        return self.useFixture(
            small_disk.SmallDisk(self, size, self.directory)
        )

    @contextlib.contextmanager
    def filling(self, disk: small_disk.SmallDisk):
        """Fill a disk as soon as it was found to have room."""

        def check(directory: pathlib.Path, needed: int) -> None:
            check_room(directory, needed)
            disk.fill()

        check_room = scratch.check_room
        with mock.patch.object(scratch, 'check_room', check):
            yield

    def test_shrink_known_before(self) -> None:
        disk = self.disk(8 * _MIB)
        for words in ((), ('--dry-run',)):
            text = self.failed(
                self.run_openstack(
                    'ami', 'shrink', self.root, '--output', disk.path / 'x',
                    *words,
                )
            )  # fmt: skip
            self.assertIn('are needed', text)
            self.assertIn('--output', text)
        self.assertEqual([], os.listdir(disk.path))

    def test_shrink_meanwhile(self) -> None:
        disk = self.disk(64 * _MIB)
        with self.filling(disk):
            text = self.failed(
                self.run_openstack(
                    'ami', 'shrink', self.root, '--output', disk.path / 'x'
                )
            )
        self.assertIn(f'{disk.path}: no room for the copy', text)
        self.assertEqual(['other'], os.listdir(disk.path))

    def test_upload_meanwhile(self) -> None:
        disk = self.disk(64 * _MIB)
        with self.filling(disk):
            text = self.failed(
                self.run_openstack(
                    'ami', 'upload', self.root, *self.parts,
                    '--work-directory', disk.path,
                )
            )  # fmt: skip
        self.assertIn(f'{disk.path}: no room for the copy', text)
        self.assertIn('--work-directory', text)
        self.assertEqual(['other'], os.listdir(disk.path))

    def test_upload_known_before(self) -> None:
        disk = self.disk(8 * _MIB)
        text = self.failed(
            self.run_openstack(
                'ami', 'upload', self.root, *self.parts,
                '--work-directory', disk.path,
            )
        )  # fmt: skip
        self.assertIn('are needed', text)
        self.assertEqual([], os.listdir(disk.path))

    def test_small_tmpdir(self) -> None:
        # Then another place is found.
        disk = self.disk(8 * _MIB)
        self.use(disk.path)
        told = self.upload(stderr=None)
        self.assertEqual('active', told['status'])
        self.assertEqual([], os.listdir(disk.path))

    def test_nowhere(self) -> None:
        disk = self.disk(8 * _MIB)
        self.use(disk.path)
        self.patch(scratch, '_LARGE', disk.path)
        self.patch(scratch, '_SMALL', disk.path)
        source = disk.path / 'root.img'
        subprocess.run(
            ['cp', '--sparse=always', triple.root(self.directory), source],
            check=True,
        )
        disk.fill(leave=65536)
        text = self.failed(
            self.run_openstack('ami', 'upload', source, *self.parts)
        )
        self.assertIn('--work-directory', text)

    def test_verify(self) -> None:
        told = self.upload(stderr=None)
        words = 'ami', 'verify', told['id'], '--ignore', 'no-init', '--deep'
        disk = self.disk(8 * _MIB)
        # Another place is found, unless it was chosen.
        self.use(disk.path)
        self.openstack_json(*words)
        finished = self.run_openstack(*words, '--work-directory', disk.path)
        self.assertEqual(1, finished.status)
        # What is shrunk to be compared has no room there either.
        place = os.path.relpath(disk.path)
        compared = self.run_openstack(
            *words[:-1], '--against', self.root, '--headroom', '1M',
            '--work-directory', place,
        )  # fmt: skip
        self.assertEqual(1, compared.status)
        self.assertIn(f'{place}: no room', compared.stderr)
        self.assertIn('with --work-directory', compared.stderr)
        self.assertIn(f'{disk.path}: no room for', finished.stderr)
        self.assertIn('8.0 MiB are free', finished.stderr)
        self.assertIn('with --work-directory', finished.stderr)
        self.assertEqual([], os.listdir(disk.path))

    def test_unpacking(self) -> None:
        packed = self.directory / 'packed.img.gz'
        packed.write_bytes(gzip.compress(self.root.read_bytes(), 1))
        disk = self.disk(8 * _MIB)
        for command in ('check', 'inspect', 'upload'):
            text = self.failed(
                self.run_openstack(
                    'ami', command, packed, '--work-directory', disk.path
                )
            )
            self.assertIn(str(disk.path), text)
            self.assertNotIn('.amiclient', text)
            self.assertIn('--work-directory', text)
            self.assertEqual([], os.listdir(disk.path))

    def test_sending_takes_no_room(self) -> None:
        disk = self.disk(_MIB)
        disk.fill()
        self.use(disk.path)
        told = self.upload('--no-shrink', stderr=None)
        self.assertEqual(64 * _MIB, told['size'])
        self.assertEqual(['other'], os.listdir(disk.path))

    def test_limit_of_file_sizes(self) -> None:
        limit = _LIMIT.format(8 * _MIB)
        self.work = self.tmp()
        self.use(self.work)
        output = self.directory / 'output'
        for words in (
            ('ami', 'shrink', self.root, '--output', output),
            ('ami', 'shrink', self.root, '--output', output, '--dry-run'),
            ('ami', 'shrink', self.root),
            ('ami', 'shrink', self.root, '--in-place'),
            ('ami', 'shrink', self.root, '--in-place', '--dry-run'),
            ('ami', 'upload', self.root, *self.parts),
            ('ami', 'upload', self.root, *self.parts, '--dry-run'),
            ('ami', 'upload', self.root, *self.parts,
             '--work-directory', self.directory),
        ):  # fmt: skip
            names = sorted(os.listdir(self.directory))
            text = self.failed(self.within(limit, *words))
            place = (
                self.directory if str(self.directory) in text else self.work
            )
            self.assertEqual(
                f'{place}: files are limited to {8 * _MIB} bytes here; raise '
                'the limit: ulimit -f unlimited\n',
                text,
            )
            self.assertEqual(names, sorted(os.listdir(self.directory)))
            self.assertEqual([], os.listdir(self.work))


class TestForbidden(_Case):
    """Modes of files and directories, and disks that are read-only."""

    def setUp(self) -> None:
        super().setUp()
        self.locked = self.tmp()
        self.closed = self.locked / 'closed.img'
        subprocess.run(
            ['cp', '--sparse=always', self.root, self.closed], check=True
        )
        self.work = self.tmp()
        self.use(self.work)

    def forbidden(self, *words: object) -> str:
        names = sorted(os.listdir(self.locked))
        text = self.failed(self.within(_OBEYING, 'ami', *words))
        self.assertEqual(names, sorted(os.listdir(self.locked)))
        self.assertEqual(self.before, shrinking.digest(self.closed))
        return text

    def test_source(self) -> None:
        self.closed.chmod(0)
        self.addCleanup(self.closed.chmod, 0o600)
        for words in (
            ('shrink', self.closed),
            ('upload', self.closed, *self.parts),
            ('upload', self.root, '--kernel', self.closed, '--no-ramdisk'),
            ('kernel', 'upload', self.closed),
        ):
            text = self.failed(self.within(_OBEYING, 'ami', *words))
            self.assertIn(f'{self.closed}: permission denied', text)

    def test_directory_of_the_result(self) -> None:
        self.locked.chmod(0o555)
        self.addCleanup(self.locked.chmod, 0o700)
        for words in (
            ('shrink', self.root, '--output', self.locked / 'x'),
            ('shrink', self.root, '--output', self.locked / 'x', '--dry-run'),
            ('shrink', self.closed),
        ):
            text = self.forbidden(*words)
            self.assertIn(f'{self.locked}: Permission denied', text)

    def test_file_resized_in_place(self) -> None:
        self.closed.chmod(0o444)
        text = self.forbidden('shrink', self.closed, '--in-place')
        self.assertIn(f'{self.closed}: not writable', text)

    def test_work_directory(self) -> None:
        self.locked.chmod(0o555)
        self.addCleanup(self.locked.chmod, 0o700)
        text = self.forbidden(
            'upload', self.root, *self.parts, '--work-directory', self.locked
        )
        self.assertIn(f'{self.locked} is not writable', text)

    def test_tmpdir(self) -> None:
        # As if it were not set.
        self.locked.chmod(0o555)
        self.addCleanup(self.locked.chmod, 0o700)
        self.use(self.locked)
        done = self.within(_OBEYING, 'ami', 'upload', self.root, *self.parts)
        self.assertEqual((0, ''), (done.status, done.stderr))
        self.assertEqual(3, len(self.images()))

    def test_read_only_disk(self) -> None:
        disk = self.useFixture(
            small_disk.SmallDisk(self, 64 * _MIB, self.directory)
        )
        source = disk.path / 'root.img'
        subprocess.run(
            ['cp', '--sparse=always', self.root, source], check=True
        )
        disk.forbid_writing()
        for words in (
            ('ami', 'shrink', self.root, '--output', disk.path / 'x'),
            ('ami', 'shrink', source),
        ):
            text = self.failed(self.run_openstack(*words))
            self.assertIn(f'{disk.path}: Read-only file system', text)
        text = self.failed(
            self.run_openstack('ami', 'shrink', source, '--in-place')
        )
        self.assertIn('not writable', text)
        # To read from it is all that the others do.
        output = self.directory / 'output'
        self.openstack('ami', 'shrink', source, '--output', output)
        self.use(disk.path)
        self.openstack('ami', 'upload', source, *self.parts)
        self.assertEqual(['root.img'], os.listdir(disk.path))
