# SPDX-License-Identifier: Apache-2.0

"""What the tests of faults have in common.

The client talks to the real cloud through proxies that misbehave as they are
told to, and each command ends in one of two ways: what the cloud then holds
is what was to be sent, or there is one line on stderr and nothing is left.
"""

from collections.abc import Callable, Iterator
import dataclasses
import json
import pathlib

import fixtures

from amiclient.glance import retry
from amiclient.tests.faults import proxy as faults
from amiclient.tests.functional import upload

MIB = 2**20

#: Little patience with the network.
QUICK = ('--timeout', 5)

#: How many times shorter pauses between attempts are than those of a user.
_SHORTER = 20

#: The upload of data, and where no tests interfere.
DATA = {'method': 'PUT', 'path': '/file$'}


class FaultCase(upload.UploadCase):
    """A test that has proxies in front of Glance and Keystone."""

    size, data = 3 * MIB, MIB

    def setUp(self) -> None:
        super().setUp()
        # More than the buffers of sockets hold, for stalls to be noticed, and
        # different sizes, to tell the requests apart.
        self._grow(self.kernel, MIB)
        self._grow(self.ramdisk, MIB + 512)
        self.glance = self.useFixture(faults.Proxy(self.cloud.image_url))
        self.keystone = self.useFixture(faults.Proxy(self.cloud.auth_url))
        self._retry_soon()
        self.clouds = self.directory / 'clouds.yaml'
        self.route(
            auth_url=self.keystone.url + '/v3', image_url=self.glance.url
        )
        self.useFixture(
            fixtures.EnvironmentVariable(
                'OS_CLIENT_CONFIG_FILE', str(self.clouds)
            )
        )
        self.commands = {
            'kernel': ('ami', 'kernel', 'upload', self.kernel),
            'ramdisk': ('ami', 'ramdisk', 'upload', self.ramdisk),
            'image': ('ami', 'upload', self.root, '--no-shrink', *self.parts),
        }
        self.files = {
            'kernel': self.kernel,
            'ramdisk': self.ramdisk,
            'image': self.root,
        }

    def _grow(self, path: pathlib.Path, size: int) -> None:
        data = path.read_bytes()
        path.write_bytes(data + self.random.randbytes(size - len(data)))

    def route(self, *, auth_url: str, image_url: str, **more: object) -> None:
        """Send the client somewhere.

        :param more: further settings of the cloud in clouds.yaml.
        """
        cloud = {
            'region_name': 'RegionOne',
            'identity_api_version': '3',
            'image_endpoint_override': image_url,
            'auth': {**self.cloud.auth(), 'auth_url': auth_url},
            **more,
        }
        self.clouds.write_text(json.dumps({'clouds': {'demo': cloud}}))

    def _retry_soon(self) -> None:
        """Have pauses between attempts be short, unless the cloud asks."""
        delay = retry.Patience.delay

        def short(
            patience: retry.Patience, attempt: int, asked: float = 0.0
        ) -> float:
            less = dataclasses.replace(
                patience, backoff=patience.backoff / _SHORTER
            )
            return delay(less, attempt, asked)

        self.useFixture(
            fixtures.MockPatchObject(retry.Patience, 'delay', short)
        )

    def hurry(self, seconds: float) -> None:
        """Have commands not grant the cloud 5 s for each answer.

        For tests where it gives none, and there is only that to wait for.

        :param seconds: what is granted instead.
        """
        for module in ('glance.retry', 'osc.command'):
            self.useFixture(
                fixtures.MonkeyPatch(f'amiclient.{module}._SHORTEST', seconds)
            )

    def uploads(self, *kinds: str) -> Iterator[str]:
        """Go through the uploads, each with a cloud that is empty."""
        for kind in kinds or self.commands:
            self.glance.clear()
            self.keystone.clear()
            yield kind
            for image_id in self.images():
                self.image.delete(f'/images/{image_id}')

    def disturb(
        self, kind: str, *actions: faults.Action, times: int | None = 1
    ) -> None:
        """Have something happen to the data of one kind of image.

        :param actions: what is to happen, one after the other.
        :param times: how often each of them.
        """
        for action in actions:
            size = self.files[kind].stat().st_size
            self.glance.rule(action, **DATA, times=times, length=size)

    def succeed(self, kind: str, *words: object) -> dict:
        """Run an upload that succeeds, and compare what is there then."""
        command = self.commands[kind]
        shown = self.openstack_json(*command, *words)
        expected = {
            shown['id']: kind,
            **{
                shown[f'{part}_id']: part
                for part in ('kernel', 'ramdisk')
                if shown.get(f'{part}_id')
            },
        }
        self.assertEqual(sorted(expected), self.images(), kind)
        for image_id, part in expected.items():
            self.assertEqual('active', self.get(image_id)['status'])
            stored = self.download(image_id).read_bytes()
            same = stored == self.files[part].read_bytes()
            self.assertTrue(same, f'{part} of {kind} is not what was sent')
        self.assertNothingLeft()
        return shown

    def refuse(self, kind: str, *words: object) -> str:
        """Run an upload that fails in one line, and leaves nothing."""
        return self.refused(*self.commands[kind], *words)

    def survives(
        self,
        *actions: faults.Action,
        attempts: int,
        words: tuple[object, ...] = QUICK,
        kinds: tuple[str, ...] = (),
    ) -> None:
        """Check that each upload gets over what happens to it.

        :param attempts: how often the data is sent then.
        """
        for kind in self.uploads(*kinds):
            self.disturb(kind, *actions)
            before = len(self.files) if kind == 'image' else 1
            self.succeed(kind, *words)
            self.assertEqual(
                before - 1 + attempts, self.glance.count(**DATA), kind
            )

    def fails(
        self,
        *actions: faults.Action,
        text: str,
        words: tuple[object, ...] = ('--retries', 0),
        kinds: tuple[str, ...] = (),
        check: Callable[[str], None] = lambda kind: None,
    ) -> None:
        """Check that each upload fails as it should.

        :param text: what the line on stderr has to say.
        :param check: further checks, after each.
        """
        for kind in self.uploads(*kinds):
            self.disturb(kind, *actions, times=None)
            self.assertIn(text, self.refuse(kind, *words), kind)
            check(kind)

    def remove_as_told(self, stderr: str) -> None:
        """Run the command that removes what is left; nothing is then."""
        left = self.images()
        self.assertNotEqual([], left)
        told = [
            line.partition('openstack image delete ')[2]
            for line in stderr.splitlines()
            if 'openstack image delete ' in line
        ]
        self.assertEqual(1, len(told), stderr)
        ids = told[0].split()
        self.assertEqual(left, sorted(ids))
        self.glance.clear()
        self.route(
            auth_url=self.keystone.url + '/v3', image_url=self.glance.url
        )
        self.openstack('image', 'delete', *ids)
        self.assertEqual([], self.images())
        self.assertNothingLeft()
