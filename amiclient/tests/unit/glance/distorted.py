# SPDX-License-Identifier: Apache-2.0

"""Answers of a cloud, distorted in every way that is known to do harm."""

from collections.abc import Iterator
import copy
import json
from typing import Any

from amiclient.tests.cloud import memory

#: What a value of another type, or beyond all measure, can be: JSON.
VALUES = (
    'null',
    'true',
    '5',
    '-1',
    '0.5',
    '1e400',
    '-1e400',
    'NaN',
    'Infinity',
    '9' * 30,
    '9' * 5000,
    '""',
    '"x"',
    '"../../etc/passwd"',
    '"a\\u0000\\u001b[31m\\n\\u202eb"',
    '"\\ud800"',
    '"' + 'n' * 2_000_000 + '"',
    '[]',
    '["x"]',
    '[null]',
    '[[5]]',
    '{}',
    '{"a": {"b": null}}',
    '[' * 200 + ']' * 200,
)

#: What may come in place of all of it.
BODIES = (
    b'',
    b' \n',
    b'Z',
    b'<html><body><h1>Welcome</h1></body></html>',
    b'null',
    b'5',
    b'"text"',
    b'true',
    b'[]',
    b'[[]]',
    b'{}',
    b'{"images": 5}',
    b'{"images": [5]}',
    b'{"a": 1}{"b": 2}',
    b'[' * 100_000,
    b'{"a":' * 100_000,
    b'[' * 100_000 + b']' * 100_000,
    b'\xff\xfe{}',
    '{"id": "é"}'.encode('latin-1'),
    '{"id": "x"}'.encode('utf-16'),
    b'\x1f\x8b\x08\x00',
)


def changes(answer: memory.Answer) -> Iterator[tuple[str, memory.Answer]]:
    """Distort an answer in every way.

    :returns: what was done to it, and what became of it.
    """
    for body in BODIES:
        yield repr(body[:20]), memory.Answer(answer.status, body, answer.type)
    yield 'cut', memory.Answer(answer.status, answer.content[:-1], answer.type)
    yield (
        'marked',
        memory.Answer(answer.status, b'\xef\xbb\xbf' + answer.content),
    )
    yield 'text', memory.Answer(answer.status, answer.content, 'text/html')
    yield 'no content', memory.Answer(204)
    for status in (200, 201, 300, 304, 399, 400, 404, 409, 418, 500, 599):
        yield str(status), memory.Answer(status, b'[' * 100_000)
    try:
        found = json.loads(answer.content)
    except ValueError:
        return
    for path in _paths(found):
        for value in VALUES:
            text = _with(found, path, value)
            name = f'{".".join(map(str, path))} = {value[:30]}'
            yield name, memory.Answer(answer.status, text, answer.type)
        less = _without(found, path)
        yield f'no {path}', memory.Answer(answer.status, less, answer.type)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple]:
    """Find every member of all objects, and of lists the first."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _paths(child, (*path, key))
    elif isinstance(value, list) and value:
        yield from _paths(value[0], (*path, 0))


def _with(found: Any, path: tuple[Any, ...], value: str) -> bytes:
    changed = copy.deepcopy(found)
    holder = changed
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = '@@'
    return json.dumps(changed).replace('"@@"', value).encode()


def _without(found: Any, path: tuple[Any, ...]) -> bytes:
    changed = copy.deepcopy(found)
    holder = changed
    for step in path[:-1]:
        holder = holder[step]
    del holder[path[-1]]
    return json.dumps(changed).encode()
