# SPDX-License-Identifier: Apache-2.0


import os
import signal
import sys
import threading

import fixtures

from amiclient import interrupts
from amiclient.tests import base


class TestRaised(base.TestCase):
    def test_each_signal_is_raised_with_its_status(self):
        for number, status in (
            (signal.SIGINT, 130),
            (signal.SIGTERM, 143),
            (signal.SIGHUP, 129),
        ):
            with interrupts.raised():
                error = self.assertRaises(
                    interrupts.Interrupted, signal.raise_signal, number
                )
            self.assertEqual(status, error.status)

    def test_handlers_are_put_back(self):
        before = [signal.getsignal(n) for n in interrupts._SIGNALS]
        with interrupts.raised():
            self.assertNotEqual(before[0], signal.getsignal(signal.SIGINT))
        after = [signal.getsignal(n) for n in interrupts._SIGNALS]
        self.assertEqual(before, after)

    def test_only_the_first_is_raised(self):
        again = []
        with interrupts.raised(again=lambda: again.append(1)):
            self.assertRaises(
                interrupts.Interrupted, signal.raise_signal, signal.SIGINT
            )
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
        self.assertEqual([1, 1], again)

    def test_what_is_ignored_stays_ignored(self):
        # As `nohup` does it.
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self.addCleanup(signal.signal, signal.SIGHUP, before)
        with interrupts.raised():
            os.kill(os.getpid(), signal.SIGHUP)
        self.assertEqual(signal.SIG_IGN, signal.getsignal(signal.SIGHUP))

    def test_another_thread_does_without(self):
        done = []

        def work():
            with interrupts.raised(), interrupts.ignored():
                done.append(1)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        self.assertEqual([1], done)

    def test_a_wait_for_a_thread_is_interrupted(self):
        forever = threading.Event()
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM))

        def wait():
            timer.start()
            forever.wait(60)

        with interrupts.raised():
            self.assertRaises(interrupts.Interrupted, wait)


class _Dying:
    """Has a signal come where Python drops what is raised."""

    def __del__(self):
        signal.raise_signal(signal.SIGTERM)


class TestLost(base.TestCase):
    def setUp(self):
        super().setUp()
        self.said = self.useFixture(fixtures.StringStream('stderr')).stream
        self.useFixture(fixtures.MonkeyPatch('sys.stderr', self.said))
        self.hook = sys.unraisablehook

    def lose(self):
        _Dying()

    def assertSilent(self):
        self.said.seek(0)
        self.assertEqual('', self.said.read())
        self.assertIs(self.hook, sys.unraisablehook)

    def test_raised_later(self):
        forever = threading.Event()

        def work():
            self.lose()
            self.assertFalse(forever.wait(60))

        with interrupts.raised():
            error = self.assertRaises(interrupts.Interrupted, work)
            self.assertEqual(143, error.status)
            # And is lost as often as Python likes, but then the first counts.
            self.lose()
        self.assertSilent()

    def test_lost_more_than_once(self):
        lost = []

        def work():
            for _ in range(3):
                self.lose()
                lost.append(1)
            threading.Event().wait(60)

        with interrupts.raised():
            self.assertRaises(interrupts.Interrupted, work)
        self.assertEqual(3, len(lost))
        self.assertSilent()

    def test_at_the_very_end(self):
        """There is nothing left to be interrupted."""
        with interrupts.raised():
            self.patch(interrupts, '_LATER', 60)
            self.lose()
        self.assertSilent()

    def test_what_else_cannot_be_raised(self):
        seen = []
        self.patch(sys, 'unraisablehook', seen.append)

        class Wrong:
            def __del__(self):
                raise ValueError

        with interrupts.raised():
            Wrong()
        self.assertEqual([ValueError], [each.exc_type for each in seen])


class TestIgnored(base.TestCase):
    def test_nothing_gets_in_the_way(self):
        with interrupts.raised(), interrupts.ignored():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)

    def test_the_user_is_told(self):
        again = []
        with interrupts.raised(again=lambda: again.append(1)):
            with interrupts.ignored():
                signal.raise_signal(signal.SIGINT)
        self.assertEqual([1], again)
        with interrupts.ignored():
            signal.raise_signal(signal.SIGINT)
        self.assertEqual([1], again)

    def test_afterwards_signals_count_again(self):
        with interrupts.raised():
            with interrupts.ignored():
                signal.raise_signal(signal.SIGINT)
            self.assertRaises(
                interrupts.Interrupted, signal.raise_signal, signal.SIGINT
            )


class TestHeld(base.TestCase):
    def test_takes_effect_afterwards(self):
        done = []

        def work():
            with interrupts.held():
                signal.raise_signal(signal.SIGTERM)
                done.append('inside')
            done.append('outside')

        with interrupts.raised():
            error = self.assertRaises(interrupts.Interrupted, work)
        self.assertEqual(143, error.status)
        self.assertEqual(['inside'], done)

    def test_only_once(self):
        again = []

        def work():
            with interrupts.held():
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    signal.raise_signal(number)

        with interrupts.raised(again=lambda: again.append(1)):
            error = self.assertRaises(interrupts.Interrupted, work)
            self.assertEqual(130, error.status)
            # Each but the first was told that it has to wait.
            self.assertEqual([1] * 2, again)
            # Now that cleaning is under way.
            work()
        self.assertEqual([1] * 5, again)

    def test_one_in_another(self):
        done = []

        def work():
            with interrupts.held():
                with interrupts.held():
                    signal.raise_signal(signal.SIGINT)
                done.append(1)

        with interrupts.raised():
            self.assertRaises(interrupts.Interrupted, work)
        self.assertEqual([1], done)

    def test_without_a_signal(self):
        before = [signal.getsignal(n) for n in interrupts._SIGNALS]
        with interrupts.held():
            pass
        after = [signal.getsignal(n) for n in interrupts._SIGNALS]
        self.assertEqual(before, after)
