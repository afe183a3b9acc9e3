#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.


"""What ties a root filesystem to its disk is told, and mended unmounted."""

import os
import pathlib

from amiclient import exceptions
from amiclient.ext import browse
from amiclient.ext import superblock
from amiclient import process
from amiclient.source import resolve
from amiclient.source import untying
from amiclient.tests import base
from amiclient.tests import disks
from amiclient.tests import exttree

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
        self.folder = self.tmp()
        self.work = self.tmp()

    def image(self, text: str | None = FSTAB, *options: str) -> pathlib.Path:
        etc = self.folder / 'tree' / 'etc'
        etc.mkdir(parents=True, exist_ok=True)
        (etc / 'os-release').write_text('ID=debian\n')
        if text is not None:
            (etc / 'fstab').write_bytes(text.encode('latin-1'))
            (etc / 'fstab').chmod(0o640)
        path = self.folder / 'root.img'
        with path.open('wb') as file:
            file.truncate(8 * MIB)
        argv = ['mke2fs', '-q', '-F', '-t', 'ext4', '-U', UUID, *options]
        process.run([*argv, '-d', etc.parent, path])
        return path

    def fstab(self, image: pathlib.Path) -> str:
        with browse.opened(image) as reader:
            data = reader.read_file('/etc/fstab')
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
            for line in ('UUID=ABCD', 'LABEL=boot', '/dev/sda5'):
                expected = expected.replace(f'\n{line}', f'\n#{line}')
            self.assertEqual(expected, self.fstab(source.root))
            process.run(['e2fsck', '-f', '-n', source.root])
            # Nothing else was touched, nor the source itself.
            after = exttree.read_tree(source.root)
            self.assertEqual({b'/etc/fstab'}, _different(before, after))
            entry = after[b'/etc/fstab']
            self.assertEqual(0o640, entry.mode & 0o7777)
            (note,) = source.notes
            self.assertIn('/etc/fstab was mended: / on UUID=1111', note)
            self.assertIn('swap on /dev/sda5', note)
        self.assertEqual(FSTAB, self.fstab(image))
        self.assertEqual(before, exttree.read_tree(image))
        self.assertEqual([], os.listdir(self.work))

    def test_told(self) -> None:
        """Of what was taken out of a disk; elsewhere there are checks."""
        image = self.image()
        disk = disks.make(self.folder / 'disk', [disks.Part(8, image)])
        with self.opened(disk) as source:
            (note,) = source.notes
            self.assertIn('/boot/efi on UUID=ABCD-1234', note)
            # Whatever command it is: not all have the option.
            self.assertTrue(
                note.endswith(
                    '/dev/sda5; "ami upload", "boot", "extract" and "shrink '
                    '--output" mend that in a copy with --fix'
                ),
                note,
            )
            self.assertEqual(FSTAB, self.fstab(source.root))
        with self.opened(disk, fix=True) as source:
            self.assertIn(f'\nUUID={UUID} / ext4', self.fstab(source.root))
        with self.opened(image) as source:
            self.assertEqual(((), image), (source.notes, source.root))

    def test_nothing_to_mend(self) -> None:
        own = superblock.read(self.image(None)).uuid
        for text in (
            None,
            '',
            '# nothing\n',
            f'UUID={own.upper()} / ext4 defaults 0 1\n',
            'LABEL=cloudimg-rootfs / ext4 defaults 0 1\n',
            '/dev/vda / ext4 defaults 0 1\ntmpfs /tmp tmpfs\n',
        ):
            image = self.image(text, '-L', 'cloudimg-rootfs')
            with self.opened(image, fix=True) as source:
                self.assertEqual((), source.notes)
                self.assertEqual(
                    exttree.read_tree(image), exttree.read_tree(source.root)
                )

    def test_longer_than_it_was(self) -> None:
        """Up to the end of its last block; not beyond."""
        line = '/dev/sda1 / ext4 defaults 0 1\n'
        longer = len(f'UUID={UUID}') - len('/dev/sda1')
        for room, fits in ((longer, True), (longer - 1, False)):
            text = line + '#' * (1024 - len(line) - room - 1) + '\n'
            image = self.image(text, '-b', '1024')
            if fits:
                untying.mend(image, 'it')
                self.assertEqual(
                    text.replace('/dev/sda1', f'UUID={UUID}'),
                    self.fstab(image),
                )
                process.run(['e2fsck', '-f', '-n', image])
                continue
            error = self.assertRaises(
                exceptions.UnsupportedError, untying.mend, image, 'it'
            )
            self.assertIn('has room for 1024 bytes, and 1025', str(error))
            self.assertEqual(text, self.fstab(image))

    def test_where_nothing_can_be_written(self) -> None:
        """A symbolic link, or content within the inode: it is told of."""
        image = self.image('/dev/sda1 / ext4\n', '-O', 'inline_data')
        (note,) = untying.mend(image, 'it')
        self.assertIn('names what a server does not have: / on', note)
        # The option that was given is no advice.
        self.assertTrue(note.endswith('mend it by hand'), note)
        etc = self.folder / 'tree' / 'etc'
        (etc / 'fstab').rename(etc / 'other')
        (etc / 'fstab').symlink_to('other')
        image = self.image(None)
        (note,) = untying.mend(image, 'it')
        self.assertIn('names what a server does not have: / on', note)
        # The option that was given is no advice.
        self.assertTrue(note.endswith('mend it by hand'), note)


def _different(one, other) -> set[bytes]:
    return {
        name
        for name in one.keys() | other.keys()
        if one.get(name) != other.get(name)
    }
