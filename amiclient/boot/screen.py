# SPDX-License-Identifier: Apache-2.0

"""What a guest writes on its screen, read out of its graphics card.

The kernel takes the last ``console=`` for ``/dev/console``; as long as it has
no driver for that, which with Nova's command line is the virtio console, it
takes the first one: ``tty0``, the screen. So that is where ramdisks say what
is wrong, and nothing of it is on the serial console. The screen is that of a
VGA card in text mode (the kernel's drivers/video/console/vgacon.c), which has
room for more lines than are visible: a ring of them.
"""

import re

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
    """Read lines, by the rows that they begin in."""
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
