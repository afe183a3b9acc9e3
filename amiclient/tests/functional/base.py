# SPDX-License-Identifier: Apache-2.0

"""Tests that drive the ``openstack`` command against the embedded cloud."""

from collections.abc import Sequence
import contextlib
import dataclasses
import io
import json
import logging
import subprocess
import sys
from typing import Any

import fixtures as fixtures_
from openstackclient import shell
from osc_lib import clientmanager
from testtools import content

from amiclient.tests import base
from amiclient.tests import fixtures
from amiclient.tests import openstack_server

#: `python -m openstackclient.shell` is the command, without its path.
COMMAND = (sys.executable, '-W', 'ignore', '-m', 'openstackclient.shell')


@dataclasses.dataclass(frozen=True)
class Finished:
    """What a command left behind."""

    status: int
    stdout: str
    stderr: str


class TestCase(base.TestCase):
    """A test that has a cloud, and a member of a project of it.

    ``self.cloud`` is an :class:`amiclient.tests.cloud.Cloud`,
    ``self.embedded`` the fixture it comes from.
    """

    #: Whose cloud in clouds.yaml commands use unless they are told another.
    user = 'demo'

    def setUp(self) -> None:
        super().setUp()
        self.embedded = self.useFixture(fixtures.EmbeddedCloud())
        self.cloud = self.embedded.cloud
        for name, value in self.cloud.environment(self.user).items():
            self.useFixture(fixtures_.EnvironmentVariable(name, value))
        self.addOnException(self._on_failure)

    def _on_failure(self, exc_info: Any) -> None:
        self.embedded.keep_logs()
        self.addDetail('cloud', content.text_content(self.cloud.tail()))

    def openstack(
        self,
        *arguments: object,
        user: str | None = None,
        status: int = 0,
        stderr: str | None = '',
    ) -> str:
        """Run ``openstack`` in this process.

        :param arguments: its arguments.
        :param user: whose cloud to use, instead of the test's.
        :param status: the exit status that is expected.
        :param stderr: what is expected there; None to leave that to
            :meth:`run_openstack`'s callers.
        :returns: what it wrote on stdout.
        """
        finished = self.run_openstack(*arguments, user=user)
        self.addDetail('stderr', content.text_content(finished.stderr))
        self.assertEqual(status, finished.status, finished)
        if stderr is not None:
            self.assertEqual(stderr, finished.stderr)
        return finished.stdout

    def openstack_json(self, *arguments: object, **options: Any) -> Any:
        """Run ``openstack ... -f json`` and read what it wrote.

        Options are those of :meth:`openstack`.
        """
        return json.loads(self.openstack(*arguments, '-f', 'json', **options))

    def run_openstack(
        self, *arguments: object, user: str | None = None
    ) -> Finished:
        """Run ``openstack`` in this process, whatever comes of it."""
        argv = self._argv(arguments, user)
        _forget_clients()
        stdout, stderr = _Stream(), _Stream()
        with (
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
            _logging_kept(),
        ):
            app = shell.OpenStackShell()
            try:
                status = app.run(argv)
            except SystemExit as error:
                # argparse leaves this way, for --help and for errors.
                status = 2 if isinstance(error.code, str) else error.code
            finally:
                _hang_up(app)
        return Finished(status or 0, stdout.getvalue(), stderr.getvalue())

    def spawn_openstack(
        self, *arguments: object, user: str | None = None
    ) -> Finished:
        """Run ``openstack`` as a process of its own."""
        process = self.start_openstack(*arguments, user=user)
        stdout, stderr = process.communicate()
        return Finished(process.wait(), stdout, stderr)

    def finished(self, command: Sequence[object]) -> Finished:
        """Run a command, whatever comes of it."""
        result = subprocess.run(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        return Finished(result.returncode, result.stdout, result.stderr)

    def start_openstack(
        self, *arguments: object, user: str | None = None
    ) -> openstack_server.Forked:
        """Start ``openstack`` as a process of its own, in its own group.

        It is killed at the end of the test if it still runs.
        """
        server = openstack_server.shared()
        process = server.start(*self._argv(arguments, user))
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def _argv(
        self, arguments: tuple[object, ...], user: str | None
    ) -> list[str]:
        options = ['--os-cloud', user] if user else []
        return options + [str(word) for word in arguments]


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
    """Let the shell log in as a new process would.

    It keeps clients with the class, where they outlive it and would answer
    for the user of the first command.
    """
    for value in vars(clientmanager.ClientManager).values():
        if isinstance(value, clientmanager.ClientCache):
            value._handle = None


@contextlib.contextmanager
def _logging_kept():
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
