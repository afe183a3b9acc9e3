# SPDX-License-Identifier: Apache-2.0

"""The data of an image, on its way to the cloud.

The upload is a loop of our own over openstacksdk's session. keystoneauth
repeats a request after a 401 or a 503 without rewinding its body, which
stores nothing and looks like a success; so here every attempt has a body of
its own, and what Glance stored is compared with what was sent.

In one attempt two threads share the work: one reads and sends, the other,
which called, hashes, reports progress and watches for a reason to stop. A
call that hangs in the network therefore never keeps a Ctrl-C waiting.
"""

import contextlib
import dataclasses
import hashlib
import threading
import time
from typing import TYPE_CHECKING

from keystoneauth1 import exceptions as keystone_exceptions
import requests

from amiclient.errors import CancelledError
from amiclient.errors import CloudError
from amiclient.errors import NotFoundError
from amiclient.errors import TransferError
from amiclient.glance import client
from amiclient.glance import http_errors
from amiclient.glance import model
from amiclient.glance import retry
from amiclient.glance import sessions
from amiclient.glance.transfer import body as body_
from amiclient.glance.transfer import payload as payload_
from amiclient.progress import Progress
from amiclient.progress import Task

if TYPE_CHECKING:
    from openstack.image.v2 import _proxy

#: The states of an image that is about to leave them.
_PASSING = frozenset({'saving', 'uploading', 'importing'})


def send(
    proxy: '_proxy.Proxy',
    image_id: str,
    payload: model.Payload,
    *,
    description: str,
    progress: Progress,
    store: str | None = None,
    cancel: threading.Event | None = None,
    patience: retry.Patience | None = None,
) -> model.Sent:
    """Send the data of an image that is queued, and verify it.

    The image stays as it is if this fails; to delete it is up to the caller.

    :param proxy: openstacksdk's, for version 2 of the image service.
    :param store: the id of a store; the cloud's default if None.
    :param description: what to call it, such as ``Sending kernel``.
    :param cancel: when set, the work is given up.
    :param patience: how often to try, and how long to wait for what.
    :raises SourceError: if the file cannot be opened, or is too short.
    :raises TransferError: if the data did not arrive as it was sent.
    :raises NotFoundError: if the image is gone.
    :raises CloudError: if the cloud refuses.
    :raises CancelledError: if ``cancel`` was set meanwhile.
    """
    with progress.task(description, payload.size) as task:
        upload = _Upload(
            proxy,
            image_id,
            payload,
            store=store,
            task=task,
            cancel=cancel,
            patience=patience or retry.Patience(),
        )
        record, sent = upload.run()
    sha512 = sent.sha512 or digest(
        payload,
        progress=progress,
        description=f'{description}: verifying',
        cancel=cancel,
    )
    _verify(
        record,
        payload,
        sha512,
        progress=progress,
        description=f'{description}: verifying',
        cancel=cancel,
    )
    return model.Sent(record=record, uploaded=sent.count, sha512=sha512)


def digest(
    payload: model.Payload,
    *,
    progress: Progress,
    description: str,
    cancel: threading.Event | None = None,
    algorithm: str = 'sha512',
) -> str:
    """Compute the hash of what would be sent.

    :param algorithm: a name that hashlib knows.
    :returns: the hex digest.
    :raises SourceError: if the file cannot be opened, or is too short.
    :raises TransferError: if it cannot be read to the end.
    :raises CancelledError: if ``cancel`` was set meanwhile.
    """
    hasher = hashlib.new(algorithm, usedforsecurity=False)
    with (
        progress.task(description, payload.size) as task,
        contextlib.closing(payload_.chunks(payload, mapped=True)) as chunks,
    ):
        for chunk in chunks:
            _check(cancel)
            hasher.update(chunk)
            task.advance(len(chunk))
    return hasher.hexdigest()


class _Upload:
    """One payload on its way to one image."""

    def __init__(
        self,
        proxy: '_proxy.Proxy',
        image_id: str,
        payload: model.Payload,
        *,
        store: str | None,
        task: Task,
        cancel: threading.Event | None,
        patience: retry.Patience,
    ) -> None:
        sessions.bound(proxy.session)
        self._proxy = proxy
        self._clock = retry.Clock(cancel=cancel)
        # The loop in _settled() is patient enough.
        self._catalog = client.Catalog(
            proxy,
            patience=dataclasses.replace(patience, attempts=1),
            clock=self._clock,
        )
        self._id = image_id
        self._doing = f'sending the data of image {image_id}'
        self._payload = payload
        self._store = store
        self._task = task
        self._cancel = cancel
        self._patience = patience

    def run(self) -> tuple[model.ImageRecord, body_.Outcome]:
        """Try until the image is active.

        :returns: the image as it is then, and the attempt that made it so.
        """
        return retry.call(
            self._try, patience=self._patience, clock=self._clock
        )

    def _try(self, attempt: int) -> tuple[model.ImageRecord, body_.Outcome]:
        if attempt > 1:
            self._task.restart()
        outcome = self._attempt()
        answer = outcome.answer
        if not isinstance(answer, requests.Response):
            failure = self._lost(answer, outcome)
        elif answer.status_code in {200, 204}:
            failure = TransferError(
                f'the data of image {self._id} was taken, but not by Glance',
                hint='ask the operator what stands in front of it',
                again=0.0,
            )
        else:
            failure = self._refused(answer, again=attempt > 1)
        # An answer may be lost when the data is not, or made up by a proxy.
        record = self._settled(failure)
        if record.status == 'active':
            return record, outcome
        raise failure

    def _attempt(self) -> body_.Outcome:
        headers = {
            'Accept': 'application/json',
            'Content-Type': 'application/octet-stream',
            'X-OpenStack-Image-Size': str(self._payload.size),
        }
        if self._store is not None:
            headers['X-Image-Meta-Store'] = self._store

        def put(body: body_.Body) -> requests.Response:
            return self._proxy.put(
                f'/images/{self._id}/file',
                # requests takes a body of length 0 for one of unknown length.
                data=body if len(body) else b'',
                headers=headers,
                timeout=(self._patience.stall, self._patience.answer),
                raise_exc=False,
                # Each of these would send the body a second time.
                allow_reauth=False,
                connect_retries=0,
                redirect=False,
                hooks=sessions.HOOKS,
                status_code_retries=0,
            )

        with http_errors.understood(self._doing):
            return body_.deliver(
                self._payload,
                put,
                task=self._task,
                cancel=self._cancel,
                patience=self._patience.stall + self._patience.answer,
                mapped=self._plain(),
            )

    def _plain(self) -> bool:
        """Tell whether what is sent is not encrypted here."""
        return str(self._proxy.get_endpoint()).startswith('http:')

    def _lost(self, error: Exception, outcome: body_.Outcome) -> CloudError:
        """Say how a connection was lost, if another try may help; or raise."""
        failure = http_errors.from_exception(error, self._doing)
        if failure.again is None:
            raise failure
        size = self._payload.size
        failure.message += f' after {outcome.count} of {size} bytes'
        return failure

    def _refused(
        self, response: requests.Response, *, again: bool
    ) -> CloudError:
        """Say why the cloud refused, if another try may help; else raise."""
        failure = http_errors.from_response(response, self._doing)
        status = response.status_code
        if status == 401 and self._renew():
            failure.again = 0.0
        elif status == 409:
            # It is, or was, busy with an attempt before, of ours or of a
            # proxy's: nobody else knows the id of this image.
            failure.again = 0.0 if again else None
        elif failure.again is None:
            raise failure
        return failure

    def _renew(self) -> bool:
        """Have the next request fetch a new token, if there is a way to."""
        with contextlib.suppress(keystone_exceptions.MissingAuthPlugin):
            return self._proxy.invalidate()
        return False

    def _settled(self, failure: CloudError) -> model.ImageRecord:
        """Wait for the image to become queued or active.

        :param failure: of the attempt before, to tell it if that is not all.
        """
        begin = time.monotonic()
        pause = self._patience.poll
        while True:
            waited = time.monotonic() - begin
            try:
                record = self._catalog.get(self._id)
            except NotFoundError as error:
                raise NotFoundError(
                    f'{failure.message}; then image {self._id} was gone',
                    hint='Glance deletes it if the token expires meanwhile',
                ) from error
            except CloudError as error:
                # Whatever keeps the cloud from answering may pass as well.
                if waited > self._patience.away:
                    raise TransferError(
                        f'{failure.message}; then {error.message}',
                        hint=error.hint,
                    ) from error
            else:
                if record.status in {'active', 'queued'}:
                    return record
                if record.status not in _PASSING:
                    raise TransferError(
                        f'{failure.message}; then image {self._id} was '
                        f'{record.status}'
                    )
                if waited > self._patience.settle:
                    raise TransferError(
                        f'{failure.message}; then image {self._id} was still '
                        f'{record.status} after {self._patience.settle:g} s',
                        hint='--timeout waits longer',
                    )
            # Not past the end of what is waited for.
            left = self._patience.away - waited
            self._clock.sleep(min(pause, left) if left > 0 else pause)
            pause = min(pause * 2, self._patience.longest)


def _verify(
    record: model.ImageRecord,
    payload: model.Payload,
    sha512: str,
    *,
    progress: Progress,
    description: str,
    cancel: threading.Event | None,
) -> None:
    """Compare what Glance stored with what was sent.

    :raises TransferError: if it is not the same.
    """
    if record.size != payload.size:
        raise TransferError(
            f'image {record.id} holds {record.size} bytes, '
            f'{payload.size} were sent'
        )
    algorithm, stored = record.hash_algo or '', record.hash_value
    if not stored or not _can(algorithm):
        algorithm, stored = 'md5', record.checksum
    if not stored:
        # The operator turned both off: the size is all there is.
        return
    if algorithm == 'sha512':
        ours = sha512
    else:
        ours = digest(
            payload,
            progress=progress,
            description=description,
            cancel=cancel,
            algorithm=algorithm,
        )
    if ours != stored:
        raise TransferError(
            f'image {record.id} does not hold what was sent: its {algorithm} '
            f'is {stored[:16]}..., not {ours[:16]}...',
            hint='try again, and tell the operator if it stays so',
        )


def _can(algorithm: str) -> bool:
    """Tell whether digests can be computed, and have but one length."""
    return (
        algorithm in hashlib.algorithms_available
        and hashlib.new(algorithm, usedforsecurity=False).digest_size > 0
    )


def _check(cancel: threading.Event | None) -> None:
    if cancel is not None and cancel.is_set():
        raise CancelledError('the upload was given up')
