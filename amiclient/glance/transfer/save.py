# SPDX-License-Identifier: Apache-2.0

"""A triple as files: fetched, verified, and with a manifest."""

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import dataclasses
import errno
import os
import pathlib
import re
from typing import TYPE_CHECKING

from amiclient import errors
from amiclient import files
from amiclient.glance import client
from amiclient.glance import links
from amiclient.glance import model
from amiclient.glance import retry
from amiclient.glance.transfer import download
from amiclient.glance.transfer import image_data
from amiclient.glance.transfer import staging
from amiclient import jobs
from amiclient.progress import Progress
from amiclient import scratch
from amiclient.source import bundle
from amiclient.source import digest
from amiclient.source import manifest as manifest_
from amiclient.source.manifest import Manifest
from amiclient.source import uec
from amiclient import units

if TYPE_CHECKING:
    from openstack.image.v2 import _proxy


#: What the name of each file ends in.
_SUFFIXES = {'image': '.img', 'kernel': '-vmlinuz', 'ramdisk': '-initrd'}

#: What the names of parts end in: an image's id, and its hash or its size.
_TAG = re.compile(r'[0-9A-Fa-f-]{36}-[0-9a-f]+\.part')


@dataclasses.dataclass(frozen=True)
class Collected:
    """A triple that is in files now.

    :param paths: by ``image``, ``kernel`` and ``ramdisk``.
    :param downloaded: bytes that came over the network.
    """

    paths: Mapping[str, pathlib.Path]
    manifest: pathlib.Path
    downloaded: int


class Collector:
    """Fetches one triple, wherever it is going.

    :param records: its images, by ``image``, ``kernel`` and ``ramdisk``.
    :param progress: who watches the fetching.
    """

    def __init__(
        self,
        proxy: '_proxy.Proxy',
        records: Mapping[str, model.ImageRecord],
        patience: retry.Patience | None,
        progress: Progress,
    ) -> None:
        self._proxy = proxy
        self._patience = patience
        self._progress = progress
        self.records = records
        self.stem = manifest_.stem(records['image'].name)
        #: The names of the files.
        self.names = {n: f'{self.stem}{_SUFFIXES[n]}' for n in records}

    def collect(
        self,
        folder: pathlib.Path,
        *,
        shown: pathlib.Path | None = None,
        own: bool = False,
    ) -> Collected:
        """Have all of it in a folder.

        :param shown: what to call its disk, if not by its name.
        :param own: whether nobody else puts files there, so that those which
            do not belong to the triple, or not any more, may be replaced.
        :raises AmiError: if the folder has something else in it.
        :raises NoSpaceError: if it has no room.
        :raises CloudError: if not all of it can be had.
        """
        self._prepare(folder, shown or folder, own=own)
        fetched = self._fetch(folder, own=own)
        path = folder / manifest_.NAME
        known = {
            noun: each.digest.value
            for noun, each in fetched.items()
            if each.digest is not None and each.digest.algorithm == 'sha512'
        }
        for noun in fetched.keys() - known.keys():
            known[noun] = digest.sha512(fetched[noun].path)
        _write(path, manifest_.dump(self.manifest(known)))
        return Collected(
            {noun: each.path for noun, each in fetched.items()},
            path,
            sum(each.downloaded for each in fetched.values()),
        )

    def manifest(self, sha512: Mapping[str, str]) -> manifest_.Manifest:
        """Describe the triple as it is in the cloud.

        :param sha512: of each file, where Glance tells another hash.
        """
        parts = {
            noun: _part(record, self.names[noun], sha512[noun])
            for noun, record in self.records.items()
        }
        return manifest_.Manifest(
            parts['image'], parts.get('kernel'), parts.get('ramdisk')
        )

    @contextlib.contextmanager
    def telling(
        self, folder: pathlib.Path, shown: pathlib.Path
    ) -> Iterator[None]:
        """Say what of it stays if something fails.

        :param shown: what to call the folder.
        """
        try:
            yield
        except BaseException as error:
            if self._has_some(folder):
                _add(error, f'what was fetched stays in {shown}')
            raise

    def _has_some(self, folder: pathlib.Path) -> bool:
        """Tell whether the next run has something to go on with."""
        return any(
            os.path.lexists(path)
            for noun, record in self.records.items()
            # Without a hash, all is fetched anew.
            if image_data.expected(record) is not None
            for path in (
                folder / self.names[noun],
                download.part(record, folder / self.names[noun]),
            )
        )

    def _prepare(
        self, folder: pathlib.Path, shown: pathlib.Path, *, own: bool
    ) -> None:
        """See that the folder has nothing else in it, and has room."""
        scratch.sweep(folder)
        with os.scandir(folder) as entries:
            found = {entry.name for entry in entries}
        parts = {name for name in found if self._is_part(folder, name)}
        ours = {*self.names.values(), manifest_.NAME, staging.LOCK}
        others = found - ours - parts
        if own:
            for suffix in _SUFFIXES.values():
                name = f'{self.stem}{suffix}'
                if name in others:
                    (folder / name).unlink()
                    others.remove(name)
        if others:
            raise errors.AmiError(
                f'{folder} has something else in it: '
                f'{errors.safe(min(others))}',
                hint='choose an empty --directory, or a new one',
            )
        path = folder / manifest_.NAME
        if not own and path.exists() and not self._is_of(path):
            raise errors.AmiError(
                f'{folder} is there already, and holds another triple',
                hint='choose another --directory',
            )
        self._remove_old(folder, parts)
        self._check_room(folder, shown)

    def _is_part(self, folder: pathlib.Path, name: str) -> bool:
        """Tell whether a name is that of a part of a triple of this name."""
        for suffix in _SUFFIXES.values():
            begin = staging.prefix(folder / f'{self.stem}{suffix}')
            if name.startswith(begin) and _TAG.fullmatch(name, len(begin)):
                return True
        return False

    def _is_of(self, path: pathlib.Path) -> bool:
        """Tell whether a manifest is that of this triple, if an old one."""
        parts = manifest_.read(path).parts
        return parts.keys() == self.records.keys() and all(
            part.id == self.records[noun].id
            and part.size == self.records[noun].size
            for noun, part in parts.items()
        )

    def _remove_old(self, folder: pathlib.Path, parts: set[str]) -> None:
        """Remove parts of images that the triple has no more."""
        current = {
            download.part(record, folder / self.names[noun]).name
            for noun, record in self.records.items()
        }
        for name in parts - current:
            staging.remove(folder / name)

    def _check_room(self, folder: pathlib.Path, shown: pathlib.Path) -> None:
        needed = 0
        for noun, record in self.records.items():
            path = folder / self.names[noun]
            if os.path.lexists(path):
                continue
            needed += record.size or 0
            with contextlib.suppress(FileNotFoundError):
                needed -= download.part(record, path).lstat().st_size
        room = files.room(folder)
        if needed > room:
            raise errors.NoSpaceError(
                f'{shown} has room for {units.format_size(room)}: '
                f'the triple needs {units.format_size(needed)}',
                hint='make room, or choose another --directory',
            )

    def _fetch(
        self, folder: pathlib.Path, *, own: bool
    ) -> dict[str, download.Fetched]:
        def job(noun: str) -> jobs.Job[download.Fetched]:
            record = self.records[noun]
            return lambda cancel: download.fetch(
                self._proxy,
                record,
                folder / self.names[noun],
                description=f'Fetching {noun}',
                progress=self._progress,
                # Without a hash, what is there cannot be judged.
                replace=own or image_data.expected(record) is None,
                cancel=cancel,
                patience=self._patience,
            )

        return jobs.run({noun: job(noun) for noun in self.records})


def _add(error: BaseException, words: str) -> None:
    """Have an error say one thing more, if that is of use."""
    again = f'{words}: run it again to go on'
    if isinstance(
        error,
        errors.CloudError | errors.NoSpaceError | errors.TooLargeError,
    ):
        useless = isinstance(error, errors.NotFoundError)
        if useless or 'again' in (error.hint or ''):
            again = words
        error.hint = f'{error.hint}; {again}' if error.hint else again
    elif not isinstance(error, errors.AmiError):
        error.add_note(again)


def _part(record: model.ImageRecord, file: str, sha512: str) -> manifest_.Part:
    return manifest_.Part(
        file=file,
        size=download.check(record),
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


class Archive:
    """One archive, that is there or is to be made.

    :param folder: the folder that it is in, or will be.
    """

    def __init__(
        self,
        collector: Collector,
        folder: pathlib.Path,
        progress: Progress,
    ) -> None:
        self._collector = collector
        self._folder = folder
        self._progress = progress
        self.path = folder / f'{collector.stem}.tar.gz'

    def make(self) -> int:
        """Make it, unless it is there and up to date.

        :returns: bytes that came over the network.
        :raises AmiError: if something else is there.
        """
        old = self._state()
        if old is not None and self._is_current(self._manifest()):
            return 0
        ami = self._collector.records['image'].id
        name = f'.{self._collector.stem}.{ami}.part'
        with (
            files.folder_for(self._folder),
            staging.Folder(self._folder, name) as hidden,
            self._collector.telling(hidden.path, self._folder / name),
        ):
            manifest, old = None, self._state()
            if old is not None:
                manifest = self._manifest()
                if self._is_current(manifest):
                    # Another run has made it meanwhile.
                    return 0
            scratch.sweep(self._folder)
            if manifest is not None:
                self._take_over(manifest, hidden.path)
            collected = self._collector.collect(
                hidden.path, shown=self._folder, own=True
            )
            self._pack(collected, old)
            hidden.clear()
        return collected.downloaded

    def _state(self) -> tuple[int, ...] | None:
        """Tell what is different once another file has its name."""
        return files.state(self.path) if os.path.lexists(self.path) else None

    def _manifest(self) -> Manifest:
        """Read it to its end, and tell what it holds.

        :raises AmiError: if it is not the archive of this AMI, as it is or
            as it was.
        """
        found = bundle.verified(self.path, progress=self._progress)
        if (
            found is None
            or found.image.id != self._collector.records['image'].id
        ):
            raise errors.AmiError(
                f'{self.path} is there already, and is something else',
                hint='remove it, or choose another --directory',
            )
        return found

    def _is_current(self, found: Manifest) -> bool:
        """Tell whether a new one would have the same manifest."""
        return found == self._expected(found)

    def _expected(self, found: Manifest) -> Manifest:
        """Tell what the manifest of a new one would be.

        :param found: that of the old one. It tells the hash where Glance has
            none of that kind: what an image holds never changes.
        """
        sha512 = {}
        for noun, record in self._collector.records.items():
            digest = image_data.expected(record)
            if digest is not None and digest.algorithm == 'sha512':
                sha512[noun] = digest.value
            else:
                part = found.parts.get(noun)
                sha512[noun] = part.sha512 if part else ''
        return self._collector.manifest(sha512)

    def _take_over(self, manifest: Manifest, folder: pathlib.Path) -> None:
        """Take out of the old one what a new one has as well.

        Whatever comes out of it is compared with Glance's hash as if it had
        been fetched by an earlier run.
        """
        names = self._collector.names
        wanted = {
            noun
            for noun, part in self._expected(manifest).parts.items()
            if (old := manifest.parts.get(noun)) is not None
            and (old.id, old.size, old.sha512)
            == (part.id, part.size, part.sha512)
            and not os.path.lexists(folder / names[noun])
        }
        with (
            contextlib.suppress(errors.NoSpaceError, errors.TooLargeError),
            self._full_told(),
            scratch.Folder(folder) as made,
        ):
            found = uec.unpack(
                self.path, made.path, progress=self._progress, wanted=wanted
            )
            for noun, path in found.paths.items() if found else ():
                path.rename(folder / names[noun])

    def _pack(self, collected: Collected, old: tuple[int, ...] | None) -> None:
        """Make it of files.

        :param old: the state of the one that it replaces.
        """
        # Small things first, so that they are found without unpacking all.
        nouns = [n for n in ('kernel', 'ramdisk') if n in collected.paths]
        members = [
            collected.manifest,
            *(collected.paths[noun] for noun in (*nouns, 'image')),
        ]
        with files.Output(self.path) as output, self._full_told():
            uec.pack(members, output.path, progress=self._progress)
            now = self._state()
            if now is not None and now != old:
                # Of another image of that name, for ours is locked.
                self._manifest()
            output.keep()

    @contextlib.contextmanager
    def _full_told(self) -> Iterator[None]:
        """Say what to do about a full disk.

        :raises NoSpaceError: if it is.
        :raises TooLargeError: if a file may not become larger.
        """
        try:
            yield
        except OSError as error:
            if error.errno == errno.EFBIG:
                raise errors.too_large(self._folder) from error
            if error.errno not in errors.FULL:
                raise
            raise errors.NoSpaceError(
                f'{self._folder}: {error.strerror}',
                hint='make room, or choose another --directory',
            ) from error


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
    collector = Collector(proxy, records, request.patience, progress)
    if request.format == 'uec':
        folder = request.directory or pathlib.Path()
        return _as_archive(collector, folder, progress)
    return _as_files(
        collector, request.directory or pathlib.Path(collector.stem)
    )


def _as_files(collector: Collector, folder: pathlib.Path) -> Saved:
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
    collector: Collector,
    folder: pathlib.Path,
    progress: Progress,
) -> Saved:
    made = Archive(collector, folder, progress)
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
                f'the {noun} {errors.safe(str(link))} of image {ami.image.id} '
                'is missing: it was deleted, or this project cannot see it',
                hint=f'see `openstack ami verify {ami.image.id}`',
            )
        records[noun] = found
    for record in records.values():
        download.check(record)
    return records
