# SPDX-License-Identifier: Apache-2.0

"""A directory of this machine as what a filesystem is made of.

It is read as whoever runs this may read it: owners, modes, devices and
attributes are taken as they are there. Nothing is followed, and no device is
opened. Within ``fakeroot`` they are what fakeroot says.
"""

from collections.abc import Iterator
import contextlib
import ctypes
import dataclasses
import errno
import hashlib
import logging
import os
import pathlib
import re
import stat
import struct

from amiclient import errors
from amiclient.ext.writer import nodes
from amiclient import progress
from amiclient.source import attributes
from amiclient.source import file_tree
from amiclient import sparse

_LOG = logging.getLogger(__name__)

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

#: Directories that are open at a time. Those that are deeper are opened again,
#: name by name, on the way back to them.
_MOST_OPEN = 64

#: How opening a file fails that was another one a moment ago.
_CHANGED = (
    errno.ENOENT,
    errno.ESTALE,
    errno.ELOOP,
    errno.ENOTDIR,
    errno.ENXIO,
)

#: What stands for a directory on which something is mounted that nobody else
#: may look at.
_HIDDEN = os.stat_result((stat.S_IFDIR | 0o755, *[0] * 9))

#: AT_SYMLINK_NOFOLLOW, AT_NO_AUTOMOUNT, AT_STATX_DONT_SYNC: ask no server.
_STATX_FLAGS = 0x100 | 0x800 | 0x4000

#: statx(2), since Linux 5.8: STATX_MNT_ID, and where struct statx has that.
_MNT_ID = 0x1000
_MNT_ID_OFFSET = 144
_StatxBuffer = ctypes.c_char * 256

_FDINFO = re.compile(r'^mnt_id:\s*(\d+)$', re.MULTILINE)

# A C library of before 2018 has none. Python's own os.statx() is newer.
_STATX = getattr(ctypes.CDLL(None), 'statx', None)


def fill(
    path: pathlib.Path, tree: file_tree.FileTree, task: progress.Task
) -> None:
    """Take everything that is in a directory.

    What is mounted within it is left out, and told of: a file as a whole, for
    what is below it cannot be seen; a directory stays, empty.

    :raises SourceError: if something cannot be read.
    :raises BusyError: if something changes meanwhile.
    """
    taking = _Taking(tree, task)
    for entry in _walk(path):
        taking.take(entry)
    if taking.mounted:
        _LOG.warning(
            '%s: what is mounted within it is left out: %s',
            tree.name,
            errors.some([errors.shown(each) for each in taking.mounted]),
        )


def size(path: pathlib.Path) -> int:
    """Tell the bytes of the files in a directory, for those who wait."""
    total = 0
    # What cannot be read will be said when it is to be read.
    with contextlib.suppress(errors.SourceError):
        for entry in _walk(path):
            status = entry.status
            if stat.S_ISREG(status.st_mode) and not entry.is_mounted:
                total += min(status.st_size, status.st_blocks * 512)
    return total


def fingerprint(path: pathlib.Path) -> str:
    """Tell a directory from a changed one, and read none of its files.

    As rsync does, it goes by their sizes and times.

    :raises SourceError: if something cannot be read.
    """
    hasher = hashlib.sha512()
    for entry in _walk(path):
        status = entry.status
        size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
        known = (
            entry.path,
            status.st_mode,
            status.st_uid,
            status.st_gid,
            status.st_rdev,
            size,
            status.st_mtime_ns,
        )
        hasher.update(repr(known).encode())
    return hasher.hexdigest()


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A file that was come across.

    :param path: within the source; empty for the source itself.
    :param parent: the directory that it is in, open until the next one comes.
    :param is_mounted: whether it is what is mounted there.
    """

    path: bytes
    parent: int
    name: bytes
    status: os.stat_result
    is_mounted: bool


def _walk(source: pathlib.Path) -> Iterator[_Entry]:
    """Go through a directory, sorted, each directory before what it has.

    :raises SourceError: if something cannot be read.
    """
    shown = errors.shown(source)
    with contextlib.ExitStack() as stack:
        with _told(shown, b''):
            place = stack.enter_context(contextlib.closing(_Place(source)))
        waiting = [b'']
        while waiting:
            path = waiting.pop()
            with _told(shown, path):
                entry = place.look(path)
            yield entry
            if entry.is_mounted or not stat.S_ISDIR(entry.status.st_mode):
                continue
            if len(path) > nodes.PATH_MAX:
                # No tree takes it: who fills one has said so.
                return
            with _told(shown, path):
                names = os.listdir(place.opened(path))
            prefix = path + b'/' if path else b''
            waiting.extend(
                prefix + name
                for name in sorted(map(os.fsencode, names), reverse=True)
            )


class _Place:
    def __init__(self, source: pathlib.Path) -> None:
        root = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        #: Directories that are open, each within the one before it, by their
        #: paths with a slash at the end.
        self._open = [(b'', root)]
        self._mount = mount_id(root, b'.')
        self._device = os.fstat(root).st_dev

    def close(self) -> None:
        while self._open:
            os.close(self._open.pop()[1])

    def look(self, path: bytes) -> _Entry:
        above, _, last = path.rpartition(b'/')
        parent, name = self.opened(above), last or b'.'
        mount = mount_id(parent, name)
        is_mounted = mount != self._mount
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except PermissionError:
            if not is_mounted:
                raise
            # A FUSE filesystem of somebody else, which hides its root.
            status = _HIDDEN
        if mount is None:
            is_mounted = status.st_dev != self._device
        return _Entry(path, parent, name, status, is_mounted)

    def opened(self, path: bytes) -> int:
        wanted = path + b'/' if path else b''
        while not wanted.startswith(self._open[-1][0]):
            os.close(self._open.pop()[1])
        here, parent = self._open[-1]
        for name in wanted[len(here) :].split(b'/')[:-1]:
            inner = os.open(name, _OPEN | os.O_DIRECTORY, dir_fd=parent)
            if len(self._open) >= _MOST_OPEN:
                os.close(self._open.pop()[1])
            here, parent = here + name + b'/', inner
            self._open.append((here, parent))
        return parent


class _Taking:
    """What is come across, on its way into a tree.

    :ivar mounted: paths of what is mounted.
    """

    def __init__(self, tree: file_tree.FileTree, task: progress.Task) -> None:
        self.mounted: list[bytes] = []
        self._tree = tree
        self._task = task
        self._seen: dict[tuple[int, int], bytes] = {}

    def take(self, entry: _Entry) -> None:
        path, status = entry.path, entry.status
        is_directory = stat.S_ISDIR(status.st_mode)
        if entry.is_mounted:
            self.mounted.append(path)
            if is_directory:
                # The rest that is to be seen is not the source's.
                self._tree.add(
                    path,
                    nodes.Node(
                        status.st_mode, uid=status.st_uid, gid=status.st_gid
                    ),
                )
            return
        identity = status.st_dev, status.st_ino
        if not is_directory and status.st_nlink > 1:
            if identity in self._seen:
                self._tree.link(path, self._seen[identity])
                return
            self._seen[identity] = path
        with _told(self._tree.name, path):
            node = self._node(entry)
            if is_directory:
                inner = os.open(
                    entry.name, _OPEN | os.O_DIRECTORY, dir_fd=entry.parent
                )
                try:
                    node.flags = attributes.read_flags(inner, directory=True)
                finally:
                    os.close(inner)
            if node.is_symlink:
                node.target = os.readlink(entry.name, dir_fd=entry.parent)
        if node.is_file:
            self._file(entry, node)
        else:
            self._tree.add(path, node)

    def _file(self, entry: _Entry, node: nodes.Node) -> None:
        path, status = entry.path, entry.status
        with contextlib.ExitStack() as stack:
            with _told(self._tree.name, path):
                descriptor = os.open(entry.name, _OPEN, dir_fd=entry.parent)
                stack.callback(os.close, descriptor)
                if not os.path.samestat(os.fstat(descriptor), status):
                    raise _changed(self._tree.name, path)
                node.flags = attributes.read_flags(descriptor, directory=False)
                size = status.st_size
                ranges = [
                    (start, end - start)
                    for start, end in sparse.data_in(descriptor, 0, size)
                ]

            def read(offset: int, count: int) -> bytes:
                with _told(self._tree.name, path):
                    data = os.pread(descriptor, count, offset)
                if len(data) < count:
                    raise _changed(self._tree.name, path)
                self._task.advance(count)
                return data

            self._tree.add_file(path, node, size, ranges, read)
            after = os.fstat(descriptor)
            if (after.st_size, after.st_mtime_ns) != (
                size,
                status.st_mtime_ns,
            ):
                raise _changed(self._tree.name, path)

    def _node(self, entry: _Entry) -> nodes.Node:
        status = entry.status
        # What was read or changed when is up to this machine, not to the
        # content; it would make two builds differ.
        return nodes.Node(
            status.st_mode,
            uid=status.st_uid,
            gid=status.st_gid,
            mtime=status.st_mtime_ns,
            device=(os.major(status.st_rdev), os.minor(status.st_rdev)),
            xattrs=self._xattrs(entry),
        )

    def _xattrs(self, entry: _Entry) -> dict[bytes, bytes]:
        # There are no calls that take a name within an open directory.
        where = b'/proc/self/fd/%d/%s' % (entry.parent, entry.name)
        try:
            found = os.listxattr(where, follow_symlinks=False)
            values = {
                os.fsencode(key): os.getxattr(
                    where, key, follow_symlinks=False
                )
                for key in found
            }
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.ENODATA):
                return {}
            raise
        return self._tree.keep_known(entry.path, values)


@contextlib.contextmanager
def _told(source: str, path: bytes) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _CHANGED:
            raise _changed(source, path) from error
        what = f'{source}: {errors.shown(path)}: ' if path else f'{source}: '
        if error.errno in (errno.EACCES, errno.EPERM):
            raise errors.SourceError(
                f'{what}permission denied',
                hint='run this as a user who may read everything',
            ) from error
        raise errors.SourceError(
            f'{what}cannot be read: {os.strerror(error.errno or 0)}'
        ) from error


def _changed(source: str, path: bytes) -> errors.BusyError:
    return errors.BusyError(
        f'{errors.shown(path)} was changed while it was being read',
        subject=source,
        hint='end whatever writes to it first',
    )


def mount_id(directory: int, name: bytes) -> int | None:
    """Tell the number of the mount that a file is in.

    The device of a file (``st_dev``) does not tell: a bind mount has that of
    what it shows, and a subvolume of btrfs has its own without being mounted.

    :param directory: an open directory.
    :param name: in it, which is not followed; ``.`` for the directory itself.
    :returns: None if the kernel does not tell.
    :raises OSError: if there is no such file.
    """
    if _STATX is not None:
        found = _StatxBuffer()
        # Nothing is asked of the file itself: somebody else's FUSE mount would
        # not answer, even to root.
        if _STATX(directory, name, _STATX_FLAGS, 0, found) == 0:
            (known,) = struct.unpack_from('=I', found)
            if known & _MNT_ID:
                return int(struct.unpack_from('=Q', found, _MNT_ID_OFFSET)[0])
    # proc_pid_fdinfo(5), since Linux 3.15; it takes three times as long.
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=directory)
    try:
        with (
            contextlib.suppress(OSError),
            open(f'/proc/self/fdinfo/{descriptor}', encoding='ascii') as file,
        ):
            match = _FDINFO.search(file.read())
            return int(match[1]) if match else None
    finally:
        os.close(descriptor)
    return None
