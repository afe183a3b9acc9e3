# SPDX-License-Identifier: Apache-2.0

"""Logical volumes that are plain ranges of their disk.

Most vendors' are: linear or striped, on physical volumes of one disk. What
else LVM has (thin pools, caches, RAID, snapshots and so on) is only named here
and left to libguestfs.

Sources: lib/label/label.h and lib/format_text/layout.h of LVM2 for labels and
metadata areas; libdm/libdm-config.c and lvmvolume(8) for the text in these;
drivers/md/dm-stripe.c of Linux. Any of it may be hostile: what LVM would not
have written is not followed.
"""

import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import itertools
import re
import struct
from typing import Any, NamedTuple
import zlib

from amiclient import errors
from amiclient.source import block
from amiclient import sparse

#: What a physical volume is called where the content of partitions is told.
PHYSICAL = 'an LVM physical volume'

#: What is said of a logical volume of which a physical volume is not there.
MISSING = 'a logical volume that is not all on this disk'

#: What to do where there is no volume with a root filesystem.
INCOMPLETE = (
    'its volume group has no logical volumes, or is not complete: '
    'give a disk that has all of it'
)

_SECTOR = 512
#: The label is in one of so many sectors.
_LABELS = 4

#: What LVM's checksums begin with; else they are CRC-32, not inverted.
_INITIAL = 0xF597A6CF

#: A metadata area that is not in use (RAW_LOCN_IGNORED).
_IGNORED = 1

#: The most of each: metadata areas of a physical volume, bytes of a text,
#: sections within each other.
_AREAS = 8
_TEXT = 1 << 20
_DEPTH = 12

_TOKEN = re.compile(
    r'(?:\s|#[^\n]*)++'
    r'|"(?P<quoted>[^"\\]*+(?:\\.[^"\\]*+)*+)"'
    r'|(?P<sign>[][{}=,])'
    r'|(?P<bare>[^\s#"\\\][{}=,]++)',
    re.DOTALL,
)
_ESCAPED = re.compile(r'\\(.)', re.DOTALL)
_NUMBER = re.compile(r'[0-9]{1,18}')

#: Names of volume groups and of logical volumes (lvm(8)).
_NAME = re.compile(r'(?!\.{1,2}$)[A-Za-z0-9+_.][A-Za-z0-9+_.-]{0,126}')
_SEGMENT = re.compile(r'segment[0-9]{1,9}')

_Section = Mapping[str, Any]


class Place(NamedTuple):
    """A physical volume: the number of its partition, and its bytes."""

    number: int
    start: int
    size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogicalVolume:
    """A logical volume that a system can mount.

    :param number: of a partition that it is on.
    :param start: where it begins in the medium that was made for it.
    :param problem: what it is, with an article, if it is not there.
    """

    group: str
    name: str
    number: int
    size: int
    start: int = 0
    problem: str | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """What its device is called."""
        return paths(self.group, self.name)


@dataclasses.dataclass(frozen=True)
class Volumes:
    """What is in the physical volumes of a disk.

    :param medium: the disk, and after its end the logical volumes.
    :param unread: partitions with metadata that make no sense here.
    """

    medium: block.Medium
    found: tuple[LogicalVolume, ...]
    unread: frozenset[int]


class _Segment(NamedTuple):
    """A range of a logical volume, in equal chunks on ranges of the disk.

    :param start: where it begins; in the volume, then in the medium.
    :param places: where the ranges begin.
    """

    start: int
    size: int
    chunk: int
    places: tuple[int, ...]


class _Part(NamedTuple):
    """A physical volume of a group: where its extents are, and their size."""

    number: int
    first: int
    end: int
    extent: int


class _Group(NamedTuple):
    """A volume group, as one of its physical volumes has it.

    :param number: of the partition that has it so.
    """

    id: str
    name: str
    serial: int
    section: _Section
    number: int


class _Nonsense(errors.DamagedError):
    """Metadata that LVM would not have written."""

    def __init__(self) -> None:
        super().__init__('its LVM metadata make no sense')


def paths(group: str, name: str) -> tuple[str, ...]:
    """Tell what the device of a logical volume is called (vgscan(8))."""
    mapped = '-'.join(each.replace('-', '--') for each in (group, name))
    return (
        f'/dev/{group}/{name}',
        f'/dev/mapper/{mapped}',
        f'/dev/disk/by-id/dm-name-{mapped}',
    )


def look(medium: block.Medium, places: Sequence[Place]) -> Volumes:
    """Find the logical volumes of a disk.

    :param places: of its physical volumes.
    :raises SourceError: if they cannot be read.
    """
    unread: set[int] = set()
    here: dict[str, Place] = {}
    groups: list[_Group] = []
    for place in places:
        try:
            own, known = _physical(medium, place)
            if own in here:
                raise _Nonsense
        except _Nonsense:
            unread.add(place.number)
            continue
        here[own] = place
        groups += known
    groups.sort(key=lambda group: group.serial)
    newest = {group.id: group for group in groups}
    found: list[LogicalVolume] = []
    segments: list[_Segment] = []
    end = medium.size
    for group in newest.values():
        try:
            volumes = list(_volumes(group, here))
        except _Nonsense:
            unread |= {g.number for g in groups if g.id == group.id}
            continue
        for volume, own_segments in volumes:
            found.append(dataclasses.replace(volume, start=end))
            for each in own_segments:
                segments.append(each._replace(start=end))
                end += each.size
    try:
        mapped = _Mapped(medium, segments) if segments else medium
    except _Nonsense:
        return Volumes(medium, (), frozenset(p.number for p in places))
    return Volumes(mapped, tuple(found), frozenset(unread))


def _checksum(data: bytes) -> int:
    return ~zlib.crc32(data, ~_INITIAL & 0xFFFFFFFF) & 0xFFFFFFFF


def _physical(medium: block.Medium, place: Place) -> tuple[str, list[_Group]]:
    """Read the identity of a physical volume, and what it says of its group.

    :returns: no group if it has none, or only others say so.
    """
    head = medium.read(place.start, min(_LABELS * _SECTOR, place.size))
    for index in range(len(head) // _SECTOR):
        sector = head[index * _SECTOR : (index + 1) * _SECTOR]
        number, crc, offset, kind = struct.unpack_from('<QII8s', sector, 8)
        if (
            (sector[:8], kind, number) == (b'LABELONE', b'LVM2 001', index)
            and crc == _checksum(sector[20:])
            and 32 <= offset <= _SECTOR - 72
        ):
            break
    else:
        raise _Nonsense
    own = sector[offset : offset + 32].decode('latin-1')
    lists = sector[offset + 40 :]
    areas = struct.iter_unpack('<QQ', lists[: len(lists) // 16 * 16])
    # First those for data; what begins nowhere ends each of the lists.
    for _ in itertools.takewhile(any, areas):
        pass
    groups, damaged = [], False
    for first, size in itertools.islice(
        itertools.takewhile(any, areas), _AREAS
    ):
        try:
            text = _text(medium, place, first, size)
            groups += [_group(text, place.number)] if text else []
        except _Nonsense:
            damaged = True
    if damaged and not groups:
        raise _Nonsense
    return own, groups


def _text(medium: block.Medium, place: Place, first: int, size: int) -> str:
    """Read what is valid in a metadata area: a header, and a ring of texts."""
    if not _SECTOR < size <= place.size - first:
        raise _Nonsense
    area = place.start + first
    header = medium.read(area, _SECTOR)
    crc, magic, version, start, length = struct.unpack_from('<I16sIQQ', header)
    if (
        (magic, version, start) != (b' LVM2 x[5A%r0N*>', 1, first)
        or crc != _checksum(header[4:])
        or not _SECTOR < length <= size
    ):
        raise _Nonsense
    offset, count, crc, flags = struct.unpack_from('<QQII', header, 40)
    if not offset or flags & _IGNORED:
        return ''
    if not _SECTOR <= offset < length or count > min(_TEXT, length - _SECTOR):
        raise _Nonsense
    ahead = min(count, length - offset)
    data = medium.read(area + offset, ahead)
    data += medium.read(area + _SECTOR, count - ahead)
    if len(data) < count or _checksum(data) != crc:
        raise _Nonsense
    return data.rstrip(b'\0').decode('latin-1')


def _tokens(text: str) -> Iterator[tuple[str | None, str]]:
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise _Nonsense
        if match.lastgroup:
            yield match.lastgroup, match[match.lastgroup]
        place = match.end()


def _parse(text: str) -> _Section:
    """Parse a text of sections, within each other, and values."""
    tokens = _tokens(text)
    within: list[dict[str, Any]] = [{}]
    for kind, key in tokens:
        if (kind, key) == ('sign', '}') and len(within) > 1:
            within.pop()
            continue
        follows = next(tokens, ('', ''))
        if kind == 'sign' or key in within[-1] or len(within) > _DEPTH:
            raise _Nonsense
        if follows == ('sign', '='):
            within[-1][key] = _value(tokens)
        elif follows == ('sign', '{'):
            within.append({})
            within[-2][key] = within[-1]
        else:
            raise _Nonsense
    if len(within) > 1:
        raise _Nonsense
    return within[0]


def _value(tokens: Iterator[tuple[str | None, str]]) -> Any:
    kind, word = next(tokens, ('sign', ''))
    if kind == 'quoted':
        return _ESCAPED.sub(r'\1', word)
    if kind == 'bare':
        return int(word) if _NUMBER.fullmatch(word) else word
    values: list[Any] = []
    if word == '[':
        for kind, word in tokens:
            if (kind, word) == ('sign', ']'):
                return values
            if (kind, word) != ('sign', ','):
                values.append(_value(iter([(kind, word)])))
    raise _Nonsense


def _number(
    section: _Section, key: str, least: int = 0, most: int = 1 << 48
) -> int:
    value = section.get(key)
    if not isinstance(value, int) or not least <= value <= most:
        raise _Nonsense
    return value


def _word(section: _Section, key: str) -> str:
    value = section.get(key)
    if not isinstance(value, str):
        raise _Nonsense
    return value


def _list(section: _Section, key: str) -> list[Any]:
    value = section.get(key, [])
    if not isinstance(value, list):
        raise _Nonsense
    return value


def _sections(section: _Section) -> Iterator[tuple[str, _Section]]:
    for key, value in section.items():
        if isinstance(value, dict):
            yield key, value


def _group(text: str, number: int) -> _Group:
    found = list(_sections(_parse(text)))
    if len(found) != 1 or not _NAME.fullmatch(found[0][0]):
        raise _Nonsense
    name, section = found[0]
    id, serial = _word(section, 'id'), _number(section, 'seqno')
    return _Group(id, name, serial, section, number)


def _volumes(
    group: _Group, here: Mapping[str, Place]
) -> Iterator[tuple[LogicalVolume, list[_Segment]]]:
    """Tell which volumes of a group a system sees, and where they are.

    :param here: physical volumes, by identity.
    """
    extent = _number(group.section, 'extent_size', 1, 1 << 32) * _SECTOR
    sections = dict(_sections(group.section))
    parts: dict[str, _Part | None] = {}
    for key, part in _sections(sections.get('physical_volumes', {})):
        place = here.get(_word(part, 'id').replace('-', ''))
        parts[key] = None
        if place is not None and 'MISSING' not in _list(part, 'flags'):
            first = place.start + _number(part, 'pe_start') * _SECTOR
            end = place.start + place.size
            parts[key] = _Part(place.number, first, end, extent)
    volumes = dict(_sections(sections.get('logical_volumes', {})))
    segments = {
        name: sorted(
            (s for key, s in _sections(volume) if _SEGMENT.fullmatch(key)),
            key=lambda segment: _number(segment, 'start_extent'),
        )
        for name, volume in volumes.items()
    }
    # A snapshot looks like a plain volume, but for what uses it.
    used = {
        str(each.get(key))
        for each in itertools.chain.from_iterable(segments.values())
        for key in ('cow_store', 'merging_store')
    }
    for name, volume in volumes.items():
        if 'VISIBLE' not in _list(volume, 'status'):
            continue
        if not _NAME.fullmatch(name):
            raise _Nonsense
        size, problem, found = 0, None, []
        for each in segments[name]:
            length = _number(each, 'extent_count', 1) * extent
            if each['start_extent'] * extent != size:
                raise _Nonsense
            problem = problem or _problem(each, parts, name in used)
            if problem is None:
                found.append(_segment(each, parts, size, length))
            size += length
        keys = (k for s in segments[name] for k in _list(s, 'stripes')[::2])
        on = next(filter(None, map(parts.get, keys)), None)
        yield (
            LogicalVolume(
                group=group.name,
                name=name,
                number=on.number if on else group.number,
                size=size,
                problem=problem,
            ),
            [] if problem else found,
        )


def _problem(
    segment: _Section, parts: Mapping[str, _Part | None], is_used: bool
) -> str | None:
    """Tell why a range of a volume is not a plain one, if so."""
    kind = 'snapshot' if is_used else _word(segment, 'type')
    # After a plus sign, there are flags.
    kind = kind.partition('+')[0]
    if kind not in ('striped', 'linear'):
        return f'a logical volume of type {errors.shown(kind, 30)}'
    keys = _list(segment, 'stripes')[::2]
    if not all(key in parts for key in keys):
        return 'a logical volume within another one'
    return None if all(parts[key] for key in keys) else MISSING


def _segment(
    segment: _Section,
    parts: Mapping[str, _Part | None],
    start: int,
    size: int,
) -> _Segment:
    stripes = _list(segment, 'stripes')
    count = _number(segment, 'stripe_count', 1, len(stripes) // 2)
    chunk = size
    if count > 1:
        chunk = _number(segment, 'stripe_size', 1) * _SECTOR
    if len(stripes) != 2 * count or size % (chunk * count):
        raise _Nonsense
    places = []
    for key, extent in zip(stripes[::2], stripes[1::2], strict=True):
        part = parts[key]
        if part is None or not isinstance(extent, int):
            raise _Nonsense
        places.append(part.first + extent * part.extent)
        if places[-1] + size // count > part.end:
            raise _Nonsense
    return _Segment(start, size, chunk, tuple(places))


class _Mapped:
    """A disk, and after its end what is put together of ranges of it.

    :param segments: one after another.
    """

    def __init__(
        self, medium: block.Medium, segments: Sequence[_Segment]
    ) -> None:
        self.name = medium.name
        self.size = segments[-1].start + segments[-1].size
        self._medium = medium
        self._segments = segments
        self._starts = [each.start for each in segments]
        self._ranges = sorted(
            (place, place + each.size // len(each.places), column, each)
            for each in segments
            for column, place in enumerate(each.places)
        )
        # What is read comes back by its place on the disk alone.
        if any(a[1] > b[0] for a, b in itertools.pairwise(self._ranges)):
            raise _Nonsense

    def read(self, offset: int, count: int) -> bytes:
        """Read bytes, fewer only at the end of the disk, or of all."""
        if offset < self._medium.size:
            return self._medium.read(offset, count)
        end = min(offset + count, self.size)
        return b''.join(
            self._medium.read(first, last - first)
            for first, last in self._on_disk(offset, end)
        )

    def stream(
        self, runs: Iterable[sparse.Run]
    ) -> Iterator[tuple[int, bytes]]:
        """Read ranges of bytes, all of the disk or all after its end."""
        wanted = list(runs)
        if not wanted or wanted[0][0] < self._medium.size:
            yield from self._medium.stream(wanted)
            return
        pieces = (piece for run in wanted for piece in self._on_disk(*run))
        for place, data in self._medium.stream(pieces):
            index = bisect.bisect_right(
                self._ranges, place, key=lambda each: each[0]
            )
            first, _, column, segment = self._ranges[index - 1]
            row, within = divmod(place - first, segment.chunk)
            chunk = row * len(segment.places) + column
            yield segment.start + chunk * segment.chunk + within, data

    def _on_disk(self, first: int, end: int) -> Iterator[sparse.Run]:
        """Tell where on the disk a range is, piece by piece."""
        if end > self.size:
            raise sparse.cut_short(self.size)
        while first < end:
            index = bisect.bisect_right(self._starts, first) - 1
            segment = self._segments[index]
            chunk, within = divmod(first - segment.start, segment.chunk)
            row, column = divmod(chunk, len(segment.places))
            count = min(end - first, segment.chunk - within)
            place = segment.places[column] + row * segment.chunk + within
            yield place, place + count
            first += count
