# SPDX-License-Identifier: Apache-2.0

"""When to try again, and when to stop."""

import dataclasses
import threading
import time

import fixtures

from amiclient.errors import CancelledError
from amiclient.errors import CloudError
from amiclient.errors import NotFoundError
from amiclient.errors import TransferError
from amiclient.glance import retry
from amiclient.tests import base

QUICK = retry.Patience(attempts=3, backoff=0.001)


class Work:
    """Something that fails some times, and then returns the number."""

    def __init__(self, *errors: CloudError) -> None:
        self.errors = list(errors)
        self.attempts: list[int] = []

    def __call__(self, attempt: int) -> int:
        self.attempts.append(attempt)
        if self.errors:
            raise self.errors.pop(0)
        return attempt


def passing(again: float = 0.0) -> CloudError:
    return TransferError('it failed', hint='wait', status=503, again=again)


class TestCall(base.TestCase):
    def test_until_it_succeeds(self) -> None:
        work = Work(passing(), passing())
        self.assertEqual(3, retry.call(work, patience=QUICK))
        self.assertEqual([1, 2, 3], work.attempts)

    def test_given_up_in_the_end(self) -> None:
        work = Work(*(passing() for _ in range(9)))
        error = self.assertRaises(
            TransferError, retry.call, work, patience=QUICK
        )
        self.assertRegex(
            str(error), r'^it failed \(tried 3 times in \d s\); wait$'
        )
        self.assertEqual(503, error.status)
        # Whoever calls this in a loop must not begin again.
        self.assertIsNone(error.again)
        self.assertEqual([1, 2, 3], work.attempts)

    def test_waits_are_told(self) -> None:
        for aloud, level in ((True, 'WARNING'), (False, 'INFO')):
            patience = dataclasses.replace(QUICK, aloud=aloud)
            with fixtures.FakeLogger(
                format='%(levelname)s %(message)s'
            ) as log:
                retry.call(Work(passing(again=0.1)), patience=patience)
            self.assertEqual(
                f'{level} it failed; trying again in 0 s, attempt 2 of 3\n',
                log.output,
            )

    def test_what_will_not_pass(self) -> None:
        error = NotFoundError('gone', status=404)
        work = Work(error)
        raised = self.assertRaises(
            NotFoundError, retry.call, work, patience=QUICK
        )
        self.assertIs(error, raised)
        self.assertEqual([1], work.attempts)

    def test_a_single_attempt_is_not_counted(self) -> None:
        patience = retry.Patience(attempts=1)
        error = self.assertRaises(
            CloudError,
            retry.call,
            Work(passing()),
            patience=patience,
        )
        self.assertEqual('it failed; wait', str(error))

    def test_not_past_the_deadline(self) -> None:
        work = Work(passing(again=50))
        begin = time.monotonic()
        self.assertRaises(
            CloudError,
            retry.call,
            work,
            patience=QUICK,
            clock=retry.Clock(seconds=5),
        )
        self.assertEqual([1], work.attempts)
        self.assertLess(time.monotonic() - begin, 20)

    def test_cancelled(self) -> None:
        cancel = threading.Event()
        threading.Timer(0.05, cancel.set).start()
        begin = time.monotonic()
        self.assertRaises(
            CancelledError,
            retry.call,
            Work(passing(again=60)),
            patience=QUICK,
            clock=retry.Clock(cancel=cancel),
        )
        self.assertLess(time.monotonic() - begin, 20)


class TestPatience(base.TestCase):
    def test_delays_double_and_vary(self) -> None:
        patience = retry.Patience()
        for attempt, most in ((1, 1), (2, 2), (3, 4), (4, 8), (99, 30)):
            delays = {patience.delay(attempt) for _ in range(50)}
            self.assertGreater(len(delays), 1)
            self.assertLessEqual(max(delays), most)
            self.assertGreaterEqual(min(delays), most / 2)

    def test_what_the_cloud_asks_for(self) -> None:
        patience = retry.Patience()
        self.assertEqual(50, patience.delay(1, 50))
        self.assertEqual(120, patience.delay(1, 3600))

    def test_what_the_user_asks_for(self) -> None:
        self.assertEqual(retry.Patience(), retry.Patience.of())
        patience = retry.Patience.of(retries=0, timeout=2)
        self.assertEqual(1, patience.attempts)
        self.assertEqual(2, patience.stall)
        self.assertEqual(30, patience.answer)
        self.assertEqual((5, 7), (patience.reply, patience.undo))
        self.assertEqual(0.1, patience.backoff)
        longer = retry.Patience.of(timeout=600)
        self.assertEqual((60, 1), (longer.undo, longer.backoff))


class TestRetryAfter(base.TestCase):
    def test_every_form(self) -> None:
        self.patch(time, 'time', lambda: 946684739.5)
        for text, seconds in (
            ('120', 120),
            ('Sat, 01 Jan 2000 00:00:00 GMT', 60.5),
            ('Fri, 31 Dec 1999 23:58:59 GMT', 0),
            ('soon', 0),
            ('-1', 0),
            ('\u0661', 0),
            ('', 0),
        ):
            found = retry.retry_after({'Retry-After': text})
            self.assertEqual(seconds, found, text)
        self.assertEqual(0, retry.retry_after({}))
