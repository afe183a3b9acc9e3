# SPDX-License-Identifier: Apache-2.0

"""Which packages are in a root filesystem, as its package manager says.

The databases of dpkg, rpm, apk and pacman are read here as files. No package
manager is started: what is in an image may be made to do harm.
"""

from collections.abc import Iterable, Iterator
import contextlib
import dataclasses
import fnmatch
import itertools
import re
import struct
from typing import Any, get_args, Literal

from amiclient import errors
from amiclient.ext.reader import Reader
from amiclient.files import Files
from amiclient.rootfs import rpm
from amiclient.rootfs import versions
from amiclient.source import fstab
from amiclient.source import ostree

#: Bytes of a database, also if it is text; and packages in it.
_LARGEST = 128 << 20
_TEXT = 32 << 20
_MOST = 100_000

_STATUS = '/var/lib/dpkg/status'
#: What dpkg was interrupted at; and packages of images without dpkg.
_UPDATES = '/var/lib/dpkg/updates'
_DISTROLESS = '/var/lib/dpkg/status.d'

_OF_DPKG = re.compile(
    '^(Package|Status|Version|Architecture|Source):(.*)',
    re.IGNORECASE | re.MULTILINE,
)
_OF_APK = re.compile('^([PVAo]):(.*)', re.MULTILINE)

#: The last word of a status of which no files are left (dpkg(1)).
_GONE = ('config-files', 'not-installed')

#: rpm's own place, the one before, and that of a system of ostree.
_RPM = ('/usr/lib/sysimage/rpm', '/var/lib/rpm', '/usr/share/rpm')
_APK = ('/lib/apk/db/installed', '/usr/lib/apk/db/installed')
_PACMAN = '/var/lib/pacman/local'

#: Where the databases of most systems are.
_ABOVE = ('/var/', '/usr/')

_SOURCE_RPM = re.compile(r'(.+)-([^-]+-[^-]+)\.(?:no)?src\.rpm')

_ASKED = re.compile(r'(src:)?([^\s<>=,!:]+)\s*([<>=].*)?')
_BOUND = re.compile(r'\s*(<=|>=|=|<|>)\s*([^\s<>=,]+)\s*')


#: The worst first.
State = Literal['affected', 'unknown', 'not affected']
STATES: tuple[State, ...] = get_args(State)

#: Why what is recorded may be wrong.
_NOT_REPLAYED = 'its journal was not replayed: what is recorded may be old'


@dataclasses.dataclass(frozen=True)
class Package:
    """An installed package.

    :param manager: that has it: apk, dpkg, pacman or rpm.
    :param source: what it was built from, and the version of that.
    """

    manager: str
    name: str
    version: str
    architecture: str | None = None
    source: str | None = None
    source_version: str | None = None


@dataclasses.dataclass(frozen=True)
class Asked:
    """Packages that somebody asks for.

    :param name: a pattern of fnmatch.
    :param of_source: whether that is the name of the source package.
    :param bounds: relations and versions that all have to hold.
    """

    name: str
    of_source: bool
    bounds: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> 'Asked':
        """Take a text such as ``xz-utils>=5.6.0,<5.6.2``.

        :raises UsageError: if it is not understood.
        """
        found = _ASKED.fullmatch(text.strip())
        bounds = found and [
            _BOUND.fullmatch(each) for each in (found[3] or '').split(',')
        ]
        if not found or not bounds or (found[3] and None in bounds):
            raise errors.UsageError(
                f'{text!r} is not a package',
                hint='give a name, or a name and versions, for example '
                'xz-utils, "xz-utils<5.6.2" or "src:xz-utils>=5.6.0,<5.6.2"; '
                'the relations are < <= = >= >',
            )
        return cls(
            found[2],
            found[1] is not None,
            tuple((each[1], each[2]) for each in bounds if each),
        )

    @property
    def title(self) -> str:
        """What it is about, without versions."""
        return f'src:{self.name}' if self.of_source else self.name

    def names(self, package: Package) -> bool:
        """Tell whether it is about a package, of whatever version."""
        name = package.source if self.of_source else package.name
        return fnmatch.fnmatchcase(name or '', self.name)

    def holds(self, package: Package) -> bool:
        """Tell whether a package that it names has such a version.

        :raises ValueError: if versions cannot be compared; why.
        """
        return all(
            versions.holds(
                package.manager,
                self._version(package),
                relation,
                # rpm does not record the epoch of a source package.
                other.rpartition(':')[2]
                if self.of_source and package.manager == 'rpm'
                else other,
            )
            for relation, other in self.bounds
        )

    def doubts(self, package: Package) -> Iterator[str]:
        """Tell what decides that a version was asked for without."""
        version = self._version(package)
        if versions.has_epoch(version) and any(
            ':' not in other for _, other in self.bounds
        ):
            yield 'its epoch decides: ask for one, too'
        upstream, dash, _ = version.rpartition('-')
        if dash and any(
            # To all others, it makes no difference.
            relation in ('<=', '=', '>')
            and '-' not in other
            and package.manager in ('apk', 'dpkg')
            and versions.holds(package.manager, upstream, '=', other)
            for relation, other in self.bounds
        ):
            yield 'its revision decides: ask for one, too'

    def _version(self, package: Package) -> str:
        return (
            package.source_version if self.of_source else None
        ) or package.version


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a root filesystem has of a package that somebody asks for.

    :param package: its name; what was asked for if it is not known.
    :param version: that is installed; None if none is, or it is not known.
    :param note: why it is not known, or why it may be wrong.
    """

    package: str
    version: str | None
    state: State
    note: str | None = None


@dataclasses.dataclass(frozen=True)
class Installed:
    """The packages in a root filesystem, sorted.

    :param note: why they may be others.
    """

    packages: tuple[Package, ...]
    note: str | None = None

    def judge(self, asked: Iterable[Asked]) -> Iterator[Verdict]:
        """Tell which packages are installed that somebody asks for."""
        for each in asked:
            named = [p for p in self.packages if each.names(p)]
            if not named:
                yield Verdict(each.title, None, 'not affected', self.note)
            for package in named:
                yield self._judge(package, each)

    def _judge(self, package: Package, asked: Asked) -> Verdict:
        state: State = 'unknown'
        notes = [self.note]
        try:
            state = 'affected' if asked.holds(package) else 'not affected'
            notes += asked.doubts(package)
        except ValueError as error:
            notes.append(str(error))
        note = '; '.join(filter(None, notes))
        return Verdict(package.name, package.version, state, note or None)


def read(files: Files[Any], name: str) -> Installed:
    """Read which packages are installed.

    :param name: what to call the filesystem in errors.
    :raises SourceError: if it has none, or a database makes no sense.
    """
    deployed = ostree.find(ostree.BlockFiles(files), name)
    top = '' if deployed is None else deployed.path
    found = set[Package]()
    for manager in (_dpkg, _rpm, _apk, _pacman):
        for package in manager(files, top):
            found.add(package)
            if len(found) > _MOST:
                raise errors.SourceError(
                    f'its database has more than {_MOST} packages',
                    subject=name,
                )
    if not found:
        what = 'no packages of dpkg, rpm, apk or pacman are recorded in it'
        entries = [
            *fstab.entries(files, top),
            *(unit.entry for unit in fstab.units(files, top)),
        ]
        away = [
            entry.path
            for entry in entries
            if entry.is_device
            and f'{entry.path.rstrip("/")}/'.startswith(_ABOVE)
        ]
        if away:
            what += (
                f': it mounts {" and ".join(dict.fromkeys(away))}, which is '
                'not looked into'
            )
        raise errors.SourceError(what, subject=name)
    old = isinstance(files, Reader) and files.superblock.needs_recovery
    return Installed(
        tuple(
            sorted(
                found, key=lambda p: (p.name, p.architecture or '', p.version)
            )
        ),
        _NOT_REPLAYED if old else None,
    )


@contextlib.contextmanager
def _sense(path: str) -> Iterator[None]:
    try:
        yield
    except (IndexError, ValueError, struct.error) as error:
        why = 'it ends too early'
        if isinstance(error, ValueError):
            why = str(error)
        raise errors.SourceError(
            f'the package database {path} makes no sense: {why}'
        ) from error


def _paragraphs(
    data: bytes, fields: re.Pattern[str]
) -> Iterator[dict[str, str]]:
    """Read some fields of each paragraph, by their names in small letters."""
    for paragraph in data.decode('utf-8', 'replace').split('\n\n'):
        if paragraph.strip('\n'):
            yield {
                found[1].lower(): found[2].strip()
                for found in fields.finditer(paragraph)
            }


def _dpkg(files: Files[Any], top: str) -> Iterator[Package]:
    """Source: dpkg-query(1), deb822(5)."""
    places = [_STATUS]
    places += [
        f'{_UPDATES}/{each}'
        for each in files.names(top + _UPDATES)
        if each.isdecimal()
    ]
    places += [
        f'{_DISTROLESS}/{each}'
        for each in files.names(top + _DISTROLESS)
        if not each.endswith('.md5sums')
    ]
    found = dict[tuple[str, str | None], dict[str, str]]()
    for path in places:
        data = files.read_file(top + path, _TEXT) or b''
        with _sense(path):
            for fields in _paragraphs(data, _OF_DPKG):
                if 'package' not in fields:
                    raise ValueError('a paragraph without a package')
                # What an update says goes before what was there.
                key = fields['package'], fields.get('architecture')
                found[key] = fields
                if len(found) > _MOST:
                    raise ValueError(f'it has more than {_MOST} packages')
    for (package, architecture), fields in found.items():
        if (fields.get('status') or '').endswith(_GONE):
            continue
        with _sense(_STATUS):
            if 'version' not in fields:
                raise ValueError(f'{package} has no version')
        source, _, version = fields.get('source', package).partition(' ')
        yield Package(
            'dpkg',
            package,
            fields['version'],
            architecture,
            source,
            version.strip(' ()') or fields['version'],
        )


def _rpm(files: Files[Any], top: str) -> Iterator[Package]:
    for name, headers in rpm.DATABASES.items():
        for directory in _RPM:
            path = f'{directory}/{name}'
            data = files.read_file(top + path, _LARGEST)
            if data is None:
                continue
            wal = files.read_file(f'{top}{path}-wal', _LARGEST)
            with _sense(path):
                found = [rpm.header(h) for h in _few(headers(data, wal), data)]
            if found:
                yield from map(_of_rpm, found)
                return


def _few(headers: Iterable[bytes], data: bytes) -> Iterator[bytes]:
    """Refuse headers that say the same bytes again and again."""
    total = 0
    for number, each in enumerate(headers):
        total += len(each)
        if total > 2 * len(data) or number >= _MOST:
            raise ValueError('it has more packages than it can have')
        yield each


def _of_rpm(header: rpm.RpmHeader) -> Package:
    source = _SOURCE_RPM.fullmatch(header.source or '')
    return Package(
        'rpm',
        header.name,
        header.evr,
        header.architecture,
        source and source[1],
        source and source[2],
    )


def _apk(files: Files[Any], top: str) -> Iterator[Package]:
    """Source: apk-package(5), "PKGINFO" and the index in apk-v2(5)."""
    for path in _APK:
        data = files.read_file(top + path, _TEXT) or b''
        with _sense(path):
            for fields in _paragraphs(data, _OF_APK):
                if not fields.get('p') or not fields.get('v'):
                    raise ValueError('a package without a name or a version')
                yield Package(
                    'apk',
                    fields['p'],
                    fields['v'],
                    fields.get('a'),
                    fields.get('o', fields['p']),
                    fields['v'],
                )


def _pacman(files: Files[Any], top: str) -> Iterator[Package]:
    for each in files.names(top + _PACMAN):
        path = f'{_PACMAN}/{each}/desc'
        data = files.read_file(top + path, _TEXT)
        if data is None:
            continue
        lines = data.decode('utf-8', 'replace').split('\n')
        fields = dict(itertools.pairwise(lines))
        with _sense(path):
            if not fields.get('%NAME%') or not fields.get('%VERSION%'):
                raise ValueError('a package without a name or a version')
        yield Package(
            'pacman',
            fields['%NAME%'],
            fields['%VERSION%'],
            fields.get('%ARCH%'),
            fields.get('%BASE%', fields['%NAME%']),
            fields['%VERSION%'],
        )
