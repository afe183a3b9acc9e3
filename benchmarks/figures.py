# SPDX-License-Identifier: Apache-2.0

"""What was measured, beside what was to be reached."""

from collections.abc import Sequence
import dataclasses
import statistics
from typing import Any

MIB = 2**20

_DASH = '-'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """One line: ours, what stands beside it, and how the two compare.

    :param ours: a value for each round.
    :param other: what stands beside it; None if nothing does.
    :param theirs: a value for each round, of that.
    :param difference: whether it is the difference that counts, not the
        quotient; it is taken round by round then.
    :param target: what was to be reached, as :attr:`result` is written.
    :param at_least: whether more is better.
    """

    name: str
    unit: str
    ours: Sequence[float]
    other: str | None = None
    theirs: Sequence[float] = ()
    difference: bool = False
    target: float | None = None
    at_least: bool = False

    @property
    def result(self) -> float:
        """What counts, by the medians."""
        if self.other is None:
            return statistics.median(self.ours)
        if self.difference:
            pairs = zip(self.ours, self.theirs, strict=True)
            return statistics.median(ours - theirs for ours, theirs in pairs)
        return statistics.median(self.ours) / statistics.median(self.theirs)

    @property
    def reached(self) -> bool | None:
        """Whether it is what was to be reached; None if there is no target."""
        if self.target is None:
            return None
        if self.at_least:
            return self.result >= self.target
        return self.result <= self.target

    def row(self) -> tuple[str, ...]:
        """Write the cells of a table."""
        target = _DASH
        if self.target is not None:
            sign = '>=' if self.at_least else '<='
            target = f'{sign} {self._text(self.target)}'
        return (
            f'{self.name}, {self.unit}',
            spread(self.ours),
            f'{self.other}: {spread(self.theirs)}' if self.other else _DASH,
            self._text(self.result) if self.other else _DASH,
            target,
            {None: _DASH, True: 'yes', False: 'NO'}[self.reached],
        )

    def _text(self, value: float) -> str:
        if self.other is None:
            return number(value)
        if self.difference:
            return f'{value:+.1f}'
        return f'{value:.2f}x'

    def json(self) -> dict[str, Any]:
        """Write it for programs."""
        return {
            **dataclasses.asdict(self),
            'result': self.result,
            'reached': self.reached,
        }


HEADERS = ('Figure', 'Ours', 'Beside it', 'Result', 'Target', 'Reached')


def number(value: float) -> str:
    """Write a number with three digits, or as many as are before the point."""
    if abs(value) >= 100:
        return f'{value:.0f}'
    return f'{value:.1f}' if abs(value) >= 10 else f'{value:.2f}'


def spread(values: Sequence[float]) -> str:
    """Write the median, and how far the rounds went."""
    low, middle, high = (
        number(value)
        for value in (min(values), statistics.median(values), max(values))
    )
    return middle if low == high else f'{middle} ({low} to {high})'


def table(title: str, figures: Sequence[Figure]) -> str:
    """Make a table, which is one of reStructuredText too."""
    rows = [HEADERS, *(figure.row() for figure in figures)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = '  '.join('=' * width for width in widths)
    lines = [
        '  '.join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
    return '\n'.join((title, '', rule, lines[0], rule, *lines[1:], rule))
