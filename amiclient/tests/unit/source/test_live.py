# SPDX-License-Identifier: Apache-2.0

"""squashfs, alone and in ISO images as live media have it."""

import os
import pathlib
import shutil
import struct
import subprocess

import fixtures

from amiclient import errors
from amiclient.source import resolve
from amiclient.tests import base
from amiclient.tests.disks import triple
from amiclient.tests.oracle import exttree

MIB = 1 << 20


class LiveCase(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        for program in ('mksquashfs', 'sqfs2tar', 'xorriso'):
            if shutil.which(program) is None:
                self.skipTest(f'{program} is not installed')
        self.directory, self.work = self.tmp(), self.tmp()
        self.tree = self.directory / 'tree'
        for name in ('etc', 'usr/bin', 'usr/lib', 'tmp'):
            (self.tree / name).mkdir(parents=True)
        (self.tree / 'etc/os-release').write_text('ID=debian\n')
        (self.tree / 'usr/bin/a').write_bytes(os.urandom(3 * MIB))
        (self.tree / 'usr/bin/a').chmod(0o4755)
        os.link(self.tree / 'usr/bin/a', self.tree / 'usr/bin/b')
        (self.tree / 'bin').symlink_to('usr/bin')
        (self.tree / 'tmp').chmod(0o1777)
        os.setxattr(self.tree / 'etc/os-release', 'user.note', b'hello')
        os.utime(self.tree / 'usr/bin/a', (1600000000, 1600000000))

    def squashfs(self, name: str = 's', *options: str) -> pathlib.Path:
        path = self.directory / name
        words = ['mksquashfs', self.tree, path, '-quiet', '-no-progress']
        subprocess.run(
            [*words, '-all-root', *options],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return path

    def iso(self, files: dict[str, pathlib.Path], *options: str):
        path, top = self.directory / 'iso', self.tmp()
        for name, file in files.items():
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, top / name)
        words = ['xorriso', '-as', 'mkisofs', '-quiet', '-V', 'LIVE']
        subprocess.run(
            [*words, *options, '-o', path, top],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        return path

    def check(self, path: pathlib.Path, kind: str = 'squashfs') -> None:
        choice = resolve.Choice(work_directory=self.work)
        with resolve.opened(path, choice) as source:
            self.assertIn(kind, source.format)
            tree = exttree.read_tree(source.root)
        a = tree[b'/usr/bin/a']
        self.assertEqual((b'/usr/bin/a', b'/usr/bin/b'), a.names)
        self.assertEqual(
            (0o4755, 0, 1600000000 * 10**9), (a.mode, a.uid, a.mtime)
        )
        self.assertEqual(b'usr/bin', tree[b'/bin'].target)
        self.assertEqual(0o1777, tree[b'/tmp'].mode)
        self.assertEqual(
            {b'user.note': b'hello'}, tree[b'/etc/os-release'].xattrs
        )
        self.assertEqual([], os.listdir(self.work))

    def refused(self, path: pathlib.Path, kind=errors.SourceError) -> str:
        def run() -> None:
            choice = resolve.Choice(work_directory=self.work)
            with resolve.opened(path, choice) as source:
                source.image()

        text = str(self.assertRaises(kind, run))
        self.assertIn(path.name, text)
        self.assertNotIn('\n', text)
        self.assertEqual([], os.listdir(self.work))
        return text


class TestSquashfs(LiveCase):
    def test_compressions(self) -> None:
        for kind in ('gzip', 'xz', 'zstd', 'lzo'):
            self.check(self.squashfs(kind, '-comp', kind))

    def test_mode_of_the_root(self) -> None:
        self.tree.chmod(0o700)
        choice = resolve.Choice(work_directory=self.work)
        with resolve.opened(self.squashfs(), choice) as source:
            self.assertEqual(0o700, exttree.read_tree(source.root)[b'/'].mode)

    def test_longer_than_what_is_remembered(self) -> None:
        (self.tree / 'aaa').write_bytes(os.urandom(40 * MIB))
        self.check(self.squashfs('s', '-noI', '-noD', '-noF'))

    def test_build(self) -> None:
        choice = resolve.Choice(work_directory=self.work)
        with resolve.origin(self.squashfs(), choice) as (origin, _):
            self.assertEqual('squashfs', origin.format)

    def test_damaged(self) -> None:
        path = self.squashfs()
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        self.assertIn('cut short: its squashfs', self.refused(path))
        path.write_bytes(whole[:96] + os.urandom(len(whole) - 96))
        self.assertIn('damaged squashfs', self.refused(path))
        path.write_bytes(b'sqsh' + whole[4:])
        self.refused(path)

    def test_program_that_is_missing(self) -> None:
        path = self.squashfs()
        self.useFixture(fixtures.EnvironmentVariable('PATH', os.devnull))

        def run() -> None:
            with resolve.opened(path):
                pass

        text = str(self.assertRaises(errors.ProgramError, run))
        self.assertIn('sqfs2tar was not found', text)
        self.assertIn('squashfs-tools-ng', text)


class TestIso(LiveCase):
    def test_layouts(self) -> None:
        path = self.squashfs()
        kernel = self.directory / 'kernel'
        kernel.write_bytes(os.urandom(MIB))
        for name in (
            'casper/filesystem.squashfs',
            'live/filesystem.squashfs',
            'arch/x86_64/airootfs.sfs',
            'some/where/else.bin',
        ):
            for options in ([], ['-r'], ['-r', '-J']):
                self.check(
                    self.iso({name: path, 'casper/vmlinuz': kernel}, *options)
                )

    def test_compressed(self) -> None:
        path = self.squashfs()
        for each in (path, self.iso({'live/filesystem.squashfs': path})):
            subprocess.run(['xz', '-0', '--keep', '--force', each], check=True)
            self.check(each.with_name(each.name + '.xz'))

    def test_filesystem_in_the_squashfs(self) -> None:
        """As Fedora and CentOS had it for many years."""
        root = triple.root(self.directory, size=24 * MIB, data=2 * MIB)
        shutil.rmtree(self.tree)
        (self.tree / 'LiveOS').mkdir(parents=True)
        shutil.copy(root, self.tree / 'LiveOS/rootfs.img')
        path = self.iso({'LiveOS/squashfs.img': self.squashfs()}, '-r')
        choice = resolve.Choice(work_directory=self.work)
        with resolve.opened(path, choice) as source:
            self.assertEqual(
                exttree.read_tree(root), exttree.read_tree(source.root)
            )

    def test_filesystem_in_the_iso(self) -> None:
        root = triple.root(self.directory, size=24 * MIB, data=2 * MIB)
        path = self.iso({'LiveOS/rootfs.img': root}, '-r')
        choice = resolve.Choice(work_directory=self.work)
        with resolve.opened(path, choice) as source:
            self.assertEqual(
                exttree.read_tree(root), exttree.read_tree(source.root)
            )

    def test_several(self) -> None:
        path = self.squashfs()
        text = self.refused(self.iso({'a/b.sfs': path, 'c.sfs': path}, '-r'))
        self.assertIn('several root filesystems', text)
        self.check(
            self.iso(
                {
                    'casper/filesystem.squashfs': path,
                    'casper/installer.squashfs': path,
                },
                '-r',
            )
        )

    def test_none(self) -> None:
        text = self.refused(self.iso({'a': self.tree / 'usr/bin/a'}))
        self.assertIn('no root filesystem was found', text)
        self.assertIn('; install', text)

    def test_damaged(self) -> None:
        """Directories without end, files beyond the end, and nonsense."""
        path = self.iso({'a/b/s': self.squashfs()}, '-r')
        whole = path.read_bytes()
        path.write_bytes(whole[: 20 * 2048])
        self.refused(path)
        path.write_bytes(whole[: len(whole) // 2])
        self.refused(path)
        root = 16 * 2048 + 156
        (start,) = struct.unpack_from('<I', whole, root + 2)
        # After that of the directory itself, and that of the one above.
        first = start * 2048
        for _ in range(2):
            first += whole[first]
        for at, value in (
            (root + 10, struct.pack('<I', 0xFFFFFFFF)),
            (root + 2, struct.pack('<I', 0xFFFFFFFF)),
            # The first subdirectory is the root again.
            (first + 2, struct.pack('<I', start)),
            (first + 10, struct.pack('<I', 0x7FFFFFFF)),
            (start * 2048 + 32, b'\xff'),
        ):
            data = bytearray(whole)
            data[at : at + len(value)] = value
            path.write_bytes(data)
            self.refused(path)
