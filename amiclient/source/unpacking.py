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


"""Compressed filesystems and disks: unpacked into sparse files.

What they claim to unpack to is not trusted: what comes out is counted, and
the disk that it goes to is not filled up.
"""

import os
import pathlib

from amiclient import exceptions
from amiclient.ext import copy
from amiclient.ext import stage
from amiclient import files
from amiclient import progress as progress_
from amiclient.source import compression
from amiclient.source import detect
from amiclient.source import magic
from amiclient.source import opening
from amiclient.source import stream as stream_
from amiclient import sparse
from amiclient import units

_MIB = 1 << 20

#: What nothing that is unpacked here has in bytes: the largest ext4 with
#: blocks of 4 KiB and without the feature 64bit.
_MOST = 16 << 40

#: Bytes that are left free where something is unpacked.
_RESERVE = 64 * _MIB

#: Bytes of data after which the room on the disk is looked at again.
_STEP = 16 * _MIB


def is_compressed(path: pathlib.Path) -> bool:
    """Tell whether a file is compressed, by whatever."""
    if opening.special(path) is not None:
        return False
    with opening.opened(path, wanted='a source') as file:
        head = file.read(compression.MAGIC_SIZE)
    return compression.tell(head) is not None


def unpack(
    path: pathlib.Path,
    target: pathlib.Path,
    *,
    progress: progress_.Progress,
) -> None:
    """Unpack a file.

    :param target: the file that is made.
    :raises SourceError: if it is damaged, or what is in it is no source.
    :raises NoSpaceError: if there is no room for what is in it.
    """
    name = opening.shown(path)
    with (
        stream_.opened(path, wanted='a source') as stream,
        stage.full_disk(target.parent),
        copy.opened(target, os.O_RDWR | os.O_CREAT | os.O_EXCL) as descriptor,
        progress.task('Unpacking', path.stat().st_size) as task,
    ):
        _refuse_others(stream.peek(magic.HEAD), name)
        size = unlooked = position = 0
        while data := stream.read(sparse.CHUNK):
            unlooked += sum(end - start for start, end in sparse.runs(data, 0))
            if unlooked >= _STEP:
                _check_room(target.parent, name, size)
                unlooked = 0
            sparse.append(descriptor, data, size)
            size += len(data)
            if size > _MOST:
                raise exceptions.SourceError(
                    f'{name}: it unpacks to more than '
                    f'{units.format_size(_MOST)}',
                    hint='it must be damaged, or meant to fill disks',
                )
            now = stream.position()
            task.advance(now - position)
            position = now


def _refuse_others(head: bytes, name: str) -> None:
    """Refuse what is no source, before all of it is unpacked."""
    what, block = detect.examine(head, 1 << 62, name)
    if block is None and not what.endswith(
        (' disk', ' disk image', ' compressed file', '-compressed file')
    ):
        raise exceptions.SourceError(
            f'{name}: compressed; in it is {what}: only ext2, ext3 and ext4 '
            'filesystems are taken, and disks that have one'
        )


def _check_room(folder: pathlib.Path, name: str, size: int) -> None:
    room = files.room(folder)
    if room < _RESERVE + _STEP:
        raise exceptions.NoSpaceError(
            f'{name}: it is being unpacked, has come to '
            f'{units.format_size(size)}, and {folder.parent} has '
            f'{units.format_size(room)} left',
            hint='name a folder with room by --work-directory',
        )
