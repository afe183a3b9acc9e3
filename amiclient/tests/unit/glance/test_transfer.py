#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.

"""Uploads over a real socket, to a Glance that fails in every way."""

import hashlib
import pathlib
import threading
import time
from typing import Any

import fixtures

from amiclient import exceptions
from amiclient.glance import body
from amiclient.glance import model
from amiclient.glance import transfer
from amiclient import progress
from amiclient.tests import base
from amiclient.tests.unit.glance import stub

MIB = 1 << 20

#: More than the socket buffers of both sides hold.
SIZE = 12 * MIB + 123

QUICK = transfer.Patience(
    stall=0.5,
    answer=5,
    settle=0.5,
    away=0.2,
    poll=0.01,
    backoff=0.01,
    longest=0.05,
)

FULL = b"""<html>
 <head>
  <title>413 Request Entity Too Large</title>
 </head>
 <body>
  <h1>413 Request Entity Too Large</h1>
  Image storage media is full: There is not enough disk space &amp; so on.
  <br /><br />
 </body>
</html>"""


class Watcher:
    """A progress that remembers what it was told."""

    def __init__(self) -> None:
        self.tasks: list[tuple[str, int | None]] = []
        self.done = 0
        self.restarts = 0

    def task(self, description: str, total: int | None = None) -> 'Watcher':
        self.tasks.append((description, total))
        self.done = 0
        return self

    def __enter__(self) -> 'Watcher':
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def advance(self, amount: int) -> None:
        self.done += amount

    def restart(self) -> None:
        self.done = 0
        self.restarts += 1


class SendTest(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.path = self.tmp() / 'image'
        self.data = self.random.randbytes(SIZE)
        self.path.write_bytes(self.data)
        self.payload = model.Payload(self.path, SIZE)
        self.small = model.Payload(self.path, MIB)
        self.watcher = Watcher()

    def glance(self, *script: stub.Step, **changes: Any) -> stub.Glance:
        return self.useFixture(stub.Glance(*script, **changes))

    def send(self, glance: stub.Glance, **kwargs: Any) -> model.Sent:
        kwargs.setdefault('proxy', glance.proxy)
        kwargs.setdefault('payload', self.payload)
        kwargs.setdefault('patience', QUICK)
        return transfer.send(
            image_id=stub.IMAGE,
            description='Sending image',
            progress=self.watcher,
            **kwargs,
        )

    def fail(
        self, kind: type[Exception], glance: stub.Glance, **kwargs: Any
    ) -> str:
        return str(self.assertRaises(kind, self.send, glance, **kwargs))

    def assertStored(self, glance: stub.Glance, sent: model.Sent) -> None:
        expected = self.data[: sent.uploaded]
        self.assertTrue(glance.data == expected, 'other data was stored')
        self.assertEqual(hashlib.sha512(expected).hexdigest(), sent.sha512)
        self.assertEqual(sent.uploaded, sent.record.size)
        self.assertEqual('active', sent.record.status)

    def test_at_the_first_attempt(self) -> None:
        glance = self.glance()
        sent = self.send(glance)
        self.assertStored(glance, sent)
        self.assertEqual(SIZE, sent.uploaded)
        (headers,) = glance.puts
        self.assertEqual('application/octet-stream', headers['Content-Type'])
        self.assertEqual(str(SIZE), headers['Content-Length'])
        self.assertEqual(str(SIZE), headers['X-OpenStack-Image-Size'])
        self.assertNotIn('Transfer-Encoding', headers)
        self.assertNotIn('X-Image-Meta-Store', headers)
        self.assertEqual([('Sending image', SIZE)], self.watcher.tasks)
        self.assertEqual(SIZE, self.watcher.done)
        self.assertEqual(0, self.watcher.restarts)

    def test_to_a_store(self) -> None:
        glance = self.glance()
        self.send(glance, store='fast')
        self.assertEqual('fast', glance.puts[0]['X-Image-Meta-Store'])

    def test_part_of_the_file_with_a_blank_beginning(self) -> None:
        glance = self.glance()
        payload = model.Payload(self.path, 5 * MIB, blank=1024)
        sent = self.send(glance, payload=payload)
        expected = bytes(1024) + self.data[1024 : 5 * MIB]
        self.assertTrue(glance.data == expected)
        self.assertEqual(hashlib.sha512(expected).hexdigest(), sent.sha512)
        self.assertEqual(5 * MIB, sent.uploaded)

    def test_nothing_at_all(self) -> None:
        glance = self.glance()
        sent = self.send(glance, payload=model.Payload(self.path, 0))
        self.assertEqual(0, sent.record.size)
        self.assertEqual('0', glance.puts[0]['Content-Length'])

    def test_again_after_an_answer_that_passes(self) -> None:
        for status in (408, 429, 500, 502, 503, 504):
            glance = self.glance(stub.say(status), stub.say(status))
            self.watcher.restarts = 0
            self.assertStored(glance, self.send(glance, payload=self.small))
            self.assertEqual(3, len(glance.puts))
            self.assertEqual(2, self.watcher.restarts)
            self.assertEqual(MIB, self.watcher.done)

    def test_again_after_a_reset(self) -> None:
        glance = self.glance(stub.reset)
        sent = self.send(glance)
        self.assertStored(glance, sent)
        self.assertEqual(SIZE, sent.uploaded)
        self.assertEqual(2, len(glance.puts))

    def test_again_after_a_stall(self) -> None:
        glance = self.glance(stub.stall)
        self.assertStored(glance, self.send(glance))
        self.assertEqual(2, len(glance.puts))

    def test_again_once_the_image_is_queued(self) -> None:
        glance = self.glance(stub.reset)
        glance.passing = ['saving', 'saving', 'queued']
        self.assertStored(glance, self.send(glance))
        self.assertEqual(4, glance.looks)

    def test_not_again_if_only_the_answer_was_lost(self) -> None:
        glance = self.glance(stub.lose)
        self.assertStored(glance, self.send(glance))
        self.assertEqual(1, len(glance.puts))

    def test_not_again_if_the_answer_came_late(self) -> None:
        glance = self.glance(stub.silence)
        glance.passing = ['saving']
        patience = transfer.Patience(
            stall=1, answer=0.1, settle=0.1, poll=0.01, backoff=0.01
        )
        message = self.fail(
            exceptions.TransferError, glance, patience=patience
        )
        self.assertIn('timed out', message)
        self.assertIn('was still saving after 0.1 s', message)
        self.assertEqual(1, len(glance.puts))

    def test_with_a_new_token(self) -> None:
        glance = self.glance(stub.say(401))
        self.assertStored(
            glance, self.send(glance, proxy=glance.authenticated())
        )
        self.assertEqual(
            ['old', 'new'], [put['X-Auth-Token'] for put in glance.puts]
        )

    def test_no_new_token_to_be_had(self) -> None:
        glance = self.glance(stub.say(401, b'no'))
        message = self.fail(exceptions.CloudError, glance)
        self.assertIn('no (HTTP 401)', message)
        self.assertEqual(1, len(glance.puts))

    def test_the_token_expired_and_the_image_is_gone(self) -> None:
        glance = self.glance(stub.vanish)
        message = self.fail(
            exceptions.NotFoundError, glance, proxy=glance.authenticated()
        )
        self.assertIn('the token may have expired (HTTP 401)', message)
        self.assertIn(f'then image {stub.IMAGE} was gone', message)

    def test_given_up_in_the_end(self) -> None:
        glance = self.glance(*[stub.say(503, b'busy')] * 9)
        message = self.fail(exceptions.TransferError, glance, attempts=3)
        self.assertEqual(
            f'sending the data of image {stub.IMAGE} failed: busy (HTTP 503) '
            '(tried 3 times); try again later, or tell the operator',
            message,
        )
        self.assertEqual(3, len(glance.puts))

    def test_when_the_cloud_asks_for_a_pause(self) -> None:
        glance = self.glance(stub.say(503, Retry_After='1'))
        begin = time.monotonic()
        self.send(glance)
        self.assertGreaterEqual(time.monotonic() - begin, 1)

    def test_when_the_cloud_asks_for_too_long_a_pause(self) -> None:
        glance = self.glance(stub.say(503, Retry_After='3600'))
        patience = transfer.Patience(backoff=0, poll=0.01, retry_after=0.1)
        self.assertStored(glance, self.send(glance, patience=patience))

    def test_refused_for_good(self) -> None:
        for status in (400, 403, 404, 409, 410, 413, 415, 501):
            glance = self.glance(stub.say(status, b'because'))
            message = self.fail(
                exceptions.CloudError, glance, payload=self.small
            )
            self.assertIn(f'because (HTTP {status})', message)
            self.assertEqual(1, len(glance.puts))

    def test_refused_while_sending(self) -> None:
        glance = self.glance(stub.interrupt(413, FULL))
        message = self.fail(exceptions.CloudError, glance)
        self.assertEqual(
            f'sending the data of image {stub.IMAGE} failed: Image storage '
            'media is full: There is not enough disk space & so on '
            '(HTTP 413); delete images that are not needed, or ask for more '
            'quota',
            message,
        )
        self.assertEqual(1, len(glance.puts))

    def test_sent_somewhere_else(self) -> None:
        glance = self.glance(
            stub.say(307, Location='https://elsewhere.example/')
        )
        message = self.fail(exceptions.CloudError, glance)
        self.assertIn('redirects to https://elsewhere.example/', message)

    def test_nobody_there_any_more(self) -> None:
        glance = self.glance(stub.leave)
        message = self.fail(exceptions.CloudError, glance)
        self.assertIn('Connection refused', message)
        self.assertIn(glance.endpoint, message)

    def test_image_killed(self) -> None:
        glance = self.glance(stub.reset)
        glance.passing = ['killed']
        message = self.fail(exceptions.TransferError, glance)
        self.assertIn(f'then image {stub.IMAGE} was killed', message)

    def test_still_saving_at_first(self) -> None:
        glance = self.glance()
        glance.passing = ['saving', 'saving', 'active']
        self.assertStored(glance, self.send(glance))

    def test_still_saving_for_ever(self) -> None:
        glance = self.glance(status='saving')
        message = self.fail(exceptions.TransferError, glance)
        self.assertIn('was still saving after 0.5 s', message)

    def test_other_data_stored(self) -> None:
        glance = self.glance(os_hash_value='0' * 128)
        message = self.fail(exceptions.TransferError, glance)
        self.assertIn('does not hold what was sent: its sha512 is 0', message)

    def test_less_data_stored(self) -> None:
        glance = self.glance(size=5)
        message = self.fail(exceptions.TransferError, glance)
        self.assertEqual(
            f'image {stub.IMAGE} holds 5 bytes, {SIZE} were sent', message
        )

    def test_other_hashes(self) -> None:
        for name in ('sha256', 'blake2b', 'sha3_512'):
            value = hashlib.new(name, self.data).hexdigest()
            glance = self.glance(os_hash_algo=name, os_hash_value=value)
            self.assertStored(glance, self.send(glance))
            glance = self.glance(os_hash_algo=name, os_hash_value='0')
            self.fail(exceptions.TransferError, glance)

    def test_md5_only(self) -> None:
        for name in ('nosuch', None):
            none = {'os_hash_algo': name, 'os_hash_value': None}
            glance = self.glance(**none)
            self.assertStored(glance, self.send(glance))
            glance = self.glance(**none, checksum='0')
            message = self.fail(exceptions.TransferError, glance)
            self.assertIn('its md5 is 0', message)

    def test_no_hash_at_all(self) -> None:
        glance = self.glance(
            os_hash_algo=None, os_hash_value=None, checksum=None
        )
        self.assertStored(glance, self.send(glance))

    def test_file_changed_meanwhile(self) -> None:
        glance = self.glance()

        def truncate(amount: int) -> None:
            self.path.write_bytes(b'')

        self.watcher.advance = truncate  # type: ignore[method-assign]
        message = self.fail(exceptions.TransferError, glance)
        self.assertIn(f'{self.path} was truncated to', message)

    def test_file_missing(self) -> None:
        glance = self.glance()
        payload = model.Payload(pathlib.Path('/nosuch'), 1)
        message = self.fail(exceptions.SourceError, glance, payload=payload)
        self.assertIn('/nosuch cannot be opened', message)

    def cancelled(self, glance: stub.Glance) -> float:
        """Cancel once the server stalls; tell how long it takes to stop."""
        cancel = threading.Event()
        begin: list[float] = []

        def watch() -> None:
            glance.stalled.wait(10)
            begin.append(time.monotonic())
            cancel.set()

        thread = threading.Thread(target=watch)
        thread.start()
        self.addCleanup(thread.join)
        self.useFixture(_Grace(0.1))
        self.fail(
            exceptions.CancelledError,
            glance,
            cancel=cancel,
            patience=transfer.Patience(),
        )
        return time.monotonic() - begin[0]

    def test_cancelled_while_the_network_hangs(self) -> None:
        self.assertLess(self.cancelled(self.glance(stub.stall)), 1)

    def test_cancelled_while_waiting_for_the_answer(self) -> None:
        self.assertLess(self.cancelled(self.glance(stub.silence)), 1)

    def test_cancelled_between_attempts(self) -> None:
        cancel = threading.Event()
        glance = self.glance(*[stub.say(503)] * 9)
        threading.Timer(0.3, cancel.set).start()
        begin = time.monotonic()
        self.fail(
            exceptions.CancelledError,
            glance,
            cancel=cancel,
            patience=transfer.Patience(backoff=20),
        )
        self.assertLess(time.monotonic() - begin, 3)

    def test_interrupted(self) -> None:
        glance = self.glance()

        def interrupt(amount: int) -> None:
            raise KeyboardInterrupt

        self.watcher.advance = interrupt  # type: ignore[method-assign]
        self.assertRaises(KeyboardInterrupt, self.send, glance)
        self.assertEqual(
            [], [t for t in threading.enumerate() if t.name == 'sender']
        )
        self.assertEqual('queued', glance.image['status'])


class _Grace(fixtures.MockPatchObject):
    """Less patience with a sender that hangs."""

    def __init__(self, seconds: float) -> None:
        super().__init__(body, '_GRACE', seconds)


class BodyTest(base.TestCase):
    def test_iterated_only_once(self) -> None:
        """keystoneauth must not send a second time what is gone."""
        path = self.tmp() / 'image'
        path.write_bytes(b'x')
        once = body.Body(model.Payload(path, 1))
        self.assertEqual([b'x'], [bytes(chunk) for chunk in once])
        self.assertRaises(exceptions.TransferError, list, once)


class DigestTest(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.path = self.tmp() / 'image'
        self.path.write_bytes(b'x' * MIB)
        self.payload = model.Payload(self.path, MIB, blank=10)
        self.expected = hashlib.sha512(bytes(10) + b'x' * (MIB - 10))

    def digest(self, **kwargs: Any) -> str:
        return transfer.digest(
            self.payload, description='Hashing', **kwargs
        )

    def test_what_would_be_sent(self) -> None:
        watcher = Watcher()
        self.assertEqual(
            self.expected.hexdigest(), self.digest(progress=watcher)
        )
        self.assertEqual([('Hashing', MIB)], watcher.tasks)
        self.assertEqual(MIB, watcher.done)

    def test_cancelled(self) -> None:
        cancel = threading.Event()
        cancel.set()
        self.assertRaises(
            exceptions.CancelledError,
            self.digest,
            progress=progress.Quiet(),
            cancel=cancel,
        )
