# SPDX-License-Identifier: Apache-2.0

"""AMIs in several regions and clouds, with real Keystones and Glances."""

import json
from typing import Any

import fixtures

from amiclient.tests.cloud import cloud
from amiclient.tests.cloud import fixture
from amiclient.tests.disks import triple
from amiclient.tests.faults import proxy as faults
from amiclient.tests.functional import triples

#: Random, so that nothing of it is anything else.
SIZE = 3 * 2**20 + 5

MARK = 'amiclient_upload'


class TestCopy(triples.TripleCase):
    """Two clouds; the other one's Glances may not read from each other."""

    options = cloud.Options(regions=3)
    others = cloud.Options(regions=2, filtered=True)

    def setUp(self) -> None:
        super().setUp()
        self.data = self.random.randbytes(SIZE)
        self.web = self.create(
            'big',
            'ami',
            data=self.data,
            kernel_id=self.kernel,
            ramdisk_id=self.ramdisk,
            architecture='x86_64',
            os_distro='debian',
            hw_disk_bus='scsi',
            colour='blue',
            min_disk=3,
            tags=['tested'],
        )

    def images(self, region: str = 'RegionTwo') -> dict[str, Any]:
        """Get the images of another region, by their ids."""
        glance = self.embedded.connection(region=region).image
        found = glance.get('/images?visibility=all').json()['images']
        return {image['id']: image for image in found}

    def configure(self, clouds: dict[str, Any]) -> None:
        """Have these in clouds.yaml, and one that does not answer."""
        auth = {**self.cloud.auth(), 'auth_url': 'http://127.0.0.1:9/v3'}
        clouds = {**clouds, 'down': {'auth': auth}}
        path = self.tmp() / 'clouds.yaml'
        path.write_text(json.dumps({'clouds': clouds}))
        self.useFixture(
            fixtures.EnvironmentVariable('OS_CLIENT_CONFIG_FILE', str(path))
        )

    def copied(
        self, *words: object, said: str = '', status: int = 0
    ) -> list[dict[str, Any]]:
        finished = self.run_openstack(
            'ami', 'copy', 'big', *words, '-f', 'json'
        )
        self.assertEqual(status, finished.status, finished)
        if said:
            self.assertIn(said, finished.stderr)
        else:
            self.assertEqual('', finished.stderr)
        self.said = finished.stderr
        rows: list[dict[str, Any]] = json.loads(finished.stdout)
        return rows

    def assertWhole(self, row: dict[str, Any], images: dict[str, Any]) -> None:
        """All that makes sense elsewhere is there, and nothing else."""
        ami = images[row['id']]
        self.assertEqual(row['kernel_id'], ami['kernel_id'])
        self.assertEqual(row['ramdisk_id'], ami['ramdisk_id'])
        here = self.get(self.web) or {}
        for name in (
            'name', 'architecture', 'os_distro', 'hw_disk_bus', 'colour',
            'min_disk', 'tags', 'size', 'os_hash_value', 'disk_format',
            'container_format', 'status',
        ):  # fmt: skip
            self.assertEqual(here[name], ami[name], name)
        for id, old in ((row['kernel_id'], self.kernel),
                        (row['ramdisk_id'], self.ramdisk)):  # fmt: skip
            before = self.get(old) or {}
            self.assertEqual(
                before['os_hash_value'], images[id]['os_hash_value']
            )
        for image in images.values():
            self.assertNotIn(MARK, image)

    def test_declared(self) -> None:
        """What a file declares is there, too, and stays as it says."""
        path = self.tmp() / 'images.yaml'
        path.write_text(
            'amis: [{name: big, tags: [new], regions: [RegionTwo]}]'
        )
        apply = ('ami', 'apply', path)
        planned = self.openstack_json(*apply, '--dry-run')
        done = self.openstack_json(*apply)
        self.assertEqual(
            [('', 'image'), ('region RegionTwo', 'copy')],
            [(row['Place'], row['Change'].split()[0]) for row in done],
        )
        changes = [[row['Change'] for row in each] for each in (planned, done)]
        self.assertEqual(changes[0], changes[1])
        copy = self.images()[done[1]['Image']]
        self.assertEqual(['new'], copy['tags'])
        self.assertWhole(copy, self.images())
        finished = self.run_openstack(*apply, '-f', 'json')
        self.assertEqual((0, '[]'), (finished.status, finished.stdout.strip()))
        self.assertEqual(
            'nothing to change: all AMIs are as declared',
            finished.stderr.strip(),
        )
        path.write_text(path.read_text().replace('new', 'newer'))
        done = self.openstack_json(*apply)
        self.assertEqual(['', 'region RegionTwo'], [r['Place'] for r in done])
        self.assertEqual(['newer'], self.images()[copy['id']]['tags'])
        path.write_text('amis: [{name: big, tags: [web],\nregions: [NoSuch]}]')
        self.assertIn(
            'images.yaml:2: there is no region NoSuch; choose one of: Region',
            self.run_openstack(*apply).stderr,
        )
        self.assertEqual(['newer'], self.images()[copy['id']]['tags'])
        # A cloud that does not answer keeps nobody from the others.
        path.write_text(
            'amis: [{name: nosuch},\n{name: big, tags: [web], clouds: [down]}]'
        )
        self.configure(self.cloud.clouds())
        finished = self.run_openstack(*apply, '-f', 'json')
        self.assertEqual(1, finished.status, finished)
        for said in ('1: nosuch: no AMI', '2: big: no copy for the cloud'):
            self.assertIn(f'images.yaml:{said}', finished.stderr)
        self.assertIn('tags=web', finished.stdout)

    def test_regions(self) -> None:
        """Three of them; and no data passes through the client."""
        way = self.useFixture(faults.Proxy(self.cloud.auth_url))
        for name in ('NO_PROXY', 'no_proxy'):
            self.useFixture(fixtures.EnvironmentVariable(name, ''))
        for name in ('HTTP_PROXY', 'http_proxy'):
            self.useFixture(fixtures.EnvironmentVariable(name, way.url))
        regions = ('--to-region', 'RegionTwo', '--to-region', 'RegionThree')
        rows = self.copied(*regions)
        self.assertLess(10, len(way.seen))
        self.assertLess(way.carried, 64 * 1024)
        for row, region in zip(
            rows, ('RegionTwo', 'RegionThree'), strict=True
        ):
            self.assertEqual(f'region {region}', row['target'])
            self.assertEqual(
                ('copied', 'glance-download', 0, []),
                tuple(
                    row[name] for name in ('status', 'way', 'sent', 'reused')
                ),
            )
            self.assertWhole(row, self.images(region))
        again = self.copied(*regions, said='is there already: nothing is sent')
        for row, before in zip(again, rows, strict=True):
            self.assertEqual('present', row['status'])
            self.assertEqual(before['id'], row['id'])
            self.assertEqual(3, len(row['reused']))
        # What was copied is told from what was not.
        self.embedded.connection(region='RegionThree').image.update_image(
            rows[1]['id'], colour='red'
        )
        listed = {
            row['Name']: (row['Region RegionTwo'], row['Region RegionThree'])
            for row in self.openstack_json(
                'ami', 'list', '--region', 'RegionTwo', '--region',
                'RegionThree',
            )
        }  # fmt: skip
        self.assertEqual(
            {
                'big': ('same', 'differs: colour'),
                'web': ('missing', 'missing'),
            },
            listed,
        )

    def test_clouds(self) -> None:
        """What fails is named, and leaves the others whole."""
        other = self.useFixture(fixture.EmbeddedCloud(self.others))
        clouds = self.cloud.clouds() | other.cloud.clouds('there-')
        self.configure(clouds)
        targets = (
            *('--to-cloud', 'there-reader', '--to-cloud', 'down'),
            *('--to-region', 'RegionTwo', '--same-id'),
        )
        rows = self.copied(*targets, said='cloud there-reader: ', status=1)
        self.assertIn('cloud down: ', self.said)
        self.assertEqual(
            [
                ('region RegionTwo', 'copied', 'glance-download'),
                ('cloud there-reader', 'failed', None),
                ('cloud down', 'failed', None),
            ],
            [(row['target'], row['status'], row['way']) for row in rows],
        )
        rows += self.copied('--to-cloud', 'there-demo', '--same-id')
        self.assertEqual(
            ('copied', 'stream'), (rows[3]['status'], rows[3]['way'])
        )
        for row in (rows[0], rows[3]):
            self.assertEqual(
                [self.web, self.kernel, self.ramdisk],
                [row['id'], row['kernel_id'], row['ramdisk_id']],
            )
        self.assertWhole(rows[0], self.images())
        there = other.connection().image
        found = there.get('/images').json()['images']
        self.assertWhole(rows[3], {image['id']: image for image in found})
        self.assertEqual(3, len(found))
        data = there.get(f'/images/{self.web}/file').content
        self.assertTrue(data == self.data, 'other bytes')
        self.assertLess(SIZE, rows[3]['sent'])
        verified = self.openstack_json(
            'ami', 'verify', 'big', '--against-cloud', 'there-demo',
            '--against-cloud', 'there-other', status=1,
        )  # fmt: skip
        self.assertEqual(
            [('copy-missing', f'openstack ami copy {self.web} --to-cloud '
              'there-other'), ('copy-same', None)],
            [(row['rule'], row['remedy']) for row in verified
             if row['rule'].startswith('copy-')],
        )  # fmt: skip
        # Its Glance of another region may not read from the first.
        finished = self.run_openstack(
            '--os-cloud', 'there-demo', '-v', 'ami', 'copy', self.web,
            '--to-region', 'RegionTwo', '-f', 'json',
        )  # fmt: skip
        self.assertEqual(0, finished.status, finished)
        (row,) = json.loads(finished.stdout)
        self.assertEqual('stream', row['way'])
        self.assertIn('region RegionTwo: importing image', finished.stderr)
        self.assertIn('the data is sent from here', finished.stderr)

    def test_stores(self) -> None:
        """A member brings it to several by the import that fetches it."""
        words = ('--to-region', 'RegionTwo', '--store', 'second')
        (row,) = self.copied(*words, '--store', 'main')
        self.assertEqual('glance-download', row['way'])
        self.assertEqual(
            [{'main', 'second'}] * 3,
            [{*i['stores'].split(',')} for i in self.images().values()],
        )

    def test_upload(self) -> None:
        """All is uploaded, and then copied; what fails is said."""
        directory = self.tmp()
        parts = triple.kernel(directory), triple.ramdisk(directory)
        root = triple.root(directory, size=4 << 20, data=1 << 20)
        words = (
            *('ami', 'upload', root, '--name', 'new', '--headroom', '0'),
            *('--kernel', parts[0], '--ramdisk', parts[1], '-f', 'json'),
            *('--to-region', 'RegionTwo', '--to-cloud', 'down'),
        )
        self.configure(self.cloud.clouds())
        planned = json.loads(self.run_openstack(*words, '--dry-run').stdout)
        self.assertEqual(
            ['planned', 'failed'], [row['status'] for row in planned['copies']]
        )
        finished = self.run_openstack(*words)
        self.assertEqual(1, finished.status, finished)
        shown = json.loads(finished.stdout)
        self.assertEqual('active', shown['status'])
        self.assertIn('cloud down: ', finished.stderr)
        self.assertEqual(
            ['copied', 'failed'], [row['status'] for row in shown['copies']]
        )
        there = self.images()[shown['copies'][0]['id']]
        self.assertEqual(
            ('new', (self.get(shown['id']) or {})['os_hash_value']),
            (there['name'], there['os_hash_value']),
        )

    def test_refused(self) -> None:
        for words, text in (
            ((), 'there is nowhere to copy to'),
            (('--to-region', 'RegionOne'), 'is where the AMI is already'),
            (('--to-region', 'X'), 'there is no region X; choose one of: '
             'RegionOne, RegionThree, RegionTwo'),
            (('--to-cloud', 'X'), 'there is no cloud X; choose one of: admin, '
             'demo, other, reader'),
            (('--to-cloud', 'demo'), 'is where the AMI is already'),
        ):  # fmt: skip
            finished = self.run_openstack('ami', 'copy', 'big', *words)
            self.assertEqual(1, finished.status, finished)
            self.assertIn(text, finished.stderr)
            self.assertEqual(1, finished.stderr.count('\n'), finished.stderr)
