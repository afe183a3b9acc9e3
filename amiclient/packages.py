# SPDX-License-Identifier: Apache-2.0

"""Where programs come from that are not installed."""

#: Debian's name of the package that holds a program; another one's where that
#: is not the same.
OF = {
    'debugfs': 'e2fsprogs',
    'dumpe2fs': 'e2fsprogs',
    'e2fsck': 'e2fsprogs',
    'e2image': 'e2fsprogs',
    'guestfish': 'libguestfs-tools (Debian, Ubuntu) or guestfs-tools (Fedora, '
    'RHEL)',
    'lz4': 'lz4',
    'mcopy': 'mtools',
    'mdir': 'mtools',
    'mke2fs': 'e2fsprogs',
    'qemu-img': 'qemu-utils',
    'qemu-nbd': 'qemu-utils',
    'qemu-system-aarch64': 'qemu-system-arm',
    'qemu-system-x86_64': 'qemu-system-x86',
    'resize2fs': 'e2fsprogs',
    'setpriv': 'util-linux',
    'sqfs2tar': 'squashfs-tools-ng',
    'supermin': 'supermin',
    'tune2fs': 'e2fsprogs',
    'zstd': 'zstd',
}
