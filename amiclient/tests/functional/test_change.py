# SPDX-License-Identifier: Apache-2.0

"""``openstack ami set`` and ``openstack ami unset``, by several users."""

from amiclient.tests.functional import triples
from amiclient.tests.unit.rootfs import samples


class TestSet(triples.TripleCase):
    def test_says_nothing(self) -> None:
        self.assertEqual(
            '',
            self.openstack(
                *('ami', 'set', 'web', '--name', 'www', '--tag', 'a'),
                *('--property', 'hw_rng_model=virtio', '--hidden'),
                *('--os-distro', 'debian', '--os-version', '12'),
                *('--min-disk', '3', '--min-ram', '512', '--protected'),
            ),
        )
        image = self.get(self.ami)
        expected = {
            'name': 'www',
            'tags': ['a'],
            'hw_rng_model': 'virtio',
            'os_distro': 'debian',
            'os_version': '12',
            'min_disk': 3,
            'min_ram': 512,
            'protected': True,
            'os_hidden': True,
        }
        self.assertEqual(expected, {k: image[k] for k in expected})
        # Hidden ones are found by their names all the same.
        self.openstack('ami', 'set', 'www', '--unhidden', '--unprotected')
        self.assertIs(False, self.get(self.ami)['os_hidden'])
        self.openstack(
            *('ami', 'unset', 'www', '--tag', 'a'),
            *('--property', 'hw_rng_model', '--ramdisk'),
            stderr=None,
        )
        image = self.get(self.ami)
        self.assertEqual([], image['tags'])
        self.assertNotIn('hw_rng_model', image)
        self.assertNotIn('ramdisk_id', image)

    def test_what_others_need_is_not_taken_off(self) -> None:
        words = ('ami', 'unset', 'web', '--property', 'architecture')
        kernel = self.openstack_json('ami', 'show', 'web')['kernel_id']
        other = self.create('other', 'ami', data=b'x' * 1024, kernel_id=kernel)
        self.openstack('image', 'set', kernel, '--property', 'architecture=x')
        self.openstack('image', 'set', 'web', '--property', 'architecture=x')
        (note,) = self.told(*words, '--linked')
        self.assertIn('keeps the property architecture: needed by', note)
        self.assertIn(other, note)
        self.assertEqual('x', self.get(kernel)['architecture'])
        self.openstack('image', 'delete', other)
        self.openstack(*words, '--linked')
        self.assertNotIn('architecture', self.get(kernel))

    def test_dry_run(self) -> None:
        told = self.openstack(
            *('ami', 'set', 'web', '--community', '--linked', '--dry-run')
        )
        self.assertEqual(
            [
                f"kernel 'vmlinuz' ({self.kernel}): set visibility=community",
                f"ramdisk 'initrd' ({self.ramdisk}): set visibility=community",
                f"image 'web' ({self.ami}): set visibility=community",
            ],
            told.splitlines(),
        )
        self.assertEqual(['shared'] * 3, self.values('visibility'))

    def test_linked(self) -> None:
        for visibility in ('community', 'private', 'shared'):
            self.openstack('ami', 'set', 'web', f'--{visibility}', '--linked')
            self.assertEqual([visibility] * 3, self.values('visibility'))
            is_seen = visibility == 'community'
            for id in self.triple:
                seen = self.get(id, 'other') is not None
                self.assertEqual(is_seen, seen, visibility)

    def test_public_and_back(self) -> None:
        told = self.refused('ami', 'set', 'web', '--public', '--linked')
        self.assertIn('--community does not need that permission', told)
        self.openstack(
            *('ami', 'set', self.ami, '--public', '--linked'), user='admin'
        )
        self.assertEqual(['public'] * 3, self.values('visibility'))
        self.openstack('ami', 'set', 'web', '--private', '--linked')
        self.assertEqual(['private'] * 3, self.values('visibility'))

    def test_without_linked_it_would_not_boot(self) -> None:
        told = self.refused('ami', 'set', 'web', '--community')
        self.assertIn('add --linked', told)

    def test_who_may_not(self) -> None:
        words = ('ami', 'set', self.ami, '--name', 'x')
        self.assertIn('the role member', self.refused(*words, user='reader'))
        self.assertIn('no image has', self.refused(*words, user='other'))
        project = self.project('other')
        self.openstack('ami', 'add', 'project', 'web', project, stderr=None)
        told = self.refused(*words, user='other')
        self.assertIn(f'belongs to the project {self.project("demo")}', told)

    def test_names(self) -> None:
        second = self.create('web', 'ami', kernel_id=self.kernel)
        told = self.refused('ami', 'set', 'web', '--name', 'x')
        # Those that a script made have the same date.
        created = f'created {self.get(second)["created_at"][:16]}'
        for words in (
            f'{self.ami} (AMI, ',
            f'{second} (AMI, ',
            created.replace('T', ' '),
            'give the id of one',
        ):
            self.assertIn(words, told)
        told = self.refused('ami', 'set', 'vmlinuz', '--name', 'x')
        self.assertIn('is a kernel, not an AMI', told)


class TestKernel(triples.TripleCase):
    def setUp(self) -> None:
        super().setUp()
        self.file = self.tmp() / 'vmlinuz-7'
        self.file.write_bytes(samples.bzimage() + bytes(512))

    def link(self) -> str:
        id: str = self.get(self.ami)['kernel_id']
        return id

    def test_a_new_kernel_is_one_command(self) -> None:
        project = self.project('other')
        self.openstack('ami', 'add', 'project', 'web', project, stderr=None)
        self.openstack('ami', 'set', 'web', '--protected')
        (note,) = self.told('ami', 'set', 'web', '--kernel', self.file)
        new = self.link()
        self.assertNotEqual(self.kernel, new)
        kernel = self.get(new)
        self.assertEqual(
            ('vmlinuz-7', 'active', 'shared', True, 'x86_64'),
            tuple(
                kernel[key]
                for key in (
                    *('name', 'status', 'visibility', 'protected'),
                    'architecture',
                )
            ),
        )
        self.assertEqual([project], self.members(new))
        # The old kernel stays; the command that deletes it is told, and works.
        self.assertIn(f"'vmlinuz' ({self.kernel}) is no longer linked", note)
        command = note.partition('openstack ')[2].split()
        # A project that the AMI was shared with may use it: that is told.
        self.openstack(*command, stderr=None)
        self.assertIsNone(self.get(self.kernel))

    def test_sent_once(self) -> None:
        self.openstack('ami', 'set', 'web', '--kernel', self.file, stderr=None)
        new, images = self.link(), self.images()
        for words in (
            ('--kernel', self.kernel),
            ('--kernel', self.file),
            ('--kernel', 'vmlinuz-7', '--no-ramdisk'),
        ):
            self.openstack('ami', 'set', 'web', *words, stderr=None)
        self.assertEqual(new, self.link())
        self.assertEqual(images, self.images())
        self.assertNotIn('ramdisk_id', self.get(self.ami))

    def test_removed_if_the_link_cannot_be_changed(self) -> None:
        # Glance stores 128 properties of an image at most.
        many = [
            word
            for number in range(130)
            for word in ('--property', f'p{number}=x')
        ]
        told = self.refused('ami', 'set', 'web', '--kernel', self.file, *many)
        self.assertIn('HTTP 413', told)

    def test_a_reader_sends_nothing(self) -> None:
        told = self.refused(
            'ami', 'set', 'web', '--kernel', self.file, user='reader'
        )
        self.assertIn('creating image vmlinuz-7 failed', told)

    def test_an_administrator_gives_it_to_the_owner(self) -> None:
        self.openstack(
            *('ami', 'set', self.ami, '--kernel', self.file),
            user='admin',
            stderr=None,
        )
        self.assertEqual(self.project('demo'), self.get(self.link())['owner'])

    def test_another_projects_kernel(self) -> None:
        data = samples.bzimage() + bytes(1024)
        other = self.create(
            'theirs', 'aki', data=data, user='other', visibility='community'
        )
        self.openstack('ami', 'set', 'web', '--kernel', other, stderr=None)
        self.assertEqual(other, self.link())
        words = ('ami', 'set', 'web', '--private', '--hidden', '--linked')
        for more in (('--dry-run',), ()):
            finished = self.run_openstack(*words, *more)
            self.assertEqual(1, finished.status)
            (line,) = finished.stderr.splitlines()
            self.assertIn(f"kernel 'theirs' ({other}) of the project", line)
            self.assertIn(' stays community and unhidden', line)
        self.assertEqual('community', self.get(other)['visibility'])
        # The rest is done all the same.
        for id in (self.ami, self.ramdisk):
            image = self.get(id)
            self.assertEqual(
                ('private', True), (image['visibility'], image['os_hidden'])
            )
        # What is so already is well.
        self.openstack(
            *('ami', 'set', 'web', '--community', '--unhidden', '--linked')
        )

    def test_a_kernel_that_is_less_visible(self) -> None:
        data = samples.bzimage() + bytes(1024)
        kernel = self.create('k', 'aki', data=data, visibility='private')
        self.openstack('ami', 'set', 'web', '--community', '--linked')
        words = ('ami', 'set', 'web', '--kernel', 'k')
        self.assertIn('add --linked', self.refused(*words))
        self.openstack(*words, '--linked', stderr=None)
        self.assertEqual(kernel, self.link())
        self.assertEqual('community', self.get(kernel)['visibility'])
