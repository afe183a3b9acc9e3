# SPDX-License-Identifier: Apache-2.0

"""What ``ami extract`` writes, and how often it copies that."""

import dataclasses
import errno
import gzip
import hashlib
import os
import pathlib
import shutil
from typing import Any

import fixtures

from amiclient import atomic
from amiclient import errors
from amiclient.ext.layout import Layout
from amiclient import process
from amiclient import progress
from amiclient.rootfs import extract
from amiclient.rootfs.extract import Extracted
from amiclient import scratch
from amiclient.source import manifest
from amiclient.source import resolve
from amiclient.source import shrink
from amiclient import sparse
from amiclient.tests import base
from amiclient.tests.disks import disks
from amiclient.tests.disks import triple
from amiclient.tests.oracle import exttree

MIB = disks.MIB

_SECRET = b'what was deleted long ago '


def sha(data: bytes) -> str:
    # So that no failure prints all of it.
    return hashlib.sha256(data).hexdigest()


def _refuse(*_: Any, **__: Any) -> None:
    raise AssertionError('the root filesystem was copied')


class TestCopies(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.root = triple.root(self.directory, size=24 * MIB, data=2 * MIB)
        with self.root.open('r+b') as file:
            file.seek(22 * MIB)
            self.assertEqual(bytes(MIB), file.read(MIB))
            file.seek(22 * MIB)
            file.write(_SECRET * 1000)
        self.target = self.directory / 'out'

    def extract(self, path: pathlib.Path, **choice: Any) -> Extracted:
        chosen = resolve.Choice(home=self.directory, **choice)
        before = {*os.listdir(self.directory)}
        with resolve.opened(path, chosen) as source:
            found = extract.extract(source, path, self.target)
        process.run(['e2fsck', '-f', '-n', found.image], access=None)
        self.assertEqual({*before, 'out'}, {*os.listdir(self.directory)})
        self.assertEqual(
            {found.image.name, found.manifest.name},
            {*os.listdir(self.target)},
        )
        return found

    def copy_nothing(self) -> None:
        for module, name in ((Layout, 'copy_in_use'), (sparse, 'copy')):
            self.useFixture(fixtures.MockPatchObject(module, name, _refuse))

    def sources(self) -> tuple[pathlib.Path, pathlib.Path]:
        """A disk, and a filesystem that has to be unpacked."""
        disk = disks.make(
            self.directory / 'x.disk', [disks.Part(24, self.root)]
        )
        process.run(['gzip', '-k', '-1', self.root], access=None)
        return disk, self.root.with_name(f'{self.root.name}.gz')

    def assertTaken(self, found: Extracted) -> bytes:
        self.assertEqual(
            exttree.read_tree(self.root), exttree.read_tree(found.image)
        )
        status = found.image.stat()
        self.assertEqual(0o666 & ~atomic.umask(), status.st_mode & 0o777)
        self.assertLess(status.st_blocks * 512, 24 * MIB)
        content = found.image.read_bytes()
        self.assertNotIn(_SECRET, content)
        return content

    def test_none_of_what_was_made(self) -> None:
        self.copy_nothing()
        for path in self.sources():
            found = self.extract(path, work_directory=self.tmp())
            self.assertTaken(found)
            found.image.unlink()
            found.manifest.unlink()

    def test_disk_is_taken_to_where_it_stays(self) -> None:
        """No matter how far from there other things are made."""
        self.copy_nothing()
        disk, _ = self.sources()
        self.useFixture(
            fixtures.EnvironmentVariable('TMPDIR', self.elsewhere())
        )
        self.assertTaken(self.extract(disk))

    def test_same_bytes_as_by_a_copy(self) -> None:
        disk, _ = self.sources()
        work = pathlib.Path(self.elsewhere())
        copied = self.assertTaken(self.extract(disk, work_directory=work))
        inode = next(self.target.glob('*.img')).stat().st_ino
        # It is the same, so it is left alone.
        found = self.extract(disk)
        self.assertEqual(copied, found.image.read_bytes())
        self.assertEqual(inode, found.image.stat().st_ino)
        self.assertEqual([], os.listdir(work))

    def test_what_is_behind_the_filesystem(self) -> None:
        """Left out, as is told, also of what is kept byte by byte."""
        debugfs = 'debugfs', '-w', '-R', 'feature needs_recovery'
        process.run([*debugfs, self.root], access=None)
        content = self.root.read_bytes()
        packed = self.directory / 'packed'
        for rest, kept in ((b'more', b''), (bytes(8), bytes(8))):
            self.root.write_bytes(content + rest)
            packed.write_bytes(gzip.compress(self.root.read_bytes(), 1))
            for path in (self.root, packed):
                with resolve.opened(path) as source:
                    found = extract.extract(source, path, self.target)
                    self.assertEqual(
                        rest != kept, 'are left out' in ''.join(source.notes)
                    )
                data = found.image.read_bytes()
                self.assertEqual(sha(content + kept), sha(data))
                shutil.rmtree(self.target)

    def test_what_is_behind_a_saved_one(self) -> None:
        content = self.root.read_bytes()
        self.root.write_bytes(content + b'more')
        part = manifest.ManifestPart(
            file=self.root.name,
            size=len(content) + 4,
            sha512=manifest.sha512(self.root, progress=progress.QUIET),
            disk_format='raw',
            container_format='bare',
            id='7f5b',
            properties={'os_command_line': 'quiet'},
        )
        saved = self.directory / manifest.NAME
        saved.write_bytes(manifest.dump(manifest.Manifest(image=part)))
        with resolve.opened(self.directory) as source:
            found = extract.extract(source, self.directory, self.target)
        self.assertEqual(sha(content), sha(found.image.read_bytes()))
        # It is what it was, but for that.
        sha512 = manifest.sha512(found.image, progress=progress.QUIET)
        expected = dataclasses.replace(
            part, file=found.image.name, size=len(content), sha512=sha512
        )
        self.assertEqual(expected, manifest.read(found.manifest).image)

    def test_another_mount(self) -> None:
        """That it is the same filesystem is not all that counts."""
        disk, _ = self.sources()
        error: list[OSError] = [OSError(errno.EXDEV, 'cross-device')]

        def adopt(*_: Any) -> None:
            raise error[0]

        self.useFixture(fixtures.MockPatchObject(scratch.File, 'adopt', adopt))
        self.assertTaken(self.extract(disk))
        error[0] = OSError(errno.EIO, 'broken')
        self.assertRaises(OSError, self.extract, disk)

    def test_replaced_meanwhile(self) -> None:
        other = self.directory / 'other'
        shutil.copyfile(self.root, other)
        real = Layout.copy_in_use

        def copy(*words: Any, **rest: Any) -> None:
            os.replace(other, self.root)
            real(*words, **rest)

        self.patch(Layout, 'copy_in_use', copy)
        with resolve.opened(self.root) as source:
            error = self.assertRaises(
                errors.BusyError,
                extract.extract, source, self.root, self.target,
            )  # fmt: skip
        self.assertIn('was replaced', str(error))
        self.assertFalse(self.target.exists())

    def test_source_itself_stays(self) -> None:
        self.assertTaken(self.extract(self.root))
        self.assertTrue(self.root.exists())

    def test_home(self) -> None:
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.directory)
        for directory, expected in (
            (None, pathlib.Path()),
            (self.directory, self.directory),
            (self.directory / 'new', self.directory),
            (self.directory / 'not' / 'there', None),
        ):
            self.assertEqual(expected, extract.home(self.root, directory))

    def elsewhere(self) -> str:
        """Make a directory on another filesystem, for as long as the test."""
        place = '/dev/shm'
        if not os.access(place, os.W_OK) or (
            os.stat(place).st_dev == self.directory.stat().st_dev
        ):
            self.skipTest('there is no other filesystem')
        return self.useFixture(fixtures.TempDir(place)).path


class TestPlaces(base.TestCase):
    """Nothing is written into the directory that is the source."""

    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.directory)
        self.source = pathlib.Path('rootfs')
        for name in ('etc', 'sbin', 'tmp'):
            (self.source / name).mkdir(parents=True)
        (self.source / 'etc' / 'os-release').write_text('ID=debian')
        pathlib.Path('link').symlink_to('rootfs/tmp')
        self.before = self.names()

    def names(self) -> list[pathlib.Path]:
        return sorted(self.source.rglob('*'))

    def extract(self, path: pathlib.Path) -> pathlib.Path:
        home = extract.home(path, None)
        with resolve.opened(path, resolve.Choice(home=home)) as source:
            return extract.extract(source, path).directory

    def test_default(self) -> None:
        beside = pathlib.Path('rootfs-ami')
        self.assertEqual(beside, self.extract(self.source))
        self.assertEqual(
            {'manifest.json', 'rootfs.img'}, {*os.listdir(beside)}
        )
        self.assertIn(
            b'/etc/os-release', exttree.read_tree(beside / 'rootfs.img')
        )
        # It is the same, so it is left alone.
        self.assertEqual(beside, self.extract(self.source))
        self.assertEqual(self.before, self.names())

    def test_default_beside_what_was_unpacked(self) -> None:
        process.run(
            ['tar', '-C', self.source, '-cf', 'rootfs.tar', '.'], access=None
        )
        found = self.extract(pathlib.Path('rootfs.tar'))
        self.assertEqual(pathlib.Path('rootfs-ami'), found)
        self.assertEqual(self.before, self.names())

    def test_default_of_a_file_without_suffix(self) -> None:
        root = triple.root(self.directory, size=24 * MIB)
        root.rename('disk')
        found = self.extract(pathlib.Path('disk'))
        self.assertEqual(pathlib.Path('disk-ami'), found)

    def test_within(self) -> None:
        for directory in ('rootfs', 'rootfs/new/er', 'link', 'link/new'):
            self.refused(extract.home, self.source, pathlib.Path(directory))
            self.refused(self.shrink, pathlib.Path(directory) / 'root.img')
        os.chdir(self.source)
        self.refused(extract.home, pathlib.Path(), None)
        os.chdir('..')
        self.assertEqual(self.before, self.names())

    def shrink(self, output: pathlib.Path) -> None:
        request = shrink.ShrinkSourceRequest(
            source=self.source,
            choice=resolve.Choice(work_directory=self.tmp()),
            output=output,
        )
        with shrink.planned(request, exact=False, progress=progress.QUIET):
            self.fail('it was planned')

    def refused(self, function, *words: object) -> None:
        error = self.assertRaises(errors.UsageError, function, *words)
        self.assertIn(' is within the source; ', str(error))
