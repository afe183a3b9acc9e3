# SPDX-License-Identifier: Apache-2.0

"""AMIs as they are in the cloud: images with what they link to."""

from collections.abc import Collection, Iterator, Mapping
import dataclasses
import itertools
import types
from typing import Any

from amiclient import errors
from amiclient.glance import client
from amiclient.glance import model

#: The status of an image that an AMI links to, but that is not there: it was
#: deleted, or belongs to somebody who does not share it.
MISSING = 'missing'

#: Up to so many parts are asked for by their ids, which takes two requests.
_BY_ID = 100

#: Images in a page when many parts are listed; Glance's limit.
_PAGE = 1000

#: What Glance leaves out of a list unless it is asked for.
_ALL: Mapping[str, Any] = types.MappingProxyType(
    {'visibility': 'all', 'member_status': 'all'}
)

_PARTS = (model.Kind.AKI.value, model.Kind.ARI.value)


@dataclasses.dataclass(frozen=True)
class Ami:
    """An image, with its kernel and its ramdisk.

    :param kernel: None if it links to none, or to one that is not there.
    """

    image: model.ImageRecord
    kernel: model.ImageRecord | None = None
    ramdisk: model.ImageRecord | None = None

    @property
    def kernel_status(self) -> str | None:
        """What state the kernel is in; None if there is no link to one."""
        return _status(self.image.kernel_id, self.kernel)

    @property
    def ramdisk_status(self) -> str | None:
        """What state the ramdisk is in; None if there is no link to one."""
        return _status(self.image.ramdisk_id, self.ramdisk)


def _status(link: str | None, found: model.ImageRecord | None) -> str | None:
    if link is None:
        return None
    return MISSING if found is None else found.status


def show(catalog: client.Catalog, name_or_id: str) -> Ami:
    """Get one AMI with what it links to.

    :raises NotFoundError: if there is no such image.
    :raises CloudError: if it is no AMI.
    """
    image = catalog.find(
        name_or_id, fits=lambda each: each.may_be(model.Kind.AMI)
    )
    # With a ramdisk alone it is a broken one, and somebody wants to know why.
    is_ami = image.disk_format == model.Kind.AMI.value or not {
        'kernel_id',
        'ramdisk_id',
    }.isdisjoint(image.properties)
    if not is_ami:
        raise errors.CloudError(
            f'the image {image.name!r} ({image.id}) is no AMI: it links to no '
            'kernel',
            hint=f'see `{image.showing}`',
        )
    return next(_resolve(catalog, [image], {}))


def listed(
    catalog: client.Catalog,
    filters: Mapping[str, Any],
    *,
    limit: int | None = None,
    marker: str | None = None,
    resolve: bool = False,
    broken: bool = False,
) -> Iterator[Ami]:
    """List AMIs: the images that link to a kernel, whatever their format.

    :param filters: query parameters of Glance's.
    :param limit: how many AMIs at most.
    :param marker: id of the image to begin after.
    :param resolve: whether kernels and ramdisks are looked up as well. There
        is a request or two for that, or a few for thousands of AMIs, but
        none for each.
    :param broken: whether what was to be an AMI, and links to no kernel, is
        listed as well.
    """
    images = catalog.images(marker=marker, **filters)
    parts: dict[str, model.ImageRecord] = {}
    chosen = itertools.islice(_amis(images, parts, broken), limit)
    if not resolve:
        return map(Ami, chosen)
    return _resolve(catalog, list(chosen), parts)


def _amis(
    images: Iterator[model.ImageRecord],
    parts: dict[str, model.ImageRecord],
    broken: bool,
) -> Iterator[model.ImageRecord]:
    """Choose the AMIs; Glance cannot be asked for them.

    :param parts: gets the kernels and ramdisks among the rest, by their ids.
    :param broken: whether those without a kernel are chosen as well.
    """
    for image in images:
        if image.kernel_id is not None or (broken and _is_broken(image)):
            yield image
        elif image.disk_format in _PARTS:
            parts[image.id] = image


def _is_broken(image: model.ImageRecord) -> bool:
    """Tell whether an image without a kernel should have one."""
    links = map(image.properties.get, ('kernel_id', 'ramdisk_id'))
    return image.disk_format == model.Kind.AMI.value or any(
        link is not None for link in links
    )


def _resolve(
    catalog: client.Catalog,
    images: Collection[model.ImageRecord],
    known: Mapping[str, model.ImageRecord],
) -> Iterator[Ami]:
    """Find what images link to.

    :param known: images that need not be asked for, by their ids.
    """
    links = {i.kernel_id for i in images} | {i.ramdisk_id for i in images}
    wanted = {link for link in links if link}
    found = {link: known[link] for link in wanted & known.keys()}
    found |= _fetch(catalog, wanted - found.keys())
    for image in images:
        yield Ami(
            image,
            found.get(image.kernel_id or ''),
            found.get(image.ramdisk_id or ''),
        )


def _fetch(
    catalog: client.Catalog, ids: Collection[str]
) -> dict[str, model.ImageRecord]:
    """Get images by their ids, with few requests, however many they are."""
    missing = set(ids)
    if len(missing) <= _BY_ID:
        return catalog.get_many(missing) if missing else {}
    # What a list left out may be hidden. There are few of those as a rule, so
    # one request tells them all, and which are not.
    hidden = list(
        catalog.images(limit=_PAGE, page_size=_PAGE, os_hidden=True, **_ALL)
    )
    found = {part.id: part for part in hidden if part.id in missing}
    missing -= found.keys()
    if len(missing) > _BY_ID:
        # A filtered list does not have them; but they are of two formats,
        # most of them at least.
        parts = catalog.images(
            page_size=_PAGE, disk_format=f'in:{",".join(_PARTS)}', **_ALL
        )
        for part in parts:
            if part.id in missing:
                found[part.id] = part
                missing.remove(part.id)
            if not missing:
                break
    if missing:
        where = (False,) if len(hidden) < _PAGE else (False, True)
        found |= catalog.get_many(missing, hidden=where)
    return found
