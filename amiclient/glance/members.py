# SPDX-License-Identifier: Apache-2.0

"""The projects that an image is shared with.

Glance lets only images of visibility ``shared`` have members, but remembers
those of an image that is made private or public: they are back when it is
shared again, and cannot be asked for until then.
"""

import dataclasses
import http
import urllib.parse

from amiclient import errors
from amiclient.glance import client
from amiclient.glance import model


@dataclasses.dataclass(frozen=True)
class Member:
    """A project that an image is shared with.

    :param project: its id.
    :param status: ``accepted``, ``pending`` or ``rejected``. Whatever it is,
        the project can boot the image by its id; lists show accepted ones.
    """

    project: str
    status: str


def of(
    catalog: client.Catalog, image: model.ImageRecord
) -> tuple[Member, ...]:
    """Tell whom an image is shared with.

    Another project's image tells only that it is shared with the user's.

    :returns: none, without a request, of an image that cannot have any.
    :raises CloudError: if the cloud does not answer as it should.
    """
    if image.visibility != 'shared':
        return ()
    body = catalog.request(
        'GET',
        _url(image.id),
        'a list of members',
        f'asking who shares image {image.id}',
    )
    return tuple(
        Member(member.word('member_id'), member.word('status'))
        for member in body.objects('members', 'a member')
    )


def projects(
    catalog: client.Catalog, image: model.ImageRecord
) -> frozenset[str]:
    """Tell the ids of the projects that an image is shared with."""
    return frozenset(member.project for member in of(catalog, image))


def add(catalog: client.Catalog, image_id: str, project: str) -> None:
    """Share an image with a project; it may be shared with it already.

    :param project: its id, which Glance does not look up.
    :raises CloudError: if the cloud refuses.
    """
    try:
        added = catalog.request(
            'POST',
            _url(image_id),
            'a member',
            f'sharing image {image_id} with {project}',
            json={'member': project},
        )
    except errors.CloudError as error:
        if error.status != http.HTTPStatus.CONFLICT:
            raise
    else:
        if added.word('member_id') != project:
            added.refuse('it is another project')


def remove(catalog: client.Catalog, image_id: str, project: str) -> None:
    """Share an image with a project no longer; it may not have been.

    :raises CloudError: if the cloud refuses.
    """
    try:
        catalog.repeat(
            lambda _: catalog.remove(
                f'{_url(image_id)}/{urllib.parse.quote(project, safe="")}',
                f'sharing image {image_id} with {project} no longer',
            )
        )
    except errors.NotFoundError:
        # Then it is as it was to be, unless the image is gone.
        catalog.get(image_id)


def _url(image_id: str) -> str:
    return f'/images/{image_id}/members'
