# SPDX-License-Identifier: Apache-2.0

"""Files that are to be in a filesystem, and the tree that they form.

A tree is filled in whatever order a source has its files; what comes later
replaces what was there before, as it does when an archive is unpacked.
"""

from collections.abc import Container, Iterator, Mapping
import dataclasses
import stat
import struct
import types
from typing import cast, ClassVar, Literal

from amiclient import errors
from amiclient.ext.inodes import LONGEST

#: The longest name that a directory takes, in bytes (ext4.h, EXT4_NAME_LEN).
_NAME = 255

#: The longest path that the kernel takes (limits.h, less the NUL).
PATH_MAX = 4095


#: A symbolic link up to so many bytes is in its inode.
SHORT = 59

#: How many names a file can have (ext4.h, EXT4_LINK_MAX).
_LINKS = 65000

#: Symbolic links that are followed on one way, as the kernel does (namei.h).
_FOLLOWED = 40

#: Files that a tree may have: a few times what the largest root filesystems
#: do; most take about 250 bytes of memory, some a kilobyte.
_FILES = 4 << 20

#: Blocks that follow each other in a file and on disk: the first one's number
#: in the file, and on disk, and how many there are.
Extent = tuple[int, int, int]

#: What a directory has that a source does not mention.
_DIRECTORY = stat.S_IFDIR | 0o755

#: A file in few bytes: mode, number, owner, group, flags, size, one extent,
#: and how many times follow; then the digest or target.
_ROW = struct.Struct('<HIIIIQIIIB')
_TIMES = tuple(struct.Struct(f'<{count}q') for count in range(4))


@dataclasses.dataclass(slots=True, eq=False)
class Node:
    """One file of whatever type: an inode.

    :param mode: type and permissions, as in ``st_mode``.
    :param mtime: nanoseconds since 1970; None for that of the filesystem.
    :param atime: the same; None for that of mtime, and so is ctime.
    :param xattrs: values by full name, as getxattr(2) has them.
    :param size: of a regular file, in bytes.
    :param extents: where the content of a regular file lies.
    :param digest: of the content of a regular file.
    :param target: of a symbolic link.
    :param device: major and minor number of a device.
    :param children: of a directory, by name; there are none elsewhere. Most
        files are packed there.
    :param flags: of chattr(1), as ext4 stores them.
    :param links: how many names it has.
    :param number: of the inode, once it has one.
    :param parent: number of the directory that a directory is in.
    :param xattr_block: block with those that do not fit into the inode, or 0.
    :param index_blocks: how many blocks the extent tree takes.
    :param body: what is in the inode about the content.
    :param is_held: whether it is still to be changed by who made it, and so
        is not to be packed.
    """

    mode: int
    uid: int = 0
    gid: int = 0
    mtime: int | None = None
    atime: int | None = None
    ctime: int | None = None
    xattrs: dict[bytes, bytes] = dataclasses.field(default_factory=dict)
    size: int = 0
    extents: list[Extent] = dataclasses.field(default_factory=list)
    digest: bytes = b''
    target: bytes = b''
    device: tuple[int, int] = (0, 0)
    children: 'dict[bytes, Node | Packed]' = dataclasses.field(
        default_factory=dict
    )
    flags: int = 0
    links: int = 0
    number: int = 0
    parent: int = 0
    xattr_block: int = 0
    index_blocks: int = 0
    body: bytes = b''
    is_held: bool = False

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.mode)

    def packed(self) -> 'Node | Packed':
        """Make it small, if it is one of those that can be."""
        if self.is_file:
            rest = self.digest
        elif self.is_symlink and len(self.target) <= SHORT:
            rest = self.target
        else:
            return self
        if (
            self.is_held
            or self.links != 1
            or self.xattrs
            or len(self.extents) > 1
            or (self.extents and self.extents[0][2] > LONGEST)
            or self.device != (0, 0)
        ):
            return self
        times = [self.mtime, self.atime, self.ctime]
        while times and times[-1] is None:
            times.pop()
        try:
            head = _ROW.pack(
                self.mode,
                self.number,
                self.uid,
                self.gid,
                self.flags,
                self.size,
                *(self.extents[0] if self.extents else (0, 0, 0)),
                len(times),
            )
            return Packed(head + _TIMES[len(times)].pack(*times) + rest)
        except struct.error:
            # A time that is missing before another, or far from the present.
            return self


class Packed(bytes):
    """A regular file or short symbolic link with one name, in few bytes."""

    __slots__ = ()

    is_directory: ClassVar[Literal[False]] = False
    children: ClassVar[Mapping[bytes, Node]] = types.MappingProxyType({})

    @property
    def mode(self) -> int:
        return int.from_bytes(self[:2], 'little')

    @property
    def number(self) -> int:
        return int.from_bytes(self[2:6], 'little')

    def whole(self) -> Node:
        """Make a node of it again, which is no part of the tree."""
        mode, number, uid, gid, flags, size, *extent, count = _ROW.unpack_from(
            self
        )
        times = _TIMES[count].unpack_from(self, _ROW.size) + (None,) * 3
        rest = self[_ROW.size + 8 * count :]
        is_file = stat.S_ISREG(mode)
        logical, start, length = extent
        return Node(
            mode,
            uid,
            gid,
            mtime=times[0],
            atime=times[1],
            ctime=times[2],
            size=size,
            extents=[(logical, start, length)] if length else [],
            digest=rest if is_file else b'',
            target=b'' if is_file else rest,
            flags=flags,
            links=1,
            number=number,
        )


class PathError(errors.AmiError):
    """A path that cannot be in the tree; the text tells why."""


class Tree:
    """A root directory and what is in it.

    :ivar released: regular files that no name is left of.
    """

    def __init__(self) -> None:
        self.root = Node(_DIRECTORY, links=1)
        self.released: list[Node] = []
        self._names = 0

    def find(self, path: bytes) -> Node | None:
        """Look a path up, without following symbolic links.

        :param path: relative to the root; ``.`` and what is empty in it does
            not count.
        :returns: None if there is nothing.
        :raises PathError: if there cannot be anything.
        """
        node = self.root
        for name in parts(path):
            child = node.children.get(name)
            if child is None:
                return None
            if isinstance(child, Packed):
                child = node.children[name] = child.whole()
            node = child
        return node

    def put(self, path: bytes, node: Node) -> None:
        """Give a node a name, in place of what has that name.

        Directories on the way to it that are not there yet are made. A
        directory that is there keeps what is in it.

        :raises PathError: if it cannot have that name.
        """
        names = parts(path)
        if not names:
            if not node.is_directory:
                raise PathError('the root is not a directory')
            node.children, node.links = self.root.children, 1
            self.root = node
            return
        siblings = self._children(names[:-1])
        here = siblings.get(names[-1])
        if isinstance(here, Packed):
            here = here.whole()
        if here is node:
            return
        if here is not None and here.is_directory and here.children:
            if not node.is_directory:
                raise PathError('it replaces a directory that is not empty')
            node.children = here.children
        if node.links >= _LINKS:
            raise PathError(f'it has more than {_LINKS} names')
        self._names += here is None
        if self._names > _FILES:
            raise PathError(f'there are more than {_FILES} files')
        node.links += 1
        siblings[names[-1]] = node.packed()
        if here is not None:
            self._release(here)

    def resolved(self, path: bytes) -> bytes:
        """Follow the symbolic links on the way to a path, within the tree.

        The last name is not followed. What is not there, has no links.

        :returns: the path, without what does not count in it.
        :raises PathError: if the links have no end, or there can be no such
            path.
        """
        way, links = parts(path), 0
        done: list[bytes] = []
        nodes = [self.root]
        while way:
            name = way.pop(0)
            if name == b'..':
                # In the root, it leads to the root.
                done, nodes = done[:-1], nodes[: max(1, len(nodes) - 1)]
                continue
            child = nodes[-1].children.get(name)
            if isinstance(child, Packed):
                child = child.whole()
            if way and child is not None and child.is_symlink:
                links += 1
                if links > _FOLLOWED:
                    raise PathError('it leads through links without end')
                if child.target.startswith(b'/'):
                    done, nodes = [], [self.root]
                steps = child.target.split(b'/')
                way = [s for s in steps if s not in (b'', b'.')] + way
                continue
            done.append(name)
            nodes.append(child or Node(_DIRECTORY))
        return b'/'.join(parts(b'/'.join(done)))

    def remove(
        self,
        path: bytes,
        *,
        kept: Container[bytes] = (),
        inside: bool = False,
    ) -> None:
        """Take a name away, and all that is below it, if it is there.

        :param path: as :meth:`resolved` returns it.
        :param kept: paths that stay, with the directories on the way there.
        :param inside: whether only what is below it goes.
        :raises PathError: if there cannot be anything.
        """
        node = self.find(path)
        if node is None:
            return
        below = path + b'/' if path else b''
        found = list(self._entries(node, below))[1:]
        if not inside and path:
            parent, _, name = path.rpartition(b'/')
            directory = self.find(parent)
            if directory is not None:
                found.insert(0, (path, directory.children, name, node))
        # Those that are deeper come first.
        for where, children, name, child in reversed(found):
            if where not in kept and not child.children:
                del children[name]
                self._names -= 1
                self._release(child)

    def _release(self, child: Node | Packed) -> None:
        """Count that a node has lost a name."""
        if isinstance(child, Packed):
            child = child.whole()
        child.links -= 1
        if not child.links and child.is_file:
            self.released.append(child)

    def reroot(self, path: bytes) -> None:
        """Make a directory in the tree its root, and take away the rest.

        :param path: without symbolic links.
        """
        node = self.find(path)
        parent, _, name = path.rpartition(b'/')
        directory = self.find(parent)
        if node is None or directory is None or not node.is_directory:
            raise PathError('it is not a directory')
        del directory.children[name]
        self.remove(b'', inside=True)
        node.links = 1
        self.root = node

    def move(self, source: bytes, target: bytes) -> None:
        """Give a file another place, instead of what is there.

        :param source: without symbolic links; so ``target``.
        :raises PathError: if there is none, or it cannot be there.
        """
        node = self.find(source)
        names = parts(target)
        parent, _, name = source.rpartition(b'/')
        directory = self.find(parent)
        if node is None or directory is None or not names:
            raise PathError('it cannot be moved')
        self.remove(target)
        self._children(names[:-1])[names[-1]] = node.packed()
        del directory.children[name]

    def clear(self, path: bytes) -> None:
        """Take away all names in a directory, if it is there.

        :raises PathError: if it is something else.
        """
        top = self.find(path)
        if top is None:
            return
        if not top.is_directory:
            raise PathError('it is not a directory')
        waiting = [top]
        while waiting:
            directory = waiting.pop()
            for child in directory.children.values():
                node = child.whole() if isinstance(child, Packed) else child
                self._names -= 1
                node.links -= 1
                if node.is_directory:
                    waiting.append(node)
                elif not node.links and node.is_file:
                    self.released.append(node)
            directory.children = {}

    def _children(self, names: list[bytes]) -> dict[bytes, Node | Packed]:
        node = self.root
        for index, name in enumerate(names):
            child = node.children.get(name)
            if child is None:
                child = Node(_DIRECTORY, links=1)
                node.children[name] = child
                self._names += 1
            elif isinstance(child, Packed):
                child = child.whole()
            if not child.is_directory:
                where = b'/'.join(names[: index + 1])
                what = 'symbolic link' if child.is_symlink else 'file'
                raise PathError(
                    f'{errors.shown(where)} is a {what}, not a directory'
                )
            node = child
        return node.children

    def walk(self) -> Iterator[tuple[bytes, Node]]:
        """Go through all names, sorted, each directory before what it has.

        What is done to a node before the next one comes, is done to the tree.
        """
        for path, children, name, child in self._entries():
            if isinstance(child, Packed):
                node = child.whole()
                yield path, node
                children[name] = node.packed()
            else:
                yield path, child

    def whole(self) -> Iterator[tuple[bytes, Node]]:
        """Go through those that are not packed, in the same order."""
        for path, _, _, child in self._entries():
            if not isinstance(child, Packed):
                yield path, child

    def members(self) -> list[Node]:
        """List those that are not packed, each once, by their numbers."""
        found = {node.number: node for _, node in self.whole()}
        return [node for _, node in sorted(found.items())]

    def packed(self) -> Iterator[Packed]:
        for _, _, _, child in self._entries():
            if isinstance(child, Packed):
                yield child

    def _entries(
        self, top: Node | None = None, prefix: bytes = b''
    ) -> Iterator[
        tuple[bytes, dict[bytes, Node | Packed], bytes, Node | Packed]
    ]:
        """Go through all names: path, the directory's names, name, node.

        :param top: where to begin; None for the root.
        :param prefix: what the paths begin with.
        """
        top = top or self.root
        yield prefix, {}, b'', top
        waiting = [(prefix, top.children, iter(sorted(top.children)))]
        while waiting:
            prefix, children, names = waiting[-1]
            for name in names:
                child = children[name]
                path = prefix + name
                yield path, children, name, child
                if child.children:
                    inner = cast(dict[bytes, Node | Packed], child.children)
                    waiting.append((path + b'/', inner, iter(sorted(inner))))
                    break
            else:
                waiting.pop()


def parts(path: bytes) -> list[bytes]:
    """Take a path apart.

    :raises PathError: if it leads out of the tree, or is too long.
    """
    names = [name for name in path.split(b'/') if name not in (b'', b'.')]
    if b'..' in names:
        raise PathError('it contains ..')
    if len(path) > PATH_MAX:
        raise PathError(f'its path is too long: {PATH_MAX} bytes are the most')
    if any(len(name) > _NAME for name in names):
        raise PathError(
            f'a name is too long for ext4: {_NAME} bytes are the most'
        )
    if b'\0' in path:
        raise PathError('the name has a NUL in it')
    return names
