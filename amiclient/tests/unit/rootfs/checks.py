# SPDX-License-Identifier: Apache-2.0

"""A root filesystem with nothing to object to, and what tests do to it."""

from collections.abc import Iterable
import pathlib
from typing import Any

from amiclient import findings
from amiclient.rootfs import check
from amiclient.source import bundle
from amiclient.source import manifest
from amiclient.tests import base
from amiclient.tests.unit.rootfs import images
from amiclient.tests.unit.rootfs import samples

RELEASE = '6.1.0-13-amd64'
UUID = '11111111-2222-3333-4444-555555555555'
_MODULES = f'usr/lib/modules/{RELEASE}'

PROGRAM = images.Program(samples.elf(62, segments=(1, 3, 4)))

#: As a cloud image of Debian has it, the files that count.
SOUND: dict[str, images.Content] = {
    'bin': images.Link('usr/bin'),
    'sbin': images.Link('usr/sbin'),
    'lib': images.Link('usr/lib'),
    'usr/bin/sh': PROGRAM,
    'usr/bin/cloud-init': images.Program(b'#!/usr/bin/python3\n'),
    'usr/sbin/init': images.Link('../lib/systemd/systemd'),
    'usr/lib/systemd/systemd': PROGRAM,
    'usr/lib/systemd/system/serial-getty@.service': b'[Unit]\n',
    'usr/lib/systemd/system-generators/systemd-getty-generator': PROGRAM,
    'etc/os-release': b'ID=debian\nVERSION_ID="12"\n',
    'etc/fstab': b'# root\nLABEL=sound / ext4 errors=remount-ro 0 1\n'
    b'tmpfs /tmp tmpfs nosuid 0 0\n/swapfile none swap sw 0 0\n',
    'swapfile': bytes(4096),
    'etc/machine-id': b'',
    'etc/shadow': b'root:*:19000:0:99999:7:::\nuser:$6$x:1:0:99999:7:::\n',
    'etc/passwd': b'root:x:0:0:root:/root:/bin/bash\n',
    'etc/ssh/sshd_config': b'UsePAM yes\n',
    'etc/cloud/cloud.cfg': b'cloud_init_modules:\n - growpart\n - resizefs\n',
    'etc/cloud/cloud.cfg.d/90_dpkg.cfg': b'datasource_list: [ ConfigDrive, '
    b'OpenStack, None ]\n',
    'etc/udev/rules.d/70-persistent-net.rules': b'# nothing\n',
    'root/.bashrc': b'umask 022\n',
    'home/user': None,
    'var/lib/dhcp/dhclient.leases': b'',
    'var/lib/cloud/seed': None,
    f'{_MODULES}/modules.builtin': b'kernel/fs/ext4/ext4.ko\n'
    b'kernel/drivers/virtio/virtio_pci.ko\n',
    f'{_MODULES}/modules.dep': b'kernel/drivers/net/virtio_net.ko.xz: '
    b'kernel/net/core/failover.ko.xz\n',
}

#: What the ramdisk has of drivers.
DRIVERS = ('block/virtio_blk.ko.xz', 'scsi/virtio-scsi.ko')

#: Of mke2fs.
OPTIONS = (
    '-t', 'ext4', '-b', '4096', '-L', 'sound', '-U', UUID,
    '-O', '^orphan_file,^metadata_csum_seed',
)  # fmt: skip


class CheckCase(base.TestCase):
    """A test of rules, on real filesystems."""

    def check(
        self,
        files: images.Files | None = None,
        *,
        without: Iterable[str] = (),
        kernel: bytes | None = None,
        drivers: Iterable[str] | None = DRIVERS,
        options: Iterable[str] = (),
        size: int = 96 << 20,
        edit: Iterable[str] = (),
        patch: tuple[int, bytes] | None = None,
        command_line: str | None = None,
        **rest: Any,
    ) -> dict[str, findings.Finding]:
        """Check the sound system with some changes; tell findings by rule.

        :param files: to add, or to have instead.
        :param without: beginnings of paths to leave out.
        :param drivers: of the ramdisk; None for no ramdisk at all.
        :param patch: bytes to write into the image, and where.
        :param command_line: as a manifest has it.
        """
        directory = self.tmp()
        gone = tuple(without)
        there = {
            path: content
            for path, content in {**SOUND, **(files or {})}.items()
            if not path.startswith(gone)
        }
        image = images.image(
            directory,
            there,
            options=(*OPTIONS, *options),
            size=size,
            edit=edit,
        )
        if patch is not None:
            with image.open('r+b') as file:
                file.seek(patch[0])
                file.write(patch[1])
        source = bundle.Source(
            root=image,
            kernel=self.file(
                'vmlinuz', samples.bzimage(release=RELEASE.encode() + b' x\0')
                if kernel is None
                else kernel,
            ),
            ramdisk=drivers and self.file('initrd', ramdisk(drivers)),
            manifest=_manifest(command_line),
        )  # fmt: skip
        found = check.check(source, check.CheckRequest(name=image, **rest))
        self.assertLessEqual({f.rule for f in found}, check.RULES)
        for finding in found:
            self.assertFalse(finding.message.endswith('.'), finding)
            self.assertNotIn('\n', finding.message)
        # The order is from the worst on.
        self.assertEqual(findings.ranked(found), found)
        return {finding.rule: finding for finding in found}

    def file(self, name: str, content: bytes) -> pathlib.Path | None:
        """Write a file; none if it is to be empty."""
        path = self.tmp() / name
        path.write_bytes(content)
        return path if content else None

    def assertFound(
        self,
        rule: str,
        severity: str,
        words: str,
        found: dict[str, findings.Finding],
    ) -> None:
        """See that one rule has found something, and no other."""
        self.assertEqual([rule], [*found])
        self.assertEqual(severity, found[rule].severity)
        self.assertIn(words, found[rule].message)
        self.assertTrue(found[rule].remedy)


def _manifest(command_line: str | None) -> manifest.Manifest | None:
    """A manifest of an AMI with a command line of its own."""
    if command_line is None:
        return None
    return manifest.Manifest(
        manifest.ManifestPart(
            file='x.img', size=1, sha512='', disk_format='ami',
            container_format='ami',
            properties={'os_command_line': command_line},
        )
    )  # fmt: skip


def ramdisk(drivers: Iterable[str], *more: str) -> bytes:
    """An initramfs with some drivers."""
    directory = f'usr/lib/modules/{RELEASE}/kernel/drivers'
    return samples.cpio(
        ['.', 'init', *(f'{directory}/{driver}' for driver in drivers), *more]
    )
