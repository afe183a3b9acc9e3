# SPDX-License-Identifier: Apache-2.0

"""What is asked for, and what is going to be done about it.

A request is what the user said; a plan is what that comes to, once everything
that can be checked has been. Nothing here does anything.
"""

from collections.abc import Mapping
import dataclasses
import pathlib
import re
from typing import Any, ClassVar

from amiclient.ext import shrink
from amiclient.glance import model
from amiclient.glance import retry
from amiclient.glance import signatures
from amiclient import locks
from amiclient.source import bundle
from amiclient.source import manifest
from amiclient.source.probe import Probe
from amiclient import units


#: Suffixes that say what a file is, and are no part of a name.
_SUFFIX = re.compile(r'\.(img|image|raw|bin|ami|fs|ext[234])$', re.IGNORECASE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What applies to every image that one run creates.

    :param visibility: None leaves it to Glance.
    :param owner: id of the project that is to own them; None for the user's.
    :param stores: ids of those that are to keep the data; none leaves it to
        Glance. In a plan, they are those that can be written.
    :param all_stores: whether all that can be written are.
    :param allow_store_failure: whether it is enough that one of them does.
    :param may_copy: whether Glance is likely to copy images to these stores;
        known in a plan.
    :param imported: whether data is staged and imported rather than written
        to a store: ``always``, ``never``, or ``auto`` for where it has to be.
    :param allow_conversion: whether an import may make other data of it.
    :param reuse: whether a kernel or ramdisk that the cloud holds already is
        linked instead of sent again.
    :param dry_run: whether nothing is going to be done: then the plan finds
        out what is found out by doing it else.
    :param keep_failed: whether images stay when the run fails.
    :param linked: whether a kernel or ramdisk that is less visible than the
        AMI is made as visible.
    :param signer: signs all images; None for no signatures. In a plan, its
        certificate is known.
    :param patience: how often to try, and how long to wait for what.
    """

    visibility: str | None = None
    protected: bool | None = None
    hidden: bool = False
    owner: str | None = None
    stores: tuple[str, ...] = ()
    all_stores: bool = False
    allow_store_failure: bool = False
    may_copy: bool = False
    imported: str = 'auto'
    allow_conversion: bool = False
    reuse: bool = True
    dry_run: bool = False
    keep_failed: bool = False
    linked: bool = False
    signer: signatures.Signer | None = None
    patience: retry.Patience = dataclasses.field(
        default_factory=retry.Patience
    )

    @property
    def certificate(self) -> signatures.Certificate | None:
        """That of the signatures of new images, and of those in use."""
        return None if self.signer is None else self.signer.certificate


#: What an image is for: that Ironic writes it to disks, or that it boots the
#: kernel and the ramdisk and needs nothing else. Otherwise it is for Nova.
METAL = 'ironic'
DISKLESS = 'ironic-ramdisk'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traits:
    """What one image is given.

    :param name: None for one made from the file's.
    :param id: None for a random one.
    :param architecture: as Nova calls it; None for the kernel's.
    :param properties: these win over computed ones.
    """

    name: str | None = None
    id: str | None = None
    architecture: str | None = None
    tags: tuple[str, ...] = ()
    properties: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UploadRequest:
    """A triple that is to be registered.

    :param source: what holds the root filesystem.
    :param kernel: a file, or an image's id or name; None for no kernel.
    :param ramdisk: the same. Likewise for what follows.
    :param kernel_name: what to call it; None for the name among its traits,
        or else the file's.
    :param kernel_traits: what it is given if it is created.
    :param image_format: ``ami``, ``raw`` for a raw/bare root image, ``qcow2``
        for a compressed one in a bare container, or
        ``auto`` for raw only if something in the cloud takes no ami.
    :param target: :data:`METAL` or :data:`DISKLESS`; else it is for Nova.
    :param shrink: false to send the filesystem as it is.
    :param min_disk: GiB; None for what the filesystem takes.
    :param min_ram: MiB; None for what the source brings along, or 0.
    :param work_directory: where the copy is made; None for the usual places.
    :param own: whether the source is a temporary file that may be changed.
    :param probe: what the source was found to be; None if nobody looked.
    :param seen: by their paths, what :func:`amiclient.locks.state` said of
        files that were looked at before.
    :param origin: properties that tell where the AMI comes from. One that
        holds the same bytes is reused, wherever that came from.
    :param replaced: images that are going to lose the name of the AMI.
    """

    source: pathlib.Path
    kernel: str | None
    ramdisk: str | None
    kernel_name: str | None = None
    ramdisk_name: str | None = None
    kernel_traits: Traits = dataclasses.field(default_factory=Traits)
    ramdisk_traits: Traits = dataclasses.field(default_factory=Traits)
    image_format: str = 'ami'
    target: str = 'nova'
    shrink: bool = True
    options: units.FilesystemOptions = units.DEFAULTS
    min_disk: int | None = None
    min_ram: int | None = None
    work_directory: pathlib.Path | None = None
    own: bool = False
    probe: Probe | None = dataclasses.field(
        default=None, compare=False, repr=False
    )
    seen: Mapping[pathlib.Path, locks.State] = dataclasses.field(
        default_factory=dict
    )
    traits: Traits = dataclasses.field(default_factory=Traits)
    settings: Settings = dataclasses.field(default_factory=Settings)
    origin: Mapping[str, str] = dataclasses.field(default_factory=dict)
    replaced: tuple[model.ImageRecord, ...] = ()

    @property
    def name(self) -> str:
        """The name of the AMI."""
        return self.traits.name or _SUFFIX.sub('', self.source.name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartRequest:
    """A kernel or a ramdisk that is to be registered."""

    kind: model.Kind
    path: pathlib.Path
    traits: Traits = dataclasses.field(default_factory=Traits)
    settings: Settings = dataclasses.field(default_factory=Settings)


class PlanStep:
    """What becomes of one image: most steps have but some of this."""

    @property
    def stores(self) -> tuple[str, ...]:
        """Where its data is in the end; none leaves it to Glance."""
        return ()

    @property
    def copies(self) -> tuple[str, ...]:
        """Stores that it is to be copied to."""
        return ()

    @property
    def way(self) -> str | None:
        """Which way its data goes; None if none is sent, or nobody knows."""
        return None


@dataclasses.dataclass(frozen=True)
class Creation(PlanStep):
    """An image that is going to be created.

    :param payload: its data; where that is a shrunk filesystem, what the
        shrinking will have made by then.
    :param notes: what the user should know before.
    :param adopted: an image of the chosen id that a killed run has left; it
        becomes this one.
    :param way: ``put``, ``import`` or ``put or import``.
    """

    action: ClassVar[str] = 'create'

    kind: model.Kind
    new: model.NewImage
    payload: model.Payload
    notes: tuple[str, ...] = ()
    adopted: model.ImageRecord | None = None
    stores: tuple[str, ...] = ()
    way: str = ''

    @property
    def image(self) -> model.NewImage:
        return self.new

    @property
    def size(self) -> int:
        return self.payload.size


@dataclasses.dataclass(frozen=True)
class Reuse(PlanStep):
    """An image that is in the cloud already, and is going to be linked.

    :param architecture: what a file with the same bytes says of itself.
    :param notes: what the user should know before.
    """

    action: ClassVar[str] = 'reuse'

    kind: model.Kind
    record: model.ImageRecord
    architecture: str | None = None
    notes: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()

    @property
    def image(self) -> model.ImageRecord:
        return self.record

    @property
    def stores(self) -> tuple[str, ...]:
        return (*self.record.stores, *self.copies)

    @property
    def size(self) -> int | None:
        return self.record.size


Step = Creation | Reuse


@dataclasses.dataclass(frozen=True)
class Other:
    """An image that may hold the same bytes, but will not do.

    :param why: what of it is not as it must be, as a clause.
    """

    record: model.ImageRecord
    why: str

    def __str__(self) -> str:
        return (
            f'the image {self.record.title} holds the '
            f'same bytes, but {self.why}'
        )


@dataclasses.dataclass(frozen=True)
class RegisterPlan:
    """How a triple is going to be registered.

    The size of the AMI, and ``min_disk`` with it, is a lower bound if the
    filesystem is going to be shrunk and that was not tried out.

    :param shrink: how the filesystem is going to be shrunk; None if not.
    :param warnings: what the user should know before.
    :param alike: images that are as the AMI would be. If one of them turns
        out to hold the same bytes, it is reused.
    :param others: images that may hold the same bytes, but will not do.
    :param created: what the user should know if the AMI has to be created,
        though there are images like it.
    :param orphans: what a run that was killed has left, to be removed.
    :param widened: kernels and ramdisks that are to be as visible as the AMI.
    :param marked: whether new images are marked as unfinished.
    """

    ami: Step
    kernel: Step | None
    ramdisk: Step | None
    shrink: shrink.ShrinkPlan | None
    settings: Settings
    warnings: tuple[str, ...] = ()
    alike: tuple[model.ImageRecord, ...] = ()
    others: tuple[Other, ...] = ()
    created: tuple[str, ...] = ()
    orphans: tuple[model.ImageRecord, ...] = ()
    widened: tuple[Reuse, ...] = ()
    marked: bool = True

    @property
    def steps(self) -> tuple[Step, ...]:
        """What is going to be done: kernel, ramdisk, AMI."""
        return (
            *(part for part in (self.kernel, self.ramdisk) if part),
            self.ami,
        )

    @property
    def size_before(self) -> int | None:
        """Bytes of a filesystem that is going to be shrunk."""
        return None if self.shrink is None else self.shrink.size_before

    @property
    def creations(self) -> tuple[Creation, ...]:
        return tuple(s for s in self.steps if isinstance(s, Creation))

    @property
    def reuses(self) -> tuple[Reuse, ...]:
        return tuple(s for s in self.steps if isinstance(s, Reuse))


@dataclasses.dataclass(frozen=True)
class PartPlan:
    """How a kernel or a ramdisk is going to be registered.

    The fields are those of :class:`RegisterPlan`.
    """

    step: Step
    settings: Settings
    warnings: tuple[str, ...] = ()
    orphans: tuple[model.ImageRecord, ...] = ()
    marked: bool = True


@dataclasses.dataclass(frozen=True)
class Registered:
    """A kernel or ramdisk that is in the cloud now.

    :param uploaded: bytes that were sent.
    :param reused: its id, if it was in the cloud before.
    """

    record: model.ImageRecord
    uploaded: int = 0
    reused: tuple[str, ...] = ()


def adopt(request: UploadRequest, source: bundle.Source) -> UploadRequest:
    """Fill in what a request leaves open.

    Name, tags, formats and minimums are taken over unless they were given,
    properties one by one. Visibility, protection and hiding are not: they are
    up to who uploads, and where to.

    :param request: for a source by its name; ``kernel`` and ``ramdisk`` are
        those of the source where nothing else was given.
    """
    traits = request.traits
    if traits.name is None and source.name is not None:
        traits = dataclasses.replace(traits, name=source.name)
    image = source.part('image')
    min_disk, min_ram = request.min_disk, request.min_ram
    if image is not None:
        if min_disk is None and source.finished and request.target != DISKLESS:
            min_disk = max(image.min_disk, units.gib(image.size))
        min_ram = image.min_ram if min_ram is None else min_ram
        traits = _traits(traits, image)
    brought: dict[str, Any] = {
        f'{noun}_traits': _traits(Traits(), part)
        for noun in ('kernel', 'ramdisk')
        if (part := source.part(noun)) is not None
        # What the user gave in its place is another file.
        and getattr(request, noun) == str(getattr(source, noun))
    }
    return dataclasses.replace(
        request,
        source=source.root,
        own=source.own,
        probe=source.probe,
        traits=traits,
        **brought,
        min_disk=min_disk,
        min_ram=min_ram,
        seen=source.seen,
    )


def _traits(given: Traits, part: manifest.ManifestPart) -> Traits:
    before = dict(part.properties)
    if given.architecture is not None:
        before.pop('architecture', None)
    return dataclasses.replace(
        given,
        name=given.name or part.name,
        tags=given.tags or part.tags,
        properties={**before, **given.properties},
    )
