# SPDX-License-Identifier: Apache-2.0

"""What is no root filesystem, and what has no use for an option."""

import pathlib
import shutil
import tarfile

from amiclient import errors
from amiclient.source import resolve
from amiclient.source import shrink
from amiclient.tests import base
from amiclient.tests.disks import disks
from amiclient.tests.unit.source import test_disk

MIB = disks.MIB


class TestPartOfRoot(test_disk.DiskCase):
    """/boot and /usr alone are not taken, in whatever they are."""

    PARTS = (
        ('/boot', ('vmlinuz-6.1.0-1', 'initrd.img-6.1.0-1')),
        ('/boot', ('grub2/grub.cfg',)),
        ('/usr', ('lib/os-release', 'bin/sh')),
        ('/usr', ('lib/systemd/systemd',)),
    )

    def test_filesystem(self) -> None:
        for place, names in self.PARTS:
            path = self.other(*names)
            packed = pathlib.Path(
                shutil.make_archive(str(path), 'gztar', path.parent, path.name)
            )
            with self.subTest(names):
                self.assertEqual(
                    f'{path}: a filesystem with what belongs in {place}, not '
                    'a root filesystem; give the disk, or the filesystem '
                    'that is mounted on /',
                    self.refused(path),
                )
                # In a disk image, or an archive.
                for other in (disks.convert(path, 'qcow2'), packed):
                    self.assertIn(
                        f'with what belongs in {place}', self.refused(other)
                    )

    def test_partition(self) -> None:
        for place, names in self.PARTS:
            path = self.disk(
                disks.Part(4, self.other(*names)), disks.Part(24, self.root)
            )
            with self.subTest(names):
                self.assertIn(
                    'partition 1 has no root filesystem: 1: ',
                    self.refused(path, partition=1),
                )
                if place == '/boot':
                    self.check(path)

    def test_shrink(self) -> None:
        path = self.other('vmlinuz-6.1.0-1')
        output = self.directory / 'output'

        def planned(output: pathlib.Path | None) -> None:
            request = shrink.ShrinkSourceRequest(
                source=path,
                choice=resolve.Choice(work_directory=self.work),
                output=output,
            )
            with shrink.planned(request, exact=False, progress=resolve.QUIET):
                pass

        error = self.assertRaises(errors.SourceError, planned, output)
        self.assertIn('with what belongs in /boot', str(error))
        self.assertFalse(output.exists())
        # In its place, any ext filesystem may be shrunk.
        planned(None)

    def test_other_filesystems(self) -> None:
        """Nobody knows what they are, and the user named them."""
        with self.opened(self.other('data')) as source:
            self.assertEqual('ext2', source.image().superblock.filesystem)


class TestUseless(base.TestCase):
    """Options that would have no effect."""

    CHOICES = {
        '--partition': {'partition': 1},
        '--leave-out': {'leave_out': ('/var',)},
        '--luks-key-file': {'luks_key_file': pathlib.Path('/dev/null')},
        '--strip-components': {'strip_components': 1},
        '--architecture': {'architecture': 'x86_64'},
    }

    def refused(self, path: pathlib.Path, **choice) -> str:
        opened = resolve.opened(path, resolve.Choice(**choice))
        return str(self.assertRaises(errors.UsageError, opened.__enter__))

    def check(self, path: pathlib.Path, *useful: str) -> None:
        for option, choice in self.CHOICES.items():
            if option in useful:
                continue
            with self.subTest(option):
                told = self.refused(path, **choice)
                self.assertTrue(told.startswith(f'{option}: '), told)
                self.assertTrue(told.endswith(f'; leave out {option}'), told)
                self.assertIn(str(path), told)

    def test_each(self) -> None:
        directory = self.tmp()
        tree = directory / 'tree'
        (tree / 'etc').mkdir(parents=True)
        (tree / 'etc/passwd').write_bytes(b'')
        self.check(tree)
        archive = directory / 'archive.tar'
        with tarfile.open(archive, 'w') as file:
            file.add(tree, 'x')
        self.check(archive, '--strip-components')
        image = test_disk.triple.root(directory, size=4 * MIB, data=MIB)
        self.check(image)
        disk = disks.make(directory / 'disk', [disks.Part(4, image)])
        self.check(disk, '--partition', '--leave-out')
        # The image may have an architecture all the same.
        for path in (disk, image):
            choice = resolve.Choice(architecture='x86_64', is_described=True)
            with resolve.opened(path, choice) as source:
                self.assertGreater(source.image().size, 0)

    def test_nothing_encrypted(self) -> None:
        directory = self.tmp()
        image = test_disk.triple.root(directory, size=4 * MIB, data=MIB)
        disk = disks.make(directory / 'disk', [disks.Part(4, image)])
        self.assertEqual(
            f'--luks-key-file: nothing on {disk} is encrypted with LUKS; '
            'leave out --luks-key-file',
            self.refused(disk, **self.CHOICES['--luks-key-file']),
        )
