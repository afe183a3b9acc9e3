# SPDX-License-Identifier: Apache-2.0

"""Unified kernel images: kernel and ramdisk in one file for UEFI.

It is a PE file whose sections hold what a boot loader would have put together
(UAPI group, "Unified Kernel Image"; Microsoft's PE format specification).
Nova starts a kernel itself, so it needs the parts.
"""

from collections.abc import Mapping
import dataclasses
import struct

#: Bytes that the headers are within.
HEAD = 64 * 1024

#: Sections are 40 bytes each, and a unified kernel image has a dozen.
_SECTIONS = 96


@dataclasses.dataclass(frozen=True)
class Section:
    """One section.

    :param offset: bytes from the beginning of the file.
    :param size: bytes, without what fills it up.
    """

    offset: int
    size: int


def sections(head: bytes) -> Mapping[str, Section]:
    """Tell the sections of a unified kernel image.

    :param head: what the file begins with.
    :returns: by name, the first one of each; nothing if it is something else.
    """
    if head[:2] != b'MZ' or len(head) < 0x40:
        return {}
    (start,) = struct.unpack_from('<I', head, 0x3C)
    if head[start : start + 4] != b'PE\0\0' or start + 24 > len(head):
        return {}
    (count,) = struct.unpack_from('<H', head, start + 6)
    (optional,) = struct.unpack_from('<H', head, start + 20)
    found: dict[str, Section] = {}
    for i in range(min(count, _SECTIONS)):
        place = start + 24 + optional + 40 * i
        if place + 40 > len(head):
            break
        name = head[place : place + 8].rstrip(b'\0').decode('latin-1')
        size, _, raw, offset = struct.unpack_from('<4I', head, place + 8)
        # A profile after the first has sections of the same names.
        found.setdefault(name, Section(offset, min(size, raw)))
    return found if '.linux' in found else {}
