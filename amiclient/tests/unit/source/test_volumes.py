# SPDX-License-Identifier: Apache-2.0

"""XFS, btrfs, LVM and LUKS on one disk become one image, by libguestfs.

An appliance takes a while to start: so one disk has everything.
"""

import os
import pathlib
import subprocess
from unittest import mock

from amiclient import confinement
from amiclient import distribution
from amiclient import errors
from amiclient import kvm
from amiclient import process
from amiclient import progress
from amiclient.source import appliance
from amiclient.source import resolve
from amiclient.tests import base
from amiclient.tests.disks.appliance import ApplianceCase
from amiclient.tests.disks import disks
from amiclient.tests.oracle import exttree

MIB = disks.MIB

ROOT = '99999999-8888-7777-6666-555555555555'

FSTAB = f"""\
UUID={ROOT} / xfs defaults 0 0
LABEL=bootfs /boot xfs defaults 0 0
/dev/mapper/v--g-var /var ext4 defaults 0 0
PARTLABEL=tree /home btrfs subvol=home,compress=zstd 0 0
PARTLABEL=tree /opt btrfs subvol=opt 0 0
LABEL=secret /srv ext4 defaults 0 0
/dev/v-g/swap none swap sw 0 0
"""

#: What is put on the disk, after it has its volumes.
_FILL = """\
mount /dev/v-g/root /
mkdir-p /etc
mkdir /var
mkdir /home
mkdir /opt
write /etc/os-release "ID=rocky\\n"
upload {fstab} /etc/fstab
write /var/hidden hidden
mkdir /usr
write /usr/ping "#!"
chmod 04755 /usr/ping
setxattr security.note noted 5 /usr/ping
ln /usr/ping /usr/ping6
ln-s /usr/ping /usr/link
mknod-c 0600 5 1 /usr/console
touch /usr/hole
truncate-size /usr/hole 2G
write-append /usr/hole end
acl-set-file /usr/hole access u::rw-,u:1000:r--,g::r--,m::r--,o::---
setxattr user.large {large} 3000 /usr/hole
utimens /usr/hole 1000000000 5 1000000000 7
umount-all
mount /dev/v-g/var /
write /status status
chown 7 8 /status
umount-all
mount /dev/sda1 /
write /vmlinuz kernel
umount-all
mount /dev/sda3 /
btrfs-subvolume-create /home
btrfs-subvolume-create /home/nested
btrfs-subvolume-create /opt
write /home/f home
write /home/nested/f nested
write /opt/f opt
umount-all
luks-open /dev/sda4 c
passphrase
mkfs ext4 /dev/mapper/c label:secret
mount /dev/mapper/c /
write /s secret
umount-all
luks-close /dev/mapper/c
"""


class TestVolumes(ApplianceCase):
    def disk(self) -> pathlib.Path:
        path = disks.make(
            self.directory / 'disk',
            [disks.Part(size) for size in (320, 520, 120, 64)],
        )
        argv = ['sfdisk', '--quiet', '--part-label', path, '3', 'tree']
        process.run(argv, access=None)
        boot, root = self.blank('boot', 304), self.blank('root', 320)
        xfs = ['mkfs.xfs', '-q']
        process.run([*xfs, '-L', 'bootfs', boot], access=None)
        process.run([*xfs, '-m', f'uuid={ROOT}', root], access=None)
        luks = self.blank('luks', 64)
        process.run(
            [
                'cryptsetup', 'luksFormat', '-q', '--pbkdf', 'pbkdf2',
                '--pbkdf-force-iterations', '1000', luks, '-',
            ],
            access=None,
            input=b'passphrase',
        )  # fmt: skip
        fstab = self.directory / 'fstab'
        fstab.write_text(FSTAB)
        words = [
            f'add-drive {path} format:raw',
            f'add-drive {boot} format:raw readonly:true',
            f'add-drive {root} format:raw readonly:true',
            f'add-drive {luks} format:raw readonly:true',
            'run',
            'pvcreate /dev/sda2',
            'vgcreate v-g /dev/sda2',
            'lvcreate root v-g 320',
            'lvcreate var v-g 64',
            'lvcreate swap v-g 32',
            'mkswap /dev/v-g/swap',
            'mkfs ext4 /dev/v-g/var',
            'mkfs btrfs /dev/sda3',
            'copy-device-to-device /dev/sdb /dev/sda1 sparse:true '
            f'size:{304 * MIB}',
            'copy-device-to-device /dev/sdc /dev/v-g/root sparse:true',
            'copy-device-to-device /dev/sdd /dev/sda4',
            _FILL.format(fstab=fstab, large='l' * 3000),
        ]
        setting = 'force_tcg'
        if kvm.works('qemu-system-x86_64', 'pc'):
            setting = ''
        subprocess.run(
            ['guestfish', '--keys-from-stdin'],
            check=True,
            input='\n'.join(words).encode(),
            stdout=subprocess.DEVNULL,
            timeout=500,
            env={
                **os.environ,
                'LIBGUESTFS_BACKEND': 'direct',
                'LIBGUESTFS_BACKEND_SETTINGS': setting,
                'LIBGUESTFS_CACHEDIR': '/var/tmp',
            },
        )
        return path

    @base.slow
    def test_all(self) -> None:
        disk = self.disk()
        key = self.directory / 'key'
        key.write_text('passphrase\n')
        choice = resolve.Choice(work_directory=self.work, luks_key_file=key)
        with resolve.opened(disks.convert(disk, 'qcow2'), choice) as source:
            process.run(['e2fsck', '-f', '-n', source.root], access=None)
            found = exttree.read_tree(source.root)
            self.assertEqual(
                ('/boot', '/home', '/opt', '/srv', '/var'), source.merged
            )
            self.assertEqual(2, source.partition)
        self.assertEqual([], os.listdir(self.work))
        self.assertEqual(
            {
                b'/', b'/boot', b'/boot/vmlinuz', b'/etc', b'/etc/fstab',
                b'/etc/os-release', b'/home', b'/home/f', b'/home/nested',
                b'/home/nested/f', b'/lost+found', b'/opt', b'/opt/f',
                b'/srv', b'/srv/s', b'/usr', b'/usr/console', b'/usr/hole',
                b'/usr/link', b'/usr/ping', b'/usr/ping6', b'/var',
                b'/var/status',
            },
            set(found) - {b'/srv/lost+found', b'/var/lost+found'},
        )  # fmt: skip
        ping, hole = found[b'/usr/ping'], found[b'/usr/hole']
        self.assertEqual((b'/usr/ping', b'/usr/ping6'), ping.names)
        self.assertEqual(0o4755, ping.mode)
        self.assertEqual({b'security.note': b'noted'}, ping.xattrs)
        self.assertEqual(b'/usr/ping', found[b'/usr/link'].target)
        self.assertEqual((5, 1), found[b'/usr/console'].device)
        self.assertEqual(2**31 + 3, hole.size)
        self.assertEqual(10**18 + 7, hole.mtime)
        self.assertEqual(10**18 + 5, hole.atime)
        self.assertEqual(
            {b'user.large', b'system.posix_acl_access'}, set(hole.xattrs)
        )
        self.assertEqual(b'l' * 3000, hole.xattrs[b'user.large'])
        status = found[b'/var/status']
        self.assertEqual((7, 8, 6), (status.uid, status.gid, status.size))


class TestAppliance(base.TestCase):
    """What goes wrong before an appliance runs."""

    def refused(self, script: str) -> str:
        bin = self.tmp()
        for name, text in (
            ('guestfish', f'echo {bin}'),
            ('supermin', script),
        ):
            (bin / name).write_text(f'#!/bin/sh\n{text}\n')
            (bin / name).chmod(0o755)
        (bin / 'supermin.d').mkdir()
        self.useFixture(
            base.fixtures.EnvironmentVariable('LIBGUESTFS_CACHEDIR', str(bin))
        )
        self.useFixture(
            base.fixtures.EnvironmentVariable(
                'PATH', f'{bin}{os.pathsep}{os.environ["PATH"]}'
            )
        )
        self.patch(confinement, 'confine', lambda *_: [])
        error = self.assertRaises(
            errors.ProgramError,
            appliance._made,
            self.tmp(),
            progress.QUIET,
        )
        return str(error)

    def test_kernel_that_cannot_be_read(self) -> None:
        words = self.refused(
            "echo \"cp: cannot open '/boot/vmlinuz-6.8.0' for reading: "
            'Permission denied" >&2; exit 1'
        )
        self.assertIn('sudo chmod 0644 /boot/vmlinuz-*', words)
        self.assertIn('SUPERMIN_KERNEL', words)

    def test_not_installed(self) -> None:
        image = self.tmp() / 'image'
        with image.open('wb') as file:
            file.write(b'XFSB'.ljust(4096, b'\0'))
            file.truncate(64 * MIB)

        def find(program: str) -> str:
            if program == 'guestfish':
                raise errors.ProgramError(
                    f'{program} was not found',
                    hint=distribution.remedy(program),
                )
            return found(program)

        found = process.find
        with mock.patch.object(process, 'find', find):
            error = self.assertRaises(
                errors.ProgramError,
                resolve.opened(
                    image, resolve.Choice(work_directory=self.tmp())
                ).__enter__,
            )
        self.assertIn(distribution.remedy('guestfish') or '', str(error))
