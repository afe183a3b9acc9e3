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
from typing import Any, NoReturn, TYPE_CHECKING

from amiclient import errors

if TYPE_CHECKING:
    import requests

#: How deep lists and objects may lie in each other. Glance's are four deep.
DEPTH = 64

#: The largest whole number: Glance keeps them in 64 bits.
_LARGEST = 2**63 - 1

#: An id goes into paths of URLs and of files.
_ID = re.compile(r'[0-9A-Za-z_-]{1,255}')
_HEX = re.compile(r'[0-9A-Fa-f]*')

_HINT = 'check that the endpoint is that of an image service'

#: What JSON calls its types.
_TYPES = (
    (type(None), 'null'),
    (bool, 'true or false'),
    (str, 'text'),
    (int, 'a number'),
    (float, 'a number'),
    (list, 'a list'),
    (dict, 'an object'),
)


@dataclasses.dataclass(frozen=True)
class Object:
    """An object of an answer.

    The methods take one member of it. Where none is there, or it is null, it
    is None, or empty.

    :param members: as JSON has them.
    :param what: what it has to be, such as ``an image``.
    :param doing: what was tried, such as ``getting image 8f0c``.
    """

    members: Mapping[str, Any]
    what: str
    doing: str

    def text(self, key: str) -> str | None:
        """Take a text.

        :raises CloudError: if it is none.
        """
        value = self.members.get(key)
        if value is not None and not isinstance(value, str):
            self.refuse(f'"{key}" is {_named(value)}, not text')
        return value

    def word(self, key: str) -> str:
        """Take a text that has to be there.

        :raises CloudError: if it is none, or not there, or empty.
        """
        return self.text(key) or self.refuse(f'it has no "{key}"')

    def id(self, key: str = 'id') -> str:
        """Take an id that has to be there.

        :raises CloudError: if it is none.
        """
        value = self.word(key)
        if not _ID.fullmatch(value):
            self.refuse(f'"{key}" is not an id')
        return value

    def digest(self, key: str) -> str | None:
        """Take a hash in hex.

        :raises CloudError: if it is none.
        """
        value = self.text(key)
        if value is not None and not _HEX.fullmatch(value):
            self.refuse(f'"{key}" is not a hash in hex')
        return value

    def number(self, key: str) -> int | None:
        """Take a whole number that counts something.

        :raises CloudError: if it is none.
        """
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
        """Take what is true or false.

        :raises CloudError: if it is neither.
        """
        value = self.members.get(key)
        if value is not None and not isinstance(value, bool):
            self.refuse(f'"{key}" is {_named(value)}, not true or false')
        return bool(value)

    def instant(self, key: str) -> datetime.datetime | None:
        """Take a time (RFC 3339); one that names no zone is UTC.

        :raises CloudError: if it is none.
        """
        value = self.text(key)
        if not value:
            return None
        try:
            found = datetime.datetime.fromisoformat(value)
            return found.replace(tzinfo=found.tzinfo or datetime.UTC)
        except ValueError:
            self.refuse(f'"{key}" is not a time')

    def texts(self, key: str) -> tuple[str, ...]:
        """Take a list of texts.

        :raises CloudError: if it is none.
        """
        values = self._list(key)
        for value in values:
            if not isinstance(value, str):
                self.refuse(f'"{key}" has {_named(value)} in it, not text')
        return tuple(values)

    def objects(self, key: str, what: str) -> tuple['Object', ...]:
        """Take a list of objects.

        :param what: what each has to be, such as ``an image``.
        :raises CloudError: if it is none.
        """
        return tuple(taken(each, what, self.doing) for each in self._list(key))

    def object(self, key: str) -> Mapping[str, Any]:
        """Take an object; an empty one if there is none.

        :raises CloudError: if it is something else.
        """
        value = self.members.get(key)
        if value is not None and not isinstance(value, dict):
            self.refuse(f'"{key}" is {_named(value)}, not an object')
        return value or {}

    def _list(self, key: str) -> list[Any]:
        value = self.members.get(key)
        if value is not None and not isinstance(value, list):
            self.refuse(f'"{key}" is {_named(value)}, not a list')
        return value or []

    def refuse(self, why: str) -> NoReturn:
        """Say that it is not what it has to be.

        :param why: a clause.
        :raises CloudError: always.
        """
        raise refused(self.what, self.doing, why)


def refused(what: str, doing: str, why: str) -> errors.CloudError:
    """Say that an answer is not what it has to be.

    :param what: that it has to be, such as ``an image``.
    :param doing: what was tried, such as ``getting image 8f0c``.
    :param why: a clause.
    """
    return errors.CloudError(
        f'{doing} failed: Glance answered with something that is not '
        f'{what}: {why}',
        hint=_HINT,
    )


def taken(value: object, what: str, doing: str) -> Object:
    """Take an object.

    :param what: what it has to be, such as ``an image``.
    :param doing: what was tried, such as ``getting image 8f0c``.
    :raises CloudError: if it is none.
    """
    if not isinstance(value, dict):
        raise refused(what, doing, f'it is {_named(value)}, not an object')
    return Object(value, what, doing)


def read(response: 'requests.Response', what: str, doing: str) -> Object:
    """Read the object that an answer holds.

    :param what: what it has to be, such as ``an image``.
    :param doing: what was tried, such as ``getting image 8f0c``.
    :raises CloudError: if it holds none.
    """
    content = response.content
    if not content.strip():
        raise refused(what, doing, 'there is nothing in it')
    try:
        # RFC 8259, section 8.1: JSON is UTF-8, and a mark may be ignored.
        body = json.loads(
            content.decode('utf-8-sig'), parse_constant=_no_number
        )
        if b'\\ud' in content.lower():
            # Half of a character can be written in JSON, but nowhere else.
            json.dumps(body, ensure_ascii=False).encode()
    except RecursionError:
        raise refused(what, doing, _TOO_DEEP) from None
    except ValueError as error:
        raise refused(what, doing, 'it is not JSON') from error
    _check_depth(body, what, doing)
    return taken(body, what, doing)


_TOO_DEEP = f'its lists and objects are more than {DEPTH} deep'


def _check_depth(body: object, what: str, doing: str) -> None:
    level = [body]
    for _ in range(DEPTH + 1):
        if not level:
            return
        level = [
            child
            for value in level
            if isinstance(value, dict | list)
            for child in (value.values() if isinstance(value, dict) else value)
        ]
    raise refused(what, doing, _TOO_DEEP)


def _no_number(name: str) -> NoReturn:
    """Refuse what Python takes for a number, and JSON does not."""
    raise ValueError(name)


def _named(value: object) -> str:
    return next(name for kind, name in _TYPES if isinstance(value, kind))
