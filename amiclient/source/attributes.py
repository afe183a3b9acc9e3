# SPDX-License-Identifier: Apache-2.0

"""Attributes and lists as tar archives have them, and the flags of files.

Sources: acl(5), and include/uapi/linux/posix_acl_xattr.h for the binary form
of lists; chattr(1), include/uapi/linux/fs.h for the numbers of flags, and
archive_entry.c of libarchive for their names, which are also those of
mtree(5).
"""

import base64
import binascii
from collections.abc import Iterable, Mapping
import dataclasses
import errno
import fcntl
import functools
import operator
import struct
import urllib.parse

from amiclient import errors

#: The attribute that holds the list of who may do what with a file.
ACCESS = b'system.posix_acl_access'

#: How keywords of PAX headers begin that have extended attributes: those of
#: star and GNU tar, which has a keyword of its own for one; and libarchive's.
XATTR = 'SCHILY.xattr.'
_SELINUX = 'RHT.security.selinux'
_LIBARCHIVE_XATTR = 'LIBARCHIVE.xattr.'

_VERSION = 2
_UNDEFINED = 0xFFFFFFFF

_USER, _NAMED_USER, _GROUP, _NAMED_GROUP, _MASK, _OTHER = (
    1, 2, 4, 8, 16, 32,
)  # fmt: skip

_TAGS = {
    'user': (_USER, _NAMED_USER),
    'u': (_USER, _NAMED_USER),
    'group': (_GROUP, _NAMED_GROUP),
    'g': (_GROUP, _NAMED_GROUP),
    'mask': (_MASK, None),
    'm': (_MASK, None),
    'other': (_OTHER, None),
    'o': (_OTHER, None),
}
_RIGHTS = {'r': 4, 'w': 2, 'x': 1, '-': 0}


@dataclasses.dataclass(frozen=True)
class Accounts:
    """The users and groups of the system that is in an archive."""

    users: Mapping[str, int]
    groups: Mapping[str, int]


def accounts(passwd: bytes, group: bytes) -> Accounts:
    """Read the numbers of users and groups.

    :param passwd: the content of ``/etc/passwd``.
    :param group: that of ``/etc/group``.
    """
    return Accounts(_numbers(passwd), _numbers(group))


def _numbers(data: bytes) -> dict[str, int]:
    found: dict[str, int] = {}
    for line in data.decode('utf-8', 'surrogateescape').splitlines():
        fields = line.split(':')
        if len(fields) > 2 and fields[2].isascii() and fields[2].isdigit():
            found.setdefault(fields[0], int(fields[2]))
    return found


def parse_acl(
    text: str, known: Accounts, *, default: bool = False
) -> bytes | None:
    """Turn text into what getxattr(2) returns.

    :param text: entries, separated by commas or newlines.
    :param known: what names in it stand for.
    :param default: whether it is what new files in a directory get.
    :returns: None if it says no more than the mode does.
    :raises ValueError: if it makes no sense, or has a name that is not known.
    """
    entries = []
    for word in text.replace('\n', ',').split(','):
        word = word.partition('#')[0].strip()
        if word:
            entries.append(_entry(word, known))
    if not entries:
        return None
    tags = {tag for tag, _, _ in entries}
    if not {_USER, _GROUP, _OTHER} <= tags:
        raise ValueError('an access control list is not complete')
    if tags == {_USER, _GROUP, _OTHER} and not default:
        return None
    if _MASK not in tags and tags & {_NAMED_USER, _NAMED_GROUP}:
        # As setfacl(1) does: all who are named have what their entries say.
        mask = 0
        for tag, bits, _ in entries:
            mask |= bits if tag not in (_USER, _OTHER) else 0
        entries.append((_MASK, mask, _UNDEFINED))
    return _packed(entries)


def mode_of(value: bytes, mode: int) -> int:
    """Tell the mode of a file that has an access control list.

    The bits of the group are those of the mask: acl(5). If they were all
    missing, the kernel would not look at the list.

    :param value: as getxattr(2) returns it. One that makes no sense changes
        nothing.
    :param mode: what it is otherwise.
    """
    for *_, bits, _number, shift in _shifted(value):
        if shift is not None:
            mode = mode & ~(7 << shift) | (bits & 7) << shift
    return mode


def chmod_acl(value: bytes, mode: int) -> bytes:
    """Tell what chmod(2) makes of an access control list.

    The parameters are those of :func:`mode_of`.
    """
    entries = [
        struct.pack(
            '<HHI', tag, bits if shift is None else mode >> shift & 7, number
        )
        for tag, bits, number, shift in _shifted(value)
    ]
    return value[:4] + b''.join(entries) if entries else value


def _shifted(value: bytes) -> list[tuple[int, int, int, int | None]]:
    if len(value) % 8 != 4:
        return []
    entries = list(struct.iter_unpack('<HHI', value[4:]))
    group = _MASK if _MASK in (tag for tag, *_ in entries) else _GROUP
    shifts = {_USER: 6, group: 3, _OTHER: 0}
    return [(*entry, shifts.get(entry[0])) for entry in entries]


def _entry(word: str, known: Accounts) -> tuple[int, int, int]:
    strange = ValueError(
        f"an access control list has the entry '{errors.shown(word, 80)}'"
    )
    # star appends the number: user:lisa:rwx:502
    fields = word.split(':')
    if fields[0] in ('mask', 'm', 'other', 'o') and len(fields) == 2:
        fields.insert(1, '')
    if fields[0] not in _TAGS or not 3 <= len(fields) <= 4:
        raise strange
    own, named = _TAGS[fields[0]]
    rights = fields[2].split()[0] if fields[2].split() else ''
    if not rights or set(rights) - set(_RIGHTS):
        raise strange
    bits = sum(_RIGHTS[letter] for letter in set(rights))
    if not fields[1]:
        return own, bits, _UNDEFINED
    if named is None:
        raise strange
    table = known.users if named == _NAMED_USER else known.groups
    return named, bits, _number(fields, table)


def _number(fields: list[str], table: Mapping[str, int]) -> int:
    for text in (*fields[3:], fields[1]):
        if text.isascii() and text.isdigit() and int(text) < _UNDEFINED:
            return int(text)
    if fields[1] in table:
        return table[fields[1]]
    raise ValueError(
        f"an access control list names '{errors.shown(fields[1], 80)}', who "
        'is not in the archive'
    )


def _packed(entries: Iterable[tuple[int, int, int]]) -> bytes:
    ordered = sorted((tag, number, bits) for tag, bits, number in entries)
    return struct.pack('<I', _VERSION) + b''.join(
        struct.pack('<HHI', tag, bits, number) for tag, number, bits in ordered
    )


_APPEND = 0x20
IMMUTABLE = 0x10
_JOURNAL = 0x4000
_SECURE = 0x1
_UNDELETE = 0x2

_FLAGS = {
    'append': _APPEND,
    'sappnd': _APPEND,
    'sappend': _APPEND,
    'uappnd': _APPEND,
    'uappend': _APPEND,
    'immutable': IMMUTABLE,
    'schg': IMMUTABLE,
    'schange': IMMUTABLE,
    'simmutable': IMMUTABLE,
    'uchg': IMMUTABLE,
    'uchange': IMMUTABLE,
    'uimmutable': IMMUTABLE,
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
_KEPT = functools.reduce(operator.or_, _FLAGS.values())

#: Those that only directories have (ext4.h, EXT4_REG_FLMASK).
_OF_DIRECTORIES = 0x30000

#: FS_IOC_GETFLAGS; the size in it is that of a long, what it returns an int.
_GET_FLAGS = 2 << 30 | struct.calcsize('l') << 16 | ord('f') << 8 | 1

#: What filesystems without flags say.
_NO_FLAGS = (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


def read_flags(descriptor: int, *, directory: bool) -> int:
    try:
        data = fcntl.ioctl(descriptor, _GET_FLAGS, bytes(8))
    except OSError as error:
        if error.errno in _NO_FLAGS:
            return 0
        raise
    return kept_flags(struct.unpack_from('=I', data)[0], directory=directory)


def kept_flags(flags: int, *, directory: bool) -> int:
    """Leave those that a file, or a directory, can have and that are kept."""
    return flags & _KEPT & (-1 if directory else ~_OF_DIRECTORIES)


def parse_flags(text: str) -> tuple[int, Iterable[str]]:
    """Read a list of names.

    :param text: names with commas between them.
    :returns: the flags, and names that are not known.
    """
    flags, strange = 0, []
    for name in filter(None, (word.strip() for word in text.split(','))):
        if name in _FLAGS:
            flags |= _FLAGS[name]
        elif name.removeprefix('no') in _FLAGS:
            flags &= ~_FLAGS[name.removeprefix('no')]
        elif name != 'none':
            strange.append(name)
    return flags, strange


def from_pax(headers: Mapping[str, str]) -> dict[bytes, bytes]:
    """Take the extended attributes from the PAX headers of a file.

    :raises ValueError: if one of them makes no sense.
    """
    found = {}
    for key, text in headers.items():
        if key.startswith(_LIBARCHIVE_XATTR):
            name = urllib.parse.unquote_to_bytes(key[len(_LIBARCHIVE_XATTR) :])
            padded = text + '=' * (-len(text) % 4)
            try:
                found[name] = base64.b64decode(padded, validate=True)
            except binascii.Error as error:
                raise ValueError(str(error)) from error
    if _SELINUX in headers:
        # The kernel's has the NUL at the end; GNU tar's has not.
        found[b'security.selinux'] = (
            headers[_SELINUX].encode('utf-8', 'surrogateescape').rstrip(b'\0')
            + b'\0'
        )
    for key, text in headers.items():
        if key.startswith(XATTR):
            name = key[len(XATTR) :].encode('utf-8', 'surrogateescape')
            # GNU tar has to spell what ends a keyword otherwise.
            name = name.replace(b'%3D', b'=').replace(b'%25', b'%')
            found[name] = text.encode('utf-8', 'surrogateescape')
    return found
