# SPDX-License-Identifier: Apache-2.0

"""Which images of a real Glance have a package."""

import functools
import json
import pathlib
import tempfile

from amiclient.glance.transfer import ranges
from amiclient.tests.functional import health
from amiclient.tests.unit.rootfs import databases
from amiclient.tests.unit.rootfs import images

_RPM = [
    databases.header('xz-libs', '5.4.6', '1.el9', source='xz-5.4.6-1.src.rpm'),
    databases.header('bind', '9.16', '1.el9', epoch=32),
]

_DATABASES: dict[str, dict[str, images.Content]] = {
    'dpkg': {
        'var/lib/dpkg/status': databases.dpkg(
            ('liblzma5', '5.6.1-1'), source='xz-utils'
        )
        + databases.dpkg(('bash', '5.2.15-2')),
    },
    'rpm': {'var/lib/rpm/rpmdb.sqlite': databases.sqlite(_RPM)[0]},
    'apk': {'lib/apk/db/installed': databases.apk(('xz-libs', '5.6.2-r0'))},
}


@functools.cache
def root(manager: str) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        path = images.image(
            pathlib.Path(name),
            {'etc/os-release': b'ID=x\n', **_DATABASES[manager]},
            options=('-t', 'ext4', '-O', '^has_journal', '-N', '64'),
            size=1 << 20,
        )
        return path.read_bytes()


class TestPackages(health.HealthCase):
    def setUp(self) -> None:
        super().setUp()
        self.ids = {
            manager: self.create_ami(name=manager, data=root(manager))
            for manager in _DATABASES
        }

    def create_ami(self, *, name='debian', **attributes) -> str:
        id = super().create_ami(**attributes)
        self.change(id, name=name)
        return id

    def audit(self, *words, status=1) -> list[tuple]:
        finished = self.run_openstack('ami', 'audit', *words, '-f', 'json')
        self.assertEqual(status, finished.status, finished)
        self.stderr = finished.stderr
        return [tuple(row.values()) for row in json.loads(finished.stdout)]

    def test_packages(self) -> None:
        rows = self.openstack_json('ami', 'packages', 'dpkg')
        self.assertEqual(
            {
                'Name': 'liblzma5',
                'Version': '5.6.1-1',
                'Architecture': 'amd64',
                'Source': 'xz-utils',
                'Source Version': '5.6.1-1',
            },
            rows[1],
        )
        rows = self.openstack_json('ami', 'packages', self.ids['rpm'])
        self.assertEqual(
            ['32:9.16-1.el9', '5.4.6-1.el9'],
            [row['Version'] for row in rows],
        )
        path = self.tmp() / 'rpm.img'
        path.write_bytes(root('rpm'))
        here = self.openstack_json('ami', 'packages', '--source', path)
        self.assertEqual(rows, here)
        rows = self.audit('--source', path, '--package', 'xz-libs<5.6')
        wanted = (None, str(path), 'xz-libs', '5.4.6-1.el9', 'affected', None)
        self.assertEqual([wanted], rows)
        finished = self.run_openstack('ami', 'packages', self.ami)
        self.assertEqual((1, ''), (finished.status, finished.stdout))
        self.assertIn('no packages of dpkg', finished.stderr)

    def test_audit(self) -> None:
        asked = ('--package', 'src:xz-utils>=5.6.0,<5.6.2')
        asked += ('--package', 'xz-libs<5.6')
        ids = self.ids
        rows = self.audit('--all', *asked)
        affected = {
            (ids['dpkg'], 'dpkg', 'liblzma5', '5.6.1-1', 'affected', None),
            (ids['rpm'], 'rpm', 'xz-libs', '5.4.6-1.el9', 'affected', None),
        }
        self.assertEqual(affected, {*rows[:2]})
        self.assertEqual(
            {(self.ami, 'src:xz-utils'), (self.ami, 'xz-libs')},
            {(row[0], row[2]) for row in rows if row[4] == 'unknown'},
        )
        self.assertIn(
            (ids['apk'], 'apk', 'xz-libs', '5.6.2-r0', 'not affected', None),
            rows,
        )
        self.assertEqual(
            '1 of 4 images: the state is unknown; the notes say why\n',
            self.stderr,
        )
        self.assertEqual(
            {'affected', 'not affected'},
            {row[4] for row in self.audit('dpkg', 'rpm', *asked)},
        )
        rows = self.audit('apk', 'rpm', '--package', 'bash', status=0)
        self.assertEqual({(None, 'not affected')}, {row[3:5] for row in rows})
        self.assertEqual('', self.stderr)
        self.patch(ranges.receive, 'NO_RANGES', frozenset({206}))
        (row,) = self.audit('dpkg', '--package', 'bash')
        self.assertEqual('unknown', row[4])
        self.assertIn('whole images only', row[5])

    def test_refusals(self) -> None:
        for words, said in (
            (('audit', '--package', 'bash'), 'AMIs or --all or --source'),
            (('audit', 'dpkg', '--all', '--package', 'x'), 'either'),
            (('audit', 'dpkg', '--package', 'x<'), "'x<' is not a package"),
            (('audit', 'nosuch', '--package', 'x'), 'nosuch'),
            (('packages',), 'an AMI or --source'),
            (('packages', 'dpkg', '--partition', '1'), 'without --source'),
            (('packages', '--source', 'nosuch'), 'nosuch'),
            (('packages', __file__), f'for the file: --source {__file__}'),
            (('audit', '--package', 'x', __file__), 'file: --source'),
        ):
            finished = self.run_openstack('ami', *words)
            self.assertEqual((1, ''), (finished.status, finished.stdout))
            self.assertIn(said, finished.stderr)
            self.assertEqual(1, finished.stderr.count('\n'))
