# SPDX-License-Identifier: Apache-2.0

"""Old versions of an AMI that are deleted, as far as nobody needs them."""

from collections.abc import Iterable, Sequence
import dataclasses
import datetime
from typing import Any

from amiclient import errors
from amiclient.glance.change import delete
from amiclient.glance import client
from amiclient.glance.model import ImageRecord
from amiclient.glance.model import Kind
from amiclient.glance.model import literal
from amiclient.glance import servers
from amiclient.glance.upload import marks
from amiclient.glance import versions


#: The status of what is complete.
_COMPLETE = ('active', 'deactivated')


def own(
    catalog: client.Catalog,
    *,
    family: str | None = None,
    name: str | None = None,
    owner: str | None = None,
) -> list[ImageRecord]:
    """Find the versions that belong to a project, the newest first.

    :param family: theirs.
    :param name: theirs, if they have no family.
    :param owner: the id of the project; None for that of the user.
    """
    owner = owner or catalog.project()
    query: dict[str, Any] = dict(client.ALL)
    if owner is not None:
        query['owner'] = owner
    if family is not None:
        found = versions.family(catalog, family, query)
    else:
        query['name'] = literal(name or '')
        found = [
            image
            for image in versions.listed(catalog, query)
            # Some databases compare without regard to case.
            if image.name == name
            and (image.kernel_id or image.disk_format == Kind.AMI.value)
        ]
    return complete(found)


def complete(images: Iterable[ImageRecord]) -> list[ImageRecord]:
    """Choose those that no upload is at work on."""
    return [
        image
        for image in images
        if image.status in _COMPLETE and not marks.is_alive(image)
    ]


def plan(
    catalog: client.Catalog,
    name: str,
    *,
    keep: int,
    older_than: datetime.timedelta | None = None,
    unused_only: bool = False,
) -> delete.DeletePlan:
    """Plan to delete all but the newest versions of an AMI of the project.

    :param name: of a family; if there is none, of images.
    :param keep: how many versions stay in any case.
    :param older_than: how long ago the others must have been created.
    :param unused_only: whether it is an error if Nova does not tell what is
        in use.
    """
    found = own(catalog, family=name) or own(catalog, name=name)
    if not found:
        raise errors.NotFoundError(
            f'no AMI of this project has the family or the name {name!r}',
            hint='see `openstack ami list`',
        )
    old = found[keep:]
    notes: list[str] = []
    if older_than is not None:
        limit = datetime.datetime.now(datetime.UTC) - older_than
        young = [i for i in old if i.created_at and i.created_at > limit]
        notes = [
            f'kept the image {i.title}: it is not old enough' for i in young
        ]
        old = [image for image in old if image not in young]
    return plan_old(catalog, old, notes=notes, unused_only=unused_only)


def plan_old(
    catalog: client.Catalog,
    old: Sequence[ImageRecord],
    *,
    notes: Sequence[str] = (),
    unused_only: bool = False,
) -> delete.DeletePlan:
    """Plan to delete versions, but none that is protected or in use.

    :param notes: what is kept already, and why.
    """
    kept = [*notes]
    kept += (
        f'kept the image {image.title}: it is protected'
        for image in old
        if image.protected
    )
    amis = {
        image.id: delete.Deletion(Kind.AMI, image)
        for image in old
        if not image.protected
    }
    usage = delete.used(catalog, amis.values(), linked=True)
    if usage.unknown is not None and unused_only:
        raise errors.CloudError(
            'whether servers use the images to delete is not known: '
            f'{usage.unknown}',
            hint='leave out --unused-only to delete them all the same',
        )
    for step in list(amis.values()):
        if using := usage.of(step.image.id):
            del amis[step.image.id]
            kept.append(
                f'kept the {step.title}: in use by {servers.named(using)}'
            )
    planned = delete.complete(
        catalog, amis, usage, linked=True, notes=kept, total=len(amis)
    )
    # A kernel that is protected keeps its AMI, which is no failure here.
    also = (f'kept the image that links to it: {p}' for p in planned.problems)
    return dataclasses.replace(
        planned, problems=(), notes=(*planned.notes, *also)
    )
