# SPDX-License-Identifier: Apache-2.0

"""Images as vendors ship them: partitions, names, filesystems, boot loaders.

Only what is in the files is little. Where an image has kernels that are not
to be chosen, such as a rescue kernel, they are there, too.
"""

from collections.abc import Callable, Mapping
import dataclasses
import pathlib
import shutil
import tarfile

from amiclient import process
from amiclient.tests.disks import archives
from amiclient.tests.disks import containers
from amiclient.tests.disks import disks
from amiclient.tests.disks import machines
from amiclient.tests.disks.machines import Machine
from amiclient.tests.disks.machines import Slot
from amiclient.tests.disks import userland
from amiclient.tests.disks import vendor
from amiclient.tests.disks import vendors_rpm
from amiclient.tests.unit.rootfs import samples

PASSPHRASE = 'correct horse battery staple'


def ubuntu(directory: pathlib.Path) -> vendor.Image:
    """noble-server-cloudimg: /boot apart, and numbers out of order."""
    release = '6.8.0-31-generic'
    fstab = """\
LABEL=cloudimg-rootfs	/	 ext4	discard,commit=30,errors=remount-ro	0 1
LABEL=BOOT	/boot	ext4	defaults	0 2
LABEL=UEFI	/boot/efi	vfat	umask=0077	0 1
"""
    slots = [
        Slot(14, 4, machines.BIOS),
        Slot(15, 8, disks.ESP),
        Slot(16, 32, machines.XBOOTLDR),
        Slot(1, 64, disks.LINUX),
    ]
    with Machine(directory, slots) as machine:
        machine.fat(15, vendor.SHIM, serial=vendor.EFI, label='UEFI')
        machine.format(16, *vendor.ext4(vendor.identity(), 'BOOT'))
        machine.format(1, *vendor.ext4(vendor.identity(), 'cloudimg-rootfs'))
        top = machine.mount(1)
        boot = machine.mount(16, '/boot')
        userland.fill(
            top,
            {'NAME': 'Ubuntu', 'VERSION_ID': '24.04', 'ID': 'ubuntu'},
            fstab,
        )
        (boot / 'efi').mkdir()
        (top / 'lib.usr-is-merged').mkdir()
        made = vendor.kernel(boot, release, ('vmlinuz-{}', 'initrd.img-{}'))
        for name in ('vmlinuz', 'initrd.img'):
            (boot / name).symlink_to(f'{name}-{release}')
            (boot / f'{name}.old').symlink_to(f'{name}-{release}')
        vendor.grub(boot, 'grub')
        seen = userland.seen(top)
    image = disks.convert(machine.disk, 'qcow2', '-c')
    after = (
        'LABEL=cloudimg-rootfs / ext4 discard,commit=30,errors=remount-ro 0 1'
    )
    return vendor.Image(
        image,
        *made,
        seen,
        'ubuntu',
        after,
        vendor.SHIM,
        ('/boot', '/boot/efi'),
    )


def debian(directory: pathlib.Path) -> vendor.Image:
    """debian-12-genericcloud: partitions by their own UUIDs."""
    release = '6.1.0-21-cloud-amd64'
    root, efi = vendor.identity(), vendor.identity()
    fstab = f"""\
PARTUUID={root} / ext4 rw,discard,errors=remount-ro,x-systemd.growfs 0 1
PARTUUID={efi} /boot/efi vfat defaults 0 0
"""
    slots = [
        Slot(14, 3, machines.BIOS),
        Slot(15, 8, disks.ESP, uuid=efi),
        Slot(1, 64, disks.ROOT, uuid=root),
    ]
    with Machine(directory, slots) as machine:
        machine.fat(15, vendor.SHIM, serial=vendor.EFI, label='EFI')
        machine.format(1, *vendor.ext4(vendor.identity(), ''))
        top = machine.mount(1)
        userland.fill(
            top, {'NAME': 'Debian', 'VERSION_ID': '12', 'ID': 'debian'}, fstab
        )
        (top / 'boot/efi').mkdir()
        names = ('vmlinuz-{}', 'initrd.img-{}')
        made = vendor.kernel(top / 'boot', release, names)
        for name in ('vmlinuz', 'initrd.img'):
            (top / name).symlink_to(f'boot/{name}-{release}')
        vendor.grub(top / 'boot', 'grub')
        seen = userland.seen(top)
    image = disks.convert(machine.disk, 'qcow2')
    after = (
        'UUID={uuid} / ext4 rw,discard,errors=remount-ro,x-systemd.growfs 0 1'
    )
    return vendor.Image(
        image, *made, seen, 'debian', after, vendor.SHIM, ('/boot/efi',)
    )


def alpine(directory: pathlib.Path) -> vendor.Image:
    """nocloud_alpine-bios-tiny: MBR, extlinux, OpenRC, and Tiny Cloud."""
    fstab = 'LABEL=/\t/\text4\tdefaults,noatime\t1 1\n'
    with Machine(directory, [Slot(1, 64, '83')], label='dos') as machine:
        machine.format(1, *vendor.ext4(vendor.identity(), '/', '-O', '^64bit'))
        top = machine.mount(1)
        userland.fill(
            top,
            {'NAME': 'Alpine Linux', 'VERSION_ID': '3.20.0', 'ID': 'alpine'},
            fstab,
            init='../bin/busybox',
        )
        (top / 'usr/bin/busybox').write_bytes(b'\x7fELF busybox')
        for name, text in (
            ('etc/inittab', 'ttyS0::respawn:/sbin/getty -L ttyS0 115200\n'),
            ('etc/init.d/tiny-cloud-boot', '#!/sbin/openrc-run\n'),
            ('etc/tiny-cloud.conf', 'CLOUD=nocloud\n'),
            ('boot/extlinux.conf', 'LABEL virt\n  LINUX vmlinuz-virt\n'
             '  INITRD initramfs-virt\n  APPEND root=LABEL=/ quiet\n'),
        ):  # fmt: skip
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).write_text(text)
        runlevel = top / 'etc/runlevels/boot'
        runlevel.mkdir(parents=True)
        (runlevel / 'tiny-cloud').symlink_to('/etc/init.d/tiny-cloud-boot')
        shutil.rmtree(top / 'etc/cloud')
        made = vendor.kernel(
            top / 'boot', '6.6.31-0-virt', ('vmlinuz-virt', 'initramfs-virt')
        )
        for name in ('ldlinux.sys', 'ldlinux.c32'):
            (top / 'boot' / name).write_bytes(b'\x7fELF' + bytes(9999))
        process.run(['chattr', '+i', top / 'boot/ldlinux.sys'], access=None)
        seen = userland.seen(top)
    image = disks.convert(machine.disk, 'qcow2')
    return vendor.Image(
        image,
        *made,
        seen,
        'alpine',
        'LABEL=/ / ext4 defaults,noatime 1 1',
        notes=(vendor.KERNEL,),
    )


def arch(directory: pathlib.Path) -> vendor.Image:
    """Arch-Linux-x86_64-basic: names without a version, and a fallback."""
    root = vendor.identity()
    slots = [
        Slot(1, 1, machines.BIOS),
        Slot(2, 8, disks.ESP),
        Slot(3, 64, disks.ROOT),
    ]
    fstab = f"""\
# Static information about the filesystems.
# See fstab(5) for details.
UUID={root} / ext4 rw,relatime 0 1
UUID={vendor.EFI} /efi vfat rw,relatime,fmask=0022,dmask=0022 0 2
"""
    with Machine(directory, slots) as machine:
        machine.fat(2, vendor.SHIM, serial=vendor.EFI, label='EFI')
        machine.format(3, *vendor.ext4(root, ''))
        top = machine.mount(3)
        userland.fill(top, {'NAME': 'Arch Linux', 'ID': 'arch'}, fstab)
        (top / 'efi').mkdir()
        names = ('vmlinuz-linux', 'initramfs-linux.img')
        made = vendor.kernel(top / 'boot', '6.8.9-arch1-1', names)
        fallback = top / 'boot/initramfs-linux-fallback.img'
        fallback.write_bytes(made[1] + bytes(512))
        vendor.grub(top / 'boot', 'grub')
        seen = userland.seen(top)
    image = disks.convert(machine.disk, 'qcow2', '-c')
    after = 'UUID={uuid} / ext4 rw,relatime 0 1'
    return vendor.Image(
        image, *made, seen, 'arch', after, vendor.SHIM, ('/efi',)
    )


def cirros(directory: pathlib.Path) -> vendor.Image:
    """cirros-disk: buildroot, whose fstab knows no disk."""
    release = '5.15.0-71-generic'
    after = """\
/dev/root / ext2 rw,noauto 0 1
proc /proc proc defaults 0 0
devpts /dev/pts devpts defaults,gid=5,mode=620 0 0
tmpfs /dev/shm tmpfs mode=0777 0 0
"""
    fstab = """\
# /etc/fstab: static file system information.
/dev/root       /              ext2    rw,noauto         0      1
proc            /proc          proc    defaults          0      0
devpts          /dev/pts       devpts  defaults,gid=5,mode=620   0      0
tmpfs           /dev/shm       tmpfs   mode=0777         0      0
"""
    slots = [Slot(15, 8, disks.ESP), Slot(1, 48, disks.LINUX)]
    with Machine(directory, slots) as machine:
        machine.fat(15, vendor.SHIM, serial=vendor.EFI, label='UEFI')
        words = ['mke2fs', '-q', '-F', '-t', 'ext3', '-b', '1024']
        machine.format(1, *words, '-L', 'cirros-rootfs')
        top = machine.mount(1)
        userland.fill(
            top,
            {'NAME': 'Buildroot', 'VERSION_ID': '2022.02.4',
             'ID': 'buildroot'},
            fstab,
            init='../bin/busybox',
            plain=True,
        )  # fmt: skip
        (top / 'etc/cirros').mkdir()
        (top / 'etc/cirros/version').write_text('0.6.2\n')
        made = vendor.kernel(
            top / 'boot', release, ('vmlinuz-{}', 'initrd.img-{}')
        )
        (top / 'vmlinuz').symlink_to(f'boot/vmlinuz-{release}')
        (top / 'initrd.img').symlink_to(f'boot/initrd.img-{release}')
        vendor.grub(top / 'boot', 'grub')
        seen = userland.seen(top)
    image = disks.convert(machine.disk, 'qcow2', '-c')
    return vendor.Image(
        image,
        *made,
        seen,
        'buildroot',
        after,
        notes=(vendor.KERNEL,),
    )


def encrypted(directory: pathlib.Path) -> vendor.Image:
    """Debian's installer, "encrypted LVM"."""
    boot_uuid = vendor.identity()
    release = '6.1.0-21-amd64'
    fstab = f"""\
/dev/mapper/debian--vg-root /               ext4    errors=remount-ro 0 1
UUID={boot_uuid} /boot           ext2    defaults        0       2
UUID={vendor.EFI}  /boot/efi       vfat    umask=0077      0       1
/dev/mapper/debian--vg-swap_1 none            swap    sw              0       0
"""
    slots = [
        Slot(1, 8, disks.ESP),
        Slot(2, 16, disks.LINUX),
        Slot(3, 64, disks.LINUX),
    ]
    inner = directory / 'inner'
    inner.mkdir()
    with (
        # Its partition is what is encrypted.
        Machine(inner, [Slot(1, 48)]) as plain,
        Machine(directory, slots) as machine,
    ):
        machine.fat(1, vendor.SHIM, serial=vendor.EFI, label='EFI')
        machine.format(2, 'mke2fs', '-q', '-F', '-t', 'ext2', '-U', boot_uuid)
        sizes = {'root': 40, 'swap_1': 4}
        places = plain.logical(1, 'debian-vg', sizes)
        plain.format(places['root'], *vendor.ext4(vendor.identity(), ''))
        plain.format(places['swap_1'], 'mkswap', '-q')
        top = plain.mount(places['root'])
        boot = machine.mount(2, '/../inner/mounted/boot')
        userland.fill(
            top, {'NAME': 'Debian', 'VERSION_ID': '12', 'ID': 'debian'}, fstab
        )
        (top / 'etc/crypttab').write_text(
            'vda3_crypt UUID=00000000-0000 none luks,discard\n'
        )
        (boot / 'efi').mkdir()
        made = vendor.kernel(boot, release, ('vmlinuz-{}', 'initrd.img-{}'))
        vendor.grub(boot, 'grub')
        seen = userland.seen(top)
        machine.unmount()
        plain.unmount()
        place = plain.places[1]
        payload = directory / 'payload'
        with plain.disk.open('rb') as file:
            file.seek(place.offset)
            payload.write_bytes(file.read(place.size))
        machine.encrypt(3, PASSPHRASE, payload)
        payload.unlink()
    image = disks.convert(machine.disk, 'qcow2')
    merged = ('/boot', '/boot/efi')
    after = 'UUID={uuid} / ext4 errors=remount-ro 0 1'
    return vendor.Image(
        image, *made, seen, 'debian', after, vendor.SHIM, merged,
        notes=(vendor.MERGED, vendor.FIXED, vendor.OPENED, vendor.KERNEL),
    )  # fmt: skip


def flatcar(directory: pathlib.Path, kind: str = 'btrfs') -> pathlib.Path:
    """flatcar_production_openstack_image: USR-A and USR-B, by dm-verity.

    :param kind: of the filesystem for /usr; it was ext4 until 2022.
    """
    usr = '5dfbf5f4-2848-4bac-aa5e-0d9a20b745a6'
    slots = [
        Slot(1, 8, disks.ESP, 'EFI-SYSTEM'),
        Slot(2, 2, machines.BIOS, 'BIOS-BOOT'),
        Slot(3, 120, usr, 'USR-A', '7130c94a-213a-4e5a-8e26-6cce9662f132'),
        Slot(4, 120, usr, 'USR-B', 'e03dd35c-7c2d-4a47-b3fe-27f15780a57c'),
        Slot(6, 8, disks.LINUX, 'OEM'),
        Slot(7, 2, 'c95dc21a-df0e-4340-8d7b-26cbfa9a03e0', 'OEM-CONFIG'),
        Slot(9, 64, '3884dd41-8582-4404-b9a8-e9b84f2df50e', 'ROOT'),
    ]
    with Machine(directory, slots) as machine:
        files = {
            'flatcar/vmlinuz-a': samples.bzimage(release=b'6.6.30-flatcar')
        }
        machine.fat(
            1,
            {**vendor.SHIM, **files},
            serial=vendor.EFI,
            label='EFI-SYSTEM',
        )
        words = ['mkfs.btrfs', '-q', '-f', '-L']
        if kind == 'ext4':
            words = ['mke2fs', '-q', '-F', '-t', 'ext4', '-L']
        machine.format(3, *words, 'USR-A')
        machine.format(6, *vendor.ext4(vendor.identity(), 'OEM'))
        machine.format(9, *vendor.ext4(vendor.identity(), 'ROOT'))
        top = machine.mount(3)
        for name in ('bin', 'sbin', 'lib/systemd', 'lib64', 'share/flatcar'):
            (top / name).mkdir(parents=True)
        (top / 'lib/os-release').write_text(
            'ID=flatcar\nVERSION_ID=3815.2.2\n'
        )
        (top / 'lib/systemd/systemd').write_bytes(b'\x7fELF' + bytes(60))
        (top / 'sbin/init').symlink_to('../lib/systemd/systemd')
        top = machine.mount(9, '/root')
        for name in ('boot', 'etc', 'home', 'oem', 'root', 'usr', 'var'):
            (top / name).mkdir()
        for name in ('bin', 'sbin', 'lib', 'lib64'):
            (top / name).symlink_to(f'usr/{name}')
    return machine.disk


def ova(directory: pathlib.Path) -> vendor.Image:
    """An appliance: Debian's disk, streamOptimized, with its description."""
    image = debian(directory)
    options = ('-o', 'subformat=streamOptimized')
    disk = disks.convert(directory / 'disk.raw', 'vmdk', *options)
    path = directory / 'appliance'
    members = {
        'debian.ovf': b'<?xml version="1.0"?><Envelope/>',
        'debian.mf': b'SHA256(debian.ovf)= 0\n',
        'debian-disk1.vmdk': disk.read_bytes(),
    }
    archives.archive(
        path,
        [(archives.member(name), data) for name, data in members.items()],
        format=tarfile.USTAR_FORMAT,
    )
    return dataclasses.replace(image, path=path)


def _debian_tree(tree: pathlib.Path) -> None:
    release = {'NAME': 'Debian', 'VERSION_ID': '12', 'ID': 'debian'}
    tree.mkdir()
    userland.fill(
        tree, release, '# UNCONFIGURED FSTAB FOR BASE SYSTEM\n', plain=True
    )


def live(directory: pathlib.Path) -> vendor.Image:
    """debian-live: an ISO image with a squashfs, which has a kernel."""
    release = '6.1.0-21-amd64'
    tree, medium = directory / 'tree', directory / 'medium'
    _debian_tree(tree)
    names = ('vmlinuz-{}', 'initrd.img-{}')
    made = vendor.kernel(tree / 'boot', release, names)
    userland.even(tree)
    seen = userland.seen(tree, accessed=False)
    (medium / 'live').mkdir(parents=True)
    # That of the medium mounts the medium.
    vendor.kernel(medium / 'live', f'{release}-live', names)
    (medium / 'isolinux').mkdir()
    (medium / 'isolinux/isolinux.bin').write_bytes(bytes(2048))
    (medium / '.disk').mkdir()
    (medium / '.disk/info').write_text('Debian GNU/Linux 12 "Bookworm"\n')
    process.run(
        [
            *('mksquashfs', tree, medium / 'live/filesystem.squashfs'),
            *('-quiet', '-no-progress', '-comp', 'xz', '-xattrs'),
        ],
        access=None,
    )
    path = directory / 'iso'
    process.run(
        [
            *('xorriso', '-as', 'mkisofs', '-quiet', '-r', '-J'),
            *('-V', 'd-live', '-b', 'isolinux/isolinux.bin'),
            *('-no-emul-boot', '-boot-load-size', '4', '-o', path, medium),
        ],
        access=None,
    )
    return vendor.Image(
        path,
        *made,
        seen,
        'debian',
        'UUID={uuid} / ext4 defaults 0 1',
        notes=(vendor.FIXED, vendor.KERNEL),
    )


def container(directory: pathlib.Path) -> vendor.Image:
    """An OCI archive of two layers, the second of which removes a file."""
    tree, upper = directory / 'tree', directory / 'upper'
    _debian_tree(tree)
    (tree / 'etc/secret').write_text('of the layer below')
    userland.even(tree)
    layers = [_layer(tree)]
    (tree / 'etc/secret').unlink()
    (tree / 'etc/hostname').write_text('debian\n')
    (upper / 'etc').mkdir(parents=True)
    (upper / 'etc/.wh.secret').touch()
    (upper / 'etc/hostname').write_text('debian\n')
    for each in (tree, upper):
        userland.even(each)
    layers.append(_layer(upper))
    layout = containers.Layout(directory / 'layout')
    layout.index(layout.image(layers))
    path = layout.archive(directory / 'oci')
    return vendor.Image(
        path,
        samples.bzimage(),
        samples.initramfs(),
        userland.seen(tree, accessed=False),
        'debian',
        'UUID={uuid} / ext4 defaults 0 1',
        notes=('container image', vendor.FIXED),
    )


def _layer(tree: pathlib.Path) -> bytes:
    return process.run(
        [
            *('tar', '--create', '--format=pax', '--numeric-owner'),
            # As archives of layers are.
            '--pax-option=delete=atime,delete=ctime',
            *('--xattrs', '--xattrs-include=*', '--sort=name'),
            *('--directory', tree, '.'),
        ],
        access=None,
    ).stdout


def installed(
    directory: pathlib.Path, archive: pathlib.Path, kind: str
) -> pathlib.Path:
    """A whole system, as somebody installed it.

    :param archive: of its root filesystem, which is a Debian.
    :param kind: ``xfs`` for logical volumes, with /var apart; ``btrfs`` for
        subvolumes.
    """
    identity = vendor.identity()
    slots = [Slot(1, 8, disks.ESP), Slot(2, 1600)]
    fstab = f'UUID={vendor.EFI} /boot/efi vfat umask=0077 0 1\n'
    with Machine(directory, slots) as machine:
        machine.fat(1, vendor.SHIM, serial=vendor.EFI, label='EFI')
        if kind == 'xfs':
            sizes = {'root': 1024, 'var': 512, 'swap': 32}
            places = machine.logical(2, 'debian-vg', sizes)
            for name in ('root', 'var'):
                machine.format(places[name], 'mkfs.xfs', '-q', '-f')
            top = machine.mount(places['root'])
            machine.mount(places['var'], '/var')
            device = '/dev/mapper/debian--vg-'
            fstab += (
                f'{device}root / xfs x-systemd.growfs 0 0\n'
                f'{device}var /var xfs defaults 0 0\n'
                f'{device}swap none swap sw 0 0\n'
            )
        else:
            machine.format(2, 'mkfs.btrfs', '-q', '-U', identity)
            vendors_rpm.subvolumes(machine, 2, ('@rootfs', '@var'))
            machine.unmount()
            top = machine.mount(2, '/', 'subvol=@rootfs')
            machine.mount(2, '/var', 'subvol=@var')
            options = 'subvol=@rootfs,x-systemd.growfs'
            fstab += (
                f'UUID={identity} / btrfs {options} 0 0\n'
                f'UUID={identity} /var btrfs subvol=@var 0 0\n'
            )
        words = ['--xattrs', '--xattrs-include=*', '--numeric-owner']
        process.run(
            [
                'tar',
                '--extract',
                *words,
                '--file',
                archive,
                '--directory',
                top,
            ],
            access=None,
        )
        (top / 'etc/fstab').write_text(fstab)
        (top / 'boot/efi').mkdir(exist_ok=True)
    return disks.convert(machine.disk, 'qcow2')


#: By the names of the images on the page of sources.
MAKERS: Mapping[str, Callable[[pathlib.Path], vendor.Image]] = {
    'alpine.qcow2': alpine,
    'amazon.qcow2': vendors_rpm.amazon,
    'appliance.ova': ova,
    'arch.qcow2': arch,
    'azure.vhd': vendors_rpm.azure,
    'cirros.qcow2': cirros,
    'debian-live.iso': live,
    'debian.qcow2': debian,
    'encrypted.qcow2': encrypted,
    'fedora.qcow2': vendors_rpm.fedora,
    'oci.tar': container,
    'opensuse.qcow2': vendors_rpm.opensuse,
    'rocky.qcow2': vendors_rpm.rocky,
    'ubuntu.qcow2': ubuntu,
}
