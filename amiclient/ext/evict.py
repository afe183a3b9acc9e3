# SPDX-License-Identifier: Apache-2.0

"""Taking the last block group's metadata into that group.

With flex_bg, bitmaps and inode tables of up to 16 groups lie in the first of
them. resize2fs, when it drops a group, can move nothing to where that group's
metadata lay until it is through; so a filesystem whose data would fill just
these blocks cannot lose its last group. Once the metadata lies in the group
itself, it goes with it.
"""

import os
import pathlib

from amiclient.ext import e2fsprogs
from amiclient.ext import geometry
from amiclient.ext.layout import Layout
from amiclient.ext import superblock
from amiclient import sparse


def room(measured: geometry.Geometry) -> int | None:
    """Tell the size that a filesystem must have for its last group's metadata.

    :returns: blocks; None where there is nothing to move, or no room for it.
    """
    found = measured.superblock
    count = found.group_count
    start = found.first_block(count - 1)
    below = any(
        first < start
        for first, _, number in measured.metadata
        if number == count - 1
    )
    wanted = found.block_count + found.inode_blocks + 2
    end = start + found.blocks_per_group
    if count > 1 and below and found.cluster_ratio == 1 and wanted <= end:
        return wanted
    return None


def evict(path: pathlib.Path, tools: e2fsprogs.Toolbox) -> bool:
    """Move the last group's metadata to free blocks at its end.

    :returns: whether that worked, and the filesystem is in order.
    """
    found = superblock.read(path)
    with sparse.opened(path, os.O_RDWR) as descriptor:
        layout = Layout(descriptor, found)
        group = layout.groups[-1]
        table = found.inode_blocks
        start = found.block_count - table - 2
        if not any(first <= start for first, end in layout.free()[-1:]):
            return False
        size = found.block_size
        data = (
            layout.blocks(group.inode_table, table)
            + layout.blocks(group.inode_bitmap)
            + layout.blocks(group.block_bitmap)
        )
        os.pwrite(descriptor, data, start * size)
    number = group.number
    tools.edit(
        path,
        (
            f'freeb {group.inode_table} {table}',
            f'freeb {group.inode_bitmap}',
            f'freeb {group.block_bitmap}',
            f'setb {start} {table + 2}',
            f'set_bg {number} inode_table {start}',
            f'set_bg {number} inode_bitmap {start + table}',
            f'set_bg {number} block_bitmap {start + table + 1}',
            f'set_bg {number} checksum calc',
        ),
    )
    # debugfs leaves the groups' counts of free blocks as they were.
    return tools.preen(path)
