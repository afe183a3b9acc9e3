# SPDX-License-Identifier: Apache-2.0

"""Sources that are URLs, as a user gives them."""

import hashlib
import os
import signal
import threading

import fixtures

from amiclient.tests.faults import downloads as acts
from amiclient.tests.faults import proxy as faults
from amiclient.tests.functional import upload
from amiclient.tests.unit.web import site

#: Seconds after which what should have happened has not.
_LATE = 60


class TestDownload(upload.UploadCase):
    def setUp(self) -> None:
        super().setUp()
        self.cache = self.directory / 'cache'
        self.useFixture(
            fixtures.EnvironmentVariable('XDG_CACHE_HOME', str(self.cache))
        )
        files = {
            'root.img': self.root.read_bytes(),
            'vmlinuz': self.kernel.read_bytes(),
        }
        sums = ''.join(
            f'{hashlib.sha512(data).hexdigest()} *{name}\n'
            for name, data in files.items()
        )
        self.site = self.useFixture(
            site.Site(self.directory, SHA512SUMS=sums.encode(), **files)
        )
        self.url = f'{self.site.url}root.img'
        self.sha512 = sums.split()[0]

    def test_upload(self) -> None:
        """The source and the kernel, by one file with their hashes."""
        words = (
            *('ami', 'upload', self.url, '--family', 'web'),
            *('--kernel', f'{self.site.url}vmlinuz', '--no-ramdisk'),
            *('--checksum-url', 'SHA512SUMS'),
        )
        shown = self.openstack_json(*words)
        self.assertEqual('root', shown['name'])
        self.assertEqual(
            self.kernel.read_bytes(),
            self.download(shown['kernel_id']).read_bytes(),
        )
        self.assertEqual(
            self.sha512, self.get(shown['id'])['ami_source_sha512']
        )
        # Nothing of the cloud's went to the server.
        for _, headers in self.site.asked:
            self.assertEqual(set(), {'X-Auth-Token', 'Cookie'} & {*headers})
        # The second run has nothing to fetch but the hashes.
        self.site.asked.clear()
        self.openstack_json(*words, '--dry-run')
        self.assertEqual(
            ['/SHA512SUMS'] * 2, [path for path, _ in self.site.asked]
        )
        self.assertNothingLeft()

    def test_ctrl_c(self) -> None:
        stalled = threading.Event()

        def end(exchange: faults.Exchange) -> None:
            stalled.set()
            exchange.hold()

        self.site.way.rule(acts.give(0.5, end), path='/root.img$')
        words = ('ami', 'inspect', self.url, '--sha512', self.sha512)
        child = self.start_openstack(*words)
        self.assertTrue(stalled.wait(_LATE))
        part = ''
        while not part:
            names = self.cache.glob('*/*/*/.root.img*.part')
            part = next((p for p in names if p.stat().st_size), '')
            self.assertIsNone(child.poll())
        os.kill(child.pid, signal.SIGINT)
        stdout, stderr = child.communicate(timeout=_LATE)
        self.assertEqual((130, ''), (child.returncode, stdout))
        self.assertRegex(
            stderr,
            r'^interrupted; [\d.]+ [KM]iB of the download are kept: run the '
            r'command again to continue\n$',
        )
        shown = self.openstack_json(*words)
        self.assertEqual(self.url, shown['source'])
        self.assertIn('bytes=', self.site.ranges('root.img')[-1])

    def test_refused(self) -> None:
        """One line, and the cloud is not asked for anything."""
        for words, why in (
            (('upload', self.url), 'give its hash with --sha512'),
            (
                ('upload', self.url, '--sha512', '0' * 128),
                f'is not that of {self.url}: its sha512 is ',
            ),
            (('shrink', self.url, '--insecure-source'), '--output FILE'),
            (('inspect', self.root, '--sha512', '0' * 128), 'no URL is given'),
            (
                ('inspect', 'http://127.0.0.1:1/x', '--sha512', '0' * 128),
                'use https',
            ),
        ):
            self.assertIn(why, self.refused('ami', *words))
