# SPDX-License-Identifier: Apache-2.0

"""Kernels and ramdisks, and the images that link to them."""

from collections.abc import Collection, Iterable, Iterator, Mapping
import dataclasses
from typing import Any

from amiclient import errors
from amiclient.glance import client
from amiclient.glance import model

#: The property that links to a kernel, and to a ramdisk.
LINKS = {model.Kind.AKI: 'kernel_id', model.Kind.ARI: 'ramdisk_id'}

#: Images whose users are asked for one by one. For more, it takes fewer
#: requests to look at all images: Glance finds one value at a time.
_SINGLY = 4


@dataclasses.dataclass(frozen=True)
class Part:
    """A kernel or a ramdisk.

    :param users: the images that link to it; None if nobody asked.
    """

    kind: model.Kind
    image: model.ImageRecord
    users: tuple[model.ImageRecord, ...] | None = None


def used_by(
    catalog: client.Catalog, ids: Collection[str]
) -> dict[str, tuple[model.ImageRecord, ...]]:
    """Find the images that link to others, as a kernel or a ramdisk.

    Private images of other projects cannot be seen, and so not be found.

    :param ids: of the images that are linked to.
    :returns: for each id, those that the user can see, hidden and community
        ones included, the oldest first.
    :raises CloudError: if the cloud does not answer as it should.
    """
    wanted = {*ids}
    found: dict[str, dict[str, model.ImageRecord]] = {id: {} for id in wanted}
    for image in _candidates(catalog, wanted):
        for name in LINKS.values():
            link = str(image.properties.get(name)).lower()
            if link in found:
                found[link][image.id] = image
    return {
        id: tuple(sorted(users.values(), key=_age))
        for id, users in found.items()
    }


def _age(image: model.ImageRecord) -> str:
    return f'{image.created_at} {image.id}'


def _candidates(
    catalog: client.Catalog, ids: Collection[str]
) -> Iterator[model.ImageRecord]:
    queries: list[dict[str, Any]] = [{}]
    if len(ids) <= _SINGLY:
        queries = [{name: id} for id in sorted(ids) for name in LINKS.values()]
    for hidden in (False, True):
        for query in queries:
            yield from catalog.images(
                **query,
                visibility='all',
                # Those that were offered, but not accepted, boot as well.
                member_status='all',
                os_hidden=hidden,
            )


def find(
    catalog: client.Catalog,
    kind: model.Kind,
    name_or_id: str,
    *,
    strict: bool = False,
) -> Part:
    """Find a kernel or a ramdisk, with what links to it.

    It is one by its format, or because something links to it as such.

    :param strict: whether no other image, of whatever kind, may have the
        name, not even a hidden one.
    :raises NotFoundError: if there is no such image.
    :raises CloudError: if it is something else, or several have the name.
    """
    image = catalog.find(
        name_or_id,
        fits=None if strict else lambda each: each.may_be(kind),
        strict=strict,
    )
    users = used_by(catalog, [image.id])[image.id]
    if image.disk_format != kind.value and not is_linked(image, kind, users):
        raise errors.CloudError(
            f'the image {image.name!r} ({image.id}) is no {kind.noun}: its '
            f'format is {image.disk_format}, and no image links to it',
            hint=f'see `{image.showing}`',
        )
    return Part(kind, image, users)


def is_linked(
    image: model.ImageRecord,
    kind: model.Kind,
    users: Iterable[model.ImageRecord],
) -> bool:
    """Tell whether images link to another as a kernel, or as a ramdisk."""
    return any(
        str(user.properties.get(LINKS[kind])).lower() == image.id
        for user in users
    )


def listed(
    catalog: client.Catalog,
    kind: model.Kind,
    filters: Mapping[str, Any],
    *,
    limit: int | None = None,
    marker: str | None = None,
    used: bool = False,
) -> Iterator[Part]:
    """List kernels or ramdisks, which their format tells.

    :param filters: query parameters of Glance's.
    :param used: whether to find out what links to them.
    """
    images = catalog.images(
        limit=limit, marker=marker, **{**filters, 'disk_format': kind.value}
    )
    if not used:
        return (Part(kind, image) for image in images)
    chosen = list(images)
    users = used_by(catalog, [image.id for image in chosen])
    return (Part(kind, image, users[image.id]) for image in chosen)
