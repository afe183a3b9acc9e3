# SPDX-License-Identifier: Apache-2.0

"""Disk images of virtual machines: qcow2, VMDK, VHD, VHDX, VDI and QED.

qemu-nbd reads them, for who knows these formats best. But first their headers
are looked at here: an image may name other files that hold a part of it (a
backing file, a data file, extents, a parent), and whoever made it could so
have any file of the user's published. QEMU is told the format, and to open
nothing but this one file, or what it names and the user allows.
"""

from collections.abc import Iterator
import contextlib
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
from amiclient.source import nbd
from amiclient.source import opening
from amiclient.source import qemu_headers
from amiclient.source import qemu_image

#: QEMU's names of the formats, by what they begin with.
_MAGIC = (
    (0, b'QFI\xfb\x00\x00\x00\x01', 'qcow'),
    (0, b'QFI\xfb', 'qcow2'),
    (0, b'QED\x00', 'qed'),
    (0, b'KDMV', 'vmdk'),
    (0, b'vhdxfile', 'vhdx'),
    (0, b'conectix', 'vpc'),
    (0x40, b'\x7f\x10\xda\xbe', 'vdi'),
)

#: How much of the beginning is needed to tell.
HEAD = 0x44

#: Where they say how large the disk is, and in which unit.
_SIZES = {
    'qcow': ('>Q', 24, 1),
    'qcow2': ('>Q', 24, 1),
    'qed': ('<Q', 48, 1),
    'vmdk': ('<Q', 12, 512),
    'vpc': ('>Q', 48, 1),
    'vdi': ('<Q', 0x170, 1),
}

_SHOWN = {'vpc': 'vhd'}

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


def tell(head: bytes) -> str | None:
    """Tell the format of a disk image that is not raw.

    :param head: the first HEAD bytes, or all there are.
    :returns: as QEMU calls it; None for anything else.
    """
    for offset, magic, kind in _MAGIC:
        if head.startswith(magic, offset):
            return kind
    return None


def disk_size(head: bytes) -> int | None:
    """Tell how large the disk in a disk image is, as its header says.

    :param head: the first 512 bytes, or all there are.
    :returns: bytes; None if that is not known.
    """
    place = _SIZES.get(tell(head) or '')
    if place is None or len(head) < 512:
        return None
    layout, offset, unit = place
    return int(struct.unpack_from(layout, head, offset)[0]) * unit


def shown(kind: str) -> str:
    """Name a format for people."""
    return _SHOWN.get(kind, kind)


@contextlib.contextmanager
def opened(
    path: pathlib.Path,
    kind: str,
    folder: pathlib.Path,
    *,
    name: str,
    allow_backing_file: bool = False,
    beside: pathlib.Path | None = None,
) -> Iterator[nbd.Client]:
    """Read the disk in a disk image.

    :param kind: its format, as tell() says.
    :param folder: private, for a socket.
    :param name: what to call it in errors.
    :param allow_backing_file: whether other files may hold a part of it.
    :param beside: the folder that their names start from, if the image is a
        copy of one that is there.
    :raises SourceError: if it cannot be read, or may not.
    :raises ProgramError: if qemu-nbd is missing.
    """
    with contextlib.ExitStack() as stack:
        # It may be a copy, of which the user knows nothing.
        with errors.renamed(errors.shown(path), name):
            node, files = _node(path, kind, allow_backing_file, beside, stack)
        place = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, place)
        # The path of a socket must not have more than 107 bytes.
        address = f'/proc/{os.getpid()}/fd/{place}/nbd'
        server = stack.enter_context(
            process.background(
                (
                    'qemu-nbd',
                    '--read-only',
                    f'--socket={address}',
                    f'json:{json.dumps(node)}',
                ),
                access=confinement.Access(reads=files, sockets=place),
                inherited=files,
                memory=_MEMORY,
            )
        )
        connection = stack.enter_context(_connected(address, server, name))
        # Whoever is connected already needs no name for it.
        os.unlink('nbd', dir_fd=place)
        connection.settimeout(_ANSWER)
        try:
            client = _served(connection, server, name)
            yield client
            client.close()
        except errors.SourceError:
            server.refuse_limited()
            raise


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
            raise errors.ProgramError('qemu-nbd does not begin')
        time.sleep(0.01)


def _served(
    connection: socket.socket, server: process.Running, name: str
) -> nbd.Client:
    try:
        return nbd.Client(connection, name)
    except errors.SourceError as error:
        # It lets clients connect before it opens the disk image.
        if server.wait(_END) and server.tail():
            raise _why(server.tail(), name) from error
        raise


def _why(words: str, name: str) -> errors.AmiError:
    """Tell why qemu-nbd did not begin, by its last words."""
    _, _, reason = words.rpartition("': ")
    if 'lock' in reason:
        return errors.BusyError(
            'somebody else writes to it',
            subject=name,
            hint='end the virtual machine that uses it',
        )
    return errors.SourceError(
        f'qemu-nbd cannot open it: {reason}',
        subject=name,
        hint='see what qemu-img check says of it',
    )


def _node(
    path: pathlib.Path,
    kind: str,
    allowed: bool,
    beside: pathlib.Path | None,
    stack: contextlib.ExitStack,
) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Describe what QEMU is to open: the whole chain, file by file.

    :param stack: closes the files that QEMU is to inherit.
    :returns: that, and the descriptors of these files.
    """
    nodes: list[dict[str, Any]] = []
    files: dict[tuple[int, int], int] = {}
    layer: pathlib.Path | None = path
    while layer is not None:
        with opening.opened(layer, wanted='a disk image', devices=True) as it:
            status = os.fstat(it.fileno())
            here = status.st_dev, status.st_ino
            if here in files or len(files) >= _LAYERS:
                raise _refused(path, 'its backing files have no end')
            below = None
            if kind != 'raw':
                header = qemu_headers.read(it, kind, errors.shown(layer))
                below = _below(header, layer, allowed, beside)
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
    path: pathlib.Path,
    allowed: bool,
    beside: pathlib.Path | None,
) -> tuple[pathlib.Path, str] | None:
    """Find the file that an image is a layer over.

    :returns: that and its format, if there is one.
    :raises SourceError: if there is one that may not be.
    """
    if header.backing is None:
        return None
    name = os.fsdecode(header.backing)
    words = f'it is a layer over {errors.shown(name)}'
    if not allowed:
        raise errors.SourceError(
            words, subject=errors.shown(path), hint=_BACKED
        )
    if ':' in name.partition('/')[0] or '\0' in name:
        raise _refused(path, f'{words}, which is no file name')
    backing = (beside or path.resolve().parent) / name
    with opening.opened(backing, wanted='a disk image', devices=True) as below:
        # By its content, but raw if nothing says otherwise: there QEMU looks
        # for no other files.
        kind = tell(below.read(HEAD)) or 'raw'
    # What a guest writes to a raw disk may look like another format.
    if header.backing_format not in (None, kind):
        said = errors.shown(header.backing_format)
        raise _refused(
            path, f'{words}, which is said to be {said}, but is {kind}'
        )
    return backing, kind


def _refused(path: pathlib.Path, why: str) -> errors.SourceError:
    return errors.SourceError(
        why, subject=errors.shown(path), hint=qemu_image.CONVERT
    )
