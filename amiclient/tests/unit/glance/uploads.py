# SPDX-License-Identifier: Apache-2.0

"""What tests of uploads share."""

import hashlib
import threading
from typing import Any

from amiclient.glance import model
from amiclient.glance import retry
from amiclient.glance.transfer import upload
from amiclient.tests import base
from amiclient.tests.faults import proxy as faults
from amiclient.tests.unit.glance import served

MIB = 1 << 20

#: More than the socket buffers of both sides hold.
SIZE = 2 * MIB + 123

#: Does not wait long between attempts, but for as long as it takes for what
#: the server does: that is on the same machine, however slow.
QUICK = retry.Patience(
    stall=served.AGES,
    answer=served.AGES,
    settle=served.AGES,
    away=0.2,
    poll=0.01,
    backoff=0.01,
    longest=0.05,
)


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

    def expect(self, total: int) -> None:
        self.tasks[-1] = (self.tasks[-1][0], total)

    def restart(self) -> None:
        self.done = 0
        self.restarts += 1

    def tell(self, result: str) -> None:
        pass


def senders() -> list[threading.Thread]:
    """Find the threads that send."""
    return [t for t in threading.enumerate() if t.name == 'sender']


class UploadTest(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        # After the servers, which are the later ones to come.
        self.addCleanup(self.end_senders)
        self.path = self.tmp() / 'image'
        self.data = self.random.randbytes(SIZE)
        self.path.write_bytes(self.data)
        self.payload = model.Payload(self.path, SIZE)
        self.small = model.Payload(self.path, MIB)
        self.watcher = Watcher()

    def end_senders(self) -> None:
        """Leave none to the next test: one that hangs ends with its server."""
        for sender in senders():
            sender.join(served.AGES)

    def glance(self, *script: faults.Action, **changes: Any) -> served.Served:
        return self.useFixture(served.Served(*script, **changes))

    def send(
        self, glance: served.Served, *, store: str | None = None, **kwargs: Any
    ) -> model.Sent:
        return upload.send(self.transfer(glance, **kwargs), store)

    def transfer(
        self, glance: served.Served, **kwargs: Any
    ) -> upload.Transfer:
        kwargs.setdefault('proxy', glance.proxy)
        kwargs.setdefault('payload', self.payload)
        kwargs.setdefault('patience', QUICK)
        return upload.Transfer(
            image_id=served.IMAGE,
            description='Sending image',
            progress=self.watcher,
            **kwargs,
        )

    def fail(
        self, kind: type[Exception], glance: served.Served, **kwargs: Any
    ) -> str:
        return str(self.assertRaises(kind, self.send, glance, **kwargs))

    def assertStored(self, glance: served.Served, sent: model.Sent) -> None:
        expected = self.data[: sent.uploaded]
        self.assertTrue(glance.data == expected, 'other data was stored')
        self.assertEqual(hashlib.sha512(expected).hexdigest(), sent.sha512)
        self.assertEqual(sent.uploaded, sent.record.size)
        self.assertEqual('active', sent.record.status)
