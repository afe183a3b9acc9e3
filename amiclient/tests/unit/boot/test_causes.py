#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.


"""Why guests did not boot, by what they said: real consoles, cut short."""

import testscenarios

from amiclient.boot import causes
from amiclient.tests import base

#: What comes before, of a guest that has seen its disk.
_SEEN = 'virtio_blk virtio0: [vda] 98304 512-byte logical blocks (50.3 MB)'

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
                'Gave up waiting for root file system device.  Common '
                'problems:\nALERT!  /dev/vda does not exist.  Dropping to a '
                'shell!\n(initramfs) ',
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
            # root=LABEL=... by --append, with a ramdisk.
            (
                'no-root', True,
                f'{_SEEN}\nALERT!  LABEL=cloudimg-rootfs does not exist.  '
                'Dropping to a shell!\n(initramfs) ',
            ),
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
            (
                'emergency', True,
                '[ TIME ] Timed out waiting for swap.\nYou are in emergency '
                'mode. After logging in, type "journalctl -xb" to view',
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
            'EXT4-fs (vda): mounted filesystem with ordered data mode.',
            'systemd[1]: Reached target emergency.target - not.',
            'Debian GNU/Linux 12 host ttyS0',
            'host login: ',
        ):
            signs.look(line)
        self.assertIsNone(signs.cause)
        self.assertFalse(signs.final)

    def test_every_cause_has_a_scenario(self) -> None:
        tried = {each['cause'] for _, each in TestCauses.scenarios}
        self.assertEqual({cause.name for cause in causes.CAUSES}, tried)

    def test_words(self) -> None:
        for cause in causes.CAUSES:
            for words in (cause.message, cause.remedy):
                self.assertFalse(words.endswith('.'), cause.name)
                self.assertTrue(words.isprintable(), cause.name)


class TestRelevant(base.TestCase):
    def test_up_to_the_panic(self) -> None:
        lines = ['broken', '[ 1] Kernel panic - not syncing: x', 'RIP: 0033']
        self.assertEqual(lines[:2], causes.relevant(lines))
        self.assertEqual(lines[:1], causes.relevant(lines[:1]))
