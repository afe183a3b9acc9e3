# SPDX-License-Identifier: Apache-2.0

"""What the kernel shows of a filesystem that is mounted: the truth."""

import fcntl
import hashlib
import os
import stat
import struct
from typing import Any, NamedTuple

#: FS_IOC_GETFLAGS, and what says how a file is stored, not what it is like.
_GET_FLAGS = 0x80086601
_STORED = 0x80000 | 0x1000

#: What XFS shows twice.
_LISTS = 'trusted.SGI_ACL_'


class Shown(NamedTuple):
    """What there is to know of one name."""

    number: int
    mode: int
    uid: int
    gid: int
    size: int
    times: tuple[int, int, int]
    device: tuple[int, int]
    flags: int
    target: bytes
    ranges: list[tuple[int, int]]
    sha256: str
    xattrs: dict[bytes, bytes]


def read(top: str | os.PathLike[str]) -> dict[bytes, Shown]:
    """Read all files below a directory, which is called ``b'/'``."""
    start = os.fsencode(top)
    found = {b'/': _shown(start)}
    for directory, directories, files in os.walk(start):
        for name in directories + files:
            path = os.path.join(directory, name)
            found[path[len(start) :]] = _shown(path)
    return found


def _shown(path: bytes) -> Shown:
    status = os.lstat(path)
    kind = stat.S_IFMT(status.st_mode)
    flags, ranges, digest = 0, [], ''
    if kind in (stat.S_IFREG, stat.S_IFDIR):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOATIME)
        try:
            data: Any = fcntl.ioctl(descriptor, _GET_FLAGS, bytes(8))
            flags = struct.unpack_from('=I', data)[0] & ~_STORED
            if kind == stat.S_IFREG:
                ranges = _ranges(descriptor, status.st_size)
                digest = _digest(descriptor, ranges)
        finally:
            os.close(descriptor)
    is_device = kind in (stat.S_IFBLK, stat.S_IFCHR)
    device = (os.major(status.st_rdev), os.minor(status.st_rdev))
    return Shown(
        status.st_ino,
        status.st_mode,
        status.st_uid,
        status.st_gid,
        0 if kind == stat.S_IFDIR else status.st_size,
        (status.st_atime_ns, status.st_ctime_ns, status.st_mtime_ns),
        device if is_device else (0, 0),
        flags,
        os.readlink(path) if kind == stat.S_IFLNK else b'',
        ranges,
        digest,
        {
            name.encode(): os.getxattr(path, name, follow_symlinks=False)
            for name in os.listxattr(path, follow_symlinks=False)
            if not name.startswith(_LISTS)
        },
    )


def _ranges(descriptor: int, size: int) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    end = 0
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError:
            break
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        found.append((start, end - start))
    return found


def _digest(descriptor: int, ranges: list[tuple[int, int]]) -> str:
    digest = hashlib.sha256()
    for start, length in ranges:
        digest.update(os.pread(descriptor, length, start))
    return digest.hexdigest()
