# SPDX-License-Identifier: Apache-2.0

"""The files of a triple on their way into a folder.

The three are fetched side by side. What is there already is not fetched
again, and what a break left is gone on with, so that a second run finishes
what the first could not. What an earlier run left of images that the triple
has no more is removed.
"""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import os
import pathlib
import re
from typing import TYPE_CHECKING

from amiclient import errors
from amiclient import files
from amiclient.glance import model
from amiclient.glance import retry
from amiclient.glance.transfer import content
from amiclient.glance.transfer import download
from amiclient.glance.transfer import partial
from amiclient.glance.transfer import staging
from amiclient import jobs
from amiclient.progress import Progress
from amiclient import scratch
from amiclient.source import digest
from amiclient.source import manifest as manifest_
from amiclient import text
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
            if content.expected(record) is not None
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
                f'{folder} has something else in it: {text.safe(min(others))}',
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
            begin = partial.prefix(folder / f'{self.stem}{suffix}')
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
            partial.remove(folder / name)

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
                replace=own or content.expected(record) is None,
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
        size=content.check(record),
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
