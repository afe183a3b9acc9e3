# SPDX-License-Identifier: Apache-2.0

"""Partition tables: those that programs make, and those that somebody made.

What sfdisk writes is read back; what nobody should write is refused.
"""

import pathlib
import struct

from amiclient import errors
from amiclient.source import block
from amiclient.source import partitions
from amiclient.tests import base
from amiclient.tests.disks import disks

MIB = disks.MIB


class TestPartitions(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.path = self.tmp() / 'disk'

    def read(self, path: pathlib.Path | None = None):
        with (path or self.path).open('rb') as file:
            return partitions.read(block.RawMedium(file, 'disk'))

    def refused(self) -> str:
        return str(self.assertRaises(errors.DamagedError, self.read))

    def places(self):
        table = self.read()
        assert table is not None
        return [(e.number, e.start, e.size) for e in table.entries]

    def patch(self, offset: int, data: bytes) -> None:
        with self.path.open('r+b') as file:
            file.seek(offset)
            file.write(data)

    def gpt(self, size: int) -> None:
        sectors = 32 * MIB // size
        first = MIB // size
        begin, end = disks.gpt(
            sectors,
            [
                (disks.ESP, first, 2 * first - 1),
                (disks.ROOT, 4 * first, 7 * first - 1),
            ],
            size,
        )
        with self.path.open('wb') as file:
            file.write(begin)
            file.truncate(32 * MIB - len(end))
            file.seek(0, 2)
            file.write(end)

    def test_gpt(self) -> None:
        parts = [disks.Part(4, type='U'), disks.Part(8), disks.Part(2)]
        disks.make(self.path, parts)
        table = self.read()
        self.assertEqual('gpt', table.kind)
        self.assertEqual(
            [(1, MIB, 4 * MIB), (2, 5 * MIB, 8 * MIB), (3, 13 * MIB, 2 * MIB)],
            self.places(),
        )
        self.assertEqual('EFI system', table.entries[0].type_name)
        self.assertEqual(disks.LINUX, table.entries[1].type)
        self.assertEqual((), table.notes)

    def test_gpt_with_either_size_of_sectors(self) -> None:
        for size in (512, 4096):
            self.gpt(size)
            self.assertEqual((1, MIB, MIB), self.places()[0], size)
            self.assertEqual((2, 4 * MIB, 3 * MIB), self.places()[1])
            table = self.read()
            self.assertEqual(disks.ROOT, table.entries[1].type)
            self.assertEqual(
                '00000000-0000-0000-0000-000000000002', table.entries[1].uuid
            )

    def test_gpt_whose_first_copy_is_damaged(self) -> None:
        for size in (512, 4096):
            # Header and entries are each under a checksum.
            for offset in (size + 40, 2 * size + 20):
                self.gpt(size)
                good = self.places()
                self.patch(offset, b'\xff')
                self.assertEqual(good, self.places())
                self.assertIn('damaged', self.read().notes[0])

    def test_gpt_without_its_protective_mbr(self) -> None:
        self.gpt(512)
        good = self.places()
        self.patch(0, bytes(512))
        self.assertEqual(good, self.places())
        self.assertIn('no protective MBR', self.read().notes[0])

    def test_gpt_both_of_whose_copies_are_damaged(self) -> None:
        self.gpt(512)
        self.patch(512 + 40, b'\xff')
        self.patch(32 * MIB - 512 + 40, b'\xff')
        self.assertIn('both copies', self.refused())

    def test_gpt_that_is_cut_short(self) -> None:
        self.gpt(512)
        with self.path.open('r+b') as file:
            file.truncate(3 * MIB)
        self.assertEqual([1, 2], [number for number, _, _ in self.places()])
        self.patch(512 + 40, b'\xff')
        self.assertIn('both copies', self.refused())

    def test_gpt_that_claims_much(self) -> None:
        """A table of 2**32 entries is not read into memory."""
        self.gpt(512)
        with self.path.open('rb') as file:
            header = bytearray(file.read(1024)[512:604])
        header[80:84] = b'\xff' * 4
        header[16:20] = bytes(4)
        struct.pack_into('<I', header, 16, partitions.zlib.crc32(header))
        self.patch(512, bytes(header))
        self.patch(32 * MIB - 512, bytes(512))
        self.assertIn('both copies', self.refused())

    def test_mbr(self) -> None:
        parts = [disks.Part(4, type='ef'), disks.Part(8), disks.Part(2)]
        disks.make(self.path, parts, label='dos')
        table = self.read()
        self.assertEqual('mbr', table.kind)
        self.assertEqual(
            [(1, MIB, 4 * MIB), (2, 5 * MIB, 8 * MIB), (3, 13 * MIB, 2 * MIB)],
            self.places(),
        )
        self.assertRegex(table.entries[1].uuid, '^[0-9a-f]{8}-02$')

    def extended(self) -> list[int]:
        """Make one with three logical partitions; tell their starts in MiB."""
        disks.make(
            self.path,
            [
                disks.Part(4),
                disks.Part(20, type='E'),
                disks.Part(3, logical=True),
                disks.Part(5, logical=True),
                disks.Part(4, logical=True),
            ],
            label='dos',
        )
        return [6, 10, 16]

    def test_extended(self) -> None:
        starts = self.extended()
        sizes = [3, 5, 4]
        self.assertEqual(
            [(1, MIB, 4 * MIB)]
            + [
                (number, start * MIB, size * MIB)
                for number, start, size in zip(
                    (5, 6, 7), starts, sizes, strict=True
                )
            ],
            self.places(),
        )

    def ebr(self, number: int) -> int:
        """Tell where the table before a logical partition is."""
        with self.path.open('rb') as file:
            data = file.read()
        found = [
            place
            for place in range(5 * MIB, 25 * MIB, 512)
            if data[place + 510 : place + 512] == b'\x55\xaa'
        ]
        return found[number]

    def test_extended_in_a_loop(self) -> None:
        self.extended()
        link = struct.pack('<B3xB3xII', 0, 5, 0, 100)
        self.patch(self.ebr(2) + 446 + 16, link)
        self.assertIn('no end', self.refused())

    def test_extended_that_leads_out_of_the_disk(self) -> None:
        self.extended()
        link = struct.pack('<B3xB3xII', 0, 5, 0xFFFFFFF0, 100)
        self.patch(self.ebr(1) + 446 + 16, link)
        self.assertIn('without a table', self.refused())

    def test_nothing(self) -> None:
        for content in (b'', bytes(MIB), b'x' * MIB, bytes(510) + b'\x55\xaa'):
            self.path.write_bytes(content)
            self.assertIsNone(self.read())

    def table(self) -> bytes:
        """Make a sector that may be a partition table."""
        return (
            bytes(446)
            + b''.join(
                struct.pack(
                    '<B3xB3xII',
                    self.random.choice((0, 0x80)),
                    self.random.choice((0, 5, 0x83, 0x0F)),
                    self.random.randrange(12),
                    self.random.choice((0, 1, 9, 0xFFFFFFFF)),
                )
                for _ in range(4)
            )
            + b'\x55\xaa'
        )

    def test_random_tables(self) -> None:
        """They lead to each other; each way through them has an end."""
        told = set()
        for _ in range(200):
            self.path.write_bytes(b''.join(self.table() for _ in range(12)))
            try:
                table = self.read()
            except errors.DamagedError as error:
                told.add(str(error))
            else:
                told.add('table' if table else 'none')
                if table is not None:
                    # A chain visits no sector twice.
                    self.assertLessEqual(len(table.entries), 4 * 4 * 12)
        self.assertGreaterEqual(len(told), 3, told)
