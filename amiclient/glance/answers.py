# SPDX-License-Identifier: Apache-2.0

"""What the cloud answers, taken apart.

A cloud can be broken, a proxy in front of it can have an opinion, and an
endpoint can be that of something else. So no answer is used as it is: each
member is taken by the type that it must have, and what has another is refused
by the name of what it should have been.
"""

from collections.abc import Mapping
import dataclasses
import datetime
import json
import re
from typing import Any, NoReturn, TYPE_CHECKING, TypeVar

from amiclient import errors
from amiclient.glance import http_errors

if TYPE_CHECKING:
    import requests

_T = TypeVar('_T')

#: How deep lists and objects may lie in each other. Glance's are four deep.
DEPTH = 64

#: The largest whole number: Glance keeps them in 64 bits.
_LARGEST = 2**63 - 1

#: An id goes into paths of URLs and of files.
_ID = re.compile(r'[0-9A-Za-z_-]{1,255}')
_HEX = re.compile(r'[0-9A-Fa-f]*')

_HINT = 'check that the endpoint is that of an image service'


@dataclasses.dataclass(frozen=True)
class Object:
    """An object of an answer.

    The methods take one member of it. Where none is there, or it is null, it
    is None, or empty; what is of another type is a :class:`CloudError`.

    :param members: as JSON has them.
    :param what: what it has to be, such as ``an image``.
    :param doing: what was tried, such as ``getting image 8f0c``.
    :param asked: the end of a message, which names the request.
    """

    members: Mapping[str, Any]
    what: str
    doing: str
    asked: str = ''

    def text(self, key: str) -> str | None:
        """Take a text."""
        return self._typed(key, str, 'text')

    def word(self, key: str) -> str:
        """Take a text that has to be there."""
        return self.text(key) or self.refuse(f'it has no "{key}"')

    def id(self, key: str = 'id') -> str:
        """Take an id that has to be there."""
        value = self.word(key)
        if not _ID.fullmatch(value):
            self.refuse(f'"{key}" is not an id')
        return value

    def digest(self, key: str) -> str | None:
        """Take a hash in hex."""
        value = self.text(key)
        if value is not None and not _HEX.fullmatch(value):
            self.refuse(f'"{key}" is not a hash in hex')
        return value

    def number(self, key: str) -> int | None:
        """Take a whole number that counts something."""
        value = self.members.get(key)
        if value is None:
            return None
        # For Python, true is a whole number as well.
        if not isinstance(value, int) or isinstance(value, bool):
            named = '' if isinstance(value, float) else f'{_named(value)}, '
            self.refuse(f'"{key}" is {named}not a whole number')
        if not 0 <= value <= _LARGEST:
            wrong = 'negative' if value < 0 else 'too large'
            self.refuse(f'"{key}" is {wrong}')
        return value

    def flag(self, key: str) -> bool:
        """Take what is true or false."""
        return bool(self._typed(key, bool, 'true or false'))

    def instant(self, key: str) -> datetime.datetime | None:
        """Take a time (RFC 3339); one that names no zone is UTC."""
        value = self.text(key)
        if not value:
            return None
        try:
            found = datetime.datetime.fromisoformat(value)
            return found.replace(tzinfo=found.tzinfo or datetime.UTC)
        except ValueError:
            self.refuse(f'"{key}" is not a time')

    def texts(self, key: str) -> tuple[str, ...]:
        """Take a list of texts."""
        values = self._list(key)
        for value in values:
            if not isinstance(value, str):
                self.refuse(f'"{key}" has {_named(value)} in it, not text')
        return tuple(values)

    def objects(self, key: str, what: str) -> tuple['Object', ...]:
        """Take a list of objects.

        :param what: what each has to be, such as ``an image``.
        """
        return tuple(
            taken(each, what, self.doing, self.asked)
            for each in self._list(key)
        )

    def within(self, key: str) -> 'Object':
        """Take an object to be read in turn; an empty one if there is none."""
        return dataclasses.replace(self, members=self.object(key))

    def object(self, key: str) -> Mapping[str, Any]:
        """Take an object; an empty one if there is none."""
        return self._typed(key, dict, 'an object') or {}

    def _list(self, key: str) -> list[Any]:
        return self._typed(key, list, 'a list') or []

    def _typed(self, key: str, kind: type[_T], named: str) -> _T | None:
        value = self.members.get(key)
        if value is None or isinstance(value, kind):
            return value
        return self.refuse(f'"{key}" is {_named(value)}, not {named}')

    def refuse(self, why: str) -> NoReturn:
        """Say that it is not what it has to be.

        :param why: a clause.
        """
        raise _refused(self.what, self.doing, why, self.asked)


def _refused(what: str, doing: str, why: str, asked: str) -> errors.CloudError:
    return errors.CloudError(
        f'{doing} failed: Glance answered with something that is not '
        f'{what}: {why}{asked}',
        hint=_HINT,
    )


def taken(value: object, what: str, doing: str, asked: str = '') -> Object:
    """Take an object; the parameters are those of :class:`Object`."""
    if not isinstance(value, dict):
        why = f'it is {_named(value)}, not an object'
        raise _refused(what, doing, why, asked)
    return Object(value, what, doing, asked)


def read(response: 'requests.Response', what: str, doing: str) -> Object:
    """Read the object that an answer holds."""
    content, asked = response.content, http_errors.request_id(response)
    if not content.strip():
        raise _refused(what, doing, 'it is empty', asked)
    try:
        # RFC 8259, section 8.1: JSON is UTF-8, and a mark may be ignored.
        body = json.loads(
            content.decode('utf-8-sig'), parse_constant=_no_number
        )
        if b'\\ud' in content.lower():
            # Half of a character can be written in JSON, but nowhere else.
            json.dumps(body, ensure_ascii=False).encode()
    except RecursionError:
        raise _refused(what, doing, _TOO_DEEP, asked) from None
    except ValueError as error:
        raise _refused(what, doing, 'it is not JSON', asked) from error
    if _is_too_deep(body):
        raise _refused(what, doing, _TOO_DEEP, asked)
    return taken(body, what, doing, asked)


_TOO_DEEP = f'it is nested more than {DEPTH} levels deep'


def _is_too_deep(body: object) -> bool:
    level = [body]
    for _ in range(DEPTH + 1):
        if not level:
            return False
        level = [
            child
            for value in level
            if isinstance(value, dict | list)
            for child in (value.values() if isinstance(value, dict) else value)
        ]
    return True


def _no_number(name: str) -> NoReturn:
    """Refuse what Python takes for a number, and JSON does not."""
    raise ValueError(name)


def _named(value: object) -> str:
    """Tell what JSON calls the type of a value."""
    match value:
        case None:
            return 'null'
        case bool():
            return 'true or false'
        case int() | float():
            return 'a number'
        case list():
            return 'a list'
    return 'text' if isinstance(value, str) else 'an object'
