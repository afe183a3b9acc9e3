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


"""A triple as files: fetched, verified, and with a manifest.

The three are fetched side by side. What is there already is not fetched
again, and what a break left is gone on with, so that a second run finishes
what the first could not.
"""

from collections.abc import Mapping
import dataclasses
import os
import pathlib
from typing import TYPE_CHECKING

from amiclient import exceptions
from amiclient import files
from amiclient.glance import catalog as catalog_
from amiclient.glance.data import content
from amiclient.glance.data import download
from amiclient.glance.data import staging
from amiclient.glance import links
from amiclient.glance import model
from amiclient.glance import retry
from amiclient import progress as progress_
from amiclient.source import bundle
from amiclient.source import digest as digest_
from amiclient.source import manifest as manifest_
from amiclient.source import uec
from amiclient import temporary
from amiclient import text
from amiclient import together
from amiclient import units

if TYPE_CHECKING:
    from openstack.image.v2 import _proxy

#: What the name of each file ends in.
_SUFFIXES = {'image': '.img', 'kernel': '-vmlinuz', 'ramdisk': '-initrd'}

_RESUME = 'what was fetched stays there: run it again to go on'


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
    progress: progress_.Progress,
) -> Saved:
    """Save a triple.

    :param progress: who watches the fetching.
    :raises NotFoundError: if there is no such image.
    :raises CloudError: if it is no AMI, or not all of it can be had.
    :raises AmiError: if there is something else where it is to go.
    :raises NoSpaceError: if there is no room for it.
    """
    catalog = catalog_.Catalog(proxy, patience=request.patience)
    records = _records(links.show(catalog, request.ami))
    saver = _Saver(proxy, records, request.patience, progress)
    if request.format == 'uec':
        return saver.archive(request.directory or pathlib.Path())
    return saver.directory(request.directory or pathlib.Path(saver.stem))


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
            raise exceptions.NotFoundError(
                f'the {noun} {text.safe(str(link))} of image {ami.image.id} '
                'is missing: it was deleted, or this project cannot see it',
                hint=f'see `openstack ami verify {ami.image.id}`',
            )
        records[noun] = found
    for record in records.values():
        content.check(record)
    return records


class _Saver:
    """One triple, wherever it is going."""

    def __init__(
        self,
        proxy: '_proxy.Proxy',
        records: Mapping[str, model.ImageRecord],
        patience: retry.Patience | None,
        progress: progress_.Progress,
    ) -> None:
        self._proxy = proxy
        self._records = records
        self._patience = patience
        self._progress = progress
        self.stem = manifest_.stem(records['image'].name)
        self._names = {n: f'{self.stem}{_SUFFIXES[n]}' for n in records}

    def directory(
        self, folder: pathlib.Path, *, shown: pathlib.Path | None = None
    ) -> Saved:
        """Save it as files in a folder.

        :param shown: what to call its disk, if not by its name.
        """
        # If this fails, what has come stays, for the next run to go on with.
        with files.folder_for(folder):
            self._prepare(folder, shown or folder)
            fetched = self._fetch(folder)
        manifest = folder / manifest_.NAME
        _write(manifest, manifest_.dump(self._manifest(fetched)))
        paths = {noun: each.path for noun, each in fetched.items()}
        return Saved(
            directory=folder,
            image=paths['image'],
            kernel=paths.get('kernel'),
            ramdisk=paths.get('ramdisk'),
            manifest=manifest,
            downloaded=sum(each.downloaded for each in fetched.values()),
        )

    def archive(self, folder: pathlib.Path) -> Saved:
        """Save it as one archive in a folder.

        The files are collected in a hidden folder first, which is there
        again for the next run if this one does not come to its end.
        """
        target = folder / f'{self.stem}.tar.gz'
        downloaded = None
        if not os.path.lexists(target):
            downloaded = self._make_archive(folder, target)
        if downloaded is None:
            self._check_archive(target)
        return Saved(
            directory=folder,
            image=target,
            kernel=target if 'kernel' in self._records else None,
            ramdisk=target if 'ramdisk' in self._records else None,
            manifest=target,
            downloaded=downloaded or 0,
        )

    def _make_archive(
        self, folder: pathlib.Path, target: pathlib.Path
    ) -> int | None:
        """Fetch what is missing, and make the archive.

        :returns: bytes that came over the network; None if another run has
            made it meanwhile.
        """
        name = f'.{self.stem}.{self._records["image"].id}.part'
        with (
            files.folder_for(folder),
            staging.Folder(folder, name) as collected,
        ):
            if os.path.lexists(target):
                return None
            temporary.sweep(folder)
            saved = self.directory(collected.path, shown=folder)
            self._pack(saved, target)
            collected.clear()
        return saved.downloaded

    def _pack(self, saved: Saved, target: pathlib.Path) -> None:
        # Small things first, so that they are found without unpacking all.
        members = [saved.manifest, saved.kernel, saved.ramdisk, saved.image]
        with files.Output(target) as output:
            uec.pack(
                [member for member in members if member],
                output.path,
                progress=self._progress,
            )
            if os.path.lexists(target):
                # Of another image of that name, for ours is locked.
                self._check_archive(target)
            output.keep()

    def _check_archive(self, target: pathlib.Path) -> None:
        """See that an archive which is there holds this triple.

        :raises AmiError: if it does not.
        """
        found = bundle.verified(target, progress=self._progress)
        if not self._is_of(found):
            raise exceptions.AmiError(
                f'{target} is there already, and is something else',
                hint='remove it, or choose another --directory',
            )

    def _is_of(self, manifest: manifest_.Manifest | None) -> bool:
        """Tell whether a manifest is that of this triple."""
        if manifest is None:
            return False
        parts = manifest.parts
        return parts.keys() == self._records.keys() and all(
            part.id == self._records[noun].id
            and part.size == self._records[noun].size
            for noun, part in parts.items()
        )

    def _prepare(self, folder: pathlib.Path, shown: pathlib.Path) -> None:
        """See that the folder has nothing else in it, and has room.

        :raises AmiError: if it has.
        """
        temporary.sweep(folder)
        ours = {*self._names.values(), manifest_.NAME, staging.LOCK}
        with os.scandir(folder) as entries:
            found = {entry.name for entry in entries}
        parts = {
            name
            for name in found
            if name.endswith('.part')
            and any(name.startswith(f'.{our[:100]}') for our in ours)
        }
        other = sorted(found - ours - parts)
        if other:
            raise exceptions.AmiError(
                f'{folder} has something else in it: {text.safe(other[0])}',
                hint='choose an empty --directory, or a new one',
            )
        path = folder / manifest_.NAME
        if path.exists() and not self._is_of(manifest_.read(path)):
            raise exceptions.AmiError(
                f'{folder} is there already, and holds another triple',
                hint='choose another --directory',
            )
        self._check_room(folder, found, shown)

    def _check_room(
        self, folder: pathlib.Path, found: set[str], shown: pathlib.Path
    ) -> None:
        missing = [
            noun for noun, name in self._names.items() if name not in found
        ]
        needed = sum(self._records[noun].size or 0 for noun in missing)
        needed -= sum(
            (folder / name).lstat().st_size
            for name in found
            if name.endswith('.part')
        )
        room = files.room(folder)
        if needed > room:
            raise exceptions.NoSpaceError(
                f'{shown} has room for {units.format_size(room)}: '
                f'the triple needs {units.format_size(needed)}',
                hint='make room, or choose another --directory',
            )

    def _fetch(self, folder: pathlib.Path) -> dict[str, download.Fetched]:
        def job(noun: str) -> together.Job[download.Fetched]:
            record = self._records[noun]
            return lambda cancel: download.fetch(
                self._proxy,
                record,
                folder / self._names[noun],
                description=f'Fetching {noun}',
                progress=self._progress,
                # Without a hash, what is there cannot be judged.
                replace=content.expected(record) is None,
                cancel=cancel,
                patience=self._patience,
            )

        try:
            return together.run({noun: job(noun) for noun in self._records})
        except BaseException as error:
            error.add_note(_RESUME)
            raise

    def _manifest(
        self, fetched: Mapping[str, download.Fetched]
    ) -> manifest_.Manifest:
        parts = {
            noun: _part(record, fetched[noun])
            for noun, record in self._records.items()
        }
        return manifest_.Manifest(
            parts['image'], parts.get('kernel'), parts.get('ramdisk')
        )


def _part(
    record: model.ImageRecord, fetched: download.Fetched
) -> manifest_.Part:
    digest = fetched.digest
    if digest is not None and digest.algorithm == 'sha512':
        sha512 = digest.value
    else:
        sha512 = digest_.sha512(fetched.path)
    return manifest_.Part(
        file=fetched.path.name,
        size=fetched.size,
        sha512=sha512,
        disk_format=record.disk_format or '',
        container_format=record.container_format or '',
        id=record.id,
        name=record.name or None,
        min_disk=record.min_disk,
        min_ram=record.min_ram,
        visibility=record.visibility,
        protected=record.protected,
        hidden=record.hidden,
        tags=tuple(sorted(record.tags)),
        properties=manifest_.travelling(record.properties),
    )


def _write(path: pathlib.Path, content_: str) -> None:
    data = content_.encode('utf-8', 'surrogateescape')
    if path.exists() and path.read_bytes() == data:
        return
    with files.Output(path) as output:
        output.path.write_bytes(data)
        output.keep()
