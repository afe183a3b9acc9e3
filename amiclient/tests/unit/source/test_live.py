# SPDX-License-Identifier: Apache-2.0

"""squashfs, alone and in ISO images as live media have it."""

import contextlib
import hashlib
import os
import pathlib
import shutil
import stat
import struct
import subprocess

import fixtures

from amiclient import distribution
from amiclient import errors
from amiclient import process
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

    def test_holes(self) -> None:
        """sqfs2tar writes zeros for them."""
        path = self.tree / 'hole'
        with path.open('wb') as file:
            file.write(b'begin')
            file.truncate(200 * MIB + 5)
            file.seek(100 * MIB + 100)
            file.write(b'middle')
        blank = self.tree / 'zeros'
        blank.write_bytes(bytes(5000))
        os.truncate(self.tree / 'usr/bin/a', 4 * MIB)
        choice = resolve.Choice(work_directory=self.work)
        with resolve.opened(self.squashfs(), choice) as source:
            process.run(['e2fsck', '-f', '-n', source.root], access=None)
            tree = exttree.read_tree(source.root)
            self.assertLess(source.root.stat().st_size, 40 * MIB)
        found = tree[b'/hole']
        self.assertEqual(200 * MIB + 5, found.size)
        made = self.directory / 'made'
        with made.open('wb') as file:
            file.write(b'begin')
            file.seek(100 * MIB + 100)
            file.write(b'middle')
            file.truncate(200 * MIB + 5)
        with made.open('rb') as file:
            self.assertEqual(
                hashlib.file_digest(file, 'sha256').hexdigest(), found.sha256
            )
        self.assertEqual(5000, tree[b'/zeros'].size)

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
        self.assertIn(distribution.remedy('sqfs2tar') or '', text)


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

    def layered(self, listed: str) -> pathlib.Path:
        """Make a medium as that of Ubuntu, with three layers."""
        (self.tree / 'etc/conf.d').mkdir()
        for name in ('etc/gone', 'etc/conf.d/old', 'usr/lib/file'):
            (self.tree / name).write_text('lower')
        (self.tree / 'usr/lib/directory').mkdir()
        (self.tree / 'usr/lib/directory/f').write_text('lower')
        files = {'casper/minimal.squashfs': self.squashfs()}
        self.tree = self.directory / 'upper'
        for name in ('etc/conf.d', 'usr/lib/file'):
            (self.tree / name).mkdir(parents=True)
        for name in ('etc/conf.d/new', 'usr/lib/file/f', 'usr/lib/directory'):
            (self.tree / name).write_text('upper')
        os.mknod(self.tree / 'etc/gone', stat.S_IFCHR, os.makedev(0, 0))
        os.mknod(self.tree / 'etc/never', stat.S_IFCHR, os.makedev(0, 0))
        with contextlib.suppress(PermissionError):
            for name in ('opaque', 'origin'):
                os.setxattr(
                    self.tree / 'etc/conf.d', f'trusted.overlay.{name}', b'y'
                )
        files['casper/minimal.standard.squashfs'] = self.squashfs('upper.s')
        self.tree = self.directory / 'live'
        (self.tree / 'casper').mkdir(parents=True)
        files['casper/minimal.standard.live.squashfs'] = self.squashfs('l')
        files['casper/install-sources.yaml'] = self.directory / 'yaml'
        files['casper/install-sources.yaml'].write_text(listed)
        return self.iso(files, '-r')

    def test_layers(self) -> None:
        path = self.layered(
            '- default: false\n  path: minimal.squashfs\n'
            '- default: true\n  type: fsimage-layered\n'
            '  path: minimal.standard.squashfs\n'
        )
        self.check(path)
        choice = resolve.Choice(work_directory=self.work)
        with resolve.opened(path, choice) as source:
            tree = exttree.read_tree(source.root)
        self.assertIn(
            'casper/minimal.standard.squashfs in an ISO image, in 2 layers',
            ' '.join(source.notes),
        )
        self.assertNotIn(b'/casper', tree)
        for name in (b'/etc/gone', b'/etc/never', b'/usr/lib/directory/f'):
            self.assertNotIn(name, tree)
        self.assertEqual('file', tree[b'/usr/lib/directory'].type)
        for name in (b'/etc/conf.d/new', b'/usr/lib/file/f'):
            self.assertEqual(5, tree[name].size)
        if os.geteuid() == 0:
            self.assertNotIn(b'/etc/conf.d/old', tree)
        self.assertEqual({}, dict(tree[b'/etc/conf.d'].xattrs))

    def test_default_of_one_layer(self) -> None:
        listed = '- {default: true, path: minimal.squashfs}\n'
        choice = resolve.Choice(work_directory=self.work)
        path = self.layered(listed)
        with resolve.opened(path, choice) as source:
            tree = exttree.read_tree(source.root)
        self.assertIn(b'/etc/conf.d/old', tree)
        # Not all that has a name like that is a layer.
        listed = (
            '- {default: true, type: fsimage, path: minimal.standard.squashfs}'
        )
        again = self.iso(
            {
                'casper/minimal.squashfs': self.directory / 's',
                'casper/minimal.standard.squashfs': self.directory / 's',
                'casper/install-sources.yaml': self.text(listed),
            },
            '-r',
        )
        self.check(again)

    def text(self, text: str) -> pathlib.Path:
        path = self.directory / 'text'
        path.write_text(text)
        return path

    def test_layers_that_are_not_known(self) -> None:
        path = self.layered('- default: true\n  path: a.b.squashfs\n')
        self.assertIn(
            'casper/install-sources.yaml in it names a.b.squashfs, and '
            'casper/a.squashfs is not there',
            self.refused(path),
        )

    def test_list_that_makes_no_sense(self) -> None:
        for text in ('', ']', '- 1\n', 'a: b\n', '- {default: true}\n'):
            self.tree = self.directory / 'tree'
            for name in ('etc/conf.d', 'usr/lib/directory'):
                shutil.rmtree(self.tree / name, ignore_errors=True)
            for name in ('upper', 'live'):
                shutil.rmtree(self.directory / name, ignore_errors=True)
            text = self.refused(self.layered(text))
            self.assertIn('several root filesystems may be meant', text)

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
