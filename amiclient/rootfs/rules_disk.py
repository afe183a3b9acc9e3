# SPDX-License-Identifier: Apache-2.0

"""Rules about the filesystem itself, and what is mounted of it."""

import re

from amiclient.findings import Severity
from amiclient.rootfs.check_context import Case
from amiclient.rootfs.check_context import Found
from amiclient.rootfs.check_context import Problem
from amiclient.rootfs.check_context import Rule
from amiclient.rootfs import rules_cloud
from amiclient.source import fstab
from amiclient import units

#: Free space that a guest needs to get to the point where it grows its root
#: filesystem, in bytes; what uploads leave is more.
_ROOM = 48 << 20

#: Inodes that it needs: cloud-init, host keys and logs take some hundred.
_INODES = 1024

#: Features that e2fsprogs did not know before a version. What grows the
#: filesystem, a host or the guest itself, refuses what it does not know.
_NEW_FEATURES = {
    'orphan_file': '1.47.0',
    'metadata_csum_seed': '1.43',
    'fast_commit': '1.46.0',
    'stable_inodes': '1.45.6',
    'casefold': '1.45.4',
    'verity': '1.44.5',
    'encrypt': '1.43',
    'ea_inode': '1.44.0',
    'large_dir': '1.44.0',
    'inline_data': '1.43',
}

_FIX = 'or upload it with --fix'

#: Seconds by which clocks may differ.
_SKEW = 24 * 3600

_LOADERS = {
    '/usr/sbin/grub-install': 'grub',
    '/usr/sbin/grub2-install': 'grub2',
    '/usr/bin/extlinux': 'extlinux',
    '/sbin/extlinux': 'extlinux',
    '/sbin/lilo': 'lilo',
    '/usr/lib/systemd/boot/efi/systemd-bootx64.efi': 'systemd-boot',
}

#: Debian's packages of those.
_PACKAGES = ('grub-', 'shim-signed', 'extlinux', 'lilo', 'systemd-boot')

#: The names that packages may have (Debian Policy, 5.6.7), and labels that
#: mean nothing to a shell.
_PACKAGE = re.compile(r'[a-z0-9][a-z0-9+.-]+')
_PLAIN = re.compile(r'[A-Za-z0-9][A-Za-z0-9._-]*')


def _root(case: Case) -> fstab.FstabEntry | None:
    for entry in case.fstab:
        if entry.path == '/':
            return entry
    return None


def _no_root(case: Case) -> Found:
    if _root(case) is not None:
        return
    yield Problem(
        'error' if case.has_systemd else 'warning',
        '/etc/fstab has no entry for /: the kernel mounts it read-only, and '
        'nothing makes it writable',
        f"echo '{_good(case)} / {case.reader.superblock.filesystem} defaults "
        "0 1' >> /etc/fstab",
    )


def _read_only(case: Case) -> Found:
    entry = _root(case)
    if entry is not None and entry.is_read_only:
        yield Problem(
            'error',
            '/etc/fstab has / mounted read-only: cloud-init cannot write, '
            'and nothing grows',
            f'remove ro from the options of / in /etc/fstab, {_FIX}',
        )


def _root_device(case: Case) -> Found:
    entry = _root(case)
    if entry is None or entry.is_on(case.reader.superblock):
        return
    # Tried with a real Nova: remounting / looks for a label or UUID, and fails
    # without it; of a path, mount(8) takes no notice.
    is_path = entry.spec.startswith('/')
    yield Problem(
        'warning' if is_path else 'error',
        f'/etc/fstab has / on {entry.spec}, which will not exist: the root '
        f'disk is /dev/vda, with {_own(case)}',
        f"put {_good(case)} in the place of '{entry.spec}' in /etc/fstab, "
        f'{_FIX}',
    )


def _options(case: Case) -> Found:
    entry = _root(case)
    if entry is None:
        return
    own = case.reader.superblock
    foreign = entry.foreign(own)
    words = [] if entry.is_ext else [f'as {entry.type}']
    words += [f'with the option {option}' for option in foreign]
    if words:
        outcome = ''
        if foreign:
            outcome = ': it cannot be made writable with that'
        yield Problem(
            'error' if foreign else 'warning',
            f'/etc/fstab has / {" and ".join(words)}, which is not what '
            f'{own.filesystem} is mounted by{outcome}',
            f'write {own.filesystem} and defaults in the line of / in '
            f'/etc/fstab, {_FIX}',
        )


def _good(case: Case) -> str:
    block = case.reader.superblock
    # It goes into commands for a shell, and the label may be anything.
    if _PLAIN.fullmatch(block.label):
        return f'LABEL={block.label}'
    return f'UUID={block.uuid}'


def _own(case: Case) -> str:
    block = case.reader.superblock
    label = f' and LABEL={block.label}' if block.label else ''
    return f'UUID={block.uuid}{label}'


def _leftover(case: Case) -> Found:
    for entry in case.fstab:
        if entry.path == '/' or not entry.is_missing(
            case.reader.superblock, case.exists
        ):
            continue
        what = 'swap' if entry.type == 'swap' else entry.path
        waits = not {'nofail', 'noauto'} & {*entry.options}
        severity: Severity = 'note'
        outcome = 'nothing is mounted there'
        if waits:
            severity = 'warning' if entry.type == 'swap' else 'error'
            outcome = (
                'booting waits for it for 90 seconds'
                if entry.type == 'swap'
                else 'booting waits for it, and ends in an emergency shell'
            )
        yield Problem(
            severity,
            f'/etc/fstab has {what} on {entry.spec}, a disk or partition that '
            f'a server does not have: {outcome}',
            f"remove the line of '{entry.spec}' from /etc/fstab, {_FIX}",
        )


def _features(case: Case) -> Found:
    new = [f for f in case.reader.superblock.features if f in _NEW_FEATURES]
    if new:
        words = ', '.join(f'{f} ({_NEW_FEATURES[f]})' for f in new)
        yield Problem(
            'warning',
            f'the filesystem has features that hosts and guests with older '
            f'e2fsprogs than these cannot grow: {words}',
            'make it anew with "openstack ami build", or with mke2fs -O '
            + ','.join(f'^{feature}' for feature in new),
        )


def _little_room(case: Case) -> Found:
    block = case.reader.superblock
    free = block.free_blocks * block.block_size
    short = []
    if free < _ROOM:
        short.append(units.format_size(free))
    if block.free_inodes < _INODES:
        short.append(f'{block.free_inodes} inodes')
    if case.tight or case.grows_early or not short:
        return
    how = (
        'before cloud-init grows it'
        if rules_cloud.resizes(case)
        else 'and nothing grows it early'
    )
    yield Problem(
        'warning',
        f'{" and ".join(short)} are free: the guest runs out of space {how}',
        'upload it with a --headroom of 64M, which is the default, or add '
        'x-systemd.growfs to the options of / in /etc/fstab',
    )


def _boot_sector(case: Case) -> Found:
    if case.head[510:512] == b'\x55\xaa':
        yield Problem(
            'warning',
            'there is an old boot sector in front of the filesystem: Nova '
            'takes the image for a partitioned disk, and refuses it',
            'shrink it, by "openstack ami upload" without --no-shrink or by '
            '"openstack ami shrink", which removes it',
        )


def _boot_loader(case: Case) -> Found:
    names = dict.fromkeys(
        name for path, name in _LOADERS.items() if case.exists(path)
    )
    if not names:
        return
    packages = []
    for paragraph in (case.long('/var/lib/dpkg/status') or '').split('\n\n'):
        first, _, rest = paragraph.partition('\n')
        name = first.removeprefix('Package: ')
        if (
            name.startswith(_PACKAGES)
            and _PACKAGE.fullmatch(name)
            and '\nStatus: install ok' in f'\n{rest}'
        ):
            packages.append(name)
    yield Problem(
        'note',
        f'there is a boot loader ({", ".join(names)}), which is of no use '
        'where Nova loads the kernel, and may fail when a kernel is upgraded',
        f'apt-get purge {" ".join(sorted(packages))[:200]}'
        if packages
        else 'remove its packages',
    )


def _not_clean(case: Case) -> Found:
    block = case.reader.superblock
    if block.needs_recovery:
        yield Problem(
            'warning',
            'the filesystem was not unmounted: what is only in its journal '
            'was not read',
            'shut the system down before its disk is copied',
        )
    elif not block.clean:
        yield Problem(
            'warning',
            'the filesystem has errors, by its own record',
            'repair a copy with e2fsck -f',
        )


def _future(case: Case) -> Found:
    latest = case.now + _SKEW
    late = ['the superblock'] * (case.reader.superblock.written > latest)
    for directory in ('/', '/etc', '/usr', '/var', '/var/lib'):
        late += [
            node.path
            for node in case.inside(directory)
            if max(node.mtime, node.ctime) > latest
        ]
    if late:
        yield Problem(
            'warning',
            f'time stamps are in the future, of {late[0]} and {len(late) - 1} '
            'more: make and certificates may be confused, and e2fsck '
            'complains',
            'set the clock, and make the image again',
        )


#: By their names.
RULES: dict[str, Rule] = {
    'fstab-no-root': _no_root,
    'fstab-read-only': _read_only,
    'fstab-root-device': _root_device,
    'fstab-options': _options,
    'fstab-leftover': _leftover,
    'new-features': _features,
    'little-room': _little_room,
    'boot-sector': _boot_sector,
    'boot-loader': _boot_loader,
    'not-clean': _not_clean,
    'future-times': _future,
}
