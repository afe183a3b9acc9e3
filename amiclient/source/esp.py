# SPDX-License-Identifier: Apache-2.0

"""Kernels that a boot loader has on a FAT filesystem: UEFI's, or Linux's.

mtools look into a copy of it, without mounting it. What belongs to a kernel
is put into a small ext4 filesystem, which others read as they do any /boot.

Names in it are hostile. None of them is a name here: mtools write to names of
our own, and what is given to them as a path begins with two colons and has no
character that means something to them.
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import os
import pathlib
import re
import shutil
import time

from amiclient import confinement
from amiclient import errors
from amiclient.ext import reader
from amiclient import process
from amiclient.progress import Progress
from amiclient import scratch
from amiclient.source import block
from amiclient.source import build
from amiclient.source.disk import Disk
from amiclient.source.disk import KERNELS
from amiclient.source.disk import Partition
from amiclient.source.disk import RAMDISKS
from amiclient.source import uki
from amiclient import sparse
from amiclient import units

#: No such partition is larger, in bytes, and no kernel or ramdisk.
_LARGEST = 8 << 30
_LARGEST_FILE = 1 << 30

#: The files that are taken.
_MOST = 500

#: What mtools may take: seconds, all together, and one more for so many
#: bytes; bytes of memory; bytes that they may say.
_PATIENCE = 120.0
_PACE = 4 << 20
_MEMORY = 512 << 20
_WORDS = 16 << 20

_PROGRAMS = ('mdir', 'mcopy')

_ENV = {
    # Real partitions do not end where a track of a diskette would.
    'MTOOLS_SKIP_CHECK': '1',
    'MTOOLS_DATE_STRING': 'yyyy-mm-dd',
    'MTOOLS_DOTTED_DIR': '0',
}

#: What is to be found in a listing: a short name, a size, and a date.
_LISTED = re.compile(r'.{12} +(\d+) +\d{4}-\d\d-\d\d ')

#: What a name may be: all that FAT allows, but for patterns of mtools, for
#: what is not ASCII, and for dots alone.
_NAME = re.compile(r"(?!\.+$)[A-Za-z0-9 !#$%&'()+,.;=@^_`{}~-]{1,255}")
_DEEPEST = 16

#: Where entries after the Boot Loader Specification are, and unified kernels.
_ENTRIES = ('loader', 'entries')
_UNIFIED = ('EFI', 'Linux')

#: What is in the copy, in the private directory.
_COPY = 'fat.img'

_Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class BootFilesystem:
    """What belongs on /boot, taken out of a disk.

    :param image: a filesystem; None if there is none.
    :param part: the partition that it was on.
    :param notes: what the user should know.
    """

    image: pathlib.Path | None = None
    part: Partition | None = None
    notes: tuple[str, ...] = ()


def take(
    disk: Disk,
    parts: Sequence[Partition],
    directory: pathlib.Path,
    *,
    name: str,
    progress: Progress,
) -> BootFilesystem:
    """Take the kernels and ramdisks of the first partition that has any.

    :param parts: with FAT filesystems.
    :param directory: private, where ``boot.img`` is made.
    :param name: what to call the disk.
    :raises NoSpaceError: if there is no room for them.
    """
    notes: list[str] = []
    for part in parts:
        shown = f'{name}: {part.shown},'
        try:
            for program in _PROGRAMS:
                process.find(program)
        except errors.ProgramError as error:
            # So it would be with the next one.
            return BootFilesystem(
                notes=(f'{shown} is not looked into: {error}',)
            )
        try:
            image = _taken(disk, part, directory, shown, notes, progress)
        except (errors.ProgramError, errors.SourceError) as error:
            why = errors.safe(str(error))
            notes.append(f'{shown} is not looked into: {why}')
            continue
        if image is not None:
            return BootFilesystem(image, part, tuple(notes))
    return BootFilesystem(notes=tuple(notes))


def is_needed(root: pathlib.Path) -> bool:
    """Tell whether a root filesystem must have its kernels elsewhere.

    :returns: false if it has both a kernel and a ramdisk in its /boot.
    """
    with reader.opened(root) as tree:
        names = tree.names('/boot')
    return not all(
        any(name.startswith(known) for name in names)
        for known in (KERNELS, RAMDISKS)
    )


def _taken(
    disk: Disk,
    part: Partition,
    directory: pathlib.Path,
    shown: str,
    notes: list[str],
    progress: Progress,
) -> pathlib.Path | None:
    if part.size > _LARGEST:
        raise errors.UnsupportedError(
            f'it has more than {units.format_size(_LARGEST)}'
        )
    place = directory / 'loader'
    with contextlib.ExitStack() as stack:
        place.mkdir(mode=0o700)
        stack.callback(shutil.rmtree, place)
        stack.enter_context(scratch.full_disk(directory))
        with (
            sparse.opened(
                place / _COPY, os.O_RDWR | os.O_CREAT | os.O_EXCL
            ) as descriptor,
            progress.task('Copying', part.size) as task,
        ):
            os.truncate(descriptor, part.size)
            block.copy_runs(
                disk.medium,
                part.start,
                descriptor,
                [(0, part.size)],
                task=task,
            )
        copier = _Copier(place, part.size)
        found = copier.run()
        if copier.damaged:
            why, *rest = copier.damaged
            more = f', and so are {len(rest)} others' if rest else ''
            notes.append(
                f'{shown} is damaged: {errors.safe(why)} and is left out{more}'
            )
        if not found:
            return None
        (place / _COPY).unlink()
        request = build.BuildRequest(
            copier.tree, directory / 'boot.img', owner=(0, 0), durable=False
        )
        return build.execute(build.plan(request), progress=progress).output


class _Copier:
    """Copies what belongs to kernels out of a FAT filesystem.

    :param place: a directory with a copy of it, and for what comes out.
    :param size: its bytes.
    :ivar tree: the directory that has the files then.
    :ivar damaged: what cannot be read.
    """

    def __init__(self, place: pathlib.Path, size: int) -> None:
        self._place = place
        self.tree = place / 'tree'
        self.tree.mkdir()
        self.damaged: list[str] = []
        self._deadline = time.monotonic() + _PATIENCE + size / _PACE
        # Files that share their blocks could be more than there is.
        self._room = size
        self._listings: dict[_Path, tuple[str, ...]] = {}
        #: What has been copied, by its path in lower case; None if it could
        #: not be.
        self._copied: dict[_Path, pathlib.Path | None] = {}

    def run(self) -> bool:
        """Copy it, and tell whether a kernel may be there."""
        kernels = 0
        unified = self._files(_UNIFIED, '.efi')
        for path in (*unified, *self._at_top()):
            is_ramdisk = path[-1].startswith(RAMDISKS)
            kernels += self._copy(path) and not is_ramdisk
        for path in self._files(_ENTRIES, '.conf'):
            if self._copy(path):
                fields = uki.parse_entry(self._head(path, uki.ENTRY_SIZE))
                for key, named in _named(fields):
                    kernels += self._copy(named) and (
                        key == 'linux'
                        or (key in uki.ENTRY_KEYS and self._is_unified(named))
                    )
        for menu in uki.MENUS:
            path = tuple(menu.split('/'))
            if self._copy(path):
                data = self._head(path, uki.ENTRY_SIZE)
                for fields in uki.parse_menu(data, f'/{menu}'):
                    for key, named in _named(fields):
                        kernels += self._copy(named) and key == 'linux'
        return bool(kernels)

    def _head(self, path: _Path, count: int) -> bytes:
        with self.tree.joinpath(*path).open('rb') as file:
            return file.read(count)

    def _is_unified(self, path: _Path) -> bool:
        return bool(uki.sections(self._head(path, uki.HEAD)))

    def _files(self, directory: _Path, suffix: str) -> Iterator[_Path]:
        for name in self._names(directory):
            if name.lower().endswith(suffix):
                yield (*directory, name)

    def _at_top(self) -> Iterator[_Path]:
        for name in self._names(()):
            known = name.startswith((*KERNELS, *RAMDISKS))
            if known and not name.endswith('/'):
                yield (name,)

    def _names(self, path: _Path) -> tuple[str, ...]:
        """List a directory, whatever the case of its name.

        :returns: names, those of directories with a slash at the end; nothing
            if it is not there.
        """
        path = _folded(path)
        if path not in self._listings:
            there = not path or any(
                name.lower() == f'{path[-1]}/'
                for name in self._names(path[:-1])
            )
            self._listings[path] = self._listed(path) if there else ()
        return self._listings[path]

    def _listed(self, path: _Path) -> tuple[str, ...]:
        # -a: what is hidden as well; -b: nothing but paths.
        lines = self._run('mdir', '-a', '-b', _shown(path)).text.splitlines()
        found = []
        for line in lines:
            is_directory = line.endswith('/')
            name = line.removesuffix('/').rpartition('/')[2]
            if _NAME.fullmatch(name):
                found.append(f'{name}/' if is_directory else name)
        return tuple(sorted(found))

    def _copy(self, path: _Path) -> bool:
        folded = _folded(path)
        if folded not in self._copied and len(self._copied) < _MOST:
            self._copied[folded] = self._fetched(path)
        made = self._copied.get(folded)
        if made is None:
            return False
        target = self.tree.joinpath(*path)
        # An entry may write its name in another way than the directory. Where
        # that is damaged, something may be both a file and a directory.
        with contextlib.suppress(FileExistsError, NotADirectoryError):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(made)
        return target.is_file()

    def _fetched(self, path: _Path) -> pathlib.Path | None:
        names = self._names(path[:-1])
        if not any(name.lower() == path[-1].lower() for name in names):
            return None
        shown = _shown(path)
        target = self._place / str(len(self._copied))
        try:
            size = self._size(shown)
            if size > min(_LARGEST_FILE, self._room):
                raise errors.DamagedError(f'it cannot have {size} bytes')
            # -n: ask nothing.
            self._run('mcopy', '-n', shown, target.name, made=(target,))
            if not target.is_file() or target.stat().st_size != size:
                raise errors.DamagedError('it is cut short')
        except (process.ProgramFailed, errors.DamagedError) as error:
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                target.unlink()
            self.damaged.append(f'{shown[2:]} cannot be read ({error})')
            return None
        self._room -= size
        return target

    def _size(self, shown: str) -> int:
        # mcopy does not object to a file whose blocks end too early.
        for line in self._run('mdir', '-a', shown).text.splitlines():
            if match := _LISTED.match(line):
                return int(match[1])
        raise errors.DamagedError('it has no size')

    def _run(
        self, program: str, *words: str, made: Sequence[pathlib.Path] = ()
    ) -> process.Result:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise errors.ProgramError('it takes too long')
        try:
            return process.run(
                [program, *words[:-1], '-i', _COPY, words[-1]],
                access=confinement.Access(
                    reads=(self._place / _COPY,), writes=made
                ),
                env=_ENV,
                cwd=self._place,
                limit=left,
                memory=_MEMORY,
                most=_WORDS,
            )
        except process.ProgramFailed:
            scratch.refuse_full(self._place)
            raise


def _named(fields: dict[str, list[str]]) -> Iterator[tuple[str, _Path]]:
    for key in ('linux', 'initrd', *uki.ENTRY_KEYS):
        for value in fields.get(key, ()):
            path = tuple(filter(None, value.split('/')))
            if 0 < len(path) <= _DEEPEST and all(map(_NAME.fullmatch, path)):
                yield key, path


def _folded(path: _Path) -> _Path:
    return tuple(name.lower() for name in path)


def _shown(path: _Path) -> str:
    return '::/' + '/'.join(path)
