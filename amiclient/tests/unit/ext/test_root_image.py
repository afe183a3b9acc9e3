# SPDX-License-Identifier: Apache-2.0

"""Files that go on behind their filesystem."""

from typing import Any

from amiclient import errors
from amiclient.ext import layout
from amiclient.ext import shrink
from amiclient.ext import superblock
from amiclient.source import resolve
from amiclient.tests import base
from amiclient.tests.unit.ext import shrinking

_MIB = 1 << 20


class TestBehind(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.image = shrinking.small(self.tmp(), data=_MIB)
        self.found = superblock.read(self.image)
        self.end = self.image.stat().st_size

    def behind(self) -> int:
        return layout.behind(self.image, self.found)

    def test_nothing(self) -> None:
        self.assertEqual(0, self.behind())
        with self.image.open('ab') as file:
            file.write(bytes(3 * _MIB + 7))
            # Not looked through, or this would take for ever.
            file.truncate(1 << 43)
        self.assertEqual(0, self.behind())
        shrinking.shrunk(self.image)
        self.assertTrue(shrinking.is_sound(self.image))

    def test_far_behind(self) -> None:
        with self.image.open('r+b') as file:
            file.truncate(self.end + (1 << 40))
            file.seek(-1, 2)
            file.write(b'x')
        self.assertEqual(1 << 40, self.behind())

    def test_less_than_a_block(self) -> None:
        with self.image.open('ab') as file:
            file.write(b'end')
        self.assertEqual(3, self.behind())

    def refused(self, **rest: Any) -> None:
        before = shrinking.digest(self.image)
        error = self.assertRaises(
            errors.UsageError, shrink.plan,
            shrinking.request(self.image, **rest),
        )  # fmt: skip
        self.assertIn('the 5 bytes after its filesystem', str(error))
        self.assertIn(f'truncate --size {self.end} {self.image}', str(error))
        self.assertEqual(before, shrinking.digest(self.image))

    def test_would_be_lost(self) -> None:
        with self.image.open('ab') as file:
            file.write(b'hash\0')
        self.refused()
        self.refused(in_place=True)
        with resolve.opened(self.image) as source:
            (note,) = source.notes
        self.assertIn(f'{self.image}: the 5 bytes after', note)
        output = self.image.with_name('output')
        done = shrinking.shrunk(self.image, output=output)
        self.assertEqual(done.size, output.stat().st_size)
