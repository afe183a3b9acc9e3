# SPDX-License-Identifier: Apache-2.0

"""The data of an image, on its way here.

The loop is our own: openstacksdk's download stores what it gets, which may be
nothing (of an image that is queued) or the text of an error, and in place.
Here a file has its name only once its hash is that which Glance gives for the
image. :mod:`amiclient.glance.transfer.receive` copes with breaks.
"""

import contextlib
import dataclasses
import http
import os
import pathlib
import threading
from typing import TYPE_CHECKING

import requests

from amiclient import errors
from amiclient.glance import http_errors
from amiclient.glance import model
from amiclient.glance import retry
from amiclient.glance import sessions
from amiclient.glance.transfer import image_data
from amiclient.glance.transfer import receive
from amiclient.progress import Progress
from amiclient import scratch
from amiclient import staging

if TYPE_CHECKING:
    from openstack.image.v2 import _proxy


def check(record: model.ImageRecord) -> int:
    """Make sure that an image has data to fetch.

    :returns: how many bytes.
    :raises CloudError: if it is not active. Glance would answer, with
        nothing, if it is queued.
    """
    if record.status != 'active':
        raise errors.CloudError(
            f'image {record.id} is {record.status}, not active: '
            'it cannot be downloaded'
        )
    if record.size is None:
        raise errors.CloudError(
            f'image {record.id}: Glance does not have its size'
        )
    return record.size


def ask(
    proxy: '_proxy.Proxy', id: str, patience: retry.Patience, part: str | None
) -> requests.Response:
    """Ask once for the data of an image.

    :param part: which part of it, as ``Range`` has it; None for all.
    """
    headers = {
        'Accept': 'application/json, */*',
        # A hole would come faster, but its hash is not Glance's.
        'Accept-Encoding': 'identity',
    }
    if part:
        headers['Range'] = part
    # It may log in again meanwhile.
    with sessions.within(patience.stall + patience.reply):
        return proxy.get(
            f'/images/{id}/file',
            headers=headers,
            stream=True,
            timeout=(patience.stall, patience.stall),
            raise_exc=False,
            connect_retries=0,
            status_code_retries=0,
            skip_cache=True,
            hooks=sessions.HOOKS,
        )


_TELL = 'try again; if it fails again, tell the operator'
_CLOUD = receive.Sender(
    name='the cloud',
    wrong=_TELL,
    odd=_TELL,
    network='check the network between this machine and the cloud',
    short='the data ends there every time, so the store probably does not '
    'have the rest: ask the operator to check it, then try again',
    whole=2,
)


class ImageSupply:
    """An image in Glance."""

    sender = _CLOUD

    def __init__(
        self,
        proxy: '_proxy.Proxy',
        record: model.ImageRecord,
        patience: retry.Patience,
    ) -> None:
        self.name = f'image {record.id}'
        self.doing = f'fetching the data of {self.name}'
        self.size: int | None = record.size or 0
        self.digest = image_data.expected(record)
        self._proxy = proxy
        self._id = record.id
        self._patience = patience

    def ask(self, part: str | None) -> requests.Response:
        return ask(self._proxy, self._id, self._patience, part)

    def refusal(self, response: requests.Response) -> errors.CloudError:
        failure = http_errors.from_response(response, self.doing)
        if response.status_code == http.HTTPStatus.GONE:
            return errors.NotFoundError(failure.message, status=failure.status)
        return failure

    def understood(self) -> contextlib.AbstractContextManager[None]:
        return http_errors.understood(self.doing)


@dataclasses.dataclass(frozen=True)
class Fetched:
    """A file that holds an image's data, verified.

    :param size: bytes of it.
    :param downloaded: bytes that came over the network for it, all attempts
        together; 0 if the file was there already.
    :param digest: what was compared; None if the cloud gives no hash, and
        so the size is all there is.
    """

    path: pathlib.Path
    size: int
    downloaded: int
    digest: image_data.Digest | None


def part(record: model.ImageRecord, target: pathlib.Path) -> pathlib.Path:
    """Tell where the data of an image is while it is fetched into a file."""
    return staging.path_of(target, _tag(record))


def _tag(record: model.ImageRecord) -> str:
    digest = image_data.expected(record)
    return f'{record.id}-{digest.value[:16] if digest else record.size}'


def fetch(
    proxy: '_proxy.Proxy',
    record: model.ImageRecord,
    target: pathlib.Path,
    *,
    description: str,
    progress: Progress,
    replace: bool = False,
    cancel: threading.Event | None = None,
    patience: retry.Patience | None = None,
) -> Fetched:
    """Fetch the data of an image into a file, and verify it.

    A file that is there and holds the same is left as it is. What was fetched
    before a failure stays beside the target, as ``.NAME....part``, for the
    next run to go on with; but not if the disk is full or the image gone.

    :param target: the file; its directory must exist.
    :param description: what to call it, such as ``Fetching kernel``.
    :param replace: whether a file that holds something else may go.
    :param cancel: when set, the work is given up.
    :raises AmiError: if the target is there and holds something else, or
        cannot be written.
    :raises NoSpaceError: if there is no room for it.
    :raises TransferError: if what came is not what Glance says it has.
    :raises NotFoundError: if the image is gone.
    :raises CloudError: if it is not active, or the cloud refuses.
    :raises CancelledError: if ``cancel`` was set meanwhile.
    """
    size = check(record)
    digest = image_data.expected(record)
    clock = retry.Clock(cancel=cancel)
    with progress.task(description, size) as task:
        if os.path.lexists(target):
            if image_data.holds(target, record, task=task, clock=clock):
                return Fetched(target, size, 0, digest)
            if not replace:
                raise errors.AmiError(
                    f'{target} exists already, and is not the data of image '
                    f'{record.id}',
                    hint='remove it, or choose another directory',
                )
            task.restart()
        sessions.bound(proxy.session)
        patience = patience or retry.Patience()
        with staging.Partial(target, _tag(record)) as file:
            supply = ImageSupply(proxy, record, patience)
            download = receive.Download(supply, file, task, clock, patience)
            try:
                downloaded = _run(download, file, size)
            except (errors.NotFoundError, errors.NoSpaceError):
                # Nothing to go on with, or room that is needed elsewhere.
                file.discard()
                raise
    return Fetched(target, size, downloaded, digest)


def _run(download: receive.Download, part: staging.Partial, size: int) -> int:
    """Try until the file is there; tell how many bytes came."""
    download.take_over(part)
    scratch.check_room(
        part.target.parent,
        size - part.offset,
        part.target.name,
        hint=f'make room, or {staging.ANOTHER}',
    )
    for _ in download.pieces():
        pass
    part.finish()
    return download.downloaded
