# SPDX-License-Identifier: Apache-2.0

"""What the data of an AMI's images is.

The records say what somebody declared. Here the data itself is looked at: is
it whole, is it a filesystem in order, a kernel, a ramdisk, and for which
architecture. Then the rules of ``ami check`` tell whether they suit each
other, and a cloud. Nova does none of that before it starts a server.

Some of that takes so little of the data that it is read where it lies.
"""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import logging
import pathlib
import time
from typing import TYPE_CHECKING

from amiclient import errors
from amiclient.ext import e2fsprogs
from amiclient.ext.reader import Reader
from amiclient.ext import superblock
from amiclient.findings import Finding
from amiclient.glance.model import architectures_differ
from amiclient.glance.model import COMMAND_LINE
from amiclient.glance.model import ImageRecord
from amiclient.glance.model import Kind
from amiclient.glance.model import PLAIN
from amiclient.glance import retry
from amiclient.glance.transfer import download
from amiclient.glance.transfer import ranges
from amiclient.glance.verify import bare_metal_rules
from amiclient.glance.verify.context import Context
from amiclient.glance.verify import rules
from amiclient.glance.verify import signature_rules
from amiclient.progress import Progress
from amiclient.rootfs import check
from amiclient.rootfs import check_context
from amiclient.rootfs import identify
from amiclient.source import block
from amiclient.source import disk
from amiclient.source import filesystem
from amiclient.source import probe
from amiclient.source import qemu_headers
from amiclient.source import qemu_nbd
from amiclient import sparse

if TYPE_CHECKING:
    from openstack.image.v2 import _proxy

LOG = logging.getLogger(__name__)

#: Rules of ``ami check`` that are tried in another way here, or by what the
#: records tell.
_OWN = frozenset({'boot-sector', 'no-kernel', 'not-clean'})

#: After these, an image is of no use for further rules.
_HOPELESS = frozenset(
    {
        'damaged',
        'not-a-filesystem',
        'not-a-kernel',
        'not-a-ramdisk',
        'not-examined',
        'whole-disk',
    }
)

#: Rules of ``ami check`` that are tried here as well.
CHECKS = check.RULES - _OWN

#: Those for which little of the data is needed, and so can be read where it
#: lies.
NEAR = frozenset(
    {
        'architecture',
        'fstab-no-root',
        'fstab-options',
        'fstab-read-only',
        'fstab-root-device',
        'no-init',
        'no-modules',
        'no-os-release',
        'ostree',
    }
)

#: Those of them that another kernel makes another answer to.
_OF_KERNEL = frozenset({'architecture', 'no-modules'})

#: The file with the filesystem after its journal was replayed.
_REPLAYED = 'replayed'

#: Formats of disk images that are told by their content; Glance calls them as
#: QEMU does.
_TOLD = ('qcow2', 'vdi', 'vhdx', 'vmdk')


@dataclasses.dataclass(frozen=True)
class Fetcher:
    """How to get at the data.

    :param directory: where it goes, in a file for each image.
    """

    proxy: '_proxy.Proxy'
    directory: pathlib.Path
    patience: retry.Patience
    progress: Progress

    def fetch(self, kind: Kind, image: ImageRecord) -> pathlib.Path:
        """Get the data of one image, verified."""
        return download.fetch(
            self.proxy,
            image,
            self.directory / kind.noun,
            description=f'Fetching {kind.noun}',
            progress=self.progress,
            patience=self.patience,
        ).path


def look(
    context: Context, fetcher: Fetcher
) -> tuple[dict[Kind, pathlib.Path], tuple[Finding, ...]]:
    """Fetch the data of an AMI's images, and look at it.

    :returns: the files, of those images that could be fetched; and what was
        found.
    """
    files: dict[Kind, pathlib.Path] = {}
    found: list[Finding] = []
    sound: dict[Kind, pathlib.Path] = {}
    for kind, image in reversed(context.images):
        if image.status != 'active' or not image.size:
            # That is a finding of its own already.
            continue
        try:
            files[kind] = fetcher.fetch(kind, image)
        except errors.CloudError as error:
            message = f'{context.name(kind, image)} cannot be read: {error}'
            found.append(context.found('unreadable', kind, message))
            continue
        found += signature_rules.data(
            context, kind, image, files[kind], fetcher.progress
        )
        if kind is Kind.AMI and image.disk_format not in PLAIN:
            inner = _inner(context, image, files[kind], fetcher)
            if isinstance(inner, Finding):
                found.append(inner)
                continue
            files[kind] = inner
        seen = list(_LOOKS[kind](context, image, files[kind]))
        found += seen
        if _HOPELESS.isdisjoint(each.rule for each in seen):
            sound[kind] = files[kind]
    return files, (*found, *_together(context, sound))


def _together(
    context: Context, sound: Mapping[Kind, pathlib.Path]
) -> Iterator[Finding]:
    """Apply the rules of ``ami check`` to what was fetched."""
    root = sound.get(Kind.AMI)
    if root is None:
        return
    replayed = root.with_name(_REPLAYED)
    found = check.apply(
        replayed if replayed.exists() else root,
        sound.get(Kind.AKI),
        sound.get(Kind.ARI),
        command_line=context.image.properties.get(COMMAND_LINE),
    )
    for each in found:
        if each.rule not in _OWN:
            yield dataclasses.replace(each, about=Kind.AMI.noun)


def _inner(
    context: Context,
    image: ImageRecord,
    path: pathlib.Path,
    fetcher: Fetcher,
) -> pathlib.Path | Finding:
    """Take the disk out of a disk image.

    :returns: a file with its bytes; or why there is none.
    """
    told, wanted = probe.look(path).found.disk, image.disk_format
    if told in (None, 'raw') and wanted not in _TOLD:
        return _not_examined(context, f'is a {wanted} disk')
    inner = path.with_name('disk')
    try:
        if told is None or qemu_headers.shown_format(told) != wanted:
            # Hosts go by what the record says.
            raise errors.SourceError(f'no {wanted} disk image')
        with (
            qemu_nbd.opened(
                qemu_nbd.DiskImage(path, told, context.title), path.parent
            ) as medium,
            fetcher.progress.task('Unpacking', medium.size) as task,
        ):
            block.copy_all(medium, inner, task=task)
    except errors.SourceError as error:
        return _no_filesystem(context, error)
    except errors.ProgramError as error:
        return _not_examined(
            context, f'is a {wanted} disk, and {error.sentence}'
        )
    found = probe.look(inner).found
    if found.disk == 'raw' and not found.foreign:
        return _partitioned(context)
    return inner


def _partitioned(context: Context) -> Finding:
    """Tell what is wrong with a disk with partitions, if that is known."""
    for found in bare_metal_rules.whole_disk(context):
        return found
    # Which of them is booted, its kernel command line may tell.
    return _not_examined(context, 'is a disk with partitions')


def _not_examined(context: Context, why: str) -> Finding:
    message = f'{context.title} {why}: its data is what was uploaded, but '
    message += 'what is in it was not looked at'
    return context.found('not-examined', Kind.AMI, message)


def _kernel(
    context: Context, image: ImageRecord, path: pathlib.Path
) -> Iterator[Finding]:
    try:
        kernel = identify.startable_kernel(path)
    except errors.SourceError as error:
        yield _not_one(context, Kind.AKI, image, error)
        return
    yield from _machine(context, image, kernel)


def _machine(
    context: Context, image: ImageRecord, kernel: identify.Kernel
) -> Iterator[Finding]:
    own = kernel.architecture
    wanted = context.image.properties.get('architecture')
    if architectures_differ(own, wanted):
        what = (
            f'{context.name(Kind.AKI, image)} is a {kernel.format} for {own}'
        )
        yield rules.other_architecture(context, Kind.AKI, what, own)


def _ramdisk(
    context: Context, image: ImageRecord, path: pathlib.Path
) -> Iterator[Finding]:
    try:
        identify.identify_ramdisk(path)
    except errors.SourceError as error:
        yield _not_one(context, Kind.ARI, image, error)


def _not_one(
    context: Context, kind: Kind, image: ImageRecord, error: errors.SourceError
) -> Finding:
    # The file is ours: its name means nothing to the user.
    message = f'{context.name(kind, image)} holds none ({error.message})'
    advice = context.renewal(kind)
    return context.found(f'not-a-{kind.noun}', kind, message, advice=advice)


def _root(
    context: Context, image: ImageRecord, path: pathlib.Path
) -> Iterator[Finding]:
    found = probe.look(path)
    seen = list(_told(context, found))
    yield from seen
    if not _HOPELESS.isdisjoint(each.rule for each in seen):
        return
    root = found.root_image()
    plain = image.disk_format in PLAIN
    if plain and root.size != root.superblock.size:
        message = f'{context.title} has {root.size} bytes, its filesystem '
        message += f'{root.superblock.size}: what comes after that is of no '
        message += 'use, and an upload of the filesystem alone would leave it '
        yield context.found('size', Kind.AMI, f'{message}out')
    tools = e2fsprogs.Toolbox.of(root.superblock)
    if root.superblock.needs_recovery:
        # What e2fsck says before that means little; the data stays as it is,
        # for it may be compared.
        path = path.with_name(_REPLAYED)
        sparse.copy(root.path, path)
        tools.preen(path)
    if not tools.check(path):
        message = f'{context.title} has a damaged filesystem (e2fsck: '
        message += f'{tools.objections(path)})'
        yield context.found(
            'damaged', Kind.AMI, message, advice=context.renewal(Kind.AMI)
        )


def _told(context: Context, found: probe.Probe) -> Iterator[Finding]:
    """Tell what the first bytes tell."""
    # What is in a disk image is a disk, whatever it begins or ends with.
    plain = context.image.disk_format in PLAIN
    title, renewal = context.title, context.renewal(Kind.AMI)
    if plain and found.boot_sector:
        message = f'{title} begins with a boot sector: Nova takes it for a '
        message += 'disk with partitions and refuses it'
        advice = f'{renewal}, which sends zeros instead'
        yield context.found('boot-sector', Kind.AMI, message, advice=advice)
    try:
        root = found.root_image()
    except errors.SourceError as error:
        is_disk = found.found.disk == 'raw' and not found.found.foreign
        yield (
            _partitioned(context)
            if is_disk and context.for_metal
            else _no_filesystem(context, error)
        )
        return
    if not context.for_metal:
        yield from rules.root_told(context, partitions=False)
    if root.superblock.needs_recovery:
        message = (
            f'{title} was not unmounted: its journal is replayed at each '
        )
        message += 'first boot'
        advice = f'to avoid that, {renewal}'
        yield context.found('journal', Kind.AMI, message, advice=advice)
    elif not root.superblock.clean:
        why = 'has errors on record'
        if not root.superblock.has_journal:
            why = f'has no journal, and was not unmounted or {why}'
        message = f'{title} {why}: e2fsck runs at each first boot'
        yield context.found('unclean', Kind.AMI, message, advice=renewal)


def _no_filesystem(context: Context, error: errors.SourceError) -> Finding:
    message = f'{context.title} holds no root filesystem ({error.message})'
    advice = context.renewal(Kind.AMI)
    return context.found('not-a-filesystem', Kind.AMI, message, advice=advice)


_LOOKS = {Kind.AMI: _root, Kind.AKI: _kernel, Kind.ARI: _ramdisk}


def peek(context: Context, reading: ranges.Reading) -> list[Finding]:
    """Read some of an AMI's data where it lies, and look at it.

    Where that cannot be done, there is a note.
    """
    if context.viewer.reader:
        LOG.info('%s: readers cannot download it', context.title)
        return []
    there = {
        kind: image
        for kind, image in context.images
        if image.status == 'active'
        and image.size
        and not (
            kind is Kind.AMI and context.for_metal and context.is_diskless
        )
        # What is of another format is a finding of its own already.
        and (kind is Kind.AMI or image.may_be(kind))
    }
    found: list[Finding] = []
    kernel: identify.Kernel | None = None
    if (part := there.get(Kind.AKI)) is not None:
        with (
            _noted(context, Kind.AKI, part, found),
            reading.opened(part) as medium,
        ):
            kernel = kernel_in(medium)
            found += _machine(context, part, kernel)
    if (image := there.get(Kind.AMI)) is not None:
        with (
            _noted(context, Kind.AMI, image, found),
            reading.opened(image) as medium,
        ):
            found += _files(context, medium, kernel)
    return found


@contextlib.contextmanager
def _noted(
    context: Context, kind: Kind, image: ImageRecord, found: list[Finding]
) -> Iterator[None]:
    """Make a finding of an error."""
    name = context.name(kind, image)
    try:
        yield
    except errors.NotFoundError as error:
        message = f'{name} cannot be read: {error}'
        found.append(context.found('unreadable', kind, message))
    except (errors.CloudError, errors.ProgramError) as error:
        message = f'{name} was not looked into: {error}'
        found.append(context.found('not-examined', kind, message))
    except errors.SourceError as error:
        found.append(
            _no_filesystem(context, error)
            if kind is Kind.AMI
            else _not_one(context, kind, image, error)
        )


def kernel_in(medium: block.Medium) -> identify.Kernel:
    """Take the data of an image for a kernel that hosts can start.

    :raises SourceError: if it is none. :raises ProgramError: if a program
        that decompresses it is missing. :raises CloudError: if it cannot be
        read.
    """
    file, path = block.as_file(medium), pathlib.Path(medium.name)
    kernel = identify.kernel_in(file, path)
    if kernel is None:
        head = medium.read(0, probe.HEAD)
        what = probe.examine(head, medium.size, medium.name).phrase
        raise errors.SourceError(f'{what}, not a Linux kernel')
    if objection := kernel.objection(medium.name):
        raise objection
    return kernel


def _files(
    context: Context, medium: block.Medium, kernel: identify.Kernel | None
) -> Iterator[Finding]:
    image, title = context.image, context.title
    if image.disk_format in PLAIN:
        head = medium.read(0, probe.HEAD)
        content = probe.examine(head, medium.size, medium.name)
        if content.superblock or image.disk_format == Kind.AMI.value:
            found = probe.Probe(
                content.found,
                content.superblock,
                content.damage,
                path=pathlib.Path(medium.name),
                size=medium.size,
                head=head,
            )
            seen = list(_told(context, found))
            yield from seen
            if not _HOPELESS.isdisjoint(each.rule for each in seen):
                return
    try:
        inner = inside(image, medium)
        if inner.root.number:
            yield from bare_metal_rules.whole_disk(context)
        case = case_of(image, inner, kernel)
        for each in check.examine(case, NEAR):
            yield dataclasses.replace(each, about=Kind.AMI.noun)
    except errors.DamagedError as error:
        message = f'{title} has a damaged filesystem ({error.message})'
        renewal = context.renewal(Kind.AMI)
        yield context.found('damaged', Kind.AMI, message, advice=renewal)
    except errors.SourceError as error:
        message = f'{title} was not looked into: {error.message}'
        yield context.found('not-examined', Kind.AMI, message)


def unsuited(
    image: ImageRecord,
    kernel: pathlib.Path | ImageRecord,
    reading: ranges.Reading,
) -> tuple[str, ...]:
    """Tell what an AMI lacks for a kernel, before it gets that.

    :param kernel: a file, or an image.
    :returns: nothing where that cannot be told.
    """
    try:
        if isinstance(kernel, ImageRecord):
            with reading.opened(kernel) as medium:
                found = kernel_in(medium)
        else:
            found = identify.identify_kernel(kernel)
        with reading.opened(image) as medium:
            case = case_of(image, inside(image, medium), found)
            problems = check.examine(case, _OF_KERNEL)
    except errors.AmiError as error:
        LOG.info('image %s was not looked into: %s', image.id, error)
        return ()
    return tuple(f'image {image.id}: {each.message}' for each in problems)


def case_of(
    image: ImageRecord,
    inner: 'Inside',
    kernel: identify.Kernel | None,
    ramdisk: pathlib.Path | None = None,
) -> check_context.Case:
    """Put together what the rules of ``ami check`` look at."""
    return check_context.Case(
        reader=inner.reader,
        head=inner.whole.medium.read(inner.root.start, superblock.OFFSET),
        kernel=kernel,
        ramdisk=ramdisk,
        now=time.time(),
        command_line=image.properties.get(COMMAND_LINE),
    )


@dataclasses.dataclass(frozen=True)
class Inside:
    """The root filesystem in the data of an image.

    :param whole: the disk that a guest sees.
    :param root: what of it was taken.
    :param reader: its files.
    """

    whole: disk.Disk
    root: disk.Partition
    reader: Reader


def inside(image: ImageRecord, medium: block.Medium) -> Inside:
    """Open the root filesystem in the data of an image.

    :param medium: the data.
    :raises SourceError: if there is none of ext that can be read where it
        lies.
    :raises CloudError: if the data cannot be read.
    """
    whole, root = root_in(image, medium)
    if root.superblock is None:
        raise (
            _other(root, medium)
            if not root.number
            else _later(f'a {whole.format} whose root filesystem', medium)
        )
    layout = filesystem.DiskLayout(whole.medium, root.start, root.superblock)
    return Inside(whole, root, Reader(layout))


def root_in(
    image: ImageRecord, medium: block.Medium
) -> tuple[disk.Disk, disk.Partition]:
    """Find the root filesystem in the data of an image, be it ext or XFS.

    :raises SourceError: if there is none that can be read where it lies.
    :raises CloudError: if the data cannot be read.
    """
    kind, name = image.disk_format, medium.name
    if kind == 'qcow2':
        medium = qemu_headers.qcow2_disk(medium)
    elif kind not in PLAIN:
        raise _later(f'what is in a {kind} disk', medium)
    whole = disk.look(
        medium, qemu_nbd.DiskImage(pathlib.Path(name), 'raw', name)
    )
    first, *others = whole.partitions or (None,)
    if first and not (first.number or first.has_files or others):
        raise _other(first, medium)
    root = whole.root()
    if root is None or not root.has_files:
        raise _later(f'a {whole.format} whose root filesystem', medium)
    return whole, root


def _other(
    part: disk.Partition, medium: block.Medium
) -> errors.UnsupportedError:
    return errors.UnsupportedError(
        f'{part.what}, not an ext2, ext3 or ext4 filesystem',
        subject=medium.name,
    )


def _later(what: str, medium: block.Medium) -> errors.UnsupportedError:
    return errors.UnsupportedError(
        f'{what} is only looked at once it was downloaded',
        subject=medium.name,
        hint='download it with openstack ami save',
    )
