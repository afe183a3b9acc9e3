# SPDX-License-Identifier: Apache-2.0

"""Time stamps that a shrink must not change.

When resize2fs gives an inode another number, it sets the ctime of that inode,
and mtime and ctime of the directories that name it, to the present. Nothing
of them was changed for whoever uses the filesystem, so they are put back.
"""

from collections.abc import Iterator, Mapping
import os
import pathlib

from amiclient.ext import e2fsprogs
from amiclient.ext import inodes
from amiclient.ext import layout
from amiclient.ext import superblock
from amiclient import sparse


def restore(
    original: pathlib.Path,
    shrunk: pathlib.Path,
    moved: Mapping[int, int],
    tools: e2fsprogs.Toolbox,
) -> int:
    """Put the time stamps of a filesystem back to what they were.

    :param original: the filesystem before it was shrunk, or its metadata.
    :param shrunk: the filesystem to mend.
    :param moved: the inodes that got another number: old to new.
    :returns: how many inodes were mended.
    """
    with (
        sparse.opened(original, os.O_RDONLY) as before,
        sparse.opened(shrunk, os.O_RDONLY) as after,
    ):
        commands = list(
            _commands(
                inodes.Table(_layout(before, original)),
                inodes.Table(_layout(after, shrunk)),
                moved,
            )
        )
    if commands:
        tools.edit(shrunk, (line for lines in commands for line in lines))
    return len(commands)


def _layout(descriptor: int, path: pathlib.Path) -> layout.Layout:
    return layout.Layout(descriptor, superblock.read(path))


def _commands(
    before: inodes.Table, after: inodes.Table, moved: Mapping[int, int]
) -> Iterator[list[str]]:
    for inode in before.in_use():
        number = moved.get(inode.number)
        if number is None:
            if not inode.is_directory:
                continue
            number = inode.number
        now = after.read(number).times
        if now != inode.times:
            yield list(_set(number, now, inode.times))


def _set(number: int, now: inodes.Times, was: inodes.Times) -> Iterator[str]:
    # The suffix makes debugfs take a number for the 32 bits as they are.
    if now.ctime != was.ctime:
        yield f'set_inode_field <{number}> ctime_lo {was.ctime}'
    if now.mtime != was.mtime:
        yield f'set_inode_field <{number}> mtime_lo {was.mtime}'
    if was.ctime_extra is not None and now.ctime_extra != was.ctime_extra:
        yield f'set_inode_field <{number}> ctime_extra {was.ctime_extra}'
    if was.mtime_extra is not None and now.mtime_extra != was.mtime_extra:
        yield f'set_inode_field <{number}> mtime_extra {was.mtime_extra}'
