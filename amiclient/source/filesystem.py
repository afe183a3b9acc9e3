# SPDX-License-Identifier: Apache-2.0

"""A filesystem that lies somewhere in a disk, and is taken out of there.

Its blocks in use are read, and nothing else: neither what was deleted from
it, nor the rest of the disk.
"""

import os
import pathlib

from amiclient import errors
from amiclient.ext import e2fsprogs
from amiclient.ext import layout
from amiclient.ext.repair import mend
from amiclient.ext import superblock
from amiclient.progress import Progress
from amiclient import scratch
from amiclient.source import block
from amiclient import sparse


class DiskLayout(layout.Layout):
    """The block groups of a filesystem within a disk.

    :param medium: the disk.
    :param start: bytes from its beginning to the filesystem's.
    """

    def __init__(
        self,
        medium: block.Medium,
        start: int,
        found: superblock.Superblock,
    ) -> None:
        self._medium = medium
        self._start = start
        # Nothing here reads by it.
        super().__init__(-1, found)

    def read(self, offset: int, count: int) -> bytes:
        """Read bytes of the filesystem, fewer only where the disk ends.

        :raises SourceError: if they cannot be read.
        """
        return self._medium.read(self._start + offset, count)

    def allocated(self) -> int:
        """Return nothing: a disk does not tell what it takes."""
        return 0

    def blocks(self, first: int, count: int = 1) -> bytes:
        """Read blocks.

        :raises SourceError: if they cannot be read, or the disk ends before.
        """
        size = self.superblock.block_size
        wanted = count * size
        data = self.read(first * size, wanted)
        if len(data) < wanted:
            raise sparse.cut_short(self._medium.size)
        return data


def take(
    medium: block.Medium,
    start: int,
    found: superblock.Superblock,
    target: pathlib.Path,
    *,
    name: pathlib.Path,
    repair: bool,
    progress: Progress,
) -> None:
    """Copy a filesystem out of a disk, and bring it in order.

    :param start: bytes from the beginning of the disk to the filesystem's.
    :param found: its superblock.
    :param target: the file that is made.
    :param name: what to call it in errors.
    :param repair: whether e2fsck may mend more than preening does.
    :raises SourceError: if it cannot be read.
    :raises DamagedError: if it is damaged beyond what e2fsck may mend.
    :raises NoSpaceError: if there is no room for it.
    """
    directory = target.parent
    with (
        errors.about(name),
        scratch.full_disk(directory),
        sparse.opened(
            target, os.O_RDWR | os.O_CREAT | os.O_EXCL
        ) as descriptor,
    ):
        os.truncate(descriptor, found.size)
        whole = [(0, found.size)]
        if found.needs_recovery:
            # What the journal holds tells of blocks that the bitmaps do not.
            _copy(medium, start, descriptor, whole, directory, progress)
            in_order = False
        else:
            groups = DiskLayout(medium, start, found)
            used = sparse.subtract(
                sparse.bytes_of(groups.in_use(), found.block_size),
                list(groups.unused_inode_bytes()),
            )
            _copy(medium, start, descriptor, used, directory, progress)
            with progress.task('Checking'):
                in_order = not found.orphans and e2fsprogs.Toolbox.of(
                    found
                ).check(target)
            if not in_order:
                # Then nothing is certain, the bitmaps least of all.
                _copy(medium, start, descriptor, whole, directory, progress)
        # The boot sector of another disk: see the design notes.
        os.pwrite(descriptor, bytes(superblock.OFFSET), 0)
    if not in_order:
        with progress.task('Repairing'):
            mend(
                target,
                e2fsprogs.Toolbox.of(found),
                recover=True,
                repair=repair,
                name=name,
            )


def clear_unused(path: pathlib.Path) -> None:
    """Make a filesystem what Layout.copy_in_use() would make of it."""
    found = superblock.read(path)
    with sparse.opened(path, os.O_RDWR) as descriptor:
        groups = layout.Layout(descriptor, found)
        unused = list(groups.unused_inode_bytes())
        used = sparse.bytes_of(groups.in_use(), found.block_size)
        os.truncate(descriptor, found.size)
        sparse.clear(descriptor, sparse.complement(used, found.size))
        sparse.clear(descriptor, unused)


def _copy(
    medium: block.Medium,
    start: int,
    target: int,
    runs: list[sparse.Run],
    directory: pathlib.Path,
    progress: Progress,
) -> None:
    total = sparse.count(runs)
    if len(runs) > 1:
        # Of a whole filesystem, nobody knows how much is zeros.
        scratch.check_room(directory, total)
    with progress.task('Copying', total) as task:
        block.copy_runs(medium, start, target, runs, task=task)
