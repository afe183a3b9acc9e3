# SPDX-License-Identifier: Apache-2.0

"""Cutting the block groups at the end off that hold nothing.

resize2fs looks at every single block of the filesystem that it shrinks, in
use or not, which takes it seconds a TiB. Groups at the end that hold no file
can be cut off by changing the superblock's counts; e2fsck then frees what was
their metadata. That is done to copies only, and what is left is compared.
"""

import os
import pathlib

from amiclient.ext import e2fsprogs
from amiclient.ext import geometry
from amiclient.ext import layout as layout_
from amiclient.ext import superblock
from amiclient import sparse

#: Groups of a flex group: fewer at the end would be a special case.
_FLEX = 16

#: It pays if so many groups go: 64 GiB of them, in blocks of 4 KiB.
_WORTHWHILE = 512

_ODD = (
    superblock.COMPAT_SPARSE_SUPER2,
    superblock.INCOMPAT_META_BG,
    superblock.RO_COMPAT_BIGALLOC,
)


def groups_to_keep(path: pathlib.Path) -> int | None:
    """Tell how many groups there are up to the last that holds anything.

    :returns: their number; None if cutting the rest off does not pay.
    """
    found = superblock.read(path)
    if any(
        word & odd
        for word, odd in zip(
            (found.compat, found.incompat, found.ro_compat), _ODD, strict=True
        )
    ):
        return None
    with sparse.opened(path, os.O_RDONLY) as descriptor:
        layout = layout_.Layout(descriptor, found)
        data = sparse.subtract(layout.in_use(), layout.metadata())
        last = 0
        if data:
            end = data[-1][1] - 1 - found.first_data_block
            last = max(0, end // found.blocks_per_group)
        for group in reversed(layout.groups[last + 1 :]):
            if layout.inode_runs(group):
                last = group.number
                break
    keep = -(-(last + 1) // _FLEX) * _FLEX
    return keep if found.group_count - keep >= _WORTHWHILE else None


def cut(path: pathlib.Path, keep: int, tools: e2fsprogs.Toolbox) -> bool:
    """Cut all groups but the first ones off.

    :param keep: how many there shall be.
    :returns: whether all that was in use is still there.
    """
    found = superblock.read(path)
    before = _content(path, found)
    blocks = found.first_block(keep)
    inodes = keep * found.inodes_per_group
    reserved = found.reserved_blocks * blocks // found.block_count
    used = found.block_count - found.free_blocks
    tools.edit(
        path,
        (
            f'ssv blocks_count {blocks}',
            f'ssv r_blocks_count {reserved}',
            f'ssv free_blocks_count {max(0, blocks - used)}',
            f'ssv inodes_count {inodes}',
            f'ssv free_inodes_count {inodes - found.used_inodes}',
        ),
    )
    os.truncate(path, blocks * found.block_size)
    # Whether that was right is checked at the end, when it is quicker.
    tools.settle(path)
    data, number = before
    left, same = _content(path, superblock.read(path))
    # e2fsck indexes directories that are not (mke2fs -d makes such), which
    # takes some blocks more.
    return same == number and data <= left <= data + data // 50 + 64


def _content(
    path: pathlib.Path, found: superblock.Superblock
) -> tuple[int, int]:
    with sparse.opened(path, os.O_RDONLY) as descriptor:
        measured = geometry.measure(layout_.Layout(descriptor, found))
    return measured.data, measured.inodes
