# SPDX-License-Identifier: Apache-2.0

"""Damaged and hostile filesystems, each made for one reason.

None is stored: each is a sound one of :mod:`amiclient.tests.hostile.seeds`, to
which something was done. Checksums are computed anew, so that the damage gets
through to who has to cope with it.
"""

from collections.abc import Callable, Mapping
import dataclasses
import pathlib
import struct

from amiclient.tests.hostile import patch as hostile_patch
from amiclient.tests.hostile import seeds

Damage = Callable[[hostile_patch.Patch], None]

_EXTENTS = 0x80000
#: Inodes that every filesystem has: the root, that of resizing, the journal.
_ROOT, _RESIZE, _JOURNAL = 2, 7, 8


@dataclasses.dataclass(frozen=True)
class Hostile:
    """One of them.

    :param seed: what it is made of.
    :param damage: what is done to that.
    :param expected: words of the refusal to shrink it; empty if it can be
        shrunk all the same, because e2fsck mends that without being asked.
    """

    seed: str
    damage: Damage
    expected: str = 'damaged'


def make(name: str, directory: pathlib.Path) -> pathlib.Path:
    """Make one.

    :param directory: an existing one.
    """
    found = CORPUS[name]
    image = seeds.make(found.seed, directory).rename(directory / f'{name}.img')
    with hostile_patch.Patch(image) as patch:
        found.damage(patch)
    return image


def _superblock(offset: int, layout: str, *values: int | bytes) -> Damage:
    return lambda patch: patch.superblock(offset, layout, *values)


def _descriptor(group: int, offset: int, layout: str, *values: int) -> Damage:
    return lambda patch: patch.descriptor(group, offset, layout, *values)


def _inode(number: int, offset: int, layout: str, *values: int) -> Damage:
    return lambda patch: patch.inode(number, offset, layout, *values)


def _file(name: bytes, offset: int, layout: str, *values: int) -> Damage:
    def damage(patch: hostile_patch.Patch) -> None:
        patch.inode(patch.number(name), offset, layout, *values)

    return damage


def _all(*damages: Damage) -> Damage:
    def damage(patch: hostile_patch.Patch) -> None:
        for one in damages:
            one(patch)

    return damage


def _huge_and_sparse(patch: hostile_patch.Patch) -> None:
    """Claim 4 TiB, with a file of that size that is a hole."""
    count = 1 << 32
    per_group, inodes = 8192, 256
    patch.superblock(0x0, 'I', count // per_group * inodes)
    patch.superblock(0x4, 'I', 0)
    patch.superblock(0x150, 'I', 1)
    patch.superblock(0x28, 'I', inodes)
    patch.truncate(count * patch.block_size)


def _shared_bitmaps(patch: hostile_patch.Patch) -> None:
    """Have all groups use one bitmap, in which every other block is used."""
    first = patch.read(patch.descriptor_at(0), 4)
    for group in range(patch.groups):
        patch.write(patch.descriptor_at(group), first)
    (block,) = struct.unpack('<I', first)
    patch.write(block * patch.block_size, b'\x55' * patch.block_size)


def _extent_loop(patch: hostile_patch.Patch) -> None:
    """Have an extent tree block be its own child."""
    number = patch.number(b'/holes')
    block = patch.block_count - 5
    node = struct.pack('<HHHHI', 0xF30A, 1, 4, 1, 0)
    node += struct.pack('<IIHH', 0, block, 0, 0)
    patch.inode(number, 0x28, '24s', node)
    node = struct.pack('<HHHHI', 0xF30A, 1, 84, 1, 0) + node[12:]
    patch.write(block * patch.block_size, node)


def _overlapping_extents(patch: hostile_patch.Patch) -> None:
    """Map a file's blocks twice, to what is another file's."""
    number = patch.number(b'/holes')
    node = struct.pack('<HHHHI', 0xF30A, 2, 4, 0, 0)
    node += struct.pack('<IHHI', 0, 30, 0, 100)
    node += struct.pack('<IHHI', 10, 30, 0, 110)
    patch.inode(number, 0x28, '36s', node)


def _indirect_loop(patch: hostile_patch.Patch) -> None:
    """Have a triply indirect block point to itself throughout."""
    number = patch.number(b'/holes')
    block = patch.block_count - 5
    patch.inode(number, 0x28 + 4 * 14, 'I', block)
    patch.inode(number, 0x4, 'I', 0xFFFFF000)
    patch.write(
        block * patch.block_size,
        struct.pack('<I', block) * (patch.block_size // 4),
    )


def _directory_loop(patch: hostile_patch.Patch) -> None:
    """Have a directory contain the one that it is in."""
    inner, outer = patch.number(b'/deep/er'), patch.number(b'/deep')
    for block, (kind, number) in patch.owned().items():
        if kind == 'directory' and number == inner:
            at = block * patch.block_size
            data = patch.read(at, patch.block_size)
            patch.put(at + data.index(b'link') - 8, 'I', outer)


def _rename(old: bytes, new: bytes) -> Damage:
    """Change a name in place, to one that is as long."""

    def damage(patch: hostile_patch.Patch) -> None:
        for block, (kind, _) in patch.owned().items():
            at = block * patch.block_size
            data = patch.read(at, patch.block_size)
            if kind == 'directory' and old in data:
                patch.write(at, data.replace(old, new))

    return damage


def _garbage_journal(patch: hostile_patch.Patch) -> None:
    """Say that the journal must be replayed, which holds garbage."""
    (incompat,) = struct.unpack('<I', patch.read(1024 + 0x60, 4))
    patch.superblock(0x60, 'I', incompat | 4)
    number = patch.inode_at(_JOURNAL)
    block = struct.unpack('<I', patch.read(number + 0x28 + 20, 4))[0]
    head = struct.pack('>12I', 0xC03B3998, 4, 1, 1024, 1024, 1, 5, 1, 0, 0, 0,
                       0)  # fmt: skip
    patch.write(block * patch.block_size, head)
    for step in range(1, 30):
        entry = struct.pack('>3I', 0xC03B3998, step % 6, step)
        patch.write(
            (block + step) * patch.block_size,
            (entry + b'\xff\x00\x07' * 400)[: patch.block_size],
        )


_ESCAPE = b'\x1b]0;owned\x07\x1b[2J'

#: All of them, by name.
CORPUS: Mapping[str, Hostile] = {
    # Superblocks.
    'block-size-huge': Hostile('plain', _superblock(0x18, 'I', 22)),
    'block-size-wraps': Hostile('plain', _superblock(0x18, 'I', 0xFFFFFFFF)),
    'cluster-below-block': Hostile(
        'plain-4k',
        _all(_superblock(0x1C, 'I', 0), _superblock(0x64, 'I', 0x279)),
    ),
    'no-blocks': Hostile('plain', _superblock(0x4, 'I', 0)),
    'blocks-beyond-the-file': Hostile(
        'plain', _superblock(0x150, 'I', 0xFFFF), 'damaged'
    ),
    'no-blocks-per-group': Hostile('plain', _superblock(0x20, 'I', 0)),
    'one-block-per-group': Hostile('plain', _superblock(0x20, 'I', 1)),
    'no-inodes-per-group': Hostile('plain', _superblock(0x28, 'I', 0)),
    'no-inodes': Hostile('plain', _superblock(0x0, 'I', 0)),
    'inodes-not-of-groups': Hostile('plain', _superblock(0x0, 'I', 12345)),
    'inode-size-odd': Hostile('plain', _superblock(0x58, 'H', 255)),
    'inode-size-zero': Hostile('plain', _superblock(0x58, 'H', 0)),
    'groups-of-metadata': Hostile(
        'plain',
        _all(
            _superblock(0x58, 'H', 1024),
            _superblock(0x0, 'I', 8192),
            _superblock(0x28, 'I', 8192),
        ),
    ),
    'first-inode-huge': Hostile(
        'plain', _superblock(0x54, 'I', 0x7FFFFFFF)
    ),
    'descriptor-size-odd': Hostile('plain', _superblock(0xFE, 'H', 3)),
    'descriptor-size-wide': Hostile(
        'plain', _superblock(0xFE, 'H', 1024), ''
    ),
    'reserved-descriptors': Hostile('plain', _superblock(0xCE, 'H', 0xFFFF)),
    'flex-huge': Hostile('plain', _superblock(0x174, 'B', 0xFF)),
    'checksum-unknown': Hostile('sums', _superblock(0x175, 'B', 9)),
    'meta-bg-far': Hostile(
        'meta-bg', _superblock(0x104, 'I', 0xFFFFFFFF)
    ),
    'backups-far': Hostile(
        'super2', _superblock(0x24C, 'II', 0xFFFFFFFF, 0xFFFFFFFE), ''
    ),
    'encoding-unknown': Hostile(
        'plain',
        _all(_superblock(0x60, 'I', 0x202C2), _superblock(0x27C, 'H', 99)),
    ),
    'features-unknown': Hostile(
        'plain', _superblock(0x60, 'I', 0x80000000),
        'it has unsupported feature',
    ),
    'journal-elsewhere': Hostile(
        'plain', _superblock(0xE0, 'I', 0xFFFFFF), ''
    ),
    'journal-is-root': Hostile(
        'plain', _superblock(0xE0, 'I', _ROOT), ''
    ),
    'mmp-for-ever': Hostile(
        'plain',
        _all(
            _superblock(0x60, 'I', 0x3C2),
            _superblock(0x166, 'H', 0xFFFF),
            _superblock(0x168, 'Q', 30),
        ),
    ),
    'free-counts-lie': Hostile(
        'plain',
        _all(_superblock(0xC, 'I', 1), _superblock(0x10, 'I', 3)),
        '',
    ),
    'label-escapes': Hostile('plain', _superblock(0x78, '16s', _ESCAPE), ''),
    'mounted-escapes': Hostile('plain', _superblock(0x88, '16s', _ESCAPE), ''),
    # e2fsck -n asks, and is content; e2fsck -p stops at it.
    'extra-isize-odd': Hostile('bigalloc', _superblock(0x15E, 'H', 0x1F)),
    'no-uuid': Hostile('plain', _superblock(0x68, '16s', bytes(16)), ''),
    'huge-and-sparse': Hostile('plain', _huge_and_sparse),
    # Groups.
    'bitmap-far': Hostile('sums', _descriptor(0, 0x0, 'I', 0xFFFFFF)),
    'bitmap-zero': Hostile('plain', _descriptor(0, 0x0, 'I', 0)),
    'bitmap-is-superblock': Hostile('plain', _descriptor(0, 0x0, 'I', 1)),
    'table-far': Hostile('sums', _descriptor(0, 0x8, 'I', 0xFFFFFF)),
    'table-high': Hostile('sums', _descriptor(0, 0x28, 'I', 7)),
    'table-over-bitmap': Hostile('plain-groups', _descriptor(2, 0x8, 'I', 60)),
    'groups-shared': Hostile('plain-groups', _shared_bitmaps),
    'all-uninitialised': Hostile(
        'sums-groups',
        _all(*(_descriptor(n, 0x12, 'H', 7) for n in range(6))),
    ),
    # Inodes and trees.
    'root-is-a-file': Hostile('plain', _inode(_ROOT, 0x0, 'H', 0o100644)),
    'root-is-gone': Hostile('plain', _inode(_ROOT, 0x0, 'HHI', 0, 0, 0)),
    'journal-garbage': Hostile('plain', _garbage_journal),
    'journal-short': Hostile(
        'ext3', _inode(_JOURNAL, 0x4, 'I', 1024), ''
    ),
    'resize-inode': Hostile('plain', _inode(_RESIZE, 0x28, '15I', *[9] * 15)),
    'mode-unknown': Hostile('plain', _file(b'/holes', 0x0, 'H', 0xF1A4)),
    'size-huge': Hostile(
        'plain', _file(b'/holes', 0x6C, 'I', 0x7FFFFFFF), ''
    ),
    'extent-magic': Hostile('sums', _file(b'/holes', 0x28, 'H', 0xBEEF)),
    'extent-depth': Hostile('sums', _file(b'/holes', 0x2E, 'H', 60000)),
    'extent-count': Hostile('sums', _file(b'/holes', 0x2A, 'H', 60000)),
    'extent-loop': Hostile('plain', _extent_loop),
    'extents-overlap': Hostile('sums', _overlapping_extents),
    'indirect-loop': Hostile('ext2', _indirect_loop),
    'directory-loop': Hostile('plain', _directory_loop),
    'attributes-far': Hostile('plain', _file(b'/holes', 0x68, 'I', 0xFFFFFF)),
    # Names. Those with a slash or nothing in them are no names at all.
    'name-with-slashes': Hostile(
        'sums', _rename(b'scattered', b'../../etc')
    ),
    'name-escapes': Hostile('sums', _rename(b'scattered', b'\x1b[2Jx\n\r"\''),
                            ''),
    'name-not-utf8': Hostile(
        'sums', _rename(b'scattered', b'\xff\xfe\x80' * 3), ''
    ),
    'name-of-command': Hostile('sums', _rename(b'scattered', b'-w <8>"|!'),
                               ''),
}  # fmt: skip
