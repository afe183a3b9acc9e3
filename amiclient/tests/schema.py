# SPDX-License-Identifier: Apache-2.0

"""What commands print as JSON is what the documentation says of it."""

from collections.abc import Sequence
import copy
import functools
import json
import pathlib
from typing import Any

import jsonschema

import amiclient

PATH = pathlib.Path(amiclient.__file__).parents[1] / 'doc/source/cli'
PATH /= 'output.json'


@functools.cache
def documented() -> dict[str, Any]:
    """Read the schema; nothing that it does not name may be there.

    To others, it allows more: a later version may have more keys.
    """
    schema: dict[str, Any] = json.loads(PATH.read_text())
    for part in schema['$defs'].values():
        record = part.get('items', part)
        if 'properties' in record:
            record['additionalProperties'] = False
    return schema


def columns(command: str) -> set[str]:
    """Name the columns of a command."""
    part = documented()['$defs'][command]
    while 'properties' not in part:
        part = part.get('items', part)
        if '$ref' in part:
            part = documented()['$defs'][part['$ref'].split('/')[-1]]
    return {*part['properties']}


@functools.cache
def _validator(
    command: str, *, chosen: bool
) -> jsonschema.Draft202012Validator:
    schema = documented()
    if chosen:
        schema = copy.deepcopy(schema)
        for part in schema['$defs'].values():
            part.get('items', part).pop('required', None)
    pointer = {'$ref': f'#/$defs/{command}'}
    return jsonschema.Draft202012Validator({**schema, **pointer})


def check(words: Sequence[str], printed: str) -> None:
    """Compare what a command printed with its schema.

    :param words: of the command.
    :raises ValidationError: if it is something else.
    """
    if not PATH.exists() or not printed or 'json' not in words:
        return
    names = [' '.join(words[:count]) for count in (2, 3)]
    command = next((n for n in names if n in documented()['$defs']), None)
    if command is not None:
        chosen = not {'-c', '--column'}.isdisjoint(words)
        _validator(command, chosen=chosen).validate(json.loads(printed))
