# SPDX-License-Identifier: Apache-2.0

"""The disk that a guest gets: what it writes never reaches the source."""

import pathlib

from amiclient import confinement
from amiclient import errors
from amiclient.ext import superblock
from amiclient import process

#: Bytes of a disk come in sectors.
SECTOR = 512

#: Bytes of a disk that the qcow2 format has room for: 32 MiB of a table, each
#: 8 bytes of which stand for 512 MiB (QEMU, block/qcow2.h).
LARGEST = 2 << 50

#: Where superblocks end; what is read at a time.
_BLOCK = 4096


def make(source: pathlib.Path, target: pathlib.Path, size: int) -> None:
    """Make a disk that is like a file or device, until it is written to.

    :param target: the qcow2 file to make.
    :param size: of the disk, in bytes, rounded up.
    :raises ProgramError: if qemu-img is missing, or fails.
    """
    # Absolute, for qemu-img takes what is before a colon for a protocol, and
    # the path of the backing file to be relative to the target.
    bytes_ = str(-(-size // SECTOR) * SECTOR)
    process.run(
        [
            'qemu-img', 'create', '-q', '-f', 'qcow2', '-F', 'raw',
            '-b', source.absolute(), target, bytes_,
        ],
        access=confinement.Access(reads=(source,), writes=(target,)),
    )  # fmt: skip


def superblock_of(
    disk: pathlib.Path, source: pathlib.Path, folder: pathlib.Path
) -> superblock.Superblock | None:
    """Read the superblock of the filesystem on a disk that is not in use.

    :param source: what it was like before.
    :param folder: where to put what is temporary.
    :returns: None if the guest destroyed it.
    :raises ProgramError: if qemu-img fails.
    """
    piece = folder / 'superblock'
    process.run(
        [
            'qemu-img', 'dd', '-f', 'qcow2', '-O', 'raw', f'bs={_BLOCK}',
            'count=1', f'if={disk}', f'of={piece}',
        ],
        access=confinement.Access(reads=(disk, source), writes=(piece,)),
    )  # fmt: skip
    return _read(piece)


def replayed(
    disk: pathlib.Path, source: pathlib.Path, folder: pathlib.Path
) -> superblock.Superblock | None:
    """Read the superblock as it is once the journal is replayed.

    That takes a copy of what is in use. See :func:`superblock_of`.
    """
    copy = folder / 'copy.img'
    process.run(
        ['qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', disk, copy],
        access=confinement.Access(reads=(disk, source), writes=(copy,)),
    )
    try:
        # Whatever is left to mend is none of our business.
        process.run(
            ['e2fsck', '-p', '-E', 'journal_only', copy],
            access=confinement.Access(writes=(copy,), mounts=True),
            ok=range(9),
        )
        return _read(copy)
    finally:
        copy.unlink()


def _read(path: pathlib.Path) -> superblock.Superblock | None:
    try:
        return superblock.read(path)
    except (superblock.NotExtError, errors.DamagedError):
        return None
