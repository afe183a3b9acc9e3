# SPDX-License-Identifier: Apache-2.0

"""The place that a token is for, and no other.

keystoneauth follows redirects with all headers of the request, the token
among them; requests would take off ``Authorization`` alone. Whoever gets a
token can do what its user may. So no request follows a redirect to another
origin: scheme, host and port (RFC 6454, section 4).
"""

from typing import Any
import urllib.parse

import requests
from urllib3 import exceptions as urllib3_exceptions
from urllib3 import util

from amiclient import errors

_PORTS = {'http': 80, 'https': 443}

_NOWHERE = 'an address that makes no sense'


def keep(response: requests.Response, *_: object, **__: object) -> None:
    """Refuse to be sent to another origin; a hook of requests'.

    :raises CloudError: naming both.
    """
    location = response.headers.get('Location')
    if location is None or not 300 < response.status_code < 400:
        return
    try:
        target = urllib.parse.urljoin(response.url, location)
    except ValueError:
        target = ''
    here, there = _origin(response.url), _origin(target)
    if there != here:
        raise errors.CloudError(
            f'{here} redirects to {there}: another place, which gets no token',
            hint='if it is the right one, have the endpoint in the catalog, '
            'or in clouds.yaml, corrected',
            status=response.status_code,
        )
    # It may be relative, which keystoneauth does not expect.
    response.headers['Location'] = target


#: For :meth:`requests.Session.request`.
HOOKS: dict[str, Any] = {'response': keep}


def _origin(url: str) -> str:
    """Tell the origin, as what follows the redirect would see it."""
    try:
        # Whatever else reads URLs may see another host in some.
        found = util.parse_url(url)
    except urllib3_exceptions.LocationParseError:
        return _NOWHERE
    if not found.host:
        return _NOWHERE
    usual = found.port in (None, _PORTS.get(found.scheme or ''))
    port = '' if usual else f':{found.port}'
    return f'{found.scheme}://{found.host}{port}'
