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

"""Why a guest does not boot, told by what it says on its console.

The texts are those of Linux (init/main.c, init/do_mounts.c,
init/initramfs.c, kernel/panic.c, mm/oom_kill.c), of initramfs-tools, dracut,
mkinitcpio and busybox, and of systemd.
"""

from collections.abc import Iterable
import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Cause:
    """Something that keeps guests from booting.

    :param name: one word or two, for scripts.
    :param message: what is wrong.
    :param remedy: what the user can do.
    """

    name: str
    message: str
    remedy: str


#: The first one that there is a sign of is the cause: what is known about
#: exactly comes first, and what merely follows from it last.
CAUSES = (
    Cause(
        'wrong-architecture',
        'its programs are for another architecture than its kernel',
        'give the kernel that belongs to the root filesystem',
    ),
    Cause(
        'ramdisk',
        'the kernel cannot unpack the ramdisk',
        'give the ramdisk that belongs to this kernel, or compress it with '
        'gzip',
    ),
    Cause(
        'out-of-memory',
        'it has too little memory',
        'give it more with --memory, and flavors that have more',
    ),
    Cause(
        'no-driver',
        'no root device: the kernel has no driver for /dev/vda',
        'the drivers virtio_pci and virtio_blk have to be in the kernel or '
        'in the ramdisk, which has to be that of this kernel',
    ),
    Cause(
        'no-filesystem',
        'the kernel sees /dev/vda, but cannot mount it',
        'the driver of its filesystem has to be in the kernel or in the '
        'ramdisk; "openstack ami check" tells what is wrong with the '
        'filesystem',
    ),
    Cause(
        'no-root',
        'no root device: what it is told to mount is not there',
        'the kernel gets root=/dev/vda; look for another name of it in '
        '--append, /etc/fstab and the ramdisk',
    ),
    Cause(
        'no-init',
        'there is no init that can be started',
        'the root filesystem has to hold /sbin/init, and what that needs',
    ),
    Cause(
        'emergency',
        'it is in emergency mode: something it needs for booting failed',
        'look for entries in /etc/fstab of devices that are not there any '
        'more, such as those for /boot and swap',
    ),
    Cause(
        'initramfs',
        "it stays in the ramdisk's shell",
        'the last lines of the console tell why',
    ),
    Cause(
        'panic',
        'the kernel panicked',
        'the last lines of the console tell why',
    ),
    Cause(
        'disk-full',
        'its root filesystem is full',
        'leave more free in it (--headroom), or give it a larger disk '
        '(--disk)',
    ),
)

#: What gives each away. ``device`` and ``no-device`` are no causes, but tell
#: two of them apart.
_SIGNS = {
    name: re.compile('|'.join(patterns))
    for name, patterns in {
        'wrong-architecture': (
            r"(Failed to execute|couldn't execute) .*\(error -8\)",
            r'(run-init|switch_root|Failed to execute).*Exec format error',
        ),
        'ramdisk': (
            r'Initramfs unpacking failed: (?!write error)',
            r"RAMDISK: (incomplete write|EOF while reading|Couldn't find)",
            r'junk (in|within|at the end of) compressed archive',
        ),
        'out-of-memory': (
            r'Initramfs unpacking failed: write error',
            r'System is deadlocked on memory',
            r'Kernel panic - not syncing: Out of memory',
            r'Out of memory and no killable processes',
        ),
        'device': (r'\[vda\] \d+ \d+-byte logical blocks',),
        'no-device': (
            r'unknown-block\(0,0\)',
            r'(ALERT!|ERROR:|device) +.?/dev/vda.? (does not exist|not found)',
            r'Waiting for root device /dev/vda\.\.\.',
            r'Warning: "?/dev/vda"? does not exist',
        ),
        'no-filesystem': (
            r'VFS: Unable to mount root fs on .*unknown-block\((?!0,0)',
            r"EXT4-fs \(vda\): (couldn't mount|VFS: Can't find|bad geometry)",
            r'mount: mounting /dev/vda on \S+ failed',
        ),
        'no-root': (
            r'(ALERT!|ERROR:) .*(does not exist|not found)',
            r'Gave up waiting for (suspend/resume|root)',
            r'Timed out waiting for device',
            r'Warning: /dev/\S+ does not exist',
            r'VFS: Unable to mount root fs',
        ),
        'no-init': (
            r'No working init found',
            r'No init found',
            r'run-init: .*No such file or directory',
            r'switch_root: (can.t execute|failed to execute)',
            r'Failed to switch root',
        ),
        'emergency': (
            r'You are in (emergency|rescue) mode',
            r'Entering emergency mode',
            r'Give root password for maintenance',
            r'Cannot open access to console, the root account is locked',
        ),
        'initramfs': (
            r'\(initramfs\)',
            r'^dracut:/#',
            r'\[rootfs [^\]]*\]#',
        ),
        'panic': (r'Kernel panic - not syncing',),
        'disk-full': (r'No space left on device',),
    }.items()
}

#: Signs after which the guest does nothing any more; others may be mistaken,
#: for whoever said it may try again.
_ENDS = frozenset({'emergency', 'initramfs', 'panic'})


class Signs:
    """What of it a guest has said so far."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def look(self, line: str) -> None:
        """Take a line, or what there is of it."""
        for name, pattern in _SIGNS.items():
            if name not in self._seen and pattern.search(line):
                self._seen.add(name)

    def add(self, other: 'Signs') -> 'Signs':
        """Put what was seen on two consoles together."""
        both = Signs()
        both._seen = self._seen | other._seen
        return both

    @property
    def final(self) -> bool:
        """Whether nothing can be expected of the guest any more."""
        return bool(self._seen & _ENDS)

    @property
    def cause(self) -> Cause | None:
        """What the cause is, if there is a sign of one."""
        seen = set(self._seen)
        if 'no-device' in seen:
            # A kernel that has seen the disk has the driver.
            seen.add('no-filesystem' if 'device' in seen else 'no-driver')
        return next((c for c in CAUSES if c.name in seen), None)


def relevant(lines: Iterable[str]) -> list[str]:
    """Leave out what a kernel says after a panic: registers and code.

    :param lines: of a console; they may begin anywhere.
    """
    found = []
    for line in lines:
        found.append(line)
        if _SIGNS['panic'].search(line):
            break
    return found
