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

"""Look into a filesystem without mounting it.

debugfs does the reading, with ``-c``: read-only, and without the bitmaps, so
that it opens damaged filesystems and is fast with large ones. It splits its
commands by rules of its own, so they are never given a name: the way from
folder to folder is gone here, by inode number, over what ``ls -p`` lists.

The image is not trusted: what it can do is make debugfs find nothing, or give
the content of another file in the same image.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import os
import pathlib
import stat
import tempfile
import threading
import time

from amiclient import exceptions
from amiclient import process

_ROOT_INODE = 2

#: As many symbolic links as Linux follows (path_resolution(7)).
_LINKS = 40

#: Longest path, links resolved, and longest target (PATH_MAX).
_PATH = 4096
_COMPONENTS = 256

#: Folders with more bytes than that are not listed.
_FOLDER = 4 * 1024 * 1024

#: Seconds for one file altogether.
_PATIENCE = 30.0

#: What debugfs may take of memory, and say: the descriptors of the largest
#: filesystem that is taken, and the largest folder with a line for each name.
_MEMORY = 512 << 20
_OUTPUT = 64 << 20


@dataclasses.dataclass(frozen=True)
class _Entry:
    inode: int
    mode: int
    size: int


def read_file(
    image: pathlib.Path, name: str, limit: int = 1 << 20
) -> bytes | None:
    """Read a file out of an ext2, ext3 or ext4 filesystem.

    Symbolic links are followed within the filesystem, absolute ones from its
    root, as after a chroot(2). A journal that needs recovery is not replayed,
    so a file may be missing or old in a filesystem that was not unmounted.

    :param image: the image file or block device; it is only read.
    :param name: the path in it, from its root.
    :param limit: bytes.
    :returns: the content; None if there is no regular file of that name.
    :raises SourceError: if it is longer than the limit.
    :raises DamagedError: if the filesystem cannot be opened, or not be read
        in a reasonable time.
    :raises ProgramError: if debugfs is missing.
    """
    with _openable(image) as path:
        reader = _Reader(path, image, limit)
        entry = reader.find(name)
        if entry is None or not stat.S_ISREG(entry.mode):
            return None
        if entry.size > limit:
            raise exceptions.SourceError(
                f'{image}: {name} has {entry.size} bytes, more than {limit}'
            )
        return reader.content(entry)


class _Reader:
    """One filesystem, while one file is looked for."""

    def __init__(self, path: str, image: pathlib.Path, limit: int) -> None:
        self._path = path
        self._image = image
        self._limit = limit
        self._deadline = time.monotonic() + _PATIENCE

    def find(self, name: str) -> _Entry | None:
        """Resolve a path, as path_resolution(7) says."""
        todo = _split(os.fsencode(name))[::-1]
        root = _Entry(_ROOT_INODE, stat.S_IFDIR, 0)
        way = [root]
        links = 0
        while todo:
            if len(todo) + len(way) > _COMPONENTS:
                return None
            part = todo.pop()
            if part == b'..':
                # The root is its own parent.
                way = way[:-1] or [root]
                continue
            found = self._lookup(way[-1], part)
            if found is None:
                return None
            if not stat.S_ISLNK(found.mode):
                way.append(found)
                continue
            links += 1
            target = self._target(found)
            if links > _LINKS or not target:
                return None
            if target.startswith(b'/'):
                way = [root]
            todo += _split(target)[::-1]
        return way[-1]

    def content(self, entry: _Entry) -> bytes:
        """Read a regular file that is known to be short enough."""
        data = self._run(f'cat <{entry.inode}>')
        # A damaged one comes out shorter; longer would be a lie.
        return data[: entry.size]

    def _lookup(self, folder: _Entry, name: bytes) -> _Entry | None:
        if not stat.S_ISDIR(folder.mode) or self._size(folder) > _FOLDER:
            return None
        for line in self._run(f'ls -p <{folder.inode}>').split(b'\n'):
            # /inode/mode/uid/gid/name/size/, with no size for folders.
            fields = line.split(b'/')
            if len(fields) == 8 and fields[5] == name:
                with contextlib.suppress(ValueError):
                    return _Entry(
                        int(fields[1]),
                        int(fields[2], 8),
                        int(fields[6] or b'0'),
                    )
        return None

    def _target(self, link: _Entry) -> bytes | None:
        if link.size > _PATH:
            return None
        text = self._run(f'stat <{link.inode}>')
        _, quote, rest = text.partition(b'\nFast link dest: "')
        if quote:
            return rest.rpartition(b'"')[0][: link.size]
        return self._run(f'cat <{link.inode}>')[: link.size]

    def _size(self, folder: _Entry) -> int:
        text = self._run(f'stat <{folder.inode}>')
        _, _, rest = text.partition(b' Size: ')
        digits = rest.split(b'\n', 1)[0].strip()
        return int(digits) if digits.isdigit() else _FOLDER + 1

    def _run(self, command: str) -> bytes:
        late = threading.Event()
        left = self._deadline - time.monotonic()
        timer = threading.Timer(max(left, 0), late.set)
        timer.daemon = True
        timer.start()
        try:
            result = process.run(
                ('debugfs', '-c', '-R', command, self._path),
                # It could not make sense of its arguments, or died.
                ok=range(-64, 256),
                cancel=late,
                memory=_MEMORY,
                most=max(_OUTPUT, self._limit),
            )
        except process.TooTalkative as error:
            raise exceptions.DamagedError(
                f'{self._image}: what debugfs says of it has no end'
            ) from error
        except exceptions.CancelledError as error:
            raise exceptions.DamagedError(
                f'{self._image}: debugfs took more than {_PATIENCE:g} '
                f'seconds to look into it'
            ) from error
        finally:
            timer.cancel()
        if result.status or 'Filesystem not open' in result.stderr:
            raise exceptions.DamagedError(
                f'{self._image}: debugfs cannot read it: {_reason(result)}'
            )
        return result.stdout


def _split(path: bytes) -> list[bytes]:
    return [part for part in path.split(b'/') if part not in (b'', b'.')]


def _reason(result: process.Result) -> str:
    if result.status < 0:
        return f'killed by signal {-result.status}'
    lines = [
        line.removeprefix('debugfs: ')
        for line in result.stderr.splitlines()[1:]
        if line.strip()
    ]
    return lines[0] if lines else f'exit status {result.status}'


@contextlib.contextmanager
def _openable(image: pathlib.Path) -> Iterator[str]:
    """Give an image a name that debugfs takes as it is.

    It is absolute, so neither an option nor UUID= or LABEL=; and it has no
    ``?``, behind which libext2fs looks for options (ext2fs_open2()).
    """
    path = os.path.abspath(image)
    if '?' not in path:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix='amiclient-') as folder:
        link = os.path.join(folder, 'image')
        os.symlink(path, link)
        yield link
