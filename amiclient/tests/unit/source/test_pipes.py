# SPDX-License-Identifier: Apache-2.0

"""Sources that come through a pipe."""

import io
import os
import pathlib
import sys
import threading
from unittest import mock

from amiclient import errors
from amiclient.source import opening
from amiclient.source import resolve
from amiclient import sparse
from amiclient.tests import base
from amiclient.tests.disks import archives
from amiclient.tests.disks import disks
from amiclient.tests.disks import triple
from amiclient.tests.oracle import exttree

MIB = 1 << 20
STDIN = pathlib.Path('-')


class PipeCase(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory, self.work = self.tmp(), self.tmp()
        self.choice = resolve.Choice(work_directory=self.work)

    def given(self, data: bytes, *, terminal: bool = False) -> None:
        """Put something into standard input."""
        stdin = mock.create_autospec(io.TextIOWrapper, instance=True)
        stdin.buffer = io.BytesIO(data)
        stdin.isatty.return_value = terminal
        self.patch(sys, 'stdin', stdin)

    def refused(self, path: pathlib.Path, kind=errors.SourceError) -> str:
        def run() -> None:
            with resolve.opened(path, self.choice) as source:
                source.image()

        text = str(self.assertRaises(kind, run))
        self.assertEqual([], os.listdir(self.work))
        return text


class TestPipes(PipeCase):
    def test_each_kind(self) -> None:
        root = triple.root(self.directory, size=24 * MIB, data=2 * MIB)
        wanted = exttree.read_tree(root)
        disk = disks.make(self.directory / 'd', [disks.Part(30, root)])
        for path in (root, disk, disks.convert(disk, 'qcow2')):
            self.given(path.read_bytes())
            with resolve.opened(STDIN, self.choice) as source:
                self.assertEqual(wanted, exttree.read_tree(source.root))
                self.assertTrue(source.own)
                self.assertIsNone(source.name)
            self.assertEqual([], os.listdir(self.work))

    def test_fifo(self) -> None:
        path, fifo = self.directory / 'a.tar', self.directory / 'fifo'
        archives.archive(path, archives.plain_members())
        os.mkfifo(fifo)
        writer = threading.Thread(
            target=lambda: fifo.write_bytes(path.read_bytes())
        )
        writer.start()
        with resolve.opened(fifo, self.choice) as source:
            self.assertIn(b'/su2', exttree.read_tree(source.root))
        writer.join()
        os.unlink(fifo)
        os.mkfifo(fifo)
        writer = threading.Thread(target=lambda: fifo.write_bytes(b'nothing'))
        writer.start()
        text = self.refused(fifo)
        writer.join()
        self.assertIn(f'{fifo}: a text file', text)

    def test_holes(self) -> None:
        self.given(b'x' * MIB + bytes(64 * MIB))
        with opening.settled(STDIN, self.work) as path:
            self.assertEqual(65 * MIB, path.stat().st_size)
            self.assertLess(path.stat().st_blocks * 512, 2 * MIB)
            with path.open('rb') as file:
                self.assertEqual(
                    b'x' * MIB, sparse.read_at(file.fileno(), MIB, 0)
                )

    def test_what_is_refused(self) -> None:
        self.given(b'')
        self.assertIn(
            'standard input: nothing came through', self.refused(STDIN)
        )
        self.given(b'', terminal=True)
        self.assertIn('standard input: a terminal', self.refused(STDIN))
        self.given(b'#!/bin/sh\n')
        self.assertIn('standard input: a script', self.refused(STDIN))

    def test_no_room(self) -> None:
        self.given(b'x' * MIB)
        self.patch(opening, '_STEP', 1 << 60)
        text = self.refused(STDIN, kind=errors.NoSpaceError)
        self.assertIn('--work-directory', text)
