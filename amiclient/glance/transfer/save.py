# SPDX-License-Identifier: Apache-2.0

"""A triple as files: fetched, verified, and with a manifest.

The three are fetched side by side. What is there already is not fetched
again, and what a break left is gone on with, so that a second run finishes
what the first could not. What an earlier run left of images that the triple
has no more is removed.

An archive, in the style of UEC, is made of files that are collected in a
hidden directory first, which is there again for the next run if this one does
not come to its end. An archive that is there stays until the new one is
whole; and what is in it, and still as it should be, is not fetched again.
"""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import functools
import os
import pathlib
import re
import threading
from typing import TYPE_CHECKING

from amiclient import atomic
from amiclient import errors
from amiclient.glance import certificates
from amiclient.glance import client
from amiclient.glance import links
from amiclient.glance import model
from amiclient.glance import retry
from amiclient.glance import signatures
from amiclient.glance.transfer import download
from amiclient.glance.transfer import image_data
from amiclient import jobs
from amiclient import locks
from amiclient.progress import Progress
from amiclient import scratch
from amiclient.source import bundle
from amiclient.source import manifest as manifests
from amiclient.source.manifest import Manifest
from amiclient.source import uec
from amiclient import staging

if TYPE_CHECKING:
    from openstack.image.v2 import _proxy

#: What the name of each file ends in.
_SUFFIXES = {'image': '.img', 'kernel': '-vmlinuz', 'ramdisk': '-initrd'}

#: What the names of parts end in: an image's id, and its hash or its size.
_TAG = re.compile(r'[0-9A-Fa-f-]{36}-[0-9a-f]+\.part')

_ANOTHER = 'choose another --directory'


#: What Nova puts down in a server, and so in its snapshots, unless its image
#: says something else (_register_undefined_instance_details() in
#: nova/virt/libvirt/driver.py); with the value that can be left out, if only
#: that one can.
_BY_NOVA = {
    'hw_cdrom_bus': None,
    'hw_disk_bus': 'virtio',
    'hw_input_bus': None,
    'hw_machine_type': None,
    'hw_pointer_model': None,
    'hw_video_model': None,
    'hw_vif_model': 'virtio',
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SaveRequest:
    """A triple that is to be saved.

    :param ami: an image's id or name.
    :param directory: where to; for ``directory`` None stands for one that is
        named after the AMI, for ``uec`` for the current one.
    :param layout: ``directory``, or ``uec`` for one archive.
    :param keep_hardware: whether to keep what Nova set in a snapshot.
    :param verify_signature: whether to refuse what is not as it was signed.
    """

    ami: str
    directory: pathlib.Path | None = None
    layout: str = 'directory'
    keep_hardware: bool = False
    verify_signature: bool = True
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

    :raises NotFoundError: if there is no such image.
    :raises CloudError: if it is no AMI, or not all of it can be had.
    :raises AmiError: if there is something else where it is to go.
    :raises NoSpaceError: if there is no room for it.
    """
    catalog = client.Catalog(proxy, patience=request.patience)
    records = _records(links.show(catalog, request.ami))
    checker = None
    if request.verify_signature:
        checker = certificates.Checker(catalog)
        for noun, record in records.items():
            _refuse_false(checker, noun, record)
    collector = _Collector(proxy, records, request, progress, checker)
    if request.layout == 'uec':
        directory = request.directory or pathlib.Path()
        return _UecArchive(collector, directory, progress).save()
    directory = request.directory or pathlib.Path(collector.stem)
    # If this fails, what has come stays, for the next run to go on with.
    with (
        atomic.directory_for(directory),
        collector.telling(directory, directory),
    ):
        return collector.collect(directory)


def _records(ami: links.Ami) -> dict[str, model.ImageRecord]:
    """Collect what there is to save, if all of it can be."""
    ami.check_parts(lambda _: f'see `openstack ami verify {ami.image.id}`')
    records = {'image': ami.image}
    records |= {kind.noun: part for kind, part in ami.parts}
    for record in records.values():
        download.check(record)
    return records


def _refuse_false(
    checker: certificates.Checker,
    noun: str,
    record: model.ImageRecord,
    digest: str | None = None,
) -> None:
    """Refuse an image whose signature is not that of its data.

    :param digest: of what was fetched, if it is not what Glance tells.
    """
    why = checker.problem(record, digest)
    if why is not None:
        raise errors.CloudError(
            f'the {noun} {record.title} is signed, but cannot be trusted: '
            f'{why}',
            hint='to save it all the same, use --no-verify-signature',
        )


class _Collector:
    """Fetches one triple, wherever it is going.

    :param records: its images, by ``image``, ``kernel`` and ``ramdisk``.
    :param checker: looks at signatures; None if that is not wanted.
    """

    def __init__(
        self,
        proxy: '_proxy.Proxy',
        records: Mapping[str, model.ImageRecord],
        request: SaveRequest,
        progress: Progress,
        checker: certificates.Checker | None,
    ) -> None:
        self._proxy = proxy
        self._checker = checker
        self._patience = request.patience
        self._keep = request.keep_hardware
        self._progress = progress
        self.records = records
        self.stem = manifests.stem(records['image'].name)
        #: The names of the files.
        self.names = {n: f'{self.stem}{_SUFFIXES[n]}' for n in records}
        #: The hashes that Glance has, where they are what manifests tell.
        self.sha512 = {
            noun: wanted.value
            for noun, record in records.items()
            if (wanted := image_data.expected(record)) is not None
            and wanted.algorithm == 'sha512'
        }

    def collect(
        self,
        directory: pathlib.Path,
        *,
        shown: pathlib.Path | None = None,
        own: bool = False,
    ) -> Saved:
        """Have all of it in a directory.

        :param shown: what to call its disk, if not by its name.
        :param own: whether nobody else puts files there, so that those which
            do not belong to the triple, or not any more, may be replaced.
        """
        self._prepare(directory, own=own)
        self._check_room(directory, shown or directory)
        fetched = jobs.run(
            {
                noun: functools.partial(self._fetch, noun, directory, own)
                for noun in self.records
            }
        )
        paths = {noun: each.path for noun, each in fetched.items()}
        known = {
            noun: self.sha512.get(noun) or manifests.sha512(path)
            for noun, path in paths.items()
        }
        manifest = directory / manifests.NAME
        _write(manifest, manifests.dump(self.manifest(known)))
        return Saved(
            directory=directory,
            image=paths['image'],
            kernel=paths.get('kernel'),
            ramdisk=paths.get('ramdisk'),
            manifest=manifest,
            downloaded=sum(each.downloaded for each in fetched.values()),
        )

    def manifest(self, sha512: Mapping[str, str]) -> Manifest:
        """Describe the triple as it is in the cloud."""
        parts = {
            noun: _part(
                record,
                self.names[noun],
                sha512[noun],
                keep=self._keep,
            )
            for noun, record in self.records.items()
        }
        return Manifest(
            parts['image'], parts.get('kernel'), parts.get('ramdisk')
        )

    @contextlib.contextmanager
    def telling(
        self, directory: pathlib.Path, shown: pathlib.Path
    ) -> Iterator[None]:
        """Say what of it stays if something fails."""
        try:
            yield
        except BaseException as error:
            if any(
                os.path.lexists(place)
                for record, path, part in self._places(directory)
                # Without a hash, all is fetched anew.
                if image_data.expected(record) is not None
                for place in (path, part)
            ):
                _add(error, f'what was downloaded stays in {shown}')
            raise

    def _places(
        self, directory: pathlib.Path
    ) -> Iterator[tuple[model.ImageRecord, pathlib.Path, pathlib.Path]]:
        """List images, their files, and those that they are fetched into."""
        for noun, record in self.records.items():
            path = directory / self.names[noun]
            yield record, path, download.part(record, path)

    def _prepare(self, directory: pathlib.Path, *, own: bool) -> None:
        """Refuse a directory with something else in it; remove old parts."""
        scratch.sweep(directory)
        possible = [f'{self.stem}{suffix}' for suffix in _SUFFIXES.values()]
        prefixes = [staging.prefix(directory / name) for name in possible]
        found = set(os.listdir(directory))
        parts = {
            name
            for name in found
            for prefix in prefixes
            if name.startswith(prefix) and _TAG.fullmatch(name, len(prefix))
        }
        ours = {*self.names.values(), manifests.NAME, staging.LOCK}
        others = found - ours - parts
        if own:
            for name in others.intersection(possible):
                (directory / name).unlink()
            others.difference_update(possible)
        if others:
            name = errors.safe(min(others))
            raise errors.AmiError(
                f'{directory} contains something else: {name}',
                hint='choose an empty --directory, or a new one',
            )
        path = directory / manifests.NAME
        if not own and path.exists() and not self._is_of(path):
            raise errors.AmiError(
                f'{directory} exists already, and contains another AMI',
                hint=_ANOTHER,
            )
        for name in parts - {p.name for _, _, p in self._places(directory)}:
            scratch.remove(directory / name)

    def _is_of(self, path: pathlib.Path) -> bool:
        """Tell whether a manifest is that of this triple, if an old one."""
        parts = manifests.read(path).parts
        return {noun: (p.id, p.size) for noun, p in parts.items()} == {
            noun: (r.id, r.size) for noun, r in self.records.items()
        }

    def _check_room(
        self, directory: pathlib.Path, shown: pathlib.Path
    ) -> None:
        needed = 0
        for record, path, part in self._places(directory):
            if os.path.lexists(path):
                continue
            needed += record.size or 0
            with contextlib.suppress(FileNotFoundError):
                needed -= part.lstat().st_size
        scratch.check_room(
            directory,
            needed,
            'the triple',
            shown=shown,
            hint=f'make room, or {_ANOTHER}',
        )

    def _fetch(
        self,
        noun: str,
        directory: pathlib.Path,
        own: bool,
        cancel: threading.Event,
    ) -> download.Fetched:
        record = self.records[noun]
        fetched = download.fetch(
            self._proxy,
            record,
            directory / self.names[noun],
            description=f'Fetching {noun}',
            progress=self._progress,
            # Without a hash, what is there cannot be judged.
            replace=own or image_data.expected(record) is None,
            cancel=cancel,
            patience=self._patience,
        )
        signature = signatures.Signature.of(record)
        if self._checker and signature and not signature.known(record):
            # Of another hash than Glance's: the data is read for it.
            digest = image_data.digest(
                model.Payload.of(fetched.path),
                f'Checking {noun}',
                self._progress,
                algorithm=signature.algorithm or 'sha512',
                cancel=cancel,
            )
            try:
                _refuse_false(self._checker, noun, record, digest)
            except errors.CloudError:
                fetched.path.unlink()
                raise
        return fetched


def _add(error: BaseException, words: str) -> None:
    """Have an error say one thing more, if that is of use."""
    again = f'{words}: run the command again to continue'
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


def _part(
    record: model.ImageRecord, file: str, sha512: str, *, keep: bool
) -> manifests.ManifestPart:
    return manifests.ManifestPart(
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
        properties=travelling(record, keep_hardware=keep),
    )


def travelling(
    record: model.ImageRecord, *, keep_hardware: bool
) -> dict[str, str]:
    """Pick the properties that an image is to have elsewhere.

    :param keep_hardware: whether to keep what Nova set in a snapshot.
    """
    properties = manifests.travelling(record.properties)
    if record.is_snapshot and not keep_hardware:
        for name, value in _BY_NOVA.items():
            if value in (None, properties.get(name)):
                properties.pop(name, None)
    return properties


def _write(path: pathlib.Path, data: bytes) -> None:
    if path.exists() and path.read_bytes() == data:
        return
    with atomic.Output(path) as output:
        output.path.write_bytes(data)
        output.keep()


class _UecArchive:
    """One archive, that is there or is to be made.

    :param directory: the directory that it is in, or will be.
    """

    def __init__(
        self,
        collector: _Collector,
        directory: pathlib.Path,
        progress: Progress,
    ) -> None:
        self._collector = collector
        self._directory = directory
        self._progress = progress
        self._path = directory / f'{collector.stem}.tar.gz'
        self._id = collector.records['image'].id

    def save(self) -> Saved:
        """Make it, unless it is there and up to date."""
        path, records = self._path, self._collector.records
        return Saved(
            directory=self._directory,
            image=path,
            kernel=path if 'kernel' in records else None,
            ramdisk=path if 'ramdisk' in records else None,
            manifest=path,
            downloaded=self._make(),
        )

    def _make(self) -> int:
        if os.path.lexists(self._path):
            found = self._manifest()
            if found == self._expected(found):
                return 0
        name = f'.{self._collector.stem}.{self._id}.part'
        with (
            atomic.directory_for(self._directory),
            staging.StagingDirectory(self._directory, name) as hidden,
            self._collector.telling(hidden.path, self._directory / name),
        ):
            manifest, old = None, self._state()
            if old is not None:
                manifest = self._manifest()
                if manifest == self._expected(manifest):
                    # Another run has made it meanwhile.
                    return 0
            scratch.sweep(self._directory)
            if manifest is not None:
                self._take_over(manifest, hidden.path)
            collected = self._collector.collect(
                hidden.path, shown=self._directory, own=True
            )
            self._pack(collected, old)
            hidden.clear()
        return collected.downloaded

    def _state(self) -> locks.State | None:
        return locks.state(self._path) if os.path.lexists(self._path) else None

    def _manifest(self) -> Manifest:
        """Read it to its end, and return what it holds.

        :raises AmiError: if it is not the archive of this AMI, as it is or
            as it was.
        """
        found = bundle.verified(self._path, progress=self._progress)
        if found is None or found.image.id != self._id:
            raise errors.AmiError(
                f'{self._path} exists already, and is something else',
                hint=f'remove it, or {_ANOTHER}',
            )
        return found

    def _expected(self, found: Manifest) -> Manifest:
        """Return what the manifest of a new one would be.

        :param found: that of the old one. It tells the hash where Glance has
            none of that kind: what an image holds never changes.
        """
        old = {noun: part.sha512 for noun, part in found.parts.items()}
        none = dict.fromkeys(self._collector.records, '')
        return self._collector.manifest(none | old | self._collector.sha512)

    def _take_over(self, manifest: Manifest, directory: pathlib.Path) -> None:
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
            and not os.path.lexists(directory / names[noun])
        }
        with (
            contextlib.suppress(errors.NoSpaceError, errors.TooLargeError),
            staging.full_told(self._directory, _ANOTHER),
            scratch.PrivateDirectory(directory) as made,
        ):
            found = uec.unpack(
                self._path, made.path, progress=self._progress, wanted=wanted
            )
            for noun, path in found.paths.items() if found else ():
                path.rename(directory / names[noun])

    def _pack(self, collected: Saved, old: locks.State | None) -> None:
        """Make it of files.

        :param old: the state of the one that it replaces.
        """
        # Small things first, so that they are found without unpacking all.
        members = [
            collected.manifest,
            collected.kernel,
            collected.ramdisk,
            collected.image,
        ]
        with (
            atomic.Output(self._path) as output,
            staging.full_told(self._directory, _ANOTHER),
        ):
            uec.pack(
                list(filter(None, members)),
                output.path,
                progress=self._progress,
            )
            now = self._state()
            if now is not None and now != old:
                # Of another image of that name, for ours is locked.
                self._manifest()
            output.keep()
