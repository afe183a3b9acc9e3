# SPDX-License-Identifier: Apache-2.0

"""``openstack ami boot``: real guests, with a real kernel, and without KVM."""

import dataclasses
import os
import pathlib
import pty
import select
import signal
import sys
import time

import fixtures

from amiclient import process
from amiclient.tests.disks import guest
from amiclient.tests.faults import small_disk
from amiclient.tests.functional import base

COLUMNS = [
    'result',
    'seconds',
    'matched',
    'root_size',
    'console',
    'root_size_before',
    'disk',
    'accelerator',
    'cause',
    'read_only',
    'failed_units',
]
MIB = 2**20

#: Seconds after which what should have happened has not.
_LATE = 300

#: What Debian's ramdisks load of them, too.
_NO_VIRTIO_CONSOLE = ('virtio_pci', 'virtio_blk', 'ext4')

#: Says what goes wrong, and leaves, which the kernel does not survive.
_FAILS = '#!/bin/sh\necho "the application is broken" >/dev/ttyS0\nexit 3\n'


def emulators(directory: pathlib.Path) -> list[int]:
    """Find the emulators that have a file in a directory open, or named."""
    found = []
    for path in pathlib.Path('/proc').glob('[0-9]*/cmdline'):
        try:
            words = path.read_bytes().split(b'\0')
        except OSError:
            # It has ended meanwhile.
            continue
        if words[0].endswith(b'qemu-system-x86_64') and any(
            os.fsencode(directory) in word for word in words
        ):
            found.append(int(path.parent.name))
    return found


class BootCase(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        # Local commands need none of this.
        for name in ('OS_CLOUD', 'OS_CLIENT_CONFIG_FILE'):
            self.useFixture(fixtures.EnvironmentVariable(name))
        self.directory = self.tmp()
        self.work = self.tmp()
        self.console = self.directory / 'console'

    def words(self, made: guest.Guest, *more: object) -> tuple[object, ...]:
        return (
            'ami', 'boot', made.root,
            '--kernel', made.kernel, '--ramdisk', made.ramdisk,
            '--work-directory', self.work, *more,
        )  # fmt: skip

    def assert_clean(self) -> None:
        self.assertEqual([], emulators(self.directory))
        self.assertEqual([], list(self.work.iterdir()))

    def failed(self, made: guest.Guest, *more: object) -> base.Finished:
        """Boot what does not boot; see that it is said as it should be."""
        finished = self.run_openstack(
            *self.words(made, *more), '-f', 'value',
            '-c', 'result', '-c', 'matched', '-c', 'cause',
        )  # fmt: skip
        self.assertEqual(1, finished.status, finished)
        self.assert_clean()
        return finished


class TestBoot(BootCase):
    def test_boots_and_grows(self) -> None:
        made = guest.make(self.directory)
        before = made.root.read_bytes()
        told = self.openstack_json(
            *self.words(made, '--disk', '64M', '--console', self.console)
        )
        self.assertEqual(COLUMNS, list(told))
        self.assertEqual('booted', told['result'])
        self.assertEqual('guest login:', told['matched'])
        self.assertEqual(str(self.console), told['console'])
        # Read from its superblock; it never got to unmount it.
        self.assertEqual(64 * MIB, told['root_size'])
        self.assertEqual(64 * MIB, told['disk'])
        self.assertEqual(len(before), told['root_size_before'])
        self.assertIsNone(told['cause'])
        self.assertIs(False, told['read_only'])
        self.assertEqual([], told['failed_units'])
        self.assertEqual(before, made.root.read_bytes())
        self.assert_clean()
        said = self.console.read_text()
        wanted = 'root=/dev/vda console=tty0 console=ttyS0 console=hvc0'
        if told['accelerator'] == 'tcg':
            wanted += ' no_timer_check'
        self.assertIn(f'\n{wanted}\n', said.replace('\r', ''))
        # The configuration drive was there, and could be mounted.
        self.assertIn('"hostname": "amiclient-boot"', said)
        virtual = self.console.with_name('console.hvc0').read_text()
        self.assertIn('EXT4-fs (vda): resized filesystem', virtual)

    @base.slow
    def test_does_not_grow(self) -> None:
        init = "#!/bin/sh\nprintf 'ready, steady' >/dev/ttyS0\nexec sleep 99\n"
        made = guest.make(
            self.directory, packed=False, files={'sbin/init': init}
        )
        finished = self.run_openstack(
            *self.words(made, '--until', r'^ready, \w+y'),
            '--append', guest.QUIET, '-f', 'value', '-c', 'matched',
            '-c', 'root_size',
        )  # fmt: skip
        size = made.root.stat().st_size
        self.assertEqual((0, f'ready, steady\n{size}\n'), (
            finished.status, finished.stdout
        ))  # fmt: skip
        self.assertIn('did not grow', finished.stderr)
        self.assertEqual(1, finished.stderr.count('\n'), finished.stderr)

    def test_a_login_is_not_all(self) -> None:
        line = '[FAILED] Failed to start ssh.service - OpenBSD Secure Shell.'
        init = (
            f"#!/bin/sh\necho '{line}' >/dev/hvc0\n"
            "printf 'guest login: ' >/dev/ttyS0\nexec sleep 99\n"
        )
        made = guest.make(
            self.directory, packed=False, files={'sbin/init': init}
        )
        ways: list[tuple[tuple[str, ...], int]] = [(('--strict',), 1)]
        if base.SLOW:
            ways.append(((), 0))
        for words, status in ways:
            finished = self.run_openstack(
                *self.words(made, *words, '--append', f'ro {guest.QUIET}'),
                '-f', 'value', '-c', 'result', '-c', 'read_only',
                '-c', 'failed_units',
            )  # fmt: skip
            self.assertEqual(
                (status, "booted\nTrue\n['ssh.service']\n"),
                (finished.status, finished.stdout),
            )
            failed, read_only = finished.stderr.splitlines()
            self.assertIn('systemd units failed: ssh.service; ', failed)
            self.assertIn('was not mounted read-write', read_only)
        self.assert_clean()

    def test_login_where_nova_has_no_console(self) -> None:
        init = (
            "#!/bin/sh\nprintf 'guest login: ' >/dev/hvc0\n"
            'echo quiet here >/dev/ttyS0\nexec sleep 999\n'
        )
        made = guest.make(
            self.directory, packed=False, files={'sbin/init': init}
        )
        finished = self.failed(made, '--append', guest.QUIET, '--wait', '25')
        self.assertEqual('timeout\nNone\nno-console\n', finished.stdout)
        self.assertIn('serial console', finished.stderr)

    @base.slow
    def test_no_driver(self) -> None:
        made = guest.make(self.directory, modules=('virtio_pci',))
        finished = self.failed(made, '--append', guest.QUIET)
        self.assertEqual('failed\nNone\nno-driver\n', finished.stdout)
        # Where initramfs-tools says it: on no console that Nova keeps.
        lines = finished.stderr.splitlines()
        self.assertIn('its screen (tty0)', lines[0])
        self.assertIn('/dev/vda does not exist', finished.stderr)
        self.assertIn('virtio_blk', lines[-1])

    @base.slow
    def test_no_root(self) -> None:
        made = guest.make(self.directory, modules=_NO_VIRTIO_CONSOLE)
        finished = self.failed(
            made,
            '--append',
            f'root=/dev/vdz {guest.TIMESAVING}',
            '--console',
            self.console,
        )
        self.assertEqual('failed\nNone\nno-root\n', finished.stdout)
        self.assertIn('its screen (tty0)', finished.stderr)
        self.assertIn('    ALERT!  /dev/vdz does not', finished.stderr)
        said = self.console.read_text()
        self.assertIn('Run /init as init process', said)
        self.assertNotIn('ALERT!', said)

    @base.slow
    def test_no_init(self) -> None:
        made = guest.make(self.directory, modules=_NO_VIRTIO_CONSOLE)
        process.run(
            ['debugfs', '-w', '-R', 'rm /sbin/init', made.root], access=None
        )
        finished = self.failed(made, '--append', guest.QUIET)
        self.assertEqual('failed\nNone\nno-init\n', finished.stdout)
        self.assertIn('run-init: /bin/init: No such file', finished.stderr)

    def test_panic(self) -> None:
        made = guest.make(
            self.directory, packed=False, files={'sbin/init': _FAILS}
        )
        finished = self.failed(made, '--append', guest.QUIET)
        self.assertEqual('failed\nNone\npanic\n', finished.stdout)
        self.assertTrue(finished.stderr.startswith('the last lines of the'))
        self.assertIn('    the application is broken\n', finished.stderr)
        self.assertIn('exitcode=0x00000300', finished.stderr)

    @base.slow
    def test_ends(self) -> None:
        init = '#!/bin/sh\necho bye >/dev/ttyS0\npoweroff -f\n'
        made = guest.make(
            self.directory, packed=False, files={'sbin/init': init}
        )
        finished = self.failed(made, '--append', guest.QUIET)
        self.assertEqual('ended\nNone\nNone\n', finished.stdout)
        self.assertIn('    bye\n', finished.stderr)
        self.assertIn('switched itself off', finished.stderr)


class TestEnds(BootCase):
    """Guests that are given up, before there is much of them."""

    def setUp(self) -> None:
        super().setUp()
        # They would go on for long, however fast they are.
        self.made = dataclasses.replace(
            guest.make(self.directory), kernel=guest.idle(self.directory)
        )

    def start(self, *more: object):
        child = self.start_openstack(
            *self.words(self.made, '--console', self.console, *more)
        )
        end = time.monotonic() + _LATE
        while not (self.console.exists() and self.console.stat().st_size):
            self.assertIsNone(child.poll(), child)
            self.assertLess(time.monotonic(), end)
            time.sleep(0.02)
        (number,) = emulators(self.directory)
        return child, number

    def assert_gone(self, number: int) -> None:
        end = time.monotonic() + _LATE
        while number in emulators(self.directory):
            self.assertLess(time.monotonic(), end)
            time.sleep(0.02)

    def test_timeout(self) -> None:
        finished = self.failed(self.made, '--wait', '1.5')
        self.assertEqual('timeout\nNone\nNone\n', finished.stdout)
        words = finished.stderr.splitlines()[-1]
        self.assertIn("no 'login:' on the console after 1.5 seconds", words)
        self.assertIn('--wait', words)

    def test_ctrl_c(self) -> None:
        for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            child, emulator = self.start()
            os.kill(child.pid, number)
            stdout, stderr = child.communicate(timeout=_LATE)
            self.assertEqual((status, ''), (child.returncode, stdout))
            self.assertEqual('interrupted\n', stderr)
            self.assert_gone(emulator)
            self.assert_clean()
            self.console.unlink()

    def test_killed(self) -> None:
        child, emulator = self.start()
        child.kill()
        child.wait()
        self.assert_gone(emulator)
        # The next one removes what the disk took.
        self.assertEqual(1, len(list(self.work.iterdir())))
        self.failed(self.made, '--wait', '0.5', '--append', 'quiet')

    def test_no_room_for_what_it_writes(self) -> None:
        self.work = self.useFixture(
            small_disk.SmallDisk(self, 2 * MIB, self.work)
        ).path
        init = (
            '#!/bin/sh\nmount -o remount,rw /\n'
            'dd if=/dev/urandom of=/big bs=1M count=8\nsync\n'
        )
        writing = self.directory / 'writing'
        writing.mkdir()
        made = guest.make(writing, packed=False, files={'sbin/init': init})
        finished = self.run_openstack(
            *self.words(made, '--append', guest.QUIET)
        )
        self.assertEqual((1, ''), (finished.status, finished.stdout))
        self.assertEqual(
            'there is no room left for what the guest writes; use '
            '--work-directory to choose a directory with enough room\n',
            finished.stderr,
        )
        self.assert_clean()

    def test_emulator_is_killed(self) -> None:
        child, emulator = self.start()
        os.kill(emulator, signal.SIGKILL)
        stdout, stderr = child.communicate(timeout=_LATE)
        self.assertEqual((1, ''), (child.returncode, stdout))
        self.assertIn('qemu-system-x86_64', stderr)
        self.assertEqual(1, stderr.count('\n'), stderr)
        self.assert_clean()


class TestInteractive(BootCase):
    def setUp(self) -> None:
        super().setUp()
        self.made = guest.make(self.directory, packed=False)

    def fork(self) -> None:
        """Run the command with a terminal of its own."""
        output = self.directory / 'output'
        words = self.words(
            self.made, '--interactive', '--append', guest.QUIET,
            '-f', 'value', '-c', 'result', '-c', 'root_size',
        )  # fmt: skip
        pid, self.terminal = pty.fork()
        if not pid:
            with output.open('w') as file:
                os.dup2(file.fileno(), 1)
            os.execv(
                sys.executable,
                [*base.COMMAND, *(str(word) for word in words)],
            )
        self.addCleanup(os.close, self.terminal)
        self.pid = pid
        self.said = b''

    def wait_for(self, words: bytes | None) -> None:
        """Read what the terminal shows, up to some words, or to its end."""
        end = time.monotonic() + _LATE
        while words is None or words not in self.said:
            self.assertLess(time.monotonic(), end, self.said)
            if select.select([self.terminal], [], [], 1)[0]:
                try:
                    self.said += os.read(self.terminal, 65536)
                except OSError:
                    # EIO: nobody has it open any more.
                    self.assertIsNone(words, self.said)
                    break

    def test_talks_and_leaves(self) -> None:
        self.fork()
        self.wait_for(b'guest login: ')
        os.write(self.terminal, b'echo $((6 * 7))-$((6 * 8))\r')
        self.wait_for(b'42-48')
        # Ctrl-C is for the guest.
        os.write(self.terminal, b'\x03echo again-$((2 + 1))\r')
        self.wait_for(b'again-3')
        os.write(self.terminal, b'\x1d')
        self.wait_for(None)
        _, status = os.waitpid(self.pid, 0)
        self.assertEqual(0, os.waitstatus_to_exitcode(status), self.said)
        size = 2 * self.made.root.stat().st_size
        self.assertEqual(
            f'left\n{size}\n', (self.directory / 'output').read_text()
        )
        self.assert_clean()

    @base.slow
    def test_talks_and_switches_it_off(self) -> None:
        self.fork()
        self.wait_for(b'guest login: ')
        os.write(self.terminal, b'echo o >/proc/sysrq-trigger\r')
        self.wait_for(None)
        _, status = os.waitpid(self.pid, 0)
        self.assertEqual(0, os.waitstatus_to_exitcode(status), self.said)
        said = (self.directory / 'output').read_text()
        self.assertTrue(said.startswith('booted\n'), said)
        self.assert_clean()

    def test_needs_a_terminal(self) -> None:
        child = self.start_openstack(*self.words(self.made, '--interactive'))
        stdout, stderr = child.communicate(timeout=_LATE)
        self.assertEqual((1, ''), (child.returncode, stdout))
        self.assertIn('--interactive needs a terminal', stderr)
        self.assert_clean()


class TestWholeWay(base.TestCase):
    def test_what_comes_back_from_the_cloud_boots(self) -> None:
        directory = self.tmp()
        # On a disk with room, as a user would have it.
        made = guest.make(directory, size=256 * MIB)
        sent = self.openstack_json(
            'ami', 'upload', made.root, '--name', 'guest',
            '--kernel', made.kernel, '--ramdisk', made.ramdisk,
            '--headroom', '4M',
        )  # fmt: skip
        self.assertLess(sent['size'], 64 * MIB)
        saved = directory / 'saved'
        self.openstack('ami', 'save', sent['id'], '--directory', saved)
        told = self.openstack_json(
            'ami', 'boot', saved, '--disk', '1G', '--append', guest.QUIET
        )
        self.assertEqual('booted', told['result'])
        self.assertEqual('guest login:', told['matched'])
        self.assertEqual(sent['size'], told['root_size_before'])
        self.assertEqual(1024 * MIB, told['root_size'])

    def test_command_line_of_the_image(self) -> None:
        """As in the cloud: it takes the place of all that Nova says."""
        directory = self.tmp()
        made = guest.make(directory, size=64 * MIB)
        line = 'root=/dev/vda console=ttyS0 quiet'
        sent = self.openstack_json(
            'ami', 'upload', made.root, '--name', 'guest',
            '--kernel', made.kernel, '--ramdisk', made.ramdisk,
            '--property', f'os_command_line={line}',
        )  # fmt: skip
        saved = directory / 'saved'
        self.openstack('ami', 'save', sent['id'], '--directory', saved)
        console = directory / 'console'
        finished = self.run_openstack(
            'ami', 'boot', saved, '--append', 'mine=1', '--console', console,
            '--disk', '512M', '-f', 'value', '-c', 'result',
        )  # fmt: skip
        self.assertEqual((0, 'booted\n'), (finished.status, finished.stdout))
        self.assertIn(
            "os_command_line replaces Nova's kernel command line, as in "
            f'the cloud: {line}\n',
            finished.stderr,
        )
        self.assertIn(
            f'\n{line} mine=1\n', console.read_text().replace('\r', '')
        )


class TestSources(BootCase):
    def test_kernel_in_the_source(self) -> None:
        """A root filesystem with all that it takes; boots into its kernel."""
        made = guest.make(self.directory)
        tree = self.directory / 'rootfs'
        (tree / 'boot').mkdir(parents=True)
        (tree / 'etc').mkdir()
        release = made.kernel.resolve().name.removeprefix('vmlinuz-')
        for name, path in (
            (f'vmlinuz-{release}', made.kernel),
            (f'initrd.img-{release}', made.ramdisk),
        ):
            (tree / 'boot' / name).write_bytes(path.read_bytes())
        archive = self.directory / 'root.tar'
        process.run(['tar', '-cf', archive, '-C', tree, '.'], access=None)
        finished = self.run_openstack(
            'ami', 'boot', archive, '--work-directory', self.work,
            '--until', r'Linux version \S+ ', '-f', 'value', '-c', 'matched',
            '-c', 'root_size_before',
        )  # fmt: skip
        self.assertEqual(0, finished.status, finished)
        self.assertIn(f'Linux version {release} ', finished.stdout)
        self.assertIn(f'kernel {release} was found', finished.stderr)
        # What an upload leaves free, for a guest that grows it.
        used = made.kernel.stat().st_size + made.ramdisk.stat().st_size
        size = int(finished.stdout.split()[-1])
        self.assertLess(used + 64 * MIB, size)
        finished = self.run_openstack(
            'ami', 'boot', archive, '--work-directory', self.work,
            '--until', 'Linux version', '--headroom', '0', '-f', 'value',
            '-c', 'root_size_before',
        )  # fmt: skip
        self.assertGreater(size - 60 * MIB, int(finished.stdout))

    def test_fix(self) -> None:
        """What an upload would mend is mended in what is booted."""
        made = guest.make(
            self.directory,
            packed=False,
            files={
                'etc/fstab': 'UUID=C2AF-1C3B /boot/efi vfat defaults 0 1\n',
                'sbin/init': '#!/bin/sh\nexec >/dev/ttyS0\ncat /etc/fstab\n'
                "printf 'ready'\nexec sleep 99\n",
            },
        )
        before = made.root.read_bytes()
        words = '--until', 'ready', '--console', self.console, '--append'
        for options, wanted in (
            ((), '\nUUID=C2AF-1C3B /boot/efi'),
            (('--fix',), '\n#UUID=C2AF-1C3B /boot/efi'),
        ):
            finished = self.run_openstack(
                *self.words(made, *options, *words, guest.QUIET)
            )
            self.assertEqual(0, finished.status, finished)
            said = self.console.read_text().replace('\r', '')
            self.assertIn(wanted, f'\n{said}')
            self.assertEqual(
                bool(options), 'was fixed: /boot/efi' in finished.stderr
            )
        self.assertEqual(before, made.root.read_bytes())
        self.assert_clean()

    def test_refused(self) -> None:
        made = guest.make(self.directory)
        for words, said in (
            ((made.root,), 'kernel'),
            ((made.root, '--kernel', made.ramdisk), 'initramfs'),
            ((*self.words(made)[2:], '--disk', '1M'), '--disk'),
            ((*self.words(made)[2:], '--append', 'a\nb'), 'command line'),
            ((*self.words(made)[2:], '--headroom', '1M'), '--headroom: '),
        ):
            finished = self.run_openstack('ami', 'boot', *words)
            self.assertEqual((1, ''), (finished.status, finished.stdout))
            self.assertIn(said, finished.stderr)
            self.assertEqual(1, finished.stderr.count('\n'), finished.stderr)
        finished = self.run_openstack(*self.words(made, '--console', '.'))
        self.assertEqual(
            (1, '', '--console .: a directory; name a file in it\n'),
            (finished.status, finished.stdout, finished.stderr),
        )
        for words in (
            ('--until', '('), ('--cpus', '0'), ('--disk', 'x'),
            ('--memory', '0'),
        ):  # fmt: skip
            finished = self.run_openstack(*self.words(made, *words))
            self.assertEqual(2, finished.status, finished)
        self.assert_clean()
