# SPDX-License-Identifier: Apache-2.0

"""How large a filesystem will be, before what describes its files is laid out.

Where the copies of the superblock lie, and so where nothing else can, depends
on how many blocks a group has. A group has as many as it can have, unless
there are so many inodes that most groups would be empty.
"""

from collections.abc import Iterator, Sequence

from amiclient.ext.writer import content
from amiclient.ext.writer import directories
from amiclient.ext.writer import identity
from amiclient.ext.writer import inodes
from amiclient.ext.writer import nodes
from amiclient.ext.writer import placement
from amiclient.ext.writer import xattrs
from amiclient import sparse
from amiclient import units


def divide(
    writer: content.Content,
    tree: nodes.Tree,
    wish: identity.Wish,
    inode_count: int,
) -> None:
    """Choose how many blocks a group has, and make room for what lies where.

    :param writer: has the content of all files, and nothing else yet.
    :param tree: all files, which have their numbers.
    :param inode_count: inodes in use, with the reserved ones.
    """
    space = writer.space
    size = None if wish.size is None else wish.size // placement.BLOCK
    blocks = space.end + inode_count // placement.INODES_PER_BLOCK
    more = _expected(tree)
    journal = identity.journal_blocks(wish.journal)
    if journal is None:
        journal = placement.default_journal(max(blocks + more, size or 0))
    headroom = wish.headroom.of((blocks + more + journal) * placement.BLOCK)
    headroom //= placement.BLOCK
    spare = units.inodes(max(headroom, size or 0) * placement.BLOCK)
    per_group = placement.blocks_per_group(
        space,
        more + journal,
        inode_count + spare,
        headroom=headroom,
        size=size,
    )
    if per_group < placement.PER_GROUP:
        runs = space.regroup(per_group)
        for _, node in tree.walk():
            node.extents = list(_cleared(writer, node.extents, runs))
        sparse.clear(writer.descriptor, sparse.bytes_of(runs, placement.BLOCK))


def _expected(tree: nodes.Tree) -> int:
    """Tell the blocks that describe files, or a few more."""
    # One is that of the resize inode.
    blocks = 1
    attributes = set()
    # Those that are packed have no blocks but for their content.
    for node in tree.members():
        if node.is_directory:
            blocks += directories.most_blocks(node.children)
        elif node.is_symlink:
            blocks += len(node.target) > nodes.SHORT
        if node.xattrs:
            attributes.add(xattrs.packed(node.xattrs)[1])
        blocks += inodes.most_index_blocks(len(node.extents))
    return blocks + len(attributes)


def _cleared(
    writer: content.Content,
    extents: Sequence[nodes.Extent],
    runs: Sequence[sparse.Run],
) -> Iterator[nodes.Extent]:
    """Move the content of a file out of some blocks."""
    for logical, start, count in extents:
        whole = [(start, start + count)]
        kept = sparse.subtract(whole, runs)
        for first, end in sorted(kept + sparse.subtract(whole, kept)):
            places = [(first, end - first)]
            if (first, end) not in kept:
                places = writer.space.take(end - first)
            for place, length in places:
                if place != first:
                    writer.move(first, place, length)
                yield logical, place, length
                logical, first = logical + length, first + length
