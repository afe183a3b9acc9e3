# SPDX-License-Identifier: Apache-2.0

"""There is no way to the cloud to begin with, or no safe one."""

from collections.abc import Iterator
import itertools
import json
import socket
import time

import fixtures

from amiclient import process
from amiclient.tests.faults import actions as acts
from amiclient.tests.faults import proxy as faults
from amiclient.tests.functional import base
from amiclient.tests.functional import faulty


class ContactCase(faulty.FaultCase):
    """A test whose client is sent astray."""

    def closed_port(self) -> int:
        """Find a port on which nobody listens, nor will for this test."""
        probe = socket.socket()
        self.addCleanup(probe.close)
        probe.bind(('127.0.0.1', 0))
        port: int = probe.getsockname()[1]
        return port

    def each(self) -> Iterator[str]:
        """Go through the commands that are to be tried."""
        return self.uploads()

    def astray(
        self, text: str, *, hint: str, auth: str = '', image: str = ''
    ) -> None:
        """Check what each command says of a place where no cloud is.

        :param text: what the line has to say; with the place in it.
        :param auth: URL of no Keystone.
        :param image: of no Glance.
        """
        self.route(
            auth_url=auth or self.keystone.url + '/v3',
            image_url=image or self.glance.url,
        )
        for kind in self.each():
            line = self.refuse(kind)
            self.assertIn(text, line)
            self.assertIn(hint, line)


class TestRefused(ContactCase):
    def test_image_service(self) -> None:
        url = f'http://127.0.0.1:{self.closed_port()}'
        self.astray(
            f'no connection to {url}: Connection refused',
            hint='check the endpoint',
            image=url,
        )

    def test_keystone(self) -> None:
        url = f'http://127.0.0.1:{self.closed_port()}'
        self.astray(
            f'logging in failed: no connection to {url}: Connection refused',
            hint='check the endpoint',
            auth=url + '/v3',
        )


class TestUnknownHost(ContactCase):
    """A name below .invalid never resolves (RFC 6761, section 6.4)."""

    def test_image_service(self) -> None:
        url = 'http://glance.invalid:9292'
        self.astray(
            f'the host of {url} was not found', hint='the DNS', image=url
        )

    def test_keystone(self) -> None:
        url = 'http://keystone.invalid:5000'
        self.astray(
            f'the host of {url} was not found',
            hint='the DNS',
            auth=url + '/v3',
        )


class TestCertificate(ContactCase):
    """Who answers cannot prove that it is the cloud."""

    def setUp(self) -> None:
        super().setUp()
        self.pem = self.directory / 'server.pem'
        process.run(
            [
                'openssl',
                'req',
                '-x509',
                *('-newkey', 'rsa:2048', '-nodes', '-days', '2'),
                *('-subj', '/CN=127.0.0.1', '-addext'),
                'subjectAltName=IP:127.0.0.1',
                *('-keyout', self.pem, '-out', self.directory / 'ca.pem'),
            ],
            access=None,
        )
        with self.pem.open('ab') as file:
            file.write((self.directory / 'ca.pem').read_bytes())

    def proxy(self, server: str) -> faults.Proxy:
        return self.useFixture(faults.Proxy(server, str(self.pem)))

    def trusted(self) -> faults.Proxy:
        """Send the client to Glance by TLS, with what proves that it is it."""
        glance = self.proxy(self.cloud.image_url)
        self.route(
            auth_url=self.keystone.url + '/v3',
            image_url=glance.url,
            cacert=str(self.directory / 'ca.pem'),
        )
        return glance

    def test_image_service(self) -> None:
        url = self.proxy(self.cloud.image_url).url
        self.astray(
            f'no secure connection to {url}', hint='--os-cacert', image=url
        )

    def test_keystone(self) -> None:
        url = self.proxy(self.cloud.auth_url).url
        self.astray(
            f'no secure connection to {url}',
            hint='--os-cacert',
            auth=url + '/v3',
        )

    def test_with_the_right_authority(self) -> None:
        self.trusted()
        for kind in self.each():
            self.succeed(kind)

    def test_reset_within_tls(self) -> None:
        """Of the bodies of requests: what is sent."""
        glance = self.trusted()
        glance.rule(acts.reset(0.5), **faulty.DATA)
        self.succeed('kernel', *faulty.QUICK)
        self.assertEqual(2, glance.count(**faulty.DATA))


class TestLogin(base.TestCase):
    """Somebody logs in, but not as one has to."""

    def test_each(self) -> None:
        known = self.cloud.clouds()
        admin, demo = known['admin'], known['demo']
        nobody = {
            key: value
            for key, value in admin['auth'].items()
            if not key.startswith('project')
        }
        identity = self.embedded.connection().identity
        token = identity.session.get_token()
        # It may be one that other tests use as well.
        fresh = identity.post(
            '/auth/tokens',
            json={
                'auth': {
                    'identity': {'methods': ['token'], 'token': {'id': token}}
                }
            },
        ).headers['X-Subject-Token']
        identity.delete('/auth/tokens', headers={'X-Subject-Token': fresh})
        url = demo['auth']['auth_url']
        revoked = {'auth_url': url, 'token': fresh, 'project_name': 'demo'}
        for cloud, words in (
            (
                {**admin, 'auth': {**nobody, 'system_scope': 'all'}},
                'images belong to projects: give one with --os-project-name',
            ),
            ({**admin, 'auth': nobody}, 'has no image service, as it is'),
            ({**demo, 'image_api_version': '1'}, 'remove image_api_version'),
            (
                {
                    **demo,
                    'auth_type': 'token',
                    'auth': {**revoked, 'project_domain_id': 'default'},
                },
                'the token has expired or was revoked',
            ),
        ):
            path = self.tmp() / 'clouds.yaml'
            path.write_text(json.dumps({'clouds': {'it': cloud}}))
            self.useFixture(
                fixtures.EnvironmentVariable(
                    'OS_CLIENT_CONFIG_FILE', str(path)
                )
            )
            finished = self.spawn_openstack('ami', 'list', user='it')
            self.assertEqual((1, ''), (finished.status, finished.stdout))
            self.assertIn(words, finished.stderr)
            self.assertEqual(1, finished.stderr.count('\n'))


class TestSick(ContactCase):
    """Somebody answers, but not as a cloud should."""

    def test_keystone_503(self) -> None:
        for kind in self.each():
            self.keystone.rule(acts.answer(503, 'out of order'), times=None)
            line = self.refuse(kind)
            self.assertIn(self.keystone.url, line)
            self.assertIn('out of order (HTTP 503)', line)

    def test_keystone_hangs(self) -> None:
        self.hurry(1)
        for kind in itertools.islice(self.each(), 1):
            self.keystone.rule(lambda e: e.hold(), times=None)
            begin = time.monotonic()
            line = self.refuse(kind, '--timeout', 1)
            self.assertLess(time.monotonic() - begin, 55)
            self.assertIn(f'{self.keystone.url}: timed out', line)

    def test_image_service_503(self) -> None:
        for kind in self.each():
            self.glance.rule(acts.answer(503, 'out of order'), times=None)
            line = self.refuse(kind, '--retries', 0)
            self.assertIn('out of order (HTTP 503)', line)

    def test_image_service_is_something_else(self) -> None:
        for kind in self.each():
            self.glance.rule(acts.answer(200, 'Welcome'), times=None)
            self.assertIn(self.glance.url, self.refuse(kind))

    def test_credentials(self) -> None:
        for kind in self.each():
            line = self.refused('--os-password', 'wrong', *self.commands[kind])
            self.assertIn(self.keystone.url, line)
            self.assertRegex(
                line, r'\(HTTP 401\) \(Request-ID: \S+\); check the cred'
            )
