# SPDX-License-Identifier: Apache-2.0

"""Disks whose root filesystem is on a logical volume, without libguestfs."""

from collections.abc import Sequence
import os
import pathlib

from amiclient import distribution
from amiclient import errors
from amiclient.ext import reader
from amiclient.ext import superblock
from amiclient import process
from amiclient.source import resolve
from amiclient.tests import base
from amiclient.tests.disks import disks
from amiclient.tests.disks import volume_groups
from amiclient.tests.disks.volume_groups import Segment
from amiclient.tests.disks.volume_groups import Volume
from amiclient.tests.oracle import exttree

MIB = disks.MIB

_FIND = process.find

ROOT = '99999999-8888-7777-6666-555555555555'

FSTAB = """\
/dev/mapper/my--vg-root / ext4 defaults 0 1
LABEL=boot /boot ext4 defaults 0 2
/dev/my-vg/var /var ext4 defaults 0 2
/dev/mapper/my--vg-swap none swap sw 0 0
"""


class TestDisk(base.TestCase):
    """A disk with /boot, and the rest in LVM, on two partitions."""

    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.work = self.tmp()
        self.patch(process, 'find', without_guestfish)

    def image(
        self, name: str, files: dict[str, bytes], *options: str
    ) -> pathlib.Path:
        tree = self.tmp()
        for path, data in files.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(data)
            os.setxattr(tree / path, 'user.name', name.encode())
        path = self.directory / f'{name}.img'
        with path.open('wb') as file:
            file.truncate(6 * MIB)
        argv = ['mke2fs', '-q', '-F', '-t', 'ext4', *options, '-d', tree]
        process.run([*argv, path], access=None)
        return path

    def disk(
        self, fstab: str = FSTAB, more: Sequence[Volume] = ()
    ) -> pathlib.Path:
        self.images = {
            '': self.image(
                'root',
                {
                    'etc/os-release': b'ID=rocky\n',
                    'etc/fstab': fstab.encode(),
                    'boot/hidden': b'hidden',
                    'var/hidden': b'hidden',
                },
                *('-U', ROOT, '-L', 'cloud'),
            ),
            '/boot': self.image('boot', {'vmlinuz-1': b'k'}, '-L', 'boot'),
            '/var': self.image('var', {'lib/status': b'x' * 90_000}),
        }
        swap = bytes(4086) + b'SWAPSPACE2'
        volumes = [
            Volume('swap', [Segment(1, [(0, 0)])], swap),
            Volume(
                'root',
                [Segment(30, [(0, 41)]), Segment(18, [(1, 1)])],
                self.images[''],
            ),
            Volume(
                'var',
                [Segment(40, [(0, 1)]), Segment(8, [(1, 40)])],
                self.images['/var'],
            ),
            *more,
        ]
        path = disks.make(
            self.directory / 'disk',
            [
                disks.Part(6, self.images['/boot']),
                disks.Part(12, type=disks.LVM),
                disks.Part(12, type=disks.LVM),
            ],
        )
        starts, sizes = (7 * MIB, 19 * MIB), (12 * MIB, 12 * MIB)
        volume_groups.fill(path, starts, sizes, 'my-vg', volumes)
        return path

    def opened(self, path: pathlib.Path, **choice):
        return resolve.opened(
            path, resolve.Choice(work_directory=self.work, **choice)
        )

    def expected(self, *places: str) -> dict[bytes, exttree.Entry]:
        found: dict[bytes, exttree.Entry] = {}
        for place in places:
            at = place.encode()
            found = {
                path: entry
                for path, entry in found.items()
                if not (place and path.startswith(at + b'/'))
            }
            for path, entry in exttree.read_tree(self.images[place]).items():
                if not (place and path == b'/lost+found'):
                    found[(at + path).rstrip(b'/') or b'/'] = entry
        return found

    def check(self, image: pathlib.Path, *places: str) -> None:
        process.run(['e2fsck', '-f', '-n', image], access=None)
        expected = self.expected(*places)
        found = exttree.read_tree(image)
        self.assertEqual(expected.keys(), found.keys())
        for path, entry in expected.items():
            self.assertEqual(
                (entry.type, entry.mode, entry.mtime, entry.xattrs,
                 entry.sha256),
                (found[path].type, found[path].mode, found[path].mtime,
                 found[path].xattrs, found[path].sha256),
                path,
            )  # fmt: skip
        known = superblock.read(image)
        self.assertEqual((ROOT, 'cloud'), (known.uuid, known.label))

    def test_merged(self) -> None:
        disk = self.disk()
        for path in (disk, disks.convert(disk, 'qcow2')):
            with self.opened(path) as source:
                self.check(source.root, '', '/boot', '/var')
                self.assertEqual(2, source.partition)
                self.assertEqual(('/boot', '/var'), source.merged)
            self.assertEqual([], os.listdir(self.work))
            self.assertIn(
                'merged into the image: /boot (partition 1, an ext4 '
                'filesystem), /var (logical volume my-vg/var, an ext4 '
                'filesystem)',
                ' '.join(source.notes),
            )

    def test_root_alone(self) -> None:
        disk = self.disk('/dev/my-vg/root / ext4\n')
        for number in (None, 2):
            with self.opened(disk, partition=number) as source:
                self.check(source.root, '')
                self.assertIsNotNone(source.boot)
        told = [
            (part.number, part.content, part.is_root, part.is_boot)
            for part in source.partitions
        ]
        self.assertEqual(
            [
                (1, 'an ext4 filesystem', False, True),
                (2, 'an LVM physical volume', False, False),
                (3, 'an LVM physical volume', False, False),
                (2, 'logical volume my-vg/swap: swap space', False, False),
                (2, 'logical volume my-vg/root: an ext4 filesystem', True,
                 False),
                (2, 'logical volume my-vg/var: an ext4 filesystem', False,
                 False),
            ],
            told,
        )  # fmt: skip

    def test_fix(self) -> None:
        with self.opened(self.disk(), fix=True) as source:
            with reader.opened(source.root) as files:
                fstab = files.read_file('/etc/fstab', 4096).decode()
        self.assertEqual(
            [f'UUID={ROOT} / ext4 defaults 0 1'],
            [line for line in fstab.splitlines() if line[0] != '#'],
        )

    def refused(self, disk: pathlib.Path, **choice) -> str:
        error = self.assertRaises(
            errors.AmiError, self.opened(disk, **choice).__enter__
        )
        self.assertEqual([], os.listdir(self.work))
        return str(error)

    def test_what_is_not_plain(self) -> None:
        """It matters only if it is mounted, or there is no other root."""
        thin = Volume('docker', [Segment(9, type='thin')])
        with self.opened(self.disk(more=[thin])) as source:
            self.check(source.root, '', '/boot', '/var')
        disk = self.disk(f'{FSTAB}/dev/my-vg/docker /d xfs\n', [thin])
        words = self.refused(disk)
        self.assertIn('which reads a logical volume of type thin', words)
        self.assertIn(distribution.remedy('guestfish') or '', words)

    def test_two_roots(self) -> None:
        disk = self.disk()
        other = Volume(
            'b',
            [Segment(40, [(1, 48)]), Segment(8, [(1, 20)])],
            self.images[''],
        )
        disk = self.disk(more=[other])
        words = self.refused(disk)
        self.assertIn(
            'several partitions have a root filesystem: 2: logical volume '
            'my-vg/root, 6.0 MiB, an ext4 filesystem, label cloud, with a '
            'root filesystem | 3: logical volume my-vg/b',
            words,
        )
        with self.opened(disk, partition=2) as source:
            self.check(source.root, '', '/boot', '/var')

    def test_wrong_partition(self) -> None:
        words = self.refused(self.disk(), partition=3)
        self.assertIn('partition 3 has no root filesystem', words)

    def test_incomplete(self) -> None:
        disk = self.disk()
        with disk.open('r+b') as file:
            file.seek(19 * MIB)
            file.write(bytes(2048))
        words = self.refused(disk)
        self.assertIn('a logical volume that is not all on this disk', words)
        self.assertIn('give a disk that has all of it', words)

    def test_whole_disk(self) -> None:
        """There is no partition table at all."""
        root = self.image('root', {'etc/os-release': b'ID=x\n'})
        path = self.directory / 'whole'
        with path.open('wb') as file:
            file.truncate(8 * MIB)
        volume_groups.fill(
            path,
            [0],
            [8 * MIB],
            'g',
            [Volume('root', [Segment(48, [(0, 3)])], root)],
        )
        with self.opened(path) as source:
            found = exttree.read_tree(source.root)
        self.assertEqual(exttree.read_tree(root).keys(), found.keys())


def without_guestfish(program: str) -> str:
    if program == 'guestfish':
        raise errors.ProgramError(
            f'{program} was not found',
            hint=distribution.remedy(program),
        )
    return _FIND(program)
