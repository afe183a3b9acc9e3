# SPDX-License-Identifier: Apache-2.0

"""What readers of the runbooks have when they begin."""

import gzip
import pathlib
import shutil
import tarfile

from amiclient import process
from amiclient.tests.disks import disks
from amiclient.tests.disks import guest
from amiclient.tests.disks import triple
from amiclient.tests.unit.rootfs import databases
from amiclient.tests.unit.rootfs import images
from amiclient.tests.unit.rootfs import samples

_MIB = 2**20

#: Of a machine that has its disk to itself.
_FSTAB = """\
LABEL=root / ext4 errors=remount-ro 0 1
UUID=C2AF-1C3B /boot/efi vfat umask=0077 0 1
/dev/sda3 none swap sw 0 0
"""

#: Of one that was made to be an AMI.
_GROWN = 'LABEL=root / ext4 x-systemd.growfs 0 1\n'

#: What tells that a system has cloud-init, and a console; nothing runs it.
_DEBIAN = {
    'etc/fstab': _GROWN,
    'etc/inittab': 'S0:2345:respawn:/sbin/getty -L ttyS0 115200\n',
    'etc/cloud/cloud.cfg': (
        'datasource_list: [OpenStack, ConfigDrive, None]\n'
        'cloud_init_modules: [growpart, resizefs]\n'
    ),
    'usr/bin/cloud-init': '#!/bin/sh\n',
}

_SYSTEMD = 'usr/lib/systemd/systemd'

#: Of one where anybody can log in, on the console.
_DEMO = {
    'etc/fstab': 'LABEL=demo-root / ext4 x-systemd.growfs 0 1\n',
    'etc/hostname': 'demo\n',
    'etc/passwd': 'root:x:0:0:root:/root:/bin/sh\n',
    'etc/shadow': 'root::20000:0:99999:7:::\n',
    # What tells that it has a console; nothing runs it.
    'usr/lib/systemd/system-generators/systemd-getty-generator': '#!/bin/sh\n',
    'usr/lib/systemd/system/serial-getty@.service': '[Unit]\n',
}


def parts(directory: pathlib.Path, size: int = 4 * _MIB) -> None:
    """Make a root filesystem on a disk with room, its kernel and ramdisk.

    :param size: bytes of what is in the filesystem.
    """
    tree = directory / 'tree'
    for release in ('6.1.0-13-amd64', '6.1.0-31-amd64'):
        (tree / 'lib/modules' / release).mkdir(parents=True)
    for name in ('etc', 'sbin'):
        (tree / name).mkdir()
    (tree / 'etc/fstab').write_text('/dev/vda / ext4 defaults 0 1\n')
    init = tree / 'sbin/init'
    init.write_bytes(samples.elf(62, segments=(1, 3, 4)))
    init.chmod(0o755)
    triple.root(directory, size=256 * _MIB, data=size, name='debian.img')
    shutil.rmtree(tree)
    kernel = samples.bzimage()
    (directory / 'vmlinuz-6.1.0-30').write_bytes(kernel)
    (directory / 'initrd.img-6.1.0-30').write_bytes(samples.initramfs())


def package_databases(directory: pathlib.Path) -> None:
    """Make root filesystems with package databases, and a kernel."""
    rpm = [databases.header('xz-libs', '5.6.1', '1.fc40')]
    old, new = ('5.6.1-1', '5.6.1+really5.4.5-1')
    for name, files in {
        'alpine': {
            'lib/apk/db/installed': databases.apk(('xz-libs', '5.6.2-r0'))
        },
        'appliance': {'etc/hostname': b'appliance\n'},
        'debian': {
            'var/lib/dpkg/status': databases.dpkg(
                ('liblzma5', old), ('xz-utils', old), source='xz-utils'
            )
        },
        'debian-fixed': {
            'var/lib/dpkg/status': databases.dpkg(
                ('liblzma5', new), ('xz-utils', new), source='xz-utils'
            )
        },
        'fedora': {
            'usr/lib/sysimage/rpm/rpmdb.sqlite': databases.sqlite(rpm)[0]
        },
    }.items():
        images.image(
            directory,
            {'etc/os-release': b'', **files},
            size=8 * _MIB,
            name=f'{name}.img',
        )
    (directory / 'vmlinuz').write_bytes(samples.bzimage())


def next_kernel(directory: pathlib.Path) -> None:
    """Make the files that a newer package of the kernel brings."""
    kernel = samples.bzimage(release=b'6.1.0-31-amd64 (x@y) #1\0')
    (directory / 'vmlinuz-6.1.0-31').write_bytes(kernel)
    ramdisk = samples.initramfs(b'newer')
    (directory / 'initrd.img-6.1.0-31').write_bytes(ramdisk)


def foreign_kernel(directory: pathlib.Path) -> None:
    """Make the files of a kernel whose modules nobody has installed."""
    kernel = samples.bzimage(release=b'6.12.9-cloud-amd64 (x@y) #1\0')
    (directory / 'vmlinuz-6.12.9').write_bytes(kernel)
    ramdisk = samples.initramfs(b'another')
    (directory / 'initrd.img-6.12.9').write_bytes(ramdisk)


def cirros(directory: pathlib.Path) -> None:
    """Make kernel and ramdisk of a CirrOS."""
    name = 'cirros-0.6.2-x86_64'
    ramdisk = gzip.compress(samples.initramfs(), mtime=0)
    (directory / f'{name}-initrd').write_bytes(ramdisk)
    (directory / f'{name}-vmlinuz').write_bytes(samples.bzimage())


def server(directory: pathlib.Path) -> None:
    """Make the disk of a machine with an EFI partition and swap space."""
    root = _bootable(directory, 'root', {'etc/fstab': _FSTAB})
    loader = directory / 'EFI'
    loader.mkdir()
    esp = disks.fat(
        directory / 'esp', loader, size=1, serial='C2AF-1C3B', bits=12
    )
    disk = disks.make(
        directory / 'disk',
        [
            disks.Part(1, image=esp, type=disks.ESP),
            disks.Part(64, image=root, type=disks.ROOT),
            disks.Part(16, type='S'),
        ],
    )
    _qcow2(disk, directory / 'server.qcow2')
    root.unlink()
    esp.unlink()
    loader.rmdir()


def volume(directory: pathlib.Path) -> pathlib.Path:
    """Make the filesystem of a machine that runs, as a snapshot has it."""
    root = _bootable(directory, 'root', {'etc/fstab': _GROWN})
    process.run(
        ['debugfs', '-w', '-R', 'feature +needs_recovery', root], access=None
    )
    return root


def debian(directory: pathlib.Path) -> None:
    """Make an archive as mmdebstrap makes one, of a much smaller system."""
    _archive(directory, _tree(directory, _DEBIAN))


def demo(directory: pathlib.Path) -> None:
    """Make that of a system with systemd, open to all on its console."""
    tree = _tree(directory, _DEMO)
    # It boots by the same script, which is where systemd would be.
    (tree / 'sbin/init').rename(tree / _SYSTEMD)
    (tree / 'sbin/init').symlink_to(f'/{_SYSTEMD}')
    _archive(directory, tree)


def _tree(directory: pathlib.Path, files: dict[str, str]) -> pathlib.Path:
    root = _bootable(
        directory, 'root', files, modules=(*guest.MODULES, 'virtio_scsi')
    )
    tree = directory / 'tree'
    tree.mkdir()
    process.run(['debugfs', '-R', f'rdump / {tree}', root], access=None)
    root.unlink()
    (tree / 'etc' / 'machine-id').touch()
    return tree


def _archive(directory: pathlib.Path, tree: pathlib.Path) -> None:
    with tarfile.open(directory / 'debian.tar', 'w') as archive:
        archive.add(tree, '.', filter=_roots)
    shutil.rmtree(tree)


def without_driver(directory: pathlib.Path) -> None:
    """Make a system whose ramdisk lacks a driver, and one that has it."""
    root = _bootable(directory, 'root', {'etc/fstab': _GROWN}, boot=False)
    root.rename(directory / 'web.img')
    release = guest.kernel().name.removeprefix('vmlinuz-')
    for name, modules in (
        ('initrd.img', ('virtio_pci', 'virtio_console')),
        ('initrd-with-virtio', guest.MODULES),
    ):
        (directory / name).write_bytes(guest.ramdisk(release, modules))
    shutil.copy(guest.kernel(), directory / 'vmlinuz')


def _roots(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = 'root'
    return member


def _bootable(
    directory: pathlib.Path,
    label: str,
    files: dict[str, str],
    *,
    boot: bool = True,
    modules: tuple[str, ...] = guest.MODULES,
) -> pathlib.Path:
    """Make a root filesystem that knows which modules its kernel has.

    :param files: text files, by their names.
    :param boot: whether kernel and ramdisk are in it.
    :param modules: what the ramdisk loads.
    """
    made = guest.make(directory, size=64 * _MIB, files=files, modules=modules)
    release = guest.kernel().name.removeprefix('vmlinuz-')
    known = f'lib/modules/{release}'
    contents = {
        f'{known}/{path.name}': path
        for path in sorted(pathlib.Path('/', known).glob('modules.*'))
    }
    directories = ['lib/modules', known]
    if boot:
        directories.append('boot')
        contents[f'boot/vmlinuz-{release}'] = made.kernel
        contents[f'boot/initrd.img-{release}'] = made.ramdisk
    script = directory / 'script'
    script.write_text(
        ''.join(f'mkdir {name}\n' for name in directories)
        + ''.join(f'write {path} {name}\n' for name, path in contents.items())
    )
    process.run(['debugfs', '-w', '-f', script, made.root], access=None)
    process.run(['e2label', made.root, label], access=None)
    for path in (script, made.kernel, made.ramdisk):
        path.unlink()
    return made.root


def _qcow2(disk: pathlib.Path, target: pathlib.Path) -> None:
    argv = ['qemu-img', 'convert', '-c', '-f', 'raw', '-O', 'qcow2']
    process.run([*argv, disk, target], access=None)
    disk.unlink()
