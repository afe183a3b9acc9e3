# SPDX-License-Identifier: Apache-2.0

"""A cloud of canned answers, and what it was asked."""

from typing import Any
import urllib.parse

import openstack
from requests_mock.contrib import fixture

from amiclient import errors
from amiclient.glance import client
from amiclient.glance import retry
from amiclient.tests import base

CLOUD = 'http://cloud.example:9292'
ID = '11111111-2222-4333-8444-555555555555'
OTHER = '66666666-7777-4888-9999-aaaaaaaaaaaa'
SHA512 = 'ab' * 64


def image(**attributes: Any) -> dict[str, Any]:
    """An image as Glance 33 describes it."""
    return {
        'id': ID,
        'name': 'web',
        'status': 'active',
        'visibility': 'shared',
        'protected': False,
        'os_hidden': False,
        'owner': 'p1',
        'disk_format': 'ami',
        'container_format': 'ami',
        'min_disk': 2,
        'min_ram': 512,
        'size': 1234,
        'virtual_size': None,
        'checksum': 'c0ffee',
        'os_hash_algo': 'sha512',
        'os_hash_value': SHA512,
        'tags': ['blue'],
        'created_at': '2026-03-04T05:06:07Z',
        'updated_at': '2026-03-04T05:06:08Z',
        'self': f'/v2/images/{ID}',
        'file': f'/v2/images/{ID}/file',
        'schema': '/v2/schemas/image',
        'stores': 'fast',
        'kernel_id': OTHER,
        'os_type': 'linux',
        **attributes,
    }


class CatalogTest(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.wire = self.useFixture(fixture.Fixture())
        link = {'rel': 'self', 'href': f'{CLOUD}/v2/'}
        version = {'id': 'v2.17', 'status': 'CURRENT', 'links': [link]}
        self.wire.get(f'{CLOUD}/', json={'versions': [version]})
        proxy = openstack.connect(
            # The tester's clouds.yaml is none of ours.
            load_yaml_config=False,
            auth_type='none',
            endpoint=CLOUD,
            region_name='here',
        ).image
        self.catalog = client.Catalog(
            proxy, patience=retry.Patience(backoff=0.01)
        )

    def answer(
        self,
        method: str,
        path: str,
        *answers: dict[str, Any] | None,
        **kwargs: Any,
    ) -> None:
        """Have the cloud give one answer after the other; None is a 404."""
        given = [
            {'json': answer}
            if answer is not None
            else {'status_code': 404, 'json': {'message': 'No image found'}}
            for answer in answers
        ]
        self.wire.register_uri(
            method, f'{CLOUD}/v2{path}', given or None, **kwargs
        )

    def asked(self) -> list[tuple[str, str]]:
        """What the cloud was asked, since it told its versions."""
        requests_ = []
        for request in self.wire.request_history:
            parts = urllib.parse.urlsplit(request.url)
            if parts.path.startswith('/v2/'):
                query = urllib.parse.unquote_plus(parts.query)
                line = parts.path + (f'?{query}' if query else '')
                requests_.append((request.method, line))
        return requests_

    def fail(self, *args: Any, **kwargs: Any) -> str:
        return str(self.assertRaises(errors.CloudError, *args, **kwargs))
