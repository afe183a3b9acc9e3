# SPDX-License-Identifier: Apache-2.0

"""The sha512 of a file, for the manifest of a saved triple."""

import hashlib
import os
import pathlib

from amiclient import files
from amiclient.progress import Progress
from amiclient.progress import QUIET
from amiclient.source import opening
from amiclient import sparse

_ZEROS = bytes(sparse.CHUNK)


def sha512(
    path: pathlib.Path,
    *,
    wanted: str = 'a file',
    description: str = 'Hashing',
    progress: Progress = QUIET,
) -> str:
    """Hash a file; its holes are not read, for that takes as long as data.

    :param wanted: what it should be, for the text of errors.
    :raises SourceError: if it cannot be read, or is no file.
    :raises BusyError: if it was changed meanwhile.
    """
    hasher = hashlib.sha512()
    with opening.opened(path, wanted=wanted) as file:
        descriptor = file.fileno()
        before = files.state(descriptor)
        size = os.fstat(descriptor).st_size
        with progress.task(description, size) as task:
            position = 0
            for start, end in sparse.data_in(descriptor, 0, size):
                _add_zeros(hasher, start - position)
                task.advance(start - position)
                for offset in range(start, end, sparse.CHUNK):
                    count = min(sparse.CHUNK, end - offset)
                    hasher.update(files.read_at(descriptor, count, offset))
                    task.advance(count)
                position = end
            _add_zeros(hasher, size - position)
        files.refuse_changed(path, before, files.state(descriptor))
    return hasher.hexdigest()


def _add_zeros(hasher: 'hashlib._Hash', count: int) -> None:
    while count > 0:
        hasher.update(_ZEROS[:count])
        count -= len(_ZEROS)
