# SPDX-License-Identifier: Apache-2.0

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
        command, _, _ = text.partition('; run: ')[2].partition(';')
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
            stderr="another image has the name 'root' already, "
            f'{first["id"]}: commands that use the name will find several\n'
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

    def test_a_ramdisk_that_is_active_but_empty(self) -> None:
        empty = self.directory / 'r0'
        empty.touch()
        ramdisk = self.register(empty, 'ari')
        self.assertEqual('active', self.get(ramdisk)['status'])
        ami = self.upload()
        for words in (
            ('upload', self.root, '--kernel', self.kernel),
            ('set', ami['id']),
        ):
            text = self.refused('ami', *words, '--ramdisk', 'r0')
            self.assertIn(
                f"the ramdisk 'r0' ({ramdisk}) is active, but has no data",
                text,
            )
        linked = self.get(ami['id'])['ramdisk_id']
        self.assertEqual(ami['ramdisk_id'], linked)

    def test_a_kernel_that_does_not_tell_its_architecture(self) -> None:
        kernel = self.register(self.kernel, 'aki')
        self.parts = ('--kernel', kernel, '--no-ramdisk')
        told = self.upload(
            stderr='the image gets no architecture, for neither the kernel '
            f"'vmlinuz' ({kernel}) nor the root filesystem tells it: give "
            'it, such as --architecture x86_64\n'
        )
        self.assertNotIn('architecture', self.get(told['id']))
        told = self.upload('--architecture', 'x86_64', stderr=None)
        self.assertEqual('x86_64', self.get(told['id'])['architecture'])


class TestPermission(upload.UploadCase):
    """Glance tells no rights beforehand, but some can be guessed."""

    def warned(self, *words: object, user: str = 'demo') -> str:
        """Try an upload that only warns, and then do it; tell the warning."""
        words = ('ami', 'upload', self.root, *self.parts, *words)
        tried = self.run_openstack(*words, '--dry-run', user=user)
        self.assertEqual(0, tried.status, tried)
        done = self.run_openstack(*words, user=user)
        self.assertEqual(1, done.status, done)
        self.assertTrue(done.stderr.startswith(tried.stderr), done.stderr)
        self.assertIn('403', done.stderr.removeprefix(tried.stderr))
        self.assertEqual([], self.images())
        return tried.stderr

    def test_a_reader(self) -> None:
        self.assertEqual(
            'the cloud may refuse this: your only role in this project is '
            'reader; usually the role member is needed\n',
            self.warned(user='reader'),
        )

    def test_another_project(self) -> None:
        other = self.embedded.connection('other').current_project_id
        self.assertEqual(
            'the cloud may refuse this: usually only administrators can '
            f'create images for another project, here {other}\n',
            self.warned('--project', other),
        )
