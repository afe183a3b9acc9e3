# SPDX-License-Identifier: Apache-2.0

"""What the rules of ``ami check`` look at: a root filesystem and its kernel.

Everything is read when it is first asked for, once, and never more of it than
files of that kind have.
"""

from collections.abc import Callable
from collections.abc import Iterator
import dataclasses
import functools
import pathlib
import re
from typing import Any, NamedTuple

from amiclient.ext.inodes import Inode
from amiclient.ext.reader import Reader
from amiclient import findings
from amiclient.rootfs import identify
from amiclient.rootfs import ramdisk_formats
from amiclient.source import fstab as mounts


class Problem(NamedTuple):
    """What a rule finds, as in :class:`amiclient.findings.Finding`."""

    severity: findings.Severity
    message: str
    remedy: str


Found = Iterator[Problem]

#: What looks at a case and tells what it finds.
Rule = Callable[['Case'], Found]

#: Bytes of a configuration file, and of a list of modules or packages.
_SMALL = 256 << 10
_LARGE = 32 << 20

#: Files of a directory that are looked at.
_FILES = 1000

#: What the kernel tries to start, in this order.
_INITS = ('/sbin/init', '/etc/init', '/bin/init')

#: Where the files of systemd are, the first one counts (systemd.unit(5)).
_UNITS = (
    '/etc/systemd/system',
    '/usr/local/lib/systemd/system',
    '/usr/lib/systemd/system',
    '/lib/systemd/system',
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A root filesystem, and what is to boot it.

    :param reader: its files.
    :param head: its first 1024 bytes, in front of the superblock.
    :param kernel: None if there is none; so ``ramdisk``, a file.
    :param now: seconds since 1970.
    :param command_line: what its image has as ``os_command_line``; None if
        Nova's own is all that is known.
    :param boot_options: what a boot loader in it tells its kernel.
    :param tight: whether it has no free space because it was made that way.
    """

    reader: Reader
    head: bytes
    kernel: identify.Kernel | None
    ramdisk: pathlib.Path | None
    now: float
    command_line: str | None = None
    boot_options: str = ''
    tight: bool = False

    def text(self, name: str) -> str | None:
        """Read a text file; None if there is none.

        Of what is longer than such files are, the beginning counts.
        """
        data = self.reader.head(name, _SMALL)
        return None if data is None else data.decode('utf-8', 'replace')

    def lines(self, name: str) -> list[str]:
        text = self.text(name) or ''
        lines = (line.strip() for line in text.splitlines())
        return [line for line in lines if line and not line.startswith('#')]

    def long(self, name: str) -> str | None:
        """Read a long list; None if there is none."""
        data = self.reader.head(name, _LARGE)
        return None if data is None else data.decode('utf-8', 'replace')

    def exists(self, *names: str) -> bool:
        return any(self.reader.find(name) is not None for name in names)

    def program(self, *names: str) -> str | None:
        """Tell the first of some paths that is an executable file."""
        for name in names:
            found = self.reader.find(name)
            if found is not None and found.is_file and found.mode & 0o111:
                return name
        return None

    def inside(self, directory: str) -> Iterator[Inode]:
        """Go through what is in a directory, links not followed."""
        for name in self.reader.names(directory)[:_FILES]:
            found = self.reader.find(f'{directory}/{name}', follow=False)
            if found is not None:
                yield found

    def filled(self, directory: str, *endings: str) -> list[str]:
        """Name the files in a directory that have content.

        :param endings: of their names; any if none is given.
        """
        return [
            found.path
            for found in self.inside(directory)
            if found.is_file
            and found.size
            and (not endings or found.path.endswith(endings))
        ]

    def masked(self, unit: str) -> bool:
        """Tell whether a unit of systemd is masked, that is, made nothing."""
        found = self.reader.find(f'{_UNITS[0]}/{unit}', follow=False)
        if found is None or not found.is_link:
            return False
        return self.reader.target(found) == '/dev/null'

    def unit(self, unit: str) -> bool:
        return self.exists(*(f'{directory}/{unit}' for directory in _UNITS))

    def yaml(self, name: str) -> dict[str, Any]:
        """Read a YAML file that holds a mapping; else nothing."""
        # Not at the top: it takes a while.
        import yaml

        loader = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)
        try:
            found = yaml.load(self.text(name) or '', loader)  # noqa: S506
        except (yaml.YAMLError, RecursionError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    @functools.cached_property
    def is_blank(self) -> bool:
        """Whether there are no files, as in CirrOS's root filesystem."""
        return set(self.reader.names('/')) <= {'lost+found'}

    @functools.cached_property
    def deployments(self) -> tuple[str, ...]:
        """The directories with the systems that ostree deployed."""
        return tuple(
            f'{place.path}/deploy/{name}'
            for place in self.inside('/ostree/deploy')
            for name in self.reader.names(f'{place.path}/deploy')
            if not name.endswith('.origin')
        )

    @property
    def told_init(self) -> str | None:
        words = (self.command_line or '').split()
        told = [word for word in words if word.startswith('init=')]
        return told[-1].removeprefix('init=') if told else None

    @functools.cached_property
    def init(self) -> str | None:
        """The program that the kernel starts, links not resolved.

        Its last resort, /bin/sh, is none (init/main.c, kernel_init()), and
        neither is /init: that is for ramdisks.
        """
        told = self.told_init
        return self.program(*((told,) if told else _INITS))

    @functools.cached_property
    def has_systemd(self) -> bool:
        found = self.init and self.reader.find(self.init)
        return bool(found and found.path.endswith('/systemd'))

    @functools.cached_property
    def fstab(self) -> tuple[mounts.FstabEntry, ...]:
        return mounts.parse(self.text('/etc/fstab') or '')

    @functools.cached_property
    def has_cloud_init(self) -> bool:
        """Whether cloud-init is there, and not switched off."""
        found = self.program(
            '/usr/bin/cloud-init', '/usr/local/bin/cloud-init'
        )
        return bool(found) and not self.exists(
            '/etc/cloud/cloud-init.disabled'
        )

    @functools.cached_property
    def modules(self) -> str | None:
        """The directory with the modules of the kernel, if it is there."""
        if self.kernel is None:
            return None
        release = self.kernel.release
        for directory in ('/lib/modules', '/usr/lib/modules'):
            names = self.reader.names(directory)
            if release is None and len(names) == 1:
                # Not every kernel says which one it is.
                release = names[0]
            if release in names:
                return f'{directory}/{release}'
        return None

    @functools.cached_property
    def built_in(self) -> frozenset[str] | None:
        """The modules that are part of the kernel; None if not known."""
        listed = self.modules and self.long(f'{self.modules}/modules.builtin')
        if not listed:
            # Debian's initramfs-tools copy that of their kernel.
            return self.listing.built_in or None
        return frozenset(
            ramdisk_formats.module_name(line) for line in listed.split()
        )

    @functools.cached_property
    def installed(self) -> frozenset[str]:
        """The modules that can be loaded from the root filesystem."""
        listed = self.modules and self.long(f'{self.modules}/modules.dep')
        return frozenset(
            ramdisk_formats.module_name(line.partition(':')[0])
            for line in (listed or '').splitlines()
        )

    @functools.cached_property
    def listing(self) -> ramdisk_formats.Listing:
        """The files of the ramdisk, and whether these are all."""
        if self.ramdisk is None:
            return ramdisk_formats.Listing(frozenset())
        return ramdisk_formats.files_in(self.ramdisk)

    @property
    def early(self) -> frozenset[str]:
        return self.listing.names

    @property
    def is_hostonly(self) -> bool:
        """Whether dracut made the ramdisk for one machine alone."""
        return any('lib/dracut/hostonly-' in name for name in self.early)

    @functools.cached_property
    def grows_early(self) -> bool:
        """Whether the root filesystem grows before it is written to."""
        by_fstab = any(
            entry.path == '/' and 'x-systemd.growfs' in entry.options
            for entry in self.fstab
        )
        return (by_fstab and self.has_systemd) or any(
            'growroot' in name or name.endswith('systemd-growfs')
            for name in self.early
        )


#: Nova's own command line, as far as it is about consoles. None of its guests
#: has them all.
NOVA = 'console=tty0 console=ttyS0 console=hvc0'

#: Where it is not ttyS0: the names of the terminal, and of the console.
_NAMES = {
    'aarch64': ('ttyAMA0',),
    'armv7l': ('ttyAMA0',),
    'ppc64': ('hvc0',),
    'ppc64le': ('hvc0',),
    's390x': ('ttysclp0', 'ttyS0'),
}

#: Where the firmware tells the kernel of it, whatever the command line says
#: (ACPI's SPCR).
_BY_FIRMWARE = frozenset({'aarch64'})

#: Where systemd-getty-generator starts a getty there in any case.
_IN_ANY_CASE = frozenset({'ppc64', 'ppc64le', 's390x'})

#: A screen, which servers have, and which comes before serial consoles.
_SCREEN = re.compile(r'tty\d*')


@dataclasses.dataclass(frozen=True)
class SerialConsole:
    """The serial console of a server.

    :param names: what it is called; any of these if the machine is not known.
    :param heard: whether the messages of the kernel get there.
    :param main: whether it is what /dev/console leads to.
    :param generated: whether systemd's generator starts a getty there.
    """

    names: tuple[str, ...]
    heard: bool
    main: bool
    generated: bool

    @property
    def name(self) -> str:
        return self.names[0]


def serial_console(machine: str | None, line: str | None) -> SerialConsole:
    """Tell what is known of the console of a server.

    :param machine: as Nova calls it; None if it is not known.
    :param line: the kernel's command line; None for Nova's own.
    """
    names = _NAMES.get(machine or '', ('ttyS0',))
    if machine is None:
        others = (name for each in _NAMES.values() for name in each)
        names = tuple(dict.fromkeys((*names, *others)))
    words = (NOVA if line is None else line).split()
    told = [
        word.removeprefix('console=').partition(',')[0]
        for word in words
        if word.startswith('console=')
    ]
    if not told:
        # Then it is the screen, unless the firmware names another.
        main = heard = names != ('ttyS0',)
    else:
        heard = machine in _BY_FIRMWARE or any(n in names for n in told)
        # The last one, if there is that one; if not, which comes first.
        main = told[-1] in names or (
            heard
            and not _SCREEN.fullmatch(told[-1])
            and not any(_SCREEN.fullmatch(each) for each in told)
        )
    return SerialConsole(names, heard, main, heard or machine in _IN_ANY_CASE)
