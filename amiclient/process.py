# SPDX-License-Identifier: Apache-2.0

"""The one door to other programs.

Nothing else in this package starts a process. A program is named by a list of
arguments, never by a shell line; it is looked up in ``PATH`` and in the
``sbin`` directories (where ordinary users on Debian do not look, but where
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
import select
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from typing import BinaryIO, cast, IO

from amiclient import confinement
from amiclient import distribution
from amiclient import errors
from amiclient import interrupts
from amiclient import jobs

_SBIN = ('/usr/local/sbin', '/usr/sbin', '/sbin')

#: How much of a failed program's stderr goes into the error message.
_TAIL = 300

_Child = subprocess.Popen[bytes]

#: Seconds a child has between SIGTERM and SIGKILL.
_GRACE = 2.0

#: Seconds between two looks at the cancel event, and at the clock.
_POLL = 0.1

#: Bytes at the end of what a program in the background said that are read.
_LAST = 4096

#: Seconds that a program in the background takes to end once nobody can
#: connect to it any more.
_SOON = 0.1

#: Runs a program, unless the process that wanted it is gone: one that died
#: before prctl(2) was called sends no signal any more.
_IF_WANTED = 'test "$PPID" = "$0" && exec "$@"'

#: Bytes that a pipe may hold (fcntl(2)), so that who writes waits less often.
_PIPE = 1 << 20

#: How programs say that they get no more memory (strerror(3), GLib, zstd).
_NO_MEMORY = re.compile(
    'Cannot allocate memory|[Mm]emory allocation failed|failed to allocate|'
    'not enough memory|memory exhausted'
)

#: What is said of limits, and what to do about them.
_LIMITED = {
    resource.RLIMIT_AS: ('bytes of memory', 'ulimit -v unlimited'),
    resource.RLIMIT_CPU: ('seconds of processor time', 'ulimit -t unlimited'),
}

_DAMAGED = 'its input is probably damaged'

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
            most = errors.largest_file()
            how = f'was stopped: files are limited to {most} bytes'
        elif result.status < 0:
            how = f'was killed by {signal.Signals(-result.status).name}'
        else:
            how = f'failed with exit status {result.status}'
        words = result.tail() or ' '.join(result.text.split())[-_TAIL:]
        message = f'{name} {how}: {words}'.removesuffix(': ')
        super().__init__(message, hint=errors.RAISE if limited else None)
        self.result = result


class TooTalkative(errors.ProgramError):
    """A program was ended, because it said more than it may.

    :param result: what it said before.
    """

    def __init__(self, result: Result, most: int) -> None:
        name = os.path.basename(result.argv[0])
        super().__init__(
            f'{name} was stopped: it wrote more than {most} bytes of text',
            hint=_DAMAGED,
        )
        self.result = result


def find(program: str) -> str:
    """Find a program.

    :param program: its name, without a directory.
    :returns: its path.
    :raises ProgramError: if it is not installed.
    """
    path = os.pathsep.join((os.environ.get('PATH', os.defpath), *_SBIN))
    found = shutil.which(program, path=path)
    if found is None:
        raise errors.ProgramError(
            f'{program} was not found', hint=distribution.remedy(program)
        )
    return found


def _found(argv: Sequence[str | os.PathLike[str]]) -> tuple[str, ...]:
    return (find(os.fspath(argv[0])), *(os.fspath(a) for a in argv[1:]))


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    access: confinement.Access | None,
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

    :param argv: its name, without a directory, and its arguments.
    :param access: what it may open; None for whatever the user may.
    :param ok: the exit statuses that are not failures.
    :param env: variables to add to the environment.
    :param input: what it gets on stdin; nothing (``/dev/null``) if None.
    :param cwd: the directory it runs in.
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
    command = _found(argv)
    if cancel is not None and cancel.is_set() and interruptible:
        raise errors.CancelledError('cancelled')
    with (
        # From before it starts to after its end.
        contextlib.nullcontext() if interruptible else interrupts.held(),
        _standard_input(input) as stdin,
        _started(command, stdin, access=access, cwd=cwd, env=env) as child,
    ):
        try:
            if interruptible:
                confinement.lower(child.pid, resource.RLIMIT_AS, memory)
                confinement.lower(child.pid, resource.RLIMIT_CPU, cpu)
            pumps = _pumps(child, most, drop)
            _wait(child, pumps, interruptible, cancel, limit)
        except BaseException:
            # Before its pipes are closed: that waits for who reads them. If
            # it may not be ended, Popen waits for it on the way out.
            if interruptible:
                _end(child)
            raise
    stdout, stderr = (one.kept for one in pumps)
    result = Result(
        command,
        child.returncode,
        stdout,
        stderr.decode('utf-8', 'backslashreplace'),
    )
    if interruptible:
        _refuse_limited(result, cpu=cpu, memory=memory)
    else:
        _refuse_limited(result)
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
    access: confinement.Access | None,
    env: Mapping[str, str] | None = None,
    memory: int | None = None,
) -> Iterator['Running']:
    """Run a program for what it writes, which is too much to be kept.

    It is ended with the ``with`` block. The parameters are those of
    :func:`run`.

    :param stdin: a file that it reads from its position on.
    :returns: what it writes. At the end, its exit status is looked at.
    :raises ProgramError: if it is missing.
    """
    with (
        tempfile.TemporaryFile() as words,
        _started(
            _found(argv),
            stdin.fileno(),
            access=access,
            env=env,
            stderr=words.fileno(),
        ) as child,
    ):
        confinement.lower(child.pid, resource.RLIMIT_AS, memory)
        with contextlib.suppress(OSError):
            # A user has only so many that are that large.
            pipe = cast(IO[bytes], child.stdout)
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)
        try:
            yield Running(child, words, memory)
        finally:
            if child.poll() is None:
                _end(child)


class Running:
    """A program that runs beside this one.

    :param words: what it writes to stderr, at least.
    :param memory: the bytes that it was given.
    :param command: what it is, if it is started by way of another program.
    """

    def __init__(
        self,
        child: _Child,
        words: IO[bytes],
        memory: int | None,
        command: tuple[str, ...] | None = None,
    ) -> None:
        self._child = child
        self._words = words
        self._memory = memory
        self._command = command or cast(tuple[str, ...], child.args)

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def status(self) -> int | None:
        """Its exit status; None as long as it runs."""
        return self._child.poll()

    def wait(self, seconds: float) -> bool:
        """Wait for its end, and tell whether it has come."""
        return _waited(self._child, seconds)

    def read(self, count: int, /) -> bytes:
        """Read what it writes; nothing at the end.

        :raises ProgramFailed: if it failed.
        """
        data = cast(IO[bytes], self._child.stdout).read(count)
        if not data and self._child.wait():
            raise ProgramFailed(self._checked())
        return data

    def read_some(self, count: int, seconds: float) -> bytes | None:
        """Read what it has written, at least a byte; none at the end.

        :returns: None if it writes nothing for so long.
        """
        pipe = cast(IO[bytes], self._child.stdout).fileno()
        if not select.select([pipe], [], [], seconds)[0]:
            return None
        return os.read(pipe, count)

    def said(self, position: int = 0) -> tuple[str, int]:
        """Read what it has written to stderr from a position on.

        :returns: the last of that, and where it ends.
        """
        # It writes to the same open file: the position must stay its own.
        size = os.fstat(self._words.fileno()).st_size
        begin = max(position, size - _LAST)
        data = os.pread(self._words.fileno(), size - begin, begin)
        return data.decode('utf-8', 'backslashreplace'), size

    def refuse_limited(self) -> None:
        """Raise ProgramError if it has ended at a limit."""
        if self.wait(_SOON):
            self._checked()

    def _checked(self) -> Result:
        status = self._child.returncode
        result = Result(self._command, status, b'', self.said()[0])
        _refuse_limited(result, memory=self._memory)
        if self._memory is not None and status and _lacks_memory(result):
            raise _too_greedy(result.argv, self._memory, 'bytes of memory')
        return result

    def tail(self) -> str:
        return Result(self._command, 0, b'', self.said()[0]).tail()


@contextlib.contextmanager
def background(
    argv: Sequence[str | os.PathLike[str]],
    *,
    access: confinement.Access | None,
    inherited: Sequence[int] = (),
    memory: int | None = None,
) -> Iterator[Running]:
    """Start a program that has no end of its own, such as an emulator.

    It is ended with the ``with`` block. It is killed with this process, too,
    even if that is killed itself (PR_SET_PDEATHSIG in prctl(2)). So it has to
    be started by a thread that lives as long as it is needed. The parameters
    are those of :func:`run`.

    :param inherited: descriptors that it has as well, by the same numbers.
    :raises ProgramError: if it is missing.
    """
    program = _found(argv)
    if access is not None:
        access = dataclasses.replace(access, runs=program[:1])
    shell = ('/bin/sh', '-c', _IF_WANTED, str(os.getpid()))
    tied = _found(['setpriv', '--pdeathsig', 'KILL', '--', *shell, *program])
    with (
        tempfile.TemporaryFile() as words,
        _started(
            tied,
            access=access,
            stdout=words.fileno(),
            stderr=words.fileno(),
            inherited=inherited,
        ) as child,
    ):
        confinement.lower(child.pid, resource.RLIMIT_AS, memory)
        try:
            yield Running(child, words, memory, program)
        finally:
            _end(child)


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
def _started(
    command: Sequence[str],
    stdin: int = subprocess.DEVNULL,
    *,
    access: confinement.Access | None,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
    cwd: pathlib.Path | None = None,
    env: Mapping[str, str] | None = None,
    inherited: Sequence[int] = (),
) -> Iterator[_Child]:
    """Start a program, and wait for it at the end of the ``with`` block."""
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

    def start() -> _Child:
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

    child: _Child | None = None
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
            confinement.lower(child.pid, resource.RLIMIT_CPU, None)
            with child:
                yield child
        except BaseException:
            if child is not None and child.returncode is None:
                _end(child)
            raise


def _refuse_own(name: str, what: int, most: int | None) -> None:
    """Blame our own limit, if it is none above what the program was given."""
    own = confinement.least(*resource.getrlimit(what))
    if own != resource.RLIM_INFINITY and (most is None or own <= most):
        unit, command = _LIMITED[what]
        raise errors.ProgramError(
            f'{name} was stopped: programs are limited to {own} {unit} here',
            hint=f'raise the limit: {command}',
        )


def _refuse_limited(
    result: Result, *, cpu: int | None = None, memory: int | None = None
) -> None:
    """Refuse what ended at a limit; of memory, only if that was our own."""
    name = os.path.basename(result.argv[0])
    if result.status == -signal.SIGXCPU:
        _refuse_own(name, resource.RLIMIT_CPU, cpu)
        if cpu is not None:
            raise _too_greedy(result.argv, cpu, 'seconds of processor time')
    elif result.status and _lacks_memory(result):
        _refuse_own(name, resource.RLIMIT_AS, memory)


def _lacks_memory(result: Result) -> bool:
    return bool(_NO_MEMORY.search(f'{result.text}{result.stderr}'))


def _too_greedy(
    argv: Sequence[str], most: float, unit: str, hint: str = _DAMAGED
) -> errors.ProgramError:
    name = os.path.basename(argv[0])
    return errors.ProgramError(
        f'{name} was stopped: it took more than {most:.0f} {unit}', hint=hint
    )


def _pumps(child: _Child, most: int, drop: bool) -> list[jobs.Pump]:
    made = [
        jobs.Pump(cast(BinaryIO, pipe), most, drop=drop)
        for pipe in (child.stdout, child.stderr)
    ]
    for one in made:
        one.start()
    return made


def _wait(
    child: _Child,
    pumps: Sequence[jobs.Pump],
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
        if not interruptible:
            continue
        if cancel is not None and cancel.is_set():
            raise errors.CancelledError('cancelled')
        if limit is not None and time.monotonic() - begin > limit:
            raise _too_greedy(
                cast(Sequence[str], child.args),
                limit,
                'seconds',
                'check whether the disk responds, and try again',
            )
        if any(one.overflowed for one in pumps):
            _end(child)


def _waited(child: _Child, seconds: float) -> bool:
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _end(child: _Child) -> None:
    _signal(child, signal.SIGTERM)
    if not _waited(child, _GRACE):
        _signal(child, signal.SIGKILL)
        child.wait()


def _signal(child: _Child, number: int) -> None:
    # It leads a group of its own: what it started in turn is meant as well.
    # Once it has been waited for, its number may be another's.
    if child.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)
