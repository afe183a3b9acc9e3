# SPDX-License-Identifier: Apache-2.0

"""Names that are meant for a terminal do nothing to it."""

import os
import pty

from amiclient.tests.cloud import forkserver as openstack_server
from amiclient.tests.functional import base

_EVIL = 'web\x1b]0;owned\x07\x1b[2J\u202etxt'
_SAFE = 'web\\x1b]0;owned\\x07\\x1b[2J\\u202etxt'


class TestTerminal(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        image = self.embedded.connection(self.user).image
        self.image = image.create_image(
            _EVIL,
            disk_format='ami',
            container_format='ami',
            kernel_id='11111111-2222-4333-8444-555555555555',
            tags=['\x1b[31mred'],
            allow_duplicates=True,
        )

    def on_a_terminal(self, *words: str) -> str:
        """Run the command with a terminal of its own; tell what came there."""
        ours, its = pty.openpty()
        child = openstack_server.shared().start(*words, stdout=its, stderr=its)
        os.close(its)
        found = b''
        while True:
            try:
                data = os.read(ours, 1 << 16)
            except OSError:
                # EIO: the other end was closed.
                break
            if not data:
                break
            found += data
        os.close(ours)
        self.assertEqual(0, child.wait(), found)
        return found.decode()

    def test_list_and_show(self) -> None:
        for words in (
            ('ami', 'list', '--fit-width'),
            ('ami', 'list', '-f', 'value', '-c', 'Name'),
            ('ami', 'show', self.image.id),
        ):
            output = self.on_a_terminal(*words)
            for char in ('\x1b', '\x07', '\u202e'):
                self.assertNotIn(char, output, words)
            self.assertIn('web', output)
        self.assertIn(
            _SAFE,
            self.on_a_terminal('ami', 'list', '-f', 'value', '-c', 'Name'),
        )

    def test_errors(self) -> None:
        done = self.spawn_openstack('ami', 'show', 'no\x1b[2Jsuch')
        self.assertEqual(1, done.status)
        self.assertNotIn('\x1b', done.stderr)
        self.assertIn('no\\x1b[2Jsuch', done.stderr)
