# SPDX-License-Identifier: Apache-2.0

"""UEC tarballs: a root filesystem, a kernel and a ramdisk in one archive.

Ubuntu Enterprise Cloud made them, CirrOS ships them, and ``ami save`` writes
them: ``NAME.img``, ``NAME-vmlinuz*`` and ``NAME-initrd*``. They are told by
what is in them. Nothing is unpacked but these files, under names of our own:
no name in an archive leads anywhere, links and devices are never made, and
there are limits to what may come out.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import gzip
import hashlib
import io
import os
import pathlib
import re
import tarfile
from typing import BinaryIO, IO

from amiclient import errors
from amiclient.progress import Progress
from amiclient.progress import Task
from amiclient import scratch
from amiclient.source import contents
from amiclient.source import manifest
from amiclient.source.manifest import Manifest
from amiclient.source import opening
from amiclient.source import probe
from amiclient.source import streams
from amiclient.source import tar
from amiclient import sparse
from amiclient import units

_MIB = 2**20

#: What a kernel and a ramdisk may have, in bytes. Those of distributions with
#: every driver have a tenth of it.
_LIMITS = {'kernel': 512 * _MIB, 'ramdisk': 4096 * _MIB}

#: Members that a UEC tarball may have; the archive of a root filesystem has
#: thousands.
_MEMBERS = 32

#: What may be in a file of its own.
_ROLES = frozenset({'image', 'kernel', 'ramdisk'})

#: Names of members that files may have as well.
_PLAIN = re.compile(r'[A-Za-z0-9][A-Za-z0-9._+~-]{0,199}')

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL

#: Bytes that are left free where an archive is unpacked.
_RESERVE = 16 * _MIB


@dataclasses.dataclass(frozen=True)
class Unpacked:
    """What was in a tarball, and is now in files.

    :param sizes: of each, in bytes.
    :param sha512: of each, by ``image``, ``kernel`` and ``ramdisk``.
    :param name: what the root filesystem is called, without suffixes.
    :param manifest: if there was one.
    """

    paths: dict[str, pathlib.Path]
    sizes: dict[str, int]
    sha512: dict[str, str]
    name: str
    manifest: Manifest | None


def is_tar(path: pathlib.Path) -> bool:
    """Tell whether a file is an archive, compressed or not."""
    with opening.opened(path, wanted='an archive', devices=True) as file:
        head = file.read(probe.TAR_BLOCK)
        if probe.compression_in(file):
            try:
                head = streams.head(
                    file, probe.TAR_BLOCK, name=errors.shown(path)
                )
            except errors.AmiError:
                return False
        return probe.is_tar(head)


def role(name: str) -> str | None:
    """Tell what a member is by its name, as UEC's tools do.

    :returns: ``image``, ``kernel``, ``ramdisk``, ``manifest``, ``loader``, or
        None for anything else.
    """
    last = name.rpartition('/')[2]
    if last == manifest.NAME:
        return 'manifest'
    if '-loader' in last or '-floppy' in last:
        # For clouds that cannot be given a kernel; it boots nothing itself.
        return 'loader'
    if 'vmlinu' in last:
        return 'kernel'
    if 'initrd' in last or 'initramfs' in last:
        return 'ramdisk'
    return 'image' if last.endswith('.img') else None


def is_likely(roles: Container[str | None]) -> bool:
    """Tell whether an archive is one, by the roles of its members.

    Without a kernel, only its manifest tells it from any archive.
    """
    return 'image' in roles and ('kernel' in roles or 'manifest' in roles)


def unpack(
    path: pathlib.Path,
    directory: pathlib.Path | None,
    *,
    progress: Progress,
    wanted: Container[str] = _ROLES,
) -> Unpacked | None:
    """Unpack a UEC tarball, as :func:`unpack_stream` does."""
    with streams.opened(path, wanted='an archive') as stream:
        return unpack_stream(
            stream, directory, progress=progress, wanted=wanted
        )


def unpack_stream(
    stream: streams.Stream,
    directory: pathlib.Path | None,
    *,
    progress: Progress,
    wanted: Container[str] = _ROLES,
    others: contents.Unpacker | None = None,
) -> Unpacked | None:
    """Unpack a UEC tarball.

    :param others: takes what is of no use here.
    :param stream: of the archive.
    :param directory: where to; it should be empty, and private. If None,
        everything is only read, to the end.
    :param wanted: the roles of what goes there; all else is only read.
    :returns: None if it is none.
    :raises SourceError: if it is damaged, or has two of a kind.
    :raises NoSpaceError: if the directory has no room for what is in it.
    """
    found = _Found()
    with _opened(stream) as archive:
        for number, member in enumerate(archive):
            if others is None:
                if number >= _MEMBERS or found.is_other:
                    return None
            elif others.held.ends(member):
                return None
            # Names are the user's: there are AMIs called vmlinuz.
            kind = found.roles.get(member.name) or role(member.name)
            if member.isdir() or kind == 'loader':
                continue
            data = archive.extractfile(member) if member.isreg() else None
            if data is None:
                found.is_other = True
            elif kind and found.is_wanted(kind, member.name, data):
                place = directory if kind in wanted else None
                _check_size(stream.name, member, kind, place)
                target = place and place / _file_name(member.name, kind)
                _unpack(data, target, member.size, kind, found, progress)
                if target is not None and others is not None:
                    others.note(member.name, target)
            elif others is not None:
                others.take(member, found.again.pop() if found.again else data)
    return found.judge(stream.name)


def _unpack(
    data: IO[bytes],
    target: pathlib.Path | None,
    size: int,
    kind: str,
    found: '_Found',
    progress: Progress,
) -> None:
    with (
        progress.task(f'Unpacking {kind}', size) as task,
        contextlib.nullcontext()
        if target is None
        else sparse.opened(target, _NEW) as fd,
    ):
        found.sha512[kind] = _copy(data, fd, size, task)
    found.sizes[kind] = size
    if target is not None:
        found.paths[kind] = target


@dataclasses.dataclass
class _Found:
    names: dict[str, str] = dataclasses.field(default_factory=dict)
    paths: dict[str, pathlib.Path] = dataclasses.field(default_factory=dict)
    sizes: dict[str, int] = dataclasses.field(default_factory=dict)
    sha512: dict[str, str] = dataclasses.field(default_factory=dict)
    manifest: bytes | None = None
    #: What the manifest says that members are, if it came before them.
    roles: Mapping[str, str] = dataclasses.field(default_factory=dict)
    #: A role that was found again, and where.
    twice: tuple[str, str] | None = None
    #: Whether there is what no UEC tarball has.
    is_other: bool = False
    #: What was read already of a manifest that may be another one.
    again: list[IO[bytes]] = dataclasses.field(default_factory=list)

    def is_wanted(self, kind: str, name: str, data: IO[bytes]) -> bool:
        """Tell whether a member is to be unpacked, by its role."""
        if kind in self.names:
            self.twice = self.twice or (kind, name)
            return False
        self.names[kind] = name
        if kind != 'manifest':
            return True
        self.manifest = data.read(manifest.LIMIT + 1)
        self.roles = _roles(self.manifest)
        self.again = [io.BytesIO(self.manifest)]
        return False

    def judge(self, name: str) -> Unpacked | None:
        if self.is_other or not is_likely(self.names):
            return None
        if self.twice is not None:
            kind, second = self.twice
            raise errors.SourceError(
                f'two members may be the {kind}: '
                f'{errors.shown(self.names[kind])} and '
                f'{errors.shown(second)}',
                subject=name,
                hint='unpack it, and name the files',
            )
        parsed = None
        if self.manifest is not None:
            shown = f'{name}: {errors.shown(self.names["manifest"])}'
            parsed = manifest.parse(self.manifest, shown)
        stem = self.names['image'].rpartition('/')[2].removesuffix('.img')
        return Unpacked(
            self.paths,
            self.sizes,
            self.sha512,
            stem.removesuffix('-blank'),
            parsed,
        )


def _roles(data: bytes) -> dict[str, str]:
    try:
        parts = manifest.parse(data, manifest.NAME).parts
    except errors.SourceError:
        # Whether that is an error, all of the archive tells.
        return {}
    return {part.file: noun for noun, part in parts.items()}


def pack(
    members: Sequence[pathlib.Path],
    target: pathlib.Path,
    *,
    progress: Progress,
) -> None:
    """Pack files into a compressed archive; the same give the same bytes.

    :param members: what goes in, in that order, under their own names.
    :param target: the archive.
    """
    total = sum(member.stat().st_size for member in members)
    with (
        target.open('wb') as raw,
        # No name and no time of its own.
        gzip.GzipFile('', 'wb', 6, raw, mtime=0) as packed,
        tarfile.open(
            fileobj=packed, mode='w', format=tarfile.PAX_FORMAT
        ) as archive,
        progress.task('Packing', total) as task,
    ):
        for member in members:
            info = tarfile.TarInfo(member.name)
            info.size = member.stat().st_size
            info.mode = 0o644
            with member.open('rb') as file:
                archive.addfile(info, _Watched(file, task))


class _Watched(io.RawIOBase):
    def __init__(self, file: BinaryIO, task: Task) -> None:
        self._file = file
        self._task = task

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._task.advance(len(data))
        return data


def _check_size(
    name: str,
    member: tarfile.TarInfo,
    kind: str,
    directory: pathlib.Path | None,
) -> None:
    limit = _LIMITS.get(kind)
    what = f'{name}: the {kind} in it has {member.size} bytes'
    if limit is not None and member.size > limit:
        raise errors.SourceError(f'{what}; no more than {limit} are taken')
    if directory is None:
        return
    # As if there were no holes, for nobody knows before.
    room = max(0, scratch.room(directory) - _RESERVE)
    if member.size > room:
        raise errors.NoSpaceError(
            f'{what}, and {directory.parent} has room for '
            f'{units.format_size(room)}',
            hint='use --work-directory to choose a directory with enough room',
        )


def _file_name(member: str, kind: str) -> str:
    """Choose what a member is called on the disk, and then in the cloud.

    No two roles have the same: a name tells its role, and those of the roles
    tell none.
    """
    last = member.rpartition('/')[2]
    return last if _PLAIN.fullmatch(last) else kind


def _copy(data: IO[bytes], fd: int | None, size: int, task: Task) -> str:
    hasher = hashlib.sha512()
    done = 0
    while chunk := data.read(sparse.CHUNK):
        hasher.update(chunk)
        if fd is not None:
            sparse.append(fd, chunk, done)
        done += len(chunk)
        task.advance(len(chunk))
    if done < size:
        raise EOFError
    return hasher.hexdigest()


@contextlib.contextmanager
def _opened(stream: streams.Stream) -> Iterator[tarfile.TarFile]:
    try:
        with tar.reader(stream) as archive:
            yield archive
            if archive.tarinfo.ended:  # type: ignore[attr-defined]
                tar.refuse_more(archive, stream.name)
    except (*tar.NONSENSE, EOFError) as error:
        raise errors.SourceError(
            'a damaged archive, or one that is cut short',
            subject=stream.name,
            hint='get a whole copy of it',
        ) from error
