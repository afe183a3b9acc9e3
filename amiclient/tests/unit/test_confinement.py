# SPDX-License-Identifier: Apache-2.0

"""Programs open what their caller declares, and connect to nobody."""

import dataclasses
import itertools
import json
import logging
import os
import pathlib
import signal
import socket
import struct
import sys
import threading

import fixtures

from amiclient import confinement
from amiclient import errors
from amiclient import process
from amiclient.tests import base

#: Versions of Landlock: all that there are rules for.
_VERSIONS = range(1, 8)

#: Tries out calls, and tells the names of the errors.
_TRY = """
import errno, json, os, socket, sys
told = []
for line in sys.argv[1:]:
    try:
        eval(line)
    except OSError as error:
        told.append(errno.errorcode[error.errno])
    else:
        told.append('')
print(json.dumps(told))
"""

_FREE = confinement.Access()

_NO_SUCH_CALL = 0xFFFF

#: CAP_SYS_ADMIN, as a bit (capabilities(7)).
_ADMIN = 1 << 21


class ConfinedCase(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        if not confinement.version():
            self.skipTest('there is no Landlock here')
        self.directory = self.tmp()
        self.secret = self.directory / 'secret'
        self.secret.write_text('secret\n')

    def cat(self, *paths: object, **access: object) -> process.Result:
        return process.run(
            ['cat', *map(str, paths)],
            ok=range(256),
            access=confinement.Access(**access),
        )

    def tried(self, *calls: str, **access: object) -> list[str]:
        """Try out Python's calls; tell the names of their errors."""
        python = os.path.realpath(sys.executable)
        # Below /root, say, in a process that may do more than its user.
        if not os.access(python, os.X_OK):
            self.skipTest(f'this user cannot run {python}')
        directory = self.tmp()
        (directory / 'python').symlink_to(python)
        path = os.pathsep.join((str(directory), os.environ['PATH']))
        with fixtures.EnvironmentVariable('PATH', path):
            result = process.run(
                ['python', '-I', '-S', '-c', _TRY, *calls],
                access=confinement.Access(**access),
            )
        return list(json.loads(result.stdout))


class TestFiles(ConfinedCase):
    def test_nothing_but_what_is_declared(self) -> None:
        self.assertEqual('', self.cat(self.secret).text)
        self.assertIn('Permission denied', self.cat(self.secret).stderr)
        found = self.cat(self.secret, reads=(self.secret,))
        self.assertEqual('secret\n', found.text)
        other = self.directory / 'other'
        other.write_text('other')
        found = self.cat(self.secret, other, reads=(self.secret,))
        self.assertEqual('secret\n', found.text)

    def test_nothing_of_the_host(self) -> None:
        paths = (
            '/etc/passwd',
            '/etc/group',
            f'/proc/{os.getpid()}/environ',
            '/proc/mounts',
            pathlib.Path(__file__),
        )
        for path in paths:
            self.assertEqual('', self.cat(path).text, path)

    def test_by_a_link(self) -> None:
        link = self.directory / 'link'
        link.symlink_to(self.secret)
        self.assertEqual('secret\n', self.cat(link, reads=(link,)).text)
        # What a link in a directory leads to is not in it.
        inside = self.directory / 'inside'
        inside.mkdir()
        link.rename(inside / 'link')
        found = self.cat(inside / 'link', reads=(inside,))
        self.assertEqual('', found.text)

    def test_writing(self) -> None:
        made = self.directory / 'made'
        for access, error in (
            ({}, 'EACCES'),
            ({'reads': (self.secret,)}, 'EACCES'),
            ({'reads': (self.directory,)}, 'EACCES'),
            ({'writes': (self.secret,)}, ''),
            ({'writes': (self.directory,)}, ''),
        ):
            calls = (
                f"open({str(self.secret)!r}, 'a')",
                f'os.truncate({str(self.secret)!r}, 0)',
            )
            self.assertEqual([error] * 2, self.tried(*calls, **access))
        # What is not there is made, for its directory shall not be open.
        call = f"open({str(made)!r}, 'w')"
        self.assertEqual([''], self.tried(call, writes=(made,)))
        self.assertEqual(0o600, made.stat().st_mode & 0o7777)
        beside = f"open({str(made) + '2'!r}, 'w')"
        self.assertEqual(['EACCES'], self.tried(beside, writes=(made,)))

    def test_odd_umask(self) -> None:
        made = self.directory / 'made'
        os.umask(0o777)
        self.cat(writes=(made,))
        self.assertEqual(0o600, made.stat().st_mode & 0o7777)

    def test_what_cannot_be_made(self) -> None:
        error = self.tried(
            "open('/nowhere/made', 'w')", writes=('/nowhere/made',)
        )
        self.assertEqual(['ENOENT'], error)
        found = self.cat('/nowhere/in', reads=('/nowhere/in',))
        self.assertIn('No such file', found.stderr)

    def test_each_version_of_landlock(self) -> None:
        newest = confinement.version()
        for version in _VERSIONS[:newest]:
            self.patch(confinement, 'version', lambda found=version: found)
            self.assertEqual('', self.cat(self.secret).text)
            found = self.cat(self.secret, reads=(self.secret,))
            self.assertEqual('secret\n', found.text)
            (error,) = self.tried(
                f"open({str(self.secret)!r}, 'a')", reads=(self.secret,)
            )
            self.assertEqual('EACCES', error)

    def test_descriptors_instead_of_paths(self) -> None:
        """Where a path leads through our own process, it is handed on."""
        descriptor = os.open(self.directory, os.O_RDONLY)
        self.addCleanup(os.close, descriptor)
        path = f'/proc/{os.getpid()}/fd/{descriptor}/secret'
        self.assertEqual('', self.cat(path).text)
        self.assertEqual('secret\n', self.cat(path, reads=(path,)).text)
        found = process.run(
            ['cat', 'secret'],
            cwd=pathlib.Path(path).parent,
            access=confinement.Access(reads=(self.secret,)),
        )
        self.assertEqual('secret\n', found.text)

    def test_mounts(self) -> None:
        environment = f'/proc/{os.getpid()}/environ'
        found = self.cat('/proc/mounts', environment, mounts=True)
        self.assertIn(' / ', found.text)
        self.assertNotIn('PATH=', found.text)

    def test_a_program_from_elsewhere(self) -> None:
        own = self.directory / 'bin' / 'own'
        own.parent.mkdir()
        own.write_text('#!/bin/sh\nread -r word < "$1" && echo "$word"\n')
        own.chmod(0o755)
        path = os.pathsep.join((str(own.parent), os.environ['PATH']))
        self.useFixture(fixtures.EnvironmentVariable('PATH', path))
        access = confinement.Access(reads=(self.secret,))
        found = process.run(['own', self.secret], access=access)
        self.assertEqual('secret\n', found.text)

    def test_no_passwords(self) -> None:
        for name in ('OS_PASSWORD', 'KEPT'):
            self.useFixture(fixtures.EnvironmentVariable(name, 'word'))
        found = process.run(['env'], access=_FREE).text
        self.assertIn('KEPT=word', found)
        self.assertNotIn('OS_PASSWORD', found)

    def test_no_rights_of_root(self) -> None:
        status = self.cat('/proc/self/status', mounts=True).text
        told = dict(line.split(':\t', 1) for line in status.splitlines())
        self.assertEqual('1', told['NoNewPrivs'])
        if not os.geteuid():
            self.assertEqual(0, int(told['CapEff'], 16) & ~0x100000F)

    def test_this_process_stays_free(self) -> None:
        self.cat(self.secret)
        self.assertTrue(self.secret.read_text())
        self.assertTrue(pathlib.Path('/etc/passwd').read_text())
        status = pathlib.Path('/proc/thread-self/status').read_text()
        self.assertIn('NoNewPrivs:\t0', status)
        socket.socket(socket.AF_INET).close()
        names = [thread.name for thread in threading.enumerate()]
        self.assertEqual([], [n for n in names if 'Pool' in n])


class TestNetwork(ConfinedCase):
    def connect(self, path: str, port: int) -> list[str]:
        return self.tried(
            'socket.socket(socket.AF_INET, socket.SOCK_STREAM)',
            'socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)',
            'socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)',
            'socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)',
            f"socket.create_connection(('127.0.0.1', {port}))",
            f'socket.socket(socket.AF_UNIX).connect({path!r})',
            'socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)',
            'socket.socketpair()',
        )

    def test_connections(self) -> None:
        path = str(self.directory / 'socket')
        with (
            socket.create_server(('127.0.0.1', 0)) as server,
            socket.socket(socket.AF_UNIX) as other,
        ):
            other.bind(path)
            other.listen()
            port = server.getsockname()[1]
            expected = ['EACCES'] * 6 + [''] * 2
            self.assertEqual(expected, self.connect(path, port))
            # The filter of system calls needs no Landlock.
            self.patch(confinement, 'version', lambda: 0)
            self.assertEqual(expected, self.connect(path, port))
            for one in (server, other):
                one.settimeout(0)
                self.assertRaises(BlockingIOError, one.accept)

    def test_a_socket_to_listen_on(self) -> None:
        path = str(self.directory / 'socket')
        call = f'socket.socket(socket.AF_UNIX).bind({path!r})'
        self.assertEqual(['EACCES'], self.tried(call))
        self.assertEqual(
            ['', 'EACCES'],
            self.tried(
                call,
                f'open({str(self.secret)!r})',
                sockets=self.directory,
            ),
        )

    def test_filters(self) -> None:
        """What each machine's filter says of each call."""
        for machine, connects in itertools.product(
            confinement._MACHINES.values(), (False, True)
        ):
            code = confinement._filter(machine, connects)
            number = machine.socket

            def allowed(
                call: int,
                *words: int,
                code: bytes = code,
                audit: int = machine.audit,
            ) -> bool:
                return judged(code, audit, call, *words) == 0x7FFF0000

            self.assertTrue(allowed(number, socket.AF_UNIX, 1))
            self.assertTrue(allowed(number, socket.AF_UNIX, 1 | 0o2000000))
            self.assertFalse(allowed(number, socket.AF_UNIX, 2))
            self.assertFalse(allowed(number, socket.AF_INET, 1))
            self.assertFalse(allowed(number, socket.AF_VSOCK, 1))
            self.assertFalse(allowed(425))
            self.assertFalse(allowed(number | 0x40000000, socket.AF_UNIX, 1))
            for other in machine.refused:
                self.assertEqual(connects, allowed(other, socket.AF_UNIX, 1))
            self.assertTrue(allowed(machine.seccomp))
            self.assertTrue(allowed(0))
            self.assertFalse(allowed(0, audit=0x40000003))


def judged(code: bytes, audit: int, number: int, *words: int) -> int:
    """Run a filter of system calls as the kernel does."""
    data = struct.pack('=IIQ6Q', number, audit, 0, *(*words, *[0] * 6)[:6])
    steps = list(struct.iter_unpack('=HBBI', code))
    place = value = 0
    while True:
        kind, yes, no, operand = steps[place]
        place += 1
        if kind == 0x20:
            (value,) = struct.unpack_from('=I', data, operand)
        elif kind == 0x54:
            value &= operand
        elif kind == 0x06:
            return operand
        else:
            found = value == operand if kind == 0x15 else value >= operand
            place += yes if found else no


class TestWhereItIsNotPossible(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        confinement._say.cache_clear()
        self.addCleanup(confinement._say.cache_clear)
        self.log = self.useFixture(fixtures.FakeLogger(level=logging.INFO))

    def run_programs(self) -> str:
        secret = self.tmp() / 'secret'
        secret.write_text('secret')
        for _ in range(2):
            found = process.run(['cat', secret], access=_FREE)
        return found.text

    def test_no_landlock(self) -> None:
        self.patch(confinement, 'version', lambda: 0)
        self.assertEqual('secret', self.run_programs())
        (line,) = self.log.output.splitlines()
        self.assertIn('this kernel has no Landlock', line)

    def test_landlock_fails(self) -> None:
        # A later call than the first one: in a container, say.
        self.patch(confinement, 'version', lambda: 1)
        self.patch(confinement, '_RESTRICT_SELF', 1 << 20)
        self.assertEqual('secret', self.run_programs())
        (line,) = self.log.output.splitlines()
        self.assertIn('Landlock does not work here', line)

    def network(self) -> str:
        """The network namespace that a program finds itself in."""
        found = process.run(
            ['readlink', '/proc/self/ns/net'],
            access=confinement.Access(mounts=True),
        )
        return found.text.strip()

    def expect_no_network(self) -> None:
        """Root's programs get one of their own; others start all the same."""
        status = pathlib.Path('/proc/self/status').read_text()
        effective = status.partition('\nCapEff:')[2].split()[0]
        own = self.network() != os.readlink('/proc/self/ns/net')
        self.assertEqual(bool(int(effective, 16) & _ADMIN), own)

    def test_an_unknown_machine(self) -> None:
        self.patch(confinement, '_MACHINES', {})
        self.expect_no_network()

    def test_no_seccomp(self) -> None:
        lacking = {
            name: dataclasses.replace(machine, seccomp=_NO_SUCH_CALL)
            for name, machine in confinement._MACHINES.items()
        }
        self.patch(confinement, '_MACHINES', lacking)
        self.expect_no_network()


class TestEnds(base.TestCase):
    def test_a_companion_lives(self) -> None:
        """It dies with the thread that started it, so that one stays."""
        with process.background(['sleep', '60'], access=_FREE) as program:
            self.assertFalse(program.wait(0.5), program.tail())
        self.assertEqual(-signal.SIGTERM, program.status)

    def test_what_goes_wrong_is_told(self) -> None:
        own = self.tmp() / 'own'
        own.write_text('#!/nowhere\n')
        own.chmod(0o755)
        self.useFixture(fixtures.EnvironmentVariable('PATH', str(own.parent)))
        for access in (None, _FREE):
            self.assertRaises(
                FileNotFoundError, process.run, ['own'], access=access
            )
        error = self.assertRaises(
            errors.ProgramError, process.run, ['nothing'], access=_FREE
        )
        self.assertIn('nothing was not found', str(error))
