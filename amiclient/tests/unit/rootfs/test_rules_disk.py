# SPDX-License-Identifier: Apache-2.0


from amiclient.source import fstab
from amiclient.tests import base
from amiclient.tests.unit.rootfs import checks
from amiclient.tests.unit.rootfs import images


def _fstab(*lines: str) -> images.Files:
    return {'etc/fstab': '\n'.join(lines).encode()}


_ROOT = 'LABEL=sound / ext4 defaults 0 1'


class TestRoot(checks.CheckCase):
    def test_missing(self) -> None:
        for files in (_fstab('proc /proc proc defaults 0 0'), _fstab('')):
            found = self.check(files)
            self.assertFound('fstab-no-root', 'error', 'read-only', found)
            self.assertIn('LABEL=sound / ext4', found['fstab-no-root'].remedy)

    def test_missing_without_systemd(self) -> None:
        found = self.check(
            {
                'usr/sbin/init': checks.PROGRAM,
                'etc/inittab': b'S0:2345:respawn:/sbin/getty ttyS0\n',
            },
            without=('etc/fstab', 'usr/lib/systemd'),
        )
        self.assertFound('fstab-no-root', 'warning', 'read-only', found)

    def test_read_only(self) -> None:
        self.assertFound(
            'fstab-read-only', 'error', 'read-only',
            self.check(_fstab('LABEL=sound / ext4 ro,noatime 0 1')),
        )  # fmt: skip
        # The last one counts.
        found = self.check(_fstab('LABEL=sound / ext4 ro,rw 0 1'))
        self.assertEqual({}, found)

    def test_devices_that_will_not_exist(self) -> None:
        for spec in (
            '/dev/sda1', '/dev/vda1', '/dev/mapper/vg-root', 'PARTUUID=12-01',
            'UUID=00000000-1111-2222-3333-444444444444', 'LABEL=other',
            'PARTLABEL=sound', '/dev/disk/by-partuuid/12-01',
        ):  # fmt: skip
            found = self.check(_fstab(f'{spec} / ext4 defaults 0 1'))
            severity = 'warning' if spec.startswith('/') else 'error'
            self.assertFound('fstab-root-device', severity, spec, found)
            self.assertIn(
                'LABEL=sound', found['fstab-root-device'].remedy or ''
            )

    def test_devices_that_will_exist(self) -> None:
        for spec in (
            '/dev/vda', f'UUID={checks.UUID.upper()}', 'LABEL=sound',
            'LABEL="sound"', f'/dev/disk/by-uuid/{checks.UUID}',
            '/dev/disk/by-label/sound', '/dev/root',
        ):  # fmt: skip
            found = self.check(_fstab(f'{spec}\t/\text4\tdefaults\t0 1'))
            self.assertEqual({}, found, spec)

    def test_of_another_type(self) -> None:
        for line, severity, words in (
            ('LABEL=sound / btrfs subvol=root 0 0', 'error', 'subvol=root'),
            ('LABEL=sound / xfs defaults,uquota 0 0', 'error', 'uquota'),
            ('LABEL=sound / ext4 logbufs=8 0 0', 'error', 'logbufs=8'),
            ('LABEL=sound / xfs defaults,noatime 0 0', 'warning', 'as xfs'),
        ):
            self.assertFound(
                'fstab-options', severity, words, self.check(_fstab(line))
            )


class TestLeftovers(checks.CheckCase):
    def found(self, line: str, severity: str, words: str) -> None:
        self.assertFound(
            'fstab-leftover', severity, words,
            self.check(_fstab(_ROOT, line)),
        )  # fmt: skip

    def test_partitions(self) -> None:
        for line in (
            'UUID=AAAA-BBBB /boot/efi vfat umask=0077 0 1',
            'LABEL=boot /boot ext4 defaults 0 2',
            '/dev/sda2 /boot ext4 defaults 0 2',
            '/dev/mapper/vg-home /home ext4 defaults 0 2',
            '/dev/vdb /mnt auto defaults 0 2',
        ):
            self.found(line, 'error', line.split()[0])

    def test_many_and_long_lines(self) -> None:
        for lines, words in (
            ([f'LABEL=a /{"d" * 6000} ext4'], 'dddd... on LABEL=a'),
            (['LABEL=a /b ext4'] * 2000, 'more than 50 findings'),
        ):
            found = self.check(_fstab(_ROOT, *lines))['fstab-leftover']
            self.assertIn(words, found.message)
            self.assertLess(len(found.message), 400)

    def test_swap(self) -> None:
        self.found('UUID=1234 none swap sw 0 0', 'warning', 'swap on UUID')
        self.found('/swap.img none swap sw 0 0', 'warning', '/swap.img')

    def test_subvolumes(self) -> None:
        self.found('LABEL=sound /home btrfs subvol=home 0 0', 'error', '/home')
        self.found('rpool/home /home zfs defaults 0 0', 'error', 'rpool/home')

    def test_that_nobody_waits_for(self) -> None:
        for option in ('nofail', 'noauto'):
            self.found(
                f'LABEL=boot /boot ext4 defaults,{option} 0 2', 'note',
                'LABEL=boot',
            )  # fmt: skip

    def test_what_is_no_device(self) -> None:
        found = self.check(
            _fstab(
                _ROOT,
                'proc /proc proc defaults 0 0',
                'tmpfs /tmp tmpfs size=1G 0 0',
                'server:/export /srv nfs defaults 0 0',
                '/srv /mnt none bind 0 0',
                '/dev/cdrom /media iso9660 noauto 0 0',
                'LABEL=sound /again ext4 defaults 0 0',
                '/swapfile none swap sw 0 0',
                'nonsense',
            )
        )
        self.assertEqual({}, found)


class TestFilesystem(checks.CheckCase):
    def test_new_features(self) -> None:
        found = self.check(options=('-O', 'metadata_csum_seed'))
        self.assertFound(
            'new-features', 'warning', 'metadata_csum_seed (1.43)', found
        )
        self.assertIn('^metadata_csum_seed', found['new-features'].remedy)

    def test_little_room(self) -> None:
        self.assertFound(
            'little-room', 'warning', 'before cloud-init grows it',
            self.check(size=32 << 20),
        )  # fmt: skip

    def test_few_inodes(self) -> None:
        found = self.check(options=('-N', '600'))
        self.assertFound('little-room', 'warning', ' inodes are free', found)

    def test_little_room_that_grows_early(self) -> None:
        found = self.check(
            _fstab('LABEL=sound / ext4 x-systemd.growfs 0 1'), size=32 << 20
        )
        self.assertEqual({}, found)
        found = self.check(
            drivers=(*checks.DRIVERS, '../../../../../../usr/bin/growroot.sh'),
            size=32 << 20,
        )
        self.assertEqual({}, found)

    def test_boot_sector(self) -> None:
        self.assertFound(
            'boot-sector', 'warning', 'refuses it',
            self.check(patch=(510, b'\x55\xaa')),
        )  # fmt: skip

    def test_boot_loader(self) -> None:
        status = (
            b'Package: bash\nStatus: install ok installed\n\n'
            b'Package: grub-pc\nStatus: install ok installed\n'
            b'Description: x\n\n'
            b'Package: grub-efi\nStatus: deinstall ok config-files\n'
        )
        found = self.check(
            {
                'usr/sbin/grub-install': checks.PROGRAM,
                'var/lib/dpkg/status': status,
            }
        )
        self.assertFound('boot-loader', 'note', 'grub', found)
        self.assertEqual('apt-get purge grub-pc', found['boot-loader'].remedy)

    def test_nothing_of_it_gets_into_a_shell(self) -> None:
        """Remedies are pasted, so what they say is not the image's."""
        found = self.check(
            {
                **_fstab(''),
                'usr/sbin/grub-install': checks.PROGRAM,
                'var/lib/dpkg/status': b'Package: grub-$(id);id\n'
                b'Status: install ok installed\n',
                'root/.bash_history': b'x',
                'home/$(id)/.bash_history': b'x',
            },
            options=('-L', "'; id #"),
        )
        self.assertEqual(
            {
                'fstab-no-root': f"echo 'UUID={checks.UUID} / ext4 defaults "
                "0 1' >> /etc/fstab",
                'boot-loader': 'remove its packages',
                'history': "rm /root/.bash_history '/home/$(id)/"
                ".bash_history'",
            },
            {rule: finding.remedy for rule, finding in found.items()},
        )

    def test_boot_loader_of_others(self) -> None:
        found = self.check({'usr/sbin/grub2-install': checks.PROGRAM})
        self.assertFound('boot-loader', 'note', 'grub2', found)

    def test_not_unmounted(self) -> None:
        found = self.check(edit=('feature needs_recovery',))
        self.assertFound('not-clean', 'warning', 'journal', found)

    def test_errors_on_record(self) -> None:
        found = self.check(edit=('set_super_value state 3',))
        self.assertFound('not-clean', 'warning', 'errors', found)

    def test_time_stamps_in_the_future(self) -> None:
        found = self.check(
            edit=('set_inode_field /etc/passwd mtime 20990101',)
        )
        self.assertFound('future-times', 'warning', '/etc/passwd', found)
        found = self.check(now=1_000_000_000)
        self.assertFound('future-times', 'warning', 'superblock', found)


class TestFstab(base.TestCase):
    def test_lines(self) -> None:
        found = fstab.parse(
            '# comment\n\nnonsense\n'
            'LABEL=a\\040b /mnt/x\\040y/ ext4 ro,noatime 0 2\n'
            '/dev/sda1 //\n'
        )
        self.assertEqual(
            (
                fstab.FstabEntry('LABEL=a b', '/mnt/x y', 'ext4',
                            ('ro', 'noatime')),
                fstab.FstabEntry('/dev/sda1', '/', 'auto', ('defaults',)),
            ),
            found,
        )  # fmt: skip
        self.assertEqual(('LABEL', 'a b'), found[0].tag)
        self.assertIsNone(found[1].tag)
