# SPDX-License-Identifier: Apache-2.0

"""Images that a name may stand for."""

from collections.abc import Iterator, Sequence

from amiclient import errors
from amiclient.glance import model

#: So many are listed when a name is ambiguous.
_LISTED = 5


def only(found: Sequence[model.ImageRecord], name: str) -> model.ImageRecord:
    """Take the only image that has a name.

    :param found: those that have it.
    :raises NotFoundError: if there is none.
    :raises CloudError: if there are several, listing what tells them apart.
    """
    if not found:
        raise errors.NotFoundError(
            f'no image has the name or id {name!r}',
            hint='see `openstack image list`; those of other projects have to '
            'be shared with yours',
        )
    if len(found) > 1:
        some = ', '.join(
            f'{image.id} ({", ".join(_traits(image))})'
            for image in found[:_LISTED]
        )
        more = len(found) - _LISTED
        if more > 0:
            some += f' and {more} more'
        raise errors.CloudError(
            f'{len(found)} images are named {name!r}: {some}',
            hint='give the id of one',
        )
    return found[0]


def _traits(image: model.ImageRecord) -> Iterator[str]:
    yield image.role or image.disk_format or 'no format'
    if image.hidden:
        yield 'hidden'
    yield image.status
    if image.created_at:
        yield f'created {image.created_at:%F %R}'
