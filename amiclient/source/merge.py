# SPDX-License-Identifier: Apache-2.0

"""A disk's filesystems as one: the root filesystem with all that it mounts.

Of a disk whose root filesystem is ext and mounts nothing else, that filesystem
is taken as it is. Else a new one is made, with the files of all of them and
the name of the root filesystem: a server has no other partitions.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import os
import pathlib
from typing import Any
import uuid

from amiclient import confinement
from amiclient import errors
from amiclient.ext import reader
from amiclient.ext import superblock
from amiclient.files import Files
from amiclient import process
from amiclient.progress import Progress
from amiclient.progress import Task
from amiclient import scratch
from amiclient.source import appliance
from amiclient.source import build
from amiclient.source.disk import Disk
from amiclient.source.disk import Partition
from amiclient.source import esp
from amiclient.source import ext_files
from amiclient.source import fat
from amiclient.source import file_tree
from amiclient.source import filesystem
from amiclient.source import fstab
from amiclient.source import mounts
from amiclient.source import opening
from amiclient.source import ostree
from amiclient.source import partitions
from amiclient.source import qemu_nbd
from amiclient.source import volumes
from amiclient import units

#: Bytes of a file with a passphrase, or a key, at most: twice what its users
#: make.
_KEY = 8192

#: Bytes of a label of ext4.
_LABEL = 16

#: Where generators of systemd are.
_GENERATORS = (
    '/usr/lib/systemd/system-generators',
    '/lib/systemd/system-generators',
)

#: The part of the free disk that is left to others, as one in so many; and
#: what the size of the disk of a copy is a multiple of, in bytes.
_LEFT = 20
_STEP = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be taken out of a disk.

    The parameters are those of :class:`amiclient.source.bundle.Choice`.
    """

    source: pathlib.Path
    partition: int | None = None
    leave_out: tuple[str, ...] = ()
    luks_key_file: pathlib.Path | None = None
    ask_secret: Callable[[str], str] | None = None
    options: units.FilesystemOptions = units.DEFAULTS


@dataclasses.dataclass(frozen=True)
class MergedOrigin:
    """The files of several filesystems.

    :param size: of them, in bytes, about.
    :param fill: puts them into a tree.
    """

    size: int
    fill: Callable[[file_tree.FileTree, Task], None]
    kind: str = 'a disk'
    format: str = 'files'


@dataclasses.dataclass(frozen=True)
class Taken:
    """What was taken.

    :param number: of the partition with the root filesystem.
    :param merged: where others were mounted that are within it now.
    :param notes: what the user should know.
    """

    number: int
    merged: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Merger:
    """Takes the root filesystem, and what it mounts, out of a disk.

    :param place: a private directory.
    """

    def __init__(
        self,
        disk: Disk,
        wanted: Wanted,
        place: pathlib.Path,
        *,
        progress: Progress,
    ) -> None:
        self._disk = disk
        self._wanted = wanted
        self._place = place
        self._progress = progress
        self._name = disk.medium.name

    def take(self, image: pathlib.Path) -> Taken:
        """Make one filesystem.

        :param image: the file that is made.
        :raises SourceError: if there is no root filesystem, or something that
            it mounts cannot be a part of it.
        :raises UsageError: if what is to be left out is not mounted.
        """
        if self._wanted.luks_key_file and not any(
            map(volumes.may_be_encrypted, self._disk.partitions)
        ):
            raise errors.UsageError(
                f'nothing on {self._name} is encrypted with LUKS',
                subject='--luks-key-file',
                hint='leave out --luks-key-file',
            )
        root = self._disk.root(self._wanted.partition)
        if root is None:
            return self._look_in(image)
        self.copy(root, image)
        with self._opened(root, image) as files:
            deployed, boot = self._deployed(root, files)
            top = deployed.path if deployed else ''
            entries = fstab.entries(files, top)
            entries += tuple(u.entry for u in fstab.units(files, top))
            typed, notes = self._typed(files, top, entries)
            entries += typed
        found = mounts.find(
            entries,
            self._disk.partitions,
            self._wanted.leave_out,
            name=self._name,
        )
        found = dataclasses.replace(found, notes=found.notes + notes)
        if deployed is not None:
            found = found.placed(deployed.place, boot)
        foreign = any(part.foreign for part in self._disk.partitions)
        if any(each.part.foreign for each in found.found) or (
            found.missing and foreign
        ):
            image.unlink(missing_ok=True)
            return self._look_in(image)
        # A disk without partitions has never had the rest.
        problems = [
            (each, 'not on this disk')
            for each in found.missing
            if root.number or root.paths
        ]
        problems += [
            (each.entry, each.part.what)
            for each in found.found
            if not each.part.has_files and each.part.fat is None
        ]
        mounts.refuse(problems, self._name)
        if deployed is None:
            self._refuse_bare(root, image, found)
        if found.found or deployed is not None or root.superblock is None:
            self._merge(root, image, found.found)
        return self._taken(root.number, found)

    def _typed(
        self, files: Files[Any], top: str, entries: Sequence[fstab.FstabEntry]
    ) -> tuple[tuple[fstab.FstabEntry, ...], tuple[str, ...]]:
        """Find what systemd mounts by the type in the partition table.

        :returns: lines as fstab would have them, and what the user should
            know of what is not mounted.
        """
        known = {each.path for each in entries}
        found: dict[str, fstab.FstabEntry] = {}
        notes = []
        has_generator = any(
            files.find(f'{top}{place}/systemd-gpt-auto-generator')
            for place in _GENERATORS
        )
        for part in self._disk.partitions:
            path = partitions.GPT_MOUNTS.get(part.type)
            if path is None or not (part.has_files or part.foreign):
                continue
            entry = fstab.FstabEntry(f'PARTUUID={part.uuid}', path, 'auto', ())
            if any(part.tags.named_by(each) for each in entries) or (
                part.has_files
                and set(self._disk.files(part).names('/')) <= {'lost+found'}
            ):
                continue
            if (
                # It has to be that of the machine, by the ID of that.
                path != '/var'
                and has_generator
                and part.is_auto
                and path not in known
                and path not in found
                and not files.names(top + path)
            ):
                found[path] = entry
            else:
                notes.append(
                    f'{self._name}: {part.shown}, is for {path} by its type, '
                    'but nothing mounts it, and it is left out'
                )
        return tuple(found.values()), tuple(notes)

    def _deployed(
        self, root: Partition, files: Files[Any]
    ) -> tuple[ostree.Deployment | None, Partition | None]:
        """Find the system of ostree that boots, and its /boot.

        That is mounted as a unit of the system says, if fstab does not.

        :param files: of the root filesystem.
        """
        part = self._disk.boot(root.number, None)
        boot = None
        if part is not None and part.has_files:
            boot = self._disk.files(part)
        if any(files.names(ostree.ENTRIES)):
            boot = None
        found = ostree.find(ostree.BlockFiles(files, boot), self._name)
        return found, None if found is None or boot is None else part

    def boot(self, taken: Taken, image: pathlib.Path) -> esp.BootFilesystem:
        """Take what belongs on /boot, if that is not in the root."""
        mounted = fstab.boot_mounts(image)
        entry = next((e for e in mounted if e.path == '/boot'), None)
        boot = self._disk.boot(taken.number, entry)
        if boot is not None and boot.fat is None and '/boot' in taken.merged:
            boot = None
        name = self._name
        if boot is not None and boot.has_files:
            target = self._place / 'boot.img'
            self.copy(boot, target)
            if boot.superblock is None:
                self._merge(boot, target, (), rooted=False)
            return esp.BootFilesystem(target, boot)
        if boot is not None and boot.fat is None:
            note = (
                f'{name}: what belongs on /boot is on {boot.shown}, '
                'which is not looked into'
            )
            return esp.BootFilesystem(notes=(note,))
        parts = self._disk.loaders(taken.number, mounted)
        if not parts or not (boot is not None or esp.is_needed(image)):
            return esp.BootFilesystem()
        found = esp.take(
            self._disk,
            parts,
            self._place,
            name=name,
            progress=self._progress,
        )
        if boot is None or found.image is not None or found.notes:
            return found
        note = (
            f'{name}: what belongs on /boot is on {boot.shown}, '
            'in which no kernel was found'
        )
        return esp.BootFilesystem(notes=(note,))

    def copy(self, part: Partition, target: pathlib.Path) -> None:
        """Copy an ext filesystem, and bring it in order.

        One of XFS that is read here is in order where it is.

        :raises AmiError: as :func:`amiclient.source.filesystem.take` does.
        """
        if part.superblock is None:
            return
        filesystem.take(
            self._disk.medium,
            part.start,
            part.superblock,
            target,
            name=self._wanted.source,
            repair=self._wanted.options.repair,
            progress=self._progress,
        )

    def _refuse_bare(
        self,
        root: Partition,
        image: pathlib.Path,
        found: mounts.Mounts[Partition],
    ) -> None:
        """Refuse a root filesystem whose /usr is elsewhere, unknown to it."""
        usr = [
            each
            for each in self._disk.partitions
            if each.is_usr or each.typed_usr
        ]
        known = (*(e.path for e in found.found), *self._wanted.leave_out)
        if not usr or '/usr' in known:
            return
        with self._opened(root, image) as files:
            if not files.names('/usr'):
                self._disk.refuse_apart(usr)

    def _taken(
        self,
        number: int,
        found: mounts.Mounts[Partition] | mounts.Mounts[volumes.Volume],
    ) -> Taken:
        merged = tuple(each.path for each in found.found)
        notes = found.notes
        if merged:
            listed = errors.some(
                [
                    f'{errors.shown(each.path)} ({each.part.shown})'
                    for each in found.found
                ]
            )
            notes += (f'{self._name}: merged into the image: {listed}',)
        return Taken(number, merged, notes)

    def _look_in(self, image: pathlib.Path) -> Taken:
        """Have libguestfs read what nothing else here does."""
        output = self._place / 'copied.img'
        wanted = self._wanted
        try:
            process.find('guestfish')
        except errors.ProgramError as error:
            phrases = {p.what for p in self._disk.partitions if p.foreign}
            raise errors.ProgramError(
                f'{error.message}, which reads {" or ".join(sorted(phrases))}',
                subject=self._name,
                hint=error.hint,
            ) from error
        encrypted = [
            f'{part.where} of {self._name}'
            for part in self._disk.partitions
            if part.what == volumes.LUKS
        ]
        if encrypted and (wanted.luks_key_file or wanted.ask_secret is None):
            # It takes a while until the appliance needs it.
            self._key(encrypted[0])
        with contextlib.ExitStack() as stack:
            place = stack.enter_context(appliance.meeting_place(self._place))
            served = stack.enter_context(
                qemu_nbd.served(self._disk.image, place)
            )
            _make_empty(output)
            running = stack.enter_context(
                appliance.started(
                    served, output, self._place, progress=self._progress
                )
            )
            stack.enter_context(self._progress.task('Copying'))
            copied = volumes.Explorer(
                running, self._disk, wanted.partition, self._key
            ).copy(wanted.leave_out)
        with reader.opened(output) as files:
            size = files.superblock.in_use

        def fill(tree: file_tree.FileTree, task: Task) -> None:
            self._fill(output, tree, task, top=volumes.COPY)

        tags = copied.root.tags
        self._build(image, MergedOrigin(size, fill), tags.label, tags.uuid)
        return self._taken(copied.number, copied.mounts)

    def _key(self, what: str) -> bytes:
        """Find out the passphrase of an encrypted partition, or its key.

        :raises UsageError: if there is none, and nobody to ask.
        """
        file, ask = self._wanted.luks_key_file, self._wanted.ask_secret
        if file is None:
            if ask is not None and (told := ask(f'Passphrase of {what}: ')):
                return os.fsencode(told)
            raise errors.UsageError(
                f'{what} is encrypted',
                hint='give its passphrase with --luks-key-file FILE',
            )
        with opening.opened(file, wanted='a passphrase') as secret:
            data = secret.read(_KEY + 1)
        if len(data) > _KEY or not data.strip(b'\r\n'):
            raise errors.UsageError(
                f'it has more than {_KEY} bytes'
                if len(data) > _KEY
                else 'there is no passphrase in it',
                subject=f'--luks-key-file {errors.shown(file)}',
                hint='give a file with the passphrase, or a key file',
            )
        return data

    def _build(
        self,
        image: pathlib.Path,
        origin: MergedOrigin,
        label: str,
        identity: str,
        *,
        rooted: bool = True,
    ) -> None:
        """Make a filesystem with the name of the one that was the root.

        Other filesystems may have names that ext4 cannot have.
        """
        own = None
        with contextlib.suppress(ValueError):
            own = uuid.UUID(identity)
        request = build.BuildRequest(
            self._wanted.source,
            image,
            options=units.FilesystemOptions(self._wanted.options.headroom),
            label=label if len(label.encode()) <= _LABEL else None,
            identity=own,
            durable=False,
            rooted=rooted,
        )
        build.execute(build.plan(request, origin), progress=self._progress)

    def _merge(
        self,
        root: Partition,
        image: pathlib.Path,
        found: Sequence[mounts.Mount[Partition]],
        *,
        rooted: bool = True,
    ) -> None:
        """Put the files of a filesystem and of others into a new one.

        :param image: a copy of the first, if it is ext; and the new one.
        :param rooted: whether it has to be a root filesystem.
        """
        first = image.with_name('first.img')
        if root.superblock is not None:
            image.rename(first)
        copies = [
            self._place / f'mounted-{number}.img'
            for number in range(len(found))
        ]
        for each, copy in zip(found, copies, strict=True):
            self.copy(each.part, copy)

        def fill(tree: file_tree.FileTree, task: Task) -> None:
            self._fill(first, tree, task, part=root)
            for each, copy in zip(found, copies, strict=True):
                at = fstab.encoded(each.at).strip(b'/')
                if each.part.fat is None:
                    self._fill(copy, tree, task, part=each.part, at=at)
                    continue
                fat.fill(
                    self._disk.medium,
                    each.part.start,
                    each.part.size,
                    tree,
                    task,
                    at=at,
                    options=each.entry.options,
                )

        size = self._in_use(root, first) + sum(
            self._in_use(each.part, copy)
            for each, copy in zip(found, copies, strict=True)
        )
        self._build(
            image,
            MergedOrigin(size, fill),
            root.label,
            root.tags.uuid,
            rooted=rooted,
        )

    def _in_use(self, part: Partition, copy: pathlib.Path) -> int:
        if part.superblock is not None:
            return superblock.read(copy).in_use
        return part.xfs.in_use if part.xfs is not None else 0

    @contextlib.contextmanager
    def _opened(
        self, part: Partition | None, copy: pathlib.Path
    ) -> Iterator[Files[Any]]:
        """Open a filesystem: where it is, or its copy if it has one."""
        if part is not None and part.xfs is not None:
            with errors.about(self._name):
                yield self._disk.files(part)
        else:
            with errors.renamed(copy, self._name), reader.opened(copy) as its:
                yield its

    def _fill(
        self,
        copy: pathlib.Path,
        tree: file_tree.FileTree,
        task: Task,
        *,
        part: Partition | None = None,
        at: bytes = b'',
        top: str = '/',
    ) -> None:
        """Move the files of a filesystem into a tree."""
        with self._opened(part, copy) as files:
            ext_files.fill(files, tree, task, at=at, top=top)
        copy.unlink(missing_ok=True)


def _make_empty(path: pathlib.Path) -> None:
    """Make a filesystem that has room for whatever fits on the disk."""
    room = scratch.room(path.parent)
    with path.open('xb') as file:
        file.truncate((room - room // _LEFT) // _STEP * _STEP)
    # Blocks that are not written to take no room here.
    process.run(
        [
            'mke2fs', '-q', '-F', '-t', 'ext4',
            '-O', '^has_journal,ea_inode',
            '-E', 'lazy_itable_init=1,root_owner=0:0',
            '-i', '8192',
            path,
        ],
        access=confinement.Access(writes=(path,), mounts=True),
    )  # fmt: skip
