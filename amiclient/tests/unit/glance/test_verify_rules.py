# SPDX-License-Identifier: Apache-2.0

"""How reports on AMIs are made: what is asked, and what is not."""

import dataclasses
import pathlib
from unittest import mock

import amiclient
from amiclient.glance import client
from amiclient.glance import links
from amiclient.glance.verify import bare_metal_rules
from amiclient.glance.verify import context
from amiclient.glance.verify import rules
from amiclient.glance.verify import verify
from amiclient.rootfs import check
from amiclient.tests import base
from amiclient.tests.unit.glance import records
from amiclient.tests.unit.glance import wire

KERNEL = records.kernel().id
RAMDISK = records.ramdisk().id
AMI = records.record().id


def ami(visibility='shared', *, kernel=None, **attributes):
    image = records.record(
        visibility=visibility,
        kernel_id=KERNEL,
        ramdisk_id=RAMDISK,
        min_disk=1,
        **attributes,
    )
    return links.Ami(
        image, records.kernel(**(kernel or {})), records.ramdisk()
    )


class TestReports(wire.CatalogTest):
    def members(self, image_id, *projects):
        found = [{'member_id': p, 'status': 'pending'} for p in projects]
        self.answer('GET', f'/images/{image_id}/members', {'members': found})

    def rules(self, found):
        return [finding.rule for finding in found]

    def test_members_are_asked_for_where_they_matter(self):
        self.members(AMI, 'p2')
        self.members(KERNEL, 'p2', 'p3')
        self.members(RAMDISK)
        found = rules.report(self.catalog, ami()).found
        self.assertEqual(['members-differ'], self.rules(found))
        self.assertEqual(
            f'openstack image add project {RAMDISK} p2', found[0].remedy
        )
        self.assertEqual('ramdisk', found[0].about)
        self.assertEqual(
            [
                ('GET', f'/v2/images/{image}/members')
                for image in (AMI, KERNEL, RAMDISK)
            ],
            self.asked(),
        )

    def test_members_are_not_asked_for_where_they_do_not(self):
        self.assertEqual((), rules.report(self.catalog, ami('private')).found)
        found = rules.report(self.catalog, ami('public')).found
        self.assertEqual(['less-visible'] * 2, self.rules(found))
        self.assertEqual([], self.asked())

    def test_members_that_may_not_be_seen(self):
        for image in (AMI, KERNEL, RAMDISK):
            self.wire.get(
                f'{wire.CLOUD}/v2/images/{image}/members',
                status_code=403,
                json={'message': 'no'},
            )
        self.assertEqual((), rules.report(self.catalog, ami()).found)

    def test_a_list_asks_for_nothing(self):
        amis = [
            ami(kernel={'visibility': 'private'}),
            ami('private'),
            ami(os_command_line='quiet'),
        ]
        found = [
            self.rules(report.found)
            for report in rules.reports(self.catalog, amis, check=True)
        ]
        self.assertEqual([['less-visible'], [], ['command-line']], found)
        unchecked = rules.reports(self.catalog, amis, check=False)
        self.assertEqual([None] * 3, [report.found for report in unchecked])
        self.assertEqual([], self.asked())


class TestDisk(base.TestCase):
    """What Nova tells the kernel of the disk, and what the kernel has."""

    def found(self, **properties):
        known = context.Context(ami(**properties), viewer=context.Viewer())
        return {
            (each.rule, (each.remedy or '').rpartition('--property ')[2])
            for each in rules.examine(known)
        }

    def test_what_boots(self):
        for properties in (
            {},
            {'hw_disk_bus': 'virtio', 'root_device_name': '/dev/vda'},
            {'hw_disk_bus': 'scsi', 'root_device_name': 'sda'},
            {'hw_disk_bus': 'sata'},
            {'hw_disk_bus': 'ide', 'os_command_line': 'root=/dev/sda'},
            {'hw_disk_bus': 'ide', 'root_device_name': '/dev/sda'},
            {'os_command_line': 'root=/dev/vda1 root=LABEL=x quiet'},
            {'os_command_line': 'root=UUID=1-2'},
            # There may be partitions in it.
            {'os_command_line': 'root=/dev/vda1', 'disk_format': 'raw',
             'container_format': 'bare'},
        ):  # fmt: skip
            self.assertEqual(set(), self.found(**properties), properties)

    def test_what_does_not(self):
        nova = f"console=tty0 console=ttyS0' {AMI}"
        for properties, rule, remedy in (
            ({'hw_disk_bus': 'ide'}, 'disk-bus',
             f"'os_command_line=root=/dev/sda {nova}"),
            ({'hw_disk_bus': 'ide', 'root_device_name': '/dev/vda'},
             'disk-bus', f"'os_command_line=root=/dev/sda {nova}"),
            ({'hw_disk_bus': 'sata', 'os_command_line': 'quiet'},
             'command-line', "'os_command_line=root=/dev/sda console=tty0 "
             f"console=ttyS0 quiet' {AMI}"),
            ({'hw_disk_bus': 'nvme'}, 'disk-bus', f'hw_disk_bus=virtio {AMI}'),
            ({'hw_disk_bus': 'scsi', 'root_device_name': '/dev/vda'},
             'root-device', f'root_device_name {AMI}'),
            ({'root_device_name': '/dev/vda1'}, 'root-device',
             f'root_device_name {AMI}'),
            ({'os_command_line': 'root=/dev/vda1 quiet'}, 'command-line',
             f"'os_command_line=root=/dev/vda quiet' {AMI}"),
            ({'os_command_line': 'root=PARTUUID=1-2', 'hw_disk_bus': 'sata'},
             'command-line', f'os_command_line=root=/dev/sda {AMI}'),
            ({'os_command_line': 'root=/dev/vda', 'hw_disk_bus': 'sata'},
             'command-line', f'os_command_line=root=/dev/sda {AMI}'),
            # What Nova itself would have said.
            ({'os_command_line': 'root=/dev/hda', 'hw_disk_bus': 'ide'},
             'command-line', f'os_command_line=root=/dev/sda {AMI}'),
            ({'os_command_line': 'root=/dev/sda'}, 'command-line',
             f'os_command_line=root=/dev/vda {AMI}'),
            # A snapshot of an AMI.
            ({'os_command_line': 'root=/dev/vda1', 'disk_format': 'qcow2'},
             'command-line', f'os_command_line=root=/dev/vda {AMI}'),
            ({'os_command_line': 'root=/dev/sda2', 'disk_format': 'raw',
              'container_format': 'bare'},
             'command-line', f'os_command_line=root=/dev/vda2 {AMI}'),
        ):  # fmt: skip
            self.assertEqual({(rule, remedy)}, self.found(**properties))

    def test_links_in_upper_case(self):
        image = records.record(
            kernel_id=KERNEL.upper().replace('2', 'A'),
            ramdisk_id=RAMDISK,
            min_disk=1,
        )
        known = context.Context(
            links.Ami(image, None, records.ramdisk()), viewer=context.Viewer()
        )
        (found,) = rules.examine(known)
        self.assertEqual('bad-link', found.rule)
        self.assertIn(
            f'kernel_id={image.kernel_id.lower()}', found.remedy or ''
        )

    def test_snapshots(self):
        snapshot = ami(
            status='saving', image_type='snapshot', size=None,
            os_hash_value=None,
        )  # fmt: skip
        known = context.Context(snapshot, viewer=context.Viewer())
        (found,) = rules.examine(known)
        self.assertEqual('not-active', found.rule)
        self.assertIn('Nova still saves', found.message)
        self.assertNotIn('upload it again', found.message)


class TestViewer(base.TestCase):
    def test_who_can_change_what(self):
        theirs, ours = (
            records.record(owner='theirs'),
            records.record(owner='ours'),
        )
        member = context.Viewer('ours')
        self.assertTrue(member.owns(ours))
        self.assertFalse(member.owns(theirs))
        self.assertTrue(context.Viewer('ours', admin=True).owns(theirs))
        # Without Keystone, nothing is known.
        self.assertTrue(context.Viewer().owns(theirs))
        reader = context.Viewer('ours', reader=True)
        self.assertTrue(reader.owns(ours))
        self.assertFalse(reader.changes(ours))
        self.assertTrue(member.changes(ours))
        self.assertFalse(member.changes(theirs))

    def test_who_is_a_reader(self):
        for roles, expected in (
            (('reader',), True),
            (('reader', 'member'), False),
            (('observer',), False),
            (('reader', 'admin'), False),
            # Without Keystone, none are told.
            ((), False),
        ):
            catalog = mock.create_autospec(client.Catalog, instance=True)
            catalog.roles.return_value = roles
            self.assertIs(expected, rules.viewer(catalog).reader, roles)


class TestBareMetal(base.TestCase):
    def context(self, *, links=True, visibility='community', **properties):
        # This is for Nova alone.
        properties['hw_disk_bus'] = 'ide'
        known = ami(visibility, disk_format='raw', **properties)
        if not links:
            image = dataclasses.replace(known.image, properties=properties)
            known = type(known)(image, None, None)
        return context.Context(known, target='ironic')

    def found(self, **options):
        known = self.context(**options)
        return {
            (each.rule, each.severity, each.about)
            for each in rules.examine(known)
            if each.about == 'image' or not options.get('links', True)
        }

    def test_what_ironic_makes_of_it(self):
        self.assertEqual(set(), self.found())
        self.assertEqual(
            {('no-kernel', 'note', 'kernel')}, self.found(links=False)
        )
        self.assertEqual(
            {
                ('no-kernel', 'error', 'kernel'),
                ('no-ramdisk', 'error', 'ramdisk'),
            },
            self.found(links=False, ironic_ramdisk_deploy='True'),
        )
        for properties, severity in (
            ({}, 'warning'),
            ({'ironic_ramdisk_deploy': 'True'}, 'error'),
        ):
            self.assertEqual(
                {('ironic-visibility', severity, 'image')},
                self.found(visibility='private', **properties),
            )

    def test_what_an_image_is_made_for(self):
        """Where nobody says what is to deploy it."""
        known = ami(
            'community',
            disk_format='raw',
            size=0,
            ironic_ramdisk_deploy='True',
        )
        for target, judged in (
            (None, False),
            ('ironic', False),
            ('nova', True),
        ):
            found = rules.examine(context.Context(known, target=target))
            self.assertEqual(judged, 'no-size' in [f.rule for f in found])

    def test_a_disk_with_links(self):
        (found,) = bare_metal_rules.whole_disk(self.context())
        self.assertEqual(
            f'openstack ami unset --kernel --ramdisk {AMI}', found.remedy
        )
        without = self.context(links=False)
        self.assertEqual([], [*bare_metal_rules.whole_disk(without)])
        for_nova = dataclasses.replace(self.context(), target='nova')
        self.assertEqual([], [*bare_metal_rules.whole_disk(for_nova)])


class TestDocumentation(base.TestCase):
    def test_every_rule_has_its_place(self):
        pages = pathlib.Path(amiclient.__file__).parents[1] / 'doc/source/user'
        health = (pages / 'health.rst').read_text()
        checks = (pages / 'checks.rst').read_text()
        own = {
            rule
            for rule in verify.RULES
            if f'.. _health-{rule}:\n\n``{rule}`` (' in health
        }
        self.assertEqual(len(own), health.count('.. _health-'))
        # What ``ami check`` has as well is on its page.
        elsewhere = {
            rule
            for rule in check.RULES
            if f'.. _check-{rule}:\n\n``{rule}`` (' in checks
        }
        self.assertEqual(set(), verify.RULES - own - elsewhere)


class TestFewerStores(base.TestCase):
    def found(self, admin, **kernel):
        viewer = context.Viewer('project', admin=admin)
        shown = context.Context(
            ami(stores='a,b,c', kernel=kernel), viewer=viewer
        )
        return [f for f in rules.examine(shown) if f.rule == 'fewer-stores']

    def test_remedy(self):
        (finding,) = self.found(True, stores='b')
        self.assertEqual(
            ('warning', 'kernel'), (finding.severity, finding.about)
        )
        self.assertIn("is not in the stores 'a', 'c'", finding.message)
        self.assertEqual(
            f'openstack ami set --store a --store c {AMI}', finding.remedy
        )
        (finding,) = self.found(False, stores='b')
        self.assertIsNone(finding.remedy)
        self.assertIn('only an administrator', finding.message)

    def test_as_many_or_unknown(self):
        for where in ('c,b,a', ''):
            self.assertEqual([], self.found(True, stores=where))
