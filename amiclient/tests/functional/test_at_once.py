# SPDX-License-Identifier: Apache-2.0

"""Two commands for one path at the same time."""

import os
import pathlib
import shutil
import signal

from amiclient import process
from amiclient.tests.cloud import forkserver as openstack_server
from amiclient.tests.disks import triple
from amiclient.tests.faults import stuck
from amiclient.tests.functional import base
from amiclient.tests.oracle import exttree


class TestAtOnce(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.place = self.tmp()
        self.root = triple.root(self.place, size=64 * 2**20, data=2**20)
        self.root = self.root.rename(self.directory / 'root.img')
        self.archive = self.place / 'tree.tar'
        shutil.make_archive(
            str(self.archive.with_suffix('')), 'tar', self.place / 'tree'
        )
        self.before = self.root.read_bytes()

    def held(self, *words: object, program: str) -> openstack_server.Forked:
        """Start a command that does not get beyond a program."""
        with stuck.Endless(program, self.place) as endless:
            running = self.start_openstack('ami', *words)
            endless.wait(running)
        return running

    def stopped(
        self, directory: pathlib.Path, start: str, *words: object
    ) -> openstack_server.Forked:
        """Start a command; it stops once such a file is there."""
        with stuck.Stopping(directory, start, self.place) as stopping:
            running = self.start_openstack('ami', *words)
            # A stopped process gets no other signal than this.
            self.addCleanup(running.send_signal, signal.SIGCONT)
            stopping.wait(running)
        return running

    def end(self, running: openstack_server.Forked) -> None:
        running.send_signal(signal.SIGINT)
        _, stderr = running.communicate(timeout=stuck.LATE)
        self.assertEqual(130, running.returncode, stderr)

    def refused(self, word: str, *words: object) -> None:
        names = sorted(self.directory.iterdir())
        finished = self.run_openstack('ami', *words)
        self.assertEqual((1, ''), (finished.status, finished.stdout), words)
        self.assertEqual(
            f'{self.root} is being {word} by another process; wait for it, '
            'or end it\n',
            finished.stderr,
        )
        self.assertEqual(names, sorted(self.directory.iterdir()))
        self.assertEqual(self.before, self.root.read_bytes())

    def writers(self) -> list[tuple[object, ...]]:
        return [
            ('shrink', self.root, '--in-place'),
            ('shrink', self.root),
            ('build', self.archive, '--output', self.root),
            ('shrink', self.archive, '--output', self.root),
        ]

    def readers(self) -> list[tuple[object, ...]]:
        return [
            ('shrink', self.root, '--dry-run'),
            ('shrink', self.root, '--output', self.directory / 'other.img'),
            ('inspect', self.root),
            ('check', self.root, '--ignore', 'no-kernel'),
            ('extract', self.root, '--directory', self.directory / 'files'),
            ('upload', self.root, '--no-kernel'),
            ('upload', self.root, '--no-kernel', '--no-shrink'),
            ('boot', self.root, '--kernel', triple.kernel(self.place)),
        ]

    def check_writer(self, *words: object) -> None:
        running = self.held(*words, program='resize2fs')
        for others in self.readers() + self.writers():
            self.refused('changed', *others)
        self.end(running)
        self.assertEqual(self.before, self.root.read_bytes())
        self.openstack('ami', *words)
        process.run(['e2fsck', '-f', '-n', self.root], access=None)

    def test_while_it_is_shrunk_in_place(self) -> None:
        self.check_writer('shrink', self.root, '--in-place')

    def test_while_it_is_replaced(self) -> None:
        self.check_writer('shrink', self.root)

    def test_while_it_is_read(self) -> None:
        words = ('upload', self.root, '--no-kernel')
        running = self.held(*words, program='resize2fs')
        for others in self.writers():
            self.refused('read', *others)
        # Any number may read it.
        for others in self.readers()[:-1]:
            finished = self.run_openstack('ami', *others)
            self.assertNotIn('another process', finished.stderr)
        self.openstack('ami', *words)
        self.end(running)
        self.openstack('ami', 'shrink', self.root, '--in-place')

    def test_while_a_saved_one_is_read(self) -> None:
        saved = self.directory / 'saved'
        self.openstack('ami', 'extract', self.root, '--directory', saved,
                       stderr=None)  # fmt: skip
        self.root = saved / 'root.img'
        self.before = self.root.read_bytes()
        words = ('upload', saved, '--no-kernel')
        running = self.held(*words, program='resize2fs')
        self.refused('read', 'shrink', self.root, '--in-place')
        # What is the same already is left alone.
        self.openstack('ami', 'extract', saved, '--directory', saved,
                       stderr=None)  # fmt: skip
        self.end(running)

    def test_while_what_it_is_in_is_read(self) -> None:
        packed = self.directory / 'root.img.gz'
        shutil.copy(self.archive, packed)
        running = self.held('inspect', packed, program='e2fsck')
        finished = self.run_openstack(
            *('ami', 'build', self.archive, '--output', packed)
        )
        self.assertIn(f'{packed} is being read', finished.stderr)
        self.end(running)

    def check_output(self, *words: object) -> None:
        """Two that make one file: the last one wins, and it is whole."""
        output = self.directory / 'made.img'
        words = (*words, '--output', output)
        running = self.stopped(self.directory, f'.{output.name}.', *words)
        self.openstack('ami', *words)
        first = output.stat().st_ino
        running.send_signal(signal.SIGCONT)
        _, stderr = running.communicate(timeout=stuck.LATE)
        self.assertEqual((0, ''), (running.returncode, stderr))
        self.assertNotEqual(first, output.stat().st_ino)
        process.run(['e2fsck', '-f', '-n', output], access=None)
        self.assertIn(b'/etc/os-release', exttree.read_tree(output))
        self.assertEqual(
            ['made.img', 'root.img'], sorted(os.listdir(self.directory))
        )
        # What one is about to replace, nobody else may replace or read.
        running = self.stopped(self.directory, f'.{output.name}.', *words)
        for others in (words, ('inspect', output)):
            finished = self.run_openstack('ami', *others)
            self.assertEqual(1, finished.status)
            self.assertIn(f'{output} is being changed', finished.stderr)
        running.kill()

    def test_two_built(self) -> None:
        self.check_output('build', self.archive)

    def test_two_shrunk(self) -> None:
        self.check_output('shrink', self.root)
