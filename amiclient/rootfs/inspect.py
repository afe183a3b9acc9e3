# SPDX-License-Identifier: Apache-2.0

"""What a root filesystem is, and what is in it."""

import dataclasses
import pathlib
import re
from typing import Any

from amiclient import errors
from amiclient.ext.layout import RootImage
from amiclient.ext import plan
from amiclient.ext import reader as ext_reader
from amiclient.ext.reader import Reader
from amiclient.rootfs import boot_files
from amiclient.rootfs import identify
from amiclient.rootfs import kernel_formats
from amiclient.source import bundle
from amiclient.source import disk

#: os-release(5): the first one that exists counts, alone.
_FILES = ('/etc/os-release', '/usr/lib/os-release')

_LIMIT = 64 * 1024
_ASSIGNMENT = re.compile(
    r"""([A-Z0-9_a-z]+)=(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([^\s"'\\]*))"""
)
_ESCAPE = re.compile(r'\\(["$`\\\'])')

#: What becomes a property of an image, for all who may see that.
_SANE = re.compile(r'[A-Za-z0-9._~+-]{1,64}')


@dataclasses.dataclass(frozen=True)
class Release:
    """The operating system in a root filesystem.

    :param distro: such as ``debian``; None if it does not say.
    :param version: such as ``12``; None if it has none (Debian testing).
    """

    distro: str | None
    version: str | None


def read_release(image: pathlib.Path) -> Release:
    """Tell which operating system is in a root filesystem image.

    :returns: both None if it has no os-release file, or that is of no use or
        cannot be read: whether it is damaged is for e2fsck to say.
    :raises SourceError: if there is no ext filesystem.
    """
    try:
        with ext_reader.opened(image) as reader:
            return release_in(reader)
    except errors.DamagedError:
        return Release(None, None)


def release_in(reader: Reader) -> Release:
    """Tell the same of a filesystem that is open already.

    :raises DamagedError: if it makes no sense.
    """
    for name in _FILES:
        found = reader.find(name)
        if found is not None and found.is_file:
            if found.size > _LIMIT:
                # Too long for what it should be.
                break
            data = b'' if found.is_encrypted else reader.read(found, _LIMIT)
            fields = parse_os_release(data)
            return Release(
                _sane(fields.get('ID')), _sane(fields.get('VERSION_ID'))
            )
    return Release(None, None)


def parse_os_release(data: bytes) -> dict[str, str]:
    """Parse an os-release file.

    Source: os-release(5): lines of shell assignments, without expansion or
    concatenation; comments; in quotes, a backslash before ``"``, ``$``, a
    backquote, ``\\`` and ``'``. What is not of that form is passed over.
    """
    fields = {}
    for line in data.decode('utf-8', 'replace').split('\n'):
        match = _ASSIGNMENT.fullmatch(line.strip())
        if match:
            name, double, single, bare = match.groups()
            if double is not None:
                double = _ESCAPE.sub(r'\1', double)
            fields[name] = double or single or bare or ''
    return fields


def _sane(value: str | None) -> str | None:
    return value if value and _SANE.fullmatch(value) else None


#: Programs that tell the architecture, links resolved: the first that is one.
_PROGRAMS = (
    '/sbin/init',
    '/usr/lib/systemd/systemd',
    '/bin/sh',
    '/bin/busybox',
    '/usr/bin/env',
)

#: Which programs a kernel runs besides those of its own architecture.
ALSO_RUNS = {
    'x86_64': ('i686',),
    'aarch64': ('armv7l',),
    'ppc64': ('ppc',),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspected:
    """What ``ami inspect`` tells. All sizes are bytes.

    :param source: what the user named.
    :param format: what that is, for people.
    :param partition: the number of the one that was looked into.
    :param size: of the filesystem.
    :param minimum_size: below which no shrink gets.
    :param state: ``clean``, or ``not clean``.
    :param kernels: the one that came along, if any, then those that are in
        it, newest first.
    :param partitions: all of the disk's; empty if it is none.
    """

    source: pathlib.Path
    format: str
    partition: int | None
    filesystem: str
    uuid: str
    label: str
    features: tuple[str, ...]
    block_size: int
    size: int
    in_use: int
    minimum_size: int
    state: str
    needs_recovery: bool
    release: Release
    architecture: str | None
    kernels: tuple[boot_files.BootFiles, ...]
    partitions: tuple[disk.Partition, ...]


def inspect(source: bundle.Source, name: pathlib.Path) -> Inspected:
    """Look into a source.

    :param source: what amiclient.source.resolve.opened() made of it.
    :param name: what the user named.
    :raises SourceError: if it holds no ext2, ext3 or ext4 filesystem.
    :raises DamagedError: if that makes no sense.
    """
    image, own = source.image(), _own_kernel(source)
    with errors.about(name), ext_reader.opened(source.root) as reader:
        found = look(
            reader,
            image,
            source=name,
            format=source.format
            or f'{image.superblock.filesystem} filesystem',
            partition=source.partition,
            kernels=((_brought(source, own),) if own else ())
            + boot_files.find_in(reader, source.root, source.boot),
            partitions=source.partitions,
        )
    if own is not None and found.architecture is None:
        # There may be no programs: CirrOS's are in its ramdisk.
        found = dataclasses.replace(found, architecture=own.architecture)
    return found


def look(reader: Reader, image: RootImage, **told: Any) -> Inspected:
    """Look into a filesystem that is open already.

    :param image: what it is in.
    :param told: the fields of the result that do not come from it.
    :raises DamagedError: if it makes no sense.
    """
    block = image.superblock
    target = plan.aim(plan.ShrinkRequest(image=image), reader.layout)
    return Inspected(
        filesystem=block.filesystem,
        uuid=block.uuid,
        label=block.label,
        features=block.features,
        block_size=block.block_size,
        size=block.size,
        in_use=block.in_use,
        minimum_size=target.bound * block.block_size,
        state='clean' if block.clean else 'not clean',
        needs_recovery=block.needs_recovery,
        release=release_in(reader),
        architecture=architecture(reader),
        **told,
    )


def _own_kernel(source: bundle.Source) -> identify.Kernel | None:
    if source.kernel is None:
        return None
    try:
        return identify.identify_kernel(source.kernel)
    except (errors.ProgramError, errors.SourceError):
        # Whoever wants to use it says what is wrong with it.
        return identify.Kernel(source.kernel, 'unknown', None, None, 0)


def _brought(
    source: bundle.Source, kernel: identify.Kernel
) -> boot_files.BootFiles:
    return boot_files.BootFiles(
        version=kernel.release or kernel.path.name,
        kernel=kernel.path.name,
        ramdisks=(source.ramdisk.name,) if source.ramdisk else (),
        source='tarball' if source.manifest is None else 'manifest',
        image=kernel.path,
    )


def architecture(reader: Reader) -> str | None:
    """Tell which machine the programs of a root filesystem are for.

    :returns: as Nova calls it; None if there is none, or none that is known.
    """
    for name in _PROGRAMS:
        found = kernel_formats.elf_architecture(reader.head(name, 64) or b'')
        if found is not None:
            return found
    return None


def kernel_architecture(image: pathlib.Path) -> str | None:
    """Tell which machine the kernel of a root filesystem has to be for.

    :returns: as Nova calls it; None if its programs do not tell, or run with
        kernels of more than one kind.
    :raises SourceError: if there is no ext filesystem.
    """
    try:
        with ext_reader.opened(image) as reader:
            found = architecture(reader)
    except errors.DamagedError:
        # For e2fsck to say.
        return None
    # One for i686 may have a kernel for x86_64.
    others = {name for names in ALSO_RUNS.values() for name in names}
    return None if found in others else found
