# SPDX-License-Identifier: Apache-2.0

"""Disks in an archive, or a directory, that should be a root filesystem.

Such as an OVA, or ``disk.raw`` in a tarball: who gives that means the disk.
"""

from collections.abc import Iterable
import contextlib
import os
import pathlib

from amiclient import errors
from amiclient.ext.writer import content
from amiclient.ext.writer import nodes
from amiclient.source import detect
from amiclient.source import file_tree
from amiclient.source import opening
from amiclient.source import probe
from amiclient.source import virtual

#: Bytes that a disk has at least, and how many files are looked at.
_SMALLEST = 16 << 10
_MOST = 64


class Basin(file_tree.Basin):
    """A tree in the making of which the beginnings of files are kept."""

    _heads: tuple[tuple[bytes, int, bytearray], ...] = ()

    def add_file(
        self,
        path: bytes,
        node: nodes.Node,
        size: int,
        ranges: Iterable[tuple[int, int]],
        read: content.Read,
    ) -> None:
        """Add a regular file."""
        if size >= _SMALLEST and len(self._heads) < _MOST:
            head = bytearray(min(size, probe.HEAD))
            self._heads += ((path, size, head),)
            read = _remembering(read, head)
        super().add_file(path, node, size, ranges, read)

    def disk(self) -> str | None:
        """Name the first file that is a disk, or a filesystem to be taken."""
        for path, size, head in self._heads:
            if _is_disk(bytes(head), size, self.name):
                return errors.shown(path)
        return None


def in_directory(folder: pathlib.Path) -> str | None:
    """Name the first such file at the top of a directory."""
    with os.scandir(folder) as entries:
        found = [
            (entry.name, entry.stat(follow_symlinks=False).st_size)
            for entry in entries
            if entry.is_file(follow_symlinks=False)
        ]
    large = [each for each in sorted(found) if each[1] >= _SMALLEST]
    for name, size in large[:_MOST]:
        # What cannot be read is not what it is about.
        with (
            contextlib.suppress(errors.SourceError),
            opening.opened(folder / name, wanted='a disk') as file,
        ):
            if _is_disk(file.read(probe.HEAD), size, name):
                return errors.safe(name)
    return None


def _is_disk(head: bytes, size: int, name: str) -> bool:
    phrase, block = detect.examine(head, size, name)
    kind = virtual.tell(head[: virtual.HEAD])
    return block is not None or kind is not None or phrase in probe.DISKS


def _remembering(read: content.Read, head: bytearray) -> content.Read:
    def remembering(offset: int, count: int) -> bytes:
        data = read(offset, count)
        if offset < len(head):
            part = data[: len(head) - offset]
            head[offset : offset + len(part)] = part
        return data

    return remembering
