# SPDX-License-Identifier: Apache-2.0

"""Whether an AMI is in other regions and clouds, and the same there.

What counts is what a copy of it would have: the data of all three images, by
their hashes, and all that servers and users see of it. Ids, owners, visibility
and the like are each place's own.
"""

from collections.abc import Iterable, Iterator
import dataclasses
import shlex

from amiclient import errors
from amiclient.findings import Finding
from amiclient.glance import client
from amiclient.glance import links
from amiclient.glance.model import ImageRecord
from amiclient.glance.model import Kind
from amiclient.glance import places
from amiclient.glance import retry
from amiclient.glance.transfer import image_data
from amiclient.glance.transfer import save
from amiclient.glance.verify.context import Context

#: So many differences are named.
_NAMED = 5

#: What both have to have alike, by the names of the records.
_ALIKE = ('name', 'disk_format', 'container_format', 'min_disk', 'min_ram')


@dataclasses.dataclass(frozen=True)
class Likeness:
    """What was found of one AMI in one place.

    :param copy: what may be its copy there; None if there is none.
    :param differences: what of it is not the same, in words.
    """

    place: places.CloudPlace
    copy: ImageRecord | None = None
    differences: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.copy is None:
            return 'missing'
        some = errors.some(self.differences, _NAMED)
        return f'differs: {some}' if some else 'same'


@dataclasses.dataclass(frozen=True)
class Elsewhere:
    """A place, and the AMIs there that may be copies of ours."""

    place: places.CloudPlace
    amis: tuple[links.Ami, ...]

    @classmethod
    def of_all(
        cls, place: places.CloudPlace, patience: retry.Patience
    ) -> 'Elsewhere':
        """Look at all AMIs of a place."""
        with errors.about_cloud(place.title):
            found = links.list_amis(
                place.catalog(patience), client.ALL, resolve=True
            )
            return cls(place, tuple(found))

    @classmethod
    def of_one(
        cls,
        place: places.CloudPlace,
        patience: retry.Patience,
        image: ImageRecord,
    ) -> 'Elsewhere':
        """Look for what may be a copy of one AMI."""
        with errors.about_cloud(place.title):
            catalog = place.catalog(patience)
            found = catalog.get_many([image.id])
            if image.hash_value:
                same = catalog.images(
                    os_hash_value=image.hash_value, **client.ALL
                )
                found |= {each.id: each for each in same}
            named = catalog.named(image.name or '')
            found |= {each.id: each for each in named}
            amis = [links.of(catalog, each) for each in found.values()]
            return cls(place, tuple(amis))

    def judge(self, ami: links.Ami) -> Likeness:
        """Compare an AMI with what is most like it there."""
        found = [
            (other.image, tuple(_differences(ami, other)))
            for other in self.amis
            if _is_meant(ami.image, other.image)
        ]
        if not found:
            return Likeness(self.place)
        return Likeness(
            self.place,
            *min(found, key=lambda each: (_DATA in each[1], len(each[1]))),
        )


#: What is said of the data of the AMI itself.
_DATA = 'data'


def _is_meant(image: ImageRecord, other: ImageRecord) -> bool:
    """Tell whether one may be the copy of the other, or what became of it."""
    if not other.may_be(Kind.AMI):
        return False
    same = image.hash_value is not None and not _differ(image, other)
    return same or other.id == image.id or other.name == image.name


def _differ(one: ImageRecord, other: ImageRecord) -> bool:
    """Tell whether two images hold other data, as far as can be known."""
    mine, theirs = image_data.expected(one), image_data.expected(other)
    if one.size != other.size:
        return True
    if mine is None or theirs is None or mine.algorithm != theirs.algorithm:
        return False
    return mine != theirs


def _differences(ami: links.Ami, other: links.Ami) -> Iterator[str]:
    if other.image.status != 'active':
        yield f'it is {other.image.status}'
    if _differ(ami.image, other.image):
        yield _DATA
    mine, theirs = dict(ami.parts), dict(other.parts)
    for kind in (Kind.AKI, Kind.ARI):
        part, copy = mine.get(kind), theirs.get(kind)
        if (part is None) != (copy is None) or (
            part and copy and (_differ(part, copy) or copy.status != 'active')
        ):
            yield kind.noun
    yield from _unlike(ami.image, other.image)


def _unlike(image: ImageRecord, other: ImageRecord) -> Iterator[str]:
    for name in _ALIKE:
        if getattr(image, name) != getattr(other, name):
            yield name
    if {*image.tags} != {*other.tags}:
        yield 'tags'
    mine, theirs = (
        save.travelling(each, keep_hardware=False) for each in (image, other)
    )
    for name in sorted(mine.keys() | theirs.keys()):
        if mine.get(name) != theirs.get(name):
            yield name


def find(
    context: Context,
    elsewhere: Iterable[places.CloudPlace],
    patience: retry.Patience,
) -> Iterator[Finding]:
    """Tell where an AMI is missing, and where it differs.

    :raises CloudError: if one of the places does not answer as it should.
    """
    for place in elsewhere:
        verdict = Elsewhere.of_one(place, patience, context.image).judge(
            context.ami
        )
        if verdict.copy is None:
            words = ('openstack', 'ami', 'copy', context.image.id)
            found = context.found(
                'copy-missing',
                Kind.AMI,
                f'{context.title} has no copy in {place.title}',
            )
            # Whoever sees it may copy it.
            yield dataclasses.replace(
                found, remedy=shlex.join((*words, *place.option))
            )
            continue
        title = f'{verdict.copy.id}, the copy in {place.title},'
        if not verdict.differences:
            message = f'{context.title} is the same as {title[:-1]}'
            yield context.found('copy-same', Kind.AMI, message)
            continue
        some = errors.some(verdict.differences, _NAMED)
        message = f'{context.title} differs from {title} in: {some}'
        yield context.found('copy-differs', Kind.AMI, message)
