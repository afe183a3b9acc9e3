# SPDX-License-Identifier: Apache-2.0

"""Changes to several images, each of which can be taken back.

A step is one change of one image. Steps are carried out in order; if one of
them fails, those before it are taken back, the last one first, and what
cannot be is listed with the commands that do it.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import logging
import shlex
import types
import typing
from typing import Any

from amiclient import errors
from amiclient.glance import client
from amiclient.glance import model
from amiclient import interrupts

LOG = logging.getLogger(__name__)

#: Glance's names of attributes, and the record's where those differ.
_ATTRIBUTES = {
    'name': 'name',
    'min_disk': 'min_disk',
    'min_ram': 'min_ram',
    'os_hidden': 'hidden',
    'owner': 'owner',
    'protected': 'protected',
    'tags': 'tags',
    'visibility': 'visibility',
}

#: How ``openstack image set`` calls what takes a value.
_OPTIONS = {
    'name': '--name',
    'min_disk': '--min-disk',
    'min_ram': '--min-ram',
    'owner': '--project',
}

_FLAGS = {
    'protected': ('--unprotected', '--protected'),
    'os_hidden': ('--unhidden', '--hidden'),
}


def title(kind: model.Kind, image: model.ImageRecord) -> str:
    """Name an image within a sentence."""
    return f'{kind.noun} {image.name!r} ({image.id})'


def before(image: model.ImageRecord, name: str) -> Any:
    """Tell what an attribute or a property is.

    :param name: by Glance.
    :returns: None if there is no such property.
    """
    if name not in _ATTRIBUTES:
        return image.properties.get(name)
    value = getattr(image, _ATTRIBUTES[name])
    if name == 'tags':
        return list(value)
    # A name can be null, but it cannot be removed.
    return '' if name == 'name' and value is None else value


class Step(typing.Protocol):
    """One change of one image."""

    @property
    def kind(self) -> model.Kind:
        """What the image is within the triple."""

    @property
    def image(self) -> model.ImageRecord:
        """The image as it is before all steps."""

    def describe(self) -> str:
        """Say what it changes, in one line."""

    def apply(self, catalog: client.Catalog) -> None:
        """Do it."""

    def undo(self, catalog: client.Catalog) -> None:
        """Take it back, even if it was not done."""

    def undoing(self) -> Sequence[Sequence[str]]:
        """Name the commands that take it back."""


@dataclasses.dataclass(frozen=True)
class Update:
    """Attributes and properties that are given other values.

    :param values: by Glance's names; None removes a property.
    """

    kind: model.Kind
    image: model.ImageRecord
    values: Mapping[str, Any]

    def describe(self) -> str:
        """Say what it changes, in one line."""
        given = ', '.join(
            f'{name}={_written(value)}'
            for name, value in self.values.items()
            if value is not None
        )
        gone = ', '.join(n for n, v in self.values.items() if v is None)
        words = [f'set {given}'] if given else []
        words += [f'remove {gone}'] if gone else []
        return f'{title(self.kind, self.image)}: {" and ".join(words)}'

    def apply(self, catalog: client.Catalog) -> None:
        """Do it, in one request."""
        catalog.update(self.image.id, self.values)

    def undo(self, catalog: client.Catalog) -> None:
        """Give it the values that it had."""
        catalog.update(
            self.image.id, {name: self._before(name) for name in self.values}
        )

    def _before(self, name: str) -> Any:
        return before(self.image, name)

    def undoing(self) -> Sequence[Sequence[str]]:
        """Name the commands that give it the values that it had."""
        given: list[str] = []
        gone: list[str] = []
        for name in self.values:
            value = self._before(name)
            if name == 'visibility':
                given.append(f'--{value}')
            elif name == 'tags':
                added = {*self.values[name]} - {*value}
                given += _each('--tag', {*value} - {*self.values[name]})
                gone += _each('--tag', added)
            elif name in _FLAGS:
                given.append(_FLAGS[name][bool(value)])
            elif name in _OPTIONS:
                given += (_OPTIONS[name], str(value))
            elif value is None:
                gone += ('--property', name)
            else:
                given += ('--property', f'{name}={value}')
        return [
            ('openstack', 'image', verb, *options, self.image.id)
            for verb, options in (('set', given), ('unset', gone))
            if options
        ]


def _each(option: str, values: set[str]) -> list[str]:
    return [word for value in sorted(values) for word in (option, value)]


def _written(value: Any) -> str:
    if isinstance(value, list):
        return ','.join(value)
    if isinstance(value, model.Kind):
        return 'the new one'
    return str(value)


@dataclasses.dataclass(frozen=True)
class Membership:
    """A project that an image is shared with, or no longer.

    :param project: its id.
    :param present: false to take it off.
    """

    kind: model.Kind
    image: model.ImageRecord
    project: str
    present: bool = True

    def describe(self) -> str:
        """Say what it changes, in one line."""
        how = 'share' if self.present else 'share no longer'
        return (
            f'{title(self.kind, self.image)}: {how} with project '
            f'{self.project}'
        )

    def apply(self, catalog: client.Catalog) -> None:
        """Do it."""
        self._set(catalog, present=self.present)

    def undo(self, catalog: client.Catalog) -> None:
        """Take it back; who had accepted the image has to do it again."""
        self._set(catalog, present=not self.present)

    def _set(self, catalog: client.Catalog, *, present: bool) -> None:
        change = catalog.add_member if present else catalog.remove_member
        change(self.image.id, self.project)

    def undoing(self) -> Sequence[Sequence[str]]:
        """Name the command that takes it back."""
        verb = 'remove' if self.present else 'add'
        words = 'openstack', 'image', verb, 'project'
        return [(*words, self.image.id, self.project)]


class Changes:
    """Carries out steps, and takes them back unless all went well."""

    def __init__(self, catalog: client.Catalog) -> None:
        self._catalog = catalog
        self._begun: list[Step] = []

    def __enter__(self) -> typing.Self:
        return self

    def carry_out(self, step: Step) -> None:
        """Carry out one step.

        :raises CloudError: if the cloud refuses, saying why.
        """
        self._begun.append(step)
        try:
            step.apply(self._catalog)
        except errors.CloudError as error:
            if error.status is not None and error.status < 500:
                # Else it may have been done all the same.
                self._begun.remove(step)
            raise self._catalog.explained(error, step.image) from error

    def commit(self) -> None:
        """Say that all went well: from now on the changes stay."""
        self._begun = []

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        if error is None or not self._begun:
            return
        interrupts.undo(self._undo)
        if not self._begun:
            error.add_note('what was changed is as it was before')

    def _undo(self) -> None:
        catalog = self._catalog.within()
        left: list[Step] = []
        silent = False
        while self._begun:
            step = self._begun[-1]
            error = None if silent else _undo(step, catalog)
            if silent or error is not None:
                left.append(step)
            if error is not None:
                LOG.error('%s: %s', title(step.kind, step.image), error)
                # Nobody answers; each try could take minutes.
                silent = error.status is None
            self._begun.pop()
        self._begun = left[::-1]
        if left:
            LOG.error(
                'could not change back what was changed; this does: %s',
                ' && '.join(
                    shlex.join(words) for s in left for words in s.undoing()
                ),
            )


def _undo(step: Step, catalog: client.Catalog) -> errors.CloudError | None:
    try:
        step.undo(catalog)
    except errors.CloudError as error:
        return error
    return None
