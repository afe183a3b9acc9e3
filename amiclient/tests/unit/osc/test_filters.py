# SPDX-License-Identifier: Apache-2.0


from unittest import mock

from amiclient import errors
from amiclient.glance import client
from amiclient.osc import ami
from amiclient.osc import filters
from amiclient.tests import base
from amiclient.tests.unit.glance import records

UUID = 'd5abc5a6-3263-4f4c-900a-f1ad6ff16bfa'


class TestQuery(base.TestCase):
    def setUp(self):
        super().setUp()
        self.catalog = mock.create_autospec(client.Catalog, instance=True)

    def query(self, *words, project=None):
        parser = ami.ListAmi(None, None).get_parser('openstack ami list')
        return filters.query(parser.parse_args(words), self.catalog, project)

    def test_by_default_only_the_order(self):
        self.assertEqual({'sort': 'name:asc'}, self.query())

    def test_everything_is_left_to_glance(self):
        self.assertEqual(
            {
                'name': 'root',
                'os_distro': 'debian',
                'tag': ['a', 'b'],
                'visibility': 'public',
                'owner': 'p',
                'os_hidden': True,
                'sort': 'created_at:desc',
            },
            self.query(
                '--name=root',
                '--property=os_distro=debian',
                '--tag=a',
                '--tag=b',
                '--public',
                '--hidden',
                '--sort=created_at:desc',
                project='p',
            ),
        )

    def test_all_are_those_that_were_not_accepted_too(self):
        for words, member_status in (
            (('--all',), 'all'),
            (('--all', '--member-status', 'pending'), 'pending'),
        ):
            made = self.query(*words)
            self.assertEqual('all', made['visibility'])
            self.assertEqual(member_status, made['member_status'])

    def test_a_name_with_a_colon_is_no_operator(self):
        self.assertEqual('eq:in:a', self.query('--name', 'in:a')['name'])

    def test_a_kernel_that_is_gone_can_be_asked_for(self):
        self.catalog.get.side_effect = errors.NotFoundError('none')
        self.assertEqual(UUID, self.query('--kernel', UUID)['kernel_id'])
        self.catalog.find.assert_not_called()

    def test_a_ramdisk_can_be_named(self):
        self.catalog.find.return_value = records.ramdisk()
        made = self.query('--ramdisk', 'initrd')
        self.assertEqual(records.ramdisk().id, made['ramdisk_id'])

    def test_properties_that_glance_takes_for_something_else(self):
        for name in ('limit', 'marker', 'sort_key', 'page_size'):
            error = self.assertRaises(
                errors.UsageError, self.query, f'--property={name}=1'
            )
            self.assertIn(repr(name), str(error))

    def test_a_name_that_nothing_has(self):
        self.catalog.find.side_effect = errors.NotFoundError('none')
        error = self.assertRaises(
            errors.NotFoundError, self.query, '--kernel', 'nosuch'
        )
        self.assertEqual(
            "no kernel has the name 'nosuch'; see `openstack ami kernel list`",
            str(error),
        )
