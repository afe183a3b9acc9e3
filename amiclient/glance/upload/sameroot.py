# SPDX-License-Identifier: Apache-2.0

"""A root filesystem whose bytes the cloud may hold already.

A kernel is compared as it is; but what is sent of a root filesystem is there
only when it was shrunk. So the plan looks for images that are what the new
one would be in all that can be known before: links, formats, name, properties
and so on. Only if there are any is the filesystem shrunk before anything is
created, and its copy compared with them.
"""

import contextlib
import dataclasses
import functools
import logging

from amiclient.ext import shrink
from amiclient.glance import client
from amiclient.glance import model
from amiclient.glance.transfer import upload
from amiclient.glance.upload import request as request_
from amiclient.glance.upload import reuse
from amiclient.glance.upload import root_copy
from amiclient.progress import Progress

LOG = logging.getLogger(__name__)

#: How much an upload may be larger than its source, but for what was asked
#: to be added: alignment, and what a filesystem needs to describe itself.
_SLACK = 128 << 20


def look(
    request: request_.UploadRequest,
    creation: request_.Creation,
    kernel: request_.Step | None,
    ramdisk: request_.Step | None,
    shrunk: shrink.ShrinkPlan | None,
    catalog: client.Catalog,
    *,
    exact: bool,
) -> tuple[tuple[model.ImageRecord, ...], tuple[reuse.Other, ...]]:
    """Find images that may hold the bytes of a root filesystem.

    :param creation: the image that would be created.
    :param shrunk: how its data is going to be made; None if it is there.
    :param exact: whether its size is known.
    :returns: those that would do if they do, and those that would not.
    :raises CloudError: if the cloud does not answer as it should.
    """
    links: dict[str, str | None] = {}
    for kind, step in ((model.Kind.AKI, kernel), (model.Kind.ARI, ramdisk)):
        if isinstance(step, request_.Creation):
            # Nothing links to what is not there yet.
            return (), ()
        links[model.LINKS[kind]] = step.record.id if step else None
    settings, new = request.settings, creation.new
    if not settings.reuse or new.id is not None:
        return (), ()
    sizes = (creation.size, creation.size)
    if shrunk is not None and (creation.payload.pack or not exact):
        sizes = (1, _most(request, shrunk))
    elif creation.payload.pack:
        sizes = (1, creation.size + _SLACK)
    formats = (new.disk_format, new.container_format)
    wanted = reuse.Wanted(
        formats=formats,
        visibility=settings.visibility,
        exactly_visible=settings.visibility is not None,
        hidden=settings.hidden,
        owner=settings.owner,
        foreign=False,
        name=new.name,
        protected=settings.protected,
        store=settings.store,
        min_disk=request.min_disk,
        min_ram=request.min_ram or 0,
        tags=new.tags,
        properties={**new.properties, **links},
    )
    project = settings.owner or catalog.project()
    # Another project's will not do; of raw ones, a cloud may have thousands.
    filters = {'owner': project, **links}
    found = reuse.candidates(
        catalog,
        formats,
        sizes,
        hidden=settings.hidden,
        **{name: value for name, value in filters.items() if value},
    )
    whys = [(i, reuse.unfit(i, wanted, project)) for i in found]
    return (
        tuple(image for image, why in whys if why is None),
        tuple(reuse.Other(image, why) for image, why in whys if why),
    )


def _most(request: request_.UploadRequest, shrunk: shrink.ShrinkPlan) -> int:
    journal = request.journal if isinstance(request.journal, int) else 0
    headroom = request.headroom.of(shrunk.image.superblock.in_use)
    return shrunk.size_before + headroom + journal + _SLACK


def settle(
    plan: request_.RegisterPlan,
    stack: contextlib.ExitStack,
    *,
    progress: Progress,
) -> request_.RegisterPlan:
    """Find out whether an image has to be created for a root filesystem.

    :param stack: removes what was made for it when it is closed.
    :returns: a plan in which this is decided; if there was something to
        decide, the filesystem has been shrunk.
    :raises AmiError: if it cannot be shrunk, or read.
    """
    if isinstance(plan.ami, request_.Reuse) or not plan.alike:
        return plan
    payload = plan.ami.payload
    if plan.shrink is not None or payload.pack is not None:
        payload = root_copy.make(
            plan.shrink, payload, stack, progress=progress
        )
    digest = functools.cache(
        functools.partial(_digest, payload, progress=progress)
    )
    for image in plan.alike:
        if image.size == payload.size and reuse.holds(image, digest):
            return dataclasses.replace(
                plan, ami=request_.Reuse(plan.ami.kind, image), shrink=None
            )
    return dataclasses.replace(
        plan,
        ami=dataclasses.replace(plan.ami, payload=payload),
        alike=(),
        shrink=None,
    )


def _digest(
    payload: model.Payload, algorithm: str, *, progress: Progress
) -> str:
    return upload.digest(
        payload,
        progress=progress,
        description='Hashing image',
        algorithm=algorithm,
    )


def tell_others(plan: request_.RegisterPlan, sent: model.Sent) -> None:
    """Say which image holds what was sent, and why it was sent all the same.

    :param sent: the data of the root filesystem.
    """
    same = [
        other
        for other in plan.others
        if other.record.size == sent.record.size
        and other.record.hash_algo == 'sha512'
        and other.record.hash_value == sent.sha512
    ]
    for line in reuse.told(same, 'a new one was created'):
        LOG.warning('%s', line)
