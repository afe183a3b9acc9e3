# SPDX-License-Identifier: Apache-2.0

"""Read files straight out of the blocks of a filesystem.

No program is started and nothing is mounted, so that hundreds of files cost
no more than their bytes. Symbolic links are followed within the filesystem
alone, absolute ones from its root, as after a chroot(2).

The image is not trusted. Every number is checked against the filesystem that
it is a part of, trees have the depth that they may have and go forwards only,
and nothing is read that is longer than the caller asked for: what a hostile
image can do is be refused, or give other data of its own. The formats are
those of the kernel's Documentation/filesystems/ext4.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import os
import pathlib
import struct

from amiclient import errors
from amiclient.ext import inodes
from amiclient.ext.layout import Layout
from amiclient.ext import nodes
from amiclient.ext import superblock
from amiclient import sparse

_ROOT = 2

#: As many symbolic links as Linux follows (path_resolution(7)), and the
#: longest paths, links resolved.
_LINKS = 40
_TARGET = 4096
_COMPONENTS = 256

#: Folders with more bytes than that are not listed, and no more of them.
_FOLDER = 4 << 20
_FOLDERS = 20_000

#: Levels of an extent tree (EXT4_MAX_EXTENT_DEPTH), and what it may hold.
_DEPTH = 5
_EXTENTS_AT_MOST = 1 << 18

_CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True)
class _Run:
    """Blocks on end: of the file, and of the disk; 0 for zeros."""

    logical: int
    count: int
    physical: int


@contextlib.contextmanager
def opened(image: pathlib.Path) -> Iterator['Reader']:
    """Open an ext2, ext3 or ext4 filesystem for reading.

    A journal that needs recovery is not replayed: then a file may be missing
    or old.

    :param image: the image file or block device.
    :raises SourceError: if there is none, or it cannot be read.
    :raises DamagedError: if it makes no sense.
    """
    descriptor = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = superblock.parse(
            sparse.read_at(descriptor, superblock.SIZE, superblock.OFFSET),
            str(image),
        )
        with errors.about(image):
            yield Reader(Layout(descriptor, found))
    finally:
        os.close(descriptor)


class Reader:
    """The files of one filesystem.

    :param layout: its block groups.
    """

    def __init__(self, layout: Layout) -> None:
        self.superblock = layout.superblock
        self._layout = layout
        self._table = inodes.Table(layout)
        self._listings: dict[int, dict[str, int]] = {}

    def find(self, name: str, *, follow: bool = True) -> nodes.Node | None:
        """Resolve a path, as path_resolution(7) says.

        :param follow: whether a link at the end is followed.
        :returns: None if it leads nowhere.
        :raises DamagedError: if what is on the way makes no sense.
        """
        todo = _split(name)[::-1]
        way = [self._node(_ROOT, '/')]
        links = 0
        while todo:
            if len(todo) + len(way) > _COMPONENTS:
                return None
            part = todo.pop()
            if part == '..':
                # The root is its own parent.
                way = way[:-1] or [self._node(_ROOT, '/')]
                continue
            found = self._child(way[-1], part)
            if found is None:
                return None
            if not found.is_link or (not follow and not todo):
                way.append(found)
                continue
            links += 1
            target = self.target(found)
            if links > _LINKS or not target:
                return None
            if target.startswith('/'):
                way = way[:1]
            todo += _split(target)[::-1]
        return way[-1]

    def names(self, name: str) -> tuple[str, ...]:
        """List a folder, sorted; nothing if it is none."""
        found = self.find(name)
        if found is None or not found.is_folder:
            return ()
        return tuple(sorted(self._listing(found)))

    def target(self, node: nodes.Node) -> str | None:
        """Read where a symbolic link leads; None if nowhere."""
        if node.size > _TARGET:
            return None
        data = node.fast_target
        if data is None:
            data = b''.join(self.chunks(node))
        return os.fsdecode(data.split(b'\0')[0])

    def read_file(self, name: str, limit: int = 1 << 20) -> bytes | None:
        """Read a regular file that a path leads to.

        :param limit: bytes.
        :returns: None if there is none, or it is encrypted.
        :raises SourceError: if it is longer than the limit.
        """
        found = self.find(name)
        if found is None or not found.is_file or found.is_encrypted:
            return None
        return self.read(found, limit)

    def head(self, name: str, count: int) -> bytes | None:
        """Read what a regular file begins with.

        :returns: None if there is none, or it is encrypted.
        """
        found = self.find(name)
        if found is None or not found.is_file or found.is_encrypted:
            return None
        return b''.join(self.span(found, 0, count))

    def read(self, node: nodes.Node, limit: int) -> bytes:
        """Read a regular file.

        :param limit: bytes.
        :raises SourceError: if it is longer than that.
        """
        if node.size > limit:
            raise errors.SourceError(
                f'{node.path} has {node.size} bytes, more than {limit}'
            )
        return b''.join(self.chunks(node))

    def chunks(self, node: nodes.Node) -> Iterator[bytes]:
        """Read a file piece by piece; holes are zeros.

        :raises DamagedError: if its blocks make no sense.
        """
        if node.is_inline:
            data = (node.body + nodes.inline_rest(node.raw))[: node.size]
            yield data
            yield from _zeros(node.size - len(data))
            return
        block = self.superblock.block_size
        position = 0
        for run in self._runs(node):
            start = min(run.logical * block, node.size)
            yield from _zeros(start - position)
            end = min((run.logical + run.count) * block, node.size)
            for offset in range(start, end, _CHUNK):
                count = min(_CHUNK, end - offset)
                yield (
                    self._bytes(run, offset, count)
                    if run.physical
                    else bytes(count)
                )
            position = end
        yield from _zeros(node.size - position)

    def span(
        self, node: nodes.Node, start: int, count: int
    ) -> Iterator[bytes]:
        """Read a part of a file; it ends where the file does."""
        position = 0
        # No further than needed: a hole may be huge.
        for chunk in self.chunks(node):
            first = max(start - position, 0)
            piece = chunk[first : max(start + count - position, 0)]
            position += len(chunk)
            if piece:
                yield piece
            if position >= start + count:
                return

    def blocks(self, node: nodes.Node) -> tuple[int, ...] | None:
        """Tell the blocks that a regular file lies in, in order.

        :returns: None if it has holes, lies in its inode, is encrypted or
            sealed, or may share its blocks: what is written to them is not
            its content then, or not its alone.
        :raises DamagedError: if they make no sense.
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

    def _bytes(self, run: _Run, offset: int, count: int) -> bytes:
        block = self.superblock.block_size
        place = run.physical * block + offset - run.logical * block
        data = self._layout.read(place, count)
        if len(data) < count:
            raise _damaged('it ends before its files do')
        return data

    def _node(self, number: int, path: str) -> nodes.Node:
        if not 0 < number <= self.superblock.inode_count:
            raise _damaged(f'{path} has the impossible inode {number}')
        return nodes.parse(self._table.raw(number), number, path)

    def _child(self, folder: nodes.Node, name: str) -> nodes.Node | None:
        if not folder.is_folder:
            return None
        number = self._listing(folder).get(name)
        if number is None:
            return None
        return self._node(number, f'{folder.path.rstrip("/")}/{name}')

    def _listing(self, folder: nodes.Node) -> dict[str, int]:
        found = self._listings.get(folder.number)
        if found is None:
            if len(self._listings) >= _FOLDERS:
                raise _damaged('it has too many folders')
            found = dict(self._entries(folder))
            self._listings[folder.number] = found
        return found

    def _entries(self, folder: nodes.Node) -> Iterator[tuple[str, int]]:
        if folder.size > _FOLDER or folder.is_encrypted:
            return
        if folder.is_inline:
            # The parent's inode comes first.
            yield from nodes.entries(folder.body[4:])
            yield from nodes.entries(nodes.inline_rest(folder.raw))
            return
        data = b''.join(self.chunks(folder))
        block = self.superblock.block_size
        for start in range(0, len(data), block):
            yield from nodes.entries(data[start : start + block])

    def _runs(self, node: nodes.Node) -> Iterator[_Run]:
        """Tell the runs of a file, ascending."""
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
                raise _damaged(f'the blocks of {node.path} make no sense')
            last = run.logical + run.count
            yield run

    def _extents(
        self, data: bytes, node: nodes.Node, depth: int, seen: list[int]
    ) -> Iterator[_Run]:
        magic, entries, _, level = struct.unpack_from('<4H', data)
        if magic != 0xF30A or level > depth or 12 + 12 * entries > len(data):
            raise _damaged(f'the extents of {node.path} make no sense')
        for start in range(12, 12 + 12 * entries, 12):
            seen[0] += 1
            if seen[0] > _EXTENTS_AT_MOST:
                raise _damaged(f'{node.path} has too many extents')
            if level:
                low, high = struct.unpack_from('<IH', data, start + 4)
                child = self._block(low | high << 32, node.path)
                yield from self._extents(child, node, level - 1, seen)
                continue
            logical, count, high, low = struct.unpack_from(
                '<IHHI', data, start
            )
            if count > 32768:
                # Allocated, but never written to.
                yield _Run(logical, count - 32768, 0)
            else:
                yield _Run(logical, count, low | high << 32)

    def _mapped(self, body: bytes, blocks: int) -> Iterator[_Run]:
        """Tell the blocks of a file without extents."""
        numbers = struct.unpack('<15I', body)
        per = self.superblock.block_size // 4
        position = 0
        for number in numbers[:12]:
            if position >= blocks:
                return
            yield _Run(position, 1, number)
            position += 1
        for level, number in enumerate(numbers[12:], 1):
            if position >= blocks:
                return
            yield from self._indirect(number, level, position, blocks)
            position += per**level

    def _indirect(
        self, number: int, level: int, position: int, blocks: int
    ) -> Iterator[_Run]:
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
                yield _Run(position, 1, child)
            position += below

    def _block(self, number: int, path: str) -> bytes:
        if not 0 < number < self.superblock.block_count:
            raise _damaged(f'the blocks of {path} make no sense')
        return self._layout.blocks(number)


def _split(path: str) -> list[str]:
    return [part for part in path.split('/') if part not in ('', '.')]


def _zeros(count: int) -> Iterator[bytes]:
    while count > 0:
        yield bytes(min(count, _CHUNK))
        count -= _CHUNK


def _damaged(what: str) -> errors.DamagedError:
    return errors.DamagedError(what, hint='mend a copy with e2fsck')
