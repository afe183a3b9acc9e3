# SPDX-License-Identifier: Apache-2.0

"""What is known of one AMI, and how to say what is wrong with it."""

from collections.abc import Mapping, Sequence
import dataclasses
import shlex

from amiclient.findings import Finding
from amiclient.findings import Severity
from amiclient.glance import links
from amiclient.glance import model
from amiclient.glance.model import ImageRecord
from amiclient.glance.model import Kind
from amiclient.glance import signatures

#: What the records tell, and how bad that is unless the rule says otherwise.
RECORDS: Mapping[str, Severity] = {
    'architecture': 'error',
    'bad-link': 'error',
    'command-line': 'error',
    'dangling': 'error',
    'fewer-stores': 'warning',
    'deactivated': 'error',
    'disk-bus': 'error',
    'foreign-owner': 'warning',
    'hidden': 'note',
    'ironic-format': 'error',
    'ironic-visibility': 'warning',
    'less-visible': 'error',
    'members-differ': 'error',
    'min-disk': 'warning',
    'no-hash': 'warning',
    'no-kernel': 'error',
    'no-ramdisk': 'note',
    'no-size': 'error',
    'root-device': 'error',
    'signature-certificate': 'error',
    'signature-expired': 'warning',
    'signature-false': 'error',
    'signature-incomplete': 'error',
    'signature-missing': 'error',
    'not-active': 'error',
    'swapped': 'error',
    'unprotected': 'warning',
    'wrong-format': 'warning',
}

#: What the data tells, by itself or compared with a local source.
DATA: Mapping[str, Severity] = {
    'boot-sector': 'error',
    'damaged': 'error',
    'differs': 'error',
    'journal': 'warning',
    'not-a-filesystem': 'error',
    'not-a-kernel': 'error',
    'not-a-ramdisk': 'error',
    'not-comparable': 'error',
    'not-examined': 'note',
    'same': 'note',
    'size': 'warning',
    'unclean': 'warning',
    'unreadable': 'error',
    'whole-disk': 'error',
}


#: What other regions and clouds tell.
ELSEWHERE: Mapping[str, Severity] = {
    'copy-differs': 'error',
    'copy-missing': 'error',
    'copy-same': 'note',
}


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

    def owns(self, image: ImageRecord) -> bool:
        """Tell whether an image is the viewer's, as far as one knows."""
        return self.admin or self.project in (None, image.owner)

    def changes(self, image: ImageRecord) -> bool:
        """Tell whether the viewer can change an image, as far as one knows."""
        return self.owns(image) and not self.reader


@dataclasses.dataclass(frozen=True)
class Context:
    """All that is known of one AMI.

    :param members: for shared images whose members are known, by their ids,
        the ids of the projects that they are shared with; None if nobody
        asked for any.
    :param target: what is to deploy it: ``nova`` or ``ironic``; None for what
        it is made for.
    :param certificates: those of signatures, by their ids, or why they cannot
        be had; None if nobody asked for any.
    """

    ami: links.Ami
    members: Mapping[str, frozenset[str]] | None = None
    viewer: Viewer = Viewer()
    target: str | None = None
    certificates: Mapping[str, signatures.Certificate | str] | None = None

    @property
    def for_metal(self) -> bool:
        """Whether Ironic is to deploy it, and not Nova."""
        if self.target is None:
            return self.is_diskless
        return self.target == 'ironic'

    @property
    def is_diskless(self) -> bool:
        """Whether Ironic boots kernel and ramdisk, and nothing else."""
        return bool(self.image.properties.get(model.DISKLESS))

    @property
    def image(self) -> ImageRecord:
        """The AMI itself."""
        return self.ami.image

    @property
    def title(self) -> str:
        """Name the AMI, at the beginning of a sentence."""
        return self.name(Kind.AMI, self.image)

    @staticmethod
    def name(kind: Kind, image: ImageRecord) -> str:
        """Name an image, at the beginning of a sentence."""
        noun = 'AMI' if kind is Kind.AMI else kind.noun
        called = f' {image.name!r}' if image.name else ''
        return f'The {noun}{called} ({image.id})'

    @property
    def images(self) -> tuple[tuple[Kind, ImageRecord], ...]:
        """All images that are there."""
        return ((Kind.AMI, self.image), *self.ami.parts)

    def audience(self, image: ImageRecord) -> frozenset[str | None]:
        """Name the projects that can see an image that not all can see."""
        some = frozenset[str | None]({image.owner})
        if image.visibility == 'shared':
            some |= (self.members or {}).get(image.id, frozenset())
        return some

    def is_known(self, image: ImageRecord) -> bool:
        """Tell whether that is all of its audience."""
        return image.visibility != 'shared' or image.id in (self.members or {})

    def found(
        self,
        rule: str,
        kind: Kind,
        message: str,
        *commands: Sequence[str],
        severity: Severity | None = None,
        image: ImageRecord | None = None,
        advice: str | None = None,
    ) -> Finding:
        """Make a finding.

        :param kind: what it is about.
        :param commands: the remedy, as commands that all have to be run.
        :param severity: None for that of the rule.
        :param image: what the remedy changes; the AMI if None.
        :param advice: what else there is to say to those who can change it,
            such as what to do where no command can be written for them.
        """
        image = image or self.image
        remedy = ' && '.join(map(shlex.join, commands)) or None
        if (remedy or advice) and not self.viewer.changes(image):
            message += f'; {self._refusal(kind, image)}'
            remedy = None
        elif advice:
            message += f'; {advice}'
        severity = severity or {**RECORDS, **DATA, **ELSEWHERE}[rule]
        return Finding(severity, rule, message, remedy, kind.noun)

    def _refusal(self, kind: Kind, image: ImageRecord) -> str:
        """Tell who can do what the viewer cannot."""
        if self.viewer.owns(image):
            return f'only a member of project {image.owner} can change that'
        is_other = image is self.image and kind is not Kind.AMI
        whose = "the AMI's" if is_other else 'its'
        return f'only {whose} owner, project {image.owner}, can change that'

    def renewal(self, kind: Kind) -> str:
        """Tell how to replace an image by a file that only the user knows."""
        if kind is Kind.AMI:
            return 'upload it again with `openstack ami upload SOURCE`'
        return f'give the AMI another with {self.relinking(kind)}'

    def relinking(self, kind: Kind) -> str:
        """Write what links an AMI to a kernel or ramdisk in a file."""
        ami, noun = shlex.quote(self.image.id), kind.noun
        if self.image.visibility == 'public' and not self.viewer.admin:
            # What is uploaded for an AMI is as visible, which is refused here.
            return (
                f'`openstack ami {noun} upload --community FILE` and '
                f'`openstack ami set --{noun} {noun.upper()} {ami}`'
            )
        return f'`openstack ami set --{noun} FILE {ami}`'


def setting(image: ImageRecord, *options: str) -> tuple[str, ...]:
    """Write the command that changes one image."""
    return 'openstack', 'image', 'set', *options, image.id
