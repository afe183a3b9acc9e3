# SPDX-License-Identifier: Apache-2.0

"""Headers of disk images: what is sound is taken, all else refused."""

from collections.abc import Callable
import json
import os
import pathlib
import random
import struct

from amiclient import errors
from amiclient import process
from amiclient.source import qemu_headers
from amiclient.source import qemu_image
from amiclient.tests import base
from amiclient.tests.hostile import patch as hostile_patch

SIZE = 24 << 20

#: Each format, with the options that it may be made with.
SOUND = {
    'qcow': ((),),
    'qcow2': (
        ('compat=0.10',),
        ('compat=1.1',),
        ('cluster_size=512',),
        ('cluster_size=2M',),
        ('extended_l2=on', 'cluster_size=16k'),
        ('compression_type=zstd',),
        ('lazy_refcounts=on',),
        ('refcount_bits=1',),
        ('refcount_bits=64',),
        ('preallocation=metadata',),
        ('preallocation=full',),
    ),
    'qed': ((), ('cluster_size=4k', 'table_size=2'), ('table_size=16',)),
    'vdi': ((), ('static=on',)),
    'vhdx': (
        (),
        ('subformat=fixed',),
        ('block_size=1M',),
        ('block_size=256M',),
        ('log_size=16M',),
        ('block_state_zero=off',),
    ),
    'vmdk': ((), ('subformat=streamOptimized',)),
    'vpc': ((), ('subformat=fixed',), ('force_size=on',)),
}

DAMAGED = 'its header is damaged, or of no known kind'
CUT = 'it is cut short'
LAYER = 'it has a backing file'
ELSEWHERE = 'its data are in another file'


def summed(data: bytearray, start: int, length: int, place: int) -> None:
    """Mend the sum of a part of a VHD."""
    struct.pack_into('>I', data, start + place, 0)
    total = ~sum(data[start : start + length]) & 0xFFFFFFFF
    struct.pack_into('>I', data, start + place, total)


def mend_vpc(data: bytearray) -> None:
    """Mend what a VHD that grows has of sums, and its second copy."""
    summed(data, 0, 512, 64)
    (place,) = struct.unpack_from('>Q', data, 16)
    if place <= len(data) - 1024:
        summed(data, place, 1024, 36)
    data[-512:] = data[:512]


def mend_vhdx(data: bytearray) -> None:
    """Mend the sums in a VHDX."""
    for start, length in (
        (1 << 16, 4096),
        (2 << 16, 4096),
        (3 << 16, 1 << 16),
    ):
        struct.pack_into('<I', data, start + 4, 0)
        part = bytes(data[start : start + length])
        crc = hostile_patch.crc32c(0xFFFFFFFF, part) ^ 0xFFFFFFFF
        struct.pack_into('<I', data, start + 4, crc)


MEND = {'vpc': mend_vpc, 'vhdx': mend_vhdx}


class HeaderCase(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()

    def make(self, kind: str, *options: str) -> pathlib.Path:
        path = self.directory / f'{len(os.listdir(self.directory))}'
        argv = ['qemu-img', 'create', '-q', '-u', '-f', kind]
        for option in options:
            argv += ['-o', option]
        # A data file is made as well, wherever this runs.
        process.run([*argv, path, str(SIZE)], cwd=self.directory, access=None)
        return path

    def read(self, path: pathlib.Path, kind: str) -> qemu_image.Header:
        with path.open('rb') as file:
            return qemu_headers.read(file, kind, path.name)

    def change(
        self, path: pathlib.Path, kind: str, offset: int, new: bytes
    ) -> None:
        """Change a few bytes, and mend all sums over them."""
        data = bytearray(path.read_bytes())
        data[offset : offset + len(new)] = new
        MEND.get(kind, bytes)(data)
        path.write_bytes(data)

    def refused(self, path: pathlib.Path, kind: str, words: str) -> str:
        error = self.assertRaises(errors.SourceError, self.read, path, kind)
        self.assertIn(words, error.message)
        self.assertTrue(error.hint)
        self.assertNotIn('\n', str(error))
        return error.hint


class TestHeaders(HeaderCase):
    def test_sound(self) -> None:
        raw = self.directory / 'raw'
        raw.write_bytes(self.random.randbytes(3 << 20))
        os.truncate(raw, SIZE)
        for kind, choices in SOUND.items():
            for options in choices:
                empty = self.make(kind, *options)
                full = self.directory / 'full'
                argv = ['qemu-img', 'convert', '-f', 'raw', '-O', kind]
                for option in options:
                    argv += ['-o', option]
                process.run([*argv, raw, full], access=None)
                for path in (empty, full):
                    header = self.read(path, kind)
                    # A VHD has whole cylinders.
                    more = (64 << 10) if kind == 'vpc' else 0
                    self.assertTrue(SIZE <= header.size <= SIZE + more)
                    self.assertIsNone(header.backing)

    def test_sound_with_more_in_it(self) -> None:
        path = self.make('qcow2')
        process.run(['qemu-img', 'snapshot', '-c', 'one', path], access=None)
        process.run(['qemu-img', 'bitmap', '--add', path, 'two'], access=None)
        # It is dirty, and an extension is of the future.
        self.change(path, 'qcow2', 72, struct.pack('>Q', 1))
        extension = struct.pack('>II8s', 0x12345678, 5, b'vwxyz')
        names = path.read_bytes()[112:]
        self.change(path, 'qcow2', 112, extension + names[:1024])
        self.assertEqual(qemu_image.Header(SIZE), self.read(path, 'qcow2'))

    def test_backing(self) -> None:
        for kind, options, named in (
            ('qcow', (), None),
            ('qcow2', (), 'raw'),
            ('qcow2', ('compat=0.10',), 'raw'),
            ('qed', (), 'raw'),
        ):
            words = 'backing_file=below', 'backing_fmt=raw'
            path = self.make(kind, *words, *options)
            expected = qemu_image.Header(SIZE, b'below', named)
            self.assertEqual(expected, self.read(path, kind))
        path = self.make('qed', 'backing_file=x', 'backing_fmt=qcow2')
        expected = qemu_image.Header(SIZE, b'x')
        self.assertEqual(expected, self.read(path, 'qed'))

    def test_of_another_format(self) -> None:
        for kind in SOUND:
            for other in SOUND:
                if kind != other:
                    self.refused(self.make(kind), other, '')

    def test_cut_short(self) -> None:
        for kind in SOUND:
            path = self.make(kind)
            for size in (5000, 600, 512, 64, 8, 0):
                # A qcow image may be that small.
                if size < (49 if kind == 'qcow' else path.stat().st_size):
                    os.truncate(path, size)
                    self.refused(path, kind, '')

    def test_qcow(self) -> None:
        for offset, new, words in (
            (32, b'\x08', DAMAGED),
            (32, b'\x11', DAMAGED),
            (33, b'\x05', DAMAGED),
            (33, b'\x0e', DAMAGED),
            (24, struct.pack('>Q', 1), DAMAGED),
            (24, struct.pack('>Q', 1 << 60), DAMAGED),
            (36, struct.pack('>I', 1), 'an encrypted qcow image'),
            (40, struct.pack('>Q', 1 << 40), CUT),
            (8, struct.pack('>QI', 48, 0), DAMAGED),
            (8, struct.pack('>QI', 48, 1024), DAMAGED),
            (8, struct.pack('>QI', 1 << 40, 8), DAMAGED),
        ):
            path = self.make('qcow')
            self.change(path, 'qcow', offset, new)
            self.refused(path, 'qcow', words)

    def test_qcow2(self) -> None:
        for offset, new, words in (
            (4, struct.pack('>I', 1), 'not a qcow2 image of version 2 or 3'),
            (4, struct.pack('>I', 4), 'not a qcow2 image of version 2 or 3'),
            (20, struct.pack('>I', 8), DAMAGED),
            (20, struct.pack('>I', 22), DAMAGED),
            (24, struct.pack('>Q', 1 << 50), DAMAGED),
            (24, struct.pack('>Q', 1 << 40), DAMAGED),
            (32, struct.pack('>I', 1), 'an encrypted qcow2 image'),
            (32, struct.pack('>I', 2), 'an encrypted qcow2 image'),
            (36, struct.pack('>I', 1 << 30), DAMAGED),
            (40, struct.pack('>Q', 1 << 40), CUT),
            (40, struct.pack('>Q', 512), DAMAGED),
            (48, struct.pack('>Q', 1 << 40), CUT),
            (56, struct.pack('>I', 0), DAMAGED),
            (56, struct.pack('>I', 1 << 20), DAMAGED),
            (60, struct.pack('>IQ', 70000, 0), DAMAGED),
            (60, struct.pack('>IQ', 1, 1 << 40), CUT),
            (72, struct.pack('>Q', 1 << 2), ELSEWHERE),
            (72, struct.pack('>Q', 1 << 3), DAMAGED),
            (72, struct.pack('>Q', 1 << 5), 'not known: bit 5'),
            (72, struct.pack('>Q', 1 << 63), 'not known: bit 63'),
            (88, struct.pack('>Q', 1 << 1), ELSEWHERE),
            (96, struct.pack('>I', 7), DAMAGED),
            (100, struct.pack('>I', 100), DAMAGED),
            (100, struct.pack('>I', 108), DAMAGED),
            (100, struct.pack('>I', 1 << 20), DAMAGED),
            (104, b'\1', DAMAGED),
            (104, b'\2', DAMAGED),
            (112, struct.pack('>II', 0x44415441, 8), ELSEWHERE),
            (112, struct.pack('>II', 0x0537BE77, 16), 'an encrypted qcow2'),
            (112, struct.pack('>II', 0xE2792ACA, 16), DAMAGED),
            (112, struct.pack('>II', 0x12345678, 1 << 20), DAMAGED),
            (8, struct.pack('>QI', 1 << 20, 8), DAMAGED),
            (8, struct.pack('>QI', 50, 8), DAMAGED),
            (8, struct.pack('>QI', 65530, 8), DAMAGED),
            (8, struct.pack('>QI', 1024, 0), DAMAGED),
            (8, struct.pack('>QI', 1024, 1024), DAMAGED),
        ):
            path = self.make('qcow2')
            self.change(path, 'qcow2', offset, new)
            self.refused(path, 'qcow2', words)
        path = self.make('qcow2')
        self.change(path, 'qcow2', 72, struct.pack('>Q', 1 << 1))
        hint = self.refused(path, 'qcow2', 'it is marked as corrupt')
        self.assertIn('qemu-img check -r all', hint)

    def test_qed(self) -> None:
        for offset, new, words in (
            (4, struct.pack('<I', 2048), DAMAGED),
            (4, struct.pack('<I', 65537), DAMAGED),
            (8, struct.pack('<I', 0), DAMAGED),
            (8, struct.pack('<I', 3), DAMAGED),
            (12, struct.pack('<I', 1 << 30), CUT),
            (16, struct.pack('<Q', 8), DAMAGED),
            (16, struct.pack('<Q', 1 << 63), DAMAGED),
            (16, struct.pack('<Q', 1), DAMAGED),
            (40, struct.pack('<Q', 0), DAMAGED),
            (40, struct.pack('<Q', 512), DAMAGED),
            (40, struct.pack('<Q', 1 << 40), CUT),
            (48, struct.pack('<Q', 513), DAMAGED),
            (48, struct.pack('<Q', 1 << 60), DAMAGED),
        ):
            path = self.make('qed')
            self.change(path, 'qed', offset, new)
            self.refused(path, 'qed', words)

    def test_vdi(self) -> None:
        for offset, new, words in (
            (0x44, struct.pack('<I', 1), 'not a VDI image of version 1.1'),
            (0x48, struct.pack('<I', 512), DAMAGED),
            (0x4C, struct.pack('<I', 3), LAYER),
            (0x4C, struct.pack('<I', 4), LAYER),
            (0x154, struct.pack('<I', 100), DAMAGED),
            (0x154, struct.pack('<I', 1 << 30), CUT),
            (0x158, struct.pack('<I', 100), DAMAGED),
            (0x158, struct.pack('<I', 1 << 30), CUT),
            (0x168, struct.pack('<I', 4096), DAMAGED),
            (0x170, struct.pack('<Q', 0), DAMAGED),
            (0x170, struct.pack('<Q', 1 << 50), DAMAGED),
            (0x178, struct.pack('<I', 1 << 16), DAMAGED),
            (0x17C, struct.pack('<I', 1), DAMAGED),
            (0x180, struct.pack('<I', 1), DAMAGED),
            (0x184, struct.pack('<I', 1 << 20), DAMAGED),
            (0x1A8, b'\1', LAYER),
            (0x1B8, b'\1', LAYER),
        ):
            path = self.make('vdi')
            self.change(path, 'vdi', offset, new)
            self.refused(path, 'vdi', words)

    def test_vpc(self) -> None:
        for offset, new, words in (
            (12, struct.pack('>I', 1), DAMAGED),
            (16, struct.pack('>Q', 1 << 60), CUT),
            (48, struct.pack('>Q', 0), DAMAGED),
            (48, struct.pack('>Q', 1 << 60), DAMAGED),
            (48, struct.pack('>Q', 1 << 40), DAMAGED),
            (60, struct.pack('>I', 2), 'the two copies of its VHD header'),
            (60, struct.pack('>I', 4), LAYER),
            (60, struct.pack('>I', 5), DAMAGED),
            (512, b'cxsparsX', DAMAGED),
            (512 + 16, struct.pack('>Q', 1 << 60), CUT),
            (512 + 16, struct.pack('>Q', 100), DAMAGED),
            (512 + 24, struct.pack('>I', 2), DAMAGED),
            (512 + 28, struct.pack('>I', 1), DAMAGED),
            (512 + 32, struct.pack('>I', 0), DAMAGED),
            (512 + 32, struct.pack('>I', 3 << 20), DAMAGED),
            (512 + 40, b'\1', LAYER),
            (512 + 64, '/etc/shadow'.encode('utf-16-be'), LAYER),
            (512 + 576, b'W2ku', LAYER),
        ):
            path = self.make('vpc')
            self.change(path, 'vpc', offset, new)
            self.refused(path, 'vpc', words)
        for offset in (100, 512 + 900):
            # The sums are wrong.
            path = self.make('vpc')
            with path.open('r+b') as file:
                file.seek(offset)
                file.write(b'\1')
            self.refused(path, 'vpc', DAMAGED)
        path = self.make('vpc')
        os.truncate(path, path.stat().st_size - 512)
        self.refused(path, 'vpc', 'footer')

    def test_vpc_fixed(self) -> None:
        for offset, new in (
            (-512 + 60, struct.pack('>I', 3)),
            (-512 + 48, struct.pack('>Q', SIZE + (1 << 20))),
            (-512 + 64, struct.pack('>I', 0)),
        ):
            path = self.make('vpc', 'subformat=fixed')
            data = bytearray(path.read_bytes())
            place = len(data) + offset
            data[place : place + len(new)] = new
            if offset != -512 + 64:
                summed(data, len(data) - 512, 512, 64)
            path.write_bytes(data)
            self.refused(path, 'vpc', DAMAGED)

    def test_vhdx(self) -> None:
        regions, metadata, items = 3 << 16, 3 << 20, (3 << 20) + (1 << 16)
        unknown = b'x' * 16
        for offset, new, words in (
            (regions, b'rega', DAMAGED),
            (regions + 8, struct.pack('<I', 2048), DAMAGED),
            (regions + 8, struct.pack('<I', 1), DAMAGED),
            (regions + 16, unknown, DAMAGED),
            (regions + 16 + 16, struct.pack('<Q', 1 << 50), CUT),
            (regions + 16 + 16, struct.pack('<Q', 1000), DAMAGED),
            (metadata, b'metadatx', DAMAGED),
            (metadata + 10, struct.pack('<H', 4), DAMAGED),
            (metadata + 10, struct.pack('<H', 3000), DAMAGED),
            (metadata + 32, unknown, DAMAGED),
            (metadata + 32 + 16, struct.pack('<I', 0), DAMAGED),
            (metadata + 32 + 16, struct.pack('<I', 1 << 30), DAMAGED),
            (metadata + 32 + 20, struct.pack('<I', 4), DAMAGED),
            (items, struct.pack('<II', 1 << 20, 2), LAYER),
            (items, struct.pack('<II', 1 << 20, 4), DAMAGED),
            (items, struct.pack('<II', 3 << 20, 0), DAMAGED),
            (items, struct.pack('<II', 1 << 29, 0), DAMAGED),
            (items + 8, struct.pack('<Q', 0), DAMAGED),
            (items + 8, struct.pack('<Q', 1 << 60), DAMAGED),
            (items + 8, struct.pack('<Q', 1000), DAMAGED),
        ):
            path = self.make('vhdx', 'block_size=1M')
            self.change(path, 'vhdx', offset, new)
            self.refused(path, 'vhdx', words)
        path = self.make('vhdx')
        locator = qemu_headers._LOCATOR.bytes_le
        # Behind the last of the known ones.
        entry = struct.pack('<16sIIII', locator, 1 << 16, 20, 4, 0)
        self.change(path, 'vhdx', metadata + 32 + 5 * 32, entry)
        self.change(path, 'vhdx', metadata + 10, struct.pack('<H', 6))
        self.refused(path, 'vhdx', LAYER)

    def test_vhdx_header(self) -> None:
        """The newer of its two headers counts, if it is whole."""
        path = self.make('vhdx')
        with path.open('r+b') as file:
            file.seek((1 << 16) + 100)
            file.write(b'\1')
        self.assertEqual(SIZE, self.read(path, 'vhdx').size)
        with path.open('r+b') as file:
            file.seek((2 << 16) + 100)
            file.write(b'\1')
        self.refused(path, 'vhdx', DAMAGED)
        path = self.make('vhdx')
        # Of the older one nobody reads the log.
        self.change(path, 'vhdx', (1 << 16) + 48, b'\1' * 16)
        self.assertEqual(SIZE, self.read(path, 'vhdx').size)
        self.change(path, 'vhdx', (2 << 16) + 48, b'\1' * 16)
        hint = self.refused(path, 'vhdx', 'has a log to be replayed')
        self.assertIn('qemu-img check -r all', hint)


#: What the headers of images are changed to, besides what is random.
_NUMBERS = (b'\0' * 8, b'\1' + b'\0' * 7, b'\0' * 3 + b'\1', b'\xff' * 8)
_WORDS = (
    b'\n', b'\t', b' ', b'"', b'=', b'#', b'\0', b'\r', b'\x1b',
    b'RW 49152 FLAT "secret" 0\n', b'RW\t1\tFLAT\t"secret"\t0\t=\n',
    b'createType="monolithicFlat"\n', b'parentFileNameHint="secret"\n',
    b'parentCID=00000000\n', b'ddb.x = "y"\n',
)  # fmt: skip

#: Where the headers are, by format: offset and length.
_PLACES = {
    'qcow': ((0, 56),),
    'qcow2': ((0, 120), (0, 600)),
    'qed': ((0, 80),),
    'vdi': ((0x40, 20), (0x150, 0x78)),
    'vhdx': (
        (1 << 16, 80), (2 << 16, 80), (3 << 16, 80),
        (3 << 20, 200), ((3 << 20) + (1 << 16), 44),
    ),
    'vmdk': ((0, 80), (512, 500)),
    'vpc': ((0, 70), (512, 1024)),
}  # fmt: skip


class TestMutants(HeaderCase):
    """QEMU opens one file alone of each image that is taken.

    It is told of the format only, not that there are no other files.
    """

    def setUp(self) -> None:
        super().setUp()
        (self.directory / 'secret').write_bytes(b'secret' * 1024)

    def seeds(self, kind: str) -> list[pathlib.Path]:
        found = [self.make(kind)]
        if kind in ('qcow', 'qcow2', 'qed'):
            words = 'backing_file=secret', 'backing_fmt=raw'
            found.append(self.make(kind, *words))
        if kind == 'qcow2':
            found.append(self.make(kind, 'data_file=secret'))
        if kind == 'vmdk':
            # What QEMU takes for a parent.
            self.make(kind).rename(self.directory / 'secret')
            for word in _WORDS[-6:-1]:
                path = self.make(kind)
                data = path.read_bytes().replace(b'#DDB\n', word, 1)
                path.write_bytes(data[: path.stat().st_size])
                found.append(path)
        return found

    def mutate(self, rng: random.Random, kind: str, data: bytearray) -> None:
        size = len(data)
        for _ in range(rng.randrange(1, 4)):
            start, length = rng.choice(_PLACES[kind])
            place = start + rng.randrange(length)
            new = rng.choice((*_NUMBERS, rng.randbytes(1), rng.randbytes(4)))
            new = new[: rng.choice((1, 2, 4, 8))]
            if kind == 'vmdk' and start:
                new = rng.choice(_WORDS)
            data[place : place + len(new)] = new
        MEND.get(kind, bytes)(data)
        del data[size:]

    def opened(self, kind: str, paths: list[pathlib.Path]) -> list[str]:
        """Have QEMU open images, and tell what it opened for them."""
        commands: list[dict[str, object]] = [{'execute': 'qmp_capabilities'}]
        for path in paths:
            node = {'driver': kind, 'node-name': 'top', 'read-only': True}
            file = {'driver': 'file', 'filename': path.name}
            node['file'] = {**file, 'read-only': True}
            commands += [
                {'execute': 'blockdev-add', 'arguments': node},
                {'execute': 'query-named-block-nodes'},
                {'execute': 'blockdev-del', 'arguments': {'node-name': 'top'}},
            ]
        commands.append({'execute': 'quit'})
        result = process.run(
            [
                'qemu-storage-daemon',
                *('--chardev', 'stdio,id=it', '--monitor', 'chardev=it'),
            ],
            input='\n'.join(map(json.dumps, commands)).encode(),
            cwd=self.directory,
            access=None,
        )
        return result.text.splitlines()

    def check(self, kind: str) -> None:
        rng = self.random
        seeds = [path.read_bytes() for path in self.seeds(kind)]
        taken = []
        # QEMU follows no names in a VHDX, and its sums take long.
        for number in range(30 if kind == 'vhdx' else 200):
            data = bytearray(seeds[number % len(seeds)])
            self.mutate(rng, kind, data)
            path = self.directory / f'mutant{number}'
            path.write_bytes(data)
            try:
                header = self.read(path, kind)
            except errors.SourceError as error:
                self.assertNotIn('\n', str(error))
            else:
                if header.backing is None:
                    taken.append(path)
                    continue
            path.unlink()
        self.assertTrue(taken)
        answers = self.opened(kind, taken)
        self.assertGreater(len(answers), len(taken))
        for answer in answers:
            self.assertNotIn('secret', answer)

    def test_would_be_seen(self) -> None:
        for kind in ('qcow', 'qcow2', 'qed', 'vmdk'):
            seeds = self.seeds(kind)
            self.assertIn('secret', '\n'.join(self.opened(kind, seeds)))


def _checking(kind: str) -> Callable[[TestMutants], None]:
    return lambda self: self.check(kind)


for _kind in SOUND:
    setattr(TestMutants, f'test_{_kind}', _checking(_kind))
