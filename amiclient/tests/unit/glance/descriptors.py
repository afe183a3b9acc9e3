# SPDX-License-Identifier: Apache-2.0

"""Which files this process has open: proc(5), ``/proc/pid/fd``."""

import contextlib
import os
import pathlib

_DESCRIPTORS = pathlib.Path('/proc/self/fd')


def below(directory: pathlib.Path) -> int:
    """Tell how many descriptors lead to a directory, or to what is in it.

    All there are could not be compared: those of other tests are closed when
    their garbage is collected, or their threads end.
    """
    root = directory.resolve()
    found = 0
    for name in os.listdir(_DESCRIPTORS):
        # That of the listing itself is gone.
        with contextlib.suppress(FileNotFoundError):
            path = pathlib.Path(os.readlink(_DESCRIPTORS / name))
            found += path.is_relative_to(root)
    return found
