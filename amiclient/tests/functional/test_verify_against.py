# SPDX-License-Identifier: Apache-2.0

"""``openstack ami verify --against``: all kinds of sources, as they are taken.

What is compared is what an upload of the same source would send.
"""

import pathlib
import shlex

from amiclient import process
from amiclient.tests.disks import disks
from amiclient.tests.functional import test_verify

QCOW2 = ('--image-format', 'qcow2')


class AgainstCase(test_verify.VerifyCase):
    """A test that compares an AMI with a source."""

    def against(self, ami, source, *words) -> dict:
        """Compare; tell the only thing that is found."""
        found = self.verify(ami, '--against', source, *words)
        self.assertEqual(1, len(found), found)
        row: dict = next(iter(found.values()))
        return row

    def assertSame(self, ami, source, *words) -> str:
        row = self.against(ami, source, *words)
        self.assertEqual('same', row['rule'], row)
        message: str = row['message']
        return message

    def closer(self, row, ami) -> dict:
        """Do what a remedy says, which is to look more closely."""
        words = shlex.split(row['remedy'])
        self.assertEqual(['openstack', 'ami', 'verify'], words[:3])
        self.assertEqual(ami, words[-1])
        found = self.verify(ami, *words[3:-1])
        self.assertEqual(1, len(found), found)
        last: dict = next(iter(found.values()))
        return last

    def no_sha512(self, ami) -> None:
        """Leave it nothing but a checksum."""
        self.overwrite(ami, os_hash_value=None, os_hash_algo=None)


class TestSaved(AgainstCase):
    """What ``ami save`` wrote of an AMI that is a disk image."""

    def save(self, ami, *words) -> pathlib.Path:
        directory = self.directory / f'saved-{len(words)}'
        told = self.openstack_json(
            'ami', 'save', ami, '--directory', directory, *words, stderr=None
        )
        return pathlib.Path(told['image'] if words else directory)

    def test_qcow2(self) -> None:
        ami = self.upload(*QCOW2)
        saved = self.save(ami)
        forms = (
            saved,
            saved / 'manifest.json',
            self.save(ami, '--layout', 'uec'),
        )
        for source in forms:
            message = self.assertSame(ami, source)
            self.assertIn(f'the bytes of {source}, byte by byte', message)
        self.no_sha512(ami)
        for source in forms:
            found = self.verify(ami, '--against', source)
            self.assertEqual({'same', 'no-hash'}, found.keys(), source)

    def test_of_another(self) -> None:
        saved = self.save(self.upload(*QCOW2))
        archive = self.save(self.ami_of(self.root), '--layout', 'uec')
        process.run(
            ['debugfs', '-w', '-R', 'rm /etc/os-release', self.root],
            access=None,
        )
        ami = self.ami_of(self.root)
        for source in saved, archive:
            row = self.against(ami, source)
            self.assertEqual('not-comparable', row['rule'])
            self.assertIn('/etc/os-release', self.closer(row, ami)['message'])
        self.no_sha512(ami)
        for source in saved, archive:
            found = self.verify(ami, '--against', source)
            self.assertEqual({'not-comparable', 'no-hash'}, found.keys())

    def ami_of(self, root) -> str:
        """Make an AMI that this program has not packed."""
        path = disks.convert(root, 'qcow2')
        return self.create_ami(
            data=path.read_bytes(),
            disk_format='qcow2',
            container_format='bare',
        )


class TestPacked(AgainstCase):
    def test_not_by_its_bytes(self) -> None:
        ami = self.upload(*QCOW2)
        row = self.against(ami, self.root)
        self.assertEqual(
            ('error', 'not-comparable'), (row['severity'], row['rule'])
        )
        self.assertIn('is a qcow2 image, whose bytes depend', row['message'])
        self.assertNotIn('shrunk', row['message'])
        self.assertEqual('same', self.closer(row, ami)['rule'])
        process.run(
            ['debugfs', '-w', '-R', 'rm /etc/os-release', self.root],
            access=None,
        )
        row = self.closer(self.against(ami, self.root), ami)
        self.assertEqual('differs', row['rule'])

    def test_what_is_not_looked_into(self) -> None:
        ami = self.create_ami(data=bytes(2**16))
        found = self.verify(ami, '--deep', '--against', self.root)
        self.assertEqual({'not-a-filesystem', 'differs'}, found.keys())
        self.overwrite(ami, disk_format='iso')
        row = self.against(ami, self.root)
        self.assertIn('is an iso image', row['message'])
        found = self.verify(ami, '--deep', '--against', self.root)
        self.assertEqual({'not-examined', 'not-comparable'}, found.keys())
        row = found['not-comparable']
        self.assertIsNone(row['remedy'])
        self.assertNotIn(str(self.work), row['message'])

    def test_of_another_project(self) -> None:
        """Who may boot it may compare it, with a remedy, too."""
        for image in (self.kernel, self.ramdisk):
            self.change(image, visibility='community')
        ami = self.upload(*QCOW2, '--community')
        finished = self.run_openstack(
            *('ami', 'verify', ami, '--against', self.root),
            *('--ignore', 'foreign-owner', '-f', 'json'),
            user='other',
        )
        row = test_verify.health.json.loads(finished.stdout)[0]
        self.assertEqual('not-comparable', row['rule'])
        self.assertNotIn('only its owner', row['message'])
        self.assertIn('ami verify --deep', row['remedy'])


class TestTaken(AgainstCase):
    """Sources that are compared as an upload takes them."""

    def tied(self) -> None:
        """Tie the root filesystem to a disk."""
        table = self.directory / 'fstab'
        table.write_text('UUID=C2AF-1C3B /boot/efi vfat defaults 0 1\n')
        process.run(
            ['debugfs', '-w', '-R', f'write {table} /etc/fstab', self.root],
            access=None,
        )

    def test_fix(self) -> None:
        self.tied()
        for words in ((), ('--no-shrink',)):
            ami = self.upload('--fix', *words)
            self.assertEqual(
                'differs', self.against(ami, self.root)['rule'], words
            )
            message = self.assertSame(ami, self.root, '--fix')
            self.assertIn(f'what --fix makes of {self.root}', message)
        # It is not the same without.
        ami = self.upload()
        row = self.against(ami, self.root, '--fix')
        self.assertEqual('differs', row['rule'])
        row = self.closer(row, ami)
        self.assertIn("'/etc/fstab'", row['message'])
        self.assertIn('what --fix makes of', row['message'])
        self.assertSame(ami, self.root)

    def test_fix_of_a_disk_image(self) -> None:
        self.tied()
        path = disks.convert(self.root, 'qcow2')
        ami = self.upload('--fix', *QCOW2)
        row = self.closer(self.against(ami, path, '--fix'), ami)
        self.assertEqual('same', row['rule'], row)
        # The file as it is was never mended.
        ami = self.create_ami(data=path.read_bytes(), disk_format='qcow2')
        self.assertSame(ami, path)
        row = self.against(ami, path, '--fix')
        self.assertEqual('not-comparable', row['rule'])
        self.assertEqual('differs', self.closer(row, ami)['rule'])

    def test_partition(self) -> None:
        ami = self.upload()
        other = self.directory / 'other'
        other.write_bytes(self.root.read_bytes())
        process.run(['debugfs', '-w', '-R', 'rm /data', other], access=None)
        disk = disks.make(
            self.directory / 'two.raw',
            [disks.Part(16, other), disks.Part(16, self.root)],
        )
        finished = self.run_openstack('ami', 'verify', ami, '--against', disk)
        self.assertEqual((1, ''), (finished.status, finished.stdout))
        self.assertIn('--partition', finished.stderr)
        self.assertSame(ami, disk, '--partition', '2')
        row = self.against(ami, disk, '--partition', '1')
        self.assertEqual('differs', row['rule'])
        self.assertIn('/data', self.closer(row, ami)['message'])

    def test_backing_file(self) -> None:
        ami = self.upload()
        layer = self.directory / 'layer.qcow2'
        process.run(
            [
                *('qemu-img', 'create', '-q', '-f', 'qcow2'),
                *('-F', 'raw', '-b', self.root, layer),
            ],
            access=None,
        )
        finished = self.run_openstack('ami', 'verify', ami, '--against', layer)
        self.assertEqual((1, ''), (finished.status, finished.stdout))
        self.assertSame(ami, layer, '--allow-backing-file')

    def test_other_kinds(self) -> None:
        ami = self.upload()
        process.run(['xz', '-1', '--keep', self.root], access=None)
        self.assertSame(ami, f'{self.root}.xz')
        disk = disks.make(
            self.directory / 'disk.raw', [disks.Part(16, self.root)]
        )
        self.assertSame(ami, disks.convert(disk, 'vmdk'))

    def test_nothing_to_compare_with(self) -> None:
        for words in (
            ('--fix',),
            ('--partition', '1'),
            ('--allow-backing-file',),
            ('--repair',),
        ):
            finished = self.run_openstack('ami', 'verify', self.ami, *words)
            self.assertEqual((1, ''), (finished.status, finished.stdout))
            self.assertIn(words[0], finished.stderr)
            self.assertIn('--against', finished.stderr)
            self.assertEqual(1, finished.stderr.count('\n'))
