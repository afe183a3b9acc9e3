# SPDX-License-Identifier: Apache-2.0

"""An ``openstack`` command that does not import everything each time.

Most of the second that ``openstack`` takes goes into imports. Tests call it
many hundred times as a process of its own, so they have a process that has
imported all of it, and that forks itself for each call. What is called is the
command's own entry point, with arguments, environment, directory and files of
the caller; it ends as any Python program does.
"""

import atexit
from collections.abc import Mapping
import functools
import gc
import importlib
import json
import logging
import os
import pathlib
import pkgutil
import runpy
import select
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import amiclient

#: Before fixtures have it elsewhere.
_DIRECTORY = tempfile.gettempdir()

#: A variable that names a file of Python, which a command runs first.
PRELUDE = 'AMICLIENT_TEST_PRELUDE'

_CLIENT = """\
#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    call = json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()])
    socket.send_fds(server, [b'.'], [0, 1, 2])
    server.sendall(call.encode())
    server.shutdown(socket.SHUT_WR)
    with server.makefile() as answer:
        answer.readline()
        status = answer.readline()
sys.exit(int(status.split()[0]) & 255 if status else 255)
"""


class Forked:
    """A command that runs, or has run; used as subprocess.Popen is.

    :ivar ended: when it ended, by time.monotonic().
    """

    def __init__(
        self,
        connection: socket.socket,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> None:
        self._connection = connection
        self._answer = connection.makefile('rb', buffering=0)
        self._pipes = [n for n in (stdout, stderr) if n is not None]
        self._said = dict.fromkeys(self._pipes, b'')
        self.pid = int(self._answer.readline())
        self.returncode: int | None = None
        self.ended = 0.0

    def poll(self) -> int | None:
        """Tell its status if it has ended: below 0 for a signal."""
        if self.returncode is None and _is_ready(self._connection, 0):
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        :raises subprocess.TimeoutExpired: if that does not come in time.
        """
        if self.returncode is None:
            if not _is_ready(self._connection, timeout):
                raise subprocess.TimeoutExpired('openstack', timeout or 0)
            status, ended = self._answer.readline().split()
            self.returncode, self.ended = int(status), float(ended)
            self._answer.close()
            self._connection.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end; tell what it wrote, if that is a pipe.

        :raises subprocess.TimeoutExpired: if that does not come in time.
        """
        end = None if timeout is None else time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            for number in self._pipes:
                selector.register(number, selectors.EVENT_READ)
            while selector.get_map():
                left = None if end is None else end - time.monotonic()
                ready = selector.select(left)
                if not ready:
                    raise subprocess.TimeoutExpired('openstack', timeout or 0)
                for key, _ in ready:
                    data = os.read(key.fd, 1 << 16)
                    self._said[key.fd] += data
                    if not data:
                        selector.unregister(key.fd)
                        self._pipes.remove(key.fd)
                        os.close(key.fd)
        self.wait(timeout)
        texts = [said.decode() for said in self._said.values()]
        stdout, stderr = texts or ('', '')
        return stdout, stderr

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, if it has not ended."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Have it end, if it has not ended."""
        self.send_signal(signal.SIGTERM)


def _is_ready(connection: socket.socket, timeout: float | None) -> bool:
    return bool(select.select([connection], [], [], timeout)[0])


class Server:
    """The process that forks.

    :param bare: whether a command has to load what is ours of it.
    """

    def __init__(self, *, bare: bool = False) -> None:
        self._directory = pathlib.Path(
            tempfile.mkdtemp(prefix='amiclient-os-', dir=_DIRECTORY)
        )
        self._address = str(self._directory / 'socket')
        self._process = subprocess.Popen(
            [sys.executable, '-W', 'ignore', '-m', __name__, self._address]
            + ['bare'] * bare,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={
                **os.environ,
                'LC_ALL': 'C.UTF-8',
                'PYTHONPATH': str(pathlib.Path(amiclient.__file__).parents[1]),
            },
            start_new_session=True,
        )
        assert self._process.stdout
        if not self._process.stdout.readline():
            raise RuntimeError(f'{__name__} does not start')

    def close(self) -> None:
        """End it."""
        self._process.communicate()
        shutil.rmtree(self._directory, ignore_errors=True)

    def install(self, directory: pathlib.Path) -> None:
        """Make an ``openstack`` that may be called from anywhere.

        :param directory: where.
        """
        command = directory / 'openstack'
        command.write_text(
            _CLIENT.format(python=sys.executable, address=self._address)
        )
        command.chmod(0o755)

    def start(
        self,
        *words: object,
        stdout: int | None = None,
        stderr: int | None = None,
        environment: Mapping[str, str] | None = None,
        cwd: pathlib.Path | None = None,
    ) -> Forked:
        """Start a command, with nothing on its stdin.

        :param words: what comes after ``openstack``.
        :param stdout: a descriptor of a file; None for a pipe.
        :param stderr: likewise.
        :param environment: its variables; None for those of this process.
        :param cwd: where it runs; None for where this process does.
        """
        call = (
            [str(word) for word in words],
            dict(os.environ if environment is None else environment),
            str(cwd or os.getcwd()),
        )
        pipes = [os.pipe() if n is None else None for n in (stdout, stderr)]
        null = os.open(os.devnull, os.O_RDWR)
        given = [
            pipe[1] if pipe else number
            for pipe, number in zip(pipes, (stdout, stderr), strict=True)
        ]
        server = socket.socket(socket.AF_UNIX)
        server.connect(self._address)
        socket.send_fds(server, [b'.'], [null, *given])  # type: ignore[list-item]
        server.sendall(json.dumps(call).encode())
        server.shutdown(socket.SHUT_WR)
        os.close(null)
        for pipe in pipes:
            if pipe:
                os.close(pipe[1])
        return Forked(server, *(pipe[0] if pipe else None for pipe in pipes))


@functools.cache
def shared(*, bare: bool = False) -> Server:
    """Start one that lasts as long as this process."""
    server = Server(bare=bare)
    atexit.register(server.close)
    return server


def _call(connection: socket.socket) -> int:
    """Do what a client asks for, in the process of its own that this is."""
    os.setsid()
    _, files, _, _ = socket.recv_fds(connection, 1, 3)
    with connection.makefile() as stream:
        arguments, environment, directory = json.load(stream)
    connection.close()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    prelude = environment.pop(PRELUDE, '')
    os.environ.clear()
    os.environ.update(environment)
    # Found out while things were imported, by another TMPDIR.
    tempfile.tempdir = None
    time.tzset()
    os.chdir(directory)
    sys.argv = ['openstack', *arguments]
    if prelude:
        runpy.run_path(prelude)
    from openstackclient import shell

    from amiclient.tests.cloud import shell as openstack_shell

    with openstack_shell.quickly():
        try:
            status: int = shell.main(arguments)
        except SystemExit as error:
            # argparse leaves this way, for --help and for errors.
            if not isinstance(error.code, int):
                raise
            status = error.code
    # What a prelude does may be about how Python ends.
    return status if prelude else _end(status)


def _end(status: int) -> int:
    """End as Python does, but free no memory: each page would be copied."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            # Python has words for this, and a status.
            return status
    os._exit(status & 0xFF)


def _load(bare: bool) -> None:
    """Import what commands import, and what they load of other packages."""
    from openstackclient import shell

    from amiclient.tests.cloud import shell as openstack_shell

    before = set(sys.modules)
    for module in pkgutil.walk_packages(amiclient.__path__, 'amiclient.'):
        if not module.name.startswith('amiclient.tests'):
            importlib.import_module(module.name)
    # With its output thrown away.
    output = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        # What all commands do alike is known from then on.
        with openstack_shell.quickly():
            shell.main(['ami', 'list', '--help'])
    except SystemExit:
        sys.stdout.flush()
    # The shell adds its own to these each time that it begins.
    logging.getLogger().handlers.clear()
    os.dup2(output, 1)
    os.close(output)
    new = sorted(sys.modules.keys() - before, reverse=True)
    for name in new if bare else ():
        if name.startswith('amiclient.'):
            parent, _, child = name.rpartition('.')
            del sys.modules[name]
            vars(sys.modules[parent]).pop(child, None)
    # What children collect, they would copy.
    gc.collect()
    gc.freeze()


def _serve(listener: socket.socket) -> int:
    ended, wake = os.pipe()
    for number in (ended, wake):
        os.set_blocking(number, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, socket.socket] = {}
    print('ready', flush=True)
    while True:
        ready, _, _ = select.select([listener, ended, 0], [], [])
        if 0 in ready:
            # Whoever started this closed it, or is no more.
            return 0
        if ended in ready:
            os.read(ended, 1 << 10)
            _reap(running)
        if listener not in ready:
            continue
        connection, _ = listener.accept()
        child = os.fork()
        if child:
            running[child] = connection
            _tell(connection, f'{child}\n')
            continue
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for other in (listener, *running.values()):
            other.close()
        for number in (ended, wake):
            os.close(number)
        return _call(connection)


def _reap(running: dict[int, socket.socket]) -> None:
    """Tell who waits for them of processes that have ended."""
    while running:
        child, status = os.waitpid(-1, os.WNOHANG)
        if not child:
            return
        code = os.waitstatus_to_exitcode(status)
        with running.pop(child) as connection:
            _tell(connection, f'{code} {time.monotonic()}\n')


def _tell(connection: socket.socket, line: str) -> None:
    try:
        connection.sendall(line.encode())
    except OSError:
        # It did not wait.
        return


if __name__ == '__main__':
    with socket.socket(socket.AF_UNIX) as socket_:
        socket_.bind(sys.argv[1])
        socket_.listen()
        _load('bare' in sys.argv[2:])
        sys.exit(_serve(socket_))
