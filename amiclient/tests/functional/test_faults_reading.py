# SPDX-License-Identifier: Apache-2.0

"""Sources that cannot be read, or that change while they are read."""

import os
import pathlib
import re

from amiclient import process
from amiclient.tests.disks import triple
from amiclient.tests.faults import actions as faults_actions
from amiclient.tests.faults import failing_disk
from amiclient.tests.faults import stuck
from amiclient.tests.functional import base
from amiclient.tests.functional import upload

_MIB = 2**20


class TestBadSectors(upload.UploadCase):
    """A disk that gives EIO in some places."""

    def setUp(self) -> None:
        super().setUp()
        self.root = triple.root(
            self.directory, size=32 * _MIB, data=8 * _MIB, name='big.img'
        )
        content = (self.directory / 'tree' / 'data').read_bytes()
        wanted = content[4 * _MIB : 4 * _MIB + 4096]
        # In the middle of a file.
        self.spot = self.root.read_bytes().find(wanted)
        self.assertGreater(self.spot, 0)

    def failing(self, path: pathlib.Path, first: int) -> pathlib.Path:
        """Make a copy of a file that cannot be read in one place."""
        disk = failing_disk.FailingDisk(path, (first, first + 512))
        try:
            self.disk = self.useFixture(disk)
        except failing_disk.CannotMount as error:
            self.skipTest(f'cannot mount: {error}')
        return self.disk.path

    def failed(self, path: pathlib.Path, *words: object) -> str:
        """Check that a command names the file and fails in one line."""
        if self.disk.own == 'host':
            done = self.spawn_openstack('ami', *words)
        else:
            argv = [*base.COMMAND, 'ami', *map(str, words)]
            done = self.finished(self.disk.command(argv))
        self.assertEqual((1, ''), (done.status, done.stdout), done)
        self.assertEqual(1, done.stderr.count('\n'), done.stderr)
        self.assertIn(f'{path} cannot be read at byte ', done.stderr)
        self.assertIn('Input/output error', done.stderr)
        self.assertEqual([], self.images())
        # The disk itself is mounted below.
        left = [p for p in self.work.iterdir() if 'amiclient' in p.name]
        self.assertEqual([], left)
        return done.stderr

    def page(self, spot: int) -> str:
        return f' at byte {spot - spot % 4096}:'

    def test_shrink(self) -> None:
        path = self.failing(self.root, self.spot)
        output = self.directory / 'output'
        text = self.failed(path, 'shrink', path, '--output', output)
        self.assertIn(self.page(self.spot), text)
        self.assertFalse(output.exists())

    def test_upload(self) -> None:
        path = self.failing(self.root, self.spot)
        text = self.failed(path, 'upload', path, *self.parts)
        self.assertIn(self.page(self.spot), text)

    def test_upload_as_it_is(self) -> None:
        path = self.failing(self.root, self.spot)
        text = self.failed(path, 'upload', path, *self.parts, '--no-shrink')
        self.assertIn(self.page(self.spot), text)

    def test_metadata(self) -> None:
        found = process.run(['dumpe2fs', self.root], access=None).text
        size = int(re.search(r'^Block size: +(\d+)', found, re.MULTILINE)[1])
        spot = int(re.search(r'Inode table at (\d+)', found)[1]) * size
        path = self.failing(self.root, spot)
        output = self.directory / 'output'
        text = self.failed(path, 'shrink', path, '--output', output)
        where = int(re.search(r'at byte (\d+):', text)[1])
        self.assertEqual(spot // 4096, where // 4096)

    def test_kernel_and_ramdisk(self) -> None:
        for noun, path in (('kernel', self.kernel), ('ramdisk', self.ramdisk)):
            with path.open('ab') as file:
                file.write(self.random.randbytes(3 * _MIB))
            failing = self.failing(path, 2 * _MIB)
            text = self.failed(failing, noun, 'upload', failing)
            self.assertIn(self.page(2 * _MIB), text)
            text = self.failed(failing, noun, 'upload', failing, '--no-reuse')
            self.assertIn(self.page(2 * _MIB), text)

    def test_block_device(self) -> None:
        self.failing(self.root, self.spot)
        try:
            device = self.disk.loop()
        except failing_disk.CannotMount as error:
            self.skipTest(f'no loop devices: {error}')
        output = self.directory / 'output'
        self.failed(device, 'shrink', device, '--output', output)
        self.assertFalse(output.exists())
        self.failed(device, 'upload', device, *self.parts, '--no-shrink')


class TestChanging(upload.UploadCase):
    """A file that somebody writes to while it is sent."""

    def setUp(self) -> None:
        super().setUp()
        # More than the buffers of sockets hold.
        self.root = triple.root(
            self.directory, size=32 * _MIB, data=24 * _MIB, name='big.img'
        )

    def refused_once_sent(self, path, change, *words: object) -> str:
        """Change a file when a part of it has been sent.

        :param path: the file.
        """
        way = self.useFixture(stuck.Way(self.cloud, self.directory))
        size = path.stat().st_size
        act = faults_actions.meanwhile(0.1, change)
        way.proxy.rule(act, method='PUT', path='/file$', length=size)
        finished: base.Finished = self.run_openstack('ami', *words)
        self.assertEqual((1, ''), (finished.status, finished.stdout), finished)
        self.assertEqual(1, finished.stderr.count('\n'), finished.stderr)
        self.assertEqual([], self.images())
        self.assertNothingLeft()
        return finished.stderr

    def touch_end(self, path: pathlib.Path) -> None:
        with path.open('r+b') as file:
            file.seek(-1, os.SEEK_END)
            file.write(b'x')

    def test_filesystem(self) -> None:
        text = self.refused_once_sent(
            self.root, lambda: self.touch_end(self.root),
            'upload', self.root, *self.parts, '--no-shrink',
        )  # fmt: skip
        self.assertIn(f'{self.root} was changed while it was read', text)

    def test_filesystem_cut_short(self) -> None:
        text = self.refused_once_sent(
            self.root, lambda: os.truncate(self.root, 30 * _MIB),
            'upload', self.root, *self.parts, '--no-shrink',
        )  # fmt: skip
        self.assertIn(f'{self.root} was ', text)

    def test_kernel(self) -> None:
        with self.kernel.open('ab') as file:
            file.write(self.random.randbytes(16 * _MIB))
        text = self.refused_once_sent(
            self.kernel, lambda: self.touch_end(self.kernel),
            'kernel', 'upload', self.kernel, '--no-reuse',
        )  # fmt: skip
        self.assertIn(f'{self.kernel} was changed while it was read', text)
