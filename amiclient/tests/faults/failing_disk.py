# SPDX-License-Identifier: Apache-2.0

"""A disk of which some places cannot be read.

It is a filesystem in user space (FUSE) with a single file. What is read from
it comes from an ordinary file, but for places where reading fails with EIO,
as on a disk with bad sectors; what the kernel makes of that is what it makes
of a real one. The protocol is spoken directly (linux/fuse.h), for it takes
little more than a library would.

Where this user may not mount, that is done in namespaces of its own, which
who wants to see the file then has to enter: see :meth:`FailingDisk.command`.
"""

from collections.abc import Sequence
import ctypes
import errno
import os
import pathlib
import shutil
import signal
import stat
import struct
import subprocess
import sys

import fixtures

import amiclient

_ROOT = pathlib.Path(amiclient.__file__).parents[1]

_HEADER = struct.Struct('<IIQQIIIHH')
_ANSWER = struct.Struct('<IiQ')

#: linux/fuse.h, enum fuse_opcode.
_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _STATFS = 1, 2, 3, 14, 15, 17
_RELEASE, _FLUSH, _INIT, _OPENDIR, _READDIR = 18, 25, 26, 27, 28
_RELEASEDIR, _INTERRUPT, _BATCH_FORGET = 29, 36, 42

_SILENT = (_FORGET, _BATCH_FORGET, _INTERRUPT)

#: The nodes: the directory is always 1.
_DIRECTORY, _FILE = 1, 2

_MS_RDONLY, _MS_NOSUID, _MS_NODEV = 1, 2, 4

_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000


class FailingDisk(fixtures.Fixture):
    """A copy of a file that cannot be read everywhere.

    ``path`` is where it is.

    :param backing: the file with the content.
    :param bad: ranges of bytes that cannot be read.
    """

    def __init__(self, backing: pathlib.Path, *bad: tuple[int, int]) -> None:
        super().__init__()
        self._backing = backing
        self._bad = bad

    def _setUp(self) -> None:
        directory = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.path = directory / self._backing.name
        words = [f'{first}-{end}' for first, end in self._bad]
        self._server = subprocess.Popen(
            [sys.executable, '-m', __name__, directory, self._backing, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, 'PYTHONPATH': str(_ROOT)},
        )
        self.addCleanup(self._server.communicate)
        self.addCleanup(self._server.kill)
        self.own = self._server.stdout.readline().strip()
        if not self.own:
            why = self._server.stderr.read().strip()
            raise CannotMount(why.rpartition('\n')[2])
        if self.own == 'host':
            self.addCleanup(
                subprocess.run, ['umount', '--lazy', directory], check=False
            )

    def command(self, argv: Sequence[object]) -> list[object]:
        """Make a command one that sees the file."""
        if self.own == 'host':
            return list(argv)
        return [
            'nsenter', '--user', '--mount', '--preserve-credentials',
            '--target', str(self._server.pid), '--', *argv,
        ]  # fmt: skip

    def loop(self) -> pathlib.Path:
        """Make a block device of it; that takes the rights of root."""
        done = subprocess.run(
            ['losetup', '--find', '--show', '--read-only', self.path],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, 'PATH': f'{os.environ["PATH"]}:/usr/sbin'},
        )
        if done.returncode:
            raise CannotMount(done.stderr.strip())
        device = done.stdout.strip()
        self.addCleanup(
            subprocess.run,
            [shutil.which('losetup', path='/usr/sbin:/sbin'), '-d', device],
            check=False,
        )
        return pathlib.Path(device)


class CannotMount(Exception):
    """This machine does not let us."""


class _Server:
    """Answers the kernel's requests."""

    def __init__(
        self, device: int, backing: pathlib.Path, bad: list[tuple[int, int]]
    ) -> None:
        self._device = device
        self._name = os.fsencode(backing.name)
        self._file = os.open(backing, os.O_RDONLY)
        self._bad = bad

    def serve(self) -> None:
        """Answer until it is unmounted."""
        while True:
            try:
                request = os.read(self._device, 1 << 18)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                if error.errno in (errno.EINTR, errno.ENOENT):
                    continue
                raise
            _, code, unique, node, *_ = _HEADER.unpack_from(request)
            if code in _SILENT:
                continue
            try:
                data, number = (
                    self._answer(code, node, request[_HEADER.size :]),
                    0,
                )
            except OSError as error:
                data, number = b'', -(error.errno or errno.EIO)
            head = _ANSWER.pack(_ANSWER.size + len(data), number, unique)
            os.write(self._device, head + data)

    def _answer(self, code: int, node: int, body: bytes) -> bytes:
        if code == _INIT:
            ahead = struct.unpack_from('<III', body)[2]
            # Protocol 7.31; nothing that is optional.
            return struct.pack(
                '<IIIIHHIIHHI28x', 7, 31, ahead, 0, 12, 9, 1 << 16, 1, 0, 0, 0
            )
        if code == _LOOKUP:
            if node != _DIRECTORY or body.rstrip(b'\0') != self._name:
                raise OSError(errno.ENOENT, '')
            return struct.pack('<QQQQII', _FILE, 0, 60, 60, 0, 0) + self._attr(
                _FILE
            )
        if code == _GETATTR:
            return struct.pack('<QII', 60, 0, 0) + self._attr(node)
        if code in (_OPEN, _OPENDIR):
            return struct.pack('<QII', 0, 0, 0)
        if code == _READ:
            _, offset, size = struct.unpack_from('<QQI', body)
            return self._read(offset, size)
        if code == _READDIR:
            offset = struct.unpack_from('<QQ', body)[1]
            return b'' if offset else self._entry()
        if code == _STATFS:
            return struct.pack('<QQQQQIII28x', 1, 0, 0, 2, 0, 4096, 255, 4096)
        if code in (_RELEASE, _RELEASEDIR, _FLUSH):
            return b''
        raise OSError(errno.ENOSYS, '')

    def _attr(self, node: int) -> bytes:
        status = os.fstat(self._file)
        mode, size = stat.S_IFREG | 0o444, status.st_size
        if node == _DIRECTORY:
            mode, size = stat.S_IFDIR | 0o555, 0
        seconds, rest = divmod(status.st_mtime_ns, 10**9)
        return struct.pack(
            '<QQQQQQIIIIIIIIII',
            node, size, size // 512, seconds, seconds, seconds,
            rest, rest, rest, mode, 1, os.getuid(), os.getgid(), 0, 4096, 0,
        )  # fmt: skip

    def _entry(self) -> bytes:
        length = len(self._name)
        entry = struct.pack('<QQII', _FILE, 1, length, 8) + self._name
        return entry + bytes(-len(entry) % 8)

    def _read(self, offset: int, size: int) -> bytes:
        for first, end in self._bad:
            if first < offset + size and offset < end:
                raise OSError(errno.EIO, '')
        return os.pread(self._file, size, offset)


def _mounted(directory: str) -> tuple[int, str]:
    """Mount, on the host or else in a namespace; tell the device and which."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    where = 'host'
    if user:
        _checked(libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS))
        for name, text in (
            ('setgroups', 'deny'),
            ('uid_map', f'{user} {user} 1'),
            ('gid_map', f'{group} {group} 1'),
        ):
            pathlib.Path('/proc/self', name).write_text(text)
        where = 'namespace'
    device = os.open('/dev/fuse', os.O_RDWR)
    options = (
        f'fd={device},rootmode=40000,user_id={user},group_id={group},'
        'default_permissions' + (',allow_other' if where == 'host' else '')
    )
    flags = _MS_RDONLY | _MS_NOSUID | _MS_NODEV
    _checked(
        libc.mount(
            b'failing',
            os.fsencode(directory),
            b'fuse',
            flags,
            options.encode(),
        )
    )
    return device, where


def _checked(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def main() -> None:
    """Serve: ``failing_disk DIRECTORY FILE FIRST-END ...``."""
    directory, backing, *bad = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    device, where = _mounted(directory)
    print(where, flush=True)
    ranges = [tuple(int(n) for n in word.split('-')) for word in bad]
    _Server(device, pathlib.Path(backing), ranges).serve()


if __name__ == '__main__':
    main()
