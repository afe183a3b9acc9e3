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
from amiclient.ext.inodes import Inode
from amiclient.ext.layout import damaged
from amiclient.ext.layout import Layout
from amiclient.ext import superblock
from amiclient import sparse

ROOT = 2

#: As many symbolic links as Linux follows (path_resolution(7)), and the
#: longest paths, links resolved.
_LINKS = 40
_TARGET = 4096
_COMPONENTS = 256

#: Directories with more bytes than that are not listed, and no more of them.
_DIRECTORY = 4 << 20
_DIRECTORIES = 20_000

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

    :raises SourceError: if there is none, or it cannot be read.
    :raises DamagedError: if it makes no sense.
    """
    with errors.about(image), Layout.opened(image) as layout:
        yield Reader(layout)


class Reader:
    """The files of one filesystem.

    :raises DamagedError: any method, if what is on the disk makes no sense.
    """

    def __init__(self, layout: Layout) -> None:
        self.superblock = layout.superblock
        self.layout = layout
        self._listings: dict[int, dict[str, int]] = {}

    def find(self, name: str, *, follow: bool = True) -> Inode | None:
        """Resolve a path, as path_resolution(7) says.

        :param follow: whether a link at the end is followed.
        :returns: None if it leads nowhere.
        """
        todo = _split(name)[::-1]
        way = [self._inode(ROOT, '/')]
        links = 0
        while todo:
            if len(todo) + len(way) > _COMPONENTS:
                return None
            part = todo.pop()
            if part == '..':
                # The root is its own parent.
                way = way[:-1] or [self._inode(ROOT, '/')]
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
        """List a directory, sorted; nothing if it is none."""
        found = self.find(name)
        if found is None or not found.is_directory:
            return ()
        return tuple(sorted(self._listing(found)))

    def target(self, node: Inode) -> str | None:
        """Read where a symbolic link leads; None if nowhere."""
        if node.size > _TARGET:
            return None
        return os.fsdecode(self.link_target(node).split(b'\0')[0])

    def link_target(self, node: Inode) -> bytes:
        """Read what a symbolic link says, whatever that is.

        :raises DamagedError: if that cannot be.
        """
        if node.size > _TARGET:
            raise damaged(f'{node.path} leads too far')
        data = node.fast_target
        return b''.join(self.chunks(node)) if data is None else data

    def read_file(self, name: str, limit: int = 1 << 20) -> bytes | None:
        """Read a regular file that a path leads to.

        :param limit: bytes.
        :returns: None if there is none, or it is encrypted.
        :raises SourceError: if it is longer than the limit.
        """
        found = self._readable(name)
        return None if found is None else self.read(found, limit)

    def head(self, name: str, count: int) -> bytes | None:
        """Read what a regular file begins with.

        :returns: None if there is none, or it is encrypted.
        """
        found = self._readable(name)
        return None if found is None else b''.join(self.span(found, 0, count))

    def _readable(self, name: str) -> Inode | None:
        found = self.find(name)
        if found is None or not found.is_file or found.is_encrypted:
            return None
        return found

    def read(self, node: Inode, limit: int) -> bytes:
        """Read a regular file of at most so many bytes.

        :raises SourceError: if it is longer.
        """
        if node.size > limit:
            raise errors.SourceError(
                f'{node.path} has {node.size} bytes, more than {limit}'
            )
        return b''.join(self.chunks(node))

    def chunks(self, node: Inode) -> Iterator[bytes]:
        """Read a file piece by piece; holes are zeros."""
        position = 0
        for offset, piece in self.data(node):
            yield from _zeros(offset - position)
            yield piece
            position = offset + len(piece)
        yield from _zeros(node.size - position)

    def ranges(self, node: Inode) -> list[tuple[int, int]]:
        """Tell where a file has data: offset and length, ascending.

        :raises DamagedError: if its blocks make no sense.
        """
        if node.is_inline:
            return [(0, len(self._inline(node)))]
        block = self.superblock.block_size
        runs = sparse.merge(
            (run.logical * block, (run.logical + run.count) * block)
            for run in self._runs(node)
            if run.physical
        )
        ends = ((start, min(end, node.size)) for start, end in runs)
        return [(start, end - start) for start, end in ends]

    def data(self, node: Inode) -> Iterator[tuple[int, bytes]]:
        """Read what :meth:`ranges` tells, piece by piece, with offsets.

        :raises DamagedError: if its blocks make no sense.
        """
        if node.is_inline:
            yield 0, self._inline(node)
            return
        block = self.superblock.block_size
        for run in self._runs(node):
            if run.physical:
                start = run.logical * block
                end = min(start + run.count * block, node.size)
                for offset in range(start, end, _CHUNK):
                    count = min(_CHUNK, end - offset)
                    yield offset, self._bytes(run, offset, count)

    def entries(self, directory: Inode) -> Iterator[tuple[bytes, int]]:
        """Read a directory of whatever size: names, and numbers of inodes.

        :raises DamagedError: if it makes no sense.
        """
        if directory.size > self.superblock.size:
            raise damaged(f'{directory.path} cannot be that large')
        for block in self.directory(directory):
            for name, number in inodes.names(block):
                # What is encrypted may have such names.
                if b'/' in name or b'\0' in name:
                    raise damaged(
                        f'the names in {directory.path} make no sense'
                    )
                yield name, number

    @staticmethod
    def _inline(node: Inode) -> bytes:
        return (node.body + node.inline_rest)[: node.size]

    def span(self, node: Inode, start: int, count: int) -> Iterator[bytes]:
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
        runs = self._runs(self._inode(found.journal_inode, 'the journal'))
        return sparse.merge(
            (run.physical + (not run.logical), run.physical + run.count)
            for run in runs
            if run.physical and run.logical + run.count > 1
        )

    def _bytes(self, run: _Run, offset: int, count: int) -> bytes:
        block = self.superblock.block_size
        place = run.physical * block + offset - run.logical * block
        data = self.layout.read(place, count)
        if len(data) < count:
            raise damaged('it ends before its files do')
        return data

    def _inode(self, number: int, path: str) -> Inode:
        if not 0 < number <= self.superblock.inode_count:
            raise damaged(f'{path} has the impossible inode {number}')
        return self.layout.inode(number, path)

    def _child(self, directory: Inode, name: str) -> Inode | None:
        if not directory.is_directory:
            return None
        number = self._listing(directory).get(name)
        if number is None:
            return None
        return self._inode(number, f'{directory.path.rstrip("/")}/{name}')

    def _listing(self, directory: Inode) -> dict[str, int]:
        found = self._listings.get(directory.number)
        if found is None:
            if len(self._listings) >= _DIRECTORIES:
                raise damaged('it has too many directories')
            found = {}
            if directory.size <= _DIRECTORY and not directory.is_encrypted:
                for block in self.directory(directory):
                    for name, number in inodes.names(block):
                        if b'/' not in name and b'\0' not in name:
                            found[os.fsdecode(name)] = number

            self._listings[directory.number] = found
        return found

    def _runs(self, node: Inode) -> Iterator[_Run]:
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
    ) -> Iterator[_Run]:
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
                yield _Run(logical, count - inodes.LONGEST, 0)
            else:
                yield _Run(logical, count, low | high << 32)

    def _mapped(self, body: bytes, blocks: int) -> Iterator[_Run]:
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
            raise damaged(f'the blocks of {path} make no sense')
        return self.layout.blocks(number)


def _split(path: str) -> list[str]:
    return [part for part in path.split('/') if part not in ('', '.')]


def _zeros(count: int) -> Iterator[bytes]:
    while count > 0:
        yield bytes(min(count, _CHUNK))
        count -= _CHUNK
