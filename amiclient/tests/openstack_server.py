# SPDX-License-Identifier: Apache-2.0

"""An ``openstack`` command that does not import everything each time.

Most of the second that ``openstack`` takes goes into imports. Pages of the
documentation call it a few hundred times, so the tests of these have a process
that has imported all of it, and that forks itself for each call. What is
called is the command's own entry point, with arguments, environment, folder
and files of the caller.
"""

import json
import logging
import os
import pathlib
import select
import signal
import socket
import subprocess
import sys
import time

_CLIENT = """\
#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    call = json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()])
    socket.send_fds(server, [b'.'], [0, 1, 2])
    server.sendall(call.encode())
    server.shutdown(socket.SHUT_WR)
    answer = server.recv(1)
sys.exit(answer[0] if answer else 255)
"""


class Server:
    """The process that forks.

    :param folder: gets its socket, and ``openstack``.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        address = folder / 'socket'
        command = folder / 'openstack'
        command.write_text(
            _CLIENT.format(python=sys.executable, address=str(address))
        )
        command.chmod(0o755)
        self._process = subprocess.Popen(
            [sys.executable, '-W', 'ignore', '-m', __name__, address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, 'LC_ALL': 'C.UTF-8'},
        )
        assert self._process.stdout
        if not self._process.stdout.readline():
            raise RuntimeError(f'{__name__} does not start')

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def _call(connection: socket.socket) -> int:
    """Do what a client asks for, in the process of its own that this is."""
    _, files, _, _ = socket.recv_fds(connection, 1, 3)
    with connection.makefile() as stream:
        arguments, environment, folder = json.load(stream)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    os.chdir(folder)
    sys.argv = ['openstack', *arguments]
    from openstackclient import shell

    try:
        return shell.main(arguments)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _serve(listener: socket.socket) -> None:
    from openstackclient import shell

    # Have all imported that a command imports, and its output thrown away.
    output = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        shell.main(['ami', 'list', '--help'])
    except SystemExit:
        sys.stdout.flush()
    # The shell adds its own to these each time that it begins.
    logging.getLogger().handlers.clear()
    os.dup2(output, 1)
    os.write(output, b'ready\n')
    os.close(output)
    # Children are nobody's to wait for.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        ready, _, _ = select.select([listener, 0], [], [])
        if 0 in ready:
            # Whoever started this closed it, or is no more.
            return
        connection, _ = listener.accept()
        if os.fork():
            connection.close()
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        listener.close()
        status = 255
        try:
            status = _call(connection)
        finally:
            connection.sendall(bytes([status & 255]))
            os._exit(status)


if __name__ == '__main__':
    with socket.socket(socket.AF_UNIX) as socket_:
        socket_.bind(sys.argv[1])
        socket_.listen()
        _serve(socket_)
