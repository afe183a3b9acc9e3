# SPDX-License-Identifier: Apache-2.0

"""The faults that uploads are tested with, in each of the downloads."""

import itertools
import time
from typing import Any

from amiclient.tests.faults import actions as faults_actions
from amiclient.tests.faults import downloads as acts
from amiclient.tests.faults import proxy as faults
from amiclient.tests.functional import faulty
from amiclient.tests.functional import faulty_downloads
from amiclient.tests.functional import test_faults_contact
from amiclient.tests.functional import test_faults_content

answer = faults_actions.answer

KINDS = faulty_downloads.KINDS


class FaultCase(faulty_downloads.DownloadCase):
    """A test of what happens to the data of all three images."""

    def survives(
        self,
        *actions: faults.Action,
        attempts: int,
        words: tuple[object, ...] = faulty.QUICK,
    ) -> None:
        """Check that each download gets over what happens.

        :param attempts: how often the data is asked for then.
        """
        for command in self.each():
            for kind in KINDS:
                self.disturb(kind, *actions)
            self.succeed(command, *words)
            for kind in KINDS:
                self.assertEqual(attempts, self.fetched(kind), command)

    def fails(
        self,
        action: faults.Action,
        *,
        text: str,
        words: tuple[object, ...] = (*faulty.QUICK, '--retries', 0),
        attempts: int = 1,
        commands: tuple[str, ...] = (),
    ) -> None:
        """Check that each download fails if one image's data do.

        :param text: what it has to say.
        :param attempts: how often that image's data is asked for then.
        :param commands: which downloads; all unless some are named.
        """
        kinds = itertools.cycle(KINDS)
        for command, kind in zip(self.each(*commands), kinds, strict=False):
            self.disturb(kind, action, times=None)
            line = self.refuse(command, *words)
            self.assertIn(text, line)
            self.assertIn(self.ids[kind], line)
            self.assertEqual(attempts, self.fetched(kind), command)


class TestRefused(
    faulty_downloads.DownloadCase, test_faults_contact.TestRefused
):
    """Nobody listens."""


class TestUnknownHost(
    faulty_downloads.DownloadCase, test_faults_contact.TestUnknownHost
):
    """The DNS knows nothing of it."""


class TestCertificate(
    faulty_downloads.DownloadCase, test_faults_contact.TestCertificate
):
    """Who answers cannot prove that it is the cloud."""

    def test_reset_within_tls(self) -> None:
        """Of the bodies of answers: what is fetched."""
        glance = self.trusted()
        for command in self.each():
            glance.clear()
            data = f'{self.ids["kernel"]}/file$'
            glance.rule(acts.reset(0.5), method='GET', path=data)
            self.succeed(command, *faulty.QUICK)
            self.assertEqual(2, glance.count('GET', data))


class TestSick(faulty_downloads.DownloadCase, test_faults_contact.TestSick):
    """Somebody answers, but not as a cloud should."""


class TestBreaks(FaultCase):
    """The connection breaks, for all three images."""

    def test_reset(self) -> None:
        places = (0, 0.01, 0.5, 0.99)
        self.survives(*map(acts.reset, places), attempts=5)

    def test_reset_after(self) -> None:
        """All of it was sent, and some of that may be lost on the way."""
        for command in self.each():
            for kind in KINDS:
                self.disturb(kind, acts.reset(1))
            self.succeed(command, *faulty.QUICK)
            for kind in KINDS:
                self.assertLessEqual(self.fetched(kind), 2)

    def test_reset_for_good(self) -> None:
        self.fails(
            acts.reset(0.5),
            text='the connection broke after ',
            words=(*faulty.QUICK, '--retries', 2),
            attempts=3,
        )

    def test_closed(self) -> None:
        self.survives(acts.close(0), acts.close(0.5), attempts=3)

    def test_half_closed(self) -> None:
        self.survives(acts.half_close(0), acts.half_close(0.5), attempts=3)

    def test_stall(self) -> None:
        self.survives(acts.stall(0.5), attempts=2, words=('--timeout', 2))

    def test_stall_for_good(self) -> None:
        self.fails(
            acts.stall(0.5),
            text='timed out',
            words=('--timeout', 1, '--retries', 1),
            attempts=2,
        )

    def test_gone_for_good(self) -> None:
        for command in self.each():
            glance = self.useFixture(faults.Proxy(self.cloud.image_url))
            self.route(
                auth_url=self.keystone.url + '/v3', image_url=glance.url
            )
            # It still answers where it is connected, but not for long.
            glance.rule(
                acts.during(0.5, glance.leave),
                method='GET',
                path='/file$',
                times=None,
            )
            line = self.refuse(command, '--timeout', 1, '--retries', 1)
            # While it goes, what waits to be accepted is reset.
            gone = 'Connection (refused|reset by peer)|connection broke'
            self.assertRegex(line, gone)
            self.assertIn('(tried 2 times in ', line)


class TestAnswers(FaultCase):
    """The cloud gives something else in place of the data."""

    def test_that_pass(self) -> None:
        self.survives(
            *(answer(status, 'Not now') for status in (500, 502, 503, 504)),
            attempts=5,
        )

    def test_429_and_retry_after(self) -> None:
        self.survives(
            answer(429, 'Not now'),
            answer(503, 'Not now', Retry_After='1'),
            attempts=3,
        )

    def test_for_good(self) -> None:
        commands = itertools.cycle(self.commands)
        for status in (500, 502, 503, 504, 429):
            self.fails(
                answer(status, 'Not now'),
                text=f'(HTTP {status})',
                commands=(next(commands),),
            )

    def test_after_retry_after(self) -> None:
        """It is not asked again before that."""
        begin = time.monotonic()
        (command,) = itertools.islice(self.each(), 1)
        self.disturb('kernel', answer(503, 'Not now', Retry_After='2'))
        self.succeed(command, *faulty.QUICK)
        self.assertGreater(time.monotonic() - begin, 2)

    def test_final(self) -> None:
        """To ask again is no use."""
        commands = itertools.cycle(self.commands)
        for status in (400, 403, 404, 409, 410, 413, 415):
            self.fails(
                answer(status, 'Not so'),
                text=f'Not so (HTTP {status})',
                words=faulty.QUICK,
                commands=(next(commands),),
            )

    def test_no_content(self) -> None:
        """So Glance answers for an image that is queued."""
        self.fails(answer(204), text='no data (HTTP 204)')

    def test_token_revoked(self) -> None:
        for command, kind in zip(self.each(), KINDS, strict=True):
            self.disturb(kind, acts.revoke(self.cloud.auth_url))
            self.succeed(command, *faulty.QUICK)

    def test_token_revoked_and_keystone_down(self) -> None:
        def leave() -> None:
            self.keystone.rule(answer(503, 'out of order'), times=None)

        for command, kind in zip(self.each(), KINDS, strict=True):
            self.disturb(kind, acts.revoke(self.cloud.auth_url, leave))
            line = self.refuse(command, *faulty.QUICK, '--retries', 1)
            self.assertIn('out of order (HTTP 503)', line)


class TestContent(FaultCase):
    """What comes is not what the cloud says it has."""

    def test_truncated(self) -> None:
        self.fails(acts.truncate(0.5), text='the cloud sent ')

    def test_altered_once(self) -> None:
        self.survives(acts.alter, attempts=2)

    def test_altered(self) -> None:
        """It is fetched once more, and not as often as --retries says."""
        self.fails(
            acts.alter,
            text='that was downloaded is not that of image ',
            words=faulty.QUICK,
            attempts=2,
        )


class TestHashes(FaultCase, test_faults_content.TestHashes):
    """Old clouds, and operators' choices: other hashes, or none."""

    described = r'/v2/images(/[0-9a-f-]{36})?(\?.*)?$'

    def check(self, *, told: str | None, **changes: Any) -> None:
        for command in self.each():
            self.describe(of_file=True, **changes)
            self.succeed(command)
        if told is None:
            return
        for command in self.each():
            self.describe(of_file=False, **changes)
            self.assertIn(told, self.refuse(command))

    def test_no_hash_at_all_and_truncated(self) -> None:
        none = {'os_hash_algo': None, 'os_hash_value': None, 'checksum': None}
        for command, kind in zip(self.each(), KINDS, strict=True):
            self.describe(of_file=True, **none)
            self.disturb(kind, acts.truncate(0.5), times=None)
            line = self.refuse(command, '--retries', 0)
            self.assertIn('the cloud sent ', line)
