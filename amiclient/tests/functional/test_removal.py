# SPDX-License-Identifier: Apache-2.0

"""``openstack ami delete``, and kernels and ramdisks as objects."""

import fixtures

from amiclient.tests.functional import triples


class TestDelete(triples.TripleCase):
    def test_alone(self) -> None:
        self.openstack('ami', 'delete', 'web')
        self.assertEqual(sorted((self.kernel, self.ramdisk)), self.images())

    def test_linked(self) -> None:
        told = self.openstack('ami', 'delete', 'web', '--linked', '--dry-run')
        self.assertEqual(
            [
                f"delete image 'web' ({self.ami})",
                f"delete kernel 'vmlinuz' ({self.kernel})",
                f"delete ramdisk 'initrd' ({self.ramdisk})",
            ],
            told.splitlines(),
        )
        self.assertEqual(3, len(self.images()))
        self.openstack('ami', 'delete', 'web', '--linked')
        self.assertEqual([], self.images())

    def test_what_others_need(self) -> None:
        snapshot = self.create(
            'snapshot',
            'raw',
            kernel_id=self.kernel,
            os_hidden=True,
            visibility='community',
            user='other',
        )
        (kept,) = self.told('ami', 'delete', 'web', '--linked')
        self.assertIn(f"kept the kernel 'vmlinuz' ({self.kernel})", kept)
        self.assertIn(f"needed by 'snapshot' ({snapshot})", kept)
        self.assertEqual(sorted((self.kernel, snapshot)), self.images())

    def test_several(self) -> None:
        second = self.create('db', 'raw', kernel_id=self.kernel)
        self.create('safe', 'ami', protected=True)
        self.create('plain', 'raw')
        finished = self.run_openstack(
            *('ami', 'delete', 'web', 'nosuch', 'safe', 'plain', second),
            '--linked',
        )
        self.assertEqual(1, finished.status)
        *lines, last = finished.stderr.splitlines()
        self.assertEqual('3 of 5 images were not deleted', last)
        for words, line in zip(
            (
                'nosuch',
                'openstack image set --unprotected',
                'openstack image delete',
            ),
            lines,
            strict=True,
        ):
            self.assertIn(words, line)
        self.assertEqual(2, len(self.images()))

    def test_dry_run(self) -> None:
        finished = self.run_openstack(
            *('ami', 'delete', 'web', 'nosuch', 'initrd', '--dry-run')
        )
        self.assertEqual(1, finished.status)
        self.assertEqual(
            '2 of 3 images would not be deleted',
            finished.stderr.splitlines()[-1],
        )
        self.assertEqual(3, len(self.images()))

    def test_hidden_ones_have_names_too(self) -> None:
        hidden = self.create('web', 'ami', os_hidden=True)
        told = self.refused('ami', 'delete', 'web')
        self.assertIn(f'{hidden} (AMI, hidden, queued', told)
        self.create('initrd', 'ari', os_hidden=True)
        told = self.refused('ami', 'ramdisk', 'delete', 'initrd', '--force')
        self.assertIn("2 images are named 'initrd'", told)

    def test_a_protected_part(self) -> None:
        self.openstack('ami', 'set', 'web', '--protected', '--linked')
        self.openstack('ami', 'set', 'web', '--unprotected')
        told = self.refused('ami', 'delete', 'web', '--linked')
        self.assertIn(
            f"'vmlinuz' ({self.kernel}), which", told.splitlines()[0]
        )
        self.openstack('ami', 'set', 'web', '--unprotected', '--linked')
        self.openstack('ami', 'delete', 'web', '--linked')

    def test_who_may_not(self) -> None:
        words = ('ami', 'delete', self.ami)
        self.assertIn('the role member', self.refused(*words, user='reader'))
        self.assertIn('no image has', self.refused(*words, user='other'))
        self.openstack('ami', 'set', 'web', '--community', '--linked')
        told = self.refused(*words, user='other')
        self.assertIn(f'belongs to the project {self.project("demo")}', told)

    def test_what_cannot_be_seen(self) -> None:
        self.openstack('ami', 'set', 'web', '--community', '--linked')
        self.create('p', 'ami', kernel_id=self.kernel, user='other')
        told = self.told('ami', 'delete', 'web', '--linked')
        self.assertEqual(3, len(told))
        self.assertIn('servers of theirs use it', told[0])
        self.assertIn('private images of theirs', told[1])


class TestServers(triples.TripleCase):
    """Servers of Nova, which takes the tokens of the real Keystone."""

    def put(self, id: str, project: str, **uses: str) -> None:
        server = {'id': id, 'name': id, 'tenant_id': self.project(project)}
        self.cloud.put_servers(server | uses)

    def test_in_use(self) -> None:
        self.put('mine', 'demo', image=self.ami)
        told = self.refused('ami', 'delete', 'web', '--linked')
        self.assertIn("without it, the server 'mine' (mine) cannot be", told)
        self.assertEqual(3, len(self.images()))
        (told,) = self.told('ami', 'delete', 'web', '--force')
        self.assertIn("the server 'mine' (mine) cannot be rebuilt", told)

    def test_of_another_project(self) -> None:
        """Only administrators see it, and all that it uses."""
        self.openstack('ami', 'set', 'web', '--community', '--linked')
        self.put('theirs', 'other', image=self.ami)
        told = self.told('ami', 'delete', 'web', '--dry-run')
        self.assertIn('servers of theirs use it cannot be seen', told[0])
        words = ('ami', 'delete', self.ami)
        told = self.refused(*words, user='admin')
        self.assertIn("the server 'theirs' (theirs) cannot be", told)
        self.put('theirs', 'other', kernel_id=self.kernel)
        told = self.told(*words, '--linked', user='admin')
        self.assertIn(f"kept the kernel 'vmlinuz' ({self.kernel})", told[-1])
        self.assertEqual([self.kernel], self.images())

    def test_no_nova(self) -> None:
        """What does not work any more is said."""
        variable = fixtures.EnvironmentVariable('OS_INTERFACE', 'internal')
        self.useFixture(variable)
        (told,) = self.told('ami', 'delete', 'web', '--linked')
        self.assertIn('internal endpoint for compute service', told)
        self.assertIn('their next snapshots do not boot', told)
        self.assertEqual([], self.images())


class TestParts(triples.TripleCase):
    def test_list(self) -> None:
        self.create('other-kernel', 'aki', tags=['t'])
        rows = self.openstack_json('ami', 'kernel', 'list')
        self.assertEqual(
            {
                'ID': self.kernel,
                'Name': 'vmlinuz',
                'Status': 'active',
            },
            rows[1],
        )
        self.assertEqual('other-kernel', rows[0]['Name'])
        rows = self.openstack_json('ami', 'kernel', 'list', '--long')
        self.assertEqual([0, 1], [row['Used By'] for row in rows])
        self.assertEqual(['t'], rows[0]['Tags'])
        for words, names in (
            (('--tag', 't'), ['other-kernel']),
            (('--name', 'vmlinuz'), ['vmlinuz']),
            (('--limit', '1'), ['other-kernel']),
            (('--marker', 'other-kernel'), ['vmlinuz']),
            (('--sort', 'name:desc'), ['vmlinuz', 'other-kernel']),
            (('--public',), []),
        ):
            rows = self.openstack_json('ami', 'kernel', 'list', *words)
            self.assertEqual(names, [row['Name'] for row in rows], words)
        (row,) = self.openstack_json('ami', 'ramdisk', 'list', '--long')
        self.assertEqual((self.ramdisk, 1), (row['ID'], row['Used By']))

    def test_show(self) -> None:
        hidden = self.create(
            'db', 'raw', kernel_id=self.kernel, os_hidden=True
        )
        shown = self.openstack_json('ami', 'kernel', 'show', 'vmlinuz')
        self.assertEqual(
            {(self.ami, 'web'), (hidden, 'db')},
            {(user['id'], user['name']) for user in shown['used_by']},
        )
        self.assertEqual(
            self.get(self.kernel)['os_hash_value'], shown['hash_value']
        )
        table = self.openstack('ami', 'ramdisk', 'show', self.ramdisk)
        self.assertIn(f'web ({self.ami})', table)
        told = self.refused('ami', 'ramdisk', 'show', 'vmlinuz')
        self.assertIn('is not a ramdisk', told)

    def test_delete(self) -> None:
        told = self.refused('ami', 'kernel', 'delete', 'vmlinuz')
        self.assertIn(f"'web' ({self.ami}) would not boot", told)
        unused = self.create('old', 'ari')
        self.openstack('ami', 'ramdisk', 'delete', 'old')
        self.assertIsNone(self.get(unused))
        (warning,) = self.told('ami', 'kernel', 'delete', 'vmlinuz', '--force')
        self.assertIn('will not boot without', warning)
        self.assertIsNone(self.get(self.kernel))

    def test_who_may_not(self) -> None:
        self.create('old', 'aki')
        told = self.refused('ami', 'kernel', 'delete', 'old', user='reader')
        self.assertIn('the role member', told)
