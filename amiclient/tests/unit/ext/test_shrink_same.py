# SPDX-License-Identifier: Apache-2.0

"""The same source gives the same bytes, whenever and wherever."""

from collections.abc import Callable
import os
import pathlib
import shutil
import tempfile
import time
import traceback
import unittest

import fixtures

from amiclient import errors
from amiclient.ext import e2fsprogs
from amiclient.ext import superblock
from amiclient.tests import base
from amiclient.tests.unit.ext import shrinking

#: Who has no rights here: nobody(5).
_NOBODY = 65534


class TestSame(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.image = shrinking.small(self.directory, data=2 << 20)
        self.expected = self.shrink()

    def shrink(self, name: str = 'out.img', **options) -> str:
        output = self.directory / name
        shrinking.shrunk(self.image, output=output, **options)
        return shrinking.digest(output)

    def variable(self, name: str, value: str | None) -> None:
        self.useFixture(fixtures.EnvironmentVariable(name, value))

    def test_later(self) -> None:
        # ext4 has whole seconds in its superblock.
        time.sleep(1.1)
        self.assertEqual(self.expected, self.shrink())

    def test_elsewhere(self) -> None:
        for name, directory in (('TMPDIR', self.tmp()), ('HOME', self.tmp())):
            self.variable(name, str(directory))
        self.assertEqual(
            self.expected,
            self.shrink('another name', work_directory=self.tmp()),
        )

    def test_in_another_language_and_time_zone(self) -> None:
        for name, value in (
            ('LANG', 'de_DE.UTF-8'),
            ('LC_ALL', 'tr_TR.UTF-8'),
            ('LANGUAGE', 'de'),
            ('TZ', 'Pacific/Kiritimati'),
        ):
            self.variable(name, value)
        self.assertEqual(self.expected, self.shrink())

    def test_whatever_e2fsprogs_are_told_by_others(self) -> None:
        for name in ('E2FSPROGS_FAKE_TIME', 'E2FSCK_TIME'):
            self.variable(name, '1234567890')
        self.assertEqual(self.expected, self.shrink())

    def test_of_a_copy_in_place_of_the_file(self) -> None:
        copy = self.directory / 'copy.img'
        shutil.copyfile(self.image, copy)
        shrinking.shrunk(copy)
        self.assertEqual(self.expected, shrinking.digest(copy))

    def test_of_a_sparse_copy_and_a_full_one(self) -> None:
        data = self.image.read_bytes()
        self.image.unlink()
        self.image.write_bytes(data)
        self.assertEqual(self.expected, self.shrink())

    @unittest.skipIf(os.geteuid(), 'only root can become somebody else')
    def test_of_a_file_of_somebody_else(self) -> None:
        place = self.tmp()
        os.chown(place, _NOBODY, _NOBODY)
        image = place / 'image'
        shutil.copyfile(self.image, image)

        def refused() -> None:
            error = self.assertRaises(
                errors.UsageError, shrinking.shrunk, image
            )
            assert 'belongs to another user' in str(error), error
            assert '--output' in str(error), error

        self.assertEqual(0, self.as_nobody(place, refused))
        self.assertEqual(['image'], os.listdir(place))

    @unittest.skipIf(os.geteuid(), 'only root can become somebody else')
    def test_by_an_ordinary_user(self) -> None:
        place = self.tmp()
        os.chown(place, _NOBODY, _NOBODY)
        image = place / 'image'
        shutil.copyfile(self.image, image)
        os.chown(image, _NOBODY, _NOBODY)
        self.assertEqual(
            0,
            self.as_nobody(
                place, lambda: shrinking.shrunk(image, output=place / 'out')
            ),
        )
        self.assertEqual(_NOBODY, (place / 'out').stat().st_uid)
        self.assertEqual(self.expected, shrinking.digest(place / 'out'))

    def as_nobody(
        self, place: pathlib.Path, work: Callable[[], object]
    ) -> int:
        """Do something as an ordinary user; tell the exit status.

        :param place: a directory of that user.
        """
        child = os.fork()
        if not child:
            status = 1
            try:
                os.setgroups([])
                os.setgid(_NOBODY)
                os.setuid(_NOBODY)
                # That of the tester may be private.
                tempfile.tempdir = str(place)
                work()
                status = 0
            except BaseException:
                traceback.print_exc()
                raise
            finally:
                os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class TestEpoch(base.TestCase):
    """SOURCE_DATE_EPOCH."""

    def epoch(self, value: str | None) -> None:
        self.useFixture(fixtures.EnvironmentVariable(e2fsprogs.EPOCH, value))

    def test_the_superblock_has_it(self) -> None:
        self.epoch('1500000000')
        directory = self.tmp()
        image = shrinking.small(directory)
        shrinking.shrunk(image, output=directory / 'out')
        self.assertEqual(
            1500000000, superblock.read(directory / 'out').written
        )
        header = shrinking.header(directory / 'out')
        self.assertIn('2017', header['Last write time'])
        # What was there before stays what it was.
        before = shrinking.header(image)
        self.assertEqual(
            before['Filesystem created'], header['Filesystem created']
        )

    def test_without_it(self) -> None:
        for value in (None, ''):
            self.epoch(value)
            self.assertEqual(1700000000, e2fsprogs.present(1700000000))
            # Which e2fsprogs would take for the present of the clock.
            self.assertEqual(1, e2fsprogs.present(0))

    def test_zero(self) -> None:
        self.epoch('0')
        self.assertEqual(1, e2fsprogs.present(1700000000))

    def test_what_is_no_number(self) -> None:
        for value in ('yesterday', '-1', '1.5', '1e9', ' 1', '٣', '9' * 13):
            self.epoch(value)
            error = self.assertRaises(
                errors.UsageError, e2fsprogs.present, 1700000000
            )
            self.assertIn('SOURCE_DATE_EPOCH', str(error))
            self.assertNotIn('\n', str(error))

    def test_refused_before_anything_is_done(self) -> None:
        directory = self.tmp()
        image = shrinking.small(directory)
        self.epoch('soon')
        self.assertRaises(
            errors.UsageError,
            shrinking.shrunk,
            image,
            output=directory / 'out',
        )
        self.assertFalse((directory / 'out').exists())
