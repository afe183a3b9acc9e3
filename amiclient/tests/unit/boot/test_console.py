# SPDX-License-Identifier: Apache-2.0

"""What comes on a console is understood, however it is cut."""

import re

from amiclient.boot import console
from amiclient.tests import base

#: The end of what Debian says, as it came.
_DEBIAN = (
    b'[  OK  ] Started \x1b[0;1;39mgetty@tty1.service\x1b[0m - Getty.\r\n'
    b'\r\r\n\x1b[H\x1b[J\x1b(B'
    b'Debian GNU/Linux 12 r\xc3\xa9seau ttyS0\r\n\r\n'
    b'host \x1b[1mlogin:\x1b[0m '
)


def fed(*pieces: bytes, until: str = 'login:') -> console.Console:
    made = console.Console(re.compile(until))
    for piece in pieces:
        made.feed(piece)
    return made


class TestConsole(base.TestCase):
    def test_at_once(self) -> None:
        found = fed(_DEBIAN)
        self.assertEqual('host login:', found.matched)
        self.assertEqual(
            [
                '[  OK  ] Started getty@tty1.service - Getty.',
                'Debian GNU/Linux 12 r\u00e9seau ttyS0',
                'host login:',
            ],
            found.lines,
        )

    def test_byte_by_byte(self) -> None:
        found = console.Console(re.compile('login:'))
        matched = []
        for number in range(len(_DEBIAN)):
            found.feed(_DEBIAN[number : number + 1])
            matched.append(found.matched)
        self.assertEqual(fed(_DEBIAN).lines, found.lines)
        # As soon as the colon is there, not later.
        colon = _DEBIAN.rindex(b':')
        self.assertIsNone(matched[colon - 1])
        self.assertIsNotNone(matched[colon])

    def test_any_two_pieces(self) -> None:
        whole = fed(_DEBIAN).lines
        for cut in range(len(_DEBIAN)):
            found = fed(_DEBIAN[:cut], _DEBIAN[cut:])
            self.assertEqual(whole, found.lines, cut)
            self.assertIsNotNone(found.matched, cut)

    def test_the_first_match_stays(self) -> None:
        found = fed(b'a login: x\n', b'b login: y\n')
        self.assertEqual('a login: x', found.matched)

    def test_not_across_lines(self) -> None:
        self.assertIsNone(fed(b'log\nin:').matched)

    def test_regular_expression(self) -> None:
        self.assertIsNone(fed(b'# ', until=r'^\w+ login: *$').matched)
        self.assertEqual(
            'web1 login:', fed(b'\nweb1 login: ', until=r'^\w+ login:').matched
        )

    def test_line_without_end(self) -> None:
        found = fed(*[b'x' * 1000] * 50)
        self.assertLessEqual(max(map(len, found.lines)), 4096)
        self.assertEqual(50_000, sum(map(len, found.lines)))

    def test_only_the_last_lines_are_kept(self) -> None:
        found = fed(b''.join(b'line %d\n' % i for i in range(5000)))
        self.assertEqual('line 4999', found.lines[-1])
        self.assertLess(len(found.lines), 500)

    def test_bytes_that_are_no_text(self) -> None:
        found = fed(bytes(range(256)) * 3 + b'\nlogin:')
        self.assertEqual('login:', found.matched)

    def test_signs_in_what_is_not_finished(self) -> None:
        found = fed(b'\r\n(initramfs) ')
        self.assertTrue(found.signs.final)
