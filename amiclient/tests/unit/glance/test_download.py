# SPDX-License-Identifier: Apache-2.0

"""Downloads over a real socket, and what is made of what comes."""

import dataclasses
import hashlib
import os
import pathlib
import stat
import threading
import time
from typing import Any

from amiclient import errors
from amiclient.glance import retry
from amiclient.glance.transfer import download
from amiclient.glance.transfer import receive
from amiclient import sparse
from amiclient.tests import base
from amiclient.tests.faults import actions
from amiclient.tests.faults import downloads as acts
from amiclient.tests.faults import proxy as faults
from amiclient.tests.unit.glance import served
from amiclient.tests.unit.glance import uploads

MIB = 2**20
#: More than the socket buffers of both sides hold.
SIZE = 6 * MIB + 123

QUICK = retry.Patience(stall=served.AGES, backoff=0.01, longest=0.02)


def flip(data: bytes) -> bytes:
    """Change one bit in the middle."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


class DownloadTest(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.target = self.directory / 'web.img'
        self.data = self.random.randbytes(SIZE)
        self.watcher = uploads.Watcher()

    def shelf(self, *script: faults.Action, **changes: Any) -> Any:
        return self.useFixture(
            served.Served(*script, data=self.data, **changes)
        )

    def ranges(self, shelf: served.Served) -> list[str | None]:
        """Tell what of the data was asked for."""
        return [headers.get('Range') for headers in shelf.asked]

    def fetch(self, shelf: Any, **kwargs: Any) -> download.Fetched:
        kwargs.setdefault('record', shelf.record)
        kwargs.setdefault('patience', QUICK)
        kwargs.setdefault('progress', self.watcher)
        return download.fetch(
            shelf.proxy,
            target=self.target,
            description='Fetching image',
            **kwargs,
        )

    def half(self, stalled: threading.Event) -> faults.Action:
        """Give half of it; then say so to the test, and no more."""

        def end(exchange: faults.Exchange) -> None:
            stalled.set()
            exchange.hold()

        return acts.give(0.5, end)

    def refuse(self, kind: type[Exception], shelf: Any, **kwargs: Any) -> str:
        message = str(self.assertRaises(kind, self.fetch, shelf, **kwargs))
        self.assertFalse(self.target.exists())
        self.assertNotIn('\n', message)
        return message

    def assertSame(self, data: bytes) -> None:
        self.assertTrue(self.target.read_bytes() == data, 'other bytes')

    def assertFetched(
        self, found: download.Fetched, downloaded: int | None = None
    ) -> None:
        self.assertEqual(self.target, found.path)
        self.assertSame(self.data)
        self.assertEqual(len(self.data), found.size)
        if downloaded is not None:
            self.assertEqual(downloaded, found.downloaded)
        self.assertEqual(['web.img'], os.listdir(self.directory))

    def assertAgain(self, found: download.Fetched) -> None:
        """About half was fetched in vain: what a reset takes is chance."""
        self.assertFetched(found)
        self.assertLess(SIZE, found.downloaded)
        self.assertLess(found.downloaded, SIZE + 3 * MIB + 123)

    def written(self) -> int:
        """Tell how much of the target is no hole, in bytes.

        To XFS, all that was read is none; and it allocates blocks ahead.
        """
        with self.target.open('rb') as file:
            runs = sparse.data_in(file.fileno(), 0, len(self.data))
            return sum(stop - start for start, stop in runs)

    def parts(self) -> list[pathlib.Path]:
        return sorted(self.directory.glob('.web.img.*.part'))


class TestFetch(DownloadTest):
    def test_at_the_first_attempt(self) -> None:
        found = self.fetch(self.shelf())
        self.assertFetched(found, SIZE)
        assert found.digest
        self.assertEqual('sha512', found.digest.algorithm)
        self.assertEqual([('Fetching image', SIZE)], self.watcher.tasks)
        self.assertEqual(SIZE, self.watcher.done)

    def test_mode_follows_the_umask(self) -> None:
        self.addCleanup(os.umask, os.umask(0o027))
        modes: set[int] = set()
        advance = self.watcher.advance

        def look(amount: int) -> None:
            advance(amount)
            modes.update(stat.S_IMODE(p.stat().st_mode) for p in self.parts())

        self.watcher.advance = look  # type: ignore[method-assign]
        self.fetch(self.shelf())
        self.assertEqual({0o600}, modes)
        self.assertEqual(0o640, stat.S_IMODE(self.target.stat().st_mode))

    def test_zeros_become_holes(self) -> None:
        data = bytearray(40 * MIB + 5)
        data[5 * MIB + 10] = 1
        data[20 * MIB + 4095 : 20 * MIB + 4097] = b'xx'
        self.data = bytes(data)
        for script in ((), (acts.chunked,)):
            self.fetch(self.shelf(*script))
            self.assertLessEqual(self.written(), 3 * sparse.BLOCK)
            self.assertSame(self.data)
            self.target.unlink()

    def test_in_chunks(self) -> None:
        self.assertFetched(self.fetch(self.shelf(acts.chunked)), SIZE)

    def test_an_empty_image(self) -> None:
        self.data = b''
        self.assertFetched(self.fetch(self.shelf()), 0)

    def test_other_hashes(self) -> None:
        for name in ('sha256', 'blake2b', 'sha3_512'):
            value = hashlib.new(name, self.data).hexdigest()
            for good, hash_value in ((True, value), (False, '0' * 64)):
                shelf = self.shelf(os_hash_algo=name, os_hash_value=hash_value)
                if good:
                    self.assertFetched(self.fetch(shelf), SIZE)
                    self.target.unlink()
                else:
                    message = self.refuse(errors.TransferError, shelf)
                    self.assertIn(f'its {name} is {value[:16]}', message)

    def test_md5_only(self) -> None:
        for name in ('nosuch', 'shake_128', None):
            none = {'os_hash_algo': name, 'os_hash_value': None}
            self.assertFetched(self.fetch(self.shelf(**none)), SIZE)
            self.target.unlink()
            shelf = self.shelf(**none, checksum='0')
            self.assertIn('its md5', self.refuse(errors.AmiError, shelf))

    def test_no_hash_at_all(self) -> None:
        none = dict.fromkeys(('os_hash_algo', 'os_hash_value', 'checksum'))
        found = self.fetch(self.shelf(**none))
        self.assertFetched(found, SIZE)
        self.assertIsNone(found.digest)

    def test_not_active(self) -> None:
        for status in ('queued', 'saving', 'deactivated', 'deleted'):
            shelf = self.shelf(status=status)
            message = self.refuse(errors.CloudError, shelf)
            self.assertIn(f'is {status}, not active', message)
            self.assertEqual([], shelf.asked)
        self.assertEqual([], os.listdir(self.directory))


class TestThere(DownloadTest):
    """What is there already under the final name."""

    def test_the_same(self) -> None:
        self.target.write_bytes(self.data)
        shelf = self.shelf()
        self.assertFetched(self.fetch(shelf), 0)
        self.assertEqual([], shelf.asked)

    def test_another(self) -> None:
        for data in (b'', b'mine', flip(self.data)):
            self.target.write_bytes(data)
            shelf = self.shelf()
            error = self.assertRaises(errors.AmiError, self.fetch, shelf)
            self.assertIn('exists already, and is not the data', str(error))
            self.assertEqual([], shelf.asked)
            self.assertSame(data)

    def test_another_that_may_go(self) -> None:
        self.target.write_bytes(flip(self.data))
        self.assertFetched(self.fetch(self.shelf(), replace=True), SIZE)

    def test_a_link(self) -> None:
        other = self.tmp() / 'other'
        other.write_bytes(self.data)
        self.target.symlink_to(other)
        self.assertRaises(errors.AmiError, self.fetch, self.shelf())

    def test_a_link_in_place_of_the_part(self) -> None:
        victim = self.tmp() / 'victim'
        victim.write_bytes(b'precious')
        shelf = self.shelf()
        part = self.part(shelf, b'')
        part.unlink()
        part.symlink_to(victim)
        self.assertFetched(self.fetch(shelf), SIZE)
        self.assertEqual(b'precious', victim.read_bytes())

    def part(self, shelf: Any, data: bytes) -> pathlib.Path:
        digest = shelf.image['os_hash_value'][:16]
        path = self.directory / f'.web.img.{served.IMAGE}-{digest}.part'
        path.write_bytes(data)
        return path

    def test_a_part_of_it(self) -> None:
        shelf = self.shelf()
        self.part(shelf, self.data[: 5 * MIB + 1])
        self.assertFetched(self.fetch(shelf), SIZE - 5 * MIB)
        self.assertEqual([f'bytes={5 * MIB}-'], self.ranges(shelf))
        self.assertEqual(SIZE, self.watcher.done)

    def test_a_part_that_is_damaged(self) -> None:
        shelf = self.shelf()
        self.part(shelf, flip(self.data[: 5 * MIB]))
        self.assertFetched(self.fetch(shelf), SIZE - 5 * MIB + SIZE)
        self.assertEqual([f'bytes={5 * MIB}-', None], self.ranges(shelf))
        self.assertEqual(1, self.watcher.restarts)

    def test_a_part_that_is_too_long(self) -> None:
        shelf = self.shelf()
        self.part(shelf, self.data + bytes(8192))
        self.assertFetched(self.fetch(shelf), SIZE)

    def test_a_part_of_another_image(self) -> None:
        shelf = self.shelf()
        other = self.directory / f'.web.img.{"9" * 36}-0000.part'
        other.write_bytes(self.data[:MIB])
        self.fetch(shelf)
        self.assertEqual([None], self.ranges(shelf))
        self.assertTrue(other.exists())

    def test_a_part_without_a_hash(self) -> None:
        none = dict.fromkeys(('os_hash_algo', 'os_hash_value', 'checksum'))
        shelf = self.shelf(**none)
        path = self.directory / f'.web.img.{served.IMAGE}-{SIZE}.part'
        path.write_bytes(bytes(MIB))
        self.assertFetched(self.fetch(shelf), SIZE)
        self.assertEqual([None], self.ranges(shelf))

    def test_two_at_once(self) -> None:
        stalled = threading.Event()
        shelf = self.shelf(self.half(stalled))
        first = threading.Thread(target=lambda: self.fetch(shelf))
        first.start()
        self.assertTrue(stalled.wait(served.AGES))
        message = self.refuse(errors.AmiError, shelf)
        self.assertIn('is being downloaded by another process', message)
        shelf.way.over.set()
        first.join()
        self.assertSame(self.data)


class TestBreaks(DownloadTest):
    def test_broken_off(self) -> None:
        for until in (0.0, 0.01, 0.5, 0.99):
            for end in (acts.reset, acts.close):
                shelf = self.shelf(end(until))
                self.assertFetched(self.fetch(shelf), SIZE)
                self.assertEqual(2, len(shelf.asked))
                self.assertEqual(0, self.watcher.restarts)
                self.target.unlink()

    def test_stalled(self) -> None:
        patience = dataclasses.replace(QUICK, stall=0.3)
        for until in (0.0, 0.01, 0.5, 0.99):
            step = acts.stall(until)
            shelf = self.shelf(step)
            shelf.stalls_once('get')
            self.assertFetched(self.fetch(shelf, patience=patience), SIZE)
            self.assertEqual(2, len(shelf.asked))
            self.assertEqual(0, self.watcher.restarts)
            self.target.unlink()

    def test_broken_off_for_good(self) -> None:
        step = acts.reset(0.5)
        shelf = self.shelf(*[step] * 9)
        message = self.refuse(errors.TransferError, shelf)
        self.assertEqual(5, len(shelf.asked))
        self.assertIn('the connection broke after', message)
        self.assertIn('(tried 5 times in ', message)
        (part,) = self.parts()
        there = part.stat().st_size
        self.assertIn(f'after {there} of {SIZE} bytes', message)
        self.assertIn('; check the network', message)
        self.assertEqual(0o600, stat.S_IMODE(part.stat().st_mode))
        shelf.way.clear()
        self.assertFetched(self.fetch(shelf), SIZE - there // 4096 * 4096)

    def test_the_store_has_less(self) -> None:
        def cut(exchange: faults.Exchange) -> None:
            answer = exchange.ask()
            size = len(answer.body)
            acts.begin(exchange, answer, Content_Length=str(size))
            exchange.wfile.write(self.data[SIZE - size : 2 * MIB])
            exchange.close_connection = True

        shelf = self.shelf(*[cut] * 9)
        message = self.refuse(errors.TransferError, shelf)
        self.assertIn(f'{2 * MIB} of {SIZE} bytes', message)
        self.assertIn('the store probably does not have the rest', message)
        self.assertNotIn('network', message)
        # Once is no time.
        alone = retry.Patience(attempts=1)
        message = self.refuse(
            errors.TransferError, self.shelf(cut), patience=alone
        )
        self.assertIn('; check the network', message)

    def test_broken_off_again_and_again(self) -> None:
        """Attempts that get far are not counted."""
        step = acts.close(0.2)
        shelf = self.shelf(*[step] * 9)
        self.patch(receive, '_STRIDE', MIB // 2)
        self.assertFetched(self.fetch(shelf), SIZE)
        self.assertEqual(10, len(shelf.asked))

    def test_no_ranges(self) -> None:
        broken = acts.close(0.5)
        for status in (400, 416, 501):
            shelf = self.shelf(broken, actions.answer(status, 'no ranges'))
            self.assertAgain(self.fetch(shelf))
            self.assertIsNone(self.ranges(shelf)[-1])
            self.assertEqual(3, len(shelf.asked))
            self.target.unlink()

    def test_ranges_ignored(self) -> None:
        broken = acts.close(0.5)
        shelf = self.shelf(broken, acts.no_range)
        self.assertAgain(self.fetch(shelf))
        self.assertEqual(1, self.watcher.restarts)

    def test_another_range(self) -> None:
        def other(exchange: faults.Exchange) -> None:
            exchange.say(exchange.ask(Range='bytes=7-'))

        broken = acts.close(0.5)
        shelf = self.shelf(broken, other)
        self.assertAgain(self.fetch(shelf))

    def test_transient_answers(self) -> None:
        for status in (408, 429, 500, 502, 503, 504):
            shelf = self.shelf(actions.answer(status, 'not now'))
            self.assertFetched(self.fetch(shelf), SIZE)
            self.target.unlink()

    def test_retry_after(self) -> None:
        shelf = self.shelf(actions.answer(503, Retry_After='1'))
        begin = time.monotonic()
        self.fetch(shelf)
        self.assertGreaterEqual(time.monotonic() - begin, 1)

    def test_transient_answers_for_good(self) -> None:
        shelf = self.shelf(*[actions.answer(503, '<p>not now</p>')] * 9)
        message = self.refuse(errors.CloudError, shelf)
        self.assertIn('not now (HTTP 503) (tried 5 times in ', message)
        self.assertEqual([], os.listdir(self.directory))

    def test_gone(self) -> None:
        broken = acts.close(0.5)
        for status in (404, 410):
            shelf = self.shelf(broken, actions.answer(status, 'No image'))
            message = self.refuse(errors.NotFoundError, shelf)
            self.assertIn(f'No image (HTTP {status})', message)
            self.assertEqual([], os.listdir(self.directory))

    def test_refused(self) -> None:
        for status in (400, 401, 403):
            shelf = self.shelf(*[actions.answer(status, 'no')] * 3)
            self.refuse(errors.CloudError, shelf)
            self.assertEqual(1, len(shelf.asked))
        self.assertEqual([], os.listdir(self.directory))

    def test_token_expired(self) -> None:
        broken = acts.reset(0.5)
        shelf = self.shelf(broken, actions.answer(401, 'expired'))
        shelf.proxy = shelf.authenticated()
        self.assertFetched(self.fetch(shelf), SIZE)
        self.assertEqual(3, len(shelf.asked))

    def test_less_than_there_is(self) -> None:
        """A proxy that cuts it short, and says that this is all."""

        def cut(exchange: faults.Exchange) -> None:
            answer = exchange.ask()
            answer.body = answer.body[:MIB]
            exchange.say(answer)

        shelf = self.shelf(*[cut] * 9)
        message = self.refuse(errors.TransferError, shelf)
        self.assertIn(f'the cloud sent {MIB} bytes, not {SIZE}', message)
        self.assertEqual([], os.listdir(self.directory))

    def test_more_than_there_is(self) -> None:
        record = self.shelf().record
        self.data += b'x' * 3 * MIB
        for step in (acts.no_range, acts.chunked):
            shelf = self.shelf(*[step] * 9)
            self.refuse(errors.TransferError, shelf, record=record)
            self.assertEqual([], os.listdir(self.directory))

    def test_something_else(self) -> None:
        """A text instead of data, which says that all is well."""
        step = actions.answer(200, '<html>Log in first</html>')
        shelf = self.shelf(*[step] * 9)
        message = self.refuse(errors.TransferError, shelf)
        self.assertIn('the cloud sent 25 bytes', message)

    def test_nothing(self) -> None:
        shelf = self.shelf(*[actions.answer(204)] * 9)
        message = self.refuse(errors.TransferError, shelf)
        self.assertIn('no data (HTTP 204)', message)

    def test_altered_once(self) -> None:
        shelf = self.shelf(acts.alter)
        self.assertFetched(self.fetch(shelf), 2 * SIZE)
        self.assertEqual(1, self.watcher.restarts)

    def test_altered(self) -> None:
        shelf = self.shelf(*[acts.alter] * 9)
        message = self.refuse(errors.TransferError, shelf)
        self.assertIn('is not that of image', message)
        self.assertEqual(2, len(shelf.asked))
        self.assertEqual([], os.listdir(self.directory))

    def test_cancelled(self) -> None:
        cancel, stalled = threading.Event(), threading.Event()
        shelf = self.shelf(self.half(stalled))

        def watch() -> None:
            stalled.wait(served.AGES)
            # What came before is to be taken first.
            while self.watcher.done < 2 * MIB:
                time.sleep(0.01)
            cancel.set()

        thread = threading.Thread(target=watch)
        thread.start()
        self.addCleanup(thread.join)
        begin = time.monotonic()
        self.refuse(
            errors.CancelledError,
            shelf,
            cancel=cancel,
            patience=retry.Patience(),
        )
        self.assertLess(time.monotonic() - begin, 50)
        self.assertEqual(1, len(self.parts()))

    def test_interrupted(self) -> None:
        def interrupt(amount: int) -> None:
            raise KeyboardInterrupt

        self.watcher.advance = interrupt  # type: ignore[method-assign]
        self.assertRaises(KeyboardInterrupt, self.fetch, self.shelf())
        self.assertFalse(self.target.exists())


class TestDirectory(DownloadTest):
    def test_missing(self) -> None:
        self.target = self.directory / 'nosuch' / 'web.img'
        message = self.refuse(errors.AmiError, self.shelf())
        self.assertIn('nosuch: no such directory', message)

    def test_long_names(self) -> None:
        self.target = self.directory / ('ä' * 125)
        self.fetch(self.shelf())
        self.assertSame(self.data)

    def test_records_stay(self) -> None:
        shelf = self.shelf()
        record = dataclasses.replace(shelf.record, size=None)
        message = self.refuse(errors.CloudError, shelf, record=record)
        self.assertIn('does not have its size', message)
