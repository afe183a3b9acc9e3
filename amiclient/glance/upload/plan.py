# SPDX-License-Identifier: Apache-2.0

"""A triple as one plan: what is created, what is reused, and with what.

Planning only reads: files first, then the cloud. What the plan says is done by
:mod:`amiclient.glance.upload.register`.
"""

from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import datetime
import os
import pathlib
from typing import TypeVar

from amiclient import errors
from amiclient.ext import layout
from amiclient.glance import client
from amiclient.glance import model
from amiclient.glance.transfer import image_data
from amiclient.glance.upload import bare_metal
from amiclient.glance.upload import marks
from amiclient.glance.upload import parts
from amiclient.glance.upload import preflight
from amiclient.glance.upload.preflight import Rules
from amiclient.glance.upload import request
from amiclient.glance.upload import reuse
from amiclient.glance.upload import root_copy
from amiclient.glance.upload import ways
from amiclient.glance import versions
from amiclient import locks
from amiclient.progress import Progress
from amiclient.rootfs import inspect
from amiclient.source import probe
from amiclient import units


def origin(
    source: pathlib.Path, given: Mapping[str, str], watch: Progress
) -> dict[str, str]:
    """Tell where a version comes from, as its properties say it.

    :param source: what the user gave; the hash is that of a file.
    :param given: the properties that the user, or a saved AMI, gives it.
    """
    now = datetime.datetime.now(datetime.UTC)
    found = {versions.BUILT: now.strftime(versions.DATE)}
    if versions.SOURCE not in given and source.is_file():
        payload = model.Payload.of(source)
        digest = image_data.digest(payload, 'Hashing source', watch)
        found[versions.SOURCE] = digest
    return found


_S = TypeVar('_S', bound=request.Step | None)


def plan(
    asked: request.UploadRequest,
    catalog: client.Catalog,
    *,
    exact: bool = False,
    progress: Progress,
) -> request.RegisterPlan:
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
    _check_request(asked)
    asked, suited = bare_metal.suit(asked)
    root = None
    if asked.target != request.DISKLESS:
        root = probe.open_root(asked.source, asked.probe)
    kernel = parts.identify(model.Kind.AKI, asked.kernel)
    ramdisk = parts.identify(model.Kind.ARI, asked.ramdisk)
    for file in (root, kernel, ramdisk):
        if isinstance(file, layout.RootImage | parts.PartFile):
            before = asked.seen.get(file.path, file.state)
            locks.refuse_changed(file.path, before, file.state)
    adopted, settings, rules = _ask(asked.traits, asked.settings, catalog)
    asked = dataclasses.replace(asked, settings=settings)
    steps = [
        parts.plan(
            part,
            dataclasses.replace(traits, name=name or traits.name),
            asked.settings,
            catalog,
            rules=rules,
            progress=progress,
        )
        for part, name, traits in (
            (kernel, asked.kernel_name, asked.kernel_traits),
            (ramdisk, asked.ramdisk_name, asked.ramdisk_traits),
        )
    ]
    _check_architecture(parts.architecture(steps[0]), asked.traits)
    widened = tuple(
        step
        for step in steps
        if isinstance(step, request.Reuse)
        and preflight.is_out_of_reach(
            catalog, step.record, step.kind, asked.settings
        )
    )
    new, warnings = _describe(asked, root, steps[0], rules, catalog)
    creations = [s for s in steps if isinstance(s, request.Creation)]
    for each in (*(s.new for s in creations), new):
        rules.check(each)
    shrunk = None
    # A placeholder: only kernel and ramdisk boot then.
    payload = model.Payload(pathlib.Path(os.devnull), 0)
    if root is not None:
        shrunk = root_copy.plan(asked, root, exact=exact, progress=progress)
        # What the shrinking will have made by then.
        payload = model.Payload(
            path=root.path if shrunk is None else shrunk.output,
            size=root.superblock.size if shrunk is None else shrunk.size,
            blank=root.boot_sector,
            pack=root_copy.plan_packing(asked, shrunk, catalog),
            state=root.state if shrunk is None else None,
        )
    new = dataclasses.replace(new, min_disk=_min_disk(asked, payload.size))
    ami = request.Creation(
        model.Kind.AMI,
        new,
        payload,
        adopted=adopted,
        stores=asked.settings.stores,
    )
    alike, others = reuse.look(
        asked, ami, steps[0], steps[1], shrunk, catalog, exact=exact
    )
    orphans = marks.find(catalog, asked.settings, but=adopted)
    taken = tuple(
        preflight.namesakes(
            catalog,
            new.name,
            hidden=asked.settings.hidden,
            but=(*orphans, *([adopted] if adopted else ()), *asked.replaced),
        )
    )
    told = (
        *preflight.permission(catalog, asked.settings),
        *preflight.storing(asked.settings),
    )
    if payload.blank:
        note = (
            f'{asked.source}: an old boot sector in its first {payload.blank} '
            'bytes is sent as zeros, because Nova would treat the image as a '
            'partitioned disk'
        )
        warnings = (*warnings, note)
    planned = request.RegisterPlan(
        ami=ami,
        kernel=steps[0],
        ramdisk=steps[1],
        shrink=shrunk,
        settings=asked.settings,
        warnings=(
            *suited,
            *warnings,
            *(note for step in steps if step for note in step.notes),
            *marks.warnings(orphans),
        ),
        alike=alike,
        others=others,
        created=(*told, *taken),
        orphans=orphans,
        widened=widened,
        marked=rules.takes_property(marks.PROPERTY),
    )
    planned = _settled(planned, exact=exact, progress=progress)
    if not planned.creations:
        return planned
    certain = [
        step
        for step in planned.creations
        if not (planned.alike and step is planned.ami)
    ]
    settings = _find_way(catalog, settings, certain, removed=len(orphans))
    return dataclasses.replace(
        planned,
        ami=_by_way(planned.ami, settings),
        kernel=_by_way(planned.kernel, settings),
        ramdisk=_by_way(planned.ramdisk, settings),
        settings=settings,
    )


def _by_way(step: _S, settings: request.Settings) -> _S:
    """Say which way the data of an image goes."""
    if not isinstance(step, request.Creation):
        return step
    return dataclasses.replace(step, way=ways.named(settings.imported))


def _find_way(
    catalog: client.Catalog,
    settings: request.Settings,
    creations: Sequence[request.Creation],
    *,
    removed: int,
) -> request.Settings:
    """Find out which way data goes, and check that there is room for it.

    :param creations: what is created for certain.
    :param removed: how many images are removed before.
    """
    imported = ways.settle(catalog, settings)
    needed = 1 if settings.allow_store_failure else len(settings.stores)
    copies = max(1, needed)
    preflight.check_quota(
        catalog,
        # How small it is when it is compressed, nobody knows yet.
        [1 if step.payload.pack else step.size for step in creations],
        copies=copies,
        # Glance stages what it copies, too.
        staged=imported == 'always' or copies > 1,
        removed=removed,
    )
    return dataclasses.replace(settings, imported=imported)


def _settled(
    planned: request.RegisterPlan,
    *,
    exact: bool,
    progress: Progress,
) -> request.RegisterPlan:
    """Decide what can be decided now on whether the AMI is reused."""
    if planned.alike and (exact or planned.shrink is None):
        with contextlib.ExitStack() as stack:
            settled = reuse.settle(planned, stack, progress=progress)
        if isinstance(settled.ami, request.Reuse):
            return settled
        # What was made for this is gone again.
        planned = dataclasses.replace(planned, alike=())
    if planned.alike:
        return planned
    return dataclasses.replace(
        planned, warnings=(*planned.warnings, *planned.created), created=()
    )


def plan_part(
    asked: request.PartRequest,
    catalog: client.Catalog,
    *,
    progress: Progress,
) -> request.PartPlan:
    """Check a kernel or ramdisk, and say what would be done with it.

    :raises CloudError: if the cloud would not take it.
    """
    preflight.check_properties(asked.traits.properties)
    part = parts.identify_file(asked.kind, asked.path)
    _check_architecture(part.architecture, asked.traits)
    adopted, settings, rules = _ask(asked.traits, asked.settings, catalog)
    asked = dataclasses.replace(asked, settings=settings)
    step = parts.plan_file(
        part,
        asked.traits,
        asked.settings,
        catalog,
        rules=rules,
        strict=True,
        progress=progress,
    )
    orphans = marks.find(catalog, asked.settings, but=adopted)
    told: tuple[str, ...] = ()
    if isinstance(step, request.Creation):
        told = (
            *preflight.permission(catalog, asked.settings),
            *preflight.storing(asked.settings),
        )
        rules.check(step.new)
        settings = _find_way(catalog, settings, [step], removed=len(orphans))
        step = dataclasses.replace(_by_way(step, settings), adopted=adopted)
    return request.PartPlan(
        step,
        settings,
        warnings=(*step.notes, *marks.warnings(orphans), *told),
        orphans=orphans,
        marked=rules.takes_property(marks.PROPERTY),
    )


def _ask(
    traits: request.Traits,
    settings: request.Settings,
    catalog: client.Catalog,
) -> tuple[model.ImageRecord | None, request.Settings, Rules]:
    """Check what the cloud says of id and stores; get its rules.

    :returns: what a killed run has left with that id, the settings with the
        stores that are meant, and the rules.
    """
    adopted = preflight.check_id(catalog, traits.id)
    settings = preflight.settle_stores(catalog, settings)
    rules = Rules.of(catalog)
    settings = preflight.settle_signer(
        catalog, settings, rules, traits.properties
    )
    return adopted, settings, rules


def _check_architecture(of_kernel: str | None, traits: request.Traits) -> None:
    """Refuse what would have Nova choose a host that cannot run a kernel."""
    wanted = traits.architecture or traits.properties.get('architecture')
    if model.architectures_differ(of_kernel, wanted):
        raise errors.UsageError(
            f'the kernel is for {of_kernel}, and {wanted} was asked for',
            hint=f'give --architecture {of_kernel}, or another kernel',
        )


def _check_request(asked: request.UploadRequest) -> None:
    if asked.ramdisk is not None and asked.kernel is None:
        raise preflight.ramdisk_alone('leave out --ramdisk, or give --kernel')
    for part, name in (
        ('kernel', asked.kernel_name),
        ('ramdisk', asked.ramdisk_name),
    ):
        if name is not None and getattr(asked, part) is None:
            raise errors.UsageError(
                f'--{part}-name: there is no {part} to upload',
                hint=f'leave out --{part}-name',
            )
    if not asked.shrink and (
        asked.options.repair or asked.options.journal != units.KEEP
    ):
        raise errors.UsageError(
            '--no-shrink uploads the filesystem unmodified, with its journal '
            'and damage',
            hint='leave out --no-shrink, or --journal and --repair',
        )
    preflight.check_properties(asked.traits.properties)
    if asked.kernel is not None:
        # Without a kernel, Nova makes no use of it.
        preflight.check_command_line(asked.traits.properties)


def _describe(
    asked: request.UploadRequest,
    root: layout.RootImage | None,
    kernel: request.Step | None,
    rules: Rules,
    catalog: client.Catalog,
) -> tuple[model.NewImage, tuple[str, ...]]:
    """Make the AMI's record, but for what depends on its size.

    :param root: None for an image without data.
    :param kernel: tells the architecture, unless the user did.
    :returns: the record, and what the user should know.
    """
    traits, settings = asked.traits, asked.settings
    ami = model.Kind.AMI.value
    formats = ami, ami
    notes: tuple[str, ...] = ()
    if asked.image_format in ('raw', 'qcow2'):
        formats = asked.image_format, 'bare'
    elif asked.image_format == 'auto':
        why = None
        if not rules.takes_formats(*formats):
            why = 'accepts no ami images'
        elif catalog.endpoint('baremetal'):
            why = 'has Ironic, which deploys no ami images'
        if why is not None:
            formats = 'raw', 'bare'
            notes = (f'this cloud {why}: the root image becomes raw',)
    computed = {
        'architecture': traits.architecture or parts.architecture(kernel),
        'os_type': 'linux',
        **asked.origin,
    }
    if root is not None:
        release = inspect.read_release(root.path)
        computed['architecture'] = computed[
            'architecture'
        ] or inspect.kernel_architecture(root.path)
        computed['os_distro'] = release.distro
        computed['os_version'] = release.version
    taken, warnings = rules.sift(
        {k: v for k, v in computed.items() if v and k not in traits.properties}
    )
    new = preflight.new_image(
        asked.name,
        formats,
        traits,
        settings,
        taken,
        min_ram=asked.min_ram or 0,
    )
    key = 'architecture'
    if (
        not computed[key]
        and key not in new.properties
        and rules.takes_property(key)
        and isinstance(kernel, request.Reuse)
    ):
        # It may get any host.
        note = (
            f'the image gets no {key}, for neither the kernel '
            f'{kernel.record.title} nor the root '
            f'filesystem tells it: give it, such as --{key} x86_64'
        )
        notes = (*notes, note)
    return new, (*notes, *warnings)


def _min_disk(asked: request.UploadRequest, size: int) -> int:
    needed = units.gib(size)
    if asked.min_disk is None:
        return needed
    if asked.min_disk < needed:
        raise errors.UsageError(
            f'--min-disk {asked.min_disk}: the root filesystem needs '
            f'{needed} GiB',
            hint=f'give {needed} or more, or leave it out',
        )
    return asked.min_disk
