# SPDX-License-Identifier: Apache-2.0

"""Why a guest does not boot, told by what it says on its console.

The texts are those of Linux (init/main.c, init/do_mounts.c,
init/initramfs.c, kernel/panic.c, mm/oom_kill.c), of initramfs-tools, dracut,
mkinitcpio and busybox, and of systemd. Where these cannot be seen, what the
kernel has said, and has not, tells how far the guest got.
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
    :param guessed: whether the guest did not say so.
    """

    name: str
    message: str
    remedy: str
    guessed: bool = False


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
        'no root device: the device that it has to mount does not exist',
        'Nova says root=/dev/vda; look for another name of it in --append, '
        'os_command_line, /etc/fstab and the ramdisk',
    ),
    Cause(
        'no-init',
        'there is no init that can be started',
        'the root filesystem has to hold /sbin/init, and what it needs',
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
    Cause(
        'no-console',
        'its root filesystem is mounted, but nothing there offers a login on '
        'the serial console',
        'it needs an init that starts a getty on ttyS0; see "openstack ami '
        'check"',
    ),
)

_CAUSES = {cause.name: cause for cause in CAUSES}

#: What gives each away. The others are no causes, but tell some of them apart:
#: ``started`` is the ramdisk's first program, ``mounted`` the root filesystem;
#: after ``no-more-init``, initramfs-tools has but a shell to go on with.
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
        'started': (r'Run /init as init process',),
        'mounted': (r'EXT4-fs \(vda\): mounted filesystem',),
        # The last root= counts.
        'other-root': (
            r'Kernel command line:.* root=(?!/dev/vda(\s|$))\S+(?!.* root=)',
        ),
        'no-root': (
            r'ALERT! .*does not exist',
            r'ERROR: device .*not found',
            r'Gave up waiting for root',
            r'Dependency failed for .*(/sysroot|[Ii]nitrd.[Rr]oot)',
            r'Warning: /dev/\S+ does not exist',
            r'VFS: Unable to mount root fs',
        ),
        'no-init': (
            r'No working init found',
            r'No init found',
            r"Target filesystem doesn't have requested",
            r'run-init: .*No such file or directory',
            r'switch_root: (can.t execute|failed to execute)',
            r'Failed to switch root',
        ),
        'no-more-init': (r'run-init: /bin/init: ',),
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
_ENDS = frozenset({'emergency', 'initramfs', 'no-more-init', 'panic'})

#: What cannot be the cause any more once the root filesystem is mounted: a
#: kernel says so of each driver that it tries, and a ramdisk that waits.
_BEFORE = frozenset({'no-device', 'no-driver', 'no-filesystem'})

#: What a kernel's lines begin with; what there is of one counts, too.
_STAMP = re.compile(r'\[ *(\d+\.|\d*$)')

#: What systemd says of a mount point that it could not do without.
_POINT = re.compile(
    r'(?:Dependency failed for|Failed to mount) (?:\S+\.mount - )?'
    r'(/\S{0,200})\.$'
)

#: What systemd says of a unit that failed (src/core/job.c, unit.c): its name,
#: its description, or both.
_FAILED = re.compile(
    r'\[(?:FAILED| TIME )\] (?:Failed to|Timed out) [a-z]+ '
    r'(?:on |for |swap |up automount )?(\S.{0,200}?)(?: - .*)?\.$'
)


class Signs:
    """What of it a guest has said so far."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        #: The first mount point that is missing.
        self._point: str | None = None
        #: What failed, as systemd calls it, in the order of its lines.
        self._failed: dict[str, None] = {}
        self._speaks = False

    def look(self, line: str) -> None:
        if 'mounted' in self._seen and line and not _STAMP.match(line):
            self._speaks = True
        for name, pattern in _SIGNS.items():
            if name not in self._seen and pattern.search(line):
                self._seen.add(name)
        if self._point is None and (found := _POINT.search(line)):
            self._point = found[1]
        if found := _FAILED.search(line):
            self._failed[found[1]] = None

    def add(self, other: 'Signs') -> 'Signs':
        both = Signs()
        both._seen = self._seen | other._seen
        both._point = self._point or other._point
        both._failed = self._failed | other._failed
        both._speaks = self._speaks or other._speaks
        return both

    @property
    def failed(self) -> tuple[str, ...]:
        """The units that failed, so far as systemd has said it."""
        return tuple(
            name
            for name in self._failed
            # Of a line that comes in pieces, one may end at a dot.
            if not any(other.startswith(f'{name}.') for other in self._failed)
        )

    @property
    def final(self) -> bool:
        """Whether nothing can be expected of the guest any more."""
        return bool(self._seen & _ENDS)

    @property
    def cause(self) -> Cause | None:
        seen = set(self._seen)
        if 'mounted' in seen:
            seen -= _BEFORE
        if 'no-device' in seen:
            # A kernel that has seen the disk has the driver.
            seen.add('no-filesystem' if 'device' in seen else 'no-driver')
        found = next((c for c in CAUSES if c.name in seen), None)
        if found and found.name == 'emergency' and self._point:
            return dataclasses.replace(
                found,
                message='it is in emergency mode: what belongs on '
                f'{self._point} is not there, or cannot be mounted',
            )
        return found

    @property
    def guess(self) -> Cause | None:
        """What the cause may be, of a guest that says nothing any more.

        With the command line of Nova, what the ramdisk and the init say does
        not come on the serial console: only what the kernel says does.
        """
        if 'started' not in self._seen or self._speaks:
            return None
        if 'mounted' in self._seen:
            name = 'no-console'
        elif 'device' not in self._seen:
            name = 'no-driver'
        elif 'other-root' in self._seen:
            name = 'no-root'
        else:
            name = 'no-filesystem'
        return dataclasses.replace(_CAUSES[name], guessed=True)


def named(name: str) -> Cause:
    return _CAUSES[name]


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
