# SPDX-License-Identifier: Apache-2.0

"""Booting what was planned.

It runs on a disk that is thrown away, until the console shows what is waited
for, or it is clear that it will not. Whether the root filesystem grew to the
size of the disk is read from the disk itself.
"""

import contextlib
import dataclasses
import pathlib
import platform
import re
import time
from typing import BinaryIO
import uuid

from amiclient.boot import causes
from amiclient.boot import console
from amiclient.boot import qemu
from amiclient.boot import session
from amiclient import errors
from amiclient.ext import layout
from amiclient import kvm
from amiclient import process
from amiclient.progress import Progress
from amiclient.progress import QUIET
from amiclient.progress import Task
from amiclient.rootfs import identify
from amiclient import scratch
from amiclient.source import bundle
from amiclient import units

#: What is waited for, if the user does not say.
UNTIL = 'login:'

#: Seconds that it may take; without KVM, a full system takes a minute or two.
TIMEOUT = 300.0

#: Bytes of memory, as in a small flavor.
MEMORY = 2**30

_SECTORS = f'sectors of {qemu.SECTOR} bytes'

#: How much larger than the root filesystem its disk is.
_GROWTH = 2

#: What a getty on the virtio console says, or has in /etc/issue.
_LOGIN = re.compile(rf'login:|\b{session.VIRTUAL}\b')

#: Results after which the guest can still write what it has in memory.
ALIVE = ('booted', 'left')


@dataclasses.dataclass(frozen=True, kw_only=True)
class BootRequest:
    """What the user wants.

    :param kernel: a file; None for that of the source. So ``ramdisk``.
    :param disk: its size, in bytes; None for twice what the source takes.
    :param memory: bytes.
    :param cpus: how many.
    :param until: what to wait for, in a line of the console.
    :param wait: seconds to wait for it.
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
    wait: float = TIMEOUT
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
    root: layout.RootImage
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
    :param read_only: whether the root filesystem was never mounted
        read-write; None if it did not boot.
    :param failed_units: what systemd could not start, as it says.
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
    read_only: bool | None = None
    failed_units: tuple[str, ...] = ()

    @property
    def succeeded(self) -> bool:
        return self.result in ALIVE

    def explanation(self, request: BootRequest) -> str:
        """Say why it did not boot, in one line."""
        wanted = f'no {request.until.pattern!r} on the console'
        if self.cause and not self.cause.guessed:
            return f'{wanted}: {self.cause.message}; {self.cause.remedy}'
        if self.result == 'ended':
            return f'{wanted}: the guest switched itself off, or restarted'
        wanted += f' after {request.wait:g} seconds'
        more = (
            ''
            if 'console=' in request.append
            else '; --append console=ttyS0 shows more messages'
        )
        if self.cause:
            return (
                f'{wanted}, nor any other output; probably: '
                f'{self.cause.message}; {self.cause.remedy}{more}'
            )
        return f'{wanted}; if it is only slow, give a larger --wait{more}'

    @property
    def grew(self) -> bool:
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
        units.require_whole('--disk', request.disk, qemu.SECTOR, _SECTORS)
        if request.disk > qemu.LARGEST:
            raise errors.UsageError(
                f'--disk of {request.disk} bytes is too large',
                hint=f'give {qemu.LARGEST} at most',
            )
    root = source.image()
    kernel = request.kernel or source.kernel
    ramdisk = request.ramdisk or source.ramdisk
    if kernel is None:
        raise errors.UsageError(
            'no kernel was found in it',
            subject=errors.shown(request.source),
            hint='name one with --kernel',
        )
    found = identify.startable_kernel(kernel)
    if ramdisk is not None:
        identify.identify_ramdisk(ramdisk)
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


#: Seconds to go on listening once the guest is in a state that it does not
#: leave, for what it says about that.
_LAST_WORDS = 2.0

#: Seconds that the rest of a line may take.
_LINE = 0.3

#: Seconds from one look at the screen to the next.
_GLANCE = 1.0

#: Seconds without a word after which a guest can be taken for stuck.
_SILENCE = 15.0

#: How long to wait where there is nothing that ends the waiting.
_HOUR = 3600.0


def execute(plan: BootPlan, *, progress: Progress = QUIET) -> Booted:
    """Boot it.

    :raises ProgramError: if QEMU fails.
    :raises NoSpaceError: if there is no room for what the guest writes.
    """
    request = plan.request
    with (
        scratch.directory(
            request.work_directory,
            request.source,
            'there is no directory for the disk of the guest',
        ) as directory,
        contextlib.ExitStack() as logs,
    ):
        machine = _machine(plan, directory)
        # A terminal that is the guest's has no room for progress.
        watch = QUIET if request.interactive else progress
        task = logs.enter_context(watch.task('Booting', None))
        run = BootRun(plan, _logs(request.console, logs), task)
        run.watch(machine)
        return run.result(machine, directory)


def _machine(plan: BootPlan, directory: pathlib.Path) -> qemu.Machine:
    identity = str(uuid.uuid4())
    overlay = directory / 'disk.qcow2'
    qemu.make_disk(plan.root.path, overlay, plan.disk)
    return qemu.Machine(
        emulator=plan.emulator,
        kvm=kvm.works(plan.emulator.program, plan.emulator.machine),
        kernel=plan.kernel,
        ramdisk=plan.ramdisk,
        disk=overlay,
        source=plan.root.path,
        seed=qemu.make_seed(directory, identity),
        uuid=identity,
        memory=plan.request.memory,
        cpus=plan.request.cpus,
        append=plan.request.append,
        command_line=plan.command_line,
    )


def _logs(
    path: pathlib.Path | None, stack: contextlib.ExitStack
) -> dict[str, BinaryIO]:
    if path is None:
        return {}
    virtual = path.with_name(f'{path.name}.{session.VIRTUAL}')
    return {
        name: stack.enter_context(one.open('wb', buffering=0))
        for name, one in (
            (session.SERIAL, path),
            (session.VIRTUAL, virtual),
        )
    }


def _refuse_full(guest: session.Session) -> None:
    if guest.full:
        raise errors.NoSpaceError(
            'there is no room left for what the guest writes',
            hint='use --work-directory to choose a directory with enough room',
        )


class BootRun:
    """A guest that boots, and what is learned of it.

    :param logs: where what comes on the consoles goes.
    :param task: is told how many bytes that were.
    """

    def __init__(
        self,
        plan: BootPlan,
        logs: dict[str, BinaryIO],
        task: Task,
    ) -> None:
        self._task = task
        self._plan = plan
        self._logs = logs
        self._result = ''
        self._seconds = 0.0
        self._consoles = {
            name: console.Console(plan.request.until)
            for name in (session.SERIAL, session.VIRTUAL)
        }
        # Nobody sees that from outside, so what is waited for is not there.
        self._screen = console.Console(plan.request.until)
        self._heard = 0.0
        self._cause: causes.Cause | None = None

    def watch(self, machine: qemu.Machine) -> None:
        """Boot, until it is known what becomes of it.

        :raises ProgramError: if QEMU fails.
        """
        with session.started(machine) as guest:
            begin = self._heard = time.monotonic()
            if self._plan.request.interactive:
                self._attend(guest)
            else:
                self._wait(guest, begin + self._plan.request.wait)
            self._seconds = time.monotonic() - begin
            if self._result == 'booted':
                self._finish_line(guest)
            self._cause = self._find_cause()
            if self._result in ALIVE:
                for name, data in guest.settle():
                    self._log(name, data)
            guest.quit()
            if guest.program.status:
                raise errors.ProgramError(
                    f'{machine.emulator.program} failed: '
                    f'{guest.program.tail()}'
                )

    def _wait(self, guest: session.Session, end: float) -> None:
        final, glance = None, 0.0
        while not self._result:
            now = time.monotonic()
            if now >= glance:
                glance = now + _GLANCE
                if self._plan.emulator.video:
                    guest.look()
            left = min(end, final or end, glance) - now
            for name, data in guest.read(left):
                self._take(name, data)
            _refuse_full(guest)
            now = time.monotonic()
            if self._matched is not None:
                self._result = 'booted'
            elif guest.ended:
                self._result = 'ended'
            elif now > end:
                self._result = 'timeout'
            elif final is not None and now > final:
                self._result = 'failed'
            elif final is None and self._signs.final:
                final = now + _LAST_WORDS

    def _finish_line(self, guest: session.Session) -> None:
        end = time.monotonic() + _LINE
        while (left := end - time.monotonic()) > 0 and not guest.ended:
            for name, data in guest.read(left):
                self._take(name, data)

    def _attend(self, guest: session.Session) -> None:
        with session.attached() as terminal:
            guest.listen(terminal.descriptor)
            while not self._result:
                for name, data in guest.read(_HOUR):
                    if name == str(terminal.descriptor):
                        guest.write(terminal.read())
                        continue
                    self._take(name, data)
                    if name == session.SERIAL:
                        terminal.write(data)
                _refuse_full(guest)
                if terminal.left:
                    self._result = 'left'
                elif guest.ended:
                    # The user may have switched it off.
                    seen = self._matched is not None
                    self._result = 'booted' if seen else 'ended'

    def _take(self, name: str, data: bytes) -> None:
        if name == session.SCREEN:
            self._screen.feed(data)
            return
        self._heard = time.monotonic()
        self._log(name, data)
        self._consoles[name].feed(data)
        self._task.advance(len(data))

    def _log(self, name: str, data: bytes) -> None:
        if name in self._logs:
            self._logs[name].write(data)

    @property
    def _matched(self) -> str | None:
        found = self._consoles[session.SERIAL].matched
        if found is None and not self._asks_in_vain:
            found = self._consoles[session.VIRTUAL].matched
        return found

    @property
    def _asks_in_vain(self) -> bool:
        """Whether there is a login where Nova has no console."""
        line = self._consoles[session.VIRTUAL].matched
        return line is not None and bool(_LOGIN.search(line))

    @property
    def _signs(self) -> causes.Signs:
        return self._told.add(self._screen.signs)

    @property
    def _told(self) -> causes.Signs:
        """What can be seen from outside."""
        serial, virtual = self._consoles.values()
        return serial.signs.add(virtual.signs)

    def _find_cause(self) -> causes.Cause | None:
        found = self._signs.cause
        if found is not None or self._result != 'timeout':
            return found
        if self._screen.matched is not None or self._asks_in_vain:
            return causes.named('no-console')
        if time.monotonic() - self._heard > _SILENCE:
            return self._told.guess
        return None

    def _lines(self) -> tuple[list[str], bool]:
        """Choose the console that tells the cause, or has the most to say.

        :returns: its last lines, and whether it is the screen.
        """
        wanted, consoles = self._cause, [*self._consoles.values()]
        for one in (*consoles, self._screen):
            if wanted is not None and one.signs.cause == wanted:
                return one.lines, one is self._screen
        return max((one.lines for one in consoles), key=len), False

    def result(self, machine: qemu.Machine, directory: pathlib.Path) -> Booted:
        """Tell what became of it, and look at what it left on the disk."""
        known = self._plan.root.superblock
        before = known.size
        found = qemu.superblock_of(machine.disk, machine.source, directory)
        alive = self._result in ALIVE
        if alive and found and found.needs_recovery and found.size <= before:
            # The kernel does not listen to SysRq.
            found = (
                qemu.replayed(machine.disk, machine.source, directory) or found
            )
        lines, screen = self._lines()
        return Booted(
            result=self._result,
            seconds=round(self._seconds, 1),
            matched=self._matched,
            root_size=found.size if found else None,
            root_size_before=before,
            disk=self._plan.disk,
            accelerator='kvm' if machine.kvm else 'tcg',
            console=self._plan.request.console,
            cause=None if alive else self._cause,
            lines=tuple(causes.relevant(lines)),
            screen=screen,
            read_only=found.mounted == known.mounted
            if alive and found
            else None,
            failed_units=self._signs.failed,
        )
