# SPDX-License-Identifier: Apache-2.0

"""Something in the cloud, or in front of it, refuses the data."""

import email.utils
import time

from amiclient.tests.faults import actions as acts
from amiclient.tests.faults import proxy as faults
from amiclient.tests.functional import faulty

#: What Glance 33 says when a quota of Keystone's unified limits is used up.
_QUOTA = (
    '<html><head><title>413 Request Entity Too Large</title></head><body>'
    '<h1>413 Request Entity Too Large</h1>Image storage media is full: '
    'Project 1a2b is over a limit for [Resource image_size_total is over '
    'limit of 1000 due to current usage 900 and delta 200]<br /><br />'
    '</body></html>'
)


class TestPassing(faulty.FaultCase):
    """What may pass is tried again, on the same image."""

    def test_each(self) -> None:
        """500, 502, 503, 504 and 429, one after the other."""
        statuses = (500, 502, 503, 504, 429)
        self.survives(
            *(acts.answer(status, 'busy') for status in statuses),
            attempts=1 + len(statuses),
            words=('--retries', len(statuses), *faulty.QUICK),
        )

    def test_504_but_glance_had_it_all(self) -> None:
        self.survives(acts.answer(504, passing=True), attempts=1)

    def test_before_the_body_is_read(self) -> None:
        self.survives(acts.answer(503, early=True), attempts=2)

    def test_retry_after_seconds(self) -> None:
        begin = time.monotonic()
        self.survives(
            acts.answer(503, Retry_After='2'), attempts=2, kinds=('kernel',)
        )
        self.assertGreater(time.monotonic() - begin, 2)

    def test_retry_after_a_date(self) -> None:
        begin = time.time()
        date = email.utils.formatdate(begin + 3, usegmt=True)
        self.survives(
            acts.answer(503, Retry_After=date), attempts=2, kinds=('kernel',)
        )
        self.assertGreater(time.time() - begin, 2)

    def test_for_good(self) -> None:
        self.fails(
            acts.answer(503, 'out of order'),
            text='failed: out of order (HTTP 503) (tried 3 times in ',
            words=('--retries', 2, '--timeout', 2),
        )

    def test_not_tried_again_if_told_so(self) -> None:
        self.fails(
            acts.answer(502, 'out of order'),
            text='failed: out of order (HTTP 502); try again later',
            words=('--retries', 0),
            kinds=('kernel',),
        )


class TestRefused(faulty.FaultCase):
    """What will not pass is not tried again."""

    def once(self, kind: str) -> None:
        wanted = len(self.files) if kind == 'image' else 1
        self.assertEqual(wanted, self.glance.count(**faulty.DATA), kind)

    def refuses(self, status: int, text: str, told: str) -> None:
        self.fails(
            acts.answer(status, text), text=told, words=(), check=self.once
        )

    def test_413(self) -> None:
        self.refuses(
            413,
            _QUOTA,
            'failed: Image storage media is full: Project 1a2b is over a '
            'limit for [Resource image_size_total is over limit of 1000 due '
            'to current usage 900 and delta 200] (HTTP 413); delete images '
            'that are not needed, or ask for more quota',
        )

    def test_413_before_the_body_is_read(self) -> None:
        self.fails(
            acts.answer(413, _QUOTA, early=True),
            text='Image storage media is full',
            words=(),
            kinds=('kernel', 'image'),
            check=self.once,
        )

    def test_415(self) -> None:
        self.refuses(415, 'Not so', 'failed: Not so (HTTP 415); the cloud')

    def test_409(self) -> None:
        """Glance says so when the image is saving already."""
        self.refuses(409, 'Busy', 'failed: Busy (HTTP 409)')

    def test_410(self) -> None:
        self.fails(self.delete, text='(HTTP 410)', words=(), check=self.once)

    def delete(self, exchange: faults.Exchange) -> None:
        """Let somebody delete the image before Glance is asked."""
        image = exchange.path.split('/')[-2]
        exchange.read(exchange.length // 2)
        self.image.delete(f'/images/{image}').raise_for_status()
        acts.answer(410, 'Image data could not be found')(exchange)


class TestSaving(faulty.FaultCase):
    """The image is still busy with data that was sent before."""

    def test_a_proxy_that_sends_it_twice(self) -> None:
        """The answer to the second, 409, is all that the client gets."""
        self.survives(self.twice, attempts=1)

    def twice(self, exchange: faults.Exchange) -> None:
        data = exchange.read()
        for _ in range(2):
            upstream = exchange.connect(len(data))
            upstream.send(data)
            answer = exchange.hear(upstream)
        self.assertEqual(409, answer.status)
        exchange.say(answer)


class TestToken(faulty.FaultCase):
    """The token is worth nothing any more, in the middle of the data."""

    def test_revoked(self) -> None:
        for kind in self.uploads():
            self.disturb(kind, acts.revoke(self.cloud.auth_url))
            self.succeed(kind)
            tokens = self.keystone.count('POST', '/auth/tokens')
            self.assertEqual(2, tokens, kind)

    def test_keystone_is_down_then(self) -> None:
        self.hurry(2.5)
        for kind in self.uploads('kernel', 'image'):
            self.disturb(kind, self.revoke_and_stop)
            finished = self.run_openstack(
                *self.commands[kind], '--timeout', 0.5, '--retries', 1
            )
            self.assertEqual(1, finished.status, finished)
            self.assertIn('(HTTP 503)', finished.stderr)
            self.assertNotIn('Traceback', finished.stderr)
            # Without a token nothing can be removed.
            self.keystone.clear()
            self.remove_as_told(finished.stderr)

    def test_keystone_is_gone_and_all_is_refused(self) -> None:
        """It ends as --timeout and --retries say, and leaves no files."""
        self.hurry(1)
        network = ('--timeout', 1, '--retries', 1)
        for stop in (acts.answer(503, 'down'), lambda e: e.hold()):
            for kind in self.uploads('kernel', 'image'):
                self.glance.rule(
                    lambda e, s=stop: self.refuse_all(e, s),
                    method='PUT',
                )
                begin = time.monotonic()
                finished = self.run_openstack(*self.commands[kind], *network)
                self.assertLess(time.monotonic() - begin, 60, kind)
                self.assertEqual(1, finished.status, finished)
                self.assertNotIn('Traceback', finished.stderr)
                self.assertIn('(HTTP 401); then ', finished.stderr)
                self.assertNothingLeft()
                self.keystone.clear()
                self.remove_as_told(finished.stderr)

    def refuse_all(
        self, exchange: faults.Exchange, stop: faults.Action
    ) -> None:
        self.keystone.rule(stop, times=None)
        self.glance.rule(acts.answer(401, 'no such token'), times=None)
        acts.answer(401, 'no such token')(exchange)

    def revoke_and_stop(self, exchange: faults.Exchange) -> None:
        self.keystone.rule(acts.answer(503, 'down'), times=None)
        acts.revoke(self.cloud.auth_url)(exchange)


class TestOthers(faulty.FaultCase):
    """Requests other than the data are repeated where that is safe."""

    def test_each_fails_once(self) -> None:
        for kind in self.uploads():
            for method in ('GET', 'POST', 'PATCH'):
                self.glance.rule(
                    acts.answer(503, 'busy'), method=method, path='/v2/'
                )
            self.succeed(kind, *faulty.QUICK)

    def test_the_answer_to_a_creation_is_lost(self) -> None:
        for kind in self.uploads('image'):
            self.glance.rule(
                acts.lose, method='POST', path='/v2/images$', times=3
            )
            self.succeed(kind, *faulty.QUICK)

    def test_a_creation_is_created_and_answered_with_504(self) -> None:
        for kind in self.uploads('image'):
            self.glance.rule(
                acts.answer(504, passing=True),
                method='POST',
                path='/v2/images$',
                times=3,
            )
            self.succeed(kind, *faulty.QUICK)

    def test_the_answer_to_a_deletion_is_lost(self) -> None:
        for kind in self.uploads('image'):
            self.glance.rule(acts.lose, method='DELETE', times=3)
            self.disturb(kind, acts.answer(413), times=None)
            self.refuse(kind, *faulty.QUICK)

    def test_deletions_fail_for_good(self) -> None:
        for kind in self.uploads('image'):
            self.glance.rule(acts.answer(503), method='DELETE', times=None)
            self.disturb(kind, acts.answer(413), times=None)
            finished = self.run_openstack(
                *self.commands[kind], '--timeout', 1, '--retries', 0
            )
            self.assertEqual(1, finished.status, finished)
            self.remove_as_told(finished.stderr)
