# SPDX-License-Identifier: Apache-2.0

"""Whether an AMI holds what a local source does.

An upload sends the source as it is, or a shrunk copy of it. Both can be made
again here: shrinking gives the same bytes from the same source, with the same
options and the same e2fsprogs. So in most cases a hash is all that is needed
of the cloud. Where the bytes differ, the files can still be the same. A disk
image such as qcow2 has other bytes each time it is packed: there, only the
very file that was uploaded or saved has the same.
"""

from collections.abc import Iterator
import dataclasses
import pathlib
import shlex
import shutil

from amiclient import errors
from amiclient.ext import compare as compare_
from amiclient.ext.image import RootImage
from amiclient.ext import shrink
from amiclient import findings
from amiclient.glance import model
from amiclient.glance.transfer import image_data
from amiclient.glance.verify import context
from amiclient.glance.verify import deep
from amiclient.progress import Progress
from amiclient.source import detect
from amiclient.source import manifest
from amiclient.source import resolve
from amiclient.source import uec
from amiclient import units

#: Rules, and so what ``--ignore`` takes.
RULES = frozenset({'differs', 'not-comparable', 'same'})

#: How the file itself, as it is, is compared.
_SAME = 'the bytes of'

#: Paths that are named; the rest is counted.
_NAMED = 5


@dataclasses.dataclass(frozen=True)
class Local:
    """A local source, and how it was shrunk, or may have been.

    :param path: the file or block device with the root filesystem.
    :param name: what the user named.
    :param choice: how it is taken.
    :param kernel: a file that came with it; None if there is none.
    :param ramdisk: the same.
    :param saved: what its manifest says of the image's file, which was
        compared with that; None if there is no manifest.
    :param headroom: free space that was left. :param journal: ``keep``,
        ``none``, or the bytes of a new one.
    """

    path: pathlib.Path
    name: pathlib.Path
    choice: resolve.Choice
    kernel: pathlib.Path | None = None
    ramdisk: pathlib.Path | None = None
    saved: manifest.Part | None = None
    headroom: units.Headroom = units.NO_HEADROOM
    journal: str | int = 'keep'

    @property
    def title(self) -> str:
        """Name what is compared, within a sentence."""
        made = 'what --fix makes of ' if self.choice.fix else ''
        return f'{made}{self.name}'


def compare(
    case: context.Case,
    local: Local,
    folder: pathlib.Path,
    *,
    fetched: pathlib.Path | None,
    progress: Progress,
) -> findings.Finding:
    """Compare an AMI's data with a local source.

    :param folder: where a shrunk copy can be made.
    :param fetched: a file with the AMI's data, if there is one.
    :returns: a note if it is the same, else what differs.
    :raises SourceError: if the source cannot be read.
    :raises NoSpaceError: if there is no room for the copy.
    """
    image = case.image
    digest = image_data.expected(image)
    if digest is None and fetched is not None:
        payload = model.Payload.of(fetched)
        value = _digest(payload, 'sha512', progress)
        digest = image_data.Digest('sha512', value)
    if digest is None or not image.size:
        return _undecided(
            case,
            'not-comparable',
            f'{case.title} has no hash, so nothing but its data could be '
            'compared',
            local,
            fetched,
        )
    if _is_as_it_came(image, local, digest, folder, progress):
        return _same(case, _SAME, local)
    for how, payload in _candidates(case, local, folder, fetched, progress):
        if payload.size == image.size and digest.value == _digest(
            payload, digest.algorithm, progress
        ):
            return _same(case, how, local)
    return _differing(case, local, fetched, folder)


def compare_parts(
    case: context.Case, local: Local, *, progress: Progress
) -> Iterator[findings.Finding]:
    """Compare an AMI's kernel and ramdisk with those of a local source.

    :raises SourceError: if one of them cannot be read.
    """
    files = {model.Kind.AKI: local.kernel, model.Kind.ARI: local.ramdisk}
    for kind, image in case.parts:
        path, digest = files[kind], image_data.expected(image)
        if path is None or digest is None:
            continue
        payload = model.Payload.of(path)
        if digest.value != _digest(payload, digest.algorithm, progress):
            yield context.found(
                case,
                'error',
                'differs',
                f'{context.name(kind, image)} does not hold the bytes of the '
                f'{kind.noun} in {local.name}; what is right has to be '
                'uploaded',
                kind=kind,
            )


def _digest(payload: model.Payload, algorithm: str, progress: Progress) -> str:
    return image_data.digest(
        payload,
        'Hashing the local source',
        progress,
        algorithm=algorithm,
    )


def _same(case: context.Case, how: str, local: Local) -> findings.Finding:
    return context.found(
        case,
        'note',
        'same',
        f'{case.title} holds {how} {local.title}, byte by byte',
        kind=model.Kind.AMI,
    )


def _undecided(
    case: context.Case,
    rule: str,
    message: str,
    local: Local,
    fetched: pathlib.Path | None,
) -> findings.Finding:
    """Tell what the bytes do not.

    The remedy is to look at the data, unless that was done. Everybody may,
    whoever owns the AMI.
    """
    found = context.found(case, 'error', rule, message, kind=model.Kind.AMI)
    if fetched is not None:
        return found
    words = ['openstack', 'ami', 'verify', '--deep', '--against']
    words += [str(local.name.absolute()), *_options(local.choice)]
    return dataclasses.replace(
        found, remedy=shlex.join([*words, case.image.id])
    )


def _options(choice: resolve.Choice) -> Iterator[str]:
    """Write the options without which it would be another source."""
    if choice.partition is not None:
        yield from ('--partition', str(choice.partition))
    if choice.allow_backing_file:
        yield '--allow-backing-file'
    if choice.fix:
        yield '--fix'
    if choice.repair:
        yield '--repair'


def _is_as_it_came(
    image: model.ImageRecord,
    local: Local,
    digest: image_data.Digest,
    folder: pathlib.Path,
    progress: Progress,
) -> bool:
    """Tell whether an AMI holds the very file that the user has.

    What is at ``local.path`` by now may be what was taken out of it.
    """
    if local.choice.fix:
        return False
    if local.saved is None:
        if image.disk_format in deep.PLAIN or not local.name.is_file():
            return False
        return _holds(image, local.name, digest, progress)
    if local.saved.size != image.size:
        return False
    if digest.algorithm == 'sha512':
        return digest.value == local.saved.sha512
    if local.name.is_dir():
        path = local.name / local.saved.file
    elif not uec.is_tar(local.name):
        path = local.name.parent / local.saved.file
    else:
        # Once more, for what was unpacked may have been a disk image, of
        # which nothing is left but what was in it.
        made = folder / 'saved'
        made.mkdir()
        try:
            unpacked = uec.unpack(local.name, made, progress=progress)
            return unpacked is not None and _holds(
                image, unpacked.paths['image'], digest, progress
            )
        finally:
            shutil.rmtree(made)
    return _holds(image, path, digest, progress)


def _holds(
    image: model.ImageRecord,
    path: pathlib.Path,
    digest: image_data.Digest,
    progress: Progress,
) -> bool:
    payload = model.Payload.of(path)
    return payload.size == image.size and digest.value == _digest(
        payload, digest.algorithm, progress
    )


def _candidates(
    case: context.Case,
    local: Local,
    folder: pathlib.Path,
    fetched: pathlib.Path | None,
    progress: Progress,
) -> Iterator[tuple[str, model.Payload]]:
    """Make what may have been sent, the cheapest first."""
    root = detect.open_root(local.path)
    yield _SAME, model.Payload(local.path, root.size, state=root.state)
    blank = detect.boot_sector(local.path)
    size = root.superblock.size
    if blank or size != root.size:
        payload = model.Payload(local.path, size, blank, state=root.state)
        yield 'the filesystem of', payload
    if case.image.disk_format not in deep.PLAIN and fetched is None:
        return
    plan = shrink.plan(
        shrink.ShrinkRequest(
            image=root,
            output=folder / 'shrunk',
            headroom=local.headroom,
            journal=local.journal,
            repair=local.choice.repair,
            durable=False,
        ),
        progress=progress,
    )
    shrunk = shrink.execute(plan, progress=progress)
    payload = model.Payload(shrunk.output, shrunk.size, blank)
    yield 'a shrunk copy of', payload


def _differing(
    case: context.Case,
    local: Local,
    fetched: pathlib.Path | None,
    folder: pathlib.Path,
) -> findings.Finding:
    kind, disk_format = model.Kind.AMI, case.image.disk_format
    if fetched is None and disk_format not in deep.PLAIN:
        return _undecided(
            case,
            'not-comparable',
            f'{case.title} is {_article(disk_format)} {disk_format} image, '
            'whose bytes depend on how it was packed: they are not those of '
            f'{local.title}, but what is in it may be the same',
            local,
            fetched,
        )
    if fetched is None:
        return _undecided(
            case,
            'differs',
            f'{case.title} does not hold the bytes of {local.title}, shrunk '
            'as the options say or as it is',
            local,
            fetched,
        )
    try:
        there = detect.open_root(fetched)
    except errors.SourceError:
        # Why, the look at the data has told.
        return context.found(
            case,
            'error',
            'differs' if disk_format in deep.PLAIN else 'not-comparable',
            f'{case.title} does not hold the bytes of {local.title}, nor a '
            'filesystem whose files could be compared',
            kind=kind,
        )
    here = detect.open_root(folder / 'shrunk')
    differences = compare_.differences(there.path, here.path, folder)
    if not differences:
        return context.found(
            case,
            'note',
            'same',
            f'{case.title} holds the same files as {local.title}, with the '
            f'same content; {_layout(there, here)}',
            kind=kind,
        )
    some = ', '.join(differences[:_NAMED])
    if len(differences) > _NAMED:
        some += f' and {len(differences) - _NAMED} more'
    return context.found(
        case,
        'error',
        'differs',
        f'{case.title} differs from {local.title} in '
        f'{_files(len(differences))}: '
        f'{some}; what is right has to be uploaded',
        kind=kind,
    )


def _article(noun: str | None) -> str:
    return 'an' if noun and noun[0] in 'aeiou' else 'a'


def _files(number: int) -> str:
    return '1 file' if number == 1 else f'{number} files'


def _layout(there: RootImage, here: RootImage) -> str:
    """Say how two filesystems of the same files differ."""
    if there.size != here.size:
        return f'it has {there.size} bytes, a shrunk copy {here.size}'
    return 'only their places differ'
