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


"""Root filesystems as compressed qcow2 images, where bytes matter most.

The compression is zlib's, which every QEMU reads; zstd takes QEMU 5.1 on the
compute hosts, which no cloud tells of. The same bytes come to the same image.
"""

import dataclasses
import os
import pathlib
import threading

from amiclient.ext import copy
from amiclient.ext import stage
from amiclient import files
from amiclient.glance import model
from amiclient import process
from amiclient import progress as progress_


def pack(
    payload: model.Payload,
    folder: pathlib.Path,
    *,
    own: bool,
    progress: progress_.Progress,
    cancel: threading.Event | None,
) -> model.Payload:
    """Make a compressed qcow2 image, and make sure that it is the same.

    :param payload: the root filesystem.
    :param folder: private, and empty.
    :param own: whether the file may be changed.
    :returns: the image.
    :raises ProgramError: if qemu-img is missing, or fails.
    :raises NoSpaceError: if there is no room for it.
    """
    source, target = payload.path.absolute(), folder / 'root.qcow2'
    if payload.blank or files.size(source) != payload.size:
        source = _tidied(payload, folder, own)
    with stage.full_disk(folder), progress.task('Compressing'):
        try:
            for argv in (
                ('convert', '-f', 'raw', '-O', 'qcow2', '-c', source, target),
                ('compare', '-f', 'raw', '-F', 'qcow2', source, target),
            ):
                process.run(['qemu-img', *argv], cancel=cancel)
        except process.ProgramFailed:
            stage.refuse_full(folder)
            raise
    return dataclasses.replace(
        payload, path=target, size=target.stat().st_size, blank=0, pack=None
    )


def _tidied(
    payload: model.Payload, folder: pathlib.Path, own: bool
) -> pathlib.Path:
    """Clear the boot sector, and leave out what is behind the filesystem."""
    path = payload.path
    if not own:
        path = folder / 'root.img'
        with (
            copy.opened(payload.path, os.O_RDONLY) as reader,
            copy.opened(path, os.O_RDWR | os.O_CREAT | os.O_EXCL) as writer,
            progress_.QUIET.task('') as task,
        ):
            copy.copy_runs(reader, writer, [(0, payload.size)], task=task)
    with copy.opened(path, os.O_RDWR) as descriptor:
        os.truncate(descriptor, payload.size)
        os.pwrite(descriptor, bytes(payload.blank), 0)
    return path
