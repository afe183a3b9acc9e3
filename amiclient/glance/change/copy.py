# SPDX-License-Identifier: Apache-2.0

"""Triples that are copied to other regions and clouds.

Each target gets all of a triple, or nothing; what becomes of one changes
nothing for the others. Kernels and ramdisks that it has already are linked,
and an AMI that is there already, as a copy of it would be, is left as it is.

Within one Keystone, the Glance of the target can fetch the data itself
(``glance-download``), and none of it passes through here. Operators have to
offer that, and to let Glance reach the other one: by default, an address
filter keeps it from all but the ports 80 and 443. Why it failed, Glance
tells nobody. The data of an image for which it fails is sent from here, as
it comes, and so is that of the images after it.
"""

from collections.abc import Iterable, Mapping, Sequence
import contextlib
import dataclasses
import logging
import threading
import types
from typing import Any

from amiclient import errors
from amiclient.glance import certificates
from amiclient.glance.change import copy_plan
from amiclient.glance import client
from amiclient.glance import links
from amiclient.glance import model
from amiclient.glance import places
from amiclient.glance import stores
from amiclient.glance.transfer import download
from amiclient.glance.transfer import image_data
from amiclient.glance.transfer import imports
from amiclient.glance.transfer import relay
from amiclient.glance.transfer import upload
from amiclient.glance.upload import marks
from amiclient.glance.upload import register
from amiclient.glance.upload import request
from amiclient.glance.upload import reuse
from amiclient.glance.upload import transaction
from amiclient.glance.upload import ways
from amiclient import jobs
from amiclient.progress import Progress
from amiclient.progress import Task

LOG = logging.getLogger(__name__)

#: How data came to a target whose Glance did not fetch it.
SENT = 'stream'


@dataclasses.dataclass(frozen=True)
class CopyResult:
    """What became of one target.

    :param status: ``copied``; ``present``, if all was there before;
        ``planned``; or ``failed``.
    :param way: how data came there: ``glance-download`` or ``stream``.
    :param sent: bytes that passed through here.
    :param reused: ids of images that were there before.
    :param plan: what would be done, if that is all that was asked for.
    """

    target: str
    status: str
    id: str | None = None
    kernel_id: str | None = None
    ramdisk_id: str | None = None
    way: str | None = None
    sent: int = 0
    reused: tuple[str, ...] = ()
    plan: tuple[copy_plan.Step, ...] = ()


def copy(
    asked: copy_plan.CopyRequest,
    source: places.CloudPlace,
    targets: tuple[places.CloudPlace, ...],
    lost: Sequence[str] = (),
    *,
    progress: Progress,
) -> tuple[CopyResult, ...]:
    """Copy a triple to several targets at once.

    What goes wrong with one is logged, by the name of the target.

    :param lost: targets that do not answer, by their titles.
    :returns: what became of each.
    :raises NotFoundError: if there is no such image.
    :raises CloudError: if it is no AMI, or not all of it can be had.
    """
    ami = links.show(source.catalog(asked.settings.patience), asked.ami)
    ami.check_parts(lambda _: f'see `openstack ami verify {ami.image.id}`')
    records = (*ami.parts, (model.Kind.AMI, ami.image))
    for _, record in records:
        download.check(record)
    with contextlib.ExitStack() as stack:
        works = [
            _Work(asked, source, target, records, progress)
            for target in targets
        ]
        for work in works:
            stack.push(work.leave)
        done = jobs.run({work.target.title: work.run for work in works})
    return (*done.values(), *_failed(lost))


def _failed(titles: Iterable[str]) -> tuple[CopyResult, ...]:
    return tuple(CopyResult(title, 'failed') for title in titles)


def planned(
    targets: tuple[places.CloudPlace, ...], lost: Sequence[str]
) -> tuple[CopyResult, ...]:
    """Tell where an AMI would be copied to that is not there yet."""
    there = (CopyResult(each.title, 'planned') for each in targets)
    return (*there, *_failed(lost))


def check_stores(
    settings: request.Settings, targets: Iterable[places.CloudPlace]
) -> None:
    """Make sure that the stores of an upload are in the targets, too.

    :raises CloudError: if one has no such store that can be written.
    """
    for target in targets:
        with errors.about_cloud(target.title):
            catalog = client.Catalog(target.proxy, patience=settings.patience)
            stores.choose(catalog, settings.stores, every=settings.all_stores)


def uploaded(
    image: model.ImageRecord,
    settings: request.Settings,
    source: places.CloudPlace,
    targets: tuple[places.CloudPlace, ...],
    lost: Sequence[str],
    *,
    progress: Progress,
) -> tuple[CopyResult, ...]:
    """Copy an AMI that has just been uploaded, and stays in any case.

    :param settings: those of the upload.
    """
    elsewhere = dataclasses.replace(settings, imported='auto')
    asked = copy_plan.CopyRequest(image.id, elsewhere)
    try:
        if targets:
            return copy(asked, source, targets, lost, progress=progress)
        return _failed(lost)
    except errors.AmiError as error:
        # Nor did anything become of any copy.
        LOG.error('%s', error)  # noqa: TRY400
        return _failed((*(each.title for each in targets), *lost))
    except BaseException as error:
        error.add_note(f'the upload of {image.title} is complete')
        raise


def failed(copied: tuple[CopyResult, ...]) -> bool:
    """Tell whether an AMI could not be copied to all targets."""
    return any(each.status == 'failed' for each in copied)


class _Work:
    """One target: what is planned, and then done, in a thread of its own."""

    def __init__(
        self,
        asked: copy_plan.CopyRequest,
        source: places.CloudPlace,
        target: places.CloudPlace,
        records: copy_plan.Records,
        progress: Progress,
    ) -> None:
        self.target = target
        # A project of one Keystone is none of another's.
        owner = asked.settings.owner if target.kind == 'region' else None
        settings = dataclasses.replace(asked.settings, owner=owner)
        self._asked = dataclasses.replace(asked, settings=settings)
        self._source = source
        self._records = records
        self._progress = progress
        self._made: transaction.Transaction | None = None
        #: Held while it is undone: whoever comes second waits.
        self._undoing = threading.Lock()
        self._way: str | None = None
        self._region: str | None = None

    def run(self, cancel: threading.Event) -> CopyResult:
        """Do it; what goes wrong is no reason to end the others."""
        try:
            with errors.about_cloud(self.target.title):
                return self._run(cancel)
        except errors.CancelledError:
            raise
        except errors.AmiError as error:
            self.leave(type(error), error, error.__traceback__)
            notes = ''.join(f'; {n}' for n in getattr(error, '__notes__', ()))
            # No traceback for users.
            LOG.error('%s%s', error, notes)  # noqa: TRY400
            return CopyResult(self.target.title, status='failed')

    def leave(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        """Undo what is not complete, if something failed."""
        with self._undoing:
            if self._made is not None:
                self._made.__exit__(kind, error, trace)

    def _run(self, cancel: threading.Event) -> CopyResult:
        catalog = self.target.catalog(self._asked.settings.patience, cancel)
        plan = copy_plan.Planner(
            self._asked, self._source, self.target, catalog
        ).plan(self._records)
        for line in plan.warnings:
            LOG.warning('%s: %s', self.target.title, line)
        if self._asked.dry_run:
            there = {s.kind: s.record.id for s in plan.reuses}
            if plan.copies:
                self._way = copy_plan.FETCH if plan.region else SENT
            return self._told(
                'planned' if plan.copies else 'present',
                there,
                plan,
                sum(step.size for step in plan.copies if not plan.region),
            )
        if not any((plan.copies, *(step.copies for step in plan.reuses))):
            LOG.warning(
                '%s: the AMI is there already: nothing is sent',
                self.target.title,
            )
        return self._execute(plan, catalog, cancel)

    def _told(
        self,
        status: str,
        ids: Mapping[model.Kind, str],
        plan: copy_plan.CopyPlan,
        sent: int = 0,
    ) -> CopyResult:
        return CopyResult(
            target=self.target.title,
            status=status,
            id=ids.get(model.Kind.AMI),
            kernel_id=ids.get(model.Kind.AKI),
            ramdisk_id=ids.get(model.Kind.ARI),
            way=self._way,
            sent=sent,
            reused=tuple(step.record.id for step in plan.reuses),
            plan=plan.steps if self._asked.dry_run else (),
        )

    def _execute(
        self,
        plan: copy_plan.CopyPlan,
        catalog: client.Catalog,
        cancel: threading.Event,
    ) -> CopyResult:
        self._region = plan.region
        marks.remove(catalog, plan.orphans)
        self._made = made = transaction.Transaction(
            catalog, keep=False, marked=plan.marked
        )
        plan = _with_certificates(plan, catalog, made)
        records = _create(plan, made)
        sent = before = 0
        with self._progress.task(
            f'Copying to {self.target.title}',
            sum(step.size for step in plan.copies),
        ) as bar:
            for step in plan.copies:
                share = _ShareOfBar(bar, before)
                records[step.kind], count = self._fill(
                    step,
                    records[step.kind],
                    plan.settings,
                    made,
                    share,
                    cancel,
                )
                before += step.size
                sent += count
        for step in reversed(plan.copies):
            record = records[step.kind]
            wanted = {**step.new.properties, **_linked(step.kind, records)}
            changes = _changes(step, record, wanted)
            if self._asked.settings.protected:
                changes['protected'] = True
            records[step.kind] = made.finish(record, changes)
        for reused in plan.reuses:
            reuse.still(catalog, reused.kind, reused.record)
            register.spread(
                reused.kind, reused.record, plan.settings, made, self._progress
            )
        made.commit()
        for reused in plan.reuses:
            marks.clear(catalog, reused.record)
        return self._told(
            'copied' if plan.copies else 'present',
            {kind: record.id for kind, record in records.items()},
            plan,
            sent,
        )

    def _fill(
        self,
        step: copy_plan.CopyStep,
        record: model.ImageRecord,
        settings: request.Settings,
        made: transaction.Transaction,
        share: '_ShareOfBar',
        cancel: threading.Event,
    ) -> tuple[model.ImageRecord, int]:
        """Have the data of one image at the target.

        :returns: the image, verified, and the bytes that were sent from here.
        """
        if self._region is not None:
            found = self._fetched(step, record, settings, share, cancel)
            if found is not None:
                self._way = self._way or copy_plan.FETCH
                share.advance(step.size)
                return found, 0
        self._way = SENT
        patience = settings.patience
        catalog = self.target.catalog(patience, cancel)
        transfer = upload.Transfer(
            proxy=self.target.proxy,
            image_id=record.id,
            payload=relay.Relay(
                self._source.proxy, step.record, patience, cancel
            ),
            description=f'Sending {step.kind.noun}',
            progress=share,
            cancel=cancel,
            patience=patience,
        )
        sent = imports.send(
            transfer,
            noun=step.kind.noun,
            imported=ways.settle(catalog, settings),
            stores=settings.stores,
            all_must_succeed=not settings.allow_store_failure,
        )
        if not sent.imported:
            register.spread(step.kind, sent.record, settings, made, share)
        return sent.record, sent.uploaded

    def _fetched(
        self,
        step: copy_plan.CopyStep,
        record: model.ImageRecord,
        settings: request.Settings,
        share: '_ShareOfBar',
        cancel: threading.Event,
    ) -> model.ImageRecord | None:
        """Have the target fetch the data of one image itself.

        :returns: the image, verified; None if it has to be sent from here.
        """
        patience = settings.patience
        # It may come slowly, and how much has come, Glance does not tell.
        slow = dataclasses.replace(
            patience, settle=patience.settle + step.size / stores.SLOWEST
        )
        try:
            found = imports.run(
                self.target.catalog(slow, cancel),
                record.id,
                copy_plan.FETCH,
                settings.stores,
                noun=step.kind.noun,
                progress=share,
                all_must_succeed=not settings.allow_store_failure,
                glance_image_id=step.record.id,
                glance_region=self._region or '',
                glance_service_interface=self._source.interface,
            )
        except errors.CancelledError:
            raise
        except errors.CloudError as error:
            now = self.target.catalog(patience, cancel).get(record.id)
            # An import that Glance does not get done with leaves it locked.
            if now.status != 'queued' or now.properties.get(stores.TASK):
                raise
            self._region = None
            LOG.info(
                '%s: %s; the data is sent from here',
                self.target.title,
                error.sentence,
            )
            return None
        mine = image_data.expected(step.record)
        theirs = image_data.expected(found)
        differ = found.size != step.size
        if mine and theirs and mine.algorithm == theirs.algorithm:
            # By another algorithm, there is no telling.
            differ = differ or mine != theirs
        if differ:
            raise errors.TransferError(
                f'the {step.kind.noun} {found.id} does not hold what '
                f'{step.record.id} does',
                hint='an import plugin of the cloud may have converted it: '
                'ask the operator',
            )
        return found


def _with_certificates(
    plan: copy_plan.CopyPlan,
    catalog: client.Catalog,
    made: transaction.Transaction,
) -> copy_plan.CopyPlan:
    """Store the certificates of signatures that the target does not have."""
    ready: list[copy_plan.Step] = []
    for step in plan.steps:
        if isinstance(step, copy_plan.CopyStep) and step.certificate:
            certificate = certificates.stored(catalog, step.certificate, made)
            signed = certificates.carried(step.record, certificate)
            properties = {**step.new.properties, **signed}
            new = dataclasses.replace(step.new, properties=properties)
            step = dataclasses.replace(step, new=new)
        ready.append(step)
    return dataclasses.replace(plan, steps=tuple(ready))


def _create(
    plan: copy_plan.CopyPlan, made: transaction.Transaction
) -> dict[model.Kind, model.ImageRecord]:
    """Create what is to be created, the AMI with its links from the start."""
    records: dict[model.Kind, model.ImageRecord] = {}
    for step in plan.steps:
        if isinstance(step, request.Reuse):
            records[step.kind] = step.record
            continue
        new = step.new
        properties = {**new.properties, **_linked(step.kind, records)}
        new = dataclasses.replace(new, properties=properties)
        records[step.kind] = (
            made.adopt(step.adopted, new) if step.adopted else made.create(new)
        )
    return records


def _linked(
    kind: model.Kind, records: Mapping[model.Kind, model.ImageRecord]
) -> dict[str, str]:
    """Tell the links of an image to what was copied before it."""
    if kind is not model.Kind.AMI:
        return {}
    return {
        name: records[part].id
        for part, name in model.LINKS.items()
        if part in records
    }


def _changes(
    step: copy_plan.CopyStep,
    record: model.ImageRecord,
    wanted: Mapping[str, str],
) -> dict[str, Any]:
    """Tell what the target has made of properties, to set it right.

    ``glance-download`` brings some along, by what the operator chose: of a
    snapshot, those that were left out; and links may be among them.
    """
    changes: dict[str, Any] = {
        name: value
        for name, value in wanted.items()
        if record.properties.get(name) != value
    }
    brought = record.properties.keys() & step.record.properties.keys()
    stale = brought - wanted.keys() - {marks.PROPERTY}
    stale = {n for n in stale if not n.startswith('os_glance_')}
    return {**changes, **dict.fromkeys(sorted(stale))}


class _ShareOfBar:
    """The share that one image has in the progress of a target.

    :param before: bytes of the images before it.
    """

    def __init__(self, bar: Task, before: int) -> None:
        self._bar = bar
        self._before = before

    def task(
        self, description: str, total: int | None = None
    ) -> contextlib.AbstractContextManager[Task]:
        """Begin to bring the data of the image there."""
        return contextlib.nullcontext(self)

    def advance(self, amount: int) -> None:
        """Say that this many more bytes are there."""
        self._bar.advance(amount)

    def expect(self, total: int) -> None:
        """The bar has the size of all images."""

    def tell(self, result: str) -> None:
        """Say nothing: it is a part of something larger."""

    def restart(self) -> None:
        """Say that it starts again, the images before it aside."""
        self._bar.restart()
        self._bar.advance(self._before)
