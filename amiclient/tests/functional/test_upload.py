# SPDX-License-Identifier: Apache-2.0

"""``openstack ami upload`` and its parts, against a real Glance."""

import hashlib
import uuid

from amiclient.ext import superblock
from amiclient.osc import options
from amiclient import process
from amiclient.tests.functional import upload
from amiclient.tests.oracle import exttree


class TestUpload(upload.UploadCase):
    def test_round_trip(self) -> None:
        before = hashlib.sha512(self.root.read_bytes()).digest()
        self.set_headroom(options.UPLOAD_HEADROOM)
        told = self.upload('--name', 'debian')
        self.assertEqual(
            [
                'id',
                'name',
                'status',
                'disk_format',
                'container_format',
                'size',
                'sha512',
                'kernel_id',
                'ramdisk_id',
                'uploaded',
                'reused',
                'size_before',
            ],
            list(told),
        )
        self.assertEqual('debian', told['name'])
        self.assertEqual('active', told['status'])
        self.assertEqual(
            self.kernel.read_bytes(),
            self.download(told['kernel_id']).read_bytes(),
        )
        self.assertEqual(
            self.ramdisk.read_bytes(),
            self.download(told['ramdisk_id']).read_bytes(),
        )
        came = self.download(told['id'])
        data = came.read_bytes()
        self.assertEqual(hashlib.sha512(data).hexdigest(), told['sha512'])
        self.assertEqual(len(data), told['size'])
        sizes = (self.kernel.stat().st_size, self.ramdisk.stat().st_size)
        self.assertEqual(len(data) + sum(sizes), told['uploaded'])
        # Room for the guest to grow it, though there was less before.
        found = superblock.read(came)
        free = found.free_blocks * found.block_size
        self.assertGreaterEqual(free, 64 << 20)
        process.run(['e2fsck', '-f', '-n', came], access=None)
        self.assertEqual(exttree.read_tree(self.root), exttree.read_tree(came))
        # And the source was only read.
        after = hashlib.sha512(self.root.read_bytes()).digest()
        self.assertEqual(before, after)
        self.assertNothingLeft()

    def test_no_headroom(self) -> None:
        told = self.upload(
            *('--headroom', '0'),
            stderr='--headroom 0 leaves no free space: on most hosts, the '
            "root filesystem will not grow to the size of the server's disk, "
            'because cloud-init needs free space before it can grow it\n',
        )
        self.assertLess(told['size'], self.root.stat().st_size)

    def test_records(self) -> None:
        told = self.upload(
            '--tag', 'a', '--property', 'os_version=12.5', '--min-ram', '256'
        )
        ami = self.get(told['id'])
        self.assertEqual(told['kernel_id'], ami['kernel_id'])
        self.assertEqual(told['ramdisk_id'], ami['ramdisk_id'])
        expected = {
            'name': 'root',
            'architecture': 'x86_64',
            'os_type': 'linux',
            'os_distro': 'debian',
            'os_version': '12.5',
            'min_disk': 1,
            'min_ram': 256,
            'tags': ['a'],
            'protected': False,
            'visibility': 'shared',
        }
        self.assertEqual(expected, {key: ami[key] for key in expected})
        kernel, ramdisk = (
            self.get(told[f'{noun}_id']) for noun in ('kernel', 'ramdisk')
        )
        self.assertEqual(
            [('vmlinuz', 'aki', 'aki'), ('initrd', 'ari', 'ari')],
            [
                (i['name'], i['disk_format'], i['container_format'])
                for i in (kernel, ramdisk)
            ],
        )
        for image in (ami, kernel, ramdisk):
            self.assertEqual(
                [], [key for key in image if key.startswith('owner_')]
            )

    def test_a_script_gets_the_id(self) -> None:
        told = self.openstack(
            'ami', 'upload', self.root, *self.parts, '-f', 'value', '-c', 'id'
        )
        self.assertEqual(f'{uuid.UUID(told.strip())}\n', told)

    def test_dry_run(self) -> None:
        planned = self.upload('--dry-run')
        self.assertEqual([], self.images())
        self.assertNothingLeft()
        self.assertEqual('planned', planned['status'])
        self.assertIsNone(planned['id'])
        self.assertEqual(
            ['create', 'create', 'create'],
            [step['action'] for step in planned['plan']],
        )
        done = self.upload()
        for key in ('name', 'disk_format', 'size', 'uploaded', 'reused'):
            self.assertEqual(done[key], planned[key], key)

    def test_images_by_name_and_id(self) -> None:
        kernel = self.openstack_json(
            'ami', 'kernel', 'upload', self.kernel, '--name', 'linux-6'
        )
        ramdisk = self.openstack_json('ami', 'ramdisk', 'upload', self.ramdisk)
        self.parts = ('--kernel', 'linux-6', '--ramdisk', ramdisk['id'])
        told = self.upload()
        self.assertEqual(kernel['id'], told['kernel_id'])
        self.assertEqual(ramdisk['id'], told['ramdisk_id'])
        self.assertEqual('x86_64', self.get(told['id'])['architecture'])

    def test_raw(self) -> None:
        told = self.upload('--image-format', 'raw')
        self.assertEqual('raw', told['disk_format'])
        self.assertEqual('bare', told['container_format'])
        self.assertEqual(told['kernel_id'], self.get(told['id'])['kernel_id'])

    def test_neither_kernel_nor_ramdisk(self) -> None:
        for parts in (('--no-kernel', '--no-ramdisk'), ('--no-kernel',)):
            self.parts = parts
            told = self.upload('--no-reuse', '--name', str(len(parts)))
            self.assertIsNone(told['kernel_id'])
            self.assertNotIn('kernel_id', self.get(told['id']))
            self.assertNotIn('ramdisk_id', self.get(told['id']))

    def test_no_shrink_sends_the_filesystem_and_no_more(self) -> None:
        data = self.root.read_bytes()
        with self.root.open('ab') as file:
            file.write(b'the rest of a larger device')
        warning = (
            f'{self.root}: the 27 bytes after its filesystem are not zeros; '
            'they are not part of it, and are left out\n'
        )
        told = self.upload('--no-shrink', stderr=warning)
        self.assertEqual(data, self.download(told['id']).read_bytes())

    def test_an_old_boot_sector(self) -> None:
        with self.root.open('r+b') as file:
            file.write(b'\xeb' * 510 + b'\x55\xaa')
        warning = (
            f'{self.root}: an old boot sector in its first 1024 bytes is '
            'sent as zeros, because Nova would treat the image as a '
            'partitioned disk\n'
        )
        told = self.upload(stderr=warning)
        came = self.download(told['id'])
        self.assertEqual(bytes(1024), came.read_bytes()[:1024])
        process.run(['e2fsck', '-f', '-n', came], access=None)

    def test_protected_and_hidden(self) -> None:
        told = self.upload('--protected', '--hidden', '--private')
        for key in ('id', 'kernel_id', 'ramdisk_id'):
            image = self.get(told[key])
            self.assertTrue(image['protected'])
            self.assertTrue(image['os_hidden'])
            self.assertEqual('private', image['visibility'])

    def test_a_chosen_id(self) -> None:
        # Not a seeded one: Glance remembers the ids of deleted images.
        chosen = str(uuid.uuid4())
        self.assertEqual(chosen, self.upload('--id', chosen)['id'])
        text = self.refused(
            'ami', 'upload', self.root, *self.parts, '--id', chosen
        )
        self.assertIn(chosen, text)

    def test_another_project(self) -> None:
        told = self.upload(
            '--project', 'other', '--project-domain', 'default', user='admin'
        )
        seen = self.openstack_json('ami', 'list', user='other')
        self.assertEqual([told['id']], [row['ID'] for row in seen])

    def test_a_work_directory(self) -> None:
        place = self.tmp()
        self.upload('--work-directory', place)
        self.assertEqual([], list(place.iterdir()))


class TestParts(upload.UploadCase):
    def test_twice_is_once(self) -> None:
        for noun, path in (('kernel', self.kernel), ('ramdisk', self.ramdisk)):
            first = self.openstack_json('ami', noun, 'upload', path)
            self.assertEqual(path.stat().st_size, first['uploaded'])
            self.assertEqual('active', first['status'])
            second = self.openstack_json('ami', noun, 'upload', path)
            self.assertEqual(first['id'], second['id'])
            self.assertEqual([first['id']], second['reused'])
            self.assertEqual(0, second['uploaded'])
        self.assertEqual(2, len(self.images()))

    def test_dry_run(self) -> None:
        told = self.openstack_json(
            'ami', 'kernel', 'upload', self.kernel, '--dry-run'
        )
        self.assertEqual('create', told['plan'][0]['action'])
        self.assertEqual([], self.images())
