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


"""A triple as one plan: what is created, what is reused, and with what.

Planning only reads: files first, then the cloud. What the plan says is done by
:mod:`amiclient.glance.register`.
"""

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import os
import pathlib
import re
import secrets
import tempfile

from amiclient import exceptions
from amiclient.ext import busy
from amiclient.ext import clean
from amiclient.ext import image as image_
from amiclient.ext import shrink
from amiclient.glance import catalog as catalog_
from amiclient.glance import model
from amiclient.glance import parts
from amiclient.glance import preflight
from amiclient.glance import request as request_
from amiclient import progress as progress_
from amiclient.rootfs import contents
from amiclient.source import detect
from amiclient import units

#: Suffixes that say what a file is, and are no part of a name.
_SUFFIX = re.compile(r'\.(img|image|raw|bin|ami|fs|ext[234])$', re.IGNORECASE)

#: Where a boot sector ends, and with what.
_SIGNATURE_AT, _SIGNATURE = 510, b'\x55\xaa'

#: What lies before the superblock, and is the boot sector's.
_BOOT_SECTOR = 1024


def plan(
    request: request_.UploadRequest,
    catalog: catalog_.Catalog,
    *,
    exact: bool = False,
    progress: progress_.Progress,
) -> request_.RegisterPlan:
    """Check all that can be checked, and say what would be done.

    :param exact: find out the size of the root filesystem to the byte; else
        it is a lower bound, which takes no time.
    :param progress: who watches the hashing, and the looking for a size.
    :raises UsageError: for a request that contradicts itself.
    :raises SourceError: for a file that is not what it must be.
    :raises CloudError: if the cloud lacks what is linked to, or would not
        take what is to be created.
    :raises NoSpaceError: if there is no room for the copy.
    """
    _check_request(request)
    root = detect.open_root(request.source)
    kernel = parts.identify(model.Kind.AKI, request.kernel)
    ramdisk = parts.identify(model.Kind.ARI, request.ramdisk)
    preflight.check_id(catalog, request.traits.id)
    preflight.check_store(catalog, request.settings.store)
    steps = [
        parts.plan(
            part,
            request_.Traits(name=name),
            request.settings,
            catalog,
            progress=progress,
        )
        for part, name in (
            (kernel, request.kernel_name),
            (ramdisk, request.ramdisk_name),
        )
    ]
    preflight.check_formats(
        catalog, [_formats(request), *parts.created(steps)]
    )
    shrunk = _plan_shrink(request, root, exact=exact, progress=progress)
    size = root.superblock.size if shrunk is None else shrunk.size
    payload = model.Payload(
        path=root.path if shrunk is None else shrunk.output,
        size=size,
        blank=_BOOT_SECTOR if _has_boot_sector(root) else 0,
    )
    new = dataclasses.replace(
        _formats(request),
        min_disk=_min_disk(request, size),
        properties=_properties(request, root, steps[0]),
    )
    return request_.RegisterPlan(
        ami=request_.Creation(model.Kind.AMI, new, payload),
        kernel=steps[0],
        ramdisk=steps[1],
        shrink=shrunk,
        settings=request.settings,
        warnings=tuple(_warnings(request, payload, steps)),
    )


def plan_part(
    request: request_.PartRequest,
    catalog: catalog_.Catalog,
    *,
    progress: progress_.Progress,
) -> request_.PartPlan:
    """Check a kernel or ramdisk, and say what would be done with it.

    :raises SourceError: if the file is not one.
    :raises CloudError: if the cloud would not take it.
    """
    preflight.check_properties(request.traits.properties)
    part = parts.identify_file(request.kind, request.path)
    preflight.check_id(catalog, request.traits.id)
    preflight.check_store(catalog, request.settings.store)
    step = parts.plan_file(
        part, request.traits, request.settings, catalog, progress=progress
    )
    preflight.check_formats(catalog, parts.created([step]))
    return request_.PartPlan(step, request.settings)


def _check_request(request: request_.UploadRequest) -> None:
    if request.ramdisk is not None and request.kernel is None:
        # Nova then boots the disk by BIOS, and the console stays empty.
        raise exceptions.UsageError(
            'a ramdisk does nothing without a kernel',
            hint='give --kernel, or --no-ramdisk',
        )
    for part, name in (
        ('kernel', request.kernel_name),
        ('ramdisk', request.ramdisk_name),
    ):
        if name is not None and getattr(request, part) is None:
            raise exceptions.UsageError(
                f'there is no {part} that could be called {name!r}',
                hint=f'leave out --{part}-name',
            )
    if not request.shrink and (request.repair or request.journal != 'keep'):
        raise exceptions.UsageError(
            'a filesystem that is sent as it is keeps its journal and damage',
            hint='leave out --no-shrink, or --journal and --repair',
        )
    preflight.check_properties(request.traits.properties)


def _formats(request: request_.UploadRequest) -> model.NewImage:
    """Make the AMI's record, but for what depends on its content."""
    traits, settings = request.traits, request.settings
    name = traits.name or _SUFFIX.sub('', request.source.name)
    preflight.check_texts((name, *traits.tags, *traits.properties))
    raw = request.image_format == 'raw'
    return model.NewImage(
        name=name,
        disk_format='raw' if raw else model.Kind.AMI.value,
        container_format='bare' if raw else model.Kind.AMI.value,
        id=traits.id,
        visibility=settings.visibility,
        hidden=settings.hidden or None,
        owner=settings.owner,
        min_ram=request.min_ram,
        tags=traits.tags,
    )


def _plan_shrink(
    request: request_.UploadRequest,
    root: image_.RootImage,
    *,
    exact: bool,
    progress: progress_.Progress,
) -> shrink.ShrinkPlan | None:
    """Plan the copy, in the first place that has room for it."""
    if not request.shrink:
        busy.refuse_busy(request.source)
        clean.refuse_unclean(root)
        return None
    lack: exceptions.NoSpaceError | None = None
    for directory in _work_directories(request):
        wanted = shrink.ShrinkRequest(
            image=root,
            output=directory / f'ami-upload-{secrets.token_hex(8)}.img',
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
        except exceptions.NoSpaceError as error:
            lack = lack or error
    if lack is None:
        raise exceptions.NoSpaceError(
            'there is no folder that the copy can be made in',
            hint='name one with --work-directory',
        )
    raise exceptions.NoSpaceError(
        lack.message, hint='name a folder with room by --work-directory'
    ) from lack


def _work_directories(
    request: request_.UploadRequest,
) -> tuple[pathlib.Path, ...]:
    if request.work_directory is not None:
        if not request.work_directory.is_dir():
            raise exceptions.UsageError(
                f'{request.work_directory} is no folder',
                hint='create it, or name another by --work-directory',
            )
        return (request.work_directory,)
    places = [pathlib.Path(tempfile.gettempdir())]
    beside = request.source.parent
    if request.source.is_file() and os.access(beside, os.W_OK | os.X_OK):
        places.append(beside)
    return tuple(places)


def _has_boot_sector(root: image_.RootImage) -> bool:
    # Nova takes an image that has one for a partitioned disk, and the server
    # fails to build.
    with root.path.open('rb') as file:
        file.seek(_SIGNATURE_AT)
        return file.read(len(_SIGNATURE)) == _SIGNATURE


def _min_disk(request: request_.UploadRequest, size: int) -> int:
    needed = units.gib(size)
    if request.min_disk is None:
        return needed
    if request.min_disk < needed:
        raise exceptions.UsageError(
            f'--min-disk {request.min_disk}: the root filesystem takes '
            f'{needed} GiB',
            hint=f'give {needed} or more, or leave it out',
        )
    return request.min_disk


def _properties(
    request: request_.UploadRequest,
    root: image_.RootImage,
    kernel: request_.Step | None,
) -> Mapping[str, str]:
    release = contents.read_release(root.path)
    computed = {
        'architecture': request.traits.architecture
        or parts.architecture(kernel),
        'os_type': 'linux',
        'os_distro': release.distro,
        'os_version': release.version,
    }
    return {
        **{key: value for key, value in computed.items() if value},
        **request.traits.properties,
    }


def _warnings(
    request: request_.UploadRequest,
    payload: model.Payload,
    steps: Iterable[request_.Step | None],
) -> Iterator[str]:
    if payload.blank:
        yield (
            f'{request.source}: an old boot sector in its first '
            f'{payload.blank} bytes is sent as zeros, for Nova would take '
            'the image for a partitioned disk'
        )
    for step in steps:
        if isinstance(step, request_.Reuse):
            warning = preflight.reach(
                step.record,
                step.kind,
                visibility=request.settings.visibility,
                owner=request.settings.owner,
            )
            if warning is not None:
                yield warning
