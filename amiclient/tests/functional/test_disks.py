# SPDX-License-Identifier: Apache-2.0

"""``openstack ami upload`` of disks, whole, and of what is in them."""

import hashlib
import json
import pathlib
import tarfile

import fixtures

from amiclient.ext import superblock
from amiclient import process
from amiclient.tests.disks import disks
from amiclient.tests.disks import volume_groups
from amiclient.tests.functional import upload
from amiclient.tests.oracle import exttree
from amiclient.tests.unit.rootfs import samples
from amiclient.tests.unit.source.test_logical_volumes import without_guestfish

MIB = disks.MIB


class TestDisks(upload.UploadCase):
    def setUp(self) -> None:
        super().setUp()
        tree = self.directory / 'boot-tree'
        tree.mkdir()
        for version in ('6.1.0-9', '6.1.0-10'):
            for name, data in (
                ('vmlinuz', self.kernel.read_bytes()),
                ('initrd.img', self.ramdisk.read_bytes()),
            ):
                path = tree / f'{name}-{version}'
                path.write_bytes(data + (b'' if '10' in version else b'old'))
        boot = self.directory / 'boot'
        with boot.open('wb') as file:
            file.truncate(8 * MIB)
        process.run(['mke2fs', '-q', '-F', '-d', tree, boot], access=None)
        self.disk = disks.make(
            self.directory / 'machine.raw',
            [
                disks.Part(2, type='U'),
                disks.Part(8, boot),
                disks.Part(16, self.root),
            ],
        )

    def take(self, path: pathlib.Path, *words: str):
        # What was chosen is said, unless the user has chosen.
        note = f'{path}: kernel 6.1.0-10 was found in it\n'
        return self.openstack_json(
            'ami',
            'upload',
            path,
            *words,
            stderr='' if '--kernel' in words else note,
        )

    def check(self, told) -> None:
        came = self.download(told['id'])
        self.assertEqual(exttree.read_tree(self.root), exttree.read_tree(came))
        process.run(['e2fsck', '-f', '-n', came], access=None)
        for noun, path in (('kernel', self.kernel), ('ramdisk', self.ramdisk)):
            self.assertEqual(
                path.read_bytes(),
                self.download(told[f'{noun}_id']).read_bytes(),
            )
        self.assertNothingLeft()

    def test_qcow2(self) -> None:
        """Root, kernel and ramdisk come from it; the newest, at that."""
        image = disks.convert(self.disk, 'qcow2', '-c')
        before = hashlib.sha512(image.read_bytes()).digest()
        planned = self.take(image, '--dry-run')
        self.assertEqual('planned', planned['status'])
        self.assertEqual([], self.images())
        self.assertNothingLeft()
        told = self.take(image)
        self.assertEqual(planned['size'], told['size'])
        self.assertEqual('machine-qcow21', told['name'])
        self.check(told)
        self.assertEqual(before, hashlib.sha512(image.read_bytes()).digest())
        # The same bytes as from the filesystem alone.
        again = self.upload('--name', 'machine-qcow21')
        self.assertIn(told['id'], again['reused'])
        self.assertEqual(0, again['uploaded'])

    def test_in_archives(self) -> None:
        """As appliances come, plain and compressed."""
        image = disks.convert(
            self.disk, 'vmdk', '-o', 'subformat=streamOptimized'
        )
        for name, mode in (('a.ova', 'w'), ('a.tar.gz', 'w:gz')):
            path = self.directory / name
            with tarfile.open(path, mode) as archive:
                archive.add(self.kernel, 'description.ovf')
                archive.add(image, 'disk.vmdk')
            told = self.take(path)
            self.assertEqual('a', told['name'])
            self.check(told)

    def test_logical_volumes(self) -> None:
        """Nothing but this package reads them."""
        self.useFixture(
            fixtures.MockPatchObject(process, 'find', without_guestfish)
        )
        entries = '/dev/mapper/v--g-root / ext4\n/dev/v-g/var /var ext4\n'
        (self.directory / 'fstab').write_text(entries)
        var = self.directory / 'var'
        with var.open('wb') as file:
            file.truncate(4 * MIB)
        tree = self.directory / 'var-tree'
        tree.mkdir()
        (tree / 'status').write_bytes(b'status' * 9999)
        process.run(['mke2fs', '-q', '-F', '-d', tree, var], access=None)
        process.run(
            [
                'debugfs', '-w', '-R',
                f'write {self.directory}/fstab /etc/fstab', self.root,
            ],
            access=None,
        )  # fmt: skip
        boot = self.disk.with_name('boot')
        path = disks.make(
            self.directory / 'machine',
            [disks.Part(8, boot), disks.Part(24, type=disks.LVM)],
        )
        segment = volume_groups.Segment
        volumes = [
            volume_groups.Volume('var', [segment(32, [(0, 3)])], var),
            volume_groups.Volume(
                'root',
                [segment(40, [(0, 80)]), segment(40, [(0, 36)])],
                self.root,
            ),
        ]
        volume_groups.fill(path, [9 * MIB], [24 * MIB], 'v-g', volumes)
        image = disks.convert(path, 'qcow2')
        finished = self.run_openstack(
            'ami', 'upload', image, '--fix', '-f', 'json'
        )
        self.assertEqual(0, finished.status, finished)
        self.assertIn('/var (logical volume v-g/var, an', finished.stderr)
        told = json.loads(finished.stdout)
        came = exttree.read_tree(self.download(told['id']))
        status = came.pop(b'/var/status')
        self.assertEqual(59994, status.size)
        fstab = came.pop(b'/etc/fstab')
        root = exttree.read_tree(self.root)
        for names in (root, came):
            for path in [p for p in names if p.startswith(b'/var')]:
                del names[path]
        del root[b'/etc/fstab']
        self.assertEqual(root.keys(), came.keys())
        self.assertGreater(fstab.size, 0)
        for path, entry in root.items():
            self.assertEqual(
                (entry.sha256, entry.mode, entry.uid, entry.xattrs),
                (came[path].sha256, came[path].mode, came[path].uid,
                 came[path].xattrs),
                path,
            )  # fmt: skip
        self.assertNothingLeft()

    def test_unified_kernel(self) -> None:
        """Kernel and ramdisk come from the EFI system partition."""
        tree = self.directory / 'esp-tree'
        (tree / 'EFI' / 'Linux').mkdir(parents=True)
        (tree / 'EFI' / 'Linux' / 'a.efi').write_bytes(
            samples.unified('6.1.0-10')
        )
        esp = disks.fat(self.directory / 'esp', tree)
        disk = disks.make(
            self.directory / 'machine',
            [
                disks.Part(4, esp, type=disks.ESP),
                disks.Part(16, self.root, type=disks.ROOT),
            ],
        )
        told = self.take(disks.convert(disk, 'qcow2', '-c'))
        kernel = samples.bzimage(release=b'6.1.0-10 (x@y) #1\0')
        self.kernel.write_bytes(kernel)
        self.check(told)
        told = self.openstack_json('ami', 'inspect', disk)
        (found,) = told['kernels']
        self.assertEqual(
            ('6.1.0-10', '/EFI/Linux/a.efi', 'unified'),
            (found['version'], found['kernel'], found['source']),
        )
        self.assertEqual(
            [True, False], [part['boot'] for part in told['partitions']]
        )

    def test_inspected(self) -> None:
        image = disks.convert(self.disk, 'vhdx')
        told = self.openstack_json('ami', 'inspect', image)
        self.assertEqual('vhdx disk, gpt', told['format'])
        self.assertEqual(3, told['partition'])
        self.assertEqual(self.root.stat().st_size, told['size'])
        self.assertEqual('debian', told['os_distro'])
        self.assertEqual('6.1.0-10', told['kernels'][0]['version'])
        self.assertEqual(
            [(1, False, False), (2, False, True), (3, True, False)],
            [(p['number'], p['root'], p['boot']) for p in told['partitions']],
        )
        self.assertEqual(
            'an ext4 filesystem', told['partitions'][2]['content']
        )
        table = self.openstack('ami', 'inspect', image, '-c', 'partitions')
        self.assertIn(f'3: {16 * MIB} bytes, an ext4 filesystem', table)
        self.assertNothingLeft()

    def test_compressed_raw(self) -> None:
        process.run(['xz', '-1', self.disk], access=None)
        told = self.take(pathlib.Path(f'{self.disk}.xz'), '--no-shrink')
        self.assertEqual('machine', told['name'])
        self.assertEqual(self.root.stat().st_size, told['size'])
        self.check(told)

    def test_saved_as_qcow2(self) -> None:
        """It is smaller, and can be saved and uploaded as it was."""
        # What is free takes no room in it.
        self.set_headroom('16M')
        words = ('--image-format', 'qcow2')
        self.assertEqual('planned', self.upload(*words, '--dry-run')['status'])
        told = self.upload(*words)
        self.assertEqual(
            ('qcow2', 'bare'), (told['disk_format'], told['container_format'])
        )
        came = self.download(told['id'])
        self.assertEqual(told['size'], came.stat().st_size)
        process.run(['qemu-img', 'check', '-f', 'qcow2', came], access=None)
        plain = came.with_name('plain')
        process.run(
            ['qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', came, plain],
            access=None,
        )
        self.assertLess(told['size'], plain.stat().st_size / 4)
        self.assertEqual(
            exttree.read_tree(self.root), exttree.read_tree(plain)
        )
        self.assertEqual(1, self.get(told['id'])['min_disk'])
        # The same again is there already.
        self.assertIn(told['id'], self.upload(*words)['reused'])
        saved = self.openstack_json(
            'ami', 'save', told['id'], '--directory', self.directory / 'saved'
        )
        again = self.openstack_json('ami', 'upload', saved['directory'])
        self.assertIn(told['id'], again['reused'])
        self.assertEqual(0, again['uploaded'])
        # As it is, without being shrunk, and with an old boot sector.
        with self.root.open('r+b') as file:
            file.seek(510)
            file.write(b'\x55\xaa')
        told = self.upload(
            '--no-shrink',
            '--name',
            'blank',
            *words,
            stderr=f'{self.root}: an old boot sector in its first 1024 bytes '
            'is sent as zeros, because Nova would treat the image as a '
            'partitioned disk\n',
        )
        came = self.download(told['id'])
        process.run(
            ['qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', came, plain],
            access=None,
        )
        self.assertEqual(bytes(1024), plain.read_bytes()[:1024])
        self.assertEqual(self.root.stat().st_size, plain.stat().st_size)
        self.assertEqual(
            exttree.read_tree(self.root), exttree.read_tree(plain)
        )
        self.assertNothingLeft()

    def test_several(self) -> None:
        disk = disks.make(
            self.directory / 'two.raw',
            [disks.Part(16, self.root), disks.Part(16, self.root)],
            label='dos',
        )
        told = self.refused('ami', 'upload', disk, *self.parts)
        self.assertIn('several partitions have a root filesystem', told)
        self.assertIn('--partition', told)
        told = self.take(disk, '--partition', '2', *self.parts)
        self.check(told)

    def test_shrink_into_a_file(self) -> None:
        image = disks.convert(self.disk, 'vmdk')
        output = self.directory / 'small.img'
        told = self.openstack_json('ami', 'shrink', image, '--output', output)
        self.assertEqual(str(image), told['image'])
        self.assertEqual(str(output), told['output'])
        self.assertEqual(told['size'], output.stat().st_size)
        self.assertEqual(
            exttree.read_tree(self.root), exttree.read_tree(output)
        )
        plain = self.directory / 'plain.img'
        self.openstack_json('ami', 'shrink', self.root, '--output', plain)
        self.assertEqual(
            superblock.read(plain).block_count,
            superblock.read(output).block_count,
        )
        left = {each.name for each in self.directory.iterdir()}
        self.assertEqual([], [name for name in left if 'amiclient-' in name])
        self.assertIn('disk image', self.refused('ami', 'shrink', image))
