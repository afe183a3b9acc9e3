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


"""What can be checked in the cloud before anything is created there."""

from collections.abc import Iterable, Mapping

from amiclient import exceptions
from amiclient.glance import catalog as catalog_
from amiclient.glance import model

_LINKS = {'kernel_id': '--kernel', 'ramdisk_id': '--ramdisk'}

#: Characters that Glance stores of a name, a tag or a property's name.
_LONGEST = 255

#: What somebody of another project can see without being invited.
_OPEN = ('public', 'community')


def check_properties(properties: Mapping[str, str]) -> None:
    """Refuse properties that are none.

    :raises UsageError: naming the option that is meant.
    """
    for key in properties:
        if key in _LINKS:
            raise exceptions.UsageError(
                f'the property {key} is the link that this command makes',
                hint=f'use {_LINKS[key]}',
            )
        # Glance answers with an error about its schema.
        if key in model.ATTRIBUTES:
            raise exceptions.UsageError(
                f'{key} is an attribute that every image has, not a property',
                hint='use the option of that name, if there is one',
            )


def check_texts(texts: Iterable[str]) -> None:
    """Refuse names, tags and keys that Glance would not store.

    :raises UsageError: if one is longer than 255 characters.
    """
    for text in texts:
        if len(text) > _LONGEST:
            raise exceptions.UsageError(
                f'{text[:40]!r}... is longer than {_LONGEST} characters'
            )


def check_formats(
    catalog: catalog_.Catalog, images: Iterable[model.NewImage]
) -> None:
    """Check that the cloud takes the formats of new images.

    :raises CloudError: if an operator has removed one of them.
    """
    disk_formats, container_formats = catalog.formats()
    for new in images:
        for name, taken in (
            (new.disk_format, disk_formats),
            (new.container_format, container_formats),
        ):
            if name not in taken:
                raise exceptions.CloudError(
                    f'this cloud takes no images of format {name}',
                    hint='--image-format raw may do'
                    if name == model.Kind.AMI.value
                    else 'ask its operator, or link images that it holds',
                )


def check_store(catalog: catalog_.Catalog, store: str | None) -> None:
    """Check that the cloud has a store.

    :param store: its id; None, if any will do.
    :raises CloudError: if it has not.
    """
    if store is None:
        return
    stores = catalog.stores()
    if stores is None:
        raise exceptions.CloudError(
            'this cloud gives no choice of stores', hint='leave out --store'
        )
    if store not in stores:
        raise exceptions.CloudError(
            f'this cloud has no store {store!r}',
            hint=f'choose among: {", ".join(stores)}',
        )


def check_id(catalog: catalog_.Catalog, image_id: str | None) -> None:
    """Check that an id is free.

    :param image_id: None, if any will do.
    :raises CloudError: if an image has it that the user can see.
    """
    if image_id is None:
        return
    try:
        found = catalog.get(image_id)
    except exceptions.NotFoundError:
        return
    raise exceptions.CloudError(
        f'the id {image_id} is taken by the image {found.name!r}',
        hint='leave out --id, or choose another',
    )


def check_reference(record: model.ImageRecord, kind: model.Kind) -> None:
    """Check that an image can be linked to as a kernel or ramdisk.

    Nova takes one that is queued, and the server then ends in ERROR.

    :raises CloudError: if it is of another kind, or holds no data.
    """
    formats = (record.disk_format, record.container_format)
    if formats != (kind.value, kind.value):
        raise exceptions.CloudError(
            f'the image {record.name!r} ({record.id}) is no {kind.noun}: its '
            f'formats are {formats[0]}/{formats[1]}',
            hint=f'a {kind.noun} is {kind.value}/{kind.value}',
        )
    if record.status != 'active':
        raise exceptions.CloudError(
            f'the {kind.noun} {record.name!r} ({record.id}) is '
            f'{record.status}: no server would boot with it'
        )


def reach(
    record: model.ImageRecord,
    kind: model.Kind,
    *,
    visibility: str | None,
    owner: str | None,
) -> str | None:
    """Tell who could use an AMI, but not the image that it links to.

    Nova fetches kernel and ramdisk as the user who boots.

    :param record: the image that is linked to.
    :param visibility: of the AMI.
    :param owner: of the AMI; None for the user's project.
    :returns: a warning; None if all is well.
    """
    if record.visibility in _OPEN:
        return None
    if visibility in _OPEN:
        who = 'other projects'
    elif owner is not None and owner != record.owner:
        who = f'the project {owner}'
    else:
        return None
    return (
        f'the {kind.noun} {record.name!r} ({record.id}) is '
        f'{record.visibility}: {who} cannot boot the image that links to it'
    )
