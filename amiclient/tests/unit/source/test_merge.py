# SPDX-License-Identifier: Apache-2.0

"""What a root filesystem mounts of its own disk becomes a part of it."""

import os
import pathlib
import struct
from unittest import mock

from amiclient import errors
from amiclient.ext import superblock
from amiclient import process
from amiclient.source import fstab
from amiclient.source import mounts
from amiclient.source import partitions
from amiclient.source import resolve
from amiclient.tests import base
from amiclient.tests.disks import disks
from amiclient.tests.oracle import exttree

ROOT = '99999999-8888-7777-6666-555555555555'
VAR = '11111111-2222-3333-4444-555555555555'

#: setfacl -m u:1000:r: version; then tag, rights and number of each entry.
_ACL = struct.pack('<I', 2) + b''.join(
    struct.pack('<HHI', *entry)
    for entry in (
        (0x01, 6, 0xFFFFFFFF),
        (0x02, 4, 1000),
        (0x04, 4, 0xFFFFFFFF),
        (0x10, 4, 0xFFFFFFFF),
        (0x20, 0, 0xFFFFFFFF),
    )
)

FSTAB = f"""\
UUID={ROOT} / ext4 errors=remount-ro 0 1
UUID={VAR.upper()} /var ext4 defaults 0 2
PARTLABEL=my\\040home /home ext4 defaults 0 2
/dev/disk/by-label/deep /var/lib/deep auto defaults 0 2
/dev/sda5 /boot/efi vfat umask=0077 0 1
tmpfs /tmp tmpfs defaults 0 0
/dev/sdb1 /mnt auto nofail 0 0
UUID=0 none swap sw 0 0
server:/x /x nfs defaults 0 0
"""


class TestMerge(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.work = self.tmp()

    def image(self, name: str, files: dict[str, bytes], *options: str):
        tree = self.tmp()
        for path, data in files.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(data)
        self.decorate(name, tree)
        path = self.directory / f'{name}.img'
        with path.open('wb') as file:
            file.truncate(8 * disks.MIB)
        argv = ['mke2fs', '-q', '-F', '-t', 'ext4', *options, '-d', tree]
        process.run([*argv, path], access=None)
        return path

    def decorate(self, name: str, tree: pathlib.Path) -> None:
        """Add what copies lose easily."""
        if name == 'root':
            for directory in ('var/lib', 'home', 'tmp'):
                (tree / directory).mkdir(parents=True, exist_ok=True)
            (tree / 'var/hidden').write_bytes(b'hidden' * 10000)
        if name == 'var':
            (tree / 'lib/deep').mkdir(parents=True)
            os.link(tree / 'lib/status', tree / 'lib/status-old')
            (tree / 'run').symlink_to('/run')
            (tree / 'long').symlink_to('/' + 'x' * 200)
            os.mkfifo(tree / 'fifo')
            with (tree / 'sparse').open('wb') as file:
                file.seek(disks.MIB)
                file.write(b'end')
                file.truncate(3 * disks.MIB)
            (tree / 'lib/status').chmod(0o4750)
            os.utime(tree / 'lib/status', ns=(10**18 + 5, 10**18 + 7))
            os.setxattr(tree / 'lib', 'user.note', b'small')
            os.setxattr(tree / 'sparse', 'user.large', b'l' * 700)
            os.setxattr(tree / 'sparse', 'system.posix_acl_access', _ACL)

    def disk(self, fstab: str = FSTAB) -> pathlib.Path:
        esp = self.tmp()
        (esp / 'EFI/Long Directory Name').mkdir(parents=True)
        (esp / 'EFI/Long Directory Name/f').write_bytes(b'efi' * 9999)
        (esp / 'STARTUP.NSH').write_bytes(b'')
        self.images = {
            '': self.image(
                'root',
                {
                    'etc/os-release': b'ID=debian\n',
                    'etc/fstab': fstab.encode(),
                },
                '-U', ROOT, '-L', 'cloud',
            ),
            '/var': self.image(
                'var', {'lib/status': b'Package: x\n'}, '-U', VAR
            ),
            '/home': self.image('home', {'u/f': b'mine' * 2000}),
            '/var/lib/deep': self.image('deep', {'d': b'd'}, '-L', 'deep'),
        }  # fmt: skip
        path = disks.make(
            self.directory / 'disk',
            [
                disks.Part(8, self.images['/home']),
                disks.Part(8, self.images['/var']),
                disks.Part(8, self.images['']),
                disks.Part(8, self.images['/var/lib/deep']),
                disks.Part(
                    4, disks.fat(self.directory / 'f', esp), type=disks.ESP
                ),
            ],
        )
        argv = ['sfdisk', '--quiet', '--part-label', path, '1', 'my home']
        process.run(argv, access=None)
        return path

    def opened(self, path: pathlib.Path, **choice):
        return resolve.opened(
            path, resolve.Choice(work_directory=self.work, **choice)
        )

    def expected(self) -> dict[bytes, tuple]:
        found: dict[bytes, tuple] = {}
        for place, image in self.images.items():
            at = place.encode()
            for path in [p for p in found if p.startswith(at + b'/')]:
                if place:
                    del found[path]
            for path, entry in exttree.read_tree(image).items():
                if not (place and path == b'/lost+found'):
                    found[(at + path).rstrip(b'/') or b'/'] = told(entry)
        return found

    def test_all(self) -> None:
        disk = self.disk()
        with self.opened(disks.convert(disk, 'qcow2')) as source:
            process.run(['e2fsck', '-f', '-n', source.root], access=None)
            found = {
                path: told(entry)
                for path, entry in exttree.read_tree(source.root).items()
            }
            known = superblock.read(source.root)
            self.assertEqual((ROOT, 'cloud'), (known.uuid, known.label))
            self.assertEqual(
                ('/boot/efi', '/home', '/var', '/var/lib/deep'), source.merged
            )
            self.assertEqual(3, source.partition)
            entries = exttree.read_tree(source.root)
        self.assertEqual([], os.listdir(self.work))
        prefix = b'/boot/efi'
        inside = {p for p in found if p.startswith(prefix + b'/')}
        self.assertEqual(
            {
                prefix + b'/EFI',
                prefix + b'/EFI/Long Directory Name',
                prefix + b'/EFI/Long Directory Name/f',
                prefix + b'/STARTUP.NSH',
            },
            inside,
        )
        file = entries[prefix + b'/EFI/Long Directory Name/f']
        self.assertEqual((29997, 0o700), (file.size, file.mode))
        for path in (*inside, prefix, b'/boot'):
            del found[path]
        expected = self.expected()
        self.assertNotIn(b'/var/hidden', found)
        self.assertEqual(expected.keys(), found.keys())
        for path, entry in expected.items():
            self.assertEqual(entry, found[path], path)
        self.assertEqual(
            (b'/var/lib/status', b'/var/lib/status-old'),
            entries[b'/var/lib/status'].names,
        )
        words = ' '.join(source.notes)
        self.assertIn(
            'merged into the image: /boot/efi (partition 5, a FAT '
            'filesystem), /home (partition 1, an ext4 filesystem)',
            words,
        )
        self.assertIn('mounts on /mnt is not on this disk', words)

    def test_same_bytes(self) -> None:
        disk = self.disk()
        made = []
        for _ in range(2):
            with self.opened(disk) as source:
                made.append(source.root.read_bytes())
        self.assertIs(True, made[0] == made[1])

    def test_left_out(self) -> None:
        with self.opened(self.disk(), leave_out=('/var', '/boot')) as source:
            found = exttree.read_tree(source.root)
            self.assertEqual(('/home',), source.merged)
        self.assertIn(b'/var/hidden', found)
        self.assertNotIn(b'/var/lib/deep', found)

    def units(self) -> pathlib.Path:
        """Make a disk whose /var and /home are mounted by units."""
        unit = '# x\n[Unit]\nWhat=no\n[Mount]\nWhat={}\nWhere={}\n'
        place = 'etc/systemd/system'
        files = {
            'etc/os-release': b'ID=debian\n',
            'etc/fstab': f'UUID={ROOT} / ext4\n'.encode(),
            'var/hidden': b'hidden',
            f'{place}/var.mount': unit.format(
                '/dev/disk/by-label/var', '/var'
            ),
            'usr/lib/systemd/system/srv-a\\x2db.mount': unit.format(
                'LABEL=home', '/srv/a-b'
            ),
            f'{place}/mnt.mount': unit.format('LABEL=gone', '/mnt'),
            f'{place}/opt.mount': unit.format('LABEL=home', '/opt'),
            f'{place}/run-x.mount': unit.format('tmpfs', '/run/x')
            + 'Type=tmpfs\n',
        }
        wants = f'{place}/local-fs.target.wants'
        for name in ('var', 'srv-a\\x2db', 'mnt', 'run-x', 'masked'):
            files[f'{wants}/{name}.mount'] = b''
        root = self.image(
            'system',
            {
                path: data.encode() if isinstance(data, str) else data
                for path, data in files.items()
            },
            *('-U', ROOT),
        )
        return disks.make(
            self.directory / 'disk',
            [
                disks.Part(8, root),
                disks.Part(8, self.image('v', {'s': b's'}, '-L', 'var')),
                disks.Part(8, self.image('h', {'u/f': b'f'}, '-L', 'home')),
            ],
        )

    def test_units(self) -> None:
        """What units of systemd mount is merged, too."""
        disk = self.units()
        with self.opened(disk) as source:
            found = exttree.read_tree(source.root)
            self.assertEqual(('/srv/a-b', '/var'), source.merged)
        self.assertIn(b'/var/s', found)
        self.assertIn(b'/srv/a-b/u/f', found)
        self.assertNotIn(b'/var/hidden', found)
        self.assertNotIn(b'/opt/u', found)
        words = ' '.join(source.notes)
        self.assertIn('mounts on /mnt is not on this disk', words)
        self.assertIn('units of systemd mount what is a part', words)
        self.assertIn('/etc/systemd/system/var.mount', words)
        with self.opened(disk, leave_out=('/var',)) as source:
            self.assertEqual(('/srv/a-b',), source.merged)
            self.assertIn(b'/var/hidden', exttree.read_tree(source.root))

    def test_units_with_fix(self) -> None:
        """Else the server would wait for them, or not start."""
        with self.opened(self.units(), fix=True) as source:
            found = exttree.read_tree(source.root)
            process.run(['e2fsck', '-f', '-n', source.root], access=None)
        self.assertEqual(
            {
                b'/etc/systemd/system/local-fs.target.wants/masked.mount',
                b'/etc/systemd/system/local-fs.target.wants/mnt.mount',
                b'/etc/systemd/system/local-fs.target.wants/run-x.mount',
                b'/etc/systemd/system/mnt.mount',
                b'/etc/systemd/system/opt.mount',
                b'/etc/systemd/system/run-x.mount',
            },
            {path for path in found if path.endswith(b'.mount')},
        )

    def typed(self, **files: bytes) -> pathlib.Path:
        """Make a disk with partitions that only their types are about."""
        generator = 'usr/lib/systemd/system-generators/'
        root = self.image(
            'typed',
            {
                'etc/os-release': b'ID=debian\n',
                f'{generator}systemd-gpt-auto-generator': b'',
                **files,
            },
        )
        types = {path: each for each, path in partitions.GPT_MOUNTS.items()}
        parts = [
            disks.Part(
                8, self.image(f'on{path[1:]}', {'f': b'f'}), types[path]
            )
            for path in ('/home', '/srv', '/var')
        ]
        path = disks.make(
            self.directory / 'disk', [disks.Part(8, root), *parts]
        )
        # "GUID:63": systemd leaves that one alone.
        argv = ['sfdisk', '--quiet', '--part-attrs', path, '3', 'GUID:63']
        process.run(argv, access=None)
        return path

    def test_types(self) -> None:
        """What systemd would mount is merged; the rest is not hushed up."""
        with self.opened(self.typed()) as source:
            found = exttree.read_tree(source.root)
            self.assertEqual(('/home',), source.merged)
        self.assertIn(b'/home/f', found)
        words = '\n'.join(source.notes)
        for number, path in ((3, '/srv'), (4, '/var')):
            self.assertIn(
                f'disk: partition {number}, an ext4 filesystem, is for {path} '
                'by its type, but nothing mounts it, and it is left out',
                words,
            )

    def test_types_where_something_is_in_the_way(self) -> None:
        with self.opened(self.typed(**{'home/u': b'u'})) as source:
            self.assertEqual((), source.merged)
        self.assertIn('is for /home by its type', ' '.join(source.notes))
        fstab = b'PARTLABEL=no /home ext4 nofail 0 0\n'
        with self.opened(self.typed(**{'etc/fstab': fstab})) as source:
            self.assertEqual((), source.merged)
        with self.opened(self.typed(), leave_out=('/home',)) as source:
            self.assertEqual((), source.merged)

    def refused(self, fstab: str, **choice) -> str:
        def opened() -> None:
            with self.opened(self.disk(fstab), **choice):
                pass

        error = self.assertRaises(errors.AmiError, opened)
        self.assertEqual([], os.listdir(self.work))
        return str(error)

    def test_missing(self) -> None:
        fstab = f'{FSTAB}LABEL=data /srv/data xfs defaults 0 0\n'
        self.assertEqual(
            f'{self.directory}/disk: what the system mounts cannot be made a '
            'part of the image: /srv/data on LABEL=data (not on this disk); '
            'to do without: --leave-out /srv/data',
            self.refused(fstab),
        )
        with self.opened(
            self.directory / 'disk', leave_out=('/srv/data',)
        ) as source:
            self.assertIn('/var', source.merged)

    def test_snapshots(self) -> None:
        """Those of snapper are left out: one of them is the root."""
        text = ''.join(
            f'UUID=x /{path} btrfs subvol=@/{path} 0 0\n'
            for path in (
                '.snapshots',
                'home/.snapshots',
                'home',
                'a.snapshots',
            )
        )
        part = mock.Mock(tags=mounts.Tags(uuid='x'))
        found = mounts.find(fstab.parse(text), [part], (), name='d')
        self.assertEqual(
            ['/a.snapshots', '/home'], [each.path for each in found.found]
        )
        self.assertEqual(
            (
                'd: /.snapshots has snapshots of btrfs, and is left out',
                'd: /home/.snapshots has snapshots of btrfs, and is left out',
            ),
            found.notes,
        )

    def test_another_disk(self) -> None:
        """A device path names a disk, too."""
        words = self.refused('/dev/vda3 / ext4\n/dev/vdb2 /var ext4\n')
        self.assertIn('/var on /dev/vdb2 (not on this disk)', words)
        words = self.refused('/dev/sdb3 / ext4\n/dev/sda2 /var ext4\n')
        self.assertIn('/var on /dev/sda2 (not on this disk)', words)

    def test_nothing_to_leave_out(self) -> None:
        self.assertEqual(
            '--leave-out /opt: nothing of the disk is mounted there; '
            'the system mounts /home',
            self.refused(
                f'UUID={ROOT} / ext4\n/dev/sda1 /home ext4\n',
                leave_out=('/opt',),
            ),
        )
        image = self.images['']
        error = self.assertRaises(
            errors.UsageError,
            self.opened(image, leave_out=('/opt',)).__enter__,
        )
        self.assertIn('no disk', str(error))

    def test_onto_what_is_no_directory(self) -> None:
        words = self.refused(
            f'UUID={ROOT} / ext4\n/dev/sda1 /etc/os-release ext4\n'
        )
        self.assertIn('etc/os-release: it is not a directory', words)


def told(entry: exttree.Entry) -> tuple:
    """Choose what must be the same."""
    return (
        entry.type, entry.mode, entry.uid, entry.gid, entry.size,
        entry.mtime, entry.atime, dict(entry.xattrs), entry.target,
        entry.device, entry.sha256,
    )  # fmt: skip
