# SPDX-License-Identifier: Apache-2.0

"""What a source is poured into: a tree, and the filesystem it is to be in."""

from collections.abc import Iterable
import logging
import os
import stat

from amiclient import errors
from amiclient.ext.writer import content
from amiclient.ext.writer import inodes
from amiclient.ext.writer import nodes
from amiclient.ext.writer.writer import Writer
from amiclient.ext.writer import xattrs
from amiclient.source import acl
from amiclient.source import fflags
from amiclient import units

_LOG = logging.getLogger(__name__)

#: The files that say which numbers users and groups have, and the bytes of
#: them that are kept.
_NAMES = (b'etc/passwd', b'etc/group')
_NAMES_SIZE = 1 << 20

_LARGEST_ID = 2**32 - 2


class Basin:
    """A tree in the making.

    :param name: of the source, for errors.
    :param writer: where the content of files goes.
    :param limit: bytes that it may take.
    :param limited: why it may take no more, for the error.
    """

    def __init__(
        self,
        name: str,
        writer: Writer,
        *,
        limit: int,
        limited: str,
    ) -> None:
        self.name = name
        self.tree = nodes.Tree()
        self._writer = writer
        self._limit = limit
        self._limited = limited
        self._taken = 0
        self._lists: list[tuple[bytes, nodes.Node, bytes, str]] = []
        self._users: dict[bytes, bytes] = {}
        self._strange: set[bytes] = set()

    def add(self, path: bytes, node: nodes.Node) -> None:
        """Add a file that has no content.

        :raises SourceError: if it cannot be there, or not be like that.
        """
        self._take(path, inodes.SIZE)
        self._refuse_ids(path, node)
        self._put(path, node)

    def add_file(
        self,
        path: bytes,
        node: nodes.Node,
        size: int,
        ranges: Iterable[tuple[int, int]],
        read: content.Read,
    ) -> None:
        """Add a regular file.

        :param size: bytes.
        :param ranges: where it has data, as offset and length, ascending.
        :param read: is asked for them one after the other.
        """
        self._refuse_ids(path, node)
        # The old format of GNU tar fills its map up with nothing at byte 0.
        ranges = [(offset, length) for offset, length in ranges if length]
        end = 0
        for offset, length in ranges:
            if offset < end or length < 0 or offset + length > size:
                raise self.refused(path, 'its map of holes makes no sense')
            end = offset + length
        self._take(path, inodes.SIZE + sum(length for _, length in ranges))
        try:
            kept = self._kept(path, size, read)
            self._writer.store(node, size, ranges, kept)
        except nodes.PathError as error:
            raise self.refused(path, str(error)) from error
        self._put(path, node)

    def link(self, path: bytes, target: bytes) -> None:
        """Give a file that is there already another name."""
        try:
            node = self.tree.find(target)
        except nodes.PathError as error:
            raise self.refused(path, f'a link: {error}') from error
        if node is None or node.is_directory:
            what = 'a directory' if node else 'not there'
            raise self.refused(
                path, f'a link to {errors.shown(target)}, which is {what}'
            )
        self._put(path, node)

    def add_list(
        self, path: bytes, node: nodes.Node, name: bytes, text: str
    ) -> None:
        """Note the access control list of a file, as text.

        :param name: of the attribute that it becomes.
        """
        node.is_held = True
        self._lists.append((path, node, name, text))

    def keep_known(
        self, path: bytes, found: dict[bytes, bytes]
    ) -> dict[bytes, bytes]:
        """Leave out attributes that ext4 does not know, and say so."""
        known = {}
        for name, value in found.items():
            if xattrs.known(name):
                known[name] = value
            elif name not in self._strange:
                self._strange.add(name)
                _LOG.warning(
                    '%s: %s: attributes called %s are left out, ext4 does '
                    'not have them',
                    self.name,
                    errors.shown(path),
                    errors.shown(name),
                )
        return known

    def flags(self, path: bytes, node: nodes.Node, text: str) -> int:
        """Read the flags of a file, and say which are not known."""
        found, strange = fflags.parse(text)
        for name in map(os.fsencode, strange):
            if name not in self._strange:
                self._strange.add(name)
                _LOG.warning(
                    '%s: %s: the flag %s is left out, it is not known',
                    self.name,
                    errors.shown(path),
                    errors.shown(name),
                )
        if not (node.is_file or node.is_directory):
            return 0
        return fflags.suited(found, directory=node.is_directory)

    def holds(self, name: bytes) -> bool:
        """Tell whether a directory in the root has a file of that name."""
        return any(
            name in node.children for node in self.tree.root.children.values()
        )

    def settle_lists(self) -> None:
        """Have files the access control lists that were noted as text.

        :raises SourceError: if one makes no sense.
        """
        known = acl.names(*(self._users.get(p, b'') for p in _NAMES))
        for path, node, name, text in self._lists:
            try:
                value = acl.parse(text, known, default=name != acl.ACCESS)
            except ValueError as error:
                raise self.refused(
                    path,
                    str(error),
                    'have tar write numbers, too: --xattrs '
                    "--xattrs-include='*'",
                ) from error
            if value is not None:
                node.xattrs.setdefault(name, value)
        for _, node in self.tree.whole():
            if acl.ACCESS in node.xattrs and not node.is_symlink:
                node.mode = acl.mode_of(node.xattrs[acl.ACCESS], node.mode)

    def settle(self) -> nodes.Tree:
        """Finish what could not be done before everything was there."""
        found = self.tree.find(b'lost+found')
        if found is not None and not found.is_directory:
            raise self.refused(
                b'lost+found', 'e2fsck needs a directory of that name'
            )
        # Those that are packed have none.
        for path, node in self.tree.whole():
            try:
                xattrs.packed(node.xattrs)
            except xattrs.XattrError as error:
                raise self.refused(
                    path, f'extended attributes: {error}'
                ) from error
        return self.tree

    def refused(
        self, path: bytes, why: str, hint: str | None = None
    ) -> errors.SourceError:
        """Say what is wrong with a file."""
        return errors.SourceError(
            f'{errors.shown(path) or "."}: {why}', subject=self.name, hint=hint
        )

    def _put(self, path: bytes, node: nodes.Node) -> None:
        try:
            self.tree.put(path, node)
        except nodes.PathError as error:
            raise self.refused(path, str(error)) from error
        self._writer.discard(self.tree.released)
        self.tree.released.clear()

    def _take(self, path: bytes, count: int) -> None:
        self._taken += count
        if self._taken > self._limit:
            raise errors.NoSpaceError(
                f'{errors.shown(path)}: what it holds takes more '
                f'than {units.format_size(self._limit)}, {self._limited}',
                subject=self.name,
                hint='is it what it should be? Else make room, or choose a '
                'larger --size',
            )

    def _refuse_ids(self, path: bytes, node: nodes.Node) -> None:
        if not (0 <= node.uid <= _LARGEST_ID and 0 <= node.gid <= _LARGEST_ID):
            raise self.refused(path, 'there can be no such owner')
        if stat.S_ISCHR(node.mode) or stat.S_ISBLK(node.mode):
            major, minor = node.device
            # include/linux/kdev_t.h: 12 and 20 bits.
            if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
                raise self.refused(path, 'there can be no such device')
        if node.is_symlink and not node.target:
            raise self.refused(path, 'a symbolic link to nowhere')
        if len(node.target) > nodes.PATH_MAX:
            raise self.refused(
                path,
                'a symbolic link that leads too far: '
                f'{nodes.PATH_MAX} bytes are the most',
            )
        if b'\0' in node.target:
            raise self.refused(path, 'a symbolic link with a NUL in it')

    def _kept(
        self, path: bytes, size: int, read: content.Read
    ) -> content.Read:
        """Keep a copy of what will be needed later."""
        plain = b'/'.join(nodes.parts(path))
        if plain not in _NAMES or size > _NAMES_SIZE:
            return read
        self._users[plain] = b''

        def kept(offset: int, count: int) -> bytes:
            data = read(offset, count)
            self._users[plain] += data
            return data

        return kept
