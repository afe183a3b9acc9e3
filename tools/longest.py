# SPDX-License-Identifier: Apache-2.0

"""Tell stestr which tests take long, where it has not measured that itself.

It gives each worker its tests before they begin, by how long they took the
last time. In a fresh clone, it knows nothing, and one worker may get most of
those that take long. ``longest.txt`` has them, with seconds, as ``stestr
slowest`` tells them. A line that is out of date does no harm.
"""

import pathlib

from stestr.repository import file

_LONGEST = pathlib.Path(__file__).with_name('longest.txt')


def main() -> None:
    """Make the directory of stestr's results, if there is none."""
    directory = pathlib.Path('.stestr')
    if directory.exists():
        return
    file.RepositoryFactory().initialise('.')
    with file.my_dbm.open(str(directory / 'times.dbm'), 'c') as times:
        for line in _LONGEST.read_text().splitlines():
            seconds, name = line.split()
            times[f'amiclient.tests.{name}'] = seconds


if __name__ == '__main__':
    main()
