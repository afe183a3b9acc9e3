# SPDX-License-Identifier: Apache-2.0

"""What a program may do that reads what strangers have made.

A file may be made such that the program that reads it opens others, or does
worse. So it gets what it needs, and no more: Landlock (landlock(7)) lets it
open what its caller names and what the system's programs are made of;
no_new_privs keeps it from becoming somebody else; a filter of system calls
(seccomp(2)) refuses connections, and so does Landlock where the kernel can.
What root may do beyond opening files is taken away.

All of that holds for one thread, and for what it starts (the manual pages
say so). So a thread of its own starts each program.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
import contextlib
import ctypes
import dataclasses
import errno
import functools
import logging
import os
import platform
import re
import resource
import socket
import stat
import struct
import sys
from typing import TypeVar

_LOG = logging.getLogger(__name__)
_LIBC = ctypes.CDLL(None, use_errno=True)
_T = TypeVar('_T')

#: What a rule is about: a path, or the descriptor of an open file.
Place = str | os.PathLike[str] | int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Access:
    """What a program may do with files, besides running.

    :param reads: files that it may read; directories, with all in them.
    :param writes: files that it may write, too; those that are not there are
        made before. Directories in which it may also make files.
    :param devices: device files that it may use.
    :param sockets: a directory in which it may make a socket, and no more.
    :param rooms: directories in which it may do everything but use devices.
        It may connect to sockets with a path then, wherever they are.
    :param meeting: a directory in which it may make, list and remove
        directories and sockets, and no more, as libguestfs does in ``/tmp``
        for root.
    :param mounts: whether it looks what is mounted, as most of e2fsprogs do.
        That takes all of ``/proc`` that needs no privilege: what is there of
        a process has no name before that runs.
    :param runs: paths of programs that it starts in turn.
    """

    reads: Sequence[Place] = ()
    writes: Sequence[Place] = ()
    devices: Sequence[Place] = ()
    sockets: Place | None = None
    rooms: Sequence[Place] = ()
    meeting: Place | None = None
    mounts: bool = False
    runs: Sequence[str] = ()


# linux/landlock.h
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR = 1 << 4, 1 << 5, 1 << 7
_MAKE_REG, _MAKE_SOCK, _MAKE_SYM = 1 << 8, 1 << 9, 1 << 12
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15

#: Rights there are, by the version of Landlock; the last one for later ones.
_RIGHTS = (0, 13, 14, 15, 15, 16)

#: The version that knows TCP, and the one that knows signals and sockets
#: without a path; all that it knows of them.
_NET_SINCE, _NET = 4, 3
_SCOPES_SINCE, _SCOPES = 6, 3

_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READS = _READ_FILE | _READ_DIR | _IOCTL_DEV
_WRITES = _READS | _WRITE_FILE | _TRUNCATE | _MAKE_REG | _REMOVE_FILE
_MEETS = _MAKE_DIR | _MAKE_SOCK | _REMOVE_DIR | _REMOVE_FILE | _READ_DIR
_LIVES = _WRITES | _MEETS | _MAKE_SYM
_RUNS = _EXECUTE | _READ_FILE | _READ_DIR

#: What programs are made of, below each of the usual places.
_PREFIXES = ('/', '/usr', '/usr/local')
_PARTS = ('bin', 'sbin', 'lib', 'lib32', 'lib64', 'libexec')
_SHARE = ('/usr/share', '/usr/local/share')

#: The same, where a program came with what it needs.
_OWN_PARTS = ('lib', 'lib64', 'libexec', 'share/qemu')

#: Where programs are made of pieces that lie side by side.
_STORES = ('/nix/store', '/gnu/store', '/home/linuxbrew/.linuxbrew')

_CACHE = '/etc/ld.so.cache'
_DEVICES = ('/dev/null', '/dev/zero', '/dev/random', '/dev/urandom')

# linux/prctl.h
_SET_NO_NEW_PRIVS, _CAPBSET_DROP = 38, 24

#: The capabilities (capabilities(7)) that programs keep if root starts them:
#: to open, and to own, any file, and to use what is reserved of a disk.
_KEPT = (0, 1, 2, 3, 24)
_CAPABILITIES = 64

# linux/seccomp.h, linux/filter.h; IO_URING_SETUP has that number everywhere.
_FILTER_MODE, _SPEC_ALLOW = 1, 4
_LOAD, _AND, _IS, _IS_AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND = 0, 4, 16, 24
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EACCES
_IO_URING_SETUP = 425
_X32 = 0x40000000
_TYPE = 0xF

_NEW_NETWORK = 0x40000000


@dataclasses.dataclass(frozen=True)
class _Machine:
    """The numbers of system calls (asm/unistd.h) on a little-endian machine.

    :param audit: its own number (linux/audit.h).
    :param refused: other ways to a connection.
    """

    audit: int
    seccomp: int
    socket: int
    refused: tuple[int, ...]


_MACHINES = {
    'aarch64': _Machine(0xC00000B7, 277, 198, (203,)),
    'ppc64le': _Machine(0xC0000015, 358, 326, (328, 102)),
    'riscv64': _Machine(0xC00000F3, 277, 198, (203,)),
    'x86_64': _Machine(0xC000003E, 317, 41, (42,)),
}


@contextlib.contextmanager
def called(
    start: Callable[[], _T], program: str, access: Access
) -> Iterator[_T]:
    """Call what starts a program, in a thread that may do no more than that.

    The thread lives as long as the ``with`` block, for a program may be told
    to die with the thread that started it (PR_SET_PDEATHSIG in prctl(2)).

    Where the kernel cannot confine it, the log says so, once.

    :param program: its path.
    :returns: what ``start`` returned.
    """

    def work() -> tuple[_T, list[str]]:
        missing = confine(program, access)
        return start(), missing

    with futures.ThreadPoolExecutor(1) as pool:
        # Not from that thread: a log may be a file that must be opened.
        result, missing = pool.submit(work).result()
        for what in missing:
            _say(what)
        yield result


def confine(program: str, access: Access) -> list[str]:
    """Confine this thread for good: the one place that does.

    A test that is about something else, or about what holds without it, puts
    a function in its place that does nothing.

    :param program: what it will start.
    :returns: what is not possible here.
    """
    missing = []
    # Without it, an ordinary user may do none of the rest.
    _LIBC.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if not os.geteuid():
        for number in set(range(_CAPABILITIES)) - set(_KEPT):
            _LIBC.prctl(_CAPBSET_DROP, number, 0, 0, 0)
    try:
        if known := version():
            _restrict(known, _rules(program, access))
        else:
            missing.append('this kernel has no Landlock')
    except OSError as error:
        missing.append(f'Landlock does not work here ({error.strerror})')
    _disconnect(connects=bool(access.rooms))
    return missing


@functools.cache
def _say(what: str) -> None:
    _LOG.info(
        '%s: programs that read images can open all files that you can open; '
        'only the checks of image headers prevent this',
        what,
    )


def _call(number: int, *words: int | ctypes.Array[ctypes.c_char]) -> int:
    result: int = _LIBC.syscall(
        *(
            ctypes.c_long(word) if isinstance(word, int) else word
            for word in (number, *words)
        )
    )
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


@functools.cache
def version() -> int:
    """Return the version of Landlock; 0 if there is none."""
    try:
        return _call(_CREATE_RULESET, 0, 0, _VERSION)
    except OSError:
        return 0


def _restrict(known: int, rules: Iterator[tuple[Place, int]]) -> None:
    """Let this thread open no file but those that the rules name."""
    handles = (1 << _RIGHTS[min(known, len(_RIGHTS) - 1)]) - 1
    words = [handles]
    if known >= _NET_SINCE:
        words.append(_NET)
    if known >= _SCOPES_SINCE:
        words.append(_SCOPES)
    handled = struct.pack(f'={len(words)}Q', *words)
    ruleset = _call(
        _CREATE_RULESET, ctypes.create_string_buffer(handled), len(handled), 0
    )
    try:
        for place, rights in rules:
            _add(ruleset, place, rights & handles)
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _add(ruleset: int, place: Place, rights: int) -> None:
    with contextlib.ExitStack() as stack:
        if isinstance(place, int):
            descriptor = place
        else:
            try:
                descriptor = os.open(place, os.O_PATH | os.O_CLOEXEC)
            except OSError:
                # The program says better what it lacks.
                return
            stack.callback(os.close, descriptor)
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _ON_FILES
        rule = struct.pack('=Qi', rights, descriptor)
        _call(
            _ADD_RULE,
            ruleset,
            _PATH_BENEATH,
            ctypes.create_string_buffer(rule),
            0,
        )


def _rules(program: str, access: Access) -> Iterator[tuple[Place, int]]:
    for run in (program, *access.runs):
        for part in (run, *_parts(os.path.realpath(run))):
            yield part, _RUNS
    for part in (*_system(), *_libraries()):
        yield part, _RUNS
    yield _CACHE, _READS
    for device in (*_DEVICES, *access.devices):
        yield device, _WRITES
    if access.mounts:
        yield '/proc', _READ_FILE
    if access.sockets is not None:
        yield access.sockets, _MAKE_SOCK
    if access.meeting is not None:
        yield access.meeting, _MEETS
    for place in access.rooms:
        yield place, _LIVES
    for place in access.reads:
        yield place, _READS
    for place in access.writes:
        _make(place)
        yield place, _WRITES


def _parts(program: str) -> Iterator[str]:
    """Name the directories that came with a program."""
    prefix = os.path.dirname(os.path.dirname(program))
    if prefix not in _PREFIXES:
        for part in _OWN_PARTS:
            yield os.path.join(prefix, part)
    for store in _STORES:
        if program.startswith(f'{store}/'):
            yield store


def _libraries() -> Iterator[str]:
    """Name what the user wants all programs to be made of (ld.so(8))."""
    for variable in ('LD_LIBRARY_PATH', 'LD_PRELOAD'):
        for path in re.split('[ :;]', os.environ.get(variable, '')):
            if os.path.isabs(path):
                yield path


def _make(place: Place) -> None:
    """Make a file, so that there is something to make a rule about."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with contextlib.suppress(OSError):
        if not isinstance(place, int):
            descriptor = os.open(place, flags, 0o600)
            os.fchmod(descriptor, 0o600)
            os.close(descriptor)


@functools.cache
def _system() -> tuple[str, ...]:
    """Name the directories that the system's programs are made of."""
    found = [
        os.path.realpath(os.path.join(prefix, part))
        for prefix in _PREFIXES
        for part in _PARTS
    ]
    return tuple(filter(os.path.isdir, dict.fromkeys([*found, *_SHARE])))


def _disconnect(*, connects: bool) -> None:
    """Let this thread have no sockets but those of its own making.

    :param connects: whether it may connect these.
    """
    machine = _MACHINES.get(platform.machine())
    if machine is not None and sys.maxsize > 1 << 32:
        code = _filter(machine, connects)
        memory = ctypes.create_string_buffer(code)
        program = struct.pack('@HP', len(code) // 8, ctypes.addressof(memory))
        # A kernel that was built without it is no reason to fail.
        with contextlib.suppress(OSError):
            _call(
                machine.seccomp,
                _FILTER_MODE,
                _SPEC_ALLOW,
                ctypes.create_string_buffer(program),
            )
            return
    # Slower, and for root only.
    _LIBC.unshare(_NEW_NETWORK)


def _filter(machine: _Machine, connects: bool) -> bytes:
    """Write a program that judges system calls.

    A socket with a path, to wait for others, is all that there may be of
    them. io_uring would be a way round, and so are the calls of other kinds
    of programs.
    """
    steps: list[tuple[int, int, str, str]] = [
        (_LOAD, _ARCHITECTURE, '', ''),
        (_IS, machine.audit, '', 'refuse'),
        (_LOAD, _NUMBER, '', ''),
        (_IS_AT_LEAST, _X32, 'refuse', ''),
        *(
            (_IS, number, 'refuse', '')
            for number in (
                *(() if connects else machine.refused),
                _IO_URING_SETUP,
            )
        ),
        (_IS, machine.socket, '', 'allow'),
        (_LOAD, _FIRST, '', ''),
        (_IS, socket.AF_UNIX, '', 'refuse'),
        (_LOAD, _SECOND, '', ''),
        (_AND, _TYPE, '', ''),
        (_IS, socket.SOCK_STREAM, 'allow', 'refuse'),
    ]
    ends = {'allow': len(steps), 'refuse': len(steps) + 1}
    steps += [(_RETURN, _ALLOW, '', ''), (_RETURN, _REFUSE, '', '')]
    return b''.join(
        struct.pack(
            '=HBBI',
            code,
            *(ends[to] - place - 1 if to else 0 for to in (yes, no)),
            value,
        )
        for place, (code, value, yes, no) in enumerate(steps)
    )


def lower(pid: int, what: int, most: int | None) -> None:
    """Limit what a program may take, but give it no more than we have.

    :param what: a resource, as setrlimit(2) calls it.
    :param most: of that; None for whatever we have.
    """
    # From outside, for what Popen would call between fork and exec is not
    # safe where there are threads. It has begun by then, but not taken much.
    soft, hard = resource.getrlimit(what)
    if most is not None:
        hard = least(hard, most + 1)
    # At the hard limit to processor time, there is nothing but SIGKILL.
    below = hard if hard == resource.RLIM_INFINITY else max(1, hard - 1)
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(pid, what, (least(soft, below), hard))


def least(*limits: int) -> int:
    """Choose the smallest limit, as getrlimit(2) has them."""
    unlimited = resource.RLIM_INFINITY
    return min((one for one in limits if one != unlimited), default=unlimited)
