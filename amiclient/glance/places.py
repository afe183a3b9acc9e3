# SPDX-License-Identifier: Apache-2.0

"""Where images are: clouds, and the regions of one.

Regions of a cloud have one Keystone, and so the same users and projects, but
each has a Glance of its own. Two clouds of clouds.yaml may still be the same
Glance, for two users.
"""

from collections.abc import Iterator
import dataclasses
import functools
import threading
from typing import TYPE_CHECKING

from amiclient.glance import client
from amiclient.glance import http_errors
from amiclient.glance import retry

if TYPE_CHECKING:
    from openstack.image.v2 import _proxy

#: Glance's names of what endpoints are for.
_INTERFACES = ('public', 'internal', 'admin')


@dataclasses.dataclass(frozen=True)
class CloudPlace:
    """A Glance, for one project.

    :param kind: ``region`` or ``cloud``; empty for where the options lead to.
    :param name: of the region, or of the cloud in clouds.yaml.
    :param proxy: openstacksdk's, for version 2 of the image service.
    """

    kind: str
    name: str
    proxy: '_proxy.Proxy'

    @property
    def title(self) -> str:
        """What to call it in a sentence."""
        return f'{self.kind} {self.name}'

    @property
    def option(self) -> tuple[str, str]:
        """How ``openstack ami copy`` is told of it."""
        return f'--to-{self.kind}', self.name

    def catalog(
        self, patience: retry.Patience, cancel: threading.Event | None = None
    ) -> client.Catalog:
        """Get its images.

        :param cancel: when set, waiting is given up.
        """
        clock = retry.Clock(cancel=cancel)
        return client.Catalog(self.proxy, patience=patience, clock=clock)

    @functools.cached_property
    def identity(self) -> tuple[str, str | None]:
        """What tells it from others: where it answers, and the project."""
        with http_errors.understood(f'asking for the {self.kind or "cloud"}'):
            where = self.proxy.get_endpoint() or ''
            return where.rstrip('/'), self.proxy.get_project_id()

    @functools.cached_property
    def keystone(self) -> str | None:
        """Where its Keystone answers; None if the login does not tell."""
        auth = self.proxy.auth or self.proxy.session.auth
        where: str | None = getattr(auth, 'auth_url', None)
        return where and where.rstrip('/').removesuffix('/v3')

    @functools.cached_property
    def region(self) -> str | None:
        """The region that it is in, by Keystone's name."""
        where, _ = self.identity
        named = self.proxy.region_name
        for region, url in _endpoints(self.proxy):
            if named in (None, region) and where.startswith(url.rstrip('/')):
                return region
        return None

    @property
    def interface(self) -> str:
        """The kind of endpoint that is used."""
        given = self.proxy.interface
        first = (
            given if isinstance(given, str) else next(iter(given or ()), '')
        )
        first = first.removesuffix('URL')
        return first if first in _INTERFACES else _INTERFACES[0]

    @functools.cached_property
    def regions(self) -> tuple[str, ...]:
        """The regions that have a Glance; none if the login does not tell."""
        return tuple(sorted({name for name, _ in _endpoints(self.proxy)}))


def _endpoints(proxy: '_proxy.Proxy') -> Iterator[tuple[str, str]]:
    """List the image services that Keystone knows: regions, and URLs."""
    auth = proxy.auth or proxy.session.auth
    if auth is None or not hasattr(auth, 'get_access'):
        return
    with http_errors.understood('reading the catalog of services'):
        services = auth.get_access(proxy.session).service_catalog
        found = services.get_endpoints_data(service_type='image')
        known = [
            (each.region_name, each.url)
            for endpoints in found.values()
            for each in endpoints
        ]
    yield from ((region, url) for region, url in known if region and url)
