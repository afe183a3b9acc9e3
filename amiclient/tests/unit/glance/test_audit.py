# SPDX-License-Identifier: Apache-2.0

"""Packages of images, read where they lie."""

import uuid

from amiclient import errors
from amiclient.glance import client
from amiclient.glance import retry
from amiclient.glance.transfer import ranges
from amiclient.glance.verify import audit
from amiclient.rootfs.packages import Asked
from amiclient.tests import base
from amiclient.tests.disks import xfs
from amiclient.tests.faults import actions
from amiclient.tests.unit.glance import records
from amiclient.tests.unit.glance import served
from amiclient.tests.unit.rootfs import databases
from amiclient.tests.unit.rootfs import images

_PATIENCE = retry.Patience(attempts=1, stall=served.AGES, backoff=0.01)
_DPKG = databases.dpkg(('xz-utils', '5.4.1-1'))
_KERNEL = {'kernel_id': records.kernel().id}


class AuditCase(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.root = images.image(
            self.tmp(),
            {'var/lib/dpkg/status': _DPKG, 'etc/os-release': b''},
            options=('-t', 'ext4', '-O', '^has_journal', '-N', '64'),
            size=1 << 20,
        ).read_bytes()
        self.cloud = self.useFixture(served.Served(data=self.root, **_KERNEL))

    def put(self, name: str, data=None, format='ami', **attributes) -> str:
        id = str(uuid.uuid5(uuid.NAMESPACE_DNS, name))
        data = self.root if data is None else data
        facts = {'size': len(data), **_KERNEL, **attributes}
        self.cloud.glance.put(name, id, format, data=data, **facts)
        return id

    def audit(self, *asked: str, **request) -> list[tuple]:
        found = audit.run(
            audit.AuditRequest(
                tuple(map(Asked.parse, asked)), patience=_PATIENCE, **request
            ),
            self.cloud.proxy,
        )
        return [
            (each.name, each.verdict.version, each.verdict.state)
            for each in found
        ]


class TestAudit(AuditCase):
    def test_what_is_not_looked_into(self) -> None:
        """Each says why, and keeps nobody from the others."""
        disk = b'/dev/vda1 / ext4\n/dev/vda2 /var ext4\ntmpfs /var/tmp tmpfs'
        away = images.image(
            self.tmp(), {'etc/fstab': disk}, size=1 << 20
        ).read_bytes()
        btrfs = bytearray(1 << 20)
        btrfs[0x10040:0x10048] = b'_BHRfS_M'
        ids = [self.put('away', away), self.put('btrfs', bytes(btrfs))]
        asked = audit.AuditRequest(
            (Asked.parse('xz-utils'),), ('web', *ids), patience=_PATIENCE
        )
        found = {
            each.name: each.verdict
            for each in audit.run(asked, self.cloud.proxy)
        }
        self.assertEqual('affected', found['web'].state)
        for name, why in (
            ('away', 'it mounts /var, which is not looked into'),
            ('btrfs', 'a btrfs filesystem'),
        ):
            self.assertEqual('unknown', found[name].state)
            self.assertIn(why, str(found[name].note))

    def test_all(self) -> None:
        other = self.root.replace(b'5.4.1-1', b'5.6.2-1')
        self.put('b', other)
        self.put('c', os_hidden=True)
        self.put('no AMI', b'k', 'aki', kernel_id=None)
        self.put('v', b'KDMV', 'vmdk')
        self.put('q', status='queued')
        found = self.audit('xz-utils<5.6.2', all=True)
        old, new = ('5.4.1-1', 'affected'), ('5.6.2-1', 'not affected')
        unknown = (None, 'unknown')
        self.assertEqual(
            [
                *(('c', *old), ('web', *old)),
                *(('q', *unknown), ('v', *unknown)),
                ('b', *new),
            ],
            found,
        )

    def test_some(self) -> None:
        id = self.put('b')
        rows = self.audit('xz-utils', 'bash', amis=('web', id, 'b', 'web'))
        self.assertEqual(
            [('b', '5.4.1-1', 'affected'), ('web', '5.4.1-1', 'affected')],
            rows[:2],
        )
        self.assertEqual(
            [('b', None, 'not affected'), ('web', None, 'not affected')],
            rows[2:],
        )
        self.assertRaises(
            errors.NotFoundError,
            self.audit,
            'xz-utils',
            amis=('web', 'nosuch'),
        )

    def test_an_error_of_the_cloud(self) -> None:
        self.put('b')
        self.cloud.way.rule(
            actions.answer(500), method='GET', path=f'{served.IMAGE}/file$'
        )
        rows = self.audit('xz-utils', amis=('web', 'b'))
        self.assertEqual(['affected', 'unknown'], [row[2] for row in rows])

    def test_a_store_without_ranges(self) -> None:
        self.cloud.glance.ranges = False
        error = self.assertRaises(ranges.NoRangesError, self.look)
        self.assertIn('whole images only', str(error))

    def look(self):
        image = audit.find(client.Catalog(self.cloud.proxy), served.IMAGE)
        return audit.look(image, self.cloud.proxy, _PATIENCE)

    def test_little_is_read(self) -> None:
        self.cloud.glance.data[served.IMAGE] += bytes(60 << 20)
        self.cloud.glance.change(
            served.IMAGE, size=len(self.cloud.data), **_KERNEL
        )
        self.assertEqual(1, len(self.look().packages))
        self.assertLess(len(self.cloud.asked), 20)

    def test_xfs(self) -> None:
        directory = self.tmp()
        (directory / 'installed').write_bytes(databases.apk(('xz', '5-r0')))
        (directory / 'proto').write_text(
            'boot\n0 0\nd--755 0 0\netc d--755 0 0\n'
            f'os-release ---644 0 0 {directory}/installed\n$\n'
            'lib d--755 0 0\napk d--755 0 0\ndb d--755 0 0\n'
            f'installed ---644 0 0 {directory}/installed\n$\n$\n$\n$\n'
        )
        path = xfs.make(directory / 'xfs', '-p', str(directory / 'proto'))
        self.put('x', path.read_bytes(), 'raw')
        rows = self.audit('xz', amis=('x',))
        self.assertEqual([('x', '5-r0', 'affected')], rows)
