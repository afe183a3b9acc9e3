# SPDX-License-Identifier: Apache-2.0

"""One AMI that a project is to have, in one place.

It is uploaded, or changed where it differs from what is declared, and shared;
then old versions are replaced. Each step is planned, told and done by itself:
where one fails, the next run goes on with it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import datetime
import json
import logging
import os
import pathlib
from typing import Any

from amiclient.glance.change import inventory
from amiclient.glance.change.linked import Audience
from amiclient.glance.change import replace
from amiclient.glance.change import share
from amiclient.glance.change import update
from amiclient.glance.declaration import DeclaredAmi
from amiclient.glance import links
from amiclient.glance import model
from amiclient.glance.model import ImageRecord
from amiclient.glance import retry
from amiclient.glance import steps
from amiclient.glance.transfer import ranges
from amiclient.glance.upload import preflight
from amiclient.glance.upload import register
from amiclient.glance.upload import request
from amiclient.glance import versions
from amiclient.progress import Progress
from amiclient.source import manifest

LOG = logging.getLogger(__name__)

#: Makes the plan of an upload, and has its source open as long as that is
#: needed. It is told where the AMI comes from, as properties.
Upload = Callable[
    [DeclaredAmi, Mapping[str, str]],
    contextlib.AbstractContextManager[request.RegisterPlan],
]


@dataclasses.dataclass(frozen=True)
class AppliedChange:
    """Something that was done, or is going to be.

    :param ami: what the AMI is found by.
    :param place: where; empty for where the user is.
    :param id: the image's; None if it is not there yet.
    :param size: bytes of data, if there are any.
    """

    ami: str
    place: str
    change: str
    id: str | None = None
    size: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Means:
    """What all AMIs have in common.

    :param project: looks up the id of a project.
    :param users: names the users of one, as far as that is allowed.
    :param dry_run: whether nothing is to be done.
    :param tell: takes what was done, or is going to be.
    :param uploaded: kernels and ramdisks that a dry run has told of: by their
        places and hashes. Others that are the same would be reused.
    """

    project: Callable[[str], str]
    users: Callable[[str], Sequence[str]]
    patience: retry.Patience
    progress: Progress
    dry_run: bool
    tell: Callable[[AppliedChange], object]
    uploaded: set[tuple[str, str]] = dataclasses.field(default_factory=set)


class Settling:
    """One AMI in one place.

    :param parts: what it consists of elsewhere, if it is copied from there.
    """

    def __init__(
        self,
        means: Means,
        there: inventory.Inventory,
        ami: DeclaredAmi,
        state: inventory.SourceState | None,
        parts: Sequence[tuple[model.Kind, str]] = (),
    ) -> None:
        self.ami = ami
        self.there = there
        self.catalog = there.catalog
        self.state = state
        #: The image, when it is there.
        self.image: ImageRecord | None = None
        #: Kernel, ramdisk and AMI: their kinds and names.
        self.parts = tuple(parts)
        #: What a dry run would link it to: its links are as they were.
        self._linked_anew: dict[model.Kind, ImageRecord | model.NewImage] = {}
        self._shared_with: frozenset[str] | None = None
        self._means = means
        self._dry_run = means.dry_run
        self._old = there.versions(ami)

    def tell(
        self, change: str, id: str | None = None, size: int | None = None
    ) -> None:
        """Note what was done, or is going to be."""
        title = self.there.title
        self._means.tell(
            AppliedChange(self.ami.title, title, change, id, size)
        )

    def upload(self, make: Upload) -> ImageRecord | None:
        """Upload it.

        :returns: None if it would be new, and nothing is to be done.
        """
        inventory.verify(self.ami, self._means.progress)
        with make(self.ami, self._marks()) as planned:
            self.parts = tuple(
                (step.kind, step.image.name or '') for step in planned.steps
            )
            if self._dry_run:
                for step in planned.creations:
                    if self._is_told(step):
                        continue
                    size = None if step.payload.pack else step.size
                    self._tell_upload(step.kind, step.new, None, size)
                if isinstance(planned.ami, request.Reuse):
                    return planned.ami.record
                return None
            triple = register.execute(
                planned,
                self.there.place.proxy,
                progress=self._means.progress,
            )
        for kind, record in (
            (model.Kind.AKI, triple.kernel),
            (model.Kind.ARI, triple.ramdisk),
            (model.Kind.AMI, triple.ami),
        ):
            if record is not None and record.id not in triple.reused:
                self._tell_upload(kind, record, record.id, record.size)
        return triple.ami

    def _is_told(self, step: request.Creation) -> bool:
        """Tell whether a dry run has told of the same kernel or ramdisk."""
        if step.kind is model.Kind.AMI:
            return False
        known = (self.there.title, manifest.sha512(step.payload.path))
        is_told = known in self._means.uploaded
        self._means.uploaded.add(known)
        return is_told

    def _tell_upload(
        self,
        kind: model.Kind,
        image: ImageRecord | model.NewImage,
        id: str | None,
        size: int | None,
    ) -> None:
        formats = f'{image.disk_format}/{image.container_format}'
        self.tell(f'upload {kind.noun} {image.name!r}: {formats}', id, size)

    def settle(
        self, image: ImageRecord | None, *, reused: bool = False
    ) -> None:
        """Have it as it is declared, and old versions replaced.

        :param image: None if it would be there by now.
        :param reused: whether it has just come to be the newest version,
            whatever it was before.
        """
        if image is not None:
            self.image = image
            found = self.there.linked(image)
            self.parts = tuple((k, p.name or '') for k, p in found.parts)
            self.parts += ((model.Kind.AMI, image.name or ''),)
            self._unshare()
            self._change(found, reused)
            if self.image.visibility != image.visibility:
                # Whom it was shared with before, nobody could see.
                self._unshare()
        self._share()
        self._replace()

    def _change(self, there: links.Ami, reused: bool) -> None:
        image = there.image
        values = dict(self._values(there))
        properties = self._properties(image)
        recorded = inventory.applied(image).get('properties')
        named = [k for k, v in self.ami.properties.items() if v is None]
        if isinstance(recorded, list):
            named += [k for k in recorded if k not in self.ami.properties]
        values['gone_properties'] = tuple(
            k for k in named if isinstance(k, str) and k in image.properties
        )
        values = {k: v for k, v in values.items() if v not in (None, ())}
        computed: dict[str, str] = {}
        newer = (
            self._old[: self._old.index(image)] if image in self._old else ()
        )
        if newer or reused:
            computed = self._marks()
            if newer:
                now = datetime.datetime.now(datetime.UTC)
                computed[versions.BUILT] = now.strftime(versions.DATE)
        elif self.ami.collection is not None:
            computed[inventory.COLLECTION] = self.ami.collection
        if values or properties:
            computed |= self._marks()
        computed = {
            k: v for k, v in computed.items() if image.properties.get(k) != v
        }
        if computed:
            rules = preflight.Rules.of(self.catalog)
            computed, notes = rules.sift(computed)
            _warn(notes)
        properties |= computed
        if not (values or properties):
            return
        linked = {'visibility', 'protected', 'hidden'} & values.keys()
        planned = update.plan(
            update.ChangeRequest(
                ami=image.id,
                properties=properties,
                linked=bool(linked),
                dry_run=self._dry_run,
                patience=self._means.patience,
                **values,
            ),
            self.catalog,
            progress=self._means.progress,
        )
        _warn(planned.warnings)
        proxy = self.there.place.proxy
        reading = ranges.Reading(proxy, self._means.patience)
        _warn(update.unsuited(planned, reading))
        if not self._dry_run:
            update.execute(
                planned, self.catalog, proxy, progress=self._means.progress
            )
            self.image = self.catalog.get(image.id)
            self._shared_with = None
            _warn(planned.notes)
        else:
            self._linked_anew = {
                **{p.step.kind: p.step.image for p in planned.uploads},
                **{step.kind: step.record for step in planned.reused},
            }
        self._tell_change(planned, computed.get(versions.BUILT))
        planned.check()

    def _tell_change(
        self, planned: update.ChangePlan, now: str | None
    ) -> None:
        members = planned.members - self._gone(planned.members)
        for part in planned.uploads:
            kind, name = part.step.kind, part.step.image.name or ''
            id = None
            if not self._dry_run and self.image is not None:
                id = self.image.properties[model.LINKS[kind]]
            size = part.step.size
            self._tell_upload(kind, part.step.image, id, size)
            for project in sorted(members):
                self._tell_shared(kind, name, project, id)
        for step in planned.steps:
            line = step.describe()
            # Not the time of the dry run.
            line = line.replace(now, 'now') if now else line
            self.tell(line, step.image.id)

    def _values(self, there: links.Ami) -> Iterator[tuple[str, Any]]:
        """Tell what is to be changed, properties aside."""
        ami, image = self.ami, there.image
        hidden = ami.hidden
        if hidden is None and ami.replace == 'hide':
            # It may have been replaced before.
            hidden = False
        for name, value in (
            ('name', ami.name),
            ('visibility', ami.visibility),
            ('protected', ami.protected),
            ('hidden', hidden),
            ('min_disk', ami.min_disk),
            ('min_ram', ami.min_ram),
        ):
            if value is not None and value != getattr(image, name):
                yield name, value
        if ami.tags is not None:
            yield 'tags', tuple(t for t in ami.tags if t not in image.tags)
            gone = tuple(t for t in image.tags if t not in ami.tags)
            yield 'gone_tags', gone
        is_home = not self.there.place.kind
        for noun in ('kernel', 'ramdisk'):
            part = getattr(ami, noun)
            if part is not None and (is_home or is_file(part)):
                yield noun, _relinked(part, there, noun)
        if ami.no_ramdisk and image.ramdisk_id:
            yield 'no_ramdisk', True
        if is_home:
            away = [s for s in ami.stores if s not in image.stores]
            yield 'stores', ami.stores if away else ()

    def _properties(self, image: ImageRecord) -> dict[str, str]:
        given = {
            versions.VERSION: self.ami.version,
            'architecture': self.ami.architecture,
            **self.ami.properties,
        }
        return {
            key: value
            for key, value in given.items()
            if value is not None and value != image.properties.get(key)
        }

    def _marks(self) -> dict[str, str]:
        """Tell the properties by which it is known again."""
        ami, state = self.ami, self.state
        known: dict[str, Any] = {
            'ami': ami.title,
            'properties': sorted(
                key
                for key, value in ami.properties.items()
                if value is not None
            ),
            **ami.making,
        }
        found: dict[str, str] = {}
        if state is not None and state.sha512 is not None:
            found[versions.SOURCE] = state.sha512
        elif state is not None:
            known['source'] = state.other
        if ami.collection is not None:
            found[inventory.COLLECTION] = ami.collection
        text = json.dumps(known, sort_keys=True, separators=(',', ':'))
        return {**found, inventory.APPLIED: text}

    def _projects(self) -> list[str]:
        """Tell the ids of those that it is shared with."""
        names = self.ami.projects
        # Those of another Keystone are others.
        if names is None or self.there.place.kind == 'cloud':
            return []
        return [self._means.project(name) for name in names]

    def _gone(self, members: frozenset[str]) -> frozenset[str]:
        """Tell those that are not declared."""
        if self.ami.projects is None or self.there.place.kind == 'cloud':
            return frozenset()
        return members - {*self._projects()}

    def _members(self, image: ImageRecord) -> frozenset[str]:
        if self._shared_with is None:
            self._shared_with = self.catalog.member_ids(image)
        return self._shared_with

    def _unshare(self) -> None:
        """Share it no longer with projects that are not declared."""
        if self.image is None or self.ami.projects is None:
            return
        id = self.image.id
        if gone := sorted(self._gone(self._members(self.image))):
            self._carry_out(share.plan_remove(self.catalog, id, gone))

    def _share(self) -> None:
        projects, image = self._projects(), self.image
        if not projects:
            return
        if image is None:
            for kind, name in self.parts:
                for project in projects:
                    self._tell_shared(kind, name, project, None)
            return
        there = self._members(image)
        if lacking := [p for p in projects if p not in there]:
            for kind, part in self._linked_anew.items():
                seen = None
                if isinstance(part, ImageRecord):
                    seen = Audience.of(self.catalog, part)
                for project in lacking:
                    if seen is None or not seen.includes(project):
                        self._tell_shared(
                            kind, part.name or '', project, part.id
                        )
            then = self.ami.visibility if self._dry_run else None
            plan = share.plan_add(
                self.catalog, image.id, lacking, visibility=then
            )
            self._carry_out(plan)
            ids = share.signed_with(plan.images)
            if ids and not self._dry_run:
                users = {each: self._means.users(each) for each in lacking}
                _warn(share.admit(self.catalog, ids, users))

    def _carry_out(self, plan: share.SharePlan) -> None:
        _warn(plan.warnings)
        if not self._dry_run:
            steps.execute(plan, self.catalog)
        for step in plan.steps:
            if step.kind in self._linked_anew:
                continue
            name, id = step.image.name or '', step.image.id
            if isinstance(step, steps.Membership) and step.present:
                self._tell_shared(step.kind, name, step.project, id)
            else:
                self.tell(step.describe(), id)

    def _tell_shared(
        self, kind: model.Kind, name: str, project: str, id: str | None
    ) -> None:
        self.tell(f'share {kind.noun} {name!r} with project {project}', id)

    def _replace(self) -> None:
        """Do to old versions what is declared."""
        ami, image = self.ami, self.image
        if ami.keep is None and ami.replace is None:
            return
        asked = replace.Replacement(
            how=ami.replace or 'delete',
            name=ami.name,
            family=ami.family,
            keep=ami.keep or 1,
        )
        new = None if image is None else image.id
        plan = replace.plan(self.catalog, asked, self._old, new=new)
        _warn((*plan.warnings, *plan.notes))
        if image is not None and plan.steps and not self._dry_run:
            replace.execute(self.catalog, asked, self._old, image)
        for step in plan.steps:
            self.tell(step.describe(), step.image.id)


def _warn(lines: Iterable[str]) -> None:
    for line in lines:
        LOG.warning('%s', line)


def is_file(part: str) -> bool:
    """Tell whether a kernel or a ramdisk is a file."""
    return '/' in part or os.path.lexists(part)


def _relinked(part: str, there: links.Ami, noun: str) -> str | None:
    """Tell what an AMI is to be linked to; None if it is already."""
    record: ImageRecord | None = getattr(there, noun)
    link: str | None = getattr(there.image, f'{noun}_id')
    if is_file(part):
        is_same = (
            record is not None
            and record.hash_algo == 'sha512'
            and record.hash_value == manifest.sha512(pathlib.Path(part))
        )
    else:
        is_same = link is not None and (
            part.lower() == link.lower()
            or (record is not None and record.name == part)
        )
    return None if is_same else part
