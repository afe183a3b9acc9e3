# SPDX-License-Identifier: Apache-2.0

"""A file that says what files are to be like, whatever they are here.

It is the form of mtree(5), as far as that is of use: a path and keywords on
each line, and ``/set`` for what follows. An ordinary user can so build a
system whose files belong to root, and which has devices.
"""

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator, Mapping
import dataclasses
import pathlib
import re
import stat
from typing import Any

from amiclient import errors
from amiclient.ext.writer import nodes
from amiclient.source import attributes
from amiclient.source import file_tree
from amiclient.source import opening

#: What a file of overrides may be at most, in bytes.
_LARGEST = 256 << 20

_TYPES = {
    'file': stat.S_IFREG,
    'dir': stat.S_IFDIR,
    'link': stat.S_IFLNK,
    'char': stat.S_IFCHR,
    'block': stat.S_IFBLK,
    'fifo': stat.S_IFIFO,
    'socket': stat.S_IFSOCK,
}

#: Keywords that say something of the content, which stays as it is.
_IGNORED = re.compile(
    'cksum|gname|inode|md5|nlink|nochange|optional|resdevice|rmd160|'
    'sha1|sha256|sha384|sha512|size|tags|uname|[a-z0-9]+digest'
)

#: What begins the keyword of an extended attribute; mtree has none.
_XATTR = 'xattr.'

#: Bytes of where a symbolic link may lead to: symlink(7), PATH_MAX.
_LONGEST = 4095

#: vis(3): octal numbers for whatever is not a plain character.
_ESCAPE = re.compile(rb'\\([0-7]{3}|.)', re.DOTALL)
_ESCAPES = {b'n': b'\n', b't': b'\t', b's': b' ', b'r': b'\r', b'0': b'\0'}

_NANO = 10**9


@dataclasses.dataclass(frozen=True)
class Override:
    """What one file is to be like.

    :param line: where that was said.
    :param kind: its type, as in ``st_mode``; None for whatever it is.
    :param mode: permissions; None, as with the others, to leave them.
    :param mtime: nanoseconds since 1970.
    :param flags: names of those of chattr(1), instead of what it has.
    :param xattrs: attributes that it gets besides what it has.
    """

    line: int
    path: bytes
    kind: int | None = None
    uid: int | None = None
    gid: int | None = None
    mode: int | None = None
    mtime: int | None = None
    device: tuple[int, int] | None = None
    target: bytes | None = None
    flags: str | None = None
    xattrs: Mapping[bytes, bytes] = dataclasses.field(default_factory=dict)


def read(path: pathlib.Path) -> list[Override]:
    """Read a file of overrides.

    :raises SourceError: if it cannot be read, or makes no sense.
    """
    with opening.opened(path, wanted='a file of overrides') as file:
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise errors.SourceError(
            'too large for a file of overrides', subject=errors.shown(path)
        )
    return list(_parsed(data, errors.shown(path)))


def apply(overrides: Iterable[Override], tree: file_tree.FileTree) -> None:
    """Make files what they are to be.

    :raises SourceError: if one is not there and cannot be made, or is of
        another type.
    """
    for override in overrides:
        try:
            node = tree.nodes.find(override.path)
        except nodes.PathError as error:
            raise tree.refused(override.path, str(error)) from error
        if node is None:
            node = _new(override, tree)
        elif override.kind not in (None, stat.S_IFMT(node.mode)):
            raise _refused(override, tree, 'is of another type')
        _change(node, override)
        if override.flags is not None:
            node.flags = tree.flags(override.path, node, override.flags)


def give_to(uid: int, gid: int, tree: file_tree.FileTree) -> None:
    for _, node in tree.nodes.walk():
        node.uid, node.gid = uid, gid


def _new(override: Override, tree: file_tree.FileTree) -> nodes.Node:
    kind = override.kind
    device = kind in (stat.S_IFCHR, stat.S_IFBLK)
    if kind is None or kind == stat.S_IFREG:
        raise _refused(override, tree, 'is not there')
    if (device and override.device is None) or (
        kind == stat.S_IFLNK and not override.target
    ):
        what = 'device' if device else 'link'
        raise _refused(override, tree, f'is not there, and has no {what}=')
    rights = 0o777 if kind == stat.S_IFLNK else 0o755
    if kind not in (stat.S_IFDIR, stat.S_IFLNK):
        rights = 0o644
    node = nodes.Node(
        kind | rights,
        target=override.target or b'',
        device=override.device or (0, 0),
        is_held=True,
    )
    tree.add(override.path, node)
    return node


def _change(node: nodes.Node, override: Override) -> None:
    if override.uid is not None:
        node.uid = override.uid
    if override.gid is not None:
        node.gid = override.gid
    if override.mode is not None and not node.is_symlink:
        node.mode = stat.S_IFMT(node.mode) | override.mode
    if override.mtime is not None:
        node.mtime = override.mtime
    if override.device is not None:
        node.device = override.device
    if override.target and node.is_symlink:
        node.target = override.target
    node.xattrs.update(override.xattrs)
    access = node.xattrs.get(attributes.ACCESS)
    if access is None or node.is_symlink:
        return
    if override.mode is None or attributes.ACCESS in override.xattrs:
        node.mode = attributes.mode_of(access, node.mode)
    else:
        node.xattrs[attributes.ACCESS] = attributes.chmod_acl(
            access, node.mode
        )


def _refused(
    override: Override, tree: file_tree.FileTree, why: str
) -> errors.SourceError:
    return errors.SourceError(
        f'the overrides, line {override.line}: '
        f'{errors.shown(override.path)} {why}',
        hint=f'see what is in {tree.name}',
    )


def _parsed(data: bytes, name: str) -> Iterator[Override]:
    defaults: dict[str, str] = {}
    # A backslash at the end continues a line.
    text = data.replace(b'\\\r\n', b'  \n').replace(b'\\\n', b' \v')
    number = 1
    for row in text.split(b'\n'):
        line, number = number, number + 1 + row.count(b'\v')
        words = row.replace(b'\v', b' ').split()
        if not words or words[0].startswith(b'#'):
            continue
        try:
            keywords = dict(_keyword(word) for word in words[1:])
            if words[0] == b'/set':
                defaults.update(keywords)
            elif words[0] == b'/unset':
                for key in keywords:
                    defaults.pop(key, None)
            else:
                yield _override(line, words[0], {**defaults, **keywords})
        except ValueError as error:
            raise errors.SourceError(
                f'line {line}: {error}',
                subject=name,
                hint='the documentation of openstack ami build shows what a '
                'line may hold',
            ) from error


def _keyword(word: bytes) -> tuple[str, str]:
    key, _, value = word.decode('utf-8', 'surrogateescape').partition('=')
    if (
        key not in _READERS
        and not _IGNORED.fullmatch(key)
        and not key.startswith(_XATTR)
    ):
        raise ValueError(f'the keyword {key!r} is not known')
    return key, value


def _override(line: int, word: bytes, keywords: Mapping[str, str]) -> Override:
    path = _unescaped(word)
    try:
        nodes.parts(path)
    except nodes.PathError as error:
        raise ValueError(
            f'{errors.shown(path)}: {error} (mtree -C and bsdtar write whole '
            'paths)'
        ) from error
    values = {
        _FIELDS.get(key, key): reader(keywords[key])
        for key, reader in _READERS.items()
        if key in keywords
    }
    attributes = {
        _target(key.removeprefix(_XATTR)): _value(text)
        for key, text in keywords.items()
        if key.startswith(_XATTR)
    }
    return Override(line, path, xattrs=attributes, **values)


def _unescaped(word: bytes) -> bytes:
    def replace(match: re.Match[bytes]) -> bytes:
        code = match[1]
        if len(code) == 3:
            return bytes([int(code, 8) & 0xFF])
        return _ESCAPES.get(code, code)

    return _ESCAPE.sub(replace, word)


def _kind(text: str) -> int:
    if text not in _TYPES:
        raise ValueError(f'there is no type {text!r}')
    return _TYPES[text]


def _id(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) > 2**32 - 2:
        raise ValueError(f'{text!r} is not the number of a user or group')
    return int(text)


def _mode(text: str) -> int:
    if not text or set(text) - set('01234567') or int(text, 8) > 0o7777:
        raise ValueError(f'{text!r} is not an octal mode')
    return int(text, 8)


def _time(text: str) -> int:
    # mtree(5): seconds, a full stop, and nanoseconds, not decimal places.
    seconds, _, rest = text.partition('.')
    try:
        return int(seconds) * _NANO + int(rest or '0')
    except ValueError as error:
        raise ValueError(f'{text!r} is not a time') from error


def _device(text: str) -> tuple[int, int]:
    # mtree(5): native,MAJOR,MINOR, or another system's name.
    fields = text.split(',')
    if len(fields) == 3 and fields[0] in ('native', 'linux'):
        del fields[0]
    if len(fields) != 2 or not all(
        f.isascii() and f.isdigit() for f in fields
    ):
        raise ValueError(f'{text!r} is not a device, such as 5,1')
    major, minor = map(int, fields)
    if major >= 1 << 12 or minor >= 1 << 20:
        raise ValueError(f'there can be no device {text}')
    return major, minor


def _target(text: str) -> bytes:
    found = _unescaped(text.encode('utf-8', 'surrogateescape'))
    if b'\0' in found:
        raise ValueError(f'{text[:40]!r} has a NUL in it')
    if len(found) > _LONGEST:
        raise ValueError(f'{text[:40]!r}... is too long')
    return found


def _value(text: str) -> bytes:
    try:
        if text[:2] in ('0x', '0X'):
            return bytes.fromhex(text[2:])
        if text[:2] in ('0s', '0S'):
            return base64.b64decode(text[2:], validate=True)
    except (ValueError, binascii.Error) as error:
        raise ValueError(f'{text!r} is not a value: {error}') from error
    return _target(text)


_READERS: Mapping[str, Callable[[str], Any]] = {
    'device': _device,
    'flags': str,
    'gid': _id,
    'link': _target,
    'mode': _mode,
    'time': _time,
    'type': _kind,
    'uid': _id,
}
_FIELDS = {'link': 'target', 'time': 'mtime', 'type': 'kind'}
