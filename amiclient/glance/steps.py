# SPDX-License-Identifier: Apache-2.0

"""Changes to several images, each of which can be undone.

A step is one change of one image. Steps are carried out in order; if one of
them fails, those before it are undone, the last one first, and what cannot be
is listed with the commands that do it.
"""

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import http
import logging
import shlex
import types
from typing import Any, ClassVar, Self, TypeVar

from amiclient.errors import CloudError
from amiclient.glance.client import Catalog
from amiclient.glance import http_errors
from amiclient.glance.model import ImageRecord
from amiclient.glance.model import Kind
from amiclient.glance import stores
from amiclient import interrupts
from amiclient.progress import Progress
from amiclient.progress import QUIET

LOG = logging.getLogger(__name__)

_T = TypeVar('_T')

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

#: Glance's names of the rights to copy, and to delete copies.
_COPIES = ('copy_image', 'get_image_location', 'delete_image_location')

#: What a project says to what is shared with it, and its options.
ANSWERS = {'accepted': 'accept', 'rejected': 'reject', 'pending': 'pending'}

#: What takes several images at once.
DELETE = ('openstack', 'image', 'delete')

#: Glance's names of attributes that can be changed; all others are properties.
_ATTRIBUTES = {*_OPTIONS, *_FLAGS, 'tags', 'visibility'}


def title(kind: Kind, image: ImageRecord) -> str:
    """Name an image within a sentence."""
    return f'{kind.noun} {image.title}'


def before(image: ImageRecord, name: str) -> Any:
    """Tell what an attribute or a property is.

    :param name: by Glance.
    :returns: None if there is no such property.
    """
    if name not in _ATTRIBUTES:
        return image.properties.get(name)
    value = getattr(image, 'hidden' if name == 'os_hidden' else name)
    if name == 'tags':
        return list(value)
    # A name can be null, but it cannot be removed.
    return '' if name == 'name' and value is None else value


class Undoable(abc.ABC):
    """What is undone if a later step fails; a deletion cannot be."""

    #: What to say once it was.
    undone: ClassVar[str]

    #: What to say once it stays.
    lasting = ''

    @property
    @abc.abstractmethod
    def title(self) -> str:
        """Name the image within a sentence."""

    def undo(self, catalog: Catalog) -> None:
        """Undo it, even if it was not done."""
        raise NotImplementedError

    def undoing(self) -> Sequence[Sequence[str]]:
        """Name the commands that undo it."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Change(Undoable):
    """One change of one image.

    :param kind: what the image is within the triple.
    :param image: as it is before all steps.
    """

    undone = 'all changes were undone'

    kind: Kind
    image: ImageRecord

    @property
    def title(self) -> str:
        return title(self.kind, self.image)

    @abc.abstractmethod
    def describe(self) -> str:
        """Say what it changes, in one line."""

    @abc.abstractmethod
    def apply(self, catalog: Catalog) -> None:
        """Do it."""


@dataclasses.dataclass(frozen=True)
class Update(Change):
    """Attributes and properties that are given other values.

    :param values: by Glance's names; None removes a property.
    """

    values: Mapping[str, Any]

    def describe(self) -> str:
        given = ', '.join(
            f'{name}={_written(value)}'
            for name, value in self.values.items()
            if value is not None
        )
        gone = ', '.join(n for n, v in self.values.items() if v is None)
        words = [f'set {given}'] if given else []
        words += [f'remove {gone}'] if gone else []
        return f'{self.title}: {" and ".join(words)}'

    def apply(self, catalog: Catalog) -> None:
        catalog.update(self.image.id, self.values)

    def undo(self, catalog: Catalog) -> None:
        old = {name: before(self.image, name) for name in self.values}
        catalog.update(self.image.id, old)

    def undoing(self) -> Sequence[Sequence[str]]:
        given: list[str] = []
        gone: list[str] = []
        for name, new in self.values.items():
            value = before(self.image, name)
            if name == 'visibility':
                given.append(f'--{value}')
            elif name == 'tags':
                given += _each('--tag', {*value} - {*new})
                gone += _each('--tag', {*new} - {*value})
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
    return 'the new one' if isinstance(value, Kind) else str(value)


@dataclasses.dataclass(frozen=True)
class Membership(Change):
    """A project that an image is shared with, or no longer.

    :param project: its id.
    :param present: false to take it off.
    """

    project: str
    present: bool = True

    def describe(self) -> str:
        how = 'share' if self.present else 'stop sharing'
        return f'{self.title}: {how} with project {self.project}'

    def apply(self, catalog: Catalog) -> None:
        change = catalog.add_member if self.present else catalog.remove_member
        change(self.image.id, self.project)

    def undo(self, catalog: Catalog) -> None:
        # Who had accepted the image has to do it again.
        dataclasses.replace(self, present=not self.present).apply(catalog)

    def undoing(self) -> Sequence[Sequence[str]]:
        verb = 'remove' if self.present else 'add'
        words = 'openstack', 'image', verb, 'project'
        return [(*words, self.image.id, self.project)]


@dataclasses.dataclass(frozen=True)
class Acceptance(Change):
    """What a project says to an image that is shared with it.

    :param project: its id.
    :param status: ``accepted``, ``rejected`` or ``pending``.
    :param before: what it is before.
    """

    project: str
    status: str
    before: str

    def describe(self) -> str:
        return f'{self.title}: {self.status} for project {self.project}'

    def apply(self, catalog: Catalog) -> None:
        self._say(catalog, self.status)

    def undo(self, catalog: Catalog) -> None:
        self._say(catalog, self.before)

    def _say(self, catalog: Catalog, status: str) -> None:
        id, project = self.image.id, self.project
        doing = f'having image {id} {status} for {project}'
        body, url = {'status': status}, f'/images/{id}/members/{project}'
        catalog.ask(url, 'a member', doing, 'PUT', json=body)

    def undoing(self) -> Sequence[Sequence[str]]:
        words = 'openstack', 'image', 'set', f'--{ANSWERS[self.before]}'
        return [(*words, '--project', self.project, self.image.id)]


@dataclasses.dataclass(frozen=True)
class Activation(Change):
    """Data that is given again, or to nobody any more."""

    active: bool

    def describe(self) -> str:
        return f'{"activate" if self.active else "deactivate"} {self.title}'

    def apply(self, catalog: Catalog) -> None:
        how = 'reactivate' if self.active else 'deactivate'
        catalog.activate(self.image.id, how)

    def undo(self, catalog: Catalog) -> None:
        dataclasses.replace(self, active=not self.active).apply(catalog)

    def undoing(self) -> Sequence[Sequence[str]]:
        option = '--deactivate' if self.active else '--activate'
        return [('openstack', 'image', 'set', option, self.image.id)]


@dataclasses.dataclass(frozen=True)
class Copies(Change):
    """Stores that an image is copied to, or deleted from.

    :param stores: their ids.
    :param present: false to delete it from them.
    :param all_must: whether all of them have to succeed, or one at least.
    :param progress: who watches the copying.
    """

    stores: tuple[str, ...]
    present: bool = True
    all_must: bool = True
    progress: Progress = dataclasses.field(
        default=QUIET, compare=False, repr=False
    )

    @property
    def _changed(self) -> tuple[str, ...]:
        away = stores.lacking(self.image, self.stores)
        if self.present:
            return away
        return tuple(name for name in self.stores if name not in away)

    def describe(self) -> str:
        how = 'copy to' if self.present else 'delete from'
        return f'{self.title}: {how} the {stores.named(self._changed)}'

    def apply(self, catalog: Catalog) -> None:
        if not self.present:
            self._delete(catalog)
            return
        with self.progress.task(f'Copying {self.kind.noun}'):
            failed = stores.copy(
                catalog,
                self.image,
                self.stores,
                all_must_succeed=self.all_must,
            )
        if failed:
            where = stores.named(failed)
            LOG.warning(
                'the %s could not be copied to the %s', self.title, where
            )

    def undo(self, catalog: Catalog) -> None:
        if self.present:
            self._delete(catalog)
        else:
            stores.copy(catalog, self.image, self._changed)

    def _delete(self, catalog: Catalog) -> None:
        now = catalog.get(self.image.id)
        if stores.await_end(catalog, now):
            # That may have taken all the time.
            catalog = catalog.within()
            now = catalog.get(self.image.id)
        for name in self._changed:
            if name in now.stores:
                catalog.delete_copy(self.image.id, name)

    def undoing(self) -> Sequence[Sequence[str]]:
        words = 'openstack', 'image'
        if self.present:
            return [
                (*DELETE, '--store', name, self.image.id)
                for name in self._changed
            ]
        method = 'import', '--method', stores.COPY, '--store', *self._changed
        return [(*words, *method, '--', self.image.id)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is going to be changed.

    :param warnings: what to say before.
    :param notes: what stays as it is, and why.
    """

    steps: tuple[Change, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def describe(self) -> Iterator[str]:
        """Say what is going to be done, a line for each step."""
        for step in self.steps:
            yield step.describe()


def execute(plan: Plan, catalog: Catalog) -> None:
    """Carry out all steps of a plan, or none.

    :raises CloudError: if the cloud refuses; then all is as it was before,
        or it was logged what is not.
    """
    with Changes(catalog) as changes:
        for step in plan.steps:
            changes.carry_out(step)
        changes.commit()


def apply(step: Change, catalog: Catalog) -> None:
    """Carry out one step."""
    try:
        step.apply(catalog)
    except CloudError as error:
        raise explained(catalog, error, step.image) from error


def explained(
    catalog: Catalog, error: CloudError, image: ImageRecord
) -> CloudError:
    """Find a better hint for a refusal.

    Glance tells a reader, somebody of another project and somebody who
    may not publish the same: "You are not authorized to complete ...
    action".

    :param error: what a change of an image, or deleting it, has raised.
    :returns: the same, if there is nothing to add.
    """
    message, status = error.message, error.status
    if status == http.HTTPStatus.CONFLICT and 'in use' in message:
        hint = (
            'volumes or servers are clones of its data in the store: '
            'delete those first'
        )
    elif status != http.HTTPStatus.FORBIDDEN or (
        # What this needs is said already.
        'publicize_image' in message or 'the only store' in message
    ):
        return error
    elif any(name in message for name in _COPIES):
        hint = (
            'usually only administrators can have images copied to other '
            'stores, or delete the copies'
        )
    elif 'is protected' in message:
        hint = unprotect(image)
    elif image.owner != catalog.project():
        hint = (
            f'it belongs to the project {image.owner}: only members of '
            'that, or an administrator, can change it'
        )
    else:
        hint = http_errors.NO_ROLE
    return CloudError(message, subject=error.subject, hint=hint, status=status)


def unprotect(image: ImageRecord) -> str:
    """Tell what to do about an image that is protected."""
    return f'unprotect it first: openstack image set --unprotected {image.id}'


class Changes:
    """Carries out steps, and undoes them unless all went well."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._begun: list[Undoable] = []

    def __enter__(self) -> Self:
        return self

    def carry_out(self, step: Change) -> None:
        """Carry out one step, as :func:`apply` does."""
        self.attempt(step, lambda: apply(step, self._catalog))

    def attempt(self, step: Undoable, work: Callable[[], _T]) -> _T:
        """Do what is undone if something fails later.

        :param work: does it.
        """
        self._begun.append(step)
        try:
            return work()
        except CloudError as error:
            if error.status is not None and error.status < 500:
                # Else it may have been done all the same.
                self._begun.remove(step)
            raise

    def commit(self) -> None:
        """Say that all went well: from now on the changes stay."""
        for step in self._begun:
            if step.lasting:
                LOG.warning('%s', step.lasting)
        self._begun = []

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        if error is None or not self._begun:
            return
        notes = dict.fromkeys(step.undone for step in self._begun)
        interrupts.undo(self._undo)
        if not self._begun:
            for note in notes:
                error.add_note(note)

    def _undo(self) -> None:
        # Nobody likes to wait for a network that is gone.
        catalog = self._catalog.within()
        left: list[Undoable] = []
        while self._begun:
            step = self._begun[-1]
            try:
                step.undo(catalog)
            except CloudError as error:
                # No traceback for users.
                LOG.error('%s: %s', step.title, error)  # noqa: TRY400
                left.append(step)
            self._begun.pop()
        self._begun = left[::-1]
        if left:
            LOG.error(
                'could not undo everything; to undo the rest, run: %s',
                self.undoing(),
            )

    def undoing(self) -> str:
        """Write the commands that undo what was done."""
        lines: list[Sequence[str]] = []
        for step in reversed(self._begun):
            for words in step.undoing():
                both = words, lines[-1] if lines else ()
                if all(w[:3] == DELETE and '--store' not in w for w in both):
                    lines[-1] = (*words, *lines[-1][3:])
                else:
                    lines.append(words)
        return ' && '.join(map(shlex.join, lines))
