# SPDX-License-Identifier: Apache-2.0

"""The copy of a root filesystem that is sent: shrunk, or compressed.

A compressed one is a qcow2 image, where bytes matter most. The same bytes
come to the same image, by the same compression. zlib's is read by every QEMU;
zstd's is smaller and quicker, and takes QEMU 5.1 on all compute hosts, of
which the compute service's microversion tells.
"""

import contextlib
import dataclasses
import os
import pathlib
import secrets
import threading

from amiclient import confinement
from amiclient import errors
from amiclient.ext import busy
from amiclient.ext import layout
from amiclient.ext import repair
from amiclient.ext import shrink
from amiclient.glance import client
from amiclient.glance import model
from amiclient.glance.upload.request import UploadRequest
from amiclient import locks
from amiclient import process
from amiclient.progress import Progress
from amiclient.progress import QUIET
from amiclient import scratch
from amiclient import sparse

#: That of Nova 2025.1, the first release whose oldest compute hosts that it
#: works with, of 2024.1, all have QEMU 5.2 at least: MIN_QEMU_VERSION in
#: nova/virt/libvirt/driver.py, OLDEST_SUPPORTED_SERVICE_VERSION in
#: nova/objects/service.py, _MAX_API_VERSION in
#: nova/api/openstack/api_version_request.py.
_ZSTD_SINCE = (2, 100)

#: Bytes of a disk to find out by what qemu-img can do.
_TRIAL = 1 << 20

_ELSEWHERE = 'use --work-directory to choose a directory with enough room'


def plan(
    request: UploadRequest,
    root: layout.RootImage,
    *,
    exact: bool,
    progress: Progress,
) -> shrink.ShrinkPlan | None:
    """Plan the copy, in the first place that has room for it.

    :param exact: find out its size to the byte.
    :returns: None if the filesystem is to be sent as it is.
    :raises SourceError: if it can be neither shrunk nor sent.
    :raises NoSpaceError: if there is no room anywhere.
    """
    if not request.shrink:
        busy.refuse_busy(request.source)
        repair.refuse_unclean(root)
        return None
    wanted = shrink.ShrinkRequest(
        image=root,
        options=request.options,
        in_place=True,
        own=True,
        durable=False,
        work_directory=request.source.parent,
    )
    if request.own:
        return shrink.plan(wanted, check=True, exact=exact, progress=progress)
    lack: errors.NoSpaceError | None = None
    for place in scratch.candidates(request.work_directory, request.source):
        elsewhere = dataclasses.replace(
            wanted,
            in_place=False,
            own=False,
            # It is going to be in a directory of its own there.
            output=place / f'.amiclient-{secrets.token_hex(8)}',
            work_directory=place,
        )
        try:
            return shrink.plan(
                elsewhere, check=True, exact=exact, progress=progress
            )
        except errors.NoSpaceError as error:
            lack = lack or error
    if lack is None:
        raise errors.NoSpaceError(
            'there is no directory that the copy can be made in',
            hint='name one with --work-directory',
        )
    lack.hint = _ELSEWHERE
    raise lack


def make(
    planned: shrink.ShrinkPlan | None,
    payload: model.Payload,
    stack: contextlib.ExitStack,
    *,
    progress: Progress,
    cancel: threading.Event | None = None,
) -> model.Payload:
    """Make what is sent: the shrunk copy, compressed if that is wanted.

    :param planned: how it is shrunk; None if not.
    :param payload: what the plan says is sent.
    :param stack: removes the copy when it is closed.
    :returns: what is sent, now that its size is known.
    :raises AmiError: as :func:`amiclient.ext.shrink.execute` does.
    """
    if planned is not None:
        payload = _shrunk(planned, payload, stack, progress, cancel)
    if payload.pack is None:
        return payload
    place = payload.pack.directory
    directory = stack.enter_context(scratch.workshop(place))
    with scratch.named(directory, place):
        return pack(
            payload,
            directory,
            own=planned is not None,
            progress=progress,
            cancel=cancel,
        )


def plan_packing(
    request: UploadRequest,
    shrunk: shrink.ShrinkPlan | None,
    catalog: client.Catalog,
) -> model.Packing | None:
    """Choose how, and where, a compressed image is made.

    :returns: None if none is wanted.
    """
    if request.image_format != 'qcow2':
        return None
    directory = (
        shrunk.directory
        if shrunk is not None
        else scratch.roomiest(
            request.work_directory,
            request.source,
            'there is no directory to compress the root filesystem in',
        )
    )
    # The compute service tells; if there is none, or it does not answer,
    # nothing is certain.
    newest = catalog.newest_microversion('compute')
    zstd = newest is not None and newest >= _ZSTD_SINCE
    return model.Packing(directory, zstd=zstd)


def _shrunk(
    planned: shrink.ShrinkPlan,
    payload: model.Payload,
    stack: contextlib.ExitStack,
    progress: Progress,
    cancel: threading.Event | None,
) -> model.Payload:
    # What is shrunk in place is temporary itself, and goes away with whoever
    # made it.
    if not planned.in_place:
        scratch.sweep(planned.directory)
        directory = stack.enter_context(scratch.workshop(planned.directory))
        planned = dataclasses.replace(planned, output=directory / 'root.img')
    try:
        shrunk = shrink.execute(planned, progress=progress, cancel=cancel)
    except errors.NoSpaceError as error:
        if not planned.in_place:
            error.hint = _ELSEWHERE
        raise
    return dataclasses.replace(payload, path=shrunk.output, size=shrunk.size)


def pack(
    payload: model.Payload,
    directory: pathlib.Path,
    *,
    own: bool,
    progress: Progress,
    cancel: threading.Event | None,
) -> model.Payload:
    """Make a compressed qcow2 image, and make sure that it is the same.

    :param payload: the root filesystem, and how it is packed.
    :param directory: private, and empty.
    :param own: whether the file may be changed.
    :raises BusyError: if the file is not what it was when it was looked at.
    :raises ProgramError: if qemu-img is missing, or fails.
    :raises NoSpaceError: if there is no room for it.
    """
    source, target = payload.path.absolute(), directory / 'root.qcow2'
    with scratch.full_disk(directory), progress.task('Compressing'):
        payload.refuse_changed()
        if payload.blank or sparse.size(source) != payload.size:
            source = _tidied(payload, directory, own)
        options = _options(payload.pack, directory)
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
            scratch.refuse_full(directory)
            payload.refuse_changed()
            raise
        payload.refuse_changed()
    return model.Payload(target, target.stat().st_size)


def _options(
    packing: model.Packing | None, directory: pathlib.Path
) -> tuple[str | pathlib.Path, ...]:
    """Choose the compression, by trying whether this qemu-img can do it."""
    plain = '-O', 'qcow2'
    zstd = '-o', 'compression_type=zstd'
    if packing is None or not packing.zstd:
        return plain
    trial = directory / 'trial.qcow2'
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
    payload: model.Payload, directory: pathlib.Path, own: bool
) -> pathlib.Path:
    """Clear the boot sector, and leave out what is behind the filesystem."""
    path = payload.path
    if not own:
        path = directory / 'root.img'
        with (
            sparse.opened(payload.path, os.O_RDONLY) as reader,
            sparse.opened(path, os.O_RDWR | os.O_CREAT | os.O_EXCL) as writer,
            QUIET.task('') as task,
        ):
            payload.refuse_changed(locks.state(reader))
            sparse.copy_runs(reader, writer, [(0, payload.size)], task=task)
    with sparse.opened(path, os.O_RDWR) as descriptor:
        os.truncate(descriptor, payload.size)
        os.pwrite(descriptor, bytes(payload.blank), 0)
    return path
