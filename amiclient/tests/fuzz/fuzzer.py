# SPDX-License-Identifier: Apache-2.0

"""A fuzzer: sound input is damaged at random, and must do no harm.

``python -m amiclient.tests.fuzz --seconds 600 --seed 1 --directory DIR`` goes
on where it was in that directory, counts in ``state.json`` what it has tried,
and keeps every input that did harm as ``failures/SEED-INDEX.img``, with the
story in ``SEED-INDEX.txt``. ``--only SEED-INDEX`` tries one again. An input
depends on these two numbers only, and on the time where it has a journal.
"""

import argparse
import collections
from collections.abc import Iterator
import dataclasses
import json
import os
import pathlib
import random
import shutil
import time

from amiclient.tests.fuzz import mutate
from amiclient.tests.fuzz import run as fuzz_run
from amiclient.tests.fuzz import targets
from amiclient.tests.hostile import seeds

#: One input in so many is a kernel or ramdisk.
_PARTS = 4


@dataclasses.dataclass(frozen=True)
class Input:
    """One damaged file.

    :param index: the how-manieth of its seed.
    :param about: what it was made of, and how.
    :param targets: what is to be done with it.
    """

    index: int
    about: str
    data: bytes
    targets: dict[str, fuzz_run.Target]


class Fuzzer:
    """Makes inputs and tries them.

    :param seed: where all randomness comes from.
    :param directory: for what is made.
    :param names: which of the sound filesystems are damaged.
    """

    def __init__(
        self,
        seed: int,
        directory: pathlib.Path,
        names: tuple[str, ...] = tuple(seeds.SEEDS),
    ) -> None:
        self._seed = seed
        self._directory = directory
        self._names = names
        self._sound: dict[str, mutate.Sound] = {}
        self._parts = mutate.parts()

    def make(self, index: int) -> Input:
        """Make an input."""
        rng = random.Random(f'{self._seed}-{index}')
        wanted = dict(targets.READERS)
        if rng.randrange(_PARTS) == 0:
            name = rng.choice(sorted(self._parts))
            data, how = mutate.garble(self._parts[name], rng)
            return Input(index, f'{name}: {how}', data, wanted)
        name = rng.choice(self._names)
        if name not in self._sound:
            image = seeds.make(name, self._directory)
            self._sound[name] = mutate.Sound(image)
        data, how = mutate.damage(self._sound[name], rng)
        wanted |= targets.BROWSERS
        # The first is what matters most: half of all get it.
        names = list(targets.SHRINKERS)
        chosen = rng.choice([names[0]] * (len(names) - 1) + names[1:])
        wanted[chosen] = targets.SHRINKERS[chosen]
        return Input(index, f'{name}: {how}', data, wanted)

    def attempt(self, made: Input) -> fuzz_run.Report:
        """Try an input."""
        room = self._directory / 'room'
        shutil.rmtree(room, ignore_errors=True)
        (room / 'input').mkdir(parents=True)
        (room / 'space').mkdir()
        path = room / 'input' / 'image'
        path.write_bytes(made.data)
        return fuzz_run.run(path, made.targets, room / 'space')


class Ledger:
    """What was tried, kept in a directory."""

    def __init__(self, directory: pathlib.Path, seed: int) -> None:
        self._directory = directory
        self._seed = seed
        self._file = directory / 'state.json'
        self._failures = directory / 'failures'
        self._failures.mkdir(parents=True, exist_ok=True)
        self.state: dict[str, dict[str, int]] = {}
        if self._file.exists():
            self.state = json.loads(self._file.read_text())
        self.count: collections.Counter[str] = collections.Counter(
            self.state.get(str(seed), {})
        )

    def note(self, made: Input, report: fuzz_run.Report) -> None:
        """Note what became of an input."""
        self.count['inputs'] += 1
        for name, result in report.results.items():
            word = 'taken' if result == 'ok' else 'refused'
            self.count[f'{name} {word}'] += 1
        self.count['most MiB'] = max(
            self.count['most MiB'], report.memory >> 20
        )
        self.count['most seconds'] = max(
            self.count['most seconds'], int(report.seconds + 0.999)
        )
        if report.findings:
            self.count['failures'] += 1
            stem = self._failures / f'{self._seed}-{made.index}'
            stem.with_suffix('.img').write_bytes(made.data)
            stem.with_suffix('.txt').write_text(
                '\n'.join([made.about, *report.findings]) + '\n'
            )
        self.state[str(self._seed)] = dict(self.count)
        temporary = self._file.with_suffix('.new')
        temporary.write_text(json.dumps(self.state, indent=1))
        os.replace(temporary, self._file)


def go(
    seed: int, seconds: float, ledger: Ledger, directory: pathlib.Path
) -> Iterator[tuple[Input, fuzz_run.Report]]:
    """Try inputs, one after the other, until the time is over."""
    fuzzer = Fuzzer(seed, directory)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        made = fuzzer.make(ledger.count['inputs'])
        report = fuzzer.attempt(made)
        ledger.note(made, report)
        yield made, report


def main() -> int:
    """Fuzz as the command line says.

    :returns: the exit status: 1 if any input did harm.
    """
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--seconds', type=float, default=60.0)
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument(
        '--directory', type=pathlib.Path, default=pathlib.Path('fuzz')
    )
    parser.add_argument('--only', help='SEED-INDEX of an input to try again')
    wanted = parser.parse_args()
    with fuzz_run.scratch() as directory:
        if wanted.only:
            seed, index = map(int, wanted.only.split('-'))
            fuzzer = Fuzzer(seed, directory)
            made = fuzzer.make(index)
            report = fuzzer.attempt(made)
            print(made.about, *report.results.items(), sep='\n')
            print(*report.findings, sep='\n')
            return 1 if report.findings else 0
        ledger = Ledger(wanted.directory, wanted.seed)
        for made, report in go(wanted.seed, wanted.seconds, ledger, directory):
            for finding in report.findings:
                print(f'{wanted.seed}-{made.index}: {made.about}')
                print('   ', finding.strip().splitlines()[-1], flush=True)
    for name in sorted(ledger.count):
        print(f'{name:24} {ledger.count[name]}')
    return 1 if ledger.count['failures'] else 0
