# SPDX-License-Identifier: Apache-2.0

"""Who can see an image, as it is or as it would be.

Nova fetches kernel and ramdisk as the user who boots: an AMI boots only for
those who can see its kernel and its ramdisk as well.
"""

import dataclasses

from amiclient.glance import client
from amiclient.glance import model
from amiclient.glance.verify import context

#: Each shows an image to whom the one before does, and to others.
ORDER = ('private', 'shared', 'community', 'public')


def rank(visibility: str) -> int:
    """Tell how widely an image is visible."""
    return ORDER.index(visibility)


@dataclasses.dataclass(frozen=True)
class Audience:
    """Who can see an image.

    :param members: ids of the projects that it is shared with; they count
        only while the visibility is ``shared``.
    """

    visibility: str
    owner: str | None
    members: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls, catalog: client.Catalog, image: model.ImageRecord
    ) -> 'Audience':
        """Ask who can see an image.

        :raises CloudError: if the cloud does not answer as it should.
        """
        return cls(image.visibility, image.owner, catalog.member_ids(image))

    @property
    def is_open(self) -> bool:
        """Whether everybody can see it who knows its id."""
        return self.visibility in context.OPEN

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
