# SPDX-License-Identifier: Apache-2.0

"""What the cloud holds already is not sent again, and never by mistake."""

import json
import subprocess

from amiclient.glance.upload import marks
from amiclient.tests.functional import upload


class TestRoot(upload.UploadCase):
    """The same source twice."""

    def assertReused(self, *words: str) -> dict:
        """Upload twice; the second time sends nothing."""
        first = self.upload(*words)
        ids = [first['kernel_id'], first['ramdisk_id'], first['id']]
        ids = [image for image in ids if image]
        before = self.images()
        planned = self.upload(*words, '--dry-run')
        second = self.upload(*words)
        self.assertEqual(first['id'], second['id'])
        self.assertEqual(first['sha512'], second['sha512'])
        for told in (planned, second):
            self.assertEqual(0, told['uploaded'])
            self.assertEqual(ids, told['reused'])
        self.assertEqual(first['id'], planned['id'])
        self.assertEqual(
            ['reuse'] * len(ids), [step['action'] for step in planned['plan']]
        )
        self.assertEqual(before, self.images())
        self.assertNothingLeft()
        return first

    def assertSent(self, first: dict, *words: str, why: str) -> dict:
        """Upload what is there, but is not what is asked for now."""
        second = self.upload(
            *words,
            stderr=f'the image {first["name"]!r} ({first["id"]}) holds the '
            f'same bytes, but {why}: a new one was created\n',
        )
        self.assertNotEqual(first['id'], second['id'])
        self.assertEqual(first['sha512'], second['sha512'])
        self.assertEqual(second['size'], second['uploaded'])
        return second

    def test_twice(self) -> None:
        self.assertReused()

    def test_with_everything(self) -> None:
        self.assertReused(
            *('--name', 'web: 1', '--tag', 'a', '--property', 'x=y'),
            *('--min-disk', '3', '--min-ram', '64', '--private'),
            *('--protected', '--store', 'second', '--headroom', '5%'),
            *('--journal', 'none', '--architecture', 'x86_64'),
        )

    def test_neither_kernel_nor_ramdisk(self) -> None:
        self.parts = ('--no-kernel', '--no-ramdisk')
        self.assertReused()

    def test_as_it_is(self) -> None:
        self.assertReused('--no-shrink')

    def test_raw(self) -> None:
        self.assertReused('--image-format', 'raw')

    def test_hidden(self) -> None:
        self.parts = ('--no-kernel', '--no-ramdisk')
        self.assertReused('--hidden')

    def test_no_mark_stays(self) -> None:
        told = self.upload('--protected')
        for key in ('id', 'kernel_id', 'ramdisk_id'):
            self.assertNotIn(marks.PROPERTY, self.get(told[key]))

    def test_another_name(self) -> None:
        first = self.upload()
        self.assertSent(first, '--name', 'web', why="its name is not 'web'")

    def test_another_property(self) -> None:
        first = self.upload()
        text = self.openstack(
            *('ami', 'upload', self.root, *self.parts),
            *('--property', 'os_version=13', '--dry-run'),
            stderr=self.taken(first),
        )
        self.assertIn('create image', text)

    def test_another_content(self) -> None:
        first = self.upload()
        self.run_debugfs('mkdir /new')
        second = self.upload(stderr=self.taken(first))
        self.assertNotEqual(first['id'], second['id'])
        self.assertNotEqual(first['sha512'], second['sha512'])
        self.assertEqual(first['kernel_id'], second['kernel_id'])

    def run_debugfs(self, command: str) -> None:
        subprocess.run(
            ['debugfs', '-w', '-R', command, self.root],
            check=True,
            capture_output=True,
        )

    def taken(self, first: dict) -> str:
        return (
            f"another image has the name 'root' already, {first['id']}: "
            'commands that use the name will find several\n'
        )

    def test_no_reuse(self) -> None:
        first = self.upload()
        second = self.upload('--no-reuse', stderr=self.taken(first))
        self.assertEqual([], second['reused'])
        ids = (first['id'], first['kernel_id'], first['ramdisk_id'])
        for key in ('id', 'kernel_id', 'ramdisk_id'):
            self.assertNotIn(second[key], ids)


class TestKernel(upload.UploadCase):
    """Kernels that hold the right bytes, and will not do."""

    def setUp(self) -> None:
        super().setUp()
        self.first = self.kernel_upload()

    def kernel_upload(self, *words: str, **options) -> dict:
        return self.openstack_json(
            'ami', 'kernel', 'upload', self.kernel, *words, **options
        )

    def assertPassedOver(self, why: str, *words: str, **options) -> None:
        told = self.kernel_upload(
            *words,
            stderr=f"the image 'vmlinuz' ({self.first['id']}) holds the same "
            f'bytes, but {why}: a new one is created\n',
            **options,
        )
        self.assertNotEqual(self.first['id'], told['id'])
        self.assertEqual([], told['reused'])

    def test_deactivated(self) -> None:
        admin = self.embedded.connection('admin').image
        admin.deactivate_image(self.first['id'])
        self.assertPassedOver('is deactivated')

    def test_hidden(self) -> None:
        self.openstack('image', 'set', '--hidden', self.first['id'])
        self.assertPassedOver('is hidden')

    def test_less_visible(self) -> None:
        self.openstack('image', 'set', '--private', self.first['id'])
        self.assertPassedOver('is private, not shared')

    def test_of_another_project(self) -> None:
        project = self.get(self.first['id'])['owner']
        self.assertPassedOver(
            f'belongs to the project {project}', user='admin'
        )

    def test_another_name_was_asked_for(self) -> None:
        self.assertPassedOver("its name is not 'linux'", '--name', 'linux')

    def test_of_another_project_for_everybody(self) -> None:
        self.openstack('image', 'set', '--community', self.first['id'])
        told = self.kernel_upload(user='other', stderr=None)
        self.assertEqual(self.first['id'], told['id'])
        # Not silently: its owner may delete it.
        owner = self.get(told['id'])['owner']
        warning = self.run_openstack(
            'ami', 'kernel', 'upload', self.kernel, '--dry-run', user='other'
        ).stderr
        self.assertIn(f'belongs to the project {owner} and is', warning)
        self.assertIn('--no-reuse', warning)

    def test_in_another_store(self) -> None:
        upload = ('ami', 'upload', self.root, '--kernel', self.kernel)
        upload = (*upload, '--no-ramdisk', '--store', 'second', '--dry-run')
        upload = (*upload, '--project', 'demo', '-f', 'json')
        for user, action, words in (
            ('demo', 'create', 'only administrators'),
            ('admin', 'reuse', "is reused, and copied to the store 'second'"),
        ):
            finished = self.run_openstack(*upload, user=user)
            self.assertEqual(0, finished.status, finished)
            kernel, root = json.loads(finished.stdout)['plan']
            self.assertEqual(action, kernel['action'])
            self.assertIn('second', kernel['stores'])
            self.assertEqual(['second'], root['stores'])
            for said in (self.first['id'], "the store 'second'", words):
                self.assertIn(said, finished.stderr)

    def test_of_an_upload_that_is_not_complete(self) -> None:
        # It is active, but the run that made it may still remove it.
        self.openstack(
            *('image', 'set', '--property'),
            f'{marks.PROPERTY}={marks.UploadRun.this()}',
            self.first['id'],
        )
        self.assertPassedOver('belongs to an upload that is not complete')

    def test_of_a_run_that_was_killed(self) -> None:
        ended = subprocess.Popen(['true'])
        run = marks.UploadRun.of(ended.pid)
        ended.wait()
        self.openstack(
            *('image', 'set', '--property', f'{marks.PROPERTY}={run}'),
            self.first['id'],
        )
        told = self.kernel_upload()
        self.assertEqual(self.first['id'], told['id'])
        self.assertNotIn(marks.PROPERTY, self.get(told['id']))


class TestAtOnce(upload.UploadCase):
    """Several runs with the same source, as processes of their own."""

    def test_three(self) -> None:
        words = ('ami', 'upload', self.root, *self.parts, *self.less)
        words += ('-f', 'json')
        running = [self.start_openstack(*words) for _ in range(3)]
        for process in running:
            _, stderr = process.communicate(timeout=120)
            self.assertEqual(0, process.returncode, stderr)
        # All that is there is whole, and none is linked to what is not.
        found = {image: self.get(image) for image in self.images()}
        amis = [i for i in found.values() if i['disk_format'] == 'ami']
        self.assertTrue(amis)
        for image in found.values():
            self.assertEqual('active', image['status'])
            self.assertNotIn(marks.PROPERTY, image)
        for image in amis:
            self.assertIn(image['kernel_id'], found)
            self.assertIn(image['ramdisk_id'], found)
        self.assertNothingLeft()
