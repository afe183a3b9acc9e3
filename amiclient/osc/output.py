# SPDX-License-Identifier: Apache-2.0

"""What reaches the user's terminal, and is made safe on the way.

Names, properties and errors come from images and from the cloud, that is from
anybody. They are made safe here, in one place, and nowhere else: records hold
them as they are, for scripts want them as they are.
"""

from collections.abc import Iterable, Iterator, Sequence
import contextlib
import logging
import typing
from typing import Any

from cliff import columns
from osc_lib import exceptions as osc_exceptions

from amiclient import errors
from amiclient import text

#: It escapes what is not ASCII, in strings that are exact all the same.
_ESCAPING = 'json'

#: It is for people, wherever it goes: into a pager, say.
_FOR_PEOPLE = 'table'


def must_be_safe(formatter: str, stream: typing.TextIO) -> bool:
    """Tell whether values have to be made safe.

    :param formatter: what ``-f`` chose.
    :param stream: where the output goes. Values in a pipe or a file are for
        programs, and stay as they are.
    """
    if formatter == _ESCAPING:
        return False
    return formatter == _FOR_PEOPLE or stream.isatty()


def safe_rows(rows: Iterable[Sequence[Any]]) -> Iterator[tuple[Any, ...]]:
    """Make the values of rows safe, each row when it is asked for."""
    return (safe_row(row) for row in rows)


def safe_row(row: Sequence[Any]) -> tuple[Any, ...]:
    """Make the values of one row safe."""
    return tuple(_safe(value) for value in row)


def _safe(value: Any) -> Any:
    if isinstance(value, str):
        return text.safe(value)
    if isinstance(value, dict):
        return {_safe(key): _safe(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_safe(child) for child in value)
    if isinstance(value, columns.FormattableColumn):
        # What it makes of its value may have lines; the value may not.
        return type(value)(_safe(value._value))
    return value


class _Filter(logging.Filter):
    """Makes what is logged safe, line by line."""

    def filter(self, record: logging.LogRecord) -> bool:
        words = record.getMessage()
        if record.levelno >= logging.INFO:
            record.msg = text.told(words)
        else:
            record.msg = '\n'.join(map(text.safe, words.split('\n')))
        record.args = None
        return True


@contextlib.contextmanager
def safe_logs() -> Iterator[None]:
    """Make safe whatever is logged meanwhile.

    What is for the user to see is one line; what is for finding errors may
    have more.
    """
    watched = list(logging.getLogger().handlers)
    added = _Filter()
    for handler in watched:
        handler.addFilter(added)
    try:
        yield
    finally:
        for handler in watched:
            handler.removeFilter(added)


@contextlib.contextmanager
def safe_errors() -> Iterator[None]:
    """Make the text of errors safe that are not ours.

    The shell prints it. Ours are safe when they are made text of.

    :raises AmiError: instead of another command error that is not safe.
    """
    try:
        yield
    except osc_exceptions.CommandError as error:
        words = str(error)
        if text.told(words) == words:
            raise
        raise errors.AmiError(words) from error
