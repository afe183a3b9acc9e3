# SPDX-License-Identifier: Apache-2.0

"""Text that comes from elsewhere, made fit for a terminal.

File names, what is in images, and what the cloud says may hold newlines,
escape sequences and characters that turn the direction of writing: they could
hide what is said, or make a terminal do things. What cannot be printed is
written as Python would write it in a string.
"""

from collections.abc import Sequence
import re

#: Characters of a word that are told if it has far more, and those of a line.
#: Paths and URLs have fewer, and so have commands with many ids.
_WORD = 120
_LONG_WORD = re.compile(r'\S{5000,}')
_LINE = 20_000

#: Bytes that are no UTF-8 are these code points in Python's file names
#: (PEP 383).
_BYTES = range(0xDC80, 0xDD00)


def safe(text: str) -> str:
    """Write text so that it is one line without control characters.

    That goes for all that Unicode has for control, format (so the marks and
    overrides of direction), private use and nothing, and for separators other
    than the space. What is safe already stays as it is.
    """
    if text.isprintable():
        return text
    return ''.join(c if c.isprintable() else _escaped(c) for c in text)


def short(text: str, most: int = 80) -> str:
    """Write text as safe() does, in so many characters at most."""
    written = safe(text)
    return written if len(written) <= most else f'{written[: most - 3]}...'


def told(text: str) -> str:
    """Write an error or a warning as safe() does, without its long parts.

    There may be a name in it that has two million letters.
    """
    written = _LONG_WORD.sub(lambda word: f'{word[0][:_WORD]}...', safe(text))
    if len(written) <= _LINE:
        return written
    half = _LINE // 2
    return f'{written[:half]} ... {written[-half:]}'


def some(names: Sequence[str], most: int = 5, *, between: str = ', ') -> str:
    """Name the first few, and count the rest."""
    more = len(names) - most
    words = between.join(names[:most])
    return f'{words} and {more} more' if more > 0 else words


def _escaped(char: str) -> str:
    code = ord(char)
    if code in _BYTES:
        return f'\\x{code & 0xFF:02x}'
    return char.encode('unicode_escape').decode('ascii')
