# SPDX-License-Identifier: Apache-2.0

"""AMIs that are deleted, and the kernels and ramdisks that nobody needs then.

Each image that was named is a task of its own: one that fails keeps no other
from being deleted, and none is undone.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import contextlib
import dataclasses
import http
import logging

from amiclient.errors import CloudError
from amiclient.errors import NotFoundError
from amiclient.glance.change.linked import Audience
from amiclient.glance import client
from amiclient.glance import links
from amiclient.glance.model import ImageRecord
from amiclient.glance.model import Kind
from amiclient.glance.model import LINKS
from amiclient.glance import servers
from amiclient.glance import steps
from amiclient.glance import stores
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
            stores.await_end(catalog, self.image)
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
    catalog: client.Catalog,
    names: Iterable[str],
    *,
    linked: bool = False,
    force: bool = False,
) -> DeletePlan:
    """Plan to delete AMIs.

    :param names: ids or names.
    :param linked: whether kernels and ramdisks are deleted that no other
        image links to, among those that the user can see.
    :param force: whether to delete what servers use.
    """

    def find(name: str) -> Deletion:
        image = catalog.find(name, strict=True)
        links.check_ami(
            image,
            part='use `openstack ami {} delete`',
            other=f'this deletes it: openstack image delete {image.id}',
        )
        return unprotected(Deletion(Kind.AMI, image, force=force))

    amis, problems, total = _named(names, find)
    usage = used(catalog, amis.values(), linked=linked)
    warnings = tuple(_keep_used(amis, usage, problems, parts=linked))
    return complete(
        catalog,
        amis,
        usage,
        linked=linked,
        problems=problems,
        warnings=warnings,
        total=total,
    )


def used(
    catalog: client.Catalog, amis: Iterable[Deletion], *, linked: bool
) -> servers.Usage:
    """Ask which servers use what would be deleted.

    :param linked: whether kernels and ramdisks would be, too.
    """
    asked = {step.image.id: step.kind for step in amis}
    if linked:
        asked |= _linked(amis)
    return servers.find(catalog, asked)


def _linked(amis: Iterable[Deletion]) -> dict[str, Kind]:
    """Tell the ids of the kernels and ramdisks that AMIs link to."""
    return {
        str(link).lower(): kind
        for ami in amis
        for kind, key in LINKS.items()
        if (link := ami.image.properties.get(key))
    }


def complete(
    catalog: client.Catalog,
    amis: dict[str, Deletion],
    usage: servers.Usage,
    *,
    linked: bool,
    problems: Sequence[CloudError] = (),
    warnings: Sequence[str] = (),
    notes: Sequence[str] = (),
    total: int = 0,
) -> DeletePlan:
    """Make a plan to delete AMIs, and what goes with them.

    :param amis: by their ids.
    :param usage: which servers use what.
    :param notes: what is kept, and why. The others are those of the plan.
    """
    parts: list[Deletion] = []
    made = [*problems]
    kept = [*notes]
    if linked:
        _plan_linked(catalog, amis, usage, parts, kept, made)
    going = (*amis.values(), *parts)
    return DeletePlan(
        steps=going,
        total=total,
        problems=tuple(made),
        notes=tuple(kept),
        warnings=(*warnings, *_gaps(catalog, going, usage)),
    )


def _gaps(
    catalog: client.Catalog, going: Sequence[Deletion], usage: servers.Usage
) -> Iterator[str]:
    """Say what could not be known of what is going to be deleted."""
    for step in going:
        yield from _unseen(step, catalog, usage)
    if going:
        parts = any(step.kind is not Kind.AMI for step in going)
        yield from usage.gaps(parts=parts)


def _named(
    names: Iterable[str], find: Callable[[str], Deletion]
) -> tuple[dict[str, Deletion], list[CloudError], int]:
    """Find what was named, each by itself.

    :returns: by their ids, what can be deleted; what keeps others from it;
        and how many there were.
    """
    given = tuple(dict.fromkeys(names))
    found: dict[str, Deletion] = {}
    problems: list[CloudError] = []
    for name in given:
        try:
            step = find(name)
        except CloudError as error:
            raise_unless_about_one(error)
            problems.append(error)
        else:
            found[step.image.id] = step
    return found, problems, len(given)


def _plan_linked(
    catalog: client.Catalog,
    amis: dict[str, Deletion],
    usage: servers.Usage,
    parts: list[Deletion],
    notes: list[str],
    problems: list[CloudError],
) -> None:
    """Find out which kernels and ramdisks go with their AMIs.

    :param amis: by their ids; loses those whose kernel should go, but is
        protected: without its AMI, a kernel is hard to find again.
    :param parts: gets what goes.
    :param notes: gets what stays, and why.
    """
    kinds = _linked(amis.values())
    forced = all(ami.force for ami in amis.values())
    found = catalog.get_many(kinds)
    using = links.used_by(catalog, found)
    # Kernel before ramdisk, whatever their ids.
    there = [
        Deletion(kind, found[id], frozenset(user.id for user in using[id]))
        for id, kind in kinds.items()
        if id in found
    ]
    for part in there:
        users = using[part.image.id]
        is_ours = all(user.owner == part.image.owner for user in users)
        if part.after <= amis.keys() and part.image.protected and is_ours:
            for user in users:
                del amis[user.id]
                problems.append(
                    CloudError(
                        f'the {part.title}, which {user.title} links to, is '
                        'protected',
                        hint=f'{steps.unprotect(part.image)}; or leave out '
                        '--linked',
                    )
                )
    for part in there:
        users = using[part.image.id]
        others = [user for user in users if user.id not in amis]
        if len(others) == len(users):
            continue
        if others:
            notes.append(
                f'kept the {part.title}: needed by {links.named(others)}'
            )
        elif any(user.owner != part.image.owner for user in users):
            notes.append(
                f'kept the {part.title}: it belongs to the project '
                f'{part.image.owner}'
            )
        elif (using_it := usage.of(part.image.id)) and not forced:
            notes.append(
                f'kept the {part.title}: {servers.named(using_it)} '
                'would need it again'
            )
        else:
            parts.append(part)


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
    warnings: list[str] = []

    def find(name: str) -> Deletion:
        part = links.find_part(catalog, kind, name, strict=True)
        step = unprotected(Deletion(kind, part.image, force=force))
        users = part.users or ()
        _check_unused(step, users)
        if users:
            warnings.append(
                f'{links.named(users)} will not boot without the {step.title}'
            )
        return step

    made, problems, total = _named(names, find)
    usage = servers.find(catalog, dict.fromkeys(made, kind))
    warnings += _keep_used(made, usage, problems, parts=True)
    return DeletePlan(
        steps=tuple(made.values()),
        total=total,
        problems=tuple(problems),
        warnings=(*warnings, *_gaps(catalog, [*made.values()], usage)),
    )


def _keep_used(
    found: dict[str, Deletion],
    usage: servers.Usage,
    problems: list[CloudError],
    *,
    parts: bool,
) -> Iterator[str]:
    """Refuse to delete what servers use, unless that is forced.

    :param found: by their ids; loses what is refused.
    :param parts: whether kernels and ramdisks are deleted, too.
    :returns: warnings of what is deleted all the same.
    """
    for step in list(found.values()):
        using = usage.of(step.image.id)
        if not using:
            continue
        why = (
            f'the {step.title} is in use: without it, {servers.named(using)} '
            f'{servers.lost(parts=parts)}'
        )
        if step.force:
            yield why
        else:
            del found[step.image.id]
            problems.append(
                CloudError(why, hint='delete those first, or add --force')
            )


def raise_unless_about_one(error: CloudError) -> None:
    """Pass on what would be the same with every other image."""
    no_answer = error.status is None and error.__cause__ is not None
    if no_answer or error.status == http.HTTPStatus.UNAUTHORIZED:
        raise error


def unprotected(step: Deletion) -> Deletion:
    """Refuse to delete an image that is protected."""
    if step.image.protected:
        raise CloudError(
            f'the {step.title} is protected',
            hint=steps.unprotect(step.image),
        )
    return step


def _check_unused(step: Deletion, users: Sequence[ImageRecord]) -> None:
    if users and not step.force:
        raise CloudError(
            f'the {step.title} is in use: {links.named(users)} would not boot '
            'without it',
            hint='link those to another with `openstack ami set '
            f'--{step.kind.noun}`, or add --force',
        )


def _unseen(
    step: Deletion, catalog: client.Catalog, usage: servers.Usage
) -> Iterator[str]:
    """Warn of what may use an image, but cannot be seen."""
    what = []
    if step.kind is not Kind.AMI:
        what.append('private images of theirs link to it')
    # What is another project's will not be deleted by us.
    is_ours = catalog.project() in (None, step.image.owner)
    if is_ours and not usage.everywhere and usage.unknown is None:
        what.append('servers of theirs use it')
    if not what:
        return
    seen = Audience.of(catalog, step.image)
    if seen.is_open or seen.projects - {step.image.owner}:
        yield (
            f'the {step.title} can be used by other projects: whether '
            f'{" or ".join(what)} cannot be seen'
        )


def execute(
    plan: DeletePlan, catalog: client.Catalog, done: set[str] | None = None
) -> None:
    """Delete images, as many as can be.

    :param done: gets the ids of those that were.
    :raises CloudError: if one could not be deleted, or several: then they
        have been logged one by one, and this counts them.
    """
    problems = list(plan.problems)
    parts: list[CloudError] = []
    gone: set[str] = set() if done is None else done
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
                raise_unless_about_one(error)
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
