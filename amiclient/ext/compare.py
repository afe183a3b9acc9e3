# SPDX-License-Identifier: Apache-2.0

"""Whether two filesystems hold the same files, whatever lies where.

debugfs reads both, so this takes neither root nor a mount. Compared are names,
modes, owners, sizes, link targets and the content of regular files; not times
and extended attributes. Hard links are compared as the files that they are.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
import dataclasses
import hashlib
import os
import pathlib
import stat
import tempfile

from amiclient import confinement
from amiclient import errors
from amiclient import process

_ROOT = 2

#: What one run of debugfs writes at most, unless a single file is larger.
_FILES = 512
_BYTES = 256 * 2**20

#: Bytes that are too many for the inode.
_SHORT = 60

_TARGET = b'Fast link dest: '


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file in a filesystem.

    :param size: bytes; 0 for a folder.
    """

    inode: int
    mode: int
    uid: int
    gid: int
    size: int

    @property
    def traits(self) -> tuple[int, int, int, int]:
        """Whatever two files of the same name have in common."""
        return self.mode, self.uid, self.gid, self.size

    @property
    def is_short_link(self) -> bool:
        """Whether its inode holds the path that it leads to."""
        return stat.S_ISLNK(self.mode) and self.size < _SHORT

    @property
    def has_content(self) -> bool:
        """Whether there is more to compare."""
        kind = stat.S_IFMT(self.mode)
        return kind in (stat.S_IFREG, stat.S_IFLNK) and self.size > 0


def differences(
    one: pathlib.Path, other: pathlib.Path, folder: pathlib.Path
) -> list[str]:
    """Name the files that differ, or that one filesystem has alone.

    :param one: an image with an ext2, ext3 or ext4 filesystem; no ``?`` in
        its name.
    :param folder: where files can be written for a while.
    :returns: their paths, as text that is safe to print, sorted.
    :raises DamagedError: if debugfs cannot read one of them.
    """
    first, second = walk(one), walk(other)
    found = {
        name
        for name in first.keys() | second.keys()
        if name not in first
        or name not in second
        or first[name].traits != second[name].traits
    }
    alike = [
        name
        for name in sorted(first.keys() - found)
        if first[name].has_content
    ]
    for names in _batches(alike, first):
        here = _digests(one, {first[name] for name in names}, folder)
        there = _digests(other, {second[name] for name in names}, folder)
        found.update(
            name
            for name in names
            if here[first[name].inode] != there[second[name].inode]
        )
    return [repr(os.fsdecode(name)) for name in sorted(found)]


def walk(image: pathlib.Path) -> dict[bytes, Entry]:
    """List all files of a filesystem, by their paths.

    :raises DamagedError: if debugfs cannot read it.
    """
    found: dict[bytes, Entry] = {}
    level = {_ROOT: b''}
    seen = {_ROOT}
    while level:
        listings = _run(image, [f'ls -p <{inode}>' for inode in level])
        # debugfs does not mind, and lists nothing of, what it cannot open.
        if not found and not listings[0].strip():
            raise _unreadable(image)
        below: dict[int, bytes] = {}
        for path, listing in zip(level.values(), listings, strict=True):
            for name, entry in _entries(image, listing):
                if name in (b'.', b'..') or not entry.inode:
                    continue
                full = path + b'/' + name
                found[full] = entry
                # A damaged one may hold itself.
                if stat.S_ISDIR(entry.mode) and entry.inode not in seen:
                    seen.add(entry.inode)
                    below[entry.inode] = full
        level = below
    return found


def _entries(
    image: pathlib.Path, listing: bytes
) -> Iterator[tuple[bytes, Entry]]:
    # /inode/mode/uid/gid/name/size/ and a line feed; folders have no size. A
    # name may hold anything but a slash.
    fields = listing.split(b'/')
    for start in range(1, len(fields) - 6, 7):
        inode, mode, uid, gid, name, size = fields[start : start + 6]
        try:
            entry = Entry(
                int(inode), int(mode, 8), int(uid), int(gid), int(size or b'0')
            )
        except ValueError as error:
            raise _unreadable(image) from error
        yield name, entry


def _batches(
    names: list[bytes], entries: Mapping[bytes, Entry]
) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for name in names:
        if batch and (len(batch) >= _FILES or size >= _BYTES):
            yield batch
            batch, size = [], 0
        batch.append(name)
        size += entries[name].size
    if batch:
        yield batch


def _digests(
    image: pathlib.Path, entries: Collection[Entry], folder: pathlib.Path
) -> dict[int, bytes]:
    """Hash the content of files, by their inodes."""
    links = sorted({e.inode for e in entries if e.is_short_link})
    files = sorted({e.inode for e in entries if not e.is_short_link})
    told = _run(image, [f'stat <{inode}>' for inode in links])
    found = {
        inode: text.partition(_TARGET)[2]
        for inode, text in zip(links, told, strict=True)
    }
    with tempfile.TemporaryDirectory(dir=folder) as work:
        # A path could not be trusted to be one word to debugfs.
        commands = [f'dump <{inode}> {inode}' for inode in files]
        _run(image, commands, folder=pathlib.Path(work))
        for inode in files:
            found[inode] = _hash(image, pathlib.Path(work) / str(inode))
    return found


def _hash(image: pathlib.Path, path: pathlib.Path) -> bytes:
    try:
        with path.open('rb') as file:
            return hashlib.file_digest(file, 'sha256').digest()
    except FileNotFoundError as error:
        raise _unreadable(image) from error


def _run(
    image: pathlib.Path,
    commands: Sequence[str],
    *,
    folder: pathlib.Path | None = None,
) -> list[bytes]:
    """Have debugfs run commands.

    :param commands: they contain nothing that comes from a filesystem but
        numbers.
    :param folder: where files are written.
    :returns: what each printed.
    """
    if not commands:
        return []
    script = ''.join(f'{command}\n' for command in commands)
    result = process.run(
        ('debugfs', '-f', '-', image.absolute()),
        access=confinement.Access(
            reads=(image,), writes=() if folder is None else (folder,)
        ),
        input=script.encode('ascii'),
        cwd=folder,
    )
    rest, printed = result.stdout, []
    for command in commands:
        before, found, rest = rest.partition(f'debugfs: {command}\n'.encode())
        printed.append(before)
        if not found:
            raise _unreadable(image)
    # What comes before the first is nothing.
    return [*printed[1:], rest]


def _unreadable(image: pathlib.Path) -> errors.DamagedError:
    return errors.DamagedError(
        'debugfs cannot read all of its files', subject=image
    )
