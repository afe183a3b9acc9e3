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

"""What the system lets a process have."""

import errno
import resource

from amiclient import exceptions

#: What write(2) says when there is no room, for this user or at all.
FULL = (errno.ENOSPC, errno.EDQUOT)

#: What to do about a limit to the size of files, as bash(1) has it.
RAISE = 'raise the limit: ulimit -f unlimited'


def file() -> int | None:
    """Tell the bytes that a file may have (setrlimit(2)); None for any."""
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return None if limit == resource.RLIM_INFINITY else limit


def too_large(where: object) -> exceptions.TooLargeError:
    """Say why a file cannot become as large as it would have to (EFBIG).

    :param where: what to call the folder that it is in.
    """
    limit = file()
    if limit is None:
        return exceptions.TooLargeError(
            f'{where}: the filesystem there cannot hold a file that large',
            hint='choose a directory on another one',
        )
    return exceptions.TooLargeError(
        f'{where}: files are limited to {limit} bytes here',
        hint=RAISE,
    )
