# SPDX-License-Identifier: Apache-2.0

"""Of a system of ostree, the deployment that boots is taken."""

import logging
import os
import pathlib
import shutil
import subprocess
import tarfile

import fixtures

from amiclient import errors
from amiclient import process
from amiclient.rootfs import boot_files
from amiclient.rootfs import check
from amiclient.source import build
from amiclient.source import resolve
from amiclient.tests import base
from amiclient.tests.disks import disks
from amiclient.tests.disks import ostree_system
from amiclient.tests.oracle import exttree

NEW, OLD = ostree_system.NEW, ostree_system.OLD

KERNEL = f'/boot/vmlinuz-{ostree_system.RELEASE}'
RAMDISK = f'/boot/initramfs-{ostree_system.RELEASE}.img'


class TestOstree(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.work = self.tmp()
        self.log = self.useFixture(fixtures.FakeLogger(level=logging.WARNING))

    def system(self, fstab: str = '') -> pathlib.Path:
        return ostree_system.make(self.tmp(), fstab)

    def filesystem(
        self, tree: pathlib.Path, name: str, *options: str
    ) -> pathlib.Path:
        path = self.directory / name
        with path.open('wb') as file:
            file.truncate(8 * disks.MIB)
        argv = ['mke2fs', '-q', '-F', '-t', 'ext4', *options, '-d', tree]
        process.run([*argv, path], access=None)
        return path

    def taken(
        self, path: pathlib.Path, checksum: str = NEW
    ) -> dict[bytes, exttree.Entry]:
        """Take a source, and see that all of a deployment is there."""
        choice = resolve.Choice(work_directory=self.work)
        with resolve.opened(path, choice) as source:
            process.run(['e2fsck', '-f', '-n', source.root], access=None)
            (kernel,) = boot_files.find(source.root, source.boot)
            self.notes = ' '.join(source.notes)
            self.merged = source.merged
            found = exttree.read_tree(source.root)
            rules = {
                each.rule
                for each in check.apply(
                    source.root, None, None, boot_options=kernel.options
                )
            }
        self.assertEqual([], os.listdir(self.work))
        self.assertEqual(
            (KERNEL, (RAMDISK,), ostree_system.RELEASE, ''),
            (kernel.kernel, kernel.ramdisks, kernel.version, kernel.options),
        )
        self.assertNotIn('ostree', rules)
        self.assertEqual(20 * len(checksum), found[KERNEL.encode()].size)
        self.assertEqual(
            {b'boot', b'etc', b'home', b'lost+found', b'ostree', b'sbin',
             b'sysroot', b'tmp', b'usr', b'var'},
            {name[1:] for name in found if name.count(b'/') == 1} - {b''},
        )  # fmt: skip
        tool = found[b'/usr/bin/tool']
        self.assertEqual(
            ((b'/usr/bin/same', b'/usr/bin/tool'), 2, 0o4755),
            (tool.names, tool.links, tool.mode),
        )
        self.assertEqual(b'noted', tool.xattrs[b'user.note'])
        self.assertEqual(b'sysroot/ostree', found[b'/ostree'].target)
        self.assertEqual(0o1777, found[b'/sysroot/tmp'].mode)
        self.assertNotIn(b'/var/hidden', found)
        self.assertIn(
            f'its root filesystem is the deployment {checksum}.0 of ostree',
            self.log.output,
        )
        return found

    def test_filesystem(self) -> None:
        tree = self.system()
        path = self.filesystem(tree, 'image')
        # As ostree leaves it; the other bit says that it has extents.
        place = f'/{ostree_system.deployment(NEW)}'
        subprocess.run(
            ['debugfs', '-w', '-R', f'sif {place} flags 0x80010', path],
            check=True,
            capture_output=True,
        )
        found = self.taken(path)
        self.assertIn('other deployments are left out: 1', self.log.output)
        self.assertEqual(4, found[b'/var/home/core/f'].size)
        self.assertEqual(0, found[b'/'].flags & 0x10)

    def test_compressed(self) -> None:
        path = self.filesystem(self.system(), 'image')
        process.run(['gzip', path], access=None)
        self.taken(path.with_name('image.gz'))

    def test_directory(self) -> None:
        self.taken(self.system())

    def test_archive(self) -> None:
        tree = self.system()
        path = self.directory / 'archive.tar'
        argv = ['tar', '-C', tree, '--xattrs', '--numeric-owner', '-cf', path]
        process.run([*argv, '.'], access=None)
        self.taken(path)
        with tarfile.open(path) as archive:
            self.assertIn('./ostree/repo', archive.getnames())

    def test_build(self) -> None:
        request = build.BuildRequest(self.system(), self.directory / 'made')
        build.execute(build.plan(request))
        found = exttree.read_tree(request.output)
        self.assertIn(KERNEL.encode(), found)
        self.assertNotIn(b'/ostree/repo', found)

    def test_rolled_back(self) -> None:
        """The boot loader says what boots, not what is newer."""
        tree = self.system()
        entries = tree / 'boot/loader.1/entries'
        first = entries / 'ostree-1.conf'
        first.write_text(first.read_text().replace('version 1', 'version 3'))
        self.taken(self.filesystem(tree, 'image'), OLD)

    def test_no_entries(self) -> None:
        tree = self.system()
        shutil.rmtree(tree / 'boot/loader.1')
        for checksum, time in ((NEW, 10**9), (OLD, 10**9 + 5)):
            modules = tree / ostree_system.deployment(checksum)
            origin = modules.with_name(f'{modules.name}.origin')
            os.utime(origin, (time, time))
            modules /= f'usr/lib/modules/{ostree_system.RELEASE}'
            modules.mkdir(parents=True)
            (modules / 'vmlinuz').write_bytes(b'kernel' * 200)
        with resolve.opened(self.filesystem(tree, 'image')) as source:
            (kernel,) = boot_files.find(source.root)
        self.assertEqual(
            f'/usr/lib/modules/{ostree_system.RELEASE}/vmlinuz', kernel.kernel
        )
        self.assertIn(f'is the deployment {OLD}.0', self.log.output)

    def test_lost_link(self) -> None:
        """Of one deployment, it is clear which one is meant."""
        tree = self.system()
        shutil.rmtree(tree / ostree_system.deployment(OLD))
        (tree / 'boot/loader.1/entries/ostree-1.conf').unlink()
        shutil.rmtree(tree / 'ostree/boot.1.1')
        self.taken(tree)

    def test_partitions(self) -> None:
        """As Fedora CoreOS has /boot, and others what fstab mounts."""
        tree = self.system(
            'LABEL=homes /home ext4 defaults 0 0\n'
            'LABEL=var /var ext4 defaults 0 0\n'
        )
        home, var = self.tmp(), self.tmp()
        (home / 'u').write_bytes(b'u')
        (var / 'home').mkdir()
        (var / 'log').write_bytes(b'log')
        boot = self.filesystem(tree / 'boot', 'boot', '-L', 'boot')
        shutil.rmtree(tree / 'boot')
        (tree / 'boot').mkdir()
        path = disks.make(
            self.directory / 'disk',
            [
                disks.Part(8, boot),
                disks.Part(8, self.filesystem(tree, 'root')),
                disks.Part(8, self.filesystem(home, 'home', '-L', 'homes')),
                disks.Part(8, self.filesystem(var, 'var', '-L', 'var')),
            ],
        )
        found = self.taken(path)
        self.assertEqual({'/boot', '/home', '/var'}, set(self.merged))
        self.assertIn('/boot (partition 1, an ext4 filesystem)', self.notes)
        self.assertIn(b'/var/home/u', found)
        self.assertIn(b'/var/log', found)
        self.assertNotIn(b'/var/home/core', found)
        self.assertNotIn(b'/boot/grub2', found)

    def test_composed(self) -> None:
        tree = self.system()
        top = tree / ostree_system.deployment(NEW)
        (top / '.ostree.cfs').write_bytes(b'erofs')
        config = top / ostree_system.CONFIG
        with resolve.opened(tree):
            pass
        self.assertIn('composefs, which keeps', self.log.output)
        (top / '.ostree.cfs').unlink()
        for text, said in (
            ('[composefs]\nenabled = no\n', False),
            ('no file of that kind', False),
            ('[composefs]\nenabled = signed\n', True),
        ):
            config.parent.mkdir(exist_ok=True)
            config.write_text(text)
            (top / 'usr/lib/bootc').mkdir(exist_ok=True)
            self.log.reset_output()
            with resolve.opened(tree):
                pass
            self.assertIn('0 of bootc', self.log.output)
            self.assertIs(said, 'composefs' in self.log.output, text)

    def refused(self, tree: pathlib.Path) -> str:
        words = set()
        for path in (tree, self.filesystem(tree, f'{tree.name}.img')):
            choice = resolve.Choice(work_directory=self.work)
            error = self.assertRaises(
                errors.SourceError, resolve.opened(path, choice).__enter__
            )
            words.add(str(error).removeprefix(f'{path}: '))
        self.assertEqual([], os.listdir(self.work))
        (one,) = words
        return one

    def test_no_files(self) -> None:
        """There may be nothing but the objects that composefs shows."""
        tree = self.system()
        for checksum in (NEW, OLD):
            shutil.rmtree(tree / ostree_system.deployment(checksum) / 'usr')
        words = self.refused(tree)
        self.assertIn('that only composefs can show', words)
        self.assertIn('give the container image', words)
        tree = self.tmp()
        (tree / 'composefs/objects/aa').mkdir(parents=True)
        (tree / 'state/deploy/cc/var').mkdir(parents=True)
        self.assertIn('that only composefs can show', self.refused(tree))

    def test_no_deployment(self) -> None:
        tree = self.tmp()
        (tree / 'ostree/deploy/fcos/var').mkdir(parents=True)
        (tree / 'boot').mkdir()
        self.assertEqual(
            'a system of ostree without a deployment', self.refused(tree)
        )
