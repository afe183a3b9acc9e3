# SPDX-License-Identifier: Apache-2.0

"""The user's terminal, while it is that of a guest.

It is the terminal itself that is used, whatever stdin and stdout are: the
result of the command may go to a file meanwhile.
"""

from collections.abc import Iterator
import contextlib
import os
import termios
import tty

from amiclient import errors
from amiclient import interrupts

_PATH = '/dev/tty'

_CHUNK = 4096

#: What leaves: Ctrl-], as in telnet and virsh, and Ctrl-A x, as in QEMU.
_LEAVE = b'\x1d'
_PREFIX = b'\x01'

#: What is said when it begins, and when it ends.
_HELLO = b'[This is the console of the guest; Ctrl-] leaves it]\r\n'
_BYE = b'\r\n'


class Terminal:
    """A terminal whose keys go to a guest.

    :param descriptor: of the terminal, in raw mode.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        #: Whether the user wants to leave.
        self.left = False
        self._prefixed = False

    def read(self) -> bytes:
        """Read what was typed, as far as it is for the guest."""
        data = os.read(self.descriptor, _CHUNK)
        # None is typed at a terminal that is gone.
        return self.typed(data) if data else self._leave()

    def typed(self, data: bytes) -> bytes:
        """Take keys: those for the guest, up to one that leaves.

        Ctrl-A is for the guest if it is typed twice.
        """
        found = bytearray()
        for key in (data[i : i + 1] for i in range(len(data))):
            if self._prefixed:
                self._prefixed = False
                if key in (b'x', b'X'):
                    self._leave()
                    break
                found += key if key == _PREFIX else _PREFIX + key
            elif key == _PREFIX:
                self._prefixed = True
            elif key == _LEAVE:
                self._leave()
                break
            else:
                found += key
        return bytes(found)

    def write(self, data: bytes) -> None:
        """Show what the guest says."""
        while data:
            data = data[os.write(self.descriptor, data) :]

    def _leave(self) -> bytes:
        self.left = True
        return b''


@contextlib.contextmanager
def attached() -> Iterator[Terminal]:
    """Take the terminal over, and give it back as it was.

    :raises UsageError: if there is none.
    """
    try:
        descriptor = os.open(_PATH, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise errors.UsageError(
            '--interactive needs a terminal, and there is none',
            hint='leave it out, and look at what --console writes',
        ) from error
    try:
        before = termios.tcgetattr(descriptor)
        with interrupts.held():
            # At once: who does not read what was said must not hold this up.
            tty.setraw(descriptor, termios.TCSANOW)
        try:
            terminal = Terminal(descriptor)
            terminal.write(_HELLO)
            yield terminal
            terminal.write(_BYE)
        finally:
            with interrupts.held():
                termios.tcsetattr(descriptor, termios.TCSANOW, before)
    finally:
        os.close(descriptor)
