# SPDX-License-Identifier: Apache-2.0

"""The files of a root filesystem with systems of ostree."""

import os
import pathlib
import stat

RELEASE = '6.12.5-200.fc41.x86_64'

#: The checksums of deployments, and those by which they are booted.
NEW, OLD = 'aaaa' * 16, 'bbbb' * 16
BOOT = {NEW: 'cccc' * 16, OLD: 'dddd' * 16}

CONFIG = 'usr/lib/ostree/prepare-root.conf'


def deployment(checksum: str) -> str:
    return f'ostree/deploy/fcos/deploy/{checksum}.0'


def make(top: pathlib.Path, fstab: str = '') -> pathlib.Path:
    """Make a system with two deployments, as ostree does.

    :param top: a directory that is there.
    :param fstab: of the one that is booted.
    """
    (top / 'boot/loader.1/entries').mkdir(parents=True)
    (top / 'boot/loader').symlink_to('loader.1')
    (top / 'boot/boot').symlink_to('.')
    (top / 'boot/grub2').mkdir()
    (top / 'ostree').mkdir()
    (top / 'ostree/boot.1').symlink_to('boot.1.1')
    for name in ('dev', 'proc', 'run', 'sys', 'tmp'):
        (top / name).mkdir()
    objects = top / 'ostree/repo/objects'
    objects.mkdir(parents=True)
    for number, checksum in enumerate((OLD, NEW), 1):
        booted = BOOT[checksum]
        link = top / f'ostree/boot.1.1/fcos/{booted}/0'
        link.parent.mkdir(parents=True)
        link.symlink_to(f'../../../deploy/fcos/deploy/{checksum}.0')
        name = f'ostree/fcos-{booted}'
        kernels = top / 'boot' / name
        kernels.mkdir(parents=True)
        for each in (f'vmlinuz-{RELEASE}', f'initramfs-{RELEASE}.img'):
            (kernels / each).write_bytes(checksum.encode() * 20)
        (top / f'boot/loader.1/entries/ostree-{number}.conf').write_text(
            f'title Fedora CoreOS ({checksum})\n'
            f'version {number}\n'
            f'options root=UUID=1 rw ostree=/ostree/boot.1/fcos/{booted}/0\n'
            f'linux /{name}/vmlinuz-{RELEASE}\n'
            f'initrd /{name}/initramfs-{RELEASE}.img\n'
        )
        _deploy(top / deployment(checksum), checksum, objects)
    (top / deployment(NEW) / 'etc/fstab').write_text(fstab)
    var = top / 'ostree/deploy/fcos/var'
    (var / 'home/core').mkdir(parents=True)
    (var / 'home/core/f').write_bytes(b'mine')
    (var / 'lib').mkdir()
    return top


def _deploy(path: pathlib.Path, text: str, objects: pathlib.Path) -> None:
    for name in ('boot', 'etc', 'sysroot', 'usr/bin', 'usr/lib', 'var'):
        (path / name).mkdir(parents=True)
    for name, target in (
        ('home', 'var/home'),
        ('ostree', 'sysroot/ostree'),
        ('tmp', 'sysroot/tmp'),
        ('sbin', 'usr/bin'),
    ):
        (path / name).symlink_to(target)
    (path / 'usr/lib/os-release').write_text(f'ID=fedora\nBUILD_ID={text}\n')
    (path / 'etc/passwd').write_text('root:x:0:0:root:/root:/bin/sh\n')
    (path / 'etc/hostname').write_text(text)
    (path / 'var/hidden').touch()
    (path / 'usr/bin/tool').write_text(text)
    (path / 'usr/bin/tool').chmod(0o755 | stat.S_ISUID)
    os.setxattr(path / 'usr/bin/tool', 'user.note', b'noted')
    os.link(path / 'usr/bin/tool', path / 'usr/bin/same')
    os.link(path / 'usr/bin/tool', objects / f'{text}.file')
    path.with_name(f'{path.name}.origin').write_text('[origin]\n')
