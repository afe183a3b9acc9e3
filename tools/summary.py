#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.

"""Tell which tests of the last run failed, and why, and count them all."""

import subprocess
import sys

import subunit
import testtools

_GOOD = ('success', 'skip', 'xfail')


def main(log: str) -> int:
    """Read what stestr kept of its last run.

    :param log: the file with what ``stestr run`` printed; it is shown if
        there was no test.
    :returns: the exit status: 0 if there were tests, and none failed.
    """
    with subprocess.Popen(
        ['stestr', 'last', '--subunit'], stdout=subprocess.PIPE
    ) as process:
        tests: list[dict] = []
        result = testtools.StreamToDict(tests.append)
        result.startTestRun()
        subunit.ByteStreamToStreamResult(process.stdout).run(result)
        result.stopTestRun()
    # What is left of a test case's class or a broken worker has no times.
    failed = [test for test in tests if test['status'] not in _GOOD]
    skipped = sum(test['status'] == 'skip' for test in tests)
    for test in failed:
        print(f'--- {test["id"]} ({test["status"]})')
        for name, content in test['details'].items():
            text = content.as_text().strip()
            if text:
                print(f'{name}:\n{text}')
    if not tests:
        with open(log) as file:
            print(file.read())
    if skipped:
        print(f'{skipped} skipped')
    print(f'{len(tests) - len(failed) - skipped} passed, {len(failed)} failed')
    return 1 if failed or len(tests) == skipped else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1]))
