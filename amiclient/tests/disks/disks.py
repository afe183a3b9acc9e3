# SPDX-License-Identifier: Apache-2.0

"""Disks with partitions, made without root."""

from collections.abc import Sequence
import dataclasses
import pathlib
import struct
import uuid
import zlib

from amiclient import process
from amiclient import sparse

MIB = 2**20

LINUX = '0fc63daf-8483-4772-8e79-3d69d8477de4'
ESP = 'c12a7328-f81f-11d2-ba4b-00a0c93ec93b'
LVM = 'e6d6d379-f507-44c2-a23c-238f2a3df928'
ROOT = '4f68bce3-e8cd-4db1-96e7-fbcaf984b709'


@dataclasses.dataclass(frozen=True)
class Part:
    """A partition that is to be.

    :param size: MiB.
    :param image: what is to be in it; nothing if None.
    :param type: as sfdisk(8) takes it; ``E`` for an extended one.
    :param logical: whether it is within the extended one before.
    """

    size: int
    image: pathlib.Path | bytes | None = None
    type: str = 'L'
    logical: bool = False


def make(
    path: pathlib.Path, parts: Sequence[Part], *, label: str = 'gpt'
) -> pathlib.Path:
    """Make a disk with sfdisk, partitions from 1 MiB on, one after another."""
    lines, places, start, end = [f'label: {label}'], [], 1, 1
    for part in parts:
        if part.logical:
            # Before each is its own table.
            start += 1
        lines.append(
            f'start={start * 2048}, size={part.size * 2048}, type={part.type}'
        )
        places.append(start)
        end = max(end, start + part.size)
        start = start if part.type == 'E' else start + part.size
    with path.open('wb') as file:
        file.truncate((end + 1) * MIB)
    process.run(
        ['sfdisk', '--quiet', path],
        input='\n'.join(lines).encode() + b'\n',
        access=None,
    )
    fill(
        path, [(p.image, s * MIB) for p, s in zip(parts, places, strict=True)]
    )
    return path


def fill(
    path: pathlib.Path,
    images: Sequence[tuple[pathlib.Path | bytes | None, int]],
) -> None:
    """Put images into a disk, at offsets in bytes."""
    with path.open('r+b') as file:
        for image, offset in images:
            if isinstance(image, pathlib.Path):
                image = image.read_bytes()
            for start in range(0, len(image or b''), MIB):
                chunk = (image or b'')[start : start + MIB]
                if any(chunk):
                    file.seek(offset + start)
                    file.write(chunk)


def convert(path: pathlib.Path, kind: str, *options: str) -> pathlib.Path:
    """Make a disk image of a raw disk; its name says nothing."""
    target = path.with_name(f'{path.stem}-{kind}{len(options)}')
    argv = ['qemu-img', 'convert', '-f', 'raw', '-O', kind, *options]
    process.run([*argv, path, target], access=None)
    return target


def copy(path: pathlib.Path, name: str) -> pathlib.Path:
    """Copy a disk with its holes."""
    target = path.with_name(name)
    sparse.copy(path, target)
    return target


def gpt(
    sectors: int, entries: Sequence[tuple[str, int, int]], size: int = 512
) -> tuple[bytes, bytes]:
    """Make a GPT by hand, with sectors of any size.

    :param sectors: of the disk.
    :param entries: type, first sector and last sector of each.
    :param size: bytes of a sector.
    :returns: the beginning and the end of the disk.
    """
    table = b''.join(
        uuid.UUID(kind).bytes_le
        + uuid.UUID(int=number).bytes_le
        + struct.pack('<QQ', first, last)
        + bytes(80)
        for number, (kind, first, last) in enumerate(entries, 1)
    ).ljust(128 * 128, b'\0')
    length = -(-len(table) // size)
    last = sectors - 1

    def header(here: int, other: int, place: int) -> bytes:
        fields = struct.pack(
            '<8sIIIIQQQQ16sQIII',
            *(b'EFI PART', 0x10000, 92, 0, 0, here, other),
            *(2 + length, last - 1 - length, uuid.UUID(int=99).bytes_le),
            *(place, 128, 128, zlib.crc32(table)),
        )
        crc = zlib.crc32(fields)
        fields = fields[:16] + struct.pack('<I', crc) + fields[20:]
        return fields.ljust(size, b'\0')

    mbr = bytes(446) + struct.pack('<B3xB3xII', 0, 0xEE, 1, last) + bytes(48)
    padded = table.ljust(length * size, b'\0')
    begin = (mbr + b'\x55\xaa').ljust(size, b'\0') + header(1, last, 2)
    return begin + padded, padded + header(last, 1, last - length)


def fat(
    path: pathlib.Path,
    tree: pathlib.Path,
    *,
    size: int = 4,
    serial: str = 'ABCD-1234',
    label: str = 'ESP',
    bits: int = 16,
) -> pathlib.Path:
    """Make a FAT filesystem.

    :param tree: a directory with what is to be in it.
    :param size: MiB.
    :param bits: of FAT12, FAT16 or FAT32.
    """
    with path.open('wb') as file:
        file.truncate(size * MIB)
    # As many clusters as can be: few make a FAT12.
    argv = ['mkfs.vfat', '-F', str(bits), '-s', '1', '-n', label]
    process.run([*argv, '-i', serial.replace('-', ''), path], access=None)
    inside = sorted(tree.iterdir())
    if inside:
        process.run(
            ['mcopy', '-s', '-i', path, *inside, '::/'],
            env={'MTOOLS_SKIP_CHECK': '1', 'LC_ALL': 'C.UTF-8'},
            access=None,
        )
    return path
