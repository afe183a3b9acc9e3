# SPDX-License-Identifier: Apache-2.0

"""The data of images, read where it lies."""

import gzip
import pathlib
import random

from amiclient import errors
from amiclient.ext import reader
from amiclient.findings import Finding
from amiclient.glance import links
from amiclient.glance import retry
from amiclient.glance.transfer import ranges
from amiclient.glance.verify import context
from amiclient.glance.verify import deep
from amiclient import process
from amiclient.source import block
from amiclient.source import qemu_headers
from amiclient.tests import base
from amiclient.tests.disks import disks
from amiclient.tests.faults import actions
from amiclient.tests.hostile import corpus
from amiclient.tests.unit.ext import shrinking
from amiclient.tests.unit.glance import records
from amiclient.tests.unit.glance import served
from amiclient.tests.unit.rootfs import checks
from amiclient.tests.unit.rootfs import images
from amiclient.tests.unit.rootfs import samples

_KERNEL = records.kernel().id
_PATIENCE = retry.Patience(attempts=2, stall=served.AGES, backoff=0.01)


class RangeCase(base.TestCase):
    def serve(self, data: bytes, *script, **changes) -> served.Served:
        return self.useFixture(
            served.Served(*script, data=data, **{'size': len(data), **changes})
        )

    def reading(self, cloud: served.Served, **limits: int) -> ranges.Reading:
        return ranges.Reading(cloud.proxy, _PATIENCE, **limits)


class TestMedium(RangeCase):
    def setUp(self) -> None:
        super().setUp()
        self.bytes = random.Random(1).randbytes((3 << 20) + 777)

    def test_what_is_read(self) -> None:
        cloud = self.serve(self.bytes)
        chance = random.Random(2)
        with self.reading(cloud).opened(cloud.record) as medium:
            for _ in range(100):
                start = chance.randrange(len(self.bytes))
                count = chance.choice((0, 1, 4096, 70_000, 1 << 20))
                self.assertEqual(
                    self.bytes[start : start + count],
                    medium.read(start, count),
                )
            self.assertEqual(b'', medium.read(len(self.bytes), 5))
            # What is there is not fetched again.
            self.assertLessEqual(medium.bytes, len(self.bytes))
            self.assertEqual(medium.requests, len(cloud.asked))
            pieces = list(medium.stream([(5, 2 << 20), (3 << 20, 3145730)]))
            self.assertEqual(5, pieces[0][0])
            self.assertEqual(
                self.bytes[5 : 2 << 20] + self.bytes[3 << 20 : 3145730],
                b''.join(piece for _, piece in pieces),
            )
            self.assertRaises(
                errors.SourceError, list, medium.stream([(0, 4 << 20)])
            )

    def test_reading_ahead(self) -> None:
        cloud = self.serve(self.bytes)
        with self.reading(cloud).opened(cloud.record) as medium:
            for place in range(0, len(self.bytes), 4096):
                medium.read(place, 4096)
            self.assertEqual(len(self.bytes), medium.bytes)
            self.assertLess(medium.requests, 8)

    def test_little_is_kept(self) -> None:
        self.patch(ranges, '_KEPT', 4)
        self.patch(ranges, '_TOGETHER', 2)
        cloud = self.serve(self.bytes)
        with self.reading(cloud).opened(cloud.record) as medium:
            self.assertEqual(self.bytes, medium.read(0, len(self.bytes)))
            self.assertEqual(self.bytes[:9], medium.read(0, 9))

    def test_no_more_than_allowed(self) -> None:
        cloud = self.serve(self.bytes)
        for limits in ({'requests': 3}, {'bytes': 200_000}):
            with self.reading(cloud, **limits).opened(cloud.record) as medium:
                error = self.assertRaises(
                    ranges.LimitError,
                    lambda where: [where.read(n << 18, 9) for n in range(9)],
                    medium,
                )
                self.assertIn('3 requests', str(error))
                self.assertEqual(3, medium.requests)

    def test_a_store_without_ranges(self) -> None:
        cloud = self.serve(self.bytes)
        cloud.glance.ranges = False
        with self.reading(cloud).opened(cloud.record) as medium:
            self.assertRaises(ranges.NoRangesError, medium.read, 0, 9)
        self.assertEqual(1, len(cloud.asked))

    def test_refusals(self) -> None:
        for status, kind in (
            (416, ranges.NoRangesError),
            (400, ranges.NoRangesError),
            (501, ranges.NoRangesError),
            (403, errors.CloudError),
            (404, errors.NotFoundError),
            (410, errors.NotFoundError),
            (204, errors.TransferError),
        ):
            cloud = self.serve(
                self.bytes,
                actions.answer(status),
                actions.answer(status),
            )
            with self.reading(cloud).opened(cloud.record) as medium:
                error = self.assertRaises(kind, medium.read, 0, 9)
            self.assertIs(kind, type(error), status)

    def test_a_break_is_tried_again(self) -> None:
        cloud = self.serve(self.bytes, actions.answer(503))
        with self.reading(cloud).opened(cloud.record) as medium:
            self.assertEqual(self.bytes[:9], medium.read(0, 9))
        self.assertEqual(2, len(cloud.asked))

    def test_another_size_than_the_record_has(self) -> None:
        cloud = self.serve(self.bytes, size=1 << 30)
        with self.reading(cloud).opened(cloud.record) as medium:
            error = self.assertRaises(errors.TransferError, medium.read, 0, 9)
        self.assertIn('a part that was not asked for', str(error))

    def test_the_files_of_a_filesystem(self) -> None:
        image = images.image(
            self.tmp(), checks.SOUND, options=checks.OPTIONS, size=96 << 20
        )
        cloud = self.serve(image.read_bytes())
        with (
            self.reading(cloud).opened(cloud.record) as medium,
            reader.opened(image) as there,
        ):
            here = deep.inside(cloud.record, medium).reader
            for name in checks.SOUND:
                self.assertEqual(there.head(name, 99), here.head(name, 99))
            self.assertEqual(there.names('/etc'), here.names('/etc'))
            self.assertLess(medium.requests, 10)
            self.assertLess(medium.bytes, 1 << 20)


class TestQcow2(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.raw = self.tmp() / 'raw'
        data = bytearray((2 << 20) + 512)
        data[1000:200_000] = random.Random(3).randbytes(199_000)
        data[1 << 20 : (1 << 20) + 70_000] = b'text ' * 14_000
        data[-9:] = b'the end.\n'
        self.raw.write_bytes(data)

    def convert(self, *options: str) -> pathlib.Path:
        path = self.tmp() / 'disk.qcow2'
        argv = ['qemu-img', 'convert', '-O', 'qcow2', *options, self.raw, path]
        process.run(argv, access=None)
        return path

    def read(self, path: pathlib.Path) -> bytes:
        with path.open('rb') as file:
            medium = qemu_headers.qcow2_disk(block.RawMedium(file, 'it'))
            whole = medium.read(0, 1 << 30)
            self.assertEqual(medium.size, len(whole))
            self.assertEqual(whole[5:70_005], medium.read(5, 70_000))
            (piece,) = medium.stream([(999, 1003)])
            self.assertEqual((999, whole[999:1003]), piece)
        return whole

    def test_the_same_as_qemu_reads(self) -> None:
        for options in (
            (),
            ('-c',),
            ('-o', 'compat=0.10'),
            ('-c', '-o', 'cluster_size=512'),
            ('-o', 'cluster_size=2M'),
            ('-o', 'preallocation=metadata'),
        ):
            self.assertEqual(
                self.raw.read_bytes(), self.read(self.convert(*options))
            )

    def test_what_is_refused(self) -> None:
        wide = self.convert('-o', 'extended_l2=on')
        error = self.assertRaises(errors.SourceError, self.read, wide)
        self.assertIn('several parts', str(error))
        over = self.tmp() / 'over.qcow2'
        argv = ['qemu-img', 'create', '-q', '-f', 'qcow2', '-F', 'raw', '-b']
        process.run([*argv, self.raw, over], access=None)
        error = self.assertRaises(errors.SourceError, self.read, over)
        self.assertIn('a backing file', str(error))
        error = self.assertRaises(errors.SourceError, self.read, self.raw)
        self.assertIn('not a qcow2 image', str(error))

    def test_damage(self) -> None:
        for options in ((), ('-c',)):
            whole = self.convert(*options)
            for place in range(0, whole.stat().st_size, 1 << 15):
                data = bytearray(whole.read_bytes())
                data[place : place + 64] = random.Random(place).randbytes(64)
                path = self.tmp() / 'damaged'
                path.write_bytes(data)
                try:
                    self.read(path)
                except errors.SourceError:
                    continue


class PeekCase(RangeCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()

    def system(self, without: str = '-', **files: bytes) -> pathlib.Path:
        there = {
            name: content
            for name, content in {**checks.SOUND, **files}.items()
            if not name.startswith(without)
        }
        return images.image(
            self.directory, there, options=checks.OPTIONS, size=16 << 20
        )

    def peek(
        self, data: bytes, *script, kernel: bytes | None = None, **changes
    ) -> dict[str, Finding]:
        cloud = self.serve(data, *script, **changes)
        kernel = samples.bzimage() if kernel is None else kernel
        cloud.glance.put('vmlinuz', _KERNEL, 'aki', data=kernel)
        record = records.kernel(size=len(kernel))
        found = deep.peek(
            context.Context(links.Ami(cloud.record, record)),
            self.reading(cloud),
        )
        return {each.rule: each for each in found}


class TestPeek(PeekCase):
    def test_a_sound_system(self) -> None:
        self.assertEqual({}, self.peek(self.system().read_bytes()))

    def test_no_modules(self) -> None:
        found = self.peek(self.system('usr/lib/modules').read_bytes())
        self.assertEqual({'no-modules'}, found.keys())
        self.assertIn(checks.RELEASE, found['no-modules'].message)
        self.assertEqual('image', found['no-modules'].about)

    def test_what_else_is_told(self) -> None:
        fstab = b'UUID=nowhere / ext4 ro 0 1\n'
        data = self.system('etc/os-release', **{'etc/fstab': fstab})
        found = self.peek(
            data.read_bytes(), kernel=samples.bzimage(wide=False)
        )
        self.assertEqual(
            {
                'architecture',
                'fstab-read-only',
                'fstab-root-device',
                'no-os-release',
            },
            found.keys(),
        )
        found = self.peek(self.system('usr/sbin/init').read_bytes())
        self.assertEqual({'no-init'}, found.keys())

    def test_other_data(self) -> None:
        root = self.system().read_bytes()
        for data, rules in (
            (bytes(1 << 20), {'not-a-filesystem'}),
            (b'x', {'not-a-filesystem'}),
            (gzip.compress(root), {'not-a-filesystem'}),
            (b'LUKS\xba\xbe\0\1' + bytes(1 << 20), {'not-a-filesystem'}),
            (root[: 1 << 20], {'not-a-filesystem'}),
            (bytes(510) + b'\x55\xaa' + root[512:], {'boot-sector'}),
        ):
            self.assertEqual(rules, self.peek(data).keys())
            raw = self.peek(
                data, disk_format='raw', container_format='bare'
            ).keys()
            if data != root[: 1 << 20] and 'boot-sector' not in rules:
                self.assertEqual({'not-examined'}, raw)
            else:
                self.assertEqual(rules, raw)

    def test_a_kernel_that_is_none(self) -> None:
        root = self.system().read_bytes()
        for kernel in (samples.initramfs(), b'x' * 9999, root):
            found = self.peek(root, kernel=kernel)
            self.assertEqual({'not-a-kernel'}, found.keys())

    def test_disks(self) -> None:
        root = self.system('usr/lib/modules')
        disk = disks.make(self.directory / 'disk.raw', [disks.Part(16, root)])
        raw = {'disk_format': 'raw', 'container_format': 'bare'}
        found = self.peek(disk.read_bytes(), **raw)
        self.assertEqual({'no-modules'}, found.keys())
        self.assertIn('not-a-filesystem', self.peek(disk.read_bytes()))
        for options in ((), ('-c',)):
            data = disks.convert(root, 'qcow2', *options).read_bytes()
            found = self.peek(data, **{**raw, 'disk_format': 'qcow2'})
            self.assertEqual({'no-modules'}, found.keys())
        data = disks.convert(root, 'vmdk').read_bytes()
        found = self.peek(data, **{**raw, 'disk_format': 'vmdk'})
        self.assertEqual({'not-examined'}, found.keys())

    def test_refusals(self) -> None:
        root = self.system().read_bytes()
        for status, rule, severity in (
            (416, 'not-examined', 'note'),
            (403, 'not-examined', 'note'),
            (404, 'unreadable', 'error'),
        ):
            script = [actions.answer(status)] * 2
            found = self.peek(root, *script, kernel=b'')
            self.assertEqual({rule}, found.keys())
            self.assertEqual(severity, found[rule].severity)


@shrinking.for_each(*(set(corpus.CORPUS) - {'huge-and-sparse'}))
class TestHostile(PeekCase):
    def check_it(self, name: str) -> None:
        # It ends, and raises nothing.
        self.peek(corpus.make(name, self.tmp()).read_bytes())
