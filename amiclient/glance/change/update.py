# SPDX-License-Identifier: Apache-2.0

"""Changes to an AMI, and to the kernel and the ramdisk that it links to.

A new kernel for an AMI is one transaction: it is uploaded if it has to be,
and the link is changed; if that fails, the kernel that was uploaded is
removed again. What is done is planned by
:mod:`amiclient.glance.change.changeplan`.
"""

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import typing

from amiclient import errors
from amiclient.glance.change import steps
from amiclient.glance import client
from amiclient.glance import model
from amiclient.glance import retry
from amiclient.glance.upload import register
from amiclient.glance.upload import request
from amiclient.glance.upload import reuse
from amiclient.glance.upload import transaction
from amiclient import interrupts
from amiclient.progress import Progress

if typing.TYPE_CHECKING:
    from openstack.image.v2 import _proxy


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChangeRequest:
    """What is to be changed; what is None stays as it is.

    :param ami: its id or name.
    :param kernel: a file, or an image's id or name. :param ramdisk: likewise.
    :param no_ramdisk: whether the link to the ramdisk is taken off.
    :param kernel_name: of a kernel that is uploaded; None for the file's.
    :param tags: to add. :param properties: to set.
    :param min_disk: GiB. :param min_ram: MiB.
    :param linked: whether kernel and ramdisk are changed as well.
    :param store: where the data of what is uploaded is kept.
    :param patience: how often to try, and how long to wait.
    """

    ami: str
    name: str | None = None
    visibility: str | None = None
    protected: bool | None = None
    hidden: bool | None = None
    min_disk: int | None = None
    min_ram: int | None = None
    tags: tuple[str, ...] = ()
    properties: Mapping[str, str] = dataclasses.field(default_factory=dict)
    kernel: str | None = None
    ramdisk: str | None = None
    no_ramdisk: bool = False
    kernel_name: str | None = None
    ramdisk_name: str | None = None
    linked: bool = False
    reuse: bool = True
    store: str | None = None
    patience: retry.Patience = dataclasses.field(
        default_factory=retry.Patience
    )


@dataclasses.dataclass(frozen=True)
class ChangePlan:
    """How an AMI is going to be changed.

    :param uploads: kernels and ramdisks that come first; a step may have
        their kind in place of the id that they do not have yet.
    :param members: projects that those are shared with.
    :param followers: kernels and ramdisks that are shared with whomever the
        AMI turns out to be shared with, which Glance tells only then.
    :param reused: images of the cloud's that it is going to link to.
    :param warnings: what to say before. :param notes: what to say after.
    :param left: kernels and ramdisks of other projects, and what was asked
        for them, but is for those to do.
    """

    ami: model.ImageRecord
    uploads: tuple[request.PartPlan, ...]
    members: frozenset[str]
    steps: tuple[steps.Step, ...]
    followers: tuple[tuple[model.Kind, model.ImageRecord], ...] = ()
    reused: tuple[request.Reuse, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    left: tuple[str, ...] = ()

    def describe(self) -> Iterator[str]:
        """Say what is going to be done, a line for each step."""
        for part in self.uploads:
            step = part.step
            yield (
                f'upload {step.kind.noun} {step.image.name!r}: {step.size} '
                f'bytes, {step.image.visibility}'
            )
            for project in sorted(self.members):
                yield (
                    f'{step.kind.noun} {step.image.name!r}: share with '
                    f'project {project}'
                )
        for each in self.steps:
            yield each.describe()

    def visibility(self, part: model.ImageRecord) -> str:
        """Tell what visibility a part has when all is done."""
        given = [
            step.values['visibility']
            for step in self.steps
            if isinstance(step, steps.Update)
            and step.image.id == part.id
            and 'visibility' in step.values
        ]
        return str(given[-1]) if given else part.visibility

    def check(self) -> None:
        """Complain of what was asked, but is not going to be done.

        :raises CloudError: naming all of it.
        """
        if self.left:
            raise errors.CloudError(
                ', '.join(self.left),
                hint='that is for its owner to change; leave out --linked to '
                'change the AMI alone',
            )


def execute(
    plan: ChangePlan,
    catalog: client.Catalog,
    proxy: '_proxy.Proxy',
    *,
    progress: Progress,
) -> None:
    """Change an AMI.

    :param proxy: the way to Glance, for the data.
    :param progress: who watches the sending.
    :raises AmiError: whatever went wrong; then all is as it was before, or it
        was logged what is not.
    """
    with (
        transaction.Transaction(catalog, keep=False) as made,
        steps.Changes(catalog) as changes,
    ):
        new: dict[model.Kind, model.ImageRecord] = {}
        for part in plan.uploads:
            done = register.add_part(part, made, proxy, progress=progress)
            kind = part.step.kind
            new[kind] = done.record
            for project in sorted(plan.members):
                changes.carry_out(steps.Membership(kind, done.record, project))
        for step in plan.steps:
            changes.carry_out(_resolved(step, new))
        followers = (*plan.followers, *new.items())
        for step in _following(plan.ami, followers, catalog):
            changes.carry_out(step)
        for each in plan.reused:
            seen = plan.visibility(each.record)
            reuse.still(catalog, each.kind, each.record, visibility=seen)
        # Between the two, the AMI would link to what is removed.
        with interrupts.ignored():
            changes.commit()
            made.commit()


def _resolved(
    step: steps.Step, new: Mapping[model.Kind, model.ImageRecord]
) -> steps.Step:
    """Put in the ids that are known by now."""
    if not isinstance(step, steps.Update):
        return step
    values = {
        name: new[value].id if isinstance(value, model.Kind) else value
        for name, value in step.values.items()
    }
    return dataclasses.replace(step, values=values)


def _following(
    before: model.ImageRecord,
    followers: Iterable[tuple[model.Kind, model.ImageRecord]],
    catalog: client.Catalog,
) -> Iterator[steps.Step]:
    """Share parts with those that an AMI was shared with once.

    Glance remembers the members of an image that is not shared, but does not
    tell them before it is: until then, they see the AMI alone.
    """
    if before.visibility == 'shared':
        return
    image = catalog.get(before.id)
    projects = sorted(catalog.member_ids(image))
    for kind, part in followers if projects else ():
        for project in projects:
            yield steps.Membership(kind, part, project)
