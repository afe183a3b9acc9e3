# SPDX-License-Identifier: Apache-2.0

"""A disk image whose header is read before QEMU gets to see it.

What the readers of all formats share: :mod:`amiclient.source.qemu_headers` has
the formats. And what is in a qcow2, for where QEMU has no file to read.
"""

from collections.abc import Iterable, Iterator
import dataclasses
import os
import struct
from typing import Any, BinaryIO
import zlib

from amiclient import errors
from amiclient.source import block
from amiclient import sparse

CONVERT = 'if you trust it, convert it with qemu-img convert -O qcow2 first'

PARENT = 'it has a backing file'
_CUT = 'it is cut short'
_DAMAGED = 'its header is damaged, or of no known kind'

SECTOR = 512

#: Most bytes of the disk in an image: the limit of VMware and of Hyper-V.
LARGEST = 64 << 40


@dataclasses.dataclass(frozen=True)
class Header:
    """What the header of a disk image says.

    :param size: bytes of the disk in it.
    :param backing: the name of its backing file.
    :param backing_format: what that is, as QEMU calls it, if it is said.
    """

    size: int
    backing: bytes | None = None
    backing_format: str | None = None


class Image:
    """A disk image, while its header is read.

    :param name: what to call it in errors.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self.size = file.seek(0, os.SEEK_END)

    def read(self, offset: int, count: int) -> bytes:
        """Read a part, all of which must be there."""
        self.holds(offset, count)
        self._file.seek(offset)
        data = self._file.read(count)
        self.require(len(data) == count, _CUT)
        return data

    def holds(self, offset: int, count: int, *, step: int = 1) -> None:
        """Refuse it if a part is not in it, or begins between two steps."""
        self.require(offset % step == 0)
        self.require(0 <= offset <= self.size - count, _CUT)

    def unpack(self, layout: str, offset: int) -> tuple[Any, ...]:
        data = self.read(offset, struct.calcsize(layout))
        return struct.unpack(layout, data)

    def require(self, fact: object, why: str = _DAMAGED) -> None:
        if not fact:
            raise self.refused(why)

    def refused(self, why: str, *, hint: str = CONVERT) -> errors.SourceError:
        return errors.SourceError(why, subject=self._name, hint=hint)


#: Where entries of the tables of a qcow2 have an offset in its file; and what
#: says that a cluster is compressed, or zeros.
_OFFSET = 0x00FFFFFFFFFFFE00
_COMPRESSED = 1 << 62
_ZERO = 1

#: Bytes of unpacked clusters that are kept.
_KEPT = 4 << 20


class Qcow2Medium:
    """The disk in a qcow2 image, by its own tables.

    Source: QEMU's docs/interop/qcow2.txt, "Cluster mapping".

    :param image: the bytes of the image, whose header was found to be sound.
    :param size: bytes of the disk.
    :param bits: of an offset within a cluster.
    :param table: where the first table is.
    :param packed: how compressed clusters are packed.
    """

    def __init__(
        self,
        image: block.Medium,
        *,
        size: int,
        bits: int,
        table: int,
        packed: str,
    ) -> None:
        self.name = image.name
        self.size = size
        self._image = image
        self._bits = bits
        self._cluster = 1 << bits
        self._table = table
        self._packed = packed
        self._unpacked: dict[int, bytes] = {}

    def read(self, offset: int, count: int) -> bytes:
        """Read bytes, fewer only at the end of the disk.

        :raises SourceError: if they are compressed in a way that is not
            known here, or the tables make no sense.
        """
        end = min(offset + count, self.size)
        pieces = []
        while offset < end:
            start = offset & (self._cluster - 1)
            wanted = min(self._cluster - start, end - offset)
            pieces.append(self._within(offset >> self._bits, start, wanted))
            offset += wanted
        return b''.join(pieces)

    def stream(
        self, runs: Iterable[sparse.Run]
    ) -> Iterator[tuple[int, bytes]]:
        """Read ranges of bytes, in pieces."""
        return sparse.pieces(self.read, self.size, runs)

    def _within(self, number: int, start: int, count: int) -> bytes:
        """Read a part of a cluster of the disk."""
        first, second = divmod(number, self._cluster // 8)
        table = self._entry(self._table + 8 * first) & _OFFSET
        entry = self._entry(self._placed(table) + 8 * second) if table else 0
        if entry & _COMPRESSED:
            return self._unpack(entry)[start : start + count]
        place = entry & _OFFSET
        if entry & _ZERO or not place:
            return bytes(count)
        # What was never written may be missing at the end.
        return self._image.read(self._placed(place) + start, count).ljust(
            count, b'\0'
        )

    def _entry(self, offset: int) -> int:
        data = self._image.read(offset, 8)
        if len(data) < 8:
            raise self._damaged()
        return int.from_bytes(data, 'big')

    def _placed(self, offset: int) -> int:
        if offset % self._cluster or offset >= self._image.size:
            raise self._damaged()
        return offset

    def _unpack(self, entry: int) -> bytes:
        found = self._unpacked.get(entry)
        if found is not None:
            return found
        if self._packed != 'zlib':
            raise errors.UnsupportedError(
                f'it is compressed with {self._packed}', subject=self.name
            )
        bits = 62 - (self._bits - 8)
        offset = entry & ((1 << bits) - 1)
        sectors = ((entry & (_COMPRESSED - 1)) >> bits) + 1
        data = self._image.read(offset, sectors * SECTOR - offset % SECTOR)
        try:
            found = zlib.decompressobj(-12).decompress(data, self._cluster)
        except zlib.error as error:
            raise self._damaged() from error
        if len(found) < self._cluster:
            raise self._damaged()
        if len(self._unpacked) * self._cluster >= _KEPT:
            self._unpacked.clear()
        self._unpacked[entry] = found
        return found

    def _damaged(self) -> errors.DamagedError:
        return errors.DamagedError(
            'the tables of its qcow2 image make no sense',
            subject=self.name,
            hint='repair it with qemu-img check -r all',
        )
