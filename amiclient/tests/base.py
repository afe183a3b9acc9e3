# SPDX-License-Identifier: Apache-2.0

"""What every test case starts from."""

from collections.abc import Mapping
import dataclasses
import locale
import os
import pathlib
import random
import signal
from typing import Any
import unittest

import fixtures
import testtools

from amiclient.osc import tables
from amiclient.osc import watchers
from amiclient import units

#: Set it to run what takes minutes, too, and shows little that faster tests
#: do not.
SLOW = bool(os.environ.get('AMICLIENT_SLOW_TESTS'))

#: Marks such a test.
slow = unittest.skipUnless(SLOW, 'slow: set AMICLIENT_SLOW_TESTS')


class TestCase(testtools.TestCase):
    """A test whose directories go away, and whose random data is the same.

    The environment is the tester's but for what would make a test depend on
    it: the variables of a cloud and of proxies, and a umask of one's own.
    """

    def setUp(self) -> None:
        super().setUp()
        # The shell takes the locale of the environment, for good. And the C
        # library keeps what it has once translated, for every locale but C:
        # a test that has set LANGUAGE would be felt by those after it.
        locale.setlocale(locale.LC_ALL, 'C.UTF-8')
        locale.setlocale(locale.LC_MESSAGES, 'C')
        # What a test makes has the modes that it has nearly everywhere.
        self.addCleanup(os.umask, os.umask(0o022))
        self.random = random.Random(self.id())
        self.useFixture(CleanEnvironment())
        self.useFixture(Signals())

    def tmp(self) -> pathlib.Path:
        """A fresh, empty directory that goes away with the test."""
        return pathlib.Path(self.useFixture(fixtures.TempDir()).path)


def with_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Make one value of the options of a filesystem that are given singly."""
    names = {each.name for each in dataclasses.fields(units.FilesystemOptions)}
    ours = {name: given[name] for name in names & given.keys()}
    rest = {name: given[name] for name in given.keys() - names}
    return {**rest, 'options': units.FilesystemOptions(**ours)}


class Signals(fixtures.Fixture):
    """Signals that have the effect that they have at a terminal.

    Shells have what they run in the background ignore SIGINT.
    """

    def _setUp(self) -> None:
        for number, action in (
            (signal.SIGINT, signal.default_int_handler),
            (signal.SIGTERM, signal.SIG_DFL),
            (signal.SIGHUP, signal.SIG_DFL),
        ):
            before = signal.signal(number, action)
            self.addCleanup(signal.signal, number, before)


class CleanEnvironment(fixtures.Fixture):
    """No cloud, no proxy and no progress in the environment."""

    def _setUp(self) -> None:
        for name in list(os.environ):
            if name.startswith('OS_') and not name.startswith('OS_TEST'):
                self.useFixture(fixtures.EnvironmentVariable(name))
        for name, value in (
            ('NO_PROXY', '127.0.0.1,localhost'),
            # What commands say on stderr is what is wrong.
            (watchers.VARIABLE, 'none'),
            (tables.VARIABLE, ''),
        ):
            self.useFixture(fixtures.EnvironmentVariable(name, value))
