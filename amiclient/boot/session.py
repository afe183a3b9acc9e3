# SPDX-License-Identifier: Apache-2.0

"""A virtual machine that runs: its consoles, and the way to end it gently.

QEMU is given one end each of three pairs of sockets, so that there is no path
that somebody else could connect to. Nothing is asked of the guest itself but
what its kernel does: to write what it has in memory to the disk, by the
SysRq keys (Documentation/admin-guide/sysrq.rst), which a break on the
serial line announces.
"""

from collections.abc import Generator, Iterator
import contextlib
import json
import os
import selectors
import socket
import termios
import time
import tty

from amiclient.boot import console
from amiclient.boot import qemu
from amiclient import errors
from amiclient import interrupts
from amiclient import process

_PATH = '/dev/tty'

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


#: The names of the consoles, as the guest has them.
SERIAL = 'ttyS0'
VIRTUAL = 'hvc0'
SCREEN = 'tty0'

_CONTROL = 'control'

_CHUNK = 65536

#: What a socket says if nobody reads, or nobody is there.
_GONE = (BlockingIOError, BrokenPipeError, ConnectionResetError)

#: SysRq keys, and what a kernel says once what each stands for is done
#: (drivers/tty/sysrq.c, fs/sync.c, fs/super.c). The first lets it say so, for
#: it may have been told to be quiet.
_KEYS = (
    (b'7', b'Loglevel set to 7'),
    (b's', b'Emergency Sync complete'),
    (b'u', b'Emergency Remount complete'),
)

#: What it says at each key, even at one that it does not allow.
_HEARD = b'sysrq: '

#: Seconds until it says that, until it is done, and for QEMU to end.
_ATTENTION = 2.0
_PATIENCE = 3.0

#: Seconds from a break to the key.
_PAUSE = 0.3


class Session:
    """A machine that runs.

    :param program: the QEMU that runs it.
    """

    def __init__(
        self,
        program: process.Running,
        sockets: dict[str, socket.socket],
    ) -> None:
        self.program = program
        self._sockets = sockets
        self._open = set(sockets)
        self._rest = b''
        #: Whether there is no room left for what the guest writes: QEMU has
        #: stopped it then.
        self.full = False
        self._screen = console.Screen()
        self._looking = False
        self._selector = selectors.DefaultSelector()
        for name, one in sockets.items():
            one.setblocking(False)
            self._selector.register(one, selectors.EVENT_READ, name)
        self._command('qmp_capabilities')

    @property
    def ended(self) -> bool:
        """Whether the machine is gone, and all it said was read."""
        return not self._open

    def listen(self, descriptor: int) -> None:
        """Let :meth:`read` tell of another descriptor, too."""
        self._selector.register(
            descriptor, selectors.EVENT_READ, str(descriptor)
        )

    def read(self, seconds: float) -> list[tuple[str, bytes]]:
        """Wait for what comes.

        :returns: the console, and what it said; nothing after that time. For
            other descriptors it is their number, and no data. What is on the
            screen comes after a :meth:`look`.
        """
        found = []
        for key, _ in self._selector.select(max(0.0, seconds)):
            name = str(key.data)
            if name not in self._sockets:
                found.append((name, b''))
                continue
            data = self._receive(name)
            if name == _CONTROL:
                found += self._control(data)
            elif data:
                found.append((name, data))
        return found

    def look(self) -> None:
        """Ask for what is on the screen, unless the answer is still to come.

        A QEMU that refuses is not asked again.
        """
        if not self._looking:
            self._looking = True
            self._command(
                'human-monitor-command', **{'command-line': console.DUMP}
            )

    def write(self, data: bytes) -> None:
        # Few bytes at a time, which the socket has room for. If the guest
        # does not read them, or is gone, they are lost, as on a real one.
        with contextlib.suppress(*_GONE):
            self._sockets[SERIAL].send(data)

    def settle(self) -> Iterator[tuple[str, bytes]]:
        """Have the kernel write all to the disk, and then nothing more.

        A kernel that does not listen to the keys is not waited for long.

        :returns: what comes on the consoles meanwhile.
        """
        for key, answer in _KEYS:
            self._command('chardev-send-break', id='serial0')
            # The two go different ways, and the guest has to tell them apart.
            yield from self._until(None, _PAUSE)
            self.write(key)
            heard = yield from self._until(_HEARD, _ATTENTION)
            if not heard:
                return
            if not any(answer in said for said in heard.values()):
                yield from self._until(answer, _PATIENCE, heard)

    def _until(
        self,
        words: bytes | None,
        seconds: float,
        said: dict[str, bytes] | None = None,
    ) -> Generator[tuple[str, bytes], None, dict[str, bytes]]:
        """Read until one of the consoles has said something.

        :param said: what each has said before.
        :returns: what each said; nothing if not those words.
        """
        said = dict(said or {})
        end = time.monotonic() + seconds
        while not self.ended and (left := end - time.monotonic()) > 0:
            found = self.read(left)
            for name, data in found:
                said[name] = said.get(name, b'')[-1024:] + data
            yield from found
            if words and any(words in text for text in said.values()):
                return said
        return {}

    def quit(self) -> None:
        """End the machine, as if its plug was pulled."""
        self._command('quit')
        self.program.wait(_PATIENCE)

    def close(self) -> None:
        self._selector.close()

    def _receive(self, name: str) -> bytes:
        try:
            data = self._sockets[name].recv(_CHUNK)
        except BlockingIOError:
            return b''
        except ConnectionResetError:
            data = b''
        if not data:
            self._selector.unregister(self._sockets[name])
            self._open.discard(name)
        return data

    def _control(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        """Look for the events and answers that matter; one line each.

        :returns: what is new on the screen.
        """
        *lines, self._rest = (self._rest + data).split(b'\n')
        for line in lines:
            told = json.loads(line)
            if told.get('event') == 'BLOCK_IO_ERROR':
                self.full |= bool(told['data'].get('nospace'))
            if isinstance(dump := told.get('return'), str):
                self._looking = False
                new = self._screen.changed(dump)
                if new:
                    yield SCREEN, ''.join(f'{one}\n' for one in new).encode()

    def _command(self, name: str, **arguments: str) -> None:
        words = {'execute': name, 'arguments': arguments}
        with contextlib.suppress(*_GONE):
            self._sockets[_CONTROL].send(json.dumps(words).encode() + b'\n')


@contextlib.contextmanager
def started(machine: qemu.Machine) -> Iterator[Session]:
    """Start a machine, which is ended with the ``with`` block.

    :raises ProgramError: if QEMU is missing.
    """
    with contextlib.ExitStack() as stack:
        ours, theirs = {}, []
        for name in (SERIAL, VIRTUAL, _CONTROL):
            ours[name], other = socket.socketpair()
            stack.enter_context(ours[name])
            theirs.append(stack.enter_context(other))
        channels = qemu.Channels(*(one.fileno() for one in theirs))
        program = stack.enter_context(
            process.background(
                qemu.arguments(machine, channels),
                access=qemu.access(machine),
                inherited=channels,
            )
        )
        for one in theirs:
            # Else there would be no end to read.
            one.close()
        session = Session(program, ours)
        stack.callback(session.close)
        yield session
