# SPDX-License-Identifier: Apache-2.0

"""Data that goes from one cloud to another, over real sockets."""

import threading
from typing import Any

from amiclient import errors
from amiclient.glance import model
from amiclient.glance.transfer import relay
from amiclient.glance.transfer import upload
from amiclient.tests import base
from amiclient.tests.faults import actions
from amiclient.tests.faults import downloads as acts
from amiclient.tests.faults import proxy as faults
from amiclient.tests.unit.glance import served
from amiclient.tests.unit.glance import uploads

SIZE = uploads.SIZE


class TestRelay(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.data = self.random.randbytes(SIZE)
        self.there = self.useFixture(served.Served())
        self.watcher = uploads.Watcher()

    def here(self, *script: faults.Action, **changes: Any) -> Any:
        return self.useFixture(
            served.Served(*script, data=self.data, **changes)
        )

    def send(
        self, here: Any, cancel: threading.Event | None = None
    ) -> model.Sent:
        source = relay.Relay(here.proxy, here.record, uploads.QUICK, cancel)
        transfer = upload.Transfer(
            proxy=self.there.proxy,
            image_id=served.IMAGE,
            payload=source,
            description='Copying',
            progress=self.watcher,
            patience=uploads.QUICK,
            cancel=cancel,
        )
        return upload.send(transfer)

    def assertSent(self, here: Any, ranges: int = 0, asked: int = 1) -> None:
        """It is there, and so much was asked for."""
        sent = self.send(here)
        self.assertTrue(self.there.data == self.data, 'other bytes')
        self.assertEqual(sent.sha512, here.record.hash_value)
        self.assertEqual(SIZE, sent.uploaded)
        self.assertEqual([('Copying', SIZE)], self.watcher.tasks)
        self.assertEqual(SIZE, self.watcher.done)
        self.assertEqual(asked, len(here.asked))
        self.assertEqual(
            ranges, sum('Range' in headers for headers in here.asked)
        )
        # The other was sent all of it in one request.
        self.assertEqual(1, len(self.there.asked))

    def test_at_once(self) -> None:
        self.assertSent(self.here())

    def test_an_empty_one(self) -> None:
        self.data = b''
        here = self.here()
        self.assertEqual(0, self.send(here).uploaded)
        self.assertEqual(b'', self.there.data)

    def test_breaks(self) -> None:
        """The rest comes by range, and the other notices nothing."""
        self.assertSent(self.here(acts.reset(0.5), acts.close(0.5)), 2, 3)

    def test_breaks_without_ranges(self) -> None:
        """What was given already is fetched once more, and dropped."""
        here = self.here(acts.close(0.5), acts.close(0.25), acts.close(0.75))
        here.glance.ranges = False
        self.assertSent(here, 3, 4)

    def test_ranges_are_refused(self) -> None:
        self.assertSent(
            self.here(acts.close(0.5), actions.answer(416), acts.close(0.2)),
            1,
            4,
        )

    def test_the_other_breaks(self) -> None:
        """All of it is fetched once more."""
        here = self.here()
        self.there.way.rule(actions.reset(0.5), method='PUT', path='/file$')
        self.send(here)
        self.assertTrue(self.there.data == self.data, 'other bytes')
        self.assertEqual(2, len(here.asked))
        self.assertEqual(1, self.watcher.restarts)

    def test_what_is_not_right_is_not_complete(self) -> None:
        """The other is never given the last of it, so it has nothing."""
        for here in (
            self.here(acts.alter),
            self.here(os_hash_algo='sha256', os_hash_value='0' * 64),
        ):
            error = self.assertRaises(errors.TransferError, self.send, here)
            self.assertIn('is not that of image', str(error))
            self.assertEqual('queued', self.there.image['status'])
            self.assertEqual(1, len(here.asked))

    def test_gone(self) -> None:
        here = self.here(*[actions.answer(404)] * 2)
        self.assertRaises(errors.NotFoundError, self.send, here)
        self.assertEqual('queued', self.there.image['status'])

    def test_cancelled(self) -> None:
        cancel = threading.Event()

        def end(exchange: faults.Exchange) -> None:
            cancel.set()
            exchange.hold()

        here = self.here(acts.give(0.5, end))
        self.assertRaises(errors.CancelledError, self.send, here, cancel)
