# SPDX-License-Identifier: Apache-2.0

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
    :param reader: whether they may look at images, and change none.
    """

    project: str | None = None
    admin: bool = False
    reader: bool = False

    def owns(self, image: model.ImageRecord) -> bool:
        """Tell whether an image is the viewer's, as far as one knows."""
        return (
            self.admin or self.project is None or image.owner == self.project
        )

    def changes(self, image: model.ImageRecord) -> bool:
        """Tell whether the viewer can change an image, as far as one knows."""
        return self.owns(image) and not self.reader


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
    advice: str | None = None,
) -> findings.Finding:
    """Make a finding.

    :param commands: the remedy, as commands that all have to be run.
    :param kind: what it is about.
    :param image: what the remedy changes; the AMI if None.
    :param advice: what else there is to say to those who can change it, such
        as what to do where no command can be written for them.
    """
    image = image or case.image
    remedy = ' && '.join(map(shlex.join, commands)) or None
    if not (remedy or advice):
        pass
    elif not case.viewer.changes(image):
        message += f'; {_refusal(case, kind, image)}'
        remedy = None
    elif advice:
        message += f'; {advice}'
    return findings.Finding(severity, rule, message, remedy, kind.noun)


def _refusal(case: Case, kind: model.Kind, image: model.ImageRecord) -> str:
    """Tell who can do what the viewer cannot."""
    if case.viewer.owns(image):
        return f'only a member of project {image.owner} can change that'
    is_other = image is case.image and kind is not model.Kind.AMI
    whose = "the AMI's" if is_other else 'its'
    return f'only {whose} owner, project {image.owner}, can change that'


def renewal(case: Case, kind: model.Kind) -> str:
    """Tell how to replace an image by a file that only the user knows."""
    if kind is model.Kind.AMI:
        return 'upload it anew with `openstack ami upload SOURCE`'
    return f'give the AMI another with {relinking(case, kind)}'


def relinking(case: Case, kind: model.Kind) -> str:
    """Write what links an AMI to a kernel or ramdisk that is in a file."""
    ami, noun = shlex.quote(case.image.id), kind.noun
    if case.image.visibility == 'public' and not case.viewer.admin:
        # What is uploaded for an AMI is as visible, which is refused here.
        return (
            f'`openstack ami {noun} upload --community FILE` and '
            f'`openstack ami set --{noun} {noun.upper()} {ami}`'
        )
    return f'`openstack ami set --{noun} FILE {ami}`'


def setting(image: model.ImageRecord, *options: str) -> tuple[str, ...]:
    """Write the command that changes one image."""
    return 'openstack', 'image', 'set', *options, image.id
