# SPDX-License-Identifier: Apache-2.0

"""The one door for sources: whatever holds a root filesystem.

A filesystem is taken as it is. From anything else (a disk with partitions, a
compressed file, an archive, a directory) its root filesystem is made in a
temporary directory, which goes away at the end.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import functools
import os
import pathlib
import re

from amiclient import errors
from amiclient.ext import busy
from amiclient.ext import e2fsprogs
from amiclient.ext import layout
from amiclient.ext import reader
from amiclient.ext import repair
from amiclient.ext import superblock
from amiclient import locks
from amiclient.progress import Progress
from amiclient.progress import QUIET
from amiclient import scratch
from amiclient.source import block
from amiclient.source import build
from amiclient.source import bundle
from amiclient.source import contents
from amiclient.source import disk
from amiclient.source import filesystem
from amiclient.source import fix
from amiclient.source import live
from amiclient.source import manifest
from amiclient.source import merge
from amiclient.source import oci
from amiclient.source import opening
from amiclient.source import origins
from amiclient.source import ostree
from amiclient.source import probe
from amiclient.source import qemu_nbd
from amiclient.source import streams
from amiclient.source import uec
from amiclient.source import unpacking
from amiclient import sparse

Source = bundle.Source
Choice = bundle.Choice

#: Suffixes that say how something is stored, and are no part of a name.
_SUFFIX = re.compile(
    r'\.(gz|tgz|xz|txz|bz2|tbz2?|zst|tzst|lz4|tar|img|image|raw|bin|fs|ext[234]'
    r'|qcow2?|qed|vmdk|vhdx?|vdi|disk|ova|box|zip|iso|squashfs|sfs|oci)$',
    re.IGNORECASE,
)

#: The format of what is compressed, and no disk and no archive.
_COMPRESSED = 'compressed filesystem'

#: Compressions of compressed files that are undone.
_LAYERS = 3

#: Bytes that are free in what is made of files, for ``--fix``.
_FIX_ROOM = 64 << 10


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
        given = path
        path = stack.enter_context(
            opening.settled(given, choice.work_directory)
        )
        held = stack.enter_context(locks.reading(path))
        opener = _Opener(
            probe.look(path, held), given, choice, progress, stack, held
        )
        source = opener.untied(opener.open())
        # Nobody else needs what came through a pipe.
        own = source.own or (path != given and source.root == path)
        source = dataclasses.replace(source, own=own)
        if source.own and source.name is None and path == given:
            source = dataclasses.replace(source, name=_name(path))
        if source.own:
            stack.enter_context(
                errors.renamed(source.root, opening.shown(given))
            )
        yield source


@contextlib.contextmanager
def origin(
    path: pathlib.Path, choice: Choice, *, progress: Progress = QUIET
) -> Iterator[tuple[origins.Origin, tuple[str, ...]]]:
    """Take what the user named for files that a filesystem is made of.

    What was unpacked for it goes away at the end of the block.

    :returns: these, and what the user should know.
    :raises SourceError: if it is a filesystem or a disk, or as
        :func:`opened` does.
    """
    with contextlib.ExitStack() as stack:
        given = path
        path = stack.enter_context(
            opening.settled(given, choice.work_directory)
        )
        held = stack.enter_context(locks.reading(path))
        found = probe.look(path, held)
        yield _Opener(found, given, choice, progress, stack, held).origin()


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
    :param given: what the user named.
    :param stack: removes what was made.
    :param held: a descriptor of it, if it is locked.
    """

    def __init__(
        self,
        found: probe.Probe,
        given: pathlib.Path,
        choice: Choice,
        progress: Progress,
        stack: contextlib.ExitStack,
        held: int | None,
    ) -> None:
        self._found = found
        self._descriptor = held
        self._path = found.path
        self._shown = opening.shown(given)
        self._choice = choice
        self._progress = progress
        self._stack = stack
        self._directory: pathlib.Path | None = None
        self._notes: tuple[str, ...] = ()
        #: Where in the file the disk is that is meant, and which one that is.
        self._slice: opening.Slice | None = None
        self._within: str | None = None

    def open(self) -> Source:
        """Take the source for what it is."""
        taken, found = self._opened(), self._found
        if isinstance(taken, Source):
            source = taken
        else:
            self._refuse_useless(taken, False)
            source = self._built(taken)
        source = dataclasses.replace(
            source, notes=(*self._notes, *source.notes)
        )
        kind: str | None
        if self._slice is not None:
            kind = contents.disk_kind(self._slice, self._shown)
        else:
            if source.root != self._path:
                if not source.own:
                    # One of the files of a saved AMI.
                    self._stack.enter_context(locks.reading(source.root))
                found = probe.look(source.root)
            # A saved AMI may be one, too, such as a qcow2.
            kind = found.found.disk
            if isinstance(taken, Source) and source.manifest is None:
                kind = kind or self._kind(source.root, found.superblock)
        self._refuse_useless(taken, kind is not None)
        if kind is not None:
            return self._taken(source, kind)
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

    def _kind(
        self, root: pathlib.Path, block: superblock.Superblock | None
    ) -> str | None:
        """Tell whether a filesystem is taken as a disk is.

        :raises SourceError: if it has only what belongs on /boot or /usr.
        """
        is_given, place, is_ostree = root == self._path, '', False
        # Whoever opens it says what is wrong with it.
        with (
            contextlib.suppress(errors.SourceError, OSError),
            contextlib.ExitStack() as stack,
        ):
            descriptor = self._descriptor if is_given else None
            if descriptor is None:
                opened = sparse.opened(root, os.O_RDONLY)
                descriptor = stack.enter_context(opened)
            if block is not None:
                files = reader.Reader(layout.Layout(descriptor, block))
                is_ostree = ostree.is_one(files)
                place = disk.part_of_root(files)
        if place:
            raise errors.SourceError(
                f'a filesystem with what belongs in {place}, not a root '
                'filesystem',
                subject=self._shown,
                hint='give the disk, or the filesystem that is mounted on /',
            )
        return 'raw' if is_ostree else None

    def origin(self) -> tuple[origins.Origin, tuple[str, ...]]:
        """Take the source for files; see :func:`origin`."""
        found = self._found
        if (
            found.is_directory
            or found.found.holds in ('iso', 'squashfs')
            or (found.special is None and uec.is_tar(self._path))
        ):
            taken = self._opened()
            self._refuse_useless(taken, False)
            if not isinstance(taken, Source):
                return taken, self._notes
        # Whoever reads it says what it is.
        return origins.found(self._path), ()

    def _refuse_useless(
        self, taken: Source | origins.Origin, is_disk: bool
    ) -> None:
        self._choice.refuse_useless(
            self._shown,
            is_disk=is_disk,
            is_archive=isinstance(taken, origins.ArchiveOrigin),
            is_container=isinstance(taken, origins.LayersOrigin),
        )

    def _opened(self) -> Source | origins.Origin:
        path, found = self._path, self._found
        if found.is_directory:
            store = oci.DirectoryStore(path)
            if oci.is_one(store):
                return self._layers(store)
            if bundle.is_saved(path):
                return bundle.saved(
                    path / manifest.NAME, progress=self._progress
                )
            return origins.DirectoryOrigin(path)
        if found.special is None:
            if manifest.is_one(found.head):
                return bundle.saved(path, progress=self._progress)
            if found.compression is not None:
                return self._decompressed(path)
            if found.is_tar:
                return self._plain_archive()
            if found.found.holds is not None:
                return self._holding(found.found, path)
        return Source(root=path)

    def _decompressed(self, path: pathlib.Path) -> Source | origins.Origin:
        for layer in range(_LAYERS):
            with contextlib.ExitStack() as stack:
                stream = stack.enter_context(
                    streams.opened(path, wanted='a source', name=self._shown)
                )
                if path == self._path and probe.is_tar(
                    stream.peek(probe.TAR_BLOCK)
                ):
                    # Whoever reads on does so later.
                    self._stack.push(stack.pop_all())
                    return self._archive(stream)
                target = self._place() / f'unpacked-{layer}'
                self._notes += unpacking.unpack(
                    stream, target, progress=self._progress
                )
            if path != self._path:
                path.unlink()
            path = target
            found = probe.look(path)
            if found.found.holds is not None:
                return self._holding(found.found, path)
            if found.compression is None:
                return Source(root=path, own=True, format=_COMPRESSED)
        raise errors.SourceError(
            'compressed too many times', subject=self._shown
        )

    def _archive(
        self, stream: streams.Stream, reopen: origins.Reopen | None = None
    ) -> Source | origins.Origin:
        """Take an archive that is read from its beginning to its end.

        :param reopen: opens it again; None if it is the source itself.
        """
        strip = self._choice.strip_components
        kind = 'files' if reopen is None else 'squashfs'
        if strip:
            return origins.ArchiveOrigin(
                self._path, strip, stream, reopen, kind
            )
        directory = self._made(self._choice.work_directory)
        stream.remember()
        others = contents.Unpacker(stream, directory, self._progress)
        found = uec.unpack_stream(
            stream, directory, progress=self._progress, others=others
        )
        if found is not None:
            return bundle.unpacked(found, self._shown)
        return self._held(others.held) or origins.ArchiveOrigin(
            self._path,
            stream=stream if stream.rewind() else None,
            reopen=reopen,
            format=kind,
        )

    def _holding(
        self, found: probe.Found, path: pathlib.Path
    ) -> Source | origins.Origin:
        """Take what is neither a disk nor files, but holds one of these."""
        name = self._shown
        if found.holds == 'iso':
            inner, slices = live.root_in(path, name)
            self._within = f'{errors.shown(inner, 200)} in an ISO image'
            slice, *rest = slices
            if rest:
                where = f'{self._within}, in {len(slices)} layers'
                self._notes += (f'{name}: its root filesystem is {where}',)
                return origins.OverlayOrigin(slices, self._place(), name)
            if contents.disk_kind(slice, name):
                self._slice = slice
                return Source(root=path)
            # sqfs2tar has no offset.
            path = self._place() / 'root.squashfs'
            slice.copy(path)
        if found.holds != 'zip':
            reopen = functools.partial(live.opened, path, name)
            return self._archive(self._stack.enter_context(reopen()), reopen)
        held = contents.unzip(
            path, name, self._place(), progress=self._progress
        )
        taken = self._held(held)
        if taken is None:
            raise errors.SourceError(
                f'{found.phrase} without a disk',
                subject=name,
                hint=found.hint,
            )
        return taken

    def _plain_archive(self) -> Source | origins.Origin:
        """Take an archive in which anything can be read where it is."""
        strip = self._choice.strip_components
        held = None if strip else contents.survey(self._path, self._shown)
        roles = set(map(uec.role, held.blobs)) if held is not None else set()
        if not strip and (held is None or uec.is_likely(roles)):
            stream = self._stack.enter_context(
                streams.opened(self._path, wanted='an archive')
            )
            return self._archive(stream)
        taken = self._held(held) if held is not None else None
        return taken or origins.ArchiveOrigin(self._path, strip)

    def _held(self, held: contents.Held) -> Source | origins.Origin | None:
        """Take what an archive has instead of files, if there is something."""
        if held.is_files:
            return None
        store = oci.ArchiveStore(held)
        if oci.is_one(store):
            return self._layers(store)
        self._notes += held.notes
        chosen = held.disk()
        if chosen is None:
            return None
        name, slice = chosen
        self._within = f'{errors.shown(name, 200)} in an archive'
        if slice.path == self._path and contents.is_readable(
            slice, self._shown
        ):
            self._slice = slice
            return Source(root=self._path)
        path = slice.path
        if path == self._path:
            path = self._place() / 'copy'
            slice.copy(path)
        if probe.look(path).compression is not None:
            return self._decompressed(path)
        return Source(root=path, own=True, format=_COMPRESSED)

    def _layers(self, store: oci.Store) -> origins.Origin:
        image = oci.choose(store, self._choice.architecture)
        self._notes += (f'{self._shown}: {image.note}',)
        return origins.LayersOrigin(image, self._place(), self._shown)

    def _built(self, origin: origins.Origin) -> Source:
        headroom = self._choice.options.headroom
        if self._choice.fix:
            # What it adds takes a block or two, and an inode.
            headroom = headroom._replace(size=max(headroom.size, _FIX_ROOM))
        root = build.temporary_image(
            self._path,
            origin,
            self._made(self._choice.work_directory),
            name=self._shown,
            headroom=headroom,
            progress=self._progress,
        )
        return Source(root=root, own=True, format=origin.format)

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
            notes = fix.report(source.root, name, frozenset(source.merged))
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
        notes = fix.mend(source.root, name, frozenset(source.merged))
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
        stored = qemu_nbd.DiskImage(
            path,
            kind,
            self._shown,
            self._choice.allow_backing_file,
            self._path.resolve().parent if source.own else None,
            self._slice,
        )
        wanted = merge.Wanted(
            source=self._path,
            partition=self._choice.partition,
            leave_out=self._choice.leave_out,
            luks_key_file=self._choice.luks_key_file,
            ask_secret=self._choice.ask_secret,
            options=self._choice.options,
        )
        with disk.opened(stored, self._place()) as whole:
            merger = merge.Merger(
                whole, wanted, self._place(), progress=self._progress
            )
            taken = merger.take(image)
            boot = merger.boot(taken, image)
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
        within = f' ({self._within})' if self._within else ''
        return dataclasses.replace(
            source,
            root=image,
            boot=boot.image,
            own=True,
            format=known or whole.format + within,
            partition=taken.number,
            merged=taken.merged,
            partitions=tuple(
                dataclasses.replace(each, is_boot=True)
                if each is boot.part
                else each
                for each in whole.partitions
            ),
            notes=(*source.notes, *whole.notes, *taken.notes, *boot.notes),
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
