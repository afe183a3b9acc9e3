# SPDX-License-Identifier: Apache-2.0

"""Kernels and initramfs made by code, valid as far as headers go."""

from collections.abc import Iterable
import os
import pathlib
import struct

BANNER = b'Linux version 6.1.0-13-arm64 (debian-kernel@lists.debian.org)\n\0'
RELEASE = '6.1.0-13-arm64'


def bzimage(
    *, wide: bool = True, release: bytes = b'6.1.0-13-amd64 (x@y) #1\0'
) -> bytes:
    """A bzImage: boot sector, one setup sector, 4 KiB of "kernel"."""
    image = bytearray(2 * 512 + 4096)
    image[:2] = b'MZ'
    image[0x1F1] = 1
    struct.pack_into('<I', image, 0x1F4, 4096 // 16)
    image[0x1FE:0x206] = b'\x55\xaa\xeb\x6aHdrS'
    struct.pack_into('<H', image, 0x206, 0x020F)
    struct.pack_into('<H', image, 0x20E, 0x300 - 0x200)
    image[0x211] = 1
    struct.pack_into('<H', image, 0x236, 1 if wide else 0)
    image[0x300 : 0x300 + len(release)] = release
    return bytes(image)


def pe(machine: int, *sections: bytes, size: int = 4096) -> bytearray:
    """A PE file with nothing in its sections."""
    image = bytearray(size)
    image[:2] = b'MZ'
    struct.pack_into('<I', image, 0x3C, 0x80)
    image[0x80:0x84] = b'PE\0\0'
    struct.pack_into('<HH', image, 0x84, machine, len(sections))
    struct.pack_into('<H', image, 0x94, 0xF0)
    for i, name in enumerate(sections):
        start = 0x98 + 0xF0 + 40 * i
        image[start : start + 8] = name.ljust(8, b'\0')
    return image


def zboot(machine: int, payload: bytes, compression: bytes) -> bytes:
    """An EFI zboot image around a compressed kernel."""
    image = pe(machine, b'.text', b'.rodata', size=0x1000)
    image[4:8] = b'zimg'
    struct.pack_into('<II', image, 8, len(image), len(payload))
    image[24 : 24 + len(compression)] = compression
    return bytes(image) + payload + bytes(512)


def flat(
    offset: int, magic: bytes, *, before: bytes = b'', size: int = 0x12000
) -> bytes:
    """An Image of a machine whose header is little but a magic number."""
    image = bytearray(size)
    image[offset : offset + len(magic)] = magic
    image[offset - len(before) : offset] = before
    return bytes(image) + BANNER + bytes(100)


def arm64() -> bytes:
    return flat(56, b'ARM\x64')


def riscv() -> bytes:
    return flat(56, b'RSC\x05', before=b'RISCV\0\0\0')


def elf(
    machine: int,
    *,
    kind: int = 2,
    segments: Iterable[int] = (1, 4),
    content: bytes = BANNER,
    wide: bool = True,
    order: str = '<',
) -> bytes:
    """An ELF file, by default one that looks like vmlinux."""
    segments = list(segments)
    ident = b'\x7fELF' + bytes((2 if wide else 1, 1 if order == '<' else 2))
    ident = ident.ljust(16, b'\1')
    layout = 'HHIQQQIHHHHHH' if wide else 'HHIIIIIHHHHHH'
    header, entry = (64, 56) if wide else (52, 32)
    image = ident + struct.pack(
        order + layout,
        kind, machine, 1, 0, header, 0, 0,
        header, entry, len(segments), 64, 0, 0,
    )  # fmt: skip
    for segment in segments:
        image += struct.pack(order + 'I', segment).ljust(entry, b'\0')
    return image + bytes(2048) + content + bytes(100)


def cpio(
    names: Iterable[str], *, magic: bytes = b'070701', data: bytes = b'hello'
) -> bytes:
    """A cpio archive in the newc format, as buffer-format.rst has it."""
    archive = b''
    for number, name in enumerate([*names, 'TRAILER!!!'], 1):
        last = name == 'TRAILER!!!'
        directory = '.' not in name.rpartition('/')[2]
        content = b'' if last or directory else data
        encoded = name.encode() + b'\0'
        fields = (
            number, 0o040755 if directory else 0o100644, 0, 0, 1, 0,
            len(content), 0, 0, 0, 0, len(encoded), 0,
        )  # fmt: skip
        header = magic + b''.join(b'%08x' % field for field in fields)
        for part in (header + encoded, content):
            archive += part + bytes(-len(part) % 4)
    return archive


def initramfs(content: bytes = b'hello') -> bytes:
    """What an initramfs holds."""
    return cpio(['.', 'bin', 'bin/busybox.static', 'init'], data=content)


def microcode() -> bytes:
    """An archive with microcode, padded as early archives are."""
    name = 'kernel/x86/microcode/GenuineIntel.bin'
    parts = name.split('/')
    directories = ['/'.join(parts[:i]) for i in range(1, len(parts))]
    archive = cpio([*directories, name], data=b'\x01' * 3000)
    return archive + bytes(-len(archive) % 512)


def unified(
    release: str | None = '6.9.1-1.fc40.x86_64',
    *,
    ramdisk: bool = True,
) -> bytes:
    """A unified kernel image.

    :param release: what its section says, if there is one.
    """
    name = (release or '').encode()
    content = {
        b'.osrel': b'ID=fedora\n',
        b'.linux': bzimage(release=name + b' (x@y) #1\0'),
    }
    if name:
        content[b'.uname'] = name
    if ramdisk:
        content[b'.initrd'] = initramfs()
    image = pe(0x8664, *content)
    for i, data in enumerate(content.values()):
        start = 0x98 + 0xF0 + 40 * i
        filled = data + bytes(-len(data) % 512)
        for place, value in (
            (8, len(data)), (16, len(filled)), (20, len(image)),
        ):  # fmt: skip
            image[start + place : start + place + 4] = value.to_bytes(
                4, 'little'
            )
        image += filled
    return bytes(image)


def installed(prefix: str) -> list[pathlib.Path]:
    """List what this machine boots from, as far as it can be read.

    What is just being installed has another name until it is whole.
    """
    return sorted(
        path
        for path in pathlib.Path('/boot').glob(f'{prefix}-*')
        if not path.name.endswith('.new')
        and '.dpkg-' not in path.name
        and os.access(path, os.R_OK)
    )
