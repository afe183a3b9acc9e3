# SPDX-License-Identifier: Apache-2.0

"""What the tests of AMIs' health have in common."""

import functools
import json
import pathlib
import shlex
import sqlite3
import tempfile
from typing import Any

from amiclient import process
from amiclient.tests.functional import base
from amiclient.tests.unit.rootfs import checks
from amiclient.tests.unit.rootfs import images
from amiclient.tests.unit.rootfs import samples

GIB = 2**30


@functools.cache
def root() -> bytes:
    """Make a root filesystem with nothing to object to."""
    with tempfile.TemporaryDirectory() as name:
        path = images.image(
            pathlib.Path(name),
            checks.SOUND,
            options=(*checks.OPTIONS, '-N', '128'),
            size=1 << 20,
        )
        return path.read_bytes()


@functools.cache
def qcow2() -> bytes:
    """Make a qcow2 image of it."""
    with tempfile.TemporaryDirectory() as name:
        path = pathlib.Path(name, 'root')
        path.write_bytes(root())
        target = path.with_name('qcow2')
        process.run(
            ['qemu-img', 'convert', '-c', '-O', 'qcow2', path, target],
            access=None,
        )
        return target.read_bytes()


class HealthCase(base.TestCase):
    """A test that has a kernel, a ramdisk and an AMI, all of them sound."""

    def setUp(self) -> None:
        super().setUp()
        self.connections: dict[str, Any] = {}
        self.connection = self.connect('demo')
        self.kernel = self.create(
            'linux',
            'aki',
            data=self.content('kernel'),
            architecture='x86_64',
        )
        self.ramdisk = self.create(
            'initrd', 'ari', data=self.content('ramdisk')
        )
        self.ami = self.create_ami()

    def content(self, noun) -> bytes:
        """Make the data of the kernel, or of the ramdisk."""
        return self.data('aki' if noun == 'kernel' else 'ari')

    @staticmethod
    def data(disk_format) -> bytes:
        """Make data that suits a format."""
        if disk_format == 'aki':
            return samples.bzimage()
        if disk_format == 'qcow2':
            return qcow2()
        return samples.initramfs() if disk_format == 'ari' else root()

    def connect(self, user):
        """Connect to the cloud, once for each user."""
        if user not in self.connections:
            self.connections[user] = self.embedded.connection(user)
        return self.connections[user]

    def create_ami(self, **attributes) -> str:
        """Create one that has no trouble, but for what is told."""
        return self.create(
            'debian',
            **{
                'disk_format': 'ami',
                'kernel_id': self.kernel,
                'ramdisk_id': self.ramdisk,
                'architecture': 'x86_64',
                'min_disk': 1,
                **attributes,
            },
        )

    def create(
        self, name, disk_format, *, data=b'', user='demo', **attributes
    ) -> str:
        """Create an image; it stays queued if its data is None."""
        if data == b'':
            data = self.data(disk_format)
        image = self.connect(user).image
        is_ours = disk_format in ('ami', 'aki', 'ari')
        body = {
            'name': name,
            'disk_format': disk_format,
            'container_format': disk_format if is_ours else 'bare',
            **attributes,
        }
        answer = image.post('/images', json=body)
        self.assertEqual(201, answer.status_code, answer.text)
        image_id: str = answer.json()['id']
        if data is not None:
            answer = image.put(
                f'/images/{image_id}/file',
                data=data,
                headers={'Content-Type': 'application/octet-stream'},
            )
            self.assertEqual(204, answer.status_code, answer.text)
        return image_id

    def change(self, image_id, user='demo', **attributes) -> None:
        """Change an image; None removes a property."""
        changes = [
            {'op': 'add', 'path': f'/{name}', 'value': value}
            if value is not None
            else {'op': 'remove', 'path': f'/{name}'}
            for name, value in attributes.items()
        ]
        media = 'application/openstack-images-v2.1-json-patch'
        answer = self.connect(user).image.patch(
            f'/images/{image_id}',
            json=changes,
            headers={'Content-Type': media},
        )
        self.assertEqual(200, answer.status_code, answer.text)

    def overwrite(self, image_id, **columns) -> None:
        """Change what Glance would not let anybody change."""
        for name, value in columns.items():
            self.sql(
                f'UPDATE images SET {name} = ? WHERE id = ?', value, image_id
            )

    def sql(self, statement, *values) -> None:
        """Change Glance's database."""
        path = self.cloud.directory / 'glance.db'
        database = sqlite3.connect(path, timeout=60)
        with database:
            database.execute(statement, values)
        database.close()

    def findings(self, ami=None, user=None):
        """Verify an AMI.

        :returns: findings by their rule; several of one rule are a list.
        """
        words = ['ami', 'verify', ami or self.ami, '-f', 'json']
        finished = self.run_openstack(*words, user=user)
        self.assertEqual('', finished.stderr)
        found = json.loads(finished.stdout)
        failed = any(row['severity'] == 'error' for row in found)
        self.assertEqual(int(failed), finished.status, found)
        return found

    def provoked(self, rule, severity, *, ami=None, user=None):
        """Tell the one finding of an AMI, which has to be of a rule."""
        found = self.findings(ami, user)
        self.assertEqual([rule], [row['rule'] for row in found], found)
        self.assertEqual(severity, found[0]['severity'])
        return found[0]

    def run_remedy(self, finding, user=None) -> None:
        """Do what was printed, as a shell would."""
        for command in finding['remedy'].split(' && '):
            program, *words = shlex.split(command)
            self.assertEqual('openstack', program)
            self.openstack(*words, user=user, stderr=None)

    def assertMended(self, rule, severity, **options) -> dict:
        """Provoked, then mended by its remedy."""
        finding = self.provoked(rule, severity, **options)
        self.run_remedy(finding, options.get('user'))
        options.pop('ami', None)
        self.assertEqual([], self.findings(**options))
        return finding

    def assertNoRemedy(self, rule, severity, **options) -> dict:
        finding = self.provoked(rule, severity, **options)
        self.assertIsNone(finding['remedy'])
        return finding
