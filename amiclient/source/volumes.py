# SPDX-License-Identifier: Apache-2.0

"""Filesystems that only Linux reads, found and mounted in an appliance.

They are mounted as the image's own /etc/fstab says, below one directory, and
copied from there: what systemd would have mounted, and nothing else.
"""

import base64
from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import os
import re

from amiclient import errors
from amiclient.source.appliance import Appliance
from amiclient.source.appliance import CommandError
from amiclient.source.disk import Disk
from amiclient.source.disk import Partition
from amiclient.source.disk import ROOT_FILES
from amiclient.source.disk import USR_FILES
from amiclient.source import fstab
from amiclient.source import lvm
from amiclient.source import mounts
from amiclient.source import ostree

#: Where they are mounted, and where the copy goes.
_IN, _OUT = '/in', '/out'
#: The directory of the copy, in its filesystem.
COPY = '/root'

#: Seconds that the copying may take.
_COPYING = 6 * 3600.0

#: The largest fstab, in bytes, and the longest passphrase that guestfish
#: takes.
_FSTAB = 64 << 10
_PASSPHRASE = 512

#: What holds others, by what blkid calls it.
_CONTAINERS = ('crypto_LUKS', 'LVM2_member', 'linux_raid_member', 'swap')

LUKS = 'a LUKS-encrypted volume'
_RAID = 'a member of a RAID array'

_UUID = re.compile(r'[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}')

#: Options of a mount that decide what is seen, and how.
_KEPT = re.compile(r'(?:subvol|subvolid|umask|fmask|dmask|uid|gid)=.*')
_SUBVOLUME = re.compile(r'subvol(?:id)?=')

#: Usual names of the subvolume with the root filesystem.
_USUAL = ('root', '@', '@rootfs')

#: Subvolumes that are looked at.
_MOST = 200

_BTRFS_PATH = re.compile(r'btrfssubvolume_path: (.*)')


def may_be_encrypted(part: Partition) -> bool:
    """Tell whether LUKS may be in it, perhaps within something else."""
    return part.what in (LUKS, _RAID) or bool(part.paths and part.foreign)


@dataclasses.dataclass(frozen=True)
class Volume:
    """A filesystem.

    :param device: in the appliance.
    :param type: as blkid calls it.
    :param number: of the partition that it is on; 0 for none or several.
    """

    device: str
    type: str
    number: int
    tags: mounts.Tags

    @property
    def shown(self) -> str:
        """What it is, in a few words."""
        where = f'partition {self.number}' if self.number else self.device
        return errors.safe(f'{where}, {self.type}')


@dataclasses.dataclass(frozen=True)
class _Root:
    """A root filesystem.

    :param options: that it is mounted with.
    """

    volume: Volume
    options: tuple[str, ...]
    entries: tuple[fstab.FstabEntry, ...]


@dataclasses.dataclass(frozen=True)
class Copied:
    """What was copied.

    :param root: the root filesystem, as it was.
    :param number: of the partition that it was on, or in.
    :param mounts: what is within it now.
    """

    root: Volume
    number: int
    mounts: mounts.Mounts[Volume]


class Explorer:
    """Finds what is on a disk, in an appliance that has it.

    :param partition: the number of the one that the root filesystem is on;
        None for any.
    :param key: asks for the passphrase, or the content of the key file, of an
        encrypted partition.
    """

    def __init__(
        self,
        appliance: Appliance,
        disk: Disk,
        partition: int | None,
        key: Callable[[str], bytes],
    ) -> None:
        self._appliance = appliance
        self._ask = appliance.ask
        self._lines = appliance.lines
        self._is_so = appliance.is_so
        self._disk = disk
        self._partition = partition
        self._key = key
        self._keys: list[bytes] = []
        #: What encrypted volumes are named by, by the device of their content.
        self._opened: dict[str, mounts.Tags] = {}
        self._locked: list[str] = []
        self._name = disk.medium.name
        self._unmounted: list[str] = []

    def copy(self, leave_out: Sequence[str]) -> Copied:
        """Copy the root filesystem, with all that it mounts.

        :param leave_out: where something is mounted that is not to be copied.
        :raises SourceError: if there is no root filesystem, or something that
            it mounts cannot be mounted.
        """
        for place in (_IN, _OUT):
            self._ask('mkmountpoint', place)
        volumes = list(self._volumes())
        root = self._root(volumes)
        self._mount(root.volume, root.options, _IN)
        boot = self._deployed_boot(root, volumes)
        deployed = ostree.find(_MountedFiles(self._appliance), self._name)
        entries, top = root.entries, _IN
        if deployed is not None:
            top += deployed.path
            entries = self._entries(top)
        volumes = self._named(volumes, top)
        found = mounts.find(entries, volumes, leave_out, name=self._name)
        if deployed is not None:
            found = found.placed(deployed.place, boot)
        why = ' | '.join(('not on this disk', *self._locked))
        problems = [(each, why) for each in found.missing]
        for each in found.found:
            try:
                if boot is None or each.path != '/boot':
                    self._mount_below(each)
            except CommandError as error:
                problems.append((each.entry, f'{each.part.shown}: {error}'))
        mounts.refuse(problems, self._name)
        self._ask('mount-options', 'noinit_itable', '/dev/sdb', _OUT)
        self._ask('mkdir', _OUT + COPY)
        try:
            self._ask('cp-a', f'{_IN}/.', _OUT + COPY, seconds=_COPYING)
        except CommandError as error:
            if 'No space left' in error.message:
                raise errors.NoSpaceError(
                    'what is on it does not fit',
                    subject=self._name,
                    hint='name another directory by --work-directory',
                ) from error
            raise errors.SourceError(
                f'cannot be read: {error}', subject=self._name
            ) from error
        self._ask('umount-all')
        self._ask('shutdown')
        return Copied(root.volume, self._number(root.volume), found)

    def _volumes(self) -> Iterator[Volume]:
        self._unlock()
        for part in self._disk.partitions:
            if part.paths:
                continue
            if part.has_files or part.fat or part.foreign:
                volume = self._volume(self._device(part), part)
                if volume is not None:
                    yield volume
        for device in (
            *self._lines('lvs'),
            *self._lines('list-md-devices'),
            *self._opened,
        ):
            volume = self._volume(device, None)
            if volume is not None:
                yield volume

    def _number(self, volume: Volume) -> int:
        if volume.number or volume.device == '/dev/sda':
            return volume.number
        holders = {p.what: p.number for p in reversed(self._disk.partitions)}
        kinds = [lvm.PHYSICAL, LUKS, _RAID]
        if volume.device.startswith('/dev/mapper/'):
            kinds = [LUKS, _RAID]
        elif volume.device.startswith('/dev/md'):
            kinds = [_RAID]
        return next((holders[k] for k in kinds if k in holders), 0)

    def _disk_has(self, what: str) -> bool:
        return any(part.what == what for part in self._disk.partitions)

    def _unlock(self) -> None:
        """Open what is encrypted: partitions, and what is made of them."""
        for part in self._disk.partitions:
            if part.what == LUKS and not part.paths:
                self._open(self._device(part), part.tags)
        if self._opened:
            self._ask('lvm-scan', 'true')
        for device in (*self._lines('lvs'), *self._lines('list-md-devices')):
            if self._blkid(device).get('TYPE') == 'crypto_LUKS':
                self._open(device, mounts.Tags(paths=_paths(device)))
        if self._locked and not self._opened:
            raise errors.SourceError(
                ' | '.join(self._locked),
                subject=self._name,
                hint='is it the right passphrase?',
            )

    def _open(self, device: str, tags: mounts.Tags) -> None:
        """Open an encrypted volume with a key that is known, or another."""
        uuid = self._blkid(device).get('UUID', '').lower()
        if not _UUID.fullmatch(uuid):
            # Text of a stranger.
            uuid = str(tags.number)
        where = f'partition {tags.number}' if tags.number else 'the disk'
        if tags.paths:
            where = device
        name, tried, why = f'luks-{uuid}', set[bytes](), ''
        for known in (*self._keys, None):
            key = known or self._key(f'{where} of {self._name}')
            if key in tried:
                break
            tried.add(key)
            # A file with a passphrase usually ends with a newline. A key
            # file is taken as it is (cryptsetup(8)).
            for secret in dict.fromkeys((key.removesuffix(b'\n'), key)):
                try:
                    self._decrypt(device, name, secret)
                except CommandError as error:
                    why = error.message
                    continue
                if key not in self._keys:
                    self._keys.append(key)
                known_by = dataclasses.replace(tags, uuid=uuid)
                self._opened[f'/dev/mapper/{name}'] = known_by
                return
        if 'No key available' in why:
            why = 'wrong passphrase or key file'
        self._locked.append(f'{where} cannot be decrypted: {why}')

    def _decrypt(self, device: str, name: str, secret: bytes) -> None:
        if len(secret) <= _PASSPHRASE and not {0, 10} & set(secret):
            then = os.fsdecode(secret)
            self._ask('cryptsetup-open', device, name, then=then)
            return
        # guestfish takes nothing but a line of text. Here, it undoes quotes
        # and leaves names of devices as they are, which differ in there.
        encoded = base64.b64encode(secret).decode()
        uuid = name.removeprefix('luks-')
        self._ask(
            'debug', 'sh',
            f'echo {encoded} | base64 -d | cryptsetup open --key-file - '
            f'UUID={uuid} {name} && udevadm settle',
        )  # fmt: skip

    def _device(self, part: Partition) -> str:
        if part.paths:
            return part.paths[0]
        return f'/dev/sda{part.number}' if part.number else '/dev/sda'

    def _blkid(self, device: str) -> dict[str, str]:
        try:
            lines = self._lines('blkid', device)
        except CommandError:
            # There is nothing that it knows.
            return {}
        pairs = (line.split(': ', 1) for line in lines)
        return {pair[0]: pair[1] for pair in pairs if len(pair) > 1}

    def _volume(self, device: str, part: Partition | None) -> Volume | None:
        """Look at a device; nothing if it has no filesystem."""
        if part is not None and (part.superblock or part.fat):
            kind = part.superblock.filesystem if part.superblock else 'vfat'
            return Volume(device, kind, part.number, part.tags)
        known = self._blkid(device)
        kind = known.get('TYPE', '')
        if not kind or kind in _CONTAINERS:
            return None
        own = mounts.Tags() if part is None else part.tags
        return Volume(
            device,
            kind,
            own.number,
            dataclasses.replace(
                own,
                uuid=known.get('UUID', '').lower(),
                label=known.get('LABEL', ''),
                paths=_paths(device) if part is None else (),
            ),
        )

    def _root(self, volumes: Sequence[Volume]) -> _Root:
        wanted = [each for each in volumes if self._is_wanted(each)]
        found: list[_Root] = []
        for volume in wanted:
            root = self._looked(volume)
            if root is not None:
                found.append(root)
        if len(found) == 1:
            return found[0]
        if found:
            listed = ' | '.join(each.volume.shown for each in found)
            raise errors.SourceError(
                f'several filesystems have a root filesystem: {listed}',
                subject=self._name,
                hint='choose one with --partition NUMBER',
            )
        listed = ' | '.join(
            (*map(str, self._disk.partitions), *self._unmounted, *self._locked)
        )
        hint = None
        if self._disk_has(lvm.PHYSICAL) and not self._lines('lvs'):
            hint = lvm.INCOMPLETE
        elif self._unmounted:
            hint = (
                'mount it where Linux knows it, and use openstack ami build '
                'on the directory'
            )
        raise errors.SourceError(
            f'there is no root filesystem in it: {listed}',
            subject=self._name,
            hint=hint,
        )

    def _is_wanted(self, volume: Volume) -> bool:
        """Tell whether the root filesystem may be this one."""
        if self._partition is None or volume.number == self._partition:
            return True
        # A logical volume comes after its physical volume.
        parts = {p.number: p for p in reversed(self._disk.partitions)}
        # What is in a container is on none of the partitions.
        holder = parts[self._partition].what
        return not volume.number and holder.endswith(('volume', 'array'))

    def _looked(self, volume: Volume) -> _Root | None:
        """Mount a filesystem for a moment, and see if it is a root."""
        try:
            self._mount(volume, (), _IN)
        except CommandError as error:
            why = str(error).rstrip('.')
            self._unmounted.append(f'{volume.shown} cannot be mounted: {why}')
            return None
        try:
            if self._has_root(_IN):
                return _Root(volume, (), self._entries(_IN))
            if volume.type != 'btrfs':
                return None
            return self._in_subvolume(volume)
        finally:
            self._ask('umount', _IN)

    def _in_subvolume(self, volume: Volume) -> _Root | None:
        """Find a root filesystem in a subvolume of what is mounted."""
        said = self._ask('btrfs-subvolume-list', _IN)
        self._ask('umount', _IN)
        self._mount(volume, ('subvolid=5',), _IN)
        found = []
        for path in _BTRFS_PATH.findall(said)[:_MOST]:
            if self._has_root(f'{_IN}/{path}'):
                options = (f'subvol={path}',)
                entries = self._entries(f'{_IN}/{path}')
                found.append((path, _Root(volume, options, entries)))
        named = [
            root
            for path, root in found
            if _named(root.entries) == path.strip('/')
        ]
        usual = [root for path, root in found if path in _USUAL]
        for few in (named, usual, [root for _, root in found]):
            if len(few) == 1:
                return few[0]
        if not found:
            return None
        listed = errors.some([errors.shown(path) for path, _ in found])
        raise errors.SourceError(
            f'several subvolumes have a root filesystem: {listed}',
            subject=self._name,
            hint='set the default one: btrfs subvolume set-default',
        )

    def _has_root(self, top: str) -> bool:
        def there(*paths: str) -> bool:
            return any(self._is_so('exists', top + path) for path in paths)

        # What belongs on /usr has /sbin/init, too.
        is_usr = there(*USR_FILES) and not there('/etc', '/usr')
        return not is_usr and there(*ROOT_FILES)

    def _entries(self, top: str) -> tuple[fstab.FstabEntry, ...]:
        return fstab.parse(self._text(top, fstab.PATH))

    def _text(self, top: str, path: str) -> str:
        if not self._is_so('is-file', top + path):
            return ''
        if int(self._ask('filesize', top + path)) > _FSTAB:
            raise errors.SourceError(
                f'its {path} has more than {_FSTAB} bytes', subject=self._name
            )
        return self._ask('read-file', top + path)

    def _named(self, volumes: Sequence[Volume], top: str) -> list[Volume]:
        """Name what was encrypted as the system does, by crypttab(5)."""
        names: dict[str, list[str]] = {}
        for line in self._text(top, '/etc/crypttab').splitlines():
            name, spec, *_ = *line.split(), '', ''
            entry = fstab.FstabEntry(spec, 'none', '', ())
            for device, tags in self._opened.items():
                if tags.named_by(entry):
                    names.setdefault(device, []).append(f'/dev/mapper/{name}')
        return [
            dataclasses.replace(
                each,
                tags=dataclasses.replace(
                    each.tags,
                    paths=(*each.tags.paths, *names.get(each.device, ())),
                ),
            )
            for each in volumes
        ]

    def _deployed_boot(
        self, root: _Root, volumes: Sequence[Volume]
    ) -> Volume | None:
        """Mount what a system of ostree has on /boot, if it is another one.

        A unit of the system says so, not fstab.
        """
        place = f'{_IN}/boot'
        if not self._is_so('is-dir', f'{_IN}/ostree/deploy') or self._is_so(
            'is-dir', _IN + ostree.ENTRIES
        ):
            return None
        for volume in volumes:
            if volume is root.volume or not self._is_so('is-dir', place):
                continue
            try:
                self._mount(volume, (), place)
            except CommandError:
                continue
            if self._is_so('is-dir', _IN + ostree.ENTRIES):
                return volume
            self._ask('umount', place)
        return None

    def _mount_below(self, mount: mounts.Mount[Volume]) -> None:
        place = _IN + mount.at
        if not self._is_so('is-dir', place):
            # As systemd does.
            above = max(
                (
                    each.rsplit(': ', 1)[-1]
                    for each in self._lines('mountpoints')
                    if f'{place}/'.startswith(each.rsplit(': ', 1)[-1] + '/')
                ),
                key=len,
            )
            self._ask('remount', above, 'rw:true')
            self._ask('mkdir-p', place)
        options = tuple(filter(_KEPT.fullmatch, mount.entry.options))
        self._mount(mount.part, options, place)

    def _mount(
        self, volume: Volume, options: Sequence[str], place: str
    ) -> None:
        # The disk is a layer that may be written to: a journal is replayed.
        words = ','.join(('ro', *options))
        self._ask(
            'mount-options', words, volume.device,
            place,
        )  # fmt: skip


class _MountedFiles:
    """The files of what is mounted."""

    def __init__(self, appliance: Appliance) -> None:
        self._ask = appliance.ask
        self._is_so = appliance.is_so

    def names(self, path: str) -> Iterable[str]:
        if not self._is_so('is-dir', _IN + path):
            return ()
        return self._ask('ls', _IN + path).splitlines()

    def head(self, path: str, count: int) -> bytes:
        place = _IN + path
        if (
            not self._is_so('is-file', place)
            or int(self._ask('filesize', place)) > count
        ):
            return b''
        return fstab.encoded(self._ask('read-file', place))

    def real(self, path: str) -> str | None:
        try:
            real = self._ask('realpath', _IN + path).strip()
        except CommandError:
            return None
        return real.removeprefix(_IN)

    def changed(self, path: str) -> int:
        try:
            said = self._ask('statns', _IN + path)
        except CommandError:
            return 0
        return int(said.partition('st_mtime_sec: ')[2].split()[0])


def _named(entries: Sequence[fstab.FstabEntry]) -> str | None:
    """Tell the subvolume that is mounted as the root."""
    for entry in entries:
        if entry.path == '/':
            for option in entry.options:
                if option.startswith('subvol='):
                    return option.removeprefix('subvol=').strip('/')
    return None


def _paths(device: str) -> tuple[str, ...]:
    """Tell other names of a logical volume (vgscan(8))."""
    parts = device.split('/')
    if len(parts) == 4 and parts[2] != 'mapper':
        return lvm.paths(*parts[2:])
    return (device,)
