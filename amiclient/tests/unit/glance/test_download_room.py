# SPDX-License-Identifier: Apache-2.0

"""What is fetched where there is no room for it."""

import os
import resource

import fixtures

from amiclient import errors
from amiclient import scratch
from amiclient.tests.faults import proxy as faults
from amiclient.tests.faults import small_disk
from amiclient.tests.unit.glance import test_download

MIB = test_download.MIB
SIZE = test_download.SIZE


class TestRoom(test_download.DownloadTest):
    def test_no_room(self) -> None:
        self.useFixture(
            fixtures.MockPatchObject(scratch, 'room', lambda _: MIB)
        )
        shelf = self.shelf()
        message = self.refuse(errors.NoSpaceError, shelf)
        self.assertIn(
            'no room for web.img: 6.0 MiB are needed, 1.0 MiB are free',
            message,
        )
        self.assertEqual([], shelf.asked)
        self.assertEqual([], os.listdir(self.directory))

    def test_the_disk_fills_up(self) -> None:
        """What came is removed."""
        disk = self.useFixture(small_disk.SmallDisk(self, SIZE + MIB))
        self.target = disk.path / 'web.img'

        def fill(exchange: faults.Exchange) -> None:
            answer = exchange.ask()
            disk.fill(MIB)
            exchange.say(answer)

        message = self.refuse(errors.NoSpaceError, self.shelf(fill))
        self.assertIn(f'{disk.path}: ', message)
        self.assertEqual(['other'], os.listdir(disk.path))

    def test_a_limit_to_file_sizes(self) -> None:
        """What came stays, for a run without it."""
        kind = resource.RLIMIT_FSIZE
        limits = resource.getrlimit(kind)
        self.addCleanup(resource.setrlimit, kind, limits)
        resource.setrlimit(kind, (2 * MIB, limits[1]))
        message = self.refuse(errors.TooLargeError, self.shelf())
        self.assertIn(f'{self.directory}: files are limited to', message)
        resource.setrlimit(kind, limits)
        self.assertFetched(self.fetch(self.shelf()), SIZE - 2 * MIB)
