# SPDX-License-Identifier: Apache-2.0

"""What a root filesystem mounts of its own disk, as its /etc/fstab says.

A server has one disk, that of the image: whatever is mounted from elsewhere on
the old disk has to become a part of it, or it is lost.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
import dataclasses
import re
from typing import Generic, Protocol, TypeVar

from amiclient import errors
from amiclient.source import fstab

#: Partitions as the kernel names them: the disk, and the number.
_DEVICES = (
    re.compile(r'/dev/((?:sd|vd|hd|xvd)[a-z]+)(\d{1,3})'),
    re.compile(r'/dev/(nvme\d+n\d+|mmcblk\d+)p(\d{1,3})'),
)

#: The first disk, whatever it is attached to.
_FIRST = ('sda', 'vda', 'hda', 'xvda', 'nvme0n1', 'mmcblk0')

#: Names that udev makes, by the way to a disk or by its maker.
_BY_DISK = re.compile(r'/dev/disk/(?:by-id|by-path|cloud|azure)/.+-part(\d+)')

#: How udev writes what a name cannot have.
_ESCAPED = re.compile(r'\\x([0-9a-f]{2})')

#: Characters of a path that are shown.
_SHOWN = 200

#: Where snapper keeps snapshots of btrfs, one of which may be the root.
_SNAPSHOTS = '.snapshots'

#: Options of what a system starts without.
_DISPENSABLE = ('nofail', 'noauto')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tags:
    """By what a filesystem is named.

    :param number: of its partition; 0 for none.
    :param uuid: of the filesystem, in lower case.
    :param partuuid: of the partition, in lower case.
    :param paths: of devices.
    """

    number: int = 0
    uuid: str = ''
    label: str = ''
    partuuid: str = ''
    partlabel: str = ''
    paths: Collection[str] = ()

    def named_by(
        self, entry: fstab.FstabEntry, disks: Collection[str] | None = None
    ) -> bool:
        """Tell whether an entry of fstab names this one.

        :param disks: what the disk may be called; None for whatever.
        """
        if entry.spec in self.paths:
            return True
        if match := _BY_DISK.fullmatch(entry.spec):
            return int(match[1]) == self.number
        if entry.tag is None:
            disk, number = _device(entry.spec)
            known = disks is None or disk in disks
            return known and number == self.number > 0
        name, value = entry.tag
        value = _ESCAPED.sub(lambda m: chr(int(m[1], 16)), value)
        if name in ('UUID', 'PARTUUID'):
            value = value.lower()
        own: str = getattr(self, name.lower(), '')
        return bool(own) and value == own


def _device(spec: str) -> tuple[str, int]:
    for pattern in _DEVICES:
        if match := pattern.fullmatch(spec):
            return match[1], int(match[2])
    return '', -1


class Mountable(Protocol):
    """What may be mounted."""

    @property
    def tags(self) -> Tags:
        """By what it is named."""


_Part = TypeVar('_Part', bound=Mountable)


@dataclasses.dataclass(frozen=True)
class Mount(Generic[_Part]):
    """What is mounted below the root filesystem.

    :param path: where: ``/var``.
    :param at: where that is in the root filesystem.
    """

    path: str
    entry: fstab.FstabEntry
    part: _Part
    at: str


@dataclasses.dataclass(frozen=True)
class Mounts(Generic[_Part]):
    """All of that, outer ones first.

    :param missing: entries of what is not there, but needed.
    :param notes: what the user should know.
    """

    found: tuple[Mount[_Part], ...]
    missing: tuple[fstab.FstabEntry, ...]
    notes: tuple[str, ...]

    def placed(
        self, place: Callable[[str], str], boot: _Part | None
    ) -> 'Mounts[_Part]':
        """Give them other places, and add what is on /boot.

        :param place: tells where in the root filesystem one belongs.
        :param boot: is mounted there, whether fstab says so or not.
        """
        found = list(self.found)
        if boot and not any(each.path == '/boot' for each in found):
            entry = fstab.FstabEntry('', '/boot', 'auto', ())
            found.append(Mount('/boot', entry, boot, ''))
        placed = [dataclasses.replace(e, at=place(e.path)) for e in found]
        placed.sort(key=lambda each: each.at)
        return dataclasses.replace(self, found=tuple(placed))


def find(
    entries: Sequence[fstab.FstabEntry],
    parts: Iterable[_Part],
    leave_out: Sequence[str],
    *,
    name: str,
) -> Mounts[_Part]:
    """Find what is mounted.

    :param entries: of fstab.
    :param parts: what there is on the disk.
    :param leave_out: where something is mounted that the user does without,
        with all below.
    :param name: what to call the disk.
    :raises UsageError: if nothing is mounted there.
    """
    chosen = {
        entry.path: entry
        for entry in entries
        if entry.is_device
        and entry.type != 'swap'
        and entry.path.startswith('/')
        and entry.path != '/'
    }
    for path in leave_out:
        gone = [each for each in chosen if _is_within(each, path)]
        if not gone:
            listed = errors.some([errors.shown(p, _SHOWN) for p in chosen])
            raise errors.UsageError(
                'nothing of the disk is mounted there',
                subject=f'--leave-out {errors.shown(path)}',
                hint=f'the system mounts {listed or "nothing"}',
            )
        for each in gone:
            del chosen[each]
    disks = _disks(entries)
    there = list(parts)
    found, missing, notes = [], [], []
    for path, entry in list(chosen.items()):
        if entry.type == 'btrfs' and path.endswith(f'/{_SNAPSHOTS}'):
            # Copies of what is merged, which need as much room again.
            notes.append(
                f'{name}: {errors.shown(path, _SHOWN)} has snapshots of '
                'btrfs, and is left out'
            )
            del chosen[path]
    # Outer ones first, for they hide what is within.
    for path, entry in sorted(chosen.items(), key=lambda item: item[0]):
        part = next((p for p in there if p.tags.named_by(entry, disks)), None)
        if part is not None:
            found.append(Mount(path, entry, part, path))
        elif set(_DISPENSABLE) & set(entry.options):
            notes.append(
                f'{name}: what the system mounts on '
                f'{errors.shown(path, _SHOWN)} is not on this disk, and is '
                'left out'
            )
        else:
            missing.append(entry)
    return Mounts(tuple(found), tuple(missing), tuple(notes))


def refuse(
    problems: Iterable[tuple[fstab.FstabEntry, str]], name: str
) -> None:
    """Refuse a disk of which something cannot be merged.

    :param problems: entries of fstab, and why it cannot.
    :raises SourceError: if there are any.
    """
    listed = list(problems)
    if not listed:
        return
    shown = errors.some(
        [
            f'{errors.shown(entry.path, _SHOWN)} on '
            f'{errors.shown(entry.spec, _SHOWN)} ({why})'
            for entry, why in listed
        ]
    )
    options = errors.some(
        [
            f'--leave-out {errors.shown(entry.path, _SHOWN)}'
            for entry, _ in listed
        ],
        between=' ',
    )
    raise errors.SourceError(
        f'what the system mounts cannot be made a part of the image: {shown}',
        subject=name,
        hint=f'to do without: {options}',
    )


def _is_within(path: str, top: str) -> bool:
    return f'{path}/'.startswith(top.rstrip('/') + '/')


def _disks(entries: Sequence[fstab.FstabEntry]) -> Collection[str]:
    """Tell what the disk of the root filesystem is called."""
    for path in ('/', '/boot', '/boot/efi'):
        for entry in entries:
            disk, _ = _device(entry.spec)
            if entry.path == path and disk:
                return (disk,)
    return _FIRST
