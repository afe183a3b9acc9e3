# SPDX-License-Identifier: Apache-2.0

"""The databases of rpm."""

import dataclasses
import random
import sqlite3
import struct

from amiclient import process
from amiclient.rootfs import rpm
from amiclient.tests import base
from amiclient.tests.unit.rootfs import databases

_SPEC = """
Name: alpha
Epoch: 3
Version: 1.2~rc1
Release: 4.el9
Summary: s
License: x
BuildArch: noarch
%description
d
%package libs
Summary: t
%description libs
d
%files
%files libs
"""

#: Ways in which readers may say that something makes no sense.
_SENSELESS = (ValueError, IndexError, struct.error)

#: Some that are within a page, and some that are not.
_HEADERS = [
    databases.header('small', '1', epoch=2),
    *(
        databases.header(f'p{number}', '1', files=number * 1500)
        for number in range(40)
    ),
]


class TestReal(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.top = self.tmp()
        (self.top / 'spec').write_text(_SPEC)
        self.rpm('rpmbuild', '-bb', self.top / 'spec')
        self.rpm(
            *('rpm', '--install', '--justdb', '--nodeps', '--force-debian'),
            *sorted(self.top.rglob('*.rpm')),
        )

    def rpm(self, *argv) -> str:
        return process.run(
            [
                *argv,
                *('--define', f'_topdir {self.top}'),
                *('--define', f'_dbpath {self.top}/db'),
            ],
            access=None,
        ).text

    def told(self, *options) -> list[str]:
        shown = '%{name} %{evr} %{arch} %{sourcerpm}\\n'
        told = self.rpm('rpm', '-qa', '--queryformat', shown, *options)
        return sorted(told.splitlines())

    def assertTold(self, blobs, told: list[str]) -> None:
        found = [dataclasses.astuple(rpm.header(each)) for each in blobs]
        self.assertEqual(told, sorted(map(' '.join, found)))

    def test_sqlite(self) -> None:
        told = self.told()
        self.assertEqual(2, len(told))
        path = self.top / 'db/rpmdb.sqlite'
        self.assertTold(rpm.sqlite(path.read_bytes()), told)

    def test_berkeley(self) -> None:
        """Berkeley DB makes it, and rpm says what is in it."""
        told = self.told()
        database = sqlite3.connect(self.top / 'db/rpmdb.sqlite')
        rows = database.execute('SELECT hnum, blob FROM Packages').fetchall()
        database.close()
        rows += enumerate(_HEADERS, 9)
        lines = ['VERSION=3', 'format=bytevalue', 'type=hash']
        lines += ['db_pagesize=4096', 'HEADER=END', f' {"00" * 4}']
        lines.append(f' {struct.pack("<I", 99).hex()}')
        for number, blob in rows:
            lines += [f' {struct.pack("<I", number).hex()}', f' {blob.hex()}']
        dump = self.top / 'dump'
        dump.write_text('\n'.join([*lines, 'DATA=END', '']))
        path = self.top / 'old/Packages'
        path.parent.mkdir()
        process.run(['db5.3_load', '-f', dump, path], access=None)
        words = ('--dbpath', path.parent, '--define', '_db_backend bdb_ro')
        self.assertEqual(told, self.told(*words))
        # rpm wants more of headers than these have.
        blobs = list(rpm.berkeley(path.read_bytes()))
        own = [each for each in blobs if each in _HEADERS]
        self.assertEqual(sorted(_HEADERS), sorted(own))
        self.assertTold([each for each in blobs if each not in own], told)
        fuzz(self, rpm.berkeley, path.read_bytes())


def fuzz(case: base.TestCase, read, data: bytes) -> None:
    """Change some bytes again and again: it is read, or refused."""
    chance = random.Random(3)
    refused = 0
    for _ in range(200):
        changed = bytearray(data)
        for _ in range(chance.choice((1, 3, 30))):
            # Mostly where places and sizes are.
            place = chance.randrange(len(data)) & chance.choice((-1, -4096))
            place += chance.randrange(64)
            if place < len(data):
                changed[place] = chance.choice(
                    (0, 1, 255, chance.randrange(256))
                )
        try:
            found = [rpm.header(each) for each in read(bytes(changed))]
        except _SENSELESS:
            refused += 1
        else:
            case.assertLess(len(found), 500)
    case.assertGreater(refused, 20)


class TestMade(base.TestCase):
    def assertRead(self, blobs, wanted=None) -> None:
        self.assertEqual(
            sorted(_HEADERS if wanted is None else wanted), sorted(blobs)
        )

    def test_pages_of_sqlite(self) -> None:
        for page in (512, 4096, 65536):
            data, _ = databases.sqlite(_HEADERS, page=page)
            self.assertRead(rpm.sqlite(data))
            self.assertRead(rpm.sqlite(data, b''))

    def test_what_is_not_written_back(self) -> None:
        more = [databases.header('later', '2', files=9000)]
        data, wal = databases.sqlite(_HEADERS, more)
        self.assertRead(rpm.sqlite(data))
        self.assertRead(rpm.sqlite(data, wal), _HEADERS + more)
        # What is not complete is not committed.
        for cut in (wal[:-1], wal[:40], wal[:-9] + bytes(9), b'no wal' * 9):
            self.assertRead(rpm.sqlite(data, cut))
        # What is left over from before does not count.
        self.assertRead(rpm.sqlite(data, wal[:16] + bytes(16) + wal[32:]))

    def test_a_view(self) -> None:
        data, _ = databases.sqlite(_HEADERS)
        for table in (b'Packages', b'table'):
            renamed = data.replace(table, bytes(reversed(table)))
            error = self.assertRaises(ValueError, list, rpm.sqlite(renamed))
            self.assertIn('no table of packages', str(error))

    def test_ndb(self) -> None:
        self.assertRead(rpm.ndb(databases.ndb(_HEADERS)))
        self.assertRead(rpm.ndb(databases.ndb([])), [])

    def test_damage(self) -> None:
        fuzz(self, rpm.sqlite, databases.sqlite(_HEADERS)[0])
        fuzz(self, rpm.ndb, databases.ndb(_HEADERS[:20]))
        for data in (b'', bytes(5000), b'SQLite format 3\0', b'RpmP'):
            for read in rpm.DATABASES.values():
                self.assertRaises(_SENSELESS, list, read(data, None))

    def test_pages_that_go_round(self) -> None:
        data, _ = databases.sqlite(_HEADERS)
        # Each page that only goes on elsewhere goes on in itself.
        changed = bytearray(data)
        for number in range(2, len(data) // 4096):
            if changed[number * 4096] == 0:
                struct.pack_into('>I', changed, number * 4096, number + 1)
        error = self.assertRaises(ValueError, list, rpm.sqlite(bytes(changed)))
        self.assertIn('used twice', str(error))

    def test_more_pages_than_there_are(self) -> None:
        data, _ = databases.sqlite(_HEADERS)
        changed = bytearray(data)
        for start in range(4096, len(data), 4096):
            if changed[start] == 5:
                # All of its cells are one, and there are very many.
                struct.pack_into('>H', changed, start + 3, 2000)
                struct.pack_into('>2000H', changed, start + 12, *[30] * 2000)
        error = self.assertRaises(ValueError, list, rpm.sqlite(bytes(changed)))
        self.assertIn('more pages than there are', str(error))

    def test_headers(self) -> None:
        found = rpm.header(databases.header('xz', '5.4', '2.el9', epoch=0))
        self.assertEqual('5.4-2.el9', found.evr)
        good = databases.header('xz', '5.4')
        for bad in (good[:-1], good + b'\0', b'', bytes(8), good[:60]):
            self.assertRaises(_SENSELESS, rpm.header, bad)
        # A name that is a number; one that is beyond the end.
        for place, value in ((12, 4), (16, 1 << 20), (16, 0xFFFFFFFF)):
            bad = bytearray(good)
            struct.pack_into('>I', bad, place, value)
            self.assertRaises(_SENSELESS, rpm.header, bytes(bad))
