# SPDX-License-Identifier: Apache-2.0

"""Logical volumes are found, and read where they are on the disk."""

from collections.abc import Sequence

from amiclient import errors
from amiclient import process
from amiclient.source import block
from amiclient.source import lvm
from amiclient.tests import base
from amiclient.tests.disks import disks
from amiclient.tests.disks import volume_groups
from amiclient.tests.disks.volume_groups import EXTENT
from amiclient.tests.disks.volume_groups import FIRST
from amiclient.tests.disks.volume_groups import Segment
from amiclient.tests.disks.volume_groups import Volume

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


class TestReal(LvmCase):
    """What LVM itself writes."""

    def setUp(self) -> None:
        super().setUp()
        self.devices = []
        sizes = zip(STARTS, SIZES, strict=True)
        for start, size in sizes:
            argv = [
                'losetup', '--find', '--show', '--offset', str(start),
                '--sizelimit', str(size), self.path,
            ]  # fmt: skip
            try:
                told = process.run(argv, access=None)
            except errors.ProgramError as error:
                self.skipTest(f'no loop devices: {error}')
            device = told.text.strip()
            self.addCleanup(
                process.run, ['losetup', '--detach', device], access=None
            )
            self.devices.append(device)

    def lvm(self, command: str, *words: str) -> str:
        accepted = ', '.join(f'"a|^{each}$|"' for each in self.devices)
        config = (
            'devices { use_devicesfile=0 scan="/dev" '
            'obtain_device_list_from_udev=0 '
            f'filter=[{accepted}, "r|.*|"] }} '
            'activation { udev_sync=0 udev_rules=0 } '
            'backup { backup=0 archive=0 }'
        )
        # This writes metadata, and needs nothing of the kernel.
        return process.run(
            [
                'lvm', command, '--driverloaded', 'n', '--config', config,
                *words,
            ],
            access=None,
        ).text  # fmt: skip

    def test_written(self) -> None:
        first, second = self.devices
        self.lvm('pvcreate', first)
        self.lvm('pvcreate', '--labelsector', '3', second)
        self.lvm('vgcreate', '-s', '128k', 'v-g', first, second)
        quiet = ('-an', '-Zn', '-Wn')
        for name in ('root', 'var-log'):
            self.lvm('lvcreate', *quiet, '-n', name, '-l3', 'v-g', first)
        self.lvm('lvextend', '-l+4', 'v-g/root', first)
        self.lvm('lvextend', '-l+2', 'v-g/root', second)
        self.lvm('lvcreate', *quiet, '-i2', '-I8k', '-n', 'fast', '-l4', 'v-g')
        # So that the ring of texts comes to its beginning again.
        for number in range(10):
            tags = [f'--addtag=t{number}.{n}' + 'x' * 900 for n in range(30)]
            self.lvm('vgchange', *tags, 'v-g')
        found = self.look()
        self.assertEqual(frozenset(), found.unread)
        at = FIRST // EXTENT
        disk = self.random.randbytes(10 * MIB)
        self.path.write_bytes(disk)
        for name, number, ranges in (
            ('root', 1, [(0, 0, 3), (0, 6, 4), (1, 0, 2)]),
            ('var-log', 1, [(0, 3, 3)]),
        ):
            (volume,) = [e for e in found.found if e.name == name]
            self.assertEqual(number, volume.number)
            expected = b''.join(
                disk[STARTS[pv] + (at + extent) * EXTENT :][: count * EXTENT]
                for pv, extent, count in ranges
            )
            self.assertEqual(
                expected, found.medium.read(volume.start, volume.size)
            )
        (fast,) = [e for e in found.found if e.name == 'fast']
        self.assertEqual(
            b''.join(
                disk[STARTS[pv] + (at + extent) * EXTENT + row * 8192 :][:8192]
                for row in range(32)
                for pv, extent in ((0, 10), (1, 2))
            ),
            found.medium.read(fast.start, fast.size),
        )

    def test_read(self) -> None:
        """LVM reads what the other tests use."""
        volumes = (
            Volume('a', [Segment(3, [(0, 7)]), Segment(2, [(1, 1)])]),
            Volume('b', [Segment(4, [(0, 1), (1, 4)])]),
        )
        disks.fill(
            self.path, list(zip(self.heads(*volumes), STARTS, strict=True))
        )
        told = self.lvm(
            'lvs', '--noheadings', '-o', 'lv_name,seg_pe_ranges', 'v-g'
        )
        one, two = self.devices
        self.assertEqual(
            [
                ['a', f'{one}:7-9'],
                ['a', f'{two}:1-2'],
                ['b', f'{one}:1-2', f'{two}:4-5'],
            ],
            [line.split() for line in told.splitlines()],
        )


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
