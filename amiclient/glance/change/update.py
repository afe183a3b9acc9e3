# SPDX-License-Identifier: Apache-2.0

"""Changes to an AMI, and to the kernel and the ramdisk that it links to.

A new kernel for an AMI is one transaction: it is uploaded if it has to be,
and the link is changed; if that fails, the kernel that was uploaded is
removed again.
"""

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
from typing import Any, TYPE_CHECKING

from amiclient.errors import CloudError
from amiclient.errors import NotFoundError
from amiclient.errors import UsageError
from amiclient.glance.change import linked
from amiclient.glance.change.linked import Audience
from amiclient.glance.change import share
from amiclient.glance.client import Catalog
from amiclient.glance import links
from amiclient.glance import model
from amiclient.glance.model import ImageRecord
from amiclient.glance.model import Kind
from amiclient.glance.model import LINKS
from amiclient.glance import retry
from amiclient.glance import signatures
from amiclient.glance import steps
from amiclient.glance import stores
from amiclient.glance.transfer import ranges
from amiclient.glance.upload import parts
from amiclient.glance.upload import preflight
from amiclient.glance.upload import register
from amiclient.glance.upload.request import Creation
from amiclient.glance.upload.request import PartPlan
from amiclient.glance.upload.request import Reuse
from amiclient.glance.upload.request import Settings
from amiclient.glance.upload.request import Step
from amiclient.glance.upload.request import Traits
from amiclient.glance.upload import reuse
from amiclient.glance.upload import transaction
from amiclient.glance.upload import ways
from amiclient.glance.verify import deep
from amiclient.progress import Progress
from amiclient import units

if TYPE_CHECKING:
    from openstack.image.v2 import _proxy


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChangeRequest:
    """What is to be changed; what is None stays as it is.

    :param ami: its id or name.
    :param kernel: a file, or an image's id or name.
    :param ramdisk: likewise.
    :param no_ramdisk: whether the link to the ramdisk is taken off.
    :param kernel_name: of a kernel that is uploaded; None for the file's.
    :param tags: to add, and ``gone_tags`` to remove.
    :param properties: to set, and ``gone_properties`` to remove.
    :param min_disk: GiB.
    :param min_ram: MiB.
    :param linked: whether kernel and ramdisk are changed as well.
    :param owner: the id of the project that it is given to.
    :param activate: whether its data can be had, or no more.
    :param membership: what a project says to it, its kernel and its ramdisk:
        ``accepted``, ``rejected`` or ``pending``.
    :param member: the id of that project; None for that of the user.
    :param stores: ids of those that keep the data of what is uploaded; if
        nothing is, of those that all three images are copied to.
    :param all_stores: whether those are all that can be written.
    :param allow_store_failure: whether it is enough that one of them does.
    :param imported: how it gets there: see
        :class:`amiclient.glance.upload.request.Settings`.
    :param allow_conversion: likewise.
    :param signer: likewise.
    :param dry_run: likewise.
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
    gone_tags: tuple[str, ...] = ()
    gone_properties: tuple[str, ...] = ()
    kernel: str | None = None
    ramdisk: str | None = None
    no_ramdisk: bool = False
    kernel_name: str | None = None
    ramdisk_name: str | None = None
    linked: bool = False
    owner: str | None = None
    activate: bool | None = None
    membership: str | None = None
    member: str | None = None
    reuse: bool = True
    stores: tuple[str, ...] = ()
    all_stores: bool = False
    allow_store_failure: bool = False
    imported: str = 'auto'
    allow_conversion: bool = False
    signer: signatures.Signer | None = None
    dry_run: bool = False
    patience: retry.Patience = dataclasses.field(
        default_factory=retry.Patience
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChangePlan(steps.Plan):
    """How an AMI is going to be changed.

    :param uploads: kernels and ramdisks that come first; a step may have
        their kind in place of the id that they do not have yet.
    :param members: projects that those are shared with.
    :param followers: kernels and ramdisks that are shared with whomever the
        AMI turns out to be shared with, which Glance tells only then.
    :param reused: images of the cloud's that it is going to link to.
    :param left: kernels and ramdisks of other projects, and what was asked
        for them, but is for those to do.
    """

    ami: ImageRecord
    uploads: tuple[PartPlan, ...] = ()
    members: frozenset[str] = frozenset()
    followers: tuple[tuple[Kind, ImageRecord], ...] = ()
    reused: tuple[Reuse, ...] = ()
    left: tuple[str, ...] = ()

    def describe(self) -> Iterator[str]:
        """Say what is going to be done, a line for each step."""
        for part in self.uploads:
            step = part.step
            what = f'{step.kind.noun} {step.image.name!r}'
            line = f'upload {what}: {step.size} bytes, {step.image.visibility}'
            where = f', {stores.named(step.stores)}' if step.stores else ''
            yield f'{line}{where}, by {ways.named(part.settings.imported)}'
            for project in sorted(self.members):
                yield f'{what}: share with project {project}'
        yield from super().describe()

    def visibility(self, part: ImageRecord) -> str:
        """Tell what visibility a part has when all is done."""
        given = [part.visibility]
        for step in self.steps:
            if isinstance(step, steps.Update) and step.image.id == part.id:
                given.append(step.values.get('visibility', given[-1]))
        return given[-1]

    def check(self) -> None:
        """Complain of what was asked, but is not going to be done.

        :raises CloudError: naming all of it.
        """
        if self.left:
            raise CloudError(
                ', '.join(self.left),
                hint='only its owner can change that; leave out --linked to '
                'change the AMI alone',
            )


def plan(
    request: ChangeRequest, catalog: Catalog, *, progress: Progress
) -> ChangePlan:
    """Check all that can be checked, and say what would be done.

    :param progress: who watches the hashing of files.
    :raises UsageError: for a request that contradicts itself.
    :raises SourceError: for a file that is not what it must be.
    :raises CloudError: if there is no such AMI, or if somebody could see it
        in the end but not what it links to.
    """
    preflight.check_properties(request.properties)
    preflight.check_texts(
        (request.name or '', *request.tags, *request.properties)
    )
    given = {
        Kind.AKI: parts.identify(Kind.AKI, request.kernel),
        Kind.ARI: parts.identify(Kind.ARI, request.ramdisk),
    }
    has_file = any(isinstance(part, parts.PartFile) for part in given.values())
    for option, given_ in (
        ('--no-reuse', not request.reuse),
        ('--import', request.imported != 'auto'),
        ('--allow-conversion', request.allow_conversion),
        ('--sign-key-path', request.signer is not None),
    ):
        if given_ and not has_file:
            raise UsageError(
                f'{option}: there is nothing to upload',
                hint='give --kernel or --ramdisk a file',
            )
    image = _target(request, catalog)
    where = Settings(
        stores=request.stores,
        all_stores=request.all_stores,
        allow_store_failure=request.allow_store_failure,
        imported=request.imported,
        allow_conversion=request.allow_conversion,
        signer=request.signer,
        dry_run=request.dry_run,
    )
    if has_file:
        where = preflight.settle_stores(catalog, where)
        if where.signer is not None:
            rules = preflight.Rules.of(catalog)
            where = preflight.settle_signer(catalog, where, rules, {})
    else:
        chosen = stores.choose(catalog, where.stores, every=where.all_stores)
        where = dataclasses.replace(where, stores=chosen)
    return _UpdatePlanner(
        request, image, catalog, given, where, copies_all=not has_file
    ).plan(progress)


def _target(request: ChangeRequest, catalog: Catalog) -> ImageRecord:
    """Find what is changed; with a kernel, any image becomes an AMI."""
    gets_kernel = request.kernel is not None
    try:
        image = catalog.find(
            request.ami,
            fits=lambda each: (
                each.role in (None, 'AMI')
                if gets_kernel
                else each.may_be(Kind.AMI)
            ),
        )
    except NotFoundError as error:
        if request.membership is None:
            raise
        raise NotFoundError(
            error.message,
            hint='give its ID: what was not accepted is not found by its name',
        ) from error
    links.check_ami(
        image,
        part='change it with `openstack image set`',
        other=None
        if gets_kernel
        else 'give it one with --kernel, or use `openstack image set`',
    )
    if request.ramdisk and not (request.kernel or image.kernel_id):
        raise preflight.ramdisk_alone('give --kernel')
    needed = units.gib(image.size or 0)
    given = needed if request.min_disk is None else request.min_disk
    if given < needed and image.disk_format in model.PLAIN:
        raise UsageError(
            f'--min-disk {given}: the image needs {needed} GiB',
            hint=f'give {needed} or more',
        )
    return image


class _UpdatePlanner:
    """Makes one plan, with the kernel and the ramdisk that the user gave."""

    def __init__(
        self,
        request: ChangeRequest,
        image: ImageRecord,
        catalog: Catalog,
        given: Mapping[Kind, parts.Part | None],
        where: Settings,
        *,
        copies_all: bool,
    ) -> None:
        self._request = request
        self._image = image
        self._catalog = catalog
        self._given = given
        self._where = where
        self._copies_all = copies_all
        self._links = {Kind.AKI: image.kernel_id, Kind.ARI: image.ramdisk_id}
        self._gone = {Kind.AKI: False, Kind.ARI: request.no_ramdisk}
        self._now = Audience.of(catalog, image)
        visibility = request.visibility or image.visibility
        self._owner = request.owner or image.owner
        self._wanted = linked.ChangedAmi(
            image,
            Audience(visibility, self._owner, self._now.members),
            request.visibility,
            request.protected,
            request.hidden,
            request.owner,
            request.activate,
        )

    def plan(self, progress: Progress) -> ChangePlan:
        new = {kind: self._new(kind, progress) for kind in self._given}
        if created := [
            step.new for step in new.values() if isinstance(step, Creation)
        ]:
            known = preflight.Rules.of(self._catalog)
            for each in created:
                known.check(each)
            imported = ways.settle(self._catalog, self._where)
            self._where = dataclasses.replace(self._where, imported=imported)
        there = self._there(new)
        around = {kind: self._around(kind, *there[kind]) for kind in there}
        own = self._change(new)
        ami, active = (Kind.AMI, self._image), self._request.activate
        answers, told = share.plan_answer(
            self._catalog,
            (*((kind, part) for kind, (part, _) in there.items()), ami),
            self._request.membership,
            self._request.member,
        )
        seen = self._wanted.seen
        members = seen.members if seen.visibility == 'shared' else frozenset()
        return ChangePlan(
            ami=self._image,
            uploads=tuple(
                PartPlan(step, self._settings())
                for step in new.values()
                if isinstance(step, Creation)
            ),
            members=members,
            steps=(
                *answers,
                *self._copies(new, there, progress),
                *(step for each in around.values() for step in each.before),
                *([own] if own.values else []),
                *linked.activation(Kind.AMI, self._image, active),
                *(step for each in around.values() for step in each.after),
            ),
            followers=tuple(
                (kind, there[kind][0])
                for kind, each in around.items()
                if each.visibility == 'shared'
            ),
            reused=tuple(
                step
                for kind, step in new.items()
                if isinstance(step, Reuse)
                and step.record.id != self._links[kind]
            ),
            warnings=(
                *told,
                *(n for each in around.values() for n in each.notes),
                *(n for step in new.values() if step for n in step.notes),
                *linked.unsigned(self._image, new, self._where),
            ),
            notes=tuple(self._notes(new)),
            left=tuple(each.left for each in around.values() if each.left),
        )

    def _settings(self) -> Settings:
        request, image = self._request, self._image
        protected, hidden = request.protected, request.hidden
        is_own = self._owner in (None, self._catalog.project())
        where = Settings() if self._copies_all else self._where
        return dataclasses.replace(
            where,
            visibility=self._wanted.seen.visibility,
            protected=image.protected if protected is None else protected,
            hidden=image.hidden if hidden is None else hidden,
            owner=None if is_own else self._owner,
            reuse=request.reuse,
            patience=request.patience,
        )

    def _copies(
        self,
        new: Mapping[Kind, Step | None],
        there: Mapping[Kind, tuple[ImageRecord, bool]],
        progress: Progress,
    ) -> Iterator[steps.Copies]:
        """Copy what is not in the stores that were asked for.

        The AMI comes last: nobody shall find it where its kernel is not.
        """
        copied: list[tuple[Kind, ImageRecord]] = [
            (step.kind, step.record)
            for step in new.values()
            if isinstance(step, Reuse) and step.copies
        ]
        if self._copies_all:
            copied = [(kind, part) for kind, (part, _) in there.items()]
            copied.append((Kind.AMI, self._image))
        names = self._where.stores
        for kind, image in copied:
            if not stores.lacking(image, names):
                continue
            if image.status != 'active':
                raise CloudError(
                    f'the {steps.title(kind, image)} is {image.status}: it '
                    'cannot be copied to another store'
                )
            must = not self._where.allow_store_failure
            yield steps.Copies(
                kind, image, names, all_must=must, progress=progress
            )

    def _new(self, kind: Kind, progress: Progress) -> Step | None:
        name = getattr(self._request, f'{kind.noun}_name')
        part = self._given[kind]
        if part is None and name is not None:
            raise UsageError(
                f'--{kind.noun}-name: there is no {kind.noun} to upload',
                hint=f'give --{kind.noun} a file',
            )
        step = parts.plan(
            part,
            Traits(name=name),
            self._settings(),
            self._catalog,
            progress=progress,
        )
        if kind is Kind.AKI:
            own = parts.architecture(step)
            properties = {**self._image.properties, **self._request.properties}
            wanted = properties.get('architecture')
            if model.architectures_differ(own, wanted):
                raise CloudError(
                    f'the kernel is for {own}, the image for {wanted}',
                    hint=f'add --architecture {own} if the image is wrong',
                )
        return step

    def _there(
        self, new: Mapping[Kind, Step | None]
    ) -> dict[Kind, tuple[ImageRecord, bool]]:
        """Tell the parts that are there and are going to be linked to.

        :returns: each with whether it was named by the user; a link that
            leads nowhere is left out.
        """
        linked_ids = {id for id in self._links.values() if id}
        known = self._catalog.get_many(linked_ids)
        found: dict[Kind, tuple[ImageRecord, bool]] = {}
        for kind, step in new.items():
            link = self._links[kind]
            if isinstance(step, Reuse):
                is_named = isinstance(self._given[kind], parts.PartName)
                found[kind] = step.record, is_named
            elif step is not None or self._gone[kind] or link is None:
                continue
            elif link.lower() in known:
                found[kind] = known[link.lower()], False
            elif self._request.linked:
                raise links.missing(
                    kind,
                    link,
                    f'give another with --{kind.noun}, or leave out --linked',
                )
        return found

    def _around(
        self, kind: Kind, part: ImageRecord, named: bool
    ) -> linked.Around:
        if self._request.linked:
            return linked.plan(kind, part, self._wanted, self._catalog)
        seen = Audience.of(self._catalog, part)
        if part.id == self._links[kind]:
            # What cannot be booted already is for `ami verify` to tell.
            if seen.lacks(self._now) is None:
                linked.check(kind, part, self._wanted, seen)
        elif named or part.owner != self._image.owner:
            linked.check(kind, part, self._wanted, seen)
        elif part.visibility == 'shared':
            # The user gave a file: that it was there already is our affair.
            return linked.Around(
                before=linked.shared(kind, part, self._wanted, seen)
            )
        return linked.Around()

    def _change(self, new: Mapping[Kind, Step | None]) -> steps.Update:
        request, image = self._request, self._image
        asked: dict[str, Any] = {
            'name': request.name,
            'min_disk': request.min_disk,
            'min_ram': request.min_ram,
            'visibility': request.visibility,
            'protected': request.protected,
            'os_hidden': request.hidden,
            'owner': request.owner,
            **request.properties,
        }
        if request.tags or request.gone_tags:
            tags = dict.fromkeys((*image.tags, *request.tags))
            asked['tags'] = [t for t in tags if t not in request.gone_tags]
        for kind, step in new.items():
            if isinstance(step, Creation):
                asked[LINKS[kind]] = kind
            elif step is not None:
                asked[LINKS[kind]] = step.record.id
        values = {
            name: value
            for name, value in asked.items()
            if value is not None and value != steps.before(image, name)
        }
        gone = (*request.gone_properties, 'ramdisk_id' * request.no_ramdisk)
        values |= {name: None for name in gone if name in image.properties}
        return steps.Update(Kind.AMI, image, values)

    def _notes(self, new: Mapping[Kind, Step | None]) -> Iterator[str]:
        for kind, step in new.items():
            link = self._links[kind]
            if link is None or not (step or self._gone[kind]):
                continue
            if isinstance(step, Reuse) and step.record.id == link:
                yield f'the {kind.noun} {link} was linked already'
            else:
                yield from released(kind, link, self._image, self._catalog)


def released(
    kind: Kind, link: str, image: ImageRecord, catalog: Catalog
) -> Iterator[str]:
    """Say what becomes of a part that is no longer linked, if it is there."""
    part = catalog.get_many([link]).get(link.lower())
    if part is None:
        return
    title = f'the {steps.title(kind, part)} is no longer linked, and is kept'
    if others := links.others(catalog, part, image):
        yield f'{title}: needed by {links.named(others)}'
    else:
        yield (
            f'{title}; no other visible image links to it. To delete it: '
            f'openstack ami {kind.noun} delete {part.id}'
        )


def unsuited(plan: ChangePlan, reading: ranges.Reading) -> tuple[str, ...]:
    """Tell what the AMI lacks for the kernel that it gets, if any."""
    for step in (*(part.step for part in plan.uploads), *plan.reused):
        if step.kind is Kind.AKI:
            kernel = (
                step.payload.path
                if isinstance(step, Creation)
                else step.record
            )
            return deep.unsuited(plan.ami, kernel, reading)
    return ()


def execute(
    plan: ChangePlan,
    catalog: Catalog,
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
    with transaction.Transaction(catalog, keep=False) as made:
        new: dict[Kind, ImageRecord] = {}
        for part in plan.uploads:
            done = register.add_part(part, made, proxy, progress=progress)
            kind = part.step.kind
            new[kind] = done.record
            for project in sorted(plan.members):
                made.carry_out(steps.Membership(kind, done.record, project))
        for step in plan.steps:
            if isinstance(step, steps.Update):
                # By now, the ids are known.
                values = {
                    name: new[value].id if isinstance(value, Kind) else value
                    for name, value in step.values.items()
                }
                step = dataclasses.replace(step, values=values)
            made.carry_out(step)
        followers = (*plan.followers, *new.items())
        for step in _following(plan.ami, followers, catalog):
            made.carry_out(step)
        for each in plan.reused:
            seen = plan.visibility(each.record)
            reuse.still(catalog, each.kind, each.record, visibility=seen)
        made.commit()


def _following(
    before: ImageRecord,
    followers: Iterable[tuple[Kind, ImageRecord]],
    catalog: Catalog,
) -> Iterator[steps.Change]:
    """Share parts with those that an AMI was shared with once.

    Glance remembers the members of an image that is not shared, but does not
    tell them before it is: until then, they see the AMI alone.
    """
    if before.visibility == 'shared':
        return
    projects = sorted(catalog.member_ids(catalog.get(before.id)))
    for kind, part in followers:
        for project in projects:
            yield steps.Membership(kind, part, project)
