# SPDX-License-Identifier: Apache-2.0

"""Whether what is given as a kernel is one."""

import dataclasses
import pathlib
import shlex
from typing import BinaryIO

from amiclient import errors
from amiclient import locks
from amiclient.rootfs import kernel_formats
from amiclient.rootfs import ramdisk_formats
from amiclient.source import opening
from amiclient.source import probe
from amiclient.source import streams

_WANTED = 'a Linux kernel'


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A file that holds a Linux kernel.

    :param format: such as ``bzImage``.
    :param architecture: as Nova calls it, such as ``x86_64``; None if it is
        one that is not known here.
    :param release: as ``uname -r`` would say; None if not cheap to tell.
    :param size: bytes.
    :param state: what :func:`amiclient.locks.state` said when it was read.
    :param packed: what has to be unpacked before a host can start it.
    """

    path: pathlib.Path
    format: str
    architecture: str | None
    release: str | None
    size: int
    state: locks.State = ()
    packed: kernel_formats.PackedKernel | None = None

    def objection(self, name: str) -> errors.SourceError | None:
        """Say why hosts cannot start it; None if they can.

        :param name: what to call it.
        """
        packed = self.packed
        if packed is None:
            return None
        command = f'{packed.kind} -dc < {shlex.quote(name)} > Image'
        if packed.size is not None:
            command = (
                f'tail -c +{packed.offset + 1} {shlex.quote(name)} | head -c '
                f'{packed.size} | {packed.kind} -dc > Image'
            )
        with_kind = '' if packed.size is None else f' with {packed.kind}'
        return errors.SourceError(
            f'a Linux kernel ({self.format}{with_kind}) that not all hosts '
            "can start: QEMU's -kernel does not unpack it",
            subject=name,
            hint=f'unpack it: {command}',
        )


def startable_kernel(path: pathlib.Path) -> Kernel:
    """Take a file for a kernel that hosts can start.

    :raises SourceError: if it is none; so :func:`identify_kernel`.
    """
    found = identify_kernel(path)
    if objection := found.objection(errors.shown(path)):
        raise objection
    return found


def identify_kernel(path: pathlib.Path) -> Kernel:
    """Take a file for a kernel, if it is one.

    :raises SourceError: if it is not there, cannot be read, or is not a
        Linux kernel; the text tells what it is instead.
    :raises ProgramError: if a program that decompresses it is missing.
    """
    name = errors.shown(path)
    with opening.opened(path, wanted=_WANTED) as file:
        state = locks.state(file.fileno())
        found = kernel_in(file, path)
        if found is not None:
            return dataclasses.replace(found, state=state)
        try:
            swapped = ramdisk_formats.recognise(file, name=name)
        except errors.SourceError:
            # A damaged ramdisk is no kernel either.
            swapped = None
    if swapped is not None:
        raise errors.SourceError(
            'an initramfs was given as kernel',
            subject=name,
            hint='give it with --ramdisk, or use `openstack ami ramdisk '
            'upload`',
        )
    raise errors.SourceError(
        f'{probe.identify(path)}, not {_WANTED}', subject=name
    )


def kernel_in(file: BinaryIO, path: pathlib.Path) -> Kernel | None:
    """Take what is open already for a kernel.

    :param path: what to call it.
    :returns: None if it is none.
    :raises SourceError: if it is a part of one. :raises ProgramError: as
        :func:`identify_kernel` does.
    """
    found = kernel_formats.recognise(file, name=errors.shown(path))
    if found is None:
        return None
    return Kernel(
        path,
        found.name,
        found.architecture,
        found.release,
        file.seek(0, 2),
        packed=found.packed,
    )


_WANTED_RAMDISK = 'an initramfs'


@dataclasses.dataclass(frozen=True)
class Ramdisk:
    """A file that holds an initramfs.

    :param compression: ``none``, ``gzip``, ``xz``, ``lzma``, ``bzip2``,
        ``zstd`` or ``lz4``.
    :param microcode: whether an uncompressed archive with early files, such
        as microcode, comes first.
    :param size: bytes.
    :param state: what :func:`amiclient.locks.state` said when it was read.
    """

    path: pathlib.Path
    compression: str
    microcode: bool
    size: int
    state: locks.State


def identify_ramdisk(path: pathlib.Path) -> Ramdisk:
    """Take a file for a ramdisk, if it is one.

    :raises SourceError: if it is not there, cannot be read, or is not an
        initramfs that Linux would take; the text tells what it is instead.
    :raises ProgramError: if the program that decompresses it is missing.
    """
    name = errors.shown(path)
    with opening.opened(path, wanted=_WANTED_RAMDISK) as file:
        state = locks.state(file.fileno())
        size = file.seek(0, 2)
        found = ramdisk_formats.recognise(file, name=name)
        if found is not None:
            return Ramdisk(path, found.compression, found.early, size, state)
        kernel = kernel_formats.recognise(file, name=name)
        phrase = None if kernel else _inside(file, name)
    if kernel is not None:
        raise errors.SourceError(
            f'a Linux kernel ({kernel.name}) was given as ramdisk',
            subject=name,
            hint='give it with --kernel, or use `openstack ami kernel upload`',
        )
    if phrase is None:
        phrase = probe.identify(path)
    raise errors.SourceError(f'{phrase}, not {_WANTED_RAMDISK}', subject=name)


def _inside(file: BinaryIO, name: str) -> str | None:
    file.seek(0)
    kind = probe.compression(file.read(probe.MAGIC_SIZE))
    if kind is None:
        return None
    data = streams.head(file, ramdisk_formats.HEAD, name=name)
    if not data:
        return f'damaged {kind} data'
    return f'{probe.classify(data).phrase} compressed with {kind}'
