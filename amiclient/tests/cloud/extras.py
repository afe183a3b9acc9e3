# SPDX-License-Identifier: Apache-2.0

"""Services that the embedded cloud has only where a test asks for them.

Barbican, which keeps certificates, and Ironic, which deploys to bare metal:
here to fake hardware. Both come from PyPI, as Keystone and Glance do.
"""

import base64
import pathlib
import sys

_DATABASE = """
[database]
connection = {database}
sqlite_synchronous = false
"""

#: How a service logs in to Keystone.
_LOGIN = """\
auth_type = password
auth_url = {auth_url}
username = glance
password = {password}
project_name = service
user_domain_id = default
project_domain_id = default
"""

#: How it has Keystone look at the tokens of its users.
TOKENS = f"""
[keystone_authtoken]
www_authenticate_uri = {{auth_url}}
{_LOGIN}"""

_BARBICAN = (
    """\
[DEFAULT]
use_stderr = true
transport_url = fake:/
host_href = http://127.0.0.1:{port}

[simple_crypto_plugin]
kek = {key}
"""
    + _DATABASE
    + TOKENS
)

#: Barbican's own pipeline reads files in /etc.
_PASTE = """\
[composite:main]
use = egg:Paste#urlmap
/: version
/v1: api

[pipeline:version]
pipeline = microversion versionapp

[pipeline:api]
pipeline = authtoken context microversion apiapp

[app:apiapp]
paste.app_factory = barbican.api.app:create_main_app

[app:versionapp]
paste.app_factory = barbican.api.app:create_version_app

[filter:context]
paste.filter_factory = \
barbican.api.middleware.context:ContextMiddleware.factory

[filter:microversion]
paste.filter_factory = \
barbican.api.middleware.microversion:MicroversionMiddleware.factory

[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
"""

_WSGI = """\
from paste import deploy
application = deploy.loadapp('config:{paste}')
"""

#: What Glance needs to find certificates.
KEY_MANAGER = """
[key_manager]
backend = barbican

[barbican]
auth_endpoint = {auth_url}
barbican_endpoint = {barbican}
"""

#: `node validate` looks at images with real interfaces for boot and deploy.
#: Those are seen as for Nova, whose user is no administrator here: one would
#: see all images (ironic/common/glance_service/service_utils.py).
_IRONIC = (
    """\
[DEFAULT]
use_stderr = true
transport_url = fake:/
rpc_transport = none
host = localhost
auth_strategy = keystone
ignore_project_check_for_admin_tasks = false
enabled_hardware_types = fake-hardware
enabled_boot_interfaces = pxe,fake
enabled_deploy_interfaces = direct,ramdisk,fake
enabled_management_interfaces = fake
enabled_power_interfaces = fake
enabled_bios_interfaces = no-bios
enabled_console_interfaces = no-console
enabled_firmware_interfaces = no-firmware
enabled_inspect_interfaces = no-inspect
enabled_network_interfaces = noop
enabled_raid_interfaces = no-raid
enabled_rescue_interfaces = no-rescue
enabled_storage_interfaces = noop
enabled_vendor_interfaces = no-vendor
default_boot_interface = pxe
default_deploy_interface = direct
tempdir = {directory}/ironic

[api]
host_ip = 127.0.0.1
port = {port}
api_workers = 1
public_endpoint = http://127.0.0.1:{port}

[conductor]
workers_pool_size = 40

[deploy]
http_root = {directory}/ironic
http_url = http://127.0.0.1:{port}/http
default_boot_option = local

[dhcp]
dhcp_provider = none

[oslo_concurrency]
lock_path = {directory}/ironic/lock

[pxe]
tftp_root = {directory}/ironic/tftp
tftp_master_path = {directory}/ironic/master
images_path = {directory}/ironic/images
instance_master_path = {directory}/ironic/masters

[glance]
"""
    + _LOGIN
    + """\
region_name = RegionOne
valid_interfaces = public

[service_catalog]
"""
    + _LOGIN
    + """\
region_name = RegionOne
endpoint_override = http://127.0.0.1:{port}
"""
    + _DATABASE
    + TOKENS
)

#: The type of each service in Keystone's catalog.
TYPES = {'barbican': 'key-manager', 'ironic': 'baremetal'}


def texts(
    directory: pathlib.Path, name: str, values: dict[str, str]
) -> dict[str, str]:
    """Make the configuration of a service.

    :param directory: the cloud's.
    :param name: ``barbican`` or ``ironic``.
    :param values: ``auth_url``, ``database``, ``password`` and ``port``.
    :returns: texts of files by their names.
    """
    # Any key will do, as long as it stays.
    key = base64.b64encode(values['password'].encode()[:32]).decode()
    template = {'barbican': _BARBICAN, 'ironic': _IRONIC}[name]
    made = {
        f'{name}/{name}.conf': template.format(
            directory=directory, key=key, **values
        )
    }
    if name == 'barbican':
        paste = f'{name}/paste.ini'
        made[paste] = _PASTE
        made[f'{name}/api.py'] = _WSGI.format(paste=directory / paste)
    return made


def make(directory: pathlib.Path, name: str) -> None:
    """Make or mend the database of a service."""
    if name == 'barbican':
        from barbican.model.migration import commands

        commands.upgrade(to_version='head')
        return
    from ironic.command import dbsync

    config = directory / name / f'{name}.conf'
    sys.argv = ['ironic-dbsync', '--config-file', str(config), 'create_schema']
    sys.exit(dbsync.main())


def serve_ironic(directory: pathlib.Path) -> None:
    """Become Ironic: API and conductor in one process."""
    from ironic.command import singleprocess

    config = directory / 'ironic' / 'ironic.conf'
    sys.argv = ['ironic', '--config-file', str(config)]
    singleprocess.main()
