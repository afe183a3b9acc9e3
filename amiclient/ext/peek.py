#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.


"""A look at names in a filesystem that is not in a file of its own.

debugfs (:mod:`amiclient.ext.browse`) takes a file. Before a filesystem is
copied out of a disk, a few names in it tell whether it is the right one: this
follows plain folders only, no symbolic links, and reads what is short.

Sources: the kernel's Documentation/filesystems/ext4: inodes, ifork (extent
trees, block maps) and directory entries; the nodes of a hash tree read as
entries that are not in use.
"""

from collections.abc import Iterator
import dataclasses
import itertools
import stat
import struct

from amiclient import exceptions
from amiclient.ext import groups as groups_

_ROOT_INODE = 2

_EXTENTS_FLAG = 0x80000
#: Encrypted, compressed, sealed by fs-verity, content within the inode.
_SPECIAL_FLAGS = 0x800 | 0x4 | 0x100000 | 0x10000000
_EXTENT_MAGIC = 0xF30A
_EXTENT_DEPTH = 5
#: Longer ones are not initialised, and so zeros.
_INITIALISED = 32768

#: Blocks of a folder, or of a file, that are looked at.
_BLOCKS = 1024


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a file lies.

    :param inode: its number.
    :param blocks: those of its content, in order.
    """

    inode: int
    blocks: tuple[int, ...]


class Peek:
    """One filesystem.

    :param layout: its block groups.
    """

    def __init__(self, layout: groups_.Layout) -> None:
        self._layout = layout
        self._size = layout.superblock.block_size

    def names(self, path: bytes) -> frozenset[bytes]:
        """List a folder; nothing if there is none, or it makes no sense.

        :param path: from the root, without a leading slash.
        """
        inode = self._find(path)
        return frozenset(self._entries(inode)) if inode else frozenset()

    def exists(self, path: bytes) -> bool:
        """Tell whether there is something, be it a symbolic link."""
        folder, _, name = path.rpartition(b'/')
        return name in self.names(folder)

    def read(self, path: bytes, limit: int) -> bytes | None:
        """Read a regular file.

        :returns: None if there is none, or it is longer than the limit.
        """
        inode = self._find(path)
        if not inode or not stat.S_ISREG(_mode(inode)):
            return None
        size = int.from_bytes(inode[4:8], 'little')
        if size > limit or inode[0x6C:0x70] != bytes(4):
            return None
        return b''.join(self._blocks(inode))[:size]

    def place(self, path: bytes) -> Place | None:
        """Tell where a regular file lies, if all of it lies in blocks.

        :returns: None for anything else: a symbolic link, content within the
            inode, a hole, or what is encrypted or sealed.
        """
        number = self._number(path)
        inode = self._inode(number) if number else None
        if not number or inode is None or not stat.S_ISREG(_mode(inode)):
            return None
        flags = int.from_bytes(inode[0x20:0x24], 'little')
        size = int.from_bytes(inode[4:8], 'little')
        count = -(-size // self._size)
        blocks = tuple(itertools.islice(self._numbers(inode), count))
        if flags & _SPECIAL_FLAGS or not all(blocks) or len(blocks) < count:
            return None
        return Place(number, blocks)

    def _find(self, path: bytes) -> bytes | None:
        number = self._number(path)
        return self._inode(number) if number else None

    def _number(self, path: bytes) -> int | None:
        number: int | None = _ROOT_INODE
        for part in path.split(b'/') if path else ():
            inode = self._inode(number) if number else None
            number = self._entries(inode).get(part) if inode else None
        return number

    def _inode(self, number: int) -> bytes | None:
        found = self._layout.superblock
        group, index = divmod(number - 1, found.inodes_per_group)
        if not 0 <= group < len(self._layout.groups):
            return None
        block, offset = divmod(index * found.inode_size, self._size)
        table = self._layout.groups[group].inode_table
        return self._layout.blocks(table + block)[
            offset : offset + found.inode_size
        ]

    def _entries(self, inode: bytes) -> dict[bytes, int]:
        found: dict[bytes, int] = {}
        if not stat.S_ISDIR(_mode(inode)):
            return found
        for block in self._blocks(inode):
            offset = 0
            while offset <= len(block) - 8:
                number, length, count = struct.unpack_from(
                    '<IHB', block, offset
                )
                if length < 8 or length % 4:
                    break
                if number:
                    name = block[offset + 8 : offset + 8 + count]
                    found.setdefault(name, number)
                offset += length
        return found

    def _numbers(self, inode: bytes) -> Iterator[int]:
        flags = int.from_bytes(inode[0x20:0x24], 'little')
        root = inode[0x28 : 0x28 + 60]
        if flags & _EXTENTS_FLAG:
            # A tree may have any number of nodes with nothing in them.
            return self._extents(root, _EXTENT_DEPTH, [_BLOCKS])
        return self._map(root)

    def _blocks(self, inode: bytes) -> Iterator[bytes]:
        for number in itertools.islice(self._numbers(inode), _BLOCKS):
            if not number:
                yield bytes(self._size)
            elif number < self._layout.superblock.block_count:
                yield self._layout.blocks(number)

    def _map(self, root: bytes) -> Iterator[int]:
        *direct, indirect, _, _ = struct.unpack('<15I', root)
        yield from direct
        if 0 < indirect < self._layout.superblock.block_count:
            data = self._layout.blocks(indirect)
            yield from struct.unpack(f'<{len(data) // 4}I', data)

    def _extents(
        self, node: bytes, most: int, left: list[int]
    ) -> Iterator[int]:
        magic, count, _, depth = struct.unpack_from('<4H', node)
        if magic != _EXTENT_MAGIC or depth > most:
            return
        for index in range(min(count, len(node) // 12 - 1)):
            offset = 12 + 12 * index
            if depth:
                low, high = struct.unpack_from('<IH', node, offset + 4)
                block = low | high << 32
                if left[0] and 0 < block < self._layout.superblock.block_count:
                    left[0] -= 1
                    child = self._layout.blocks(block)
                    yield from self._extents(child, depth - 1, left)
                continue
            _, length, high, low = struct.unpack_from('<IHHI', node, offset)
            first = low | high << 32
            if length <= _INITIALISED:
                yield from range(first, first + length)
            else:
                yield from itertools.repeat(0, length - _INITIALISED)


def _mode(inode: bytes) -> int:
    return int.from_bytes(inode[:2], 'little')


def is_root(peek: Peek) -> bool:
    """Tell whether a filesystem has the files of a root filesystem."""
    try:
        return any(peek.exists(path) for path in _ROOT_FILES)
    except exceptions.SourceError:
        return False


_ROOT_FILES = (
    b'etc/os-release',
    b'usr/lib/os-release',
    b'etc/passwd',
    b'sbin/init',
    b'usr/sbin/init',
    b'usr/lib/systemd/systemd',
    b'init',
)

_BOOT_FILES = (
    b'vmlinu',
    b'initrd',
    b'initramfs',
    b'bzImage',
    b'kernel-',
    b'Image',
)


def is_boot(peek: Peek) -> bool:
    """Tell whether a filesystem has what is found in /boot."""
    try:
        return any(name.startswith(_BOOT_FILES) for name in peek.names(b''))
    except exceptions.SourceError:
        return False
