# SPDX-License-Identifier: Apache-2.0

"""Rules about what a system leaves behind that no copy of it should have."""

from collections.abc import Iterator
import shlex

from amiclient import errors
from amiclient import findings
from amiclient.rootfs import check_context

Found = Iterator[findings.Finding]

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


def _some(paths: list[str]) -> str:
    return errors.some(paths, _SHOWN)


def _remove(paths: list[str], *, directories: bool = False) -> str:
    words = ' '.join(shlex.quote(path) for path in paths[:_LISTED])
    return f'rm {"-r " if directories else ""}{words}'


def _machine_id(case: check_context.Case) -> Found:
    found = [
        path
        for path in ('/etc/machine-id', '/var/lib/dbus/machine-id')
        if (node := case.reader.find(path, follow=False)) is not None
        and node.is_file
        and (case.text(path) or '').strip() not in ('', 'uninitialized')
    ]
    if found:
        yield findings.Finding(
            'warning',
            'machine-id',
            f'{_some(found)} holds an id: all servers get the same one, and '
            'with it the same addresses from DHCP',
            'truncate --size=0 /etc/machine-id; rm -f '
            '/var/lib/dbus/machine-id',
        )


def _host_keys(case: check_context.Case) -> Found:
    found = [
        path
        for directory in ('/etc/ssh', '/etc/dropbear')
        for path in case.filled(directory, '_key')
        if '_host_' in path
    ]
    if found:
        yield findings.Finding(
            'warning',
            'ssh-host-keys',
            f'there are SSH host keys ({_some(found)}): whoever has the image '
            'can pass for each of its servers',
            'rm /etc/ssh/ssh_host_*',
        )


def _homes(case: check_context.Case) -> Iterator[str]:
    yield '/root'
    for node in case.inside('/home'):
        if node.is_directory:
            yield node.path


def _histories(case: check_context.Case) -> Found:
    found = [
        node.path
        for home in _homes(case)
        for name in _HISTORIES
        if (node := case.reader.find(f'{home}/{name}', follow=False))
        is not None
        and node.is_file
        and node.size
    ]
    if found:
        yield findings.Finding(
            'warning',
            'history',
            f'what users typed is recorded in {_some(found)}',
            _remove(found),
        )


def _cloud_init_data(case: check_context.Case) -> Found:
    names = case.reader.names('/var/lib/cloud/instances')
    link = case.reader.find('/var/lib/cloud/instance', follow=False)
    if names or link is not None:
        yield findings.Finding(
            'warning',
            'cloud-init-data',
            'cloud-init has run in it, and has left what it knows of that '
            'server (user data, too) in /var/lib/cloud',
            'cloud-init clean --logs',
        )


def _leases(case: check_context.Case) -> Found:
    found = [
        path
        for directory, endings in _LEASES
        for path in case.filled(directory, *endings)
    ]
    if found:
        yield findings.Finding(
            'warning',
            'dhcp-leases',
            f'there are DHCP leases of another server in {_some(found)}',
            _remove(found),
        )


def _net_rules(case: check_context.Case) -> Found:
    found = [
        path
        for path in case.filled('/etc/udev/rules.d', '.rules')
        if 'persistent' in path and 'net' in path and case.lines(path)
    ]
    if found:
        yield findings.Finding(
            'warning',
            'udev-net-rules',
            f'{_some(found)} ties names of network interfaces to hardware '
            'addresses of another server: eth0 becomes eth1',
            _remove(found),
        )


def _root_password(case: check_context.Case) -> Found:
    for name in ('/etc/shadow', '/etc/passwd'):
        for line in (case.text(name) or '').splitlines():
            fields = line.split(':')
            if fields[0] != 'root' or len(fields) < 2:
                continue
            if not fields[1]:
                yield findings.Finding(
                    'error',
                    'root-password',
                    f'{name} has root without any password: whoever gets to '
                    'the console is root',
                    'passwd --lock root',
                )
                return
            if not fields[1].startswith(_LOCKED):
                yield findings.Finding(
                    'warning',
                    'root-password',
                    f'{name} has a password for root, which is the same on '
                    'all servers',
                    'passwd --lock root',
                )
                return


#: By their names.
RULES: dict[str, check_context.Rule] = {
    'machine-id': _machine_id,
    'ssh-host-keys': _host_keys,
    'history': _histories,
    'cloud-init-data': _cloud_init_data,
    'dhcp-leases': _leases,
    'udev-net-rules': _net_rules,
    'root-password': _root_password,
}
