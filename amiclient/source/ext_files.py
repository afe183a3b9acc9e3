# SPDX-License-Identifier: Apache-2.0

"""The files of a filesystem as what another filesystem is made of."""

from collections.abc import Callable, Iterator
import stat
from typing import Generic, TypeVar

from amiclient import errors
from amiclient.ext.writer import nodes
from amiclient.files import AnyInode
from amiclient.files import Files
from amiclient import progress
from amiclient.source import attributes
from amiclient.source import file_tree

_LOST_FOUND = b'lost+found'

_Inode = TypeVar('_Inode', bound=AnyInode)


def fill(
    reader: Files[_Inode],
    tree: file_tree.FileTree,
    task: progress.Task,
    *,
    top: str = '/',
    at: bytes = b'',
) -> None:
    """Take everything that is in a directory of a filesystem.

    What is in the tree there already is hidden, as it is by a mount.

    :param top: the directory.
    :param at: where in the tree it belongs.
    :raises DamagedError: if it makes no sense.
    :raises UnsupportedError: if it is encrypted.
    """
    root = reader.find(top, follow=False)
    if root is None or not root.is_directory:
        raise errors.SourceError(f'there is no directory {top}')
    tree.cover(at)
    taking = _FoundFiles(reader, tree, task)
    # Inodes are large, and a directory may have many: so numbers wait.
    waiting = [(at, root.number)]
    while waiting:
        path, number = waiting.pop()
        node = reader.inode(number, errors.shown(path) or '/')
        taking.take(path, node)
        if node.is_directory:
            names = taking.names(path, node, is_top=bool(at) and path == at)
            waiting.extend(names)


class _FoundFiles(Generic[_Inode]):
    """Files on their way into a tree."""

    def __init__(
        self,
        reader: Files[_Inode],
        tree: file_tree.FileTree,
        task: progress.Task,
    ) -> None:
        self._reader = reader
        self._tree = tree
        self._task = task
        self._seen: dict[int, bytes] = {}

    def names(
        self, path: bytes, directory: _Inode, *, is_top: bool
    ) -> list[tuple[bytes, int]]:
        """List a directory, the last first.

        :param is_top: whether it is the root of what is mounted: its own
            lost+found is of use to nobody, unless something was found.
        """
        prefix = path + b'/' if path else b''
        entries = sorted(self._reader.entries(directory), reverse=True)
        return [
            (prefix + name, number)
            for name, number in entries
            if not (is_top and name == _LOST_FOUND and self._is_empty(number))
        ]

    def _is_empty(self, number: int) -> bool:
        node = self._reader.inode(number, errors.shown(_LOST_FOUND))
        return node.is_directory and not any(self._reader.entries(node))

    def take(self, path: bytes, inode: _Inode) -> None:
        if inode.is_encrypted:
            raise errors.UnsupportedError(
                f'{errors.shown(path) or "/"} is encrypted',
                subject=self._tree.name,
                hint='decrypt a copy on a system that has the key',
            )
        if inode.number in self._seen:
            # A directory that is there twice is damage.
            self._tree.link(path, self._seen[inode.number])
            return
        self._seen[inode.number] = path
        node = self._node(path, inode)
        if not node.is_file:
            self._tree.add(path, node)
            return
        ranges = self._reader.ranges(inode)
        read = self._read(self._reader.data(inode), path)
        self._tree.add_file(path, node, inode.size, ranges, read)

    def _node(self, path: bytes, inode: _Inode) -> nodes.Node:
        target = b''
        if inode.is_link:
            target = self._reader.link_target(inode)
        atime, _, mtime = inode.exact_times
        is_device = stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode)
        return nodes.Node(
            inode.mode,
            uid=inode.uid,
            gid=inode.gid,
            mtime=mtime,
            atime=atime,
            xattrs=self._tree.keep_known(path, self._reader.xattrs(inode)),
            target=target,
            device=inode.device if is_device else (0, 0),
            flags=attributes.kept_flags(
                inode.flags, directory=inode.is_directory
            )
            if inode.is_file or inode.is_directory
            else 0,
        )

    def _read(
        self, pieces: Iterator[tuple[int, bytes]], path: bytes
    ) -> Callable[[int, int], bytes]:
        left = memoryview(b'')

        def read(offset: int, count: int) -> bytes:
            nonlocal left
            data = bytearray()
            while len(data) < count:
                if not left:
                    _, piece = next(pieces, (0, b''))
                    if not piece:
                        raise self._tree.refused(path, 'its blocks end early')
                    left = memoryview(piece)
                part = left[: count - len(data)]
                data += part
                left = left[len(part) :]
            self._task.advance(count)
            return bytes(data)

        return read
