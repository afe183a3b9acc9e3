# SPDX-License-Identifier: Apache-2.0

"""Databases of services, which a cloud need not make if another has.

A service goes through years of migrations to make an empty database, and that
takes several seconds. It is the same each time, so it is kept where
``AMICLIENT_TEST_DATABASES`` says, a directory; nowhere if it is not set.
"""

from collections.abc import Callable
import contextlib
import importlib.metadata
import os
import pathlib
import sqlite3

_VARIABLE = 'AMICLIENT_TEST_DATABASES'


def make(
    database: pathlib.Path, program: str, migrate: Callable[[], None]
) -> None:
    """Make or mend a database.

    :param database: the file; what is in it stays.
    :param program: the package of the service.
    :param migrate: lets the service do it.
    """
    place = os.environ.get(_VARIABLE)
    kept = None
    if place and not database.exists():
        version = importlib.metadata.version(program)
        kept = pathlib.Path(place) / f'{program}-{version}.db'
        if kept.exists():
            _copy(kept, database)
            return
    _write_ahead(database)
    migrate()
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(f'.{os.getpid()}')
        _copy(database, part)
        part.rename(kept)


def _copy(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copy a database with what is in its log; with its mode, too."""
    with (
        contextlib.closing(sqlite3.connect(source)) as old,
        contextlib.closing(sqlite3.connect(target)) as new,
    ):
        old.backup(new)


def _write_ahead(database: pathlib.Path) -> None:
    """Let readers go on while somebody writes; sqlite.org/wal.html."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute('PRAGMA journal_mode = WAL')
