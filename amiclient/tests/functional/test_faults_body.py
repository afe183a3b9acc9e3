# SPDX-License-Identifier: Apache-2.0

"""The network breaks while data is on its way."""

import time

from amiclient.tests.faults import actions as acts
from amiclient.tests.functional import faulty


class TestReset(faulty.FaultCase):
    """Connections are reset, and the data is sent again."""

    def test_anywhere(self) -> None:
        """Before the first byte, at 1 %, 50 % and 99 %, one after another.

        It is the same image each time.
        """
        for kind in self.uploads():
            self.disturb(
                kind,
                acts.reset(0),
                acts.reset(0.01),
                acts.reset(0.5),
                acts.reset(0.99),
            )
            self.succeed(kind, *faulty.QUICK)
            puts = [s.path for s in self.glance.seen if s.method == 'PUT']
            repeated = [p for p in set(puts) if puts.count(p) == 5]
            self.assertEqual(1, len(repeated), puts)

    def test_after(self) -> None:
        """Glance has all of it, and only its answer was lost."""
        self.survives(acts.lose, attempts=1)

    def test_for_good(self) -> None:
        self.fails(
            acts.reset(0.5),
            text='(tried 2 times in ',
            words=('--retries', 1, '--timeout', 5),
            check=lambda kind: self.assertEqual(
                4 if kind == 'image' else 2, self.glance.count(**faulty.DATA)
            ),
        )

    def test_a_part_of_a_triple(self) -> None:
        """A kernel that cannot be sent ends the upload of all three."""
        for kind in ('kernel', 'ramdisk'):
            self.disturb(kind, acts.reset(0.5), times=None)
            line = self.refuse('image', '--retries', 0)
            self.assertIn('failed: no connection to', line)
            self.glance.clear()


class TestHalfClosed(faulty.FaultCase):
    """The other side says that it will say no more, but goes on reading."""

    def test_before(self) -> None:
        self.survives(acts.half_close(0), attempts=1)

    def test_half_way(self) -> None:
        self.survives(acts.half_close(0.5), attempts=1)


class TestStall(faulty.FaultCase):
    """Nothing moves any more."""

    def test_while_sending(self) -> None:
        self.survives(acts.stall(0.1), attempts=2, words=('--timeout', 3))

    def test_for_good(self) -> None:
        for kind in self.commands:
            begin = time.monotonic()
            self.fails(
                acts.stall(0.1),
                text='timed out after',
                words=('--timeout', '0.5', '--retries', 0),
                kinds=(kind,),
            )
            # Unless it is told, it waits for a minute.
            self.assertLess(time.monotonic() - begin, 55)

    def test_no_answer(self) -> None:
        """All is taken, nothing is passed on, and nothing is said."""
        self.fails(
            acts.silence,
            text='timed out after',
            words=('--timeout', '0.2', '--retries', 0),
        )

    def test_waits_as_long_as_it_is_told(self) -> None:
        self.disturb('kernel', acts.stall(0.1), times=None)
        begin = time.monotonic()
        line = self.refuse('kernel', '--timeout', 2, '--retries', 0)
        self.assertGreater(time.monotonic() - begin, 2)
        self.assertIn('--timeout waits longer', line)


class TestGone(faulty.FaultCase):
    """The image service goes away, and does not come back."""

    def test_half_way(self) -> None:
        self.hurry(2.5)
        for kind in self.commands:
            proxy = self.useFixture(faulty.faults.Proxy(self.cloud.image_url))
            self.route(auth_url=self.keystone.url + '/v3', image_url=proxy.url)
            size = self.files[kind].stat().st_size
            proxy.rule(acts.leave(0.5), **faulty.DATA, length=size)
            begin = time.monotonic()
            finished = self.run_openstack(*self.commands[kind], '--timeout', 1)
            self.assertLess(time.monotonic() - begin, 55)
            self.assertEqual(1, finished.status, finished)
            self.assertNotIn('Traceback', finished.stderr)
            self.assertIn('Connection refused', finished.stderr)
            self.remove_as_told(finished.stderr)

    def test_stalled_for_good(self) -> None:
        """Nothing answers, not even while undoing, which is not for long."""
        self.hurry(2.5)
        for kind in self.uploads():
            size = self.files[kind].stat().st_size
            self.glance.rule(self.stall_all, **faulty.DATA, length=size)
            begin = time.monotonic()
            finished = self.run_openstack(
                *self.commands[kind], '--timeout', '0.5', '--retries', 1
            )
            self.assertLess(time.monotonic() - begin, 55)
            self.assertEqual(1, finished.status, finished)
            self.assertNotIn('Traceback', finished.stderr)
            self.assertIn('timed out', finished.stderr)
            self.remove_as_told(finished.stderr)

    def stall_all(self, exchange: faulty.faults.Exchange) -> None:
        self.glance.rule(lambda e: e.hold(), times=None)
        exchange.hold()
