# SPDX-License-Identifier: Apache-2.0

"""Threads: many things at once, and where the address space has a limit."""

import subprocess
import sys
import threading

from amiclient import errors
from amiclient import jobs
from amiclient.tests import base

_MIB = 1 << 20
_THREADS = 8

#: Says how many bytes of address space threads take that call malloc.
_CHILD = """
import resource, sys, threading
from amiclient import jobs

def size():
    for line in open('/proc/self/status'):
        if line.startswith('VmSize:'):
            return int(line.split()[1]) * 1024

limit, count = map(int, sys.argv[1:])
if limit:
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
jobs.save_address_space()
before = size()
there, leave = threading.Barrier(count + 1), threading.Event()

def work():
    kept = [bytearray(10000) for _ in range(100)]
    there.wait()
    leave.wait()

for _ in range(count):
    threading.Thread(target=work, daemon=True).start()
there.wait()
print(size() - before)
leave.set()
"""


class TestAddressSpace(base.TestCase):
    def taken(self, limit: int) -> int:
        """Say what address space some threads take."""
        done = subprocess.run(
            [sys.executable, '-c', _CHILD, str(limit), str(_THREADS)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            text=True,
        )
        return int(done.stdout)

    def test_limit(self) -> None:
        taken = self.taken(4096 * _MIB)
        self.assertLess(taken, _THREADS * 8 * _MIB)

    def test_no_limit(self) -> None:
        """What there is to be saved, on a system that reserves it."""
        self.assertGreater(self.taken(0), self.taken(4096 * _MIB))


class TestSpread(base.TestCase):
    def test_in_order(self) -> None:
        seen: set[int] = set()

        def double(number: int) -> int:
            seen.add(threading.get_ident())
            return 2 * number

        found = jobs.spread(double, range(50), at_once=3)
        self.assertEqual([2 * number for number in range(50)], found)
        self.assertLessEqual(len(seen), 3)
        self.assertEqual([], jobs.spread(double, [], at_once=3))

    def test_a_failure(self) -> None:
        done: list[int] = []

        def work(number: int) -> None:
            done.append(number)
            if number == 3:
                raise errors.CloudError('no')

        self.assertRaises(
            errors.CloudError, jobs.spread, work, range(9999), at_once=2
        )
        self.assertLess(len(done), 9999)
