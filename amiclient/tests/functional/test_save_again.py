# SPDX-License-Identifier: Apache-2.0

"""AMIs that changed since they were saved, or while they were."""

import errno
import fcntl
import json
import os
import pathlib
import tarfile

from amiclient.source import uec
from amiclient.tests.faults import small_disk
from amiclient.tests.functional import test_save

NOBODY = '00000000-0000-4000-8000-000000000000'


class AgainCase(test_save.SaveCase):
    def setUp(self) -> None:
        super().setUp()
        self.target.mkdir()
        self.kernel.with_name('other').write_bytes(
            self.kernel.read_bytes() + self.random.randbytes(5000)
        )
        self.other = self.register(self.kernel.with_name('other'), 'aki')

    def part(self, noun: str, size: int) -> pathlib.Path:
        """Leave what a save of another image of that name leaves."""
        tag = f'{NOBODY}-0123456789abcdef'
        path = self.target / f'.web_1{noun}.{tag}.part'
        path.touch()
        os.truncate(path, size)
        return path


class TestArchive(AgainCase):
    def setUp(self) -> None:
        super().setUp()
        self.words = ('--layout', 'uec')
        self.path = pathlib.Path(self.saved(*self.words)['image'])
        self.before = self.path.read_bytes()
        self.place = self.target / f'.web_1.{self.shown["id"]}.part'

    def manifest(self) -> dict:
        with tarfile.open(self.path) as archive:
            file = archive.extractfile('manifest.json')
            assert file
            return json.load(file)

    def again(self) -> int:
        downloaded = self.saved(*self.words)['downloaded']
        self.assertEqual(['web_1.tar.gz'], os.listdir(self.target))
        data = self.path.read_bytes()
        # It is what a first run makes.
        self.path.unlink()
        self.saved(*self.words)
        self.assertTrue(self.path.read_bytes() == data, 'not the same')
        return downloaded

    def test_nothing_changed(self) -> None:
        state = self.path.stat()
        self.assertEqual(0, self.saved(*self.words)['downloaded'])
        self.assertEqual(state.st_mtime_ns, self.path.stat().st_mtime_ns)
        self.assertEqual(state.st_ino, self.path.stat().st_ino)

    def test_what_is_said_of_it(self) -> None:
        """Its data is taken out of the old archive."""
        self.openstack(
            'ami', 'set', 'web/1', '--tag', 'new', '--min-ram', 1024,
            '--property', 'os_command_line=root=/dev/vda ro',
            stderr=None,
        )  # fmt: skip
        self.assertEqual(0, self.again())
        image = self.manifest()['image']
        self.assertEqual(['blue', 'new'], image['tags'])
        self.assertEqual(1024, image['min_ram'])
        self.assertEqual(
            'root=/dev/vda ro', image['properties']['os_command_line']
        )

    def test_what_is_said_of_its_kernel(self) -> None:
        self.image.patch(
            f'/images/{self.shown["kernel_id"]}',
            json=[{'op': 'replace', 'path': '/name', 'value': 'linux'}],
            headers=test_save.PATCH,
        )
        self.assertEqual(0, self.again())
        self.assertEqual('linux', self.manifest()['kernel']['name'])

    def test_another_kernel(self) -> None:
        """It alone is fetched."""
        self.link('kernel_id', self.other)
        size = self.kernel.with_name('other').stat().st_size
        self.assertEqual(size, self.again())
        self.assertEqual(self.other, self.manifest()['kernel']['id'])

    def test_no_ramdisk_any_more(self) -> None:
        self.image.patch(
            f'/images/{self.shown["id"]}',
            json=[{'op': 'remove', 'path': '/ramdisk_id'}],
            headers=test_save.PATCH,
        )
        self.assertEqual(0, self.again())
        self.assertNotIn('ramdisk', self.manifest())

    def test_in_vain(self) -> None:
        """The old archive stays until the new one is whole."""
        self.link('kernel_id', self.other)
        (self.cloud.store / 'main' / self.other).unlink()
        line = self.refused(
            'ami', 'save', 'web/1', *self.words, '--directory', self.target,
            '--retries', 0,
        )  # fmt: skip
        self.assertIn(f'what was downloaded stays in {self.place}', line)
        self.assertTrue(self.path.read_bytes() == self.before, 'changed')
        self.link('kernel_id', self.shown['kernel_id'])
        self.assertEqual(0, self.saved(*self.words)['downloaded'])

    def test_no_room_for_a_second(self) -> None:
        disk = self.useFixture(
            small_disk.SmallDisk(self, 8 * 2**20, self.directory)
        )
        path = disk.path / self.path.name
        path.write_bytes(self.before)
        self.link('kernel_id', self.other)
        line = self.refused(
            'ami', 'save', 'web/1', *self.words, '--directory', disk.path
        )
        self.assertIn(f'{disk.path}: no room for the triple', line)
        self.assertIn('; make room, or choose another --directory', line)
        self.assertTrue(path.read_bytes() == self.before, 'changed')

    def test_the_disk_fills_up(self) -> None:
        def pack(members, target, *, progress) -> None:
            raise OSError(errno.ENOSPC, 'No space left on device')

        self.patch(uec, 'pack', pack)
        self.link('kernel_id', self.other)
        line = self.refused(
            'ami', 'save', 'web/1', *self.words, '--directory', self.target
        )
        self.assertIn(f'{self.target}: No space left on device; make', line)
        self.assertIn(f'what was downloaded stays in {self.place}: run', line)
        self.assertTrue(self.path.read_bytes() == self.before, 'changed')

    def test_damaged(self) -> None:
        """A damaged one is not ours to replace."""
        self.path.write_bytes(self.before[:-100])
        self.link('kernel_id', self.other)
        line = self.refused(
            'ami', 'save', 'web/1', *self.words, '--directory', self.target
        )
        self.assertIn('damaged or cut short', line)
        self.assertEqual(len(self.before) - 100, self.path.stat().st_size)

    def test_changed_since_it_was_collected(self) -> None:
        """What a run left that came as far as the manifest, is no obstacle."""
        self.path.unlink()
        shown = self.save('--directory', self.place)
        self.place.chmod(0o700)
        self.link('kernel_id', self.other)
        self.image.patch(
            f'/images/{self.shown["id"]}',
            json=[{'op': 'remove', 'path': '/ramdisk_id'}],
            headers=test_save.PATCH,
        )
        self.assertTrue(os.path.exists(shown['manifest']))
        self.assertEqual(
            self.kernel.with_name('other').stat().st_size, self.again()
        )
        self.assertNotIn('ramdisk', self.manifest())


class TestLeft(AgainCase):
    """Parts of images that the AMI has no more."""

    def test_removed(self) -> None:
        for noun in ('.img', '-vmlinuz', '-initrd'):
            self.part(noun, 8192)
        self.saved()
        self.assertEqual(
            ['manifest.json', 'web_1-initrd', 'web_1-vmlinuz', 'web_1.img'],
            sorted(os.listdir(self.target)),
        )

    def test_that_nothing_is_linked_for(self) -> None:
        self.image.patch(
            f'/images/{self.shown["id"]}',
            json=[{'op': 'remove', 'path': '/ramdisk_id'}],
            headers=test_save.PATCH,
        )
        path = self.part('-initrd', 8192)
        self.saved()
        self.assertFalse(path.exists())

    def test_long_names_in_other_alphabets(self) -> None:
        name = '\u732b' * 50
        ami = self.register(self.root, 'ami', name=name, kernel_id=self.other)
        shortened = name.encode()[:120].decode()
        path = self.target / f'.{shortened}.{NOBODY}-0123456789abcdef.part'
        path.write_bytes(b'left')
        self.openstack('ami', 'save', ami, '--directory', self.target)
        self.assertFalse(path.exists())

    def test_in_use(self) -> None:
        path = self.part('-vmlinuz', 8192)
        with path.open('r+b') as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self.saved()
            self.assertTrue(path.exists())
        self.saved()
        self.assertFalse(path.exists())

    def test_somebody_elses(self) -> None:
        """What only looks like one is neither removed nor overlooked."""
        path = self.target / '.web_1-vmlinuz.part'
        path.write_bytes(b'mine')
        line = self.refused('ami', 'save', 'web/1', '--directory', self.target)
        self.assertIn(f'contains something else: {path.name}', line)
        self.assertEqual(b'mine', path.read_bytes())

    def test_no_room_for_what_is_fetched(self) -> None:
        disk = self.useFixture(
            small_disk.SmallDisk(self, 4 * 2**20, self.directory)
        )
        self.target = disk.path
        path = self.part('-vmlinuz', 2**30)
        with path.open('r+b') as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            line = self.refused(
                'ami', 'save', 'web/1', '--directory', self.target
            )
        self.assertIn(f'{self.target}: no room for the triple: 6', line)


class TestStore(AgainCase):
    def test_has_less_than_glance_says(self) -> None:
        os.truncate(self.cloud.store / 'main' / self.shown['id'], 2**20)
        line = self.refused(
            'ami', 'save', 'web/1', '--directory', self.target,
            '--retries', 1, '--timeout', '0.5',
        )  # fmt: skip
        self.assertIn(f'after {2**20} of {self.shown["size"]} bytes', line)
        self.assertIn('the store probably does not have the rest', line)
        self.assertTrue(
            line.endswith(f'; what was downloaded stays in {self.target}\n'),
            line,
        )
