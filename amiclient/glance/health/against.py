#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.

"""Whether an AMI holds what a local source does.

An upload sends the source as it is, or a shrunk copy of it. Both can be made
again here: shrinking gives the same bytes from the same source, with the same
options and the same e2fsprogs. So in most cases a hash is all that is needed
of the cloud. Where the bytes differ, the files can still be the same.
"""

from collections.abc import Iterator
import dataclasses
import pathlib

from amiclient.ext import compare as compare_
from amiclient.ext import image as image_
from amiclient.ext import shrink
from amiclient import findings
from amiclient.glance.data import content
from amiclient.glance.data import transfer
from amiclient.glance.health import case as case_
from amiclient.glance.health import deep
from amiclient.glance import model
from amiclient import progress as progress_
from amiclient.source import detect
from amiclient import units

#: Rules, and so what ``--ignore`` takes.
RULES = frozenset({'differs', 'not-comparable', 'same'})

#: How the file itself, as it is, is compared.
_SAME = 'the bytes of'

#: What Nova must not see, and what is sent as zeros therefore.
_BOOT_SECTOR = 1024

#: Paths that are named; the rest is counted.
_NAMED = 5


@dataclasses.dataclass(frozen=True)
class Local:
    """A local source, and how it was shrunk, or may have been.

    :param path: the file or block device with the root filesystem.
    :param kernel: a file that came with it; None if there is none.
    :param ramdisk: the same.
    :param name: what the user calls it.
    :param headroom: free space that was left. :param journal: ``keep``,
        ``none``, or the bytes of a new one.
    :param repair: whether e2fsck might fix all it can.
    """

    path: pathlib.Path
    name: pathlib.Path
    kernel: pathlib.Path | None = None
    ramdisk: pathlib.Path | None = None
    headroom: units.Headroom = units.NO_HEADROOM
    journal: str | int = 'keep'
    repair: bool = False


def compare(
    case: case_.Case,
    local: Local,
    folder: pathlib.Path,
    *,
    fetched: pathlib.Path | None,
    progress: progress_.Progress,
) -> findings.Finding:
    """Compare an AMI's data with a local source.

    :param folder: where a shrunk copy can be made.
    :param fetched: a file with the AMI's data, if there is one.
    :returns: a note if it is the same, else what differs.
    :raises SourceError: if the source cannot be read.
    :raises NoSpaceError: if there is no room for the copy.
    """
    kind, image = model.Kind.AMI, case.image
    digest = content.expected(image)
    if digest is None and fetched is not None:
        payload = model.Payload(fetched, fetched.stat().st_size)
        value = _digest(payload, 'sha512', progress)
        digest = content.Digest('sha512', value)
    if digest is None or not image.size:
        return case_.found(
            case,
            'error',
            'not-comparable',
            f'{case.title} has no hash, so nothing but its data could be '
            'compared',
            *_deeper(case, local, fetched),
            kind=kind,
        )
    for how, payload in _candidates(case, local, folder, fetched, progress):
        if payload.size == image.size and digest.value == _digest(
            payload, digest.algorithm, progress
        ):
            message = f'{case.title} holds {how} {local.name}, byte by byte'
            return case_.found(case, 'note', 'same', message, kind=kind)
    return _differing(case, local, fetched, folder)


def compare_parts(
    case: case_.Case, local: Local, *, progress: progress_.Progress
) -> Iterator[findings.Finding]:
    """Compare an AMI's kernel and ramdisk with those of a local source.

    :raises SourceError: if one of them cannot be read.
    """
    files = {model.Kind.AKI: local.kernel, model.Kind.ARI: local.ramdisk}
    for kind, image in case.parts:
        path, digest = files[kind], content.expected(image)
        if path is None or digest is None:
            continue
        payload = model.Payload(path, path.stat().st_size)
        if digest.value != _digest(payload, digest.algorithm, progress):
            yield case_.found(
                case,
                'error',
                'differs',
                f'{case_.name(kind, image)} does not hold the bytes of the '
                f'{kind.noun} in {local.name}; what is right has to be '
                'uploaded',
                kind=kind,
            )


def _digest(
    payload: model.Payload, algorithm: str, progress: progress_.Progress
) -> str:
    return transfer.digest(
        payload,
        progress=progress,
        description='Hashing the local source',
        algorithm=algorithm,
    )


def _deeper(
    case: case_.Case, local: Local, fetched: pathlib.Path | None
) -> list[tuple[str, ...]]:
    """Write the command that looks at the data, unless that was done."""
    if fetched is not None:
        return []
    how = '--deep', '--against', str(local.name.absolute())
    return [('openstack', 'ami', 'verify', *how, case.image.id)]


def _candidates(
    case: case_.Case,
    local: Local,
    folder: pathlib.Path,
    fetched: pathlib.Path | None,
    progress: progress_.Progress,
) -> Iterator[tuple[str, model.Payload]]:
    """Make what may have been sent, the cheapest first."""
    if case.image.disk_format not in deep.PLAIN and local.name.is_file():
        # A disk image, such as qcow2, may have been uploaded as it is; what
        # is at the path by now is the filesystem that was taken out of it.
        size = local.name.stat().st_size
        yield _SAME, model.Payload(local.name, size)
    root = detect.open_root(local.path)
    yield _SAME, model.Payload(local.path, root.size)
    blank = _BOOT_SECTOR if deep.has_boot_sector(local.path) else 0
    size = root.superblock.size
    if blank or size != root.size:
        yield 'the filesystem of', model.Payload(local.path, size, blank)
    if case.image.disk_format not in deep.PLAIN and fetched is None:
        return
    plan = shrink.plan(
        shrink.ShrinkRequest(
            image=root,
            output=folder / 'shrunk',
            headroom=local.headroom,
            journal=local.journal,
            repair=local.repair,
            durable=False,
        ),
        progress=progress,
    )
    shrunk = shrink.execute(plan, progress=progress)
    payload = model.Payload(shrunk.output, shrunk.size, blank)
    yield 'a shrunk copy of', payload


def _differing(
    case: case_.Case,
    local: Local,
    fetched: pathlib.Path | None,
    folder: pathlib.Path,
) -> findings.Finding:
    kind = model.Kind.AMI
    shrunk = folder / 'shrunk'
    if fetched is None or not shrunk.exists():
        options = '' if fetched else ', shrunk as the options say or as it is'
        return case_.found(
            case,
            'error',
            'differs',
            f'{case.title} does not hold the bytes of {local.name}{options}',
            *_deeper(case, local, fetched),
            kind=kind,
        )
    there = detect.open_root(fetched)
    here = detect.open_root(shrunk)
    differences = compare_.differences(there.path, here.path, folder)
    if not differences:
        return case_.found(
            case,
            'note',
            'same',
            f'{case.title} holds the same files as {local.name}, with the '
            f'same content; {_layout(there, here)}',
            kind=kind,
        )
    some = ', '.join(differences[:_NAMED])
    if len(differences) > _NAMED:
        some += f' and {len(differences) - _NAMED} more'
    return case_.found(
        case,
        'error',
        'differs',
        f'{case.title} differs from {local.name} in '
        f'{_files(len(differences))}: '
        f'{some}; what is right has to be uploaded',
        kind=kind,
    )


def _files(number: int) -> str:
    return '1 file' if number == 1 else f'{number} files'


def _layout(there: image_.RootImage, here: image_.RootImage) -> str:
    """Say how two filesystems of the same files differ."""
    if there.size != here.size:
        return f'it has {there.size} bytes, a shrunk copy {here.size}'
    return 'only their places differ'
