# SPDX-License-Identifier: Apache-2.0

"""The partitions of a disk, as its own tables tell them.

Sources: the UEFI specification, section 5.3 (GPT) and 5.2.3 (protective MBR);
for extended partitions what fdisk(8) and the kernel's block/partitions/msdos.c
agree on. Sectors have 512 bytes or, on some disks with a GPT, 4096.

Tables may be hostile: chains may have no end, partitions may lie anywhere.
"""

from collections.abc import Iterator
import dataclasses
import struct
import uuid
import zlib

from amiclient import errors
from amiclient.source import block

_SECTOR = 512
_GPT_SECTORS = (512, 4096)

#: What ends a sector with a partition table or a boot loader; and what begins
#: the second one of a disk with a GPT (UEFI specification, 5.3.2).
SIGNATURE = b'\x55\xaa'
GPT_MAGIC = b'EFI PART'

_PROTECTIVE = 0xEE
_EXTENDED = (0x05, 0x0F, 0x85)

#: As many logical partitions as anybody has; the kernel stops at 252.
_LOGICAL = 252

#: Entries of a GPT, and the bytes of one. 128 of 128 are usual.
_ENTRIES = 1024
_ENTRY_SIZES = (128, 256, 512, 1024, 2048, 4096)

#: Types of partitions with a root filesystem: the Discoverable Partitions
#: Specification, for the architectures that Nova knows.
GPT_ROOTS = {
    '44479540-f297-41b2-9af7-d131d5f0458a': 'i686',
    '4f68bce3-e8cd-4db1-96e7-fbcaf984b709': 'x86_64',
    '69dad710-2ce4-4e3c-b16c-21a1d49abed3': 'armv7l',
    'b921b045-1df0-41c3-af44-4c6f280d3fae': 'aarch64',
    '1de3f1ef-fa98-47b5-8dcd-4a860a654d78': 'ppc',
    '912ade1d-a839-4913-8964-a10eee08fbd2': 'ppc64',
    'c31c45e6-3f39-412e-80fb-4809c4980599': 'ppc64le',
    '72ec70a6-cf74-40e6-bd49-4bda08e8f224': 'riscv64',
    '5eead9a9-fe09-4a1e-a1d7-520d00531306': 's390x',
}

#: Those with what belongs on /usr, which is not in /etc/fstab: of the same
#: specification, and of Flatcar and ChromeOS.
GPT_USRS = (
    '75250d76-8cc6-458e-bd66-bd47cc81a812',
    '8484680c-9521-48c6-9c11-b0720656f69e',
    '7d0359a3-02b3-4f0a-865c-654403e70625',
    'b0e01050-ee5f-4390-949a-9101b17104e9',
    '7d14fec5-cc71-415d-9d6c-06bf0b3c3eaf',
    '2c9739e2-f068-46b3-9fd0-01c5a9afbcca',
    '15bb03af-77e7-4d4a-b12b-c0d084f7491c',
    'beaec34b-8442-439b-a40b-984381ed097d',
    '8a4f5770-50aa-4ed3-874a-99b710db6fea',
    '5dfbf5f4-2848-4bac-aa5e-0d9a20b745a6',
)

#: Types of others, and where systemd mounts the first of each type
#: (systemd-gpt-auto-generator(8), the Discoverable Partitions Specification).
GPT_MOUNTS = {
    '933ac7e1-2eb4-4f13-b844-0e14e2aef915': '/home',
    '3b8f8425-20e0-4f3b-907f-1a25a76f98e8': '/srv',
    '4d21b016-b534-45c2-a9fb-5c16e091fd2d': '/var',
    '7ec6f557-3bc5-4aca-b293-16ef5df639d1': '/var/tmp',  # noqa: S108
}

#: The attribute of those that it does not mount.
_NO_AUTO = 1 << 63

_GPT_NAMES = {
    'c12a7328-f81f-11d2-ba4b-00a0c93ec93b': 'EFI system',
    '21686148-6449-6e6f-744e-656564454649': 'BIOS boot',
    'bc13c2ff-59e6-4262-a352-b275fd6f7172': 'boot',
    '0657fd6d-a4ab-43c4-84e5-0933c84b4f4f': 'swap',
    'e6d6d379-f507-44c2-a23c-238f2a3df928': 'LVM',
    '9e1a2d38-c612-4316-aa26-8b49521e5a8b': 'PReP boot',
    **{guid: f'root ({name})' for guid, name in GPT_ROOTS.items()},
    **dict.fromkeys(GPT_USRS, '/usr'),
    **GPT_MOUNTS,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartitionEntry:
    """What a table says of one partition.

    :param number: as the kernel counts.
    :param start: bytes from the beginning of the disk.
    :param size: bytes.
    :param type: a GUID, or two hexadecimal digits (MBR).
    :param type_name: what that means, where it says more than that it is a
        filesystem.
    :param uuid: its PARTUUID.
    :param label: its PARTLABEL.
    :param is_auto: whether systemd may mount it because of its type.
    """

    number: int
    start: int
    size: int
    type: str
    type_name: str | None
    uuid: str
    label: str = ''
    is_auto: bool = False

    @property
    def end(self) -> int:
        return self.start + self.size


@dataclasses.dataclass(frozen=True)
class Table:
    """A partition table.

    :param kind: ``gpt`` or ``mbr``.
    :param notes: what is odd about it.
    """

    kind: str
    entries: tuple[PartitionEntry, ...]
    notes: tuple[str, ...] = ()


def read(medium: block.Medium) -> Table | None:
    """Read the partition table of a disk.

    :returns: None if there is none.
    :raises DamagedError: if there is one that makes no sense.
    """
    head = medium.read(0, _SECTOR)
    is_signed = head[510:512] == SIGNATURE
    notes = () if is_signed else ('it has no protective MBR',)
    for size in _GPT_SECTORS:
        table = _gpt(medium, 1, size, notes)
        if table is not None:
            return table
    if not is_signed:
        return None
    primary = _primary(head)
    if any(kind == _PROTECTIVE for _, kind, _, _ in primary):
        for size in _GPT_SECTORS:
            note = 'the first copy of its partition table is damaged'
            table = _gpt(medium, medium.size // size - 1, size, (note,))
            if table is not None:
                return table
        raise errors.DamagedError(
            'both copies of its partition table (GPT) are damaged or missing',
            subject=medium.name,
            hint='it may be cut short; download or copy it again',
        )
    if not _is_table(head):
        return None
    return Table('mbr', tuple(_mbr(medium, head, primary)))


def end(head: bytes) -> int:
    """Tell where a disk ends, as far as what it begins with says so.

    :param head: the more the better, up to 8 KiB.
    :returns: bytes from its beginning: for a GPT, of the disk; for an MBR, of
        the last partition; 0 if there is neither.
    """
    if not _is_table(head):
        return 0
    primary = _primary(head)
    ends = [
        (start + count) * _SECTOR
        for _, kind, start, count in primary
        if kind not in (0, _PROTECTIVE)
    ]
    if any(kind == _PROTECTIVE for _, kind, _, _ in primary):
        for size in _GPT_SECTORS:
            header = head[size : size + 92]
            if len(header) == 92 and header.startswith(GPT_MAGIC):
                copy, _, last = struct.unpack_from('<QQQ', header, 32)
                ends.append((max(copy, last) + 1) * size)
                break
        else:
            # Damaged; there is another copy of it, in the last sector.
            ends += [
                (start + count) * _GPT_SECTORS[-1]
                for _, _, start, count in primary
            ]
    return max(ends)


#: Of an MBR's entry: status, type, first sector, sectors.
Slot = tuple[int, int, int, int]


def slots(sector: bytes) -> list[Slot]:
    """Parse the four entries of a master boot record, if it is one.

    The code of an old boot sector is no partition table: each of the four
    entries must make sense.
    """
    if sector[510:512] != SIGNATURE:
        return []
    found = _primary(sector)
    return found if all(slot[0] in (0, 0x80) for slot in found) else []


def starts(head: bytes, size: int) -> list[int]:
    """Tell where partitions of an MBR begin, in bytes; nothing if one cannot.

    :param size: bytes of the disk, which may be cut short.
    """
    found = [start * 512 for _, kind, start, _ in slots(head) if kind]
    return [start for start in found if start < size] if all(found) else []


def _primary(sector: bytes) -> list[Slot]:
    return [
        struct.unpack_from('<B3xB3xII', sector, 446 + 16 * i) for i in range(4)
    ]


def _is_table(sector: bytes) -> bool:
    return any(kind and count for _, kind, _, count in slots(sector))


def _mbr(
    medium: block.Medium, head: bytes, primary: list[Slot]
) -> Iterator[PartitionEntry]:
    disk = int.from_bytes(head[440:444], 'little')

    def entry(
        number: int, kind: int, start: int, count: int
    ) -> PartitionEntry:
        return PartitionEntry(
            number=number,
            start=start * _SECTOR,
            size=count * _SECTOR,
            type=f'{kind:02x}',
            type_name={
                0x82: 'swap',
                0x8E: 'LVM',
                0xEF: 'EFI system',
                0x41: 'PReP boot',
            }.get(kind),
            uuid=f'{disk:08x}-{number:02x}',
        )

    logical = 5
    for number, (_, kind, start, count) in enumerate(primary, 1):
        if not kind or not count:
            continue
        if kind not in _EXTENDED:
            yield entry(number, kind, start, count)
            continue
        for found, first, length in _chain(medium, start):
            yield entry(logical, found, first, length)
            logical += 1


def _chain(medium: block.Medium, base: int) -> Iterator[tuple[int, int, int]]:
    """Follow the chain of an extended partition.

    :param base: its first sector, which links count from.
    :returns: type, first sector and sectors of each logical partition.
    :raises DamagedError: if it has no end, or leads out of the disk.
    """
    seen: set[int] = set()
    place = base
    while True:
        sector = medium.read(place * _SECTOR, _SECTOR)
        if len(sector) < _SECTOR or sector[510:512] != SIGNATURE:
            raise _chain_damaged(
                medium, 'it leads to a sector without a table'
            )
        if place in seen or len(seen) >= _LOGICAL:
            raise _chain_damaged(medium, 'it has no end')
        seen.add(place)
        link = None
        for _, kind, start, count in _primary(sector):
            if not kind or not count:
                continue
            if kind in _EXTENDED:
                link = base + start if link is None else link
            else:
                yield kind, place + start, count
        if link is None:
            return
        place = link


def _chain_damaged(medium: block.Medium, why: str) -> errors.DamagedError:
    return errors.DamagedError(
        f'the chain of its logical partitions is damaged: {why}',
        subject=medium.name,
        hint='look at it with fdisk -l',
    )


def _gpt(
    medium: block.Medium, sector: int, size: int, notes: tuple[str, ...]
) -> Table | None:
    if sector < 1:
        return None
    header = medium.read(sector * size, size)
    if header[:8] != GPT_MAGIC:
        return None
    length, crc = struct.unpack_from('<II', header, 12)
    if not 92 <= length <= size:
        return None
    blanked = header[:16] + bytes(4) + header[20:length]
    first, count, width, entries_crc = struct.unpack_from('<QIII', header, 72)
    if (
        zlib.crc32(blanked) != crc
        or struct.unpack_from('<Q', header, 24)[0] != sector
        or width not in _ENTRY_SIZES
        or count > _ENTRIES
    ):
        return None
    data = medium.read(first * size, count * width)
    if len(data) < count * width or zlib.crc32(data) != entries_crc:
        return None
    return Table('gpt', tuple(_gpt_entries(data, width, size)), notes)


def _gpt_entries(
    data: bytes, width: int, size: int
) -> Iterator[PartitionEntry]:
    for index in range(len(data) // width):
        offset = index * width
        kind = uuid.UUID(bytes_le=data[offset : offset + 16])
        if not kind.int:
            continue
        first, last, flags = struct.unpack_from('<QQQ', data, offset + 32)
        yield PartitionEntry(
            number=index + 1,
            start=first * size,
            size=max(0, last - first + 1) * size,
            type=str(kind),
            type_name=_GPT_NAMES.get(str(kind)),
            uuid=str(uuid.UUID(bytes_le=data[offset + 16 : offset + 32])),
            label=data[offset + 56 : offset + 128]
            .decode('utf-16-le', 'replace')
            .partition('\0')[0],
            is_auto=not flags & _NO_AUTO,
        )
