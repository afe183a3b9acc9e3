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


"""The sha512 of a file, for the manifest of a saved triple."""

import hashlib
import os
import pathlib

from amiclient.ext import copy
from amiclient import files
from amiclient import progress as progress_
from amiclient.source import opening
from amiclient import sparse

_ZEROS = bytes(sparse.CHUNK)


def sha512(
    path: pathlib.Path,
    *,
    wanted: str = 'a file',
    description: str = 'Hashing',
    progress: progress_.Progress = progress_.QUIET,
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
            for start, end in copy.data_in(descriptor, 0, size):
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
