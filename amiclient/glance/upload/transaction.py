# SPDX-License-Identifier: Apache-2.0

"""Images that are all created, or not at all.

Until all of them are complete they have the mark that
:mod:`amiclient.glance.upload.marks` tells of, so that another run can see
what is left of one that could undo nothing.
"""

from collections.abc import Collection, Mapping, Sequence
import contextlib
import dataclasses
import http
import logging
import time
import types
from typing import Any
import uuid

from amiclient import errors
from amiclient.glance import client
from amiclient.glance import model
from amiclient.glance import steps
from amiclient.glance import stores
from amiclient.glance.upload import marks
from amiclient import interrupts

LOG = logging.getLogger(__name__)

#: How often removing an image is tried, and the seconds in between. Glance
#: may still be busy with a request that was given up here.
_TRIES = 3
_PAUSE = 1.0


@dataclasses.dataclass(eq=False)
class _Made(steps.Undoable):
    """An image that has to go if the rest cannot be made."""

    undone = 'nothing was left behind'

    id: str
    name: str
    confirmed: bool = False
    protected: bool = False
    marked: bool = False

    @property
    def title(self) -> str:
        return f'{self.name} ({self.id})'

    def undo(self, catalog: client.Catalog) -> None:
        problem: errors.CloudError | None = None
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(_PAUSE)
            try:
                if self.confirmed and stores.await_end(
                    catalog, catalog.get(self.id)
                ):
                    # That may have taken all the time.
                    catalog = catalog.within()
                if self.protected:
                    catalog.update(self.id, {'protected': False})
                    self.protected = False
                return catalog.delete(self.id)
            except errors.NotFoundError:
                if self.confirmed:
                    return None
                # Asked for but never answered, it may yet come to be.
                problem = None
            except errors.CloudError as error:
                problem = error
                if error.status is None:
                    # Nobody answers; each try could take minutes.
                    break
        if problem is not None:
            raise problem
        return None

    def undoing(self) -> Sequence[Sequence[str]]:
        return [(*steps.DELETE, self.id)]


class Transaction(steps.Changes):
    """Creates images, and removes them again unless all went well.

    Each has an id before it is created, so that it can be removed even if
    the answer to the request that creates it never comes.

    :param keep: whether images stay if something fails.
    :param marked: whether they are marked as unfinished.
    """

    def __init__(
        self, catalog: client.Catalog, *, keep: bool, marked: bool = True
    ) -> None:
        super().__init__(catalog)
        self._keep = keep
        self._marked = marked

    @property
    def _made(self) -> list[_Made]:
        return [step for step in self._begun if isinstance(step, _Made)]

    def create(self, new: model.NewImage) -> model.ImageRecord:
        """Create an image, queued and unprotected.

        An image that is protected could not be removed any more: see
        :meth:`finish`.
        """
        chosen = new.id is not None
        new = dataclasses.replace(
            new, id=new.id or str(uuid.uuid4()), protected=None
        )
        try:
            return self._create(new, chosen=chosen, marked=self._marked)
        except errors.CloudError as error:
            # Operators can reserve properties for themselves; the mark is no
            # reason to fail.
            if not self._marked or marks.PROPERTY not in error.message:
                raise
            LOG.debug('the mark is refused: %s', error)
            return self._create(new, chosen=chosen, marked=False)

    def _create(
        self, new: model.NewImage, *, chosen: bool, marked: bool
    ) -> model.ImageRecord:
        made = _Made(id=new.id or '', name=new.name, marked=marked)
        self._begun.append(made)
        if marked:
            mark = {marks.PROPERTY: str(marks.UploadRun.this())}
            new = dataclasses.replace(
                new, properties={**new.properties, **mark}
            )
        try:
            record = self._catalog.create(new)
        except errors.CloudError as error:
            if _refused(error, chosen=chosen):
                self._begun.remove(made)
            raise
        made.confirmed = True
        return record

    def adopt(
        self, record: model.ImageRecord, new: model.NewImage
    ) -> model.ImageRecord:
        """Make an image that a killed run has left what a new one would be.

        Glance never gives the id of a deleted image again, so this is how
        one that the user chose can be had.

        :param record: the image, which has no data.
        """
        self._begun.append(
            _Made(id=record.id, name=new.name, confirmed=True, marked=True)
        )
        changes: dict[str, Any] = dict.fromkeys(record.properties)
        changes.update(new.properties)
        changes[marks.PROPERTY] = str(marks.UploadRun.this())
        changes.update(
            name=new.name,
            disk_format=new.disk_format,
            container_format=new.container_format,
            visibility=new.visibility or record.visibility,
            os_hidden=bool(new.hidden),
            min_disk=new.min_disk,
            min_ram=new.min_ram,
            tags=list(new.tags),
        )
        return self._catalog.update(
            record.id, changes, present=record.properties.keys()
        )

    def finish(
        self,
        record: model.ImageRecord,
        changes: Mapping[str, Any] = types.MappingProxyType({}),
    ) -> model.ImageRecord:
        """Change one of the images for the last time, and clear its mark.

        :param changes: what else of it changes: ``{'protected': True}``.
        """
        made = next(m for m in self._made if m.id == record.id)
        made.protected = bool(changes.get('protected'))
        return self._last(made, changes, record.properties.keys()) or record

    def _last(
        self, made: _Made, changes: Mapping[str, Any], present: Collection[str]
    ) -> model.ImageRecord | None:
        last = dict(changes)
        if made.marked:
            last[marks.PROPERTY] = None
        if not last:
            return None
        try:
            record = self._catalog.update(made.id, last, present=present)
        except errors.CloudError as error:
            if changes or isinstance(error, errors.NotFoundError):
                raise
            # It is complete all the same.
            LOG.warning(
                '%s; to remove a mark that is no longer needed, run: '
                'openstack image unset --property %s %s',
                error.message,
                marks.PROPERTY,
                made.id,
            )
            record = None
        made.marked = False
        return record

    def commit(self) -> None:
        """Say that all went well: from now on the images stay.

        The marks that are left are cleared, the first image's last: others
        may use a kernel once it has lost its mark, so this is when nothing
        else can fail.
        """
        for made in reversed(self._made):
            if made.marked:
                self._last(made, {}, {marks.PROPERTY})
        super().commit()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        if error is None or not self._begun or not self._keep:
            return super().__exit__(kind, error, trace)
        self._give_up_marks()
        LOG.warning(
            'kept what was created; to remove it, run: %s', self.undoing()
        )
        return None

    def _give_up_marks(self) -> None:
        # What the user wants to keep must not go with the next upload.
        with interrupts.ignored():
            for made in self._made:
                if made.marked:
                    with contextlib.suppress(errors.CloudError):
                        self._catalog.within().update(
                            made.id, {marks.PROPERTY: None}
                        )


def _refused(error: errors.CloudError, *, chosen: bool) -> bool:
    """Tell whether an image certainly was not created by us.

    :param chosen: whether the user chose its id. Then somebody else's image
        may have it, and must not be removed; with a random id, a conflict is
        with our own request, sent again by the session.
    """
    if error.status is None or error.status >= 500:
        return False
    return chosen or error.status != http.HTTPStatus.CONFLICT
