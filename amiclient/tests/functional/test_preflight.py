#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.

"""The cloud's rules, against the real Glance."""

from amiclient.tests.functional import upload


class TestReach(upload.UploadCase):
    """An AMI that more people see than its kernel."""

    def setUp(self) -> None:
        super().setUp()
        told = self.openstack_json(
            'ami', 'kernel', 'upload', self.kernel, '--private'
        )
        self.kernel_id = told['id']
        self.words = (
            *('ami', 'upload', self.root, '--no-ramdisk', '--community'),
            *('--kernel', self.kernel_id),
        )

    def test_refused_with_a_remedy_that_works(self) -> None:
        text = self.refused(*self.words)
        self.assertIn('other projects could not boot', text)
        command, _, _ = text.partition('; ')[2].partition(' shows it')
        self.assertTrue(command.startswith('openstack image set'), text)
        self.openstack(*command.split()[1:])
        self.openstack(*self.words)

    def test_linked(self) -> None:
        text = self.openstack_json(
            *self.words,
            '--linked',
            stderr=f"the kernel 'vmlinuz' ({self.kernel_id}) was private and "
            'is community now, as is the image that links to it\n',
        )
        self.assertEqual(self.kernel_id, text['kernel_id'])
        self.assertEqual('community', self.get(self.kernel_id)['visibility'])

    def test_what_a_failed_upload_widened_is_private_again(self) -> None:
        # Only an administrator may publish an image, by default.
        words = [
            word if word != '--community' else '--public'
            for word in self.words
        ]
        self.refused(*words, '--linked')
        self.assertEqual('private', self.get(self.kernel_id)['visibility'])

    def test_for_another_project(self) -> None:
        self.openstack('image', 'set', '--shared', self.kernel_id)
        words = [word for word in self.words if word != '--community']
        words += ['--project', 'other', '--project-domain', 'default']
        finished = self.run_openstack(*words, user='admin')
        self.assertEqual(1, finished.status)
        command, _, _ = finished.stderr.partition('; ')[2].partition(' shows')
        self.openstack(*command.split()[1:], stderr=None)
        self.openstack(*words, user='admin')


class TestRules(upload.UploadCase):
    def test_a_command_line_without_a_root(self) -> None:
        text = self.refused(
            *('ami', 'upload', self.root, *self.parts),
            *('--property', 'os_command_line=console=ttyS0'),
        )
        self.assertIn("--property os_command_line='root=/dev/vda", text)

    def test_a_name_that_is_taken(self) -> None:
        first = self.upload()
        self.upload(
            '--tag',
            'another',
            stderr=f"the name 'root' is taken already, by the image "
            f'{first["id"]}: who goes by name will find several\n'
            f"the image 'root' ({first['id']}) holds the same bytes, but "
            "lacks the tag 'another': a new one was created\n",
        )

    def test_auto(self) -> None:
        told = self.upload('--image-format', 'auto')
        self.assertEqual('ami', told['disk_format'])

    def test_the_rest_of_a_partition_table(self) -> None:
        with self.root.open('r+b') as file:
            file.seek(512)
            file.write(b'EFI PART')
        told = self.upload('--no-shrink', stderr=None)
        came = self.download(told['id'])
        self.assertEqual(bytes(1024), came.read_bytes()[:1024])
