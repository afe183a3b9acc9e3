# SPDX-License-Identifier: Apache-2.0

"""The files of a filesystem that is read straight out of its blocks.

What filesystems have in common: paths, links, and content in runs of blocks.
No program is started and nothing is mounted, so that hundreds of files cost
no more than their bytes. Symbolic links are followed within the filesystem
alone, absolute ones from its root, as after a chroot(2).

The image is not trusted. Nothing is read that is longer than the caller asked
for: what a hostile image can do is be refused, or give other data of its own.
"""

import abc
from collections.abc import Iterator
import dataclasses
import os
from typing import Generic, Protocol, TypeVar

from amiclient import errors
from amiclient import sparse

#: As many symbolic links as Linux follows (path_resolution(7)), and the
#: longest paths, links resolved.
_LINKS = 40
_TARGET = 4096
_COMPONENTS = 256

#: Directories with more bytes than that are not looked up in, and no more of
#: them; and the names that any directory may have.
_DIRECTORY = 4 << 20
_DIRECTORIES = 20_000
_NAMES = 4 << 20


class AnyInode(Protocol):
    """An inode, of whatever filesystem."""

    @property
    def number(self) -> int:
        """What directories call it."""

    @property
    def path(self) -> str:
        """What leads to it from the root, without links, if known."""

    @property
    def mode(self) -> int:
        """As ``st_mode``."""

    @property
    def uid(self) -> int:
        """The user."""

    @property
    def gid(self) -> int:
        """The group."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def flags(self) -> int:
        """As chattr(1) has them, and others that only the filesystem has."""

    @property
    def exact_times(self) -> tuple[int, int, int]:
        """When it was read, changed and written, in ns since 1970."""

    @property
    def device(self) -> tuple[int, int]:
        """Major and minor number of a device."""

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""

    @property
    def is_encrypted(self) -> bool:
        """Whether its content, or its names, cannot be read."""


@dataclasses.dataclass(frozen=True, slots=True)
class BlockRun:
    """Blocks on end: of the file, and of the disk; 0 for zeros."""

    logical: int
    count: int
    physical: int


_Inode = TypeVar('_Inode', bound=AnyInode)


class Files(abc.ABC, Generic[_Inode]):
    """The files of one filesystem.

    :param root: the inode of its root directory.
    :param block_size: bytes.
    :raises DamagedError: any method, if what is on the disk makes no sense.
    """

    def __init__(self, root: int, block_size: int) -> None:
        self._root = root
        self._block_size = block_size
        self._listings: dict[int, dict[str, int]] = {}

    @abc.abstractmethod
    def inode(self, number: int, path: str) -> _Inode:
        """Read an inode.

        :param path: that leads to it, for errors.
        """

    @abc.abstractmethod
    def link_target(self, node: _Inode) -> bytes:
        """Read what a symbolic link says, whatever that is.

        :raises DamagedError: if that cannot be.
        """

    @abc.abstractmethod
    def xattrs(self, node: _Inode) -> dict[bytes, bytes]:
        """Read all attributes of a file, as getxattr(2) has them.

        :returns: values by full name.
        """

    @abc.abstractmethod
    def damaged(self, what: str) -> errors.DamagedError:
        """Say that something makes no sense, and what to do about it."""

    @abc.abstractmethod
    def _names(self, directory: _Inode) -> Iterator[tuple[bytes, int]]:
        """Read a directory, without itself and the one that it is in."""

    @abc.abstractmethod
    def _runs(self, node: _Inode) -> Iterator[BlockRun]:
        """Find the blocks of a file up to its end, ascending."""

    @abc.abstractmethod
    def _bytes_at(self, offset: int, count: int) -> bytes:
        """Read bytes of the filesystem, fewer only where the disk ends."""

    def find(self, name: str, *, follow: bool = True) -> _Inode | None:
        """Resolve a path, as path_resolution(7) says.

        :param follow: whether a link at the end is followed.
        :returns: None if it leads nowhere.
        """
        todo = _split(name)[::-1]
        way = [self.inode(self._root, '/')]
        links = 0
        while todo:
            if len(todo) + len(way) > _COMPONENTS:
                return None
            part = todo.pop()
            if part == '..':
                # The root is its own parent.
                way = way[:-1] or [self.inode(self._root, '/')]
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

    def target(self, node: _Inode) -> str | None:
        """Read where a symbolic link leads; None if nowhere."""
        if node.size > _TARGET:
            return None
        return os.fsdecode(self.link_target(node).split(b'\0')[0])

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

    def _readable(self, name: str) -> _Inode | None:
        found = self.find(name)
        if found is None or not found.is_file or found.is_encrypted:
            return None
        return found

    def read(self, node: _Inode, limit: int) -> bytes:
        """Read a regular file of at most so many bytes.

        :raises SourceError: if it is longer.
        """
        if node.size > limit:
            raise errors.SourceError(
                f'{node.path} has {node.size} bytes, more than {limit}'
            )
        return b''.join(self.chunks(node))

    def chunks(self, node: _Inode) -> Iterator[bytes]:
        """Read a file piece by piece; holes are zeros."""
        position = 0
        for offset, piece in self.data(node):
            yield from _zeros(offset - position)
            yield piece
            position = offset + len(piece)
        yield from _zeros(node.size - position)

    def ranges(self, node: _Inode) -> list[tuple[int, int]]:
        """Tell where a file has data: offset and length, ascending.

        :raises DamagedError: if its blocks make no sense.
        """
        block = self._block_size
        runs = sparse.merge(
            (run.logical * block, (run.logical + run.count) * block)
            for run in self._runs(node)
            if run.physical
        )
        ends = ((start, min(end, node.size)) for start, end in runs)
        return [(start, end - start) for start, end in ends]

    def data(self, node: _Inode) -> Iterator[tuple[int, bytes]]:
        """Read what :meth:`ranges` tells, piece by piece, with offsets.

        :raises DamagedError: if its blocks make no sense.
        """
        block = self._block_size
        for run in self._runs(node):
            if run.physical:
                start = run.logical * block
                end = min(start + run.count * block, node.size)
                for offset in range(start, end, sparse.CHUNK):
                    count = min(sparse.CHUNK, end - offset)
                    yield offset, self._bytes(run, offset, count)

    def entries(self, directory: _Inode) -> Iterator[tuple[bytes, int]]:
        """Read a directory of whatever size: names, and numbers of inodes.

        :raises DamagedError: if it makes no sense.
        """
        for count, (name, number) in enumerate(self._names(directory)):
            # What is encrypted may have such names.
            if b'/' in name or b'\0' in name:
                raise self.damaged(
                    f'the names in {directory.path} make no sense'
                )
            if count >= _NAMES:
                raise self.damaged(f'{directory.path} has too many names')
            yield name, number

    def span(self, node: _Inode, start: int, count: int) -> Iterator[bytes]:
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

    def _bytes(self, run: BlockRun, offset: int, count: int) -> bytes:
        """Read a part of a run.

        :param offset: bytes from the beginning of the file.
        """
        block = self._block_size
        place = run.physical * block + offset - run.logical * block
        data = self._bytes_at(place, count)
        if len(data) < count:
            raise self.damaged('it ends before its files do')
        return data

    def _child(self, directory: _Inode, name: str) -> _Inode | None:
        if not directory.is_directory:
            return None
        number = self._listing(directory).get(name)
        if number is None:
            return None
        return self.inode(number, f'{directory.path.rstrip("/")}/{name}')

    def _listing(self, directory: _Inode) -> dict[str, int]:
        found = self._listings.get(directory.number)
        if found is None:
            if len(self._listings) >= _DIRECTORIES:
                raise self.damaged('it has too many directories')
            found = {}
            if directory.size <= _DIRECTORY and not directory.is_encrypted:
                for name, number in self._names(directory):
                    if b'/' not in name and b'\0' not in name:
                        found[os.fsdecode(name)] = number

            self._listings[directory.number] = found
        return found


def _split(path: str) -> list[str]:
    return [part for part in path.split('/') if part not in ('', '.')]


def _zeros(count: int) -> Iterator[bytes]:
    while count > 0:
        yield bytes(min(count, sparse.CHUNK))
        count -= sparse.CHUNK
