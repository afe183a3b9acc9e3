# SPDX-License-Identifier: Apache-2.0

"""Images that are all created, or not at all.

Until all of them are complete they have the mark that
:mod:`amiclient.glance.upload.marks` tells of, so that another run can see
what is left of one that could undo nothing.
"""

from collections.abc import Collection, Iterable, Mapping
import contextlib
import dataclasses
import http
import logging
import time
import types
import typing
from typing import Any
import uuid

from amiclient import errors
from amiclient.glance import client
from amiclient.glance import model
from amiclient.glance.upload import marks
from amiclient import interrupts

LOG = logging.getLogger(__name__)

#: How often removing an image is tried, and the seconds in between. Glance
#: may still be busy with a request that was given up here.
_TRIES = 3
_PAUSE = 1.0


@dataclasses.dataclass
class _Made:
    """An image that has to go if the rest cannot be made."""

    id: str
    name: str
    confirmed: bool = False
    protected: bool = False
    marked: bool = False


class Transaction:
    """Creates images, and removes them again unless all went well.

    Each has an id before it is created, so that it can be removed even if
    the answer to the request that creates it never comes.

    :param keep: whether images stay if something fails.
    :param marked: whether they are marked as unfinished.
    """

    def __init__(
        self, catalog: client.Catalog, *, keep: bool, marked: bool = True
    ) -> None:
        self._catalog = catalog
        self._keep = keep
        self._marked = marked
        self._made: list[_Made] = []
        #: Images that are to become again as visible as they were.
        self._widened: list[tuple[str, str]] = []

    def __enter__(self) -> typing.Self:
        return self

    def create(self, new: model.NewImage) -> model.ImageRecord:
        """Create an image, queued and unprotected.

        An image that is protected could not be removed any more: see
        :meth:`finish`.

        :raises CloudError: if the cloud refuses it.
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
        self._made.append(made)
        if marked:
            mark = {marks.PROPERTY: str(marks.UploadRun.this())}
            new = dataclasses.replace(
                new, properties={**new.properties, **mark}
            )
        try:
            record = self._catalog.create(new)
        except errors.CloudError as error:
            if _refused(error, chosen=chosen):
                self._made.remove(made)
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
        :raises CloudError: if the cloud refuses the changes.
        """
        self._made.append(
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

    def widen(
        self, record: model.ImageRecord, visibility: str
    ) -> model.ImageRecord:
        """Make an image that is there already more visible.

        :raises CloudError: if the cloud refuses it.
        """
        self._widened.append((record.id, record.visibility))
        return self._catalog.update(record.id, {'visibility': visibility})

    def finish(
        self,
        record: model.ImageRecord,
        changes: Mapping[str, Any] = types.MappingProxyType({}),
    ) -> model.ImageRecord:
        """Change one of the images for the last time, and clear its mark.

        :param changes: what else of it changes: ``{'protected': True}``.
        :returns: the image as it is then.
        :raises CloudError: if the cloud refuses the changes.
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
                '%s; this removes a mark that has no use any more: openstack '
                'image unset --property %s %s',
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
        self._made = []
        self._widened = []

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        if error is None or not (self._made or self._widened):
            return
        if self._keep:
            self._give_up_marks()
            LOG.warning(
                'kept what was created; this removes it: %s',
                _command(self._made),
            )
            return
        interrupts.undo(self._undo)
        if not self._made:
            error.add_note('nothing was left behind')

    def _undo(self) -> None:
        # Nobody likes to wait for a network that is gone.
        catalog = self._catalog.within()
        self._narrow(catalog)
        left = [
            made
            for made in reversed(self._made)
            if not self._remove(made, catalog)
        ]
        self._made = left[::-1]
        if left:
            LOG.error(
                'could not remove what was created; this does: %s',
                _command(self._made),
            )

    def _narrow(self, catalog: client.Catalog) -> None:
        while self._widened:
            image_id, visibility = self._widened.pop()
            try:
                catalog.update(image_id, {'visibility': visibility})
            except errors.CloudError as error:
                LOG.error(  # noqa: TRY400 (no traceback for users)
                    '%s; this undoes it: openstack image set --%s %s',
                    error.message,
                    visibility,
                    image_id,
                )

    def _give_up_marks(self) -> None:
        # What the user wants to keep must not go with the next upload.
        with interrupts.ignored():
            for made in self._made:
                if made.marked:
                    with contextlib.suppress(errors.CloudError):
                        self._catalog.within().update(
                            made.id, {marks.PROPERTY: None}
                        )

    def _remove(self, made: _Made, catalog: client.Catalog) -> bool:
        problem: errors.CloudError | None = None
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(_PAUSE)
            try:
                if made.protected:
                    catalog.update(made.id, {'protected': False})
                    made.protected = False
                catalog.delete(made.id)
                return True
            except errors.NotFoundError:
                if made.confirmed:
                    return True
                # Asked for but never answered, it may yet come to be.
                problem = None
            except errors.CloudError as error:
                problem = error
                if error.status is None:
                    # Nobody answers; each try could take minutes.
                    break
        if problem is not None:
            LOG.error('%s (%s): %s', made.name, made.id, problem)
        return problem is None


def _refused(error: errors.CloudError, *, chosen: bool) -> bool:
    """Tell whether an image certainly was not created by us.

    :param chosen: whether the user chose its id. Then somebody else's image
        may have it, and must not be removed; with a random id, a conflict is
        with our own request, sent again by the session.
    """
    if error.status is None or error.status >= 500:
        return False
    return chosen or error.status != http.HTTPStatus.CONFLICT


def _command(made: Iterable[_Made]) -> str:
    return ' '.join(('openstack image delete', *(m.id for m in made)))
