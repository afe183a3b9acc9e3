# SPDX-License-Identifier: Apache-2.0

"""A Glance that sends its clients to another place."""

from amiclient.tests.faults import actions
from amiclient.tests.faults import proxy as faults
from amiclient.tests.functional import faulty


class TestElsewhere(faulty.FaultCase):
    """Two servers: the token of the first never comes to the second."""

    def setUp(self) -> None:
        super().setUp()
        self.other = self.useFixture(faults.Proxy(self.cloud.image_url))
        self.tokens: list[str | None] = []
        self.other.rule(self._note, times=None)

    def _note(self, exchange: faults.Exchange) -> None:
        self.tokens.append(exchange.headers.get('X-Auth-Token'))
        exchange.say(exchange.ask())

    def lead_away(self, url: str, *, method: str, path: str) -> None:
        def action(exchange: faults.Exchange) -> None:
            actions.answer(307, Location=url + exchange.path)(exchange)

        self.glance.rule(action, method=method, path=path, times=None)

    def test_each_request(self) -> None:
        shown = self.upload()
        one = f'^/v2/images/{shown["id"]}$'
        for words, method, path in (
            (('ami', 'list'), 'GET', '^/v2/images[?]'),
            (('ami', 'show', shown['id']), 'GET', one),
            (('ami', 'set', '--name', 'x', shown['id']), 'PATCH', one),
            (('ami', 'delete', shown['id']), 'DELETE', one),
            (self.commands['kernel'], 'GET', '^/v2/schemas/'),
            (
                (
                    'ami',
                    'save',
                    shown['id'],
                    '--directory',
                    self.directory / 's',
                ),
                'GET',
                '/file$',
            ),
            (
                (*self.commands['kernel'], '--no-reuse'),
                'POST',
                '^/v2/images$',
            ),
            ((*self.commands['kernel'], '--no-reuse'), 'PUT', '/file$'),
        ):
            self.glance.clear()
            self.lead_away(self.other.url, method=method, path=path)
            text = self.refused(*words)
            self.assertIn(
                f'{self.glance.url} redirects to {self.other.url}', text
            )
        self.assertEqual([], self.tokens)

    def test_at_the_same_place(self) -> None:
        shown = self.upload()
        self.glance.clear()

        def action(exchange: faults.Exchange) -> None:
            actions.answer(308, Location=f'{exchange.path}?again')(exchange)

        self.glance.rule(action, path=f'^/v2/images/{shown["id"]}$')
        again = self.openstack_json('ami', 'show', shown['id'])
        self.assertEqual(shown['id'], again['id'])
        self.assertEqual(1, self.glance.count('GET', '[?]again$'))
