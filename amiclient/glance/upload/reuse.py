# SPDX-License-Identifier: Apache-2.0

"""Images that the cloud holds already, and that can do for new ones.

What can do is decided by content: size, hash and formats. Then it must be of
use to whoever could use the new image, and be what the user asked for. Why a
candidate with the same bytes was passed over is said, never left to guesses.

A kernel is compared as it is; but what is sent of a root filesystem is there
only when it was shrunk. So the plan looks for images that are what the new
one would be in all that can be known before: links, formats, name, properties
and so on. Only if there are any is the filesystem shrunk before anything is
created, and its copy compared with them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import contextlib
import dataclasses
import functools
import hashlib
import logging
from typing import Any

from amiclient import errors
from amiclient.ext import shrink
from amiclient.glance import client
from amiclient.glance import model
from amiclient.glance import signatures
from amiclient.glance import stores
from amiclient.glance.transfer import image_data
from amiclient.glance.upload import marks
from amiclient.glance.upload import request
from amiclient.glance.upload import root_copy
from amiclient.progress import Progress
from amiclient import units

LOG = logging.getLogger(__name__)

#: How much an upload may be larger than its source, but for what was asked
#: to be added: alignment, and what a filesystem needs to describe itself.
_SLACK = 128 << 20

#: Glance's own default.
_DEFAULT_VISIBILITY = 'shared'

#: Algorithms by which other bytes can be made to look the same.
_WEAK = ('md5', 'md5-sha1', 'sha1')

#: Computes the digest of the data by an algorithm that hashlib knows.
Digest = Callable[[str], str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Requirements:
    """What an image must be to do for a new one.

    What is None is not asked for.

    :param formats: disk format and container format.
    :param visibility: at least this; None for what Glance would choose.
    :param exactly_visible: not more visible than that, either.
    :param owner: id of the project that the new image would belong to.
    :param foreign: whether other projects' images will do, if everybody can
        see them.
    :param stores: those that it is in.
    :param may_copy: whether it can be copied to those that it is not in.
    :param min_disk: GiB; None for what the image's own size takes.
    :param min_ram: MiB.
    :param properties: that it must have with these values; None as a value
        stands for none at all.
    :param certificate: that of its signature.
    """

    formats: tuple[str, str]
    visibility: str | None = None
    exactly_visible: bool = False
    hidden: bool = False
    owner: str | None = None
    foreign: bool = True
    name: str | None = None
    protected: bool | None = None
    stores: tuple[str, ...] = ()
    may_copy: bool = False
    min_disk: int | None = None
    min_ram: int | None = None
    tags: tuple[str, ...] = ()
    properties: Mapping[str, str | None] = dataclasses.field(
        default_factory=dict
    )
    certificate: signatures.Certificate | None = None


def candidates(
    catalog: client.Catalog,
    formats: tuple[str, str],
    sizes: tuple[int, int],
    *,
    hidden: bool = False,
    **filters: str,
) -> list[model.ImageRecord]:
    """List images that may hold the same bytes, the oldest first.

    They are looked for by size and not by hash: this needs no hash where
    there are none, and finds them whatever algorithm the cloud uses.

    :param formats: disk format and container format.
    :param sizes: the least and the most bytes.
    :param hidden: those that are hidden, instead of those that are not.
    :param filters: further query parameters of ``GET /v2/images``.
    """
    query: dict[str, Any] = {
        'disk_format': formats[0],
        'container_format': formats[1],
        'size_min': sizes[0],
        'size_max': sizes[1],
        'visibility': 'all',
        'os_hidden': hidden,
        'sort': 'created_at:asc',
        **filters,
    }
    found = catalog.images(**query)
    return [
        image
        for image in found
        if (image.disk_format, image.container_format) == formats
        and image.size is not None
        and sizes[0] <= image.size <= sizes[1]
    ]


def digests(payload: model.Payload, noun: str, progress: Progress) -> Digest:
    """Return what computes the digests of a payload, each once."""
    return functools.cache(
        lambda algorithm: image_data.digest(
            payload, f'Hashing {noun}', progress, algorithm=algorithm
        )
    )


def holds(image: model.ImageRecord, digest: Digest) -> bool:
    """Tell whether an image, of the right size, holds certain bytes.

    :returns: false if there is no telling, since the cloud keeps no hash, or
        one that is no proof.
    """
    algorithm = image.hash_algo or ''
    if algorithm in _WEAK or algorithm not in hashlib.algorithms_available:
        return False
    return digest(algorithm) == image.hash_value


def find(
    catalog: client.Catalog, wanted: Requirements, size: int, digest: Digest
) -> tuple[model.ImageRecord | None, tuple[request.Other, ...]]:
    """Find an image that can do for one that is to be uploaded.

    :param size: bytes of the data.
    :param digest: computes its digest; called only if that can help, and
        once for each algorithm.
    :returns: one that will do, in the stores if there is such a one, or else
        the oldest; if there is none, those that hold the
        same bytes all the same.
    """
    project = wanted.owner or catalog.project()
    others: list[request.Other] = []
    for hidden in (wanted.hidden, not wanted.hidden):
        listed = candidates(
            catalog, wanted.formats, (size, size), hidden=hidden
        )
        for image in _there_first(listed, wanted.stores):
            if not holds(image, digest):
                continue
            why = unfit(image, wanted, project)
            if why is None:
                return image, ()
            others.append(request.Other(image, why))
    return None, tuple(others)


def _there_first(
    images: Iterable[model.ImageRecord], wanted: tuple[str, ...]
) -> tuple[model.ImageRecord, ...]:
    """Put those first that need not be copied to other stores."""
    return tuple(
        sorted(images, key=lambda image: len(stores.lacking(image, wanted)))
    )


def unfit(
    image: model.ImageRecord, wanted: Requirements, project: str | None
) -> str | None:
    """Tell why an image with the right content will not do.

    :param project: the id of the project that is to own it.
    :returns: a clause whose subject is the image; None if it will do.
    """
    return next(_objections(image, wanted, project), None)


def _objections(
    image: model.ImageRecord, wanted: Requirements, project: str | None
) -> Iterator[str]:
    if image.status != 'active':
        yield f'is {image.status}'
    if marks.is_alive(image):
        yield 'belongs to an upload that is not complete'
    if image.hidden != wanted.hidden:
        yield 'is hidden' if image.hidden else 'is not hidden'
    yield from _unseen(image, wanted, project)
    if wanted.name is not None and image.name != wanted.name:
        yield f'its name is not {wanted.name!r}'
    if wanted.protected not in (None, image.protected):
        yield 'is not protected' if wanted.protected else 'is protected'
    away = stores.lacking(image, wanted.stores)
    if away and not wanted.may_copy:
        yield (
            f'is not in the {stores.named(away)}, and only administrators can '
            'have it copied there'
        )
    for tag in wanted.tags:
        if tag not in image.tags:
            yield f'lacks the tag {tag!r}'
    yield from _unlike(image, wanted)
    if wanted.certificate is not None:
        why = signatures.unlike(image, wanted.certificate)
        if why is not None:
            yield why


def _unseen(
    image: model.ImageRecord, wanted: Requirements, project: str | None
) -> Iterator[str]:
    visibility = wanted.visibility or _DEFAULT_VISIBILITY
    there, needed = model.rank(image.visibility), model.rank(visibility)
    if there < needed or (there > needed and wanted.exactly_visible):
        yield f'is {image.visibility}, not {visibility}'
    # A private image that an administrator sees may be anyone's, and the
    # members of a shared one are its owner's choice.
    foreign = project is not None and image.owner != project
    if foreign and not (wanted.foreign and there >= model.rank('community')):
        yield f'belongs to the project {image.owner}'


def _unlike(image: model.ImageRecord, wanted: Requirements) -> Iterator[str]:
    min_disk = wanted.min_disk
    if min_disk is None and wanted.min_ram is not None:
        min_disk = units.gib(image.size or 0)
    for name, value, there in (
        ('min_disk', min_disk, image.min_disk),
        ('min_ram', wanted.min_ram, image.min_ram),
    ):
        if value is not None and there != value:
            yield f'its {name} is {there}, not {value}'
    for key, text in wanted.properties.items():
        found: Any = image.properties.get(key)
        # A link that is empty is none.
        if bool(found) if text is None else found != text:
            state = f'is {found!r}' if found else 'is not set'
            but = '' if text is None else f', not {text!r}'
            yield f'its {key} {state}{but}'


def still(
    catalog: client.Catalog,
    kind: model.Kind,
    before: model.ImageRecord,
    *,
    visibility: str | None = None,
) -> model.ImageRecord:
    """Make sure that an image that was chosen is as it was then.

    Glance has no request that links to an image only if it is there, so this
    is asked again before success is told.

    :param visibility: what it has at least; None for what it had.
    :raises CloudError: if it was deleted, or changed in what counts.
    """
    title = f'the {kind.noun} {before.title}'
    hint = f'run the command again, with a {kind.noun} that exists'
    try:
        now = catalog.get(before.id)
    except errors.NotFoundError as error:
        raise errors.NotFoundError(
            f'{title} was deleted meanwhile, or cannot be seen any more',
            hint=hint,
        ) from error
    for what in _changes(before, now, visibility or before.visibility):
        raise errors.CloudError(
            f'{title} was changed meanwhile: it {what} now', hint=hint
        )
    return now


def _changes(
    before: model.ImageRecord, now: model.ImageRecord, visibility: str
) -> Iterator[str]:
    if now.status != before.status:
        yield f'is {now.status}'
    if any(
        getattr(now, name) != getattr(before, name)
        for name in (
            'disk_format',
            'container_format',
            'size',
            'hash_algo',
            'hash_value',
        )
    ):
        yield 'holds other data'
    if now.owner != before.owner:
        yield f'belongs to the project {now.owner}'
    if model.rank(now.visibility) < model.rank(visibility):
        yield f'is {now.visibility}'
    if now.kernel_id != before.kernel_id:
        yield 'links to another kernel'
    if now.ramdisk_id != before.ramdisk_id:
        yield 'links to another ramdisk'


def told(
    others: Iterable[request.Other], doing: str = 'a new one is created'
) -> Iterator[str]:
    """Say which images hold the same bytes, but will not do.

    :param others: of one new image; one stands for all of them.
    """
    others = list(others)
    if others:
        more = f' (and {len(others) - 1} more)' if others[1:] else ''
        yield f'{others[0]}: {doing}{more}'


def look(
    asked: request.UploadRequest,
    creation: request.Creation,
    kernel: request.Step | None,
    ramdisk: request.Step | None,
    shrunk: shrink.ShrinkPlan | None,
    catalog: client.Catalog,
    *,
    exact: bool,
) -> tuple[tuple[model.ImageRecord, ...], tuple[request.Other, ...]]:
    """Find images that may hold the bytes of a root filesystem.

    :param creation: the image that would be created.
    :param shrunk: how its data is going to be made; None if it is there.
    :param exact: whether its size is known.
    :returns: those that would do if they do, and those that would not.
    """
    links: dict[str, str | None] = {}
    for kind, step in ((model.Kind.AKI, kernel), (model.Kind.ARI, ramdisk)):
        if isinstance(step, request.Creation):
            # Nothing links to what is not there yet.
            return (), ()
        links[model.LINKS[kind]] = step.record.id if step else None
    settings, new = asked.settings, creation.new
    if not settings.reuse or new.id is not None:
        return (), ()
    sizes = (creation.size, creation.size)
    if shrunk is not None and (creation.payload.pack or not exact):
        journal = asked.options.journal
        journal = journal if isinstance(journal, int) else 0
        headroom = asked.options.headroom.of(shrunk.image.superblock.in_use)
        sizes = (1, shrunk.size_before + headroom + journal + _SLACK)
    elif creation.payload.pack:
        sizes = (1, creation.size + _SLACK)
    formats = (new.disk_format, new.container_format)
    wanted = Requirements(
        formats=formats,
        visibility=settings.visibility,
        exactly_visible=settings.visibility is not None,
        hidden=settings.hidden,
        owner=settings.owner,
        foreign=False,
        name=new.name,
        protected=settings.protected,
        stores=settings.stores,
        may_copy=settings.may_copy,
        certificate=settings.certificate,
        min_disk=asked.min_disk,
        min_ram=asked.min_ram or 0,
        tags=new.tags,
        properties={
            key: value
            for key, value in {**new.properties, **links}.items()
            if key not in asked.origin or key in asked.traits.properties
        },
    )
    project = settings.owner or catalog.project()
    # Another project's will not do; of raw ones, a cloud may have thousands.
    filters = {'owner': project, **links}
    found = candidates(
        catalog,
        formats,
        sizes,
        hidden=settings.hidden,
        **{name: value for name, value in filters.items() if value},
    )
    whys = [(i, unfit(i, wanted, project)) for i in found]
    return (
        _there_first((i for i, why in whys if why is None), settings.stores),
        tuple(request.Other(image, why) for image, why in whys if why),
    )


def settle(
    plan: request.RegisterPlan,
    stack: contextlib.ExitStack,
    *,
    progress: Progress,
) -> request.RegisterPlan:
    """Find out whether an image has to be created for a root filesystem.

    :param stack: removes what was made for it when it is closed.
    :returns: a plan in which this is decided; if there was something to
        decide, the filesystem has been shrunk.
    :raises AmiError: if it cannot be shrunk, or read.
    """
    if isinstance(plan.ami, request.Reuse) or not plan.alike:
        return plan
    payload = plan.ami.payload
    if plan.shrink is not None or payload.pack is not None:
        payload = root_copy.make(
            plan.shrink, payload, stack, progress=progress
        )
    digest = digests(payload, 'image', progress)
    for image in plan.alike:
        if image.size == payload.size and holds(image, digest):
            copies = stores.lacking(image, plan.settings.stores)
            ami = request.Reuse(plan.ami.kind, image, copies=copies)
            return dataclasses.replace(plan, ami=ami, shrink=None)
    if plan.settings.signer is not None:
        payload = dataclasses.replace(payload, sha512=digest('sha512'))
    return dataclasses.replace(
        plan,
        ami=dataclasses.replace(plan.ami, payload=payload),
        alike=(),
        shrink=None,
    )


def tell_others(plan: request.RegisterPlan, sent: model.Sent) -> None:
    """Say which image holds what was sent, and why it was sent all the same.

    :param sent: the data of the root filesystem.
    """
    same = [
        other
        for other in plan.others
        if other.record.size == sent.record.size
        and other.record.hash_algo == 'sha512'
        and other.record.hash_value == sent.sha512
    ]
    for line in told(same, 'a new one was created'):
        LOG.warning('%s', line)
