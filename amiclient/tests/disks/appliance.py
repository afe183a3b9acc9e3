# SPDX-License-Identifier: Apache-2.0

"""Tests with an appliance of libguestfs."""

import pathlib

from amiclient import errors
from amiclient import process
from amiclient.tests import base
from amiclient.tests.disks import disks
from amiclient.tests.disks import guest


class ApplianceCase(base.TestCase):
    """One that is skipped where its programs are missing."""

    programs: tuple[str, ...] = ('guestfish',)

    def setUp(self) -> None:
        super().setUp()
        for program in self.programs:
            try:
                process.find(program)
            except errors.ProgramError as error:
                self.skipTest(str(error))
        self.directory = self.tmp()
        self.work = self.tmp()
        self.useFixture(
            base.fixtures.EnvironmentVariable(
                'LIBGUESTFS_APPEND', guest.TIMESAVING
            )
        )

    def blank(self, name: str, size: int) -> pathlib.Path:
        """Make a file of so many MiB."""
        path = self.directory / name
        with path.open('wb') as file:
            file.truncate(size * disks.MIB)
        return path
