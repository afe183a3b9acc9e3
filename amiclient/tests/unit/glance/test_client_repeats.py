# SPDX-License-Identifier: Apache-2.0

"""Which requests are repeated, and what the last answer then means."""

import time
from typing import Any

from amiclient import errors
from amiclient.glance import model
from amiclient.tests.unit.glance import wire

BUSY = {'status_code': 503, 'text': 'busy'}
GONE = {'status_code': 404, 'json': {'message': 'No image found'}}
TAKEN = {'status_code': 409, 'json': {'message': 'It exists'}}
DONE = {'status_code': 204}

ONE = f'/v2/images/{wire.ID}'


class RepeatTest(wire.CatalogTest):
    def script(self, method: str, path: str, *answers: dict[str, Any]) -> None:
        """Have the cloud give one answer after the other."""
        self.wire.register_uri(method, f'{wire.CLOUD}{path}', list(answers))

    def new(self, id: str | None) -> model.NewImage:
        return model.NewImage(
            name='web', disk_format='ami', container_format='ami', id=id
        )

    def methods(self) -> list[str]:
        return [method for method, _ in self.asked()]


class TestRepeated(RepeatTest):
    def test_a_look(self) -> None:
        self.script('GET', ONE, BUSY, BUSY, {'json': wire.image()})
        self.assertEqual(wire.ID, self.catalog.get(wire.ID).id)
        self.assertEqual(['GET'] * 3, self.methods())

    def test_given_up(self) -> None:
        self.script('GET', ONE, BUSY)
        message = self.fail(self.catalog.get, wire.ID)
        self.assertIn('busy (HTTP 503) (tried 5 times in ', message)
        self.assertEqual(['GET'] * 5, self.methods())

    def test_a_refusal_is_final(self) -> None:
        self.script('GET', ONE, {'status_code': 403, 'text': 'no'})
        self.assertIn('no (HTTP 403)', self.fail(self.catalog.get, wire.ID))
        self.assertEqual(['GET'], self.methods())

    def test_a_deletion_whose_answer_was_lost(self) -> None:
        self.script('DELETE', ONE, BUSY, GONE)
        self.catalog.delete(wire.ID)
        self.assertEqual(['DELETE'] * 2, self.methods())

    def test_a_deletion_of_what_is_not_there(self) -> None:
        self.script('DELETE', ONE, GONE)
        self.assertRaises(errors.NotFoundError, self.catalog.delete, wire.ID)

    def test_a_removal_of_a_property_whose_answer_was_lost(self) -> None:
        """To remove what is gone already would be a conflict."""
        with_it = wire.image()
        without = {k: v for k, v in with_it.items() if k != 'os_type'}
        self.script('GET', ONE, {'json': with_it}, {'json': without})
        self.script('PATCH', ONE, BUSY)
        record = self.catalog.update(wire.ID, {'os_type': None})
        self.assertNotIn('os_type', record.properties)
        self.assertEqual(['GET', 'PATCH', 'GET', 'GET'], self.methods())


class TestCreated(RepeatTest):
    def test_its_answer_was_lost(self) -> None:
        self.script('POST', '/v2/images', BUSY, TAKEN)
        self.script('GET', ONE, {'json': wire.image(status='queued')})
        self.assertEqual(wire.ID, self.catalog.create(self.new(wire.ID)).id)
        self.assertEqual(['POST', 'POST', 'GET'], self.methods())

    def test_somebody_else_has_the_id(self) -> None:
        self.script('POST', '/v2/images', BUSY, TAKEN)
        self.script('GET', ONE, {'json': wire.image(name='mail')})
        message = self.fail(self.catalog.create, self.new(wire.ID))
        self.assertIn('It exists (HTTP 409)', message)

    def test_the_id_was_taken_before(self) -> None:
        self.script('POST', '/v2/images', TAKEN)
        self.fail(self.catalog.create, self.new(wire.ID))
        self.assertEqual(['POST'], self.methods())

    def test_not_repeated_without_an_id(self) -> None:
        """There would be two images then, one of them nobody's."""
        self.script('POST', '/v2/images', BUSY)
        self.fail(self.catalog.create, self.new(None))
        self.assertEqual(['POST'], self.methods())


class TestWithin(RepeatTest):
    def test_not_past_the_deadline(self) -> None:
        slow = {**BUSY, 'headers': {'Retry-After': '120'}}
        self.script('DELETE', ONE, slow)
        begin = time.monotonic()
        catalog = self.catalog.within(100)
        self.assertIn('HTTP 503', self.fail(catalog.delete, wire.ID))
        self.assertLess(time.monotonic() - begin, 90)
        self.assertEqual(['DELETE'], self.methods())

    def test_no_time_left(self) -> None:
        catalog = self.catalog.within(0)
        self.assertEqual(
            f'deleting image {wire.ID} was not tried: there was no time left',
            self.fail(catalog.delete, wire.ID),
        )
        self.assertEqual([], self.methods())

    def test_time_enough(self) -> None:
        self.script('DELETE', ONE, BUSY, DONE)
        self.catalog.within().delete(wire.ID)
        self.assertEqual(['DELETE'] * 2, self.methods())
