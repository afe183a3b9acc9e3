# SPDX-License-Identifier: Apache-2.0

"""A source with the kernel and the ramdisk that are in its root filesystem.

What a source brings along, or the user names, comes first; this is for when
there is neither.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import pathlib

from amiclient import errors
from amiclient.ext import workplace
from amiclient.rootfs import boot_files
from amiclient.rootfs import taking
from amiclient.source import bundle
from amiclient.source import detect


@dataclasses.dataclass(frozen=True)
class Wanted:
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
    wanted: Wanted,
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
    root = detect.open_root(source.root)
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
    with workplace.folder(
        work_directory,
        source.root,
        f'{shown}: there is no folder to take its kernel out to',
    ) as folder:
        taken = taking.take(chosen, folder, ramdisk=wanted.ramdisk)
        notes = [f'{shown}: kernel {chosen.version} was found in it']
        if root.superblock.needs_recovery:
            notes.append(
                f'{shown}: it was not unmounted, and its journal was not '
                'looked into: a kernel that was installed last may be missing'
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
            # What is sent besides has to be what they were taken out of.
            seen={source.root: root.state, **source.seen},
            notes=(*source.notes, *notes),
        )
