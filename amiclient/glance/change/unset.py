# SPDX-License-Identifier: Apache-2.0

"""What is taken off an AMI: properties, tags, and links."""

from collections.abc import Iterator
import dataclasses
from typing import Any

from amiclient import errors
from amiclient.glance.change import changeplan
from amiclient.glance.change import linked
from amiclient.glance.change import steps
from amiclient.glance.change import update
from amiclient.glance import client
from amiclient.glance import links
from amiclient.glance import model
from amiclient.glance.upload import preflight


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnsetRequest:
    """What is to be taken off.

    :param ami: its id or name.
    :param kernel: whether the link to the kernel is. :param ramdisk: likewise.
    :param linked: whether tags and properties are taken off the kernel and
        the ramdisk as well, unless other images link to these.
    """

    ami: str
    tags: tuple[str, ...] = ()
    properties: tuple[str, ...] = ()
    kernel: bool = False
    ramdisk: bool = False
    linked: bool = False


def plan(request: UnsetRequest, catalog: client.Catalog) -> update.ChangePlan:
    """Check all that can be checked, and say what would be done.

    :raises UsageError: for a request that contradicts itself.
    :raises CloudError: if there is no such AMI, or it lacks what is to be
        taken off.
    """
    preflight.check_properties(dict.fromkeys(request.properties, ''))
    if request.linked and not (request.properties or request.tags):
        raise errors.UsageError(
            '--linked: neither a property nor a tag is named',
            hint='give one, or leave out --linked',
        )
    ami = links.show(catalog, request.ami)
    _check_links(request, ami.image)
    parts = list(_parts(request, ami)) if request.linked else []
    _check_there(request, [ami.image, *(part for _, part in parts)])
    ours = [each for each in parts if each[1].owner == ami.image.owner]
    used = links.used_by(catalog, [part.id for _, part in ours])
    images = [(model.Kind.AMI, ami.image)]
    kept: list[str] = []
    for kind, part in ours:
        others = [user for user in used[part.id] if user.id != ami.image.id]
        if others:
            names = ', '.join(_there(request, part))
            kept.append(
                f'the {steps.title(kind, part)} keeps {names}: needed by '
                f'{linked.named(others)}'
            )
        else:
            images.append((kind, part))
    gone = [
        kind
        for kind, asked in (
            (model.Kind.AKI, request.kernel),
            (model.Kind.ARI, request.ramdisk),
        )
        if asked
    ]
    made = (_update(request, kind, image, gone) for kind, image in images)
    return update.ChangePlan(
        ami=ami.image,
        uploads=(),
        members=frozenset(),
        steps=tuple(step for step in made if step.values),
        notes=(*kept, *_notes(gone, ami.image, catalog)),
        left=tuple(
            f'the {steps.title(kind, part)} of the project {part.owner} keeps '
            f'{", ".join(_there(request, part))}'
            for kind, part in parts
            if part.owner != ami.image.owner
        ),
    )


def _parts(
    request: UnsetRequest, ami: links.Ami
) -> Iterator[tuple[model.Kind, model.ImageRecord]]:
    """Choose the kernel and ramdisk that have something to take off."""
    for kind, part in (
        (model.Kind.AKI, ami.kernel),
        (model.Kind.ARI, ami.ramdisk),
    ):
        if part is not None and _there(request, part):
            yield kind, part


def _there(request: UnsetRequest, image: model.ImageRecord) -> list[str]:
    """Name what an image has of that which is to be taken off."""
    return [
        *(
            f'the property {p}'
            for p in request.properties
            if p in image.properties
        ),
        *(f'the tag {t}' for t in request.tags if t in image.tags),
    ]


def _check_links(request: UnsetRequest, image: model.ImageRecord) -> None:
    for noun in ('kernel', 'ramdisk'):
        # Whatever it is: a link that is "" or a name can go as well.
        if getattr(request, noun) and f'{noun}_id' not in image.properties:
            raise errors.CloudError(
                f'the image {image.name!r} ({image.id}) links to no {noun}'
            )
    if request.kernel and image.ramdisk_id and not request.ramdisk:
        # Nova then boots the disk by BIOS, and the console stays empty.
        raise errors.UsageError(
            'a ramdisk is of no use without a kernel',
            hint='add --ramdisk to take off both links',
        )


def _check_there(
    request: UnsetRequest, images: list[model.ImageRecord]
) -> None:
    first = images[0]
    for what, wanted, there in (
        ('tag', request.tags, {t for i in images for t in i.tags}),
        (
            'property',
            request.properties,
            {p for i in images for p in i.properties},
        ),
    ):
        for name in wanted:
            if name not in there:
                raise errors.CloudError(
                    f'the image {first.name!r} ({first.id}) has no {what} '
                    f'{name!r}',
                    hint='nothing was changed',
                )


def _update(
    request: UnsetRequest,
    kind: model.Kind,
    image: model.ImageRecord,
    gone: list[model.Kind],
) -> steps.Update:
    values: dict[str, Any] = {
        name: None for name in request.properties if name in image.properties
    }
    if {*image.tags} & {*request.tags}:
        values['tags'] = [t for t in image.tags if t not in request.tags]
    if kind is model.Kind.AMI:
        values.update((model.LINKS[each], None) for each in gone)
    return steps.Update(kind, image, values)


def _notes(
    gone: list[model.Kind],
    image: model.ImageRecord,
    catalog: client.Catalog,
) -> Iterator[str]:
    for kind in gone:
        link = image.properties[model.LINKS[kind]]
        note = link and changeplan.released(kind, link, image, catalog)
        if note:
            yield note
