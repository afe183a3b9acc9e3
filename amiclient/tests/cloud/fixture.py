# SPDX-License-Identifier: Apache-2.0

"""The embedded cloud as a fixture."""

import atexit
import fcntl
import os
import pathlib
import shutil
import sys
import tempfile

import fixtures

from amiclient.tests.cloud.cloud import Cloud
from amiclient.tests.cloud.cloud import CloudFailed
from amiclient.tests.cloud.cloud import Options
from amiclient.tests.cloud import shell as openstack_shell

#: Names the directory of a cloud that runs already, to be used instead of one
#: that is made for the run: handy while writing a test.
VARIABLE = 'AMICLIENT_TEST_CLOUD'


class _Shared:
    """The one cloud of its kind in this process, started when asked for."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.cloud: Cloud | None = None
        self.tokens: openstack_shell.Tokens | None = None
        self.failed = False

    def get(self) -> Cloud:
        if self.cloud is None:
            lent = os.environ.get(VARIABLE)
            if lent and self._options == Options():
                self._wait_for_turn(pathlib.Path(lent))
                self.cloud = Cloud(pathlib.Path(lent))
                return self.cloud
            directory = pathlib.Path(
                tempfile.mkdtemp(prefix='amiclient-cloud-')
            )
            cloud = Cloud(directory, self._options)
            try:
                # Nobody else would end it if this process were killed.
                cloud.start(tied=True)
            except CloudFailed as error:
                raise CloudFailed(f'{error}\n{cloud.tail()}') from None
            atexit.register(self._end)
            self.cloud = cloud
        return self.cloud

    def _wait_for_turn(self, directory: pathlib.Path) -> None:
        """Let one process at a time have a cloud: tests remove all images.

        What is locked is so until this process ends.
        """
        self._lock = (directory / 'tests.lock').open('w')
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def _end(self) -> None:
        if self.cloud is None:
            return
        self.cloud.stop()
        if self.failed:
            # Images are large and known; what was logged is not.
            shutil.rmtree(self.cloud.store, ignore_errors=True)
            print(f'The logs are in {self.cloud.logs}', file=sys.stderr)
        else:
            shutil.rmtree(self.cloud.directory, ignore_errors=True)


_shared: dict[Options, _Shared] = {}


class EmbeddedCloud(fixtures.Fixture):
    """A cloud that is started once in a process, and without images.

    After the test, images that it left behind are removed.

    ``tokens`` are those of users that have logged in before.

    :param options: what it has, if that is not the usual: there is one cloud
        for each such set.
    """

    cloud: Cloud
    tokens: openstack_shell.Tokens

    def __init__(self, options: Options | None = None) -> None:
        options = options or Options()
        self._shared = _shared.setdefault(options, _Shared(options))

    def _setUp(self) -> None:
        self.cloud = self._shared.get()
        if self._shared.tokens is None:
            self._shared.tokens = openstack_shell.Tokens(self.cloud.auth_url)
        self.tokens = self._shared.tokens
        self.addCleanup(self.remove_images)

    def keep_logs(self) -> None:
        """Say that something failed, and that the logs may tell why."""
        self._shared.failed = True

    def connection(self, user: str = 'demo', region: str = 'RegionOne'):
        """Connect to the cloud.

        :param user: the name of one of the cloud's users.
        :param region: the name of one of the cloud's regions.
        :returns: an :class:`openstack.connection.Connection`; it is closed
            with the fixture.
        """
        import openstack

        with openstack_shell.quickly(), self.tokens.used():
            connection = openstack.connect(
                load_yaml_config=False,
                load_envvars=False,
                region_name=region,
                auth=self.cloud.auth(user),
            )
            connection.session.get_token()
        self.addCleanup(_hang_up, connection)
        return connection

    def remove_images(self) -> None:
        """Remove every image of every project, protected or not.

        Glance would take a tenth of a second for each.
        """
        self.cloud.remove_images()


def _hang_up(connection) -> None:
    """Close a connection, and those to the servers with it.

    Each of these holds one of the servers' threads for a minute, and the SDK
    closes none: once all threads are held, everything stands still.
    """
    connection.close()
    connection.session.session.close()
