# SPDX-License-Identifier: Apache-2.0

"""Every rule of an AMI's health is provoked in a real Glance.

The remedy is then run as it was printed, and the rule has to be silent.
"""

from amiclient.glance.verify import context
from amiclient.tests import base
from amiclient.tests.functional import health
from amiclient.tests.functional import test_health_access


class TestLinks(health.HealthCase):
    def test_a_sound_ami(self) -> None:
        self.assertEqual([], self.findings())
        self.assertEqual('\n', self.openstack('ami', 'verify', 'debian'))

    def test_no_kernel(self) -> None:
        self.change(self.ami, kernel_id=None)
        finding = self.assertNoRemedy('no-kernel', 'error')
        self.assertIn('a ramdisk, but to no kernel', finding['message'])
        self.assertAdvised('kernel', finding)
        self.change(self.ami, ramdisk_id=None)
        self.assertNoRemedy('no-kernel', 'error')

    def test_a_ramdisk_alone_in_another_format(self) -> None:
        disk = self.create('disk', 'raw', ramdisk_id=self.ramdisk, min_disk=1)
        self.assertNoRemedy('no-kernel', 'error', ami=disk)

    def test_no_ramdisk(self) -> None:
        self.change(self.ami, ramdisk_id=None)
        self.assertNoRemedy('no-ramdisk', 'note')

    def test_dangling(self) -> None:
        self.connection.image.delete(f'/images/{self.kernel}')
        finding = self.assertNoRemedy('dangling', 'error')
        self.assertIn(self.kernel, finding['message'])
        self.assertAdvised('kernel', finding)
        self.connection.image.delete(f'/images/{self.ramdisk}')
        rules = [row['rule'] for row in self.findings()]
        self.assertEqual(['dangling', 'dangling'], rules)

    def test_a_dangling_ramdisk(self) -> None:
        self.connection.image.delete(f'/images/{self.ramdisk}')
        finding = self.provoked('dangling', 'error')
        self.assertIn('give the AMI another with', finding['message'])
        self.run_remedy(finding)
        self.provoked('no-ramdisk', 'note')

    def assertAdvised(self, noun, finding) -> None:
        command = f'openstack ami set --{noun} FILE {self.ami}'
        self.assertEndsWith(finding['message'], f' with `{command}`')

    def assertEndsWith(self, text, end) -> None:
        self.assertEqual(end, text[-len(end) :])

    def test_a_link_that_is_no_id(self) -> None:
        # Operators may do without the schema that refuses it.
        ami = self.create_ami(ramdisk_id=None)
        self.sql(
            "UPDATE image_properties SET value = '' "
            "WHERE name = 'ramdisk_id' AND image_id = ?",
            ami,
        )
        finding = self.provoked('bad-link', 'error', ami=ami)
        self.run_remedy(finding)
        self.provoked('no-ramdisk', 'note', ami=ami)

    def test_a_kernel_that_is_no_id(self) -> None:
        self.sql(
            "UPDATE image_properties SET value = 'vmlinuz' "
            "WHERE name = 'kernel_id' AND image_id = ?",
            self.ami,
        )
        self.assertAdvised('kernel', self.assertNoRemedy('bad-link', 'error'))

    def test_not_active(self) -> None:
        queued = self.create('linux-2', 'aki', data=None)
        self.change(self.ami, kernel_id=queued)
        finding = self.assertNoRemedy('not-active', 'error')
        self.assertIn('is queued', finding['message'])
        self.assertIn('linux-2', finding['message'])
        self.assertAdvised('kernel', finding)
        for status in ('saving', 'importing', 'pending_delete'):
            self.overwrite(queued, status=status)
            self.assertNoRemedy('not-active', 'error')

    def test_an_ami_that_is_not_active(self) -> None:
        ami = self.create_ami(data=None)
        finding = self.assertNoRemedy('not-active', 'error', ami=ami)
        self.assertIn('`openstack ami upload SOURCE`', finding['message'])

    def test_deactivated(self) -> None:
        for image in (self.ami, self.kernel, self.ramdisk):
            self.openstack('image', 'set', '--deactivate', image, user='admin')
            self.assertMended('deactivated', 'error')

    def test_wrong_format(self) -> None:
        self.change(self.ami, kernel_id=self.ramdisk)
        finding = self.assertNoRemedy('wrong-format', 'error')
        self.assertIn('has the format ari', finding['message'])
        self.assertAdvised('kernel', finding)
        other = self.create(
            'linux-2', 'raw', data=self.data('aki'), container_format='aki'
        )
        self.change(self.ami, kernel_id=other)
        finding = self.assertNoRemedy('wrong-format', 'warning')
        self.assertAdvised('kernel', finding)

    def test_swapped(self) -> None:
        self.change(self.ami, kernel_id=self.ramdisk, ramdisk_id=self.kernel)
        self.assertMended('swapped', 'error')


class TestData(health.HealthCase):
    def test_no_size(self) -> None:
        self.overwrite(self.kernel, size=None)
        self.assertNoRemedy('no-size', 'warning')
        self.overwrite(self.kernel, size=0)
        self.assertNoRemedy('no-size', 'error')

    def test_a_snapshot_of_a_volume_has_neither(self) -> None:
        ami = self.create_ami(block_device_mapping='[]')
        self.overwrite(
            ami, size=0, os_hash_value=None, os_hash_algo=None, checksum=None
        )
        self.assertEqual([], self.findings(ami))

    def test_no_hash(self) -> None:
        self.overwrite(self.ramdisk, os_hash_value=None, os_hash_algo=None)
        self.assertNoRemedy('no-hash', 'note')
        self.overwrite(self.ramdisk, checksum=None)
        self.assertNoRemedy('no-hash', 'warning')

    def test_min_disk(self) -> None:
        self.change(self.ami, min_disk=0)
        finding = self.assertMended('min-disk', 'warning')
        self.assertIn('1 GiB', finding['message'])
        self.overwrite(self.ami, size=health.GIB + 1)
        finding = self.assertMended('min-disk', 'warning')
        self.assertIn('2 GiB', finding['message'])
        self.overwrite(self.ami, size=2 * health.GIB)
        self.assertEqual([], self.findings())

    def test_min_disk_of_a_compact_format(self) -> None:
        # What counts is what the guest sees, as Glance has found out.
        ami = self.create_ami(disk_format='qcow2')
        self.overwrite(ami, virtual_size=3 * health.GIB)
        finding = self.provoked('min-disk', 'warning', ami=ami)
        self.assertIn('3 GiB', finding['message'])

    def test_architecture(self) -> None:
        self.change(self.ami, architecture='aarch64')
        self.assertMended('architecture', 'error')
        self.change(self.ami, architecture='amd64')
        self.assertEqual([], self.findings())

    def test_command_line(self) -> None:
        self.change(self.ami, os_command_line='quiet it\'s="so"')
        self.assertMended('command-line', 'error')
        line = self.connection.image.get(f'/images/{self.ami}').json()
        self.assertEqual(
            'root=/dev/vda console=tty0 console=ttyS0 quiet it\'s="so"',
            line['os_command_line'],
        )
        self.change(
            self.ami, os_command_line='console=ttyS1', hw_disk_bus='scsi'
        )
        finding = self.assertMended('command-line', 'error')
        self.assertIn('root=/dev/sda console=ttyS1', finding['remedy'])
        self.change(self.ami, hw_disk_bus='sata', os_command_line='quiet')
        self.assertMended('command-line', 'error')
        self.change(self.ami, os_command_line='root=/dev/sda1 quiet')
        finding = self.assertMended('command-line', 'error')
        self.assertIn('root=/dev/sda quiet', finding['remedy'])

    def test_disk_bus(self) -> None:
        self.change(self.ami, hw_disk_bus='ide')
        finding = self.assertMended('disk-bus', 'error')
        self.assertIn('root=/dev/sda console=', finding['remedy'])
        self.change(self.ami, hw_disk_bus='nvme', os_command_line=None)
        self.assertMended('disk-bus', 'error')

    def test_root_device(self) -> None:
        self.change(self.ami, root_device_name='/dev/sda')
        self.assertMended('root-device', 'error')

    def test_a_link_in_upper_case(self) -> None:
        self.change(self.ami, kernel_id=self.kernel.upper())
        self.assertMended('bad-link', 'error')

    def test_a_snapshot_that_is_not_there_yet(self) -> None:
        snapshot = self.create(
            'snap', 'qcow2', data=None, image_type='snapshot',
            kernel_id=self.kernel, ramdisk_id=self.ramdisk,
        )  # fmt: skip
        finished = self.run_openstack('ami', 'verify', snapshot)
        self.assertEqual(1, finished.status, finished)
        said = ' '.join(finished.stdout.split())
        self.assertIn('not-active', said)
        self.assertNotIn('ami upload', said)


_SIGNATURE = ('certificate', 'expired', 'false', 'incomplete', 'missing')


class TestRules(base.TestCase):
    def test_there_is_a_test_of_each(self) -> None:
        tests = [
            name.removeprefix('test_').replace('_', '-')
            for case in (TestLinks, TestData, test_health_access.TestAccess)
            for name in dir(case)
        ]
        tests.append('bad-link')  # test_a_link_that_is_no_id
        tests.append('fewer-stores')  # test_stores
        tests += ('ironic-format', 'ironic-visibility')  # test_bare_metal
        tests += (f'signature-{name}' for name in _SIGNATURE)  # test_sign
        self.assertEqual(set(), context.RECORDS.keys() - set(tests))
