# SPDX-License-Identifier: Apache-2.0

"""Filesystems that are not at rest: journals to replay, and damage."""

import os
import pathlib

from amiclient import process
from amiclient.tests.oracle import disk
from amiclient.tests.oracle import exttree
from amiclient.tests.shapes import content

#: What was only in the journal, in the shape 'needs-recovery'.
JOURNALED = b'/fresh/journaled'


def copy(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copy an image, all of it, with its holes."""
    process.run(
        ['cp', '--sparse=always', '--reflink=auto', source, target],
        access=None,
    )


def crash(job: content.Job) -> None:
    """Leave work in the journal, as a machine does whose power fails.

    The blocks of a new file are written, but that they belong to it, and
    that there is such a file, stands in the journal alone. So they look free
    until the journal has been replayed.
    """
    after = content.Job(job.image.with_suffix('.after'), job.work, job.random)
    copy(job.image, after.image)
    try:
        after.debugfs(
            [
                'mkdir fresh',
                f'write {job.payload(2_000_000)} fresh/journaled',
                'rm /var/middle3',
                'sif /etc/os-release mtime @1234567890',
            ]
        )
        _commit(job, after.image)
    finally:
        after.image.unlink()


def _commit(job: content.Job, after: pathlib.Path) -> None:
    fresh = exttree.inode_numbers(after)[JOURNALED]
    with disk.Filesystem(after) as new, disk.Filesystem(job.image) as old:
        size, count = new.block_size, new.block_count
        changed = {
            n: block
            for n in range(1, count)
            if (block := new.block(n)) != old.block(n)
        }
        data = {
            run.physical + n
            for run in new.runs(new.inode(fresh))
            for n in range(run.count)
        }
    fd = os.open(job.image, os.O_WRONLY)
    try:
        for number in data:
            os.pwrite(fd, changed[number], number * size)
    finally:
        os.close(fd)
    # Block 0 holds the superblock, which the kernel does not journal for
    # its counts either.
    metadata = sorted(changed.keys() - data)
    (job.work / 'metadata').write_bytes(b''.join(changed[n] for n in metadata))
    job.debugfs(
        [
            'jo -c -v 3',
            f'jw -b {",".join(map(str, metadata))} metadata',
            'jc',
        ]
    )


def external_journal(job: content.Job) -> None:
    """Claim that the journal is on another device."""
    job.debugfs(
        [
            'feature has_journal',
            'ssv journal_inum 0',
            'ssv journal_uuid 8d3b0c1e-6f0a-4a43-bc53-0a9c8e2b7711',
            'ssv journal_dev 0xfd05',
        ]
    )


def scratch(job: content.Job) -> None:
    """Do damage that preening mends."""
    job.debugfs(
        [
            'sif /etc/os-release blocks 9998',
            'ssv free_blocks_count 12345',
            'ssv free_inodes_count 3',
        ]
    )


def flag_error(job: content.Job) -> None:
    """Say that the kernel met an error, as it does before it gives up."""
    job.debugfs(['ssv state 3'])


def lose_directory(job: content.Job) -> None:
    """Clear the inode of a directory: what is in it goes to lost+found."""
    job.debugfs(['clri /links'])


def share_blocks(job: content.Job) -> None:
    """Let two files claim the same blocks."""
    job.debugfs(['copy_inode /boot/vmlinuz /boot/initrd.img'])


def garble_directory(job: content.Job) -> None:
    """Overwrite a block of a directory."""
    job.debugfs(['zap_block -f /var -p 0xa5 0'])


def garble_descriptors(job: content.Job) -> None:
    """Overwrite the group descriptors; those in the backups stay."""
    _overwrite(job.image, 4096, b'\xa5' * 4096)


def wipe_superblock(job: content.Job) -> None:
    """Zero the first superblock; those in the backups stay."""
    _overwrite(job.image, 1024, bytes(1024))


def truncate(job: content.Job) -> None:
    """Cut a third off, as a download that was broken off."""
    os.truncate(job.image, job.image.stat().st_size * 2 // 3)


def boot_signature(job: content.Job) -> None:
    """Leave an old boot sector in front of the superblock."""
    _overwrite(job.image, 3, b'OLDBOOT ' * 50)
    _overwrite(job.image, 510, b'\x55\xaa')


def trailing_bytes(job: content.Job) -> None:
    """Let the file go on behind the filesystem."""
    with open(job.image, 'ab') as file:
        file.write(job.random.randbytes(3 << 20))


def _overwrite(image: pathlib.Path, at: int, data: bytes) -> None:
    with open(image, 'r+b') as file:
        file.seek(at)
        file.write(data)
