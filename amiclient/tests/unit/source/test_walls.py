# SPDX-License-Identifier: Apache-2.0

"""QEMU opens nothing but its image, as long as one of two walls stands.

Two walls keep the files of the user out of what is published: our own parsers
of headers, and the confinement of what reads the rest. Here one of them is
taken away, and then the other.
"""

import contextlib
import os
import pathlib
import re
import socket
import struct

from amiclient import confinement
from amiclient import errors
from amiclient import process
from amiclient.source import qemu_nbd
from amiclient.tests import base

_SECTOR = 512
_SECRET = b'SECRET-OF-THE-HOST'.ljust(8 * _SECTOR, b'!')

#: A sparse VMDK without a size is read by what it says of its extents.
_EXTENTS = """# Disk DescriptorFile
version=1
CID=fffffffe
parentCID=ffffffff
createType="monolithicFlat"
RW 8 FLAT "{}" 0
"""


def _unexamined(
    image: qemu_nbd.DiskImage, stack: contextlib.ExitStack
) -> tuple[dict, tuple[int, ...]]:
    """Tell QEMU of a file at which nobody has looked, and of no other."""
    file = os.open(image.path, os.O_RDONLY)
    stack.callback(os.close, file)
    name = f'/proc/self/fd/{file}'
    return {
        'driver': image.kind,
        'file': {'driver': 'file', 'filename': name},
    }, (file,)


class WallCase(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.private = self.tmp()
        self.secret = self.directory / 'secret'
        self.secret.write_bytes(_SECRET)
        self.image = self.directory / 'image.vmdk'

    def extents(self, path: pathlib.Path) -> None:
        """Make an image that names a file as its data."""
        head = struct.pack(
            '<4sIIQQQQIQQQB4sH',
            b'KDMV', 1, 3, 0, 128, 1, 20, 512, 21, 26, 128, 0, b'\n \r\n', 0,
        )  # fmt: skip
        told = _EXTENTS.format(path).encode()
        self.image.write_bytes(
            (head.ljust(_SECTOR, b'\0') + told).ljust(128 * _SECTOR, b'\0')
        )

    def layer(self, hint: str, parent: str = 'fffffffe') -> None:
        """Make an image that names a file, or an address, as its parent."""
        process.run([
            'qemu-img', 'create', '-q', '-f', 'vmdk', self.image, '1M'
        ], access=None)  # fmt: skip
        data = self.image.read_bytes()
        place = data.index(b'# Disk Desc')
        text = data[place : data.index(b'\0', place)].decode()
        text = text.replace(
            'parentCID=ffffffff',
            f'parentCID={parent}\nparentFileNameHint="{hint}"',
        )
        size = 20 * _SECTOR
        self.image.write_bytes(
            data[:place]
            + text.encode().ljust(size, b'\0')
            + data[place + size :]
        )

    def private_disk(self) -> str:
        """Make a disk of the user's, with the secret in it; tell its CID."""
        disk = self.directory / 'private.vmdk'
        process.run([
            'qemu-img', 'convert', '-f', 'raw', '-O', 'vmdk',
            self.secret, disk,
        ], access=None)  # fmt: skip
        found = re.search(rb'^CID=(\w+)', disk.read_bytes(), re.MULTILINE)
        self.layer(str(disk), found[1].decode())

    def read(self) -> bytes:
        """Read what is published: the beginning of the disk."""
        image = qemu_nbd.DiskImage(self.image, 'vmdk', 'image')
        with qemu_nbd.opened(image, self.private) as client:
            return client.read(0, len(_SECRET))


class Attacks:
    """What either wall has to withstand."""

    def test_data_in_another_file(self) -> None:
        self.extents(self.secret)
        self.assert_shut()

    def test_a_parent(self) -> None:
        self.private_disk()
        self.assert_shut()

    def test_a_parent_elsewhere(self) -> None:
        with socket.create_server(('127.0.0.1', 0)) as server:
            port = server.getsockname()[1]
            self.layer(f'nbd://127.0.0.1:{port}/x')
            self.assert_shut()
            server.settimeout(0)
            self.assertRaises(BlockingIOError, server.accept)

    def test_a_parent_behind_a_socket(self) -> None:
        path = self.directory / 'socket'
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            server.listen()
            self.layer(f'nbd+unix:///x?socket={path}')
            self.assert_shut()
            server.settimeout(0)
            self.assertRaises(BlockingIOError, server.accept)


class TestConfinementAlone(Attacks, WallCase):
    def setUp(self) -> None:
        super().setUp()
        self.patch(qemu_nbd, '_node', _unexamined)

    def assert_shut(self) -> None:
        if not confinement.version():
            self.skipTest('there is no Landlock here')
        try:
            self.assertNotIn(b'SECRET', self.read())
            self.fail('it was opened')
        except errors.SourceError as caught:
            error = caught
        self.assertIn('Permission denied', str(error))
        self.assertNotIn('\n', str(error))

    def test_no_wall(self) -> None:
        """What the others prove is proved: the secret would be read."""
        self.patch(confinement, 'confine', lambda *_: [])
        self.extents(self.secret)
        self.assertEqual(_SECRET, self.read())
        self.private_disk()
        self.assertEqual(_SECRET, self.read())


class TestHeadersAlone(Attacks, WallCase):
    def setUp(self) -> None:
        super().setUp()
        self.patch(confinement, 'confine', lambda *_: [])

    def assert_shut(self) -> None:
        # Nor is QEMU asked at all.
        self.patch(qemu_nbd.process, 'background', self.fail)
        error = self.assertRaises(errors.SourceError, self.read)
        self.assertRegex(str(error), 'holds no data, but names|backing file')
        self.assertNotIn('\n', str(error))
