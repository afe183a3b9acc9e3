# SPDX-License-Identifier: Apache-2.0

"""The files of a filesystem in the making, and where their content goes.

Who gives an archive or a directory with a disk in it, such as an OVA or
``disk.raw`` in a tarball, means the disk: that is told, too.
"""

from collections.abc import Container, Iterable, Iterator
import contextlib
import logging
import os
import pathlib
import re
import stat

from amiclient import errors
from amiclient.ext.writer import nodes
from amiclient.ext.writer import records
from amiclient.ext.writer import writer
from amiclient.ext.writer.writer import Writer
from amiclient.source import attributes
from amiclient.source import opening
from amiclient.source import probe
from amiclient import units

_LOG = logging.getLogger(__name__)

#: The files that say which numbers users and groups have, those whose content
#: is kept, and the bytes that one may have.
_NAMES = (b'etc/passwd', b'etc/group')
_KEPT = (*_NAMES, b'etc/fstab')
_KEPT_SIZE = 1 << 20
_BELOW = tuple(b'/' + name for name in _KEPT)
#: What says which of the systems of ostree is booted, and how.
_OSTREE = re.compile(
    rb'boot/loader(?:\.[01])?/entries/[^/]+\.conf|'
    rb'ostree/deploy/.+/usr/lib/ostree/prepare-root\.conf'
)
_MOST_KEPT = 64

#: What belongs to root in any system: directories that packages install to,
#: and files that say who may do what.
SYSTEM = (b'etc', b'usr', b'usr/bin', b'usr/lib', b'etc/passwd', b'etc/shadow')

#: Attributes that say again what others do: the access control lists of XFS.
_AGAIN = (b'trusted.SGI_ACL_FILE', b'trusted.SGI_ACL_DEFAULT')

#: What a root filesystem has one of; and what one has besides etc and instead
#: of usr where it is looked for, and how deep that is. Other software has bin
#: and etc, too.
ROOTS = frozenset((b'bin', b'etc', b'init', b'sbin', b'usr'))
_BOTH = {b'bin', b'sbin'}
_DEEPEST = 3

#: Characters of a path that are shown; a member may be called anything.
_SHOWN = 200

_LARGEST_ID = 2**32 - 2

#: Bytes that a disk has at least, and how many files are looked at for one.
_SMALLEST_DISK = 16 << 10
_MOST_DISKS = 64


class FileTree:
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
        self.nodes = nodes.Tree()
        self._writer = writer
        self._limit = limit
        self._limited = limited
        self._taken = 0
        self._lists: list[tuple[bytes, nodes.Node, bytes, str]] = []
        self._contents: dict[bytes, bytes] = {}
        self._strange: set[bytes] = set()
        #: What large files begin with, by their path and size.
        self._heads: list[tuple[bytes, int, bytearray]] = []

    def add(self, path: bytes, node: nodes.Node) -> None:
        """Add a file that has no content.

        :raises SourceError: if it cannot be there, or not be like that.
        """
        self._take(path, records.SIZE)
        self._refuse_ids(path, node)
        self._put(path, node)

    def add_file(
        self,
        path: bytes,
        node: nodes.Node,
        size: int,
        ranges: Iterable[tuple[int, int]],
        read: writer.Read,
        *,
        punch: bool = False,
    ) -> None:
        """Add a regular file.

        :param size: bytes.
        :param ranges: where it has data, as offset and length, ascending.
        :param read: is asked for them one after the other.
        :param punch: whether many zeros on end are holes; then, it has no
            others.
        """
        self._refuse_ids(path, node)
        # The old format of GNU tar fills its map up with nothing at byte 0.
        ranges = [(offset, length) for offset, length in ranges if length]
        end = 0
        for offset, length in ranges:
            if offset < end or length < 0 or offset + length > size:
                raise self.refused(path, 'its map of holes is invalid')
            end = offset + length
        self._take(path, records.SIZE + sum(length for _, length in ranges))
        if size >= _SMALLEST_DISK and len(self._heads) < _MOST_DISKS:
            head = bytearray(min(size, probe.HEAD))
            self._heads.append((path, size, head))
            read = _remembering(read, head)
        try:
            keeping = self._keeping(path, size, read)
            if punch:
                self._writer.store_punched(node, size, keeping)
            else:
                self._writer.store(node, size, ranges, keeping)
        except nodes.PathError as error:
            raise self.refused(path, str(error)) from error
        self._put(path, node)

    def cover(self, path: bytes) -> None:
        """Take away what is in a directory, as a mount hides it."""
        self._take(path, records.SIZE)
        try:
            self.nodes.clear(path)
        except nodes.PathError as error:
            raise self.refused(path, str(error)) from error
        self._writer.discard(self.nodes.released)
        self.nodes.released.clear()

    def link(self, path: bytes, target: bytes) -> None:
        try:
            node = self.nodes.find(target)
        except nodes.PathError as error:
            raise self.refused(path, f'a link: {error}') from error
        if node is None or node.is_directory:
            what = 'a directory' if node else 'not there'
            raise self.refused(
                path,
                f'a link to {errors.shown(target, _SHOWN)}, which is {what}',
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
            if name in _AGAIN:
                continue
            if records.is_known_xattr(name):
                known[name] = value
            elif name not in self._strange:
                self._strange.add(name)
                _LOG.warning(
                    '%s: %s: attributes called %s are left out, ext4 does '
                    'not have them',
                    self.name,
                    errors.shown(path, _SHOWN),
                    errors.shown(name, _SHOWN),
                )
        return known

    def flags(self, path: bytes, node: nodes.Node, text: str) -> int:
        """Read the flags of a file, and say which are not known."""
        found, strange = attributes.parse_flags(text)
        for name in map(os.fsencode, strange):
            if name not in self._strange:
                self._strange.add(name)
                _LOG.warning(
                    '%s: %s: the flag %s is left out, it is not known',
                    self.name,
                    errors.shown(path, _SHOWN),
                    errors.shown(name, _SHOWN),
                )
        if not (node.is_file or node.is_directory):
            return 0
        return attributes.kept_flags(found, directory=node.is_directory)

    def remove(
        self,
        path: bytes,
        *,
        kept: Container[bytes] = (),
        inside: bool = False,
    ) -> None:
        """Take a file away, as :meth:`~.nodes.Tree.remove` does."""
        self.nodes.remove(path, kept=kept, inside=inside)
        self._discard()
        prefix = path + b'/' if path else b''
        for name in list(self._contents):
            if (name + b'/').startswith(prefix) and not self.nodes.find(name):
                del self._contents[name]

    @property
    def is_rooted(self) -> bool:
        """Whether it looks like a root filesystem."""
        return not ROOTS.isdisjoint(self.nodes.root.children.keys())

    def take_root(self, *, required: bool) -> bytes | None:
        """Make the one directory that has a root filesystem the root.

        :param required: whether it is an error if there are several.
        :returns: its path; None if there is none.
        """
        found = list(_roots(self.nodes.root))
        if not found or (len(found) > 1 and not required):
            return None
        if len(found) > 1:
            names = [errors.shown(path, _SHOWN) for path in found]
            raise errors.SourceError(
                'several directories in it have a root filesystem: '
                f'{errors.some(names)}',
                subject=self.name,
                hint='unpack the one that is meant, and give it',
            )
        self.reroot(found[0])
        return found[0]

    def reroot(self, path: bytes) -> None:
        """Make a directory the root, as :meth:`~.nodes.Tree.reroot` does."""
        self.nodes.reroot(path)
        self._discard()
        prefix = path + b'/'
        self._contents = {
            path.removeprefix(prefix): data
            for path, data in self._contents.items()
            if path.startswith(prefix)
        }

    def move(self, source: bytes, target: bytes) -> None:
        """Give a file another place, as :meth:`~.nodes.Tree.move` does."""
        self.nodes.move(source, target)
        self._discard()

    def disk(self) -> str | None:
        for path, size, head in self._heads:
            if _is_disk(bytes(head), size, self.name):
                return errors.shown(path, _SHOWN)
        return None

    def foreign(self) -> tuple[str, int] | None:
        """Find what belongs to root in a system, and does not here.

        :returns: a path, and the number of its owner; None if there is none.
        """
        with contextlib.suppress(nodes.PathError):
            for path in SYSTEM:
                node = self.nodes.find(path)
                if node is not None and node.uid:
                    return f'/{os.fsdecode(path)}', node.uid
        return None

    def kept(self, path: bytes) -> bytes:
        """Tell the content of one of a few files; nothing if it has none."""
        return self._contents.get(path, b'')

    def settle_lists(self) -> None:
        """Have files the access control lists that were noted as text.

        :raises SourceError: if one makes no sense.
        """
        known = attributes.accounts(*map(self.kept, _NAMES))
        for path, node, name, written in self._lists:
            try:
                value = attributes.parse_acl(
                    written, known, default=name != attributes.ACCESS
                )
            except ValueError as error:
                raise self.refused(
                    path,
                    str(error),
                    'have tar write numbers, too: --xattrs '
                    "--xattrs-include='*'",
                ) from error
            if value is not None:
                node.xattrs.setdefault(name, value)
        for _, node in self.nodes.whole():
            if attributes.ACCESS in node.xattrs and not node.is_symlink:
                node.mode = attributes.mode_of(
                    node.xattrs[attributes.ACCESS], node.mode
                )

    def settle(self) -> nodes.Tree:
        """Finish what could not be done before everything was there."""
        found = self.nodes.find(b'lost+found')
        if found is not None and not found.is_directory:
            raise self.refused(
                b'lost+found', 'e2fsck needs a directory of that name'
            )
        # Those that are packed have none.
        for path, node in self.nodes.whole():
            try:
                records.pack_xattrs(node.xattrs)
            except records.XattrError as error:
                raise self.refused(
                    path, f'extended attributes: {error}'
                ) from error
        return self.nodes

    def refused(
        self, path: bytes, why: str, hint: str | None = None
    ) -> errors.SourceError:
        return errors.SourceError(
            f'{errors.shown(path, _SHOWN) or "."}: {why}',
            subject=self.name,
            hint=hint,
        )

    def _put(self, path: bytes, node: nodes.Node) -> None:
        try:
            self.nodes.put(path, node)
        except nodes.PathError as error:
            raise self.refused(path, str(error)) from error
        self._discard()

    def _discard(self) -> None:
        self._writer.discard(self.nodes.released)
        self.nodes.released.clear()

    def _take(self, path: bytes, count: int) -> None:
        self._taken += count
        if self._taken > self._limit:
            raise errors.NoSpaceError(
                f'{errors.shown(path, _SHOWN)}: what it holds takes more than '
                f'{units.format_size(self._limit)}, {self._limited}',
                subject=self.name,
                hint='check that this is the right source; make room, or '
                'choose a larger --size',
            )

    def _refuse_ids(self, path: bytes, node: nodes.Node) -> None:
        if not (0 <= node.uid <= _LARGEST_ID and 0 <= node.gid <= _LARGEST_ID):
            raise self.refused(
                path, 'its owner is not a valid user or group ID'
            )
        if stat.S_ISCHR(node.mode) or stat.S_ISBLK(node.mode):
            major, minor = node.device
            # include/linux/kdev_t.h: 12 and 20 bits.
            if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
                raise self.refused(path, 'its device number is not valid')
        if node.is_symlink and not node.target:
            raise self.refused(path, 'a symbolic link without a target')
        if len(node.target) > nodes.PATH_MAX:
            raise self.refused(
                path,
                'the target of a symbolic link is longer than '
                f'{nodes.PATH_MAX} bytes',
            )
        if b'\0' in node.target:
            raise self.refused(path, 'a symbolic link with a NUL in it')

    def _keeping(
        self, path: bytes, size: int, read: writer.Read
    ) -> writer.Read:
        plain = b'/'.join(nodes.parts(path))
        if size > _KEPT_SIZE or not (
            plain in _KEPT
            # It may be the root that is in a directory of an archive.
            or (
                (plain.endswith(_BELOW) or _OSTREE.fullmatch(plain))
                and len(self._contents) < _MOST_KEPT
            )
        ):
            return read
        self._contents[plain] = b''

        def kept(offset: int, count: int) -> bytes:
            data = read(offset, count)
            self._contents[plain] += data
            return data

        return kept


def _roots(root: nodes.Node) -> Iterator[bytes]:
    """Find directories that have a root filesystem each."""
    level: list[tuple[bytes, nodes.Node]] = [(b'', root)]
    for _ in range(_DEEPEST):
        below = []
        for prefix, node in level:
            for name, child in node.children.items():
                if not isinstance(child, nodes.Node) or not child.children:
                    continue
                names = child.children.keys()
                if b'etc' in names and (b'usr' in names or names >= _BOTH):
                    yield prefix + name
                else:
                    below.append((prefix + name + b'/', child))
        level = below


def disk_in(directory: pathlib.Path) -> str | None:
    """Name the first disk, or filesystem, at the top of a directory."""
    with os.scandir(directory) as entries:
        found = [
            (entry.name, entry.stat(follow_symlinks=False).st_size)
            for entry in entries
            if entry.is_file(follow_symlinks=False)
        ]
    large = [each for each in sorted(found) if each[1] >= _SMALLEST_DISK]
    for name, size in large[:_MOST_DISKS]:
        # What cannot be read is not what it is about.
        with (
            contextlib.suppress(errors.SourceError),
            opening.opened(directory / name, wanted='a disk') as file,
        ):
            if _is_disk(file.read(probe.HEAD), size, name):
                return errors.safe(name)
    return None


def _is_disk(head: bytes, size: int, name: str) -> bool:
    content = probe.examine(head, size, name)
    return content.superblock is not None or content.found.disk is not None


def _remembering(read: writer.Read, head: bytearray) -> writer.Read:
    def remembering(offset: int, count: int) -> bytes:
        data = read(offset, count)
        if offset < len(head):
            part = data[: len(head) - offset]
            head[offset : offset + len(part)] = part
        return data

    return remembering
