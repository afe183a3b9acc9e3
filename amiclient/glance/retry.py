# SPDX-License-Identifier: Apache-2.0

"""How long to wait for what, and when to try again.

Uploads, downloads and all other requests share it. The loops are ours, not
keystoneauth's: that repeats a body without rewinding it, heeds no
``Retry-After``, and knows of no Ctrl-C in another thread and of no deadline.
"""

from collections.abc import Callable
import dataclasses
import email.utils
import logging
import random
import threading
import time
from typing import Any, Self, TypeVar

from amiclient import errors

_T = TypeVar('_T')

LOG = logging.getLogger(__name__)

#: Answers after which the same request may succeed.
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})

#: What ``--retries`` and ``--timeout`` are unless the user says so.
RETRIES = 4
TIMEOUT = 60.0

#: Seconds that any answer may take at least.
_SHORTEST = 5.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Patience:
    """How often to try, and how long to wait for what, in seconds.

    :param attempts: how often to make a request, at most.
    :param stall: for the cloud to accept a connection, and to take or give
        one more chunk; urllib3 has one time-out for both.
    :param answer: for the answer to an upload, once all is sent: a proxy may
        only then pass it all on, and Glance may copy it to its store.
    :param reply: for the answer to any other request.
    :param settle: for an image to become ``active``, or ``queued`` again.
    :param away: for the cloud to answer at all, when it did before.
    :param undo: for removing all that a failed run has made.
    :param poll: between two looks at an image, at first.
    :param backoff: before the second attempt; doubled before each other.
    :param longest: between two attempts, or two looks at an image.
    :param retry_after: the most that the cloud may ask for.
    :param aloud: whether to warn of every wait, rather than only note it.
    """

    attempts: int = RETRIES + 1
    stall: float = TIMEOUT
    answer: float = 15 * TIMEOUT
    reply: float = 2 * TIMEOUT
    settle: float = 10 * TIMEOUT
    away: float = TIMEOUT
    undo: float = TIMEOUT
    poll: float = 0.2
    backoff: float = 1.0
    longest: float = 30.0
    retry_after: float = 120.0
    aloud: bool = False

    @classmethod
    def of(
        cls,
        *,
        retries: int = RETRIES,
        timeout: float = TIMEOUT,
        aloud: bool = False,
    ) -> Self:
        """Have the patience that a user asks for.

        :param retries: how often to try again.
        :param timeout: seconds for which nothing may move; what the cloud
            may need longer for gets a multiple of it.
        :param aloud: whether to warn of every wait.
        """
        default = cls()
        scale = timeout / TIMEOUT
        return cls(
            attempts=retries + 1,
            stall=timeout,
            answer=default.answer * scale,
            # Whatever the network does, the cloud has to compute.
            reply=max(_SHORTEST, default.reply * scale),
            settle=default.settle * scale,
            away=default.away * scale,
            undo=min(default.undo, _SHORTEST + timeout),
            # Who has little patience with the network has little to wait.
            backoff=min(default.backoff, timeout / 20),
            aloud=aloud,
        )

    def delay(self, attempt: int, asked: float = 0.0) -> float:
        """Tell how long to wait after an attempt that failed, in seconds.

        :param attempt: the number of it, from 1.
        :param asked: seconds that the cloud asked to wait at least.
        """
        delay = self.backoff * float(2 ** min(attempt - 1, 30))
        delay = min(delay, self.longest)
        # Jitter, so that clients that failed together do not return together.
        delay *= random.uniform(0.5, 1)  # noqa: S311 - no secret
        return max(delay, min(asked, self.retry_after))

    def tell(
        self, error: errors.CloudError, delay: float, attempt: int
    ) -> None:
        """Say for how many seconds is waited, after which attempt."""
        LOG.log(
            logging.WARNING if self.aloud else logging.INFO,
            '%s; trying again in %.0f s, attempt %d of %d',
            error.sentence,
            delay,
            attempt + 1,
            self.attempts,
        )


class Clock:
    """Waits, but not past a deadline, nor when the work was given up.

    :param cancel: when set, the work is given up.
    :param seconds: until the deadline, from now; None for none.
    """

    def __init__(
        self,
        *,
        cancel: threading.Event | None = None,
        seconds: float | None = None,
    ) -> None:
        self._cancel = cancel
        self._end = None if seconds is None else time.monotonic() + seconds

    def left(self, wanted: float) -> float:
        """Cut a wait of some seconds short at the deadline."""
        if self._end is None:
            return wanted
        return min(wanted, max(0.0, self._end - time.monotonic()))

    def check(self) -> None:
        """Raise CancelledError if the work was given up."""
        if self._cancel is not None and self._cancel.is_set():
            raise errors.CancelledError('the transfer was cancelled')

    def sleep(self, seconds: float) -> None:
        """Wait, at most until the deadline.

        :raises CancelledError: if ``cancel`` is set before that.
        """
        seconds = self.left(seconds)
        if self._cancel is None:
            time.sleep(seconds)
        else:
            self._cancel.wait(seconds)
            self.check()


def call(
    work: Callable[[int], _T],
    *,
    patience: Patience,
    clock: Clock | None = None,
) -> _T:
    """Do something again for as long as that may help.

    :param work: what to do; it is given the number of the attempt, from 1.
    :raises CloudError: what it raised at last: an error whose ``again`` is
        None at once, any other once all attempts, or all the time, are used
        up; then it says how many there were, and how long that took.
    :raises CancelledError: if the clock's ``cancel`` was set meanwhile.
    """
    clock = clock or Clock()
    attempt, begin = 1, time.monotonic()
    while True:
        try:
            return work(attempt)
        except errors.CloudError as error:
            if error.again is None:
                raise
            delay = patience.delay(attempt, error.again)
            # What is left of the time would be spent waiting.
            late = clock.left(delay) < delay
            if attempt >= patience.attempts or late:
                raise tried(error, attempt, begin) from error
            patience.tell(error, delay, attempt)
        clock.sleep(delay)
        attempt += 1


def tried(
    error: errors.CloudError, attempts: int, begin: float
) -> errors.CloudError:
    """Say how often something was tried in vain.

    :param begin: when it was tried first, by time.monotonic().
    :returns: an error of the same class; to try again is no use.
    """
    times = ''
    if attempts > 1:
        took = time.monotonic() - begin
        times = f' (tried {attempts} times in {took:.0f} s)'
    return type(error)(
        f'{error.sentence}{times}', hint=error.hint, status=error.status
    )


def retry_after(headers: Any) -> float:
    """Read ``Retry-After`` (RFC 9110, section 10.2.3).

    :param headers: those of an answer.
    :returns: seconds; 0 if it asks for none.
    """
    text = headers.get('Retry-After', '')
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        moment = email.utils.parsedate_to_datetime(text)
        return max(0.0, moment.timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
