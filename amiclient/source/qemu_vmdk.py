# SPDX-License-Identifier: Apache-2.0

"""The header of a VMDK, and the text in it.

Sources: VMware's Virtual Disk Format 5.0, and QEMU's block/vmdk.c.
"""

import os
import re
from typing import NamedTuple

from amiclient import errors
from amiclient.source import qemu_image

_SECTOR = qemu_image.SECTOR


class _Sparse(NamedTuple):
    """The header of a VMDK, whose sizes and offsets are sectors."""

    magic: bytes
    version: int
    flags: int
    capacity: int
    grain: int
    descriptor: int
    descriptor_size: int
    entries: int
    backup: int
    directory: int
    overhead: int
    unclean: int
    newlines: bytes
    compression: int


_SPARSE = '<4sIIQQQQIQQQB4sH'

#: In the place of the directory: the copy of the header at the end counts.
_AT_END = (1 << 64) - 1

#: The flags: a second directory; compressed grains with markers; all known.
_BACKUP = 1 << 1
_PACKED = 1 << 16 | 1 << 17
_FLAGS = 1 << 0 | _BACKUP | 1 << 2 | _PACKED

#: Most sectors of a descriptor; 20 are usual.
_DESCRIPTOR = 128

#: Most bytes that remain of an older descriptor behind one: QEMU writes a new
#: CID, of up to 8 digits, without the zeros that it begins with, and leaves
#: the end of the text where it was.
_REMAINDER = 7

#: The forms of its lines. QEMU looks for fields in comments as well.
_COMMENT = re.compile('#[^="]*')
_EXTENT = re.compile(
    r'(?:RW|RDONLY|NOACCESS) [1-9]\d{,18} SPARSE "[^"/\\]+"(?: 0)?', re.ASCII
)
_DDB = re.compile(r'(ddb\.[\w.]+) ?= ?"([^"]*)"', re.ASCII)
_FIELDS = (
    re.compile('(version)=([1-9])'),
    re.compile('(encoding)="([0-9A-Za-z_-]+)"'),
    re.compile('(CID)=([0-9A-Fa-f]{1,8})'),
    re.compile('(parentCID)=([Ff]{8})'),
    re.compile('(isNativeSnapshot)="(no)"'),
    re.compile('(createType)="(monolithicSparse|streamOptimized)"'),
)
_NEEDED = {'version', 'CID', 'parentCID', 'createType', 'extent'}


def read(image: qemu_image.Image) -> qemu_image.Header:
    head = used = _sparse(image, 0)
    if head.directory == _AT_END:
        used = _footer(image, head)
    # An entry of the directory is for a table of grains.
    length = -(-used.capacity // (used.grain * used.entries)) * 4
    image.holds(used.directory * _SECTOR, length)
    if used.flags & _BACKUP:
        image.holds(used.backup * _SECTOR, length)
    created = _descriptor(image, head)
    image.require(
        (created == 'streamOptimized') == bool(head.compression),
        f'its data are not what its createType says: {created}',
    )
    return qemu_image.Header(head.capacity * _SECTOR)


def _sparse(image: qemu_image.Image, offset: int) -> _Sparse:
    head = _Sparse(*image.unpack(_SPARSE, offset))
    image.require(head.magic == b'KDMV', 'it is not a VMDK image of one file')
    image.require(
        head.capacity, 'it holds no data, but names other files that do'
    )
    image.require(
        1 <= head.version <= 3
        and not head.flags & ~_FLAGS
        and head.flags & _PACKED in (0, _PACKED)
        and head.compression == bool(head.flags & _PACKED)
        and head.capacity <= qemu_image.LARGEST // _SECTOR
        and head.grain in (8 << bit for bit in range(9))
        and head.entries == 512
        and head.overhead <= image.size // _SECTOR
        and head.newlines == b'\n \r\n'
    )
    # That is where QEMU looks for a parent, whatever the header says.
    image.require(
        head.descriptor == 1 and 1 <= head.descriptor_size <= _DESCRIPTOR,
        'its VMDK descriptor is not where QEMU looks for it',
    )
    return head


def _footer(image: qemu_image.Image, head: _Sparse) -> _Sparse:
    """Read the copy of the header at the end of a VMDK, between markers."""
    place = image.size - 3 * _SECTOR
    image.require(
        image.size % _SECTOR == 0
        and image.unpack('<8xII496s', place) == (0, 3, bytes(496))
        and not any(image.read(place + 2 * _SECTOR, _SECTOR)),
        'the end of its VMDK stream is missing, or damaged',
    )
    foot = _sparse(image, place + _SECTOR)
    image.require(
        foot.directory != _AT_END
        and head
        == foot._replace(
            directory=head.directory,
            backup=head.backup,
            overhead=head.overhead,
            unclean=head.unclean,
        ),
        'the two copies of its VMDK header differ',
    )
    return foot


def _descriptor(image: qemu_image.Image, head: _Sparse) -> str:
    """Read the text in a VMDK, of which every line must be of a known form.

    :returns: what it says that the image was created as.
    """
    data = image.read(_SECTOR, head.descriptor_size * _SECTOR)
    words, end, rest = data.partition(b'\0')
    image.require(
        end and not any(rest[_REMAINDER:]), 'its VMDK descriptor does not end'
    )
    # In whatever line it is.
    _, named, parent = words.partition(b'parentFileNameHint')
    if named:
        parent = parent.partition(b'\n')[0].strip(b'=" \r')
        raise image.refused(f'it has the backing file {_shown(parent)}')
    fields: dict[str, str] = {}
    for line in words.split(b'\n'):
        found = _line(os.fsdecode(line.removesuffix(b'\r')))
        image.require(
            found and found[0] not in fields,
            f'a line of its VMDK descriptor is not taken: {_shown(line)}',
        )
        if found and found[0]:
            fields[found[0]] = found[1]
    missing = ', '.join(sorted(_NEEDED - fields.keys()))
    image.require(not missing, f'its VMDK descriptor does not tell {missing}')
    return fields['createType']


def _line(line: str) -> tuple[str, str] | None:
    """Parse a line of a descriptor.

    :returns: what it is for, and its value, if they are known; '' for what
        means nothing.
    """
    if any(char < ' ' or char == '\x7f' for char in line):
        return None
    if not line.strip(' ') or _COMMENT.fullmatch(line):
        return '', ''
    if _EXTENT.fullmatch(line):
        # Its own, whatever it is called by now.
        return 'extent', ''
    for form in (*_FIELDS, _DDB):
        if match := form.fullmatch(line):
            key, value = match.groups()
            layer = key.startswith('ddb.') and 'parent' in key.lower()
            return None if layer and value.strip('0-') else (key, value)
    return None


def _shown(name: bytes) -> str:
    return errors.shown(name, 80)
