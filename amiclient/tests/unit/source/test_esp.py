# SPDX-License-Identifier: Apache-2.0

"""Kernels on a FAT partition: found and taken, whatever is on it.

The filesystems are made by mkfs.vfat and mtools; what has to be odd in them
is patched.
"""

import os
import pathlib
import struct

import fixtures

from amiclient import distribution
from amiclient.ext import reader
from amiclient import process
from amiclient.rootfs import boot_extract
from amiclient.rootfs import boot_files
from amiclient.source.disk import opened as open_disk
from amiclient.source import fat
from amiclient.source import qemu_nbd
from amiclient.source import resolve
from amiclient.tests import base
from amiclient.tests.disks import disks
from amiclient.tests.unit.rootfs import images
from amiclient.tests.unit.rootfs import samples

MIB = disks.MIB

XBOOTLDR = 'bc13c2ff-59e6-4262-a352-b275fd6f7172'

_VERSION = '6.9.1-1.fc40.x86_64'
_UNIFIED: images.Files = {
    f'EFI/Linux/abc-{_VERSION}+3-1.efi': samples.unified(_VERSION),
    'EFI/BOOT/BOOTX64.EFI': b'MZ' * 5000,
    'EFI/systemd/systemd-bootx64.efi': b'MZ' * 5000,
    'loader/loader.conf': b'timeout 3\n',
}

_GRUB: images.Files = {
    'EFI/debian/grubx64.efi': b'MZ' * 5000,
    'EFI/debian/grub.cfg': b'search.fs_uuid 1\n',
    'EFI/BOOT/BOOTX64.EFI': b'MZ' * 5000,
}

#: A root filesystem that has no kernel.
_ROOT: images.Files = {'etc/os-release': b'ID=debian\n'}

_OWN: images.Files = {
    'boot/vmlinuz-6.1.0-1': samples.bzimage(release=b'6.1.0-1 (x@y)'),
    'boot/initrd.img-6.1.0-1': samples.initramfs(),
}

_MACHINE = '3fa5a05d8e4c4f6f9d1b2a3c4d5e6f70'


def _entry(version: str, directory: str) -> bytes:
    return (
        f'title Debian\nversion {version}\nmachine-id {_MACHINE}\n'
        'options root=UUID=1 ro\n'
        f'linux {directory}/linux\n'
        f'initrd {directory}/microcode {directory}/initrd.img-{version}\n'
    ).encode()


class LoaderCase(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.work = self.tmp()

    def fat(self, files: images.Files, name: str = 'fat', **options):
        tree = self.tmp()
        images.write(tree, files)
        return disks.fat(self.directory / name, tree, **options)

    def root(self, files: images.Files | None = None, fstab: str = ''):
        return images.image(
            self.directory,
            {**_ROOT, 'etc/fstab': fstab.encode(), **(files or {})},
            size=8 * MIB,
        )

    def disk(self, *parts: disks.Part, **options) -> pathlib.Path:
        return disks.make(self.directory / 'disk', parts, **options)

    def usual(self, esp: pathlib.Path | bytes, **root) -> pathlib.Path:
        """Make a disk with an EFI system partition."""
        return self.disk(
            disks.Part(4, esp, type=disks.ESP),
            disks.Part(8, self.root(**root)),
        )

    def opened(self, path: pathlib.Path):
        return resolve.opened(path, resolve.Choice(work_directory=self.work))

    def found(self, path: pathlib.Path):
        """Tell kernels as ``(version, kernel, ramdisk, how)``; and notes."""
        with self.opened(path) as source:
            found = boot_files.find(source.root, source.boot)
            for number, each in enumerate(found):
                directory = self.tmp() / str(number)
                directory.mkdir()
                taken = boot_extract.take(each, directory)
                self.assertEqual(
                    bool(each.ramdisks), taken.ramdisk is not None
                )
            self.partitions = source.partitions
        self.assertEqual([], os.listdir(self.work))
        for note in source.notes:
            self.assertTrue(note.isprintable(), note)
        return (
            [(e.version, e.kernel, e.ramdisk, e.source) for e in found],
            [
                n
                for n in source.notes
                if '/etc/fstab' not in n and 'merged into' not in n
            ],
        )


class TestFound(LoaderCase):
    def test_unified(self) -> None:
        """On a partition that only its type tells of."""
        path = f'/EFI/Linux/abc-{_VERSION}+3-1.efi'
        disk = self.usual(self.fat(_UNIFIED))
        for each in (disk, disks.convert(disk, 'qcow2', '-c')):
            self.assertEqual(
                ([(_VERSION, path, path, 'unified')], []), self.found(each)
            )
            self.assertEqual(
                [True, False], [part.is_boot for part in self.partitions]
            )
            self.assertEqual(
                '1: 4.0 MiB, a FAT filesystem, label ESP, with what belongs '
                'in /boot',
                str(self.partitions[0]),
            )
        # Nothing is taken that nobody needs; and all of it is root's.
        with self.opened(disk) as source:
            assert source.boot
            process.run(['e2fsck', '-f', '-n', source.boot], access=None)
            with reader.opened(source.boot) as tree:
                self.assertEqual(('Linux',), tree.names('/EFI'))
                self.assertEqual((), tree.names('/loader'))

    def test_kinds(self) -> None:
        for size, bits in ((2, 12), (4, 16), (34, 32)):
            esp = self.fat(_UNIFIED, size=size, bits=bits)
            disk = self.disk(
                disks.Part(8, self.root()),
                disks.Part(size, esp, type='ef'),
                label='dos',
            )
            found, notes = self.found(disk)
            self.assertEqual(([_VERSION], []), ([f[0] for f in found], notes))

    def test_kernel_install(self) -> None:
        """Entries of Debian with systemd-boot, on /boot by its fstab."""
        files: dict[str, images.Content] = {}
        for version in ('6.1.0-9-amd64', '6.1.0-13-amd64'):
            directory = f'/{_MACHINE}/{version}'
            files |= {
                f'loader/entries/{_MACHINE}-{version}.conf': _entry(
                    version, directory
                ),
                f'{directory}/linux': samples.bzimage(),
                f'{directory}/microcode': samples.microcode(),
                f'{directory}/initrd.img-{version}': samples.initramfs(),
            }
        boot = self.fat(files)
        expected = [
            (version, f'/boot/{_MACHINE}/{version}/linux',
             f'/boot/{_MACHINE}/{version}/microcode + '
             f'/boot/{_MACHINE}/{version}/initrd.img-{version}', 'entry')
            for version in ('6.1.0-13-amd64', '6.1.0-9-amd64')
        ]  # fmt: skip
        root = self.root()
        disk = self.disk(
            disks.Part(4, boot), disks.Part(8, root), disks.Part(2)
        )
        for spec in (
            'UUID=ABCD-1234',
            'UUID="abcd-1234"',
            '/dev/disk/by-uuid/ABCD-1234',
            'LABEL=ESP',
            '/dev/vda1',
        ):
            # What is in the root's /boot is hidden then.
            root = self.root(_OWN, f'{spec} /boot vfat defaults 0 2\n')
            disks.fill(disk, [(root, 5 * MIB)])
            found, notes = self.found(disk)
            self.assertEqual((expected, []), (found[:2], notes), spec)

    def test_arch(self) -> None:
        """Kernels at the top, and entries that write names otherwise."""
        files: images.Files = {
            'loader/entries/ARCH.CONF': b'linux /VMLINUZ-LINUX\n'
            b'initrd /intel-ucode.img\ninitrd /Initramfs-linux.img\n',
            'loader/entries/lts.conf': b'linux /EFI/arch/vmlinuz-lts\n'
            b'initrd /efi/arch/initrd-lts\n',
            'vmlinuz-linux': samples.bzimage(release=b'6.10.2-arch1-1 (x)'),
            'intel-ucode.img': samples.microcode(),
            'initramfs-linux.img': samples.initramfs(),
            'EFI/Arch/vmlinuz-lts': samples.bzimage(release=b'6.6.1-1-lts ('),
            'EFI/Arch/initrd-lts': samples.initramfs(),
        }
        disk = self.disk(
            disks.Part(4, self.fat(files)), disks.Part(8, self.root())
        )
        expected = [
            ('6.10.2-arch1-1', '/VMLINUZ-LINUX',
             '/intel-ucode.img + /Initramfs-linux.img', 'entry'),
            ('6.6.1-1-lts', '/EFI/arch/vmlinuz-lts', '/efi/arch/initrd-lts',
             'entry'),
        ]  # fmt: skip
        for place in ('/efi', '/boot/efi', '/boot'):
            root = self.root(fstab=f'UUID=ABCD-1234 {place} vfat\n')
            disks.fill(disk, [(root, 5 * MIB)])
            if place == '/boot':
                # There it is found under its own name first.
                expected[0] = (
                    '6.10.2-arch1-1', '/boot/vmlinuz-linux',
                    '/boot/initramfs-linux.img', 'boot',
                )  # fmt: skip
            self.assertEqual((expected, []), self.found(disk))

    def test_unified_that_an_entry_names(self) -> None:
        tool = {
            'loader/entries/test.conf': b'efi /EFI/tools/test.efi\n',
            'EFI/tools/test.efi': b'MZ' + bytes(4096),
        }
        named = {
            'loader/entries/a.conf': b'uki /efi/Fedora/a.efi\n',
            'EFI/fedora/a.efi': samples.unified(_VERSION),
        }
        disk = self.disk(
            # What has no kernel is not the one.
            disks.Part(4, self.fat(tool, 'esp'), type=disks.ESP),
            disks.Part(4, self.fat(named)),
            disks.Part(8, self.root(fstab='UUID=ABCD-1234 /efi vfat\n')),
        )
        path = '/efi/Fedora/a.efi'
        found = [(_VERSION, path, path, 'unified')]
        self.assertEqual((found, []), self.found(disk))

    def test_menu(self) -> None:
        files: images.Files = {
            'grub/grub.cfg': b'linux (hd0,1)/kernels/k root=x\n'
            b'initrd /kernels/i /$gone\n',
            'kernels/k': samples.bzimage(release=b'6.10.2 (x)'),
            'kernels/i': samples.initramfs(),
        }
        disk = self.disk(
            disks.Part(4, self.fat(files), type=disks.ESP),
            disks.Part(8, self.root()),
        )
        found = [('6.10.2', '/kernels/k', '/kernels/i', 'menu')]
        self.assertEqual((found, []), self.found(disk))

    def test_extended_boot_loader_partition(self) -> None:
        """It comes before the EFI system partition."""
        other = {'EFI/Linux/old.efi': samples.unified('5.10.1-1')}
        disk = self.disk(
            disks.Part(4, self.fat(other, 'esp'), type=disks.ESP),
            disks.Part(4, self.fat(_UNIFIED), type=XBOOTLDR),
            disks.Part(8, self.root()),
        )
        self.assertEqual(_VERSION, self.found(disk)[0][0][0])
        self.assertEqual(2, next(p.number for p in self.partitions
                                 if p.is_boot))  # fmt: skip
        disk = self.disk(
            disks.Part(4, self.fat(other, 'esp'), type=disks.ESP),
            disks.Part(4, self.fat(_GRUB), type=XBOOTLDR),
            disks.Part(8, self.root()),
        )
        self.assertEqual('5.10.1-1', self.found(disk)[0][0][0])


class TestLeftAlone(LoaderCase):
    def test_boot_partition(self) -> None:
        """There is an ext2 one, and nothing but GRUB on the other."""
        boot = images.image(
            self.directory,
            {name.removeprefix('boot/'): c for name, c in _OWN.items()},
            size=4 * MIB,
            name='boot',
        )
        root = self.root(fstab='UUID=ABCD-1234 /boot/efi vfat\n')
        disk = self.disk(
            disks.Part(4, self.fat(_GRUB), type=disks.ESP),
            disks.Part(4, boot),
            disks.Part(8, root),
        )
        # The programs are not even looked for.
        self.useFixture(fixtures.EnvironmentVariable('PATH', os.devnull))
        found, notes = self.found(disk)
        self.assertEqual((['6.1.0-1'], []), ([f[0] for f in found], notes))
        self.assertEqual(
            [False, True, False], [part.is_boot for part in self.partitions]
        )

    def test_kernel_in_the_root(self) -> None:
        disk = self.usual(self.fat(_GRUB), files=_OWN)
        self.useFixture(fixtures.EnvironmentVariable('PATH', os.devnull))
        found, notes = self.found(disk)
        self.assertEqual((['6.1.0-1'], []), ([f[0] for f in found], notes))

    def test_no_kernel(self) -> None:
        self.assertEqual(([], []), self.found(self.usual(self.fat(_GRUB))))
        with self.opened(self.directory / 'disk') as source:
            self.assertIsNone(source.boot)
        empty = self.fat({})
        self.assertEqual(([], []), self.found(self.usual(empty)))
        fstab = 'UUID=ABCD-1234 /boot vfat\n'
        _, notes = self.found(self.usual(empty, fstab=fstab))
        self.assertEqual(
            [f'{self.directory}/disk: what belongs on /boot is on partition '
             '1, a FAT filesystem, in which no kernel was found'],
            notes,
        )  # fmt: skip

    def test_no_such_type(self) -> None:
        """Some partition with FAT is nobody's boot partition."""
        disk = self.disk(
            disks.Part(4, self.fat(_UNIFIED)), disks.Part(8, self.root())
        )
        self.assertEqual(([], []), self.found(disk))

    def test_missing(self) -> None:
        disk = self.usual(self.fat(_UNIFIED))
        self.useFixture(fixtures.EnvironmentVariable('PATH', os.devnull))
        self.assertEqual(
            ([], [f'{disk}: partition 1, a FAT filesystem, is not looked '
                  f'into: mdir was not found; {distribution.remedy("mdir")}']),
            self.found(disk),
        )  # fmt: skip

    def test_too_large(self) -> None:
        self.useFixture(
            fixtures.MockPatch('amiclient.source.esp._LARGEST', 3 * MIB)
        )
        found, notes = self.found(self.usual(self.fat(_UNIFIED)))
        self.assertEqual([], found)
        self.assertIn('it has more than 3.0 MiB', notes[0])


class TestDamaged(LoaderCase):
    def setUp(self) -> None:
        super().setUp()
        self.esp = self.fat(
            {
                'EFI/Linux/a.efi': samples.unified('6.1.1'),
                'EFI/Linux/b.efi': samples.unified('6.2.2'),
            }
        )
        data = bytearray(self.esp.read_bytes())
        size, reserved, fats = struct.unpack_from('<BHB', data, 13)
        length, _ = struct.unpack_from('<HB', data, 22)
        self.data, self.reserved, self.length = data, reserved, length
        self.assertEqual((1, 2), (size, fats))

    def link(self, cluster: int, value: int) -> None:
        """Change an entry in both tables of a FAT16."""
        for table in range(2):
            place = (self.reserved + table * self.length) * 512
            struct.pack_into('<H', self.data, place + 2 * cluster, value)

    def place(self, name: bytes) -> int:
        place = self.data.find(name.ljust(8) + b'EFI')
        self.assertGreater(place, 0)
        return place

    def first(self, name: bytes) -> int:
        place = self.place(name)
        return int(struct.unpack_from('<H', self.data, place + 26)[0])

    def check(self, why: str) -> None:
        """See that one is told of, and the other is taken."""
        found, notes = self.found(self.usual(bytes(self.data)))
        self.assertEqual(['6.2.2'], [f[0] for f in found])
        (note,) = notes
        self.assertIn(
            'partition 1, a FAT filesystem, is damaged: /EFI/Linux/a.efi '
            'cannot be read (',
            note,
        )
        self.assertIn(why, note)

    def test_cut_short(self) -> None:
        """mcopy has no objection to that."""
        self.link(self.first(b'A'), 0xFFFF)
        self.check('(it is cut short) and is left out')

    def test_without_end(self) -> None:
        self.link(self.first(b'A'), self.first(b'A'))
        self.check('loop detected')

    def test_out_of_it(self) -> None:
        self.link(self.first(b'A'), 0xFFF0)
        self.check('mcopy failed with exit status 1')

    def test_too_large(self) -> None:
        struct.pack_into('<I', self.data, self.place(b'A') + 28, 0xFFFFFFFF)
        self.check('it cannot have 4294967295 bytes')

    def test_shared_blocks(self) -> None:
        """A file is not written more often than there is room for."""
        files = {
            f'EFI/Linux/{number}.efi': samples.unified(f'6.1.{number}')
            for number in range(9)
        }
        whole = 3 * MIB
        files['EFI/Linux/0.efi'] += bytes(whole)
        self.data = bytearray(self.fat(files).read_bytes())
        cluster = self.first(b'0')
        size = struct.unpack_from('<I', self.data, self.place(b'0') + 28)[0]
        for number in range(1, 9):
            place = self.place(b'%d' % number)
            struct.pack_into('<HI', self.data, place + 26, cluster, size)
        found, notes = self.found(self.usual(bytes(self.data)))
        self.assertEqual(1, len(found))
        (note,) = notes
        self.assertTrue(note.endswith(' left out, and so are 7 others'), note)

    def test_paths_that_lead_out(self) -> None:
        """Names are the filesystem's only."""
        secret = self.work / 'g.efi'
        files = {
            'EFI/Linux/abcdefg.efi.efi': samples.unified(),
            'EFI/Linux/good one.efi': samples.unified('6.2.2'),
            'EFI/Linux/wildcards.efi': samples.unified('6.3.3'),
            'loader/entries/a.conf': f'linux ../../../..{secret}\n'
            'linux /../../vmlinuz\nlinux /-x\nlinux /*/*/*.efi\n'.encode(),
        }
        self.data = bytearray(self.fat(files).read_bytes())
        for old, new in (('abcde', '../..'), ('fg.efi', '/g.efi'),
                         ('wildc', 'w*[?]')):  # fmt: skip
            before, after = (name.encode('utf-16-le') for name in (old, new))
            self.assertIn(before, self.data)
            self.data = self.data.replace(before, after)
        found, notes = self.found(self.usual(bytes(self.data)))
        self.assertEqual(
            [('6.2.2', '/EFI/Linux/good one.efi')], [f[:2] for f in found]
        )
        # What mdir gives as a name is none of that directory.
        (note,) = notes
        self.assertIn('/EFI/Linux/g.efi.efi cannot be read (mdir', note)

    def test_no_fat(self) -> None:
        head = bytes(self.data[:512])
        disk = self.usual(bytes(self.data))
        for data in (
            head[:11] + bytes(43) + head[54:],
            head[:11] + self.random.randbytes(43) + head[54:],
            head + self.random.randbytes(2 * MIB),
        ):
            with disk.open('r+b') as file:
                file.seek(MIB)
                file.write(data.ljust(4 * MIB, b'\0'))
            found, notes = self.found(disk)
            self.assertEqual([], found)
            for note in notes:
                self.assertIn('partition 1, a FAT filesystem, is', note)
            if not any(data[11:54]):
                self.assertIn('is not looked into: mdir failed', notes[0])

    def test_anything(self) -> None:
        """Whatever is written over it, something is said, or taken."""
        disk = self.usual(bytes(self.data))
        metadata = (self.reserved + 2 * self.length) * 512 + 512 * 40
        for _ in range(15):
            data = self.data[:]
            for _ in range(self.random.choice((1, 4, 40))):
                place = self.random.choice((
                    self.random.randrange(11, 54),
                    self.random.randrange(512, metadata),
                ))  # fmt: skip
                data[place] = self.random.randrange(256)
            with disk.open('r+b') as file:
                file.seek(MIB)
                file.write(data)
            with self.opened(disk) as source:
                self.assertLess(len(source.notes), 5)
        self.assertEqual([], os.listdir(self.work))


class TestNames(LoaderCase):
    def test_as_blkid_says(self) -> None:
        for bits, size, label in (
            (12, 2, 'A'),
            (16, 4, 'EFI SYSTEM'),
            (32, 34, 'BOOT'),
        ):
            path = self.fat({}, size=size, label=label, bits=bits)
            volume = fat.fat_volume(path.read_bytes()[:512])
            told = process.run(
                ['blkid', '-p', '-o', 'export', path], access=None
            ).text
            assert volume
            self.assertIn(f'\nUUID={volume.serial.upper()}\n', told)
            self.assertEqual(('abcd-1234', label),
                             (volume.serial, volume.label))  # fmt: skip
            self.assertIn(label, told.replace('\\', ''))

    def test_none(self) -> None:
        self.assertIsNone(fat.fat_volume(b''))
        self.assertIsNone(fat.fat_volume(bytes(512)))
        self.assertIsNone(fat.fat_volume(b'\xeb\x3c\x90mkfs.fat'.ljust(512)))
        data = bytearray(self.fat({}, label='NO NAME').read_bytes()[:512])
        found = fat.fat_volume(data)
        self.assertEqual(fat.FatVolume('abcd-1234', ''), found)
        data[38] = 0x28
        self.assertEqual(found, fat.fat_volume(data))
        data[38] = 0
        self.assertEqual(fat.FatVolume('', ''), fat.fat_volume(data))
        # And an entry that names nothing names nobody.
        disk = self.usual(bytes(data), fstab='UUID= /boot vfat\n')
        with open_disk(
            qemu_nbd.DiskImage(disk, 'raw', 'it'), self.work
        ) as opened:
            self.assertEqual('', opened.partitions[0].label)
