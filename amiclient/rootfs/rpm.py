# SPDX-License-Identifier: Apache-2.0

"""What rpm has recorded of the packages in a root filesystem.

For each package there is a header, in a database of one of three kinds. All
of it may be made to do harm: so neither SQLite nor rpm gets to see it. Only
what leads to the headers is read here, and nothing twice.

Each function raises :class:`ValueError`, :class:`IndexError` or
:class:`struct.error` if what it reads makes no sense.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import struct

#: Index entry of a header: tag, type, place and count (lib/header.c).
_ENTRY = struct.Struct('>IIiI')
_STRING, _INT32 = 6, 4
_NAME, _VERSION, _RELEASE, _EPOCH, _ARCH, _SOURCE = (
    1000, 1001, 1002, 1003, 1022, 1044,
)  # fmt: skip

#: "Database File Format" and "WAL-mode File Format" of SQLite's documentation.
_SQLITE = b'SQLite format 3\0'
_TABLE_NODE, _TABLE_LEAF = 5, 13
#: Bytes of values other than texts and blobs, by their serial types.
_SIZES = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0, 0, 0)
_WAL_HEADER, _WAL_FRAME = 32, 24
_WAL_MAGIC = {0x377F0682: '<', 0x377F0683: '>'}

#: Slots and blobs of ndb (lib/backend/ndb/rpmpkg.c).
_NDB_PAGE, _NDB_BLOCK = 4096, 16
_NDB_HEADER = struct.Struct('<4sIII')
_NDB_SLOT = _NDB_BLOB = struct.Struct('<4sIII')
_NDB_TAIL = struct.Struct('<II4s')

#: Pages of Berkeley DB: hash tables, and what goes on elsewhere (dbinc/hash.h,
#: dbinc/db_page.h).
_BDB_MAGIC, _BDB_HEADER = 0x061561, 26
_BDB_HASHES, _BDB_OVERFLOW = (2, 13), 7
_BDB_HERE, _BDB_ELSEWHERE = 1, 3


@dataclasses.dataclass(frozen=True)
class RpmHeader:
    """What a header says.

    :param evr: epoch, unless it is 0, version and release.
    :param source: the file name of the source package.
    """

    name: str
    evr: str
    architecture: str | None
    source: str | None


def header(blob: bytes) -> RpmHeader:
    """Read a header as it is stored."""
    count, size = struct.unpack_from('>II', blob)
    start = 8 + count * _ENTRY.size
    if start + size != len(blob):
        raise ValueError('a header has another size than it says')
    texts: dict[int, str] = {}
    epoch = 0
    for tag, kind, place, _ in _ENTRY.iter_unpack(blob[8:start]):
        if tag in (_NAME, _VERSION, _RELEASE, _ARCH, _SOURCE):
            end = blob.find(b'\0', start + max(place, 0))
            if kind != _STRING or place < 0 or end < 0:
                raise ValueError(f'tag {tag} of a header is no text')
            texts[tag] = blob[start + place : end].decode('utf-8', 'replace')
        elif tag == _EPOCH and kind == _INT32 and place >= 0:
            (epoch,) = struct.unpack_from('>I', blob, start + place)
    if not texts.keys() >= {_NAME, _VERSION, _RELEASE}:
        raise ValueError('a header without a name or a version')
    return RpmHeader(
        texts[_NAME],
        f'{f"{epoch}:" if epoch else ""}{texts[_VERSION]}-{texts[_RELEASE]}',
        texts.get(_ARCH),
        texts.get(_SOURCE),
    )


def sqlite(data: bytes, wal: bytes | None = None) -> Iterator[bytes]:
    """Read the headers in ``rpmdb.sqlite``.

    :param wal: what is in ``rpmdb.sqlite-wal``, if there is one.
    """
    file = _Sqlite(data, wal or b'')
    for kind, name, _, root, _ in file.rows(1, 5):
        if (kind, name) == (b'table', b'Packages'):
            for _, blob in file.rows(int.from_bytes(root, 'big'), 2):
                yield blob
            return
    raise ValueError('it has no table of packages')


class _Sqlite:
    """The tables of an SQLite database."""

    def __init__(self, data: bytes, wal: bytes) -> None:
        if data[: len(_SQLITE)] != _SQLITE:
            raise ValueError('it does not begin as SQLite does')
        (size,) = struct.unpack_from('>H', data, 16)
        self._size = 65536 if size == 1 else size
        if self._size < 512 or self._size & (self._size - 1):
            raise ValueError('its pages have an impossible size')
        self._data = data
        self._newer = dict(_committed(wal, self._size))
        self._usable = self._size - self._page(1)[20]
        self._used: set[int] = set()

    def rows(self, root: int, columns: int) -> Iterator[list[bytes]]:
        """Read a table.

        :returns: texts, blobs and integers as they are stored.
        """
        todo = [root]
        while todo:
            number = todo.pop()
            page, at = self._next(number), 100 if number == 1 else 0
            kind, count = page[at], struct.unpack_from('>H', page, at + 3)[0]
            if kind not in (_TABLE_NODE, _TABLE_LEAF):
                raise ValueError(f'page {number} is not one of a table')
            first = at + (8 if kind == _TABLE_LEAF else 12)
            cells = struct.unpack_from(f'>{count}H', page, first)
            if kind == _TABLE_LEAF:
                for cell in cells:
                    yield _values(self._payload(page, cell), columns)
                continue
            for cell in (at + 8, *reversed(cells)):
                todo += struct.unpack_from('>I', page, cell)
            if len(todo) > len(self._data) // self._size + len(self._newer):
                raise ValueError('it leads to more pages than there are')

    def _payload(self, page: bytes, at: int) -> bytes:
        size, at = _varint(page, at)
        _, at = _varint(page, at)
        local = most = self._usable - 35
        if size > most:
            least = (self._usable - 12) * 32 // 255 - 23
            local = least + (size - least) % (self._usable - 4)
            local = local if local <= most else least
        local = min(local, size)
        pieces, left = [page[at : at + local]], size - local
        if left:
            (number,) = struct.unpack_from('>I', page, at + local)
        while left:
            page = self._next(number)
            pieces.append(page[4 : min(4 + left, self._usable)])
            left -= len(pieces[-1])
            (number,) = struct.unpack_from('>I', page)
        return b''.join(pieces)

    def _next(self, number: int) -> bytes:
        # Then nothing goes round in circles.
        if number in self._used:
            raise ValueError(f'page {number} is used twice')
        self._used.add(number)
        return self._page(number)

    def _page(self, number: int) -> bytes:
        start = (number - 1) * self._size
        page = self._newer.get(number, self._data[start : start + self._size])
        if number < 1 or len(page) < self._size:
            raise ValueError(f'there is no page {number}')
        return page


def _values(record: bytes, columns: int) -> list[bytes]:
    """Take the values out of a row."""
    end, at = _varint(record, 0)
    place, found = end, list[bytes]()
    while at < end and len(found) < columns:
        kind, at = _varint(record, at)
        size = _SIZES[kind] if kind < 12 else (kind - 12) // 2
        found.append(record[place : place + size])
        place += size
        if place > len(record):
            raise ValueError('a row is longer than it can be')
    if len(found) < columns:
        raise ValueError('a row has too few columns')
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for position in range(at, at + 8):
        value = value << 7 | data[position] & 0x7F
        if data[position] < 0x80:
            return value, position + 1
    return value << 8 | data[at + 8], at + 9


def _committed(wal: bytes, size: int) -> Iterator[tuple[int, bytes]]:
    """Read the pages that were changed, and not written back yet.

    What follows the last commit, or is left over from before, does not count.
    """
    if len(wal) < _WAL_HEADER:
        return
    magic, _, page_size = struct.unpack_from('>III', wal)
    order = _WAL_MAGIC.get(magic)
    if order is None or page_size != size:
        return
    found: list[tuple[int, bytes]] = []
    state = _checksum(order, wal[:24], (0, 0))
    start = _WAL_HEADER
    while start + _WAL_FRAME + size <= len(wal) and (
        wal[start + 8 : start + 16] == wal[16:24]
    ):
        number, commit = struct.unpack_from('>II', wal, start)
        page = wal[start + _WAL_FRAME : start + _WAL_FRAME + size]
        state = _checksum(order, wal[start : start + 8] + page, state)
        if state != struct.unpack_from('>II', wal, start + 16):
            return
        found.append((number, page))
        if commit:
            yield from found
            found.clear()
        start += _WAL_FRAME + size


def _checksum(
    order: str, data: bytes, state: tuple[int, int]
) -> tuple[int, int]:
    first, second = state
    for one, other in struct.iter_unpack(f'{order}II', data):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return first, second


def ndb(data: bytes, _: bytes | None = None) -> Iterator[bytes]:
    """Read the headers in ``Packages.db``, as openSUSE has them."""
    magic, version, _, pages = _NDB_HEADER.unpack_from(data)
    if (magic, version) != (b'RpmP', 0):
        raise ValueError('it does not begin as ndb does')
    # The header has the size of two slots.
    slots = data[2 * _NDB_SLOT.size : pages * _NDB_PAGE]
    if len(slots) != pages * _NDB_PAGE - 2 * _NDB_SLOT.size:
        raise ValueError('it ends before its slots do')
    for sign, number, block, count in _NDB_SLOT.iter_unpack(slots):
        if sign != b'Slot':
            raise ValueError('one of its slots makes no sense')
        if not block:
            continue
        start = block * _NDB_BLOCK
        place = start + count * _NDB_BLOCK - _NDB_TAIL.size
        head, owner, _, size = _NDB_BLOB.unpack_from(data, start)
        _, again, tail = _NDB_TAIL.unpack_from(data, place)
        start += _NDB_BLOB.size
        if (
            (head, owner, tail) != (b'BlbS', number, b'BlbE')
            or size != again
            or start + size > place
        ):
            raise ValueError(f'package {number} makes no sense')
        yield data[start : start + size]


def berkeley(data: bytes, _: bytes | None = None) -> Iterator[bytes]:
    """Read the headers in ``Packages``, as rpm 4.15 and older has them."""
    order = '<' if data[12:16] == _BDB_MAGIC.to_bytes(4, 'little') else '>'
    magic, _, size = struct.unpack_from(f'{order}III', data, 12)
    if magic != _BDB_MAGIC or size < 512 or size & (size - 1):
        raise ValueError('it does not begin as Berkeley DB does')
    used: set[int] = set()

    def elsewhere(number: int, left: int) -> bytes:
        pieces = []
        while left:
            page = data[number * size : (number + 1) * size]
            if number in used or page[25] != _BDB_OVERFLOW:
                raise ValueError(f'page {number} is not what it should be')
            used.add(number)
            after, _, length = struct.unpack_from(f'{order}IHH', page, 16)
            pieces.append(page[_BDB_HEADER : _BDB_HEADER + length])
            if not 0 < len(pieces[-1]) <= left:
                raise ValueError(f'page {number} has an impossible length')
            number, left = after, left - len(pieces[-1])
        return b''.join(pieces)

    for start in range(size, len(data) - size + 1, size):
        page = data[start : start + size]
        if page[25] not in _BDB_HASHES:
            continue
        (count,) = struct.unpack_from(f'{order}H', page, 20)
        places = struct.unpack_from(f'{order}{count}H', page, _BDB_HEADER)
        # Keys and values take turns, from the end of the page.
        for key, value in zip(places[::2], places[1::2], strict=True):
            if page[value] == _BDB_ELSEWHERE:
                yield elsewhere(
                    *struct.unpack_from(f'{order}II', page, value + 4)
                )
            elif page[value] != _BDB_HERE:
                raise ValueError('a package is stored in an unknown way')
            elif page[key + 1 : key + 5] != bytes(4):
                # That of no package counts them.
                yield page[value + 1 : key]


#: What reads a database, by its name; the surest first.
DATABASES: Mapping[str, Callable[[bytes, bytes | None], Iterator[bytes]]] = {
    'rpmdb.sqlite': sqlite,
    'Packages.db': ndb,
    'Packages': berkeley,
}
