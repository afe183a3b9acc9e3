# SPDX-License-Identifier: Apache-2.0

"""What others do in the cloud between a look at it and what is done then."""

from collections.abc import Callable

from amiclient.tests.faults import actions
from amiclient.tests.functional import faulty

CREATION = {'method': 'POST', 'path': '^/v2/images$'}


class MeanwhileCase(faulty.FaultCase):
    def setUp(self) -> None:
        super().setUp()
        self.ids = {
            'kernel': self.register(self.kernel, 'aki'),
            'ramdisk': self.register(self.ramdisk, 'ari'),
        }

    def delete(self, image_id: str) -> Callable[[], None]:
        """Make what deletes an image."""

        def act() -> None:
            self.image.delete(f'/images/{image_id}').raise_for_status()

        return act

    def patch(
        self, image_id: str, name: str, value: str, user: str = 'demo'
    ) -> Callable[[], None]:
        """Make what changes an image."""
        image = self.embedded.connection(user).image

        def act() -> None:
            change = {'op': 'replace', 'path': f'/{name}', 'value': value}
            kind = 'application/openstack-images-v2.1-json-patch'
            image.patch(
                f'/images/{image_id}',
                json=[change],
                headers={'Content-Type': kind},
            ).raise_for_status()

        return act

    def fail(self, *words: object) -> str:
        """Run a command that fails in one line."""
        finished = self.run_openstack(*words)
        self.assertEqual(1, finished.status, finished)
        self.assertEqual('', finished.stdout)
        self.assertEqual(1, finished.stderr.count('\n'), finished.stderr)
        self.assertNothingLeft()
        return finished.stderr


class TestUpload(MeanwhileCase):
    """Parts that are reused, and go while the others are sent."""

    def fails_when(
        self, act: Callable[[], None], *words: object, **request: str
    ) -> str:
        self.glance.rule(actions.meanwhile(0, act), **request or CREATION)
        text = self.fail('ami', 'upload', self.root, *words)
        self.assertEqual([], [*{*self.images()} - {*self.ids.values()}])
        return text

    def test_deleted_before_the_creation(self) -> None:
        for part in ('kernel', 'ramdisk'):
            image_id = self.ids[part]
            text = self.fails_when(self.delete(image_id), *self.parts)
            self.assertIn(f'({image_id}) was deleted meanwhile', text)
            self.assertEqual(0, self.glance.count('PUT', '/file$'))
            self.ids[part] = self.register(
                self.files[part], 'aki' if part == 'kernel' else 'ari'
            )
            self.glance.clear()

    def test_deleted_while_data_is_sent(self) -> None:
        text = self.fails_when(
            self.delete(self.ids['kernel']), *self.parts, **faulty.DATA
        )
        self.assertIn(f"the kernel 'vmlinuz' ({self.ids['kernel']})", text)

    def test_what_was_created_is_deleted(self) -> None:
        def act() -> None:
            found = self.image.get('/images?disk_format=aki').json()['images']
            new = {image['id'] for image in found} - {*self.ids.values()}
            self.delete(new.pop())()

        size = self.root.stat().st_size
        self.glance.rule(actions.meanwhile(0, act), **faulty.DATA, length=size)
        text = self.fail(*self.commands['image'], '--no-reuse')
        self.assertIn('No image found', text)
        self.assertEqual(sorted(self.ids.values()), self.images())

    def test_named_by_id_and_by_name(self) -> None:
        for name in (self.ids['kernel'], 'vmlinuz'):
            text = self.fails_when(
                self.delete(self.ids['kernel']),
                *('--kernel', name, '--no-ramdisk'),
                *('--architecture', 'x86_64'),
            )
            self.assertIn('was deleted meanwhile', text)
            self.ids['kernel'] = self.register(self.kernel, 'aki')
            self.glance.clear()

    def test_deactivated(self) -> None:
        admin = self.embedded.connection('admin').image
        text = self.fails_when(
            lambda: admin.deactivate_image(self.ids['ramdisk']), *self.parts
        )
        self.assertIn('it is deactivated now', text)

    def test_less_visible(self) -> None:
        for image_id in self.ids.values():
            self.patch(image_id, 'visibility', 'community')()
        text = self.fails_when(
            self.patch(self.ids['kernel'], 'visibility', 'private'),
            *self.parts,
            '--community',
        )
        self.assertIn('it is private now', text)

    def test_given_away(self) -> None:
        self.patch(self.ids['kernel'], 'visibility', 'community')()
        owner = self.embedded.connection('other').image.get_project_id()
        text = self.fails_when(
            self.patch(self.ids['kernel'], 'owner', owner, 'admin'),
            *self.parts,
        )
        self.assertIn(f'it belongs to the project {owner} now', text)

    def test_root_that_is_there(self) -> None:
        first = self.upload()
        self.glance.clear()
        self.glance.rule(
            actions.then(self.delete(first['id'])),
            method='GET',
            path='disk_format=ami',
        )
        text = self.fail('ami', 'upload', self.root, *self.parts)
        self.assertIn(f"the image 'root' ({first['id']}) was deleted", text)
        self.assertEqual(sorted(self.ids.values()), self.images())

    def test_part_alone(self) -> None:
        self.glance.rule(
            actions.then(self.delete(self.ids['kernel'])),
            method='GET',
            path='size_min',
        )
        text = self.fail(*self.commands['kernel'])
        self.assertIn('was deleted meanwhile', text)


class TestSet(MeanwhileCase):
    """A kernel that is linked to, and goes meanwhile."""

    def test_deleted_before_the_link(self) -> None:
        shown = self.upload()
        other = self.register(self.kernel, 'aki', name='other')
        self.glance.clear()
        self.glance.rule(
            actions.meanwhile(0, self.delete(other)),
            method='PATCH',
            path=shown['id'],
        )
        text = self.fail('ami', 'set', '--kernel', other, shown['id'])
        self.assertIn(f"the kernel 'other' ({other}) was deleted", text)
        self.assertEqual(
            shown['kernel_id'], self.get(shown['id'])['kernel_id']
        )

    def test_what_becomes_less_visible_by_it(self) -> None:
        shown = self.upload()
        other = self.register(self.kernel, 'aki', name='other')
        self.openstack(
            *('ami', 'set', '--private', '--linked', '--kernel', other),
            shown['id'],
            stderr=None,
        )
        self.assertEqual('private', self.get(other)['visibility'])


class TestDelete(MeanwhileCase):
    """A kernel that gets a user while it is about to be deleted."""

    #: The last request of a look for what links to a part.
    LAST = {'method': 'GET', 'path': '(?=.*ramdisk_id=)(?=.*os_hidden=true)'}

    def link(self) -> None:
        body = {
            'name': 'new',
            'kernel_id': self.ids['kernel'],
            'disk_format': 'ami',
            'container_format': 'ami',
        }
        self.image.post('/images', json=body).raise_for_status()

    def test_linked(self) -> None:
        shown = self.upload()
        self.glance.clear()
        self.glance.rule(
            actions.meanwhile(0, self.link), method='DELETE', path=shown['id']
        )
        finished = self.run_openstack('ami', 'delete', '--linked', 'root')
        self.assertEqual((0, ''), (finished.status, finished.stdout))
        self.assertIn(
            f"kept the kernel 'vmlinuz' ({self.ids['kernel']}): needed by "
            "'new'",
            finished.stderr,
        )
        self.assertEqual(1, finished.stderr.count('\n'))
        left = self.images()
        self.assertIn(self.ids['kernel'], left)
        self.assertEqual(2, len(left))

    def test_kernel(self) -> None:
        self.glance.rule(actions.then(self.link), **self.LAST)
        text = self.fail('ami', 'kernel', 'delete', self.ids['kernel'])
        self.assertIn(f"({self.ids['kernel']}) is in use: 'new'", text)
        self.assertIn(self.ids['kernel'], self.images())

    def test_forced(self) -> None:
        self.glance.rule(actions.then(self.link), **self.LAST)
        self.openstack(
            'ami', 'kernel', 'delete', '--force', self.ids['kernel']
        )
        self.assertNotIn(self.ids['kernel'], self.images())
