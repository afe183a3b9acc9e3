# SPDX-License-Identifier: Apache-2.0

"""``openstack ami shrink``, as a user runs it: with no cloud about."""

import os
import signal

import fixtures

from amiclient import process
from amiclient.tests.disks import triple
from amiclient.tests.faults import stuck
from amiclient.tests.functional import base
from amiclient.tests.oracle import exttree

COLUMNS = [
    'image',
    'output',
    'filesystem',
    'block_size',
    'block_count',
    'size',
    'size_before',
    'in_use',
    'lower_bound',
    'saved',
]


class TestShrink(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        # Local commands need none of this.
        for name in ('OS_CLOUD', 'OS_CLIENT_CONFIG_FILE'):
            self.useFixture(fixtures.EnvironmentVariable(name))
        self.directory = self.tmp()
        self.root = triple.root(
            self.directory, size=64 * 2**20, data=5 * 2**20
        )
        self.before = self.root.read_bytes()

    def refused(self, *words: object) -> str:
        names = sorted(self.directory.iterdir())
        finished = self.run_openstack('ami', 'shrink', *words)
        self.assertEqual(1, finished.status, finished)
        self.assertEqual('', finished.stdout)
        self.assertEqual(1, finished.stderr.count('\n'), finished.stderr)
        self.assertEqual(names, sorted(self.directory.iterdir()))
        self.assertEqual(self.before, self.root.read_bytes())
        return finished.stderr

    def test_output(self) -> None:
        output = self.directory / 'small.img'
        told = self.openstack_json(
            'ami', 'shrink', self.root, '--output', output
        )
        self.assertEqual(COLUMNS, list(told))
        self.assertEqual(str(self.root), told['image'])
        self.assertEqual(str(output), told['output'])
        self.assertEqual(output.stat().st_size, told['size'])
        self.assertEqual(
            told['block_count'] * told['block_size'], told['size']
        )
        self.assertEqual(len(self.before), told['size_before'])
        self.assertEqual(len(self.before) - told['size'], told['saved'])
        self.assertLess(told['size'], told['lower_bound'] * 1.01)
        self.assertEqual(self.before, self.root.read_bytes())
        process.run(['e2fsck', '-f', '-n', output], access=None)
        self.assertEqual(
            exttree.read_tree(self.root), exttree.read_tree(output)
        )

    def test_replaced(self) -> None:
        tree = exttree.read_tree(self.root)
        self.root.chmod(0o640)
        told = self.openstack_json('ami', 'shrink', self.root)
        self.assertEqual(self.root.stat().st_size, told['size'])
        self.assertEqual(0o100640, self.root.stat().st_mode)
        self.assertEqual(tree, exttree.read_tree(self.root))

    def test_dry_run(self) -> None:
        planned = self.openstack_json('ami', 'shrink', self.root, '--dry-run')
        self.assertEqual(self.before, self.root.read_bytes())
        self.assertEqual(
            ['root.img', 'tree'],
            sorted(p.name for p in self.directory.iterdir()),
        )
        done = self.openstack_json('ami', 'shrink', self.root)
        self.assertEqual(COLUMNS, list(planned))
        for key in ('size', 'block_count', 'saved', 'output', 'lower_bound'):
            self.assertEqual(done[key], planned[key], key)

    def test_options(self) -> None:
        output = self.directory / 'small.img'
        words = ('ami', 'shrink', self.root, '--output', output)
        least = self.openstack_json(*words, '--journal', 'none')
        roomy = self.openstack_json(
            *words, '--journal', 'none', '--headroom', '8M'
        )
        self.assertGreaterEqual(roomy['size'] - least['size'], 7 * 2**20)
        value = self.openstack(*words, '-f', 'value', '-c', 'filesystem')
        self.assertEqual('ext4\n', value)

    def test_refused(self) -> None:
        text = self.root.with_name('notes')
        text.write_text('no filesystem\n' * 1000)
        self.assertIn('notes', self.refused(text))
        self.assertIn('nosuch', self.refused(self.directory / 'nosuch'))
        self.refused(self.root, '--output', self.directory / 'no' / 'such')
        self.refused(self.root, '--output', self.root)
        with self.root.open('r+b'):
            self.assertIn('open for writing', self.refused(self.root))

    def test_ctrl_c(self) -> None:
        before = self.root.stat()
        resize2fs = self.useFixture(stuck.Endless('resize2fs', self.tmp()))
        child = self.start_openstack('ami', 'shrink', self.root)
        resize2fs.wait(child)
        self.assertEqual(1, len(list(self.directory.glob('.*'))))
        os.kill(child.pid, signal.SIGINT)
        stdout, stderr = child.communicate(timeout=stuck.LATE)
        self.assertEqual((130, ''), (child.returncode, stdout))
        self.assertEqual('interrupted\n', stderr)
        self.assertEqual(
            ['root.img', 'tree'],
            sorted(p.name for p in self.directory.iterdir()),
        )
        self.assertEqual(before.st_ino, self.root.stat().st_ino)
        self.assertEqual(before.st_mtime_ns, self.root.stat().st_mtime_ns)
