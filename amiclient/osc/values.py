# SPDX-License-Identifier: Apache-2.0

"""Types of options: what argparse makes of their values."""

import argparse
from collections.abc import Callable
import datetime
import os
import pathlib
import re
import typing
from uuid import UUID

from amiclient import errors
from amiclient import units

_T = typing.TypeVar('_T')

#: How progress can be shown.
WAYS = ('auto', 'bar', 'plain', 'json', 'none')


def _checked(parse: Callable[[str], _T]) -> Callable[[str], _T]:
    """Let argparse say what is wrong with a value, in our words."""

    def convert(text: str) -> _T:
        try:
            return parse(text)
        except errors.UsageError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    convert.__doc__ = parse.__doc__
    return convert


@_checked
def journal(text: str) -> str | int:
    """Take ``keep``, ``none`` or a SIZE, in bytes."""
    if text in ('keep', 'none'):
        return text
    try:
        return units.parse_size(text)
    except errors.UsageError as error:
        raise errors.UsageError(
            f'{text!r} is not a journal', hint='use keep, none or a size'
        ) from error


@_checked
def progress(text: str) -> str:
    """Take who watches long work."""
    if text not in WAYS:
        raise errors.UsageError(
            f'{text!r} shows no progress', hint=f'use {", ".join(WAYS)}'
        )
    return text


@_checked
def some(text: str) -> str:
    """Take a name, or whatever else is not empty."""
    # Mostly a variable of a script that was not set.
    if not text:
        raise errors.UsageError('it must not be empty')
    return text


@_checked
def mount_point(text: str) -> str:
    """Take where a filesystem is mounted."""
    if not text.startswith('/') or not text.strip('/'):
        raise errors.UsageError(
            f'{text!r} is not the path of a mount point such as /var'
        )
    return text.rstrip('/')


_URL = re.compile('[A-Za-z][0-9A-Za-z+.-]*://')


class Url(str):
    """Where a file is that is downloaded before a command begins."""

    __slots__ = ()
    #: What becomes of its path then.
    kind: typing.ClassVar[type[str] | type[pathlib.Path]] = pathlib.Path


class PartUrl(Url):
    """The same, where a name would do as well."""

    __slots__ = ()
    kind = str


def _is_url(text: str) -> bool:
    return bool(_URL.match(text)) and not os.path.lexists(text)


def _is_web(text: str) -> bool:
    return _is_url(text) and text.lower().startswith('http')


@_checked
def path(text: str) -> pathlib.Path:
    """Take the path of a file or a directory."""
    if _is_url(text):
        # No fault of form: a line without the usage says more.
        raise errors.SourceError(
            'a URL, but a local file is needed',
            subject=text,
            hint='download it first, for example with curl -L -O URL',
        )
    # Path('') is the current directory.
    return pathlib.Path(some(text))


def source(text: str) -> pathlib.Path | Url:
    """Take the path, or the URL, of what is read."""
    return Url(text) if _is_web(text) else path(text)


def image(text: str) -> str:
    """Take the name or ID of an image, or the path or URL of a file."""
    return PartUrl(text) if _is_web(text) else some(text)


@_checked
def sha256(text: str) -> str:
    """Take a SHA-256."""
    return _hash(text, 64)


@_checked
def sha512(text: str) -> str:
    """Take a SHA-512."""
    return _hash(text, 128)


def _hash(text: str, digits: int) -> str:
    if not re.fullmatch(f'[0-9A-Fa-f]{{{digits}}}', text):
        raise errors.UsageError(
            f'{text!r} is not a hash of {digits} hexadecimal digits'
        )
    return text.lower()


#: The largest number that Glance has room for (min_disk, min_ram), and more
#: than enough for all else; int() refuses to read very long ones.
_MOST = 2**31 - 1
_DIGITS = 100


@_checked
def uuid(text: str) -> str:
    """Take the ID of an image."""
    try:
        return str(UUID(text))
    except ValueError as error:
        raise errors.UsageError(f'{text!r} is not a UUID') from error


@_checked
def count(text: str) -> int:
    """Take a whole number that is not negative."""
    # isdigit() is true of digits that int() does not take.
    if not (text.isascii() and text.isdigit()):
        raise errors.UsageError(f'{text!r} is not a number of 0 or more')
    if len(text) > _DIGITS or int(text) > _MOST:
        raise errors.UsageError(f'{text} is more than {_MOST}')
    return int(text)


@_checked
def positive(text: str) -> int:
    """Take a whole number from 1 on."""
    number = count(text)
    if not number:
        raise errors.UsageError(f'{text!r} is not a number of 1 or more')
    return number


@_checked
def positive_size(text: str) -> int:
    """Take a SIZE that is more than nothing, in bytes."""
    number = units.parse_size(text)
    if not number:
        raise errors.UsageError(f'{text!r} is not a size above 0')
    return number


@_checked
def regex(text: str) -> re.Pattern[str]:
    """Take a regular expression."""
    try:
        # An empty one is in every line.
        return re.compile(some(text))
    except re.error as error:
        raise errors.UsageError(
            f'{text!r} is not a regular expression: {error}'
        ) from error


@_checked
def seconds(text: str) -> float:
    """Take a time span."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    # Sockets count in milliseconds, and threads wait for a year or so.
    if not 0.001 <= number <= 1e7:
        raise errors.UsageError(f'{text!r} is not a number of seconds')
    return number


#: Hours in each unit of an age.
_HOURS = {'h': 1, 'd': 24, 'w': 7 * 24}


@_checked
def age(text: str) -> datetime.timedelta:
    """Take how old something is, in hours, days or weeks."""
    number, unit = text[:-1], text[-1:]
    if unit not in _HOURS or not (number.isascii() and number.isdigit()):
        raise errors.UsageError(
            f'{text!r} is not an age', hint='use for example 12h, 90d or 2w'
        )
    if len(number) > 5:
        raise errors.UsageError(f'{text} is too long ago')
    return datetime.timedelta(hours=int(number) * _HOURS[unit])


@_checked
def owner(text: str) -> tuple[int, int]:
    """Take a user and a group, by their numbers."""
    user, _, group = text.partition(':')
    numbers = [
        int(word)
        for word in (user, group)
        if word.isascii() and word.isdigit()
    ]
    if len(numbers) != 2 or max(numbers) > 2**32 - 2:
        raise errors.UsageError(
            f'{text!r} is not an owner',
            hint='use numeric user and group IDs, for example 0:0',
        )
    return numbers[0], numbers[1]


#: For a SIZE or PERCENT that is to be free.
headroom = _checked(units.parse_headroom)

#: For a SIZE, in bytes.
size = _checked(units.parse_size)
