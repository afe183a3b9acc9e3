# SPDX-License-Identifier: Apache-2.0

"""Triples that are made over Glance's own interface, without an upload."""

from typing import Any

from amiclient.tests.functional import base
from amiclient.tests.unit.rootfs import samples


class TripleCase(base.TestCase):
    """A test that has an AMI, its kernel and its ramdisk in the cloud."""

    def setUp(self) -> None:
        super().setUp()
        self._connections: dict[str, Any] = {}
        self.kernel = self.create('vmlinuz', 'aki', data=samples.bzimage())
        self.ramdisk = self.create('initrd', 'ari', data=samples.initramfs())
        self.ami = self.create(
            'web',
            'ami',
            kernel_id=self.kernel,
            ramdisk_id=self.ramdisk,
            architecture='x86_64',
        )
        self.triple = (self.kernel, self.ramdisk, self.ami)

    def glance(self, user: str = 'demo') -> Any:
        """The image service, for one of the users."""
        # Each login takes Keystone a moment.
        if user not in self._connections:
            self._connections[user] = self.embedded.connection(user)
        return self._connections[user].image

    def project(self, user: str) -> str:
        """The id of a user's project."""
        self.glance(user)
        id: str = self._connections[user].current_project_id
        return id

    def create(
        self,
        name: str,
        format: str,
        *,
        data: bytes = b'',
        user: str = 'demo',
        **attributes: Any,
    ) -> str:
        """Create an image; tell its id."""
        glance = self.glance(user)
        body = {
            'name': name,
            'disk_format': format,
            'container_format': 'bare' if format == 'raw' else format,
            **attributes,
        }
        answer = glance.post('/images', json=body)
        self.assertEqual(201, answer.status_code, answer.text)
        id: str = answer.json()['id']
        if data:
            answer = glance.put(
                f'/images/{id}/file',
                data=data,
                headers={'Content-Type': 'application/octet-stream'},
            )
            self.assertEqual(204, answer.status_code, answer.text)
        return id

    def get(self, id: str, user: str = 'demo') -> dict[str, Any] | None:
        """Get an image; None if the user cannot see it."""
        answer = self.glance(user).get(f'/images/{id}')
        return answer.json() if answer.status_code == 200 else None

    def values(self, name: str) -> list[Any]:
        """One attribute of kernel, ramdisk and AMI."""
        return [(self.get(id) or {}).get(name) for id in self.triple]

    def members(self, id: str) -> list[str]:
        answer = self.glance().get(f'/images/{id}/members')
        found = answer.json().get('members') or ()
        return sorted(member['member_id'] for member in found)

    def images(self) -> list[str]:
        """The ids of all images that demo can see, hidden ones too."""
        glance = self.glance()
        return sorted(
            image['id']
            for hidden in ('true', 'false')
            for image in glance.get(
                f'/images?visibility=all&limit=100&os_hidden={hidden}'
            ).json()['images']
        )

    def told(self, *words: object, **options: Any) -> list[str]:
        """Run a command that says something beside its result; tell what."""
        finished = self.run_openstack(*words, **options)
        self.assertEqual(0, finished.status, finished)
        return finished.stderr.splitlines()

    def refused(self, *words: object, lines: int = 1, **options: Any) -> str:
        """Run a command that fails, and leaves all as it was."""
        before = [self.get(id) for id in self.images()]
        finished = self.run_openstack(*words, **options)
        self.assertEqual(1, finished.status, finished)
        self.assertEqual('', finished.stdout)
        self.assertEqual(lines, finished.stderr.count('\n'), finished.stderr)
        self.assertEqual(before, [self.get(id) for id in self.images()])
        return finished.stderr
