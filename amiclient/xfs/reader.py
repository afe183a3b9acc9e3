# SPDX-License-Identifier: Apache-2.0

"""Read files straight out of the blocks of an XFS filesystem.

Directories, symbolic links and attributes; what they lie in is the subject of
:mod:`amiclient.xfs.inodes`. The formats are those of the kernel's
fs/xfs/libxfs/xfs_da_format.h.

The image is not trusted: every number is checked against what it counts in.
"""

import bisect
from collections.abc import Iterator, Sequence
import itertools
import struct

from amiclient import errors
from amiclient.files import BlockRun
from amiclient.files import Files
from amiclient.xfs import inodes
from amiclient.xfs.inodes import IdentityPlace
from amiclient.xfs.inodes import XfsInode
from amiclient.xfs import superblock
from amiclient.xfs.superblock import damaged

#: A block of a directory: its magic number if it is all of the directory, and
#: if it is one of several; and where entries begin. The second of each pair
#: is for filesystems with checksums, as in all that follows.
_WHOLE = (b'XD2B', b'XDB3')
_PART = (b'XD2D', b'XDD3')
_ENTRIES_AT = (16, 64)
_IN_DIRECTORY = IdentityPlace(4, 8, 40)
#: What an unused entry begins with.
_UNUSED = 0xFFFF

#: A block of a tree of attributes: its magic number if it is a leaf, and if
#: it is not; where its count is, and where entries begin in either.
_LEAF = (0xFBEE, 0x3BEE)
_NODE = (0xFEBE, 0x3EBE)
_MAGIC_AT = 8
_COUNT_AT = (12, 56)
_LEAF_AT = (32, 80)
_NODE_AT = (16, 64)
_IN_TREE = IdentityPlace(12, 16, 48)
_DEPTH = 5

#: A value, or the target of a link, in blocks of its own: what they begin
#: with where there are checksums.
_REMOTE, _LINK = b'XARM', b'XSLM'
_REMOTE_HEADER = struct.Struct('>4sII')
_REMOTE_SIZE = 56
_IN_REMOTE = IdentityPlace(12, 40, 32)

#: An entry of a leaf: hash, place, flags and a byte of nothing; and of what is
#: above: hash, and a block (32 bits).
_TREE_ENTRY = struct.Struct('>IHH')
#: What it tells of: the size of the value, if that is beside the name, else
#: its first block and its size; and the length of the name.
_BESIDE_HEADER, _REMOTE_ENTRY = struct.Struct('>HB'), struct.Struct('>IIB')

#: Flags of attributes: the value is beside the name; it only says in which
#: directory a file is, or was not written whole; and namespaces.
_BESIDE, _IGNORED = 0x01, 0x08 | 0x80
_NAMESPACES = {0: b'user.', 0x02: b'trusted.', 0x04: b'security.'}

#: The largest value, and the longest target, that the kernel takes:
#: XATTR_SIZE_MAX, XFS_SYMLINK_MAXLEN.
_LARGEST = 1 << 16
_TARGET = 1024

#: Names of the access control lists, as XFS and as getxattr(2) have them. An
#: entry is tag, number and rights; only those of named users and groups have
#: a number there (include/uapi/linux/posix_acl_xattr.h).
_LISTS = {
    b'trusted.SGI_ACL_FILE': b'system.posix_acl_access',
    b'trusted.SGI_ACL_DEFAULT': b'system.posix_acl_default',
}
_STORED = struct.Struct('>IIHxx')
_RETURNED = struct.Struct('<HHI')
_VERSION = struct.pack('<I', 2)
_NAMED = (0x02, 0x08)
_UNDEFINED = 0xFFFFFFFF


class XfsReader(Files[XfsInode]):
    """The files of one filesystem.

    :param read: reads bytes of it.
    :raises UnsupportedError: if it has what is not known here, or its log has
        changes that are not in place yet.
    :raises DamagedError: if its superblock makes no sense.
    """

    def __init__(self, read: superblock.Read) -> None:
        self.superblock = superblock.load(read)
        super().__init__(self.superblock.root, self.superblock.block_size)
        self._blocks = inodes.XfsBlocks(read, self.superblock)
        #: Which of two forms things have.
        self._form = int(self.superblock.has_crc)
        self._type_size = int(self.superblock.has_types)

    def inode(self, number: int, path: str) -> XfsInode:
        """Read an inode, which must be in use."""
        return self._blocks.inode(number, path)

    def damaged(self, what: str) -> errors.DamagedError:
        """Say that something makes no sense, and what to do about it."""
        return damaged(what)

    def link_target(self, node: XfsInode) -> bytes:
        """Read what a symbolic link says, whatever that is."""
        if node.size > _TARGET:
            raise damaged(f'{node.path} leads too far')
        if node.content.format == inodes.LOCAL:
            target = node.content.data[: node.size]
            if len(target) < node.size:
                raise _senseless(node)
            return target
        pieces = ((run.physical, run.count) for run in self._runs(node))
        return self._remote(node, pieces, node.size, _LINK)

    def xattrs(self, node: XfsInode) -> dict[bytes, bytes]:
        """Read all attributes of a file, as getxattr(2) has them."""
        fork = node.attributes
        if not fork.data or (
            fork.format == inodes.EXTENTS and not fork.extents
        ):
            return {}
        found = {}
        entries = (
            self._short_attributes(node)
            if fork.format == inodes.LOCAL
            else self._long_attributes(node)
        )
        for flags, rest, value in entries:
            if flags & _IGNORED:
                continue
            prefix = _NAMESPACES.get(flags & ~_BESIDE)
            if prefix is None or not rest or len(value) > _LARGEST:
                raise _senseless(node)
            name = prefix + rest
            if name in _LISTS:
                name, value = _LISTS[name], _list(value, node)
            found[name] = value
        return found

    def _bytes_at(self, offset: int, count: int) -> bytes:
        return self._blocks.read(offset, count)

    def _runs(self, node: XfsInode) -> Iterator[BlockRun]:
        blocks = -(-node.size // self.superblock.block_size)
        for run in self._blocks.runs(node, node.content):
            if run.logical >= blocks:
                return
            yield run

    def _names(self, directory: XfsInode) -> Iterator[tuple[bytes, int]]:
        if directory.content.format == inodes.LOCAL:
            yield from self._short_names(directory)
            return
        for first, data in self._directory(directory):
            yield from self._block_names(data, first, directory)

    def _short_names(self, node: XfsInode) -> Iterator[tuple[bytes, int]]:
        data = node.content.data[: node.size]
        if len(data) < 6:
            raise _senseless(node)
        # Either all numbers of inodes have 4 bytes, or all have 8.
        count, width = data[0], 8 if data[1] else 4
        position = 2 + width
        for _ in range(count):
            start = position + 3
            end = start + (data[position] if start <= len(data) else 0)
            place = end + self._type_size
            position = place + width
            if end == start or position > len(data):
                raise _senseless(node)
            yield data[start:end], int.from_bytes(data[place:position])

    def _directory(self, node: XfsInode) -> Iterator[tuple[int, bytes]]:
        """Read the blocks of a directory that have names.

        :returns: the number of the first block of each, and all its bytes.
        """
        block, per = self._block_size, self.superblock.directory_blocks
        if node.size > self.superblock.size or node.size % (block * per):
            raise _senseless(node)
        parts: list[bytes] = []
        first = 0
        for run in self._runs(node):
            for number in range(run.count):
                slot = (run.logical + number) % per
                if slot != len(parts) or not run.physical:
                    raise _senseless(node)
                if not parts:
                    first = run.physical + number
                parts.append(self._blocks.block(run.physical + number))
                if len(parts) == per:
                    yield first, b''.join(parts)
                    parts.clear()
        if parts:
            raise _senseless(node)

    def _block_names(
        self, data: bytes, first: int, node: XfsInode
    ) -> Iterator[tuple[bytes, int]]:
        self._blocks.checked(data, first, _IN_DIRECTORY, node)
        end = len(data)
        if data[:4] == _WHOLE[self._form]:
            # Behind them are their hashes, and at the end how many.
            end -= 8 + 8 * int.from_bytes(data[-8:-4])
        elif data[:4] != _PART[self._form]:
            raise _senseless(node)
        position = _ENTRIES_AT[self._form]
        while position < end:
            if int.from_bytes(data[position : position + 2]) == _UNUSED:
                length = int.from_bytes(data[position + 2 : position + 4])
                if not length or length % 8:
                    raise _senseless(node)
                position += length
                continue
            start = position + 9
            stop = start + (data[position + 8] if start < end else 0)
            # After the name: its type, and where the entry is.
            after = stop + self._type_size + 2 + 7 & ~7
            if stop == start or after > end:
                raise _senseless(node)
            name = data[start:stop]
            if name not in (b'.', b'..'):
                yield name, int.from_bytes(data[position : position + 8])
            position = after
        if position != end:
            raise _senseless(node)

    def _short_attributes(
        self, node: XfsInode
    ) -> Iterator[tuple[int, bytes, bytes]]:
        data = node.attributes.data
        size, count = int.from_bytes(data[:2]), data[2]
        if size > len(data):
            raise _senseless(node)
        position = 4
        for _ in range(count):
            if position + 3 > size:
                raise _senseless(node)
            length, value, flags = data[position : position + 3]
            start = position + 3
            position = start + length + value
            if position > size:
                raise _senseless(node)
            yield (
                flags,
                data[start : start + length],
                data[start + length : position],
            )

    def _long_attributes(
        self, node: XfsInode
    ) -> Iterator[tuple[int, bytes, bytes]]:
        """Read the leaves of a tree, which is at the first block."""
        runs = list(self._blocks.runs(node, node.attributes))
        waiting, seen = [(0, _DEPTH)], set()
        while waiting:
            logical, depth = waiting.pop()
            if logical in seen or not depth:
                raise _senseless(node)
            seen.add(logical)
            first = _mapped(runs, logical, node)
            data = self._blocks.checked(
                self._blocks.block(first), first, _IN_TREE, node
            )
            magic = int.from_bytes(data[_MAGIC_AT : _MAGIC_AT + 2])
            at = _COUNT_AT[self._form]
            count = int.from_bytes(data[at : at + 2])
            if magic == _LEAF[self._form]:
                start = _LEAF_AT[self._form]
            elif magic == _NODE[self._form]:
                start = _NODE_AT[self._form]
            else:
                raise _senseless(node)
            if start + 8 * count > len(data):
                raise _senseless(node)
            entries = _TREE_ENTRY.iter_unpack(data[start : start + 8 * count])
            if magic == _NODE[self._form]:
                waiting.extend(
                    (high << 16 | low, depth - 1)
                    for _, high, low in reversed(list(entries))
                )
                continue
            for _, place, flags in entries:
                yield self._attribute(data, place, flags >> 8, runs, node)

    def _attribute(
        self,
        data: bytes,
        place: int,
        flags: int,
        runs: Sequence[BlockRun],
        node: XfsInode,
    ) -> tuple[int, bytes, bytes]:
        """Read one that an entry of a leaf tells of."""
        form = _BESIDE_HEADER if flags & _BESIDE else _REMOTE_ENTRY
        if place + form.size > len(data):
            raise _senseless(node)
        fields = form.unpack_from(data, place)
        start = place + form.size
        end = start + fields[-1]
        size = fields[-2]
        value = b''
        if flags & _BESIDE:
            value = data[end : end + size]
        elif not flags & _IGNORED and size <= _LARGEST:
            value = self._remote(
                node,
                (
                    (_mapped(runs, n, node), 1)
                    for n in itertools.count(fields[0])
                ),
                size,
                _REMOTE,
            )
        if end > len(data) or (len(value) < size and not flags & _IGNORED):
            raise _senseless(node)
        return flags, data[start:end], value

    def _remote(
        self,
        node: XfsInode,
        pieces: Iterator[tuple[int, int]],
        size: int,
        magic: bytes,
    ) -> bytes:
        """Read what is in blocks of its own.

        :param pieces: blocks that begin with a header each: the number of the
            first, and how many.
        :param size: bytes.
        """
        found = b''
        header = _REMOTE_SIZE if self._form else 0
        while len(found) < size:
            first, count = next(pieces, (0, 0))
            if not count:
                raise _senseless(node)
            data = self._blocks.checked(
                self._blocks.block(first, count), first, _IN_REMOTE, node
            )
            piece = data[header:][: size - len(found)]
            if header and _REMOTE_HEADER.unpack_from(data) != (
                magic, len(found), len(piece),
            ):  # fmt: skip
                raise _senseless(node)
            found += piece
        return found


def _mapped(runs: Sequence[BlockRun], logical: int, node: XfsInode) -> int:
    """Tell where a block of a fork is."""
    index = bisect.bisect_right(runs, logical, key=lambda run: run.logical)
    if index:
        run = runs[index - 1]
        beyond = logical - run.logical
        if beyond < run.count and run.physical:
            return run.physical + beyond
    raise _senseless(node)


def _list(stored: bytes, node: XfsInode) -> bytes:
    """Turn a list of XFS into what getxattr(2) returns."""
    count = int.from_bytes(stored[:4])
    if len(stored) < 4 + count * _STORED.size:
        raise _senseless(node)
    return _VERSION + b''.join(
        _RETURNED.pack(
            tag & 0xFFFF, rights, number if tag in _NAMED else _UNDEFINED
        )
        for tag, number, rights in _STORED.iter_unpack(
            stored[4 : 4 + count * _STORED.size]
        )
    )


def _senseless(node: XfsInode) -> errors.DamagedError:
    return damaged(f'{node.path} makes no sense')
