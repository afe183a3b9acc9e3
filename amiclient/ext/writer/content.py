# SPDX-License-Identifier: Apache-2.0

"""The content of files, written to a new filesystem as it comes."""

from collections.abc import Callable, Iterable
import hashlib
import os
import struct

from amiclient.ext.writer import nodes
from amiclient.ext.writer import placement
from amiclient import sparse

#: Bytes that are read and written at a time.
_CHUNK = 1 << 20

#: What a file can have at most: its blocks have 32-bit numbers.
_LARGEST_FILE = (2**32 - 1) * placement.BLOCK

#: Reads some bytes of a file: offset and how many.
Read = Callable[[int, int], bytes]


class Content:
    """Blocks that are taken and written.

    :param descriptor: an empty file, open for writing.
    :param size: bytes that it may get, as far as that is known.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        self.descriptor = descriptor
        self.space = placement.Space(placement.table_blocks(size))

    def store(
        self,
        node: nodes.Node,
        size: int,
        ranges: Iterable[tuple[int, int]],
        read: Read,
    ) -> None:
        """Write the content of a regular file.

        :param size: bytes.
        :param ranges: where it has data, as offset and length, ascending;
            what is between them are holes.
        :param read: is asked for them one after the other.
        """
        if size > _LARGEST_FILE:
            raise nodes.PathError('the file is too large for ext4')
        node.size = size
        digest = hashlib.sha256(size.to_bytes(8, 'little'))
        ranges = [r for r in ranges if r[1]]
        for first, end in _spans(ranges):
            for start, count in self.space.take(end - first):
                node.extents.append((first, start, count))
                first += count
        place = iter(node.extents)
        extent = next(place, (0, 0, 0))
        for offset, length in ranges:
            digest.update(struct.pack('<QQ', offset, length))
            while length:
                logical, physical, count = extent
                inside = offset - logical * placement.BLOCK
                if inside >= count * placement.BLOCK:
                    extent = next(place)
                    continue
                part = min(length, count * placement.BLOCK - inside, _CHUNK)
                data = read(offset, part)
                digest.update(data)
                self.write(physical * placement.BLOCK + inside, data)
                offset, length = offset + part, length - part
        node.digest = digest.digest()

    def discard(self, released: Iterable[nodes.Node]) -> None:
        """Take back the blocks of files that have no name any more."""
        for node in released:
            runs = [(first, first + n) for _, first, n in node.extents]
            sparse.clear(
                self.descriptor, sparse.bytes_of(runs, placement.BLOCK)
            )
            for _, start, count in node.extents:
                self.space.give_back(start, count)
            node.extents = []

    def put(self, number: int, data: bytes) -> None:
        """Write a block, or several that follow each other."""
        self.write(number * placement.BLOCK, data)

    def move(self, number: int, to: int, count: int) -> None:
        """Copy some blocks to where nothing is."""
        for done in range(0, count * placement.BLOCK, _CHUNK):
            length = min(_CHUNK, count * placement.BLOCK - done)
            data = os.pread(
                self.descriptor, length, number * placement.BLOCK + done
            )
            self.write(to * placement.BLOCK + done, data)

    def write(self, offset: int, data: bytes) -> None:
        """Write some bytes."""
        view = memoryview(data)
        while view:
            done = os.pwrite(self.descriptor, view, offset)
            view, offset = view[done:], offset + done


def _spans(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Tell the blocks that hold some ranges of bytes."""
    spans: list[tuple[int, int]] = []
    for offset, length in ranges:
        first = offset // placement.BLOCK
        end = -(-(offset + length) // placement.BLOCK)
        if spans and first <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((first, end))
    return spans
