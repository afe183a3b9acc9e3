# SPDX-License-Identifier: Apache-2.0


import os

from amiclient import errors
from amiclient.ext import compare
from amiclient import process
from amiclient.tests import base


class TestCompare(base.TestCase):
    def setUp(self):
        super().setUp()
        self.directory = self.tmp()
        self.work = self.tmp()
        self.tree = self.directory / 'tree'
        (self.tree / 'etc' / 'deep').mkdir(parents=True)
        (self.tree / 'empty').touch()
        (self.tree / 'etc' / 'deep' / 'big').write_bytes(
            self.random.randbytes(300_000)
        )
        (self.tree / 'a name\nwith "all" of it').write_text('x')
        os.link(self.tree / 'empty', self.tree / 'linked')
        os.mkfifo(self.tree / 'pipe')
        (self.tree / 'short').symlink_to('etc/deep')
        (self.tree / 'long').symlink_to('../' * 30 + 'etc')
        self.one = self.make('one')

    def make(self, name, *words):
        path = self.directory / name
        with path.open('wb') as file:
            file.truncate(16 * 2**20)
        words = words or ('-t', 'ext4')
        process.run(
            ['mke2fs', '-q', '-F', *words, '-d', self.tree, path], access=None
        )
        return path

    def change(self, image, *commands):
        for command in commands:
            process.run(['debugfs', '-w', '-R', command, image], access=None)

    def differences(self, other):
        found = compare.differences(self.one, other)
        self.assertEqual([], list(self.work.iterdir()))
        return found

    def test_the_same_files_in_another_layout(self):
        for words in (
            ('-t', 'ext2', '-b', '1024'),
            ('-t', 'ext3', '-b', '4096', '-N', '500'),
            ('-t', 'ext4', '-O', '^has_journal,64bit'),
        ):
            self.assertEqual([], self.differences(self.make('other', *words)))

    def test_everything_is_walked(self):
        names = {name.decode() for name in compare.walk(self.one)}
        expected = {
            f'/{path.relative_to(self.tree)}' for path in self.tree.rglob('*')
        }
        self.assertEqual(expected | {'/lost+found'}, names)

    def test_what_differs(self):
        for command, name in (
            ('rm /empty', '/empty'),
            ('sif /etc/deep mode 040700', '/etc/deep'),
            ('sif /pipe uid 1000', '/pipe'),
            ('mkdir /new', '/new'),
        ):
            other = self.make('other')
            self.change(other, command)
            self.assertEqual([repr(name)], self.differences(other), command)

    def test_content_of_the_same_size(self):
        (self.tree / 'etc' / 'deep' / 'big').write_bytes(
            self.random.randbytes(300_000)
        )
        for name, target in (('short', 'etc/deeq'), ('long', '../' * 31)):
            (self.tree / name).unlink()
            (self.tree / name).symlink_to(target)
        (self.tree / 'a name\nwith "all" of it').write_text('y')
        self.assertEqual(
            [
                repr('/a name\nwith "all" of it'),
                repr('/etc/deep/big'),
                repr('/long'),
                repr('/short'),
            ],
            self.differences(self.make('other')),
        )

    def test_what_is_no_filesystem(self):
        other = self.directory / 'other'
        other.write_bytes(bytes(4096))
        self.assertRaises(
            errors.AmiError,
            compare.differences,
            self.one,
            other,
        )
