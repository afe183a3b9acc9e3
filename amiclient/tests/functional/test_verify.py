# SPDX-License-Identifier: Apache-2.0

"""``openstack ami verify --deep`` and ``--against``, in a real Glance."""

import pathlib
import shlex
import shutil
import tempfile

import fixtures

from amiclient.glance.verify.verify import RULES
from amiclient import process
from amiclient.rootfs import check
from amiclient import scratch
from amiclient.tests.disks import triple
from amiclient.tests.functional import health
from amiclient.tests.unit.rootfs import checks
from amiclient.tests.unit.rootfs import images
from amiclient.tests.unit.rootfs import samples

#: Rules about what is in a root filesystem; that of most tests is a poor one.
_INSIDE = (check.RULES & RULES) - {
    'architecture',
    'boot-sector',
    'no-kernel',
    'unreadable',
}


class VerifyCase(health.HealthCase):
    """A test that has a real triple, and a place for copies."""

    def setUp(self) -> None:
        self.directory = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.directory)
        super().setUp()
        self.work = self.tmp()
        self.useFixture(fixtures.EnvironmentVariable('TMPDIR', str(self.work)))
        # Which of several has most room may change meanwhile.
        for name in ('_LARGE', '_SMALL'):
            self.patch(scratch, name, self.work)
        self.addCleanup(self.assertNothingLeft)
        self.root = triple.root(self.directory, data=2**20)

    def content(self, noun) -> bytes:
        path: pathlib.Path = getattr(triple, noun)(self.directory)
        return path.read_bytes()

    def assertNothingLeft(self) -> None:
        self.assertEqual([], sorted(self.work.iterdir()))

    def upload(self, *words) -> str:
        told = self.openstack_json(
            *('ami', 'upload', self.root, '--name', 'real'),
            *('--kernel', self.kernel, '--ramdisk', self.ramdisk),
            *words,
            stderr=None,
        )
        image_id: str = told['id']
        return image_id

    def verify(self, ami, *words, ignored=_INSIDE) -> dict[str, dict]:
        ignore = [w for rule in sorted(ignored) for w in ('--ignore', rule)]
        finished = self.run_openstack(
            'ami', 'verify', ami, *words, *ignore, '-f', 'json'
        )
        self.assertEqual('', finished.stderr)
        found = health.json.loads(finished.stdout)
        failed = any(row['severity'] == 'error' for row in found)
        self.assertEqual(int(failed), finished.status, found)
        return {row['rule']: row for row in found}


class TestDeep(VerifyCase):
    def made(self, data, **attributes) -> str:
        return self.create_ami(data=data, **attributes)

    def test_a_sound_one(self) -> None:
        self.assertEqual({}, self.verify(self.upload(), '--deep'))

    def inside(self, root: pathlib.Path) -> dict[str, dict]:
        """Tell all that is found in an AMI with some root filesystem."""
        ami = self.made(root.read_bytes(), architecture='x86_64')
        return self.verify(ami, '--deep', ignored=())

    def system(self, **files: bytes) -> pathlib.Path:
        """Make a root filesystem that ``ami check`` has no objection to."""
        self.ramdisk = self.create(
            'r', 'ari', data=checks.ramdisk(checks.DRIVERS)
        )
        return images.image(
            self.directory,
            {**checks.SOUND, **files},
            options=checks.OPTIONS,
            size=96 << 20,
        )

    def test_a_sound_system(self) -> None:
        self.assertEqual({}, self.inside(self.system()))

    def test_modules_of_another_kernel(self) -> None:
        self.kernel = self.create(
            'k', 'aki', data=samples.bzimage(release=b'6.12.9-cloud x\0')
        )
        found = self.inside(self.system())
        row = found['no-modules']
        self.assertEqual('warning', row['severity'])
        self.assertIn('/lib/modules/6.12.9-cloud', row['message'])
        self.assertIn('install the package of kernel', row['remedy'])

    def test_as_check_has_it(self) -> None:
        root = self.system(**{'etc/fstab': b'/dev/sdz9 / ext4 ro 0 1\n'})
        kernel, ramdisk = self.directory / 'kernel', self.directory / 'ramdisk'
        kernel.write_bytes(self.content('kernel'))
        ramdisk.write_bytes(checks.ramdisk(checks.DRIVERS))
        finished = self.run_openstack(
            *('ami', 'check', root, '--kernel', kernel),
            *('--ramdisk', ramdisk, '-f', 'json'),
        )
        expected = {
            row['rule']: row for row in health.json.loads(finished.stdout)
        }
        self.assertNotEqual({}, expected)
        self.assertEqual(expected, self.inside(root))

    def test_no_rules_for_what_is_damaged(self) -> None:
        root = self.system()
        process.run(['debugfs', '-w', '-R', 'clri <2>', root], access=None)
        self.assertEqual({'damaged'}, self.inside(root).keys())

    def test_data_that_is_not_what_was_stored(self) -> None:
        ami = self.upload()
        path = next(self.cloud.store.rglob(self.kernel))
        data = bytearray(path.read_bytes())
        data[700] ^= 1
        path.write_bytes(data)
        found = self.verify(ami, '--deep')
        self.assertEqual({'unreadable'}, found.keys())
        self.assertIn('linux', found['unreadable']['message'])
        path.unlink()
        self.assertEqual(
            {'unreadable'}, self.verify(ami, '--deep', '--retries', 0).keys()
        )

    def test_swapped_content(self) -> None:
        self.kernel = self.create('k', 'aki', data=self.content('ramdisk'))
        self.ramdisk = self.create('r', 'ari', data=self.content('kernel'))
        found = self.verify(self.made(self.root.read_bytes()), '--deep')
        self.assertEqual({'not-a-kernel', 'not-a-ramdisk'}, found.keys())
        message = found['not-a-kernel']['message']
        self.assertIn('initramfs', message)
        self.assertNotIn(str(self.work), message)
        self.assertIn('kernel', found['not-a-ramdisk']['message'])

    def test_a_kernel_for_another_architecture(self) -> None:
        ami = self.made(self.root.read_bytes(), architecture='aarch64')
        found = self.verify(ami, '--deep')
        self.assertEqual({'architecture'}, found.keys())
        self.run_remedy(found['architecture'])
        self.assertEqual({}, self.verify(ami, '--deep'))

    def test_no_filesystem(self) -> None:
        found = self.verify(self.made(b'QFI\xfb' + bytes(4096)), '--deep')
        self.assertEqual({'not-a-filesystem'}, found.keys())
        self.assertIn('qcow2', found['not-a-filesystem']['message'])

    def test_a_filesystem_that_was_cut(self) -> None:
        data = self.root.read_bytes()[: 2**20]
        found = self.verify(self.made(data), '--deep')
        self.assertEqual({'not-a-filesystem'}, found.keys())
        self.assertIn('cut short', found['not-a-filesystem']['message'])

    def test_more_than_a_filesystem(self) -> None:
        found = self.verify(
            self.made(self.root.read_bytes() + bytes(4096)), '--deep'
        )
        self.assertEqual({'size'}, found.keys())
        self.assertIn(str(16 * 2**20), found['size']['message'])

    def test_a_boot_sector(self) -> None:
        data = bytearray(self.root.read_bytes())
        data[510:512] = b'\x55\xaa'
        found = self.verify(self.made(bytes(data)), '--deep')
        self.assertEqual({'boot-sector'}, found.keys())

    def test_damage(self) -> None:
        process.run(
            ['debugfs', '-w', '-R', 'clri <2>', self.root], access=None
        )
        found = self.verify(self.made(self.root.read_bytes()), '--deep')
        self.assertEqual({'damaged'}, found.keys())
        message = found['damaged']['message']
        self.assertIn('e2fsck: ', message)
        # It has more to say than there is room for.
        self.assertIn(' ...); upload it again with `openstack ', message)

    def test_a_journal(self) -> None:
        process.run(
            ['debugfs', '-w', '-R', 'feature needs_recovery', self.root],
            access=None,
        )
        found = self.verify(self.made(self.root.read_bytes()), '--deep')
        self.assertEqual({'journal'}, found.keys())

    def test_another_format(self) -> None:
        path = self.directory / 'root.qcow2'
        process.run(
            ['qemu-img', 'convert', '-O', 'qcow2', self.root, path],
            access=None,
        )
        ami = self.made(path.read_bytes(), disk_format='qcow2')
        self.assertEqual({}, self.verify(ami, '--deep'))
        found = self.verify(ami, '--against', path)
        self.assertEqual({'same'}, found.keys())
        # The files are those of a filesystem, whatever it is packed in.
        found = self.verify(ami, '--deep', '--against', self.root)
        self.assertEqual({'same'}, found.keys())
        self.assertIn('the same files', found['same']['message'])
        process.run(
            ['debugfs', '-w', '-R', 'rm /etc/os-release', self.root],
            access=None,
        )
        found = self.verify(ami, '--deep', '--against', self.root)
        self.assertIn('/etc/os-release', found['differs']['message'])

    def test_what_an_upload_has_packed(self) -> None:
        ami = self.upload('--image-format', 'qcow2')
        self.assertEqual({}, self.verify(ami, '--deep'))

    def test_damage_in_another_format(self) -> None:
        process.run(
            ['debugfs', '-w', '-R', 'clri <2>', self.root], access=None
        )
        for kind, name in (('qcow2', 'qcow2'), ('vpc', 'vhd')):
            path = self.directory / f'root.{name}'
            process.run(
                ['qemu-img', 'convert', '-O', kind, self.root, path],
                access=None,
            )
            ami = self.made(path.read_bytes(), disk_format=name)
            found = self.verify(ami, '--deep')
            self.assertEqual({'damaged'}, found.keys(), name)


class TestAgainst(VerifyCase):
    def test_what_was_shrunk(self) -> None:
        ami = self.upload()
        found = self.verify(ami, '--against', self.root)
        self.assertEqual('note', found['same']['severity'])
        self.assertIn('a shrunk copy', found['same']['message'])
        # Nothing was downloaded for that.
        log = (self.cloud.logs / 'glance.log').read_text(errors='replace')
        self.assertNotIn(f'GET /v2/images/{ami}/file', log)

    def test_other_headroom(self) -> None:
        ami = self.upload('--headroom', '1M', '--journal', 'none')
        found = self.verify(ami, '--against', self.root)
        self.assertEqual({'differs'}, found.keys())
        # The remedy is to look more closely.
        remedy = shlex.split(found['differs']['remedy'])
        found = self.verify(ami, *remedy[3:-1])
        self.assertEqual({'same'}, found.keys())
        self.assertIn('the same files', found['same']['message'])
        found = self.verify(
            *(ami, '--against', self.root),
            *('--headroom', '1M', '--journal', 'none'),
        )
        self.assertEqual({'same'}, found.keys())

    def test_as_it_is(self) -> None:
        ami = self.upload('--no-shrink')
        found = self.verify(ami, '--against', self.root)
        self.assertIn('holds the bytes of', found['same']['message'])

    def test_an_old_boot_sector(self) -> None:
        with self.root.open('r+b') as file:
            file.seek(510)
            file.write(b'\x55\xaa')
        for words in ((), ('--no-shrink',)):
            ami = self.upload(*words)
            found = self.verify(ami, '--against', self.root)
            self.assertEqual({'same'}, found.keys(), words)

    def test_another_file_in_it(self) -> None:
        ami = self.upload()
        process.run(
            ['debugfs', '-w', '-R', 'sif /data mode 0100600', self.root],
            access=None,
        )
        found = self.verify(ami, '--deep', '--against', self.root)
        self.assertEqual({'differs'}, found.keys())
        self.assertIn("'/data'", found['differs']['message'])
        self.assertIn('in 1 file:', found['differs']['message'])

    def test_what_was_saved(self) -> None:
        ami = self.upload()
        saved = self.directory / 'saved'
        self.openstack('ami', 'save', ami, '--directory', saved, stderr=None)
        found = self.verify(ami, '--against', saved)
        self.assertEqual({'same'}, found.keys())
        self.assertIn(str(saved), found['same']['message'])
        other = self.create('linux-2', 'aki', data=b'another')
        self.change(ami, kernel_id=other)
        found = self.verify(ami, '--against', saved)
        self.assertEqual({'same', 'differs'}, found.keys())
        self.assertIn('linux-2', found['differs']['message'])

    def test_no_hash(self) -> None:
        ami = self.upload()
        self.overwrite(
            ami, os_hash_value=None, os_hash_algo=None, checksum=None
        )
        found = self.verify(ami, '--against', self.root)
        self.assertEqual({'not-comparable', 'no-hash'}, found.keys())
        found = self.verify(ami, '--deep', '--against', self.root)
        self.assertEqual({'same', 'no-hash'}, found.keys())

    def test_a_source_that_is_not_there(self) -> None:
        nowhere = self.directory / 'nowhere'
        finished = self.run_openstack(
            'ami', 'verify', self.ami, '--deep', '--against', nowhere
        )
        self.assertEqual(1, finished.status)
        self.assertEqual('', finished.stdout)
        self.assertEqual(1, finished.stderr.count('\n'), finished.stderr)
        self.assertIn(str(nowhere), finished.stderr)


class TestOptions(health.HealthCase):
    def test_strict_and_ignore(self) -> None:
        self.change(self.ami, min_disk=0)
        verify = ('ami', 'verify', self.ami)
        self.openstack(*verify)
        told = self.openstack(
            *verify, '--strict', '-f', 'value', '-c', 'rule', status=1
        )
        self.assertEqual('min-disk\n', told)
        told = self.openstack(*verify, '--strict', '--ignore', 'min-disk')
        self.assertEqual('\n', told)

    def test_a_rule_that_there_is_not(self) -> None:
        finished = self.run_openstack(
            'ami', 'verify', self.ami, '--ignore', 'min_disk'
        )
        self.assertEqual(1, finished.status)
        self.assertEqual('', finished.stdout)
        self.assertIn("no rule 'min_disk'", finished.stderr)
        self.assertIn('min-disk', finished.stderr)
