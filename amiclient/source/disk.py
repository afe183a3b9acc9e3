# SPDX-License-Identifier: Apache-2.0

"""Disks with partitions: which of them holds the root filesystem.

That is told by what is in them: a filesystem of ext or XFS with the files of a
root filesystem. Only where several could be meant, the type in the partition
table decides, or the user.
"""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import dataclasses
import pathlib
import re
from typing import Any

from amiclient import errors
from amiclient.ext.reader import Reader
from amiclient.ext.superblock import Superblock
from amiclient.files import Files
from amiclient.source.block import Medium
from amiclient.source.block import RawMedium
from amiclient.source import fat
from amiclient.source import filesystem
from amiclient.source import fstab
from amiclient.source import lvm
from amiclient.source import mounts
from amiclient.source import opening
from amiclient.source import ostree
from amiclient.source import partitions
from amiclient.source import probe
from amiclient.source import qemu_headers
from amiclient.source import qemu_nbd
from amiclient import units
from amiclient.xfs.reader import XfsReader
from amiclient.xfs.superblock import XfsSuperblock

#: Any of these is in a root filesystem.
ROOT_FILES = (
    '/etc/os-release',
    '/usr/lib/os-release',
    '/etc/passwd',
    '/sbin/init',
    '/usr/sbin/init',
    '/usr/lib/systemd/systemd',
    '/init',
    *ostree.MARKS,
)

#: Any of these is in what belongs on /usr.
USR_FILES = ('/lib/os-release', '/lib/systemd')

#: How the names of kernels and ramdisks begin.
KERNELS = ('vmlinu', 'bzImage', 'kernel-', 'Image')
RAMDISKS = ('initrd', 'initramfs')

#: Directories at the top of a /boot, of GRUB, ostree and others.
_BOOT_DIRECTORIES = frozenset(
    ('grub', 'grub2', 'loader', 'extlinux', 'syslinux', 'EFI')
)

#: Types of partitions that boot loaders know of: the Boot Loader
#: Specification's own, which is preferred, and the EFI system partition.
_LOADERS = (
    ('bc13c2ff-59e6-4262-a352-b275fd6f7172', 'ea'),
    ('c12a7328-f81f-11d2-ba4b-00a0c93ec93b', 'ef'),
)

_FAT = 'a FAT filesystem'

#: Names of partitions with versions of a system, one of which is in use.
_SLOT = re.compile(r'(.*?)[-_. ]?(?:[abAB]|[01])')
_XFS = 'an XFS filesystem'
_ITS = 'its partition'
_BEYOND = 'beyond the end of the disk'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Partition:
    """One partition or logical volume, and what is in it.

    :param number: as the kernel counts; 0 for the whole of a disk that has
        no partitions. Of a logical volume, that of its physical volume.
    :param start: bytes from the beginning of the disk; of a logical volume, of
        the medium that has the volumes after its end.
    :param size: bytes.
    :param type: a GUID, or two hexadecimal digits (MBR); '' for a whole disk.
    :param type_name: what that means, where it says something.
    :param uuid: its PARTUUID.
    :param partlabel: its PARTLABEL.
    :param what: what is in it, with an article.
    :param superblock: of its ext filesystem, if it has one that fits in.
    :param xfs: that of its XFS filesystem, if it has one that is read here.
    :param foreign: whether libguestfs may find filesystems in it.
    :param fat: what its FAT filesystem is called, if it has one.
    :param is_root: whether that has the files of a root filesystem.
    :param is_boot: whether it has kernels, ramdisks or a boot loader at its
        top.
    :param is_usr: whether it has what belongs on /usr, as Flatcar has it.
    :param paths: what the device of a logical volume is called; else empty.
    :param is_auto: whether systemd may mount it because of its type.
    """

    number: int
    start: int
    size: int
    type: str
    type_name: str | None
    uuid: str
    partlabel: str
    what: str
    superblock: Superblock | None
    xfs: XfsSuperblock | None
    foreign: bool
    fat: fat.FatVolume | None
    is_root: bool
    is_boot: bool
    is_usr: bool = False
    paths: tuple[str, ...] = ()
    is_auto: bool = False

    @property
    def has_files(self) -> bool:
        """Whether it has a filesystem of ext or XFS that is read here."""
        return self.superblock is not None or self.xfs is not None

    @property
    def typed_root(self) -> bool:
        """Whether the partition table says that it is the root filesystem."""
        return self.type in partitions.GPT_ROOTS

    @property
    def typed_usr(self) -> bool:
        """Whether the partition table says that it belongs on /usr."""
        return self.type in partitions.GPT_USRS

    @property
    def tags(self) -> mounts.Tags:
        """By what it is named."""
        return mounts.Tags(
            number=0 if self.paths else self.number,
            uuid=self._uuid,
            label=self.label,
            partuuid=self.uuid,
            partlabel=self.partlabel,
            paths=self.paths,
        )

    @property
    def label(self) -> str:
        """The label of its filesystem, if that can be told; or ''."""
        named = self.superblock or self.xfs or self.fat
        return '' if named is None else named.label

    @property
    def _uuid(self) -> str:
        if self.fat is not None:
            return self.fat.serial
        named = self.superblock or self.xfs
        return '' if named is None else named.uuid

    @property
    def shown(self) -> str:
        """What it is, in a few words."""
        return f'{self.where}, {self.what}'

    @property
    def where(self) -> str:
        """Which one it is."""
        if self.paths:
            return f'logical volume {self.paths[0].removeprefix("/dev/")}'
        return f'partition {self.number}' if self.number else 'the disk'

    @property
    def content(self) -> str:
        """What is in it, and in which of several in one partition."""
        return f'{self.where}: {self.what}' if self.paths else self.what

    def __str__(self) -> str:
        words = [self.where] if self.paths else []
        words += [units.format_size(self.size), self.what]
        if self.label:
            words.append(f'label {errors.safe(self.label)}')
        if self.partlabel:
            words.append(f'named {errors.safe(self.partlabel)}')
        if self.is_root:
            words.append('with a root filesystem')
        elif self.is_boot:
            words.append('with what belongs in /boot')
        elif self.is_usr:
            words.append('with what belongs in /usr')
        told = ', '.join(words)
        # There may be no partitions.
        return f'{self.number}: {told}' if self.number else told


@dataclasses.dataclass(frozen=True)
class Disk:
    """A disk, and what is on it.

    :param medium: to read it by.
    :param image: where it is.
    :param format: what it is, for people.
    """

    medium: Medium
    image: qemu_nbd.DiskImage
    format: str
    partitions: tuple[Partition, ...]
    notes: tuple[str, ...] = ()

    def root(self, number: int | None = None) -> Partition | None:
        """Choose the partition with the root filesystem.

        :param number: the one that the user wants; None for any.
        :returns: None if it must be in what libguestfs has to look into.
        :raises UsageError: if there is no such partition.
        :raises SourceError: if there is none, or it is not clear which one
            is meant.
        """
        parts = self.partitions
        if number is not None:
            parts = tuple(each for each in parts if each.number == number)
            if not parts:
                raise errors.UsageError(
                    f'there is no partition {number}: '
                    f'{_listed(self.partitions)}',
                    subject=self.medium.name,
                    hint='choose another with --partition NUMBER',
                )
        own = [each for each in parts if each.has_files]
        roots = [each for each in own if each.is_root]
        if not roots:
            self.refuse_apart(
                each for each in self.partitions if each.typed_usr
            )
            if any(each.foreign for each in parts):
                return None
        is_cut = any(each.what == _BEYOND for each in parts)
        rest = roots or [
            each for each in own if not (is_cut or each.is_boot or each.is_usr)
        ]
        typed = [each for each in rest if each.typed_root]
        for few in (rest, typed):
            if len(few) == 1:
                return few[0]
        name = self.medium.name
        if roots:
            told = (
                f'several partitions have a root filesystem: {_listed(roots)}'
                f'{_slots(roots)}'
            )
            raise errors.SourceError(
                told,
                subject=name,
                hint='choose one with --partition NUMBER'
                if len({each.number for each in roots}) > 1
                else 'remove the others from a copy of it',
            )
        if number is not None:
            raise errors.SourceError(
                f'partition {number} has no root filesystem: {_listed(parts)}',
                subject=name,
            )
        raise errors.SourceError(
            f'no partition has a root filesystem: {_listed(parts)}',
            subject=name,
            hint=_hint(parts, rest),
        )

    def refuse_apart(self, usrs: Iterable[Partition]) -> None:
        """Refuse a system that finds its /usr in another way than by fstab.

        :param usrs: what it may be.
        """
        for usr in usrs:
            raise errors.SourceError(
                f'its /usr is a partition of its own ({usr}) that is not in '
                '/etc/fstab, but chosen and perhaps verified by its boot '
                'loader or ramdisk, as on Flatcar',
                subject=self.medium.name,
                hint='an AMI has one filesystem: upload the disk as it is, '
                'with "openstack image create --file"',
            )

    def files(self, part: Partition) -> Files[Any]:
        """Open a filesystem where it is.

        One of ext may have a journal that is not replayed: then a file may be
        missing or old.

        :raises SourceError: if it is none that is read here, or is damaged.
        """
        if part.xfs is not None:
            return _xfs_reader(self.medium, part.start)
        if part.superblock is None:
            raise errors.SourceError(f'{part.shown}, which is not read here')
        return Reader(
            filesystem.DiskLayout(self.medium, part.start, part.superblock)
        )

    def boot(
        self, root: int, mounted: fstab.FstabEntry | None
    ) -> Partition | None:
        """Find the filesystem that belongs on /boot, if it is another one.

        :param root: the number of the root filesystem's partition.
        :param mounted: what that mounts on /boot, as its fstab says.
        :returns: None if there is none, or several may be it. It may be none
            that can be taken.
        """
        others = [
            each
            for each in self.partitions
            if each.number != root or (each.paths and not each.is_root)
        ]
        if mounted is not None:
            for each in others:
                if each.tags.named_by(mounted):
                    return each
        found = [each for each in others if each.is_boot]
        return found[0] if len(found) == 1 else None

    def loaders(
        self, root: int, mounted: Sequence[fstab.FstabEntry]
    ) -> tuple[Partition, ...]:
        """Find the FAT filesystems that kernels may be on, the surest first.

        :param root: the number of the root filesystem's partition.
        :param mounted: what that mounts where boot loaders look.
        """
        others = [
            each
            for each in self.partitions
            if each.fat is not None and each.number != root
        ]
        found = {
            each.number: each
            for entry in mounted
            for each in others
            if each.tags.named_by(entry)
        }
        for types in _LOADERS:
            found |= {e.number: e for e in others if e.type in types}
        return tuple(found.values())


def _slots(roots: Sequence[Partition]) -> str:
    """Tell whether they look like versions of one system."""
    stems = {
        match[1].lower() if match else None
        for match in (_SLOT.fullmatch(each.partlabel) for each in roots)
    }
    if len(stems) == 1 and None not in stems:
        return ' (an A/B layout, by their names)'
    if len({each.size for each in roots}) == 1:
        return ' (an A/B layout, by their sizes)'
    return ''


def part_of_root(files: Files[Any]) -> str:
    """Tell where in a root filesystem the files of another one belong.

    :returns: ``/boot`` or ``/usr``; '' if that cannot be told, or they are a
        root filesystem.
    """
    # This has /sbin/init, too.
    if _is_usr(files):
        return '/usr'
    return '/boot' if not _is_root(files) and _is_boot(files) else ''


def _listed(found: Sequence[Partition]) -> str:
    listed = errors.some([str(each) for each in found], 8, between=' | ')
    return listed or 'there are none'


@contextlib.contextmanager
def opened(
    image: qemu_nbd.DiskImage, directory: pathlib.Path
) -> Iterator[Disk]:
    """Open a disk, and look at what is on it.

    :param directory: private, for temporary files.
    :raises SourceError: if it cannot be read, may not be, or is damaged.
    :raises ProgramError: if qemu-nbd is needed, and missing.
    """
    with contextlib.ExitStack() as stack:
        medium: Medium
        if image.kind == 'raw':
            file = stack.enter_context(
                opening.opened(image.path, wanted='a disk', devices=True)
            )
            medium = RawMedium(
                file, image.name, image.slice.start, image.slice.size
            )
        else:
            medium = stack.enter_context(qemu_nbd.opened(image, directory))
        yield look(medium, image)


def look(medium: Medium, image: qemu_nbd.DiskImage) -> Disk:
    """Look at what is on a disk that is open already.

    :raises SourceError: if it cannot be read.
    """
    kind = qemu_headers.shown_format(image.kind)
    table = partitions.read(medium)
    whole = _partition(
        medium,
        partitions.PartitionEntry(
            number=0,
            start=0,
            size=medium.size,
            type='',
            type_name=None,
            uuid='',
        ),
    )
    if table is None or (whole.has_files and not table.entries):
        return _with_volumes(Disk(medium, image, f'{kind} disk', (whole,)))
    found = tuple(_partition(medium, entry) for entry in table.entries)
    if whole.has_files and not any(each.has_files for each in found):
        # An old boot sector, in a filesystem on the whole of the disk.
        return Disk(medium, image, f'{kind} disk', (whole,))
    notes = tuple(f'{medium.name}: {note}' for note in table.notes)
    return _with_volumes(
        Disk(medium, image, f'{kind} disk, {table.kind}', found, notes)
    )


def _hint(parts: Sequence[Partition], rest: Sequence[Partition]) -> str | None:
    if rest:
        return 'choose one with --partition NUMBER'
    if any(each.what == lvm.PHYSICAL for each in parts):
        return lvm.INCOMPLETE
    if any(each.what == _BEYOND for each in parts):
        return 'it is cut short; download or copy it again'
    return None


def _with_volumes(disk: Disk) -> Disk:
    """Add the logical volumes of a disk to its partitions."""
    places = [
        lvm.Place(each.number, each.start, each.size)
        for each in disk.partitions
        if each.what == lvm.PHYSICAL
    ]
    if not places:
        return disk
    volumes = lvm.look(disk.medium, places)
    parts = [
        dataclasses.replace(each, foreign=each.number in volumes.unread)
        if each.what == lvm.PHYSICAL
        else each
        for each in disk.partitions
    ]
    # In what is encrypted, there may be a physical volume, too.
    foreign = any(each.foreign for each in parts)
    for volume in volumes.found:
        entry = partitions.PartitionEntry(
            number=volume.number,
            start=volume.start,
            size=0 if volume.problem else volume.size,
            type='',
            type_name=None,
            uuid='',
        )
        part = _partition(volumes.medium, entry)
        if volume.problem is not None:
            part = dataclasses.replace(
                part,
                size=volume.size,
                what=volume.problem,
                foreign=foreign or volume.problem != lvm.MISSING,
            )
        parts.append(dataclasses.replace(part, paths=volume.paths))
    return dataclasses.replace(
        disk, medium=volumes.medium, partitions=tuple(parts)
    )


def _partition(medium: Medium, entry: partitions.PartitionEntry) -> Partition:
    block, volume, is_root, place = None, None, False, ''
    files: Files[Any] | None = None
    foreign, xfs = False, None
    if entry.end > medium.size or not entry.size:
        what = _BEYOND
    else:
        head = medium.read(entry.start, min(probe.HEAD, entry.size))
        content = probe.examine(head, entry.size, medium.name)
        what, block = content.phrase, content.superblock
        foreign = content.found.foreign
    if block is not None and block.size > entry.size:
        what, block = f'{what} that is longer than {_ITS}', None
    if block is not None:
        try:
            files = Reader(filesystem.DiskLayout(medium, entry.start, block))
        except errors.DamagedError:
            what = 'a damaged ext2, ext3 or ext4 filesystem'
    elif what == _XFS:
        reader, what, foreign = _xfs(medium, entry)
        if reader is not None:
            files, xfs = reader, reader.superblock
    elif what == _FAT:
        volume = fat.fat_volume(head)
    elif entry.type_name and what == 'unrecognised data':
        what = f'{entry.type_name} ({what})'
    if files is not None:
        place = part_of_root(files)
        is_root = not place and _is_root(files)
    return Partition(
        number=entry.number,
        start=entry.start,
        size=entry.size,
        type=entry.type,
        type_name=entry.type_name,
        uuid=entry.uuid,
        partlabel=entry.label,
        what=what,
        superblock=block,
        xfs=xfs,
        foreign=foreign,
        fat=volume,
        is_root=is_root,
        is_boot=place == '/boot',
        is_usr=place == '/usr',
        is_auto=entry.is_auto,
    )


def _xfs(
    medium: Medium, entry: partitions.PartitionEntry
) -> tuple[XfsReader | None, str, bool]:
    """Look at an XFS filesystem.

    :returns: what reads it, if that can be here; what it is; whether it may be
        something for libguestfs.
    """
    try:
        reader = _xfs_reader(medium, entry.start)
    except errors.UnsupportedError as error:
        return None, f'{_XFS} ({error.message})', True
    except errors.DamagedError:
        # What libguestfs says of it is what Linux does.
        return None, _XFS, True
    if reader.superblock.size > entry.size:
        return None, f'{_XFS} that is longer than {_ITS}', False
    try:
        reader.names('/')
    except errors.DamagedError as error:
        return None, f'{_XFS} ({error.message})', False
    return reader, _XFS, False


def _xfs_reader(medium: Medium, start: int) -> XfsReader:
    def read(offset: int, count: int) -> bytes:
        return medium.read(start + offset, count)

    return XfsReader(read)


def _is_root(reader: Files[Any]) -> bool:
    try:
        return any(reader.find(path, follow=False) for path in ROOT_FILES)
    except errors.SourceError:
        return False


def _is_boot(reader: Files[Any]) -> bool:
    try:
        names = reader.names('/')
    except errors.SourceError:
        return False
    return any(
        name in _BOOT_DIRECTORIES or name.startswith((*KERNELS, *RAMDISKS))
        for name in names
    )


def _is_usr(reader: Files[Any]) -> bool:
    try:
        found = any(reader.find(path) for path in USR_FILES)
    except errors.SourceError:
        return False
    return found and not any(
        name in ('etc', 'usr') for name in reader.names('/')
    )
