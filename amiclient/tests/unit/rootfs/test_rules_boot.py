# SPDX-License-Identifier: Apache-2.0


import gzip
import lzma
import pathlib

import fixtures

import amiclient
from amiclient import errors
from amiclient.rootfs import check
from amiclient.rootfs import ramdisk_formats
from amiclient.tests.unit.rootfs import checks
from amiclient.tests.unit.rootfs import images
from amiclient.tests.unit.rootfs import samples

Link = images.Link
_MODULES = f'usr/lib/modules/{checks.RELEASE}'
_UNITS = 'etc/systemd/system'


class TestSound(checks.CheckCase):
    def test_nothing_is_found(self) -> None:
        self.assertEqual({}, self.check())

    def test_other_inits(self) -> None:
        without = ('usr/lib/systemd', 'usr/sbin/init')
        init = {
            'usr/sbin/init': checks.PROGRAM,
            'etc/inittab': b'S0:2345:respawn:/sbin/getty -L ttyS0 115200\n',
        }
        self.assertEqual({}, self.check(init, without=('usr/lib/systemd',)))
        # busybox, as in Alpine and in small systems.
        init = {
            'etc/init': checks.PROGRAM,
            'etc/inittab': b'ttyS0::respawn:/sbin/getty -L 0 ttyS0 vt100\n',
        }
        self.assertEqual({}, self.check(init, without=without))

    def test_blank_root_is_a_note(self) -> None:
        """CirrOS has one: its ramdisk brings all that there is."""
        found = self.check({}, without=('',))
        self.assertEqual(['blank'], [*found])
        self.assertEqual('note', found['blank'].severity)
        # There is nothing to be done about it.
        self.assertIsNone(found['blank'].remedy)


class TestInit(checks.CheckCase):
    def test_none(self) -> None:
        """As docker export gives Debian: the kernel ends up with a shell."""
        found = self.check(without=(
            'usr/sbin/init', 'usr/lib/systemd', 'etc/fstab',
        ))  # fmt: skip
        self.assertEqual('error', found['no-init'].severity)
        self.assertIn('runs /bin/sh instead', found['no-init'].message)

    def test_init_of_a_ramdisk(self) -> None:
        """No kernel looks for it in a root filesystem."""
        found = self.check(
            {'init': checks.PROGRAM}, without=('usr/sbin/init',)
        )
        self.assertIn('no-init', found)

    def test_no_shell_either(self) -> None:
        found = self.check(without=('usr/sbin/init', 'usr/bin/sh'))
        self.assertIn('the kernel panics', found['no-init'].message)

    def test_dangling_init(self) -> None:
        found = self.check({'usr/sbin/init': Link('/sbin/busybox')})
        self.assertIn('panics', found['no-init'].message)

    def test_init_that_cannot_be_run(self) -> None:
        found = self.check({'usr/sbin/init': b'#!/bin/sh\n'})
        self.assertIn('no-init', found)

    def test_init_that_is_told(self) -> None:
        line = 'root=/dev/vda console=ttyS0 init=/usr/lib/systemd/systemd'
        without = ('usr/sbin/init',)
        found = self.check(without=without, command_line=line)
        self.assertEqual({}, found)
        found = self.check(command_line=f'{line} init=/sbin/other')
        self.assertIn('init=/sbin/other', found['no-init'].message)

    def test_no_os_release(self) -> None:
        self.assertFound(
            'no-os-release', 'warning', 'what system this is',
            self.check(without=('etc/os-release',)),
        )  # fmt: skip


class TestAlpine(checks.CheckCase):
    """Alpine, with a ramdisk as mkinitfs makes it."""

    def alpine(self, built_in: bytes = b'', **rest):
        modules = f'lib/modules/{checks.RELEASE}'
        names = [
            '.', './.modloop', './bin', './bin/busybox', './bin/sh', './dev',
            './etc/apk/keys', './etc/fstab', './etc/mdev.conf', './init',
            './lib/ld-musl-x86_64.so.1', './lib/mdev',
            *(
                f'./{modules}/kernel/{name}.ko.gz'
                for name in (
                    'drivers/block/virtio_blk', 'drivers/net/virtio_net',
                    'drivers/scsi/virtio_scsi', 'drivers/virtio/virtio_pci',
                    'fs/ext4/ext4', 'fs/jbd2/jbd2', 'fs/mbcache',
                )
            ),
            f'./{modules}/modules.order', './media/cdrom', './newroot',
            './sbin/apk', './sbin/nlplug-findfs', './sysroot',
        ]  # fmt: skip
        files: images.Files = {
            'usr/bin/busybox': checks.PROGRAM,
            'usr/sbin/init': Link('/bin/busybox'),
            'usr/bin/sh': Link('/bin/busybox'),
            'usr/sbin/tiny-cloud': images.Program(b'#!/bin/sh\n'),
            'etc/os-release': b'ID=alpine\nVERSION_ID=3.20.0\n',
            'etc/fstab': b'LABEL=sound / ext4 defaults,noatime 1 1\n'
            b'/dev/cdrom /media/cdrom iso9660 noauto,ro 0 0\n'
            b'/dev/usbdisk /media/usb vfat noauto 0 0\n'
            b'tmpfs /tmp tmpfs nosuid,nodev 0 0\n',
            'etc/inittab': b'::sysinit:/sbin/openrc sysinit\n'
            b'tty1::respawn:/sbin/getty 38400 tty1\n'
            b'ttyS0::respawn:/sbin/getty -L 0 ttyS0 vt100\n',
            f'{_MODULES}/modules.builtin': b'kernel/fs/fuse/fuse.ko\n'
            + built_in,
        }
        without = ('usr/lib/systemd', 'usr/bin/cloud-init', 'etc/cloud')
        ramdisk = self.file('initramfs', gzip.compress(samples.cpio(names)))
        return self.check(
            files, without=without, drivers=None, ramdisk=ramdisk, **rest
        )

    def test_told(self) -> None:
        """It boots with what its own boot loader says, too."""
        line = 'root=/dev/vda console=tty0 console=ttyS0'
        for words in ('rootfstype=ext4', 'modules=sd-mod,ext4 quiet'):
            found = self.alpine(command_line=f'{line} {words}')
            self.assertEqual({}, found, words)

    def test_built_in(self) -> None:
        self.assertEqual({}, self.alpine(b'kernel/fs/ext4/ext4.ko\n'))

    def test_module(self) -> None:
        found = self.alpine()
        self.assertFound('ext4', 'warning', 'the ramdisk of Alpine', found)
        self.assertIn('rootfstype=ext4', found['ext4'].remedy or '')


class TestElsewhere(checks.CheckCase):
    """The system is where a boot loader says."""

    def elsewhere(self, options: str, **rest):
        entry = f'linux /k\ninitrd /i\noptions root=UUID=1 ro {options}\n'
        files: images.Files = {
            'boot/k': samples.bzimage(release=checks.RELEASE.encode() + b' '),
            'boot/i': checks.ramdisk(checks.DRIVERS),
            'boot/loader/entries/1.conf': entry.encode(),
            **rest.pop('files', {}),
        }
        return self.check(files, kernel=b'', drivers=None, **rest)

    def test_ostree(self) -> None:
        place = 'ostree/deploy/fedora/deploy/abc.0/usr/lib/os-release'
        options = 'ostree=/ostree/boot.1/fedora/abc/0'
        found = self.elsewhere(options, files={place: b'ID=fedora\n'})
        self.assertFound('ostree', 'error', '/deploy/abc.0', found)
        self.assertIn(
            f"os_command_line='root=/dev/vda {options} console=",
            found['ostree'].remedy or '',
        )
        self.assertNotIn('composefs', found['ostree'].message)
        found = self.elsewhere(
            options, files={place: b'', place[:-18] + '.ostree.cfs': b'x'}
        )
        self.assertIn('composefs', found['ostree'].message)
        # With the remedy, nothing is wrong.
        found = self.check(
            {place: b''},
            command_line=f'root=/dev/vda {options} console=ttyS0',
        )
        self.assertEqual({}, found)

    def test_nixos(self) -> None:
        init = 'nix/store/x-nixos-system-y/init'
        found = self.elsewhere(
            f'init=/{init}', files={init: checks.PROGRAM},
            without=('usr/sbin/init',),
        )  # fmt: skip
        self.assertNotIn('no-init', found)
        self.assertEqual('warning', found['boot-options'].severity)
        self.assertIn(f'init=/{init} ', found['boot-options'].remedy or '')
        found = self.check(
            {init: checks.PROGRAM},
            without=('usr/sbin/init',),
            command_line=f'root=/dev/vda console=ttyS0 init=/{init}',
        )
        self.assertNotIn('no-init', found)


class TestRamdisk(checks.CheckCase):
    def test_without_init(self) -> None:
        parts = samples.cpio([f'{_MODULES}/virtio_blk.ko', f'{_MODULES}/a.ko'])
        ramdisk = self.file('part', parts)
        found = self.check(drivers=None, ramdisk=ramdisk)
        self.assertEqual('error', found['ramdisk-no-init'].severity)
        self.assertIn('no /init', found['ramdisk-no-init'].message)
        # It need not have any.
        found = self.check(
            {
                f'{_MODULES}/modules.builtin': b'fs/ext4.ko b/virtio_blk.ko '
                b'b/virtio_pci.ko b/virtio_net.ko b/virtio_scsi.ko'
            },
            drivers=None,
            ramdisk=self.file('microcode', samples.microcode()),
        )
        self.assertEqual({}, found)
        found = self.check(
            drivers=None, ramdisk=ramdisk, command_line='rdinit=/usr/x',
        )  # fmt: skip
        self.assertNotIn('ramdisk-no-init', found)

    def test_for_one_machine(self) -> None:
        names = [
            'init',
            'usr/lib/dracut/hostonly-files',
            f'{_MODULES}/nvme.ko',
        ]
        found = self.check(
            drivers=None, ramdisk=self.file('initrd', samples.cpio(names))
        )
        self.assertEqual('error', found['virtio-blk'].severity)
        self.assertIn('--no-hostonly', found['virtio-blk'].remedy or '')

    def test_modules_are_gone(self) -> None:
        """The ramdisk has the list, by which drivers are built in."""
        names = [
            'init', f'{_MODULES}/virtio_blk.ko', f'{_MODULES}/virtio_net.ko',
            f'{_MODULES}/modules.builtin', f'{_MODULES}/virtio_scsi.ko',
        ]  # fmt: skip
        built_in = b'kernel/fs/ext4/ext4.ko\nkernel/virtio_pci.ko\n'
        ramdisk = self.file('initrd', samples.cpio(names, data=built_in))
        found = self.check(without=(_MODULES,), drivers=None, ramdisk=ramdisk)
        self.assertEqual(['no-modules'], [*found])


class TestKernel(checks.CheckCase):
    def test_that_hosts_cannot_start(self) -> None:
        payload = lzma.compress(samples.arm64())
        for content, words in (
            (samples.zboot(0xAA64, payload, b'xzkern'), 'tail -c +4097 '),
            (lzma.compress(samples.elf(62)), 'xz -dc < '),
        ):
            found = self.check(kernel=content)['kernel-format']
            self.assertEqual('error', found.severity)
            self.assertIn('not all hosts can start', found.message)
            self.assertIn(words, found.remedy or '')

    def test_none(self) -> None:
        self.assertFound(
            'no-kernel', 'note', 'no kernel', self.check(kernel=b'')
        )

    def test_that_is_in_it(self) -> None:
        release = checks.RELEASE.encode() + b' x\0'
        found = self.check(
            {
                f'boot/vmlinuz-{checks.RELEASE}': samples.bzimage(
                    release=release
                ),
                f'boot/initrd.img-{checks.RELEASE}': checks.ramdisk(
                    checks.DRIVERS
                ),
            },
            kernel=b'',
            drivers=None,
        )
        self.assertEqual({}, found)

    def test_that_is_of_no_use(self) -> None:
        path = f'/boot/vmlinuz-{checks.RELEASE}'
        found = self.check({path: b'x' * 5000}, kernel=b'', drivers=None)
        self.assertFound('bad-kernel', 'error', path, found)
        found = self.check(
            {path: samples.bzimage(), f'/boot/initrd.img-{checks.RELEASE}':
             b'nothing'}, kernel=b'', drivers=None,
        )  # fmt: skip
        self.assertFound('bad-kernel', 'error', 'initrd.img', found)

    def test_of_another_architecture(self) -> None:
        kernel = samples.bzimage(
            wide=False, release=checks.RELEASE.encode() + b' x\0'
        )
        self.assertFound(
            'architecture', 'error', 'for i686, but the programs are for '
            'x86_64', self.check(kernel=kernel),
        )  # fmt: skip

    def test_that_runs_older_programs(self) -> None:
        older = images.Program(samples.elf(3, wide=False, segments=(1, 3)))
        found = self.check({
            'usr/lib/systemd/systemd': older, 'usr/bin/sh': older,
        })  # fmt: skip
        self.assertEqual({}, found)

    def test_modules_are_missing(self) -> None:
        found = self.check(without=(_MODULES,))
        self.assertEqual('warning', found['no-modules'].severity)
        self.assertIn(checks.RELEASE, found['no-modules'].message)
        # What is built in cannot be told any more.
        self.assertEqual('warning', found['ext4'].severity)
        self.assertIn('cannot be told', found['ext4'].message)

    def test_ramdisk_that_is_cut_short(self) -> None:
        real = checks.ramdisk
        self.patch(
            checks, 'ramdisk', lambda names: gzip.compress(real(names))[:-40]
        )
        self.assertFound(
            'ramdisk-unread',
            'error',
            'cut short',
            self.check(drivers=('a.ko',)),
        )

    def test_ramdisk_that_unpacks_to_too_much(self) -> None:
        self.useFixture(fixtures.MockPatchObject(ramdisk_formats, '_MOST', 10))
        found = self.check(drivers=('scsi/virtio_scsi.ko',))
        self.assertFound(
            'ramdisk-unread', 'warning', 'after 10 bytes was not', found
        )
        # Its drivers may be in there.
        self.assertNotIn('virtio-blk', found)

    def test_kernel_that_does_not_say_its_release(self) -> None:
        kernel = samples.bzimage(release=b'no release\0')
        self.assertEqual({}, self.check(kernel=kernel))
        # Of several, it could be any.
        found = self.check(
            {'usr/lib/modules/6.1.0-9-amd64/modules.dep': b''}, kernel=kernel
        )
        self.assertIn('cannot be told', found['ext4'].message)

    def test_modules_of_another_release(self) -> None:
        found = self.check(
            {'usr/lib/modules/6.1.0-9-amd64/modules.dep': b''},
            without=(_MODULES,),
        )
        self.assertIn('no-modules', found)


class TestDrivers(checks.CheckCase):
    def test_virtio_blk(self) -> None:
        self.assertFound(
            'virtio-blk', 'error', 'virtio_blk is missing from',
            self.check(drivers=('scsi/virtio_scsi.ko',)),
        )  # fmt: skip

    def test_virtio_pci(self) -> None:
        self.assertFound(
            'virtio-blk', 'error', 'virtio_pci is missing from',
            self.check({
                f'{_MODULES}/modules.builtin': b'kernel/fs/ext4/ext4.ko\n'
            }),
        )  # fmt: skip

    def test_ext4(self) -> None:
        self.assertFound(
            'ext4', 'error', 'ext4 is missing from',
            self.check({
                f'{_MODULES}/modules.builtin': b'kernel/virtio_pci.ko\n'
            }),
        )  # fmt: skip

    def test_virtio_net(self) -> None:
        self.assertFound(
            'virtio-net', 'error', 'there is no network',
            self.check(without=(f'{_MODULES}/modules.dep',)),
        )  # fmt: skip

    def test_virtio_scsi(self) -> None:
        self.assertFound(
            'virtio-scsi', 'note', 'hw_scsi_model',
            self.check(drivers=('block/virtio_blk.ko.zst',)),
        )  # fmt: skip

    def test_without_ramdisk(self) -> None:
        found = self.check(drivers=None)
        self.assertEqual({'virtio-blk', 'virtio-scsi'}, {*found})

    def test_all_built_in(self) -> None:
        names = ('ext4', 'virtio_pci', 'virtio_blk', 'virtio_net',
                 'virtio-scsi')  # fmt: skip
        listed = ''.join(f'kernel/{name}.ko\n' for name in names)
        found = self.check(
            {f'{_MODULES}/modules.builtin': listed.encode()}, drivers=None
        )
        self.assertEqual({}, found)

    def test_ext2_by_a_driver_of_its_own(self) -> None:
        builtin = b'kernel/fs/ext2/ext2.ko\nkernel/virtio_pci.ko\n'
        found = self.check(
            {f'{_MODULES}/modules.builtin': builtin},
            options=('-O', '^has_journal,^extent,^64bit,^metadata_csum,'
                     '^flex_bg,^huge_file,^dir_nlink,^extra_isize'),
        )  # fmt: skip
        self.assertEqual({}, found)


class TestCheck(checks.CheckCase):
    def test_no_filesystem(self) -> None:
        path = self.file('x', b'#!/bin/sh\n' * 1000)
        self.assertRaises(
            errors.SourceError,
            check.check,
            checks.bundle.Source(root=path),
            check.CheckRequest(name=path),
        )

    def test_what_is_no_kernel(self) -> None:
        self.assertRaises(
            errors.SourceError, self.check, kernel=b'nothing' * 1000
        )

    def test_damaged_files_are_findings(self) -> None:
        """A rule that cannot be tried keeps no other from being so."""
        found = self.check(
            {'etc/shadow': b'root::1:0:99999:7:::\n'},
            edit=('set_inode_field /etc/fstab block[4] 4294967295',),
        )
        self.assertEqual('error', found['unreadable'].severity)
        self.assertIn('root-password', found)

    def test_every_rule_is_documented(self) -> None:
        page = (
            pathlib.Path(amiclient.__file__).parents[1]
            / 'doc/source/user/checks.rst'
        )
        text = page.read_text()
        missing = {
            rule
            for rule in check.RULES
            if f'.. _check-{rule}:\n\n``{rule}`` (' not in text
        }
        self.assertEqual(set(), missing)
        self.assertEqual(len(check.RULES), text.count('.. _check-'))
