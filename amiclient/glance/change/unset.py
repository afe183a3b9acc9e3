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
from amiclient.glance import stores
from amiclient.glance.upload import preflight


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnsetRequest:
    """What is to be taken off.

    :param ami: its id or name.
    :param kernel: whether the link to the kernel is.
    :param ramdisk: likewise.
    :param stores: ids of those that its data is deleted from.
    :param linked: whether tags, properties and data are taken off the kernel
        and the ramdisk as well, unless other images link to these.
    """

    ami: str
    tags: tuple[str, ...] = ()
    properties: tuple[str, ...] = ()
    stores: tuple[str, ...] = ()
    kernel: bool = False
    ramdisk: bool = False
    linked: bool = False

    def there(self, image: ImageRecord) -> list[str]:
        """Name what an image has of that which is to be taken off."""
        given = self.properties
        properties = [
            f'the property {p}' for p in given if p in image.properties
        ]
        tags = [f'the tag {t}' for t in self.tags if t in image.tags]
        copies = [
            f'its copy in the {stores.named([s])}' for s in self.copies(image)
        ]
        return properties + tags + copies

    def copies(self, image: ImageRecord) -> tuple[str, ...]:
        """Tell which of the stores an image is in."""
        return tuple(s for s in self.stores if s in image.stores)


def plan(request: UnsetRequest, catalog: Catalog) -> update.ChangePlan:
    """Plan to take properties, tags or links off an AMI.

    :raises UsageError: for a request that contradicts itself.
    :raises CloudError: if there is no such AMI, or it lacks what is to be
        taken off.
    """
    preflight.check_properties(dict.fromkeys(request.properties, ''))
    if request.linked and not (
        request.properties or request.tags or request.stores
    ):
        raise UsageError(
            '--linked: no property, tag or store is named',
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
    _check_last(request, image)
    made = [_taken_off(request, Kind.AMI, image, gone)]
    deleted = [(Kind.AMI, image)] if request.copies(image) else []
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
        elif {*part.stores} and {*part.stores} <= {*request.stores}:
            kept.append(f'the {title} keeps {names}: it has no other')
        else:
            made.append(_taken_off(request, kind, part, ()))
            deleted += [(kind, part)] if request.copies(part) else []
    for kind in gone:
        if link := image.properties[LINKS[kind]]:
            kept += update.released(kind, link, image, catalog)
    return update.ChangePlan(
        ami=image,
        steps=(
            *(step for step in made if step.values),
            # The AMI is the first that leaves a store: nobody shall find it
            # where its kernel is not.
            *(
                # One step each: if the second is refused, the first is undone.
                steps.Copies(kind, image, (name,), present=False)
                for kind, image in deleted
                for name in request.copies(image)
            ),
        ),
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
    missing += [
        f'copy in the {stores.named([name])}'
        for name in request.stores
        if not any(name in each.stores for each in images)
    ]
    if missing:
        raise CloudError(
            f'the image {image.title} has no {missing[0]}',
            hint='nothing was changed',
        )


def _check_last(request: UnsetRequest, image: ImageRecord) -> None:
    if request.copies(image) and {*image.stores} <= {*request.stores}:
        raise CloudError(
            f'the image {image.title} has no copy but in the '
            f'{stores.named(image.stores)}',
            hint='copy it to another store first: openstack ami set --store '
            f'STORE {image.id}; or delete it: openstack ami delete {image.id}',
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
