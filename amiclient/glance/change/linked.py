# SPDX-License-Identifier: Apache-2.0

"""What becomes of a kernel or ramdisk when its AMI is changed.

Nobody may see an AMI whose kernel he cannot see, at no moment: so what makes
a part visible to more comes before the change of the AMI, and what makes it
visible to fewer comes after it.
"""

from collections.abc import Iterable
import dataclasses
from typing import Any

from amiclient import errors
from amiclient.glance.change import audience
from amiclient.glance.change import steps
from amiclient.glance import client
from amiclient.glance import links
from amiclient.glance import model

#: Other AMIs that are named when a part is kept as it is.
_NAMED = 3


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What an AMI is going to be, as far as its parts are concerned.

    :param image: the AMI as it is.
    :param seen: who can see it afterwards.
    :param visibility: what was asked for; None to leave it. Likewise the
        others.
    """

    image: model.ImageRecord
    seen: audience.Audience
    visibility: str | None = None
    protected: bool | None = None
    hidden: bool | None = None

    def lacking(self, part: model.ImageRecord) -> list[str]:
        """Tell which states of a part are not those that were asked for."""
        protection = 'protected' if part.protected else 'unprotected'
        hiding = 'hidden' if part.hidden else 'unhidden'
        return [
            state
            for state, asked, there in (
                (part.visibility, self.visibility, part.visibility),
                (protection, self.protected, part.protected),
                (hiding, self.hidden, part.hidden),
            )
            if asked not in (None, there)
        ]


@dataclasses.dataclass(frozen=True)
class Around:
    """What is done to a part before and after the AMI is changed.

    :param notes: what is not done, and why.
    :param visibility: what the part has in the end.
    :param left: what is asked, but is for another project to do.
    """

    before: tuple[steps.Step, ...] = ()
    after: tuple[steps.Step, ...] = ()
    notes: tuple[str, ...] = ()
    visibility: str | None = None
    left: str | None = None


def check(
    kind: model.Kind,
    part: model.ImageRecord,
    wanted: Wanted,
    seen: audience.Audience,
) -> None:
    """Refuse that somebody sees the AMI, but not this part of it.

    :param seen: who can see the part.
    :raises CloudError: saying who, and what to do about it.
    """
    lacking = seen.lacks(wanted.seen)
    if lacking is None:
        return
    whose, hint = '', 'add --linked, which widens it as well'
    if part.owner != wanted.image.owner:
        whose = f' and belongs to the project {part.owner}'
        hint = f'give --{kind.noun} a file or an image of your own'
    raise errors.CloudError(
        f'the {steps.title(kind, part)} is {part.visibility}{whose}: '
        f'{lacking} could not boot the image that links to it',
        hint=hint,
    )


def shared(
    kind: model.Kind,
    part: model.ImageRecord,
    wanted: Wanted,
    seen: audience.Audience,
) -> tuple[steps.Step, ...]:
    """Share a part with whom the AMI is shared with."""
    if wanted.seen.visibility != 'shared':
        return ()
    lacking = wanted.seen.members - seen.members - {str(part.owner)}
    return tuple(
        steps.Membership(kind, part, project) for project in sorted(lacking)
    )


def plan(
    kind: model.Kind,
    part: model.ImageRecord,
    wanted: Wanted,
    catalog: client.Catalog,
) -> Around:
    """Have a part follow its AMI.

    :raises CloudError: if somebody could see the AMI, but not this part,
        which is another project's.
    """
    seen = audience.Audience.of(catalog, part)
    if part.owner != wanted.image.owner:
        check(kind, part, wanted, seen)
        return Around(left=_left(kind, part, wanted))
    planner = _Planner(kind, part, wanted, catalog)
    visibility = _visibility(wanted, seen)
    if visibility != part.visibility:
        planner.see(visibility)
    if wanted.protected is not None and wanted.protected != part.protected:
        planner.protect(protected=wanted.protected)
    if wanted.hidden is not None and wanted.hidden != part.hidden:
        planner.put('os_hidden', wanted.hidden, early=not wanted.hidden)
    return planner.planned(seen)


def _left(
    kind: model.Kind, part: model.ImageRecord, wanted: Wanted
) -> str | None:
    states = ' and '.join(wanted.lacking(part))
    whose = f'the {steps.title(kind, part)} of the project {part.owner}'
    return f'{whose} stays {states}' if states else None


def _visibility(wanted: Wanted, seen: audience.Audience) -> str:
    if wanted.visibility is not None:
        return wanted.visibility
    ami = wanted.seen.visibility
    is_less = audience.rank(seen.visibility) < audience.rank(ami)
    if is_less and seen.lacks(wanted.seen) is not None:
        return ami
    return seen.visibility


class _Planner:
    """Gathers what is done to one part."""

    def __init__(
        self,
        kind: model.Kind,
        part: model.ImageRecord,
        wanted: Wanted,
        catalog: client.Catalog,
    ) -> None:
        self._kind = kind
        self._part = part
        self._wanted = wanted
        self._catalog = catalog
        self._before: dict[str, Any] = {}
        self._after: dict[str, Any] = {}
        self._notes: list[str] = []
        self._others: tuple[model.ImageRecord, ...] | None = None

    def put(self, name: str, value: Any, *, early: bool) -> None:
        """Give the part another value, before or after the AMI."""
        (self._before if early else self._after)[name] = value

    def see(self, visibility: str) -> None:
        """Make it visible to more or to fewer."""
        order = audience.rank
        if order(visibility) > order(self._part.visibility):
            self.put('visibility', visibility, early=True)
            return
        after = audience.Audience(
            visibility, self._part.owner, self._wanted.seen.members
        )
        held = [
            other
            for other in self._users()
            if after.lacks(audience.Audience.of(self._catalog, other))
        ]
        if held:
            self._keep(self._part.visibility, held)
        else:
            self.put('visibility', visibility, early=False)

    def protect(self, *, protected: bool) -> None:
        """Protect it, or no longer."""
        held = (
            [o for o in self._users() if o.protected] if not protected else []
        )
        if held:
            self._keep('protected', held)
        else:
            self.put('protected', protected, early=protected)

    def _users(self) -> tuple[model.ImageRecord, ...]:
        """Find the other AMIs that link to it."""
        if self._others is None:
            found = links.used_by(self._catalog, [self._part.id])
            self._others = tuple(
                user
                for user in found[self._part.id]
                if user.id != self._wanted.image.id
            )
        return self._others

    def _keep(self, state: str, held: list[model.ImageRecord]) -> None:
        self._notes.append(
            f'the {steps.title(self._kind, self._part)} stays {state}: '
            f'needed by {named(held)}'
        )

    def planned(self, seen: audience.Audience) -> Around:
        """Make steps of all that.

        :param seen: who can see the part now.
        """
        before: list[steps.Step] = []
        after: list[steps.Step] = []
        for values, made in ((self._before, before), (self._after, after)):
            if values:
                made.append(steps.Update(self._kind, self._part, values))
        visibility = {**self._before, **self._after}.get(
            'visibility', self._part.visibility
        )
        if visibility == 'shared':
            # A part that is not shared yet cannot have members.
            early = 'visibility' not in self._after
            (before if early else after).extend(
                shared(self._kind, self._part, self._wanted, seen)
            )
        return Around(
            tuple(before), tuple(after), tuple(self._notes), visibility
        )


def named(images: Iterable[model.ImageRecord]) -> str:
    """Name some images, and count the rest."""
    all_ = [f'{image.name!r} ({image.id})' for image in images]
    more = len(all_) - _NAMED
    some = ', '.join(all_[:_NAMED])
    return f'{some} and {more} more' if more > 0 else some
