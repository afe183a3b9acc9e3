# SPDX-License-Identifier: Apache-2.0

"""Changing a few files in a filesystem, without mounting that.

If a file has the room in the blocks that it has, nothing but these and its
size are written. If not, debugfs gives it others: where there are holes, where
the content is in the inode, and where it gets longer.
"""

from collections.abc import Iterator, Sequence
import os
import pathlib
import struct

from amiclient import errors
from amiclient.ext import e2fsprogs
from amiclient.ext import inodes
from amiclient.ext.reader import opened
from amiclient.ext import superblock
from amiclient import sparse

#: Fields of an inode by which debugfs knows its 60 bytes of blocks.
_BODY = (*range(12), 'IND', 'DIND', 'TIND')

#: The header of an empty tree of extents in an inode, in words of 32 bits.
_NO_EXTENTS = struct.unpack(
    '<3I', inodes.EXTENT_HEADER.pack(inodes.EXTENT_MAGIC, 0, 4, 0, 0)
)


def rewrite(image: pathlib.Path, path: str, data: bytes) -> None:
    """Replace what is in a regular file of a filesystem.

    :param image: a file that may be changed, with a filesystem in order.
    :param path: of the file, in the filesystem; links are followed.
    :raises UnsupportedError: if that cannot be done. The filesystem is not
        to be used then.
    """
    file = _File(image, path)
    if file.room < len(data) and not file.grow(len(data)):
        raise _refused(path, f'there is no room for {len(data)} bytes')
    file.write(data)
    if _File(image, path).read(len(data)) != data:
        raise _refused(path, 'its new content cannot be read back')


def create(image: pathlib.Path, path: str) -> None:
    """Make an empty regular file in a directory that is there.

    :param image: as for :func:`rewrite`.
    :param path: a constant, which nothing hostile has a part in.
    :raises UnsupportedError: if that cannot be done.
    """
    directory, _, name = path.rpartition('/')
    with opened(image) as reader:
        found = reader.find(directory)
        if found is None or not found.is_directory:
            raise _refused(path, f'there is no directory {directory}')
    tools = e2fsprogs.Toolbox.of(superblock.read(image))
    # A new file can only be a copy of one here.
    tools.edit(
        image,
        (
            f'cd <{found.number}>',
            f'write /dev/null {name}',
            f'sif {name} mode 0100644',
        ),
    )
    _File(image, path)


def remove(image: pathlib.Path, paths: Sequence[str]) -> None:
    """Remove files.

    :param image: as for :func:`rewrite`.
    :param paths: of characters that mean nothing to debugfs: no space, no
        quotation mark, nothing that cannot be printed.
    :raises UnsupportedError: if that cannot be done.
    """
    tools = e2fsprogs.Toolbox.of(superblock.read(image))
    tools.edit(image, [f'rm {path}' for path in paths])
    with opened(image) as reader:
        for path in paths:
            if reader.find(path, follow=False) is not None:
                raise _refused(path, 'it does not go away')


def _refused(path: str, why: str) -> errors.UnsupportedError:
    return errors.UnsupportedError(
        f'{path} cannot be changed: {why}', hint='edit it yourself'
    )


class _File:
    def __init__(self, image: pathlib.Path, path: str) -> None:
        self._image = image
        self._path = path
        self._block = superblock.read(image)
        self._look()

    def _look(self) -> None:
        with opened(self._image) as reader:
            node = reader.find(self._path)
            if node is None:
                raise _refused(self._path, 'it does not exist')
            if not node.is_file:
                raise _refused(self._path, 'it is not a regular file')
            if node.is_sealed:
                raise _refused(
                    self._path, 'it is encrypted, compressed or sealed'
                )
            if self._block.ro_compat & superblock.RO_COMPAT_SHARED_BLOCKS:
                raise _refused(
                    self._path, 'the filesystem has files that share blocks'
                )
            self._node = node
            self._blocks = reader.blocks(node) or ()

    @property
    def room(self) -> int:
        """Bytes that it has blocks for, if there are no holes."""
        return len(self._blocks) * self._block.block_size

    def read(self, limit: int) -> bytes | None:
        with opened(self._image) as reader:
            return reader.read_file(self._path, limit)

    def grow(self, size: int) -> bool:
        """Take what it has away, and give it blocks for so many bytes."""
        count = -(-size // self._block.block_size)
        self._edit(self._emptied(), f'fallocate {self._name} 0 {count - 1}')
        self._look()
        self._edit(self._written())
        # Of its blocks, those within its size are read.
        self._edit(f'sif {self._name} size {size}')
        self._look()
        return self.room >= size

    def write(self, data: bytes) -> None:
        size = self._block.block_size
        padded = data.ljust(self.room, b'\0')
        with sparse.opened(self._image, os.O_RDWR) as descriptor:
            for index, number in enumerate(self._blocks):
                piece = padded[index * size : (index + 1) * size]
                os.pwrite(descriptor, piece, number * size)
        self._edit(f'sif {self._name} size {len(data)}')

    @property
    def _name(self) -> str:
        return f'<{self._node.number}>'

    def _edit(self, *commands: str | Iterator[str]) -> None:
        lines: list[str] = []
        for command in commands:
            lines += (command,) if isinstance(command, str) else command
        if lines:
            e2fsprogs.Toolbox.of(self._block).edit(self._image, lines)

    def _emptied(self) -> Iterator[str]:
        name = self._name
        yield f'punch {name} 0'
        if self._node.is_inline:
            flags = self._node.flags & ~inodes.INLINE | inodes.EXTENTS
            yield f'sif {name} flags {flags:#x}'
            for index, field in enumerate(_BODY):
                value = (*_NO_EXTENTS, *bytes(len(_BODY)))[index]
                yield f'sif {name} block[{field}] {value:#x}'
        yield f'sif {name} size 0'

    def _written(self) -> Iterator[str]:
        body = self._node.body
        _, entries, _, depth, _ = inodes.EXTENT_HEADER.unpack_from(body)
        if not self._node.has_extents or depth:
            return
        for index in range(entries):
            _, count, high, _ = inodes.EXTENT.unpack_from(
                body, 12 * (index + 1)
            )
            if count > inodes.LONGEST:
                word = count - inodes.LONGEST | high << 16
                field = _BODY[3 * (index + 1) + 1]
                yield f'sif {self._name} block[{field}] {word:#x}'
