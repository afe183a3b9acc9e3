# SPDX-License-Identifier: Apache-2.0

"""Text from elsewhere does nothing to a terminal."""

import unicodedata

from amiclient import errors
from amiclient.tests import base


class TestSafe(base.TestCase):
    def test_what_is_safe_stays(self) -> None:
        for word in ('', 'web 1', 'größe-日本語-😀', '\\x1b', '"\'`$(id)'):
            self.assertEqual(word, errors.safe(word))

    def test_escapes(self) -> None:
        for word, expected in (
            ('a\nb\r\tc', 'a\\nb\\r\\tc'),
            ('\x1b[31mred', '\\x1b[31mred'),
            ('\x9b31m\x7f\0', '\\x9b31m\\x7f\\x00'),
            ('txt.\u202eexe', 'txt.\\u202eexe'),
            ('\u2066a\u2028b\ufeff', '\\u2066a\\u2028b\\ufeff'),
            ('\U000e0041', '\\U000e0041'),
        ):
            self.assertEqual(expected, errors.safe(word))

    def test_bytes_in_file_names(self) -> None:
        name = b'caf\xe9\x1b'.decode('utf-8', 'surrogateescape')
        self.assertEqual('caf\\xe9\\x1b', errors.safe(name))
        self.assertEqual('\\ud800', errors.safe('\ud800'))

    def test_all_of_unicode(self) -> None:
        every = ''.join(chr(code) for code in range(0x110000))
        safe = errors.safe(every)
        self.assertTrue(safe.isprintable())
        kinds = {unicodedata.category(c) for c in safe} - {'Zs'}
        self.assertEqual(set(), {k for k in kinds if k[0] in 'CZ'})
        self.assertEqual(safe, errors.safe(safe))


class TestTold(base.TestCase):
    def test_long_parts_are_left_out(self) -> None:
        told = errors.told(f'the image {"n" * 2_000_000!r} is \x1b gone')
        self.assertEqual(f"the image '{'n' * 119}... is \\x1b gone", told)
        self.assertGreater(30_000, len(errors.told('a b ' * 1_000_000)))

    def test_commands_stay_as_they_are(self) -> None:
        command = ' '.join(['openstack image delete', *[36 * 'a'] * 300])
        self.assertEqual(command, errors.told(command))
        self.assertEqual('/' * 4096, errors.told('/' * 4096))


class TestErrors(base.TestCase):
    def test_each_is_one_safe_line(self) -> None:
        error = errors.CloudError(
            'web\x1b[2J\n: refused', hint='ask \u202eroot'
        )
        self.assertEqual(
            'web\\x1b[2J\\n: refused; ask \\u202eroot', str(error)
        )
        self.assertEqual('web\x1b[2J\n: refused', error.message)
