# SPDX-License-Identifier: Apache-2.0

"""A triple, registered as one transaction.

The three images are created first, queued and linked, for that is where a
cloud says no. Kernel and ramdisk then travel while the filesystem is being
shrunk; the AMI's own data comes last, so that an AMI that is active has all
that it needs. Whatever goes wrong, what was created is removed.
"""

from collections.abc import Collection, Mapping
import contextlib
import dataclasses
import logging
import threading
import typing
from typing import Any

from amiclient import errors
from amiclient.glance import certificates
from amiclient.glance import client
from amiclient.glance import model
from amiclient.glance import steps
from amiclient.glance import stores
from amiclient.glance.transfer import image_data
from amiclient.glance.transfer import imports
from amiclient.glance.transfer import upload
from amiclient.glance.upload import marks
from amiclient.glance.upload import preflight
from amiclient.glance.upload import request
from amiclient.glance.upload import reuse
from amiclient.glance.upload import root_copy
from amiclient.glance.upload import transaction
from amiclient import jobs
from amiclient.progress import Progress
from amiclient import units

if typing.TYPE_CHECKING:
    from openstack.image.v2 import _proxy

LOG = logging.getLogger(__name__)


def execute(
    plan: request.RegisterPlan,
    proxy: '_proxy.Proxy',
    *,
    progress: Progress,
) -> model.Triple:
    """Register a triple.

    :returns: the three images as Glance then describes them.
    :raises AmiError: whatever went wrong; then nothing was left behind, or
        it was logged what was.
    """
    catalog = client.Catalog(proxy, patience=plan.settings.patience)
    with contextlib.ExitStack() as stack:
        marks.remove(catalog, plan.orphans)
        plan = reuse.settle(plan, stack, progress=progress)
        if isinstance(plan.ami, request.Creation):
            for line in plan.created:
                LOG.warning('%s', line)
        for step in plan.steps:
            _tell(step)
        made = stack.enter_context(
            transaction.Transaction(
                catalog, keep=plan.settings.keep_failed, marked=plan.marked
            )
        )
        settings = _signing(plan.settings, plan.creations, catalog, made)
        plan = dataclasses.replace(plan, settings=settings)
        records = _create(plan, made)
        if isinstance(plan.ami, request.Creation):
            # Much may have to be sent, which would be in vain.
            _look_again(plan, catalog)
        for step in plan.reuses:
            if step.copies:
                spread(step.kind, step.record, plan.settings, made, progress)
        sent = _send(plan, records, proxy, made, progress)
        records.update({kind: each.record for kind, each in sent.items()})
        with progress.task('Verifying'):
            _finish(plan, records, made)
            records.update(_look_again(plan, catalog))
            made.commit()
            for step in plan.reuses:
                # A killed run may have left its mark on it.
                records[step.kind] = marks.clear(catalog, records[step.kind])
    if model.Kind.AMI in sent:
        reuse.tell_others(plan, sent[model.Kind.AMI])
    return model.Triple(
        ami=records[model.Kind.AMI],
        kernel=records.get(model.Kind.AKI),
        ramdisk=records.get(model.Kind.ARI),
        uploaded=sum(each.uploaded for each in sent.values()),
        reused=tuple(step.record.id for step in plan.reuses),
    )


def execute_part(
    plan: request.PartPlan,
    proxy: '_proxy.Proxy',
    *,
    progress: Progress,
) -> request.Registered:
    """Register a kernel or a ramdisk, as :func:`execute` does a triple."""
    catalog = client.Catalog(proxy, patience=plan.settings.patience)
    marks.remove(catalog, plan.orphans)
    with transaction.Transaction(
        catalog, keep=plan.settings.keep_failed, marked=plan.marked
    ) as made:
        registered = add_part(plan, made, proxy, progress=progress)
        made.commit()
    return registered


def add_part(
    plan: request.PartPlan,
    made: transaction.Transaction,
    proxy: '_proxy.Proxy',
    *,
    progress: Progress,
) -> request.Registered:
    """Register a kernel or a ramdisk as a part of something larger.

    :param made: removes it again, unless whoever has opened that commits.
    """
    step = plan.step
    _tell(step)
    if isinstance(step, request.Reuse):
        catalog = client.Catalog(proxy, patience=plan.settings.patience)
        record = reuse.still(catalog, step.kind, step.record)
        record = marks.clear(catalog, record)
        if step.copies:
            spread(step.kind, record, plan.settings, made, progress)
        return request.Registered(record, reused=(record.id,))
    catalog = client.Catalog(proxy, patience=plan.settings.patience)
    settings = _signing(plan.settings, [step], catalog, made)
    record = _make(step, made)
    sent = _send_one(settings, step, record, proxy, progress)
    if not sent.imported:
        spread(step.kind, sent.record, plan.settings, made, progress)
    changes = {'protected': True} if plan.settings.protected else {}
    record = made.finish(sent.record, changes)
    return request.Registered(record, uploaded=sent.uploaded)


def _signing(
    settings: request.Settings,
    creations: Collection[request.Creation],
    catalog: client.Catalog,
    made: transaction.Transaction,
) -> request.Settings:
    """Have the key manager have the certificate of new images."""
    signer, certificate = settings.signer, settings.certificate
    if signer is None or certificate is None or not creations:
        return settings
    certificate = certificates.stored(catalog, certificate, made)
    signer = dataclasses.replace(signer, certificate=certificate)
    return dataclasses.replace(settings, signer=signer)


def _create(
    plan: request.RegisterPlan, made: transaction.Transaction
) -> dict[model.Kind, model.ImageRecord]:
    """Create what is to be created, the AMI with its links from the start."""
    records: dict[model.Kind, model.ImageRecord] = {}
    links: dict[str, str] = {}
    for part in plan.widened:
        visibility = plan.settings.visibility or part.record.visibility
        made.carry_out(
            steps.Update(part.kind, part.record, {'visibility': visibility})
        )
        LOG.warning(
            'the %s %r (%s) was %s and is %s now, as is the image that links '
            'to it',
            part.kind.noun,
            part.record.name,
            part.record.id,
            part.record.visibility,
            visibility,
        )
    for step in plan.steps:
        if isinstance(step, request.Reuse):
            record = step.record
        else:
            new = step.new
            if step.kind is model.Kind.AMI:
                properties = {**new.properties, **links}
                new = dataclasses.replace(new, properties=properties)
            record = _make(dataclasses.replace(step, new=new), made)
        records[step.kind] = record
        links[f'{step.kind.noun}_id'] = record.id
    return records


def _tell(step: request.Step) -> None:
    """Tell, with -v, what is there already, and which way the rest goes."""
    if isinstance(step, request.Reuse):
        title = steps.title(step.kind, step.record)
        LOG.info('the %s is in the cloud already: it is reused', title)
    else:
        noun, name, way = step.kind.noun, step.new.name, step.way
        LOG.info('the %s %r is created; its data goes by %s', noun, name, way)


def _make(
    step: request.Creation, made: transaction.Transaction
) -> model.ImageRecord:
    if step.adopted is not None:
        LOG.warning(
            'the image %s, which an upload that was killed left, is used '
            'again',
            step.adopted.id,
        )
        return made.adopt(step.adopted, step.new)
    return made.create(step.new)


def _finish(
    plan: request.RegisterPlan,
    records: dict[model.Kind, model.ImageRecord],
    made: transaction.Transaction,
) -> None:
    """Change what can be changed only now that all is there.

    The AMI comes first and the kernel last: whoever finds a kernel without a
    mark may link to it, and nothing may undo it any more.
    """
    for step in reversed(plan.creations):
        record = records[step.kind]
        changes: dict[str, Any] = {}
        needed = units.gib(max(record.size or 0, record.virtual_size or 0))
        if step.kind is model.Kind.AMI and record.min_disk < needed:
            # It grew beyond a GiB, and must not come to a disk too small.
            changes['min_disk'] = needed
        if plan.settings.protected:
            changes['protected'] = True
        records[step.kind] = made.finish(record, changes)


def _look_again(
    plan: request.RegisterPlan, catalog: client.Catalog
) -> dict[model.Kind, model.ImageRecord]:
    """Make sure that what is reused is there, for whoever sees the AMI.

    :returns: it, as it is now.
    """
    found: dict[model.Kind, model.ImageRecord] = {}
    for step in plan.reuses:
        visibility = plan.settings.visibility if step in plan.widened else None
        record = reuse.still(
            catalog, step.kind, step.record, visibility=visibility
        )
        if step.kind is not model.Kind.AMI:
            preflight.is_out_of_reach(
                catalog, record, step.kind, plan.settings
            )
        found[step.kind] = record
    return found


def _send_one(
    settings: request.Settings,
    step: request.Creation,
    record: model.ImageRecord,
    proxy: '_proxy.Proxy',
    progress: Progress,
    cancel: threading.Event | None = None,
) -> model.Sent:
    payload = step.payload
    if settings.signer is not None:
        # Glance wants the signature before the data: so this is read once
        # more, unless its hash is known. It is computed only once.
        payload = dataclasses.replace(
            payload,
            sha512=image_data.digest(
                payload, f'Signing {step.kind.noun}', progress, cancel=cancel
            ),
        )
    transfer = upload.Transfer(
        proxy=proxy,
        image_id=record.id,
        payload=payload,
        description=f'Sending {step.kind.noun}',
        progress=progress,
        cancel=cancel,
        patience=settings.patience,
    )
    if settings.signer is not None:
        properties = settings.signer.properties(payload.sha512 or '')
        transfer.catalog().update(record.id, properties)
    return imports.send(
        transfer,
        noun=step.kind.noun,
        imported=settings.imported,
        stores=settings.stores,
        all_must_succeed=not settings.allow_store_failure,
        allow_conversion=settings.allow_conversion,
    )


def spread(
    kind: model.Kind,
    record: model.ImageRecord,
    settings: request.Settings,
    made: transaction.Transaction,
    progress: Progress,
) -> None:
    """Have an image copied to the stores that it is not in, if any.

    :param settings: they name the stores.
    :param made: takes the copies off again if something fails.
    """
    if stores.lacking(record, settings.stores):
        copies = steps.Copies(
            kind,
            record,
            settings.stores,
            all_must=not settings.allow_store_failure,
            progress=progress,
        )
        made.carry_out(copies)


def _send(
    plan: request.RegisterPlan,
    records: Mapping[model.Kind, model.ImageRecord],
    proxy: '_proxy.Proxy',
    made: transaction.Transaction,
    progress: Progress,
) -> dict[model.Kind, model.Sent]:
    """Send all data: kernel and ramdisk beside the shrinking, then the AMI."""
    if isinstance(plan.ami, request.Reuse):
        # Then its kernel and ramdisk are there, too.
        return {}
    ami, settings = plan.ami, plan.settings
    cancel = threading.Event()

    def send(
        step: request.Creation, cancel: threading.Event | None = None
    ) -> model.Sent:
        nonlocal settings
        record = records[step.kind]
        sent = _send_one(settings, step, record, proxy, progress, cancel)
        if sent.imported:
            # Nothing is gained by trying the other way again.
            settings = dataclasses.replace(settings, imported='always')
        return sent

    def send_parts(cancel: threading.Event) -> dict[model.Kind, model.Sent]:
        return {
            step.kind: send(step, cancel)
            for step in plan.creations
            if step is not ami
        }

    with contextlib.ExitStack() as stack:
        parts = stack.enter_context(jobs.beside(send_parts, cancel))
        payload = ami.payload
        if plan.shrink is not None or payload.pack is not None:
            try:
                payload = root_copy.make(
                    plan.shrink,
                    payload,
                    stack,
                    progress=progress,
                    cancel=cancel,
                )
            except errors.CancelledError:
                # Then it was one of the parts that failed, and says why.
                parts.result()
                raise
        sent = parts.result()
        for step in plan.creations:
            if step is ami:
                step = dataclasses.replace(ami, payload=payload)
                sent[ami.kind] = send(step)
            if not sent[step.kind].imported:
                spread(
                    step.kind,
                    sent[step.kind].record,
                    plan.settings,
                    made,
                    progress,
                )
    return sent
