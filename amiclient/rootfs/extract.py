# SPDX-License-Identifier: Apache-2.0

"""A source as three files and a manifest, which an upload takes back."""

import contextlib
import dataclasses
import os
import pathlib
import shutil

from amiclient import atomic
from amiclient import errors
from amiclient.ext import busy
from amiclient.ext import layout
from amiclient import locks
from amiclient.progress import Progress
from amiclient.progress import QUIET
from amiclient import scratch
from amiclient.source import bundle
from amiclient.source import filesystem
from amiclient.source import manifest
from amiclient.source import opening
from amiclient import sparse

#: What the name of each file ends in, and the formats of what is made of it.
_SUFFIXES = {'image': '.img', 'kernel': '-vmlinuz', 'ramdisk': '-initrd'}
_FORMATS = {'image': 'ami', 'kernel': 'aki', 'ramdisk': 'ari'}

#: What is added to the name of a directory that holds something else.
_BESIDE = '-ami'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extracted:
    """A triple that is in files now.

    :param kernel: None if there is none; so ``ramdisk``.
    """

    directory: pathlib.Path
    image: pathlib.Path
    kernel: pathlib.Path | None
    ramdisk: pathlib.Path | None
    manifest: pathlib.Path


def extract(
    source: bundle.Source,
    name: pathlib.Path,
    directory: pathlib.Path | None = None,
    *,
    progress: Progress = QUIET,
) -> Extracted:
    """Write root filesystem, kernel and ramdisk to files.

    Either all of them are there in the end or none. What is there already is
    left alone, if it is the same.

    :param source: with its kernel and ramdisk, as far as it has any.
    :param name: what the user called it.
    :param directory: where to; None for one that is named after the source.
    :param progress: who watches the copying.
    :raises SourceError: if the source holds no ext filesystem, or is in use.
    :raises AmiError: if there is something else where it is to go.
    :raises NoSpaceError: if there is no room for it.
    """
    source.image()
    busy.refuse_busy(source.root)
    stem = manifest.stem(source.name or _without_suffix(name))
    place = directory or _default(stem)
    with atomic.directory_for(place):
        return _write_all(source, stem, place, progress)


def _default(stem: str) -> pathlib.Path:
    """Choose a directory, but none that holds something else.

    The source itself does, and so may what it is an archive of.
    """
    directory = pathlib.Path(stem)
    if not directory.exists() or (
        directory.is_dir()
        and (
            (directory / manifest.NAME).exists()
            or not any(directory.iterdir())
        )
    ):
        return directory
    return pathlib.Path(f'{stem}{_BESIDE}')


def home(
    name: pathlib.Path, directory: pathlib.Path | None
) -> pathlib.Path | None:
    """Tell where the root filesystem is best made: where it is to stay.

    The parameters are those of :func:`extract`.

    :returns: None if nothing can be made there.
    :raises UsageError: if it would stay within the source.
    """
    bundle.refuse_within(
        directory or pathlib.Path.cwd(),
        name,
        hint='give --directory outside of it',
    )
    place = directory or pathlib.Path()
    if not place.is_dir():
        # It will be made.
        place = place.parent
    usable = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    return place if usable else None


def _write_all(
    source: bundle.Source,
    stem: str,
    directory: pathlib.Path,
    progress: Progress,
) -> Extracted:
    origins = {
        'image': source.root,
        'kernel': source.kernel,
        'ramdisk': source.ramdisk,
    }
    found = {noun: path for noun, path in origins.items() if path}
    movable = _is_movable(source, directory)
    needed = sum(
        _taken(path)
        for noun, path in found.items()
        if noun != 'image' or not movable
    )
    scratch.check_room(directory, needed)
    seen = {source.root: source.image().state, **source.seen}
    with contextlib.ExitStack() as stack, scratch.full_disk(directory):
        outputs: dict[str, atomic.Output] = {}
        parts: dict[str, manifest.ManifestPart] = {}
        for noun, path in found.items():
            target = directory / f'{stem}{_SUFFIXES[noun]}'
            output = stack.enter_context(atomic.Output(target))
            rest = _behind(source) if noun == 'image' else 0
            if noun != 'image' or not _moved(source, output):
                _copy(source, noun, path, output.path, progress)
                if path in seen and not source.own:
                    # The kernel was taken out of it, or both belong together.
                    locks.refuse_changed(path, seen[path])
            if rest:
                os.truncate(output.path, output.path.stat().st_size - rest)
            outputs[noun] = output
            parts[noun] = _part(
                source, noun, output, stem, progress, shorter=rest > 0
            )
        listing = stack.enter_context(atomic.Output(directory / manifest.NAME))
        listing.path.write_bytes(manifest.dump(manifest.Manifest(**parts)))
        # The manifest says that the others are whole: it is the last one.
        whole = (*outputs.values(), listing)
        for output in [one for one in whole if not _is_there(one, progress)]:
            output.keep()
    paths = {noun: output.target for noun, output in outputs.items()}
    return Extracted(
        directory=directory,
        image=paths['image'],
        kernel=paths.get('kernel'),
        ramdisk=paths.get('ramdisk'),
        manifest=listing.target,
    )


def _is_there(output: atomic.Output, progress: Progress) -> bool:
    """Tell whether a file is there already.

    :raises AmiError: if it is another one.
    """
    target = output.target
    if not os.path.lexists(target):
        return False
    same = (
        target.is_file()
        and target.stat().st_size == output.path.stat().st_size
        and manifest.sha512(target, progress=progress)
        == manifest.sha512(output.path, progress=progress)
    )
    if not same:
        raise errors.AmiError(
            f'{target} is there already, and is something else',
            hint='remove it, or choose another --directory',
        )
    return True


def _is_movable(source: bundle.Source, directory: pathlib.Path) -> bool:
    return source.own and source.root.stat().st_dev == directory.stat().st_dev


def _moved(source: bundle.Source, output: atomic.Output) -> bool:
    if not _is_movable(source, output.target.parent):
        return False
    if not _keeps_all(source):
        filesystem.clear_unused(source.root)
    return output.adopt(source.root)


def _keeps_all(source: bundle.Source) -> bool:
    block = source.image().superblock
    # What is only in the journal would be lost otherwise; and what was in a
    # cloud stays what it was, byte by byte.
    return source.finished or block.needs_recovery or block.orphans


def _behind(source: bundle.Source) -> int:
    """Tell the bytes at the end of what is kept that are not taken along.

    Users are told so. Zeros there, of which nothing is said, are kept.
    """
    if not _keeps_all(source):
        return 0
    return layout.behind(source.root, source.image().superblock)


def _copy(
    source: bundle.Source,
    noun: str,
    origin: pathlib.Path,
    target: pathlib.Path,
    progress: Progress,
) -> None:
    if noun != 'image':
        with (
            opening.opened(origin, wanted='a part of the source') as reader,
            target.open('wb') as writer,
        ):
            shutil.copyfileobj(reader, writer, sparse.CHUNK)
    elif _keeps_all(source):
        sparse.copy(origin, target)
    else:
        with layout.Layout.opened(origin) as groups:
            groups.copy_in_use(target, progress=progress)


def _part(
    source: bundle.Source,
    noun: str,
    output: atomic.Output,
    stem: str,
    progress: Progress,
    *,
    shorter: bool,
) -> manifest.ManifestPart:
    before = source.part(noun)
    size = output.path.stat().st_size
    sha512 = manifest.sha512(output.path, progress=progress)
    if before is not None and before.sha512 == sha512:
        return dataclasses.replace(before, file=output.target.name)
    if before is not None and shorter:
        # Nothing else of it has changed.
        return dataclasses.replace(
            before, file=output.target.name, size=size, sha512=sha512
        )
    origin = source.kernel if noun == 'kernel' else source.ramdisk
    return manifest.ManifestPart(
        file=output.target.name,
        size=size,
        sha512=sha512,
        disk_format=_FORMATS[noun],
        container_format=_FORMATS[noun],
        name=stem if noun == 'image' or origin is None else origin.name,
    )


def _taken(path: pathlib.Path) -> int:
    status = path.stat()
    return min(status.st_size, status.st_blocks * 512)


def _without_suffix(name: pathlib.Path) -> str:
    stem = name.name or name.resolve().name
    for _ in range(2):
        short, dot, suffix = stem.rpartition('.')
        if dot and short and suffix.isalnum() and not suffix.isdigit():
            stem = short
    return stem
