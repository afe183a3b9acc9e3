# SPDX-License-Identifier: Apache-2.0

"""A Glance in memory behind a proxy, which does to data what a test wants."""

from collections.abc import Callable
import json
import time
from typing import Any

import fixtures
from keystoneauth1 import session
from keystoneauth1 import token_endpoint
import openstack

from amiclient.glance import model
from amiclient.tests.cloud import memory
from amiclient.tests.faults import proxy as faults

IMAGE = '11111111-2222-4333-8444-555555555555'

#: Seconds for what takes no time: so long is only waited where something is
#: broken, however slow the machine.
AGES = 60.0


class Served(fixtures.Fixture):
    """Both, with an image: one that is queued, or one that has data.

    ``glance`` is the one, ``way`` the other, and ``proxy`` is openstacksdk's.

    :param script: what happens to the data's requests, one after the other;
        then they succeed.
    :param data: what the image holds; None if it is queued.
    :param changes: what Glance claims of it once it has data.
    """

    def __init__(
        self,
        *script: faults.Action,
        data: bytes | None = None,
        **changes: Any,
    ) -> None:
        self.glance = memory.Glance()
        if data is None:
            self.glance.put('web', IMAGE, 'ami', status='queued', size=None)
            self.glance.claims = changes
        else:
            self.glance.put('web', IMAGE, 'ami', data=data, **changes)
        self._method = 'PUT' if data is None else 'GET'
        self._script = script

    def _setUp(self) -> None:
        server = self.useFixture(memory.Server(self.glance))
        self.way = self.useFixture(faults.Proxy(server.url))
        self.glance.url = self.way.url
        for action in self._script:
            self.way.rule(action, method=self._method, path='/file$')
        self.proxy = self._closed(
            openstack.connect(
                # The tester's clouds.yaml is none of ours.
                load_yaml_config=False,
                auth_type='none',
                endpoint=self.way.url,
                region_name='here',
            ).image
        )

    @property
    def image(self) -> dict[str, Any]:
        """What Glance says of the image."""
        return self.glance.images[IMAGE]

    @property
    def data(self) -> bytes:
        """What it holds."""
        return self.glance.data[IMAGE]

    @property
    def record(self) -> model.ImageRecord:
        """The same, as the package reads it."""
        return model.ImageRecord.from_json(json.loads(json.dumps(self.image)))

    @property
    def asked(self) -> list[Any]:
        """The headers of the requests with or for data, in turn."""
        return [
            seen.headers
            for seen in self.way.seen
            if seen.path.endswith('/file')
        ]

    def stalls_once(self, method: str) -> None:
        """Have the client lose patience only once, with what does stall.

        Its time-outs are for the first request, which is the one that the
        script has stall. How long the next ones take is the machine's affair.

        :param method: what the client sends or asks for data with.
        """
        real: Callable[..., Any] = getattr(self.proxy, method)
        times: list[object] = []

        def request(*args: Any, timeout: object, **kwargs: Any) -> Any:
            times.append(timeout)
            if len(times) > 1:
                # Or it would be the second one that stalls.
                end = time.monotonic() + AGES
                while not self.asked and time.monotonic() < end:
                    time.sleep(0.01)
                timeout = AGES
            return real(*args, timeout=timeout, **kwargs)

        patch = fixtures.MockPatchObject(self.proxy, method, request)
        self.useFixture(patch)

    def authenticated(self) -> Any:
        """A proxy with a token that can be renewed."""
        auth = _Tokens(self.way.url + '/v2', 'old')
        return self._closed(
            openstack.connection.Connection(
                session=session.Session(auth=auth),
                image_endpoint_override=self.way.url + '/v2',
            ).image
        )

    def _closed(self, proxy: Any) -> Any:
        """Have what it has open closed with this: nothing else does soon."""
        self.addCleanup(proxy.session.session.close)
        return proxy


class _Tokens(token_endpoint.Token):
    """Credentials that get another token when one is refused."""

    def invalidate(self) -> bool:
        self.token = 'new'
        return True
