# SPDX-License-Identifier: Apache-2.0

"""Which way the data of new images may go into a cloud.

There are two: it is written to a store (``PUT /file``), or staged and imported
(``PUT /stage``, ``POST /import``). Operators who want to look at all data
before it is stored forbid the former by policy (``upload_image``). And whoever
may not have data copied from one store to others can bring it to several only
by an import.

Glance tells no rights beforehand. But it checks the policy before the status
of the image (upload() in glance/api/v2/image_data.py), and an image that is
active takes no other data, whoever asks: PUT without a body is a conflict
(409) for those who may send data, and forbidden (403) for others. Neither
changes anything. This takes an image of the user's own project, for the
default policy forbids it for those of others. Where there is none, only the
first upload can find out, and goes the other way if it has to.

Glance writes an error to its log whenever it is asked like that. So only
``--dry-run`` asks.
"""

from typing import Any

from amiclient import errors
from amiclient.glance import client
from amiclient.glance import stores
from amiclient.glance.transfer import imports
from amiclient.glance.upload import request


def settle(catalog: client.Catalog, settings: request.Settings) -> str:
    """Find out which way data is going to go, as far as that can be known.

    :returns: ``never`` if it is written to a store, ``always`` if it is
        imported, ``auto`` if that turns out with the first upload.
    :raises CloudError: if no way is open.
    """
    imported = settings.imported
    if imported == 'always':
        _refuse_missing(catalog, '--import always', 'leave out --import')
        return imported
    if len(settings.stores) > 1 and not settings.may_copy:
        why = (
            f'you may not have data copied to the '
            f'{stores.named(settings.stores)}'
        )
        hint = 'give one --store, or ask an administrator'
        if imported == 'never':
            raise errors.CloudError(
                f'{why}, and --import never forbids to import it',
                hint='leave out --import',
            )
        _refuse_missing(catalog, why, hint)
        return 'always'
    may_send = _may_send(catalog) if settings.dry_run else None
    if may_send is None:
        return imported
    if may_send:
        return 'never'
    why = 'the cloud forbids to write data to a store (policy upload_image)'
    if imported == 'never':
        raise errors.CloudError(why, hint='leave out --import never')
    _refuse_missing(catalog, why, 'ask an administrator which way is open')
    return 'always'


def named(imported: str) -> str:
    """Name a way: ``put``, ``import``, or both if it is not known."""
    ways = {'never': 'put', 'always': 'import'}
    return ways.get(imported, 'put or import')


def _refuse_missing(catalog: client.Catalog, why: str, hint: str) -> None:
    methods = catalog.import_methods()
    if imports.DIRECT not in methods:
        known = ', '.join(methods) or 'none'
        raise errors.CloudError(
            f'{why}, and the cloud does not offer the import method '
            f'{imports.DIRECT}, only {known}',
            hint=hint,
        )


def _may_send(catalog: client.Catalog) -> bool | None:
    """Ask whether the user may write data to a store.

    :returns: None if that cannot be known.
    """
    project = catalog.project()
    own: dict[str, Any] = {'owner': project} if project else {}
    for filters in (own, {}):
        for image in catalog.images(status='active', limit=1, **filters):
            try:
                catalog.once(
                    'PUT',
                    f'/images/{image.id}/file',
                    'asking whether data can be written',
                    headers={'Content-Type': 'application/octet-stream'},
                    data=b'',
                )
            except errors.CloudError as error:
                if error.status == 409:
                    return True
                if error.status == 403 and image.owner == project:
                    return False
    return None
