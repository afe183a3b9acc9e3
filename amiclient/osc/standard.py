# SPDX-License-Identifier: Apache-2.0

"""Standard streams that are closed, or cannot take what is printed."""

from collections.abc import Iterator
import contextlib
import io
import os
import sys
import typing

from amiclient import errors


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
