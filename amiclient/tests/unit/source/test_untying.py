# SPDX-License-Identifier: Apache-2.0

"""What ties a root filesystem to its disk is told, and mended unmounted."""

from collections.abc import Set
import os
import pathlib

from amiclient import errors
from amiclient.ext import reader
from amiclient.ext import superblock
from amiclient import process
from amiclient.source import fix
from amiclient.source import resolve
from amiclient.tests import base
from amiclient.tests.disks import disks
from amiclient.tests.oracle import exttree

MIB = disks.MIB

FSTAB = """\
# <file system> <mount point> <type> <options> <dump> <pass>
UUID=11111111-2222-3333-4444-555555555555 / ext4 errors=remount-ro 0 1
UUID=ABCD-1234\t/boot/efi vfat umask=0077 0 1
LABEL=boot /boot ext4 defaults 0 2
/dev/sda5 none swap sw 0 0
/swapfile none swap sw 0 0
proc /proc proc defaults 0 0
server:/home /home nfs defaults 0 0
/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0
/srv /data none bind 0 0
# na\xefve\r
"""

UUID = '99999999-8888-7777-6666-555555555555'


class TestUntying(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.work = self.tmp()

    def image(self, text: str | None = FSTAB, *options: str) -> pathlib.Path:
        etc = self.directory / 'tree' / 'etc'
        etc.mkdir(parents=True, exist_ok=True)
        (etc / 'os-release').write_text('ID=debian\n')
        if text is not None:
            (etc / 'fstab').write_bytes(text.encode('latin-1'))
            (etc / 'fstab').chmod(0o640)
        path = self.directory / 'root.img'
        with path.open('wb') as file:
            file.truncate(8 * MIB)
        argv = ['mke2fs', '-q', '-F', '-t', 'ext4', '-U', UUID, *options]
        process.run([*argv, '-d', etc.parent, path], access=None)
        return path

    def fstab(self, image: pathlib.Path) -> str:
        with reader.opened(image) as tree:
            data = tree.read_file('/etc/fstab')
        assert data is not None
        return data.decode('latin-1')

    def opened(self, path: pathlib.Path, **choice):
        return resolve.opened(
            path, resolve.Choice(work_directory=self.work, **choice)
        )

    def test_mended(self) -> None:
        image = self.image()
        before = exttree.read_tree(image)
        with self.opened(image, fix=True) as source:
            expected = FSTAB.replace(
                'UUID=11111111-2222-3333-4444-555555555555 /', f'UUID={UUID} /'
            )
            for line in (
                'UUID=ABCD', 'LABEL=boot', '/dev/sda5', '/swapfile',
            ):  # fmt: skip
                expected = expected.replace(f'\n{line}', f'\n#{line}')
            self.assertEqual(expected, self.fstab(source.root))
            process.run(['e2fsck', '-f', '-n', source.root], access=None)
            # Nothing else was touched, nor the source itself.
            after = exttree.read_tree(source.root)
            self.assertEqual({b'/etc/fstab'}, _different(before, after))
            entry = after[b'/etc/fstab']
            self.assertEqual(0o640, entry.mode & 0o7777)
            (note,) = source.notes
            self.assertIn('/etc/fstab was fixed: / on UUID=1111', note)
            self.assertIn('swap on /dev/sda5', note)
        self.assertEqual(FSTAB, self.fstab(image))
        self.assertEqual(before, exttree.read_tree(image))
        self.assertEqual([], os.listdir(self.work))

    def test_crypttab(self) -> None:
        """Booting would wait for what was decrypted."""
        etc = self.directory / 'tree' / 'etc'
        etc.mkdir(parents=True)
        (etc / 'container').write_bytes(b'LUKS')
        text = (
            '# <target name> <source device>\n\n'
            'dm_crypt-0 UUID=1-2 none luks\n'
            '  swap /dev/sda5 /dev/urandom swap\n'
            'file /etc/container none\n'
        )
        (etc / 'crypttab').write_text(text)
        image = self.image('/dev/vda / ext4 defaults 0 1\n')
        disk = disks.make(self.directory / 'disk', [disks.Part(8, image)])
        named = 'dm_crypt-0 on UUID=1-2, swap on /dev/sda5'
        with self.opened(disk) as source:
            (note,) = source.notes
        self.assertIn('/etc/crypttab names what a server does not', note)
        self.assertIn(f': {named}; "ami upload"', note)
        with self.opened(disk, fix=True) as source:
            (note,) = source.notes
            with reader.opened(source.root) as tree:
                data = tree.read_file('/etc/crypttab') or b''
        self.assertTrue(note.endswith(f'/etc/crypttab was fixed: {named}'))
        for line in ('dm_crypt-0', '  swap'):
            text = text.replace(f'\n{line}', f'\n#{line}')
        self.assertEqual(text, data.decode())

    def test_told_in_short(self) -> None:
        lines = [f'/dev/sda5 /mnt/{"x" * 1500}{n} ext4' for n in range(30)]
        image = self.image('\n'.join((*lines, '')))
        disk = disks.make(self.directory / 'disk', [disks.Part(8, image)])
        with self.opened(disk, leave_out=('/mnt',)) as source:
            (note,) = source.notes
        self.assertLess(len(note), 3000)
        self.assertIn(' and 20 more; ', note)

    def test_told(self) -> None:
        """Of what was taken out of a disk; elsewhere there are checks."""
        image = self.image()
        disk = disks.make(self.directory / 'disk', [disks.Part(8, image)])
        with self.opened(disk, leave_out=('/boot',)) as source:
            (note,) = source.notes
            self.assertIn('/boot/efi on UUID=ABCD-1234', note)
            # Whatever command it is: not all have the option.
            self.assertTrue(
                note.endswith(
                    '/swapfile; "ami upload", "boot", "extract" and "shrink '
                    '--output" mend that in a copy with --fix'
                ),
                note,
            )
            self.assertEqual(FSTAB, self.fstab(source.root))
        with self.opened(disk, fix=True, leave_out=('/boot',)) as source:
            self.assertIn(f'\nUUID={UUID} / ext4', self.fstab(source.root))
        with self.opened(image) as source:
            self.assertEqual(((), image), (source.notes, source.root))

    def test_nothing_to_mend(self) -> None:
        own = superblock.read(self.image(None)).uuid
        for text in (
            f'UUID={own.upper()} / ext4 defaults 0 1\n',
            'LABEL=cloudimg-rootfs / ext4 defaults 0 1\n',
            '/dev/vda / ext4 defaults 0 1\ntmpfs /tmp tmpfs\n',
            '/dev/vda / auto noatime,errors=remount-ro,x-systemd.growfs',
            '/dev/vda / ext4 defaults,usrquota,commit=60,data=ordered 0 1\n',
            '/dev/vda / ext4 context="system_u:object_r:x:s0:c1,c2" 0 1\n',
            'LABEL=cloudimg-rootfs / ext4\nLABEL=cloudimg-rootfs /mnt ext4\n',
        ):
            image = self.image(text, '-L', 'cloudimg-rootfs')
            with self.opened(image, fix=True) as source:
                self.assertEqual((), source.notes)
                self.assertEqual(
                    exttree.read_tree(image), exttree.read_tree(source.root)
                )

    def mended(
        self, text: str | None, *options: str, merged: Set[str] = frozenset()
    ) -> tuple[str, tuple[str, ...]]:
        """Mend a file; tell what it says then, and what was done."""
        image = self.image(text, *options)
        notes = fix.mend(image, 'it', merged)
        process.run(['e2fsck', '-f', '-n', image], access=None)
        self.assertEqual((), fix.mend(image, 'it'))
        return self.fstab(image), notes

    def test_root_of_another_type(self) -> None:
        for before, after, told in (
            (
                'UUID=1 / btrfs compress=zstd:1,subvol=root,noatime 0 0',
                f'UUID={UUID} / ext4 noatime 0 0',
                'on UUID=1 as btrfs with compress=zstd:1,subvol=root',
            ),
            (
                f'UUID={UUID}\t/\txfs\tdefaults,uquota,pquota\t0\t0',
                f'UUID={UUID}\t/\text4\tdefaults\t0\t0',
                'as xfs with uquota,pquota',
            ),
            ('/dev/vda / xfs usrquota', '/dev/vda / ext4 defaults',
             'as xfs with usrquota'),
            ('/dev/vda / auto subvol=@,rw', '/dev/vda / auto rw',
             'with subvol=@'),
            ('/dev/vda / ext4 prjquota', '/dev/vda / ext4 defaults',
             'with prjquota'),
            ('/dev/vda / ext4 discard=async', '/dev/vda / ext4 defaults',
             'with discard=async'),
            ('/dev/vda / ext4 ro,noatime 0 1', '/dev/vda / ext4 noatime 0 1',
             'with ro'),
            ('rpool/root / zfs', f'UUID={UUID} / ext4',
             'on rpool/root as zfs'),
        ):  # fmt: skip
            self.assertEqual(
                (f'# x\n{after}\n', (f'it: /etc/fstab was fixed: / {told}',)),
                self.mended(f'# x\n{before}\n'),
            )

    def test_no_line_for_root(self) -> None:
        line = f'UUID={UUID} / ext4 defaults 0 1\n'
        for before in (None, '', '# nothing\n', 'tmpfs /tmp tmpfs'):
            text, (note,) = self.mended(before)
            end = '\n' if before and before[-1] != '\n' else ''
            self.assertEqual(f'{before or ""}{end}{line}', text)
            self.assertIn('no line for /', note)
        (self.directory / 'tree' / 'etc' / 'fstab').unlink()
        for kind in ('inline_data', '^64bit,^extent', '^metadata_csum'):
            text, _ = self.mended(None, '-O', kind, '-I', '256')
            self.assertEqual(line, text)
        with reader.opened(self.directory / 'root.img') as tree:
            node = tree.find('/etc/fstab')
        assert node is not None
        self.assertEqual(0o644, node.mode & 0o7777)
        self.assertEqual((0, 0), (node.uid, node.gid))

    def test_subvolumes_and_what_was_merged(self) -> None:
        root = f'UUID={UUID} / ext4 defaults 0 1\n'
        gone = (
            f'UUID={UUID} /home btrfs subvol=home 0 0\n'
            'rpool/var /srv zfs defaults 0 0\n/swap.img none swap sw 0 0\n'
        )
        merged = 'LABEL=root /var ext4\n'
        text, (note,) = self.mended(
            root + gone + merged, '-L', 'root', merged={'/var'}
        )
        lines = (gone + merged).splitlines()
        self.assertEqual(root + ''.join(f'#{e}\n' for e in lines), text)
        self.assertIn('/var on LABEL=root', note)

    def test_left_by_containers(self) -> None:
        self.image('LABEL=x / ext4\n')
        tree = self.directory / 'tree'
        (tree / '.dockerenv').write_bytes(b'')
        (tree / 'run').mkdir()
        (tree / 'run' / '.containerenv').write_bytes(b'engine="podman"')
        image = self.image('LABEL=x / ext4\n', '-L', 'x')
        before = exttree.read_tree(image)
        self.assertEqual(
            ('it: removed: /.dockerenv, /run/.containerenv',),
            fix.mend(image, 'it'),
        )
        process.run(['e2fsck', '-f', '-n', image], access=None)
        self.assertEqual(
            {b'/.dockerenv', b'/run/.containerenv'},
            before.keys() - exttree.read_tree(image).keys(),
        )

    def test_of_files(self) -> None:
        """There is room for it, and they give it their label or UUID."""
        tree = self.tmp()
        (tree / 'etc').mkdir()
        with self.opened(tree, fix=True) as source:
            own = superblock.read(source.root).uuid
            self.assertEqual(
                f'UUID={own} / ext4 defaults 0 1\n', self.fstab(source.root)
            )
        for spec in ('LABEL=r\u00f6\u00f6t', f'UUID={UUID.upper()}'):
            (tree / 'etc' / 'fstab').write_text(f'{spec} / ext4\n')
            with self.opened(tree, fix=True) as source:
                self.assertEqual((), source.notes)
                block = superblock.read(source.root)
            self.assertIn(
                spec, (f'LABEL={block.label}', f'UUID={block.uuid.upper()}')
            )

    def check_mended(self, image: pathlib.Path, text: str) -> None:
        """Mend it; nothing else must be touched."""
        with reader.opened(image) as tree:
            node = tree.find('/etc/fstab')
        before = exttree.read_tree(image)
        (note,) = fix.mend(image, 'it')
        self.assertEqual('it: /etc/fstab was fixed: / on /dev/sda1', note)
        self.assertEqual(
            text.replace('/dev/sda1', f'UUID={UUID}'), self.fstab(image)
        )
        process.run(['e2fsck', '-f', '-n', image], access=None)
        path = os.fsencode(node.path)
        after = exttree.read_tree(image)
        self.assertEqual(set(before[path].names), _different(before, after))
        for field in ('mode', 'uid', 'gid', 'xattrs'):
            self.assertEqual(
                getattr(before[path], field), getattr(after[path], field)
            )

    def test_longer_than_it_was(self) -> None:
        """Up to the end of its last block, and beyond."""
        line = '/dev/sda1 / ext4 defaults 0 1\n'
        longer = len(f'UUID={UUID}') - len('/dev/sda1')
        for kind in ('extent', '^64bit,^extent'):
            for room in (longer, longer - 1, 0):
                text = line + '#' * (3072 - len(line) - room - 1) + '\n'
                image = self.image(text, '-b', '1024', '-O', kind)
                self.check_mended(image, text)

    def test_within_the_inode(self) -> None:
        for more in (10, 40, 90):
            text = f'/dev/sda1 / ext4\n#{"x" * more}\n'
            for size in ('1024', '4096'):
                image = self.image(
                    text, '-b', size, '-O', 'inline_data', '-I', '256'
                )
                with reader.opened(image) as tree:
                    node = tree.find('/etc/fstab')
                    self.assertTrue(node is not None and node.is_inline)
                self.check_mended(image, text)

    def test_hole(self) -> None:
        text = '/dev/sda1 / ext4\n'.ljust(8000, '#') + '\n'
        image = self.image(text, '-b', '1024')
        process.run(
            ['debugfs', '-w', '-R', 'punch /etc/fstab 2 4', image], access=None
        )
        text = text[:2048] + '\0' * 3072 + text[5120:]
        self.assertEqual(text, self.fstab(image))
        self.check_mended(image, text)

    def test_links(self) -> None:
        """What a link leads to is mended, as long as that is in there."""
        text = '/dev/sda1 / ext4\n'
        self.image(text)
        etc = self.directory / 'tree' / 'etc'
        (etc / 'fstab').rename(etc / 'other')
        (etc / 'third').hardlink_to(etc / 'other')
        for target in ('other', '/etc/other', '../etc/./other'):
            (etc / 'fstab').unlink(missing_ok=True)
            (etc / 'fstab').symlink_to(target)
            self.check_mended(self.image(None), text)
        (etc / 'fstab').unlink()
        (etc / 'fstab').symlink_to('/run/nowhere')
        error = self.assertRaises(
            errors.UnsupportedError, fix.mend, self.image(None), 'it'
        )
        self.assertIn('a symbolic link to nowhere', str(error))

    def test_cannot_be_mended(self) -> None:
        """An error, wherever it was asked for."""
        text = '/dev/sda1 / ext4\n'
        etc = self.directory / 'tree' / 'etc'
        for commands, why in (
            (['sif /etc/fstab flags 0x80800'], 'it is encrypted'),
            (['sif /etc/fstab flags 0x180000'], 'sealed'),
            (['sif /etc/fstab size 65537'], 'more than 65536 bytes'),
            (['feature shared_blocks'], 'files that share blocks'),
            (['rm /etc/fstab', 'mkdir /etc/fstab'], 'not a regular file'),
            (['cd /etc', 'rm fstab', 'mknod fstab p'], 'not a regular file'),
        ):
            image = self.image(text)
            script = ''.join(f'{line}\n' for line in commands)
            process.run(
                ['debugfs', '-w', '-f', '/dev/stdin', image],
                input=script.encode(),
                access=None,
            )
            error = self.assertRaises(
                errors.UnsupportedError, fix.mend, image, 'it'
            )
            self.assertIn('it: /etc/fstab cannot be fixed: ', str(error))
            self.assertIn(why, str(error))
            (etc / 'fstab').write_text(text)

    def test_no_room(self) -> None:
        line = '/dev/sda1 / ext4\n'
        text = line + '#' * (1024 - len(line) - 1) + '\n'
        image = self.image(text, '-b', '1024', '-m', '0')
        free = superblock.read(image).free_blocks
        filler = self.directory / 'filler'
        filler.write_bytes(b'x' * (1024 * free))
        process.run(
            ['debugfs', '-w', '-R', f'write {filler} filler', image],
            access=None,
        )
        error = self.assertRaises(
            errors.UnsupportedError, fix.mend, image, 'it'
        )
        self.assertIn('there is no room for', str(error))

    def test_nowhere_to_add_it(self) -> None:
        image = self.image(None)
        process.run(
            ['debugfs', '-w', '-f', '/dev/stdin', image],
            input=b'rm /etc/os-release\nrmdir /etc\nmkdir /usr\n',
            access=None,
        )
        error = self.assertRaises(
            errors.UnsupportedError, fix.mend, image, 'it'
        )
        self.assertIn('there is no directory /etc', str(error))


def _different(one, other) -> set[bytes]:
    return {
        name
        for name in one.keys() | other.keys()
        if one.get(name) != other.get(name)
    }
