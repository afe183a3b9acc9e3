# SPDX-License-Identifier: Apache-2.0

"""Rules about cloud-init, and what else makes a copy a server of its own."""

from collections.abc import Iterator
from typing import Any

from amiclient import findings
from amiclient.rootfs import check_context

Found = Iterator[findings.Finding]

_CONFIG = '/etc/cloud/cloud.cfg'
_MORE = '/etc/cloud/cloud.cfg.d'
_IDENTIFY = '/etc/cloud/ds-identify.cfg'

#: Those that find what Nova offers: its metadata service, in its own form and
#: in that of EC2, and its drive.
_SOURCES = {'ConfigDrive', 'OpenStack', 'Ec2'}

#: What does cloud-init's job in its stead.
_OTHERS = (
    '/usr/bin/ignition',
    '/usr/lib/dracut/modules.d/30ignition/ignition',
    '/usr/bin/coreos-cloudinit',
    '/usr/bin/tiny-cloud',
    '/usr/bin/glean',
    '/usr/local/bin/glean.sh',
    '/usr/sbin/cirros-ds',
    '/usr/bin/afterburn',
)


def _no_cloud_init(case: check_context.Case) -> Found:
    if case.has_cloud_init or case.program(*_OTHERS):
        return
    if case.exists('/etc/cloud/cloud-init.disabled'):
        message = (
            'cloud-init is switched off by /etc/cloud/cloud-init.disabled'
        )
        remedy = 'rm /etc/cloud/cloud-init.disabled'
    else:
        message = 'there is no cloud-init'
        remedy = 'install the package cloud-init'
    yield findings.Finding(
        'warning',
        'no-cloud-init',
        f'{message}: servers get no SSH key, no name and no user data',
        remedy,
    )


def settings(case: check_context.Case) -> dict[str, Any]:
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


def _no_datasource(case: check_context.Case) -> Found:
    if not case.has_cloud_init:
        return
    remedy = (
        "echo 'datasource_list: [ConfigDrive, OpenStack, None]' "
        f'> {_MORE}/99-openstack.cfg'
    )
    listed = settings(case).get('datasource_list')
    if isinstance(listed, list) and not _SOURCES & {str(x) for x in listed}:
        yield findings.Finding(
            'warning',
            'no-datasource',
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
        yield findings.Finding(
            'warning',
            'no-datasource',
            f'{_IDENTIFY} tells cloud-init to use {chosen!r:.80} alone',
            f'rm {_IDENTIFY}',
        )
    elif identify.get('policy', '').split(',')[0] == 'disabled':
        yield findings.Finding(
            'warning',
            'no-datasource',
            f'{_IDENTIFY} switches cloud-init off',
            f'rm {_IDENTIFY}',
        )


def resizes(case: check_context.Case) -> bool:
    """Tell whether cloud-init grows the root filesystem."""
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


def _resizefs(case: check_context.Case) -> Found:
    if case.has_cloud_init and not resizes(case) and not case.grows_early:
        yield findings.Finding(
            'warning',
            'resizefs-off',
            'cloud-init is told not to grow the root filesystem, and nothing '
            'else does: it stays as small as it was uploaded',
            'add resizefs to cloud_init_modules, and set resize_rootfs to '
            'true, in /etc/cloud/cloud.cfg',
        )


def _no_growth(case: check_context.Case) -> Found:
    if case.has_cloud_init or case.grows_early:
        return
    yield findings.Finding(
        'warning',
        'no-growth',
        'nothing grows the root filesystem to the size of the disk: where '
        'Nova does not do so (with qcow2 disks, its default), it stays as '
        'small as it was uploaded',
        'add x-systemd.growfs to the options of / in /etc/fstab, or install '
        'cloud-init',
    )


#: By their names.
RULES: dict[str, check_context.Rule] = {
    'no-cloud-init': _no_cloud_init,
    'no-datasource': _no_datasource,
    'resizefs-off': _resizefs,
    'no-growth': _no_growth,
}
