#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.

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
