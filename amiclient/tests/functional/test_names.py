# SPDX-License-Identifier: Apache-2.0

"""Names that several images have, and what the command can tell by itself."""

from amiclient.tests.functional import triples
from amiclient.tests.unit.rootfs import samples


class TestNames(triples.TripleCase):
    def setUp(self) -> None:
        super().setUp()
        # One of each kind, whose name is the same.
        self.same = {
            'kernel': self.create('same', 'aki', data=samples.bzimage()),
            'ramdisk': self.create(
                'same', 'ari', data=samples.initramfs(), os_hidden=True
            ),
            'ami': self.create('same', 'raw', kernel_id=self.kernel),
        }

    def test_the_command_says_which_kind(self) -> None:
        for noun in ('kernel', 'ramdisk'):
            shown = self.openstack_json('ami', noun, 'show', 'same')
            self.assertEqual(self.same[noun], shown['id'])
        shown = self.openstack_json('ami', 'show', 'same')
        self.assertEqual(self.same['ami'], shown['id'])
        self.openstack('ami', 'set', 'same', '--tag', 'a')
        self.assertEqual(['a'], self.get(self.same['ami'])['tags'])
        self.openstack('ami', 'unset', 'same', '--tag', 'a')
        self.assertEqual([], self.get(self.same['ami'])['tags'])

    def test_so_does_an_option(self) -> None:
        self.openstack(
            *('ami', 'set', 'web', '--kernel', 'same', '--ramdisk', 'same'),
            stderr=None,
        )
        web = self.get(self.ami)
        for noun in ('kernel', 'ramdisk'):
            self.assertEqual(self.same[noun], web[f'{noun}_id'])
            (row,) = self.openstack_json('ami', 'list', f'--{noun}', 'same')
            self.assertEqual(self.ami, row['ID'])

    def test_what_may_be_one_as_well(self) -> None:
        """A kernel can be stored in another format, an AMI become one."""
        plain = self.create('same', 'raw')
        told = self.refused('ami', 'kernel', 'show', 'same')
        self.assertIn(f'{self.same["kernel"]} (kernel, active', told)
        self.assertIn(f'{plain} (raw, queued', told)
        told = self.refused(
            *('ami', 'set', 'same', '--kernel', self.kernel, '--name', 'x')
        )
        self.assertIn(f'{self.same["ami"]} (AMI, queued', told)
        shown = self.openstack_json('ami', 'show', 'same')
        self.assertEqual(self.same['ami'], shown['id'])

    def test_not_to_delete(self) -> None:
        for words in (('ami',), ('ami', 'kernel'), ('ami', 'ramdisk')):
            told = self.refused(*words, 'delete', 'same')
            self.assertIn("3 images are named 'same'", told)
            self.assertIn(f'{self.same["ramdisk"]} (ramdisk, hidden', told)


class TestFilters(triples.TripleCase):
    def test_what_is_of_another_kind(self) -> None:
        for option, words in (
            (('--kernel', 'initrd'), 'is a ramdisk, not a kernel'),
            (('--kernel', self.ramdisk), 'is a ramdisk, not a kernel'),
            (('--kernel', 'web'), 'is an AMI, not a kernel'),
            (('--ramdisk', self.kernel), 'is a kernel, not a ramdisk'),
            (('--ramdisk', self.ami), 'is an AMI, not a ramdisk'),
        ):
            told = self.refused('ami', 'list', *option)
            self.assertIn(words, told)

    def test_what_may_be_one(self) -> None:
        """Kernels of other formats; and links that lead to the wrong kind."""
        raw = self.create('raw-kernel', 'raw')
        self.assertEqual(
            [], self.openstack_json('ami', 'list', '--kernel', raw)
        )
        wrong = self.create('wrong', 'ami', kernel_id=self.ramdisk)
        (row,) = self.openstack_json('ami', 'list', '--kernel', 'initrd')
        self.assertEqual(wrong, row['ID'])

    def test_sort(self) -> None:
        for given in ('name:up', 'nosuch', 'size:desc,nosuch:asc'):
            for words in (('list',), ('kernel', 'list')):
                told = self.refused('ami', *words, '--sort', given)
                self.assertIn('; give <key>[:asc|desc]', told)
