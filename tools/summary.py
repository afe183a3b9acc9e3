# SPDX-License-Identifier: Apache-2.0

"""Tell which tests of a run failed, and why, and count them all."""

import sys

import subunit
import testtools

_GOOD = ('success', 'skip', 'xfail')


def main(stream: str, log: str) -> int:
    """Read what a run of stestr left behind.

    :param stream: the file with what ``stestr run --subunit`` wrote: results
        in subunit's format; or text, if it did not come to run tests.
    :param log: the file with what it wrote on stderr.
    :returns: the exit status: 0 if there were tests, and none failed.
    """
    tests: list[dict] = []
    result = testtools.StreamToDict(tests.append)
    result.startTestRun()
    with open(stream, 'rb') as file:
        # Text between the results would be an error without a name.
        subunit.ByteStreamToStreamResult(file, 'text').run(result)
    result.stopTestRun()
    tests = [t for t in tests if t['id'] and t['status'] != 'exists']
    # One that a worker took with it when it broke down never got a status.
    failed = [test for test in tests if test['status'] not in _GOOD]
    skipped = sum(test['status'] == 'skip' for test in tests)
    for test in failed:
        print(f'--- {test["id"]} ({test["status"]})')
        for name, content in test['details'].items():
            text = content.as_text().strip()
            if text:
                print(f'{name}:\n{text}')
    if not tests:
        for name in (stream, log):
            with open(name, errors='replace') as file:
                print(file.read().strip())
    if skipped:
        print(f'{skipped} skipped')
    print(f'{len(tests) - len(failed) - skipped} passed, {len(failed)} failed')
    return 1 if failed or len(tests) == skipped else 0


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
