# SPDX-License-Identifier: Apache-2.0

"""Directories as ext4 stores them: a list in one block, or hashed.

Source: Documentation/filesystems/ext4/directory.rst of the kernel.
"""

from collections.abc import Collection, Mapping
import stat
import struct

from amiclient import errors
from amiclient.ext.inodes import DIRECTORY_ENTRY
from amiclient.ext.writer import checksums
from amiclient.ext.writer import nodes

_BLOCK = 4096

#: Each block of names ends in a record that holds its checksum.
_TAIL = 12
_ROOM = _BLOCK - _TAIL
_TAIL_TYPE = 0xDE

_TYPES = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}

#: Where the entries of an index begin, in the first block and in others, and
#: how many there is room for before the checksum.
_ROOT_AT, _NODE_AT = 32, 8
_ROOT_LIMIT = (_BLOCK - _ROOT_AT - 8) // 8
_NODE_LIMIT = (_BLOCK - _NODE_AT - 8) // 8

#: Blocks of a new directory for what e2fsck finds, as mke2fs makes it.
LOST_AND_FOUND = 4


def most_blocks(names: Collection[bytes]) -> int:
    """Return the blocks that a directory with some names takes at most."""
    length = sum(map(_length, names))
    if length <= _ROOM - 24:
        return 1
    leaves = 1 + length // (_ROOM + 4 - max(map(_length, names)))
    return leaves + 2 + leaves // _NODE_LIMIT


class DirectoryBlocks:
    """One directory, laid out: how many blocks it takes, and what is in them.

    :param number: of its inode.
    :param parent: of the directory that it is in.
    :param children: nodes that have their numbers, by name.
    :param hash_seed: by which names are hashed.
    :param blocks: that it takes at least.
    :ivar is_hashed: whether it has an index.
    :raises AmiError: if there are too many names.
    """

    def __init__(
        self,
        number: int,
        parent: int,
        children: Mapping[bytes, nodes.Node | nodes.Packed],
        hash_seed: tuple[int, ...],
        blocks: int = 1,
    ) -> None:
        self._dots = [
            (b'.', number, _TYPES[stat.S_IFDIR]),
            (b'..', parent, _TYPES[stat.S_IFDIR]),
        ]
        names = [
            (name, node.number, _TYPES[stat.S_IFMT(node.mode)])
            for name, node in sorted(children.items())
        ]
        room = _ROOM - 24 - sum(_length(name) for name, _, _ in names)
        self.is_hashed = room < 0
        self._leaves: list[list[_Name]] = [self._dots + names]
        self._hashes = [0]
        if self.is_hashed:
            self._divide(names, hash_seed)
        else:
            self._leaves += [[]] * (blocks - 1)

    @property
    def block_count(self) -> int:
        return len(self._leaves) + self.is_hashed * (1 + len(self._middle()))

    def blocks(self, seed: int) -> list[bytes]:
        """Make the blocks.

        :param seed: of the checksums of this inode.
        """
        leaves = [_leaf(names, seed) for names in self._leaves]
        if not self.is_hashed:
            return leaves
        middle = self._middle()
        first = 1 + len(middle)
        index = [(value, first + at) for at, value in enumerate(self._hashes)]
        if not middle:
            return [self._root(index, 0, seed), *leaves]
        upper = [(index[at][0], 1 + n) for n, at in enumerate(middle)]
        lower = [_node(index[at : at + _NODE_LIMIT], seed) for at in middle]
        return [self._root(upper, 1, seed), *lower, *leaves]

    def _middle(self) -> range:
        if len(self._leaves) <= _ROOT_LIMIT:
            return range(0)
        return range(0, len(self._leaves), _NODE_LIMIT)

    def _divide(
        self, names: 'list[_Name]', hash_seed: tuple[int, ...]
    ) -> None:
        self._leaves, self._hashes = [], []
        room, last = -1, 0
        for value, entry in sorted(
            (checksums.name_hash(entry[0], hash_seed), entry)
            for entry in names
        ):
            length = _length(entry[0])
            if length > room:
                # A block that goes on with the hash of the last is marked.
                again = bool(self._leaves) and value == last
                self._hashes.append(value | again)
                self._leaves.append([])
                room = _ROOM
            self._leaves[-1].append(entry)
            room, last = room - length, value
        if len(self._leaves) > _ROOT_LIMIT * _NODE_LIMIT:
            raise errors.AmiError('a directory has too many names')

    def _root(
        self, entries: list[tuple[int, int]], levels: int, seed: int
    ) -> bytes:
        (_, number, kind), (_, parent, _) = self._dots
        head = DIRECTORY_ENTRY.pack(number, 12, 1, kind) + b'.\0\0\0'
        head += DIRECTORY_ENTRY.pack(parent, _BLOCK - 12, 2, kind)
        head += b'..\0\0'
        head += struct.pack('<IBBBB', 0, checksums.HALF_MD4, 8, levels, 0)
        return _index(head, entries, _ROOT_LIMIT, seed)


_Name = tuple[bytes, int, int]


def _length(name: bytes) -> int:
    return 8 + -(-len(name) // 4) * 4


def _leaf(names: list[_Name], seed: int) -> bytes:
    data = bytearray(_BLOCK)
    at = 0
    for position, (name, number, kind) in enumerate(names):
        length = _length(name)
        if position == len(names) - 1:
            length = _ROOM - at
        DIRECTORY_ENTRY.pack_into(data, at, number, length, len(name), kind)
        data[at + 8 : at + 8 + len(name)] = name
        at += length
    if not names:
        DIRECTORY_ENTRY.pack_into(data, 0, 0, _ROOM, 0, 0)
    check = checksums.crc32c(seed, bytes(data[:_ROOM]))
    DIRECTORY_ENTRY.pack_into(data, _ROOM, 0, _TAIL, 0, _TAIL_TYPE)
    struct.pack_into('<I', data, _BLOCK - 4, check)
    return bytes(data)


def _node(entries: list[tuple[int, int]], seed: int) -> bytes:
    head = DIRECTORY_ENTRY.pack(0, _BLOCK, 0, 0)
    return _index(head, entries, _NODE_LIMIT, seed)


def _index(
    head: bytes, entries: list[tuple[int, int]], limit: int, seed: int
) -> bytes:
    # The first entry's hash is not needed, and has both counts in its place.
    count = limit | len(entries) << 16
    data = head + struct.pack('<II', count, entries[0][1])
    data += b''.join(struct.pack('<II', *entry) for entry in entries[1:])
    check = checksums.crc32c(checksums.crc32c(seed, data), bytes(8))
    return data + bytes(_BLOCK - 8 - len(data)) + struct.pack('<II', 0, check)
