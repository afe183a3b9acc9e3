# SPDX-License-Identifier: Apache-2.0

"""What is in the root filesystems of vendors, small, with all its traits.

And what is seen of a tree: by Linux, where it is mounted, and by the oracle,
in an image of it.
"""

from collections.abc import Iterable, Mapping
import dataclasses
import hashlib
import os
import pathlib
import random
import socket
import stat
import struct
from typing import Any

from amiclient.tests.oracle import exttree

MIB = 2**20

#: cap_setuid, cap_setgid and cap_net_raw, effective and permitted, as
#: capabilities of the second revision (linux/capability.h).
_SETUID, _SETGID, _NET_RAW = 1 << 7, 1 << 6, 1 << 13

#: Who an entry of an ACL is for: posix_acl_xattr.h of Linux.
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 1, 2, 4, 8, 16, 32
_NOBODY = 0xFFFFFFFF
_ACLS = ('system.posix_acl_access', 'system.posix_acl_default')

#: Bytes of the hole in /var/log/lastlog.
HOLE = 64 * MIB

#: When packages were built, to the nanosecond.
_BUILT = 1_714_000_000_123_456_789

#: What is labelled otherwise than the rest.
_LABELS = {
    'etc': 'etc_t',
    'etc/shadow': 'shadow_t',
    'usr/bin': 'bin_t',
    'usr/bin/sudo': 'sudo_exec_t',
    'var': 'var_t',
    'var/log': 'var_log_t',
    'home': 'home_root_t',
    'boot': 'boot_t',
}

CLOUD = """\
users:
 - default
disable_root: true
cloud_init_modules:
 - migrator
 - seed_random
 - growpart
 - resizefs
datasource_list: [ ConfigDrive, OpenStack, None ]
"""

_PASSWD = """\
root:x:0:0:root:/root:/bin/bash
bin:x:1:1:bin:/bin:/sbin/nologin
cloud:x:1000:1000::/home/cloud:/bin/bash
"""


def fill(
    top: pathlib.Path,
    release: Mapping[str, str],
    fstab: str | None,
    *,
    init: str = '../lib/systemd/systemd',
    plain: bool = False,
) -> None:
    """Fill a root filesystem, into which all others are mounted.

    :param release: what os-release says.
    :param fstab: what is in it; None for none.
    :param init: where its link leads.
    :param plain: for what stores little: times in seconds since 1970, short
        attributes, and neither ACLs nor sockets.
    """
    for name in (
        *('boot', 'dev', 'etc/cloud', 'home/cloud/.ssh', 'media', 'mnt'),
        *('opt', 'proc', 'root', 'run', 'srv', 'sys', 'tmp', 'usr/bin'),
        *('usr/lib/systemd', 'usr/sbin', 'usr/share/doc', 'var/lib/cloud'),
        *('var/log/journal', 'var/spool', 'var/tmp', 'etc/ssh'),
    ):
        (top / name).mkdir(parents=True, exist_ok=True)
    for name in ('bin', 'sbin', 'lib'):
        if not (top / name).exists():
            (top / name).symlink_to(f'usr/{name}')
    text = ''.join(f'{key}="{value}"\n' for key, value in release.items())
    files: dict[str, str | bytes] = {
        'usr/lib/os-release': text,
        'etc/passwd': _PASSWD,
        'etc/group': 'root:x:0:\nsystemd-journal:x:190:\ncloud:x:1000:\n',
        'etc/shadow': 'root:!unprovisioned:19836:0:99999:7:::\n',
        'etc/machine-id': '',
        'etc/cloud/cloud.cfg': CLOUD,
        'usr/lib/systemd/systemd': b'\x7fELF' + bytes(60),
        'usr/bin/newuidmap': b'\x7fELF newuidmap',
        'usr/bin/newgidmap': b'\x7fELF newgidmap',
        'usr/bin/ping': b'\x7fELF ping',
        'usr/bin/sudo': b'\x7fELF sudo',
        'usr/bin/chage': b'\x7fELF chage',
        'usr/bin/perl': b'\x7fELF perl' + random.Random(1).randbytes(MIB),
        'home/cloud/.bashrc': 'umask 022\n',
        'home/cloud/.ssh/authorized_keys': '',
        'var/log/lastlog': b'',
        'var/lib/cloud/instances': b'',
        'var/spool/empty': b'',
    }
    if fstab is not None:
        files['etc/fstab'] = fstab
    for name, data in files.items():
        data = data.encode() if isinstance(data, str) else data
        (top / name).write_bytes(data)
    (top / 'etc/os-release').symlink_to('../usr/lib/os-release')
    (top / 'usr/sbin/init').symlink_to(init)
    _decorate(top, 4 * MIB if plain else HOLE)
    if not plain:
        _decorate_more(top)


def even(top: pathlib.Path) -> None:
    """Set all times to what anything stores."""
    for path in _walk(top):
        os.utime(path, (1_715_000_000, 1_715_000_000), follow_symlinks=False)


def _decorate(top: pathlib.Path, hole: int) -> None:
    """Add what copies lose easily."""
    for number in range(150):
        path = top / f'usr/share/doc/package-{number}'
        path.write_bytes(bytes([number]) * number * 11)
    for name in (b'odd "name"\n\\', b'\xff\xfe\x1b[31m', b'n' * 255):
        pathlib.Path(
            os.fsdecode(bytes(top / 'var/spool') + b'/' + name)
        ).touch()
    (top / 'var/spool/long').symlink_to('x/' * 500)
    os.link(top / 'usr/bin/perl', top / 'usr/bin/perl5.36.0')
    os.link(top / 'usr/bin/perl', top / 'usr/lib/perl')
    with (top / 'var/log/lastlog').open('wb') as file:
        file.seek(hole - 1)
        file.write(b'x')
    os.mkfifo(top / 'run/initctl')
    os.mknod(top / 'dev/console', stat.S_IFCHR | 0o600, os.makedev(5, 1))
    os.mknod(top / 'dev/loop0', stat.S_IFBLK | 0o660, os.makedev(7, 0))
    for name, owner, mode in (
        ('etc/shadow', (0, 42), 0o640),
        ('usr/bin/sudo', (0, 0), 0o4755),
        ('usr/bin/chage', (0, 42), 0o2755),
        ('home/cloud', (1000, 1000), 0o700),
        ('home/cloud/.ssh', (1000, 1000), 0o700),
        ('home/cloud/.ssh/authorized_keys', (1000, 1000), 0o600),
        ('var/spool/empty', (1_000_123, 2_000_456), 0o000),
        ('var/log/journal', (0, 190), 0o2755),
        ('tmp', (0, 0), 0o1777),
        ('var/tmp', (0, 0), 0o1777),
        ('root', (0, 0), 0o550),
    ):
        os.chown(top / name, *owner)
        (top / name).chmod(mode)
    for name, capabilities in (
        ('newuidmap', _SETUID),
        ('newgidmap', _SETGID),
        ('ping', _NET_RAW),
    ):
        value = struct.pack('<5I', 0x02000001, capabilities, 0, 0, 0)
        os.setxattr(top / 'usr/bin' / name, 'security.capability', value)
    os.setxattr(top / 'usr/bin/perl', 'user.empty', b'')
    os.setxattr(top / 'usr/bin/perl', 'trusted.overlay.origin', b'\x00\xfb')


def _decorate_more(top: pathlib.Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        # The name of a socket may have 107 bytes.
        before = os.open('.', os.O_DIRECTORY)
        os.chdir(top / 'run')
        listener.bind('socket')
        os.fchdir(before)
        os.close(before)
    # setfacl -m g:4:rx -d -m g:4:rx, as systemd's tmpfiles have it.
    rights = (
        (_USER_OBJ, 7, _NOBODY),
        (_GROUP_OBJ, 5, _NOBODY),
        (_GROUP, 5, 4),
        (_MASK, 5, _NOBODY),
        (_OTHER, 5, _NOBODY),
    )
    value = struct.pack('<I', 2) + b''.join(
        struct.pack('<HHI', *each) for each in rights
    )
    for name in _ACLS:
        os.setxattr(top / 'var/log/journal', name, value)
    os.setxattr(top / 'usr/bin/perl', 'user.large', b'l' * 2000)
    os.utime(top / 'usr/bin/sudo', ns=(_BUILT, _BUILT))
    os.utime(top / 'usr/bin/ping', ns=(-1_500_000_000, -1_500_000_001))
    os.utime(top / 'usr/bin/chage', ns=(2**32 * 10**9 + 7, 2**32 * 10**9 + 9))
    os.utime(top / 'bin', ns=(_BUILT, _BUILT + 1), follow_symlinks=False)
    os.utime(top / 'usr/share/doc', ns=(_BUILT, _BUILT + 2))


def label(top: pathlib.Path) -> None:
    """Add the labels of SELinux."""
    kinds = {os.fsencode(top / name): kind for name, kind in _LABELS.items()}
    for path in _walk(top):
        kind = kinds.get(path)
        if kind is None:
            kind = kinds.get(os.path.dirname(path), 'root_t')
        # With the zero at its end.
        value = f'system_u:object_r:{kind}:s0\0'.encode()
        os.setxattr(path, 'security.selinux', value, follow_symlinks=False)


@dataclasses.dataclass(frozen=True)
class Seen:
    """What must be the same of a file, wherever it is stored."""

    type: str
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    atime: int
    xattrs: Mapping[str, bytes]
    target: bytes | None
    device: tuple[int, int] | None
    sha256: str | None
    names: tuple[bytes, ...]


def stored(image: pathlib.Path) -> dict[bytes, Seen]:
    """Tell what is in an image of an ext filesystem."""
    return {
        path: Seen(
            **{
                field.name: getattr(entry, field.name)
                for field in dataclasses.fields(Seen)
                if field.name != 'xattrs'
            },
            xattrs={os.fsdecode(k): v for k, v in entry.xattrs.items()},
        )
        for path, entry in exttree.read_tree(image).items()
    }


def seen(top: pathlib.Path, *, accessed: bool = True) -> dict[bytes, Seen]:
    """Tell what Linux shows of a directory, with all that is mounted.

    :param accessed: whether times of access are stored; else, they are those
        of the last change.
    """
    paths = list(_walk(top))
    start = len(os.fsencode(top))
    names: dict[tuple[int, int], list[bytes]] = {}
    known = {}
    # Times of access first: what follows changes them.
    for path in paths:
        status = known[path] = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode):
            key = status.st_dev, status.st_ino
            names.setdefault(key, []).append(path[start:])
    found = {}
    for path, status in known.items():
        key = status.st_dev, status.st_ino
        name = path[start:] or b'/'
        entry = _entry(path, status, tuple(sorted(names.get(key, [name]))))
        if not accessed:
            entry = dataclasses.replace(entry, atime=entry.mtime)
        found[name] = entry
    return found


def _entry(
    path: bytes, status: os.stat_result, names: tuple[bytes, ...]
) -> Seen:
    mode = status.st_mode
    kind = next(
        name
        for test, name in (
            (stat.S_ISREG, 'file'),
            (stat.S_ISDIR, 'directory'),
            (stat.S_ISLNK, 'symlink'),
            (stat.S_ISCHR, 'character device'),
            (stat.S_ISBLK, 'block device'),
            (stat.S_ISFIFO, 'fifo'),
            (stat.S_ISSOCK, 'socket'),
        )
        if test(mode)
    )
    special: dict[str, Any] = {'target': None, 'device': None, 'sha256': None}
    if kind == 'file':
        data = pathlib.Path(os.fsdecode(path)).read_bytes()
        special['sha256'] = hashlib.sha256(data).hexdigest()
    elif kind == 'symlink':
        special['target'] = os.readlink(path)
    elif kind.endswith('device'):
        special['device'] = os.major(status.st_rdev), os.minor(status.st_rdev)
    xattrs = {}
    for name in os.listxattr(path, follow_symlinks=False):
        if name.startswith('trusted.SGI_ACL_'):
            # As XFS shows ACLs once more.
            continue
        value = os.getxattr(path, name, follow_symlinks=False)
        xattrs[name] = _as_ext_has_it(value) if name in _ACLS else value
    return Seen(
        type=kind,
        mode=stat.S_IMODE(mode),
        uid=status.st_uid,
        gid=status.st_gid,
        size=0 if kind == 'directory' else status.st_size,
        mtime=status.st_mtime_ns,
        atime=status.st_atime_ns,
        xattrs=xattrs,
        names=names,
        **special,
    )


def _as_ext_has_it(value: bytes) -> bytes:
    """Write an ACL as ext filesystems store it: fs/ext4/acl.h of Linux."""
    made = struct.pack('<I', 1)
    for tag, rights, number in struct.iter_unpack('<HHI', value[4:]):
        made += struct.pack('<HH', tag, rights)
        if tag in (_USER, _GROUP):
            made += struct.pack('<I', number)
    return made


def _walk(top: pathlib.Path) -> Iterable[bytes]:
    yield os.fsencode(top)
    for path, directories, files in os.walk(os.fsencode(top)):
        for name in sorted(directories + files):
            yield path + b'/' + name
