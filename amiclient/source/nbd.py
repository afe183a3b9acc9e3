# SPDX-License-Identifier: Apache-2.0

"""A client of network block devices, as qemu-nbd offers them.

Only what reading takes. Several requests are under way at a time, so that
clusters are decompressed while others travel; and replies are structured, so
that zeros do not travel at all.

Source: doc/proto.md of https://github.com/NetworkBlockDevice/nbd.
"""

from collections.abc import Iterable, Iterator
import errno
import os
import socket
import struct

from amiclient import errors
from amiclient import sparse

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
        """Take one chunk of a reply."""
        magic, flags, kind, handle, length = _CHUNK_HEAD.unpack(
            self._receive(_CHUNK_HEAD.size)
        )
        if magic != _CHUNK_MAGIC or handle not in pending:
            raise self._failed('qemu-nbd answers what was not asked')
        first, end = pending[handle]
        if kind == _CHUNK_DATA and 8 < length <= 8 + end - first:
            (offset,) = struct.unpack('>Q', self._receive(8))
            data = self._receive(length - 8)
            if not first <= offset <= end - len(data):
                raise self._failed('qemu-nbd answers what was not asked')
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
            raise self._failed('qemu-nbd answers what makes no sense')
        if flags & _DONE:
            del pending[handle]

    def _negotiate(self) -> int:
        if self._receive(16) != b'NBDMAGICIHAVEOPT':
            raise self._failed('qemu-nbd speaks another language')
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
        raise self._failed('qemu-nbd does not tell its size')

    def _option(self, option: int, data: bytes) -> list[bytes]:
        """Send an option, and take what is said to it until it is settled."""
        self._send(_OPTION.pack(b'IHAVEOPT', option, len(data)) + data)
        infos: list[bytes] = []
        while True:
            magic, _, kind, length = _OPTION_REPLY.unpack(
                self._receive(_OPTION_REPLY.size)
            )
            if magic != _OPTION_MAGIC or length > _TEXT:
                raise self._failed('qemu-nbd speaks another language')
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
