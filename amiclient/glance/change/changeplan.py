# SPDX-License-Identifier: Apache-2.0

"""How an AMI is going to be changed: every check, and nothing done yet."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from amiclient import errors
from amiclient.glance.change import audience
from amiclient.glance.change import linked
from amiclient.glance.change import steps
from amiclient.glance.change import update
from amiclient.glance import client
from amiclient.glance import links
from amiclient.glance import model
from amiclient.glance.upload import parts
from amiclient.glance.upload import preflight
from amiclient.glance.upload import request as request_
from amiclient.progress import Progress
from amiclient import units

#: Formats of a file that is as large as the disk that the guest sees.
_PLAIN = ('ami', 'raw')


def plan(
    request: update.ChangeRequest,
    catalog: client.Catalog,
    *,
    progress: Progress,
) -> update.ChangePlan:
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
        kind: parts.identify(kind, text)
        for kind, text in (
            (model.Kind.AKI, request.kernel),
            (model.Kind.ARI, request.ramdisk),
        )
    }
    _check_uploads(request, given)
    image = _target(request, catalog)
    _check_links(request, image)
    _check_min_disk(request, image)
    return _Planner(request, image, catalog, given).plan(progress)


def _check_uploads(
    request: update.ChangeRequest,
    given: Mapping[model.Kind, parts.Part | None],
) -> None:
    if any(isinstance(part, parts.PartFile) for part in given.values()):
        return
    for option, is_given in (
        ('--store', request.store is not None),
        ('--no-reuse', not request.reuse),
    ):
        if is_given:
            raise errors.UsageError(
                f'{option}: there is nothing to upload',
                hint='give --kernel or --ramdisk a file',
            )


def _target(
    request: update.ChangeRequest, catalog: client.Catalog
) -> model.ImageRecord:
    image = catalog.find(request.ami, fits=_fits(request))
    title = f'the image {image.name!r} ({image.id})'
    if image.disk_format in (model.Kind.AKI.value, model.Kind.ARI.value):
        kind = model.Kind(image.disk_format)
        raise errors.CloudError(
            f'{title} is a {kind.noun}, not an AMI',
            hint='change it with `openstack image set`',
        )
    is_ami = image.kernel_id or image.disk_format == model.Kind.AMI.value
    if not is_ami and request.kernel is None:
        raise errors.CloudError(
            f'{title} is no AMI: it links to no kernel',
            hint='give it one with --kernel, or use `openstack image set`',
        )
    return image


def _fits(
    request: update.ChangeRequest,
) -> Callable[[model.ImageRecord], bool]:
    """Say what can be changed: with a kernel, any image becomes an AMI."""
    if request.kernel is None:
        return lambda image: image.may_be(model.Kind.AMI)
    return lambda image: image.role in (None, 'AMI')


def _check_links(
    request: update.ChangeRequest, image: model.ImageRecord
) -> None:
    if request.ramdisk and not (request.kernel or image.kernel_id):
        # Nova then boots the disk by BIOS, and the console stays empty.
        raise errors.UsageError(
            'a ramdisk is of no use without a kernel', hint='give --kernel'
        )


def _check_min_disk(
    request: update.ChangeRequest, image: model.ImageRecord
) -> None:
    if request.min_disk is None or image.disk_format not in _PLAIN:
        return
    needed = units.gib(image.size or 0)
    if request.min_disk < needed:
        raise errors.UsageError(
            f'--min-disk {request.min_disk}: the image takes {needed} GiB',
            hint=f'give {needed} or more',
        )


class _Planner:
    """Makes one plan."""

    def __init__(
        self,
        request: update.ChangeRequest,
        image: model.ImageRecord,
        catalog: client.Catalog,
        given: Mapping[model.Kind, parts.Part | None],
    ) -> None:
        self._request = request
        self._image = image
        self._catalog = catalog
        self._given = given
        self._links = {
            model.Kind.AKI: image.kernel_id,
            model.Kind.ARI: image.ramdisk_id,
        }
        self._now = audience.Audience.of(catalog, image)
        visibility = request.visibility or image.visibility
        self._wanted = linked.Wanted(
            image,
            audience.Audience(visibility, image.owner, self._now.members),
            request.visibility,
            request.protected,
            request.hidden,
        )

    def plan(self, progress: Progress) -> update.ChangePlan:
        """Make it."""
        request, image = self._request, self._image
        new = {kind: self._new(kind, progress) for kind in self._given}
        created = list(parts.created(new.values()))
        if created:
            preflight.check_store(self._catalog, request.store)
            known = preflight.Rules.of(self._catalog)
            for each in created:
                known.check(each)
        there = self._there(new)
        around = {kind: self._around(kind, *there[kind]) for kind in there}
        own = self._change(new)
        return update.ChangePlan(
            ami=image,
            uploads=tuple(
                request_.PartPlan(step, self._settings())
                for step in new.values()
                if isinstance(step, request_.Creation)
            ),
            members=self._members(),
            steps=(
                *(step for each in around.values() for step in each.before),
                *([own] if own.values else []),
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
                if isinstance(step, request_.Reuse)
                and step.record.id != self._links[kind]
            ),
            warnings=(
                *(n for each in around.values() for n in each.notes),
                *(n for step in new.values() if step for n in step.notes),
            ),
            notes=tuple(self._notes(new)),
            left=tuple(each.left for each in around.values() if each.left),
        )

    def _settings(self) -> request_.Settings:
        """Say what kernels and ramdisks are given that are uploaded."""
        request, image = self._request, self._image
        protected, hidden = request.protected, request.hidden
        is_own = image.owner in (None, self._catalog.project())
        return request_.Settings(
            visibility=self._wanted.seen.visibility,
            protected=image.protected if protected is None else protected,
            hidden=image.hidden if hidden is None else hidden,
            owner=None if is_own else image.owner,
            store=request.store,
            reuse=request.reuse,
            patience=request.patience,
        )

    def _members(self) -> frozenset[str]:
        seen = self._wanted.seen
        return seen.members if seen.visibility == 'shared' else frozenset()

    def _new(
        self, kind: model.Kind, progress: Progress
    ) -> request_.Step | None:
        """Plan a new kernel or ramdisk, if one was given."""
        name = getattr(self._request, f'{kind.noun}_name')
        part = self._given[kind]
        if part is None and name is not None:
            raise errors.UsageError(
                f'--{kind.noun}-name: there is no {kind.noun} to upload',
                hint=f'give --{kind.noun} a file',
            )
        step = parts.plan(
            part,
            request_.Traits(name=name),
            self._settings(),
            self._catalog,
            progress=progress,
        )
        if kind is model.Kind.AKI:
            self._check_architecture(step)
        return step

    def _check_architecture(self, step: request_.Step | None) -> None:
        of_kernel = parts.architecture(step)
        properties = {**self._image.properties, **self._request.properties}
        of_image = properties.get('architecture')
        if model.architectures_differ(of_kernel, of_image):
            raise errors.CloudError(
                f'the kernel is for {of_kernel}, the image for {of_image}',
                hint=f'add --architecture {of_kernel} if the image is wrong',
            )

    def _there(
        self, new: Mapping[model.Kind, request_.Step | None]
    ) -> dict[model.Kind, tuple[model.ImageRecord, bool]]:
        """Tell the parts that are there and are going to be linked to.

        :returns: each with whether it was named by the user; a link that
            leads nowhere is left out.
        """
        links = {id for id in self._links.values() if id}
        known = self._catalog.get_many(links) if links else {}
        found: dict[model.Kind, tuple[model.ImageRecord, bool]] = {}
        for kind, step in new.items():
            if isinstance(step, request_.Reuse):
                named = isinstance(self._given[kind], parts.PartName)
                found[kind] = step.record, named
                continue
            link = self._links[kind]
            gone = kind is model.Kind.ARI and self._request.no_ramdisk
            if step is not None or gone or link is None:
                continue
            if link.lower() in known:
                found[kind] = known[link.lower()], False
            elif self._request.linked:
                raise errors.CloudError(
                    f'the {kind.noun} {link} that the image links to was '
                    'deleted, or cannot be seen by this project',
                    hint=f'give another with --{kind.noun}, or leave out '
                    '--linked',
                )
        return found

    def _around(
        self, kind: model.Kind, part: model.ImageRecord, named: bool
    ) -> linked.Around:
        if self._request.linked:
            return linked.plan(kind, part, self._wanted, self._catalog)
        seen = audience.Audience.of(self._catalog, part)
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

    def _change(
        self, new: Mapping[model.Kind, request_.Step | None]
    ) -> steps.Update:
        """Gather what changes of the AMI itself."""
        request, image = self._request, self._image
        asked: dict[str, Any] = {
            'name': request.name,
            'min_disk': request.min_disk,
            'min_ram': request.min_ram,
            'visibility': request.visibility,
            'protected': request.protected,
            'os_hidden': request.hidden,
            **request.properties,
        }
        if request.tags:
            asked['tags'] = list(dict.fromkeys((*image.tags, *request.tags)))
        for kind, step in new.items():
            if isinstance(step, request_.Creation):
                asked[model.LINKS[kind]] = kind
            elif step is not None:
                asked[model.LINKS[kind]] = step.record.id
        values = {
            name: value
            for name, value in asked.items()
            if value is not None and value != steps.before(image, name)
        }
        if request.no_ramdisk and 'ramdisk_id' in image.properties:
            values['ramdisk_id'] = None
        return steps.Update(model.Kind.AMI, image, values)

    def _notes(
        self, new: Mapping[model.Kind, request_.Step | None]
    ) -> Iterator[str]:
        """Say what becomes of kernels and ramdisks that are linked no more."""
        for kind, step in new.items():
            link = self._links[kind]
            gone = kind is model.Kind.ARI and self._request.no_ramdisk
            if link is None or not (step or gone):
                continue
            if isinstance(step, request_.Reuse) and step.record.id == link:
                yield f'the {kind.noun} {link} was linked already'
                continue
            note = released(kind, link, self._image, self._catalog)
            if note is not None:
                yield note


def released(
    kind: model.Kind,
    link: str,
    image: model.ImageRecord,
    catalog: client.Catalog,
) -> str | None:
    """Say what becomes of a part that an AMI links to no more.

    :param image: the AMI. :param link: the id of the part.
    :returns: a sentence; None if the part is not there.
    """
    part = catalog.get_many([link]).get(link.lower())
    if part is None:
        return None
    title = f'the {steps.title(kind, part)} is linked no more, and stays'
    found = links.used_by(catalog, [part.id])[part.id]
    others = [user for user in found if user.id != image.id]
    if others:
        return f'{title}: needed by {linked.named(others)}'
    return (
        f'{title}; nothing else that can be seen links to it, this deletes '
        f'it: openstack ami {kind.noun} delete {part.id}'
    )
