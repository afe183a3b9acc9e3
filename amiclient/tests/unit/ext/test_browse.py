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

import os
import pathlib
import subprocess
from unittest import mock

from amiclient import exceptions
from amiclient.ext import browse
from amiclient.tests import base

_DEBUGFS = '/usr/sbin/debugfs'


class TestBrowse(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.folder = self.tmp()
        self.tree = self.tmp()
        self.image = self.folder / 'root.img'

    def write(self, name: str, content: bytes) -> None:
        path = self.tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def link(self, name: str, target: str) -> None:
        path = self.tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)

    def make(self, *options: str) -> None:
        with self.image.open('wb') as file:
            file.truncate(16 * 1024 * 1024)
        subprocess.run(
            ['/usr/sbin/mke2fs', '-q', '-F', '-d', str(self.tree),
             *(options or ('-t', 'ext4')), str(self.image)],
            check=True, capture_output=True,
        )  # fmt: skip

    def edit(self, *commands: str) -> None:
        subprocess.run(
            [_DEBUGFS, '-w', '-f', '-', str(self.image)],
            input='\n'.join(commands).encode(), check=True,
            capture_output=True,
        )  # fmt: skip

    def read(self, name: str, limit: int = 1 << 20) -> bytes | None:
        return browse.read_file(self.image, name, limit)

    def test_every_kind_of_filesystem(self) -> None:
        content = self.random.randbytes(200_000)
        self.write('etc/noise', content)
        self.write('etc/small', b'PRETTY_NAME="x"\n')
        self.write('etc/empty', b'')
        for options in (
            ('-t', 'ext2', '-b', '1024'),
            ('-t', 'ext3'),
            ('-t', 'ext4'),
            ('-t', 'ext4', '-O', 'inline_data', '-I', '512'),
            ('-t', 'ext4', '-O', 'bigalloc'),
            ('-t', 'ext4', '-O', '^extent,^metadata_csum,^64bit'),
        ):
            self.make(*options)
            self.assertEqual(content, self.read('/etc/noise'), options)
            self.assertEqual(b'PRETTY_NAME="x"\n', self.read('/etc/small'))
            self.assertEqual(b'', self.read('/etc/empty'))

    def test_the_image_is_only_read(self) -> None:
        self.write('a', b'hello')
        self.make()
        self.image.chmod(0o444)
        before = self.image.read_bytes()
        self.assertEqual(b'hello', self.read('a'))
        self.assertEqual(before, self.image.read_bytes())

    def test_absent(self) -> None:
        self.write('etc/x', b'')
        self.make()
        for name in ('/no', '/etc/no', '/no/x', '/etc/x/y', '/etc', '/',
                     '', '..', '/etc/..'):  # fmt: skip
            self.assertIsNone(self.read(name), name)

    def test_paths(self) -> None:
        self.write('etc/a/b', b'hello')
        self.make()
        for name in ('/etc/a/b', 'etc/a/b', '//etc/./a//b', '/../etc/a/b',
                     '/etc/a/../a/b', '/etc/a/../../etc/a/b'):  # fmt: skip
            self.assertEqual(b'hello', self.read(name), name)

    def test_links(self) -> None:
        self.write('usr/lib/os-release', b'hello')
        self.link('etc/relative', '../usr/lib/os-release')
        self.link('etc/absolute', '/usr/lib/os-release')
        self.link('etc/above', '../../../../usr/lib/os-release')
        self.link('etc/twice', 'absolute')
        self.link('lib', 'usr/lib')
        self.link('etc/long', '/' + './' * 300 + 'lib/os-release')
        self.link('etc/medium', '/' + './' * 60 + 'lib/os-release')
        self.link('etc/dangling', '/no/where')
        self.link('etc/folder', '/usr')
        self.link('etc/"quoted" $(x)', '/usr/lib/os-release')
        for options in ((), ('-t', 'ext4', '-O', 'inline_data')):
            self.make(*options)
            for name in ('relative', 'absolute', 'above', 'twice', 'long',
                         'medium', 'folder/lib/os-release',
                         '"quoted" $(x)'):  # fmt: skip
                self.assertEqual(b'hello', self.read(f'/etc/{name}'), name)
            self.assertEqual(b'hello', self.read('/lib/os-release'))
            self.assertIsNone(self.read('/etc/dangling'))
            self.assertIsNone(self.read('/etc/folder'))

    def test_links_do_not_lead_out(self) -> None:
        secret = self.folder / 'secret'
        secret.write_bytes(b'outside')
        self.link('etc/os-release', str(secret))
        self.link('etc/proc', '/proc/self/environ')
        self.make()
        self.assertIsNone(self.read('/etc/os-release'))
        self.assertIsNone(self.read('/etc/proc'))

    def test_loops_end(self) -> None:
        self.link('a', 'b')
        self.link('b', '/a')
        self.link('c', 'c/c/c/c')
        self.write('f', b'hello')
        for i in range(60):
            self.link(f'l{i}', f'l{i + 1}' if i < 59 else 'f')
        self.make()
        for name in ('a', 'c', 'l0'):
            self.assertIsNone(self.read(name), name)
        # Forty links are as many as Linux follows.
        self.assertIsNone(self.read('l19'))
        self.assertEqual(b'hello', self.read('l20'))

    def test_special_files(self) -> None:
        self.make()
        self.edit('mknod fifo p', 'mknod disk b 8 0', 'mknod tty c 4 0')
        for name in ('fifo', 'disk', 'tty'):
            self.assertIsNone(self.read(name), name)

    def test_names_are_no_commands(self) -> None:
        """Whatever names say, debugfs gets none of them to see."""
        names = [
            'a b', 'a"b', "a'b", 'a\nb', 'a\tb', '<12>', '-w', 'a\\b',
            'rm f', '$(touch x)', '\u00fc', os.fsdecode(b'\xff\xfe'),
        ]  # fmt: skip
        self.write('f', b'kept')
        for i, name in enumerate(names):
            self.write(name, b'%d' % i)
            self.link(f'link{i}', name)
        self.make()
        for i, name in enumerate(names):
            # A name with a newline in it cannot be listed on one line.
            expected = None if '\n' in name else b'%d' % i
            self.assertEqual(expected, self.read(name), name)
            self.assertEqual(expected, self.read(f'link{i}'), name)
        self.assertEqual(b'kept', self.read('f'))

    def test_image_names(self) -> None:
        """debugfs has its own ideas about names of images as well."""
        self.write('f', b'hello')
        self.make()
        for name in ('a b.img', 'a?offset=1024.img', '-w', 'UUID=1', 'a"b',
                     os.fsdecode(b'\xff')):  # fmt: skip
            other = self.folder / name
            self.image.rename(other)
            self.image = other
            self.assertEqual(b'hello', self.read('f'), name)
            here = os.getcwd()
            os.chdir(self.folder)
            try:
                found = browse.read_file(pathlib.Path(name), 'f')
            finally:
                os.chdir(here)
            self.assertEqual(b'hello', found, name)

    def test_limit(self) -> None:
        self.write('f', bytes(5000))
        self.make()
        self.assertEqual(bytes(5000), self.read('f', 5000))
        error = self.assertRaises(exceptions.SourceError, self.read, 'f', 4999)
        self.assertEqual(
            f'{self.image}: f has 5000 bytes, more than 4999', str(error)
        )

    def test_huge_sparse_file(self) -> None:
        """A small image may hold a file of terabytes."""
        self.write('f', b'hello')
        self.make()
        self.edit('set_inode_field f size 4398046511104')
        self.assertRaises(exceptions.SourceError, self.read, 'f')

    def test_large_folder(self) -> None:
        for i in range(3000):
            self.write(f'etc/{"x" * 50}{i}', b'')
        self.write('etc/zz', b'hello')
        self.make('-t', 'ext4', '-N', '4000')
        self.assertEqual(b'hello', self.read('/etc/zz'))

    def test_folder_that_claims_to_be_huge(self) -> None:
        self.write('etc/zz', b'hello')
        self.make()
        self.edit('set_inode_field etc size 4398046511104')
        self.assertIsNone(self.read('/etc/zz'))

    def test_no_filesystem(self) -> None:
        for content in (b'', b'hello', bytes(100_000)):
            self.image.write_bytes(content)
            error = self.assertRaises(exceptions.DamagedError, self.read, 'f')
            self.assertIn(f'{self.image}: debugfs cannot', str(error))
            self.assertNotIn('\n', str(error))

    def test_damaged_filesystems(self) -> None:
        """Whatever is broken: content, nothing, or one line."""
        content = self.random.randbytes(9000)
        self.write('etc/f', content)
        self.link('etc/l', '/etc/f')
        self.make('-t', 'ext4', '-b', '1024')
        sound = self.image.read_bytes()
        outcomes = set()
        for _ in range(12):
            damaged = bytearray(sound)
            for _ in range(200):
                # Where the metadata is: the first two megabytes.
                place = self.random.randrange(2048, 2_000_000)
                damaged[place : place + 16] = self.random.randbytes(16)
            self.image.write_bytes(damaged)
            try:
                found = self.read('/etc/l')
            except exceptions.SourceError as error:
                self.assertNotIn('\n', str(error))
                outcomes.add('error')
            else:
                outcomes.add('absent' if found is None else 'found')
        self.assertTrue(outcomes)
        for wiped in (range(2048, 60_000), range(1024, 1500)):
            damaged = bytearray(sound)
            damaged[wiped.start : wiped.stop] = bytes(len(wiped))
            self.image.write_bytes(damaged)
            try:
                self.assertNotEqual(content, self.read('/etc/l'))
            except exceptions.SourceError as error:
                self.assertNotIn('\n', str(error))

    def test_out_of_patience(self) -> None:
        self.write('f', b'hello')
        self.make()
        folder = self.tmp()
        slow = folder / 'debugfs'
        slow.write_text('#!/bin/sh\nexec sleep 60\n')
        slow.chmod(0o755)
        path = os.environ['PATH']
        self.useFixture(
            base.fixtures.EnvironmentVariable('PATH', f'{folder}:{path}')
        )
        with mock.patch.object(browse, '_PATIENCE', 0.3):
            error = self.assertRaises(exceptions.DamagedError, self.read, 'f')
        self.assertIn('took more than 0.3 seconds', str(error))
