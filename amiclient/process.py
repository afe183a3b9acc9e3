# SPDX-License-Identifier: Apache-2.0

"""The one door to other programs.

Nothing else in this package starts a process. A program is named by a list of
arguments, never by a shell line; it is looked up in ``PATH`` and in the
``sbin`` folders (where ordinary users on Debian do not look, but where
e2fsprogs live); it runs in the C locale, with stdin closed, in a session of
its own so that a Ctrl-C at the terminal reaches this process alone, which
then decides what becomes of the child. What it may open, its caller declares:
see :mod:`amiclient.confinement`.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import fcntl
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from typing import BinaryIO, cast, IO

from amiclient import confinement
from amiclient import errors
from amiclient import interrupts
from amiclient import limits
from amiclient import packages
from amiclient import pump

_SBIN = ('/usr/local/sbin', '/usr/sbin', '/sbin')

#: How much of a failed program's stderr goes into the error message.
_TAIL = 300

#: A program that runs. Only this module may say what that is made of.
Child = subprocess.Popen[bytes]

#: Seconds a child has between SIGTERM and SIGKILL.
_GRACE = 2.0

#: Seconds between two looks at the cancel event, and at the clock.
_POLL = 0.1

#: Bytes that a pipe may hold (fcntl(2)), so that who writes waits less often.
_PIPE = 1 << 20

#: How programs say that they get no more memory (strerror(3), GLib, zstd).
_NO_MEMORY = re.compile(
    'Cannot allocate memory|[Mm]emory allocation failed|failed to allocate|'
    'not enough memory|memory exhausted'
)

#: Bytes that a program may write to stdout or stderr, if nobody says.
MOST = 256 << 20


@dataclasses.dataclass(frozen=True)
class Result:
    """What a finished program left behind."""

    argv: tuple[str, ...]
    status: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        """Standard output as text; bytes that are not UTF-8 are escaped."""
        return self.stdout.decode('utf-8', 'backslashreplace')

    def tail(self) -> str:
        """The last words on stderr, as one line."""
        return ' '.join(self.stderr.split())[-_TAIL:]


class ProgramFailed(errors.ProgramError):
    """A program ended with a status that was not allowed for.

    :param result: what it left behind.
    """

    def __init__(self, result: Result) -> None:
        name = os.path.basename(result.argv[0])
        if limited := result.status == -signal.SIGXFSZ:
            how = f'was ended: files are limited to {limits.file()} bytes'
        elif result.status < 0:
            how = f'was killed by {signal.Signals(-result.status).name}'
        else:
            how = f'failed with exit status {result.status}'
        words = result.tail() or ' '.join(result.text.split())[-_TAIL:]
        message = f'{name} {how}: {words}'.removesuffix(': ')
        super().__init__(message, hint=limits.RAISE if limited else None)
        self.result = result


class TooTalkative(errors.ProgramError):
    """A program was ended, because it said more than it may.

    :param result: what it said before.
    """

    def __init__(self, result: Result, most: int) -> None:
        name = os.path.basename(result.argv[0])
        super().__init__(
            f'{name} was ended, for it wrote more than {most} bytes of text',
            hint='what it was given must be damaged',
        )
        self.result = result


def find(program: str) -> str:
    """Find a program.

    :param program: its name, without a folder.
    :returns: its path.
    :raises ProgramError: if it is not installed.
    """
    path = os.pathsep.join((os.environ.get('PATH', os.defpath), *_SBIN))
    found = shutil.which(program, path=path)
    if found is None:
        package = packages.HOLDING.get(program)
        raise errors.ProgramError(
            f'{program} was not found',
            hint=f'install the package {package}' if package else None,
        )
    return found


def found(argv: Sequence[str | os.PathLike[str]]) -> tuple[str, ...]:
    """Put the path of a program in the place of its name."""
    return (find(os.fspath(argv[0])), *(os.fspath(a) for a in argv[1:]))


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    access: confinement.Access | None = None,
    ok: Container[int] = (0,),
    env: Mapping[str, str] | None = None,
    input: bytes | None = None,
    cwd: pathlib.Path | None = None,
    interruptible: bool = True,
    cancel: threading.Event | None = None,
    limit: float | None = None,
    memory: int | None = None,
    cpu: int | None = None,
    most: int = MOST,
    drop: bool = False,
) -> Result:
    """Run a program to its end.

    :param argv: its name, without a folder, and its arguments.
    :param access: what it may open; None for whatever the user may.
    :param ok: the exit statuses that are not failures.
    :param env: variables to add to the environment.
    :param input: what it gets on stdin; nothing (``/dev/null``) if None.
    :param cwd: the folder it runs in.
    :param interruptible: if false, a signal that arrives meanwhile (Ctrl-C,
        say) has its effect only once the program has ended: for what would
        leave the only copy of something half written.
    :param cancel: when set, the program is ended and CancelledError raised.
    :param limit: the seconds that it may take, if it is interruptible; then
        it is ended.
    :param memory: the bytes of address space that it may take, if it is
        interruptible.
    :param cpu: the seconds of processor time that it may take, likewise.
    :param most: the bytes that it may write to stdout or stderr, if it is
        interruptible; then it is ended. If not, the rest is dropped.
    :param drop: drop the rest in any case.
    :raises TooTalkative: if it writes more than that.
    :raises ProgramError: if it is missing, takes too long, or ends with
        another status.
    :raises CancelledError: if ``cancel`` was set meanwhile.
    """
    command = found(argv)
    if cancel is not None and cancel.is_set() and interruptible:
        raise errors.CancelledError('given up')
    with (
        # From before it starts to after its end.
        contextlib.nullcontext() if interruptible else interrupts.held(),
        _standard_input(input) as stdin,
        started(command, stdin, access=access, cwd=cwd, env=env) as child,
    ):
        if interruptible:
            lower(child, resource.RLIMIT_AS, memory)
            lower(child, resource.RLIMIT_CPU, cpu)
        pumps = _pumps(child, most, drop)
        _wait(child, pumps, interruptible, cancel, limit)
    stdout, stderr = (one.kept for one in pumps)
    result = Result(
        command,
        child.returncode,
        stdout,
        stderr.decode('utf-8', 'backslashreplace'),
    )
    if interruptible:
        refuse_limited(result, cpu=cpu, memory=memory)
    else:
        refuse_limited(result)
    if interruptible and any(one.overflowed for one in pumps):
        raise TooTalkative(result, most)
    if result.status not in ok:
        raise ProgramFailed(result)
    return result


@contextlib.contextmanager
def reading(
    argv: Sequence[str | os.PathLike[str]],
    stdin: BinaryIO,
    *,
    access: confinement.Access | None = None,
    memory: int | None = None,
) -> Iterator['Pipe']:
    """Run a program for what it writes, which is too much to be kept.

    It is ended with the ``with`` block.

    :param argv: its name, without a folder, and its arguments.
    :param stdin: a file that it reads from its position on.
    :param access: what it may open besides; None for whatever the user may.
    :param memory: the bytes of address space that it may take.
    :returns: what it writes. At the end, its exit status is looked at.
    :raises ProgramError: if it is missing.
    """
    with (
        tempfile.TemporaryFile() as words,
        started(
            found(argv), stdin.fileno(), access=access, stderr=words.fileno()
        ) as child,
    ):
        lower(child, resource.RLIMIT_AS, memory)
        with contextlib.suppress(OSError):
            # A user has only so many that are that large.
            pipe = cast(IO[bytes], child.stdout)
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)
        try:
            yield Pipe(child, words, memory)
        finally:
            if child.poll() is None:
                end(child)


class Pipe:
    """What a program writes, as long as it runs.

    :param words: what it writes to stderr.
    :param memory: the bytes that it was given.
    """

    def __init__(
        self, child: Child, words: IO[bytes], memory: int | None
    ) -> None:
        self._child = child
        self._words = words
        self._memory = memory

    def read(self, count: int, /) -> bytes:
        """Read up to so many bytes; none at the end.

        :raises ProgramFailed: if the program failed.
        """
        data = cast(IO[bytes], self._child.stdout).read(count)
        if not data and self._child.wait():
            self._words.seek(0)
            result = Result(
                tuple(cast(Sequence[str], self._child.args)),
                self._child.returncode,
                b'',
                self._words.read().decode('utf-8', 'backslashreplace'),
            )
            refuse_limited(result, memory=self._memory)
            refuse_greedy(result, self._memory)
            raise ProgramFailed(result)
        return data


@contextlib.contextmanager
def _standard_input(data: bytes | None) -> Iterator[int]:
    if data is None:
        yield subprocess.DEVNULL
        return
    # Not a pipe: after a time-out, communicate() of Python 3.11 does not
    # write the rest of the input.
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        yield file.fileno()


@contextlib.contextmanager
def started(
    command: Sequence[str],
    stdin: int = subprocess.DEVNULL,
    *,
    access: confinement.Access | None = None,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
    cwd: pathlib.Path | None = None,
    env: Mapping[str, str] | None = None,
    inherited: Sequence[int] = (),
) -> Iterator[Child]:
    """Start a program, and wait for it at the end of the ``with`` block.

    :param command: made by :func:`found`.
    :param access: what it may open; None for whatever the user may.
    :param env: variables to add to the environment.
    :param inherited: descriptors that it has as well, by the same numbers.
    """
    variables = dict(os.environ)
    if access is not None:
        # Passwords and tokens are no business of what reads images.
        variables = {
            name: value
            for name, value in variables.items()
            if not name.startswith('OS_')
        }

    # A path that leads through a descriptor of ours is none to a program
    # that must not look into other processes: it gets the descriptor.
    ours = re.compile(rf'/proc/{os.getpid()}/fd/([0-9]+)')
    words = [*command, os.fspath(cwd or '')]
    handed = {int(n) for word in words for n in ours.findall(word)}
    *words, place = (ours.sub(r'/proc/self/fd/\1', word) for word in words)

    def start() -> Child:
        return subprocess.Popen(
            words,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=place or None,
            env={**variables, 'LC_ALL': 'C', **(env or {})},
            start_new_session=True,
            pass_fds=(*inherited, *handed),
        )

    child: Child | None = None
    with contextlib.ExitStack() as stack:
        try:
            # A signal in the middle would leave a program nobody knows of.
            with interrupts.held():
                if access is None:
                    child = start()
                else:
                    child = stack.enter_context(
                        confinement.called(start, command[0], access)
                    )
            lower(child, resource.RLIMIT_CPU, None)
            with child:
                yield child
        except BaseException:
            if child is not None and child.returncode is None:
                end(child)
            raise


def lower(child: Child, what: int, most: int | None) -> None:
    """Limit what a program that runs may take."""
    # From outside, for what Popen would call between fork and exec is not
    # safe where there are threads. It has begun by then, but not taken much.
    with contextlib.suppress(ProcessLookupError):
        limits.lower(child.pid, what, most)


def refuse_limited(
    result: Result, *, cpu: int | None = None, memory: int | None = None
) -> None:
    """Make sure that a program did not end at a limit.

    :param cpu: the seconds of processor time that it was given.
    :param memory: the bytes.
    :raises ProgramError: if it did; not of memory, if that was a plenty.
    """
    name = os.path.basename(result.argv[0])
    if result.status == -signal.SIGXCPU:
        if limits.is_own(resource.RLIMIT_CPU, cpu):
            raise limits.exhausted(name, resource.RLIMIT_CPU)
        if cpu is None:
            return
        raise errors.ProgramError(
            f'{name} was ended, for it took more than {cpu} seconds of '
            'processor time',
            hint='what it was given must be damaged',
        )
    if (
        result.status
        and limits.is_own(resource.RLIMIT_AS, memory)
        and _NO_MEMORY.search(f'{result.text}{result.stderr}')
    ):
        raise limits.exhausted(name, resource.RLIMIT_AS)


def refuse_greedy(result: Result, memory: int | None) -> None:
    """Make sure that a program did not want more memory than it was given.

    :param memory: the bytes; None for as many as it likes.
    :raises ProgramError: if it did.
    """
    said = _NO_MEMORY.search(f'{result.text}{result.stderr}')
    if memory is not None and result.status and said:
        name = os.path.basename(result.argv[0])
        raise errors.ProgramError(
            f'{name} was ended, for it took more than {memory} bytes of '
            'memory',
            hint='what it was given must be damaged',
        )


def _pumps(child: Child, most: int, drop: bool) -> tuple[pump.Pump, pump.Pump]:
    made = [
        pump.Pump(cast(BinaryIO, pipe), most, drop=drop)
        for pipe in (child.stdout, child.stderr)
    ]
    for one in made:
        one.start()
    return made[0], made[1]


def _wait(
    child: Child,
    pumps: tuple[pump.Pump, pump.Pump],
    interruptible: bool,
    cancel: threading.Event | None,
    limit: float | None,
) -> None:
    begin = time.monotonic()
    while True:
        try:
            if all(one.done.wait(_POLL) for one in pumps):
                child.wait(_POLL)
                return
        except subprocess.TimeoutExpired:
            pass
        except BaseException:
            # If not, Popen waits for it on the way out.
            if interruptible:
                end(child)
            raise
        if not interruptible:
            continue
        if cancel is not None and cancel.is_set():
            end(child)
            raise errors.CancelledError('given up')
        if limit is not None and time.monotonic() - begin > limit:
            end(child)
            raise _too_slow(child, limit)
        if any(one.overflowed for one in pumps):
            end(child)


def _too_slow(child: Child, limit: float) -> errors.ProgramError:
    name = os.path.basename(cast(Sequence[str], child.args)[0])
    return errors.ProgramError(
        f'{name} was ended, for it took more than {limit:.0f} seconds',
        hint='see whether the disk answers, and try again',
    )


def waited(child: Child, seconds: float) -> bool:
    """Wait for the end of a program, and tell whether it has come."""
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def end(child: Child) -> None:
    """End a program, and what it started."""
    _signal(child, signal.SIGTERM)
    if not waited(child, _GRACE):
        _signal(child, signal.SIGKILL)
        child.wait()


def _signal(child: Child, number: int) -> None:
    # It leads a group of its own: what it started in turn is meant as well.
    # Once it has been waited for, its number may be another's.
    if child.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)
