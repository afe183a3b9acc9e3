# SPDX-License-Identifier: Apache-2.0

"""Declarations: YAML files that say which AMIs a project is to have.

The JSON schema beside this file is what they are read by, and what users give
to their editors. Of the words of JSON Schema, the reader here knows those that
need a line to complain about; the others are for editors, and checked here by
hand. A value that is a text is taken as it is written: a version 1.10 is not
1.1, and no property is made of ``yes`` but "yes".
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import difflib
import json
import logging
import os
import pathlib
import re
from typing import Any

import yaml

from amiclient import errors
from amiclient.source import opening

LOG = logging.getLogger(__name__)

#: The schema.
SCHEMA = pathlib.Path(__file__).with_suffix('.schema.json')

#: Bytes; a thousand AMIs have less.
_LIMIT = 1 << 20

#: What JSON Schema calls what YAML has tagged. An unquoted date is a text.
_TYPES = {
    'map': 'object',
    'seq': 'array',
    'str': 'string',
    'timestamp': 'string',
    'int': 'integer',
    'float': 'number',
    'bool': 'boolean',
    'null': 'null',
}
_NAMES = {
    'object': 'keys with values',
    'array': 'a list',
    'string': 'a text',
    'number': 'a number',
    'integer': 'a whole number',
    'boolean': 'true or false',
    'null': 'null',
}

_URL = re.compile('[A-Za-z][0-9A-Za-z+.-]*://')

_BOOLEANS = yaml.SafeLoader.bool_values

#: What to do about a text that does not match, by the pattern.
_PATTERNS = {
    '^[0-9A-Fa-f]{128}$': 'a SHA-512 has 128 hexadecimal digits',
    '^[0-9A-Fa-f]{64}$': 'a SHA-256 has 64 hexadecimal digits',
}
_ANY = 'it must not be empty, too long, or have control characters'

#: Keys that say how the data is made of the source. If one of them changes,
#: there is a new version.
MAKING = ('fix', 'for', 'headroom', 'journal', 'kernel_version', 'leave_out',
           'partition', 'shrink')  # fmt: skip

#: Keys with paths, which are relative to the file.
_PATHS = ('source', 'kernel', 'ramdisk', 'keyring', 'sign_key_path',
          'sign_key_passphrase_file', 'sign_cert_id')  # fmt: skip

#: Keys that mean nothing without another one.
_NEEDED = {
    'signature_url': 'keyring',
    'keyring': 'signature_url',
    'sign_key_path': 'sign_cert_id',
    'sign_cert_id': 'sign_key_path',
    'sign_key_passphrase_file': 'sign_key_path',
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeclaredAmi:
    """An AMI that a project is to have; what is None is not declared.

    :param lines: where each key is, as ``FILE:LINE``.
    :param collection: that of the file.
    :param source: an absolute path, or a URL.
    :param sign_cert_id: a path, or the ID of a certificate.
    :param kernel: a path, or an image's name or ID; likewise the ramdisk.
    :param properties: None as a value removes one.
    :param tags: all of them; likewise the projects, as they are named.
    :param keep: how many versions stay as they are; None for all.
    :param replace: what is done to the others.
    :param making: how the data is made of the source: values by keys.
    """

    lines: Mapping[str, str]
    where: str
    name: str
    collection: str | None = None
    family: str | None = None
    version: str | None = None
    source: str | None = None
    sha512: str | None = None
    sha256: str | None = None
    signature_url: str | None = None
    keyring: str | None = None
    sign_key_path: str | None = None
    sign_key_passphrase_file: str | None = None
    sign_cert_id: str | None = None
    kernel: str | None = None
    no_kernel: bool = False
    ramdisk: str | None = None
    no_ramdisk: bool = False
    format: str | None = None
    architecture: str | None = None
    min_disk: int | None = None
    min_ram: int | None = None
    properties: Mapping[str, str | None] = dataclasses.field(
        default_factory=dict
    )
    tags: tuple[str, ...] | None = None
    visibility: str | None = None
    protected: bool | None = None
    hidden: bool | None = None
    projects: tuple[str, ...] | None = None
    stores: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    clouds: tuple[str, ...] = ()
    keep: int | None = None
    replace: str | None = None
    making: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def title(self) -> str:
        """What the AMI is found by: its family, or else its name."""
        return self.family or self.name

    @property
    def key(self) -> tuple[bool, str]:
        """What tells it from all others of a project."""
        return self.family is not None, self.title

    @property
    def is_web(self) -> bool:
        """Whether the source is a URL."""
        return self.source is not None and bool(_URL.match(self.source))


@dataclasses.dataclass(frozen=True)
class Declaration:
    """All AMIs of some files.

    :param collections: those of the files, by their names; None for a file
        without one.
    """

    amis: tuple[DeclaredAmi, ...]
    collections: Mapping[str, str | None]


def read(paths: Iterable[pathlib.Path]) -> Declaration:
    """Read declarations, which count as one.

    :raises UsageError: if something is wrong. If there is more, each is
        logged, with its file and line, and this counts them.
    """
    problems: list[errors.UsageError] = []
    found: dict[tuple[bool, str], DeclaredAmi] = {}
    collections: dict[str, str | None] = {}
    for path in paths:
        reader = _Reader(path, problems)
        for ami in reader.read():
            before = found.setdefault(ami.key, ami)
            if before is not ami:
                what = 'family' if ami.family else 'name'
                problems.append(
                    errors.UsageError(
                        f'there is an AMI of the {what} {ami.title!r} already',
                        subject=ami.where,
                        hint=f'see {before.where}',
                    )
                )
        collections[reader.name] = reader.collection
    refuse(problems)
    return Declaration(tuple(found.values()), collections)


def refuse(problems: Sequence[errors.AmiError]) -> None:
    """Say what is wrong with declarations, if anything.

    :raises UsageError: as :func:`read` does.
    """
    if len(problems) > 1:
        for each in problems:
            LOG.error('%s', each)
        raise errors.UsageError(f'{len(problems)} errors: nothing was done')
    if problems:
        raise problems[0]


class _Wrong:
    """What is not as the schema says; it was complained about."""


_WRONG = _Wrong()


class _Keys(dict[str, Any]):
    """A mapping that knows where its keys are."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self.lines: dict[str, str] = {}


class _Reader:
    """Reads one file."""

    def __init__(
        self, path: pathlib.Path, problems: list[errors.UsageError]
    ) -> None:
        self._path = path
        self.name = errors.shown(path)
        self.collection: str | None = None
        self._problems = problems
        with SCHEMA.open(encoding='utf-8') as file:
            self._schema = json.load(file)

    def read(self) -> Iterator[DeclaredAmi]:
        """Read the AMIs; what is wrong is added to the problems."""
        before = len(self._problems)
        top = self._take(self._parsed(), self._schema, 'the file')
        if len(self._problems) > before:
            return
        self.collection = top.get('collection')
        for keys in top['amis']:
            yield self._ami(keys)

    def _parsed(self) -> yaml.Node:
        with opening.opened(self._path, wanted='a YAML file') as file:
            data = file.read(_LIMIT + 1)
        if len(data) > _LIMIT:
            raise errors.UsageError(
                f'longer than the {_LIMIT} bytes that a declaration may have',
                subject=self.name,
            )
        try:
            found = yaml.compose(data, yaml.SafeLoader)
        except RecursionError as error:
            raise errors.UsageError(
                'nested too deeply', subject=self.name
            ) from error
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            said = ', '.join(filter(None, (error.context, error.problem)))
            raise errors.UsageError(
                f'no valid YAML: {said}',
                subject=self._at(mark),
            ) from error
        except yaml.YAMLError as error:
            what = ' '.join(str(error).split())
            raise errors.UsageError(
                f'no valid YAML: {what}', subject=self.name
            ) from error
        if found is None:
            raise errors.UsageError(
                'the file is empty',
                subject=self.name,
                hint='`openstack ami export` writes one',
            )
        return found

    def _at(self, mark: yaml.Mark | None) -> str:
        return self.name if mark is None else f'{self.name}:{mark.line + 1}'

    def _wrong(
        self, where: str, message: str, hint: str | None = None
    ) -> _Wrong:
        self._problems.append(
            errors.UsageError(message, subject=where, hint=hint)
        )
        return _WRONG

    def _take(self, node: yaml.Node, rule: Mapping[str, Any], key: str) -> Any:
        """Take a value, if it is what the schema says.

        :param key: what to call it.
        """
        if '$ref' in rule:
            name = rule['$ref'].rpartition('/')[2]
            return self._take(node, self._schema['$defs'][name], key)
        where = self._at(node.start_mark)
        kind = _TYPES.get(node.tag.rpartition(':')[2], node.tag)
        allowed = rule['type']
        allowed = allowed if isinstance(allowed, list) else [allowed]
        if kind not in allowed and not (
            kind == 'integer' and 'number' in allowed
        ):
            hint = None
            if 'string' in allowed and isinstance(node, yaml.ScalarNode):
                hint = 'put it in quotes'
            return self._wrong(
                where,
                f'{key}: {_NAMES[allowed[0]]} is needed, not '
                f'{_NAMES.get(kind, kind)}',
                hint,
            )
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, rule, key)
        if isinstance(node, yaml.SequenceNode):
            return [self._take(i, rule['items'], key) for i in node.value]
        return self._scalar(node, rule, key, kind)

    def _scalar(
        self, node: yaml.Node, rule: Mapping[str, Any], key: str, kind: str
    ) -> Any:
        where, text = self._at(node.start_mark), node.value
        if 'enum' in rule and text not in rule['enum']:
            near = difflib.get_close_matches(text, rule['enum'], 1)
            hint = f'use {errors.some(near or rule["enum"], 9)}'
            return self._wrong(where, f'{key}: {text!r} is not known', hint)
        if 'pattern' in rule and not re.fullmatch(rule['pattern'], text):
            what = f'{key}: {errors.shown(text, 40)!r} is not valid'
            return self._wrong(
                where, what, _PATTERNS.get(rule['pattern'], _ANY)
            )
        if kind == 'null':
            return None
        if 'boolean' in rule['type'] and kind == 'boolean':
            # Among other types, it is what was written.
            written = isinstance(rule['type'], list)
            return text if written else _BOOLEANS[text.lower()]
        if rule['type'] == 'integer':
            least = rule['minimum']
            if not text.isdecimal() or len(text) > 9 or int(text) < least:
                what = f'{key}: {text} is not a number from {least} on'
                return self._wrong(where, what)
            return int(text)
        return text

    def _mapping(
        self, node: yaml.MappingNode, rule: Mapping[str, Any], key: str
    ) -> Any:
        found = _Keys(self._at(node.start_mark))
        known = rule.get('properties', {})
        for name_node, value in node.value:
            where, name = self._at(name_node.start_mark), name_node.value
            if not isinstance(name_node, yaml.ScalarNode):
                self._wrong(where, f'{key}: a key is not a text')
            elif name in found.lines:
                hint = f'see {found.lines[name]}'
                self._wrong(where, f'the key {name!r} is there twice', hint)
            elif name in known:
                found.lines[name] = where
                found[name] = self._take(value, known[name], name)
            elif rule['additionalProperties']:
                found.lines[name] = where
                more = rule['additionalProperties']
                found[name] = self._take(value, more, f'{key}.{name}')
            else:
                self._unknown(where, name, known)
        for name in rule.get('required', ()):
            if name not in found:
                self._wrong(found.where, f'the key {name!r} is missing')
        return found

    def _unknown(self, where: str, name: str, known: Iterable[str]) -> None:
        text = name.replace('-', '_').lower()
        near = difflib.get_close_matches(text, known, 1)
        hint = f'did you mean {near[0]!r}?' if near else None
        shown = errors.shown(name, 40)
        hint = hint or f'known are: {", ".join(sorted(known))}'
        self._wrong(where, f'unknown key {shown!r}', hint)

    def _ami(self, keys: _Keys) -> DeclaredAmi:
        for problem, key, hint in _contradictions(keys):
            self._wrong(keys.lines.get(key, keys.where), problem, hint)
        given = {k: v for k, v in keys.items() if k not in MAKING}
        for key in _PATHS:
            if key in given:
                is_name = key in ('kernel', 'ramdisk', 'sign_cert_id')
                given[key] = self._located(given[key], is_name=is_name)
        for key, value in given.items():
            if isinstance(value, list):
                # Each once; the order of tags means nothing to Glance.
                given[key] = tuple(dict.fromkeys(value))
        given.setdefault('name', given.get('family', ''))
        return DeclaredAmi(
            lines=keys.lines,
            where=keys.where,
            collection=self.collection,
            making={k: v for k, v in keys.items() if k in MAKING},
            **given,
        )

    def _located(self, text: str, *, is_name: bool) -> str:
        """Take a path from where the file is.

        :param is_name: whether it may be the name of an image.
        """
        path = self._path.parent / text
        if _URL.match(text) or (
            is_name and '/' not in text and not os.path.lexists(path)
        ):
            return text
        return str(path)


def _contradictions(
    keys: Mapping[str, Any],
) -> Iterator[tuple[str, str, str | None]]:
    """Tell what the keys of an AMI cannot say together.

    :returns: what is wrong, the key that it is about, and what to do.
    """
    if 'name' not in keys and 'family' not in keys:
        yield "the key 'name' or 'family' is missing", '', None
    yield from _of_source(keys)
    for noun in ('kernel', 'ramdisk'):
        if _URL.match(keys.get(noun, '')):
            what = f'{noun}: a file or an image is needed, not a URL'
            yield what, noun, 'download it first'
        if noun in keys and (keys.get('no_kernel') or keys.get(f'no_{noun}')):
            what = f'{noun}: the AMI is to have none'
            yield what, noun, 'remove one of both'
    visibility = keys.get('visibility', 'shared')
    if keys.get('projects') and visibility != 'shared':
        what = f'projects: a {visibility} image is shared with none'
        yield what, 'projects', 'remove one of both, or make it shared'


def _of_source(
    keys: Mapping[str, Any],
) -> Iterator[tuple[str, str, str | None]]:
    source = keys.get('source', '')
    is_web = _URL.match(source)
    if is_web and not source.startswith('https://'):
        yield f'{source}: https is needed', 'source', None
    if is_web and 'sha512' not in keys and 'sha256' not in keys:
        hint = 'add sha512 or sha256, as the vendor publishes it'
        yield f'{source}: its hash is missing', 'source', hint
    for key in ('sha256', 'sha512', *_NEEDED, *MAKING):
        if key not in keys:
            continue
        if not source:
            hint = 'name one, or leave it out'
            yield f'{key}: there is no source', key, hint
        elif key in ('signature_url', 'keyring') and not is_web:
            yield f'{key}: the source is not a URL', key, 'leave it out'
        elif key in _NEEDED and _NEEDED[key] not in keys:
            yield f'{key}: {_NEEDED[key]} is needed, too', key, None
