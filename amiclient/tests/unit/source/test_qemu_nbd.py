# SPDX-License-Identifier: Apache-2.0

"""Disk images that name other files, or lie about what they are.

Whoever makes an image could have any file of the user's published by it. So
each of these names a file with a secret in it, and none may be opened; that is
proved by what QEMU would have read of it, if it had been asked.
"""

import errno
import fcntl
import gzip
import json
import os
import pathlib
import socket
import struct
import sys
import time

import fixtures

from amiclient import confinement
from amiclient import errors
from amiclient import process
from amiclient.source import qemu_nbd
from amiclient.source import resolve
from amiclient.tests import base
from amiclient.tests.disks import disks
from amiclient.tests.disks import triple
from amiclient.tests.oracle import exttree

MIB = disks.MIB

#: Lets one client connect, and finds only then that there is a lock.
_LATE = """#!{}
import socket, sys
(path,) = (a[9:] for a in sys.argv if a.startswith('--socket='))
server = socket.socket(socket.AF_UNIX)
server.bind(path)
server.listen()
client, _ = server.accept()
client.close()
sys.exit("qemu-nbd: Failed to blk_new_open 'x': Failed to get a lock")
"""


class HostileCase(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.work = self.tmp()
        self.secret = self.directory / 'secret'
        root = triple.root(self.directory, size=8 * MIB)
        disks.make(self.secret, [disks.Part(8, root)])
        self.tree = exttree.read_tree(root)

    def qemu(self, *words) -> None:
        process.run(['qemu-img', *words], access=None)

    def opened(self, path: pathlib.Path, **choice):
        return resolve.opened(
            path, resolve.Choice(work_directory=self.work, **choice)
        )

    def refused(self, path: pathlib.Path, **choice) -> str:
        def run() -> None:
            with self.opened(path, **choice):
                self.fail('it was taken')

        message = str(self.assertRaises(errors.SourceError, run))
        self.assertNotIn('\n', message)
        self.assertEqual([], os.listdir(self.work))
        return message

    def layer(self, name: str, backing, kind: str = 'raw') -> pathlib.Path:
        path = self.directory / name
        self.qemu(
            *('create', '-q', '-u', '-f', 'qcow2', '-F', kind),
            *('-b', backing, path, str(20 * MIB)),
        )
        return path


class TestBackingFiles(HostileCase):
    def test_refused(self) -> None:
        path = self.layer('a', 'secret')
        told = self.refused(path)
        self.assertIn('it has the backing file secret', told)
        self.assertIn('--allow-backing-file', told)

    def test_not_opened_by_qemu_either(self) -> None:
        """Should the header say another thing by then."""
        path = self.layer('a', 'secret')
        node = {'driver': 'qcow2', 'backing': None}
        node['file'] = {'driver': 'file', 'filename': str(path)}
        target = self.directory / 'out'
        self.qemu('convert', '-O', 'raw', f'json:{json.dumps(node)}', target)
        self.assertFalse(any(target.read_bytes()))

    def test_allowed(self) -> None:
        path = self.layer('b', 'a', 'qcow2')
        self.layer('a', 'secret')
        with self.opened(path, allow_backing_file=True) as source:
            self.assertEqual(self.tree, exttree.read_tree(source.root))

    def test_beside_what_is_compressed(self) -> None:
        """Not beside the copy that is made of it."""
        self.layer('b', 'a', 'qcow2')
        below = self.directory / 'below'
        below.mkdir()
        self.layer('a', 'below/c', 'qcow2')
        # From where that is itself.
        self.secret.rename(below / 'secret')
        self.layer('below/c', 'secret')
        packed = self.directory / 'b.gz'
        packed.write_bytes(gzip.compress((self.directory / 'b').read_bytes()))
        link = self.tmp() / 'link'
        link.symlink_to(packed)
        for path in (packed, link):
            with self.opened(path, allow_backing_file=True) as source:
                self.assertEqual(self.tree, exttree.read_tree(source.root))
        (self.directory / 'a').unlink()
        told = self.refused(packed, allow_backing_file=True)
        self.assertIn(f'{self.directory / "a"}: no such file', told)
        self.assertIn('it has the backing file a', self.refused(packed))

    def test_never_followed(self) -> None:
        for name, words in (
            ('json:{"driver":"file","filename":"secret"}', 'not a file name'),
            ('nbd://127.0.0.1/', 'not a file name'),
            ('nosuch', 'no such file'),
        ):
            path = self.layer('a', name)
            told = self.refused(path, allow_backing_file=True)
            self.assertIn(words, told)

    def test_endless(self) -> None:
        path = self.layer('a', 'b', 'qcow2')
        self.layer('b', 'a', 'qcow2')
        told = self.refused(path, allow_backing_file=True)
        self.assertIn('does not end', told)

    def test_qed(self) -> None:
        path = self.directory / 'a'
        words = ('create', '-q', '-f', 'qed', '-F', 'raw')
        self.qemu(*words, '-b', self.secret, path)
        self.assertIn('backing file', self.refused(path))
        with self.opened(path, allow_backing_file=True) as source:
            self.assertEqual(self.tree, exttree.read_tree(source.root))


class TestSwapped(HostileCase):
    """Files that have become others once they were looked at."""

    def setUp(self) -> None:
        super().setUp()
        own = triple.root(self.directory, size=8 * MIB, data=MIB, name='own')
        self.own = exttree.read_tree(own)
        self.assertNotEqual(self.tree, self.own)
        self.disk = disks.make(self.directory / 'disk', [disks.Part(8, own)])

    def swap(
        self, path: pathlib.Path, other: pathlib.Path
    ) -> fixtures.MockPatchObject:
        """Replace a file by another one just before QEMU begins."""
        real = process.background

        def started(*words, **options):
            other.replace(path)
            return real(*words, **options)

        return fixtures.MockPatchObject(process, 'background', started)

    def test_image(self) -> None:
        for kind in ('qcow2', 'vmdk'):
            path = disks.convert(self.disk, kind)
            with (
                self.swap(path, disks.convert(self.secret, kind)),
                qemu_nbd.opened(
                    qemu_nbd.DiskImage(path, kind, 'a'), self.work
                ) as medium,
            ):
                data = medium.read(0, medium.size)
            # Both are too long to be shown.
            self.assertIs(True, data == self.disk.read_bytes())

    def test_backing_file(self) -> None:
        path = self.layer('a', 'disk')
        with (
            self.swap(self.disk, self.secret),
            self.opened(path, allow_backing_file=True) as source,
        ):
            self.assertEqual(self.own, exttree.read_tree(source.root))

    def test_backing_file_that_looks_like_another_format(self) -> None:
        """A guest can write to a raw disk what it likes."""
        path = self.layer('a', 'b')
        self.layer('b', 'secret')
        told = self.refused(path, allow_backing_file=True)
        self.assertIn('which is said to be raw, but is qcow2', told)


class TestOtherFiles(HostileCase):
    def test_data_file(self) -> None:
        path, other = self.directory / 'a', self.directory / 'other'
        self.qemu(
            *('create', '-q', '-f', 'qcow2', '-o', f'data_file={other}'),
            *(path, str(20 * MIB)),
        )
        told = self.refused(path, allow_backing_file=True)
        self.assertIn('its data are in another file', told)

    def test_vmdk_descriptor(self) -> None:
        """Text that names extents; it looks like text, and is refused."""
        path = self.directory / 'a'
        size = self.secret.stat().st_size // 512
        path.write_text(
            '# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n'
            'createType="monolithicFlat"\n'
            f'RW {size} FLAT "secret" 0\n'
        )
        with self.opened(path) as source:
            # Nobody takes it for a filesystem.
            self.assertEqual(path, source.root)

    def test_vmdk_with_extents(self) -> None:
        """Sparse images whose embedded descriptor names another file.

        It is refused, or else the data are the image's own.
        """
        root = triple.root(self.directory, size=8 * MIB, data=MIB, name='own')
        tree = exttree.read_tree(root)
        self.assertNotEqual(self.tree, tree)
        disk = disks.make(self.directory / 'disk', [disks.Part(8, root)])
        path = self.directory / 'sparse'
        self.qemu('convert', '-f', 'raw', '-O', 'vmdk', disk, path)
        data = path.read_bytes()
        refused = 0
        for old, new in (
            (b'', b''),
            (b'"monolithicSparse"', b'"monolithicFlat"'),
            (b'"monolithicSparse"', b'"vmfs"'),
            (b'SPARSE "sparse"', b'FLAT "secret" 0'),
            (b'SPARSE "sparse"', b'SPARSE "secret"'),
            (b'SPARSE "sparse"', b'SPARSE "/tmp/x"'),
            (b'RW ', b'RW 1 FLAT "/etc/shadow" 0\nRW '),
        ):
            self.assertIn(old, data)
            # The descriptor keeps its length: zeros follow it.
            place = data.index(old) + len(old) if old else 0
            more = len(new) - len(old)
            end = data.index(bytes(64), place)
            path.write_bytes(
                data[: place - len(old)]
                + new
                + data[place:end]
                + bytes(max(0, -more))
                + data[end + max(0, more) :]
            )
            self.assertEqual(len(data), path.stat().st_size)
            try:
                with self.opened(path) as source:
                    self.assertEqual(tree, exttree.read_tree(source.root))
            except errors.SourceError as error:
                self.assertIn('of its VMDK descriptor is not', str(error))
                refused += 1
        self.assertGreaterEqual(refused, 3)

    def test_differencing(self) -> None:
        for kind, offset, value in (
            ('vpc', 60, struct.pack('>I', 4)),
            ('vdi', 0x4C, struct.pack('<I', 4)),
        ):
            path = disks.convert(self.secret, kind)
            with path.open('r+b') as file:
                file.seek(offset)
                file.write(value)
            self.assertIn('has a backing file', self.refused(path))

    def test_encrypted(self) -> None:
        path = self.directory / 'a'
        self.qemu('create', '-q', '-f', 'qcow2', path, str(MIB))
        with path.open('r+b') as file:
            file.seek(32)
            file.write(struct.pack('>I', 2))
        self.assertIn('an encrypted qcow2 image', self.refused(path))


class TestDamage(HostileCase):
    def test_cut_short(self) -> None:
        path = disks.convert(self.secret, 'qcow2')
        whole = path.stat().st_size
        for size in (60, 5000, 70000, 140000, whole // 2):
            os.truncate(path, size)
            self.refused(path)

    def test_random(self) -> None:
        """Whatever is in the header, there is an answer, in one line."""
        for kind in ('qcow2', 'vdi', 'vhdx', 'vpc'):
            path = disks.convert(self.secret, kind)
            whole = path.read_bytes()
            for _ in range(8):
                data = bytearray(whole)
                for _ in range(4):
                    place = self.random.randrange(8, 160)
                    data[place] = self.random.randrange(256)
                path.write_bytes(data)
                try:
                    with self.opened(path, allow_backing_file=True) as source:
                        if source.own:
                            exttree.read_tree(source.root)
                except errors.AmiError as error:
                    self.assertNotIn('\n', str(error))
                self.assertEqual([], os.listdir(self.work))

    def test_in_use(self) -> None:
        path = disks.convert(self.secret, 'qcow2')
        node = {
            'driver': 'qcow2',
            'file': {'driver': 'file', 'filename': str(path)},
        }
        place = os.open(self.directory, os.O_PATH)
        self.addCleanup(os.close, place)
        # The path of a socket must not have more than 107 bytes.
        sock = pathlib.Path(f'/proc/{os.getpid()}/fd/{place}/sock')
        leases = self.has_leases(path)
        with process.background(
            ['qemu-nbd', f'--socket={sock}', f'json:{json.dumps(node)}'],
            access=None,
        ) as server:
            self.connect(server, sock)
            if leases:
                self.assertIn('open for writing', self.refused(path))
            # Where there are none, as on network filesystems.
            self.useFixture(
                fixtures.MockPatchObject(resolve.busy, 'refuse_busy')
            )
            self.assertIn('another program writes to it', self.refused(path))

    def has_leases(self, path: pathlib.Path) -> bool:
        """Tell whether it can be told here that nobody writes to a file."""
        with path.open('rb') as file:
            try:
                fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            except OSError as error:
                # With EAGAIN, somebody writes to it.
                self.assertNotEqual(errno.EAGAIN, error.errno)
                return False
        return True

    def connect(self, server: process.Running, sock: pathlib.Path) -> None:
        """Wait until a qemu-nbd has its disk image open."""
        connection = socket.socket(socket.AF_UNIX)
        self.addCleanup(connection.close)
        while True:
            self.assertIsNone(server.status, server.tail())
            try:
                connection.connect(str(sock))
            except (FileNotFoundError, ConnectionRefusedError):
                time.sleep(0.01)
            else:
                break
        # It lets clients connect before, but greets none.
        qemu_nbd.Client(connection, 'a')

    def test_in_use_as_is_told_once_connected(self) -> None:
        path = disks.convert(self.secret, 'qcow2')
        late = self.directory / 'bin/qemu-nbd'
        late.parent.mkdir()
        late.write_text(_LATE.format(sys.executable))
        late.chmod(0o755)
        # What Python is made of is not among what it may open.
        self.patch(confinement, 'confine', lambda *_: [])
        path_ = os.pathsep.join((str(late.parent), os.environ['PATH']))
        self.useFixture(fixtures.EnvironmentVariable('PATH', path_))
        self.assertIn('another program writes to it', self.refused(path))

    def test_on_a_device(self) -> None:
        path = disks.convert(self.secret, 'qcow2')
        # Whole sectors of 4096 bytes.
        os.truncate(path, -(-path.stat().st_size // 4096) * 4096)
        try:
            words = ['losetup', '--find', '--show', '--read-only', path]
            device = process.run(words, access=None).text.strip()
        except errors.ProgramError:
            self.skipTest('no loop devices here')
        self.addCleanup(
            process.run, ['losetup', '--detach', device], access=None
        )
        with self.opened(pathlib.Path(device)) as source:
            self.assertEqual(self.tree, exttree.read_tree(source.root))

    def test_changed_meanwhile(self) -> None:
        path = disks.convert(self.secret, 'qcow2')
        real = resolve.filesystem.take

        def take(*words, **options) -> None:
            real(*words, **options)
            # Whatever parts of a second the filesystem has.
            os.utime(path, (1, 1))

        self.useFixture(
            fixtures.MockPatchObject(resolve.filesystem, 'take', take)
        )
        self.assertIn('was changed while', self.refused(path))
