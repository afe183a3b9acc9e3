# SPDX-License-Identifier: Apache-2.0

"""What is made of what a guest says here and there, or does not say."""

import contextlib
import re
import types

from amiclient.boot import qemu
from amiclient.boot import run
from amiclient.boot import session
from amiclient import progress
from amiclient.tests import base

_KERNEL = (
    b'[    3.1] Run /init as init process\r\n'
    b'[    8.3] virtio_blk virtio0: [vda] 49152 512-byte logical blocks\r\n'
)
_MOUNTED = b'[    9.1] EXT4-fs (vda): mounted filesystem with ordered data\r\n'
_GAVE_UP = b'ALERT!  /dev/vda does not exist.  Dropping to a shell!\n'


class Session:
    """A machine that says what is known before.

    Time passes only while nothing comes, however slow the tester is.

    :param said: what comes, and on which console.
    """

    ended = full = False
    program = types.SimpleNamespace(status=0)

    def __init__(self, *said: tuple[str, bytes]) -> None:
        self._said = [*said]
        self.looks = 0
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def look(self) -> None:
        self.looks += 1

    def read(self, seconds: float) -> list[tuple[str, bytes]]:
        if self._said:
            return [self._said.pop(0)]
        self.now += max(seconds, 0.01)
        return []

    def settle(self) -> list[tuple[str, bytes]]:
        return []

    def quit(self) -> None:
        pass


class TestRun(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.patch(run, '_LAST_WORDS', 0.0)
        self.patch(run, '_SILENCE', 0.0)

    def run_(
        self,
        *said: tuple[str, bytes],
        architecture: str = 'x86_64',
        until: str = run.UNTIL,
    ) -> run.BootRun:
        self.session = Session(*said)
        self.patch(run, 'time', self.session)
        self.patch(
            session, 'started', lambda m: contextlib.nullcontext(self.session)
        )
        plan = types.SimpleNamespace(
            request=run.BootRequest(
                source=self.tmp(), wait=0.2, until=re.compile(until)
            ),
            emulator=qemu.emulator(architecture),
        )
        with progress.QUIET.task('Booting', None) as task:
            made = run.BootRun(plan, {}, task)
            made.watch(None)
        return made

    def test_cause_on_the_screen(self) -> None:
        made = self.run_(
            ('ttyS0', b'[    3.1] Run /init as init process\r\n'),
            ('tty0', _GAVE_UP),
            ('tty0', b'(initramfs)\n'),
        )
        self.assertEqual('failed', made._result)
        self.assertEqual('no-driver', made._cause.name)
        lines, screen = made._lines()
        self.assertTrue(screen)
        self.assertEqual('(initramfs)', lines[-1])
        self.assertEqual(1, self.session.looks)

    def test_screen_and_console_together(self) -> None:
        """The kernel has seen the disk, which it says on both."""
        made = self.run_(
            ('ttyS0', _KERNEL),
            ('tty0', _KERNEL + _GAVE_UP),
            ('tty0', b'(initramfs)\n'),
        )
        self.assertEqual('no-filesystem', made._cause.name)
        self.assertTrue(made._lines()[1])

    def test_cause_on_a_console(self) -> None:
        for name in ('ttyS0', 'hvc0'):
            panic = b'[    9.2] Kernel panic - not syncing: x\r\n'
            made = self.run_((name, panic), ('tty0', panic))
            self.assertEqual('panic', made._cause.name)
            lines, screen = made._lines()
            self.assertFalse(screen)
            self.assertEqual([panic.decode().strip()], lines)

    def test_login_on_the_screen_alone(self) -> None:
        made = self.run_(
            ('ttyS0', _KERNEL + _MOUNTED),
            ('ttyS0', b'[   OK   ] Started something\r\n'),
            ('tty0', b'Debian GNU/Linux 12 host tty1\n'),
            ('tty0', b'host login:\n'),
        )
        self.assertEqual('timeout', made._result)
        self.assertEqual('no-console', made._cause.name)
        self.assertFalse(made._cause.guessed)

    def test_login_where_nova_has_no_console(self) -> None:
        for prompt in (
            b'host login: ',
            b'Welcome to Alpine Linux 3.20\r\n'
            b'Kernel 6.6.31-0-virt on an x86_64 (/dev/hvc0)\r\n',
        ):
            made = self.run_(
                ('ttyS0', _KERNEL + _MOUNTED),
                ('hvc0', prompt),
                until='login:|Kernel .* on an',
            )
            self.assertEqual('timeout', made._result)
            self.assertIsNone(made._matched)
            self.assertEqual('no-console', made._cause.name)
            self.assertFalse(made._cause.guessed)

    def test_login_on_both(self) -> None:
        made = self.run_(('hvc0', b'host login: '), ('ttyS0', b'vm login: '))
        self.assertEqual('booted', made._result)
        self.assertEqual('vm login:', made._matched)

    def test_what_is_no_login_counts_on_the_virtio_console(self) -> None:
        line = b'[  OK  ] Reached target cloud-init.target.\r\n'
        made = self.run_(('hvc0', line), until='cloud-init.target')
        self.assertEqual('booted', made._result)
        self.assertEqual(line.decode().strip(), made._matched)

    def test_no_screen(self) -> None:
        made = self.run_(('ttyS0', _KERNEL), architecture='aarch64')
        self.assertEqual(0, self.session.looks)
        self.assertEqual('timeout', made._result)
        self.assertEqual('no-filesystem', made._cause.name)
        self.assertTrue(made._cause.guessed)
        self.assertFalse(made._lines()[1])

    def test_guest_that_is_only_slow(self) -> None:
        self.patch(run, '_SILENCE', 60.0)
        made = self.run_(('ttyS0', _KERNEL))
        self.assertIsNone(made._cause)
