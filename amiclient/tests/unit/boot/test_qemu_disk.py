# SPDX-License-Identifier: Apache-2.0

"""What guests are given: a disk that is thrown away, and a drive with data."""

import json
import pathlib

from amiclient.boot import qemu
from amiclient.ext import reader
from amiclient.ext import superblock
from amiclient import process
from amiclient.tests import base
from amiclient.tests.disks import triple

MIB = 2**20
UUID = '11111111-2222-4333-8444-555555555555'


class TestDisk(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        # qemu-img would take what is before a colon for a protocol.
        (self.directory / 'a:b, c').mkdir()
        self.root = triple.root(self.directory / 'a:b, c')
        self.disk = self.directory / 'disk.qcow2'

    def make(self, size: int = 64 * MIB) -> dict[str, object]:
        qemu.make_disk(self.root, self.disk, size)
        told = process.run(
            ['qemu-img', 'info', '--output=json', self.disk], access=None
        )
        return dict(json.loads(told.stdout))

    def test_layer_over_the_source(self) -> None:
        info = self.make()
        self.assertEqual(64 * MIB, info['virtual-size'])
        self.assertEqual(str(self.root), info['backing-filename'])
        self.assertEqual('raw', info['backing-filename-format'])
        self.assertLess(self.disk.stat().st_size, MIB)

    def test_size_is_of_whole_sectors(self) -> None:
        self.assertEqual(
            64 * MIB + 512, self.make(64 * MIB + 1)['virtual-size']
        )

    def test_superblock(self) -> None:
        self.make()
        found = qemu.superblock_of(self.disk, self.root, self.directory)
        self.assertEqual(superblock.read(self.root), found)

    def test_superblock_of_the_layer(self) -> None:
        before = self.root.read_bytes()
        self.make()
        process.run([
            'qemu-io', '-f', 'qcow2', '-c', 'write -P 0 0 4096', self.disk
        ], access=None)  # fmt: skip
        found = qemu.superblock_of(self.disk, self.root, self.directory)
        self.assertIsNone(found)
        self.assertEqual(before, self.root.read_bytes())

    def test_what_is_only_in_the_journal(self) -> None:
        other = self.directory / 'other.img'
        other.write_bytes(self.root.read_bytes())
        process.run(['tune2fs', '-L', 'grown', other], access=None)
        size = superblock.read(other).block_size
        number = superblock.OFFSET // size
        block = self.directory / 'block'
        block.write_bytes(
            other.read_bytes()[number * size : (number + 1) * size]
        )
        process.run(
            ['debugfs', '-w', '-f', '/dev/stdin', self.root],
            input=f'jo\njw -b {number} {block}\njc\n'.encode(),
            access=None,
        )
        self.make()
        found = qemu.superblock_of(self.disk, self.root, self.directory)
        self.assertTrue(found.needs_recovery)
        self.assertEqual('', found.label)
        names = sorted(self.directory.iterdir())
        replayed = qemu.replayed(self.disk, self.root, self.directory)
        self.assertFalse(replayed.needs_recovery)
        self.assertEqual('grown', replayed.label)
        self.assertEqual(names, sorted(self.directory.iterdir()))


class TestSeed(base.TestCase):
    def test_is_a_configuration_drive(self) -> None:
        path = qemu.make_seed(self.tmp(), UUID)
        block = superblock.read(path)
        # The label is all that cloud-init goes by.
        self.assertEqual('config-2', block.label)
        self.assertFalse(block.has_journal)
        data = self.read(path, 'meta_data.json')
        self.assertEqual(UUID, data['uuid'])
        self.assertEqual('amiclient-boot', data['hostname'])
        self.assertEqual({}, self.read(path, 'vendor_data.json'))

    def read(self, path: pathlib.Path, name: str) -> dict[str, object]:
        with reader.opened(path) as tree:
            found = tree.read_file(f'/openstack/latest/{name}')
        return dict(json.loads(found))
