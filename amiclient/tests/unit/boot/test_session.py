# SPDX-License-Identifier: Apache-2.0

"""A machine's consoles, and how its kernel is asked to write its memory."""

import contextlib
import json
import socket
import threading

import fixtures

from amiclient.boot import session
from amiclient import process
from amiclient.tests import base


class Guest(threading.Thread):
    """The other end of the sockets: QEMU, and a kernel in it.

    :param answers: what the kernel says at each SysRq key.
    """

    def __init__(
        self, sockets: dict[str, socket.socket], answers: dict[bytes, bytes]
    ) -> None:
        super().__init__(daemon=True)
        self._sockets = sockets
        self._answers = answers
        self.commands: list[str] = []
        self.keys = b''
        #: Keys that were typed, and those that it has answered.
        self.typed = self.answered = 0
        self._now = 0.0

    def monotonic(self) -> float:
        """Tell the time, which stands still until a key is answered."""
        if self.typed == self.answered:
            self._now += 0.01
        return self._now

    def run(self) -> None:
        control = self._sockets['control'].makefile('rb')
        for line in control:
            self.commands.append(json.loads(line)['execute'])
            if self.commands[-1] == 'quit':
                break
            if self.commands[-1] == 'chardev-send-break':
                # It has to come by itself: see Session.
                key = self._sockets['ttyS0'].recv(10)
                self.keys += key
                for byte in self._answers.get(key, b''):
                    self._sockets['ttyS0'].send(bytes([byte]))
                    self._sockets['hvc0'].send(b'.')
                self.answered += 1
        for one in self._sockets.values():
            # Closed already, if the test is over.
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


class TestSession(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.patch(session, '_ATTENTION', 0.05)
        self.patch(session, '_PATIENCE', 0.05)
        self.patch(session, '_PAUSE', 0.01)
        self.ours, self.its = {}, {}
        for name in ('ttyS0', 'hvc0', 'control'):
            self.ours[name], self.its[name] = socket.socketpair()
            self.addCleanup(self.ours[name].close)
            self.addCleanup(self.its[name].close)

    def start(self, **answers: bytes) -> session.Session:
        self.guest = Guest(
            self.its, {key.encode(): said for key, said in answers.items()}
        )
        self.guest.start()
        program = self.useFixture(_Program()).made
        made = session.Session(program, self.ours)
        self.addCleanup(made.close)
        self.patch(session, 'time', self.guest)
        type_ = made.write

        def write(data: bytes) -> None:
            self.guest.typed += 1
            type_(data)

        self.patch(made, 'write', write)
        return made

    def test_consoles(self) -> None:
        made = self.start()
        self.its['hvc0'].send(b'two')
        self.assertEqual([('hvc0', b'two')], made.read(5))
        self.its['ttyS0'].send(b'one')
        self.assertEqual([('ttyS0', b'one')], made.read(5))
        self.assertEqual([], made.read(0))
        self.assertFalse(made.ended)

    def test_end(self) -> None:
        made = self.start()
        self.its['ttyS0'].send(b'last words')
        made.quit()
        self.guest.join(60)
        found = []
        while not made.ended:
            found += made.read(5)
        self.assertEqual([('ttyS0', b'last words')], found)
        self.assertEqual(['qmp_capabilities', 'quit'], self.guest.commands)
        # It is too late, which is no reason to fail.
        made.write(b'x')
        made.quit()

    def settled(self, **answers: bytes) -> bytes:
        made = self.start(**answers)
        return b''.join(d for name, d in made.settle() if name == 'ttyS0')

    def test_settled(self) -> None:
        said = self.settled(
            **{'7': b'sysrq: Loglevel set to 7'},
            s=b'sysrq: Emergency Sync\nEmergency Sync complete',
            u=b'sysrq: Emergency Remount R/O\nEmergency Remount complete',
        )
        self.assertEqual(b'7su', self.guest.keys)
        self.assertIn(b'Sync complete', said)
        self.assertIn(b'Remount complete', said)

    def test_kernel_that_does_not_listen(self) -> None:
        self.assertEqual(b'', self.settled())
        self.assertEqual(b'7', self.guest.keys)

    def test_kernel_that_allows_but_some(self) -> None:
        said = self.settled(
            **{'7': b'sysrq: This sysrq operation is disabled.'},
            s=b'sysrq: Emergency Sync',
            u=b'sysrq: Emergency Remount R/O',
        )
        self.assertEqual(b'7su', self.guest.keys)
        self.assertIn(b'Remount R/O', said)

    def test_no_room(self) -> None:
        made = self.start()
        words = json.dumps({
            'event': 'BLOCK_IO_ERROR',
            'data': {'node-name': 'root', 'nospace': True},
        }).encode()  # fmt: skip
        self.its['control'].send(b'{"QMP": {}}\r\n{"return": {}}\r\n')
        self.assertEqual([], made.read(5))
        self.assertFalse(made.full)
        # In pieces, as anything may come.
        for piece in (words[:20], words[20:], b'\r\n'):
            self.assertFalse(made.full)
            self.its['control'].send(piece)
            self.assertEqual([], made.read(5))
        self.assertTrue(made.full)

    def test_screen(self) -> None:
        made = self.start()
        made.look()
        # Not before it has answered.
        made.look()
        rows = b'(initramfs)'.ljust(80) + b' ' * 80
        cells = b''.join(bytes((c, 7)) for c in rows)
        words = ' '.join(
            f'0x{int.from_bytes(cells[i : i + 8], "little"):016x}'
            for i in range(0, len(cells), 8)
        )
        answer = json.dumps({'return': f'00000000000b8000: {words}\r\n'})
        self.its['control'].send(answer[:900].encode())
        self.assertEqual([], made.read(5))
        self.its['control'].send(answer[900:].encode() + b'\r\n')
        self.assertEqual([('tty0', b'(initramfs)\n')], made.read(5))
        made.look()
        self.its['control'].send(answer.encode() + b'\r\n')
        self.assertEqual([], made.read(5))
        made.quit()
        self.guest.join(60)
        ask = 'human-monitor-command'
        self.assertEqual(
            ['qmp_capabilities', ask, ask, 'quit'], self.guest.commands
        )

    def test_something_else_to_listen_to(self) -> None:
        made = self.start()
        ours, its = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(its.close)
        made.listen(ours.fileno())
        its.send(b'key')
        self.assertEqual([(str(ours.fileno()), b'')], made.read(5))


class _Program(fixtures.Fixture):
    """A program that runs, in the place of QEMU."""

    def _setUp(self) -> None:
        context = process.background(['sleep', '60'], access=None)
        self.made = context.__enter__()
        self.addCleanup(context.__exit__, None, None, None)
