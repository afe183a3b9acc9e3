# SPDX-License-Identifier: Apache-2.0

"""Keys that go to a guest, and those that leave it."""

import os
import pty
import termios

from amiclient.boot import session
from amiclient import errors
from amiclient.tests import base


class TestKeys(base.TestCase):
    def typed(self, *pieces: bytes) -> tuple[bytes, bool]:
        made = session.Terminal(-1)
        found = b''.join(made.typed(piece) for piece in pieces)
        return found, made.left

    def test_for_the_guest(self) -> None:
        keys = b'root\r\x03\x1b[A\x04\xc3\xa9x'
        self.assertEqual((keys, False), self.typed(keys))

    def test_leaving(self) -> None:
        self.assertEqual((b'ab', True), self.typed(b'ab\x1dcd'))
        self.assertEqual((b'ab', True), self.typed(b'ab\x01xcd'))
        self.assertEqual((b'', True), self.typed(b'\x01', b'X'))

    def test_prefix_that_is_for_the_guest(self) -> None:
        self.assertEqual((b'\x01', False), self.typed(b'\x01\x01'))
        self.assertEqual((b'\x01', False), self.typed(b'\x01', b'\x01'))
        self.assertEqual((b'\x01b', False), self.typed(b'\x01b'))
        self.assertEqual((b'\x01x', False), self.typed(b'\x01\x01x'))


class TestAttached(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.ours, self.its = pty.openpty()
        self.addCleanup(os.close, self.ours)
        self.addCleanup(os.close, self.its)
        self.patch(session, '_PATH', os.ttyname(self.its))

    def mode(self) -> list[object]:
        return termios.tcgetattr(self.its)

    def test_raw_and_back(self) -> None:
        before = self.mode()
        with session.attached() as found:
            self.assertFalse(self.mode()[3] & (termios.ECHO | termios.ISIG))
            os.write(self.ours, b'\x03')
            self.assertEqual(b'\x03', found.read())
            found.write(b'said')
            said = b''
            while b'said' not in said:
                said += os.read(self.ours, 100)
            self.assertIn(b'Ctrl-]', said)
        self.assertEqual(before, self.mode())

    def test_back_after_an_error(self) -> None:
        before = self.mode()

        def fail() -> None:
            with session.attached():
                raise KeyboardInterrupt

        self.assertRaises(KeyboardInterrupt, fail)
        self.assertEqual(before, self.mode())

    def test_no_terminal(self) -> None:
        self.patch(session, '_PATH', '/nosuch/tty')
        error = self.assertRaises(
            errors.UsageError, session.attached().__enter__
        )
        self.assertIn('--interactive', str(error))
