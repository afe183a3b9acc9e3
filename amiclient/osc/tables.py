# SPDX-License-Identifier: Apache-2.0

"""Whom a result is for: tables that people can read, and the rest for scripts.

Only what is a table is made shorter, or narrower. What goes to a terminal has
sizes with units, and is as wide as the terminal, if that is possible.
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
import os
import re
import shutil
import textwrap
import typing
from typing import Any

from cliff import columns as cliff_columns
from osc_lib.cli import format_columns

from amiclient.osc import columns

#: The environment's answer, for pagers and whatever else shows tables.
VARIABLE = 'AMICLIENT_HUMAN_READABLE'

_TABLE = 'table'

#: Formats that have one piece of text for what has several parts.
_FLAT = frozenset({'csv', 'shell', 'value'})

#: Columns are not made narrower than this, unless they are anyway.
_NARROW = 12

#: What is copied as a whole, as far as there is any room for it.
_ID = r'[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}'

#: A width that no table has.
_ENDLESS = 1 << 20

#: Cells, or rows of them.
Data = Sequence[Any]


def heading(name: str) -> str:
    """Write the name of a column as lists have them; scripts know the name."""
    if not name.islower():
        return name
    return re.sub(r'\bId\b', 'ID', name.replace('_', ' ').title())


def is_brief(parsed_args: argparse.Namespace) -> bool:
    """Tell whether somebody looks at it who did not ask for all."""
    asked = parsed_args.columns or getattr(parsed_args, 'long', False)
    return parsed_args.formatter == _TABLE and not asked


def is_human(parsed_args: argparse.Namespace, stream: typing.TextIO) -> bool:
    """Tell whether sizes are written with units."""
    asked: bool | None = getattr(parsed_args, 'human_readable', None)
    if parsed_args.formatter != _TABLE:
        return False
    if asked is None and (configured := os.environ.get(VARIABLE)):
        return configured != '0'
    return stream.isatty() if asked is None else asked


def cell(
    parsed_args: argparse.Namespace, *, human: bool
) -> Callable[..., Any]:
    """Choose what makes of a cell what the formatter prints as it should be.

    :param human: whether sizes are written with units.
    """
    brief, flat = is_brief(parsed_args), parsed_args.formatter in _FLAT

    def made(value: Any) -> Any:
        if isinstance(value, columns.Size):
            if not human or value._value is None:
                return value._value
        elif isinstance(value, tuple):
            return tuple(map(made, value))
        if isinstance(value, columns.Sized):
            value.human, value.brief = human, brief
            if flat:
                return '; '.join(value.human_readable().splitlines())
        if flat and isinstance(value, format_columns.DictColumn):
            return value.human_readable()
        return value

    return made


class Fitting:
    """A formatter whose tables are as wide as the terminal, if possible.

    Ids and numbers are not broken into lines, and nothing is if the table
    does not fit even then: scrolling sideways is better than that.

    :param formatter: cliff's.
    :param spare: the name of a column that is left out if that helps.
    """

    def __init__(self, formatter: Any, spare: str | None = None) -> None:
        self._formatter = formatter
        self._spare = spare

    def emit_one(
        self,
        names: Sequence[str],
        data: Data,
        stdout: typing.TextIO,
        parsed_args: argparse.Namespace,
    ) -> None:
        """Print what is known about one thing."""
        rows = _fit(('Field', 'Value'), list(zip(names, data, strict=True)))
        values = [value for _, value in rows]
        self._formatter.emit_one(names, values, stdout, _wide(parsed_args))

    def emit_list(
        self,
        names: Sequence[str],
        data: Iterable[Data],
        stdout: typing.TextIO,
        parsed_args: argparse.Namespace,
    ) -> None:
        """Print a list."""
        rows: Sequence[Data] = [list(row) for row in data]
        if self._is_spare(names, rows) and _width(names, rows) > _room():
            left = list(names).index(str(self._spare))
            keep = [n for n in range(len(names)) if n != left]
            names = [names[n] for n in keep]
            rows = [[row[n] for n in keep] for row in rows]
        rows = _fit(names, rows)
        self._formatter.emit_list(names, rows, stdout, _wide(parsed_args))

    def _is_spare(self, names: Sequence[str], rows: Sequence[Data]) -> bool:
        """Tell whether names tell what is listed apart as well as ids."""
        columns_ = list(names)
        if self._spare not in columns_ or 'Name' not in columns_:
            return False
        id, name = columns_.index(self._spare), columns_.index('Name')
        found = {(row[id], row[name]) for row in rows}
        known = {name for _, name in found}
        return None not in known and len(known) == len(found)


def must_fit(parsed_args: argparse.Namespace, stream: typing.TextIO) -> bool:
    """Tell whether a table is to fit, unless the user has cliff do that."""
    asked = parsed_args.max_width > 0 or parsed_args.fit_width
    return parsed_args.formatter == _TABLE and not asked and stream.isatty()


def _wide(parsed_args: argparse.Namespace) -> argparse.Namespace:
    """Have cliff not break ids into lines, as it does on a terminal."""
    return argparse.Namespace(**{**vars(parsed_args), 'max_width': _ENDLESS})


def _room() -> int:
    return shutil.get_terminal_size().columns


def _lines(value: Any) -> list[str]:
    if isinstance(value, cliff_columns.FormattableColumn):
        value = value.human_readable()
    return str(value).splitlines() or ['']


def _widths(names: Sequence[str], rows: Sequence[Data]) -> list[int]:
    return [
        max(
            map(
                len, [name, *(line for row in rows for line in _lines(row[n]))]
            )
        )
        for n, name in enumerate(names)
    ]


def _width(names: Sequence[str], rows: Sequence[Data]) -> int:
    # "| " before and " " behind each cell, and "|" at the end.
    return sum(_widths(names, rows)) + 3 * len(names) + 1


def _fit(names: Sequence[str], rows: Sequence[Data]) -> Sequence[Data]:
    """Break cells into lines until the table is narrow enough."""
    widths = _widths(names, rows)
    excess = _width(names, rows) - _room()
    least = [
        max([len(name), *(_least(row[n]) for row in rows)])
        for n, name in enumerate(names)
    ]
    if excess <= 0 or excess > sum(widths) - sum(map(min, widths, least)):
        return rows
    while excess > 0:
        # The widest one of those that can be narrower.
        widest = max(
            range(len(names)), key=lambda n: (widths[n] > least[n], widths[n])
        )
        widths[widest] -= 1
        excess -= 1
    return [
        [_broken(value, widths[n]) for n, value in enumerate(row)]
        for row in rows
    ]


def _least(value: Any) -> int:
    whole = isinstance(value, int | float | columns.Size)
    lines = _lines(value)
    if whole or any(re.fullmatch(_ID, line) for line in lines):
        return max(map(len, lines))
    return min(_NARROW, max(map(len, lines)))


def _broken(value: Any, width: int) -> Any:
    lines = _lines(value)
    if max(map(len, lines)) <= width:
        return value
    return '\n'.join(
        part for line in lines for part in textwrap.wrap(line, width) or ['']
    )
