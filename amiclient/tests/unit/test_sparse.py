# SPDX-License-Identifier: Apache-2.0

"""Copies of ranges of files: holes, zeros, and what cannot be read."""

import os
import pathlib
import threading
from unittest import mock

from amiclient import errors
from amiclient.ext.layout import Layout
from amiclient.ext import superblock
from amiclient import process
from amiclient import progress
from amiclient import sparse
from amiclient.tests import base
from amiclient.tests.unit.ext import shrinking

_KIB = 1 << 10
_MIB = 1 << 20


class _Task:
    def __init__(self) -> None:
        self.done = 0

    def advance(self, amount: int) -> None:
        self.done += amount

    def expect(self, total: int) -> None:
        pass

    def restart(self) -> None:
        self.done = 0


class TestCopyRuns(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.source = self.directory / 'source'
        self.target = self.directory / 'target'
        self.task = _Task()

    def sparse(self, size: int, *runs: tuple[int, int]) -> bytes:
        with self.source.open('wb') as file:
            for first, end in runs:
                file.seek(first)
                file.write(self.random.randbytes(end - first))
            file.truncate(size)
        return self.source.read_bytes()

    def copy(
        self,
        *runs: tuple[int, int],
        cancel: threading.Event | None = None,
    ) -> bytes:
        with (
            sparse.opened(self.source, os.O_RDONLY) as source,
            sparse.opened(
                self.target, os.O_RDWR | os.O_CREAT | os.O_TRUNC
            ) as target,
        ):
            os.truncate(target, self.source.stat().st_size)
            sparse.copy_runs(
                source, target, runs, task=self.task, cancel=cancel
            )
        return self.target.read_bytes()

    def allocated(self) -> int:
        return self.target.stat().st_blocks * 512

    def test_ranges_and_nothing_else(self) -> None:
        data = self.sparse(5 * _MIB, (0, 5 * _MIB))
        runs = [(100, 4000), (_MIB - 1, 3 * _MIB + 1), (5 * _MIB - 7, 5 *
                _MIB)]  # fmt: skip
        want = bytearray(len(data))
        for first, end in runs:
            want[first:end] = data[first:end]
        self.assertEqual(bytes(want), self.copy(*runs))
        self.assertEqual(
            sum(end - first for first, end in runs), self.task.done
        )

    def test_random_ranges(self) -> None:
        size = 3 * _MIB
        data = self.sparse(
            size, (4 * _KIB, 300 * _KIB), (_MIB, 2 * _MIB + 77),
        )  # fmt: skip
        for _ in range(20):
            cuts = sorted(self.random.sample(range(size + 1), 8))
            runs = list(zip(cuts[::2], cuts[1::2], strict=True))
            want = bytearray(size)
            for first, end in runs:
                want[first:end] = data[first:end]
            self.assertEqual(bytes(want), self.copy(*runs))

    def test_holes_stay_holes(self) -> None:
        data = self.sparse(
            64 * _MIB, (_MIB, 2 * _MIB), (50 * _MIB, 50 * _MIB + 5000)
        )
        self.assertEqual(data, self.copy((0, 64 * _MIB)))
        self.assertLess(self.allocated(), 2 * _MIB)
        self.assertEqual(64 * _MIB, self.task.done)

    def test_zeros_become_holes(self) -> None:
        self.source.write_bytes(bytes(8 * _MIB) + b'end')
        self.copy((0, 8 * _MIB + 3))
        self.assertEqual(b'end', self.target.read_bytes()[-3:])
        self.assertLess(self.allocated(), 256 * _KIB)

    def test_without_knowledge_of_holes(self) -> None:
        # As on block devices and some network filesystems.
        data = self.sparse(4 * _MIB, (_MIB, 2 * _MIB))
        error = OSError(22, 'Invalid argument')
        with mock.patch.object(os, 'lseek', side_effect=error):
            self.assertEqual(data, self.copy((0, 4 * _MIB)))
        self.assertLess(self.allocated(), 2 * _MIB)

    def test_what_cannot_be_read(self) -> None:
        self.sparse(_MIB, (0, _MIB))
        error = OSError(5, 'Input/output error')
        with mock.patch.object(os, 'pread', side_effect=error):
            raised = self.assertRaises(
                errors.SourceError, self.copy, (8192, _MIB)
            )
        self.assertIn('byte 8192', str(raised))
        self.assertIn('Input/output error', str(raised))

    def test_file_that_ends_too_early(self) -> None:
        self.sparse(_MIB, (0, _MIB))
        for runs in ([(0, 2 * _MIB)], [(_MIB + 5, 2 * _MIB)]):
            error = self.assertRaises(errors.SourceError, self.copy, *runs)
            self.assertIn(f'ends at byte {_MIB}', str(error))
        self.sparse(_MIB)
        self.assertRaises(errors.SourceError, self.copy, (0, 2 * _MIB))

    def test_full_disk_is_told_apart(self) -> None:
        self.sparse(_MIB, (0, _MIB))
        error = OSError(28, 'No space left on device')
        with mock.patch.object(os, 'pwrite', side_effect=error):
            raised = self.assertRaises(OSError, self.copy, (0, _MIB))
        self.assertEqual(28, raised.errno)

    def test_cancelled(self) -> None:
        self.sparse(8 * _MIB, (0, 8 * _MIB))
        event = threading.Event()

        def advance(amount: int) -> None:
            self.task.done += amount
            if self.task.done >= 3 * _MIB:
                event.set()

        task = mock.create_autospec(_Task, instance=True)
        task.advance.side_effect = advance
        done, self.task = self.task, task
        self.task.done = 0
        self.assertRaises(
            errors.CancelledError, self.copy, (0, 8 * _MIB), cancel=event
        )
        self.assertEqual(3 * _MIB, self.task.done)
        self.assertEqual(0, done.done)


class TestClear(base.TestCase):
    def check(self) -> None:
        path = self.tmp() / 'file'
        data = self.random.randbytes(4 * _MIB)
        path.write_bytes(data)
        runs = [(5, 6000), (_MIB, 3 * _MIB), (4 * _MIB - 10, 4 * _MIB)]
        with sparse.opened(path, os.O_RDWR) as descriptor:
            sparse.clear(descriptor, runs)
        want = bytearray(data)
        for first, end in runs:
            want[first:end] = bytes(end - first)
        self.assertEqual(bytes(want), path.read_bytes())
        self.path = path

    def test_holes(self) -> None:
        self.check()
        self.assertLess(self.path.stat().st_blocks * 512, 3 * _MIB)

    def test_where_there_can_be_none(self) -> None:
        with mock.patch.object(sparse, '_punch', return_value=False):
            self.check()


class TestClone(base.TestCase):
    """Reflinks, where the filesystem of the tests can do that."""

    def test_both_ways_are_the_same(self) -> None:
        directory = self.tmp()
        image = shrinking.small(directory)
        shrinking.overwrite(image, 20 * _MIB, shrinking.SECRET)
        self.assertTrue(shrinking.holds(image))
        results = []
        for clone in (_clone, _no_clone):
            target = directory / clone.__name__
            target.touch()
            with mock.patch.object(sparse, 'clone', clone):
                with Layout.opened(image) as layout:
                    layout.copy_in_use(target, progress=progress.QUIET)
            results.append(shrinking.digest(target))
            self.assertFalse(shrinking.holds(target))
            self.assertTrue(shrinking.is_sound(target))
            self.assertEqual([], shrinking.differences(image, target))
        self.assertEqual(1, len(set(results)))

    def test_shares_or_says_so(self) -> None:
        directory = self.tmp()
        source, target = directory / 'source', directory / 'target'
        source.write_bytes(self.random.randbytes(_MIB))
        target.touch()
        with (
            sparse.opened(source, os.O_RDONLY) as reader,
            sparse.opened(target, os.O_RDWR) as writer,
        ):
            done = sparse.clone(reader, writer)
        want = source.read_bytes() if done else b''
        self.assertEqual(want, target.read_bytes())

    def test_journal_content_is_left_out(self) -> None:
        directory = self.tmp()
        image = shrinking.small(directory)
        for number in shrinking.journal_blocks(image):
            shrinking.overwrite(image, number * 1024, shrinking.SECRET)
        blocks = shrinking.journal_blocks(image)
        target = directory / 'target'
        target.touch()
        with Layout.opened(image) as layout:
            layout.copy_in_use(
                target,
                [(n, n + 1) for n in blocks],
                progress=progress.QUIET,
            )
        self.assertFalse(shrinking.holds(target))
        self.assertTrue(shrinking.is_sound(target))
        self.assertEqual(superblock.read(image), superblock.read(target))


def _clone(source: int, target: int) -> bool:
    """Copy everything, as a filesystem that shares blocks would."""
    path = pathlib.Path(f'/proc/{os.getpid()}/fd')
    process.run(
        ['dd', f'if={path / str(source)}', f'of={path / str(target)}',
         'bs=1M', 'status=none'], access=None
    )  # fmt: skip
    return True


def _no_clone(source: int, target: int) -> bool:
    return False
