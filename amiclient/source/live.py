# SPDX-License-Identifier: Apache-2.0

"""Live media: a root filesystem in squashfs, which may be in an ISO image.

``sqfs2tar`` (squashfs-tools-ng) makes an archive of a squashfs as it is read.
An ISO 9660 image is looked into for what has one: by content, for each
distribution calls it otherwise.

Sources: ECMA-119 (ISO 9660), sections 8 and 9; the Rock Ridge Interchange
Protocol 1.12, section 4.1.4 (NM); Documentation/filesystems/squashfs.rst of
the kernel.
"""

from collections.abc import Collection, Iterator
import contextlib
import dataclasses
import logging
import os
import pathlib
from typing import BinaryIO

from amiclient import confinement
from amiclient import errors
from amiclient import process
from amiclient.source import opening
from amiclient.source import probe
from amiclient.source import streams
from amiclient import sparse

_LOG = logging.getLogger(__name__)

#: Bytes of address space for sqfs2tar: blocks, and tables of inodes.
_MEMORY = 2 << 30

#: Where the size of a squashfs is in its superblock, and its header's bytes.
_SQUASHFS = b'hsqs'
_SQUASHFS_USED = slice(40, 48)
_SQUASHFS_HEADER = 96

#: Sectors of an ISO image; where its descriptors begin, and how many there
#: may be; what ends them, and the one that has the root directory.
_SECTOR = 2048
_FIRST, _MOST = 16, 64
_PRIMARY, _END = 1, 255
_ROOT = slice(156, 190)
_VOLUME = slice(_FIRST * _SECTOR + 80, _FIRST * _SECTOR + 84)

#: Flags of a directory record.
_DIRECTORY, _CONTINUED = 2, 0x80

#: What an ISO image may have: bytes of a directory, records in all.
_DIRECTORY_SIZE = 16 << 20
_RECORDS = 200_000

#: What is taken first, where several could be meant: of Debian and Ubuntu, of
#: Fedora and those like it, of Arch and of Gentoo.
_USUAL = (
    'casper/filesystem.squashfs',
    'live/filesystem.squashfs',
    'liveos/squashfs.img',
    'liveos/rootfs.img',
    'arch/x86_64/airootfs.sfs',
    'arch/aarch64/airootfs.sfs',
    'image.squashfs',
)


#: What the installer of Ubuntu can install, and bytes of that at most.
_LISTED = 'casper/install-sources.yaml'
_LIST = 1 << 20


@dataclasses.dataclass(frozen=True)
class _IsoRecord:
    """A file in an ISO image, or a piece of one."""

    name: str
    start: int
    size: int
    flags: int


class _SquashfsReader:
    """Converts what goes wrong with sqfs2tar into errors of the source."""

    def __init__(self, program: process.Running, name: str) -> None:
        self._program = program
        self._name = name

    def read(self, count: int, /) -> bytes:
        try:
            data = self._program.read(count)
        except process.ProgramFailed as error:
            raise errors.SourceError(
                f'a damaged squashfs filesystem: {error.result.tail()}',
                subject=self._name,
                hint='get it again from where it came',
            ) from error
        if not data and (words := self._program.tail()):
            _LOG.warning('%s: sqfs2tar: %s', self._name, errors.told(words))
        return data


@contextlib.contextmanager
def opened(path: pathlib.Path, name: str) -> Iterator[streams.Stream]:
    """Read a squashfs as an archive.

    :param name: what to call it in errors.
    :raises SourceError: if it cannot be read, then or later.
    :raises ProgramError: if sqfs2tar is missing.
    """
    with opening.opened(path, wanted='a squashfs filesystem') as file:
        _check(file, name)
        # What is said of the root directory would be lost otherwise.
        command = ('sqfs2tar', '--root-becomes', '.', path.absolute())
        with process.reading(
            command,
            file,
            access=confinement.Access(reads=(path.absolute(),)),
            memory=_MEMORY,
        ) as program:
            # It may be nearly all zeros, as what is compressed.
            yield streams.Stream(
                _SquashfsReader(program, name), name, file, 'squashfs'
            )


def declared(head: bytes, kind: str | None) -> int:
    """Tell how large a squashfs or an ISO image is, by its own word.

    :param kind: as :class:`~amiclient.source.probe.Found` has it.
    :returns: bytes; 0 if it is neither.
    """
    if kind == 'squashfs':
        return int.from_bytes(head[_SQUASHFS_USED], 'little')
    if kind == 'iso':
        # The number of sectors of the volume.
        return int.from_bytes(head[_VOLUME], 'little') * _SECTOR
    return 0


def _check(file: BinaryIO, name: str) -> None:
    header = file.read(_SQUASHFS_HEADER)
    size = file.seek(0, os.SEEK_END)
    used = int.from_bytes(header[_SQUASHFS_USED], 'little')
    if not header.startswith(_SQUASHFS) or used < _SQUASHFS_HEADER:
        raise errors.SourceError(
            'a squashfs filesystem of another byte order, or version',
            subject=name,
            hint='unpack it with unsquashfs of its own machine',
        )
    if used > size:
        raise errors.SourceError(
            f'cut short: its squashfs filesystem takes {used} bytes, and '
            f'{size} are there',
            subject=name,
            hint='get a whole copy of it',
        )


def root_in(
    path: pathlib.Path, name: str
) -> tuple[str, tuple[opening.Slice, ...]]:
    """Find the root filesystem in an ISO image: its name, and where it is.

    :param name: what to call the image in errors.
    :returns: several are layers of each other, the lowest first.
    :raises SourceError: if there is none, or several may be meant, or it is
        damaged.
    """
    found = {}
    listed = b''
    with opening.opened(path, wanted='an ISO 9660 image') as file:
        for each in _IsoReader(file, name).files():
            if each.name.lower() == _LISTED:
                listed = sparse.read_at(
                    file.fileno(), min(each.size, _LIST), each.start
                )
            head = sparse.read_at(
                file.fileno(), min(each.size, probe.HEAD), each.start
            )
            content = probe.examine(head, each.size, name)
            if head.startswith(_SQUASHFS) or content.superblock is not None:
                found[each.name] = opening.Slice(path, each.start, each.size)
    for usual in _USUAL:
        for inner, slice in found.items():
            if inner.lower() == usual:
                return inner, (slice,)
    if len(found) == 1:
        inner, slice = next(iter(found.items()))
        return inner, (slice,)
    if layers := _layers(listed, found, name):
        return layers[-1], tuple(found[each] for each in layers)
    if not found:
        raise errors.SourceError(
            'an ISO 9660 image in which no root filesystem was found: neither '
            'squashfs nor ext2, ext3 or ext4',
            subject=name,
            hint='install a machine from it, and give its disk',
        )
    names = [errors.shown(each, 200) for each in found]
    raise errors.SourceError(
        f'several root filesystems may be meant in it: {errors.some(names)}',
        subject=name,
        hint='take the right one out, with xorriso -osirrox on -extract, and '
        'give that',
    )


def _layers(listed: bytes, found: Collection[str], name: str) -> list[str]:
    """Name the layers of what the installer of Ubuntu installs by default.

    Their names say on what they are: ``a.b.squashfs`` on ``a.squashfs``.

    :param listed: its list; empty if there is none.
    """
    # Not at the top: it takes a while.
    import yaml

    try:
        entries = yaml.safe_load(listed)
    except (yaml.YAMLError, RecursionError, ValueError):
        return []
    chosen, is_alone = '', False
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and entry.get('default') is True:
            chosen = str(entry.get('path', ''))
            is_alone = entry.get('type') == 'fsimage'
    stem, dot, suffix = chosen.rpartition('.')
    if not dot:
        return []
    parts = [stem] if is_alone else stem.split('.')
    top = _LISTED.partition('/')[0]
    wanted = [
        f'{top}/{".".join(parts[: count + 1])}.{suffix}'
        for count in range(len(parts))
    ]
    known = {each.lower(): each for each in found}
    for each in wanted:
        if each.lower() not in known:
            raise errors.SourceError(
                f'{_LISTED} in it names {errors.shown(chosen, 200)}, and '
                f'{errors.shown(each, 200)} is not there',
                subject=name,
                hint='get it again from where it came',
            )
    return [known[each.lower()] for each in wanted]


class _IsoReader:
    """An ISO image, while its directories are read."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self._size = file.seek(0, os.SEEK_END)
        self._count = 0

    def files(self) -> Iterator[_IsoRecord]:
        """Go through all files that may be large enough."""
        waiting = [self._root()]
        seen: set[int] = set()
        while waiting:
            directory = waiting.pop()
            if directory.start in seen or directory.size > _DIRECTORY_SIZE:
                raise self._damaged('its directories have no end')
            seen.add(directory.start)
            for each in self._whole(directory):
                if each.flags & _DIRECTORY:
                    waiting.append(each)
                elif each.size >= _SECTOR or each.name.lower() == _LISTED:
                    if each.start + each.size > self._size:
                        raise self._damaged(
                            f'{errors.shown(each.name, 200)} in it goes '
                            'beyond its end'
                        )
                    yield each

    def _root(self) -> _IsoRecord:
        for number in range(_FIRST, _FIRST + _MOST):
            sector = self._read(number * _SECTOR, _SECTOR)
            if sector[1:6] != b'CD001' or sector[0] == _END:
                break
            if sector[0] == _PRIMARY:
                if sector[128:130] != _SECTOR.to_bytes(2, 'little'):
                    raise self._damaged('its blocks are of another size')
                return self._record(sector[_ROOT], '')
        raise self._damaged('it has no root directory')

    def _whole(self, directory: _IsoRecord) -> Iterator[_IsoRecord]:
        """Go through the files of a directory, those of several parts too."""
        first: _IsoRecord | None = None
        for each in self._records(directory):
            if first is not None:
                if each.start != first.start + first.size:
                    raise self._damaged('a file in it is in several places')
                each = dataclasses.replace(
                    first, size=first.size + each.size, flags=each.flags
                )
            first = each if each.flags & _CONTINUED else None
            if first is None:
                yield each

    def _records(self, directory: _IsoRecord) -> Iterator[_IsoRecord]:
        data = self._read(directory.start, directory.size)
        place = 0
        while place < len(data):
            length = data[place]
            if not length:
                # Records do not go from one sector to the next.
                place += _SECTOR - place % _SECTOR
                continue
            self._count += 1
            if self._count > _RECORDS:
                raise self._damaged(f'more than {_RECORDS} files are in it')
            record = data[place : place + length]
            place += length
            # Those of the directory itself, and the one that it is in.
            if record[32:34] not in (b'\1\0', b'\1\1'):
                yield self._record(record, directory.name)

    def _record(self, record: bytes, above: str) -> _IsoRecord:
        if len(record) < 34 or len(record) < 33 + record[32]:
            raise self._damaged('a directory record makes no sense')
        length = record[32]
        name = record[33 : 33 + length].partition(b';')[0].rstrip(b'.')
        extra = record[33 + length + (length + 1) % 2 :]
        name = b''.join(_names(extra)) or name
        path = f'{above}/{os.fsdecode(name)}'.strip('/\0')
        return _IsoRecord(
            path,
            int.from_bytes(record[2:6], 'little') * _SECTOR,
            int.from_bytes(record[10:14], 'little'),
            record[25],
        )

    def _read(self, offset: int, count: int) -> bytes:
        data = sparse.read_at(self._file.fileno(), count, offset)
        if len(data) < count:
            raise self._damaged('it ends too early')
        return data

    def _damaged(self, why: str) -> errors.SourceError:
        return errors.SourceError(
            f'a damaged ISO 9660 image: {why}',
            subject=self._name,
            hint='get it again from where it came',
        )


def _names(extra: bytes) -> Iterator[bytes]:
    """Find the pieces of a name by Rock Ridge."""
    while len(extra) >= 5 and extra[2] >= 5:
        if extra[:2] == b'NM' and not extra[4] & 0x26:
            yield extra[5 : extra[2]]
        extra = extra[extra[2] :]
