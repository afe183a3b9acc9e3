# SPDX-License-Identifier: Apache-2.0

"""The cloud's own rules for images, from its schema.

Operators can restrict formats, require properties, and say what values they
may have. Glance says so itself, but only when the image is created, in words
about its schema, and for one image after the other.
"""

from collections.abc import Iterable, Iterator, Mapping
import re
from typing import Any

from amiclient import errors
from amiclient.glance import client
from amiclient.glance import model

#: How much of a pattern is told.
_LONGEST = 80

#: Characters of a pattern that is looked at.
_PATTERN = 1000

#: Characters of a value that is matched: with two repetitions in a pattern,
#: the time grows with the third power of them.
_VALUE = 255

#: A set of characters, or one that is escaped; and a group without another.
_SET = re.compile(r'\\.|\[\^?\]?(?:\\.|[^\]\\])*\]', re.DOTALL)
_GROUP = re.compile(r'\(([^()]*)\)(?=([*+?{])?)')
_ENDLESS = re.compile(r'[*+]|\{\d*,\}')

#: The types of JSON schema that a value given as text can be of. Glance keeps
#: text only, so that other types are its own attributes'.
_TEXT = 'string'


class Rules:
    """What a cloud takes.

    :param schema: the answer to ``GET /v2/schemas/image``: a JSON schema
        (json-schema.org, draft 4), of which this knows what Glance uses.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._known: Mapping[str, Any] = schema.get('properties') or {}
        further = schema.get('additionalProperties')
        self._further: Any = {} if further is None else further
        required = schema.get('required')
        self._required = tuple(required if isinstance(required, list) else ())

    @classmethod
    def of(cls, catalog: client.Catalog) -> 'Rules':
        """Ask a cloud for its rules.

        :raises CloudError: if the cloud does not answer as it should.
        """
        return cls(catalog.schema())

    def takes_formats(self, disk_format: str, container_format: str) -> bool:
        """Tell whether images of these formats are taken."""
        return disk_format in self._formats(
            'disk_format'
        ) and container_format in self._formats('container_format')

    def takes_property(self, key: str) -> bool:
        """Tell whether images may have a property of this name at all."""
        return self._rule(key) is not False

    def objection(self, key: str, value: str) -> str | None:
        """Tell what speaks against a property.

        :returns: a clause whose subject is the property; None if nothing.
        """
        rule = self._rule(key)
        if rule is False:
            return 'it takes no such property'
        if not isinstance(rule, dict):
            return None
        return next(_objections(rule, value), None)

    def check(self, new: model.NewImage) -> None:
        """Check that an image would be taken.

        :raises CloudError: saying what of it would be refused.
        """
        for name, format_ in (
            ('disk_format', new.disk_format),
            ('container_format', new.container_format),
        ):
            if format_ not in self._formats(name):
                raise errors.CloudError(
                    f'this cloud takes no images of format {format_}',
                    hint='--image-format raw may do'
                    if format_ == model.Kind.AMI.value
                    else 'ask its operator, or link images that it holds',
                )
        for key, value in new.properties.items():
            why = self.objection(key, value)
            if why is not None:
                raise errors.CloudError(
                    f'this cloud refuses the property {key}={value}: {why}',
                    hint=f'give another value: --property {key}=...',
                )
        given = new.properties.keys() | model.ATTRIBUTES
        for key in self._required:
            if key not in given:
                raise errors.CloudError(
                    f'this cloud takes no images without the property {key}',
                    hint=f'give it: --property {key}=...',
                )

    def sift(
        self, computed: Mapping[str, str]
    ) -> tuple[dict[str, str], tuple[str, ...]]:
        """Leave out computed properties that the cloud would refuse.

        Nobody asked for them, so they must not keep an image from the cloud.

        :returns: those that it takes, and a warning for each other.
        """
        taken: dict[str, str] = {}
        warnings: list[str] = []
        for key, value in computed.items():
            why = self.objection(key, value)
            if why is None:
                taken[key] = value
            else:
                warnings.append(
                    f'the property {key}={value} is left out, for this cloud '
                    f'refuses it: {why}'
                )
        return taken, tuple(warnings)

    def _formats(self, name: str) -> Iterable[str]:
        rule = self._known.get(name)
        enum = rule.get('enum') if isinstance(rule, dict) else None
        return [f for f in enum or () if isinstance(f, str)]

    def _rule(self, key: str) -> Any:
        return self._known.get(key, self._further)


def _objections(rule: Mapping[str, Any], value: str) -> Iterator[str]:
    """Check a text against a JSON schema.

    Keywords that are not known here object to nothing: Glance has the last
    word.
    """
    types = rule.get('type', _TEXT)
    types = types if isinstance(types, list) else [types]
    if _TEXT not in types:
        yield f'it must be of type {_either(types)}'
        return
    enum = rule.get('enum')
    if isinstance(enum, list) and value not in enum:
        yield f'it must be one of {_either(enum)}'
    longest, shortest = rule.get('maxLength'), rule.get('minLength')
    if isinstance(longest, int) and len(value) > longest:
        yield f'it must have {longest} characters at most'
    if isinstance(shortest, int) and len(value) < shortest:
        yield f'it must have {shortest} characters at least'
    pattern = rule.get('pattern')
    if isinstance(pattern, str) and not _matches(pattern, value):
        yield f'it must match {pattern[:_LONGEST]}'


def _either(values: Iterable[Any]) -> str:
    return ', '.join(v for v in values if v and isinstance(v, str))


def _matches(pattern: str, value: str) -> bool:
    if len(value) > _VALUE or not _is_quick(pattern):
        return True
    try:
        return re.search(pattern, value) is not None
    except (re.error, OverflowError, RecursionError):
        # Of another dialect: Glance has the last word.
        return True


def _is_quick(pattern: str) -> bool:
    """Tell whether a pattern cannot be one that takes for ever.

    Those repeat what holds repetitions or choices: with each character of the
    value, the time doubles. Glance's own patterns are far from that.
    """
    plain = _SET.sub('x', pattern[:_PATTERN])
    while group := _GROUP.search(plain):
        inner, repeated = group.groups()
        if repeated and any(sign in inner for sign in '*+?{|'):
            return False
        plain = plain[: group.start()] + inner + plain[group.end() :]
    return len(pattern) <= _PATTERN and len(_ENDLESS.findall(plain)) <= 2
