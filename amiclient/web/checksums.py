# SPDX-License-Identifier: Apache-2.0

"""Files with the hashes of other files, as vendors publish them.

There are three kinds. ``sha256sum`` writes a hash, a space, a space or an
asterisk, and the name of a file (SHA256SUMS of Debian and Ubuntu). With
``--tag``, and on BSD, it is ``SHA256 (name) = hash`` (CHECKSUM of Fedora and
CentOS). And some files have nothing but one hash. A signature may be around
all of it (RFC 9580, section 7).
"""

from collections.abc import Iterator
import re
from typing import NamedTuple

from amiclient import errors
from amiclient.glance.transfer import image_data

#: What is taken, the best first, by the digits of a hash. SHA-1 and MD5 are
#: no proof any more: files can be made that have the same.
ALGORITHMS = {'sha512': 128, 'sha384': 96, 'sha256': 64}
_BY_DIGITS = {digits: name for name, digits in ALGORITHMS.items()}

#: coreutils begins a line with a backslash if it had to write some of the
#: name in another way.
_GNU = re.compile(r'\\?([0-9A-Fa-f]{64,})[ \t]+\*?(.+)')
#: openssl calls them SHA2-256, and has no space before the parenthesis.
_BSD = re.compile(r'SHA(?:2-)?(\d+) ?\((.+)\) ?= ?([0-9A-Fa-f]+)')
_BARE = re.compile(r'[0-9A-Fa-f]{64,}')


def find(text: str, path: str, where: str) -> image_data.Digest:
    """Find the best hash of a file.

    :param text: what the file with the hashes holds.
    :param path: of the file on its server. Its name has to be the same; if
        there are several of that name, so have the directories above it.
    :param where: what to call the file with the hashes.
    :raises SourceError: if there is none, or there are several files of that
        name that differ.
    """
    name = path.rpartition('/')[2]
    entries = list(_entries(text))
    named = [each for each in entries if _base(each) in (name, '')]
    near = [each for each in named if f'/{path}'.endswith(f'/{each.path}')]
    for algorithm in ALGORITHMS:
        values = {
            each.value for each in near or named if each.algorithm == algorithm
        }
        if len(values) > 1:
            raise errors.SourceError(
                f'it has {len(values)} different hashes of files named {name}',
                subject=where,
                hint=f'choose one, and give it with --{algorithm}',
            )
        if values:
            return image_data.Digest(algorithm, values.pop())
    what = 'it has no sha512, sha384 or sha256 of any file'
    if others := sorted({_base(each) for each in entries}):
        what = f'it has no hash of {name}, but of {errors.some(others)}'
    raise errors.SourceError(
        what, subject=where, hint='check the URL of the file with the hashes'
    )


class _Line(NamedTuple):
    path: str
    algorithm: str
    value: str


def _base(entry: _Line) -> str:
    return entry.path.rpartition('/')[2]


def _entries(text: str) -> Iterator[_Line]:
    """Read the lines; the path is empty where there is only a hash."""
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    for line in lines:
        bits, path, value = '', '', ''
        if match := _BSD.fullmatch(line):
            bits, path, value = match.groups()
        elif match := _GNU.fullmatch(line):
            value, path = match.groups()
        elif _BARE.fullmatch(line) and len(lines) == 1:
            value = line
        algorithm = _BY_DIGITS.get(len(value))
        # SHA512/256 has as many digits as SHA256.
        if algorithm and bits in ('', algorithm.removeprefix('sha')):
            yield _Line(path.removeprefix('./'), algorithm, value.lower())
