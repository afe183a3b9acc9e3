# SPDX-License-Identifier: Apache-2.0

"""Images of Red Hat's family and of SUSE: XFS, LVM, btrfs."""

import pathlib

from amiclient import process
from amiclient.tests.disks import disks
from amiclient.tests.disks import machines
from amiclient.tests.disks.machines import Machine
from amiclient.tests.disks.machines import Slot
from amiclient.tests.disks import userland
from amiclient.tests.disks import vendor


def rocky(directory: pathlib.Path) -> vendor.Image:
    """Rocky-9-GenericCloud-LVM: XFS, on a logical volume and on /boot."""
    boot_uuid = vendor.identity()
    release = '5.14.0-427.13.1.el9_4.x86_64'
    fstab = f"""\
#
# /etc/fstab
# Created by anaconda on Sun May  5 18:37:54 2024
#
/dev/mapper/rocky-lvroot /                       xfs     defaults        0 0
UUID={boot_uuid} /boot                   xfs     defaults        0 0
UUID={vendor.EFI}          /boot/efi               vfat    \
defaults,uid=0,gid=0,umask=077,shortname=winnt 0 2
"""
    slots = [
        Slot(1, 8, disks.ESP, 'EFI System Partition'),
        Slot(2, 320, disks.LINUX),
        Slot(3, 4, machines.PREP),
        Slot(4, 1, machines.BIOS),
        Slot(5, 400, machines.LVM),
    ]
    with Machine(directory, slots) as machine:
        machine.fat(1, vendor.SHIM, serial=vendor.EFI, label='EFI')
        places = machine.logical(5, 'rocky', {'lvroot': 320, 'lvswap': 32})
        machine.format(places['lvroot'], *vendor.xfs(vendor.identity()))
        machine.format(places['lvswap'], 'mkswap', '-q')
        machine.format(2, *vendor.xfs(boot_uuid))
        top = machine.mount(places['lvroot'])
        boot = machine.mount(2, '/boot')
        userland.fill(
            top,
            {'NAME': 'Rocky Linux', 'VERSION_ID': '9.4', 'ID': 'rocky'},
            fstab,
        )
        (boot / 'efi').mkdir()
        made = vendor.kernel(boot, release)
        vendor.entries(boot, release, '/dev/mapper/rocky-lvroot')
        vendor.grub(boot, 'grub2', 'blscfg\n')
        userland.label(top)
        seen = userland.seen(top)
    merged = ('/boot', '/boot/efi')
    image = disks.convert(machine.disk, 'qcow2')
    after = 'UUID={uuid} / ext4 defaults 0 0'
    return vendor.Image(
        image, *made, seen, 'rocky', after, vendor.SHIM, merged
    )


def azure(directory: pathlib.Path) -> vendor.Image:
    """RHEL of the marketplace of Azure: five logical volumes, VHD."""
    boot_uuid = vendor.identity()
    release = '5.14.0-503.15.1.el9_5.x86_64'
    volumes = ('tmp', 'usr', 'home', 'var', 'root')
    fstab = f"""\
/dev/mapper/rootvg-rootlv	/	xfs	defaults	0	0
UUID={boot_uuid}	/boot	xfs	defaults	0	0
UUID={vendor.EFI}	/boot/efi	vfat	\
defaults,uid=0,gid=0,umask=077,shortname=winnt	0	2
/dev/mapper/rootvg-homelv	/home	xfs	defaults	0	0
/dev/mapper/rootvg-tmplv	/tmp	xfs	defaults	0	0
/dev/mapper/rootvg-usrlv	/usr	xfs	defaults	0	0
/dev/mapper/rootvg-varlv	/var	xfs	defaults	0	0
"""
    slots = [
        Slot(1, 8, disks.ESP, 'EFI System Partition'),
        Slot(2, 320, disks.LINUX),
        Slot(3, 2, machines.BIOS),
        Slot(4, 1640, machines.LVM),
    ]
    with Machine(directory, slots) as machine:
        machine.fat(1, vendor.SHIM, serial=vendor.EFI, label='EFI')
        machine.format(2, *vendor.xfs(boot_uuid))
        sizes = {f'{name}lv': 320 for name in volumes}
        places = machine.logical(4, 'rootvg', sizes)
        for name in sizes:
            machine.format(places[name], 'mkfs.xfs', '-q', '-f')
        top = machine.mount(places['rootlv'])
        for name in volumes[:-1]:
            machine.mount(places[f'{name}lv'], f'/{name}')
        boot = machine.mount(2, '/boot')
        userland.fill(
            top,
            {'NAME': 'Red Hat Enterprise Linux', 'VERSION_ID': '9.5',
             'ID': 'rhel'},
            fstab,
        )  # fmt: skip
        (boot / 'efi').mkdir()
        made = vendor.kernel(boot, release)
        vendor.entries(boot, release, '/dev/mapper/rootvg-rootlv')
        userland.label(top)
        seen = userland.seen(top)
    merged = ('/boot', '/boot/efi', '/home', '/tmp', '/usr', '/var')
    options = ('-o', 'subformat=fixed,force_size')
    image = disks.convert(machine.disk, 'vpc', *options)
    after = 'UUID={uuid} / ext4 defaults 0 0'
    return vendor.Image(image, *made, seen, 'rhel', after, vendor.SHIM, merged)


def amazon(directory: pathlib.Path) -> vendor.Image:
    """al2023-kvm: XFS with the label of its place."""
    root = vendor.identity()
    release = '6.1.90-99.173.amzn2023.x86_64'
    fstab = f"""\
#
UUID={root}     /           xfs    defaults,noatime  1   1
UUID={vendor.EFI}        /boot/efi       vfat    defaults,noatime,uid=0,gid=0,\
umask=0077,shortname=winnt,x-systemd.automount 0 2
"""
    slots = [
        Slot(127, 1, machines.BIOS, 'BIOS Boot Partition'),
        Slot(128, 10, disks.ESP, 'EFI System Partition'),
        Slot(1, 320, disks.LINUX, 'Linux'),
    ]
    with Machine(directory, slots) as machine:
        machine.fat(128, vendor.SHIM, serial=vendor.EFI, label='EFI')
        machine.format(1, *vendor.xfs(root, '/'))
        top = machine.mount(1)
        userland.fill(
            top,
            {'NAME': 'Amazon Linux', 'VERSION_ID': '2023', 'ID': 'amzn'},
            fstab,
        )
        (top / 'boot/efi').mkdir()
        made = vendor.kernel(top / 'boot', release)
        vendor.entries(top / 'boot', release, f'UUID={root}', '/boot')
        vendor.grub(top / 'boot', 'grub2', 'blscfg\n')
        userland.label(top)
        seen = userland.seen(top)
    image = disks.convert(machine.disk, 'qcow2', '-c')
    after = 'UUID={uuid} / ext4 defaults,noatime 1 1'
    return vendor.Image(
        image, *made, seen, 'amzn', after, vendor.SHIM, ('/boot/efi',)
    )


def fedora(directory: pathlib.Path) -> vendor.Image:
    """Fedora-Cloud-Base-Generic: subvolumes for /, /home and /var."""
    root, boot_uuid = vendor.identity(), vendor.identity()
    release = '6.8.5-301.fc40.x86_64'
    names = ('root', 'home', 'var')
    fstab = f"""\
UUID={root} / btrfs compress=zstd:1,defaults,subvol=root 0 0
UUID={boot_uuid} /boot ext4 defaults 0 0
UUID={root} /home btrfs compress=zstd:1,subvol=home 0 0
UUID={root} /var btrfs compress=zstd:1,subvol=var 0 0
UUID={vendor.EFI} /boot/efi vfat defaults,umask=0077,shortname=winnt 0 0
"""
    slots = [
        Slot(1, 1, machines.BIOS),
        Slot(2, 8, disks.ESP, 'EFI System Partition'),
        Slot(3, 24, machines.XBOOTLDR),
        Slot(4, 160, disks.ROOT),
    ]
    with Machine(directory, slots) as machine:
        machine.fat(2, vendor.SHIM, serial=vendor.EFI, label='EFI')
        machine.format(3, *vendor.ext4(boot_uuid, 'BOOT'))
        machine.format(4, 'mkfs.btrfs', '-q', '-L', 'fedora', '-U', root)
        subvolumes(machine, 4, names)
        machine.unmount()
        options = 'noatime,compress=zstd:1,subvol='
        top = machine.mount(4, '/', options + 'root')
        for name in names[1:]:
            machine.mount(4, f'/{name}', options + name)
        boot = machine.mount(3, '/boot')
        userland.fill(
            top,
            {'NAME': 'Fedora Linux', 'VERSION_ID': '40', 'ID': 'fedora'},
            fstab,
        )
        # As systemd makes them, where that is possible.
        for name in ('machines', 'portables'):
            _subvolume(top / 'var/lib' / name)
        (boot / 'efi').mkdir()
        made = vendor.kernel(boot, release)
        vendor.entries(boot, release, f'UUID={root} rootflags=subvol=root')
        vendor.grub(boot, 'grub2', 'blscfg\n')
        userland.label(top)
        seen = userland.seen(top)
    merged = ('/boot', '/boot/efi', '/home', '/var')
    image = disks.convert(machine.disk, 'qcow2')
    after = 'UUID={uuid} / ext4 defaults 0 0'
    return vendor.Image(
        image, *made, seen, 'fedora', after, vendor.SHIM, merged
    )


def _subvolume(path: pathlib.Path) -> None:
    process.run(['btrfs', '-q', 'subvolume', 'create', path], access=None)


def subvolumes(machine: Machine, number: int, names) -> pathlib.Path:
    top = machine.mount(number)
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        _subvolume(top / name)
    return top


def opensuse(directory: pathlib.Path) -> vendor.Image:
    """openSUSE: the root filesystem is a snapshot of snapper's."""
    root = vendor.identity()
    release = '6.4.0-150600.21-default'
    names = (
        *('var', 'usr/local', 'srv', 'root', 'opt', 'home'),
        *('boot/grub2/x86_64-efi', 'boot/grub2/i386-pc'),
    )
    fstab = f'UUID={root} / btrfs defaults 0 0\n'
    for name in ('.snapshots', *names):
        fstab += f'UUID={root} /{name} btrfs subvol=/@/{name} 0 0\n'
    fstab += f'UUID={vendor.EFI} /boot/efi vfat defaults 0 0\n'
    slots = [
        Slot(1, 2, machines.BIOS, 'p.legacy'),
        Slot(2, 8, disks.ESP, 'p.UEFI'),
        Slot(3, 200, disks.LINUX, 'p.lxroot'),
    ]
    with Machine(directory, slots) as machine:
        machine.fat(2, vendor.SHIM, serial=vendor.EFI, label='EFI')
        machine.format(3, 'mkfs.btrfs', '-q', '-L', 'ROOT', '-U', root)
        whole = subvolumes(machine, 3, ('@', '@/.snapshots'))
        snapshots = whole / '@/.snapshots'
        for name in names:
            (whole / '@' / name).parent.mkdir(parents=True, exist_ok=True)
            _subvolume(whole / '@' / name)
        (snapshots / '1').mkdir()
        _subvolume(snapshots / '1/snapshot')
        (snapshots / '1/info.xml').write_text('<snapshot><num>1</num>')
        default = snapshots / '1/snapshot'
        process.run(
            ['btrfs', 'subvolume', 'set-default', default], access=None
        )
        machine.unmount()
        top = machine.mount(3)
        for name in names:
            machine.mount(3, f'/{name}', f'noatime,subvol=@/{name}')
        userland.fill(
            top,
            {'NAME': 'openSUSE Leap', 'VERSION_ID': '15.6',
             'ID': 'opensuse-leap'},
            fstab,
        )  # fmt: skip
        (top / '.snapshots').mkdir()
        (top / 'boot/efi').mkdir()
        modules = top / 'usr/lib/modules' / release
        modules.mkdir(parents=True)
        made = vendor.kernel(modules, release, ('vmlinuz', 'initrd'))
        boot = top / 'boot'
        (modules / 'initrd').rename(boot / f'initrd-{release}')
        for name, target in (
            (f'vmlinuz-{release}', f'../usr/lib/modules/{release}/vmlinuz'),
            ('vmlinuz', f'vmlinuz-{release}'),
            ('initrd', f'initrd-{release}'),
        ):
            (boot / name).symlink_to(target)
        vendor.grub(boot, 'grub2')
        # What "zypper update" does before.
        inner = machine.mount(3, '/.snapshots', 'noatime,subvol=@/.snapshots')
        (inner / '2').mkdir()
        process.run(
            ['btrfs', '-q', 'subvolume', 'snapshot', '-r', top,
             inner / '2/snapshot'],
            access=None,
        )  # fmt: skip
        machine.unmount_one(inner)
        seen = userland.seen(top)
    image = disks.convert(machine.disk, 'qcow2')
    merged = tuple(sorted(('/boot/efi', *(f'/{name}' for name in names))))
    after = 'UUID={uuid} / ext4 defaults 0 0'
    return vendor.Image(
        image,
        *made,
        seen,
        'opensuse-leap',
        after,
        vendor.SHIM,
        merged,
        (
            '/.snapshots has snapshots of btrfs, and is left out',
            vendor.MERGED,
            vendor.FIXED,
            vendor.KERNEL,
        ),
    )
