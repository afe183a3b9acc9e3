# SPDX-License-Identifier: Apache-2.0

"""A token goes to one place only, wherever answers point."""

import requests

from amiclient import errors
from amiclient.glance import model
from amiclient.glance import origin
from amiclient.tests import base
from amiclient.tests.unit.glance import wire

ELSEWHERE = 'https://evil.example:9292/v2/images'
STATUSES = (301, 302, 303, 307, 308)


class TestRedirect(wire.CatalogTest):
    def setUp(self) -> None:
        super().setUp()
        self.other = self.wire.register_uri('GET', ELSEWHERE, json={})
        new = model.NewImage('web', 'ami', 'ami', id=wire.ID)
        one = f'/images/{wire.ID}'
        self.work = (
            ('GET', '/images', lambda: list(self.catalog.images())),
            ('GET', one, lambda: self.catalog.get(wire.ID)),
            ('PATCH', one, lambda: self.catalog.update(wire.ID, {'a': 'b'})),
            ('DELETE', one, lambda: self.catalog.delete(wire.ID)),
            ('POST', '/images', lambda: self.catalog.create(new)),
            ('GET', '/schemas/image', self.catalog.schema),
            ('GET', '/info/usage', self.catalog.usage),
        )

    def redirect(
        self, method: str, path: str, status: int, location: str
    ) -> None:
        self.wire.register_uri(
            method,
            f'{wire.CLOUD}/v2{path}',
            status_code=status,
            headers={'Location': location},
        )

    def test_elsewhere(self) -> None:
        for method, path, work in self.work:
            for status in STATUSES:
                self.redirect(method, path, status, ELSEWHERE)
                text = self.fail(work)
                self.assertIn(wire.CLOUD, text)
                self.assertIn('redirects to https://evil.example:9292', text)
                self.assertIn('endpoint in the catalog', text)
        self.assertFalse(self.other.called)

    def test_at_the_same_place(self) -> None:
        there = f'/v2/elsewhere/{wire.ID}'
        for status in STATUSES:
            # With the port, without it, and relative.
            for location in (f'{wire.CLOUD}{there}', there):
                self.redirect('GET', f'/images/{wire.ID}', status, location)
                self.wire.get(f'{wire.CLOUD}{there}', json=wire.image())
                self.assertEqual(wire.ID, self.catalog.get(wire.ID).id)

    def test_links_are_not_followed(self) -> None:
        image = wire.image(
            self=ELSEWHERE,
            file=ELSEWHERE,
            schema=ELSEWHERE,
            direct_url=ELSEWHERE,
            locations=[{'url': ELSEWHERE, 'metadata': {}}],
        )
        self.answer(
            'GET',
            '/images',
            {'images': [image], 'next': ELSEWHERE, 'first': ELSEWHERE},
            {'images': []},
        )
        self.assertEqual(1, len(list(self.catalog.images())))
        self.assertFalse(self.other.called)


class TestKeep(base.TestCase):
    def keep(self, here: str, location: str, status: int = 302) -> str:
        """Tell where a redirect leads that is followed."""
        response = requests.Response()
        response.status_code = status
        response.url = here
        response.headers['Location'] = location
        origin.keep(response)
        return response.headers['Location']

    def test_kept(self) -> None:
        for location in (
            'https://cloud/v2/x',
            'https://CLOUD:443/v2/x',
            '//cloud/v2/x',
            'x',
            '/v2/x',
        ):
            self.assertEqual(
                'https://cloud/v2/x',
                self.keep('https://cloud/v2/images', location)
                .replace('CLOUD', 'cloud')
                .replace(':443', ''),
            )

    def test_refused(self) -> None:
        here = 'https://cloud:9292/v2/images'
        for location in (
            'http://cloud:9292/v2/images',
            'https://cloud/v2/images',
            'https://cloud:9293/v2/images',
            'https://cloud.example:9292/v2/images',
            '//evil:9292/',
            'https://cloud:9292@evil/',
            # What one reads as a user's name, another reads as the host.
            'https://evil\\@cloud:9292/',
            'https://evil:9292\\.cloud:9292/',
            'ftp://cloud:9292/',
            'https://[cloud:9292/',
            'https://cloud:92929292/',
        ):
            error = self.assertRaises(
                errors.CloudError, self.keep, here, location
            )
            self.assertIn('https://cloud:9292 redirects to', str(error))

    def test_what_is_no_redirect(self) -> None:
        for status in (200, 201, 300, 404):
            self.keep('https://cloud/', 'https://evil/', status)
