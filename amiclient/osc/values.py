# SPDX-License-Identifier: Apache-2.0

"""What values of options must look like."""

import argparse
from collections.abc import Callable
import os
import pathlib
import re
import typing
import uuid as uuid_

from amiclient import errors
from amiclient import units

_T = typing.TypeVar('_T')


def _checked(parse: Callable[[str], _T]) -> Callable[[str], _T]:
    """Let argparse say what is wrong with a value, in our words."""

    def convert(text: str) -> _T:
        try:
            return parse(text)
        except errors.UsageError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


def _journal(text: str) -> str | int:
    if text in ('keep', 'none'):
        return text
    try:
        return units.parse_size(text)
    except errors.UsageError as error:
        raise errors.UsageError(
            f'{text!r} is no journal', hint='write keep, none or a size'
        ) from error


def _some(text: str) -> str:
    # Mostly a variable of a script that was not set.
    if not text:
        raise errors.UsageError('it must not be empty')
    return text


_URL = re.compile('[A-Za-z][0-9A-Za-z+.-]*://')


def _path(text: str) -> pathlib.Path:
    if _URL.match(text) and not os.path.lexists(text):
        # No fault of form: a line without the usage says more.
        raise errors.SourceError(
            'a URL, where a file on this computer is wanted',
            subject=text,
            hint='download it first, for instance with curl -L -O URL',
        )
    # Path('') is the current directory.
    return pathlib.Path(_some(text))


#: The largest number that Glance has room for (min_disk, min_ram), and more
#: than enough for all else; int() refuses to read very long ones.
_MOST = 2**31 - 1
_DIGITS = 100


def _uuid(text: str) -> str:
    try:
        return str(uuid_.UUID(text))
    except ValueError as error:
        raise errors.UsageError(f'{text!r} is not a UUID') from error


def _count(text: str) -> int:
    # isdigit() is true of digits that int() does not take.
    if not (text.isascii() and text.isdigit()):
        raise errors.UsageError(f'{text!r} is not a number from 0 on')
    if len(text) > _DIGITS or int(text) > _MOST:
        raise errors.UsageError(f'{text} is more than {_MOST}')
    return int(text)


def _positive(text: str) -> int:
    number = _count(text)
    if not number:
        raise errors.UsageError(f'{text!r} is not a number from 1 on')
    return number


def _positive_size(text: str) -> int:
    size = units.parse_size(text)
    if not size:
        raise errors.UsageError(f'{text!r} is not a size above 0')
    return size


def _regex(text: str) -> re.Pattern[str]:
    try:
        # An empty one is in every line.
        return re.compile(_some(text))
    except re.error as error:
        raise errors.UsageError(
            f'{text!r} is not a regular expression: {error}'
        ) from error


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    # Sockets count in milliseconds, and threads wait for a year or so.
    if not 0.001 <= seconds <= 1e7:
        raise errors.UsageError(f'{text!r} is not a number of seconds')
    return seconds


def _owner(text: str) -> tuple[int, int]:
    user, _, group = text.partition(':')
    numbers = [
        int(word)
        for word in (user, group)
        if word.isascii() and word.isdigit()
    ]
    if len(numbers) != 2 or max(numbers) > 2**32 - 2:
        raise errors.UsageError(
            f'{text!r} is not an owner',
            hint='write the numbers of a user and a group, such as 0:0',
        )
    return numbers[0], numbers[1]


#: What argparse takes for a whole number that is not negative.
count = _checked(_count)

#: For a SIZE or PERCENT that is to be free.
headroom = _checked(units.parse_headroom)

#: For a journal: ``keep``, ``none`` or bytes.
journal = _checked(_journal)

#: For a whole number from 1 on.
positive = _checked(_positive)

#: For a SIZE that is more than nothing, in bytes.
positive_size = _checked(_positive_size)

#: For a regular expression.
regex = _checked(_regex)

#: For a user and a group, by their numbers.
owner = _checked(_owner)

#: For a file or a directory.
path = _checked(_path)

#: For a time span.
seconds = _checked(_seconds)

#: For a SIZE, in bytes.
size = _checked(units.parse_size)

#: For a name, and whatever else is not empty.
some = _checked(_some)

#: For the id of an image.
uuid = _checked(_uuid)
