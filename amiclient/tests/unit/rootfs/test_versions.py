# SPDX-License-Identifier: Apache-2.0

"""Versions, compared as package managers compare them."""

import random

from amiclient import process
from amiclient.rootfs import versions
from amiclient.tests import base


def order(manager: str, one: str, other: str) -> int:
    return versions.holds(manager, one, '>', other) - versions.holds(
        manager, one, '<', other
    )


class TestReal(base.TestCase):
    """Versions at random, and the programs themselves."""

    def setUp(self) -> None:
        super().setUp()
        self.chance = random.Random(7)

    def pair(self, letters: str, ends: str) -> tuple[str, str]:
        def word(letters: str) -> str:
            count = self.chance.randint(1, 8)
            return ''.join(self.chance.choices(letters, k=count))

        one = f'1{word(letters)}'
        begin = one[: self.chance.randint(1, len(one))]
        return one, begin + word(ends)

    def test_rpm(self) -> None:
        pairs = [self.pair('0019aAzb.~^_+', '01a.~^') for _ in range(2000)]
        path = self.tmp() / 'compare.lua'
        path.write_text(
            '\n'.join(f'print(rpm.vercmp("{a}", "{b}"))' for a, b in pairs)
        )
        told = process.run(['rpmlua', path], access=None).text.split()
        self.assertEqual(len(pairs), len(told))
        for (one, other), wanted in zip(pairs, told, strict=True):
            found = order('rpm', one, other)
            self.assertEqual(int(wanted), found, (one, other))

    def test_dpkg(self) -> None:
        for _ in range(100):
            one, other = self.pair('0019azA.~+-', '01a.~+')
            one = one.rstrip('-')
            for relation, name in (('<', 'lt'), ('=', 'eq')):
                status = process.run(
                    ['dpkg', '--compare-versions', one, name, other],
                    access=None,
                    ok=(0, 1),
                ).status
                self.assertEqual(
                    not status,
                    versions.holds('dpkg', one, relation, other),
                    (one, relation, other),
                )


class TestTables(base.TestCase):
    def check(self, manager: str, table: str) -> None:
        for line in table.strip().splitlines():
            one, relation, other = line.split()
            for each in ('<', '=', '>'):
                self.assertEqual(
                    each == relation,
                    versions.holds(manager, one, each, other),
                    line,
                )

    def test_apk(self) -> None:
        """The facts are those of test/version.data of apk-tools."""
        self.check(
            'apk',
            """
            1.3-r0 < 1.3.1-r0
            1.3_pre1-r1 < 1.3.2
            1.0_p10-r0 > 1.0_p9-r0
            0.1.0_alpha_pre2 < 0.1.0_alpha
            1.0.0_pre20191002222144-r0 < 1.0.0_pre20210530193627-r0
            1.06-r6 < 006
            006 > 1.0.0
            1.2.07.8 < 1.2.12.04
            0.0.25 < 0.17
            1.02 < 1.03-r1
            1.39 > 1.00_beta2
            2.5.1-r8 < 2.5.1a-r1
            4.5_p1-r1 > 4.5_p1
            1.1 > 1.1_alpha1
            1.8.5 < 1.8.5_p2
            6b-r7 > 1.12-r7
            1.07-r1 < 1.07.5
            3.0.24 = 3.0.24
            5.6.1-r10 > 5.6.1-r9
            """,
        )

    def test_pacman(self) -> None:
        """The facts are those of test/util/vercmptest.sh of pacman."""
        self.check(
            'pacman',
            """
            1.5.1 > 1.5
            1.5.0-1 < 1.5.0-2
            1.5 = 1.5-1
            1.0-1 < 1.1
            1.5b-1 < 1.5-1
            1.5b < 1.5.1
            1.0a < 1.0alpha
            1.0alpha < 1.0b
            1.0rc < 1.0
            1.5.a > 1.5
            1.5.1 > 1.5.b
            1.5-1 < 1.5.b
            1:1.0 > 2.0
            """,
        )

    def test_epochs_and_releases(self) -> None:
        self.check(
            'dpkg', '1:1.0 > 2.0\n0:1.0 = 1.0\n1.0-1 > 1.0\n1.0-0 = 1.0'
        )
        self.check('rpm', '1:1.0-1 > 2.0-1\n0:1-1 = 1-1\n1.0-9 = 1.0')
        self.check('rpm', '1.0-1 < 1.0-2\n1.0-1~rc1 < 1.0-1')

    def test_numbers_of_any_length(self) -> None:
        long = '9' * 10_000
        for manager in ('apk', 'dpkg', 'pacman', 'rpm'):
            self.assertEqual(1, order(manager, f'1.{long}', '1.8'))

    def test_what_is_no_version(self) -> None:
        for manager, bad in (
            ('apk', '5.4.1+deb12u1'),
            ('apk', '1.0bc'),
            ('dpkg', ''),
        ):
            for pair in ((bad, '1'), ('1', bad)):
                error = self.assertRaises(ValueError, order, manager, *pair)
                self.assertIn(f'{bad!r} is not a version', str(error))
