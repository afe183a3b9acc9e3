# SPDX-License-Identifier: Apache-2.0

"""Execute the commands of a page, as somebody who pastes them would."""

from collections.abc import Callable
from collections.abc import Mapping
import os
import pathlib
import select
import shutil
import signal
import subprocess
import sys

from amiclient.tests.runbook import output as runbook_output
from amiclient.tests.runbook import page as runbook

#: Seconds that one command may take, unless it takes a network.
LATE = 600


class RunbookFailed(AssertionError):
    """A command failed, or printed something else than its page shows."""


def missing(page: runbook.Page, path: str) -> list[str]:
    """Name what a page needs that is not here.

    :param path: where to look for programs, as in PATH.
    """
    lacking = []
    for need in page.needs:
        if need == 'root':
            there = os.geteuid() == 0
        elif need == 'loop':
            there = os.access('/dev/loop-control', os.W_OK)
        else:
            there = shutil.which(need, path=path) is not None
        if not there:
            lacking.append(need)
    return lacking


class Shell:
    """A bash that is given one command after the other.

    :param directory: where it begins; and where its files are, in a directory
        beside that one.
    :param environment: all of its variables.
    :param limit: seconds that one command may take.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        environment: Mapping[str, str],
        *,
        limit: float = LATE,
    ) -> None:
        self._limit = limit
        self._files = directory.parent / f'{directory.name}.shell'
        self._files.mkdir()
        self._answers, answer = os.pipe()
        self._process = subprocess.Popen(
            ['bash', '--noprofile', '--norc'],
            stdin=subprocess.PIPE,
            cwd=directory,
            env={**environment, 'ANSWER': str(answer)},
            pass_fds=[answer],
            start_new_session=True,
        )
        os.close(answer)

    def run(self, text: str) -> tuple[int, str]:
        """Run a command.

        :returns: its exit status, and what it wrote on stdout and stderr.
        :raises RunbookFailed: if it does not end, or ends the shell.
        """
        command = self._files / 'command'
        output = self._files / 'output'
        command.write_text(text)
        assert self._process.stdin
        self._process.stdin.write(
            b'eval "$(<%b)" </dev/null >%b 2>&1; echo $? >&$ANSWER\n'
            % (os.fsencode(command), os.fsencode(output))
        )
        self._process.stdin.flush()
        answer = b''
        while not answer.endswith(b'\n'):
            if not select.select([self._answers], [], [], self._limit)[0]:
                raise RunbookFailed(f'no end after {self._limit} s: {text}')
            piece = os.read(self._answers, 10)
            if not piece:
                raise RunbookFailed(f'bash has ended: {text}')
            answer += piece
        return int(answer), output.read_text(errors='replace')

    def close(self) -> None:
        """End it, and all that it started and that still runs."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()
        os.close(self._answers)


def search_path(directory: pathlib.Path) -> str:
    """Make the PATH of a user of this Python's environment.

    :param directory: gets what is not installed: ``sudo``, which root does not
        need; and ``openstack``, if it is not beside Python.
    """
    python = pathlib.Path(sys.executable)
    directory.mkdir()
    if not os.geteuid():
        _script(directory / 'sudo', 'exec "$@"')
    if not (python.parent / 'openstack').exists():
        _script(
            directory / 'openstack',
            f'exec {python} -m openstackclient.shell "$@"',
        )
    parts = [str(directory), str(python.parent), os.environ['PATH']]
    return ':'.join([*parts, '/usr/sbin', '/sbin'])


def _script(path: pathlib.Path, line: str) -> None:
    path.write_text(f'#!/bin/sh\n{line}\n')
    path.chmod(0o755)


def run(
    page: runbook.Page,
    directory: pathlib.Path,
    environment: Mapping[str, str],
    *,
    calls: Mapping[str, Callable[[], object]],
    limit: float = LATE,
    update: bool = False,
) -> None:
    """Execute a page.

    :param directory: empty; where the reader is.
    :param environment: the variables that the reader has.
    :param calls: the functions that the page may name.
    :param limit: seconds that one command may take.
    :param update: whether to write what commands print to the page, where it
        is not what the page shows.
    :raises RunbookFailed: if a command ends with another status than the page
        says, or prints something else than it shows, or has no column of a
        name that it is given.
    """
    ids = runbook_output.Ids()
    changes: list[tuple[runbook.Command, list[str]]] = []
    shell = Shell(directory, environment, limit=limit)
    try:
        for step in page.steps:
            where = f'{page.path}:{step.line}'
            if isinstance(step, runbook.Call):
                calls[step.name]()
            elif isinstance(step, runbook.Setup):
                status, output = shell.run(f'(set -e\n{step.text}\n)')
                if status:
                    raise RunbookFailed(f'{where}: {status}\n{output}')
            else:
                printed = _run_command(shell, step, ids, where)
                if lost := runbook_output.absent(step.text, printed):
                    raise RunbookFailed(f'{where}: no column {lost}')
                if runbook_output.matches(step.shown, printed, ids):
                    continue
                if not update:
                    raise RunbookFailed(_differs(where, step, printed))
                runbook_output.salvage(step.shown, printed, ids)
                lines = [ids.shown(line, page.path.name) for line in printed]
                changes.append((step, lines))
    finally:
        shell.close()
        _write(page, changes)


def _run_command(
    shell: Shell,
    command: runbook.Command,
    ids: runbook_output.Ids,
    where: str,
) -> list[str]:
    try:
        text = ids.real(command.text)
    except KeyError as error:
        raise RunbookFailed(f'{where}: nothing printed {error}') from None
    status, output = shell.run(text)
    if status != command.status:
        raise RunbookFailed(
            f'{where}: exit status {status}, not {command.status}:\n'
            f'$ {text}\n{output}'
        )
    return [line.rstrip() for line in output.rstrip().splitlines()]


def _differs(where: str, command: runbook.Command, printed: list[str]) -> str:
    return '\n'.join(
        [
            f'{where}: $ {command.text}',
            '--- the page shows',
            *command.shown,
            '--- it printed',
            *printed,
            '---',
        ]
    )


def _write(
    page: runbook.Page, changes: list[tuple[runbook.Command, list[str]]]
) -> None:
    """Put what commands printed in the place of what the page shows."""
    lines = page.path.read_text().splitlines()
    # Numbers of lines hold as long as nothing before them has changed.
    for command, printed in reversed(changes):
        end = command.begin + len(command.shown)
        indent = ' ' * command.indent
        lines[command.begin : end] = [
            f'{indent}{line}'.rstrip() for line in printed
        ]
    if changes:
        page.path.write_text('\n'.join(lines) + '\n')
