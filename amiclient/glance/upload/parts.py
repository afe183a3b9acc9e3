# SPDX-License-Identifier: Apache-2.0

"""The kernel and the ramdisk of a plan.

Each is a file, or an image that the cloud holds already. A file whose bytes
the cloud holds already is not sent again: ten AMIs of one distribution then
share one kernel.
"""

from collections.abc import Iterator
import dataclasses
import pathlib

from amiclient import errors
from amiclient.glance import certificates
from amiclient.glance import client
from amiclient.glance import model
from amiclient.glance import stores
from amiclient.glance.upload import preflight
from amiclient.glance.upload.preflight import Rules
from amiclient.glance.upload import request
from amiclient.glance.upload import reuse
from amiclient import locks
from amiclient.progress import Progress
from amiclient.rootfs.identify import identify_ramdisk
from amiclient.rootfs.identify import startable_kernel


@dataclasses.dataclass(frozen=True)
class PartFile:
    """A file that was found to be a kernel or a ramdisk.

    :param size: bytes.
    :param state: what :func:`amiclient.locks.state` said when it was read.
    :param architecture: of a kernel, as Nova calls it, if it says so.
    """

    kind: model.Kind
    path: pathlib.Path
    size: int
    state: locks.State
    architecture: str | None = None


@dataclasses.dataclass(frozen=True)
class PartName:
    """What is no file, and so has to be an image's id or name."""

    kind: model.Kind
    text: str


Part = PartFile | PartName


def identify(kind: model.Kind, text: str | None) -> Part | None:
    """Tell whether a file or an image is meant, and check a file.

    :param text: what the user gave: a path that exists, or that has a slash
        in it, is a file.
    :returns: None if there was nothing given.
    """
    if text is None:
        return None
    path = pathlib.Path(text)
    # A link that leads nowhere was hardly meant as the name of an image.
    if '/' in text or path.exists() or path.is_symlink():
        return identify_file(kind, path)
    return PartName(kind, text)


def identify_file(kind: model.Kind, path: pathlib.Path) -> PartFile:
    """Check that a file is a kernel or a ramdisk."""
    if kind is model.Kind.AKI:
        kernel = startable_kernel(path)
        return PartFile(
            kind, path, kernel.size, kernel.state, kernel.architecture
        )
    ramdisk = identify_ramdisk(path)
    return PartFile(kind, path, ramdisk.size, ramdisk.state)


def plan(
    part: Part | None,
    traits: request.Traits,
    settings: request.Settings,
    catalog: client.Catalog,
    *,
    rules: Rules | None = None,
    progress: Progress,
) -> request.Step | None:
    """Decide whether an image is created or one in the cloud is linked."""
    if part is None:
        return None
    if isinstance(part, PartName):
        return _find(part, traits, settings, catalog)
    return plan_file(
        part, traits, settings, catalog, rules=rules, progress=progress
    )


def plan_file(
    part: PartFile,
    traits: request.Traits,
    settings: request.Settings,
    catalog: client.Catalog,
    *,
    rules: Rules | None = None,
    strict: bool = False,
    progress: Progress,
) -> request.Step:
    """Decide whether a file's bytes are sent, or are there already.

    :param rules: what the cloud takes, if that is known.
    :param strict: whether an image that is there must be as the settings say
        in every respect: it is the result, not only a part of it.
    """
    payload = model.Payload(part.path, part.size, state=part.state)
    digest = reuse.digests(payload, part.kind.noun, progress)
    others: tuple[request.Other, ...] = ()
    # An id that the user chose can only be that of a new image.
    if settings.reuse and traits.id is None:
        same, others = reuse.find(
            catalog,
            _wanted(part, traits, settings, strict=strict),
            part.size,
            digest,
        )
        if same is not None:
            notes = tuple(_notes(part.kind, same, settings, catalog))
            copies = stores.lacking(same, settings.stores)
            return request.Reuse(
                part.kind, same, part.architecture, notes, copies
            )
    if settings.signer is not None:
        # It may be known already; to sign it needs no more than that.
        payload = dataclasses.replace(payload, sha512=digest('sha512'))
    architecture = traits.architecture or part.architecture
    computed = {'architecture': architecture} if architecture else {}
    warnings: tuple[str, ...] = ()
    if rules is not None and traits.architecture is None:
        computed, warnings = rules.sift(computed)
    new = preflight.new_image(
        traits.name or part.path.name,
        (part.kind.value, part.kind.value),
        traits,
        settings,
        computed,
    )
    return request.Creation(
        part.kind,
        new,
        payload,
        notes=(*warnings, *reuse.told(others)),
        stores=settings.stores,
    )


def _notes(
    kind: model.Kind,
    image: model.ImageRecord,
    settings: request.Settings,
    catalog: client.Catalog,
) -> Iterator[str]:
    """Say who could take away what is reused, and where it is copied."""
    title = f'the {kind.noun} {image.title}, which holds the same bytes,'
    project = settings.owner or catalog.project()
    if project is not None and image.owner != project:
        yield (
            f'{title} belongs to the project {image.owner} and is reused: '
            'its owner can withdraw it; --no-reuse uploads one of your own'
        )
    if copies := stores.lacking(image, settings.stores):
        yield f'{title} is reused, and copied to the {stores.named(copies)}'


def _wanted(
    part: PartFile,
    traits: request.Traits,
    settings: request.Settings,
    *,
    strict: bool,
) -> reuse.Requirements:
    asked = dict(traits.properties)
    if traits.architecture is not None:
        asked.setdefault('architecture', traits.architecture)
    return reuse.Requirements(
        formats=(part.kind.value, part.kind.value),
        visibility=settings.visibility,
        owner=settings.owner,
        name=traits.name,
        tags=traits.tags,
        properties=asked,
        hidden=strict and settings.hidden,
        protected=settings.protected if strict else None,
        stores=settings.stores,
        may_copy=settings.may_copy,
        certificate=settings.certificate,
    )


def _find(
    part: PartName,
    traits: request.Traits,
    settings: request.Settings,
    catalog: client.Catalog,
) -> request.Reuse:
    if traits.name is not None:
        raise errors.UsageError(
            f'{part.text!r} is an image already: it cannot be named '
            f'{traits.name!r}',
            hint=f'leave out --{part.kind.noun}-name',
        )
    try:
        record = catalog.find(
            part.text, fits=lambda each: each.may_be(part.kind)
        )
    except errors.NotFoundError as error:
        raise errors.NotFoundError(
            f'{part.text!r} is neither a file here nor an image that this '
            'project can see',
            hint=f'give --{part.kind.noun} a path, or an id or a name',
        ) from error
    preflight.check_reference(record, part.kind)
    if settings.signer is not None:
        certificates.refuse_unsigned(catalog, record, part.kind.noun)
    copies = stores.lacking(record, settings.stores)
    if not copies or settings.may_copy:
        return request.Reuse(part.kind, record, copies=copies)
    note = (
        f'the {part.kind.noun} {record.title} is not in the '
        f'{stores.named(copies)}, and only administrators can have it copied '
        f'there; give --{part.kind.noun} a file to upload one there'
    )
    return request.Reuse(part.kind, record, notes=(note,))


def architecture(kernel: request.Step | None) -> str | None:
    """Tell what a kernel runs on, as Nova calls it; None if unknown."""
    if kernel is None:
        return None
    found = kernel.image.properties.get('architecture')
    if isinstance(kernel, request.Reuse):
        found = found or kernel.architecture
    return str(found) if found else None
