# SPDX-License-Identifier: Apache-2.0

"""What becomes of a kernel or ramdisk when its AMI is changed.

Nova fetches kernel and ramdisk as the user who boots: nobody may see an AMI
whose kernel he cannot see, at no moment. So what makes a part visible to more
comes before the change of the AMI, and what makes it visible to fewer comes
after it.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
from typing import Any

from amiclient import errors
from amiclient.glance.client import Catalog
from amiclient.glance import links
from amiclient.glance.model import ImageRecord
from amiclient.glance.model import Kind
from amiclient.glance.model import OPEN
from amiclient.glance.model import rank
from amiclient.glance import signatures
from amiclient.glance import steps
from amiclient.glance.upload import preflight
from amiclient.glance.upload import request


#: The states of an image whose data can be had, and cannot.
_STATES = {True: 'active', False: 'deactivated'}


@dataclasses.dataclass(frozen=True)
class Audience:
    """Who can see an image, as it is or as it would be.

    :param members: ids of the projects that it is shared with; they count
        only while the visibility is ``shared``.
    """

    visibility: str
    owner: str | None
    members: frozenset[str] = frozenset()

    @classmethod
    def of(cls, catalog: Catalog, image: ImageRecord) -> 'Audience':
        """Ask who can see an image."""
        return cls(image.visibility, image.owner, catalog.member_ids(image))

    @property
    def is_open(self) -> bool:
        """Whether everybody can see it who knows its id."""
        return self.visibility in OPEN

    @property
    def projects(self) -> frozenset[str | None]:
        """Whoever can see it, unless it is open."""
        if self.visibility == 'shared':
            return self.members | {self.owner}
        return frozenset({self.owner})

    def includes(self, project: str) -> bool:
        """Tell whether a project can see it."""
        return self.is_open or project in self.projects

    def lacks(self, ami: 'Audience') -> str | None:
        """Tell who sees an AMI, but not this kernel or ramdisk.

        :returns: for a sentence; None if nobody.
        """
        if self.is_open:
            return None
        if ami.is_open:
            return 'other projects'
        lacking = sorted(str(p) for p in ami.projects - self.projects)
        if not lacking:
            return None
        some = 'projects' if len(lacking) > 1 else 'project'
        return f'the {some} {", ".join(lacking)}'


@dataclasses.dataclass(frozen=True)
class ChangedAmi:
    """What an AMI is going to be, as far as its parts are concerned.

    :param image: the AMI as it is.
    :param seen: who can see it afterwards.
    :param visibility: what was asked for; None to leave it. Likewise the
        others.
    :param owner: the id of the project that it is given to.
    :param active: whether its data can be had.
    """

    image: ImageRecord
    seen: Audience
    visibility: str | None = None
    protected: bool | None = None
    hidden: bool | None = None
    owner: str | None = None
    active: bool | None = None


@dataclasses.dataclass(frozen=True)
class Around:
    """What is done to a part before and after the AMI is changed.

    :param notes: what is not done, and why.
    :param visibility: what the part has in the end.
    :param left: what is asked, but is for another project to do.
    """

    before: tuple[steps.Change, ...] = ()
    after: tuple[steps.Change, ...] = ()
    notes: tuple[str, ...] = ()
    visibility: str | None = None
    left: str | None = None


def check(
    kind: Kind, part: ImageRecord, wanted: ChangedAmi, seen: Audience
) -> None:
    """Refuse that somebody sees the AMI, but not this part of it.

    :param seen: who can see the part.
    """
    lacking = seen.lacks(wanted.seen)
    if lacking is None:
        return
    whose, hint = '', 'add --linked to change its visibility, too'
    if wanted.owner is not None:
        hint = (
            'add --linked to give it to that project, too; or share it first: '
            f'openstack image add project {part.id} {wanted.owner}'
        )
    if part.owner != wanted.image.owner:
        whose = f' and belongs to the project {part.owner}'
        hint = f'give --{kind.noun} a file or an image of your own'
    raise errors.CloudError(
        f'the {steps.title(kind, part)} is {part.visibility}{whose}: '
        f'{lacking} could not boot the image that links to it',
        hint=hint,
    )


def shared(
    kind: Kind, part: ImageRecord, wanted: ChangedAmi, seen: Audience
) -> tuple[steps.Change, ...]:
    """Share a part with whom the AMI is shared with."""
    if wanted.seen.visibility != 'shared':
        return ()
    lacking = wanted.seen.members - seen.members - {str(part.owner)}
    return tuple(steps.Membership(kind, part, p) for p in sorted(lacking))


def plan(
    kind: Kind, part: ImageRecord, wanted: ChangedAmi, catalog: Catalog
) -> Around:
    """Have a part follow its AMI.

    :raises CloudError: if somebody could see the AMI, but not this part,
        which is another project's.
    """
    seen = Audience.of(catalog, part)
    if part.owner != wanted.image.owner:
        check(kind, part, wanted, seen)
        return Around(left=_left(kind, part, wanted))
    follower = _Follower(kind, part, wanted, seen, catalog)
    follower.see()
    follower.guard()
    follower.move()
    follower.activate()
    return follower.around()


class _Follower:
    """A part that follows its AMI, as far as others do not need it as it is.

    :param seen: who can see it.
    """

    def __init__(
        self,
        kind: Kind,
        part: ImageRecord,
        wanted: ChangedAmi,
        seen: Audience,
        catalog: Catalog,
    ) -> None:
        self._kind = kind
        self._part = part
        self._wanted = wanted
        self._seen = seen
        self._catalog = catalog
        self._others: list[ImageRecord] | None = None
        self._early: dict[str, Any] = {}
        self._late: dict[str, Any] = {}
        self._held: dict[str, list[ImageRecord]] = {}
        self._before: list[steps.Change] = []
        self._after: list[steps.Change] = []

    def _holds(
        self, state: str, needs: Callable[[ImageRecord], object]
    ) -> bool:
        """Tell whether others need it in a state, and note which."""
        if self._others is None:
            self._others = links.others(
                self._catalog, self._part, self._wanted.image
            )
        self._held[state] = [each for each in self._others if needs(each)]
        return bool(self._held[state])

    def _lost(self, then: Audience) -> Callable[[ImageRecord], object]:
        """Tell whose projects would not see it any more."""
        return lambda each: then.lacks(Audience.of(self._catalog, each))

    def see(self) -> None:
        """Have it as visible as asked for, or as it has to be."""
        part, wanted = self._part, self._wanted
        visibility = _visibility(wanted, self._seen)
        if rank(visibility) > rank(part.visibility):
            self._early['visibility'] = visibility
        elif visibility != part.visibility:
            then = Audience(visibility, part.owner, wanted.seen.members)
            if not self._holds(part.visibility, self._lost(then)):
                self._late['visibility'] = visibility

    def guard(self) -> None:
        """Have it as protected, and as hidden."""
        part, wanted = self._part, self._wanted
        if wanted.protected and not part.protected:
            self._early['protected'] = True
        elif (
            wanted.protected is False
            and part.protected
            and not self._holds('protected', lambda each: each.protected)
        ):
            self._late['protected'] = False
        if wanted.hidden not in (None, part.hidden):
            changes = self._late if wanted.hidden else self._early
            changes['os_hidden'] = wanted.hidden

    def move(self) -> None:
        """Have it given to the same project."""
        part, owner = self._part, self._wanted.owner
        if owner in (None, part.owner):
            return
        visibility = _visibility(self._wanted, self._seen)
        then = Audience(visibility, owner, self._seen.members)
        if self._holds(f'in the project {part.owner}', self._lost(then)):
            check(self._kind, part, self._wanted, self._seen)
        else:
            # The project that gives it away has done with it.
            self._early['owner'] = owner

    def activate(self) -> None:
        """Have its data given, or not, as that of the AMI."""
        wanted = activation(self._kind, self._part, self._wanted.active)
        for change in wanted:
            if change.active:
                self._before.append(change)
            elif not self._holds('active', lambda o: o.status == 'active'):
                self._after.append(change)

    def around(self) -> Around:
        """Gather all of it."""
        for values, made in (
            (self._early, self._before),
            (self._late, self._after),
        ):
            if values:
                made.append(steps.Update(self._kind, self._part, values))
        visibility = {**self._early, **self._late}.get(
            'visibility', self._part.visibility
        )
        if visibility == 'shared':
            # A part that is not shared yet cannot have members.
            made = self._after if 'visibility' in self._late else self._before
            made += shared(self._kind, self._part, self._wanted, self._seen)
        notes = tuple(
            f'the {steps.title(self._kind, self._part)} stays {state}: needed '
            f'by {links.named(users)}'
            for state, users in self._held.items()
            if users
        )
        return Around(
            tuple(self._before), tuple(self._after), notes, visibility
        )


def activation(
    kind: Kind, image: ImageRecord, active: bool | None
) -> Iterator[steps.Activation]:
    """Have the data of an image given again, or to nobody any more.

    :param active: which of these; None for neither.
    :raises CloudError: if it has no data.
    """
    if active is None or image.status == _STATES[active]:
        return
    if image.status not in _STATES.values():
        raise errors.CloudError(
            f'the {steps.title(kind, image)} is {image.status}: it has no '
            'data to activate or deactivate'
        )
    yield steps.Activation(kind, image, active=active)


def _left(kind: Kind, part: ImageRecord, wanted: ChangedAmi) -> str | None:
    """Tell which states of a part are not those that were asked for."""
    protection = 'protected' if part.protected else 'unprotected'
    hiding = 'hidden' if part.hidden else 'unhidden'
    states = [
        state
        for state, asked, there in (
            (part.visibility, wanted.visibility, part.visibility),
            (protection, wanted.protected, part.protected),
            (hiding, wanted.hidden, part.hidden),
        )
        if asked not in (None, there)
    ]
    whose = f'the {steps.title(kind, part)} of the project {part.owner}'
    return f'{whose} stays {" and ".join(states)}' if states else None


def _visibility(wanted: ChangedAmi, seen: Audience) -> str:
    if wanted.visibility is not None:
        return wanted.visibility
    ami = wanted.seen.visibility
    is_less = rank(seen.visibility) < rank(ami)
    if is_less and seen.lacks(wanted.seen) is not None:
        return ami
    return seen.visibility


def unsigned(
    ami: ImageRecord,
    new: Mapping[Kind, request.Step | None],
    settings: request.Settings,
) -> Iterator[str]:
    """Say where an AMI and what it is going to link to are not all signed.

    :param settings: of what is created.
    """
    yield from preflight.storing(settings)
    for kind, step in new.items():
        signs = settings.signer is not None
        if isinstance(step, request.Reuse):
            signs = signatures.is_signed(step.record)
        if step is not None and signs != signatures.is_signed(ami):
            one, other = f'new {kind.noun}', 'AMI'
            signed, not_ = (one, other) if signs else (other, one)
            yield (
                f'the {signed} is signed, and the {not_} is not: where Nova '
                'checks signatures, no server boots it'
            )
