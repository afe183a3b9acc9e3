# SPDX-License-Identifier: Apache-2.0


from unittest import mock

from amiclient import errors
from amiclient.glance import client
from amiclient.glance import links
from amiclient.tests import base
from amiclient.tests.unit.glance import records

KERNEL = records.kernel().id
RAMDISK = records.ramdisk().id


class TestLinks(base.TestCase):
    def setUp(self):
        super().setUp()
        self.catalog = mock.create_autospec(client.Catalog, instance=True)
        self.catalog.get_many.return_value = {KERNEL: records.kernel()}

    def test_an_ami_is_what_links_to_a_kernel(self):
        self.catalog.images.return_value = iter(
            [
                records.record(id='1', kernel_id=KERNEL),
                records.record(id='2'),
                records.record(id='3', kernel_id=KERNEL, disk_format='qcow2'),
                records.record(id='4', ramdisk_id=RAMDISK),
                records.record(id='5', kernel_id=KERNEL),
            ]
        )
        found = list(links.list_amis(self.catalog, {'name': 'x'}, limit=2))
        self.assertEqual(['1', '3'], [ami.image.id for ami in found])
        self.catalog.images.assert_called_once_with(marker=None, name='x')
        self.catalog.get_many.assert_not_called()

    def test_links_are_resolved_in_one_go(self):
        self.catalog.images.return_value = iter(
            [
                records.record(id='1', kernel_id=KERNEL, ramdisk_id=RAMDISK),
                records.record(id='2', kernel_id=KERNEL),
            ]
        )
        found = list(links.list_amis(self.catalog, {}, resolve=True))
        self.catalog.get_many.assert_called_once_with({KERNEL, RAMDISK})
        self.assertEqual('vmlinuz', found[0].kernel.name)
        self.assertIsNone(found[0].ramdisk)
        self.assertEqual('missing', found[0].ramdisk_status)
        self.assertIsNone(found[1].ramdisk_status)

    def test_what_the_list_holds_is_not_asked_for(self):
        self.catalog.images.return_value = iter(
            [
                records.ramdisk(),
                records.record(id='1', kernel_id=KERNEL, ramdisk_id=RAMDISK),
                records.kernel(name='listed'),
            ]
        )
        found = list(links.list_amis(self.catalog, {}, resolve=True))
        self.assertEqual('listed', found[0].kernel.name)
        self.assertEqual('initrd', found[0].ramdisk.name)
        self.catalog.get_many.assert_not_called()

    def test_many_that_it_does_not_hold_are_listed_by_format(self):
        amis = [
            records.record(id=str(n), kernel_id=f'k{n}', ramdisk_id=RAMDISK)
            for n in range(300)
        ]
        kernels = [records.kernel(id=f'k{n}') for n in range(1, 400)]
        self.catalog.images.side_effect = [
            iter(amis),
            iter([]),
            iter(kernels),
        ]
        self.catalog.get_many.return_value = {RAMDISK: records.ramdisk()}
        found = list(links.list_amis(self.catalog, {'tag': 't'}, resolve=True))
        self.assertEqual(300, len(found))
        self.assertEqual('k299', found[299].kernel.id)
        self.assertEqual('missing', found[0].kernel_status)
        self.assertEqual(RAMDISK, found[0].ramdisk.id)
        # Three lists, and what none had: gone, or of odd formats.
        self.assertEqual(3, self.catalog.images.call_count)
        self.assertEqual(
            'in:aki,ari', self.catalog.images.call_args.kwargs['disk_format']
        )
        self.catalog.get_many.assert_called_once_with(
            {'k0', RAMDISK}, hidden=(False,)
        )

    def test_more_hidden_ones_than_one_request_tells(self):
        amis = [
            records.record(id=f'{n}', kernel_id=f'k{n}') for n in range(101)
        ]
        hidden = [records.kernel(id=f'k{n}') for n in range(1, 1001)]
        self.catalog.images.side_effect = [iter(amis), iter(hidden)]
        self.catalog.get_many.return_value = {'k0': records.kernel(id='k0')}
        found = list(links.list_amis(self.catalog, {}, resolve=True))
        self.assertEqual('k0', found[0].kernel.id)
        self.catalog.get_many.assert_called_once_with(
            {'k0'}, hidden=(False, True)
        )

    def test_broken_ones_are_listed_if_wanted(self):
        images = [
            records.record(id='1'),
            records.record(id='2', disk_format='raw', kernel_id=''),
            records.record(id='3', disk_format='raw', ramdisk_id=RAMDISK),
            records.record(id='4', disk_format='raw'),
            records.record(id='5', disk_format='raw', kernel_id=None),
            records.record(id='6', kernel_id=KERNEL),
            records.kernel(),
        ]
        for wanted, expected in ((True, '1236'), (False, '6')):
            self.catalog.images.return_value = iter(images)
            found = links.list_amis(self.catalog, {}, broken=wanted)
            told = ''.join(ami.image.id for ami in found)
            self.assertEqual(expected, told)

    def test_a_kernel_that_is_queued_shows_as_such(self):
        self.catalog.get_many.return_value = {
            KERNEL: records.kernel(status='queued')
        }
        self.catalog.find.return_value = records.record(kernel_id=KERNEL)
        self.assertEqual('queued', links.show(self.catalog, 'x').kernel_status)

    def test_an_ami_without_a_kernel_can_be_shown(self):
        self.catalog.find.return_value = records.record()
        self.assertIsNone(links.show(self.catalog, 'x').kernel_status)

    def test_an_image_with_a_ramdisk_alone_can_be_shown(self):
        self.catalog.find.return_value = records.record(
            disk_format='qcow2', ramdisk_id=RAMDISK
        )
        shown = links.show(self.catalog, 'x')
        self.assertIsNone(shown.kernel_status)
        self.assertEqual('missing', shown.ramdisk_status)

    def test_another_image_is_no_ami(self):
        self.catalog.find.return_value = records.record(disk_format='qcow2')
        self.assertRaises(errors.CloudError, links.show, self.catalog, 'x')
