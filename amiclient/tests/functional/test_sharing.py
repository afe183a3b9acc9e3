# SPDX-License-Identifier: Apache-2.0

"""``openstack ami add project`` and ``remove project``, on both sides."""

from amiclient.tests.functional import triples


class TestSharing(triples.TripleCase):
    def add(self, *words: object, **options: object) -> list[str]:
        return self.told('ami', 'add', 'project', *words, **options)

    def remove(self, *words: object, **options: object) -> list[str]:
        return self.told('ami', 'remove', 'project', *words, **options)

    def seen(self) -> list[bool]:
        return [self.get(id, 'other') is not None for id in self.triple]

    def test_there_and_back(self) -> None:
        project = self.project('other')
        rows = self.openstack_json(
            'ami', 'add', 'project', 'web', project, stderr=None
        )
        self.assertEqual(
            [
                ('kernel', self.kernel, 'pending'),
                ('ramdisk', self.ramdisk, 'pending'),
                ('image', self.ami, 'pending'),
            ],
            [(row['Role'], row['Image'], row['Status']) for row in rows],
        )
        self.assertEqual([True] * 3, self.seen())
        shown = self.openstack_json('ami', 'show', self.ami, user='other')
        self.assertEqual('active', shown['kernel_status'])
        # Until it is accepted, lists do not show it; the commands that accept
        # it are told, and work.
        self.assertEqual([], self.openstack_json('ami', 'list', user='other'))
        _, command = self.add('web', project)
        self.openstack(*command.split()[1:], user='other')
        (row,) = self.openstack_json('ami', 'list', user='other')
        self.assertEqual(self.ami, row['ID'])
        self.assertEqual([], self.add('web', project))
        self.assertEqual([], self.remove('web', project))
        self.assertEqual([False] * 3, self.seen())
        (warning,) = self.remove('web', project)
        self.assertIn('is not shared with', warning)

    def test_rejected(self) -> None:
        project = self.project('other')
        self.add('web', project)
        self.openstack('ami', 'set', '--reject', self.ami, user='other')
        why, command = self.add('web', project)
        self.assertIn(f'the project {project} has rejected the kernel', why)
        # An administrator can answer for others.
        self.openstack(
            *('ami', 'set', '--pending', '--project', 'other', self.ami),
            user='admin',
        )
        self.openstack(*command.split()[1:], user='other')
        (row,) = self.openstack_json('ami', 'list', user='other')
        self.assertEqual(self.ami, row['ID'])

    def test_for_whom_it_is_not(self) -> None:
        told = self.refused('ami', 'set', '--accept', 'web', user='other')
        self.assertIn('; give its ID', told)
        told = self.refused('ami', 'set', '--accept', 'web')
        self.assertIn('there is nothing to accept', told)
        words = ('ami', 'set', '--project', self.project('other'), 'web')
        told = self.refused(*words)
        self.assertIn('add --linked', told)

    def test_given_away(self) -> None:
        told = self.refused('ami', 'set', 'web', '--deactivate')
        self.assertIn('it has no data to activate or deactivate', told)
        words = ('ami', 'set', self.ami, '--project', 'other', '--linked')
        self.openstack(*words, user='admin')
        shown = self.openstack_json('ami', 'show', 'web', user='other')
        self.assertEqual(self.project('other'), shown['owner'])
        self.assertEqual(shown['owner'], shown['ramdisk']['owner'])
        self.assertEqual([], self.openstack_json('ami', 'list'))

    def test_by_name(self) -> None:
        words = (self.ami, 'other', '--project-domain', 'default')
        self.add(*words, user='admin')
        self.assertEqual([self.project('other')], self.members(self.ami))
        self.remove(*words, user='admin')
        self.assertEqual([], self.members(self.kernel))
        told = self.refused(
            'ami', 'add', 'project', self.ami, 'nosuch', user='admin'
        )
        self.assertIn('nosuch', told)

    def test_a_name_that_may_not_be_looked_up(self) -> None:
        warning, *_ = self.add('web', 'other')
        self.assertIn("'other' is used as the ID", warning)
        self.assertEqual([False] * 3, self.seen())

    def test_private_images(self) -> None:
        self.openstack('ami', 'set', 'web', '--private', '--linked')
        told = self.add('web', self.project('other'))
        self.assertEqual(
            3, sum('becomes shared' in line for line in told), told
        )
        self.assertEqual([True] * 3, self.seen())

    def test_open_images(self) -> None:
        self.openstack('ami', 'set', 'web', '--community', '--linked')
        told = self.add('web', self.project('other'))
        self.assertEqual(3, len(told))
        self.assertIn('every project can use it', told[0])
        told = self.refused(
            'ami', 'remove', 'project', 'web', self.project('other')
        )
        self.assertIn('--linked --shared', told)

    def test_another_projects_kernel(self) -> None:
        kernel = self.create('theirs', 'aki', user='other')
        self.glance('other').post(
            f'/images/{kernel}/members', json={'member': self.project('demo')}
        )
        ami = self.create('mine', 'ami', kernel_id=kernel)
        told = self.refused('ami', 'add', 'project', ami, 'f' * 32)
        self.assertIn(f'belongs to the project {self.project("other")}', told)

    def test_who_may_not(self) -> None:
        project = self.project('other')
        words = ('ami', 'add', 'project', self.ami, 'f' * 32)
        self.assertIn('the role member', self.refused(*words, user='reader'))
        self.assertIn('no image has', self.refused(*words, user='other'))
        self.add('web', project)
        told = self.refused(*words, user='other')
        self.assertIn(f'belongs to the project {self.project("demo")}', told)
