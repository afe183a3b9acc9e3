# SPDX-License-Identifier: Apache-2.0

"""The server side of the embedded cloud: configuration, databases, serving.

:mod:`amiclient.tests.cloud.cloud` runs this module in a process for each
server, in the interpreter where Keystone and Glance are installed::

    python -m amiclient.tests.cloud.server keystone|glance DIRECTORY [--make]

A cloud may have a Glance in each of several regions: ``glance2`` and so on.
"""

import argparse
import ctypes
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import signal
import sys

from amiclient.tests.cloud import databases
from amiclient.tests.cloud import extras

#: Python threads in each process, and processes. A connection that a client
#: keeps open holds a thread, and every thread of Glance may hold one of
#: Keystone's, so Keystone has more of them than all of Glance.
_WORKERS = {'keystone': (1, 96), 'glance': (2, 24), 'barbican': (1, 8)}

#: The servers of Glance, and the region of each.
REGIONS = {
    f'glance{number}': f'Region{name}'
    for number, name in (('', 'One'), (2, 'Two'), (3, 'Three'))
}

#: What takes long to import, and is to be imported once only: before the
#: process forks. Not Glance itself, which looks whether uWSGI is there.
_HEAVY = {
    'keystone': ('keystone.cmd.cli', 'keystone.server.flask.application'),
    'glance': (
        'alembic',
        'castellan',
        'cursive',
        'glance_store',
        'jsonschema',
        'keystonemiddleware.auth_token',
        'oslo_db.sqlalchemy.enginefacade',
        'oslo_limit.limit',
        'oslo_messaging',
        'oslo_policy.policy',
        'routes',
        'taskflow.engines',
        'webob',
    ),
}

#: A second writer waits this many seconds for the first.
_DATABASE = 'sqlite:///{directory}/{name}.db?timeout=60'

_KEYSTONE = """\
[DEFAULT]
use_stderr = true
# Nobody listens, and RabbitMQ's client takes long to import.
transport_url = fake:/

[database]
connection = {database}
# The cloud does not outlive a power failure, so it need not wait for disks.
sqlite_synchronous = false

[cache]
# One process serves all, so what it remembers is never out of date.
enabled = true
backend = dogpile.cache.memory

[token]
# A demonstration may last longer than the hour that is usual.
expiration = 86400

[fernet_tokens]
key_repository = {directory}/keystone/fernet-keys

# Else it is in /etc, where ordinary users may not write.
[fernet_receipts]
key_repository = {directory}/keystone/fernet-keys

[credential]
key_repository = {directory}/keystone/credential-keys

[identity]
# As cheap as they may be: the passwords are random, and here only.
password_hash_rounds = 4
"""

_GLANCE = """\
[DEFAULT]
use_stderr = true
transport_url = fake:/
enabled_backends = {stores}
worker_self_reference_url = http://127.0.0.1:{port}
enabled_import_methods = [{methods}]
use_keystone_limits = {limited}

[database]
connection = {database}
sqlite_synchronous = false

[glance_store]
default_backend = main

[main]
filesystem_store_datadir = {images}/main
filesystem_store_chunk_size = 1048576

[second]
filesystem_store_datadir = {images}/second
filesystem_store_chunk_size = 1048576

[os_glance_staging_store]
filesystem_store_datadir = {images}/staging

[os_glance_tasks_store]
filesystem_store_datadir = {images}/tasks

[oslo_concurrency]
lock_path = {directory}/{name}/lock

[paste_deploy]
flavor = keystone
config_file = {paste}
"""

#: Where `glance-download` and `web-download` may read. Glance allows neither
#: loopback addresses nor other ports than 80 and 443 by default.
_FILTER = """
[import_filtering_opts]
allowed_hosts = [127.0.0.1]
allowed_ports = [{ports}]
"""

#: What is done to the data of an import.
_PLUGINS = """
[image_import_opts]
image_import_plugins = [{plugins}]

[image_conversion]
output_format = raw
"""

_POLICY = """
[oslo_policy]
policy_file = {file}
"""

#: Quotas, which Keystone holds and Glance enforces.
_LIMITS = """
[oslo_limit]
auth_url = {auth_url}
auth_type = password
username = admin
password = {password}
project_name = admin
user_domain_id = default
project_domain_id = default
endpoint_service_type = image
endpoint_interface = public
endpoint_region_name = {region}
"""

#: Glance ships this one beside its sources, not in its package: what
#: operators' packages install, and what makes Glance insist on ids.
_ID = {
    'type': ['null', 'string'],
    'pattern': (
        '^([0-9a-fA-F]){8}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}'
        '-([0-9a-fA-F]){4}-([0-9a-fA-F]){12}$'
    ),
}
_SCHEMA = {
    'kernel_id': {
        **_ID,
        'description': 'ID of image stored in Glance that should be used as '
        'the kernel when booting an AMI-style image.',
    },
    'ramdisk_id': {
        **_ID,
        'description': 'ID of image stored in Glance that should be used as '
        'the ramdisk when booting an AMI-style image.',
    },
    'instance_uuid': {
        'type': 'string',
        'description': 'Metadata which can be used to record which instance '
        'this image is associated with. (Informational only, does not '
        'create an instance snapshot.)',
    },
    'architecture': {
        'description': 'Operating system architecture as specified in '
        'https://docs.openstack.org/python-glanceclient/latest/cli/'
        'property-keys.html',
        'type': 'string',
    },
    'os_distro': {
        'description': 'Common name of operating system distribution as '
        'specified in https://docs.openstack.org/python-glanceclient/latest/'
        'cli/property-keys.html',
        'type': 'string',
    },
    'os_version': {
        'description': 'Operating system version as specified by the '
        'distributor.',
        'type': 'string',
    },
    'description': {
        'description': 'A human-readable string describing this image.',
        'type': 'string',
    },
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What a cloud has beside a Keystone and a Glance with two file stores.

    :param name: tells apart clouds that are alike otherwise.
    :param regions: how many regions, each with a Glance: 1 to 3.
    :param limits: quotas of each project, by Glance's names.
    :param methods: import methods; regions have `glance-download`, too.
    :param filtered: whether imports may read as little as by default.
    :param read_only: whether there is a store ``mirror`` that only reads.
    :param plugins: what an import goes through: ``image_decompression``.
    :param policy: rules of Glance that are not the default ones.
    :param barbican: whether it has Barbican, which Glance asks for keys.
    :param ironic: whether it has Ironic, with fake hardware.
    """

    name: str = ''
    regions: int = 1
    limits: tuple[tuple[str, int], ...] = ()
    methods: tuple[str, ...] = ('glance-direct', 'web-download', 'copy-image')
    filtered: bool = False
    read_only: bool = False
    plugins: tuple[str, ...] = ()
    policy: tuple[tuple[str, str], ...] = ()
    barbican: bool = False
    ironic: bool = False

    @property
    def glances(self) -> tuple[str, ...]:
        """The servers of Glance, one a region."""
        return tuple(REGIONS)[: self.regions]

    @property
    def servers(self) -> tuple[str, ...]:
        """All servers, in the order in which they start."""
        return 'keystone', *self.extras, *self.glances

    @property
    def extras(self) -> tuple[str, ...]:
        """The servers that most clouds do not have."""
        return tuple(name for name in extras.TYPES if getattr(self, name))


def images(directory: pathlib.Path, name: str) -> pathlib.Path:
    """Tell where a server of Glance has its stores."""
    return directory / name.replace('glance', 'images')


def write(
    directory: pathlib.Path, state: dict[str, str], options: Options
) -> None:
    """Write the configuration of the servers.

    :param directory: the cloud's directory.
    :param state: ports, and the password of all users.
    """
    texts = {
        'keystone/keystone.conf': _KEYSTONE.format(
            directory=directory,
            database=_DATABASE.format(directory=directory, name='keystone'),
        ),
        'servers.json': '[]',
    }
    for name in options.glances:
        for part in ('main', 'second', 'staging', 'tasks'):
            place = images(directory, name) / part
            place.mkdir(parents=True, exist_ok=True)
        (directory / name / 'lock').mkdir(parents=True, exist_ok=True)
        texts[f'{name}/glance-api.conf'] = _glance(
            directory, name, state, options
        )
        texts[f'{name}/schema-image.json'] = json.dumps(_SCHEMA, indent=4)
        if options.policy:
            texts[f'{name}/policy.yaml'] = json.dumps(dict(options.policy))
    (directory / 'keystone').mkdir(exist_ok=True)
    for name in options.extras:
        (directory / name).mkdir(exist_ok=True)
        texts |= extras.texts(
            directory,
            name,
            {
                'auth_url': f'http://127.0.0.1:{state["keystone"]}/v3',
                'database': _DATABASE.format(directory=directory, name=name),
                'password': state['password'],
                'port': state[name],
            },
        )
    for file, text in texts.items():
        path = directory / file
        path.touch(mode=0o600)
        path.write_text(text)


def _glance(
    directory: pathlib.Path,
    name: str,
    state: dict[str, str],
    options: Options,
) -> str:
    stores = [
        'main:file',
        'second:file',
        *['mirror:http'][: options.read_only],
    ]
    methods = [
        *options.methods,
        *['glance-download'][: options.regions > 1],
    ]
    parts = [_GLANCE, extras.TOKENS]
    if options.limits:
        parts.append(_LIMITS)
    if not options.filtered:
        parts.append(_FILTER)
    if options.plugins:
        parts.append(_PLUGINS)
    if options.policy:
        parts.append(_POLICY)
    if options.barbican:
        parts.append(extras.KEY_MANAGER)
    return ''.join(parts).format(
        directory=directory,
        name=name,
        region=REGIONS[name],
        images=images(directory, name),
        database=_DATABASE.format(directory=directory, name=name),
        port=state[name],
        ports=','.join(['80', *(state[n] for n in options.glances)]),
        auth_url=f'http://127.0.0.1:{state["keystone"]}/v3',
        password=state['password'],
        paste=_installed('glance', 'glance-api-paste.ini'),
        limited=bool(options.limits),
        stores=','.join(stores),
        methods=','.join(methods),
        plugins=','.join(options.plugins),
        file=directory / name / 'policy.yaml',
        barbican=f'http://127.0.0.1:{state.get("barbican")}',
    )


def versions(options: Options) -> dict[str, str]:
    """Tell which servers are installed: their databases depend on it."""
    return {
        name: importlib.metadata.version(name)
        for name in ('keystone', 'glance', *options.extras)
    }


def _installed(package: str, name: str) -> pathlib.Path:
    """Find a file that a package installed outside of its modules."""
    for path in importlib.metadata.files(package) or ():
        if path.name == name:
            return pathlib.Path(path.locate()).resolve()
    raise FileNotFoundError(f'{package} was installed without {name}')


def make_keystone(directory: pathlib.Path) -> None:
    """Make or mend Keystone's database and keys."""
    from keystone.cmd import cli

    state = json.loads((directory / 'cloud.json').read_text())
    config = ['--config-file', str(directory / 'keystone' / 'keystone.conf')]
    url = f'http://127.0.0.1:{state["keystone"]}/v3'
    us = ['--keystone-user', str(os.getuid())]
    us += ['--keystone-group', str(os.getgid())]

    def manage(*command: str) -> None:
        # The command line can be run once only in a process.
        _fork(cli.main, ['keystone-manage', *config, *command])

    manage('fernet_setup', *us)
    manage('credential_setup', *us)
    databases.make(
        directory / 'keystone.db', 'keystone', lambda: manage('db_sync')
    )
    manage(
        'bootstrap',
        *('--bootstrap-password', state['password']),
        *('--bootstrap-region-id', 'RegionOne'),
        *('--bootstrap-public-url', url),
        *('--bootstrap-internal-url', url),
        *('--bootstrap-admin-url', url),
    )


def make_glance(directory: pathlib.Path, name: str) -> None:
    """Make or mend the database of a Glance."""
    from glance.cmd import manage

    config = directory / name / 'glance-api.conf'
    sys.argv = ['glance-manage', '--config-file', str(config), 'db', 'sync']
    sys.exit(manage.main())


def serve(name: str, directory: pathlib.Path) -> None:
    """Become a server; returns when it has ended."""
    if name == 'ironic':
        extras.serve_ironic(directory)
        return
    state = json.loads((directory / 'cloud.json').read_text())
    program = _program(name)
    processes, threads = _WORKERS[program]
    if json.loads(state['options']) != json.loads(
        json.dumps(dataclasses.asdict(Options()))
    ):
        # Few tests use it, and each process takes seconds to begin.
        processes = 1
    import pyuwsgi

    _keep_connections()
    _write_in_turn()
    _check_schemas_once()
    _read_policies_once()
    pyuwsgi.run(
        [
            # Not --http-socket, which knows no keep-alive.
            *('--http11-socket', f'127.0.0.1:{state[name]}'),
            *_application(directory, program),
            *('--processes', str(processes)),
            *('--threads', str(threads)),
            *('--procname-prefix', f'embedded {name}: '),
            *('--buffer-size', '65535'),
            # A body may stall for longer than the 4 s that it may by default.
            *('--socket-timeout', '60'),
            '--master',
            '--die-on-term',
            '--enable-threads',
            '--lazy-apps',
            '--need-app',
            '--thunder-lock',
        ]
    )


def _application(directory: pathlib.Path, program: str) -> tuple[str, str]:
    if program == 'barbican':
        return '--wsgi-file', str(directory / program / 'api.py')
    if program == 'glance':
        return '--module', 'amiclient.tests.cloud.compute:application'
    return '--module', f'{program}.wsgi.api:application'


def _program(name: str) -> str:
    """Tell what a server runs."""
    return 'glance' if name in REGIONS else name


def _keep_connections() -> None:
    """Have a connection to a database used again.

    oslo.db opens one for each transaction, if the database is a file, and that
    takes a third of Glance's time.
    """
    from oslo_db.sqlalchemy import engines

    class Pool(engines.pool.QueuePool):
        def __init__(self, *arguments, **options):
            # As many as there are threads, to a file that is always there.
            options |= {'max_overflow': -1, 'pre_ping': False}
            super().__init__(*arguments, **options)

    engines.pool.NullPool = Pool


def _write_in_turn() -> None:
    """Let every transaction wait for its turn before it begins.

    oslo.db begins it as one that only reads. When it comes to write and
    another has written since, no waiting helps, and sqlite says "database is
    locked" at once (sqlite.org/lang_transaction.html): Glance answers 500.
    """
    import sqlalchemy

    @sqlalchemy.event.listens_for(sqlalchemy.Engine, 'begin')
    def begin(connection):
        connection.exec_driver_sql('BEGIN IMMEDIATE')
        # Where oslo.db, which is asked next, looks.
        connection.info['in_transaction'] = True


def _check_schemas_once() -> None:
    """Have jsonschema check a schema only when it is new.

    Glance has it checked with each image that is created or changed, and that
    takes several times as long as all the rest.
    """
    import jsonschema

    latest = jsonschema.validators.validator_for({})
    check = latest.check_schema
    known = set()

    def check_schema(schema, *arguments, **options):
        text = json.dumps(schema, sort_keys=True)
        if text not in known:
            check(schema, *arguments, **options)
            known.add(text)

    latest.check_schema = check_schema


def _read_policies_once() -> None:
    """Have nobody look whether there are other policies by now.

    That is done with each image of a list, in many directories.
    """
    from oslo_policy import policy

    load = policy.Enforcer.load_rules

    def load_rules(enforcer, force_reload=False):
        load(enforcer, force_reload)
        enforcer.use_conf = False

    policy.Enforcer.load_rules = load_rules


def _fork(function, *arguments) -> None:
    """Run something in a process of its own, which leaves this one as it is.

    :raises SystemExit: if it fails.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = function(*arguments) or 0
        except SystemExit as error:
            status = 0 if error.code is None else int(error.code)
        finally:
            sys.stderr.flush()
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        sys.exit(f'{arguments} failed with exit status {status}')


def _tie(parent: int) -> None:
    """End this process when its parent does; see prctl(2)."""
    set_parent_death_signal = 1
    library = ctypes.CDLL(None, use_errno=True)
    library.prctl(set_parent_death_signal, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit('the parent ended before')


def main() -> None:
    """Run one server; prepare for it before, if that is asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument('name', choices=('keystone', *REGIONS, *extras.TYPES))
    parser.add_argument('directory', type=pathlib.Path)
    parser.add_argument('--make', action='store_true')
    parser.add_argument('--tied', type=int, metavar='PARENT')
    arguments = parser.parse_args()
    if arguments.tied is not None:
        _tie(arguments.tied)
    name, directory = arguments.name, arguments.directory
    for module in _HEAVY.get(_program(name), ()):
        importlib.import_module(module)
    if arguments.make and name == 'keystone':
        _fork(make_keystone, directory)
    elif arguments.make:
        migrate = make_glance if name in REGIONS else extras.make
        databases.make(
            directory / f'{name}.db',
            _program(name),
            lambda: _fork(migrate, directory, name),
        )
    serve(name, directory)


if __name__ == '__main__':
    main()
