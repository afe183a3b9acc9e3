# SPDX-License-Identifier: Apache-2.0

"""The one door for sources: whatever holds a root filesystem.

A filesystem is taken as it is. From anything else (a disk with partitions, a
compressed file, an archive, a directory) its root filesystem is made in a
temporary directory, which goes away at the end.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import os
import pathlib
import re

from amiclient import errors
from amiclient.ext import busy
from amiclient.ext import e2fsprogs
from amiclient.ext import layout
from amiclient.ext import repair
from amiclient.ext import superblock
from amiclient import locks
from amiclient.progress import Progress
from amiclient.progress import QUIET
from amiclient import scratch
from amiclient.source import block
from amiclient.source import build
from amiclient.source import bundle
from amiclient.source import disk
from amiclient.source import esp
from amiclient.source import filesystem
from amiclient.source import fix
from amiclient.source import fstab
from amiclient.source import manifest
from amiclient.source import opening
from amiclient.source import probe
from amiclient.source import streams
from amiclient.source import uec
from amiclient.source import unpacking
from amiclient import sparse
from amiclient import units

Source = bundle.Source

#: Suffixes that say how something is stored, and are no part of a name.
_SUFFIX = re.compile(
    r'\.(gz|tgz|xz|txz|bz2|tbz2?|zst|tzst|lz4|tar|img|image|raw|bin|fs|ext[234]'
    r'|qcow2?|qed|vmdk|vhdx?|vdi|disk)$',
    re.IGNORECASE,
)

#: The format of what is compressed, and no disk and no archive.
_COMPRESSED = 'compressed filesystem'

#: Compressions of compressed files that are undone.
_LAYERS = 3

#: Bytes that are free in what is made of files, for ``--fix``.
_FIX_ROOM = 64 << 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """How a source is taken.

    :param partition: the number of the partition with the root filesystem;
        None for the one that is found.
    :param allow_backing_file: whether a disk image may name other files that
        hold a part of it.
    :param fix: whether to mend what does not suit a root filesystem of its
        own. Then a filesystem that is taken as it is is copied, too.
    :param report: whether to tell of that, where it is not mended. The rules
        of ``ami check`` do so themselves.
    :param options: of a shrink that follows. What is made of files gets inodes
        for its headroom; what is taken out of a disk is repaired if they say
        so.
    :param work_directory: where to make what is temporary; None for the
        usual places.
    :param home: where a root filesystem that is taken out of a disk is made
        then, because it will stay there; None for the usual places.
    """

    partition: int | None = None
    allow_backing_file: bool = False
    fix: bool = False
    report: bool = True
    options: units.FilesystemOptions = units.DEFAULTS
    work_directory: pathlib.Path | None = None
    home: pathlib.Path | None = None


@contextlib.contextmanager
def opened(
    path: pathlib.Path,
    choice: Choice | None = None,
    *,
    progress: Progress = QUIET,
) -> Iterator[Source]:
    """Take what the user named as a source.

    What was made for it goes away at the end of the block. Until then,
    nobody can change it or put another in its place.

    :param choice: how; None for the usual way.
    :param progress: who watches what takes time.
    :raises BusyError: if another process is changing it.
    :raises UsageError: if a partition is wanted of what has none.
    :raises SourceError: if it is damaged, or is none. If it is something
        else altogether, whoever opens ``root`` says what it is.
    :raises NoSpaceError: if there is no room for what has to be made.
    """
    choice = choice or Choice()
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(locks.reading(path))
        opener = _Opener(probe.look(path, held), choice, progress, stack)
        source = opener.untied(opener.open())
        if source.partition is None and choice.partition is not None:
            raise errors.UsageError(
                'no disk with partitions',
                subject=errors.shown(path),
                hint='leave out --partition',
            )
        if source.own and source.name is None:
            source = dataclasses.replace(source, name=_name(path))
        if source.own:
            stack.enter_context(
                errors.renamed(source.root, errors.shown(path))
            )
        yield source


def _name(path: pathlib.Path) -> str | None:
    name = path.resolve().name
    while True:
        shorter = _SUFFIX.sub('', name)
        if shorter == name or not shorter:
            return name or None
        name = shorter


class _Opener:
    """One source, while it is taken.

    :param found: what it is.
    :param stack: removes what was made.
    """

    def __init__(
        self,
        found: probe.Probe,
        choice: Choice,
        progress: Progress,
        stack: contextlib.ExitStack,
    ) -> None:
        self._found = found
        self._path = found.path
        self._shown = errors.shown(found.path)
        self._choice = choice
        self._progress = progress
        self._stack = stack
        self._directory: pathlib.Path | None = None

    def open(self) -> Source:
        source, found = self._opened(), self._found
        if source.root != self._path:
            if not source.own:
                # One of the files of a saved AMI.
                self._stack.enter_context(locks.reading(source.root))
            found = probe.look(source.root)
        if found.found.disk is not None:
            # A saved AMI may be one, too, such as a qcow2.
            return self._taken(source, found.found.disk)
        if source.format == _COMPRESSED:
            if found.superblock is not None:
                # Nova would take an old boot sector for a partitioned disk.
                with sparse.opened(source.root, os.O_RDWR) as descriptor:
                    os.pwrite(descriptor, bytes(superblock.OFFSET), 0)
        elif source.root != self._path:
            # A filesystem that is a source itself is shrunk all the same.
            source = bundle.blank(source, found.superblock, self._shown)
        return self._told_of_rest(
            dataclasses.replace(source, probe=None if source.own else found),
            found,
        )

    def _opened(self) -> Source:
        path, found = self._path, self._found
        if found.is_directory:
            if bundle.is_saved(path):
                return bundle.saved(
                    path / manifest.NAME, progress=self._progress
                )
            return self._files(self._made(self._choice.work_directory), None)
        if found.special is None:
            if manifest.is_one(found.head):
                return bundle.saved(path, progress=self._progress)
            if found.compression is not None:
                return self._decompressed()
            if found.is_tar:
                with streams.opened(path, wanted='an archive') as stream:
                    return self._archive(stream)
        return Source(root=path)

    def _decompressed(self) -> Source:
        path = self._path
        notes: tuple[str, ...] = ()
        for layer in range(_LAYERS):
            with streams.opened(
                path, wanted='a source', name=self._shown
            ) as stream:
                if not layer and probe.is_tar(stream.peek(probe.TAR_BLOCK)):
                    return self._archive(stream)
                target = self._place() / f'unpacked-{layer}'
                notes += unpacking.unpack(
                    stream, target, progress=self._progress
                )
            if layer:
                path.unlink()
            path = target
            if probe.look(path).compression is None:
                return Source(
                    root=path, own=True, format=_COMPRESSED, notes=notes
                )
        raise errors.SourceError(
            'compressed too many times', subject=self._shown
        )

    def _archive(self, stream: streams.Stream) -> Source:
        directory = self._made(self._choice.work_directory)
        stream.remember()
        found = uec.unpack_stream(stream, directory, progress=self._progress)
        if found is not None:
            return bundle.unpacked(found, self._shown)
        return self._files(directory, stream if stream.rewind() else None)

    def _files(
        self, directory: pathlib.Path, stream: streams.Stream | None
    ) -> Source:
        headroom = self._choice.options.headroom
        if self._choice.fix:
            # What it adds takes a block or two, and an inode.
            headroom = headroom._replace(size=max(headroom.size, _FIX_ROOM))
        root = build.temporary_image(
            self._path,
            directory,
            headroom=headroom,
            stream=stream,
            progress=self._progress,
        )
        return Source(root=root, own=True, format='files')

    def _told_of_rest(self, source: Source, found: probe.Probe) -> Source:
        """Say what of a file is no part of its filesystem."""
        block, rest = found.superblock, 0
        if block is not None and found.size > block.size:
            # Whoever opens it says what is wrong with it.
            with contextlib.suppress(errors.SourceError, OSError):
                rest = layout.behind(source.root, block)
        if not rest:
            return source
        note = (
            f'{self._shown}: the {rest} bytes after its filesystem are not '
            'zeros; they are not part of it, and are left out'
        )
        return dataclasses.replace(source, notes=(*source.notes, note))

    def untied(self, source: Source) -> Source:
        name = self._shown
        if not self._choice.fix:
            if source.partition is None or not self._choice.report:
                return source
            notes = fix.report(source.root, name)
            return dataclasses.replace(source, notes=source.notes + notes)
        if not source.own:
            source = self._copied(source)
        elif source.partition is None:
            found = superblock.read(source.root)
            repair.mend(
                source.root,
                e2fsprogs.Toolbox.of(found),
                recover=found.needs_recovery or found.orphans,
                repair=self._choice.options.repair,
                name=self._path,
            )
        notes = fix.mend(source.root, name)
        return dataclasses.replace(source, notes=source.notes + notes)

    def _copied(self, source: Source) -> Source:
        root = source.image()
        busy.refuse_busy(source.root)
        target = self._home() / 'copy.img'
        with opening.opened(
            source.root, wanted='a root filesystem image', devices=True
        ) as file:
            root.refuse_changed(locks.state(file.fileno()))
            filesystem.take(
                block.RawMedium(file, errors.shown(source.root)),
                0,
                root.superblock,
                target,
                name=source.root,
                repair=self._choice.options.repair,
                progress=self._progress,
            )
        return dataclasses.replace(source, root=target, own=True, probe=None)

    def _taken(self, source: Source, kind: str) -> Source:
        path, image = source.root, self._home() / 'root.img'
        busy.refuse_busy(path)
        before = locks.state(path)
        with disk.opened(
            path,
            kind,
            self._place(),
            name=self._shown,
            allow_backing_file=self._choice.allow_backing_file,
            beside=self._path.resolve().parent if source.own else None,
        ) as whole:
            root = whole.root(self._choice.partition)
            self._take(whole, root, image)
            boot = self._boot(whole, root, image)
        if locks.state(path) != before:
            raise errors.BusyError(
                'was changed while its root filesystem was taken out',
                subject=self._shown,
                hint='end whatever writes to it first',
            )
        if self._directory in path.parents:
            # It may take much room, which is needed now.
            path.unlink()
        known = None if source.format == _COMPRESSED else source.format
        return dataclasses.replace(
            source,
            root=image,
            boot=boot.image,
            own=True,
            format=known or whole.format,
            partition=root.number,
            partitions=tuple(
                dataclasses.replace(each, is_boot=True)
                if each.number == boot.number
                else each
                for each in whole.partitions
            ),
            notes=(*source.notes, *whole.notes, *boot.notes),
        )

    def _boot(
        self, whole: disk.Disk, root: disk.Partition, image: pathlib.Path
    ) -> esp.BootFilesystem:
        mounted = fstab.boot_mounts(image)
        entry = next((e for e in mounted if e.path == '/boot'), None)
        boot = whole.boot(root, entry)
        name = self._shown
        if boot is not None and boot.superblock is not None:
            target = self._place() / 'boot.img'
            self._take(whole, boot, target)
            return esp.BootFilesystem(target, boot.number)
        if boot is not None and boot.fat is None:
            note = (
                f'{name}: what belongs on /boot is on partition '
                f'{boot.number}, {boot.what}, which is not looked into'
            )
            return esp.BootFilesystem(notes=(note,))
        parts = whole.loaders(root, mounted)
        if not parts or not (boot is not None or esp.is_needed(image)):
            return esp.BootFilesystem()
        taken = esp.take(
            whole, parts, self._place(), name=name, progress=self._progress
        )
        if boot is None or taken.image is not None or taken.notes:
            return taken
        note = (
            f'{name}: what belongs on /boot is on partition {boot.number}, '
            f'{boot.what}, in which no kernel was found'
        )
        return esp.BootFilesystem(notes=(note,))

    def _take(
        self, whole: disk.Disk, part: disk.Partition, target: pathlib.Path
    ) -> None:
        if part.superblock is None:
            return
        filesystem.take(
            whole.medium,
            part.start,
            part.superblock,
            target,
            name=self._path,
            repair=self._choice.options.repair,
            progress=self._progress,
        )

    def _place(self) -> pathlib.Path:
        if self._directory is None:
            self._directory = self._made(self._choice.work_directory)
        return self._directory

    def _home(self) -> pathlib.Path:
        home = self._choice.home
        if home is None or self._choice.work_directory is not None:
            return self._place()
        return self._made(home)

    def _made(self, place: pathlib.Path | None) -> pathlib.Path:
        return self._stack.enter_context(
            scratch.directory(
                place,
                self._path,
                f'{self._shown}: there is no directory to unpack it in',
            )
        )
