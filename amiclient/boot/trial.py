# SPDX-License-Identifier: Apache-2.0

"""Booting a triple as Nova would, to see whether it does: plan and result.

A request becomes a plan, which says what would run, once all is checked that
can be checked before.
"""

import dataclasses
import pathlib
import platform
import re

from amiclient.boot import causes
from amiclient.boot import disk
from amiclient.boot import qemu
from amiclient import errors
from amiclient.ext import image
from amiclient import process
from amiclient.rootfs import identify
from amiclient.rootfs import ramdisks
from amiclient.source import bundle
from amiclient.source import detect
from amiclient import units

#: What is waited for, if the user does not say.
UNTIL = 'login:'

#: Seconds that it may take; without KVM, a full system takes a minute or two.
TIMEOUT = 300.0

#: Bytes of memory, as in a small flavor.
MEMORY = 2**30

_SECTORS = f'sectors of {disk.SECTOR} bytes'

#: How much larger than the root filesystem its disk is.
_GROWTH = 2

#: Results after which the guest can still write what it has in memory.
ALIVE = ('booted', 'left')


@dataclasses.dataclass(frozen=True, kw_only=True)
class BootRequest:
    """What the user wants.

    :param kernel: a file; None for that of the source. So ``ramdisk``.
    :param disk: its size, in bytes; None for twice what the source takes.
    :param memory: bytes. :param cpus: how many.
    :param until: what to wait for, in a line of the console.
    :param timeout: seconds to wait for it.
    :param console: the file to write what the serial console says to; what
        the virtio console says goes to one with ``.hvc0`` at its end.
    :param append: what to add to the kernel's command line.
    :param interactive: whether the user's terminal becomes that of the
        guest, for as long as the user wants.
    :param work_directory: where to make the disk; None for the usual places.
    """

    source: pathlib.Path
    kernel: pathlib.Path | None = None
    ramdisk: pathlib.Path | None = None
    disk: int | None = None
    memory: int = MEMORY
    cpus: int = 1
    until: re.Pattern[str] = re.compile(UNTIL)
    timeout: float = TIMEOUT
    console: pathlib.Path | None = None
    append: str = ''
    interactive: bool = False
    work_directory: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class BootPlan:
    """What would run.

    :param disk: bytes.
    :param command_line: what the kernel is told instead of what Nova says to
        others; empty if that is nothing special.
    """

    request: BootRequest
    root: image.RootImage
    kernel: pathlib.Path
    ramdisk: pathlib.Path | None
    emulator: qemu.Emulator
    disk: int
    command_line: str = ''


@dataclasses.dataclass(frozen=True)
class Booted:
    """What became of it.

    :param result: ``booted``; ``failed``, if the guest gave up; ``timeout``;
        ``ended``, if it switched itself off; or ``left``, by the user.
    :param seconds: from the start of the machine to that.
    :param matched: the line that was waited for.
    :param root_size: bytes that the root filesystem takes now; None if it
        is none any more. :param root_size_before: the same, before.
    :param disk: bytes that there were for it.
    :param accelerator: ``kvm`` or ``tcg``.
    :param cause: why it did not boot, if that is known.
    :param lines: the last ones of the console with the most to say.
    :param screen: whether they are from the screen, and on no console.
    """

    result: str
    seconds: float
    matched: str | None
    root_size: int | None
    root_size_before: int
    disk: int
    accelerator: str
    console: pathlib.Path | None
    cause: causes.Cause | None
    lines: tuple[str, ...]
    screen: bool = False

    @property
    def succeeded(self) -> bool:
        """Whether it was as it should be."""
        return self.result in ALIVE

    def explanation(self, request: BootRequest) -> str:
        """Say why it did not boot, in one line."""
        wanted = f'no {request.until.pattern!r} on the console'
        if self.cause and not self.cause.guessed:
            return f'{wanted}: {self.cause.message}; {self.cause.remedy}'
        if self.result == 'ended':
            return f'{wanted}: the guest switched itself off, or restarted'
        wanted += f' after {request.timeout:g} seconds'
        more = (
            ''
            if 'console=' in request.append
            else '; --append console=ttyS0 shows more of what it says'
        )
        if self.cause:
            return (
                f'{wanted}, nor anything else any more; probably: '
                f'{self.cause.message}; {self.cause.remedy}{more}'
            )
        return (
            f'{wanted}; if it is only slow, give it more with --timeout{more}'
        )

    @property
    def grew(self) -> bool:
        """Whether the root filesystem took more of the disk than before."""
        return (self.root_size or 0) > self.root_size_before


def plan(request: BootRequest, source: bundle.Source) -> BootPlan:
    """Check what can be checked before anything runs.

    :param source: what the user named, opened.
    :raises UsageError: if an option is missing or impossible.
    :raises SourceError: if the source, kernel or ramdisk is not one.
    :raises UnsupportedError: if the architecture is none that can be run.
    :raises ProgramError: if QEMU is missing.
    """
    units.require_whole('--memory', request.memory, qemu.MIB, 'MiB')
    if request.disk is not None:
        units.require_whole('--disk', request.disk, disk.SECTOR, _SECTORS)
        if request.disk > disk.LARGEST:
            raise errors.UsageError(
                f'--disk of {request.disk} bytes is too large',
                hint=f'give {disk.LARGEST} at most',
            )
    root = detect.open_root(source.root)
    kernel = request.kernel or source.kernel
    ramdisk = request.ramdisk or source.ramdisk
    if kernel is None:
        raise errors.UsageError(
            'no kernel was found in it',
            subject=errors.shown(request.source),
            hint='name one with --kernel',
        )
    found = identify.identify_kernel(kernel)
    if ramdisk is not None:
        ramdisks.identify_ramdisk(ramdisk)
    emulator = qemu.emulator(found.architecture or platform.machine())
    for program in (emulator.program, 'qemu-img', 'setpriv'):
        process.find(program)
    instead = source.command_line or ''
    qemu.command_line(kvm=False, append=request.append, instead=instead)
    if request.console:
        bundle.refuse_within(
            request.console,
            request.source,
            hint='choose another file for --console',
        )
    if request.console and request.console.is_dir():
        raise errors.UsageError(
            f'--console {errors.shown(request.console)}: a directory',
            hint='name a file in it',
        )
    size = request.disk or _GROWTH * root.superblock.size
    if size < root.size:
        raise errors.UsageError(
            f'a disk of {size} bytes is too small for the {root.size} of '
            f'{errors.shown(request.source)}',
            hint='give a larger --disk',
        )
    return BootPlan(
        request, root, kernel.absolute(), ramdisk, emulator, size, instead
    )
