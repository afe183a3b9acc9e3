# SPDX-License-Identifier: Apache-2.0

"""Why guests did not boot, by what they said: real consoles, cut short."""

import testscenarios

from amiclient.boot import causes
from amiclient.tests import base

#: What comes before, of a guest that has seen its disk.
_SEEN = (
    '[    8.371914] virtio_blk virtio0: [vda] 3276800 512-byte logical blocks '
    '(1.68 GB/1.56 GiB)'
)
_MOUNTED = (
    '[   10.864179] EXT4-fs (vda): mounted filesystem with ordered data mode. '
    'Quota mode: none.'
)

#: What initramfs-tools says of a device that does not come.
_WAITED = """\
Begin: Waiting for root file system ... Begin: Running /scripts/local-block \
... done.
Begin: Running /scripts/local-block ... done.
done.
Gave up waiting for root file system device.  Common problems:
 - Boot args (cat /proc/cmdline)
   - Check rootdelay= (did the system wait long enough?)
 - Missing modules (cat /proc/modules; ls /dev)
ALERT!  {}  Dropping to a shell!
(initramfs) """

#: What it says of one that was there before, and goes on.
_SWAP = 'Gave up waiting for suspend/resume device'

#: What systemd says of one that is in /etc/fstab: Debian 12.
_FSTAB = """\
[ TIME ] Timed out waiting for device \u202611111-2222-3333-4444-555555555555.
[DEPEND] Dependency failed for boot.mount - /boot.
[DEPEND] Dependency failed for loca\u2026s.target - Local File Systems.
[DEPEND] Dependency failed for syst\u202611111-2222-3333-4444-555555555555.
[  OK  ] Started emergency.service - Emergency Shell.
[  OK  ] Reached target emergency.target - Emergency Mode.
You are in emergency mode. After logging in, type "journalctl -xb" to view
system logs, "systemctl reboot" to reboot, "systemctl default" or "exit"
to boot into default mode.

Cannot open access to console, the root account is locked."""

#: What it and the kernel say of a root filesystem without an init: the same.
_NO_INIT = f"""\
{_SEEN}
Warning: fsck not present, so skipping root file system
{_MOUNTED}
done.
Begin: Running /scripts/local-bottom ... done.
Begin: Running /scripts/init-bottom ... done.
run-init: /sbin/init: No such file or directory
Target filesystem doesn't have requested /sbin/init.
run-init: /sbin/init: No such file or directory
run-init: /etc/init: No such file or directory
run-init: /bin/init: No such file or directory
/bin/sh: 0: can't access tty; job control turned off
# """

_PANIC = '---[ end Kernel panic - not syncing: '


class TestCauses(testscenarios.WithScenarios, base.TestCase):
    # Each is what such a guest said; names are the causes.
    scenarios = [
        (f'{name} {number}', {'cause': name, 'text': text, 'final': final})
        for number, (name, final, text) in enumerate((
            # Debian's cloud kernel without a ramdisk.
            (
                'no-driver', True,
                'VFS: Cannot open root device "vda" or unknown-block(0,0): '
                'error -6\n'
                'Kernel panic - not syncing: VFS: Unable to mount root fs on '
                'unknown-block(0,0)',
            ),
            # initramfs-tools without virtio_blk.
            (
                'no-driver', True,
                _WAITED.format('/dev/vda does not exist.'),
            ),
            # mkinitcpio.
            (
                'no-driver', True,
                "ERROR: device '/dev/vda' not found. Skipping fsck.\n"
                '[rootfs ~]# ',
            ),
            # The driver is there, that of the filesystem is not.
            (
                'no-filesystem', True,
                f'{_SEEN}\nKernel panic - not syncing: VFS: Unable to mount '
                'root fs on unknown-block(254,0)',
            ),
            (
                'no-filesystem', False,
                f"{_SEEN}\nEXT4-fs (vda): VFS: Can't find ext4 filesystem",
            ),
            # It knows no filesystem on what is there.
            (
                'no-filesystem', True,
                f'{_SEEN}\n{_WAITED.format("/dev/vda does not exist.")}',
            ),
            # By --append, with a ramdisk.
            (
                'no-root', True,
                f'{_SEEN}\n{_WAITED.format("/dev/vdz does not exist.")}',
            ),
            (
                'no-root', True,
                f'{_SEEN}\n{_SWAP}\n'
                + _WAITED.format('LABEL=cloudimg-rootfs does not exist.'),
            ),
            # systemd in dracut's ramdisk.
            (
                'no-root', True,
                f'{_SEEN}\n[ TIME ] Timed out waiting for device '
                'dev-disk-by\\x2dlabel-x.device - /dev/disk/by-label/x.\n'
                '[DEPEND] Dependency failed for initrd-root-device.target - '
                'Initrd Root Device.\n[DEPEND] Dependency failed for '
                'sysroot.mount - /sysroot.\nGenerating '
                '"/run/initramfs/rdsosreport.txt"\nEntering emergency mode.',
            ),
            # Debian's initramfs-tools.
            ('no-init', True, _NO_INIT),
            (
                'no-init', True,
                f'{_SEEN}\nKernel panic - not syncing: No working init found.'
                '  Try passing init= option to kernel.',
            ),
            (
                'no-init', True,
                f'{_SEEN}\nNo init found. Try passing init= bootarg.\n'
                '(initramfs) ',
            ),
            (
                'wrong-architecture', True,
                'Failed to execute /sbin/init (error -8)\n'
                'Kernel panic - not syncing: No working init found.',
            ),
            (
                'wrong-architecture', True,
                'run-init: /sbin/init: Exec format error\n'
                'Kernel panic - not syncing: Attempted to kill init!',
            ),
            (
                'ramdisk', True,
                'Initramfs unpacking failed: invalid magic at start of '
                'compressed archive\nKernel panic - not syncing: VFS: Unable '
                'to mount root fs on unknown-block(0,0)',
            ),
            (
                'out-of-memory', True,
                'Initramfs unpacking failed: write error\n'
                'Kernel panic - not syncing: VFS: Unable to mount root fs',
            ),
            (
                'out-of-memory', True,
                'Kernel panic - not syncing: System is deadlocked on memory',
            ),
            # Debian: a dead UUID for /boot.
            ('emergency', True, f'{_SEEN}\n{_MOUNTED}\n{_FSTAB}'),
            # A swap that is not there is nothing to stop for.
            (
                'emergency', True,
                f'{_SEEN}\n{_SWAP}\n{_MOUNTED}\n{_FSTAB}',
            ),
            (
                'disk-full', False,
                f'{_SEEN}\n{_SWAP}\n{_MOUNTED}\ncloud-init[300]: OSError: '
                '[Errno 28] No space left on device',
            ),
            # The kernel tries one driver after the other.
            (
                'emergency', True,
                f"{_SEEN}\nEXT4-fs (vda): couldn't mount as ext3 due to "
                'feature incompatibilities\n'
                f'{_MOUNTED}\n{_FSTAB}',
            ),
            (
                'initramfs', True, f'{_SEEN}\nBusyBox v1.35.0\n(initramfs) ',
            ),
            (
                'panic', True,
                f'{_SEEN}\nKernel panic - not syncing: Attempted to kill '
                f'init! exitcode=0x00000100\n{_PANIC}Attempted to kill init!',
            ),
            (
                'disk-full', False,
                'cloud-init[300]: OSError: [Errno 28] No space left on device',
            ),
        ))
    ]  # fmt: skip

    def test_told(self) -> None:
        signs = causes.Signs()
        for line in self.text.splitlines():
            signs.look(line)
        self.assertIsNotNone(signs.cause)
        self.assertEqual(self.cause, signs.cause.name)
        self.assertEqual(self.final, signs.final)

    def test_from_two_consoles(self) -> None:
        signs = [causes.Signs(), causes.Signs()]
        for number, line in enumerate(self.text.splitlines()):
            signs[number % 2].look(line)
        self.assertEqual(self.cause, signs[0].add(signs[1]).cause.name)


class TestNoCause(base.TestCase):
    def test_of_a_sound_guest(self) -> None:
        signs = causes.Signs()
        for line in (
            _SEEN,
            "EXT4-fs (vda): couldn't mount as ext3 due to feature "
            'incompatibilities',
            _SWAP,
            _MOUNTED,
            '[ TIME ] Timed out waiting for device dev-disk-x.device - /x.',
            'app[12]: ERROR: /etc/app.conf not found',
            'systemd[1]: Reached target emergency.target - not.',
            'Debian GNU/Linux 12 host ttyS0',
            'host login: ',
        ):
            signs.look(line)
        self.assertIsNone(signs.cause)
        self.assertFalse(signs.final)

    def test_every_cause_has_a_scenario(self) -> None:
        tried = {each['cause'] for _, each in TestCauses.scenarios}
        # Nothing says so: see TestGuess.
        tried.add('no-console')
        self.assertEqual({cause.name for cause in causes.CAUSES}, tried)

    def test_words(self) -> None:
        for cause in causes.CAUSES:
            for words in (cause.message, cause.remedy):
                self.assertFalse(words.endswith('.'), cause.name)
                self.assertTrue(words.isprintable(), cause.name)


class TestEmergency(base.TestCase):
    def test_tells_what_is_missing(self) -> None:
        for text, point in (
            (_FSTAB, '/boot'),
            # Before systemd 250, and if it is damaged.
            ('[DEPEND] Dependency failed for /boot/efi.', '/boot/efi'),
            ('[FAILED] Failed to mount srv.mount - /srv.', '/srv'),
        ):
            signs = causes.Signs()
            for line in (*text.splitlines(), 'You are in emergency mode.'):
                # It comes in pieces.
                signs.look(line[: len(line) // 2])
                signs.look(line[:-1])
                signs.look(line)
            self.assertEqual(
                f'it is in emergency mode: what belongs on {point} is not '
                'there, or cannot be mounted',
                signs.cause.message,
            )

    def test_of_something_else(self) -> None:
        signs = causes.Signs()
        signs.look('You are in emergency mode.')
        self.assertEqual(causes.named('emergency'), signs.cause)


class TestFailed(base.TestCase):
    def failed(self, *lines: str) -> tuple[str, ...]:
        signs = causes.Signs()
        for line in lines:
            # It comes in pieces.
            for end in range(len(line) + 1):
                signs.look(line[:end])
        return signs.failed

    def test_units(self) -> None:
        self.assertEqual(
            (
                'cloud-init.service', 'srv.mount', 'rpcbind.socket',
                'dev-vdz.swap', 'device /dev/disk/by-label/data',
            ),
            # Debian 12; the last as Debian 11 has it.
            self.failed(
                '[FAILED] Failed to start cloud-init.service - Initial '
                'cloud-init job (metadata service crawler).',
                "See 'systemctl status cloud-init.service' for details.",
                '[FAILED] Failed to mount srv.mount - /srv.',
                '[DEPEND] Dependency failed for loca\u2026s.target - Local '
                'File Systems.',
                '[FAILED] Failed to listen on rpcbind.socket - RPCbind.',
                '[FAILED] Failed to activate swap dev-vdz.swap - /dev/vdz.',
                '[ TIME ] Timed out waiting for device '
                '/dev/disk/by-label/data.',
                '[FAILED] Failed to mount srv.mount - /srv.',
            ),
        )  # fmt: skip

    def test_descriptions(self) -> None:
        # systemd before 250, and with StatusUnitFormat=description.
        self.assertEqual(
            ('Load Kernel Modules',),
            self.failed('[FAILED] Failed to start Load Kernel Modules.'),
        )

    def test_none(self) -> None:
        self.assertEqual(
            (),
            self.failed(
                '[  OK  ] Started cron.service - Regular background program.',
                '[    3.1] Failed to start x.',
                'app: [FAILED] to reach its server.',
            ),
        )

    def test_on_two_consoles(self) -> None:
        first, second = causes.Signs(), causes.Signs()
        for signs in (first, second):
            signs.look('[FAILED] Failed to start a.service - A.')
        second.look('[FAILED] Failed to start b.service - B.')
        self.assertEqual(('a.service', 'b.service'), first.add(second).failed)


class TestGuess(testscenarios.WithScenarios, base.TestCase):
    """All that is on the serial console with the command line of Nova."""

    _TOLD = (
        '[    0.109836] Kernel command line: root=/dev/vda console=tty0 '
        'console=ttyS0 console=hvc0 no_timer_check'
    )
    _STARTED = (
        '[    3.169721] Run /init as init process\n'
        '[    4.725368] SCSI subsystem initialized\n'
        '[    5.057079] scsi host0: ata_piix'
    )
    _NETWORK = '[   11.123502] virtio_net virtio2 ens5: renamed from eth0'

    scenarios = [
        (cause, {'cause': cause, 'lines': lines})
        for cause, lines in {
            'no-driver': (_TOLD, _STARTED, _NETWORK),
            'no-root': (
                f'{_TOLD} root=/dev/vdz', _STARTED, _SEEN, _NETWORK,
            ),
            'no-filesystem': (_TOLD, _STARTED, _SEEN, _NETWORK),
            'no-console': (_TOLD, _STARTED, _SEEN, _NETWORK, _MOUNTED),
        }.items()
    ]  # fmt: skip

    def signs(self, *more: str) -> causes.Signs:
        signs = causes.Signs()
        for line in '\n'.join((*self.lines, *more)).splitlines():
            for end in (1, 8, len(line)):
                signs.look(line[:end])
        return signs

    def test_guessed(self) -> None:
        signs = self.signs()
        self.assertIsNone(signs.cause)
        self.assertFalse(signs.final)
        self.assertEqual(self.cause, signs.guess.name)
        self.assertTrue(signs.guess.guessed)

    def test_what_came_before_the_ramdisk(self) -> None:
        signs = causes.Signs()
        signs.look(self.lines[0])
        self.assertIsNone(signs.guess)

    def test_a_guest_that_speaks(self) -> None:
        signs = self.signs(_MOUNTED, '[  OK  ] Started cron.service - x.')
        self.assertIsNone(signs.guess)


class TestRelevant(base.TestCase):
    def test_up_to_the_panic(self) -> None:
        lines = ['broken', '[ 1] Kernel panic - not syncing: x', 'RIP: 0033']
        self.assertEqual(lines[:2], causes.relevant(lines))
        self.assertEqual(lines[:1], causes.relevant(lines[:1]))
