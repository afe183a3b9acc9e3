# SPDX-License-Identifier: Apache-2.0


from amiclient import errors
from amiclient.rootfs import boot_extract
from amiclient.rootfs import boot_files
from amiclient.tests import base
from amiclient.tests.unit.rootfs import images
from amiclient.tests.unit.rootfs import samples

Link = images.Link


def kernel(release: str = '6.1.0-13-amd64') -> bytes:
    return samples.bzimage(release=release.encode() + b' (x@y) #1\0')


INITRD = samples.initramfs()


class TestFind(base.TestCase):
    def find(self, files: images.Files, boot: images.Files | None = None):
        """Tell version, kernel, ramdisk and source of what is found."""
        directory = self.tmp()
        root = images.image(directory, files)
        other = boot and images.image(directory, boot, name='boot.img')
        return [
            (each.version, each.kernel, each.ramdisk, each.source)
            for each in boot_files.find(root, other)
        ]

    def found_one(self, files: images.Files):
        (found,) = self.find(files)
        return found

    def test_debian(self) -> None:
        files: dict[str, images.Content] = {
            'vmlinuz': Link('boot/vmlinuz-6.1.0-13-amd64'),
            'initrd.img': Link('boot/initrd.img-6.1.0-13-amd64'),
            'vmlinuz.old': Link('boot/vmlinuz-6.1.0-9-amd64'),
        }
        for version in ('6.1.0-9-amd64', '6.1.0-13-amd64'):
            files[f'boot/vmlinuz-{version}'] = kernel(version)
            files[f'boot/initrd.img-{version}'] = INITRD
            files[f'boot/config-{version}'] = b'CONFIG_64BIT=y\n'
            files[f'boot/System.map-{version}'] = b'0 A x\n'
        self.assertEqual(
            [
                (v, f'/boot/vmlinuz-{v}', f'/boot/initrd.img-{v}', 'boot')
                for v in ('6.1.0-13-amd64', '6.1.0-9-amd64')
            ],
            self.find(files),
        )

    def test_fedora(self) -> None:
        version = '6.5.6-300.fc39.x86_64'
        rescue = '0-rescue-3fa5a05d'
        found = self.find(
            {
                f'boot/vmlinuz-{rescue}': kernel(),
                f'boot/initramfs-{rescue}.img': INITRD,
                f'boot/vmlinuz-{version}': kernel(version),
                f'boot/.vmlinuz-{version}.hmac': b'0' * 1000,
                f'boot/initramfs-{version}.img': INITRD,
                f'boot/initramfs-{version}kdump.img': INITRD,
                f'boot/loader/entries/3fa5a05d-{version}.conf': (
                    f'title Fedora\nversion {version}\n'
                    f'linux /boot/vmlinuz-{version}\n'
                    f'initrd /boot/initramfs-{version}.img $tuned_initrd\n'
                    'options root=UUID=1 ro $tuned_params\n'
                ).encode(),
                f'boot/loader/entries/3fa5a05d-{rescue}.conf': (
                    f'title Rescue\nversion {rescue}\n'
                    f'linux /boot/vmlinuz-{rescue}\n'
                ).encode(),
                f'usr/lib/modules/{version}/vmlinuz': kernel(version),
            }
        )
        paths = f'/boot/vmlinuz-{version}', f'/boot/initramfs-{version}.img'
        self.assertEqual([(version, *paths, 'entry')], found)

    def test_entries_of_kernel_install(self) -> None:
        version = '6.8.1-2-default'
        found = self.found_one(
            {
                f'boot/3fa5/{version}/linux': kernel(version),
                f'boot/3fa5/{version}/initrd': INITRD,
                'boot/3fa5/ucode': b'microcode',
                f'boot/loader/entries/3fa5-{version}.conf': (
                    '# made by kernel-install\n\ntitle openSUSE\n'
                    f'linux /3fa5/{version}/linux\ninitrd /3fa5/ucode\n'
                    f'initrd /3fa5/{version}/initrd\n'
                ).encode(),
            }
        )
        # The version is that of the kernel, for the entry does not say.
        self.assertEqual(
            (version, f'/boot/3fa5/{version}/linux',
             f'/boot/3fa5/ucode + /boot/3fa5/{version}/initrd', 'entry'),
            found,
        )  # fmt: skip

    def test_suse(self) -> None:
        version = '6.4.0-150600.21-default'
        found = self.found_one(
            {
                'boot/vmlinuz': Link(f'vmlinuz-{version}'),
                'boot/initrd': Link(f'initrd-{version}'),
                f'boot/vmlinuz-{version}': Link(
                    f'../usr/lib/modules/{version}/vmlinuz'
                ),
                f'boot/initrd-{version}': INITRD,
                f'boot/vmlinux-{version}.gz': b'\x1f\x8b\x08' + bytes(4000),
                f'usr/lib/modules/{version}/vmlinuz': kernel(version),
                'lib': Link('usr/lib'),
            }
        )
        self.assertEqual(
            (version, f'/usr/lib/modules/{version}/vmlinuz',
             f'/boot/initrd-{version}', 'boot'),
            found,
        )  # fmt: skip

    def test_arch(self) -> None:
        version = '6.6.1-arch1-1'
        for release in (version, ''):
            found = self.found_one(
                {
                    'boot/vmlinuz-linux': kernel(release),
                    'boot/initramfs-linux.img': INITRD,
                    'boot/initramfs-linux-fallback.img': INITRD,
                    'boot/intel-ucode.img': samples.microcode(),
                    f'usr/lib/modules/{version}/pkgbase': b'linux\n',
                    f'usr/lib/modules/{version}/vmlinuz': kernel(version),
                    'usr/lib/modules/6.1.0-1-lts/pkgbase': b'linux-lts\n',
                }
            )
            self.assertEqual(
                (version, '/boot/vmlinuz-linux', '/boot/initramfs-linux.img',
                 'boot'),
                found,
            )  # fmt: skip

    def test_alpine(self) -> None:
        version = '6.6.7-0-virt'
        for release in (version, ''):
            found = self.found_one(
                {
                    'boot/vmlinuz-virt': kernel(release),
                    'boot/initramfs-virt': INITRD,
                    'boot/boot': Link('.'),
                    f'lib/modules/{version}/modules.dep': b'',
                    'lib/modules/6.6.7-0-lts/modules.dep': b'',
                }
            )
            self.assertEqual(
                (version, '/boot/vmlinuz-virt', '/boot/initramfs-virt',
                 'boot'),
                found,
            )  # fmt: skip

    def test_gentoo(self) -> None:
        suffix, version = 'genkernel-x86_64-6.1.57-gentoo', '6.1.57-gentoo'
        for prefix in ('kernel', 'vmlinuz'):
            found = self.found_one(
                {
                    f'boot/{prefix}-{suffix}': kernel(version),
                    f'boot/initramfs-{suffix}': INITRD,
                    f'boot/System.map-{suffix}': b'0 A x\n',
                }
            )
            self.assertEqual(
                (version, f'/boot/{prefix}-{suffix}',
                 f'/boot/initramfs-{suffix}', 'boot'),
                found,
            )  # fmt: skip

    def test_modules_alone(self) -> None:
        version = '6.5.6-300.fc39.x86_64'
        directory = f'/usr/lib/modules/{version}'
        found = self.found_one(
            {
                f'{directory}/vmlinuz': kernel(version),
                f'{directory}/initramfs.img': INITRD,
            }
        )
        paths = f'{directory}/vmlinuz', f'{directory}/initramfs.img'
        self.assertEqual((version, *paths, 'modules'), found)

    def test_links_alone(self) -> None:
        found = self.found_one(
            {
                'vmlinuz': Link('/opt/linux/image'),
                'initrd.img': Link('/opt/linux/ramdisk'),
                'opt/linux/image': kernel('5.10.0-1'),
                'opt/linux/ramdisk': INITRD,
            }
        )
        self.assertEqual(
            ('5.10.0-1', '/opt/linux/image', '/opt/linux/ramdisk', 'link'),
            found,
        )

    def test_menus(self) -> None:
        grub = (
            'set default=0\nmenuentry "NixOS" {\n'
            '  search --set=root --label nixos\n'
            '  linux ($drive1)//kernels/abc-bzImage init=/nix/x ro\n'
            '  initrd ($drive1)//kernels/abc-initrd\n}\n'
            'menuentry "b" {\n linux /ipxe.bin\n linux16 /gone\n}\n'
        )
        extlinux = (
            'LABEL a\n  INITRD ../kernels/early,../kernels/abc-initrd\n'
            '  LINUX ../kernels/abc-bzImage\n  APPEND init=/nix/x ro\n'
        )
        syslinux = (
            'label a\n kernel /kernels/abc-bzImage\n'
            ' append initrd=/kernels/abc-initrd init=/nix/x ro\n'
        )
        for name, menu in (
            ('grub/grub.cfg', grub),
            ('extlinux/extlinux.conf', extlinux),
            ('syslinux/syslinux.cfg', syslinux),
        ):
            image = images.image(
                self.tmp(),
                {
                    f'boot/{name}': menu.encode(),
                    'boot/kernels/abc-bzImage': kernel('6.1.9'),
                    'boot/kernels/abc-initrd': INITRD,
                    'boot/ipxe.bin': bytes(4096),
                },
            )
            (found,) = boot_files.find(image)
            self.assertEqual(
                ('6.1.9', '/boot/kernels/abc-bzImage', 'menu'),
                (found.version, found.kernel, found.source),
                name,
            )
            self.assertEqual(
                ('init=/nix/x',), boot_files.needed(found.options)
            )
            self.assertEqual('/boot/kernels/abc-initrd', found.ramdisk)

    def test_for_debugging(self) -> None:
        versions = ('6.1.0.x86_64+debug', '6.1.0.x86_64', '5.1.0.x86_64')
        files: dict[str, images.Content] = {
            f'boot/vmlinuz-{version}': kernel(version) for version in versions
        }
        self.assertEqual(
            [*versions[1:], versions[0]],
            [found[0] for found in self.find(files)],
        )

    def test_unified(self) -> None:
        path = '/boot/EFI/Linux/abc-6.9.1.efi'
        version = '6.9.1-1.fc40.x86_64'
        found = self.found_one({path: samples.unified(version)})
        self.assertEqual((version, path, path, 'unified'), found)
        found = self.found_one({path: samples.unified(None, ramdisk=False)})
        self.assertEqual((path, None, 'unified'), found[1:])

    def test_unified_that_an_entry_names(self) -> None:
        version = '6.9.1-1.fc40.x86_64'
        for key in ('uki', 'efi'):
            found = self.found_one(
                {
                    'boot/loader/entries/a.conf': (
                        f'title a\n{key} /EFI/fedora/a.efi\n'.encode()
                    ),
                    'boot/loader/entries/b.conf': (
                        b'title a test of memory\nefi /EFI/tools/test.efi\n'
                    ),
                    'boot/EFI/fedora/a.efi': samples.unified(version),
                    'boot/EFI/tools/test.efi': b'MZ' + bytes(4096),
                }
            )
            path = '/boot/EFI/fedora/a.efi'
            self.assertEqual((version, path, path, 'unified'), found)

    def test_no_ramdisk(self) -> None:
        found = self.found_one({'boot/vmlinuz-6.1.0': kernel('6.1.0')})
        self.assertEqual(('6.1.0', '/boot/vmlinuz-6.1.0', None, 'boot'), found)

    def test_separate_boot_filesystem(self) -> None:
        version = '6.1.0-13-amd64'
        found = self.find(
            {'boot': None, f'lib/modules/{version}/modules.dep': b''},
            {
                f'vmlinuz-{version}': kernel(version),
                f'initrd.img-{version}': INITRD,
                'grub/grub.cfg': b'',
            },
        )
        self.assertEqual(
            [(version, f'/vmlinuz-{version}', f'/initrd.img-{version}',
              'boot')],
            found,
        )  # fmt: skip

    def test_nothing(self) -> None:
        for files in (
            {},
            {'boot/vmlinuz-6.1.0': b''},
            {'boot/vmlinuz-6.1.0': None},
            {'boot/vmlinuz-6.1.0': Link('/nowhere')},
            {'boot/vmlinuz-6.1.0': Link('vmlinuz-6.1.0')},
            {'boot/memtest86+x64.bin': kernel()},
            {'boot/vmlinuz-6.1.0.old': kernel()},
            {'boot/loader/entries/x.conf': b'linux\n\0\xff\nlinux /no\n'},
        ):
            self.assertEqual([], self.find(files), files)

    def test_links_do_not_lead_out(self) -> None:
        outside = self.tmp() / 'vmlinuz'
        outside.write_bytes(kernel())
        self.assertEqual(
            [],
            self.find(
                {
                    'vmlinuz': Link(str(outside)),
                    'boot/vmlinuz-6.1.0': Link(f'../../../../..{outside}'),
                }
            ),
        )


class TestChoose(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.image = images.image(
            self.tmp(),
            {
                f'boot/vmlinuz-{version}': kernel(version)
                for version in ('6.1.0-9', '6.1.0-10', '6.1.0-10-rc1')
            },
        )

    def choose(self, version: str | None) -> str:
        found = boot_files.find(self.image)
        return boot_files.choose(found, version, name='x').version

    def test_newest(self) -> None:
        self.assertEqual('6.1.0-10', self.choose(None))

    def test_by_version(self) -> None:
        self.assertEqual('6.1.0-9', self.choose('6.1.0-9'))

    def test_no_such_version(self) -> None:
        error = self.assertRaises(errors.SourceError, self.choose, '6.1')
        self.assertEqual(
            'x: there is no kernel 6.1 in it; choose from 6.1.0-10, '
            '6.1.0-10-rc1, 6.1.0-9',
            str(error),
        )

    def test_no_such_version_among_many(self) -> None:
        many = [
            boot_files.BootFiles(f'6.{n}', '/k', (), 'boot', self.image)
            for n in range(1000)
        ]
        error = self.assertRaises(
            errors.SourceError, boot_files.choose, many, '5', name='x'
        )
        self.assertEqual(
            'choose from 6.0, 6.1, 6.2, 6.3, 6.4 and 995 more', error.hint
        )

    def test_none(self) -> None:
        error = self.assertRaises(
            errors.SourceError, boot_files.choose, (), None, name='x'
        )
        self.assertIn('no kernel was found', str(error))


class TestTake(base.TestCase):
    def take(self, files: images.Files, **options: bool):
        image = images.image(self.tmp(), files)
        (found,) = boot_files.find(image)
        return boot_extract.take(found, self.tmp(), **options)

    def test_files(self) -> None:
        files = {
            'boot/vmlinuz-6.1.0': kernel('6.1.0'),
            'boot/initrd.img-6.1.0': INITRD + self.random.randbytes(3 << 20),
        }
        taken = self.take(files)
        self.assertEqual('vmlinuz-6.1.0', taken.kernel.path.name)
        self.assertEqual('6.1.0', taken.kernel.release)
        for path, content in (
            (taken.kernel.path, files['boot/vmlinuz-6.1.0']),
            (taken.ramdisk.path, files['boot/initrd.img-6.1.0']),
        ):
            self.assertEqual(0o600, path.stat().st_mode & 0o777)
            self.assertTrue(content == path.read_bytes(), path.name)

    def test_without_ramdisk(self) -> None:
        files = {
            'boot/vmlinuz-6.1.0': kernel('6.1.0'),
            'boot/initrd.img-6.1.0': INITRD,
        }
        self.assertIsNone(self.take(files, ramdisk=False).ramdisk)

    def test_unified_is_taken_apart(self) -> None:
        taken = self.take({'boot/EFI/Linux/a.efi': samples.unified('6.9.1-1')})
        self.assertEqual('vmlinuz-6.9.1-1', taken.kernel.path.name)
        self.assertEqual(kernel('6.9.1-1'), taken.kernel.path.read_bytes())
        self.assertEqual(INITRD, taken.ramdisk.path.read_bytes())

    def test_what_is_no_kernel(self) -> None:
        files = {'boot/vmlinuz-6.1.0': b'#!/bin/sh\n' * 100}
        error = self.assertRaises(errors.SourceError, self.take, files)
        self.assertIn('/boot/vmlinuz-6.1.0 in it cannot be used', str(error))

    def test_what_is_no_ramdisk(self) -> None:
        files = {
            'boot/vmlinuz-6.1.0': kernel('6.1.0'),
            'boot/initrd.img-6.1.0': b'nothing\n' * 100,
        }
        error = self.assertRaises(errors.SourceError, self.take, files)
        self.assertIn('/boot/initrd.img-6.1.0 in it cannot', str(error))

    def test_cut_short_unified(self) -> None:
        files = {'boot/EFI/Linux/a.efi': samples.unified('6.9.1-1')[:0x1400]}
        error = self.assertRaises(errors.SourceError, self.take, files)
        self.assertIn('cannot be used', str(error))
