# SPDX-License-Identifier: Apache-2.0

from amiclient import errors
from amiclient.glance import model
from amiclient.glance.upload import preflight
from amiclient.tests import base

ENUMS = {
    'disk_format': {'enum': [None, 'ami', 'aki', 'raw']},
    'container_format': {'enum': [None, 'ami', 'aki', 'bare']},
}


#: Glance's own pattern for ``kernel_id``; what fits, and what does not.
_UUID = (
    '^([0-9a-fA-F]){8}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}'
    '-([0-9a-fA-F]){4}-([0-9a-fA-F]){12}$'
)
_UUIDS = ('11111111-2222-4333-8444-555555555555', '11111111-2222')


def made(*, required=(), further=None, **properties) -> preflight.Rules:
    schema = {'properties': {**ENUMS, **properties}, 'required': [*required]}
    if further is not None:
        schema['additionalProperties'] = further
    return preflight.Rules(schema)


class TestRules(base.TestCase):
    def new(self, disk='ami', container='ami', **properties):
        return model.NewImage('web', disk, container, properties=properties)

    def fail(self, found: preflight.Rules, **properties) -> str:
        error = self.assertRaises(
            errors.CloudError, found.check, self.new(**properties)
        )
        return str(error)

    def test_formats(self) -> None:
        found = made()
        found.check(self.new())
        self.assertTrue(found.takes_formats('raw', 'bare'))
        self.assertFalse(found.takes_formats('ari', 'ari'))
        error = self.assertRaises(
            errors.CloudError, found.check, self.new('qcow2', 'bare')
        )
        self.assertIn('qcow2', str(error))

    def test_required(self) -> None:
        found = made(required=['name', 'cost_centre'])
        text = self.fail(found)
        self.assertIn('requires the property cost_centre', text)
        self.assertIn('--property cost_centre=', text)
        found.check(self.new(cost_centre='7'))

    def test_values(self) -> None:
        for rule, good, bad, words in (
            ({'enum': ['a', 'b']}, 'b', 'c', 'one of a, b'),
            ({'pattern': '^[0-9]+$'}, '12', 'x', 'match ^[0-9]+$'),
            ({'maxLength': 3}, 'abc', 'abcd', 'at most 3 characters'),
            ({'minLength': 2}, 'ab', 'a', 'at least 2 characters'),
            ({'type': ['null', 'string']}, 'x', None, None),
            ({'type': 'integer'}, None, '3', 'of type integer'),
            # Not understood: Glance has the last word.
            ({'pattern': '(?<x'}, 'x', None, None),
            ({'pattern': 'x{99999999999}'}, 'x', None, None),
            # They would take years.
            ({'pattern': '(a+)+$'}, 'a' * 99 + '!', None, None),
            ({'pattern': '^([ab]|(a|b)){50}$'}, 'a' * 99, None, None),
            ({'pattern': 'x*x*x*x*x*y'}, 'x' * 255, None, None),
            ({'pattern': _UUID}, _UUIDS[0], _UUIDS[1], 'match ^([0-9'),
            ({'format': 'uri', 'oneOf': []}, 'x', None, None),
        ):
            found = made(key={'type': 'string', **rule})
            if good is not None:
                found.check(self.new(key=good))
            if bad is not None:
                text = self.fail(found, key=bad)
                self.assertIn(f'key={bad}: it must', text)
                self.assertIn(words, text)

    def test_no_further_properties(self) -> None:
        found = made(further=False, known={'type': 'string'})
        found.check(self.new(known='x'))
        self.assertIn('accepts no property', self.fail(found, other='x'))
        self.assertFalse(found.takes_property('other'))
        self.assertTrue(made().takes_property('other'))

    def test_rules_for_all_further_properties(self) -> None:
        found = made(further={'type': 'string', 'maxLength': 3})
        self.assertIn('3 characters', self.fail(found, other='long'))

    def test_computed_ones_are_left_out(self) -> None:
        found = made(os_distro={'type': 'string', 'enum': ['debian']})
        taken, warnings = found.sift({'os_distro': 'mine', 'os_type': 'linux'})
        self.assertEqual({'os_type': 'linux'}, taken)
        self.assertEqual(1, len(warnings))
        self.assertIn('os_distro=mine is left out', warnings[0])

    def test_a_schema_that_is_none(self) -> None:
        for schema in ({}, {'properties': None}, {'required': 'x'}):
            self.assertFalse(
                preflight.Rules(schema).takes_formats('ami', 'ami')
            )
