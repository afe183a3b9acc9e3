# SPDX-License-Identifier: Apache-2.0

"""Run tests in several processes that take them from one queue.

stestr deals the tests out before it begins, and does not know how long they
take where they have not run before: then one worker runs alone for minutes.
Here a worker takes the next ones when it has time for them: a functional
test, or all unit tests of a class, which may share what took long to make.
What takes longest comes first. Only what failed is told in detail; the last
line counts the tests.
"""

from collections.abc import Iterable, Iterator, Sequence
import gc
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile
import time
from typing import Any
import unittest

import testtools

#: How long the pieces took when they were run last, in seconds.
_TIMES = pathlib.Path('.test', 'times.json')

#: What takes long, where that is not known.
_LONG = ('any_moment', 'whole_way', 'runbooks', 'test_boot', 'build_groups')

#: Bytes of a number in the queue.
_RECORD = 4

_GOOD = ('success', 'skip', 'xfail')

#: Tests that one worker runs, one after the other.
Piece = list[unittest.TestCase]


def main(workers: str, *patterns: str) -> int:
    """Run tests.

    :param workers: how many processes there are to be.
    :param patterns: regular expressions, which all are found in the ids of
        the tests; the first one chooses whole classes.
    :returns: the exit status: 0 if there were tests, and none failed.
    """
    known = json.loads(_TIMES.read_text()) if _TIMES.exists() else {}
    pieces = _ordered(_pieces(patterns), known)
    place = pathlib.Path(tempfile.mkdtemp(prefix='amiclient-run-'))
    queue = _queue(place, len(pieces))
    children = set()
    gc.freeze()
    for number in range(int(workers)):
        child = os.fork()
        if not child:
            return _work(queue, pieces, place / f'{number}')
        children.add(child)
    for child in children:
        os.waitpid(child, 0)
    results, took = _read(place)
    failed = _tell(
        [test.id() for piece in pieces.values() for test in piece],
        results,
        place,
    )
    if len(patterns) == 1:
        _TIMES.parent.mkdir(exist_ok=True)
        _TIMES.write_text(json.dumps(known | took, indent=0, sort_keys=True))
    shutil.rmtree(place)
    return failed


def _pieces(patterns: Sequence[str]) -> dict[str, Piece]:
    """Find the tests, and put together what is run together."""
    found = unittest.defaultTestLoader.discover(
        'amiclient/tests', top_level_dir='.'
    )
    searches = [re.compile(pattern).search for pattern in patterns]
    pieces: dict[str, Piece] = {}
    for test in _flat(found):
        name = test.id()
        # What could not be imported belongs to the run, whatever is chosen.
        if 'FailedTest' in name or all(search(name) for search in searches):
            key = name if '.functional.' in name else name.rpartition('.')[0]
            pieces.setdefault(key, []).append(test)
    return pieces


def _flat(suite: Iterable[Any]) -> Iterator[unittest.TestCase]:
    for each in suite:
        if isinstance(each, unittest.TestCase):
            yield each
        else:
            yield from _flat(each)


def _ordered(
    pieces: dict[str, Piece], known: dict[str, float]
) -> dict[str, Piece]:
    def guess(name: str) -> float:
        if name in known:
            return known[name]
        if any(word in name for word in _LONG):
            return 60.0
        return 3.0 if '.functional.' in name else 1.0

    names = sorted(pieces, key=guess, reverse=True)
    return {name: pieces[name] for name in names}


def _queue(place: pathlib.Path, length: int) -> int:
    """Make a file; whoever reads of it gets what nobody has got before."""
    path = place / 'queue'
    numbers = (number.to_bytes(_RECORD, 'big') for number in range(length))
    path.write_bytes(b''.join(numbers))
    return os.open(path, os.O_RDONLY)


def _work(queue: int, pieces: dict[str, Piece], place: pathlib.Path) -> int:
    """Be a worker: run what is next, until there is nothing.

    :param place: the beginning of the names of what it writes.
    """
    names = list(pieces)
    output = os.open(f'{place}.output', os.O_WRONLY | os.O_CREAT, 0o600)
    for number in (1, 2):
        os.dup2(output, number)
    with open(f'{place}.results', 'w', encoding='utf-8') as file:

        def write(**line: object) -> None:
            print(json.dumps(line), file=file, flush=True)

        def note(test: dict[str, Any]) -> None:
            texts = {
                k: v.as_text().strip() for k, v in test['details'].items()
            }
            write(id=test['id'], status=test['status'], details=texts)

        result = testtools.ExtendedToStreamDecorator(
            testtools.StreamToDict(note)
        )
        result.startTestRun()
        while record := os.read(queue, _RECORD):
            name = names[int.from_bytes(record, 'big')]
            begin = time.monotonic()
            unittest.TestSuite(pieces[name]).run(result)
            write(piece=name, took=round(time.monotonic() - begin, 2))
        result.stopTestRun()
    return 0


def _read(
    place: pathlib.Path,
) -> tuple[dict[str, dict[str, Any]], dict[str, float]]:
    """Read what the workers have written.

    :returns: results of tests by their ids, and seconds by pieces.
    """
    results: dict[str, dict[str, Any]] = {}
    took: dict[str, float] = {}
    for path in place.glob('*.results'):
        for line in map(json.loads, path.read_text().splitlines()):
            if 'took' in line:
                took[line['piece']] = line['took']
            else:
                results[line['id']] = line
    return results, took


def _tell(
    ids: list[str], results: dict[str, dict[str, Any]], place: pathlib.Path
) -> int:
    """Tell what failed, and how many tests there were.

    :returns: the exit status.
    """
    lost = [name for name in ids if name not in results]
    failed = [r for r in results.values() if r['status'] not in _GOOD]
    skipped = sum(r['status'] == 'skip' for r in results.values())
    for test in failed:
        print(f'--- {test["id"]} ({test["status"]})')
        for name, text in test['details'].items():
            if text:
                print(f'{name}:\n{text}')
    if lost:
        # A worker took them with it when it broke down.
        print('--- without a result:', *lost, sep='\n')
        for path in sorted(place.glob('*.output')):
            print(path.read_text(errors='replace').strip()[-4000:])
    bad = len(failed) + len(lost)
    if skipped:
        print(f'{skipped} skipped')
    print(f'{len(results) - len(failed) - skipped} passed, {bad} failed')
    return 1 if bad or len(results) == skipped else 0


if __name__ == '__main__':
    # What it finds is imported from here.
    sys.path.insert(0, os.getcwd())
    sys.exit(main(*sys.argv[1:]))
