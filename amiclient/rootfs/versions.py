# SPDX-License-Identifier: Apache-2.0

"""Versions of packages, in the order that each package manager has them in.

Each function makes a key of a version: keys compare as the manager compares
the versions. What ends first is decided by an end mark in the key.
"""

from collections.abc import Callable, Mapping
import operator
import re
from typing import Any

#: Compares as versions do.
Key = tuple[Any, ...]

_EPOCH = re.compile(r'(?:([0-9]*):)?(.*)', re.DOTALL)

_DPKG = re.compile(r'([^0-9]*)([0-9]*)', re.DOTALL)
_RPM = re.compile('[~^]|[0-9]+|[A-Za-z]+')
_PACMAN = re.compile('([^0-9A-Za-z]*)([0-9]+|[A-Za-z]+)')

#: What comes before the end of a version, and what comes after it.
_BEFORE = ('alpha', 'beta', 'pre', 'rc')
_AFTER = ('cvs', 'svn', 'git', 'hg', 'p')
_SUFFIX = f'_(?:{"|".join(_BEFORE + _AFTER)})[0-9]*'
_APK = re.compile(
    rf'([0-9]+)((?:\.[0-9]+)*)([a-z]?)((?:{_SUFFIX})*)(~[0-9a-f]+)?(-r[0-9]+)?'
)


def _number(digits: str) -> Key:
    """Make a key of a number of whatever length."""
    digits = digits.lstrip('0')
    return len(digits), digits


def _parts(version: str, mark: str = '-') -> tuple[Key, str, str | None]:
    """Split a version: epoch, upstream version, and revision or release."""
    epoch, rest = _EPOCH.fullmatch(version).groups()  # type: ignore[union-attr]
    upstream, dash, last = rest.rpartition(mark)
    if not dash:
        return _number(epoch or ''), rest, None
    return _number(epoch or ''), upstream, last


def _dpkg(version: str) -> Key:
    """Source: deb-version(7); verrevcmp() in dpkg's lib/dpkg/version.c.

    A missing revision is one of 0.
    """
    epoch, upstream, revision = _parts(version)
    if not upstream:
        raise ValueError
    return epoch, _dpkg_part(upstream), _dpkg_part(revision or '0')


def _dpkg_part(text: str) -> Key:
    return tuple(
        ((*map(_dpkg_order, letters), 0), _number(digits))
        for letters, digits in _DPKG.findall(text)
    )


def _dpkg_order(char: str) -> int:
    if char == '~':
        return -1
    return ord(char) + (0 if char.isascii() and char.isalpha() else 0x110000)


def _rpm(version: str) -> Key:
    """Source: rpmvercmp() in rpm's rpmio/rpmvercmp.c; rpm-version(7)."""
    epoch, upstream, release = _parts(version)
    key = epoch, _rpm_part(upstream)
    # Without a release, any will do (rpmdsCompare() in lib/rpmds.c).
    return key if release is None else (*key, _rpm_part(release))


_RPM_SIGNS: Mapping[str, Key] = {'~': (0,), '^': (2,)}
_RPM_END = (1,)


def _rpm_part(text: str) -> Key:
    return (
        *(
            _RPM_SIGNS.get(part)
            or ((4, *_number(part)) if part.isdigit() else (3, part))
            for part in _RPM.findall(text)
        ),
        _RPM_END,
    )


def _pacman(version: str) -> Key:
    """Source: rpmvercmp() in pacman's lib/libalpm/version.c; vercmp(8)."""
    epoch, upstream, release = _parts(version)
    key = epoch, _pacman_part(upstream)
    return key if release is None else (*key, _pacman_part(release))


def _pacman_part(text: str) -> Key:
    # Letters right behind something come before the end of it.
    return (
        *(
            (
                2 + len(separator) if separator or part.isdigit() else 0,
                part.isdigit(),
                _number(part) if part.isdigit() else part,
            )
            for separator, part in _PACMAN.findall(text)
        ),
        (1,),
    )


def _apk(version: str) -> Key:
    """Source: apk_version_compare_fuzzy() in apk-tools' src/version.c."""
    found = _APK.fullmatch(version)
    if found is None:
        raise ValueError
    first, numbers, letter, suffixes, commit, revision = found.groups()
    key: list[Key] = [_number(first)]
    # A number that begins with 0 counts as what is behind a point does.
    key += [
        (7, 0, each) if each[0] == '0' else (7, 1, *_number(each))
        for each in numbers.split('.')[1:]
    ]
    if letter:
        key.append((6, letter))
    for suffix, number in re.findall('_([a-z]+)([0-9]*)', suffixes):
        rank = 0 if suffix in _BEFORE else 5
        key.append((rank, (_BEFORE + _AFTER).index(suffix)))
        if number:
            key.append((4, *_number(number)))
    if commit:
        key.append((3, commit))
    if revision:
        key.append((2, *_number(revision.removeprefix('-r'))))
    return *key, (1,)


#: By what the package manager is called.
_KEYS: Mapping[str, Callable[[str], Key]] = {
    'apk': _apk,
    'dpkg': _dpkg,
    'pacman': _pacman,
    'rpm': _rpm,
}

#: How versions can relate to each other.
RELATIONS: Mapping[str, Callable[[Key, Key], bool]] = {
    '<': operator.lt,
    '<=': operator.le,
    '=': operator.eq,
    '>=': operator.ge,
    '>': operator.gt,
}


def has_epoch(version: str) -> bool:
    """Tell whether a version has an epoch other than 0."""
    return _parts(version)[0] != _number('')


def holds(manager: str, version: str, relation: str, other: str) -> bool:
    """Compare two versions as a package manager does.

    If one of them has no release, rpm and pacman ignore that of the other.

    :param manager: apk, dpkg, pacman or rpm.
    :raises ValueError: if one is none that the manager knows.
    """
    keys = []
    for each in (version, other):
        try:
            keys.append(_KEYS[manager](each))
        except ValueError:
            raise ValueError(
                f'{each!r} is not a version of {manager}'
            ) from None
    count = min(map(len, keys)) if manager in ('rpm', 'pacman') else None
    return RELATIONS[relation](keys[0][:count], keys[1][:count])
