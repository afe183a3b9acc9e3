# SPDX-License-Identifier: Apache-2.0

"""Package databases, made of what a test writes."""

from collections.abc import Iterable
import contextlib
import pathlib
import sqlite3
import struct
import tempfile
import zlib

#: As rpm makes its table (lib/backend/sqlite.c), and what tells of files.
_SCHEMA = """
CREATE TABLE 'Name' (key 'TEXT' NOT NULL, hnum INTEGER NOT NULL);
CREATE TABLE 'Packages' (hnum INTEGER PRIMARY KEY AUTOINCREMENT,
                         blob BLOB NOT NULL);
"""


def dpkg(*packages: tuple[str, str], source: str = '') -> bytes:
    """Make ``/var/lib/dpkg/status``.

    :param packages: names and versions.
    :param source: of all of them, with its version if that is another.
    """
    more = f'Source: {source}\n' if source else ''
    return ''.join(
        f'Package: {name}\nStatus: install ok installed\n'
        f'Architecture: amd64\n{more}Version: {version}\n'
        f'Description: {name}\n more: of it\n .\n and more\n\n'
        for name, version in packages
    ).encode()


def apk(*packages: tuple[str, str], origin: str = '') -> bytes:
    """Make ``/lib/apk/db/installed``."""
    return ''.join(
        f'C:Q1eVpkasfqZAukAXFYbgwt4xAMZWU=\nP:{name}\nV:{version}\n'
        f'A:x86_64\no:{origin or name}\nF:bin\nR:{name}\na:0:0:755\n\n'
        for name, version in packages
    ).encode()


def header(
    name: str,
    version: str,
    release: str = '1',
    *,
    epoch: int | None = None,
    source: str = '',
    files: int = 0,
) -> bytes:
    """Make a header of rpm.

    :param files: bytes that its list of files has.
    """
    texts = {
        1000: name,
        1001: version,
        1002: release,
        1022: 'x86_64',
        1044: source or f'{name}-{version}-{release}.src.rpm',
        1118: 'f' * files,
    }
    data, entries = b'', b''
    for tag, text in texts.items():
        entries += struct.pack('>IIII', tag, 6, len(data), 1)
        data += text.encode() + b'\0'
    if epoch is not None:
        data += bytes(-len(data) % 4)
        entries += struct.pack('>IIII', 1003, 4, len(data), 1)
        data += struct.pack('>I', epoch)
    return struct.pack('>II', len(entries) // 16, len(data)) + entries + data


def sqlite(
    headers: Iterable[bytes], later: Iterable[bytes] = (), page: int = 4096
) -> tuple[bytes, bytes]:
    """Make ``rpmdb.sqlite`` and ``rpmdb.sqlite-wal``.

    :param later: headers that are in the second alone.
    """
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, 'rpmdb.sqlite')
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute(f'PRAGMA page_size = {page}')
            database.execute('PRAGMA journal_mode = WAL')
            database.executescript(_SCHEMA)
            insert = 'INSERT INTO Packages (blob) VALUES (?)'
            for each in headers:
                database.execute('INSERT INTO Name VALUES ("n", 1)')
                database.execute(insert, [each])
            database.commit()
            database.execute('PRAGMA wal_checkpoint(TRUNCATE)')
            database.executemany(insert, ([each] for each in later))
            database.commit()
            wal = path.with_name('rpmdb.sqlite-wal')
            return path.read_bytes(), wal.read_bytes()


def ndb(headers: Iterable[bytes]) -> bytes:
    """Make ``Packages.db``."""
    slots, blobs = b'', b''
    for number, each in enumerate(headers, 1):
        count = -(-(len(each) + 28) // 16)
        place = (4096 + len(blobs)) // 16
        slots += struct.pack('<4sIII', b'Slot', number, place, count)
        head = struct.pack('<4sIII', b'BlbS', number, 1, len(each)) + each
        head += bytes(count * 16 - 12 - len(head))
        blobs += head + struct.pack(
            '<II4s', zlib.adler32(head), len(each), b'BlbE'
        )
    begin = struct.pack('<4sIII16x', b'RpmP', 0, 1, 1) + slots
    empty = struct.pack('<4s12x', b'Slot')
    return begin + empty * ((4096 - len(begin)) // 16) + blobs
