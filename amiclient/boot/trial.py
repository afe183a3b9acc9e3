#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.

"""Booting a triple as Nova would, to see whether it does.

A request becomes a plan, which says what would run; then it runs, on a disk
that is thrown away, until the console shows what is waited for, or it is
clear that it will not. Whether the root filesystem grew to the size of the
disk is read from the disk itself.
"""

import contextlib
import dataclasses
import pathlib
import platform
import re
import time
from typing import BinaryIO
import uuid as uuid_

from amiclient.boot import causes
from amiclient.boot import console as console_
from amiclient.boot import disk as disk_
from amiclient.boot import qemu
from amiclient.boot import seed
from amiclient.boot import session as session_
from amiclient.boot import terminal as terminal_
from amiclient import exceptions
from amiclient.ext import image
from amiclient.ext import workplace
from amiclient import files
from amiclient import process
from amiclient import progress as progress_
from amiclient.rootfs import kernels
from amiclient.rootfs import ramdisks
from amiclient.source import bundle
from amiclient.source import detect
from amiclient.source import opening
from amiclient import temporary

#: What is waited for, if the user does not say.
UNTIL = 'login:'

#: Seconds that it may take; without KVM, a full system takes a minute or two.
TIMEOUT = 300.0

#: Bytes of memory, as in a small flavor.
MEMORY = 2**30

#: How much larger than the root filesystem its disk is.
_GROWTH = 2

#: Seconds to go on listening once the guest is in a state that it does not
#: leave, for what it says about that.
_LAST_WORDS = 2.0

#: How long to wait where there is nothing that ends the waiting.
_HOUR = 3600.0

#: Results after which the guest can still write what it has in memory.
_ALIVE = ('booted', 'left')

#: Seconds to find out whether KVM works.
_TRIAL = 20.0


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
    """

    request: BootRequest
    root: image.RootImage
    kernel: pathlib.Path
    ramdisk: pathlib.Path | None
    emulator: qemu.Emulator
    disk: int


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

    @property
    def succeeded(self) -> bool:
        """Whether it was as it should be."""
        return self.result in _ALIVE

    def explanation(self, request: BootRequest) -> str:
        """Say why it did not boot, in one line."""
        wanted = f'no {request.until.pattern!r} on the console'
        if self.cause:
            return f'{wanted}: {self.cause.message}; {self.cause.remedy}'
        if self.result == 'ended':
            return f'{wanted}: the guest switched itself off, or restarted'
        return (
            f'{wanted} after {request.timeout:g} seconds; if it is only slow, '
            'give it more with --timeout'
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
    root = detect.open_root(source.root)
    kernel = request.kernel or source.kernel
    ramdisk = request.ramdisk
    if kernel is None:
        raise exceptions.UsageError(
            f'{opening.shown(request.source)}: no kernel was found in it',
            hint='name one with --kernel',
        )
    if ramdisk is None and request.kernel is None:
        # Another kernel's ramdisk holds modules that fit no other.
        ramdisk = source.ramdisk
    found = kernels.identify_kernel(kernel)
    if ramdisk is not None:
        ramdisks.identify_ramdisk(ramdisk)
    emulator = qemu.emulator(found.architecture or platform.machine())
    for program in (emulator.program, 'qemu-img', 'setpriv'):
        process.find(program)
    qemu.command_line(kvm=False, append=request.append)
    size = request.disk or _GROWTH * root.superblock.size
    if size < root.size:
        raise exceptions.UsageError(
            f'a disk of {size} bytes is too small for the {root.size} of '
            f'{opening.shown(request.source)}',
            hint='give a larger --disk',
        )
    return BootPlan(request, root, kernel.absolute(), ramdisk, emulator, size)


def execute(
    plan: BootPlan, *, progress: progress_.Progress = progress_.QUIET
) -> Booted:
    """Boot it.

    :raises ProgramError: if QEMU fails.
    :raises NoSpaceError: if there is no room for what the guest writes.
    """
    request = plan.request
    places = workplace.candidates(request.work_directory, request.source)
    if not places:
        raise exceptions.NoSpaceError(
            'there is no folder for the disk of the guest',
            hint='name one with --work-directory',
        )
    with (
        temporary.Folder(max(places, key=files.room)) as folder,
        contextlib.ExitStack() as logs,
    ):
        machine = _machine(plan, folder.path)
        run = Run(plan, _logs(request.console, logs))
        with progress.task('Booting', None):
            run.watch(machine)
        return run.result(machine, folder.path)


def _machine(plan: BootPlan, folder: pathlib.Path) -> qemu.Machine:
    uuid = str(uuid_.uuid4())
    overlay = folder / 'disk.qcow2'
    disk_.make(plan.root.path, overlay, plan.disk)
    return qemu.Machine(
        emulator=plan.emulator,
        kvm=kvm_works(plan.emulator),
        kernel=plan.kernel,
        ramdisk=plan.ramdisk,
        disk=overlay,
        seed=seed.make(folder, uuid),
        uuid=uuid,
        memory=plan.request.memory,
        cpus=plan.request.cpus,
        append=plan.request.append,
    )


def kvm_works(emulator: qemu.Emulator) -> bool:
    """Try whether guests can run on the processor itself.

    Only that tells: the device may be there and of no use.
    """
    try:
        process.run(qemu.trial(emulator), input=qemu.QUIT, limit=_TRIAL)
    except exceptions.ProgramError:
        return False
    return True


def _logs(
    path: pathlib.Path | None, stack: contextlib.ExitStack
) -> dict[str, BinaryIO]:
    if path is None:
        return {}
    virtual = path.with_name(f'{path.name}.{session_.VIRTUAL}')
    return {
        name: stack.enter_context(one.open('wb', buffering=0))
        for name, one in (
            (session_.SERIAL, path),
            (session_.VIRTUAL, virtual),
        )
    }


class Run:
    """A guest that boots, and what is learned of it.

    :param logs: where what comes on the consoles goes.
    """

    def __init__(self, plan: BootPlan, logs: dict[str, BinaryIO]) -> None:
        self._plan = plan
        self._logs = logs
        self._result = ''
        self._seconds = 0.0
        self._consoles = {
            name: console_.Console(plan.request.until)
            for name in (session_.SERIAL, session_.VIRTUAL)
        }

    def watch(self, machine: qemu.Machine) -> None:
        """Boot, until it is known what becomes of it.

        :raises ProgramError: if QEMU fails.
        """
        with session_.started(machine) as session:
            begin = time.monotonic()
            if self._plan.request.interactive:
                self._attend(session)
            else:
                self._wait(session, begin + self._plan.request.timeout)
            self._seconds = time.monotonic() - begin
            if self._result in _ALIVE:
                for name, data in session.settle():
                    self._log(name, data)
            session.quit()
            if session.program.status:
                raise exceptions.ProgramError(
                    f'{machine.emulator.program} failed: '
                    f'{session.program.tail()}'
                )

    def _wait(self, session: session_.Session, end: float) -> None:
        final = None
        while not self._result:
            left = min(end, final or end) - time.monotonic()
            for name, data in session.read(left):
                self._take(name, data)
            now = time.monotonic()
            if self._matched is not None:
                self._result = 'booted'
            elif session.ended:
                self._result = 'ended'
            elif now > end:
                self._result = 'timeout'
            elif final is not None and now > final:
                self._result = 'failed'
            elif final is None and self._signs.final:
                final = now + _LAST_WORDS

    def _attend(self, session: session_.Session) -> None:
        """Let the user talk to the guest."""
        with terminal_.attached() as terminal:
            session.listen(terminal.descriptor)
            while not self._result:
                for name, data in session.read(_HOUR):
                    if name == str(terminal.descriptor):
                        session.write(terminal.read())
                        continue
                    self._take(name, data)
                    if name == session_.SERIAL:
                        terminal.write(data)
                if terminal.left:
                    self._result = 'left'
                elif session.ended:
                    self._result = 'ended'

    def _take(self, name: str, data: bytes) -> None:
        self._log(name, data)
        self._consoles[name].feed(data)

    def _log(self, name: str, data: bytes) -> None:
        if name in self._logs:
            self._logs[name].write(data)

    @property
    def _matched(self) -> str | None:
        found = (one.matched for one in self._consoles.values())
        return next((line for line in found if line is not None), None)

    @property
    def _signs(self) -> causes.Signs:
        serial, virtual = self._consoles.values()
        return serial.signs.add(virtual.signs)

    def result(self, machine: qemu.Machine, folder: pathlib.Path) -> Booted:
        """Tell what became of it, and look at what it left on the disk."""
        before = self._plan.root.superblock.size
        found = disk_.superblock_of(machine.disk, folder)
        alive = self._result in _ALIVE
        if alive and found and found.needs_recovery and found.size <= before:
            # The kernel does not listen to SysRq.
            found = disk_.replayed(machine.disk, folder) or found
        lines = max((one.lines for one in self._consoles.values()), key=len)
        return Booted(
            result=self._result,
            seconds=round(self._seconds, 1),
            matched=self._matched,
            root_size=found.size if found else None,
            root_size_before=before,
            disk=self._plan.disk,
            accelerator='kvm' if machine.kvm else 'tcg',
            console=self._plan.request.console,
            cause=None if alive else self._signs.cause,
            lines=tuple(lines),
        )
