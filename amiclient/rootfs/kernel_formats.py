# SPDX-License-Identifier: Apache-2.0

"""The formats in which a Linux kernel comes, told by their headers.

Sources, in the kernel's tree: Documentation/arch/x86/boot.rst,
Documentation/arch/arm64/booting.rst,
Documentation/arch/riscv/boot-image-header.rst,
drivers/firmware/efi/libstub/zboot-header.S, arch/s390/include/asm/setup.h,
arch/arm/boot/compressed/head.S, arch/powerpc/boot/main.c; for ELF the System
V ABI, for PE Microsoft's PE format specification. Architectures have the
names that Nova gives them (nova.objects.fields.Architecture).
"""

from collections.abc import Iterable, Iterator
import dataclasses
import re
import struct
from typing import BinaryIO

from amiclient import errors
from amiclient.source import probe
from amiclient.source import streams
from amiclient.source import uki

#: How much of a file, compressed or not, is looked at for the header. The
#: farthest is that of s390x, at 64 KiB.
_HEAD = 128 * 1024

#: What is smaller than the largest of the headers is not even looked at.
_SMALLEST = 0x268

#: How much is searched for the banner, after decompression: more than any
#: kernel has, debugging information included, and an end for zip bombs.
_SEARCH = 1024 * 1024 * 1024
_CHUNK = 1024 * 1024

#: init/version.c: linux_banner. The digit tells it from linux_proc_banner.
_BANNER = re.compile(rb'Linux version (\d+\.\d+[0-9A-Za-z.+~_-]*)')
_RELEASE = re.compile(rb'(\d+\.\d+[0-9A-Za-z.+~_-]*)')
_OVERLAP = 256

#: What the wrapper of a compressed PowerPC kernel says when it starts.
_POWERPC_WRAPPER = b'zImage starting: loaded at'

_PE_MACHINES = {
    0x014C: 'i686',
    0x01C2: 'armv7l',
    0x5064: 'riscv64',
    0x6264: 'loongarch64',
    0x8664: 'x86_64',
    0xAA64: 'aarch64',
}
#: By e_machine, EI_CLASS (1 = 32 bits) and EI_DATA (1 = little-endian).
_ELF_MACHINES = {
    (3, 1, 1): 'i686',
    (21, 2, 1): 'ppc64le',
    (21, 2, 2): 'ppc64',
    (20, 1, 2): 'ppc',
    (22, 2, 2): 's390x',
    (40, 1, 1): 'armv7l',
    (62, 2, 1): 'x86_64',
    (183, 2, 1): 'aarch64',
    (243, 2, 1): 'riscv64',
    (258, 2, 1): 'loongarch64',
}
_ET_EXEC, _ET_DYN = 2, 3
_PT_INTERP = 3


@dataclasses.dataclass(frozen=True)
class PackedKernel:
    """An Image that is compressed, and does not decompress itself in QEMU.

    :param kind: how, such as ``zstd``.
    :param offset: bytes from the beginning of the file.
    :param size: bytes; None for all that follows.
    """

    kind: str
    offset: int = 0
    size: int | None = None


@dataclasses.dataclass(frozen=True)
class KernelFormat:
    """What a kernel's header says.

    :param name: the format, such as ``bzImage``.
    :param architecture: as Nova calls it; None if it is one unknown here.
    :param release: as ``uname -r`` would say; None if not cheap to tell.
    :param packed: what has to be unpacked before a host can start it.
    """

    name: str
    architecture: str | None
    release: str | None
    packed: PackedKernel | None = None


class NotBootableError(errors.SourceError):
    """It holds a Linux kernel, but not in a form that can be loaded."""


def recognise(file: BinaryIO, *, name: str) -> KernelFormat | None:
    """Tell if a file is a Linux kernel, and which.

    :param name: what to call the file in errors.
    :returns: None if it is something else.
    :raises NotBootableError: if there is a kernel in it that the likes of
        QEMU's ``-kernel`` would not find, or a part of one.
    :raises ProgramError: if it is compressed, and the program for that is
        missing.
    """
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(_HEAD)
    kind = probe.compression(head[: probe.MAGIC_SIZE])
    if kind == 'lzop':
        return None
    if kind:
        return _compressed(file, kind, name)
    if len(head) < _SMALLEST:
        return None
    if head[0x202:0x206] == b'HdrS' and head[0x1FE:0x200] == b'\x55\xaa':
        return _x86(file, head, size, name)
    if head[4:8] == b'zimg' and head[:2] == b'MZ':
        return _zboot(file, head, size, name)
    if found := _raw(head, _pieces(file)):
        return found
    if uki.sections(head):
        raise NotBootableError(
            'a unified kernel image, not a Linux kernel',
            subject=name,
            hint='give the kernel and ramdisk that it was made of',
        )
    return None


def _x86(
    file: BinaryIO, head: bytes, size: int, name: str
) -> KernelFormat | None:
    """Read the real-mode header: boot.rst, "The Real-Mode Kernel Header"."""
    sectors = head[0x1F1] or 4
    (paragraphs,) = struct.unpack_from('<I', head, 0x1F4)
    version, pointer = struct.unpack_from('<H6xH', head, 0x206)
    if version < 0x0200:
        return None
    # syssize counts 16-byte units, the last of which need not be whole.
    wanted = (sectors + 1) * 512 + (paragraphs - 1) * 16
    if version >= 0x0204 and size < wanted:
        raise NotBootableError(
            f'a Linux kernel (bzImage) that was cut short: '
            f'{size} of {wanted} bytes',
            subject=name,
            hint='get a whole copy of it',
        )
    big = head[0x211] & 1
    wide = version >= 0x020C and head[0x236] & 1
    match = None
    if pointer:
        # The field counts from behind the boot sector.
        file.seek(0x200 + pointer)
        match = _RELEASE.match(file.read(_OVERLAP))
    return KernelFormat(
        'bzImage' if big else 'zImage',
        'x86_64' if wide else 'i686',
        match[1].decode() if match else None,
    )


def _zboot(
    file: BinaryIO, head: bytes, size: int, name: str
) -> KernelFormat | None:
    """Read the header of an EFI zboot image, and what it has for payload."""
    offset, length = struct.unpack_from('<II', head, 8)
    if offset + length > size:
        raise NotBootableError(
            f'a Linux kernel (EFI zboot) that was cut short: '
            f'{size} of {offset + length} bytes',
            subject=name,
            hint='get a whole copy of it',
        )
    release = None
    file.seek(offset)
    kind = probe.compression(file.read(probe.MAGIC_SIZE))
    if kind and streams.can_stream(kind):
        release = _banner(
            streams.chunks(file, _SEARCH, name=name, offset=offset)
        )
    # Hosts with a QEMU from before 8.0 start none of them, later ones those
    # with gzip (unpack_efi_zboot_image() in hw/core/loader.c).
    named = bytes(head[0x18:0x38]).split(b'\0')[0].decode('ascii', 'replace')
    packed = PackedKernel(kind or named, offset, length)
    return KernelFormat('EFI zboot', _pe_machine(head), release, packed)


def _compressed(file: BinaryIO, kind: str, name: str) -> KernelFormat | None:
    try:
        inner = streams.head(file, _HEAD, name=name)
    except errors.SourceError:
        return None
    if streams.can_stream(kind):
        pieces = streams.chunks(file, _SEARCH, name=name)
        found = _raw(inner, pieces)
    else:
        # Only blocks at the beginning can be had: no banner, but a static
        # program for a kernel's architecture is not packed like that.
        found = _raw(inner, None)
    if found is None:
        return None
    # QEMU unpacks that one (load_image_gzipped_buffer() in hw/core/loader.c).
    starts = kind == 'gzip' and found.name == 'ARM64 Image'
    return dataclasses.replace(
        found,
        name=f'{kind}-compressed {found.name}',
        packed=None if starts else PackedKernel(kind),
    )


def _raw(head: bytes, pieces: Iterable[bytes] | None) -> KernelFormat | None:
    """Tell the formats that do not decompress themselves.

    :param pieces: all of the file, piece by piece; None if it is not to be
        had.
    """
    name = machine = None
    if head[56:60] == b'ARM\x64':
        name, machine = 'ARM64 Image', 'aarch64'
    elif head[56:60] == b'RSC\x05' and head[48:53] == b'RISCV':
        name, machine = 'RISC-V Image', 'riscv64'
    elif head[0x24:0x28] in (b'\x18\x28\x6f\x01', b'\x01\x6f\x28\x18'):
        name, machine = 'ARM zImage', 'armv7l'
    elif head[0x10008:0x1000E] == b'S390EP':
        name, machine = 's390x image', 's390x'
    if name:
        return KernelFormat(name, machine, _banner(pieces))
    if head[:4] == b'\x7fELF':
        return _elf(head, pieces)
    return None


def _elf(head: bytes, pieces: Iterable[bytes] | None) -> KernelFormat | None:
    """Tell vmlinux from all other ELF files.

    It is executable, nothing loads it but a boot loader, and it says what it
    is; a program has an interpreter, and neither a static one nor a shared
    library has the banner.
    """
    if len(head) < 64 or head[4] not in (1, 2) or head[5] not in (1, 2):
        return None
    order = '<' if head[5] == 1 else '>'
    kind, machine = struct.unpack_from(f'{order}HH', head, 16)
    if kind not in (_ET_EXEC, _ET_DYN):
        return None
    if _PT_INTERP in _segments(head, order):
        return None
    release = None
    if pieces is not None:
        matched, release = _search(pieces)
        if not matched:
            return None
    return KernelFormat(
        'vmlinux',
        _ELF_MACHINES.get((machine, head[4], head[5])),
        release,
    )


def _segments(head: bytes, order: str) -> set[int]:
    if head[4] == 2:
        (offset,) = struct.unpack_from(f'{order}Q', head, 32)
        length, count = struct.unpack_from(f'{order}HH', head, 54)
    else:
        (offset,) = struct.unpack_from(f'{order}I', head, 28)
        length, count = struct.unpack_from(f'{order}HH', head, 42)
    return {
        int.from_bytes(
            head[start : start + 4], 'little' if order == '<' else 'big'
        )
        for start in range(offset, offset + length * count, length or 1)
        if start + 4 <= len(head)
    }


def elf_architecture(head: bytes) -> str | None:
    """Tell which machine a program is for.

    :param head: what it begins with, 20 bytes or more.
    :returns: as Nova calls it; None if it is no ELF file, or for another.
    """
    if head[:4] != b'\x7fELF' or len(head) < 20 or head[5] not in (1, 2):
        return None
    (machine,) = struct.unpack_from('<H' if head[5] == 1 else '>H', head, 18)
    return _ELF_MACHINES.get((machine, head[4], head[5]))


def _pe_machine(head: bytes) -> str | None:
    start = uki.pe_header(head)
    if start is None:
        return None
    (machine,) = struct.unpack_from('<H', head, start + 4)
    return _PE_MACHINES.get(machine)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    for _ in range(_SEARCH // _CHUNK):
        data = file.read(_CHUNK)
        if not data:
            return
        yield data


def _banner(pieces: Iterable[bytes] | None) -> str | None:
    return _search(pieces)[1] if pieces is not None else None


def _search(pieces: Iterable[bytes]) -> tuple[bool, str | None]:
    """Look for what only a kernel says.

    :returns: whether it was found, and the release if that was with it.
    """
    last = b''
    wrapped = False
    for piece in pieces:
        data = last + piece
        match = _BANNER.search(data)
        # What reaches the end of the piece may go on in the next.
        if match and match.end() < len(data):
            return True, match[1].decode()
        wrapped = wrapped or _POWERPC_WRAPPER in data
        last = data[-_OVERLAP:]
    if match := _BANNER.search(last):
        return True, match[1].decode()
    return wrapped, None
