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

from collections.abc import Callable, Iterable, Iterator, Sequence
import contextlib
import dataclasses
import hashlib
import heapq
import os
import stat
import struct

from amiclient import errors
from amiclient.ext import inodes
from amiclient.ext.writer import directories
from amiclient.ext.writer import groups
from amiclient.ext.writer import nodes
from amiclient.ext.writer import placement
from amiclient.ext.writer import records
from amiclient import sparse
from amiclient import units

#: How many inodes may share a block of attributes (EXT4_XATTR_REFCOUNT_MAX).
_SHARED = 1024

#: Inodes that are written at a time.
_BATCH = 1024

_NANO = 10**9

#: Bytes that are read and written at a time.
_CHUNK = 1 << 20
_ZEROS = bytes(_CHUNK)

#: What a file can have at most: its blocks have 32-bit numbers.
_LARGEST_FILE = (2**32 - 1) * placement.BLOCK

#: Reads some bytes of a file: offset and how many.
Read = Callable[[int, int], bytes]


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


class Writer:
    """A filesystem in the making.

    :param descriptor: an empty file, open for writing.
    :param size: bytes that it may get, as far as that is known.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        self.descriptor = descriptor
        self.space = placement.Space(placement.table_blocks(size))
        self._shared: dict[bytes, list[int]] = {}

    def store(
        self,
        node: nodes.Node,
        size: int,
        ranges: Iterable[tuple[int, int]],
        read: Read,
    ) -> None:
        """Write the content of a regular file.

        :param size: bytes.
        :param ranges: where it has data, as offset and length, ascending;
            what is between them are holes.
        :param read: is asked for them one after the other.
        """
        if size > _LARGEST_FILE:
            raise nodes.PathError('the file is too large for ext4')
        node.size = size
        digest = hashlib.sha256(size.to_bytes(8, 'little'))
        ranges = [r for r in ranges if r[1]]
        for first, end in _spans(ranges):
            for start, count in self.space.take(end - first):
                node.extents.append((first, start, count))
                first += count
        place = iter(node.extents)
        extent = next(place, (0, 0, 0))
        for offset, length in ranges:
            digest.update(struct.pack('<QQ', offset, length))
            while length:
                logical, physical, count = extent
                inside = offset - logical * placement.BLOCK
                if inside >= count * placement.BLOCK:
                    extent = next(place)
                    continue
                part = min(length, count * placement.BLOCK - inside, _CHUNK)
                data = read(offset, part)
                digest.update(data)
                self.write(physical * placement.BLOCK + inside, data)
                offset, length = offset + part, length - part
        node.digest = digest.digest()

    def store_punched(self, node: nodes.Node, size: int, read: Read) -> None:
        """Write the content of a regular file, with holes for many zeros.

        :param size: bytes.
        :param read: is asked for all of them, in order.
        """
        if size > _LARGEST_FILE:
            raise nodes.PathError('the file is too large for ext4')
        node.size = size
        digest = hashlib.sha256(size.to_bytes(8, 'little'))
        for offset in range(0, size, _CHUNK):
            data = read(offset, min(_CHUNK, size - offset))
            digest.update(data)
            if data == _ZEROS:
                continue
            blocks = -(-len(data) // placement.BLOCK)
            for start, count in self.space.take(blocks):
                first = offset // placement.BLOCK
                piece = data[: count * placement.BLOCK]
                self.write(start * placement.BLOCK, piece)
                data, offset = data[len(piece) :], offset + len(piece)
                if node.extents:
                    before, there, length = node.extents[-1]
                    if (before + length, there + length) == (first, start):
                        node.extents.pop()
                        first, start, count = before, there, length + count
                node.extents.append((first, start, count))
        node.digest = digest.digest()

    def discard(self, released: Iterable[nodes.Node]) -> None:
        """Take back the blocks of files that have no name any more."""
        for node in released:
            runs = [(first, first + n) for _, first, n in node.extents]
            sparse.clear(
                self.descriptor, sparse.bytes_of(runs, placement.BLOCK)
            )
            for _, start, count in node.extents:
                self.space.give_back(start, count)
            node.extents = []

    def put(self, number: int, data: bytes) -> None:
        self.write(number * placement.BLOCK, data)

    def move(self, number: int, to: int, count: int) -> None:
        """Copy some blocks to where nothing is."""
        for done in range(0, count * placement.BLOCK, _CHUNK):
            length = min(_CHUNK, count * placement.BLOCK - done)
            data = os.pread(
                self.descriptor, length, number * placement.BLOCK + done
            )
            self.write(to * placement.BLOCK + done, data)

    def write(self, offset: int, data: bytes) -> None:
        sparse.write_all(self.descriptor, data, offset)

    def finish(self, tree: nodes.Tree, wish: groups.Wish) -> Made:
        """Write everything but the content of files.

        :raises TooSmallError: if that does not fit into the size wished for.
        """
        self.discard(tree.released)
        added = groups.add_lost_and_found(tree)
        identity, inode_count = groups.identified(tree, wish)
        _divide(self, tree, wish, inode_count)
        members = tree.members()
        seed = identity.checksum_seed
        time = identity.time * _NANO
        written = {}
        for node in members:
            record = self._described(node, identity, seed, time)
            written[node.number] = record.rstrip(b'\0')
            # There may be many: what is in the record goes.
            node.extents, node.xattrs = [], {}
            node.body = node.digest = node.target = b''
        indirect = self.space.take_one()
        journal = self._journal(wish, inode_count, identity, written)
        placed = self._settled(wish, inode_count)
        for number, data in self._attribute_blocks(seed):
            self.put(number, data)
        final = groups.Groups(
            self.space,
            placed,
            inode_count,
            (node.number for node in members if node.is_directory),
            seed,
        )
        if final.descriptor_blocks > self.space.table:
            raise errors.AmiError(
                'the headroom is too large for the metadata, which is already '
                'placed',
                hint='use --size in place of --headroom',
            )
        written[groups.RESIZE_INODE] = self._resize_inode(
            final, indirect, time
        )
        self._write_inodes(
            placed,
            seed,
            heapq.merge(
                sorted(written.items()),
                (
                    (packed.number, self._record(packed.whole(), time))
                    for packed in tree.packed()
                ),
            ),
        )
        self._write_groups(final, identity, journal)
        return Made(
            placed.blocks * placement.BLOCK,
            inode_count - placement.RESERVED_INODES - added,
            identity.uuid,
        )

    def _described(
        self,
        node: nodes.Node,
        identity: groups.Identity,
        seed: int,
        time: int,
    ) -> bytes:
        own_seed = records.seed(seed, node.number)
        size, flags = node.size, inodes.EXTENTS
        if node.is_directory:
            size, flags = self._directory(node, identity, own_seed)
        elif node.is_symlink:
            size = len(node.target)
            if size <= nodes.SHORT:
                node.body, flags = node.target, 0
            else:
                self._add_blocks(node, [node.target])
        elif not node.is_file:
            flags = 0
            if stat.S_ISCHR(node.mode) or stat.S_ISBLK(node.mode):
                node.body = records.device(*node.device)
        if flags & inodes.EXTENTS:
            node.body, blocks = records.extent_tree(
                node.extents, self.space.take_one, own_seed
            )
            node.index_blocks = len(blocks)
            for number, data in blocks:
                self.put(number, data)
        inside, block = records.pack_xattrs(node.xattrs)
        if block:
            node.xattr_block = self._attribute_block(block)
        return records.record(
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
        size, flags = node.size, inodes.EXTENTS
        if node.is_symlink:
            size, flags, node.body = len(node.target), 0, node.target
        else:
            node.body, _ = records.extent_tree(
                node.extents, self.space.take_one, 0
            )
        return records.record(
            node,
            size=size,
            blocks=sum(count for _, _, count in node.extents),
            flags=flags | node.flags,
            time=time,
            xattrs=b'',
        )

    def _directory(
        self, node: nodes.Node, identity: groups.Identity, seed: int
    ) -> tuple[int, int]:
        found = directories.DirectoryBlocks(
            node.number,
            node.parent,
            node.children,
            struct.unpack('<4I', identity.hash_seed),
            blocks=directories.LOST_AND_FOUND
            if node.number == groups.LOST_AND_FOUND_INODE
            else 1,
        )
        self._add_blocks(node, found.blocks(seed))
        flags = inodes.EXTENTS
        if found.is_hashed:
            flags |= inodes.INDEX
        return found.block_count * placement.BLOCK, flags

    def _add_blocks(self, node: nodes.Node, blocks: list[bytes]) -> None:
        logical = 0
        for start, count in self.space.take(len(blocks)):
            node.extents.append((logical, start, count))
            self.put(start, b''.join(blocks[logical : logical + count]))
            logical += count

    def _attribute_block(self, block: bytes) -> int:
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
                yield number, records.seal_xattrs(block, number, count, seed)

    def _journal(
        self,
        wish: groups.Wish,
        inode_count: int,
        identity: groups.Identity,
        written: dict[int, bytes],
    ) -> nodes.Node | None:
        blocks = groups.journal_blocks(wish.options.journal)
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
        node.number = groups.JOURNAL_INODE
        node.size = blocks * placement.BLOCK
        logical = 0
        for start, count in self.space.take(blocks):
            node.extents.append((logical, start, count))
            logical += count
        self.put(node.extents[0][1], groups.journal_superblock(blocks))
        written[node.number] = self._described(
            node, identity, identity.checksum_seed, identity.time * _NANO
        )
        return node

    def _settled(
        self, wish: groups.Wish, inode_count: int
    ) -> placement.Placement:
        trial = self.space.copy()
        used = placement.settle(trial, inode_count, headroom=0, size=None)
        headroom = wish.options.headroom.of(used.blocks * placement.BLOCK)
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
        self, final: groups.Groups, indirect: int, time: int
    ) -> bytes:
        blocks, pointers, count = final.reserved_descriptors()
        for number, data in blocks.items():
            self.put(number, data)
        self.put(indirect, pointers)
        node = nodes.Node(stat.S_IFREG | 0o600, links=1)
        node.number = groups.RESIZE_INODE
        node.body = bytes(13 * 4) + struct.pack('<I', indirect)
        return records.record(
            node,
            size=groups.RESIZE_SIZE,
            blocks=1 + count,
            flags=0,
            time=time,
            xattrs=b'',
        )

    def _write_inodes(
        self,
        placed: placement.Placement,
        seed: int,
        written: Iterable[tuple[int, bytes]],
    ) -> None:
        """Write inodes, many at a time.

        :param written: by their numbers, which ascend.
        """
        first, batch = 1, bytearray()

        def flush() -> None:
            if batch:
                records.seal(batch, first, seed)
                group, index = divmod(first - 1, placed.inodes)
                start = placed.tables[group] * placement.BLOCK
                self.write(start + index * records.SIZE, bytes(batch))

        for number, data in written:
            count = len(batch) // records.SIZE
            if (
                number != first + count
                or count == _BATCH
                or not (number - 1) % placed.inodes
            ):
                flush()
                first, batch = number, bytearray()
            batch += data.ljust(records.SIZE, b'\0')
        flush()

    def _write_groups(
        self,
        final: groups.Groups,
        identity: groups.Identity,
        journal: nodes.Node | None,
    ) -> None:
        placed = final.placed
        for number, data in final.bitmaps:
            self.put(number, data)
        for group in (0, *placement.backups(placed.groups)):
            first = group * placed.per_group * placement.BLOCK
            block = final.superblock(identity, journal, group)
            # Before the first one, there is room for a boot sector.
            self.write(first + (0 if group else 1024), block)
            self.write(first + placement.BLOCK, final.descriptors)
        os.truncate(self.descriptor, placed.blocks * placement.BLOCK)


def _divide(
    writer: Writer,
    tree: nodes.Tree,
    wish: groups.Wish,
    inode_count: int,
) -> None:
    """Choose how many blocks a group has, and make room for what lies where.

    Where the copies of the superblock lie, and so where nothing else can,
    depends on how many blocks a group has. A group has as many as it can have,
    unless there are so many inodes that most groups would be empty.

    :param writer: has the content of all files, and nothing else yet.
    :param tree: all files, which have their numbers.
    :param inode_count: inodes in use, with the reserved ones.
    """
    space = writer.space
    size = None if wish.size is None else wish.size // placement.BLOCK
    blocks = space.end + inode_count // placement.INODES_PER_BLOCK
    more = _expected(tree)
    journal = groups.journal_blocks(wish.options.journal)
    if journal is None:
        journal = placement.default_journal(max(blocks + more, size or 0))
    size_with_none = (blocks + more + journal) * placement.BLOCK
    headroom = wish.options.headroom.of(size_with_none) // placement.BLOCK
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
            attributes.add(records.pack_xattrs(node.xattrs)[1])
        blocks += records.most_index_blocks(len(node.extents))
    return blocks + len(attributes)


def _cleared(
    writer: Writer,
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


def _spans(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    for offset, length in ranges:
        first = offset // placement.BLOCK
        end = -(-(offset + length) // placement.BLOCK)
        if spans and first <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((first, end))
    return spans
