# SPDX-License-Identifier: Apache-2.0

"""What uploads that were killed have left in the cloud, and its removal.

A run that is killed, or whose host loses power, cannot undo anything. Its
images stay ``queued``, or ``saving`` until Glance notices that nobody sends
any more, with the mark of :mod:`amiclient.glance.upload.marks` on them. They
have no data, so nothing can be won by going on with them, and to remove an
image is something that two runs at once can do without harm.

An image of theirs that is ``active`` is complete: it is reused by its
content, if it is needed, and then loses the mark.
"""

from collections.abc import Iterable, Iterator
import logging
from typing import Any

from amiclient import errors
from amiclient.glance import client
from amiclient.glance import model
from amiclient.glance.upload import marks
from amiclient.glance.upload import request

LOG = logging.getLogger(__name__)


def find(
    catalog: client.Catalog,
    settings: request.Settings,
    *,
    but: model.ImageRecord | None = None,
) -> tuple[model.ImageRecord, ...]:
    """Find images without data that nobody is going to send any more.

    They belong to the project that the new images will belong to.

    :param but: one that is made use of.
    :raises CloudError: if the cloud does not answer as it should.
    """
    query: dict[str, Any] = {
        'status': 'in:queued,saving',
        'os_hidden': settings.hidden,
    }
    project = settings.owner or catalog.project()
    if project is not None:
        query['owner'] = project
    listed = catalog.images(**query)
    return tuple(
        image
        for image in listed
        if _is_orphan(image) and (but is None or image.id != but.id)
    )


def warnings(orphans: Iterable[model.ImageRecord]) -> Iterator[str]:
    """Say what is going to be removed, in one line if there is any."""
    ids = [image.id for image in orphans]
    if ids:
        yield (
            'an upload that was killed has left images without data, which '
            f'are removed first: {", ".join(ids)}'
        )


def remove(
    catalog: client.Catalog, orphans: Iterable[model.ImageRecord]
) -> None:
    """Remove what was found; say what could not be removed.

    Another run may be at it as well: may have removed it, or go on with it,
    which gives it a mark of that run. It may be minutes since it was found,
    so each is looked at again, right before. Glance has no request that does
    both at once.
    """
    for image in orphans:
        try:
            if _is_orphan(catalog.get(image.id)):
                catalog.delete(image.id)
            else:
                LOG.warning(
                    'image %s, which an upload that was killed had left, was '
                    'changed meanwhile, and stays',
                    image.id,
                )
        except errors.NotFoundError:
            continue
        except errors.CloudError as error:
            LOG.warning(
                'what an upload that was killed has left stays: %s', error
            )


def _is_orphan(image: model.ImageRecord) -> bool:
    """Tell whether an image has no data, and nobody is going to send it."""
    return image.status in ('queued', 'saving') and marks.is_left(image)


def clear(
    catalog: client.Catalog, record: model.ImageRecord
) -> model.ImageRecord:
    """Take the mark off an image that a killed run completed, if need be.

    :returns: the image as it is then.
    """
    if not marks.is_left(record):
        return record
    try:
        return catalog.update(
            record.id, {marks.PROPERTY: None}, present={marks.PROPERTY}
        )
    except errors.CloudError as error:
        # It may be another project's, and is of use as it is.
        LOG.debug('the mark stays on image %s: %s', record.id, error)
        return record
