# SPDX-License-Identifier: Apache-2.0

"""What other programs use: an upload, as a plan that can be looked at."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import os
import pathlib
import typing

from amiclient.errors import AmiError as AmiError
from amiclient.errors import UsageError
from amiclient.glance import client
from amiclient.glance import model
from amiclient.glance.upload import plan as upload
from amiclient.glance.upload import register
from amiclient.glance.upload import request
from amiclient.progress import Progress
from amiclient.progress import QUIET
from amiclient.rootfs import boot_extract
from amiclient.source import resolve

if typing.TYPE_CHECKING:
    from openstack import connection
    from openstack.image.v2 import _proxy


@contextlib.contextmanager
def opened(
    path: str | os.PathLike[str], *, progress: Progress = QUIET
) -> Iterator[resolve.Source]:
    """Take a source, and the newest kernel in it with its ramdisk.

    What was made for it goes away at the end of the block.

    :param path: whatever ``openstack ami upload`` takes.
    :raises AmiError: if it is no source.
    """
    place = pathlib.Path(path)
    wanted = boot_extract.BootSelection(required=False)
    with (
        resolve.opened(place, progress=progress) as source,
        boot_extract.completed(source, wanted, name=place) as complete,
    ):
        yield complete


def plan(
    source: resolve.Source,
    cloud: 'connection.Connection',
    *,
    name: str | None = None,
    kernel: str | None = None,
    ramdisk: str | None = None,
    tags: Sequence[str] = (),
    properties: Mapping[str, str] | None = None,
    visibility: str | None = None,
    progress: Progress = QUIET,
) -> request.RegisterPlan:
    """Check all that can be checked, and say what an upload would do.

    :param source: one that is open.
    :param name: of the AMI; None for the name of the source.
    :param kernel: a file, or an image's id or name; None for the source's.
    :param ramdisk: the same.
    :param visibility: of new images; None leaves it to the cloud.
    :returns: the images that are created or reused, as its ``steps``, and
        what the user should know, as its ``warnings``.
    :raises AmiError: if the upload would fail.
    """
    if kernel is None and source.kernel is not None:
        kernel = os.fspath(source.kernel)
    if ramdisk is None and source.ramdisk is not None:
        ramdisk = os.fspath(source.ramdisk)
    if kernel is None and not source.complete:
        raise UsageError('no kernel was named', hint='name one')
    asked = request.UploadRequest(
        source=source.root,
        kernel=kernel,
        ramdisk=ramdisk,
        image_format=source.image_format,
        shrink=not source.finished,
        traits=request.Traits(
            name=name, tags=tuple(tags), properties=properties or {}
        ),
        settings=request.Settings(visibility=visibility),
    )
    return upload.plan(
        request.adopt(asked, source),
        client.Catalog(_images(cloud)),
        progress=progress,
    )


def execute(
    plan: request.RegisterPlan,
    cloud: 'connection.Connection',
    *,
    progress: Progress = QUIET,
) -> model.Triple:
    """Do what a plan says, as long as its source is open.

    :returns: the three images, as the cloud then describes them.
    :raises AmiError: if it fails; then nothing is left in the cloud.
    """
    return register.execute(plan, _images(cloud), progress=progress)


def _images(cloud: 'connection.Connection') -> '_proxy.Proxy':
    return typing.cast('_proxy.Proxy', cloud.image)
