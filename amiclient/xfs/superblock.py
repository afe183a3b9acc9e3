# SPDX-License-Identifier: Apache-2.0

"""The superblock of an XFS filesystem, and whether its log is clean.

The formats are those of "XFS Algorithms & Data Structures", and of the
kernel's fs/xfs/libxfs/xfs_format.h and xfs_log_format.h. All numbers are
big-endian, but for checksums.
"""

from collections.abc import Callable
import dataclasses
import uuid

from amiclient import errors
from amiclient.ext.writer import checksums

#: Reads so many bytes of the filesystem, from its beginning on; fewer where
#: the disk ends.
Read = Callable[[int, int], bytes]

#: Bytes of the smallest and of the largest sector: the superblock has one.
_SECTOR = 512
_LARGEST_SECTOR = 32 << 10

_MAGIC = b'XFSB'
_CRC_AT = 224

#: Bits of the version. One with shared blocks of the whole filesystem, or
#: with directories of the first format, is older than Linux.
_NUMBER = 0x000F
_SHARED = 0x0200
_DIRECTORIES_2 = 0x2000
_MORE_BITS = 0x8000
#: A bit of the second features of version 4.
_TYPES_2 = 0x0200

#: Features without which nothing can be read, and that are known here: types
#: of files in directories, sparse inode chunks, a UUID of the metadata's own,
#: times beyond 2038, counts of extents of 64 bits, exchange of ranges,
#: pointers to parents.
_TYPES = 0x0001
_KNOWN = _TYPES | 0x0002 | 0x0004 | 0x0008 | 0x0020 | 0x0040 | 0x0080

#: Of a record of the log: its magic number, and where its fields are. There is
#: a header for each 32 KiB of at most 256 KiB.
_RECORD = 0xFEEDBABE
_CYCLE_AT, _VERSION_AT, _LENGTH_AT, _OPERATIONS_AT, _SIZE_AT = (
    4,
    8,
    12,
    40,
    320,
)
_HEADER_COVERS = 32 << 10
_LONGEST = (256 << 10) // _SECTOR + 8
#: Of an operation: where its flags are, and that which says that the
#: filesystem was unmounted.
_FLAGS_AT = 9
_UNMOUNTED = 0x20


@dataclasses.dataclass(frozen=True, kw_only=True)
class XfsSuperblock:
    """What a superblock says.

    :param block_size: bytes.
    :param block_count: blocks of the filesystem.
    :param group_blocks: blocks of an allocation group, but for the last.
    :param group_bits: of the number of a block that count within its group.
    :param slot_bits: of the number of an inode that count within its block.
    :param directory_blocks: blocks that make one of a directory.
    :param root: the inode of the root directory.
    :param has_crc: whether it has version 5: checksums, and owners.
    :param has_types: whether directories have the types of files.
    :param log_start: bytes from the beginning of the filesystem.
    :param log_size: bytes of the log.
    """

    block_size: int
    block_count: int
    free_blocks: int
    group_blocks: int
    group_count: int
    group_bits: int
    inode_size: int
    slot_bits: int
    directory_blocks: int
    root: int
    has_crc: bool
    has_types: bool
    log_start: int
    log_size: int
    uuid: str
    label: str

    @property
    def size(self) -> int:
        """Bytes that the filesystem takes."""
        return self.block_count * self.block_size

    @property
    def in_use(self) -> int:
        """Bytes in use, but for the log."""
        free = self.free_blocks * self.block_size
        return max(0, self.size - free - self.log_size)


def load(read: Read) -> XfsSuperblock:
    """Read the superblock of a filesystem.

    :raises UnsupportedError: if it has features that are not known here, or
        its log has changes that are not in place yet.
    :raises DamagedError: if it makes no sense.
    """
    found = _parse(read(0, _LARGEST_SECTOR))
    if len(read(found.size - _SECTOR, _SECTOR)) < _SECTOR:
        raise damaged('it ends before its last block')
    if not _is_clean(read, found):
        raise errors.UnsupportedError('its log has to be replayed')
    return found


def _parse(data: bytes) -> XfsSuperblock:
    version = _u16(data, 100)
    number = version & _NUMBER
    if len(data) < _LARGEST_SECTOR or data[:4] != _MAGIC or not number:
        raise damaged('it has no superblock')
    _refuse_unknown(data, version)
    block_log, sector_log, inode_log, slot_log, group_log = data[120:125]
    directory_log = data[192]
    block = _u32(data, 4)
    types = _u32(data, 200) & _TYPES_2 if version & _MORE_BITS else 0
    if number == 5:
        types = _u32(data, 216) & _TYPES
    groups, group_blocks = _u32(data, 88), _u32(data, 84)
    count = _u64(data, 8)
    log_group, log_block = divmod(_u64(data, 48), 1 << min(group_log, 32))
    log_first = log_group * group_blocks + log_block
    log_count = _u32(data, 96)
    sane = (
        9 <= sector_log <= 15
        and _u16(data, 102) == 1 << sector_log
        and 9 <= block_log <= 16
        and block == 1 << block_log
        and (9 if number == 5 else 8) <= inode_log <= 11
        and _u16(data, 104) == 1 << inode_log
        and slot_log == block_log - inode_log >= 0
        and directory_log <= 16 - block_log
        and 64 <= group_blocks <= 1 << 31
        and group_log == (group_blocks - 1).bit_length()
        and (groups - 1) * group_blocks < count <= groups * group_blocks
        and _u64(data, 144) <= count
        and log_block + log_count <= group_blocks
        and log_first + log_count <= count
        and log_count > 0
        and not data[126]
    )
    if not sane or (
        number == 5 and not has_checksum(data[: 1 << sector_log], _CRC_AT)
    ):
        raise damaged('the superblock is damaged')
    return XfsSuperblock(
        block_size=block,
        block_count=count,
        free_blocks=_u64(data, 144),
        group_blocks=group_blocks,
        group_count=groups,
        group_bits=group_log,
        inode_size=1 << inode_log,
        slot_bits=slot_log,
        directory_blocks=1 << directory_log,
        root=_u64(data, 56),
        has_crc=number == 5,
        has_types=bool(types),
        log_start=log_first * block,
        log_size=log_count * block,
        uuid=str(uuid.UUID(bytes=data[32:48])),
        label=data[108:120].split(b'\0')[0].decode('utf-8', 'replace'),
    )


def _refuse_unknown(data: bytes, version: int) -> None:
    # What a log holds by the last of them, only a newer kernel replays.
    unknown = (
        _u32(data, 216) & ~_KNOWN | _u32(data, 220)
        if version & _NUMBER == 5
        else 0
    )
    if (
        version & _NUMBER not in (4, 5)
        or not version & _DIRECTORIES_2
        or version & _SHARED
        or unknown
    ):
        raise errors.UnsupportedError('it has features that are not known')
    if _u64(data, 16) or _u64(data, 24):
        raise errors.UnsupportedError('it has a realtime device')
    if not _u64(data, 48):
        raise errors.UnsupportedError('its log is on another device')


def has_checksum(data: bytes, place: int) -> bool:
    """Tell whether a checksum is right.

    :param data: what it is of.
    :param place: of its own four bytes in there.
    """
    plain = data[:place] + bytes(4) + data[place + 4 :]
    right = ~checksums.crc32c(0xFFFFFFFF, plain) & 0xFFFFFFFF
    return data[place : place + 4] == right.to_bytes(4, 'little')


def damaged(what: str) -> errors.DamagedError:
    """Say what is damaged that xfs_repair may repair."""
    return errors.DamagedError(what, hint='repair a copy with xfs_repair')


def _is_clean(read: Read, found: XfsSuperblock) -> bool:
    """Tell whether what was last written to the log says so.

    As xlog_find_head() and xlog_find_tail() of the kernel do: each sector
    begins with the number of the pass in which it was written. So the end of
    the last record is where that number falls. Where sectors of the last
    passes are mixed, after a crash, the last record is another one.
    """
    count = found.log_size // _SECTOR

    def sectors(first: int, number: int) -> bytes:
        start = found.log_start + first * _SECTOR
        data = read(start, number * _SECTOR)
        if len(data) < number * _SECTOR:
            raise damaged('it ends in its log')
        return data

    low, high = 0, count - 1
    newest, oldest = _cycle(sectors(low, 1)), _cycle(sectors(high, 1))
    if not newest and not oldest:
        # Nothing was ever written to it.
        return True
    if newest == oldest:
        # The last record ends where the log does.
        low, high = count - 1, count
    while high - low > 1:
        middle = (low + high) // 2
        if _cycle(sectors(middle, 1)) == oldest:
            high = middle
        else:
            low = middle
    few = min(_LONGEST, count)
    first = (high - few) % count
    data = sectors(first, min(few, count - first))
    if first + few > count:
        data += sectors(0, few - (count - first))
    return _ends_with_unmount(data)


def _cycle(sector: bytes) -> int:
    first = _u32(sector, 0)
    return _u32(sector, _CYCLE_AT) if first == _RECORD else first


def _ends_with_unmount(data: bytes) -> bool:
    """Look at the last record in sectors that end where the log does."""
    for start in range(len(data) - _SECTOR, -1, -_SECTOR):
        if _u32(data, start) == _RECORD:
            break
    else:
        return False
    headers = 1
    if _u32(data, start + _VERSION_AT) & 2:
        size = _u32(data, start + _SIZE_AT)
        headers = max(1, -(-size // _HEADER_COVERS))
    body = start + headers * _SECTOR
    return (
        _u32(data, start + _OPERATIONS_AT) == 1
        and body + _u32(data, start + _LENGTH_AT) == len(data)
        and body < len(data)
        and bool(data[body + _FLAGS_AT] & _UNMOUNTED)
    )


def _u16(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 2])


def _u32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4])


def _u64(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 8])
