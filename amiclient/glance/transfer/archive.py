# SPDX-License-Identifier: Apache-2.0

"""A triple as one archive, in the style of UEC.

The files are collected in a hidden folder first, which is there again for the
next run if this one does not come to its end. An archive that is there stays
until the new one is whole; and what is in it, and still as it should be, is
not fetched again.
"""

from collections.abc import Iterator
import contextlib
import errno
import os
import pathlib

from amiclient import errors
from amiclient import files
from amiclient.glance.transfer import collecting
from amiclient.glance.transfer import content
from amiclient.glance.transfer import staging
from amiclient import limits
from amiclient.progress import Progress
from amiclient import scratch
from amiclient.source import bundle
from amiclient.source.manifest import Manifest
from amiclient.source import uec


class Archive:
    """One archive, that is there or is to be made.

    :param folder: the folder that it is in, or will be.
    """

    def __init__(
        self,
        collector: collecting.Collector,
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
            digest = content.expected(record)
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

    def _pack(
        self, collected: collecting.Collected, old: tuple[int, ...] | None
    ) -> None:
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
                raise limits.too_large(self._folder) from error
            if error.errno not in limits.FULL:
                raise
            raise errors.NoSpaceError(
                f'{self._folder}: {error.strerror}',
                hint='make room, or choose another --directory',
            ) from error
