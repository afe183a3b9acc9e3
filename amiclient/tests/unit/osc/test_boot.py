# SPDX-License-Identifier: Apache-2.0

"""Options of ``openstack ami boot``."""

import contextlib
import io
import pathlib

from amiclient.osc import boot
from amiclient.osc import options
from amiclient.tests import base


class TestOptions(base.TestCase):
    def parse(self, *words: str) -> object:
        parser = boot.BootImage(None, None).get_parser('openstack ami boot')
        return parser.parse_args(['root.img', *words])

    def request(self, *words: str) -> object:
        return boot._request(self.parse(*words))

    def test_defaults(self) -> None:
        request = self.request()
        self.assertEqual(pathlib.Path('root.img'), request.source)
        self.assertEqual('login:', request.until.pattern)
        self.assertEqual(
            (None, None, None, 2**30, 1, 300.0, None, '', False),
            (
                request.kernel, request.ramdisk, request.disk, request.memory,
                request.cpus, request.wait, request.console,
                request.append, request.interactive,
            ),
        )  # fmt: skip

    def test_all(self) -> None:
        request = self.request(
            '--kernel', 'k', '--ramdisk', 'r', '--disk', '3G', '--memory',
            '512M', '--cpus', '2', '--until', r'ready\.$', '--wait', '9.5',
            '--console', 'c', '--append', 'quiet ro',
            '--work-directory', 'w',
        )  # fmt: skip
        self.assertEqual('k', str(request.kernel))
        self.assertEqual('r', str(request.ramdisk))
        self.assertEqual(3 * 2**30, request.disk)
        self.assertEqual(2**29, request.memory)
        self.assertEqual(2, request.cpus)
        self.assertTrue(request.until.search('it is ready.'))
        self.assertFalse(request.until.search('it is ready!'))
        self.assertEqual(9.5, request.wait)
        self.assertEqual('c', str(request.console))
        self.assertEqual('quiet ro', request.append)
        self.assertTrue(self.request('--interactive').interactive)
        self.assertEqual('w', str(request.work_directory))
        # Its name before.
        self.assertEqual(8, self.request('--timeout', '8').wait)

    def test_headroom_is_that_of_an_upload(self) -> None:
        for words, wanted in (
            ((), 64 * 2**20), (('--headroom', '0'), 0),
            (('--headroom', '1G'), 2**30),
        ):  # fmt: skip
            found = options.filesystem(self.parse(*words))
            self.assertEqual(wanted, found.headroom.size)

    def test_refused(self) -> None:
        for words, said in (
            (('--until', '(login'), 'is not a regular expression'),
            (('--until', ''), 'it must not be empty'),
            (('--cpus', '0'), 'is not a number of 1 or more'),
            (('--cpus', '-1'), 'is not a number of'),
            (('--memory', 'much'), 'is not a size'),
            (('--memory', '0'), 'is not a size above 0'),
            (('--disk', '0G'), 'is not a size above 0'),
            (('--wait', '0'), 'is not a number of seconds'),
        ):
            stderr = io.StringIO()
            with contextlib.redirect_stderr(stderr):
                error = self.assertRaises(SystemExit, self.parse, *words)
            self.assertEqual(2, error.code)
            self.assertIn(said, ' '.join(stderr.getvalue().split()))
