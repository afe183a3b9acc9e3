# SPDX-License-Identifier: Apache-2.0

"""Logical volumes are found, and read where they are on the disk."""

from collections.abc import Sequence
import os
import pathlib

from amiclient import errors
from amiclient.ext import reader
from amiclient.ext import superblock
from amiclient import packages
from amiclient import process
from amiclient.source import block
from amiclient.source import lvm
from amiclient.source import resolve
from amiclient.tests import base
from amiclient.tests.disks import disks
from amiclient.tests.disks import volume_groups
from amiclient.tests.disks.volume_groups import EXTENT
from amiclient.tests.disks.volume_groups import FIRST
from amiclient.tests.disks.volume_groups import Segment
from amiclient.tests.disks.volume_groups import Volume
from amiclient.tests.oracle import exttree

MIB = disks.MIB
SIZES = (4 * MIB, 3 * MIB)
STARTS = (MIB, 6 * MIB)


class LvmCase(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.path = self.tmp() / 'disk'
        with self.path.open('wb') as file:
            file.truncate(10 * MIB)

    def look(
        self, heads: Sequence[bytes] = (), sizes: Sequence[int] = SIZES
    ) -> lvm.Volumes:
        disks.fill(self.path, list(zip(heads, STARTS, strict=False)))
        file = self.path.open('rb')
        self.addCleanup(file.close)
        return lvm.look(
            block.RawMedium(file, 'disk'),
            [
                lvm.Place(number, start, size)
                for number, (start, size) in enumerate(
                    zip(STARTS, sizes, strict=True), 1
                )
            ],
        )

    def group(self, *volumes: Volume, **options) -> lvm.Volumes:
        return self.look(self.heads(*volumes, **options))

    def heads(self, *volumes: Volume, **options) -> list[bytes]:
        metadata = volume_groups.text('v-g', SIZES, volumes, **options)
        return [
            volume_groups.head(number, size, metadata)
            for number, size in enumerate(SIZES)
        ]


class TestLvm(LvmCase):
    def check(self, *segments: Segment) -> None:
        """Put a volume on the disk, and read it back in many ways."""
        size = sum(each.extents for each in segments) * EXTENT
        data = self.random.randbytes(size)
        volume = Volume('root', segments, data)
        volume_groups.fill(self.path, STARTS, SIZES, 'v-g', [volume])
        found = self.look()
        self.assertEqual(frozenset(), found.unread)
        (known,) = found.found
        self.assertEqual(
            ('v-g', 'root', 1, 10 * MIB, size, None),
            (known.group, known.name, known.number, known.start, known.size,
             known.problem),
        )  # fmt: skip
        medium, start = found.medium, known.start
        self.assertEqual(start + size, medium.size)
        self.assertEqual(data, medium.read(start, size))
        self.assertEqual(data, medium.read(start, size + 100))
        self.assertEqual(b'', medium.read(start + size, 1))
        runs = []
        for _ in range(40):
            first = self.random.randrange(size)
            end = min(size, first + self.random.randrange(1, 3 * EXTENT))
            runs.append((start + first, start + end))
            self.assertEqual(
                data[first:end], medium.read(start + first, end - first)
            )
        came = bytearray(size)
        for place, piece in medium.stream(runs):
            came[place - start : place - start + len(piece)] = piece
        wanted = bytearray(size)
        for first, end in runs:
            wanted[first - start : end - start] = data[
                first - start : end - start
            ]
        self.assertEqual(wanted, came)
        # The disk itself is as before.
        raw = self.path.read_bytes()
        self.assertEqual(raw[5:9000], medium.read(5, 8995))
        label = MIB + 512
        self.assertEqual(
            [(label, raw[label : label + 100])],
            list(medium.stream([(label, label + 100)])),
        )
        self.assertRaises(
            errors.SourceError,
            list,
            medium.stream([(start, start + size + 1)]),
        )

    def test_linear(self) -> None:
        self.check(Segment(3, [(0, 2)]))

    def test_several_pieces(self) -> None:
        self.check(
            Segment(3, [(0, 7)]), Segment(2, [(0, 1)]), Segment(1, [(0, 4)])
        )

    def test_two_physical_volumes(self) -> None:
        self.check(Segment(3, [(0, 2)]), Segment(9, [(1, 0)]))

    def test_striped(self) -> None:
        self.check(
            Segment(2, [(0, 0)]),
            Segment(8, [(0, 9), (1, 3)]),
            Segment(6, [(1, 9), (0, 17)], stripe=128 << 10),
        )

    def test_names(self) -> None:
        self.assertEqual(
            (
                '/dev/my-vg/a-b.c',
                '/dev/mapper/my--vg-a--b.c',
                '/dev/disk/by-id/dm-name-my--vg-a--b.c',
            ),
            lvm.paths('my-vg', 'a-b.c'),
        )

    def test_label_in_each_sector(self) -> None:
        metadata = volume_groups.text(
            'g', SIZES[:1], [Volume('lv', [Segment(1, [(0, 0)])])]
        )
        for sector in range(4):
            head = volume_groups.head(0, SIZES[0], metadata, sector=sector)
            found = self.look([head, bytes(FIRST)])
            self.assertEqual(['lv'], [each.name for each in found.found])
            self.assertEqual({2}, found.unread)

    def test_metadata_around_the_end_of_the_ring(self) -> None:
        metadata = volume_groups.text(
            'g', SIZES[:1], [Volume('lv', [Segment(1, [(0, 0)])])]
        )
        for back in (1, 512, len(metadata), len(metadata) + 1):
            at = volume_groups.RING - back
            head = volume_groups.head(0, SIZES[0], metadata, at=at)
            found = self.look([head])
            self.assertEqual(['lv'], [each.name for each in found.found])

    def test_newest(self) -> None:
        """One physical volume missed the last changes."""
        old = self.heads(Volume('old', [Segment(1, [(0, 0)])]), serial=9)
        new = self.heads(Volume('new', [Segment(1, [(0, 0)])]), serial=10)
        for heads in ((old[0], new[1]), (new[0], old[1])):
            found = self.look(heads)
            self.assertEqual(['new'], [each.name for each in found.found])

    def test_physical_volume_without_metadata(self) -> None:
        heads = self.heads(Volume('lv', [Segment(1, [(1, 0)])]))
        heads[1] = volume_groups.head(1, SIZES[1], '', areas=0)
        found = self.look(heads)
        self.assertEqual(
            [('lv', 2, None)],
            [(e.name, e.number, e.problem) for e in found.found],
        )
        # No group, or one that nobody here knows.
        for areas in (0, 1):
            heads = [
                volume_groups.head(n, size, '', areas=areas)
                for n, size in enumerate(SIZES)
            ]
            found = self.look(heads)
            self.assertEqual(((), set()), (found.found, found.unread))

    def test_what_is_not_plain(self) -> None:
        pool = 'thin_pool = "pool"\ndevice_id = 1\ntransaction_id = 0'
        hidden = '"READ", "WRITE"'
        found = self.group(
            Volume('plain', [Segment(1, [(0, 0)])]),
            Volume('flagged', [Segment(1, [(0, 5)], type='striped+X')]),
            Volume('thin', [Segment(1, type='thin', more=pool)]),
            Volume('pool', [Segment(1, type='thin-pool')]),
            Volume('pool_tdata', [Segment(1, [(0, 1)])], status=hidden),
            Volume('mixed', [Segment(1, [(0, 2)]), Segment(1, type='raid1')]),
            Volume('snap', [Segment(1, [(0, 3)])]),
            Volume(
                'snapshot0',
                [Segment(1, type='snapshot', more='cow_store = "snap"')],
                status=hidden,
            ),
            Volume(
                'moving',
                [Segment(1, more='stripe_count=1 stripes = ["pvmove0", 0]')],
            ),
        )
        of_type = 'a logical volume of type'
        self.assertEqual(
            {
                'plain': None,
                'flagged': None,
                'thin': f'{of_type} thin',
                'pool': f'{of_type} thin-pool',
                'mixed': f'{of_type} raid1',
                'snap': f'{of_type} snapshot',
                'moving': 'a logical volume within another one',
            },
            {each.name: each.problem for each in found.found},
        )
        self.assertEqual(frozenset(), found.unread)
        self.assertEqual(10 * MIB + 2 * EXTENT, found.medium.size)

    def test_physical_volume_that_is_not_there(self) -> None:
        volumes = (
            Volume('here', [Segment(1, [(0, 0)])]),
            Volume('gone', [Segment(1, [(0, 1)]), Segment(1, [(1, 0)])]),
        )
        wanted = {'here': None, 'gone': lvm.MISSING}
        heads = self.heads(*volumes)
        found = self.look([heads[0], bytes(FIRST)])
        self.assertEqual(wanted, {e.name: e.problem for e in found.found})
        # It is there, but was lost once.
        found = self.group(*volumes, flags='"MISSING"')
        self.assertEqual(wanted, {e.name: e.problem for e in found.found})


class TestDamaged(LvmCase):
    """What LVM would not have written is not followed."""

    VOLUME = Volume('lv', [Segment(2, [(0, 0)])])

    def nonsense(self, heads: Sequence[bytes]) -> None:
        found = self.look(heads)
        self.assertEqual(((), {1, 2}), (found.found, found.unread))
        self.assertEqual(10 * MIB, found.medium.size)

    def test_flipped_bytes(self) -> None:
        area = volume_groups.AREA
        for place in (512, 520, 530, 545, 600, area, area + 10, area + 50,
                      area + 600):  # fmt: skip
            heads = []
            for head in self.heads(self.VOLUME):
                data = bytearray(head)
                data[place] ^= 0x80
                heads.append(bytes(data))
            with self.subTest(place):
                self.nonsense(heads)

    def written(self, metadata: str) -> list[bytes]:
        return [
            volume_groups.head(number, size, metadata)
            for number, size in enumerate(SIZES)
        ]

    def test_text(self) -> None:
        good = volume_groups.text('g', SIZES, [self.VOLUME])
        self.assertEqual(1, len(self.look(self.written(good)).found))
        for old, new in (
            ('extent_size = 256', 'extent_size = 0'),
            ('extent_size = 256', 'extent_size = -256'),
            ('extent_size = 256', 'extent_size = 9999999999999999999'),
            ('extent_size = 256', 'extent_size = "256"'),
            ('extent_size = 256', 'extent_size = [256]'),
            ('extent_size = 256', ''),
            ('seqno = 5', 'seqno = five'),
            ('start_extent = 0', 'start_extent = 1'),
            ('extent_count = 2', 'extent_count = 0'),
            ('extent_count = 2', 'extent_count = 999999999'),
            ('stripes = [\n"pv0", 0', 'stripes = [\n"pv0", 999999'),
            ('stripes = [\n"pv0", 0', 'stripes = [\n"pv0", "pv0"'),
            ('stripes = [\n"pv0", 0', 'stripes = [\n"pv0"'),
            ('stripes = [\n"pv0", 0', 'stripes = ['),
            ('stripes = [\n"pv0", 0', 'stripes = [[\n"pv0", 0'),
            ('stripe_count = 1', 'stripe_count = 2'),
            ('stripe_count = 1', 'stripe_count = 0'),
            ('pe_start = 2048', 'pe_start = 999999999999'),
            ('lv {', '".." {'),
            ('lv {', 'l/v {'),
            ('lv {', 'lv = {'),
            ('lv {', 'lv { lv {'),
            ('g {', '"g g" {'),
            ('version = 1', 'h { }'),
            ('version = 1', 'version = "1'),
            ('version = 1', '} version = 1'),
            ('version = 1', 'version = \\'),
            ('version = 1', 'version = 1 version = 1'),
            ('version = 1', '= 1'),
            ('version = 1', 'a [ 1 ]'),
        ):
            self.assertIn(old, good)
            with self.subTest(new):
                self.nonsense(self.written(good.replace(old, new, 1)))
        self.nonsense(self.written(good[: good.rindex('}')]))
        self.nonsense(self.written('x'))

    def test_overlapping(self) -> None:
        for second in (
            Segment(2, [(0, 1)]),
            Segment(1, [(0, 0)]),
            Segment(4, [(0, 1), (1, 0)]),
        ):
            self.nonsense(self.heads(self.VOLUME, Volume('other', [second])))

    def test_one_identity_twice(self) -> None:
        heads = self.heads(self.VOLUME)
        found = self.look([heads[0], heads[0]])
        self.assertEqual({2}, found.unread)

    def test_huge(self) -> None:
        """They take neither time nor memory."""
        good = volume_groups.text('g', SIZES, [self.VOLUME])
        room = volume_groups.RING - 600 - len(good)
        for long in (
            'a { ' * (room // 4),
            '"' + '\\"' * (room // 2 - 4),
            '"' + 'x' * room,
            '# ' * (room // 2),
            'x' * room,
            'a = [' + '1,' * (room // 2 - 4),
            'a = ' + '[' * (room - 4),
            '=' * room,
            ' ' * room,
        ):
            with self.subTest(long[:8]):
                self.look(self.written(long))
                self.look(self.written(f'{good}\n{long}'))

    def test_many(self) -> None:
        """What does fit into the metadata takes no time, either."""
        count = 10_500
        text = volume_groups.text('g', SIZES, [self.VOLUME])
        many = ''.join(
            f'segment{n} {{start_extent={n} extent_count=1 type="striped"'
            f'stripe_count=1 stripes=["pv0",{n}]}}'
            for n in range(count)
        )
        text = text.replace('segment1 {', f'{many} x {{', 1)
        text = text.replace('extent_size = 256', 'extent_size = 1')
        text = text.replace('pe_start = 2048', 'pe_start = 0')
        self.assertLess(len(text), volume_groups.RING - 600)
        found = self.look(
            [volume_groups.head(0, 0, text), bytes(FIRST)], (8 * MIB, MIB)
        )
        (known,) = found.found
        self.assertEqual(count * 512, known.size)
        raw = self.path.read_bytes()[MIB:]
        self.assertEqual(
            raw[: known.size], found.medium.read(known.start, known.size)
        )


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
        self.assertIn('libguestfs-tools', words)

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
            f'{program} was not found', hint=f'install {packages.OF[program]}'
        )
    return _FIND(program)
