# SPDX-License-Identifier: Apache-2.0

"""What e2fsprogs take for the present, so that it does not matter when.

``SOURCE_DATE_EPOCH`` says so, as it does for whatever else makes files that
shall be the same each time (reproducible-builds.org/specs/source-date-epoch);
without it, it is when the filesystem was written last.
"""

import os
import re

from amiclient import errors

#: The variable.
VARIABLE = 'SOURCE_DATE_EPOCH'

#: Seconds that a superblock has room for: 40 bits.
_END = 1 << 40

#: As ``date +%s`` writes it, says the specification; not before the epoch.
_NUMBER = re.compile(r'[0-9]{1,13}', re.ASCII)


def present(written: int) -> int:
    """Choose a moment.

    :param written: when the filesystem was written last.
    :returns: seconds since the epoch; never 0, which e2fsprogs take for no
        choice.
    :raises UsageError: if the variable is there, but is no such number.
    """
    text = os.environ.get(VARIABLE)
    # An empty one is how some build tools say that there is none.
    if not text:
        return max(1, written)
    if not _NUMBER.fullmatch(text) or int(text) >= _END:
        raise errors.UsageError(
            f'{VARIABLE}={text[:40]!r} is no number of seconds since 1970',
            hint='unset it, or give it one such as 1700000000',
        )
    return max(1, int(text))
