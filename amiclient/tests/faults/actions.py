# SPDX-License-Identifier: Apache-2.0

"""What can happen to a request on its way through a faulty proxy.

Each function makes an action for the proxy's ``rule()``.
Where one takes a share, that is how much of the request's body has passed
when it happens: 0 for none, 1 for all of it.
"""

from collections.abc import Callable
import json
import socket
import threading
import time
from typing import Any

import requests

from amiclient.tests.faults import proxy as faults

#: Seconds after which what should have happened has not.
_LATE = 120

#: Bytes that pass at a time where they pass slowly.
_PIECE = 64 * 1024


def reset(share: float = 0.0) -> faults.Action:
    """Reset the connections on both sides within the body."""

    def action(exchange: faults.Exchange) -> None:
        upstream = exchange.connect()
        exchange.give(upstream, int(exchange.length * share))
        exchange.part(upstream)
        exchange.reset()

    return action


def lose(exchange: faults.Exchange) -> None:
    """Pass all of it on, take the answer, and reset the connection."""
    exchange.ask()
    exchange.reset()


def stall(share: float) -> faults.Action:
    """Read no more of the body from some byte on."""

    def action(exchange: faults.Exchange) -> None:
        upstream = exchange.connect()
        exchange.give(upstream, int(exchange.length * share))
        # The client may be unable to say that it hangs up.
        exchange.part(upstream)
        exchange.hold()

    return action


class Pause:
    """Go no further for as long as a test does something else.

    If the client hangs up meanwhile, the server is told.

    :param share: None if the server is to know nothing of the request yet.
    """

    def __init__(self, share: float | None) -> None:
        self._share = share
        self._reached = threading.Event()
        self._over = threading.Event()
        self._cut = False

    def __call__(self, exchange: faults.Exchange) -> None:
        upstream, over = None, exchange.server.proxy.over
        if self._share is not None:
            upstream = exchange.connect()
            exchange.give(upstream, int(exchange.length * self._share))
        self._reached.set()
        while not self._over.is_set():
            if over.is_set() or exchange.is_left():
                self._cut = True
                break
        if self._cut:
            if upstream:
                exchange.part(upstream)
            raise ConnectionAbortedError
        upstream = upstream or exchange.connect()
        exchange.give(upstream)
        exchange.say(exchange.hear(upstream))

    def wait(self) -> None:
        """Wait until a request has come that far."""
        if not self._reached.wait(_LATE):
            raise AssertionError('no request came that far')

    def end(self) -> None:
        """Let it go on."""
        self._over.set()

    def cut(self) -> None:
        """Let it go no further; the end of its client may not be seen.

        What that has sent before comes first, if there is room for it.
        """
        self._cut = True
        self._over.set()


def meanwhile(share: float, act: Callable[[], None]) -> faults.Action:
    """Do something else when a part of the body has passed.

    The next part passes slowly, for the client may have to do its part; and
    the last of it only when the other thing is done.
    """

    def action(exchange: faults.Exchange) -> None:
        upstream = exchange.connect()
        exchange.give(upstream, int(exchange.length * share))
        thread = threading.Thread(target=act)
        thread.start()
        while thread.is_alive() and exchange.length > 2 * _PIECE:
            exchange.give(upstream, _PIECE)
            thread.join(0.01)
        thread.join()
        exchange.give(upstream)
        exchange.say(exchange.hear(upstream))

    return action


def then(act: Callable[[], None]) -> faults.Action:
    """Do something else between the server's answer and the client's."""

    def action(exchange: faults.Exchange) -> None:
        answer_ = exchange.ask()
        act()
        exchange.say(answer_)

    return action


def silence(exchange: faults.Exchange) -> None:
    """Read all of it, pass nothing on, and never answer."""
    exchange.read()
    exchange.hold()


def half_close(share: float) -> faults.Action:
    """Say that no answer will come, but go on passing the body on."""

    def action(exchange: faults.Exchange) -> None:
        upstream = exchange.connect()
        for chunk in exchange.chunks(int(exchange.length * share)):
            upstream.send(chunk)
        # The client asks Glance as soon as it notices.
        _await_saving(exchange)
        exchange.connection.shutdown(socket.SHUT_WR)
        for chunk in exchange.chunks():
            upstream.send(chunk)
        exchange.hear(upstream)
        exchange.close_connection = True

    return action


def _await_saving(exchange: faults.Exchange) -> None:
    """Wait until Glance knows that data of an image is on its way."""
    server = exchange.server.proxy.upstream
    url = f'http://{server}{exchange.path}'.removesuffix('/file')
    headers = {'X-Auth-Token': exchange.headers['X-Auth-Token']}
    end = time.monotonic() + _LATE
    while (
        requests.get(url, headers=headers, timeout=10).json()['status']
        != 'saving'
    ):
        if time.monotonic() > end:
            raise AssertionError('the data never came there')
        time.sleep(0.01)


def answer(
    status: int,
    text: str = '',
    *,
    early: bool = False,
    passing: bool = False,
    **headers: str,
) -> faults.Action:
    """Answer in place of the server.

    :param text: HTML, as proxies write it.
    :param early: before anything of the body was read.
    :param passing: after the server has had it all, and answered.
    """

    def action(exchange: faults.Exchange) -> None:
        if passing:
            exchange.ask()
        elif not early:
            exchange.read()
        names = {k.replace('_', '-'): v for k, v in headers.items()}
        names.setdefault('Content-Type', 'text/html')
        exchange.say(faults.Answer(status, names, text.encode()))
        if early:
            # The answer is to arrive before the reset that follows.
            exchange.wfile.flush()
            exchange.connection.shutdown(socket.SHUT_WR)
            time.sleep(0.05)

    return action


def truncate(share: float) -> faults.Action:
    """Pass a part of the body on as if it were all, and be content."""

    def action(exchange: faults.Exchange) -> None:
        size = int(exchange.length * share)
        upstream = exchange.connect(size, X_OpenStack_Image_Size=None)
        for chunk in exchange.chunks(size):
            upstream.send(chunk)
        exchange.read()
        exchange.say(exchange.hear(upstream))

    return action


def swallow(exchange: faults.Exchange) -> None:
    """Pass nothing on, and say that all is well."""
    exchange.read()
    exchange.say(faults.Answer(204))


def alter(exchange: faults.Exchange) -> None:
    """Change one bit in the middle of the body."""
    upstream = exchange.connect()
    for chunk in exchange.chunks(exchange.length // 2):
        upstream.send(chunk)
    (byte,) = exchange.read(1)
    upstream.send(bytes([byte ^ 1]))
    for chunk in exchange.chunks():
        upstream.send(chunk)
    exchange.say(exchange.hear(upstream))


def rewrite(change: Callable[[Any], Any]) -> faults.Action:
    """Change what the server answers, if that is JSON.

    :param change: is given the document, and changes it in place.
    """

    def action(exchange: faults.Exchange) -> None:
        # Not compressed, to be read here.
        answer_ = exchange.ask(Accept_Encoding=None)
        if answer_.body and answer_.status < 300:
            document = json.loads(answer_.body)
            change(document)
            answer_.body = json.dumps(document).encode()
        exchange.say(answer_)

    return action


def revoke(auth_url: str) -> faults.Action:
    """Revoke the token for real while the body is under way.

    Glance would not notice for the five minutes that it remembers a token, so
    the proxy answers in its place, to this request and to each one after it.

    :param auth_url: that of Keystone itself.
    """

    def action(exchange: faults.Exchange) -> None:
        token = exchange.headers['X-Auth-Token']
        exchange.read(exchange.length // 2)
        requests.delete(
            f'{auth_url}/auth/tokens',
            headers={'X-Auth-Token': token, 'X-Subject-Token': token},
            timeout=10,
        ).raise_for_status()
        exchange.server.proxy.revoked.add(token)
        answer(401, 'Authentication required')(exchange)

    return action


def leave(share: float) -> faults.Action:
    """Break off within the body, and be gone for good."""

    def action(exchange: faults.Exchange) -> None:
        exchange.server.proxy.leave()
        reset(share)(exchange)

    return action
