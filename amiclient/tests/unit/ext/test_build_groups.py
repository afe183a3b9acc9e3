# SPDX-License-Identifier: Apache-2.0

"""New filesystems with many inodes: how groups and free inodes come about."""

from collections.abc import Iterable
import os
import stat
import tracemalloc

from amiclient.ext import shrink
from amiclient.ext import superblock
from amiclient.ext.writer import checksums
from amiclient.ext.writer import groups
from amiclient.ext.writer import nodes
from amiclient.ext.writer import placement
from amiclient.ext.writer.writer import Writer
from amiclient import process
from amiclient.source import probe
from amiclient import sparse
from amiclient.tests import base
from amiclient import units

_MIB = 1 << 20
_EMPTY = stat.S_IFREG | 0o644


class BuildCase(base.TestCase):
    """A test that builds of nodes, without a source."""

    def setUp(self) -> None:
        super().setUp()
        self.path = self.tmp() / 'root.img'

    def build(
        self, files: Iterable[tuple[bytes, nodes.Node, bytes]], **wish
    ) -> superblock.Superblock:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
        with sparse.opened(self.path, flags) as descriptor:
            self.fill(descriptor, files, wish)
        process.run(['e2fsck', '-fn', self.path], access=None)
        return superblock.read(self.path)

    def fill(self, descriptor: int, files, wish) -> None:
        writer = Writer(descriptor, 0)
        tree = nodes.Tree()
        for path, node, data in files:
            if data:
                writer.store(
                    node,
                    len(data),
                    [(0, len(data))],
                    lambda offset, count, data=data: data[
                        offset : offset + count
                    ],
                )
            tree.put(path, node)
        wish.setdefault('journal', 'none')
        writer.finish(tree, groups.Wish(**base.with_options(wish)))

    def grow(self) -> None:
        process.run(['resize2fs', self.path, '1G'], access=None)
        process.run(['e2fsck', '-fn', self.path], access=None)


class TestFewBlocks(BuildCase):
    def test_links(self) -> None:
        def files():
            for number in range(33000):
                node = nodes.Node(stat.S_IFLNK | 0o777, target=b'x')
                yield b'etc/l%d' % number, node, b''

        found = self.build(files())
        # mke2fs -N 33012 makes it in 12 MiB.
        self.assertLess(found.size, 12 * _MIB)
        self.assertLess(found.free_blocks, 200)
        self.assertLess(found.free_inodes, 50)
        self.grow()

    def test_content_in_the_way(self) -> None:
        def files():
            for number in range(65600):
                yield b'd/%d' % number, nodes.Node(_EMPTY), b''
            for number in range(700):
                data = b'%d' % number * 9000
                yield b'f%d' % number, nodes.Node(_EMPTY), data

        found = self.build(files())
        self.assertLess(found.blocks_per_group, placement.PER_GROUP)
        self.assertEqual(3, found.group_count)
        self.assertLess(found.free_blocks, found.block_count // 20)
        directory = self.tmp()
        commands = [f'dump f{n} {directory}/f{n}\n' for n in range(700)]
        process.run(
            ['debugfs', '-f', '-', self.path],
            input=''.join(commands).encode(),
            access=None,
        )
        for number in range(700):
            data = (directory / f'f{number}').read_bytes()
            self.assertEqual(b'%d' % number * 9000, data)
        self.grow()

    def test_what_fits_has_full_groups(self) -> None:
        found = self.build([(b'a', nodes.Node(_EMPTY), b'x')])
        self.assertEqual(placement.PER_GROUP, found.blocks_per_group)


class TestFreeInodes(BuildCase):
    def files(self, count: int) -> Iterable[tuple[bytes, nodes.Node, bytes]]:
        for number in range(count):
            yield b'd/%d' % number, nodes.Node(_EMPTY), b''

    def test_headroom(self) -> None:
        for wanted in (5, 64, 300):
            headroom = units.Headroom(wanted * _MIB)
            found = self.build(self.files(8180), headroom=headroom)
            self.assertGreaterEqual(found.free_inodes, wanted * 64)

    def test_size(self) -> None:
        found = self.build(self.files(8180), size=200 * _MIB)
        free = found.free_blocks * found.block_size
        self.assertGreaterEqual(found.free_inodes, free // (16 << 10))

    def test_none(self) -> None:
        found = self.build(self.files(8180))
        self.assertEqual(0, found.free_inodes)

    def test_shrink(self) -> None:
        self.build(self.files(8180), headroom=units.Headroom(400 * _MIB))
        for wanted, count in ((0, 1), (64, 2), (300, 4)):
            output = self.path.with_name('small.img')
            root = probe.open_root(self.path)
            request = shrink.ShrinkRequest(
                root,
                output,
                units.FilesystemOptions(units.Headroom(wanted * _MIB)),
            )
            shrink.execute(shrink.plan(request))
            found = superblock.read(output)
            self.assertGreaterEqual(found.free_inodes, wanted * 64)
            self.assertEqual(count, found.group_count)
            process.run(['e2fsck', '-fn', output], access=None)


class TestManyFiles(BuildCase):
    def files(self, count: int) -> Iterable[tuple[bytes, nodes.Node, bytes]]:
        for number in range(count):
            path = b'd%03d/%06d' % divmod(number, 1000)
            time = 10**18 + number
            if number % 4:
                yield path, nodes.Node(_EMPTY, mtime=time), b'x'
            else:
                link = nodes.Node(stat.S_IFLNK | 0o777, target=path)
                yield path, link, b''

    def test_memory(self) -> None:
        # What does not depend on the number of files is made before, or is
        # left out.
        self.build(self.files(4))
        few, many = 1000, 4000
        more = self.peak(many) - self.peak(few)
        self.assertLess(more // (many - few), 300)

    def peak(self, count: int) -> int:
        """Tell the bytes that Python takes for a filesystem."""
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        self.build(self.files(count))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    def test_packed_and_not(self) -> None:
        times = {'mtime': 3, 'atime': 2, 'ctime': 1}
        whole = nodes.Node(
            _EMPTY | stat.S_ISUID, 70000, 80000, flags=0x80, **times
        )
        whole.size, whole.extents, whole.links = 2**33, [(1, 9, 2)], 1
        whole.digest, whole.number = b'd' * 32, 12
        packed = whole.packed()
        self.assertIsInstance(packed, nodes.Packed)
        self.assertEqual((12, whole.mode), (packed.number, packed.mode))
        again = packed.whole()
        for name in nodes.Node.__slots__:
            self.assertEqual(getattr(whole, name), getattr(again, name), name)
        for name, value in (
            ('links', 2),
            ('is_held', True),
            ('mtime', None),
            ('atime', 2**63),
            ('xattrs', {b'user.a': b''}),
            ('extents', [(0, 1, 1), (2, 3, 1)]),
            ('extents', [(0, 1, nodes.LONGEST + 1)]),
        ):
            other = packed.whole()
            setattr(other, name, value)
            self.assertIs(other, other.packed(), name)


class TestChecksums(base.TestCase):
    def test_columns(self) -> None:
        for length in (2, 8, 264):
            rows = [os.urandom(length), bytes(length), b'\xff' * length]
            columns = [bytes(column) for column in zip(*rows, strict=True)]
            found = checksums.crc32c_columns(12345, columns)
            self.assertEqual(
                [checksums.crc32c(12345, row) for row in rows],
                [
                    int.from_bytes(bytes(each), 'little')
                    for each in zip(*found, strict=True)
                ],
            )

    def test_long(self) -> None:
        for length in (2046, 2048, 2110, 4084):
            data = os.urandom(length)
            check = 54321
            for at in range(0, length, 2):
                check = checksums.crc32c(check, data[at : at + 2])
            self.assertEqual(check, checksums.crc32c(54321, data))
