# SPDX-License-Identifier: Apache-2.0

"""XFS becomes ext4, with what is on other partitions, without libguestfs."""

import gzip
import os
import pathlib

from amiclient import errors
from amiclient.ext import reader
from amiclient.ext import superblock
from amiclient import process
from amiclient.source import resolve
from amiclient.tests import base
from amiclient.tests.disks import disks
from amiclient.tests.disks import volume_groups
from amiclient.tests.disks import xfs
from amiclient.tests.oracle import mounted
from amiclient.xfs.reader import XfsReader

ROOT = '99999999-8888-7777-6666-555555555555'

FSTAB = f"""\
UUID={ROOT} / xfs defaults 0 0
LABEL=boot /boot ext4 defaults 0 0
/dev/sda3 /var xfs defaults 0 0
/dev/sda4 /boot/efi vfat umask=0077 0 1
"""


def compared(shown: mounted.Shown) -> tuple:
    atime, _, mtime = shown.times
    return (*shown[1:5], atime, mtime, *shown[6:])


class _TestMerge(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.work = self.tmp()
        self.root = self.directory / 'root'
        # Nothing of this is for libguestfs.
        find = process.find

        def found(program: str) -> str:
            if program == 'guestfish':
                raise errors.ProgramError('guestfish was not found')
            return find(program)

        self.useFixture(base.fixtures.MockPatchObject(process, 'find', found))

    def opened(self, path: pathlib.Path, **choice):
        return resolve.opened(
            path, resolve.Choice(work_directory=self.work, **choice)
        )

    def refused(self, path: pathlib.Path) -> str:
        error = self.assertRaises(errors.AmiError, self.opened(path).__enter__)
        self.assertEqual([], os.listdir(self.work))
        return str(error)

    def disk(self, *parts: disks.Part) -> pathlib.Path:
        path = disks.make(self.directory / 'disk', parts)
        return disks.convert(path, 'qcow2')

    def ext4(self, name: str, files: dict[str, bytes]) -> pathlib.Path:
        tree = self.tmp()
        for path, data in files.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(data)
        path = self.directory / name
        with path.open('wb') as file:
            file.truncate(8 * disks.MIB)
        argv = ['mke2fs', '-q', '-F', '-t', 'ext4', '-L', name, '-d', tree]
        process.run([*argv, path], access=None)
        return path


class TestMergeXfs(_TestMerge):
    def test_as_the_kernel(self) -> None:
        var, place = self.directory / 'var', self.tmp()
        xfs.make(self.root, '-L', 'cloud', '-m', f'uuid={ROOT}', size=128)
        xfs.make(var, '-b', 'size=1024')
        try:
            with xfs.mounted(self.root, place):
                xfs.fill(place, self.random.randbytes(1 << 16), 200)
                # What ext4 has no room for.
                os.removexattr(place / 'large', 'user.huge')
                (place / 'empty').unlink()
                for path in ('etc', 'var/hidden', 'boot'):
                    (place / path).mkdir(parents=True)
                (place / 'etc/os-release').write_text('ID=rocky\n')
                (place / 'etc/fstab').write_text(FSTAB)
            with xfs.mounted(var, place):
                (place / 'spool').mkdir(0o1777)
                (place / 'spool/f').write_text('mine')
                os.chown(place / 'spool/f', 1000, 1000)
        except errors.ProgramError as error:
            self.skipTest(str(error))
        expected = {}
        for image, at in ((self.root, b''), (var, b'/var')):
            with xfs.mounted(image, place, 'ro'):
                found = mounted.read(place)
            expected = {
                path: shown
                for path, shown in expected.items()
                if not (at and path.startswith(at))
            } | {
                (at + path).rstrip(b'/') or b'/': e
                for path, e in found.items()
            }
        esp = self.tmp()
        (esp / 'f').write_text('efi')
        disk = self.disk(
            disks.Part(128, self.root),
            disks.Part(8, self.ext4('boot', {'vmlinuz': b'kernel'})),
            disks.Part(24, var),
            disks.Part(4, disks.fat(self.directory / 'esp', esp)),
        )
        with self.opened(disk) as source:
            process.run(['e2fsck', '-f', '-n', source.root], access=None)
            known = superblock.read(source.root)
            self.assertEqual((ROOT, 'cloud'), (known.uuid, known.label))
            self.assertEqual(('/boot', '/boot/efi', '/var'), source.merged)
            with xfs.mounted(source.root, place, 'ro,noload'):
                found = mounted.read(place)
                self.assertEqual(b'efi', (place / 'boot/efi/f').read_bytes())
        self.assertEqual([], os.listdir(self.work))
        new = found.keys() - expected.keys()
        self.assertEqual(
            {
                b'/boot/efi', b'/boot/efi/f', b'/boot/vmlinuz', b'/lost+found',
            },
            new,
        )  # fmt: skip
        for path, shown in expected.items():
            if path not in (b'/', b'/boot'):
                self.assertEqual(compared(shown), compared(found[path]), path)
        self.assertEqual(found[b'/small'].number, found[b'/hard'].number)


class TestMergeOldXfs(_TestMerge):
    """What needs neither root nor a kernel that knows XFS."""

    def make(self, fstab: str = '', *options: str, boot: str = '') -> None:
        for name, text in (
            ('fstab', fstab),
            ('release', 'ID=rocky\n'),
            ('data', 'data' * 9999),
        ):
            (self.directory / name).write_text(text)
        proto = self.directory / 'proto'
        proto.write_text(
            f"""\
boot
0 0
d--755 0 0
etc d--755 0 0
fstab ---644 0 0 {self.directory}/fstab
os-release ---644 0 0 {self.directory}/release
$
boot d--755 0 0
{boot}
$
home d--755 0 0
u d--700 1000 1000
data ---600 1000 1000 {self.directory}/data
$
$
$
"""
        )
        xfs.make(
            self.root,
            '-m', f'uuid={ROOT}', '-L', 'rocky', *options,
            '-p', str(proto),
        )  # fmt: skip

    def test_partition(self) -> None:
        """Nothing else is mounted; and nothing is lost of the name."""
        self.make()
        with self.opened(self.disk(disks.Part(24, self.root))) as source:
            self.check(source.root)
            self.assertEqual(1, source.partition)
            (part,) = source.partitions
            self.assertEqual(
                '1: 24.0 MiB, an XFS filesystem, label rocky, '
                'with a root filesystem',
                str(part),
            )

    def test_whole_disk(self) -> None:
        self.make('', '-m', 'crc=0')
        with self.opened(self.root) as source:
            self.check(source.root)

    def test_compressed(self) -> None:
        self.make()
        packed = self.directory / 'packed'
        packed.write_bytes(gzip.compress(self.root.read_bytes()))
        with self.opened(packed) as source:
            self.check(source.root)

    def test_logical_volume(self) -> None:
        """It is in two pieces, the second one first."""
        self.make()
        path = disks.make(self.directory / 'disk', [disks.Part(30)])
        half = 12 * disks.MIB // volume_groups.EXTENT
        segments = [
            volume_groups.Segment(half, [(0, half + 8)]),
            volume_groups.Segment(half, [(0, 0)]),
        ]
        volume_groups.fill(
            path, [disks.MIB], [30 * disks.MIB], 'rocky',
            [volume_groups.Volume('root', segments, self.root)],
        )  # fmt: skip
        packed = self.directory / 'packed'
        with path.open('rb') as file:
            file.seek(disks.MIB)
            # Without a partition.
            packed.write_bytes(gzip.compress(file.read(30 * disks.MIB)))
        for each in (disks.convert(path, 'qcow2'), packed):
            with self.opened(each) as source:
                self.check(source.root)

    def check(self, image: pathlib.Path) -> None:
        process.run(['e2fsck', '-f', '-n', image], access=None)
        known = superblock.read(image)
        self.assertEqual((ROOT, 'rocky'), (known.uuid, known.label))
        with reader.opened(image) as files:
            node = files.find('/home/u/data')
            self.assertEqual((1000, 0o100600), (node.uid, node.mode))
            self.assertEqual(b'data' * 9999, files.read(node, 1 << 20))

    def test_root_of_ext(self) -> None:
        """XFS is below another filesystem, by its UUID."""
        self.make()
        fstab = f'UUID={ROOT} /srv/x xfs defaults 0 0\n'.encode()
        root = self.ext4(
            'ext', {'etc/fstab': fstab, 'etc/passwd': b'', 'srv/x/f': b''}
        )
        # Both could be the root filesystem.
        disk = self.disk(disks.Part(24, self.root), disks.Part(8, root))
        self.assertIn('several partitions have a root', self.refused(disk))
        with (
            self.opened(disk, partition=2) as source,
            reader.opened(source.root) as files,
        ):
            self.assertEqual(('boot', 'etc', 'home'), files.names('/srv/x'))

    def test_boot_that_fstab_does_not_name(self) -> None:
        boot = self.directory / 'boot.xfs'
        self.make(boot=f'vmlinuz-1 ---644 0 0 {self.directory}/data')
        proto = self.directory / 'proto'
        proto.write_text(
            'boot\n0 0\nd--755 0 0\n'
            f'vmlinuz-1 ---644 0 0 {self.directory}/data\n$\n'
        )
        xfs.make(boot, '-p', str(proto))
        root = self.ext4('ext', {'etc/os-release': b'ID=x\n'})
        disk = self.disk(disks.Part(24, boot), disks.Part(8, root))
        with self.opened(disk) as source:
            self.assertEqual(2, source.partition)
            with reader.opened(source.boot) as files:
                self.assertEqual(b'data' * 9999, files.read_file('/vmlinuz-1'))

    def change(self, path: str, offset: int, data: bytes) -> None:
        """Change bytes of an inode."""
        with self.root.open('r+b') as file:
            files = self.files(file)
            number, found = files.find(path).number, files.superblock
            block = files._blocks.address(number >> found.slot_bits, 1)
            slot = number % (1 << found.slot_bits)
            file.seek(
                block * found.block_size + slot * found.inode_size + offset
            )
            file.write(data)

    def files(self, file) -> XfsReader:
        return XfsReader(lambda o, c: os.pread(file.fileno(), c, o))

    def test_log_that_is_not_clean(self) -> None:
        self.make()
        with self.root.open('r+b') as file:
            file.seek(self.files(file).superblock.log_start + 512 + 9)
            file.write(b'\0')
        told = self.refused(self.disk(disks.Part(24, self.root)))
        self.assertIn(
            'reads an XFS filesystem (its log has to be replayed)', told
        )

    def test_longer_than_its_partition(self) -> None:
        self.make()
        short = self.root.read_bytes()[: 20 << 20]
        disk = self.disk(disks.Part(20, short), disks.Part(8))
        self.assertIn(
            'an XFS filesystem that is longer than its partition',
            self.refused(disk),
        )

    def test_damage(self) -> None:
        self.make()
        self.change('/home/u/data', 8, b'\7')
        told = self.refused(self.disk(disks.Part(24, self.root)))
        self.assertIn('home/u/data makes no sense', told)
        self.assertIn('xfs_repair', told)

    def test_damage_of_the_root(self) -> None:
        self.make()
        self.change('/', 8, b'\7')
        told = self.refused(self.disk(disks.Part(24, self.root)))
        self.assertIn('an XFS filesystem (the inode', told)
        self.assertIn('of / makes no sense)', told)

    def test_directory_in_itself(self) -> None:
        self.make('', '-m', 'crc=0')
        with self.root.open('rb') as file:
            root = self.files(file).superblock.root
        # What is in the inode: one name, the parent; length, place, name,
        # type.
        self.change('/home', 100 + 2 + 4 + 5, root.to_bytes(4))
        told = self.refused(self.disk(disks.Part(24, self.root)))
        self.assertIn('home/u: a link to', told)
