# SPDX-License-Identifier: Apache-2.0

"""A triple as files: fetched, verified, and with a manifest."""

import dataclasses
import pathlib
from typing import TYPE_CHECKING

from amiclient import errors
from amiclient import files
from amiclient.glance import client
from amiclient.glance import links
from amiclient.glance import model
from amiclient.glance import retry
from amiclient.glance.transfer import archive
from amiclient.glance.transfer import collecting
from amiclient.glance.transfer import content
from amiclient.progress import Progress
from amiclient import text

if TYPE_CHECKING:
    from openstack.image.v2 import _proxy


@dataclasses.dataclass(frozen=True, kw_only=True)
class SaveRequest:
    """A triple that is to be saved.

    :param ami: an image's id or name.
    :param directory: where to; for ``directory`` None stands for one that is
        named after the AMI, for ``uec`` for the current one.
    :param format: ``directory``, or ``uec`` for one archive.
    """

    ami: str
    directory: pathlib.Path | None = None
    format: str = 'directory'
    patience: retry.Patience | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Saved:
    """A triple that is in files now.

    :param image: the root filesystem, or the archive that all is in, as
        ``kernel``, ``ramdisk`` and ``manifest`` are then.
    :param downloaded: bytes that came over the network.
    """

    directory: pathlib.Path
    image: pathlib.Path
    kernel: pathlib.Path | None
    ramdisk: pathlib.Path | None
    manifest: pathlib.Path
    downloaded: int


def save(
    request: SaveRequest,
    proxy: '_proxy.Proxy',
    *,
    progress: Progress,
) -> Saved:
    """Save a triple.

    :param progress: who watches the fetching.
    :raises NotFoundError: if there is no such image.
    :raises CloudError: if it is no AMI, or not all of it can be had.
    :raises AmiError: if there is something else where it is to go.
    :raises NoSpaceError: if there is no room for it.
    """
    catalog = client.Catalog(proxy, patience=request.patience)
    records = _records(links.show(catalog, request.ami))
    collector = collecting.Collector(
        proxy, records, request.patience, progress
    )
    if request.format == 'uec':
        folder = request.directory or pathlib.Path()
        return _as_archive(collector, folder, progress)
    return _as_files(
        collector, request.directory or pathlib.Path(collector.stem)
    )


def _as_files(collector: collecting.Collector, folder: pathlib.Path) -> Saved:
    # If this fails, what has come stays, for the next run to go on with.
    with files.folder_for(folder), collector.telling(folder, folder):
        collected = collector.collect(folder)
    return Saved(
        directory=folder,
        image=collected.paths['image'],
        kernel=collected.paths.get('kernel'),
        ramdisk=collected.paths.get('ramdisk'),
        manifest=collected.manifest,
        downloaded=collected.downloaded,
    )


def _as_archive(
    collector: collecting.Collector,
    folder: pathlib.Path,
    progress: Progress,
) -> Saved:
    made = archive.Archive(collector, folder, progress)
    downloaded = made.make()
    return Saved(
        directory=folder,
        image=made.path,
        kernel=made.path if 'kernel' in collector.records else None,
        ramdisk=made.path if 'ramdisk' in collector.records else None,
        manifest=made.path,
        downloaded=downloaded,
    )


def _records(ami: links.Ami) -> dict[str, model.ImageRecord]:
    """Collect what there is to save, if all of it can be.

    :raises CloudError: if it cannot.
    """
    records = {'image': ami.image}
    for noun, link, found in (
        ('kernel', ami.image.kernel_id, ami.kernel),
        ('ramdisk', ami.image.ramdisk_id, ami.ramdisk),
    ):
        if link is None:
            continue
        if found is None:
            raise errors.NotFoundError(
                f'the {noun} {text.safe(str(link))} of image {ami.image.id} '
                'is missing: it was deleted, or this project cannot see it',
                hint=f'see `openstack ami verify {ami.image.id}`',
            )
        records[noun] = found
    for record in records.values():
        content.check(record)
    return records
