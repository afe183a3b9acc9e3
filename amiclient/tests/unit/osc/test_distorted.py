# SPDX-License-Identifier: Apache-2.0

"""What commands say when the cloud answers what it should not.

One of the answers that a command gets is distorted. The command then ends as
it should, or with a line that a user understands.
"""

import os
import re
from typing import Any

import fixtures

from amiclient.tests import base
from amiclient.tests.cloud import memory
from amiclient.tests.functional import base as functional
from amiclient.tests.unit.glance import canned
from amiclient.tests.unit.glance import distorted
from amiclient.tests.unit.rootfs import samples

#: How many ways are tried with each command, of tens of thousands.
_WAYS = int(os.environ.get('AMICLIENT_TEST_DISTORTED', '2'))

#: What no user should have to read.
_PYTHON = re.compile(
    r'Traceback|NoneType|object is|has no attribute|Error\b|Exception'
    r"|\bb'|<class|0x[0-9a-f]{6}|unexpected|not iterable|\bint\b|\bdict\b"
)

_NETWORK = ('--retries', '0', '--timeout', '5')

COMMANDS = {
    'list': ('list', '--long', '--check'),
    'list of a project': ('list', '--project', 'other'),
    'show': ('show', 'web'),
    'verify': ('verify', memory.AMI),
    'verify deep': ('verify', memory.AMI, '--deep'),
    'kernel list': ('kernel', 'list', '--long'),
    'kernel show': ('kernel', 'show', 'vmlinuz'),
    'kernel upload': ('kernel', 'upload', 'linux', '--no-reuse'),
    'kernel upload to a store': ('kernel', 'upload', 'linux', '--store', 'x'),
    'set': ('set', memory.AMI, '--name', 'mail', '--property', 'a=b'),
    'unset': ('unset', memory.AMI, '--property', 'architecture'),
    'unset a store': ('unset', memory.AMI, '--store', 'slow', '--linked'),
    'delete': ('delete', 'web', '--linked'),
    'save': ('save', memory.AMI, '--directory', 'saved'),
    'add project': ('add', 'project', 'web', 'other'),
    'remove project': ('remove', 'project', memory.AMI, canned.OTHER),
}


class TestDistorted(functional.TestCase):
    """No cloud is needed: what answers is canned."""

    def setUp(self) -> None:
        base.TestCase.setUp(self)
        for name, value in {
            'OS_AUTH_URL': canned.KEYSTONE,
            'OS_USERNAME': 'demo',
            'OS_PASSWORD': 'secret',
            'OS_PROJECT_NAME': 'demo',
            'OS_USER_DOMAIN_ID': 'default',
            'OS_PROJECT_DOMAIN_ID': 'default',
            'OS_REGION_NAME': 'here',
            'OS_IDENTITY_API_VERSION': '3',
            'OS_CLIENT_CONFIG_FILE': '/dev/null',
        }.items():
            self.useFixture(fixtures.EnvironmentVariable(name, value))

    def run_in(self, cloud: canned.Cloud, name: str) -> Any:
        words = COMMANDS[name]
        directory = self.tmp()
        (directory / 'linux').write_bytes(samples.bzimage(release=b'6.1 x\0'))
        before = os.getcwd()
        os.chdir(directory)
        try:
            network = () if 'remove' in words or 'add' in words else _NETWORK
            with cloud:
                return self.run_openstack('ami', *words, *network)
        finally:
            os.chdir(before)

    def check(self, name: str) -> None:
        answers: list[memory.Answer] = []

        def note(answer: memory.Answer) -> memory.Answer:
            answers.append(answer)
            return answer

        cloud = canned.Cloud(note)
        finished = self.run_in(cloud, name)
        self.assertIn(finished.status, (0, 1), finished)
        for _ in range(_WAYS):
            number = self.random.randrange(len(answers))
            ways = list(distorted.changes(answers[number]))
            way, answer = self.random.choice(ways)
            finished = self.run_in(
                canned.Cloud(lambda _, a=answer: a, number), name
            )
            told = f'{name}: {cloud.asked[number]} {number}: {way}'
            self.assertEnded(finished, told)

    def assertEnded(self, finished: Any, told: str) -> None:
        self.assertIn(finished.status, (0, 1), told)
        said = finished.stderr
        self.assertLess(len(said), 5000, told)
        self.assertIsNone(_PYTHON.search(said), f'{told}: {said}')
        if finished.status:
            self.assertNotEqual('', said + finished.stdout, told)
        for line in said.splitlines():
            self.assertTrue(line.isprintable(), told)


def _test(name: str) -> Any:
    def test(self: TestDistorted) -> None:
        self.check(name)

    return test


for _name in COMMANDS:
    setattr(TestDistorted, f'test_{_name.replace(" ", "_")}', _test(_name))
