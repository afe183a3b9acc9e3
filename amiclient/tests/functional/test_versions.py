# SPDX-License-Identifier: Apache-2.0

"""New versions of an AMI on a real Glance, and what becomes of old ones."""

import hashlib
import re

from amiclient.tests.functional import upload


class TestReplace(upload.UploadCase):
    def put(self, version: str, *words: str, **options):
        # It is said that an older version holds the same bytes.
        options.setdefault('stderr', None)
        return self.upload(
            *('--family', 'web', '--image-version', version), *words, **options
        )

    def versions(self, *columns: str):
        rows = self.openstack_json('ami', 'list', '--family', 'web')
        return [tuple(row[name] for name in columns) for row in rows]

    def test_whole_way(self) -> None:
        first = self.put('1', '--name', 'web', stderr='')
        record = self.get(first['id'])
        digest = hashlib.sha512(self.root.read_bytes()).hexdigest()
        self.assertEqual(digest, record['ami_source_sha512'])
        self.assertTrue(
            re.fullmatch(
                r'\d{4}(-\d\d){2} \d\d(:\d\d){2}', record['image_build_date']
            )
        )
        # The same once more is the same image, whatever the time is.
        again = self.put('1', '--name', 'web', '--replace', 'delete')
        self.assertEqual((first['id'], 0), (again['id'], again['uploaded']))
        # Whatever is done, it is not done in a dry run.
        words = '--name', 'web', '--replace', 'rename'
        plan = self.put('2', *words, '--dry-run')['plan']
        date = record['image_build_date'].partition(' ')[0].replace('-', '')
        self.assertEqual(
            (f"rename to 'web {date}':", first['id']),
            (plan[-1]['action'], plan[-1]['id']),
        )
        self.assertEqual('web', self.get(first['id'])['name'])
        second = self.put('2', *words)
        self.assertEqual(f'web {date}', self.get(first['id'])['name'])
        third = self.put('3', '--name', 'web-3', '--replace', 'deactivate')
        self.assertEqual(
            [
                ('web-3', '3', 'active', False),
                ('web', '2', 'deactivated', False),
                (f'web {date}', '1', 'deactivated', False),
            ],
            self.versions('Name', 'Version', 'Status', 'Hidden'),
        )
        self.put('4', '--name', 'web-4', '--replace', 'hide', '--keep', '2')
        self.assertEqual(
            [('4', False), ('3', False), ('2', True), ('1', True)],
            self.versions('Version', 'Hidden'),
        )
        # Nothing that a server uses is deleted, and that is no failure.
        self.cloud.put_servers(
            {
                'id': 's',
                'name': 'db',
                'tenant_id': record['owner'],
                'image': second['id'],
            }
        )
        words = '--name', 'web-5', '--replace', 'delete', '--keep', '2'
        told = self.put('5', *words, stderr=None)
        self.assertEqual(
            [third['kernel_id'], third['ramdisk_id']], told['reused']
        )
        self.assertEqual([('5',), ('4',), ('2',)], self.versions('Version'))
        self.openstack('ami', 'prune', 'web', '--keep', '1', stderr=None)
        self.assertEqual([('5',), ('2',)], self.versions('Version'))
        self.cloud.put_servers()
        self.openstack('ami', 'prune', 'web', '--keep', '1', stderr=None)
        self.assertEqual([('5',)], self.versions('Version'))

    def test_refused(self) -> None:
        words = ('ami', 'upload', self.root, *self.parts)
        told = self.refused(*words, '--keep', '2')
        self.assertIn('--keep: all images are kept', told)
        told = self.refused(
            *words, '--family', 'f', '--property', 'ami_family=g'
        )
        self.assertIn('--property ami_family: there is an option', told)
