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

"""Which files this process has open: proc(5), ``/proc/pid/fd``."""

import contextlib
import os
import pathlib

_DESCRIPTORS = pathlib.Path('/proc/self/fd')


def below(folder: pathlib.Path) -> int:
    """Tell how many descriptors lead to a folder, or to what is in it.

    All there are could not be compared: those of other tests are closed when
    their garbage is collected, or their threads end.
    """
    root = folder.resolve()
    found = 0
    for name in os.listdir(_DESCRIPTORS):
        # That of the listing itself is gone.
        with contextlib.suppress(FileNotFoundError):
            path = pathlib.Path(os.readlink(_DESCRIPTORS / name))
            found += path.is_relative_to(root)
    return found
