# SPDX-License-Identifier: Apache-2.0

"""What the data of an AMI's images is, once it has been fetched.

The records say what somebody declared. Here the data itself is looked at: is
it whole, is it a filesystem in order, a kernel, a ramdisk, and for which
architecture. Then the rules of ``ami check`` tell whether they suit each
other, and a cloud. Nova does none of that before it starts a server.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import pathlib
from typing import TYPE_CHECKING

from amiclient import errors
from amiclient.ext import e2fsprogs
from amiclient.ext.image import RootImage
from amiclient import findings
from amiclient.glance import model
from amiclient.glance import retry
from amiclient.glance.transfer import download
from amiclient.glance.verify import context
from amiclient.progress import Progress
from amiclient.rootfs import check
from amiclient.rootfs import identify
from amiclient.rootfs import ramdisks
from amiclient.source import block
from amiclient.source import detect
from amiclient.source import disk
from amiclient.source import virtual
from amiclient import sparse

if TYPE_CHECKING:
    from openstack.image.v2 import _proxy

#: Rules of ``ami check`` that are tried in another way here, or by what the
#: records tell.
_OWN = frozenset({'boot-sector', 'no-kernel', 'not-clean'})

#: After these, an image is of no use for further rules.
_HOPELESS = frozenset(
    {'damaged', 'not-a-filesystem', 'not-a-kernel', 'not-a-ramdisk'}
)

#: Rules, and so what ``--ignore`` takes.
RULES = (check.RULES - _OWN) | frozenset(
    {
        'architecture',
        'boot-sector',
        'damaged',
        'journal',
        'not-examined',
        'not-a-filesystem',
        'not-a-kernel',
        'not-a-ramdisk',
        'size',
        'unreadable',
    }
)

#: The file with the filesystem after its journal was replayed.
_REPLAYED = 'replayed'

#: Formats whose data is the filesystem itself.
PLAIN = ('ami', 'raw')

#: Formats of disk images that are told by their content; Glance calls them as
#: QEMU does.
_TOLD = ('qcow2', 'vdi', 'vhdx', 'vmdk')


@dataclasses.dataclass(frozen=True)
class Fetcher:
    """How to get at the data.

    :param folder: where it goes, in a file for each image.
    """

    proxy: '_proxy.Proxy'
    folder: pathlib.Path
    patience: retry.Patience
    progress: Progress

    def fetch(
        self, kind: model.Kind, image: model.ImageRecord
    ) -> pathlib.Path:
        """Get the data of one image, verified.

        :raises CloudError: if it cannot be had, or is not what it was.
        """
        return download.fetch(
            self.proxy,
            image,
            self.folder / kind.noun,
            description=f'Fetching {kind.noun}',
            progress=self.progress,
            patience=self.patience,
        ).path


def look(
    case: context.Case, fetcher: Fetcher
) -> tuple[dict[model.Kind, pathlib.Path], tuple[findings.Finding, ...]]:
    """Fetch the data of an AMI's images, and look at it.

    :returns: the files, of those images that could be fetched; and what was
        found.
    :raises NoSpaceError: if there is no room for the files.
    """
    files: dict[model.Kind, pathlib.Path] = {}
    found: list[findings.Finding] = []
    sound: dict[model.Kind, pathlib.Path] = {}
    for kind, image in reversed(case.images):
        if image.status != 'active' or not image.size:
            # That is a finding of its own already.
            continue
        try:
            files[kind] = fetcher.fetch(kind, image)
        except errors.CloudError as error:
            message = f'{context.name(kind, image)} cannot be read: {error}'
            found.append(
                context.found(case, 'error', 'unreadable', message, kind=kind)
            )
            continue
        if kind is model.Kind.AMI and image.disk_format not in PLAIN:
            inner, problem = _inner(case, image, files[kind], fetcher)
            if problem is not None:
                found.append(problem)
                continue
            files[kind] = inner
        seen = list(_LOOKS[kind](case, image, files[kind]))
        found += seen
        if _HOPELESS.isdisjoint(each.rule for each in seen):
            sound[kind] = files[kind]
    return files, (*found, *_together(case, sound))


def _together(
    case: context.Case, sound: Mapping[model.Kind, pathlib.Path]
) -> Iterator[findings.Finding]:
    """Apply the rules of ``ami check`` to what was fetched."""
    root = sound.get(model.Kind.AMI)
    if root is None:
        return
    replayed = root.with_name(_REPLAYED)
    found = check.apply(
        replayed if replayed.exists() else root,
        sound.get(model.Kind.AKI),
        sound.get(model.Kind.ARI),
        command_line=case.image.properties.get(model.COMMAND_LINE),
    )
    for each in found:
        if each.rule not in _OWN:
            yield dataclasses.replace(each, about=model.Kind.AMI.noun)


def _inner(
    case: context.Case,
    image: model.ImageRecord,
    path: pathlib.Path,
    fetcher: Fetcher,
) -> tuple[pathlib.Path, findings.Finding | None]:
    """Take the disk out of a disk image.

    :returns: a file with its bytes; and why there is none.
    """
    told = disk.tell(path)
    if told in (None, 'raw') and image.disk_format not in _TOLD:
        return path, _not_examined(case, f'is a {image.disk_format} disk')
    inner = path.with_name('disk')
    title = case.title
    try:
        if told is None or virtual.shown(told) != image.disk_format:
            # Hosts go by what the record says.
            raise errors.SourceError(f'no {image.disk_format} disk image')
        with (
            virtual.opened(path, told, path.parent, name=title) as medium,
            fetcher.progress.task('Unpacking', medium.size) as task,
        ):
            block.copy_all(medium, inner, task=task)
    except errors.SourceError as error:
        return path, _no_filesystem(case, error.message)
    except errors.ProgramError as error:
        return path, _not_examined(
            case, f'is a {image.disk_format} disk, and {error.sentence}'
        )
    if disk.tell(inner) == 'raw':
        # Which of them is booted, its kernel command line may tell.
        return path, _not_examined(case, 'is a disk with partitions')
    return inner, None


def _not_examined(case: context.Case, why: str) -> findings.Finding:
    message = (
        f'{case.title} {why}: its data is what was uploaded, but what is in '
        'it was not looked at'
    )
    return context.found(
        case, 'note', 'not-examined', message, kind=model.Kind.AMI
    )


def _kernel(
    case: context.Case, image: model.ImageRecord, path: pathlib.Path
) -> Iterator[findings.Finding]:
    kind = model.Kind.AKI
    try:
        kernel = identify.identify_kernel(path)
    except errors.SourceError as error:
        yield _not_one(case, kind, image, error)
        return
    own = kernel.architecture
    wanted = case.image.properties.get('architecture')
    if model.architectures_differ(own, wanted):
        yield context.found(
            case,
            'error',
            'architecture',
            f'{context.name(kind, image)} is a {kernel.format} for {own}, the '
            f'AMI says {wanted}: Nova chooses the host by the latter',
            context.setting(case.image, '--property', f'architecture={own}'),
            kind=kind,
        )


def _ramdisk(
    case: context.Case, image: model.ImageRecord, path: pathlib.Path
) -> Iterator[findings.Finding]:
    try:
        ramdisks.identify_ramdisk(path)
    except errors.SourceError as error:
        yield _not_one(case, model.Kind.ARI, image, error)


def _not_one(
    case: context.Case,
    kind: model.Kind,
    image: model.ImageRecord,
    error: errors.SourceError,
) -> findings.Finding:
    # The file is ours: its name means nothing to the user.
    return context.found(
        case,
        'error',
        f'not-a-{kind.noun}',
        f'{context.name(kind, image)} holds none ({error.message})',
        kind=kind,
        advice=context.renewal(case, kind),
    )


def _root(
    case: context.Case, image: model.ImageRecord, path: pathlib.Path
) -> Iterator[findings.Finding]:
    kind = model.Kind.AMI
    # What is in a disk image is a disk, whatever it begins or ends with.
    plain = image.disk_format in PLAIN
    if plain and detect.boot_sector(path):
        yield context.found(
            case,
            'error',
            'boot-sector',
            f'{case.title} begins with a boot sector: Nova takes it for a '
            'disk with partitions and refuses it',
            kind=kind,
            advice=f'{context.renewal(case, kind)}, which sends zeros instead',
        )
    try:
        root = detect.open_root(path)
    except errors.SourceError as error:
        yield _no_filesystem(case, error.message)
        return
    if plain and root.size != root.superblock.size:
        yield context.found(
            case,
            'warning',
            'size',
            f'{case.title} has {root.size} bytes, its filesystem '
            f'{root.superblock.size}: what comes after that is of no use, '
            'and an upload of the filesystem alone would leave it out',
            kind=kind,
        )
    yield from _filesystem(case, root)


def _no_filesystem(case: context.Case, what: str) -> findings.Finding:
    return context.found(
        case,
        'error',
        'not-a-filesystem',
        f'{case.title} holds no root filesystem ({what})',
        kind=model.Kind.AMI,
        advice=context.renewal(case, model.Kind.AMI),
    )


def _filesystem(
    case: context.Case, root: RootImage
) -> Iterator[findings.Finding]:
    """Have e2fsck look at it."""
    tools = e2fsprogs.Toolbox.of(root.superblock)
    path = root.path
    if root.superblock.needs_recovery:
        yield context.found(
            case,
            'warning',
            'journal',
            f'{case.title} was not unmounted: its journal is replayed at '
            'each first boot',
            kind=model.Kind.AMI,
            advice='to avoid that, ' + context.renewal(case, model.Kind.AMI),
        )
        # What e2fsck says before that means little; the data stays as it is,
        # for it may be compared.
        path = path.with_name(_REPLAYED)
        sparse.copy(root.path, path)
        tools.preen(path)
    if not tools.check(path):
        yield context.found(
            case,
            'error',
            'damaged',
            f'{case.title} has a damaged filesystem (e2fsck: '
            f'{tools.objections(path)})',
            kind=model.Kind.AMI,
            advice=context.renewal(case, model.Kind.AMI),
        )


_LOOKS = {
    model.Kind.AMI: _root,
    model.Kind.AKI: _kernel,
    model.Kind.ARI: _ramdisk,
}
