# SPDX-License-Identifier: Apache-2.0

"""``openstack ami list`` and ``openstack ami show``, against a real Glance."""

import uuid

from amiclient.tests.faults import stuck
from amiclient.tests.functional import base


class TestCase(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.connection = self.embedded.connection()
        self.kernel = self.create('linux-6', 'aki', 'aki')
        self.ramdisk = self.create('initrd-6', 'ari', 'ari')
        self.links = {'kernel_id': self.kernel, 'ramdisk_id': self.ramdisk}

    def create(self, name, disk_format, container_format, **attributes) -> str:
        body = {
            'name': name,
            'disk_format': disk_format,
            'container_format': container_format,
            **attributes,
        }
        answer = self.connection.image.post('/images', json=body)
        self.assertEqual(201, answer.status_code, answer.text)
        image_id: str = answer.json()['id']
        return image_id

    def listed(self, *words, **options) -> list[str]:
        rows = self.openstack_json('ami', 'list', *words, **options)
        return [row['ID'] for row in rows]


class TestList(TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.b = self.create('b', 'ami', 'ami', **self.links, tags=['t'])
        self.a = self.create(
            'a', 'raw', 'bare', kernel_id=self.kernel, os_distro='debian'
        )
        self.create('plain', 'qcow2', 'bare')

    def test_an_ami_is_what_links_to_a_kernel(self) -> None:
        rows = self.openstack_json('ami', 'list')
        self.assertEqual(
            [
                {
                    'ID': self.a,
                    'Name': 'a',
                    'Status': 'queued',
                    'Kernel': self.kernel,
                    'Ramdisk': None,
                },
                {
                    'ID': self.b,
                    'Name': 'b',
                    'Status': 'queued',
                    'Kernel': self.kernel,
                    'Ramdisk': self.ramdisk,
                },
            ],
            rows,
        )

    def test_by_status_and_membership(self) -> None:
        self.assertEqual([], self.listed('--status', 'active'))
        self.assertEqual([self.a, self.b], self.listed('--status', 'queued'))
        common = self.create(
            'c', 'ami', 'ami', **self.links, visibility='community'
        )
        project = self.embedded.connection('other').current_project_id
        self.connection.image.post(
            f'/images/{self.b}/members', json={'member': project}
        )
        for words, found in (
            ((), []),
            (('--member-status', 'pending'), [self.b]),
            (('--all',), [self.b, common]),
            (('--all', '--member-status', 'accepted'), [common]),
        ):
            self.assertEqual(found, self.listed(*words, user='other'), words)

    def test_tables_have_names(self) -> None:
        table = self.openstack('ami', 'list')
        for text, count in (('linux-6', 2), ('initrd-6', 1), (self.a, 1)):
            self.assertEqual(count, table.count(text), table)
        self.assertNotIn(self.kernel, table)
        values = self.openstack('ami', 'list', '--check', '-f', 'value')
        self.assertNotIn('{', values)
        self.assertIn('error: not-active', values)

    def test_long(self) -> None:
        row = self.openstack_json('ami', 'list', '--long')[1]
        self.assertEqual('linux-6', row['Kernel Name'])
        self.assertEqual('initrd-6', row['Ramdisk Name'])
        self.assertEqual('shared', row['Visibility'])
        self.assertIs(False, row['Protected'])
        self.assertIsNone(row['Size'])
        self.assertEqual(['t'], row['Tags'])
        self.assertEqual(self.connection.current_project_id, row['Project'])
        self.assertEqual('image', row['Type'])
        snapshot = self.create(
            'snap', 'qcow2', 'ami', **self.links, image_type='snapshot'
        )
        rows = self.openstack_json('ami', 'list', '--long')
        self.assertEqual(
            {self.a: 'image', self.b: 'image', snapshot: 'snapshot'},
            {each['ID']: each['Type'] for each in rows},
        )

    def test_filters(self) -> None:
        for words, expected in (
            (('--name', 'a'), [self.a]),
            (('--name', 'plain'), []),
            (('--kernel', 'linux-6'), [self.a, self.b]),
            (('--kernel', str(uuid.UUID(int=5))), []),
            (('--ramdisk', self.ramdisk), [self.b]),
            (('--tag', 't'), [self.b]),
            (('--property', 'os_distro=debian'), [self.a]),
            (('--public',), []),
            (('--shared',), [self.a, self.b]),
            (('--hidden',), []),
            (('--limit', '1'), [self.a]),
            (('--marker', 'a'), [self.b]),
            (('--sort', 'name:desc'), [self.b, self.a]),
            (('--sort-column', 'Name', '--sort-descending'), [self.b, self.a]),
        ):
            self.assertEqual(expected, self.listed(*words), words)

    def test_limit_counts_amis(self) -> None:
        # Glance would count the images between them as well.
        self.assertEqual(
            [self.a, self.b], self.listed('--limit', '2', '--sort', 'name:asc')
        )

    def test_project(self) -> None:
        project = ('--project', 'demo', '--project-domain', 'default')
        self.assertEqual([], self.listed(user='other'))
        self.assertEqual([self.a, self.b], self.listed(*project, user='admin'))
        # Only administrators may look up the names of others.
        self.assertEqual([self.a, self.b], self.listed('--project', 'demo'))
        text = self.run_openstack('ami', 'list', '--project', 'other').stderr
        self.assertIn("'other' is used as the ID of a project", text)

    def test_hidden(self) -> None:
        hidden = self.create('h', 'ami', 'ami', **self.links, os_hidden=True)
        self.assertEqual([hidden], self.listed('--hidden'))

    def test_a_filter_that_glance_does_not_know(self) -> None:
        finished = self.run_openstack('ami', 'list', '--sort', 'nosuch:asc')
        self.assertEqual(1, finished.status)
        self.assertEqual(1, finished.stderr.count('\n'), finished.stderr)


class TestShow(TestCase):
    def test_with_what_it_links_to(self) -> None:
        ami = self.create('debian', 'ami', 'ami', **self.links)
        told = self.openstack_json('ami', 'show', 'debian')
        expected = {
            'id': ami,
            'name': 'debian',
            'status': 'queued',
            'protected': False,
            'hidden': False,
            'min_disk': 0,
            'min_ram': 0,
            'kernel_id': self.kernel,
            'kernel_name': 'linux-6',
            'kernel_status': 'queued',
            'ramdisk_id': self.ramdisk,
            'ramdisk_name': 'initrd-6',
            'ramdisk_status': 'queued',
        }
        self.assertEqual(expected, {key: told[key] for key in expected})
        self.assertEqual(told, self.openstack_json('ami', 'show', ami))

    def test_a_link_to_nothing(self) -> None:
        ami = self.create('debian', 'ami', 'ami', **self.links)
        self.connection.image.delete(f'/images/{self.kernel}')
        told = self.openstack_json('ami', 'show', ami)
        self.assertEqual('missing', told['kernel_status'])
        self.assertEqual(self.kernel, told['kernel_id'])
        self.assertIsNone(told['kernel_name'])
        self.assertEqual('queued', told['ramdisk_status'])

    def test_a_hidden_kernel_is_not_missing(self) -> None:
        kernel = self.create('k', 'aki', 'aki', os_hidden=True)
        ami = self.create('debian', 'ami', 'ami', kernel_id=kernel)
        told = self.openstack_json('ami', 'show', ami)
        self.assertEqual('queued', told['kernel_status'])

    def test_human_readable(self) -> None:
        ami = self.create('debian', 'ami', 'ami', **self.links)
        data = self.random.randbytes(1536 * 1024)
        self.connection.image.put(
            f'/images/{ami}/file',
            data=data,
            headers={'Content-Type': 'application/octet-stream'},
        )
        table = self.openstack('ami', 'show', ami, '--human-readable')
        self.assertIn('1.5 MiB', table)
        self.assertIn(str(len(data)), self.openstack('ami', 'show', ami))
        told = self.openstack_json('ami', 'show', ami, '--human-readable')
        self.assertEqual(len(data), told['size'])

    def test_another_image(self) -> None:
        self.create('plain', 'qcow2', 'bare')
        for name in ('plain', 'nosuch'):
            finished = self.run_openstack('ami', 'show', name)
            self.assertEqual(1, finished.status)
            self.assertEqual(1, finished.stderr.count('\n'), finished.stderr)
            self.assertIn(name, finished.stderr)

    def test_parts_are_nested(self) -> None:
        ami = self.create('debian', 'ami', 'ami', **self.links)
        self.connection.image.delete(f'/images/{self.ramdisk}')
        told = self.openstack_json('ami', 'show', ami)
        kernel = told['kernel']
        self.assertEqual(self.kernel, kernel['id'])
        self.assertEqual('queued', kernel['status'])
        self.assertEqual('aki', kernel['disk_format'])
        self.assertEqual('shared', kernel['visibility'])
        rules = [row['rule'] for row in kernel['findings']]
        self.assertEqual(['not-active'], rules)
        self.assertEqual('missing', told['ramdisk']['status'])
        rules = [row['rule'] for row in told['ramdisk']['findings']]
        self.assertEqual(['dangling'], rules)
        rules = [row['rule'] for row in told['findings']]
        self.assertEqual(['dangling', 'not-active', 'not-active'], rules)
        table = self.openstack('ami', 'show', ami)
        self.assertIn('linux-6 (queued, shared): error: not-active', table)
        for format_ in ('yaml', 'value', 'shell'):
            shown = self.openstack('ami', 'show', ami, '-f', format_)
            self.assertIn('dangling', shown)


class TestCheck(TestCase):
    def test_health_without_a_request_for_each(self) -> None:
        parts = [
            self.create('k', 'aki', 'aki', os_hidden=hidden)
            for hidden in (False, True, True, True)
        ]
        for number, kernel in enumerate(parts):
            self.create(f'{number}', 'ami', 'ami', kernel_id=kernel)
        self.create('4', 'raw', 'bare', kernel_id=str(uuid.UUID(int=7)))
        with stuck.Way(self.cloud, self.tmp()) as way:
            rows = self.openstack_json('ami', 'list', '--check')
            requests = way.proxy.count('GET', '^/v2/images')
        self.assertGreater(requests, 0)
        self.assertGreaterEqual(3, requests)
        self.assertEqual(
            [
                ['not-active', 'not-active', 'no-ramdisk'],
                *[['not-active', 'not-active', 'no-ramdisk', 'hidden']] * 3,
                ['dangling', 'not-active', 'no-ramdisk'],
            ],
            [[found['rule'] for found in row['Health']] for row in rows],
        )
        told = self.openstack('ami', 'list', '--check', '--name', '4')
        self.assertIn('error: dangling, not-active, no-ramdisk', told)

    def test_an_image_that_should_link_to_a_kernel(self) -> None:
        bare = self.create('a', 'ami', 'ami')
        half = self.create('b', 'raw', 'bare', ramdisk_id=self.ramdisk)
        self.create('c', 'raw', 'bare')
        self.assertEqual([], self.listed())
        self.assertEqual([], self.listed('--long'))
        rows = self.openstack_json('ami', 'list', '--check')
        self.assertEqual(
            {bare: 'no-kernel', half: 'no-kernel'},
            {row['ID']: row['Health'][0]['rule'] for row in rows},
        )

    def test_names_of_parts_that_the_filter_leaves_out(self) -> None:
        self.create('a', 'ami', 'ami', **self.links, tags=['t'])
        words = ('ami', 'list', '--tag', 't', '--check', '--long')
        row = self.openstack_json(*words)[0]
        self.assertEqual('linux-6', row['Kernel Name'])
        self.assertEqual('initrd-6', row['Ramdisk Name'])
