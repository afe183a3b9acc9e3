# SPDX-License-Identifier: Apache-2.0


from amiclient.glance import model
from amiclient.glance.upload import request
from amiclient.osc import columns
from amiclient.tests import base
from amiclient.tests.unit.glance import records

CONTRACT = (
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
)


def machine(value):
    """Tell what a value is in JSON."""
    return getattr(value, 'machine_readable', lambda: value)()


def as_dict(table):
    headers, values = table
    return dict(zip(headers, map(machine, values), strict=True))


class TestUpload(base.TestCase):
    def test_the_columns_are_those_of_the_contract(self):
        record = records.record(kernel_id='k', ramdisk_id='r')
        table = columns.uploaded(record, 4096, ('k',))
        self.assertEqual(CONTRACT, table[0])
        found = as_dict(table)
        self.assertEqual(1024, found['size'])
        self.assertEqual(4096, found['uploaded'])
        self.assertEqual(['k'], found['reused'])
        self.assertEqual('f' * 128, found['sha512'])
        self.assertEqual('k', found['kernel_id'])

    def test_a_plan_has_the_same_and_one_more(self):
        steps = (
            request.Reuse(model.Kind.AKI, records.kernel(size=7)),
            request.Creation(
                model.Kind.ARI,
                model.NewImage('initrd', 'ari', 'ari'),
                model.Payload('initrd', 2000),
            ),
            request.Creation(
                model.Kind.AMI,
                model.NewImage('root', 'raw', 'bare'),
                model.Payload('root', 30000),
            ),
        )
        table = columns.planned(steps)
        self.assertEqual((*CONTRACT, 'plan'), table[0])
        found = as_dict(table)
        self.assertEqual('planned', found['status'])
        self.assertEqual('raw', found['disk_format'])
        self.assertIsNone(found['id'])
        self.assertEqual(30000, found['size'])
        self.assertEqual(32000, found['uploaded'])
        self.assertEqual(records.kernel().id, found['kernel_id'])
        self.assertIsNone(found['ramdisk_id'])
        self.assertEqual([records.kernel().id], found['reused'])
        self.assertEqual(
            [
                ('kernel', 'reuse', 7, records.kernel().id),
                ('ramdisk', 'create', 2000, None),
                ('image', 'create', 30000, None),
            ],
            [
                (row['role'], row['action'], row['size'], row['id'])
                for row in found['plan']
            ],
        )
        human = table[1][-1].human_readable().splitlines()
        self.assertEqual(
            'create ramdisk initrd: ari/ari, 2000 bytes', human[1]
        )

    def test_a_part_has_no_links(self):
        table = columns.planned(
            [request.Reuse(model.Kind.AKI, records.kernel())]
        )
        found = as_dict(table)
        self.assertEqual(records.kernel().id, found['id'])
        self.assertIsNone(found['kernel_id'])
        self.assertEqual(0, found['uploaded'])
