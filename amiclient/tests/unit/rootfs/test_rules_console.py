# SPDX-License-Identifier: Apache-2.0

"""The rule about the console: whether anybody sees a server boot."""

from amiclient.rootfs import check_context
from amiclient.tests import base
from amiclient.tests.unit.rootfs import checks
from amiclient.tests.unit.rootfs import images
from amiclient.tests.unit.rootfs import samples

Link = images.Link
_UNITS = 'etc/systemd/system'
_GENERATORS = ('usr/lib/systemd/system-generators',)
_SCREEN = 'root=/dev/vda console=tty0'


class ConsoleCase(checks.CheckCase):
    def found(self, files=None, words='stays silent', **options) -> None:
        self.assertFound(
            'no-console', 'warning', words, self.check(files, **options)
        )


class TestSystemd(ConsoleCase):
    def wanted(self, name: str) -> images.Files:
        unit = f'{_UNITS}/getty.target.wants/serial-getty@{name}.service'
        return {unit: Link('/lib/systemd/system/serial-getty@.service')}

    def test_no_generator(self) -> None:
        self.found(without=_GENERATORS)

    def test_enabled_by_hand(self) -> None:
        found = self.check(self.wanted('ttyS0'), without=_GENERATORS)
        self.assertEqual({}, found)
        self.found(self.wanted('ttyUSB0'), without=_GENERATORS)

    def test_masked(self) -> None:
        for unit in (
            'serial-getty@ttyS0.service', 'serial-getty@.service',
            'getty.target',
        ):  # fmt: skip
            self.found({f'{_UNITS}/{unit}': Link('/dev/null')})

    def test_command_line_without_it(self) -> None:
        """The generator follows the consoles of the kernel."""
        self.found(words='nor a login', command_line=_SCREEN)
        self.found(
            self.wanted('ttyS0'), 'messages of the', command_line=_SCREEN
        )

    def test_command_line_with_it(self) -> None:
        found = self.check(command_line=f'{_SCREEN} console=ttyS0,115200n8')
        self.assertEqual({}, found)


class TestInittab(ConsoleCase):
    def with_line(self, line: bytes) -> images.Files:
        return {'usr/sbin/init': checks.PROGRAM, 'etc/inittab': line + b'\n'}

    def test_none_that_counts(self) -> None:
        for line in (
            b'#S0:2345:respawn:/sbin/getty ttyS0\n'
            b'1:2345:respawn:/sbin/getty 38400 tty1',
            b'hvc0::respawn:/sbin/getty 38400 hvc0',
            # As buildroot has it: Nova's command line makes it the screen.
            b'console::respawn:/sbin/getty -L console 0 vt100',
            b'::askfirst:-/bin/sh',
            b'ttyS01::respawn:/sbin/getty ttyS01',
        ):
            with self.subTest(line):
                self.found(self.with_line(line), without=('usr/lib/systemd',))

    def test_console_that_it_is(self) -> None:
        for line in (
            b'console::respawn:/sbin/getty -L console 0 vt100',
            b'::askfirst:-/bin/sh',
        ):
            found = self.check(
                self.with_line(line), without=('usr/lib/systemd',),
                command_line=f'{_SCREEN} console=ttyS0',
            )  # fmt: skip
            self.assertEqual({}, found)

    def test_of_another_machine(self) -> None:
        power = images.Program(samples.elf(21, segments=(1, 3)))
        files = self.with_line(b'hvc0::respawn:/sbin/getty 38400 hvc0')
        files |= {'usr/sbin/init': power, 'usr/bin/sh': power}
        found = self.check(
            files, without=('usr/lib/systemd',), kernel=b'', drivers=None
        )
        self.assertEqual({'no-kernel'}, {*found})

    def test_runlevel_and_upstart(self) -> None:
        init = {'usr/sbin/init': checks.PROGRAM}
        for place in (
            'etc/runlevels/default/agetty.{}',
            'etc/init/{}.conf',
            'etc/runit/runsvdir/default/agetty-{}/run',
        ):
            found = self.check(
                {**init, place.format('ttyS0'): b'x'},
                without=('usr/lib/systemd',),
            )
            self.assertEqual({}, found)
            self.found(
                {**init, place.format('hvc0'): b'x'},
                without=('usr/lib/systemd',),
            )


class TestConsoles(base.TestCase):
    def test_of(self) -> None:
        """Names, whether the kernel is heard, is /dev/console, a getty."""
        for machine, line, expected in (
            ('x86_64', None, ('ttyS0', True, False, True)),
            ('x86_64', '', ('ttyS0', False, False, False)),
            ('x86_64', 'console=hvc0', ('ttyS0', False, False, False)),
            ('x86_64', 'console=ttyS0', ('ttyS0', True, True, True)),
            ('x86_64', 'console=ttyS0 console=hvc0',
             ('ttyS0', True, True, True)),
            ('x86_64', 'console=ttyS0 console=tty0',
             ('ttyS0', True, False, True)),
            ('aarch64', None, ('ttyAMA0', True, False, True)),
            ('aarch64', '', ('ttyAMA0', True, True, True)),
            ('ppc64le', None, ('hvc0', True, True, True)),
            ('ppc64le', 'console=tty0', ('hvc0', False, False, True)),
            ('s390x', None, ('ttysclp0', True, False, True)),
            (None, 'console=ttyAMA0', ('ttyS0', True, True, True)),
        ):  # fmt: skip
            with self.subTest(machine=machine, line=line):
                found = check_context.serial_console(machine, line)
                self.assertEqual(
                    expected,
                    (found.name, found.heard, found.main, found.generated),
                )
