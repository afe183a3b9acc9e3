# SPDX-License-Identifier: Apache-2.0

"""Disks in every form: the root filesystem that comes out, and what does not.

The trees are compared by a reader of their own; what was read of a disk is
told by what is in the copy.
"""

import os
import pathlib
import tarfile

from amiclient import errors
from amiclient.ext import superblock
from amiclient import process
from amiclient.source import resolve
from amiclient.tests import base
from amiclient.tests.disks import disks
from amiclient.tests.disks import triple
from amiclient.tests.oracle import exttree

MIB = disks.MIB

_SECRET = b'what was deleted long ago '


class DiskCase(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.work = self.tmp()
        self.root = triple.root(self.directory, size=24 * MIB, data=2 * MIB)
        self.tree = exttree.read_tree(self.root)
        found = process.find

        def find(program: str) -> str:
            if program == 'guestfish':
                # It would take a while, and is tested elsewhere.
                raise errors.ProgramError(
                    'guestfish was not found', hint='install libguestfs'
                )
            return found(program)

        self.patch(process, 'find', find)

    def opened(self, path: pathlib.Path, **choice):
        wanted = resolve.Choice(work_directory=self.work, **choice)
        return resolve.opened(path, wanted)

    def refused(self, path: pathlib.Path, kind=errors.AmiError, **choice):
        def run() -> None:
            with self.opened(path, **choice):
                self.fail('it was taken')

        message = str(self.assertRaises(kind, run))
        self.assertNotIn('\n', message)
        self.assertEqual([], os.listdir(self.work))
        return message

    def check(self, path: pathlib.Path, **choice) -> resolve.Source:
        """Take a disk's root filesystem, and compare it with the original."""
        with self.opened(path, **choice) as source:
            self.assertEqual(self.tree, exttree.read_tree(source.root))
            process.run(['e2fsck', '-f', '-n', source.root], access=None)
            self.assertTrue(source.own)
            self.assertEqual(0o600, source.root.stat().st_mode & 0o777)
            used = source.root.stat().st_blocks * 512
            self.assertLess(used, self.root.stat().st_blocks * 512 + MIB)
            with source.root.open('rb') as file:
                self.assertNotIn(_SECRET, file.read())
        self.assertEqual([], os.listdir(self.work))
        return source

    def other(self, *names: str, **options) -> pathlib.Path:
        """Make a filesystem with empty files in it."""
        tree = self.tmp()
        for name in names:
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes(b'x' * 5000)
        path = self.tmp() / 'other'
        with path.open('wb') as file:
            file.truncate(options.pop('size', 4 * MIB))
        process.run(['mke2fs', '-q', '-F', '-d', tree, path], access=None)
        return path

    def disk(self, *parts: disks.Part, **options) -> pathlib.Path:
        return disks.make(self.directory / 'disk', parts, **options)

    def traditional(self) -> pathlib.Path:
        """Make one with a boot and a swap partition, and deleted data."""
        self.boot = self.other('vmlinuz-6.1.0-1', 'initrd.img-6.1.0-1')
        path = self.disk(
            disks.Part(2, type='U'),
            disks.Part(4, self.boot),
            disks.Part(24, self.root),
            disks.Part(3, _SECRET * 50000, type='S'),
        )
        with path.open('r+b') as file:
            # Where the root filesystem has nothing.
            file.seek((1 + 2 + 4 + 20) * MIB)
            self.assertEqual(bytes(MIB), file.read(MIB))
            file.seek(-MIB, os.SEEK_CUR)
            file.write(_SECRET * 1000)
        return path


class TestFormats(DiskCase):
    def test_raw(self) -> None:
        source = self.check(self.traditional())
        self.assertEqual('raw disk, gpt', source.format)
        self.assertEqual(3, source.partition)
        self.assertEqual('disk', source.name)

    def test_images(self) -> None:
        path = self.traditional()
        for kind, *options in (
            ('qcow2',),
            ('qcow2', '-c'),
            ('qcow2', '-c', '-o', 'compression_type=zstd'),
            ('qcow2', '-o', 'compat=0.10'),
            ('vmdk', '-o', 'subformat=monolithicSparse'),
            ('vmdk', '-o', 'subformat=streamOptimized'),
            ('vpc',),
            ('vpc', '-o', 'subformat=fixed'),
            ('vhdx',),
            ('vdi',),
        ):
            image = disks.convert(path, kind, *options)
            source = self.check(image)
            self.assertEqual(3, source.partition, (kind, *options))

    def test_boot_partition(self) -> None:
        boot = {}
        with self.opened(self.traditional()) as source:
            assert source.boot
            boot = exttree.read_tree(source.boot)
        self.assertIn(b'/vmlinuz-6.1.0-1', boot)
        self.assertEqual(exttree.read_tree(self.boot), boot)

    def test_boot_partition_by_fstab(self) -> None:
        """Where what is in them would not tell."""
        boots = [self.other('vmlinuz-1'), self.other('vmlinuz-2')]
        found = superblock.read(boots[1])
        etc = self.directory / 'tree' / 'etc'
        for spec in (
            f'UUID={found.uuid}',
            '/dev/sda2',
            '/dev/nvme0n1p2',
            f'/dev/disk/by-uuid/{found.uuid}',
        ):
            (etc / 'fstab').write_text(f'{spec} /boot/ ext2 defaults 0 2\n')
            self.root = triple.root(self.directory, size=24 * MIB)
            path = self.disk(
                disks.Part(4, boots[0]),
                disks.Part(4, boots[1]),
                disks.Part(24, self.root),
                disks.Part(2, b'XFSB'),
            )
            with self.opened(path) as source:
                self.assertEqual(('/boot',), source.merged, spec)
                self.assertIn(
                    b'/boot/vmlinuz-2', exttree.read_tree(source.root), spec
                )
        (etc / 'fstab').write_text('/dev/sda4 /boot xfs defaults 0 2\n')
        root = triple.root(self.directory, size=24 * MIB)
        disks.fill(path, [(root, 9 * MIB)])
        self.assertIn('which reads an XFS filesystem', self.refused(path))

    def test_mbr(self) -> None:
        path = self.disk(disks.Part(2), disks.Part(24, self.root), label='dos')
        self.assertEqual(2, self.check(path).partition)

    def test_mbr_in_a_vhd_of_fixed_size(self) -> None:
        """Its beginning is that of a raw disk, whose size is another."""
        path = self.disk(disks.Part(24, self.root), label='dos')
        image = disks.convert(path, 'vpc', '-o', 'subformat=fixed')
        self.assertEqual('vhd disk, mbr', self.check(image).format)

    def test_logical_partition(self) -> None:
        path = self.disk(
            disks.Part(4, self.other('a')),
            disks.Part(32, type='E'),
            disks.Part(3, type='S', logical=True),
            disks.Part(24, self.root, logical=True),
            label='dos',
        )
        self.assertEqual(6, self.check(path).partition)

    def test_no_partitions(self) -> None:
        """An image of a filesystem alone, in a format for disks."""
        image = disks.convert(self.root, 'qcow2', '-c')
        self.assertEqual(0, self.check(image).partition)

    def test_large_sectors(self) -> None:
        begin, end = disks.gpt(8192, [(disks.LINUX, 256, 6399)], 4096)
        path = self.directory / 'disk'
        path.write_bytes(b'')
        os.truncate(path, 32 * MIB)
        disks.fill(path, [(begin, 0), (self.root, MIB)])
        disks.fill(path, [(end, 32 * MIB - len(end))])
        self.assertEqual(1, self.check(path).partition)

    def test_small_blocks(self) -> None:
        path = self.other('etc/os-release', 'a/b', size=8 * MIB)
        self.tree = exttree.read_tree(path)
        self.root = path
        self.check(disks.convert(self.disk(disks.Part(8, path)), 'qcow2'))

    def test_compressed(self) -> None:
        disk = self.traditional()
        image = disks.convert(disk, 'qcow2', '-c')
        for path in (disk, image, self.root):
            for program, suffix in (
                ('gzip', '.gz'),
                ('xz', '.xz'),
                ('bzip2', '.bz2'),
                ('zstd', '.zst'),
            ):
                process.run([program, '-1', '-k', '-q', path], access=None)
                packed = path.with_name(path.name + suffix)
                source = self.check(packed)
                self.assertEqual(path.stem, source.name)
                packed.unlink()

    def test_journal_to_be_replayed(self) -> None:
        """All is copied then, and the copy is in order."""
        process.run(
            ['debugfs', '-w', '-f', '/dev/stdin', self.root],
            input=b'feature needs_recovery\n',
            access=None,
        )
        for path in (self.disk(disks.Part(24, self.root)),):
            with self.opened(disks.convert(path, 'qcow2')) as source:
                self.assertEqual(self.tree, exttree.read_tree(source.root))
                process.run(['e2fsck', '-f', '-n', source.root], access=None)


class TestChoice(DiskCase):
    def test_several_roots(self) -> None:
        another = self.other('etc/os-release')
        path = self.disk(disks.Part(24, self.root), disks.Part(4, another))
        told = self.refused(path)
        self.assertIn('several partitions have a root filesystem: 1: ', told)
        self.assertIn(' | 2: 4.0 MiB', told)
        self.assertIn('--partition NUMBER', told)
        self.check(path, partition=1)
        with self.opened(path, partition=2) as source:
            self.assertEqual(
                exttree.read_tree(another), exttree.read_tree(source.root)
            )
        told = self.refused(path, errors.UsageError, partition=3)
        self.assertIn('there is no partition 3: 1: ', told)

    def test_two_of_one_size(self) -> None:
        root = self.other('etc/os-release')
        told = self.refused(
            self.disk(disks.Part(4, root), disks.Part(4, root))
        )
        self.assertIn('(an A/B layout, by their sizes)', told)

    def test_names_of_slots(self) -> None:
        root, larger = (
            self.other('etc/passwd', size=size * MIB) for size in (4, 5)
        )
        path = self.disk(disks.Part(4, root), disks.Part(5, larger))
        for names, phrase in (
            (('rootfs_a', 'rootfs_b'), ' (an A/B layout, by their names)'),
            (('ROOT-A', 'root-B'), ' (an A/B layout, by their names)'),
            (('one', 'two'), ''),
        ):
            for number, name in enumerate(names, 1):
                argv = ['sfdisk', '--quiet', '--part-label', path]
                process.run([*argv, str(number), name], access=None)
            told = self.refused(path)
            self.assertIn(
                f'named {names[1]}, with a root filesystem{phrase};', told
            )

    def test_parts_of_systems(self) -> None:
        """What belongs on /boot or /usr is not taken for a root."""
        for names, words in (
            (('grub2/grub.cfg', 'loader/entries/1.conf'), '/boot'),
            (('lib/os-release', 'bin/sh', 'share/x'), '/usr'),
        ):
            path = self.disk(disks.Part(4, self.other(*names)))
            told = self.refused(path)
            self.assertIn('no partition has a root filesystem', told)
            self.assertIn(f'with what belongs in {words}', told)

    def test_usr_apart(self) -> None:
        """Flatcar and others find their /usr in another way than by fstab."""
        usr = self.other('lib/os-release', 'sbin/init', 'bin/sh')
        typed = '5dfbf5f4-2848-4bac-aa5e-0d9a20b745a6'
        words = 'its /usr is a partition of its own (1: 4.0 MiB, '
        empty = self.other('var/x')
        btrfs = bytes(0x10040) + b'_BHRfS_M'
        for parts in (
            # Filled at the first boot, and after that.
            (disks.Part(4, usr, type=typed), disks.Part(4, empty)),
            (
                disks.Part(4, usr, type=typed),
                disks.Part(4, self.other('etc/os-release')),
            ),
            (disks.Part(4, btrfs, type=typed), disks.Part(4, btrfs)),
            # As somebody makes it who has no types.
            (disks.Part(4, usr), disks.Part(4, self.other('etc/passwd'))),
        ):
            told = self.refused(self.disk(*parts))
            self.assertIn(words, told)
            self.assertIn('openstack image create --file', told)
        # One that nothing needs.
        path = self.disk(
            disks.Part(4, usr, type=typed),
            disks.Part(4, self.other('etc/os-release', 'usr/bin/sh')),
        )
        with self.opened(path) as source:
            self.assertEqual(2, source.partition)

    def test_type_decides(self) -> None:
        path = self.disk(
            disks.Part(4, self.other('etc/os-release')),
            disks.Part(24, self.root, type=disks.ROOT),
        )
        self.assertEqual(2, self.check(path).partition)

    def test_nothing_to_take(self) -> None:
        for data, what in (
            (bytes(512) + b'LABELONE', 'an LVM physical volume'),
            (b'LUKS\xba\xbe\0\2', 'a LUKS-encrypted volume'),
            (b'XFSB', 'an XFS filesystem'),
            (bytes(0x10040) + b'_BHRfS_M', 'a btrfs filesystem'),
        ):
            path = self.disk(disks.Part(2, type='U'), disks.Part(2, data))
            for choice in ({}, {'partition': 2}):
                self.assertEqual(
                    f'{path}: guestfish was not found, which reads {what}; '
                    'install libguestfs',
                    self.refused(path, errors.ProgramError, **choice),
                )
        path = self.disk(disks.Part(2, type='U'), disks.Part(2, b'\x7fELF'))
        self.assertIn('no partition has a root filesystem', self.refused(path))
        told = self.refused(path, partition=2)
        self.assertIn('partition 2 has no root filesystem: 2: ', told)

    def test_encrypted_without_partitions(self) -> None:
        self.patch(process, 'find', str)
        path = self.directory / 'luks'
        path.write_bytes(b'LUKS\xba\xbe\0\2'.ljust(MIB, b'\0'))
        self.assertIn(f'the disk of {path} is encrypted', self.refused(path))

    def test_many_partitions(self) -> None:
        path = self.directory / 'disk'
        entries = [(disks.LINUX, 2048 + i, 2048 + i) for i in range(128)]
        begin, end = disks.gpt(8192, entries)
        path.write_bytes(begin.ljust(8192 * 512 - len(end), b'\0') + end)
        for choice in ({}, {'partition': 200}):
            told = self.refused(path, **choice)
            self.assertIn('1: 512 bytes, ', told)
            self.assertIn(' and 120 more', told)
            self.assertNotIn(' 9: ', told)
            self.assertLess(len(told), 800)

    def test_no_disk(self) -> None:
        told = self.refused(self.root, errors.UsageError, partition=1)
        self.assertIn('no disk with partitions', told)

    def test_beyond_the_end(self) -> None:
        path = self.disk(
            disks.Part(4, self.other('a')),
            disks.Part(24, self.root),
            label='dos',
        )
        os.truncate(path, 20 * MIB)
        told = self.refused(path, partition=2)
        self.assertIn('beyond the end of the disk', told)
        # What else is there may be anything.
        self.assertIn('it is cut short; download', self.refused(path))
        os.truncate(path, 5 * MIB)
        self.assertIn('it is cut short; download', self.refused(path))

    def test_filesystem_longer_than_its_partition(self) -> None:
        path = self.disk(disks.Part(20, self.root), disks.Part(8))
        told = self.refused(path)
        self.assertIn('longer than its partition', told)

    def test_compressed_something(self) -> None:
        path = self.directory / 'kernel'
        path.write_bytes(triple.kernel(self.directory).read_bytes())
        process.run(['gzip', '-k', path], access=None)
        told = self.refused(self.directory / 'kernel.gz')
        self.assertIn('a Linux kernel', told)


class TestEnclosed(DiskCase):
    """A disk in an archive is taken; a directory is told, and what to do."""

    def tar(self, member: pathlib.Path, name: str, mode: str) -> pathlib.Path:
        path = self.directory / 'enclosing'
        with tarfile.open(path, mode) as archive:
            archive.add(member, name)
        return path

    def test_raw_in_an_archive(self) -> None:
        disk = self.disk(disks.Part(32, self.root))
        self.check(self.tar(disk, 'disk.raw', 'w:gz'))

    def test_virtual_machine(self) -> None:
        disk = self.directory / 'disk.vmdk'
        process.run([
            'qemu-img', 'convert', '-O', 'vmdk', '-o',
            'subformat=streamOptimized', self.root, disk,
        ], access=None)  # fmt: skip
        self.check(self.tar(disk, 'ova/disk1.vmdk', 'w'))

    def test_in_a_directory(self) -> None:
        directory = self.tmp()
        (directory / 'README').write_bytes(b'read me' * 20000)
        (directory / 'x.img').write_bytes(self.root.read_bytes())
        self.assertIn(
            'a directory with a disk image in it: x.img; give that',
            self.refused(directory),
        )

    def test_none(self) -> None:
        directory = self.tmp()
        # It is told before all of it is read, and written into itself.
        (directory / 'work').mkdir()
        with (directory / 'huge').open('wb') as file:
            file.truncate(1 << 40)
        self.work = directory / 'work'
        self.assertIn('it has none of bin, etc', self.refused(directory))
        directory = self.tmp()
        (directory / 'README').write_bytes(b'read me' * 20000)
        self.assertIn('it has none of bin, etc', self.refused(directory))
