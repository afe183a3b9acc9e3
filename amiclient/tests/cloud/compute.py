# SPDX-License-Identifier: Apache-2.0

"""A Nova that lists servers, and does nothing else.

A real one (Nova 34) has a hundred packages more than Keystone and Glance, and
before its API answers, it takes 20 s to make its databases and to be imported.
It also would list no server without all its other services, and Placement.

So Glance's process answers below ``/compute``, for tokens of the real
Keystone, whose catalog has it. The servers are in ``servers.json``, in the
cloud's directory; :mod:`amiclient.tests.cloud.cloud` writes it.
"""

from collections.abc import Callable, Iterable
import json
import os
import pathlib
from typing import Any
import urllib.parse

from glance.wsgi import api as glance
from keystonemiddleware import auth_token

_DIRECTORY = pathlib.Path(os.environ['OS_GLANCE_CONFIG_DIR']).parent

#: What filters a list, and the attributes of servers.json that it is for;
#: all but the first are for administrators.
_FILTERS = ('image', 'kernel_id', 'ramdisk_id')

_FORBIDDEN = (
    "Policy doesn't allow os_compute_api:servers:detail:get_all_tenants to be "
    'performed.'
)


def application(
    environ: dict[str, Any], start_response: Callable[..., Any]
) -> Iterable[bytes]:
    """Answer a request: as Nova, or as Glance."""
    if not environ['PATH_INFO'].startswith('/compute'):
        return glance.application(environ, start_response)
    if environ['PATH_INFO'].endswith('/servers/detail'):
        return _checked(environ, start_response)
    # Who looks for versions is told of none.
    return _say(start_response, '404 Not Found', {})


def _detail(
    environ: dict[str, Any], start_response: Callable[..., Any]
) -> Iterable[bytes]:
    """Answer ``GET /servers/detail``; nova.api.openstack.compute.servers."""
    query = dict(urllib.parse.parse_qsl(environ['QUERY_STRING']))
    is_admin = 'admin' in environ['HTTP_X_ROLES'].split(',')
    if 'all_tenants' in query and not is_admin:
        fault = {'code': 403, 'message': _FORBIDDEN}
        return _say(start_response, '403 Forbidden', {'forbidden': fault})
    project = None
    if 'all_tenants' not in query:
        project = environ['HTTP_X_PROJECT_ID']
    found = [
        _shown(server, is_admin=is_admin)
        for server in json.loads((_DIRECTORY / 'servers.json').read_text())
        if project in (None, server['tenant_id'])
        and all(
            query.get(key) in (None, server.get(key))
            for key in _FILTERS[: None if is_admin else 1]
        )
    ]
    if 'marker' in query:
        ids = [server['id'] for server in found]
        found = found[ids.index(query['marker']) + 1 :]
    limit = int(query['limit'])
    body: dict[str, Any] = {'servers': found[:limit]}
    if len(found) >= limit:
        body['servers_links'] = [{'rel': 'next', 'href': 'http://...'}]
    return _say(start_response, '200 OK', body)


def _shown(server: dict[str, str], *, is_admin: bool) -> dict[str, Any]:
    image = server.get('image')
    shown: dict[str, Any] = {
        **{key: server[key] for key in ('id', 'name', 'tenant_id')},
        'status': 'ACTIVE',
        'image': {'id': image, 'links': []} if image else '',
    }
    if is_admin:
        for key in _FILTERS[1:]:
            shown[f'OS-EXT-SRV-ATTR:{key}'] = server.get(key, '')
    return shown


def _say(
    start_response: Callable[..., Any], status: str, body: Any
) -> Iterable[bytes]:
    content = json.dumps(body).encode()
    length = ('Content-Length', str(len(content)))
    start_response(status, [('Content-Type', 'application/json'), length])
    return [content]


def _check(application: Callable[..., Any]) -> Callable[..., Any]:
    """Put what checks tokens in front, as Glance does."""
    state = json.loads((_DIRECTORY / 'cloud.json').read_text())
    url = f'http://127.0.0.1:{state["keystone"]}/v3'
    return auth_token.AuthProtocol(
        application,
        {
            'www_authenticate_uri': url,
            'auth_url': url,
            'auth_type': 'password',
            'username': 'glance',
            'password': state['password'],
            'project_name': 'service',
            'user_domain_id': 'default',
            'project_domain_id': 'default',
        },
    )


_checked = _check(_detail)
