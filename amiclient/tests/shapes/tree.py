# SPDX-License-Identifier: Apache-2.0

"""A directory with everything in it that `mke2fs -d` can copy."""

from collections.abc import Callable
import os
import pathlib
import random
import stat


def sample(directory: pathlib.Path, rng: random.Random) -> None:
    """Fill an existing, empty directory."""
    root = os.fsencode(directory)

    def put(name: bytes, size: int) -> None:
        with open(os.path.join(root, name), 'wb') as file:
            file.write(rng.randbytes(size))

    for name in (
        b'etc',
        b'boot',
        b'var',
        b'var/empty',
        b'names',
        b'many',
        b'links',
        b'sizes',
        b'deep',
    ):
        os.mkdir(os.path.join(root, name))
    (directory / 'etc/os-release').write_text('ID=debian\nVERSION_ID="12"\n')
    put(b'boot/vmlinuz', 600_000)
    put(b'boot/initrd.img', 1_500_000)
    for name in (
        b'caf\xe9',
        b'\xff\xfe',
        b'new\nline',
        b'tab\tspace ',
        b'quote\'s "double"',
        b'back\\slash',
        b'-rf',
        b' ',
        b'*?[]',
        'größe-日本語-😀'.encode(),
        b'\x01\x7f',
        b'n' * 255,
    ):
        put(b'names/' + name, rng.randrange(1, 5000))
    for size in (
        0,
        1,
        59,
        60,
        61,
        150,
        1023,
        1024,
        1025,
        4095,
        4096,
        4097,
        12288,
        12289,
        65536,
        300_000,
    ):
        put(b'sizes/%d' % size, size)
    for index in range(80):
        put(b'var/small%d' % index, int(rng.expovariate(1 / 6000)))
    for index in range(12):
        put(b'var/middle%d' % index, rng.randrange(20_000, 150_000))
    for index in range(500):
        put(
            b'many/a-name-long-enough-for-several-blocks-%04d' % index,
            0 if index % 4 else 100,
        )
    _links(root, put)
    _sparse(root, rng)
    deep = os.path.join(root, b'deep')
    for index in range(30):
        deep = os.path.join(deep, b'd%d' % index)
        os.mkdir(deep)
    os.mkfifo(os.path.join(root, b'var/fifo'))
    os.mknod(os.path.join(root, b'var/socket'), stat.S_IFSOCK | 0o600)


def _links(root: bytes, put: Callable[[bytes, int], None]) -> None:
    os.mkdir(os.path.join(root, b'links/other'))
    put(b'links/first', 7000)
    for name in (b'links/second', b'links/other/third', b'etc/fourth'):
        os.link(os.path.join(root, b'links/first'), os.path.join(root, name))
    put(b'links/small', 20)
    os.link(
        os.path.join(root, b'links/small'), os.path.join(root, b'links/twin')
    )
    for length in (1, 58, 59, 60, 61, 120, 700, 1000):
        target = (b'/long' * 200)[:length]
        os.symlink(target, os.path.join(root, b'links/to%d' % length))
    os.symlink(b'caf\xe9\n', os.path.join(root, b'links/odd'))


def _sparse(root: bytes, rng: random.Random) -> None:
    for name, size, places in (
        (b'sizes/hole-first', 700_000, (600_000,)),
        (b'sizes/hole-last', 900_000, (0,)),
        (b'sizes/holes', 9 << 20, (0, 70_000, 1 << 20, 5 << 20)),
        (b'sizes/hole-only', 5 << 20, ()),
        # Beyond what double indirect blocks of 1 KiB reach.
        (b'sizes/hole-huge', 400 << 20, (1 << 20, 100 << 20, 399 << 20)),
    ):
        with open(os.path.join(root, name), 'wb') as file:
            file.truncate(size)
            for place in places:
                file.seek(place)
                file.write(rng.randbytes(10_000))
