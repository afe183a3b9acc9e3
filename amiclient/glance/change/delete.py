# SPDX-License-Identifier: Apache-2.0

"""AMIs that are deleted, and the kernels and ramdisks that nobody needs then.

Each image that was named is a task of its own: one that fails keeps no other
from being deleted.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import http
import logging

from amiclient import errors
from amiclient.glance.change import audience
from amiclient.glance.change import linked
from amiclient.glance.change import steps
from amiclient.glance import client
from amiclient.glance import links
from amiclient.glance import model
from amiclient import interrupts

LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Removal:
    """An image that is going to be deleted.

    :param after: ids of the AMIs that link to it, and have to be deleted
        before; if one of them cannot be, it stays as well.
    :param force: whether it goes even if images link to it.
    """

    kind: model.Kind
    image: model.ImageRecord
    after: frozenset[str] = frozenset()
    force: bool = False

    @property
    def title(self) -> str:
        """Name the image within a sentence."""
        return steps.title(self.kind, self.image)


@dataclasses.dataclass(frozen=True)
class RemovalPlan:
    """What is going to be deleted.

    :param total: how many images were named.
    :param removals: AMIs first, then their kernels and ramdisks.
    :param problems: what is the matter with images that were named, and are
        not going to be deleted.
    :param kept: kernels and ramdisks that stay, and why.
    :param warnings: what to say before.
    """

    total: int
    removals: tuple[Removal, ...]
    problems: tuple[errors.CloudError, ...] = ()
    kept: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def describe(self) -> Iterator[str]:
        """Say what is going to be done, a line for each image."""
        for removal in self.removals:
            yield f'delete {removal.title}'


def plan(
    catalog: client.Catalog, names: Iterable[str], *, linked: bool = False
) -> RemovalPlan:
    """Plan to delete AMIs.

    :param names: ids or names.
    :param linked: whether kernels and ramdisks are deleted that no other
        image links to, among those that the user can see.
    :raises CloudError: if the cloud does not answer as it should.
    """
    given = tuple(dict.fromkeys(names))
    found: dict[str, links.Ami] = {}
    problems: list[errors.CloudError] = []
    for name in given:
        try:
            ami = _find_ami(catalog, name)
            _check_protected(model.Kind.AMI, ami.image)
        except errors.CloudError as error:
            _raise_unless_about_one(error)
            problems.append(error)
        else:
            found[ami.image.id] = ami
    if not linked:
        removals = [
            Removal(model.Kind.AMI, ami.image) for ami in found.values()
        ]
        return RemovalPlan(len(given), tuple(removals), tuple(problems))
    return _Planner(catalog, len(given), found, problems).plan()


def plan_parts(
    catalog: client.Catalog,
    kind: model.Kind,
    names: Iterable[str],
    *,
    force: bool = False,
) -> RemovalPlan:
    """Plan to delete kernels or ramdisks.

    :param names: ids or names.
    :param force: whether to delete one that images link to.
    :raises CloudError: if the cloud does not answer as it should.
    """
    given = tuple(dict.fromkeys(names))
    removals: dict[str, Removal] = {}
    problems: list[errors.CloudError] = []
    warnings: list[str] = []
    for name in given:
        try:
            part = links.find_part(catalog, kind, name, strict=True)
            _check_protected(kind, part.image)
            _check_unused(part, force=force)
        except errors.CloudError as error:
            _raise_unless_about_one(error)
            problems.append(error)
            continue
        removals[part.image.id] = Removal(kind, part.image, force=force)
        if part.users:
            warnings.append(
                f'{_named(part.users)} will not boot without the '
                f'{steps.title(kind, part.image)}'
            )
        warnings += _unseen(kind, part.image, catalog)
    return RemovalPlan(
        len(given),
        tuple(removals.values()),
        tuple(problems),
        warnings=tuple(warnings),
    )


def _named(images: Iterable[model.ImageRecord]) -> str:
    return linked.named(images)


def _raise_unless_about_one(error: errors.CloudError) -> None:
    """Pass on what would be the same with every other image."""
    no_answer = error.status is None and error.__cause__ is not None
    if no_answer or error.status == http.HTTPStatus.UNAUTHORIZED:
        raise error


class _Refusal(errors.CloudError):
    """What speaks against deleting one image."""


def _find_ami(catalog: client.Catalog, name: str) -> links.Ami:
    image = catalog.find(name, strict=True)
    if image.disk_format in (model.Kind.AKI.value, model.Kind.ARI.value):
        kind = model.Kind(image.disk_format)
        raise _Refusal(
            f'the image {image.name!r} ({image.id}) is a {kind.noun}, not an '
            'AMI',
            hint=f'use `openstack ami {kind.noun} delete`',
        )
    if not image.kernel_id and image.disk_format != model.Kind.AMI.value:
        raise _Refusal(
            f'the image {image.name!r} ({image.id}) is no AMI: it links to no '
            'kernel',
            hint=f'this deletes it: openstack image delete {image.id}',
        )
    return links.Ami(image)


def _check_protected(kind: model.Kind, image: model.ImageRecord) -> None:
    if image.protected:
        raise _Refusal(
            f'the {steps.title(kind, image)} is protected',
            hint=client.unprotect(image),
        )


def _check_unused(part: links.LinkedPart, *, force: bool) -> None:
    if part.users and not force:
        raise _Refusal(
            f'the {steps.title(part.kind, part.image)} is in use: '
            f'{_named(part.users)} would not boot without it',
            hint='link those to another with `openstack ami set '
            f'--{part.kind.noun}`, or add --force',
        )


def _unseen(
    kind: model.Kind, image: model.ImageRecord, catalog: client.Catalog
) -> Iterator[str]:
    """Warn of images that may link to one, but cannot be seen."""
    seen = audience.Audience.of(catalog, image)
    if seen.is_open or seen.projects - {image.owner}:
        yield (
            f'the {steps.title(kind, image)} can be used by other projects: '
            'whether private images of theirs link to it cannot be seen'
        )


class _Planner:
    """Finds out which kernels and ramdisks go with their AMIs."""

    def __init__(
        self,
        catalog: client.Catalog,
        total: int,
        amis: Mapping[str, links.Ami],
        problems: list[errors.CloudError],
    ) -> None:
        self._catalog = catalog
        self._total = total
        self._amis = dict(amis)
        self._problems = problems
        self._kept: list[str] = []
        self._warnings: list[str] = []

    def plan(self) -> RemovalPlan:
        """Make the plan."""
        kinds = {
            str(link).lower(): kind
            for ami in self._amis.values()
            for kind, name in model.LINKS.items()
            if (link := ami.image.properties.get(name))
        }
        found = self._catalog.get_many(kinds) if kinds else {}
        # Kernel before ramdisk, whatever their ids.
        parts = {id: found[id] for id in kinds if id in found}
        using = links.used_by(self._catalog, parts) if parts else {}
        self._refuse_protected(kinds, parts, using)
        removals = [
            removal
            for id, part in parts.items()
            if (removal := self._removal(kinds[id], part, using[id]))
        ]
        for each in removals:
            self._warnings += _unseen(each.kind, each.image, self._catalog)
        amis = (Removal(model.Kind.AMI, a.image) for a in self._amis.values())
        return RemovalPlan(
            self._total,
            (*amis, *removals),
            tuple(self._problems),
            tuple(self._kept),
            tuple(self._warnings),
        )

    def _refuse_protected(
        self,
        kinds: Mapping[str, model.Kind],
        parts: Mapping[str, model.ImageRecord],
        using: Mapping[str, tuple[model.ImageRecord, ...]],
    ) -> None:
        """Leave AMIs alone whose kernel should go, but is protected.

        Without its AMI, a kernel is hard to find again.
        """
        for id, part in parts.items():
            own = [user for user in using[id] if user.id in self._amis]
            others = [user for user in using[id] if user not in own]
            if others or not part.protected or not self._owned(part, own):
                continue
            for user in own:
                del self._amis[user.id]
                self._problems.append(
                    _Refusal(
                        f'the {steps.title(kinds[id], part)}, which '
                        f'{user.name!r} ({user.id}) links to, is protected',
                        hint=f'{client.unprotect(part)}; or leave out '
                        '--linked',
                    )
                )

    @staticmethod
    def _owned(
        part: model.ImageRecord, own: Iterable[model.ImageRecord]
    ) -> bool:
        return all(user.owner == part.owner for user in own)

    def _removal(
        self,
        kind: model.Kind,
        part: model.ImageRecord,
        using: tuple[model.ImageRecord, ...],
    ) -> Removal | None:
        own = [user for user in using if user.id in self._amis]
        others = [user for user in using if user not in own]
        title = steps.title(kind, part)
        if not own:
            return None
        if others:
            self._kept.append(f'kept the {title}: needed by {_named(others)}')
            return None
        if not self._owned(part, own):
            self._kept.append(
                f'kept the {title}: it belongs to the project {part.owner}'
            )
            return None
        return Removal(kind, part, frozenset(user.id for user in own))


def execute(plan: RemovalPlan, catalog: client.Catalog) -> None:
    """Delete images, as many as can be.

    :raises CloudError: if one could not be deleted, or several: then they
        have been logged one by one, and this counts them.
    """
    problems = list(plan.problems)
    parts: list[errors.CloudError] = []
    gone: set[str] = set()
    try:
        for removal in plan.removals:
            if not removal.after <= gone:
                LOG.warning(
                    'kept the %s: an image that links to it was not deleted',
                    removal.title,
                )
                continue
            try:
                if (needed := _needed(removal, catalog)) is not None:
                    LOG.warning('%s', needed)
                    continue
                _delete(removal, catalog)
            except errors.CloudError as error:
                _raise_unless_about_one(error)
                (parts if removal.after else problems).append(error)
            else:
                gone.add(removal.image.id)
    except (interrupts.Interrupted, errors.CloudError):
        linked = any(removal.after for removal in plan.removals)
        LOG.warning(
            'deleted %d of %d images%s',
            len(gone),
            len(plan.removals),
            ', kernels and ramdisks included' if linked else '',
        )
        raise
    refuse(problems, plan.total, parts)


def _needed(removal: Removal, catalog: client.Catalog) -> str | None:
    """Look once more for what links to a part, right before it goes.

    Glance has no request that deletes an image only if nothing links to it.

    :returns: why it is kept; None if it is not.
    :raises CloudError: if it was named, and is in use.
    """
    if removal.kind is model.Kind.AMI or removal.force:
        return None
    image = removal.image
    using = links.used_by(catalog, [image.id])[image.id]
    if not using:
        return None
    if not removal.after:
        _check_unused(
            links.LinkedPart(removal.kind, image, using), force=False
        )
    return f'kept the {removal.title}: needed by {_named(using)}'


def _delete(removal: Removal, catalog: client.Catalog) -> None:
    try:
        catalog.delete(removal.image.id)
    except errors.NotFoundError:
        # Whoever did it, it is deleted.
        return
    except errors.CloudError as error:
        raise catalog.explained(error, removal.image) from error


def refuse(
    problems: Sequence[errors.CloudError],
    total: int,
    parts: Sequence[errors.CloudError] = (),
    *,
    dry_run: bool = False,
) -> None:
    """Say what was not deleted, if anything.

    :param problems: with images that were named.
    :param total: how many were.
    :param parts: problems with kernels and ramdisks that these link to.
    :param dry_run: whether nothing was to be deleted.
    :raises CloudError: one error, which counts them if there are several.
    """
    if not problems and not parts:
        return
    if total == 1 and not parts:
        raise problems[0]
    for each in (*problems, *parts):
        LOG.error('%s', each)
    counted = f'{len(problems)} of {total} images' if problems else ''
    if parts:
        one, some = 'kernel or ramdisk', 'kernels and ramdisks'
        what = one if len(parts) == 1 else some
        linked = f'{len(parts)} {what} that they link to'
        counted = f'{counted}, and {linked},' if counted else linked
    were = 'was' if len(problems) + len(parts) == 1 else 'were'
    done = 'would not be' if dry_run else f'{were} not'
    raise errors.CloudError(f'{counted} {done} deleted')
