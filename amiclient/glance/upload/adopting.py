# SPDX-License-Identifier: Apache-2.0

"""What a source brings along, where the user has not said otherwise."""

import dataclasses
import pathlib

from amiclient.glance.upload.request import Traits
from amiclient.glance.upload.request import UploadRequest
from amiclient.source import bundle
from amiclient.source import manifest
from amiclient import units


def adopt(request: UploadRequest, source: bundle.Source) -> UploadRequest:
    """Fill in what a request leaves open.

    Name, tags, formats and minimums are taken over unless they were given,
    properties one by one. Visibility, protection and hiding are not: they are
    up to who uploads, and where to.

    :param request: for a source by its name; ``kernel`` and ``ramdisk`` are
        those of the source where nothing else was given.
    :returns: a request for the root filesystem that the source comes to.
    """
    traits = request.traits
    if traits.name is None and source.name is not None:
        traits = dataclasses.replace(traits, name=source.name)
    image = source.part('image')
    min_disk, min_ram = request.min_disk, request.min_ram
    if image is not None:
        if min_disk is None and source.finished:
            min_disk = max(image.min_disk, units.gib(image.size))
        min_ram = image.min_ram if min_ram is None else min_ram
        traits = _traits(traits, image)
    return dataclasses.replace(
        request,
        source=source.root,
        own=source.own,
        traits=traits,
        kernel_traits=_part_traits(
            request.kernel, source.kernel, source.part('kernel')
        ),
        ramdisk_traits=_part_traits(
            request.ramdisk, source.ramdisk, source.part('ramdisk')
        ),
        min_disk=min_disk,
        min_ram=min_ram,
        seen=source.seen,
    )


def _traits(given: Traits, part: manifest.Part) -> Traits:
    before = dict(part.properties)
    if given.architecture is not None:
        before.pop('architecture', None)
    return dataclasses.replace(
        given,
        name=given.name or part.name,
        tags=given.tags or part.tags,
        properties={**before, **given.properties},
    )


def _part_traits(
    wanted: str | None,
    found: pathlib.Path | None,
    part: manifest.Part | None,
) -> Traits:
    """Tell what a kernel or ramdisk is given that the source brought."""
    if part is None or found is None or wanted != str(found):
        return Traits()
    return _traits(Traits(), part)
