# SPDX-License-Identifier: Apache-2.0

"""Whether two filesystems hold the same files, whatever lies where.

Both are read as they lie on disk, which takes neither root nor a mount, and
trusts nothing that resize2fs or debugfs say. Compared are names, modes,
owners, sizes, link targets and the content of regular files; not times and
extended attributes. Hard links are compared as the files that they are.
"""

from collections.abc import Iterator
import hashlib
import os
import pathlib
import stat
from typing import NamedTuple

from amiclient import errors
from amiclient.ext.inodes import Inode
from amiclient.ext import reader
from amiclient.ext.reader import Reader


class FileMetadata(NamedTuple):
    """A file in a filesystem.

    :param number: of its inode.
    :param size: bytes; 0 for a directory.
    """

    number: int
    mode: int
    uid: int
    gid: int
    size: int


def differences(one: pathlib.Path, other: pathlib.Path) -> list[str]:
    """Name the files that differ, or that one filesystem has alone.

    :returns: their paths, as text that is safe to print, sorted.
    :raises DamagedError: if one of them cannot be read.
    """
    first, second = walk(one), walk(other)
    found = {
        name
        for name in first.keys() | second.keys()
        if name not in first
        or name not in second
        or first[name][1:] != second[name][1:]
    }
    # Files with many names are read once.
    pairs: dict[tuple[int, int], list[bytes]] = {}
    for name in first.keys() - found:
        entry = first[name]
        kind = stat.S_IFMT(entry.mode)
        if kind in (stat.S_IFREG, stat.S_IFLNK) and entry.size:
            pair = entry.number, second[name].number
            pairs.setdefault(pair, []).append(name)
    with reader.opened(one) as here, reader.opened(other) as there:
        for (number, its), names in sorted(pairs.items()):
            if _digest(one, here, number) != _digest(other, there, its):
                found.update(names)
    return [repr(os.fsdecode(name)) for name in sorted(found)]


def walk(image: pathlib.Path) -> dict[bytes, FileMetadata]:
    """List all files of a filesystem, by their paths.

    :raises DamagedError: if it cannot be read.
    """
    found: dict[bytes, FileMetadata] = {}
    with reader.opened(image) as files:
        waiting = [(b'', reader.ROOT)]
        seen = {reader.ROOT}
        while waiting:
            path, number = waiting.pop()
            for name, child in _names(image, files, number):
                inode = files.layout.inode(child)
                full = path + b'/' + name
                size = 0 if inode.is_directory else inode.size
                found[full] = FileMetadata(
                    child, inode.mode, inode.uid, inode.gid, size
                )
                # A damaged one may hold itself.
                if inode.is_directory and child not in seen:
                    seen.add(child)
                    waiting.append((full, child))
    return found


def _names(
    image: pathlib.Path, files: Reader, number: int
) -> Iterator[tuple[bytes, int]]:
    inode = files.layout.inode(number, f'the inode {number}')
    if not inode.is_directory:
        raise _unreadable(image, inode)
    yield from files.entries(inode)


def _digest(image: pathlib.Path, files: Reader, number: int) -> bytes:
    inode = files.layout.inode(number)
    if inode.is_link and inode.fast_target is not None:
        return inode.fast_target
    digest, size = hashlib.sha256(), 0
    for chunk in files.chunks(inode):
        digest.update(chunk)
        size += len(chunk)
    if size != inode.size:
        raise _unreadable(image, inode)
    return digest.digest()


def _unreadable(image: pathlib.Path, inode: Inode) -> errors.DamagedError:
    return errors.DamagedError(
        f'the inode {inode.number} cannot be read', subject=image
    )
