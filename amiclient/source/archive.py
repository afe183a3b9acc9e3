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

"""A tar archive as what a filesystem is made of, read in one pass.

The standard library reads the headers: v7, ustar, GNU (long names, sparse
files, large numbers) and PAX (with the attributes and access control lists of
GNU tar, star and libarchive). Nothing is unpacked on this machine: a member
is a name in the new filesystem or an error.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping
import contextlib
import pathlib
import stat
import tarfile
from typing import cast, IO, Self
import urllib.parse

from amiclient import exceptions
from amiclient.ext.build import content
from amiclient.ext.build import nodes
from amiclient import progress as progress_
from amiclient.source import basin as basin_
from amiclient.source import detect
from amiclient.source import stream as stream_

#: Bytes that a header may take: what PAX says of one file, or a long name.
#: The kernel has 64 KiB for the attributes of a file.
_HEADER = 4 << 20

_BLOCK = 512

#: Bytes that are read at a time.
_CHUNK = 1 << 20

#: What follows the end of an archive is read, for the sake of the checksums
#: of the compression, up to so many bytes.
_REST = 64 << 20

_NANO = 10**9

#: Types whose header comes before that of a file, and has a content.
_BEFORE = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)

_MODES = {
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.AREGTYPE: stat.S_IFREG,
    tarfile.CONTTYPE: stat.S_IFREG,
    tarfile.GNUTYPE_SPARSE: stat.S_IFREG,
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}

#: What GNU tar may put into an archive besides files: a label.
_LABEL = b'V'

_XATTR = 'SCHILY.xattr.'
_LIBARCHIVE_XATTR = 'LIBARCHIVE.xattr.'
_SELINUX = 'RHT.security.selinux'
_LISTS = {
    'SCHILY.acl.access': b'system.posix_acl_access',
    'SCHILY.acl.default': b'system.posix_acl_default',
}

#: How tarfile fails on headers that make no sense.
_NONSENSE = (
    tarfile.TarError,
    ArithmeticError,
    LookupError,
    RecursionError,
    ValueError,
)

_ONLY = 'a directory or tar archive is needed'


def fill(
    path: pathlib.Path, basin: basin_.Basin, task: progress_.Task
) -> None:
    """Take everything that is in an archive.

    :raises SourceError: if it is damaged, cut short, no archive of files, or
        has something in it that a filesystem cannot have.
    """
    with stream_.opened(path, wanted='a tar archive') as stream:
        if not is_tar(stream.peek(_BLOCK)):
            raise exceptions.SourceError(
                f'{basin.name}: {detect.identify(path)}: {_ONLY}',
                hint='openstack ami upload takes filesystems and disks',
            )
        _Archive(stream, basin, task).run()


def is_tar(head: bytes) -> bool:
    """Tell whether data begin with the header of a tar archive.

    By its checksum, because the oldest archives have no magic number.
    """
    if len(head) < _BLOCK or not any(head):
        return False
    try:
        tarfile.TarInfo.frombuf(head[:_BLOCK], 'utf-8', 'surrogateescape')
    except (tarfile.TarError, ValueError):
        return False
    return True


class _DamagedError(Exception):
    """An archive that is not one from here on."""


class _Member(tarfile.TarInfo):
    """A header that says what tarfile keeps to itself.

    tarfile takes an archive for finished wherever a header makes no sense;
    where it was cut between two files, that would be half a system.
    """

    ended = False

    @classmethod
    def frombuf(
        cls, buf: bytes | bytearray, encoding: str, errors: str
    ) -> Self:
        """Read a header."""
        if len(buf) < _BLOCK:
            raise _DamagedError('it ends too early')
        if not any(buf):
            cls.ended = True
            return super().frombuf(buf, encoding, errors)
        try:
            found = super().frombuf(buf, encoding, errors)
        except (tarfile.HeaderError, ValueError) as error:
            raise _DamagedError(str(error)) from error
        if found.size < 0 or (found.type in _BEFORE and found.size > _HEADER):
            raise _DamagedError('a header of impossible size')
        return found


class _Archive:
    def __init__(
        self,
        stream: stream_.Stream,
        basin: basin_.Basin,
        task: progress_.Task,
    ) -> None:
        self._stream = stream
        self._basin = basin
        self._task = task
        self._position = 0

    def run(self) -> None:
        with self._opened() as archive:
            for member in self._members(archive):
                self._take(archive, member)
                position = self._stream.position()
                self._task.advance(position - self._position)
                self._position = position
        rest = 0
        while rest < _REST and (data := self._stream.read()):
            rest += len(data)
        _refuse_docker(self._basin)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tarfile.TarFile]:
        with contextlib.ExitStack() as stack:
            with self._told():
                archive = stack.enter_context(
                    tarfile.open(
                        fileobj=self._stream,  # type: ignore[call-overload]
                        mode='r|',
                        bufsize=_CHUNK,
                        # Its own, which knows whether it has seen the end.
                        tarinfo=type('Member', (_Member,), {}),
                        encoding='utf-8',
                        errors='surrogateescape',
                    )
                )
            yield archive

    def _members(self, archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
        while True:
            with self._told():
                member = archive.next()
            # It would keep all of them.
            archive.members = []  # type: ignore[attr-defined]
            if member is None:
                break
            yield member
        if not archive.tarinfo.ended:  # type: ignore[attr-defined]
            raise self._damaged('it makes no sense in the middle')

    def _take(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        path = _bytes(member.name)
        if member.type == _LABEL:
            return
        if member.islnk():
            self._basin.link(path, _bytes(member.linkname))
            return
        if member.type not in _MODES:
            raise self._basin.refused(
                path, f'it is of the unknown type {member.type!r}'
            )
        node = self._node(path, member)
        for key, name in _LISTS.items():
            text = member.pax_headers.get(key)
            # GNU tar writes names there, --numeric-owner or not, and numbers
            # here.
            if text and name not in node.xattrs:
                self._basin.add_list(path, node, name, text)
        if not node.is_file:
            self._basin.add(path, node)
            return
        if member.sparse is None:
            ranges = [(0, member.size)]
        else:
            ranges = cast(list[tuple[int, int]], member.sparse)
        self._basin.add_file(
            path, node, member.size, ranges, self._reader(archive, member)
        )

    def _node(self, path: bytes, member: tarfile.TarInfo) -> nodes.Node:
        headers = member.pax_headers
        try:
            mtime = _time(headers.get('mtime'))
            if mtime is None:
                mtime = int(member.mtime) * _NANO
            return nodes.Node(
                _MODES[member.type] | member.mode & 0o7777,
                uid=member.uid,
                gid=member.gid,
                mtime=mtime,
                atime=_time(headers.get('atime')),
                ctime=_time(headers.get('ctime')),
                xattrs=self._basin.keep_known(path, _xattrs(headers)),
                target=_bytes(member.linkname) if member.issym() else b'',
                device=(member.devmajor, member.devminor)
                if member.isdev() and not member.isfifo()
                else (0, 0),
            )
        except ValueError as error:
            raise self._basin.refused(
                path, f'its header makes no sense: {error}'
            ) from error

    def _reader(
        self, archive: tarfile.TarFile, member: tarfile.TarInfo
    ) -> content.Read:
        # What a sparse file has is there without its holes, in the order in
        # which it is asked for; so the stream is read as it is.
        file = cast(IO[bytes], archive.fileobj)
        with self._told():
            file.seek(member.offset_data)

        def read(offset: int, count: int) -> bytes:
            with self._told():
                data = file.read(count)
            if len(data) < count:
                raise self._damaged('it ends too early')
            return data

        return read

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (_DamagedError, *_NONSENSE) as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, why: str) -> exceptions.SourceError:
        return exceptions.SourceError(
            f'{self._basin.name}: the archive is damaged or cut short: {why}',
            hint='get it again from where it came',
        )


def _bytes(text: str) -> bytes:
    return text.encode('utf-8', 'surrogateescape')


def _time(text: str | None) -> int | None:
    """Read a time to the nanosecond, which a float would not hold."""
    if not text:
        return None
    whole, _, rest = text.partition('.')
    negative = whole.startswith('-')
    digits = whole.lstrip('-')
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
        raise ValueError(f'the time {text[:40]!r}')
    rest = rest[:9]
    if rest and not (rest.isascii() and rest.isdigit()):
        raise ValueError(f'the time {text[:40]!r}')
    value = int(digits) * _NANO + int(rest.ljust(9, '0'))
    return -value if negative else value


def _xattrs(headers: Mapping[str, str]) -> dict[bytes, bytes]:
    """Find the extended attributes among the headers of a file."""
    found = {}
    for key, text in headers.items():
        if key.startswith(_LIBARCHIVE_XATTR):
            name = urllib.parse.unquote_to_bytes(key[len(_LIBARCHIVE_XATTR) :])
            padded = text + '=' * (-len(text) % 4)
            try:
                found[name] = base64.b64decode(padded, validate=True)
            except binascii.Error as error:
                raise ValueError(str(error)) from error
    if _SELINUX in headers:
        # The kernel's has the NUL at the end; GNU tar's has not.
        found[b'security.selinux'] = (
            _bytes(headers[_SELINUX]).rstrip(b'\0') + b'\0'
        )
    for key, text in headers.items():
        if key.startswith(_XATTR):
            name = _bytes(key[len(_XATTR) :])
            # GNU tar has to spell what ends a keyword otherwise.
            name = name.replace(b'%3D', b'=').replace(b'%25', b'%')
            found[name] = _bytes(text)
    return found


def _refuse_docker(basin: basin_.Basin) -> None:
    """Tell an image of containers, which is layers, from a filesystem."""
    names = basin.tree.root.children.keys()
    layout = b'oci-layout' in names
    saved = b'manifest.json' in names and (
        b'repositories' in names
        or b'blobs' in names
        or basin.holds(b'layer.tar')
    )
    if (layout or saved) and not names & {b'etc', b'usr', b'bin', b'sbin'}:
        raise exceptions.SourceError(
            f'{basin.name}: an archive of container layers, as docker save '
            'makes it, not of a root filesystem',
            hint='make a container of the image, and take what docker export '
            'writes of it',
        )
