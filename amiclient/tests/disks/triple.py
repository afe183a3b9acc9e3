# SPDX-License-Identifier: Apache-2.0

"""Real files to register: a filesystem, a kernel and a ramdisk."""

import pathlib
import random

from amiclient import process
from amiclient.tests.unit.rootfs import samples


def root(
    directory: pathlib.Path,
    *,
    size: int = 16 * 2**20,
    data: int = 0,
    name: str = 'root.img',
) -> pathlib.Path:
    """Make an ext4 filesystem with an os-release in it.

    :param size: bytes.
    :param data: bytes of random data in a file of its own.
    """
    etc = directory / 'tree' / 'etc'
    etc.mkdir(parents=True, exist_ok=True)
    (etc / 'os-release').write_text('ID=debian\nVERSION_ID="12"\n')
    (etc.parent / 'data').write_bytes(random.Random(data).randbytes(data))
    path = directory / name
    with path.open('wb') as file:
        file.truncate(size)
    process.run(
        ['mke2fs', '-q', '-F', '-t', 'ext4', '-d', etc.parent, path],
        access=None,
    )
    return path


def kernel(directory: pathlib.Path) -> pathlib.Path:
    """Make a kernel for x86_64."""
    path = directory / 'vmlinuz'
    path.write_bytes(samples.bzimage())
    return path


def ramdisk(directory: pathlib.Path) -> pathlib.Path:
    """Make a ramdisk."""
    path = directory / 'initrd'
    path.write_bytes(samples.initramfs())
    return path
