# SPDX-License-Identifier: Apache-2.0

"""An AMI that is shared with projects, or no longer.

Nova fetches kernel and ramdisk as the user who boots: all three images have
to be shared. Kernel and ramdisk come first when a project is added, and last
when it is removed, so that nobody sees an AMI that does not boot for him.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import re

from amiclient import errors
from amiclient.glance import certificates
from amiclient.glance.change.linked import Audience
from amiclient.glance.client import Catalog
from amiclient.glance import links
from amiclient.glance.model import ImageRecord
from amiclient.glance.model import Kind
from amiclient.glance.model import OPEN
from amiclient.glance import signatures
from amiclient.glance import steps

#: As Keystone makes ids of projects.
_PROJECT = re.compile(
    r'[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}', re.IGNORECASE
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharePlan(steps.Plan):
    """How an AMI is going to be shared, or no longer.

    :param images: kernel, ramdisk and AMI, as far as they are there.
    :param projects: ids.
    """

    images: tuple[tuple[Kind, ImageRecord], ...]
    projects: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Shared:
    """An image that a project can see now.

    :param status: of the membership; None if it needs none.
    """

    kind: Kind
    image: ImageRecord
    project: str
    status: str | None


def plan_add(
    catalog: Catalog,
    ami: str,
    projects: Iterable[str],
    *,
    visibility: str | None = None,
) -> SharePlan:
    """Plan to share an AMI with projects.

    An image that is private is made ``shared``, which by itself shows it to
    nobody else; one that is public or community is left as it is.

    :param ami: its id or name.
    :param projects: ids.
    :param visibility: of all three images by then; None for what they have.
    :raises CloudError: if there is no such AMI, or if it links to what cannot
        be shared.
    """
    found, wanted = links.show(catalog, ami), tuple(dict.fromkeys(projects))
    found.check_parts(
        lambda kind: (
            'nobody could boot it; link it to another: openstack '
            f'ami set --{kind.noun} FILE {found.image.id}'
        )
    )
    made: list[steps.Change] = []
    warnings = [*unlikely(wanted)]
    for kind, image in _images(found):
        seen = Audience.of(catalog, image)
        seen = dataclasses.replace(
            seen, visibility=visibility or seen.visibility
        )
        title = steps.title(kind, image)
        lacking = [p for p in wanted if not seen.includes(p)]
        if seen.is_open:
            warnings.append(
                f'the {title} is {image.visibility}: every project can use it'
            )
        elif lacking and image.owner != found.image.owner:
            raise errors.CloudError(
                f'the {title} belongs to the project {image.owner}: only that '
                'can share it',
                hint='link to a copy of your own: openstack ami set '
                f'--{kind.noun} FILE {found.image.id}',
            )
        elif lacking:
            if seen.visibility == 'private':
                warnings.append(f'the {title} is private, and becomes shared')
                change = {'visibility': 'shared'}
                made.append(steps.Update(kind, image, change))
            made += [steps.Membership(kind, image, p) for p in lacking]
    return SharePlan(
        images=_images(found),
        projects=wanted,
        steps=tuple(made),
        warnings=tuple(warnings),
    )


def plan_remove(
    catalog: Catalog, ami: str, projects: Iterable[str]
) -> SharePlan:
    """Plan to share an AMI with projects no longer.

    A kernel or ramdisk stays shared with a project that can see another AMI
    which links to it.

    :param ami: its id or name.
    :param projects: ids.
    :raises CloudError: if there is no such AMI, or everybody can see it.
    """
    found, wanted = links.show(catalog, ami), tuple(dict.fromkeys(projects))
    image = found.image
    if image.visibility in OPEN:
        raise errors.CloudError(
            f'the image {image.title} is {image.visibility}: every project '
            'can use it',
            hint='to show it only to projects that it is shared with: '
            f'openstack ami set --linked --shared {image.id}',
        )
    made: list[steps.Change] = []
    warnings: list[str] = []
    for kind, each in reversed(_images(found)):
        title = f'the {steps.title(kind, each)}'
        there = catalog.member_ids(each)
        for project in wanted:
            if project not in there:
                if kind is Kind.AMI:
                    warnings.append(
                        f'{title} is not shared with the project {project}'
                    )
            elif each.owner == image.owner:
                others = (
                    links.others(catalog, each, image)
                    if kind is not Kind.AMI
                    else []
                )
                held = [
                    user
                    for user in others
                    if Audience.of(catalog, user).includes(project)
                ]
                if held:
                    warnings.append(
                        f'{title} stays shared with the project {project}: '
                        f'needed by {links.named(held)}'
                    )
                else:
                    made.append(
                        steps.Membership(kind, each, project, present=False)
                    )
    images = _images(found)
    ids = signed_with(images) if made else ()
    keys = certificates.KeyManager.of(catalog) if ids else None
    if keys is not None:
        warnings += (
            'users of the projects who could read the certificate of the '
            'signature still can. If no other AMI that they use is signed '
            'with it: openstack acl user remove --user USER '
            f'--operation-type read {keys.href(id)}'
            for id in ids
        )
    return SharePlan(
        images=images,
        projects=wanted,
        steps=tuple(made),
        warnings=tuple(warnings),
    )


def plan_answer(
    catalog: Catalog,
    images: Sequence[tuple[Kind, ImageRecord]],
    status: str | None,
    project: str | None,
) -> tuple[tuple[steps.Change, ...], tuple[str, ...]]:
    """Plan what a project says to an AMI that is shared with it.

    :param images: the AMI, the last, and what it links to.
    :param status: ``accepted``, ``rejected`` or ``pending``; None to leave it.
    :param project: its id; None for that of the user.
    :returns: the changes, and what the user should know.
    :raises UsageError: if the user has no project.
    :raises CloudError: if it is not shared with that project.
    """
    if status is None:
        return (), ()
    project = project or catalog.project()
    if project is None:
        raise errors.UsageError(
            'this login has no project that could answer',
            hint='give one with --project',
        )
    ami = images[-1][1]
    made: list[steps.Change] = []
    known: list[str] = []
    lacking: list[str] = []
    for kind, image in images:
        if image.visibility in OPEN or image.owner == project:
            continue
        there = {m.project: m.status for m in catalog.members(image)}
        if (now := there.get(project)) is None:
            lacking.append(steps.title(kind, image))
            continue
        known.append(now)
        if now != status:
            made.append(steps.Acceptance(kind, image, project, status, now))
    if not known:
        why = f'not shared with the project {project}'
        if not lacking:
            why = f'{ami.visibility}, or belongs to the project {project}'
        raise errors.CloudError(
            f'the image {ami.title} is {why}: there is nothing to '
            f'{steps.ANSWERS[status].replace("pending", "answer")}',
            hint='its owner shares it with: openstack ami add project '
            f'{ami.id} {project}'
            if lacking
            else None,
        )
    if status != 'accepted':
        lacking = []
    return tuple(made), tuple(
        f'the {title} is not shared with the project {project}: nothing '
        'boots there without it, which only its owner can change'
        for title in lacking
    )


def _images(ami: links.Ami) -> tuple[tuple[Kind, ImageRecord], ...]:
    return (*ami.parts, (Kind.AMI, ami.image))


def unlikely(projects: Sequence[str]) -> Iterator[str]:
    """Warn of names that could not be looked up; Glance takes anything.

    :param projects: what is taken for their ids.
    """
    for project in projects:
        if not _PROJECT.fullmatch(project):
            yield (
                f'{project!r} is used as the ID of a project, although it '
                'does not look like one: usually only administrators can look '
                'up names'
            )


def shared(plan: SharePlan, catalog: Catalog) -> list[Shared]:
    """Tell what the projects of a plan see, and whether they accepted it."""
    images = catalog.get_many([image.id for _, image in plan.images])
    made = []
    for kind, before in plan.images:
        image = images.get(before.id, before)
        known = {m.project: m.status for m in catalog.members(image)}
        made += [
            Shared(kind, image, project, known.get(project))
            for project in plan.projects
        ]
    return made


def signed_with(
    images: Iterable[tuple[Kind, ImageRecord]],
) -> tuple[str, ...]:
    """Name the certificates of images, by their ids."""
    found = (signatures.Signature.of(image) for _, image in images)
    return tuple(dict.fromkeys(each.certificate for each in found if each))


def admit(
    catalog: Catalog, ids: Iterable[str], users: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    """Let the users of projects read certificates: Nova does so as them.

    :param ids: of the certificates.
    :param users: their ids, by projects; none if they are not known.
    :returns: what has to be done by somebody else.
    """
    keys = certificates.KeyManager.of(catalog)
    if keys is None:
        yield (
            'the AMI is signed, but this cloud has no key manager (Barbican) '
            'with its certificate'
        )
        return
    known = [user for some in users.values() for user in some]
    for id in ids:
        who = [project for project, some in users.items() if not some]
        why = 'its users can be listed by administrators only'
        if known:
            try:
                keys.admit(id, known)
            except errors.CloudError as error:
                who, why = [*users], error.message
        for project in who:
            yield (
                'where Nova checks signatures, no server of the project '
                f'{project} boots the AMI before its users may read the '
                f'certificate ({why}): openstack acl user add --user USER '
                f'--operation-type read {keys.href(id)}'
            )


def advice(images: Iterable[Shared]) -> Iterator[str]:
    """Say what the other side has to do for its lists to show the images.

    :param images: all that :func:`shared` tells.
    """
    shown = list(images)
    # The AMI is the last.
    accepting = f'  openstack ami set --accept {shown[-1].image.id}'
    if any(each.status == 'pending' for each in shown):
        yield 'for their lists to show it, the projects have to accept it:'
        yield accepting
    rejected: dict[str, list[Shared]] = {}
    for each in shown:
        if each.status == 'rejected':
            rejected.setdefault(each.project, []).append(each)
    for project, theirs in rejected.items():
        titles = (f'the {steps.title(s.kind, s.image)}' for s in theirs)
        yield (
            f'the project {project} has rejected {" and ".join(titles)}; its '
            'members can still accept it:'
        )
        yield accepting
