# SPDX-License-Identifier: Apache-2.0

"""Pictures from a few words, as SVG that takes the colours of its page.

::

    .. picture:: What it shows, for who does not see it.

       box NAME COLUMN,ROW [COLUMNSxROWS] | line | line ...
       arrow NAME NAME [| label]
       blocks ROW | title | group group ...

A group is a word of blocks, a letter each; a key explains those that are used.
Lengths are such that a phone shows a picture as it is.
"""

from collections.abc import Iterator
import dataclasses
from typing import Any
from xml.sax import saxutils

from docutils import nodes
from sphinx.util import docutils

_WIDTH = 360
_LINE = 17
_MARGIN = 10
#: Between two rows, where the label of an arrow has to fit; and two columns.
_GAP = 30
_COLUMN_GAP = 20
_CELL = 10
#: How wide a letter is; bold ones are a bit wider.
_LETTER = 6.6

_BLOCKS = {
    'm': ('metadata', 'fill="currentColor" fill-opacity=".7"'),
    'u': ('in use', 'fill="#3f88c5"'),
    'j': ('journal', 'fill="#3f88c5" fill-opacity=".4"'),
    'd': ('deleted data', 'fill="#d1495b" fill-opacity=".7"'),
    'f': ('free, zeros', 'fill="none"'),
}


@dataclasses.dataclass(frozen=True)
class _Box:
    left: float
    top: float
    right: float
    bottom: float
    lines: tuple[str, ...]

    def svg(self) -> Iterator[str]:
        yield (
            f'<rect x="{self.left}" y="{self.top}" rx="4" '
            f'width="{self.right - self.left}" '
            f'height="{self.bottom - self.top}" fill="currentColor" '
            'fill-opacity=".07" stroke="currentColor" stroke-opacity=".6"/>'
        )
        middle = (self.left + self.right) / 2
        height = self.bottom - self.top - _LINE * len(self.lines)
        for number, line in enumerate(self.lines):
            if len(line) * _LETTER > self.right - self.left:
                raise ValueError(f'too long for its box: {line}')
            y = self.top + height / 2 + _LINE * (number + 0.75)
            weight = '' if number else ' font-weight="bold"'
            yield _text(middle, y, line, f'text-anchor="middle"{weight}')


def _text(x: float, y: float, text: str, more: str = '') -> str:
    written = saxutils.escape(text)
    return f'<text x="{x}" y="{y}" fill="currentColor" {more}>{written}</text>'


def _arrow(start: _Box, end: _Box, label: str) -> Iterator[str]:
    """Go straight from one box to another that is below or beside it."""
    left, right = max(start.left, end.left), min(start.right, end.right)
    top, bottom = max(start.top, end.top), min(start.bottom, end.bottom)
    if left < right:
        x = (left + right) / 2
        down = end.top > start.top
        y0, y1 = (start.bottom, end.top) if down else (start.top, end.bottom)
        line, at = f'M{x},{y0}V{y1}', (x + 7, (y0 + y1) / 2 + 4)
    elif top < bottom:
        y = (top + bottom) / 2
        line = f'M{start.right},{y}H{end.left}'
        at = (start.right + 4, y - 5)
    else:
        raise ValueError(f'no way from {start.lines} to {end.lines}')
    yield (
        f'<path d="{line}" fill="none" stroke="currentColor" '
        'marker-end="url(#picture-arrow)"/>'
    )
    if label:
        yield _text(*at, label, 'font-style="italic"')


def _cell(x: float, y: float, letter: str) -> str:
    return (
        f'<rect x="{x}" y="{y}" width="{_CELL}" height="20" '
        f'stroke="currentColor" stroke-width=".7" {_BLOCKS[letter][1]}/>'
    )


def _blocks(y: float, title: str, groups: str) -> Iterator[str]:
    yield _text(1, y + 13, title, 'font-weight="bold"')
    x = 1.0
    for group in groups.split():
        for letter in group:
            yield _cell(x, y + 20, letter)
            x += _CELL
        x += 8


def _key(y: float, letters: str) -> Iterator[str]:
    for number, letter in enumerate(letters):
        x = 1 + number % 3 * _WIDTH / 3
        row = y + number // 3 * 28
        yield _cell(x, row, letter)
        yield _text(x + 16, row + 14, _BLOCKS[letter][0])


def draw(alt: str, text: list[str]) -> str:
    """Make the SVG.

    :raises ValueError: for lines that make no sense.
    """
    words = [
        [part.strip() for part in line.split('|')] for line in text if line
    ]
    places = {}
    heights: dict[int, float] = {}
    for head, *lines in words:
        kind, *rest = head.split()
        if kind == 'box':
            name, at, size = (*rest, '1x1')[:3]
            column, row = map(int, at.split(','))
            wide, high = map(int, size.split('x'))
            places[name] = column, row, wide, high, tuple(lines)
            if high == 1:
                height = _LINE * len(lines) + _MARGIN
                heights[row] = max(heights.get(row, 0), height)
        elif kind == 'blocks':
            heights[int(rest[0])] = 44
    tops = {0: 1.0}
    for row in range(len(heights)):
        tops[row + 1] = tops[row] + heights[row] + _GAP
    columns = max((c + w for c, _, w, _, _ in places.values()), default=1)
    step = (_WIDTH + _COLUMN_GAP) / columns
    boxes = {
        name: _Box(
            1 + column * step,
            tops[row],
            (column + wide) * step - _COLUMN_GAP - 1,
            tops[row + high] - _GAP,
            lines,
        )
        for name, (column, row, wide, high, lines) in places.items()
    }
    drawn: list[str] = []
    used = ''
    for head, *lines in words:
        kind, *rest = head.split()
        if kind == 'box':
            drawn += boxes[rest[0]].svg()
        elif kind == 'arrow':
            start, end = rest
            drawn += _arrow(boxes[start], boxes[end], ''.join(lines))
        elif kind == 'blocks':
            drawn += _blocks(tops[int(rest[0])], *lines)
            used += lines[1]
        else:
            raise ValueError(f'neither a box nor an arrow: {head}')
    bottom = tops[len(heights)] - _GAP + 1
    if key := ''.join(letter for letter in _BLOCKS if letter in used):
        drawn += _key(bottom + 14, key)
        bottom += 14 + 28 * -(-len(key) // 3)
    lines = '\n'.join(drawn)
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" role="img"
  aria-label={saxutils.quoteattr(alt)}
  viewBox="0 0 {_WIDTH} {bottom}" width="{_WIDTH}"
  style="max-width: 100%; height: auto; font: 13px sans-serif">
<marker id="picture-arrow" viewBox="0 0 8 8" refX="8" refY="4"
  markerWidth="8" markerHeight="8" orient="auto">
<path d="M0,0 8,4 0,8z" fill="currentColor"/></marker>
{lines}
</svg>"""


class Picture(docutils.SphinxDirective):
    """A picture, on pages in HTML."""

    has_content = True
    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        alt = ' '.join(self.arguments[0].split())
        try:
            svg = draw(alt, list(self.content))
        except ValueError as error:
            raise self.error(str(error)) from error
        return [nodes.raw('', f'<p>{svg}</p>', format='html')]


def setup(app: Any) -> dict[str, Any]:
    """Tell Sphinx."""
    app.add_directive('picture', Picture)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
