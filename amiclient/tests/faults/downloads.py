# SPDX-License-Identifier: Apache-2.0

"""What the proxy of :mod:`amiclient.tests.faults.proxy` can do to a download.

Where one takes a share, that is how much of the answer's body has passed when
it happens: 0 for none, 1 for all of it.
"""

from collections.abc import Callable
import socket

import requests

from amiclient.tests.faults import proxy as faults


def begin(
    exchange: faults.Exchange, answer: faults.Answer, **headers: str
) -> None:
    """Pass on an answer, but for its body."""
    exchange.send_response_only(answer.status)
    for name, value in (*answer.headers.items(), *headers.items()):
        exchange.send_header(name.replace('_', '-'), value)
    exchange.end_headers()


def give(
    share: float, end: Callable[[faults.Exchange], None]
) -> faults.Action:
    """Pass on a part of what the server gives.

    :param end: what happens then.
    """

    def action(exchange: faults.Exchange) -> None:
        answer = exchange.ask()
        begin(exchange, answer, Content_Length=str(len(answer.body)))
        exchange.wfile.write(answer.body[: int(len(answer.body) * share)])
        exchange.wfile.flush()
        end(exchange)

    return action


def reset(share: float) -> faults.Action:
    """Reset the connection within the body."""
    return give(share, faults.Exchange.reset)


def stall(share: float) -> faults.Action:
    """Pass nothing on any more from some byte on."""
    return give(share, faults.Exchange.hold)


def close(share: float) -> faults.Action:
    """End the connection in good order before all is passed on."""

    def end(exchange: faults.Exchange) -> None:
        exchange.close_connection = True

    return give(share, end)


def half_close(share: float) -> faults.Action:
    """Say that nothing more will come, but keep the connection."""

    def end(exchange: faults.Exchange) -> None:
        exchange.connection.shutdown(socket.SHUT_WR)
        exchange.hold()

    return give(share, end)


def truncate(share: float) -> faults.Action:
    """Pass on a part of the data as if it were all of it."""

    def action(exchange: faults.Exchange) -> None:
        answer = exchange.ask()
        answer.body = answer.body[: int(len(answer.body) * share)]
        exchange.say(answer)

    return action


def alter(exchange: faults.Exchange) -> None:
    """Change one bit in the middle of the data."""
    answer = exchange.ask()
    middle = len(answer.body) // 2
    changed = bytes([answer.body[middle] ^ 1])
    answer.body = answer.body[:middle] + changed + answer.body[middle + 1 :]
    exchange.say(answer)


def chunked(exchange: faults.Exchange) -> None:
    """Pass it on in pieces of odd sizes, without saying how much there is."""
    answer = exchange.ask()
    begin(exchange, answer, Transfer_Encoding='chunked')
    for start in range(0, len(answer.body), 77777):
        piece = answer.body[start : start + 77777]
        exchange.wfile.write(b'%x\r\n%s\r\n' % (len(piece), piece))
    exchange.wfile.write(b'0\r\n\r\n')


def no_range(exchange: faults.Exchange) -> None:
    """Give everything, whatever was asked for."""
    exchange.say(exchange.ask(Range=None))


def revoke(
    auth_url: str, then: Callable[[], None] = lambda: None
) -> faults.Action:
    """Revoke the token for real, and break off in the middle.

    :param auth_url: that of Keystone itself.
    :param then: what else to do before breaking off.
    """

    def end(exchange: faults.Exchange) -> None:
        token = exchange.headers['X-Auth-Token']
        requests.delete(
            f'{auth_url}/auth/tokens',
            headers={'X-Auth-Token': token, 'X-Subject-Token': token},
            timeout=10,
        ).raise_for_status()
        exchange.server.proxy.revoked.add(token)
        then()
        exchange.close_connection = True

    return give(0.5, end)


def during(share: float, act: Callable[[], None]) -> faults.Action:
    """Do something else while the download is under way, and break it off."""

    def end(exchange: faults.Exchange) -> None:
        act()
        exchange.close_connection = True

    return give(share, end)
