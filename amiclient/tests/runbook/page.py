# SPDX-License-Identifier: Apache-2.0

"""Pages of the documentation whose commands are executed.

What a reader would paste is in ``.. code-block:: console`` blocks: lines that
begin with ``$ `` and those that continue them (after a backslash, or with
``> `` before them), followed by what the command prints, on stdout and stderr.
A command that prints something which the page does not show is as wrong as one
that does not print what the page shows. RST comments tell what readers need
not see; each is for the next block, if it is for one:

``.. runbook: needs root loop PROGRAM ...``
    What the machine must have: root's rights, loop devices, programs.
``.. runbook: cloud NAME USER``
    ``clouds.yaml`` has a cloud of this name, as this user of the embedded one.
``.. runbook: setup``
    Commands that are run here.
``.. runbook: call NAME``
    So is this function, which the test gives.
``.. runbook: status N``
    The last command of the block ends with this exit status.
``.. runbook: instead NAME``
    The block takes a network, and is run with AMICLIENT_SLOW_TESTS set only.
    Otherwise this function, which the test gives, is called.
``.. runbook: not run: REASON``
    The block is not run.
"""

from collections.abc import Iterator
import dataclasses
import pathlib
import re
import textwrap

_BLOCK = re.compile(r'( *)\.\. code-block:: console$')
_COMMENT = re.compile(r'( *)\.\. runbook: (\w+)(?:\b:?\s*(.*))?$')
_PROMPT = '$ '
_CONTINUED = '> '


class PageError(Exception):
    """The page itself is not as it should be."""


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of a page, and what the page says of it.

    :param text: what bash is given.
    :param shown: the lines that follow it, without their indentation.
    :param line: the number of its first line on the page.
    :param begin: the number of the first of the lines that are shown.
    :param indent: how far those are indented.
    :param status: the exit status that it ends with.
    """

    text: str
    shown: tuple[str, ...]
    line: int
    begin: int
    indent: int
    status: int = 0


@dataclasses.dataclass(frozen=True)
class Setup:
    """Commands that no reader sees."""

    text: str
    line: int


@dataclasses.dataclass(frozen=True)
class Call:
    """A function of the test."""

    name: str
    line: int


Step = Command | Setup | Call


@dataclasses.dataclass(frozen=True)
class Page:
    """A page, as it is to be executed.

    :param needs: ``root``, and programs.
    :param clouds: names in clouds.yaml, and the user that each stands for.
    """

    path: pathlib.Path
    steps: tuple[Step, ...]
    needs: tuple[str, ...]
    clouds: dict[str, str]


def read(path: pathlib.Path, *, slow: bool = False) -> Page:
    """Read a page.

    :param path: a file in reStructuredText.
    :param slow: whether to run what takes a network, not what stands in.
    :raises PageError: if commands are where none are executed, or a comment
        makes no sense.
    """
    return _Reader(path, path.read_text().splitlines(), slow=slow).page()


class _Reader:
    def __init__(
        self, path: pathlib.Path, lines: list[str], *, slow: bool
    ) -> None:
        self._path = path
        self._lines = lines
        self._slow = slow
        self._steps: list[Step] = []
        self._needs: list[str] = []
        self._clouds: dict[str, str] = {}
        #: What comments say of the next block.
        self._next: dict[str, str] = {}

    def page(self) -> Page:
        number = 0
        while number < len(self._lines):
            line = self._lines[number]
            if block := _BLOCK.match(line):
                end = self._end(number, len(block[1]))
                self._block(number + 1, end)
            elif comment := _COMMENT.match(line):
                end = self._end(number, len(comment[1]))
                self._comment(number, end, comment[2], comment[3] or '')
            else:
                if line.startswith(' ') and line.lstrip().startswith(_PROMPT):
                    raise self._error(number, 'a command that is not run')
                end = number + 1
            number = end
        if self._next:
            raise self._error(number - 1, f'no block for {self._next}')
        return Page(
            self._path,
            tuple(self._steps),
            tuple(self._needs),
            self._clouds,
        )

    def _error(self, number: int, what: str) -> PageError:
        return PageError(f'{self._path}:{number + 1}: {what}')

    def _end(self, number: int, indent: int) -> int:
        """Find the first line after a directive and what is below it."""
        for after in range(number + 1, len(self._lines)):
            line = self._lines[after]
            if line.strip() and len(line) - len(line.lstrip()) <= indent:
                return after
        return len(self._lines)

    def _comment(self, number: int, end: int, word: str, rest: str) -> None:
        body = textwrap.dedent('\n'.join(self._lines[number + 1 : end]))
        body = body.strip()
        if bool(body) != (word == 'setup'):
            raise self._error(number, f'{word}: commands below it, or none')
        if word == 'needs':
            self._needs += rest.split()
        elif word == 'cloud':
            name, user = rest.split()
            self._clouds[name] = user
        elif word == 'setup':
            self._steps.append(Setup(body, number + 1))
        elif word == 'call':
            self._steps.append(Call(rest, number + 1))
        elif word in ('status', 'instead'):
            self._next[word] = rest
        elif word == 'not' and rest.startswith('run: '):
            self._next['not run'] = rest
        else:
            raise self._error(number, f'no such comment: {word} {rest}')

    def _block(self, number: int, end: int) -> None:
        told, self._next = self._next, {}
        commands = list(self._commands(number, end))
        if not commands:
            raise self._error(number - 1, 'a block without a command')
        if 'instead' in told and not self._slow:
            self._steps.append(Call(told['instead'], number))
        elif 'not run' not in told:
            status = int(told.get('status', '0'))
            commands[-1] = dataclasses.replace(commands[-1], status=status)
            self._steps += commands

    def _commands(self, number: int, end: int) -> Iterator[Command]:
        lines = self._lines
        while number < end and not lines[number].strip():
            number += 1
        # What is blank at the end separates the block from what follows.
        while end > number and not lines[end - 1].strip():
            end -= 1
        while number < end:
            indent = len(lines[number]) - len(lines[number].lstrip())
            first = number
            if not lines[first][indent:].startswith(_PROMPT):
                raise self._error(first, 'output of no command')
            text = [lines[first][indent:].removeprefix(_PROMPT)]
            number += 1
            while number < end:
                line = lines[number][indent:]
                if line.startswith(_CONTINUED):
                    line = line.removeprefix(_CONTINUED)
                elif not text[-1].endswith('\\'):
                    break
                text.append(line)
                number += 1
            begin = number
            while number < end:
                if lines[number][indent:].startswith(_PROMPT):
                    break
                number += 1
            last = number
            # Nothing depends on blank lines at the end.
            while last > begin and not lines[last - 1].strip():
                last -= 1
            shown = [line[indent:].rstrip() for line in lines[begin:last]]
            yield Command(
                '\n'.join(text), tuple(shown), first + 1, begin, indent
            )
