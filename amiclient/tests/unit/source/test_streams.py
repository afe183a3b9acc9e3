# SPDX-License-Identifier: Apache-2.0

import bz2
import gzip
import importlib
import io
import lzma
import os
import pathlib
import subprocess
from unittest import mock
import zlib

from amiclient import distribution
from amiclient import errors
from amiclient import process
from amiclient.source import probe
from amiclient.source import streams
from amiclient.tests import base

_MIB = 1024 * 1024


def pack(kind: str, data: bytes) -> bytes:
    """Compress with the real thing."""
    if kind == 'gzip':
        return gzip.compress(data)
    if kind == 'bzip2':
        return bz2.compress(data)
    if kind == 'xz':
        # Linux does not know the check that is usual.
        return lzma.compress(data, check=lzma.CHECK_CRC32)
    if kind == 'lzma':
        return lzma.compress(data, lzma.FORMAT_ALONE)
    argv = {
        'zstd': ['zstd'],
        'lz4': ['lz4', '-B4'],
        'lz4-7': ['lz4', '-B7', '--content-size', '-BX'],
        'lz4-legacy': ['lz4', '-l'],
    }[kind]
    return subprocess.run(
        [*argv, '-q', '-c'], input=data, capture_output=True, check=True
    ).stdout


KINDS = (
    'gzip', 'bzip2', 'xz', 'lzma', 'zstd', 'lz4', 'lz4-7', 'lz4-legacy',
)  # fmt: skip


class TestCompression(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        # A megabyte and a half: half of it noise, half of it text.
        self.data = b''.join(
            self.random.randbytes(5000) + b'some text ' * 500
            for _ in range(150)
        )

    def head(self, data: bytes, limit: int, offset: int = 0) -> bytes:
        return streams.head(io.BytesIO(data), limit, name='f', offset=offset)

    def test_kinds_are_told(self) -> None:
        for kind in KINDS:
            packed = pack(kind, self.data)
            self.assertEqual(
                kind.partition('-')[0], probe.compression(packed[:16]), kind
            )
        self.assertEqual('bzip2', probe.compression(pack('bzip2', b'')))
        self.assertEqual('gzip', probe.compression(pack('gzip', b'')))

    def test_other_data_are_not_taken_for_compressed(self) -> None:
        for data in (b'', b'\x1f', b'BZh', b'BZhello world, how are you',
                     b'\x5d\x00\x00', b'\x5d' + bytes(30),
                     b'] is where a list ends, as you know', bytes(64),
                     b'\x7fELF\x02\x01\x01' + bytes(9)):  # fmt: skip
            self.assertIsNone(probe.compression(data), data)

    def test_heads_are_what_was_packed(self) -> None:
        for kind in KINDS:
            packed = pack(kind, self.data)
            for limit in (1, 100_000, 700_000):
                found = self.head(packed, limit)
                self.assertEqual(self.data[: len(found)], found, kind)
                self.assertGreaterEqual(len(found), min(limit, 65536), kind)
                self.assertLessEqual(len(found), limit, kind)

    def test_small_data_come_whole(self) -> None:
        for kind in KINDS:
            self.assertEqual(
                b'hello', self.head(pack(kind, b'hello'), 9999), kind
            )

    def test_offset_and_trailing_garbage(self) -> None:
        garbage = self.random.randbytes(9999)
        for kind in KINDS:
            packed = garbage + pack(kind, self.data[:99_999]) + garbage
            found = self.head(packed, 50_000, len(garbage))
            self.assertEqual(self.data[:50_000], found, kind)

    def test_cut_short(self) -> None:
        for kind in KINDS:
            if kind in ('lz4-7', 'lz4-legacy'):
                # One block holds it all.
                continue
            packed = pack(kind, self.data)
            found = self.head(packed[: len(packed) * 2 // 3], 100_000)
            self.assertGreaterEqual(len(found), 65536, kind)
            self.assertEqual(self.data[: len(found)], found, kind)

    def test_members_are_concatenated(self) -> None:
        for kind in ('gzip', 'bzip2', 'xz'):
            packed = pack(kind, b'') + pack(kind, b'ab') + pack(kind, b'cd')
            self.assertEqual(b'abcd', self.head(packed, 99), kind)

    def test_endless_empty_members_end(self) -> None:
        packed = pack('gzip', b'') * 50_000
        self.assertEqual(b'', self.head(packed, _MIB))

    def test_damaged_data_are_refused(self) -> None:
        # Where the first block begins. lzma takes nearly everything.
        starts = {
            'gzip': 10, 'bzip2': 14, 'xz': 12, 'zstd': 6, 'lz4': 7,
            'lz4-legacy': 4,
        }  # fmt: skip
        for kind, start in starts.items():
            packed = bytearray(pack(kind, self.data[:200_000]))
            packed[start:9000] = b'\xff' * (9000 - start)
            error = self.assertRaises(
                errors.SourceError, self.head, bytes(packed), 999
            )
            self.assertTrue(
                str(error).startswith(
                    f'f: damaged {kind.partition("-")[0]} data'
                ),
                error,
            )

    def test_unknown_data_are_refused(self) -> None:
        error = self.assertRaises(
            errors.SourceError, self.head, b'hello' * 9, 999
        )
        self.assertEqual('f: not compressed', str(error))
        error = self.assertRaises(
            errors.SourceError,
            self.head, b'\x89LZO\x00\r\n\x1a\n' + bytes(99), 999,
        )  # fmt: skip
        self.assertIn('lzop', str(error))

    def test_bombs_are_bounded(self) -> None:
        """What is far larger inside is not unpacked, by nobody."""
        bomb = bytes(64 * _MIB)
        for kind in ('gzip', 'bzip2', 'zstd', 'lz4', 'lz4-legacy'):
            packed = pack(kind, bomb)
            with mock.patch.object(
                process, 'run', side_effect=process.run, autospec=True
            ) as run:
                found = self.head(packed, _MIB)
            self.assertEqual(bytes(_MIB), found, kind)
            for call in run.mock_calls:
                given = call.kwargs['input']
                whole = subprocess.run(
                    call.args[0], input=given, capture_output=True
                ).stdout
                self.assertLessEqual(len(whole), 8 * _MIB, kind)

    def test_pieces_are_small(self) -> None:
        packed = pack('gzip', bytes(5 * _MIB))
        pieces = list(streams.chunks(io.BytesIO(packed), 4 * _MIB, name='f'))
        self.assertEqual(4 * _MIB, sum(map(len, pieces)))
        self.assertLessEqual(max(map(len, pieces)), _MIB)

    def test_xz_that_wants_too_much_memory(self) -> None:
        filters = [{'id': lzma.FILTER_LZMA2, 'dict_size': 16 * _MIB}]
        packed = bytearray(lzma.compress(b'hello' * 99, filters=filters))
        # The dictionary's size is said in the block header, behind the id
        # of the filter and the length of its properties: 4 GiB - 1 now.
        place = packed.index(b'\x21\x01', 12) + 2
        packed[place] = 40
        end = 12 + (packed[12] + 1) * 4
        packed[end - 4 : end] = zlib.crc32(packed[12 : end - 4]).to_bytes(
            4, 'little'
        )
        error = self.assertRaises(
            errors.SourceError, self.head, bytes(packed), 99
        )
        self.assertIn('Memory usage limit', str(error))

    def test_without_programs_and_modules(self) -> None:
        """The error says what to install."""
        packed = {kind: pack(kind, b'hello') for kind in ('zstd', 'lz4')}
        self.useFixture(NoPrograms())
        for kind, data in packed.items():
            with mock.patch.dict(
                'sys.modules',
                {'backports.zstd': None, 'compression.zstd': None,
                 'lz4.frame': None},
            ):  # fmt: skip
                error = self.assertRaises(
                    errors.ProgramError, self.head, data, 99
                )
            self.assertEqual(
                f'f: {kind} is needed to read it; {distribution.remedy(kind)}',
                str(error),
            )

    def test_with_modules_only(self) -> None:
        """Programs are not needed where the modules are."""
        packed = {kind: pack(kind, self.data) for kind in KINDS[4:]}
        self.useFixture(NoPrograms())
        for kind, data in packed.items():
            try:
                found = self.head(data, 100_000)
            except errors.ProgramError as error:
                # Neither is installed here: then that is what it says.
                self.assertIn('is needed', str(error))
            else:
                self.assertEqual(self.data[: len(found)], found, kind)
                self.assertGreaterEqual(len(found), 65536, kind)


class TestStream(base.TestCase):
    def test_changed_meanwhile(self) -> None:
        for pack in (gzip.compress, lzma.compress, bytes):
            path = self.tmp() / 'archive'
            path.write_bytes(pack(b'files' * 1000))

            def read(path: pathlib.Path = path) -> None:
                with streams.opened(path, wanted='an archive') as stream:
                    while stream.read():
                        pass
                    with path.open('r+b') as file:
                        file.write(path.read_bytes()[:9])

            error = self.assertRaises(errors.BusyError, read)
            self.assertIn(f'{path} was changed', str(error))


class NoPrograms(base.fixtures.Fixture):
    """None of the programs can be found."""

    def _setUp(self) -> None:
        self.useFixture(
            base.fixtures.MockPatchObject(process, '_SBIN', (os.devnull,))
        )
        self.useFixture(base.fixtures.EnvironmentVariable('PATH', os.devnull))


class NoModules(base.fixtures.Fixture):
    """The packages that decompress zstd and lz4 are not there."""

    def _setUp(self) -> None:
        patch = mock.patch.dict(
            'sys.modules',
            {'backports.zstd': None, 'compression.zstd': None,
             'lz4.frame': None},
        )  # fmt: skip
        patch.start()
        self.addCleanup(patch.stop)


class TestModules(base.TestCase):
    """The packages do what the programs do, and need none of these."""

    def setUp(self) -> None:
        super().setUp()
        self.path = self.tmp() / 'f'

    def packed(self, kind: str, data: bytes) -> bytes:
        name = {'zstd': 'backports.zstd', 'lz4': 'lz4.frame'}[kind]
        try:
            module = importlib.import_module(name)
        except ImportError:
            self.skipTest(f'{name} is not installed')
        # The programs add a checksum unasked.
        if kind == 'lz4':
            return module.compress(data, content_checksum=True)
        checksum = {module.CompressionParameter.checksum_flag: 1}
        return module.compress(data, options=checksum)

    def read(self, data: bytes) -> bytes:
        self.path.write_bytes(data)
        self.useFixture(NoPrograms())
        found = b''
        with streams.opened(self.path, wanted='it') as stream:
            while piece := stream.read(100_000):
                self.assertLessEqual(len(piece), 100_000)
                found += piece
        return found

    def check(self, kind: str) -> None:
        data = self.random.randbytes(1000) * 5000
        packed = self.packed(kind, data)
        skippable = b'\x50\x2a\x4d\x18\x04\0\0\0abcd'
        for whole, times in (
            (packed, 1),
            (packed + skippable + packed, 2),
            (skippable + packed + bytes(999), 1),
        ):
            same = data * times == self.read(whole)
            self.assertTrue(same)
        for bad, why in (
            (packed[:-9], 'cut short'),
            (packed + b'something else', f'is not {kind} follows'),
            (packed[:20] + bytes(500) + packed[520:], 'damaged'),
        ):
            error = self.assertRaises(errors.SourceError, self.read, bad)
            self.assertIn(why, str(error))

    def test_zstd(self) -> None:
        self.check('zstd')

    def test_lz4(self) -> None:
        self.check('lz4')

    def test_bombs(self) -> None:
        for kind in ('zstd', 'lz4'):
            file = io.BytesIO(self.packed(kind, bytes(64 * _MIB)))
            self.assertEqual(bytes(9), streams.head(file, 9, name='f'), kind)
