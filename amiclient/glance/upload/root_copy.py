# SPDX-License-Identifier: Apache-2.0

"""The shrunk copy of a root filesystem: where it is made, and when it goes."""

import contextlib
import dataclasses
import secrets
import threading

from amiclient import errors
from amiclient.ext import busy
from amiclient.ext import finish
from amiclient.ext import image
from amiclient.ext import repair
from amiclient.ext import shrink
from amiclient.ext import workplace
from amiclient.glance import client
from amiclient.glance import model
from amiclient.glance import packing
from amiclient.glance.upload.request import UploadRequest
from amiclient.progress import Progress
from amiclient import scratch

_ELSEWHERE = 'name a directory with room by --work-directory'


def plan(
    request: UploadRequest,
    root: image.RootImage,
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
    if request.own:
        wanted = shrink.ShrinkRequest(
            image=root,
            headroom=request.headroom,
            journal=request.journal,
            repair=request.repair,
            in_place=True,
            own=True,
            durable=False,
            work_directory=request.source.parent,
        )
        return shrink.plan(wanted, check=True, exact=exact, progress=progress)
    lack: errors.NoSpaceError | None = None
    for directory in workplace.candidates(
        request.work_directory, request.source
    ):
        wanted = shrink.ShrinkRequest(
            image=root,
            # It is going to be in a folder of its own there.
            output=directory / f'.amiclient-{secrets.token_hex(8)}',
            headroom=request.headroom,
            journal=request.journal,
            repair=request.repair,
            durable=False,
            work_directory=directory,
        )
        try:
            return shrink.plan(
                wanted, check=True, exact=exact, progress=progress
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
    place = payload.pack.folder
    folder = stack.enter_context(finish.workshop(place))
    with workplace.named(folder, place):
        return packing.pack(
            payload,
            folder,
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
    :raises NoSpaceError: if there is no place for it.
    """
    if request.image_format != 'qcow2':
        return None
    if shrunk is not None:
        folder = shrunk.folder
    else:
        folder = workplace.roomiest(
            request.work_directory,
            request.source,
            'there is no folder to compress the root filesystem in',
        )
    return model.Packing(folder, zstd=packing.hosts_read_zstd(catalog))


def _shrunk(
    planned: shrink.ShrinkPlan,
    payload: model.Payload,
    stack: contextlib.ExitStack,
    progress: Progress,
    cancel: threading.Event | None,
) -> model.Payload:
    if planned.in_place:
        # It is temporary itself, and goes away with whoever made it.
        shrunk = shrink.execute(planned, progress=progress, cancel=cancel)
        return dataclasses.replace(
            payload, path=shrunk.output, size=shrunk.size
        )
    scratch.sweep(planned.folder)
    folder = stack.enter_context(finish.workshop(planned.folder))
    planned = dataclasses.replace(planned, output=folder / 'root.img')
    try:
        shrunk = shrink.execute(planned, progress=progress, cancel=cancel)
    except errors.NoSpaceError as error:
        error.hint = _ELSEWHERE
        raise
    return dataclasses.replace(payload, path=shrunk.output, size=shrunk.size)
