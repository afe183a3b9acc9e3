# SPDX-License-Identifier: Apache-2.0

"""Why a cloud refuses a change, where it only says that it does.

Glance tells a reader, somebody of another project and somebody who may not
publish the same: "You are not authorized to complete ... action".
"""

import http

from amiclient import exceptions
from amiclient.glance import catalog as catalog_
from amiclient.glance import errors
from amiclient.glance import model


def explained(
    error: exceptions.CloudError,
    image: model.ImageRecord,
    catalog: catalog_.Catalog,
) -> exceptions.CloudError:
    """Find a better hint for a refusal.

    :param error: what a change of an image, or deleting it, has raised.
    :returns: the same, if there is nothing to add.
    """
    if error.status == http.HTTPStatus.CONFLICT and 'in use' in error.message:
        hint = (
            'volumes or servers are clones of its data in the store: delete '
            'those first'
        )
    elif error.status != http.HTTPStatus.FORBIDDEN or (
        # What this needs is said already.
        'publicize_image' in error.message
    ):
        return error
    elif 'is protected' in error.message:
        hint = unprotect(image)
    elif image.owner != catalog.project():
        hint = (
            f'it belongs to the project {image.owner}: only members of that, '
            'or an administrator, can change it'
        )
    else:
        hint = errors.NO_ROLE
    return exceptions.CloudError(error.message, hint=hint, status=error.status)


def unprotect(image: model.ImageRecord) -> str:
    """Tell what to do about an image that is protected."""
    return f'unprotect it first: openstack image set --unprotected {image.id}'
