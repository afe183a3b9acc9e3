# SPDX-License-Identifier: Apache-2.0

"""The lower half of the tree reader: blocks, inodes, maps of files.

Written from the kernel's documentation of the on-disk format
(Documentation/filesystems/ext4), not from this package, whose work it is
there to judge. It reads with pread(2) what is asked for and nothing else, so
that the size of the image does not matter.
"""

from collections.abc import Iterator
import dataclasses
import functools
import os
import pathlib
import struct
from types import TracebackType

INCOMPAT_RECOVER = 0x4
INCOMPAT_META_BG = 0x10
INCOMPAT_EXTENTS = 0x40
INCOMPAT_64BIT = 0x80
_INCOMPAT_KNOWN = (
    0x2  # filetype
    | 0x4  # needs_recovery
    | 0x10  # meta_bg
    | 0x40  # extents
    | 0x80  # 64bit
    | 0x100  # mmp
    | 0x200  # flex_bg
    | 0x400  # ea_inode
    | 0x2000  # metadata_csum_seed
    | 0x4000  # large_dir
    | 0x8000  # inline_data
    | 0x10000  # encrypt
    | 0x20000  # casefold
)
_COMPAT_SPARSE_SUPER2 = 0x200
_RO_COMPAT_SPARSE_SUPER = 0x1
_RO_COMPAT_BIGALLOC = 0x200
RO_COMPAT_PROJECT = 0x2000
RO_COMPAT_GROUP_CHECKSUMS = 0x10 | 0x400

FLAG_ENCRYPT = 0x800
FLAG_INDEX = 0x1000
FLAG_HUGE_FILE = 0x40000
FLAG_EXTENTS = 0x80000
FLAG_VERITY = 0x100000
FLAG_EOFBLOCKS = 0x400000
FLAG_INLINE_DATA = 0x10000000

ROOT_INODE = 2
_UNWRITTEN = 32768
_CHUNK = 1 << 20


class TreeError(Exception):
    """The image is not what a sound ext2/3/4 filesystem looks like."""


@dataclasses.dataclass(frozen=True)
class Run:
    """Blocks of a file that follow each other in the file and on disk.

    :param logical: the first one's number in the file.
    :param count: how many.
    :param physical: the first one's number in the filesystem.
    :param written: false if they are allocated but read as zeros.
    """

    logical: int
    count: int
    physical: int
    written: bool


@dataclasses.dataclass(frozen=True)
class Inode:
    """One inode record.

    :param number: its number.
    :param raw: the record, as long as the superblock says.
    """

    number: int
    raw: bytes

    def u16(self, offset: int) -> int:
        """Read 16 bits."""
        return int.from_bytes(self.raw[offset : offset + 2], 'little')

    def u32(self, offset: int) -> int:
        """Read 32 bits."""
        return int.from_bytes(self.raw[offset : offset + 4], 'little')

    @property
    def mode(self) -> int:
        """Type and permissions."""
        return self.u16(0)

    @property
    def size(self) -> int:
        """Bytes; for special files what the record holds there."""
        return self.u32(4) | self.u32(0x6C) << 32

    @property
    def flags(self) -> int:
        """All flags."""
        return self.u32(0x20)

    @property
    def generation(self) -> int:
        """What NFS file handles contain."""
        return self.u32(0x64)

    @property
    def body(self) -> bytes:
        """The 60 bytes of i_block."""
        return self.raw[0x28:0x64]

    @property
    def acl_block(self) -> int:
        """Where the block of extended attributes is, 0 if there is none."""
        return self.u32(0x68) | self.u16(0x76) << 32

    @property
    def end(self) -> int:
        """Where the fields of the record end and attributes may begin."""
        return 128 + self.u16(0x80) if len(self.raw) > 128 else 128

    def extra(self, offset: int) -> int | None:
        """Read 32 bits beyond the first 128 bytes, None if not there."""
        return self.u32(offset) if offset + 4 <= self.end else None

    def time(self, offset: int, extra: int) -> int:
        """Read a time.

        :param offset: where the seconds are.
        :param extra: where epoch bits and nanoseconds are.
        :returns: nanoseconds since 1970.
        """
        seconds = int.from_bytes(
            self.raw[offset : offset + 4], 'little', signed=True
        )
        more = self.extra(extra) or 0
        return (seconds + ((more & 3) << 32)) * 10**9 + (more >> 2)


class Filesystem:
    """An ext2, ext3 or ext4 filesystem in a file, opened read-only.

    :param path: the image.
    :raises TreeError: if there is none, or of a kind that is not known here.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = pathlib.Path(path)
        self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._read_superblock()
            self._tables = self._read_descriptors()
        except BaseException:
            os.close(self._fd)
            raise
        # A block of the inode table holds many inodes that are wanted one
        # after the other.
        self._table_block = functools.lru_cache(maxsize=256)(self.block)

    def __enter__(self) -> 'Filesystem':
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    def read(self, offset: int, length: int) -> bytes:
        """Read bytes of the image, all of them."""
        data = os.pread(self._fd, length, offset)
        while len(data) < length:
            more = os.pread(self._fd, length - len(data), offset + len(data))
            if not more:
                raise TreeError(f'{self.path} ends before byte {offset}')
            data += more
        return data

    def block(self, number: int) -> bytes:
        """Read one block."""
        self._check(number, 1)
        return self.read(number * self.block_size, self.block_size)

    def _check(self, number: int, count: int) -> None:
        if number < 1 or number + count > self.block_count:
            raise TreeError(f'block {number} (+{count}) is out of range')

    def _read_superblock(self) -> None:
        self.first_block: int
        self.blocks_per_group: int
        self.inodes_per_group: int
        raw = self.read(1024, 1024)
        (self.inode_count, low) = struct.unpack_from('<II', raw, 0)
        if raw[0x38:0x3A] != b'\x53\xef':
            raise TreeError(f'{self.path} holds no ext2/3/4 superblock')
        self.first_block, log, log_cluster = struct.unpack_from(
            '<III', raw, 0x14
        )
        self.block_size: int = 1024 << log
        self.blocks_per_group, _, self.inodes_per_group = struct.unpack_from(
            '<III', raw, 0x20
        )
        (revision,) = struct.unpack_from('<I', raw, 0x4C)
        self.inode_size = 128
        if revision:
            (self.inode_size,) = struct.unpack_from('<H', raw, 0x58)
        self._compat, self.incompat, self.ro_compat = struct.unpack_from(
            '<III', raw, 0x5C
        )
        if self.incompat & ~_INCOMPAT_KNOWN:
            raise TreeError(
                f'{self.path} has features that are not known here: '
                f'{self.incompat & ~_INCOMPAT_KNOWN:#x}'
            )
        self._descriptor_size, high = 32, 0
        if self.incompat & INCOMPAT_64BIT:
            (self._descriptor_size,) = struct.unpack_from('<H', raw, 0xFE)
            (high,) = struct.unpack_from('<I', raw, 0x150)
        self.block_count = low | high << 32
        (self._first_meta_bg,) = struct.unpack_from('<I', raw, 0x104)
        self._backups = struct.unpack_from('<II', raw, 0x24C)
        self.groups_per_flex = 1 << raw[0x174]
        self._ratio = 1
        if self.ro_compat & _RO_COMPAT_BIGALLOC:
            self._ratio = 1 << (log_cluster - log)
        self.cluster_size = self.block_size * self._ratio

    def _has_super(self, group: int) -> bool:
        if group == 0:
            return True
        if self._compat & _COMPAT_SPARSE_SUPER2:
            return group in self._backups
        if group == 1 or not self.ro_compat & _RO_COMPAT_SPARSE_SUPER:
            return True
        for base in (3, 5, 7):
            power = base
            while power < group:
                power *= base
            if power == group:
                return True
        return False

    def _descriptor_block(self, index: int) -> int:
        # With clusters the first group begins at block 0 even where blocks
        # are so small that the superblock is block 1.
        shift = int(self.block_size == 1024 and self._ratio > 1)
        if not self.incompat & INCOMPAT_META_BG or index < self._first_meta_bg:
            return self.first_block + 1 + index + shift
        group = index * (self.block_size // self._descriptor_size)
        first = self.first_block + group * self.blocks_per_group
        return first + self._has_super(group) + (shift if index == 0 else 0)

    def _read_descriptors(self) -> list[int]:
        blocks = self.block_count - self.first_block
        self.group_count = groups = -(-blocks // self.blocks_per_group)
        per_block = self.block_size // self._descriptor_size
        tables = []
        for index in range(-(-groups // per_block)):
            raw = self.block(self._descriptor_block(index))
            for slot in range(per_block):
                at = slot * self._descriptor_size
                (table,) = struct.unpack_from('<I', raw, at + 8)
                if self._descriptor_size >= 64:
                    (high,) = struct.unpack_from('<I', raw, at + 0x28)
                    table |= high << 32
                tables.append(table)
        return tables[:groups]

    def inode_offset(self, number: int) -> int:
        """Tell where in the image an inode is.

        :raises TreeError: if there can be no such inode.
        """
        if not 1 <= number <= self.inode_count:
            raise TreeError(f'inode {number} is out of range')
        group, index = divmod(number - 1, self.inodes_per_group)
        return self._tables[group] * self.block_size + index * self.inode_size

    def inode(self, number: int) -> Inode:
        """Read an inode.

        :raises TreeError: if there can be no such inode.
        """
        block, at = divmod(self.inode_offset(number), self.block_size)
        raw = self._table_block(block)
        return Inode(number, raw[at : at + self.inode_size])

    def runs(self, inode: Inode) -> list[Run]:
        """Tell where the blocks of an inode are, in the order of the file.

        :raises TreeError: if the map makes no sense.
        """
        if inode.flags & FLAG_EXTENTS:
            found = self._extents(inode.body, None)
        else:
            found = self._pointers(inode.body)
        runs: list[Run] = []
        for run in found:
            self._check(run.physical, run.count)
            last = runs[-1] if runs else None
            if last and run.logical < last.logical + last.count:
                raise TreeError(f'inode {inode.number} maps a block twice')
            if (
                last
                and run.logical == last.logical + last.count
                and run.physical == last.physical + last.count
                and run.written == last.written
            ):
                runs[-1] = dataclasses.replace(
                    last, count=last.count + run.count
                )
            else:
                runs.append(run)
        return runs

    def _extents(self, node: bytes, depth: int | None) -> Iterator[Run]:
        magic, entries, _, level = struct.unpack_from('<HHHH', node, 0)
        if magic != 0xF30A or depth not in (None, level):
            raise TreeError('an extent tree node has no magic or wrong depth')
        for at in range(12, 12 + 12 * entries, 12):
            if level:
                _, low, high = struct.unpack_from('<IIH', node, at)
                yield from self._extents(
                    self.block(low | high << 32), level - 1
                )
                continue
            logical, count, high, low = struct.unpack_from('<IHHI', node, at)
            written = count <= _UNWRITTEN
            yield Run(
                logical,
                count if written else count - _UNWRITTEN,
                low | high << 32,
                written,
            )

    def _pointers(self, body: bytes) -> Iterator[Run]:
        pointers = struct.unpack('<15I', body)
        for logical, physical in enumerate(pointers[:12]):
            if physical:
                yield Run(logical, 1, physical, True)
        logical, span = 12, self.block_size // 4
        for level, pointer in enumerate(pointers[12:]):
            yield from self._indirect(pointer, logical, level)
            logical += span ** (level + 1)

    def _indirect(
        self, pointer: int, logical: int, level: int
    ) -> Iterator[Run]:
        if not pointer:
            return
        span = self.block_size // 4
        pointers = struct.unpack(f'<{span}I', self.block(pointer))
        for index, physical in enumerate(pointers):
            if level:
                step = index * span**level
                yield from self._indirect(physical, logical + step, level - 1)
            elif physical:
                yield Run(logical + index, 1, physical, True)

    def pieces(self, runs: list[Run]) -> Iterator[tuple[int, bytes]]:
        """Read written blocks.

        :returns: pairs of an offset in the file and the bytes there, in the
            order of the file; what is not in one of them is zeros.
        """
        for run in runs:
            if not run.written:
                continue
            at, end = 0, run.count * self.block_size
            while at < end:
                length = min(_CHUNK, end - at)
                yield (
                    run.logical * self.block_size + at,
                    self.read(run.physical * self.block_size + at, length),
                )
                at += length

    def mapped(self, inode: Inode, size: int) -> bytes:
        """Read something small that lies in blocks.

        :param size: bytes.
        """
        data = bytearray(size)
        for at, piece in self.pieces(self.runs(inode)):
            if at < size:
                data[at : at + len(piece)] = piece[: size - at]
        return bytes(data)
