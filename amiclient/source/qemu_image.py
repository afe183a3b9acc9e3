# SPDX-License-Identifier: Apache-2.0

"""A disk image whose header is read before QEMU gets to see it.

What the readers of all formats share: :mod:`amiclient.source.qemu_headers` has
the formats.
"""

import dataclasses
import os
import struct
from typing import Any, BinaryIO

from amiclient import errors

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
