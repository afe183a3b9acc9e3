# SPDX-License-Identifier: Apache-2.0

"""Disks of machines as installers make them: with Linux's own programs.

Filesystems are mounted and filled by this system's kernel, which only root
can have done. Nothing needs a device mapper: logical volumes are mounted
where they are on the disk, and what is encrypted is encrypted here.
"""

from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import os
import pathlib
import shutil
import struct

from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers import modes

from amiclient import process
from amiclient.tests.disks import disks

MIB = disks.MIB

#: Types of partitions, of the Discoverable Partitions Specification and of
#: others.
BIOS = '21686148-6449-6e6f-744e-656564454649'
LVM = 'e6d6d379-f507-44c2-a23c-238f2a3df928'
PREP = '9e1a2d38-c612-4316-aa26-8b49521e5a8b'
XBOOTLDR = 'bc13c2ff-59e6-4262-a352-b275fd6f7172'

#: Where the first extent of a physical volume is, and the size of each.
_EXTENTS = MIB
_EXTENT = 4 * MIB

#: Where the data of LUKS2 begins, and bytes of its sectors.
_PAYLOAD = 16 * MIB
_SECTOR = 4096


@dataclasses.dataclass(frozen=True)
class Place:
    """Where something is on a disk, in bytes."""

    offset: int
    size: int


@dataclasses.dataclass(frozen=True)
class Slot:
    """A partition that is to be.

    :param number: as the kernel counts.
    :param size: MiB.
    """

    number: int
    size: int
    type: str = disks.LINUX
    name: str = ''
    uuid: str = ''


class Machine:
    """A disk, with what is mounted of it below one directory.

    As a context manager, it unmounts everything at the end.

    :param directory: empty; the disk and other files are made in it.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        slots: Sequence[Slot],
        *,
        label: str = 'gpt',
    ) -> None:
        self.disk = directory / 'disk.raw'
        self.top = directory / 'mounted'
        self.top.mkdir()
        self._stack = contextlib.ExitStack()
        self.places: dict[int, Place] = {}
        # btrfs must not be mounted by two devices at the same time.
        self._devices: dict[Place, str] = {}
        self._mounted: list[pathlib.Path] = []
        start, lines = 1, [f'label: {label}']
        for slot in slots:
            words = [f'/dev/x{slot.number}: start={start * 2048}']
            words += [f'size={slot.size * 2048}', f'type={slot.type}']
            words += [f'name="{slot.name}"'] if slot.name else []
            words += [f'uuid={slot.uuid}'] if slot.uuid else []
            lines.append(', '.join(words))
            self.places[slot.number] = Place(start * MIB, slot.size * MIB)
            start += slot.size
        with self.disk.open('wb') as file:
            file.truncate((start + 1) * MIB)
        process.run(
            ['sfdisk', '--quiet', self.disk],
            input='\n'.join(lines).encode() + b'\n',
            access=None,
        )

    def __enter__(self) -> 'Machine':
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def format(self, where: int | Place, *words: object) -> None:
        """Run a program on a part of the disk.

        :param where: a partition's number, or a place.
        :param words: the program and its arguments, without the device.
        """
        process.run([*words, self.device(where)], access=None)

    def mount(
        self, where: int | Place, at: str = '/', options: str = 'noatime'
    ) -> pathlib.Path:
        """Mount a part of the disk.

        :param at: below the directory of the machine.
        """
        target = self.top / at.lstrip('/')
        target.mkdir(parents=True, exist_ok=True)
        device = self.device(where)
        process.run(['mount', '-o', options, device, target], access=None)
        self._mounted.append(target)
        self._stack.callback(self._unmount, target)
        return target

    def unmount_one(self, target: pathlib.Path) -> None:
        """Unmount one filesystem earlier than all."""
        self._mounted.remove(target)
        process.run(['umount', target], access=None)

    def _unmount(self, target: pathlib.Path) -> None:
        if target in self._mounted:
            self.unmount_one(target)

    def unmount(self) -> None:
        """Unmount everything."""
        self._stack.close()

    def logical(
        self, number: int, group: str, volumes: Mapping[str, int]
    ) -> dict[str, Place]:
        """Make logical volumes in a partition, one after another.

        :param group: the name of the volume group.
        :param volumes: MiB, by names.
        """
        device = self.device(number)
        # Other tests may have volumes of the same names just now.
        more = ['--driverloaded', 'n', '--devices', device, '--quiet']
        own = [*more, '--autobackup', 'n']
        process.run(['lvm', 'pvcreate', *more, device], access=None)
        process.run(['lvm', 'vgcreate', *own, group, device], access=None)
        for name, size in volumes.items():
            words = ['--activate', 'n', '--zero', 'n', '--wipesignatures', 'n']
            words += ['--size', f'{size}m', '--name', name, group]
            process.run(['lvm', 'lvcreate', *own, *words], access=None)
        places, start = {}, self.places[number].offset + _EXTENTS
        for name, size in volumes.items():
            places[name] = Place(start, size * MIB)
            start += -(-size * MIB // _EXTENT) * _EXTENT
        return places

    def fat(
        self, number: int, files: Mapping[str, bytes], **named: str
    ) -> None:
        """Put a FAT filesystem into a partition.

        :param named: serial and label of it.
        """
        tree = self.top.with_name('esp')
        for name, data in files.items():
            path = tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        place = self.places[number]
        image = disks.fat(
            tree.with_name('esp.img'), tree, size=place.size // MIB, **named
        )
        disks.fill(self.disk, [(image, place.offset)])
        image.unlink()
        shutil.rmtree(tree)

    def encrypt(
        self, number: int, passphrase: str, image: pathlib.Path
    ) -> None:
        """Put a filesystem or other data into a partition, encrypted.

        Source: the LUKS2 on-disk format, and dm-crypt's aes-xts-plain64.
        """
        place = self.places[number]
        key = os.urandom(64)
        secret = self.top.with_name('volume-key')
        secret.write_bytes(key)
        process.run(
            [
                *('cryptsetup', 'luksFormat', '--batch-mode'),
                *('--type', 'luks2', '--cipher', 'aes-xts-plain64'),
                *('--key-size', '512', '--volume-key-file', secret),
                *('--pbkdf', 'pbkdf2', '--pbkdf-force-iterations', '1000'),
                *('--sector-size', str(_SECTOR)),
                *('--offset', str(_PAYLOAD // 512)),
                *(self.device(number), '-'),
            ],
            input=passphrase.encode(),
            access=None,
        )
        secret.unlink()
        with self.disk.open('r+b') as disk, image.open('rb') as file:
            disk.seek(place.offset + _PAYLOAD)
            at = 0
            while data := file.read(_SECTOR):
                # Sectors are counted as if they had 512 bytes.
                mode = modes.XTS(struct.pack('<QQ', at // 512, 0))
                cipher = Cipher(algorithms.AES(key), mode).encryptor()
                disk.write(cipher.update(data) + cipher.finalize())
                at += _SECTOR

    def device(self, where: int | Place) -> str:
        """Provide a block device of a part of the disk."""
        place = self.places[where] if isinstance(where, int) else where
        if place not in self._devices:
            words = ['--offset', str(place.offset)]
            words += ['--sizelimit', str(place.size), str(self.disk)]
            device = process.run(
                ['losetup', '--find', '--show', *words], access=None
            ).text.strip()
            self._devices[place] = device
            self._stack.callback(self._detach, place)
        return self._devices[place]

    def _detach(self, place: Place) -> None:
        words = ['losetup', '--detach', self._devices.pop(place)]
        process.run(words, access=None)


def mounts(kind: str) -> bool:
    """Tell whether this kernel mounts filesystems of a type."""
    known = pathlib.Path('/proc/filesystems').read_text().split()
    if kind not in known:
        process.run(['modprobe', kind], ok=range(256), access=None)
        known = pathlib.Path('/proc/filesystems').read_text().split()
    return kind in known
