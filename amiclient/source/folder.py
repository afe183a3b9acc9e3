#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.

"""A directory of this machine as what a filesystem is made of.

It is read as whoever runs this may read it: owners, modes, devices and
attributes are taken as they are there. Nothing is followed, and no device is
opened. Within ``fakeroot`` they are what fakeroot says.
"""

import errno
import logging
import os
import pathlib
import stat

from amiclient import exceptions
from amiclient.ext.build import nodes
from amiclient.ext import copy
from amiclient import progress as progress_
from amiclient.source import basin as basin_

_LOG = logging.getLogger(__name__)

#: How deep directories may be in each other; each level takes a file
#: descriptor meanwhile.
_DEEPEST = 200

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def fill(
    path: pathlib.Path, basin: basin_.Basin, task: progress_.Task
) -> None:
    """Take everything that is in a directory.

    What is mounted within it is left out, but for the directory that it is
    mounted on.

    :raises SourceError: if something cannot be read.
    :raises BusyError: if something changes meanwhile.
    """
    _Walk(path, basin, task).run()


class _Walk:
    def __init__(
        self, path: pathlib.Path, basin: basin_.Basin, task: progress_.Task
    ) -> None:
        self._path = path
        self._basin = basin
        self._task = task
        self._seen: dict[tuple[int, int], bytes] = {}
        self._device = 0

    def run(self) -> None:
        with copy.opened(self._path, os.O_RDONLY | os.O_DIRECTORY) as folder:
            status = os.fstat(folder)
            self._device = status.st_dev
            self._basin.add(b'', self._node(b'', status, folder, b'.'))
            self._enter(b'', folder, 0)

    def _enter(self, path: bytes, folder: int, depth: int) -> None:
        if depth > _DEEPEST:
            raise self._basin.refused(path, 'directories are too deep')
        for name in sorted(os.fsencode(n) for n in os.listdir(folder)):
            below = path + b'/' + name if path else name
            try:
                self._take(below, folder, name, depth)
            except OSError as error:
                raise self._unreadable(below, error) from error

    def _take(self, path: bytes, folder: int, name: bytes, depth: int) -> None:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        identity = status.st_dev, status.st_ino
        if not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1:
            if identity in self._seen:
                self._basin.link(path, self._seen[identity])
                return
            self._seen[identity] = path
        node = self._node(path, status, folder, name)
        if node.is_file:
            self._file(path, node, status, folder, name)
            return
        if node.is_symlink:
            node.target = os.readlink(name, dir_fd=folder)
        self._basin.add(path, node)
        if not node.is_directory:
            return
        if status.st_dev != self._device:
            _LOG.warning(
                '%s: %s: something is mounted there, which is left out',
                self._basin.name,
                nodes.shown(path),
            )
            return
        inner = os.open(name, _OPEN | os.O_DIRECTORY, dir_fd=folder)
        try:
            self._enter(path, inner, depth + 1)
        finally:
            os.close(inner)

    def _file(
        self,
        path: bytes,
        node: nodes.Node,
        status: os.stat_result,
        folder: int,
        name: bytes,
    ) -> None:
        descriptor = os.open(name, _OPEN, dir_fd=folder)
        try:
            if not os.path.samestat(os.fstat(descriptor), status):
                raise self._changed(path)
            size = status.st_size
            ranges = [
                (start, end - start)
                for start, end in copy.data_in(descriptor, 0, size)
            ]

            def read(offset: int, count: int) -> bytes:
                data = os.pread(descriptor, count, offset)
                if len(data) < count:
                    raise self._changed(path)
                self._task.advance(count)
                return data

            self._basin.add_file(path, node, size, ranges, read)
            after = os.fstat(descriptor)
            if (after.st_size, after.st_mtime_ns) != (
                size,
                status.st_mtime_ns,
            ):
                raise self._changed(path)
        finally:
            os.close(descriptor)

    def _node(
        self,
        path: bytes,
        status: os.stat_result,
        folder: int,
        name: bytes,
    ) -> nodes.Node:
        # What was read or changed when is up to this machine, not to the
        # content; it would make two builds differ.
        return nodes.Node(
            status.st_mode,
            uid=status.st_uid,
            gid=status.st_gid,
            mtime=status.st_mtime_ns,
            device=(os.major(status.st_rdev), os.minor(status.st_rdev)),
            xattrs=self._xattrs(path, folder, name),
        )

    def _xattrs(
        self, path: bytes, folder: int, name: bytes
    ) -> dict[bytes, bytes]:
        # There are no calls that take a name within an open directory.
        where = b'/proc/self/fd/%d/%s' % (folder, name)
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
        return self._basin.keep_known(path, values)

    def _changed(self, path: bytes) -> exceptions.BusyError:
        return exceptions.BusyError(
            f'{self._basin.name}: {nodes.shown(path)} was changed while it '
            'was being read',
            hint='end whatever writes to it first',
        )

    def _unreadable(
        self, path: bytes, error: OSError
    ) -> exceptions.AmiError | OSError:
        if error.errno in (errno.EACCES, errno.EPERM):
            return self._basin.refused(
                path,
                'permission denied',
                'run this as a user who may read everything',
            )
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ESTALE):
            return self._changed(path)
        return error


def size(path: pathlib.Path) -> int:
    """Tell the bytes of the files in a directory, for those who wait."""
    total = 0
    for _, _, names, folder in os.fwalk(path):
        for name in names:
            try:
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except OSError:
                # It will be said when it is to be read.
                continue
            if stat.S_ISREG(status.st_mode):
                total += min(status.st_size, status.st_blocks * 512)
    return total
