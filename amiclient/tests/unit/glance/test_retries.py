# SPDX-License-Identifier: Apache-2.0

"""Uploads over a real socket, to a Glance that fails in every way."""

import dataclasses
import time

from amiclient import errors
from amiclient.glance import retry
from amiclient.tests.faults import actions as acts
from amiclient.tests.faults import proxy as faults
from amiclient.tests.unit.glance import served
from amiclient.tests.unit.glance import uploads

FULL = """<html>
 <head>
  <title>413 Request Entity Too Large</title>
 </head>
 <body>
  <h1>413 Request Entity Too Large</h1>
  Image storage media is full: There is not enough disk space &amp; so on.
  <br /><br />
 </body>
</html>"""


class RetryTest(uploads.UploadTest):
    def test_again_after_an_answer_that_passes(self) -> None:
        for status in (408, 429, 500, 502, 503, 504):
            glance = self.glance(acts.answer(status), acts.answer(status))
            self.watcher.restarts = 0
            self.assertStored(glance, self.send(glance, payload=self.small))
            self.assertEqual(3, len(glance.asked))
            self.assertEqual(2, self.watcher.restarts)
            self.assertEqual(uploads.MIB, self.watcher.done)

    def test_again_after_a_reset(self) -> None:
        glance = self.glance(acts.reset(0.5))
        sent = self.send(glance)
        self.assertStored(glance, sent)
        self.assertEqual(uploads.SIZE, sent.uploaded)
        self.assertEqual(2, len(glance.asked))

    def test_again_after_a_stall(self) -> None:
        glance = self.glance(acts.stall(0.1))
        glance.stalls_once('put')
        patience = dataclasses.replace(uploads.QUICK, stall=0.5)
        self.assertStored(glance, self.send(glance, patience=patience))
        self.assertEqual(2, len(glance.asked))

    def test_again_once_the_image_is_queued(self) -> None:
        glance = self.glance(acts.reset(0.5))
        glance.glance.passing = ['saving', 'saving', 'queued']
        self.assertStored(glance, self.send(glance))
        self.assertEqual(4, glance.way.count('GET', f'{served.IMAGE}$'))

    def test_not_again_if_only_the_answer_was_lost(self) -> None:
        glance = self.glance(acts.lose)
        self.assertStored(glance, self.send(glance))
        self.assertEqual(1, len(glance.asked))

    def test_not_again_if_the_answer_came_late(self) -> None:
        glance = self.glance(acts.silence)
        glance.glance.passing = ['saving']
        patience = dataclasses.replace(uploads.QUICK, answer=0.1, settle=0.1)
        message = self.fail(errors.TransferError, glance, patience=patience)
        self.assertIn('timed out', message)
        self.assertIn('was still saving after 0.1 s', message)
        self.assertEqual(1, len(glance.asked))

    def test_with_a_new_token(self) -> None:
        glance = self.glance(acts.answer(401))
        self.assertStored(
            glance, self.send(glance, proxy=glance.authenticated())
        )
        self.assertEqual(
            ['old', 'new'], [put['X-Auth-Token'] for put in glance.asked]
        )

    def test_no_new_token_to_be_had(self) -> None:
        glance = self.glance(acts.answer(401, 'no'))
        message = self.fail(errors.CloudError, glance)
        self.assertIn('no (HTTP 401)', message)
        self.assertEqual(1, len(glance.asked))

    def test_the_token_expired_and_the_image_is_gone(self) -> None:
        def vanish(exchange: faults.Exchange) -> None:
            # Glance does so if the token expires.
            exchange.read()
            del glance.glance.images[served.IMAGE]
            acts.answer(401, 'the token may have expired')(exchange)

        glance = self.glance(vanish)
        message = self.fail(
            errors.NotFoundError, glance, proxy=glance.authenticated()
        )
        self.assertIn('the token may have expired (HTTP 401)', message)
        self.assertIn(f'then image {served.IMAGE} was gone', message)

    def test_given_up_in_the_end(self) -> None:
        glance = self.glance(*[acts.answer(503, 'busy')] * 9)
        patience = retry.Patience(attempts=3, poll=0.01, backoff=0.01)
        message = self.fail(errors.CloudError, glance, patience=patience)
        self.assertRegex(
            message,
            f'^sending the data of image {served.IMAGE} failed: busy '
            r'\(HTTP 503\) \(tried 3 times in \d s\); try again later, or '
            'tell the operator$',
        )
        self.assertEqual(3, len(glance.asked))

    def test_when_the_cloud_asks_for_a_pause(self) -> None:
        glance = self.glance(acts.answer(503, Retry_After='1'))
        begin = time.monotonic()
        self.send(glance)
        self.assertGreaterEqual(time.monotonic() - begin, 1)

    def test_when_the_cloud_asks_for_too_long_a_pause(self) -> None:
        glance = self.glance(acts.answer(503, Retry_After='3600'))
        patience = retry.Patience(backoff=0, poll=0.01, retry_after=0.1)
        self.assertStored(glance, self.send(glance, patience=patience))

    def test_refused_for_good(self) -> None:
        for status in (400, 403, 404, 409, 410, 413, 415, 501):
            glance = self.glance(acts.answer(status, 'because'))
            message = self.fail(errors.CloudError, glance, payload=self.small)
            self.assertIn(f'because (HTTP {status})', message)
            self.assertEqual(1, len(glance.asked))

    def test_refused_while_sending(self) -> None:
        glance = self.glance(acts.answer(413, FULL, early=True))
        message = self.fail(errors.CloudError, glance)
        self.assertEqual(
            f'sending the data of image {served.IMAGE} failed: Image storage '
            'media is full: There is not enough disk space & so on '
            '(HTTP 413); delete images that are not needed, or ask for more '
            'quota',
            message,
        )
        self.assertEqual(1, len(glance.asked))

    def test_sent_somewhere_else(self) -> None:
        glance = self.glance(
            acts.answer(307, Location='https://elsewhere.example/')
        )
        message = self.fail(errors.CloudError, glance)
        self.assertIn('redirects to https://elsewhere.example', message)

    def test_nobody_there_any_more(self) -> None:
        glance = self.glance(acts.leave(0.1))
        message = self.fail(errors.CloudError, glance)
        self.assertIn('Connection refused', message)
        self.assertIn(glance.way.url, message)

    def test_image_killed(self) -> None:
        glance = self.glance(acts.reset(0.5))
        glance.glance.passing = ['killed']
        message = self.fail(errors.TransferError, glance)
        self.assertIn(f'then image {served.IMAGE} was killed', message)
