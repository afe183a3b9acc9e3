# SPDX-License-Identifier: Apache-2.0

"""What becomes of the versions of an AMI that a new one replaces.

The new version is complete and verified before any of these is changed. So
nothing is undone if that fails: the new one stays, and it is said which of the
old ones were changed, and which were not.
"""

from collections.abc import Sequence
import dataclasses
import datetime
import logging

from amiclient import errors
from amiclient.glance.change import delete
from amiclient.glance.change import prune
from amiclient.glance import client
from amiclient.glance.model import ImageRecord
from amiclient.glance.model import Kind
from amiclient.glance import steps
from amiclient.glance.upload import request
from amiclient.glance import versions
from amiclient import interrupts

LOG = logging.getLogger(__name__)

#: What is put behind a name; the second if the first is not free.
_STAMPS = ('%Y%m%d', '%Y%m%d %H%M%S')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replacement:
    """What is to be done.

    :param how: ``keep``, ``hide``, ``rename``, ``deactivate`` or ``delete``.
    :param name: that of the new version.
    :param family: its family; None if the old ones are those of that name.
    :param keep: how many versions stay as they are, the new one included.
    :param owner: the id of the project; None for that of the user.
    """

    how: str
    name: str
    family: str | None = None
    keep: int = 1
    owner: str | None = None


@dataclasses.dataclass(frozen=True)
class Row(request.PlanStep):
    """A change of an old version, as one of the steps of an upload."""

    kind: Kind
    image: ImageRecord
    action: str

    @property
    def size(self) -> int | None:
        return self.image.size


def find(
    catalog: client.Catalog, asked: Replacement
) -> tuple[ImageRecord, ...]:
    """Find the versions that are there already, the newest first.

    :returns: none if nothing is to be done to them.
    """
    if asked.how == 'keep':
        return ()
    found = prune.own(
        catalog, family=asked.family, name=asked.name, owner=asked.owner
    )
    return tuple(found)


def plan(
    catalog: client.Catalog,
    asked: Replacement,
    old: Sequence[ImageRecord],
    *,
    new: str | None = None,
) -> steps.Plan:
    """Plan what is done to old versions.

    :param old: all of them, the newest first.
    :param new: the id of the new version, which may be one of them.
    """
    replaced = [image for image in old if image.id != new][asked.keep - 1 :]
    if asked.how == 'delete':
        return prune.plan_old(catalog, replaced)
    made: list[steps.Change] = []
    for image in replaced:
        if asked.how == 'hide' and not image.hidden:
            made.append(steps.Update(Kind.AMI, image, {'os_hidden': True}))
        elif asked.how == 'rename' and image.name == asked.name:
            name = _dated(catalog, image, made)
            made.append(steps.Update(Kind.AMI, image, {'name': name}))
        elif asked.how == 'deactivate' and image.status == 'active':
            made.append(steps.Activation(Kind.AMI, image, active=False))
    return steps.Plan(steps=tuple(made))


def leaving(
    catalog: client.Catalog, asked: Replacement, old: Sequence[ImageRecord]
) -> tuple[ImageRecord, ...]:
    """Tell which old versions will not be found by the name any more."""
    if asked.how == 'deactivate':
        return ()
    return tuple(step.image for step in plan(catalog, asked, old).steps)


def _dated(
    catalog: client.Catalog,
    image: ImageRecord,
    before: Sequence[steps.Change],
) -> str:
    """Add its date to the name of an image, as scs-0102-v1 recommends.

    :param before: changes that are made before.
    """
    given = {c.values['name'] for c in before if isinstance(c, steps.Update)}
    date = versions.built(image) or datetime.datetime.now(datetime.UTC)
    name = ''
    for stamp in _STAMPS:
        name = f'{image.name} {date.astimezone(datetime.UTC):{stamp}}'
        if name not in given and not any(
            catalog.named(name, hidden=hidden) for hidden in (False, True)
        ):
            break
    return name


def rows(asked: Replacement, planned: steps.Plan) -> tuple[Row, ...]:
    """Tell the changes as an upload tells its own."""

    def action(step: steps.Change) -> str:
        if asked.how == 'rename' and isinstance(step, steps.Update):
            return f'rename to {step.values["name"]!r}:'
        return asked.how

    return tuple(Row(s.kind, s.image, action(s)) for s in planned.steps)


def execute(
    catalog: client.Catalog,
    asked: Replacement,
    old: Sequence[ImageRecord],
    new: ImageRecord,
) -> tuple[str, ...]:
    """Do what is to be done to old versions.

    :param old: those that were there before the upload: what has come since
        then is somebody else's work.
    :param new: the new version, complete.
    :returns: what the user should know.
    :raises CloudError: if it was not all done; then it was logged what was.
    """
    planned, done = steps.Plan(), set[str]()
    try:
        now = catalog.get_many([image.id for image in old])
        there = [now[image.id] for image in old if image.id in now]
        planned = plan(catalog, asked, there, new=new.id)
        if isinstance(planned, delete.DeletePlan):
            delete.execute(planned, catalog, done)
        else:
            _change(planned, catalog, done)
    except (errors.CloudError, interrupts.Interrupted):
        _tell(planned, done, new)
        raise
    return (*planned.warnings, *planned.notes)


def _change(
    planned: steps.Plan, catalog: client.Catalog, done: set[str]
) -> None:
    failed = 0
    for step in planned.steps:
        try:
            steps.apply(step, catalog)
        except errors.NotFoundError:
            # Then nobody finds it any more, as was asked.
            done.add(step.image.id)
        except errors.CloudError as error:
            delete.raise_unless_about_one(error)
            LOG.error('%s: %s', step.title, error)  # noqa: TRY400
            failed += 1
        else:
            done.add(step.image.id)
    if failed:
        raise errors.CloudError(
            f'{failed} of {len(planned.steps)} old images could not be changed'
        )


def _tell(planned: steps.Plan, done: set[str], new: ImageRecord) -> None:
    LOG.error('the new image %s is complete, and stays', new.title)
    for what, is_done in (('was', True), ('was not', False)):
        lines = [
            step.describe()
            for step in planned.steps
            if (step.image.id in done) == is_done
        ]
        if lines:
            LOG.error('this %s done: %s', what, '; '.join(lines))
    if not planned.steps:
        LOG.error('no old image was changed')
