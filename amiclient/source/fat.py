# SPDX-License-Identifier: Apache-2.0

"""FAT filesystems: what they are called, and the files in them.

Source: Microsoft's FAT specification, version 1.03. What is read is as hostile
as anything: chains of clusters may have no end, and directories hold each
other.
"""

from collections.abc import Callable, Iterator, Sequence
import calendar
import dataclasses
import stat
import struct

from amiclient import errors
from amiclient.ext.writer import nodes
from amiclient import progress
from amiclient.source import block
from amiclient.source import file_tree
from amiclient import sparse

#: Where the kind is told, and where the boot record begins, by the kind.
_RECORDS = (
    (54, (b'FAT12   ', b'FAT16   '), 36),
    (82, (b'FAT32   ',), 64),
)

#: What says that there is a serial number; and that there is a label, too.
_SERIAL, _LABEL = 0x28, 0x29

_NO_LABEL = 'NO NAME'


@dataclasses.dataclass(frozen=True)
class FatVolume:
    """A FAT filesystem, as others name it.

    The extended boot records of FAT12 and FAT16, and of FAT32, tell.

    :param serial: as after ``UUID=``, in lower case: ``abcd-1234``; '' if it
        has none.
    :param label: '' if it has none.
    """

    serial: str
    label: str


def fat_volume(head: bytes) -> FatVolume | None:
    """Read what its boot sector tells.

    :param head: the first sector, or more.
    :returns: None if it is no FAT filesystem.
    """
    record = next(
        (at for place, kinds, at in _RECORDS if head.startswith(kinds, place)),
        None,
    )
    if record is None:
        return None
    signature = head[record + 2]
    if signature not in (_SERIAL, _LABEL):
        return FatVolume('', '')
    number = head[record + 3 : record + 7][::-1].hex()
    label = ''
    if signature == _LABEL:
        label = head[record + 7 : record + 18].decode('cp437').rstrip(' \0')
    return FatVolume(
        f'{number[:4]}-{number[4:]}', '' if label == _NO_LABEL else label
    )


#: Bytes of an entry of a directory, what marks one of a long name, and the
#: characters in that; what marks one that was deleted.
_ENTRY = 32
_LONG_NAME = 0x0F
_UNITS = (slice(1, 11), slice(14, 26), slice(28, 32))
_DELETED = 0xE5

#: Bits of the attributes of a file; bits that say that a short name is in
#: lower case, and its end.
_READ_ONLY, _LABELLED, _DIRECTORY = 0x01, 0x08, 0x10
_LOWER_NAME, _LOWER_END = 0x08, 0x10

#: The largest table of clusters that is read, and the largest directory (its
#: entries are numbered with 16 bits), in bytes; as many levels as paths of the
#: kernel may have.
_LARGEST_TABLE = 64 << 20
_LARGEST_DIRECTORY = 65536 * _ENTRY
_DEEPEST = 128

#: Clusters that there are at least, by the width of their numbers in bits.
_FAT16, _FAT32 = 4085, 65525

#: What a mount gives to files if nobody says otherwise.
_UMASK = 0o022


@dataclasses.dataclass(frozen=True)
class _FatFile:
    """An entry of a directory."""

    name: bytes
    attributes: int
    cluster: int
    size: int
    mtime: int

    @property
    def is_directory(self) -> bool:
        return bool(self.attributes & _DIRECTORY)


def fill(
    medium: block.Medium,
    start: int,
    size: int,
    tree: file_tree.FileTree,
    task: progress.Task,
    *,
    at: bytes,
    options: Sequence[str],
) -> None:
    """Take everything that is in a filesystem.

    What is in the tree there already is hidden, as it is by a mount.

    :param medium: the disk.
    :param start: where in it the filesystem begins,
        in bytes. :param size: its bytes.
    :param at: where in the tree it belongs.
    :param options: of the mount, which tell modes and owners.
    :raises DamagedError: if it makes no sense.
    """
    files = _Files(medium, start, size)
    given = dict(o.split('=', 1) for o in options if '=' in o)

    def number(name: str, default: int, base: int) -> int:
        try:
            return int(given.get(name, ''), base)
        except ValueError:
            return default

    umask = number('umask', _UMASK, 8)
    uid, gid = number('uid', 0, 10), number('gid', 0, 10)
    masks = {
        True: number('dmask', umask, 8),
        False: number('fmask', umask, 8),
    }

    def node(file: _FatFile) -> nodes.Node:
        mode = 0o777 & ~masks[file.is_directory]
        if file.attributes & _READ_ONLY and not file.is_directory:
            mode &= ~0o222
        kind = stat.S_IFDIR if file.is_directory else stat.S_IFREG
        return nodes.Node(kind | mode, uid=uid, gid=gid, mtime=file.mtime)

    tree.cover(at)
    root = _FatFile(b'', _DIRECTORY, 0, 0, 0)
    waiting = [(at, root, 0)]
    seen: set[int] = set()
    while waiting:
        path, file, depth = waiting.pop()
        if not file.is_directory:
            read = files.reading(file, task)
            ranges = [(0, file.size)]
            tree.add_file(path, node(file), file.size, ranges, read)
            continue
        if file.cluster in seen or depth > _DEEPEST:
            raise files.damaged()
        seen.add(file.cluster)
        tree.add(path, node(file))
        inner = sorted(files.names(file), key=lambda f: f.name, reverse=True)
        waiting += [(path + b'/' + f.name, f, depth + 1) for f in inner]


class _Files:
    """The files of one filesystem."""

    def __init__(self, medium: block.Medium, start: int, size: int) -> None:
        self._medium = medium
        self._start = start
        self._left = size
        head = medium.read(start, 512)
        if len(head) < 512:
            raise self.damaged()
        sector, per, reserved, tables, entries = struct.unpack_from(
            '<HBHBH', head, 11
        )
        sectors, length = (
            struct.unpack_from('<H', head, at)[0]
            or struct.unpack_from('<I', head, more)[0]
            for at, more in ((19, 32), (22, 36))
        )
        if sector not in (512, 1024, 2048, 4096) or not per or not tables:
            raise self.damaged()
        self._cluster = sector * per
        root = (reserved + tables * length) * sector
        root_size = -(-entries * _ENTRY // sector) * sector
        self._first = root + root_size
        self._clusters = (sectors * sector - self._first) // self._cluster
        if (
            self._clusters < 1
            or sectors * sector > size
            or length * sector > _LARGEST_TABLE
        ):
            raise self.damaged()
        self._width = (
            12
            if self._clusters < _FAT16
            else 16
            if self._clusters < _FAT32
            else 32
        )
        self._table = medium.read(start + reserved * sector, length * sector)
        self._root = struct.unpack_from('<I', head, 44)[0]
        self._fixed = (root, entries * _ENTRY)

    def names(self, directory: _FatFile) -> Iterator[_FatFile]:
        """List a directory."""
        long: list[bytes] = []
        for entry in self._entries(directory):
            attributes = entry[11]
            if attributes == _LONG_NAME:
                if entry[0] & 0x40:
                    long = []
                long.insert(0, b''.join(entry[units] for units in _UNITS))
                continue
            name = _long(long) if long else _short(entry)
            long = []
            if attributes & _LABELLED or name in (b'.', b'..'):
                continue
            if not name or b'/' in name:
                raise self.damaged()
            high, time, date, low, size = struct.unpack_from(
                '<HHHHI', entry, 20
            )
            cluster = low | (high << 16 if self._width == 32 else 0)
            yield _FatFile(name, attributes, cluster, size, _time(date, time))

    def reading(
        self, file: _FatFile, task: progress.Task
    ) -> Callable[[int, int], bytes]:
        """Make what reads a file, from its beginning to its end."""
        self._left -= file.size
        # Files that share their clusters could be more than there is.
        if self._left < 0:
            raise self.damaged()
        pieces = self._pieces(file.cluster) if file.size else iter(())
        left = bytearray()

        def read(offset: int, count: int) -> bytes:
            while len(left) < count:
                piece = next(pieces, b'')
                if not piece:
                    raise self.damaged()
                left.extend(piece)
            data = bytes(left[:count])
            del left[:count]
            task.advance(count)
            return data

        return read

    def damaged(self) -> errors.DamagedError:
        """Say that it makes no sense."""
        return errors.DamagedError(
            'a FAT filesystem in it makes no sense',
            subject=self._medium.name,
            hint='mend a copy with fsck.fat',
        )

    def _entries(self, directory: _FatFile) -> Iterator[bytes]:
        if not directory.cluster and self._width != 32:
            place, count = self._fixed
            pieces: Iterator[bytes] = iter(
                [self._medium.read(self._start + place, count)]
            )
        else:
            pieces = self._pieces(directory.cluster or self._root)
        total = 0
        for piece in pieces:
            total += len(piece)
            if total > _LARGEST_DIRECTORY:
                raise self.damaged()
            for at in range(0, len(piece), _ENTRY):
                entry = piece[at : at + _ENTRY]
                if not entry[0]:
                    return
                if entry[0] != _DELETED:
                    yield entry

    def _pieces(self, number: int) -> Iterator[bytes]:
        """Read what is in a chain, clusters that follow each other at once."""
        most = max(1, sparse.CHUNK // self._cluster)
        first, count = number, 0
        for each in self._chain(number):
            if each != first + count or count == most:
                yield self._read(first, count)
                first, count = each, 0
            count += 1
        yield self._read(first, count)

    def _read(self, first: int, count: int) -> bytes:
        place = self._start + self._first + (first - 2) * self._cluster
        data = self._medium.read(place, count * self._cluster)
        if len(data) < count * self._cluster:
            raise self.damaged()
        return data

    def _chain(self, number: int) -> Iterator[int]:
        for _ in range(self._clusters):
            if not 2 <= number < self._clusters + 2:
                raise self.damaged()
            yield number
            number = self._next(number)
            # The last values say that it ends here.
            if number >= (1 << min(self._width, 28)) - 8:
                return
        raise self.damaged()

    def _next(self, number: int) -> int:
        bits = number * self._width
        data = self._table[bits // 8 : bits // 8 + max(2, self._width // 8)]
        value = int.from_bytes(data, 'little') >> bits % 8
        return value & (1 << min(self._width, 28)) - 1


def _long(parts: Sequence[bytes]) -> bytes:
    units = b''.join(parts).decode('utf-16-le', 'replace')
    return units.partition('\0')[0].encode('utf-8', 'surrogateescape')


def _short(entry: bytes) -> bytes:
    # A first byte that would mark it as deleted is written otherwise.
    name = entry[:8].replace(b'\x05', b'\xe5', 1).decode('cp437').rstrip()
    end = entry[8:11].decode('cp437').rstrip()
    if entry[12] & _LOWER_NAME:
        name = name.lower()
    if entry[12] & _LOWER_END:
        end = end.lower()
    return f'{name}.{end}'.removesuffix('.').encode()


def _time(date: int, time: int) -> int:
    """Tell a time in nanoseconds since 1970, as if it were in UTC."""
    year, month, day = 1980 + (date >> 9), date >> 5 & 15, date & 31
    hours, minutes, seconds = time >> 11, time >> 5 & 63, (time & 31) * 2
    fields = (year, max(month, 1), max(day, 1), hours, minutes, seconds)
    return calendar.timegm(fields) * 10**9
