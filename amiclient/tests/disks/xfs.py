# SPDX-License-Identifier: Apache-2.0

"""XFS filesystems: made by mkfs.xfs and xfs_db, or filled by the kernel."""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import stat

from amiclient import errors
from amiclient import process
from amiclient.tests.disks import disks

#: mkfs.xfs makes small filesystems for its own tests only.
SMALL = {'TEST_DIR': '1', 'TEST_DEV': '1', 'QA_CHECK_FS': '1'}


def make(path: pathlib.Path, *options: str, size: int = 24) -> pathlib.Path:
    """Make a filesystem.

    :param options: of mkfs.xfs.
    :param size: MiB.
    """
    with path.open('wb') as file:
        file.truncate(size * disks.MIB)
    argv = ['mkfs.xfs', '-q', *options, path]
    process.run(argv, env=SMALL, access=None)
    return path


def old(
    path: pathlib.Path, place: pathlib.Path, *options: str, many: int = 1500
) -> None:
    """Make one of version 4, which newer kernels do not mount any more.

    :param place: an empty directory.
    :param many: names in a directory.
    """
    large, small = place / 'large', place / 'small'
    large.write_bytes(bytes(range(250)) * 1200)
    small.write_bytes(b'small\n')
    names = [f'name-{n}-{"q" * (n % 50)}' for n in range(300)]
    proto = place / 'proto'
    lines = [
        'boot', '0 0', 'd--755 0 0',
        f'small -u-644 7 8 {small}',
        f'large ---600 70000 0 {large}',
        'null c--666 0 0 1 3',
        'disk b--600 0 0 259 70000',
        'fifo p--600 1 2',
        'link l--777 0 0 small',
        f'long l--777 0 0 /{"y" * 900}',
        'short d--755 3 4', f'f ---644 0 0 {small}', '$',
        'long-names d--755 0 0',
        *(f'{name} l--777 0 0 to-{name}' for name in names), '$',
        'many d--755 0 0',
        *(f'{n} p--600 0 0' for n in range(many)), '$',
        '$',
    ]  # fmt: skip
    proto.write_text('\n'.join(lines) + '\n')
    make(path, '-m', 'crc=0', '-p', str(proto), *options)
    orders = [
        'path /small',
        'attr_set -u note -v 10',
        'attr_set -r trust -v 300',
        'attr_set -s label -v 60000',
        'path /large',
        *(f'attr_set -u n{n}-{"q" * 60} -v {n % 50 + 1}' for n in range(100)),
        'quit',
    ]
    process.run(
        ['xfs_db', '-x', path],
        input='\n'.join(orders).encode(),
        access=None,
    )


@contextlib.contextmanager
def mounted(
    image: pathlib.Path, place: pathlib.Path, how: str = 'rw'
) -> Iterator[None]:
    """Mount one, or another filesystem.

    :raises ProgramError: if that cannot be done here.
    """
    if os.geteuid():
        raise errors.ProgramError('only root mounts')
    argv = ['mount', '-o', f'loop,{how}', image, place]
    process.run(argv, access=None)
    try:
        yield
    finally:
        process.run(['umount', place], access=None)


def fill(top: pathlib.Path, data: bytes, many: int = 2000) -> None:
    """Make files of whatever kind, in whatever form XFS stores them.

    :param data: of a file, and of an attribute.
    :param many: names in a
        directory.
    """
    (top / 'empty').touch()
    (top / 'small').write_bytes(b'x' * 10)
    (top / 'large').write_bytes(data)
    os.chown(top / 'small', 70000, 80000)
    (top / 'small').chmod(0o4755)
    os.link(top / 'small', top / 'hard')
    (top / 'link').symlink_to('small')
    for length in (150, 400, 1000):
        (top / f'link-{length}').symlink_to('/' + 'y' * length)
    for name, kind, device in (
        ('null', stat.S_IFCHR, (1, 3)),
        ('disk', stat.S_IFBLK, (259, 70000)),
        ('fifo', stat.S_IFIFO, (0, 0)),
        ('socket', stat.S_IFSOCK, (0, 0)),
    ):
        os.mknod(top / name, kind | 0o640, os.makedev(*device))
    for count in (1, 20, 300, many):
        place = top / f'names-{count}'
        place.mkdir()
        for number in range(count):
            (place / f'{number}-{"q" * (number % 50)}').symlink_to('x')
    for number in range(0, 300, 3):
        (top / f'names-300/{number}-{"q" * (number % 50)}').unlink()
    deep = top / 'deep'
    for number in range(20):
        deep.mkdir()
        deep /= f'deep-{number}'
    _fill_sparse(top)
    _fill_attributes(top, data)
    os.utime(top / 'small', ns=(10**18 + 5, 10**18 + 7))
    # Before 1970, and beyond 2038.
    os.utime(top / 'empty', ns=(-5 * 10**8, -(10**18)))
    os.utime(top / 'large', ns=(2 * 10**18 + 1, 2 * 10**18 + 3))


def _fill_sparse(top: pathlib.Path) -> None:
    with (top / 'sparse').open('wb') as file:
        file.seek(disks.MIB)
        file.write(b'middle')
        file.truncate(5 << 30)
    with (top / 'pieces').open('wb') as file:
        for number in range(600):
            file.seek(number << 17)
            file.write(bytes([number % 255 + 1]) * 700)
    with (top / 'allocated').open('wb') as file:
        os.posix_fallocate(file.fileno(), 0, disks.MIB)
        file.seek(300_000)
        file.write(b'written')
    argv = ['cp', '--reflink=auto', top / 'large', top / 'shared']
    process.run(argv, access=None)
    with (top / 'shared').open('r+b') as file:
        file.seek(100_000)
        file.write(b'other')


def _fill_attributes(top: pathlib.Path, data: bytes) -> None:
    os.setxattr(top / 'small', 'user.note', b'hello')
    os.setxattr(top / 'small', 'trusted.empty', b'')
    os.setxattr(top / 'large', 'user.huge', data[: 1 << 16])
    os.setxattr(top / 'large', 'security.some', b's' * 3000)
    for number in range(300):
        os.setxattr(top / 'empty', f'user.{number}', b'w' * (number % 200))
    for argv in (
        ['setfacl', '-m', 'u:1000:r,g:5:rw', top / 'small'],
        ['setfacl', '-m', 'u:7:rwx', '-m', 'd:u:7:rx', top / 'names-20'],
        ['setcap', 'cap_net_raw+ep', top / 'large'],
        ['chattr', '+dA', top / 'hard'],
        ['chattr', '+ai', top / 'shared'],
        ['chattr', '+S', top / 'deep'],
    ):
        process.run(argv, access=None)
