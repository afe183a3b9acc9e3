# SPDX-License-Identifier: Apache-2.0

"""The tree reader sees what is there, and every way to lose some of it."""

import errno
import hashlib
import os
import pathlib
import stat
from typing import Any

from amiclient import process
from amiclient.tests import base
from amiclient.tests.oracle import exttree
from amiclient.tests.shapes import content
from amiclient.tests.shapes import shapes
from amiclient.tests.shapes import tree as shapes_tree

_TYPES = {
    'file': stat.S_IFREG,
    'directory': stat.S_IFDIR,
    'symlink': stat.S_IFLNK,
    'fifo': stat.S_IFIFO,
    'socket': stat.S_IFSOCK,
}


class KnownTreeTest(base.TestCase):
    """What mke2fs copied from a directory, against what lstat(2) says."""

    def _check(self, *options: str, size: str = '64M') -> None:
        source = self.tmp() / 'source'
        source.mkdir()
        shapes_tree.sample(source, self.random)
        attribute = self._set_attribute(source / 'boot/vmlinuz')
        image = self.tmp() / 'image'
        process.run(
            ['mke2fs', '-q', '-F', *options, '-d', source, image, size],
            env=content.ENVIRONMENT,
            access=None,
        )
        tree = exttree.read_tree(image)
        root, inodes = os.fsencode(source), {}
        found = {b'/', b'/lost+found'}
        for directory, directories, files in os.walk(root):
            for name in directories + files:
                path = os.path.join(directory, name)
                inside = path[len(root) :]
                found.add(inside)
                self._compare(path, tree[inside])
                inodes.setdefault(os.lstat(path).st_ino, []).append(inside)
        self.assertEqual(found, tree.keys())
        for names in inodes.values():
            for name in names:
                self.assertEqual(tuple(sorted(names)), tree[name].names)
        self.assertEqual(
            (
                b'/etc/fourth',
                b'/links/first',
                b'/links/other/third',
                b'/links/second',
            ),
            tree[b'/links/second'].names,
        )
        self.assertEqual(attribute, tree[b'/boot/vmlinuz'].xattrs)

    def _set_attribute(self, path: pathlib.Path) -> dict[bytes, bytes]:
        try:
            os.setxattr(path, 'user.test', b'value \0\xff')
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise
            # The temporary directory is on a filesystem without attributes.
            return {}
        return {b'user.test': b'value \0\xff'}

    def _compare(self, path: bytes, entry: exttree.Entry) -> None:
        status = os.lstat(path)
        self.assertEqual(_TYPES[entry.type], stat.S_IFMT(status.st_mode))
        self.assertEqual(stat.S_IMODE(status.st_mode), entry.mode)
        self.assertEqual(status.st_uid, entry.uid)
        self.assertEqual(status.st_gid, entry.gid)
        if entry.type == 'directory':
            return
        if b'inline' in os.fsencode(self.id()) and b'/hole' in path:
            # mke2fs 1.47.0 -d drops holes at the end where it may inline.
            return
        self.assertEqual(status.st_size, entry.size)
        self.assertEqual(status.st_nlink, entry.links)
        if entry.type == 'symlink':
            self.assertEqual(os.readlink(path), entry.target)
        if entry.type == 'file':
            # mke2fs copies whole seconds; a float would be rounded up.
            self.assertEqual(status.st_mtime_ns // 10**9, entry.mtime // 10**9)
            if not entry.sha256.startswith('in blocks'):
                with open(path, 'rb') as file:
                    digest = hashlib.file_digest(file, 'sha256')
                self.assertEqual(digest.hexdigest(), entry.sha256)

    def test_ext2(self) -> None:
        self._check('-t', 'ext2', '-b', '1024', '-I', '128')

    def test_ext3(self) -> None:
        self._check('-t', 'ext3', '-b', '2048')

    def test_ext4(self) -> None:
        self._check('-t', 'ext4', '-b', '4096')

    def test_small_groups(self) -> None:
        self._check('-t', 'ext4', '-b', '1024', '-g', '1024', '-N', '2048')

    def test_inline_data(self) -> None:
        self._check('-t', 'ext4', '-O', 'inline_data', '-I', '512')

    def test_clusters(self) -> None:
        self._check('-t', 'ext4', '-O', 'bigalloc', '-b', '1024')

    def test_meta_bg(self) -> None:
        self._check(
            '-t', 'ext4', '-b', '1024', '-O', 'meta_bg,^resize_inode',
            size='256M',
        )  # fmt: skip

    def test_no_flex_bg(self) -> None:
        self._check('-t', 'ext4', '-b', '1024', '-O', '^flex_bg,^64bit')

    def test_no_types_in_directories(self) -> None:
        self._check('-t', 'ext4', '-O', '^filetype')

    def test_map_of_holes(self) -> None:
        source = self.tmp()
        with open(source / 'sparse', 'wb') as file:
            file.write(b'x' * 4096)
            file.seek(10 * 4096)
            file.write(b'x' * 8192)
            file.truncate(20 * 4096)
        image = self.tmp() / 'image'
        process.run(
            ['mke2fs', '-q', '-F', '-t', 'ext4', '-b', '4096',
             '-d', source, image, '16M'],
            env=content.ENVIRONMENT,
            access=None,
        )  # fmt: skip
        self.assertEqual(
            '0-1 10-12', exttree.read_tree(image)[b'/sparse'].holes
        )


#: debugfs commands, and what must be told of them: path and field.
_CHANGES: dict[str, tuple[tuple[str, ...], dict[bytes, set[str]]]] = {
    'one byte': (
        ('zap_block -f /boot/vmlinuz -o 1234 -l 1 -p 0x5a 100',),
        {b'/boot/vmlinuz': {'sha256'}},
    ),
    'mode': (
        ('sif /boot/vmlinuz mode 0100604',), {b'/boot/vmlinuz': {'mode'}},
    ),
    'type': (
        ('sif /var/fifo mode 0140644',), {b'/var/fifo': {'type'}},
    ),
    'owner': (
        ('sif /boot/vmlinuz uid 70001',), {b'/boot/vmlinuz': {'uid'}},
    ),
    'group': (
        ('sif /boot/vmlinuz gid 70001',), {b'/boot/vmlinuz': {'gid'}},
    ),
    'size': (
        ('sif /boot/vmlinuz size 599999',),
        {b'/boot/vmlinuz': {'size', 'sha256'}},
    ),
    'seconds': (
        ('sif /boot mtime @1234567890',), {b'/boot': {'mtime'}},
    ),
    'a nanosecond': (
        ('sif /boot atime_extra 4',), {b'/boot': {'atime'}},
    ),
    'the epoch': (
        ('sif /boot ctime_extra 2',), {b'/boot': {'ctime'}},
    ),
    'birth': (
        ('sif /boot/vmlinuz crtime @99',), {b'/boot/vmlinuz': {'crtime'}},
    ),
    'flags': (
        ('sif /boot/vmlinuz flags 0x80010',), {b'/boot/vmlinuz': {'flags'}},
    ),
    'generation': (
        ('sif /boot/vmlinuz generation 77',),
        {b'/boot/vmlinuz': {'generation'}},
    ),
    'version': (
        ('sif /boot/vmlinuz version 77',), {b'/boot/vmlinuz': {'version'}},
    ),
    'project': (
        ('sif /boot/vmlinuz projid 77',), {b'/boot/vmlinuz': {'project'}},
    ),
    'attribute': (
        ('ea_set /etc/os-release user.kept other',),
        {b'/etc/os-release': {'xattrs'}},
    ),
    'attribute in a block': (
        ('ea_rm /links/small user.long',),
        {b'/links/small': {'xattrs'}, b'/links/twin': {'xattrs'}},
    ),
    'a hole filled': (
        ('fallocate /sizes/hole-only 7 7',),
        {b'/sizes/hole-only': {'holes'}},
    ),
    'a hole made': (
        ('punch /boot/initrd.img 9 9',),
        {b'/boot/initrd.img': {'holes', 'sha256'}},
    ),
    'fast link': (
        ('sif /links/to58 block[0] 0x41414141',), {b'/links/to58': {'target'}},
    ),
    'slow link': (
        ('zap_block -f /links/to700 -o 6 -l 1 -p 0x5a 0',),
        {b'/links/to700': {'target'}},
    ),
    'device': (
        ('sif /dev/large block[1] 0x10300',), {b'/dev/large': {'device'}},
    ),
    'link count': (
        ('sif /boot/vmlinuz links_count 2',), {b'/boot/vmlinuz': {'links'}},
    ),
    'a lost name': (
        ('unlink /links/twin',),
        {b'/links/small': {'names'}, b'/links/twin': {'lost'}},
    ),
    'a new name': (
        ('ln /var/fifo /new',), {b'/new': {'new'}, b'/var/fifo': {'names'}},
    ),
    'a new directory': (('mkdir /new',), {b'/new': {'new'}, b'/': {'links'}}),
    'a lost file': (('rm /boot/vmlinuz',), {b'/boot/vmlinuz': {'lost'}}),
    # Both have one block and the same size.
    'swapped': (
        ('ln /sizes/1023 /sizes/swap', 'unlink /sizes/1023',
         'ln /sizes/1024 /sizes/1023', 'unlink /sizes/1024',
         'ln /sizes/swap /sizes/1024', 'unlink /sizes/swap'),
        {b'/sizes/1023': {'size', 'sha256'},
         b'/sizes/1024': {'size', 'sha256'}},
    ),
}  # fmt: skip


class DifferenceTest(base.TestCase):
    """Whatever is lost or altered is told, and nothing else."""

    def setUp(self) -> None:
        super().setUp()
        work = self.tmp()
        (work / 'tree').mkdir()
        shapes_tree.sample(work / 'tree', self.random)
        self.job = content.Job(self.tmp() / 'image', work, self.random)
        process.run(
            ['mke2fs', '-q', '-F', '-t', 'ext4', '-b', '4096', '-d',
             work / 'tree', self.job.image, '64M'],
            env=content.ENVIRONMENT,
            access=None,
        )  # fmt: skip
        (work / 'long').write_bytes(self.random.randbytes(2000))
        content.add_odd(self.job)
        self.job.debugfs(
            [
                'ea_set /etc/os-release user.kept value',
                'ea_set -f long /links/small user.long',
            ]
        )
        self.before = exttree.read_tree(self.job.image)

    def test_each_change_is_told(self) -> None:
        pristine = self.job.image.rename(self.job.work / 'pristine')
        fields = list(exttree.Entry.__dataclass_fields__)
        seen: set[str] = set()
        for name, (commands, expected) in _CHANGES.items():
            process.run(
                ['cp', '--sparse=always', pristine, self.job.image],
                access=None,
            )
            self.job.debugfs(commands)
            after = exttree.read_tree(self.job.image)
            told: dict[bytes, set[str]] = {}
            for path in self.before.keys() | after.keys():
                fields_of = _changed(
                    self.before.get(path), after.get(path), fields
                )
                if fields_of:
                    told[path] = fields_of
                    seen |= fields_of
            self.assertEqual(expected, told, name)
            lines = exttree.diff_trees(self.before, after)
            count = sum(len(each) for each in expected.values())
            self.assertEqual(count, len(lines), name)
            for path in expected:
                self.assertIn(repr(path), ''.join(lines), name)
        # No field is there that was never seen to change.
        self.assertEqual(set(fields) | {'lost', 'new'}, seen)

    def test_equal_trees_differ_in_nothing(self) -> None:
        again = exttree.read_tree(self.job.image)
        self.assertEqual([], exttree.diff_trees(self.before, again))

    def test_what_e2fsck_may_do_is_no_difference(self) -> None:
        self.job.settle()
        process.run(['e2fsck', '-fyD', self.job.image], ok=(0, 1), access=None)
        after = exttree.read_tree(self.job.image)
        self.assertEqual([], exttree.diff_trees(self.before, after))

    def test_fields_can_be_left_out(self) -> None:
        self.job.debugfs(['sif /boot mtime @1', 'sif /boot mode 040700'])
        after = exttree.read_tree(self.job.image)
        (line,) = exttree.diff_trees(self.before, after, ignore=['mtime'])
        self.assertEqual("b'/boot': mode was 0o755, is 0o700", line)
        self.assertRaises(
            ValueError,
            exttree.diff_trees, self.before, after, ignore=['mtimes'],
        )  # fmt: skip

    def test_many_differences_are_counted(self) -> None:
        lines = exttree.diff_trees(self.before, {}, limit=3)
        self.assertEqual(4, len(lines))
        self.assertEqual(f'and {len(self.before) - 3} more', lines[3])

    def test_reading_writes_nothing(self) -> None:
        self.job.image.chmod(0o400)
        before = self.job.image.stat().st_mtime_ns
        digest = hashlib.sha256(self.job.image.read_bytes())
        exttree.read_tree(self.job.image)
        self.assertEqual(before, self.job.image.stat().st_mtime_ns)
        self.assertEqual(
            digest.digest(),
            hashlib.sha256(self.job.image.read_bytes()).digest(),
        )


def _changed(old: Any, new: Any, fields: list[str]) -> set[str]:
    if new is None:
        return {'lost'}
    if old is None:
        return {'new'}
    return {f for f in fields if getattr(old, f) != getattr(new, f)}


class RefusalTest(base.TestCase):
    """A reader that guessed would prove nothing."""

    def _message(self, image: pathlib.Path) -> str:
        error = self.assertRaises(exttree.TreeError, exttree.read_tree, image)
        return str(error)

    def test_no_filesystem(self) -> None:
        image = self.tmp() / 'image'
        image.write_bytes(self.random.randbytes(8192))
        self.assertIn('no ext2/3/4 superblock', self._message(image))

    def test_journal_to_be_replayed(self) -> None:
        image = shapes.make('needs-recovery', self.tmp())
        self.assertIn('must be replayed', self._message(image))

    def test_garbled_directory(self) -> None:
        image = shapes.make('garbled-directory', self.tmp())
        self.assertIn('record of wrong length', self._message(image))

    def test_cut_off(self) -> None:
        image = shapes.make('no-flex-bg', self.tmp())
        os.truncate(image, 130 << 20)
        self.assertIn('ends before byte', self._message(image))
