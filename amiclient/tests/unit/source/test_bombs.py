# SPDX-License-Identifier: Apache-2.0

"""What unpacks to more than is in it: the end is told by what is in it."""

import bz2
from collections.abc import Callable
import gzip
import lzma
import os
import pathlib
import tarfile
import time

import fixtures

from amiclient import errors
from amiclient import process
from amiclient.source import build
from amiclient.source import qemu_headers
from amiclient.source import resolve
from amiclient.source import streams
from amiclient.source import unpacking
from amiclient.tests import base
from amiclient.tests.disks import disks
from amiclient.tests.disks import triple
from amiclient.tests.hostile import bombs
from amiclient.tests.oracle import exttree

MIB = 2**20


def _by(*command: str) -> Callable[[bytes], bytes]:
    return lambda data: process.run(command, input=data, access=None).stdout


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    'gzip': lambda data: gzip.compress(data, 1),
    'xz': lambda data: lzma.compress(data, preset=0),
    'lzma': lambda data: lzma.compress(data, lzma.FORMAT_ALONE, preset=0),
    'bzip2': lambda data: bz2.compress(data, 1),
    'zstd': _by('zstd', '-1', '-c', '-q'),
    'lz4': _by('lz4', '-1', '-c', '-q'),
}


class BombCase(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.work = self.tmp()
        self.root = triple.root(self.directory, size=8 * MIB, data=MIB // 4)
        self.tree = exttree.read_tree(self.root)
        self.bound(seconds=0.0, kept=MIB)

    def bound(self, *, seconds: float, kept: int) -> None:
        for name, value in (('_SECONDS', seconds), ('_KEPT', kept)):
            self.useFixture(fixtures.MockPatchObject(unpacking, name, value))

    def packed(self, data: bytes, kind: str = 'gzip') -> pathlib.Path:
        path = self.directory / f'packed.{kind}'
        path.write_bytes(COMPRESSIONS[kind](data))
        return path

    def open(self, path: pathlib.Path):
        return resolve.opened(path, resolve.Choice(work_directory=self.work))

    def refused(self, path: pathlib.Path) -> str:
        def run() -> None:
            with self.open(path):
                self.fail('it was taken')

        message = str(self.assertRaises(errors.AmiError, run))
        self.assertNotIn('\n', message)
        self.assertEqual([], os.listdir(self.work))
        return message

    def taken(self, path: pathlib.Path) -> tuple[str, ...]:
        """Take it; tell what is said of it."""
        with self.open(path) as source:
            self.assertEqual(self.tree, exttree.read_tree(source.root))
            self.assertLessEqual(source.root.stat().st_size, 10 * MIB)
        return source.notes


class TestBehind(BombCase):
    def test_compressions(self) -> None:
        data = self.root.read_bytes() + bytes(4 * MIB)
        for kind in COMPRESSIONS:
            path = self.packed(data, kind)
            (note,) = self.taken(path)
            self.assertIn(f'{path}: much data follows the end of', note)
            self.assertIn('of the filesystem in it, at 8.0 MiB', note)

    def test_zeros_are_read_to_their_end(self) -> None:
        self.bound(seconds=60.0, kept=MIB)
        data = self.root.read_bytes() + bytes(4 * MIB)
        for kind in COMPRESSIONS:
            path = self.packed(data, kind)
            self.assertEqual((), self.taken(path))
            os.truncate(path, path.stat().st_size - 6)
            self.assertIn('damaged or cut short', self.refused(path))

    def test_data_are_told_of(self) -> None:
        self.bound(seconds=60.0, kept=MIB)
        data = self.root.read_bytes() + bytes(8 * MIB) + b'secret'
        (note,) = self.taken(self.packed(data))
        self.assertIn('8.0 MiB that follow the filesystem in it', note)

    def test_exact(self) -> None:
        """Its checksum is read, and no word is said."""
        for extra in (0, 512):
            data = self.root.read_bytes() + bytes(extra)
            path = self.packed(data)
            self.assertEqual((), self.taken(path))
            packed = bytearray(path.read_bytes())
            packed[-6] ^= 1
            path.write_bytes(packed)
            self.assertIn('damaged or cut short', self.refused(path))

    def test_100_gib(self) -> None:
        self.bound(seconds=0.5, kept=MIB)
        path = bombs.zstd(self.directory / 'bomb', self.root.read_bytes(), 100)
        since = time.monotonic()
        self.assertEqual(1, len(self.taken(path)))
        self.assertLess(time.monotonic() - since, 20)

    def test_disks(self) -> None:
        for table in ('gpt', 'dos'):
            disk = disks.make(
                self.directory / table,
                [disks.Part(8, self.root)],
                label=table,
            )
            data = disk.read_bytes() + bytes(4 * MIB)
            (note,) = self.taken(self.packed(data))
            self.assertIn('of the disk in it', note)

    def test_disk_to_its_end(self) -> None:
        """Zeros between the last partition and the end are of the disk."""
        disk = disks.make(
            self.directory / 'disk', [disks.Part(8, self.root), disks.Part(40)]
        )
        self.assertEqual((), self.taken(self.packed(disk.read_bytes())))

    def test_first_table_damaged(self) -> None:
        disk = disks.make(self.directory / 'disk', [disks.Part(8, self.root)])
        with disk.open('r+b') as file:
            file.seek(512)
            file.write(bytes(512))
        (note,) = self.taken(self.packed(disk.read_bytes()))
        self.assertIn('the first copy of its partition table', note)


class TestRefused(BombCase):
    def test_claims(self) -> None:
        """More than the file can hold, or than anybody has."""
        image = self.directory / 'large'
        with image.open('wb') as file:
            file.truncate(1 << 42)
        process.run(
            [
                'mke2fs',
                '-q',
                '-F',
                '-t',
                'ext4',
                '-E',
                'lazy_itable_init',
                '-O',
                '^resize_inode,^has_journal',
                image,
            ],
            access=None,
        )
        with image.open('rb') as file:
            data = file.read(MIB)
        for kind in COMPRESSIONS:
            told = self.refused(self.packed(data, kind))
            self.assertIn('cut short: its ext4 filesystem takes 439', told)
            self.assertIn(f'and {kind} cannot make them of', told)

    def test_more_than_anybody_has(self) -> None:
        self.useFixture(fixtures.MockPatchObject(unpacking, '_MOST', 4 * MIB))
        told = self.refused(self.packed(self.root.read_bytes()))
        self.assertIn('by its header, it unpacks to 8.0 MiB', told)
        self.assertIn('more than 4.0 MiB', told)

    def test_zeros_on_end(self) -> None:
        for name, value in (
            ('_ZEROS', 16 * MIB),
            ('_ZEROS_FOR_EACH', 1),
            ('_ZEROS_SECONDS', 0.0),
        ):
            self.useFixture(fixtures.MockPatchObject(streams, name, value))
        disk = disks.make(
            self.directory / 'disk', [disks.Part(8, self.root), disks.Part(40)]
        )
        told = self.refused(self.packed(disk.read_bytes(), 'zstd'))
        self.assertIn('of zeros and more', told)
        disk = disks.make(
            self.directory / 'small', [disks.Part(8, self.root), disks.Part(8)]
        )
        self.assertEqual((), self.taken(self.packed(disk.read_bytes())))

    def test_no_filesystem(self) -> None:
        """Zeros and nothing else are told by their beginning."""
        path = bombs.zstd(self.directory / 'bomb', b'', 100)
        since = time.monotonic()
        self.assertIn('nothing but zeros at its beginning', self.refused(path))
        self.assertLess(time.monotonic() - since, 20)

    def test_zeros_in_an_archive(self) -> None:
        member = tarfile.TarInfo('usr')
        member.size = 100 * bombs.GIB
        head = member.tobuf(tarfile.GNU_FORMAT)
        path = bombs.zstd(self.directory / 'bomb.tar.zst', head, 100)
        since = time.monotonic()
        self.assertIn('seems to be made to do harm', self.refused(path))
        request = build.BuildRequest(path, self.work / 'out', size=64 * MIB)
        error = self.assertRaises(
            errors.NoSpaceError, lambda: build.execute(build.plan(request))
        )
        self.assertIn('usr: what it holds takes more than', str(error))
        self.assertEqual([], os.listdir(self.work))
        self.assertLess(time.monotonic() - since, 60)

    def test_disk_images(self) -> None:
        disk = disks.make(self.directory / 'disk', [disks.Part(8, self.root)])
        self.useFixture(
            fixtures.MockPatchObject(unpacking, '_VHDX_BLOCK', 8 * MIB)
        )
        for kind in ('qcow2', 'qed', 'vmdk', 'vdi', 'vpc', 'vhdx'):
            image = disks.convert(disk, kind)
            data = image.read_bytes()
            self.assertEqual((), self.taken(self.packed(data)))
            told = self.refused(self.packed(data + bytes(40 * MIB)))
            self.assertIn('more than the disk image in it can have', told)

    def test_vhdx(self) -> None:
        disk = disks.make(self.directory / 'disk', [disks.Part(8, self.root)])
        data = disks.convert(disk, 'vhdx').read_bytes()
        since = time.monotonic()
        path = bombs.zstd(self.directory / 'bomb', data, 100)
        told = self.refused(path)
        self.assertIn('more than the disk image in it can have', told)
        self.assertLess(time.monotonic() - since, 20)
        told = self.refused(self.packed(data[: 3 * MIB]))
        self.assertIn('it is cut short', told)
        self.useFixture(
            fixtures.MockPatchObject(qemu_headers, 'VHDX_HEAD', MIB)
        )
        told = self.refused(self.packed(data))
        self.assertIn('its metadata are not at its beginning', told)

    def test_compressed_again(self) -> None:
        data = self.root.read_bytes() + bytes(4 * MIB)
        inner = self.packed(data, 'zstd').read_bytes()
        self.assertEqual(1, len(self.taken(self.packed(inner))))
        path = self.packed(inner + bytes(40 * MIB))
        told = self.refused(path)
        self.assertTrue(told.startswith(f'{path}: '), told)
        self.assertIn('than the compressed file in it can have', told)
