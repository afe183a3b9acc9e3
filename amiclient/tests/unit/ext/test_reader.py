# SPDX-License-Identifier: Apache-2.0

"""The reader of files finds what the independent one of the tests finds."""

import hashlib
import os
import pathlib

from amiclient import errors
from amiclient.ext import reader
from amiclient.tests import base
from amiclient.tests.oracle import exttree
from amiclient.tests.shapes import tree as shapes_tree
from amiclient.tests.unit.rootfs import images


class TestReader(base.TestCase):
    def sample(self, *options: str, edit: tuple[str, ...] = ()):
        directory = self.tmp()
        tree = directory / 'tree'
        tree.mkdir()
        shapes_tree.sample(tree, self.random)
        (tree / 'crowd').mkdir()
        for i in range(300):
            (tree / f'crowd/a file with a long name, number {i}').touch()
        return images.image(
            directory, {}, options=('-d', str(tree), *options), edit=edit,
            size=64 << 20,
        )  # fmt: skip

    def read_all(self, image: pathlib.Path):
        """Tell owner, times, content or target by path."""
        found = {}
        with reader.opened(image) as opened:
            todo = ['/']
            while todo:
                directory = todo.pop()
                for name in opened.names(directory):
                    path = f'{directory.rstrip("/")}/{name}'
                    node = opened.find(path, follow=False)
                    self.assertEqual(path, node.path)
                    value: object = None
                    if node.is_directory:
                        todo.append(path)
                    elif node.is_link:
                        value = opened.target(node)
                    elif name == 'hole-huge':
                        continue
                    elif node.is_file:
                        digest = hashlib.sha256()
                        for chunk in opened.chunks(node):
                            digest.update(chunk)
                        value = digest.hexdigest()
                    found[path] = (
                        node.mode & 0o7777, node.uid, node.gid, node.mtime,
                        node.ctime, value,
                    )  # fmt: skip
        return found

    def test_every_kind_of_filesystem(self) -> None:
        for options in (
            ('-t', 'ext2', '-b', '1024'),
            ('-t', 'ext3', '-I', '128'),
            ('-t', 'ext4'),
            ('-t', 'ext4', '-O', 'inline_data', '-I', '512'),
            ('-t', 'ext4', '-O', 'bigalloc'),
        ):
            image = self.sample(*options)
            expected = {}
            for name, entry in exttree.read_tree(image).items():
                value = entry.sha256
                if entry.target is not None:
                    value = os.fsdecode(entry.target)
                expected[os.fsdecode(name)] = (
                    entry.mode, entry.uid, entry.gid,
                    entry.mtime // 10**9, entry.ctime // 10**9, value,
                )  # fmt: skip
            del expected['/']
            # Its digest is one of blocks alone.
            del expected['/sizes/hole-huge']
            self.assertGreater(len(expected), 300)
            found = self.read_all(image)
            different = {
                name: (expected.get(name), found.get(name))
                for name in expected.keys() | found.keys()
                if expected.get(name) != found.get(name)
            }
            self.assertEqual({}, different, options)

    def test_paths_and_links(self) -> None:
        image = images.image(
            self.tmp(),
            {
                'usr/lib/os-release': b'hello',
                'etc/relative': images.Link('../usr/lib/os-release'),
                'etc/absolute': images.Link('/usr/lib/os-release'),
                'etc/above': images.Link('../../../usr/lib/os-release'),
                'etc/loop': images.Link('loop'),
                'etc/dangling': images.Link('/no/where'),
                'lib': images.Link('usr/lib'),
                'long': images.Link('/' + './' * 300 + 'lib/os-release'),
            },
        )
        with reader.opened(image) as opened:
            for name in (
                'etc/relative', '/etc/absolute', '//etc/./above',
                '/../lib/os-release', 'etc/../long',
            ):  # fmt: skip
                found = opened.find(name)
                self.assertEqual('/usr/lib/os-release', found.path, name)
                self.assertEqual(b'hello', opened.read_file(name))
            for name in (
                'etc/loop', 'etc/dangling', 'no', 'lib/os-release/x',
                '/'.join('x' * 300),
            ):  # fmt: skip
                self.assertIsNone(opened.find(name), name)
                self.assertIsNone(opened.read_file(name), name)
            self.assertIsNone(opened.read_file('etc'))
            self.assertTrue(opened.find('etc/loop', follow=False).is_link)
            self.assertEqual((), opened.names('lib/os-release'))
            self.assertEqual(('os-release',), opened.names('/lib'))

    def test_limits(self) -> None:
        content = self.random.randbytes(3_000_000)
        image = images.image(self.tmp(), {'f': content})
        with reader.opened(image) as opened:
            self.assertEqual(content, opened.read_file('f', 3_000_000))
            error = self.assertRaises(
                errors.SourceError, opened.read_file, 'f', 2_999_999
            )
            self.assertIn('/f has 3000000 bytes', str(error))
            self.assertEqual(content[:5000], opened.head('f', 5000))
            node = opened.find('f')
            part = b''.join(opened.span(node, 1_500_000, 700_000))
            self.assertEqual(
                hashlib.sha256(content[1_500_000:2_200_000]).digest(),
                hashlib.sha256(part).digest(),
            )
            part = b''.join(opened.span(node, 2_999_990, 700_000))
            self.assertEqual(content[-10:], part)

    def test_sizes_that_lie(self) -> None:
        image = images.image(
            self.tmp(),
            {'f': b'hello', 'd/x': b''},
            edit=(
                'set_inode_field f size 4398046511104',
                'set_inode_field d size 4398046511104',
            ),
        )
        with reader.opened(image) as opened:
            self.assertRaises(
                errors.SourceError, opened.read_file, 'f', 1 << 20
            )
            self.assertEqual(b'hello', opened.head('f', 5))
            self.assertEqual((), opened.names('d'))
            self.assertIsNone(opened.find('d/x'))

    def test_sizes_of_inline_data_that_lie(self) -> None:
        image = images.image(
            self.tmp(),
            {'f': b'hello'},
            options=('-t', 'ext4', '-O', 'inline_data', '-I', '512'),
            edit=('set_inode_field f size 4398046511104',),
        )
        with reader.opened(image) as opened:
            self.assertTrue(opened.find('f').is_inline)
            self.assertEqual(b'hello' + bytes(5), opened.head('f', 10))

    def test_blocks_that_cannot_be(self) -> None:
        for edit in (
            'set_inode_field f block[4] 4294967295',
            'set_inode_field f block[0] 0x7fff0a',
            'set_inode_field f block[1] 0x00080004',
        ):
            image = images.image(self.tmp(), {'f': b'hello'}, edit=(edit,))
            with reader.opened(image) as opened:
                error = self.assertRaises(
                    errors.DamagedError, opened.read_file, 'f'
                )
            self.assertIn('/f', str(error), edit)

    def test_loop_of_extents(self) -> None:
        """A tree that leads back into itself ends by its depth."""
        image = images.image(self.tmp(), {'f': bytes(100_000)})
        with reader.opened(image) as opened:
            node = opened.find('f')
            block = opened.superblock.block_size
        # A node of level 5 in block 5000 that leads to itself.
        data = bytearray(image.read_bytes())
        header = bytes.fromhex('0af3 0100 0400 0500 00000000')
        entry = bytes.fromhex('00000000 88130000 0000 0000')
        place = data.index(node.raw)
        data[place + 0x28 : place + 0x40] = header + entry
        data[5000 * block : 5000 * block + 24] = header + entry
        image.write_bytes(data)
        with reader.opened(image) as opened:
            self.assertRaises(errors.DamagedError, opened.read_file, 'f')

    def test_no_filesystem(self) -> None:
        path = self.tmp() / 'x'
        path.write_bytes(bytes(10_000))
        with self.assertRaisesRegex(errors.SourceError, str(path)):
            with reader.opened(path):
                pass

    def test_links_end(self) -> None:
        files = {'f': b'hello', 'c': images.Link('c/c/c/c')}
        for i in range(60):
            files[f'l{i}'] = images.Link(f'l{i + 1}' if i < 59 else 'f')
        image = images.image(self.tmp(), files)
        with reader.opened(image) as opened:
            self.assertIsNone(opened.read_file('c'))
            # Forty links are as many as Linux follows.
            self.assertIsNone(opened.read_file('l19'))
            self.assertEqual(b'hello', opened.read_file('l20'))

    def test_links_do_not_lead_out(self) -> None:
        directory = self.tmp()
        (directory / 'secret').write_bytes(b'outside')
        image = images.image(
            directory,
            {
                'etc/secret': images.Link(str(directory / 'secret')),
                'etc/proc': images.Link('/proc/self/environ'),
            },
        )
        with reader.opened(image) as opened:
            self.assertIsNone(opened.read_file('etc/secret'))
            self.assertIsNone(opened.read_file('etc/proc'))

    def test_special_files(self) -> None:
        image = images.image(
            self.tmp(), {}, edit=('mknod fifo p', 'mknod disk b 8 0')
        )
        with reader.opened(image) as opened:
            for name in ('fifo', 'disk'):
                self.assertIsNotNone(opened.find(name))
                self.assertIsNone(opened.read_file(name), name)
                self.assertIsNone(opened.blocks(opened.find(name)))

    def test_odd_names(self) -> None:
        names = (
            'a b', 'a"b', "a'b", 'a\nb', 'a\tb', '<12>', '-w', 'a\\b',
            'rm f', '$(touch x)', '\u00fc', os.fsdecode(b'\xff\xfe'),
        )  # fmt: skip
        files = {name: b'%d' % i for i, name in enumerate(names)}
        links = {f'l{i}': images.Link(n) for i, n in enumerate(names)}
        image = images.image(self.tmp(), files | links)
        other = image.with_name('a?offset=1024')
        image.rename(other)
        with reader.opened(other) as opened:
            for i, name in enumerate(names):
                self.assertEqual(b'%d' % i, opened.read_file(name), name)
                self.assertEqual(b'%d' % i, opened.read_file(f'l{i}'), name)

    def test_blocks(self) -> None:
        content = self.random.randbytes(100_000)
        for options in (('-t', 'ext4'), ('-t', 'ext2', '-b', '1024')):
            image = images.image(
                self.tmp(),
                {'f': content, 'empty': b'', 'l': images.Link('f')},
                options=options,
                edit=('set_inode_field empty size 5000',),
            )
            data = image.read_bytes()
            with reader.opened(image) as opened:
                found = opened.blocks(opened.find('f'))
                size = opened.superblock.block_size
                # A hole, a link and a directory have none that say it all.
                for name in ('empty', 'l', '/'):
                    node = opened.find(name, follow=False)
                    self.assertIsNone(opened.blocks(node), name)
            pieces = [data[size * n : size * (n + 1)] for n in found]
            self.assertEqual(content, b''.join(pieces)[: len(content)])

    def test_blocks_that_may_be_shared(self) -> None:
        image = images.image(
            self.tmp(),
            {'f': b'hello'},
            edit=('feature shared_blocks',),
        )
        with reader.opened(image) as opened:
            self.assertIsNone(opened.blocks(opened.find('f')))

    def test_blocks_of_inline_data(self) -> None:
        image = images.image(
            self.tmp(),
            {'f': b'hello'},
            options=('-t', 'ext4', '-O', 'inline_data', '-I', '512'),
        )
        with reader.opened(image) as opened:
            self.assertIsNone(opened.blocks(opened.find('f')))

    def test_damaged_filesystems(self) -> None:
        """Whatever is broken: content, nothing, or one line."""
        content = self.random.randbytes(9000)
        image = images.image(
            self.tmp(),
            {'etc/f': content, 'etc/l': images.Link('/etc/f')},
            options=('-t', 'ext4', '-b', '1024'),
        )
        sound = image.read_bytes()
        outcomes = set()
        for number in range(40):
            damaged = bytearray(sound)
            # Where the metadata is: the first two megabytes.
            for _ in range(10 * number):
                place = self.random.randrange(2048, 2_000_000)
                damaged[place : place + 16] = self.random.randbytes(16)
            image.write_bytes(damaged)
            try:
                with reader.opened(image) as opened:
                    found = opened.read_file('/etc/l')
            except errors.SourceError as error:
                self.assertNotIn('\n', str(error))
                outcomes.add('error')
            else:
                outcomes.add('absent' if found is None else 'found')
        self.assertIn('found', outcomes)
        self.assertIn('error', outcomes)
