# SPDX-License-Identifier: Apache-2.0

"""What reaches the user's terminal: made safe, and whole.

Names, properties and errors come from images and from the cloud, that is from
anybody. They are made safe here, in one place, and nowhere else: records hold
them as they are, for scripts want them as they are.
"""

from collections.abc import Iterator
import contextlib
import io
import logging
import os
import sys
import typing
from typing import Any

from cliff import columns
from osc_lib import exceptions as osc_exceptions

from amiclient import errors

#: It escapes what is not ASCII, in strings that are exact all the same.
_ESCAPING = 'json'

#: It is for people, wherever it goes: into a pager, say.
_FOR_PEOPLE = 'table'


def must_be_safe(formatter: str, stream: typing.TextIO) -> bool:
    """Tell whether values have to be made safe.

    Those in a pipe or a file are for programs, and stay as they are.

    :param formatter: what ``-f`` chose.
    """
    if formatter == _ESCAPING:
        return False
    return formatter == _FOR_PEOPLE or stream.isatty()


def safe(value: Any) -> Any:
    """Make a value safe, or all that are in it."""
    if isinstance(value, str):
        return errors.safe(value)
    if isinstance(value, dict):
        return {safe(key): safe(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(safe(child) for child in value)
    if isinstance(value, columns.FormattableColumn):
        # What it makes of its value may have lines; the value may not.
        return type(value)(safe(value._value))
    return value


class _Filter(logging.Filter):
    """Makes what is logged safe, line by line."""

    def filter(self, record: logging.LogRecord) -> bool:
        words = record.getMessage()
        if record.levelno >= logging.INFO:
            record.msg = errors.told(words)
        else:
            record.msg = '\n'.join(map(errors.safe, words.split('\n')))
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
        if errors.told(words) == words:
            raise
        raise errors.AmiError(words) from error


class _Closed(io.StringIO):
    """What stands for a closed stdout: a command may have nothing to say."""

    def write(self, _: str) -> typing.NoReturn:
        raise errors.AmiError(
            'stdout is closed: the command did its work, but its result '
            'cannot be printed'
        )


def fill(app: typing.Any) -> None:
    """Have no file of ours get the number of a standard one.

    What libraries print to a closed stderr would be written to it.

    :param app: the shell; it gets streams instead of those that are closed.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # It gets the lowest number that is free.
            os.open(os.devnull, os.O_RDWR)
    if app.stdout is None:
        app.stdout = sys.stdout = _Closed()
    if app.stderr is None:
        app.stderr = sys.stderr = open(2, 'w', closefd=False)  # noqa: SIM115


@contextlib.contextmanager
def printing(stream: typing.TextIO) -> Iterator[None]:
    """Have what is printed leave the process, while errors can be told.

    :raises AmiError: if it cannot be written.
    :raises BrokenPipeError: if nobody reads it any more.
    """
    try:
        yield
        stream.flush()
    except OSError as error:
        # Python writes what is left when it ends, and would print a traceback
        # (Python's documentation of signal, "Note on SIGPIPE").
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
        if isinstance(error, BrokenPipeError):
            raise
        raise errors.AmiError(
            'the command did its work, but its result cannot be printed: '
            f'stdout: {error.strerror}'
        ) from error
