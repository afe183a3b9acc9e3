# SPDX-License-Identifier: Apache-2.0

"""The appliance of libguestfs: Linux, which reads what nothing else here does.

It is a small virtual machine with the kernel of this system. guestfish runs it
and takes commands one by one. The disk comes from qemu-nbd, which looked at
its format and writes nothing; QEMU sees bytes. Nothing of it is opened as a
file, there is no network, and what may be opened is confined to a private
directory: see :mod:`amiclient.confinement`.

The appliance itself is made by supermin, from programs of this system, and
kept where libguestfs keeps it.
"""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import platform
import re
import secrets
import stat
import time
from typing import BinaryIO

from amiclient import confinement
from amiclient import errors
from amiclient import kvm
from amiclient import process
from amiclient.progress import Progress
from amiclient import scratch
from amiclient.source import fstab

#: Types of machines of QEMU, as libguestfs uses them, by the processor.
_MACHINES = {'aarch64': 'virt', 'x86_64': 'pc'}

#: Bytes of address space for QEMU: the memory of the guest, and what it takes
#: to emulate a processor.
_MEMORY = 16 << 30

#: MiB of memory of the guest. LUKS asks for 1 GiB to make a key.
_GUEST = 2048

#: Seconds that it takes to begin where the processor is emulated, to make an
#: appliance, and that a command takes at most.
_START = 900.0
_MAKE = 900.0
_ANSWER = 900.0

#: Seconds that it has to end.
_END = 5.0

#: Seconds from one look at the room that is left to the next.
_GLANCE = 1.0

#: Bytes that a command may say.
_MOST = 8 << 20

#: The longest path of a directory for sockets: libguestfs adds 33 bytes to
#: it, and 107 are the most (unix(7)).
_LONGEST = 72

#: What libguestfs says before what it has to say.
_SAYS = re.compile(r'^(?:\*stdin\*:\d+: )?libguestfs: error: ', re.MULTILINE)

#: Characters that mean nothing to guestfish.
_PLAIN = re.compile(rb'[A-Za-z0-9/._,:=@+-]+')

#: What libguestfs needs of an appliance that it does not make itself.
_FIXED = ('kernel', 'initrd', 'root')

_UNREADABLE = (
    'let ordinary users read the kernel: sudo chmod 0644 /boot/vmlinuz-*; or '
    'set SUPERMIN_KERNEL to a copy that you may read'
)


class CommandError(errors.ProgramError):
    """A command failed; the text tells why."""


class Appliance:
    """An appliance that runs.

    :param running: guestfish.
    :param stdin: what it reads commands from.
    :param place: the private directory, in which room may become scarce.
    """

    def __init__(
        self, running: process.Running, stdin: BinaryIO, place: pathlib.Path
    ) -> None:
        self._running = running
        self._stdin = stdin
        self._place = place

    def ask(
        self,
        *words: str | bytes,
        then: str = '',
        seconds: float = _ANSWER,
    ) -> str:
        """Give a command.

        :param words: the command and its arguments.
        :param then: a line that it reads, a passphrase, say.
        :param seconds: that it may take.
        :returns: what it says.
        :raises CommandError: if it fails.
        :raises ProgramError: if the appliance ends, or takes too long.
        """
        # Nobody in there knows it.
        mark = secrets.token_hex(16)
        _, before = self._running.said()
        line = b' '.join(map(_quoted, words))
        command = b'-' + line + b'\n'
        if then:
            command += os.fsencode(then) + b'\n'
        with contextlib.suppress(BrokenPipeError):
            self._stdin.write(command + f'echo {mark}\n'.encode())
        said = self._until(f'{mark}\n'.encode(), seconds)
        complaints, _ = self._running.said(before)
        if _SAYS.search(complaints):
            told = errors.safe(' '.join(_SAYS.sub('', complaints).split()))
            raise CommandError(told[:300])
        return fstab.decoded(said)

    def lines(self, *words: str | bytes) -> list[str]:
        """Give a command that answers line by line."""
        return self.ask(*words).splitlines()

    def is_so(self, *words: str | bytes) -> bool:
        """Give a command that answers true or false."""
        return self.ask(*words).strip() == 'true'

    def _until(self, mark: bytes, seconds: float) -> bytes:
        said = bytearray()
        deadline = time.monotonic() + seconds
        while not said.endswith(mark):
            data = self._running.read_some(1 << 16, _GLANCE)
            if data is None:
                scratch.refuse_full(self._place)
                if time.monotonic() > deadline:
                    raise errors.ProgramError(
                        'the appliance of libguestfs does not answer',
                        hint='what it was given may be damaged',
                    )
                continue
            said += data
            if not data or len(said) > _MOST:
                raise self._ended()
        return bytes(said[: -len(mark)])

    def _ended(self) -> errors.ProgramError:
        scratch.refuse_full(self._place)
        self._running.refuse_limited()
        words = _SAYS.sub('', self._running.said()[0])
        return errors.ProgramError(
            f'the appliance of libguestfs failed: '
            f'{errors.safe(" ".join(words.split()))[:300]}',
            hint='see whether libguestfs-test-tool works',
        )


@contextlib.contextmanager
def started(
    disk: pathlib.Path,
    output: pathlib.Path,
    place: pathlib.Path,
    *,
    progress: Progress,
) -> Iterator[Appliance]:
    """Run an appliance with two disks, the second of which it may write to.

    :param disk: the socket of an NBD server that has the first disk.
    :param output: a file in the private directory: the second disk.
    :param place: a private directory.
    :raises ProgramError: if that does not work.
    """
    with contextlib.ExitStack() as stack:
        made = _made(place, progress)
        emulator = f'qemu-system-{platform.machine()}'
        machine = _MACHINES.get(platform.machine())
        fast = (
            machine is not None
            and os.access(kvm.DEVICE, os.R_OK | os.W_OK)
            and kvm.works(emulator, machine)
        )
        access = confinement.Access(
            reads=(made,),
            rooms=(place, disk.parent),
            # Whatever it is told, libguestfs puts the sockets of root there.
            meeting=None if os.geteuid() else '/tmp',  # noqa: S108
            devices=(kvm.DEVICE,) if fast else (),
        )
        reader, writer = os.pipe()
        with os.fdopen(reader, 'rb') as source:
            stdin = stack.enter_context(os.fdopen(writer, 'wb', 0))
            running = stack.enter_context(
                process.reading(
                    ['guestfish', '--keys-from-stdin'],
                    source,
                    access=access,
                    env={
                        'LIBGUESTFS_BACKEND': 'direct',
                        'LIBGUESTFS_BACKEND_SETTINGS': ''
                        if fast
                        else 'force_tcg',
                        'LIBGUESTFS_CACHEDIR': str(place),
                        'LIBGUESTFS_MEMSIZE': str(_GUEST),
                        'LIBGUESTFS_PATH': str(_fixed(made, place)),
                        'LIBGUESTFS_TMPDIR': str(place),
                        'HOME': str(place),
                        'TMPDIR': str(place),
                        'XDG_RUNTIME_DIR': str(disk.parent),
                    },
                    memory=_MEMORY,
                )
            )
        stack.callback(_finish, running, stdin)
        appliance = Appliance(running, stdin, place)
        with progress.task('Starting libguestfs'):
            appliance.ask(
                'add-drive', '', 'format:raw', 'readonly:true',
                'protocol:nbd', b'server:unix:%s' % os.fsencode(disk),
            )  # fmt: skip
            appliance.ask('add-drive', os.fsencode(output), 'format:raw')
            try:
                appliance.ask('run', seconds=_START)
            except CommandError as error:
                raise errors.ProgramError(
                    f'the appliance of libguestfs does not start: '
                    f'{error.message}',
                    hint='see whether libguestfs-test-tool works',
                ) from error
        yield appliance


def _finish(running: process.Running, stdin: BinaryIO) -> None:
    # It ends when it has read all, and removes what it has made.
    stdin.close()
    running.wait(_END)


@contextlib.contextmanager
def meeting_place(place: pathlib.Path) -> Iterator[pathlib.Path]:
    """Provide a private directory whose path is short enough for sockets.

    :param place: a private directory.
    """
    if len(os.fsencode(place)) <= _LONGEST:
        yield place
        return
    with scratch.PrivateDirectory(pathlib.Path('/tmp')) as made:  # noqa: S108
        yield made.path


def _fixed(made: pathlib.Path, place: pathlib.Path) -> pathlib.Path:
    """Have libguestfs take an appliance as it is, and make none itself."""
    fixed = place / 'appliance'
    fixed.mkdir()
    for name in _FIXED:
        (fixed / name).symlink_to(made / name)
    (fixed / 'README.fixed').touch()
    return fixed


def _made(place: pathlib.Path, progress: Progress) -> pathlib.Path:
    """Make the appliance, unless it is there and still of use.

    :returns: the directory that it is in.
    :raises ProgramError: if that fails.
    """
    path = process.run(
        ['guestfish', 'get-path'],
        access=confinement.Access(),
        env={'LIBGUESTFS_BACKEND': 'direct', 'HOME': str(place)},
        limit=_ANSWER,
    ).text.strip()
    places = [pathlib.Path(each) for each in path.split(':')]
    for each in places:
        if (each / 'supermin.d').is_dir():
            return _kept(each / 'supermin.d', place, progress)
        if all((each / name).exists() for name in _FIXED):
            return each
    raise errors.ProgramError(
        f'libguestfs has no appliance: {errors.safe(path)}',
        hint='install libguestfs again, or set LIBGUESTFS_PATH',
    )


def _kept(
    parts: pathlib.Path, place: pathlib.Path, progress: Progress
) -> pathlib.Path:
    cache = os.environ.get('LIBGUESTFS_CACHEDIR') or '/var/tmp'  # noqa: S108
    own = pathlib.Path(cache) / f'.guestfs-{os.geteuid()}'
    with scratch.explained(own.parent):
        own.mkdir(mode=0o755, exist_ok=True)
    status = own.lstat()
    if (
        not stat.S_ISDIR(status.st_mode)
        or status.st_uid != os.geteuid()
        or status.st_mode & 0o022
    ):
        raise errors.ProgramError(
            'it could be changed by others, and is not used',
            subject=str(own),
            hint='remove it, or set LIBGUESTFS_CACHEDIR',
        )
    made = own / 'appliance.d'
    with progress.task('Preparing libguestfs'), scratch.full_disk(own):
        try:
            process.run(
                [
                    'supermin', '--build', '--if-newer',
                    '--lock', own / 'lock',
                    '--copy-kernel',
                    '-f', 'ext2',
                    '--host-cpu', platform.machine(),
                    parts,
                    '-o', made,
                ],
                # It reads what the system is made of, and nothing else.
                access=confinement.Access(reads=('/',), rooms=(own, place)),
                env={'TMPDIR': str(place)},
                limit=_MAKE,
            )  # fmt: skip
        except process.ProgramFailed as error:
            words = error.result.stderr
            if 'kernel' in words or 'Permission denied' in words:
                error.hint = _UNREADABLE
            raise
    return made


def _quoted(word: str | bytes) -> bytes:
    """Write a word such that guestfish takes it as it is."""
    data = fstab.encoded(word) if isinstance(word, str) else word
    if _PLAIN.fullmatch(data):
        return data
    return b'"%s"' % b''.join(b'\\x%02x' % byte for byte in data)
