# SPDX-License-Identifier: Apache-2.0

"""A short run of the fuzzer, of seeds that stay the same."""

from amiclient.tests import base
from amiclient.tests.fuzz import fuzzer as fuzz
from amiclient.tests.fuzz import run as fuzz_run
from amiclient.tests.unit.ext import shrinking

#: One seed a test, so that several workers share them.
_SEEDS = ('101', '102', '103', '104')
_INPUTS = 12


@shrinking.for_each(*_SEEDS)
class TestFuzz(base.TestCase):
    def check_seed(self, seed: str) -> None:
        with fuzz_run.scratch() as directory:
            fuzzer = fuzz.Fuzzer(int(seed), directory)
            for index in range(_INPUTS):
                made = fuzzer.make(index)
                report = fuzzer.attempt(made)
                self.assertEqual(
                    [], report.findings, f'{seed}-{index}: {made.about}'
                )


class TestFuzzer(base.TestCase):
    def test_an_input_depends_on_its_numbers_only(self) -> None:
        one = fuzz.Fuzzer(5, self.tmp())
        other = fuzz.Fuzzer(5, self.tmp())
        one.make(3)
        for index in (7, 8):
            first, second = one.make(index), other.make(index)
            self.assertEqual(first.about, second.about)
            self.assertTrue(first.data == second.data, first.about)
        third = fuzz.Fuzzer(6, self.tmp()).make(7)
        self.assertNotEqual(one.make(7).about, third.about)

    def findings(self, target: fuzz_run.Target) -> str:
        path = self.tmp() / 'input'
        path.write_bytes(b'data')
        report = fuzz_run.run(path, {'it': target}, self.tmp())
        return ' '.join(report.findings)

    def test_what_must_not_happen_is_found(self) -> None:
        def crash(path, directory):
            raise ZeroDivisionError

        def write(path, directory):
            path.write_bytes(b'other')

        def litter(path, directory):
            (directory.parent.parent / 'litter').touch()

        def leave(path, directory):
            (directory.parent / 'left').touch()

        def grow(path, directory):
            self.assertEqual(400 << 20, len(b'x' * (400 << 20)))

        for target, words in (
            (crash, 'ZeroDivisionError'),
            (write, 'was changed'),
            (litter, 'written outside'),
            (leave, 'left behind'),
            (grow, 'MiB of memory'),
        ):
            self.assertIn(words, self.findings(target))
        self.assertEqual('', self.findings(lambda path, directory: None))

    def test_what_takes_too_long_is_found(self) -> None:
        self.patch(fuzz_run, 'SECONDS', 1)

        def spin(path, directory):
            while True:
                pass

        self.assertIn('Late', self.findings(spin))
