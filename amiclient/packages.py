# SPDX-License-Identifier: Apache-2.0

"""Which package a program is in, for those who have to install it."""

#: Debian's name of the package that holds a program.
HOLDING = {
    'debugfs': 'e2fsprogs',
    'dumpe2fs': 'e2fsprogs',
    'e2fsck': 'e2fsprogs',
    'e2image': 'e2fsprogs',
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
    'tune2fs': 'e2fsprogs',
    'zstd': 'zstd',
}
