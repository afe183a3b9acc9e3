# SPDX-License-Identifier: Apache-2.0

"""AMIs that are deleted, and the kernels and ramdisks that nobody needs then.

Each image that was named is a task of its own: one that fails keeps no other
from being deleted, and none is undone.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import http
import logging

from amiclient.errors import CloudError
from amiclient.errors import NotFoundError
from amiclient.glance.change.linked import Audience
from amiclient.glance.change import steps
from amiclient.glance import client
from amiclient.glance import links
from amiclient.glance.model import ImageRecord
from amiclient.glance.model import Kind
from amiclient.glance.model import LINKS
from amiclient import interrupts

LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Deletion(steps.Change):
    """An image that is going to be deleted.

    :param after: ids of the AMIs that link to it, and have to be deleted
        before; if one of them cannot be, it stays as well.
    :param force: whether it goes even if images link to it.
    """

    after: frozenset[str] = frozenset()
    force: bool = False

    def describe(self) -> str:
        return f'delete {self.title}'

    def apply(self, catalog: client.Catalog) -> None:
        # Somebody else may have done it.
        with contextlib.suppress(NotFoundError):
            catalog.delete(self.image.id)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeletePlan(steps.Plan):
    """What is going to be deleted: AMIs, then their kernels and ramdisks.

    :param total: how many images were named.
    :param problems: what is the matter with images that were named, and are
        not going to be deleted.
    """

    steps: tuple[Deletion, ...]
    total: int
    problems: tuple[CloudError, ...] = ()


def plan(
    catalog: client.Catalog, names: Iterable[str], *, linked: bool = False
) -> DeletePlan:
    """Plan to delete AMIs.

    :param names: ids or names.
    :param linked: whether kernels and ramdisks are deleted that no other
        image links to, among those that the user can see.
    """
    given = tuple(dict.fromkeys(names))
    amis: dict[str, ImageRecord] = {}
    problems: list[CloudError] = []
    for name in given:
        try:
            image = catalog.find(name, strict=True)
            links.check_ami(
                image,
                part='use `openstack ami {} delete`',
                other=f'this deletes it: openstack image delete {image.id}',
            )
            _check_protected(Kind.AMI, image)
        except CloudError as error:
            _raise_unless_about_one(error)
            problems.append(error)
        else:
            amis[image.id] = image
    parts: list[Deletion] = []
    notes: list[str] = []
    if linked:
        _plan_linked(catalog, amis, parts, notes, problems)
    return DeletePlan(
        steps=(*(Deletion(Kind.AMI, ami) for ami in amis.values()), *parts),
        total=len(given),
        problems=tuple(problems),
        notes=tuple(notes),
        warnings=tuple(w for p in parts for w in _unseen(p, catalog)),
    )


def _plan_linked(
    catalog: client.Catalog,
    amis: dict[str, ImageRecord],
    parts: list[Deletion],
    notes: list[str],
    problems: list[CloudError],
) -> None:
    """Find out which kernels and ramdisks go with their AMIs.

    :param amis: by their ids; loses those whose kernel should go, but is
        protected: without its AMI, a kernel is hard to find again.
    :param parts: gets what goes. :param notes: gets what stays, and why.
    """
    kinds = {
        str(link).lower(): kind
        for ami in amis.values()
        for kind, key in LINKS.items()
        if (link := ami.properties.get(key))
    }
    found = catalog.get_many(kinds) if kinds else {}
    using = links.used_by(catalog, found) if found else {}
    # Kernel before ramdisk, whatever their ids.
    there = [
        (id, kind, found[id]) for id, kind in kinds.items() if id in found
    ]
    for id, kind, part in there:
        own, others = _split(using[id], amis)
        if others or not part.protected or not _owned(part, own):
            continue
        for user in own:
            del amis[user.id]
            problems.append(
                CloudError(
                    f'the {steps.title(kind, part)}, which {user.title} links '
                    'to, is protected',
                    hint=f'{client.unprotect(part)}; or leave out --linked',
                )
            )
    for id, kind, part in there:
        own, others = _split(using[id], amis)
        kept = f'kept the {steps.title(kind, part)}: '
        if not own:
            continue
        if others:
            notes.append(f'{kept}needed by {links.named(others)}')
        elif not _owned(part, own):
            notes.append(f'{kept}it belongs to the project {part.owner}')
        else:
            after = frozenset(user.id for user in own)
            parts.append(Deletion(kind, part, after))


def _split(
    users: Iterable[ImageRecord], amis: Mapping[str, ImageRecord]
) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """Tell the images that are to be deleted from others."""
    own = [user for user in users if user.id in amis]
    return own, [user for user in users if user.id not in amis]


def _owned(part: ImageRecord, own: Iterable[ImageRecord]) -> bool:
    return all(user.owner == part.owner for user in own)


def plan_parts(
    catalog: client.Catalog,
    kind: Kind,
    names: Iterable[str],
    *,
    force: bool = False,
) -> DeletePlan:
    """Plan to delete kernels or ramdisks.

    :param names: ids or names.
    :param force: whether to delete one that images link to.
    """
    given = tuple(dict.fromkeys(names))
    made: dict[str, Deletion] = {}
    problems: list[CloudError] = []
    warnings: list[str] = []
    for name in given:
        try:
            part = links.find_part(catalog, kind, name, strict=True)
            step = Deletion(kind, part.image, force=force)
            _check_protected(kind, part.image)
            _check_unused(step, part.users or ())
        except CloudError as error:
            _raise_unless_about_one(error)
            problems.append(error)
            continue
        made[part.image.id] = step
        if part.users:
            warnings.append(
                f'{links.named(part.users)} will not boot without the '
                f'{step.title}'
            )
        warnings += _unseen(step, catalog)
    return DeletePlan(
        steps=tuple(made.values()),
        total=len(given),
        problems=tuple(problems),
        warnings=tuple(warnings),
    )


def _raise_unless_about_one(error: CloudError) -> None:
    """Pass on what would be the same with every other image."""
    no_answer = error.status is None and error.__cause__ is not None
    if no_answer or error.status == http.HTTPStatus.UNAUTHORIZED:
        raise error


def _check_protected(kind: Kind, image: ImageRecord) -> None:
    if image.protected:
        raise CloudError(
            f'the {steps.title(kind, image)} is protected',
            hint=client.unprotect(image),
        )


def _check_unused(step: Deletion, users: Sequence[ImageRecord]) -> None:
    if users and not step.force:
        raise CloudError(
            f'the {step.title} is in use: {links.named(users)} would not boot '
            'without it',
            hint='link those to another with `openstack ami set '
            f'--{step.kind.noun}`, or add --force',
        )


def _unseen(step: Deletion, catalog: client.Catalog) -> Iterator[str]:
    """Warn of images that may link to one, but cannot be seen."""
    seen = Audience.of(catalog, step.image)
    if seen.is_open or seen.projects - {step.image.owner}:
        yield (
            f'the {step.title} can be used by other projects: whether private '
            'images of theirs link to it cannot be seen'
        )


def execute(plan: DeletePlan, catalog: client.Catalog) -> None:
    """Delete images, as many as can be.

    :raises CloudError: if one could not be deleted, or several: then they
        have been logged one by one, and this counts them.
    """
    problems = list(plan.problems)
    parts: list[CloudError] = []
    gone: set[str] = set()
    try:
        for step in plan.steps:
            if not step.after <= gone:
                LOG.warning(
                    'kept the %s: an image that links to it was not deleted',
                    step.title,
                )
                continue
            try:
                if (needed := _needed(step, catalog)) is not None:
                    LOG.warning('%s', needed)
                    continue
                steps.apply(step, catalog)
            except CloudError as error:
                _raise_unless_about_one(error)
                (parts if step.after else problems).append(error)
            else:
                gone.add(step.image.id)
    except (interrupts.Interrupted, CloudError):
        linked = any(step.after for step in plan.steps)
        LOG.warning(
            'deleted %d of %d images%s',
            len(gone),
            len(plan.steps),
            ', kernels and ramdisks included' if linked else '',
        )
        raise
    refuse(problems, plan.total, parts)


def _needed(step: Deletion, catalog: client.Catalog) -> str | None:
    """Look once more for what links to a part, right before it goes.

    Glance has no request that deletes an image only if nothing links to it.

    :returns: why it is kept; None if it is not.
    :raises CloudError: if it was named, and is in use.
    """
    if step.kind is Kind.AMI or step.force:
        return None
    using = links.used_by(catalog, [step.image.id])[step.image.id]
    if not using:
        return None
    if not step.after:
        _check_unused(step, using)
    return f'kept the {step.title}: needed by {links.named(using)}'


def refuse(
    problems: Sequence[CloudError],
    total: int,
    parts: Sequence[CloudError] = (),
    *,
    dry_run: bool = False,
) -> None:
    """Say what was not deleted, if anything.

    :param problems: with images that were named, ``total`` of them.
    :param parts: problems with kernels and ramdisks that these link to.
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
    raise CloudError(f'{counted} {done} deleted')
