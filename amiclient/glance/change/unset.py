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

"""What is taken off an AMI: properties, tags, and links."""

from collections.abc import Iterator
import dataclasses
from typing import Any

from amiclient import exceptions
from amiclient.glance import catalog as catalog_
from amiclient.glance.change import change
from amiclient.glance.change import changeplan
from amiclient.glance.change import steps
from amiclient.glance import links
from amiclient.glance import model
from amiclient.glance.upload import preflight
from amiclient.glance import users


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnsetRequest:
    """What is to be taken off.

    :param ami: its id or name.
    :param kernel: whether the link to the kernel is. :param ramdisk: likewise.
    """

    ami: str
    tags: tuple[str, ...] = ()
    properties: tuple[str, ...] = ()
    kernel: bool = False
    ramdisk: bool = False


def plan(
    request: UnsetRequest, catalog: catalog_.Catalog
) -> change.ChangePlan:
    """Check all that can be checked, and say what would be done.

    :raises UsageError: for a request that contradicts itself.
    :raises CloudError: if there is no such AMI, or it lacks what is to be
        taken off.
    """
    preflight.check_properties(dict.fromkeys(request.properties, ''))
    image = links.show(catalog, request.ami).image
    _check_links(request, image)
    _check_there(request, image)
    gone = [
        kind
        for kind, asked in (
            (model.Kind.AKI, request.kernel),
            (model.Kind.ARI, request.ramdisk),
        )
        if asked
    ]
    update = _update(request, image, gone)
    return change.ChangePlan(
        ami=image,
        uploads=(),
        members=frozenset(),
        steps=(update,) if update.values else (),
        notes=tuple(_notes(gone, image, catalog)),
    )


def _check_links(request: UnsetRequest, image: model.ImageRecord) -> None:
    for noun in ('kernel', 'ramdisk'):
        # Whatever it is: a link that is "" or a name can go as well.
        if getattr(request, noun) and f'{noun}_id' not in image.properties:
            raise exceptions.CloudError(
                f'the image {image.name!r} ({image.id}) links to no {noun}'
            )
    if request.kernel and image.ramdisk_id and not request.ramdisk:
        # Nova then boots the disk by BIOS, and the console stays empty.
        raise exceptions.UsageError(
            'a ramdisk is of no use without a kernel',
            hint='add --ramdisk to take off both links',
        )


def _check_there(request: UnsetRequest, image: model.ImageRecord) -> None:
    for what, wanted, there in (
        ('tag', request.tags, image.tags),
        ('property', request.properties, image.properties),
    ):
        for name in wanted:
            if name not in there:
                raise exceptions.CloudError(
                    f'the image {image.name!r} ({image.id}) has no {what} '
                    f'{name!r}',
                    hint='nothing was changed',
                )


def _update(
    request: UnsetRequest, image: model.ImageRecord, gone: list[model.Kind]
) -> steps.Update:
    values: dict[str, Any] = dict.fromkeys(request.properties)
    if request.tags:
        values['tags'] = [t for t in image.tags if t not in request.tags]
    values.update((users.LINKS[kind], None) for kind in gone)
    return steps.Update(model.Kind.AMI, image, values)


def _notes(
    gone: list[model.Kind],
    image: model.ImageRecord,
    catalog: catalog_.Catalog,
) -> Iterator[str]:
    for kind in gone:
        link = image.properties[users.LINKS[kind]]
        note = link and changeplan.released(kind, link, image, catalog)
        if note:
            yield note
