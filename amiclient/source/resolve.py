# SPDX-License-Identifier: Apache-2.0

"""The one door for sources: whatever holds a root filesystem.

A filesystem is taken as it is. From anything else (a disk with partitions, a
compressed file, an archive, a folder) its root filesystem is made in a
temporary folder, which goes away at the end.
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
from amiclient.ext import image as image_
from amiclient.ext import repair as repair_
from amiclient.ext import superblock
from amiclient.ext import workplace
from amiclient import files
from amiclient import locks
from amiclient.progress import Progress
from amiclient.progress import QUIET
from amiclient.source import block
from amiclient.source import bundle
from amiclient.source import detect
from amiclient.source import disk as disk_
from amiclient.source import esp
from amiclient.source import filesystem
from amiclient.source import opening
from amiclient.source import uec
from amiclient.source import unpacking
from amiclient.source import untying
from amiclient import sparse
from amiclient import units

Source = bundle.Source

#: Suffixes that say how something is stored, and are no part of a name.
_SUFFIX = re.compile(
    r'\.(gz|tgz|xz|txz|bz2|tbz2?|zst|tzst|lz4|tar|img|image|raw|bin|fs|ext[234]'
    r'|qcow2?|qed|vmdk|vhdx?|vdi|disk)$',
    re.IGNORECASE,
)

#: Compressions of compressed files that are undone.
_LAYERS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """How a source is taken.

    :param partition: the number of the partition with the root filesystem;
        None for the one that is found.
    :param allow_backing_file: whether a disk image may name other files that
        hold a part of it.
    :param repair: whether e2fsck may mend more than preening does where a
        filesystem that was taken out of a disk is not in order.
    :param fix: whether to mend what ties a root filesystem to the disk that
        it was on. Then a filesystem that is taken as it is is copied, too.
    :param report: whether to tell of that, where it is not mended. The rules
        of ``ami check`` do so themselves.
    :param headroom: what a shrink will leave free in it: what is made of
        files gets inodes for that.
    :param work_directory: where to make what is temporary; None for the
        usual places.
    :param home: where a root filesystem that is taken out of a disk is made
        then, because it will stay there; None for the usual places.
    """

    partition: int | None = None
    allow_backing_file: bool = False
    repair: bool = False
    fix: bool = False
    report: bool = True
    headroom: units.Headroom = units.NO_HEADROOM
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
        stack.enter_context(locks.reading(path))
        opener = _Opener(path, choice, progress, stack)
        source = opener.open()
        if not source.own:
            # One of the files of a saved AMI.
            stack.enter_context(locks.reading(source.root))
        source = _told_of_rest(source, path)
        source = opener.untied(source)
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


def _told_of_rest(source: Source, path: pathlib.Path) -> Source:
    """Say what of a file is no part of its filesystem."""
    try:
        if opening.special(source.root) is not None:
            # A FIFO must not be opened.
            return source
        rest = image_.behind(source.root, superblock.read(source.root))
    except (errors.SourceError, OSError):
        # Whoever opens it says what it is.
        return source
    if not rest:
        return source
    note = (
        f'{errors.shown(path)}: the {rest} bytes behind its filesystem are '
        'not zeros; they are no part of it, and are not taken along'
    )
    return dataclasses.replace(source, notes=(*source.notes, note))


def _clear_boot_sector(path: pathlib.Path) -> None:
    """Clear what lies before the superblock of a filesystem.

    Nova would take one with an old boot sector for a disk with partitions.
    """
    with contextlib.suppress(errors.SourceError):
        superblock.read(path)
        with sparse.opened(path, os.O_RDWR) as descriptor:
            os.pwrite(descriptor, bytes(superblock.OFFSET), 0)


def is_container(path: pathlib.Path) -> bool:
    """Tell whether a source is more than a filesystem as it is.

    :raises SourceError: if it is not there, or cannot be read.
    """
    return (
        opening.special(path) == 'a directory'
        or disk_.tell(path) is not None
        or unpacking.is_compressed(path)
        or (opening.special(path) is None and uec.is_tar(path))
    )


def _name(path: pathlib.Path) -> str | None:
    """Make a name of a file's, without what says how it is stored."""
    name = path.resolve().name
    while True:
        shorter = _SUFFIX.sub('', name)
        if shorter == name or not shorter:
            return name or None
        name = shorter


class _Opener:
    """One source, while it is taken.

    :param stack: removes what was made.
    """

    def __init__(
        self,
        path: pathlib.Path,
        choice: Choice,
        progress: Progress,
        stack: contextlib.ExitStack,
    ) -> None:
        self._path = path
        self._choice = choice
        self._progress = progress
        self._stack = stack
        self._folder: pathlib.Path | None = None
        self._notes: list[str] = []

    def open(self) -> Source:
        """Take the source for what it is."""
        if self.is_plain():
            plain = self.unpacked(self._path)
            kind = disk_.tell(plain)
            if kind is not None:
                return self._taken(plain, kind, own=plain != self._path)
            if plain != self._path:
                _clear_boot_sector(plain)
                return Source(
                    root=plain,
                    own=True,
                    format='compressed filesystem',
                    notes=tuple(self._notes),
                )
        source = self._stack.enter_context(
            bundle.opened(
                self._path,
                work_directory=self._choice.work_directory,
                headroom=self._choice.headroom,
                progress=self._progress,
            )
        )
        kind = disk_.tell(source.root)
        if source.root == self._path or kind is None:
            return source
        # Such as a saved AMI that is a qcow2.
        taken = self._taken(source.root, kind, own=source.own)
        return dataclasses.replace(
            source,
            root=taken.root,
            boot=taken.boot,
            own=True,
            partition=taken.partition,
            partitions=taken.partitions,
            notes=(*source.notes, *taken.notes),
        )

    def untied(self, source: Source) -> Source:
        """Mend what ties a root filesystem to a disk, or tell of it."""
        name = errors.shown(self._path)
        if not self._choice.fix:
            if source.partition is None or not self._choice.report:
                return source
            notes = untying.report(source.root, name)
            return dataclasses.replace(source, notes=source.notes + notes)
        if not source.own:
            source = self._copied(source)
        elif source.partition is None:
            found = superblock.read(source.root)
            repair_.mend(
                source.root,
                e2fsprogs.Toolbox.of(found),
                recover=found.needs_recovery or found.orphans,
                repair=self._choice.repair,
                name=self._path,
            )
        notes = untying.mend(source.root, name)
        return dataclasses.replace(source, notes=source.notes + notes)

    def _copied(self, source: Source) -> Source:
        root = detect.open_root(source.root)
        busy.refuse_busy(source.root)
        target = self._home() / 'copy.img'
        with opening.opened(
            source.root, wanted='a root filesystem image', devices=True
        ) as file:
            root.refuse_changed(files.state(file.fileno()))
            filesystem.take(
                block.RawMedium(file, errors.shown(source.root)),
                0,
                root.superblock,
                target,
                name=source.root,
                repair=self._choice.repair,
                progress=self._progress,
            )
        return dataclasses.replace(source, root=target, own=True)

    def is_plain(self) -> bool:
        """Tell whether it may be a disk or filesystem, compressed or not."""
        special = opening.special(self._path)
        if special is None:
            return not uec.is_tar(self._path)
        return special == 'a block device'

    def unpacked(self, path: pathlib.Path) -> pathlib.Path:
        """Undo its compression, if there is any."""
        for layer in range(_LAYERS):
            if not unpacking.is_compressed(path):
                return path
            target = self._place() / f'unpacked-{layer}'
            self._notes += unpacking.unpack(
                path,
                target,
                name=errors.shown(self._path),
                progress=self._progress,
            )
            if layer:
                path.unlink()
            path = target
        raise errors.SourceError(
            'compressed again and again', subject=errors.shown(self._path)
        )

    def disk(self, path: pathlib.Path, kind: str) -> disk_.Disk:
        """Open it as a disk."""
        return self._stack.enter_context(
            self._disk(path, kind, own=path != self._path)
        )

    def _disk(
        self, path: pathlib.Path, kind: str, *, own: bool
    ) -> contextlib.AbstractContextManager[disk_.Disk]:
        return disk_.opened(
            path,
            kind,
            self._place(),
            name=errors.shown(self._path),
            allow_backing_file=self._choice.allow_backing_file,
            beside=self._path.resolve().parent if own else None,
        )

    def _taken(self, path: pathlib.Path, kind: str, *, own: bool) -> Source:
        """Take the root filesystem out of a disk, and what is on /boot.

        :param own: whether it is a copy, in a temporary folder.
        """
        image = self._home() / 'root.img'
        busy.refuse_busy(path)
        before = files.state(path)
        with self._disk(path, kind, own=own) as disk:
            root = disk.root(self._choice.partition)
            self._take(disk, root, image)
            boot = self._boot(disk, root, image)
        if files.state(path) != before:
            raise errors.BusyError(
                'was changed while its root filesystem was taken out',
                subject=errors.shown(path),
                hint='end whatever writes to it first',
            )
        if self._folder in path.parents:
            # It may take much room, which is needed now.
            path.unlink()
        return Source(
            root=image,
            boot=boot.image,
            own=True,
            format=disk.format,
            partition=root.number,
            partitions=tuple(
                dataclasses.replace(each, is_boot=True)
                if each.number == boot.number
                else each
                for each in disk.partitions
            ),
            notes=(*self._notes, *disk.notes, *boot.notes),
        )

    def _boot(
        self, disk: disk_.Disk, root: disk_.Partition, image: pathlib.Path
    ) -> esp.Taken:
        """Take what belongs on /boot, if that is not in the root."""
        mounted = untying.boots(image)
        entry = next((e for e in mounted if e.path == '/boot'), None)
        boot = disk.boot(root, entry)
        name = errors.shown(self._path)
        if boot is not None and boot.superblock is not None:
            target = self._place() / 'boot.img'
            self._take(disk, boot, target)
            return esp.Taken(target, boot.number)
        if boot is not None and boot.fat is None:
            note = (
                f'{name}: what belongs on /boot is on partition '
                f'{boot.number}, {boot.what}, which is not looked into'
            )
            return esp.Taken(notes=(note,))
        parts = disk.loaders(root, mounted)
        if not parts or not (boot is not None or esp.is_needed(image)):
            return esp.Taken()
        taken = esp.take(
            disk, parts, self._place(), name=name, progress=self._progress
        )
        if boot is None or taken.image is not None or taken.notes:
            return taken
        note = (
            f'{name}: what belongs on /boot is on partition {boot.number}, '
            f'{boot.what}, in which no kernel was found'
        )
        return esp.Taken(notes=(note,))

    def _take(
        self, disk: disk_.Disk, part: disk_.Partition, target: pathlib.Path
    ) -> None:
        if part.superblock is None:
            return
        filesystem.take(
            disk.medium,
            part.start,
            part.superblock,
            target,
            name=self._path,
            repair=self._choice.repair,
            progress=self._progress,
        )

    def _place(self) -> pathlib.Path:
        """Make the folder for all that is temporary, once."""
        if self._folder is None:
            self._folder = self._made(self._choice.work_directory)
        return self._folder

    def _home(self) -> pathlib.Path:
        """Make the folder for the root filesystem."""
        home = self._choice.home
        if home is None or self._choice.work_directory is not None:
            return self._place()
        return self._made(home)

    def _made(self, place: pathlib.Path | None) -> pathlib.Path:
        return self._stack.enter_context(
            workplace.folder(
                place,
                self._path,
                f'{errors.shown(self._path)}: there is no folder to unpack '
                'it in',
            )
        )
