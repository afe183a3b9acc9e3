# SPDX-License-Identifier: Apache-2.0

"""Why a cloud refuses a change, where it only says that it does.

Glance tells a reader, somebody of another project and somebody who may not
publish the same: "You are not authorized to complete ... action".
"""

import http

from amiclient.errors import CloudError
from amiclient.glance import client
from amiclient.glance import http_errors
from amiclient.glance import model


def explained(
    error: CloudError,
    image: model.ImageRecord,
    catalog: client.Catalog,
) -> CloudError:
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
        hint = http_errors.NO_ROLE
    return CloudError(error.message, hint=hint, status=error.status)


def unprotect(image: model.ImageRecord) -> str:
    """Tell what to do about an image that is protected."""
    return f'unprotect it first: openstack image set --unprotected {image.id}'
