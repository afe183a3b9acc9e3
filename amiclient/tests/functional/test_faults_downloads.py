# SPDX-License-Identifier: Apache-2.0

"""Downloads through a proxy that breaks things: whole, or not there."""

import os
import pathlib

from amiclient.tests.faults import actions as faults_actions
from amiclient.tests.faults import downloads as acts
from amiclient.tests.faults import proxy as faults
from amiclient.tests.functional import faulty_downloads


class DirectoryCase(faulty_downloads.DownloadCase):
    """A test of what becomes of a directory when the kernel's data break."""

    def setUp(self) -> None:
        super().setUp()
        self.command = self.commands['directory']

    def break_(self, *actions: faults.Action, kind: str = 'kernel', **more):
        """Have something happen to the data of one image."""
        self.disturb(kind, *actions, **more)

    def paths(self) -> dict[str, pathlib.Path]:
        return {
            'image': self.target / 'web.img',
            'kernel': self.target / 'web-vmlinuz',
            'ramdisk': self.target / 'web-initrd',
        }

    def survive(self, *words: object, count: int | None = None) -> dict:
        """Save, and compare what is there then."""
        shown = self.openstack_json(*self.command, *words)
        for kind, path in self.paths().items():
            same = path.read_bytes() == self.files[kind].read_bytes()
            self.assertTrue(same, f'{kind} is not what was uploaded')
        names = {p.name for p in self.paths().values()} | {'manifest.json'}
        self.assertEqual(names, set(os.listdir(self.target)))
        if count is not None:
            self.assertEqual(count, self.fetched('kernel'))
        return shown

    def in_vain(self, *words: object) -> str:
        """Save in vain: one line, and no file that is not whole."""
        finished = self.run_openstack(*self.command, *words)
        self.assertEqual(1, finished.status, finished)
        self.assertEqual('', finished.stdout)
        self.assertEqual(1, finished.stderr.count('\n'), finished.stderr)
        self.assertFalse(self.paths()['kernel'].exists())
        self.assertFalse((self.target / 'manifest.json').exists())
        return finished.stderr


class TestBreaks(DirectoryCase):
    def test_for_good(self) -> None:
        self.break_(acts.reset(0.5), times=None)
        line = self.in_vain('--retries', 1, '--timeout', 5)
        self.assertIn('(tried 2 times in ', line)
        self.assertIn(
            f'; what was downloaded stays in {self.target}: run the command '
            'again',
            line,
        )
        self.glance.clear()
        shown = self.survive()
        # The rest of the kernel, and of what was given up for it.
        total = sum(path.stat().st_size for path in self.paths().values())
        self.assertLess(shown['downloaded'], total)

    def test_an_archive_for_good(self) -> None:
        """What stays is in a hidden directory."""
        self.break_(acts.reset(0.5), times=None)
        self.target.mkdir()
        words = ('--layout', 'uec', '--timeout', 5)
        line = self.in_vain(*words, '--retries', 1)
        place = self.target / f'.web.{self.ids["image"]}.part'
        self.assertEqual([place.name], os.listdir(self.target))
        self.assertIn(f'; what was downloaded stays in {place}: run the', line)
        self.glance.clear()
        self.openstack(*self.command, *words)
        self.assertEqual(['web.tar.gz'], os.listdir(self.target))

    def test_nothing_came(self) -> None:
        """There is nothing to go on with."""
        for kind in self.ids:
            self.break_(acts.reset(0), kind=kind, times=None)
        line = self.in_vain('--retries', 0, '--timeout', 5)
        self.assertIn('; check the network', line)
        self.assertNotIn('what was fetched', line)

    def test_no_ranges(self) -> None:
        self.break_(acts.close(0.5), acts.no_range)
        self.survive('--timeout', 5, count=2)


class TestAnswers(DirectoryCase):
    def test_errors_for_good(self) -> None:
        self.break_(faults_actions.answer(503, '<p>Not now</p>'), times=None)
        line = self.in_vain('--retries', 1, '--timeout', 5)
        self.assertIn('Not now (HTTP 503) (tried 2 times in ', line)

    def test_an_error_that_looks_like_data(self) -> None:
        self.break_(faults_actions.answer(200, 'Log in first'), times=None)
        line = self.in_vain('--retries', 0)
        self.assertIn('the cloud sent 12 bytes, not', line)

    def test_deleted_meanwhile(self) -> None:
        def delete() -> None:
            self.image.delete(f'/images/{self.ids["kernel"]}')

        self.break_(acts.during(0.5, delete))
        line = self.in_vain('--timeout', 5)
        self.assertIn('HTTP 404', line)
        self.assertEqual([], list(self.target.glob('.web-vmlinuz*')))
