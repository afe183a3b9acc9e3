# SPDX-License-Identifier: Apache-2.0

"""What an archive holds instead of the files of a root filesystem.

That may be a disk: appliances (OVA), Vagrant boxes, ``disk.raw`` in a
tarball and a VHD in a zip archive have one. Or the layers of a container
image. What is stored as it is, is read where it is; all else is unpacked, to
files with names of our own.
"""

from collections.abc import Iterator
import dataclasses
import os
import pathlib
import posixpath
import re
import struct
import tarfile
from typing import Any, BinaryIO, IO
import zipfile
import zlib

from amiclient import errors
from amiclient.progress import Progress
from amiclient import scratch
from amiclient.source import opening
from amiclient.source import probe
from amiclient.source import qemu_image
from amiclient.source import streams
from amiclient.source import tar
from amiclient.source import unpacking
from amiclient import sparse

#: Bytes that a disk has at least, and how deep in an archive it may be.
_SMALLEST = 16 << 10
_DEEPEST = 2

#: Members with one of these at the top are files of a root filesystem.
_TOPS = frozenset(
    ('bin', 'dev', 'etc', 'init', 'lib', 'proc', 'sbin', 'sys', 'usr')
)

#: Members that may be neither a disk nor a part of a container image, where
#: there is one; and members in all.
_OTHERS = 32
_MOST = 4096

#: What the parts of container images are called: of OCI's layout, and by
#: docker save and the tools that write the same.
_BLOB = re.compile(
    r'blobs/\w+/[0-9a-f]+|oci-layout|repositories|version|.*\.json'
    r'|(.*/)?(layer\.tar|json|VERSION)'
    r'|(sha256:)?[0-9a-f]{12,64}(\.tar(\.gz)?)?'
)


#: Bytes of the list of files of a zip archive; of what is before a file, and
#: where that has the lengths of two names; and the mark of what is encrypted.
_ZIP_LIST = 4 << 20
_ZIP_HEADER = struct.Struct('<4s22xHH')
_ZIP_MAGIC = b'PK\x03\x04'
_ZIP_ENCRYPTED = 1


@dataclasses.dataclass
class Held:
    """What an archive holds, as far as it is looked through.

    :param name: of the archive, for errors.
    :param size: bytes of its file.
    :param disks: where disks and filesystems are, by their names in it.
    :param packed: where compressed files are.
    :param blobs: where what may belong to a container image is.
    :param links: links of both kinds, and where they lead.
    :param is_files: whether it holds the files of a root filesystem.
    :param notes: what the user should know.
    """

    name: str
    size: int
    disks: dict[str, opening.Slice] = dataclasses.field(default_factory=dict)
    packed: dict[str, opening.Slice] = dataclasses.field(default_factory=dict)
    blobs: dict[str, opening.Slice] = dataclasses.field(default_factory=dict)
    links: dict[str, str] = dataclasses.field(default_factory=dict)
    is_files: bool = False
    notes: tuple[str, ...] = ()
    _others: int = 0

    def disk(self) -> tuple[str, opening.Slice] | None:
        """Choose the disk that is meant: its name, and where it is.

        :raises SourceError: if there are several.
        """
        if self.is_files:
            return None
        found = self.disks or self.packed
        if len(found) > 1:
            names = [errors.shown(each, 200) for each in found]
            raise errors.SourceError(
                f'several disks are in it: {errors.some(names)}',
                subject=self.name,
                hint='unpack the one with the root filesystem, and give that',
            )
        return next(iter(found.items()), None)

    def ends(self, member: tarfile.TarInfo) -> bool:
        """Tell whether a member is one of the files of a root filesystem."""
        name = _plain(member.name)
        top, slash, _ = name.partition('/')
        if top in _TOPS and (slash or not member.isreg()):
            self.is_files = True
        elif member.issym():
            directory = posixpath.dirname(name)
            self.links[name] = posixpath.normpath(
                posixpath.join(directory, member.linkname)
            )
        elif member.islnk():
            self.links[name] = _plain(member.linkname)
        elif not (member.isreg() or member.isdir()):
            self.other()
        if len(self.blobs) + len(self.links) > _MOST:
            self.is_files = True
        return self.is_files

    def other(self) -> None:
        """Count what is neither."""
        self._others += 1
        if self._others > _OTHERS:
            self.is_files = True

    def note(self, name: str, head: bytes, slice: opening.Slice) -> bool:
        """Note where a file is, if it may be a disk; tell if so."""
        size = slice.size or 0
        if size < _SMALLEST or name.count('/') >= _DEEPEST:
            return False
        content = probe.examine(head, size, self.name)
        if content.superblock is not None or content.found.disk is not None:
            self.disks[name] = slice
        elif probe.compression(head[: probe.MAGIC_SIZE]):
            self.packed[name] = slice
        else:
            return False
        return True


def disk_kind(slice: opening.Slice, name: str) -> str:
    """Tell what a disk is, as QEMU calls it; '' if it is none.

    :param name: of what it is in, for errors.
    """
    with opening.opened(slice.path, wanted='a disk') as file:
        head = slice.within(file).read(probe.HEAD)
    content = probe.examine(head, slice.size or 0, name)
    return 'raw' if content.superblock else content.found.disk or ''


def is_readable(slice: opening.Slice, name: str) -> bool:
    """Tell whether a disk can be read where it is: QEMU takes sectors.

    :param name: of what it is in, for errors.
    """
    kind = disk_kind(slice, name)
    whole = (slice.size or 0) % qemu_image.SECTOR == 0
    return kind == 'raw' or (bool(kind) and whole)


class Unpacker:
    """Unpacks what is in an archive that is read once.

    :param stream: of the archive.
    :param directory: where to; it should be private.
    """

    def __init__(
        self,
        stream: streams.Stream,
        directory: pathlib.Path,
        progress: Progress,
    ) -> None:
        self._stream = stream
        self._directory = directory
        self._progress = progress
        self.held = Held(stream.name, stream.packed)

    def take(self, member: tarfile.TarInfo, data: IO[bytes]) -> None:
        """Unpack a regular file, if it may be of use.

        :raises SourceError: if it is damaged, or made to fill disks.
        :raises NoSpaceError: if there is no room for it.
        """
        name, held = _plain(member.name), self.held
        count = len(held.disks) + len(held.packed) + len(held.blobs)
        target = self._directory / f'member-{count}'
        if _BLOB.fullmatch(name):
            self._copy(data, target)
            held.blobs[name] = opening.Slice(target, 0, member.size)
            return
        stream = PartStream(self._stream, data)
        head = stream.peek(probe.HEAD)
        if not held.note(name, head, opening.Slice(target, 0, member.size)):
            held.other()
            return
        held.notes += unpacking.unpack(stream, target, progress=self._progress)

    def note(self, name: str, path: pathlib.Path) -> None:
        """Note a file that was unpacked already, if it may be a disk."""
        with opening.opened(path, wanted='a disk') as file:
            head = file.read(probe.HEAD)
        slice = opening.Slice(path, 0, path.stat().st_size)
        self.held.note(_plain(name), head, slice)

    def _copy(self, data: IO[bytes], target: pathlib.Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        size = 0
        with (
            scratch.full_disk(self._directory),
            sparse.opened(target, flags) as descriptor,
        ):
            while piece := data.read(sparse.CHUNK):
                scratch.check_room(self._directory, len(piece))
                sparse.append(descriptor, piece, size)
                size += len(piece)


class PartStream(streams.Stream):
    """A file in an archive, read as the archive comes.

    :param outer: the archive.
    :param data: what is read of it.
    """

    def __init__(self, outer: streams.Stream, data: streams.Readable) -> None:
        super().__init__(data, outer.name, outer._raw, outer.kind)


def survey(path: pathlib.Path, name: str) -> Held | None:
    """Look through a tar archive that is not compressed.

    :param name: what to call it in errors.
    :returns: None if there are files with holes in it, which are not stored
        as they are, or if it is damaged: whoever reads all of it tells how.
    :raises SourceError: if it is cut short.
    """
    with opening.opened(path, wanted='an archive') as file:
        held = Held(name, file.seek(0, os.SEEK_END))
        try:
            for member, start in _members(file):
                if held.ends(member):
                    break
                if not member.isreg():
                    continue
                if member.sparse is not None:
                    return None
                if start + member.size > held.size:
                    raise errors.SourceError(
                        f'cut short: {errors.shown(member.name, 200)} in it '
                        f'takes {member.size} bytes, and '
                        f'{max(0, held.size - start)} are there',
                        subject=name,
                        hint='get a whole copy of it',
                    )
                where = _plain(member.name)
                slice = opening.Slice(path, start, member.size)
                held.blobs[where] = slice
                head = sparse.read_at(
                    file.fileno(), min(member.size, probe.HEAD), start
                )
                held.note(where, head, slice)
        except tar.NONSENSE:
            return None
    return held


def _members(file: BinaryIO) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """Go through the members of an archive, and where their content is."""
    file.seek(0)
    with tar.reader(file) as archive:
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]
            yield member, member.offset_data


def unzip(
    path: pathlib.Path,
    name: str,
    directory: pathlib.Path,
    *,
    progress: Progress,
) -> Held:
    """Look through a zip archive, and unpack the disk in it, if need be.

    :param name: what to call it in errors.
    :param directory: where to; it should be private.
    :raises SourceError: if it is damaged, or has what is not taken.
    :raises NoSpaceError: if there is no room for the disk.
    """
    with opening.opened(path, wanted='a zip archive') as file:
        held = Held(name, file.seek(0, os.SEEK_END))
        try:
            with zipfile.ZipFile(_BoundedFile(file)) as archive:
                members = archive.infolist()
                if len(members) > _MOST:
                    raise zipfile.BadZipFile(f'it has more than {_MOST} files')
                for member in members:
                    _look(path, file, archive, member, held)
                chosen = held.disk()
                if chosen is None:
                    return held
                info = archive.getinfo(chosen[0])
                if info.compress_type != zipfile.ZIP_STORED:
                    target = directory / 'member'
                    with archive.open(info) as data:
                        held.notes += unpacking.unpack(
                            streams.Stream(data, name, file, 'gzip'),
                            target,
                            progress=progress,
                        )
                    held.disks = {chosen[0]: opening.Slice(target)}
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            NotImplementedError,
            *tar.NONSENSE,
        ) as error:
            raise errors.SourceError(
                f'a damaged zip archive: {errors.told(str(error))}',
                subject=name,
                hint='get a whole copy of it',
            ) from error
    return held


def _look(
    path: pathlib.Path,
    file: BinaryIO,
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    held: Held,
) -> None:
    """Note a file of a zip archive, if it may be a disk."""
    name, size = member.filename, member.file_size
    if size < _SMALLEST or name.count('/') >= _DEEPEST:
        return
    stored = member.compress_type == zipfile.ZIP_STORED
    why = None
    if member.flag_bits & _ZIP_ENCRYPTED:
        why = 'encrypted'
    elif not stored and member.compress_type != zipfile.ZIP_DEFLATED:
        why = 'compressed in an unusual way'
    if why is not None:
        raise errors.SourceError(
            f'{errors.shown(name, 200)} in it is {why}',
            subject=held.name,
            hint='unpack it, and give the disk',
        )
    with archive.open(member) as data:
        head = data.read(probe.HEAD)
    start = 0
    if stored:
        header = sparse.read_at(
            file.fileno(), _ZIP_HEADER.size, member.header_offset
        )
        magic, *lengths = _ZIP_HEADER.unpack(header)
        start = member.header_offset + _ZIP_HEADER.size + sum(lengths)
        if magic != _ZIP_MAGIC or start + size > held.size:
            raise zipfile.BadZipFile('a file in it is not where it should be')
    held.note(name, head, opening.Slice(path, start, size))


class _BoundedFile:
    """A file of which no more is read at a time than a list may have."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, count: int = -1) -> bytes:
        most = min(count % (1 << 63), _ZIP_LIST + 1)
        data = self._file.read(most)
        if len(data) > _ZIP_LIST:
            raise zipfile.BadZipFile('its list of files is too long')
        return data


def _plain(name: str) -> str:
    """Write the name of a member in one way."""
    return posixpath.normpath(name).lstrip('/')
