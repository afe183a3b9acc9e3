# SPDX-License-Identifier: Apache-2.0

"""Damage at random, where it hurts: in metadata, by fields and by bytes."""

import bz2
from collections.abc import Callable
import gzip
import lzma
import os
import pathlib
import random
import struct
import tempfile

from amiclient.tests.hostile import patch as hostile_patch
from amiclient.tests.oracle import disk
from amiclient.tests.unit.rootfs import samples

#: Fields of the superblock that decide anything: offset and bytes.
SUPERBLOCK = (
    *((at, 4) for at in range(0x0, 0x34, 4)),
    *((at, 2) for at in range(0x34, 0x40, 2)),
    *((at, 4) for at in range(0x40, 0x58, 4)),
    (0x58, 2), (0x5A, 2), (0x5C, 4), (0x60, 4), (0x64, 4), (0x68, 16),
    (0x78, 16), (0xCC, 1), (0xCD, 1), (0xCE, 2), (0xE0, 4), (0xE4, 4),
    (0xE8, 4), (0xFC, 1), (0xFD, 1), (0xFE, 2), (0x100, 4), (0x104, 4),
    (0x10C, 60), (0x150, 4), (0x154, 4), (0x158, 4), (0x15C, 2), (0x15E, 2),
    (0x160, 4), (0x164, 2), (0x168, 8), (0x170, 4), (0x174, 1), (0x175, 1),
    (0x178, 8), (0x180, 4), (0x24C, 8), (0x254, 4), (0x270, 4), (0x274, 4),
    (0x27C, 4), (0x280, 4),
)  # fmt: skip

#: Fields of an inode, likewise.
_INODE = (
    (0x0, 2), (0x2, 2), (0x4, 4), (0x14, 4), (0x1A, 2), (0x1C, 4), (0x20, 4),
    (0x24, 4), (0x28, 12), (0x28, 2), (0x2A, 2), (0x2C, 2), (0x2E, 2),
    (0x34, 4), (0x38, 2), (0x3A, 2), (0x3C, 4), (0x58, 4), (0x5C, 4),
    (0x60, 4), (0x64, 4), (0x68, 4), (0x6C, 4), (0x74, 2), (0x76, 2),
    (0x80, 2), (0x9C, 4), (0xA0, 24),
)  # fmt: skip

#: Fields of a group descriptor, likewise.
_DESCRIPTOR = (
    (0x0, 4), (0x4, 4), (0x8, 4), (0xC, 2), (0xE, 2), (0x10, 2), (0x12, 2),
    (0x14, 4), (0x1C, 2), (0x20, 4), (0x24, 4), (0x28, 4),
)  # fmt: skip

_EXTENT_MAGIC = b'\x0a\xf3'


class Sound:
    """A sound filesystem, and where its metadata is.

    :param path: the image.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.data = path.read_bytes()
        with hostile_patch.Patch(path, sums=False) as patch:
            self.owners = sorted(patch.owned())
            self.size = patch.block_size
            self.count = patch.block_count
            self.groups = patch.groups
            self.inodes = patch.inode_count
        with disk.Filesystem(path) as found:
            used = [
                number
                for number in range(1, found.inode_count + 1)
                if any(found.inode(number).raw)
            ]
            self.used = used
            self.tables = sorted(
                {found.inode_offset(number) // self.size for number in used}
            )
            journal = self._journal(found)
        first = 2 if self.size == 1024 else 1
        #: Blocks with metadata of any kind; some are worth more than others.
        self.blocks = [
            *(range(first, first + 2)), *self.tables, *self.owners,
            *journal, *range(first + 2, first + 20),
        ]  # fmt: skip

    def _journal(self, found: disk.Filesystem) -> list[int]:
        (number,) = struct.unpack_from('<I', found.read(1024, 1024), 0xE0)
        (compat,) = struct.unpack_from('<I', found.read(1024, 1024), 0x5C)
        if not compat & 4 or not number:
            return []
        runs = found.runs(found.inode(number))
        return [
            block
            for run in runs[:1]
            for block in range(run.physical, run.physical + min(run.count, 12))
        ]


def damage(sound: Sound, rng: random.Random) -> tuple[bytes, str]:
    """Damage a filesystem.

    :returns: the image, and what was done.
    """
    descriptor, name = tempfile.mkstemp(dir=sound.path.parent)
    try:
        with os.fdopen(descriptor, 'wb') as file:
            file.write(sound.data)
        done = []
        sums = rng.random() < 0.7
        with hostile_patch.Patch(pathlib.Path(name), sums=sums) as patch:
            for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
                way = rng.choice(_WAYS)
                done.append(way(sound, patch, rng))
        return pathlib.Path(name).read_bytes(), '; '.join(done)
    finally:
        os.unlink(name)


def _value(sound: Sound, width: int, rng: random.Random) -> bytes:
    if width > 8:
        return rng.choice(
            (
                rng.randbytes(width),
                bytes(width),
                b'\xff' * width,
                b'\x1b]0;owned\x07\n\r\x9b31m"\';$(id)'[:width].ljust(width),
            )
        )
    top = 1 << 8 * width
    value = rng.choice(
        (
            0, 1, 2, 7, 8, 11, 12, top - 1, top // 2, top // 2 - 1,
            sound.count - 1, sound.count, sound.count + 1, sound.size,
            rng.randrange(sound.count), rng.randrange(sound.inodes),
            rng.randrange(top), 1 << rng.randrange(8 * width),
        )
    )  # fmt: skip
    return (value % top).to_bytes(width, 'little')


def _change(
    patch: hostile_patch.Patch,
    sound: Sound,
    at: int,
    width: int,
    rng: random.Random,
) -> str:
    old = patch.read(at, width)
    dice = rng.random()
    if dice < 0.25 and len(old) == width:
        bit = rng.randrange(8 * width)
        new = (int.from_bytes(old, 'little') ^ 1 << bit).to_bytes(
            width, 'little'
        )
    elif dice < 0.4 and width <= 8 and len(old) == width:
        step = rng.choice((-8, -2, -1, 1, 2, 8))
        number = int.from_bytes(old, 'little') + step
        new = (number % (1 << 8 * width)).to_bytes(width, 'little')
    else:
        new = _value(sound, width, rng)
    patch.write(at, new)
    return f'{at:#x}: {old.hex()} -> {new.hex()}'


def _superblock(
    sound: Sound, patch: hostile_patch.Patch, rng: random.Random
) -> str:
    at, width = rng.choice(SUPERBLOCK)
    text = _change(patch, sound, 1024 + at, width, rng)
    return f'superblock {at:#x}: {text}'


def _descriptor(
    sound: Sound, patch: hostile_patch.Patch, rng: random.Random
) -> str:
    group = rng.randrange(sound.groups)
    at, width = rng.choice(_DESCRIPTOR)
    text = _change(patch, sound, patch.descriptor_at(group) + at, width, rng)
    return f'descriptor {group} {at:#x}: {text}'


def _inode(
    sound: Sound, patch: hostile_patch.Patch, rng: random.Random
) -> str:
    number = rng.choice((2, 7, 8, *sound.used, *sound.used[11:]))
    at, width = rng.choice(_INODE)
    text = _change(patch, sound, patch.inode_at(number) + at, width, rng)
    return f'inode {number} {at:#x}: {text}'


def _bytes(
    sound: Sound, patch: hostile_patch.Patch, rng: random.Random
) -> str:
    block = rng.choice(sound.blocks)
    width = rng.choice((1, 2, 4, 4, 8))
    at = block * sound.size + rng.randrange(sound.size // width) * width
    text = _change(patch, sound, at, width, rng)
    return f'block {block}: {text}'


def _node(sound: Sound, patch: hostile_patch.Patch, rng: random.Random) -> str:
    # Directory entries and extents are at the beginning of their blocks.
    if not sound.owners:
        return _inode(sound, patch, rng)
    block = rng.choice(sound.owners)
    at = block * sound.size + rng.randrange(0, 128, 2)
    text = _change(patch, sound, at, rng.choice((2, 4)), rng)
    return f'owned block {block}: {text}'


def _swap(sound: Sound, patch: hostile_patch.Patch, rng: random.Random) -> str:
    one, two = rng.choice(sound.blocks), rng.choice(sound.blocks)
    size = sound.size
    data = patch.read(two * size, size)
    if rng.random() < 0.5:
        patch.write(two * size, patch.read(one * size, size))
    patch.write(one * size, data)
    return f'block {two} over {one}'


def _wipe(sound: Sound, patch: hostile_patch.Patch, rng: random.Random) -> str:
    block = rng.choice(sound.blocks)
    data = rng.choice(
        (bytes(sound.size), b'\xff' * sound.size, rng.randbytes(sound.size))
    )
    patch.write(block * sound.size, data)
    return f'block {block} wiped with {data[:2].hex()}'


def _cut(sound: Sound, patch: hostile_patch.Patch, rng: random.Random) -> str:
    size = rng.choice(
        (
            rng.randrange(len(sound.data)), len(sound.data) - sound.size,
            1024, 2048, 4096, 3000, len(sound.data) + 4096,
        )
    )  # fmt: skip
    patch.truncate(size)
    return f'cut to {size}'


#: Those that come up more often come more than once.
_WAYS: tuple[
    Callable[[Sound, hostile_patch.Patch, random.Random], str], ...
] = (
    *(_superblock,) * 8,
    *(_descriptor,) * 4,
    *(_inode,) * 8,
    *(_bytes,) * 5,
    *(_node,) * 4,
    _swap,
    _wipe,
    _wipe,
    _cut,
)


def parts() -> dict[str, bytes]:
    """Sound kernels and ramdisks of all kinds."""
    plain = samples.initramfs()
    found = {
        'bzImage': samples.bzimage(),
        'arm64': samples.arm64(),
        'riscv': samples.riscv(),
        'vmlinux': samples.elf(62),
        'vmlinux-32': samples.elf(3, wide=False),
        'vmlinux-big': samples.elf(21, order='>'),
        'zboot': samples.zboot(0xAA64, _gzip(plain), b'gzip'),
        'uki': bytes(samples.pe(0x8664, b'.text', b'.linux')),
        'cpio': plain,
        'microcode': samples.microcode() + _gzip(plain),
        'gzip': _gzip(plain),
        'xz': lzma.compress(plain),
        'lzma': lzma.compress(plain, lzma.FORMAT_ALONE),
        'bzip2': bz2.compress(plain),
        'gzip-arm64': _gzip(samples.arm64()),
        'qcow2': b'QFI\xfb\0\0\0\3'.ljust(4096, b'\0'),
        'mbr': bytes(446) + bytes(4 * 16) + b'\x55\xaa' + bytes(70_000),
    }
    return found | _foreign(plain)


def _gzip(data: bytes) -> bytes:
    # It would have the time of its making.
    return gzip.compress(data, mtime=0)


def _foreign(plain: bytes) -> dict[str, bytes]:
    from amiclient import errors
    from amiclient import process

    found = {}
    for program in ('zstd', 'lz4'):
        try:
            process.find(program)
        except errors.ProgramError:
            continue
        result = process.run([program, '-q', '-c'], input=plain, access=None)
        found[program] = result.stdout
    return found


def garble(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Damage any file, its beginning above all.

    :returns: the file, and what was done.
    """
    made = bytearray(data)
    done = []
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        width = min(rng.choice((1, 1, 2, 4, 8)), len(made))
        reach = rng.choice((16, 128, 0x268, len(made)))
        at = rng.randrange(max(1, min(reach, len(made) - width)))
        top = 1 << 8 * width
        value = rng.choice(
            (0, 1, top - 1, top // 2, top // 2 - 1, rng.randrange(top))
        )
        made[at : at + width] = value.to_bytes(
            width, rng.choice(('little', 'big'))
        )
        done.append(f'{value:#x} at {at:#x}')
    if rng.random() < 0.2:
        size = rng.randrange(len(made) + 1)
        del made[size:]
        done.append(f'cut to {size}')
    return bytes(made), '; '.join(done)
