# SPDX-License-Identifier: Apache-2.0


from amiclient import errors
from amiclient import findings
from amiclient.tests import base


def finding(severity, rule='rule'):
    return findings.Finding(severity, rule, 'Something is wrong')


class TestFindings(base.TestCase):
    def test_the_worst_comes_first_and_the_rest_stays(self):
        given = [
            finding('note', 'a'),
            finding('error', 'b'),
            finding('warning', 'c'),
            finding('error', 'd'),
        ]
        ranked = findings.ranked(given)
        self.assertEqual(['b', 'd', 'c', 'a'], [f.rule for f in ranked])
        self.assertEqual('error', findings.worst(given))
        self.assertEqual('warning', findings.worst([given[0], given[2]]))
        self.assertIsNone(findings.worst([]))

    def test_what_fails(self):
        for severity, lenient, strict in (
            ('error', True, True),
            ('warning', False, True),
            ('note', False, False),
        ):
            found = [finding('note'), finding(severity)]
            self.assertIs(lenient, findings.failed(found), severity)
            self.assertIs(strict, findings.failed(found, strict=True))
        self.assertFalse(findings.failed([], strict=True))

    def test_what_is_ignored(self):
        given = (finding('error', 'a'), finding('note', 'b'))
        self.assertEqual(given[1:], findings.without(given, ['a', 'c']))
        self.assertEqual(given, findings.without(given, []))

    def test_an_unknown_rule(self):
        findings.refuse_unknown(['a'], {'a', 'b'})
        error = self.assertRaises(
            errors.UsageError,
            findings.refuse_unknown,
            ['a', 'z'],
            {'b', 'a'},
        )
        self.assertEqual("there is no rule 'z'; choose from a, b", str(error))
