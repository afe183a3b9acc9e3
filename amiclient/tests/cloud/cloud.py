# SPDX-License-Identifier: Apache-2.0

"""A small real cloud: Keystone and Glance on sqlite and a file store.

It lives in one directory, listens on free ports of the loopback interface and
runs with the interpreter that runs this module. The functional tests use it
as a fixture (:class:`amiclient.tests.cloud.fixture.EmbeddedCloud`); on the
command line it is::

    python -m amiclient.tests.cloud start [--regions N] DIRECTORY
    python -m amiclient.tests.cloud stop DIRECTORY
    python -m amiclient.tests.cloud run [DIRECTORY] -- COMMAND ...

A stopped cloud keeps its images and can be started again. ``run`` without a
directory takes a new one, and leaves it behind only if the command fails.
"""

import argparse
from collections.abc import Callable, Mapping
import contextlib
import dataclasses
import http.client
import json
import os
import pathlib
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from typing import Any

from amiclient.tests.cloud import accounts as cloud_accounts
from amiclient.tests.cloud import extras as cloud_extras
from amiclient.tests.cloud import server as cloud_server

USERS = cloud_accounts.USERS
Options = cloud_server.Options

#: Seconds that the servers have to answer, and to end.
START_TIMEOUT = 600.0
STOP_TIMEOUT = 60.0

#: How often to choose ports: until a server listens, somebody else may.
_TRIES = 3

_SERVER = (sys.executable, '-m', 'amiclient.tests.cloud.server')

#: What Glance has of images.
_TABLES = (
    'image_locations',
    'image_members',
    'image_properties',
    'image_tags',
    'images',
)

_OPENRC = """\
# Source this file: `openstack` then talks to the embedded cloud, as the
# member {user} of the project {user}. Others: --os-cloud {others}
export OS_CLIENT_CONFIG_FILE={directory}/clouds.yaml
export OS_CLOUD={user}
export NO_PROXY=127.0.0.1,localhost
export no_proxy=127.0.0.1,localhost
case ":$PATH:" in
    *:{bin}:*) ;;
    *) export PATH={bin}:$PATH ;;
esac
"""


class CloudFailed(Exception):
    """The cloud did not start, or did not stop."""


class Cloud:
    """A cloud in a directory, running or not.

    :param directory: where everything of it is, or is to be.
    :param options: what it has; None for what it had the last time.
    """

    def __init__(
        self, directory: pathlib.Path, options: Options | None = None
    ) -> None:
        self.directory = directory.resolve()
        self._options = options
        self.logs = self.directory / 'log'
        self.store = self.directory / 'images'
        self.clouds_yaml = self.directory / 'clouds.yaml'
        self.openrc = self.directory / 'openrc'
        self._state_file = self.directory / 'cloud.json'

    @property
    def auth_url(self) -> str:
        """Where Keystone answers."""
        return f'http://127.0.0.1:{self.state["keystone"]}/v3'

    @property
    def image_url(self) -> str:
        """Where Glance answers, in the first region."""
        return self.image_urls['RegionOne']

    @property
    def image_urls(self) -> dict[str, str]:
        """Where Glance answers, by region."""
        return {
            cloud_server.REGIONS[name]: self._url(name)
            for name in self.options.glances
        }

    def _url(self, name: str) -> str:
        return f'http://127.0.0.1:{self.state[name]}'

    @property
    def options(self) -> Options:
        """What it has."""
        if self._options is None:
            try:
                known = json.loads(self.state['options'])
            except FileNotFoundError:
                known = {}
            for name in ('limits', 'policy'):
                known[name] = tuple(map(tuple, known.get(name, ())))
            for name in known.keys() & {'methods', 'plugins'}:
                known[name] = tuple(known[name])
            self._options = Options(**known)
        return self._options

    @property
    def state(self) -> dict[str, str]:
        """Ports, and the password of all users."""
        return json.loads(self._state_file.read_text())

    def auth(self, user: str = 'demo') -> dict[str, str]:
        """Tell what a client needs to log in, as in clouds.yaml.

        :param user: the name of one of :data:`USERS`.
        """
        project = next(u.project for u in USERS if u.name == user)
        return {
            'auth_url': self.auth_url,
            'username': user,
            'password': self.state['password'],
            'project_name': project,
            'user_domain_id': 'default',
            'project_domain_id': 'default',
        }

    def clouds(self, prefix: str = '') -> dict[str, dict[str, Any]]:
        """Tell what clouds.yaml has under ``clouds``: one for each user.

        :param prefix: what the name of each begins with.
        """
        return {
            prefix + user.name: {
                # openstacksdk refuses others; the first is the default.
                'regions': list(self.image_urls),
                'identity_api_version': '3',
                'auth': self.auth(user.name),
            }
            for user in USERS
        }

    def environment(self, user: str = 'demo') -> dict[str, str]:
        """Tell the variables that make a client talk to this cloud.

        :param user: the name of one of :data:`USERS`.
        """
        return {
            'OS_CLIENT_CONFIG_FILE': str(self.clouds_yaml),
            'OS_CLOUD': user,
            'NO_PROXY': '127.0.0.1,localhost',
            'no_proxy': '127.0.0.1,localhost',
        }

    def running(self) -> bool:
        """Tell whether all servers run."""
        return all(self._pid(name) for name in self.options.servers)

    def start(self, *, tied: bool = False) -> None:
        """Start the servers; the first time, make the cloud.

        :param tied: whether they end when this process does, however it
            ends; for this it must be called in the main thread.
        :raises CloudFailed: naming the log, if one does not come up.
        """
        if self.running():
            return
        for left in reversed(range(_TRIES)):
            try:
                self._start(tied=tied)
            except CloudFailed:
                if not left or 'Address already in use' not in self.tail():
                    raise
            else:
                break

    def _start(self, *, tied: bool) -> None:
        self.stop()
        self._settle()
        try:
            # Databases and keys are made or mended unless they are as the
            # last run left them.
            made = self.directory / 'made.json'
            wanted = json.dumps(
                [self.state, cloud_server.versions(self.options)]
            )
            fresh = not made.exists() or made.read_text() != wanted
            for name in self.options.servers:
                self._serve(name, tied=tied, make=fresh)
            self._await('keystone', '/v3')
            if fresh:
                cloud_accounts.provide(
                    self.auth('admin'),
                    self.image_urls,
                    {
                        cloud_extras.TYPES[name]: self._url(name)
                        for name in self.options.extras
                    },
                    dict(self.options.limits),
                )
            for name in self.options.glances:
                self._await(name, '/versions')
            for name in self.options.extras:
                self._await(name, '/')
            _write_private(made, wanted)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the servers, by their process ids.

        :raises CloudFailed: if one of them does not end.
        """
        ending = {}
        for name in reversed(self.options.servers):
            pid = self._pid(name)
            if pid:
                os.kill(pid, signal.SIGTERM)
                ending[name] = pid
        for name, pid in ending.items():
            if not _wait(lambda pid=pid: _gone(pid), STOP_TIMEOUT):
                # Each of them leads a process group of its own.
                os.killpg(pid, signal.SIGKILL)
                if not _wait(lambda pid=pid: _gone(pid), STOP_TIMEOUT):
                    raise CloudFailed(f'{name} (process {pid}) does not end')
        for name in self.options.servers:
            (self.directory / f'{name}.pid').unlink(missing_ok=True)

    def put_servers(self, *servers: Mapping[str, str]) -> None:
        """Have these servers, and no other.

        :param servers: each has ``id``, ``name``, ``tenant_id`` and, if it
            does not boot from a volume, ``image``. Administrators see
            ``kernel_id`` and ``ramdisk_id``, too.
        """
        path = self.directory / 'servers.json'
        path.write_text(json.dumps(servers))

    def remove_images(self) -> None:
        """Remove every image of every project, protected or not; and servers.

        By the database, for Glance takes a tenth of a second for each.
        """
        self.put_servers()
        for name in self.options.glances:
            path = self.directory / f'{name}.db'
            with (
                contextlib.closing(
                    sqlite3.connect(path, timeout=STOP_TIMEOUT)
                ) as database,
                database,
            ):
                database.execute('BEGIN IMMEDIATE')
                for table in _TABLES:
                    database.execute(f'DELETE FROM {table}')
            for data in cloud_server.images(self.directory, name).glob('*/*'):
                data.unlink(missing_ok=True)

    def tail(self, size: int = 4000) -> str:
        """The ends of the logs, for a message about a failure."""
        return '\n'.join(
            f'--- {log}\n{log.read_text(errors="replace")[-size:]}'
            for log in sorted(self.logs.glob('*.log'))
        )

    def _settle(self) -> None:
        """Choose ports, those of the last time if they are free."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.logs.mkdir(exist_ok=True)
        try:
            state = self.state
        except FileNotFoundError:
            state = {'password': secrets.token_hex(16)}
        state['options'] = json.dumps(dataclasses.asdict(self.options))
        for name in self.options.servers:
            state[name] = str(_free_port(int(state.get(name, 0))))
        _write_private(self._state_file, json.dumps(state))
        cloud_server.write(self.directory, state, self.options)
        # Every JSON document is a YAML document.
        _write_private(
            self.clouds_yaml,
            json.dumps({'clouds': self.clouds()}, indent=2) + '\n',
        )
        self.openrc.write_text(
            _OPENRC.format(
                user=USERS[0].name,
                others=', '.join(user.name for user in USERS[1:]),
                directory=self.directory,
                bin=pathlib.Path(sys.executable).parent,
            )
        )

    def _environ(self, name: str) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith('OS_') and 'proxy' not in name.lower()
        }
        return {
            **kept,
            'OS_KEYSTONE_CONFIG_DIR': str(self.directory / 'keystone'),
            'OS_GLANCE_CONFIG_DIR': str(self.directory / name),
            'PYTHONWARNINGS': 'ignore',
            # Programs that Glance starts: to uWSGI, sys.executable is the
            # interpreter without its virtual environment.
            'PYTHONPATH': os.pathsep.join(filter(None, sys.path)),
            # Barbican looks nowhere else for its configuration.
            **(
                {'HOME': str(self.directory / name)}
                if name == 'barbican'
                else {}
            ),
        }

    def _serve(self, name: str, *, tied: bool, make: bool) -> None:
        command = [*_SERVER, name, str(self.directory)]
        if tied:
            command += ['--tied', str(os.getpid())]
        if make:
            command += ['--make']
        with open(self.logs / f'{name}.log', 'ab') as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environ(name),
                start_new_session=True,
            )
        (self.directory / f'{name}.pid').write_text(
            f'{process.pid} {_born(process.pid)}'
        )
        # It goes on when this object is gone; stop() goes by the id.
        process.returncode = 0

    def _pid(self, name: str) -> int | None:
        """The process id of a server; None if it does not run."""
        try:
            text = (self.directory / f'{name}.pid').read_text()
        except FileNotFoundError:
            return None
        pid, born = text.split()
        # The number may be another process's by now.
        return int(pid) if _born(int(pid)) == born else None

    def _await(self, name: str, path: str) -> None:
        def ready() -> bool:
            if not self._pid(name):
                raise CloudFailed(f'{name} ended: see {log}')
            return _answers(port, path)

        log = self.logs / f'{name}.log'
        port = int(self.state[name])
        if not _wait(ready, START_TIMEOUT):
            raise CloudFailed(f'{name} does not answer: see {log}')


def _write_private(path: pathlib.Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def _free_port(wish: int) -> int:
    for port in (wish, 0):
        with socket.socket() as listener, contextlib.suppress(OSError):
            # As servers do: a connection of the last run may linger.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(('127.0.0.1', port))
            return listener.getsockname()[1]
    raise CloudFailed('there is no free port on the loopback interface')


def _born(pid: int) -> str | None:
    """When a process was started, in a unit that only compares; proc(5)."""
    try:
        text = pathlib.Path(f'/proc/{pid}/stat').read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(')')[2].split()
    return None if fields[0] == 'Z' else fields[19]


def _gone(pid: int) -> bool:
    # One that this process did not start is for others to wait for.
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    return _born(pid) is None


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=5)
    try:
        connection.request('GET', path)
        return connection.getresponse().status < 400
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def run(directory: pathlib.Path | None, command: list[str]) -> int:
    """Run a command with a cloud in its environment.

    :param directory: the cloud's; a new one if None, kept if anything fails.
    :param command: the program and its arguments.
    :returns: its exit status.
    """
    temporary = directory is None
    cloud = Cloud(directory or pathlib.Path(tempfile.mkdtemp(prefix='cloud-')))
    status = 1
    try:
        cloud.start(tied=True)
        status = subprocess.run(
            command, env={**os.environ, **cloud.environment()}, check=False
        ).returncode
    finally:
        cloud.stop()
        if temporary and not status:
            shutil.rmtree(cloud.directory)
        elif temporary:
            print(f'The logs are in {cloud.logs}', file=sys.stderr)
    return status


def main() -> int:
    """Start, stop, or lend a cloud."""
    parser = argparse.ArgumentParser(prog='python -m amiclient.tests.cloud')
    actions = parser.add_subparsers(dest='action', required=True)
    for name in ('start', 'stop', 'run'):
        action = actions.add_parser(name)
        action.add_argument(
            'directory',
            type=pathlib.Path,
            nargs='?' if name == 'run' else None,
        )
        if name == 'start':
            action.add_argument('--regions', type=int, choices=(1, 2, 3))
    # argparse would take the command's first word for the directory.
    words, command = sys.argv[1:], []
    if '--' in words:
        split = words.index('--')
        words, command = words[:split], words[split + 1 :]
    arguments = parser.parse_args(words)
    if arguments.action == 'run':
        if not command:
            parser.error('there is no command after --')
        return run(arguments.directory, command)
    options = None
    if arguments.action == 'start' and arguments.regions:
        options = Options(regions=arguments.regions)
    cloud = Cloud(arguments.directory, options)
    try:
        if arguments.action == 'start':
            cloud.start()
            print(cloud.openrc)
        else:
            cloud.stop()
    except CloudFailed as error:
        print(error, file=sys.stderr)
        return 1
    return 0
