# SPDX-License-Identifier: Apache-2.0

"""Commands that are held where a test wants them.

A test that has to do something while a command is at work must not have to be
quick: the command waits, in one of these ways, until the test goes on.
"""

import contextlib
import json
import os
import pathlib
import time

import fixtures

from amiclient.tests.cloud import cloud
from amiclient.tests.cloud import forkserver as openstack_server
from amiclient.tests.faults import actions as faults_actions
from amiclient.tests.faults import proxy as faults

#: Seconds after which what should have happened has not.
LATE = 120

_ENDLESS = """\
#!/bin/sh
exec sleep {seconds}
"""

#: A command runs it before anything else. It stops its process when that
#: opens a file after it has made one whose name begins as it should.
_STOPPING = """\
import os, signal, sys

todo = [True]

def hook(event, arguments, directory={directory!r}, start={start!r}):
    if event == 'open' and todo:
        try:
            names = os.listdir(directory)
        except PermissionError:
            # A thread that is confined.
            return
        if any(name.startswith(start) for name in names):
            todo.clear()
            os.kill(os.getpid(), signal.SIGSTOP)

sys.addaudithook(hook)
"""


class Endless(fixtures.Fixture):
    """A program that does not come to its end, unless it is killed.

    :param name: what it is called; the real one is hidden as long as this is
        in use.
    :param place: a directory where it may put things.
    """

    def __init__(self, name: str, place: pathlib.Path) -> None:
        super().__init__()
        self._name = name
        self._place = str(place)

    def _setUp(self) -> None:
        made = self.useFixture(fixtures.TempDir(self._place))
        directory = pathlib.Path(made.path)
        # Whatever is confined can make no mark but this.
        self._seconds = f'3600.{time.time_ns()}'
        program = directory / self._name
        program.write_text(_ENDLESS.format(seconds=self._seconds))
        program.chmod(0o755)
        path = f'{directory}{os.pathsep}{os.environ["PATH"]}'
        self.useFixture(fixtures.EnvironmentVariable('PATH', path))

    def wait(self, process: openstack_server.Forked) -> None:
        """Wait until somebody runs it.

        :param process: what is to have it run.
        """
        end = time.monotonic() + LATE
        while not self._runs():
            if process.poll() is not None:
                raise AssertionError(process.communicate())
            if time.monotonic() > end:
                raise AssertionError(f'nobody has run {self._name}')
            time.sleep(0.02)

    def _runs(self) -> bool:
        wanted = f'sleep\0{self._seconds}\0'.encode()
        for path in pathlib.Path('/proc').glob('[0-9]*/cmdline'):
            # It may end meanwhile.
            with contextlib.suppress(OSError):
                if path.read_bytes() == wanted:
                    return True
        return False


class Stopping(fixtures.Fixture):
    """Has commands stop themselves in the middle of writing a file.

    Those that are started while it is in use stop once: where they open
    anything after that file is there.

    :param directory: where the file is to be.
    :param start: of its name.
    :param place: a directory where it may put things.
    """

    def __init__(
        self, directory: pathlib.Path, start: str, place: pathlib.Path
    ) -> None:
        super().__init__()
        self._text = _STOPPING.format(directory=str(directory), start=start)
        self._place = str(place)

    def _setUp(self) -> None:
        made = self.useFixture(fixtures.TempDir(self._place))
        directory = pathlib.Path(made.path)
        path = directory / 'prelude.py'
        path.write_text(self._text)
        self.useFixture(
            fixtures.EnvironmentVariable(openstack_server.PRELUDE, str(path))
        )

    @staticmethod
    def wait(process: openstack_server.Forked) -> None:
        """Wait until a process of them has stopped itself."""
        end = time.monotonic() + LATE
        while _state(process.pid) != 'T':
            if process.poll() is not None:
                raise AssertionError(process.communicate())
            if time.monotonic() > end:
                raise AssertionError('it never stopped')
            time.sleep(0.02)


def _state(pid: int) -> str:
    """Tell the state of a process in a letter; proc(5)."""
    try:
        text = pathlib.Path(f'/proc/{pid}/stat').read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ''
    # The name may have any character in it.
    return text.rpartition(')')[2].split()[0]


class Way(fixtures.Fixture):
    """A way to Glance on which requests are held.

    It is that of commands that are run while this is in use. ``proxy`` is
    what they talk to.

    :param place: a directory where it may put things.
    """

    def __init__(self, to: cloud.Cloud, place: pathlib.Path) -> None:
        super().__init__()
        self._cloud = to
        self._place = str(place)

    def _setUp(self) -> None:
        self.proxy = self.useFixture(faults.Proxy(self._cloud.image_url))
        clouds = json.loads(self._cloud.clouds_yaml.read_text())
        place = {'image_endpoint_override': self.proxy.url}
        for one in clouds['clouds'].values():
            one.update(place)
        made = self.useFixture(fixtures.TempDir(self._place))
        path = pathlib.Path(made.path, 'clouds.yaml')
        path.touch(mode=0o600)
        path.write_text(json.dumps(clouds))
        self.useFixture(
            fixtures.EnvironmentVariable('OS_CLIENT_CONFIG_FILE', str(path))
        )

    def hold(
        self,
        share: float | None,
        *,
        method: str = 'PUT',
        path: str = '/file$',
        but: tuple[pathlib.Path, ...] = (),
    ) -> faults_actions.Pause:
        """Have the next request wait: data, unless told otherwise.

        :param share: of its body, which the server has by then; None if it
            does not even know of the request.
        :param but: files whose data may pass before that.
        """
        for file in but:
            size = file.stat().st_size
            self.proxy.rule(
                lambda e: e.say(e.ask()), method=method, path=path,
                times=None, length=size,
            )  # fmt: skip
        pause = faults_actions.Pause(share)
        self.proxy.rule(pause, method=method, path=path)
        return pause
