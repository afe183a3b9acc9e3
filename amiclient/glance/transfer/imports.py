# SPDX-License-Identifier: Apache-2.0

"""Imports: data that Glance takes to its stores by itself.

Some clouds let nobody write to their stores: there, data is staged, and then
imported from the stage (docs.openstack.org/glance: interoperable image
import). The import is a task of Glance's. It goes on after the request for it
was answered, and after whoever asked for it has ended. It is through when the
image has lost the property that names the task: the image may be ``active``
before, or stay ``importing`` for ever if a store failed.

What is deleted while a store is being written stays in that store, where
nobody can find it any more. So whoever deletes waits first.
"""

import logging

from amiclient import errors
from amiclient.glance import answers
from amiclient.glance import client
from amiclient.glance import model
from amiclient.glance import signatures
from amiclient.glance import stores as glance_stores
from amiclient.glance.transfer import upload
from amiclient.progress import Progress

LOG = logging.getLogger(__name__)

#: Glance's name of the method that takes what was staged.
DIRECT = 'glance-direct'

#: Stores that could not be written, as text with commas.
_FAILED = 'os_glance_failed_import'

_SILENT = 'Glance does not tell why: the operator finds it in the log'

#: What it says instead.
_NOTHING = 'Internal Error'

_ACCEPT = '--allow-conversion accepts what became of it'


def send(
    transfer: upload.Transfer,
    *,
    noun: str,
    imported: str = 'auto',
    stores: tuple[str, ...] = (),
    all_must_succeed: bool = True,
    allow_conversion: bool = False,
) -> model.Sent:
    """Send the data of an image that is queued, in a way that is open.

    :param noun: what to call the image.
    :param imported: ``never`` to write it to a store, which is the shortest
        way; ``always`` to stage and import it; ``auto`` to do that if the
        cloud forbids the former.
    :param stores: those that it is imported to. It is written to one of them.
    :param all_must_succeed: whether one that fails is one too many.
    :param allow_conversion: whether the cloud may make other data of it.
    :returns: also, whether it was imported.
    :raises AmiError: as :func:`amiclient.glance.transfer.upload.send` does,
        and :func:`run`.
    """
    refusal: errors.CloudError | None = None
    if imported != 'always':
        try:
            return _write(transfer, stores, all_must_succeed)
        except errors.CloudError as error:
            if error.status != 403 or imported == 'never':
                raise
            refusal = error
            LOG.info('%s; it is imported instead', error.sentence)
    try:
        staged, outcome = transfer.put(upload.Destination.STAGE)
    except errors.CloudError as error:
        if refusal is None or error.status not in {403, 404}:
            raise
        raise errors.CloudError(
            f'{refusal.message}; {error.message}',
            hint='your role lets you neither send nor import data: ask an '
            'administrator',
            status=error.status,
        ) from error
    if problem := transfer.objection(staged, outcome.sha512 or ''):
        raise problem
    record = run(
        transfer.catalog(),
        transfer.image_id,
        DIRECT,
        stores,
        noun=noun,
        progress=transfer.progress,
        all_must_succeed=all_must_succeed,
    )
    sha512 = outcome.sha512 or transfer.digest()
    if problem := _difference(transfer, staged, record, sha512, noun):
        if not (allow_conversion and problem.hint == _ACCEPT):
            raise problem
        LOG.warning('%s', problem.message)
    return model.Sent(record, outcome.count, sha512, imported=True)


def _write(
    transfer: upload.Transfer, stores: tuple[str, ...], all_must_succeed: bool
) -> model.Sent:
    """Write data to the first of some stores, or of those that can do it."""
    store, *others = stores or (None,)
    while True:
        try:
            return upload.send(transfer, store)
        except errors.CloudError as error:
            if not others or all_must_succeed or error.status == 403:
                raise
            LOG.warning('the store %r failed: %s', store, error)
            store, *others = others


def _difference(
    transfer: upload.Transfer,
    staged: model.ImageRecord,
    record: model.ImageRecord,
    sha512: str,
    noun: str,
) -> errors.TransferError | None:
    """Compare what is stored with what was sent; plugins may change it."""
    problem = transfer.objection(record, sha512)
    before = staged.size, staged.disk_format
    if problem is None or (record.size, record.disk_format) == before:
        return problem
    return errors.TransferError(
        "the cloud's import plugin unpacked or converted the "
        f'{noun} {record.id}: it holds {record.size} bytes '
        f'({record.disk_format}), and {staged.size} ({staged.disk_format}) '
        'were sent',
        hint=_ACCEPT,
    )


def run(
    catalog: client.Catalog,
    image_id: str,
    method: str,
    stores: tuple[str, ...] = (),
    *,
    noun: str,
    progress: Progress,
    all_must_succeed: bool = True,
    **details: str,
) -> model.ImageRecord:
    """Have data imported, and wait until that is through.

    :param method: by Glance's name: ``glance-direct``, ``glance-download``.
    :param stores: where to; none for the cloud's default.
    :param noun: what to call the image.
    :param details: what else the method needs.
    :returns: the image, which is active.
    :raises CloudError: if Glance refuses.
    :raises TransferError: if it fails, or if there is no progress.
    """
    with progress.task(f'Importing {noun}'):
        catalog.import_data(
            image_id,
            method,
            stores,
            all_must_succeed=all_must_succeed,
            **details,
        )
        record = glance_stores.through(catalog, image_id)
    text = record.properties.get(_FAILED) or ''
    failed = tuple(filter(None, text.split(',')))
    if record.status != 'active' or (failed and all_must_succeed):
        raise _failure(catalog, record, failed)
    if failed:
        LOG.warning(
            'the %s %s could not be written to the %s: %s',
            noun,
            image_id,
            glance_stores.named(failed),
            _SILENT,
        )
    return record


def _failure(
    catalog: client.Catalog,
    record: model.ImageRecord,
    failed: tuple[str, ...],
) -> errors.TransferError:
    where = f' to the {glance_stores.named(failed)}' if failed else ''
    hint = _SILENT
    if record.status == 'queued' and not failed:
        hint = (
            f'{_SILENT}. An import plugin may refuse the format '
            f'{record.disk_format}'
        )
    if signatures.is_signed(record):
        hint = (
            f'{hint}. The image is signed: Glance may not get the '
            'certificate, or a plugin may change the data'
        )
    why, asked = _told(catalog, record.id)
    because = f': {why}' if why else ''
    return errors.TransferError(
        f'importing image {record.id}{where} failed{because}{asked}; it is '
        f'{record.status} now',
        hint=hint,
    )


def _told(catalog: client.Catalog, image_id: str) -> tuple[str, str]:
    """Ask what Glance says of the last import of an image, if anything.

    :returns: it, and what names the request for the import.
    """
    doing = f'asking what became of image {image_id}'
    try:
        answer = catalog.once('GET', f'/images/{image_id}/tasks', doing)
        tasks = answers.read(answer, 'a list of tasks', doing)
        found = tasks.objects('tasks', 'a task')
        told = [task.text('message') for task in found]
        ids = [task.text('request_id') for task in found]
    except errors.CloudError as error:
        LOG.debug('%s', error)
        return '', ''
    # A quota is told, as it is; of all else, only that there is something.
    why = next((m for m in told if m and _NOTHING not in m), '')
    return why, next((f' (Request-ID: {id})' for id in ids if id), '')
