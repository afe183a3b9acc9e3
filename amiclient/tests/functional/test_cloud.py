# SPDX-License-Identifier: Apache-2.0

"""The embedded cloud is a cloud."""

import io
import os
import pathlib
import subprocess
import sys
import unittest
import uuid

from amiclient.tests import base as plain

from amiclient.tests.functional import base

#: An ordinary user, that of news on any Debian; nobody is what other tests
#: are, at the same time.
_USER = 9


class TestCloud(base.TestCase):
    def test_token(self) -> None:
        token = self.openstack_json('token', 'issue')
        self.assertEqual({'id', 'expires', 'project_id', 'user_id'}, {*token})

    def test_images_of_nobody(self) -> None:
        self.assertEqual([], self.openstack_json('image', 'list'))

    def test_subprocess(self) -> None:
        finished = self.finished(
            [*base.COMMAND, 'image', 'list', '-f', 'value']
        )
        self.assertEqual(
            (0, '', ''), (finished.status, finished.stdout, finished.stderr)
        )

    def test_error_is_told(self) -> None:
        finished = self.run_openstack('image', 'show', 'nosuch')
        self.assertEqual(1, finished.status)
        self.assertIn('nosuch', finished.stderr)

    def test_roles(self) -> None:
        create = ('image', 'create', '--disk-format', 'aki')
        create = (*create, '--container-format', 'aki', '-c', 'id')
        self.openstack(*create, 'mine')
        self.assertEqual(1, len(self.openstack_json('image', 'list')))
        for user, count in (('reader', 1), ('other', 0)):
            seen = self.openstack_json('image', 'list', user=user)
            self.assertEqual(count, len(seen), user)
        refused = self.run_openstack(*create, 'no', user='reader')
        self.assertIn('403', refused.stderr)
        refused = self.run_openstack(*create, 'no', '--public')
        self.assertIn('403', refused.stderr)
        self.openstack(*create, 'all', '--public', user='admin')

    def test_links_are_ids(self) -> None:
        image = self.embedded.connection().image
        body = {'disk_format': 'ami', 'container_format': 'ami'}
        for link, status in (('a name', 400), (str(uuid.uuid4()), 201)):
            answer = image.post('/images', json={**body, 'kernel_id': link})
            self.assertEqual(status, answer.status_code, answer.text)

    def test_data_come_back(self) -> None:
        image = self.embedded.connection().image
        answer = image.post(
            '/images', json={'disk_format': 'aki', 'container_format': 'aki'}
        )
        path = f'/images/{answer.json()["id"]}'
        data = self.random.randbytes(3 << 20)
        kind = {'Content-Type': 'application/octet-stream'}
        answer = image.put(f'{path}/file', data=io.BytesIO(data), headers=kind)
        self.assertEqual(204, answer.status_code, answer.text)
        self.assertEqual(data, image.get(f'{path}/file').content)
        record = image.get(path).json()
        self.assertEqual(
            ('active', 'sha512'), (record['status'], record['os_hash_algo'])
        )


class TestOrdinaryUser(plain.TestCase):
    """Whoever reads the README is not root."""

    @unittest.skipIf(os.geteuid(), 'only root can become somebody else')
    def test_start_and_stop(self) -> None:
        place = self.tmp()
        os.chown(place, _USER, _USER)
        stamp = self.tmp() / 'stamp'
        stamp.touch()
        cloud = ('-m', 'amiclient.tests.cloud', 'run', place / 'cloud', '--')
        command = (*base.COMMAND, 'image', 'list', '-f', 'value')
        finished = self.as_user(*cloud, *command, place=place)
        self.assertEqual((0, ''), (finished.returncode, finished.stdout))
        left = subprocess.run(
            [
                *('find', '/etc', '/tmp', '/var', '/dev/shm', '/run'),
                *('-path', place, '-prune', '-o', '-user', str(_USER)),
                *('-newer', stamp, '-print'),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.assertEqual('', left.stdout)
        names = {path.name for path in place.iterdir()}
        self.assertLessEqual(names, {'cloud', '.cache', '.config'})

    def as_user(
        self, *words: str | pathlib.Path, place: pathlib.Path
    ) -> subprocess.CompletedProcess[str]:
        """Run Python as an ordinary user whose home is a directory.

        It may read what others may not: Python itself may be there.
        """
        reading = '+dac_read_search'
        return subprocess.run(
            [
                *('setpriv', '--reuid', str(_USER), '--clear-groups'),
                *('--regid', str(_USER), '--inh-caps', reading),
                *('--ambient-caps', reading, sys.executable, *words),
            ],
            env={
                'HOME': str(place),
                'PATH': os.environ['PATH'],
                'TMPDIR': str(place),
            },
            cwd=pathlib.Path(plain.__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
