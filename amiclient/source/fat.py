# SPDX-License-Identifier: Apache-2.0

"""What a FAT filesystem is called: its serial number and its label.

Source: Microsoft's FAT specification, version 1.03: the extended boot records
of FAT12 and FAT16, and of FAT32.
"""

import dataclasses

#: Where the kind is told, and where the boot record begins, by the kind.
_RECORDS = (
    (54, (b'FAT12   ', b'FAT16   '), 36),
    (82, (b'FAT32   ',), 64),
)

#: What says that there is a serial number; and that there is a label, too.
_SERIAL, _LABEL = 0x28, 0x29

_NO_LABEL = 'NO NAME'


@dataclasses.dataclass(frozen=True)
class Volume:
    """A FAT filesystem, as others name it.

    :param serial: as after ``UUID=``, in lower case: ``abcd-1234``; '' if it
        has none.
    :param label: '' if it has none.
    """

    serial: str
    label: str


def parse(head: bytes) -> Volume | None:
    """Read what its boot sector tells.

    :param head: the first sector, or more.
    :returns: None if it is no FAT filesystem.
    """
    record = next(
        (at for place, kinds, at in _RECORDS if head.startswith(kinds, place)),
        None,
    )
    if record is None:
        return None
    signature = head[record + 2]
    if signature not in (_SERIAL, _LABEL):
        return Volume('', '')
    number = head[record + 3 : record + 7][::-1].hex()
    label = ''
    if signature == _LABEL:
        label = head[record + 7 : record + 18].decode('cp437').rstrip(' \0')
    return Volume(
        f'{number[:4]}-{number[4:]}', '' if label == _NO_LABEL else label
    )
