# SPDX-License-Identifier: Apache-2.0

"""RAID, UDF, a system of ostree and encrypted volumes, by libguestfs.

An appliance takes a while to start: so one disk has everything. It is made
with another appliance.
"""

import base64
import os
import pathlib
import subprocess
from unittest import mock

import fixtures

from amiclient import errors
from amiclient import kvm
from amiclient import process
from amiclient.source import appliance
from amiclient.source import disk
from amiclient.source import qemu_nbd
from amiclient.source import resolve
from amiclient.source import volumes
from amiclient.tests import base
from amiclient.tests.disks.appliance import ApplianceCase
from amiclient.tests.disks import disks
from amiclient.tests.disks import ostree_system
from amiclient.tests.oracle import exttree

#: With a newline at its end, it is a passphrase, or all of it is a key.
KEY = b'passphrase\n'

#: A key that no line of text can be.
BINARY = bytes(range(256))

#: Of the encrypted volumes.
UUIDS = (
    '11111111-2222-3333-4444-555555555555',
    '66666666-7777-8888-9999-aaaaaaaaaaaa',
    'bbbbbbbb-cccc-dddd-eeee-ffffffffffff',
)

FSTAB = """\
LABEL=disc /home udf ro 0 0
/dev/mapper/dm_crypt-0 /srv ext4 defaults 0 0
/dev/mapper/keys /opt ext4 defaults 0 0
"""

CRYPTTAB = f"""\
# <name> <device> <key file> <options>
dm_crypt-0 UUID={UUIDS[0].upper()} none luks

keys /dev/disk/by-partlabel/keys /etc/key luks,discard
other UUID={UUIDS[2]} none luks,noauto
"""

#: A RAID1 array that lacks its second member, with the root.
_FILL = """\
md-create array "/dev/sda1" level:raid1 nrdevices:2 missingbitmap:2
mkfs ext4 /dev/md/array label:sysroot
mount /dev/md/array /
tar-in {tree} / xattrs:true
umount-all
mkfs ext4 /dev/sda2 label:boot
mount /dev/sda2 /
tar-in {boot} /
umount-all
mount /dev/sda3 /
write /disc disc
umount-all
luks-open /dev/sda4 a
passphrase
mkfs ext4 /dev/mapper/a
mount /dev/mapper/a /
write /a opened
umount-all
luks-close /dev/mapper/a
debug sh "echo passphrase | cryptsetup open --key-file - UUID={uuid} b"
mkfs ext4 /dev/mapper/b
mount /dev/mapper/b /
write /b opened
umount-all
md-stop /dev/md/array
"""


class TestArrays(ApplianceCase):
    programs = ('guestfish', 'mkudffs', 'cryptsetup')

    def luks(self, name: str, uuid: str, key: bytes) -> pathlib.Path:
        path = self.blank(name, 32)
        process.run(
            [
                'cryptsetup', 'luksFormat', '-q', '--uuid', uuid,
                '--pbkdf', 'pbkdf2', '--pbkdf-force-iterations', '1000',
                '--key-file', '-', path,
            ],
            access=None,
            input=key,
        )  # fmt: skip
        return path

    def packed(self, tree: pathlib.Path, *exclude: str) -> pathlib.Path:
        path = self.directory / f'{len(exclude)}.tar'
        words = ['tar', '-C', tree, '--xattrs', '--owner=0', '--group=0']
        options = [f'--exclude={each}' for each in exclude]
        process.run([*words, *options, '-cf', path, '.'], access=None)
        return path

    def disk(self) -> pathlib.Path:
        tree = ostree_system.make(self.tmp(), FSTAB)
        top = tree / ostree_system.deployment(ostree_system.NEW)
        (top / 'etc/crypttab').write_text(CRYPTTAB)
        for name in ('srv', 'opt'):
            (top / name).mkdir()
        udf = self.blank('udf', 16)
        words = ['mkudffs', '--label', 'disc', '--blocksize', '512', udf]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        path = disks.make(
            self.directory / 'disk',
            [
                disks.Part(64),
                disks.Part(32),
                disks.Part(16, udf),
                disks.Part(32, self.luks('a', UUIDS[0], KEY[:-1])),
                disks.Part(32, self.luks('b', UUIDS[1], KEY)),
                disks.Part(32, self.luks('c', UUIDS[2], BINARY)),
            ],
        )
        words = ['sfdisk', '--quiet', '--part-label', path, '5', 'keys']
        process.run(words, access=None)
        fill = _FILL.format(
            uuid=UUIDS[1],
            tree=self.packed(tree, './boot/?*'),
            boot=self.packed(tree / 'boot'),
        )
        works = kvm.works('qemu-system-x86_64', 'pc')
        subprocess.run(
            ['guestfish', '--keys-from-stdin'],
            check=True,
            input=f'add-drive {path} format:raw\nrun\n{fill}'.encode(),
            stdout=subprocess.DEVNULL,
            timeout=500,
            env={
                **os.environ,
                'LIBGUESTFS_BACKEND': 'direct',
                'LIBGUESTFS_BACKEND_SETTINGS': '' if works else 'force_tcg',
                'LIBGUESTFS_CACHEDIR': '/var/tmp',
            },
        )
        return path

    def choice(self, key: bytes) -> resolve.Choice:
        path = self.directory / 'key'
        path.write_bytes(key)
        return resolve.Choice(work_directory=self.work, luks_key_file=path)

    @base.slow
    def test_all(self) -> None:
        disk = self.disk()
        with resolve.opened(disk, self.choice(KEY)) as source:
            process.run(['e2fsck', '-f', '-n', source.root], access=None)
            found = exttree.read_tree(source.root)
            self.assertEqual(
                {'/boot', '/home', '/opt', '/srv'}, set(source.merged)
            )
            self.assertEqual(1, source.partition)
        self.assertEqual([], os.listdir(self.work))
        for path, size in (
            (f'/boot/vmlinuz-{ostree_system.RELEASE}', 1280),
            ('/var/home/disc', 4),
            ('/srv/a', 6),
            ('/opt/b', 6),
            ('/etc/crypttab', len(CRYPTTAB)),
        ):
            self.assertEqual(size, found[path.encode()].size, path)
        self.assertNotIn(b'/var/home/core', found)
        self.assertNotIn(b'/ostree/repo', found)
        tool = found[b'/usr/bin/tool']
        self.assertEqual(
            ((b'/usr/bin/same', b'/usr/bin/tool'), 0o4755, b'noted'),
            (tool.names, tool.mode, tool.xattrs[b'user.note']),
        )


class TestKeys(base.TestCase):
    """Which keys are tried, and what is said of wrong ones."""

    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        header = b'LUKS\xba\xbe\0\2'.ljust(4096, b'\0')
        self.path = disks.make(
            self.directory / 'disk', [disks.Part(2, header)] * 2
        )

    def unlocked(
        self,
        keys: dict[str, bytes],
        *told: bytes,
        end: str = 'No key available',
    ) -> list[str]:
        """Open two encrypted volumes.

        :param keys: of the volumes, by their UUID.
        :param told: what is answered, one after the other.
        :returns: what was asked for.
        """
        asked: list[str] = []
        answers = list(told)

        def ask(*words: str, then: str = '') -> str:
            if words[0] == 'debug':
                _, encoded, *_ = words[2].split()
                secret = base64.b64decode(encoded)
                uuid = words[2].split('UUID=')[1].split()[0]
            elif words[0] == 'cryptsetup-open':
                secret, uuid = (
                    os.fsencode(then),
                    words[2].removeprefix('luks-'),
                )
            else:
                return ''
            if secret != keys[uuid]:
                raise appliance.CommandError(f'status 2: {end}')
            return ''

        def lines(*words: str) -> list[str]:
            if words[0] == 'blkid':
                return [f'UUID: {UUIDS[int(words[1][-1]) - 1].upper()}']
            return []

        def key(what: str) -> bytes:
            asked.append(what)
            return answers.pop(0) if len(answers) > 1 else answers[0]

        running = mock.create_autospec(appliance.Appliance, instance=True)
        running.ask.side_effect = ask
        running.lines.side_effect = lines
        image = qemu_nbd.DiskImage(self.path, 'raw', str(self.path))
        with disk.opened(image, self.tmp()) as found:
            explorer = volumes.Explorer(running, found, None, key)
            explorer._unlock()
        self.opened = len(explorer._opened)
        self.locked = explorer._locked
        return asked

    def test_all_tried(self) -> None:
        both = dict.fromkeys(UUIDS[:2], b'secret')
        self.assertEqual(
            [f'partition 1 of {self.path}'], self.unlocked(both, b'secret\n')
        )
        self.assertEqual((2, []), (self.opened, self.locked))

    def test_each_its_own(self) -> None:
        each = {UUIDS[0]: b'one', UUIDS[1]: b'two'}
        self.assertEqual(2, len(self.unlocked(each, b'one', b'two')))
        self.assertEqual((2, []), (self.opened, self.locked))
        # That of the first may open the second, too.
        self.unlocked({UUIDS[0]: b'two', UUIDS[1]: b'two'}, b'two', b'x')
        self.assertEqual(2, self.opened)

    def test_one_only(self) -> None:
        self.unlocked({UUIDS[0]: b'one', UUIDS[1]: b'two'}, b'two\n')
        self.assertEqual(1, self.opened)
        self.assertEqual(
            ['partition 1 cannot be decrypted: wrong passphrase or key file'],
            self.locked,
        )

    def test_key_files(self) -> None:
        for key in (BINARY, b'text\n', b'x' * 600, b'\xff\xfe'):
            self.unlocked(dict.fromkeys(UUIDS[:2], key), key)
            self.assertEqual((2, []), (self.opened, self.locked))

    def test_wrong(self) -> None:
        both = dict.fromkeys(UUIDS[:2], b'secret')
        error = self.assertRaises(
            errors.SourceError, self.unlocked, both, b'Secret'
        )
        wrong = 'cannot be decrypted: wrong passphrase or key file'
        self.assertEqual(
            f'{self.path}: partition 1 {wrong} | partition 2 {wrong}; is it '
            'the right passphrase?',
            str(error),
        )
        error = self.assertRaises(
            errors.SourceError, self.unlocked, both, b'x', end='no memory'
        )
        self.assertIn('partition 1 cannot be decrypted: status 2', str(error))

    def test_refused(self) -> None:
        """What cannot be a key is refused before an appliance starts."""
        started = self.useFixture(
            fixtures.MockPatchObject(appliance, 'started')
        ).mock
        file = self.directory / 'key'
        for data, words in (
            (b'', 'there is no passphrase in it'),
            (b'\n', 'there is no passphrase in it'),
            (bytes(8193), 'it has more than 8192 bytes'),
        ):
            file.write_bytes(data)
            choice = resolve.Choice(luks_key_file=file)
            error = self.assertRaises(
                errors.UsageError,
                resolve.opened(self.path, choice).__enter__,
            )
            self.assertEqual(
                f'--luks-key-file {file}: {words}; give a file with the '
                'passphrase, or a key file',
                str(error),
            )
        error = self.assertRaises(
            errors.UsageError, resolve.opened(self.path).__enter__
        )
        self.assertEqual(
            f'partition 1 of {self.path} is encrypted; give its '
            'passphrase with --luks-key-file FILE',
            str(error),
        )
        self.assertFalse(started.called)
