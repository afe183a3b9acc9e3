# SPDX-License-Identifier: Apache-2.0

"""The AMI itself within a plan: its record, and the bytes it is to have."""

from collections.abc import Iterator
import dataclasses
import pathlib
import re

from amiclient import errors
from amiclient.ext import image
from amiclient.ext import shrink
from amiclient.glance import model
from amiclient.glance.upload import parts
from amiclient.glance.upload import preflight
from amiclient.glance.upload.request import Creation
from amiclient.glance.upload.request import Reuse
from amiclient.glance.upload.request import Step
from amiclient.glance.upload.request import UploadRequest
from amiclient.glance.upload.rules import Rules
from amiclient.rootfs import contents
from amiclient.rootfs import inspect
from amiclient.source import detect
from amiclient import units

#: Suffixes that say what a file is, and are no part of a name.
_SUFFIX = re.compile(r'\.(img|image|raw|bin|ami|fs|ext[234])$', re.IGNORECASE)


def describe(
    request: UploadRequest,
    root: image.RootImage,
    kernel: Step | None,
    rules: Rules,
) -> tuple[model.NewImage, tuple[str, ...]]:
    """Make the AMI's record, but for what depends on its size.

    :param kernel: tells the architecture, unless the user did.
    :param rules: what the cloud takes.
    :returns: the record, and what the user should know.
    :raises UsageError: if a text is longer than Glance would store.
    """
    traits, settings = request.traits, request.settings
    name = traits.name or _SUFFIX.sub('', request.source.name)
    preflight.check_texts((name, *traits.tags, *traits.properties))
    preflight.check_utf8((traits.architecture or '',))
    disk_format, container_format, notes = _formats(request, rules)
    release = contents.read_release(root.path)
    computed = {
        'architecture': traits.architecture
        or parts.architecture(kernel)
        or inspect.kernel_architecture(root.path),
        'os_type': 'linux',
        'os_distro': release.distro,
        'os_version': release.version,
    }
    taken, warnings = rules.sift(
        {
            key: value
            for key, value in computed.items()
            if value and key not in traits.properties
        }
    )
    new = model.NewImage(
        name=name,
        disk_format=disk_format,
        container_format=container_format,
        id=traits.id,
        visibility=settings.visibility,
        hidden=settings.hidden or None,
        owner=settings.owner,
        min_ram=request.min_ram or 0,
        tags=traits.tags,
        properties={**taken, **traits.properties},
    )
    if not computed['architecture']:
        notes = (*notes, *_unknown(new, kernel, rules))
    return new, (*notes, *warnings)


def _unknown(
    new: model.NewImage, kernel: Step | None, rules: Rules
) -> Iterator[str]:
    """Say that an image gets no architecture, and so may get any host."""
    key = 'architecture'
    if key in new.properties or not rules.takes_property(key):
        return
    if isinstance(kernel, Reuse):
        yield (
            f'the image gets no {key}, for neither the kernel '
            f'{kernel.record.name!r} ({kernel.record.id}) nor the root '
            f'filesystem tells it: give it, such as --{key} x86_64'
        )


def _formats(
    request: UploadRequest, rules: Rules
) -> tuple[str, str, tuple[str, ...]]:
    ami = model.Kind.AMI.value
    if request.image_format in ('raw', 'qcow2'):
        return request.image_format, 'bare', ()
    if request.image_format == 'auto' and not rules.takes_formats(ami, ami):
        note = 'this cloud takes no ami images: the root image becomes raw'
        return 'raw', 'bare', (note,)
    return ami, ami, ()


def create(
    request: UploadRequest,
    root: image.RootImage,
    shrunk: shrink.ShrinkPlan | None,
    new: model.NewImage,
    packing: model.Packing | None,
) -> Creation:
    """Add to the record what depends on the size, and the data.

    :param shrunk: how the filesystem is going to be shrunk; None if not.
    :param packing: how it is going to be compressed; None if not.
    :raises UsageError: if the user asks for a disk that is too small.
    """
    size = root.superblock.size if shrunk is None else shrunk.size
    payload = model.Payload(
        path=root.path if shrunk is None else shrunk.output,
        size=size,
        blank=detect.boot_sector(root.path),
        pack=packing,
        state=root.state if shrunk is None else None,
    )
    new = dataclasses.replace(new, min_disk=_min_disk(request, size))
    return Creation(model.Kind.AMI, new, payload)


def _min_disk(request: UploadRequest, size: int) -> int:
    needed = units.gib(size)
    if request.min_disk is None:
        return needed
    if request.min_disk < needed:
        raise errors.UsageError(
            f'--min-disk {request.min_disk}: the root filesystem takes '
            f'{needed} GiB',
            hint=f'give {needed} or more, or leave it out',
        )
    return request.min_disk


def warnings(source: pathlib.Path, payload: model.Payload) -> Iterator[str]:
    """Tell what of the data is not sent as it is."""
    if payload.blank:
        yield (
            f'{source}: an old boot sector in its first {payload.blank} '
            'bytes is sent as zeros, for Nova would take the image for a '
            'partitioned disk'
        )
