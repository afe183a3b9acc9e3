# SPDX-License-Identifier: Apache-2.0

"""Rules about cloud-init, and what else makes a copy a server of its own.

The others are about what a system leaves behind that no copy should have.
"""

from collections.abc import Iterator
import os
import shlex
import stat
from typing import Any

from amiclient import errors
from amiclient.findings import Severity
from amiclient.rootfs.check_context import Case
from amiclient.rootfs.check_context import Found
from amiclient.rootfs.check_context import Problem
from amiclient.rootfs.check_context import Rule
from amiclient.source import file_tree
from amiclient.source import fix

_CONFIG = '/etc/cloud/cloud.cfg'
_MORE = '/etc/cloud/cloud.cfg.d'
_IDENTIFY = '/etc/cloud/ds-identify.cfg'

#: Those that find what Nova offers: its metadata service, in its own form and
#: in that of EC2, and its drive.
_SOURCES = {'ConfigDrive', 'OpenStack', 'Ec2'}

#: The same, with what grows the root filesystem: Tiny Cloud (of Alpine) and
#: that of CirrOS, by their makefiles.
_GROWERS = (
    '/sbin/tiny-cloud',
    '/usr/sbin/tiny-cloud',
    '/usr/bin/tiny-cloud',
    '/sbin/cirros-ds',
    '/usr/sbin/cirros-ds',
)

#: What users become root by.
_SETUID = ('/usr/bin/sudo', '/usr/bin/su', '/bin/su')

#: What does cloud-init's job in its stead.
_OTHERS = (
    '/usr/bin/ignition',
    '/usr/lib/dracut/modules.d/30ignition/ignition',
    '/usr/bin/coreos-cloudinit',
    '/usr/bin/glean',
    '/usr/local/bin/glean.sh',
    '/usr/bin/afterburn',
)


def _no_cloud_init(case: Case) -> Found:
    if case.has_cloud_init or case.program(*_OTHERS, *_GROWERS):
        return
    if case.exists('/etc/cloud/cloud-init.disabled'):
        message = 'cloud-init is disabled by /etc/cloud/cloud-init.disabled'
        remedy = 'rm /etc/cloud/cloud-init.disabled'
    else:
        message = 'there is no cloud-init'
        remedy = 'install the package cloud-init'
    yield Problem(
        'warning',
        f'{message}: servers get no SSH key, no name and no user data',
        remedy,
    )


def settings(case: Case) -> dict[str, Any]:
    """Merge cloud-init's configuration: what is read later counts."""
    merged: dict[str, Any] = {}
    names = [
        f'{_MORE}/{name}'
        for name in case.reader.names(_MORE)[:100]
        if name.endswith('.cfg')
    ]
    for name in (_CONFIG, *names):
        merged.update(case.yaml(name))
    return merged


def _no_datasource(case: Case) -> Found:
    if not case.has_cloud_init:
        return
    remedy = (
        "echo 'datasource_list: [ConfigDrive, OpenStack, None]' "
        f'> {_MORE}/99-openstack.cfg'
    )
    listed = settings(case).get('datasource_list')
    if isinstance(listed, list) and not _SOURCES & {str(x) for x in listed}:
        yield Problem(
            'warning',
            'cloud-init is told to look for metadata in other clouds only: '
            f'datasource_list is {listed!r:.80}',
            remedy,
        )
        return
    identify: dict[str, str] = {}
    for line in case.lines(_IDENTIFY):
        key, _, value = line.partition(':')
        identify[key.strip()] = value.strip()
    chosen = identify.get('datasource')
    if chosen and chosen not in _SOURCES:
        yield Problem(
            'warning',
            f'{_IDENTIFY} tells cloud-init to use {chosen!r:.80} alone',
            f'rm {_IDENTIFY}',
        )
    elif identify.get('policy', '').split(',')[0] == 'disabled':
        yield Problem(
            'warning',
            f'{_IDENTIFY} disables cloud-init',
            f'rm {_IDENTIFY}',
        )


def resizes(case: Case) -> bool:
    if not case.has_cloud_init:
        return False
    found = settings(case)
    modules = found.get('cloud_init_modules')
    if isinstance(modules, list):
        # With arguments, a module is a list.
        names = {
            str(each[0] if isinstance(each, list) and each else each)
            for each in modules
        }
        if 'resizefs' not in names:
            return False
    return found.get('resize_rootfs', True) not in (False, 'false', 'off')


def _resizefs(case: Case) -> Found:
    if case.has_cloud_init and not resizes(case) and not case.grows_early:
        yield Problem(
            'warning',
            'cloud-init is told not to grow the root filesystem, and nothing '
            'else does: it stays as small as it was uploaded',
            'add resizefs to cloud_init_modules, and set resize_rootfs to '
            'true, in /etc/cloud/cloud.cfg',
        )


def _no_growth(case: Case) -> Found:
    if case.has_cloud_init or case.grows_early or case.program(*_GROWERS):
        return
    yield Problem(
        'warning',
        'neither cloud-init nor the option x-systemd.growfs of / in '
        '/etc/fstab grows the root filesystem to the size of the disk: where '
        'Nova does not do so (with qcow2 disks, its default), it stays as '
        'small as it was uploaded',
        'add x-systemd.growfs to the options of / in /etc/fstab, or install '
        'cloud-init',
    )


_HISTORIES = (
    '.bash_history',
    '.zsh_history',
    '.ash_history',
    '.sh_history',
    '.local/share/fish/fish_history',
    '.python_history',
    '.mysql_history',
    '.psql_history',
    '.viminfo',
    '.lesshst',
)

_LEASES = (
    ('/var/lib/dhcp', ('.leases', '.lease')),
    ('/var/lib/dhclient', ('.leases', '.lease')),
    ('/var/lib/dhcpcd', ('.lease', '.lease6')),
    ('/var/lib/NetworkManager', ('.lease', '.leases')),
    ('/var/lib/systemd/network', ()),
)

#: crypt(5): what no password leads to.
_LOCKED = ('*', '!', 'x', '?')

#: Files that are named in a message, and paths in a remedy.
_SHOWN = 3
_LISTED = 10


def _left(paths: list[str], message: str, remedy: str = '') -> Found:
    """Tell of files.

    :param message: with a place for their names.
    :param remedy: if it is not to remove them.
    """
    if paths:
        words = ' '.join(shlex.quote(path) for path in paths[:_LISTED])
        message = message.format(errors.some(paths, _SHOWN))
        yield Problem('warning', message, remedy or f'rm {words}')


def _machine_id(case: Case) -> Found:
    found = [
        path
        for path in ('/etc/machine-id', '/var/lib/dbus/machine-id')
        if (node := case.reader.find(path, follow=False)) is not None
        and node.is_file
        and (case.text(path) or '').strip() not in ('', 'uninitialized')
    ]
    return _left(
        found,
        '{} holds an id: all servers get the same one, and with it the same '
        'addresses from DHCP',
        'truncate --size=0 /etc/machine-id; rm -f /var/lib/dbus/machine-id',
    )


def _host_keys(case: Case) -> Found:
    found = [
        path
        for directory in ('/etc/ssh', '/etc/dropbear')
        for path in case.filled(directory, '_key')
        if '_host_' in path
    ]
    return _left(
        found,
        'there are SSH host keys ({}): whoever has the image can pass for '
        'each of its servers',
        'rm /etc/ssh/ssh_host_*',
    )


def _homes(case: Case) -> Iterator[str]:
    yield '/root'
    for node in case.inside('/home'):
        if node.is_directory:
            yield node.path


def _histories(case: Case) -> Found:
    found = [
        node.path
        for home in _homes(case)
        for name in _HISTORIES
        if (node := case.reader.find(f'{home}/{name}', follow=False))
        is not None
        and node.is_file
        and node.size
    ]
    return _left(found, 'what users typed is recorded in {}')


def _cloud_init_data(case: Case) -> Found:
    names = case.reader.names('/var/lib/cloud/instances')
    link = case.reader.find('/var/lib/cloud/instance', follow=False)
    if names or link is not None:
        yield Problem(
            'warning',
            'cloud-init has run in it, and has left what it knows of that '
            'server (user data, too) in /var/lib/cloud',
            'cloud-init clean --logs',
        )


def _leases(case: Case) -> Found:
    found = [
        path
        for directory, endings in _LEASES
        for path in case.filled(directory, *endings)
    ]
    return _left(found, 'there are DHCP leases of another server in {}')


def _net_rules(case: Case) -> Found:
    found = [
        path
        for path in case.filled('/etc/udev/rules.d', '.rules')
        if 'persistent' in path and 'net' in path and case.lines(path)
    ]
    return _left(
        found,
        '{} ties names of network interfaces to hardware addresses of '
        'another server: eth0 becomes eth1',
    )


def _root_password(case: Case) -> Found:
    for name in ('/etc/shadow', '/etc/passwd'):
        for line in (case.text(name) or '').splitlines():
            fields = line.split(':')
            if fields[0] != 'root' or len(fields) < 2:
                continue
            if not fields[1]:
                yield Problem(
                    'error',
                    f'{name} has root without any password: whoever gets to '
                    'the console is root',
                    'passwd --lock root',
                )
                return
            if not fields[1].startswith(_LOCKED):
                yield Problem(
                    'warning',
                    f'{name} has a password for root, which is the same on '
                    'all servers',
                    'passwd --lock root',
                )
                return


def _owners(case: Case) -> Found:
    found = [
        (path, node.uid)
        for path in file_tree.SYSTEM
        if (node := case.reader.find(f'/{os.fsdecode(path)}')) and node.uid
    ]
    if found:
        paths = [f'/{os.fsdecode(path)}' for path, _ in found]
        yield Problem(
            'error',
            f'{errors.some(paths, _SHOWN)} belong to user {found[0][1]}, not '
            'to root: it was unpacked without root, and what was setuid may '
            'not be that any more',
            'give the archive or image itself, or unpack it as root',
        )


def _not_setuid(case: Case) -> Found:
    found = [
        path
        for path in _SETUID
        if (node := case.reader.find(path))
        and node.is_file
        # Programs in one, such as busybox, drop what they do not need.
        and node.path.rpartition('/')[2] == path.rpartition('/')[2]
        and not node.mode & stat.S_ISUID
    ]
    return _left(
        found,
        '{} is not setuid, so users cannot become root: it was unpacked '
        'without root, or without permissions',
        'give the archive or image itself, or unpack it as root',
    )


def _container(case: Case) -> Found:
    found = fix.leftovers(case.reader)
    if not found:
        return
    severity: Severity = 'warning'
    outcome = 'programs take a server for a container'
    if '/.dockerenv' in found and case.has_systemd:
        severity = 'error'
        outcome = (
            'systemd takes a server for a container: it does not start udev, '
            'and offers no login at the serial console'
        )
    paths = ' '.join(found)
    yield Problem(
        severity,
        f'a container engine such as Docker has left {paths}: {outcome}',
        f'rm {paths}',
    )


#: By their names.
RULES: dict[str, Rule] = {
    'no-cloud-init': _no_cloud_init,
    'no-datasource': _no_datasource,
    'resizefs-off': _resizefs,
    'no-growth': _no_growth,
    'machine-id': _machine_id,
    'ssh-host-keys': _host_keys,
    'history': _histories,
    'cloud-init-data': _cloud_init_data,
    'dhcp-leases': _leases,
    'udev-net-rules': _net_rules,
    'root-password': _root_password,
    'owners': _owners,
    'not-setuid': _not_setuid,
    'container': _container,
}
