# SPDX-License-Identifier: Apache-2.0

"""Disk images of virtual machines: qcow2, VMDK, VHD, VHDX, VDI and QED.

qemu-nbd reads them, for who knows these formats best. But first their headers
are looked at here: an image may name other files that hold a part of it (a
backing file, a data file, extents, a parent), and whoever made it could so
have any file of the user's published. QEMU is told the format, and to open
nothing but this one file, or what it names and the user allows.

The client does only what reading takes. Several requests are under way at a
time, so that clusters are decompressed while others travel; and replies are
structured, so that zeros do not travel at all. Source: doc/proto.md of
https://github.com/NetworkBlockDevice/nbd.
"""

from collections.abc import Iterable, Iterator
import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import socket
import stat
import struct
import time
from typing import Any

from amiclient import confinement
from amiclient import errors
from amiclient import process
from amiclient.source import opening
from amiclient.source import probe
from amiclient.source import qemu_headers
from amiclient.source import qemu_image
from amiclient import sparse

#: Layers over each other that are followed, if that is allowed.
_LAYERS = 16

#: Bytes of address space for qemu-nbd: its tables take 512 MiB at most (those
#: of a VHDX image of 64 TiB), and its threads want more than they use.
_MEMORY = 4 << 30

#: Seconds that qemu-nbd has to begin, and to answer.
_START = 30.0
_ANSWER = 300.0

#: Seconds that it has to end, once it has closed the connection.
_END = 60.0

_BACKED = 'copy it with qemu-img convert first, or give --allow-backing-file'

#: What the socket of a server is called.
_SOCKET = 'nbd'

#: Bytes of one request, and how many are under way.
_REQUEST = 2 << 20
_DEPTH = 8

_FIXED_NEWSTYLE = 1
_NO_ZEROES = 2

_OPT_GO = 7
_OPT_STRUCTURED_REPLY = 8

_REP_ACK = 1
_REP_INFO = 3
_REP_ERROR = 1 << 31

_INFO_EXPORT = 0

_OPTION = struct.Struct('>8sII')
_OPTION_REPLY = struct.Struct('>QIII')
_OPTION_MAGIC = 0x3E889045565A9

_REQUEST_HEAD = struct.Struct('>IHHQQI')
_REQUEST_MAGIC = 0x25609513
_CMD_READ = 0
_CMD_DISC = 2

_CHUNK_HEAD = struct.Struct('>IHHQI')
_CHUNK_MAGIC = 0x668E33EF
_DONE = 1
_CHUNK_NONE = 0
_CHUNK_DATA = 1
_CHUNK_HOLE = 2
_CHUNK_ERROR = 1 << 15

#: What a message, be it an error's, may have in bytes.
_TEXT = 1 << 16


class Client:
    """A connection to a server's only disk, which is a medium.

    :param connection: a socket that is connected to the server.
    :param name: what to call the disk in errors.
    :raises SourceError: if the server does not offer it.
    """

    def __init__(self, connection: socket.socket, name: str) -> None:
        self._socket = connection
        self.name = name
        self._next = 0
        self.size = self._negotiate()

    def read(self, offset: int, count: int) -> bytes:
        """Read bytes, fewer only at the end of the disk.

        :raises SourceError: if they cannot be read.
        """
        end = min(offset + count, self.size)
        if end <= offset:
            return b''
        data = bytearray(end - offset)
        for place, piece in self.stream([(offset, end)]):
            start = place - offset
            data[start : start + len(piece)] = piece
        return bytes(data)

    def stream(
        self, runs: Iterable[sparse.Run]
    ) -> Iterator[tuple[int, bytes]]:
        """Read ranges of bytes, in any order and in pieces.

        :returns: offsets and what is there. What does not come is zeros.
        :raises SourceError: if they cannot be read, or the disk ends before.
        """
        pending: dict[int, sparse.Run] = {}
        for run in _split(runs):
            if run[1] > self.size:
                raise self._failed(f'it ends at byte {self.size}')
            pending[self._ask(run)] = run
            while len(pending) >= _DEPTH:
                yield from self._reply(pending)
        while pending:
            yield from self._reply(pending)

    def close(self) -> None:
        """Say goodbye; the server ends then."""
        try:
            self._socket.sendall(
                _REQUEST_HEAD.pack(_REQUEST_MAGIC, 0, _CMD_DISC, 0, 0, 0)
            )
        except OSError as error:
            # It is gone already, and nobody needs it any more.
            if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                raise

    def _ask(self, run: sparse.Run) -> int:
        self._next += 1
        first, end = run
        self._send(
            _REQUEST_HEAD.pack(
                _REQUEST_MAGIC, 0, _CMD_READ, self._next, first, end - first
            )
        )
        return self._next

    def _reply(
        self, pending: dict[int, sparse.Run]
    ) -> Iterator[tuple[int, bytes]]:
        magic, flags, kind, handle, length = _CHUNK_HEAD.unpack(
            self._receive(_CHUNK_HEAD.size)
        )
        if magic != _CHUNK_MAGIC or handle not in pending:
            raise self._failed('qemu-nbd sent an unexpected reply')
        first, end = pending[handle]
        if kind == _CHUNK_DATA and 8 < length <= 8 + end - first:
            (offset,) = struct.unpack('>Q', self._receive(8))
            data = self._receive(length - 8)
            if not first <= offset <= end - len(data):
                raise self._failed('qemu-nbd sent an unexpected reply')
            yield offset, data
        elif kind & _CHUNK_ERROR and 6 <= length <= _TEXT:
            body = self._receive(length)
            (number,) = struct.unpack_from('>I', body)
            raise self._failed(
                f'bytes {first} to {end} cannot be read: {os.strerror(number)}'
            )
        elif (kind, length) == (_CHUNK_HOLE, 12):
            self._receive(length)
        elif (kind, length) != (_CHUNK_NONE, 0):
            raise self._failed('qemu-nbd sent an invalid reply')
        if flags & _DONE:
            del pending[handle]

    def _negotiate(self) -> int:
        if self._receive(16) != b'NBDMAGICIHAVEOPT':
            raise self._failed('qemu-nbd speaks another protocol')
        (flags,) = struct.unpack('>H', self._receive(2))
        both = _FIXED_NEWSTYLE | _NO_ZEROES
        if flags & both != both:
            raise self._failed('qemu-nbd is too old')
        self._send(struct.pack('>I', both))
        self._option(_OPT_STRUCTURED_REPLY, b'')
        # The name of the export, which is empty, and no wishes.
        infos = self._option(_OPT_GO, struct.pack('>IH', 0, 0))
        for info in infos:
            if len(info) >= 10 and info[:2] == b'\0\0':
                return int.from_bytes(info[2:10], 'big')
        raise self._failed('qemu-nbd does not tell the size')

    def _option(self, option: int, data: bytes) -> list[bytes]:
        self._send(_OPTION.pack(b'IHAVEOPT', option, len(data)) + data)
        infos: list[bytes] = []
        while True:
            magic, _, kind, length = _OPTION_REPLY.unpack(
                self._receive(_OPTION_REPLY.size)
            )
            if magic != _OPTION_MAGIC or length > _TEXT:
                raise self._failed('qemu-nbd speaks another protocol')
            body = self._receive(length)
            if kind & _REP_ERROR:
                words = body.decode('utf-8', 'replace')
                raise self._failed(f'qemu-nbd refuses: {words}')
            if kind == _REP_ACK:
                return infos
            if kind == _REP_INFO:
                infos.append(body)

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise self._failed('qemu-nbd ended') from error

    def _receive(self, count: int) -> bytes:
        data = bytearray(count)
        view = memoryview(data)
        while view:
            try:
                done = self._socket.recv_into(view)
            except TimeoutError as error:
                raise self._failed('qemu-nbd does not answer') from error
            except OSError as error:
                raise self._failed('qemu-nbd ended') from error
            if not done:
                raise self._failed('qemu-nbd ended')
            view = view[done:]
        return bytes(data)

    def _failed(self, why: str) -> errors.SourceError:
        return errors.SourceError(
            f'the disk in it cannot be read: {why}',
            subject=self.name,
            hint='see what qemu-img check says of it',
        )


def _split(runs: Iterable[sparse.Run]) -> Iterator[sparse.Run]:
    for first, end in runs:
        for start in range(first, end, _REQUEST):
            yield start, min(start + _REQUEST, end)


@dataclasses.dataclass(frozen=True)
class DiskImage:
    """A disk image.

    :param kind: its format, as QEMU calls it.
    :param name: what to call it in errors: it may be a copy of which the user
        knows nothing.
    :param allow_backing_file: whether other files may hold a part of it.
    :param beside: the directory that their names start from, if the image is a
        copy of one that is there.
    :param within: where in the file it is; None for all of that.
    """

    path: pathlib.Path
    kind: str
    name: str
    allow_backing_file: bool = False
    beside: pathlib.Path | None = None
    within: opening.Slice | None = None

    @property
    def slice(self) -> opening.Slice:
        """Where it is."""
        return self.within or opening.Slice(self.path)


@contextlib.contextmanager
def opened(image: DiskImage, directory: pathlib.Path) -> Iterator[Client]:
    """Read the disk in a disk image.

    :param directory: private, for a socket.
    :raises SourceError: if it cannot be read, or may not.
    :raises ProgramError: if qemu-nbd is missing.
    """
    name = image.name
    with contextlib.ExitStack() as stack:
        place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, place)
        # The path of a socket must not have more than 107 bytes.
        address = f'/proc/{os.getpid()}/fd/{place}/{_SOCKET}'
        server = stack.enter_context(_server(image, place, address))
        connection = stack.enter_context(_connected(address, server, name))
        # Whoever is connected already needs no name for it.
        os.unlink(_SOCKET, dir_fd=place)
        connection.settimeout(_ANSWER)
        try:
            client = _served(connection, server, name)
            yield client
            client.close()
        except errors.SourceError:
            server.refuse_limited()
            raise


@contextlib.contextmanager
def served(
    image: DiskImage, directory: pathlib.Path
) -> Iterator[pathlib.Path]:
    """Have other programs read the disk in a disk image.

    :param directory: private, for a socket, with a path that is not long.
    :returns: the socket.
    :raises AmiError: as :func:`opened` does.
    """
    address = directory / _SOCKET
    with contextlib.ExitStack() as stack:
        place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, place)
        server = stack.enter_context(
            _server(image, place, str(address), '--persistent', '--shared=0')
        )
        with _connected(str(address), server, image.name) as connection:
            connection.settimeout(_ANSWER)
            _served(connection, server, image.name).close()
        yield address


@contextlib.contextmanager
def _server(
    image: DiskImage, place: int, address: str, *options: str
) -> Iterator[process.Running]:
    with contextlib.ExitStack() as stack:
        node, files = _node(image, stack)
        yield stack.enter_context(
            process.background(
                (
                    'qemu-nbd',
                    '--read-only',
                    f'--socket={address}',
                    *options,
                    f'json:{json.dumps(node)}',
                ),
                access=confinement.Access(reads=files, sockets=place),
                inherited=files,
                memory=_MEMORY,
            )
        )


def _connected(
    address: str, server: process.Running, name: str
) -> socket.socket:
    deadline = time.monotonic() + _START
    while True:
        # Before, for it may end between the two.
        ended = server.status is not None
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(address)
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
        else:
            return connection
        if ended:
            raise _why(server.tail(), name)
        if time.monotonic() > deadline:
            raise errors.ProgramError('qemu-nbd does not start')
        time.sleep(0.01)


def _served(
    connection: socket.socket, server: process.Running, name: str
) -> Client:
    try:
        return Client(connection, name)
    except errors.SourceError as error:
        # It lets clients connect before it opens the disk image.
        if server.wait(_END) and server.tail():
            raise _why(server.tail(), name) from error
        raise


def _why(words: str, name: str) -> errors.AmiError:
    _, _, reason = words.rpartition("': ")
    if 'lock' in reason:
        return errors.BusyError(
            'another program writes to it',
            subject=name,
            hint='end the virtual machine that uses it',
        )
    return errors.SourceError(
        f'qemu-nbd cannot open it: {reason}',
        subject=name,
        hint='see what qemu-img check says of it',
    )


def _node(
    image: DiskImage, stack: contextlib.ExitStack
) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Describe what QEMU is to open: the whole chain, file by file.

    :param stack: closes the files that QEMU is to inherit.
    :returns: that, and the descriptors of these files.
    """
    kind, name, beside = image.kind, image.name, image.beside
    nodes: list[dict[str, Any]] = []
    files: dict[tuple[int, int], int] = {}
    layer: pathlib.Path | None = image.path
    while layer is not None:
        shown = errors.shown(layer) if nodes else name
        with opening.opened(
            layer, wanted='a disk image', devices=True, name=shown
        ) as it:
            status = os.fstat(it.fileno())
            here = status.st_dev, status.st_ino
            if here in files or len(files) >= _LAYERS:
                raise _refused(name, 'its chain of backing files does not end')
            below = None
            if kind != 'raw':
                header = qemu_headers.read(
                    it if nodes else image.slice.within(it), kind, shown
                )
                below = _below(
                    header,
                    shown,
                    image.allow_backing_file,
                    beside or layer.resolve().parent,
                )
                # Each layer names the next one from where it is itself.
                beside = None
            files[here] = os.dup(it.fileno())
            stack.callback(os.close, files[here])
        is_device = stat.S_ISBLK(status.st_mode)
        node: dict[str, Any] = {
            'driver': kind,
            'file': {
                'driver': 'host_device' if is_device else 'file',
                # The file that was looked at, whatever has its name by then.
                'filename': f'/proc/self/fd/{files[here]}',
            },
        }
        if not nodes and image.slice.size is not None:
            node['file'] = {
                'driver': 'raw',
                'offset': image.slice.start,
                'size': image.slice.size,
                'file': node['file'],
            }
        if kind in ('qcow', 'qcow2', 'qed', 'vmdk'):
            # Whatever its header says by then.
            node['backing'] = None
        if nodes:
            nodes[-1]['backing'] = node
        nodes.append(node)
        layer, kind = below or (None, '')
    return nodes[0], tuple(files.values())


def _below(
    header: qemu_image.Header,
    name: str,
    allowed: bool,
    beside: pathlib.Path,
) -> tuple[pathlib.Path, str] | None:
    """Find the backing file of an image.

    :returns: that and its format, if there is one.
    :raises SourceError: if there is one that may not be.
    """
    if header.backing is None:
        return None
    below = os.fsdecode(header.backing)
    words = f'it has the backing file {errors.shown(below, 80)}'
    if not allowed:
        raise errors.SourceError(words, subject=name, hint=_BACKED)
    if ':' in below.partition('/')[0] or '\0' in below:
        raise _refused(name, f'{words}, which is not a file name')
    backing = beside / below
    with opening.opened(backing, wanted='a disk image', devices=True) as file:
        # By its content, but raw if nothing says otherwise: there QEMU looks
        # for no other files.
        kind = probe.disk_format(file.read(qemu_image.SECTOR)) or 'raw'
    # What a guest writes to a raw disk may look like another format.
    if header.backing_format not in (None, kind):
        said = errors.shown(header.backing_format, 80)
        raise _refused(
            name, f'{words}, which is said to be {said}, but is {kind}'
        )
    return backing, kind


def _refused(name: str, why: str) -> errors.SourceError:
    return errors.SourceError(why, subject=name, hint=qemu_image.CONVERT)
