# SPDX-License-Identifier: Apache-2.0

"""What is asked for when a triple is copied, and what that comes to.

For each image of the triple, the target has one that will do, or gets a copy.
Planning only reads.
"""

from collections.abc import Mapping
import dataclasses
import logging
from typing import ClassVar

from amiclient import errors
from amiclient.glance import certificates
from amiclient.glance import client
from amiclient.glance import model
from amiclient.glance import places
from amiclient.glance import signatures
from amiclient.glance import stores
from amiclient.glance.transfer import download
from amiclient.glance.transfer import image_data
from amiclient.glance.transfer import save
from amiclient.glance.upload import marks
from amiclient.glance.upload import preflight
from amiclient.glance.upload import request
from amiclient.glance.upload import reuse
from amiclient.glance.upload import ways

LOG = logging.getLogger(__name__)

#: The import method by which a Glance fetches data from another region's.
FETCH = 'glance-download'

#: The images of a triple, each with what it is: the AMI is the last.
Records = tuple[tuple[model.Kind, model.ImageRecord], ...]


@dataclasses.dataclass(frozen=True)
class CopyRequest:
    """A triple that is to be copied.

    :param ami: an image's id or name.
    :param settings: what applies to the copies.
    :param properties: that the AMI gets besides its own.
    :param same_id: whether the copies have the ids of the originals.
    :param keep_hardware: whether to keep what Nova set in a snapshot.
    :param dry_run: whether nothing is to be done.
    """

    ami: str
    settings: request.Settings = dataclasses.field(
        default_factory=request.Settings
    )
    properties: Mapping[str, str] = dataclasses.field(default_factory=dict)
    same_id: bool = False
    keep_hardware: bool = False
    dry_run: bool = False


@dataclasses.dataclass(frozen=True)
class CopyStep(request.PlanStep):
    """An image that is going to be created as a copy of another.

    :param record: the other.
    :param adopted: what a killed run has left with the id that it is to have.
    :param certificate: that of its signature; None if it is not signed.
    :param stores: those of the target that its data is put to.
    """

    action: ClassVar[str] = 'copy'

    kind: model.Kind
    new: model.NewImage
    record: model.ImageRecord
    adopted: model.ImageRecord | None = None
    certificate: signatures.Certificate | None = None
    stores: tuple[str, ...] = ()

    @property
    def image(self) -> model.NewImage:
        return self.new

    @property
    def size(self) -> int:
        return download.check(self.record)


Step = CopyStep | request.Reuse


@dataclasses.dataclass(frozen=True, kw_only=True)
class CopyPlan:
    """What is going to be done for one target.

    :param steps: for kernel, ramdisk and AMI, in this order.
    :param region: from which the target can fetch data itself; None if it
        cannot.
    :param warnings: what the user should know before.
    :param orphans: what a run that was killed has left, to be removed.
    :param marked: whether new images are marked as unfinished.
    :param settings: those that were asked for, with stores of the target.
    """

    steps: tuple[Step, ...]
    settings: request.Settings
    region: str | None = None
    warnings: tuple[str, ...] = ()
    orphans: tuple[model.ImageRecord, ...] = ()
    marked: bool = True

    @property
    def copies(self) -> tuple[CopyStep, ...]:
        return tuple(s for s in self.steps if isinstance(s, CopyStep))

    @property
    def reuses(self) -> tuple[request.Reuse, ...]:
        return tuple(s for s in self.steps if isinstance(s, request.Reuse))


def _new(asked: CopyRequest, record: model.ImageRecord) -> model.NewImage:
    """Describe the copy of an image, but for its links.

    Visibility, protection, hiding and members are up to who copies it, and
    where to.
    """
    return model.NewImage(
        name=record.name or '',
        disk_format=record.disk_format or '',
        container_format=record.container_format or '',
        id=record.id if asked.same_id else None,
        visibility=asked.settings.visibility,
        hidden=asked.settings.hidden or None,
        owner=asked.settings.owner,
        min_disk=record.min_disk,
        min_ram=record.min_ram,
        tags=tuple(sorted(record.tags)),
        properties=save.travelling(record, keep_hardware=asked.keep_hardware),
    )


def _digest(record: model.ImageRecord) -> reuse.Digest:
    """Tell the hash that Glance has of an image, by its algorithm only."""
    known = image_data.expected(record)
    return lambda name: (
        known.value if known and known.algorithm == name else 'unknown'
    )


class Planner:
    """Finds out what has to be done for one target."""

    def __init__(
        self,
        asked: CopyRequest,
        source: places.CloudPlace,
        target: places.CloudPlace,
        catalog: client.Catalog,
    ) -> None:
        self._asked = asked
        self._source = source
        self._target = target
        self._catalog = catalog
        self._settings = asked.settings
        self._warnings: list[str] = []
        self._checker = certificates.Checker(
            source.catalog(asked.settings.patience)
        )

    def plan(self, records: Records) -> CopyPlan:
        """Check all that can be checked, and say what would be done."""
        self._settings = preflight.settle_stores(self._catalog, self._settings)
        rules = preflight.Rules.of(self._catalog)
        steps: list[Step] = []
        linked: dict[str, str | None] = dict.fromkeys(model.LINKS.values())
        complete = True
        for kind, record in records:
            step = self._step(kind, record, linked, rules, complete)
            if isinstance(step, CopyStep):
                complete = False
            elif kind is not model.Kind.AMI:
                linked[model.LINKS[kind]] = step.record.id
            steps.append(step)
        copies = [step for step in steps if isinstance(step, CopyStep)]
        adopted = [step.adopted for step in copies if step.adopted]
        orphans: tuple[model.ImageRecord, ...] = ()
        if copies:
            orphans = tuple(
                orphan
                for orphan in marks.find(self._catalog, self._settings)
                if orphan.id not in [image.id for image in adopted]
            )
            self._warnings += marks.warnings(orphans)
            self._warnings += preflight.permission(
                self._catalog, self._settings
            )
        region = self._region() if copies else None
        if copies:
            imported = 'always'
            if region is None:
                imported = ways.settle(self._catalog, self._settings)
            needed = len(self._settings.stores)
            preflight.check_quota(
                self._catalog,
                [step.size for step in copies],
                copies=max(1, needed),
                staged=imported == 'always' or needed > 1,
                removed=len(orphans),
            )
        return CopyPlan(
            steps=tuple(steps),
            settings=self._settings,
            region=region,
            warnings=tuple(self._warnings),
            orphans=orphans,
            marked=rules.takes_property(marks.PROPERTY),
        )

    def _step(
        self,
        kind: model.Kind,
        record: model.ImageRecord,
        linked: Mapping[str, str | None],
        rules: preflight.Rules,
        complete: bool,
    ) -> Step:
        """Decide whether an image is copied, or there already.

        :param linked: the kernel and the ramdisk that are there.
        :param complete: whether all of them are.
        """
        new = _new(self._asked, record)
        certificate = self._certificate(kind, record)
        signed = certificates.carried(record, certificate)
        more = self._asked.properties if kind is model.Kind.AMI else {}
        taken, warnings = rules.sift({**new.properties, **signed, **more})
        self._warnings += warnings
        if not signed.keys() <= taken.keys():
            # A part of a signature is none.
            taken = {k: v for k, v in taken.items() if k not in signed}
            certificate = None
        new = dataclasses.replace(new, properties=taken)
        settings = self._settings
        wanted = reuse.Requirements(
            formats=(new.disk_format, new.container_format),
            visibility=settings.visibility,
            owner=settings.owner,
            certificate=certificate,
            stores=settings.stores,
            may_copy=settings.may_copy,
        )
        if kind is model.Kind.AMI:
            wanted = dataclasses.replace(
                wanted,
                exactly_visible=settings.visibility is not None,
                hidden=settings.hidden,
                protected=settings.protected,
                foreign=False,
                name=new.name,
                min_disk=new.min_disk,
                min_ram=new.min_ram,
                tags=new.tags,
                properties={**new.properties, **linked},
            )
        adopted = None
        if self._asked.same_id:
            there = self._same_id(kind, record, wanted, complete)
            if there is not None and there.status == 'active':
                return self._reused(kind, there)
            adopted = there
        elif complete or kind is not model.Kind.AMI:
            found, others = reuse.find(
                self._catalog, wanted, download.check(record), _digest(record)
            )
            if found is not None:
                return self._reused(kind, found)
            self._warnings += reuse.told(others)
        rules.check(new)
        if kind is model.Kind.AMI:
            self._warnings += preflight.namesakes(
                self._catalog,
                new.name,
                hidden=settings.hidden,
                but=[adopted] if adopted else (),
            )
        return CopyStep(
            kind, new, record, adopted, certificate, settings.stores
        )

    def _certificate(
        self, kind: model.Kind, record: model.ImageRecord
    ) -> signatures.Certificate | None:
        """Find the certificate of a copy's signature.

        The bytes are the same, and so is the signature. But the target may
        have another key manager, or the user another project there.

        :returns: it, with its id if it is there; None for no signature.
        """
        signature = signatures.Signature.of(record)
        if signature is None:
            return None
        found = self._checker.certificate(signature.certificate)
        why: str | None = None
        if isinstance(found, str):
            why = f'its certificate {found}'
        else:
            problem = self._checker.problem(record)
            if problem is not None:
                raise errors.CloudError(
                    f'the {kind.noun} {record.title}: {problem}',
                    hint=f'see `openstack ami verify {self._asked.ami}`',
                )
            there = certificates.Checker(self._catalog)
            if (key := there.find(found)) is not None:
                return key
            why = 'the target has no key manager (Barbican)'
        self._warnings.append(
            f'the copy of the {kind.noun} {record.title} is not signed: {why}'
        )
        return None

    def _reused(
        self, kind: model.Kind, there: model.ImageRecord
    ) -> request.Reuse:
        copies = stores.lacking(there, self._settings.stores)
        return request.Reuse(kind, there, copies=copies)

    def _same_id(
        self,
        kind: model.Kind,
        record: model.ImageRecord,
        wanted: reuse.Requirements,
        complete: bool,
    ) -> model.ImageRecord | None:
        """Look at the image that has the id that a copy is to have.

        :returns: it, if it is such a copy, or was left by a killed run.
        """
        try:
            there = self._catalog.get(record.id)
        except errors.NotFoundError:
            return None
        if there.status == 'queued' and marks.is_left(there):
            return there
        why: str | None = 'holds other data'
        if there.size == record.size and reuse.holds(there, _digest(record)):
            why = reuse.unfit(
                there,
                wanted,
                self._settings.owner or self._catalog.project(),
            )
        if why is None and not complete:
            why = 'links to what is not there'
        if why is not None:
            raise errors.CloudError(
                f'the {kind.noun} {there.title} has the id that the copy is '
                f'to have, but {why}',
                hint='leave out --same-id, or delete that image',
            )
        return there

    def _region(self) -> str | None:
        """Name the region that the target can fetch from itself, if any."""
        source, target = self._source, self._target
        why = None
        if source.keystone != target.keystone or source.keystone is None:
            why = 'it has another Keystone'
        elif source.identity[1] != target.identity[1]:
            why = 'the copy is for another project'
        elif source.region in (None, target.region):
            why = 'there is no other region to fetch from'
        elif FETCH not in self._catalog.import_methods():
            why = f'its Glance does not offer {FETCH}'
        if why is None:
            return source.region
        LOG.info('%s: the data is sent from here: %s', target.title, why)
        return None
