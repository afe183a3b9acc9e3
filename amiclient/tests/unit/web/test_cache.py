# SPDX-License-Identifier: Apache-2.0

"""What is kept of downloads, and for how long."""

import os
import pathlib

import fixtures

from amiclient import errors
from amiclient.glance.transfer import image_data
from amiclient.tests import base
from amiclient.web import cache

MIB = 1 << 20


class TestCache(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.home = self.tmp()
        self.set('XDG_CACHE_HOME', str(self.home))
        self.set(cache.SIZE, '3M')

    def set(self, name: str, value: str) -> None:
        self.useFixture(fixtures.EnvironmentVariable(name, value))

    def entry(self, number: int) -> object:
        digest = image_data.Digest('sha256', f'{number:064x}'[::-1])
        return cache.entry(cache.directory(), digest, 'web')

    def put(self, number: int) -> pathlib.Path:
        with self.entry(number) as path:  # type: ignore[attr-defined]
            path.write_bytes(b'1' * MIB)
        os.utime(path.parent, (number, number))
        return path

    def test_what_was_not_used_goes(self) -> None:
        paths = [self.put(number) for number in range(4)]
        # The one that was used last, though it came first.
        with self.entry(0):  # type: ignore[attr-defined]
            pass
        cache.trim(cache.directory(), MIB)
        self.assertEqual(
            [True, False, False, True], [path.exists() for path in paths]
        )
        self.assertFalse(paths[1].parent.exists())

    def test_what_is_in_use_stays(self) -> None:
        paths = [self.put(number) for number in range(4)]
        with self.entry(0):  # type: ignore[attr-defined]
            os.utime(paths[0].parent, (0, 0))
            cache.trim(cache.directory(), 3 * MIB)
            self.assertEqual([paths[0]], [p for p in paths if p.exists()])

    def test_size(self) -> None:
        self.set(cache.SIZE, 'much')
        told = str(self.assertRaises(errors.UsageError, cache.limit))
        self.assertIn(f"{cache.SIZE}: 'much' is not a size", told)

    def test_directory(self) -> None:
        made = cache.directory()
        self.assertEqual(self.home / 'amiclient/downloads', made)
        for each in (made, made.parent):
            self.assertEqual(0o700, each.stat().st_mode & 0o777)
        made.chmod(0o777)
        told = str(self.assertRaises(errors.AmiError, cache.directory))
        self.assertIn('can be written to by others; choose another', told)
        file = self.home / 'file'
        file.touch()
        self.set('XDG_CACHE_HOME', str(file))
        told = str(self.assertRaises(errors.AmiError, cache.directory))
        self.assertIn(f'{file}: the directory for downloads cannot', told)
        # Such a path has no effect.
        self.set('XDG_CACHE_HOME', 'here')
        self.set('HOME', str(self.home))
        self.assertEqual(
            self.home / '.cache/amiclient/downloads', cache.directory()
        )
