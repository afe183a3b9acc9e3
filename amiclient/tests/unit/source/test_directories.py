# SPDX-License-Identifier: Apache-2.0

"""Directories as sources: where they end, however they are nested."""

import os
import pathlib
import subprocess
import sys

import fixtures

from amiclient.source import build
from amiclient.source import directory
from amiclient.tests.oracle import exttree
from amiclient.tests.unit.source import test_build

_BUILD = (
    'import logging, pathlib, sys\n'
    'from amiclient.source import build, directory\n'
    'logging.basicConfig(format="%(message)s")\n'
    'source, output = map(pathlib.Path, sys.argv[1:])\n'
    'print(directory.size(source))\n'
    'build.execute(build.plan(build.BuildRequest(source, output)))\n'
)


class TestMounts(test_build.BuildCase):
    def setUp(self) -> None:
        super().setUp()
        self.source = self.directory / 'c'
        host = self.directory / 'host'
        for name in ('c/etc', 'c/home', 'c/proc', 'host'):
            (self.directory / name).mkdir(parents=True)
        (self.source / 'etc' / 'own').write_bytes(b'own' * 1000)
        (self.source / 'etc' / 'resolv.conf').write_bytes(b'own')
        (host / 'key').write_bytes(b'secret')
        os.link(host / 'key', host / 'resolv.conf')
        os.chmod(host, 0o1777)

    def mounted(self, *lines: str) -> subprocess.CompletedProcess[str]:
        """Build, where lines of shell have mounted something."""
        unshare = ['unshare', '--map-root-user', '--mount']
        script = '\n'.join(('set -e', *lines, 'exec "$@"'))
        root = pathlib.Path(build.__file__).parents[2]
        options = {
            'cwd': self.directory,
            'env': {**os.environ, 'PYTHONPATH': str(root)},
            'capture_output': True,
            'text': True,
            'check': False,
        }
        words = [*unshare, 'sh', '-c', script, 'sh']
        if subprocess.run([*words, 'true'], **options).returncode:
            self.skipTest('nothing can be mounted here')
        words += [sys.executable, '-c', _BUILD, 'c', str(self.output)]
        done = subprocess.run(words, **options)
        self.assertEqual(0, done.returncode, done.stderr)
        return done

    def test_bound(self) -> None:
        done = self.mounted(
            'mount --bind host c/home',
            'mount --bind host/resolv.conf c/etc/resolv.conf',
        )
        self.assertEqual(
            'c: what is mounted within it is left out: etc/resolv.conf, '
            'home\n',
            done.stderr,
        )
        # Of what is there, not of what is mounted.
        self.assertEqual('3000\n', done.stdout)
        found = exttree.read_tree(self.output)
        self.assertEqual(
            {b'/', b'/etc', b'/etc/own', b'/home', b'/lost+found', b'/proc'},
            set(found),
        )
        self.assertEqual(0o1777, found[b'/home'].mode)
        self.assertNotIn(b'secret', self.output.read_bytes())

    def test_proc(self) -> None:
        # Parts of it may not be listed by anybody.
        done = self.mounted('mount --rbind /proc c/proc')
        self.assertIn('left out: proc\n', done.stderr)
        found = exttree.read_tree(self.output)
        self.assertEqual([], [n for n in found if n.startswith(b'/proc/')])

    def test_many(self) -> None:
        done = self.mounted(
            'for i in 1 2 3 4 5 6 7; do mkdir -p c/$i; '
            'mount -t tmpfs none c/$i; done',
        )
        self.assertIn('left out: 1, 2, 3, 4, 5 and 2 more\n', done.stderr)

    def test_the_source_itself(self) -> None:
        done = self.mounted('mount --bind c c')
        self.assertEqual('', done.stderr)
        found = exttree.read_tree(self.output)
        self.assertIn(b'/etc/own', found)

    def test_old_kernels(self) -> None:
        descriptor = os.open(self.source, os.O_RDONLY)
        self.addCleanup(os.close, descriptor)
        names = (b'.', b'etc', b'etc/own')
        found = [directory.mount_id(descriptor, name) for name in names]
        self.assertIsNotNone(found[0])
        self.useFixture(
            fixtures.MonkeyPatch(f'{directory.__name__}._STATX', None)
        )
        self.assertEqual(
            found, [directory.mount_id(descriptor, name) for name in names]
        )
        self.assertRaises(OSError, directory.mount_id, descriptor, b'missing')


class TestDepth(test_build.BuildCase):
    def nested(self, depth: int) -> pathlib.Path:
        """Make directories in each other, with a file behind each."""
        source = self.directory / 'deep'
        source.mkdir()
        here = os.open(source, os.O_RDONLY)
        for _ in range(depth):
            os.mkdir('d', dir_fd=here)
            os.close(os.open('z', os.O_WRONLY | os.O_CREAT, dir_fd=here))
            inner = os.open('d', os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = inner
        os.close(here)
        # What shutil has for it ends with too many open files.
        self.addCleanup(subprocess.run, ['rm', '-rf', source], check=True)
        return source

    def test_deep(self) -> None:
        source = self.nested(500)
        open_before = len(os.listdir('/proc/self/fd'))
        most = 0

        def watched(*words: object) -> int | None:
            nonlocal most
            most = max(most, len(os.listdir('/proc/self/fd')))
            return 1

        self.useFixture(
            fixtures.MonkeyPatch(f'{directory.__name__}.mount_id', watched)
        )
        built = self.build(source)
        self.assertEqual(1000, built.files)
        self.assertLess(most - open_before, 80)
        self.assertEqual(open_before, len(os.listdir('/proc/self/fd')))

    def test_too_deep(self) -> None:
        source = self.nested(3000)
        self.assertIn('4095 bytes are the most', self.refused(source))
        self.assertEqual(0, directory.size(source))
