# SPDX-License-Identifier: Apache-2.0

"""A source with the kernel and the ramdisk that are in its root filesystem.

What a source brings along, or the user names, comes first; this is for when
there is neither.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import itertools
import os
import pathlib
import posixpath

from amiclient import errors
from amiclient.ext import reader as ext_reader
from amiclient.ext.reader import Reader
from amiclient.rootfs import boot_files
from amiclient.rootfs.boot_files import BootFiles
from amiclient.rootfs import identify
from amiclient.rootfs import ramdisk_formats
from amiclient import scratch
from amiclient.source import bundle
from amiclient.source import manifest
from amiclient.source import opening
from amiclient.source import streams
from amiclient.source import uki
from amiclient import sparse
from amiclient import units


@dataclasses.dataclass(frozen=True)
class BootSelection:
    """What is to be looked for.

    :param kernel: whether the kernel is still open; so ``ramdisk``.
    :param version: of the kernel, as ``uname -r`` says; None for the newest.
    :param hint: what to do if there is none.
    :param required: whether it is an error if there is none.
    """

    kernel: bool = True
    ramdisk: bool = True
    version: str | None = None
    hint: str = 'name one with --kernel'
    required: bool = True


@contextlib.contextmanager
def completed(
    source: bundle.Source,
    wanted: BootSelection,
    *,
    name: pathlib.Path,
    work_directory: pathlib.Path | None = None,
) -> Iterator[bundle.Source]:
    """Add the newest kernel of the root filesystem, and its ramdisk.

    A ramdisk belongs to a kernel, so without that none is looked for. What
    was taken out goes away at the end of the block.

    :param name: what the user called the source.
    :param work_directory: where to put it; None for the usual place.
    :raises SourceError: if there is no kernel, or not that one.
    :raises NoSpaceError: if there is no room for it.
    """
    if not wanted.kernel or (source.complete and wanted.version is None):
        yield source
        return
    shown = errors.shown(name)
    root = source.image()
    found = boot_files.find(source.root, source.boot)
    if not found and not wanted.required and wanted.version is None:
        yield source
        return
    chosen = boot_files.choose(
        found,
        wanted.version,
        name=shown,
        hint=wanted.hint,
    )
    with scratch.directory(
        work_directory,
        source.root,
        f'{shown}: there is no directory to copy its kernel to',
    ) as directory:
        taken = take(chosen, directory, ramdisk=wanted.ramdisk)
        notes = [f'{shown}: kernel {chosen.version} was found in it']
        if taken.was is not None:
            notes.append(
                f'{shown}: it was unpacked: it was {taken.was}, which '
                'not all hosts can start'
            )
        if len(chosen.ramdisks) > 1 and taken.ramdisk is not None:
            notes.append(
                f'{shown}: its ramdisk was put together of {chosen.ramdisk}'
            )
        if chosen.missing and wanted.ramdisk:
            listed = errors.some([errors.shown(e) for e in chosen.missing])
            notes.append(
                f'{shown}: a boot loader also loads {listed} for a ramdisk, '
                'which is not there'
            )
        if words := boot_files.needed(chosen.options):
            what = (
                'a system of ostree or bootc'
                if words[0].startswith(boot_files.OSTREE)
                else 'this system'
            )
            notes.append(
                f'{shown}: {what} boots only with '
                f'{errors.shown(" ".join(words))} on its kernel command line, '
                'which Nova does not give it: "openstack ami check" tells the '
                'os_command_line that the AMI needs'
            )
        if root.superblock.needs_recovery:
            notes.append(
                f'{shown}: it was not unmounted, and its journal was not '
                'read: a kernel that was installed last may be missing'
            )
        if wanted.ramdisk and taken.ramdisk is None:
            notes.append(
                f'{shown}: there is no ramdisk for kernel {chosen.version} in '
                'it: it boots if what it needs is built into the kernel'
            )
        yield dataclasses.replace(
            source,
            kernel=taken.kernel.path,
            ramdisk=taken.ramdisk.path if taken.ramdisk else None,
            boot_options=chosen.options,
            # What is sent besides has to be what they were taken out of.
            seen={source.root: root.state, **source.seen},
            notes=(*source.notes, *notes),
        )


#: No kernel or ramdisk is larger, in bytes.
_LIMIT = 1 << 30


@dataclasses.dataclass(frozen=True)
class ExtractedBoot:
    """A kernel and a ramdisk that are in files now.

    :param kernel: the file, and what it holds; so ``ramdisk``, of which
        there may be none.
    :param was: the format that the kernel was unpacked from; None if it was
        not.
    """

    kernel: identify.Kernel
    ramdisk: identify.Ramdisk | None
    was: str | None = None


def take(
    boot_files: BootFiles,
    directory: pathlib.Path,
    *,
    ramdisk: bool = True,
    reader: Reader | None = None,
) -> ExtractedBoot:
    """Write a kernel and its ramdisk to files that only we may read.

    :param directory: where to; they have the names that they have there.
    :param ramdisk: whether the ramdisk is wanted.
    :param reader: of the filesystem that they are in, if it is open already.
    :raises SourceError: if they are not what they were taken for.
    :raises NoSpaceError: if there is no room for them.
    """
    image = boot_files.image
    opened = (
        ext_reader.opened(image)
        if reader is None
        else contextlib.nullcontext(reader)
    )
    with opened as reader:
        if boot_files.unified:
            kernel, initrd = _take_apart(reader, boot_files, directory)
        else:
            kernel = _copied(reader, [boot_files.kernel], directory)
            initrd = None
            if ramdisk and boot_files.ramdisks:
                initrd = _copied(reader, boot_files.ramdisks, directory)
    with _blamed(image, boot_files.kernel):
        packed = identify.identify_kernel(kernel)
        found = _startable(packed)
    was = packed.format if found is not packed else None
    if initrd is None or not ramdisk:
        return ExtractedBoot(found, None, was)
    with _blamed(image, boot_files.ramdisk or ''):
        return ExtractedBoot(found, identify.identify_ramdisk(initrd), was)


def _copied(
    reader: Reader, paths: Sequence[str], directory: pathlib.Path
) -> pathlib.Path:
    """Copy files, one after the other, to one with the name of the last."""
    pieces: list[Iterator[bytes]] = []
    size = 0
    for path in paths:
        node = reader.find(path)
        if node is None or not node.is_file:
            raise errors.SourceError(
                f'{path} is not in the root filesystem any more',
                hint='do not change it while it is read',
            )
        # The kernel looks for a plain archive at a multiple of 4 alone, and
        # passes over zeros (init/initramfs.c).
        gap = -size % 4
        if gap and ramdisk_formats.is_plain(reader.head(path, 6) or b''):
            pieces.append(iter((bytes(gap),)))
            size += gap
        pieces.append(reader.chunks(node))
        size += node.size
    target = directory / manifest.stem(posixpath.basename(paths[-1]))
    _write(target, itertools.chain.from_iterable(pieces), size)
    return target


def _startable(kernel: identify.Kernel) -> identify.Kernel:
    """Unpack a kernel that hosts cannot start as it is.

    :raises SourceError: if that cannot be done.
    :raises ProgramError: if the program for it is missing.
    """
    packed = kernel.packed
    if packed is None:
        return kernel
    path = kernel.path
    inner = path.with_name(f'{path.name}.packed')
    with opening.opened(path, wanted='a kernel') as file:
        file.seek(packed.offset)
        size = kernel.size if packed.size is None else packed.size
        _write(inner, _pieces(file.read, size), size)
    path.unlink()
    with streams.opened(inner, wanted='a kernel', name=path.name) as stream:
        _write(path, _pieces(stream.read, _LIMIT), 0)
    inner.unlink()
    return identify.startable_kernel(path)


def _pieces(read: Callable[[int], bytes], size: int) -> Iterator[bytes]:
    while size and (data := read(min(size, sparse.CHUNK))):
        size -= len(data)
        yield data


def _take_apart(
    reader: Reader,
    boot_files: BootFiles,
    directory: pathlib.Path,
) -> tuple[pathlib.Path, pathlib.Path | None]:
    node = reader.find(boot_files.kernel)
    found = uki.sections(reader.head(boot_files.kernel, uki.HEAD) or b'')
    if node is None or '.linux' not in found:
        raise errors.SourceError(
            f'{boot_files.kernel} is not a unified kernel image any more',
            hint='do not change it while it is read',
        )
    made: list[pathlib.Path] = []
    for name, prefix in (('.linux', 'vmlinuz'), ('.initrd', 'initrd')):
        place = found.get(name)
        if place is None:
            continue
        target = directory / manifest.stem(f'{prefix}-{boot_files.version}')
        pieces = reader.span(node, place.offset, place.size)
        _write(target, pieces, place.size)
        made.append(target)
    return made[0], made[1] if len(made) > 1 else None


def _write(target: pathlib.Path, pieces: Iterator[bytes], size: int) -> None:
    if size > _LIMIT:
        raise errors.SourceError(
            f'{target.name} has {size} bytes, more than a kernel or ramdisk '
            'has'
        )
    if size > scratch.room(target.parent):
        raise _no_room(target.parent, size)
    with scratch.full_disk(
        target.parent, lack=lambda full, _: _no_room(full, size)
    ):
        fd = os.open(
            target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
        )
        with os.fdopen(fd, 'wb') as file:
            for piece in pieces:
                file.write(piece)


def _no_room(directory: pathlib.Path, size: int) -> errors.NoSpaceError:
    return errors.NoSpaceError(
        f'no room for a kernel or ramdisk of {units.format_size(size)}',
        subject=directory,
        hint='make room there, or choose another --work-directory',
    )


@contextlib.contextmanager
def _blamed(image: pathlib.Path, path: str) -> Iterator[None]:
    try:
        yield
    except errors.SourceError as error:
        raise errors.SourceError(
            f'{path} in it cannot be used: {error.message}',
            subject=image,
            hint='name another with --kernel and --ramdisk',
        ) from error
