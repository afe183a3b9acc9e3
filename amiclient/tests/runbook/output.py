# SPDX-License-Identifier: Apache-2.0

"""Whether a command printed what a page of the documentation shows.

It may differ in what differs from run to run:

* ``...`` stands for anything within a line; on a line of its own, for any
  number of lines;
* an id (a UUID, or hex digits as Keystone's ids and as hashes) stands for any
  id of that form, but for the same one wherever it is on the page, and no two
  of them for the same one;
* the version of Debian's kernel for clouds stands for that which is installed,
  everywhere on the page;
* a time stamp stands for any;
* a number of five digits or more, as sizes are, stands for those that differ
  from it by a quarter at most: another release of e2fsprogs, say;
* so the columns of tables may be wider or narrower.

A column that is asked for and is not there is left out by ``openstack``,
without a word: that is wrong, whatever the page shows.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import re
import uuid

_FORMS = (
    ('any', r'\.\.\.'),
    ('id', r'\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b'),
    ('id', r'\b(?:[0-9a-f]{128}|[0-9a-f]{64}|[0-9a-f]{32})\b'),
    (
        'version',
        r'\b\d+[.]\d+[.]\d+(?:[+]\w+)?(?:-[\w.]+)?-cloud-[a-z0-9]+\b',
    ),
    ('time', r'\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.]\d+)?Z?'),
    ('number', r'\b\d{5,}\b'),
)
_VARYING = re.compile('|'.join(f'({form})' for _, form in _FORMS))
_IDS = re.compile('|'.join(form for kind, form in _FORMS if kind == 'id'))

#: What of a command prints a table; not what goes into a pipe or a file.
_OPENSTACK = re.compile(
    r'(?:^|[;|&]|\b(?:do|then|else)\b)[ \t]*openstack\s'
    r'([^|;&()<>]*+)(?![()<>]|[|](?![|]))',
    re.MULTILINE,
)
_COLUMN = re.compile(r'\s(?:-c|--column)[\s=]+("[^"]*"|\'[^\']*\'|\S+)')
_FORMAT = re.compile(r'\s(?:-f|--format)[\s=]+(?!table\b)')

#: How much a number may differ, as a part of it.
_TOLERANCE = 0.25


class Ids:
    """Which id of a page stands for which of this run."""

    def __init__(self, known: dict[str, str] | None = None) -> None:
        self._real = dict(known or {})

    def bind(self, shown: str, real: str) -> bool:
        """Let an id stand for another; tell whether it can."""
        if shown not in self._real and real not in self._real.values():
            self._real[shown] = real
        return self._real.get(shown) == real

    def copy(self) -> 'Ids':
        """Make one that can be changed without this."""
        return Ids(self._real)

    def take(self, other: 'Ids') -> None:
        """Become as another one is."""
        self._real = other._real

    def real(self, text: str) -> str:
        """Put the ids of this run into what is on the page.

        :raises KeyError: naming an id that nothing has shown yet.
        """
        return _IDS.sub(lambda match: self._real[match[0]], text)

    def shown(self, text: str, page: str) -> str:
        """Put ids for a page into what a command printed.

        :param page: its name, from which new ids are made.
        """

        def choose(match: re.Match[str]) -> str:
            for shown, real in self._real.items():
                if real == match[0]:
                    return shown
            made = uuid.uuid5(uuid.NAMESPACE_URL, f'{page}/{len(self._real)}')
            shown = str(made) if '-' in match[0] else made.hex
            shown = (shown * 4)[: len(match[0])]
            self._real[shown] = match[0]
            return shown

        return _IDS.sub(choose, text)


def matches(shown: Sequence[str], printed: Sequence[str], ids: Ids) -> bool:
    """Tell whether these lines were shown for those.

    :param shown: of the page.
    :param printed: by the command.
    :param ids: gets what the page's ids stand for, if they match.
    """
    if not shown:
        return not printed
    if shown[0].strip() == '...':
        return any(
            matches(shown[1:], printed[skipped:], ids)
            for skipped in range(len(printed) + 1)
        )
    tried = ids.copy()
    if (
        printed
        and _line(shown[0], printed[0], tried)
        and matches(shown[1:], printed[1:], tried)
    ):
        ids.take(tried)
        return True
    return False


def absent(text: str, printed: Sequence[str]) -> list[str]:
    """Name the columns that a command asks for and that no table has.

    :param text: the command.
    :param printed: what it printed.
    :returns: none if it printed no table.
    """
    # Tables have other headings than scripts know; cliff takes both.
    there = {_key(name) for name in _columns(printed)}
    return [
        name
        for match in _OPENSTACK.finditer(text.replace('\\\n', ' '))
        if there and not _FORMAT.search(match[1])
        for name in (word.strip('"\'') for word in _COLUMN.findall(match[1]))
        if _key(name) not in there
    ]


def _key(name: str) -> str:
    return name.lower().replace(' ', '_')


def _columns(printed: Sequence[str]) -> Iterator[str]:
    """Tell the columns of tables, and the fields of those of one thing."""
    before, head, fields = '', True, False
    for line in printed:
        cells = [cell.strip() for cell in line.split('|')[1:-1]]
        if not line.startswith('|'):
            # A line between two tables, or a rule at the end of one.
            head = head or not before.startswith('|')
        elif head:
            head, fields = False, cells == ['Field', 'Value']
            yield from () if fields else cells
        elif fields:
            yield cells[0]
        before = line


def salvage(shown: Sequence[str], printed: Sequence[str], ids: Ids) -> None:
    """Learn ids from those lines that are as the page shows them."""
    for line in shown:
        for real in printed:
            tried = ids.copy()
            if line.strip() != '...' and _line(line, real, tried):
                ids.take(tried)
                break


def _line(shown: str, printed: str, ids: Ids) -> bool:
    shown, printed = _narrow(shown), _narrow(printed)
    pattern, kinds, end = '', [], 0
    for match in _VARYING.finditer(shown):
        kind, form = _FORMS[(match.lastindex or 0) - 1]
        pattern += re.escape(shown[end : match.start()])
        pattern += '(.*)' if kind == 'any' else f'({form})'
        kinds.append((kind, match[0]))
        end = match.end()
    found = re.fullmatch(pattern + re.escape(shown[end:]), printed)
    return found is not None and all(
        _same(kind, text, real, ids)
        for (kind, text), real in zip(kinds, found.groups(), strict=True)
    )


def _same(kind: str, shown: str, real: str, ids: Ids) -> bool:
    if kind == 'id':
        return len(shown) == len(real) and ids.bind(shown, real)
    if kind == 'version':
        return ids.bind(shown, real)
    if kind == 'number':
        return abs(int(shown) - int(real)) <= _TOLERANCE * int(shown)
    return True


def _narrow(line: str) -> str:
    """Take out what only makes the columns of a table as wide as they are."""
    line = line.rstrip()
    if re.fullmatch(r'\+(-+\+)+', line):
        return re.sub('-+', '-', line)
    if line.startswith('|') and line.endswith('|'):
        return re.sub(' +', ' ', line)
    return line
