# SPDX-License-Identifier: Apache-2.0

"""The kernels in a root filesystem, each with its initramfs.

Where distributions put them: Debian, Ubuntu, Fedora, RHEL, SUSE, Arch,
Alpine, Gentoo; entries after the Boot Loader Specification (UAPI group); and
unified kernel images. The image is read where it is, without mounting it, and
symbolic links do not lead out of it.
"""

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import functools
import pathlib
import posixpath
import re
import struct

from amiclient import errors
from amiclient.ext.inodes import Inode
from amiclient.ext import reader as ext_reader
from amiclient.ext.reader import Reader
from amiclient.source import probe
from amiclient.source import uki

#: What the names of kernels begin with, in /boot; the first one counts where
#: there are several of one version (SUSE has the debugger's vmlinux, too).
_KERNELS = ('vmlinuz', 'bzImage', 'Image.gz', 'Image', 'kernel', 'vmlinux')
_KERNEL = re.compile(rf'({"|".join(map(re.escape, _KERNELS))})-(.+)')

#: What the names of ramdisks are, by what follows "vmlinuz-".
_RAMDISKS = (
    'initrd.img-{}',
    'initramfs-{}.img',
    'initrd-{}',
    'initrd-{}.img',
    'initramfs-{}',
)

_LINKS = (
    ('vmlinuz', 'initrd.img'),
    ('vmlinuz', 'initrd'),
    ('vmlinuz', 'initramfs'),
    ('Image', 'initrd'),
    ('kernel', 'initramfs'),
)

#: Where the root of the partition that is booted from may be.
_BOOTS = ('/boot', '', '/efi', '/boot/efi')

#: The same, in a filesystem that belongs on /boot.
_BOOTS_THERE = ('', '/efi')

_MODULES = '/usr/lib/modules', '/lib/modules'

#: What is left out: kernels for emergencies, copies, and what lies beside.
_NOT = re.compile(
    r'rescue|recovery|memtest|kdump|^vmlinux.*\.gz$|'
    r'\.(old|bak|hmac|sig|efi|orig|dpkg-.*)$',
    re.IGNORECASE,
)

#: Kernels for those who look for errors in them, by Fedora's and SUSE's names:
#: no boot loader takes one unless it is told (DEFAULTDEBUG in
#: /etc/sysconfig/kernel).
_DEBUG = re.compile(r'[+.-]debug$')

#: Where the system is that the ramdisk goes on to, in the root filesystem:
#: ostree and bootc (ostree-prepare-root), NixOS, and Flatcar.
OSTREE = ('ostree=', 'composefs=')
_NEEDED = (*OSTREE, 'init=', 'mount.usr=', 'usr=')

#: genkernel's names have the architecture in front of the version.
_ARCHITECTURE = re.compile(r'(genkernel-)?[a-z][a-z0-9_]*-(?=\d+\.\d)')

#: What is smaller is no kernel.
_SMALLEST = 0x268

_MOST = 200


@dataclasses.dataclass(frozen=True)
class BootFiles:
    """A kernel in a root filesystem, and the ramdisk that belongs to it.

    :param version: as ``uname -r`` would say, or the name that stands for it
        where that cannot be told.
    :param kernel: the path in the image, links resolved.
    :param ramdisks: the same of the files that the ramdisk is made of, in
        their order; nothing if there is none.
    :param source: how it was found: ``entry``, ``boot``, ``modules``,
        ``link``, ``menu`` or ``unified``; or what came along and has it,
        under its name: ``manifest``, ``tarball``, or ``image`` for one in the
        cloud.
    :param image: the filesystem that it is in; if it came along, itself.
    :param options: what its entry tells the kernel.
    :param missing: parts of the ramdisk that its entry names, and that are
        not there.
    """

    version: str
    kernel: str
    ramdisks: tuple[str, ...]
    source: str
    image: pathlib.Path
    options: str = ''
    missing: tuple[str, ...] = ()

    @property
    def unified(self) -> bool:
        return self.source == 'unified'

    @property
    def ramdisk(self) -> str | None:
        """Its ramdisk, for people."""
        return ' + '.join(self.ramdisks) or None


def needed(options: str) -> tuple[str, ...]:
    """Tell what of a kernel's command line it does not boot without.

    :param options: what a boot loader tells it.
    """
    return tuple(w for w in options.split() if w.startswith(_NEEDED))


def find(
    image: pathlib.Path, boot: pathlib.Path | None = None
) -> tuple[BootFiles, ...]:
    """Find the kernels in a root filesystem, the newest first.

    :param image: the image file or block device; it is only read.
    :param boot: another one, with a filesystem that belongs on /boot.
    :raises DamagedError: if a filesystem makes no sense.
    """
    with ext_reader.opened(image) as reader:
        return find_in(reader, image, boot)


def find_in(
    reader: Reader, image: pathlib.Path, boot: pathlib.Path | None
) -> tuple[BootFiles, ...]:
    """Find them in a root filesystem that is open already."""
    finder = _Finder(reader, image, '/boot', _BOOTS)
    found = list(finder.all())
    if boot is not None:
        with ext_reader.opened(boot) as other:
            found += _Finder(other, boot, '', _BOOTS_THERE, finder).all()
    return _newest_first(found)


def _newest_first(found: Iterable[BootFiles]) -> tuple[BootFiles, ...]:
    """Sort, and leave out what was found before in another way."""
    best: dict[str, BootFiles] = {}
    seen: set[tuple[pathlib.Path, str]] = set()
    for each in found:
        place = (each.image, each.kernel)
        before = best.get(each.version)
        if place in seen and before is None:
            # By another version than the one it says itself.
            continue
        seen.add(place)
        if before is None or (each.ramdisks and not before.ramdisks):
            best[each.version] = each
        if len(best) >= _MOST:
            break
    return tuple(
        sorted(
            best.values(),
            key=lambda b: (
                not _DEBUG.search(b.version),
                version_key(b.version),
            ),
            reverse=True,
        )
    )


def choose(
    found: Iterable[BootFiles],
    version: str | None,
    *,
    name: str,
    hint: str = 'name one with --kernel',
) -> BootFiles:
    """Choose the kernel to boot: the newest one, unless the user says which.

    :param found: newest first, as :func:`find` gives them.
    :param version: as ``uname -r`` would say; None for the newest.
    :param name: what to call the source in errors.
    :param hint: what to do if there is none.
    :raises SourceError: if there is none.
    """
    kernels = tuple(found)
    if not kernels:
        raise errors.SourceError(
            'no kernel was found in it',
            subject=name,
            hint=hint,
        )
    if version is None:
        return kernels[0]
    for each in kernels:
        if each.version == version:
            return each
    raise errors.SourceError(
        f'there is no kernel {version} in it',
        subject=name,
        hint=f'choose from {errors.some([each.version for each in kernels])}',
    )


class _Finder:
    def __init__(
        self,
        reader: Reader,
        image: pathlib.Path,
        home: str,
        boots: tuple[str, ...],
        root: '_Finder | None' = None,
    ) -> None:
        self._reader = reader
        self._image = image
        self._home = home
        self._boots = boots
        #: The directories of modules, by the version, and what goes by it.
        self._modules: dict[str, str] = {}
        self._bases: dict[str, str] = {}
        if root is not None:
            self._bases = root._bases
            return
        for directory in _MODULES[::-1]:
            for name in reader.names(directory):
                if name[:1].isdigit():
                    self._modules[name] = f'{directory}/{name}'
        for version, directory in self._modules.items():
            # Arch's package says by what name its files go in /boot.
            base = reader.head(f'{directory}/pkgbase', 256) or b''
            self._bases[version] = base.decode('utf-8', 'replace').strip()

    def all(self) -> Iterator[BootFiles]:
        """Find kernels, the surest way first; some more than once."""
        yield from self._entries()
        yield from self._boot()
        yield from self._with_modules()
        yield from self._links()
        yield from self._menus()
        yield from self._unified()

    def _made(
        self, version: str, node: Inode, ramdisk: str | None, how: str
    ) -> BootFiles:
        ramdisks = () if ramdisk is None else (ramdisk,)
        return BootFiles(version, node.path, ramdisks, how, self._image)

    def _kernel(self, path: str) -> Inode | None:
        found = self._reader.find(path)
        if found is None or not found.is_file or found.size < _SMALLEST:
            return None
        return None if found.is_encrypted else found

    def _ramdisk(self, paths: Iterable[str]) -> str | None:
        for path in paths:
            found = self._reader.find(path)
            if found is not None and found.is_file and found.size:
                return found.path
        return None

    def _beside(self, suffixes: Iterable[str]) -> str | None:
        return self._ramdisk(
            f'{self._home}/{name.format(suffix)}'
            for suffix in suffixes
            if suffix
            for name in _RAMDISKS
        )

    @functools.cached_property
    def _read(self) -> list[dict[str, list[str]]]:
        found = []
        for boot in self._boots:
            directory = f'{boot}/loader/entries'
            for name in self._reader.names(directory):
                if name.lower().endswith('.conf') and not _NOT.search(name):
                    path = f'{directory}/{name}'
                    data = self._reader.head(path, uki.ENTRY_SIZE)
                    found.append(uki.parse_entry(data or b''))
        return found

    def _entries(self) -> Iterator[BootFiles]:
        return filter(None, map(self._entry, self._read))

    def _menus(self) -> Iterator[BootFiles]:
        """Find those with other names, which only a menu tells."""
        for boot in self._boots:
            for name in uki.MENUS:
                path = f'{boot}/{name}'
                data = self._reader.head(path, uki.ENTRY_SIZE) or b''
                for fields in uki.parse_menu(data, path)[:_MOST]:
                    found = self._entry(fields)
                    # Menus start other programs, too.
                    if found is not None and self._is_kernel(found.kernel):
                        yield dataclasses.replace(found, source='menu')

    def _is_kernel(self, path: str) -> bool:
        head = self._reader.head(path, probe.HEAD) or b''
        return probe.classify(head).phrase.startswith('a Linux kernel')

    def _entry(self, fields: dict[str, list[str]]) -> BootFiles | None:
        kernels = fields.get('linux', [])
        if len(kernels) != 1 or _NOT.search(kernels[0]):
            return None
        node = self._on_boot(kernels[0])
        if node is None:
            return None
        version = ''.join(fields.get('version', [])[:1])
        # That of ostree is the number of a deployment.
        if not version[:1].isdigit() or '.' not in version:
            version = self._version(node, kernels[0])
        # A boot loader loads them one after the other: microcode, the main
        # one, and what mkosi and others keep beside that.
        named = [e for e in fields.get('initrd', []) if not e.startswith('$')]
        there = {each: self._on_boot(each) for each in named}
        ramdisks = dict.fromkeys(node.path for node in there.values() if node)
        return BootFiles(
            version,
            node.path,
            tuple(ramdisks),
            'entry',
            self._image,
            ' '.join(fields.get('options', [])),
            tuple(name for name, node in there.items() if node is None),
        )

    def _on_boot(self, path: str) -> Inode | None:
        """Find what an entry names, by the path on the boot partition."""
        for boot in self._boots:
            found = self._reader.find(f'{boot}/{path}')
            if found is not None and found.is_file and found.size:
                return found
        return None

    def _boot(self) -> Iterator[BootFiles]:
        names = self._reader.names(self._home or '/')
        for prefix in _KERNELS:
            for name in names:
                match = _KERNEL.fullmatch(name)
                if not match or match[1] != prefix or _NOT.search(name):
                    continue
                node = self._kernel(f'{self._home}/{name}')
                if node is None or _NOT.search(node.path):
                    continue
                version = self._version(node, name)
                ramdisk = self._beside((match[2], version))
                yield self._made(version, node, ramdisk, 'boot')

    def _with_modules(self) -> Iterator[BootFiles]:
        for version, directory in self._modules.items():
            for name in ('vmlinuz', 'Image', 'Image.gz'):
                node = self._kernel(f'{directory}/{name}')
                if node is None:
                    continue
                ramdisk = self._ramdisk(
                    f'{directory}/{each}'
                    for each in ('initramfs.img', 'initrd')
                ) or self._beside((version, self._bases[version]))
                yield self._made(version, node, ramdisk, 'modules')

    def _links(self) -> Iterator[BootFiles]:
        for kernel, ramdisk in _LINKS:
            for directory in dict.fromkeys((self._home, '')):
                node = self._kernel(f'{directory}/{kernel}')
                if node is None or _NOT.search(node.path):
                    continue
                version = self._version(node, node.path)
                found = self._beside((version,)) or self._ramdisk(
                    (f'{directory}/{ramdisk}',)
                )
                yield self._made(version, node, found, 'link')

    def _unified(self) -> Iterator[BootFiles]:
        for path in self._may_be_unified():
            node = None if 'rescue' in path else self._kernel(path)
            if node is None:
                continue
            found = uki.sections(self._reader.head(node.path, uki.HEAD) or b'')
            if found:
                name = posixpath.basename(path)
                yield self._of_sections(node, name, found)

    def _may_be_unified(self) -> Iterator[str]:
        directories = [f'{boot}/EFI/Linux' for boot in self._boots]
        for directory in (*directories, *self._modules.values()):
            for name in self._reader.names(directory):
                if name.lower().endswith('.efi'):
                    yield f'{directory}/{name}'
        for fields in self._read:
            for key in uki.ENTRY_KEYS:
                for path in fields.get(key, ()):
                    node = self._on_boot(path)
                    if node is not None:
                        yield node.path

    def _of_sections(
        self, node: Inode, name: str, found: Mapping[str, uki.Section]
    ) -> BootFiles:
        version = ''
        place = found.get('.uname')
        if place is not None:
            data = b''.join(
                self._reader.span(node, place.offset, min(place.size, 256))
            )
            version = data.rstrip(b'\0').decode('utf-8', 'replace').strip()
        if not version[:1].isdigit():
            version = self._version(node, name.rpartition('.')[0])
        ramdisk = node.path if '.initrd' in found else None
        return self._made(version, node, ramdisk, 'unified')

    def _version(self, node: Inode, name: str) -> str:
        base = posixpath.basename(name)
        match = _KERNEL.fullmatch(base)
        text = match[2] if match else base
        text = _ARCHITECTURE.sub('', text, count=1)
        if text[:1].isdigit() and '.' in text:
            return text
        release = _release(self._reader.head(node.path, 0x10000) or b'')
        if release:
            return release
        for known, own in self._bases.items():
            if own == text or known.endswith(f'-{text}'):
                return known
        if len(self._bases) == 1:
            return next(iter(self._bases))
        return text


def _release(head: bytes) -> str | None:
    if head[0x202:0x206] != b'HdrS':
        return None
    (pointer,) = struct.unpack_from('<H', head, 0x20E)
    match = re.match(
        rb'\d+\.\d+[0-9A-Za-z.+~_-]*', head[0x200 + pointer :][:256]
    )
    return match[0].decode() if match and pointer else None


_CANDIDATE = re.compile(r'[-._+]?rc(?=[0-9])')
_VERSION_PARTS = re.compile(r'([^0-9]*)([0-9]*)')


def compare_versions(one: str, other: str) -> int:
    """Compare two versions.

    :returns: below 0 if the first is the older one, 0 if both are the same.
    """
    left, right = (
        _VERSION_PARTS.findall(_CANDIDATE.sub('~rc', version))
        for version in (one, other)
    )
    for i in range(max(len(left), len(right))):
        words, digits = left[i] if i < len(left) else ('', '')
        other_words, other_digits = right[i] if i < len(right) else ('', '')
        difference = _compare_words(words, other_words) or _compare_numbers(
            digits.lstrip('0'), other_digits.lstrip('0')
        )
        if difference:
            return difference
    return 0


_version_key = functools.cmp_to_key(compare_versions)


def version_key(version: str) -> tuple[bool, object]:
    """Make what versions are sorted by; names without a number come first."""
    return version[:1].isdigit(), _version_key(version)


def _compare_words(one: str, other: str) -> int:
    for i in range(max(len(one), len(other))):
        left, right = _rank(one[i : i + 1]), _rank(other[i : i + 1])
        if left != right:
            return left - right
    return 0


def _compare_numbers(one: str, other: str) -> int:
    # Not by int(), which refuses more than 4300 digits.
    left, right = (len(one), one), (len(other), other)
    return (left > right) - (left < right)


def _rank(char: str) -> int:
    if char == '~':
        return -1
    if not char:
        return 0
    return ord(char) if char.isalpha() else ord(char) + 0x110000
