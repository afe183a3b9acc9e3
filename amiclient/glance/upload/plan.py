# SPDX-License-Identifier: Apache-2.0

"""A triple as one plan: what is created, what is reused, and with what.

Planning only reads: files first, then the cloud. What the plan says is done by
:mod:`amiclient.glance.upload.register`.
"""

from collections.abc import Iterable
import contextlib
import dataclasses

from amiclient import errors
from amiclient.ext import image
from amiclient import files
from amiclient.glance import client
from amiclient.glance import model
from amiclient.glance.upload import marks
from amiclient.glance.upload import orphans
from amiclient.glance.upload import parts
from amiclient.glance.upload import preflight
from amiclient.glance.upload import request as request_
from amiclient.glance.upload import root_copy
from amiclient.glance.upload import rootimage
from amiclient.glance.upload.rules import Rules
from amiclient.glance.upload import sameroot
from amiclient.progress import Progress
from amiclient.source import detect


def plan(
    request: request_.UploadRequest,
    catalog: client.Catalog,
    *,
    exact: bool = False,
    progress: Progress,
) -> request_.RegisterPlan:
    """Check all that can be checked, and say what would be done.

    :param exact: find out the size of the root filesystem to the byte, and
        whether it is in the cloud already; else the size is a lower bound,
        which takes no time.
    :param progress: who watches the hashing, and the looking for a size.
    :raises UsageError: for a request that contradicts itself.
    :raises SourceError: for a file that is not what it must be.
    :raises BusyError: for one that was changed since it was looked at first.
    :raises CloudError: if the cloud lacks what is linked to, or would not
        take what is to be created.
    :raises NoSpaceError: if there is no room for the copy.
    """
    _check_request(request)
    root = detect.open_root(request.source)
    kernel = parts.identify(model.Kind.AKI, request.kernel)
    ramdisk = parts.identify(model.Kind.ARI, request.ramdisk)
    for file in (root, kernel, ramdisk):
        if isinstance(file, image.RootImage | parts.PartFile):
            before = request.seen.get(file.path, file.state)
            files.refuse_changed(file.path, before, file.state)
    adopted, rules = _ask(request.traits, request.settings, catalog)
    steps = [
        parts.plan(
            part,
            dataclasses.replace(traits, name=name or traits.name),
            request.settings,
            catalog,
            rules=rules,
            progress=progress,
        )
        for part, name, traits in (
            (kernel, request.kernel_name, request.kernel_traits),
            (ramdisk, request.ramdisk_name, request.ramdisk_traits),
        )
    ]
    _check_architecture(parts.architecture(steps[0]), request.traits)
    widened = _reach(request.settings, steps, catalog)
    new, warnings = rootimage.describe(request, root, steps[0], rules)
    for each in (*parts.created(steps), new):
        rules.check(each)
    shrunk = root_copy.plan(request, root, exact=exact, progress=progress)
    packing = root_copy.plan_packing(request, shrunk, catalog)
    ami = dataclasses.replace(
        rootimage.create(request, root, shrunk, new, packing), adopted=adopted
    )
    alike, others = sameroot.look(
        request, ami, steps[0], steps[1], shrunk, catalog, exact=exact
    )
    orphans_ = orphans.find(catalog, request.settings, but=adopted)
    taken = tuple(
        preflight.namesakes(
            catalog,
            new.name,
            hidden=request.settings.hidden,
            but=(*orphans_, *([adopted] if adopted else ())),
        )
    )
    told = preflight.permission(catalog, request.settings)
    creations = [s for s in steps if isinstance(s, request_.Creation)]
    preflight.check_quota(
        catalog,
        [_least(step) for step in (*creations, *(() if alike else (ami,)))],
        removed=len(orphans_),
    )
    planned = request_.RegisterPlan(
        ami=ami,
        kernel=steps[0],
        ramdisk=steps[1],
        shrink=shrunk,
        settings=request.settings,
        warnings=(
            *warnings,
            *rootimage.warnings(request.source, ami.payload),
            *(note for step in steps if step for note in step.notes),
            *orphans.warnings(orphans_),
        ),
        alike=alike,
        others=others,
        created=(*told, *taken),
        orphans=orphans_,
        widened=widened,
        marked=rules.takes_property(marks.PROPERTY),
    )
    return _settled(planned, exact=exact, progress=progress)


def _least(step: request_.Creation) -> int:
    # How small it is when it is compressed, nobody knows yet.
    return 1 if step.payload.pack else step.size


def _settled(
    planned: request_.RegisterPlan,
    *,
    exact: bool,
    progress: Progress,
) -> request_.RegisterPlan:
    """Decide what can be decided now on whether the AMI is reused."""
    if planned.alike and (exact or planned.shrink is None):
        with contextlib.ExitStack() as stack:
            settled = sameroot.settle(planned, stack, progress=progress)
        if isinstance(settled.ami, request_.Reuse):
            return settled
        # What was made for this is gone again.
        planned = dataclasses.replace(planned, alike=())
    if planned.alike:
        return planned
    return dataclasses.replace(
        planned, warnings=(*planned.warnings, *planned.created), created=()
    )


def plan_part(
    request: request_.PartRequest,
    catalog: client.Catalog,
    *,
    progress: Progress,
) -> request_.PartPlan:
    """Check a kernel or ramdisk, and say what would be done with it.

    :raises SourceError: if the file is not one.
    :raises CloudError: if the cloud would not take it.
    """
    preflight.check_properties(request.traits.properties)
    part = parts.identify_file(request.kind, request.path)
    _check_architecture(part.architecture, request.traits)
    adopted, rules = _ask(request.traits, request.settings, catalog)
    step = parts.plan_file(
        part,
        request.traits,
        request.settings,
        catalog,
        rules=rules,
        strict=True,
        progress=progress,
    )
    orphans_ = orphans.find(catalog, request.settings, but=adopted)
    told: tuple[str, ...] = ()
    if isinstance(step, request_.Creation):
        told = tuple(preflight.permission(catalog, request.settings))
        rules.check(step.new)
        preflight.check_quota(catalog, [step.size], removed=len(orphans_))
        step = dataclasses.replace(step, adopted=adopted)
    return request_.PartPlan(
        step,
        request.settings,
        warnings=(*step.notes, *orphans.warnings(orphans_), *told),
        orphans=orphans_,
        marked=rules.takes_property(marks.PROPERTY),
    )


def _ask(
    traits: request_.Traits,
    settings: request_.Settings,
    catalog: client.Catalog,
) -> tuple[model.ImageRecord | None, Rules]:
    """Check what the cloud says of id and store; get its rules.

    :returns: what a killed run has left with that id, and the rules.
    """
    adopted = preflight.check_id(catalog, traits.id)
    preflight.check_store(catalog, settings.store)
    return adopted, Rules.of(catalog)


def _reach(
    settings: request_.Settings,
    steps: Iterable[request_.Step | None],
    catalog: client.Catalog,
) -> tuple[request_.Reuse, ...]:
    """Tell which kernels and ramdisks have to be made more visible.

    :raises CloudError: if there are any, but nobody asked for that.
    """
    return tuple(
        step
        for step in steps
        if isinstance(step, request_.Reuse)
        and preflight.is_out_of_reach(
            catalog, step.record, step.kind, settings
        )
    )


def _check_architecture(
    of_kernel: str | None, traits: request_.Traits
) -> None:
    """Refuse what would have Nova choose a host that cannot run a kernel.

    :raises UsageError: if another architecture was asked for.
    """
    wanted = traits.architecture or traits.properties.get('architecture')
    if model.architectures_differ(of_kernel, wanted):
        raise errors.UsageError(
            f'the kernel is for {of_kernel}, and {wanted} was asked for',
            hint=f'give --architecture {of_kernel}, or another kernel',
        )


def _check_request(request: request_.UploadRequest) -> None:
    if request.ramdisk is not None and request.kernel is None:
        # Nova then boots the disk by BIOS, and the console stays empty.
        raise errors.UsageError(
            'a ramdisk does nothing without a kernel',
            hint='leave out --ramdisk, or give --kernel',
        )
    for part, name in (
        ('kernel', request.kernel_name),
        ('ramdisk', request.ramdisk_name),
    ):
        if name is not None and getattr(request, part) is None:
            raise errors.UsageError(
                f'there is no {part} that could be called {name!r}',
                hint=f'leave out --{part}-name',
            )
    if not request.shrink and (request.repair or request.journal != 'keep'):
        raise errors.UsageError(
            'a filesystem that is sent as it is keeps its journal and damage',
            hint='leave out --no-shrink, or --journal and --repair',
        )
    preflight.check_properties(request.traits.properties)
    if request.kernel is not None:
        # Without a kernel, Nova makes no use of it.
        preflight.check_command_line(request.traits.properties)
