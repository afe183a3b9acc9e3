# SPDX-License-Identifier: Apache-2.0

"""``openstack`` in this process, without what it does anew each time.

A command that is a process of its own finds its plugins, reads its settings
and logs in. Tests run some thousand commands in one process: what is the same
for all of them is done once. What commands of this package do is not touched.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import functools
import io
import logging
from typing import Any
from unittest import mock

from cliff import commandmanager
from keystoneauth1 import access
from keystoneauth1.identity import base as identity
from keystoneauth1.identity import generic
from openstack.config import loader
from openstackclient import shell
import os_service_types
from osc_lib import clientmanager
import yaml


@dataclasses.dataclass(frozen=True)
class Finished:
    """What a command left behind."""

    status: int
    stdout: str
    stderr: str


def run(argv: Sequence[str], *, tokens: 'Tokens | None' = None) -> Finished:
    """Run a command, whatever comes of it.

    :param argv: what comes after ``openstack``.
    :param tokens: those that need not be asked for again.
    """
    _forget_clients()
    stdout, stderr = _Stream(), _Stream()
    with (
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
        _logging_kept(),
        quickly(),
        tokens.used() if tokens else contextlib.nullcontext(),
    ):
        app = shell.OpenStackShell()
        try:
            status = app.run(list(argv))
        except SystemExit as error:
            # argparse leaves this way, for --help and for errors.
            status = 2 if isinstance(error.code, str) else error.code
        finally:
            _hang_up(app)
    return Finished(status or 0, stdout.getvalue(), stderr.getvalue())


class Tokens:
    """Tokens of users that have logged in at one Keystone.

    :param auth_url: where that is; at others, each command logs in.
    """

    def __init__(self, auth_url: str) -> None:
        self._auth_url = auth_url
        self._known: dict[str, access.AccessInfo] = {}

    def forget(self) -> None:
        """Have users log in again, for the catalog of services has changed."""
        self._known.clear()

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Have them used, instead of others that would be as good."""
        log_in = generic.password.Password.get_auth_ref
        forget = identity.BaseIdentityPlugin.invalidate

        def get_auth_ref(
            plugin: generic.password.Password, session: Any
        ) -> access.AccessInfo:
            if plugin.auth_url != self._auth_url:
                return log_in(plugin, session)
            key = plugin.get_cache_id() or ''
            if key not in self._known:
                self._known[key] = log_in(plugin, session)
            return self._known[key]

        def invalidate(plugin: identity.BaseIdentityPlugin) -> bool:
            self.forget()
            return forget(plugin)

        with (
            _patch(generic.password.Password, 'get_auth_ref', get_auth_ref),
            _patch(identity.BaseIdentityPlugin, 'invalidate', invalidate),
        ):
            yield


class _Stream(io.TextIOWrapper):
    """What a command takes for a pipe: it has a buffer, and is no terminal."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding='utf-8', write_through=True)

    def getvalue(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode()  # type: ignore[attr-defined]


def _hang_up(app: shell.OpenStackShell) -> None:
    """Close connections, as a process does when it ends.

    Each would hold one of the servers' threads for a minute.
    """
    manager = getattr(app, 'client_manager', None)
    for holder in (manager, getattr(manager, 'sdk_connection', None)):
        session = getattr(holder, 'session', None)
        if session is not None:
            session.session.close()


def _forget_clients() -> None:
    """Let the shell begin as a new process would.

    It keeps clients with the class, where they outlive it and would answer
    for the user of the first command.
    """
    for value in vars(clientmanager.ClientManager).values():
        if isinstance(value, clientmanager.ClientCache):
            value._handle = None


@contextlib.contextmanager
def _logging_kept() -> Iterator[None]:
    """Undo what the shell does to logging.

    It adds handlers, for the stderr of the moment, to the root logger.
    """
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@contextlib.contextmanager
def quickly() -> Iterator[None]:
    """Have done once what all commands do alike."""
    with (
        _patch(commandmanager.CommandManager, 'load_commands', _add_commands),
        _patch(loader.yaml, 'safe_load', _read_yaml),
        _patch(logging.Logger, 'setLevel', _set_level),
        _patch(
            os_service_types.ServiceTypes,
            'all_types_by_service_type',
            property(_all_types),
        ),
    ):
        yield


def _patch(
    owner: Any, name: str, new: Any
) -> contextlib.AbstractContextManager:
    return mock.patch.object(owner, name, new)


_load_commands = commandmanager.CommandManager.load_commands
_set_any_level: Callable[[logging.Logger, Any], None] = logging.Logger.setLevel


def _add_commands(self: commandmanager.CommandManager, namespace: str) -> None:
    self.group_list.append(namespace)
    self.commands.update(_commands(namespace))


@functools.cache
def _commands(namespace: str) -> dict[str, Any]:
    """Find the commands of a group among all that is installed."""
    manager = commandmanager.CommandManager('')
    _load_commands(manager, namespace)
    return manager.commands


def _read_yaml(stream: Any) -> Any:
    # The same, as far as it is written in C.
    return yaml.load(stream, getattr(yaml, 'CSafeLoader', yaml.SafeLoader))


def _set_level(self: logging.Logger, level: Any) -> None:
    # Each change makes all loggers forget what they have found out.
    if level != self.level:
        _set_any_level(self, level)


def _all_types(self: os_service_types.ServiceTypes) -> Any:
    # Nobody changes it, so nobody needs a copy.
    return self._service_types_data['all_types_by_service_type']
