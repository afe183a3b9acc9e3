# SPDX-License-Identifier: Apache-2.0

"""The same root filesystem out of all kinds of sources.

All have the same files: those of one ext4 filesystem. An appliance of
libguestfs makes the others once. What is measured is ``openstack ami shrink
--output``, which sends nothing.
"""

from collections.abc import Iterator, Mapping
import os
import pathlib
import subprocess

from amiclient.ext import superblock
from amiclient.tests.disks import containers
from amiclient.tests.disks import disks
from benchmarks import measure

#: What the others are compared with.
PLAIN = 'ext4 in a file'

#: Of all kinds, in this order.
KINDS = (
    PLAIN,
    'qcow2 disk, ext4',
    'qcow2 disk, compressed, ext4',
    'disk, LVM, ext4',
    'disk, XFS',
    'disk, LVM, XFS',
    'tar archive',
    'tar archive, zstd',
    'OCI layout, gzip',
    'squashfs',
    'disk, btrfs',
    'disk, LUKS, ext4',
)

_PASSPHRASE = 'open'

#: MiB of the partition with the root filesystem.
_SIZE = 4096

#: By what it is on, how guestfish makes the root filesystem of a disk; and
#: where that is.
_DISKS = {
    'disk, XFS': ('mkfs xfs {part}', '{part}'),
    'disk, btrfs': ('mkfs btrfs {part}', '{part}'),
    'disk, LVM, ext4': (
        (
            'pvcreate {part}\nvgcreate one {part}\n'
            'lvcreate-free root one 100\nmkfs ext4 /dev/one/root'
        ),
        '/dev/one/root',
    ),
    'disk, LVM, XFS': (
        (
            'pvcreate {part}\nvgcreate other {part}\n'
            'lvcreate-free root other 100\nmkfs xfs /dev/other/root'
        ),
        '/dev/other/root',
    ),
    'disk, LUKS, ext4': (
        (
            f'luks-format {{part}} 0\n{_PASSPHRASE}\n'
            f'cryptsetup-open {{part}} opened\n{_PASSPHRASE}\n'
            'mkfs ext4 /dev/mapper/opened'
        ),
        '/dev/mapper/opened',
    ),
}

_ATTRIBUTES = 'xattrs:true selinux:true acls:true'


def compare(
    image: pathlib.Path,
    *,
    work: pathlib.Path,
    env: Mapping[str, str],
    rounds: int,
) -> tuple[measure.Series, int]:
    """Measure each source, one after the other, in each round.

    The first round, which warms up the caches, is dropped.

    :param image: an ext4 filesystem.
    :param work: a directory with room for twelve copies of what is in use.
    :returns: the costs by kind; and bytes in use of the filesystem.
    """
    sources = dict(_made(image, work))
    output = work / 'shrunk.img'
    series = measure.Series()
    for number in range(rounds + 1):
        for kind in KINDS:
            argv: list[str | pathlib.Path] = [
                *('openstack', 'ami', 'shrink', sources[kind]),
                *('--output', output, '--work-directory', work),
            ]
            if 'LUKS' in kind:
                argv += ['--luks-key-file', work / 'passphrase']
            cost = measure.run(argv, env=env)
            output.unlink()
            if number:
                series.add_cost(kind, cost)
    return series, superblock.read(image).in_use


def _made(
    image: pathlib.Path, work: pathlib.Path
) -> Iterator[tuple[str, pathlib.Path]]:
    yield PLAIN, image
    empty = disks.make(work / 'empty.raw', [disks.Part(_SIZE)])
    part = disks.make(work / 'ext4.raw', [disks.Part(_SIZE)])
    archive = work / 'root.tar'
    drives = [
        f'add-drive {image.absolute()} readonly:true format:raw',
        f'add-drive {part} format:raw',
    ]
    script = [
        'run',
        f'mount-ro /dev/sda /\ntar-out / {archive} {_ATTRIBUTES}\numount /',
        'mkfs ext4 /dev/sdb1',
        *_filled('/dev/sdb1', archive),
    ]
    for letter, (kind, (recipe, device)) in zip(
        'cdefg', _DISKS.items(), strict=True
    ):
        path = disks.copy(empty, f'{letter}.raw')
        drives.append(f'add-drive {path} format:raw')
        place = f'/dev/sd{letter}1'
        script.append(recipe.format(part=place))
        script += _filled(device.format(part=place), archive)
        yield kind, path
    subprocess.run(
        ['guestfish', '--keys-from-stdin'],
        input='\n'.join([*drives, *script]).encode() + b'\n',
        env={
            **os.environ,
            'LIBGUESTFS_BACKEND': 'direct',
            # KVM may be there, and not work.
            'LIBGUESTFS_BACKEND_SETTINGS': 'force_tcg',
            'LIBGUESTFS_MEMSIZE': '2048',
        },
        check=True,
    )
    (work / 'passphrase').write_text(_PASSPHRASE)
    yield 'qcow2 disk, ext4', disks.convert(part, 'qcow2')
    yield 'qcow2 disk, compressed, ext4', disks.convert(part, 'qcow2', '-c')
    yield 'tar archive', archive
    subprocess.run(['zstd', '--quiet', archive], check=True)
    yield 'tar archive, zstd', archive.with_name('root.tar.zst')
    layout = containers.Layout(work / 'layout')
    layout.index(layout.image([archive.read_bytes()]))
    yield 'OCI layout, gzip', layout.path
    squashed = work / 'root.squashfs'
    with archive.open('rb') as file:
        subprocess.run(
            ['tar2sqfs', '--quiet', squashed], stdin=file, check=True
        )
    yield 'squashfs', squashed


def _filled(device: str, archive: pathlib.Path) -> list[str]:
    return [
        f'mount {device} /',
        f'tar-in {archive} / {_ATTRIBUTES}',
        'umount /',
    ]
