# SPDX-License-Identifier: Apache-2.0

"""Flags of files, as chattr(1) sets them: numbers, and names in archives.

Source: include/uapi/linux/fs.h for the numbers, archive_entry.c of libarchive
for the names, which are also those of mtree(5).
"""

from collections.abc import Iterable
import errno
import fcntl
import struct

_APPEND = 0x20
_IMMUTABLE = 0x10
_JOURNAL = 0x4000
_SECURE = 0x1
_UNDELETE = 0x2

_NAMES = {
    'append': _APPEND,
    'sappnd': _APPEND,
    'sappend': _APPEND,
    'uappnd': _APPEND,
    'uappend': _APPEND,
    'immutable': _IMMUTABLE,
    'schg': _IMMUTABLE,
    'schange': _IMMUTABLE,
    'simmutable': _IMMUTABLE,
    'uchg': _IMMUTABLE,
    'uchange': _IMMUTABLE,
    'uimmutable': _IMMUTABLE,
    'dirsync': 0x10000,
    'journal': _JOURNAL,
    'journal-data': _JOURNAL,
    'noatime': 0x80,
    'nodump': 0x40,
    'notail': 0x8000,
    'secdel': _SECURE,
    'securedeletion': _SECURE,
    'sync': 0x8,
    'topdir': 0x20000,
    'undel': _UNDELETE,
    'undelete': _UNDELETE,
}

#: Those that are kept. Others say how a file is stored, not what it is like.
KEPT = 0
for _number in _NAMES.values():
    KEPT |= _number

#: Those that only directories have (ext4.h, EXT4_REG_FLMASK).
_OF_DIRECTORIES = 0x30000

#: FS_IOC_GETFLAGS; the size in it is that of a long, what it returns an int.
_GET = 2 << 30 | struct.calcsize('l') << 16 | ord('f') << 8 | 1

#: What filesystems without flags say.
_NONE = (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


def of(descriptor: int, *, directory: bool) -> int:
    """Read the flags of an open file or directory."""
    try:
        data = fcntl.ioctl(descriptor, _GET, bytes(8))
    except OSError as error:
        if error.errno in _NONE:
            return 0
        raise
    return suited(struct.unpack_from('=I', data)[0], directory=directory)


def suited(flags: int, *, directory: bool) -> int:
    """Leave those that a file, or a directory, can have and that are kept."""
    return flags & KEPT & (-1 if directory else ~_OF_DIRECTORIES)


def parse(text: str) -> tuple[int, Iterable[str]]:
    """Read a list of names.

    :param text: names with commas between them.
    :returns: the flags, and names that are not known.
    """
    flags, strange = 0, []
    for name in filter(None, (word.strip() for word in text.split(','))):
        if name in _NAMES:
            flags |= _NAMES[name]
        elif name.removeprefix('no') in _NAMES:
            flags &= ~_NAMES[name.removeprefix('no')]
        elif name != 'none':
            strange.append(name)
    return flags, strange
