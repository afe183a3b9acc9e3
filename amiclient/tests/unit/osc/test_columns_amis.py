# SPDX-License-Identifier: Apache-2.0


from amiclient import findings
from amiclient.glance import links
from amiclient.glance.verify import rules
from amiclient.osc import columns
from amiclient.tests import base
from amiclient.tests.unit.glance import records
from amiclient.tests.unit.osc import test_columns_uploads

BAD = findings.Finding(
    'error', 'less-visible', 'It fails', 'openstack image set', 'kernel'
)
ODD = findings.Finding('warning', 'min-disk', 'It is small', None, 'AMI')


def listed(found, *, long=False, check=False):
    table = columns.amis(long=long, check=check)
    headers, rows = columns.many(table, [found])
    return dict(zip(headers, next(rows), strict=True))


def shown(found):
    return dict(zip(*columns.one(columns.AMI, found), strict=True))


def machine(row):
    return {
        name: test_columns_uploads.machine(value)
        for name, value in row.items()
    }


class TestList(base.TestCase):
    def test_long_lists_have_more(self):
        ami = links.Ami(
            records.record(kernel_id='k', tags=['t']), records.kernel()
        )
        short = listed(rules.Report(ami))
        self.assertEqual(
            ['ID', 'Name', 'Status', 'Kernel', 'Ramdisk'], [*short]
        )
        self.assertEqual('vmlinuz', short['Kernel'].human_readable())
        self.assertEqual('k', short['Kernel'].machine_readable())
        self.assertEqual('None', short['Ramdisk'].human_readable())
        row = machine(listed(rules.Report(ami), long=True))
        self.assertEqual([*short], [*row][:5])
        self.assertEqual('k', row['Kernel'])
        self.assertEqual('vmlinuz', row['Kernel Name'])
        self.assertIsNone(row['Ramdisk Name'])
        self.assertEqual(['t'], row['Tags'])

    def test_health(self):
        ami = links.Ami(records.record(kernel_id='k'))
        for found, text in (
            ((), 'ok'),
            ((BAD, ODD, ODD), 'error: less-visible, min-disk'),
        ):
            row = listed(rules.Report(ami, found), check=True)
            self.assertEqual(text, row['Health'].human_readable())
        self.assertEqual(
            {
                'severity': 'error',
                'rule': 'less-visible',
                'message': 'It fails',
                'remedy': 'openstack image set',
            },
            row['Health'].machine_readable()[0],
        )


class TestShow(base.TestCase):
    def test_a_link_to_nothing_shows(self):
        found = shown(rules.Report(links.Ami(records.record(kernel_id='k'))))
        self.assertEqual('missing', found['kernel_status'])
        self.assertEqual('k', found['kernel_id'])
        self.assertIsNone(found['kernel_name'])
        self.assertIsNone(found['ramdisk_status'])
        self.assertEqual('None', found['ramdisk'].human_readable())
        self.assertEqual('k (missing): ok', found['kernel'].human_readable())

    def test_parts_are_nested(self):
        image = records.record(kernel_id=records.kernel().id)
        ami = links.Ami(image, records.kernel(size=2**20, stores='a,b'))
        found = shown(rules.Report(ami, (BAD, ODD)))
        self.assertEqual(
            'vmlinuz (active, aki/aki, 1048576 bytes, shared): '
            'error: less-visible',
            found['kernel'].human_readable(),
        )
        kernel = machine(found)['kernel']
        self.assertEqual(2**20, kernel['size'])
        self.assertEqual('shared', kernel['visibility'])
        self.assertEqual(['a', 'b'], kernel['stores'])
        self.assertEqual(
            ['less-visible'], [row['rule'] for row in kernel['findings']]
        )
        self.assertEqual(2, len(machine(found)['findings']))
        self.assertEqual(
            'error: less-visible: It fails\nwarning: min-disk: It is small',
            found['findings'].human_readable(),
        )

    def test_properties_and_dates(self):
        properties = {'os_distro': 'debian', 'os_version': '12', 'mine': 'x'}
        ami = links.Ami(records.record(**properties))
        row = machine(shown(rules.Report(ami)))
        for name in ('os_distro', 'os_version'):
            self.assertEqual(properties[name], row[name])
        self.assertEqual('x', row['properties']['mine'])
        for name in ('created_at', 'updated_at', 'hash_algo', 'hash_value'):
            self.assertIn(name, row)
