# SPDX-License-Identifier: Apache-2.0

"""Payloads: what is read of a file, and what is not."""

import hashlib
import os
from unittest import mock

import fixtures

from amiclient import errors
from amiclient.glance import model
from amiclient.glance.transfer import image_data
from amiclient import progress
from amiclient.tests import base
from amiclient.tests.unit.glance import descriptors

MIB = 1 << 20


class ChunksTest(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.path = self.tmp() / 'image'

    def read(self, size: int, *, blank: int = 0, buffers: int = 1) -> bytes:
        wanted = model.Payload(self.path, size, blank)
        return b''.join(
            bytes(chunk)
            for chunk in image_data.chunks(wanted, buffers=buffers)
        )

    def test_everything_in_order(self) -> None:
        for size in (1, image_data.CHUNK, 3 * MIB + 5, 9 * MIB - 1):
            data = self.random.randbytes(size)
            self.path.write_bytes(data)
            self.assertEqual(data, self.read(size))
            self.assertEqual(data, self.read(size, buffers=3))

    def test_nothing_of_an_empty_file(self) -> None:
        self.path.write_bytes(b'')
        self.assertEqual(b'', self.read(0))

    def test_no_more_than_asked_for(self) -> None:
        data = self.random.randbytes(2 * MIB)
        self.path.write_bytes(data)
        self.assertEqual(data[: MIB + 1], self.read(MIB + 1))

    def test_blank_beginning(self) -> None:
        data = self.random.randbytes(2 * MIB)
        self.path.write_bytes(data)
        for blank in (1024, image_data.CHUNK + 7):
            self.assertEqual(
                bytes(blank) + data[blank:], self.read(2 * MIB, blank=blank)
            )

    def test_chunks_stay_valid_as_long_as_promised(self) -> None:
        data = self.random.randbytes(3 * image_data.CHUNK)
        self.path.write_bytes(data)
        chunks = image_data.chunks(
            model.Payload(self.path, len(data)), buffers=3
        )
        self.assertEqual(
            hashlib.sha512(data).digest(),
            hashlib.sha512(b''.join(list(chunks))).digest(),
        )

    def test_scattered_data(self) -> None:
        size = 24 * MIB
        expected = bytearray(size)
        with self.path.open('wb') as file:
            file.truncate(size)
            for _ in range(12):
                offset = self.random.randrange(size - 70_000)
                data = self.random.randbytes(self.random.randrange(1, 70_000))
                file.seek(offset)
                file.write(data)
                expected[offset : offset + len(data)] = data
        self.assertEqual(
            hashlib.sha512(expected).digest(),
            hashlib.sha512(self.read(size)).digest(),
        )

    def test_holes_are_not_read(self) -> None:
        size = 256 * MIB
        data = self.random.randbytes(MIB)
        with self.path.open('wb') as file:
            file.truncate(size)
            file.seek(100 * MIB)
            file.write(data)
        with mock.patch.object(os, 'preadv', wraps=os.preadv) as preadv:
            sha512 = image_data.digest(
                model.Payload(self.path, size), 'Hashing', progress.QUIET
            )
        asked = sum(len(c.args[1][0]) for c in preadv.call_args_list)
        self.assertLessEqual(asked, MIB + 2 * image_data.CHUNK)
        hasher = hashlib.sha512(bytes(100 * MIB))
        hasher.update(data)
        hasher.update(bytes(155 * MIB))
        self.assertEqual(hasher.hexdigest(), sha512)

    def test_holes_without_support(self) -> None:
        data = self.random.randbytes(MIB) + bytes(MIB)
        self.path.write_bytes(data)
        with mock.patch.object(os, 'lseek', side_effect=OSError(22, 'x')):
            self.assertEqual(data, self.read(2 * MIB))

    def test_too_short_from_the_start(self) -> None:
        self.path.write_bytes(bytes(10))
        error = self.assertRaises(errors.SourceError, self.read, 11)
        self.assertEqual(
            f'{self.path} has 10 bytes, 11 were expected', str(error)
        )

    def test_missing(self) -> None:
        error = self.assertRaises(errors.SourceError, self.read, 11)
        self.assertIn('No such file or directory', str(error))

    def cut(self, size: int, left: int) -> errors.AmiError:
        """Read a file that is cut short after the first chunk."""
        chunks = image_data.chunks(model.Payload(self.path, size))
        next(chunks)
        os.truncate(self.path, left)
        return self.assertRaises(errors.TransferError, list, chunks)

    def test_truncated_meanwhile(self) -> None:
        self.path.write_bytes(self.random.randbytes(4 * MIB))
        error = self.cut(4 * MIB, MIB + 100)
        self.assertIn(f'{self.path} was truncated', str(error))
        self.assertIn(str(MIB + 100), str(error))

    def test_changed_meanwhile(self) -> None:
        self.path.write_bytes(self.random.randbytes(4 * MIB))
        chunks = image_data.chunks(model.Payload(self.path, 4 * MIB))
        next(chunks)
        with self.path.open('r+b') as file:
            file.write(b'x')
        error = self.assertRaises(errors.TransferError, list, chunks)
        self.assertIn(f'{self.path} was changed while it was read', str(error))

    def test_truncated_meanwhile_in_a_hole(self) -> None:
        with self.path.open('wb') as file:
            file.write(b'x' * MIB)
            file.truncate(8 * MIB)
        error = self.cut(8 * MIB, 3 * MIB)
        self.assertIn(f'{self.path} was truncated', str(error))

    def test_unreadable_spot(self) -> None:
        self.path.write_bytes(self.random.randbytes(4 * MIB))
        spot = 2 * MIB + image_data.CHUNK

        def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
            if offset == spot:
                raise OSError(5, 'Input/output error')
            return real(fd, buffers, offset)

        real = os.preadv
        self.useFixture(fixtures.MockPatchObject(os, 'preadv', preadv))
        error = self.assertRaises(errors.TransferError, self.read, 4 * MIB)
        self.assertEqual(
            f'{self.path} cannot be read at byte {spot}: Input/output error',
            str(error),
        )

    def test_file_is_closed(self) -> None:
        self.path.write_bytes(self.random.randbytes(2 * MIB))
        chunks = image_data.chunks(model.Payload(self.path, 2 * MIB))
        next(chunks)
        self.assertEqual(1, self.opened())
        chunks.close()
        self.assertEqual(0, self.opened())

    def opened(self) -> int:
        """Tell how often it is open; what else is, goes at any time."""
        return descriptors.below(self.path.parent)
