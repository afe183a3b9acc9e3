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

"""What the kernel tells of leases: fcntl(2), ``F_SETLEASE``."""

import fcntl
import os
import pathlib

_LOCKS = pathlib.Path('/proc/locks')


def known(descriptor: int) -> bool:
    """Tell whether a file can be leased, which not every filesystem knows.

    :param descriptor: of a file that nobody has open for writing.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    return True


def wanted() -> bool:
    """Tell whether somebody waits for a lease of ours to end."""
    ours = f' {os.getpid()} '
    return any(
        'BREAKING' in line and ours in line
        for line in _LOCKS.read_text().splitlines()
    )
