# SPDX-License-Identifier: Apache-2.0

"""What /etc/fstab says (fstab(5)), and what it must not say any more.

Within a disk, a root filesystem knows the other partitions, and itself by the
name of one. As an image of its own, it is the disk.
"""

import dataclasses
import re

from amiclient.ext.superblock import Superblock

_OCTAL = re.compile(r'\\([0-7]{3})')
#: What is no device that could be missing: filesystems that the kernel makes
#: up, and such that come over the network or from the host.
_NO_DEVICE = frozenset(
    ('proc', 'sysfs', 'tmpfs', 'devtmpfs', 'devpts', 'ramfs', 'cgroup',
     'cgroup2', 'debugfs', 'tracefs', 'securityfs', 'configfs', 'hugetlbfs',
     'mqueue', 'bpf', 'efivarfs', 'fusectl', 'binfmt_misc', 'overlay',
     'autofs', 'none', 'nfs', 'nfs4', 'cifs', 'smb3', 'ceph', 'glusterfs',
     '9p', 'virtiofs', 'fuse.sshfs')
)  # fmt: skip

#: What Nova calls the root disk, as virtio-blk and as virtio-scsi.
_ROOT_DISKS = ('/dev/vda', '/dev/root', 'rootfs')

#: Devices that come and go, or are made by whoever mounts them.
_FLEETING = ('/dev/loop', '/dev/fd', '/dev/sr', '/dev/cdrom', '/dev/zram')


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line.

    :param spec: what is mounted, such as ``UUID=...``.
    :param path: where; ``none`` for swap.
    :param options: in their order.
    """

    spec: str
    path: str
    type: str
    options: tuple[str, ...]

    @property
    def tag(self) -> tuple[str, str] | None:
        """How the device is named: ``UUID`` and such, and the value.

        None if it is named by a path that does not say.
        """
        name, equals, value = self.spec.partition('=')
        if equals and name in ('UUID', 'LABEL', 'PARTUUID', 'PARTLABEL'):
            return name, value.strip('"\'')
        if self.spec.startswith('/dev/disk/by-'):
            kind, _, value = self.spec[len('/dev/disk/by-') :].partition('/')
            return kind.upper(), value
        return None

    def is_on(self, superblock: Superblock) -> bool:
        """Tell whether what is mounted is a certain root filesystem."""
        if self.tag is None:
            return self.spec in _ROOT_DISKS
        name, value = self.tag
        if name == 'UUID':
            return value.lower() == superblock.uuid
        return name == 'LABEL' and value == superblock.label

    @property
    def is_device(self) -> bool:
        """Whether what is mounted is a disk, or a part of one."""
        if self.type in _NO_DEVICE or 'bind' in self.options:
            return False
        return self.tag is not None or (
            self.spec.startswith('/dev/')
            and not self.spec.startswith(_FLEETING)
        )


def parse(text: str) -> tuple[Entry, ...]:
    """Read the lines; those that make no sense are passed over."""
    return tuple(filter(None, map(_entry, text.splitlines())))


def _entry(line: str) -> Entry | None:
    fields = line.split()
    if len(fields) < 2 or fields[0].startswith('#'):
        return None
    spec, path, *rest = (
        _OCTAL.sub(lambda m: chr(int(m[1], 8)), f) for f in fields
    )
    kind, options = (*rest[:2], *('auto', 'defaults')[len(rest[:2]) :])
    path = path if path == '/' else path.rstrip('/')
    return Entry(spec, path, kind, tuple(options.split(',')))


@dataclasses.dataclass(frozen=True)
class Tie:
    """A line that ties a root filesystem to the disk that it was on.

    :param number: of the line, from 0.
    :param entry: what it says.
    :param mended: what it should say.
    """

    number: int
    entry: Entry
    mended: str

    def __str__(self) -> str:
        what = 'swap' if self.entry.type == 'swap' else self.entry.path
        return f'{what} on {self.entry.spec}'


def ties(text: str, superblock: Superblock) -> tuple[Tie, ...]:
    """Find what will not be there when the filesystem is a disk of its own.

    :param text: the file.
    :param superblock: the root filesystem's.
    """
    found = []
    for number, line in enumerate(text.splitlines()):
        entry = _entry(line)
        if entry is None or not entry.is_device or entry.is_on(superblock):
            continue
        mended = f'#{line}'
        if entry.path == '/':
            spec = line.split()[0]
            mended = line.replace(spec, f'UUID={superblock.uuid}', 1)
        found.append(Tie(number, entry, mended))
    return tuple(found)


def mend(text: str, found: tuple[Tie, ...]) -> str:
    """Name the root filesystem by its UUID, and comment the others out."""
    lines = text.splitlines(keepends=True)
    for tie in found:
        old = lines[tie.number]
        end = old[len(old.rstrip('\r\n')) :]
        lines[tie.number] = tie.mended + end
    return ''.join(lines)
