# SPDX-License-Identifier: Apache-2.0

"""What /etc/fstab says (fstab(5)), and what it must not say any more.

Within a disk, a root filesystem knows the other partitions, and itself by the
name of one. As an image of its own, it is the disk. What is asked for and
cannot be mended is an error: nobody may take a copy for mended that is not.
"""

from collections.abc import Sequence
import dataclasses
import pathlib
import re

from amiclient import errors
from amiclient.ext import reader
from amiclient.ext.reader import Reader
from amiclient.ext import rewrite
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


#: Lines of the file that are told, and characters of each.
_LISTED, _LINE = 10, 200

_PATH = '/etc/fstab'
_LIMIT = 64 << 10

#: Where systemd and distributions mount what boot loaders read.
_BOOTS = ('/boot', '/efi', '/boot/efi')

#: Not all commands that say so have the option.
_HOW = (
    '"ami upload", "boot", "extract" and "shrink --output" mend that in a '
    'copy with --fix'
)


@dataclasses.dataclass(frozen=True)
class FstabEntry:
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


def parse(text: str) -> tuple[FstabEntry, ...]:
    """Read the lines; those that make no sense are passed over."""
    return tuple(filter(None, map(_entry, text.splitlines())))


def _entry(line: str) -> FstabEntry | None:
    fields = line.split()
    if len(fields) < 2 or fields[0].startswith('#'):
        return None
    spec, path, *rest = (
        _OCTAL.sub(lambda m: chr(int(m[1], 8)), f) for f in fields
    )
    kind, options = (*rest[:2], *('auto', 'defaults')[len(rest[:2]) :])
    path = path if path == '/' else path.rstrip('/')
    return FstabEntry(spec, path, kind, tuple(options.split(',')))


@dataclasses.dataclass(frozen=True)
class Tie:
    """A line that ties a root filesystem to the disk that it was on.

    :param number: of the line, from 0.
    :param entry: what it says.
    :param mended: what it should say.
    """

    number: int
    entry: FstabEntry
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


def report(image: pathlib.Path, name: str) -> tuple[str, ...]:
    """Tell what ties a root filesystem to a disk.

    :param name: what to call it.
    :returns: what the user should know.
    """
    with reader.opened(image) as tree:
        found = ties(_read(tree), tree.superblock)
    if not found:
        return ()
    listed = _listed(found)
    note = f'{name}: /etc/fstab names what a server does not have: {listed}'
    return (f'{note}; {_HOW}',)


def boot_mounts(image: pathlib.Path) -> tuple[FstabEntry, ...]:
    """Tell what a root filesystem mounts where boot loaders look.

    :returns: what is on /boot first, if that is not within.
    """
    with reader.opened(image) as tree:
        entries = parse(_read(tree))
    return tuple(
        entry
        for path in _BOOTS
        for entry in entries
        if entry.path == path and entry.is_device
    )


def _read(tree: Reader) -> str:
    # Any byte is a character, and comes back as it was.
    return (tree.read_file(_PATH, _LIMIT) or b'').decode('latin-1')


def mend_in(image: pathlib.Path, name: str) -> tuple[str, ...]:
    """Mend what ties a root filesystem to a disk.

    :param image: a file that may be changed, with a filesystem in order.
    :param name: what to call it.
    :returns: what was done.
    :raises UnsupportedError: if the file cannot be read or changed.
    """
    with reader.opened(image) as tree:
        node = tree.find(_PATH)
        if node is None:
            return ()
        if not node.is_file:
            raise _unmendable(name, 'it is not a regular file')
        if node.is_encrypted or node.size > _LIMIT:
            raise _unmendable(
                name, f'it is encrypted, or has more than {_LIMIT} bytes'
            )
        text = tree.read(node, _LIMIT).decode('latin-1')
        found = ties(text, tree.superblock)
    if not found:
        return ()
    try:
        rewrite.rewrite(image, _PATH, mend(text, found).encode('latin-1'))
    except errors.UnsupportedError as error:
        raise _unmendable(name, error.message) from error
    return (f'{name}: /etc/fstab was fixed: {_listed(found)}',)


def _listed(found: Sequence[Tie]) -> str:
    lines = [errors.shown(str(each), _LINE) for each in found]
    return errors.some(lines, _LISTED)


def _unmendable(name: str, why: str) -> errors.UnsupportedError:
    return errors.UnsupportedError(
        f'/etc/fstab cannot be fixed: {why}',
        subject=name,
        hint='edit it by hand, and leave out --fix',
    )
