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


"""The one door for sources: whatever holds a root filesystem.

A filesystem is taken as it is. From anything else (a disk with partitions, a
compressed file, an archive, a folder) its root filesystem is made in a
temporary folder, which goes away at the end.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import pathlib

from amiclient import progress as progress_
from amiclient.source import bundle

Source = bundle.Source


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """How a source is taken.

    :param partition: the number of the partition with the root filesystem;
        None for the one that is found.
    :param allow_backing_file: whether a disk image may name other files that
        hold a part of it.
    :param repair: whether e2fsck may mend more than preening does where a
        filesystem that was taken out of a disk is not in order.
    :param work_directory: where to make what is temporary; None for the
        usual places.
    """

    partition: int | None = None
    allow_backing_file: bool = False
    repair: bool = False
    work_directory: pathlib.Path | None = None


@contextlib.contextmanager
def opened(
    path: pathlib.Path,
    choice: Choice | None = None,
    *,
    progress: progress_.Progress = progress_.QUIET,
) -> Iterator[Source]:
    """Take what the user named as a source.

    What was made for it goes away at the end of the block.

    :param choice: how; None for the usual way.
    :param progress: who watches what takes time.
    :raises SourceError: if it is damaged, or is none. If it is something
        else altogether, whoever opens ``root`` says what it is.
    :raises NoSpaceError: if there is no room for what has to be made.
    """
    choice = choice or Choice()
    with bundle.opened(
        path, work_directory=choice.work_directory, progress=progress
    ) as source:
        yield source
