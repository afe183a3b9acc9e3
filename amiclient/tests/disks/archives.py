# SPDX-License-Identifier: Apache-2.0

"""Trees, and archives of them, that a filesystem can be made of."""

import dataclasses
import hashlib
import io
import os
import pathlib
import stat
import struct
import tarfile

#: A capability as the kernel has it: cap_net_raw, effective and permitted.
CAPABILITY = struct.pack('<5I', 0x02000001, 1 << 13, 0, 0, 0)

LONG = 'l' * 200 + '/' + 'm' * 200
STRANGE = b'new\nline "quoted" \xff\xfe \\ \x1b['.decode(
    'utf-8', 'surrogateescape'
)

_NANO = 10**9


@dataclasses.dataclass(frozen=True)
class Expected:
    """What a file is to be; a subset of exttree.Entry."""

    type: str
    mode: int
    uid: int
    gid: int
    mtime: int
    sha256: str | None
    target: bytes | None
    device: tuple[int, int] | None


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields):
    """Make a header."""
    made = tarfile.TarInfo(name)
    made.type = kind
    made.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    made.mtime = 1700000000
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def archive(
    path: pathlib.Path,
    members,
    *,
    format: int = tarfile.PAX_FORMAT,
    mode: str = 'w',
) -> pathlib.Path:
    """Write an archive.

    :param members: headers, or pairs of a header and the content.
    """
    with tarfile.open(
        path, mode, format=format, encoding='utf-8', errors='surrogateescape'
    ) as tar:
        for each in members:
            header, data = each if isinstance(each, tuple) else (each, b'')
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


def plain_members(*, attributes: bool = True):
    """List a bit of everything.

    :param attributes: whether to have what only PAX has.
    """
    pax = {'SCHILY.xattr.user.note': 'hello', 'mtime': '1600000000.123456789'}
    capability = CAPABILITY.decode('utf-8', 'surrogateescape')
    members = [
        member('./', tarfile.DIRTYPE, mode=0o711, uid=1, gid=2),
        member('./etc/', tarfile.DIRTYPE),
        (member('./etc/passwd'), b'root:x:0:0::/:/bin/sh\nlisa:x:1042:1:::\n'),
        (member('./etc/group'), b'root:x:0:\nadm:x:1043:\n'),
        member('./tmp', tarfile.DIRTYPE, mode=0o1777),
        (member('./su', mode=0o4755), bytes(range(256)) * 100),
        member('./su2', tarfile.LNKTYPE, linkname='./su'),
        member('./link', tarfile.SYMTYPE, linkname='../../etc', mode=0o777),
        member('./long', tarfile.SYMTYPE, linkname='x/' * 49, mode=0o777),
        member('./null', tarfile.CHRTYPE, devmajor=1, devminor=3),
        member('./disk', tarfile.BLKTYPE, devmajor=259, devminor=70000),
        member('./fifo', tarfile.FIFOTYPE, uid=70000),
        (member('./empty', uid=2000000, gid=2000001), b''),
    ]
    if attributes:
        members += [
            member('./' + LONG, tarfile.DIRTYPE),
            (member('./' + STRANGE, pax_headers=pax), b'x'),
            (
                member(
                    './ping',
                    pax_headers={
                        'SCHILY.xattr.security.capability': capability
                    },
                ),
                b'elf',
            ),
            member('./very', tarfile.SYMTYPE, linkname='y' * 3000, mode=0o777),
        ]
    return members


def expected(path: pathlib.Path) -> dict[bytes, Expected]:
    """Tell what is in an archive, by reading it otherwise than the product."""
    found = {}
    with tarfile.open(path, errors='surrogateescape') as tar:
        for header in tar:
            data = None
            if header.isreg():
                data = hashlib.sha256(tar.extractfile(header).read())
            name = b'/' + os.fsencode(os.path.normpath(header.name))
            name = b'/' if name == b'/.' else name
            if header.islnk():
                other = os.fsencode(os.path.normpath(header.linkname))
                found[name] = found[b'/' + other]
                continue
            mtime = header.pax_headers.get('mtime', f'{header.mtime}.0')
            seconds, _, rest = mtime.partition('.')
            device = None
            if header.ischr() or header.isblk():
                device = header.devmajor, header.devminor
            found[name] = Expected(
                type=_kind(header),
                mode=stat.S_IMODE(header.mode),
                uid=header.uid,
                gid=header.gid,
                mtime=int(seconds) * _NANO + int(rest.ljust(9, '0')[:9]),
                sha256=data and data.hexdigest(),
                target=os.fsencode(header.linkname)
                if header.issym()
                else None,
                device=device,
            )
    return found


def _kind(header: tarfile.TarInfo) -> str:
    for test, name in (
        ('isreg', 'file'),
        ('isdir', 'directory'),
        ('issym', 'symlink'),
        ('ischr', 'character device'),
        ('isblk', 'block device'),
        ('isfifo', 'fifo'),
    ):
        if getattr(header, test)():
            return name
    raise ValueError(header.type)
