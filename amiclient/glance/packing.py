# SPDX-License-Identifier: Apache-2.0

"""Root filesystems as compressed qcow2 images, where bytes matter most.

The same bytes come to the same image, by the same compression. zlib's is read
by every QEMU; zstd's is smaller and quicker, and takes QEMU 5.1 on all compute
hosts, of which the compute service's microversion tells.
"""

import os
import pathlib
import threading

from amiclient import confinement
from amiclient.ext import finish
from amiclient import files
from amiclient.glance import client
from amiclient.glance import model
from amiclient import process
from amiclient.progress import Progress
from amiclient.progress import QUIET
from amiclient import sparse


#: That of Nova 2025.1, the first release whose oldest compute hosts that it
#: works with, of 2024.1, all have QEMU 5.2 at least: MIN_QEMU_VERSION in
#: nova/virt/libvirt/driver.py, OLDEST_SUPPORTED_SERVICE_VERSION in
#: nova/objects/service.py, _MAX_API_VERSION in
#: nova/api/openstack/api_version_request.py.
_ZSTD_SINCE = (2, 100)

#: Bytes of a disk to find out by what qemu-img can do.
_TRIAL = 1 << 20


def hosts_read_zstd(catalog: client.Catalog) -> bool:
    """Tell whether all compute hosts certainly read qcow2 images with zstd.

    Asks the compute service; if there is none, or it does not answer, nothing
    is certain.
    """
    newest = catalog.newest_microversion('compute')
    return newest is not None and newest >= _ZSTD_SINCE


def pack(
    payload: model.Payload,
    folder: pathlib.Path,
    *,
    own: bool,
    progress: Progress,
    cancel: threading.Event | None,
) -> model.Payload:
    """Make a compressed qcow2 image, and make sure that it is the same.

    :param payload: the root filesystem, and how it is packed.
    :param folder: private, and empty.
    :param own: whether the file may be changed.
    :returns: the image.
    :raises BusyError: if the file is not what it was when it was looked at.
    :raises ProgramError: if qemu-img is missing, or fails.
    :raises NoSpaceError: if there is no room for it.
    """
    source, target = payload.path.absolute(), folder / 'root.qcow2'
    with finish.full_disk(folder), progress.task('Compressing'):
        payload.refuse_changed()
        if payload.blank or files.size(source) != payload.size:
            source = _tidied(payload, folder, own)
        options = _options(payload.pack, folder)
        try:
            for argv in (
                ('convert', '-f', 'raw', *options, '-c', source, target),
                ('compare', '-f', 'raw', '-F', 'qcow2', source, target),
            ):
                process.run(
                    ['qemu-img', *argv],
                    access=confinement.Access(
                        reads=(source,), writes=(target,)
                    ),
                    cancel=cancel,
                )
        except process.ProgramFailed:
            finish.refuse_full(folder)
            payload.refuse_changed()
            raise
        payload.refuse_changed()
    return model.Payload(target, target.stat().st_size)


def _options(
    packing: model.Packing | None, folder: pathlib.Path
) -> tuple[str | pathlib.Path, ...]:
    """Choose the compression, by trying whether this qemu-img can do it."""
    plain = '-O', 'qcow2'
    zstd = '-o', 'compression_type=zstd'
    if packing is None or not packing.zstd:
        return plain
    trial = folder / 'trial.qcow2'
    create = 'qemu-img', 'create', '-q', '-f', 'qcow2'
    try:
        process.run(
            [*create, *zstd, trial, str(_TRIAL)],
            access=confinement.Access(writes=(trial,)),
        )
    except process.ProgramFailed:
        return plain
    finally:
        trial.unlink(missing_ok=True)
    return *plain, *zstd


def _tidied(
    payload: model.Payload, folder: pathlib.Path, own: bool
) -> pathlib.Path:
    """Clear the boot sector, and leave out what is behind the filesystem."""
    path = payload.path
    if not own:
        path = folder / 'root.img'
        with (
            sparse.opened(payload.path, os.O_RDONLY) as reader,
            sparse.opened(path, os.O_RDWR | os.O_CREAT | os.O_EXCL) as writer,
            QUIET.task('') as task,
        ):
            payload.refuse_changed(files.state(reader))
            sparse.copy_runs(reader, writer, [(0, payload.size)], task=task)
    with sparse.opened(path, os.O_RDWR) as descriptor:
        os.truncate(descriptor, payload.size)
        os.pwrite(descriptor, bytes(payload.blank), 0)
    return path
