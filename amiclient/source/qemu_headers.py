# SPDX-License-Identifier: Apache-2.0

"""Headers of disk images, read by the grammar of each format.

QEMU opens what a header names, be it a path or an address, and it does so
before anybody could ask for less. So no header gets to QEMU that was not read
here first, in whole, and found to name nothing: what is not known is refused.
Where QEMU reads a thing from another place than the specification says, both
are looked at.

Sources: VMware's Virtual Disk Format 5.0; QEMU's docs/interop/qcow2.txt and
qed_spec.txt; Microsoft's Virtual Hard Disk Image Format Specification and
MS-VHDX; and what QEMU makes of each, in block/*.c.
"""

import functools
import io
import os
import struct
from typing import Any, BinaryIO, NamedTuple
import uuid

from amiclient.source import block
from amiclient.source import probe
from amiclient.source import qemu_image
from amiclient.source import qemu_vmdk

_REPAIR = 'repair it with qemu-img check -r all'
_KEY = 'convert it with qemu-img, which can be given the key'

_SECTOR = qemu_image.SECTOR
_MIB = 1 << 20

#: Bytes in which the metadata of a VHDX are: they follow the log, and whoever
#: makes one has no more than a MiB of each.
VHDX_HEAD = 8 * _MIB

#: Most bytes of the name of a backing file, by the qcow2 specification.
_NAME = 1023


def shown_format(disk: str) -> str:
    """Name a format of QEMU's for people, and for Glance."""
    return 'vhd' if disk == 'vpc' else disk


def read(file: BinaryIO, kind: str, name: str) -> qemu_image.Header:
    """Read the header of a disk image, and refuse what is not known.

    :param kind: its format, as QEMU calls it.
    :param name: what to call it in errors.
    :raises SourceError: if it is not of that format, names other files, is
        cut short, or has anything in its header that is not known.
    """
    return _READERS[kind](qemu_image.Image(file, name))


def qcow2_disk(medium: block.Medium) -> qemu_image.Qcow2Medium:
    """Read the disk in a qcow2 image without a program.

    :raises SourceError: as read() does, and if it has a backing file, or
        tables with what is smaller than a cluster.
    """
    image = qemu_image.Image(block.as_file(medium), medium.name)
    found = _qcow2(image)
    image.require(found.backing is None, qemu_image.PARENT)
    version, bits, table = image.unpack('>4xI12xI16xQ', 0)
    needed = image.unpack('>Q', 72)[0] if version == 3 else 0
    if needed & _WIDE:
        raise image.refused('it has clusters with several parts')
    return qemu_image.Qcow2Medium(
        medium,
        size=found.size,
        bits=bits,
        table=table,
        packed='zstd' if needed & _ZSTD else 'zlib',
    )


def vhdx_size(head: bytes, name: str) -> int:
    """Tell how large the disk in a VHDX is, by its beginning alone.

    :param head: its first VHDX_HEAD bytes, or all there are.
    :param name: what to call it in errors.
    :raises SourceError: as read() does, and if that is not said there.
    """
    image = qemu_image.Image(io.BytesIO(head), name)
    if len(head) >= VHDX_HEAD:
        # Whether the rest has what it must have is seen once it is there.
        image.size = 1 << 63
    if sum(_regions(image).get(_METADATA, ())) > len(head):
        raise image.refused('its metadata are not at its beginning')
    return _vhdx(image).size


def _qcow(image: qemu_image.Image) -> qemu_image.Header:
    magic, place, length, size, bits, entries, crypt, table = image.unpack(
        '>8sQI4xQBB2xIQ', 0
    )
    image.require(magic == b'QFI\xfb\0\0\0\1', 'it is not a qcow image')
    image.require(9 <= bits <= 16 and 6 <= entries <= 13)
    image.require(1 < size <= qemu_image.LARGEST)
    if crypt:
        raise image.refused('an encrypted qcow image', hint=_KEY)
    image.holds(table, -(-size >> (bits + entries)) * 8)
    return qemu_image.Header(size, _backing(image, place, length, image.size))


def _backing(
    image: qemu_image.Image, place: int, length: int, end: int
) -> bytes | None:
    if not place:
        return None
    image.require(1 <= length <= _NAME and place + length <= end)
    return image.read(place, length)


def _qcow2(image: qemu_image.Image) -> qemu_image.Header:
    magic, version, place, length, bits, size, crypt = image.unpack(
        '>4sIQIIQI', 0
    )
    image.require(
        magic == b'QFI\xfb' and version in (2, 3),
        'it is not a qcow2 image of version 2 or 3',
    )
    image.require(9 <= bits <= 21 and size <= qemu_image.LARGEST)
    if crypt:
        raise image.refused('an encrypted qcow2 image', hint=_KEY)
    cluster = 1 << bits
    header, wide = _features(image, cluster) if version == 3 else (72, False)
    entries, table, counts, clusters, snapshots, listed = image.unpack(
        '>IQQIIQ', 36
    )
    reach = cluster * cluster // (16 if wide else 8)
    image.require(
        -(-size // reach) <= entries <= 4 * _MIB
        and 1 <= clusters <= 8 * _MIB // cluster
        and snapshots <= 65536
    )
    image.holds(table, entries * 8, step=cluster)
    image.holds(counts, clusters * cluster, step=cluster)
    if snapshots:
        image.holds(listed, snapshots * 40, step=cluster)
    image.require(not place or header <= place <= cluster)
    named = _backing(image, place, length, cluster)
    return qemu_image.Header(
        size, named, _extensions(image, header, place or cluster)
    )


#: Incompatible features of a qcow2: the image is dirty or corrupt, its data
#: are in another file, they are compressed by zstd, its tables are wide.
_CORRUPT = 1 << 1
_ELSEWHERE = 1 << 2
_ZSTD = 1 << 3
_WIDE = 1 << 4
_INCOMPATIBLE = 1 << 0 | _CORRUPT | _ELSEWHERE | _ZSTD | _WIDE

#: An autoclear feature: the data in another file are those of a raw disk.
_RAW = 1 << 1


def _features(image: qemu_image.Image, cluster: int) -> tuple[int, bool]:
    """Read what is new in version 3 of qcow2.

    :returns: bytes of the header, and whether its tables are wide.
    """
    needed, cleared, order, length = image.unpack('>Q8xQII', 72)
    if unknown := needed & ~_INCOMPATIBLE:
        bit = unknown.bit_length() - 1
        raise image.refused(f'it has a feature that is not known: bit {bit}')
    image.require(
        not needed & _ELSEWHERE and not cleared & _RAW,
        'its data are in another file',
    )
    if needed & _CORRUPT:
        raise image.refused('it is marked as corrupt', hint=_REPAIR)
    image.require(order <= 6 and 104 <= length <= cluster and length % 8 == 0)
    packed = image.read(104, 1)[0] if length > 104 else 0
    wide = bool(needed & _WIDE)
    image.require(
        packed == bool(needed & _ZSTD) and (not wide or cluster >= 1 << 14)
    )
    return length, wide


def _extensions(image: qemu_image.Image, place: int, end: int) -> str | None:
    """Walk through the extensions of the header of a qcow2.

    Those that are not known may be ignored, says the specification.

    :returns: the format of its backing file, if it is said.
    """
    backing: str | None = None
    while place < end:
        kind, length = image.unpack('>II', place)
        place += 8
        if not kind:
            break
        image.require(length <= end - place)
        if kind == 0x44415441:
            raise image.refused('its data are in another file')
        if kind == 0x0537BE77:
            raise image.refused('an encrypted qcow2 image', hint=_KEY)
        if kind == 0xE2792ACA:
            image.require(backing is None and length <= 15)
            backing = os.fsdecode(image.read(place, length))
        place += -(-length // 8) * 8
    return backing


def _qed(image: qemu_image.Image) -> qemu_image.Header:
    magic, cluster, tables, header, features = image.unpack('<4sIIIQ', 0)
    table, size, place, length = image.unpack('<QQII', 40)
    image.require(magic == b'QED\0', 'it is not a QED image')
    image.require(
        cluster in (1 << bit for bit in range(12, 27))
        and tables in (1, 2, 4, 8, 16)
        and not features & ~7
        and table
        and size % _SECTOR == 0
        and size
        <= min(qemu_image.LARGEST, (tables * cluster // 8) ** 2 * cluster)
    )
    image.holds(0, header * cluster)
    image.holds(table, tables * cluster, step=cluster)
    if not features & 1:
        return qemu_image.Header(size)
    image.require(place)
    named = _backing(image, place, length, header * cluster)
    return qemu_image.Header(size, named, 'raw' if features & 4 else None)


class _Footer(NamedTuple):
    """What ends a VHD, and begins one that grows."""

    magic: bytes
    features: int
    version: int
    place: int
    size: int
    type: int
    checksum: int
    uuid: bytes


def _vpc(image: qemu_image.Image) -> qemu_image.Header:
    foot = _footing(image, image.size - _SECTOR)
    if image.read(0, 8) != b'conectix':
        # Its data, and the footer behind them.
        image.require(foot.type == 2 and foot.size <= image.size - _SECTOR)
        return qemu_image.Header(foot.size)
    image.require(
        foot.type == 3 and foot == _footing(image, 0),
        'the two copies of its VHD header differ',
    )
    layout = '>8s8xQIIII16s8x512s192s'
    magic, table, version, entries, block, checksum, *parent = image.unpack(
        layout, foot.place
    )
    image.require(not any(map(any, parent)), qemu_image.PARENT)
    data = image.read(foot.place, 1024)
    image.require(
        magic == b'cxsparse'
        and version == 0x10000
        and checksum == _summed(data, 36)
        and block in (_SECTOR << bit for bit in range(20))
        and foot.size <= entries * block
    )
    image.holds(table, entries * 4, step=_SECTOR)
    return qemu_image.Header(foot.size)


def _footing(image: qemu_image.Image, offset: int) -> _Footer:
    foot = _Footer(*image.unpack('>8sIIQ24xQ4xII16s', offset))
    image.require(
        foot.magic == b'conectix', 'its VHD footer, or the copy, is missing'
    )
    image.require(foot.type != 4, qemu_image.PARENT)
    image.require(
        foot.version == 0x10000
        and foot.type in (2, 3)
        and 0 < foot.size <= qemu_image.LARGEST
        and foot.checksum == _summed(image.read(offset, _SECTOR), 64)
    )
    return foot


def _summed(data: bytes, place: int) -> int:
    """Add up a part of a VHD, without the sum that is in it."""
    return ~(sum(data) - sum(data[place : place + 4])) & 0xFFFFFFFF


def _vdi(image: qemu_image.Image) -> qemu_image.Header:
    signature, version, length, kind = image.unpack('<4sIII', 0x40)
    table, data, sector, size = image.unpack('<II12xI4xQ', 0x154)
    block, extra, blocks, used = image.unpack('<IIII', 0x178)
    link, parent = image.unpack('<16s16s', 0x1A8)
    image.require(
        signature == b'\x7f\x10\xda\xbe' and version == 0x10001,
        'it is not a VDI image of version 1.1',
    )
    image.require(kind in (1, 2) and not any(link + parent), qemu_image.PARENT)
    image.require(
        length in (0x180, 0x190)
        and sector == _SECTOR
        and block == _MIB
        and not extra
        and 0 < size <= blocks * block
        and size <= qemu_image.LARGEST
        and used <= blocks
    )
    image.holds(table, blocks * 4, step=_SECTOR)
    image.holds(data, 0, step=_SECTOR)
    return qemu_image.Header(size)


#: Bytes of a table in a VHDX, most of which is empty.
_TABLE = 1 << 16

_BAT = uuid.UUID('2dc27766-f623-4200-9d64-115e9bfd4a08')
_METADATA = uuid.UUID('8b7ca206-4790-4b9a-b8fe-575f050f886e')
_LOCATOR = uuid.UUID('a8d35f2d-b30b-454d-abf7-d3d84834ab0c')

#: What the metadata of a VHDX have to hold: parameters, size, an identifier,
#: and the bytes of a logical and a physical sector.
_ITEMS = {
    uuid.UUID('caa16737-fa36-4d43-b3b6-33f0aa44e76b'): '<II',
    uuid.UUID('2fa54224-cd1b-4876-b211-5dbed83bf4b8'): '<Q',
    uuid.UUID('beca12ab-b2e6-4523-93ef-c309e000c746'): '<16s',
    uuid.UUID('8141bf1d-a96f-4709-ba47-f233a8faab5f'): '<I',
    uuid.UUID('cda348c7-445d-4471-9cc9-e9885251c556'): '<I',
}


def _vhdx(image: qemu_image.Image) -> qemu_image.Header:
    image.require(image.read(0, 8) == b'vhdxfile', 'it is not a VHDX image')
    headers = [_vhdx_header(image, copy * _TABLE) for copy in (1, 2)]
    _, log = max(filter(None, headers), default=(0, b''))
    image.require(log)
    if any(log):
        raise image.refused(
            'it was not closed cleanly, and has a log to be replayed',
            hint=_REPAIR,
        )
    regions = _regions(image)
    image.require(regions.keys() >= {_BAT, _METADATA})
    items = _items(image, *regions[_METADATA])
    image.require(items.keys() == _ITEMS.keys())
    (block, bits), (size,), _, (logical,), (physical,) = (
        items[each] for each in _ITEMS
    )
    image.require(not bits & 2, qemu_image.PARENT)
    image.require(
        bits in (0, 1)
        and block in (_MIB << bit for bit in range(9))
        and logical in (512, 4096)
        and physical in (512, 4096)
        and 0 < size <= qemu_image.LARGEST
        and size % logical == 0
    )
    # Between the entries for blocks are some for bitmaps.
    blocks = -(-size // block)
    entries = blocks + (blocks - 1) // ((logical << 23) // block)
    image.require(entries * 8 <= regions[_BAT][1])
    return qemu_image.Header(size)


def _vhdx_header(
    image: qemu_image.Image, offset: int
) -> tuple[int, bytes] | None:
    """Read one copy of the header of a VHDX.

    :returns: its number, of which the higher counts, and what names its log;
        None if it is damaged.
    """
    data = image.read(offset, 4096)
    magic, number, log, version = struct.unpack_from('<4s4xQ32x16s2xH', data)
    if magic != b'head' or version != 1 or not _is_whole(data):
        return None
    return number, log


def _regions(image: qemu_image.Image) -> dict[uuid.UUID, tuple[int, int]]:
    data = image.read(3 * _TABLE, _TABLE)
    magic, count = struct.unpack_from('<4s4xI', data)
    image.require(magic == b'regi' and count <= 2047 and _is_whole(data))
    found: dict[uuid.UUID, tuple[int, int]] = {}
    for index in range(count):
        raw, offset, length, needed = struct.unpack_from(
            '<16sQII', data, 16 + 32 * index
        )
        guid = uuid.UUID(bytes_le=raw)
        image.require(guid not in found)
        image.require(guid in (_BAT, _METADATA) or not needed)
        image.holds(offset, length, step=_MIB)
        found[guid] = offset, length
    return found


def _items(
    image: qemu_image.Image, offset: int, length: int
) -> dict[uuid.UUID, tuple[Any, ...]]:
    data = image.read(offset, _TABLE)
    magic, count = struct.unpack_from('<8s2xH', data)
    image.require(magic == b'metadata' and count <= 2047)
    found: dict[uuid.UUID, tuple[Any, ...]] = {}
    for index in range(count):
        raw, place, size, bits = struct.unpack_from(
            '<16sIII', data, 32 + 32 * index
        )
        guid = uuid.UUID(bytes_le=raw)
        image.require(guid != _LOCATOR, qemu_image.PARENT)
        layout = _ITEMS.get(guid)
        if layout is None:
            image.require(not bits & 4)
            continue
        image.require(
            guid not in found
            and size == struct.calcsize(layout)
            and _TABLE <= place <= length - size
        )
        found[guid] = image.unpack(layout, offset + place)
    return found


def _is_whole(data: bytes) -> bool:
    """Tell whether the CRC-32C in a part of a VHDX is right."""
    crc, table = 0xFFFFFFFF, _crc_table()
    for byte in data[:4] + bytes(4) + data[8:]:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF == int.from_bytes(data[4:8], 'little')


@functools.cache
def _crc_table() -> tuple[int, ...]:
    table = list(range(256))
    for _ in range(8):
        table = [each >> 1 ^ (0x82F63B78 if each & 1 else 0) for each in table]
    return tuple(table)


#: Where they say how large the disk is, and in which unit.
_SIZES = {
    'qcow': ('>Q', 24, 1),
    'qcow2': ('>Q', 24, 1),
    'qed': ('<Q', 48, 1),
    'vmdk': ('<Q', 12, 512),
    'vpc': ('>Q', 48, 1),
    'vdi': ('<Q', 0x170, 1),
}


def disk_size(head: bytes) -> int | None:
    """Tell how large the disk in a disk image is, as its header says.

    :param head: the first 512 bytes, or all there are.
    :returns: bytes; None if that is not known.
    """
    place = _SIZES.get(probe.disk_format(head) or '')
    if place is None or len(head) < 512:
        return None
    layout, offset, unit = place
    return int(struct.unpack_from(layout, head, offset)[0]) * unit


_READERS = {
    'qcow': _qcow,
    'qcow2': _qcow2,
    'qed': _qed,
    'vdi': _vdi,
    'vhdx': _vhdx,
    'vmdk': qemu_vmdk.read,
    'vpc': _vpc,
}
