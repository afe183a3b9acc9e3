# SPDX-License-Identifier: Apache-2.0

"""What is taken for an answer, and what is not."""

from typing import Any

import requests

from amiclient import errors
from amiclient.glance import answers
from amiclient.glance import model
from amiclient.tests import base
from amiclient.tests.unit.glance import wire


def respond(content: bytes) -> requests.Response:
    response = requests.Response()
    response.status_code = 200
    response._content = content
    return response


class TestRead(base.TestCase):
    def refuse(self, content: bytes) -> str:
        error = self.assertRaises(
            errors.CloudError,
            answers.read,
            respond(content),
            'an image',
            'looking',
        )
        begin = (
            'looking failed: Glance answered with something that is not an '
            'image: '
        )
        self.assertEqual(begin, error.message[: len(begin)])
        return error.message[len(begin) :]

    def test_refused(self) -> None:
        deep = 'it is nested more than 64 levels deep'
        for content, why in (
            (b'', 'it is empty'),
            (b' \n', 'it is empty'),
            (b'Z', 'it is not JSON'),
            (b'<html></html>', 'it is not JSON'),
            (b'{"id": "a"', 'it is not JSON'),
            (b'{"size": NaN}', 'it is not JSON'),
            (b'{"size": -Infinity}', 'it is not JSON'),
            (b'{"size": ' + b'9' * 5000 + b'}', 'it is not JSON'),
            (b'{"name": "\xe9"}', 'it is not JSON'),
            (b'{"name": "\\uD800"}', 'it is not JSON'),
            ('{}'.encode('utf-16'), 'it is not JSON'),
            (b'null', 'it is null, not an object'),
            (b'5', 'it is a number, not an object'),
            (b'0.5', 'it is a number, not an object'),
            (b'true', 'it is true or false, not an object'),
            (b'"a"', 'it is text, not an object'),
            (b'[{}]', 'it is a list, not an object'),
            (b'[' * 100_000, deep),
            (b'[' * 65 + b']' * 65, deep),
            (b'{"a":' * 65 + b'1' + b'}' * 65, deep),
        ):
            self.assertEqual(why, self.refuse(content), content[:40])

    def test_the_request_is_named(self) -> None:
        """Wherever in the answer it is."""
        response = respond(b'{"images": [{"links": {}}], "x": {}}')
        response.headers['X-Openstack-Request-Id'] = 'req-1'
        body = answers.read(response, 'a list', 'looking')
        (image,) = body.objects('images', 'an image')
        for part in (body, image, image.within('links'), body.within('x')):
            error = self.assertRaises(errors.CloudError, part.id)
            self.assertIn('"id" (Request-ID: req-1)', error.message)
        response._content = b'no'
        error = self.assertRaises(
            errors.CloudError, answers.read, response, 'a list', 'looking'
        )
        self.assertIn('JSON (Request-ID: req-1)', error.message)

    def test_taken(self) -> None:
        for content in (
            b'{}',
            b'\xef\xbb\xbf{}',
            b' {"name": "\\ud83d\\ude00"} ',
            b'{"a":' * 63 + b'{}' + b'}' * 63,
        ):
            answers.read(respond(content), 'an image', 'looking')


class TestImage(base.TestCase):
    def refuse(self, **attributes: Any) -> str:
        error = self.assertRaises(
            errors.CloudError,
            model.ImageRecord.from_json,
            wire.image(**attributes),
        )
        return error.message.partition('not an image: ')[2]

    def test_refused(self) -> None:
        for name, value, why in (
            ('id', None, 'it has no "id"'),
            ('id', '', 'it has no "id"'),
            ('id', 5, '"id" is a number, not text'),
            ('id', '../x', '"id" is not an id'),
            ('id', 'a b', '"id" is not an id'),
            ('id', 'a\n', '"id" is not an id'),
            ('status', [], '"status" is a list, not text'),
            ('status', None, 'it has no "status"'),
            ('name', {}, '"name" is an object, not text'),
            ('size', '5', '"size" is text, not a whole number'),
            ('size', True, '"size" is true or false, not a whole number'),
            ('size', 1e400, '"size" is not a whole number'),
            ('size', -1, '"size" is negative'),
            ('size', 2**63, '"size" is too large'),
            ('min_ram', [], '"min_ram" is a list, not a whole number'),
            ('protected', 'no', '"protected" is text, not true or false'),
            ('os_hidden', 0, '"os_hidden" is a number, not true or false'),
            ('visibility', [], '"visibility" is a list, not text'),
            ('tags', 5, '"tags" is a number, not a list'),
            ('tags', 'blue', '"tags" is text, not a list'),
            ('tags', ['a', None], '"tags" has null in it, not text'),
            ('stores', ['a'], '"stores" is a list, not text'),
            ('created_at', 'today', '"created_at" is not a time'),
            ('created_at', 5, '"created_at" is a number, not text'),
            ('os_hash_value', '../../x', '"os_hash_value" is not a hash'),
            ('checksum', 'g', '"checksum" is not a hash in hex'),
            ('kernel_id', 5, '"kernel_id" is a number, not text'),
            ('ramdisk_id', ['a'], '"ramdisk_id" is a list, not text'),
        ):
            self.assertIn(why, self.refuse(**{name: value}), (name, value))

    def test_times_without_a_zone_are_utc(self) -> None:
        """Or they could not be compared with others."""
        record = model.ImageRecord.from_json(
            wire.image(created_at='2026-01-01T00:00:00')
        )
        self.assertEqual('UTC', str(record.created_at.tzinfo))

    def test_properties_are_text(self) -> None:
        record = model.ImageRecord.from_json(
            wire.image(a=5, b=[True, None], c=None, d='x')
        )
        found = {name: record.properties[name] for name in 'abcd'}
        self.assertEqual(
            {'a': '5', 'b': '[true, null]', 'c': None, 'd': 'x'}, found
        )


class TestCatalog(wire.CatalogTest):
    """Answers that are right, but not to what was asked."""

    def test_another_image(self) -> None:
        self.answer('GET', f'/images/{wire.ID}', wire.image(id=wire.OTHER))
        message = self.fail(self.catalog.get, wire.ID)
        self.assertIn(
            f'not the image {wire.ID}: it is {wire.OTHER}; check', message
        )

    def test_another_image_is_changed(self) -> None:
        self.answer('PATCH', f'/images/{wire.ID}', wire.image(id=wire.OTHER))
        message = self.fail(self.catalog.update, wire.ID, {'name': 'x'})
        self.assertIn(f'it is {wire.OTHER}', message)

    def test_others_than_were_asked_for(self) -> None:
        stray = wire.image(id=wire.OTHER)
        self.answer('GET', '/images', {'images': [wire.image(), stray]})
        self.assertEqual({wire.ID}, set(self.catalog.get_many([wire.ID])))

    def test_something_else_says_that_it_is_deleted(self) -> None:
        self.wire.delete(f'{wire.CLOUD}/v2/images/{wire.ID}', text='Welcome')
        message = self.fail(self.catalog.delete, wire.ID)
        self.assertIn('a proxy answered (HTTP 200), not Glance', message)

    def test_stores_and_quotas(self) -> None:
        self.answer('GET', '/info/stores', {'stores': [{'id': 5}]})
        self.answer('GET', '/info/usage', {'usage': [1]})
        self.assertIn('not a store: "id"', self.fail(self.catalog.stores))
        message = self.fail(self.catalog.usage)
        self.assertIn('not a list of quotas: "usage" is a list', message)
