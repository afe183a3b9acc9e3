#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.


"""A triple, registered as one transaction.

The three images are created first, queued and linked, for that is where a
cloud says no. Kernel and ramdisk then travel while the filesystem is being
shrunk; the AMI's own data comes last, so that an AMI that is active has all
that it needs. Whatever goes wrong, what was created is removed.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
import contextlib
import dataclasses
import pathlib
import threading
import types
import typing

from amiclient import exceptions
from amiclient.ext import shrink
from amiclient.glance import catalog as catalog_
from amiclient.glance import model
from amiclient.glance import request as request_
from amiclient.glance import transaction
from amiclient.glance import transfer
from amiclient import progress as progress_
from amiclient import units

if typing.TYPE_CHECKING:
    from openstack.image.v2 import _proxy

#: Seconds that a transfer which was given up has to notice. One that hangs
#: in the network is left to itself: the image is removed all the same.
_PATIENCE = 10.0


def execute(
    plan: request_.RegisterPlan,
    proxy: '_proxy.Proxy',
    *,
    progress: progress_.Progress,
) -> model.Triple:
    """Register a triple.

    :param proxy: the way to Glance.
    :param progress: who watches the shrinking and the sending.
    :returns: the three images as Glance then describes them.
    :raises AmiError: whatever went wrong; then nothing was left behind, or
        it was logged what was.
    """
    keep = plan.settings.keep_failed
    catalog = catalog_.Catalog(proxy, patience=plan.settings.patience)
    with transaction.Transaction(catalog, keep=keep) as made:
        records = _create(plan, made)
        sent = _send(plan, records, _Sender(proxy, plan.settings, progress))
        records.update({kind: each.record for kind, each in sent.items()})
        _raise_min_disk(records, catalog)
        if plan.settings.protected:
            for step in _creations(plan):
                records[step.kind] = made.protect(records[step.kind].id)
        made.commit()
    return model.Triple(
        ami=records[model.Kind.AMI],
        kernel=records.get(model.Kind.AKI),
        ramdisk=records.get(model.Kind.ARI),
        uploaded=sum(each.uploaded for each in sent.values()),
        reused=tuple(
            step.record.id
            for step in plan.steps
            if isinstance(step, request_.Reuse)
        ),
    )


def execute_part(
    plan: request_.PartPlan,
    proxy: '_proxy.Proxy',
    *,
    progress: progress_.Progress,
) -> request_.Registered:
    """Register a kernel or a ramdisk.

    :raises AmiError: as :func:`execute` does.
    """
    keep = plan.settings.keep_failed
    catalog = catalog_.Catalog(proxy, patience=plan.settings.patience)
    with transaction.Transaction(catalog, keep=keep) as made:
        registered = add_part(plan, made, proxy, progress=progress)
        made.commit()
    return registered


def add_part(
    plan: request_.PartPlan,
    made: transaction.Transaction,
    proxy: '_proxy.Proxy',
    *,
    progress: progress_.Progress,
) -> request_.Registered:
    """Register a kernel or a ramdisk as a part of something larger.

    :param made: removes it again, unless whoever has opened that commits.
    :raises AmiError: whatever went wrong.
    """
    step = plan.step
    if isinstance(step, request_.Reuse):
        return request_.Registered(step.record, reused=(step.record.id,))
    record = made.create(step.new)
    sent = _Sender(proxy, plan.settings, progress).send(
        record, step.kind, step.payload
    )
    record = sent.record
    if plan.settings.protected:
        record = made.protect(record.id)
    return request_.Registered(record, uploaded=sent.uploaded)


def _creations(plan: request_.RegisterPlan) -> Iterator[request_.Creation]:
    for step in plan.steps:
        if isinstance(step, request_.Creation):
            yield step


def _create(
    plan: request_.RegisterPlan, made: transaction.Transaction
) -> dict[model.Kind, model.ImageRecord]:
    """Create what is to be created, the AMI with its links from the start."""
    records: dict[model.Kind, model.ImageRecord] = {}
    links: dict[str, str] = {}
    for step in plan.steps:
        if isinstance(step, request_.Reuse):
            record = step.record
        else:
            properties = {**step.new.properties, **links}
            record = made.create(
                dataclasses.replace(step.new, properties=properties)
                if step.kind is model.Kind.AMI
                else step.new
            )
        records[step.kind] = record
        links[f'{step.kind.noun}_id'] = record.id
    return records


def _raise_min_disk(
    records: dict[model.Kind, model.ImageRecord], catalog: catalog_.Catalog
) -> None:
    """Keep the AMI from a disk that is too small, if it grew beyond a GiB."""
    ami = records[model.Kind.AMI]
    needed = units.gib(ami.size or 0)
    if ami.min_disk < needed:
        records[model.Kind.AMI] = catalog.update(ami.id, {'min_disk': needed})


class _Sender:
    """Sends the data of images."""

    def __init__(
        self,
        proxy: '_proxy.Proxy',
        settings: request_.Settings,
        progress: progress_.Progress,
    ) -> None:
        self._proxy = proxy
        self._store = settings.store
        self._patience = settings.patience
        self.progress = progress

    def send(
        self,
        record: model.ImageRecord,
        kind: model.Kind,
        payload: model.Payload,
        cancel: threading.Event | None = None,
    ) -> model.Sent:
        return transfer.send(
            self._proxy,
            record.id,
            payload,
            store=self._store,
            description=f'Sending {kind.noun}',
            progress=self.progress,
            cancel=cancel,
            patience=self._patience,
        )


def _send(
    plan: request_.RegisterPlan,
    records: Mapping[model.Kind, model.ImageRecord],
    sender: _Sender,
) -> dict[model.Kind, model.Sent]:
    """Send all data: kernel and ramdisk beside the shrinking, then the AMI."""
    cancel = threading.Event()

    def send_parts() -> dict[model.Kind, model.Sent]:
        return {
            step.kind: sender.send(
                records[step.kind], step.kind, step.payload, cancel
            )
            for step in _creations(plan)
            if step.kind is not model.Kind.AMI
        }

    with contextlib.ExitStack() as stack:
        courier = stack.enter_context(_Courier(send_parts, cancel))
        try:
            payload = _payload(plan, stack, sender.progress, cancel)
        except exceptions.CancelledError:
            # Then it was the courier that failed, and says why.
            courier.result()
            raise
        sent = courier.result()
        sent[model.Kind.AMI] = sender.send(
            records[model.Kind.AMI], model.Kind.AMI, payload
        )
    return sent


def _payload(
    plan: request_.RegisterPlan,
    stack: contextlib.ExitStack,
    progress: progress_.Progress,
    cancel: threading.Event,
) -> model.Payload:
    """Shrink the filesystem, if that is planned.

    :param stack: removes the copy when it is closed.
    """
    if plan.shrink is None:
        return plan.ami.payload
    stack.callback(_unlink, plan.shrink.output)
    shrunk = shrink.execute(plan.shrink, progress=progress, cancel=cancel)
    return dataclasses.replace(
        plan.ami.payload, path=shrunk.output, size=shrunk.size
    )


def _unlink(path: pathlib.Path) -> None:
    path.unlink(missing_ok=True)


_Result = dict[model.Kind, model.Sent]


class _Courier:
    """Does some work in a thread, for as long as the block lasts.

    :param work: what to do.
    :param cancel: is set when either side fails, and ends the other.
    """

    def __init__(
        self, work: Callable[[], _Result], cancel: threading.Event
    ) -> None:
        self._work = work
        self._cancel = cancel
        self._done: futures.Future[_Result] = futures.Future()
        # A daemon, so that a request that hangs does not keep the program
        # from ending.
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self._done.set_result(self._work())
        except BaseException as error:  # noqa: BLE001 (result() raises it)
            self._cancel.set()
            self._done.set_exception(error)

    def result(self) -> _Result:
        """Wait for the work to be done; raise what it raised."""
        return self._done.result()

    def __enter__(self) -> typing.Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self._cancel.set()
        self._thread.join(_PATIENCE)
