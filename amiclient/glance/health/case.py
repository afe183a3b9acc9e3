#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.

"""What is known of one AMI, and how to say what is wrong with it."""

from collections.abc import Mapping, Sequence
import dataclasses
import shlex

from amiclient import findings
from amiclient.glance import links
from amiclient.glance import model

#: What anybody can boot who knows the id.
OPEN = ('public', 'community')


@dataclasses.dataclass(frozen=True)
class Viewer:
    """Who wants to know: remedies are for them.

    :param project: the id of their project; None if that is not known.
    :param admin: whether they may change what belongs to others.
    """

    project: str | None = None
    admin: bool = False

    def owns(self, image: model.ImageRecord) -> bool:
        """Tell whether the viewer can change an image, as far as one knows."""
        return (
            self.admin or self.project is None or image.owner == self.project
        )


@dataclasses.dataclass(frozen=True)
class Case:
    """All that is known of one AMI.

    :param members: for shared images whose members are known, by their ids,
        the ids of the projects that they are shared with; None if nobody
        asked for any.
    """

    ami: links.Ami
    members: Mapping[str, frozenset[str]] | None = None
    viewer: Viewer = Viewer()

    @property
    def image(self) -> model.ImageRecord:
        """The AMI itself."""
        return self.ami.image

    @property
    def title(self) -> str:
        """Name the AMI, at the beginning of a sentence."""
        return name(model.Kind.AMI, self.image)

    @property
    def parts(self) -> tuple[tuple[model.Kind, model.ImageRecord], ...]:
        """The kernel and the ramdisk, as far as they are there."""
        both = (
            (model.Kind.AKI, self.ami.kernel),
            (model.Kind.ARI, self.ami.ramdisk),
        )
        return tuple((kind, part) for kind, part in both if part is not None)

    @property
    def images(self) -> tuple[tuple[model.Kind, model.ImageRecord], ...]:
        """All images that are there."""
        return ((model.Kind.AMI, self.image), *self.parts)

    def audience(self, image: model.ImageRecord) -> frozenset[str | None]:
        """Name the projects that can see an image that not all can see."""
        some = frozenset[str | None]({image.owner})
        if image.visibility == 'shared':
            some |= (self.members or {}).get(image.id, frozenset())
        return some

    def is_known(self, image: model.ImageRecord) -> bool:
        """Tell whether that is all of its audience."""
        return image.visibility != 'shared' or image.id in (self.members or {})


def name(kind: model.Kind, image: model.ImageRecord) -> str:
    """Name an image, at the beginning of a sentence."""
    noun = 'AMI' if kind is model.Kind.AMI else kind.noun
    called = f' {image.name!r}' if image.name else ''
    return f'The {noun}{called} ({image.id})'


def found(
    case: Case,
    severity: findings.Severity,
    rule: str,
    message: str,
    *commands: Sequence[str],
    kind: model.Kind,
    image: model.ImageRecord | None = None,
) -> findings.Finding:
    """Make a finding.

    :param commands: the remedy, as commands that all have to be run.
    :param kind: what it is about.
    :param image: what the remedy changes; the AMI if None.
    """
    image = image or case.image
    remedy = ' && '.join(map(shlex.join, commands)) or None
    if remedy and not case.viewer.owns(image):
        message += f'; only its owner, project {image.owner}, can change that'
        remedy = None
    return findings.Finding(severity, rule, message, remedy, kind.noun)


def setting(image: model.ImageRecord, *options: str) -> tuple[str, ...]:
    """Write the command that changes one image."""
    return 'openstack', 'image', 'set', *options, image.id
