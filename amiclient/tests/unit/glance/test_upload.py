# SPDX-License-Identifier: Apache-2.0

"""Uploads over a real socket, and what is made of the outcome."""

from collections.abc import Callable
import dataclasses
import hashlib
import pathlib
import threading
import time
from typing import Any

import fixtures

from amiclient import errors
from amiclient.glance import model
from amiclient.glance import retry
from amiclient.glance.transfer import image_data
from amiclient.glance.transfer import upload
from amiclient import progress
from amiclient.tests import base
from amiclient.tests.faults import actions as acts
from amiclient.tests.faults import proxy as faults
from amiclient.tests.unit.glance import served
from amiclient.tests.unit.glance import uploads


class SendTest(uploads.UploadTest):
    def test_at_the_first_attempt(self) -> None:
        glance = self.glance()
        sent = self.send(glance)
        self.assertStored(glance, sent)
        self.assertEqual(uploads.SIZE, sent.uploaded)
        (headers,) = glance.asked
        self.assertEqual('application/octet-stream', headers['Content-Type'])
        self.assertEqual(str(uploads.SIZE), headers['Content-Length'])
        self.assertEqual(str(uploads.SIZE), headers['X-OpenStack-Image-Size'])
        self.assertNotIn('Transfer-Encoding', headers)
        self.assertNotIn('X-Image-Meta-Store', headers)
        self.assertEqual([('Sending image', uploads.SIZE)], self.watcher.tasks)
        self.assertEqual(uploads.SIZE, self.watcher.done)
        self.assertEqual(0, self.watcher.restarts)

    def test_to_a_store(self) -> None:
        glance = self.glance()
        self.send(glance, store='fast')
        self.assertEqual('fast', glance.asked[0]['X-Image-Meta-Store'])

    def test_part_of_the_file_with_a_blank_beginning(self) -> None:
        glance = self.glance()
        payload = model.Payload(self.path, uploads.MIB, blank=1024)
        sent = self.send(glance, payload=payload)
        expected = bytes(1024) + self.data[1024 : uploads.MIB]
        self.assertTrue(glance.data == expected, 'other data was stored')
        self.assertEqual(hashlib.sha512(expected).hexdigest(), sent.sha512)
        self.assertEqual(uploads.MIB, sent.uploaded)

    def test_nothing_at_all(self) -> None:
        glance = self.glance()
        sent = self.send(glance, payload=model.Payload(self.path, 0))
        self.assertEqual(0, sent.record.size)
        self.assertEqual('0', glance.asked[0]['Content-Length'])

    def test_still_saving_at_first(self) -> None:
        glance = self.glance()
        glance.glance.passing = ['saving', 'saving', 'active']
        self.assertStored(glance, self.send(glance))

    def test_still_saving_for_ever(self) -> None:
        glance = self.glance(status='saving')
        patience = dataclasses.replace(uploads.QUICK, settle=0.5)
        message = self.fail(errors.TransferError, glance, patience=patience)
        self.assertIn('was still saving after 0.5 s', message)

    def test_other_data_stored(self) -> None:
        glance = self.glance(os_hash_value='0' * 128)
        message = self.fail(errors.TransferError, glance)
        self.assertIn('does not hold what was sent: its sha512 is 0', message)

    def test_less_data_stored(self) -> None:
        glance = self.glance(size=5)
        message = self.fail(errors.TransferError, glance)
        self.assertEqual(
            f'image {served.IMAGE} holds 5 bytes, {uploads.SIZE} were sent',
            message,
        )

    def test_other_hashes(self) -> None:
        for name in ('sha256', 'blake2b', 'sha3_512'):
            value = hashlib.new(name, self.data).hexdigest()
            glance = self.glance(os_hash_algo=name, os_hash_value=value)
            self.assertStored(glance, self.send(glance))
            glance = self.glance(os_hash_algo=name, os_hash_value='0')
            self.fail(errors.TransferError, glance)

    def test_md5_only(self) -> None:
        for name in ('nosuch', None):
            none = {'os_hash_algo': name, 'os_hash_value': None}
            glance = self.glance(**none)
            self.assertStored(glance, self.send(glance))
            glance = self.glance(**none, checksum='0')
            message = self.fail(errors.TransferError, glance)
            self.assertIn('its md5 is 0', message)

    def test_no_hash_at_all(self) -> None:
        glance = self.glance(
            os_hash_algo=None, os_hash_value=None, checksum=None
        )
        self.assertStored(glance, self.send(glance))

    def changed_meanwhile(self, change: Callable[[], object]) -> str:
        """Change the file once some of it was sent; tell what is said."""
        glance = self.glance()
        size = 8 * uploads.MIB
        self.path.write_bytes(self.random.randbytes(size))
        changes = iter([change])

        def advance(amount: int) -> None:
            # Nobody who writes to the file has to wait.
            next(changes, lambda: None)()

        self.watcher.advance = advance  # type: ignore[method-assign]
        return self.fail(
            errors.TransferError,
            glance,
            payload=model.Payload(self.path, size),
        )

    def test_file_truncated_meanwhile(self) -> None:
        message = self.changed_meanwhile(lambda: self.path.write_bytes(b''))
        self.assertIn(f'{self.path} was truncated to', message)

    def test_file_changed_meanwhile(self) -> None:
        def write() -> None:
            with self.path.open('r+b') as file:
                file.write(b'x')

        message = self.changed_meanwhile(write)
        self.assertIn(f'{self.path} was changed while it was read', message)

    def test_file_missing(self) -> None:
        glance = self.glance()
        payload = model.Payload(pathlib.Path('/nosuch'), 1)
        message = self.fail(errors.SourceError, glance, payload=payload)
        self.assertIn('/nosuch cannot be opened', message)

    def cancelled(self, share: float) -> float:
        """Cancel once the server stalls; tell how long it takes to stop.

        :param share: how much of the data it has read by then.
        """
        cancel, stalled = threading.Event(), threading.Event()
        begin: list[float] = []

        def stall(exchange: faults.Exchange) -> None:
            exchange.read(int(exchange.length * share))
            stalled.set()
            exchange.hold()

        def watch() -> None:
            stalled.wait(served.AGES)
            begin.append(time.monotonic())
            cancel.set()

        thread = threading.Thread(target=watch)
        thread.start()
        self.addCleanup(thread.join)
        self.useFixture(_Grace(0.1))
        self.fail(
            errors.CancelledError,
            self.glance(stall),
            cancel=cancel,
            patience=retry.Patience(),
        )
        return time.monotonic() - begin[0]

    def test_cancelled_while_the_network_hangs(self) -> None:
        self.assertLess(self.cancelled(0.001), 50)

    def test_cancelled_while_waiting_for_the_answer(self) -> None:
        self.assertLess(self.cancelled(1), 50)

    def test_cancelled_between_attempts(self) -> None:
        cancel = threading.Event()
        glance = self.glance(*[acts.answer(503)] * 9)
        threading.Timer(0.3, cancel.set).start()
        begin = time.monotonic()
        self.fail(
            errors.CancelledError,
            glance,
            cancel=cancel,
            patience=retry.Patience(backoff=120, longest=120),
        )
        self.assertLess(time.monotonic() - begin, 50)

    def test_interrupted(self) -> None:
        glance = self.glance()

        def interrupt(amount: int) -> None:
            raise KeyboardInterrupt

        self.watcher.advance = interrupt  # type: ignore[method-assign]
        self.useFixture(_Grace(served.AGES))
        self.assertRaises(KeyboardInterrupt, self.send, glance)
        self.assertEqual([], uploads.senders())
        self.assertEqual('queued', glance.image['status'])


class _Grace(fixtures.MockPatchObject):
    """Other patience with a sender that is to stop."""

    def __init__(self, seconds: float) -> None:
        super().__init__(upload, '_GRACE', seconds)


class BodyTest(base.TestCase):
    def test_iterated_only_once(self) -> None:
        """keystoneauth must not send a second time what is gone."""
        path = self.tmp() / 'image'
        path.write_bytes(b'x')
        once = upload.Body(model.Payload(path, 1))
        self.assertEqual([b'x'], [bytes(chunk) for chunk in once])
        self.assertRaises(errors.TransferError, list, once)


class DigestTest(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.path = self.tmp() / 'image'
        self.path.write_bytes(b'x' * uploads.MIB)
        self.payload = model.Payload(self.path, uploads.MIB, blank=10)
        self.expected = hashlib.sha512(bytes(10) + b'x' * (uploads.MIB - 10))

    def digest(self, **kwargs: Any) -> str:
        return image_data.digest(self.payload, 'Hashing', **kwargs)

    def test_what_would_be_sent(self) -> None:
        watcher = uploads.Watcher()
        self.assertEqual(
            self.expected.hexdigest(), self.digest(progress=watcher)
        )
        self.assertEqual([('Hashing', uploads.MIB)], watcher.tasks)
        self.assertEqual(uploads.MIB, watcher.done)

    def test_cancelled(self) -> None:
        cancel = threading.Event()
        cancel.set()
        self.assertRaises(
            errors.CancelledError,
            self.digest,
            progress=progress.Quiet(),
            cancel=cancel,
        )
