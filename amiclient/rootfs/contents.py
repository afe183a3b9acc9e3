# SPDX-License-Identifier: Apache-2.0

"""What is in a root filesystem: which distribution, which release of it."""

import dataclasses
import pathlib
import re

from amiclient import errors
from amiclient.ext import reader as reader_

#: os-release(5): the first one that exists counts, alone.
_FILES = ('/etc/os-release', '/usr/lib/os-release')

_LIMIT = 64 * 1024
_ASSIGNMENT = re.compile(
    r"""([A-Z0-9_a-z]+)=(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([^\s"'\\]*))"""
)
_ESCAPE = re.compile(r'\\(["$`\\\'])')

#: What becomes a property of an image, for all who may see that.
_SANE = re.compile(r'[A-Za-z0-9._~+-]{1,64}')


@dataclasses.dataclass(frozen=True)
class Release:
    """The operating system in a root filesystem.

    :param distro: such as ``debian``; None if it does not say.
    :param version: such as ``12``; None if it has none (Debian testing).
    """

    distro: str | None
    version: str | None


def read_release(image: pathlib.Path) -> Release:
    """Tell which operating system is in a root filesystem image.

    :returns: both None if it has no os-release file, or that is of no use or
        cannot be read: whether it is damaged is for e2fsck to say.
    :raises SourceError: if there is no ext filesystem.
    """
    try:
        with reader_.opened(image) as reader:
            return release_in(reader)
    except errors.DamagedError:
        return Release(None, None)


def release_in(reader: reader_.Reader) -> Release:
    """Tell the same of a filesystem that is open already.

    :raises DamagedError: if it makes no sense.
    """
    for name in _FILES:
        found = reader.find(name)
        if found is not None and found.is_file:
            if found.size > _LIMIT:
                # Too long for what it should be.
                break
            data = b'' if found.is_encrypted else reader.read(found, _LIMIT)
            fields = parse(data)
            return Release(
                _sane(fields.get('ID')), _sane(fields.get('VERSION_ID'))
            )
    return Release(None, None)


def parse(data: bytes) -> dict[str, str]:
    """Parse an os-release file.

    Source: os-release(5): lines of shell assignments, without expansion or
    concatenation; comments; in quotes, a backslash before ``"``, ``$``, a
    backquote, ``\\`` and ``'``. What is not of that form is passed over.
    """
    fields = {}
    for line in data.decode('utf-8', 'replace').split('\n'):
        match = _ASSIGNMENT.fullmatch(line.strip())
        if match:
            name, double, single, bare = match.groups()
            if double is not None:
                double = _ESCAPE.sub(r'\1', double)
            fields[name] = double or single or bare or ''
    return fields


def _sane(value: str | None) -> str | None:
    return value if value and _SANE.fullmatch(value) else None
