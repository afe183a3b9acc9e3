# SPDX-License-Identifier: Apache-2.0

"""What becomes of a kernel or ramdisk when its AMI is changed.

Nova fetches kernel and ramdisk as the user who boots: nobody may see an AMI
whose kernel he cannot see, at no moment. So what makes a part visible to more
comes before the change of the AMI, and what makes it visible to fewer comes
after it.
"""

import dataclasses
import functools
from typing import Any

from amiclient import errors
from amiclient.glance.client import Catalog
from amiclient.glance import links
from amiclient.glance.model import ImageRecord
from amiclient.glance.model import Kind
from amiclient.glance.model import OPEN
from amiclient.glance.model import rank
from amiclient.glance import steps


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
    """

    image: ImageRecord
    seen: Audience
    visibility: str | None = None
    protected: bool | None = None
    hidden: bool | None = None


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
    early: dict[str, Any] = {}
    late: dict[str, Any] = {}
    held: dict[str, list[ImageRecord]] = {}
    others = functools.cache(lambda: links.others(catalog, part, wanted.image))
    visibility = _visibility(wanted, seen)
    if rank(visibility) > rank(part.visibility):
        early['visibility'] = visibility
    elif visibility != part.visibility:
        then = Audience(visibility, part.owner, wanted.seen.members)
        held[part.visibility] = [
            o for o in others() if then.lacks(Audience.of(catalog, o))
        ]
        if not held[part.visibility]:
            late['visibility'] = visibility
    if wanted.protected not in (None, part.protected):
        if wanted.protected:
            early['protected'] = True
        else:
            held['protected'] = [o for o in others() if o.protected]
            if not held['protected']:
                late['protected'] = False
    if wanted.hidden not in (None, part.hidden):
        (late if wanted.hidden else early)['os_hidden'] = wanted.hidden
    before: list[steps.Change] = []
    after: list[steps.Change] = []
    for values, made in ((early, before), (late, after)):
        if values:
            made.append(steps.Update(kind, part, values))
    visibility = {**early, **late}.get('visibility', part.visibility)
    if visibility == 'shared':
        # A part that is not shared yet cannot have members.
        made = after if 'visibility' in late else before
        made += shared(kind, part, wanted, seen)
    notes = tuple(
        f'the {steps.title(kind, part)} stays {state}: needed by '
        f'{links.named(users)}'
        for state, users in held.items()
        if users
    )
    return Around(tuple(before), tuple(after), notes, visibility)


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
