# SPDX-License-Identifier: Apache-2.0

"""What commands tell of an image in a real Glance, read where it lies."""

import json
import pathlib
import re

from amiclient.glance.transfer import ranges
from amiclient.tests.disks import disks
from amiclient.tests.functional import health
from amiclient.tests.unit.rootfs import checks
from amiclient.tests.unit.rootfs import images
from amiclient.tests.unit.rootfs import samples

#: A kernel whose modules nobody has.
_OTHER = samples.bzimage(release=b'6.12.9-cloud x\0')


class InsideCase(health.HealthCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()

    def file(self, data: bytes, name: str) -> pathlib.Path:
        path = self.directory / name
        path.write_bytes(data)
        return path

    def run_json(self, *words):
        finished = self.run_openstack(*words, '-f', 'json')
        self.assertEqual('', finished.stderr)
        return json.loads(finished.stdout)


class TestVerify(InsideCase):
    def test_no_modules(self) -> None:
        kernel = self.create('k', 'aki', data=_OTHER)
        ami = self.create_ami(kernel_id=kernel)
        found = self.provoked('no-modules', 'warning', ami=ami)
        self.assertIn('/lib/modules/6.12.9-cloud', found['message'])

    def test_what_was_read_is_told(self) -> None:
        finished = self.run_openstack('-v', 'ami', 'verify', self.ami)
        lines = re.findall(
            rf'image {self.ami}: (\d+) of (\d+) bytes read, in (\d+) requests',
            finished.stderr,
        )
        self.assertEqual(1, len(lines), finished.stderr)
        read, size, requests = map(int, lines[0])
        self.assertEqual(len(health.root()), size)
        self.assertLessEqual(read, size)
        self.assertLess(requests, 20)

    def test_a_large_one_takes_few_requests(self) -> None:
        path = images.image(
            self.directory, checks.SOUND, options=checks.OPTIONS, size=1 << 30
        )
        ami = self.create_ami(data=path.open('rb'), min_disk=1)
        finished = self.run_openstack('-v', 'ami', 'verify', ami)
        (found,) = re.findall(
            rf'image {ami}: (\d+) of \d+ bytes read, in (\d+) requests',
            finished.stderr,
        )
        self.assertLess(int(found[0]), (1 << 30) // 100)
        self.assertLess(int(found[1]), 40)

    def test_a_store_without_ranges(self) -> None:
        self.patch(ranges.receive, 'NO_RANGES', frozenset({206}))
        notes = self.findings()
        self.assertEqual({'not-examined'}, {row['rule'] for row in notes})
        self.assertEqual({'note'}, {row['severity'] for row in notes})


class TestSet(InsideCase):
    def test_a_kernel_without_modules(self) -> None:
        image = self.create('k', 'aki', data=_OTHER)
        for kernel in (self.file(_OTHER, 'vmlinuz'), image):
            for words in (('--dry-run',), ()):
                finished = self.run_openstack(
                    *('ami', 'set', self.ami, '--kernel', kernel, *words),
                    *('--no-reuse',) if kernel != image else (),
                )
                self.assertEqual(0, finished.status, finished)
                self.assertIn(
                    f'image {self.ami}: there is no /lib/modules/6.12.9-cloud',
                    finished.stderr,
                )

    def test_the_right_one(self) -> None:
        kernel = self.create('k', 'aki', data=samples.bzimage() + b'\0')
        finished = self.run_openstack(
            'ami', 'set', self.ami, '--kernel', kernel, '--dry-run'
        )
        self.assertEqual((0, ''), (finished.status, finished.stderr))


class TestSource(InsideCase):
    def assertSame(self, root: pathlib.Path, image: str, *names: str) -> None:
        here = self.run_json('ami', 'inspect', root)
        there = self.run_json('ami', 'inspect', '--image', image)
        self.assertEqual(image, there['source'])
        for name in here.keys() - {'source', 'kernels', *names}:
            self.assertEqual(here[name], there[name], name)

    def test_inspect(self) -> None:
        root = self.file(health.root(), 'root')
        self.assertSame(root, self.ami)
        told = self.run_json('ami', 'inspect', '--image', self.ami)
        self.assertEqual(
            [('linux', checks.RELEASE)],
            [(each['kernel'], each['version']) for each in told['kernels']],
        )
        qcow2 = self.create('q', 'qcow2', data=health.qcow2())
        self.assertSame(root, qcow2)

    def test_a_disk(self) -> None:
        root = self.file(health.root(), 'root')
        disk = disks.make(self.directory / 'disk', [disks.Part(2, root)])
        raw = self.create('d', 'raw', data=disk.read_bytes())
        self.assertSame(disk, raw, 'minimum_size', 'state')

    def test_check(self) -> None:
        root = self.file(health.root(), 'root')
        kernel = self.file(samples.bzimage(), 'kernel')
        ramdisk = self.file(samples.initramfs(), 'ramdisk')
        brought = ('--kernel', kernel, '--ramdisk', ramdisk)
        here = self.run_json('ami', 'check', root, *brought)
        self.assertNotEqual([], here)
        there = self.run_json('ami', 'check', '--image', self.ami)
        self.assertEqual(here, there)
        there = self.run_json('ami', 'check', '--image', self.ami, *brought)
        self.assertEqual(here, there)

    def test_a_kernel_in_it(self) -> None:
        boot = {
            f'boot/vmlinuz-{checks.RELEASE}': samples.bzimage(),
            f'boot/initrd.img-{checks.RELEASE}': checks.ramdisk(
                checks.DRIVERS
            ),
        }
        root = images.image(
            self.directory,
            {**checks.SOUND, **boot},
            options=checks.OPTIONS,
            size=64 << 20,
        )
        raw = self.create('d', 'raw', data=root.read_bytes())
        words = ('ami', 'check', '-f', 'json')
        here = self.run_openstack(*words, root)
        there = self.run_openstack(*words, '--image', raw)
        self.assertEqual(here.stdout, there.stdout)
        self.assertEqual(0, there.status)
        version = ('--kernel-version', checks.RELEASE)
        self.change(raw, kernel_id=self.create('k', 'aki', data=_OTHER))
        found = self.run_json(*words[:2], '--image', raw)
        self.assertIn('no-modules', [row['rule'] for row in found])
        there = self.run_openstack(*words, '--image', raw, *version)
        self.assertEqual(here.stdout, there.stdout)

    def test_refusals(self) -> None:
        queued = self.create('queued', 'ami', data=None)
        vmdk = self.create('v', 'vmdk', data=b'KDMV', container_format='ami')
        for words, said in (
            (('--image', queued), 'queued, not active'),
            (('--image', vmdk), 'vmdk'),
            (('--image', 'nosuch'), 'nosuch'),
            (('--image', self.ami, '--partition', '1'), '--partition'),
        ):
            for verb in ('inspect', 'check'):
                finished = self.run_openstack('ami', verb, *words)
                self.assertEqual((1, ''), (finished.status, finished.stdout))
                self.assertIn(said, finished.stderr)
                self.assertEqual(1, finished.stderr.count('\n'))
