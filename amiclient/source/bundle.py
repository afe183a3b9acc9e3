# SPDX-License-Identifier: Apache-2.0

"""A source that may bring a kernel and a ramdisk along.

What a user names as a source may be more than a root filesystem: a directory
that ``ami save`` or ``ami extract`` wrote, its manifest, or a UEC tarball.
So may one whose files are not in a filesystem yet: a directory or an archive
of them. Here each becomes a root filesystem in a file, with what is known
besides.
"""

from collections.abc import Callable, Mapping
import contextlib
import dataclasses
import pathlib

from amiclient import atomic
from amiclient import errors
from amiclient.ext import layout
from amiclient.ext import superblock
from amiclient import locks
from amiclient.progress import Progress
from amiclient.source import disk
from amiclient.source import manifest
from amiclient.source.manifest import Manifest
from amiclient.source.manifest import ManifestPart
from amiclient.source import probe
from amiclient.source.probe import Probe
from amiclient.source import uec
from amiclient import units

#: Inodes in use in a filesystem with no files: the reserved ones and that of
#: lost+found.
_LOST_FOUND = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """How a source is taken.

    :param partition: the number of the partition with the root filesystem;
        None for the one that is found.
    :param leave_out: where filesystems are mounted that are not to be taken.
    :param luks_key_file: a file with the passphrase of encrypted partitions.
    :param ask_secret: asks for it, if there is somebody to be asked.
    :param allow_backing_file: whether a disk image may name other files that
        hold a part of it.
    :param strip_components: how many directories the names in an archive lose
        at their beginning; 0 for what is found.
    :param architecture: of the container image that is taken, if there are
        several.
    :param is_described: whether that describes the image, too, and may have no
        effect on the source.
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
    leave_out: tuple[str, ...] = ()
    luks_key_file: pathlib.Path | None = None
    ask_secret: Callable[[str], str] | None = None
    allow_backing_file: bool = False
    strip_components: int = 0
    architecture: str | None = None
    is_described: bool = False
    fix: bool = False
    report: bool = True
    options: units.FilesystemOptions = units.DEFAULTS
    work_directory: pathlib.Path | None = None
    home: pathlib.Path | None = None

    def refuse_useless(
        self, name: str, *, is_disk: bool, is_archive: bool, is_container: bool
    ) -> None:
        """Refuse options that have no effect on such a source.

        :param name: what to call it.
        :param is_disk: whether it has filesystems on partitions, or may.
        :param is_archive: whether it is a tar archive of files.
        :param is_container: whether it is a container image.
        """
        disk = 'disk with partitions or volumes'
        archive = 'tar archive of a root filesystem'
        platform = None if self.is_described else self.architecture
        for option, value, useful, wanted in (
            ('--partition', self.partition, is_disk, disk),
            ('--leave-out', self.leave_out or None, is_disk, disk),
            ('--luks-key-file', self.luks_key_file, is_disk, disk),
            (
                '--strip-components',
                self.strip_components or None,
                is_archive,
                archive,
            ),
            ('--architecture', platform, is_container, 'container image'),
        ):
            if value is not None and not useful:
                raise errors.UsageError(
                    f'{name} is no {wanted}',
                    subject=option,
                    hint=f'leave out {option}',
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A root filesystem, and what came with it.

    :param root: the file or block device that holds it.
    :param kernel: a file; None if none came along.
    :param ramdisk: the same.
    :param name: what it is called; None for what the user named.
    :param finished: whether the root filesystem is as it is to be sent: it
        was in a cloud before, or has free space on purpose.
    :param manifest: what the images were.
    :param notes: what the user should know.
    :param own: whether ``root`` is a temporary file that nobody else needs,
        which may be changed.
    :param boot: a filesystem, in a file, that belongs on /boot; None if that
        is within the root filesystem, or there is none.
    :param format: what the source is, for people.
    :param partition: the number of the partition that was taken.
    :param merged: where filesystems of the disk were mounted that are a part
        of the root filesystem now.
    :param partitions: all of the disk's; empty if it is none.
    :param probe: what ``root`` was found to be, unless it is temporary.
    :param boot_options: what a boot loader in it tells its kernel.
    :param seen: by its path, what :func:`amiclient.locks.state` said of a
        file when something was read in it that the rest depends on.
    """

    root: pathlib.Path
    kernel: pathlib.Path | None = None
    ramdisk: pathlib.Path | None = None
    name: str | None = None
    finished: bool = False
    manifest: Manifest | None = None
    notes: tuple[str, ...] = ()
    own: bool = False
    boot: pathlib.Path | None = None
    format: str | None = None
    partition: int | None = None
    merged: tuple[str, ...] = ()
    partitions: tuple[disk.Partition, ...] = ()
    boot_options: str = ''
    probe: Probe | None = dataclasses.field(
        default=None, compare=False, repr=False
    )
    seen: Mapping[pathlib.Path, locks.State] = dataclasses.field(
        default_factory=dict
    )

    @property
    def complete(self) -> bool:
        """Whether a kernel or ramdisk that did not come along is not there."""
        return self.kernel is not None or self.manifest is not None

    @property
    def image_format(self) -> str:
        """What the root image is registered as, unless the user says so."""
        part = self.part('image')
        if part is not None and part.disk_format in ('raw', 'qcow2'):
            return part.disk_format
        return 'ami'

    def image(self) -> layout.RootImage:
        """Take the root filesystem, if it is one.

        :raises SourceError: as :func:`amiclient.source.probe.open_root` does.
        """
        return probe.open_root(self.root, self.probe)

    def part(self, noun: str) -> ManifestPart | None:
        return self.manifest.parts.get(noun) if self.manifest else None

    @property
    def command_line(self) -> str | None:
        """What replaces the command line of Nova, if that is known."""
        part = self.part('image')
        return part.properties.get('os_command_line') if part else None


def refuse_within(
    target: pathlib.Path, source: pathlib.Path, *, hint: str
) -> None:
    """Make sure that nothing is written among the files that are the source.

    Beside those that were saved, there may be others.

    :raises UsageError: as :func:`amiclient.atomic.refuse_within` does.
    """
    if not is_saved(source):
        atomic.refuse_within(target, source, hint=hint)


def verified(path: pathlib.Path, *, progress: Progress) -> Manifest | None:
    """Read an archive to its end, and compare it with its manifest.

    :returns: the manifest; None if there is none.
    :raises SourceError: if it is damaged, or is not what its manifest says.
    """
    if not uec.is_tar(path):
        return None
    found = uec.unpack(path, None, progress=progress)
    if found is None or found.manifest is None:
        return None
    _compare_all(errors.shown(path), found, found.manifest)
    return found.manifest


def is_saved(path: pathlib.Path) -> bool:
    return (path / manifest.NAME).exists()


def saved(path: pathlib.Path, *, progress: Progress) -> Source:
    """Take the files beside a manifest, if they are as that says.

    :raises SourceError: if they are not.
    """
    found = manifest.read(path)
    paths, seen = {}, {}
    for noun, part in found.parts.items():
        paths[noun] = path.parent / part.file
        with contextlib.suppress(OSError):
            seen[paths[noun]] = locks.state(paths[noun])
        _verify(paths[noun], part, noun, progress)
    return dataclasses.replace(_with_manifest(paths, found), seen=seen)


def _with_manifest(
    paths: Mapping[str, pathlib.Path], found: Manifest
) -> Source:
    return Source(
        root=paths['image'],
        kernel=paths.get('kernel'),
        ramdisk=paths.get('ramdisk'),
        name=found.image.name,
        # What was extracted from a source was in no cloud yet.
        finished=found.image.id is not None,
        manifest=found,
        format='saved AMI',
    )


def _verify(
    path: pathlib.Path,
    part: ManifestPart,
    noun: str,
    progress: Progress,
) -> None:
    sha512 = manifest.sha512(
        path,
        wanted=f'the {noun} of a saved triple',
        description=f'Checking {noun}',
        progress=progress,
    )
    _compare(errors.shown(path), part, path.stat().st_size, sha512)


def _compare(name: str, part: ManifestPart, size: int, sha512: str) -> None:
    hint = 'save the triple again, or name its files one by one'
    if size != part.size:
        raise errors.SourceError(
            f'{name} is not what the manifest says: it has {size} bytes, '
            f'not {part.size}',
            hint=hint,
        )
    if sha512 != part.sha512:
        raise errors.SourceError(
            f'{name} is not what the manifest says: its sha512 is '
            f'{sha512[:16]}..., not {part.sha512[:16]}...',
            hint=hint,
        )


def unpacked(found: uec.Unpacked, name: str) -> Source:
    """Take what was in an archive, if it is as its manifest says.

    :param name: what to call the archive in errors.
    :raises SourceError: if it is not.
    """
    if found.manifest is not None:
        _compare_all(name, found, found.manifest)
        source = _with_manifest(found.paths, found.manifest)
        return dataclasses.replace(source, own=True)
    return Source(
        root=found.paths['image'],
        kernel=found.paths.get('kernel'),
        ramdisk=found.paths.get('ramdisk'),
        name=found.name,
        own=True,
        format='UEC tarball',
    )


def _compare_all(name: str, found: uec.Unpacked, wanted: Manifest) -> None:
    for noun, part in wanted.parts.items():
        if noun not in found.sizes:
            raise errors.SourceError(
                f'damaged: the {noun} of its manifest is missing',
                subject=name,
                hint='get a whole copy of it',
            )
        shown = f'{name}: the {noun} in it'
        _compare(shown, part, found.sizes[noun], found.sha512[noun])


def blank(
    source: Source, block: superblock.Superblock | None, name: str
) -> Source:
    """Have a blank root filesystem sent as it is, wherever it came from.

    It was made and never filled, as that of CirrOS.
    """
    if block is None:
        return source
    in_use = block.inode_count - block.free_inodes
    if in_use != block.first_inode - 1 + _LOST_FOUND:
        return source
    note = (
        f'{name}: its root filesystem has no files, because the ramdisk '
        'copies itself there; it is not changed'
    )
    return dataclasses.replace(
        source, finished=True, notes=(*source.notes, note)
    )
