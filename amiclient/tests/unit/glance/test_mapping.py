# SPDX-License-Identifier: Apache-2.0


import os
import subprocess
import sys
import time

import fixtures

from amiclient.glance.transfer import mapping
from amiclient.tests import base
from amiclient.tests.unit.glance import leases

MIB = 1 << 20

#: Cuts a file short, and tells how long that took.
_TRUNCATE = """
import os, sys, time
begin = time.monotonic()
os.truncate(sys.argv[1], 1)
print(time.monotonic() - begin)
"""


class WindowTest(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.path = self.tmp() / 'image'
        self.data = self.random.randbytes(4 * MIB + 5)
        self.path.write_bytes(self.data)
        self.fd = os.open(self.path, os.O_RDONLY)
        self.addCleanup(self.close)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def window(self, keep: int = 1) -> mapping.Window:
        if not leases.known(self.fd):
            self.skipTest('this filesystem knows no leases')
        window = mapping.Window.open(self.fd, keep=keep)
        assert window is not None, 'no lease'
        return window

    def assertHolds(self, data: bytes, piece: memoryview | None) -> None:
        # Not assertEqual(): it would print a MiB.
        if piece is None or piece != data:
            self.fail('not mapped, or other data')

    def truncate(self) -> 'subprocess.Popen[str]':
        """Have another process cut the file short; wait until it waits."""
        process = subprocess.Popen(
            [sys.executable, '-c', _TRUNCATE, self.path],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        while not leases.wanted():
            self.assertIsNone(process.poll())
            time.sleep(0.01)
        time.sleep(0.5)
        self.assertEqual(len(self.data), os.fstat(self.fd).st_size)
        return process

    def test_pieces(self) -> None:
        window = self.window()
        first = window.view(0, MIB)
        last = window.view(4 * MIB, 5)
        self.assertHolds(self.data[:MIB], first)
        self.assertHolds(self.data[4 * MIB :], last)

    def test_who_would_cut_it_short_waits(self) -> None:
        window = self.window(keep=2)
        first = window.view(0, MIB)
        process = self.truncate()
        self.assertIsNone(window.view(MIB, MIB))
        # It is in use until two more have been asked for.
        self.assertHolds(self.data[:MIB], first)
        self.assertIsNone(process.poll())
        self.assertIsNone(window.view(2 * MIB, MIB))
        waited, _ = process.communicate(timeout=20)
        self.assertGreater(float(waited), 0.3)
        self.assertEqual(1, os.fstat(self.fd).st_size)
        self.assertIsNone(window.view(3 * MIB, MIB))

    def test_the_lease_ends_with_the_last_piece(self) -> None:
        piece = self.window().view(0, MIB)
        self.close()
        process = self.truncate_closed()
        self.assertHolds(self.data[:MIB], piece)
        self.assertIsNone(process.poll())
        del piece
        process.communicate(timeout=20)
        self.assertEqual(1, self.path.stat().st_size)

    def truncate_closed(self) -> 'subprocess.Popen[str]':
        self.fd = os.open(self.path, os.O_RDONLY)
        try:
            return self.truncate()
        finally:
            self.close()

    def test_not_while_somebody_writes(self) -> None:
        with self.path.open('r+b'):
            self.assertIsNone(mapping.Window.open(self.fd, keep=1))

    def test_not_a_device(self) -> None:
        with open('/dev/zero', 'rb') as file:
            self.assertIsNone(mapping.Window.open(file.fileno(), keep=1))

    def test_beyond_the_end(self) -> None:
        self.assertIsNone(self.window().view(4 * MIB, MIB))

    def test_an_old_kernel(self) -> None:
        window = self.window()
        # madvise(2) says EINVAL to advice that it does not know.
        self.useFixture(
            fixtures.MockPatchObject(mapping, '_MADV_POPULATE_READ', 9999)
        )
        self.assertIsNone(window.view(0, MIB))
