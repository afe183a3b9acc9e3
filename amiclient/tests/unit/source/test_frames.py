# SPDX-License-Identifier: Apache-2.0

"""What a compressed file may have besides one frame or member of data."""

import bz2
from collections.abc import Callable
import gzip
import io
import lzma
import pathlib
import random
import struct

from amiclient import errors
from amiclient import process
from amiclient.source import frames
from amiclient.source import probe
from amiclient.source import streams
from amiclient.tests import base

DATA = random.Random(7).randbytes(700_000)
SKIPPED = b'\x53\x2a\x4d\x18\x04\0\0\0abcd'
LONG = b'\x50\x2a\x4d\x18' + struct.pack('<I', 70_000) + bytes(70_000)


def _by(*command: str) -> Callable[[bytes], bytes]:
    return lambda data: process.run(command, input=data, access=None).stdout


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    'gzip': lambda data: gzip.compress(data, 1),
    'xz': lambda data: lzma.compress(data, preset=0),
    'bzip2': lambda data: bz2.compress(data, 1),
    'zstd': _by('zstd', '-1', '-c', '-q'),
    'lz4': _by('lz4', '-1', '-c', '-q'),
}

_FRAMED = ('zstd', 'lz4')


class FrameCase(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.path = self.tmp() / 'data'

    def read(self, data: bytes) -> bytes:
        self.path.write_bytes(data)
        with streams.opened(self.path, wanted='it') as opened:
            return b''.join(iter(opened.read, b''))

    def refused(self, data: bytes) -> str:
        error = self.assertRaises(errors.SourceError, self.read, data)
        told = str(error)
        self.assertNotIn('\n', told)
        self.assertNotIn("b'", told)
        return told

    def head(self, data: bytes, limit: int) -> bytes:
        return streams.head(io.BytesIO(data), limit, name='it')


class TestSkippable(FrameCase):
    def test_anywhere(self) -> None:
        for kind in _FRAMED:
            one = COMPRESSIONS[kind](DATA)
            none = COMPRESSIONS[kind](b'')
            for first in (SKIPPED, LONG, SKIPPED * 100, none, LONG + none):
                whole = first + one + SKIPPED + one + LONG
                self.assertEqual(
                    kind, probe.compression_in(io.BytesIO(whole)), kind
                )
                self.assertEqual(DATA * 2, self.read(whole))
                self.assertEqual(DATA[:9000], self.head(whole, 9000))
                self.assertEqual(len(whole), frames.end(io.BytesIO(whole)))

    def test_pzstd(self) -> None:
        packed = _by('pzstd', '-c', '-q', '-p', '2')
        try:
            process.find('pzstd')
        except errors.ProgramError:
            self.skipTest('needs pzstd')
        self.path.with_name('plain').write_bytes(DATA)
        data = process.run(
            ['pzstd', '-q', '-c', self.path.with_name('plain')], access=None
        ).stdout
        self.assertIsNotNone(packed)
        self.assertTrue(frames.is_skippable(data))
        self.assertEqual('zstd', probe.compression(data[:16]))
        self.assertEqual(DATA, self.read(data))

    def test_small_frames(self) -> None:
        """A head is made of many, and still is not all."""
        for kind in _FRAMED:
            few = COMPRESSIONS[kind](DATA[:1000])
            self.assertEqual(
                (DATA[:1000] * 70)[:68_000], self.head(few * 100, 68_000)
            )

    def test_nothing_else(self) -> None:
        for rest in (b'', b'hello world, and more', SKIPPED[:5]):
            self.assertIsNone(probe.compression_in(io.BytesIO(SKIPPED + rest)))
        self.assertEqual(SKIPPED, self.read(SKIPPED))


class TestFollowed(FrameCase):
    def test_zeros(self) -> None:
        """A tape has them, or a block device."""
        for kind, pack in COMPRESSIONS.items():
            for count in (1, 512, 3 << 20):
                self.assertEqual(
                    DATA, self.read(pack(DATA) + bytes(count)), kind
                )

    def test_another(self) -> None:
        for kind in ('gzip', 'xz', 'bzip2'):
            packed = COMPRESSIONS[kind](DATA)
            for count in (0, 8, 3 << 20):
                data = packed + bytes(count) + packed
                self.assertEqual(DATA * 2, self.read(data), kind)

    def test_something_else(self) -> None:
        for kind, pack in COMPRESSIONS.items():
            for rest in (b'he', b'hello\n', bytes(512) + b'x' * 5000):
                told = self.refused(pack(DATA) + rest)
                self.assertIn(
                    f'{self.path}: something that is not {kind} follows the '
                    f'{kind}-compressed data; download or',
                    told,
                )

    def test_damage_is_told_first(self) -> None:
        for kind, pack in COMPRESSIONS.items():
            packed = bytearray(pack(DATA))
            packed[len(packed) // 2] ^= 0xFF
            for rest in (b'', bytes(512), b'hello'):
                told = self.refused(bytes(packed) + rest)
                self.assertIn('damaged or cut short', told, kind)

    def test_cut_short(self) -> None:
        for kind, pack in COMPRESSIONS.items():
            told = self.refused(pack(DATA)[:-5])
            self.assertIn('damaged or cut short', told, kind)


class TestWindow(FrameCase):
    """zstd --long has to keep in memory what it refers to."""

    def frame(self, exponent: int, *, last: bool = True) -> bytes:
        block = struct.pack('<I', 5 << 3 | last)[:3] + b'hello'
        return frames.ZSTD + bytes((0, exponent - 10 << 3)) + block

    def test_1_gib(self) -> None:
        self.assertEqual(b'hello', self.read(self.frame(30)))
        self.assertEqual(b'hello', self.head(self.frame(30), 5))
        plain: pathlib.Path = self.path.with_name('plain')
        plain.write_bytes(DATA)
        data = process.run(
            ['zstd', '-q', '-c', '--long=30', plain], access=None
        ).stdout
        self.assertEqual(DATA, self.read(data))

    def test_more(self) -> None:
        for first in (b'', SKIPPED):
            told = self.refused(first + self.frame(31))
            self.assertIn('it takes 2.0 GiB of memory to unpack', told)
            self.assertIn('no more than 1.0 GiB; unpack it with', told)
            self.assertRaises(
                errors.SourceError, self.head, first + self.frame(31), 5
            )
        # Nobody looks at the second one before.
        told = self.refused(self.frame(20) + self.frame(31))
        self.assertIn('it takes more memory to unpack', told)

    def test_single_segment(self) -> None:
        header = frames.ZSTD + bytes((0xE0,)) + struct.pack('<Q', 3 << 30)
        told = self.refused(header + b'\x01\0\0')
        self.assertIn('it takes 3.0 GiB of memory', told)
