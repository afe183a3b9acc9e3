# SPDX-License-Identifier: Apache-2.0

"""Writing a new ext4 filesystem, in one pass over what is to be in it.

The content of files is written as it comes; what describes it follows at the
end, when it is known (see :mod:`amiclient.ext.writer.placement`). No rights
are needed, names and attributes may hold any bytes, and the result depends on
the tree only. e2fsprogs have no door for that: mke2fs reads directories of
this machine, which takes root for owners and devices, and debugfs takes a
script in which a name cannot have a newline. What is written here is checked
by e2fsck before anybody gets to see it.
"""

from collections.abc import Iterable
import contextlib
import dataclasses
import heapq
import os
import stat
import struct

from amiclient import errors
from amiclient.ext.writer import content
from amiclient.ext.writer import directories
from amiclient.ext.writer import groups as groups_
from amiclient.ext.writer import identity as identity_
from amiclient.ext.writer import inodes
from amiclient.ext.writer import nodes
from amiclient.ext.writer import outline
from amiclient.ext.writer import placement
from amiclient.ext.writer import xattrs
from amiclient import units

#: How many inodes may share a block of attributes (EXT4_XATTR_REFCOUNT_MAX).
_SHARED = 1024

#: Inodes that are written at a time.
_BATCH = 1024

_NANO = 10**9


@dataclasses.dataclass(frozen=True)
class Made:
    """What was made.

    :param size: bytes.
    :param files: of whatever type, without the root directory.
    :param uuid: as 16 bytes.
    """

    size: int
    files: int
    uuid: bytes


class Writer(content.Content):
    """A filesystem in the making.

    :param descriptor: an empty file, open for writing.
    :param size: bytes that it may get, as far as that is known.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        super().__init__(descriptor, size)
        self._shared: dict[bytes, list[int]] = {}

    def finish(self, tree: nodes.Tree, wish: identity_.Wish) -> Made:
        """Write everything but the content of files.

        :raises TooSmallError: if that does not fit into the size wished for.
        """
        self.discard(tree.released)
        added = identity_.add_lost_and_found(tree)
        identity, inode_count = identity_.identified(tree, wish)
        outline.divide(self, tree, wish, inode_count)
        members = tree.members()
        seed = identity.checksum_seed
        time = identity.time * _NANO
        records = {}
        for node in members:
            record = self._described(node, identity, seed, time)
            records[node.number] = record.rstrip(b'\0')
            # There may be many: what is in the record goes.
            node.extents, node.xattrs = [], {}
            node.body = node.digest = node.target = b''
        indirect = self.space.take_one()
        journal = self._journal(wish, inode_count, identity, records)
        geometry = self._settled(wish, inode_count)
        for number, data in self._attribute_blocks(seed):
            self.put(number, data)
        groups = groups_.Groups(
            self.space,
            geometry,
            inode_count,
            (node.number for node in members if node.is_directory),
            seed,
        )
        if groups.descriptor_blocks > self.space.table:
            raise errors.AmiError(
                'the headroom makes the filesystem larger than its metadata '
                'was laid out for',
                hint='say with --size how large it shall be, instead',
            )
        records[groups_.RESIZE_INODE] = self._resize_inode(
            groups, indirect, time
        )
        self._write_inodes(
            geometry,
            seed,
            heapq.merge(
                sorted(records.items()),
                (
                    (packed.number, self._record(packed.whole(), time))
                    for packed in tree.packed()
                ),
            ),
        )
        self._write_groups(groups, identity, journal)
        return Made(
            geometry.blocks * placement.BLOCK,
            inode_count - placement.RESERVED_INODES - added,
            identity.uuid,
        )

    def _described(
        self,
        node: nodes.Node,
        identity: groups_.Identity,
        seed: int,
        time: int,
    ) -> bytes:
        """Write what belongs to a node, and make its inode."""
        own_seed = inodes.seed(seed, node.number)
        size, flags = node.size, inodes.FLAG_EXTENTS
        if node.is_directory:
            size, flags = self._directory(node, identity, own_seed)
        elif node.is_symlink:
            size = len(node.target)
            if size <= nodes.SHORT:
                node.body, flags = node.target, 0
            else:
                self._add_block(node, node.target)
        elif not node.is_file:
            flags = 0
            if stat.S_ISCHR(node.mode) or stat.S_ISBLK(node.mode):
                node.body = inodes.device(*node.device)
        if flags & inodes.FLAG_EXTENTS:
            node.body, blocks = inodes.extent_tree(
                node.extents, self.space.take_one, own_seed
            )
            node.index_blocks = len(blocks)
            for number, data in blocks:
                self.put(number, data)
        inside, block = xattrs.packed(node.xattrs)
        if block:
            node.xattr_block = self._attribute_block(block)
        return inodes.record(
            node,
            size=size,
            blocks=sum(count for _, _, count in node.extents)
            + node.index_blocks
            + bool(block),
            flags=flags | node.flags,
            time=time,
            xattrs=inside,
        )

    def _record(self, node: nodes.Node, time: int) -> bytes:
        """Make the inode of what was packed, which has nothing else."""
        size, flags = node.size, inodes.FLAG_EXTENTS
        if node.is_symlink:
            size, flags, node.body = len(node.target), 0, node.target
        else:
            node.body, _ = inodes.extent_tree(
                node.extents, self.space.take_one, 0
            )
        return inodes.record(
            node,
            size=size,
            blocks=sum(count for _, _, count in node.extents),
            flags=flags | node.flags,
            time=time,
            xattrs=b'',
        )

    def _directory(
        self, node: nodes.Node, identity: groups_.Identity, seed: int
    ) -> tuple[int, int]:
        found = directories.Directory(
            node.number,
            node.parent,
            node.children,
            struct.unpack('<4I', identity.hash_seed),
            blocks=directories.LOST_AND_FOUND
            if node.number == groups_.LOST_AND_FOUND_INODE
            else 1,
        )
        self._add_blocks(node, found.blocks(seed))
        flags = inodes.FLAG_EXTENTS
        if found.is_hashed:
            flags |= inodes.FLAG_INDEX
        return found.block_count * placement.BLOCK, flags

    def _add_block(self, node: nodes.Node, data: bytes) -> None:
        self._add_blocks(node, [data])

    def _add_blocks(self, node: nodes.Node, blocks: list[bytes]) -> None:
        logical = 0
        for start, count in self.space.take(len(blocks)):
            node.extents.append((logical, start, count))
            self.put(start, b''.join(blocks[logical : logical + count]))
            logical += count

    def _attribute_block(self, block: bytes) -> int:
        """Find the block that has these attributes, or take one."""
        # Number and references of those that are full, then of one that is
        # not.
        users = self._shared.setdefault(block, [])
        if not users or users[-1] == _SHARED:
            users += [self.space.take_one(), 0]
        users[-1] += 1
        return users[-2]

    def _attribute_blocks(self, seed: int) -> Iterable[tuple[int, bytes]]:
        for block, users in self._shared.items():
            for number, count in zip(users[::2], users[1::2], strict=True):
                yield number, xattrs.with_checksum(block, number, count, seed)

    def _journal(
        self,
        wish: identity_.Wish,
        inode_count: int,
        identity: groups_.Identity,
        records: dict[int, bytes],
    ) -> groups_.Journal | None:
        blocks = identity_.journal_blocks(wish.journal)
        if blocks is None:
            trial = self.space
            self.space = trial.copy()
            try:
                without = self._settled(wish, inode_count).blocks
            finally:
                self.space = trial
            blocks = placement.default_journal(without)
        if not blocks:
            return None
        node = nodes.Node(stat.S_IFREG | 0o600, links=1)
        node.number = groups_.JOURNAL_INODE
        node.size = blocks * placement.BLOCK
        logical = 0
        for start, count in self.space.take(blocks):
            node.extents.append((logical, start, count))
            logical += count
        self.put(node.extents[0][1], groups_.journal_superblock(blocks))
        records[node.number] = self._described(
            node, identity, identity.checksum_seed, identity.time * _NANO
        )
        return groups_.Journal(node.body, node.size)

    def _settled(
        self, wish: identity_.Wish, inode_count: int
    ) -> placement.Geometry:
        trial = self.space.copy()
        used = placement.settle(trial, inode_count, headroom=0, size=None)
        headroom = wish.headroom.of(used.blocks * placement.BLOCK)
        headroom = -(-headroom // placement.BLOCK)
        promised = inode_count + units.inodes(headroom * placement.BLOCK)
        if wish.size is None:
            return placement.settle(
                self.space, promised, headroom=headroom, size=None
            )
        size = wish.size // placement.BLOCK
        free = max(headroom, size - trial.taken)
        # What is free beyond the headroom has inodes if those have room.
        with contextlib.suppress(placement.TooSmallError):
            return placement.settle(
                self.space,
                inode_count + units.inodes(free * placement.BLOCK),
                headroom=headroom,
                size=size,
            )
        return placement.settle(
            self.space, promised, headroom=headroom, size=size
        )

    def _resize_inode(
        self, groups: groups_.Groups, indirect: int, time: int
    ) -> bytes:
        blocks, pointers, count = groups.reserved_descriptors()
        for number, data in blocks.items():
            self.put(number, data)
        self.put(indirect, pointers)
        node = nodes.Node(stat.S_IFREG | 0o600, links=1)
        node.number = groups_.RESIZE_INODE
        node.body = bytes(13 * 4) + struct.pack('<I', indirect)
        return inodes.record(
            node,
            size=groups_.RESIZE_SIZE,
            blocks=1 + count,
            flags=0,
            time=time,
            xattrs=b'',
        )

    def _write_inodes(
        self,
        geometry: placement.Geometry,
        seed: int,
        records: Iterable[tuple[int, bytes]],
    ) -> None:
        """Write inodes, many at a time.

        :param records: by their numbers, which ascend.
        """
        first, batch = 1, bytearray()

        def flush() -> None:
            if batch:
                inodes.seal(batch, first, seed)
                group, index = divmod(first - 1, geometry.inodes)
                start = geometry.tables[group] * placement.BLOCK
                self.write(start + index * inodes.SIZE, bytes(batch))

        for number, data in records:
            count = len(batch) // inodes.SIZE
            if (
                number != first + count
                or count == _BATCH
                or not (number - 1) % geometry.inodes
            ):
                flush()
                first, batch = number, bytearray()
            batch += data.ljust(inodes.SIZE, b'\0')
        flush()

    def _write_groups(
        self,
        groups: groups_.Groups,
        identity: groups_.Identity,
        journal: groups_.Journal | None,
    ) -> None:
        geometry = groups.geometry
        for number, data in groups.bitmaps:
            self.put(number, data)
        for group in (0, *placement.backups(geometry.groups)):
            first = group * geometry.per_group * placement.BLOCK
            block = groups.superblock(identity, journal, group)
            # Before the first one, there is room for a boot sector.
            self.write(first + (0 if group else 1024), block)
            self.write(first + placement.BLOCK, groups.descriptors)
        os.truncate(self.descriptor, geometry.blocks * placement.BLOCK)
