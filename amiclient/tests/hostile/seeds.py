# SPDX-License-Identifier: Apache-2.0

"""Small sound filesystems of many kinds, to be damaged."""

from collections.abc import Callable, Mapping
import dataclasses
import pathlib
import random
import tempfile

from amiclient import process
from amiclient.tests.oracle import disk
from amiclient.tests.shapes import broken
from amiclient.tests.shapes import content
from amiclient.tests.unit.rootfs import samples

_UUID = '5eed5eed-0000-4000-8000-5eed5eed5eed'
_OLD = 'none,sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr'
_NEW = (
    f'{_OLD},has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,'
    'dir_nlink,extra_isize'
)
_PLAIN = f'{_NEW},^metadata_csum'


@dataclasses.dataclass(frozen=True)
class Seed:
    """How to make one.

    :param size: KiB.
    :param step: what is done at the end.
    """

    size: int
    features: str
    options: tuple[str, ...] = ('-b', '1024')
    step: Callable[[content.Job], None] | None = None


def _crash(job: content.Job) -> None:
    """Leave a transaction in the journal that changes an inode."""
    after = content.Job(job.image.with_suffix('.after'), job.work, job.random)
    broken.copy(job.image, after.image)
    try:
        after.debugfs(['sif /etc/os-release mtime @1234567890', 'rm /many/f3'])
        with (
            disk.Filesystem(after.image) as new,
            disk.Filesystem(job.image) as old,
        ):
            changed = {
                n: block
                for n in range(2, new.block_count)
                if (block := new.block(n)) != old.block(n)
            }
    finally:
        after.image.unlink()
    (job.work / 'metadata').write_bytes(b''.join(changed.values()))
    numbers = ','.join(map(str, changed))
    job.debugfs(['jo -c -v 3', f'jw -b {numbers} metadata', 'jc'])


#: All of them, by name; each takes a fraction of a second to make.
SEEDS: Mapping[str, Seed] = {
    'ext2': Seed(2048, _OLD),
    'ext2-4k': Seed(6144, _OLD, ('-b', '4096')),
    'ext2-rev0': Seed(2048, 'none,^resize_inode', ('-b', '1024', '-r', '0')),
    'ext3': Seed(4096, f'{_OLD},has_journal'),
    'plain': Seed(4096, _PLAIN),
    'plain-groups': Seed(6144, _PLAIN, ('-b', '1024', '-g', '1024')),
    'plain-4k': Seed(8192, f'{_PLAIN},^has_journal', ('-b', '4096')),
    'sums': Seed(4096, _NEW),
    'sums-4k': Seed(24576, _NEW, ('-b', '4096')),
    'sums-groups': Seed(6144, _NEW, ('-b', '1024', '-g', '1024')),
    'no-flex': Seed(6144, f'{_PLAIN},^flex_bg', ('-b', '1024', '-g', '2048')),
    'meta-bg': Seed(
        6144, f'{_PLAIN},meta_bg,^resize_inode', ('-b', '1024', '-g', '512')
    ),
    'uninit': Seed(
        6144, f'{_PLAIN},uninit_bg', ('-b', '1024', '-g', '1024')
    ),
    'bigalloc': Seed(8192, f'{_PLAIN},bigalloc', ('-b', '1024', '-C', '8192')),
    'inline': Seed(4096, f'{_PLAIN},inline_data'),
    'quota': Seed(4096, f'{_PLAIN},quota'),
    'orphans': Seed(4096, f'{_NEW},orphan_file'),
    'super2': Seed(
        6144, f'{_PLAIN},sparse_super2,^resize_inode',
        ('-b', '1024', '-g', '1024'),
    ),
    'small-inodes': Seed(4096, _PLAIN, ('-b', '1024', '-I', '128')),
    'journal': Seed(4096, _PLAIN, step=_crash),
    'journal-sums': Seed(4096, _NEW, step=_crash),
}  # fmt: skip


def make(name: str, directory: pathlib.Path) -> pathlib.Path:
    """Make one, the same each time.

    :param directory: an existing one.
    :returns: the image in it.
    """
    seed = SEEDS[name]
    image = directory / f'{name}.img'
    with tempfile.TemporaryDirectory(dir=directory) as work:
        job = content.Job(image, pathlib.Path(work), random.Random(name))
        tree = job.work / 'tree'
        _fill(tree, job.random)
        process.run(
            [
                'mke2fs', '-q', '-F', '-O', seed.features, '-U', _UUID,
                '-L', 'seed', '-m', '0', '-N', '256',
                '-E', f'hash_seed={_UUID},root_owner=0:0',
                '-d', tree, *seed.options, image, f'{seed.size}k',
            ],
            env=content.ENVIRONMENT,
            access=None,
        )  # fmt: skip
        _scatter(job)
        # mke2fs -d copies times that differ from run to run.
        content.dress(job)
        job.settle()
        if seed.step:
            seed.step(job)
    return image


def _fill(tree: pathlib.Path, rng: random.Random) -> None:
    for name in ('etc', 'boot', 'usr/lib', 'many', 'deep/er'):
        (tree / name).mkdir(parents=True)
    (tree / 'usr/lib/os-release').write_text('ID=debian\nVERSION_ID="12"\n')
    (tree / 'etc/os-release').symlink_to('../usr/lib/os-release')
    (tree / 'boot/vmlinuz').write_bytes(samples.bzimage())
    (tree / 'boot/initrd.img').write_bytes(samples.initramfs())
    (tree / 'many-links').symlink_to('x' * 100)
    for index in range(60):
        path = tree / 'many' / f'f{index}'
        path.write_bytes(rng.randbytes(rng.randrange(2500)))
    (tree / 'many' / 'of-a-long-name'.ljust(200, '-')).touch()
    (tree / 'deep/er/link').hardlink_to(tree / 'boot/vmlinuz')
    with (tree / 'holes').open('wb') as file:
        file.truncate(400_000)
        for place in (0, 50_000, 300_000):
            file.seek(place)
            file.write(rng.randbytes(5000))


def _scatter(job: content.Job) -> None:
    """Have extended attributes, devices, and files in many pieces."""
    with disk.Filesystem(job.image) as filesystem:
        size = filesystem.block_size
    count = 20
    payloads = [job.payload(size) for _ in range(count)]
    commands = ['mkdir gaps', 'cd gaps']
    commands += [f'write {name} g{n}' for n, name in enumerate(payloads)]
    commands += [f'rm g{n}' for n in range(0, count, 2)]
    commands.append(f'write {job.payload(size * (count // 2))} scattered')
    commands += [
        'cd /', 'mknod console c 5 1', 'mknod fifo p',
        'sif /boot/vmlinuz mtime @1600000000',
        'ea_set /boot/vmlinuz user.note a-note',
        'ea_set /many user.' + 'n' * 60 + ' ' + 'v' * 60,
    ]  # fmt: skip
    job.debugfs(commands)
