# SPDX-License-Identifier: Apache-2.0

"""Compressed filesystems: unpacked sparsely, and not beyond what there is."""

import gzip
import io
import os
import pathlib
import tarfile

import fixtures

from amiclient import errors
from amiclient.ext import repair
from amiclient import process
from amiclient import progress
from amiclient import scratch
from amiclient.source import resolve
from amiclient.source import shrink
from amiclient.source import unpacking
from amiclient import sparse
from amiclient.tests import base
from amiclient.tests.disks import triple
from amiclient.tests.oracle import exttree

MIB = 2**20


class TestUnpacking(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.work = self.tmp()
        self.root = triple.root(self.directory, size=24 * MIB, data=2 * MIB)

    def packed(self, path: pathlib.Path) -> pathlib.Path:
        target = path.with_name(f'{path.name}.gz')
        target.write_bytes(gzip.compress(path.read_bytes(), 1))
        return target

    def open(self, path: pathlib.Path, **choice):
        return resolve.opened(
            path, resolve.Choice(work_directory=self.work, **choice)
        )

    def refused(self, path: pathlib.Path) -> str:
        def run() -> None:
            with self.open(path):
                self.fail('it was taken')

        message = str(self.assertRaises(errors.AmiError, run))
        self.assertNotIn('\n', message)
        self.assertEqual([], os.listdir(self.work))
        return message

    def test_again_and_again(self) -> None:
        path = self.packed(self.packed(self.root))
        with self.open(path) as source:
            self.assertEqual(self.root.read_bytes(), source.root.read_bytes())
            self.assertLess(source.root.stat().st_blocks * 512, 4 * MIB)
            # What came between is not kept.
            self.assertEqual(1, len(list(source.root.parent.glob('unp*'))))
        path = self.packed(self.packed(path))
        self.assertIn('compressed too many times', self.refused(path))

    def test_nothing_grows_by_being_written_to(self) -> None:
        """XFS gives a file more room then, and leaves it what a hole ends."""
        image = self.root.read_bytes()
        tarball = self.directory / 'uec.tar'
        with tarfile.open(tarball, 'w') as archive:
            for name in ('x-vmlinuz', 'x.img'):
                info = tarfile.TarInfo(name)
                info.size = len(image)
                archive.addfile(info, io.BytesIO(image))
        written = []
        real = sparse.write

        def write(descriptor: int, data: bytes, offset: int) -> None:
            written.append(len(data))
            end = offset + len(data)
            self.assertLessEqual(end, os.fstat(descriptor).st_size)
            real(descriptor, data, offset)

        self.useFixture(fixtures.MockPatchObject(sparse, 'write', write))
        for path, count in ((self.packed(self.root), 1), (tarball, 2)):
            written.clear()
            with self.open(path) as source:
                self.assertEqual(image, source.root.read_bytes())
            self.assertEqual(count * len(image), sum(written))

    def test_cut_short(self) -> None:
        path = self.packed(self.root)
        os.truncate(path, path.stat().st_size - 100)
        self.assertIn('damaged or cut short', self.refused(path))

    def test_no_room(self) -> None:
        """It stops while there is still some, and says what it had come to."""
        path = self.packed(self.root)
        self.useFixture(
            fixtures.MockPatchObject(
                scratch, 'room', lambda directory: 70 * MIB
            )
        )
        self.useFixture(fixtures.MockPatchObject(unpacking, '_STEP', MIB // 2))
        self.useFixture(
            fixtures.MockPatchObject(unpacking, '_RESERVE', 100 * MIB)
        )
        told = self.refused(path)
        self.assertIn('of it are unpacked, and', told)
        self.assertIn('70.0 MiB left', told)
        self.assertIn('--work-directory', told)

    def test_something_else(self) -> None:
        """It is told after its first bytes, whatever follows."""
        path = self.directory / 'other.gz'
        with gzip.open(path, 'wb', 1) as file:
            file.write(b'hsqs' + bytes(1 << 16))
            for _ in range(64):
                file.write(bytes(MIB))
        read = []
        real = unpacking.sparse.write
        self.useFixture(
            fixtures.MockPatchObject(
                unpacking.sparse,
                'write',
                lambda *words: (read.append(1), real(*words)),
            )
        )
        self.assertIn('in it is a squashfs filesystem', self.refused(path))
        self.assertEqual([], read)

    def test_not_in_order(self) -> None:
        """The copy is mended where it is, when it is shrunk."""
        tree = exttree.read_tree(self.root)
        process.run(
            ['debugfs', '-w', '-f', '/dev/stdin', self.root],
            input=b'feature needs_recovery\nssv state 0\n',
            access=None,
        )
        before = self.root.read_bytes()
        for path in (self.packed(self.root), self.root):
            output = self.directory / 'output'
            request = shrink.ShrinkSourceRequest(
                source=path,
                choice=resolve.Choice(work_directory=self.work),
                output=output,
            )
            with shrink.planned(
                request, exact=False, progress=progress.QUIET
            ) as planned:
                done = shrink.execute(planned, progress=progress.QUIET)
            self.assertEqual(path, done.image)
            self.assertEqual(output, done.output)
            self.assertEqual(done.size, output.stat().st_size)
            self.assertEqual(tree, exttree.read_tree(output))
            process.run(['e2fsck', '-f', '-n', output], access=None)
            self.assertEqual([], os.listdir(self.work))
            output.unlink()
        self.assertEqual(before, self.root.read_bytes())

    def test_damaged_beyond_mending(self) -> None:
        """It is the user's file that is named."""
        process.run(
            ['debugfs', '-w', '-f', '/dev/stdin', self.root],
            input=b'clri <2>\n',
            access=None,
        )
        path = self.packed(self.root)
        request = shrink.ShrinkSourceRequest(
            source=path,
            choice=resolve.Choice(work_directory=self.work),
            output=self.directory / 'output',
        )

        def run() -> None:
            with shrink.planned(
                request, exact=False, progress=progress.QUIET
            ) as planned:
                shrink.execute(planned, progress=progress.QUIET)

        told = str(self.assertRaises(errors.DamagedError, run))
        self.assertTrue(told.startswith(f'{path}: '), told)
        self.assertNotIn(str(self.work), told)
        self.assertEqual([], os.listdir(self.work))

    def test_old_boot_sector(self) -> None:
        with self.root.open('r+b') as file:
            file.write(b'boot' * 127 + b'\0\0\x55\xaa')
        with self.open(self.packed(self.root)) as source:
            data = source.root.read_bytes()
        self.assertEqual(bytes(1024), data[:1024])
        self.assertEqual(self.root.read_bytes()[1024:], data[1024:])

    def test_shrunk_without_another_copy(self) -> None:
        """What was unpacked is what gets the name of the output."""
        output = self.work / 'output'
        request = shrink.ShrinkSourceRequest(
            source=self.packed(self.root),
            choice=resolve.Choice(work_directory=self.work),
            output=output,
        )
        copied = []
        real = repair.CleanSource.copy_to
        self.useFixture(
            fixtures.MockPatchObject(
                repair.CleanSource,
                'copy_to',
                lambda *words: (copied.append(1), real(*words)),
            )
        )
        with shrink.planned(
            request, exact=False, progress=progress.QUIET
        ) as planned:
            inode = planned.source.root.stat().st_ino
            shrink.execute(planned, progress=progress.QUIET)
        self.assertEqual(inode, output.stat().st_ino)
        self.assertEqual([], copied)
        self.assertEqual(
            exttree.read_tree(self.root), exttree.read_tree(output)
        )
        self.assertEqual(['output'], os.listdir(self.work))
