# SPDX-License-Identifier: Apache-2.0

"""What is taken off an AMI, and off its kernel and its ramdisk with it."""

from collections.abc import Collection
import dataclasses
from typing import Any

from amiclient.errors import CloudError
from amiclient.errors import UsageError
from amiclient.glance.change import update
from amiclient.glance.client import Catalog
from amiclient.glance import links
from amiclient.glance.model import ImageRecord
from amiclient.glance.model import Kind
from amiclient.glance.model import LINKS
from amiclient.glance import steps
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

    def there(self, image: ImageRecord) -> list[str]:
        """Name what an image has of that which is to be taken off."""
        given = self.properties
        properties = [
            f'the property {p}' for p in given if p in image.properties
        ]
        return properties + [
            f'the tag {t}' for t in self.tags if t in image.tags
        ]


def plan(request: UnsetRequest, catalog: Catalog) -> update.ChangePlan:
    """Plan to take properties, tags or links off an AMI.

    :raises UsageError: for a request that contradicts itself.
    :raises CloudError: if there is no such AMI, or it lacks what is to be
        taken off.
    """
    preflight.check_properties(dict.fromkeys(request.properties, ''))
    if request.linked and not (request.properties or request.tags):
        raise UsageError(
            '--linked: neither a property nor a tag is named',
            hint='give one, or leave out --linked',
        )
    ami = links.show(catalog, request.ami)
    image = ami.image
    asked = {Kind.AKI: request.kernel, Kind.ARI: request.ramdisk}
    gone = [kind for kind, is_asked in asked.items() if is_asked]
    _check_links(gone, image)
    changed = [
        (kind, part)
        for kind, part in (ami.parts if request.linked else ())
        if request.there(part)
    ]
    _check_there(request, image, [part for _, part in changed])
    ours = [part.id for _, part in changed if part.owner == image.owner]
    used = links.used_by(catalog, ours)
    made = [_taken_off(request, Kind.AMI, image, gone)]
    kept: list[str] = []
    left: list[str] = []
    for kind, part in changed:
        title, names = steps.title(kind, part), ', '.join(request.there(part))
        if part.owner != image.owner:
            left.append(
                f'the {title} of the project {part.owner} keeps {names}'
            )
        elif others := [u for u in used[part.id] if u.id != image.id]:
            who = links.named(others)
            kept.append(f'the {title} keeps {names}: needed by {who}')
        else:
            made.append(_taken_off(request, kind, part, ()))
    for kind in gone:
        if link := image.properties[LINKS[kind]]:
            kept += update.released(kind, link, image, catalog)
    return update.ChangePlan(
        ami=image,
        steps=tuple(step for step in made if step.values),
        notes=tuple(kept),
        left=tuple(left),
    )


def _check_links(gone: Collection[Kind], image: ImageRecord) -> None:
    for kind in gone:
        # Whatever it is: a link that is "" or a name can go as well.
        if LINKS[kind] not in image.properties:
            what = f'the image {image.title}'
            raise CloudError(f'{what} links to no {kind.noun}')
    if Kind.AKI in gone and image.ramdisk_id and Kind.ARI not in gone:
        raise preflight.ramdisk_alone('add --ramdisk to remove both links')


def _check_there(
    request: UnsetRequest, image: ImageRecord, others: list[ImageRecord]
) -> None:
    images = [image, *others]
    tags = {t for i in images for t in i.tags}
    properties = {p for i in images for p in i.properties}
    missing = [f'tag {t!r}' for t in request.tags if t not in tags]
    missing += [
        f'property {p!r}' for p in request.properties if p not in properties
    ]
    if missing:
        raise CloudError(
            f'the image {image.title} has no {missing[0]}',
            hint='nothing was changed',
        )


def _taken_off(
    request: UnsetRequest,
    kind: Kind,
    image: ImageRecord,
    gone: Collection[Kind],
) -> steps.Update:
    values: dict[str, Any] = {
        name: None for name in request.properties if name in image.properties
    }
    if {*image.tags} & {*request.tags}:
        values['tags'] = [t for t in image.tags if t not in request.tags]
    values.update((LINKS[each], None) for each in gone)
    return steps.Update(kind, image, values)
