# SPDX-License-Identifier: Apache-2.0

"""Read files straight out of the blocks of a filesystem.

The image is not trusted. Every number is checked against the filesystem that
it is a part of, trees have the depth that they may have and go forwards only.
The formats are those of the kernel's Documentation/filesystems/ext4.

Extended attributes are what getxattr(2) returns. They are in the inode, in a
block beside it, and large values in inodes of their own (attributes.rst).
"""

from collections.abc import Callable, Iterator
import contextlib
import pathlib
import struct

from amiclient import errors
from amiclient.ext import inodes
from amiclient.ext.inodes import Inode
from amiclient.ext.layout import damaged
from amiclient.ext.layout import Layout
from amiclient.ext import superblock
from amiclient.files import BlockRun
from amiclient.files import Files
from amiclient import sparse

ROOT = 2

#: The longest target of a symbolic link.
_TARGET = 4096

#: Levels of an extent tree (EXT4_MAX_EXTENT_DEPTH), and what it may hold.
_DEPTH = 5
_EXTENTS_AT_MOST = 1 << 18

#: Of a block of attributes: bytes before the first.
_XATTR_HEADER = 32

#: The largest value that the kernel takes: XATTR_SIZE_MAX.
_LARGEST_XATTR = 1 << 16

#: What holds the content of a small file, and is no attribute of it.
_INLINE_DATA = b'system.data'


#: Reads what is in an inode, of so many bytes at most.
_Content = Callable[[Inode, int], bytes]


@contextlib.contextmanager
def opened(image: pathlib.Path) -> Iterator['Reader']:
    """Open an ext2, ext3 or ext4 filesystem for reading.

    A journal that needs recovery is not replayed: then a file may be missing
    or old.

    :raises SourceError: if there is none, or it cannot be read.
    :raises DamagedError: if it makes no sense.
    """
    with errors.about(image), Layout.opened(image) as layout:
        yield Reader(layout)


class Reader(Files[Inode]):
    """The files of one filesystem."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(ROOT, layout.superblock.block_size)
        self.superblock = layout.superblock
        self.layout = layout

    def inode(self, number: int, path: str) -> Inode:
        """Read an inode, which must be one that can be."""
        if not 0 < number <= self.superblock.inode_count:
            raise damaged(f'{path} has the impossible inode {number}')
        return self.layout.inode(number, path)

    def xattrs(self, node: Inode) -> dict[bytes, bytes]:
        """Read all attributes of a file, as getxattr(2) has them."""
        return _attributes(self.layout, node, self.read)

    def damaged(self, what: str) -> errors.DamagedError:
        """Say that something makes no sense, and what to do about it."""
        return damaged(what)

    def link_target(self, node: Inode) -> bytes:
        """Read what a symbolic link says, whatever that is.

        :raises DamagedError: if that cannot be.
        """
        if node.size > _TARGET:
            raise damaged(f'{node.path} leads too far')
        data = node.fast_target
        return b''.join(self.chunks(node)) if data is None else data

    def ranges(self, node: Inode) -> list[tuple[int, int]]:
        """Tell where a file has data: offset and length, ascending."""
        if node.is_inline:
            return [(0, len(self._inline(node)))]
        return super().ranges(node)

    def data(self, node: Inode) -> Iterator[tuple[int, bytes]]:
        """Read what :meth:`ranges` tells, piece by piece, with offsets."""
        if node.is_inline:
            yield 0, self._inline(node)
            return
        yield from super().data(node)

    def _names(self, directory: Inode) -> Iterator[tuple[bytes, int]]:
        if directory.size > self.superblock.size:
            raise damaged(f'{directory.path} cannot be that large')
        for block in self.directory(directory):
            yield from inodes.names(block)

    @staticmethod
    def _inline(node: Inode) -> bytes:
        return (node.body + node.inline_rest)[: node.size]

    def directory(self, node: Inode) -> Iterator[bytes]:
        """Read the blocks of a directory."""
        if node.is_inline:
            # The parent's inode comes first.
            yield node.body[4:]
            yield node.inline_rest
            return
        block = self.superblock.block_size
        for chunk in self.chunks(node):
            for start in range(0, len(chunk), block):
                yield chunk[start : start + block]

    def blocks(self, node: Inode) -> tuple[int, ...] | None:
        """Return the blocks that a regular file lies in, in order.

        :returns: None if it has holes, lies in its inode, is encrypted or
            sealed, or may share its blocks: what is written to them is not
            its content then, or not its alone.
        """
        shared = superblock.RO_COMPAT_SHARED_BLOCKS
        if self.superblock.ro_compat & shared:
            return None
        if not node.is_file or node.is_special:
            return None
        count = -(-node.size // self.superblock.block_size)
        found: list[int] = []
        for run in self._runs(node):
            if not run.physical or run.logical != len(found):
                return None
            few = min(run.count, count - len(found))
            found += range(run.physical, run.physical + few)
        return tuple(found) if len(found) == count else None

    def journal(self) -> list[sparse.Run]:
        """Find the blocks of the journal's transactions.

        :returns: all of its blocks but the first, its own superblock.
        """
        found = self.superblock
        if not found.has_journal or not found.journal_inode:
            return []
        runs = self._runs(self.inode(found.journal_inode, 'the journal'))
        return sparse.merge(
            (run.physical + (not run.logical), run.physical + run.count)
            for run in runs
            if run.physical and run.logical + run.count > 1
        )

    def _bytes_at(self, offset: int, count: int) -> bytes:
        return self.layout.read(offset, count)

    def _runs(self, node: Inode) -> Iterator[BlockRun]:
        body = node.body
        blocks = -(-node.size // self.superblock.block_size)
        if node.has_extents:
            runs = self._extents(body, node, _DEPTH, [0])
        else:
            runs = self._mapped(body, blocks)
        last = 0
        for run in runs:
            if run.logical >= blocks:
                return
            end = run.physical + run.count
            if run.logical < last or end > self.superblock.block_count:
                raise damaged(f'the blocks of {node.path} make no sense')
            last = run.logical + run.count
            yield run

    def _extents(
        self, data: bytes, node: Inode, depth: int, seen: list[int]
    ) -> Iterator[BlockRun]:
        magic, entries, _, level, _ = inodes.EXTENT_HEADER.unpack_from(data)
        end = 12 + 12 * entries
        if magic != inodes.EXTENT_MAGIC or level > depth or end > len(data):
            raise damaged(f'the extents of {node.path} make no sense')
        for start in range(12, end, 12):
            seen[0] += 1
            if seen[0] > _EXTENTS_AT_MOST:
                raise damaged(f'{node.path} has too many extents')
            if level:
                _, low, high, _ = inodes.EXTENT_INDEX.unpack_from(data, start)
                child = self._block(low | high << 32, node.path)
                yield from self._extents(child, node, level - 1, seen)
                continue
            logical, count, high, low = inodes.EXTENT.unpack_from(data, start)
            if count > inodes.LONGEST:
                # Allocated, but never written to.
                yield BlockRun(logical, count - inodes.LONGEST, 0)
            else:
                yield BlockRun(logical, count, low | high << 32)

    def _mapped(self, body: bytes, blocks: int) -> Iterator[BlockRun]:
        numbers = struct.unpack('<15I', body)
        per = self.superblock.block_size // 4
        position = 0
        for number in numbers[:12]:
            if position >= blocks:
                return
            yield BlockRun(position, 1, number)
            position += 1
        for level, number in enumerate(numbers[12:], 1):
            if position >= blocks:
                return
            yield from self._indirect(number, level, position, blocks)
            position += per**level

    def _indirect(
        self, number: int, level: int, position: int, blocks: int
    ) -> Iterator[BlockRun]:
        if not number:
            return
        per = self.superblock.block_size // 4
        data = self._block(number, 'a file')
        below: int = per ** (level - 1)
        for child in struct.unpack(f'<{per}I', data):
            if position >= blocks:
                return
            if level > 1:
                yield from self._indirect(child, level - 1, position, blocks)
            elif child:
                yield BlockRun(position, 1, child)
            position += below

    def _block(self, number: int, path: str) -> bytes:
        if not 0 < number < self.superblock.block_count:
            raise damaged(f'the blocks of {path} make no sense')
        return self.layout.blocks(number)


def _attributes(
    layout: Layout, node: Inode, content: _Content
) -> dict[bytes, bytes]:
    """Read all attributes of a file.

    :returns: values by full name.
    :raises DamagedError: if they make no sense.
    """
    found: dict[bytes, bytes] = {}
    magic = inodes.XATTR_MAGIC.to_bytes(4, 'little')
    raw, start = node.raw, node.xattr_start
    if start and raw[start : start + 4] == magic:
        found.update(_entries(layout, content, node, raw[start + 4 :], 0))
    if node.xattr_block:
        if node.xattr_block >= layout.superblock.block_count:
            raise _senseless(node)
        block = layout.blocks(node.xattr_block)
        if block[:4] != magic:
            raise _senseless(node)
        found.update(_entries(layout, content, node, block, _XATTR_HEADER))
    found.pop(_INLINE_DATA, None)
    return found


def _entries(
    layout: Layout,
    content: _Content,
    node: Inode,
    data: bytes,
    position: int,
) -> Iterator[tuple[bytes, bytes]]:
    """Read entries.

    :param data: what the places of values count in.
    :param position: of the first entry.
    """
    while any(data[position : position + 4]):
        if position + inodes.XATTR.size > len(data):
            raise _senseless(node)
        length, index, place, inode, size, _ = inodes.XATTR.unpack_from(
            data, position
        )
        position += inodes.XATTR.size
        rest = data[position : position + length]
        position += length + 3 & ~3
        name = _name(index, rest)
        if name is None or len(rest) < length or size > _LARGEST_XATTR:
            raise _senseless(node)
        if inode:
            holder = layout.inode(inode, f'an attribute of {node.path}')
            value = content(holder, _LARGEST_XATTR)
        else:
            value = data[place : place + size] if size else b''
        if len(value) != size:
            raise _senseless(node)
        yield name, _acl(value, node) if index in inodes.ACLS else value


def _name(index: int, rest: bytes) -> bytes | None:
    for name, number in inodes.XATTR_WHOLE.items():
        if index == number and not rest:
            return name
    for prefix, number in inodes.XATTR_PREFIXES:
        if index == number and rest:
            return prefix + rest
    return None


def _acl(stored: bytes, node: Inode) -> bytes:
    """Turn what is stored of an access control list into what is returned."""
    value = struct.pack('<I', inodes.ACL_VERSION)
    position = 4
    if stored[:4] != struct.pack('<I', inodes.ACL_STORED):
        raise _senseless(node)
    while position < len(stored):
        if position + 4 > len(stored):
            raise _senseless(node)
        tag, rights = struct.unpack_from('<HH', stored, position)
        position += 4
        number = b'\xff\xff\xff\xff'
        if tag in inodes.ACL_NAMED:
            number = stored[position : position + 4]
            position += 4
        if len(number) < 4:
            raise _senseless(node)
        value += struct.pack('<HH', tag, rights) + number
    return value


def _senseless(node: Inode) -> errors.DamagedError:
    return errors.DamagedError(
        f'the attributes of {node.path} make no sense',
        hint='mend a copy with e2fsck',
    )
