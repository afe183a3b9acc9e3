# SPDX-License-Identifier: Apache-2.0

"""AMIs as they are in the cloud: images, and what links to what."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
import dataclasses
import itertools
from typing import Any

from amiclient import errors
from amiclient.glance.client import ALL
from amiclient.glance.client import Catalog
from amiclient.glance.model import ImageRecord
from amiclient.glance.model import Kind
from amiclient.glance.model import LINKS
from amiclient.glance import versions

#: The status of an image that an AMI links to, but that is not there: it was
#: deleted, or belongs to somebody who does not share it.
MISSING = 'missing'

#: Up to so many parts are asked for by their ids, which takes two requests.
_BY_ID = 100

#: Images in a page when many parts are listed; Glance's limit.
_PAGE = 1000

#: Images whose users are asked for one by one. For more, it takes fewer
#: requests to look at all images: Glance finds one value at a time.
_SINGLY = 4

#: So many images are named; the rest is counted.
_NAMED = 3

_PARTS = tuple(kind.value for kind in LINKS)


@dataclasses.dataclass(frozen=True)
class Ami:
    """An image, with its kernel and its ramdisk.

    :param kernel: None if it links to none, or to one that is not there.
    """

    image: ImageRecord
    kernel: ImageRecord | None = None
    ramdisk: ImageRecord | None = None

    @property
    def kernel_status(self) -> str | None:
        """What state the kernel is in; None if there is no link to one."""
        return _status(self.image.kernel_id, self.kernel)

    @property
    def ramdisk_status(self) -> str | None:
        """What state the ramdisk is in; None if there is no link to one."""
        return _status(self.image.ramdisk_id, self.ramdisk)

    @property
    def parts(self) -> tuple[tuple[Kind, ImageRecord], ...]:
        """The kernel and the ramdisk, as far as they are there."""
        both = (Kind.AKI, self.kernel), (Kind.ARI, self.ramdisk)
        return tuple((kind, part) for kind, part in both if part is not None)

    def check_parts(self, hint: Callable[[Kind], str]) -> None:
        """Refuse links that lead nowhere.

        :param hint: what to do about a kernel, or a ramdisk.
        :raises NotFoundError: if there is one.
        """
        there = dict(self.parts)
        for kind, key in LINKS.items():
            if (link := self.image.properties.get(key)) and kind not in there:
                raise missing(kind, link, hint(kind))


def missing(kind: Kind, link: str, hint: str) -> errors.NotFoundError:
    """Say that an AMI links to what is not there."""
    return errors.NotFoundError(
        f'the {kind.noun} {link} that the image links to was deleted, or '
        'cannot be seen by this project',
        hint=hint,
    )


def _status(link: str | None, found: ImageRecord | None) -> str | None:
    if link is None:
        return None
    return MISSING if found is None else found.status


def show(catalog: Catalog, name_or_id: str) -> Ami:
    """Get one AMI with what it links to.

    :raises NotFoundError: if there is no such image.
    :raises CloudError: if it is not an AMI.
    """
    image = catalog.find(name_or_id, fits=lambda each: each.may_be(Kind.AMI))
    # With a ramdisk alone it is a broken one, and somebody wants to know why.
    if image.disk_format != Kind.AMI.value and not image.has_link:
        raise _no_ami(image, f'see `{image.showing}`')
    return of(catalog, image)


def of(catalog: Catalog, image: ImageRecord) -> Ami:
    """Get what an image links to, if it does."""
    return next(_resolve(catalog, [image], {}))


def check_ami(image: ImageRecord, *, part: str, other: str | None) -> None:
    """Refuse an image that is not an AMI.

    :param part: the hint for a kernel or a ramdisk, with ``{}`` for which.
    :param other: the hint for any other; None to let these pass.
    """
    if image.disk_format in _PARTS:
        noun = Kind(image.disk_format).noun
        raise errors.CloudError(
            f'the image {image.title} is a {noun}, not an AMI',
            hint=part.format(noun),
        )
    is_ami = image.kernel_id or image.disk_format == Kind.AMI.value
    if not is_ami and other is not None:
        raise _no_ami(image, other)


def _no_ami(image: ImageRecord, hint: str) -> errors.CloudError:
    message = 'is not an AMI: it has no link to a kernel'
    return errors.CloudError(f'the image {image.title} {message}', hint=hint)


def list_amis(
    catalog: Catalog,
    filters: Mapping[str, Any],
    *,
    family: str | None = None,
    limit: int | None = None,
    marker: str | None = None,
    resolve: bool = False,
    broken: bool = False,
) -> Iterator[Ami]:
    """List AMIs: the images that link to a kernel, whatever their format.

    :param filters: query parameters of Glance's.
    :param family: one whose versions are listed, the newest first.
    :param limit: how many AMIs at most.
    :param marker: id of the image to begin after.
    :param resolve: whether kernels and ramdisks are looked up as well. There
        is a request or two for that, or a few for thousands of AMIs, but
        none for each.
    :param broken: whether what was to be an AMI, and links to no kernel, is
        listed as well.
    """
    if family is not None:
        images = iter(versions.family(catalog, family, filters))
    else:
        images = catalog.images(marker=marker, **filters)
    parts: dict[str, ImageRecord] = {}
    chosen = itertools.islice(_amis(images, parts, broken), limit)
    if not resolve:
        return map(Ami, chosen)
    return _resolve(catalog, list(chosen), parts)


def _amis(
    images: Iterator[ImageRecord],
    parts: dict[str, ImageRecord],
    broken: bool,
) -> Iterator[ImageRecord]:
    """Choose the AMIs; Glance cannot be asked for them.

    :param parts: gets the kernels and ramdisks among the rest, by their ids.
    """
    for image in images:
        if image.kernel_id is not None or (broken and _is_broken(image)):
            yield image
        elif image.disk_format in _PARTS:
            parts[image.id] = image


def _is_broken(image: ImageRecord) -> bool:
    """Tell whether an image without a kernel should have one."""
    values = map(image.properties.get, LINKS.values())
    return image.disk_format == Kind.AMI.value or any(
        value is not None for value in values
    )


def _resolve(
    catalog: Catalog,
    images: Collection[ImageRecord],
    known: Mapping[str, ImageRecord],
) -> Iterator[Ami]:
    """Find what images link to.

    :param known: images that need not be asked for, by their ids.
    """
    links = {i.kernel_id for i in images} | {i.ramdisk_id for i in images}
    wanted = {link for link in links if link}
    found = {link: known[link] for link in wanted & known.keys()}
    found |= _fetch(catalog, wanted - found.keys())
    for image in images:
        kernel = found.get(image.kernel_id or '')
        yield Ami(image, kernel, found.get(image.ramdisk_id or ''))


def _fetch(catalog: Catalog, ids: Collection[str]) -> dict[str, ImageRecord]:
    """Get images by their ids, with few requests, however many they are."""
    missing = set(ids)
    if len(missing) <= _BY_ID:
        return catalog.get_many(missing) if missing else {}
    # What a list left out may be hidden. There are few of those as a rule, so
    # one request tells them all, and which are not.
    hidden = list(
        catalog.images(limit=_PAGE, page_size=_PAGE, os_hidden=True, **ALL)
    )
    found = {part.id: part for part in hidden if part.id in missing}
    missing -= found.keys()
    if len(missing) > _BY_ID:
        # A filtered list does not have them; but they are of two formats,
        # most of them at least.
        formats = f'in:{",".join(_PARTS)}'
        for part in catalog.images(
            page_size=_PAGE, disk_format=formats, **ALL
        ):
            if part.id in missing:
                found[part.id] = part
                missing.remove(part.id)
            if not missing:
                break
    if missing:
        where = (False,) if len(hidden) < _PAGE else (False, True)
        found |= catalog.get_many(missing, hidden=where)
    return found


@dataclasses.dataclass(frozen=True)
class LinkedPart:
    """A kernel or a ramdisk.

    :param users: the images that link to it; None if nobody asked.
    """

    kind: Kind
    image: ImageRecord
    users: tuple[ImageRecord, ...] | None = None


def used_by(
    catalog: Catalog, ids: Collection[str]
) -> dict[str, tuple[ImageRecord, ...]]:
    """Find the images that link to others, as a kernel or a ramdisk.

    Private images of other projects cannot be seen, and so not be found.

    :param ids: of the images that are linked to.
    :returns: for each id, those that the user can see, hidden and community
        ones included, the oldest first.
    """
    queries: list[dict[str, Any]] = [{}]
    if len({*ids}) <= _SINGLY:
        keys = LINKS.values()
        queries = [{key: id} for id in sorted({*ids}) for key in keys]
    found: dict[str, dict[str, ImageRecord]] = {id: {} for id in ids}
    for hidden, query in itertools.product((False, True), queries):
        for image in catalog.images(**query, os_hidden=hidden, **ALL):
            for key in LINKS.values():
                link = str(image.properties.get(key)).lower()
                if link in found:
                    found[link][image.id] = image
    return {
        id: tuple(
            sorted(users.values(), key=lambda u: f'{u.created_at} {u.id}')
        )
        for id, users in found.items()
    }


def others(
    catalog: Catalog, part: ImageRecord, ami: ImageRecord
) -> list[ImageRecord]:
    """Find the images that link to a part of an AMI, the AMI itself aside."""
    return [u for u in used_by(catalog, [part.id])[part.id] if u.id != ami.id]


def named(images: Iterable[ImageRecord]) -> str:
    """Name some images, and count the rest."""
    return errors.some([image.title for image in images], _NAMED)


def find_part(
    catalog: Catalog, kind: Kind, name_or_id: str, *, strict: bool = False
) -> LinkedPart:
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
            f'the image {image.title} is not a {kind.noun}: its format is '
            f'{image.disk_format}, and no image links to it',
            hint=f'see `{image.showing}`',
        )
    return LinkedPart(kind, image, users)


def is_linked(
    image: ImageRecord, kind: Kind, users: Iterable[ImageRecord]
) -> bool:
    """Tell whether images link to another as a kernel, or as a ramdisk."""
    return any(
        str(user.properties.get(LINKS[kind])).lower() == image.id
        for user in users
    )


def list_parts(
    catalog: Catalog,
    kind: Kind,
    filters: Mapping[str, Any],
    *,
    limit: int | None = None,
    marker: str | None = None,
    used: bool = False,
) -> Iterator[LinkedPart]:
    """List kernels or ramdisks, which their format tells.

    :param filters: query parameters of Glance's.
    :param used: whether to find out what links to them.
    """
    images = catalog.images(
        limit=limit, marker=marker, **{**filters, 'disk_format': kind.value}
    )
    if not used:
        return (LinkedPart(kind, image) for image in images)
    chosen = list(images)
    users = used_by(catalog, [image.id for image in chosen])
    return (LinkedPart(kind, image, users[image.id]) for image in chosen)
