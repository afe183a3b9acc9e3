# SPDX-License-Identifier: Apache-2.0

"""What is read out of a graphics card, as a kernel scrolls in it."""

from amiclient.boot import console
from amiclient.tests import base

ROWS = 204


def dump(rows: dict[int, bytes]) -> str:
    """Write what QEMU's monitor says of a card with these rows."""
    cells = bytearray(b' \7' * (32768 // 2))
    for row, text in rows.items():
        cells[row * 160 : row * 160 + 2 * len(text) : 2] = text
    words = [
        f'0x{int.from_bytes(cells[i : i + 8], "little"):016x}'
        for i in range(0, len(cells), 8)
    ]
    return ''.join(
        f'{0xB8000 + 8 * i:016x}: {words[i]} {words[i + 1]}\r\n'
        for i in range(0, len(words), 2)
    )


class TestScreen(base.TestCase):
    def test_what_is_new(self) -> None:
        made = console.Screen()
        rows = {0: b'one', 1: b'', 2: b'two'}
        self.assertEqual(['one', 'two'], made.changed(dump(rows)))
        self.assertEqual([], made.changed(dump(rows)))
        rows[2] = b'two ... done.'
        rows[3] = b'(initramfs) '
        self.assertEqual(
            ['two ... done.', '(initramfs)'], made.changed(dump(rows))
        )

    def test_longer_than_a_row(self) -> None:
        line = b'ALERT!  UUID=%s does not exist.' % (b'7' * 90)
        rows = {5: line[:80], 6: line[80:], 7: b'next'}
        self.assertEqual(
            [line.decode(), 'next'], console.Screen().changed(dump(rows))
        )

    def test_begins_anew(self) -> None:
        """At the end of the card, a kernel goes on at its beginning."""
        made = console.Screen()
        rows = {row: b'old %d' % row for row in range(ROWS - 2)}
        made.changed(dump(rows))
        rows |= {ROWS - 2: b'a', ROWS - 1: b'b', 0: b'c', 1: b'd'}
        self.assertEqual(['a', 'b', 'c', 'd'], made.changed(dump(rows)))

    def test_what_is_no_text(self) -> None:
        made = console.Screen()
        rows = {0: b'\0\1\xff\x1b[31mred\0', 1: b'\xb3\xc4'}
        self.assertEqual(
            ['    [31mred', '\u2502\u2500'], made.changed(dump(rows))
        )
        # A card with graphics on it has nothing there; so has none.
        for text in (
            dump(dict.fromkeys(range(ROWS), b'\xff' * 80)),
            'Cannot access memory\r\n',
            '',
        ):
            self.assertEqual([], console.Screen().changed(text))
