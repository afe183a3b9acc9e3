# SPDX-License-Identifier: Apache-2.0

"""Sizes as users write and read them."""

from amiclient import errors
from amiclient.tests import base
from amiclient import units

_SIZES = {
    '0': 0,
    '1': 1,
    '512': 512,
    ' 64M ': 64 << 20,
    '64 M': 64 << 20,
    '64m': 64 << 20,
    '64MiB': 64 << 20,
    '64Mib': 64 << 20,
    '1K': 1024,
    '1KiB': 1024,
    '3G': 3 << 30,
    '2T': 2 << 40,
    '2TiB': 2 << 40,
    '1kB': 1000,
    '1KB': 1000,
    '5MB': 5_000_000,
    '7GB': 7_000_000_000,
    '1TB': 10**12,
    '100B': 100,
    '007': 7,
}  # fmt: skip

_NO_SIZES = (
    '', ' ', '-1', '+1', '1.5G', '1,5G', 'M', '64X', '64MM', '64iB', '1P',
    '0x10', '1e6', '64M1', '5%', '١٢', '1 2', '64M\n64M', 'nan',
)  # fmt: skip

_NO_PERCENTAGES = ('%', '-5%', '5%%', '5 percent', '.5%', '5.%', '1e1%')


class TestSizes(base.TestCase):
    def test_parsed(self) -> None:
        for text, size in _SIZES.items():
            self.assertEqual(size, units.parse_size(text), text)

    def test_refused(self) -> None:
        for text in _NO_SIZES:
            error = self.assertRaises(
                errors.UsageError, units.parse_size, text
            )
            self.assertIn(repr(text), str(error))
            self.assertIn('64M', str(error))
            self.assertNotIn('\n', str(error))

    def test_written(self) -> None:
        for size, text in (
            (0, '0 bytes'),
            (1023, '1023 bytes'),
            (1024, '1.0 KiB'),
            (1536, '1.5 KiB'),
            (696_320_000, '664.1 MiB'),
            (10 << 30, '10.0 GiB'),
            (5 << 40, '5.0 TiB'),
            (5 << 50, '5120.0 TiB'),
        ):
            self.assertEqual(text, units.format_size(size))

    def test_whole_gib(self) -> None:
        for size, gib in (
            (0, 0), (1, 1), (1 << 30, 1), ((1 << 30) + 1, 2), (5 << 30, 5),
        ):  # fmt: skip
            self.assertEqual(gib, units.gib(size))


class TestHeadroom(base.TestCase):
    def test_size(self) -> None:
        for text, size in _SIZES.items():
            self.assertEqual(
                units.Headroom(size=size), units.parse_headroom(text)
            )
        self.assertEqual(64 << 20, units.parse_headroom('64M').of(12345))

    def test_percentage(self) -> None:
        for text, percent in (
            ('5%', 5), ('0%', 0), ('12.5%', 12.5), (' 5 % ', 5),
            ('150%', 150),
        ):  # fmt: skip
            found = units.parse_headroom(text)
            self.assertEqual(units.Headroom(percent=percent), found)
            self.assertEqual(10 * percent, found.of(1000))

    def test_refused(self) -> None:
        for text in (*_NO_SIZES, *_NO_PERCENTAGES):
            if text == '5%':
                continue
            error = self.assertRaises(
                errors.UsageError, units.parse_headroom, text
            )
            self.assertIn(repr(text), str(error))
            self.assertIn('5%', str(error))

    def test_written(self) -> None:
        for text in ('5%', '12.5%', '64.0 MiB', '0 bytes'):
            written = text.replace('.0 ', '').replace(' bytes', '')
            self.assertEqual(text, str(units.parse_headroom(written)))
