# SPDX-License-Identifier: Apache-2.0

"""AMIs that are saved, and come back elsewhere, with the real Glance."""

import json
import os
import pathlib
import shutil
import stat
import tarfile

from amiclient.tests.faults import small_disk
from amiclient.tests.functional import upload

PATCH = {'Content-Type': 'application/openstack-images-v2.1-json-patch'}


class SaveCase(upload.UploadCase):
    def setUp(self) -> None:
        super().setUp()
        self.shown = {
            'kernel_id': self.register(
                self.kernel, 'aki', architecture='x86_64'
            ),
            'ramdisk_id': self.register(self.ramdisk, 'ari', tags=['early']),
        }
        self.shown['id'] = self.register(
            self.root,
            'ami',
            name='web/1',
            min_disk=1,
            min_ram=512,
            tags=['blue'],
            foo='bar',
            os_distro='debian',
            os_type='linux',
            os_version='12',
            architecture='x86_64',
            **{'owner_specified.x': '1'},
            **self.shown,
        )
        stored = self.get(self.shown['id'])
        self.shown['sha512'] = stored['os_hash_value']
        self.shown['size'] = stored['size']
        self.target = self.directory / 'saved'

    def save(self, *words: object, **options):
        return self.openstack_json('ami', 'save', 'web/1', *words, **options)

    def saved(self, *words: object):
        return self.save('--directory', self.target, *words)

    def link(self, name: str, value: object) -> None:
        self.image.patch(
            f'/images/{self.shown["id"]}',
            json=[{'op': 'replace', 'path': f'/{name}', 'value': value}],
            headers=PATCH,
        )

    def same(self, path: object, image_id: str) -> None:
        stored = self.image.get(f'/images/{image_id}/file').content
        self.assertTrue(pathlib.Path(str(path)).read_bytes() == stored, path)


class TestDirectory(SaveCase):
    def test_three_files_and_a_manifest(self) -> None:
        shown = self.saved()
        self.same(shown['image'], self.shown['id'])
        self.same(shown['kernel'], self.shown['kernel_id'])
        self.same(shown['ramdisk'], self.shown['ramdisk_id'])
        self.assertEqual(
            ['manifest.json', 'web_1-initrd', 'web_1-vmlinuz', 'web_1.img'],
            sorted(os.listdir(self.target)),
        )
        sizes = [path.stat().st_size for path in self.target.glob('web_1*')]
        self.assertEqual(sum(sizes), shown['downloaded'])
        image = self.target / 'web_1.img'
        self.assertLess(image.stat().st_blocks * 512, image.stat().st_size)
        self.assertFalse(stat.S_IMODE(image.stat().st_mode) & 0o111)
        manifest = json.loads((self.target / 'manifest.json').read_text())
        self.assertEqual(self.shown['sha512'], manifest['image']['sha512'])
        self.assertEqual('web/1', manifest['image']['name'])
        self.assertEqual(['blue'], manifest['image']['tags'])
        self.assertEqual(512, manifest['image']['min_ram'])
        properties = manifest['image']['properties']
        self.assertEqual('bar', properties['foo'])
        for name in ('kernel_id', 'ramdisk_id', 'owner_specified.x'):
            self.assertNotIn(name, properties)

    def test_a_snapshot(self) -> None:
        """What Nova has put into it does not travel, but what it needs."""
        chosen = {
            'hw_machine_type': 'pc',
            'hw_video_model': 'virtio',
            'hw_cdrom_bus': 'ide',
            'hw_vif_model': 'virtio',
            'hw_disk_bus': 'virtio',
        }
        asked = {'hw_rng_model': 'virtio', 'hw_qemu_guest_agent': 'yes'}
        told = {'base_image_ref': self.shown['kernel_id']}
        self.register(
            self.root, 'ami', name='snap', image_type='snapshot',
            **chosen, **asked, **told, os_type='linux',
            kernel_id=self.shown['kernel_id'],
        )  # fmt: skip

        def properties(*words: object) -> dict[str, str]:
            place = self.tmp() / 'snap'
            self.openstack('ami', 'save', 'snap', '--directory', place, *words)
            text = (place / 'manifest.json').read_text()
            return dict(json.loads(text)['image']['properties'])

        self.assertEqual({**asked, 'os_type': 'linux'}, properties())
        self.assertEqual(
            {**asked, **chosen, 'os_type': 'linux'},
            properties('--keep-hardware'),
        )
        self.change_disk('snap', 'scsi')
        self.assertEqual('scsi', properties()['hw_disk_bus'])
        # What its owner gave an image that is no snapshot is left alone.
        self.change_disk('web/1', 'virtio')
        self.saved()
        text = (self.target / 'manifest.json').read_text()
        self.assertEqual(
            'virtio', json.loads(text)['image']['properties']['hw_disk_bus']
        )

    def change_disk(self, name: str, bus: str) -> None:
        self.openstack(
            'image', 'set', name, '--property', f'hw_disk_bus={bus}'
        )

    def test_no_room(self) -> None:
        """It is known before, and not even a directory is left."""
        disk = self.useFixture(
            small_disk.SmallDisk(self, 4 * 2**20, self.directory)
        )
        for words, place in (
            (('--directory', disk.path / 'new'), disk.path / 'new'),
            (('--directory', disk.path, '--layout', 'uec'), disk.path),
        ):
            told = self.refused('ami', 'save', 'web/1', *words)
            self.assertIn(f'{place}: no room for the triple: ', told)
            self.assertIn('4.0 MiB are free', told)
            self.assertEqual([], os.listdir(disk.path))

    def test_a_second_run_fetches_nothing(self) -> None:
        self.saved()
        before = {p: p.stat().st_mtime_ns for p in self.target.iterdir()}
        self.assertEqual(0, self.saved()['downloaded'])
        after = {p: p.stat().st_mtime_ns for p in self.target.iterdir()}
        self.assertEqual(before, after)

    def test_a_second_run_fetches_what_is_missing(self) -> None:
        self.saved()
        (self.target / 'web_1-initrd').unlink()
        size = self.ramdisk.stat().st_size
        self.assertEqual(size, self.saved()['downloaded'])

    def test_named_after_the_ami(self) -> None:
        before = pathlib.Path.cwd()
        self.addCleanup(os.chdir, before)
        os.chdir(self.tmp())
        self.assertEqual('web_1', self.save()['directory'])

    def test_other_content(self) -> None:
        self.saved()
        path = self.target / 'notes'
        path.touch()
        line = self.refused('ami', 'save', 'web/1', '--directory', self.target)
        self.assertIn('contains something else: notes', line)
        path.unlink()
        self.upload('--name', 'other', '--no-reuse', '--no-shrink')
        line = self.refused('ami', 'save', 'other', '--directory', self.target)
        self.assertIn('contains something else: web_1', line)
        (self.target / 'web_1-initrd').write_bytes(b'mine')
        line = self.refused('ami', 'save', 'web/1', '--directory', self.target)
        self.assertIn('web_1-initrd exists already, and is not', line)

    def test_no_such_directory(self) -> None:
        line = self.refused(
            'ami', 'save', 'web/1', '--directory', '/nosuch/directory'
        )
        self.assertIn('/nosuch: no such directory', line)

    def test_missing_kernel(self) -> None:
        self.image.delete(f'/images/{self.shown["kernel_id"]}')
        line = self.refused('ami', 'save', 'web/1', '--directory', self.target)
        self.assertIn(f'the kernel {self.shown["kernel_id"]} that the', line)
        self.assertIn(f'`openstack ami verify {self.shown["id"]}`', line)
        self.assertFalse(self.target.exists())

    def test_queued_ramdisk(self) -> None:
        queued = self.image.post(
            '/images',
            json={
                'name': 'q',
                'disk_format': 'ari',
                'container_format': 'ari',
            },
        ).json()
        self.link('ramdisk_id', queued['id'])
        line = self.refused('ami', 'save', 'web/1', '--directory', self.target)
        self.assertIn(f'image {queued["id"]} is queued, not active', line)
        self.assertFalse(self.target.exists())

    def test_no_such_ami(self) -> None:
        line = self.refused('ami', 'save', 'nosuch')
        self.assertIn("no image has the name or id 'nosuch'", line)


class TestElsewhere(SaveCase):
    """What was saved is uploaded to another project."""

    def attributes(self, image_id: str, user: str) -> dict:
        glance = self.embedded.connection(user).image
        body = glance.get(f'/images/{image_id}').json()
        return {
            name: body.get(name)
            for name in (
                'name', 'disk_format', 'container_format', 'min_disk',
                'min_ram', 'tags', 'os_hash_value', 'size', 'architecture',
                'os_type', 'os_distro', 'os_version', 'foo',
            )
        }  # fmt: skip

    def compare(self, source: object, *words: object) -> dict:
        shown = self.openstack_json(
            'ami', 'upload', source, *words, user='other'
        )
        self.addCleanup(self.embedded.remove_images)
        for name in ('id', 'kernel_id', 'ramdisk_id'):
            self.assertNotEqual(self.shown[name], shown[name])
            self.assertEqual(
                self.attributes(self.shown[name], 'demo'),
                self.attributes(shown[name], 'other'),
            )
        return shown

    def test_a_directory(self) -> None:
        self.saved()
        shown = self.compare(self.target)
        self.assertEqual([], shown['reused'])

    def test_a_manifest(self) -> None:
        self.compare(self.saved()['manifest'])

    def test_an_archive(self) -> None:
        self.target.mkdir()
        self.compare(self.saved('--layout', 'uec')['image'])

    def test_in_the_same_project(self) -> None:
        """All of it is there."""
        self.saved()
        shown = self.openstack_json('ami', 'upload', self.target)
        self.assertEqual(0, shown['uploaded'])
        self.assertEqual(self.shown['id'], shown['id'])

    def test_options_come_first(self) -> None:
        self.saved()
        shown = self.openstack_json(
            'ami', 'upload', self.target, '--name', 'mine', '--tag', 'red',
            '--property', 'foo=baz', '--kernel-name', 'k', '--no-reuse',
            '--image-format', 'raw', '--min-ram', 64,
        )  # fmt: skip
        body = self.get(shown['id'])
        self.assertEqual('mine', body['name'])
        self.assertEqual(['red'], body['tags'])
        self.assertEqual('baz', body['foo'])
        self.assertEqual('raw', body['disk_format'])
        self.assertEqual(64, body['min_ram'])
        self.assertEqual('debian', body['os_distro'])
        self.assertEqual('k', self.get(shown['kernel_id'])['name'])
        shown = self.openstack_json(
            'ami', 'upload', self.target, '--min-ram', 0, stderr=None
        )
        self.assertEqual(0, self.get(shown['id'])['min_ram'])

    def test_shrunk_if_asked(self) -> None:
        self.saved()
        shown = self.openstack_json(
            'ami', 'upload', self.target, '--headroom', '1M', stderr=None
        )
        self.assertLess(shown['size'], self.shown['size'])

    def test_raw(self) -> None:
        shown = self.upload(
            '--name', 'raw', '--image-format', 'raw', '--no-shrink'
        )
        self.openstack('ami', 'save', 'raw', '--directory', self.target)
        again = self.openstack_json('ami', 'upload', self.target, user='other')
        self.assertEqual('raw', again['disk_format'])
        self.assertEqual(shown['sha512'], again['sha512'])

    def test_altered(self) -> None:
        shown = self.saved()
        for noun in ('image', 'kernel', 'ramdisk'):
            path = pathlib.Path(shown[noun])
            data = path.read_bytes()
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
            line = self.refused('ami', 'upload', self.target)
            self.assertIn(f'{path} is not what the manifest says', line)
            path.write_bytes(data)

    def test_a_part_is_missing(self) -> None:
        shown = self.saved()
        pathlib.Path(shown['ramdisk']).unlink()
        line = self.refused('ami', 'upload', self.target)
        self.assertIn('web_1-initrd: no such file', line)


class TestArchive(SaveCase):
    def setUp(self) -> None:
        super().setUp()
        self.target.mkdir()

    def test_what_is_in_it(self) -> None:
        shown = self.saved('--layout', 'uec')
        self.assertEqual(['web_1.tar.gz'], os.listdir(self.target))
        with tarfile.open(shown['image']) as archive:
            members = {m.name: m for m in archive}
        self.assertEqual(
            ['manifest.json', 'web_1-vmlinuz', 'web_1-initrd', 'web_1.img'],
            list(members),
        )
        for member in members.values():
            self.assertEqual((0, 0, 0), (member.mtime, member.uid, member.gid))

    def test_always_the_same(self) -> None:
        path = pathlib.Path(self.saved('--layout', 'uec')['image'])
        data = path.read_bytes()
        self.assertEqual(0, self.saved('--layout', 'uec')['downloaded'])
        path.unlink()
        self.saved('--layout', 'uec')
        self.assertTrue(path.read_bytes() == data, 'not the same')

    def test_something_else_is_there(self) -> None:
        path = self.target / 'web_1.tar.gz'
        path.write_bytes(b'mine')
        line = self.refused(
            'ami', 'save', 'web/1', '--layout', 'uec',
            '--directory', self.target,
        )  # fmt: skip
        self.assertIn('exists already, and is something else', line)
        self.assertEqual(b'mine', path.read_bytes())


class TestCollecting(SaveCase):
    """Where the files of an archive are kept until it is made."""

    def setUp(self) -> None:
        super().setUp()
        self.target.mkdir()
        self.place = self.target / f'.web_1.{self.shown["id"]}.part'
        self.words = ('--layout', 'uec', '--directory', self.target)

    def refused_place(self, why: str) -> None:
        line = self.refused('ami', 'save', 'web/1', *self.words)
        self.assertIn(f'{self.place}, the directory for the download', line)
        self.assertIn(f'{why}; remove it, or choose another', line)
        self.assertEqual([self.place.name], os.listdir(self.target))

    def test_a_planted_link(self) -> None:
        theirs = self.directory / 'theirs'
        theirs.mkdir()
        self.place.symlink_to(theirs)
        self.refused_place('is a symbolic link')
        self.assertEqual([], os.listdir(theirs))

    def test_others_can_write_to_it(self) -> None:
        self.target.chmod(0o1777)
        self.place.mkdir()
        self.place.chmod(0o777)
        self.refused_place('can be written to by others')
        self.assertEqual([], os.listdir(self.place))

    def test_gone_on_with(self) -> None:
        self.place.mkdir(0o700)
        shutil.copy(self.ramdisk, self.place / 'web_1-initrd')
        parts = (self.kernel, self.root)
        self.assertEqual(
            sum(path.stat().st_size for path in parts),
            self.save(*self.words)['downloaded'],
        )
        self.assertEqual(['web_1.tar.gz'], os.listdir(self.target))

    def test_where_others_can_rename_it(self) -> None:
        self.target.chmod(0o777)
        path = pathlib.Path(self.save(*self.words)['image'])
        self.assertEqual(['web_1.tar.gz'], os.listdir(self.target))
        # It is whole.
        self.assertEqual(0, self.save(*self.words)['downloaded'])
        with tarfile.open(path) as archive:
            self.assertIn('web_1.img', archive.getnames())

    def test_errors_where_others_can_rename_it(self) -> None:
        self.target.chmod(0o777)
        self.place.mkdir(0o700)
        (self.place / 'notes').touch()
        line = self.refused('ami', 'save', 'web/1', *self.words)
        self.assertIn(f'{self.place} contains something else: notes', line)
