# SPDX-License-Identifier: Apache-2.0

"""Filesystems of every shape that there are plans to shrink.

``make('bigalloc', directory)`` makes one, the same each time, in a few seconds
at most, without any rights. Those with the tag 'slow' are large.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import pathlib
import random
import shutil
import tempfile
from typing import Any, Literal

from amiclient import process
from amiclient.tests.oracle import exttree
from amiclient.tests.shapes import broken
from amiclient.tests.shapes import content
from amiclient.tests.shapes import tree

_UUID = 'f0a1c3de-5b77-4c1e-9a60-2d1e8b7c9f10'
_MIB = 1 << 20
_GIB = 1 << 30

#: What mke2fs.conf says on a machine that has one: ours must not matter.
_FEATURES = {
    'ext2': 'none,sparse_super,large_file,filetype,resize_inode,dir_index,'
    'ext_attr',
    'ext3': 'none,sparse_super,large_file,filetype,resize_inode,dir_index,'
    'ext_attr,has_journal',
    'ext4': 'none,sparse_super,large_file,filetype,resize_inode,dir_index,'
    'ext_attr,has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,'
    'dir_nlink,extra_isize',
}

Step = Callable[[content.Job], None]


@dataclasses.dataclass(frozen=True)
class Shape:
    """How to make a filesystem, and what becomes of it.

    :param name: its key in SHAPES.
    :param about: what is special.
    :param size: bytes of the filesystem.
    :param filesystem: 'ext2', 'ext3' or 'ext4'.
    :param features: to add to those of the kind, or, with ^, to take away.
    :param block_size: bytes.
    :param extended: more of mke2fs's option -E.
    :param options: more options for mke2fs.
    :param is_empty: whether it stays without the usual content.
    :param steps: what is done after that, in this order.
    :param tags: 'quick' or 'slow'; 'repairable' if e2fsck -fy mends it.
    :param expected: what shrinking it with default options does.
    """

    name: str
    about: str
    size: int = 512 * _MIB
    filesystem: Literal['ext2', 'ext3', 'ext4'] = 'ext4'
    features: str = ''
    block_size: int = 4096
    extended: str = ''
    options: tuple[str, ...] = ()
    is_empty: bool = False
    steps: tuple[Step, ...] = (content.spread,)
    tags: frozenset[str] = frozenset({'quick'})
    expected: Literal['shrinks', 'refused'] = 'shrinks'


def make(name: str, directory: pathlib.Path) -> pathlib.Path:
    """Make the filesystem of that name.

    :param directory: an existing directory.
    :returns: the image, in the directory.
    """
    shape = SHAPES[name]
    image = directory / f'{name}.img'
    with tempfile.TemporaryDirectory(dir=directory) as work:
        job = content.Job(image, pathlib.Path(work), random.Random(name))
        source = job.work / 'tree'
        source.mkdir()
        if not shape.is_empty:
            tree.sample(source, job.random)
        features = _FEATURES[shape.filesystem]
        if shape.features:
            features += f',{shape.features}'
        extended = f'hash_seed={_UUID},lazy_itable_init=1,root_owner=0:0'
        if shape.extended:
            extended += f',{shape.extended}'
        image.unlink(missing_ok=True)
        process.run(
            [
                'mke2fs', '-q', '-F', '-t', shape.filesystem,
                '-O', features, '-b', str(shape.block_size),
                '-U', _UUID, '-L', 'shape', '-m', '0',
                '-E', extended,
                *shape.options,
                *(() if shape.is_empty else ('-d', source)),
                image, f'{shape.size // 1024}k',
            ],
            env=content.ENVIRONMENT,
            access=None,
        )  # fmt: skip
        shutil.rmtree(source)
        if not shape.is_empty:
            content.add_odd(job)
            content.dress(job)
        job.settle()
        for step in shape.steps:
            step(job)
    return image


def plant_secret(
    image: pathlib.Path, secret: bytes, *, blocks: int = 300
) -> None:
    """Leave a secret in blocks that are free.

    :param secret: what to look for later; shorter than a block.
    :param blocks: how many blocks of 4 KiB to fill with it.
    """
    with tempfile.TemporaryDirectory(dir=image.parent) as work:
        job = content.Job(image, pathlib.Path(work), random.Random(0))
        times = 4096 // len(secret)
        page = (secret * times).ljust(4096, b'.')
        (job.work / 'secret').write_bytes(page * blocks)
        job.debugfs(['write secret planted-secret', 'rm planted-secret'])
        job.settle()


def settled_tree(image: pathlib.Path) -> dict[bytes, exttree.Entry]:
    """Read the tree that must be in the result of shrinking an image.

    That is what it holds when its journal has been replayed and e2fsck has
    mended what there is to mend, on a full copy.
    """
    with tempfile.TemporaryDirectory(dir=image.parent) as work:
        job = content.Job(
            pathlib.Path(work, 'copy'), image.parent, random.Random(0)
        )
        broken.copy(image, job.image)
        job.settle()
        return exttree.read_tree(job.image)


def _quick(name: str, about: str, **rest: Any) -> Shape:
    return Shape(name, about, **rest)


def _refused(name: str, about: str, *tags: str, **rest: Any) -> Shape:
    return Shape(
        name, about, expected='refused', tags=frozenset({'quick', *tags}),
        **rest,
    )  # fmt: skip


def _slow(name: str, about: str, **rest: Any) -> Shape:
    return Shape(name, about, tags=frozenset({'slow'}), **rest)


def _damaged(name: str, step: Step, *tags: str, **rest: Any) -> Shape:
    about = (step.__doc__ or '').splitlines()[0]
    return _refused(
        name, about, 'damaged', *tags, steps=(content.spread, step), **rest
    )


def _many(parts: int, files: int) -> tuple[Step, ...]:
    return (
        functools.partial(content.spread, parts=parts, files=files),
        content.thin_out,
    )


_SMALL = {'size': 64 * _MIB, 'block_size': 1024}

_ALL = (
    # Sizes and how full.
    _quick('root-10g', 'a root filesystem in 10 GiB', size=10 * _GIB),
    _quick(
        'scattered-2g',
        'small files, half of them deleted',
        size=2 * _GIB,
        steps=_many(16, 125),
    ),
    _slow(
        'scattered-20g',
        'many small files, half deleted',
        size=20 * _GIB,
        steps=_many(160, 250),
    ),
    _quick(
        'churned-1g',
        'written and deleted',
        size=_GIB,
        steps=(content.spread, content.churn),
    ),
    _slow(
        'churned-3g',
        'written and deleted many times',
        size=3 * _GIB,
        steps=(functools.partial(content.churn, rounds=12, files=300),),
    ),
    _quick('small-1k', '64 MiB, blocks of 1 KiB', **_SMALL),
    _quick(
        'tiny',
        'as small as it gets',
        size=2 * _MIB,
        block_size=1024,
        is_empty=True,
        features='^has_journal',
        steps=(),
    ),
    _quick(
        'full',
        'not a block is free',
        size=96 * _MIB,
        steps=(content.spread, content.fill),
    ),
    _quick('empty', 'nothing in it', is_empty=True, steps=()),
    _quick(
        'empty-10g', 'nothing in it', size=10 * _GIB, is_empty=True, steps=()
    ),
    _quick(
        'sparse-256g',
        'little in 256 GiB',
        size=256 * _GIB,
        filesystem='ext4',
        options=('-i', '4194304', '-J', 'size=64'),
    ),
    _slow(
        'sparse-1t-journal',
        'little in 1 TiB, default geometry',
        size=1 << 40,
        steps=(),
    ),
    _quick('odd-size', 'a short last group', size=300 * _MIB + 12 * 4096),
    _quick(
        'fragmented',
        'extent trees with levels',
        steps=(content.spread, content.fragment),
        **_SMALL,
    ),
    _quick(
        'small-groups',
        'groups of 8 MiB',
        size=128 * _MIB,
        options=('-g', '2048'),
    ),
    _quick(
        'many-inodes',
        'an inode for each block',
        size=256 * _MIB,
        options=('-N', '65536'),
    ),
    _quick('few-inodes', 'hardly an inode to spare', options=('-N', '1280')),
    _quick('inode-128', 'inodes without room for more', options=('-I', '128')),
    _quick('inode-512', 'inodes of 512 bytes', options=('-I', '512')),
    _quick('inode-1024', 'inodes of 1024 bytes', options=('-I', '1024')),
    # Kinds and block sizes.
    *(
        _quick(
            f'{kind}-{size // 1024}k',
            f'{kind}, blocks of {size} bytes',
            filesystem=kind,
            block_size=size,
        )
        for kind in ('ext2', 'ext3', 'ext4')
        for size in (1024, 2048, 4096)
    ),
    # Features.
    _quick('bigalloc', 'clusters of 16 blocks', features='bigalloc', steps=()),
    _quick(
        'bigalloc-8k',
        'clusters of two blocks',
        features='bigalloc',
        size=_GIB,
        options=('-C', '8192'),
    ),
    _quick(
        'bigalloc-1k',
        'clusters of 4 KiB',
        features='bigalloc',
        options=('-C', '4096'),
        size=128 * _MIB,
        block_size=1024,
    ),
    _quick(
        'meta-bg',
        'descriptors in their groups',
        features='meta_bg,^resize_inode',
        size=2 * _GIB,
    ),
    _quick(
        'meta-bg-1k',
        'descriptors in their groups',
        features='meta_bg,^resize_inode',
        size=256 * _MIB,
        block_size=1024,
    ),
    _quick('no-flex-bg', 'inode tables in their groups', features='^flex_bg'),
    _quick('inline-data', 'small files in the inodes', features='inline_data'),
    _quick(
        'inline-data-1k',
        'small files in large inodes',
        features='inline_data',
        options=('-I', '1024'),
        **_SMALL,
    ),
    _quick(
        'no-resize-inode', 'no reserved descriptors', features='^resize_inode'
    ),
    _quick('no-64bit', '32 bits for blocks', features='^64bit'),
    _quick('no-csum', 'no checksums at all', features='^metadata_csum'),
    _quick(
        'gdt-csum',
        'checksums of descriptors alone',
        features='^metadata_csum,uninit_bg',
    ),
    _quick(
        'csum-seed',
        'checksums without the UUID',
        features='metadata_csum_seed',
    ),
    _quick('quota', 'quotas of users and groups', features='quota'),
    _quick(
        'project-quota',
        'quotas of projects',
        features='quota,project',
        extended='quotatype=usrquota:grpquota:prjquota',
    ),
    _quick('orphan-file', 'a file of orphans', features='orphan_file'),
    _quick(
        'casefold',
        'a directory in which case does not matter',
        features='casefold',
        extended='encoding=utf8',
        steps=(content.fold_case, content.spread),
    ),
    _quick(
        'encrypt',
        'an encrypted file',
        features='encrypt',
        steps=(content.encrypt, content.spread),
    ),
    _quick(
        'verity',
        'a sealed file',
        features='verity',
        steps=(content.seal, content.spread),
    ),
    _quick(
        'ea-inode',
        'attributes in inodes',
        features='ea_inode',
        steps=(content.huge_attributes, content.spread),
    ),
    _quick('large-dir', 'large directories allowed', features='large_dir'),
    _quick(
        'sparse-super2',
        'two backups at most',
        features='sparse_super2,^resize_inode',
    ),
    _quick(
        'no-sparse-super',
        'a backup in each group',
        features='^sparse_super,^resize_inode',
    ),
    _quick('no-filetype', 'directories without types', features='^filetype'),
    _quick('no-journal', 'ext4 without a journal', features='^has_journal'),
    _quick(
        'large-journal',
        'a journal larger than the files',
        size=2 * _GIB,
        options=('-J', 'size=256'),
    ),
    _quick(
        'fast-commit', 'a journal with fast commits', features='fast_commit'
    ),
    _quick(
        'mmp',
        'protected from two mounts',
        steps=(content.spread, content.protect),
    ),
    _quick(
        'stride', 'laid out for RAID', extended='stride=16,stripe_width=64'
    ),
    _refused(
        'stable-inodes',
        'inodes that must not be renumbered',
        features='stable_inodes',
    ),
    # Not at rest.
    _quick(
        'needs-recovery',
        'a journal to be replayed',
        size=384 * _MIB,
        steps=(content.spread, broken.crash),
    ),
    _refused(
        'external-journal',
        'a journal elsewhere',
        features='^has_journal',
        steps=(content.spread, broken.external_journal),
    ),
    _quick(
        'boot-signature',
        'an old boot sector',
        steps=(content.spread, broken.boot_signature),
    ),
    _quick(
        'trailing-bytes',
        'a file longer than the filesystem',
        steps=(content.spread, broken.trailing_bytes),
    ),
    _quick(
        'scratched',
        'damage that preening mends',
        steps=(content.spread, broken.scratch),
    ),
    _quick(
        'error-flag',
        'the kernel met an error',
        steps=(content.spread, broken.flag_error),
    ),
    _damaged('lost-directory', broken.lose_directory, 'repairable'),
    _damaged('shared-blocks', broken.share_blocks, 'repairable'),
    _damaged('garbled-directory', broken.garble_directory, 'repairable'),
    _damaged('garbled-descriptors', broken.garble_descriptors, 'repairable'),
    _damaged('no-superblock', broken.wipe_superblock),
    _damaged('truncated', broken.truncate),
)

#: Every shape by its name.
SHAPES: Mapping[str, Shape] = {shape.name: shape for shape in _ALL}
