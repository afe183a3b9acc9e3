# SPDX-License-Identifier: Apache-2.0

"""Tests that drive the ``openstack`` command against the embedded cloud."""

from collections.abc import Sequence
import dataclasses
import json
import re
import subprocess
import sys
from typing import Any

import fixtures
from testtools import content

from amiclient.tests import base
from amiclient.tests.cloud import cloud
from amiclient.tests.cloud import fixture
from amiclient.tests.cloud import forkserver as openstack_server
from amiclient.tests.cloud import shell as openstack_shell
from amiclient.tests import schema

#: `python -m openstackclient.shell` is the command, without its path.
COMMAND = (sys.executable, '-W', 'ignore', '-m', 'openstackclient.shell')

Finished = openstack_shell.Finished

SLOW, slow = base.SLOW, base.slow

#: A cloud with all that most clouds do not have; one, for it starts slowly.
WITH_ALL = cloud.Options(barbican=True, ironic=True, read_only=True)


class TestCase(base.TestCase):
    """A test that has a cloud, and a member of a project of it.

    ``self.cloud`` is an :class:`amiclient.tests.cloud.cloud.Cloud`,
    ``self.embedded`` the fixture it comes from.
    """

    #: Whose cloud in clouds.yaml commands use unless they are told another.
    user = 'demo'

    #: What the cloud has; each set of options is a cloud of its own.
    options = cloud.Options()

    def setUp(self) -> None:
        super().setUp()
        self.embedded = self.useFixture(fixture.EmbeddedCloud(self.options))
        self.cloud = self.embedded.cloud
        for name, value in self.cloud.environment(self.user).items():
            self.useFixture(fixtures.EnvironmentVariable(name, value))
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
        """Run ``openstack`` in this process, whatever comes of it.

        :returns: what is left; but for checks saying that something is sound.
        """
        # There is none where all answers of the cloud are canned.
        embedded = getattr(self, 'embedded', None)
        finished = openstack_shell.run(
            self._argv(arguments, user), tokens=embedded and embedded.tokens
        )
        schema.check([str(word) for word in arguments], finished.stdout)
        said = re.sub('(?m)^.* is sound\n', '', finished.stderr)
        return dataclasses.replace(finished, stderr=said)

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
