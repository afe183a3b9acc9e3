#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0

"""Record commands on a terminal, as an SVG that plays what it showed.

    pip install pyte
    tools/record.py doc/source/user/upload.svg \
        'openstack ami upload debian.img' 'openstack ami list'

What runs is real, and so is what it says of the time that it took. A command
that takes longer than some seconds is played faster.
"""

import dataclasses
import fcntl
import os
import pathlib
import pty
import select
import struct
import sys
import termios
import time
from xml.sax import saxutils

import pyte

COLUMNS, LINES = 80, 24
#: Seconds between two pictures; after a command; and at the end.
STEP, PAUSE, END = 0.25, 1.5, 4.0
#: Seconds that a command is played.
MOST = 6.0
#: Pixels of a character.
WIDTH, HEIGHT = 8.43, 18

COLOURS = {
    'default': '#d8dee9',
    'black': '#7b8794',
    'red': '#e06c75',
    'green': '#98c379',
    'brown': '#e5c07b',
    'blue': '#61afef',
    'magenta': '#c678dd',
    'cyan': '#56b6c2',
    'white': '#ffffff',
}

Line = tuple[tuple[str, str], ...]


@dataclasses.dataclass
class Recording:
    """What a terminal showed, and when."""

    screen: pyte.Screen = dataclasses.field(
        default_factory=lambda: pyte.Screen(COLUMNS, LINES)
    )
    frames: list[tuple[float, list[Line]]] = dataclasses.field(
        default_factory=list
    )
    now: float = 0

    def __post_init__(self) -> None:
        self.stream = pyte.ByteStream(self.screen)

    def show(self, data: bytes) -> None:
        self.stream.feed(data)
        lines = [self.line(number) for number in range(LINES)]
        if not self.frames or self.frames[-1][1] != lines:
            self.frames.append((self.now, lines))

    def line(self, number: int) -> Line:
        """Tell the words of a line, each with its colour."""
        words: list[tuple[str, str]] = []
        row = self.screen.buffer[number]
        for column in range(COLUMNS):
            colour = COLOURS.get(
                row[column].fg.removeprefix('bright'), COLOURS['default']
            )
            if words and words[-1][1] == colour:
                words[-1] = words[-1][0] + row[column].data, colour
            else:
                words.append((row[column].data, colour))
        return tuple(words)

    def run(self, command: str) -> None:
        """Show a command, and all that it writes."""
        self.show(f'$ {command}\r\n'.encode())
        before, start = len(self.frames), self.now
        begin = time.monotonic() - self.now
        child, terminal = pty.fork()
        if not child:
            os.environ['TERM'] = 'xterm-256color'
            os.execvp('bash', ['bash', '-c', command])
        size = struct.pack('HHHH', LINES, COLUMNS, 0, 0)
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)
        waiting, open_ = b'', True
        while open_:
            ready, _, _ = select.select([terminal], [], [], STEP)
            try:
                data = os.read(terminal, 1 << 16) if ready else b''
                open_ = bool(data) or not ready
            except OSError:
                # EIO: nobody has it open any more.
                data, open_ = b'', False
            waiting += data
            if time.monotonic() - begin >= self.now + STEP or not open_:
                self.now = time.monotonic() - begin
                self.show(waiting)
                waiting = b''
        os.close(terminal)
        _, status = os.waitpid(child, 0)
        if status:
            raise SystemExit(f'failed: {command}')
        faster = min(1.0, MOST / (self.now - start))
        self.now = start + (self.now - start) * faster + PAUSE
        shown = self.frames[before:]
        del self.frames[before:]
        for number, (moment, lines) in enumerate(shown):
            moment = start + (moment - start) * faster
            last = number + 1 == len(shown)
            if last or moment - self.frames[-1][0] >= STEP:
                self.frames.append((moment, lines))

    def svg(self) -> str:
        """Write the frames, one shown after the other."""
        total = self.now + END
        known: dict[Line, int] = {}
        shown: list[str] = []
        rules: list[str] = []
        ends = [begin for begin, _ in self.frames[1:]] + [total]
        for number, ((begin, lines), end) in enumerate(
            zip(self.frames, ends, strict=True)
        ):
            uses = ''.join(
                f'<use href="#l{known.setdefault(line, len(known))}" '
                f'y="{(row + 1) * HEIGHT}"/>'
                for row, line in enumerate(lines)
                if ''.join(text for text, _ in line).strip()
            )
            shown.append(f'<g id="f{number}">{uses}</g>')
            first, last = 100 * begin / total, 100 * end / total
            rules.append(
                f'@keyframes k{number}{{0%{{opacity:0}}'
                f'{first:.2f}%{{opacity:1}}{last:.2f}%{{opacity:0}}}}'
                f'#f{number}{{animation:k{number} {total:.1f}s step-end '
                'infinite}'
            )
        last = len(self.frames) - 1
        words = '\n'.join(
            f'<text id="l{number}" xml:space="preserve">'
            + ''.join(
                f'<tspan fill="{colour}">{saxutils.escape(text)}</tspan>'
                for text, colour in line
            )
            + '</text>'
            for line, number in known.items()
        )
        width, height = COLUMNS * WIDTH + 20, (LINES + 1) * HEIGHT
        moving, frames = '\n'.join(rules), '\n'.join(shown)
        # Who does not want things to move sees the end.
        return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="-10 0 {width} {height}"
  width="{width}" height="{height}">
<style>
text {{ font: 14px monospace }}
g {{ opacity: 0 }}
@media (prefers-reduced-motion: no-preference) {{
{moving}
}}
@media (prefers-reduced-motion: reduce) {{
#f{last} {{ opacity: 1 }}
}}
</style>
<rect x="-10" width="{width}" height="{height}" rx="6" fill="#1e2430"/>
<defs>
{words}
</defs>
{frames}
</svg>
"""


def main() -> None:
    """Record the commands that are given."""
    output, *commands = sys.argv[1:]
    recording = Recording()
    for command in commands:
        recording.run(command)
    recording.show(b'$ ')
    pathlib.Path(output).write_text(recording.svg())


main()
