# SPDX-License-Identifier: Apache-2.0

"""Filesystems that somebody uses: really mounted, attached, or open."""

import os
import pathlib
import subprocess
import sys

from amiclient import errors
from amiclient.ext import busy
from amiclient.ext import shrink
from amiclient import process
from amiclient.source import probe
from amiclient.tests import base
from amiclient.tests.oracle import exttree
from amiclient.tests.unit.ext import shrinking

_MIB = 1 << 20


class _BusyTest(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.image = shrinking.small(self.directory, features='extent')
        self.output = self.directory / 'output'
        self.names = sorted(os.listdir(self.directory))

    def refused(self, path: pathlib.Path, *words: object) -> None:
        before = shrinking.digest(self.image)
        for rest in ({}, {'output': self.output}, {'in_place': True}):
            for exact in (False, True):
                error = self.assertRaises(
                    errors.BusyError, shrink.plan,
                    shrinking.request(path, **rest), exact=exact,
                )  # fmt: skip
                self.assertNotIn('\n', str(error))
                for word in (path, *words):
                    self.assertIn(str(word), str(error))
        self.assertEqual(before, shrinking.digest(self.image))
        self.assertEqual(self.names, sorted(os.listdir(self.directory)))

    def attach(self, *options: str) -> pathlib.Path:
        """Make a loop device of the image."""
        try:
            found = process.run(
                ['losetup', '--find', '--show', *options, self.image],
                access=None,
            )
        except errors.ProgramError as error:
            self.skipTest(f'no loop device: {error}')
        device = found.text.strip()
        self.addCleanup(
            process.run, ['losetup', '--detach', device], access=None
        )
        return pathlib.Path(device)

    def mount(self, device: pathlib.Path, name: str, *options: str) -> str:
        where = self.tmp() / name
        where.mkdir()
        try:
            process.run(['mount', *options, device, where], access=None)
        except errors.ProgramError as error:
            self.skipTest(f'cannot mount: {error}')
        self.addCleanup(process.run, ['umount', where], access=None)
        return str(where)


class TestBusy(_BusyTest):
    def test_nobody(self) -> None:
        busy.refuse_busy(self.image)
        with self.image.open('rb'):
            busy.refuse_busy(self.image)

    def test_file_that_is_mounted(self) -> None:
        device = self.attach()
        where = self.mount(device, 'some where')
        self.refused(self.image, device, f'mounted on {where}',
                     f'run: umount {where}')  # fmt: skip

    def test_file_that_is_mounted_read_only(self) -> None:
        device = self.attach('--read-only')
        where = self.mount(device, 'there', '-o', 'ro')
        self.refused(self.image, device, f'mounted on {where}')

    def test_file_under_another_name(self) -> None:
        device = self.attach()
        where = self.mount(device, 'there')
        link = self.tmp() / 'link'
        link.symlink_to(self.image)
        self.refused(link, f'mounted on {where}')

    def test_file_that_is_attached(self) -> None:
        device = self.attach()
        self.refused(self.image, f'attached to {device}',
                     f'losetup --detach {device}')  # fmt: skip

    def test_device_that_is_mounted(self) -> None:
        device = self.attach()
        where = self.mount(device, 'there')
        self.refused(device, f'mounted on {where}', f'umount {where}')

    def test_device_that_the_system_holds(self) -> None:
        device = self.attach()
        holder = os.open(device, os.O_RDONLY | os.O_EXCL)
        self.addCleanup(os.close, holder)
        self.refused(device, 'in use by the system')

    def test_open_for_writing_elsewhere(self) -> None:
        writer = subprocess.Popen(
            [sys.executable, '-c', 'import sys; f = open(sys.argv[1], "r+b"); '
             'print(flush=True); sys.stdin.read()', self.image],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.addCleanup(writer.communicate)
        writer.stdout.readline()
        self.refused(self.image, 'open for writing in another process')
        writer.communicate()
        shrinking.shrunk(self.image, output=self.output)

    def test_opened_for_writing_between_plan_and_work(self) -> None:
        planned = shrink.plan(shrinking.request(self.image))
        with self.image.open('r+b'):
            self.assertRaises(errors.BusyError, shrink.execute, planned)
        self.assertEqual(self.names, sorted(os.listdir(self.directory)))


class TestDevices(_BusyTest):
    """Block devices that nobody uses."""

    def setUp(self) -> None:
        super().setUp()
        self.device = self.attach()
        self.tree = exttree.read_tree(self.device)

    def test_in_place(self) -> None:
        size = self.image.stat().st_size
        planned = shrink.plan(shrinking.request(self.device), exact=True)
        self.assertTrue(planned.in_place)
        self.assertEqual(self.device, planned.output)
        done = shrink.execute(planned)
        self.assertEqual(planned.size, done.size)
        self.assertLess(done.size, size)
        # The device stays as large as it is; what is in it does not.
        self.assertEqual(size, probe.open_root(self.device).size)
        self.assertTrue(shrinking.is_sound(self.device))
        self.assertEqual(
            [], exttree.diff_trees(self.tree, exttree.read_tree(self.device))
        )
        again = shrink.plan(shrinking.request(self.device))
        self.assertEqual(done.size, again.size_before)

    def test_to_a_file(self) -> None:
        before = shrinking.digest(self.image)
        done = shrinking.shrunk(self.device, output=self.output)
        self.assertEqual(done.size, self.output.stat().st_size)
        self.assertEqual(
            [], exttree.diff_trees(self.tree, exttree.read_tree(self.output))
        )
        self.assertTrue(shrinking.is_sound(self.output))
        self.assertEqual(before, shrinking.digest(self.image))

    def test_secret_is_cleared(self) -> None:
        last = shrinking.free_runs(self.image)[0]
        size = shrinking.header(self.image)['Block size']
        with self.device.open('r+b') as file:
            file.seek(last[0] * int(size))
            file.write(shrinking.SECRET)
        self.assertTrue(shrinking.holds(self.device))
        done = shrinking.shrunk(self.device)
        with self.device.open('rb') as file:
            self.assertNotIn(shrinking.SECRET, file.read(done.size))
