# SPDX-License-Identifier: Apache-2.0

"""Who can boot an AMI, and who may delete what it needs, in a real Glance."""

import os
import pathlib
import re
import shlex

from amiclient.tests.disks import triple
from amiclient.tests.functional import health


class TestAccess(health.HealthCase):
    def setUp(self) -> None:
        super().setUp()
        self.ours = self.connection.current_project_id
        self.theirs = self.connect('other').current_project_id

    def share(self, image_id, project=None, user='demo') -> None:
        answer = self.connect(user).image.post(
            f'/images/{image_id}/members',
            json={'member': project or self.theirs},
        )
        self.assertEqual(200, answer.status_code, answer.text)

    def test_less_visible(self) -> None:
        self.change(self.ami, 'admin', visibility='public')
        for image, visibility in (
            (self.ramdisk, 'public'),
            (self.kernel, 'private'),
        ):
            self.change(image, 'admin', visibility=visibility)
        finding = self.assertMended('less-visible', 'error', user='admin')
        self.assertIn('fails for all others', finding['message'])
        self.assertIn(f'boots for project {self.ours}', finding['message'])

    def test_a_community_kernel_is_open_to_all(self) -> None:
        self.change(self.ami, 'admin', visibility='public')
        for image in (self.kernel, self.ramdisk):
            self.change(image, visibility='community')
        self.assertEqual([], self.findings())
        self.assertEqual([], self.findings(user='other'))

    def test_shared_with_nobody_yet(self) -> None:
        self.change(self.kernel, visibility='private')
        self.assertEqual([], self.findings())
        # The list cannot know, and says what may be.
        row = self.openstack_json('ami', 'list', '--check')[0]
        rules = [(f['severity'], f['rule']) for f in row['Health']]
        self.assertEqual([('warning', 'less-visible')], rules)

    def test_a_private_kernel_of_a_shared_ami(self) -> None:
        self.change(self.kernel, visibility='private')
        self.share(self.ami)
        self.share(self.ramdisk)
        finding = self.assertMended('less-visible', 'error')
        self.assertIn(f'fails for project {self.theirs}', finding['message'])
        self.assertEqual([], self.findings(user='other'))

    def test_members_differ(self) -> None:
        self.share(self.ami)
        self.share(self.kernel)
        finding = self.assertMended('members-differ', 'error')
        self.assertIn('initrd', finding['message'])
        self.assertIn(self.theirs, finding['message'])

    def test_what_a_member_sees(self) -> None:
        self.share(self.ami)
        self.share(self.kernel)
        finding = self.assertNoRemedy('dangling', 'error', user='other')
        self.assertIn('is not shared with you', finding['message'])
        self.assertIn(self.ours, finding['message'])
        self.share(self.ramdisk)
        self.assertEqual([], self.findings(user='other'))

    def test_members_that_cannot_be_seen(self) -> None:
        kernel = self.create('linux', 'aki', user='other')
        self.share(kernel, self.ours, user='other')
        third = self.connect('admin').current_project_id
        self.change(self.ami, kernel_id=kernel)
        self.share(self.ami, third)
        self.share(self.ramdisk, third)
        found = {row['rule']: row for row in self.findings()}
        self.assertEqual({'members-differ', 'foreign-owner'}, found.keys())
        self.assertEqual('warning', found['members-differ']['severity'])
        self.assertIn(third, found['members-differ']['message'])
        self.assertIsNone(found['members-differ']['remedy'])

    def test_foreign_owner(self) -> None:
        kernel = self.create('linux', 'aki', user='other')
        self.change(kernel, 'other', visibility='community')
        self.change(self.ami, kernel_id=kernel)
        finding = self.provoked('foreign-owner', 'warning')
        self.assertIn(self.theirs, finding['message'])
        self.change(kernel, 'admin', visibility='public')
        self.provoked('foreign-owner', 'note')

    def test_a_kernel_withdrawn_by_its_owner(self) -> None:
        kernel = self.create('linux', 'aki', user='other')
        self.change(kernel, 'other', visibility='community')
        self.change(self.ami, kernel_id=kernel)
        self.change(kernel, 'other', visibility='private')
        self.assertNoRemedy('dangling', 'error')
        # Who sees both can say for whom it fails.
        found = {row['rule']: row for row in self.findings(user='admin')}
        self.assertEqual({'less-visible', 'foreign-owner'}, found.keys())
        self.run_remedy(found['less-visible'], user='admin')
        self.provoked('foreign-owner', 'warning')

    def test_unprotected(self) -> None:
        self.change(self.ami, protected=True)
        self.change(self.ramdisk, protected=True)
        finding = self.assertMended('unprotected', 'warning')
        self.assertIn(self.kernel, finding['remedy'])

    def test_hidden(self) -> None:
        self.change(self.kernel, os_hidden=True)
        self.assertMended('hidden', 'note')
        self.change(self.kernel, os_hidden=True)
        self.change(self.ami, os_hidden=True)
        self.assertEqual([], self.findings())

    def test_the_remedy_of_others_images_is_for_their_owner(self) -> None:
        self.change(self.ami, visibility='community')
        for image in (self.kernel, self.ramdisk):
            self.change(image, visibility='community')
        self.change(self.ami, min_disk=0)
        finding = self.assertNoRemedy('min-disk', 'warning', user='other')
        self.assertIn(f'its owner, project {self.ours}', finding['message'])
        for user in ('demo', 'admin'):
            finding = self.provoked('min-disk', 'warning', user=user)
            self.assertIsNotNone(finding['remedy'])

    def test_a_reader_sees_the_same(self) -> None:
        self.share(self.ami)
        self.share(self.kernel)
        self.change(self.ami, protected=True, min_disk=0)
        found = self.findings(user='reader')
        ours = self.findings()
        self.assertEqual(
            ['members-differ', 'min-disk', 'unprotected', 'unprotected'],
            sorted(row['rule'] for row in ours),
        )
        self.assertEqual(
            [(row['severity'], row['rule']) for row in ours],
            [(row['severity'], row['rule']) for row in found],
        )
        who = f'; only a member of project {self.ours} can change that'
        for row, told in zip(ours, found, strict=True):
            self.assertIsNone(told['remedy'])
            self.assertEqual(row['message'] + who, told['message'])
            # It is true: what members are told to do, readers may not.
            for command in row['remedy'].split(' && '):
                refused = self.run_openstack(
                    *shlex.split(command)[1:], user='reader'
                )
                self.assertEqual(1, refused.status)
        for row in ours:
            self.run_remedy(row)
        self.assertEqual([], self.findings())

    def test_a_reader_is_told_of_no_upload(self) -> None:
        self.change(self.ami, kernel_id=None)
        finding = self.assertNoRemedy('no-kernel', 'error', user='reader')
        self.assertIn('only a member of', finding['message'])
        self.assertNotIn('openstack', finding['message'])

    def test_a_public_ami_that_a_member_owns(self) -> None:
        self.change(self.ami, 'admin', visibility='public')
        self.change(
            self.ami, protected=True, min_disk=0, os_command_line='quiet'
        )
        self.change(self.ramdisk, os_hidden=True)
        found = self.findings()
        self.assertEqual(
            {
                'command-line',
                'hidden',
                'less-visible',
                'min-disk',
                'unprotected',
            },
            {row['rule'] for row in found},
        )
        told = next(row for row in found if row['rule'] == 'less-visible')
        self.assertIn('only an administrator may make it', told['message'])
        for row in found:
            self.run_remedy(row)
        self.assertEqual([], self.findings())
        self.assertEqual([], self.findings(user='other'))

    def test_a_copy_of_a_foreign_kernel(self) -> None:
        kernel = self.create(
            'their linux',
            'aki',
            data=triple.kernel(self.tmp()).read_bytes(),
            user='other',
        )
        self.change(kernel, 'other', visibility='community')
        self.change(self.ami, kernel_id=kernel)
        # What is downloaded goes where the user is.
        self.addCleanup(os.chdir, pathlib.Path.cwd())
        os.chdir(self.tmp())
        finding = self.assertMended('foreign-owner', 'warning')
        self.assertIn(kernel, finding['message'])
        ours = self.openstack_json('ami', 'show', self.ami)['kernel']
        self.assertEqual('their linux', ours['name'])
        self.assertEqual(self.ours, ours['owner'])
        # For a public AMI the copy would have to be public as well.
        self.change(self.ami, kernel_id=kernel, ramdisk_id=None)
        self.change(self.ami, 'admin', visibility='public')
        found = {row['rule']: row for row in self.findings()}
        finding = found['foreign-owner']
        self.assertIsNone(finding['remedy'])
        upload, link = re.findall('`openstack (.*?)`', finding['message'])
        file = triple.kernel(self.tmp())
        upload = upload.replace('FILE', f'{file} --no-reuse')
        told = self.openstack_json(*upload.split(), stderr=None)
        self.openstack(
            *link.replace('KERNEL', told['id']).split(), stderr=None
        )
        self.assertEqual(
            ['no-ramdisk'], [row['rule'] for row in self.findings()]
        )

    def test_an_ami_that_cannot_be_seen(self) -> None:
        finished = self.run_openstack('ami', 'verify', self.ami, user='other')
        self.assertEqual(1, finished.status)
        self.assertEqual('', finished.stdout)
        self.assertEqual(1, finished.stderr.count('\n'), finished.stderr)
        self.assertIn(self.ami, finished.stderr)
