# SPDX-License-Identifier: Apache-2.0

"""A tar archive as what a filesystem is made of, read in one pass.

The standard library reads the headers: v7, ustar, star, GNU (long names,
sparse files, large numbers) and PAX (with the attributes and access control
lists of GNU tar, star and libarchive). Nothing is unpacked on this machine: a
member is a name in the new filesystem or an error.
"""

from collections.abc import Iterator
import contextlib
import logging
import stat
import tarfile
from typing import BinaryIO, cast, IO, Self

from amiclient import errors
from amiclient.errors import SourceError
from amiclient.ext.writer import nodes
from amiclient.ext.writer import writer
from amiclient import progress
from amiclient.source import attributes
from amiclient.source import file_tree
from amiclient.source import probe
from amiclient.source import streams

_LOG = logging.getLogger(__name__)

#: Bytes that a header may take: what PAX says of one file, or a long name.
#: The kernel has 64 KiB for the attributes of a file.
_HEADER = 4 << 20

#: Bytes that are read at a time.
_CHUNK = 1 << 20

_AHEAD = 16 << 10

#: What follows the end of an archive is read, for another archive and for the
#: sake of the checksums of the compression, up to so many bytes.
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
    # GNU tar's of an incremental archive: its content is what was in it.
    b'D': stat.S_IFDIR,
}

#: What GNU tar may put into an archive besides files: a label; and what a
#: directory has in an incremental one, as an attribute.
_LABEL = b'V'
_DUMPED = 'GNU.dumpdir'

#: What is refused, by the type of its header.
_REFUSED = {
    b'M': 'a file that began in another volume of the archive',
    b'N': 'a list of long names as GNU tar wrote it before 1995',
    b'A': 'an access control list of Solaris',
    b'E': 'an extended attribute of Solaris',
}

#: tar(5): where a header says its format, and what POSIX has for the first
#: part of long names, and GNU for other times.
_MAGIC = slice(257, 263)
_PREFIX = slice(345, 500)
_TIMES = (slice(345, 357), slice(357, 369))
_STAR = slice(508, 512)

_FLAGS = 'SCHILY.fflags'
_OVERLAY = attributes.XATTR + 'trusted.overlay.'
_LISTS = {
    'SCHILY.acl.access': attributes.ACCESS,
    'SCHILY.acl.default': b'system.posix_acl_default',
}

#: How names of whiteouts begin, and the one of a whole directory; and where
#: AUFS keeps files that have several names.
_WHITEOUT = b'.wh.'
_OPAQUE = b'.wh..wh..opq'
_AUFS = b'.wh..wh.plnk/'

#: How tarfile fails on headers that make no sense.
NONSENSE = (
    tarfile.TarError,
    ArithmeticError,
    LookupError,
    RecursionError,
    ValueError,
)


def fill(
    stream: streams.Stream,
    tree: file_tree.FileTree,
    task: progress.Task,
    *,
    strip: int = 0,
    layer: bool = False,
    overlay: bool = False,
    punch: bool = False,
) -> None:
    """Take everything that is in an archive.

    :param strip: how many directories names lose at their beginning.
    :param layer: whether it is a layer over what is in the tree already, of a
        container image.
    :param overlay: the same, of overlayfs.
    :param punch: whether many zeros on end are holes of a file, for it had no
        other way to say so.
    :raises SourceError: if it is damaged, cut short, no archive of files, or
        has something in it that a filesystem cannot have.
    """
    placing = _Placing(tree, strip)
    if layer:
        placing = _LayerPlacing(tree)
    elif overlay:
        placing = _OverlayPlacing(tree)
    _TarReader(stream, tree, task, placing, punch).run()


def reader(stream: streams.Stream | BinaryIO) -> tarfile.TarFile:
    """Open an archive that is read from its beginning to its end.

    :param stream: the archive; or a file, in which is passed over what nobody
        reads.
    :raises tarfile.TarError: or another of ``NONSENSE``, now and later, if
        it makes no sense.
    """
    archive: tarfile.TarFile = tarfile.open(  # noqa: SIM115
        fileobj=stream,  # type: ignore[call-overload]
        mode='r|' if isinstance(stream, streams.Stream) else 'r:',
        # For each header, it copies what is left of as many bytes.
        bufsize=_AHEAD,
        # Its own, which knows whether it has seen the end.
        tarinfo=type('Member', (_Member,), {}),
        encoding='utf-8',
        errors='surrogateescape',
    )
    return archive


def refuse_more(archive: tarfile.TarFile, name: str) -> None:
    """Read what follows the end of an archive.

    :param name: of it, for errors.
    :raises SourceError: if that is another archive.
    """
    file = cast(IO[bytes], archive.fileobj)
    blank = True
    for _ in range(_REST // _CHUNK):
        data = file.read(_CHUNK)
        if not data:
            break
        if not any(data):
            continue
        blank = False
        for at in range(0, len(data), probe.TAR_BLOCK):
            if probe.is_tar(data[at : at + probe.TAR_BLOCK]):
                raise SourceError(
                    'another archive follows the end of the first',
                    subject=name,
                    hint='unpack both into a directory, with tar '
                    '--ignore-zeros, and give that',
                )
    else:
        blank = blank and not file.read(1)
    if not blank:
        _LOG.warning(
            '%s: what follows the end of the archive is left out', name
        )


class _DamagedError(tarfile.TarError):
    """An archive that is not one from here on."""


class _Member(tarfile.TarInfo):
    """A header that says what tarfile keeps to itself.

    tarfile takes an archive for finished wherever a header is invalid;
    where it was cut between two files, that would be half a system.
    """

    ended = False

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        found = super().fromtarfile(tarfile)
        # Else the one of the two that comes last: GNU tar --sparse-version=0.1
        # has a name for who knows no sparse files in "path".
        found.name = found.pax_headers.get('GNU.sparse.name', found.name)
        return found

    @classmethod
    def frombuf(
        cls, buf: bytes | bytearray, encoding: str, errors: str
    ) -> Self:
        if len(buf) < probe.TAR_BLOCK:
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
        if not _has_prefix(buf):
            name = buf[:100].partition(b'\0')[0].decode(encoding, errors)
            found.name = name.rstrip('/') if found.isdir() else name
        return found


def _has_prefix(header: bytes | bytearray) -> bool:
    """Tell whether a header has the first part of a long name.

    tarfile believes so of all. POSIX has it; GNU has other times there.
    """
    if header[_MAGIC][:5] != b'ustar':
        if header[_STAR] == b'tar\0':
            raise _DamagedError(
                'its headers are those of an old version of star'
            )
        return False
    # Go's wrote names into headers of GNU's format, too, until Go 1.8.
    return header[_MAGIC][5:] != b' ' or not all(
        _is_number(header[field]) for field in _TIMES
    )


def _is_number(field: bytes | bytearray) -> bool:
    digits = field.strip(b' \0')
    return field[0] >= 0x80 or not digits.strip(b'01234567')


class _Placing:
    """Where members of an archive go.

    :param strip: how many directories names lose at their beginning.
    """

    def __init__(self, tree: file_tree.FileTree, strip: int = 0) -> None:
        self._tree = tree
        self._strip = strip
        self._told = False

    def place(self, member: tarfile.TarInfo) -> bytes | None:
        """Tell which path a member gets; None if it is left out."""
        path = self.target(_bytes(member.name))
        if path is None or not _is_whiteout(path, member):
            return path
        if not self._told:
            self._told = True
            _LOG.warning(
                '%s: %s and others like it say what a layer of a container '
                'image takes away; they are left out, and nothing is taken '
                'away',
                self._tree.name,
                errors.shown(path, 200),
            )
        return None

    def target(self, path: bytes) -> bytes | None:
        """Tell the path of a name in the archive; None if none is left."""
        if not self._strip:
            return path
        names = [name for name in path.split(b'/') if name not in (b'', b'.')]
        left = names[self._strip :]
        return b'/'.join(left) if left else None


class _LayerPlacing(_Placing):
    """A layer of a container image.

    Source: the OCI image specification, layer.md: what is deleted has a
    whiteout file, ``.wh.`` and its name, beside it; what hides all that was
    in a directory is called ``.wh..wh..opq``. Neither concerns what is in
    the layer itself. Other names that begin with ``.wh..wh.`` are AUFS' own.
    """

    def __init__(self, tree: file_tree.FileTree) -> None:
        super().__init__(tree)
        self._placed: set[bytes] = set()

    def place(self, member: tarfile.TarInfo) -> bytes | None:
        given = _bytes(member.name)
        path = self.target(given)
        parent, _, name = path.rpartition(b'/')
        if name.startswith(_WHITEOUT):
            hidden = name.removeprefix(_WHITEOUT)
            if name == _OPAQUE:
                self._tree.remove(parent, kept=self._placed, inside=True)
            elif hidden in (b'', b'.', b'..'):
                raise self._tree.refused(given, 'a whiteout of nothing')
            elif not hidden.startswith(_WHITEOUT):
                below = parent + b'/' if parent else b''
                self._tree.remove(below + hidden, kept=self._placed)
            return None
        if b'/' + _AUFS in b'/' + path:
            return None
        if not member.isdir():
            # Else, it is merged with what is there.
            self._tree.remove(path, kept=self._placed)
        self._placed.add(path)
        return path

    def target(self, path: bytes) -> bytes:
        """Follow the links that lower layers have on the way."""
        try:
            return self._tree.nodes.resolved(path)
        except nodes.PathError as error:
            raise self._tree.refused(path, str(error)) from error


class _OverlayPlacing(_Placing):
    """A layer of overlayfs.

    Source: Documentation/filesystems/overlayfs.rst of Linux: a whiteout is a
    character device 0/0, and what hides all that was in a directory is an
    attribute of it.
    """

    def __init__(self, tree: file_tree.FileTree) -> None:
        super().__init__(tree)
        self._placed: set[bytes] = set()

    def place(self, member: tarfile.TarInfo) -> bytes | None:
        path = b'/'.join(nodes.parts(_bytes(member.name)))
        headers = member.pax_headers
        overlaid = {
            key.removeprefix(_OVERLAY): value
            for key, value in headers.items()
            if key.startswith(_OVERLAY)
        }
        member.pax_headers = {
            key: value
            for key, value in headers.items()
            if not key.startswith(_OVERLAY)
        }
        if overlaid.keys() & {'redirect', 'metacopy'}:
            raise self._tree.refused(
                path, 'a layer of overlayfs has only a part of it'
            )
        if member.ischr() and (member.devmajor, member.devminor) == (0, 0):
            self._tree.remove(path, kept=self._placed)
            return None
        if not member.isdir():
            # Else, it is merged with what is there.
            self._tree.remove(path, kept=self._placed)
        elif overlaid.get('opaque') == 'y':
            self._tree.remove(path, kept=self._placed, inside=True)
        self._placed.add(path)
        return path


def _is_whiteout(path: bytes, member: tarfile.TarInfo) -> bool:
    name = path.rpartition(b'/')[2]
    return member.isreg() and not member.size and name.startswith(_WHITEOUT)


class _TarReader:
    def __init__(
        self,
        stream: streams.Stream,
        tree: file_tree.FileTree,
        task: progress.Task,
        placing: _Placing,
        punch: bool,
    ) -> None:
        self._stream = stream
        self._tree = tree
        self._task = task
        self._placing = placing
        self._punch = punch
        self._position = 0

    def run(self) -> None:
        with contextlib.ExitStack() as stack:
            with self._told():
                archive = stack.enter_context(reader(self._stream))
            for member in self._members(archive):
                self._take(archive, member)
                position = self._stream.position()
                self._task.advance(position - self._position)
                self._position = position
            with self._told():
                refuse_more(archive, self._tree.name)

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
            raise self._damaged('invalid data in the middle')

    def _take(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        if member.type == _LABEL:
            return
        path = self._placing.place(member)
        if path is None:
            return
        if member.islnk():
            target = self._placing.target(_bytes(member.linkname))
            self._tree.link(path, target or b'')
            return
        if member.type not in _MODES:
            raise self._unknown(path, member.type)
        self._refuse_partial(archive, path, member)
        node = self._node(path, member)
        for key, name in _LISTS.items():
            text = member.pax_headers.get(key)
            # GNU tar writes names there, --numeric-owner or not, and numbers
            # here.
            if text and name not in node.xattrs:
                self._tree.add_list(path, node, name, text)
        if not node.is_file:
            self._tree.add(path, node)
            return
        if member.sparse is None:
            ranges = [(0, member.size)]
        else:
            ranges = cast(list[tuple[int, int]], member.sparse)
        self._tree.add_file(
            path,
            node,
            member.size,
            ranges,
            self._reader(archive, member),
            punch=self._punch,
        )

    def _unknown(self, path: bytes, kind: bytes) -> SourceError:
        what = _REFUSED.get(kind)
        if what is None:
            known = kind.isalnum() and kind.isascii()
            shown = kind.decode() if known else f'0x{kind.hex()}'
            what = f'it is of the unknown type {shown}'
        return self._tree.refused(
            path, what, 'write it again, with tar --format=posix'
        )

    def _refuse_partial(
        self, archive: tarfile.TarFile, path: bytes, member: tarfile.TarInfo
    ) -> None:
        """Refuse what is there only in part.

        GNU tar, Dumpdir: of a directory, Y and the name of what is in the
        archive, D that of a directory; N that of what has not changed.
        """
        headers = member.pax_headers
        if 'GNU.volume.offset' in headers:
            raise self._unknown(path, b'M')
        if member.type == b'D' and member.size <= _HEADER:
            with self._told():
                file = cast(IO[bytes], archive.fileobj)
                file.seek(member.offset_data)
                dumped = file.read(member.size)
        else:
            dumped = _bytes(headers.get(_DUMPED, ''))
        for record in dumped.split(b'\0'):
            if record[:1] in (b'N', b'R', b'T', b'X'):
                raise self._tree.refused(
                    path,
                    'the archive has only what changed since another one: '
                    f'{errors.shown(record[1:], 200)} is missing',
                    'make a full archive: tar --listed-incremental with '
                    '--level=0',
                )

    def _node(self, path: bytes, member: tarfile.TarInfo) -> nodes.Node:
        headers = member.pax_headers
        try:
            for key in ('uid', 'gid', 'size'):
                # tarfile takes what is no number for 0, which is root.
                text = headers.get(key) or '0'
                if not text.removeprefix('-').isdigit():
                    raise ValueError(f'the {key} {text[:40]!r}')
            mtime = _time(headers.get('mtime'))
            if mtime is None:
                mtime = int(member.mtime) * _NANO
            # Linux has no other mode of a symbolic link, whatever an archive
            # that Python or Go wrote has.
            mode = 0o777 if member.issym() else member.mode & 0o7777
            node = nodes.Node(
                _MODES[member.type] | mode,
                uid=member.uid,
                gid=member.gid,
                mtime=mtime,
                atime=_time(headers.get('atime')),
                ctime=_time(headers.get('ctime')),
                xattrs=self._tree.keep_known(
                    path, attributes.from_pax(headers)
                ),
                target=_bytes(member.linkname) if member.issym() else b'',
                device=(member.devmajor, member.devminor)
                if member.isdev() and not member.isfifo()
                else (0, 0),
            )
        except ValueError as error:
            raise self._tree.refused(
                path, f'its header is invalid: {error}'
            ) from error
        node.flags = self._tree.flags(path, node, headers.get(_FLAGS, ''))
        return node

    def _reader(
        self, archive: tarfile.TarFile, member: tarfile.TarInfo
    ) -> writer.Read:
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
        except tarfile.TarError as error:
            raise self._damaged(str(error)) from error
        except RecursionError as error:
            raise self._damaged('too many headers of one file') from error
        except NONSENSE as error:
            raise self._damaged('a header is invalid') from error

    def _damaged(self, why: str) -> SourceError:
        return SourceError(
            f'the archive is damaged or cut short: {why}',
            subject=self._tree.name,
            hint='download or copy it again',
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
