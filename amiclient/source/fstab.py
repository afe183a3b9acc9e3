# SPDX-License-Identifier: Apache-2.0

"""What /etc/fstab says (fstab(5)), and what it must not say any more.

Within a disk, a root filesystem knows the other partitions, and itself by the
name of one. As an image of its own, it is the disk, and an ext filesystem,
whatever it was before.
"""

from collections.abc import Callable, Set
import dataclasses
import pathlib
import posixpath
import re
from typing import Any
import uuid

from amiclient.ext import reader
from amiclient.ext.superblock import Superblock
from amiclient.files import Files

PATH = '/etc/fstab'

#: Where units of systemd are, the first that has one.
_UNITS = ('/etc/systemd/system', '/usr/lib/systemd/system')

#: Names of units (systemd.unit(5)), and of directories that enable some.
_UNIT = re.compile(r'[A-Za-z0-9:_.\\-]{1,240}\.mount')
_WANTS = re.compile(r'[A-Za-z0-9:_.@\\-]{1,240}\.(?:wants|requires)')

#: Bytes of it.
LIMIT = 64 << 10

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

#: Devices that come and go, or are made by whoever mounts them; usbdisk is
#: what Alpine calls any of these.
_FLEETING = (
    '/dev/loop', '/dev/fd', '/dev/sr', '/dev/cdrom', '/dev/zram',
    '/dev/usbdisk',
)  # fmt: skip

#: Filesystems that bring their own devices, without a path for one.
_POOLS = frozenset(('zfs',))

#: The types that an ext filesystem is mounted by.
_EXT = frozenset(('auto', 'ext2', 'ext3', 'ext4'))

#: What any filesystem can be mounted with: mount(8), "FILESYSTEM-INDEPENDENT
#: MOUNT OPTIONS", fstab(5) and systemd.mount(5). What begins with x- is for
#: other programs.
_COMMON = frozenset(
    ('async', 'atime', 'auto', 'bind', 'context', 'comment', 'defaults',
     'defcontext', 'dev', 'diratime', 'dirsync', 'exec', 'fscontext', 'group',
     'helper', 'iversion', 'lazytime', 'loud', 'mand', '_netdev', 'noatime',
     'noauto', 'nodev', 'nodiratime', 'noexec', 'nofail', 'noiversion',
     'nolazytime', 'nomand', 'norelatime', 'nostrictatime', 'nosuid',
     'nosymfollow', 'nouser', 'nousers', 'owner', 'private', 'rbind',
     'relatime', 'remount', 'ro', 'rootcontext', 'rprivate', 'rshared',
     'rslave', 'rw', 'shared', 'silent', 'slave', 'strictatime', 'suid',
     'symfollow', 'sync', 'uhelper', 'unbindable', 'user', 'users')
)  # fmt: skip

#: What ext4 knows besides (ext4_param_specs in fs/ext4/super.c of Linux),
#: that which it accepts and ignores, too.
_OWN = frozenset(
    ('abort', 'acl', 'auto_da_alloc', 'barrier', 'bh', 'block_validity',
     'bsddf', 'bsdgroups', 'check', 'commit', 'data', 'data_err', 'dax',
     'debug', 'delalloc', 'dioread_lock', 'dioread_nolock', 'discard',
     'errors', 'grpid', 'grpjquota', 'grpquota', 'i_version', 'init_itable',
     'inlinecrypt', 'inode_readahead_blks', 'journal_async_commit',
     'journal_checksum', 'journal_dev', 'journal_ioprio', 'journal_path',
     'jqfmt', 'max_batch_time', 'max_dir_size_kb', 'mb_optimize_scan',
     'mblk_io_submit', 'min_batch_time', 'minixdf', 'no_mbcache',
     'no_prefetch_block_bitmaps', 'noacl', 'noauto_da_alloc', 'nobarrier',
     'nobh', 'noblock_validity', 'nocheck', 'nodelalloc', 'nodiscard',
     'nogrpid', 'noinit_itable', 'nojournal_checksum', 'noload', 'nombcache',
     'nomblk_io_submit', 'noorlov', 'noquota', 'norecovery',
     'noreservation', 'nouid32', 'nouser_xattr', 'nowarn_on_error',
     'oldalloc', 'orlov', 'prefetch_block_bitmaps', 'quota', 'reservation',
     'resgid', 'resuid', 'sb', 'stripe', 'sysvgroups',
     'test_dummy_encryption', 'user_xattr', 'usrjquota', 'usrquota',
     'warn_on_error')
)  # fmt: skip

#: Those that have no value: btrfs has one for "discard".
_BARE = frozenset(('discard', 'quota', 'usrquota', 'grpquota', 'acl'))

#: Options, with what is in quotes in one piece.
_OPTION = re.compile(r'(?:"[^"]*"|[^,"])+')

#: Bytes of a label of an ext filesystem, and characters of a UUID.
_LABEL = 16
_UUID = 36

#: Where systemd and distributions mount what boot loaders read.
_BOOTS = ('/boot', '/efi', '/boot/efi')


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
        if self.type in _POOLS or self.spec.startswith(('ID=', 'ZFS=')):
            return True
        return self.tag is not None or (
            self.spec.startswith('/dev/')
            and not self.spec.startswith(_FLEETING)
        )

    @property
    def is_ext(self) -> bool:
        """Whether it can be mounted as an ext filesystem, by its type."""
        return not _EXT.isdisjoint(self.type.split(','))

    def foreign(self, superblock: Superblock) -> tuple[str, ...]:
        """Tell the options that the root filesystem does not know.

        Those that mean something to another type as well meant that, if it
        is one of another type.
        """
        known = _COMMON | _OWN if self.is_ext else _COMMON
        if self.is_ext and 'project' in superblock.features:
            known |= {'prjquota'}
        return tuple(o for o in self.options if not _is_known(o, known))

    @property
    def is_read_only(self) -> bool:
        """Whether it is mounted read-only: the last word counts."""
        modes = [o for o in self.options if o in ('ro', 'rw', 'defaults')]
        return modes[-1:] == ['ro']

    def is_missing(
        self, superblock: Superblock, there: Callable[[str], bool]
    ) -> bool:
        """Tell whether what is mounted will not be there.

        :param superblock: of the root filesystem, which alone is.
        :param there: tells whether a path leads to something in it.
        """
        if self.type == 'swap' and self.tag is None:
            if not self.spec.startswith('/dev/'):
                # A file.
                return not there(self.spec)
            return self.is_device
        if not self.is_device:
            return False
        if not self.is_on(superblock):
            return True
        # A subvolume, of what is one filesystem now.
        return not self.is_ext or bool(self.foreign(superblock))


def _is_known(option: str, known: Set[str]) -> bool:
    name, equals, _ = option.partition('=')
    if equals and name in _BARE:
        return False
    return name in known or name.lower().startswith('x-')


def parse(text: str) -> tuple[FstabEntry, ...]:
    """Read the lines; those that make no sense are passed over."""
    return tuple(filter(None, map(_entry, text.split('\n'))))


def _entry(line: str) -> FstabEntry | None:
    fields = line.split()
    if len(fields) < 2 or fields[0].startswith('#'):
        return None
    spec, path, *rest = (
        _OCTAL.sub(lambda m: chr(int(m[1], 8)), f) for f in fields
    )
    kind, options = (*rest[:2], *('auto', 'defaults')[len(rest[:2]) :])
    if path.startswith('/'):
        # The kernel takes neither .. of / nor slashes amiss.
        path = posixpath.normpath(f'/{path.lstrip("/")}')
    return FstabEntry(spec, path, kind, tuple(_OPTION.findall(options)))


@dataclasses.dataclass(frozen=True)
class Tie:
    """What is to be mended.

    :param number: of the line, from 0; None if there is none.
    :param what: what is wrong.
    :param mended: what it should say.
    """

    number: int | None
    what: str
    mended: str

    def __str__(self) -> str:
        return self.what


def ties(
    text: str,
    superblock: Superblock,
    *,
    there: Callable[[str], bool] = lambda _: True,
    merged: Set[str] = frozenset(),
) -> tuple[Tie, ...]:
    """Find what is not right when the filesystem is a disk of its own.

    :param text: the file.
    :param superblock: the root filesystem's.
    :param there: tells whether a path leads to something in it.
    :param merged: where other filesystems were mounted whose files are in
        this one now.
    """
    found = []
    rooted = False
    for number, line in enumerate(text.split('\n')):
        entry = _entry(line)
        if entry is None:
            continue
        if entry.path == '/' and entry.type != 'swap':
            rooted = True
            found += _root_ties(number, line, entry, superblock)
        elif (entry.path in merged and entry.is_device) or entry.is_missing(
            superblock, there
        ):
            what = 'swap' if entry.type == 'swap' else entry.path
            found.append(Tie(number, f'{what} on {entry.spec}', f'#{line}'))
    if not rooted:
        line = f'UUID={superblock.uuid} / {superblock.filesystem} defaults 0 1'
        found.append(Tie(None, 'no line for /', line))
    return tuple(found)


def _root_ties(
    number: int, line: str, entry: FstabEntry, superblock: Superblock
) -> list[Tie]:
    words, fields = [], {}
    if not entry.is_on(superblock):
        words.append(f'on {entry.spec}')
        fields[0] = f'UUID={superblock.uuid}'
    if not entry.is_ext:
        words.append(f'as {entry.type}')
        fields[2] = superblock.filesystem
    wrong = entry.foreign(superblock) + ('ro',) * entry.is_read_only
    if wrong:
        words.append(f'with {",".join(wrong)}')
        rest = [option for option in entry.options if option not in wrong]
        fields[3] = ','.join(rest) or 'defaults'
    if not words:
        return []
    # Every other one is what is between two fields.
    pieces = re.split(r'(\s+)', line.lstrip())
    for index, value in fields.items():
        pieces[2 * index] = value
    return [Tie(number, f'/ {" ".join(words)}', ''.join(pieces))]


def mend(text: str, found: tuple[Tie, ...]) -> str:
    """Write what the lines should say."""
    lines = text.split('\n')
    for tie in found:
        if tie.number is not None:
            lines[tie.number] = tie.mended
            continue
        # What the last line ends in is an empty one.
        if lines[-1]:
            lines.append('')
        lines[-1:] = tie.mended, ''
    return '\n'.join(lines)


@dataclasses.dataclass(frozen=True)
class FstabIdentity:
    """What a filesystem is called by its own fstab.

    :param uuid: 16 bytes; None if it does not say.
    :param label: None if it does not say.
    """

    uuid: bytes | None = None
    label: str | None = None


def identity(data: bytes) -> FstabIdentity:
    """Tell what the filesystem on / is called, if an ext filesystem can be.

    :param data: the file.
    """
    for entry in parse(decoded(data)):
        if entry.path != '/' or entry.tag is None:
            continue
        name, value = entry.tag
        if name == 'LABEL' and 0 < len(encoded(value)) <= _LABEL:
            return FstabIdentity(label=value)
        if name == 'UUID' and len(value) == _UUID:
            try:
                found = uuid.UUID(value).bytes
            except ValueError:
                break
            # None at all, for e2fsck.
            return FstabIdentity(uuid=found if any(found) else None)
        break
    return FstabIdentity()


def entries(tree: Files[Any], top: str = '') -> tuple[FstabEntry, ...]:
    """Read what a root filesystem says that is mounted.

    :param top: the directory that is the root.
    """
    return parse(read(tree, top))


@dataclasses.dataclass(frozen=True)
class MountUnit:
    """A unit of systemd that mounts a device when the system starts.

    :param files: the unit, and what enables it.
    """

    entry: FstabEntry
    files: tuple[str, ...]


def units(tree: Files[Any], top: str = '') -> tuple[MountUnit, ...]:
    """Read which units of systemd mount devices (systemd.mount(5)).

    :param top: the directory that is the root.
    """
    enabled: dict[str, list[str]] = {}
    names = tree.names(top + _UNITS[0])
    for directory in names:
        if _WANTS.fullmatch(directory):
            place = f'{_UNITS[0]}/{directory}'
            for name in tree.names(top + place):
                if _UNIT.fullmatch(name):
                    enabled.setdefault(name, []).append(f'{place}/{name}')
    found = []
    for name, links in enabled.items():
        for path in (f'{place}/{name}' for place in _UNITS):
            data = tree.read_file(top + path, LIMIT)
            if data is not None:
                entry = _unit_entry(decoded(data))
                if entry is not None and entry.is_device:
                    found.append(MountUnit(entry, (path, *links)))
                break
    return tuple(found)


def _unit_entry(text: str) -> FstabEntry | None:
    values = {'Type': 'auto', 'Options': ''}
    section = ''
    for line in map(str.strip, text.splitlines()):
        key, equals, value = line.partition('=')
        if line.startswith('['):
            section = line
        elif section == '[Mount]' and equals:
            values[key.strip()] = value.strip()
    what, where = values.get('What', ''), values.get('Where', '')
    # What has specifiers depends on the system that runs.
    if not where.startswith('/') or '%' in what + where:
        return None
    # It is wanted, not required: the system starts without it.
    options = (*filter(None, values['Options'].split(',')), 'nofail')
    return FstabEntry(what, where.rstrip('/'), values['Type'], options)


def boot_mounts(image: pathlib.Path) -> tuple[FstabEntry, ...]:
    """Tell what a root filesystem mounts where boot loaders look.

    :returns: what is on /boot first, if that is not within.
    """
    with reader.opened(image) as tree:
        found = entries(tree)
    return tuple(
        entry
        for path in _BOOTS
        for entry in found
        if entry.path == path and entry.is_device
    )


def read(tree: Files[Any], top: str = '') -> str:
    """Read the file; nothing if there is none."""
    return decoded(tree.read_file(top + PATH, LIMIT) or b'')


def decoded(data: bytes) -> str:
    """Make text of the file, from which the same bytes can be made."""
    return data.decode('utf-8', 'surrogateescape')


def encoded(text: str) -> bytes:
    """Make bytes of it again."""
    return text.encode('utf-8', 'surrogateescape')
