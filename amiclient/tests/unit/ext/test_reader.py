#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.


"""The reader of files finds what the independent one of the tests finds."""

import hashlib
import os
import pathlib

from amiclient import exceptions
from amiclient.ext import reader
from amiclient.tests import base
from amiclient.tests import exttree
from amiclient.tests import shapes_tree
from amiclient.tests.unit.rootfs import images


class TestReader(base.TestCase):
    def sample(self, *options: str, edit: tuple[str, ...] = ()):
        folder = self.tmp()
        tree = folder / 'tree'
        tree.mkdir()
        shapes_tree.sample(tree, self.random)
        (tree / 'crowd').mkdir()
        for i in range(300):
            (tree / f'crowd/a file with a long name, number {i}').touch()
        return images.image(
            folder, {}, options=('-d', str(tree), *options), edit=edit,
            size=64 << 20,
        )  # fmt: skip

    def read_all(self, image: pathlib.Path):
        """Tell owner, times, content or target by path."""
        found = {}
        with reader.opened(image) as opened:
            todo = ['/']
            while todo:
                folder = todo.pop()
                for name in opened.names(folder):
                    path = f'{folder.rstrip("/")}/{name}'
                    node = opened.find(path, follow=False)
                    self.assertEqual(path, node.path)
                    value: object = None
                    if node.is_folder:
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
                exceptions.SourceError, opened.read_file, 'f', 2_999_999
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
                exceptions.SourceError, opened.read_file, 'f', 1 << 20
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
                    exceptions.DamagedError, opened.read_file, 'f'
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
            self.assertRaises(exceptions.DamagedError, opened.read_file, 'f')

    def test_no_filesystem(self) -> None:
        path = self.tmp() / 'x'
        path.write_bytes(bytes(10_000))
        with self.assertRaisesRegex(exceptions.SourceError, str(path)):
            with reader.opened(path):
                pass
