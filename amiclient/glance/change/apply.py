# SPDX-License-Identifier: Apache-2.0

"""What it takes until a project has the AMIs that it is to have.

This is a plan of plans: an AMI that is not there is uploaded, or copied to
where it lacks; one that is there is changed where it differs, and shared; old
versions are replaced. Each of these is planned and done as by the command for
it. What is done to one AMI changes nothing for the others.
"""

from collections.abc import (
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
import dataclasses
import logging

from amiclient import errors
from amiclient.glance.change import copy
from amiclient.glance.change import copy_plan
from amiclient.glance.change import delete
from amiclient.glance.change import inventory
from amiclient.glance.change import prune
from amiclient.glance.change import settle
from amiclient.glance.declaration import DeclaredAmi
from amiclient.glance.model import ImageRecord
from amiclient.glance import places
from amiclient.glance import retry
from amiclient.glance.upload import request
from amiclient.progress import Progress

LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ApplyRequest:
    """What is to be done.

    :param amis: what the project is to have.
    :param home: where the user is.
    :param others: regions and clouds, by their titles, as far as they answer.
    :param upload: makes a plan to upload an AMI.
    :param project: looks up the id of a project.
    :param users: names the users of one, as far as that is allowed.
    :param dry_run: whether nothing is to be done.
    """

    amis: Sequence[DeclaredAmi]
    home: places.CloudPlace
    others: Mapping[str, places.CloudPlace]
    upload: settle.Upload
    project: Callable[[str], str]
    users: Callable[[str], Sequence[str]]
    patience: retry.Patience
    dry_run: bool = False


class Applying:
    """Brings a project there, one AMI after the other.

    ``changes`` has what was done; ``failed`` tells whether a copy failed,
    which was logged.
    """

    def __init__(self, asked: ApplyRequest, *, progress: Progress) -> None:
        self.changes: list[settle.AppliedChange] = []
        self.failed = False
        self._asked = asked
        self._means = settle.Means(
            project=asked.project,
            users=asked.users,
            patience=asked.patience,
            progress=progress,
            dry_run=asked.dry_run,
            tell=self.changes.append,
        )
        self._inventories: dict[str, inventory.Inventory] = {}

    def _inventory(self, place: places.CloudPlace) -> inventory.Inventory:
        if place.title not in self._inventories:
            with errors.about_cloud(place.title.strip() or 'the cloud'):
                found = inventory.Inventory(place, self._asked.patience)
            self._inventories[place.title] = found
        return self._inventories[place.title]

    def apply(self, ami: DeclaredAmi) -> None:
        """Have one AMI there, everywhere.

        :raises AmiError: if that failed; then ``changes`` has what was done.
        """
        state = inventory.SourceState.of(ami, self._means.progress)
        home = self._inventory(self._asked.home)
        found = inventory.current(home, ami, state)
        if found is None and state is None:
            what = 'family' if ami.family else 'name'
            raise errors.NotFoundError(
                f'no AMI of this project has the {what} {ami.title!r}',
                hint='add a source, to have it uploaded',
            )
        one = settle.Settling(self._means, home, ami, state)
        if found is None:
            found = one.upload(self._asked.upload)
            one.settle(found, reused=True)
        else:
            one.settle(found)
        self._copy(one)

    def _copy(self, one: settle.Settling) -> None:
        """Have an AMI in other places, as it is at home."""
        ami, away, missing = one.ami, list[settle.Settling](), []
        titles = [f'region {name}' for name in ami.regions]
        for title in (*titles, *(f'cloud {name}' for name in ami.clouds)):
            if title not in self._asked.others:
                missing.append(title)
                continue
            there = self._inventory(self._asked.others[title])
            other = settle.Settling(
                self._means, there, ami, one.state, parts=one.parts
            )
            found = _alike(one, there)
            if found is None:
                away.append(other)
            else:
                other.settle(found)
        if away:
            for other, id in zip(away, self._copies(one, away), strict=True):
                if id is not None:
                    found = other.catalog.get(id) if id else None
                    other.settle(found, reused=True)
        if missing:
            raise errors.CloudError(f'no copy for the {", ".join(missing)}')

    def _copies(
        self, one: settle.Settling, away: Sequence[settle.Settling]
    ) -> Iterator[str | None]:
        """Copy an AMI.

        :returns: the ids of the copies, which are empty if they are not there
            yet; None if one could not be made.
        """
        if one.image is None:
            results = copy.planned(tuple(o.there.place for o in away), ())
        else:
            ami, marks = one.ami, one.image.properties
            asked = copy_plan.CopyRequest(
                one.image.id,
                request.Settings(
                    visibility=ami.visibility,
                    protected=ami.protected,
                    hidden=bool(ami.hidden),
                    patience=self._asked.patience,
                ),
                properties={
                    key: str(marks[key])
                    for key in (inventory.COLLECTION, inventory.APPLIED)
                    if key in marks
                },
                dry_run=self._asked.dry_run,
            )
            results = copy.copy(
                asked,
                self._asked.home,
                tuple(other.there.place for other in away),
                progress=self._means.progress,
            )
        for other, result in zip(away, results, strict=True):
            if result.status == 'failed':
                self.failed = True
                yield None
                continue
            if result.status != 'present':
                other.tell('copy', result.id)
            yield result.id or ''

    def prune(self, collections: Collection[str | None]) -> None:
        """Delete what no declaration names any more.

        Only AMIs that have the mark of one of the collections are deleted,
        and none that is protected, or that a server uses.

        :raises CloudError: if Nova does not tell what servers use.
        """
        for place in (self._asked.home, *self._asked.others.values()):
            there = self._inventory(place)
            kept = {
                ami.title
                for ami in self._asked.amis
                if not place.kind
                or place.name in getattr(ami, f'{place.kind}s')
            }
            gone = {
                image.id: str(inventory.applied(image)['ami'])
                for image in there.amis
                if image.properties.get(inventory.COLLECTION) in collections
                # Without the other mark, there is no telling what it was.
                and inventory.applied(image).get('ami') not in (None, *kept)
            }
            old = [image for image in there.amis if image.id in gone]
            planned = prune.plan_old(there.catalog, old, unused_only=True)
            for line in (*planned.warnings, *planned.notes):
                LOG.warning('%s', line)
            for step in planned.steps:
                named = [
                    gone[id]
                    for id in (step.image.id, *step.after)
                    if id in gone
                ]
                self.changes.append(
                    settle.AppliedChange(
                        named[0], there.title, step.describe(), step.image.id
                    )
                )
            if not self._asked.dry_run:
                delete.execute(planned, there.catalog)


def _alike(
    one: settle.Settling, there: inventory.Inventory
) -> ImageRecord | None:
    """Find the copy of an AMI that another place has."""
    ami = one.ami
    if one.image is None:
        # What it will be, only the source tells.
        if one.state is None:
            return None
        return inventory.current(there, ami, one.state)
    wanted = one.there.linked(one.image)
    for image in there.versions(ami):
        found = there.linked(image)
        if image.status == 'active' and all(
            _same_data(getattr(wanted, noun), getattr(found, noun))
            for noun in ('image', 'kernel', 'ramdisk')
            # A file is linked there, too.
            if noun == 'image' or not settle.is_file(getattr(ami, noun) or '')
        ):
            return image
    return None


def _same_data(one: ImageRecord | None, other: ImageRecord | None) -> bool:
    if one is None or other is None:
        return one is other
    names = ('size', 'hash_algo', 'hash_value')
    return all(getattr(one, n) == getattr(other, n) for n in names)
