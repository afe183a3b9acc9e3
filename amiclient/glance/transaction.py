#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.


"""Images that are all created, or not at all."""

from collections.abc import Iterable
import dataclasses
import http
import logging
import time
import types
import typing
import uuid

from amiclient import exceptions
from amiclient.glance import catalog as catalog_
from amiclient.glance import model
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


class Transaction:
    """Creates images, and removes them again unless all went well.

    Each has an id before it is created, so that it can be removed even if
    the answer to the request that creates it never comes.

    :param keep: whether images stay if something fails.
    """

    def __init__(self, catalog: catalog_.Catalog, *, keep: bool) -> None:
        self._catalog = catalog
        self._keep = keep
        self._made: list[_Made] = []

    def __enter__(self) -> typing.Self:
        return self

    def create(self, new: model.NewImage) -> model.ImageRecord:
        """Create an image, queued and unprotected.

        An image that is protected could not be removed any more: see
        :meth:`protect`.

        :raises CloudError: if the cloud refuses it.
        """
        made = _Made(id=new.id or str(uuid.uuid4()), name=new.name)
        self._made.append(made)
        try:
            record = self._catalog.create(
                dataclasses.replace(new, id=made.id, protected=None)
            )
        except exceptions.CloudError as error:
            if _refused(error, chosen=new.id is not None):
                self._made.remove(made)
            raise
        made.confirmed = True
        return record

    def protect(self, image_id: str) -> model.ImageRecord:
        """Protect one of the images, once it is complete.

        :raises CloudError: if the cloud refuses it.
        """
        for made in self._made:
            if made.id == image_id:
                made.protected = True
        return self._catalog.update(image_id, {'protected': True})

    def commit(self) -> None:
        """Say that all went well: from now on the images stay."""
        self._made = []

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        if error is None or not self._made:
            return
        if self._keep:
            LOG.warning(
                'kept what was created; this removes it: %s',
                _command(self._made),
            )
            return
        try:
            self._undo()
        except interrupts.Interrupted:
            # It came just before signals were ignored, and is the only one.
            self._undo()
        if not self._made:
            error.add_note('nothing was left behind')

    def _undo(self) -> None:
        # Nobody likes to wait for a network that is gone.
        catalog = self._catalog.within()
        with interrupts.ignored():
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

    def _remove(self, made: _Made, catalog: catalog_.Catalog) -> bool:
        problem: exceptions.CloudError | None = None
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(_PAUSE)
            try:
                self._delete(made, catalog)
                return True
            except exceptions.NotFoundError:
                if made.confirmed:
                    return True
                # Asked for but never answered, it may yet come to be.
                problem = None
            except exceptions.CloudError as error:
                problem = error
                if error.status is None:
                    # Nobody answers; each try could take minutes.
                    break
        if problem is not None:
            LOG.error('%s (%s): %s', made.name, made.id, problem)
        return problem is None

    def _delete(self, made: _Made, catalog: catalog_.Catalog) -> None:
        if made.protected:
            catalog.update(made.id, {'protected': False})
            made.protected = False
        catalog.delete(made.id)


def _refused(error: exceptions.CloudError, *, chosen: bool) -> bool:
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
