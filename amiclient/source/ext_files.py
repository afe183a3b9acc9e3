# SPDX-License-Identifier: Apache-2.0

"""The files of an ext filesystem as what another filesystem is made of."""

from collections.abc import Callable, Iterator
import stat

from amiclient import errors
from amiclient.ext.inodes import Inode
from amiclient.ext.reader import Reader
from amiclient.ext.writer import nodes
from amiclient.ext import xattrs
from amiclient import progress
from amiclient.source import attributes
from amiclient.source import file_tree

_LOST_FOUND = b'lost+found'


def fill(
    reader: Reader,
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
    taking = _ExtFiles(reader, tree, task)
    waiting = [(at, root)]
    while waiting:
        path, node = waiting.pop()
        taking.take(path, node)
        if node.is_directory:
            names = taking.names(path, node, is_top=bool(at) and path == at)
            waiting.extend(names)


class _ExtFiles:
    """Files on their way into a tree."""

    def __init__(
        self, reader: Reader, tree: file_tree.FileTree, task: progress.Task
    ) -> None:
        self._reader = reader
        self._tree = tree
        self._task = task
        self._seen: dict[int, bytes] = {}

    def names(
        self, path: bytes, directory: Inode, *, is_top: bool
    ) -> list[tuple[bytes, Inode]]:
        """List a directory, the last first.

        :param is_top: whether it is the root of what is mounted: its own
            lost+found is of use to nobody, unless something was found.
        """
        prefix = path + b'/' if path else b''
        found = []
        entries = sorted(self._reader.entries(directory), reverse=True)
        for name, number in entries:
            node = self._reader.layout.inode(
                number, errors.shown(prefix + name)
            )
            if (
                is_top
                and name == _LOST_FOUND
                and node.is_directory
                and not any(self._reader.entries(node))
            ):
                continue
            found.append((prefix + name, node))
        return found

    def take(self, path: bytes, inode: Inode) -> None:
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

    def _node(self, path: bytes, inode: Inode) -> nodes.Node:
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
            xattrs=self._tree.keep_known(
                path, xattrs.read(self._reader, inode)
            ),
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
