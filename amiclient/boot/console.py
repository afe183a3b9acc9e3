# SPDX-License-Identifier: Apache-2.0

"""What a guest says on a console, read while it comes.

It comes in pieces that end anywhere, with escape sequences in between; what
is looked for are lines, the last of which may not be finished: a prompt.
"""

import codecs
import collections
import re

from amiclient.boot import causes

#: Lines that are kept, to be shown when something went wrong.
_KEPT = 200

#: Characters that a line may have; what is longer is taken for several.
_LONGEST = 4096

#: Control sequences (ECMA-48): CSI, OSC, character sets, and single ones.
_ESCAPES = re.compile(
    r'\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()*+].'
    r'|[ -~])'
)
_ENDS = re.compile(r'[\r\n]+')


class Console:
    """One console of a guest.

    :param until: what is waited for, in one line.
    """

    def __init__(self, until: re.Pattern[str]) -> None:
        self._until = until
        self._decoder = codecs.getincrementaldecoder('utf-8')('replace')
        self._open = ''
        self._lines: collections.deque[str] = collections.deque(maxlen=_KEPT)
        #: The line with what was waited for; None as long as there is none.
        self.matched: str | None = None
        self._growing = False
        #: What the guest said about its troubles.
        self.signs = causes.Signs()

    def feed(self, data: bytes) -> None:
        *finished, rest = _ENDS.split(self._open + self._decoder.decode(data))
        for line in finished:
            self._take(line)
        while len(rest) > _LONGEST:
            self._take(rest[:_LONGEST])
            rest = rest[_LONGEST:]
        self._open = rest
        shown = clean(rest)
        self._match(shown, finished=False)
        self.signs.look(shown)

    @property
    def lines(self) -> list[str]:
        last = clean(self._open)
        return [*self._lines, *([last] if last.strip() else [])]

    def _take(self, raw: str) -> None:
        line = clean(raw)
        if line.strip():
            self._lines.append(line)
            self._match(line, finished=True)
            self.signs.look(line)

    def _match(self, line: str, *, finished: bool) -> None:
        wanted = self.matched is None or self._growing
        if wanted and self._until.search(line):
            self.matched = line.strip()
            # There may be more to come of it.
            self._growing = not finished


def clean(text: str) -> str:
    """Take escape sequences out of a line, as a terminal would."""
    return _ESCAPES.sub('', text).rstrip()


#: What makes QEMU's monitor tell what is in the card: 32 KiB, as words of 64
#: bits.
DUMP = 'xp /4096xg 0xb8000'

_COLUMNS = 80

#: A character, and its colours.
_CELL = 2

_WORD = re.compile(r'\b0x([0-9a-f]{16})\b')


class Screen:
    """A screen that is looked at again and again."""

    def __init__(self) -> None:
        self._shown: dict[int, str] = {}
        self._last = 0

    def changed(self, dump: str) -> list[str]:
        """Tell what is new on it.

        A line that was not finished comes again once it is.

        :param dump: what the monitor says to :data:`DUMP`.
        :returns: lines, the oldest one first.
        """
        before, self._shown = self._shown, _lines(dump)
        found = [
            row
            for row, line in self._shown.items()
            if line and line != before.get(row)
        ]
        # They go on where the last ones ended, and then at the beginning.
        found.sort(key=lambda row: (row < self._last, row))
        if found:
            self._last = found[-1]
        return [self._shown[row] for row in found]


def _lines(dump: str) -> dict[int, str]:
    data = b''.join(
        int(word, 16).to_bytes(8, 'little') for word in _WORD.findall(dump)
    )
    found: dict[int, str] = {}
    first, line = 0, ''
    width = _CELL * _COLUMNS
    for row in range(len(data) // width):
        cells = data[row * width : (row + 1) * width : _CELL]
        text = ''.join(
            c if c.isprintable() else ' ' for c in cells.decode('cp437')
        )
        line += text
        if text.endswith(' '):
            # Else it goes on in the next row.
            found[first] = line.rstrip()
            first, line = row + 1, ''
    return found
