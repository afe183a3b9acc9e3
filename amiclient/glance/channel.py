# SPDX-License-Identifier: Apache-2.0

"""Requests for records, made with patience.

The session below is told to repeat nothing: here it is known what may be
repeated, how often, and until when.
"""

from collections.abc import Callable
import http
from typing import Any, Self, TYPE_CHECKING, TypeVar

from amiclient.errors import CloudError
from amiclient.glance import answers
from amiclient.glance import bounded
from amiclient.glance import http_errors
from amiclient.glance import origin
from amiclient.glance import retry

if TYPE_CHECKING:
    from openstack.image.v2 import _proxy
    import requests

_T = TypeVar('_T')

#: Without it Glance writes its errors in HTML.
_HEADERS = {'Accept': 'application/json'}

#: Seconds for the cloud to accept a connection, at most.
_CONNECT = 30.0


class Channel:
    """The way to the records of one image service.

    :param proxy: openstacksdk's, for version 2 of the image service.
    :param patience: how often to try, and how long to wait; if None, the
        default, but the time-out that clouds.yaml may set (api_timeout).
    :param clock: says when to give up.
    """

    def __init__(
        self,
        proxy: '_proxy.Proxy',
        *,
        patience: retry.Patience | None = None,
        clock: retry.Clock | None = None,
    ) -> None:
        bounded.bound(proxy.session)
        self._proxy = proxy
        self._given = patience
        self._patience = patience or retry.Patience()
        self._clock = clock or retry.Clock()

    def within(self, seconds: float | None = None) -> Self:
        """Make another that gives up after some time, from now.

        :param seconds: None for what the patience says for undoing.
        """
        limit = self._patience.undo if seconds is None else seconds
        return type(self)(
            self._proxy,
            patience=self._given,
            clock=retry.Clock(seconds=limit),
        )

    def repeat(self, work: Callable[[int], _T]) -> _T:
        """Do something that makes requests, again for as long as it may help.

        :param work: what to do; it is given the number of the attempt.
        :raises CloudError: as :func:`amiclient.glance.retry.call` does.
        """
        return retry.call(work, patience=self._patience, clock=self._clock)

    def once(
        self, method: str, url: str, doing: str, **kwargs: Any
    ) -> 'requests.Response':
        """Make a request that must not, or need not, be repeated.

        :param url: below that of the image service.
        :param doing: what is tried, such as ``deleting image 8f0c``.
        :param kwargs: further ones of :meth:`requests.Session.request`.
        :returns: an answer that is a success.
        :raises NotFoundError: if the answer is 404.
        :raises CloudError: if it is another failure, or there is none.
        """
        kwargs.setdefault('headers', _HEADERS)
        # Unless it is given one, a session waits for ever.
        if self._given or self._proxy.session.timeout is None:
            kwargs.setdefault('timeout', self._timeout(doing))
        timeout = kwargs.get('timeout', self._proxy.session.timeout)
        # It may log in again meanwhile, or be sent somewhere else.
        whole = sum(timeout) if isinstance(timeout, tuple) else timeout
        whole = self._clock.left(whole or retry.TIMEOUT)
        with http_errors.understood(doing), bounded.within(whole):
            response = self._proxy.request(
                url,
                method,
                raise_exc=False,
                connect_retries=0,
                status_code_retries=0,
                hooks=origin.HOOKS,
                **kwargs,
            )
        return http_errors.check(response, doing)

    def send(
        self, method: str, url: str, doing: str, **kwargs: Any
    ) -> 'requests.Response':
        """Make a request that may be repeated as it is.

        Parameters, result and errors are those of :meth:`once`.
        """
        return self.repeat(lambda _: self.once(method, url, doing, **kwargs))

    def request(
        self, method: str, url: str, what: str, doing: str, **kwargs: Any
    ) -> answers.Object:
        """Make a request that may be repeated, for an object.

        Further parameters and errors are those of :meth:`once`.

        :param what: what the answer has to be, such as ``an image``.
        :raises CloudError: if the answer is something else, too.
        """
        return answers.read(
            self.send(method, url, doing, **kwargs), what, doing
        )

    def remove(self, url: str, doing: str) -> None:
        """Make a request that removes something, once.

        Parameters and errors are those of :meth:`once`.

        :raises CloudError: if somebody else answers in place of Glance, too.
        """
        answer = self.once('DELETE', url, doing)
        if answer.status_code != http.HTTPStatus.NO_CONTENT:
            raise CloudError(
                f'{doing} failed: it was answered, but not by Glance (HTTP '
                f'{answer.status_code})',
                hint='ask the operator what stands in front of it',
            )

    def _timeout(self, doing: str) -> tuple[float, float]:
        connect = self._clock.left(min(_CONNECT, self._patience.stall))
        reply = self._clock.left(self._patience.reply)
        if not connect or not reply:
            raise CloudError(f'{doing} was not tried: there was no time left')
        return connect, reply
