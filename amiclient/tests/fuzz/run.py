# SPDX-License-Identifier: Apache-2.0

"""Running the package on hostile input, and watching what it does.

The work is done in a forked process with limits of time and memory and a
directory of its own; what must never happen is looked for afterwards. A
finding is a line of text; a run without findings either succeeded or was
refused with an error for people.
"""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import io
import json
import os
import pathlib
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from typing import Any
from typing import NoReturn

from amiclient import errors
from amiclient import process
from amiclient.tests.oracle import exttree
from amiclient.tests.shapes import content

#: Seconds that one input may take, of a processor and by the clock. What a
#: processor has to share with others takes many times as long by that.
CPU = 60
SECONDS = 900

#: Bytes of memory that we may take more than at rest, that programs may take,
#: and of addresses.
MEMORY = 160 << 20
_PROGRAMS = 640 << 20
_ADDRESSES = 4 << 30

#: What e2fsck changes when it mends, so that a difference means nothing.
_MENDED = ('atime', 'ctime', 'mtime', 'crtime', 'holes', 'links')


@dataclasses.dataclass
class Report:
    """What became of one input.

    :param results: by target, ``ok`` or the text of the refusal.
    :param findings: what must not happen, one line or traceback each.
    :param memory: bytes that the process, or a program, took at most.
    """

    results: dict[str, str] = dataclasses.field(default_factory=dict)
    findings: list[str] = dataclasses.field(default_factory=list)
    memory: int = 0
    seconds: float = 0.0


class Late(BaseException):
    """It took too long."""


#: What is done with an input, in a fresh directory; text that is returned is a
#: finding.
Target = Callable[[pathlib.Path, pathlib.Path], str | None]


def run(
    data: pathlib.Path, targets: dict[str, Target], directory: pathlib.Path
) -> Report:
    """Run targets on one input.

    :param data: the input; whether it stays as it is is checked.
    :param targets: by name.
    :param directory: for the work, an existing one that is empty.
    """
    report = Report()
    before = data.read_bytes(), sorted(os.listdir(data.parent))
    work = directory / 'work'
    work.mkdir()
    around = sorted(os.listdir(directory))
    started = time.monotonic()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        _be_child(data, targets, work, writer)
    os.close(writer)
    text = _listen(reader, child)
    _, status, usage = os.wait4(child, 0)
    report.seconds = time.monotonic() - started
    if text:
        report.results, report.findings, peak = json.loads(text)
        # A forked process begins with what its parent has.
        report.memory = max(0, peak * 1024 - _resident())
    if status or not text:
        report.findings.append(f'the process ended with status {status}')
    if report.memory > MEMORY:
        report.findings.append(f'it took {report.memory >> 20} MiB of memory')
    # Before it is another program, it has what started it.
    if usage.ru_maxrss * 1024 > max(_PROGRAMS, _resident() + MEMORY):
        report.findings.append('a program took too much memory')
    if (data.read_bytes(), sorted(os.listdir(data.parent))) != before:
        report.findings.append('the input, or its directory, was changed')
    if sorted(os.listdir(directory)) != around:
        report.findings.append('something was written outside')
    return report


def _resident() -> int:
    pages = pathlib.Path('/proc/self/statm').read_text().split()[1]
    return int(pages) * os.sysconf('SC_PAGE_SIZE')


def _listen(reader: int, child: int) -> bytes:
    text = b''
    deadline = time.monotonic() + SECONDS + 15
    try:
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([reader], [], [], left)[0]:
                os.kill(child, signal.SIGKILL)
                return b''
            data = os.read(reader, 1 << 16)
            if not data:
                return text
            text += data
    finally:
        os.close(reader)


def _be_child(
    data: pathlib.Path,
    targets: dict[str, Target],
    work: pathlib.Path,
    writer: int,
) -> NoReturn:
    status = 1
    report = Report()
    try:
        try:
            _confine(work)
            _try(targets, data, work, report)
        except Late:
            # Between two targets, say.
            report.findings.append(traceback.format_exc()[-6000:])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = [report.results, report.findings, peak]
        os.write(writer, json.dumps(found).encode())
        status = 0
    finally:
        os._exit(status)


def _try(
    targets: dict[str, Target],
    data: pathlib.Path,
    work: pathlib.Path,
    report: Report,
) -> None:
    for name, target in targets.items():
        room = work / name
        room.mkdir()
        try:
            _one(name, target, data, room, report)
        finally:
            left = [n for n in os.listdir(work) if n not in targets]
            if left:
                report.findings.append(f'{name}: left behind: {left}')


def _confine(work: pathlib.Path) -> None:
    os.chdir(work)
    os.environ.update(HOME=str(work), TMPDIR=str(work))
    tempfile.tempdir = None
    resource.setrlimit(resource.RLIMIT_CPU, (CPU, CPU + 10))
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES, _ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def late(signum: int, frame: object) -> None:
        raise Late

    signal.signal(signal.SIGALRM, late)
    signal.signal(signal.SIGXCPU, late)
    signal.alarm(SECONDS)


def _one(
    name: str,
    target: Target,
    data: pathlib.Path,
    room: pathlib.Path,
    report: Report,
) -> None:
    try:
        wrong = target(data, room)
    except errors.AmiError as error:
        text = str(error)
        report.results[name] = text[:300]
        if not text.isprintable():
            report.findings.append(f'{name}: not printable: {text!r}')
        if len(text) > 2000:
            report.findings.append(f'{name}: an error of {len(text)} bytes')
        if 'please report' in text:
            report.findings.append(f'{name}: {text}')
    except BaseException:  # noqa: BLE001
        report.findings.append(f'{name}: {traceback.format_exc()}'[-6000:])
    else:
        report.results[name] = 'ok'
        if wrong:
            report.findings.append(f'{name}: {wrong}')


@contextlib.contextmanager
def scratch(directory: pathlib.Path | None = None) -> Iterator[pathlib.Path]:
    """Provide a directory that goes away, in memory if that is possible."""
    memory = '/dev/shm'
    if directory is None and os.access(memory, os.W_OK):
        directory = pathlib.Path(memory)
    made = tempfile.mkdtemp(prefix='amiclient-fuzz-', dir=directory)
    try:
        yield pathlib.Path(made)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def openstack(words: list[str]) -> tuple[int, str, str]:
    """Run a command in this process.

    :returns: its exit status, and what it printed to stdout and stderr.
    :raises Exception: what ended it, if that is no error for people.
    """
    from openstackclient import shell

    ends = []

    class Shell(shell.OpenStackShell):
        def clean_up(self, cmd: Any, result: int, err: Any) -> None:
            ends.append(err)
            super().clean_up(cmd, result, err)

    out, err = io.StringIO(), io.StringIO()
    kept = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = out, err
    try:
        status = Shell().run(words)
    finally:
        sys.stdout, sys.stderr = kept
    for error in ends:
        if error is not None and not isinstance(error, errors.AmiError):
            raise error
    return status, out.getvalue(), err.getvalue()


def judge(source: pathlib.Path, result: pathlib.Path) -> str | None:
    """Tell what is wrong with a filesystem that was shrunk.

    :param source: what it was made from, damaged perhaps.
    """
    verdict = process.run(
        ['e2fsck', '-fn', result],
        ok=range(256),
        env=content.ENVIRONMENT,
        access=None,
    )
    if verdict.status or 'backup' in verdict.text:
        return f'e2fsck objects to the result: {verdict.text[-800:]}'
    with tempfile.TemporaryDirectory(dir=result.parent) as directory:
        mended = pathlib.Path(directory, 'mended')
        shutil.copyfile(source, mended)
        first = process.run(
            ['e2fsck', '-fy', '-E', 'fixes_only', mended],
            ok=range(256),
            env=content.ENVIRONMENT,
            access=None,
        )
        try:
            before = exttree.read_tree(mended)
        except exttree.TreeError:
            # Odd, but in order by e2fsck's standards: nothing to compare.
            return None
        after = exttree.read_tree(result)
    lines = exttree.diff_trees(
        before, after, ignore=_MENDED if first.status else ()
    )
    return f'the tree is another: {lines[:6]}' if lines else None
